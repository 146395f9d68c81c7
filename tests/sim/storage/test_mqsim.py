"""Rows of MQSim (tests/data/ssd), with its restrictions on; all of them: benchmarks/ssd.py."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
ROWS = {
    (row["config"], row["workload"]): row
    for row in csv.DictReader((ROOT / "tests" / "data" / "ssd" / "mqsim.csv").read_text().splitlines())
}
QUICK = [
    ("C1_cambriconS", "randread4k_qd1"),
    ("C1_cambriconS", "streamread1m_qd32"),
    ("C1_cambriconS", "mixed70_16k_qd32"),
    ("C1_cambriconS", "seqwrite128k_qd32_wcache"),
    ("C1_cambriconS", "trace_wsrch-small"),
    ("C1_twodie_oneplane", "seqread128k_qd32"),
    ("C1_twodie_oneplane", "randread16k_qd32"),
    ("C1_rate533", "streamread1m_qd32"),
    ("C1_rate1200", "streamread1m_qd32"),
    ("C0_default", "seqread128k_qd1"),
    ("C0_default", "mixed70_16k_qd32"),
]


def _benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("ssd_benchmark", ROOT / "benchmarks" / "ssd.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("config", "load"), QUICK)
def test_mqsims_figures(config: str, load: str) -> None:
    row = ROWS[config, load]
    report = _benchmark().mqsim_run(config, load)
    if row["iops"]:
        assert report.iops == pytest.approx(float(row["iops"]), rel=0.01)
        assert report.mb_per_s == pytest.approx(float(row["bandwidth_MBps"]), rel=0.01)
    must = float(row["avg_resp_us"])
    assert report.latencies().mean / 1000 == pytest.approx(must, rel=0.015, abs=1)


def test_its_restrictions_are_what_differs() -> None:
    """Without them a second die doubles the rate, and 1200 MT/s are not free."""
    bench = _benchmark()
    from neardata.arch.storage import load_ssd
    from neardata.sim.storage.drive import Requests, run_drive
    from neardata.workloads.block_io import BlockPattern

    def rate(overrides: dict[str, Any]) -> float:
        ssd = load_ssd("mqsim-c1", {**bench.UNCAPPED, **bench.ONE, **overrides})
        pattern = BlockPattern("sequential", 1 << 17, 1.0, ssd.logical_sectors // 2, start=0)
        return run_drive(ssd, Requests(*next(pattern.chunks(500))), depth=32).mb_per_s

    assert rate({}) == pytest.approx(351, rel=0.015)
    assert rate({"flash.dies_per_chip": 2}) == pytest.approx(702, rel=0.02)
    rates = [rate({"flash.dies_per_chip": 8, "bus.mt_per_s": mt}) for mt in (533, 667, 800, 1000, 1200, 1866)]
    assert rates == sorted(rates)
    assert rates[4] == pytest.approx(rates[3] * 16.674 / (13.653 + 0.29), rel=0.01)
