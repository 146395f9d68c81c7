"""Transactions on the flash: against the twin, against closed forms, and the figures MQSim cannot reach."""

from __future__ import annotations

import doctest
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naive.flash import CLASS, NaiveFlash, Tx
from naive.flash import run_transactions as naive_run
from neardata.arch.errors import InputError
from neardata.arch.storage import Ssd, load_ssd
from neardata.sim.storage import clock, transactions
from neardata.sim.storage.transactions import KINDS, TransactionReport, Transactions, run_transactions

NAMES = {number: name for name, number in KINDS.items()}


def small(**overrides: Any) -> Ssd:
    return load_ssd(
        "cambricon-llm-s",
        {
            "flash.channels": 1,
            "flash.chips_per_channel": 1,
            "flash.dies_per_chip": 1,
            "flash.planes_per_die": 1,
            "flash.blocks_per_plane": 32,
            "flash.cache_read": False,
            **{key.replace("__", "."): value for key, value in overrides.items()},
        },
    )


def stream(ssd: Ssd, n: int, dies: int = 1, planes: int = 1, **columns: Any) -> TransactionReport:
    i = np.arange(n)
    page = i // planes // dies % ssd.flash.pages_per_block
    tx = Transactions.of(
        kind="read",
        channel=0,
        die=i // planes % dies,
        plane=i % planes,
        page=page,
        bytes_out=ssd.flash.page_bytes,
        **columns,
    )
    return run_transactions(ssd, tx)


def test_examples() -> None:
    for module in (clock, transactions):
        assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


def rate(ssd: Ssd, report: TransactionReport, skip: int) -> float:
    """Bytes/ns between the ends of page ``skip`` and of the last one."""
    n = len(report.done)
    done = np.sort(report.done)
    return (n - 1 - skip) * ssd.flash.page_bytes * report.clock.per_ns / float(done[-1] - done[skip])


@pytest.mark.parametrize(("dies", "mb_per_s"), [(1, 351), (2, 702), (4, 983)])
def test_dies_of_a_channel_overlap(dies: int, mb_per_s: float) -> None:
    ssd = small(flash__chips_per_channel=dies)
    assert rate(ssd, stream(ssd, 4000, dies), 99) * 1000 == pytest.approx(mb_per_s, rel=0.01)


@pytest.mark.parametrize("mt", [333, 400, 533, 667, 800, 1000, 1200, 1400, 1866, 2400, 3600])
@pytest.mark.parametrize("planes", [1, 2, 4])
@pytest.mark.parametrize("dies", [1, 2, 3, 8])
@pytest.mark.parametrize("cache", [False, True])
def test_streams_reach_the_closed_form(mt: int, planes: int, dies: int, cache: bool) -> None:
    ssd = small(
        flash__chips_per_channel=dies, flash__planes_per_die=planes, bus__mt_per_s=mt, flash__cache_read=cache
    )
    command = ssd.bus.read_command_ns(planes)
    data = planes * ssd.flash.page_bytes * 1000 / mt
    array = ssd.flash.read_ns[0]
    # a die's turn, or all of them sharing the bus
    turn = command + (max(array, data) if cache else array + data)
    period = max(turn, dies * (command + data))
    n = dies * planes * 120
    got = rate(ssd, stream(ssd, n, dies, planes), dies * planes * 20 - 1)
    bound = dies * planes * ssd.flash.page_bytes / period
    assert got <= bound * 1.003  # the window's edges cut commands off
    assert got >= bound * (0.998 if dies == 1 else 0.95)  # dies wait for each other's transfers


def test_rates_are_exact_and_monotone() -> None:
    times = []
    for mt in range(333, 3601):
        base = clock.Clock.of(mt)
        assert Fraction(base.per_transfer, base.per_ps) == Fraction(10**6, mt)
        times.append(Fraction(base.per_transfer, base.per_ps))
    assert all(a > b for a, b in pairwise(times))


@pytest.mark.parametrize("mt", [333, 533, 667, 1000, 1200, 1866])
def test_a_page_takes_what_it_takes(mt: int) -> None:
    ssd = small(bus__mt_per_s=mt)
    report = stream(ssd, 1)
    assert Fraction(report.end, report.clock.per_ns) == 290 + 30000 + Fraction(16384 * 1000, mt)


