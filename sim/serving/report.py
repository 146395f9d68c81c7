"""What became of each request, and what the replicas did meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from neardata.arch.errors import InputError

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Served:
    """One request; times in ps from the start of the stream."""

    index: int
    replica: int
    """Where it ended."""
    prompt_tokens: int
    generated_tokens: int
    arrival_ps: int
    scheduled_ps: int
    """The first step it is in was planned."""
    first_ps: int
    """The step that made its first token ended."""
    shown_ps: int
    """The step that made its first token the user sees ended."""
    last_ps: int
    preemptions: int
    moves: int
    moving_ps: int

    @property
    def queued_ps(self) -> int:
        """From arrival until it was put in a step."""
        return self.scheduled_ps - self.arrival_ps

    @property
    def ttft_ps(self) -> int:
        """Time to first token, from arrival."""
        return self.first_ps - self.arrival_ps

    @property
    def shown_after_ps(self) -> int:
        """Time to the first token the user sees, from arrival."""
        return self.shown_ps - self.arrival_ps

    @property
    def tpot_ps(self) -> float | None:
        """Time per output token after the first; None where there is only one."""
        if self.generated_tokens < 2:
            return None
        return (self.last_ps - self.first_ps) / (self.generated_tokens - 1)

    @property
    def e2e_ps(self) -> int:
        """From arrival to the last token."""
        return self.last_ps - self.arrival_ps


@dataclass(frozen=True)
class Step:
    """One step of one replica."""

    replica: int
    start_ps: int
    end_ps: int
    sequences: int
    tokens: int
    """New ones computed."""
    made: int
    """Tokens generated."""
    waiting: int
    """Sequences of the replica that were not in the step."""
    held_blocks: int


@dataclass(frozen=True)
class Distribution:
    """Mean and percentiles (between ranks, linearly), ps."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Distribution:
        """
        Raises:
            InputError: no values.

        >>> Distribution.of([1, 2, 3]).p50
        2.0
        """
        array = np.array(list(values), dtype=float)
        if not array.size:
            raise InputError("no request made two tokens, so there is no time between tokens")
        return cls(len(array), float(array.mean()), *map(float, np.percentile(array, PERCENTILES)))


@dataclass(frozen=True)
class ServingReport:
    """A stream of requests, served."""

    requests: tuple[Served, ...]
    """In the order of the stream."""
    steps: tuple[Step, ...]
    """In the order of their ends."""

    @property
    def time_ps(self) -> int:
        """Until the last token."""
        return max(request.last_ps for request in self.requests)

    @property
    def ttft(self) -> Distribution:
        """Time to first token."""
        return Distribution.of(r.ttft_ps for r in self.requests)

    @property
    def shown(self) -> Distribution:
        """Time to the first token the user sees."""
        return Distribution.of(r.shown_after_ps for r in self.requests)

    @property
    def tpot(self) -> Distribution:
        """Time per output token of the requests that make more than one."""
        return Distribution.of(r.tpot_ps for r in self.requests if r.tpot_ps is not None)

    @property
    def e2e(self) -> Distribution:
        """Arrival to last token."""
        return Distribution.of(r.e2e_ps for r in self.requests)

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens over the whole run."""
        return sum(r.generated_tokens for r in self.requests) * 1e12 / self.time_ps

    @property
    def preemptions(self) -> int:
        """Of all requests."""
        return sum(r.preemptions for r in self.requests)

    def busy(self, replica: int) -> float:
        """Part of the run during which a replica stepped with work of its own."""
        mine = sum(s.end_ps - s.start_ps for s in self.steps if s.replica == replica)
        return mine / self.time_ps

    def mean_batch(self, replica: int | None = None) -> float:
        """Sequences in a step, over its time, of one replica or of all."""
        steps = [s for s in self.steps if replica in (None, s.replica)]
        time = sum(s.end_ps - s.start_ps for s in steps)
        return sum(s.sequences * (s.end_ps - s.start_ps) for s in steps) / time if time else 0.0

    def timeline(self, intervals: int, replica: int = 0) -> list[tuple[int, float, float]]:
        """A replica over equal intervals: (start in ps, part of it busy, sequences in a step on
        average over the busy part).

        Raises:
            InputError: no interval.
        """
        if intervals < 1:
            raise InputError(f"at least one interval, got {intervals}", key="intervals")
        edges = [self.time_ps * i // intervals for i in range(intervals + 1)]
        busy, weighted = [0] * intervals, [0] * intervals
        i = 0
        for step in (s for s in self.steps if s.replica == replica):
            while edges[i + 1] <= step.start_ps:
                i += 1
            j = i
            while j < intervals and edges[j] < step.end_ps:
                inside = min(step.end_ps, edges[j + 1]) - max(step.start_ps, edges[j])
                busy[j] += inside
                weighted[j] += inside * step.sequences
                j += 1
        return [
            (edges[j], busy[j] / max(edges[j + 1] - edges[j], 1), weighted[j] / busy[j] if busy[j] else 0.0)
            for j in range(intervals)
        ]
