"""Run a lowered program on data: `execute`, and `verify` against the graph's own result.

Programs of one graph: repetitions for micro-batches and further steps have names of their own, which are
not known here.

Every place holds, of every tensor, numbers and a mark for each element of how much of it is there.
Tasks run in the order of the program. A task reads only what is complete in its own place and was
put there by tasks that it waits for (``after``, directly or through others); it computes its slice
of its operator by `neardata.workloads.semantics`. So a program fails, with the task and the slices named,
that drops, doubles or misplaces a tile, moves data too late or to the wrong place, or leaves out a
dependency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neardata.arch.precision import INTEGERS
from neardata.arch.system import System
from neardata.mappers.banks import Banks
from neardata.mappers.cells import Cell, ProgramError, assign, merge
from neardata.mappers.marks import COMPLETE, NOTHING, Marks
from neardata.mappers.operator_slices import EVALUATE, whole
from neardata.sim.program import (
    Collective,
    Operand,
    PimAttention,
    PimMatMul,
    Program,
    Slices,
    Task,
    Transfer,
)
from neardata.workloads import semantics
from neardata.workloads.graph import Graph, Operator, Tensor
from neardata.workloads.semantics import Quantised, Value, Values

MATRIX_KINDS = ("linear", "expert_linear", "head_linear", "attention")
"""Kinds whose every output is computed in all places together as often as ``Program.operators`` says by its
MACs, once if it does not; others may be repeated."""


def execute(
    program: Program,
    graph: Graph,
    values: Mapping[str, Any],
    *,
    reach: Mapping[str, Sequence[str]] | None = None,
    banks: System | None = None,
) -> Values:
    """All tensors that the tasks of a program compute, put together from all places.

    Args:
        values: of the tensors that are there at the start, as for `semantics.execute`.
        reach: places that a unit reads and writes besides its own.
        banks: the system, to have products in its memories computed by their command programs from what lies
            in the banks (`neardata.mappers.bank_data`), instead of by what they mean; attention too, of
            GDDR6-AiM and HBM-PIM (`neardata.mappers.attention_data`), but not AttAcc's, nor attention with a
            table of biases, which are computed by what they mean. Slow: for small graphs.

    Raises:
        DataError: a command program that does not do what its kernel says.
        ProgramError: a task reads what is not in its place, or not complete, or put there by a task that it
            does not wait for; writes what is there; an element of a result is missing or differs between
            places; an output of a matrix operator is computed other than once.
        ValueError: a value is missing or has another shape.

    >>> from neardata.sim.program import MatMul
    >>> from neardata.arch.precision import Format
    >>> graph = Graph("one product", "decode", 1)
    >>> for name, shape in {"x": (1, 2), "w": (2, 2), "y": (1, 2)}.items():
    ...     _ = graph.tensor(name, shape, Format("int32"), "weight" if name == "w" else "activation")
    >>> graph.add(Operator("product", "linear", ("x", "w"), ("y",), {"m": 1, "n": 2, "k": 2}))
    >>> x, w, y = (Operand(name, "gpu", 0) for name in "xwy")
    >>> task = Task("product", "gpu", MatMul(1, 2, 2), operators=("product",), reads=(x, w), writes=(y,))
    >>> program = Program("product", "one gpu", (task,), placement=(x, w))
    >>> execute(program, graph, {"x": np.array([[1, 2]]), "w": np.array([[3, 4], [5, 6]])})
    {'y': array([[11, 17]])}
    """
    return Run(program, graph, values, reach or {}, banks).results()


def reach_of(system: System) -> dict[str, tuple[str, ...]]:
    """Places where the units of a system keep their data, for `execute`; drives reach the place of the
    processor that they are attached to, too."""
    places = {name: instance.place for name, instance in system.instances.items()}
    partners = {name: system.attached(name) for name in places}
    return {
        name: (place,) if (partner := partners[name]) is None else (place, places[partner])
        for name, place in places.items()
    }


def verify(
    program: Program,
    graph: Graph,
    values: Mapping[str, Any],
    *,
    tolerance: float = 1e-9,
    reach: Mapping[str, Sequence[str]] | None = None,
    banks: System | None = None,
) -> float:
    """Check that a program computes what its graph does.

    Args:
        tolerance: largest difference over the largest magnitude of a tensor in floating point (sums in
            another order); integers must be equal.
        reach, banks: as of `execute`.

    Returns:
        the largest such difference.

    Raises:
        ProgramError: as `execute`, or a tensor that differs.
    """
    results = execute(program, graph, values, reach=reach, banks=banks)
    expected = semantics.execute(graph, values)
    worst = 0.0
    for name, value in results.items():
        got, want = semantics.dequantised(value), semantics.dequantised(expected[name])
        largest = max(float(np.abs(want).max(initial=0.0)), 1e-300)
        error = float(np.abs(got - want).max(initial=0.0)) / largest
        allowed = 0.0 if _exact(graph, name) else tolerance
        if not error <= allowed:
            raise ProgramError(f"tensor '{name}' differs from the graph's by {error:.3g}, at most {allowed}")
        worst = max(worst, error)
    return worst


def _exact(graph: Graph, name: str) -> bool:
    """Integers from integers."""
    format = graph.tensors[name].format
    return format.dtype in INTEGERS and format.group is None


class Run:
    """The state of an execution: what is where after each task."""

    def __init__(
        self,
        program: Program,
        graph: Graph,
        values: Mapping[str, Any],
        reach: Mapping[str, Sequence[str]],
        banks: System | None = None,
    ) -> None:
        self.program, self.graph, self.values, self.reach = program, graph, values, reach
        self.banks = None if banks is None else Banks(banks)
        self.cells: dict[tuple[str, str], Cell] = {}
        self.computed: dict[str, Marks] = {}
        """Of outputs of matrix operators, the marks computed in all places together."""
        self.names = {operator.name for operator in graph}
        self.readers: dict[tuple[str, ...], int] = {}
        """Of operators, the last of their tasks that reads something: for those that name no reads."""
        self.sources: list[Operand] = []
        self.waits = _ancestors(program)
        for operand in program.placement:
            self.put_at_start(operand)
        for number, task in enumerate(program.tasks):
            self.number, self.task = number, task
            try:
                with np.errstate(over="ignore"):  # marks wrap around
                    self.run(task)
            except ProgramError:
                raise
            except ValueError as error:
                raise ProgramError(f"task '{task.name}': {error}") from None

    # --- what is where

    def tensor(self, name: str) -> Tensor:
        if name not in self.graph.tensors:
            raise ProgramError(f"tensor '{name}' is not in the graph")
        return self.graph.tensors[name]

    def cell(self, place: str, name: str) -> Cell:
        key = place, name
        if key not in self.cells:
            tensor = self.tensor(name)
            value: Any
            if tensor.format.group is not None:
                groups = -(-tensor.shape[-1] // tensor.format.group)
                data = np.zeros(tensor.shape, dtype=np.int64)
                value = Quantised(data, np.zeros((*tensor.shape[:-1], groups)), tensor.format.group)
            else:
                integer = tensor.format.dtype in INTEGERS
                value = np.zeros(tensor.shape, dtype=np.int64 if integer else np.float64)
            marks = np.zeros(tensor.shape, dtype=np.uint64)
            self.cells[key] = Cell(value, marks, np.zeros(tensor.shape, dtype=bool))
        return self.cells[key]

    def put_at_start(self, operand: Operand) -> None:
        """What the placement says; rows of a cache that the graph appends are not there yet."""
        tensor = self.tensor(operand.tensor)
        producer = self.graph.producer(operand.tensor)
        appended = producer is not None and self.graph[producer].kind == "kv_append"
        if producer is not None and not appended:
            raise ProgramError(f"placement: tensor '{operand.tensor}' is computed by operator '{producer}'")
        if operand.tensor not in self.values and not appended:
            raise ProgramError(f"placement: there is no value for tensor '{operand.tensor}'")
        value = semantics.stored(self.values.get(operand.tensor, np.zeros(tensor.shape)), tensor)
        cell, index = self.cell(operand.place, operand.tensor), self.index(operand)
        assign(cell.value, index, value[index])
        cell.mark[index] = COMPLETE
        if producer is not None and appended:
            cell.mark[self.new_rows(self.graph[producer])] = NOTHING

    def new_rows(self, operator: Operator) -> NDArray[np.int64]:
        return semantics.rows_of_new_tokens(operator["queries"], operator["context"])

    def index(self, operand: Operand) -> tuple[slice, ...]:
        """The slices of an operand."""
        shape = self.tensor(operand.tensor).shape
        slices = operand.slices if operand.slices is not None else tuple((0, size) for size in shape)
        fits = len(slices) == len(shape) and all(
            0 <= low <= high <= size for (low, high), size in zip(slices, shape, strict=False)
        )
        if not fits:
            raise self.error(operand, f"is not in the shape {shape}")
        return tuple(slice(low, high) for low, high in slices)

    def error(self, operand: Operand, message: str) -> ProgramError:
        task = f"task '{self.task.name}': " if hasattr(self, "task") else "placement: "
        return ProgramError(f"{task}{_told(operand.tensor, operand.slices)} in '{operand.place}' {message}")

    def check_place(self, operand: Operand) -> None:
        unit = self.task.unit
        if operand.place != unit and operand.place not in self.reach.get(unit, ()):
            raise self.error(operand, f"is out of reach of unit '{unit}'")

    def check_read(self, operand: Operand, *, partial: bool = False) -> None:
        """All of an operand is complete, and was put there by tasks waited for."""
        index = self.index(operand)
        cell = self.cells.get((operand.place, operand.tensor))
        if cell is None:
            raise self.error(operand, "is read, but is not there")
        held = cell.mark[index]
        missing = (held == NOTHING) & ~cell.blank[index]
        if missing.any():
            raise self.error(operand, f"is read, but is not there ({_count(missing)} missing)")
        if not partial and (held != COMPLETE).any():
            raise self.error(operand, f"is read, but its sums are not complete ({_count(held != COMPLETE)})")
        self.check_waits(operand, cell, index, among=lambda added: True)

    def check_waits(
        self, operand: Operand, cell: Cell, index: tuple[slice, ...], among: Callable[[bool], bool]
    ) -> None:
        for writer, wrote, added in cell.writers:
            if among(added) and _overlap(wrote, index) and not self.waits[self.number] >> writer & 1:
                name = self.program.tasks[writer].name
                raise self.error(operand, f"comes from task '{name}', which it does not wait for")

    def write(self, operand: Operand, value: Any, mark: Any, index: tuple[slice, ...]) -> None:
        """Numbers and marks into a place."""
        cell = self.cell(operand.place, operand.tensor)
        there = cell.mark[index] != NOTHING
        if operand.add:
            self.check_waits(operand, cell, index, among=lambda added: not added)
            if isinstance(cell.value, Quantised):
                raise self.error(operand, "is kept with scales: partial sums cannot be added")
            cell.value[index] += value
            cell.mark[index] += mark
            cell.blank[index] |= mark == NOTHING
        else:
            if there.any():
                raise self.error(operand, f"is written, but is there already ({_count(there)})")
            if isinstance(cell.value, Quantised) and not isinstance(value, Quantised):
                if (mark != COMPLETE).any():
                    raise self.error(operand, "is kept with scales: a partial sum cannot be")
                value = semantics.quantise(value, self.tensor(operand.tensor).format)
            assign(cell.value, index, value)
            cell.mark[index] = mark
        cell.writers.append((self.number, index, operand.add))

    # --- tasks

    def run(self, task: Task) -> None:
        if isinstance(task.kernel, Transfer | Collective):
            self.move(task)
            return
        summed = {
            self.graph[n].inputs[0]
            for n in task.operators
            if n in self.names and self.graph[n].kind == "combine"
        }
        for operand in task.reads:
            self.check_place(operand)
            self.check_read(operand, partial=operand.tensor in summed)
        if task.reads:
            self.readers[task.operators] = self.number
        if not task.writes:
            return
        if isinstance(task.kernel, PimMatMul) and task.kernel.reduction == "processor":
            raise ProgramError(f"task '{task.name}': writes results, but its partial sums are not added")
        # an operator of several kernels reads with its first, and writes with its last
        reader = self.readers.get(task.operators, self.number)
        self.reader = self.program.tasks[reader]
        if reader != self.number and not self.waits[self.number] >> reader & 1:
            raise ProgramError(
                f"task '{task.name}': goes on with '{self.reader.name}', which it does not wait for"
            )
        self.sources = [*self.reader.reads]
        waiting = list(task.writes)
        for name in task.operators:
            if name not in self.names:
                raise ProgramError(f"task '{task.name}': operator '{name}' is not in the graph")
            operator = self.graph[name]
            mine = [operand for operand in waiting if operand.tensor in operator.outputs]
            waiting = [operand for operand in waiting if operand.tensor not in operator.outputs]
            for operand in mine:
                self.check_place(operand)
                self.compute(operator, operand)
            self.sources += mine
        for operand in waiting:
            raise self.error(operand, f"is not an output of {', '.join(task.operators) or 'any operator'}")

    def compute(self, operator: Operator, operand: Operand) -> None:
        if operator.kind == "kv_append":
            self.append(operator, operand)
            return
        for value, mark, index in EVALUATE.get(operator.kind, whole)(self, operator, operand):
            self.write(operand, value, mark, index)
            if operator.kind in MATRIX_KINDS:
                shape = self.tensor(operand.tensor).shape
                marks = self.computed.setdefault(operand.tensor, np.zeros(shape, dtype=np.uint64))
                marks[index] += mark

    def move(self, task: Task) -> None:
        """Transfers and collectives: what is written is what is read, added up where several places have it
        and it is written by ``all_reduce``."""
        reduce = isinstance(task.kernel, Collective) and task.kernel.operation == "all_reduce"
        parts: dict[str, Cell] = {}
        for operand in self.new_parts(task.reads):
            self.check_read(operand, partial=True)
            source = self.cells[operand.place, operand.tensor]
            part = parts.setdefault(operand.tensor, self.empty(operand.tensor))
            index = self.index(operand)
            there = part.mark[index] != NOTHING
            if reduce and there.any():
                if isinstance(part.value, Quantised):
                    raise self.error(operand, "is kept with scales: partial sums cannot be added")
                part.value[index] += source.value[index]
                part.mark[index] += source.mark[index]
                continue
            if there.any() and not (part.mark[index][there] == source.mark[index][there]).all():
                raise self.error(operand, "is read twice, and is not the same")
            assign(part.value, index, source.value[index])
            part.mark[index] = source.mark[index]
        for operand in self.new_parts(task.writes):
            index = self.index(operand)
            if operand.tensor not in parts or (parts[operand.tensor].mark[index] == NOTHING).any():
                raise self.error(operand, "is written, but the task does not read it")
            part = parts[operand.tensor]
            target = self.cells.get((operand.place, operand.tensor))
            if target is not None and not operand.add:
                self.replace(operand, part, target, index, reduce=reduce)
            self.write(operand, part.value[index], part.mark[index].copy(), index)

    def new_parts(self, operands: Sequence[Operand]) -> Iterable[Operand]:
        """The operands; of caches to which rows were appended, only these rows are sent."""
        for operand in operands:
            producer = self.graph.producer(self.tensor(operand.tensor).name)
            if producer is None or self.graph[producer].kind != "kv_append":
                yield operand
                continue
            first, *others = self.index(operand)
            new = self.new_rows(self.graph[producer])
            inside = new[(new >= first.start) & (new < first.stop)].tolist()
            if not inside:  # of earlier positions alone
                yield operand
            for row in inside:
                rest = tuple((i.start, i.stop) for i in others)
                yield replace(operand, slices=((row, row + 1), *rest))

    def replace(
        self, operand: Operand, part: Cell, target: Cell, index: tuple[slice, ...], *, reduce: bool
    ) -> None:
        """A collective ends where its own operands lie; the same data may also be sent again."""
        before = [o for o in self.task.reads if (o.place, o.tensor) == (operand.place, operand.tensor)]
        for own in before:
            inside = tuple(
                slice(max(a.start, b.start), max(min(a.stop, b.stop), a.start, b.start))
                for a, b in zip(index, self.index(own), strict=True)
            )
            target.mark[inside] = NOTHING
        again = (target.mark[index] == part.mark[index]) & (target.mark[index] == COMPLETE)
        if again.any():
            marks = target.mark[index]
            marks[again] = NOTHING
            target.mark[index] = marks

    def empty(self, name: str) -> Cell:
        """Nothing of a tensor."""
        key = ("", name)
        self.cells.pop(key, None)
        cell = self.cell(*key)
        del self.cells[key]
        return cell

    def append(self, operator: Operator, operand: Operand) -> None:
        """New rows into a cache, those that are inside the operand's slices."""
        rows = self.new_rows(operator)
        index = self.index(operand)
        inside = (rows >= index[0].start) & (rows < index[0].stop)
        new = self.read(operator.inputs[0]).reshape(len(rows), *self.tensor(operand.tensor).shape[1:])
        for number, row in zip(np.flatnonzero(inside), rows[inside], strict=True):
            one = (slice(int(row), int(row) + 1), *index[1:])
            value = new[(slice(number, number + 1), *index[1:])]
            if np.isnan(value).any():
                raise self.error(operand, f"needs more of '{operator.inputs[0]}' than the task reads")
            self.write(operand, value, COMPLETE, one)

    def results(self) -> Values:
        """Every tensor that operators made, complete."""
        for name, marks in self.computed.items():
            copies = self.copies(name)
            with np.errstate(over="ignore"):
                wrong = marks != COMPLETE * np.uint64(copies)
            if wrong.any():
                times = "once" if copies == 1 else f"{copies} times"
                raise ProgramError(
                    f"tensor '{name}': {_count(wrong)} not computed exactly {times}, first at {_first(wrong)}"
                )
        out: Values = {}
        for operator in self.graph:
            for name in operator.outputs:
                value = self.gathered(name)
                if value is not None:
                    out[name] = value
                elif not any(name in other.inputs for other in self.graph):
                    raise ProgramError(f"tensor '{name}', a result of the graph, is not computed")
        return out

    def copies(self, name: str) -> int:
        """How many times the program says that it does the operator that makes a tensor: small ones may be
        repeated on every unit."""
        producer = self.graph.producer(name)
        assert producer is not None
        macs = self.graph[producer].macs
        declared = self.program.operators.get(producer, {}).get("macs", macs)
        if not macs:
            return 1
        if declared % macs:
            raise ProgramError(f"operator '{producer}': {declared} MACs declared, once it has {macs}")
        return int(declared // macs)

    def gathered(self, name: str) -> Value | None:
        """A tensor from the places that have parts of it; None where no task has touched it, or
        it goes on as partial sums."""
        tensor = self.tensor(name)
        found = self.empty(name)
        touched = False
        for (place, other), cell in self.cells.items():
            if other != name:
                continue
            touched = touched or bool(cell.writers)
            done = cell.mark == COMPLETE
            both = done & (found.mark == COMPLETE)
            mine, others = semantics.dequantised(cell.value), semantics.dequantised(found.value)
            if both.any() and not np.allclose(mine[both], others[both], rtol=1e-9, atol=1e-12):
                raise ProgramError(f"tensor '{name}' is not the same in '{place}' as elsewhere")
            merge(found, cell, done)
        if not touched:
            return None
        missing = found.mark != COMPLETE
        if missing.any() and any(o.kind == "combine" and o.inputs[0] == name for o in self.graph):
            return None  # its partial sums went into the combination; `computed` has counted them
        if missing.any():
            raise ProgramError(
                f"tensor '{name}': {_count(missing)} never complete, first at {_first(missing)}"
            )
        return semantics.stored(found.value, tensor)

    # --- inputs of an operator

    def read(self, name: str) -> Any:
        """All of a tensor as numbers, NaN where the task does not read it (integers: must be all read)."""
        shape = self.tensor(name).shape
        seen = np.zeros(shape, dtype=bool)
        value: Any = None
        for operand in self.sources:
            if operand.tensor == name:
                index = self.index(operand)
                whole = self.cells[operand.place, name].value
                if value is None:
                    value = np.full(shape, np.nan)
                    if not isinstance(whole, Quantised) and np.issubdtype(whole.dtype, np.integer):
                        value = np.zeros(shape, dtype=np.int64)
                value[index] = (
                    semantics.dequantised(whole[index]) if isinstance(whole, Quantised) else whole[index]
                )
                seen[index] = True
        if value is None or (value.dtype == np.int64 and not seen.all()):
            raise ProgramError(f"task '{self.task.name}' needs all of '{name}', which it does not read")
        return value

    def part(self, name: str, index: tuple[slice, ...]) -> Any:
        """A slice of an input; all of it must be among what the task reads in one place."""
        seen = np.zeros(tuple(i.stop - i.start for i in index), dtype=bool)
        found = self.empty(name)
        for operand in self.sources:
            if operand.tensor != name:
                continue
            common = tuple(
                slice(max(a.start, b.start), min(a.stop, b.stop))
                for a, b in zip(index, self.index(operand), strict=True)
            )
            if any(c.start >= c.stop for c in common):
                continue
            assign(found.value, common, self.cells[operand.place, name].value[common])
            local = tuple(
                slice(c.start - i.start, c.stop - i.start) for c, i in zip(common, index, strict=True)
            )
            seen[local] = True
        if not seen.all():
            told = _told(name, tuple((i.start, i.stop) for i in index))
            raise ProgramError(f"task '{self.task.name}' needs {told}, which it does not read")
        return found.value[index]

    def product(self, x: Any, w: Any) -> Any:
        """x w^T as the task's kernel does it: of a product in memory part by part of k, in the banks if they
        are known."""
        kernel = self.reader.kernel
        numbers = isinstance(x, np.ndarray) and isinstance(w, np.ndarray)
        if not isinstance(kernel, PimMatMul) or not numbers:
            return semantics.linear(x, w)
        size = (*x.shape, w.shape[0])
        if size != (kernel.m, kernel.k, kernel.n):
            raise ProgramError(
                f"task '{self.reader.name}': its kernel is of m, k, n {(kernel.m, kernel.k, kernel.n)}, "
                f"what it reads of {size}"
            )
        if self.banks is None:
            return sum(semantics.linear(x[:, a:b], w[:, a:b]) for a, b in kernel.parts)
        return self.banks.product(self.reader.unit, kernel, x, w)

    def scores(self) -> Task:
        """The task whose scores the values of this one are weighted with."""
        for number in range(self.number):
            task = self.program.tasks[number]
            same = (task.operators, task.unit) == (self.task.operators, self.task.unit)
            scores = isinstance(task.kernel, PimAttention) and task.kernel.stage == "scores"
            if same and scores and self.waits[self.number] >> number & 1:
                return task
        raise ProgramError(
            f"task '{self.task.name}': waits for no scores of {', '.join(self.task.operators)}"
        )

    def slices_read(self, name: str) -> list[tuple[slice, ...]]:
        return [self.index(operand) for operand in self.sources if operand.tensor == name]


# --- slices, messages -----------------------------------------------------------------------------


def _ancestors(program: Program) -> list[int]:
    """Of each task, a bit for every task that it waits for, directly or not."""
    number: dict[str, int] = {}
    out: list[int] = []
    for i, task in enumerate(program.tasks):
        mask = 0
        for name in task.after:
            mask |= 1 << number[name] | out[number[name]]
        number[task.name] = i
        out.append(mask)
    return out


def _overlap(a: tuple[slice, ...], b: tuple[slice, ...]) -> bool:
    return all(p.start < q.stop and q.start < p.stop for p, q in zip(a, b, strict=True))


def _told(tensor: str, slices: Slices | None) -> str:
    """As a person writes it: ``w[0:4, 8:16]``."""
    return tensor + ("" if slices is None else f"[{', '.join(f'{low}:{high}' for low, high in slices)}]")


def _count(wrong: NDArray[np.bool_]) -> str:
    return f"{int(wrong.sum())} of {wrong.size} elements"


def _first(wrong: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i[0]) for i in np.nonzero(wrong))