def test_compute_overlaps_the_next_read() -> None:
    ssd = small(flash__cache_read=True)
    n = 50
    tx = Transactions.of(
        kind="read-compute",
        channel=0,
        die=0,
        page=np.arange(n),
        bytes_in=512,
        bytes_out=128,
        compute_ns=20000,
    )
    report = run_transactions(ssd, tx)
    done = report.done_ns
    assert np.diff(done)[5:] == pytest.approx(30000 + 290 + 512)  # the array's turn; compute hides behind it
    slow = run_transactions(
        ssd,
        Transactions.of(
            kind="read-compute",
            channel=0,
            die=0,
            page=np.arange(n),
            bytes_in=512,
            bytes_out=128,
            compute_ns=50000,
        ),
    )
    assert np.diff(slow.done_ns)[5:] == pytest.approx(50000 + 128)
    assert report.use.counts["bytes_computed"] == n * 16384


def test_slices_let_others_through() -> None:
    ssd = small(flash__chips_per_channel=2)
    two = dict(kind="read", channel=0, die=[0, 1], bytes_out=[16384, 64], rank=[3, 0], arrive_ns=[0, 5000])
    whole = run_transactions(ssd, Transactions.of(**two))
    sliced = run_transactions(ssd, Transactions.of(**two, slice_bytes=[1024, 0]))
    assert whole.done_ns[1] > 46000  # waits for the page
    assert sliced.done_ns[1] < 36500  # for a slice only
    assert sliced.done_ns[0] == pytest.approx(whole.done_ns[0] + 64)
    assert sliced.use.counts["slices"] == 16


def test_a_read_suspends_a_program_once() -> None:
    ssd = small(flash__suspend="both", flash__suspend_program_ns=20000)
    tx = Transactions.of(
        kind=[KINDS["program"], KINDS["read"], KINDS["read"]],
        channel=0,
        die=0,
        bytes_in=[16384, 0, 0],
        bytes_out=[0, 16384, 16384],
        arrive_ns=[0, 100_000, 100_000],
    )
    done = run_transactions(ssd, tx).done_ns
    start = 20 + 150 + 70 + 6 + 15 + 100 + 16384
    read = 20000 + 30000 + 16384  # the command hides behind the suspension
    assert done[1] == 100_000 + read
    assert done[0] == start + 750_000 + read
    assert done[2] == done[0] + 290 + 30000 + 16384


def test_a_copyback_stays_in_its_die() -> None:
    ssd = small()
    report = run_transactions(ssd, Transactions.of(kind="copyback", channel=0, die=0))
    assert report.time_ns == 290 + 30000 + 361 + 750000
    assert report.use.counts["channel_bytes_out"] == 0


def test_retries_take_more_reads() -> None:
    ecc = {
        "codeword_bytes": 1024,
        "correctable_bits": 40,
        "decode_ns": 2000,
        "rber": 4e-3,
        "retry_factor": 0.5,
        "retries": 3,
        "source": "test",
    }
    ssd = small(ecc=ecc)
    assert ssd.ecc is not None
    probability = ssd.ecc.retry_probability(16384, 0)
    n = 2000
    report = stream(ssd, n)
    assert 0.2 < probability < 0.98
    first = min(report.use.counts["read_retries"], n)
    assert first == pytest.approx(n * probability, rel=0.35)
    assert report.time_ns > stream(small(), n).time_ns


