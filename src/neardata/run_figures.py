"""The figures of a study: time by part, energy by component, operators under the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neardata.system_plots import Bar, Roofline, rooflines, stacked


def draw(out: Path, title: str, records: Sequence[dict[str, Any]]) -> None:
    """Draw ``time.png``, ``energy.png`` and ``roofline.png``, the last at each system's largest batch."""
    steps = "step" if any(r["phase"] != "decode" for r in records) else "token"
    times = [Bar(r["label"], f"batch {r['batch']}", _time_of_step(r)) for r in records]
    stacked(times, out / "time.png", f"{title}: time of a {steps}", "ms on the critical path, by part")
    energies = [Bar(r["label"], f"batch {r['batch']}", _energy(r)) for r in records]
    stacked(energies, out / "energy.png", f"{title}: energy of a token", "mJ, by component")
    largest = {r["label"]: r for r in records}
    panels = [
        Roofline(
            f"{label}: {unit['group']}, batch {r['batch']}", unit["peak_gops"], unit["gb_per_s"],
            tuple((o["name"], o["operations_per_byte"], o["gops"], o["time_ns"]) for o in unit["operators"]),
        )
        for label, r in largest.items()
        for unit in r["rooflines"]
    ]  # fmt: skip
    if panels:
        rooflines(panels, out / "roofline.png", f"{title}: operators under the roofline of their unit")


def _time_of_step(record: dict[str, Any]) -> dict[str, float]:
    """Milliseconds of a step by part: the critical path of the run, scaled to one step."""
    scale = record["step_ns"] / record["run_ns"] / 1e6
    return {part["name"]: part["critical_ns"] * scale for part in record["parts"] if part["critical_ns"]}


def _energy(record: dict[str, Any]) -> dict[str, float]:
    whole = sum(record["energy_pj"].values()) or 1.0
    return {n: pj / whole * record["energy_pj_per_token"] / 1e9 for n, pj in record["energy_pj"].items()}
