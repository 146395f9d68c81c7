"""Flash transactions given one by one: reads, programs, erases, copybacks, reads that compute in a die."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neardata.arch.errors import InputError, nearest
from neardata.arch.storage import Ssd
from neardata.sim.storage import fields as f
from neardata.sim.storage.clock import Clock
from neardata.sim.storage.state import addresses
from neardata.sim.storage.statistics import FlashUse, flash_use
from neardata.sim.storage.tables import flash_tables

KINDS = {
    "read": f.READ,
    "program": f.PROGRAM,
    "erase": f.ERASE,
    "copyback": f.COPYBACK,
    "read-compute": f.READ_COMPUTE,
}
_CLASS = {
    f.READ: f.USER_READ,
    f.READ_COMPUTE: f.USER_READ,
    f.PROGRAM: f.USER_WRITE,
    f.ERASE: f.GC_ERASE,
    f.COPYBACK: f.USER_WRITE,
}


@dataclass(frozen=True, eq=False)
class Transactions:
    """Transactions as columns; a column may be one value for all.

    A read-compute sends ``bytes_in`` to the die with its command, reads the page, works on it for
    ``compute_ns`` beside the register while the array may read the next page (``flash.cache_read``), and
    sends ``bytes_out`` back. A read with ``slice_bytes`` leaves in slices of that size, and whatever has a
    better ``rank`` goes between them.

    >>> from neardata.arch.storage import load_ssd
    >>> ssd = load_ssd("cambricon-llm-s")
    >>> tx = Transactions.of(kind="read-compute", channel=0, die=[0, 1], plane=0, bytes_in=256, bytes_out=64,
    ...                      compute_ns=10000)
    >>> run = run_transactions(ssd, tx)
    >>> run.done_ns.tolist()  # command 0.29, vector 0.256, tR 30, compute 10, result 0.064 us
    [40610.0, 41156.0]
    """

    kind: NDArray[np.int64]
    channel: NDArray[np.int64]
    die: NDArray[np.int64]
    """Of the channel: chip * dies per chip + die of the chip."""
    plane: NDArray[np.int64]
    page: NDArray[np.int64]
    """Of its block: gives the page's type, and what may share a multi-plane command."""
    bytes_in: NDArray[np.int64]
    """To the die: the data of a program, the vector of a read-compute."""
    bytes_out: NDArray[np.int64]
    compute_ns: NDArray[np.float64]
    rank: NDArray[np.int64]
    """Of its data on the way out: 0 goes before 3."""
    slice_bytes: NDArray[np.int64]
    """0: the data leave in one piece."""
    arrive_ns: NDArray[np.float64]
    after: tuple[tuple[int, ...], ...] = field(repr=False, default=())
    """The transactions that must have ended first, for each; empty: none."""

    @classmethod
    def of(
        cls,
        *,
        kind: str | ArrayLike,
        channel: ArrayLike,
        die: ArrayLike,
        plane: ArrayLike = 0,
        page: ArrayLike = 0,
        bytes_in: ArrayLike = 0,
        bytes_out: ArrayLike = 0,
        compute_ns: ArrayLike = 0.0,
        rank: ArrayLike = 1,
        slice_bytes: ArrayLike = 0,
        arrive_ns: ArrayLike = 0.0,
        after: tuple[tuple[int, ...], ...] = (),
    ) -> Transactions:
        """Columns of equal length, from arrays and single values.

        Args:
            kind: a name of `KINDS`, or an array of its numbers.

        Raises:
            InputError: an unknown kind, columns of different lengths.
        """
        if isinstance(kind, str):
            if kind not in KINDS:
                raise InputError(f"unknown kind '{kind}'{nearest(kind, KINDS)}")
            kind = KINDS[kind]
        columns = (
            kind,
            channel,
            die,
            plane,
            page,
            bytes_in,
            bytes_out,
            compute_ns,
            rank,
            slice_bytes,
            arrive_ns,
        )
        try:
            n = np.broadcast_shapes(*(np.shape(v) for v in columns), (len(after) or 1,))
        except ValueError:
            raise InputError("columns of transactions have different lengths") from None

        def column(values: ArrayLike) -> NDArray[np.int64]:
            return np.array(np.broadcast_to(np.asarray(values), n), np.int64)

        def times(values: ArrayLike) -> NDArray[np.float64]:
            return np.array(np.broadcast_to(np.asarray(values), n), np.float64)

        return cls(
            column(kind), column(channel), column(die), column(plane), column(page), column(bytes_in),
            column(bytes_out), times(compute_ns), column(rank), column(slice_bytes), times(arrive_ns), after,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.kind)


@dataclass(frozen=True, eq=False)
class TransactionReport:
    """When each transaction was queued, issued to its die and done, in ns, and what was in use."""

    clock: Clock
    submitted: NDArray[np.int64]
    """Ticks of ``clock``, as ``issued``, ``started`` and ``done``."""
    issued: NDArray[np.int64]
    started: NDArray[np.int64]
    """The array began to work on it."""
    done: NDArray[np.int64]
    end: int
    use: FlashUse

    @property
    def submitted_ns(self) -> NDArray[np.float64]:
        return self.submitted / self.clock.per_ns

    @property
    def issued_ns(self) -> NDArray[np.float64]:
        return self.issued / self.clock.per_ns

    @property
    def done_ns(self) -> NDArray[np.float64]:
        return self.done / self.clock.per_ns

    @property
    def time_ns(self) -> float:
        return self.clock.ns(self.end)


