"""What became of each request, and how busy the servers were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

PARTS = ("queue", "prepare", "batch", "execute")
"""Of a request's time: waiting for a server that prepares it, being prepared, waiting in the batcher
(for others, or for an executor), and in its batch's execution."""


@dataclass(frozen=True)
class Handled:
    """One request; times in ps from the start of the stream."""

    index: int
    arrival_ps: int
    length: int
    entered_ps: tuple[int, ...]
    """Taken by each stage."""
    prepared_ps: int
    begun_ps: int
    """Its batch began."""
    done_ps: int
    batch: int
    """Number of its batch."""

    @property
    def latency_ps(self) -> int:
        """From arrival to the end of its batch."""
        return self.done_ps - self.arrival_ps


@dataclass(frozen=True)
class BatchRun:
    """One batch."""

    executor: int
    begun_ps: int
    done_ps: int
    requests: tuple[int, ...]
    longest: int
    lengths: int
    """Of all its requests."""

    @property
    def padding(self) -> float:
        """Part of the padded batch that is no request's own."""
        return 1 - self.lengths / (self.longest * len(self.requests))


@dataclass(frozen=True)
class FrontEndReport:
    """A stream of requests, served."""

    requests: tuple[Handled, ...]
    """In the order of the stream."""
    batches: tuple[BatchRun, ...]
    """In the order they began."""
    executors: int
    stages: Mapping[str, tuple[int, int]]
    """Servers of each stage, and the ps they were busy in all."""

    @cached_property
    def time_ps(self) -> int:
        """Until the last request is done."""
        return max(request.done_ps for request in self.requests)

    @cached_property
    def latencies_ps(self) -> np.ndarray:
        """Of each request, int64, in the order of the stream."""
        return np.array([request.latency_ps for request in self.requests], dtype=np.int64)

    def latency_ps(self, percentile: float) -> float:
        """A percentile of the latencies, between ranks linearly."""
        return float(np.percentile(self.latencies_ps, percentile))

    def parts_ps(self, request: Handled, services_ps: tuple[int, ...]) -> dict[str, int]:
        """A request's time by `PARTS`; they add up to its latency.

        Args:
            request: of this report.
            services_ps: of each stage, for its length.
        """
        prepare = sum(services_ps)
        return {
            "queue": request.prepared_ps - request.arrival_ps - prepare,
            "prepare": prepare,
            "batch": request.begun_ps - request.prepared_ps,
            "execute": request.done_ps - request.begun_ps,
        }

    @property
    def mean_batch(self) -> float:
        """Requests of a batch."""
        return len(self.requests) / len(self.batches)

    @property
    def padding(self) -> float:
        """Part of all padded batches that is no request's own."""
        padded = sum(batch.longest * len(batch.requests) for batch in self.batches)
        return 1 - sum(batch.lengths for batch in self.batches) / padded

    def busy(self, stage: str | None = None) -> float:
        """Part of the run that a server of a stage, or an executor, is busy."""
        if stage is None:
            return sum(b.done_ps - b.begun_ps for b in self.batches) / (self.executors * self.time_ps)
        servers, busy_ps = self.stages[stage]
        return busy_ps / (servers * self.time_ps)
