"""``neardata compare``: two systems, part by part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from neardata.cli.options import Json


def compare(
    what: Annotated[
        str,
        typer.Argument(
            metavar="STUDY", help="A study (.yaml), config.json, a model's name, or results.json."
        ),
    ],
    one: Annotated[str, typer.Argument(metavar="SYSTEM", help="A system of the study, or a system's name.")],
    other: Annotated[str, typer.Argument(metavar="SYSTEM")],
    batch: Annotated[
        int | None, typer.Option("--batch", "-b", min=1, help="Default: the study's largest.")
    ] = None,
    context: Annotated[int | None, typer.Option(min=1, help="Tokens of each sequence.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Only the first so many layers.")] = None,
    as_json: Json = False,
) -> None:
    """Compare two systems on one step: time and energy part by part, and what each loses time to."""
    records = [_record(what, label, batch, context, layers) for label in (one, other)]
    if as_json:
        typer.echo(json.dumps(records, indent=1))
    else:
        _print(records)


def _record(
    what: str, label: str, batch: int | None, context: int | None, layers: int | None
) -> dict[str, Any]:
    from neardata.arch.errors import InputError, nearest
    from neardata.cli.run import study_of
    from neardata.results import SCHEMA, record
    from neardata.study import find_study, placed_in, run_point

    path = Path(what)
    if path.suffix == ".json" and not path.exists():
        raise InputError("cannot be read: No such file or directory", file=path)
    if path.suffix == ".json" and path.is_file():
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"not valid JSON: {error}", file=path) from None
        if isinstance(data, dict) and "points" in data:
            known = {(p["label"], p["batch"]): p for p in data["points"]}
            labels = {name for name, _ in known}
            if label not in labels:
                raise InputError(f"no system '{label}'{nearest(label, labels)}", file=path)
            size = batch if batch is not None else max(b for name, b in known if name == label)
            if (label, size) not in known:
                raise InputError(f"no batch {size} of '{label}'", file=path)
            found: dict[str, Any] = known[label, size]
            if found.get("schema") != SCHEMA:
                raise InputError("of another version: run the study again", file=path, key="schema")
            return found
    study = study_of(what, [label], [batch] if batch else None, context, None, None, layers)
    with placed_in(find_study(what)):
        return record(run_point(study, label, max(study.batch)), study)


def _print(records: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from neardata.cli.quantities import rate, si_energy, si_time

    a, b = records
    console = Console(highlight=False)
    console.print(f"[bold]{escape(a['label'])}[/bold] and [bold]{escape(b['label'])}[/bold]: {a['model']}, "
                  f"{a['phase']}, batch {a['batch']} and {b['batch']}\n")  # fmt: skip
    table = Table(box=None, pad_edge=True, header_style="bold")
    for title in ("", a["label"], b["label"], "ratio"):
        table.add_column(escape(title), justify="left" if not title else "right")
    table.add_row(
        "time a token", si_time(a["step_ns"]), si_time(b["step_ns"]), _ratio(a["step_ns"], b["step_ns"])
    )
    rates = [r["tokens_per_s"] / r["devices"] for r in records]
    for name in _union(a, b, "parts"):
        x, y = (_part(r, name) for r in records)
        table.add_row(f"  {name}", si_time(x) if x else "", si_time(y) if y else "", _ratio(x, y))
    table.add_row()
    table.add_row("devices", *(f"{r['devices']}" for r in records), _ratio(a["devices"], b["devices"]))
    table.add_row("tokens/s per device", *map(rate, rates), _ratio(*rates))
    table.add_row()
    table.add_row(
        "energy a token", si_energy(a["energy_pj_per_token"]), si_energy(b["energy_pj_per_token"]),
        _ratio(a["energy_pj_per_token"], b["energy_pj_per_token"]),
    )  # fmt: skip
    for name in dict.fromkeys([*a["energy_pj"], *b["energy_pj"]]):
        x, y = (r["energy_pj"].get(name, 0.0) / r["batch"] for r in records)
        if max(x / a["energy_pj_per_token"], y / b["energy_pj_per_token"]) > 0.005:
            table.add_row(f"  {name}", si_energy(x) if x else "", si_energy(y) if y else "", _ratio(x, y))
    table.add_row()
    table.add_row("time by cause")
    for name in dict.fromkeys([*a["reasons_ns"], *b["reasons_ns"]]):
        x, y = (r["reasons_ns"].get(name, 0.0) / r["run_ns"] for r in records)
        if max(x, y) > 0.01:
            table.add_row(f"  {name}", f"{x:.1%}" if x else "", f"{y:.1%}" if y else "")
    console.print(table)


def _union(a: dict[str, Any], b: dict[str, Any], key: str) -> list[str]:
    return list(dict.fromkeys(part["name"] for r in (a, b) for part in r[key] if part["critical_ns"]))


def _part(r: dict[str, Any], name: str) -> float:
    """Nanoseconds of a step that a part takes on the critical path."""
    critical = sum(part["critical_ns"] for part in r["parts"] if part["name"] == name)
    return float(critical * r["step_ns"] / r["run_ns"])


def _ratio(x: float, y: float) -> str:
    return f"{y / x:.2f}x" if x and y else ""
