"""Which controller should be the default? Drain time of every candidate over devices and patterns.

Run: python benchmarks/default_profile.py [-n REQUESTS]

Prints, per candidate, the geometric mean over devices and patterns of its drain time relative to
`ramulator21-frfcfs`, and the worst case. The patterns address lines in order, so a row of a
pattern such as ``rowstride`` is one for the mapping row-bank-column only.
"""

from __future__ import annotations

import argparse
import itertools
import math

from neardata.arch.dram import load_device
from neardata.sim.dram.config import ControllerConfig, load_profile
from neardata.sim.dram.request import simulate
from neardata.sim.dram.trace import RequestChunk
from neardata.workloads.patterns import PATTERNS, requests

DEVICES = ["ddr4-2400r", "ddr5-4800an", "lpddr5-6400", "gddr6-14000", "hbm2-2000", "hbm3-6400"]


def cycles(name: str, pattern: str, n: int, config: ControllerConfig) -> int:
    device = load_device(name, corrected=config.device_table == "corrected")
    geometry = {"lines_per_row": device.bursts_per_row, "banks": device.n_banks}
    chunks = requests(pattern, n, seed=1, line_bytes=device.burst_bytes, **geometry)
    return simulate(device, (RequestChunk(*chunk) for chunk in chunks), config).cycles_to_drain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=20_000, help="requests per run")
    n = parser.parse_args().n
    runs = list(itertools.product(DEVICES, PATTERNS))
    base = {run: cycles(*run, n, load_profile("ramulator21-frfcfs")) for run in runs}
    columns = f"{'scheduler':16}{'page':8}{'queues':8}{'watermarks':12}{'mapping':14}"
    print(f"{columns}{'geomean':>8}{'worst':>8}  where")
    for scheduler, page, queue, marks, mapping in itertools.product(
        ("frfcfs", "frfcfs-rowhit"), ("open", "closed"), (32, 64), ((0.2, 0.8), (0.5, 0.9)),
        ("RoBaRaCoCh", "MOP4CLXOR", "RoBaCoBgXOR"),
    ):  # fmt: skip
        config = ControllerConfig(
            scheduler=scheduler, page=page, read_queue=queue, write_queue=queue, write_low=marks[0],
            write_high=marks[1], mapping=mapping,
        )  # fmt: skip
        ratio = {run: cycles(*run, n, config) / base[run] for run in runs}
        mean = math.exp(sum(map(math.log, ratio.values())) / len(ratio))
        worst = max(ratio, key=lambda run: ratio[run])
        print(
            f"{scheduler:16}{page:8}{queue:<8}{marks[0]:.1f}-{marks[1]:.1f}     {mapping:14}"
            f"{mean:8.3f}{ratio[worst]:8.2f}  {' '.join(worst)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
