"""``neardata reproduce``: a paper's claims beside ours."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from neardata.cli.options import Json

if TYPE_CHECKING:
    from neardata.reproduction import Reproduction


def reproduce(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[STUDY]", help="Name or file of a study. Default: list what there is."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Check a paper's published figures: claim, ours, difference, verdict, and what was assumed.

    Exit code 1 if a claim is missed, or differs from our own arithmetic.
    """
    from neardata.reproduction import run_study, study_names, study_title

    if name is None:
        names = study_names()
        if as_json:
            typer.echo(json.dumps(names))
        else:
            for known in names:
                typer.echo(f"{known:22}{study_title(known)}")
        return 0
    return report(run_study(name), as_json)


def report(found: Reproduction, as_json: bool) -> int:
    """Print a study that was run; 1 if a claim is missed."""
    missed = any(v.decision in ("missed", "differs from our arithmetic") for v in found.verdicts)
    if not as_json:
        _print(found)
        return 1 if missed else 0
    rows = [
        {
            "claim": v.claim.claim,
            "value": v.claim.value,
            "unit": v.claim.unit,
            "condition": v.claim.condition,
            "where": v.claim.where,
            "trust": v.claim.trust,
            "ours": v.ours,
            "difference": v.difference,
            "verdict": v.decision,
            "reason": v.reason,
            "assumed": list(v.assumed),
        }
        for v in found.verdicts
    ]
    typer.echo(json.dumps({"study": found.name, "title": found.study.title, "claims": rows}, indent=1))
    return 1 if missed else 0


def _mark(notes: list[str], reason: str) -> str:
    """The number of a note, the same for the same words."""
    if not reason:
        return ""
    if reason not in notes:
        notes.append(reason)
    return f" \\[{notes.index(reason) + 1}]"


def _print(found: Reproduction) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"[bold]{escape(found.study.title)}[/bold]  {escape(found.study.reference)}\n")
    table = Table(box=None, pad_edge=True, header_style="bold", show_edge=False)
    for title, justify in (("claim", "left"), ("paper", "right"), ("ours", "right"), ("difference", "right"),
                           ("verdict", "left")):  # fmt: skip
        table.add_column(title, justify=justify, no_wrap=title != "claim")  # type: ignore[arg-type]
    notes: list[str] = []
    styles = {"reproduced": "green", "missed": "red", "differs from our arithmetic": "red"}
    for v in found.verdicts:
        style = styles.get(v.decision, "yellow")
        paper = v.claim.printed or (f"{v.claim.value:.4g}" if v.claim.value is not None else "")
        claim = escape(v.claim.claim + (f", {v.claim.condition}" if v.claim.condition else ""))
        table.add_row(
            claim,
            f"{paper} {v.claim.unit}".strip(),
            "" if v.ours is None else f"{v.ours:.4g}",
            "" if v.difference is None else f"{v.difference:+.1%}",
            f"[{style}]{v.decision}[/{style}]{_mark(notes, v.reason)}",
        )
    console.print(table)
    for number, reason in enumerate(notes, start=1):
        console.print(f"[dim]\\[{number}] {escape(reason)}[/dim]")
    assumed = {text: None for v in found.verdicts for text in v.assumed}
    if assumed:
        console.print(f"\nassumed: {escape(', '.join(assumed))}")
