"""``neardata dram``: memory requests and command traces."""

from __future__ import annotations

import typer

from neardata.cli import dram_check, dram_curve, dram_run

app = typer.Typer(no_args_is_help=True, help="DRAM: replay requests, check command traces, measure curves.")
app.command("run")(dram_run.run)
app.command("check")(dram_check.check)
app.command("curve")(dram_curve.curve)
