"""Preprocessing on data: the graph of a spec, run operator by operator, into tensors for training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neardata.workloads.graph import Graph, Operator
from neardata.workloads.recsys import operators
from neardata.workloads.recsys.graph import graph_of
from neardata.workloads.recsys.spec import Spec
from neardata.workloads.recsys.table import Column, Table


@dataclass(frozen=True)
class KeyedJagged:
    """Lists of ids, feature after feature and row after row within it (TorchRec's ``KeyedJaggedTensor``)."""

    keys: tuple[str, ...]
    lengths: NDArray[np.int32]
    """(features, rows)"""
    values: NDArray[np.int64]
    """(sum of lengths,)"""

    def __getitem__(self, key: str) -> Column:
        """One feature."""
        ends = np.concatenate([[0], np.cumsum(self.lengths.sum(axis=1, dtype=np.int64))])
        i = self.keys.index(key)
        return Column(self.values[ends[i] : ends[i + 1]], None, self.lengths[i])


@dataclass(frozen=True)
class MiniBatch:
    """What a training step takes."""

    dense: NDArray[np.float32]
    """(rows, dense features)"""
    sparse: KeyedJagged
    labels: NDArray[np.float32] | None
    """(rows,)"""

    @property
    def rows(self) -> int:
        """Samples."""
        return len(self.dense)

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        labels = 0 if self.labels is None else self.labels.nbytes
        return self.dense.nbytes + self.sparse.lengths.nbytes + self.sparse.values.nbytes + labels


def preprocess(spec: Spec, table: Table, *, kernels: bool = True) -> MiniBatch:
    """All rows of a table as one mini-batch.

    An id that is missing at the end of a sparse feature's steps is left out of its list; a dense value must
    not be.

    Args:
        kernels: with compiled kernels; False: in numpy. The results are the same.

    Raises:
        InputError: a column that the table has not, a step that does not fit what comes in.

    >>> from neardata.workloads.recsys.generate import generate
    >>> from neardata.workloads.recsys.spec import load_spec
    >>> rm1 = load_spec("rm1")
    >>> batch = preprocess(rm1, generate(rm1, 8), kernels=False)
    >>> batch.dense.shape, batch.sparse.lengths.shape
    ((8, 13), (39, 8))
    """
    found = execute(graph_of(spec, table), table, kernels=kernels)
    dense = found.get("dense", np.zeros((table.rows, 0), dtype=np.float32))
    lengths = found.get("sparse.lengths", np.zeros((0, table.rows), dtype=np.int32))
    ids = found.get("sparse.values", np.zeros(0, dtype=np.int64))
    labels = None if spec.label is None else found[spec.label].astype(np.float32)
    return MiniBatch(dense, KeyedJagged(spec.names("sparse"), lengths, ids), labels)


def batches(spec: Spec, table: Table) -> Iterator[Table]:
    """A table's rows, ``spec.batch`` at a time; the last part may be shorter."""
    for start in range(0, table.rows, spec.batch):
        yield table.slice(start, start + spec.batch)


def execute(graph: Graph, table: Table, *, kernels: bool = True) -> dict[str, NDArray[Any]]:
    """All tensors of a graph of `graph_of` but the bytes of pages."""
    held: dict[str, NDArray[Any]] = {}
    for name, column in table.columns.items():
        held[name] = column.values
        if column.valid is not None:
            held[f"{name}.valid"] = column.valid
        if column.lengths is not None:
            held[f"{name}.lengths"] = column.lengths
    for operator in graph:
        if operator.kind == "parquet_decode":  # PyArrow's part, when the table was read
            continue
        inputs = [held[name] if name in held else _borders(operator) for name in operator.inputs]
        for name, output in zip(operator.outputs, evaluate(operator, *inputs, kernels=kernels), strict=True):
            if output.shape != graph.tensors[name].shape:
                raise ValueError(f"tensor '{name}': {output.shape} for {graph.tensors[name].shape}")
            held[name] = output
    return held


def _borders(operator: Operator) -> NDArray[np.float32]:
    borders: NDArray[np.float32] = operator.attributes["borders"]
    return borders


def evaluate(operator: Operator, *inputs: NDArray[Any], kernels: bool = True) -> tuple[NDArray[Any], ...]:
    """The outputs of one operator."""
    given: NDArray[Any] = inputs[0]
    a = operator.attributes
    by: Any = operators
    if kernels and operator.kind in ("bucketize", "sigrid_hash", "log"):
        from neardata.workloads.recsys import fast as by  # loads numba
    match operator.kind:
        case "fill_null":
            return (operators.fill_null(given, inputs[1], a["value"]),)
        case "log":
            return (by.log(given, a["offset"]),)
        case "logit":
            return (operators.logit(given, a["epsilon"]),)
        case "clamp":
            return (operators.clamp(given, a["low"], a["high"]),)
        case "bucketize":
            return (by.bucketize(given.astype(np.float32), inputs[1]),)
        case "sigrid_hash":
            return (by.sigrid_hash(given.astype(np.int64), a["salt"], a["max"]),)
        case "first_x":
            values, lengths = operators.first_x(given, inputs[1], a["k"])
            flags = (operators.first_x(flag, inputs[1], a["k"])[0] for flag in inputs[2:])
            return (values, lengths, *flags)
        case "ngram":
            return operators.ngram(given.astype(np.int64), inputs[1], a["n"], a["salt"], a["max"])
        case "one_hot":
            return (operators.one_hot(given, a["size"]),)
        case "dense_matrix":
            return (dense_matrix(inputs),)
        case "keyed_jagged":
            return keyed_jagged(operator["rows"], a["parts"], inputs)
    raise ValueError(f"no meaning of operators of kind '{operator.kind}' here")


def dense_matrix(columns: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """Columns (rows,) or (rows, width) side by side: (rows, sum of widths), row after row."""
    return np.column_stack([column.astype(np.float32, copy=False) for column in columns])


def keyed_jagged(
    rows: int, parts: Sequence[tuple[bool, bool]], inputs: Sequence[NDArray[Any]]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Lengths (features, rows) and ids of features one after another, without ids that are not there.

    Args:
        parts: for each feature whether flags and whether lengths follow its values among the inputs.
    """
    rest = iter(inputs)
    all_lengths, all_values = [], []
    for has_flags, has_lengths in parts:
        values = next(rest)
        flags = next(rest) if has_flags else None
        lengths = next(rest) if has_lengths else np.ones(rows, dtype=np.int32)
        if flags is not None:
            there = np.concatenate([[0], np.cumsum(flags, dtype=np.int64)])
            ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
            lengths = np.diff(there[ends]).astype(np.int32)
            values = values[flags]
        all_lengths.append(lengths)
        all_values.append(values.astype(np.int64, copy=False))
    return np.stack(all_lengths), np.concatenate(all_values)
