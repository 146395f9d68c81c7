"""Run a program on a system: every task by its unit's engine, all of them by the schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from neardata.arch.errors import InputError, nearest
from neardata.arch.system import PimUnit, ProcessorUnit, StorageUnit, StreamUnit, System
from neardata.sim.program import (
    Collective,
    Elementwise,
    FlashMatMul,
    FlashTogether,
    Kernel,
    PimMatMul,
    Program,
    Stream,
    Task,
    Transfer,
)
from neardata.sim.system.links import collective, transfer
from neardata.sim.system.outcome import Outcome
from neardata.sim.system.pim import PimEngine
from neardata.sim.system.pim_programs import check_form, partial_sum_bytes
from neardata.sim.system.processors import run_on_processor
from neardata.sim.system.report import SystemReport
from neardata.sim.system.schedule import Job, schedule
from neardata.sim.system.storage import StorageEngine
from neardata.sim.system.streams import StreamEngine

__all__ = ["Costs", "run"]


class Costs:
    """What each kernel costs on each unit of a system.

    Units of one group are alike, and every task finds its unit in the same state, so a kernel is
    run once per group: the same kernel again is looked up (``memoise``).
    """

    def __init__(self, system: System, *, memoise: bool = True, jump: bool = True, fold: bool = True) -> None:
        self.system, self.memoise = system, memoise
        self._known: dict[tuple[str, Kernel], Outcome] = {}
        self._pim = {
            group: PimEngine(system.device(group), unit.channels, unit.refresh, jump=jump, fold=fold)
            for group, unit in system.units.items()
            if isinstance(unit, PimUnit)
        }
        self._streams = {group: StreamEngine(system, group, jump=jump) for group in system.groups("stream")}
        self._processors = {group: system.processor(group) for group in system.groups("processor")}
        self._drives = {
            group: StorageEngine(system.drive(group), self._processors.get(unit.attached_to or ""), fold=fold)
            for group, unit in system.units.items()
            if isinstance(unit, StorageUnit)
        }
        self._links = {name: system.link(name) for name in system.links}
        self.runs = 0
        """Kernels that were run, not looked up."""

    def of(self, group: str, kernel: Kernel) -> Outcome:
        """The cost of a kernel on a unit of ``group``, or on the link of that name.

        Raises:
            InputError: the unit does not run such kernels.
        """
        key = (group, kernel)
        if self.memoise and key in self._known:
            return self._known[key]
        self.runs += 1
        outcome = self._run(group, kernel)
        self._known[key] = outcome
        return outcome

    def _run(self, group: str, kernel: Kernel) -> Outcome:
        if group in self._pim:
            return self._pim[group].run(kernel)
        if group in self._drives:
            return self._drives[group].run(kernel)
        if group in self._streams:
            return self._streams[group].run(kernel)
        if group in self._processors:
            return run_on_processor(self._processors[group], kernel)
        if isinstance(kernel, Transfer):
            return transfer(self._links[group], kernel)
        if isinstance(kernel, Collective):
            return collective(self._links[group], kernel)
        raise InputError(f"'{group}' runs no {kernel.kind}")


def run(
    program: Program,
    system: System,
    *,
    costs: Costs | None = None,
    memoise: bool = True,
    jump: bool = True,
    fold: bool = True,
    progress: Callable[[int], None] | None = None,
) -> SystemReport:
    """Run a program to its end.

    Args:
        costs: of earlier runs on the same system, to look kernels up.
        memoise, jump, fold: accelerations that change no result; see `Costs` and
            `neardata.sim.dram.pim.run_program`.
        progress: called with the number of tasks whose cost is known.

    Raises:
        InputError: a unit or link that the system lacks, data that do not fit, a kernel that a unit
            does not run.
    """
    _check_places(program, system)
    _check_sums(program, system)
    costs = costs or Costs(system, memoise=memoise, jump=jump, fold=fold)
    groups = [_group(task, system) for task in program.tasks]
    outcomes = []
    for i, (task, group) in enumerate(zip(program.tasks, groups, strict=True)):
        try:
            outcomes.append(costs.of(group, task.kernel))
        except InputError as error:
            raise InputError(str(error), key=f"tasks.{task.name}") from None
        if progress is not None:
            progress(i + 1)
    index = {task.name: i for i, task in enumerate(program.tasks)}
    shared = {name for name in system.links if system.link(name).sharing == "shared"}
    jobs = [
        Job(
            tuple(index[name] for name in task.after),
            _resources(task, system),
            isinstance(task.kernel, Transfer) and task.unit in shared,
        )
        for task in program.tasks
    ]
    plan = schedule(jobs, lambda job, start: outcomes[job].time_ps)
    report = SystemReport(program, system, tuple(groups), tuple(outcomes), plan)
    _check_conservation(report)
    return report


def _group(task: Task, system: System) -> str:
    """The group of a task's unit, or the link."""
    if task.unit in system.links:
        return task.unit
    if task.unit not in system.instances:
        known = [*system.instances, *system.links]
        raise InputError(f"'{task.unit}' is no unit or link of the system{nearest(task.unit, known)}",
                         key=f"tasks.{task.name}.unit")  # fmt: skip
    return system.instances[task.unit].group


