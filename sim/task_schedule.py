"""When each task of a program runs, for durations that are given.

A task starts when all it waits for has ended and its unit is free; a unit does one task at a time,
and of those that may start it takes the one listed first. Nothing is interrupted.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from neardata.sim.program import Pause, Program, Task, Transfer

Duration = Callable[[Task], int]
"""Picoseconds of a task."""


@dataclass(frozen=True)
class Schedule:
    """Start and end of every task, in picoseconds."""

    start: Mapping[str, int]
    end: Mapping[str, int]

    @property
    def makespan(self) -> int:
        """End of the last task."""
        return max(self.end.values(), default=0)


def schedule(program: Program, duration: Duration) -> Schedule:
    """Start and end of every task.

    >>> tasks = tuple(Task(name, unit, Pause(3), after)
    ...               for name, unit, after in [("a", "gpu", ()), ("b", "link", ()), ("c", "gpu", ("b",))])
    >>> schedule(Program("p", "s", tasks), lambda task: task.kernel.time_ps).makespan
    6
    """
    tasks = program.tasks
    index = {task.name: i for i, task in enumerate(tasks)}
    missing = [len(set(task.after)) for task in tasks]
    waiting_for: list[list[int]] = [[] for _ in tasks]
    for i, task in enumerate(tasks):
        for name in set(task.after):
            waiting_for[index[name]].append(i)
    start, end = [0] * len(tasks), [0] * len(tasks)
    may_start = [i for i, count in enumerate(missing) if not count]  # a heap: in the program's order
    queued: dict[str, list[int]] = defaultdict(list)  # ready, but the unit is busy
    busy: set[str] = set()
    running: list[tuple[int, int]] = []
    now = 0

    def finish(i: int) -> None:
        unit = tasks[i].unit
        busy.discard(unit)
        if queued[unit]:
            heapq.heappush(may_start, heapq.heappop(queued[unit]))
        for j in waiting_for[i]:
            missing[j] -= 1
            if not missing[j]:
                heapq.heappush(may_start, j)

    while may_start or running:
        if not may_start:
            now = running[0][0]
            while running and running[0][0] == now:
                finish(heapq.heappop(running)[1])
        while may_start:
            i = heapq.heappop(may_start)
            if tasks[i].unit in busy:
                heapq.heappush(queued[tasks[i].unit], i)
                continue
            start[i], end[i] = now, now + duration(tasks[i])
            if end[i] == now:
                finish(i)
            else:
                busy.add(tasks[i].unit)
                heapq.heappush(running, (end[i], i))
    return Schedule(
        {name: start[i] for name, i in index.items()},
        {name: end[i] for name, i in index.items()},
    )


def fixed_rates(bytes_per_s: Mapping[str, float]) -> Duration:
    """Durations of programs of pauses and transfers: ``bytes_per_s`` of each link, no latency.

    >>> fixed_rates({"pcie": 32e9})(Task("t", "pcie", Transfer("host", "gpu", 32)))
    1000
    """

    def duration(task: Task) -> int:
        kernel = task.kernel
        if isinstance(kernel, Pause):
            return kernel.time_ps
        if isinstance(kernel, Transfer):
            return round(kernel.bytes * 1e12 / bytes_per_s[task.unit])
        raise TypeError(f"task '{task.name}': only pauses and transfers have a fixed time, got {kernel.kind}")

    return duration
