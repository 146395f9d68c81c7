"""Study models of language models whose weights lie in flash that computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neardata.arch.system import StorageUnit, System, load_system
from neardata.mappers.lower import lower
from neardata.mappers.mapping import Mapping as Placement
from neardata.sim.program import FlashMatMul
from neardata.sim.system.engine import Costs, run
from neardata.sim.system.report import SystemReport
from neardata.sim.system.storage import StorageEngine
from neardata.workloads.llm.decoder import llm
from neardata.workloads.llm.model import Model, load_model

Figures = dict[str, float]
GB = 1e9


@dataclass
class Machine:
    """A system and a placement, with the kernels known so far."""

    system: System
    placement: Placement
    costs: Costs

    @classmethod
    def of(cls, choice: Mapping[str, Any]) -> Machine:
        """From ``system``, ``set`` and ``mapping``, as in the studies of ``neardata run``."""
        system = load_system(choice["system"], choice.get("set"))
        return cls(system, Placement.model_validate(choice.get("mapping", {})), Costs(system))

    def decode(self, model: Model, context: int, formats: Mapping[str, Any]) -> SystemReport:
        """One token of one sequence."""
        graph = llm(model, "decode", batch=1, context=context, **formats)
        cost = self.costs
        program = lower(graph, self.system, self.placement, lambda g, kernel: cost.of(g, kernel).time_ps)
        return run(program, self.system, costs=self.costs)

    def channel_use(self, report: SystemReport) -> float:
        """Share of the products' time in which a channel carries data, mean over the channels."""
        engines: dict[str, StorageEngine] = {}
        shares: dict[FlashMatMul, float] = {}
        busy = total = 0.0
        for task, group, outcome in zip(report.program.tasks, report.groups, report.outcomes, strict=True):
            kernel = task.kernel
            if not isinstance(kernel, FlashMatMul):
                continue
            if group not in engines:
                unit = self.system.units[group]
                assert isinstance(unit, StorageUnit) and unit.attached_to is not None
                processor = self.system.processor(unit.attached_to)
                engines[group] = StorageEngine(self.system.drive(group), processor)
            if kernel not in shares:
                flash = engines[group].flash((kernel,))
                shares[kernel] = flash.channel_share(outcome.time_ps, "data in", "data out")
            busy += shares[kernel] * outcome.time_ps
            total += outcome.time_ps
        return busy / total


def flash_decode(
    systems: Mapping[str, Any],
    models: Sequence[str],
    context: int,
    precisions: Mapping[str, Mapping[str, Any]],
    ablated: str,
    ablated_models: Sequence[str],
    ablations: Mapping[str, Any],
    shapes: Mapping[str, Any],
    ungrouped: str,
) -> Figures:
    """Decoding of one sequence with weights in flash.

    ``precision/system/model``: tokens/s; ``gain_percent/precision/system``: of a precision over the first,
    mean over the models; ``gb/system/model``: over the channels for a token, in the first precision. Of the
    system ``ablated``: ``gain/ablation/model``: its tokens/s over those of the ablation, ``.../least`` and
    ``.../most`` of ``ablated_models``, and ``channel_percent/ablation``: mean use of the channels there;
    ``shape_percent/name``: how much slower a tile is than the system's own.

    Args:
        precisions: ``weights``, ``activations`` and ``cache`` by name, and ``systems`` if not all.
        ablations, shapes: systems as in ``systems``.
        ungrouped: a model that is also run with as many key heads as query heads, ``... ungrouped``.
    """
    figures: Figures = {}
    machines = {name: Machine.of(choice) for name, choice in systems.items()}
    first = next(iter(precisions))
    for precision, formats in precisions.items():
        for name in formats.get("systems", machines):
            machine = machines[name]
            for label, model in _models(models, ungrouped):
                report = machine.decode(model, context, _numbers(formats))
                figures[f"{precision}/{name}/{label}"] = report.tokens_per_s
                if precision == first:
                    figures[f"gb/{name}/{label}"] = _over_channels(report) / GB
            if precision != first:
                faster = [figures[f"{precision}/{name}/{m}"] / figures[f"{first}/{name}/{m}"] for m in models]
                figures[f"gain_percent/{precision}/{name}"] = 100 * (sum(faster) / len(faster) - 1)
    one, own = _numbers(precisions[first]), {m: figures[f"{first}/{ablated}/{m}"] for m in ablated_models}
    for ablation, choice in ablations.items():
        machine = Machine.of(choice)
        reports = {m: machine.decode(load_model(m), context, one) for m in ablated_models}
        gains = {m: own[m] / report.tokens_per_s for m, report in reports.items()}
        figures |= {f"gain/{ablation}/{m}": gain for m, gain in gains.items()}
        figures |= {f"gain/{ablation}/least": min(gains.values())}
        figures |= {f"gain/{ablation}/most": max(gains.values())}
        use = [machine.channel_use(report) for report in reports.values()]
        figures[f"channel_percent/{ablation}"] = 100 * sum(use) / len(use)
    for shape, choice in shapes.items():
        machine = Machine.of(choice)
        rates = [own[m] / machine.decode(load_model(m), context, one).tokens_per_s for m in ablated_models]
        figures[f"shape_percent/{shape}"] = 100 * (sum(rates) / len(rates) - 1)
    return figures


def _numbers(precision: Mapping[str, Any]) -> dict[str, Any]:
    return {key: precision[key] for key in ("weights", "activations", "cache")}


def _models(names: Sequence[str], ungrouped: str) -> Iterator[tuple[str, Model]]:
    for name in names:
        yield name, load_model(name)
    model = load_model(ungrouped)
    yield f"{ungrouped} ungrouped", model.model_copy(update={"kv_heads": model.heads})


def _over_channels(report: SystemReport) -> int:
    """Bytes on the flash channels."""
    pairs = zip(report.program.tasks, report.outcomes, strict=True)
    return sum(outcome.interface_bytes for task, outcome in pairs if isinstance(task.kernel, FlashMatMul))
