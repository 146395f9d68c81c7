"""The plain-Python controller: Ramulator 2.1's commands exactly, our own policies on small cases."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest

from naive.request import Result, run
from neardata.arch.dram import Device, load_device
from neardata.arch.dram.mapping import load_mapping
from neardata.sim.dram.checker import check
from neardata.sim.dram.command_log import CommandLog
from neardata.workloads.patterns import LINES, PATTERNS
from neardata.workloads.patterns import requests as pattern_requests

DATA = Path(__file__).parents[2] / "data" / "dram"


def request_stream(pattern: str, n: int, seed: int, device: Device) -> tuple[np.ndarray, np.ndarray]:
    """(n,) byte addresses and (n,) write flags; the patterns are in tests/data/README.md."""
    if pattern in PATTERNS:
        geometry = {"lines_per_row": device.bursts_per_row, "banks": device.n_banks}
        return next(pattern_requests(pattern, n, seed=seed, line_bytes=device.burst_bytes, **geometry))
    rng, per_row = np.random.Generator(np.random.PCG64(seed)), device.bursts_per_row
    if pattern == "bursts":
        line = rng.integers(0, LINES, n // 8).repeat(8) + np.arange(n) % 8
        is_write = (rng.random(n // 8) < 0.4).repeat(8)
    elif pattern == "hot":
        line, is_write = rng.integers(0, 64, n), rng.random(n) < 0.5
    else:
        assert pattern == "rows"
        row, bank, column = (rng.integers(0, count, n) for count in (4, 4, per_row))
        line, is_write = (row * device.n_banks + bank) * per_row + column, rng.random(n) < 0.8
    return line % LINES * device.burst_bytes, is_write


def requests(pattern: str, n: int, seed: int, device: Device) -> list[tuple[bool, int, int, int, int]]:
    address, is_write = request_stream(pattern, n, seed, device)
    _, bank, row, column = load_mapping(device, "RoBaRaCoCh", 1).decode(address)
    columns = (part.tolist() for part in (is_write, bank, row, column, np.zeros(n, dtype=np.int64)))
    return list(zip(*columns, strict=True))


def log_of(device: Device, result: Result, last: int | None = None) -> CommandLog:
    rows = np.array([c for c in result.commands if last is None or c[0] <= last], dtype=np.int64)
    return CommandLog.from_rows(device, rows.reshape(-1, 6))


def named(device: Device, result: Result) -> list[tuple[int, str, int]]:
    return [(cycle, device.command_names[command], unit) for cycle, command, unit, *_ in result.commands]


@pytest.mark.parametrize("pattern", ["mix21", "rowstride", "zipf"])
@pytest.mark.parametrize("name", ["DDR4_2400R", "DDR5_4800AN", "LPDDR5_6400", "HBM3_6400"])
def test_issues_the_commands_of_a_ramulator_trace(name: str, pattern: str, tmp_path: Path) -> None:
    device = load_device(name.lower().replace("_", "-"))
    result = run(device, requests(pattern, 1500, 1, device))
    with gzip.open(DATA / f"commands_ramulator21_{name}_{pattern}.csv.gz") as packed:
        (tmp_path / "trace.csv").write_bytes(packed.read())
    theirs = CommandLog.read_csv(device, tmp_path / "trace.csv")
    ours = log_of(device, result, result.cycles_to_last_accept)
    for part in ("cycle", "command", "unit", "row", "column", "kind"):
        np.testing.assert_array_equal(getattr(ours, part), getattr(theirs, part), err_msg=part)


def digest_rows() -> list[dict[str, str]]:
    with (DATA / "ramulator21_digests.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def digest_device(case: dict[str, str]) -> Device:
    overrides = dict(item.split("=") for item in case["overrides"].split())
    device = load_device(
        case["device"], {key: int(value) for key, value in overrides.items()}, corrected=False
    )
    if case["refresh"] != "per-bank":
        return device
    # Ramulator lacks these edges (its issue #272); without them the rest must agree
    ours = {
        ("rank", "PREab", "REFpb"), ("rank", "ACT1", "REFpb"), ("bank", "RDA", "REFpb"),
        ("bank", "WRA", "REFpb"), ("bank", "REFpb", "REFpb"),
    }  # fmt: skip
    names, levels = device.command_names, device.levels
    edges = [(rule, (levels[rule.level], names[rule.first], names[rule.then])) for rule in device.rules]
    return dataclasses.replace(device, rules=tuple(rule for rule, edge in edges if edge not in ours))


def digest_run(case: dict[str, str]) -> tuple[Device, Result]:
    device = digest_device(case)
    n, seed = int(case["requests"]), int(case["seed"])
    queues = {queue: int(case[queue]) for queue in ("read_queue", "write_queue")}
    result = run(
        device,
        requests(case["pattern"], n, seed, device),
        scheduler=case["scheduler"],
        refresh=case["refresh"],
        **queues,
    )
    return device, result


@pytest.mark.parametrize("case", digest_rows(), ids=lambda case: "-".join(list(case.values())[:5]))
def test_trace_and_counters_have_the_digest_of_ramulators(case: dict[str, str]) -> None:
    device, result = digest_run(case)
    text = io.StringIO()
    log_of(device, result, result.cycles_to_last_accept).write_csv(text)
    counters = ("cycles", "row_hits", "row_misses", "row_conflicts", "forwarded_reads", "coalesced_writes")
    assert {c: result.at_last_accept[c] for c in counters} == {c: int(case[c]) for c in counters}
    # Ramulator prints a single-precision quotient
    expected = pytest.approx(float(case["avg_read_latency_cycles"]), rel=1e-6)
    assert result.at_last_accept["avg_read_latency_cycles"] == expected
    assert hashlib.sha256(text.getvalue().encode()).hexdigest() == case["sha256"]


DDR4 = load_device("ddr4-2400r")
T = DDR4.timing


def test_an_unloaded_read_takes_rcd_and_the_read_latency() -> None:
    result = run(DDR4, [(False, 5, 7, 3, 0)], refresh="none")
    read = 1 + T["nRCD"]
    assert named(DDR4, result) == [(1, "ACT", 5), (read, "RD", 5)]
    assert result.requests == [(0, read, read + DDR4.read_latency)]
    assert result.cycles_to_drain == read + DDR4.read_latency
    assert (result.row_hits, result.row_misses, result.row_conflicts) == (0, 1, 0)
    assert result.open_cycles == result.cycles_to_drain


def test_a_request_is_not_offered_before_it_arrives() -> None:
    result = run(DDR4, [(False, 0, 0, 0, 100), (False, 1, 0, 0, 50)], refresh="none")
    assert [r[0] for r in result.requests] == [100, 101]
    assert result.cycles_to_last_accept == 101
    assert result.commands[0][0] == 101


def test_a_full_queue_holds_the_next_request_back() -> None:
    result = run(DDR4, [(False, bank, 0, 0, 0) for bank in (0, 1, 2)], read_queue=1, refresh="none")
    # each leaves the queue with its ACT; the banks are of one group
    assert [r[0] for r in result.requests] == [0, 1, 1 + T["nRRDL"]]


def test_reads_are_forwarded_from_and_writes_coalesced_with_a_queued_write() -> None:
    write, read = (True, 0, 1, 2, 0), (False, 0, 1, 2, 0)
    # the first write leaves the queue with its ACT before the second comes, which waits for the bank
    result = run(DDR4, [write, write, read], refresh="none")
    assert (result.forwarded_reads, result.coalesced_writes) == (1, 0)
    assert result.requests[2] == (2, -1, 3)
    # reads keep the controller from writing
    result = run(
        DDR4, [(False, 0, 0, column, 0) for column in range(4)] + [write, write, read], refresh="none"
    )
    assert (result.forwarded_reads, result.coalesced_writes) == (1, 1)
    assert result.requests[5:] == [(5, -1, 5), (6, -1, 7)]


def test_a_closed_page_goes_with_the_last_access_waiting_for_it() -> None:
    accesses = [(False, 0, 0, 0, 0), (True, 0, 0, 1, 0), (False, 0, 0, 2, 0), (False, 0, 5, 0, 300)]
    result = run(DDR4, accesses, page="closed", refresh="none")
    assert [name for _, name, _ in named(DDR4, result)] == ["ACT", "RD", "RD", "WRA", "ACT", "RDA"]


def test_a_row_is_not_closed_under_an_activated_request() -> None:
    hbm2 = load_device("hbm2-2000")
    # a write may follow its ACT sooner than a read: it must leave the row open for the read
    assert hbm2.timing["nRCDWR"] < hbm2.timing["nRCDRD"]
    accesses = [(False, 0, 0, 0, 0), *((True, 0, 0, column, 0) for column in (1, 2))]
    result = run(hbm2, accesses, page="closed", write_high=0, write_low=0, refresh="none")
    assert [name for _, name, _ in named(hbm2, result)] == ["ACT", "WR", "WR", "RDA"]


def test_an_idle_page_is_closed_after_the_timeout() -> None:
    accesses = [(False, 0, 4, 0, 0), (False, 1, 0, 0, 500)]
    result = run(DDR4, accesses, page="timeout", page_timeout=60, refresh="none")
    read = 1 + T["nRCD"]
    assert named(DDR4, result)[:3] == [(1, "ACT", 0), (read, "RD", 0), (read + 60, "PREpb", 0)]
    assert result.commands[2][3:] == (4, -1, -1)
    # never before the device allows
    result = run(DDR4, accesses, page="timeout", page_timeout=1, refresh="none")
    assert named(DDR4, result)[2] == (1 + T["nRAS"], "PREpb", 0)


def test_all_bank_refresh_precharges_and_comes_every_interval() -> None:
    late = 3 * T["nREFI"]
    result = run(DDR4, [(False, 0, 0, 0, 0), (False, 0, 0, 0, late)])
    refresh = T["nREFI"] + T["nRP"]
    assert named(DDR4, result)[2:5] == [
        (T["nREFI"], "PREab", 0),
        (refresh, "REFab", 0),
        (2 * T["nREFI"], "REFab", 0),
    ]


def test_no_precharge_on_the_falling_edge_after_one_of_the_same_pseudo_channel() -> None:
    # without tPPD, which hides the rule
    device = load_device("hbm3-6400", {"timing.nPPD": 0})
    refresh, other_channel = device.ticks("nREFI"), device.n_banks // 2
    for bank, delay in ((0, 1), (other_channel, 0)):
        # a row conflict is precharged at the rising edge before the refresh of both pseudo-channels
        accesses = [(False, 1, 0, 0, 0), (False, bank, 0, 0, 0), (False, bank, 5, 0, refresh - 2)]
        issued = named(device, run(device, accesses))
        at = issued.index((refresh - 1, "PREpb", bank))
        assert issued[at + 1] == (refresh + delay, "PREab", 0)


@pytest.mark.parametrize(
    ("name", "refresh", "command", "interval", "first"),
    [
        ("lpddr5-6400", "per-bank", "REFpb", "nREFIpb", [[0], [1], [2]]),
        ("ddr5-4800an", "same-bank", "REFsb", "nREFIsb", [[0], [1], [2]]),
        # each pseudo-channel goes round its own 16 banks
        ("hbm2-2000", "per-bank", "REFpb", "nREFIpb", [[0, 16], [1, 17], [2, 18]]),
    ],
)
def test_partial_refresh_goes_round(
    name: str, refresh: str, command: str, interval: str, first: list[list[int]]
) -> None:
    device = load_device(name)
    number, every = device.command(command), device.ticks(interval)
    turns = device.n_units(number) // len(first[0])
    result = run(device, [(False, 0, 0, 0, every * (turns + 2) - 1)], refresh=refresh)
    refreshed = [
        [unit for cycle, issued, unit, *_ in result.commands if issued == number and cycle // every == turn]
        for turn in range(1, turns + 2)
    ]
    assert refreshed[:3] == first
    assert sorted(unit for turn in refreshed[:turns] for unit in turn) == list(range(device.n_units(number)))
    assert refreshed[turns] == first[0]


ROLES = {
    "none": "read",
    "all-bank": "refresh_all",
    "per-bank": "refresh_bank",
    "same-bank": "refresh_same_bank",
}
CASES = [
    (name, page, refresh)
    for name in ("ddr4-2400r", "ddr5-4800an", "lpddr5-6400", "gddr6-14000", "hbm2-2000", "hbm3-6400")
    for page in ("closed", "timeout")
    for refresh in ROLES
    if ROLES[refresh] in load_device(name).roles
]


@pytest.mark.parametrize(("name", "page", "refresh"), CASES)
def test_no_policy_breaks_a_rule_of_the_device(name: str, page: str, refresh: str) -> None:
    device = load_device(name)
    offered = [
        (*request[:4], 12 * i) for i, request in enumerate(requests("rows", 150, 3, device))
    ] + requests("bursts", 160, 4, device)
    result = run(device, offered, page=page, page_timeout=40, refresh=refresh)
    assert check(log_of(device, result), refresh_interval_check=refresh != "none") == []
    columns = sum(device.commands[c[1]].data is not None for c in result.commands)
    assert columns + result.forwarded_reads + result.coalesced_writes == len(offered)
    assert result.row_hits + result.row_misses + result.row_conflicts == columns
    assert result.cycles_to_drain == max(depart for _, _, depart in result.requests)
    closing = {"closed": device.roles["read_autoprecharge"], "timeout": device.roles["precharge"]}[page]
    assert any(c[1] == closing for c in result.commands)
