"""Mini-batches prepared on a unit: what each operator took, what binds, samples and values a second."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from neardata.arch.preprocessor import Preprocessor
from neardata.arch.storage import load_ssd
from neardata.arch.system import StreamUnit, System
from neardata.mappers.column_layout import ColumnLayout, lay_columns
from neardata.mappers.preprocess import lower_batches
from neardata.sim.program import Program, Stream, Task, Transfer
from neardata.sim.system.engine import Costs, run
from neardata.sim.system.report import SystemReport
from neardata.workloads.graph import Graph
from neardata.workloads.recsys import Work, work_of

STEPS = ("extract", "transform", "load")


@dataclass(frozen=True)
class Stage:
    """Tasks of one kind."""

    name: str
    """Kind of operator; ``read`` and ``load`` of links; ``request`` of the host."""
    where: str
    tasks: int
    values: int
    """Values into the operators; 0 of what is no operator."""
    time_ps: int
    """Sum over the tasks."""
    cycles: int | None
    """Of the clock of its unit; None: a link, a thread of the host."""
    within: str = ""
    """The kind of the tasks in whose course it happens, where it takes no time of its own."""


@dataclass(frozen=True)
class UnitRun:
    """Mini-batches on a unit."""

    unit: Preprocessor
    graphs: tuple[Graph, ...]
    report: SystemReport

    @property
    def system(self) -> System:
        """Units and links."""
        return self.report.system

    @property
    def program(self) -> Program:
        """What was run."""
        return self.report.program

    @property
    def time_ps(self) -> int:
        """Of all mini-batches."""
        return self.report.time_ps

    @property
    def samples(self) -> int:
        """Rows of all mini-batches."""
        return sum(graph.batch for graph in self.graphs)

    @cached_property
    def work(self) -> dict[str, Work]:
        """By kind of operator, of all mini-batches."""
        total: dict[str, Work] = {}
        for graph in self.graphs:
            for kind, work in work_of(graph).items():
                total[kind] = total.get(kind, Work()) + work
        return total

    @property
    def values(self) -> int:
        """Decoded values."""
        return self.work["parquet_decode"].values_out

    @cached_property
    def ends_ps(self) -> list[int]:
        """When each mini-batch has been loaded."""
        return [
            end
            for task, end in zip(self.program.tasks, self.report.schedule.end, strict=True)
            if task.name.endswith(".load")
        ]

    @property
    def period_ps(self) -> float:
        """From one mini-batch to the next, with as many under way as may be: all but the first round."""
        first = min(self.unit.in_flight, len(self.ends_ps) - 1)
        ends = sorted(self.ends_ps)
        if not first:
            return float(self.time_ps)
        return (ends[-1] - ends[first - 1]) / (len(ends) - first)

    @property
    def energy_j(self) -> float:
        """The unit's power over the time."""
        return self.unit.power_w.value * self.time_ps * 1e-12

    @cached_property
    def steps_ps(self) -> dict[str, int]:
        """Of the first mini-batch: extract, transform, load; they add up to its time. Empty where columns
        stream (``steps=False``), of which no step follows another."""
        names = {"b0.extracted": 0, "b0.transformed": 0, "b0.load": 0}
        for task, end in zip(self.program.tasks, self.report.schedule.end, strict=True):
            if task.name in names:
                names[task.name] = end
        extracted, transformed, loaded = names.values()
        if not extracted:
            return {}
        return {
            "extract": extracted,
            "transform": transformed - extracted,
            "load": loaded - max(transformed, extracted),
        }

    @cached_property
    def stages(self) -> list[Stage]:
        """What was done, kind by kind, in the order of the first mini-batch."""
        found: dict[tuple[str, str], list[tuple[Task, int]]] = {}
        inside: dict[str, str] = {}
        for task, outcome in zip(self.program.tasks, self.report.outcomes, strict=True):
            name, where = self._named(task)
            if name:
                found.setdefault((name, where), []).append((task, outcome.time_ps))
            kinds = [str(self.program.operators[o]["kind"]) for o in task.operators]
            for kind in kinds if isinstance(task.kernel, Transfer) else kinds[1:]:
                inside.setdefault(kind, name)
        stages = []
        for (name, where), tasks in found.items():
            time = sum(ps for _, ps in tasks)
            mhz = self._clock_mhz(tasks[0][0])
            values = self.work[name].values_in if name in self.work else 0
            cycles = None if mhz is None else round(time * mhz / 1e6)
            stages.append(Stage(name, where, len(tasks), values, time, cycles))
        for kind, other in inside.items():
            if all(stage.name != kind for stage in stages):
                w = self.work[kind]
                stages.append(Stage(kind, "", w.operators, w.values_in, 0, None, other))
        return stages

    def _named(self, task: Task) -> tuple[str, str]:
        kernel = task.kernel
        if isinstance(kernel, Transfer):
            return ("load" if task.name.endswith(".load") else "read"), task.unit
        if task.operators:
            kind = str(self.program.operators[task.operators[0]]["kind"])
            return kind, kernel.pipeline if isinstance(kernel, Stream) else self.unit.compute
        return ("request", self.unit.worker) if ".ask" in task.name else ("", "")

    def _clock_mhz(self, task: Task) -> float | None:
        if isinstance(task.kernel, Stream):
            pipeline = self.system.pipeline(self.unit.compute, task.kernel.pipeline)
            return next(iter(pipeline.clocks.values())).mhz
        if task.operators and not isinstance(task.kernel, Transfer):
            return self.system.processor(self.unit.compute).compute.clock_mhz
        return None

    @cached_property
    def busy(self) -> dict[str, float]:
        """Share of the time that each resource worked, mean over its units; the first binds."""
        total: dict[str, int] = {}
        for task, outcome in zip(self.program.tasks, self.report.outcomes, strict=True):
            name, where = self._named(task)
            if name:
                key = f"{where} ({name})" if isinstance(task.kernel, Transfer) else where
                total[key] = total.get(key, 0) + outcome.time_ps
        counts = {group: self.system.count(group) for group in self.system.units}
        shares = {key: ps / self.time_ps / counts.get(key, 1) for key, ps in total.items()}
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    @cached_property
    def layout(self) -> ColumnLayout | None:
        """Columns over the channels and dies of the unit's drive.

        Raises:
            InputError: they do not fit it.
        """
        return None if self.unit.drive is None else lay_columns(self.graphs, load_ssd(self.unit.drive))

    @property
    def binding(self) -> str:
        """The resource that worked for the greatest share of the time."""
        return next(iter(self.busy))


