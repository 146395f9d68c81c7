"""Which part of a tensor a slot reads or writes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

from neardata.arch.precision import Format
from neardata.mappers.sharding import Bounds, Rule
from neardata.sim.program import Slices
from neardata.workloads.graph import Graph, Operator, Tensor


@dataclass(frozen=True)
class Shard:
    """A range of one dimension of a tensor; all of it where ``dim`` is None."""

    dim: int | None = None
    start: int = 0
    stop: int = 0

    @property
    def size(self) -> int:
        """Length of the range."""
        return self.stop - self.start

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it."""
        return self.dim is not None and not self.size


WHOLE = Shard()


def part(dim: int, bounds: Bounds, slot: int, width: int = 1) -> Shard:
    """The range of a slot, each entry of which is ``width`` wide in the tensor."""
    start, stop = bounds[slot]
    return Shard(dim, start * width, stop * width)


def regions_of(tensor: Tensor, shard: Shard) -> Slices:
    """Half-open ranges of every dimension."""
    return _ranges(tensor.shape, shard)


@lru_cache(maxsize=1 << 16)
def _ranges(shape: tuple[int, ...], shard: Shard) -> Slices:
    return tuple((shard.start, shard.stop) if i == shard.dim else (0, size) for i, size in enumerate(shape))


def bytes_of(tensor: Tensor, shard: Shard) -> int:
    """Bytes of the part, scales included."""
    return _bytes(tensor.format, tensor.shape, shard)


@lru_cache(maxsize=1 << 16)
def _bytes(format: Format, shape: tuple[int, ...], shard: Shard) -> int:
    part = [shard.size if i == shard.dim else size for i, size in enumerate(shape)]
    return format.bytes_of(prod(part), part[-1] if part else None)


def input_shard(graph: Graph, operator: Operator, name: str, rule: Rule, slot: int) -> Shard | None:
    """What slot ``slot`` reads of an operator's input; None: nothing."""
    tensor = graph.tensors[name]
    last = len(tensor.shape) - 1
    if rule.form == "whole":
        return WHOLE
    if tensor.role == "weight":
        return _weight_shard(operator, tensor, rule, slot)
    if tensor.role == "index":
        return WHOLE
    match operator.kind, rule.form:
        case _, "columns":
            return WHOLE
        case _, ("rows" | "elements"):
            return part(last, rule.bounds, slot)
        case "attention", "heads":
            if name == operator.inputs[0]:
                return part(last, rule.bounds, slot, operator["qk"])
            return _kv_shard(operator, tensor, rule, slot)
        case "rope", "heads":
            return part(last, rule.bounds, slot, operator["n"])
        case "head_linear", "heads":
            return part(last, rule.bounds, slot, operator["k"])
        case "kv_append", "heads":
            return part(last, rule.bounds, slot)
        case "expert_linear", "experts":
            return part(0, expert_rows(operator["tokens"], rule.bounds), slot)
        case (("activation" | "multiply"), "partial"):
            return part(0, rule.bounds, slot)
        case "combine", "partial":
            return part(0, rule.bounds, slot) if rule.bounds and name == operator.inputs[0] else WHOLE
    return WHOLE


def output_shard(graph: Graph, operator: Operator, name: str, rule: Rule, slot: int) -> Shard:
    """What slot ``slot`` writes of an operator's output."""
    tensor = graph.tensors[name]
    last = len(tensor.shape) - 1
    if operator.kind == "kv_append" and rule.form == "heads":
        width = operator["width"] // tensor.shape[1]
        return Shard(1, rule.bounds[slot][0] // width, rule.bounds[slot][1] // width)
    if operator.kind == "expert_linear" and rule.form == "experts":
        return part(0, expert_rows(operator["tokens"], rule.bounds), slot)
    if operator.kind in ("activation", "multiply") and rule.form == "partial":
        return part(0, rule.bounds, slot)
    if isinstance(rule.output, tuple):
        return part(last, rule.output, slot)
    return WHOLE


def _weight_shard(operator: Operator, tensor: Tensor, rule: Rule, slot: int) -> Shard | None:
    match operator.kind, rule.form:
        case "linear", "columns":
            return part(0, rule.bounds, slot)
        case "linear", "rows":
            if len(tensor.shape) == 1:  # a bias is added once: by the first slot
                return None if slot else WHOLE
            return part(1, rule.bounds, slot)
        case "expert_linear", "columns":
            return part(1, rule.bounds, slot)
        case "expert_linear", "rows":
            return part(2, rule.bounds, slot)
        case ("expert_linear", "experts") | ("head_linear", "heads"):
            return part(0, rule.bounds, slot)
        case "attention", "heads":
            return part(len(tensor.shape) - 1, rule.bounds, slot)
    return WHOLE


def _kv_shard(operator: Operator, tensor: Tensor, rule: Rule, slot: int) -> Shard:
    """Key heads that the slot's query heads use."""
    heads, kv = operator["heads"], operator["kv_heads"]
    start, stop = rule.bounds[slot]
    first, end = start * kv // heads, -(-stop * kv // heads)
    if len(tensor.shape) == 3:
        return Shard(1, first, end)
    width = tensor.shape[-1] // kv
    return Shard(1, first * width, end * width)


def expert_rows(tokens: tuple[int, ...], experts: Bounds) -> Bounds:
    """Rows, sorted by expert, of the experts of each slot."""
    before = [0]
    for count in tokens:
        before.append(before[-1] + count)
    return tuple((before[a], before[b]) for a, b in experts)
