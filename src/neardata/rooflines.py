"""Operators under the roofs of the units they ran on."""

from __future__ import annotations

from typing import Any

from neardata.arch.storage import multiplying_gb_per_s
from neardata.arch.system import PimUnit, StorageUnit, System
from neardata.mappers.products import kind_of
from neardata.sim.system.engine import is_processor
from neardata.sim.system.report import SystemReport


def rooflines(report: SystemReport) -> list[dict[str, Any]]:
    """For each group of units that multiply: the roof of one unit, and each kind of operator, the one
    that takes longest first. Rates in 10^9 operations/s; a multiply-accumulate is two operations."""
    found = []
    for group in dict.fromkeys(report.groups):
        operators = _operators(report, group)
        if group in report.system.units and operators:
            peak, bandwidth = _roof(report.system, group)
            found.append({"group": group, "peak_gops": peak, "gb_per_s": bandwidth, "operators": operators})
    return found


def _operators(report: SystemReport, group: str) -> list[dict[str, Any]]:
    """Intensity and rate, the same operator of all layers together."""
    sums: dict[str, list[int]] = {}
    for task, outcome, on in zip(report.program.tasks, report.outcomes, report.groups, strict=True):
        if on == group and outcome.macs and outcome.memory_bytes and task.operators:
            total = sums.setdefault(kind_of(task.operators[0]), [0, 0, 0])
            total[0] += 2 * outcome.macs
            total[1] += outcome.memory_bytes
            total[2] += outcome.time_ps
    return [
        {"name": name, "time_ns": ps / 1e3, "operations_per_byte": work / moved, "gops": work / ps * 1e3}
        for name, (work, moved, ps) in sorted(sums.items(), key=lambda item: -item[1][2])
    ]


def _roof(system: System, group: str) -> tuple[float, float]:
    """10^9 operations/s and GB/s of one unit."""
    unit = system.units[group]
    if is_processor(system, group):
        processor = system.processor(group)
        peak = processor.compute.peak_tflops
        return 1e3 * max(peak.get("bf16", 0.0), peak.get("fp16", 0.0)), processor.memory.gb_per_s
    if isinstance(unit, StorageUnit):  # its dies, and the processor that takes what streams
        drive = system.drive(group)
        cores = max(drive.compute.gops.values()) * drive.flash.dies if drive.compute is not None else 0.0
        if unit.attached_to is not None:
            cores += 1e3 * max(system.processor(unit.attached_to).compute.peak_tflops.values())
        return cores, multiplying_gb_per_s(drive)
    assert isinstance(unit, PimUnit)
    from neardata.sim.system.pim import PimEngine

    engine = PimEngine(system.device(group), unit.channels, unit.refresh)
    rate = 2 * engine.peak_macs_per_tick * unit.channels / engine.device.tick_ps * 1e3
    return rate, rate  # a 16-bit weight, two bytes, feeds one multiply-accumulate: one operation a byte
