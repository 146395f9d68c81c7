"""Streams of pictures and utterances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neardata.arch.errors import InputError
from neardata.workloads.input_requests import LENGTHS, load_inputs, random_inputs
from neardata.workloads.requests import random_requests


def test_arrivals_are_poissons() -> None:
    stream = random_inputs(20_000, rate_per_s=50, seed=1)
    gaps = np.diff([0, *(r.arrival_ps for r in stream)]) / 1e12
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(1, rel=0.03)
    assert {r.seconds for r in stream} == {0.0}
    tokens = random_requests(100, rate_per_s=50, prompt_tokens=1, generated_tokens=1, seed=1)
    assert [r.arrival_ps for r in tokens] == [r.arrival_ps for r in random_inputs(100, rate_per_s=50, seed=1)]


def test_lengths_lie_between_their_ends() -> None:
    of = LENGTHS["librispeech"]
    lengths = np.array([r.seconds for r in random_inputs(20_000, rate_per_s=1, seconds="librispeech")])
    assert of.shortest_s <= lengths.min() and lengths.max() <= of.longest_s
    assert lengths.mean() == pytest.approx(of.mean_s, rel=0.03)
    assert "assumed" in of.source
    again = random_inputs(20_000, rate_per_s=1, seconds="librispeech")
    assert lengths.tolist() == [r.seconds for r in again]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"rate_per_s": 0}, "rate_per_s: must be a number above 0"),
        ({"rate_per_s": 1, "seconds": -1}, "seconds: must be 0 or more"),
        (
            {"rate_per_s": 1, "seconds": "librispech"},
            "unknown lengths 'librispech'; did you mean librispeech",
        ),
        ({"rate_per_s": 1, "arrivals": "poison"}, "did you mean poisson"),
    ],
)
def test_streams_that_cannot_be(options: dict, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        random_inputs(3, **options)


def test_recorded_streams(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("seconds,arrival_s\n2.5,10\n\n7,10.5\n")
    assert [(r.arrival_ps, r.seconds) for r in load_inputs(path)] == [(0, 2.5), (5 * 10**11, 7.0)]
    path.write_text("arrival_s\n1\n1\n")
    assert [r.seconds for r in load_inputs(path)] == [0, 0]
    for text, problem in (
        ("", r"a\.csv:1: no column 'arrival_s'"),
        ("arrival\n1\n", "did you mean arrival"),
        ("arrival_s\n", "holds no inputs"),
        ("arrival_s\n2\n1\n", r"a\.csv:3: earlier than the input before it"),
        ("arrival_s\nx\n", r"a\.csv:2: arrival_s: must be a number from 0, got 'x'"),
        ("arrival_s\n1,2\n", r"a\.csv:2: 2 values for 1 columns"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=problem):
            load_inputs(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8 text"):
        load_inputs(path)
