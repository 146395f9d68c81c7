"""Ordinary memory requests through the memory controllers of any number of channels."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neardata.arch.dram import Device
from neardata.arch.dram.mapping import AddressMapping, load_mapping
from neardata.arch.errors import InputError
from neardata.sim.dram.command_log import CommandLog
from neardata.sim.dram.config import ControllerConfig
from neardata.sim.dram.losses import Losses
from neardata.sim.dram.shares import Dealer, Piles, pieces
from neardata.sim.dram.trace import RequestChunk

LOG_ROWS = 1 << 17
"""Commands a channel gathers before they are looked at."""
SLICE = 1 << 16
"""Requests between two looks at whether to stop."""
IDLE_REFRESHES = 1 << 14
"""Refreshes of an idle channel between two looks."""


@dataclass(frozen=True)
class RequestTimes:
    """What happened to each request, in the order given: (n,) int64 ticks."""

    arrive: NDArray[np.int64]
    """Accepted by the controller (after the tick of this number)."""
    issue: NDArray[np.int64]
    """Its column command issued; -1 for forwarded reads and coalesced writes."""
    depart: NDArray[np.int64]
    """Its data has crossed the bus."""


@dataclass(frozen=True)
class LatencyHistogram:
    """Read latencies: one tick a bin below 65,536, then 1,024 ticks a bin."""

    counts: NDArray[np.int64]
    maximum: int

    def percentile(self, percent: float) -> int:
        """Least latency in ticks that ``percent`` of the reads do not exceed (0 without reads)."""
        total = int(self.counts.sum())
        if total == 0:
            return 0
        at = int(np.searchsorted(np.cumsum(self.counts), max(1.0, np.ceil(total * percent / 100))))
        half = len(self.counts) // 2
        return at if at < half else min((at - half) * 1024 + 1023, self.maximum)


@dataclass(frozen=True, eq=False)
class RequestReport:
    """Counters of a run, summed over its channels. Cycles are ticks of the device."""

    device: Device
    config: ControllerConfig
    mapping: AddressMapping
    channels: int
    requests: int
    reads: int
    writes: int
    forwarded_reads: int
    """Reads answered from a queued write."""
    coalesced_writes: int
    """Writes merged into a queued one."""
    cycles_to_last_accept: int
    """When the last request entered a queue."""
    cycles_to_drain: int
    """When the last burst had crossed the bus."""
    row_hits: int
    row_misses: int
    """The bank was closed."""
    row_conflicts: int
    """The bank held another row."""
    read_latency_sum: int
    read_latency: LatencyHistogram = field(repr=False)
    """From acceptance to the end of the burst."""
    command_counts: dict[str, int]
    open_cycles: int
    """Cycles with at least one open bank, summed over refresh domains (ranks)."""
    at_last_accept: dict[str, float]
    """The counters when the last request was accepted, as Ramulator 2.1 reports them."""
    lost_cycles: dict[str, int] | None
    """Idle data-bus cycles by cause, all buses; None when not asked for."""
    busy_cycles: int | None
    """Data-bus cycles with a burst, all buses."""
    per_request: RequestTimes | None = field(repr=False, default=None)
    command_logs: list[CommandLog] | None = field(repr=False, default=None)
    partial: bool = False
    """The run was stopped: requests so far, not drained."""

    @property
    def avg_read_latency_cycles(self) -> float:
        """Mean over all reads."""
        return self.read_latency_sum / self.reads if self.reads else 0.0

    @property
    def time_ns(self) -> float:
        """Time to drain."""
        return self.cycles_to_drain * self.device.tick_ps / 1e3

    @property
    def peak_gb_per_s(self) -> float:
        """All channels, decimal."""
        return self.device.peak_gb_per_s * self.channels

    @property
    def bytes_moved(self) -> int:
        """Over the data buses."""
        return (self.requests - self.forwarded_reads - self.coalesced_writes) * self.device.burst_bytes

    @property
    def bandwidth_gb_per_s(self) -> float:
        """Bytes over the data buses by the time to drain."""
        return self.bytes_moved / self.time_ns if self.cycles_to_drain else 0.0


def simulate(
    device: Device,
    chunks: Iterable[RequestChunk],
    config: ControllerConfig,
    *,
    channels: int = 1,
    threads: int | None = None,
    record_requests: bool = False,
    record_commands: bool = False,
    explain: bool = False,
    stop: threading.Event | None = None,
    progress: Callable[[int], None] | None = None,
) -> RequestReport:
    """Replay requests until every one is done.

    Each channel takes at most one request per tick from its own share of the stream, in order.
    Channels are independent and their results do not depend on ``threads``.

    Args:
        chunks: the requests; memory use depends on the size of a chunk, not on their number.
        config: the controller of every channel.
        channels: a power of two.
        threads: how many channels to run at a time (default: as many as there are).
        record_requests: keep `RequestReport.per_request` (24 bytes a request).
        record_commands: keep `RequestReport.command_logs` (48 bytes a command).
        explain: find `RequestReport.lost_cycles`.
        stop: set it to end the run within a second or so with a partial report.
        progress: called with the number of requests taken so far.

    Raises:
        InputError: no requests, an address beyond the capacity, an arrival beyond tick 2^60, or
            a controller the device cannot have.
        KeyboardInterrupt: stopped before the first request.
    """
    mapping = load_mapping(device, config.mapping, channels)
    halt = threading.Event()

    def halted() -> bool:
        return halt.is_set() or (stop is not None and stop.is_set())

    parts = [
        _ChannelRun(device, config, mapping, record_requests, record_commands, explain, halted)
        for _ in range(channels)
    ]
    workers = threads or channels
    # the peer takes two bytes of a burst for two addresses
    low_bits = device.burst_bytes - 1 if config.device_table == "corrected" else 0
    fed, whole = 0, True
    with ThreadPoolExecutor(max_workers=workers) as pool:
        dealer = Dealer(mapping, pool, threads=workers, low_bits=low_bits, indexed=record_requests)
        under_way: list[Future[bool]] = []
        try:
            for piece, final in pieces(chunks):  # read while the piece before it is under way
                whole = _all_done(under_way, fed, progress)
                if halted() or not whole:
                    whole = False
                    break
                shares = dealer.deal(piece)
                fed = dealer.taken
                under_way = [
                    pool.submit(part.feed, share, final) for part, share in zip(parts, shares, strict=True)
                ]
            else:
                whole = _all_done(under_way, fed, progress)
        except BaseException as error:
            halt.set()
            if not isinstance(error, KeyboardInterrupt):
                raise
            whole = False
    if not whole:
        fed = sum(part.accepted for part in parts)
        if fed == 0:
            raise KeyboardInterrupt
    if fed == 0:
        raise InputError("no requests")
    return _report(device, config, mapping, parts, fed, not whole)


def _all_done(under_way: list[Future[bool]], fed: int, progress: Callable[[int], None] | None) -> bool:
    """Wait for the channels; whether none was stopped."""
    whole = all([part.result() for part in under_way])
    if under_way and progress is not None:
        progress(fed)
    return whole


class _ChannelRun:
    """One channel's kernel and what is kept of its output."""

    def __init__(
        self, device: Device, config: ControllerConfig, mapping: AddressMapping,
        requests: bool, commands: bool, explain: bool, halted: Callable[[], bool],
    ) -> None:  # fmt: skip
        from neardata.sim.dram import channel
        from neardata.sim.dram import controller_kernel as k

        self.k = k
        self.channel = channel
        self.device = device
        self.halted = halted
        log = commands or explain
        bits = (mapping.column_bits, mapping.bank_bits, mapping.row_bits)
        self.state = channel.new_channel(device, config, mapping.slices, bits, log=log, completions=requests)
        self.kernel = channel.kernel_for(device)
        self.in_flight = config.read_queue + config.write_queue + device.n_banks + 1
        self.log = k.empty_log(LOG_ROWS if log else 0, 7)
        self.done = k.empty_log(0, 5)
        self.losses = Losses(device) if explain else None
        self.logs: list[CommandLog] | None = [] if commands else None
        self.completions: list[NDArray[np.int64]] | None = [] if requests else None
        self.index: list[NDArray[np.int64]] = []

    @property
    def accepted(self) -> int:
        """Requests so far."""
        return int(self.state.r[self.k.S_READS] + self.state.r[self.k.S_WRITES])

    def feed(self, piles: Piles, final: bool) -> bool:
        """Take in one piece; drain after the last. False: stopped before the end."""
        k, r, share = self.k, self.state.r, piles.together()
        n = len(share.address)
        if self.completions is not None:
            self.done = k.empty_log(n + self.in_flight, 5)
            self.index.append(share.index)
        if r[k.R_AGE] + n >= k.AGE_LIMIT:
            self.channel.renew_ages(self.state)
        at, status = 0, k.MORE_REQUESTS
        while True:
            end = min(at + SLICE, n)
            r[k.R_IDLE] = IDLE_REFRESHES
            status, used = self.kernel(
                self.state, share.address[at:end], share.is_write[at:end], share.arrival[at:end], end - at,
                final and end == n, self.log, self.done,
            )  # fmt: skip
            at += used
            if status == k.STUCK:
                raise RuntimeError(f"{self.device.name}: requests wait for nothing at tick {r[k.R_NOW]}")
            self._keep_commands()
            if status == k.DRAINED or (status == k.MORE_REQUESTS and at == n):
                break
            if self.halted():
                return False
            if status == k.IDLE and self.losses is None and self.logs is None:
                self.channel.skip_idle(self.state, self.kernel, int(share.arrival[at]))
        if self.completions is not None:
            self.completions.append(self.done[: r[k.R_COMPLETED]].copy())
            r[k.R_COMPLETED] = 0
        return True

    def _keep_commands(self) -> None:
        k, r = self.k, self.state.r
        n = int(r[k.R_LOG])
        if n:
            rows = self.log[:n].copy()
            log = CommandLog.from_rows(self.device, rows)
            if self.losses is not None:
                self.losses.feed(log, np.ascontiguousarray(rows[:, 6]))
            if self.logs is not None:
                self.logs.append(log)
            r[k.R_LOG] = 0


