"""A product in a PIM memory as a loop nest, with what lies where at each level."""

from __future__ import annotations

from neardata.arch.dram import Device
from neardata.mappers.layout import AimWeights, AttAccWeights, HbmPimWeights, layout_of
from neardata.sim.program import PimMatMul
from neardata.sim.system.pim_programs import partial_sum_bytes, with_order


def product_nest(kernel: PimMatMul, device: Device, channels: int) -> list[str]:
    """Loops from the outermost, one a line.

    >>> from neardata.arch.dram import load_device
    >>> kernel = PimMatMul(1, 4096, 14336, "input-stationary", channels=32, k_parts=4, reduction="processor")
    >>> print("\\n".join(product_nest(kernel, load_device("gddr6-aim"), 32)))
    for part in 4 of k, side by side: 3,584 inputs and 8 channels each
      for channel in 8, side by side: blocks of 16 outputs in turn
        for bank in 16, side by side: an output each
          for v in 1 vectors
            for s in 4 segments of k: up to 64 bursts of x into the global buffer
              for p in 32 passes: a row opened
                for c in 64 bursts: 16 products of w in the row and x in the buffer
    processor: adds 4 partial sums of each output, 32,768 bytes
    """
    kernel = with_order(kernel, device, channels)
    used = kernel.channels or channels
    each, part = used // kernel.k_parts, max(stop - start for start, stop in kernel.parts)
    loops = []
    if kernel.k_parts > 1:
        loops.append(
            f"for part in {kernel.k_parts} of k, side by side: {part:,} inputs and {each} channels each"
        )
    layout = layout_of(kernel.n, part, device, each, own_rows=kernel.own_rows)
    match layout:
        case AimWeights():
            loops += _aim(kernel, layout)
        case HbmPimWeights():
            loops += _hbm_pim(kernel, layout)
        case AttAccWeights():
            loops += _attacc(kernel, layout)
    lines = [f"{'  ' * i}{line}" for i, line in enumerate(loops)]
    if kernel.k_parts > 1:
        size = partial_sum_bytes(kernel, device)
        lines.append(f"{kernel.reduction}: adds {kernel.k_parts} partial sums of each output, {size:,} bytes")
    if used < channels:
        lines.append(f"channels without work: {channels - used} of {channels}")
    return lines


def _aim(kernel: PimMatMul, layout: AimWeights) -> list[str]:
    tiling = layout.tiling
    passes = -(-kernel.n // (16 * layout.channels))
    share = min(tiling.share, passes)
    together = f" for {share} passes" if share > 1 else ""
    vector = f"for v in {kernel.m:,} vectors"
    segment = f"for s in {tiling.segments:,} segments of k"
    one = f"for p in {passes:,} passes"
    bursts = min(tiling.bursts, tiling.columns)
    load = f"up to {bursts} bursts of x into the global buffer"
    opened = f"a row opened{together}"
    nests = {
        "output-stationary": [vector, one, f"{segment}: {load}, a row opened"],
        "input-stationary": [vector, f"{segment}: {load}", f"{one}: {opened}"],
        "row-stationary": [one, f"{segment}: {opened}", f"{vector}: {load}"],
    }
    return [
        f"for channel in {layout.channels}, side by side: blocks of 16 outputs in turn",
        "for bank in 16, side by side: an output each",
        *nests[kernel.order],
        f"for c in {bursts} bursts: 16 products of w in the row and x in the buffer",
    ]


def _hbm_pim(kernel: PimMatMul, layout: HbmPimWeights) -> list[str]:
    tiles = -(-kernel.n // (64 * layout.channels))
    return [
        f"for channel in {layout.channels}, side by side: blocks of 64 outputs in turn",
        "for unit in 8, side by side: 8 outputs each, of two banks",
        f"for v in {kernel.m:,} vectors",
        f"for t in {tiles:,} tiles of outputs: sums in the registers, written to a row behind them",
        f"for i in {-(-layout.k // 128):,} tiles of 128 inputs: 8 bursts of x into the registers",
        "for c in 64 bursts of two rows: 16 products of w in the row and x in a register",
    ]


def _attacc(kernel: PimMatMul, layout: AttAccWeights) -> list[str]:
    tiling = layout.tiling
    lines = -(-kernel.n // (16 * layout.channels))
    blocks = -(-lines // 16)
    vector = f"for v in {kernel.m:,} vectors"
    block = f"for b in {blocks:,} blocks of up to 16 lines"
    segment = f"for s in {tiling.segments:,} segments of k: up to 2 KB of x into the vector buffers"
    inner = [block, segment] if kernel.order == "output-stationary" else [segment, block]
    return [
        f"for channel in {layout.channels}, side by side: lines of 16 outputs in turn",
        "for bank group in 16, side by side: an output of a line each",
        vector,
        *inner,
        f"for line in {min(lines, 16)}",
        f"for part in up to {min(tiling.parts, 32)} of 64 inputs: 16 products in each of 4 banks",
    ]
