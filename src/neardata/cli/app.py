"""The ``neardata`` command: its groups, and how it fails.

Modules of commands import what they run inside the functions, so that ``--help`` is quick.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from neardata.cli import compare, devices, doctor, dram, explain, pim, preprocess, profiles, reproduce, ssd
from neardata.cli import run as run_command
from neardata.cli import search as search_command
from neardata.cli import serve as serve_command
from neardata.cli import stream as stream_command

BAD_INPUT, INTERRUPTED = 2, 130

app = typer.Typer(
    name="neardata",
    help="Cycle-level simulator of near-data accelerators.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run_command.run)
app.command("serve")(serve_command.serve)
app.command("explain")(explain.explain)
app.command("search")(search_command.search)
app.command("compare")(compare.compare)
app.command("reproduce")(reproduce.reproduce)
app.command("preprocess")(preprocess.preprocess)
app.command("devices")(devices.list_devices)
app.command("show")(devices.show)
app.command("profiles")(profiles.list_profiles)
app.add_typer(dram.app, name="dram")
app.add_typer(pim.app, name="pim")
app.add_typer(ssd.app, name="ssd")
app.add_typer(stream_command.app, name="stream")
app.command("doctor")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        import neardata

        typer.echo(f"neardata {neardata.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def run(arguments: Sequence[str]) -> int:
    """Run a command line.

    Returns:
        The exit code: 0, 1 (a check found something), 2 (bad input, told in one line on stderr)
        or 130 (interrupted).
    """
    from neardata.arch.errors import InputError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # bars and units on a terminal that has no Unicode
            stream.reconfigure(errors="replace")
    # Click's, wherever this version of Typer keeps it
    usage_error: type[Exception] = typer.BadParameter.__mro__[1]
    try:
        code = typer.main.get_command(app).main(list(arguments), prog_name="neardata", standalone_mode=False)
    except InputError as error:
        return _fail(str(error))
    except usage_error as error:
        return _misused(error)
    except RuntimeError as error:
        if "no locator available" not in str(error):  # what Numba says when it may write nowhere
            raise
        return _fail("no folder to keep compiled kernels in; set NUMBA_CACHE_DIR to one that is writable")
    except (typer.Abort, KeyboardInterrupt):
        print("neardata: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # the reader of a pipe went away; keep the interpreter from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


def _misused(error: Any) -> int:
    """Tell a wrong option or command."""
    if type(error).__name__ == "NoArgsIsHelpError":  # Typer has printed the help, Click has not
        print(error.message, end="", file=sys.stderr)
        return BAD_INPUT
    context = error.ctx
    hint = "" if context is None else f" ('{context.command_path} --help' tells what there is)"
    return _fail(error.format_message().rstrip(".") + hint)


def _fail(message: str) -> int:
    print("neardata: " + " ".join(message.split()), file=sys.stderr)
    return BAD_INPUT
