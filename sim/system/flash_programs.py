"""Flash transactions of the kernels of drives.

`pages_of` says which part of a matrix each page holds; the execution on data and the one in time follow
the same list.

Pages that dies multiply are dealt to the dies of a channel, then to the channels in turn. The dies of a
channel take a vector together: the command of one of them, of each in turn, carries it. Of a die with
several planes, the first one holds pages that are multiplied, the others those that are streamed, so
that planes that read on their own do both at a time and the core has one page at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neardata.arch.errors import InputError
from neardata.arch.precision import Format
from neardata.arch.storage import Ssd
from neardata.sim.program import FlashIo, FlashMatMul
from neardata.sim.storage.transactions import KINDS, Transactions

Whole = NDArray[np.int64]
RESULTS, STREAM = 0, 1
"""Ranks of data on their way out: sums before pages."""
COLUMNS = [field.name for field in fields(Transactions) if field.name != "after"]


@dataclass(frozen=True, eq=False)
class Pages:
    """Parts of a matrix w[n, k], a page each: ``w[row:row_end, column:column_end]``."""

    row: Whole
    row_end: Whole
    column: Whole
    column_end: Whole
    computed: int
    """The first so many are multiplied in their dies, the others streamed."""

    def __len__(self) -> int:
        return len(self.row)

    @property
    def weights(self) -> Whole:
        """Weights in each."""
        return (self.row_end - self.row) * (self.column_end - self.column)


def pages_of(kernel: FlashMatMul) -> Pages:
    """What each page of a matrix holds.

    Raises:
        InputError: a size below 1, more columns than weights in a page, more pages streamed than there are.

    >>> pages = pages_of(FlashMatMul(1, 100, 300, 256, 16384, streamed=1))
    >>> pages.row_end.tolist(), pages.column.tolist(), pages.computed
    ([64, 100, 100], [0, 0, 256], 2)
    """
    for name in ("m", "n", "k", "columns", "page_weights"):
        if getattr(kernel, name) < 1:
            raise InputError(f"must be at least 1, got {getattr(kernel, name)}", key=name)
    if min(kernel.columns, kernel.k) > kernel.page_weights:
        raise InputError(
            f"a page holds {kernel.page_weights} weights, less than {kernel.columns} columns", key="columns"
        )
    group = Format.parse(kernel.weights).group
    if group is not None and kernel.columns % group and kernel.columns < kernel.k:
        raise InputError(f"{kernel.columns} columns cut groups of {group} weights", key="columns")
    strips = np.array(kernel.strips, np.int64)
    count = strips[:, 3]
    if not 0 <= kernel.streamed <= count.sum():
        raise InputError(f"must be from 0 to {count.sum()}, got {kernel.streamed}", key="streamed")
    column, width, rows = (np.repeat(strips[:, i], count) for i in range(3))
    row = (np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)) * rows
    return Pages(
        row,
        np.minimum(row + rows, kernel.n),
        column,
        column + width,
        int(count.sum()) - kernel.streamed,
    )


def shapes_of(rows: Whole, widths: Whole) -> tuple[list[int], list[int], Whole]:
    """Of the shapes that pages have, rows and columns; and which of them each page has."""
    found, which = np.unique(rows << 32 | widths, return_inverse=True)
    return (found >> 32).tolist(), (found & 0xFFFFFFFF).tolist(), which


@dataclass(frozen=True, eq=False)
class Job:
    """Transactions of kernels that start together."""

    tx: Transactions
    carrier: Whole
    """The transaction whose command brings a computing read its vector; -1: needs none, or has its own."""
    part: Whole
    """Which of the kernels each is of."""
    page: Whole
    """Which page of its kernel, as `pages_of` counts them."""

    round: Whole
    """Of a die's computing reads, how many are before it; -1: one that waits for no others. Buffers hold two
    vectors: a round begins when all dies of the channel are done with the last but one."""

    def waits(self) -> tuple[tuple[int, ...], ...]:
        """The transactions that must have ended before each; none at all: an empty tuple."""
        if not (self.round >= 2).any():
            return ()
        members: dict[tuple[int, int, int], list[int]] = {}
        keys = list(zip(self.part.tolist(), self.tx.channel.tolist(), self.round.tolist(), strict=True))
        for i, key in enumerate(keys):
            if key[2] >= 0:
                members.setdefault(key, []).append(i)
        if not any(number >= 2 for _, _, number in members):
            return ()
        rounds = {key: tuple(found) for key, found in members.items()}
        return tuple(
            rounds[part, channel, number - 2] if number >= 2 else () for part, channel, number in keys
        )

    def of(self, chosen: NDArray[np.intp], *, channel: int | None = None) -> Job:
        """Some of them; ``channel``: put on this one."""
        columns: dict[str, Any] = {name: getattr(self.tx, name)[chosen] for name in COLUMNS}
        if channel is not None:
            columns["channel"] = np.full(len(chosen), channel, np.int64)
        place = np.full(len(self.tx), -1, np.int64)
        place[chosen] = np.arange(len(chosen))
        carrier = self.carrier[chosen]
        carrier = np.where(carrier >= 0, place[carrier], -1)
        rest = (column[chosen] for column in (self.part, self.page, self.round))
        return Job(Transactions(**columns), carrier, *rest)


def job_of(kernel: FlashMatMul | FlashIo, ssd: Ssd, *, shared_vectors: bool = True) -> Job:
    """The transactions of a kernel.

    Args:
        shared_vectors: the dies of a channel take a vector together; otherwise each is sent its own.

    Raises:
        InputError: a drive without cores in its dies, weights that these do not multiply, more channels or
            dies than the drive has, pages that it has not.
    """
    if isinstance(kernel, FlashIo):
        return _io(kernel, ssd)
    return _matmul(kernel, ssd, shared_vectors)


def _matmul(kernel: FlashMatMul, ssd: Ssd, shared_vectors: bool) -> Job:
    flash, pages = ssd.flash, pages_of(kernel)
    form, activations = Format.parse(kernel.weights), Format.parse(kernel.activations)
    cores, n, computed = flash.chips_per_channel * flash.dies_per_chip, len(pages), pages.computed
    rows, widths = pages.row_end - pages.row, pages.column_end - pages.column
    # pages come in few shapes
    height, width, shape = shapes_of(rows, widths)
    held = [h * w for h, w in zip(height, width, strict=True)]
    size = np.array([form.bytes_of(w, c) for w, c in zip(held, width, strict=True)])[shape]
    if size.max() > flash.page_bytes:
        raise InputError(
            f"{size.max()} bytes of weights do not fit a page of {flash.page_bytes}", key="page_weights"
        )
    if computed and ssd.compute is None:
        raise InputError(f"{ssd.name} has no cores in its dies")
    number = np.arange(n)
    tile, local = np.divmod(number, cores)
    channel, turn = tile % flash.channels, tile // flash.channels
    takes = np.ones(n, bool)  # the first page of a strip in a tile
    takes[1:] = (tile[1:] != tile[:-1]) | (pages.column[1:] != pages.column[:-1])
    takes[computed:] = True
    begins = np.flatnonzero(takes)
    dies = np.diff(np.append(begins, n))  # that share a vector
    # each in turn, so that none falls behind
    carrier = np.repeat(begins + turn[begins] % dies, dies)

    streams = n - computed
    spread = np.arange(streams)
    channel[computed:] = spread % flash.channels
    local[computed:] = spread // flash.channels % cores
    turn[computed:] = spread // (flash.channels * cores)
    carrier[computed:] = -1
    others = max(flash.planes_per_die - 1, 1)
    plane = np.zeros(n, np.int64)
    plane[computed:] = flash.planes_per_die - others + turn[computed:] % others

    reads = number >= computed
    sums, compute = np.zeros(n, np.int64), np.zeros(n)
    if ssd.compute is not None and computed:
        core, m = ssd.compute, kernel.m
        sums[:] = np.array([core.result_bytes(m * h, kernel.activations) for h in height])[shape]
        compute[:] = np.array([core.ns_of(m * w, kernel.weights) for w in held])[shape]
        compute[computed:] = 0
    vectors = np.array([activations.bytes_of(kernel.m * c) for c in width])[shape]
    sent = ~reads & ((carrier == number) | (not shared_vectors))
    # both kinds go on at the same pace where they share a queue
    pace = np.where(reads, (turn + 0.5) / max(turn[computed:].max(initial=0) + 1, 1), 0.0)
    pace[:computed] = (turn[:computed] + 0.5) / (turn[:computed].max(initial=0) + 1)
    order = np.lexsort((number, pace, channel))
    back = np.empty(n, np.int64)
    back[order] = number
    carriers = np.where(carrier >= 0, back[carrier], -1)
    if not shared_vectors:
        carriers[:] = -1
    tx = Transactions.of(
        kind=np.where(reads, KINDS["read"], KINDS["read-compute"])[order],
        channel=channel[order],
        die=local[order],
        plane=plane[order],
        page=(turn % flash.pages_per_block)[order],
        bytes_in=np.where(sent, vectors, 0)[order],
        bytes_out=np.where(reads, size, sums)[order],
        compute_ns=compute[order],
        rank=np.where(reads, STREAM, RESULTS)[order],
        slice_bytes=np.where(reads, kernel.slice_bytes, 0)[order],
    )
    rounds = np.where(reads | (not shared_vectors), -1, turn)
    return Job(tx, carriers[order], np.zeros(n, np.int64), order, rounds[order])


def _io(kernel: FlashIo, ssd: Ssd) -> Job:
    flash = ssd.flash
    cores = flash.chips_per_channel * flash.dies_per_chip
    channels, dies = kernel.channels or flash.channels, kernel.dies or cores
    for key, value, most in (("channels", channels, flash.channels), ("dies", dies, cores)):
        if not 1 <= value <= most:
            raise InputError(f"must be from 0 to {most}, got {value}", key=key)
    if kernel.bytes < 1:
        raise InputError(f"must be at least 1, got {kernel.bytes}", key="bytes")
    n = -(-kernel.bytes // flash.page_bytes)
    number = np.arange(n)
    size = np.full(n, flash.page_bytes, np.int64)
    size[-1] = kernel.bytes - (n - 1) * flash.page_bytes
    turn = number // (channels * dies)
    reads = kernel.operation == "read"
    tx = Transactions.of(
        kind="read" if reads else "program",
        channel=number % channels,
        die=number // channels % dies,
        plane=turn % flash.planes_per_die,
        page=turn // flash.planes_per_die % flash.pages_per_block,
        bytes_in=0 if reads else size,
        bytes_out=size if reads else 0,
        rank=STREAM,
        slice_bytes=kernel.slice_bytes if reads else 0,
    )
    none = np.full(n, -1, np.int64)
    return Job(tx, none, np.zeros(n, np.int64), number, none)


def joined(jobs: list[Job]) -> Job:
    """Jobs of one kernel each, started together: those of earlier ones are first in each queue."""
    if len(jobs) == 1:
        return jobs[0]
    first = np.cumsum([0, *(len(job.tx) for job in jobs)])
    names = [field.name for field in fields(Transactions) if field.name != "after"]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(job.tx, name) for job in jobs]) for name in names
    }
    carriers = [
        np.where(job.carrier >= 0, job.carrier + at, -1) for job, at in zip(jobs, first[:-1], strict=True)
    ]
    parts = np.repeat(np.arange(len(jobs)), [len(job.tx) for job in jobs])
    pages = np.concatenate([job.page for job in jobs])
    rounds = np.concatenate([job.round for job in jobs])
    return Job(Transactions(**columns), np.concatenate(carriers), parts, pages, rounds)
