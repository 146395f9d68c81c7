"""FPGAs as budgets of resources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from neardata.arch.config_file import StrictModel
from neardata.arch.stream.pipeline import RESOURCES, Pipeline, Resources


class Budget(StrictModel):
    """How many of one resource there are."""

    value: Annotated[float, Field(gt=0)]
    basis: Literal["published", "secondary", "inferred"]
    """``secondary``: not the vendor's own document, and not verified against it; ``inferred``: follows
    from another published number, or is the one that makes published percentages whole."""
    source: str


class Fpga(StrictModel):
    """An FPGA, or the part of it that designs may use.

    >>> from neardata.arch.stream import load_fpga
    >>> load_fpga("smartssd").dsp.value
    1968.0
    """

    name: str
    kind: Literal["fpga"]
    title: str
    lut: Budget | None = None
    ff: Budget | None = None
    bram: Budget | None = None
    """Blocks of 36 Kb."""
    uram: Budget | None = None
    """Blocks of 288 Kb."""
    dsp: Budget | None = None

    def budget(self, resource: str) -> Budget | None:
        """Of ``lut``, ``ff``, ``bram``, ``uram`` or ``dsp``; None: not known."""
        found: Budget | None = getattr(self, resource)
        return found


def percent_of(need: Resources, fpga: Fpga, others: Mapping[str, Fpga]) -> dict[str, float | None]:
    """Percent of each resource of ``fpga`` (None: its number, or that of the FPGA the need is told in
    percent of, is not known).

    Args:
        others: the FPGAs that needs are told in percent of.
    """
    percent: dict[str, float | None] = {}
    for resource in RESOURCES:
        value = getattr(need, resource)
        if need.percent_of == fpga.name or value == 0:
            percent[resource] = value
            continue
        here = fpga.budget(resource)
        if need.percent_of is not None:
            there = others[need.percent_of].budget(resource)
            value = None if there is None else value / 100 * there.value
        percent[resource] = None if here is None or value is None else 100 * value / here.value
    return percent


def needs(pipeline: Pipeline) -> dict[str, Resources]:
    """Resources told, by stage."""
    told = {name: stage.resources for name, stage in pipeline.stages.items() if stage.resources is not None}
    if pipeline.unaccounted is not None:
        told["unaccounted"] = pipeline.unaccounted
    return told
