"""What a program did on a system: time, reasons, energy, by operator and by unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from neardata.arch.system import PimUnit, ProcessorUnit, StorageUnit, System
from neardata.sim.program import Collective, Program, Task, Transfer
from neardata.sim.system.outcome import Outcome
from neardata.sim.system.pim import idle_energy_pj
from neardata.sim.system.schedule import RESOURCE, Schedule
from neardata.sim.system.storage import IDLE_PJ_PER_MW_PS

SCHEMA = 1
"""Of the JSON form; it grows when a field changes its meaning or goes."""


@dataclass(frozen=True)
class Part:
    """Tasks of one operator, or of one group of operators, added up."""

    name: str
    kind: str
    tasks: int
    units: tuple[str, ...]
    """Groups of units and links they ran on."""
    time_ps: int
    """Sum over the tasks, whatever ran beside them."""
    critical_ps: int
    """What of it lies on the critical path: these add up to the time of the run."""
    bound_ps: int
    lost_ps: Mapping[str, int]
    macs: int
    memory_bytes: int
    energy_pj: float


@dataclass(frozen=True)
class UnitUse:
    """One unit or link over the run."""

    name: str
    tasks: int
    busy_ps: int
    bound_ps: int
    """What of its busy time its peak rates ask for."""
    lost_ps: Mapping[str, int]
    """Rest of the busy time, by cause."""
    idle_ps: Mapping[str, int]
    """Time without a task, by what it waited for: another unit or link, or ``nothing left to do``."""
    energy_pj: float


@dataclass(frozen=True)
class SystemReport:
    """The result of a run."""

    program: Program
    system: System
    groups: tuple[str, ...]
    """Per task: group of its unit, or the link."""
    outcomes: tuple[Outcome, ...]
    """Per task."""
    schedule: Schedule = field(repr=False)

    @property
    def time_ps(self) -> int:
        """From the first start to the last end."""
        return self.schedule.time_ps

    @cached_property
    def step_ends(self) -> tuple[int, ...]:
        """End of each step that the program runs; never empty."""
        ends: dict[int, int] = {0: 0}
        for task, end in zip(self.program.tasks, self.schedule.end, strict=True):
            ends[task.step] = max(ends.get(task.step, 0), end)
        return tuple(ends.get(step, 0) for step in range(max(ends) + 1))

    @property
    def first_counted(self) -> int:
        """The step from which figures of a step are taken: the second, for the first begins with empty
        units and caches; the only one, where there is one."""
        return min(1, len(self.step_ends) - 1)

    @property
    def counted_ps(self) -> tuple[int, int]:
        """Start and end of the time of the steps that count."""
        return (self.step_ends[0] if self.first_counted else 0), self.step_ends[-1]

    @property
    def tokens_per_s(self) -> float:
        """Tokens that the program makes over its time."""
        return self.program.tokens * 1e12 / self.time_ps if self.time_ps else 0.0

    @cached_property
    def energy_pj(self) -> dict[str, float]:
        """By component, and what units draw while they wait."""
        rest = [self.at_rest_pj(use.name, sum(use.idle_ps.values())) for use in self.units]
        return summed([self.task_energy_pj(), *rest])

    @cached_property
    def energy_untold(self) -> tuple[str, ...]:
        """Components without an energy: what the energies leave out."""
        untold = (
            f"{group} {name}"
            for group, outcome in zip(self.groups, self.outcomes, strict=True)
            for name in outcome.energy_untold
        )
        return tuple(dict.fromkeys(untold))

    def task_energy_pj(self, first_step: int = 0) -> dict[str, float]:
        """Of the tasks alone, of those from a step on, by component."""
        pairs = zip(self.program.tasks, self.outcomes, strict=True)
        return summed(outcome.energy_pj for task, outcome in pairs if task.step >= first_step)

    def busy_ps(self, first_step: int = 0, since_ps: int = 0) -> dict[str, int]:
        """By unit and link port that has any: time taken by the tasks from a step on, behind a moment."""
        start, end = self.schedule.start, self.schedule.end
        upto: dict[str, int] = {}
        busy: dict[str, int] = {}
        for i in sorted(range(len(start)), key=lambda i: (start[i], end[i])):
            task = self.program.tasks[i]
            if task.step < first_step:
                continue
            for name in users_of(task):
                before = upto.get(name, since_ps)
                busy[name] = busy.get(name, 0) + max(end[i] - max(start[i], before), 0)
                upto[name] = max(before, end[i])
        return busy

    def at_rest_pj(self, name: str, time_ps: int) -> dict[str, float]:
        """What a unit draws in a time without tasks: a processor at rest, a memory with closed banks
        that is refreshed."""
        instance = self.system.instances.get(name)
        if instance is None:
            return {}
        unit = self.system.units[instance.group]
        if isinstance(unit, ProcessorUnit):
            return {"processors idle": self.system.processor(instance.group).power.idle_w.value * time_ps}
        if isinstance(unit, StorageUnit):
            idle_mw = self.system.drive(instance.group).energy.idle_mw.value
            return {"drive idle": idle_mw * IDLE_PJ_PER_MW_PS * time_ps}
        if isinstance(unit, PimUnit):
            return idle_energy_pj(self.system.device(instance.group), unit.channels, time_ps)
        return {}

    @property
    def total_energy_pj(self) -> float:
        """Sum over the components."""
        return sum(self.energy_pj.values())

    @property
    def row_hit_rate(self) -> float | None:
        """Of the computing commands of PIM memories, those that found their row open; None without any."""
        accesses = sum(outcome.row_accesses for outcome in self.outcomes)
        if not accesses:
            return None
        return 1 - sum(outcome.row_openings for outcome in self.outcomes) / accesses

    @cached_property
    def critical(self) -> list[int]:
        """Task numbers of the critical path."""
        return self.schedule.critical_path()

    @cached_property
    def critical_ps(self) -> dict[int, int]:
        """Task number: time by which it moves the critical path forward."""
        passed, took = 0, {}
        for i in self.critical:
            took[i] = self.schedule.end[i] - passed
            passed = self.schedule.end[i]
        return took

    def operators(self) -> list[Part]:
        """Every operator, in the order of the program."""
        return self._parts([" + ".join(task.operators) or task.name for task in self.program.tasks])

    def parts(self) -> list[Part]:
        """By group of operators, such as ``attention`` and ``experts``; links stand apart."""
        names = []
        for task, group in zip(self.program.tasks, self.groups, strict=True):
            operator = self.program.operators.get(task.operators[-1] if task.operators else "", {})
            if isinstance(task.kernel, Transfer | Collective):
                names.append(f"link {group}")
            else:
                names.append(str(operator.get("group") or operator.get("kind") or task.kernel.kind))
        return self._parts(names)

    def _parts(self, names: Iterable[str]) -> list[Part]:
        members: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            members.setdefault(name, []).append(i)
        return [self._part(name, tasks) for name, tasks in members.items()]

    def _part(self, name: str, tasks: list[int]) -> Part:
        outcomes = [self.outcomes[i] for i in tasks]
        kind = self.program.operators.get(name, {}).get("kind") or self.program.tasks[tasks[0]].kernel.kind
        return Part(
            name=name,
            kind=str(kind),
            tasks=len(tasks),
            units=tuple(dict.fromkeys(self.groups[i] for i in tasks)),
            time_ps=sum(o.time_ps for o in outcomes),
            critical_ps=sum(self.critical_ps.get(i, 0) for i in tasks),
            bound_ps=sum(o.bound_ps for o in outcomes),
            lost_ps=added(o.lost_ps for o in outcomes),
            macs=sum(o.macs for o in outcomes),
            memory_bytes=sum(o.memory_bytes for o in outcomes),
            energy_pj=sum(sum(o.energy_pj.values()) for o in outcomes),
        )

    @cached_property
    def reasons_ps(self) -> dict[str, int]:
        """Where the time of the run went: the critical path by bound and cause. Adds up to it."""
        totals: dict[str, int] = {}
        for i, passed in self.critical_ps.items():
            outcome, group = self.outcomes[i], self.groups[i]
            here = {f"{group}: {outcome.bound_by}": outcome.bound_ps}
            for cause, ps in outcome.lost_ps.items():
                here[f"{group}: {cause}"] = here.get(f"{group}: {cause}", 0) + ps
            beyond = passed - outcome.time_ps
            if beyond:  # a flow that shared its port
                here[f"{group}: sharing"] = beyond
            for name, ps in here.items():
                totals[name] = totals.get(name, 0) + ps
        return dict(sorted(((n, ps) for n, ps in totals.items() if ps), key=lambda item: -item[1]))

    @cached_property
    def units(self) -> list[UnitUse]:
        """Every unit, and every link port that was used."""
        members: dict[str, list[int]] = {}
        for i, task in enumerate(self.program.tasks):
            for name in users_of(task):
                members.setdefault(name, []).append(i)
        for name in self.system.instances:
            members.setdefault(name, [])
        return [self._use(name, tasks) for name, tasks in members.items()]

    def _use(self, name: str, tasks: list[int]) -> UnitUse:
        start, end = self.schedule.start, self.schedule.end
        tasks = sorted(tasks, key=lambda i: (start[i], end[i]))
        idle: dict[str, int] = {}
        busy = upto = 0
        for i in tasks:
            gap = start[i] - upto
            if gap > 0:
                before = self.schedule.held_by[i]
                cause = "start" if before < 0 else self.groups[before]
                if self.schedule.reason[i] == RESOURCE:
                    cause = f"{cause}, which held the memory"
                idle[cause] = idle.get(cause, 0) + gap
            busy += max(end[i] - max(start[i], upto), 0)
            upto = max(upto, end[i])
        if self.time_ps > upto:
            idle["nothing left to do"] = self.time_ps - upto
        outcomes = [self.outcomes[i] for i in tasks]
        return UnitUse(
            name=name,
            tasks=len(tasks),
            busy_ps=busy,
            bound_ps=sum(o.bound_ps for o in outcomes),
            lost_ps=added(o.lost_ps for o in outcomes),
            idle_ps=idle,
            energy_pj=sum(sum(o.energy_pj.values()) for o in outcomes),
        )

    def utilisation(self) -> dict[str, float]:
        """Group of units or link: busy share of the time, mean over its units or ports."""
        shares: dict[str, list[float]] = {}
        for use in self.units:
            instance = self.system.instances.get(use.name)
            group = instance.group if instance else use.name.split(" ")[0]
            shares.setdefault(group, []).append(use.busy_ps / self.time_ps if self.time_ps else 0.0)
        return {group: sum(values) / len(values) for group, values in shares.items()}


def users_of(task: Task) -> tuple[str, ...]:
    """The unit that a task takes, or the ports of its link."""
    kernel = task.kernel
    if isinstance(kernel, Transfer):
        return (f"{task.unit} {kernel.source}-{kernel.target}",)
    if isinstance(kernel, Collective):
        return (f"{task.unit} collective",)
    return (task.unit,)


def added(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Sums by key, the largest first."""
    totals: dict[str, int] = {}
    for part in parts:
        for name, ps in part.items():
            totals[name] = totals.get(name, 0) + ps
    return dict(sorted(totals.items(), key=lambda item: -item[1]))


def summed(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Sums of energies by key, the largest first, without zeros."""
    totals: dict[str, float] = {}
    for part in parts:
        for name, pj in part.items():
            if pj:
                totals[name] = totals.get(name, 0.0) + pj
    return dict(sorted(totals.items(), key=lambda item: -item[1]))
