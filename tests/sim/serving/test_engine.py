"""Requests through replicas: the obvious twin, vLLM's rules one by one, bad input."""

import doctest
import importlib
import pkgutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import neardata.sim.serving
from naive.serving import serve as naive_serve
from neardata.arch.errors import InputError
from neardata.sim.serving import (
    Arrival,
    ByPhase,
    Distribution,
    FirstCome,
    Instance,
    LeastLoaded,
    Limits,
    Moving,
    RoundRobin,
    Split,
    Turns,
    serve,
)

MS = 10**9


def ms(batches):
    return MS


def cost(new, contexts):
    return 1000 + 7 * sum(new) + sum(contexts) // 3


def costs(batches):
    return cost(batches[0].new_tokens, batches[0].contexts)


requests = st.lists(
    st.tuples(st.integers(0, 4000), st.integers(1, 60), st.integers(1, 20)), min_size=1, max_size=25
)


@settings(max_examples=150, deadline=None)
@given(requests, st.integers(1, 3), st.booleans(), st.integers(1, 6), st.integers(0, 40), st.integers(20, 60))
def test_the_obvious_twin_serves_alike(stream, replicas, ahead, sequences, spare, blocks):
    limits = Limits(tokens=sequences + spare, sequences=sequences, blocks=blocks, block_tokens=4)
    expected, steps = naive_serve(stream, cost, limits, replicas, ahead=ahead)
    instances = [Instance(costs, limits, ahead=ahead) for _ in range(replicas)]
    report = serve([Arrival(*request) for request in stream], instances, RoundRobin())
    assert {
        r.index: (r.scheduled_ps, r.first_ps, r.last_ps, r.preemptions) for r in report.requests
    } == expected
    ours = sorted((s.replica, s.start_ps, s.end_ps, s.sequences, s.tokens) for s in report.steps)
    assert ours == sorted(steps)


def test_the_twin_meets_preemption_in_both_ways_of_planning():
    stream = [(0, 30, 20)] * 6
    limits = Limits(tokens=64, sequences=6, blocks=30, block_tokens=4)
    for ahead in (False, True):
        served, _ = naive_serve(stream, cost, limits, 1, ahead=ahead)
        assert sum(preempted for *_, preempted in served.values()) > 0
        report = serve([Arrival(*r) for r in stream], [Instance(costs, limits, ahead=ahead)])
        assert report.preemptions == sum(preempted for *_, preempted in served.values())


def batches_of(stream, limits=None, scheduler=FirstCome, **options):
    """What each step of one replica holds."""
    seen = []

    def step(batches):
        seen.append((batches[0].new_tokens, batches[0].contexts))
        return MS

    instance = Instance(step, limits or Limits(), scheduler=scheduler, **options)
    return serve([Arrival(*r) for r in stream], [instance]), seen


def test_decodes_come_first_and_a_chunk_of_the_next_prompt_fills_the_budget():
    _, seen = batches_of([(0, 4, 5), (1, 25, 1)], Limits(tokens=10, sequences=4))
    assert seen[:4] == [((4,), (4,)), ((1, 9), (5, 9)), ((1, 9), (6, 18)), ((1, 7), (7, 25))]


def test_a_prompt_in_chunks_makes_its_token_with_the_last():
    report, seen = batches_of([(0, 25, 2)], Limits(tokens=10, sequences=4))
    assert [new for new, _ in seen] == [(10,), (10,), (5,), (1,)]
    assert report.requests[0].first_ps == 3 * MS and report.requests[0].last_ps == 4 * MS


