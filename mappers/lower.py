"""From a graph to a program: operators onto the units of a system, with the transfers between.

`lower` walks the graph in order. Each operator runs on the slots of its layer's pipeline stage, as
`Sharding` splits it, on the processor or in the memory of each slot. An input that is not where an
operator runs is sent there first; partial sums are added up over the slots where a whole array is
wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from neardata.arch.errors import InputError
from neardata.arch.system import PimUnit, System
from neardata.mappers.flash import FlashPlacer
from neardata.mappers.in_storage import CachePlacer, append_on_drives, attend_on_drives, fetch_from_memory
from neardata.mappers.kernels import elementwise_kernel, formats, pim_kernels, pim_refusal, processor_kernel
from neardata.mappers.layout import placed_bytes
from neardata.mappers.mapping import Mapping, pim_group, processor_group, storage_group
from neardata.mappers.regions import WHOLE, Shard, bytes_of, input_shard, output_shard, regions_of
from neardata.mappers.sharding import Rule, Sharding
from neardata.sim.program import (
    Collective,
    Elementwise,
    GroupedMatMul,
    Kernel,
    MatMul,
    Operand,
    Program,
    Task,
    Transfer,
)
from neardata.workloads.graph import Graph, Operator

Cost = Callable[[str, Kernel], int]
"""Picoseconds of a kernel on a unit of a group."""

PRODUCTS = ("linear", "expert_linear", "head_linear", "attention")
"""Kinds with kernels of their own; the others pass over data."""


@dataclass(frozen=True)
class Slot:
    """Where a part of a stage runs."""

    processor: str
    pim: str | None
    storage: str | None = None
    """A drive that multiplies, attached to the processor."""


def lower(
    graphs: Graph | Sequence[Graph], system: System, mapping: Mapping, cost: Cost | None = None
) -> Program:
    """Place the operators of a graph, or of the micro-batches of one, on a system.

    Args:
        graphs: one graph, or one per micro-batch with the same weights.
        cost: decides between processor and memory where the mapping says ``fastest``.

    Raises:
        InputError: the mapping does not fit the system.
    """
    return _Lowering([graphs] if isinstance(graphs, Graph) else list(graphs), system, mapping, cost).program()


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


class _Lowering:
    """The units, and what all passes add to."""

    def __init__(self, graphs: list[Graph], system: System, mapping: Mapping, cost: Cost | None) -> None:
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
        self.tasks: list[Task] = []
        self.placed: dict[tuple[str, str, Shard], Operand] = {}
        self.operators: dict[str, dict[str, Any]] = {}
        self.choice: dict[tuple[Kernel, ...], bool] = {}
        self.rooms: dict[tuple[int, int], int] = {}
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
        shardings = [Sharding(graph, len(self.stages[0]), self.mapping.experts) for graph in self.graphs]
        walks = []
        for b, graph in enumerate(self.graphs):
            prefix = f"b{b}/" if len(self.graphs) > 1 else ""
            walk = _Pass(self, graph, shardings[b], prefix, "s0/" if self.mapping.steps > 1 else "")
            walk.run()
            walks.append(walk)
        for step in range(1, self.mapping.steps):
            for walk in walks:
                self._repeat(walk, step)
        for operator in self.operators.values():
            operator["macs"] *= self.mapping.steps
        return Program(
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

    def _placement(self) -> Iterator[Operand]:
        """What lies where; parts of what lies there whole, as a head that is the embedding, only once."""
        for (tensor, place, shard), operand in self.placed.items():
            if shard == WHOLE or (tensor, place, WHOLE) not in self.placed:
                yield operand

    def _repeat(self, walk: _Pass, step: int) -> None:
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

    def room_of(self, n: int, k: int) -> int:
        """Bytes of the bank rows that an n x k matrix takes in the PIM memory."""
        if (n, k) not in self.rooms:
            assert self.pim is not None and self.device is not None
            unit = self.system.units[self.pim]
            assert isinstance(unit, PimUnit)
            self.rooms[n, k] = placed_bytes(n, k, self.device, unit.channels)
        return self.rooms[n, k]

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


def _cut(operand: Operand, rows: tuple[int, int]) -> Operand:
    """The part of an operand with these indices of its first dimension."""
    assert operand.slices is not None
    (start, stop), *rest = operand.slices
    size = operand.bytes * (rows[1] - rows[0]) // (stop - start)
    return Operand(operand.tensor, operand.place, size, (rows, *rest), operand.add)


class _Pass:
    """One step of one graph."""

    def __init__(self, low: _Lowering, graph: Graph, sharding: Sharding, prefix: str, step: str) -> None:
        self.low, self.graph, self.sharding = low, graph, sharding
        self.prefix = prefix
        """Of tensors and operators: the micro-batch."""
        self.name = step + prefix
        """Of tasks: the step and micro-batch."""
        self.tasks: list[Task] = []
        """Of this pass."""
        self.entries: set[str] = set()
        """Tasks that read token numbers: the result of the step before."""
        self.reads_tokens = False
        self.held: dict[tuple[str, int], dict[str, tuple[str, ...]]] = {}
        """(tensor, slot): places that hold the slot's part, and the tasks that put it there."""
        self.absent: set[tuple[str, int]] = set()
        """(tensor, slot): the slot's part is empty."""
        self.summed: set[str] = set()
        """Tensors made whole by a collective."""
        self.users: dict[str, list[Operator]] = {}
        for operator in graph:
            for tensor in operator.inputs:
                self.users.setdefault(tensor, []).append(operator)
        self.ends: tuple[str, ...] = ()

    def run(self) -> None:
        """Lower all operators."""
        group: list[Operator] = []
        for operator in self.graph:
            if group and not self._joins(group, operator):
                self._lower(group)
                group = []
            group.append(operator)
        if group:
            self._lower(group)

    def _add(self, task: Task) -> None:
        self.tasks.append(task)
        self.low.tasks.append(task)
        if self.reads_tokens:
            self.entries.add(task.name)
            self.reads_tokens = False

    def _joins(self, group: list[Operator], operator: Operator) -> bool:
        """Whether an operator goes into one kernel with those before it."""
        if not self.low.mapping.fuse:
            return False
        if operator.kind in PRODUCTS or group[-1].kind in PRODUCTS:
            return self._side_by_side(group[0], operator)
        if self.low.stage_of(group[0]) != self.low.stage_of(operator):
            return False
        made = {name for member in group for name in member.outputs}
        keys_and_values = group[-1].kind == operator.kind == "kv_append"
        if not keys_and_values and not any(name in made for name in operator.inputs):
            return False
        rules = [self.sharding.rules[member.name].form for member in (group[0], operator)]
        if (rules[0] == "whole") != (rules[1] == "whole"):
            return False
        # a sum over the slots stands between
        return rules[1] != "whole" or not any(self._state(name) != "whole" for name in operator.inputs)

    def _side_by_side(self, one: Operator, other: Operator) -> bool:
        """Whether two products of the same input can be one with their matrices side by side."""
        rules = [self.sharding.rules[operator.name].form for operator in (one, other)]
        return (
            one.kind == other.kind in ("linear", "expert_linear")
            and one.inputs[0] == other.inputs[0]
            and len(one.inputs) == len(other.inputs)
            and rules[0] == rules[1] in ("whole", "columns", "experts")
            and formats(self.graph, one) == formats(self.graph, other)
        )

    def _state(self, name: str) -> Any:
        return "whole" if name in self.summed else self.sharding.state.get(name, "whole")

    def _lower(self, group: list[Operator]) -> None:
        low = self.low
        slots = low.stages[low.stage_of(group[0])]
        made: set[str] = set()
        for operator in group:
            self._declare(operator)
            rule = self.sharding.rules[operator.name]
            for name in operator.inputs:
                if name not in made and self._state(name) != "whole" and self._needs_whole(rule, name):
                    self._collect(name)
            made.update(operator.outputs)
        self.ends = ()
        for i, slot in enumerate(slots):
            self._on_slot(group, i, slot, f"@{slot.processor}" if len(slots) > 1 else "")

    def _declare(self, operator: Operator) -> None:
        """What the tasks of an operator must add up to: each slot repeats what is not split."""
        copies = self.sharding.rules[operator.name].copies
        entry = {
            "kind": operator.kind,
            "group": operator.group or operator.kind,
            "copies": copies,
            "macs": 0,
        }
        known = self.low.operators.setdefault(self.prefix + operator.name, entry)
        known["macs"] += operator.macs * copies

    def _needs_whole(self, rule: Rule, name: str) -> bool:
        if name in self.sharding.rows:
            return rule.form not in ("partial", "experts")
        if self._state(name) == "partial":
            return rule.form != "partial"
        return rule.form in ("whole", "columns", "partial", "experts")

    # --- where data are ---------------------------------------------------------------------------

    def _collect(self, name: str) -> None:
        """Add up a partial tensor over the slots of its stage, or gather a split one."""
        low, tensor = self.low, self.graph.tensors[name]
        producer = self.graph.producer(name)
        assert producer is not None
        slots = low.stages[low.stage_of(self.graph[producer])]
        rule = self.sharding.rules[producer]
        adds = self.sharding.state[name] == "partial"
        places: list[str] = []
        after: list[str] = []
        reads: list[Operand] = []
        for i in range(len(slots)):
            place, tasks = next(iter(self.held[name, i].items()))
            places.append(place)
            after += tasks
            shard = output_shard(self.graph, self.graph[producer], name, rule, i)
            if (name, i) not in self.absent:
                reads.append(self._operand(name, place, shard))
        self.summed.add(name)
        task = Task(
            name=f"{self.name}{name}.{'sum' if adds else 'gather'}",
            unit=self.low.link_between(places[0], places[-1]),
            kernel=Collective("all_reduce" if adds else "all_gather", tuple(places), tensor.bytes),
            after=tuple(after),
            reads=tuple(reads),
            writes=tuple(self._operand(name, place, WHOLE) for place in places),
        )
        self._add(task)
        for i, place in enumerate(places):
            self.held[name, i] = {place: (task.name,)}

    def _operand(self, name: str, place: str, shard: Shard, *, add: bool = False) -> Operand:
        tensor = self.graph.tensors[name]
        whose = name if tensor.role == "weight" else self.prefix + name
        return Operand(whose, place, bytes_of(tensor, shard), regions_of(tensor, shard), add)

    def _place(self, name: str, place: str, shard: Shard) -> Operand:
        """What lies there at the start: weights, caches of earlier tokens, token numbers."""
        operand = self._operand(name, place, shard)
        return self.low.placed.setdefault((operand.tensor, place, shard), operand)

    def _bring(self, name: str, i: int, place: str, shard: Shard) -> tuple[str, ...]:
        """Have a slot's part of a tensor in a place; the tasks that put it there."""
        held = self.held.get((name, i)) or self.held[name, 0]
        if place not in held:
            origin, tasks = next(iter(held.items()))
            operand = self._operand(name, origin, shard)
            task = Task(
                name=f"{self.name}{name}->{place}",
                unit=self.low.link_between(origin, place),
                kernel=Transfer(origin, place, operand.bytes),
                after=tasks,
                reads=(operand,),
                writes=(self._operand(name, place, shard),),
            )
            self._add(task)
            held[place] = (task.name,)
        return held[place]

    def _inputs(
        self, group: Sequence[Operator], i: int, place: str, *, matrices: str | None = None
    ) -> tuple[tuple[str, ...], tuple[Operand, ...]]:
        """Tasks to wait for, and operands, of operators in one kernel; ``matrices``: where these lie, if not
        in the place of the rest."""
        made: set[str] = set()
        after: list[str] = []
        reads: dict[tuple[str, Shard], Operand] = {}
        for operator in group:
            rule = self.sharding.rules[operator.name]
            for name in operator.inputs:
                if name in made:
                    continue
                shard = input_shard(self.graph, operator, name, rule, i)
                if shard is None or shard.empty:
                    continue
                if self.graph.producer(name) is None:
                    matrix = matrices is not None and name == operator.inputs[1]
                    reads[name, shard] = self._place(name, matrices if matrix else place, shard)  # type: ignore[arg-type]
                    self.reads_tokens |= self.graph.tensors[name].role == "index"
                else:
                    after += self._bring(name, i, place, shard)
                    reads[name, shard] = self._operand(name, place, shard)
            made.update(operator.outputs)
        return tuple(dict.fromkeys(after)), tuple(reads.values())

    def _outputs(
        self, group: Sequence[Operator], i: int, place: str, tasks: tuple[str, ...]
    ) -> tuple[Operand, ...]:
        writes = []
        for operator in group:
            rule = self.sharding.rules[operator.name]
            for name in operator.outputs:
                shard = output_shard(self.graph, operator, name, rule, i)
                adds = rule.output == "partial" and name not in self.sharding.rows
                if not shard.empty:
                    writes.append(self._operand(name, place, shard, add=adds))
                self.held[name, i] = {place: tasks}
        return tuple(writes)

    def input_shard_of(self, operator: Operator, name: str, rule: Rule, i: int) -> Shard:
        """The slot's part of an input that it has."""
        shard = input_shard(self.graph, operator, name, rule, i)
        assert shard is not None
        return shard

    # --- one slot ---------------------------------------------------------------------------------

    def _on_slot(self, group: list[Operator], i: int, slot: Slot, suffix: str) -> None:
        if group[0].kind not in PRODUCTS:
            self._pass_over(group, i, slot, suffix)
            return
        rules = [self.sharding.rules[operator.name] for operator in group]
        kernel = processor_kernel(self.graph, group, rules, i)
        if kernel is None:  # none of the tokens, or of the heads, are this slot's
            place = self.low.place_of(slot.storage or slot.processor)
            for operator, rule in zip(group, rules, strict=True):
                self._keep_weights(operator, rule, i, place)
                self._leave_out(operator, i, self.low.place_of(slot.processor))
            return
        caches = self.low.caches
        if group[0].kind == "attention" and caches.drives:
            refusal = caches.refusal(self.graph, group[0])
            if refusal is None:
                attend_on_drives(self, group[0], i, slot.processor, suffix)
                return
            self.low.refused.setdefault(refusal, {})[group[0].group or group[0].kind] = None
        flash = self.low.flash
        if flash is not None and isinstance(kernel, MatMul | GroupedMatMul) and flash.runs(kernel):
            # matrices of experts that are side by side are not in the pages of one
            parts = [group] if isinstance(kernel, MatMul) else [[operator] for operator in group]
            for part in parts:
                own = processor_kernel(self.graph, part, [self.sharding.rules[o.name] for o in part], i)
                assert isinstance(own, MatMul | GroupedMatMul)
                self._on_flash(part, i, slot, suffix, own)
            return
        there = [
            self._in_memory(operator, rule, i, slot) for operator, rule in zip(group, rules, strict=True)
        ]
        if all(there):
            assert slot.pim is not None
            for operator, kernels in zip(group, there, strict=True):
                self._run([operator], i, slot.pim, slot.processor, suffix, kernels)
        else:
            self._run(group, i, slot.processor, slot.processor, suffix, (kernel,))

    def _on_flash(
        self, group: list[Operator], i: int, slot: Slot, suffix: str, kernel: MatMul | GroupedMatMul
    ) -> None:
        """Products of matrices in flash, divided between its dies and the processor; a task per expert."""
        assert slot.storage is not None and self.low.flash is not None
        here, there = self.low.place_of(slot.processor), self.low.place_of(slot.storage)
        after, reads = self._inputs(group, i, here, matrices=there)
        matrices = {name for operator in group for name in operator.inputs[1:2]}
        for (name, place, shard), operand in self.low.placed.items():
            if name in matrices and place == there:
                room = self.low.flash.whole_pages(operand.bytes)
                self.low.placed[name, place, shard] = replace(operand, bytes=room)
        kernels = self.low.flash.kernels(kernel)
        base = f"{self.name}{group[-1].name}{suffix}"
        names = tuple(base if len(kernels) == 1 else f"{base}.{k}" for k in range(len(kernels)))
        writes = self._outputs(group, i, here, names)
        parts = [(reads, writes)]
        if isinstance(kernel, GroupedMatMul):
            parts = self._by_expert(group[0], reads, writes)
        operators = tuple(self.prefix + operator.name for operator in group)
        for name, one, (mine, made) in zip(names, kernels, parts, strict=True):
            self._add(Task(name, slot.storage, one, after, operators, mine, made))
        self.ends += names

    def _leave_out(self, operator: Operator, i: int, place: str) -> None:
        """A slot that has no part of an operator."""
        for name in operator.outputs:
            self.held[name, i] = {place: ()}
            self.absent.add((name, i))

    def _keep_weights(self, operator: Operator, rule: Rule, i: int, place: str) -> None:
        """Weights of a slot that this step does not use take room too."""
        for name in operator.inputs:
            if self.graph.tensors[name].role == "weight":
                shard = input_shard(self.graph, operator, name, rule, i)
                if shard is not None and not shard.empty:
                    self._place(name, place, shard)

    def _in_memory(self, operator: Operator, rule: Rule, i: int, slot: Slot) -> tuple[Kernel, ...]:
        """Kernels of a product that is to run in the slot's memory; none otherwise."""
        if slot.pim is None:
            return ()
        assert self.low.device is not None
        if self.low.mapping.on_pim != "attention" or operator.kind == "attention":
            refusal = pim_refusal(self.graph, operator, self.low.device)
            if refusal is not None:
                self.low.refused.setdefault(refusal, {})[operator.group or operator.kind] = None
        kernels = pim_kernels(self.graph, operator, rule, i, self.low.device)
        kernel = processor_kernel(self.graph, [operator], [rule], i)
        if kernel is None:
            return ()
        moved = self._moved(operator, rule, i, slot, kernels)
        return kernels if self.low.runs_in_memory(operator, kernels, kernel, moved) else ()

    def _moved(
        self, operator: Operator, rule: Rule, i: int, slot: Slot, kernels: tuple[Kernel, ...]
    ) -> tuple[Transfer, ...]:
        """Transfers that a product in memory beside the processor takes: its input, new rows of caches,
        scores and probabilities where the processor does the softmax, and its result."""
        assert slot.pim is not None
        here, there = self.low.place_of(slot.processor), self.low.place_of(slot.pim)
        if here == there:
            return ()
        inward = outward = 0
        for name in operator.inputs:
            tensor, shard = self.graph.tensors[name], input_shard(self.graph, operator, name, rule, i)
            if tensor.role == "activation" and shard is not None:
                inward += bytes_of(tensor, shard)
            elif tensor.role == "cache" and shard is not None:
                inward += bytes_of(tensor, shard) * sum(operator["queries"]) // sum(operator["context"])
        for name in operator.outputs:
            outward += bytes_of(self.graph.tensors[name], output_shard(self.graph, operator, name, rule, i))
        crossings = [Transfer(here, there, inward), Transfer(there, here, outward)]
        for kernel in kernels:
            if isinstance(kernel, Elementwise):
                crossings += [
                    Transfer(there, here, kernel.read_bytes),
                    Transfer(here, there, kernel.write_bytes),
                ]
        return tuple(crossings)

    def _run(
        self,
        group: list[Operator],
        i: int,
        unit: str,
        processor: str,
        suffix: str,
        kernels: tuple[Kernel, ...],
    ) -> None:
        """Products: one task per kernel; attention's follow each other, others are independent."""
        place = self.low.place_of(unit)
        after, reads = self._inputs(group, i, place)
        if group[0].kind == "attention" and self.low.caches.memory is not None:
            after += fetch_from_memory(self, group[0], i, place)
            self.low.caches.read.setdefault(i, []).append(f"{self.name}{group[-1].name}{suffix}")
        if unit != processor:
            self._take_rows(group[0], i, place)
        base = f"{self.name}{group[-1].name}{suffix}"
        names = tuple(base if len(kernels) == 1 else f"{base}.{k}" for k in range(len(kernels)))
        chained = group[0].kind == "attention"
        writes = self._outputs(group, i, place, names[-1:] if chained else names)
        experts = self._by_expert(group[0], reads, writes) if len(kernels) > 1 and not chained else []
        waits = after
        for k, (name, kernel) in enumerate(zip(names, kernels, strict=True)):
            # attention's softmax, where the memory has no unit for it
            between = kernel if isinstance(kernel, Elementwise) else None
            if between is not None:
                waits = self._cross(name, place, self.low.place_of(processor), between.read_bytes, waits)
            if experts:
                operands = experts[k]
            else:
                operands = (() if between else reads, writes if k == len(names) - 1 else ())
            self._add(
                Task(
                    name=name,
                    unit=processor if between else unit,
                    kernel=kernel,
                    after=waits,
                    operators=tuple(self.prefix + operator.name for operator in group),
                    reads=operands[0],
                    writes=operands[1],
                )
            )
            if chained:
                waits = (name,) if k + 1 < len(names) else waits
            if between is not None:
                waits = self._cross(name, self.low.place_of(processor), place, between.write_bytes, waits)
        self.ends += names[-1:] if chained else names

    def _cross(
        self, name: str, origin: str, target: str, size: int, after: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Scores or probabilities to where they are worked on next."""
        if origin == target:
            return after
        task = f"{name}:{origin}->{target}"
        self._add(Task(task, self.low.link_between(origin, target), Transfer(origin, target, size), after))
        return (task,)

    def _take_rows(self, operator: Operator, i: int, place: str) -> None:
        """Matrices multiplied in the banks take whole rows of all of them."""
        rule = self.sharding.rules[operator.name]
        for name in operator.inputs:
            tensor = self.graph.tensors[name]
            shard = input_shard(self.graph, operator, name, rule, i)
            if tensor.role != "weight" or shard is None or len(tensor.shape) < 2:
                continue
            *experts, n, k = (stop - start for start, stop in regions_of(tensor, shard))
            key = (name, place, shard)
            room = self.low.room_of(n, k) * (experts[0] if experts else 1)
            self.low.placed[key] = replace(self.low.placed[key], bytes=room)

    def _by_expert(
        self, operator: Operator, reads: tuple[Operand, ...], writes: tuple[Operand, ...]
    ) -> list[tuple[tuple[Operand, ...], tuple[Operand, ...]]]:
        """What each active expert reads and writes of what all of a slot do."""
        first, parts = 0, []
        weight = next(o for o in reads if o.slices is not None and len(o.slices) == 3)
        assert weight.slices is not None
        for expert, rows in enumerate(operator["tokens"]):
            first += rows
            if not rows or not weight.slices[0][0] <= expert < weight.slices[0][1]:
                continue
            parts.append((
                tuple(
                    _cut(o, (expert, expert + 1) if o is weight else (first - rows, first)) for o in reads
                ),
                tuple(_cut(o, (first - rows, first)) for o in writes),
            ))  # fmt: skip
        return parts

    def _pass_over(self, group: list[Operator], i: int, slot: Slot, suffix: str) -> None:
        """Element-wise operators in one kernel on the processor."""
        place = self.low.place_of(slot.processor)
        rule = self.sharding.rules[group[-1].name]
        if rule.form == "partial" and rule.bounds and rule.bounds[i][0] == rule.bounds[i][1]:
            for member in group:  # no token goes to an expert of this slot
                self._leave_out(member, i, place)
            return
        after, reads = self._inputs(group, i, place)
        task = f"{self.name}{group[-1].name}{suffix}"
        inside = {member.name for member in group}
        later = {
            name
            for member in group
            for name in member.outputs
            if any(user.name not in inside for user in self.users.get(name, ())) or name not in self.users
        }
        rules = [(member, self.sharding.rules[member.name]) for member in group]
        kernel = elementwise_kernel(self.graph, rules, i, later)
        writes = self._outputs(group, i, place, (task,))
        if not writes:  # none of the rows are this slot's
            self._outputs(group, i, place, ())
            return
        self._add(
            Task(
                name=task,
                unit=slot.processor,
                kernel=kernel,
                after=after,
                operators=tuple(self.prefix + member.name for member in group),
                reads=reads,
                writes=writes,
            )
        )
        self.ends += (task,)
        self._append_caches([member for member in group if member.kind == "kv_append"], i, slot, task)

    def _append_caches(self, appends: list[Operator], i: int, slot: Slot, task: str) -> None:
        """The caches of earlier tokens lie where attention runs; new rows are sent there together."""
        if appends and self.low.caches.drives and not any(
            self.low.caches.unfit(self.graph, user)
            for operator in appends
            for user in self.users[operator.outputs[0]]
            if user.kind == "attention"
        ):
            append_on_drives(self, appends, i, slot.processor, task)
            return
        here = self.low.place_of(slot.processor)
        away: dict[str, list[tuple[str, tuple[Operand, ...]]]] = {}
        for operator in appends:
            home, new = self._append_cache(operator, i, slot)
            if home != here:
                away.setdefault(home, []).append((operator.outputs[0], new))
        for home, sent in away.items():
            rows = tuple(operand for _, new in sent for operand in new)
            shared = home == self.low.caches.memory and len(self.low.stages[0]) > 1
            transfer = Task(
                name=f"{self.name}{sent[-1][0]}->{home}" + (f"@{here}" if shared else ""),
                unit=self.low.link_between(here, home),
                kernel=Transfer(here, home, sum(o.bytes for o in rows)),
                after=(task,),
                reads=rows,
                writes=tuple(Operand(o.tensor, home, o.bytes, o.slices) for o in rows),
            )
            self._add(transfer)
            for name, _ in sent:
                if home != self.low.caches.memory:  # from there only earlier positions come back
                    self.held[name, i] = {home: (transfer.name,)}

    def _append_cache(self, operator: Operator, i: int, slot: Slot) -> tuple[str, tuple[Operand, ...]]:
        """Where a cache lies, and its new rows where they are made."""
        name, low = operator.outputs[0], self.low
        rule = self.sharding.rules[operator.name]
        shard = output_shard(self.graph, operator, name, rule, i)
        home = here = low.place_of(slot.processor)
        if low.caches.memory is not None:
            home = low.caches.memory
        for user in self.users.get(name, ()):
            if user.kind == "attention" and self._in_memory(user, self.sharding.rules[user.name], i, slot):
                assert slot.pim is not None
                home = low.place_of(slot.pim)
        self._place(name, home, shard)
        return home, self._new_rows(operator, here, shard)

    def _new_rows(self, operator: Operator, place: str, shard: Shard) -> tuple[Operand, ...]:
        """The rows that an operator appends to a cache: at the end of each sequence."""
        name = operator.outputs[0]
        tensor = self.graph.tensors[name]
        _, heads, width = regions_of(tensor, shard)
        size = tensor.format.bytes_of((heads[1] - heads[0]) * (width[1] - width[0]), width[1] - width[0])
        operands, end = [], 0
        for new, context in zip(operator["queries"], operator["context"], strict=True):
            end += context
            rows = (end - new, end)
            operands.append(Operand(self.prefix + name, place, new * size, (rows, heads, width)))
        return tuple(operands)
