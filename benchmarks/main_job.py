"""The main job's figures: CPU time of a point, the whole quickstart, and accelerations that change nothing.

Run: python benchmarks/main_job.py [points] [quickstart] [exact]   (default: all)

Processors and links against measurements are in processors.py, serving in serving.py, papers in
`neardata reproduce`.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from neardata.sim.system.engine import run
from neardata.study import find_study, load_study, lower_point, run_point


def line(what: str, must: str, measured: str, met: bool) -> None:
    print(f"{what:70}{must:>10}{measured:>16}  {'met' if met else 'MISSED'}", flush=True)


def points() -> None:
    """CPU seconds of each point of the quickstart, warm, best of three; AiM has a must."""
    path = find_study("quickstart.yaml")
    assert path is not None
    study = load_study(path)
    for label in study.systems:
        for batch in study.batch:
            run_point(study, label, batch)
            best = float("inf")
            for _ in range(3):
                start = time.process_time()
                point = run_point(study, label, batch)
                best = min(best, time.process_time() - start)
            what = f"{label}, batch {batch}, {len(point.program.tasks):,} tasks, CPU s"
            if label.startswith("AiM"):
                line(what, "2", f"{best:.2f}", best <= 2)
            else:
                print(f"{what:70}{'':>10}{best:>16.2f}")


def quickstart() -> None:
    """Wall time of the README's command, cold and warm kernels."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"NUMBA_CACHE_DIR": f"{folder}/cache"}
        for state, must in (("cold", 180), ("warm", 30)):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "neardata", "run", "quickstart.yaml", "--out", f"{folder}/{state}"],
                check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environment},
            )  # fmt: skip
            took = time.perf_counter() - start
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            files = len(list(Path(folder, state).iterdir()))
            line(f"quickstart, {state} kernels, wall s ({cpu:.0f} CPU s, {files} files)", str(must),
                 f"{took:.0f}", took <= must)  # fmt: skip


def exact() -> None:
    """Mixtral-8x7B, one token, on AiM devices: each command of each channel of each task simulated."""
    path = find_study("quickstart.yaml")
    assert path is not None
    study = load_study(path)
    label = next(name for name in study.systems if name.startswith("AiM"))
    program, target, costs = lower_point(study, label, 1)
    fast = run(program, target, costs=costs)
    start = time.process_time()
    slow = run(program, target, memoise=False, jump=False, fold=False)
    took = time.process_time() - start
    same = fast.schedule.end == slow.schedule.end and fast.reasons_ps == slow.reasons_ps
    line(f"Mixtral-8x7B, 32 channels, all accelerations off ({took:.0f} CPU s)", "equal",
         "equal" if same else "differ", same)  # fmt: skip


if __name__ == "__main__":
    known = {"points": points, "quickstart": quickstart, "exact": exact}
    chosen = sys.argv[1:] or list(known)
    if set(chosen) - set(known):
        raise SystemExit(__doc__)
    print(f"{'figure':70}{'must':>10}{'measured':>16}")
    for part in chosen:
        known[part]()
