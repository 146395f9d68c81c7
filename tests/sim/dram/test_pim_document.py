"""The figures of docs/pim.md are what the programs give."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from neardata.sim.dram.attacc import UnitLevel, attention
from neardata.sim.dram.hbm_pim import elementwise, gemv
from neardata.sim.dram.pim import run_program
from neardata.sim.dram.program import Program

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "pim.md").read_text()
LINES = [
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in DOCUMENT.splitlines()
    if re.match(r"\|.*\| *\d+ \|", line)
]
TFAW = {
    "hbm": {"timing.nAAB": 28},
    "attacc": {"timing.nAAB": 123, "timing.nFAWAB": 156, "timing.nASB": 6, "timing.nFAWSB": 39},
}


def cycles(program: Program, overrides: Mapping[str, int] | None = None) -> int:
    return run_program(replace(program, overrides={**program.overrides, **(overrides or {})})).cycles


def hbm_pim(name: str, **how) -> Program:
    size = [int(n) for n in re.findall(r"\d+", name)]
    if name.startswith("GEMV"):
        return gemv(*size, first_refresh=1950, **how)
    return elementwise(size[0] << 20, operands=1 if "RELU" in name else 2, first_refresh=1950, **how)


def tool_figures(file: str) -> set[str]:
    with (ROOT / "tests" / "data" / "pim" / file).open() as stream:
        return {row["cycles"] for row in csv.DictReader(stream)}


@pytest.mark.parametrize("line", [x for x in LINES if not x[0][0].isdigit()], ids=lambda x: x[0])
def test_hbm_pim_line(line):
    name, tool, here, difference, correct, tfaw, waiting = line
    assert tool in tool_figures("pimsimulator.csv")
    assert int(here) == cycles(hbm_pim(name, device="hbm-pim-asbuilt"))
    assert float(difference.strip("% ").replace("−", "-")) == round(100 * (int(here) / int(tool) - 1), 1)
    assert int(correct) == cycles(hbm_pim(name))
    assert int(tfaw) == cycles(hbm_pim(name), TFAW["hbm"])
    assert int(waiting) == cycles(hbm_pim(name, fence="data"))


@pytest.mark.parametrize("line", [x for x in LINES if x[0][0].isdigit()], ids=lambda x: x[0])
def test_attacc_line(line):
    name, tool, here, difference, correct, tfaw, _ = line
    heads, length = (int(n) for n in re.findall(r"\d+", name))
    unit: UnitLevel = "bank group" if "bank group" in name else "bank"
    device = "attacc-hbm3-npc" if "no power" in name else "attacc-hbm3"
    assert tool in tool_figures("attacc.csv")
    assert int(here) == cycles(attention(heads, length, unit=unit, device=f"{device}-asbuilt"))
    assert float(difference.strip("% ").replace("−", "-")) == round(100 * (int(here) / int(tool) - 1), 1)
    right = attention(heads, length, unit=unit, device=device, softmax_cycles=16)
    assert int(correct) == cycles(right)
    assert int(tfaw) == cycles(right, TFAW["attacc"])


def test_the_first_example_gives_the_numbers_beside_it_and_in_the_table():
    (example,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    correct = {line[0]: int(line[4]) for line in LINES}
    shown = []
    for line in example.splitlines():
        code, _, comment = line.partition("#")
        if not comment:
            exec(code, names)
            continue
        shown.append(int(comment.partition(":")[0]))
        assert eval(code, names) == shown[-1], line
    assert shown[:-1] == [correct["GEMV 4096 x 4096"], correct["ADD 1 M"], correct["188 x 2048"]]


def test_the_lines_are_found():
    assert len(LINES) == 18
