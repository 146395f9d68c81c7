"""Kernels on a processor in closed form: a roofline with tiles, waves, caches and launches.

The time of a kernel is ``launch + longer + exposed * shorter`` of what its units and its memory
take. Units take the fastest of the output tiles their kernels come in: tiles are spread over the
units in waves, the last of them partly filled; long inner products may be split over more tiles.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from neardata.arch.errors import InputError, nearest
from neardata.arch.processor import Processor
from neardata.sim.processor.cost import Cost, kernel_cost, slowdown

_SPLITS = (1, 2, 4, 8)
"""Parts that a long inner product may be split into; their sums are added through the cache."""
_SPLIT_WAVES = 4
"""Waves that a split may make at most."""
_SUM_BYTES = 8
"""A partial sum in fp32, written and read."""
_BITS = {
    "fp64": 64, "fp32": 32, "tf32": 32, "int32": 32, "fp16": 16, "bf16": 16, "int16": 16, "fp8": 8,
    "int8": 8, "int4": 4, "int3": 3, "int2": 2,
}  # fmt: skip
_ELEMENTWISE_SHARE = 3
"""The last cache is shared by what a kernel reads, what it writes and what its producer read."""
_WRITE_READS = 2
"""Reads from the last cache that take as long as a write into it. Calibrated: chosen after a look at
the element-wise layers of Llama-3.1-8B on an RTX PRO 6000, of which those of up to 40 MB run at half
the read rate; these rows, and with them the form of attention, validate nothing."""


class StoredFormat(Protocol):
    """How weights are kept, with the scales of groups."""

    def bytes_of(self, elements: int, row: int | None = None) -> int:
        """Bytes of ``elements`` numbers in rows of ``row``."""
        ...


def element_bits(dtype: str) -> int:
    """Bits of a number.

    Raises:
        InputError: no such type.
    """
    if dtype not in _BITS:
        raise InputError(f"unknown number format '{dtype}'{nearest(dtype, _BITS)}")
    return _BITS[dtype]


def stored_bytes(form: StoredFormat | str, elements: int, row: int) -> int:
    """Bytes of numbers in a format, or in plain elements of a type."""
    if isinstance(form, str):
        return -(-elements * element_bits(form) // 8)
    return form.bytes_of(elements, row)


def matmul(
    processor: Processor,
    m: int,
    n: int,
    k: int,
    *,
    batch: int = 1,
    weight_format: StoredFormat | str = "fp16",
    activation_dtype: str = "fp16",
    output_dtype: str | None = None,
) -> Cost:
    """``y[m, n] = x[m, k] w[n, k]``, ``batch`` times with as many weights.

    Weights narrower than the activations are widened on the way in, at no cost but their bytes.

    Args:
        processor: where it runs.
        m: rows of the activations.
        n: outputs.
        k: inputs.
        batch: such products in one kernel.
        weight_format: a type, or a format with scales.
        activation_dtype: type of the activations and of the arithmetic.
        output_dtype: type of the result (default: that of the activations).

    Raises:
        InputError: a size below 1, a type the processor has no arithmetic for.

    >>> from neardata.arch.processor import load_processor
    >>> cost = matmul(load_processor("a100-80gb"), 1, 4096, 4096)
    >>> cost.bound, cost.memory_bytes, cost.roofline_ps
    ('memory', 33570816, 16464353)
    """
    _positive(m=m, n=n, k=k, batch=batch)
    weights = batch * stored_bytes(weight_format, n * k, k)
    return _products(
        processor, ((m, batch),), n, k, weights, activation_dtype, output_dtype or activation_dtype
    )


def convolution(
    processor: Processor,
    m: int,
    n: int,
    k: int,
    input_elements: int,
    *,
    activation_dtype: str = "tf32",
) -> Cost:
    """A convolution as its implicit product ``y[m, n] = x[m, k] w[n, k]``: the arithmetic of the
    product, but each element of the map it reads comes from the memory once.

    Args:
        processor: where it runs.
        m: positions of the output, of all images.
        n: output channels.
        k: input channels times positions of the kernel.
        input_elements: of the map.
        activation_dtype: of maps, weights and arithmetic.

    Raises:
        InputError: a size below 1, a type the processor has no arithmetic for.

    >>> from neardata.arch.processor import load_processor
    >>> gpu = load_processor("a100-40gb")
    >>> convolution(gpu, 56 * 56, 64, 9 * 64, 64 * 56 * 56).memory_bytes == 4 * (2 * 64 * 56**2 + 64 * 576)
    True
    """
    _positive(m=m, n=n, k=k, input_elements=input_elements)
    weights = stored_bytes(activation_dtype, n * k, k)
    return _products(processor, ((m, 1),), n, k, weights, activation_dtype, activation_dtype, input_elements)


def expert_matmul(
    processor: Processor,
    tokens: Sequence[int],
    n: int,
    k: int,
    *,
    weight_format: StoredFormat | str = "fp16",
    activation_dtype: str = "fp16",
    output_dtype: str | None = None,
) -> Cost:
    """One grouped kernel: ``tokens[e]`` rows times the weights of expert ``e``.

    Weights of experts without tokens are not read.

    Raises:
        InputError: a size below 1, a negative number of tokens, no tokens at all, a type the
            processor has no arithmetic for.

    >>> from neardata.arch.processor import load_processor
    >>> gpu = load_processor("a100-80gb")
    >>> expert_matmul(gpu, (1, 0, 3), 1024, 1024).memory_bytes - 4 * 4096
    4194304
    """
    _positive(n=n, k=k)
    if tokens and min(tokens) < 0:
        raise InputError(f"tokens of an expert must not be negative, got {min(tokens)}")
    rows = Counter(tokens)
    rows.pop(0, None)
    if not rows:
        raise InputError("no expert has tokens")
    weights = sum(rows.values()) * stored_bytes(weight_format, n * k, k)
    return _products(
        processor, tuple(rows.items()), n, k, weights, activation_dtype, output_dtype or activation_dtype
    )


def elementwise(
    processor: Processor,
    read_bytes: int,
    write_bytes: int,
    operations: int = 0,
    launches: int = 1,
    *,
    cached: bool = True,
    memory_bytes: int = 0,
    rows: int = 0,
) -> Cost:
    """Norms, activations, gathers: bytes streamed past the vector units.

    Args:
        processor: where it runs.
        read_bytes: input.
        write_bytes: output.
        operations: fp32 operations.
        launches: kernels.
        cached: a producer just wrote the input: of all bytes, those that fit a third of the last
            cache go to it and not to the memory.
        memory_bytes: of all bytes, those that come from or go to the memory whatever the cache holds.
        rows: reduced one by one, each by a block of its own (the processor's ``row_ns``).

    Raises:
        InputError: a negative number, more bytes of memory than bytes, no launch.

    >>> from neardata.arch.processor import load_processor
    >>> elementwise(load_processor("a100-80gb"), 8192, 8192).bound
    'launch'
    """
    _positive(launches=launches)
    if min(read_bytes, write_bytes, operations, memory_bytes, rows) < 0:
        raise InputError("bytes, operations and rows must not be negative")
    moved = read_bytes + write_bytes
    if memory_bytes > moved:
        raise InputError(f"{memory_bytes} bytes of memory are more than the {moved} read and written")
    cache = processor.cache
    hits = min(moved - memory_bytes, cache.bytes // _ELEMENTWISE_SHARE) if cached and cache else 0
    compute = processor.compute
    peak = compute.vector_tflops
    rows_ps = rows * compute.row_ns.value * 1000 / compute.units if compute.row_ns else 0.0
    cache_ps = 0.0
    if cache:
        crossing = read_bytes + _WRITE_READS * write_bytes
        cache_ps = crossing * 1000 / (cache.gb_per_s * processor.efficiency.memory.value)
    return kernel_cost(
        processor,
        flops=operations,
        memory_bytes=moved - hits,
        peak_ops_per_ps=peak,
        pj_per_operation=processor.vector_pj_per_operation,
        compute_ps=max(operations / peak, rows_ps),
        cache_ps=cache_ps,
        cache_bytes=moved if cache else 0,
        launches=launches,
        launch_ns=compute.elementwise_ns,
    )


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{name} must be at least 1, got {size}")


def _products(
    processor: Processor,
    products: tuple[tuple[int, int], ...],
    n: int,
    k: int,
    weight_bytes: int,
    activation_dtype: str,
    output_dtype: str,
    input_elements: int | None = None,
) -> Cost:
    """``products``: rows, and how many products have as many; ``input_elements`` that the memory gives,
    if not all of the rows."""
    peak = processor.peak_ops_per_ps(activation_dtype)
    width = element_bits(activation_dtype) / 8
    rows = sum(m * count for m, count in products)
    units, cache = processor.compute.units, processor.cache
    given = rows * k if input_elements is None else input_elements
    activation_bits = given * element_bits(activation_dtype) + rows * n * element_bits(output_dtype)
    memory_bytes = weight_bytes + -(-activation_bits // 8)
    memory_ps = memory_bytes / (processor.memory_bytes_per_ps * processor.efficiency.memory.value)
    unit = processor.memory.unit_gb_per_s
    compute_ps, cache_ps, cache_bytes, blocks = _fastest_tiles(
        processor.compute.tiles,
        units,
        peak * processor.efficiency.matrix.value / units,
        cache.gb_per_s / 1000 if cache else float("inf"),
        products,
        n,
        k,
        width,
        _SPLITS if processor.compute.splits else (1,),
        memory_ps * processor.memory.gb_per_s / unit if unit else 0.0,
    )
    return kernel_cost(
        processor,
        flops=2 * rows * n * k,
        memory_bytes=memory_bytes,
        peak_ops_per_ps=peak,
        pj_per_operation=processor.pj_per_operation(activation_dtype),
        compute_ps=compute_ps,
        cache_ps=cache_ps,
        cache_bytes=cache_bytes,
        occupancy=slowdown(processor, blocks),
    )


@functools.lru_cache(maxsize=4096)
def _fastest_tiles(
    tile_shapes: tuple[tuple[int, int], ...],
    units: int,
    unit_peak: float,
    cache_rate: float,
    products: tuple[tuple[int, int], ...],
    n: int,
    k: int,
    width: float,
    splits: tuple[int, ...],
    unit_memory_ps: float,
) -> tuple[float, float, float, int]:
    """Arithmetic time, cache time, cache bytes and blocks of the tiling that takes the least.

    Rates are in operations and bytes per ps; ``width`` is the bytes of an operand, ``unit_memory_ps``
    the memory's time if one unit drew all of it (0: any unit can at the memory's rate).
    """
    rows = sum(m * count for m, count in products)
    best = (float("inf"), 0.0, 0.0, 0.0, 1)
    for tile_m, tile_n in tile_shapes:
        tiles = sum(-(-m // tile_m) * count for m, count in products) * -(-n // tile_n)
        deep_ps = 2 * tile_m * tile_n / unit_peak
        deep_bytes = (tile_m + tile_n) * width
        for split in splits:
            parts = tiles * split
            if split > 1 and (parts > _SPLIT_WAVES * units or k < 2 * split):
                break
            depth = -(-k // split)
            waves = -(-parts // units)
            sums_bytes = _SUM_BYTES * split * rows * n if split > 1 else 0
            sums_ps = sums_bytes / cache_rate
            compute_ps = waves * depth * deep_ps + sums_ps
            cache_ps = waves * min(parts, units) * depth * deep_bytes / cache_rate + sums_ps
            longer = compute_ps if compute_ps > cache_ps else cache_ps
            drawn_ps = unit_memory_ps * waves / parts
            if drawn_ps > longer:
                longer = drawn_ps
            if longer < best[0]:
                best = (longer, compute_ps, cache_ps, parts * depth * deep_bytes + sums_bytes, parts)
    return best[1:]
