"""GDDR6-AiM: aim_simulator's command traces and cycle counts; correct rules and refresh beside them."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import pytest

from naive.aim_traces import lines
from neardata.arch.dram import load_device
from neardata.arch.errors import InputError
from neardata.sim.dram.aim import AS_BUILT, gemv, read_isr_trace
from neardata.sim.dram.checker import check
from neardata.sim.dram.pim import ChannelReport, run_program
from neardata.sim.dram.program import Loop, Program
from neardata.sim.dram.program_folding import fold

ROWS = list(csv.DictReader((Path(__file__).parents[2] / "data" / "pim" / "aim.csv").open()))
BY_NAME = {row["trace"]: row for row in ROWS}


def program(tmp_path: Path, text: list[str], device: str = "gddr6-aim") -> Program:
    path = tmp_path / "isr.trace"
    path.write_text("\n".join(text) + "\n")
    return read_isr_trace(path, device)


def digest(report: ChannelReport) -> str:
    """SHA-256 of cycles and commands, one pair a line, named as the tool names them."""
    log = report.command_log
    assert log is not None
    names = log.device.command_names
    out = hashlib.sha256()
    for cycle, command in zip(log.cycle.tolist(), log.command.tolist(), strict=True):
        name = "TMOD" if names[command].startswith("TMOD") else names[command]
        out.update(f"{cycle},{name}\n".encode())
    return out.hexdigest()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["trace"])
def test_the_tool_issues_the_same_commands_in_the_same_cycles(tmp_path, row):
    built = program(tmp_path, lines(row["trace"]), AS_BUILT)
    assert len(built.groups) == 1
    report = run_program(built, record_commands=True).groups[0]
    assert report.cycles == int(row["cycles"])
    assert sum(report.command_counts.values()) == int(row["commands"])
    assert digest(report) == row["sha256"]
    assert report.command_log is not None
    assert check(report.command_log, refresh_interval_check=False) == []
    assert run_program(built).cycles == int(row["cycles"])


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row["trace"].startswith("gemv")], ids=lambda r: r["trace"]
)
def test_matrix_vector_product_is_the_tools(row):
    outputs, inputs, channels, order = row["trace"].removeprefix("gemv:").split(",")
    built = gemv(int(outputs), int(inputs), channels=int(channels), order=order, device=AS_BUILT)
    report = run_program(built, record_commands=True)
    assert report.channels == int(channels)
    assert (report.cycles, digest(report.groups[0])) == (int(row["cycles"]), row["sha256"])


def test_micro_traces_become_a_few_loops(tmp_path):
    for name in (row["trace"] for row in ROWS if row["trace"].startswith("micro")):
        built = program(tmp_path, lines(name))
        assert len(built.groups[0].body) < 20
        assert any(isinstance(step, Loop) and step.times >= 1000 for step in built.groups[0].body)


# with refresh and the rules the tool leaves out


@pytest.mark.parametrize(
    "name", ["micro:macab_1024_16banks", "micro:wrgb_gbbk_bggb_16banks", "drawn:3", "drawn:9"]
)
def test_correct_runs_break_no_rule(tmp_path, name):
    report = run_program(program(tmp_path, lines(name)), record_commands=True).groups[0]
    assert report.command_log is not None
    assert check(report.command_log) == []


def test_what_refresh_adds_to_a_stream_of_macs(tmp_path):
    """Each refresh falls into a row change and costs tRFC: it takes the activation's place after tRP."""
    text = lines("micro:macab_1024_16banks")
    tool = run_program(program(tmp_path, text, AS_BUILT))
    correct = run_program(program(tmp_path, text))
    t = load_device("gddr6-aim").timing
    refreshes = correct.refreshes // 32
    # the end of compute takes the tool two cycles more
    added = correct.cycles - tool.cycles + 2
    assert refreshes == correct.cycles // t["nREFI"] - 1  # the last falls due in the last row
    late = correct.lost_cycles.get("refresh due", 0)
    assert added == refreshes * t["nRFC"] + late
    assert late < refreshes


