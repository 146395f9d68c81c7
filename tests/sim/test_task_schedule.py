"""Schedules of programs whose durations are given."""

import doctest
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import neardata.sim.task_schedule
from naive.task_schedule import schedule as naive_schedule
from neardata.sim.program import MatMul, Pause, Program, Task, Transfer
from neardata.sim.task_schedule import fixed_rates, schedule


@st.composite
def tasks(draw):
    count = draw(st.integers(0, 14))
    made = []
    for i in range(count):
        after = (
            draw(st.lists(st.sampled_from([t.name for t in made]), unique=True, max_size=3)) if made else []
        )
        unit = draw(st.sampled_from("abc"))
        made.append(Task(f"t{i}", unit, Pause(draw(st.integers(0, 6))), tuple(after)))
    return tuple(made)


def time(task):
    return task.kernel.time_ps


@settings(max_examples=60, deadline=None)
@given(tasks())
def test_agrees_with_the_twin(listed):
    result = schedule(Program("p", "s", listed), time)
    assert (dict(result.start), dict(result.end)) == naive_schedule(listed, time)


@settings(max_examples=60, deadline=None)
@given(tasks())
def test_no_unit_does_two_tasks_and_no_task_runs_before_what_it_waits_for(listed):
    result = schedule(Program("p", "s", listed), time)
    for task in listed:
        assert all(result.end[name] <= result.start[task.name] for name in task.after)
        assert result.end[task.name] - result.start[task.name] == time(task)
    for unit in "abc":
        spans = sorted(
            (result.start[t.name], result.end[t.name]) for t in listed if t.unit == unit and time(t)
        )
        assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))


def test_by_hand():
    listed = (
        Task("fetch 0", "link", Pause(5)),
        Task("gate", "gpu", Pause(1)),
        Task("fetch 1", "link", Pause(5), ("gate",)),
        Task("expert 0", "gpu", Pause(7), ("fetch 0", "gate")),
        Task("expert 1", "gpu", Pause(7), ("fetch 1",)),
        Task("other", "cpu", Pause(30), ("gate",)),
    )
    result = schedule(Program("p", "s", listed), time)
    assert dict(result.start) == {
        "fetch 0": 0, "gate": 0, "fetch 1": 5, "expert 0": 5, "expert 1": 12, "other": 1,
    }  # fmt: skip
    assert result.makespan == 31


def test_of_two_ready_tasks_the_one_listed_first_runs_even_if_ready_later():
    listed = (
        Task("long", "gpu", Pause(10)),
        Task("feed", "link", Pause(9)),
        Task("first", "gpu", Pause(1), ("feed",)),
        Task("second", "gpu", Pause(1)),
    )
    result = schedule(Program("p", "s", listed), time)
    assert result.start["first"] == 10
    assert result.start["second"] == 11


def test_fixed_rates_refuse_what_has_no_fixed_time():
    with pytest.raises(TypeError, match="task 't': only pauses and transfers have a fixed time, got matmul"):
        fixed_rates({})(Task("t", "gpu", MatMul(1, 1, 1)))
    assert fixed_rates({"pcie": 2e9})(Task("t", "pcie", Transfer("a", "b", 3))) == 1500


def test_examples():
    assert doctest.testmod(neardata.sim.task_schedule).failed == 0
