"""An `SsdReport` as JSON and as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neardata.cli.bars import bar_rows
from neardata.cli.quantities import si_energy, si_time

if TYPE_CHECKING:
    from rich.console import Console

    from neardata.sim.storage.drive import Latencies, SsdReport

_WORDS = {
    "no transaction": "nothing was asked of the channel",
    "array read": "dies were reading (tR)",
    "array program": "dies were programming (tPROG)",
    "array erase": "dies were erasing (tBERS)",
    "die compute": "dies were computing",
    "too few in flight": "the dies that were asked something were busy",
}
BUS_BOUND = 0.9


def as_json(report: SsdReport, *, source: str) -> dict[str, Any]:
    """Everything in the report, as one JSON object (fields named in docs/storage.md)."""
    from neardata.sim.storage.drive import READ, WRITE
    from neardata.sim.storage.energy import energy

    items = energy(report)
    return {
        "drive": report.ssd.name,
        "source": source,
        "compat": [name for name, on in report.ssd.compat.model_dump().items() if on],
        "partial": report.partial,
        "requests": report.requests,
        "reads": report.reads,
        "writes": report.writes,
        "bytes_read": report.bytes_read,
        "bytes_written": report.bytes_written,
        "time_ns": report.time_ns,
        "window_ns": report.window_ns,
        "iops": report.iops,
        "mb_per_s": report.mb_per_s,
        "read_mb_per_s": report.read_mb_per_s,
        "write_mb_per_s": report.write_mb_per_s,
        "latency_ns": {
            name: _latency_json(report.latencies(op))
            for name, op in (("all", None), ("read", READ), ("write", WRITE))
        },
        "write_amplification": report.write_amplification,
        "counts": {**report.use.counts, **report.counts},
        "erases_of_a_block": dict(zip(("min", "mean", "max"), report.erase_counts, strict=True)),
        "channel_busy": {name: share.tolist() for name, share in report.use.channel_busy.items()},
        "die_busy": {name: share.tolist() for name, share in report.use.unit_busy.items()},
        "channel_lost": report.use.lost,
        "busy": report.busy,
        "energy_pj": sum(items.values()),
        "energy": {"items_pj": items, "basis": "assumed"},
    }


def _latency_json(latency: Latencies) -> dict[str, float]:
    return {
        "count": latency.count, "mean": latency.mean, "min": latency.minimum, **latency.percentiles,
        "max": latency.maximum,
    }  # fmt: skip


def print_report(console: Console, report: SsdReport, *, source: str) -> None:
    """Print the compact table a person reads."""
    from rich.markup import escape
    from rich.table import Table

    from neardata.sim.storage.drive import READ, WRITE
    from neardata.sim.storage.energy import energy

    ssd, use, counts = report.ssd, report.use, report.counts
    compat = "  [yellow]with restrictions of MQSim[/yellow]" if any(ssd.compat.model_dump().values()) else ""
    console.print(f"[bold]{escape(ssd.name)}[/bold]  {escape(ssd.title)}{compat}")
    console.print(f"{escape(source)}\n")
    if report.partial:
        console.print("[bold red]partial[/bold red]: interrupted; the requests that had ended\n")
    table = Table(box=None, show_header=False, pad_edge=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("requests", f"{report.requests:,}: {report.reads:,} reads, {report.writes:,} writes")
    table.add_row("time", si_time(report.time_ns))
    table.add_row("rate", f"{report.iops:,.0f} requests/s")
    split = (
        f": {report.read_mb_per_s:,.1f} read, {report.write_mb_per_s:,.1f} written" if report.writes else ""
    )
    table.add_row("bandwidth", f"{report.mb_per_s:,.1f} MB/s{split}")
    for name, op in (("read latency", READ), ("write latency", WRITE)):
        latency = report.latencies(op)
        if latency.count:
            parts = [f"mean {si_time(latency.mean)}"]
            parts += [f"{p} {si_time(latency.percentiles[p])}" for p in ("p50", "p99", "p99.9")]
            table.add_row(name, " · ".join([*parts, f"max {si_time(latency.maximum)}"]))
    c = use.counts
    flash = [f"{c['pages_read']:,} pages read", f"{c['pages_programmed'] + c['copybacks']:,} programmed"]
    flash.append(f"{c['blocks_erased']:,} blocks erased")
    extra = {"suspended": c["suspensions"], "read retries": c["read_retries"]}
    table.add_row("flash", ", ".join(flash + [f"{n:,} {name}" for name, n in extra.items() if n]))
    if report.write_amplification:
        text = f"{report.write_amplification:.3f}"
        if counts["gc_runs"]:
            moved = counts["gc_moves"] / counts["gc_runs"]
            text += f"; {counts['gc_runs']:,} blocks collected, {moved:.1f} pages moved each"
        table.add_row("write amplification", text)
    if counts["cmt_hits"] + counts["cmt_misses"]:
        share = counts["cmt_hits"] / (counts["cmt_hits"] + counts["cmt_misses"])
        table.add_row("mapping cache", f"{share:.1%} hits; {counts['mapping_reads']:,} reads of its pages")
    links = ", ".join(f"{name} {share:.1%}" for name, share in report.busy.items() if share >= 0.0005)
    table.add_row(
        "busy",
        f"channels {use.channel_share:.1%}, dies {use.unit_share:.1%}" + (f", {links}" if links else ""),
    )
    items = energy(report)
    total = sum(items.values())
    largest = sorted(items.items(), key=lambda item: -item[1])[:3]
    share_text = ", ".join(f"{name} {pj / total:.0%}" for name, pj in largest)
    table.add_row("energy", f"{si_energy(total)}: {share_text} (values: assumed)")
    console.print(table)
    console.print()
    shares = {"data": float(sum(use.channel_busy[k].mean() for k in ("data in", "data out")))}
    shares["commands"] = float(use.channel_busy["command"].mean())
    console.print(bar_rows({**shares, **use.lost}, "where the channels' time went"))
    console.print(f"\n{binding(report)}")


def binding(report: SsdReport) -> str:
    """One line that names what binds the run."""
    use = report.use
    busiest, share = max(report.busy.items(), key=lambda item: item[1])
    if share >= BUS_BOUND:
        return f"Bound by the {busiest}: busy {share:.0%} of the time."
    if use.channel_share >= BUS_BOUND or not use.lost:
        return f"Bound by the channels: busy {use.channel_share:.0%} of the time."
    cause, lost = next(iter(use.lost.items()))
    return f"Channels idle most for '{cause}' ({lost:.0%} of their time): {_WORDS[cause]}."
