"""Results of studies as records: JSON and CSV, with where they come from."""

from __future__ import annotations

import platform
from typing import Any

import neardata
from neardata.arch.system import System
from neardata.fingerprint import code_digest, fingerprint
from neardata.rooflines import rooflines
from neardata.sim.system.report import SystemReport
from neardata.study import Point, Study

SCHEMA = 2
"""Version of the record; it grows when a field changes its meaning or goes."""


def record(point: Point, study: Study) -> dict[str, Any]:
    """One point as a flat-enough dictionary; times in nanoseconds, energies in picojoules."""
    report = point.report
    return {
        "schema": SCHEMA,
        "versions": versions(),
        "config_hash": fingerprint(study, study.systems[point.label], point.batch, code_digest()),
        "seed": study.seed,
        "label": point.label,
        "system": point.system.name,
        "model": study.model,
        "phase": study.phase,
        "context": study.context,
        "batch": point.batch,
        "units": {group: point.system.count(group) for group in point.system.units},
        "devices": devices(point.system),
        "step_ns": point.step_ps / 1e3,
        "bound_ns": point.bound_ps / 1e3,
        "tokens_per_s": point.tokens_per_s,
        "energy_pj_per_token": point.energy_per_token_j * 1e12,
        "energy_pj": point.energy_pj,
        "reasons_ns": {name: ps / 1e3 for name, ps in report.reasons_ps.items()},
        "run_ns": report.time_ps / 1e3,
        "steps": point.steps,
        "utilisation": report.utilisation(),
        "bytes_placed": dict(point.program.bytes_at),
        "parts": parts(report),
        "row_hit_rate": report.row_hit_rate,
        "notes": list(point.program.notes),
        "experts": experts(report),
        "rooflines": rooflines(report),
    }


def devices(system: System) -> int:
    """Accelerators and memories that compute; a memory in the place of a processor's own is one with it,
    and hosts (CPUs) and memories that only hold data do not count, unless there is nothing else."""
    places = {False: set[str](), True: set[str]()}
    for instance in system.instances.values():
        kind = system.units[instance.group].kind
        if kind != "memory":
            host = kind == "processor" and system.processor(instance.group).kind == "cpu"
            places[host].add(instance.place)
    return len(places[False]) or len(places[True]) or 1


def experts(report: SystemReport) -> dict[str, float]:
    """What a policy for experts that do not fit did; empty without one.

    Shares are of the computations of experts; ``link_busy`` is of the time, of the busiest direction of a
    link. The first step does not count where there are several.
    """
    figures = report.program.figures
    computed = figures.get("experts")
    if not computed:
        return {}
    start, end = report.counted_ps
    busy = report.busy_ps(since_ps=start)
    ports = [ps for name, ps in busy.items() if name.split(" ")[0] in report.system.links]
    return {
        "hit_rate": figures["experts found"] / computed,
        "host_share": figures["experts on host"] / computed,
        "computed": computed,
        "fetched": figures["experts fetched"],
        "places": figures["expert places"],
        "bytes": figures["expert bytes"],
        "link_busy": max(ports, default=0) / (end - start) if end > start else 0.0,
    }


def program_record(report: SystemReport) -> dict[str, Any]:
    """The run of one program."""
    return {
        "schema": SCHEMA,
        "versions": versions(),
        "program": report.program.name,
        "system": report.system.name,
        "run_ns": report.time_ps / 1e3,
        "tokens": report.program.tokens,
        "energy_pj": report.energy_pj,
        "reasons_ns": {name: ps / 1e3 for name, ps in report.reasons_ps.items()},
        "utilisation": report.utilisation(),
        "parts": parts(report),
        "row_hit_rate": report.row_hit_rate,
        "notes": list(report.program.notes),
        "experts": experts(report),
    }


def parts(report: SystemReport) -> list[dict[str, Any]]:
    """Groups of operators: time, what of it is on the critical path, energy."""
    return [
        {
            "name": part.name,
            "units": list(part.units),
            "tasks": part.tasks,
            "time_ns": part.time_ps / 1e3,
            "critical_ns": part.critical_ps / 1e3,
            "bound_ns": part.bound_ps / 1e3,
            "macs": part.macs,
            "memory_bytes": part.memory_bytes,
            "energy_pj": part.energy_pj,
        }
        for part in report.parts()
    ]


def versions() -> dict[str, str]:
    """Of the package, Python and numpy."""
    import numpy

    return {"neardata": neardata.__version__, "python": platform.python_version(), "numpy": numpy.__version__}


CSV_COLUMNS = (
    "label", "system", "model", "phase", "context", "batch", "step_ns", "bound_ns", "tokens_per_s",
    "energy_pj_per_token", "seed", "config_hash", "schema",
)  # fmt: skip
"""Columns of the table of a study; the nested parts are in the JSON only."""
