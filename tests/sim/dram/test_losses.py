"""Where the cycles went: hand-made cases, closed forms, the plain twin, conservation."""

from __future__ import annotations

import doctest
import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naive import losses as naive
from neardata.arch.dram import Device, device_names, load_device
from neardata.sim.dram import losses as losses_module
from neardata.sim.dram.command_log import CommandLog
from neardata.sim.dram.losses import Losses, LossReport, cause_groups, explain

DATA = Path(__file__).parents[2] / "data" / "dram"
COLUMNS = ("cycle", "command", "unit", "row", "column", "kind")


def trace(device: Device, *entries: tuple) -> CommandLog:
    """A log of (cycle, command, bank), all for reads but refreshes."""
    rows = []
    for cycle, name, bank in entries:
        command = device.command(name)
        kind = -1 if name.startswith(("REF", "PREab")) else 0
        rows.append((cycle, command, device.unit_of[command][bank], 0, 0, kind))
    return CommandLog.from_rows(device, np.array(rows, dtype=np.int64).reshape(-1, 6))


def part(log: CommandLog, begin: int, end: int) -> CommandLog:
    return CommandLog(log.device, *(getattr(log, c)[begin:end] for c in COLUMNS))


def peer_trace(name: str, config: str, pattern: str, tmp_path: Path) -> CommandLog:
    path = tmp_path / "commands.csv"
    path.write_bytes(gzip.decompress((DATA / f"commands_ramulator21_{config}_{pattern}.csv.gz").read_bytes()))
    return CommandLog.read_csv(load_device(name), path)


@pytest.fixture(scope="module")
def ddr4() -> Device:
    return load_device("ddr4-2400r")


# DDR4-2400R: nRCD 16, nRP 16, nRAS 39, nRC 55, nCL 16, nBL 4, nCCD 4/6, nRTP 9, nFAW 26, nRFC 433
def test_nothing_done_is_no_request(ddr4):
    assert explain(trace(ddr4), 100) == LossReport(100, (0,), ({"no request": 100},))


def test_bursts_back_to_back_lose_nothing(ddr4):
    opened = [(1, "ACT", 0), (5, "ACT", 4)]
    reads = [(21 + 4 * k, "RD", 4 * (k % 2)) for k in range(100)]
    report = explain(trace(ddr4, *opened, *reads), 21 + 4 * 99 + 19)
    assert report.busy == 400
    assert report.lost == {"latency": 16, "tRCD": 16, "arbitration": 4}  # the first could have gone 4 earlier


def test_column_rule_between_bursts(ddr4):
    reads = [(17 + 6 * k, "RD", 0) for k in range(11)]
    assert explain(trace(ddr4, (1, "ACT", 0), *reads), 96).lost == {"latency": 16, "tRCD": 16, "tCCD_L": 20}


def test_late_arrival_is_no_request_and_the_row_latencies_are_named(ddr4):
    log = trace(ddr4, (1, "ACT", 0), (17, "RD", 0), (1000, "PREpb", 0), (1016, "ACT", 0), (1032, "RD", 0))
    arrival = np.array([1, 1, 1000, 1000, 1000])
    report = explain(log, 1051, arrival)
    assert report.busy == 8
    # idle from 37 to 1047, of which 32 between the request's arrival and its RD
    assert report.lost == {"no request": 979, "tRCD": 32, "tRP": 16, "latency": 16}


def test_waiting_for_the_scheduler_is_arbitration(ddr4):
    log = trace(ddr4, (1, "ACT", 0), (17, "RD", 0), (40, "RD", 0))
    assert explain(log, 59).lost == {"arbitration": 17, "latency": 16, "tRCD": 16, "tCCD_L": 2}


