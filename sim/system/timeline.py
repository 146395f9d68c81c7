"""A run of a system as a timeline for https://ui.perfetto.dev: a track per unit and link port."""

from __future__ import annotations

import json
from typing import TextIO

from neardata.sim.program import Collective, Transfer
from neardata.sim.system.report import SystemReport

LIMIT = 200_000
"""Tasks written at most; a viewer in a browser takes about a million slices."""


def write_system_timeline(stream: TextIO, report: SystemReport, limit: int = LIMIT) -> int:
    """Write Chrome trace events, microseconds of simulated time.

    A slice is a task; its arguments tell the operator, the bound and the losses. Arrows of
    dependencies are left out: the order of the slices shows them.

    Returns:
        Tasks left out because of the limit.
    """
    system = report.system
    tracks: dict[str, tuple[int, int]] = {}
    groups = {group: i + 1 for i, group in enumerate([*system.units, *system.links])}
    stream.write('{"displayTimeUnit":"ns","traceEvents":[\n')
    first = True

    def event(**fields: object) -> None:
        nonlocal first
        stream.write(("" if first else ",\n") + json.dumps(fields, separators=(",", ":")))
        first = False

    for group, pid in groups.items():
        event(ph="M", pid=pid, name="process_name", args={"name": group})
        event(ph="M", pid=pid, name="process_sort_index", args={"sort_index": pid})

    def track(name: str, group: str) -> tuple[int, int]:
        if name not in tracks:
            pid = groups[group]
            tracks[name] = (pid, len(tracks) + 1)
            event(ph="M", pid=pid, tid=tracks[name][1], name="thread_name", args={"name": name})
        return tracks[name]

    tasks = report.program.tasks
    shown = sorted(range(len(tasks)), key=lambda i: report.schedule.start[i])[:limit]
    for i in shown:
        task, outcome = tasks[i], report.outcomes[i]
        start, end = report.schedule.start[i], report.schedule.end[i]
        kernel = task.kernel
        if isinstance(kernel, Transfer):
            names = [f"{kernel.source} to {kernel.target}"]
        elif isinstance(kernel, Collective):
            names = ["collectives"]
        else:
            names = [task.unit]
        args: dict[str, object] = {"kernel": kernel.kind, "bound": outcome.bound_by}
        args["roofline_us"] = outcome.bound_ps / 1e6
        for cause, ps in outcome.lost_ps.items():
            args[f"lost to {cause}, us"] = ps / 1e6
        for name in names:
            pid, tid = track(name, report.groups[i])
            event(
                ph="X", pid=pid, tid=tid, name=" + ".join(task.operators) or task.name, cat=kernel.kind,
                ts=start / 1e6, dur=(end - start) / 1e6, args=args,
            )  # fmt: skip
    stream.write("\n]}\n")
    return len(tasks) - len(shown)
