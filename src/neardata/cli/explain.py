"""``neardata explain``: a lowered program as loop nests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def explain(
    what: Annotated[
        str,
        typer.Argument(
            metavar="STUDY", help="A study (.yaml), a saved program, config.json or a model's name."
        ),
    ],
    label: Annotated[str | None, typer.Option("--system", "-s", help="Which system of the study.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", "-b", min=1)] = None,
    context: Annotated[int | None, typer.Option(min=1, help="Tokens of each sequence.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Only the first so many layers.")] = None,
    operator: Annotated[
        str | None, typer.Option("--operator", "-o", help="Only tasks whose operator's name contains this.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Write the program: .yaml or .json, to edit and run again.")
    ] = None,
) -> None:
    """Print how a model's step is placed on a system: a loop nest per kernel, each operand's place."""
    from neardata.arch.errors import InputError, nearest
    from neardata.cli.output import check_writable, whole_file
    from neardata.cli.run import study_of
    from neardata.explanation import explain as lines
    from neardata.mappers.products import kind_of
    from neardata.programs import read_program
    from neardata.study import find_study, lower_point, placed_in

    if save is not None:
        if save.suffix not in (".yaml", ".yml", ".json"):
            raise InputError("a program is written as .yaml or .json", file=save)
        check_writable(save)
    read = read_program(what)
    if read is not None:
        program, system = read
    else:
        one = None if label is None else [label]
        study = study_of(what, one, [batch] if batch else None, context, None, None, layers)
        chosen = label if label in study.systems else next(iter(study.systems))
        with placed_in(find_study(what)):
            program, system, _ = lower_point(study, chosen, study.batch[0])
    if operator is not None and not any(
        operator in name for task in program.tasks for name in (task.name, *task.operators)
    ):
        known = {kind_of(name) for task in program.tasks for name in task.operators}
        raise InputError(
            f"no operator's name contains '{operator}'{nearest(operator, known)}", key="--operator"
        )
    if save is not None:
        with whole_file(save) as path:
            program.write(path)
    for line in lines(program, system, operator=operator):
        typer.echo(line)
