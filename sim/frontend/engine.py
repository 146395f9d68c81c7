"""Requests through preparing stages, a batcher and executing servers, event by event.

Time is integer picoseconds. Each stage serves in the order in which requests reach it (of the same
moment, in the order of their numbers) on the server that is free first. All that happens at a moment is
seen by the batches that begin then.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from neardata.arch.errors import InputError
from neardata.sim.frontend.batching import Batching, Waiting
from neardata.sim.frontend.report import BatchRun, FrontEndReport, Handled


@dataclass(frozen=True)
class Request:
    """One input."""

    arrival_ps: int
    length: int = 1
    """What the times of stages and batches depend on; any unit."""


@dataclass(frozen=True)
class Stage:
    """Servers that prepare one request at a time: cores, compute units, a link."""

    name: str
    servers: int
    service_ps: Callable[[int], int]
    """From taking a request to giving it on, by length."""
    interval_ps: Callable[[int], int] | None = None
    """From taking a request until the server takes the next; default: ``service_ps``. A pipelined unit
    takes the next before it has given this one on, and gives none on before those that it took earlier."""


def serve_batches(
    requests: Sequence[Request],
    stages: Sequence[Stage],
    batching: Batching,
    executors: int,
    execute_ps: Callable[[int, int], int],
) -> FrontEndReport:
    """Serve a stream of requests to its end.

    Args:
        requests: with any order of arrivals.
        stages: that each goes through, in order; none: requests come prepared.
        batching: of what has been prepared.
        executors: servers that execute a batch at a time, such as slices of a GPU.
        execute_ps: of a batch: how many requests, and the longest one's length, to which all are padded.

    Raises:
        InputError: no requests, stages or executors without servers, times below zero, lengths below 1.

    >>> report = serve_batches([Request(0), Request(0)], [Stage("core", 1, lambda length: 10)],
    ...                        Batching(lambda bucket: 2, wait_ps=100), 1, lambda count, longest: 7)
    >>> [(r.prepared_ps, r.begun_ps, r.done_ps) for r in report.requests]
    [(10, 20, 27), (20, 20, 27)]
    """
    if not requests:
        raise InputError("there are no requests", key="requests")
    if executors < 1:
        raise InputError(f"must be at least 1, got {executors}", key="executors")
    for stage in stages:
        if stage.servers < 1:
            raise InputError(f"{stage.name}: at least 1 server, got {stage.servers}", key="servers")
    for request in requests:
        if request.arrival_ps < 0 or request.length < 1:
            raise InputError(f"arrives at {request.arrival_ps} with length {request.length}", key="requests")
    return _Run(requests, stages, batching, executors, execute_ps).report()


class _Run:
    def __init__(
        self,
        requests: Sequence[Request],
        stages: Sequence[Stage],
        batching: Batching,
        executors: int,
        execute_ps: Callable[[int, int], int],
    ) -> None:
        self.requests, self.stages, self.executors, self.execute_ps = requests, stages, executors, execute_ps
        self.rules, self.waiting = batching, Waiting(batching)
        self.free = [[(0, server) for server in range(stage.servers)] for stage in stages]
        """When each server takes its next request, and which it is, as heaps."""
        self.given = [[0] * stage.servers for stage in stages]
        """When each server gives on the last request that it has taken."""
        self.busy = [0] * len(stages)
        self.idle = list(range(executors))
        heapq.heapify(self.idle)
        self.entered: list[list[int]] = [[] for _ in requests]
        """When each request was taken by each stage."""
        self.prepared = [-1] * len(requests)
        self.done: list[Handled | None] = [None] * len(requests)
        self.batches: list[BatchRun] = []
        # time, step, what: steps 0.. are stages reached, then joining the batcher, a time-out, a batch's end
        self.events = [(request.arrival_ps, 0, i) for i, request in enumerate(requests)]
        heapq.heapify(self.events)
        self.joining = len(stages)

    def report(self) -> FrontEndReport:
        while self.events:
            now = self.events[0][0]
            while self.events and self.events[0][0] == now:
                _, step, what = heapq.heappop(self.events)
                if step < self.joining:
                    self._prepare(step, what, now)
                elif step == self.joining:
                    self._join(what, now)
                elif step == self.joining + 2:
                    heapq.heappush(self.idle, what)
            while self.idle and self.waiting.count:
                batch = self.waiting.batch(now)
                if not batch:
                    break
                self._execute(batch, now)
        handled = [request for request in self.done if request is not None]
        if len(handled) != len(self.requests) or self.waiting.count:
            raise AssertionError(f"{len(handled)} of {len(self.requests)} requests were handled")
        return FrontEndReport(
            tuple(handled), tuple(self.batches), self.executors,
            {s.name: (s.servers, busy) for s, busy in zip(self.stages, self.busy, strict=True)},
        )  # fmt: skip

    def _prepare(self, step: int, i: int, now: int) -> None:
        stage, length = self.stages[step], self.requests[i].length
        service = stage.service_ps(length)
        interval = service if stage.interval_ps is None else stage.interval_ps(length)
        if service < 0 or interval < 0:
            raise InputError(f"{stage.name}: {service} ps of service every {interval} ps", key="service_ps")
        free, server = self.free[step][0]
        begin = max(now, free)
        heapq.heapreplace(self.free[step], (begin + interval, server))
        given = self.given[step][server] = max(begin + service, self.given[step][server])
        self.busy[step] += interval
        self.entered[i].append(begin)
        heapq.heappush(self.events, (given, step + 1, i))

    def _join(self, i: int, now: int) -> None:
        self.prepared[i] = now
        self.waiting.join(now, i, self.requests[i].length)
        if self.rules.wait_ps:
            heapq.heappush(self.events, (now + self.rules.wait_ps, self.joining + 1, i))

    def _execute(self, batch: list[int], now: int) -> None:
        longest = max(self.requests[i].length for i in batch)
        took = self.execute_ps(len(batch), longest)
        if took < 1:
            raise InputError(f"a batch takes {took} ps", key="execute_ps")
        where = heapq.heappop(self.idle)
        heapq.heappush(self.events, (now + took, self.joining + 2, where))
        lengths = sum(self.requests[i].length for i in batch)
        self.batches.append(BatchRun(where, now, now + took, tuple(batch), longest, lengths))
        for i in batch:
            request = self.requests[i]
            self.done[i] = Handled(
                i, request.arrival_ps, request.length, tuple(self.entered[i]), self.prepared[i], now,
                now + took, len(self.batches) - 1,
            )  # fmt: skip
