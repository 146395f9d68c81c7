"""The obvious twin of `neardata.sim.system.schedule`: from moment to moment, everything looked at anew."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from neardata.sim.system.schedule import Job


def schedule(jobs: Sequence[Job], times: Sequence[int]) -> tuple[list[int], list[int]]:
    """Start and end of every job."""
    n = len(jobs)
    start: list[int | None] = [None] * n
    end: list[int | None] = [None] * n
    work = [Fraction(t) for t in times]
    now = 0

    def ready(i: int) -> bool:
        return all(end[j] is not None for j in jobs[i].after)

    def runs(i: int) -> bool:
        return start[i] is not None and end[i] is None

    def may_use(i: int, resource: str) -> bool:
        others = [j for j in range(n) if j != i and runs(j) and resource in jobs[j].resources]
        return not others or (jobs[i].shared and all(jobs[j].shared for j in others))

    while any(e is None for e in end):
        # start what may start, in the order of the list; a resource that one waits for is not passed on
        waiting = [i for i in range(n) if start[i] is None and ready(i)]
        changed = True
        while changed:
            changed = False
            taken: set[str] = set()
            for i in waiting:
                if start[i] is not None:
                    continue
                resources = jobs[i].resources
                if not taken & set(resources) and all(may_use(i, r) for r in resources):
                    start[i] = now
                    changed = True
                    break
                taken |= set(resources)
        # how fast everything goes
        rate = {i: Fraction(1) for i in range(n) if runs(i)}
        flows = [i for i in rate if jobs[i].shared and work[i] > 0]
        room = {r: Fraction(1) for i in flows for r in jobs[i].resources}
        left = list(flows)
        while left:
            share = {r: room[r] / sum(r in jobs[i].resources for i in left) for r in room
                     if any(r in jobs[i].resources for i in left)}  # fmt: skip
            narrow = min(share, key=lambda r: (share[r], r))
            for i in [i for i in left if narrow in jobs[i].resources]:
                rate[i] = share[narrow]
                left.remove(i)
                for r in jobs[i].resources:
                    room[r] -= share[narrow]
        # go on to the next end
        step = min(-(-work[i] // rate[i]) for i in rate)
        now += int(step)
        for i in rate:
            work[i] -= step * rate[i]
            if work[i] <= 0:
                end[i] = now
    return [s if s is not None else -1 for s in start], [e if e is not None else -1 for e in end]
