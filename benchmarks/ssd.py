"""What drives must reach, beside what they do: bus anchors, rows of MQSim, speed, start-up.

    python benchmarks/ssd.py [anchors] [mqsim] [products] [speed] [start]

MQSim's rows are in tests/data/ssd/mqsim.csv. Closed loops of one simulated second are drawn by a generator of
our own, so only statistics can agree; a streaming loop has nothing drawn but where it starts.
"""

from __future__ import annotations

import csv
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from neardata.arch.storage import load_ssd
from neardata.arch.storage.ssd import ALL_COMPAT
from neardata.sim.storage.drive import Requests, SsdReport, run_drive
from neardata.sim.storage.transactions import Transactions, run_transactions
from neardata.workloads.block_io import BlockPattern, read_block_trace

DATA = Path(__file__).parents[1] / "tests" / "data" / "ssd"
COMPAT: dict[str, Any] = {f"compat.{name}": value for name, value in ALL_COMPAT.items()}
ONE = {"flash.channels": 1, "flash.chips_per_channel": 1, "flash.dies_per_chip": 1, "flash.planes_per_die": 1}
UNCAPPED = {"host.lane_gb_per_s": 64.0}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "C0_default": ("mqsim-c0", {}),
    "C0_idealmap": ("mqsim-c0", {"mapping.table": "ideal"}),
    "C1_cambriconS": ("mqsim-c1", {}),
    "C2_tlc_gen4": ("mqsim-c2", {}),
    "C1_uncapPCIe": ("mqsim-c1", UNCAPPED),
    "C1_onedie_oneplane": ("mqsim-c1", {**UNCAPPED, **ONE}),
    "C1_onedie_twoplane": ("mqsim-c1", {**UNCAPPED, **ONE, "flash.planes_per_die": 2}),
    "C1_twodie_oneplane": ("mqsim-c1", {**UNCAPPED, **ONE, "flash.dies_per_chip": 2}),
    "C1_twochip_oneplane": ("mqsim-c1", {**UNCAPPED, **ONE, "flash.chips_per_channel": 2}),
    "C4c_gc_noprecond_greedy_op20": (
        "mqsim-c0",
        {
            "mapping.table": "ideal", "flash.channels": 2, "flash.chips_per_channel": 2,
            "flash.blocks_per_plane": 256, "flash.pages_per_block": 64,
            "gc.policy": "greedy", "mapping.over_provisioning": 0.2,
        },
    ),
    **{f"C1_rate{mt}": ("mqsim-c1", {"bus.mt_per_s": mt}) for mt in (333, 400, 533, 667, 800, 1000, 1200)},
}  # fmt: skip
# order, bytes, depth, share of reads, cache
LOADS: dict[str, tuple[str, int, int, float, str]] = {
    "randread4k_qd1": ("random", 4096, 1, 1, "off"),
    "randread4k_qd32": ("random", 4096, 32, 1, "off"),
    "randread4k_qd256": ("random", 4096, 256, 1, "off"),
    "randread16k_qd32": ("random", 16384, 32, 1, "off"),
    "randread16k_qd256": ("random", 16384, 256, 1, "off"),
    "seqread16k_qd1": ("sequential", 16384, 1, 1, "off"),
    "seqread128k_qd1": ("sequential", 1 << 17, 1, 1, "off"),
    "seqread128k_qd32": ("sequential", 1 << 17, 32, 1, "off"),
    "streamread1m_qd8": ("sequential", 1 << 20, 8, 1, "off"),
    "streamread1m_qd32": ("sequential", 1 << 20, 32, 1, "off"),
    "mixed70_4k_qd32": ("random", 4096, 32, 0.7, "off"),
    "mixed70_16k_qd32": ("random", 16384, 32, 0.7, "off"),
    "seqwrite128k_qd32": ("sequential", 1 << 17, 32, 0, "off"),
    "seqwrite128k_qd32_wcache": ("sequential", 1 << 17, 32, 0, "write"),
    "randwrite8k_qd32_gc": ("random", 8192, 32, 0, "off"),
}
SPACE = {"C4c_gc_noprecond_greedy_op20": 0.6}


