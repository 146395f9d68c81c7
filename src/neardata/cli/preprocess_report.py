"""Runs of preprocessing as JSON and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neardata.cli.quantities import rate, si_energy, si_time

if TYPE_CHECKING:
    from rich.console import Console

    from neardata.mappers.column_layout import ColumnLayout
    from neardata.preprocessing import UnitRun
    from neardata.workloads.recsys import Spec

SCHEMA = 1


def as_json(
    spec: Spec, path: Path, rows: Sequence[int], parts: int, runs: Sequence[UnitRun], partial: bool
) -> dict[str, Any]:
    """Everything, as one JSON object; times in ns."""
    from neardata.results import versions

    work = {} if not runs else {kind: asdict(found) for kind, found in runs[0].work.items()}
    for found in work.values():
        if not any(found["decode"].values()):
            del found["decode"]
    return {
        "schema": SCHEMA,
        "versions": versions(),
        "spec": spec.name,
        "assumed": list(spec.assumed),
        "input": str(path),
        "partial": partial,
        "mini_batches": len(rows),
        "mini_batches_of": parts,
        "rows": sum(rows),
        "timed": 0 if not runs else len(runs[0].graphs),
        "work": work,
        "units": [_unit(run) for run in runs],
    }


def _unit(run: UnitRun) -> dict[str, Any]:
    return {
        "name": run.unit.name,
        "title": run.unit.title,
        "system": run.system.name,
        "in_flight": run.unit.in_flight,
        "time_ns": run.time_ps / 1e3,
        "first_mini_batch_ns": min(run.ends_ps) / 1e3,
        "period_ns": run.period_ps / 1e3,
        "samples_per_s": run.samples * 1e12 / run.time_ps,
        "values_per_s": run.values * 1e12 / run.time_ps,
        "energy_pj": run.energy_j * 1e12,
        "power_w": run.unit.power_w.model_dump(),
        "binding": run.binding,
        "layout": None if run.layout is None else _layout(run.layout),
        "busy": run.busy,
        "operators": [
            {
                "name": s.name, "where": s.where or f"within {s.within}", "tasks": s.tasks,
                "values": s.values, "cycles": s.cycles, "time_ns": s.time_ps / 1e3,
            }
            for s in run.stages
        ],
    }  # fmt: skip


def _layout(layout: ColumnLayout) -> dict[str, Any]:
    used = [layout.channels_of(chunk) for chunk in layout.chunks if chunk.pages]
    return {
        "drive": layout.ssd.name,
        "page_bytes": layout.ssd.flash.page_bytes,
        "pages": layout.pages,
        "pages_per_channel": layout.per_channel(),
        "channels_of_a_read": sum(used) / max(len(used), 1),
    }


def print_report(console: Console, record: Mapping[str, Any], out: Path | None) -> None:
    """Print what a person reads."""
    from rich.markup import escape

    done, of = record["mini_batches"], record["mini_batches_of"]
    console.print(
        f"[bold]{escape(record['spec'])}[/bold]  {record['rows']:,} rows in {done:,} mini-batch"
        f"{'es' if done != 1 else ''} of {escape(Path(record['input']).name)}"
    )
    if record["partial"]:
        console.print(f"[yellow]interrupted: {done:,} of {of:,} mini-batches are done[/yellow]")
    if record["work"]:
        _print_pages(console, record["work"]["parquet_decode"])
    for unit in record["units"]:
        _print_unit(console, unit, record["timed"], done)
    if out is not None and done:
        console.print(f"\nwritten to {escape(str(out))}")


def _print_pages(console: Console, work: Mapping[str, Any]) -> None:
    decode = work.get("decode", {})
    console.print(
        f"pages {decode.get('pages', 0):,}, {decode.get('compressed_bytes', 0):,} bytes; "
        f"values {work['values_out']:,}: {decode.get('plain_values', 0):,} plain, "
        f"{decode.get('dictionary_values', 0):,} from dictionaries"
    )


def _print_unit(console: Console, unit: Mapping[str, Any], timed: int, done: int) -> None:
    from rich.markup import escape
    from rich.table import Table

    console.print(f"\n[bold]{escape(unit['name'])}[/bold]  {escape(unit['title'])}")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("operator", "where"):
        table.add_column(title, no_wrap=True)
    for title in ("tasks", "values", "cycles", "time"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in unit["operators"]:
        cycles = "" if row["cycles"] is None else f"{row['cycles']:,}"
        time = "" if row["where"].startswith("within ") else si_time(row["time_ns"])
        values = f"{row['values']:,}" if row["values"] else ""
        table.add_row(row["name"], row["where"], f"{row['tasks']:,}", values, cycles, time)
    console.print(table)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in unit["busy"].items() if share >= 0.005)
    of = "" if timed == done else f" of the first {timed:,} mini-batches"
    basis = unit["power_w"]["basis"]
    console.print(
        f"time {si_time(unit['time_ns'])}{of}, first mini-batch after {si_time(unit['first_mini_batch_ns'])}"
        f"\n{rate(unit['samples_per_s'])} samples/s, {rate(unit['values_per_s'])} values/s"
        f"\nenergy {si_energy(unit['energy_pj'])} at {unit['power_w']['value']:g} W ({basis})"
        f"\nbinding: {escape(unit['binding'])}; busy: {escape(shares)}"
    )
    layout = unit["layout"]
    if layout is not None:
        channels = layout["pages_per_channel"]
        console.print(
            f"in flash: {layout['pages']:,} pages over {len(channels)} channels, {min(channels):,} to "
            f"{max(channels):,} each; a read is on {layout['channels_of_a_read']:.1f} channels"
        )
