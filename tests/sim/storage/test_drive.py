"""A drive under requests: against the twin, conservation, and what a person would expect."""

from __future__ import annotations

import doctest
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naive.drive import NaiveDrive, Request
from neardata.arch.errors import InputError
from neardata.arch.storage import Ssd, load_ssd
from neardata.arch.storage.ssd import ALL_COMPAT
from neardata.sim.storage import state
from neardata.sim.storage.drive import READ, TRIM, WRITE, Requests, run_drive
from neardata.sim.storage.energy import energy

SMALL = {
    "flash.channels": 2, "flash.chips_per_channel": 1, "flash.dies_per_chip": 2, "flash.planes_per_die": 2,
    "flash.blocks_per_plane": 16, "flash.pages_per_block": 8, "flash.page_bytes": 4096, "gc.reserve": 3,
    "gc.wear_gap": 0, "mapping.over_provisioning": 0.4,
}  # fmt: skip
OPS = {READ: "read", WRITE: "write", TRIM: "trim"}


def small(**overrides: Any) -> Ssd:
    return load_ssd("mqsim-c1", {**SMALL, **{k.replace("__", "."): v for k, v in overrides.items()}})


def loop(
    ssd: Ssd, n: int, depth: int, read_share: float, sectors: int = 8, seed: int = 1, **more: Any
) -> Any:
    rng = np.random.default_rng(seed)
    places = ssd.logical_pages * ssd.sectors_per_page // sectors
    op = np.where(rng.random(n) < read_share, READ, WRITE)
    lba = rng.integers(places, size=n) * sectors
    return run_drive(ssd, Requests(op, lba, np.full(n, sectors)), depth=depth, **more)


def test_examples() -> None:
    assert doctest.testmod(state).failed == 0


def test_one_read_takes_link_command_array_and_bus() -> None:
    ssd = load_ssd("mqsim-c1")
    report = run_drive(ssd, Requests(np.array([READ]), np.array([0]), np.array([8])), depth=1)
    wire = (72 + 28) / 8 + 4992 / 8 + (16 + 28) / 8
    assert report.latencies(READ).mean == pytest.approx(wire + 290 + 30000 + 4096, abs=0.01)


def test_firmware_bounds_the_rate() -> None:
    ssd = load_ssd("mqsim-c1", {"controller.read_ns": 10000, "controller.cores": 2})
    assert loop(ssd, 4000, 64, 1.0).iops == pytest.approx(200_000, rel=0.02)


def test_the_host_link_bounds_a_stream() -> None:
    ssd = load_ssd("mqsim-c1", {"host.lane_gb_per_s": 0.5})
    n = 2000
    requests = Requests(np.full(n, READ), np.arange(n) * 256, np.full(n, 256))
    report = run_drive(ssd, requests, depth=32)
    assert report.mb_per_s == pytest.approx(2000 * 128 / 156, rel=0.01)
    assert report.busy["host link up"] > 0.98


def test_collection_keeps_a_full_drive_going() -> None:
    ssd = small(mapping__filled=1.0)
    report = loop(ssd, 3000, 8, 0.0)
    counts = report.counts
    assert report.requests == 3000 == report.writes
    assert counts["gc_runs"] == report.use.counts["blocks_erased"] > 50
    programs = report.use.counts["pages_programmed"]
    assert programs == counts["host_pages_written"] + counts["gc_moves"] - counts["gc_moves_overtaken"]
    assert 1 < report.write_amplification < 4


