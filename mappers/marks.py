"""Marks of how much of an element of a tensor is there.

The mark of an element is a 64-bit number: each index k of a sum has a random one, and those of all k (and
of a bias) add up to `COMPLETE`. Partial sums add their marks, so that a tile of k that is missing, or there
twice, gives another number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Marks = NDArray[np.uint64]
COMPLETE = np.uint64(0x9E3779B97F4A7C15)
"""Mark of an element that is all there."""
NOTHING = np.uint64(0)


def marks_of_k(k: int, *, bias: bool = False) -> Marks:
    """Random marks of k indices (and of a bias, last) that add up to `COMPLETE`.

    >>> bool(marks_of_k(5).sum(dtype=np.uint64) == COMPLETE)
    True
    """
    count = k + bias
    marks = np.random.default_rng(k).integers(1, 2**64 - 1, count, dtype=np.uint64)
    with np.errstate(over="ignore"):
        marks[0] += COMPLETE - marks.sum(dtype=np.uint64)
    return marks