def _resources(task: Task, system: System) -> tuple[str, ...]:
    """What a task holds: the place of its unit, or ports of a link."""
    kernel = task.kernel
    if isinstance(kernel, Transfer):
        return (f"{task.unit} out of {kernel.source}", f"{task.unit} into {kernel.target}")
    if isinstance(kernel, Collective):
        return tuple(f"{task.unit} {way} {unit}" for unit in kernel.units for way in ("out of", "into"))
    instance = system.instances[task.unit]
    unit, place = system.units[instance.group], instance.place
    if isinstance(unit, StreamUnit) and unit.side_by_side and isinstance(kernel, Stream):
        return (f"{place} {kernel.pipeline}",)
    partner = system.attached(task.unit) if _streams(kernel) else None
    return (place,) if partner is None else (place, system.instances[partner].place)


def _streams(kernel: Kernel) -> bool:
    """Whether a processor multiplies a part of it."""
    if isinstance(kernel, FlashTogether):
        return any(_streams(part) for part in kernel.parts)
    return isinstance(kernel, FlashMatMul) and kernel.streamed > 0


def _check_places(program: Program, system: System) -> None:
    """Ports of transfers exist; data fit where they are placed."""
    for task in program.tasks:
        kernel = task.kernel
        if isinstance(kernel, Transfer | Collective) != (task.unit in system.links):
            raise InputError(
                f"'{kernel.kind}' does not run on '{task.unit}'", key=f"tasks.{task.name}.kernel"
            )
        ends: Sequence[str] = ()
        if isinstance(kernel, Transfer):
            ends = (kernel.source, kernel.target)
        elif isinstance(kernel, Collective):
            ends = kernel.units
        for end in ends:
            instance = system.instances.get(end)
            if instance is None or instance.group not in system.links[task.unit].between:
                raise InputError(f"'{end}' has no port on '{task.unit}'", key=f"tasks.{task.name}.kernel")
    for place, held in program.bytes_at.items():
        if place not in system.capacities:
            raise InputError(f"'{place}' holds no data{nearest(place, system.capacities)}", key="placement")
        there = system.capacities[place]
        if held > there:
            raise InputError(
                f"{held:,} bytes are placed in '{place}', which holds {there:,}: {held - there:,} too many",
                key="placement",
            )


def _check_conservation(report: SystemReport) -> None:
    """The tasks of the operators do as many multiply-accumulates as the graph says."""
    group_of = {name: name for name in report.program.operators}
    for task in report.program.tasks:  # operators in one kernel are counted together
        for name in task.operators[1:]:
            group_of[name] = group_of.get(task.operators[0], name)
    asked: dict[str, int] = {}
    for name, operator in report.program.operators.items():
        asked[group_of[name]] = asked.get(group_of[name], 0) + operator["macs"]
    done: dict[str, int] = {}
    for task in report.program.tasks:
        if task.operators and task.operators[0] in group_of:
            name = group_of[task.operators[0]]
            done[name] = done.get(name, 0) + task.kernel.macs
    for name, macs in asked.items():
        if done.get(name, 0) != macs:
            problem = f"its tasks do {done.get(name, 0):,} of {macs:,} multiply-accumulates"
            raise InputError(problem, key=f"operators.{name}")


def _check_sums(program: Program, system: System) -> None:
    """Partial sums that a processor is to add are read, each product's by a task of the same operators that
    waits for it, directly or through transfers."""
    split: dict[str, Task] = {}
    sizes: dict[str, int] = {}
    for task in program.tasks:
        if not isinstance(task.kernel, PimMatMul) or task.kernel.reduction != "processor":
            continue
        unit = system.units.get(group := _group(task, system))
        if isinstance(unit, PimUnit):  # others refuse the kernel itself
            device = system.device(group)
            try:
                check_form(task.kernel, device, unit.channels)
            except InputError as error:
                raise InputError(str(error), key=f"tasks.{task.name}") from None
            split[task.name], sizes[task.name] = task, partial_sum_bytes(task.kernel, device)
    if not split:
        return
    behind: dict[str, frozenset[str]] = {}
    """Of each transfer, and of each of these products itself, the products whose results it has."""
    added: set[str] = set()
    for task in program.tasks:
        waited = frozenset[str]().union(*(behind.get(name, frozenset()) for name in task.after))
        if task.name in split:
            behind[task.name] = frozenset((task.name,))
        elif isinstance(task.kernel, Transfer):
            behind[task.name] = waited
        elif isinstance(task.kernel, Elementwise):
            size = task.kernel.read_bytes
            mine = [n for n in waited - added if (split[n].operators, sizes[n]) == (task.operators, size)]
            added.update(sorted(mine)[:1])
    for name in split:
        if name not in added:
            problem = (
                f"no elementwise task of its operators, behind it directly or by transfers, reads its "
                f"{sizes[name]:,} bytes of partial sums"
            )
            raise InputError(problem, key=f"tasks.{name}")


def is_processor(system: System, group: str) -> bool:
    """Whether a group is of processors."""
    return isinstance(system.units.get(group), ProcessorUnit)
