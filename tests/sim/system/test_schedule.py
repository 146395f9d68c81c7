"""The event schedule against its twin, and what it promises."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from naive.schedule import schedule as naive
from neardata.sim.system.schedule import DEPENDENCY, RESOURCE, Job, schedule

RESOURCES = ("a", "b", "c", "d")


@st.composite
def job_lists(draw: st.DrawFn) -> tuple[list[Job], list[int]]:
    n = draw(st.integers(1, 14))
    jobs, times = [], []
    for i in range(n):
        after = tuple(sorted(draw(st.sets(st.integers(0, i - 1), max_size=3)))) if i else ()
        flow = draw(st.booleans())
        held = draw(st.lists(st.sampled_from(RESOURCES), min_size=2 if flow else 1, max_size=2, unique=True))
        jobs.append(Job(after, tuple(held), flow))
        times.append(draw(st.integers(1, 20)))
    return jobs, times


@settings(max_examples=150, deadline=None)
@given(job_lists())
def test_equals_the_twin(case: tuple[list[Job], list[int]]) -> None:
    jobs, times = case
    plan = schedule(jobs, lambda job, start: times[job])
    assert (plan.start, plan.end) == naive(jobs, times)


@settings(max_examples=60, deadline=None)
@given(job_lists())
def test_the_critical_path_has_no_gap(case: tuple[list[Job], list[int]]) -> None:
    jobs, times = case
    plan = schedule(jobs, lambda job, start: times[job])
    path = plan.critical_path()
    assert plan.start[path[0]] == 0
    assert plan.end[path[-1]] == plan.time_ps
    for before, job in itertools.pairwise(path):
        assert plan.end[before] == plan.start[job]


def test_a_unit_does_one_thing_at_a_time_in_the_order_of_the_list() -> None:
    # job 4 is ready at 5, before job 3; both wait until 10, and the one listed first goes first
    jobs = [Job((), ("b",)), Job((), ("c",)), Job((), ("d",)), Job((1,), ("b",)), Job((2,), ("b",))]
    plan = schedule(jobs, lambda job, start: [10, 7, 5, 3, 3][job])
    assert plan.start == [0, 0, 0, 10, 13]
    assert plan.reason[3:] == [RESOURCE, RESOURCE]


def test_flows_share_a_port_and_speed_up_when_one_ends() -> None:
    out, into = "link out of a", "link into "
    jobs = [Job((), (out, into + "b"), True), Job((), (out, into + "c"), True)]
    plan = schedule(jobs, lambda job, start: [10, 30][job])
    assert plan.end == [20, 40]


def test_flows_on_different_ports_do_not_disturb_each_other() -> None:
    jobs = [Job((), ("x", "y"), True), Job((), ("z", "w"), True)]
    assert schedule(jobs, lambda job, start: 10).end == [10, 10]


def test_a_collective_waits_for_all_its_ports_and_is_not_overtaken() -> None:
    jobs = [Job((), ("a",)), Job((), ("a", "b")), Job((), ("b",))]
    plan = schedule(jobs, lambda job, start: 10)
    assert plan.start == [0, 10, 20]


def test_reasons_name_what_was_waited_for() -> None:
    jobs = [Job((), ("a",)), Job((0,), ("b",)), Job((), ("b",))]
    plan = schedule(jobs, lambda job, start: [10, 5, 3][job])
    assert plan.start == [0, 10, 0]
    assert (plan.reason[1], plan.held_by[1]) == (DEPENDENCY, 0)
