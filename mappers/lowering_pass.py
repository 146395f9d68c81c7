"""One step of one graph, lowered: `Pass` walks its operators and adds the tasks of each slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from neardata.mappers.in_storage import append_on_drives, attend_on_drives, fetch_from_memory
from neardata.mappers.kernels import elementwise_kernel, formats, pim_refusal, processor_kernel
from neardata.mappers.regions import WHOLE, Shard, bytes_of, input_shard, output_shard, regions_of
from neardata.mappers.sharding import Rule, Sharding
from neardata.sim.program import (
    Collective,
    Elementwise,
    GroupedMatMul,
    Kernel,
    MatMul,
    Operand,
    PimMatMul,
    Task,
    Transfer,
)
from neardata.workloads.graph import Graph, Operator

if TYPE_CHECKING:
    from neardata.mappers.lower import Lowering

PRODUCTS = ("linear", "expert_linear", "head_linear", "attention")
"""Kinds with kernels of their own; the others pass over data."""


@dataclass(frozen=True)
class Slot:
    """Where a part of a stage runs."""

    processor: str
    pim: str | None
    storage: str | None = None
    """A drive that multiplies, attached to the processor."""


def _cut(operand: Operand, rows: tuple[int, int]) -> Operand:
    """The part of an operand with these indices of its first dimension."""
    assert operand.slices is not None
    (start, stop), *rest = operand.slices
    size = operand.bytes * (rows[1] - rows[0]) // (stop - start)
    return Operand(operand.tensor, operand.place, size, (rows, *rest), operand.add)


def _chains(
    base: str, operator: Operator, kernels: tuple[Kernel, ...]
) -> list[tuple[tuple[str, Kernel], ...]]:
    """Kernels that follow each other, with the names of their tasks: all of attention's; of products, each
    with the sum of its partial sums behind it."""
    if operator.kind == "attention":
        names = [base] if len(kernels) == 1 else [f"{base}.{k}" for k in range(len(kernels))]
        return [tuple(zip(names, kernels, strict=True))]
    chains: list[tuple[tuple[str, Kernel], ...]] = []
    products = sum(not isinstance(kernel, Elementwise) for kernel in kernels)
    for kernel in kernels:
        if isinstance(kernel, Elementwise):
            (product,) = chains[-1]
            chains[-1] = (product, (f"{product[0]}.sum", kernel))
        else:
            chains.append(((base if products == 1 else f"{base}.{len(chains)}", kernel),))
    return chains


class Pass:
    """One step of one graph."""

    def __init__(self, low: Lowering, graph: Graph, sharding: Sharding, prefix: str, step: str) -> None:
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
                    apart = matrices is not None and name == operator.inputs[1]
                    reads[name, shard] = self._place(name, str(matrices) if apart else place, shard)
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

    # --- one slot ---------------------------------------------------------------------------------

    def _on_slot(self, group: list[Operator], i: int, slot: Slot, suffix: str) -> None:
        if group[0].kind not in PRODUCTS:
            self._pass_over(group, i, slot, suffix)
            return
        rules = [self.sharding.rules[operator.name] for operator in group]
        kernel = processor_kernel(self.graph, group, rules, i)
        if kernel is None:  # none of the tokens, or of the heads, are this slot's
            for operator, rule in zip(group, rules, strict=True):
                self._keep_weights(operator, rule, i, self.low.place_of(slot.storage or slot.processor))
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
                self._on_flash(part, i, slot, suffix)
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

    def _on_flash(self, group: list[Operator], i: int, slot: Slot, suffix: str) -> None:
        """Products of matrices in flash, divided between its dies and the processor; a task per expert."""
        kernel = processor_kernel(self.graph, group, [self.sharding.rules[o.name] for o in group], i)
        assert isinstance(kernel, MatMul | GroupedMatMul)
        assert slot.storage is not None and self.low.flash is not None
        here, there = self.low.place_of(slot.processor), self.low.place_of(slot.storage)
        after, reads = self._inputs(group, i, here, matrices=there)
        for operand in reads:
            if operand.place == there:
                key = next(k for k, o in self.low.placed.items() if o is operand)
                self.low.placed[key] = replace(operand, bytes=self.low.flash.whole_pages(operand.bytes))
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
        if slot.pim is None or (self.low.mapping.on_pim == "attention" and operator.kind != "attention"):
            return ()
        assert self.low.device is not None
        refusal = pim_refusal(self.graph, operator, self.low.device)
        if refusal is not None:
            self.low.refused.setdefault(refusal, {})[operator.group or operator.kind] = None
        assert self.low.products is not None
        kernels = self.low.products.kernels(self.graph, operator, rule, i)
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
        """Products: one task per kernel; attention's follow each other, and the sum of partial sums its
        product; others are independent."""
        place, home = self.low.place_of(unit), self.low.place_of(processor)
        after, reads = self._inputs(group, i, place)
        if group[0].kind == "attention" and self.low.caches.memory is not None:
            after += fetch_from_memory(self, group[0], i, place)
            self.low.caches.read.setdefault(i, []).append(f"{self.name}{group[-1].name}{suffix}")
        if unit != processor:
            self._take_rows(group[0], i, place, kernels)
        base = f"{self.name}{group[-1].name}{suffix}"
        chains = _chains(base, group[0], kernels)
        ends = tuple(chain[-1][0] for chain in chains)
        # sums that the processor adds are where it adds them
        end_place = home if isinstance(kernels[-1], Elementwise) else place
        writes = self._outputs(group, i, end_place, ends)
        experts = self._by_expert(group[0], reads, writes) if len(chains) > 1 else []
        for c, chain in enumerate(chains):
            inputs, outputs = experts[c] if experts else (reads, writes)
            waits = after
            for name, kernel in chain:
                # the softmax, or the sum of partial sums, where the memory has no unit for it
                on_processor = isinstance(kernel, Elementwise)
                if isinstance(kernel, Elementwise):
                    waits = self._cross(name, place, home, kernel.read_bytes, waits)
                self._add(
                    Task(
                        name=name,
                        unit=processor if on_processor else unit,
                        kernel=kernel,
                        after=waits,
                        operators=tuple(self.prefix + operator.name for operator in group),
                        reads=() if on_processor else inputs,
                        writes=outputs if name == chain[-1][0] else (),
                    )
                )
                waits = (name,)
                if isinstance(kernel, Elementwise) and name != chain[-1][0]:
                    waits = self._cross(name, home, place, kernel.write_bytes, waits)
        self.ends += ends

    def _cross(
        self, name: str, origin: str, target: str, size: int, after: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Scores or probabilities to where they are worked on next."""
        if origin == target:
            return after
        task = f"{name}:{origin}->{target}"
        self._add(Task(task, self.low.link_between(origin, target), Transfer(origin, target, size), after))
        return (task,)

    def _take_rows(self, operator: Operator, i: int, place: str, kernels: tuple[Kernel, ...]) -> None:
        """Matrices multiplied in the banks take whole rows of all of them."""
        rule = self.sharding.rules[operator.name]
        form = next((kernel for kernel in kernels if isinstance(kernel, PimMatMul)), PimMatMul(1, 1, 1))
        for name in operator.inputs:
            tensor = self.graph.tensors[name]
            shard = input_shard(self.graph, operator, name, rule, i)
            if tensor.role != "weight" or shard is None or len(tensor.shape) < 2:
                continue
            *experts, n, k = (stop - start for start, stop in regions_of(tensor, shard))
            count = experts[0] if experts else 1
            self.low.take_rows(name, place, shard, replace(form, n=n, k=k), count)

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
        if (
            appends
            and self.low.caches.drives
            and not any(
                self.low.caches.unfit(self.graph, user)
                for operator in appends
                for user in self.users[operator.outputs[0]]
                if user.kind == "attention"
            )
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
