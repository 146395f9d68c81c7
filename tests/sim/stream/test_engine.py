"""The stream engine against its twin that looks at every stage in every cycle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from naive import stream as naive
from naive.random_pipeline import pipelines
from neardata.arch.errors import InputError
from neardata.arch.stream import Pipeline
from neardata.sim.stream import engine
from neardata.sim.stream import pipeline_kernel as k
from neardata.sim.stream.dram_ports import DramPorts
from neardata.sim.stream.layout import lay_out

SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def run(pipeline: Pipeline, items: int, properties: dict[str, Any], arrive: Any, **how: Any) -> naive.Result:
    """The engine's result in the twin's form."""
    layout = lay_out(pipeline, items, properties)
    arrive = np.zeros(0, np.int64) if arrive is None else np.array(arrive, np.int64)
    try:
        state = engine.simulate(layout, arrive, **how)
    except InputError as error:
        assert str(error).startswith("deadlock")
        return naive.Result(-1, {}, {}, {}, [], 0)
    classes = state.s[:, k.S_BUSY : k.S_BUSY + 5]
    return naive.Result(
        int(state.r[k.R_END]),
        {unit: [int(n) for n in row] for unit, row in zip(layout.units, classes, strict=True)},
        {unit: int(n) for unit, n in zip(layout.units, state.s[:, k.FIRED], strict=True)},
        {queue: int(n) for queue, n in zip(layout.queues, state.f[:, k.HIGH], strict=True)},
        [int(t) for t in state.finish],
        int(state.s[state.s[:, k.FIRST] >= 0, k.FIRST].min()),
    )


def same(ours: naive.Result, twin: naive.Result) -> None:
    assert ours.end == twin.end
    if twin.end < 0:
        return
    assert ours.first == twin.first
    assert ours.fired == twin.fired
    assert ours.high == twin.high
    assert ours.classes == {unit: [int(n) for n in row] for unit, row in twin.classes.items()}


def values(pipeline: Pipeline, items: int, data: st.DataObject) -> dict[str, Any]:
    used = {name for name, _ in pipeline.properties()}
    top = {"cost": 7, "made": 3}
    return {
        name: data.draw(st.lists(st.integers(0, top[name]), min_size=items, max_size=items), label=name)
        for name in used
    }


@SETTINGS
@given(pipelines(), st.integers(1, 12), st.data())
def test_engine_is_its_twin(pipeline: Pipeline, items: int, data: st.DataObject) -> None:
    given_values = values(pipeline, items, data)
    try:
        ours = run(pipeline, items, given_values, None)
    except InputError:  # unequal inputs of a join, replicas whose first stage does not fire once an item
        return
    same(ours, naive.run(pipeline, items, given_values))


@SETTINGS
@given(pipelines(), st.integers(1, 12), st.data())
def test_engine_is_its_twin_when_items_arrive(pipeline: Pipeline, items: int, data: st.DataObject) -> None:
    given_values = values(pipeline, items, data)
    gaps = data.draw(st.lists(st.integers(0, 60), min_size=items, max_size=items))
    arrive = [int(t) for t in np.cumsum(gaps)]
    once = pipeline.replicas.count == 1 or pipeline.replicas.dispatch != "least-loaded"
    try:
        layout = lay_out(pipeline, items, given_values)
        latencies = len(pipeline.sinks) == 1 and layout.firings[pipeline.sinks[0]] == items
        if not (once or latencies):
            return
        ours = run(pipeline, items, given_values, arrive, latencies=latencies)
    except InputError:
        return
    twin = naive.run(pipeline, items, given_values, arrive)
    same(ours, twin)
    if latencies and twin.end >= 0:
        assert ours.finish == twin.finish


@SETTINGS
@given(pipelines(properties=False), st.integers(50, 400))
def test_jumping_changes_nothing(pipeline: Pipeline, items: int) -> None:
    try:
        plain = run(pipeline, items, {}, None, jump=False)
        jumped = run(pipeline, items, {}, None, jump=True)
    except InputError:
        return
    assert jumped == plain


@pytest.mark.parametrize("seed", range(3))
def test_jumps_happen(seed: int) -> None:
    from neardata.arch.stream import load_pipeline
    from neardata.sim.stream import run_stream

    report = run_stream(load_pipeline("presto-sparse"), 10_000 + seed)
    plain = run_stream(load_pipeline("presto-sparse"), 10_000 + seed, jump=False)
    assert report.jumped_periods > 0 and report.events < plain.events / 10
    assert (report.time_ps, report.stages, report.fifos) == (plain.time_ps, plain.stages, plain.fifos)


@settings(SETTINGS, max_examples=60)
@given(pipelines(properties=False, memory=True), st.integers(1, 12))
def test_ports_on_dram_devices_are_simulated_jointly(pipeline: Pipeline, items: int) -> None:
    try:
        layout = lay_out(pipeline, items, {})
    except InputError:
        return
    ports = DramPorts(layout)
    none = np.zeros(0, np.int64)

    def turn(answers: Any) -> Any:
        state = engine.simulate(layout, none, answer=answers)
        return state.request, state.s[:, k.FIRED]

    try:
        ours = run(pipeline, items, {}, None, answer=ports.settle(turn))
    except InputError:
        return
    same(ours, naive.run(pipeline, items, config=ports.config))
