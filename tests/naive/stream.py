"""Streaming pipelines, every stage looked at in every cycle: the slow twin of the stream engine.

Items are counted by lists of the times at which they were written and read; what a stage may know at
a tick is found by looking through those lists. No jump, no wake-ups, no pending queues.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, lcm
from typing import Any

import numpy as np

from naive.request import Controller, Request
from neardata.arch.dram import Device, load_device, load_mapping
from neardata.arch.stream import Pipeline
from neardata.sim.dram.config import ControllerConfig

BUSY, STARVED, BLOCKED, MEMORY, DRAINED = range(5)


@dataclass
class Channel:
    """A FIFO of one replica."""

    produce: int | Sequence[int]
    consume: int
    capacity: int
    block: int
    seen: int
    freed: int
    writes: list[tuple[int, int]] = field(default_factory=list)
    reads: list[tuple[int, int]] = field(default_factory=list)
    over: int | None = None
    high: int = 0

    def readable(self, t: int) -> int:
        seen = sum(n for at, n in self.writes if at + self.seen <= t)
        if not self.is_over(t):
            seen -= seen % self.block
        return seen - sum(n for _, n in self.reads)

    def is_over(self, t: int) -> bool:
        return self.over is not None and self.over + self.seen <= t

    def used(self, t: int) -> int:
        free = sum(n for at, n in self.reads if at + self.freed <= t)
        return sum(n for _, n in self.writes) - (free - free % self.block)


@dataclass
class Flight:
    ready: int | None
    """None: memory has not answered."""
    tail: int
    """Ticks from memory's answer until the results can be written."""
    firings: int
    made: list[int]
    items: list[int]
    asked: list[Request]


