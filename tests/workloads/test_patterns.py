"""Request patterns: the same requests as the generator they were defined by, in chunks of any size."""

import doctest
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from neardata.workloads import patterns

CASES = json.loads((Path(__file__).parents[1] / "data" / "patterns.json").read_text())


def digest(case, chunk):
    chunks = list(
        patterns.requests(
            case["pattern"], case["n"], seed=case["seed"], line_bytes=case["line_bytes"],
            lines_per_row=case["lines_per_row"], banks=case["banks"], chunk=chunk,
        )
    )  # fmt: skip
    address = np.concatenate([a for a, _ in chunks])
    is_write = np.concatenate([w for _, w in chunks])
    assert address.dtype == np.int64 and is_write.dtype == np.bool_
    return hashlib.sha256(address.astype("<i8").tobytes() + is_write.astype("u1").tobytes()).hexdigest()


@pytest.mark.parametrize("chunk", [1 << 20, 999, 1000])
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['pattern']}-{c['n']}")
def test_the_requests_are_those_of_the_definition(case, chunk):
    assert digest(case, chunk) == case["sha256"]


def test_every_pattern_is_covered():
    assert {case["pattern"] for case in CASES} == set(patterns.PATTERNS)


def test_triad_stays_within_the_lines():
    *_, (line, is_write) = patterns.requests("triad", 3 * patterns.LINES // 2 + 3, line_bytes=1)
    assert line[-3:].tolist() == [1 << 23, 3 << 22, 0]
    assert is_write[-3:].tolist() == [False, False, True]


def test_docstring_examples():
    assert doctest.testmod(patterns).failed == 0
