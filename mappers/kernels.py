"""Kernels of an operator's part on one slot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from neardata.arch.dram import Device
from neardata.arch.precision import Format
from neardata.mappers.regions import bytes_of, input_shard, output_shard, regions_of
from neardata.mappers.sharding import Rule
from neardata.sim.program import (
    Attention,
    Elementwise,
    GroupedMatMul,
    Kernel,
    MatMul,
    PimAttention,
    PimMatMul,
)
from neardata.sim.system.pim_programs import partial_sum_bytes
from neardata.workloads.graph import Graph, Operator

OPERATIONS = {
    "norm": 4, "rope": 3, "activation": 4, "multiply": 1, "add": 1, "softmax": 5, "route": 8, "combine": 2,
}  # fmt: skip
"""Arithmetic operations of an element, assumed: transcendental functions count as four."""


def _size(graph: Graph, operator: Operator, rule: Rule, slot: int, dim: str) -> int:
    """n or k of the slot's part."""
    total = int(operator[dim])
    if (dim == "n" and rule.form == "columns") or (dim == "k" and rule.form == "rows"):
        start, stop = rule.bounds[slot]
        return stop - start
    return total


def formats(graph: Graph, operator: Operator) -> tuple[str, str]:
    """Of the weights, scales included, and of the activations of a product."""
    weights = next(
        graph.tensors[name].format for name in operator.inputs if graph.tensors[name].role == "weight"
    )
    return str(weights), graph.tensors[operator.inputs[0]].format.dtype


def processor_kernel(
    graph: Graph, operators: Sequence[Operator], rules: Sequence[Rule], slot: int
) -> Kernel | None:
    """What a processor runs for a product, or for products side by side; None where the slot has
    nothing to do."""
    operator, rule = operators[0], rules[0]
    if operator.kind in ("linear", "expert_linear"):
        weights, activations = formats(graph, operator)
        pairs = zip(operators, rules, strict=True)
        n = sum(_size(graph, other, r, slot, "n") for other, r in pairs)
        k = _size(graph, operator, rule, slot, "k")
        if not n or not k:
            return None
        if operator.kind == "linear":
            return MatMul(operator["m"], n, k, 1, weights, activations)
        rows = operator["tokens"][slice(*rule.bounds[slot])] if rule.form == "experts" else operator["tokens"]
        return GroupedMatMul(tuple(rows), n, k, weights, activations) if any(rows) else None
    if operator.kind == "head_linear":
        weights, activations = formats(graph, operator)
        heads = operator["heads"] if rule.form == "whole" else rule.bounds[slot][1] - rule.bounds[slot][0]
        if not heads:
            return None
        return MatMul(operator["m"], operator["n"], operator["k"], heads, weights, activations)
    if operator.kind == "attention":
        heads, kv = _heads(operator, rule, slot)
        if not heads:
            return None
        cache = graph.tensors[operator.inputs[1]].format
        activations = graph.tensors[operator.inputs[0]].format.dtype
        return Attention(
            tuple(operator["queries"]), tuple(operator["context"]), heads, kv, operator["qk"], operator["v"],
            str(cache), activations, shared_kv=len(_caches(graph, operator)) == 1,
            causal=operator.attributes.get("causal", True), window=operator.attributes.get("window"),
        )  # fmt: skip
    raise AssertionError(f"no kernel for {operator.kind}")


def expert_load(
    graph: Graph, steps: Sequence[Sequence[Sequence[int]]], time: Callable[[Kernel], int]
) -> list[list[float]]:
    """What the experts of each layer have to do in some steps, in picoseconds.

    Args:
        steps: (steps, layers with experts, experts) tokens of each expert.
        time: of a kernel; its roofline, so that one expert's part of a kernel of many is told.
    """
    layers: dict[int | None, list[Operator]] = {}
    for operator in graph:
        if operator.kind == "expert_linear":
            layers.setdefault(operator.layer, []).append(operator)

    def of_expert(operators: list[Operator], tokens: int) -> int:
        if not tokens:
            return 0
        return sum(time(MatMul(tokens, o["n"], o["k"], 1, *formats(graph, o))) for o in operators)

    return [
        [float(sum(of_expert(operators, step[at][e]) for step in steps)) for e in range(len(steps[0][at]))]
        for at, operators in enumerate(layers.values())
    ]


def pim_refusal(graph: Graph, operator: Operator, device: Device) -> str | None:
    """Why a PIM memory does not run a product, whatever its size; None: it does."""
    for name in operator.inputs:
        tensor = graph.tensors[name]
        if tensor.role in ("weight", "cache") and tensor.format.bits != 16:
            noun = "weights" if tensor.role == "weight" else "keys and values"
            return f"{noun} in {tensor.format}; {device.name} multiplies numbers of 16 bits"
    if operator.kind == "head_linear":
        return "a matrix of its own for each head; there is no such kernel for memories"
    if operator.kind == "attention":
        if set(operator["queries"]) != {1}:
            return "several new positions of a sequence; attention in memory takes one"
        if len(_caches(graph, operator)) != 2:
            return "keys and values in one latent cache; attention in memory takes two"
        if not operator.attributes.get("causal", True):
            return "attention that is not causal"
    return None


