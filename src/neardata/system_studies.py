"""Study models that lower a language model onto systems and run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from neardata.sim.program import Attention, Collective, Elementwise, FlashAttention, PimAttention, Transfer
from neardata.sim.system.report import SystemReport
from neardata.study import Point, Study, SystemChoice, run_point

Figures = dict[str, float]
PS_PER_MS = 1e9
PARTS = ("attention", "products", "communication", "element-wise")


def system_decode(
    model: str,
    context: int,
    positions: int,
    number: str,
    batches: Sequence[int],
    as_simulated: Mapping[str, Any],
    physical: Mapping[str, Any],
) -> Figures:
    """Time of a decoded token, and of its parts on the critical path, in ms: ``name/batch`` and
    ``name/batch/part``; the latter systems are called ``physical name``.

    Args:
        positions: rows of the position embedding; 0: the model's own.
        as_simulated, physical: systems by name, as in the studies of ``neardata run``.
    """
    systems = {**as_simulated, **{f"physical {name}": choice for name, choice in physical.items()}}
    study = Study(
        title=model, model=model, context=context, positions=positions or None, batch=tuple(batches),
        weights=number, activations=number, cache=number,
        systems={name: SystemChoice.model_validate(choice) for name, choice in systems.items()},
    )  # fmt: skip
    figures: Figures = {}
    for name in systems:
        for batch in batches:
            figures |= _figures(f"{name}/{batch}", run_point(study, name, batch))
    return figures


def _figures(name: str, point: Point) -> Figures:
    parts = critical_parts(point.report)
    figures = {f"{name}/{part}": ps / PS_PER_MS for part, ps in parts.items()}
    return {name: point.step_ps / PS_PER_MS} | figures


def critical_parts(report: SystemReport) -> dict[str, int]:
    """The critical path by what its tasks do; adds up to the time of the run."""
    parts = dict.fromkeys(PARTS, 0)
    for i, ps in report.critical_ps.items():
        match report.program.tasks[i].kernel:
            case Transfer() | Collective():
                parts["communication"] += ps
            case Attention() | PimAttention() | FlashAttention():
                parts["attention"] += ps
            case Elementwise():
                parts["element-wise"] += ps
            case _:
                parts["products"] += ps
    return parts


def pim_decode(
    models: Sequence[str],
    context: int,
    number: str,
    memory: Mapping[str, Any],
    slow: Mapping[str, Any],
    processor: Mapping[str, Any],
) -> Figures:
    """What a memory with units in its banks saves, for one decoded token of each model.

    ``row_hit_percent``; ``outside_percent``: of the time outside products and attention; ``less_moved``:
    bytes that the processor's kernels move, over those that cross the memory's interface;
    ``slowdown_percent`` of the slow system; ``speed_up`` over the processor. Each by ``/model``, and over
    all models as ``.../least`` and ``.../most``.
    """
    figures: Figures = {}
    choices = {"memory": memory, "slow": slow, "processor": processor}
    for model in models:
        study = Study(
            title=model, model=model, context=context, batch=(1,),
            weights=number, activations=number, cache=number,
            systems={name: SystemChoice.model_validate(choice) for name, choice in choices.items()},
        )  # fmt: skip
        memory_point, slow_point, other = (run_point(study, name, 1) for name in choices)
        report = memory_point.report
        hits = report.row_hit_rate
        assert hits is not None, "some products are in memory"
        parts = critical_parts(report)
        outside = 1 - (parts["products"] + parts["attention"]) / report.time_ps
        crossing = sum(outcome.interface_bytes for outcome in report.outcomes)
        values = {
            "ms": memory_point.step_ps / PS_PER_MS,
            "row_hit_percent": 100 * hits,
            "outside_percent": 100 * outside,
            "less_moved": sum(outcome.memory_bytes for outcome in other.report.outcomes) / crossing,
            "slowdown_percent": 100 * (slow_point.step_ps / memory_point.step_ps - 1),
            "speed_up": other.step_ps / memory_point.step_ps,
        }
        figures |= {f"{name}/{model}": value for name, value in values.items()}
    for name in ("row_hit_percent", "less_moved", "slowdown_percent", "speed_up"):
        found = [figures[f"{name}/{model}"] for model in models]
        figures |= {f"{name}/least": min(found), f"{name}/most": max(found)}
    return figures
