"""A model's graph on a processor whose memory does not hold its experts: `offloaded`.

The graph is lowered as if all of it fitted; then a policy of `neardata.mappers.offload`, `fiddler` or
`hybrimoe` takes the place of each layer's experts. It fetches them, cut out of the weights expert by expert,
and computes them on the processor or on the host, with the rows of the tokens that are routed to
them. Everything else stays as it was lowered. Several graphs are steps that follow each other, each with
its own routing: what the policy keeps from one, it has in the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, Literal

from neardata.arch.errors import InputError
from neardata.arch.system import System
from neardata.mappers import fiddler, hybrimoe, offload
from neardata.mappers.expert_cache import (
    Eviction,
    Key,
    LeastFrequentlyUsed,
    LeastRecentlyUsed,
    MinusRecentScore,
)
from neardata.mappers.expert_memory import Room, machine_of
from neardata.mappers.expert_placement import Load, hottest
from neardata.mappers.expert_policy import Cached, CpuCold, Hybrid, OnDemand, Policy, PrefetchAll, PreGated
from neardata.mappers.expert_steps import ExpertLayer, Step
from neardata.mappers.moe_block import Block, Expert, Machine, Passes
from neardata.mappers.offload import Offload, Placer, keys_of
from neardata.sim.program import Elementwise, GroupedMatMul, Kernel, Operand, Program, Task, Transfer
from neardata.workloads.graph import Graph

Cost = Callable[[str, Kernel], int]

CACHES: dict[str, Callable[[], Eviction]] = {
    "lru": LeastRecentlyUsed,
    "lfu": LeastFrequentlyUsed,
    "score": MinusRecentScore,
}


def offloaded(
    programs: Sequence[Program],
    graphs: Sequence[Graph],
    system: System,
    device: str,
    policy: Policy,
    cost: Cost | None,
    load: Load | None = None,
) -> Program:
    """The program of steps whose experts a policy fetches, keeps and computes.

    Args:
        programs: one for each step, lowered with all experts on the device.
        graphs: of the steps.
        device: the processor.
        cost: picoseconds of a kernel on a unit of a group; of policies that weigh costs.
        load: tells who is popular.

    Raises:
        InputError: no experts, no host, experts or what stays beside them do not fit.
    """
    steps = [Step.of(program, graph) for program, graph in zip(programs, graphs, strict=True)]
    if not steps[0].layers:
        raise InputError(f"{graphs[0].name} has no experts", key="mapping.experts")
    machine = machine_of(system, device, policy)
    _check_kernels(steps)
    first = steps[0]
    size = first.layers[0].expert_bytes
    others = sum(o.bytes for o in programs[0].placement if o.place == device and o.tensor not in first.kept)
    room = Room(system, machine, size, others, first)
    passes = [[Block(layer.number, layer.tokens) for layer in step.layers] for step in steps]
    expert = Expert(size, first.layers[0].kernels, first.layers[0].kernels, first.layers[0].row_bytes)
    placed = _place(policy, passes, expert, machine, room, partial(_Writer, steps), cost, load)
    room.check(placed)
    return _program(programs, steps, machine, placed, policy, system)


def _check_kernels(steps: Sequence[Step]) -> None:
    for step in steps:
        for layer in step.layers:
            for task in layer.experts:
                if not isinstance(task.kernel, GroupedMatMul | Elementwise):
                    raise InputError(
                        "experts that memories compute do not lie in a host; on_pim: attention would do",
                        key="mapping.on_pim",
                    )


def _place(
    policy: Policy,
    passes: Passes,
    expert: Expert,
    machine: Machine,
    room: Room,
    writer: offload.Writer,
    cost: Cost | None,
    load: Load | None,
) -> Offload:
    common: dict[str, Any] = {"writer": writer}
    if isinstance(policy, OnDemand | PrefetchAll | PreGated):
        place = {
            "on-demand": offload.on_demand,
            "prefetch-all": offload.prefetch_all,
            "pre-gated": offload.pre_gated,
        }[policy.policy]
        return place(passes, expert, machine, wait=policy.wait, **common)
    staging = policy.staging if isinstance(policy, CpuCold) else 0
    capacity = room.slots(policy.capacity, staging)
    start = _start(policy.start, room.step, capacity, load)
    if isinstance(policy, CpuCold):
        return fiddler.place(
            passes,
            expert,
            machine,
            on_device=start,
            costs=_times(expert, machine, cost),
            objective=policy.objective,
            staging=staging,
            **common,
        )
    room.active(passes, capacity)
    common |= {"capacity": capacity, "eviction": CACHES[policy.cache](), "start": start}
    if isinstance(policy, Cached):
        return offload.cached(passes, expert, machine, wait=policy.wait, **common)
    return hybrimoe.place(
        passes,
        expert,
        machine,
        costs=_times(expert, machine, cost),
        depth=policy.depth,
        schedule=policy.schedule,
        fetch_only_if_earlier=policy.guarded,
        **common,
    )


def _start(
    start: Literal["even", "popular", "empty"], step: Step, capacity: int, load: Load | None
) -> tuple[Key, ...]:
    """Experts on the device at the start."""
    if start == "empty":
        return ()
    counts = {layer.number: len(layer.tokens) for layer in step.layers}
    if start == "popular":
        if load is None:
            raise InputError(
                "who is popular is not known: give load, or start: even", key="mapping.experts.start"
            )
        shares = zip(counts, load, strict=True)
        return hottest({(at, e): float(n) for at, of in shares for e, n in enumerate(of)}, capacity)
    by_turns = sorted((e, at) for at, count in counts.items() for e in range(count))
    return tuple((at, e) for e, at in by_turns[:capacity])


def _times(expert: Expert, machine: Machine, cost: Cost | None) -> fiddler.ExpertTimes:
    """What a policy believes: each kernel's cost on its own."""
    if cost is None:
        raise InputError("to weigh processor and host costs are needed", key="mapping.experts")

    def of(unit: str, kernels: Callable[[int], tuple[Kernel, ...]]) -> Callable[[int], float]:
        return cache(lambda tokens: float(sum(cost(unit, kernel) for kernel in kernels(tokens))))

    fetch = float(cost(machine.link, Transfer(machine.host, machine.device, expert.bytes)))
    return fiddler.ExpertTimes(of(machine.cpu, expert.cpu_kernels), of(machine.device, expert.kernels), fetch)


