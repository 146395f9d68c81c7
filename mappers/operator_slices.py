"""Slices of operators on the data that a task reads: numbers, marks, and where they go."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from neardata.mappers.flash_attention_data import attention_in_pages
from neardata.mappers.flash_data import in_pages
from neardata.mappers.marks import COMPLETE, NOTHING, marks_of_k
from neardata.sim.program import FlashAttention, FlashMatMul, Operand, PimAttention
from neardata.workloads import semantics
from neardata.workloads.graph import Operator

if TYPE_CHECKING:
    from neardata.mappers.banks import Banks
    from neardata.mappers.functional import Run

Made = Iterable[tuple[Any, Any, tuple[slice, ...]]]
"""Numbers, marks, and where they go."""


def _linear(run: Run, operator: Operator, operand: Operand) -> Made:
    rows, columns = index = run.index(operand)
    x, w = operator.inputs[:2]
    marks = marks_of_k(operator["k"], bias=len(operator.inputs) > 2)
    if isinstance(run.task.kernel, FlashMatMul):
        yield in_pages(run, operator, operand, marks)
        return
    value: Any = 0
    mark = NOTHING
    for k in _ranges(run, w, columns):
        value = value + run.product(run.part(x, (rows, k)), run.part(w, (columns, k)))
        mark = mark + marks[k].sum(dtype=np.uint64)
    if len(operator.inputs) > 2 and run.slices_read(operator.inputs[2]):
        value = value + semantics.dequantised(run.part(operator.inputs[2], (columns,)))
        mark = mark + marks[-1]
    if not mark:
        raise run.error(operand, f"is written, but the task reads none of '{w}' for it")
    yield value, mark, index


def _expert_linear(run: Run, operator: Operator, operand: Operand) -> Made:
    rows, columns = run.index(operand)
    x, w = operator.inputs[:2]
    marks = marks_of_k(operator["k"])
    if isinstance(run.task.kernel, FlashMatMul):
        yield in_pages(run, operator, operand, marks)
        return
    first = 0
    for expert, count in enumerate(operator["tokens"]):
        mine = slice(max(first, rows.start), min(first + count, rows.stop))
        first += count
        if mine.start >= mine.stop:
            continue
        value: Any = 0
        mark = NOTHING
        for k in _ranges(run, w, columns, expert):
            weights = run.part(w, (slice(expert, expert + 1), columns, k))
            value = value + run.product(run.part(x, (mine, k)), weights[0])
            mark = mark + marks[k].sum(dtype=np.uint64)
        if not mark:
            raise run.error(operand, f"is written, but the task reads none of '{w}' for expert {expert}")
        yield value, mark, (mine, columns)


def _ranges(run: Run, weight: str, columns: slice, expert: int | None = None) -> list[slice]:
    """Ranges of k of which the task reads weights of these columns (and of this expert)."""
    found = set()
    for read in run.slices_read(weight):
        n, k = read[-2:]
        mine = expert is None or read[0].start <= expert < read[0].stop
        if mine and n.start < columns.stop and n.stop > columns.start:
            found.add((k.start, k.stop))
    return [slice(*k) for k in sorted(found)]


def _head_linear(run: Run, operator: Operator, operand: Operand) -> Made:
    rows, columns = index = run.index(operand)
    n, k = operator["n"], operator["k"]
    if columns.start % n or columns.stop % n:
        raise run.error(operand, f"cuts a head of {n} columns")
    heads = slice(columns.start // n, columns.stop // n)
    x = run.part(operator.inputs[0], (rows, slice(heads.start * k, heads.stop * k)))
    w = run.part(operator.inputs[1], (heads, slice(0, n), slice(0, k)))
    yield semantics.head_linear(x, w), COMPLETE, index


def _attention(run: Run, operator: Operator, operand: Operand) -> Made:
    """Whole sequences of some heads."""
    rows, columns = index = run.index(operand)
    heads, kv_heads, qk, v = (operator[d] for d in ("heads", "kv_heads", "qk", "v"))
    if columns.start % v or columns.stop % v:
        raise run.error(operand, f"cuts a head of {v} columns")
    mine = slice(columns.start // v, columns.stop // v)
    group = heads // kv_heads
    shared = slice(mine.start // group, -(-mine.stop // group))
    if (mine.start % group or mine.stop % group) and shared.stop - shared.start > 1:
        raise run.error(operand, f"cuts groups of {group} heads that share keys")
    table = bool(operator.attributes.get("bias"))
    caches = operator.inputs[1:-1] if table else operator.inputs[1:]
    kernel = run.task.kernel
    stages = isinstance(kernel, PimAttention) and kernel.stage == "values"
    if run.banks is not None and stages and not table and not operator.attributes.get("sinks"):
        yield _in_banks(run, run.banks, operator, operand, (mine, shared)), COMPLETE, index
        return
    covered = 0
    for q, c, query_positions, key_positions in semantics.sequences(operator):
        if q.stop <= rows.start or q.start >= rows.stop:
            continue
        if q.start < rows.start or q.stop > rows.stop:
            raise run.error(operand, "cuts a sequence")
        queries = run.part(operator.inputs[0], (q, slice(mine.start * qk, mine.stop * qk)))
        parts = [queries]
        for cache in caches:
            shape = run.tensor(cache).shape
            if len(shape) == 3:
                parts.append(run.part(cache, (c, shared, slice(0, shape[2]))))
            else:  # keys or values made of a latent cache
                width = shape[1] // kv_heads
                parts.append(run.part(cache, (c, slice(shared.start * width, shared.stop * width))))
        if table:
            parts.append(
                run.part(operator.inputs[-1], (slice(0, run.tensor(operator.inputs[-1]).shape[0]), mine))
            )
        dims = {
            "heads": mine.stop - mine.start, "kv_heads": shared.stop - shared.start, "qk": qk, "v": v,
            "queries": (len(query_positions),), "context": (len(key_positions),),
        }  # fmt: skip
        part = replace(operator, dims=dims)
        if isinstance(run.task.kernel, FlashAttention):
            yield attention_in_pages(run.task.kernel, part, *parts), COMPLETE, (q, columns)
        else:
            yield semantics.attention(part, *parts), COMPLETE, (q, columns)
        covered += q.stop - q.start
    if covered != rows.stop - rows.start:
        raise run.error(operand, "cuts a sequence")


def _in_banks(
    run: Run, banks: Banks, operator: Operator, operand: Operand, parts: tuple[slice, slice]
) -> Any:
    """Attention of all sequences by the command programs of a memory: some heads, and those of keys and
    values that they share."""
    rows, (heads, kv_heads) = run.index(operand)[0], parts
    qk, v = operator["qk"], operator["v"]
    if rows != slice(0, len(operator["context"])):
        raise run.error(operand, "has not all of the sequences that are worked on together")
    queries = run.part(operator.inputs[0], (rows, slice(heads.start * qk, heads.stop * qk)))
    keys, values = (
        [
            semantics.dequantised(run.part(cache, (c, kv_heads, slice(0, run.tensor(cache).shape[2]))))
            for _, c, _, _ in semantics.sequences(operator)
        ]
        for cache in operator.inputs[1:]
    )
    made = banks.attention(
        (run.scores(), run.task),
        semantics.dequantised(queries).reshape(len(operator["context"]), -1, qk),
        keys,
        values,
        scale=operator.attributes["scale"],
        window=operator.attributes.get("window"),
    )
    return made.reshape(-1, (heads.stop - heads.start) * v)


def _combine(run: Run, operator: Operator, operand: Operand) -> Made:
    """Sums over experts are linear: partial ones, and those of some experts, give partial sums."""
    index = run.index(operand)
    name = operator.inputs[0]
    rows = np.zeros(run.tensor(name).shape)
    there = np.zeros(rows.shape, dtype=np.uint64)
    for read in run.sources:
        if read.tensor == name:
            part, cell = run.index(read), run.cells[read.place, name]
            rows[part] = semantics.dequantised(cell.value)[part]
            there[part] = cell.mark[part]
    ids = run.read(operator.inputs[1])
    value = semantics.combine(rows, ids, run.read(operator.inputs[2]))[index]
    if np.isnan(value).any():
        raise run.error(operand, f"needs more of '{operator.inputs[2]}' than the task reads")
    unsorted = np.empty_like(there)
    unsorted[semantics.order_by_expert(ids)] = there * np.uint64(pow(int(COMPLETE), -1, 2**64))
    of_experts = unsorted.reshape(*ids.shape, -1) * marks_of_k(ids.shape[1])[None, :, None]
    yield value, of_experts.sum(axis=1, dtype=np.uint64)[index], index


def whole(run: Run, operator: Operator, operand: Operand) -> Made:
    """Other kinds: computed whole from what the task reads; what is written must not need the rest."""
    index = run.index(operand)
    inputs = [run.read(name) for name in operator.inputs]
    outputs: tuple[Any, ...]
    with np.errstate(invalid="ignore"):
        if operator.kind == "route" and operator.outputs[0] in run.values:
            ids = np.asarray(run.values[operator.outputs[0]])
            outputs = semantics.route(operator, inputs[0], inputs[1] if len(inputs) > 1 else None, ids)
        else:
            outputs = semantics.evaluate(operator, *inputs)
    value = outputs[operator.outputs.index(operand.tensor)][index]
    if np.issubdtype(value.dtype, np.floating) and np.isnan(value).any():
        raise run.error(operand, "needs more of the inputs than the task reads")
    yield value, COMPLETE, index


EVALUATE: dict[str, Callable[[Run, Operator, Operand], Made]] = {
    "linear": _linear,
    "expert_linear": _expert_linear,
    "head_linear": _head_linear,
    "attention": _attention,
    "combine": _combine,
}
