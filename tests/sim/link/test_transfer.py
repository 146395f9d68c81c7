"""Transfers and collectives."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neardata.arch.errors import InputError
from neardata.arch.link import link_names, load_link
from neardata.sim.link import (
    all_gather,
    all_reduce,
    send_recv,
    transfer,
    transfer_pj,
    transfer_ps,
    wire_bytes,
)

LINKS = {name: load_link(name) for name in link_names()}
NVLINK = LINKS["nvlink-3"]


def test_examples() -> None:
    assert doctest.testmod(transfer, optionflags=doctest.ELLIPSIS).failed == 0


def test_a_transfer_is_begin_and_wire() -> None:
    link = load_link(
        "pcie-4",
        {"gb_per_s": 32, "latency_ns.value": 500, "startup_ns.value": 1500, "fraction.value": 0.5},
    )
    # 4 packets of 256 bytes and 26 of overhead, at 16 GB/s
    assert wire_bytes(link, 1024) == 4 * 282
    assert transfer_ps(link, 1024) == 2_000_000 + 4 * 282 * 1000 // 16


@given(st.sampled_from(sorted(LINKS)), st.integers(0, 1 << 32), st.integers(0, 1 << 20))
def test_more_bytes_never_take_less(name: str, bytes: int, more: int) -> None:
    assert transfer_ps(LINKS[name], bytes) <= transfer_ps(LINKS[name], bytes + more)


@given(st.sampled_from(sorted(LINKS)), st.integers(1, 1 << 40))
def test_no_transfer_beats_the_rate(name: str, bytes: int) -> None:
    link = LINKS[name]
    assert transfer_ps(link, bytes) >= int(bytes * 1000 / link.gb_per_s)


def test_flows_share_the_rate_but_not_the_latency() -> None:
    link = LINKS["pcie-4"]
    one, four = transfer_ps(link, 1 << 20), transfer_ps(link, 1 << 20, flows=4)
    begin = round((link.startup_ns.value + link.latency_ns.value) * 1000)
    assert four - begin == pytest.approx(4 * (one - begin), abs=4)


def test_energy_counts_packet_overhead() -> None:
    link = LINKS["pcie-4"]
    assert transfer_pj(link, 256) == 282 * 8 * link.pj_per_bit.value


@given(st.integers(2, 64), st.integers(1, 1 << 30))
def test_an_all_reduce_is_no_faster_than_its_two_halves_of_a_ring_allow(ranks: int, bytes: int) -> None:
    least = 2 * (ranks - 1) / ranks * bytes * 1000 / NVLINK.gb_per_s
    assert all_reduce(NVLINK, ranks, bytes) >= int(least)
    assert all_gather(NVLINK, ranks, bytes) >= int(least / 2)


def test_one_rank_and_no_bytes_take_no_time() -> None:
    assert all_reduce(NVLINK, 1, 1 << 20) == all_gather(NVLINK, 1, 1 << 20) == 0
    assert all_reduce(NVLINK, 8, 0) == send_recv(NVLINK, 0) == 0


def test_a_tree_wins_where_steps_are_what_takes_time() -> None:
    collective = NVLINK.collective
    assert collective is not None
    # 64 ranks: 12 steps up and down a tree of the short protocol, not the ring's 126
    tree_ns = collective.startup_ns.value + 12 * collective.short_step_ns.value
    assert all_reduce(NVLINK, 64, 256) / 1000 == pytest.approx(tree_ns, rel=0.01)


def test_input_that_cannot_be() -> None:
    with pytest.raises(InputError, match="bytes must not be negative"):
        transfer_ps(NVLINK, -1)
    with pytest.raises(InputError, match="flows must be at least 1"):
        transfer_ps(NVLINK, 1, flows=0)
    with pytest.raises(InputError, match="ranks must be at least 1"):
        all_reduce(NVLINK, 0, 1)
    with pytest.raises(InputError, match="pcie-4 has no collectives"):
        all_reduce(LINKS["pcie-4"], 2, 1)