def run_transactions(ssd: Ssd, tx: Transactions, *, seed: int = 1) -> TransactionReport:
    """Execute transactions on the flash of a drive; no mapping, no host.

    Args:
        seed: of the reads that must be tried again (``ecc``).

    Raises:
        InputError: an address, size or time that cannot be; transactions that wait for each other.
    """
    from neardata.sim.storage.flash_kernel import run_transactions as run

    flash, n = ssd.flash, len(tx)
    _check(ssd, tx)
    tables = flash_tables(ssd, max(n, 1), seed=seed)
    x, clock = tables.x, tables.clock
    x[:n, f.KIND] = tx.kind
    chip, die = np.divmod(tx.die, flash.dies_per_chip)
    local: Any
    inside: Any
    plane: Any
    if ssd.compat.one_die_a_chip:
        local, inside, plane = chip, die, tx.plane
    elif flash.independent_planes:
        local, inside, plane = tx.die * flash.planes_per_die + tx.plane, 0, 0
    else:
        local, inside, plane = tx.die, 0, tx.plane
    x[:n, f.UNIT] = tx.channel * tables.units + local
    x[:n, f.DIE], x[:n, f.PLANE], x[:n, f.PAGE] = inside, plane, tx.page
    types = np.array([flash.page_type(page) for page in range(flash.pages_per_block)])
    x[:n, f.TYPE] = x[:n, f.TYPE2] = types[tx.page]
    x[:n, f.CLASS] = np.array([_CLASS[kind] for kind in range(len(KINDS))])[tx.kind]
    x[:n, f.BYTES_IN], x[:n, f.BYTES_OUT] = tx.bytes_in, tx.bytes_out
    x[:n, f.COMPUTE] = np.round(tx.compute_ns * 1000).astype(np.int64) * clock.per_ps
    x[:n, f.A] = np.where(tx.kind == f.READ_COMPUTE, flash.page_bytes, 0)
    x[:n, f.SLICE], x[:n, f.RANK] = tx.slice_bytes, tx.rank
    x[:n, f.DONE] = f.NONE

    arrive = np.round(tx.arrive_ns * 1000).astype(np.int64) * clock.per_ps
    waits = np.zeros(n, np.int64)
    first_edge, edges = np.zeros(n + 1, np.int64), np.zeros(0, np.int64)
    if tx.after:
        waits[:] = [len(before) for before in tx.after]
        sources = np.fromiter((i for before in tx.after for i in before), np.int64, int(waits.sum()))
        order = np.argsort(sources, kind="stable")
        edges = np.repeat(np.arange(n), waits)[order]
        first_edge[1:] = np.cumsum(np.bincount(sources, minlength=n))
    kept = {"taken": np.zeros(1, np.int64), **{k: getattr(tables, k) for k in ("x", *"ucptgh", "done")}}
    order = np.argsort(arrive, kind="stable")
    end = run(addresses(kept), order, arrive, waits, first_edge, edges)
    undone = np.flatnonzero(x[:n, f.DONE] == f.NONE)
    if len(undone):
        raise InputError(f"transaction {undone[0]} never ran: it waits for others that wait for it")
    submitted, issued, started, done = (x[:n, k].copy() for k in (f.SUBMITTED, f.ISSUED, f.STARTED, f.DONE))
    return TransactionReport(clock, submitted, issued, started, done, end, flash_use(ssd, tables, end))


def _check(ssd: Ssd, tx: Transactions) -> None:
    flash, n = ssd.flash, len(tx)
    bounds: dict[str, tuple[Any, int]] = {
        "kind": (tx.kind, len(KINDS)),
        "channel": (tx.channel, flash.channels),
        "die": (tx.die, flash.chips_per_channel * flash.dies_per_chip),
        "plane": (tx.plane, flash.planes_per_die),
        "page": (tx.page, flash.pages_per_block),
        "bytes_in": (tx.bytes_in, 1 << 32),
        "bytes_out": (tx.bytes_out, 1 << 32),
        "rank": (tx.rank, f.RANKS),
        "slice_bytes": (tx.slice_bytes, 1 << 32),
        "compute_ns": (tx.compute_ns, 10**15),
        "arrive_ns": (tx.arrive_ns, 10**15),
    }
    for name, (values, most) in bounds.items():
        wrong = np.flatnonzero(~((values >= 0) & (values < most)))
        if len(wrong):
            value = values[wrong[0]]
            raise InputError(f"must be from 0 to below {most:,}, got {value:g}", key=f"{name}[{wrong[0]}]")
    if tx.after and len(tx.after) != n:
        raise InputError(f"must tell of {n} transactions, got {len(tx.after)}", key="after")
    for i, before in enumerate(tx.after):
        if any(not 0 <= j < n or j == i for j in before):
            raise InputError("must name other transactions by their place", key=f"after[{i}]")