def mqsim_run(config: str, load: str, seconds: float = 1.0) -> SsdReport:
    """A row of MQSim, with its restrictions on."""
    name, overrides = CONFIGS[config]
    if load.startswith("trace_"):
        ssd = load_ssd(name, {**overrides, **COMPAT, "cache.mode": "write"})
        arrive, (op, lba, sectors) = read_block_trace(DATA / f"{load.removeprefix('trace_')}.trace")
        space = ssd.logical_pages * ssd.sectors_per_page
        return run_drive(ssd, Requests(op, lba % (space - int(sectors.max())), sectors, arrive))
    order, size, depth, reads, cache = LOADS[load]
    ssd = load_ssd(name, {**overrides, **COMPAT, "cache.mode": cache})
    space = int(ssd.logical_sectors * SPACE.get(config, 0.5))
    stream = BlockPattern(order, size, reads, space, seed=798).chunks(1 << 16)  # type: ignore[arg-type]
    return run_drive(
        ssd,
        Requests(*next(stream)),
        depth=depth,
        stop_ns=seconds * 1e9,
        more=lambda _: Requests(*next(stream)),
    )


def mqsim_rows() -> list[dict[str, str]]:
    with (DATA / "mqsim.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def mqsim() -> None:
    print("\nMQSim's rows in compat mode: IOPS and mean us, MQSim's beside ours")
    head = f"{'configuration':<29}{'load':<26}{'IOPS':>9}{'ours':>9}{'%':>7}"
    print(head + f"{'us':>7}{'ours':>7}{'':>6}{'cpu s':>7}{'ours':>6}")
    misses = 0
    for row in mqsim_rows():
        config, load = row["config"], row["workload"]
        if load == "setup_1req" or config not in CONFIGS:
            continue
        seconds = 90.0 if config.startswith("C4c") else 1.0
        before = time.process_time()
        report = mqsim_run(config, load, seconds)
        cpu = time.process_time() - before
        us, must_us = report.latencies().mean / 1000, float(row["avg_resp_us"])
        text, rate_ok = " " * 25, True
        if row["iops"]:
            must = float(row["iops"])
            off = report.iops / must - 1
            rate_ok = abs(off) <= 0.03
            text = f"{must:9,.0f}{report.iops:9,.0f}{off:7.2%}"
        ok = rate_ok and abs(us - must_us) <= max(1.0, 0.03 * must_us)
        misses += not ok
        print(
            f"{config:<29}{load:<26}{text}{must_us:7,.0f}{us:7,.0f}{'' if ok else '  miss':<6}"
            f"{float(row['cpu_s']):7.2f}{cpu:6.2f}",
            flush=True,
        )
    print(f"{misses} rows outside 3 % of the rate and 1 us or 3 % of the mean")


def anchors() -> None:
    print("streams over one channel at the timings of mqsim-c1: must, ours, MB/s")
    for dies, must in ((1, 351), (2, 702), (4, 983)):
        ssd = load_ssd("mqsim-c1", {**ONE, "flash.dies_per_chip": dies})
        i = np.arange(8000)
        tx = Transactions.of(kind="read", channel=0, die=i % dies, page=i // dies % 256, bytes_out=16384)
        done = np.sort(run_transactions(ssd, tx).done_ns)
        ours = (len(i) - 200) * 16384 / (done[-1] - done[199]) * 1000
        print(f"  {dies} dies {must:>6} {ours:8.1f}  {'' if abs(ours / must - 1) < 0.01 else 'miss'}")


# drive, order, bytes, depth, share of reads, what is published, its unit, whether the preset was set by it
PRODUCTS: tuple[tuple[str, str, int, int, float, float, str, bool], ...] = (
    ("980-pro", "sequential", 1 << 17, 32, 1, 7000, "MB/s", False),
    ("980-pro", "sequential", 1 << 17, 32, 0, 5100, "MB/s", False),
    ("980-pro", "random", 4096, 256, 1, 1e6, "IOPS", True),
    ("zn540", "sequential", 1 << 17, 32, 1, 3200, "MB/s", False),
    ("zn540", "sequential", 1 << 17, 32, 0, 2000, "MB/s", False),
    ("zn540", "random", 4096, 128, 1, 450e3, "IOPS", True),
    ("optane-p4800x", "random", 4096, 1, 1, 8.9, "us", True),
    ("optane-p4800x", "random", 4096, 16, 1, 25.5, "us", True),
    ("optane-p4800x", "sequential", 1 << 17, 16, 1, 2400, "MB/s", False),
    ("smartssd", "sequential", 4096, 1, 1, 50, "MB/s", False),
    ("smartssd", "sequential", 1 << 14, 1, 1, 310, "MB/s", False),
    ("smartssd", "sequential", 1 << 17, 1, 1, 1210, "MB/s", False),
    ("smartssd", "sequential", 1 << 20, 1, 1, 1590, "MB/s", False),
)


def products() -> None:
    print("\nproducts: published, ours; the insides are mostly assumed; (set): the preset was set by it")
    for name, order, size, depth, reads, must, unit, was_set in PRODUCTS:
        ssd = load_ssd(name)
        pattern = BlockPattern(order, size, reads, ssd.logical_sectors // 2)  # type: ignore[arg-type]
        report = run_drive(ssd, Requests(*next(pattern.chunks(max(4000, 100 * depth)))), depth=depth)
        ours = {"MB/s": report.mb_per_s, "IOPS": report.iops, "us": report.latencies().mean / 1000}[unit]
        kind = "read" if reads else "write"
        print(
            f"  {name:<14}{order:<11}{size >> 10:>5} KiB {kind:<6}QD{depth:<4}{must:>10,.4g} {ours:>10,.4g}"
            f" {unit:<5}"
            f"{ours / must - 1:+7.1%}{' (set)' if was_set else ''}"
        )


def speed() -> None:
    print("\nflash commands per CPU second, best of three: must 2 M, aim 10 M")
    for name, size, depth, reads in (
        ("mqsim-c1", 4096, 32, 1.0), ("mqsim-c1", 16384, 32, 1.0), ("mqsim-c1", 1 << 17, 32, 1.0),
        ("mqsim-c1", 4096, 32, 0.7), ("cambricon-llm-s", 1 << 20, 32, 1.0),
    ):  # fmt: skip
        ssd = load_ssd(name)
        n = max(1_000_000 * 4096 // size, 10_000)
        space = int(ssd.logical_sectors * 0.05)
        op, lba, sectors = next(BlockPattern("random", size, reads, space).chunks(n))
        few = Requests(op[:100], lba[:100], sectors[:100])
        run_drive(ssd, few, depth=depth)
        cpu = 1e9
        for _ in range(3):
            before = time.process_time()
            report = run_drive(ssd, Requests(op, lba, sectors), depth=depth)
            cpu = min(cpu, time.process_time() - before)
        pages = report.use.counts["pages_read"] + report.use.counts["pages_programmed"]
        print(
            f"  {name:<16}{size >> 10:>5} KiB, {reads:.0%} reads:"
            f" {report.use.commands / cpu / 1e6:6.2f} M commands/s, {pages / cpu / 1e6:6.2f} M pages/s,"
            f" {n / cpu / 1e3:8.0f} k requests/s",
            flush=True,
        )
    ssd, n = load_ssd("mqsim-c1"), 1_000_000
    rng = np.random.default_rng(1)
    tx = Transactions.of(
        kind="read", channel=rng.integers(0, 8, n), die=rng.integers(0, 4, n), plane=rng.integers(0, 2, n),
        page=rng.integers(0, 256, n), bytes_out=4096, arrive_ns=np.arange(n) * 2000.0,
    )  # fmt: skip
    cpu = 1e9
    for _ in range(3):
        before = time.process_time()
        alone = run_transactions(ssd, tx)
        cpu = min(cpu, time.process_time() - before)
    print(f"  transactions alone: {alone.use.commands / cpu / 1e6:.2f} M commands/s")


def start() -> None:
    """A fresh process with a 4 TB drive and one request; imports and compiled kernels are taken off."""
    print("\nstart of a 4 TB drive: must 0.5 CPU s, 300 MB")
    code = (
        "import time, numpy as np\n"
        "from neardata.arch.storage import load_ssd\n"
        "from neardata.sim.storage.drive import *\n"
        "one = Requests(np.array([READ]), np.array([0]), np.array([8]))\n"
        "run_drive(load_ssd('mqsim-c1', {'flash.blocks_per_plane': 64}), one, depth=1)\n"
        "peak_kb = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "base = peak_kb()\n"
        "ssd = load_ssd('smartssd')\n"
        "t = time.process_time()\n"
        "run_drive(ssd, one, depth=1)\n"
        "t = time.process_time() - t\n"
        "peak = peak_kb()\n"
        "print(f'  {ssd.flash.raw_bytes / 1e12:.2f} TB: {t:.2f} CPU s, {peak / 1024:.0f} MB in all,'\n"
        "      f' {(peak - base) / 1024:.0f} MB of it for the drive')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
    parts = {"anchors": anchors, "mqsim": mqsim, "products": products, "speed": speed, "start": start}
    for part in sys.argv[1:] or parts:
        parts[part]()
    print(
        f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB", file=sys.stderr
    )
