"""A `StreamReport` as JSON, CSV and tables."""

from __future__ import annotations

import csv
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neardata.arch.errors import InputError
from neardata.arch.stream.pipeline import RESOURCES
from neardata.cli.output import check_writable, text_file, whole_file
from neardata.cli.quantities import si_energy, si_time

if TYPE_CHECKING:
    from rich.console import Console

    from neardata.sim.stream import StreamReport

PERCENTILES = (50, 95, 99)
CAUSES = ("busy", "starved", "blocked", "memory", "drained")
FILES = ("report.json", "stages.csv", "fifos.csv", "stages.png")


def as_json(report: StreamReport) -> dict[str, Any]:
    """Everything in the report, as one JSON object."""
    p = report.pipeline
    resources = None
    if report.resources is not None:
        resources = {
            "fpga": report.resources.fpga.name,
            "percent": dict(report.resources.total),
            "by_stage": {name: dict(use) for name, use in report.resources.by_stage.items()},
            "untold": list(report.resources.untold),
        }
    latency = None
    if report.finish_ps is not None:
        latency = {f"p{q}": report.latency_ns(q) for q in PERCENTILES} | {"max": report.latency_ns(100)}
    return {
        "pipeline": p.name,
        "title": p.title,
        "replicas": p.replicas.model_dump(),
        "items": report.items,
        "clock": report.clock,
        "clock_mhz": p.clocks[report.clock].mhz,
        "cycles": report.cycles,
        "time_ps": report.time_ps,
        "time_ns": report.time_ns,
        "items_per_s": report.items_per_s,
        "bound_ns": report.bound_ps / 1000,
        "bound_by": report.bound_by,
        "binding": report.binding,
        "memory": report.memory,
        "memory_turns": report.memory_turns,
        "port_bytes": dict(report.port_bytes),
        "latency_ns": latency,
        "stages": {
            name: {
                "firings": report.firings[name],
                "cycles": c.total,
                **{f"{cause}_cycles": getattr(c, cause) for cause in CAUSES},
                "timing_basis": p.stages[name].timing.basis,
            }
            for name, c in report.stages.items()
        },
        "fifos": {
            name: {"capacity": use.capacity, "high_water": use.high_water, "items": use.items}
            for name, use in report.fifos.items()
        },
        "energy_pj": None if report.energy_pj is None else dict(report.energy_pj),
        "energy_untold": list(report.energy_untold),
        "resources": resources,
        "jumped_periods": report.jumped_periods,
        "assumed": assumed(report),
    }


def assumed(report: StreamReport) -> list[str]:
    """What of the pipeline rests on no source, by key."""
    p = report.pipeline
    parts = [(f"clocks.{name}", clock.basis) for name, clock in p.clocks.items()]
    parts += [(f"ports.{name}", port.basis) for name, port in p.ports.items()]
    parts += [(f"stages.{name}.timing", stage.timing.basis) for name, stage in p.stages.items()]
    return [key for key, basis in parts if basis == "assumed"]


def check_folder(path: Path) -> None:
    """Make ``--out``, and fail before the run if nothing can be written there."""
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        reason = "it is a file" if path.is_file() else error.strerror
        raise InputError(f"cannot be made: {reason}", file=path) from None
    for name in FILES:
        check_writable(path / name)


def write(report: StreamReport, folder: Path) -> None:
    """``report.json``, ``stages.csv``, ``fifos.csv``, and ``stages.png`` where Matplotlib is installed."""
    record = as_json(report)
    with text_file(folder / "report.json") as stream:
        json.dump(record, stream, indent=2)
    for name, key in (("stages", "stage"), ("fifos", "fifo")):
        rows = [{key: label, **values} for label, values in record[name].items()]
        with text_file(folder / f"{name}.csv") as stream:
            if rows:
                table = csv.DictWriter(stream, list(rows[0]))
                table.writeheader()
                table.writerows(rows)
    if find_spec("matplotlib") is not None:
        from neardata import plots

        bars = [
            (name, {cause: getattr(c, cause) / c.total for cause in CAUSES})
            for name, c in report.stages.items()
        ]
        with whole_file(folder / "stages.png") as temporary:
            plots.stage_cycles(bars, temporary, f"what the stages of {report.pipeline.name} did")


