"""``neardata preprocess``: a Parquet file prepared for training, and what a unit takes for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neardata.cli.options import Json

if TYPE_CHECKING:
    from neardata.arch.preprocessor import Preprocessor
    from neardata.arch.system import System
    from neardata.cli.preprocess_folder import BatchFolder
    from neardata.workloads.graph import Graph
    from neardata.workloads.recsys import Spec

INTERRUPTED = 130
TIMED = 64
"""Mini-batches that are timed together; more are like these."""


def preprocess(
    data: Annotated[
        Path | None,
        typer.Option("--input", "-i", metavar="FILE.parquet", help="Default: a sample of 512 rows."),
    ] = None,
    spec: Annotated[str, typer.Option("--spec", "-s", help="rm1 to rm5, or FILE.yaml[:NAME].")] = "rm1",
    units: Annotated[
        list[str] | None,
        typer.Option(
            "--unit", "-u", help="smartssd, u280, cpu, gpu or FILE.yaml[:NAME]; repeat it. Default: smartssd."
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Most rows of a mini-batch, of whole row groups. Default: the spec's."),
    ] = None,
    copies: Annotated[
        str | None, typer.Option(help="Copies of an FPGA's pipelines, or 'fit': as many as it holds.")
    ] = None,
    cores: Annotated[int, typer.Option(min=1, max=1024, help="Cores of a unit of the kind cpu.")] = 1,
    stream: Annotated[
        bool, typer.Option("--stream", help="Columns go on as they come: no steps within a mini-batch.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the mini-batches (.npz), operators.csv and report.json. Those that are "
                     "there are not prepared again."),
    ] = None,
    as_json: Json = False,
) -> int:  # fmt: skip
    """Prepare mini-batches from Parquet for training, and tell what a unit takes for it and why."""
    from neardata.cli import preprocess_report
    from neardata.cli.preprocess_folder import BatchFolder
    from neardata.cli.progress import interruptible
    from neardata.preprocessing import run_batches
    from neardata.sim.system.engine import Costs
    from neardata.workloads.recsys import load_spec, mini_batches, sample_path

    chosen = load_spec(spec)
    path = sample_path() if data is None else data
    described = [_unit(name, copies, cores) for name in units or ["smartssd"]]
    parts = mini_batches(path, batch or chosen.batch)
    for unit, system in described:
        _holds(unit, system, path)
    costs = [Costs(system) for _, system in described]  # pipelines that do not fit are told before the work
    folder = None if out is None else BatchFolder(out, path, chosen, parts)
    with interruptible() as stop:
        try:
            graphs, rows = _prepare(chosen, path, parts, described[0], not stream, folder, stop.is_set)
            partial = len(rows) < len(parts)
            runs = [
                run_batches(graphs, unit, label=chosen.label, steps=not stream, costs=cost)
                for (unit, _), cost in zip(described, costs, strict=True)
                if graphs
            ]
            record = preprocess_report.as_json(chosen, path, rows, len(parts), runs, partial)
            if folder is not None:
                folder.finish(record)
        except BaseException as error:
            if folder is not None and not isinstance(error, KeyboardInterrupt):
                folder.withdraw()
            raise
    if as_json:
        typer.echo(json.dumps(record, indent=1))
    else:
        from rich.console import Console

        preprocess_report.print_report(Console(highlight=False), record, out)
    return INTERRUPTED if partial else 0


def _unit(name: str, copies: str | None, cores: int) -> tuple[Preprocessor, System]:
    """A unit and its system, with as many copies of its pipelines, or cores, as are asked for."""
    from neardata.arch.errors import InputError
    from neardata.arch.preprocessor import load_preprocessor
    from neardata.preprocessing import most_copies, replicated

    unit = load_preprocessor(name)
    if unit.kind == "cpu" and cores > 1:
        power = unit.power_w.model_copy(update={"value": unit.power_w.value * cores})
        unit = unit.model_copy(update={"in_flight": cores, "power_w": power})
    if copies is None or not unit.pipelines:
        return unit, unit.load_system()
    if copies != "fit" and not (copies.isascii() and copies.isdigit() and 1 <= int(copies) <= 1024):
        raise InputError(f"must be 'fit' or a number from 1 to 1024, got '{copies}'", key="--copies")
    n = most_copies(unit) if copies == "fit" else int(copies)
    return unit, unit.load_system(replicated(unit, dict.fromkeys(unit.pipelines.values(), n)))


def _holds(unit: Preprocessor, system: System, path: Path) -> None:
    from neardata.arch.errors import InputError

    size, there = path.stat().st_size, system.capacity_bytes(unit.storage)
    if size > there:
        raise InputError(
            f"its {size:,} bytes do not fit the storage of '{unit.name}', {there:,} bytes", file=path
        )


def _prepare(
    spec: Spec,
    path: Path,
    parts: Sequence[tuple[int, ...]],
    unit: tuple[Preprocessor, System],
    steps: bool,
    folder: BatchFolder | None,
    stopped: object,
) -> tuple[list[Graph], list[int]]:
    """Prepare the mini-batches by the tasks of a unit; the graphs of the first ones, and rows of all done."""
    from neardata.cli.progress import progress_bar
    from neardata.mappers.preprocess import lower_batches
    from neardata.mappers.preprocess_data import execute_batches
    from neardata.workloads.recsys import graph_of, read_parquet

    assert callable(stopped)
    graphs: list[Graph] = []
    rows: list[int] = []
    with progress_bar(lambda n: n / len(parts), "mini-batches") as progress:
        for i, groups in enumerate(parts):
            if stopped():
                break
            kept = folder is not None and folder.has(i)
            if not kept or len(graphs) < TIMED:
                table = read_parquet(path, spec.columns, row_groups=groups)
                graph = graph_of(spec, table)
                if len(graphs) < TIMED:
                    graphs.append(graph)
                if not kept:
                    program = lower_batches([graph], *unit, label=spec.label, steps=steps)
                    (done,) = execute_batches(program, spec, [graph], [table])
                    if folder is not None:
                        folder.keep(i, done)
                rows.append(table.rows)
            else:
                assert folder is not None
                rows.append(folder.rows(i))
            progress(i + 1)
    return graphs, rows
