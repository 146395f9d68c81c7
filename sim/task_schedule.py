"""When each task of a program runs, for durations that are given rather than simulated.

For programs of pauses and transfers, whose times a paper states; everything else is run by
`neardata.sim.system.engine`, with the same schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from neardata.sim.program import Pause, Program, Task, Transfer
from neardata.sim.system.schedule import Job
from neardata.sim.system.schedule import schedule as schedule_jobs

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
    """Start and end of every task: a unit does one at a time, a link one in each direction.

    >>> tasks = tuple(Task(name, unit, Pause(3), after)
    ...               for name, unit, after in [("a", "gpu", ()), ("b", "cpu", ()), ("c", "gpu", ("b",))])
    >>> schedule(Program("p", "s", tasks), lambda task: task.kernel.time_ps).makespan
    6
    """
    tasks = program.tasks
    index = {task.name: i for i, task in enumerate(tasks)}
    jobs = [Job(tuple(index[name] for name in task.after), _resources(task)) for task in tasks]
    found = schedule_jobs(jobs, lambda job, start: duration(tasks[job]))
    return Schedule(dict(zip(index, found.start, strict=True)), dict(zip(index, found.end, strict=True)))


def _resources(task: Task) -> tuple[str, ...]:
    kernel = task.kernel
    if isinstance(kernel, Transfer):
        return (f"{task.unit} out of {kernel.source}", f"{task.unit} into {kernel.target}")
    return (task.unit,)


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
