"""Products on drives executed on data: page by page, as the drive's engine runs them in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neardata.sim.program import FlashMatMul, Operand
from neardata.sim.system.flash_programs import pages_of
from neardata.workloads import semantics
from neardata.workloads.graph import Operator

if TYPE_CHECKING:
    from neardata.mappers.functional import Run


def in_pages(
    run: Run, operator: Operator, operand: Operand, marks: NDArray[np.uint64]
) -> tuple[Any, NDArray[np.uint64], tuple[slice, ...]]:
    """Numbers and marks of a part of a product. The matrices of operators in one kernel lie one below the
    other; of experts, each has a kernel of its own.

    Args:
        marks: of each index k of the sum, and of a bias.

    Raises:
        ProgramError: the kernel is not of the matrix that the task reads.
    """
    kernel = run.task.kernel
    assert isinstance(kernel, FlashMatMul)
    rows, columns = index = run.index(operand)
    x, w = operator.inputs[:2]
    expert = tuple(i[0] for i in run.slices_read(w) if len(i) == 3)
    k_from = min(i[-1].start for i in run.slices_read(w))
    k_to = max(i[-1].stop for i in run.slices_read(w))
    above = sum(_width(run, name) for name in run.task.operators[: run.task.operators.index(operator.name)])
    height = columns.stop - columns.start
    inside = sum(_width(run, name) for name in run.task.operators)
    if (kernel.m, kernel.n, kernel.k) != (rows.stop - rows.start, inside, k_to - k_from):
        asked = f"{rows.stop - rows.start} x {inside} x {k_to - k_from}"
        raise run.error(operand, f"is of {asked}, its kernel of {kernel.m} x {kernel.n} x {kernel.k}")
    value: Any = None
    mark = np.zeros((1, height), np.uint64)
    pages = pages_of(kernel)
    for first, last, left, right in zip(
        pages.row.tolist(), pages.row_end.tolist(), pages.column.tolist(), pages.column_end.tolist(),
        strict=True,
    ):  # fmt: skip
        n = slice(max(first - above, 0), min(last - above, height))  # of the operand's columns
        if n.start >= n.stop:
            continue
        k = slice(k_from + left, k_from + right)
        where = (*expert, slice(columns.start + n.start, columns.start + n.stop), k)
        weights = run.part(w, where)
        part = semantics.linear(run.part(x, (rows, k)), weights[0] if expert else weights)
        if value is None:
            value = np.zeros((kernel.m, height), part.dtype)
        value[:, n] += part
        with np.errstate(over="ignore"):
            mark[:, n] += marks[k].sum(dtype=np.uint64)
    if len(operator.inputs) > 2 and run.slices_read(operator.inputs[2]):
        value = value + semantics.dequantised(run.part(operator.inputs[2], (columns,)))
        mark = mark + marks[-1]
    return value, np.broadcast_to(mark, value.shape), index


def _width(run: Run, name: str) -> int:
    """Columns of an operator's result that the task writes."""
    written = [run.index(o)[1] for o in run.task.writes if o.tensor in run.graph[name].outputs]
    return sum(columns.stop - columns.start for columns in written)
