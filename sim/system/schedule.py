"""When tasks run: a discrete-event schedule over units and link ports.

A task is *ready* when all tasks it waits for have ended, and starts when every resource it needs is
free and no ready task that is listed before it waits for one of them: the list is the priority. Most
tasks hold their resources alone for a time known at the start. *Flows* share theirs: at any moment
each flow has the max-min fair rate, where every port carries at most one flow's full rate in all.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

DEPENDENCY, RESOURCE, START = "dependency", "resource", "start"


@dataclass(frozen=True)
class Job:
    """What the schedule needs to know of a task."""

    after: tuple[int, ...]
    """Indices of the jobs it waits for, all smaller than its own."""
    resources: tuple[str, ...]
    shared: bool = False
    """It is a flow: shares its resources with other flows."""


@dataclass(frozen=True)
class Schedule:
    """Integer picoseconds, one entry per job."""

    start: list[int]
    end: list[int]
    held_by: list[int]
    """The job whose end let this one start; -1 for a start at time 0."""
    reason: list[str]
    """``dependency``: it waited for that job's result; ``resource``: for the place it held; ``start``."""

    @property
    def time_ps(self) -> int:
        """End of the last job."""
        return max(self.end, default=0)

    def critical_path(self) -> list[int]:
        """Jobs, first to last, of which each starts when the one before ends, from time 0 to the end."""
        if not self.end:
            return []
        job = max(range(len(self.end)), key=lambda i: (self.end[i], -i))
        path = []
        while job >= 0:
            path.append(job)
            job = self.held_by[job]
        return path[::-1]


def schedule(jobs: Sequence[Job], duration: Callable[[int, int], int]) -> Schedule:
    """Run jobs to the end.

    Args:
        duration: ``duration(job, start_ps)``: picoseconds; of a flow, without others beside it.

    >>> plan = schedule([Job((), ("a",)), Job((), ("a",)), Job((0,), ("b",))], lambda job, start: 10)
    >>> plan.start, plan.reason
    ([0, 10, 10], ['start', 'resource', 'dependency'])
    """
    return _Simulation(jobs, duration).run()


