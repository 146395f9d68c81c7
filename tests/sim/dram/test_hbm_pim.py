"""HBM-PIM: PIMSimulator's cycle counts and commands, the device's rules, and what a fence costs."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from neardata.arch.dram import load_device
from neardata.arch.errors import InputError
from neardata.sim.dram.checker import check
from neardata.sim.dram.command_log import CommandLog
from neardata.sim.dram.hbm_pim import BANKS, GRF, elementwise, gemv
from neardata.sim.dram.pim import run_program
from neardata.sim.dram.program import Program

DATA = Path(__file__).parents[2] / "data" / "pim"
ROWS = list(csv.DictReader((DATA / "pimsimulator.csv").open()))
TOOL_FIRST_REFRESH = 1950
"""The tool has two ranks, refreshed in turn, and uses the first."""


def kernel(row: dict[str, str], device: str) -> Program:
    if row["kernel"] == "gemv":
        outputs, inputs = int(row["outputs"]), int(row["inputs"])
        return gemv(outputs, inputs, device=device, first_refresh=TOOL_FIRST_REFRESH)
    operands = 1 if row["kernel"] == "relu" else 2
    elements = int(row["outputs"])
    return elementwise(elements, operands=operands, device=device, first_refresh=TOOL_FIRST_REFRESH)


def trace(program: Program) -> CommandLog:
    log = run_program(program, record_commands=True).groups[0].command_log
    assert log is not None
    return log


def names(log: CommandLog) -> list[str]:
    return [log.device.command_names[c] for c in log.command]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['kernel']}-{row['outputs']}x{row['inputs']}")
def test_cycles_of_pimsimulator(row):
    report = run_program(kernel(row, "hbm-pim-asbuilt"))
    # 0.1 % where no refresh falls into the kernel; each refresh costs the tool a row closed and
    # reopened in mid-stream (about 25 cycles), while ours waits for the next row change
    refreshes = report.refreshes // 64
    assert report.cycles == pytest.approx(int(row["cycles"]), rel=0.001, abs=30 * refreshes)
    assert report.cycles == pytest.approx(int(row["cycles"]), rel=0.01)


def test_commands_of_pimsimulator():
    """From HAB mode on until the write that leaves it, every column command in its cycle."""
    log = trace(gemv(4096, 256, device="hbm-pim-asbuilt", first_refresh=TOOL_FIRST_REFRESH))
    mine = names(log)
    inside = range(mine.index("ACTHAB"), mine.index("WRSB") + 1)
    start, end = int(log.cycle[inside[0]]), int(log.cycle[inside[-1]])
    rows = list(csv.DictReader((DATA / "pimsimulator_gemv_4096x256.csv").open()))
    rows = [row for row in rows if start <= int(row["cycle"]) <= end]
    kind = {"R": "RD", "W": "WR", "A": "ACT", "P": "PRE"}
    # the tool names the bank of bank group 0 that it addresses: 0 for the even, 1 for the odd banks
    columns = [
        (int(log.cycle[i]), kind[mine[i][0]], int(log.unit[i]), int(log.row[i]), int(log.column[i]))
        for i in inside
        if mine[i][0] in "RW"
    ]
    assert len(columns) == 157
    assert columns == [
        (int(row["cycle"]), row["command"], *(int(row[key]) for key in ("bank", "row", "column")))
        for row in rows
        if row["command"] in ("RD", "WR")
    ]
    # row commands too, but for one: the tool opens the GRF's row ahead of the last MAC of a tile
    ours = [(int(log.cycle[i]), kind[mine[i][0]], int(log.unit[i])) for i in inside if mine[i][0] in "AP"]
    theirs = [(int(r["cycle"]), r["command"], int(r["bank"])) for r in rows if r["command"] in ("ACT", "PRE")]
    assert set(ours) ^ set(theirs) == {(496, "ACT", 1), (503, "ACT", 1)}


@pytest.mark.parametrize("device", ["hbm-pim", "hbm-pim-asbuilt"])
@pytest.mark.parametrize("fence", ["order", "data"])
@pytest.mark.parametrize(
    "make",
    [
        lambda **how: gemv(128, 1024, **how),
        lambda **how: gemv(6 * 128, 640, **how),  # six output tiles, an odd number of input tiles
        lambda **how: gemv(100, 100, **how),  # a single tile
        lambda **how: gemv(100, 300, **how),
        lambda **how: elementwise(11 << 12, **how),
        lambda **how: elementwise(1 << 15, operands=1, **how),
    ],
    ids=["gemv", "gemv of six by five tiles", "gemv of one tile", "gemv of three tiles", "add", "relu"],
)
def test_traces_keep_the_rules(device, fence, make):
    program = make(device=device, fence=fence, channels=2)
    log = trace(program)
    assert check(log) == []
    assert "RDPIM" in names(log)
    report = run_program(program)
    assert report.cycles >= log.cycle[-1]
    assert report.cycles == run_program(program, jump=False, fold=False).cycles


@pytest.mark.parametrize("inputs", [128, 384, 4096])
@pytest.mark.parametrize("outputs", [1, 4096, 5 * 4096 + 1])
def test_gemv_reads_the_padded_matrix_once(outputs, inputs):
    report = run_program(gemv(outputs, inputs))
    tiles = -(-outputs // 4096)
    assert report.command_counts["RDPIM"] * 8 * 32 == 4096 * tiles * inputs * 2
    assert report.command_counts["WRPIM"] == 64 * GRF * tiles


def test_rows_of_a_gemv_do_not_overlap():
    log = trace(gemv(5 * 4096, 384))
    kind = np.array(names(log))
    for parity in (0, 1):
        reads = log.row[(kind == "RDPIM") & (log.unit == parity)]
        places = reads * 32 + log.column[(kind == "RDPIM") & (log.unit == parity)]
        assert len(set(places.tolist())) == len(places)
    written = log.row[kind == "WRPIM"] * 32 + log.column[kind == "WRPIM"]
    assert len(set(written.tolist())) == len(written) == 5 * GRF
    assert not set(log.row[kind == "WRPIM"].tolist()) & set(log.row[kind == "RDPIM"].tolist())


def test_a_fence_that_waits_costs_a_read_latency():
    """In order, a barrier delays nothing; one that waits for the data, the latency less tCCD_L."""
    device = load_device("hbm-pim")

    def gaps(fence):
        log = trace(gemv(4096, 128, fence=fence))
        macs = np.flatnonzero(np.array(names(log)) == "RDPIM")
        same_row = log.row[macs][1:] == log.row[macs][:-1]
        return np.diff(log.cycle[macs])[same_row]

    assert set(gaps("order").tolist()) == {device.timing["nCCDL"]}
    waiting = gaps("data")
    assert waiting.tolist().count(device.read_latency) == 2 * 3  # 2 rows of 4 groups
    assert set(waiting.tolist()) == {device.timing["nCCDL"], device.read_latency}


@pytest.mark.parametrize(("device", "least"), [("hbm-pim", 14), ("hbm-pim-asbuilt", 1)])
def test_refresh_after_precharge(device, least):
    log = trace(gemv(4096, 4096, device=device))
    kind = np.array(names(log))
    refreshes = np.flatnonzero(kind == "REFab")
    assert len(refreshes) == 3
    closes = np.array([log.cycle[:r][np.char.startswith(kind[:r], "PRE")][-1] for r in refreshes])
    assert (log.cycle[refreshes] - closes).min() == least


def test_correct_rules_make_the_asbuilt_trace_wrong():
    """The checker, with the correct device, tells the tool's shortcuts apart."""
    log = trace(gemv(4096, 4096, device="hbm-pim-asbuilt"))
    broken = {v.rule for v in check(CommandLog(load_device("hbm-pim"), *log_columns(log)))}
    assert broken == {"tRP", "tRTP"}


