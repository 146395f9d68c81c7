"""``neardata ssd``: solid-state drives."""

from __future__ import annotations

import typer

from neardata.cli import ssd_devices, ssd_run

app = typer.Typer(no_args_is_help=True, help="Solid-state drives: run requests, list drives, show one.")
app.command("run")(ssd_run.run)
app.command("list")(ssd_devices.list_drives)
app.command("show")(ssd_devices.show)
