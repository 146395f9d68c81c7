"""The request kernels against their plain-Python twin, the peer's figures and the rule checker."""

from __future__ import annotations

import csv
import gzip
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from naive.request import run as naive_run
from neardata.arch.dram import Device, load_device
from neardata.arch.dram.mapping import load_mapping
from neardata.arch.errors import InputError
from neardata.sim.dram import channel as channel_module
from neardata.sim.dram import controller_kernel, shares
from neardata.sim.dram import request as request_module
from neardata.sim.dram.channel import renew_ages
from neardata.sim.dram.checker import check
from neardata.sim.dram.command_log import CommandLog
from neardata.sim.dram.config import ControllerConfig, load_profile
from neardata.sim.dram.request import RequestReport, simulate
from neardata.sim.dram.trace import RequestChunk
from neardata.workloads.patterns import requests as pattern_requests

DATA = Path(__file__).parents[2] / "data" / "dram"
DEVICES = [
    "ddr4-2400r", "ddr4-3200aa", "ddr5-4800an", "lpddr5-6400", "gddr6-14000", "hbm2-2000", "hbm3-6400",
]  # fmt: skip


def requests(device: Device, kind: str, n: int, rng: np.random.Generator) -> RequestChunk:
    """``n`` requests: a pattern of `neardata.workloads`, or one of the shapes below."""
    line_bytes, lines = device.burst_bytes, device.capacity_bytes // device.burst_bytes
    arrival = None
    if kind == "hot":  # few addresses: forwarding, coalescing
        line, is_write = rng.integers(0, 48, n), rng.random(n) < 0.5
    elif kind == "bank":  # one bank
        per_row, banks = device.bursts_per_row, device.n_banks
        line = rng.integers(0, 6, n) * per_row * banks + rng.integers(0, per_row, n)
        is_write = rng.random(n) < 0.4
    elif kind == "sparse":
        line, is_write = rng.integers(0, lines, n), rng.random(n) < 0.3
        arrival = np.cumsum(rng.integers(0, 40, n) * (rng.random(n) < 0.7))
    elif kind == "bursts":
        line = (rng.integers(0, lines // 16, -(-n // 6)).repeat(6)[:n] * 8 + np.arange(n) % 6) % lines
        is_write = (rng.random(-(-n // 6)) < 0.4).repeat(6)[:n]
    else:
        geometry = {"lines_per_row": device.bursts_per_row, "banks": device.n_banks}
        address, is_write = next(
            pattern_requests(kind, n, seed=int(rng.integers(1 << 30)), line_bytes=line_bytes, **geometry)
        )
        return RequestChunk(address % device.capacity_bytes, is_write)
    return RequestChunk(line * line_bytes, is_write, arrival)


def compare(device: Device, chunk: RequestChunk, config: ControllerConfig) -> RequestReport:
    """Run both; every command, request and counter must be the same, and no rule broken."""
    options: dict[str, Any] = {
        "scheduler": config.scheduler, "read_queue": config.read_queue, "write_queue": config.write_queue,
        "write_high": config.write_high, "write_low": config.write_low, "page": config.page,
        "page_timeout": config.page_timeout, "refresh": config.refresh,
    }  # fmt: skip
    _, bank, row, column = load_mapping(device, config.mapping, 1).decode(chunk.address)
    arrival = np.zeros(len(chunk), dtype=np.int64) if chunk.arrival is None else chunk.arrival
    columns = (part.tolist() for part in (chunk.is_write, bank, row, column, arrival))
    naive = naive_run(device, list(zip(*columns, strict=True)), **options)
    ours = simulate(device, [chunk], config, record_requests=True, record_commands=True)
    assert ours.command_logs is not None and ours.per_request is not None
    log = ours.command_logs[0]
    mine = np.stack([log.cycle, log.command, log.unit, log.row, log.column, log.kind], axis=1)
    theirs = np.array(naive.commands, dtype=np.int64).reshape(-1, 6)
    shared = min(len(mine), len(theirs))
    different = np.flatnonzero((mine[:shared] != theirs[:shared]).any(axis=1))
    if len(different):
        i = different[0]
        raise AssertionError(f"command {i}: kernel {mine[i].tolist()}, twin {theirs[i].tolist()}")
    # the kernel stops with the last column command, the twin with the last burst
    assert (theirs[len(mine) :, 5] == -1).all() and len(mine) <= len(theirs)
    times = np.array(naive.requests, dtype=np.int64)
    np.testing.assert_array_equal(ours.per_request.arrive, times[:, 0])
    np.testing.assert_array_equal(ours.per_request.issue, times[:, 1])
    np.testing.assert_array_equal(ours.per_request.depart, times[:, 2])
    for counter in (
        "cycles_to_last_accept", "cycles_to_drain", "row_hits", "row_misses", "row_conflicts",
        "forwarded_reads", "coalesced_writes",
    ):  # fmt: skip
        assert getattr(ours, counter) == getattr(naive, counter), counter
    if len(mine) == len(theirs):
        assert ours.open_cycles == naive.open_cycles
    for counter in ("row_hits", "row_misses", "row_conflicts"):
        assert ours.at_last_accept[counter] == naive.at_last_accept[counter], counter
    assert ours.at_last_accept["avg_read_latency_cycles"] == pytest.approx(
        naive.at_last_accept["avg_read_latency_cycles"]
    )
    assert check(log) == []
    assert_same_counters(simulate(device, [chunk], config), ours)
    return ours


def assert_same_counters(ours: RequestReport, expected: RequestReport) -> None:
    for counter in (
        "requests", "reads", "writes", "forwarded_reads", "coalesced_writes", "cycles_to_last_accept",
        "cycles_to_drain", "row_hits", "row_misses", "row_conflicts", "read_latency_sum", "command_counts",
        "open_cycles", "at_last_accept",
    ):  # fmt: skip
        assert getattr(ours, counter) == getattr(expected, counter), counter
    np.testing.assert_array_equal(ours.read_latency.counts, expected.read_latency.counts)
    assert ours.read_latency.maximum == expected.read_latency.maximum


def random_case(seed: int) -> tuple[Device, RequestChunk, ControllerConfig]:
    rng = np.random.default_rng(seed)
    name = DEVICES[seed % len(DEVICES)]
    overrides: dict[str, int] = {}
    if name.startswith(("ddr", "lpddr")) and rng.random() < 0.3:
        overrides["organisation.rank"] = 2
    more_refreshes = rng.random() < 0.5  # a short run meets few
    device = load_device(name, overrides)
    refreshes = ["none", "all-bank", "all-bank", "all-bank"]
    if "refresh_bank" in device.roles and "nREFIpb" in device.timing:
        refreshes.append("per-bank")
    if "refresh_same_bank" in device.roles:
        refreshes.append("same-bank")
    refresh = str(rng.choice(refreshes))
    if more_refreshes and refresh == "all-bank":
        overrides["timing.nREFI"] = {"ddr4": 1500, "ddr5": 1900, "gddr": 900}.get(name[:4], 1300)
        device = load_device(name, overrides)
    low, high = sorted(rng.random(2)) if rng.random() < 0.5 else (0.2, 0.8)
    config = ControllerConfig(
        scheduler=str(rng.choice(["frfcfs", "frfcfs-rowhit"])),  # type: ignore[arg-type]
        read_queue=int(rng.choice([1, 4, 32, 32, 32, 100])),
        write_queue=int(rng.choice([1, 4, 32, 32, 32, 70])),
        write_low=low,
        write_high=high,
        page=str(rng.choice(["open", "open", "closed", "timeout"])),  # type: ignore[arg-type]
        page_timeout=int(rng.choice([1, 50, 200])),
        refresh=refresh,  # type: ignore[arg-type]
        mapping=str(rng.choice(["RoBaRaCoCh", "MOP4CLXOR"])),
    )
    kinds = ["stream", "random", "rowstride", "mix21", "triad", "bankconf", "zipf", "hot", "bank", "sparse"]
    kind = str(rng.choice([*kinds, "bursts"]))
    return device, requests(device, kind, int(rng.integers(1, 500)), rng), config


@pytest.mark.parametrize("seed", range(140))
def test_kernel_issues_what_its_twin_issues(seed: int) -> None:
    compare(*random_case(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(140, 3000))
def test_kernel_issues_what_its_twin_issues_at_length(seed: int) -> None:
    compare(*random_case(seed))


@pytest.mark.parametrize("pattern", ["mix21", "rowstride", "zipf"])
@pytest.mark.parametrize("name", ["DDR4_2400R", "DDR5_4800AN", "LPDDR5_6400", "HBM3_6400"])
def test_issues_the_commands_of_a_ramulator_trace(name: str, pattern: str, tmp_path: Path) -> None:
    device = load_device(name.lower().replace("_", "-"))
    geometry = {"lines_per_row": device.bursts_per_row, "banks": device.n_banks}
    address, is_write = next(
        pattern_requests(pattern, 1500, seed=1, line_bytes=device.burst_bytes, **geometry)
    )
    ours = simulate(
        device, [RequestChunk(address, is_write)], load_profile("ramulator21-frfcfs"), record_commands=True
    )
    with gzip.open(DATA / f"commands_ramulator21_{name}_{pattern}.csv.gz") as packed:
        (tmp_path / "trace.csv").write_bytes(packed.read())
    theirs = CommandLog.read_csv(device, tmp_path / "trace.csv")
    assert ours.command_logs is not None
    for part in ("cycle", "command", "unit", "row", "column", "kind"):
        mine = getattr(ours.command_logs[0], part)
        np.testing.assert_array_equal(mine[: len(theirs)], getattr(theirs, part), err_msg=part)
    assert len(ours.command_logs[0]) == len(theirs) or (
        ours.command_logs[0].cycle[len(theirs)] > ours.cycles_to_last_accept
    )


def reference_rows() -> list[dict[str, str]]:
    with (DATA / "ramulator21_reference.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize(
    "row", reference_rows(), ids=lambda r: f"{r['config']}-{r['pattern']}-{r['n_requests']}"
)
def test_cycles_and_counters_of_a_ramulator_run(row: dict[str, str]) -> None:
    name, _, variant = row["config"].partition("+")
    device = load_device(name)
    overrides = {"q128": {"read_queue": 128, "write_queue": 64}, "mop": {"mapping": "MOP4CLXOR"}}
    row_hit = variant in ("rowhit", "q128")
    config = load_profile("ramulator21-frfcfs" + "-rowhit" * row_hit, overrides.get(variant))
    geometry = {"lines_per_row": device.bursts_per_row, "banks": device.n_banks}
    chunks = pattern_requests(
        row["pattern"], int(row["n_requests"]), seed=1, line_bytes=device.burst_bytes, **geometry
    )
    ours = simulate(device, (RequestChunk(*chunk) for chunk in chunks), config)
    assert ours.cycles_to_last_accept == int(row["cycles"])
    for counter in ("row_hits", "row_misses", "row_conflicts"):
        assert ours.at_last_accept[counter] == int(row[counter]), counter
    assert ours.at_last_accept["avg_read_latency_cycles"] == pytest.approx(
        float(row["avg_read_latency_cycles"]), abs=0.006
    )


@dataclass(frozen=True)
class Split:
    """A way to hand the same requests over."""

    pieces: int
    log_rows: int


@pytest.mark.parametrize("name", ["ddr4-2400r", "hbm3-6400", "lpddr5-6400"])
@pytest.mark.parametrize("split", [Split(7, 1 << 17), Split(400, 64), Split(1, 13)])
def test_result_does_not_depend_on_chunks(name: str, split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    device, config = load_device(name), load_profile("ramulator21-frfcfs")
    whole = requests(device, "sparse", 4000, np.random.default_rng(3))
    assert whole.arrival is not None
    expected = simulate(device, [whole], config, record_requests=True, record_commands=True, explain=True)
    monkeypatch.setattr(request_module, "LOG_ROWS", split.log_rows)
    cuts = np.array_split(np.arange(len(whole)), split.pieces)
    pieces = [RequestChunk(whole.address[c], whole.is_write[c], whole.arrival[c]) for c in cuts]
    ours = simulate(device, pieces, config, record_requests=True, record_commands=True, explain=True)
    assert_same(ours, expected)


def assert_same(ours: RequestReport, expected: RequestReport) -> None:
    for part in ("arrive", "issue", "depart"):
        np.testing.assert_array_equal(getattr(ours.per_request, part), getattr(expected.per_request, part))
    assert ours.command_logs is not None and expected.command_logs is not None
    for mine, theirs in zip(ours.command_logs, expected.command_logs, strict=True):
        np.testing.assert_array_equal(mine.cycle, theirs.cycle)
        np.testing.assert_array_equal(mine.command, theirs.command)
        np.testing.assert_array_equal(mine.unit, theirs.unit)
    assert ours.lost_cycles == expected.lost_cycles and ours.at_last_accept == expected.at_last_accept
    assert ours.open_cycles == expected.open_cycles and ours.command_counts == expected.command_counts


@pytest.mark.parametrize("name", ["ddr4-2400r", "hbm2-2000"])
def test_ages_may_be_renewed_at_any_chunk(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device, config = load_device(name), load_profile("ramulator21-frfcfs-rowhit")
    whole = requests(device, "mix21", 3000, np.random.default_rng(4))
    expected = simulate(device, [whole], config, record_requests=True, record_commands=True, explain=True)
    feed = request_module._ChannelRun.feed

    def renewing(self: Any, share: Any, final: bool) -> bool:
        renew_ages(self.state)
        return bool(feed(self, share, final))

    monkeypatch.setattr(request_module._ChannelRun, "feed", renewing)
    cuts = np.array_split(np.arange(len(whole)), 50)
    pieces = [RequestChunk(whole.address[c], whole.is_write[c]) for c in cuts]
    assert_same(
        simulate(device, pieces, config, record_requests=True, record_commands=True, explain=True), expected
    )


def test_a_chunk_of_more_requests_than_there_are_ages(monkeypatch: pytest.MonkeyPatch) -> None:
    device, config = load_device("ddr4-2400r"), load_profile("ramulator21-frfcfs")
    whole = requests(device, "mix21", 3000, np.random.default_rng(4))
    expected = simulate(device, [whole], config, record_requests=True, record_commands=True, explain=True)
    feed, ages = request_module._ChannelRun.feed, []

    def spying(self: Any, share: Any, final: bool) -> bool:
        whole = feed(self, share, final)
        ages.append(int(self.state.r[controller_kernel.R_AGE]))
        return bool(whole)

    monkeypatch.setattr(request_module._ChannelRun, "feed", spying)
    monkeypatch.setattr(shares, "PIECE", 300)
    monkeypatch.setattr(controller_kernel, "AGE_LIMIT", 1000)
    ours = simulate(device, [whole], config, record_requests=True, record_commands=True, explain=True)
    assert len(ages) == 10 and max(ages) < 1000
    assert_same(ours, expected)


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("seed", range(6))
def test_runs_of_hits_are_taken_exactly(name: str, seed: int) -> None:
    """Without a record long runs of row hits have a path of their own; with one they do not."""
    rng = np.random.default_rng(seed)
    device = load_device(name, {"timing.nREFI": int(rng.integers(1000, 3000))})
    lines = device.capacity_bytes // device.burst_bytes
    line = (np.arange(4000) + np.arange(4000) // int(rng.choice([40, 90, 400])) * (lines // 64)) % lines
    again = rng.random(4000) < 0.02  # now and then an address just written
    line[again] = line[np.flatnonzero(again) // 2]
    chunk = RequestChunk(line * device.burst_bytes, rng.random(4000) < rng.choice([0, 0, 0.01]))
    config = ControllerConfig(
        page=str(rng.choice(["open", "closed", "timeout"])),  # type: ignore[arg-type]
        page_timeout=int(rng.choice([5, 50])),
        scheduler=str(rng.choice(["frfcfs", "frfcfs-rowhit"])),  # type: ignore[arg-type]
        read_queue=int(rng.choice([2, 8, 32])),
    )
    expected = simulate(device, [chunk], config, record_commands=True)
    cuts = np.array_split(np.arange(4000), 6)
    pieces = [RequestChunk(chunk.address[c], chunk.is_write[c]) for c in cuts]
    assert_same_counters(simulate(device, [chunk], config), expected)
    assert_same_counters(simulate(device, pieces, config), expected)


def test_channels_are_independent_of_threads_and_of_each_other() -> None:
    device, config = load_device("hbm2-2000"), load_profile("ramulator21-frfcfs")
    rng = np.random.default_rng(5)
    n = 4000
    address = rng.integers(0, 4 * device.capacity_bytes // device.burst_bytes, n) * device.burst_bytes
    chunk = RequestChunk(address, rng.random(n) < 0.3)
    one, four = (
        simulate(
            device, [chunk], config, channels=4, threads=n, record_requests=True, record_commands=True
        )
        for n in (1, 4)
    )  # fmt: skip
    assert_same(four, one)
    mapping = load_mapping(device, config.mapping, 4)
    channel, bank, row, column = mapping.decode(address)
    mine = channel == 2
    alone = load_mapping(device, config.mapping, 1).encode(0, bank[mine], row[mine], column[mine])
    share = RequestChunk(alone, chunk.is_write[mine])
    single = simulate(device, [share], config, record_requests=True, record_commands=True)
    assert single.per_request is not None and four.per_request is not None
    np.testing.assert_array_equal(four.per_request.depart[mine], single.per_request.depart)
    assert four.requests == n and sum(len(log) for log in four.command_logs or []) > n


def test_arrival_times_hold_requests_back() -> None:
    device, config = load_device("ddr4-2400r"), load_profile("ramulator21-frfcfs")
    arrival = np.array([0, 5000, 5000, 20000])
    chunk = RequestChunk(np.array([0, 64, 128, 1 << 20]), np.zeros(4, dtype=bool), arrival)
    times = simulate(device, [chunk], config, record_requests=True).per_request
    assert times is not None
    assert times.arrive.tolist() == [0, 5000, 5001, 20000]
    unloaded = device.ticks("nRCD") + device.read_latency
    # the first read needs its row opened; its command issues in the tick after arrival
    assert (times.depart - times.arrive).tolist()[0] == unloaded + 1


FAR = [
    (name, refresh)
    for name in DEVICES
    for refresh, role in {
        "all-bank": "refresh_all", "per-bank": "refresh_bank", "same-bank": "refresh_same_bank",
        "none": "read",
    }.items()
    if role in load_device(name).roles
]  # fmt: skip


@pytest.mark.parametrize("page", ["open", "timeout"])
@pytest.mark.parametrize(("name", "refresh"), FAR)
def test_refreshes_of_an_idle_channel_are_skipped_exactly(
    name: str, refresh: str, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = load_device(name)
    config = load_profile("ramulator21-frfcfs", {"refresh": refresh, "page": page})
    n = 300
    rng = np.random.default_rng(8)
    address = rng.integers(0, 1000, n) * (device.capacity_bytes // 1000 // 64 * 64)
    arrival = np.cumsum(rng.integers(0, 20, n))
    arrival[100:] += 9_000_011
    arrival[200:] += 7_000_018
    chunk = RequestChunk(address, rng.random(n) < 0.3, arrival)
    # a record of commands holds every refresh
    expected = simulate(device, [chunk], config, record_requests=True, record_commands=True)
    monkeypatch.setattr(request_module, "IDLE_REFRESHES", 100)
    skipped = []
    skip = channel_module.skip_idle

    def spying(channel: Any, kernel: Any, until: int) -> None:
        before = int(channel.r[controller_kernel.R_NEXT_REFRESH])
        skip(channel, kernel, until)
        skipped.append(int(channel.r[controller_kernel.R_NEXT_REFRESH]) - before)

    monkeypatch.setattr(channel_module, "skip_idle", spying)
    ours = simulate(device, [chunk], config, record_requests=True)
    for part in ("arrive", "issue", "depart"):
        np.testing.assert_array_equal(
            getattr(ours.per_request, part), getattr(expected.per_request, part), err_msg=part
        )
    assert_same_counters(ours, expected)
    assert ours.open_cycles == expected.open_cycles and ours.command_counts == expected.command_counts
    assert refresh == "none" or max(skipped) > 3_000_000


@pytest.mark.parametrize("name", DEVICES)
def test_the_farthest_arrival_is_no_farther_than_any(name: str) -> None:
    device, config = load_device(name), load_profile("ramulator21-frfcfs")
    last = shares.LAST_ARRIVAL
    chunk = RequestChunk(np.array([0, 1 << 20]), np.zeros(2, dtype=bool), np.array([0, last]))
    report = simulate(device, [chunk], config, record_requests=True)
    assert report.per_request is not None
    assert report.per_request.arrive.tolist() == [0, last]
    interval = device.ticks("nREFI")
    nodes = int(device.node_of(device.refresh_at).max()) + 1
    refreshes = report.command_counts[device.command_names[device.roles["refresh_all"]]]
    assert 0 <= report.cycles_to_drain // interval * nodes - refreshes <= nodes
    later = RequestChunk(chunk.address, chunk.is_write, np.array([0, last + 1]))
    with pytest.raises(InputError, match=f"request 2 arrives in cycle {last + 1}; arrivals go up to {last}"):
        simulate(device, [later], config)


def test_a_channel_that_waits_for_a_far_arrival_can_be_stopped() -> None:
    device, config = load_device("ddr4-2400r"), load_profile("ramulator21-frfcfs")
    chunk = RequestChunk(np.array([0, 64]), np.zeros(2, dtype=bool), np.array([0, 10**18]))
    simulate(device, [RequestChunk(chunk.address, chunk.is_write)], config, explain=True)  # compile
    stop = threading.Event()
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    report = simulate(device, [chunk], config, explain=True, stop=stop)
    timer.join()
    assert report.partial and report.requests == 1
    assert report.lost_cycles is not None and report.busy_cycles is not None
    assert report.busy_cycles + sum(report.lost_cycles.values()) == report.cycles_to_drain


@pytest.mark.parametrize("split", [(1, 1), (1, 3), (3, 2), (8, 8)])
def test_requests_are_dealt_out_in_order(split: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    threads, pieces = split
    monkeypatch.setattr(shares, "BLOCK", 10)
    device, config = load_device("hbm2-2000"), load_profile("ramulator21-frfcfs", {"mapping": "RoBaCoBgXOR"})
    rng = np.random.default_rng(9)
    n, channels = 1000, 8
    lines = channels * device.capacity_bytes // device.burst_bytes
    address = rng.integers(0, lines, n) * device.burst_bytes
    chunk = RequestChunk(address, rng.random(n) < 0.3, np.arange(n) * 2)
    mapping = load_mapping(device, config.mapping, channels)
    got: list[list[shares.Share]] = [[] for _ in range(channels)]
    with ThreadPoolExecutor(threads) as pool:
        dealer = shares.Dealer(mapping, pool, threads=threads, low_bits=0, indexed=True)
        for part in np.array_split(np.arange(n), pieces):
            dealt = dealer.deal(RequestChunk(address[part], chunk.is_write[part], np.arange(n)[part] * 2))
            for mine, piles in zip(got, dealt, strict=True):
                mine.append(piles.together())
    for channel, mine in enumerate(got):
        index = np.flatnonzero(mapping.channel_of(address) == channel)
        np.testing.assert_array_equal(np.concatenate([s.index for s in mine]), index)
        np.testing.assert_array_equal(np.concatenate([s.address for s in mine]), address[index])
        np.testing.assert_array_equal(np.concatenate([s.is_write for s in mine]), chunk.is_write[index])
        np.testing.assert_array_equal(np.concatenate([s.arrival for s in mine]), index * 2)


def test_unloaded_and_streaming_bounds() -> None:
    """Closed forms: row hits of one bank group at tCCD_L, of alternating groups at tCCD_S."""
    device = load_device("ddr4-2400r", {"timing.nREFI": 0})
    config = load_profile("ramulator21-frfcfs", {"refresh": "none"})
    n = 128
    same_row = RequestChunk(np.arange(n) * 64, np.zeros(n, dtype=bool))
    report = simulate(device, [same_row], config)
    first = 1 + device.ticks("nRCD")
    assert report.cycles_to_drain == first + (n - 1) * device.ticks("nCCDL") + device.read_latency
    groups = load_mapping(device, "row bank bank_group:1 rank column bank_group:1 channel", 1)
    spread = groups.encode(0, np.arange(n) % 2 * 4, 0, np.arange(n) // 2)
    report = simulate(
        device, [RequestChunk(np.sort(spread), np.zeros(n, dtype=bool))],
        config.model_copy(update={"mapping": "row bank bank_group:1 rank column bank_group:1 channel"}),
    )  # fmt: skip
    assert report.cycles_to_drain <= first + n * device.ticks("nCCDS") + device.read_latency + 8


def test_latency_percentiles_are_those_of_the_requests() -> None:
    device, config = load_device("ddr5-4800an"), load_profile("ramulator21-frfcfs")
    report = simulate(
        device, [requests(device, "random", 3000, np.random.default_rng(6))], config, record_requests=True
    )
    times = report.per_request
    assert times is not None
    latency = np.sort(times.depart - times.arrive)
    for percent in (50, 95, 99, 100):
        rank = int(np.ceil(len(latency) * percent / 100)) - 1
        assert report.read_latency.percentile(percent) == latency[rank]
    assert report.avg_read_latency_cycles == pytest.approx(latency.mean())
    assert report.read_latency.maximum == latency[-1]


def test_idle_cycles_are_all_accounted_for() -> None:
    device, config = load_device("hbm3-6400"), load_profile("ramulator21-frfcfs")
    report = simulate(
        device, [requests(device, "mix21", 5000, np.random.default_rng(7))], config, explain=True
    )
    assert report.lost_cycles is not None and report.busy_cycles is not None
    assert report.busy_cycles + sum(report.lost_cycles.values()) == report.cycles_to_drain * 2
    assert report.busy_cycles == 5000 * device.burst_cycles


def test_stopping_gives_a_partial_report() -> None:
    device, config = load_device("ddr4-2400r"), load_profile("ramulator21-frfcfs")
    stop = threading.Event()

    def endless() -> Any:
        for i in range(1000):
            if i == 3:
                stop.set()
            yield RequestChunk(np.arange(500) * 64, np.zeros(500, dtype=bool))

    report = simulate(device, endless(), config, stop=stop)
    assert report.partial and 500 <= report.requests <= 2000


@pytest.mark.parametrize(
    ("address", "message"),
    [(-64, "beyond"), (1 << 33, "beyond"), (1 << 40, "beyond")],
)
def test_addresses_beyond_the_capacity_are_refused(address: int, message: str) -> None:
    device, config = load_device("ddr4-2400r"), load_profile("ramulator21-frfcfs")
    with pytest.raises(InputError, match=message):
        simulate(device, [RequestChunk(np.array([address]), np.zeros(1, dtype=bool))], config)


def test_no_requests_are_refused() -> None:
    with pytest.raises(InputError, match="no requests"):
        simulate(load_device("ddr4-2400r"), [], load_profile("ramulator21-frfcfs"))


def test_missing_refresh_is_refused() -> None:
    with pytest.raises(InputError, match="no per-bank refresh"):
        device = load_device("ddr4-2400r")
        config = load_profile("ramulator21-frfcfs", {"refresh": "per-bank"})
        simulate(device, [RequestChunk(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=bool))], config)


def test_bytes_of_one_burst_are_one_address() -> None:
    device = load_device("ddr4-2400r")
    chunk = RequestChunk(np.arange(4000) * 8, np.ones(4000, dtype=bool))
    ours, aligned = ControllerConfig(), RequestChunk(chunk.address // 64 * 64, chunk.is_write)
    assert simulate(device, [chunk], ours).coalesced_writes > 3000
    assert_same_counters(simulate(device, [chunk], ours), simulate(device, [aligned], ours))
    assert simulate(device, [chunk], load_profile("ramulator21-frfcfs")).coalesced_writes == 0
