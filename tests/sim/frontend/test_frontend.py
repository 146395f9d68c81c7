"""Requests through stages, batcher and executors: the twin by ticks, PREBA's rules one by one, bad input."""

import doctest
import importlib
import pkgutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import neardata.sim.frontend
from naive.frontend import serve_batches as naive
from neardata.arch.errors import InputError
from neardata.sim.frontend import Batching, Request, Stage, saturated, serve_batches

MODULES = [name for _, name, _ in pkgutil.iter_modules(neardata.sim.frontend.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(f"neardata.sim.frontend.{name}")
    assert doctest.testmod(module).failed == 0


def execute(count, longest):
    return 3 + count + 2 * longest


stages = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 9), st.integers(0, 3), st.integers(0, 9)), max_size=3
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), min_size=1, max_size=30),
    stages,
    st.lists(st.integers(1, 6), min_size=12, max_size=12),
    st.integers(0, 15),
    st.one_of(st.none(), st.integers(1, 5)),
    st.booleans(),
    st.integers(1, 3),
)
def test_the_twin_by_ticks_serves_alike(stream, given_stages, fulls, wait, width, merge, executors):
    fulls = sorted(fulls, reverse=True)

    def timed(base, slope, interval):
        return (lambda length: base + slope * length), (lambda length: interval + length)

    twins = [(servers, *timed(base, slope, every)) for servers, base, slope, every in given_stages]
    expected, batches = naive(stream, twins, lambda b: fulls[b], wait, width, merge, executors, execute)
    report = serve_batches(
        [Request(*r) for r in stream],
        [Stage(f"s{i}", servers, service, every) for i, (servers, service, every) in enumerate(twins)],
        Batching(lambda b: fulls[b], wait, width, merge),
        executors,
        execute,
    )
    assert {
        r.index: (r.entered_ps, r.prepared_ps, r.begun_ps, r.done_ps) for r in report.requests
    } == expected
    assert [(b.executor, b.begun_ps, b.done_ps, b.requests) for b in report.batches] == batches


def batches_of(stream, most, wait=0, width=None, merge=True, executors=1, execute=lambda n, longest: 100):
    report = serve_batches(
        [Request(*r) for r in stream], [], Batching(most, wait, width, merge), executors, execute
    )
    return [(b.begun_ps, b.requests) for b in report.batches]


def test_a_full_batch_begins_at_once_and_others_wait_their_time():
    stream = [(0, 1), (5, 1), (6, 1)]
    assert batches_of(stream, lambda b: 2, wait=50, executors=2) == [(5, (0, 1)), (56, (2,))]


def test_a_batch_fills_up_while_no_executor_is_free():
    stream = [(0, 1), (10, 1), (20, 1), (30, 1)]
    assert batches_of(stream, lambda b: 8) == [(0, (0,)), (100, (1, 2, 3))]


def test_neighbours_join_a_batch_that_is_not_full_the_shorter_first():
    stream = [(0, 15), (1, 5), (1, 25), (1, 35)]
    assert batches_of(stream, lambda b: 3, wait=10, width=10) == [(10, (0, 1, 2)), (110, (3,))]
    assert batches_of(stream, lambda b: 3, wait=10, width=10, merge=False)[0] == (10, (0,))


def test_the_longest_member_limits_a_batch():
    stream = [(0, 5), (0, 5), (0, 25)]
    # with the long one a batch may hold two; the two short ones are that many already
    assert batches_of(stream, lambda b: 4 if b == 0 else 2, wait=10, width=10) == [(10, (0, 1)), (110, (2,))]


def test_one_bucket_pads_all_to_the_longest():
    stream = [(0, 1), (0, 9)]
    report = serve_batches(
        [Request(*r) for r in stream], [], Batching(lambda b: 2, 5), 1, lambda n, longest: 10 * longest
    )
    assert report.requests[0].done_ps == 90
    assert report.padding == pytest.approx(1 - 10 / 18)


def test_a_pipelined_unit_takes_the_next_before_it_gives_on():
    unit = Stage("unit", 1, lambda length: 10, lambda length: 4)
    report = serve_batches([Request(0)] * 3, [unit], Batching(lambda b: 1, 0), 3, lambda n, longest: 1)
    assert [r.prepared_ps for r in report.requests] == [10, 14, 18]
    assert report.stages["unit"] == (1, 12)


def test_a_short_request_does_not_overtake_the_long_one_before_it_in_a_unit():
    unit = Stage("unit", 1, lambda length: 10 * length, lambda length: 6 * length)
    report = serve_batches(
        [Request(0, 10), Request(0, 1), Request(0, 1)], [unit], Batching(lambda b: 1, 0), 3, lambda n, m: 1
    )
    assert [r.entered_ps for r in report.requests] == [(0,), (60,), (66,)]
    assert [r.prepared_ps for r in report.requests] == [100, 100, 100]


def test_parts_of_a_request_add_up():
    core = Stage("core", 1, lambda length: 10)
    report = serve_batches(
        [Request(0), Request(0)], [core], Batching(lambda b: 1, 0), 1, lambda n, longest: 30
    )
    second = report.requests[1]
    parts = report.parts_ps(second, (10,))
    assert parts == {"queue": 10, "prepare": 10, "batch": 20, "execute": 30}
    assert sum(parts.values()) == second.latency_ps


def test_what_is_sustained_is_what_the_slowest_stage_takes():
    core = Stage("cores", 4, lambda length: 10**9)
    report = serve_batches(
        [Request(0)] * 2000, [core], Batching(lambda b: 8, 10**6), 7, lambda n, longest: 10**8
    )
    assert saturated(report) == pytest.approx(4000, rel=0.01)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"requests": []}, "no requests"),
        ({"executors": 0}, "executors: must be at least 1, got 0"),
        ({"stages": [Stage("core", 0, lambda length: 1)]}, "core: at least 1 server, got 0"),
        ({"stages": [Stage("core", 1, lambda length: -1)]}, "core: -1 ps of service"),
        ({"requests": [Request(-1)]}, "arrives at -1"),
        ({"requests": [Request(0, 0)]}, "length 0"),
        ({"execute_ps": lambda n, longest: 0}, "a batch takes 0 ps"),
        ({"batching": Batching(lambda b: 0, 0)}, "at least 1 request, got 0"),
    ],
)
def test_bad_input_is_told(change, what):
    good = {
        "requests": [Request(0)], "stages": [], "batching": Batching(lambda b: 1, 0), "executors": 1,
        "execute_ps": lambda n, longest: 1,
    }  # fmt: skip
    with pytest.raises(InputError, match=what):
        serve_batches(**(good | change))


def test_rules_that_cannot_be_are_told():
    with pytest.raises(InputError, match="wait_ps"):
        Batching(lambda b: 1, -1)
    with pytest.raises(InputError, match="width"):
        Batching(lambda b: 1, 0, 0)
    few = serve_batches([Request(0)], [], Batching(lambda b: 1, 0), 1, lambda n, longest: 1)
    with pytest.raises(InputError, match="too few"):
        saturated(few)
