"""Run a program of preprocessing on data, place by place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neardata.mappers.functional import ProgramError
from neardata.sim.program import Operand, Program, Task, Transfer
from neardata.workloads.graph import Graph, Operator
from neardata.workloads.recsys.preprocess import KeyedJagged, MiniBatch, evaluate
from neardata.workloads.recsys.spec import Spec
from neardata.workloads.recsys.table import Table

Value = NDArray[Any]


def execute_batches(
    program: Program, spec: Spec, graphs: Sequence[Graph], tables: Sequence[Table], *, kernels: bool = True
) -> list[MiniBatch]:
    """The mini-batches that a program of `lower_batches` brings to the trainer.

    A task finds only what is in its own place and was put there by tasks that it waits for, directly or
    through others. Decoding needs all bytes of the pages, and gives what PyArrow decoded from them.

    Args:
        kernels: operators by compiled kernels; the results are the same without.

    Raises:
        ProgramError: a task that reads what is not there, an operator that is run twice or not at all.

    The graphs and tables are those the program was made from, in its order.
    """
    run = _Run(program, graphs, tables, kernels)
    for task in program.tasks:
        run.task(task)
    return [run.result(spec, b) for b in range(len(graphs))]


class _Run:
    def __init__(
        self, program: Program, graphs: Sequence[Graph], tables: Sequence[Table], kernels: bool
    ) -> None:
        self.program, self.kernels, self.graphs = program, kernels, graphs
        self.held: dict[tuple[str, str], Value] = {}
        self.maker: dict[tuple[str, str], int] = {}
        """(tensor, place): number of the task that put it there; -1: there from the start."""
        self.pages: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
        """(tensor, place): first byte, last byte, task."""
        self.number: dict[str, int] = {}
        self.before: list[int] = []
        """Per task, a bit for each task that has ended when it starts."""
        self.operators: dict[str, tuple[Operator, Table]] = {}
        self.page_bytes: dict[str, int] = {}
        for b, (graph, table) in enumerate(zip(graphs, tables, strict=True)):
            for operator in graph:
                self.operators[f"b{b}.{operator.name}"] = (operator, table)
                for name in operator.inputs if operator.kind == "parquet_decode" else ():
                    self.page_bytes[f"b{b}.{name}"] = graph.tensors[name].bytes
        self.left = set(self.operators)
        for operand in program.placement:
            key = (operand.tensor, operand.place)
            if operand.tensor in self.page_bytes:
                self.pages[key] = [(0, operand.bytes, -1)]
            self.maker[key] = -1

    def task(self, task: Task) -> None:
        at = len(self.before)
        ended = 0
        for name in task.after:
            i = self.number[name]
            ended |= self.before[i] | (1 << i)
        self.number[task.name] = at
        self.before.append(ended)
        self.at, self.name = at, task.name
        for operand in task.reads:
            self._check(operand)
        if isinstance(task.kernel, Transfer):
            self._move(task)
        made: dict[str, Value] = {}
        place = task.unit if not isinstance(task.kernel, Transfer) else task.kernel.source
        for name in task.operators:
            if name not in self.left:
                raise ProgramError(f"task '{task.name}': '{name}' is run twice, or is none")
            self.left.remove(name)
            operator, table = self.operators[name]
            prefix = name[: name.index(".") + 1]
            made |= self._operator(operator, table, prefix, place, made)
        for operand in task.writes:
            key = (operand.tensor, operand.place)
            if operand.tensor in self.page_bytes:
                continue
            value = made.get(operand.tensor)
            if value is None:
                value = self.held.get((operand.tensor, place))
            if value is None:
                raise ProgramError(f"task '{task.name}' writes '{operand.tensor}', which it does not make")
            self.held[key], self.maker[key] = value, at

    def _check(self, operand: Operand) -> None:
        key = (operand.tensor, operand.place)
        if operand.tensor in self.page_bytes:
            first, last = operand.slices[0] if operand.slices else (0, self.page_bytes[operand.tensor])
            upto = first
            for start, stop, maker in sorted(self.pages.get(key, ())):
                self._waits(maker, operand)
                if start <= upto:
                    upto = max(upto, stop)
            if upto < last:
                raise ProgramError(f"task '{self.name}': bytes {upto} of '{operand.tensor}' are not there")
            return
        if key not in self.maker:
            raise ProgramError(
                f"task '{self.name}' reads '{operand.tensor}', which is not in '{operand.place}'"
            )
        self._waits(self.maker[key], operand)

    def _waits(self, maker: int, operand: Operand) -> None:
        if maker >= 0 and not self.before[self.at] >> maker & 1:
            raise ProgramError(f"task '{self.name}' does not wait for '{operand.tensor}'")

    def _move(self, task: Task) -> None:
        for read, write in zip(task.reads, task.writes, strict=False):
            if write.tensor in self.page_bytes:
                if read.tensor != write.tensor or read.slices != write.slices:
                    raise ProgramError(f"task '{task.name}' writes bytes that it does not read")
                ((first, last),) = write.slices or ((0, write.bytes),)
                self.pages.setdefault((write.tensor, write.place), []).append((first, last, self.at))

    def _operator(
        self, operator: Operator, table: Table, prefix: str, place: str, made: Mapping[str, Value]
    ) -> dict[str, Value]:
        if operator.kind == "parquet_decode":
            column = table[operator.outputs[0]]
            parts = [column.values]
            parts += [] if column.valid is None else [column.valid]
            parts += [] if column.lengths is None else [column.lengths]
            return {prefix + name: part for name, part in zip(operator.outputs, parts, strict=True)}
        inputs = []
        for name in operator.inputs:
            key = prefix + name
            if key in made:
                inputs.append(made[key])
            elif (key, place) in self.held:
                self._waits(self.maker[key, place], Operand(key, place, 0))
                inputs.append(self.held[key, place])
            elif self.maker.get((key, place)) == -1:
                inputs.append(np.asarray(operator.attributes["borders"]))
            else:
                raise ProgramError(f"task '{self.name}' needs '{key}', which is not in '{place}'")
        outputs = evaluate(operator, *inputs, kernels=self.kernels)
        return {prefix + name: value for name, value in zip(operator.outputs, outputs, strict=True)}

    def result(self, spec: Spec, b: int) -> MiniBatch:
        if self.left:
            raise ProgramError(f"operator '{min(self.left)}' is not run")
        place = next(
            w.place for t in self.program.tasks if t.name == f"b{b}.load" for w in t.writes
        )  # fmt: skip
        rows = self.graphs[b].batch

        def found(name: str, empty: Value) -> Value:
            return self.held.get((f"b{b}.{name}", place), empty)

        dense = found("dense", np.zeros((rows, 0), dtype=np.float32))
        lengths = found("sparse.lengths", np.zeros((0, rows), dtype=np.int32))
        ids = found("sparse.values", np.zeros(0, dtype=np.int64))
        labels = None
        if spec.label is not None:
            labels = found(spec.label, np.zeros(rows)).astype(np.float32)
        return MiniBatch(dense, KeyedJagged(spec.names("sparse"), lengths, ids), labels)
