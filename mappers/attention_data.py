"""Attention in the banks of GDDR6-AiM on data: `aim_attention_on_data`.

Where keys and values lie is written down here, apart from `neardata.sim.dram.aim_attention`, whose
command programs work on it: blocks of 16 positions of keys, one a bank, go round robin over the channels,
as many heads as fit side by side in a row; blocks of 16 columns of a head's values, transposed, go round
with their positions along the rows. Sequences lie by their number of blocks in a channel, the most first,
and in their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neardata.arch.dram import Device
from neardata.mappers.bank_data import AimChannel, DataError, aim_visits, walk
from neardata.sim.dram.aim_attention import order_of
from neardata.sim.dram.aim_matmul import Tiling
from neardata.sim.dram.program import Program
from neardata.sim.program import PimAttention

Numbers = NDArray[Any]
LANES = BANKS = 16


@dataclass
class _Set:
    """Passes that share vectors, in rows of their own."""

    tiling: Tiling
    weights: Numbers
    """(passes, 16, inputs): of each pass, what each bank holds."""
    vectors: Numbers
    """(vectors, heads side by side, inputs)."""
    outputs: list[tuple[Any, ...]]
    """Of each pass, where in the result its 16 sums go, behind the vector."""

    @property
    def rows(self) -> int:
        return self.tiling.rows(len(self.weights))

    def store(self, data: Numbers, first: int) -> None:
        """Into the banks, from a row on."""
        tiling = self.tiling
        for p, matrix in enumerate(self.weights):
            row, beside = divmod(p, tiling.share)
            padded = np.pad(matrix, ((0, 0), (0, tiling.bursts * LANES - matrix.shape[1])))
            for number, burst in enumerate(padded.reshape(BANKS, -1, LANES).swapaxes(0, 1)):
                segment, column = divmod(number, tiling.columns)
                at = first + row * tiling.segments + segment
                data[:, :, at, beside * tiling.bursts + column] = burst.reshape(4, 4, LANES)

    def visits(self, order: str, sums: Numbers) -> Iterator[Any]:
        width = self.tiling.bursts * LANES
        padded = np.pad(self.vectors, ((0, 0), (0, 0), (0, width - self.vectors.shape[2])))
        return aim_visits(padded.reshape(*padded.shape[:2], -1, LANES), sums, self.tiling, order)  # type: ignore[arg-type]


def aim_attention_on_data(
    kernel: PimAttention,
    programs: tuple[Program, Program],
    device: Device,
    channels: int,
    queries: Numbers,
    keys: Sequence[Numbers],
    values: Sequence[Numbers],
) -> Numbers:
    """What the programs of both stages compute from keys and values in the banks, with a softmax between.

    Args:
        programs: of the kernel's ``scores`` and ``values``, by `neardata.sim.system.pim_programs.program_of`.
        queries: (sequences, heads, qk).
        keys, values: of each sequence, (positions, kv_heads, qk) and (positions, kv_heads, v).

    Returns:
        (sequences, heads, v).

    Raises:
        DataError: a program that does not do what its kernel says.
    """
    scores = [np.zeros((kernel.heads, -(-length // BANKS) * BANKS)) for length in kernel.context]
    results = [np.zeros((kernel.heads, -(-kernel.v // BANKS) * BANKS)) for _ in kernel.context]
    columns = device.bursts_per_row

    def banks(weights: Sequence[Numbers]) -> list[_Sets]:
        """Of each channel: keys, then values, which are multiplied with the weights."""
        return [
            (
                list(_key_sets(kernel, columns, channel, channels, queries, keys)),
                list(_value_sets(kernel, columns, channel, channels, weights, values)),
            )
            for channel in range(channels)
        ]

    _run("scores", programs[0], kernel, device, banks(scores), scores)
    weights = []
    for length, row in zip(kernel.context, scores, strict=True):
        powers = np.exp((row[:, :length] - row[:, :length].max(axis=1, keepdims=True)) / np.sqrt(kernel.qk))
        weights.append(powers / powers.sum(axis=1, keepdims=True))
    _run("values", programs[1], kernel, device, banks(weights), results)
    return np.stack([row[:, : kernel.v] for row in results])


_Sets = tuple[list[_Set], list[_Set]]


def _key_sets(
    kernel: PimAttention, columns: int, channel: int, channels: int, queries: Numbers, keys: Sequence[Numbers]
) -> Iterator[_Set]:
    group = kernel.heads // kernel.kv_heads
    beside = min(columns // -(-kernel.qk // LANES), kernel.kv_heads)
    mine: list[tuple[int, list[int]]] = []
    number = 0
    for sequence, length in enumerate(kernel.context):
        blocks = range(-(-length // BANKS))
        mine.append((sequence, [b for b in blocks if (number + b) % channels == channel]))
        number += len(blocks)
    mine.sort(key=lambda item: -len(item[1]))
    for _, alike in groupby(mine, key=lambda item: len(item[1])):
        heads = [range(h, min(h + beside, kernel.kv_heads)) for h in range(0, kernel.kv_heads, beside)]
        same = list(alike)
        whole = [h for h in heads if len(h) == beside]
        for some in (whole, [h for h in heads if len(h) < beside]):
            for sequence, mine_of_it in same:
                key = np.pad(keys[sequence], ((0, -len(keys[sequence]) % BANKS), (0, 0), (0, 0)))
                for together in some if mine_of_it else []:
                    yield _Set(
                        Tiling(kernel.qk, columns, len(together)),
                        np.stack([key[16 * b : 16 * b + 16, h] for b in mine_of_it for h in together]),
                        np.stack([
                            [queries[sequence, h * group + v] for h in together] for v in range(group)
                        ]),
                        [(sequence, h * group, 16 * b) for b in mine_of_it for h in together],
                    )  # fmt: skip


def _value_sets(
    kernel: PimAttention, columns: int, channel: int, channels: int, weights: Sequence[Numbers],
    values: Sequence[Numbers],
) -> Iterator[_Set]:  # fmt: skip
    group = kernel.heads // kernel.kv_heads
    blocks = -(-kernel.v // BANKS)
    beside = max(min(-(-len(kernel.context) * kernel.kv_heads * blocks // channels), blocks), 1)
    number = 0
    ordered = sorted(range(len(kernel.context)), key=lambda s: -kernel.context[s] // LANES)
    for bursts, alike in groupby(ordered, key=lambda s: -(-kernel.context[s] // LANES)):
        same = list(alike)
        sets = [range(b, min(b + beside, blocks)) for b in range(0, blocks, beside)]
        for some in ([b for b in sets if len(b) == beside], [b for b in sets if len(b) < beside]):
            for sequence in same:
                length = kernel.context[sequence]
                value = np.pad(values[sequence], ((0, 0), (0, 0), (0, -kernel.v % BANKS)))
                for h in range(kernel.kv_heads):
                    for together in some:
                        number += 1
                        if (number - 1) % channels != channel:
                            continue
                        yield _Set(
                            Tiling(bursts * LANES, columns),
                            np.stack([value[:, h, 16 * b : 16 * b + 16].T for b in together]),
                            weights[sequence][h * group : (h + 1) * group, None, :length],
                            [(sequence, h * group, 16 * b) for b in together],
                        )


def _run(
    stage: str, program: Program, kernel: PimAttention, device: Device, banks: list[_Sets], out: list[Numbers]
) -> None:
    """One stage: each channel's command program on what lies in its banks."""
    groups = iter(program.groups)
    bodies: dict[Any, Any] = {}
    group = kernel.heads // kernel.kv_heads
    for number, (keys, values) in enumerate(banks):
        shapes = tuple(tuple((each.tiling, len(each.weights)) for each in sets) for sets in (keys, values))
        sets = keys if stage == "scores" else values
        if not sets:
            continue
        if shapes not in bodies:
            bodies[shapes] = next(groups).body
        noise = np.random.default_rng(number)
        rows = sum(each.rows for each in (*keys, *values))
        data = noise.integers(-99, 99, (4, 4, rows, device.bursts_per_row, LANES)).astype(np.float64)
        first, script = 0, []
        for each in (*keys, *values):
            each.store(data, first)
            first += each.rows
        for each in sets:
            order = order_of(stage, group, len(each.weights), each.tiling, device)
            sums = np.zeros((group, len(each.weights), BANKS))
            script.append((each, order, sums))
        channel = _AttentionChannel(number, data, script)
        for command, at in walk(bodies[shapes]):
            channel.issue(command, at)
        channel.finish()
        for each, _, sums in script:
            for p, (sequence, head, position) in enumerate(each.outputs):
                out[sequence][head : head + group, position : position + BANKS] += sums[:, p]
    if next(groups, None) is not None:
        raise DataError("more groups of channels than there is work for")


class _AttentionChannel(AimChannel):
    def __init__(self, number: int, data: Numbers, sets: Sequence[tuple[_Set, str, Numbers]]) -> None:
        self.number, self.data = number, data
        self.script = (event for each, order, sums in sets for event in each.visits(order, sums))
        self.reset()
