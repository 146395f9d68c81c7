"""Requests per CPU second of the request engine, alone or beside a peer on the same traces.

Run: python benchmarks/dram_speed.py [--peer COMMAND] [--devices A,B] [--patterns P,Q] [-n N] [--reps R]

``COMMAND CONFIG TRACE`` must replay the trace (``LD|ST 0xaddress`` lines) with the peer's
configuration CONFIG (DDR4_2400R, HBM3_6400 ...) and print one JSON object with ``cycles`` (when
the last request was accepted) and ``cpu_s`` (CPU seconds of the simulation, without reading the
trace). Ours is the CPU time of `simulate` in this process, one thread, kernels compiled before,
requests in memory. The two take turns; the best repetition of each counts, since other work on
the machine can only add to it.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from neardata.arch.dram import Device, load_device
from neardata.sim.dram.config import load_profile
from neardata.sim.dram.request import simulate
from neardata.sim.dram.trace import RequestChunk
from neardata.workloads.patterns import requests

PEER_NAMES = {
    "ddr4-2400r": "DDR4_2400R", "ddr4-3200aa": "DDR4_3200AA", "ddr5-4800an": "DDR5_4800AN",
    "lpddr5-6400": "LPDDR5_6400", "gddr6-14000": "GDDR6_14000", "hbm2-2000": "HBM2_2000",
    "hbm3-6400": "HBM3_6400",
}  # fmt: skip
PATTERNS = ["stream", "random", "write30", "rowstride", "mix21", "triad", "zipf"]


def pattern(device: Device, name: str, n: int) -> RequestChunk:
    """The requests of a pattern; ``write30``: ``random`` with 30 % writes."""
    geometry = {"lines_per_row": device.bursts_per_row, "banks": device.n_banks}
    shape = "random" if name == "write30" else name
    parts = list(requests(shape, n, seed=1, line_bytes=device.burst_bytes, **geometry))
    address, is_write = (np.concatenate([part[i] for part in parts]) for i in range(2))
    if name == "write30":
        is_write = np.random.default_rng(1).random(n) < 0.3
    return RequestChunk(address, is_write)


def write_trace(path: Path, chunk: RequestChunk) -> None:
    """In Ramulator's load/store form."""
    ops = np.where(chunk.is_write, "ST", "LD").tolist()
    path.write_text("".join(f"{op} {a:#x}\n" for op, a in zip(ops, chunk.address.tolist(), strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", help="command that runs the peer (see the top of this file)")
    parser.add_argument("--devices", default=",".join(PEER_NAMES))
    parser.add_argument("--patterns", default=",".join(PATTERNS))
    parser.add_argument("-n", type=int, default=100_000, help="requests per run")
    parser.add_argument("--reps", type=int, default=5)
    options = parser.parse_args()
    config = load_profile("ramulator21-frfcfs")
    ratios: dict[str, list[float]] = {}
    print(f"{'device':14}{'pattern':11}{'cycles':>10}{'Mreq/CPU-s':>12}{'peer':>10}{'ratio':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.devices.split(","):
            device = load_device(name, corrected=False)
            simulate(device, [pattern(device, "mix21", 1000)], config)  # compile
            for shape in options.patterns.split(","):
                chunk = pattern(device, shape, options.n)
                trace = Path(folder) / "trace"
                if options.peer:
                    write_trace(trace, chunk)
                ours, theirs = math.inf, math.inf
                for _ in range(options.reps):
                    for _ in range(3 if options.peer else 1):  # ours is short: more looks at it
                        start = time.process_time()
                        report = simulate(device, [chunk], config)
                        ours = min(ours, time.process_time() - start)
                    if options.peer:
                        command = [*shlex.split(options.peer), PEER_NAMES[name], str(trace)]
                        answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
                        theirs = min(theirs, answer["cpu_s"])
                        cycles = report.cycles_to_last_accept
                        if answer["cycles"] != cycles:
                            raise SystemExit(f"cycles differ: {cycles}, peer {answer['cycles']}")
                line = f"{name:14}{shape:11}{report.cycles_to_last_accept:10}{options.n / ours / 1e6:12.2f}"
                if options.peer:
                    ratios.setdefault(name, []).append(theirs / ours)
                    line += f"{options.n / theirs / 1e6:10.3f}{theirs / ours:8.1f}x"
                print(line, flush=True)
    groups = {"all": list(ratios), "HBM": [name for name in ratios if name.startswith("hbm")]}
    for group, names in groups.items():
        values = [ratio for name in names for ratio in ratios[name]]
        if values:
            mean = math.exp(sum(map(math.log, values)) / len(values))
            print(f"{group}: geometric mean {mean:.1f}x, least {min(values):.1f}x")


if __name__ == "__main__":
    main()
