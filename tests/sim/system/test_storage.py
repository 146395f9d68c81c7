"""Drives in a system: kernels against closed forms, folded and full, contention, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neardata.arch.errors import InputError
from neardata.arch.processor import load_processor
from neardata.arch.storage import Ssd, balanced_columns, load_ssd, page_weights, share_of_dies
from neardata.arch.system import load_system, parse_system
from neardata.sim.program import FlashIo, FlashMatMul, FlashTogether, Operand, Program, Task
from neardata.sim.system.engine import Costs, run
from neardata.sim.system.flash_programs import job_of, pages_of
from neardata.sim.system.storage import StorageEngine

PAGE = 16384
COMMAND, TR, COMPUTE = 290, 30_000, 20_480
"""ns: of the preset's bus and array, and 2 * 16384 operations at 1.6 GOPS."""
NS = 1000


def drive(size: str = "s", **overrides: object) -> Ssd:
    planes = {"flash.independent_planes": True, "flash.multi_plane": False}
    return load_ssd(f"cambricon-llm-{size}", {**planes, **overrides})


def engine(size: str = "s", *, fold: bool = True, **overrides: object) -> StorageEngine:
    return StorageEngine(drive(size, **overrides), load_processor("cambricon-npu"), fold=fold)


def product(n: int, k: int, columns: int = 256, **fields: object) -> FlashMatMul:
    return FlashMatMul(1, n, k, columns, PAGE, **fields)  # type: ignore[arg-type]


def test_a_page_takes_command_vector_array_core_and_sums() -> None:
    """t_rc = tR + W / (channels * bw), and what stands around it."""
    outcome = engine().run(product(64, 256))
    assert outcome.time_ps == (COMMAND + 256 + TR + COMPUTE + 64) * NS
    assert outcome.macs == 64 * 256


@pytest.mark.parametrize("rounds", [2, 5, 40])
def test_rounds_follow_each_other_in_t_rc(rounds: int) -> None:
    """One die: the core works while the array reads the next page."""
    one = {"flash.channels": 1, "flash.chips_per_channel": 1, "flash.dies_per_chip": 1}
    outcome = engine(**one).run(product(64 * rounds, 256))
    # each page is a round of its own, and takes its vector
    assert outcome.time_ps == (rounds * (COMMAND + 256 + TR) + COMPUTE + 64) * NS


def test_streamed_pages_fill_the_channel() -> None:
    """Sixteen pages on a channel, all streamed: a command, tR, then the bus does nothing but send them."""
    one = {"flash.channels": 1}
    kernel = product(64 * 16, 256, streamed=16)
    flash = engine(**one).flash((kernel,)).time_ps
    # the commands of the second page of each die go between the first pages
    assert (COMMAND + TR + 16 * PAGE) * NS < flash <= (17 * COMMAND + TR + 16 * PAGE) * NS
    assert engine(**one).run(kernel).time_ps > flash  # the processor works on the last page


@pytest.mark.parametrize(("size", "rate"), [("s", 25.2), ("m", 84.7), ("l", 305.9)])
def test_long_products_come_near_the_aggregate_rate(size: str, rate: float) -> None:
    """Dies multiply, and the channels carry the rest: arXiv 2409.15654 Sec. V without commands."""
    flash = drive(size).flash
    columns = balanced_columns(flash, "int8")
    n = 8192 * {"s": 1, "m": 2, "l": 4}[size]
    kernel = product(n, 8192, columns, slice_bytes=512)
    streams = round(kernel.pages * 0.85 * (1 - share_of_dies(drive(size), columns, "int8", "int8")))
    outcome = engine(size).run(replace(kernel, streamed=streams))
    reached = n * 8192 / outcome.time_ps * 1000
    assert 0.9 * rate < reached < rate
    assert outcome.bound_ps < outcome.time_ps


sizes = st.integers(1, 900)


@given(
    n=sizes,
    k=sizes,
    columns=st.integers(1, 512),
    share=st.floats(0, 1),
    weights=st.sampled_from(["int8", "int4"]),
)
@settings(max_examples=40, deadline=None)
def test_pages_hold_a_matrix_once(n: int, k: int, columns: int, share: float, weights: str) -> None:
    """Ragged, prime and tiny ones."""
    held = page_weights(drive().flash, weights)
    kernel = FlashMatMul(1, n, k, columns, held, weights=weights)
    kernel = replace(kernel, streamed=round(share * kernel.pages))
    pages, seen = pages_of(kernel), np.zeros((n, k), int)
    for row, row_end, column, column_end in zip(
        pages.row, pages.row_end, pages.column, pages.column_end, strict=True
    ):
        seen[row:row_end, column:column_end] += 1
    assert (seen == 1).all() and pages.weights.max() <= held
    assert pages.computed + kernel.streamed == kernel.pages == len(pages)


