"""Experts over devices and memories."""

import doctest
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import neardata.mappers.expert_placement
from neardata.arch.errors import InputError
from neardata.mappers.expert_placement import balanced, hottest


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=7), st.integers(1, 4))
def test_no_other_ranges_are_better_balanced(load, devices):
    ranges = balanced(load, devices)
    assert len(ranges) == devices and ranges[0][0] == 0 and ranges[-1][1] == len(load)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges)) and all(a <= b for a, b in ranges)
    busiest = max(sum(load[a:b]) for a, b in ranges)
    ways = itertools.combinations_with_replacement(range(len(load) + 1), devices - 1)
    edges = ([0, *way, len(load)] for way in ways)
    assert busiest == min(max(sum(load[a:b]) for a, b in itertools.pairwise(way)) for way in edges)
    assert busiest <= sum(load) / devices + max(load)


@given(st.integers(1, 40), st.integers(1, 9))
def test_equal_loads_give_no_device_more_than_its_share(experts, devices):
    assert max(b - a for a, b in balanced([1.0] * experts, devices)) == -(-experts // devices)


def test_impossible_requests_say_why():
    with pytest.raises(InputError, match="at least one expert and one device are needed, got 3 and 0"):
        balanced([1, 1, 1], 0)
    with pytest.raises(InputError, match="load: a load is a number of at least 0"):
        balanced([1, float("nan")], 2)


def test_more_room_than_experts():
    assert hottest({(0, 0): 1.0}, 5) == ((0, 0),)
    assert hottest({}, 5) == ()


def test_examples():
    result = doctest.testmod(neardata.mappers.expert_placement)
    assert result.attempted and not result.failed
