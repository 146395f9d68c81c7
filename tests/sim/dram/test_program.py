"""The program format: what it reads, writes back, and refuses; programs a device cannot run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from neardata.arch.errors import InputError
from neardata.sim.dram.pim import run_program
from neardata.sim.dram.program import Affine, Issue, Loop, Program

EVERYTHING = """
name: everything
device: gddr6-aim
overrides: {timing.nRFC: 300}
refresh: close-reopen
first_refresh: 100
host: {requests: 9, stride: 32, interval: 3, write_every: 2, policy: pim-first, leave: [PREA],
       mapping: [row, bank, bank_group, column]}
groups:
  - name: a
    channels: 31
    body:
      - phase: load
        body:
          - TMODR
          - {WRGB: {column: k}, repeat: {k: 64}}
          - {until: RDMAC16}
          - TMODM
      - loop: {i: 16}
        body:
          - {ACT16: {row: 2*i + 1}}
          - {MAC16: {row: 1 + i*2}, repeat: 64}
          - PREA
          - refresh
          - {yield: 3}
          - yield
      - loop: 2
        body: [{wait: 4}]
      - {fence: reads, plus: 1}
  - channels: 1
    body:
      - parallel:
          - [{ACT: {bank_group: 0, bank: 1, row: 5}}, {MAC: {bank_group: 0, bank: 1}}]
          - [{loop: {b: 4}, body: [{ACT: {bank_group: 3, bank: b, row: 5}}]}]