def _report(
    device: Device, config: ControllerConfig, mapping: AddressMapping, parts: list[_ChannelRun],
    taken: int, partial: bool,
) -> RequestReport:  # fmt: skip
    k = parts[0].k
    scalars = np.stack([part.state.r for part in parts])
    last = np.stack([part.state.last for part in parts])
    total = {name: int(scalars[:, at].sum()) for name, at in _counters(k).items()}
    _conserve(k, scalars, taken, partial)
    end = int(scalars[:, k.R_NOW].max() - 1) if partial else _drained(k, scalars)
    open_cycles = 0
    for part in parts:
        node = part.state.node
        until = np.where(node[:, 0] > 0, end + 1, node[:, 3].clip(max=end + 1))
        open_cycles += int((node[:, 2] + (until - node[:, 1]).clip(0)).sum())
    counts = sum(part.state.command_count for part in parts)
    histogram = parts[0].state.book[k.F_HISTOGRAM :]
    for part in parts[1:]:
        histogram += part.state.book[k.F_HISTOGRAM :]
    served = int(last[:, k.S_READS_SERVED].sum())
    accepted = int(last[:, k.S_LAST_ACCEPT].max())
    losses = [part.losses.finish(end) for part in parts if part.losses is not None]
    lost: dict[str, int] = {}
    for account in losses:
        for cause, cycles in account.lost.items():
            lost[cause] = lost.get(cause, 0) + cycles
    return RequestReport(
        device=device, config=config, mapping=mapping, channels=mapping.channels, requests=taken,
        **total,
        cycles_to_last_accept=accepted,
        cycles_to_drain=end,
        read_latency=LatencyHistogram(histogram, _longest(k, scalars, histogram)),
        command_counts={
            name: int(n) for name, n in zip(device.command_names, counts, strict=True) if n
        },
        open_cycles=open_cycles,
        at_last_accept={
            "cycles": accepted,
            "row_hits": int(last[:, k.S_HITS].sum()),
            "row_misses": int(last[:, k.S_MISSES].sum()),
            "row_conflicts": int(last[:, k.S_CONFLICTS].sum()),
            "reads_served": served,
            "writes_served": int(last[:, k.S_WRITES_SERVED].sum()),
            "avg_read_latency_cycles": (
                int(last[:, k.S_DEPARTED_LATENCY].sum()) / served if served else 0.0
            ),
        },
        lost_cycles=dict(sorted(lost.items(), key=lambda item: -item[1])) if losses else None,
        busy_cycles=sum(account.busy for account in losses) if losses else None,
        per_request=_times(parts, taken) if parts[0].completions is not None and not partial else None,
        command_logs=(
            [CommandLog.concatenate(device, part.logs or []) for part in parts]
            if parts[0].logs is not None
            else None
        ),
        partial=partial,
    )  # fmt: skip