def test_lost_time_adds_up() -> None:
    ssd = small(flash__chips_per_channel=2)
    use = stream(ssd, 100, 2).use
    assert use.channel_share + sum(use.lost.values()) == pytest.approx(1)
    assert next(iter(use.lost)) == "array read"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (dict(channel=9, die=0), "channel[0]: must be from 0 to below 1, got 9"),
        (dict(channel=0, die=[0, 7]), "die[1]: must be from 0 to below 1, got 7"),
        (dict(channel=0, die=0, arrive_ns=-1), "arrive_ns[0]: must be from 0 to below"),
        (dict(channel=0, die=[0, 0], after=((1,), (0,))), "transaction 0 never ran"),
        (dict(channel=0, die=[0, 0], after=((5,), ())), "after[0]: must name other"),
    ],
)
def test_bad_transactions(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        run_transactions(small(), Transactions.of(kind="read", **columns))
    assert message in str(caught.value)


drives = st.fixed_dictionaries(
    {
        "flash.channels": st.integers(1, 2),
        "flash.chips_per_channel": st.integers(1, 2),
        "flash.dies_per_chip": st.integers(1, 2),
        "flash.planes_per_die": st.integers(1, 3),
        "flash.blocks_per_plane": st.just(16),
        "flash.pages_per_block": st.just(8),
        "flash.technology": st.sampled_from(["slc", "tlc"]),
        "flash.read_ns": st.just([20000.0, 30000.0, 50000.0]),
        "flash.program_ns": st.just([200000.0, 300000.0]),
        "flash.cache_read": st.booleans(),
        "flash.cache_read_ns": st.sampled_from([0.0, 3000.0]),
        "flash.multi_plane": st.booleans(),
        "flash.same_page": st.booleans(),
        "flash.independent_planes": st.booleans(),
        "flash.suspend": st.sampled_from(["none", "program", "erase", "both"]),
        "flash.suspend_program_ns": st.just(5000.0),
        "flash.suspend_program_left_ns": st.sampled_from([0.0, 100000.0]),
        "bus.mt_per_s": st.sampled_from([333, 533, 667, 1000, 1200, 1866]),
        "bus.width_bits": st.sampled_from([8, 16]),
        "bus.spare_on_bus": st.booleans(),
        "bus.data_out_ns": st.sampled_from([0.0, 30.0]),
        "controller.first_on_bus": st.sampled_from(["command", "data"]),
        "gc.first": st.booleans(),
        "compat": st.sampled_from(
            [{}, {}, {"one_die_a_chip": True, "truncated_rate": True, "no_suspend": True}]
        ),
        "ecc": st.sampled_from(
            [
                None,
                {
                    "codeword_bytes": 1024,
                    "correctable_bits": 40,
                    "decode_ns": 2000,
                    "rber": 4e-3,
                    "retry_factor": 0.5,
                    "retries": 3,
                    "source": "test",
                },
            ]
        ),
    }
)


@settings(max_examples=150, deadline=None)
@given(drives, st.integers(1, 40), st.integers(0, 2**32))
def test_the_kernel_is_its_twin(drive: dict[str, Any], n: int, seed: int) -> None:
    compat = drive.pop("compat")
    ecc = drive.pop("ecc")
    ssd = load_ssd("cambricon-llm-s", {**drive, "ecc": ecc, **{f"compat.{k}": v for k, v in compat.items()}})
    rng = np.random.default_rng(seed)
    flash = ssd.flash
    kind = rng.choice(5, n, p=[0.4, 0.2, 0.1, 0.1, 0.2])
    after = tuple(
        tuple(int(j) for j in np.unique(rng.integers(0, i, rng.integers(0, 3))))
        if i and rng.random() < 0.4
        else ()
        for i in range(n)
    )
    reads = np.isin(kind, (0, 4))
    tx = Transactions.of(
        kind=kind,
        channel=rng.integers(0, flash.channels, n),
        die=rng.integers(0, flash.chips_per_channel * flash.dies_per_chip, n),
        plane=rng.integers(0, flash.planes_per_die, n),
        page=rng.integers(0, 4, n),
        bytes_in=np.where(kind == 1, 16384, np.where(kind == 4, rng.choice([0, 256, 777], n), 0)),
        bytes_out=np.where(reads, rng.choice([0, 64, 512, 4096, 16384], n), 0),
        compute_ns=np.where(kind == 4, rng.choice([0, 1000, 40000.5], n), 0),
        rank=rng.integers(0, 4, n),
        slice_bytes=rng.choice([0, 0, 1000, 4096], n),
        arrive_ns=rng.choice([0, 0, 1000.25, 50000, 123456.789], n),
        after=after,
    )
    report = run_transactions(ssd, tx)

    shape = NaiveFlash(ssd)
    twins = []
    for i in range(n):
        die = int(tx.die[i])
        chip, inside = divmod(die, flash.dies_per_chip)
        plane = int(tx.plane[i])
        if shape.chip_whole:
            local = chip
        elif flash.independent_planes:
            local, inside, plane = die * flash.planes_per_die + plane, 0, 0
        else:
            local, inside = die, 0
        name = NAMES[int(kind[i])]
        twins.append(
            Tx(
                i,
                name,
                int(tx.channel[i]) * shape.per_channel + local,
                inside,
                plane,
                int(tx.page[i]),
                CLASS[name],
                int(tx.bytes_in[i]),
                int(tx.bytes_out[i]),
                NaiveFlash.ps(float(tx.compute_ns[i])),
                int(tx.rank[i]),
                int(tx.slice_bytes[i]),
                NaiveFlash.ps(float(tx.arrive_ns[i])),
                set(after[i]),
            )
        )
    twin = naive_run(ssd, twins)
    for column in ("submitted", "issued", "started", "done"):
        got = [Fraction(int(v), report.clock.per_ns) for v in getattr(report, column)]
        assert got == [getattr(t, column) for t in twins], column
    assert report.use.counts["suspensions"] == twin.suspensions
    assert report.use.counts["read_retries"] == twin.retried
    busy = sum(c.busy for c in twin.channels) / len(twin.channels)
    end = Fraction(report.end, report.clock.per_ns)
    assert report.use.channel_share == pytest.approx(float(busy / max(end, Fraction(1, 10**9))))
    assert report.use.channel_share + sum(report.use.lost.values()) == pytest.approx(1 if report.end else 0)
