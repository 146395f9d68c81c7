"""What ``neardata serve`` tells about studies of front ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from neardata.cli.quantities import si_time

if TYPE_CHECKING:
    from neardata.frontend_study import FrontEndStudy

Done = list[tuple[str, dict[str, float]]]


def print_json(study: FrontEndStudy, done: Done) -> None:
    """One object on stdout."""
    record = [{"setup": label, **figures} for label, figures in done]
    typer.echo(json.dumps({"title": study.title, "network": study.network, "setups": record}, indent=1))


def print_report(study: FrontEndStudy, done: Done) -> None:
    """Tables that fit 80 columns."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"[bold]{escape(study.title)}[/bold]")
    timed = "p50_ms" in done[0][1]
    comes = f", {done[0][1]['offered_per_s']:,.4g} a second" if timed else ""
    count = int(done[0][1]["requests"])
    console.print(f"{study.network} on slices {study.gpu.slice}, {count:,} inputs{comes}\n")
    rates = Table(box=None, pad_edge=False, header_style="bold")
    rates.add_column("setup")
    titles = ("sustained/s", "p50", "p95", "p99") if timed else ("sustained/s",)
    for title in titles:
        rates.add_column(title, justify="right", no_wrap=True)
    overloaded = []
    for label, figures in done:
        cells = [f"{figures['sustained_per_s']:,.0f}"]
        if timed:
            cells += [si_time(figures[f"p{p}_ms"] * 1e6) for p in (50, 95, 99)]
            if figures["offered_per_s"] > figures["sustained_per_s"]:
                overloaded.append(label)
        rates.add_row(escape(label), *cells)
    console.print(rates)
    if timed:
        console.print()
        console.print(_parts(done))
    for label in overloaded:
        console.print(f"\n{escape(label)}: more comes than is sustained, and latencies grow with the count")
    _compare(console.print, study, done)


def _parts(done: Done):  # type: ignore[no-untyped-def]
    """Where the time of a request goes, and how busy the servers are."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("setup")
    for title in ("queue", "prepare", "batch", "execute", "batch of", "padding", "busy"):
        table.add_column(title, justify="right", no_wrap=True)
    for label, figures in done:
        times = [si_time(figures[f"{part}_ms"] * 1e6) for part in ("queue", "prepare", "batch", "execute")]
        table.add_row(
            escape(label), *times, f"{figures['mean_batch']:.1f}", f"{figures['padding']:.0%}",
            f"{figures['slices_busy']:.0%}",
        )  # fmt: skip
    return table


def _compare(show, study: FrontEndStudy, done: Done) -> None:  # type: ignore[no-untyped-def]
    from rich.markup import escape

    baseline = study.baseline or done[0][0]
    base = dict(done)[baseline]
    if len(done) > 1:
        show()
    for label, figures in done:
        if label == baseline:
            continue
        parts = [f"{figures['sustained_per_s'] / base['sustained_per_s']:.2f}x sustained"]
        if "p95_ms" in base:
            parts.append(f"p95 {figures['p95_ms'] / base['p95_ms']:.2f}x")
        show(f"{escape(label)} against {escape(baseline)}: {', '.join(parts)}")
