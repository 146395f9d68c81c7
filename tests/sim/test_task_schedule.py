"""Schedules of programs whose durations are given."""

import doctest
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import neardata.sim.task_schedule
from neardata.arch.system import parse_system
from neardata.sim.program import MatMul, Pause, Program, Task, Transfer
from neardata.sim.system.engine import run
from neardata.sim.task_schedule import fixed_rates, schedule

SYSTEM = parse_system({
    "name": "two", "source": "test",
    "units": {
        "gpu": {"kind": "processor", "processor": "a100-80gb"},
        "cpu": {"kind": "processor", "processor": "epyc-7v12"},
    },
    "links": {"pcie": {"link": "pcie-4", "between": ["gpu", "cpu"], "overrides": {
        "gb_per_s": 1000, "latency_ns.value": 0, "startup_ns.value": 0, "fraction.value": 1,
        "overhead_bytes": 0, "sharing": "exclusive",
    }}},
})  # fmt: skip


@st.composite
def tasks(draw):
    made = []
    for i in range(draw(st.integers(0, 14))):
        after = (
            draw(st.lists(st.sampled_from([t.name for t in made]), unique=True, max_size=3)) if made else []
        )
        time = draw(st.integers(1, 9))
        unit, kernel = draw(
            st.sampled_from([
                ("gpu", Pause(time)), ("cpu", Pause(time)),
                ("pcie", Transfer("cpu", "gpu", time)), ("pcie", Transfer("gpu", "cpu", time)),
            ])
        )  # fmt: skip
        made.append(Task(f"t{i}", unit, kernel, tuple(after)))
    return tuple(made)


@settings(max_examples=60, deadline=None)
@given(tasks())
def test_agrees_with_the_engine_of_systems(listed):
    program = Program("p", "two", listed)
    report = run(program, SYSTEM)
    found = schedule(program, fixed_rates({"pcie": 1e12}))
    assert list(found.start.values()) == report.schedule.start
    assert list(found.end.values()) == report.schedule.end
    assert found.makespan == report.time_ps


@settings(max_examples=60, deadline=None)
@given(tasks())
def test_no_unit_does_two_tasks_and_no_task_runs_before_what_it_waits_for(listed):
    result = schedule(Program("p", "s", listed), fixed_rates({"pcie": 1e12}))
    for task in listed:
        assert all(result.end[name] <= result.start[task.name] for name in task.after)
    for unit, source in (("gpu", None), ("cpu", None), ("pcie", "gpu"), ("pcie", "cpu")):
        own = [t for t in listed if t.unit == unit and getattr(t.kernel, "source", None) == source]
        spans = sorted((result.start[t.name], result.end[t.name]) for t in own)
        assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))


def test_by_hand():
    listed = (
        Task("fetch 0", "link", Transfer("host", "gpu", 5)),
        Task("gate", "gpu", Pause(1)),
        Task("fetch 1", "link", Transfer("host", "gpu", 5), ("gate",)),
        Task("expert 0", "gpu", Pause(7), ("fetch 0", "gate")),
        Task("expert 1", "gpu", Pause(7), ("fetch 1",)),
        Task("other", "cpu", Pause(30), ("gate",)),
        Task("back", "link", Transfer("gpu", "host", 5), ("gate",)),
    )
    result = schedule(Program("p", "s", listed), fixed_rates({"link": 1e12}))
    assert dict(result.start) == {
        "fetch 0": 0, "gate": 0, "fetch 1": 5, "expert 0": 5, "expert 1": 12, "other": 1, "back": 1,
    }  # fmt: skip
    assert result.makespan == 31


def test_fixed_rates_refuse_what_has_no_fixed_time():
    with pytest.raises(TypeError, match="task 't': only pauses and transfers have a fixed time, got matmul"):
        fixed_rates({})(Task("t", "gpu", MatMul(1, 1, 1)))
    assert fixed_rates({"pcie": 2e9})(Task("t", "pcie", Transfer("a", "b", 3))) == 1500


def test_examples():
    assert doctest.testmod(neardata.sim.task_schedule).failed == 0