def test_waiting_behind_other_commands_is_the_command_bus(ddr4):
    # bank 0 could be read from cycle 28 on; precharges hold the bus in 28-31 and 35
    closes = [(t, "PREpb", bank) for t, bank in ((28, 4), (29, 5), (30, 6), (31, 7), (35, 8))]
    log = trace(ddr4, (1, "ACT", 0), (22, "RD", 0), *closes, (37, "RD", 0))
    assert explain(log, 56).lost == {
        "latency": 16, "tRCD": 16, "arbitration": 5 + 4, "command bus": 5, "tCCD_L": 2,
    }  # fmt: skip


def test_bank_conflict_is_lost_to_the_row_cycle(ddr4):
    rows = [
        (1 + 55 * k + t, name, 0) for k in range(20) for t, name in ((0, "ACT"), (16, "RD"), (39, "PREpb"))
    ]
    report = explain(trace(ddr4, *rows), 1 + 55 * 19 + 35)
    assert report.busy == 80
    assert report.lost == {"tRC": 51 * 19, "latency": 16, "tRCD": 16}


def test_row_conflict_after_a_read_is_precharge_and_activate(ddr4):
    log = trace(ddr4, (1, "ACT", 0), (100, "RD", 0), (109, "PREpb", 0), (125, "ACT", 0), (141, "RD", 0))
    lost = explain(log, 160).lost
    assert {cause: lost[cause] for cause in ("tRTP", "tRP")} == {"tRTP": 9, "tRP": 12}
    assert lost["tRCD"] == 32  # once for each read


