"""AttAcc: attacc_simulator's cycle counts and commands, the device's rules, the work done."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import numpy as np
import pytest

from neardata.arch.dram import load_device
from neardata.arch.errors import InputError
from neardata.sim.dram.attacc import Head, attention
from neardata.sim.dram.checker import check
from neardata.sim.dram.command_log import CommandLog
from neardata.sim.dram.pim import run_program
from neardata.sim.dram.program import Program

DATA = Path(__file__).parents[2] / "data" / "pim"
ROWS = list(csv.DictReader((DATA / "attacc.csv").open()))


def preset(row: dict[str, str]) -> str:
    return "attacc-hbm3-asbuilt" if row["power_constraint"] == "yes" else "attacc-hbm3-npc-asbuilt"


def trace(*args, **kwargs) -> CommandLog:
    log = run_program(attention(*args, **kwargs), record_commands=True).groups[0].command_log
    assert log is not None
    return log


def cycles_of(log: CommandLog, command: str) -> list[int]:
    return log.cycle[log.command == log.device.command(command)].tolist()


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: f"{row['unit']}-{row['heads']}x{row['length']}-{row['power_constraint']}"
)
def test_cycles_of_attacc_simulator(row):
    heads, length = int(row["heads"]), int(row["length"])
    cycles = run_program(attention(heads, length, unit=row["unit"], device=preset(row))).cycles
    if row["unit"] == "bank group":
        # the tool closes banks for a refresh without tRAS and tRTP, and reopens them one by one
        assert cycles == pytest.approx(int(row["cycles"]), rel=0.01)
    elif row["length"] == "2048":
        assert cycles == int(row["cycles"])
    else:
        # longer, the tool's heads overlap in the banks (8 rows apart, whatever the length)
        assert cycles == pytest.approx(int(row["cycles"]), rel=0.01)
    if row["shipped"] and row["heads"] == "188":
        assert cycles == pytest.approx(int(row["shipped"]), rel=0.03)


def test_commands_of_attacc_simulator():
    """Every MAC, row and refresh of two heads in its cycle; as many data moves."""
    with gzip.open(DATA / "attacc_npc_32x2048.csv.gz", "rt", newline="") as stream:
        tool = list(csv.DictReader(io.StringIO(stream.read())))
    log = trace(32, 2048, device="attacc-hbm3-npc-asbuilt")
    for command in ("REFab", "MACAB", "ACTAB"):
        theirs = [int(row["cycle"]) for row in tool if row["command"] == command]
        if command == "MACAB":
            theirs = theirs[1:]  # the tool opens the first row by a MAC whose result it drops
        assert cycles_of(log, command) == theirs, command
    macs = np.flatnonzero(log.command == log.device.command("MACAB"))
    theirs = [row for row in tool if row["command"] == "MACAB"][1:]
    assert log.column[macs].tolist() == [int(row["column"]) for row in theirs]
    for command in ("WRGB", "MVSB", "MVGB", "SFM"):
        count = sum(row["command"] == command for row in tool)
        assert len(cycles_of(log, command)) == count, command


@pytest.mark.parametrize("power", ["", "-npc"])
@pytest.mark.parametrize("built", ["", "-asbuilt"])
@pytest.mark.parametrize("unit", ["bank", "bank group"])
@pytest.mark.parametrize(("heads", "length"), [(1, 2048), (6, 1000), (2, 17), (3, 3000)])
def test_traces_keep_the_rules(power, built, unit, heads, length):
    device = f"attacc-hbm3{power}{built}"
    program = attention(heads, length, unit=unit, channels=2, device=device, softmax_cycles=16)
    report = run_program(program, record_commands=True)
    for group in report.groups:
        assert group.command_log is not None
        assert check(group.command_log) == []
    assert run_program(program).cycles == report.cycles
    assert run_program(program, jump=False, fold=False).cycles == report.cycles


@pytest.mark.parametrize(("heads", "length", "size"), [(16, 2048, 128), (37, 300, 64), (5, 4097, 192)])
def test_work_of_a_head(heads, length, size):
    """K and V are read once (padded), and the moves carry the query, the scores and the weights."""
    counts = run_program(attention(heads, length, head_size=size)).command_counts
    padded = -(-length // 16) * 16
    assert counts["MACAB"] * 64 * 16 == heads * 2 * padded * size
    assert counts["SFM"] == heads
    assert counts["WRGB"] == heads * size // 16
    head = Head(length, size)
    assert counts["MVSB"] == heads * 8 * (head.blocks + size // 64)
    assert counts["MVGB"] == heads * 8 * -(-padded // 256)


@pytest.mark.parametrize(("unit", "mac"), [("bank", "MACAB"), ("bank group", "MACSB")])
def test_heads_have_rows_of_their_own(unit, mac):
    log = trace(32, 3000, unit=unit)
    macs = np.flatnonzero(log.command == log.device.command(mac))
    places = (log.row[macs] * 32 + log.column[macs]) * 4 + log.unit[macs]
    assert len(set(places.tolist())) == len(places)


def test_work_of_a_head_by_bank_groups():
    counts = run_program(attention(37, 300, head_size=80, unit="bank group")).command_counts
    assert counts["MACSB"] * 16 * 16 == 37 * 2 * (304 * 80)  # 16 units of 16 lanes, K and V
    assert counts["WRGB"] == 37 * 5
    assert counts["MVSB"] == 37 * (8 * 2 + 2 * 5)  # scores by bank groups and ranks, context by ranks


def test_a_unit_per_bank_is_four_times_a_unit_per_bank_group():
    bank, group = (run_program(attention(160, 4096, unit=unit)) for unit in ("bank", "bank group"))
    assert bank.command_counts["MACAB"] * 4 == group.command_counts["MACSB"]
    assert 3.2 < group.cycles / bank.cycles < 4  # rows open under the MACs of another bank only here


def test_folded_channels():
    report = run_program(attention(188, 2048))
    assert [(group.name, group.channels) for group in report.groups] == [("12 heads", 12), ("11 heads", 4)]
    assert report.slowest.name == "12 heads"


def test_softmax_delays_its_weights():
    """With one head a channel nothing hides the softmax; with two, the other head's scores do."""
    assert (
        run_program(attention(16, 2048)).cycles + 126
        == run_program(attention(16, 2048, softmax_cycles=16)).cycles
    )  # 8 steps of 16 cycles instead of the bus's 2
    pair = run_program(attention(32, 2048)).cycles
    assert run_program(attention(32, 2048, softmax_cycles=16)).cycles == pair


