"""docs/validation.md is what benchmarks/validation.py writes, and the README's table is its summary."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "validation.md").read_text()
SECTIONS = ["rules", "ramulator", "traces", "dramsim3", "aim", "hbm-pim", "attacc", "silicon",
            "processors", "serving"]  # fmt: skip


@pytest.fixture(scope="module")
def validation():
    """The script as a module; what it ran stays with it from test to test."""
    spec = importlib.util.spec_from_file_location("validation", ROOT / "benchmarks" / "validation.py")
    assert spec is not None and spec.loader is not None
    sys.path.insert(0, str(ROOT / "benchmarks"))  # it imports those beside it
    module = sys.modules["validation"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["validation"]


@pytest.mark.parametrize("section", SECTIONS)
def test_section_is_what_the_script_gives(validation, section):
    assert validation.SECTIONS[section]() in PAGE


def test_page_is_what_the_script_gives(validation):
    assert list(validation.SECTIONS) == SECTIONS
    assert validation.page() == PAGE


def test_readme_shows_the_summary(validation):
    assert validation.summary() in (ROOT / "README.md").read_text()


def test_a_miss_is_printed_as_one(validation):
    row = validation.Row(("a",), 100, 102, reason="because")
    assert "| a | 100 | 102 | +2.00 % | **miss**: because |" in validation.compared(["name"], [row], "theirs")
    near = validation.Row(("a",), 100, 101)
    assert "| a | 100 | 101 | +1.00 % |  |" in validation.compared(["name"], [near], "theirs")


def test_every_reference_row_is_on_the_page(validation):
    assert len(validation.ramulator()) == len(validation.data("dram/ramulator21_reference.csv")) == 71
    assert len(validation.command_traces()) == len(
        list((ROOT / "tests" / "data" / "dram").glob("commands_ramulator21_*"))
    )
    assert len(validation.dramsim3()) == len(validation.data("dram/dramsim3_matched.csv"))
    assert len(validation.aim()) == len(validation.data("pim/aim.csv"))
    assert len(validation.hbm_pim()) == len(validation.data("pim/pimsimulator.csv"))
    assert len(validation.attacc()[0]) == len(validation.data("pim/attacc.csv"))


def test_every_miss_has_a_reason(validation):
    rows = [
        *validation.ramulator(), *validation.command_traces(), *validation.dramsim3(), *validation.aim(),
        *validation.hbm_pim(), *validation.attacc()[0], *(row for row, _ in validation.attacc()[1]),
        *validation.silicon(), *validation.closed_forms(),
    ]  # fmt: skip
    import measured_times as times

    bounded = [*times.a100(), *times.rtx()[0], *times.rtx()[1], *times.nvlinks()]
    assert all(row.reason for row in [*rows, *bounded] if row.missed)
    assert all(not row.violations for row in validation.rules())
