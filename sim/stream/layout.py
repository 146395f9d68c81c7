"""A pipeline as the tables its kernel runs on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, lcm

import numpy as np
from numpy.typing import NDArray

from neardata.arch.errors import InputError, nearest
from neardata.arch.stream import Pipeline

Table = NDArray[np.int64]
MOST_SLOTS = 1 << 16
MOST_ITEMS = 1 << 40
MOST_BYTES = 1 << 36
MOST_TICKS_PER_US = 1 << 32


@dataclass(frozen=True)
class Ticks:
    """The clocks of a pipeline in one unit of time, of which each period is a whole number.

    >>> from neardata.arch.stream import load_pipeline
    >>> ticks = Ticks.of(load_pipeline("presto-log"))
    >>> ticks.per_us, ticks.period
    (Fraction(223, 1), {'fabric': 1})
    """

    per_us: Fraction
    period: Mapping[str, int]
    """Ticks a cycle, by clock."""

    @classmethod
    def of(cls, pipeline: Pipeline) -> Ticks:
        """Raises `InputError` if the clocks have no such unit of a reasonable size."""
        rates = {name: clock.exact_mhz for name, clock in pipeline.clocks.items()}
        denominator = lcm(*(rate.denominator for rate in rates.values()))
        base = lcm(*(int(rate * denominator) for rate in rates.values()))
        per_us = Fraction(base, denominator)
        if per_us > MOST_TICKS_PER_US:
            raise InputError("their edges meet too seldom; round them to fewer digits", key="clocks")
        return cls(per_us, {name: int(per_us / rate) for name, rate in rates.items()})

    def to_ps(self, ticks: int) -> int:
        """Picoseconds, rounded up."""
        return ceil(ticks * 1_000_000 / self.per_us)

    def from_ns(self, ns: float) -> int:
        """Ticks, rounded up."""
        return ceil(Fraction(repr(ns)) * self.per_us / 1000)


@dataclass(frozen=True)
class Layout:
    """Parameters of the kernel, a row for each stage, FIFO and port channel of every replica."""

    pipeline: Pipeline
    items: int
    ticks: Ticks
    units: list[tuple[str, int]]
    """(stage, replica) of each row."""
    queues: list[tuple[str, int]]
    """(FIFO, replica) of each row."""
    channels: list[tuple[str, int]]
    """(port, channel) of each row."""
    stage: Table
    fifo: Table
    port: Table
    into: Table
    out_of: Table
    tables: Table
    firings: dict[str, int]
    """Of each stage, over all replicas, where it does not depend on how items are dealt out."""
    work_cycles: dict[str, int]
    """Least cycles that each stage is busy, over all replicas."""


def lay_out(pipeline: Pipeline, items: int, properties: Mapping[str, Sequence[int]]) -> Layout:
    """Build the tables.

    Args:
        items: that the input gives.
        properties: whole numbers, one per firing of the stage that uses them.

    Raises:
        InputError: a missing property, values that are no whole numbers or of the wrong number, inputs
            of a stage that do not match, a stage that holds too much.
    """
    from neardata.sim.stream import pipeline_kernel as k

    if not 1 <= items <= MOST_ITEMS:
        raise InputError(f"items must be from 1 to {MOST_ITEMS}, got {items}")
    ticks = Ticks.of(pipeline)
    copies = pipeline.replicas.count
    values = {name: _whole(name, given) for name, given in properties.items()}
    known = {name for name, _ in pipeline.properties()}
    for name in values:
        if name not in known:
            raise InputError(f"no stage uses the property '{name}'{nearest(name, known)}")
    firings = _firings(pipeline, items, values)

    def firings_table(name: str, stage: str) -> Table:
        if name not in values:
            raise InputError(f"stage '{stage}' needs the property '{name}', which is not given")
        expected = firings.get(stage, items)
        if copies > 1 and expected != items:
            raise InputError(
                f"stage '{stage}' fires {expected:,} times for {items:,} items; in replicas, a stage with a "
                "property must fire once per item"
            )
        if len(values[name]) != expected:
            raise InputError(
                f"property '{name}' has {len(values[name]):,} values, but '{stage}' fires {expected:,} times"
            )
        return values[name]

    parts: list[Table] = []
    length = 0

    def keep(part: Table) -> int:
        nonlocal length
        parts.append(part)
        length += len(part)
        return length - len(part)

    channels = [(name, i) for name, port in pipeline.ports.items() for i in range(port.channels)]
    stage_rows, stage_index, work = [], {}, {}
    for i, (name, stage) in enumerate(pipeline.stages.items()):
        stage_index[name] = i
        timing, memory = stage.timing, stage.memory
        row = np.zeros(k.STAGE_COLUMNS, np.int64)
        slots = -(-timing.depth // timing.initiation_interval)
        if memory is not None:
            slots = max(slots, memory.outstanding)
            row[k.BYTES] = memory.read_bytes + memory.write_bytes
            row[k.POSTED] = memory.read_bytes == 0
        if slots > MOST_SLOTS:
            raise InputError(
                f"holds {slots:,} initiations, more than {MOST_SLOTS:,}", key=f"stages.{name}.timing.depth"
            )
        row[k.PERIOD] = ticks.period[stage.clock or next(iter(pipeline.clocks))]
        row[k.INTERVAL], row[k.DEPTH] = timing.initiation_interval, timing.depth
        row[k.LANES], row[k.SLOTS], row[k.CONSUME] = timing.lanes, slots, stage.consume
        row[k.COSTS] = -1
        initiations = -(-firings.get(name, 0) // timing.lanes)
        work[name] = initiations * timing.initiation_interval
        if timing.cost is not None:
            given = firings_table(timing.cost.property, name)
            costs = _costs(timing.cost.base, timing.cost.per_unit, given)
            row[k.COSTS] = keep(costs)
            work[name] = -(-int(np.maximum(costs, timing.initiation_interval).sum()) // timing.lanes)
        row[k.COUNTED] = pipeline.sinks == [name]
        if slots * timing.lanes * int(row[k.BYTES]) > MOST_BYTES:
            raise InputError(f"has more than {MOST_BYTES:,} bytes under way", key=f"stages.{name}.memory")
        stage_rows.append(row)
    fifo_rows = []
    for fifo in pipeline.fifos.values():
        row = np.zeros(k.FIFO_COLUMNS, np.int64)
        writer, reader = (int(stage_rows[stage_index[end]][k.PERIOD]) for end in fifo.between)
        row[k.WRITER], row[k.READER] = (stage_index[end] for end in fifo.between)
        row[k.COUNTS] = -1
        if isinstance(fifo.produce, str):
            row[k.COUNTS] = keep(firings_table(fifo.produce, fifo.between[0]))
        else:
            row[k.PRODUCE] = fifo.produce
        row[k.READ], row[k.CAPACITY], row[k.BLOCK] = fifo.consume, fifo.capacity, fifo.block
        row[k.SEEN], row[k.FREED] = writer + fifo.latency * reader, reader
        fifo_rows.append(row)
    n_stages, n_fifos = len(stage_rows), len(fifo_rows)
    stage_table = np.tile(np.array(stage_rows), (copies, 1))
    fifo_table = np.tile(np.array(fifo_rows, np.int64).reshape(n_fifos, k.FIFO_COLUMNS), (copies, 1))
    copy_of_stage = np.repeat(np.arange(copies), n_stages)
    fifo_table[:, [k.WRITER, k.READER]] += np.repeat(np.arange(copies), n_fifos)[:, None] * n_stages
    stage_table[:, k.REPLICA] = copy_of_stage
    units = [(name, copy) for copy in range(copies) for name in pipeline.stages]
    for row, (name, copy) in zip(stage_table, units, strict=True):
        memory = pipeline.stages[name].memory
        row[k.CHANNEL] = -1
        if memory is not None:
            row[k.CHANNEL] = channels.index((memory.port, copy % pipeline.ports[memory.port].channels))
    return Layout(
        pipeline=pipeline,
        items=items,
        ticks=ticks,
        units=units,
        queues=[(name, copy) for copy in range(copies) for name in pipeline.fifos],
        channels=channels,
        stage=stage_table,
        fifo=fifo_table,
        port=_ports(pipeline, ticks, channels),
        into=_connections(fifo_table[:, k.READER], len(units)),
        out_of=_connections(fifo_table[:, k.WRITER], len(units)),
        tables=np.concatenate([np.zeros(0, np.int64), *parts]),
        firings=firings,
        work_cycles=work,
    )


def _ports(pipeline: Pipeline, ticks: Ticks, channels: list[tuple[str, int]]) -> Table:
    from neardata.sim.stream import pipeline_kernel as k

    table = np.zeros((len(channels), k.PORT_COLUMNS), np.int64)
    for row, (name, _) in zip(table, channels, strict=True):
        port = pipeline.ports[name]
        per_tick = Fraction(repr(port.gb_per_s)) * 1000 / ticks.per_us  # bytes
        if max(per_tick.numerator, per_tick.denominator) > 1 << 24:
            raise InputError("has too many digits beside the clocks", key=f"ports.{name}.gb_per_s")
        row[k.NUMERATOR], row[k.DENOMINATOR] = per_tick.denominator, per_tick.numerator
        row[k.LATENCY] = ticks.from_ns(port.latency_ns)
    return table


def _connections(end: Table, n_stages: int) -> Table:
    """(stages, FIFOs + 1): how many FIFOs have this end at a stage, then which."""
    lists = [np.flatnonzero(end == i) for i in range(n_stages)]
    table = np.zeros((n_stages, 1 + max((len(found) for found in lists), default=0)), np.int64)
    for row, found in zip(table, lists, strict=True):
        row[0] = len(found)
        row[1 : 1 + len(found)] = found
    return table


def _whole(name: str, given: Sequence[int]) -> Table:
    values = np.asarray(given)
    if values.ndim != 1 or (values.dtype.kind not in "iu" and not np.all(values == np.floor(values))):
        raise InputError(f"property '{name}' must be whole numbers, one per item")
    if len(values) and (values.min() < 0 or values.max() > 1 << 40):
        raise InputError(f"property '{name}' must be from 0 to {1 << 40}")
    return values.astype(np.int64)


def _costs(base: float, per_unit: float, values: Table) -> Table:
    """``ceil(base + per_unit * value)``, exactly."""
    a, b = Fraction(repr(base)), Fraction(repr(per_unit))
    d = lcm(a.denominator, b.denominator)
    offset, slope = int(a * d), int(b * d)
    largest = offset + slope * int(values.max(initial=0))
    if largest > 1 << 62 or largest // d > 1 << 40:
        raise InputError("a cost is above 2^40 cycles or has too many digits")
    return np.asarray(-(-(offset + slope * values) // d), np.int64)


def _firings(pipeline: Pipeline, items: int, values: Mapping[str, Table]) -> dict[str, int]:
    """How often each stage fires if one replica takes everything; stages that lie on a circle of
    FIFOs, or behind one, are left out: they never fire.

    Raises:
        InputError: the inputs of a stage do not match.
    """
    firings: dict[str, int] = {}
    written: dict[str, int] = {}
    waiting = dict(pipeline.stages)
    while True:
        ready = [name for name in waiting if all(q in written for q in pipeline.fifos_into(name))]
        if not ready:
            return firings
        for name in ready:
            stage = waiting.pop(name)
            into = pipeline.fifos_into(name)
            counts = {q: -(-written[q] // pipeline.fifos[q].consume) for q in into}
            if len(set(counts.values())) > 1:
                told = ", ".join(f"{n:,} from {q}" for q, n in counts.items())
                raise InputError(f"stage '{name}' is given unequal inputs: firings {told}")
            firings[name] = next(iter(counts.values())) if into else -(-items // stage.consume)
            for q in pipeline.fifos_out_of(name):
                produce = pipeline.fifos[q].produce
                if isinstance(produce, str):
                    written[q] = int(values[produce].sum()) if produce in values else 0
                else:
                    written[q] = firings[name] * produce
