"""``neardata ssd``."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from neardata.cli.app import run

TRACE = Path(__file__).parents[1] / "data" / "ssd" / "tpcc-small.trace"


def test_a_run_tells_rates_latency_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ssd", "run", "-d", "mqsim-c1", "-n", "2000"]) == 0
    text = capsys.readouterr().out
    for part in ("2,000 reads", "MB/s", "p99", "busy", "where the channels' time went", "energy"):
        assert part in text
    assert max(map(len, text.splitlines())) <= 80


def test_json_is_everything(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["-n", "500", "--read", "50", "--size", "16K", "--json", "--out", str(out)]
    assert run(["ssd", "run", "-d", "cambricon-llm-s", *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["reads"] + report["writes"] == report["requests"] == 500
    assert report["latency_ns"]["read"]["p50"] <= report["latency_ns"]["read"]["p99"]
    assert json.loads((out / "report.json").read_text()) == report
    with (out / "requests.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 500
    slowest = max(float(row["end_ns"]) - float(row["submit_ns"]) for row in rows)
    assert slowest == pytest.approx(report["latency_ns"]["all"]["max"])


def test_a_trace_of_mqsim(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run(
            [
                "ssd",
                "run",
                "-d",
                "mqsim-c1",
                "--compat",
                "mqsim",
                "--set",
                "cache.mode=write",
                "-t",
                str(TRACE),
            ]
        )
        == 0
    )
    text = capsys.readouterr().out
    assert "6,999: 4,381 reads, 2,618 writes" in text
    assert "restrictions of MQSim" in text


def test_open_loops_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ssd", "run", "--rate", "50000", "-n", "3000", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["iops"] == pytest.approx(50000, rel=0.1)
    assert run(["ssd", "run", "--time", "5ms", "--workload", "zipf:0.8", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["window_ns"] == 5e6 < report["time_ns"]


def test_drives_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ssd", "list"]) == 0
    text = capsys.readouterr().out
    assert "980-pro" in text and max(map(len, text.splitlines())) <= 80
    assert run(["ssd", "show", "instinfer-csd", "--set", "bus.mt_per_s=2400"]) == 0
    text = capsys.readouterr().out
    assert "2409.04992" in text and "2.4 GB/s" in text
    assert run(["ssd", "show", "mqsim-c0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["flash"]["channels"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-d", "mqsim-c9"], "unknown drive 'mqsim-c9'; did you mean"),
        (["--set", "bus.mt_per_s=0"], "bus.mt_per_s: must be above 0"),
        (["--set", "bus.mt_per_s"], "expected key=value"),
        (["--set", "bus.mts=3"], "bus.mts: cannot be set on mqsim-c1"),
        (["--set", "flash.blocks_per_plane=2"], "too few"),
        (["--size", "100"], "must be a multiple of 512 bytes"),
        (["--size", "4T"], "--size: must be bytes"),
        (["--size", "400G"], "a request has"),
        (["--time", "0s"], "--time: must be a time"),
        (["--time", "-1s"], "--time: must be a time"),
        (["--read", "101"], "--read: must be from 0 to 100"),
        (["--space", "0"], "--space: must be from 0 to 100"),
        (["--workload", "randm"], "'randm' is not known"),
        (["--workload", "zipf:2"], "zipf theta"),
        (["--rate", "-1"], "rate: must be above 0"),
        (["--depth", "4", "--rate", "5"], "--depth and --rate exclude each other"),
        (["--trace", str(TRACE), "-n", "5"], "--trace and -n exclude each other"),
        (["--trace", "/nowhere.trace"], "/nowhere.trace: cannot be read"),
        (["--trace", str(TRACE), "--set", "flash.blocks_per_plane=64"], "but the drive has"),
        (["--compat", "femu"], "'femu' is not known"),
        (["--set", "mapping.filled=1", "--set", "mapping.over_provisioning=0.001"], "too small"),
        (["-d", "/nowhere/ssdconfig.xml"], "/nowhere/ssdconfig.xml: cannot be read"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["ssd", "run", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1 and captured.out == ""


def test_bad_input_writes_nothing(tmp_path: Path) -> None:
    assert run(["ssd", "run", "--size", "3", "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
