"""``neardata search``: the fastest form of each product in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from neardata.cli.options import Json


def search(
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
        str | None, typer.Option("--operator", "-o", help="Only operators whose name contains this.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Write the forms found: .yaml, for 'mapping: {products: FILE}'.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Search how each product in memory runs fastest: channels, parts of k, order, gap to the roofline."""
    from neardata.arch.errors import InputError, nearest
    from neardata.cli.output import check_apart, check_writable, text_file
    from neardata.cli.run import study_of
    from neardata.mappers.mapping import processor_group
    from neardata.mappers.products import kind_of
    from neardata.product_search import forms_yaml, search_record, searched_lines, searches
    from neardata.programs import read_program
    from neardata.sim.program import PimMatMul
    from neardata.sim.system.engine import Costs
    from neardata.study import find_study, lower_point, placed_in

    if save is not None:
        if save.suffix not in (".yaml", ".yml"):
            raise InputError("forms are written as .yaml", file=save)
        check_writable(save)
        check_apart([save], [Path(what)])
    read = read_program(what)
    if read is not None:
        program, system = read
        costs, title = Costs(system), program.name
        groups = system.groups("processor")
        processor = groups[0] if len(groups) == 1 else None
    else:
        one = None if label is None else [label]
        study = study_of(what, one, [batch] if batch else None, context, None, None, layers)
        chosen = label if label in study.systems else next(iter(study.systems))
        mapping = study.systems[chosen].mapping
        with placed_in(find_study(what)):
            program, system, costs = lower_point(study, chosen, study.batch[0])
        processor = processor_group(system, mapping)
        title = f"{study.title}: {chosen}, batch {study.batch[0]}, context {study.context}"
    products = [t for t in program.tasks if isinstance(t.kernel, PimMatMul)]
    if not products:
        raise InputError(f"no product with weights runs in a memory of {system.name}", key="--system")
    if operator is not None and not any(operator in name for t in products for name in t.operators):
        known = {kind_of(name) for t in products for name in t.operators}
        raise InputError(
            f"no operator with products in memory has a name that contains '{operator}'"
            f"{nearest(operator, known)}",
            key="--operator",
        )
    found = list(searches(program, system, costs, processor, operator))
    if save is not None:
        with text_file(save) as stream:
            stream.write(forms_yaml(title, found, system))
    if as_json:
        records = [search_record(each, system) for each in found]
        typer.echo(json.dumps({"title": title, "operators": records}, indent=1))
        return
    typer.echo(title)
    for each in found:
        for line in searched_lines(each, system):
            typer.echo(line)