class Dram:
    """A DRAM channel that takes requests as they are made: the twin of a port at fidelity ``cycle``.

    Args:
        users: stages that use the channel; each has an equal part of it for reads and one for writes.
        tick: a tick of the memory in ticks of the pipeline.
    """

    def __init__(self, device: Device, config: ControllerConfig, users: int, tick: Fraction) -> None:
        options = config.model_dump(exclude={"device_table", "mapping"})
        self.controller = Controller(device, **options)
        self.mapping = load_mapping(device, config.mapping, 1)
        self.burst, self.tick = device.burst_bytes, tick
        self.part = self.mapping.capacity_bytes // (2 * users) // self.burst
        self.next = [[0, 0] for _ in range(users)]
        self.line: list[tuple[int, list[Request | None], int, bool, int]] = []

    def ask(self, user: int, read_bytes: int, write_bytes: int, t: int) -> list[Any]:
        answers: list[Request | None] = []
        for is_write, n in ((False, -(-read_bytes // self.burst)), (True, -(-write_bytes // self.burst))):
            for _ in range(n):
                place = self.next[user][is_write] % self.part + (2 * user + is_write) * self.part
                self.next[user][is_write] += 1
                answers.append(None)
                arrival = ceil(t / self.tick)
                self.line.append((arrival, answers, len(answers) - 1, is_write, place * self.burst))
        return answers

    def advance(self, t: int) -> None:
        """Everything before tick t."""
        while self.controller.clk * self.tick < t:
            if self.line and self.line[0][0] <= self.controller.clk:
                _, answers, at, is_write, address = self.line[0]
                parts = self.mapping.decode(np.array([address]))
                bank, row, column = (int(part[0]) for part in parts[1:])
                answers[at] = self.controller.send(int(is_write), bank, row, column)
                if answers[at] is not None:
                    self.line.pop(0)
            self.controller.tick()

    def answered(self, answers: list[Any]) -> Fraction | None:
        """Tick of the pipeline at which all of them are; None: not known yet."""
        times = []
        for request in answers:
            if request is None or (request.kind == 0 and request.depart < 0):
                return None
            times.append(request.depart if request.kind == 0 else request.arrive + 1)
        return max(times) * self.tick


@dataclass
class Unit:
    """A stage of one replica."""

    name: str
    replica: int
    period: int
    ins: list[Channel]
    outs: list[Channel]
    slots: int
    flights: list[Flight] = field(default_factory=list)
    next_start: int = 0
    fired: int = 0
    taken: int = 0
    ended: bool = False
    classes: list[int] = field(default_factory=list)
    first: int | None = None


def _edges(periods: list[int], limit: int) -> Iterator[int]:
    """Every tick at which a clock has an edge."""
    t = 0
    while t < limit:
        yield t
        t = min((t // period + 1) * period for period in periods)


@dataclass
class Result:
    end: int
    """Tick after the last stage has ended; -1: they never do."""
    classes: dict[tuple[str, int], list[int]]
    """(stage, replica): cycles busy, starved, blocked, waiting for memory, drained."""
    fired: dict[tuple[str, int], int]
    high: dict[tuple[str, int], int]
    """(FIFO, replica): most items in it."""
    finish: list[int]
    """Tick at which each item has left a pipeline that fires its last stage once an item."""
    first: int


def run(
    pipeline: Pipeline,
    items: int,
    properties: Mapping[str, Sequence[float]] | None = None,
    arrivals: Sequence[int] | None = None,
    limit: int = 100_000,
    config: ControllerConfig | None = None,
) -> Result:
    """The slow way.

    Args:
        properties: a value per firing.
        arrivals: in ticks; a tick is the longest time of which every clock's period is a multiple.
        limit: cycles of the slowest clock.
        config: simulate ports on their DRAM devices, with this controller.
    """
    properties = properties or {}
    rates = {name: Fraction(repr(clock.mhz)) for name, clock in pipeline.clocks.items()}
    denominator = lcm(*(rate.denominator for rate in rates.values()))
    base = lcm(*(int(rate * denominator) for rate in rates.values()))  # ticks in `denominator` us
    ticks_per_us = Fraction(base, denominator)
    periods = {name: int(ticks_per_us / rate) for name, rate in rates.items()}
    copies = pipeline.replicas.count

    def period_of(stage: str) -> int:
        return periods[pipeline.stages[stage].clock or next(iter(periods))]

    fifos: dict[tuple[str, int], Channel] = {}
    units: list[Unit] = []
    for copy in range(copies):
        for name, fifo in pipeline.fifos.items():
            writer, reader = map(period_of, fifo.between)
            made: Any = fifo.produce
            if isinstance(made, str):
                made = [int(v) for v in properties[made]]
            fifos[name, copy] = Channel(
                made, fifo.consume, fifo.capacity, fifo.block, writer + fifo.latency * reader, reader
            )
        for name, stage in pipeline.stages.items():
            slots = -(-stage.timing.depth // stage.timing.initiation_interval)
            if stage.memory is not None:
                slots = max(slots, stage.memory.outstanding)
            units.append(
                Unit(
                    name, copy, period_of(name),
                    [fifos[q, copy] for q in pipeline.fifos_into(name)],
                    [fifos[q, copy] for q in pipeline.fifos_out_of(name)], slots,
                )
            )  # fmt: skip
    port_free: dict[tuple[str, int], Fraction] = {}
    drams: dict[tuple[str, int], Dram] = {}
    users: dict[tuple[str, int], list[int]] = {}
    for i, unit in enumerate(units):
        memory = pipeline.stages[unit.name].memory
        if memory is not None and config is not None:
            key = memory.port, unit.replica % pipeline.ports[memory.port].channels
            users.setdefault(key, []).append(i)
    for key, rows in users.items():
        device = load_device(str(pipeline.ports[key[0]].device))
        tick = Fraction(device.timing["tCK_ps"]) / device.ticks_per_clock * ticks_per_us / 1_000_000
        drams[key] = Dram(device, config, len(rows), tick)
    dispatch = pipeline.replicas.dispatch
    queue: list[int] = []
    queues: list[list[int]] = [[] for _ in range(copies)]
    load = [0] * copies
    history: list[list[int]] = [[] for _ in range(copies)]
    arrived = 0
    finish = [-1] * items
    counted = {pipeline.sinks[0]} if len(pipeline.sinks) == 1 else set()
    last = max(arrivals, default=0) if arrivals is not None else 0
    quiet, end, done = 0, 0, False
    steps = sorted({unit.period for unit in units})
    patience = 1000 * steps[-1]  # nothing that is under way takes longer

    for t in _edges(steps, limit * steps[-1]):
        while arrived < items and (arrivals is None or arrivals[arrived] <= t):
            if dispatch == "shared-queue":
                queue.append(arrived)
            else:
                to = arrived % copies
                if dispatch == "least-loaded" and arrivals is not None:
                    to = min(range(copies), key=lambda j: load[j])
                queues[to].append(arrived)
                history[to].append(arrived)
                load[to] += 1
            arrived += 1
        acted = False
        for dram in drams.values():
            dram.advance(t)
        for row, unit in enumerate(units):
            if t % unit.period:
                continue
            stage = pipeline.stages[unit.name]
            timing = stage.timing
            line = queue if dispatch == "shared-queue" else queues[unit.replica]
            waiting = len(line) if dispatch == "shared-queue" else len(line) - unit.taken
            n, there, over = timing.lanes, True, True
            if not unit.ins:
                if waiting < timing.lanes * stage.consume:
                    if arrived < items:
                        there = False
                    else:
                        n = min(n, ceil(waiting / stage.consume))
                over = arrived == items and waiting == 0
            for channel in unit.ins:
                have = channel.readable(t)
                over = over and channel.is_over(t) and have == 0
                if have < timing.lanes * channel.consume:
                    if channel.is_over(t):
                        n = min(n, ceil(have / channel.consume))
                    else:
                        there = False
            there = there and n > 0
            ended_before = unit.ended

            start = there and len(unit.flights) < unit.slots and t >= unit.next_start
            if start:
                acted = True
                unit.first = t if unit.first is None else unit.first
                if not unit.ins:
                    taken = min(waiting, n * stage.consume)
                    unit.taken += taken
                    if dispatch == "shared-queue":
                        history[unit.replica] += queue[:taken]
                        del queue[:taken]
                        waiting -= taken
                    else:
                        waiting -= taken
                for channel in unit.ins:
                    channel.reads.append((t, min(channel.readable(t), n * channel.consume)))
                which = list(range(unit.fired, unit.fired + n))
                if copies > 1 and (counted or properties):
                    mine = history[unit.replica]
                    which = [mine[k] if k < len(mine) else -1 for k in which]
                cycles = timing.initiation_interval
                if timing.cost is not None:
                    c = timing.cost
                    for k in which:
                        value = Fraction(repr(float(c.base))) + Fraction(repr(float(c.per_unit))) * Fraction(
                            repr(float(properties[c.property][k]))
                        )
                        cycles = max(cycles, ceil(value))
                begun: int | None = t
                asked = []
                if stage.memory is not None and config is not None:
                    m = stage.memory
                    key = m.port, unit.replica % pipeline.ports[m.port].channels
                    asked = drams[key].ask(users[key].index(row), n * m.read_bytes, n * m.write_bytes, t)
                    begun = None
                elif stage.memory is not None:
                    m = stage.memory
                    port = pipeline.ports[m.port]
                    key = (m.port, unit.replica % port.channels)
                    per_tick = Fraction(repr(port.gb_per_s)) * 1000 / ticks_per_us
                    begin = max(port_free.get(key, Fraction(0)), Fraction(t))
                    port_free[key] = begin + n * (m.read_bytes + m.write_bytes) / per_tick
                    latency = ceil(Fraction(repr(port.latency_ns)) * ticks_per_us / 1000)
                    begun = ceil(port_free[key]) + (latency if m.read_bytes else 0)
                    begun = max(t, ceil(Fraction(begun, unit.period)) * unit.period)
                tail = (timing.depth + cycles - timing.initiation_interval - 1) * unit.period
                unit.flights.append(
                    Flight(
                        None if begun is None else begun + tail,
                        tail,
                        n,
                        [
                            n * channel.produce if isinstance(channel.produce, int)
                            else sum(channel.produce[k] for k in which)
                            for channel in unit.outs
                        ],
                        which,
                        asked,
                    )
                )  # fmt: skip
                unit.fired += n
                unit.next_start = t + cycles * unit.period
                if not unit.ins:
                    over = arrived == items and waiting == 0
                else:
                    over = all(channel.is_over(t) and channel.readable(t) == 0 for channel in unit.ins)

            for flight in unit.flights:
                if flight.ready is None:
                    m = stage.memory
                    assert m is not None
                    key = m.port, unit.replica % pipeline.ports[m.port].channels
                    answer = drams[key].answered(flight.asked)
                    if answer is not None:
                        flight.ready = ceil(answer / unit.period) * unit.period + flight.tail
            due = bool(unit.flights) and unit.flights[0].ready is not None and unit.flights[0].ready <= t
            if due:
                flight = unit.flights[0]
                if all(
                    channel.used(t) + made <= channel.capacity
                    for channel, made in zip(unit.outs, flight.made, strict=True)
                ):
                    acted = True
                    for channel, made in zip(unit.outs, flight.made, strict=True):
                        channel.writes.append((t, made))
                        channel.high = max(channel.high, channel.used(t))
                    if unit.name in counted:
                        load[unit.replica] -= flight.firings
                        for k in flight.items:
                            if 0 <= k < items:
                                finish[k] = t + unit.period
                    unit.flights.pop(0)
            if over and not unit.flights and not unit.ended:
                unit.ended = True
                end = max(end, t + unit.period)
                acted = True
                for channel in unit.outs:
                    channel.over = t

            if t < unit.next_start and not ended_before:
                unit.classes.append(BUSY)
            elif over:
                unit.classes.append(DRAINED)
            elif not there:
                unit.classes.append(STARVED)
            elif due:
                unit.classes.append(BLOCKED)
            else:
                unit.classes.append(MEMORY)
        if acted:
            quiet = t
        done = all(unit.ended for unit in units)
        if done or t > max(quiet, last) + patience:
            break
    classes = {}
    for u in units:  # the cycles that begin before the end
        cycles = u.classes + [DRAINED] * (-(-end // u.period) - len(u.classes))
        classes[u.name, u.replica] = list(np.bincount(cycles[: -(-end // u.period)], minlength=5))
    return Result(
        end if done else -1,
        classes,
        {(u.name, u.replica): u.fired for u in units},
        {key: channel.high for key, channel in fifos.items()},
        finish,
        min((u.first for u in units if u.first is not None), default=0),
    )
