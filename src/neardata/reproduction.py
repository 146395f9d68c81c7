"""Run a study, and tell which of the paper's claims come out.

>>> verdicts = reproduce("sn40l")
>>> verdicts[0].claim.claim, verdicts[0].decision
('model switching, over DGX A100', 'reproduced')
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

from neardata.arch.config_file import ConfigFile
from neardata.arch.errors import InputError, nearest
from neardata.claims import PaperStudy, Verdict, judge, read_study
from neardata.study_models import MODELS

CLAIMS_ONLY = "claims-only"
"""In place of a model: the claims are kept, and none can be checked yet."""


@dataclass(frozen=True)
class Reproduction:
    """A study that was run."""

    name: str
    study: PaperStudy
    figures: Mapping[str, float]
    """All that the model computes, by name."""
    verdicts: tuple[Verdict, ...]


def study_names() -> list[str]:
    """Names of the studies of papers that ship with the package: those with claims."""
    folder = resources.files("neardata.studies")
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml") and "\nclaims:" in entry.read_text(encoding="utf-8")
    )


def study_title(name: str) -> str:
    """Of a study that ships, without running it."""
    with resources.as_file(resources.files("neardata.studies") / f"{name}.yaml") as path:
        return read_study(path)[0].title


def reproduce(name: str | Path) -> list[Verdict]:
    """The verdict on each claim of a study, in its order.

    Args:
        name: of a study that ships with the package, or the path of a study file (``.yaml``).

    Raises:
        InputError: an unknown study (the nearest names are told), or a file that is no study.
    """
    return list(run_study(name).verdicts)


def run_study(name: str | Path) -> Reproduction:
    """As `reproduce`, with all figures of the model."""
    if isinstance(name, Path) or str(name).endswith(".yaml"):
        return _run(Path(name))
    if name not in study_names():
        raise InputError(f"unknown study '{name}'{nearest(str(name), study_names())}")
    return _run_shipped(str(name))


@lru_cache
def _run_shipped(name: str) -> Reproduction:
    with resources.as_file(resources.files("neardata.studies") / f"{name}.yaml") as path:
        return _run(path)


def _run(path: Path) -> Reproduction:
    study, file = read_study(path)
    figures = _figures(study, file)
    verdicts = []
    for i, claim in enumerate(study.claims):
        if claim.metric is not None and claim.metric not in figures:
            raise file.error(
                f"'{claim.metric}' is not computed{nearest(claim.metric, figures)}", "claims", i, "metric"
            )
        ours = None if claim.metric is None else figures[claim.metric]
        assumed = () if claim.metric is None else study.assumed
        verdicts.append(judge(path.stem, claim, ours, assumed))
    return Reproduction(path.stem, study, figures, tuple(verdicts))


def _figures(study: PaperStudy, file: ConfigFile) -> Mapping[str, float]:
    if study.model == CLAIMS_ONLY:
        return {}
    if study.model not in MODELS:
        raise file.error(
            f"'{study.model}' is not known{nearest(study.model, [*MODELS, CLAIMS_ONLY])}", "model"
        )
    model = MODELS[study.model]
    wanted = inspect.signature(model).parameters
    for name in study.inputs:
        if name not in wanted:
            raise file.error(f"no input of {study.model}{nearest(name, wanted)}", "inputs", name)
    for name in wanted:
        if name not in study.inputs:
            raise file.error(f"missing '{name}', which {study.model} needs", "inputs")
    return model(**{name: given.value for name, given in study.inputs.items()})


# --- the report -------------------------------------------------------------------------------------

_INTRODUCTION = """# Reproduction of published figures

Written by `python -m neardata.reproduction`; every number of ours is computed then.

- **reproduced**: within the tolerance: 10 %, or half the last printed digit for identities.
- **missed**: it is not, and the reason as far as we know it.
- **agrees with our arithmetic**, **differs from** it: no figure of the paper, but one that we worked out from
  what it gives; it tests our code and reproduces nothing.
- **not checkable**: something that the figure needs is not published, or the figure was used as an input.

An input is *stated* by the paper or its artefact, *computed* from what is, *calibrated* to results of the
paper, or *assumed*. What rests on assumed inputs shows that the model can give the paper's figure, not that
it must.
"""


def write_markdown(verdicts: Iterable[Verdict]) -> str:
    """The report on the studies that the verdicts belong to, as Markdown.

    ``docs/reproduction.md`` holds it for all studies: ``python -m neardata.reproduction``.
    """
    by_study: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_study.setdefault(verdict.study, []).append(verdict)
    parts = [_INTRODUCTION, *_summary(by_study)]
    for name, found in by_study.items():
        parts += _section(run_study(name), found)
    return "\n".join(parts).rstrip() + "\n"


def _summary(by_study: Mapping[str, list[Verdict]]) -> list[str]:
    lines = ["| study | reproduced | missed | our arithmetic | not checkable |", "|---|---|---|---|---|"]
    for name, found in by_study.items():
        number = Counter(verdict.decision for verdict in found)
        agree, differ = number["agrees with our arithmetic"], number["differs from our arithmetic"]
        arithmetic = f"{agree} of {agree + differ} agree" if agree + differ else ""
        cells = (number["reproduced"], number["missed"], arithmetic, number["not checkable"])
        title = f"[{run_study(name).study.title}](#{name.replace('_', '-')})"
        lines.append(f"| {title} | " + " | ".join(map(str, cells)) + " |")
    return [*lines, ""]


def _section(run: Reproduction, verdicts: list[Verdict]) -> list[str]:
    study = run.study
    lines = [
        f"## {run.name.replace('_', '-')}",
        "",
        f"{study.title}, {study.reference}. {study.about}".strip(),
        "",
    ]
    lines += ["| claim | where | paper | ours | difference | verdict |", "|---|---|---|---|---|---|"]
    for verdict in verdicts:
        claim = verdict.claim
        condition = f" ({claim.condition})" if claim.condition else ""
        paper = claim.printed or f"{_number(claim.value)} {claim.unit}".strip()
        difference = "" if verdict.difference is None else f"{verdict.difference:+.1%}"
        ours = "" if verdict.ours is None else _number(verdict.ours)
        why = f": {verdict.reason}" if verdict.reason else ""
        where = f"{claim.where} [{claim.trust}]"
        cells = (claim.claim + condition, where, paper, ours, difference, f"**{verdict.decision}**{why}")
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    lines.append("")
    if study.inputs:
        lines += ["| input | value | status | source |", "|---|---|---|---|"]
        for name, given in study.inputs.items():
            value = f"{_shown(given.value)} {given.unit}".strip()
            lines.append(f"| `{name}` | {value} | {given.status} | {given.source.replace('|', '/')} |")
        lines.append("")
    used = {verdict.claim.metric for verdict in verdicts}
    others = {name: value for name, value in run.figures.items() if name not in used}
    if others:
        listed = ", ".join(f"`{name}` {_number(value)}" for name, value in others.items())
        lines += [f"Also computed: {listed}.", ""]
    return lines


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if value == int(value) and abs(value) < 1e9 else f"{value:.4g}"


def _shown(value: object) -> str:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return _number(value)
    text = str(value)
    return text if len(text) <= 300 else f"{len(value)} values" if isinstance(value, list | dict) else text


if __name__ == "__main__":
    print(write_markdown(verdict for name in study_names() for verdict in reproduce(name)), end="")