def _drained(k: Any, scalars: NDArray[np.int64]) -> int:
    """Tick at which the last burst had crossed the bus."""
    ends = [
        np.where(scalars[:, k.S_READS_SERVED + kind] > 0, scalars[:, k.S_LAST_READ + kind] + latency, 0)
        for kind, latency in ((k.RD, scalars[:, k.C_READ_LATENCY]), (k.WR, scalars[:, k.C_WRITE_LATENCY]))
    ]
    return int(max(*(end.max() for end in ends), scalars[:, k.S_LAST_FORWARD].max()))


def _longest(k: Any, scalars: NDArray[np.int64], histogram: NDArray[np.int64]) -> int:
    used = np.flatnonzero(histogram[: k.HISTOGRAM])
    return max(int(scalars[:, k.S_MAX_LATENCY].max()), int(used[-1]) if len(used) else 0)


def _counters(k: Any) -> dict[str, int]:
    return {
        "reads": k.S_READS, "writes": k.S_WRITES, "forwarded_reads": k.S_FORWARDED,
        "coalesced_writes": k.S_COALESCED, "row_hits": k.S_HITS, "row_misses": k.S_MISSES,
        "row_conflicts": k.S_CONFLICTS, "read_latency_sum": k.S_LATENCY,
    }  # fmt: skip


