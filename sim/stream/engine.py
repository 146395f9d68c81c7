"""Run items through a pipeline, cycle for cycle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from neardata.arch.errors import InputError, nearest
from neardata.arch.stream import Fpga, Pipeline
from neardata.sim.stream.layout import Layout, Table, lay_out
from neardata.sim.stream.report import StreamReport, make_report
from neardata.sim.stream.resources import resource_use

if TYPE_CHECKING:
    from neardata.sim.dram.config import ControllerConfig

__all__ = ["run_stream"]

FIDELITIES = ("analytic", "cycle")

NO_TICKS = np.zeros(0, np.int64)
NO_ANSWERS = np.zeros((0, 0), np.int64)


@dataclass
class State:
    """What the kernel leaves behind."""

    s: Table
    f: Table
    r: Table
    finish: Table
    request: Table


def run_stream(
    pipeline: Pipeline,
    items: int,
    *,
    properties: Mapping[str, Sequence[int]] | None = None,
    arrivals_ps: Sequence[int] | NDArray[np.int64] | None = None,
    latencies: bool = False,
    fpga: Fpga | None = None,
    fidelity: Literal["analytic", "cycle"] | str = "analytic",
    controller: ControllerConfig | None = None,
    jump: bool = True,
) -> StreamReport:
    """Run ``items`` items through a pipeline until the last result has left.

    Args:
        properties: values of the properties that costs and numbers of results depend on: whole numbers,
            one per firing of the stage that uses them.
        arrivals_ps: (items,) when each item arrives, in order; None: all are there.
        latencies: tell when each item has left; the last stage must fire once per item.
        fpga: to hold the resources against.
        fidelity: of memory ports: ``analytic`` by rate and latency; ``cycle`` request by request on the
            ports' DRAM devices (`neardata.sim.stream.dram_ports`).
        controller: of those devices; None: the default profile.
        jump: find a state that recurs and skip whole periods; changes no result.

    Raises:
        InputError: properties or arrivals that do not suit, a pipeline that does not fit the FPGA or
            deadlocks.

    >>> from neardata.arch.stream import load_pipeline
    >>> report = run_stream(load_pipeline("presto-log"), 1000)
    >>> report.cycles, report.firings
    (1023, {'log': 1000})
    """
    use = None if fpga is None else resource_use(pipeline, fpga)
    layout = lay_out(pipeline, items, properties or {})
    arrive = _arrivals(layout, arrivals_ps)
    least_loaded = pipeline.replicas.dispatch == "least-loaded" and len(arrive) > 0
    if latencies or least_loaded:
        _check_one_result_an_item(layout, "latencies" if latencies else "least-loaded")
    if fidelity not in FIDELITIES:
        raise InputError(f"unknown fidelity '{fidelity}'{nearest(fidelity, FIDELITIES)}")
    memory, answer = "rate and latency" if pipeline.ports else "none", NO_ANSWERS
    turns = 0
    if fidelity == "cycle" and pipeline.ports:
        from neardata.sim.stream.dram_ports import DramPorts
        from neardata.sim.stream.pipeline_kernel import FIRED

        ports = DramPorts(layout, controller)

        def turn(answers: Table) -> tuple[Table, Table]:
            made = simulate(layout, arrive, answer=answers)
            return made.request, made.s[:, FIRED]

        answer = ports.settle(turn)
        turns = ports.turns
        memory = f"{', '.join(d.name for d in ports.devices.values())}, request by request"
    state = simulate(layout, arrive, latencies=latencies, jump=jump, answer=answer)
    return make_report(layout, state, arrive, use, memory, turns)


def simulate(
    layout: Layout,
    arrive: Table,
    *,
    latencies: bool = False,
    jump: bool = True,
    answer: Table = NO_ANSWERS,
) -> State:
    """One run of the kernel.

    Args:
        arrive: ticks.
        answer: (stages, initiations) ticks at which memory answers; empty: ports do, by rate and latency.

    Raises:
        InputError: a deadlock, with the stages that wait for each other.
    """
    from neardata.sim.stream import pipeline_kernel as k

    pipeline, items = layout.pipeline, layout.items
    n, m, copies = len(layout.units), len(layout.queues), pipeline.replicas.count
    stage, fifo = layout.stage, layout.fifo
    timed = len(arrive) > 0
    traced = bool(copies > 1 and (latencies or len(layout.tables)))
    slots = int(stage[:, k.SLOTS].max())
    ring = 4
    if m:
        writer, reader = stage[fifo[:, k.WRITER], k.PERIOD], stage[fifo[:, k.READER], k.PERIOD]
        ring += int(
            max(((fifo[:, k.SEEN] + reader) // writer).max(), ((fifo[:, k.FREED] + writer) // reader).max())
        )
    s, f, r = (
        np.zeros((n, k.S_COLUMNS), np.int64), np.zeros((m, k.F_COLUMNS), np.int64),
        np.zeros(k.R_COLUMNS, np.int64),
    )  # fmt: skip
    s[:, k.FIRST] = s[:, k.LAST] = -1
    f[:, k.OVER_AT] = k.NEVER
    dispatch = pipeline.replicas.dispatch
    r[k.ITEMS], r[k.REPLICAS], r[k.TIMED], r[k.TRACED] = items, copies, timed, traced
    r[k.POLICY] = ("round-robin", "least-loaded", "shared-queue").index(dispatch)
    finest = int(layout.port[:, k.DENOMINATOR].max(initial=1))
    r[k.LIMIT] = (1 << 60) // finest
    plain = not (timed or traced or latencies or len(layout.tables) or answer.size)
    r[k.R_JUMPS] = jump and plain
    given, unfinished = np.zeros(copies, np.int64), np.zeros(copies, np.int64)
    following, first_of, last_of = NO_TICKS, np.full(copies, -1, np.int64), np.full(copies, -1, np.int64)
    if traced:
        following = np.full(items, -1, np.int64)
    if not timed:
        r[k.ARRIVED] = items
        if dispatch != "shared-queue":
            given[:] = [len(range(i, items, copies)) for i in range(copies)]
            unfinished[:] = given
            if traced:
                following[: max(items - copies, 0)] = np.arange(copies, max(items, copies))
                first_of[: min(copies, items)] = np.arange(min(copies, items))
                last_of[first_of >= 0] = 0
    finish = np.full(items if latencies else 0, -1, np.int64)
    request = np.full(answer.shape, -1, np.int64)
    clocks = np.array(sorted(layout.ticks.period.values()), np.int64)
    made = np.zeros((n, slots, max(layout.out_of.shape[1] - 1, 1)), np.int64)
    status = k.run(
        stage, fifo, layout.port, layout.into, layout.out_of, layout.tables, arrive, clocks,
        s, f, r, np.zeros((n, slots), np.int64), np.zeros((n, slots), np.int64),
        made, *(np.zeros((m, ring), np.int64) for _ in range(4)),
        np.zeros(len(layout.port), np.int64), given, unfinished, following, first_of, last_of,
        np.full(n, -1, np.int64), np.full(n, -1, np.int64), finish, request, answer,
    )  # fmt: skip
    if status == k.TOO_LONG:
        raise InputError("the run takes too long to be counted in 64 bits; give fewer items")
    if status == k.DEADLOCK:
        raise _deadlock(layout, s, f, made, int(r[k.R_END]))
    _conserve(layout, s, f)
    return State(s, f, r, finish, request)


def _arrivals(layout: Layout, arrivals_ps: Any) -> Table:
    if arrivals_ps is None:
        return NO_TICKS
    given = np.asarray(arrivals_ps)
    if given.shape != (layout.items,):
        raise InputError(f"there are {len(given):,} arrivals for {layout.items:,} items")
    if given.dtype.kind not in "iu":
        raise InputError("arrivals must be whole picoseconds")
    if given.min() < 0 or given.max() > 1 << 58 or np.any(np.diff(given) < 0):
        raise InputError("arrivals must be in order, from 0 to 2^58 ps")
    scale = layout.ticks.per_us / 1_000_000
    return np.array([-(-int(ps) * scale.numerator // scale.denominator) for ps in given], np.int64)


def _check_one_result_an_item(layout: Layout, what: str) -> None:
    pipeline = layout.pipeline
    if len(pipeline.sinks) != 1 or layout.firings.get(pipeline.sinks[0]) != layout.items:
        raise InputError(f"{what}: there must be one last stage, and it must fire once per item")


def _conserve(layout: Layout, s: Table, f: Table) -> None:
    """Items in times ratios are items out, in every FIFO and stage.

    Raises:
        RuntimeError: they are not; the engine is wrong.
        InputError: a stage's inputs do not match.
    """
    from neardata.sim.stream import pipeline_kernel as k

    taken: dict[str, int] = {name: 0 for name in layout.pipeline.stages}
    for (name, _), row in zip(layout.units, s, strict=True):
        taken[name] += int(row[k.TAKEN])
        if row[k.FIRED] != row[k.WROTE] or row[k.HELD]:
            raise RuntimeError(f"stage {name}: {row[k.FIRED]} firings began, {row[k.WROTE]} ended")
    for name in layout.pipeline.sources:
        if taken[name] != layout.items:
            raise RuntimeError(f"stage {name}: {taken[name]} items taken of {layout.items}")
    for (name, _), q, row in zip(layout.queues, layout.fifo, f, strict=True):
        if not row[k.WRITTEN] == row[k.POPPED] == row[k.VISIBLE]:
            raise RuntimeError(f"FIFO {name}: {row[k.WRITTEN]} items written, {row[k.POPPED]} read")
        fired = int(s[q[k.READER], k.FIRED])
        if fired != -(-int(row[k.POPPED]) // int(q[k.READ])):
            raise RuntimeError(f"FIFO {name}: {row[k.POPPED]} items read by {fired} firings")
        if q[k.COUNTS] < 0 and row[k.WRITTEN] != s[q[k.WRITER], k.FIRED] * q[k.PRODUCE]:
            raise RuntimeError(f"FIFO {name}: {row[k.WRITTEN]} items of {s[q[k.WRITER], k.FIRED]} firings")
    if layout.pipeline.replicas.count == 1:
        for (name, _), row in zip(layout.units, s, strict=True):
            if row[k.FIRED] != layout.firings[name]:
                raise RuntimeError(f"stage {name}: {row[k.FIRED]} of {layout.firings[name]} firings")


def _deadlock(layout: Layout, s: Table, f: Table, made: Table, tick: int) -> InputError:
    """Who waits for whom, as a circle if there is one.

    Args:
        made: (stages, slots, FIFOs out) what the results under way are for each FIFO.
    """
    from neardata.sim.stream import pipeline_kernel as k

    waits: dict[int, tuple[int, str]] = {}
    for i in range(len(layout.units)):
        if s[i, k.ENDED]:
            continue
        if s[i, k.HELD]:  # all that was under way has come to its end
            for q in layout.out_of[i, 1 : 1 + layout.out_of[i, 0]]:
                known = f[q, k.RETURNED] - f[q, k.RETURNED] % layout.fifo[q, k.BLOCK]
                j = int(np.flatnonzero(layout.out_of[i, 1:] == q)[0])
                if f[q, k.WRITTEN] - known + made[i, s[i, k.HEAD], j] > layout.fifo[q, k.CAPACITY]:
                    reader = int(layout.fifo[q, k.READER])
                    text = f"{layout.units[i][0]} has no room in {layout.queues[q][0]}"
                    waits[i] = (reader, text)
                    break
        if i not in waits:
            for q in layout.into[i, 1 : 1 + layout.into[i, 0]]:
                have = int(f[q, k.VISIBLE])
                if not f[q, k.OVER]:
                    have -= have % int(layout.fifo[q, k.BLOCK])
                have -= int(f[q, k.POPPED])
                if have < layout.stage[i, k.LANES] * layout.fifo[q, k.READ]:
                    writer = int(layout.fifo[q, k.WRITER])
                    waits[i] = (writer, f"{layout.units[i][0]} waits for items in {layout.queues[q][0]}")
                    break
    circle: list[int] = []
    for start in waits:
        path: list[int] = []
        at = start
        while at in waits and at not in path:
            path.append(at)
            at = waits[at][0]
        if at in path:
            circle = path[path.index(at) :]
            break
    told = "; ".join(waits[i][1] for i in (circle or list(waits)))
    names = " -> ".join(layout.units[i][0] for i in (*circle, circle[0])) if circle else "no circle of stages"
    period = next(iter(layout.ticks.period.values()))
    return InputError(f"deadlock in cycle {tick // period}: {names}: {told}")
