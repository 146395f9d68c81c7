"""The figures of a study: time by part, energy by component, operators under the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neardata.arch.system import PimUnit
from neardata.sim.system.engine import is_processor
from neardata.study import Point
from neardata.system_plots import roofline, stacked


def draw(out: Path, title: str, records: Sequence[dict[str, Any]], points: Sequence[Point]) -> list[Path]:
    """Draw what the results allow; the roofline needs points that were run now.

    Returns:
        The files written.
    """
    bars = [(f"{r['label']}, batch {r['batch']}", r) for r in records]
    files = [out / "time.png", out / "energy.png"]
    stacked([(label, _share_of_step(r)) for label, r in bars], files[0],
            f"{title}: time of a token", "ms, by part of the model on the critical path")  # fmt: skip
    stacked([(label, _energy(r)) for label, r in bars], files[1],
            f"{title}: energy of a token", "mJ of one sequence's token, by component")  # fmt: skip
    if points:
        files.append(out / "roofline.png")
        chosen = _one_per_label(points)
        roofline(
            {f"{p.label}: {group}": _operators(p, group) for p, group in chosen},
            {f"{p.label}: {group}": _roof(p, group) for p, group in chosen},
            files[2], f"{title}: operators at batch {chosen[0][0].batch}",
        )  # fmt: skip
    return files


def _share_of_step(record: dict[str, Any]) -> dict[str, float]:
    """Milliseconds of a step by part: the critical path of the run, scaled to one step."""
    scale = record["step_ns"] / record["run_ns"] / 1e6
    return {part["name"]: part["critical_ns"] * scale for part in record["parts"] if part["critical_ns"]}


def _energy(record: dict[str, Any]) -> dict[str, float]:
    whole = sum(record["energy_pj"].values()) or 1.0
    return {n: pj / whole * record["energy_pj_per_token"] / 1e9 for n, pj in record["energy_pj"].items()}


def _one_per_label(points: Sequence[Point]) -> list[tuple[Point, str]]:
    """The last point of each system, with each of its kinds of units that compute."""
    last = {point.label: point for point in points}
    return [
        (point, group)
        for point in last.values()
        for group in dict.fromkeys(point.report.groups)
        if group in point.system.units
        and any(o.macs for o, g in zip(point.report.outcomes, point.report.groups, strict=True) if g == group)
    ]


def _operators(point: Point, group: str) -> list[tuple[float, float]]:
    """Intensity and rate of each kind of operator on the units of a group."""
    sums: dict[str, list[float]] = {}
    for task, outcome, on in zip(
        point.program.tasks, point.report.outcomes, point.report.groups, strict=True
    ):
        if on == group and outcome.macs and outcome.memory_bytes:
            name = task.operators[0].rpartition("/")[2].partition(".")[2] or task.operators[0]
            total = sums.setdefault(name, [0.0, 0.0, 0.0])
            total[0] += 2 * outcome.macs
            total[1] += outcome.memory_bytes
            total[2] += outcome.time_ps
    return [(work / moved, work / time * 1e3) for work, moved, time in sums.values()]


def _roof(point: Point, group: str) -> tuple[float, float]:
    """10^9 operations/s and GB/s of one unit."""
    unit = point.system.units[group]
    if is_processor(point.system, group):
        processor = point.system.processor(group)
        peak = processor.compute.peak_tflops
        return 1e3 * max(peak.get("bf16", 0.0), peak.get("fp16", 0.0)), processor.memory.gb_per_s
    assert isinstance(unit, PimUnit)
    from neardata.sim.system.pim import PimEngine

    engine = PimEngine(point.system.device(group), unit.device, unit.channels, unit.refresh)
    rate = 2 * engine.peak_macs_per_tick * unit.channels / engine.device.tick_ps * 1e3
    return rate, rate  # a 16-bit weight, two bytes, feeds one multiply-accumulate: one operation a byte