class _Writer(Placer):
    """Writes a policy's tasks between those of the lowered steps."""

    def __init__(
        self,
        steps: Sequence[Step],
        policy: str,
        expert: Expert,
        machine: Machine,
        passes: Passes,
        other_bytes: int,
    ) -> None:
        super().__init__(policy, expert, machine, passes, other_bytes)
        self.steps = steps
        self.found: dict[str, tuple[int, ExpertLayer]] = {}
        """By the start of a block's names: its step and layer."""
        for number, (step, blocks) in enumerate(zip(steps, passes, strict=True)):
            for layer, block in zip(step.layers, blocks, strict=True):
                self.found[self.at(number, block)] = (number, layer)
        self.by_number = {layer.number: layer for layer in steps[0].layers}
        self.instead: dict[str, tuple[str, ...]] = {}
        """The tasks that end a layer's experts, by the names they are known by in the tasks behind."""
        self.results: tuple[str, ...] = ()
        """Of the step before."""
        self.warm = (0, 0, 0)
        """Hits, fetches and experts on the CPU of the first step."""

    def at(self, number: int, block: Block) -> str:
        return f"{self._step(number)}layer{block.layer}"

    def _step(self, number: int) -> str:
        return f"s{number}/" if len(self.steps) > 1 else ""

    def add(
        self,
        name: str,
        unit: str,
        kernel: Kernel,
        after: Iterable[str],
        operator: str,
        reads: tuple[Operand, ...] = (),
        writes: tuple[Operand, ...] = (),
    ) -> str:
        waits = tuple(dict.fromkeys(after))
        step, _ = self.found[name.split(".")[0]]
        self.tasks.append(Task(name, unit, kernel, waits, (), reads, writes, step))
        return name

    def weights(self, key: Key, place: str) -> tuple[Operand, ...]:
        layer = self.by_number[key[0]]
        return tuple(o for name in layer.weights for o in layer.operands(name, place, [key[1]]))

    def rows(self, at: str, key: Key, way: Literal["in", "out"], place: str) -> tuple[Operand, ...]:
        layer = self.found[at][1]
        return layer.operands(layer.ends(way), place, [key[1]])

    def copy(self, task: Task, number: int) -> None:
        """A task that stays as it was lowered."""
        graph, step = self.steps[number].graph, self._step(number)
        after = tuple(
            dict.fromkeys(w for name in task.after for w in self.instead.get(step + name, (step + name,)))
        )
        read = [o.tensor for o in task.reads if graph.tensors[o.tensor].role == "index"]
        if any(graph.producer(name) is None for name in read):  # token numbers
            after = self.results + after
        self.tasks.append(replace(task, name=step + task.name, after=after, step=number))

    def before(self, at: str, block: Block) -> None:
        number, layer = self.found[at]
        for task in layer.before:
            self.copy(task, number)
        step, inner = self._step(number), layer.inner
        waits = (name for task in layer.experts for name in task.after if name not in inner)
        self.tail = tuple(dict.fromkeys(step + name for name in waits))

    def work(self, at: str, key: Key, tokens: int, after: Iterable[str], *, on_cpu: bool) -> str:
        unit = self.machine.cpu if on_cpu else self.machine.device
        return self._experts(at, [key[1]], unit, tuple(after), f"{at}.e{key[1]}.")

    def compute_together(self, at: str, block: Block, after: Iterable[str]) -> list[str]:
        keys = keys_of(block)
        waits = (*after, *self.arrivals(keys))
        last = self._experts(at, block.active, self.machine.device, waits, f"{at}.experts.")
        for key in keys:
            self.occupy(key, last)
        return [last]

    def _experts(
        self, at: str, experts: Sequence[int], unit: str, after: tuple[str, ...], prefix: str
    ) -> str:
        """The tasks of some experts, as those of all of them are; the last one's name."""
        number, layer = self.found[at]
        made: dict[str, str] = {}
        for task in layer.experts:
            name = prefix + task.name.rpartition(".")[2]
            inside = tuple(made[waited] for waited in task.after if waited in made)
            outside = after if any(waited not in made for waited in task.after) else ()
            made[task.name] = name
            self.tasks.append(
                Task(
                    name,
                    unit,
                    layer.kernel(task, experts),
                    tuple(dict.fromkeys((*outside, *inside))),
                    task.operators,
                    tuple(o for read in task.reads for o in layer.operands(read.tensor, unit, experts)),
                    tuple(o for made in task.writes for o in layer.operands(made.tensor, unit, experts)),
                    number,
                )
            )
        return name

    def end(self, at: str, block: Block, experts: Sequence[str]) -> None:
        number, layer = self.found[at]
        step = self._step(number)
        self.tail = tuple(experts)
        self.instead |= dict.fromkeys((step + name for name in layer.inner), self.tail)
        if layer is self.steps[number].layers[-1]:
            rest = self.steps[number].rest
            for task in rest:
                self.copy(task, number)
            waited = {name for task in rest for name in task.after}
            ends = tuple(step + task.name for task in rest if task.name not in waited)
            self.tail = self.results = ends or self.tail
            if not number:
                self.warm = (self._hits, self._fetches, self._cpu)
        self._block_ends.append(self.tail)

    def done(self) -> Offload:
        placed = super().done()
        if len(self.steps) == 1:
            return placed
        hits, fetches, cpu = self.warm
        return replace(
            placed, hits=placed.hits - hits, fetches=placed.fetches - fetches,
            cpu_experts=placed.cpu_experts - cpu,
        )  # fmt: skip