def log_columns(log: CommandLog) -> tuple[np.ndarray, ...]:
    return log.cycle, log.command, log.unit, log.row, log.column, log.kind


def test_energy_of_a_gemv():
    report = run_program(gemv(4096, 4096))
    assert report.energy is not None
    items, counts = report.energy.items_pj, report.command_counts
    # FGDRAM's 0.44 pJ for a bit from the cells, 0.32 pJ for a multiply-add, 0.11 pJ for a bit of a row
    assert items["RDPIM"] / report.internal_bytes == pytest.approx(8 * 0.44 + 0.32 / 2, rel=0.02)
    assert items["ACTHAB"] / counts["ACTHAB"] == pytest.approx(8 * 8192 * 0.11, rel=1e-3)
    bursts = sum(n for name, n in counts.items() if name.startswith(("RD", "WR")))
    assert items["I/O"] == pytest.approx(bursts * 256 * 0.8)
    assert report.energy.unmodelled == ()


def test_pim_command_outside_its_mode():
    program = Program.from_dict(
        {"device": "hbm-pim", "body": [{"RDPIM": {"bank": 0, "row": 0, "column": 0}}]}
    )
    with pytest.raises(InputError, match=r"RDPIM.*cycle 1"):
        run_program(program)


def test_ordinary_command_in_hab_mode():
    bank = {"bank_group": 0, "pim_unit": 0, "bank": 0}
    enter = [{"ACT": {**bank, "row": 0x17FF}}, {"WRHAB": {**bank, "row": 0x17FF, "column": 31}}]
    other = {"bank_group": 1, "pim_unit": 0, "bank": 0}
    program = Program.from_dict({"device": "hbm-pim", "body": [*enter, {"ACT": {**other, "row": 1}}]})
    with pytest.raises(InputError, match=r"ACT.*HAB"):
        run_program(program)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gemv(0, 128), "outputs: must be at least 1"),
        (lambda: gemv(1 << 20, 1 << 20), "rows a bank, at most 4096"),
        (lambda: elementwise(0), "elements: must be at least 1"),
        (lambda: elementwise(1, operands=3), "operands: must be 1 or 2"),
        (lambda: elementwise(BANKS << 30), "tiles a bank, at most 512"),
    ],
)
def test_bad_sizes(make, message):
    with pytest.raises(InputError, match=message):
        make()
