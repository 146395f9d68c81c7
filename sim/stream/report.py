"""What a run of a pipeline took, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neardata.arch.stream import Pipeline
from neardata.sim.stream.layout import Layout, Table
from neardata.sim.stream.resources import ResourceUse

if TYPE_CHECKING:
    from neardata.sim.stream.engine import State

CAUSES = ("busy", "starved", "blocked", "memory", "drained")


@dataclass(frozen=True)
class StageCycles:
    """Cycles of a stage's clock, all replicas together; the five add up to ``total``."""

    total: int
    busy: int
    """Within an initiation interval, or the cost in its place."""
    starved: int
    """Items were missing."""
    blocked: int
    """Finished results found no room in a FIFO and kept the stage full."""
    memory: int
    """All that may be under way was, and waited for memory."""
    drained: int
    """Nothing more was to come."""


@dataclass(frozen=True)
class FifoUse:
    """A FIFO, the fullest of all replicas."""

    capacity: int
    high_water: int
    """Most items in it, blocks that are being read included."""
    items: int
    """That went through, all replicas together."""


@dataclass(frozen=True)
class StreamReport:
    """Time, accounts and resources of a run."""

    pipeline: Pipeline
    items: int
    cycles: int
    """Of the first clock, from the one that takes the first item until the end."""
    time_ps: int
    clock: str
    stages: Mapping[str, StageCycles]
    fifos: Mapping[str, FifoUse]
    firings: Mapping[str, int]
    binding: str
    """The stage that held the others up: busy or waiting for memory for the greatest part of the run."""
    bound_ps: int
    """The least time: the work of the busiest stage, or the bytes of the busiest port at its rate."""
    bound_by: str
    memory: str
    """How ports were simulated."""
    memory_turns: int
    """Turns of pipeline and memory until no request moved, of ports simulated request by request."""
    port_bytes: Mapping[str, int]
    energy_pj: Mapping[str, float] | None
    """By stage and port; None: no energy is told."""
    energy_untold: tuple[str, ...]
    """Stages and ports without a number."""
    resources: ResourceUse | None
    finish_ps: NDArray[np.int64] | None = field(repr=False)
    """When each item has left, where it was asked."""
    arrive_ps: NDArray[np.int64] | None = field(repr=False)
    jumped_periods: int
    period_cycles: int
    """Of the first clock; 0: no period was jumped."""
    period_items: int
    events: int
    """Ticks that were looked at."""

    @property
    def time_ns(self) -> float:
        """Nanoseconds."""
        return self.time_ps / 1000

    @property
    def items_per_s(self) -> float:
        """Throughput, fill and drain included."""
        return self.items * 1e12 / self.time_ps

    def latency_ns(self, percent: float) -> float:
        """Time from an item's arrival until it has left that ``percent`` of the items do not exceed.

        Raises:
            ValueError: latencies were not asked for.
        """
        if self.finish_ps is None:
            raise ValueError("run with latencies=True")
        start = self.arrive_ps if self.arrive_ps is not None else 0
        waits = np.sort(self.finish_ps - start)
        return float(waits[max(ceil(len(waits) * percent / 100) - 1, 0)]) / 1000


def make_report(
    layout: Layout, state: State, arrive: Table, use: ResourceUse | None, memory: str, turns: int
) -> StreamReport:
    """Read the kernel's state."""
    from neardata.sim.stream import pipeline_kernel as k

    pipeline, ticks = layout.pipeline, layout.ticks
    s, f, r = state.s, state.f, state.r
    clock = next(iter(pipeline.clocks))
    end = int(r[k.R_END])
    first = int(s[s[:, k.FIRST] >= 0, k.FIRST].min())
    rows = {name: [i for i, (unit, _) in enumerate(layout.units) if unit == name] for name in pipeline.stages}
    stages: dict[str, StageCycles] = {}
    for name, at in rows.items():
        parts = [int(n) for n in s[at, k.S_BUSY : k.S_BUSY + len(CAUSES)].sum(axis=0)]
        total = -(-end // int(layout.stage[at[0], k.PERIOD])) * len(at)
        if sum(parts) != total or min(parts) < 0:
            raise RuntimeError(f"stage {name}: {parts} cycles do not add up to {total}")
        stages[name] = StageCycles(total, *parts)
    fifos = {}
    for name, fifo in pipeline.fifos.items():
        of = [i for i, (queue, _) in enumerate(layout.queues) if queue == name]
        fifos[name] = FifoUse(fifo.capacity, int(f[of, k.HIGH].max()), int(f[of, k.WRITTEN].sum()))
    firings = {name: int(s[at, k.FIRED].sum()) for name, at in rows.items()}
    port_bytes = dict.fromkeys(pipeline.ports, 0)
    for name, stage in pipeline.stages.items():
        if stage.memory is not None:
            bytes_each = stage.memory.read_bytes + stage.memory.write_bytes
            port_bytes[stage.memory.port] += firings[name] * bytes_each
    bound, bound_by = _bound(layout, firings, port_bytes)
    energy, untold = _energy(pipeline, firings, port_bytes)
    period = int(ticks.period[clock])
    return StreamReport(
        pipeline=pipeline,
        items=layout.items,
        cycles=-(-(end - first) // period),
        time_ps=ticks.to_ps(end - first),
        clock=clock,
        stages=stages,
        fifos=fifos,
        firings=firings,
        binding=max(stages, key=lambda name: (stages[name].busy + stages[name].memory) / stages[name].total),
        bound_ps=bound,
        bound_by=bound_by,
        memory=memory,
        memory_turns=turns,
        port_bytes=port_bytes,
        energy_pj=energy,
        energy_untold=untold,
        resources=use,
        finish_ps=_to_ps(layout, state.finish) if len(state.finish) else None,
        arrive_ps=_to_ps(layout, arrive) if len(arrive) else None,
        jumped_periods=int(r[k.JUMPED_PERIODS]),
        period_cycles=int(r[k.PERIOD_TICKS]) // period,
        period_items=int(r[k.PERIOD_ITEMS]),
        events=int(r[k.EVENTS]),
    )


def _to_ps(layout: Layout, at: Table) -> NDArray[np.int64]:
    return np.array([layout.ticks.to_ps(int(t)) for t in at], np.int64)


def _bound(layout: Layout, firings: Mapping[str, int], port_bytes: Mapping[str, int]) -> tuple[int, str]:
    """Least time and what sets it, if replicas share the work evenly."""
    pipeline = layout.pipeline
    copies = pipeline.replicas.count
    bounds = {}
    for name, cycles in layout.work_cycles.items():
        mhz = pipeline.clock_of(name).exact_mhz
        bounds[f"stage {name}"] = ceil(cycles * 1_000_000 / mhz / copies)
    for name, moved in port_bytes.items():
        port = pipeline.ports[name]
        bounds[f"port {name}"] = ceil(moved * 1000 / (port.gb_per_s * min(port.channels, copies)))
    name = max(bounds, key=lambda name: bounds[name])
    return bounds[name], name


def _energy(
    pipeline: Pipeline, firings: Mapping[str, int], port_bytes: Mapping[str, int]
) -> tuple[dict[str, float] | None, tuple[str, ...]]:
    told = {
        name: firings[name] * stage.energy.pj_per_firing
        for name, stage in pipeline.stages.items()
        if stage.energy is not None
    }
    for name, port in pipeline.ports.items():
        if port.pj_per_byte is not None:
            told[name] = port_bytes[name] * port.pj_per_byte
    untold = tuple(name for name in (*pipeline.stages, *pipeline.ports) if name not in told)
    return told or None, untold