def test_the_tool_activates_over_an_open_bank_and_we_do_not(tmp_path):
    """A row open in one bank only: the tool sends ACT16 for the same row to all banks, that one included."""
    text = ["AiM MAC_SBK 4 0xffffffff 3 7", "AiM MAC_ABK 4 0xffffffff 7", "AiM EOC"]
    counts = run_program(program(tmp_path, text, AS_BUILT)).groups[0].command_counts
    assert counts == {"ACT": 1, "MAC": 4, "PREA": 1, "ACT16": 1, "MAC16": 4}


# reading


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (["AiM MAC_ABK 64 0xff"], "1: 2 operands, expected opsize, channels, row in 'AiM MAC_ABK 64 0xff'"),
        (["# a comment", "", "AiM MAC_ALL 1 1 1"], "3: unknown instruction 'MAC_ALL'; did you mean"),
        (["AiM MAC_ABK 64 0xfg 3"], "1: channels '0xfg' is not an integer in"),
        (["AiM COPY_BKGB 1 0x1 16 0"], "1: bank 16 is not among 16 in"),
        (["AiM WR_BIAS 0 0"], "1: the channel mask is empty in"),
        (["X GPR 1"], "1: 'X' is none of AiM, R and W in 'X GPR 1'"),
        (["W MEM 32 0 0"], "1: channel 32 is not among 32 in"),
        (["AiM WR_BIAS 0 1"], "1: ends without 'AiM EOC'"),
    ],
)
def test_malformed_traces(tmp_path, text, message):
    with pytest.raises(InputError) as caught:
        program(tmp_path, text)
    assert str(caught.value).removeprefix(f"{tmp_path / 'isr.trace'}:").startswith(message)


def test_rows_beyond_the_bank_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"ACT16\.row: reaches 16384; gddr6-aim has 16384"):
        run_program(program(tmp_path, ["AiM MAC_ABK 64 0x1 16384", "AiM EOC"]))


def test_channels_with_other_instructions_are_groups(tmp_path):
    text = ["W GPR 0", "AiM WR_BIAS 0 0xffffffff", "AiM MAC_ABK 8 0x80000001 5", "W MEM 0 2 8", "AiM ISR_EOC"]
    groups = program(tmp_path, text).groups
    assert sorted(group.channels for group in groups) == [1, 1, 30]


def test_fold_finds_nested_loops():
    steps = [
        step
        for p in range(5)
        for step in [
            "PREA",
            *({"MAC": {"bank_group": 0, "bank": 1, "row": 4 * p + s, "column": s}} for s in range(4)),
        ]
    ]
    assert fold(steps) == [
        {
            "loop": {"i": 5},
            "body": [
                "PREA",
                {
                    "loop": {"j": 4},
                    "body": [{"MAC": {"bank_group": 0, "bank": 1, "row": "4*i + j", "column": "j"}}],
                },
            ],
        }
    ]
    assert fold(["PREA", "PREA"]) == ["PREA", "PREA"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outputs": 0, "inputs": 1}, "outputs: must be at least 1, got 0"),
        ({"outputs": 1, "inputs": 1, "order": "both"}, "order: 'both' is not one of"),
        ({"outputs": 512 * 16384, "inputs": 1}, "outputs: takes 16384 rows of each bank; there are 16376"),
    ],
)
def test_impossible_products(arguments, message):
    with pytest.raises(InputError, match=message):
        gemv(**arguments)


@pytest.mark.parametrize("order", ["output-stationary", "input-stationary"])
@pytest.mark.parametrize("size", [(1, 1), (513, 1025), (17, 1024), (3000, 17), (4096, 2048)])
def test_products_of_ragged_sizes_do_the_multiplications_asked_for(size, order):
    outputs, inputs = size
    report = run_program(gemv(outputs, inputs, channels=4, order=order))
    passes = -(-outputs // 64)
    assert report.command_counts["MAC16"] == 4 * passes * -(-inputs // 16)
    assert report.command_counts["ACT16"] == 4 * passes * -(-inputs // 1024)
