"""A `RequestReport` as JSON and as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neardata.cli.bars import bar_rows
from neardata.cli.causes import in_words
from neardata.cli.energy_report import energy_json, energy_text
from neardata.cli.quantities import si_time

if TYPE_CHECKING:
    from rich.console import Console

    from neardata.sim.dram.energy import EnergyReport
    from neardata.sim.dram.request import RequestReport

PERCENTILES = (50, 95, 99)
BUS_BOUND = 0.9
"""Share of the peak from which the data bus itself is named as what binds."""


def as_json(
    report: RequestReport, energy: EnergyReport | None, *, profile: str, source: str
) -> dict[str, Any]:
    """Everything in the report, as one JSON object (fields named in docs/usage.md)."""
    latency = {f"p{p}": report.read_latency.percentile(p) for p in PERCENTILES}
    return {
        "device": report.device.name,
        "profile": profile,
        "source": source,
        "controller": report.config.model_dump(),
        "mapping": report.mapping.text,
        "channels": report.channels,
        "partial": report.partial,
        "requests": report.requests,
        "reads": report.reads,
        "writes": report.writes,
        "forwarded_reads": report.forwarded_reads,
        "coalesced_writes": report.coalesced_writes,
        "cycles_to_last_accept": report.cycles_to_last_accept,
        "cycles_to_drain": report.cycles_to_drain,
        "tick_ps": report.device.tick_ps,
        "time_ns": report.time_ns,
        "bandwidth_gb_per_s": report.bandwidth_gb_per_s,
        "peak_gb_per_s": report.peak_gb_per_s,
        "row_hits": report.row_hits,
        "row_misses": report.row_misses,
        "row_conflicts": report.row_conflicts,
        "avg_read_latency_cycles": report.avg_read_latency_cycles,
        "read_latency_cycles": {**latency, "max": report.read_latency.maximum},
        "energy_pj": None if energy is None else energy.total_pj,
        "energy": energy_json(energy),
        "busy_cycles": report.busy_cycles,
        "lost_cycles": report.lost_cycles,
        "command_counts": report.command_counts,
        "at_last_accept": report.at_last_accept,
    }


def print_report(
    console: Console, report: RequestReport, energy: EnergyReport | None, *, profile: str, source: str
) -> None:
    """Print the compact table a person reads."""
    from rich.markup import escape
    from rich.table import Table

    device = report.device
    channels = f"{report.channels} channel{'s' if report.channels > 1 else ''}"
    console.print(f"[bold]{escape(device.name)}[/bold]  {channels}, {profile}, {escape(report.mapping.text)}")
    console.print(f"{escape(source)}\n")
    if report.partial:
        console.print("[bold red]partial[/bold red]: interrupted; what was simulated until then\n")
    table = Table(box=None, show_header=False, pad_edge=True)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("requests", _requests(report))
    table.add_row(
        "cycles",
        f"{report.cycles_to_drain:,} to the last burst, {report.cycles_to_last_accept:,} to the last accept",
    )
    table.add_row("time", f"{si_time(report.time_ns)} at {device.tick_ps:g} ps a cycle")
    share = report.bandwidth_gb_per_s / report.peak_gb_per_s
    table.add_row(
        "bandwidth", f"{report.bandwidth_gb_per_s:.2f} of {report.peak_gb_per_s:.2f} GB/s peak, {share:.1%}"
    )
    rows = report.row_hits + report.row_misses + report.row_conflicts
    hits = f"{report.row_hits:,} hits" + (f" ({report.row_hits / rows:.1%})" if rows else "")
    table.add_row("rows", f"{hits}, {report.row_misses:,} misses, {report.row_conflicts:,} conflicts")
    if report.reads:
        table.add_row("read latency", _latency(report))
        mean_ns = report.avg_read_latency_cycles * device.tick_ps / 1e3
        table.add_row("", f"{mean_ns:.1f} ns on average, from acceptance to the end of the burst")
    table.add_row("energy", energy_text(device, energy, 8 * report.bytes_moved))
    console.print(table)
    if report.lost_cycles is not None and report.busy_cycles is not None:
        console.print()
        console.print(bar_rows(shares(report), "where the data bus's cycles went"))
        console.print(f"\n{binding(report)}")


def _requests(report: RequestReport) -> str:
    text = f"{report.requests:,}: {report.reads:,} reads, {report.writes:,} writes"
    if report.forwarded_reads:
        text += f"; {report.forwarded_reads:,} reads forwarded from queued writes"
    if report.coalesced_writes:
        text += f"; {report.coalesced_writes:,} writes coalesced"
    return text


def _latency(report: RequestReport) -> str:
    percentiles = [f"p{p} {report.read_latency.percentile(p):,}" for p in PERCENTILES]
    mean = f"avg {report.avg_read_latency_cycles:.1f}"
    return " · ".join([mean, *percentiles, f"max {report.read_latency.maximum:,} cycles"])


def shares(report: RequestReport) -> dict[str, float]:
    """Share of the data-bus cycles by what they went into: ``data`` first, then causes, the largest first.

    >>> list(shares(report))  # doctest: +SKIP
    ['data', 'tFAW', 'refresh']
    """
    assert report.lost_cycles is not None and report.busy_cycles is not None
    total = report.busy_cycles + sum(report.lost_cycles.values())
    parts = {"data": report.busy_cycles, **report.lost_cycles}
    return {name: cycles / total for name, cycles in parts.items()} if total else {}


def binding(report: RequestReport) -> str:
    """One line that names what binds the run."""
    assert report.lost_cycles is not None
    parts = shares(report)
    busy = parts.get("data", 0.0)
    if busy >= BUS_BOUND or not report.lost_cycles:
        return f"Bound by the data bus itself: it is busy {busy:.0%} of the time."
    cause = next(iter(report.lost_cycles))
    return f"Bound by {cause} ({parts[cause]:.0%} of the data-bus cycles): {in_words(report.device, cause)}."
