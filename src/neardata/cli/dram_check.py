"""``neardata dram check``: judge a command trace by a device's rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from neardata.cli.options import DeviceName, Json, Settings

SHOWN = 20
VIOLATED = 1


def check(
    device: DeviceName,
    commands: Annotated[
        Path, typer.Option("--commands", "-c", help="Command trace (CSV), as 'dram run' writes it.")
    ],
    settings: Settings = None,
    refresh: Annotated[
        bool,
        typer.Option("--refresh/--no-refresh", help="Demand that banks are refreshed in time."),
    ] = True,
    as_json: Json = False,
) -> int:
    """Check a command trace against every rule of a device. Exit code 1: it breaks some."""
    from neardata.arch.dram import load_device
    from neardata.cli.overrides import parse_overrides
    from neardata.sim.dram.checker import check as violations_of
    from neardata.sim.dram.command_log import read_channels

    d = load_device(device, parse_overrides(settings or []).device)
    logs = read_channels(d, commands)
    found = {channel: violations_of(log, refresh_interval_check=refresh) for channel, log in logs.items()}
    violations = [(channel, violation) for channel, listed in found.items() for violation in listed]
    total = sum(map(len, logs.values()))
    if as_json:
        rows = [{"channel": channel, **vars(violation)} for channel, violation in violations]
        typer.echo(json.dumps({"device": d.name, "commands": total, "violations": rows}, indent=2))
    else:
        for channel, violation in violations[:SHOWN]:
            typer.echo(f"channel {channel}, {violation}")
        if len(violations) > SHOWN:
            typer.echo(f"... and {len(violations) - SHOWN} more")
        verdict = f"{len(violations)} violations" if violations else "no rule broken"
        typer.echo(f"{total:,} commands, {len(logs)} channel{'s' * (len(logs) != 1)}, {d.name}: {verdict}")
    return VIOLATED if violations else 0
