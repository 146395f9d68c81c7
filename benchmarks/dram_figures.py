"""The request engine's figures: agreement with the peers, threads, start-up and memory.

Run: python benchmarks/dram_figures.py [agreement] [threads] [startup] [memory]   (default: the first three)

``memory`` streams 10^9 requests, which takes a few minutes. Speed beside Ramulator 2.1 is in
dram_speed.py, PIM programs in pim.py, pim_peers.py.
"""

from __future__ import annotations

import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from neardata.arch.dram import load_device
from neardata.sim.dram.config import load_profile
from neardata.sim.dram.request import RequestReport, simulate
from neardata.sim.dram.trace import RequestChunk
from neardata.workloads.patterns import requests

DATA = Path(__file__).parents[1] / "tests" / "data" / "dram"


def line(what: str, must: str, measured: str, met: bool) -> None:
    print(f"{what:66}{must:>12}{measured:>22}  {'met' if met else 'MISSED'}", flush=True)


def rows(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(newline="") as stream:
        return list(csv.DictReader(stream))


def replay(config_name: str, pattern: str, n: int) -> RequestReport:
    name, _, variant = config_name.partition("+")
    device = load_device(name, corrected=False)
    changes = {"q128": {"read_queue": 128, "write_queue": 64}, "mop": {"mapping": "MOP4CLXOR"}}
    profile = "ramulator21-frfcfs" + "-rowhit" * (variant in ("rowhit", "q128"))
    geometry = {"lines_per_row": device.bursts_per_row, "banks": device.n_banks}
    chunks = requests(pattern, n, seed=1, line_bytes=device.burst_bytes, **geometry)
    config = load_profile(profile, changes.get(variant))
    return simulate(device, (RequestChunk(*chunk) for chunk in chunks), config)


def agreement() -> None:
    reference = rows("ramulator21_reference.csv")
    equal = 0
    for row in reference:
        report = replay(row["config"], row["pattern"], int(row["n_requests"]))
        equal += all(
            report.at_last_accept[key] == int(row[key])
            for key in ("cycles", "row_hits", "row_misses", "row_conflicts")
        )
    line("Ramulator 2.1 rows: cycles, row hits, misses, conflicts equal", "all",
         f"{equal} of {len(reference)}", equal == len(reference))  # fmt: skip
    for row in rows("dramsim3_matched.csv"):
        report = replay("ddr4-2400r", row["pattern"], int(row["n_requests"]))
        theirs = int(row["cycles_to_last_accept"])
        off = report.cycles_to_last_accept / theirs - 1
        if row["limited_by"] == "device":
            line(f"DRAMsim3 DDR4-2400R matched, {row['pattern']}", "1 %", f"{off:+.2%}", abs(off) <= 0.01)
        else:
            print(f"{'  (its own scheduling decides) ' + row['pattern']:66}{'':>12}{off:>+22.2%}")


def threads() -> None:
    """Wall time can only tell on an idle machine, so the CPU times it is made of are shown too."""
    device, config = load_device("ddr4-2400r"), load_profile("ramulator21-frfcfs")
    n = 2_000_000
    rng = np.random.default_rng(1)
    address = rng.integers(0, 2 * device.capacity_bytes // 64, n) * 64
    chunk = RequestChunk(address, rng.random(n) < 0.3)
    # compiles all, the sorting by blocks too
    simulate(device, [RequestChunk(address[:100_000], chunk.is_write[:100_000])], config, channels=2)

    def run(count: int) -> tuple[float, float, float]:
        start = time.perf_counter(), time.process_time(), time.thread_time()
        simulate(device, [chunk], config, channels=2, threads=count)
        end = time.perf_counter(), time.process_time(), time.thread_time()
        wall, cpu, serial = (e - s for s, e in zip(start, end, strict=True))
        return wall, cpu, serial

    runs: dict[int, list[tuple[float, float, float]]] = {1: [], 2: []}
    for _ in range(7):
        for count in runs:
            runs[count].append(run(count))
    wall = {count: min(w for w, _, _ in runs[count]) for count in runs}
    gain = wall[1] / wall[2]
    line("two channels in two threads against one, wall time, random 30 % writes", "1.8x",
         f"{gain:.2f}x", gain >= 1.8)  # fmt: skip
    alone, beside = beside_another(lambda: run(1)[1])
    used = [min(c / w for w, c, _ in runs[1]), max(c / w for w, c, _ in runs[2])]
    serial = min(s / c for _, c, s in runs[1])
    print(f"  CPU over wall time: {used[0]:.2f} in one thread, at best {used[1]:.2f} in two")
    print(f"  not in the threads: {serial:.1%} of the CPU time, so {2 / (1 + serial):.2f}x by Amdahl")
    print(f"  two processes at a time use {beside / alone:.2f} times the CPU each, so "
          f"{2 / (1 + serial) * alone / beside:.2f}x on this machine now")  # fmt: skip


def beside_another(work: Callable[[], float]) -> tuple[float, float]:
    """Least result of some work, alone and while another process does the same."""
    alone, beside = [], []
    for _ in range(3):
        alone.append(work())
        child = os.fork()
        if child == 0:
            work()
            os._exit(0)
        beside.append(work())
        os.waitpid(child, 0)
    return min(alone), min(beside)


def children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def startup() -> None:
    command = [sys.executable, "-m", "neardata"]
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "small.trace"
        trace.write_text("".join(f"LD {i * 64:#x}\n" for i in range(1000)))
        cpu = []
        for _ in range(4):
            before = children_cpu()
            subprocess.run(
                [*command, "dram", "run", "--device", "ddr4-2400r", "--trace", str(trace), "--json"],
                check=True, stdout=subprocess.DEVNULL, env={**os.environ, "NUMBA_CACHE_DIR": folder},
            )  # fmt: skip
            cpu.append(children_cpu() - before)
        cold, warm = cpu[0], min(cpu[1:])
        line("cold first `neardata dram run` of a small trace, CPU s", "20", f"{cold:.1f}", cold <= 20)
        line("warm `neardata dram run` of a small trace, CPU s", "1.5", f"{warm:.2f}", warm <= 1.5)
        times = []
        for _ in range(5):
            before = children_cpu()
            subprocess.run([*command, "--help"], check=True, stdout=subprocess.DEVNULL)
            times.append(children_cpu() - before)
        line("`neardata --help`, CPU s", "0.4", f"{min(times):.2f}", min(times) < 0.4)


def memory() -> None:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "neardata", "dram", "run", "--device", "ddr4-2400r", "--profile",
         "ramulator21-frfcfs", "--pattern", "stream", "-n", "1000000000", "--no-why", "--json"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    took = time.perf_counter() - start
    line(f"peak memory at 10^9 streamed requests, MB ({took:.0f} s)", "400", f"{peak:.0f}", peak <= 400)


if __name__ == "__main__":
    known = {"agreement": agreement, "threads": threads, "startup": startup, "memory": memory}
    chosen = sys.argv[1:] or ["agreement", "threads", "startup"]
    if set(chosen) - set(known):
        raise SystemExit(__doc__)
    print(f"{'figure':66}{'must':>12}{'measured':>22}")
    for part in chosen:
        known[part]()