def test_trimmed_pages_need_not_move() -> None:
    ssd = small(mapping__filled=1.0)
    sectors = ssd.logical_pages * ssd.sectors_per_page
    n = 800
    rng = np.random.default_rng(5)
    lba = np.concatenate([[0], rng.integers(sectors // 16, size=n) * 8])
    op = np.full(n + 1, WRITE)
    with_trim = run_drive(
        ssd,
        Requests(np.where(np.arange(n + 1) == 0, TRIM, op), lba, np.append(sectors, np.full(n, 8))),
        depth=1,
    )
    without = run_drive(ssd, Requests(op[1:], lba[1:], np.full(n, 8)), depth=1)
    assert with_trim.counts["pages_trimmed"] == ssd.logical_pages
    assert with_trim.write_amplification < without.write_amplification


def test_a_drive_that_cannot_be_collected_says_so() -> None:
    ssd = small(mapping__over_provisioning=0.0)
    with pytest.raises(InputError, match=r"request \d+ of .* never ended .* the drive is too full"):
        loop(ssd, 3000, 4, 0.0)
    with pytest.raises(InputError, match=r"the drive is too small: of 16 blocks a plane 16 are filled"):
        loop(small(mapping__over_provisioning=0.0, mapping__filled=1.0), 10, 1, 0.0)


@pytest.mark.parametrize(
    ("lba", "sectors", "message"),
    [
        (10**12, 8, "are not in a drive of"),
        (-8, 8, "are not in a drive of"),
        (0, 0, "0 sectors from 0"),
    ],
)
def test_requests_beyond_the_drive(lba: int, sectors: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_drive(small(), Requests(np.array([READ]), np.array([lba]), np.array([sectors])), depth=1)


def test_arrivals_run_forwards() -> None:
    three = np.full(3, READ), np.zeros(3, np.int64), np.full(3, 8)
    for times in ([0.0, 5.0, 4.0], [-1.0, 0.0, 1.0], [0.0, 1.0, np.nan]):
        with pytest.raises(InputError, match="arrives before"):
            run_drive(small(), Requests(*three, np.array(times)))


def test_runs_repeat_and_room_grows() -> None:
    ssd = small(mapping__filled=0.9)
    one, two = loop(ssd, 4000, 64, 0.5), loop(ssd, 4000, 64, 0.5)
    assert (one.table == two.table).all()
    assert not (loop(ssd, 4000, 64, 0.5, seed=2).table == one.table).all()


def test_time_limits_what_starts() -> None:
    ssd = small()
    chunk = Requests(np.full(100, READ), np.arange(100) * 8 % 512, np.full(100, 8))
    report = run_drive(ssd, chunk, depth=4, stop_ns=1e6, more=lambda n: chunk)
    assert report.time_ns > 1e6 > report.table[:, 4].max() / report.clock.per_ns
    assert report.window_ns == 1e6


def test_energy_counts_every_action() -> None:
    report = loop(small(mapping__filled=1.0), 1000, 8, 0.5)
    items = energy(report)
    reads = report.use.counts["pages_read"]
    assert items["page reads"] == reads * report.ssd.energy.page_read_nj.value * 1e3
    assert all(items[k] > 0 for k in ("page programs", "block erases", "channels", "host link", "idle"))


drives = st.fixed_dictionaries(
    {
        "flash.channels": st.integers(1, 2),
        "flash.chips_per_channel": st.integers(1, 2),
        "flash.dies_per_chip": st.integers(1, 2),
        "flash.planes_per_die": st.integers(1, 2),
        "flash.blocks_per_plane": st.sampled_from([10, 14]),
        "flash.pages_per_block": st.sampled_from([4, 6]),
        "flash.page_bytes": st.sampled_from([2048, 4096]),
        "flash.technology": st.sampled_from(["slc", "tlc"]),
        "flash.read_ns": st.just([20000.0, 30000.0, 50000.0]),
        "flash.program_ns": st.just([200000.0, 300000.0]),
        "flash.cache_read": st.booleans(),
        "flash.multi_plane": st.booleans(),
        "flash.independent_planes": st.booleans(),
        "flash.suspend": st.sampled_from(["none", "both"]),
        "bus.mt_per_s": st.sampled_from([333, 1000, 1866]),
        "mapping.table": st.sampled_from(["ideal", "ideal", "cached"]),
        "mapping.cached_bytes": st.sampled_from([60, 200]),
        "mapping.allocation": st.sampled_from(["CWDP", "PDWC", "WCPD"]),
        "mapping.dynamic": st.booleans(),
        "mapping.over_provisioning": st.sampled_from([0.5, 0.6]),
        "mapping.filled": st.sampled_from([0.0, 0.5, 1.0]),
        "gc.policy": st.sampled_from(["greedy", "d-choices", "fifo"]),
        "gc.reserve": st.sampled_from([2, 3]),
        "gc.first": st.booleans(),
        "gc.copyback": st.booleans(),
        "gc.youngest_first": st.booleans(),
        "gc.wear_gap": st.sampled_from([0, 3]),
        "cache.mode": st.sampled_from(["off", "off", "write"]),
        "cache.bytes": st.sampled_from([8192, 65536]),
        "controller.cores": st.integers(1, 2),
        "controller.read_ns": st.sampled_from([0.0, 2000.0]),
        "controller.latency_ns": st.sampled_from([0.0, 700.0]),
        "controller.fetch": st.sampled_from([3, 512]),
        "controller.first_on_bus": st.sampled_from(["command", "data"]),
        "host.latency_ns": st.sampled_from([0.0, 300.0]),
        "host.lane_gb_per_s": st.sampled_from([1.0, 0.985]),
        "compat": st.sampled_from([{}, {}, ALL_COMPAT]),
    }
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    drives,
    st.integers(1, 250),
    st.sampled_from([0, 1, 7]),
    st.sampled_from([0.0, 0.5, 0.9]),
    st.integers(0, 2**32),
)
def test_the_kernel_is_its_twin(drive: dict[str, Any], n: int, depth: int, reads: float, seed: int) -> None:
    compat = drive.pop("compat")
    ssd = load_ssd("mqsim-c1", {**drive, **{f"compat.{k}": v for k, v in compat.items()}})
    rng = np.random.default_rng(seed)
    most = ssd.logical_pages * ssd.sectors_per_page
    op = rng.choice([READ, WRITE, TRIM], n, p=[reads, 0.95 - reads, 0.05])
    sectors = np.minimum(rng.choice([1, 2, ssd.sectors_per_page, 3 * ssd.sectors_per_page], n), most)
    lba = (rng.random(n) * (most - sectors + 1)).astype(np.int64)
    arrive = (
        None if depth else np.sort(rng.choice([0, 1, 5, 77.125, 400], n) * 1000 * np.arange(n)).astype(float)
    )
    requests = [
        Request(
            i, OPS[int(op[i])], int(lba[i]), int(sectors[i]),
            Fraction(0) if arrive is None else Fraction(round(float(arrive[i]) * 1000), 1000),
        )
        for i in range(n)
    ]  # fmt: skip
    twin = NaiveDrive(ssd, requests, depth, seed=seed % 97)
    try:
        report = run_drive(ssd, Requests(op, lba, sectors, arrive), depth=depth, seed=seed % 97)
    except InputError as error:  # too full a drive is too full for both
        if "ran out" in str(error):
            with pytest.raises(IndexError):
                twin.run()
        elif "too small" not in str(error):  # that is told before either runs
            twin.run()
            assert "in the cache" in str(error) or any(r.ended is None for r in requests)
        return
    twin.run()
    per = report.clock.per_ns
    assert [Fraction(int(v), per) for v in report.table[:, 4]] == [r.sent for r in requests]
    assert [Fraction(int(v), per) for v in report.table[:, 5]] == [r.ended for r in requests]
    assert {k: v for k, v in report.counts.items() if k in twin.counts} == twin.counts
    assert report.use.counts["suspensions"] == twin.flash.suspensions
    commands = len(twin.flash.log)
    assert report.use.commands == commands + _copies(report, twin)
    erased = [block.erased for plane in twin.planes for block in plane.blocks]
    assert report.erase_counts == (min(erased), pytest.approx(float(np.mean(erased))), max(erased))


def _copies(report: Any, twin: NaiveDrive) -> int:
    """Copybacks are counted by the page, and logged by the command."""
    return int(report.use.counts["copybacks"]) - sum(kind == "copyback" for _, _, kind, _ in twin.flash.log)
