"""Attention on drives in plain form: pages by nested loops, the engine from event to event."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import Any

from neardata.arch.storage import AttentionEngine
from neardata.sim.program import FlashAttention

CHANNEL_KEYS, KEYS, VALUES = range(3)


def pages(kernel: FlashAttention, channels: int, size: int) -> list[tuple[int, ...]]:
    """(stream, copy, position from, to, channel from, to, bus) of every page."""
    found: list[tuple[int, ...]] = []
    stream = 0
    for context in kernel.context:
        for _ in range(kernel.kv_heads):
            bus = stream % channels
            mine: list[tuple[int, ...]] = []
            if kernel.channels_kept:
                held = kernel.page_bytes // (size * min(kernel.channels_a_page, kernel.qk))
                for row in range(0, context // held * held, held):
                    for column in range(0, kernel.qk, kernel.channels_a_page):
                        end = min(column + kernel.channels_a_page, kernel.qk)
                        mine.append((CHANNEL_KEYS, row, row + held, column, end))
            for copy, width in ((KEYS, kernel.qk), (VALUES, kernel.v)):
                held = kernel.page_bytes // (size * width)
                row = 0
                while row + held <= context:
                    mine.append((copy, row, row + held, 0, width))
                    row += held
            for page in mine:
                found.append((stream, *page, bus))
                bus = (bus + 1) % channels
            stream += 1
    return found


def order(streams: int, sparse: bool, ahead: int) -> list[tuple[int, int]]:
    """Segments as they are read."""
    waiting = list(range(streams))
    found: list[tuple[int, int]] = []
    for _ in range(ahead):
        if sparse and waiting:
            found.append((waiting.pop(0), CHANNEL_KEYS))
    for n in range(streams):
        if sparse and waiting:
            found.append((waiting.pop(0), CHANNEL_KEYS))
        found.append((n, KEYS))
        found.append((n, VALUES))
    return found


@dataclass
class Station:
    """Serves jobs in a fixed order, one at a time."""

    jobs: list[tuple[int, int]]
    busy: tuple[int, int] | None = None
    begun: int = 0


@dataclass
class NaiveEngine:
    """Reader, key unit, softmax and value unit; ``run`` goes on until the last head is done."""

    kernel: FlashAttention
    engine: AttentionEngine
    reads: dict[tuple[int, int], int]
    """Time that the reads of each segment take, in their order."""
    restart: int
    read_at: dict[tuple[int, int], int] = field(default_factory=dict)
    scored_at: dict[tuple[int, int], int] = field(default_factory=dict)
    weighed_at: dict[tuple[int, int], int] = field(default_factory=dict)
    attended_at: dict[int, int] = field(default_factory=dict)

    def context(self, n: int) -> int:
        return self.kernel.context[n // self.kernel.kv_heads]

    def attended_to(self, n: int) -> int:
        return max(1, round(self.context(n) * self.kernel.tokens_kept))

    def ops_ps(self, macs: int) -> int:
        return ceil(2 * macs * (1000 / self.engine.gemv_gflops))

    def scores_ps(self, count: int) -> int:
        return ceil(count * (1e6 / self.engine.softmax_mops))

    def run(self) -> int:
        k, segments = self.kernel, list(self.reads)
        sparse, group = k.channels_kept > 0, k.heads // k.kv_heads
        first = CHANNEL_KEYS if sparse else KEYS
        reader, key = Station(list(segments)), Station([s for s in segments if s[1] != VALUES])
        softmax, value = Station(list(key.jobs)), Station([s for s in segments if s[1] == VALUES])
        wake: set[int] = {0}
        while wake:
            now = min(wake)
            wake.discard(now)
            moved = True
            while moved:
                moved = False
                moved |= self.read(reader, now, wake, (sparse, group, first))
                moved |= self.multiply(key, now, wake, (sparse, group, first))
                moved |= self.weigh(softmax, now, wake, (sparse, group, first))
                moved |= self.sum(value, now, wake, (sparse, group, first))
        assert len(self.attended_at) == len(segments) // (3 if sparse else 2)
        return max(self.attended_at.values())

    def read(self, s: Station, now: int, wake: set[int], how: Any) -> bool:
        sparse, _, first = how
        if s.busy is not None:
            if now < s.begun:
                return False
            self.read_at[s.busy] = s.begun
            s.busy = None
            return True
        if not s.jobs:
            return False
        n, copy = s.jobs[0]
        before = n - self.engine.heads_in_flight
        if copy == first and before >= 0 and self.attended_at.get(before, now + 1) > now:
            return False
        took = self.reads[n, copy]
        if copy == KEYS and sparse and took:
            known = self.weighed_at.get((n, CHANNEL_KEYS))
            if known is None or known > now:
                return False
            free = max(self.read_at.values(), default=0)
            if known > free:
                took += self.restart
        s.jobs.pop(0)
        s.busy, s.begun = (n, copy), now + took
        wake.add(s.begun)
        return True

    def multiply(self, s: Station, now: int, wake: set[int], how: Any) -> bool:
        _, group, _ = how
        k = self.kernel
        if s.busy is None:
            if not s.jobs:
                return False
            n, copy = s.jobs[0]
            needs = (
                self.read_at.get((n, copy))
                if copy == CHANNEL_KEYS
                else self.weighed_at.get((n, CHANNEL_KEYS), None if how[0] else 0)
            )
            if needs is None or needs > now:
                return False
            s.jobs.pop(0)
            s.busy, s.begun = (n, copy), now
        n, copy = s.busy
        if copy == CHANNEL_KEYS:
            end = s.begun + self.ops_ps(self.context(n) * group * k.channels_kept)
        else:
            if (n, copy) not in self.read_at:
                return False
            end = max(
                s.begun + self.ops_ps(self.attended_to(n) * group * k.qk),
                self.read_at[n, copy] + self.ops_ps(group * k.qk),
            )
        if now < end:
            wake.add(end)
            return False
        self.scored_at[n, copy] = now
        s.busy = None
        return True

    def weigh(self, s: Station, now: int, wake: set[int], how: Any) -> bool:
        _, group, _ = how
        if s.busy is None:
            if not s.jobs or self.scored_at.get(s.jobs[0], now + 1) > now:
                return False
            s.busy, s.begun = s.jobs.pop(0), now
        n, copy = s.busy
        count = self.attended_to(n) * group
        if copy == CHANNEL_KEYS:
            count = 0 if self.kernel.ranked else self.context(n) * group
        end = s.begun + self.scores_ps(count)
        if now < end:
            wake.add(end)
            return False
        self.weighed_at[n, copy] = now
        s.busy = None
        return True

    def sum(self, s: Station, now: int, wake: set[int], how: Any) -> bool:
        _, group, _ = how
        if s.busy is None:
            if not s.jobs:
                return False
            n, copy = s.jobs[0]
            ready = max(self.weighed_at.get((n, KEYS), now + 1), self.read_at.get((n, VALUES), now + 1))
            if ready > now:
                return False
            s.jobs.pop(0)
            s.busy, s.begun = (n, copy), now
        n, _ = s.busy
        end = s.begun + self.ops_ps(self.attended_to(n) * group * self.kernel.v)
        if now < end:
            wake.add(end)
            return False
        self.attended_at[n] = now
        s.busy = None
        return True
