"""Operator graphs: what a workload computes, with shapes and numbers of bytes, and no hardware.

A `Graph` holds `Tensor` and `Operator` by name. Operators are typed by ``kind``; ``dims`` are the
sizes that define the work of the kind:

====================  =======================================  ========================================
kind                  dims                                     meaning (inputs -> outputs)
====================  =======================================  ========================================
``linear``            m, n, k                                  x[m,k], w[n,k](, bias[n]) -> y[m,n]
``expert_linear``     tokens (of each expert), n, k            x[sum(tokens),k] sorted by expert, w[E,n,k]
                                                               (, bias[E,n]) -> y[sum(tokens),n]
``attention``         queries and context (of each sequence,   q[sum(queries),heads*qk], keys and values
                      context includes the new tokens),        (the caches after appending, sequence after
                      heads, kv_heads, qk, v                   sequence: [sum(context),kv_heads,qk or v])
                                                               -> y[sum(queries),heads*v];
                                                               softmax(scale q k) v, causal
``kv_append``         tokens, width, queries, context          new keys or values[tokens,width] -> the cache:
                                                               rows at the end of each sequence's context
``norm``              m, n                                     RMS or layer norm over n (``attributes``)
``rope``              m, heads, n, queries, context            rotary position embedding
``activation``        m, n                                     silu, gelu, relu ... (``attributes``)
``multiply``, ``add`` m, n                                     element by element
``embedding``         m, n, vocabulary                         gather of rows
``route``             m, experts, top_k                        logits[m,E] -> expert ids and weights
``dispatch``          m, n, top_k                              rows, ids -> rows copied and sorted by expert
``combine``           m, n, top_k                              experts' rows, ids, weights -> weighted sum
``head_linear``       m, heads, n, k                           x[m,heads*k], w[heads,n,k] -> y[m,heads*n]:
                                                               each head its own matrix (latent attention)
``gather``            m, n                                     picked rows (``attributes``: rows)
``slice``             m, n, heads                              columns start .. start + n / heads of each head
``concat``            m, n, heads                              columns of the inputs side by side, head by
                                                               head; an input of one head goes to each
====================  =======================================  ========================================

Attributes. ``attention``: ``scale`` (factor on q k), ``causal``, ``window`` (tokens a query looks back
on, itself included; None: all), ``bias`` (sizes of T5's relative positions, whose table is the last input),
``sinks`` (the last input: a score of each head that takes weight and gives nothing). With
two inputs, q and one cache, the values are the first v columns of the keys (latent attention): the cache
is read once. ``norm``: ``norm`` (rms or layer), ``epsilon``. ``rope``: ``theta``, ``scaling``.
``activation``: ``function``. ``multiply``: ``within`` and ``plus`` (bounds of the second input and what is
added to it). ``route``: ``scoring``, ``normalise``, ``scale``, ``groups``,
``top_groups``, ``group_score``. ``embedding`` of positions: ``first`` (row of position 0), with queries and
context in dims. ``slice``: ``start``. ``concat``: ``widths`` of a head in each input.
`neardata.workloads.semantics` computes each. Graphs of preprocessing have kinds of their own:
`neardata.workloads.recsys.graph`, `neardata.workloads.vision.graph`, `neardata.workloads.audio.graph`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import networkx as nx  # type: ignore[import-untyped, unused-ignore]

from neardata.arch.precision import Format

Phase = Literal["prefill", "decode", "verify", "preprocess"]
Role = Literal["weight", "activation", "cache", "index"]


@dataclass(frozen=True)
class Tensor:
    """An array of the graph."""

    name: str
    shape: tuple[int, ...]
    format: Format
    role: Role

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes, scales included."""
        return self.format.bytes_of(self.elements, self.shape[-1] if self.shape else None)


