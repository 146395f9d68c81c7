"""``neardata profiles``: the memory controllers there are."""

from __future__ import annotations

import json

import typer

from neardata.cli.options import Json


def list_profiles(as_json: Json = False) -> None:
    """List the controller profiles, the default first."""
    from neardata.sim.dram.config import load_profile, profile_about, profile_names

    if as_json:
        rows = [
            {"name": name, "about": profile_about(name), "controller": load_profile(name).model_dump()}
            for name in profile_names()
        ]
        typer.echo(json.dumps({"profiles": rows}, indent=2))
        return
    from rich.console import Console

    console = Console(highlight=False)
    for name in profile_names():
        settings = ", ".join(f"{key} {value}" for key, value in load_profile(name).model_dump().items())
        console.print(f"[bold]{name}[/bold]\n  {profile_about(name)}\n  {settings}\n")
    console.print("The first is the default. Change a value with --set controller.KEY=VALUE.")
