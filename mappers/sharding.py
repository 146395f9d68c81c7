"""How the operators of a stage are split over its slots.

Every activation is *whole* on each slot, *split* over its last dimension, or *partial*: the slots'
arrays add up to it. A product whose input is whole is split by columns, one whose input is split
gives partial sums, and a sum over the slots makes those whole again. Attention is split by heads; where
there are fewer key-value heads than slots, each slot has the one that its query heads use, which is
repeated.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import lcm
from typing import Literal

from neardata.arch.errors import InputError
from neardata.mappers.expert_placement import Load, balanced
from neardata.workloads.graph import Graph, Operator

Bounds = tuple[tuple[int, int], ...]
"""Half-open range of each slot; several slots may have the same."""
State = Bounds | Literal["whole", "partial"]

_ROWWISE = ("activation", "multiply", "add")
"""Kinds that keep a split: what they do to a column needs no other."""


@dataclass(frozen=True)
class Rule:
    """How an operator runs on the slots."""

    form: Literal["whole", "columns", "rows", "heads", "experts", "elements", "partial"]
    """``columns`` and ``rows``: of the weight matrix, its n and k; ``elements``: of the last
    dimension; ``experts``: whole experts on each slot; ``partial``: on what is to be added up."""
    bounds: Bounds = ()
    """Of n, k, heads, experts or elements."""
    output: State = "whole"
    copies: int = 1
    """How many slots do each part."""


class Sharding:
    """Rules for all operators of a graph on ``slots`` slots."""

    def __init__(
        self,
        graph: Graph,
        slots: int,
        experts: Literal["split", "spread", "balanced"],
        load: Load | None = None,
    ) -> None:
        """``load``: of each expert of each layer with experts, where they are to be balanced."""
        self.graph, self.slots, self.spread = graph, slots, experts != "split"
        self._load: dict[int | None, Sequence[float]] = {}
        if experts == "balanced" and slots > 1:
            if load is None:
                raise InputError(
                    "what experts have to do is not known: give load, or spread", key="mapping.experts"
                )
            layers = dict.fromkeys(o.layer for o in graph if o.kind == "expert_linear")
            self._load = dict(zip(layers, load, strict=True))
        self.state: dict[str, State] = {}
        self.rows: dict[str, Bounds] = {}
        """Tensors sorted by expert, where experts are spread: rows of each slot."""
        self.rules: dict[str, Rule] = {}
        for operator in graph:
            rule = self._rule(operator)
            rule = replace(rule, copies=slots if rule.form == "whole" else repeats(rule.bounds))
            self.rules[operator.name] = rule
            for name in operator.outputs:
                self.state[name] = rule.output

    @cached_property
    def _consumers(self) -> Mapping[str, list[Operator]]:
        found: dict[str, list[Operator]] = {}
        for operator in self.graph:
            for name in operator.inputs:
                found.setdefault(name, []).append(operator)
        return found

    def _rule(self, operator: Operator) -> Rule:
        if self.slots == 1:
            return Rule("whole")
        inputs = [name for name in operator.inputs if self.graph.tensors[name].role == "activation"]
        states = [self.state.get(name, "whole") for name in inputs]
        kind = operator.kind
        split = next((s for s in states if not isinstance(s, str)), None)
        if kind in ("linear", "expert_linear"):
            if kind == "expert_linear" and self.spread:
                experts = self._experts(operator)
                before = [sum(operator["tokens"][:i]) for i in range(len(operator["tokens"]) + 1)]
                self.rows[operator.outputs[0]] = tuple((before[a], before[b]) for a, b in experts)
                return Rule("experts", experts, "partial")
            if split is not None:
                return Rule("rows", split, "partial")
            bounds = self._columns(operator)
            return Rule("whole") if bounds is None else Rule("columns", bounds, bounds)
        if kind == "attention" and split is not None:
            heads = self._heads(operator)
            v = operator["v"]
            return Rule("heads", heads, tuple((a * v, b * v) for a, b in heads))
        if kind in ("rope", "kv_append") and split is not None:
            return Rule("heads", self._per_head(operator, split), split)
        if kind == "head_linear" and split is not None:
            k, n = operator["k"], operator["n"]
            heads = tuple((a // k, b // k) for a, b in split)
            return Rule("heads", heads, tuple((a * n, b * n) for a, b in heads))
        if kind == "norm" and split is not None and self._norm_fits(operator, split):
            return Rule("elements", split, split)
        if kind in _ROWWISE and split is not None and all(s == split for s in states):
            return Rule("elements", split, split)
        rows = self.rows.get(inputs[0], ()) if inputs else ()
        if rows and kind in ("activation", "multiply"):
            self.rows[operator.outputs[0]] = rows
            return Rule("partial", rows, "partial")
        if kind == "combine" and states[0] == "partial":
            return Rule("partial", rows, "partial")
        return Rule("whole")

    def _experts(self, operator: Operator) -> Bounds:
        """Whole experts of each slot."""
        load = self._load.get(operator.layer)
        return self.even(len(operator["tokens"])) if load is None else balanced(load, self.slots)

    def even(self, n: int, unit: int = 1) -> Bounds:
        """``n`` in ranges of whole units, as even as can be."""
        units = -(-n // unit)
        edges = [min(units * i // self.slots * unit, n) for i in range(self.slots + 1)]
        return tuple(itertools.pairwise(edges))

    def _columns(self, operator: Operator) -> Bounds | None:
        """Ranges of n, or None where the result is wanted whole."""
        n = operator["n"]
        kv = self._repeated(operator.outputs[0])
        if kv and n % kv == 0:
            heads = (i * kv // self.slots for i in range(self.slots))
            return tuple((head * n // kv, (head + 1) * n // kv) for head in heads)
        unit = self._unit(operator.outputs[0])
        if unit is None or n // unit < self.slots:
            return None
        return self.even(n, unit)

    def _unit(self, tensor: str, depth: int = 0) -> int | None:
        """Columns that must stay together for every consumer; None: one of them needs all."""
        consumers = self._consumers.get(tensor, [])
        if not consumers:  # logits: the end of the graph
            return 1 if depth == 0 else None
        unit = 1
        for operator in consumers:
            kind = operator.kind
            if kind == "attention":
                inner: int | None = self._attention_unit(operator, tensor)
            elif kind in ("rope", "kv_append", *_ROWWISE):
                inner = self._unit(operator.outputs[0], depth + 1)
                if kind == "add":  # the residual is whole
                    inner = None
            elif kind == "norm":
                whole = operator["n"] == self.graph.tensors[tensor].shape[-1]
                inner = None if whole else self._unit(operator.outputs[0], depth + 1)
            elif kind == "head_linear":
                inner = operator["k"]
            elif kind in ("linear", "expert_linear"):
                # k is split as this is: scales belong to whole groups
                weight = self.graph.tensors[operator.inputs[1]].format
                inner = lcm(weight.group or 1, self.graph.tensors[tensor].format.group or 1)
            else:
                inner = None
            if inner is None:
                return None
            unit = lcm(unit, inner)
        return unit

    def _attention_unit(self, operator: Operator, tensor: str) -> int | None:
        """Columns of queries, keys or values that a slot's attention needs together."""
        heads, kv = operator["heads"], operator["kv_heads"]
        queries = tensor == operator.inputs[0]
        width = int(operator["qk"] if tensor in operator.inputs[:2] else operator["v"])
        if not queries and not self._queries_split(operator):
            return None
        if kv >= self.slots:
            return width * (heads // kv) if queries else width
        # fewer key heads than slots: a slot has query heads of one of them; see `_repeated`
        if self.slots % kv or heads % self.slots:
            return None
        return width if queries else None

    def _repeated(self, tensor: str) -> int:
        """Number of heads, fewer than slots, of keys or values of which each slot needs one; 0: not so."""
        found = set()
        for operator in self._consumers.get(tensor, []):
            kind = operator.kind
            whole = kind == "norm" and operator["n"] == self.graph.tensors[tensor].shape[-1]
            if kind == "attention" and tensor != operator.inputs[0] and self._queries_split(operator):
                heads, kv = operator["heads"], operator["kv_heads"]
                fits = kv < self.slots and self.slots % kv == 0 == heads % self.slots
                found.add(kv if fits else 0)
            elif kind in ("rope", "kv_append", "norm") and not whole:
                found.add(self._repeated(operator.outputs[0]))
            else:
                return 0
        return found.pop() if len(found) == 1 else 0

    def _queries_split(self, attention: Operator) -> bool:
        """Whether the queries come by heads from their product: no norm over all heads between."""
        name = attention.inputs[0]
        while (producer := self.graph.producer(name)) is not None:
            operator = self.graph[producer]
            if operator.kind in ("linear", "head_linear"):
                return True
            whole = operator.kind == "norm" and operator["n"] == self.graph.tensors[name].shape[-1]
            if operator.kind not in ("rope", "norm") or whole:
                return False
            name = operator.inputs[0]
        return False

    def _heads(self, operator: Operator) -> Bounds:
        heads, kv = operator["heads"], operator["kv_heads"]
        return self.even(heads, heads // kv if kv >= self.slots else 1)

    @staticmethod
    def _per_head(operator: Operator, split: Bounds) -> Bounds:
        width = operator["n"] if operator.kind == "rope" else 1
        return tuple((a // width, b // width) for a, b in split)

    def _norm_fits(self, operator: Operator, split: Bounds) -> bool:
        n = operator["n"]
        return n < self.graph.tensors[operator.inputs[0]].shape[-1] and all(
            a % n == b % n == 0 for a, b in split
        )


def repeats(bounds: Bounds) -> int:
    """How many slots have each range.

    >>> repeats(((0, 4), (0, 4), (4, 8), (4, 8))), repeats(((0, 1), (1, 1), (1, 1)))
    (2, 1)
    """
    ranges = [r for r in bounds if r[0] < r[1]]
    return max(len(ranges) // max(len(set(ranges)), 1), 1)
