"""GDDR6-AiM: attention of one new position of each sequence, as two products with a softmax between.

``scores``: blocks of 16 positions, one a bank, go round robin over the channels. The keys of as many heads
as fit lie side by side in a row (PIM-GPT's concatenated heads, arXiv 2310.09385), and their queries
side by side in the global buffer: an open row serves all of them. Scores are read out.
``values``: the values lie transposed, 16 columns of a head a block and a row for 1024 positions, so that
the accumulators run over positions. The probabilities are written to the global buffer.
Blocks of a head stay together where there are more of them than channels, because each channel loads the
probabilities of the heads that it has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from neardata.arch.dram import Device
from neardata.arch.errors import InputError
from neardata.sim.dram.aim import BANKS, LANES
from neardata.sim.dram.aim_matmul import (
    Emitter,
    Order,
    Steps,
    Tiling,
    check_rows,
    cycles_of_order,
    refresh_policy,
)
from neardata.sim.dram.program import ChannelGroup, Program, RefreshPolicy, Step
from neardata.sim.dram.steps import classes, rounds, steps

Work = tuple[tuple[int, Tiling, int], ...]
"""Of a channel and stage: passes that share the vectors, their tiling, how many such."""


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
) -> Program:
    """Attention over keys and values in the banks.

    Args:
        context: positions of each sequence.
        group: query heads of a key-value head.
        qk, v: widths of a head's keys and values.
        stages: which of ``scores`` and ``values``.

    Raises:
        InputError: keys and values larger than the banks, keys wider than a row.
    """
    columns = device.bursts_per_row
    if qk > columns * LANES:
        raise InputError(f"keys of {qk} values do not fit in a row of {columns * LANES}", key="qk")
    work = Counter(
        (
            _key_work(context, kv_heads, qk, columns, channel, channels),
            _value_work(context, kv_heads, v, columns, channel, channels),
        )
        for channel in range(channels)
    )
    groups: list[ChannelGroup] = []
    policies: set[RefreshPolicy | None] = set()
    for (keys, values), count in work.items():
        value_row = sum(n * tiling.rows(passes) for passes, tiling, n in keys)
        rows = value_row + sum(n * tiling.rows(passes) for passes, tiling, n in values)
        check_rows(rows, device, channels, f"keys and values of {sum(context)} positions")
        body: tuple[Step, ...] = ()
        for stage, jobs, row in (("scores", keys, 0), ("values", values, value_row)):
            if stage not in stages or not jobs:
                continue
            made, policy = _stage(stage, jobs, row, group, device)
            body += made
            policies |= policy
        if body:
            groups.append(ChannelGroup(count, body))
    refresh: RefreshPolicy | None = "close-reopen" if "close-reopen" in policies else None
    return Program(device.name, tuple(groups), "attention " + " and ".join(stages), refresh=refresh)


def _key_work(
    context: Sequence[int], kv_heads: int, qk: int, columns: int, channel: int, channels: int
) -> Work:
    side_by_side = min(columns // -(-qk // LANES), kv_heads)
    whole, rest = divmod(kv_heads, side_by_side)
    jobs = []
    passes = rounds((-(-length // BANKS) for length in context), channel, channels)
    for n, sequences in classes(passes):
        for heads, times in ((side_by_side, whole), (rest, 1)):
            if n and heads and times:
                jobs.append((n * heads, Tiling(qk, columns, heads), sequences * times))
    return tuple(jobs)


def _value_work(
    context: Sequence[int], kv_heads: int, v: int, columns: int, channel: int, channels: int
) -> Work:
    blocks = -(-v // BANKS)
    together = max(min(-(-len(context) * kv_heads * blocks // channels), blocks), 1)
    whole, rest = divmod(blocks, together)
    runs = [
        (passes, bursts, sequences * kv_heads * times)
        for bursts, sequences in classes(-(-length // LANES) for length in context)
        for passes, times in ((together, whole), (rest, 1))
        if passes and times
    ]
    turns = rounds((count for _, _, count in runs), channel, channels)
    return tuple(
        (passes, Tiling(bursts * LANES, columns), mine)
        for (passes, bursts, _), mine in zip(runs, turns, strict=True)
        if mine
    )


@lru_cache(maxsize=256)
def _stage(
    stage: str, jobs: Work, row: int, group: int, device: Device
) -> tuple[tuple[Step, ...], set[RefreshPolicy | None]]:
    emit = Emitter(device, stage)
    body: Steps = []
    policies: set[RefreshPolicy | None] = set()
    for passes, tiling, count in jobs:
        order = order_of(stage, group, passes, tiling, device)
        rows = tiling.rows(passes)
        visits = emit.visits(group, passes, tiling, order, f"{row} + {rows}*h")
        body.append({"loop": {"h": count}, "body": visits})
        row += count * rows
        open_visits = min(tiling.share, passes) * (group if order == "row-stationary" else 1)
        policies.add(refresh_policy(device, open_visits, tiling))
    return steps([{"phase": stage, "body": emit.between_idle(body)}]), policies


def order_of(stage: str, group: int, passes: int, tiling: Tiling, device: Device) -> Order:
    """Of the visits of a job, the fastest. Heads that share a row are loaded together, so that keys have no
    output-stationary order."""
    orders: tuple[Order, ...] = ("input-stationary", "row-stationary")
    if stage == "values":
        orders = ("output-stationary", *orders)
    return min(orders, key=lambda order: cycles_of_order(order, group, passes, tiling, device))
