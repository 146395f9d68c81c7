"""``neardata run``: a model's step on systems, compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neardata.cli.options import Json

if TYPE_CHECKING:
    from neardata.cli.results_folder import ResultsFolder
    from neardata.study import Study

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
    from neardata.arch.errors import InputError
    from neardata.claims import is_paper_study
    from neardata.cli.progress import interruptible
    from neardata.cli.results_folder import ResultsFolder
    from neardata.programs import read_program, told_in_program
    from neardata.study import find_study, placed_in

    saved, path = read_program(what), find_study(what)
    paper = path is not None and is_paper_study(path)
    if saved is not None or paper:
        options = {
            "--system": systems, "--batch": batch, "--context": context, "--phase": phase,
            "--weights": weights, "--layers": layers, "--new-tokens": new_tokens,
            "--out": None if paper else out,
        }  # fmt: skip
        kind = "a study of a paper" if paper else "a saved program"
        for name, value in options.items():
            if value:
                raise InputError(f"{kind} is run as it is", key=name)
    if paper and path is not None:
        from neardata.cli.paper import run_paper

        return run_paper(path, out, plots=plots, as_json=as_json)
    if saved is not None:
        from neardata.cli.run_report import print_program
        from neardata.results import program_record
        from neardata.sim.system.engine import run as run_program

        with told_in_program(Path(what), saved[0]):
            report = run_program(*saved)
        if as_json:
            typer.echo(json.dumps(program_record(report), indent=1))
        else:
            print_program(report)
        return 0
    study = study_of(what, systems, batch, context, phase, weights, layers, new_tokens)
    folder = None if out is None else ResultsFolder(out)
    found: dict[tuple[str, int], dict[str, Any]] = {}
    with interruptible() as stop:
        try:
            with placed_in(path):
                partial = _work(study, folder, found, stop.is_set)
        except InputError:
            if folder is not None:
                folder.withdraw()
            raise
    done = [found[p] for p in ((s, b) for s in study.systems for b in study.batch) if p in found]
    if folder is not None:
        folder.finish(study, done, partial=partial, plots=plots)
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

    from neardata.arch.config_file import ConfigFile, first_problem
    from neardata.arch.errors import InputError, nearest
    from neardata.study import Study, default_systems, find_study, load_study

    path = find_study(what)
    changes: dict[str, Any] = {
        "context": context, "phase": phase, "weights": weights, "layers": layers,
        "batch": tuple(batch) if batch else None, "new_tokens": new_tokens,
    }  # fmt: skip
    given = {key: value for key, value in changes.items() if value is not None}
    if path is not None:
        keys = ConfigFile(path).data
        if isinstance(keys, dict) and "requests" in keys and not {"systems", "tasks"} & set(keys):
            raise InputError(f"is a study of requests: neardata serve {what}", file=path)
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
        keys, message = first_problem(Study, error, data)
        raise InputError(message, key="--" + ".".join(map(str, keys))) from None


def _work(
    study: Study, folder: ResultsFolder | None, done: dict[tuple[str, int], dict[str, Any]], stopped: Any
) -> bool:
    """Fill ``done`` with what is known and what is run now; True if interrupted.

    The largest batches are run first: a model that does not fit ends the study early.
    """
    from neardata.cli.progress import progress_bar
    from neardata.results import record
    from neardata.study import run_point

    wanted = [(label, batch) for label in study.systems for batch in study.batch]
    if folder is not None:
        for point in wanted:
            known = folder.known(study, *point)
            if known is not None:
                done[point] = known
    left = sorted((point for point in wanted if point not in done), key=lambda point: -point[1])
    with progress_bar(lambda n: n / len(wanted), "points") as progress:
        for label, batch in left:
            if stopped():
                return True
            progress(len(done))
            result = run_point(study, label, batch)
            done[label, batch] = record(result, study)
            if folder is not None:
                folder.keep(study, result, done[label, batch])
    return False
