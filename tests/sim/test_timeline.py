"""Timelines: what Perfetto needs to open them, and every command in its place."""

import gzip
import io
import itertools
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from neardata.arch.dram import load_device
from neardata.sim.dram.command_log import CommandLog
from neardata.sim.dram.config import load_profile
from neardata.sim.dram.request import simulate
from neardata.sim.dram.trace import RequestChunk
from neardata.sim.timeline import FIRST_BANK, FIRST_DATA_BUS, write_timeline
from neardata.workloads import patterns

DATA = Path(__file__).parents[1] / "data" / "dram"
CASES = {
    "ddr4-2400r": "DDR4_2400R_mix21",
    "lpddr5-6400": "LPDDR5_6400_zipf",
    "hbm3-6400": "HBM3_6400_mix21",
}


def read_log(device, tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(gzip.decompress((DATA / f"commands_ramulator21_{CASES[device]}.csv.gz").read_bytes()))
    return CommandLog.read_csv(load_device(device), path)


def timeline(logs, **options):
    stream = io.StringIO()
    left_out = write_timeline(stream, logs, **options)
    return json.loads(stream.getvalue()), left_out


def slices_by_track(trace):
    tracks = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append(event)
    return tracks


def closed_page_logs(device):
    (address, is_write), *_ = patterns.requests("mix21", 2000, line_bytes=device.burst_bytes)
    config = load_profile("neardata", {"page": "closed"})
    report = simulate(device, [RequestChunk(address, is_write)], config, channels=2, record_commands=True)
    return report.command_logs


@pytest.mark.parametrize("unit", ["cycle", "ns"])
@pytest.mark.parametrize("pages", ["open", "closed"])
@pytest.mark.parametrize("device", CASES)
def test_tracks_are_named_and_their_slices_do_not_overlap(device, pages, unit, tmp_path):
    logs = [read_log(device, tmp_path)] * 2 if pages == "open" else closed_page_logs(load_device(device))
    trace, left_out = timeline(logs, unit=unit)
    assert left_out == 0
    named = {(e["pid"], e["tid"]) for e in trace["traceEvents"] if e["name"] == "thread_name"}
    tracks = slices_by_track(trace)
    assert set(tracks) <= named
    assert {pid for pid, _ in tracks} == {0, 1}
    for events in tracks.values():
        events.sort(key=lambda e: e["ts"])
        for event, following in itertools.pairwise(events):
            assert event["dur"] > 0
            assert round(event["ts"] + event["dur"], 6) <= following["ts"], (event, following)


@pytest.mark.parametrize("device", CASES)
def test_every_command_is_on_its_bus_and_every_row_on_its_bank(device, tmp_path):
    log = read_log(device, tmp_path)
    tracks = slices_by_track(timeline([log])[0])
    names = np.array(log.device.command_names)[log.command].tolist()
    on_command_buses = [e["name"] for (_, tid), es in tracks.items() if tid < FIRST_DATA_BUS for e in es]
    assert Counter(on_command_buses) == Counter(names)
    bursts = [e for (_, tid), es in tracks.items() if FIRST_DATA_BUS <= tid < FIRST_BANK for e in es]
    assert len(bursts) == names.count("RD") + names.count("WR")
    assert {e["dur"] for e in bursts} == {log.device.burst_cycles}
    rows = [e for (_, tid), es in tracks.items() if tid >= FIRST_BANK for e in es if e["name"][:4] == "row "]
    opened = "ACT2" if "ACT2" in log.device.command_names else "ACT"
    # one opened by the very last command has not been open for a cycle
    assert len(rows) in (names.count(opened), names.count(opened) - 1)
    accesses = sum(e["args"].get("reads", 0) + e["args"].get("writes", 0) for e in rows)
    assert accesses == len(bursts)


def test_a_burst_lies_where_the_latency_puts_it(tmp_path):
    log = read_log("ddr4-2400r", tmp_path)
    first = int(np.argmax(log.command == log.device.command("RD")))
    (burst, *_) = slices_by_track(timeline([log])[0])[0, FIRST_DATA_BUS]
    assert (burst["ts"], burst["dur"]) == (log.cycle[first] + 16, 4)
    assert burst["args"]["cycle"] == log.cycle[first]
    assert burst["args"]["row"] == log.row[first]


def test_auto_precharge_closes_the_row_when_the_device_may():
    device = load_device("ddr4-2400r")
    activate, read = device.command("ACT"), device.command("RDA")
    rows = [
        (1, activate, 0, 7, -1, 0),
        (17, read, 0, 7, 0, 0),
        (60, activate, 0, 8, -1, 0),
        (120, read, 0, 8, 0, 0),
    ]
    trace, _ = timeline([CommandLog.from_rows(device, np.array([*rows, (200, activate, 5, 1, -1, 0)]))])
    shown = [(e["name"], e["ts"], e["dur"]) for e in slices_by_track(trace)[0, FIRST_BANK]]
    assert shown == [
        ("row 7", 1, 39),  # tRAS, longer than tRCD + tRTP
        ("auto-precharge", 40, 16),
        ("row 8", 60, 69),  # until tRTP after the read
        ("auto-precharge", 129, 16),
    ]


def test_true_time_keeps_picoseconds(tmp_path):
    log = read_log("ddr4-2400r", tmp_path)
    tracks = slices_by_track(timeline([log], unit="ns")[0])
    assert tracks[0, 1][0]["ts"] == pytest.approx(log.cycle[0] * 833e-6)
    assert tracks[0, 1][0]["dur"] == pytest.approx(833e-6)


def test_a_window_shows_the_rows_opened_before_it(tmp_path):
    log = read_log("ddr4-2400r", tmp_path)
    whole = slices_by_track(timeline([log])[0])
    part = slices_by_track(timeline([log], window=(2000, 3000))[0])
    inside = (log.cycle >= 2000) & (log.cycle <= 3000)
    assert len(part[0, 1]) == inside.sum()
    for bank in range(16):
        open_at_2000 = [
            e["name"] for e in whole[0, FIRST_BANK + bank] if e["ts"] < 2000 < e["ts"] + e["dur"]
        ]  # fmt: skip
        shown = [e["name"] for e in part[0, FIRST_BANK + bank] if e["ts"] < 2000]
        assert shown == open_at_2000


def test_a_long_log_is_cut_and_the_rest_counted(tmp_path):
    log = read_log("ddr4-2400r", tmp_path)
    trace, left_out = timeline([log, log], limit=101)
    written = sum(len(events) for (_, tid), events in slices_by_track(trace).items() if tid == 1)
    assert written <= 101
    assert written + left_out == 2 * len(log)


def test_a_window_without_commands_shows_the_open_rows(tmp_path):
    log = read_log("ddr4-2400r", tmp_path)
    trace, left_out = timeline([log], window=(10**9, 10**9 + 1))
    assert left_out == 0
    shown = [event["name"] for events in slices_by_track(trace).values() for event in events]
    assert shown and all(name.startswith("row ") for name in shown)
