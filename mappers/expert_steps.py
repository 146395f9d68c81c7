"""A lowered graph taken apart at its experts: what a policy for them replaces, and what stays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from neardata.mappers.regions import Shard, bytes_of, regions_of
from neardata.sim.program import Elementwise, GroupedMatMul, Kernel, MatMul, Operand, Program, Task
from neardata.workloads.graph import Graph, Operator


@dataclass(frozen=True)
class ExpertLayer:
    """The experts of a layer in a step, and what the device does ahead of them."""

    graph: Graph
    number: int
    """Of the layer in the model."""
    before: tuple[Task, ...]
    experts: tuple[Task, ...]
    """The tasks of all experts together, which a policy replaces."""
    tokens: tuple[int, ...]
    """Of each expert."""

    @property
    def weights(self) -> tuple[str, ...]:
        """Tensors of the experts' matrices."""
        reads = (o.tensor for task in self.experts for o in task.reads)
        return tuple(dict.fromkeys(name for name in reads if self.graph.tensors[name].role == "weight"))

    @property
    def expert_bytes(self) -> int:
        """Of one expert's weights."""
        return sum(bytes_of(self.graph.tensors[name], Shard(0, 0, 1)) for name in self.weights)

    @property
    def inner(self) -> dict[str, None]:
        """Names of the tasks that are replaced."""
        return {task.name: None for task in self.experts}

    @property
    def row_bytes(self) -> int:
        """Of one token into an expert."""
        return bytes_of(self.graph.tensors[self.ends("in")], Shard(0, 0, 1))

    def ends(self, way: Literal["in", "out"]) -> str:
        """The tensor, sorted by expert, that goes into all experts or comes out of them."""
        made = {o.tensor for task in self.experts for o in task.writes}
        if way == "out":
            read = {o.tensor for task in self.experts for o in task.reads}
            return next(o.tensor for o in reversed(self.experts[-1].writes) if o.tensor not in read)
        return next(
            o.tensor
            for task in self.experts
            for o in task.reads
            if o.tensor not in made and o.tensor not in self.weights
        )

    def rows(self, experts: Iterable[int]) -> list[tuple[int, int]]:
        """Rows of some experts among those sorted by expert, neighbours as one."""
        found: list[tuple[int, int]] = []
        for expert in experts:
            first = sum(self.tokens[:expert])
            if found and found[-1][1] == first:
                found[-1] = (found[-1][0], first + self.tokens[expert])
            else:
                found.append((first, first + self.tokens[expert]))
        return found

    def operands(self, tensor: str, place: str, experts: Sequence[int]) -> tuple[Operand, ...]:
        """The parts of a tensor that belong to some experts."""
        shape = self.graph.tensors[tensor]
        ranges = [(e, e + 1) for e in experts] if shape.role == "weight" else self.rows(experts)
        return tuple(_operand(self.graph, tensor, place, Shard(0, *ends)) for ends in ranges)

    def kernel(self, task: Task, experts: Sequence[int]) -> Kernel:
        """What is left of the kernel of all experts for some of them."""
        kernel, tokens = task.kernel, sum(self.tokens[e] for e in experts)
        if isinstance(kernel, GroupedMatMul):
            if len(experts) == 1:
                return MatMul(tokens, kernel.n, kernel.k, 1, kernel.weights, kernel.activations)
            chosen = set(experts)
            return replace(kernel, rows=tuple(n * (e in chosen) for e, n in enumerate(kernel.rows)))
        assert isinstance(kernel, Elementwise)
        return _share(kernel, tokens, sum(self.tokens))

    def kernels(self, tokens: int) -> tuple[Kernel, ...]:
        """What one expert with that many tokens is."""
        found: list[Kernel] = []
        for task in self.experts:
            kernel = task.kernel
            if isinstance(kernel, GroupedMatMul):
                found.append(MatMul(tokens, kernel.n, kernel.k, 1, kernel.weights, kernel.activations))
            else:
                assert isinstance(kernel, Elementwise)
                found.append(_share(kernel, tokens, sum(self.tokens)))
        return tuple(found)


def _share(kernel: Elementwise, tokens: int, total: int) -> Elementwise:
    """The part of some tokens in a pass over the data of ``total``."""
    sizes = (kernel.read_bytes, kernel.write_bytes, kernel.operations, kernel.memory_bytes, kernel.rows)
    read, write, operations, memory, rows = (size * tokens // total for size in sizes)
    return Elementwise(read, write, operations, memory, rows)


def _operand(graph: Graph, tensor: str, place: str, shard: Shard) -> Operand:
    shape = graph.tensors[tensor]
    return Operand(tensor, place, bytes_of(shape, shard), regions_of(shape, shard))


@dataclass(frozen=True)
class Step:
    """One graph, taken apart at its experts."""

    graph: Graph
    layers: tuple[ExpertLayer, ...]
    rest: tuple[Task, ...]
    """Behind the last layer with experts."""

    @classmethod
    def of(cls, program: Program, graph: Graph) -> Step:
        """A lowered graph."""
        layer_of = _expert_operators(graph)
        layers: list[ExpertLayer] = []
        before: list[Task] = []
        experts: list[Task] = []
        number = -1
        for task in program.tasks:
            at = {layer_of[name] for name in task.operators if name in layer_of}
            if experts and at != {number}:
                layers.append(_layer(graph, number, before, experts))
                before, experts = [], []
            if at:
                (number,) = at
                experts.append(task)
            else:
                before.append(task)
        if experts:
            layers.append(_layer(graph, number, before, experts))
            before = []
        return cls(graph, tuple(layers), tuple(before))

    @property
    def kept(self) -> set[str]:
        """The experts' weights, which the device does not hold from the start."""
        return {name for layer in self.layers for name in layer.weights}


def _layer(graph: Graph, number: int, before: list[Task], experts: list[Task]) -> ExpertLayer:
    products = [n for task in experts for n in task.operators if graph[n].kind == "expert_linear"]
    return ExpertLayer(graph, number, tuple(before), tuple(experts), tuple(graph[products[0]]["tokens"]))


def _expert_operators(graph: Graph) -> dict[str, int]:
    """Layer of each operator between the dispatch of rows to experts and their combination."""
    found: dict[str, int] = {}
    for operator in graph:
        if operator.kind != "combine":
            continue
        left = [operator.inputs[0]]
        while left:
            producer = graph.producer(left.pop())
            if producer is None or producer in found or graph[producer].kind == "dispatch":
                continue
            one: Operator = graph[producer]
            assert one.layer is not None
            found[producer] = one.layer
            left += one.inputs
    return found