def _program(
    programs: Sequence[Program],
    steps: Sequence[Step],
    machine: Machine,
    placed: Offload,
    policy: Policy,
    system: System,
) -> Program:
    """The tasks with what lies where, and what they add up to."""
    first, kept = programs[0], steps[0].kept
    home = machine.storage or machine.host
    graph = steps[0].graph
    placement = [o for o in first.placement if o.tensor not in kept]
    layers = {layer.number: layer for layer in steps[0].layers}
    for number, expert in placed.resident:
        layer = layers[number]
        placement += [o for name in layer.weights for o in layer.operands(name, machine.device, [expert])]
    whole = {o.tensor: o for o in first.placement if o.tensor in kept}
    placement += [replace(operand, place=home) for operand in whole.values()]
    size = steps[0].layers[0].expert_bytes
    slots = placed.device_bytes // size if size else 0
    operators: dict[str, dict[str, Any]] = {}
    for program in programs:
        for name, entry in program.operators.items():
            known = operators.setdefault(name, {**entry, "macs": 0})
            known["macs"] += entry["macs"]
    counted = steps[1:] or steps
    computed = sum(1 for step in counted for layer in step.layers for n in layer.tokens if n)
    free = (slots - len(placed.resident)) * size
    return Program(
        name=graph.name,
        system=system.name,
        tasks=placed.program.tasks,
        placement=tuple(placement),
        operators=operators,
        tokens=sum(program.tokens for program in programs),
        hardware=system.to_dict(),
        notes=(*first.notes, _told(policy, machine, slots, len(placed.resident), size)),
        reserved={machine.device: free} if free else {},
        figures={
            "experts": computed,
            "experts found": placed.hits,
            "experts fetched": placed.fetches,
            "experts on host": placed.cpu_experts,
            "expert places": slots,
            "expert bytes": size,
        },
    )


def _told(policy: Policy, machine: Machine, slots: int, there: int, size: int) -> str:
    home = machine.storage or machine.host
    settings: Mapping[str, Any] = policy.model_dump(exclude={"policy", "host", "storage"})
    told = ", ".join(f"{name} {value}" for name, value in settings.items())
    text = f"experts lie in {home}: {policy.policy}, {told}"
    text += f"; {slots} places of {size:,} bytes on {machine.device}"
    if there:
        text += f", {there} filled at the start"
    if isinstance(policy, Hybrid) and policy.depth:
        text += "; prefetches know the routing ahead"
    return text
