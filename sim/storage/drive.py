"""Requests of a host on a solid-state drive."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from neardata.arch.errors import InputError
from neardata.arch.storage import Ssd
from neardata.arch.storage.ssd import SECTOR
from neardata.sim.storage import fields as f
from neardata.sim.storage.clock import Clock
from neardata.sim.storage.state import DriveState, addresses, drive_state, more_room
from neardata.sim.storage.statistics import FlashUse, flash_use
from neardata.sim.storage.tables import Table

READ, WRITE, TRIM = f.OP_READ, f.OP_WRITE, f.OP_TRIM
CHUNK = 1 << 16


@dataclass(frozen=True, eq=False)
class Requests:
    """Requests of the host, in order."""

    op: NDArray[np.int64]
    """READ, WRITE or TRIM."""
    lba: NDArray[np.int64]
    """First sector of 512 bytes."""
    sectors: NDArray[np.int64]
    arrive_ns: NDArray[np.float64] | None = None
    """None: a closed loop, each starts when one before it ends."""

    def __len__(self) -> int:
        return len(self.op)


@dataclass(frozen=True)
class Latencies:
    """Of the requests of one kind, in ns; percentiles are of the sorted values, none in between."""

    count: int
    mean: float
    minimum: float
    maximum: float
    percentiles: dict[str, float]


PERCENTILES = (50, 90, 95, 99, 99.9, 99.99)


@dataclass(frozen=True, eq=False)
class SsdReport:
    """What a run did. Bandwidth is decimal, of the host's data."""

    ssd: Ssd
    clock: Clock
    end: int
    """Last event, in ticks of ``clock``."""
    last: int
    """The last request's end."""
    requests: int
    reads: int
    writes: int
    bytes_read: int
    bytes_written: int
    stop_ns: float | None
    """When a closed loop stopped to start requests."""
    table: Table = field(repr=False)
    use: FlashUse
    counts: dict[str, int]
    busy: dict[str, float]
    """Shares of the time that the host link's directions, the cores and the cache's DRAM were busy."""
    erase_counts: tuple[int, float, int]
    """Of blocks: least, mean, most."""
    partial: bool = False

    @property
    def time_ns(self) -> float:
        """Until the last request ended."""
        return self.clock.ns(self.last)

    @property
    def window_ns(self) -> float:
        """What rates are taken over: the time in which a closed loop started requests, or all of it."""
        return self.time_ns if self.stop_ns is None else self.stop_ns

    @cached_property
    def _counted(self) -> NDArray[np.bool_]:
        if self.stop_ns is None or self.ssd.compat.whole_us:  # MQSim counts what was started
            return np.ones(self.requests, np.bool_)
        return self.table[: self.requests, f.ENDED] <= self.clock.ticks(self.stop_ns)

    def _rate(self, op: int | None) -> tuple[int, int]:
        t = self.table[: self.requests]
        mask = self._counted & (True if op is None else t[:, f.OP] == op)
        return int(mask.sum()), int(t[mask, f.SECTORS].sum()) * SECTOR

    @property
    def iops(self) -> float:
        """Requests per second."""
        return self._rate(None)[0] / self.window_ns * 1e9 if self.window_ns else 0.0

    @property
    def read_mb_per_s(self) -> float:
        return self._rate(READ)[1] / self.window_ns * 1e3 if self.window_ns else 0.0

    @property
    def write_mb_per_s(self) -> float:
        return self._rate(WRITE)[1] / self.window_ns * 1e3 if self.window_ns else 0.0

    @property
    def mb_per_s(self) -> float:
        return self.read_mb_per_s + self.write_mb_per_s

    def latencies(self, op: int | None = None) -> Latencies:
        """From the host's submission to the completion's arrival.

        Args:
            op: READ, WRITE, TRIM, or all.
        """
        t = self.table[: self.requests]
        ticks = np.sort((t[:, f.ENDED] - t[:, f.SENT])[slice(None) if op is None else t[:, f.OP] == op])
        n = len(ticks)
        if n == 0:
            return Latencies(0, 0.0, 0.0, 0.0, {})
        per = self.clock.per_ns
        mean = float(ticks.mean()) / per
        if self.ssd.compat.whole_us:
            mean = float(mean // 1000 * 1000)
        at = {f"p{p:g}": float(ticks[min(n - 1, int(np.ceil(n * p / 100)) - 1)]) / per for p in PERCENTILES}
        return Latencies(n, mean, float(ticks[0]) / per, float(ticks[-1]) / per, at)

    @property
    def write_amplification(self) -> float:
        """Pages programmed by pages that the host, or the cache, wrote."""
        pages = self.counts["host_pages_written"]
        return (self.use.counts["pages_programmed"] + self.use.counts["copybacks"]) / pages if pages else 0.0

    def request_times(self) -> dict[str, NDArray[np.generic]]:
        """Columns of each request: operation, sector, sectors, ns of submission and end."""
        t = self.table[: self.requests]
        return {
            "op": np.array(["write", "read", "trim"])[t[:, f.OP]],
            "lba": t[:, f.LBA],
            "sectors": t[:, f.SECTORS],
            "submit_ns": t[:, f.SENT] / self.clock.per_ns,
            "end_ns": t[:, f.ENDED] / self.clock.per_ns,
        }


_COUNTS = {
    "cmt_hits": f.M_HITS,
    "cmt_misses": f.M_MISSES,
    "mapping_reads": f.M_MAP_READS,
    "mapping_writes": f.M_MAP_WRITES,
    "gc_runs": f.M_GC_RUNS,
    "gc_moves": f.M_GC_MOVES,
    "gc_moves_overtaken": f.M_GC_DROPPED,
    "wear_runs": f.M_WEAR_RUNS,
    "cache_hits": f.M_CACHE_HITS,
    "host_pages_written": f.M_HOST_PAGES,
    "update_reads": f.M_UPDATE_READS,
    "pages_trimmed": f.M_TRIMMED,
}


def run_drive(
    ssd: Ssd,
    requests: Requests,
    *,
    depth: int = 0,
    stop_ns: float | None = None,
    more: Callable[[int], Requests] | None = None,
    seed: int = 1,
    stop: threading.Event | None = None,
    progress: Callable[[int], None] | None = None,
) -> SsdReport:
    """Run requests on a drive until each has ended.

    Args:
        requests: with arrivals, or of a closed loop.
        depth: requests under way in a closed loop.
        stop_ns: a closed loop starts no request after it.
        more: gives a closed loop more requests, at least as many as asked for; without it, ``requests`` are
        all. seed: of choices of garbage collection and of failed reads.
        stop: ends the run early, with what was done.
        progress: told how many requests have ended.

    Raises:
        InputError: requests beyond the drive's capacity; a drive that cannot take what is written to it.
    """
    from neardata.sim.storage.drive_kernel import run_drive as run

    if (depth == 0) != (requests.arrive_ns is not None):
        raise InputError("requests have arrivals, or a closed loop has a depth")
    _check(ssd, requests)
    longest = int(requests.sectors.max(initial=1))
    pages = longest // ssd.sectors_per_page + 2
    state, tables = drive_state(ssd, max(len(requests), 1), pages_per_request=pages, seed=seed)
    clock, n = tables.clock, 0
    state, n = _append(state, n, requests, clock, ssd)
    d, m = state.d, state.m
    d[f.D_DEPTH], d[f.D_LIMIT] = depth, more is None
    m[f.M_OWED] = depth
    if stop_ns is not None:
        d[f.D_STOP] = clock.ticks(stop_ns)
    partial = False
    while True:
        status = run(addresses(state._asdict()), n)
        if progress is not None:
            progress(int(m[f.M_ENDED]))
        if stop is not None and stop.is_set():
            partial = True
            break
        if status == f.WANTS_REQUESTS:
            assert more is not None
            extra = more(max(CHUNK, n // 2))
            _check(ssd, extra)
            if int(extra.sectors.max(initial=1)) // ssd.sectors_per_page + 2 > pages:
                raise InputError("later requests must not be longer than the first ones")
            state, n = _append(state, n, extra, clock, ssd)
        elif status == f.WANTS_ROOM:
            state = more_room(state)
        elif status == f.FAILED:
            raise InputError(
                f"plane {m[f.M_ERROR_AT]} ran out of free blocks;"
                " raise gc.reserve or mapping.over_provisioning"
            )
        elif status == f.RAN:
            break
    sent = int(m[f.M_NEXT])
    if not partial:
        _conserved(state, sent)
    tables = type(tables)(
        clock, tables.units, state.x, tables.u, tables.c, tables.p, tables.t, tables.g, state.h, state.done
    )
    return _report(ssd, state, flash_use(ssd, tables, int(m[f.M_NOW])), clock, sent, stop_ns, partial)


def _append(state: DriveState, n: int, new: Requests, clock: Clock, ssd: Ssd) -> tuple[DriveState, int]:
    total = n + len(new)
    if total > len(state.r):
        r = np.zeros((max(total, 2 * len(state.r)), f.R_COLUMNS), np.int64)
        r[:n] = state.r[:n]
        state = state._replace(r=r)
    rows = state.r[n:total]
    rows[:, f.OP], rows[:, f.LBA], rows[:, f.SECTORS] = new.op, new.lba, new.sectors
    rows[:, f.ENDED] = f.NONE
    if new.arrive_ns is not None:
        rows[:, f.ARRIVE] = np.round(new.arrive_ns * 1000).astype(np.int64) * clock.per_ps
    return state, total


def _check(ssd: Ssd, requests: Requests) -> None:
    most = ssd.logical_pages * ssd.sectors_per_page
    wrong = np.flatnonzero(
        (requests.lba < 0) | (requests.sectors < 1) | (requests.lba + requests.sectors > most)
    )
    if len(wrong):
        i = wrong[0]
        raise InputError(
            f"request {i}: {requests.sectors[i]:,} sectors from {requests.lba[i]:,} are not in a drive of"
            f" {most:,} sectors ({most * SECTOR / 1e9:.4g} GB)"
        )
    if requests.arrive_ns is not None and len(requests):
        wrong = np.flatnonzero(~(np.diff(requests.arrive_ns, prepend=0.0) >= 0))
        if len(wrong):
            raise InputError(f"request {wrong[0]} arrives before the one before it, or before 0")
        if requests.arrive_ns[-1] * 1000 * Clock.of(ssd.bus.mt_per_s).per_ps > f.FAR / 2:
            raise InputError(
                f"request {len(requests) - 1} arrives after {requests.arrive_ns[-1]:g} ns: too late"
            )


def _conserved(state: DriveState, sent: int) -> None:
    """Every request that was started has ended, every transaction too."""
    lost = np.flatnonzero(state.r[:sent, f.ENDED] == f.NONE)
    waiting = np.flatnonzero(state.pl[:, f.WAIT_HEAD] != f.NONE)
    why = f"; plane {waiting[0]} has no block left to collect" if len(waiting) else ""
    full = "the drive is too full; raise mapping.over_provisioning or write less"
    if len(lost):
        raise InputError(f"request {lost[0]} of {sent:,} never ended ({len(lost):,} did not){why}: {full}")
    if state.m[f.M_FREE_N] != len(state.x):
        if len(waiting):
            raise InputError(f"data in the cache were never written{why}: {full}")
        raise RuntimeError(f"{len(state.x) - state.m[f.M_FREE_N]} flash transactions never ended")


def _report(
    ssd: Ssd, state: DriveState, use: FlashUse, clock: Clock, sent: int, stop_ns: float | None, partial: bool
) -> SsdReport:
    m, end = state.m, max(int(state.m[f.M_NOW]), 1)
    table = state.r[:sent]
    if partial:
        table = table[table[:, f.ENDED] != f.NONE]
    op, sectors = table[:, f.OP], table[:, f.SECTORS]
    erased = state.b[:, f.ERASED]
    return SsdReport(
        ssd=ssd, clock=clock, end=int(m[f.M_NOW]), last=int(m[f.M_LAST]), requests=len(table),
        reads=int((op == READ).sum()), writes=int((op == WRITE).sum()),
        bytes_read=int(sectors[op == READ].sum()) * SECTOR,
        bytes_written=int(sectors[op == WRITE].sum()) * SECTOR,
        stop_ns=stop_ns, table=table, use=use, counts={name: int(m[k]) for name, k in _COUNTS.items()},
        busy={
            "host link up": m[f.M_UP_BUSY] / end,
            "host link down": m[f.M_DOWN_BUSY] / end,
            "firmware cores": m[f.M_CORE_BUSY] / end / ssd.controller.cores,
            "cache DRAM": m[f.M_RAM_BUSY] / end,
        },
        erase_counts=(int(erased.min()), float(erased.mean()), int(erased.max())), partial=partial,
    )  # fmt: skip
