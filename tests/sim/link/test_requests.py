"""Blocking requests: the formula, piece after piece, and the measured transfers of a SmartSSD."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neardata.arch.errors import InputError
from neardata.arch.link import load_link
from neardata.arch.processor import load_processor
from neardata.sim.link import transfer_ps
from neardata.sim.link.requests import blocking_request_ps

READ, WRITE = load_link("smartssd-p2p-read"), load_link("smartssd-p2p-write")
NS = {name: cost.value for name, cost in load_processor("smartssd-worker").actions.items()}
MIB = 1 << 20


def rate(way: str, size: int) -> float:
    link = READ if way == "read" else WRITE
    return size / blocking_request_ps(link, size, NS[f"{way}_request"], NS["page"], 4096, MIB) * 1e3


@given(
    st.integers(1, 20), st.integers(1, 4096), st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 64)
)
def test_equal_pieces_take_what_the_formula_says(
    pieces: int, pages: int, request: int, page: int, page_bytes: int
) -> None:
    piece = pages * page_bytes
    ready, move = pages * page * 1000, transfer_ps(READ, piece)
    expected = request * 1000 + ready + (pieces - 1) * max(ready, move) + move
    assert blocking_request_ps(READ, pieces * piece, request, page, page_bytes, piece) == expected


@given(st.integers(1, 3 * MIB), st.integers(1, 3 * MIB))
def test_more_bytes_take_no_less(one: int, other: int) -> None:
    few, many = (
        blocking_request_ps(READ, size, NS["read_request"], NS["page"], 4096, MIB)
        for size in sorted((one, other))
    )
    assert few <= many


@pytest.mark.parametrize(
    ("way", "kib", "measured"),
    [
        ("read", 16, 0.31), ("read", 1024, 1.59), ("read", 131072, 2.36),
        ("write", 4, 0.16), ("write", 131072, 1.04),
    ],
)  # fmt: skip
def test_what_was_calibrated_is_met(way: str, kib: int, measured: float) -> None:
    assert rate(way, kib * 1024) == pytest.approx(measured, rel=0.005)


@pytest.mark.parametrize(("way", "kib", "measured"), [("read", 128, 1.21), ("write", 128, 0.82)])
def test_what_was_not_is_within_a_tenth(way: str, kib: int, measured: float) -> None:
    assert rate(way, kib * 1024) == pytest.approx(measured, rel=0.1)


def test_the_log_takes_longer_for_4_kib_than_for_16_which_no_time_that_grows_can_follow() -> None:
    assert 4096 / 0.055 > 16384 / 0.305  # the least and the most that rounding allows
    assert rate("read", 4096) > 1.5 * 0.05


def test_nothing_is_no_request() -> None:
    with pytest.raises(InputError):
        blocking_request_ps(READ, 0, 1, 1, 4096, MIB)