@dataclass(frozen=True)
class Operator:
    """One step of the computation."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    """Tensor names; weights and caches among them."""
    outputs: tuple[str, ...]
    dims: Mapping[str, int | tuple[int, ...]]
    layer: int | None = None
    group: str = ""
    """What people call the part it belongs to: ``attention``, ``feed-forward``, ``experts``, ``head`` ..."""
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, dim: str) -> Any:
        """A size, such as ``operator["n"]``."""
        return self.dims[dim]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of matrix work; 0 for element-wise kinds. Causal attention counts the
        pairs it keeps."""
        d = self.dims
        if self.kind == "linear":
            return int(d["m"]) * int(d["n"]) * int(d["k"])  # type: ignore[arg-type]
        if self.kind == "expert_linear":
            return sum(d["tokens"]) * int(d["n"]) * int(d["k"])  # type: ignore[arg-type]
        if self.kind == "head_linear":
            return int(d["m"]) * int(d["heads"]) * int(d["n"]) * int(d["k"])  # type: ignore[arg-type]
        if self.kind == "attention":
            return self.pairs * int(d["heads"]) * (int(d["qk"]) + int(d["v"]))  # type: ignore[arg-type]
        return 0

    @property
    def pairs(self) -> int:
        """Query-key pairs that attention keeps, of one head, over all sequences."""
        if self.kind != "attention":
            return 0
        queries, context = self.dims["queries"], self.dims["context"]
        assert isinstance(queries, tuple) and isinstance(context, tuple)
        sequences = zip(queries, context, strict=True)
        if not self.attributes.get("causal", True):
            return sum(q * c for q, c in sequences)
        window = self.attributes.get("window")
        if window is None or window >= max(context, default=0):
            return sum(q * c - q * (q - 1) // 2 for q, c in sequences)
        return sum(min(c - i, window) for q, c in sequences for i in range(q))


class Graph:
    """Operators in the order they may run, the tensors between them, and who feeds whom."""

    def __init__(self, name: str, phase: Phase, batch: int) -> None:
        self.name, self.phase, self.batch = name, phase, batch
        """``batch``: sequences, or samples."""
        self.tensors: dict[str, Tensor] = {}
        self.nx = nx.DiGraph()
        """Nodes: operator names, with the `Operator` as attribute ``operator``."""
        self._operators: dict[str, Operator] = {}
        self._producer: dict[str, str] = {}

    def tensor(self, name: str, shape: tuple[int, ...], format: Format, role: Role) -> str:
        """Add a tensor; its name, for use in operators.

        Raises:
            ValueError: another tensor has the name.
        """
        if name in self.tensors:
            raise ValueError(f"tensor '{name}' is there already")
        self.tensors[name] = Tensor(name, shape, format, role)
        return name

    def add(self, operator: Operator) -> None:
        """Add an operator behind the producers of its inputs.

        Raises:
            ValueError: a name given twice, a tensor that was not added or that nothing produces.
        """
        if operator.name in self._operators:
            raise ValueError(f"operator '{operator.name}' is there already")
        for name in (*operator.inputs, *operator.outputs):
            if name not in self.tensors:
                raise ValueError(f"operator '{operator.name}': tensor '{name}' was not added")
        self._operators[operator.name] = operator
        self.nx.add_node(operator.name, operator=operator)
        for name in operator.inputs:
            if name in self._producer:
                self.nx.add_edge(self._producer[name], operator.name, tensor=name)
        for name in operator.outputs:
            self._producer[name] = operator.name

    def __iter__(self) -> Iterator[Operator]:
        """Operators in the order they were added, which is a topological one."""
        return iter(self._operators.values())

    def __len__(self) -> int:
        return len(self._operators)

    def __getitem__(self, name: str) -> Operator:
        return self._operators[name]

    def __contains__(self, name: object) -> bool:
        return name in self._operators

    def producer(self, tensor: str) -> str | None:
        """Name of the operator that makes a tensor; None for what is there at the start."""
        return self._producer.get(tensor)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all operators."""
        return sum(operator.macs for operator in self)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, each counted once."""
        return sum(t.bytes for t in self.tensors.values() if t.role == "weight")

    @property
    def cache_bytes(self) -> int:
        """Bytes of the key and value caches."""
        return sum(t.bytes for t in self.tensors.values() if t.role == "cache")
