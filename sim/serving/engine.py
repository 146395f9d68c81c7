"""Serving a stream of requests: replicas step, requests arrive, move and end.

Event by event, in integer picoseconds. A replica begins a step as soon as the last one is over and
it has something to do; what arrives during a step waits for the next. Events of the same moment are
all seen by the steps that begin then. Replicas of one instance step together.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass, field

from neardata.arch.errors import InputError
from neardata.sim.serving.batch import Chunk, StepTime, batch_of
from neardata.sim.serving.first_come import FirstCome
from neardata.sim.serving.limits import Limits
from neardata.sim.serving.placement import LeastLoaded, Placement, Scheduler
from neardata.sim.serving.report import Served, ServingReport, Step
from neardata.sim.serving.sequence import Arrival, Sequence, sequence_of


@dataclass(frozen=True)
class Instance:
    """Replicas that step together; one, unless ranks meet inside each step."""

    step_ps: StepTime
    limits: Limits = field(default_factory=Limits)
    ranks: int = 1
    scheduler: Callable[[Limits], Scheduler] = FirstCome
    ahead: bool = False
    """The next step is planned when this one begins (vLLM's asynchronous scheduling): what arrives
    later is not in it, and what this step ends still keeps its place."""


@dataclass(frozen=True)
class Moving:
    """How keys and values get from one replica to another.

    A replica sends to one other at a time, and receives from one. Blocks at the source are free when
    the last byte has left; what waits at its target takes blocks when it is admitted.
    """

    ps: Callable[[int], int]
    """Picoseconds for so many tokens, alone on the way."""
    layers: int = 1
    """More than one: each layer's part is sent when the step before the move has computed it, so that
    of the step only the last layer's is left at its end."""


_STEP_END, _COMING = 0, 1


@dataclass(frozen=True)
class _Plan:
    """A step to run."""

    chunks: list[list[Chunk]]
    """Of each rank."""
    made: list[list[Sequence]]
    """Sequences of each rank that make a token."""
    took: int
    waiting: list[int]
    held: list[int]


def serve(
    requests: Many[Arrival],
    instances: Many[Instance],
    placement: Placement | None = None,
    moving: Moving | None = None,
) -> ServingReport:
    """Serve a stream of requests to its end.

    Args:
        requests: with any order of arrivals.
        instances: where they run; replicas are numbered through, instance by instance.
        placement: which replica (default: the least loaded).
        moving: needed where the placement moves sequences; default: in no time.

    Raises:
        InputError: no requests or instances, a request that makes nothing or fits no replica, a step
            that takes no time, sequences that would move out of steps planned ahead.

    >>> one_ms = Instance(lambda batches: 10**9)
    >>> report = serve([Arrival(0, prompt_tokens=3000, generated_tokens=3)], [one_ms])
    >>> report.requests[0].ttft_ps // 10**9, report.requests[0].e2e_ps // 10**9
    (2, 4)
    """
    if not requests:
        raise InputError("there are no requests", key="requests")
    if not instances or any(instance.ranks < 1 for instance in instances):
        raise InputError("there must be an instance, and each has a rank", key="instances")
    placement = placement or LeastLoaded()
    if placement.moves and any(instance.ahead for instance in instances):
        raise InputError("a sequence cannot move where its next step is planned ahead", key="ahead")
    return _Run(requests, instances, placement, moving or Moving(lambda tokens: 0)).report()


class _Run:
    def __init__(
        self, requests: Many[Arrival], instances: Many[Instance], placement: Placement, moving: Moving
    ) -> None:
        self.instances, self.placement, self.moving = instances, placement, moving
        self.replicas: list[Scheduler] = []
        self.ranks: list[range] = []
        for instance in instances:
            first = len(self.replicas)
            self.replicas += [instance.scheduler(instance.limits) for _ in range(instance.ranks)]
            self.ranks.append(range(first, len(self.replicas)))
        self.stepping: list[_Plan | None] = [None] * len(instances)
        """Under way."""
        self.planned: list[_Plan | None] = [None] * len(instances)
        """To follow it."""
        self.began = [0] * len(instances)
        self.sends_until, self.receives_until = ([0] * len(self.replicas) for _ in range(2))
        self.steps: list[Step] = []
        self.served: dict[int, Served] = {}
        self.events: list[tuple[int, int, int, object]] = []
        self.counter = 0
        for index, request in enumerate(requests):
            sequence = sequence_of(index, request)
            self._at(sequence.arrival_ps, _COMING, (sequence, None, None))
        self.requests = len(requests)

    def _at(self, time: int, kind: int, what: object) -> None:
        heapq.heappush(self.events, (time, kind, self.counter, what))
        self.counter += 1

    def report(self) -> ServingReport:
        while self.events:
            now = self.events[0][0]
            while self.events and self.events[0][0] == now:
                _, kind, _, what = heapq.heappop(self.events)
                if kind == _STEP_END:
                    self._end_step(what, now)  # type: ignore[arg-type]
                else:
                    self._come(*what)  # type: ignore[misc]
            for i in range(len(self.instances)):
                if self.stepping[i] is None:
                    self._begin_step(i, now)
        if len(self.served) != self.requests:
            raise AssertionError(f"{len(self.served)} of {self.requests} requests were served")
        return ServingReport(tuple(self.served[i] for i in range(self.requests)), tuple(self.steps))

    def _come(self, sequence: Sequence, source: int | None, target: int | None) -> None:
        """A request arrives, or a sequence from another replica."""
        if target is None:
            target = self.placement.place(sequence, self.replicas)
        if source is not None:
            self.replicas[source].release(sequence)
        self.replicas[target].add(sequence)

    def _plan(self, i: int, now: int) -> _Plan | None:
        """An instance's next step, its tokens counted as computed; None if it has nothing to do."""
        chunks, batches, held, waiting = [], [], [], []
        for r in self.ranks[i]:
            replica = self.replicas[r]
            plan = replica.plan()
            chunks.append(plan)
            batches.append(batch_of(plan, replica.swapped_tokens))
            held.append(replica.held_blocks)
            waiting.append(sum(replica.load) - len(plan))
        if not any(chunks):
            return None
        took = self.instances[i].step_ps(batches)
        if took < 1:
            raise InputError(f"a step takes {took} ps", key="step_ps")
        for chunk in itertools.chain(*chunks):
            if chunk.sequence.scheduled_ps < 0:
                chunk.sequence.scheduled_ps = now
        made = []
        for r, plan in zip(self.ranks[i], chunks, strict=True):
            made.append([chunk.sequence for chunk in plan if _compute(chunk)])
            for sequence in made[-1]:
                self.replicas[r].rotate(sequence)
        return _Plan(chunks, made, took, waiting, held)

    def _begin_step(self, i: int, now: int) -> None:
        plan, self.planned[i] = self.planned[i] or self._plan(i, now), None
        if plan is None:
            return
        self.stepping[i], self.began[i] = plan, now
        self._at(now + plan.took, _STEP_END, i)
        if self.instances[i].ahead:
            self.planned[i] = self._plan(i, now)

    def _end_step(self, i: int, now: int) -> None:
        plan = self.stepping[i]
        assert plan is not None
        self.stepping[i] = None
        for n, r in enumerate(self.ranks[i]):
            chunks, made = plan.chunks[n], plan.made[n]
            if not chunks:
                continue
            for sequence in made:
                self._give(sequence, r, self.began[i], now)
            self.steps.append(
                Step(
                    replica=r, start_ps=self.began[i], end_ps=now, sequences=len(chunks),
                    tokens=sum(chunk.tokens for chunk in chunks), made=len(made), waiting=plan.waiting[n],
                    held_blocks=plan.held[n],
                )
            )  # fmt: skip

    def _give(self, sequence: Sequence, replica: int, began: int, now: int) -> None:
        """A token is there."""
        sequence.given += 1
        if sequence.given == 1:
            sequence.first_ps = now
        if sequence.given == sequence.hidden + 1:
            sequence.shown_ps = now
        if sequence.given == sequence.generated:
            sequence.last_ps = now
            self.replicas[replica].remove(sequence)
            self.replicas[replica].release(sequence)
            self.served[sequence.index] = _served(sequence, replica)
        elif self.placement.moves and sequence.given in (1, sequence.hidden):
            target = self.placement.move(sequence, replica, self.replicas)
            if target is not None and target != replica:
                self._move(sequence, replica, target, began, now)

    def _move(self, sequence: Sequence, source: int, target: int, began: int, now: int) -> None:
        self.replicas[source].remove(sequence)
        tokens, moving = sequence.computed, self.moving
        ready = began if moving.layers > 1 else now
        start = max(ready, self.sends_until[source], self.receives_until[target])
        last = now + moving.ps(-(-tokens // moving.layers))
        end = max(start + moving.ps(tokens), last)
        self.sends_until[source] = self.receives_until[target] = end
        sequence.moves += 1
        sequence.moving_ps += end - now
        self._at(end, _COMING, (sequence, source, target))


def _compute(chunk: Chunk) -> bool:
    """Count a chunk as computed; whether its sequence makes a token."""
    sequence = chunk.sequence
    sequence.computed += chunk.tokens
    if sequence.missing:
        return False
    sequence.made += 1
    return True


def _served(sequence: Sequence, replica: int) -> Served:
    return Served(
        index=sequence.index, replica=replica, prompt_tokens=sequence.prompt,
        generated_tokens=sequence.generated, arrival_ps=sequence.arrival_ps,
        scheduled_ps=sequence.scheduled_ps, first_ps=sequence.first_ps, shown_ps=sequence.shown_ps,
        last_ps=sequence.last_ps, preemptions=sequence.preemptions, moves=sequence.moves,
        moving_ps=sequence.moving_ps,
    )  # fmt: skip
