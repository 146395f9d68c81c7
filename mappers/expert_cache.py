"""Which expert leaves a full device memory, for mappers that go from block to block.

An eviction rule sees every block as it is routed (`observe`) and ranks experts; of those that may
leave, the one of lowest rank does. An expert is ``(layer, number)``.

The rules of `neardata.workloads.llm.expert_cache` are told there, whose kernel gives hit rates; here
they are its twins, which the kernel is tested against, over all layers together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

Key = tuple[int, int]
"""Layer and number of an expert."""


class Eviction(Protocol):
    """A rule for leaving the device."""

    def observe(self, layer: int, active: Sequence[int], scores: Sequence[float]) -> None:
        """A block of ``layer`` was routed to the experts ``active``.

        Args:
            scores: of the router, for all experts of the layer.
        """

    def rank(self, key: Key) -> Any:
        """Orders experts: the lowest leaves first."""


class LeastRecentlyUsed:
    """``lru``.

    >>> rule = LeastRecentlyUsed()
    >>> for active in ([0], [1], [0]):
    ...     rule.observe(0, active, [])
    >>> min([(0, 0), (0, 1)], key=rule.rank)
    (0, 1)
    """

    def __init__(self) -> None:
        self._used: dict[Key, int] = {}
        self._blocks = 0

    def observe(self, layer: int, active: Sequence[int], scores: Sequence[float]) -> None:
        """As of `Eviction`."""
        self._blocks += 1
        for expert in active:
            self._used[layer, expert] = self._blocks

    def rank(self, key: Key) -> Any:
        """As of `Eviction`."""
        return self._used.get(key, 0), key


class LeastFrequentlyUsed:
    """``lfu``."""

    def __init__(self) -> None:
        self._uses: dict[Key, int] = {}
        self._recent = LeastRecentlyUsed()

    def observe(self, layer: int, active: Sequence[int], scores: Sequence[float]) -> None:
        """As of `Eviction`."""
        self._recent.observe(layer, active, scores)
        for expert in active:
            self._uses[layer, expert] = self._uses.get((layer, expert), 0) + 1

    def rank(self, key: Key) -> Any:
        """As of `Eviction`."""
        return self._uses.get(key, 0), self._recent.rank(key)


class MinusRecentScore:
    """MRS of HybriMoE (arXiv 2504.05897): the expert of the lowest decayed routing score leaves.

    At every block of a layer its scores become ``alpha * score + (1 - alpha) * old`` for the ``top``
    experts of the router and ``(1 - alpha) * old`` for the others (defaults of the released code).

    >>> rule = MinusRecentScore(top=1)
    >>> rule.observe(0, [0], [0.6, 0.4])
    >>> rule.rank((0, 0))[0], rule.rank((0, 1))[0]
    (0.3, 0.0)
    """

    def __init__(self, alpha: float = 0.5, top: int = 12) -> None:
        self.alpha, self.top = alpha, top
        self._scores: dict[Key, float] = {}

    def observe(self, layer: int, active: Sequence[int], scores: Sequence[float]) -> None:
        """As of `Eviction`."""
        best = set(sorted(range(len(scores)), key=lambda expert: (-scores[expert], expert))[: self.top])
        for expert, score in enumerate(scores):
            old = (1 - self.alpha) * self._scores.get((layer, expert), 0.0)
            self._scores[layer, expert] = old + (self.alpha * score if expert in best else 0.0)

    def rank(self, key: Key) -> Any:
        """Score; ties: by layer and number."""
        return self._scores.get(key, 0.0), key