class _Simulation:
    def __init__(self, jobs: Sequence[Job], duration: Callable[[int, int], int]) -> None:
        self.jobs, self.duration = jobs, duration
        n = len(jobs)
        self.start, self.end = [-1] * n, [-1] * n
        self.held_by, self.reason = [-1] * n, [START] * n
        self.waiting = [len(job.after) for job in jobs]
        self.followers: list[list[int]] = [[] for _ in jobs]
        for i, job in enumerate(jobs):
            for before in job.after:
                self.followers[before].append(i)
        self.queues: dict[str, list[int]] = {name: [] for job in jobs for name in job.resources}
        """Heaps of ready jobs."""
        self.holder: dict[str, int] = {}
        """Resource: the job that holds it alone."""
        self.flows_on: dict[str, int] = dict.fromkeys(self.queues, 0)
        self.freed_by: dict[str, int] = {}
        """Resource: the job that freed it last, and when."""
        self.ends: list[tuple[int, int]] = []
        self.left: dict[int, Fraction] = {}
        """Flow: picoseconds of full rate it still needs."""
        self.rate: dict[int, Fraction] = {}
        self.now = 0
        self.last_ended = -1

    def run(self) -> Schedule:
        self.make_ready([i for i, n in enumerate(self.waiting) if n == 0], set())
        done = 0
        while self.ends or self.left:
            finished = self.advance()
            done += len(finished)
            changed: set[str] = set()
            ready = []
            for job in finished:
                self.release(job, changed)
                for follower in self.followers[job]:
                    self.waiting[follower] -= 1
                    if self.waiting[follower] == 0:
                        ready.append(follower)
                        self.held_by[follower], self.reason[follower] = job, DEPENDENCY
            self.make_ready(ready, changed)
        if done != len(self.jobs):
            raise AssertionError(f"{len(self.jobs) - done} tasks never started")
        return Schedule(self.start, self.end, self.held_by, self.reason)

    def advance(self) -> list[int]:
        """Move to the next end; the jobs that end then, in order."""
        moment: Fraction | int | None = self.ends[0][0] if self.ends else None
        for flow, left in self.left.items():
            at = self.now + -(-left // self.rate[flow])  # ends count whole picoseconds
            if moment is None or at < moment:
                moment = at
        assert moment is not None
        moment = int(moment)
        finished = []
        passed = moment - self.now
        for flow in list(self.left):
            self.left[flow] -= passed * self.rate[flow]
            if self.left[flow] <= 0:
                del self.left[flow], self.rate[flow]
                finished.append(flow)
        self.now = moment
        while self.ends and self.ends[0][0] == moment:
            finished.append(heapq.heappop(self.ends)[1])
        for job in finished:
            self.end[job] = moment
        self.last_ended = max(finished)
        return sorted(finished)

    def release(self, job: int, changed: set[str]) -> None:
        for name in self.jobs[job].resources:
            if self.jobs[job].shared:
                self.flows_on[name] -= 1
            else:
                del self.holder[name]
            self.freed_by[name] = job
            changed.add(name)
        if self.jobs[job].shared:
            self.share()

    def make_ready(self, jobs: list[int], changed: set[str]) -> None:
        """Queue jobs that are ready, then start what may; ``changed``: resources that became free."""
        for job in jobs:
            if not self.jobs[job].resources:
                self.begin(job)
            for name in self.jobs[job].resources:
                heapq.heappush(self.queues[name], job)
                changed.add(name)
        self.start_from(changed)

    def start_from(self, names: set[str]) -> None:
        """Start what heads all of its queues and finds its resources free."""
        waiting = sorted(names)
        while waiting:
            name = waiting.pop()
            queue = self.queues[name]
            if not queue:
                continue
            job = queue[0]
            resources = self.jobs[job].resources
            if all(self.queues[r][0] == job and self.is_free(r, job) for r in resources):
                for r in resources:
                    heapq.heappop(self.queues[r])
                self.begin(job)
                waiting += resources

    def is_free(self, name: str, job: int) -> bool:
        if name in self.holder:
            return False
        return self.jobs[job].shared or self.flows_on[name] == 0

    def begin(self, job: int) -> None:
        self.start[job] = self.now
        before = self.held_by[job]
        if before < 0 or self.end[before] < self.now:  # it was ready earlier, and waited for a resource
            freed = [self.freed_by[name] for name in self.jobs[job].resources if name in self.freed_by]
            if self.now > 0:  # of its own resources, else of one that a job before it in a queue waited for
                last = max(freed, key=lambda j: (self.end[j], j), default=-1)
                if last < 0 or self.end[last] < self.now:
                    last = self.last_ended
                self.held_by[job], self.reason[job] = last, RESOURCE
        took = self.duration(job, self.now)
        if self.jobs[job].shared and took > 0:
            self.left[job] = Fraction(took)
            for name in self.jobs[job].resources:
                self.flows_on[name] += 1
            self.share()
            return
        if self.jobs[job].shared:
            for name in self.jobs[job].resources:
                self.flows_on[name] += 1
        else:
            for name in self.jobs[job].resources:
                self.holder[name] = job
        heapq.heappush(self.ends, (self.now + took, job))

    def share(self) -> None:
        """Max-min fair rates of all flows: fill until a port is full, fix its flows, go on."""
        unfixed = dict.fromkeys(self.left)
        room = {name: Fraction(1) for flow in unfixed for name in self.jobs[flow].resources}
        while unfixed:
            users: dict[str, int] = {}
            for flow in unfixed:
                for name in self.jobs[flow].resources:
                    users[name] = users.get(name, 0) + 1
            tightest = min(users, key=lambda name: (room[name] / users[name], name))
            fair = room[tightest] / users[tightest]
            for flow in [f for f in unfixed if tightest in self.jobs[f].resources]:
                self.rate[flow] = fair
                del unfixed[flow]
                for name in self.jobs[flow].resources:
                    room[name] -= fair
