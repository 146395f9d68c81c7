"""From a graph to a program: operators onto the units of a system, with the transfers between.

`lower` walks the graph in order. Each operator runs on the slots of its layer's pipeline stage, as
`Sharding` splits it, on the processor or in the memory of each slot. An input that is not where an
operator runs is sent there first; partial sums are added up over the slots where a whole array is
wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from neardata.arch.errors import InputError
from neardata.arch.system import PimUnit, System
from neardata.mappers.expert_offload import offloaded
from neardata.mappers.expert_placement import Load
from neardata.mappers.flash import FlashPlacer
from neardata.mappers.in_storage import CachePlacer
from neardata.mappers.layout import bytes_of_rows, channel_rows, fill
from neardata.mappers.lowering_pass import Pass, Slot
from neardata.mappers.mapping import Mapping, pim_group, processor_group, storage_group
from neardata.mappers.product_choice import ProductChoice
from neardata.mappers.regions import WHOLE, Shard
from neardata.mappers.sharding import Sharding
from neardata.sim.program import Elementwise, Kernel, Operand, PimMatMul, Program, Task, Transfer
from neardata.workloads.graph import Graph, Operator

Cost = Callable[[str, Kernel], int]
"""Picoseconds of a kernel on a unit of a group."""


class ChannelsFull(InputError):
    """A memory has room, but no channels of it for matrices of so few channels each."""

    def __init__(self, place: str, needed: int, there: int, largest: str) -> None:
        self.place, self.needed, self.there, self.largest = place, needed, there, largest
        super().__init__(
            f"matrices would take {needed:,} bytes of a channel of '{place}', which holds {there:,}: "
            f"give their forms more channels; {largest}",
            key="mapping.products",
        )


def lower(
    graphs: Graph | Sequence[Graph],
    system: System,
    mapping: Mapping,
    cost: Cost | None = None,
    load: Load | None = None,
) -> Program:
    """Place the operators of a graph, or of the micro-batches of one, on a system.

    Args:
        graphs: one graph, or one per micro-batch with the same weights; with a policy for experts, one per
            step.
        cost: decides between processor and memory where the mapping says ``fastest``, and for policies that
            weigh costs.
        load: of each layer with experts, how much each is chosen, which tells a policy who is popular, or has
            to do, which ``balanced`` experts need (`neardata.mappers.kernels.expert_load`).

    Raises:
        InputError: the mapping does not fit the system.
        ChannelsFull: matrices do not fit the channels of a PIM memory that has room for them.
    """
    if not isinstance(mapping.experts, str):
        steps = [graphs] if isinstance(graphs, Graph) else list(graphs)
        one = mapping.model_copy(update={"experts": "split", "steps": 1})
        if mapping.pipeline != 1 or mapping.micro_batches != 1:
            raise InputError(
                f"{mapping.experts.policy} is for one processor: no pipeline, no micro-batches",
                key="mapping.experts.policy",
            )
        programs = [lower(graph, system, one, cost) for graph in steps]
        device = processor_group(system, mapping)
        return offloaded(programs, steps, system, device, mapping.experts, cost, load)
    parts = [graphs] if isinstance(graphs, Graph) else list(graphs)
    return Lowering(parts, system, mapping, cost, load).program()


def stage_bytes(graph: Graph, stages: int) -> list[int]:
    """Bytes of weights and caches in each pipeline stage of a graph, each counted once."""
    layers = sorted({op.layer for op in graph if op.layer is not None})
    held: list[set[str]] = [set() for _ in range(stages)]
    for operator in graph:
        for name in (*operator.inputs, *operator.outputs):
            if graph.tensors[name].role in ("weight", "cache"):
                held[_stage_of(operator, layers, stages)].add(name)
    return [sum(graph.tensors[name].bytes for name in names) for names in held]


def _stage_of(operator: Operator, layers: list[int], stages: int) -> int:
    """Layers in equal numbers; what stands before them is in the first stage, behind in the last."""
    if operator.layer is None:
        return 0 if operator.group == "embedding" else stages - 1
    return layers.index(operator.layer) * stages // len(layers)


class Lowering:
    """The units, and what all passes add to."""

    def __init__(
        self,
        graphs: list[Graph],
        system: System,
        mapping: Mapping,
        cost: Cost | None,
        load: Load | None = None,
    ) -> None:
        self.graphs, self.system, self.mapping, self.cost = graphs, system, mapping, cost
        self.processor = processor_group(system, mapping)
        self.pim = pim_group(system, mapping)
        self.device = None if self.pim is None else system.device(self.pim)
        self.storage = storage_group(system, mapping)
        self.flash = None if self.storage is None else FlashPlacer(system, self.storage, mapping.flash, cost)
        self.caches = CachePlacer(system, mapping)
        if mapping.on_pim == "fastest" and self.pim is not None and cost is None:
            raise InputError("to choose the fastest unit costs are needed", key="mapping.on_pim")
        self.stages = self._stages()
        self.layers = sorted({op.layer for graph in graphs for op in graph if op.layer is not None})
        assert isinstance(mapping.experts, str), "a policy is applied to a program, after lowering"
        slots = len(self.stages[0])
        self.shardings = [Sharding(graph, slots, mapping.experts, load) for graph in graphs]
        self.tasks: list[Task] = []
        self.placed: dict[tuple[str, str, Shard], Operand] = {}
        self.operators: dict[str, dict[str, Any]] = {}
        self.choice: dict[tuple[Kernel, ...], bool] = {}
        self.rows: dict[PimMatMul, tuple[int, ...]] = {}
        self.matrices: dict[str, dict[tuple[str, Shard], tuple[tuple[int, ...], int]]] = {}
        """Of each PIM memory's place, matrices in its banks: rows in channels, and how many are alike."""
        self.products = None
        if self.pim is None and mapping.products:
            raise InputError("forms of products in memory, and no PIM memory is used", key="mapping.products")
        if self.pim is not None:
            self.products = ProductChoice(
                list(zip(graphs, self.shardings, strict=True)),
                system,
                mapping,
                self.processor,
                self.pim,
                cost,
            )
        self.refused: dict[str, dict[str, None]] = {}
        """Why the memories do not run products that the mapping would give them: groups of operators."""

    def _stages(self) -> list[list[Slot]]:
        processors = self.system.names(self.processor)
        memories: list[str | None] = [None] * len(processors)
        if self.pim is not None:
            names = self.system.names(self.pim)
            if len(names) != len(processors):
                raise InputError(
                    f"{len(processors)} {self.processor} and {len(names)} {self.pim}: a slot has one of each",
                    key="mapping.pim",
                )
            memories = list(names)
        drives: list[str | None] = [None] * len(processors)
        if self.storage is not None:
            drives = list(self.system.names(self.storage))
        slots = [Slot(*units) for units in zip(processors, memories, drives, strict=True)]
        n = len(slots) if self.mapping.pipeline == "all" else self.mapping.pipeline
        if len(slots) % n:
            raise InputError(f"{len(slots)} units do not make {n} equal stages", key="mapping.pipeline")
        width = len(slots) // n
        return [slots[i * width : (i + 1) * width] for i in range(n)]

    def stage_of(self, operator: Operator) -> int:
        """The pipeline stage that an operator runs in."""
        return _stage_of(operator, self.layers, len(self.stages))

    def place_of(self, unit: str) -> str:
        """Where the data of a unit lie."""
        return self.system.instances[unit].place

    def program(self) -> Program:
        """Lower every step of every micro-batch."""
        walks = []
        for b, (graph, sharding) in enumerate(zip(self.graphs, self.shardings, strict=True)):
            prefix = f"b{b}/" if len(self.graphs) > 1 else ""
            walk = Pass(self, graph, sharding, prefix, "s0/" if self.mapping.steps > 1 else "")
            walk.run()
            walks.append(walk)
        for step in range(1, self.mapping.steps):
            for walk in walks:
                self._repeat(walk, step)
        for operator in self.operators.values():
            operator["macs"] *= self.mapping.steps
        program = Program(
            name=self.graphs[0].name,
            system=self.system.name,
            tasks=tuple(self.tasks),
            placement=tuple(self._placement()),
            operators=self.operators,
            tokens=sum(graph.batch for graph in self.graphs) * self.mapping.steps,
            hardware=self.system.to_dict(),
            notes=tuple(
                f"on {self.processor}, not {self.mapping.attention or self.pim}: {', '.join(groups)}: {why}"
                for why, groups in self.refused.items()
            ),
        )
        self._check_channels(program)
        return program

    def _placement(self) -> Iterator[Operand]:
        """What lies where; parts of what lies there whole, as a head that is the embedding, only once."""
        for (tensor, place, shard), operand in self.placed.items():
            if shard == WHOLE or (tensor, place, WHOLE) not in self.placed:
                yield operand

    def _repeat(self, walk: Pass, step: int) -> None:
        """The tasks of a pass again, for the token after: its input is the result of the step before."""

        def named(name: str, number: int) -> str:
            return f"s{number}/{name[3:]}"

        results = tuple(named(name, step - 1) for name in walk.ends)
        for task in walk.tasks:
            after = tuple(named(name, step) for name in task.after)
            if task.name in walk.entries:
                after = results + after
            self.tasks.append(
                Task(
                    named(task.name, step),
                    task.unit,
                    task.kernel,
                    after,
                    task.operators,
                    task.reads,
                    task.writes,
                    step,
                )
            )

    def runs_in_memory(
        self, operator: Operator, kernels: tuple[Kernel, ...], otherwise: Kernel, moved: tuple[Transfer, ...]
    ) -> bool:
        """Whether the mapping puts an operator's part on the PIM unit; ``moved``: what would be sent there
        and back."""
        if self.pim is None or not kernels:
            return False
        if self.mapping.on_pim == "attention":
            return operator.kind == "attention"
        if self.mapping.on_pim == "everything":
            return True
        if moved and operator.kind != "attention":  # the weights would lie there for this batch only
            return False
        key = (*kernels, otherwise)
        if key not in self.choice:
            assert self.cost is not None
            there = 0
            for kernel in kernels:
                there += self.cost(self.processor if isinstance(kernel, Elementwise) else self.pim, kernel)
            for transfer in moved:
                there += self.cost(self.link_between(transfer.source, transfer.target), transfer)
            self.choice[key] = there < self.cost(self.processor, otherwise)
        return self.choice[key]

    @property
    def channels(self) -> int:
        """Of a PIM memory."""
        unit = self.system.units[self.pim or ""]
        assert isinstance(unit, PimUnit)
        return unit.channels

    def take_rows(self, name: str, place: str, shard: Shard, kernel: PimMatMul, count: int) -> None:
        """Matrices of a tensor, multiplied in the banks of a PIM memory, take whole rows of them."""
        kernel = replace(kernel, m=1, order="")
        assert self.device is not None
        if kernel not in self.rows:
            self.rows[kernel] = channel_rows(kernel, self.device, self.channels)
        rows = self.rows[kernel]
        key = (name, place, shard)
        room = bytes_of_rows(sum(rows), self.device) * count
        self.placed[key] = replace(self.placed[key], bytes=room)
        self.matrices.setdefault(place, {})[name, shard] = rows, count

    def _check_channels(self, program: Program) -> None:
        """No channel of a memory holds more rows than it has. What lies there beside matrices can lie in any
        channel; places that are too small altogether are refused where programs are run.

        Raises:
            ChannelsFull: one would.
        """
        for place, matrices in self.matrices.items():
            if program.bytes_at[place] > self.system.capacities[place]:
                continue
            assert self.device is not None
            each = [rows for rows, count in matrices.values() for _ in range(count)]
            needed = max(fill(each, self.channels))
            there = self.system.capacities[place] // (self.channels * bytes_of_rows(1, self.device))
            if needed > there:
                (name, _), (rows, _) = max(matrices.items(), key=lambda item: item[1][0][0])
                size = bytes_of_rows(rows[0], self.device)
                told = f"a matrix of '{name}' takes most, {size:,} in each of {len(rows)} channels"
                needed, there = (bytes_of_rows(n, self.device) for n in (needed, there))
                raise ChannelsFull(place, needed, there, told)

    def link_between(self, one: str, other: str) -> str:
        """The link that joins two units.

        Raises:
            InputError: there is none.
        """
        groups = [self.system.instances[unit].group for unit in (one, other)]
        link = self.system.link_between(groups[0], groups[1])
        if link is None:
            raise InputError(
                f"no link joins '{one}' and '{other}', between which data must pass", key="links"
            )
        return link
