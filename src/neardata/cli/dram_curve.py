"""``neardata dram curve``: read latency over offered load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neardata.cli.options import Channels, DeviceName, Json, Mapping, Profile, Seed, Settings

if TYPE_CHECKING:
    from neardata.arch.dram import Device
    from neardata.plots import LoadPoint
    from neardata.sim.dram.config import ControllerConfig

ACHIEVED = 0.95
"""A load of which less is achieved saturates the memory."""
INTERRUPTED = 130


def curve(
    device: DeviceName = "ddr4-2400r",
    patterns: Annotated[
        list[str] | None,
        typer.Option("--pattern", "-p", help="Requests, a curve each. Default: stream, random."),
    ] = None,
    count: Annotated[int, typer.Option("-n", min=100, max=10**8, help="Requests at each load.")] = 50_000,
    points: Annotated[int, typer.Option(min=2, max=1000, help="Loads, up to the peak bandwidth.")] = 20,
    seed: Seed = None,
    profile: Profile = None,
    mapping: Mapping = None,
    channels: Channels = 1,
    settings: Settings = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves: PNG, SVG or PDF.")] = None,
    why_plot: Annotated[Path | None, typer.Option(help="Draw where the cycles went at each load.")] = None,
    as_json: Json = False,
) -> int:
    """Measure read latency over offered load, requests arriving at random (Poisson) times.

    A curve ends when the memory saturates: it then achieves less than is offered.
    """
    from neardata import plots
    from neardata.arch.dram import load_device
    from neardata.cli.output import check_apart, check_writable, whole_file
    from neardata.cli.overrides import parse_overrides
    from neardata.cli.progress import interruptible, progress_bar
    from neardata.cli.requests import check_run
    from neardata.sim.dram.config import load_profile, profile_names

    for path in (plot, why_plot):
        if path is not None:
            check_writable(path)
            plots.check(path)
    check_apart([path for path in (plot, why_plot) if path is not None], [Path(device)])
    overrides = parse_overrides(settings or [], mapping=mapping)
    config = load_profile(profile_names()[0] if profile is None else profile, overrides.controller)
    d = load_device(device, overrides.device, corrected=config.device_table == "corrected")
    check_run(d, config, channels, generated=True)
    names = list(dict.fromkeys(patterns or ["stream", "random"]))

    curves: dict[str, list[LoadPoint]] = {name: [] for name in names}
    bars: list[tuple[str, dict[str, float]]] = []
    with (
        interruptible() as stop,
        progress_bar(lambda done: done / (len(names) * points), "loads") as progress,
    ):
        for i, name in enumerate(names):
            for j in range(points):
                if stop.is_set():
                    break
                load = (j + 1) / points
                point, shares = _measure(
                    d, config, name, count, 1 if seed is None else seed, channels, load, why_plot is not None
                )
                curves[name].append(point)
                bars.append((f"{name}, {load:.0%} of peak", shares))
                progress(i * points + j + 1)
                if point.saturated:
                    break
    title = f"{d.name}, {channels} channel{'s' if channels > 1 else ''}"
    peak = d.peak_gb_per_s * channels
    if plot is not None:
        with whole_file(plot) as temporary:
            plots.latency_throughput(curves, peak, temporary, f"{title}: read latency over bandwidth")
    if why_plot is not None:
        with whole_file(why_plot) as temporary:
            plots.where_the_cycles_went(bars, temporary, f"{title}: where the data bus's cycles went")
    partial = stop.is_set()
    if as_json:
        rows = {name: [vars(p) for p in listed] for name, listed in curves.items()}
        typer.echo(
            json.dumps(
                {"device": d.name, "peak_gb_per_s": peak, "partial": partial, "curves": rows}, indent=2
            )
        )
    else:
        _print(title, peak, curves, partial)
    return INTERRUPTED if partial else 0


def _measure(
    device: Device,
    config: ControllerConfig,
    pattern: str,
    n: int,
    seed: int,
    channels: int,
    load: float,
    why: bool,
) -> tuple[LoadPoint, dict[str, float]]:
    import numpy as np

    from neardata.cli.request_report import shares
    from neardata.cli.requests import from_pattern
    from neardata.plots import LoadPoint
    from neardata.sim.dram.request import simulate
    from neardata.sim.dram.trace import RequestChunk

    peak = device.peak_gb_per_s * channels
    gap_ticks = device.burst_bytes / (load * peak) * 1e3 / device.tick_ps
    gaps = np.random.Generator(np.random.PCG64([seed, 1])).exponential(gap_ticks, n)
    arrival = np.floor(np.cumsum(gaps)).astype(np.int64)
    chunks, at = [], 0
    for chunk in from_pattern(device, pattern, n, seed).chunks:
        chunks.append(RequestChunk(chunk.address, chunk.is_write, arrival[at : at + len(chunk)]))
        at += len(chunk)
    report = simulate(device, chunks, config, channels=channels, record_requests=True, explain=why)
    assert report.per_request is not None
    is_read = ~np.concatenate([chunk.is_write for chunk in chunks])
    latency = (report.per_request.depart - arrival)[is_read] * device.tick_ps / 1e3
    offered = n * device.burst_bytes / (arrival[-1] * device.tick_ps / 1e3)
    point = LoadPoint(
        offered_gb_per_s=float(offered),
        achieved_gb_per_s=report.bandwidth_gb_per_s,
        mean_ns=float(latency.mean()),
        p99_ns=float(np.percentile(latency, 99)),
        saturated=bool(report.bandwidth_gb_per_s < ACHIEVED * offered),
    )
    return point, shares(report) if why else {}


def _print(title: str, peak: float, curves: dict[str, list[LoadPoint]], partial: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"[bold]{title}[/bold]  peak {peak:.2f} GB/s")
    if partial:
        console.print("[bold red]partial[/bold red]: interrupted")
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("pattern")
    for name in ("offered GB/s", "achieved GB/s", "mean ns", "p99 ns"):
        table.add_column(name, justify="right")
    table.add_column("")
    for pattern, points in curves.items():
        for p in points:
            table.add_row(
                pattern, f"{p.offered_gb_per_s:.2f}", f"{p.achieved_gb_per_s:.2f}",
                f"{p.mean_ns:.1f}", f"{p.p99_ns:.1f}", "saturated" if p.saturated else "",
            )  # fmt: skip
    console.print(table)