"""


def wrong(tmp_path: Path, text: str) -> str:
    """The message for a program file, without the path."""
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        run_program(Program.read(path))
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{path}:")
    return message.removeprefix(f"{path}:")


def body(steps: str, device: str = "gddr6-aim", more: str = "") -> str:
    return f"device: {device}\n{more}body:\n{steps}"


def test_round_trip(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(EVERYTHING)
    program = Program.read(path)
    assert Program.from_dict(program.to_dict()) == program
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(program.to_dict()))
    assert Program.read(again) == program
    assert program.channels == 32
    loop = program.groups[0].body[1]
    assert isinstance(loop, Loop) and loop.times == 16
    act = loop.body[0]
    assert isinstance(act, Issue) and act.at["row"] == Affine(1, (("i", 2),))


def test_everything_runs(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(EVERYTHING)
    report = run_program(Program.read(path))
    assert [group.channels for group in report.groups] == [31, 1]
    assert report.command_counts["MAC16"] == 31 * 16 * 64
    assert set(report.groups[0].phase_cycles) == {"", "load"}


@pytest.mark.parametrize(
    ("expression", "constant", "factors"),
    [
        (7, 7, ()),
        ("i", 0, (("i", 1),)),
        ("4*(i - 2*j) + 3 - i", 3, (("i", 3), ("j", -8))),
        ("-i + i", 0, ()),
    ],
)
def test_affine(expression, constant, factors):
    assert Affine.parse(expression) == Affine(constant, factors)


@pytest.mark.parametrize("expression", ["i*j", "i / 2", "1.5", "f(i)", "", True, None, "i // 2"])
def test_not_affine(expression):
    with pytest.raises(ValueError):
        Affine.parse(expression)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bod: []\n", "1: bod: unknown key; did you mean body"),
        ("body: []\n", "1: device: missing: the name of a device preset"),
        ("device: gddr6-aim\n", "1: give either 'body' or 'groups'"),
        (body("  - loop: 4\n"), "3: body.0.body: missing"),
        (body("  - {loop: -1, body: []}\n"), "3: body.0.loop: must be an integer of at least 0, got '-1'"),
        (
            body("  - loop: {i: 2}\n    body:\n      - {loop: {i: 2}, body: []}\n"),
            "5: body.0.body.0.loop: 'i' already names a loop around this one",
        ),
        (body("  - {fence: some}\n"), "3: body.0.fence: 'some' is not one of reads, data, all"),
        (body("  - {ACT16: {row: j}}\n"), "3: body.0.ACT16.row: unknown loop index 'j'; there is no loop"),
        (
            body("  - {parallel: [[refresh]]}\n"),
            "3: body.0.parallel.0.0.refresh: not allowed inside 'parallel'",
        ),
        (body("  - {wait: 1, plus: 3}\n"), "3: body.0.plus: does not go with 'wait'"),
        (body("  - ACT17\n"), "3: body.0: gddr6-aim has no command 'ACT17'; did you mean ACT1"),
        (
            body("  - {ACT16: {bank: 3, row: 1}}\n"),
            "3: body.0.ACT16.bank: ACT16 spans its banks: it takes no",
        ),
        (body("  - {ACT4: {row: 1}}\n"), "3: body.0.ACT4.bank_group: missing: which of the 4"),
        (
            body("  - {PRE: {bank_group: 0, bank: 4}}\n"),
            "3: body.0.PRE.bank: reaches 4; gddr6-aim has 4, from 0",
        ),
        (body("  - ACT16\n"), "3: body.0.ACT16.row: missing: the row to open"),
        (body("  - {PREA: {row: 3}}\n"), "3: body.0.PREA.row: no address field of PREA; it takes none"),
        (
            body("  - loop: {i: 20000}\n    body: [{ACT16: {row: i}}, PREA]\n"),
            "4: body.0.body.0.ACT16.row: reaches 19999; gddr6-aim has 16384, from 0",
        ),
        (body("  - PREA\n", "gddr6-ain"), "1: device: unknown device 'gddr6-ain'; did you mean gddr6-aim"),
        (
            body("  - PREA\n", "gddr6-aim-asbuilt", "refresh: all-bank\n"),
            "2: refresh: gddr6-aim-asbuilt has no refresh interval nREFI",
        ),
        (
            body("  - PREA\n", more="host: {requests: 1, mapping: [row, bank]}\n"),
            "2: host.mapping: must name each of bank_group, bank, row, column once",
        ),
        (body("  - PREA\n", more="host: {start: 1}\n"), "2: host.requests: missing"),
        (
            body(f"  - {{loop: {10**30}, body: [PREA]}}\n"),
            f"3: body.0.loop: must be at most {10**15}, got {10**30}",
        ),
        (body(f"  - {{loop: {{i: {10**30}}}, body: []}}\n"), "3: body.0.loop.i: must be at most"),
        (body(f"  - {{wait: {10**25}}}\n"), f"3: body.0.wait: must be at most {10**15}, got"),
        (body(f"  - {{fence: all, plus: {10**25}}}\n"), "3: body.0.plus: must be at most"),
        (body(f"  - {{PREA: {{}}, repeat: {10**19}}}\n"), "3: body.0.repeat: must be at most"),
        (body(f"  - {{yield: {10**19}}}\n"), "3: body.0.yield: must be at most"),
        (body("  - PREA\n", more=f"first_refresh: {10**19}\n"), "2: first_refresh: must be at most"),
        (body("  - PREA\n", more="channels: 65537\n"), "2: channels: must be at most 65536, got 65537"),
        (
            body("  - PREA\n", more=f"host: {{requests: {10**9}}}\n"),
            "2: host.requests: must be at most 100000000",
        ),
        (
            body("  - PREA\n", more=f"host: {{requests: 1000, stride: {10**14}}}\n"),
            "2: host.stride: times 'requests' must be at most",
        ),
        (
            body("  - PREA\n", more=f"host: {{requests: 10000, interval: {10**15}}}\n"),
            "2: host.interval: the program gets too long",
        ),
        (
            body(f"  - {{loop: {{i: 0}}, body: [{{ACT16: {{row: {10**19}*i}}}}]}}\n"),
            "3: body.0.body.0.ACT16.row: numbers must be at most 1000000000",
        ),
        (
            body(f"  - loop: {10**12}\n    body:\n      - loop: {10**12}\n        body: [PREA]\n"),
            "5: body.0.body.0.loop: the program gets too long: up to 1.0e+24 cycles, at most 5.8e+17",
        ),
        (
            body(
                f"  - loop: {10**9}\n    body:\n      - {{wait: 3}}\n"
                f"      - {{PREA: {{}}, repeat: {10**9}}}\n"
            ),
            "6: body.0.body.1.repeat: the program gets too long",
        ),
        (
            body(f"  - loop: {10**9}\n    body:\n      - {{wait: {10**9}}}\n"),
            "5: body.0.body.0.wait: the program gets too long",
        ),
    ],
)
def test_malformed(tmp_path, text, message):
    assert wrong(tmp_path, text).startswith(message)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            "  - loop: {i: 5}\n    body:\n      - {ACT16: {row: i}}\n      - {MAC16: {}, repeat: 2}\n",
            "5: body.0.body.0: ACT16 at i=1, cycle 90: bank_group 0, bank 0 is open, it must be closed",
        ),
        ("  - MAC16\n", "3: body.0: MAC16, cycle 1: bank_group 0, bank 0 is closed, it must be open"),
        (
            "  - {ACT: {bank_group: 0, bank: 0, row: 1}}\n"
            "  - loop: {b: 3}\n    body: [{MAC: {bank_group: 0, bank: b}, repeat: 4}]\n",
            "5: body.1.body.0: MAC at b=1, cycle 65: bank_group 0, bank 1 is closed, it must be open",
        ),
        (
            "  - RDMAC16\n",
            "3: body.0: RDMAC16, cycle 1: the device is in mode memory, it must be in register",
        ),
        (
            "  - {ACT16: {row: 3}}\n  - loop: {i: 4}\n    body: [{MAC16: {row: i + 2}}]\n",
            "5: body.1.body.0: MAC16 at i=0, cycle 57: bank_group 0, bank 0 has row 3 open",
        ),
        (
            "  - {ACT16: {row: 3}}\n  - {MAC16: {row: k + 3}, repeat: {k: 2}}\n",
            "4: body.1: MAC16 at k=1, cycle 59: bank_group 0, bank 0 has row 3 open",
        ),
        (
            "  - {ACT16: {row: 3}}\n  - {MAC16: {}, repeat: 40000}\n",
            "4: body.1: REFab at repetition 14970, cycle 29997: more than 8 refreshes are owed",
        ),
    ],
)
def test_forbidden_commands_name_loop_position_and_cycle(tmp_path, steps, message):
    assert wrong(tmp_path, body(steps)).startswith(message)


def test_a_program_near_the_longest_is_counted_exactly():
    data = {"device": "gddr6-aim", "refresh": "none", "body": [{"loop": 10**14, "body": ["PREA"]}]}
    assert run_program(Program.from_dict(data)).command_counts == {"PREA": 10**14}


def test_refresh_point_with_open_rows(tmp_path):
    steps = "  - {ACT16: {row: 3}}\n  - {wait: 4000}\n  - refresh\n"
    message = wrong(tmp_path, body(steps, more="refresh: declared\n"))
    assert message.startswith(
        "6: body.2: REFab, cycle 4002: a refresh is due at a refresh point with open rows"
    )


def test_errors_of_programs_made_in_python_name_the_step():
    program = Program.from_dict({"device": "gddr6-aim", "body": ["PREA", "MAC16"]})
    with pytest.raises(InputError, match=r"^body\.1: MAC16, cycle 2: bank_group 0, bank 0 is closed"):
        run_program(program)
