"""Sparse attention of one query over the keys and values of a sequence: SparQ, and SparF, which reads it from
flash (arXiv 2312.04985, 2409.04992)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def softmax(scores: Floats) -> Floats:
    """Of a row."""
    shifted = np.exp(scores - scores.max())
    return shifted / shifted.sum()


def top(values: Floats, count: int) -> Integers:
    """Places of the largest, in their order; of equal ones the first.

    >>> top(np.array([1.0, 3.0, 2.0, 3.0]), 3).tolist()
    [1, 2, 3]
    """
    return np.sort(np.argsort(-values, kind="stable")[:count])


def kept_tokens(context: int, share: float) -> int:
    """Positions that are attended to: at least one."""
    return max(1, round(context * share))


def approximate_scores(query: Floats, some_keys: Floats, channels: Integers, scale: float) -> Floats:
    """Softmax over all positions of the products of some channels, tempered by the share of the query's
    magnitude that these have.

    Args:
        query: (qk,).
        some_keys: (context, len(channels)).
        scale: of dense attention, such as 1 / sqrt(qk).
    """
    magnitude = float(np.abs(query).sum())
    covered = float(np.abs(query[channels]).sum()) / magnitude if magnitude else 1.0
    return softmax(some_keys @ query[channels] * scale / np.sqrt(covered or 1.0))


def sparse_attention(
    query: Floats, keys: Floats, values: Floats, *, channels: int, tokens: float, scale: float
) -> Floats:
    """One head's output, (v,).

    The ``channels`` largest of the query give approximate scores; the share ``tokens`` of the positions,
    those with the largest of them, is attended to exactly, and the mean of all values stands for the others
    by their share of the approximate scores.

    Args:
        query: (qk,).
        keys, values: (context, qk), (context, v).

    >>> draw = np.random.default_rng(0)
    >>> q, k, v = draw.normal(size=8), draw.normal(size=(5, 8)), draw.normal(size=(5, 4))
    >>> all_of_it = sparse_attention(q, k, v, channels=8, tokens=1.0, scale=8**-0.5)
    >>> bool(np.allclose(all_of_it, softmax(k @ q * 8**-0.5) @ v))
    True
    """
    i = top(np.abs(query), channels)
    approximate = approximate_scores(query, keys[:, i], i, scale)
    j = top(approximate, kept_tokens(len(keys), tokens))
    share = float(approximate[j].sum())
    exact = softmax(keys[j] @ query * scale) @ values[j]
    return np.asarray(share * exact + (1 - share) * values.mean(axis=0))
