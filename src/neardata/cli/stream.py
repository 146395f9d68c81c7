"""``neardata stream``: FPGA streaming pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neardata.cli.options import Json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

app = typer.Typer(no_args_is_help=True, help="FPGA streaming pipelines: list them, run items through one.")


@app.command("list")
def list_all(as_json: Json = False) -> None:
    """List the pipelines and FPGAs that ship with the package."""
    from neardata.arch.stream import fpga_names, load_fpga, load_pipeline, pipeline_names
    from neardata.arch.stream.pipeline import RESOURCES

    pipelines = [load_pipeline(name) for name in pipeline_names()]
    fpgas = [load_fpga(name) for name in fpga_names()]
    if as_json:
        rows = {
            "pipelines": [p.model_dump(mode="json", exclude_none=True) for p in pipelines],
            "fpgas": [f.model_dump(mode="json", exclude_none=True) for f in fpgas],
        }
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, header_style="bold", pad_edge=False, expand=True)
    for column in ("pipeline", "for"):
        table.add_column(column, no_wrap=True)
    table.add_column("what it is", no_wrap=True, overflow="ellipsis", ratio=1)
    for p in pipelines:
        table.add_row(p.name, p.device or "", p.title)
    console.print(table)
    table = Table(box=None, header_style="bold", pad_edge=False, expand=True)
    table.add_column("FPGA", no_wrap=True)
    for resource in RESOURCES:
        table.add_column(resource.upper(), justify="right", no_wrap=True)
    table.add_column("what it is", no_wrap=True, overflow="ellipsis", ratio=1)
    for f in fpgas:
        budgets = [f.budget(resource) for resource in RESOURCES]
        table.add_row(f.name, *("-" if b is None else f"{b.value:,.0f}" for b in budgets), f.title)
    console.print()
    console.print(table)


@app.command("run")
def run(
    pipeline: Annotated[str, typer.Argument(help="A name of 'neardata stream list' or FILE.yaml[:NAME].")],
    items: Annotated[
        int | None, typer.Option("--items", "-n", min=1, help="Items to run. Default: those of --properties.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", "-d", help="FPGA to fit; default: the one the pipeline names.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value: stages.log.timing.lanes=4."),
    ] = None,
    properties: Annotated[
        Path | None,
        typer.Option(help="CSV with a column per property, a row per item.", metavar="FILE.csv"),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Items arrive by a Poisson process, items/s. Default: all are there.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the arrivals.")] = 1,
    fidelity: Annotated[
        str, typer.Option(help="Memory ports: analytic (rate and latency) or cycle (the DRAM engine).")
    ] = "analytic",
    jump: Annotated[bool, typer.Option("--jump/--no-jump", help="Skip periods that recur.")] = True,
    out: Annotated[
        Path | None, typer.Option(help="Folder for report.json, stages.csv and fifos.csv.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run items through a pipeline: cycles, throughput, what each stage did, FIFOs, resources."""
    from neardata.arch.errors import InputError
    from neardata.arch.stream import load_fpga, load_pipeline
    from neardata.cli import stream_report

    p = load_pipeline(pipeline, _overrides(settings or []))
    values = {} if properties is None else _properties(properties)
    if items is None:
        if not values:
            raise InputError("give --items, the number of items to run")
        items = len(next(iter(values.values())))
    fpga_name = device or p.device
    fpga = None if fpga_name is None else load_fpga(fpga_name)
    if out is not None:
        stream_report.check_folder(out)
    arrivals = None if rate is None else _arrivals(items, rate, seed)

    from neardata.sim.stream import run_stream

    report = run_stream(
        p, items, properties=values, arrivals_ps=arrivals, latencies=rate is not None, fpga=fpga,
        fidelity=fidelity, jump=jump,
    )  # fmt: skip
    if out is not None:
        stream_report.write(report, out)
    if as_json:
        typer.echo(json.dumps(stream_report.as_json(report), indent=2))
        return
    from rich.console import Console

    stream_report.print_report(Console(highlight=False), report)


def _overrides(settings: list[str]) -> dict[str, Any]:
    import yaml

    from neardata.arch.errors import InputError

    given: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = (part.strip() for part in setting.partition("="))
        if not equals or not key or not value:
            raise InputError(f"--set {setting}: expected key=value, such as stages.log.timing.lanes=4")
        if key in given:
            raise InputError("set twice", key=key)
        try:
            given[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"cannot be read: '{value}'", key=key) from None
    return given


def _properties(path: Path) -> dict[str, list[int]]:
    """Columns of a CSV file of whole numbers.

    Raises:
        InputError: unreadable, no header, a row of another length, no whole number.
    """
    import csv

    from neardata.arch.errors import InputError

    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.reader(stream))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"cannot be read: {reason}", file=path) from None
    if len(rows) < 2 or not all(rows[0]):
        raise InputError("needs a line of property names and a line per item", file=path)
    columns: dict[str, list[int]] = {name.strip(): [] for name in rows[0]}
    if len(columns) != len(rows[0]):
        raise InputError("names a property twice", file=path, line=1)
    for line, row in enumerate(rows[1:], 2):
        if len(row) != len(columns):
            raise InputError(f"has {len(row)} columns, not {len(columns)}", file=path, line=line)
        for name, text in zip(columns, row, strict=True):
            if not text.strip().isascii() or not text.strip().isdigit():
                raise InputError(f"must be a whole number, got '{text}'", file=path, line=line, key=name)
            columns[name].append(int(text))
    return columns


def _arrivals(items: int, rate: float, seed: int) -> NDArray[np.int64]:
    """Of a Poisson process, in ps; the first item arrives at 0."""
    import numpy as np

    from neardata.arch.errors import InputError

    if not 0 < rate <= 1e12:
        raise InputError(f"must be above 0 and at most 1e12 items/s, got {rate:g}", key="--rate")
    gaps = np.random.default_rng(seed).exponential(1e12 / rate, items - 1)
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    if times[-1] > 1 << 58:
        raise InputError("the last item would arrive after more than 3 days; raise --rate")
    return np.rint(times).astype(np.int64)