def test_no_more_sequences_run_than_may():
    report, seen = batches_of([(0, 1, 3)] * 5, Limits(sequences=2))
    assert max(len(new) for new, _ in seen) == 2
    assert [r.scheduled_ps // MS for r in report.requests] == [0, 0, 3, 3, 6]


def test_planned_ahead_an_ended_sequence_keeps_its_place_for_a_step():
    report, _ = batches_of([(0, 1, 3)] * 3, Limits(sequences=2), ahead=True)
    assert [r.first_ps // MS for r in report.requests] == [1, 1, 4]
    late, _ = batches_of([(0, 1, 9), (MS // 2, 1, 1)], ahead=True)
    assert late.requests[1].first_ps == 3 * MS
    seen_at_once, _ = batches_of([(0, 1, 9), (MS // 2, 1, 1)])
    assert seen_at_once.requests[1].first_ps == 2 * MS


def test_out_of_blocks_the_last_admitted_is_computed_anew():
    limits = Limits(tokens=100, sequences=4, blocks=5, block_tokens=4)
    report, seen = batches_of([(0, 8, 8), (0, 8, 4)], limits)
    assert [r.preemptions for r in report.requests] == [0, 1]
    # both prompts, a step of both that fits no longer: 8 + 1 tokens take three blocks each
    assert seen[:2] == [((8, 8), (8, 8)), ((1,), (9,))]
    assert ((9,), (9,)) in seen, "its prompt and the token it had made, read again at once"


def test_a_sequence_takes_blocks_for_its_whole_prompt():
    limits = Limits(tokens=8, sequences=4, blocks=5, block_tokens=4)
    _, seen = batches_of([(0, 8, 4), (0, 12, 1)], limits)
    assert seen[1] == ((1,), (9,))
    _, eager = batches_of(
        [(0, 8, 4), (0, 12, 1)], limits, scheduler=lambda given: FirstCome(given, whole_prompt=False)
    )
    assert eager[1] == ((1, 7), (9, 7))


def test_ranks_of_an_instance_step_together_and_the_idle_one_has_an_empty_batch():
    seen = []

    def step(batches):
        seen.append([len(batch.new_tokens) for batch in batches])
        return MS

    report = serve([Arrival(0, 5, 4), Arrival(0, 5, 2)], [Instance(step, ranks=2)], LeastLoaded())
    assert seen == [[1, 1], [1, 1], [1, 0], [1, 0]]
    assert {r.replica for r in report.requests} == {0, 1}


def test_waiting_requests_weigh_four_times_as_much():
    limits = Limits(sequences=1)
    stream = [Arrival(0, 1, 9)] * 2 + [Arrival(MS // 2, 1, 9)] * 2
    report = serve(stream, [Instance(ms, limits), Instance(ms, limits)], LeastLoaded())
    assert [r.replica for r in report.requests] == [0, 1, 0, 1]


def test_prompts_here_tokens_there():
    moving = Moving(lambda tokens: tokens * MS)
    report = serve([Arrival(0, 5, 4)], [Instance(ms), Instance(ms)], Split(1), moving)
    (request,) = report.requests
    assert (request.first_ps, request.last_ps) == (MS, MS + 5 * MS + 3 * MS)
    assert (request.replica, request.moves, request.moving_ps) == (1, 1, 5 * MS)
    assert [(s.replica, s.tokens) for s in report.steps] == [(0, 5), (1, 1), (1, 1), (1, 1)]


def test_what_layers_send_during_the_step_is_not_waited_for():
    layered = Moving(lambda tokens: tokens * MS // 10, layers=10)
    report = serve([Arrival(0, 5, 2)], [Instance(ms), Instance(ms)], Split(1), layered)
    assert report.requests[0].moving_ps == MS // 10


def test_a_link_takes_one_transfer_after_the_other():
    moving = Moving(lambda tokens: tokens * MS)
    report = serve([Arrival(0, 5, 2)] * 2, [Instance(ms), Instance(ms)], Split(1), moving)
    assert sorted(r.moving_ps // MS for r in report.requests) == [5, 10]


def test_one_that_makes_a_single_token_does_not_move():
    report = serve([Arrival(0, 5, 1)], [Instance(ms), Instance(ms)], Split(1))
    assert report.requests[0].moves == 0


def test_turns_end_after_their_quantum():
    def turns(limits):
        return Turns(limits, quantum=2)

    _, seen = batches_of([(0, 3, 4), (0, 5, 4)], Limits(sequences=1), scheduler=turns)
    assert [c for _, (c,) in seen] == [3, 4, 5, 6, 5, 6, 7, 8]


def test_what_has_no_room_in_its_turn_is_swapped_and_back():
    swapped = []

    def step(batches):
        swapped.append(batches[0].swapped_tokens)
        return MS

    limits = Limits(sequences=1, blocks=4, block_tokens=4)
    stream = [Arrival(0, 9, 4), Arrival(0, 9, 2)]
    report = serve(stream, [Instance(step, limits, scheduler=lambda given: Turns(given, quantum=2))])
    # the first's 10 tokens go out for the second, and come back
    assert swapped == [0, 0, 10, 0, 10, 0]
    assert [r.preemptions for r in report.requests] == [1, 0]


def test_the_first_phase_goes_first():
    stream = [Arrival(0, 1, 10), Arrival(MS // 2, 1, 6, hidden_tokens=5)]

    def run(**options):
        scheduler = lambda given: Turns(given, **options)  # noqa: E731
        return serve(stream, [Instance(ms, Limits(sequences=1), scheduler=scheduler)])

    def ends(**options):
        return [(r.first_ps // MS, r.shown_ps // MS, r.last_ps // MS) for r in run(**options).requests]

    assert ends(phases=False) == [(1, 1, 10), (11, 16, 16)]
    assert ends(phases=True) == [(1, 1, 15), (2, 16, 16)]
    assert ends(phases=True, demote_tokens=1) == [(1, 1, 11), (2, 16, 16)]


def test_after_its_first_phase_a_sequence_goes_where_fewest_are_in_theirs():
    def moves(*stream):
        report = serve(stream, [Instance(ms), Instance(ms)], ByPhase(), Moving(lambda tokens: MS))
        return [(r.moves, r.replica) for r in report.requests]

    # by the tokens kept, the third goes to the first's replica, or to the second's
    assert moves(Arrival(0, 9, 8, 3), Arrival(0, 20, 2), Arrival(1, 1, 30, 29)) == [(1, 1), (0, 1), (0, 0)]
    first, *_ = moves(Arrival(0, 9, 8, 3), Arrival(0, 1, 30, 29), Arrival(1, 1, 30, 29))
    assert first == (0, 0)


def test_a_move_to_a_full_replica_is_given_up():
    limits = Limits(blocks=10, block_tokens=4, sequences=4, tokens=64)
    stream = [Arrival(0, 4, 8, 3), Arrival(0, 36, 3), Arrival(MS // 2, 4, 20, 19)]
    moved = {
        adaptive: serve(stream, [Instance(ms, limits)] * 2, ByPhase(adaptive=adaptive)).requests[0].moves
        for adaptive in (True, False)
    }
    assert moved == {True: 0, False: 1}


def test_conservation_and_the_timeline():
    report, _ = batches_of([(i * MS, 10 + i, 5) for i in range(20)])
    assert sum(s.tokens for s in report.steps) == sum(r.prompt_tokens + 4 for r in report.requests)
    assert sum(s.made for s in report.steps) == 5 * 20
    lines = report.timeline(7)
    inside = sum((s.end_ps - s.start_ps) for s in report.steps)
    edges = [*(start for start, *_ in lines), report.time_ps]
    busy = sum(part * (edges[i + 1] - edges[i]) for i, (_, part, _) in enumerate(lines))
    assert busy == pytest.approx(inside)
    sequences = sum(b * part * (edges[i + 1] - edges[i]) for i, (_, part, b) in enumerate(lines))
    assert sequences / busy == pytest.approx(report.mean_batch(0))
    assert report.busy(0) == pytest.approx(inside / report.time_ps)


def test_distribution():
    assert Distribution.of(range(101)) == Distribution(101, 50.0, 50.0, 90.0, 99.0)


BAD = [
    (lambda: serve([], [Instance(ms)]), "requests: there are no requests"),
    (lambda: serve([Arrival(0, 1, 1)], []), "instances: there must be an instance"),
    (lambda: serve([Arrival(-1, 1, 1)], [Instance(ms)]), "requests[0]: arrives at a negative time"),
    (lambda: serve([Arrival(0, 0, 1)], [Instance(ms)]), "requests[0]: needs a prompt"),
    (lambda: serve([Arrival(0, 1, 2, 2)], [Instance(ms)]), "requests[0]: 2 of 2 tokens hidden"),
    (lambda: serve([Arrival(0, 1, 1)], [Instance(lambda b: 0)]), "step_ps: a step takes 0 ps"),
    (lambda: serve([Arrival(0, 64, 2)], [Instance(ms, Limits(blocks=4))]), "requests[0]: 65 tokens take 5"),
    (lambda: serve([Arrival(0, 1, 1)], [Instance(ms, ahead=True)] * 2, Split(1)), "ahead: a sequence cannot"),
    (lambda: Limits(tokens=1, sequences=2), "tokens: 1 tokens a step"),
    (lambda: Limits(blocks=0), "blocks: must be at least 1"),
    (lambda: Turns(Limits(), quantum=0), "quantum: must be at least 1"),
    (lambda: Split(0), "prompts: at least one"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message.partition(":")[0] for _, message in BAD])
def test_bad_input_is_told_in_a_line(call, message):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", [m.name for m in pkgutil.iter_modules(neardata.sim.serving.__path__)])
def test_examples(name):
    assert doctest.testmod(importlib.import_module(f"neardata.sim.serving.{name}")).failed == 0