def run_batches(
    graphs: Sequence[Graph], unit: Preprocessor, system: System | None = None, *,
    label: str | None = None, steps: bool = True, costs: Costs | None = None,
) -> UnitRun:  # fmt: skip
    """Run mini-batches on a unit.

    Args:
        graphs: one a mini-batch, of tables read from Parquet.
        system: of `Preprocessor.load_system`; None: as it ships.
        label: column that goes to the trainer as it is.
        steps: the steps of a mini-batch follow each other (see `lower_batches`).
        costs: of earlier runs on the same system.

    Raises:
        InputError: pipelines that do not fit the FPGA, data that do not fit a memory, an operator that the
            unit has nothing for.
    """
    if system is None:
        system = unit.load_system() if costs is None else costs.system
    program = lower_batches(graphs, unit, system, label=label, steps=steps)
    return UnitRun(unit, tuple(graphs), run(program, system, costs=costs or Costs(system)))


def replicated(unit: Preprocessor, copies: Mapping[str, int]) -> dict[str, Any]:
    """Overrides of a unit's system with so many copies of each pipeline.

    >>> from neardata.arch.preprocessor import load_preprocessor
    >>> replicated(load_preprocessor("smartssd"), {"log": 2})
    {'units.fpga.overrides': {'log.replicas.count': 2}}
    """
    system = unit.load_system()
    described = system.units[unit.compute]
    before = described.overrides if isinstance(described, StreamUnit) else {}
    counts = {f"{name}.replicas.count": n for name, n in copies.items()}
    return {f"units.{unit.compute}.overrides": {**before, **counts}}


def most_copies(unit: Preprocessor) -> int:
    """How many copies of all pipelines the FPGA holds, of the resources that are known.

    >>> from neardata.arch.preprocessor import load_preprocessor
    >>> most_copies(load_preprocessor("smartssd"))
    1
    """
    from neardata.arch.errors import InputError
    from neardata.arch.stream import load_fpga
    from neardata.sim.stream import check_fits

    system = unit.load_system()
    described = system.units[unit.compute]
    if not isinstance(described, StreamUnit) or described.fpga is None:
        raise InputError(f"{unit.name} has no FPGA whose resources are known")
    fit = 0
    for n in _counting():
        changed = unit.load_system(replicated(unit, dict.fromkeys(described.pipelines, n)))
        try:
            check_fits(
                {p: changed.pipeline(unit.compute, p) for p in described.pipelines}, load_fpga(described.fpga)
            )
        except InputError:
            return fit
        fit = n
    return fit


def _counting() -> Iterator[int]:
    yield from range(1, 1025)
