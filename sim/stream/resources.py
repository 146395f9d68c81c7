"""Whether a pipeline fits an FPGA."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import floor

from neardata.arch.errors import InputError
from neardata.arch.stream import Fpga, Pipeline, load_fpga
from neardata.arch.stream.fpga import needs, percent_of
from neardata.arch.stream.pipeline import RESOURCES


@dataclass(frozen=True)
class ResourceUse:
    """Percent of an FPGA, all replicas together; None where a number is not known."""

    fpga: Fpga
    by_stage: Mapping[str, Mapping[str, float | None]]
    """Stage (all its replicas): resource: percent."""
    total: Mapping[str, float | None]
    untold: tuple[str, ...]
    """Stages whose resources are not told: not in the total."""


def resource_use(pipeline: Pipeline, fpga: Fpga) -> ResourceUse:
    """Resources of a pipeline as percent of an FPGA.

    Raises:
        InputError: it does not fit: every resource that overflows, and how many replicas would fit.

    >>> from neardata.arch.stream import load_fpga, load_pipeline
    >>> fits = resource_use(load_pipeline("presto-log"), load_fpga("smartssd-vitis"))
    >>> fits.total["dsp"]
    10.62
    """
    use = _use(pipeline, fpga)
    copies = pipeline.replicas.count
    over = _over(use.by_stage.values())
    if over:
        fit = floor(min(100 * copies / value for value in over.values()) + 1e-9)
        change = (
            f"{fit} replica{'s' if fit > 1 else ''} would fit, not {copies}"
            if fit
            else "not even one replica fits"
        )
        raise InputError(f"{pipeline.name} does not fit {fpga.name}: {_told(over)}; {change}")
    return use


def check_fits(pipelines: Mapping[str, Pipeline], fpga: Fpga) -> None:
    """Several pipelines on one FPGA.

    Args:
        pipelines: by the name that errors call each.

    Raises:
        InputError: they do not fit together: every resource that overflows, and what each takes of it.
    """
    uses = {name: _known(_use(pipeline, fpga).by_stage.values()) for name, pipeline in pipelines.items()}
    over = _over(uses.values())
    if over:
        parts = "; ".join(
            f"{r.upper()}: " + ", ".join(f"{p} {use[r]:.0f} %" for p, use in uses.items()) for r in over
        )
        raise InputError(f"together they do not fit {fpga.name}: {_told(over)} ({parts})")


def _known(parts: Iterable[Mapping[str, float | None]]) -> dict[str, float]:
    """Sums of what is known: what does not fit without the rest does not fit with it."""
    parts = list(parts)
    return {resource: sum(part[resource] or 0 for part in parts) for resource in RESOURCES}


def _over(parts: Iterable[Mapping[str, float | None]]) -> dict[str, float]:
    return {resource: value for resource, value in _known(parts).items() if value > 100 * (1 + 1e-12)}


def _told(over: Mapping[str, float]) -> str:
    return ", ".join(f"{resource.upper()} {value:.0f} %" for resource, value in over.items())


def _use(pipeline: Pipeline, fpga: Fpga) -> ResourceUse:
    told = needs(pipeline)
    others = {r.percent_of: load_fpga(r.percent_of) for r in told.values() if r.percent_of is not None}
    copies = pipeline.replicas.count
    by_stage = {
        name: {
            resource: None if value is None else value * copies
            for resource, value in percent_of(need, fpga, others).items()
        }
        for name, need in told.items()
    }
    total: dict[str, float | None] = {}
    for resource in RESOURCES:
        values = [stage[resource] for stage in by_stage.values()]
        known = [value for value in values if value is not None]
        total[resource] = sum(known) if len(known) == len(values) else None
    untold = tuple(name for name in pipeline.stages if name not in told)
    return ResourceUse(fpga, by_stage, total, untold)
