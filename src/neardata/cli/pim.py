"""``neardata pim``: PIM command programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neardata.cli.options import Json, Settings

if TYPE_CHECKING:
    from neardata.sim.dram.energy import EnergyReport
    from neardata.sim.dram.pim import ChannelReport, ProgramReport

app = typer.Typer(no_args_is_help=True, help="PIM: run command programs.")

INTERRUPTED = 130


@app.callback()
def _group() -> None:
    """Keep ``run`` a command of its own."""


@app.command("run")
def run(
    program: Annotated[
        Path,
        typer.Option(
            "--program", "-p", help="Program: YAML or JSON (docs/programs.md), or an AiM instruction .trace."
        ),
    ],
    device: Annotated[
        str | None, typer.Option("--device", "-d", help="Run on this device, not the one the program names.")
    ] = None,
    refresh: Annotated[
        str | None, typer.Option(help="none, all-bank, declared or close-reopen, not what the program says.")
    ] = None,
    settings: Settings = None,
    jump: Annotated[bool, typer.Option("--jump/--no-jump", help="Skip periods that recur.")] = True,
    fold: Annotated[bool, typer.Option("--fold/--no-fold", help="Simulate one of equal channels.")] = True,
    commands: Annotated[
        Path | None, typer.Option(help="Write every command of one channel per group: CSV.")
    ] = None,
    timeline: Annotated[Path | None, typer.Option(help="Write a timeline for ui.perfetto.dev: JSON.")] = None,
    as_json: Json = False,
) -> int:
    """Run a PIM command program: cycles by phase, commands, bytes, energy, and what was waited for."""
    from neardata.arch.dram import load_device
    from neardata.arch.errors import InputError, nearest
    from neardata.cli.output import check_apart, check_writable, text_file
    from neardata.cli.overrides import parse_overrides
    from neardata.sim.dram.aim import read_isr_trace
    from neardata.sim.dram.pim import run_program
    from neardata.sim.dram.program import REFRESH_POLICIES, Program
    from neardata.sim.timeline import write_timeline

    outputs = [path for path in (commands, timeline) if path is not None]
    for path in outputs:
        check_writable(path)
    check_apart(outputs, [program, None if device is None else Path(device)])
    policy = next((p for p in REFRESH_POLICIES if p == refresh), None)
    if refresh is not None and policy is None:
        raise InputError(f"unknown refresh policy '{refresh}'{nearest(refresh, REFRESH_POLICIES)}")
    overrides = parse_overrides(settings or [])
    if overrides.controller:
        key = next(iter(overrides.controller))
        raise InputError("a program has no controller", key=f"controller.{key}")
    isr = program.suffix == ".trace"
    p = read_isr_trace(program, device or "gddr6-aim") if isr else Program.read(program)
    d = None
    if device is not None or overrides.device:
        d = load_device(device or p.device, {**p.overrides, **overrides.device})
    try:
        report = run_program(
            p, jump=jump, fold=fold, refresh=policy, device=d,
            record_commands=(commands or timeline) is not None,
        )  # fmt: skip
    except InputError as error:
        if not isr or error.file is not None:
            raise
        raise InputError(error.message, file=program, key=error.key) from None  # in the program made of it
    logs = [group.command_log for group in report.groups if group.command_log is not None]
    if commands is not None:
        with text_file(commands) as stream:
            for channel, log in enumerate(logs):
                log.write_csv(stream, channel, header=channel == 0)
    if timeline is not None:
        with text_file(timeline) as stream:
            write_timeline(stream, logs)
    if as_json:
        typer.echo(json.dumps(_as_json(report, program), indent=2))
    else:
        _print(report, program)
    return INTERRUPTED if report.partial else 0


def _energy(report: ProgramReport) -> EnergyReport | None:
    from neardata.sim.dram.energy import energy

    open_cycles = sum(group.open_cycles * group.channels for group in report.groups)
    return energy(report.device, report.command_counts, open_cycles, report.cycles, report.channels)


def _as_json(report: ProgramReport, program: Path) -> dict[str, Any]:
    from neardata.cli.energy_report import energy_json

    energy = _energy(report)
    return {
        "program": str(program),
        "device": report.device.name,
        "channels": report.channels,
        "refresh": report.refresh,
        "partial": report.partial,
        "cycles": report.cycles,
        "tick_ps": report.device.tick_ps,
        "time_ns": report.time_ns,
        "commands": report.commands,
        "command_counts": report.command_counts,
        "refreshes": report.refreshes,
        "phase_cycles": dict(report.phase_cycles),
        "busy_cycles": report.slowest.busy_cycles,
        "lost_cycles": dict(report.lost_cycles),
        "internal_bytes": report.internal_bytes,
        "external_bytes": report.external_bytes,
        "internal_gb_per_s": report.internal_gb_per_s,
        "energy_pj": None if energy is None else energy.total_pj,
        "energy": energy_json(energy),
        "jumped_periods": report.jumped_periods,
        "groups": [_group_json(group) for group in report.groups],
    }


def _group_json(group: ChannelReport) -> dict[str, Any]:
    host = None
    if group.host is not None:
        latency = group.host.latency_cycles
        host = {
            "requests": group.host.requests,
            "reads": group.host.reads,
            "writes": group.host.writes,
            "avg_latency_cycles": float(latency.mean()) if len(latency) else None,
            "max_latency_cycles": int(latency.max()) if len(latency) else None,
        }
    return {"name": group.name, "channels": group.channels, "cycles": group.cycles, "host": host}


def _print(report: ProgramReport, program: Path) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from neardata.cli.bars import bar_rows
    from neardata.cli.energy_report import energy_text
    from neardata.cli.quantities import si_time

    console = Console(highlight=False)
    channels = f"{report.channels} channel{'s' if report.channels > 1 else ''}"
    console.print(f"[bold]{escape(report.device.name)}[/bold]  {channels}, refresh {report.refresh}")
    console.print(f"program {escape(str(program))}\n")
    if report.partial:
        console.print("[bold red]partial[/bold red]: interrupted; what was simulated until then\n")
    table = Table(box=None, show_header=False, pad_edge=True)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    counts = sorted(report.command_counts.items(), key=lambda item: -item[1])
    table.add_row("cycles", f"{report.cycles:,}")
    table.add_row("time", f"{si_time(report.time_ns)} at {report.device.tick_ps:g} ps a cycle")
    table.add_row("commands", f"{report.commands:,}: " + ", ".join(f"{name} {n:,}" for name, n in counts))
    table.add_row("in the banks", f"{report.internal_bytes:,} bytes, {report.internal_gb_per_s:.1f} GB/s")
    table.add_row("over the data bus", f"{report.external_bytes:,} bytes")
    bits = 8 * (report.internal_bytes + report.external_bytes)
    table.add_row("energy", energy_text(report.device, _energy(report), bits))
    for name, cycles in report.phase_cycles.items():
        table.add_row(f"phase {name}" if name else "outside phases", f"{cycles:,} cycles")
    for group in report.groups:
        if group.host is not None and group.host.requests:
            mean = float(group.host.latency_cycles.mean())
            table.add_row("host", f"{group.host.requests:,} requests, {mean:.1f} cycles each on average")
    if report.jumped_periods:
        table.add_row("skipped over", f"{report.jumped_periods:,} periods that recur exactly")
    console.print(table)
    console.print()
    total = report.slowest.busy_cycles + sum(report.lost_cycles.values())
    parts = {"command bus busy": report.slowest.busy_cycles, **report.lost_cycles}
    console.print(
        bar_rows(
            {name: n / total for name, n in parts.items()} if total else {},
            "what the next command waited for",
        )
    )
