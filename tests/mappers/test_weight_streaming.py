"""Weights that pass through the device: all of them, in order, never more layers than buffers."""

import doctest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import neardata.mappers.weight_streaming
from neardata.arch.errors import InputError
from neardata.arch.system import parse_system
from neardata.mappers.moe_block import Machine
from neardata.mappers.weight_streaming import overlapped_capacity, stream_weights
from neardata.sim.program import Pause, Transfer
from neardata.sim.system.engine import run

MACHINE = Machine("a40", host="cpu")
SYSTEM = parse_system({
    "name": "a40", "source": "test",
    "units": {
        "gpu": {"kind": "processor", "processor": "a100-40gb"},
        "cpu": {"kind": "processor", "processor": "xeon-8380"},
    },
    "links": {"pcie": {"link": "pcie-4", "between": ["gpu", "cpu"], "overrides": {
        "gb_per_s": 1000, "latency_ns.value": 0, "startup_ns.value": 0, "fraction.value": 1,
        "overhead_bytes": 0, "sharing": "exclusive",
    }}},
})  # fmt: skip
"""A byte a picosecond."""
layers_of = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40).map(Pause)), min_size=1, max_size=6)


@settings(max_examples=50, deadline=None)
@given(layers_of, st.integers(1, 4), st.one_of(st.none(), st.integers(1, 15)))
def test_every_byte_once_and_no_more_layers_than_buffers(layers, buffers, packet):
    program = stream_weights(layers, MACHINE, buffers=buffers, packet_bytes=packet)
    plan = run(program, SYSTEM).schedule
    names = [task.name for task in program.tasks]
    start, end = dict(zip(names, plan.start, strict=True)), dict(zip(names, plan.end, strict=True))
    moved = [task for task in program.tasks if isinstance(task.kernel, Transfer)]
    assert all(packet is None or task.kernel.bytes <= packet for task in moved)
    begun = {}
    for i, (size, _) in enumerate(layers):
        own = [task for task in moved if task.operators == (f"l{i}",)]
        assert sum(task.kernel.bytes for task in own) == size
        assert max(end[task.name] for task in own) <= start[f"l{i}"]
        begun[i] = min(start[task.name] for task in own)
    for i in begun:
        held = [j for j in begun if begun[j] <= begun[i] < end[f"l{j}"]]
        assert len(held) <= buffers


@given(layers_of)
def test_with_two_buffers_the_longer_of_both_sides_bounds_the_pass(layers):
    time = run(stream_weights(layers, MACHINE), SYSTEM).time_ps
    bytes_, computing = sum(size for size, _ in layers), sum(kernel.time_ps for _, kernel in layers)
    assert max(bytes_, computing) <= time <= bytes_ + computing


def test_one_buffer_hides_nothing():
    layers = [(10, Pause(7))] * 4
    assert run(stream_weights(layers, MACHINE, buffers=1), SYSTEM).time_ps == 68
    assert run(stream_weights(layers, MACHINE, buffers=2), SYSTEM).time_ps == 47


def test_buffers_beyond_the_memory_of_the_device_are_refused():
    layers = [(15 * 10**9, Pause(1))] * 3
    run(stream_weights(layers, MACHINE, buffers=2), SYSTEM)
    with pytest.raises(InputError, match="placed in 'gpu', which holds 40,000,000,000"):
        run(stream_weights(layers, MACHINE, buffers=3), SYSTEM)


def test_impossible_requests_say_why():
    with pytest.raises(InputError, match="buffers: at least one layer must fit, got 0"):
        stream_weights([], MACHINE, buffers=0)
    with pytest.raises(InputError, match="packet_bytes: a packet has at least one byte, got 0"):
        stream_weights([(1, Pause(1))], MACHINE, packet_bytes=0)


def test_overlapping_sequences_gain_at_most_twice():
    assert overlapped_capacity(100, 0) == 1
    assert overlapped_capacity(0, 100) == 2


def test_examples():
    result = doctest.testmod(neardata.mappers.weight_streaming)
    assert result.attempted and not result.failed
