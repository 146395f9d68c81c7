"""Which experts tokens go to: expectation, random routings and recorded ones."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from neardata.arch.errors import InputError


class Routing(Protocol):
    """Says where the tokens of a step go, layer by layer; the same for the same arguments."""

    def counts(self, layer: int, tokens: int, experts: int, top_k: int) -> NDArray[np.int64]:
        """(experts,) tokens that go to each expert; ``layer`` counts the layers with experts."""


def expected_active(experts: int, top_k: int, tokens: int) -> float:
    """Experts that at least one of ``tokens`` tokens chooses, on average, when each chooses
    ``top_k`` different ones uniformly: ``E (1 - (1 - k/E)**T)``.

    >>> round(expected_active(128, 8, 16), 1)
    82.4
    """
    _check(experts, top_k)
    if top_k == experts:
        return float(experts if tokens else 0)
    return float(experts * -np.expm1(tokens * np.log1p(-top_k / experts)))


def _check(experts: int, top_k: int) -> None:
    if not 1 <= top_k <= experts:
        raise InputError(f"a token cannot go to {top_k} of {experts} experts")


class Uniform:
    """Each token chooses its experts uniformly and on its own.

    >>> Uniform(seed=0).counts(layer=0, tokens=64, experts=8, top_k=2).sum()
    np.int64(128)
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def counts(self, layer: int, tokens: int, experts: int, top_k: int) -> NDArray[np.int64]:
        """(experts,) tokens of each expert."""
        _check(experts, top_k)
        draw = np.random.default_rng((self.seed, layer))
        counts = np.zeros(experts, dtype=np.int64)
        for start in range(0, tokens, 4096):
            keys = draw.random((min(4096, tokens - start), experts), dtype=np.float32)
            chosen = np.argpartition(keys, top_k - 1, axis=1)[:, :top_k]
            counts += np.bincount(chosen.ravel(), minlength=experts)
        return counts
