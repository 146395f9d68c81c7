"""Studies: what a paper claims, what we need to know to compute the same, and whether it comes out.

A study is a YAML file; `neardata.reproduction` runs it::

    title: Pre-gated MoE
    arxiv: "2308.12066"
    model: pre_gated                # a function of neardata.study_models; claims-only: none yet
    inputs:                         # its arguments
      link_gb_per_s: {value: 32, unit: GB/s, status: stated, source: section V}
    claims:
      - claim: block latency, on demand, 8 experts
        value: 2.0
        unit: x
        where: Fig. 10
        trust: full-text
        metric: on_demand/8         # the figure of ours to hold against it
      - claim: throughput
        value: 111
        unit: tokens/s
        where: Fig. 11
        trust: full-text
        not_checkable: the time of the layers without experts is not printed
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from neardata.arch.config_file import ConfigFile, StrictModel

Status = Literal["stated", "assumed", "calibrated", "computed"]
"""Of an input: in the paper or its artefact; nobody says it; fitted to the paper's results; derived."""
Trust = Literal["full-text", "artefact", "abstract", "secondary-notes", "computed"]
"""Where a claim was read; ``secondary-notes``: in notes of others on the paper; ``computed``: nowhere, it is
our own arithmetic from figures that the paper gives."""
Decision = Literal[
    "reproduced", "missed", "agrees with our arithmetic", "differs from our arithmetic", "not checkable"
]
"""On a claim. The two about arithmetic are on figures that no paper prints: ``computed``, by ourselves."""


class Input(StrictModel):
    """An argument of a study's model."""

    value: Any
    unit: str = ""
    status: Status
    source: str
    """Where it is stated, what it was fitted to or derived from, why it is assumed."""


class Claim(StrictModel):
    """A figure of a paper."""

    claim: str
    value: float | None = None
    """None: not a number, or a range, told in ``printed``."""
    printed: str | None = None
    """As the paper has it, where ``value`` does not say all."""
    unit: str = ""
    condition: str = ""
    where: str
    """Table, figure or section."""
    trust: Trust
    tolerance: float = Field(default=0.1, ge=0)
    """Largest difference that still counts as reproduced, relative to ``value``."""
    absolute: float | None = Field(default=None, ge=0)
    """The same in the unit of ``value``, in its place: half the last printed digit, for identities."""
    at_least: bool = False
    """The claim is a lower bound ("more than 3 tokens/s"): more is as good, and nothing less will do."""
    at_most: bool = False
    """The claim is an upper bound: less is as good."""
    metric: str | None = None
    """What of the model's figures is the same quantity."""
    not_checkable: str | None = None
    """Why there is no such figure, or why comparing with it proves nothing."""
    note: str = ""
    """Why it is missed, or what to know about the comparison."""

    @model_validator(mode="after")
    def _decided(self) -> Claim:
        if self.metric is None and self.not_checkable is None:
            raise ValueError("a claim has a metric, or says in not_checkable why it has none")
        if self.metric is not None and self.value is None and self.not_checkable is None:
            raise ValueError("a claim that is compared needs a value")
        if self.value is None and self.printed is None:
            raise ValueError("a claim has a value, or the words of the paper in printed")
        if self.at_least and self.at_most:
            raise ValueError("a claim is a lower or an upper bound, not both")
        return self


class PaperStudy(StrictModel):
    """A paper to reproduce."""

    title: str
    arxiv: str | None = None
    published: str | None = None
    """Conference or journal, of papers that are not on arXiv."""
    model: str
    about: str = ""
    """What is modelled and what is left out."""
    inputs: dict[str, Input] = Field(default_factory=dict)
    claims: tuple[Claim, ...]

    @model_validator(mode="after")
    def _published(self) -> PaperStudy:
        if (self.arxiv is None) == (self.published is None):
            raise ValueError("a paper has an arxiv number, or says where it was published")
        return self

    @property
    def reference(self) -> str:
        """Where the paper is."""
        return f"arXiv {self.arxiv}" if self.arxiv is not None else str(self.published)

    @property
    def assumed(self) -> tuple[str, ...]:
        """Names of inputs that nobody states."""
        return tuple(name for name, given in self.inputs.items() if given.status == "assumed")


def is_paper_study(path: Path) -> bool:
    """Whether a file is a study of a paper: whether it has claims."""
    data = ConfigFile(path).data
    return isinstance(data, dict) and "claims" in data


def read_study(path: Path) -> tuple[PaperStudy, ConfigFile]:
    """A study, and its file for placing errors.

    Raises:
        InputError: with file, line and key.
    """
    file = ConfigFile(path)
    return file.parse(PaperStudy), file


@dataclass(frozen=True)
class Verdict:
    """A claim and our figure."""

    study: str
    claim: Claim
    ours: float | None
    decision: Decision
    reason: str
    """Why it is not checkable, or the study's word on a miss."""
    assumed: tuple[str, ...]
    """Inputs behind our figure that are assumed."""

    @property
    def difference(self) -> float | None:
        """Of ours from the paper's, relative to the paper's; None without either, or from zero."""
        if self.ours is None or not self.claim.value:
            return None
        return self.ours / self.claim.value - 1


def judge(study: str, claim: Claim, ours: float | None, assumed: tuple[str, ...] = ()) -> Verdict:
    """Hold our figure against a claim.

    >>> claim = Claim(claim="speed-up", value=2.0, where="Fig. 1", trust="full-text", metric="speed-up")
    >>> judge("study", claim, 1.85).decision, judge("study", claim, 1.7).decision
    ('reproduced', 'missed')
    """
    if claim.not_checkable is not None:
        return Verdict(study, claim, ours, "not checkable", claim.not_checkable, assumed)
    assert claim.value is not None, "checked when read"
    if ours is None or not math.isfinite(ours):
        return Verdict(study, claim, None, "not checkable", "the model gives no number", assumed)
    allowed = claim.absolute if claim.absolute is not None else claim.tolerance * abs(claim.value)
    # a figure that lies on the edge in decimals may lie beyond it in binary
    near = abs(ours - claim.value) <= allowed * (1 + 1e-9)
    good = near
    if claim.at_least:
        good = ours >= claim.value
    elif claim.at_most:
        good = ours <= claim.value
    decision: Decision = "reproduced" if good else "missed"
    if claim.trust == "computed":
        decision = "agrees with our arithmetic" if good else "differs from our arithmetic"
    return Verdict(study, claim, ours, decision, claim.note, assumed)
