"""Attention in the banks of GDDR6-AiM and HBM-PIM on data: `attention_on_data`.

Where keys and values lie is written down here, apart from `neardata.sim.dram.aim_attention` and
``hbm_pim_attention``, whose command programs work on it. AttAcc's, with its softmax unit, is not run on data.

GDDR6-AiM: blocks of 16 positions of keys, one a bank, go round robin over the channels, as many heads as fit
side by side in a row; blocks of 16 columns of a head's values, transposed, go round with their positions
along the rows. Sequences lie by their number of blocks in a channel, the most first, and in their order.

HBM-PIM: blocks of 64 positions of a head's keys go round robin, by sequence, head and block. Behind them
blocks of 64 columns of a head's values, transposed, with the positions, in tiles of 128, along the rows;
where there are few blocks the tiles are cut into parts, the longest parts first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neardata.arch.dram import Device
from neardata.mappers.bank_data import (
    AimChannel,
    DataError,
    HbmPimChannel,
    aim_visits,
    hbm_pim_visits,
    walk,
)
from neardata.mappers.layout import HbmPimWeights
from neardata.sim.dram.aim_attention import order_of
from neardata.sim.dram.aim_matmul import Tiling
from neardata.sim.dram.program import ChannelGroup, Program
from neardata.sim.program import PimAttention
from neardata.sim.system.pim_programs import family_of

Numbers = NDArray[Any]
LANES = BANKS = 16
TILE = 64
"""Outputs of a tile of HBM-PIM."""
INPUTS = 128
"""Inputs of a tile of HBM-PIM."""


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


def attention_on_data(
    kernel: PimAttention,
    programs: tuple[Program, Program],
    device: Device,
    channels: int,
    queries: Numbers,
    keys: Sequence[Numbers],
    values: Sequence[Numbers],
    scale: float,
) -> Numbers:
    """What the programs of both stages compute from keys and values in the banks, with a softmax between.

    Args:
        programs: of the kernel's ``scores`` and ``values``, by `neardata.sim.system.pim_programs.program_of`.
        queries: (sequences, heads, qk).
        keys, values: of each sequence, (positions, kv_heads, qk) and (positions, kv_heads, v).
        scale: of scores, before the softmax.

    Returns:
        (sequences, heads, v).

    Raises:
        DataError: a program that does not do what its kernel says; a device whose attention has one stage.
    """
    family = family_of(device)
    if family == "attacc":
        raise DataError(f"attention of {device.name} is not run on data")
    block = BANKS if family == "aim" else TILE
    scores = [np.zeros((kernel.heads, -(-length // block) * block)) for length in kernel.context]
    results = [np.zeros((kernel.heads, -(-kernel.v // block) * block)) for _ in kernel.context]

    def run(stage: str, program: Program, weights: Sequence[Numbers], out: list[Numbers]) -> None:
        if family == "aim":
            columns = device.bursts_per_row
            banks = [
                (
                    list(_key_sets(kernel, columns, channel, channels, queries, keys)),
                    list(_value_sets(kernel, columns, channel, channels, weights, values)),
                )
                for channel in range(channels)
            ]
            _run(stage, program, kernel, device, banks, out)
        else:
            _run_hbm_pim(stage, program, kernel, channels, (queries, keys, weights, values), out)

    run("scores", programs[0], scores, scores)
    weights = []
    for length, row in zip(kernel.context, scores, strict=True):
        powers = np.exp((row[:, :length] - row[:, :length].max(axis=1, keepdims=True)) * scale)
        weights.append(powers / powers.sum(axis=1, keepdims=True))
    run("values", programs[1], weights, results)
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
            bodies[shapes] = _next(groups).body
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


def _next(groups: Iterator[ChannelGroup]) -> ChannelGroup:
    group = next(groups, None)
    if group is None:
        raise DataError("fewer groups of channels than there is work for")
    return group


class _AttentionChannel(AimChannel):
    def __init__(self, number: int, data: Numbers, sets: Sequence[tuple[_Set, str, Numbers]]) -> None:
        self.number, self.data = number, data
        self.script = (event for each, order, sums in sets for event in each.visits(order, sums))
        self.reset()


@dataclass
class _Tile:
    """64 outputs of HBM-PIM."""

    matrix: Numbers
    """(64 or fewer outputs, inputs)."""
    vectors: Numbers
    """(query heads of the group, inputs)."""
    output: tuple[int, int, int]
    """Where in the result its sums go: sequence, first query head, first position or column."""


def _key_tiles(kernel: PimAttention, queries: Numbers, keys: Sequence[Numbers]) -> Iterator[_Tile]:
    group = kernel.heads // kernel.kv_heads
    for sequence, length in enumerate(kernel.context):
        for h in range(kernel.kv_heads):
            heads = slice(h * group, (h + 1) * group)
            for first in range(0, length, TILE):
                matrix = keys[sequence][first : first + TILE, h]
                yield _Tile(matrix, queries[sequence, heads], (sequence, h * group, first))


def _value_tiles(
    kernel: PimAttention, channels: int, weights: Sequence[Numbers], values: Sequence[Numbers]
) -> list[list[_Tile]]:
    """By the number of their input tiles, the largest first."""
    group, columns = kernel.heads // kernel.kv_heads, range(0, kernel.v, TILE)
    most = max(channels // (len(kernel.context) * kernel.kv_heads * len(columns)), 1)
    by_size: dict[int, list[_Tile]] = {}
    for sequence, length in enumerate(kernel.context):
        tiles, first = -(-length // INPUTS), 0
        parts = min(most, tiles)
        for part in range(parts):
            size = tiles // parts + (part < tiles % parts)
            positions = slice(first * INPUTS, min((first + size) * INPUTS, length))
            first += size
            for h in range(kernel.kv_heads):
                vectors = weights[sequence][h * group : (h + 1) * group, positions]
                for column in columns:
                    matrix = values[sequence][positions, h, column : column + TILE].T
                    made = _Tile(matrix, vectors, (sequence, h * group, column))
                    by_size.setdefault(size, []).append(made)
    return [by_size[size] for size in sorted(by_size, reverse=True)]


def _run_hbm_pim(
    stage: str,
    program: Program,
    kernel: PimAttention,
    channels: int,
    operands: tuple[Numbers, Sequence[Numbers], Sequence[Numbers], Sequence[Numbers]],
    out: list[Numbers],
) -> None:
    """One stage: each pseudo-channel's command program on what lies in its banks."""
    queries, keys, weights, values = operands
    group = kernel.heads // kernel.kv_heads
    products = [list(_key_tiles(kernel, queries, keys)), *_value_tiles(kernel, channels, weights, values)]
    inputs = [max(-(-tile.matrix.shape[1] // INPUTS) for tile in tiles) for tiles in products]
    starts = [0, *np.cumsum([0, *map(len, products[1:])])[:-1].tolist()]
    groups, bodies = iter(program.groups), dict[tuple[int, ...], Any]()
    for number in range(channels):
        dealt = [
            [tile for i, tile in enumerate(tiles, start) if i % channels == number]
            for tiles, start in zip(products, starts, strict=True)
        ]
        counts = tuple(map(len, dealt))
        working = dealt[:1] if stage == "scores" else dealt[1:]
        if not any(working):
            continue
        if counts not in bodies:
            bodies[counts] = _next(groups).body
        layouts = [HbmPimWeights(TILE * n, INPUTS * i, 1) for n, i in zip(counts, inputs, strict=True)]
        results = group * -(-max(counts) // 4)
        rows = sum(layout.rows for layout in layouts) + results
        noise = np.random.default_rng(number)
        data = noise.integers(-99, 99, (4, 2, 2, rows, 32, LANES)).astype(np.float64)
        first, script = 0, []
        for tiles, layout in zip(dealt, layouts, strict=True):
            if tiles:
                _store(data, tiles, layout, first)
            first += layout.rows
            if tiles and any(tiles is each for each in working):
                padded = np.stack(
                    [np.pad(t.vectors, ((0, 0), (0, layout.k - t.vectors.shape[1]))) for t in tiles]
                )
                vectors = padded.swapaxes(0, 1).reshape(group, len(tiles), -1, 8, LANES)
                script.append((tiles, vectors, np.zeros((group, TILE * len(tiles)))))
        channel = _HbmPimAttention(number, data, [(vectors, sums) for _, vectors, sums in script])
        for command, at in walk(bodies[counts]):
            channel.issue(command, at)
        channel.finish()
        for tiles, _, sums in script:
            for i, tile in enumerate(tiles):
                sequence, head, at_column = tile.output
                into = out[sequence][head : head + group, at_column : at_column + TILE]
                into += sums[:, TILE * i : TILE * (i + 1)]
    if next(groups, None) is not None:
        raise DataError("more groups of channels than there is work for")


def _store(data: Numbers, tiles: Sequence[_Tile], layout: HbmPimWeights, first: int) -> None:
    """Tiles of a product into the banks, padded with zeros, from a row on."""
    matrix = np.zeros((layout.n, layout.k))
    for i, tile in enumerate(tiles):
        outputs, inputs = tile.matrix.shape
        matrix[TILE * i : TILE * i + outputs, :inputs] = tile.matrix
    places = dict(layout.place(*np.mgrid[: layout.n, : layout.k]))
    places.pop("channel")
    places["row"] = places["row"] + first
    data[tuple(places.values())] = matrix


class _HbmPimAttention(HbmPimChannel):
    def __init__(self, number: int, data: Numbers, work: Sequence[tuple[Numbers, Numbers]]) -> None:
        self.number, self.data = number, data
        self.script = (event for vectors, sums in work for event in hbm_pim_visits(vectors, sums))
        self.reset()