def test_tfaw_on_all_bank_activation():
    """If a rank's four-activation window held for ACTAB, its 16 banks would take 3 windows more."""
    device = load_device("attacc-hbm3")
    timing = device.timing
    assert 3 * timing["nFAW"] + 3 * timing["nRRDS"] == 123 and 4 * timing["nFAW"] == 156
    overrides = {"timing.nAAB": 123, "timing.nFAWAB": 156}
    limited = load_device("attacc-hbm3", overrides)
    program = attention(16, 256)
    free = run_program(program).cycles
    # one row of K, one of V; the query's 8 moves (29 cycles) hide tRCD and 10 cycles of the first
    assert run_program(program, device=limited).cycles - free == (123 - 10) + 123


def test_checker_tells_the_missing_trp():
    log = trace(32, 2048, device="attacc-hbm3-asbuilt")
    correct = load_device("attacc-hbm3")
    columns = (log.cycle, log.command, log.unit, log.row, log.column, log.kind)
    broken = check(CommandLog(correct, *columns))
    assert {v.rule for v in broken} == {"tRP"}
    assert all("REFab" in v.message for v in broken)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 0, "length": 1}, "heads: must be at least 1"),
        ({"heads": 1, "length": 0}, "length: must be at least 1"),
        ({"heads": 1, "length": 1, "head_size": 100}, "head_size: must be a multiple of 64"),
        ({"heads": 1, "length": 1, "head_size": 8, "unit": "bank group"}, "must be a multiple of 16"),
        ({"heads": 1, "length": 1, "unit": "buffer"}, "unit: 'buffer' is not known; known: bank"),
        ({"heads": 1600, "length": 32768}, "rows, at most 8192"),
    ],
)
def test_bad_sizes(arguments, message):
    with pytest.raises(InputError, match=message):
        attention(**arguments)


def test_energy_of_a_byte():
    """Rows, cells and multiply-adds take what the literature gives a byte, rows being used in full."""
    report = run_program(attention(188, 2048))
    assert report.energy is not None
    items = report.energy.items_pj
    per_bit, multiply_add = 0.11 + 0.44, 0.32 / 2  # pJ per bit; pJ per byte of FP16
    work = (items["ACTAB"] + items["MACAB"]) / report.internal_bytes
    assert work == pytest.approx(8 * per_bit + multiply_add, rel=1e-3)
    assert report.energy.status == "assumed"
    assert report.energy.unmodelled == ("SFM",)


def test_programs_round_trip():
    program = attention(20, 3000, unit="bank group", softmax_cycles=16)
    assert Program.from_dict(program.to_dict()) == program
