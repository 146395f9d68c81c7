"""Experts over devices and memories."""

import doctest
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import neardata.mappers.expert_placement
from neardata.arch.errors import InputError
from neardata.mappers.expert_placement import hottest, place, place_layers, split_hot_cold


def busiest(chosen, load, devices):
    return max(sum(v for d, v in zip(chosen, load, strict=True) if d == device) for device in range(devices))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=7), st.integers(1, 3))
def test_the_busiest_device_is_within_the_bound_of_the_best(load, devices):
    chosen = place(len(load), devices, load)
    assert all(0 <= device < devices for device in chosen)
    best = min(busiest(way, load, devices) for way in itertools.product(range(devices), repeat=len(load)))
    assert 3 * devices * busiest(chosen, load, devices) <= (4 * devices - 1) * best


@given(st.integers(1, 40), st.integers(1, 9))
def test_round_robin_and_equal_loads_give_equal_counts(experts, devices):
    for chosen in (place(experts, devices), place(experts, devices, [1.0] * experts)):
        counts = [chosen.count(device) for device in range(devices)]
        assert max(counts) - min(counts) <= 1


def test_layers_are_balanced_by_their_own_load():
    assert place_layers(2, 3, 2, [[5, 1, 1], [1, 1, 5]]) == ((0, 1, 1), (1, 1, 0))
    spread = place_layers(4, 3, 2)
    assert [sum(layer.count(d) for layer in spread) for d in (0, 1)] == [6, 6]


def test_impossible_requests_say_why():
    with pytest.raises(InputError, match="at least one expert and one device are needed, got 3 and 0"):
        place(3, 0)
    with pytest.raises(InputError, match="load: 3 experts, but 2 loads"):
        place(3, 2, [1, 2])
    with pytest.raises(InputError, match="load: a load is a number of at least 0"):
        place(2, 2, [1, float("nan")])
    with pytest.raises(InputError, match="load: 2 layers, but loads of 1"):
        place_layers(2, 3, 2, [[1, 1, 1]])


@given(st.lists(st.integers(0, 9), max_size=9), st.integers(0, 9))
def test_hot_and_cold_are_the_active_experts(tokens, threshold):
    hot, cold = split_hot_cold(tokens, threshold)
    assert sorted(hot + cold) == [e for e, count in enumerate(tokens) if count]
    assert all(tokens[e] >= threshold for e in hot) and all(tokens[e] < threshold for e in cold)


def test_more_room_than_experts():
    assert hottest({(0, 0): 1.0}, 5) == ((0, 0),)
    assert hottest({}, 5) == ()


def test_examples():
    result = doctest.testmod(neardata.mappers.expert_placement)
    assert result.attempted and not result.failed