def print_report(console: Console, report: StreamReport) -> None:
    """Print the compact tables a person reads."""
    from rich.markup import escape
    from rich.table import Table

    p = report.pipeline
    copies = f"{p.replicas.count} replicas, {p.replicas.dispatch}" if p.replicas.count > 1 else "1 replica"
    console.print(f"[bold]{escape(p.name)}[/bold]  {copies}, {p.clocks[report.clock].mhz:g} MHz")
    console.print(f"{escape(p.title)}\n")
    table = Table(box=None, show_header=False, pad_edge=True)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("items", f"{report.items:,}")
    table.add_row("cycles", f"{report.cycles:,}, fill and drain included")
    table.add_row("time", si_time(report.time_ns))
    table.add_row("throughput", f"{_rate(report.items_per_s)}items/s")
    table.add_row(
        "bound", f"{si_time(report.bound_ps / 1000)}, {100 * report.bound_ps / report.time_ps:.1f} % of the "
        f"time: {report.bound_by}",
    )  # fmt: skip
    loaded = f"{_loaded(report):.1%} of its time busy or waiting for memory"
    table.add_row("binding", f"{report.binding}: {loaded}")
    if p.ports:
        moved = ", ".join(
            f"{name} {n:,} bytes, {n * 1000 / report.time_ps:.2f} GB/s"
            for name, n in report.port_bytes.items()
        )
        table.add_row("memory", f"{moved}; simulated by {report.memory}")
    if report.finish_ps is not None:
        told = ", ".join(f"p{q} {si_time(report.latency_ns(q))}" for q in PERCENTILES)
        table.add_row("latency of an item", told)
    table.add_row("energy", _energy(report))
    if report.jumped_periods:
        table.add_row(
            "skipped over", f"{report.jumped_periods:,} periods of {report.period_cycles:,} cycles that recur"
        )
    console.print(table)
    console.print()
    console.print(_stage_table(report))
    if report.fifos:
        console.print()
        console.print(_fifo_table(report))
    if report.resources is not None:
        console.print()
        console.print(_resource_table(report))
    if assumed(report):
        console.print(f"\nassumed, not published: {', '.join(assumed(report))}")


def _loaded(report: StreamReport) -> float:
    cycles = report.stages[report.binding]
    return (cycles.busy + cycles.memory) / cycles.total


def _stage_table(report: StreamReport) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=True)
    table.add_column("stage", no_wrap=True)
    for title in ("firings", *CAUSES):
        table.add_column(title, justify="right", no_wrap=True)
    for name, c in report.stages.items():
        shares = [f"{getattr(c, cause) / c.total:.1%}" for cause in CAUSES]
        style = "green" if name == report.binding else ""
        table.add_row(name, f"{report.firings[name]:,}", *shares, style=style)
    return table


def _fifo_table(report: StreamReport) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=True)
    table.add_column("FIFO", no_wrap=True)
    for title in ("items", "at most in it", "capacity"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, use in report.fifos.items():
        table.add_row(name, f"{use.items:,}", f"{use.high_water:,}", f"{use.capacity:,}")
    return table


def _resource_table(report: StreamReport) -> Any:
    from rich.table import Table

    use = report.resources
    assert use is not None
    table = Table(box=None, header_style="bold", pad_edge=True)
    table.add_column(f"% of {use.fpga.name}", no_wrap=True)
    for resource in RESOURCES:
        table.add_column(resource.upper(), justify="right", no_wrap=True)

    def row(name: str, percent: Any, style: str = "") -> None:
        told = ["not known" if percent[r] is None else f"{percent[r]:.2f}" for r in RESOURCES]
        table.add_row(name, *told, style=style)

    for name, percent in use.by_stage.items():
        row(name, percent)
    row("total", use.total, "bold")
    for name in use.untold:
        table.add_row(name, *["not told"] * len(RESOURCES))
    return table


def _rate(rate: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if rate >= size:
            return f"{rate / size:.4g} {unit}"
    return f"{rate:.4g} "


def _energy(report: StreamReport) -> str:
    if report.energy_pj is None:
        return "none: no energy per action is given"
    total = sum(report.energy_pj.values())
    without = f"; without {', '.join(report.energy_untold)}" if report.energy_untold else ""
    return f"{si_energy(total)}{without}"
