"""Operators of recommendation preprocessing: published vectors, plain Python, and the corners."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naive import recsys as naive
from neardata.arch.errors import InputError
from neardata.workloads.recsys import fast
from neardata.workloads.recsys import operators as exact

DATA = Path(__file__).parents[1] / "data/recsys"
INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT32 = st.floats(width=32)


def rows(name: str) -> list[dict[str, str]]:
    with (DATA / name).open() as file:
        return list(csv.DictReader(file))


def test_sigrid_hash_gives_the_recorded_vectors() -> None:
    found = rows("sigrid_hash.csv")
    assert len(found) > 150
    for row in found:
        x, salt, maximum, want = (int(row[key]) for key in ("id", "salt", "max", "hash"))
        ids = np.array([x])
        assert exact.sigrid_hash(ids, salt, maximum).tolist() == [want], row
        assert exact.sigrid_hash(ids, salt, maximum, division_free=True).tolist() == [want], row
        assert fast.sigrid_hash(ids, salt, maximum).tolist() == [want], row


@given(st.lists(INT64, max_size=40), INT64, st.integers(0, 62), INT64)
@settings(max_examples=100, deadline=None)
def test_every_form_of_sigrid_hash_is_the_plain_one(ids: list[int], salt: int, bits: int, drawn: int) -> None:
    maximum = max(1, abs(drawn) >> bits) if drawn > -(2**63) else 2**63 - 1
    x = np.array(ids, dtype=np.int64)
    want = [naive.sigrid_hash(i, salt, maximum) for i in ids]
    assert exact.sigrid_hash(x, salt, maximum).tolist() == want
    assert exact.sigrid_hash(x, salt, maximum, division_free=True).tolist() == want
    assert fast.sigrid_hash(x, salt, maximum).tolist() == want


@pytest.mark.parametrize("maximum", [1, 2, 3, 2**31, 2**32 + 1, 2**62 - 1, 2**62, 2**62 + 1, 2**63 - 1])
def test_hashes_lie_below_max_where_the_hash_is_negative(maximum: int) -> None:
    x = np.concatenate([np.arange(-500, 500), [-(2**63), 2**63 - 1]]).astype(np.int64)
    assert (exact.salted_hash(x, 0) < 0).sum() > 300
    found = exact.sigrid_hash(x, 0, maximum, division_free=True)
    assert found.min() >= 0 and found.max() < maximum
    assert np.array_equal(found, exact.sigrid_hash(x, 0, maximum))


@pytest.mark.parametrize("maximum", [0, -1, 2**63])
def test_a_modulus_that_cannot_be(maximum: int) -> None:
    for sigrid_hash in (exact.sigrid_hash, fast.sigrid_hash):
        with pytest.raises(InputError, match="max: must be 1 to"):
            sigrid_hash(np.arange(3), 0, maximum)


def test_bucketize_gives_the_recorded_vectors() -> None:
    for row in rows("bucketize.csv"):
        borders = exact.checked_borders([float(b) for b in row["borders"].split()])
        x = np.array([row["x"]], dtype=np.float32)
        assert exact.bucketize(x, borders).tolist() == [int(row["bucket"])], row
        assert fast.bucketize(x, borders).tolist() == [int(row["bucket"])], row


@st.composite
def borders(draw: st.DrawFn) -> np.ndarray:
    one = np.unique(
        np.array(draw(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=70)), np.float32)
    )
    twice = np.array(draw(st.lists(st.booleans(), min_size=len(one), max_size=len(one))))
    return np.repeat(one, 1 + twice)


@given(borders(), st.lists(FLOAT32, max_size=70), st.data())
@settings(max_examples=100, deadline=None)
def test_bucketize_and_its_twins(b: np.ndarray, drawn: list[float], data: st.DataObject) -> None:
    x = np.array(drawn + data.draw(st.lists(st.sampled_from(b.tolist()), max_size=20)), dtype=np.float32)
    want = [naive.bucketize(v, b.tolist()) for v in x.tolist()]
    checked = exact.checked_borders(b)
    assert exact.bucketize(x, checked).tolist() == want
    assert fast.bucketize(x, checked).tolist() == want


def test_what_is_no_number_ends_behind_the_first_border() -> None:
    nan = np.array([np.nan, np.inf, -np.inf], dtype=np.float32)
    for bucketize in (exact.bucketize, fast.bucketize):
        assert bucketize(nan, np.float32([1, 2, 3])).tolist() == [1, 3, 0]
        assert bucketize(nan, np.float32([1])).tolist() == [0, 1, 0]
        assert bucketize(nan[:0], np.float32([1])).tolist() == []


@pytest.mark.parametrize(
    ("given_borders", "problem"),
    [
        ([], "at least one border"),
        ([1, np.nan], "not a number"),
        ([2, 1], "1.0 follows 2.0"),
        ([1, 2, 2, 2], "2.0 comes more than twice"),
        ([1, 1 + 1e-9, 1 + 2e-9], "1.0 comes more than twice"),
    ],
)
def test_borders_that_cannot_be(given_borders: list[float], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        exact.checked_borders(given_borders)


def test_comparisons_are_those_of_a_binary_search() -> None:
    for n in range(1, 300):
        assert exact.comparisons(n) == int(np.ceil(np.log2(n + 1)))


@given(st.lists(FLOAT32, max_size=20), st.sampled_from([0.0, 1.0, 3.0, -2.5, 1e-30]))
@settings(max_examples=100, deadline=None)
def test_logarithms_are_correctly_rounded(drawn: list[float], offset: float) -> None:
    x = np.array(drawn, dtype=np.float32)
    want = np.array([naive.log(v, offset) for v in x.tolist()], dtype=np.float32)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(exact.log(x, offset), want)
        np.testing.assert_array_equal(fast.log(x, offset), want)


NEAR_HALFWAY = (
    0x14907055, 0x158772EB, 0x1A8446CB, 0x1B81AB52, 0x22925AD4, 0x4E85F412, 0x5B98E163, 0x5D800341,
    0x5D8B2D5B, 0x74896A73, 0x7D98B8F4,
)  # fmt: skip
"""Bits of float32 whose float64 logarithm ends within 8 of the middle between two float32: all that the lower
quarters of every second binade hold."""


def test_logarithms_near_halfway() -> None:
    x = np.array(NEAR_HALFWAY, dtype=np.int32).view(np.float32)
    tail = np.log(x.astype(np.float64)).view(np.int64) & (2 * exact.HALFWAY - 1)
    assert (np.abs(tail - exact.HALFWAY) <= exact.DOUBT + 1).all()
    want = np.array([naive.log(v, 0.0) for v in x.tolist()], dtype=np.float32)
    np.testing.assert_array_equal(exact.log(x), want)
    np.testing.assert_array_equal(fast.log(x), want)
    # the longer way mends what is a digit off
    found = np.nextafter(want, np.float32(np.inf))
    exact.settle(x, found, np.arange(len(x)))
    np.testing.assert_array_equal(found, want)


def test_more_doubtful_logarithms_than_there_is_room_for() -> None:
    x = np.full(3000, NEAR_HALFWAY[2], dtype=np.int32).view(np.float32)
    assert (fast.log(x) == exact.log(x[:1])[0]).all()


def test_logarithms_of_whole_numbers_round_them_first() -> None:
    x = np.array([2**24 + 1, -(2**63), 2**63 - 1, 0])
    want = exact.log(x.astype(np.float32), 1.0)
    np.testing.assert_array_equal(exact.log(x, 1.0), want)
    np.testing.assert_array_equal(fast.log(x, 1.0), want)
    assert np.isnan(want[1]) and want[3] == 0


def test_logit() -> None:
    x = np.array([0, 1, 0.25, -3, np.nan, 0.75], dtype=np.float32)
    found = exact.logit(x, 1e-6)
    assert found[0] == -found[1] == found[3] and np.isnan(found[4])
    assert found[5] == np.float32(np.log(3.0)) == -found[2]
    with pytest.raises(InputError, match="epsilon: must be above 0"):
        exact.logit(x, 0.5)


LISTS = st.lists(st.lists(INT64, max_size=6), max_size=12)


def flat(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    values = np.array([v for row in lists for v in row], dtype=np.int64)
    return values, np.array([len(row) for row in lists], dtype=np.int32)


@given(LISTS, st.integers(0, 7))
@settings(deadline=None)
def test_first_x(lists: list[list[int]], k: int) -> None:
    values, lengths = exact.first_x(*flat(lists), k)
    assert [v.tolist() for v in (values, lengths)] == [v.tolist() for v in flat([row[:k] for row in lists])]


@given(LISTS, st.integers(1, 4), INT64, st.integers(1, 2**63 - 1))
@settings(deadline=None)
def test_ngram(lists: list[list[int]], n: int, salt: int, maximum: int) -> None:
    values, lengths = exact.ngram(*flat(lists), n, salt, maximum)
    want = flat([naive.ngram(row, n, salt, maximum) for row in lists])
    assert values.tolist() == want[0].tolist() and lengths.tolist() == want[1].tolist()
    if n == 1:
        assert values.tolist() == exact.sigrid_hash(flat(lists)[0], salt, maximum).tolist()


def test_clamp_fill_and_one_hot() -> None:
    big = np.array([-(2**63), 2**63 - 1, 0])
    assert exact.clamp(big, -1, 2**62).tolist() == [-1, 2**62, 0]
    assert np.isnan(exact.clamp(np.float32([np.nan]), 0, 1)[0])
    assert exact.clamp(np.float32([np.inf, -np.inf]), 0, 1).tolist() == [1, 0]
    assert exact.fill_null(big, np.array([True, False, False]), 7).tolist() == [-(2**63), 7, 7]
    assert exact.fill_null(np.float32([1]), np.array([False]), 0.5).dtype == np.float32
    assert exact.one_hot(np.array([2, -1, 3, 0]), 3).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0], [1, 0, 0]]
    assert exact.one_hot(np.zeros(0, dtype=np.int64), 3).shape == (0, 3)
