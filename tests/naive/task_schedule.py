"""The obvious twin of a system's event engine: from instant to instant, the first task that may start."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from neardata.sim.program import Task


def schedule(tasks: Sequence[Task], duration: Callable[[Task], int]) -> tuple[dict[str, int], dict[str, int]]:
    """Start and end of every task, in the unit of ``duration``.

    A task may start when all that it waits for has ended and no task runs on its unit. Of those that may
    start, the one listed first does.
    """
    start: dict[str, int] = {}
    end: dict[str, int] = {}
    now = 0

    def may_start(task: Task) -> bool:
        done = all(name in end and end[name] <= now for name in task.after)
        free = not any(
            t.unit == task.unit and start[t.name] <= now < end[t.name] for t in tasks if t.name in end
        )
        return task.name not in start and done and free

    while len(start) < len(tasks):
        for task in tasks:
            if may_start(task):
                start[task.name], end[task.name] = now, now + duration(task)
                break
        else:
            now = min(time for time in end.values() if time > now)
    return start, end