@given(
    n=st.integers(1, 3000), k=st.integers(1, 3000), share=st.floats(0, 1),
    sliced=st.sampled_from([0, 512, 2048]), channels=st.sampled_from([1, 3, 8]), together=st.booleans(),
    independent=st.booleans(),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_folded_channels_take_the_time_of_all(
    n: int, k: int, share: float, sliced: int, channels: int, together: bool, independent: bool
) -> None:
    kernel = product(n, k, slice_bytes=sliced)
    kernel = replace(kernel, streamed=round(share * kernel.pages))
    parts = (kernel, FlashIo("read", 1_000_000)) if together else (kernel,)
    settings = {"flash.channels": channels, "flash.independent_planes": independent}
    folded, full = (engine(fold=fold, **settings) for fold in (True, False))
    one, other = folded.flash(parts), full.flash(parts)
    assert (one.done_ps == other.done_ps).all()
    assert folded.run(FlashTogether(parts)) == full.run(FlashTogether(parts))


def test_channels_that_do_the_same_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from neardata.sim.system import storage

    runs = []
    real = storage.run_transactions
    monkeypatch.setattr(storage, "run_transactions", lambda *a: runs.append(1) or real(*a))
    engine().flash((product(64 * 32, 256),))
    assert len(runs) == 1


def test_a_core_never_has_two_pages_at_a_time() -> None:
    """Pages that are multiplied lie in one plane of a die; streamed ones in the other."""
    tx = job_of(product(4096, 4096, streamed=300), drive()).tx
    assert set(tx.plane[tx.kind == 4]) == {0} and set(tx.plane[tx.kind == 0]) == {1}


def test_vectors_come_in_time_or_to_each_die() -> None:
    """Dies of a channel take a vector with the command of one, before their pages are in the registers."""
    kernel = product(4096, 4096, streamed=320, slice_bytes=2048)
    job = engine().flash((kernel,)).job
    computes = job.tx.kind == 4
    assert job.tx.bytes_in.sum() == computes.sum() // 4 * 256
    alone = job_of(kernel, drive(), shared_vectors=False)
    assert (alone.tx.bytes_in[alone.tx.kind == 4] == 256).all()


def test_ordinary_reads_contend_with_a_product() -> None:
    kernel, read = product(4096, 4096, streamed=320, slice_bytes=2048), FlashIo("read", 8_000_000)
    one = engine()
    alone = [one.run(kernel).time_ps, one.run(read).time_ps]
    both = one.run(FlashTogether((kernel, read)))
    assert max(alone) < both.time_ps < sum(alone)
    # whole pages between their commands make dies drift apart: each is sent a vector of its own
    own = job_of(kernel, drive(), shared_vectors=False).tx
    assert both.interface_bytes == own.bytes_in.sum() + own.bytes_out.sum() + 8_000_000


def test_reads_and_writes_are_spread_as_asked() -> None:
    one = engine()
    wide = one.run(FlashIo("read", 64 * PAGE)).time_ps
    narrow = one.run(FlashIo("read", 64 * PAGE, channels=1)).time_ps
    die = one.run(FlashIo("read", 64 * PAGE, channels=1, dies=1)).time_ps
    assert wide < narrow < die
    assert narrow >= 64 * PAGE * NS  # a byte a ns on the one channel
    written = one.run(FlashIo("write", 64 * PAGE))
    assert written.time_ps > 750_000 * NS and written.memory_bytes == 64 * PAGE


def test_slices_let_dies_go_on() -> None:
    """Whole pages keep commands waiting: with slices the product takes less time."""
    kernel = product(16384, 4096)
    kernel = replace(kernel, streamed=round(0.31 * kernel.pages))
    whole, sliced = (engine().run(replace(kernel, slice_bytes=size)).time_ps for size in (0, 2048))
    assert sliced < whole


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (product(0, 4), "n: must be at least 1, got 0"),
        (product(64, 64, streamed=2), "streamed: must be from 0 to 1, got 2"),
        (FlashMatMul(1, 4, 4, 256, 1, 0), "columns: a page holds 1 weights, less than 256 columns"),
        (FlashMatMul(1, 4096, 4096, 256, 40000), "page_weights: .* do not fit a page of 16384"),
        (FlashMatMul(1, 64, 64, 16, 16384, weights="int4/g32"), "columns: 16 columns cut groups of 32"),
        (FlashMatMul(1, 64, 64, 16, 8192, weights="fp16"), "the cores in the dies do not multiply 'fp16'"),
        (FlashIo("read", 0), "bytes: must be at least 1, got 0"),
        (FlashIo("read", 9, channels=9), "channels: must be from 0 to 8, got 9"),
        (FlashIo("read", 9, dies=5), "dies: must be from 0 to 4, got 5"),
        (FlashTogether(()), "parts: there are no kernels to run together"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(kernel: FlashMatMul, message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine().run(kernel)


def test_a_drive_without_cores_or_processor_says_so() -> None:
    with pytest.raises(InputError, match="has no cores in its dies"):
        StorageEngine(load_ssd("instinfer-csd")).run(product(64, 64))
    with pytest.raises(InputError, match=r"streamed: .* attached to no processor"):
        StorageEngine(drive()).run(product(64, 64, streamed=1))


# --- in a system ------------------------------------------------------------------------------------


def tasks() -> Program:
    kernel = product(4096, 4096, streamed=320, slice_bytes=2048)
    return Program(
        "two products",
        "cambricon-llm-s",
        (
            Task("one", "flash", kernel, operators=("a",)),
            Task("other", "flash", kernel, ("one",), operators=("b",)),
            Task("beside", "flash", FlashTogether((FlashIo("read", 99), FlashIo("write", 99))), ("other",)),
        ),
        (Operand("w", "flash", 2 * 4096 * 4096),),
        {name: {"kind": "linear", "macs": 4096 * 4096} for name in "ab"},
    )


def test_a_program_is_saved_read_and_run(tmp_path: Path) -> None:
    program, system = tasks(), load_system("cambricon-llm-s")
    program.write(tmp_path / "p.yaml")
    again = Program.read(tmp_path / "p.yaml")
    assert again.tasks == program.tasks
    costs = Costs(system)
    report = run(again, system, costs=costs)
    assert report.time_ps == sum(outcome.time_ps for outcome in report.outcomes)
    assert costs.runs == 2  # the second product is looked up
    assert report.time_ps == run(program, system, memoise=False, fold=False).time_ps
    assert report.energy_pj["flash arrays"] > 0 and report.energy_pj["drive idle"] > 0


def test_a_product_that_streams_takes_the_processor_too() -> None:
    program = tasks()
    report = run(program, load_system("cambricon-llm-s"))
    from neardata.sim.program import Pause

    beside = (*program.tasks, Task("npu", "npu", Pause(10**9)))
    both = run(replace(program, tasks=beside), load_system("cambricon-llm-s"))
    assert both.schedule.start[-1] >= report.schedule.end[1]
    dies = tuple(replace(t, kernel=replace(t.kernel, streamed=0)) for t in program.tasks[:2])  # type: ignore[call-arg]
    alone = run(replace(program, tasks=(*dies, beside[-1])), load_system("cambricon-llm-s"))
    assert alone.schedule.start[-1] == 0


def test_what_the_drive_does_not_hold_is_refused() -> None:
    full = replace(tasks(), placement=(Operand("w", "flash", 10**12),))
    with pytest.raises(InputError, match="are placed in 'flash', which holds"):
        run(full, load_system("cambricon-llm-s"))


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        ({"device": "cambricon-llm-x"}, r"units.flash.device: unknown drive 'cambricon-llm-x'; did you mean"),
        ({"attached_to": "gpu"}, "units.flash.attached_to: 'gpu' is no processor group"),
        ({"count": 2}, "units.flash.count: is 2, but npu has 1"),
        ({"overrides": {"flash.channel": 2}}, "units.flash.overrides.flash.channel: .*did you mean"),
    ],
)
def test_bad_drives_of_systems_are_told(unit: dict[str, object], message: str) -> None:
    data = load_system("cambricon-llm-s").to_dict()
    data["units"]["flash"] |= unit
    with pytest.raises(InputError, match=message):
        parse_system(data)


def test_what_a_drive_holds_is_what_the_host_sees() -> None:
    system = load_system("cambricon-llm-s")
    assert system.capacities["flash"] == drive().logical_sectors * 512
    assert system.attached("flash") == "npu" and system.attached("npu") is None
