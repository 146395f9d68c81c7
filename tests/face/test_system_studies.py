"""Studies that run whole systems, against the simulators and papers they are about."""

from pathlib import Path

import pytest

from neardata.reproduction import run_study

ROOT = Path(__file__).parents[2]


def figures_of_document() -> dict[str, tuple[float, float, float]]:
    """name/batch[/part]: the simulator's, ours and the physical system's, in docs/pim.md."""
    text = (ROOT / "docs" / "pim.md").read_text(encoding="utf-8")
    lines = text.split("| | attacc_simulator | here | | physical |\n")[1].splitlines()[1:]
    found, name = {}, ""
    for line in lines:
        if not line.startswith("|"):
            break
        what, tool, here, _, physical = (cell.strip() for cell in line.strip("|").split("|"))
        if ", batch " in what:
            name = what.replace(", batch ", "/")
        key = name if ", batch " in what else f"{name}/{what}"
        found[key] = (float(tool), float(here), float(physical))
    return found


@pytest.mark.parametrize("row", ["GPUs/1", "AttAcc/1", "GPUs/78", "AttAcc/78"])
def test_gpt3_with_attacc_is_within_a_twentieth_of_its_simulator(row):
    (verdict,) = [v for v in run_study("attacc").verdicts if v.claim.metric == row]
    assert verdict.claim.tolerance == 0.05
    assert verdict.decision == "reproduced"


def test_the_document_has_the_figures_of_the_study():
    run = run_study("attacc")
    claimed = {v.claim.metric: v.claim.value for v in run.verdicts}
    shown = figures_of_document()
    assert set(shown) == set(claimed)
    for name, (tool, here, physical) in shown.items():
        assert tool == pytest.approx(claimed[name], abs=0.006), name
        assert here == pytest.approx(run.figures[name], abs=0.006), name
        assert physical == pytest.approx(run.figures[f"physical {name}"], abs=0.006), name


def test_parts_of_the_critical_path_add_up():
    figures = run_study("attacc").figures
    for name in (name for name in figures if name.count("/") == 1):
        assert figures[name] == pytest.approx(sum(v for k, v in figures.items() if k.startswith(name + "/")))
