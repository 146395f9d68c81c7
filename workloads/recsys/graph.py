"""Preprocessing of a mini-batch as an operator graph, and what each operator is in work.

====================  =======================================  ========================================
kind                  dims                                     meaning (inputs -> outputs)
====================  =======================================  ========================================
``parquet_decode``    rows and those of `DecodeWork`           pages of one column -> values, flags of what
                                                               is there (if something is missing), lengths
                                                               (of lists)
``fill_null``         values                                   values, flags -> values
``log``, ``logit``    values                                   numbers -> float32
``clamp``             values                                   numbers -> numbers of the same type
``bucketize``         values, borders                          numbers, borders -> int32
``sigrid_hash``       values                                   int64 or int32 -> int64
``first_x``           values, rows, outputs                    values, lengths(, flags) -> the same
``ngram``             values, rows, outputs, n                 values, lengths -> the same
``one_hot``           values, size                             int64 or int32 -> float32 (values, size)
``dense_matrix``      rows, width                              columns side by side -> (rows, width)
``keyed_jagged``      rows, features, values, outputs          of each feature values(, flags)(, lengths)
                                                               -> lengths (features, rows), values
====================  =======================================  ========================================

``attributes`` hold the constants of a step as the spec gives them; ``keyed_jagged``: ``parts``, which of
flags and lengths each feature has. Tensors of int64 and int32 are kept so, flags as bytes; ``group`` is the
spec's. A step on values that are not there (flags False) runs on the 0 in their place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neardata.arch.errors import InputError
from neardata.arch.precision import Format
from neardata.workloads.graph import Graph, Operator, Role
from neardata.workloads.recsys.operators import comparisons
from neardata.workloads.recsys.pages import DecodeWork
from neardata.workloads.recsys.spec import Bucketize, Spec, Step
from neardata.workloads.recsys.table import Table

FORMATS = {"float32": Format("fp32"), "int64": Format("int64"), "int32": Format("int32")}
FLAGS, BYTES = Format("uint8"), Format("uint8")


def graph_of(spec: Spec, table: Table) -> Graph:
    """The graph of preprocessing all rows of a table as one mini-batch.

    What is missing and how long lists are comes from the table, so sizes are exact. Where the table was read
    from Parquet each column starts with its ``parquet_decode``.

    Raises:
        InputError: a column that the table has not, a step that does not fit what comes in.
    """
    return _Builder(spec, table).graph


def _role(dtype: str) -> Role:
    return "activation" if dtype == "float32" else "index"


@dataclass
class _Flow:
    """What a feature is after some of its steps, without its values."""

    values: str
    dtype: str
    valid: str | None
    flags: NDArray[np.bool_] | None
    lengths: str | None
    counts: NDArray[np.int32] | None
    width: int = 1
    """Numbers of a row after ``one_hot``."""
    n: int = 0


class _Builder:
    def __init__(self, spec: Spec, table: Table) -> None:
        self.spec, self.table = spec, table
        self.graph = Graph(f"{spec.name} preprocessing", "preprocess", table.rows)
        self.decode: dict[str, DecodeWork] = {}
        for chunk in table.chunks:
            self.decode[chunk.column] = self.decode.get(chunk.column, NOTHING_DECODED) + chunk.work
        self.read: dict[str, _Flow] = {}
        self.ends: dict[str, list[_Flow]] = {"dense": [], "sparse": []}
        if spec.label is not None:
            label = self._column(spec.label, "label")
            if label.lengths is not None or label.flags is not None:
                held = "lists" if label.lengths is not None else "missing values"
                raise self._problem(f"column '{spec.label}' holds {held}; labels are one a row", "label")
        for name, group in spec.features.items():
            for column, feature in zip(group.column_names, group.feature_names, strict=True):
                flow = self._column(column, f"features.{name}.columns")
                for i, step in enumerate(group.steps):
                    flow = self._step(flow, step, f"{feature}.{i}.{step.op}", name, i, column)
                self._check_end(flow, group.output, name, column)
                self.ends[group.output].append(flow)
        self._dense_matrix()
        self._keyed_jagged()

    def _problem(self, message: str, key: str) -> InputError:
        return InputError(message, file=self.table.source, key=f"{self.spec.name}: {key}")

    def _column(self, name: str, key: str) -> _Flow:
        if name in self.read:
            return self.read[name]
        try:
            column = self.table[name]
        except InputError as error:
            raise self._problem(error.message, key) from None
        n, rows, dtype = len(column.values), self.table.rows, str(column.values.dtype)
        if dtype not in FORMATS:
            raise self._problem(f"column '{name}' is {dtype}; {', '.join(FORMATS)}", key)
        values = self.graph.tensor(name, (n,), FORMATS[dtype], _role(dtype))
        valid = lengths = None
        if column.valid is not None:
            valid = self.graph.tensor(f"{name}.valid", (n,), FLAGS, "index")
        if column.lengths is not None:
            lengths = self.graph.tensor(f"{name}.lengths", (rows,), FORMATS["int32"], "index")
        if name in self.decode:
            work = self.decode[name]
            pages = self.graph.tensor(f"{name}.pages", (work.compressed_bytes,), BYTES, "activation")
            dims = {"rows": rows, **{f.name: getattr(work, f.name) for f in fields(work)}}
            outputs = tuple(t for t in (values, valid, lengths) if t is not None)
            kind = "parquet_decode"
            self.graph.add(Operator(f"{name}.decode", kind, (pages,), outputs, dims, group="decode"))
        flow = _Flow(values, dtype, valid, column.valid, lengths, column.lengths, n=n)
        self.read[name] = flow
        return flow

    def _step(self, flow: _Flow, step: Step, name: str, group: str, i: int, column: str) -> _Flow:
        key = f"features.{group}.steps.{i}.{step.op}"
        attributes = step.model_dump(exclude={"op", "borders"})
        inputs: tuple[str, ...] = (flow.values,)
        dims: dict[str, int | tuple[int, ...]] = {"values": flow.n}
        after = _Flow(**vars(flow))
        if flow.width > 1:
            raise self._problem("nothing follows one_hot", key)
        wants_ids = step.op in ("sigrid_hash", "ngram", "one_hot")
        if wants_ids and flow.dtype == "float32":
            raise self._problem(f"column '{column}' holds numbers in float32 there; ids are needed", key)
        if step.op in ("first_x", "ngram") and flow.lengths is None:
            raise self._problem(f"column '{column}' holds one value a row; lists are needed", key)
        match step.op:
            case "fill_null":
                if flow.valid is None:
                    return flow
                inputs = (flow.values, flow.valid)
                after.valid = after.flags = None
                self._fits(flow.dtype, step.value, key)
            case "clamp":
                self._fits(flow.dtype, step.low, key)
                self._fits(flow.dtype, step.high, key)
            case "log" | "logit":
                after.dtype = "float32"
            case "bucketize":
                assert isinstance(step, Bucketize)
                dims["borders"] = len(step.numbers)
                table = f"{group}.{i}.borders"
                if table not in self.graph.tensors:
                    self.graph.tensor(table, (len(step.numbers),), FORMATS["float32"], "weight")
                inputs, attributes["borders"] = (flow.values, table), step.numbers
                after.dtype = "int32"
            case "sigrid_hash":
                after.dtype = "int64"
            case "first_x" | "ngram":
                return self._list_step(flow, after, step, name, group, dims, attributes, key)
            case "one_hot":
                dims["size"] = after.width = attributes["size"]
                after.dtype = "float32"
        shape = (flow.n,) if after.width == 1 else (flow.n, after.width)
        after.values = self.graph.tensor(name, shape, FORMATS[after.dtype], _role(after.dtype))
        self.graph.add(
            Operator(name, step.op, inputs, (after.values,), dims, group=group, attributes=attributes)
        )
        return after

    def _list_step(
        self, flow: _Flow, after: _Flow, step: Any, name: str, group: str, dims: dict[str, Any],
        attributes: Mapping[str, Any], key: str,
    ) -> _Flow:  # fmt: skip
        assert flow.lengths is not None and flow.counts is not None
        inputs = [flow.values, flow.lengths]
        if step.op == "first_x":
            after.counts = np.minimum(flow.counts, np.int32(step.k))
            if flow.flags is not None and flow.valid is not None:
                from neardata.workloads.recsys.operators import first_x

                after.flags = first_x(flow.flags, flow.counts, step.k)[0]
                inputs.append(flow.valid)
        else:
            if flow.valid is not None:
                raise self._problem("ids are missing; fill_null comes first", key)
            after.counts = np.maximum(flow.counts - np.int32(step.n - 1), 0).astype(np.int32)
            after.dtype = "int64"
            dims["n"] = step.n
        after.n = int(after.counts.sum(dtype=np.int64))
        dims |= {"rows": self.table.rows, "outputs": after.n}
        after.values = self.graph.tensor(name, (after.n,), FORMATS[after.dtype], "index")
        after.lengths = self.graph.tensor(f"{name}.lengths", (self.table.rows,), FORMATS["int32"], "index")
        outputs = [after.values, after.lengths]
        if after.valid is not None:
            after.valid = self.graph.tensor(f"{name}.valid", (after.n,), FLAGS, "index")
            outputs.append(after.valid)
        self.graph.add(
            Operator(name, step.op, tuple(inputs), tuple(outputs), dims, group=group, attributes=attributes)
        )
        return after

    def _fits(self, dtype: str, value: float, key: str) -> None:
        if dtype != "float32" and (value != int(value) or abs(value) > 2**53):
            raise self._problem(f"{value} for whole numbers", key)

    def _check_end(self, flow: _Flow, output: str, group: str, column: str) -> None:
        key = f"features.{group}.output"
        if output == "sparse":
            if flow.dtype == "float32":
                raise self._problem(f"column '{column}' ends as float32; sparse features are ids", key)
            return
        if flow.lengths is not None:
            raise self._problem(f"column '{column}' holds lists; dense features are one number a row", key)
        if flow.flags is not None:
            missing = int((~flow.flags).sum())
            raise self._problem(f"{missing} values of column '{column}' are missing; fill_null first", key)

    def _dense_matrix(self) -> None:
        flows, rows = self.ends["dense"], self.table.rows
        if not flows:
            return
        width = sum(flow.width for flow in flows)
        output = self.graph.tensor("dense", (rows, width), FORMATS["float32"], "activation")
        dims = {"rows": rows, "width": width}
        self.graph.add(
            Operator("dense", "dense_matrix", tuple(f.values for f in flows), (output,), dims, group="batch")
        )

    def _keyed_jagged(self) -> None:
        flows, rows = self.ends["sparse"], self.table.rows
        if not flows:
            return
        total = sum(flow.n if flow.flags is None else int(flow.flags.sum()) for flow in flows)
        lengths = self.graph.tensor("sparse.lengths", (len(flows), rows), FORMATS["int32"], "index")
        values = self.graph.tensor("sparse.values", (total,), FORMATS["int64"], "index")
        inputs = [t for f in flows for t in (f.values, f.valid, f.lengths) if t is not None]
        dims = {"rows": rows, "features": len(flows), "values": sum(f.n for f in flows), "outputs": total}
        parts = tuple((f.valid is not None, f.lengths is not None) for f in flows)
        self.graph.add(
            Operator(
                "sparse", "keyed_jagged", tuple(inputs), (lengths, values), dims, group="batch",
                attributes={"parts": parts},
            )
        )  # fmt: skip


NOTHING_DECODED = DecodeWork()


@dataclass(frozen=True)
class Work:
    """What operators do, in numbers a unit can be sized by."""

    operators: int = 0
    values_in: int = 0
    values_out: int = 0
    bytes_in: int = 0
    """Of inputs, borders left out."""
    bytes_out: int = 0
    constant_bytes: int = 0
    """Of borders."""
    comparisons: int = 0
    """``bucketize``: ceil(log2(borders + 1)) each value; ``clamp``: 2; ``one_hot``: its size."""
    hashes: int = 0
    """SigridHash: one a value; ``ngram``: n for each id that comes out."""
    logarithms: int = 0
    decode: DecodeWork = NOTHING_DECODED

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def work(graph: Graph, operator: Operator) -> Work:
    """What one operator does."""
    tensors = [graph.tensors[name] for name in operator.inputs]
    given = [t for t in tensors if t.role != "weight"]
    results = [graph.tensors[name] for name in operator.outputs]
    values_in = operator.dims.get("values", operator.dims.get("rows"))
    assert isinstance(values_in, int)
    values_out = values_in
    compared = hashed = logs = 0
    decoded = NOTHING_DECODED
    match operator.kind:
        case "parquet_decode":
            decoded = DecodeWork(*(operator[f.name] for f in fields(DecodeWork)))
            values_out = results[0].elements
        case "bucketize":
            compared = values_in * comparisons(operator["borders"])
        case "clamp":
            compared = 2 * values_in
        case "one_hot":
            compared = values_out = values_in * operator["size"]
        case "sigrid_hash":
            hashed = values_in
        case "ngram":
            values_out = operator["outputs"]
            hashed = values_out * operator["n"]
        case "log" | "logit":
            logs = values_in
        case "first_x" | "keyed_jagged":
            values_out = operator["outputs"]
        case "dense_matrix":
            values_in = values_out = operator["rows"] * operator["width"]
    return Work(
        1, values_in, values_out, sum(t.bytes for t in given), sum(t.bytes for t in results),
        sum(t.bytes for t in tensors if t.role == "weight"), compared, hashed, logs, decoded,
    )  # fmt: skip


def work_of(graph: Graph) -> dict[str, Work]:
    """Work of all operators of each kind, in the order the kinds first come.

    >>> from neardata.workloads.recsys.generate import generate
    >>> from neardata.workloads.recsys.spec import load_spec
    >>> rm5 = load_spec("rm5")
    >>> found = work_of(graph_of(rm5, generate(rm5, 100)))
    >>> found["bucketize"].comparisons, found["log"].logarithms
    (54600, 50400)
    """
    total: dict[str, Work] = {}
    for operator in graph:
        total[operator.kind] = total.get(operator.kind, Work()) + work(graph, operator)
    return total