def _conserve(k: Any, scalars: NDArray[np.int64], taken: int, partial: bool) -> None:
    """Every request went in, and came out once."""
    for r in scalars:
        waiting = r[k.R_READS] + r[k.R_WRITES] + r[k.R_ACTIVE] + (r[k.R_ACT2_SLOT] >= 0)
        served = r[k.S_READS_SERVED] + r[k.S_WRITES_SERVED] + r[k.S_FORWARDED] + r[k.S_COALESCED]
        if r[k.S_READS] + r[k.S_WRITES] != served + waiting or (waiting and not partial):
            raise RuntimeError(f"requests lost: {r[k.S_READS] + r[k.S_WRITES]} in, {served} out")
    if not partial and scalars[:, k.S_READS].sum() + scalars[:, k.S_WRITES].sum() != taken:
        raise RuntimeError(f"requests lost: {taken} given")


def _times(parts: list[_ChannelRun], taken: int) -> RequestTimes:
    times = np.zeros((3, taken), dtype=np.int64)
    for part in parts:
        index = np.concatenate([np.zeros(0, dtype=np.int64), *part.index])
        rows = np.concatenate([np.zeros((0, 5), dtype=np.int64), *(part.completions or [])])
        times[:, index[rows[:, 0]]] = rows[:, 1:4].T
    return RequestTimes(*times)