def pim_kernels(
    graph: Graph, operator: Operator, rule: Rule, slot: int, device: Device
) -> tuple[Kernel, ...]:
    """What a PIM memory runs for a product, with the processor's part between; none where it cannot."""
    if pim_refusal(graph, operator, device) is not None:
        return ()
    if operator.kind == "linear":
        n, k = (_size(graph, operator, rule, slot, dim) for dim in "nk")
        return (PimMatMul(operator["m"], n, k),) if n and k else ()
    if operator.kind == "expert_linear":
        n, k = (_size(graph, operator, rule, slot, dim) for dim in "nk")
        rows = operator["tokens"][slice(*rule.bounds[slot])] if rule.form == "experts" else operator["tokens"]
        return tuple(PimMatMul(m, n, k) for m in rows if m) if n and k else ()
    if operator.kind == "attention":
        heads, kv = _heads(operator, rule, slot)
        context = _looked_at(operator)
        if not heads:
            return ()
        sizes = (context, heads, kv, operator["qk"], operator["v"])
        if "SFM" in device.command_names:  # the softmax unit is in the memory
            return (PimAttention(*sizes),)
        scores = sum(context) * heads
        # the memory's units left the scores in it, and take the probabilities from it
        softmax = Elementwise(2 * scores, 2 * scores, OPERATIONS["softmax"] * scores, 4 * scores)
        return (PimAttention(*sizes, stage="scores"), softmax, PimAttention(*sizes, stage="values"))
    return ()


def reduction_kernel(kernel: PimMatMul, format: Format, device: Device) -> Elementwise:
    """What a processor does with the partial sums of a product: they are read, added, and the result written.
    The memory's units left them in it, as they do scores."""
    sums = kernel.m * kernel.n
    read, size = partial_sum_bytes(kernel, device), format.bytes_of(sums, kernel.n)
    return Elementwise(read, size, (kernel.k_parts - 1) * sums, read)


def _heads(operator: Operator, rule: Rule, slot: int) -> tuple[int, int]:
    """Query and key heads of the slot."""
    heads, kv = int(operator["heads"]), int(operator["kv_heads"])
    if rule.form == "whole":
        return heads, kv
    start, stop = rule.bounds[slot]
    return stop - start, -(-stop * kv // heads) - start * kv // heads


def _caches(graph: Graph, operator: Operator) -> list[str]:
    return [name for name in operator.inputs[1:] if graph.tensors[name].role != "weight"]


def _looked_at(operator: Operator) -> tuple[int, ...]:
    """Positions that the one query of each sequence reads."""
    window = operator.attributes.get("window")
    if window is None:
        return tuple(operator["context"])
    return tuple(min(c, window) for c in operator["context"])


def elementwise_kernel(
    graph: Graph, operators: Sequence[tuple[Operator, Rule]], slot: int, used_later: set[str]
) -> Elementwise:
    """One pass for operators that follow each other: outside inputs are read, what is used later written.

    Rows of an embedding table come from memory and rows of keys and values go to it; a cache may
    hold the rest. What norms reduce is counted in rows: of a head's width where each head has a norm.
    """
    made: set[str] = set()
    seen: set[str] = set()
    read = write = operations = uncached = reduced = 0
    for operator, rule in operators:
        for name in operator.inputs:
            tensor = graph.tensors[name]
            if name in made or name in seen or tensor.role == "cache":
                continue
            seen.add(name)
            if operator.kind == "embedding" and tensor.role == "weight":
                taken = tensor.format.bytes_of(int(operator["m"]) * int(operator["n"]))
                read += taken
                uncached += taken
            else:
                shard = input_shard(graph, operator, name, rule, slot)
                read += bytes_of(tensor, shard) if shard is not None else 0
        for name in operator.outputs:
            tensor = graph.tensors[name]
            part = output_shard(graph, operator, name, rule, slot)
            if operator.kind == "kv_append":
                share = part.size / tensor.shape[1] if part.dim is not None else 1
                added = tensor.format.bytes_of(int(operator["tokens"]) * int(operator["width"]))
                write += round(added * share)
                uncached += round(added * share)
            elif name in used_later:
                write += bytes_of(tensor, part)
            if operator.kind != "kv_append":
                elements = 8 * bytes_of(tensor, part) // tensor.format.bits
                operations += OPERATIONS.get(operator.kind, 0) * elements
                if operator.kind == "norm":
                    reduced += prod(stop - start for start, stop in regions_of(tensor, part)) // operator["n"]
        made.update(operator.outputs)
    return Elementwise(read, write, operations, uncached, reduced)