def test_activation_window(ddr4):
    acts = [(1 + 26 * (k // 4) + 4 * (k % 4), "ACT", 4 * (k % 4) + k // 4) for k in range(16)]
    reads = [(t + 16, "RD", bank) for t, _, bank in acts]
    log = trace(ddr4, *sorted(acts + reads, key=lambda entry: entry[0]))
    report = explain(log, acts[-1][0] + 16 + 20 - 1)
    assert report.lost == {"tFAW": 30, "latency": 16, "tRCD": 16}


def test_everything_behind_a_refresh_is_refresh(ddr4):
    log = trace(
        ddr4,
        (1, "ACT", 0),
        (17, "RD", 0),
        (40, "PREab", 0),
        (56, "REFab", 0),
        (489, "ACT", 0),
        (505, "RD", 0),
    )
    assert explain(log, 524).lost == {"refresh": 484, "latency": 16, "tRCD": 16}


def test_turn_around(ddr4):
    log = trace(ddr4, (1, "ACT", 0), (17, "RD", 0), (27, "WR", 0), (52, "RD", 0))
    assert explain(log, 71).lost == {"tWTR_L": 25, "latency": 16, "tRCD": 16, "tRTW": 2}
    groups = cause_groups(ddr4)
    assert {groups[name] for name in ("tWTR_S", "tWTR_L", "tRTW", "tCS")} == {"turn-around"}
    assert groups["tCCD_L"] == "column"
    assert {groups[name] for name in ("tFAW", "tRRD_S", "tRRD_L")} == {"activation"}
    assert {groups[name] for name in ("tRC", "tRCD", "tRP", "tRAS", "tWR", "tRTP")} == {"row"}


def test_each_pseudo_channel_has_its_own_account():
    hbm2 = load_device("hbm2-2000")
    log = trace(hbm2, (1, "ACT", 0), (17, "RD", 0), (21, "RD", 0))
    report = explain(log, 100)
    assert report.busy_cycles == (4, 0)
    assert report.lost_cycles[1] == {"no request": 100}
    assert [sum(bus.values()) for bus in report.lost_cycles] == [96, 100]


def test_run_is_at_least_as_long_as_its_bursts(ddr4):
    assert explain(trace(ddr4, (1, "ACT", 0), (17, "RD", 0)), 20).cycles == 36


def test_arrivals_must_fit(ddr4):
    with pytest.raises(ValueError, match="2 arrivals for 1 commands"):
        Losses(ddr4).feed(trace(ddr4, (1, "ACT", 0)), np.zeros(2, dtype=np.int64))


def test_an_account_that_does_not_sum_up_is_an_error(ddr4):
    losses = Losses(ddr4)
    losses.feed(trace(ddr4, (1, "ACT", 0), (17, "RD", 0)))
    losses._account[0, 0] += 1
    with pytest.raises(RuntimeError, match="not 100"):
        losses.finish(100)


def assert_like_twin(log: CommandLog, total: int, arrival: np.ndarray | None) -> None:
    report = explain(log, total, arrival)
    cycles, buses = naive.explain(log, total, arrival)
    assert report.cycles == cycles
    assert [
        {"busy": busy, **lost} for busy, lost in zip(report.busy_cycles, report.lost_cycles, strict=True)
    ] == [{"busy": bus["busy"], **{cause: n for cause, n in bus.items() if cause != "busy"}} for bus in buses]


@pytest.mark.parametrize("pattern", ["mix21", "zipf"])
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("ddr4-2400r", "DDR4_2400R"),
        ("ddr5-4800an", "DDR5_4800AN"),
        ("hbm3-6400", "HBM3_6400"),
        ("lpddr5-6400", "LPDDR5_6400"),
    ],
)
def test_same_account_as_the_plain_twin(name, config, pattern, tmp_path):
    log = peer_trace(name, config, pattern, tmp_path)
    rng = np.random.default_rng(7)
    arrival = np.maximum(log.cycle - rng.integers(0, 80, len(log)), 1)
    refresh = np.flatnonzero([log.device.commands[c].refreshes for c in log.command])
    middle = int(refresh[0]) if len(refresh) else len(log) // 2
    for begin, some in ((0, None), (0, arrival), (middle - 100, arrival)):
        chosen = part(log, begin, begin + 200)
        assert_like_twin(
            chosen, int(chosen.cycle[-1]) + 80, None if some is None else some[begin : begin + 200]
        )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_trace_is_accounted_for_in_full_and_like_the_twin(data):
    """Legal or not: commands drawn at random."""
    device = load_device(data.draw(st.sampled_from(device_names())))
    n = data.draw(st.integers(1, 60))
    steps = data.draw(st.lists(st.integers(0, 40), min_size=n, max_size=n))
    commands = data.draw(st.lists(st.integers(0, len(device.commands) - 1), min_size=n, max_size=n))
    units = [data.draw(st.integers(0, device.n_units(c) - 1)) for c in commands]
    cycle = 1 + np.cumsum(steps)
    ages = data.draw(st.lists(st.integers(0, 100), min_size=n, max_size=n))
    kinds = data.draw(st.lists(st.integers(-1, 1), min_size=n, max_size=n))
    rows = np.column_stack([cycle, commands, units, np.zeros((n, 2)), kinds]).astype(np.int64)
    assert_like_twin(CommandLog.from_rows(device, rows), int(cycle[-1]) + 50, np.maximum(cycle - ages, 1))


@pytest.mark.parametrize("name", ["ddr4-2400r", "hbm3-6400"])
def test_chunks_make_no_difference(name, tmp_path):
    log = peer_trace(name, {"ddr4-2400r": "DDR4_2400R", "hbm3-6400": "HBM3_6400"}[name], "mix21", tmp_path)
    total = int(log.cycle[-1]) + 100
    whole = explain(log, total)
    rng = np.random.default_rng(11)
    cuts = [0, *sorted(rng.choice(len(log), 40, replace=False).tolist()), len(log)]
    losses = Losses(log.device)
    for begin, end in itertools.pairwise(cuts):
        losses.feed(part(log, begin, end))
    assert losses.finish(total) == whole


def test_random_reads_of_ddr4_are_limited_by_the_activation_window(tmp_path):
    report = explain(peer_trace("ddr4-2400r", "DDR4_2400R", "rowstride", tmp_path), 10100)
    assert max(report.lost, key=lambda cause: report.lost[cause]) == "tFAW"
    assert report.busy == 4 * 1465


def test_docstring_example():
    result = doctest.testmod(losses_module)
    assert result.attempted and not result.failed
