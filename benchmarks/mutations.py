"""Which timings, moved by one clock in the engine, does the rule checker notice? A table per device.

python benchmarks/mutations.py [DEVICE ...]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

from neardata.arch.dram import Device, load_device
from neardata.sim.dram.command_log import CommandLog
from neardata.sim.dram.config import load_profile
from neardata.sim.dram.mutation import survey
from neardata.sim.dram.request import simulate
from neardata.sim.dram.trace import RequestChunk
from neardata.workloads import patterns

DEVICES = ("ddr4-2400r", "ddr5-4800an", "lpddr5-6400", "gddr6-14000", "hbm2-2000", "hbm3-6400")
REQUESTS = 4000


def workloads(device: Device) -> Iterator[tuple[RequestChunk, dict[str, str]]]:
    """Requests, and how the controller differs from the default."""
    shape = {
        "line_bytes": device.burst_bytes,
        "lines_per_row": device.bursts_per_row,
        "banks": device.n_banks,
    }
    for pattern, page in (("mix21", "open"), ("zipf", "closed"), ("triad", "open")):
        for address, is_write in patterns.requests(pattern, REQUESTS, **shape):
            yield RequestChunk(address, is_write), {"page": page}
    # reads and writes of open rows, for the turn-around of every bank group
    rng = np.random.default_rng(1)
    hot = rng.integers(0, 2 * device.n_banks * device.bursts_per_row, REQUESTS) * device.burst_bytes
    yield RequestChunk(hot, rng.random(REQUESTS) < 0.4), {}
    mixed = next(patterns.requests("mix21", REQUESTS, **shape))
    for role, refresh in (("refresh_bank", "per-bank"), ("refresh_same_bank", "same-bank")):
        if role in device.roles:
            yield RequestChunk(*mixed), {"refresh": refresh}


def traces(device: Device) -> Iterator[CommandLog]:
    for chunk, controller in workloads(device):
        config = load_profile("ramulator21-frfcfs", controller)
        yield from simulate(device, [chunk], config, record_commands=True).command_logs or []


def main() -> None:
    for name in sys.argv[1:] or DEVICES:
        device = load_device(name)
        if "rank" in device.levels:
            device = load_device(name, {"organisation.rank": 2})
        findings = survey(device, traces)
        print(f"\n## {name}: {sum(f.caught for f in findings)} of {len(findings)} caught\n")
        print("| timing | the checker sees | rules |\n|---|---|---|")
        for finding in findings:
            print(f"| {finding.mutation} | {finding.verdict} | {', '.join(finding.rules)} |")


if __name__ == "__main__":
    main()
