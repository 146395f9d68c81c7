"""Preprocessing of mini-batches on a unit: extract, transform and load as tasks.

A mini-batch's columns are read one request at a time, decoded as they come, transformed and sent to the
trainer. The three steps of a mini-batch follow each other, as the steps of PreSto's workers do (arXiv
2406.14571, Fig. 12); up to ``in_flight`` mini-batches are under way, each in buffers of its own, so that
the steps of different ones overlap. ``steps=False`` lets each column go on as soon as it is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from neardata.arch.errors import InputError, nearest
from neardata.arch.preprocessor import Preprocessor
from neardata.arch.system import System
from neardata.sim.program import Actions, Kernel, Operand, Pause, Program, Stream, Task, Transfer
from neardata.workloads.graph import Graph, Operator
from neardata.workloads.recsys.graph import Work, work

LAST = ("dense_matrix", "keyed_jagged")
"""Kinds that put the results of all features together."""
OUTPUTS = ("dense", "sparse.lengths", "sparse.values")


@dataclass
class _Draft:
    """A task in the making."""

    name: str
    unit: str
    kernel: Kernel
    after: dict[str, None] = field(default_factory=dict)
    operators: list[str] = field(default_factory=list)
    reads: dict[str, Operand] = field(default_factory=dict)
    writes: dict[str, Operand] = field(default_factory=dict)

    def done(self, step: int) -> Task:
        return Task(
            self.name, self.unit, self.kernel, tuple(self.after), tuple(self.operators),
            tuple(self.reads.values()), tuple(self.writes.values()), step,
        )  # fmt: skip


def lower_batches(
    graphs: Sequence[Graph],
    unit: Preprocessor,
    system: System,
    *,
    label: str | None = None,
    steps: bool = True,
) -> Program:
    """The program of mini-batches on a unit.

    Args:
        graphs: of `neardata.workloads.recsys.graph_of`, of tables read from Parquet, one a mini-batch.
        label: column that goes to the trainer as it is.
        steps: extract, transform and load of a mini-batch follow each other; False: columns stream.

    Raises:
        InputError: data that are not from Parquet, an operator that the unit has nothing for.
    """
    program = _Lowering(unit, system, label, steps)
    for graph in graphs:
        program.batch(graph)
    return program.done()


def lower_whole(
    graph: Graph, batches: int, unit: Preprocessor, system: System, *, label: str | None = None
) -> Program:
    """Equal mini-batches on a processor in three tasks each: read, prepare, load; for many behind one link.

    A mini-batch's pages come in one request: a link that is held by one transfer at a time would otherwise
    be held for the start-up of each.

    Raises:
        InputError: the unit has pipelines, not a processor.
    """
    if unit.pipelines:
        raise InputError(f"{unit.name} has pipelines; whole mini-batches are for processors")
    storage, trainer = system.names(unit.storage)[0], system.names(unit.trainer)[0]
    places = system.names(unit.compute)
    counts: dict[str, int] = {}
    for operator in graph:
        for name, n in actions_of(operator, work(graph, operator)).actions:
            counts[name] = counts.get(name, 0) + n
    pages = sum(graph.tensors[o.inputs[0]].bytes for o in graph if o.kind == "parquet_decode")
    size = sent_bytes(graph, label, round(unit.id_bytes.value))
    tasks = []
    for b in range(batches):
        place = places[b % len(places)]
        before = (f"b{b - len(places)}.load",) if b >= len(places) else ()
        tasks += [
            Task(f"b{b}.read", unit.read_link, Transfer(storage, place, pages), before),
            Task(f"b{b}.prepare", place, Actions(tuple(counts.items())), (f"b{b}.read",)),
            Task(f"b{b}.load", unit.out_link, Transfer(place, trainer, size), (f"b{b}.prepare",)),
        ]
    name, samples = f"preprocessing on {len(places)} x {unit.name}", batches * graph.batch
    return Program(name, system.name, tuple(tasks), tokens=samples, hardware=system.to_dict())


def sent_bytes(graph: Graph, label: str | None, id_bytes: int) -> int:
    """Bytes of a mini-batch on its way to the trainer: float32 and int32, ids in ``id_bytes``."""
    return sum(
        graph.tensors[name].elements * (id_bytes if name == "sparse.values" else 4)
        for name in (*OUTPUTS, label)
        if name is not None and name in graph.tensors
    )


def actions_of(operator: Operator, found: Work) -> Actions:
    """What an operator is to a processor: its call, and what it does.

    ``decode_byte``: of pages; ``hash``, ``log``, ``compare``; ``move_byte``: of what other operators read and
    write.
    """
    counts = {
        "operator": 1,
        "decode_byte": found.decode.compressed_bytes,
        "hash": found.hashes,
        "log": found.logarithms,
        "compare": found.comparisons,
    }
    if sum(counts.values()) == 1:
        counts["move_byte"] = found.bytes_in + found.bytes_out
    return Actions(tuple((name, n) for name, n in counts.items() if n))


def items_of(operator: Operator, found: Work) -> int:
    """Items that an operator is to a pipeline: values, and hashes of n-grams."""
    return found.hashes if operator.kind == "ngram" else found.values_in


class _Lowering:
    def __init__(self, unit: Preprocessor, system: System, label: str | None, steps: bool) -> None:
        self.unit, self.system, self.label, self.steps = unit, system, label, steps
        self.workers = system.names(unit.worker)
        self.compute = system.names(unit.compute)[0]
        self.computes = system.names(unit.compute)
        self.trainer = system.names(unit.trainer)[0]
        self.storage = system.names(unit.storage)[0]
        self.tasks: list[Task] = []
        self.placement: list[Operand] = []
        self.operators: dict[str, dict[str, object]] = {}
        self.loads: list[str] = []
        self.held: list[int] = []
        self.samples = 0
        self.known: Graph | None = None

    def batch(self, graph: Graph) -> None:
        b = len(self.loads)
        lane = b % self.unit.in_flight
        self.compute = self.computes[lane % len(self.computes)]
        self.worker = self.workers[lane]
        self.prefix, self.graph = f"b{b}.", graph
        self.drafts: list[_Draft] = []
        self.by: dict[str, _Draft] = {}
        """Tensor: the task that makes it, in the compute unit's memory."""
        begin = dict.fromkeys(self.loads[b - self.unit.in_flight :][:1] if b >= self.unit.in_flight else ())
        if graph is not self.known:
            self.known, self.work = graph, {operator.name: work(graph, operator) for operator in graph}
        for name, tensor in graph.tensors.items():
            if tensor.role == "weight":
                self.placement.append(Operand(self.prefix + name, self.compute, tensor.bytes))
        for operator in graph:
            self.operators[self.prefix + operator.name] = {
                "kind": operator.kind, "group": operator.group, "copies": 1, "macs": 0,
            }  # fmt: skip
        decodes = [operator for operator in graph if operator.kind == "parquet_decode"]
        if not decodes:
            raise InputError("its columns do not come from Parquet pages", key=graph.name)
        self._extract(decodes, begin)
        extracted = self._barrier("extracted", begin)
        rest = [operator for operator in graph if operator.kind != "parquet_decode"]
        for operator in rest:
            if not self._passes(operator):
                self._run(operator, extracted)
            elif operator.kind not in LAST:
                self._pass(operator, self.by[operator.inputs[0]])
        transformed = self._barrier("transformed", begin)
        self._load([o for o in rest if o.kind in LAST and self._passes(o)], transformed)
        self.tasks += [draft.done(b) for draft in self.drafts]
        self.held.append(sum(tensor.bytes for tensor in graph.tensors.values()))
        self.samples += graph.batch

    def done(self) -> Program:
        under_way = -(-self.unit.in_flight // len(self.computes))
        held = sum(sorted(self.held)[-under_way:])
        places = dict.fromkeys(self.computes[: min(self.unit.in_flight, len(self.loads))], held)
        return Program(
            f"preprocessing on {self.unit.name}", self.system.name, tuple(self.tasks), tuple(self.placement),
            self.operators, self.samples, self.system.to_dict(), reserved=places,
            figures={"mini-batches": len(self.loads), "samples": self.samples},
        )  # fmt: skip

    # --- extract ------------------------------------------------------------------------------------

    def _extract(self, decodes: Sequence[Operator], begin: dict[str, None]) -> None:
        before = begin
        for operator in decodes:
            pages = operator.inputs[0]
            size = self.graph.tensors[pages].bytes
            self.placement.append(Operand(self.prefix + pages, self.storage, size))
            moves = self._request(operator.name, pages, size, before)
            before = dict.fromkeys(moves[-1:])
            decode = self._task(operator, dict.fromkeys(moves))
            decode.reads[pages] = Operand(self.prefix + pages, self.compute, size)

    def _request(self, name: str, pages: str, size: int, before: dict[str, None]) -> list[str]:
        """One blocking read: memory is made ready piece by piece, while earlier pieces come."""
        most, moves = self.unit.request_bytes, []
        previous: str | None = None
        for i, start in enumerate(range(0, size, most)):
            part = min(most, size - start)
            counts = (("read_request", 1),) if i == 0 else ()
            asked = _Draft(
                f"{self.prefix}{name}.ask{i}", self.worker,
                Actions((*counts, ("page", -(-part // self.unit.page_bytes)))),
                dict(before) if previous is None else {previous: None},
            )  # fmt: skip
            previous = asked.name
            ranges = ((start, start + part),)
            move = _Draft(
                f"{self.prefix}{name}.read{i}", self.unit.read_link,
                Transfer(self.storage, self.compute, part), {asked.name: None},
                reads={pages: Operand(self.prefix + pages, self.storage, part, ranges)},
                writes={pages: Operand(self.prefix + pages, self.compute, part, ranges)},
            )  # fmt: skip
            self.drafts += [asked, move]
            moves.append(move.name)
        return moves

    # --- transform ----------------------------------------------------------------------------------

    def _passes(self, operator: Operator) -> bool:
        return bool(self.unit.pipelines) and operator.kind in self.unit.passing

    def _run(self, operator: Operator, after: dict[str, None]) -> None:
        self._task(operator, {**{self.by[n].name: None for n in operator.inputs if n in self.by}, **after})

    def _task(self, operator: Operator, after: dict[str, None]) -> _Draft:
        task = _Draft(self.prefix + operator.name, self.compute, self._kernel(operator), after)
        self.drafts.append(task)
        self._pass(operator, task)
        return task

    def _pass(self, operator: Operator, task: _Draft) -> None:
        """An operator in the course of a task."""
        task.operators.append(self.prefix + operator.name)
        for name in operator.inputs:
            maker = self.by.get(name)
            if maker is task or operator.kind == "parquet_decode":
                continue
            if maker is not None:
                task.after[maker.name] = None
            task.reads[name] = self._operand(name, self.compute)
        for name in operator.outputs:
            self.by[name] = task
            task.writes[name] = self._operand(name, self.compute)

    def _operand(self, name: str, place: str) -> Operand:
        return Operand(self.prefix + name, place, self.graph.tensors[name].bytes)

    def _kernel(self, operator: Operator) -> Kernel:
        found = self.work[operator.name]
        if not self.unit.pipelines:
            return actions_of(operator, found)
        if operator.kind not in self.unit.pipelines:
            known = [*self.unit.pipelines, *self.unit.passing]
            raise InputError(
                f"{self.unit.name} has no pipeline for '{operator.kind}'{nearest(operator.kind, known)}",
                key=operator.name,
            )
        items = items_of(operator, found)
        return Stream(self.unit.pipelines[operator.kind], items) if items else Pause(0)

    def _barrier(self, name: str, begin: dict[str, None]) -> dict[str, None]:
        if not self.steps:
            return {}
        after = dict.fromkeys(draft.name for draft in self.drafts) or begin
        barrier = _Draft(self.prefix + name, self.worker, Pause(0), after)
        self.drafts.append(barrier)
        return {barrier.name: None}

    # --- load ---------------------------------------------------------------------------------------

    def _load(self, last: Sequence[Operator], after: dict[str, None]) -> None:
        outputs = [name for name in OUTPUTS if name in self.graph.tensors]
        outputs += [] if self.label is None else [self.label]
        size = sent_bytes(self.graph, self.label, round(self.unit.id_bytes.value))
        load = _Draft(
            f"{self.prefix}load", self.unit.out_link, Transfer(self.compute, self.trainer, size), dict(after)
        )
        for operator in last:
            load.operators.append(self.prefix + operator.name)
            for name in operator.inputs:
                load.reads[name] = self._operand(name, self.compute)
                load.after[self.by[name].name] = None
        for name in outputs:
            if name in self.by:
                load.reads[name] = self._operand(name, self.compute)
                load.after[self.by[name].name] = None
            load.writes[name] = self._operand(name, self.trainer)
        self.drafts.append(load)
        self.loads.append(load.name)
