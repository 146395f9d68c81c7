"""HBM-PIM: attention of one new position of each sequence, as two products with a softmax between.

``scores``: blocks of 64 positions of a head's keys go round robin over the pseudo-channels, over all
sequences and heads; each is multiplied with the queries of its group, one after the other.
``values``: blocks of 64 columns of a head's values, transposed, so that sums run over positions, which are
padded to 128. The host reads the scores, and writes the probabilities as it writes any input. Where there are
fewer blocks of values than pseudo-channels, positions are cut into parts, as many as keep all busy; the host
adds their sums, as it adds those of lanes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from neardata.arch.dram import Device
from neardata.sim.dram.hbm_pim import Fence, weight_rows
from neardata.sim.dram.hbm_pim_matmul import (
    TILE_INPUTS,
    TILE_OUTPUTS,
    TILES_IN_A_ROW,
    check_rows,
    product,
)
from neardata.sim.dram.program import ChannelGroup, Program, Step
from neardata.sim.dram.steps import classes, rounds


def attention(
    context: Sequence[int],
    group: int,
    kv_heads: int,
    qk: int,
    v: int,
    *,
    channels: int,
    device: Device,
    stages: Sequence[str] = ("scores", "values"),
    fence: Fence = "order",
) -> Program:
    """Attention over keys and values in the banks.

    Args:
        context: positions of each sequence.
        group: query heads of a key-value head.
        qk, v: widths of a head's keys and values.
        stages: which of ``scores`` and ``values``.

    Raises:
        InputError: keys and values larger than the rows below the reserved ones.
    """
    key_tiles = sum(kv_heads * -(-length // TILE_OUTPUTS) for length in context)
    value_tiles = _value_tiles(context, kv_heads * -(-v // TILE_OUTPUTS), channels)
    work = Counter(
        rounds([key_tiles], channel, channels)
        + rounds((of_all for _, of_all in value_tiles), channel, channels)
        for channel in range(channels)
    )
    key_inputs = -(-qk // TILE_INPUTS)
    inputs = [key_inputs, *(value_inputs for value_inputs, _ in value_tiles)]
    stage_of = ["scores", *["values"] * len(value_tiles)]
    groups = []
    for tiles, count in work.items():
        rows = [weight_rows(t, i) for t, i in zip(tiles, inputs, strict=True)]
        results = sum(rows)
        most = max(-(-t // TILES_IN_A_ROW) for t in tiles)
        check_rows(results + most, channels, f"keys and values of {sum(context)} positions")
        body: tuple[Step, ...] = ()
        for n, (stage, number) in enumerate(zip(stage_of, tiles, strict=True)):
            if number and stage in stages:
                body += product(group, number, inputs[n], sum(rows[:n]), results, fence, stage)
        if body:
            groups.append(ChannelGroup(count, body))
    return Program(device.name, tuple(groups), "attention " + " and ".join(stages))


def _value_tiles(context: Sequence[int], blocks: int, channels: int) -> list[tuple[int, int]]:
    """Input tiles of a part of a block of values, and how many such parts there are, the largest first.

    >>> _value_tiles([300, 300, 100], 2, 64)     # 3 + 3 + 1 tiles of positions, 10 parts at most
    [(1, 14)]
    """
    most = max(channels // (len(context) * blocks), 1)
    sizes: list[int] = []
    for length in context:
        tiles = -(-length // TILE_INPUTS)
        parts = min(most, tiles)
        each, more = divmod(tiles, parts)
        sizes += [each + 1] * more + [each] * (parts - more)
    return [(size, count * blocks) for size, count in classes(sizes)]
