"""Which of the waiting requests make a batch, and when.

Requests of similar length wait in a bucket. A bucket may be served when it holds a full batch, or when
its oldest request has waited long enough; of those that may, the one whose oldest request came first.
A batch that is not full then takes requests of other buckets, the nearest first and of two as near the
shorter; it may never hold more than a full batch of its longest member's bucket (PREBA, section 4.3).
With one bucket for all lengths this is a static batcher with a time-out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from neardata.arch.errors import InputError


@dataclass(frozen=True)
class Batching:
    """A batcher's rules.

    >>> rules = Batching(lambda bucket: 4, wait_ps=10, width=100)
    >>> rules.bucket(100), rules.bucket(101)
    (0, 1)
    """

    most: Callable[[int], int]
    """Requests of a full batch, by bucket of its longest member."""
    wait_ps: int
    """From a request's joining until its bucket may be served anyway."""
    width: int | None = None
    """Lengths of a bucket; None: one bucket for all."""
    merge: bool = True
    """A batch that is not full takes requests of other buckets."""

    def __post_init__(self) -> None:
        if self.wait_ps < 0:
            raise InputError(f"must not be negative, got {self.wait_ps}", key="wait_ps")
        if self.width is not None and self.width < 1:
            raise InputError(f"must be at least 1, got {self.width}", key="width")

    def bucket(self, length: int) -> int:
        """Where a request of so great a length waits; a bucket's greatest length is still its own."""
        return 0 if self.width is None else (length - 1) // self.width


@dataclass
class Waiting:
    """Requests that wait in their buckets, by their numbers, in the order they joined."""

    rules: Batching
    buckets: dict[int, deque[tuple[int, int]]] = field(default_factory=dict)
    """Of (joined, request)."""
    count: int = 0
    fulls: dict[int, int] = field(default_factory=dict)
    """Of a full batch, by bucket, as far as it was asked."""

    def join(self, now: int, request: int, length: int) -> None:
        """A request begins to wait."""
        self.buckets.setdefault(self.rules.bucket(length), deque()).append((now, request))
        self.count += 1

    def batch(self, now: int) -> list[int]:
        """The requests of the batch that may be served, taken out; empty: none may."""
        ready = []
        for bucket, queue in self.buckets.items():
            if queue and (len(queue) >= self._most(bucket) or queue[0][0] + self.rules.wait_ps <= now):
                ready.append((queue[0], bucket))
        if not ready:
            return []
        _, own = min(ready)
        taken = self._take(own, self._most(own))
        if self.rules.merge:
            longest = own
            for other in sorted(self.buckets, key=lambda b: (abs(b - own), b)):
                room = self._most(max(longest, other)) - len(taken)
                more = self._take(other, room)
                taken += more
                longest = max(longest, other) if more else longest
        self.count -= len(taken)
        return taken

    def _most(self, bucket: int) -> int:
        if bucket not in self.fulls:
            self.fulls[bucket] = most = self.rules.most(bucket)
            if most < 1:
                raise InputError(f"a full batch holds at least 1 request, got {most}", key="most")
        return self.fulls[bucket]

    def _take(self, bucket: int, room: int) -> list[int]:
        queue = self.buckets[bucket]
        return [queue.popleft()[1] for _ in range(min(max(room, 0), len(queue)))]
