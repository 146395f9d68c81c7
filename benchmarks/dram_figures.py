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
    device, config = load_device("ddr4-2400r"), load_profile("ramulator21-frfcfs")
    n = 2_000_000
    rng = np.random.default_rng(1)
    address = rng.integers(0, 2 * device.capacity_bytes // 64, n) * 64
    chunk = RequestChunk(address, rng.random(n) < 0.3)
    simulate(device, [RequestChunk(address[:1000], chunk.is_write[:1000])], config, channels=2)
    best = {1: float("inf"), 2: float("inf")}
    for _ in range(5):
        for count in best:
            start = time.perf_counter()
            simulate(device, [chunk], config, channels=2, threads=count)
            best[count] = min(best[count], time.perf_counter() - start)
    gain = best[1] / best[2]
    line("two channels in two threads against one, wall time, random 30 % writes", "1.8x",
         f"{gain:.2f}x", gain >= 1.8)  # fmt: skip


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
