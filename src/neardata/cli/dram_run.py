"""``neardata dram run``: replay memory requests."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neardata.cli.options import (
    Channels,
    Count,
    DeviceName,
    Json,
    Mapping,
    Pattern,
    Profile,
    Seed,
    Settings,
    Threads,
)

if TYPE_CHECKING:
    from neardata.sim.dram.request import RequestReport

DEVICE = "ddr4-2400r"
INTERRUPTED = 130


def run(
    device: DeviceName = DEVICE,
    trace: Annotated[Path | None, typer.Option("--trace", "-t", help="Trace file (docs/traces.md).")] = None,
    pattern: Pattern = None,
    count: Count = None,
    seed: Seed = None,
    profile: Profile = None,
    mapping: Mapping = None,
    channels: Channels = 1,
    threads: Threads = None,
    settings: Settings = None,
    commands: Annotated[Path | None, typer.Option(help="Write every command: CSV.")] = None,
    requests: Annotated[Path | None, typer.Option(help="Write every request's times: CSV or .npz.")] = None,
    timeline: Annotated[Path | None, typer.Option(help="Write a timeline for ui.perfetto.dev: JSON.")] = None,
    timeline_window: Annotated[
        str | None,
        typer.Option(metavar="START:END", help="Cycles the timeline shows (default: from the first)."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw where the cycles went: PNG, SVG or PDF.")] = None,
    why: Annotated[bool, typer.Option("--why/--no-why", help="Find where the cycles went.")] = True,
    as_json: Json = False,
) -> int:
    """Replay memory requests: cycles, bandwidth, latency, energy, and where the cycles went.

    Without --trace the requests of a pattern are generated.
    """
    from neardata.arch.dram import load_device
    from neardata.arch.dram.mapping import load_mapping
    from neardata.arch.errors import InputError
    from neardata.cli import request_files
    from neardata.cli import requests as sources
    from neardata.cli.overrides import parse_overrides
    from neardata.cli.progress import interruptible, progress_bar
    from neardata.sim.dram.config import load_profile, profile_names

    generated = {"--pattern": pattern, "-n": count, "--seed": seed}
    clash = [name for name, value in generated.items() if value is not None]
    if trace is not None and clash:
        raise InputError(f"--trace and {clash[0]} exclude each other")
    if plot is not None and not why:
        raise InputError("--plot and --no-why exclude each other")
    window = request_files.parse_window(timeline_window, timeline)
    request_files.check_outputs(commands, requests, timeline, plot, inputs=[trace, Path(device)])

    overrides = parse_overrides(settings or [], mapping=mapping)
    profile = profile_names()[0] if profile is None else profile
    config = load_profile(profile, overrides.controller)
    d = load_device(device, overrides.device, corrected=config.device_table == "corrected")
    capacity = load_mapping(d, config.mapping, channels).capacity_bytes
    sources.check_run(d, config, channels, generated=trace is None)
    if trace is not None:
        source = sources.from_trace(trace, capacity)
    else:
        source = sources.from_pattern(
            d, sources.PATTERN if pattern is None else pattern, count or sources.REQUESTS,
            sources.SEED if seed is None else seed,
        )  # fmt: skip

    from neardata.sim.dram.request import simulate

    with interruptible() as stop, progress_bar(source.fraction) as progress:
        report = simulate(
            d, source.chunks, config, channels=channels, threads=threads, explain=why,
            record_requests=requests is not None, record_commands=(commands or timeline) is not None,
            stop=stop, progress=progress,
        )  # fmt: skip
    notes = request_files.write(report, commands, requests, timeline, window, plot)
    _print(report, profile, source.text, as_json)
    for note in notes:
        print(f"neardata: {note}", file=sys.stderr)
    return INTERRUPTED if report.partial else 0


def _print(report: RequestReport, profile: str, source: str, as_json: bool) -> None:
    from neardata.cli import request_report
    from neardata.sim.dram.energy import energy as energy_of

    d = report.device
    energy = energy_of(d, report.command_counts, report.open_cycles, report.cycles_to_drain, report.channels)
    if as_json:
        typer.echo(
            json.dumps(request_report.as_json(report, energy, profile=profile, source=source), indent=2)
        )
        return
    from rich.console import Console

    request_report.print_report(Console(highlight=False), report, energy, profile=profile, source=source)
