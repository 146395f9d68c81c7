"""``neardata run``: a model's step on systems, compared."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neardata.cli.options import Json

if TYPE_CHECKING:
    from neardata.study import Point, Study

INTERRUPTED = 130


def run(
    what: Annotated[
        str,
        typer.Argument(metavar="STUDY", help="A study (.yaml), a model's config.json, or a model's name."),
    ],
    systems: Annotated[
        list[str] | None,
        typer.Option(
            "--system",
            "-s",
            help="A system of the study or, with a model, NAME or FILE.yaml. Repeat it for more.",
        ),
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option("--batch", "-b", min=1, help="Sequences. Repeat it.")
    ] = None,
    context: Annotated[int | None, typer.Option(min=1, help="Tokens of each sequence.")] = None,
    phase: Annotated[str | None, typer.Option(help="decode, prefill or verify.")] = None,
    new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Of each sequence: a chunk of prefill; drafted tokens + 1 to verify."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Format of the weights, such as bf16 or int4/g32.")
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Only the first so many layers.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for tables, timelines and figures. Points found there are not run again."),
    ] = None,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw figures into --out.")] = True,
    as_json: Json = False,
) -> int:
    """Run a language model's step on near-data systems: time, energy, and where they went."""
    from neardata.cli.progress import interruptible
    from neardata.programs import read_program

    saved = read_program(what)
    if saved is not None:
        from neardata.cli.run_report import print_program
        from neardata.results import program_record
        from neardata.sim.system.engine import run as run_program

        report = run_program(*saved)
        if as_json:
            typer.echo(json.dumps(program_record(report), indent=1))
        else:
            print_program(report)
        return 0
    study = study_of(what, systems, batch, context, phase, weights, layers, new_tokens)
    if out is not None:
        _folder(out)
    done: list[dict[str, Any]] = []
    fresh: list[Point] = []
    with interruptible() as stop:
        partial = _work(study, out, done, fresh, stop.is_set)
    if out is not None:
        _write(out, study, done, fresh, plots=plots)
    if as_json:
        typer.echo(json.dumps({"title": study.title, "partial": partial, "points": done}, indent=1))
    else:
        from neardata.cli.run_report import print_study

        print_study(study, done, partial=partial, out=out)
    return INTERRUPTED if partial else 0


def study_of(
    what: str,
    systems: Sequence[str] | None,
    batch: Sequence[int] | None,
    context: int | None,
    phase: str | None,
    weights: str | None,
    layers: int | None,
    new_tokens: int | None = None,
) -> Study:
    from pydantic import ValidationError

    from neardata.arch.config_file import first_problem
    from neardata.arch.errors import InputError, nearest
    from neardata.study import Study, default_systems, find_study, load_study

    path = find_study(what)
    changes: dict[str, Any] = {
        "context": context, "phase": phase, "weights": weights, "layers": layers,
        "batch": tuple(batch) if batch else None, "new_tokens": new_tokens,
    }  # fmt: skip
    given = {key: value for key, value in changes.items() if value is not None}
    if path is not None:
        study = load_study(path)
        data = {**study.model_dump(), **given}
        for label in systems or ():
            if label not in study.systems:
                raise InputError(
                    f"no system of the study is '{label}'{nearest(label, study.systems)}", key="--system"
                )
        if systems:
            data["systems"] = {label: data["systems"][label] for label in systems}
            if study.baseline not in systems:
                data["baseline"] = None
    else:
        data = {"title": f"{Path(what).stem if what.endswith('.json') else what}", "model": what, **given}
        data["systems"] = default_systems(systems or ["a100", "aim"])
    try:
        return Study.model_validate(data)
    except ValidationError as error:
        keys, message = first_problem(Study, error)
        raise InputError(message, key="--" + ".".join(map(str, keys))) from None


def _folder(out: Path) -> None:
    from neardata.arch.errors import InputError

    if out.exists() and not out.is_dir():
        raise InputError("is a file; --out takes a folder", file=out)
    try:
        (out / "points").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror}", file=out) from None


def _work(
    study: Study, out: Path | None, done: list[dict[str, Any]], fresh: list[Point], stopped: Any
) -> bool:
    """Run what is not there yet; True if interrupted."""
    import neardata
    from neardata.cli.output import text_file
    from neardata.cli.progress import progress_bar
    from neardata.results import record
    from neardata.study import fingerprint, points

    def file_of(label: str, batch: int) -> Path | None:
        if out is None:
            return None
        return (
            out / "points" / f"{fingerprint(study, study.systems[label], batch, neardata.__version__)}.json"
        )

    total = len(study.systems) * len(study.batch)
    known: dict[tuple[str, int], dict[str, Any]] = {}
    for label in study.systems:
        for batch in study.batch:
            path = file_of(label, batch)
            if path is not None and path.is_file():
                known[label, batch] = {**json.loads(path.read_text(encoding="utf-8")), "label": label}
    with progress_bar(lambda n: n / total, "points") as progress:
        runner = points(study, skip=lambda label, batch: (label, batch) in known)
        for i, (label, batch) in enumerate((s, b) for s in study.systems for b in study.batch):
            if stopped():
                return True
            if (label, batch) in known:
                done.append(known[label, batch])
            else:
                point = next(runner)
                fresh.append(point)
                done.append(record(point, study))
                path = file_of(label, batch)
                if path is not None:
                    with text_file(path) as stream:
                        json.dump(done[-1], stream, indent=1)
            progress(i + 1)
    return False


def _write(out: Path, study: Study, done: list[dict[str, Any]], fresh: list[Point], *, plots: bool) -> None:
    """Tables, timelines and figures."""
    from importlib.util import find_spec

    from neardata.cli.output import text_file
    from neardata.results import CSV_COLUMNS
    from neardata.sim.system.timeline import write_system_timeline

    with text_file(out / "results.json") as stream:
        json.dump({"title": study.title, "points": done}, stream, indent=1)
    with text_file(out / "results.csv") as stream:
        table = csv.DictWriter(stream, CSV_COLUMNS, extrasaction="ignore")
        table.writeheader()
        table.writerows(done)
    for point in fresh:
        name = (
            "".join(c if c.isalnum() else "-" for c in f"{point.label} batch {point.batch}")
            .strip("-")
            .lower()
        )
        with text_file(out / f"timeline-{name}.json") as stream:
            write_system_timeline(stream, point.report)
    if plots and find_spec("matplotlib") is not None:
        from neardata.run_figures import draw

        draw(out, study.title, done, fresh)
