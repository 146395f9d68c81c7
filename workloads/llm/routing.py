"""Which experts tokens go to: the expectation, and random routings with the properties of real ones.

Recorded routings are in `routing_trace`.

`Correlated` draws each expert's score for a token from a normal distribution, as the sum of a *context*
part, which changes slowly from token to token (persistence ``phi``, an autoregression of order one), and a
*token* part, which is new for every token; the ``top_k`` highest scores are chosen. The share ``w`` of the
token part and ``phi`` have these effects:

* adjacent tokens share experts through the correlation ``(1 - w) phi`` of their scores alone;
* how concentrated the experts of a whole prompt are depends on ``phi``: the slower the context, the fewer
  experts a prompt uses.

So the measured overlap of a layer sets ``w`` and a prompt's entropy and share of top experts set ``phi``.
There is no part that stays for good beside the slow one: the three figures cannot tell the two apart within
a prompt, and this is the choice with the fewest parameters. It matters: with a lasting part and a faster
context that make the same three figures, hit rates of LRU (16 of 128 experts, coding prompts) come out up to
7 points lower, those of an oracle up to 6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from statistics import NormalDist
from typing import Protocol

import numpy as np
import yaml
from numpy.typing import NDArray

from neardata.arch.errors import InputError, nearest

Ids = NDArray[np.int64]


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


def _best(scores: NDArray[np.floating], top_k: int) -> Ids:
    """(..., top_k) places of the highest scores, in no order."""
    if top_k == scores.shape[-1]:
        return np.broadcast_to(np.arange(top_k), scores.shape).astype(np.int64)
    return np.argpartition(-scores, top_k - 1, axis=-1)[..., :top_k].astype(np.int64)


class Uniform:
    """Each token chooses its experts uniformly and on its own.

    >>> int(Uniform(seed=0).counts(layer=0, tokens=64, experts=8, top_k=2).sum())
    128
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def counts(self, layer: int, tokens: int, experts: int, top_k: int) -> Ids:
        """(experts,) tokens of each expert."""
        _check(experts, top_k)
        draw = np.random.default_rng((self.seed, layer))
        counts = np.zeros(experts, dtype=np.int64)
        for start in range(0, tokens, 4096):
            scores = draw.random((min(4096, tokens - start), experts), dtype=np.float32)
            counts += np.bincount(_best(scores, top_k).ravel(), minlength=experts)
        return counts


class Zipf:
    """Each token chooses on its own, but experts differ in popularity: one after another without return,
    with probabilities as ``rank ** -exponent``; which expert has which rank is drawn for each layer.

    Args:
        spread: standard deviation of the exponent's logarithm over layers; the mean stays ``exponent``.
        step: further draws of the same popularity.

    >>> int(Zipf(1.0, seed=0).counts(layer=0, tokens=64, experts=8, top_k=2).max()) > 30
    True
    """

    def __init__(self, exponent: float, *, spread: float = 0.0, seed: int = 0, step: int = 0) -> None:
        if not 0 <= exponent < math.inf:
            raise InputError(f"must be a number from 0, got {exponent}", key="exponent")
        if not 0 <= spread < math.inf:
            raise InputError(f"must be a number from 0, got {spread}", key="spread")
        self.exponent, self.spread, self.seed, self.step = exponent, spread, seed, step

    def exponent_of(self, layer: int) -> float:
        """The layer's own exponent."""
        z = np.random.default_rng((self.seed, layer, 1)).standard_normal()
        return float(self.exponent * np.exp(self.spread * z - self.spread**2 / 2))

    def counts(self, layer: int, tokens: int, experts: int, top_k: int) -> Ids:
        """(experts,) tokens of each expert."""
        _check(experts, top_k)
        draw = np.random.default_rng((self.seed, layer))
        logits = -self.exponent_of(layer) * np.log(draw.permutation(experts) + 1.0)
        if self.step:
            draw = np.random.default_rng((self.seed, layer, 2, self.step))
        counts = np.zeros(experts, dtype=np.int64)
        for start in range(0, tokens, 4096):
            # the largest of logits plus Gumbel noise are a draw without return
            scores = logits + draw.gumbel(size=(min(4096, tokens - start), experts))
            counts += np.bincount(_best(scores, top_k).ravel(), minlength=experts)
        return counts


def overlap_of_correlation(correlation: float, experts: int, top_k: int) -> float:
    """Share of its experts that a token has in common with another whose scores correlate: the chance
    that one normal variable is above the ``top_k / experts`` threshold when the other is.

    >>> round(overlap_of_correlation(0.0, 128, 8), 4)
    0.0625
    """
    if correlation >= 1.0 or top_k == experts:
        return 1.0
    threshold = NormalDist().inv_cdf(1 - top_k / experts)
    z = np.linspace(threshold, max(threshold, 0.0) + 9.0, 601)
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    width = math.sqrt(2 * (1 - correlation**2))
    above = np.array([0.5 * math.erfc((threshold - correlation * x) / width) for x in z])
    return float(np.trapezoid(density * above, z)) / (top_k / experts)


@lru_cache(maxsize=4096)
def correlation_of_overlap(overlap: float, experts: int, top_k: int) -> float:
    """The inverse of `overlap_of_correlation`; 0 where less than by chance is asked for."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if overlap_of_correlation(middle, experts, top_k) < overlap else (low, middle)
        )
    return low


class Correlated:
    """Tokens of a sequence choose alike: see the module.

    Args:
        overlap: share of its experts that a token has in common with the one before it, on average; one
            for all layers or one a layer. By chance it is ``top_k / experts``.
        persistence: phi, correlation of the context part from token to token. It must be at least the
            correlation that the overlap needs.
        between_layers: correlation of an expert's scores with those of the expert of the same number in
            the layer before, where the shares of the parts are equal.
        sequences: sequences that the tokens of a step belong to, equally many to each, one sequence
            after the other.

    Raises:
        InputError: values out of range.

    >>> routing = Correlated(0.4, 0.99, seed=1)
    >>> routing.ids(layers=2, tokens=100, experts=128, top_k=8, prompts=3).shape
    (3, 2, 100, 8)
    """

    def __init__(
        self,
        overlap: float | Sequence[float],
        persistence: float,
        *,
        between_layers: float = 0.0,
        sequences: int = 1,
        seed: int = 0,
    ) -> None:
        self.overlap = (overlap,) if isinstance(overlap, int | float) else tuple(overlap)
        for value in self.overlap:
            if not 0 <= value < 1:
                raise InputError(f"a share from 0 and below 1, got {value}", key="overlap")
        for key, value in (("persistence", persistence), ("between_layers", between_layers)):
            if not 0 <= value <= 1:
                raise InputError(f"a correlation from 0 to 1, got {value}", key=key)
        if sequences < 1:
            raise InputError(f"at least one sequence, got {sequences}", key="sequences")
        self.persistence, self.between_layers = persistence, between_layers
        self.sequences, self.seed = sequences, seed
        self._steps: dict[tuple[int, int, int], _Draw] = {}

    def ids(self, layers: int, tokens: int, experts: int, top_k: int, prompts: int = 1) -> Ids:
        """(prompts, layers, tokens, top_k) experts of prompts that have nothing in common."""
        draw = _Draw(self, prompts, tokens, experts, top_k)
        return np.stack([draw.layer(i) for i in range(layers)], axis=1)

    def counts(self, layer: int, tokens: int, experts: int, top_k: int) -> Ids:
        """(experts,) tokens of each expert, of tokens of ``sequences`` sequences."""
        return np.bincount(self.drawn(tokens, experts, top_k).layer(layer).ravel(), minlength=experts)

    def drawn(self, tokens: int, experts: int, top_k: int) -> _Draw:
        """Experts of so many tokens in all, drawn once."""
        if tokens % self.sequences:
            raise InputError(
                f"{tokens} tokens do not divide into {self.sequences} sequences", key="sequences"
            )
        key = tokens, experts, top_k
        if key not in self._steps:
            self._steps[key] = _Draw(self, self.sequences, tokens // self.sequences, experts, top_k)
        return self._steps[key]

    def token_share(self, layer: int, experts: int, top_k: int) -> float:
        """w, the share of the token part in the variance of a layer's scores."""
        if len(self.overlap) > 1 and layer >= len(self.overlap):
            raise InputError(f"no overlap for layer {layer}, there are {len(self.overlap)}", key="overlap")
        overlap = self.overlap[layer if len(self.overlap) > 1 else 0]
        needed = correlation_of_overlap(overlap, experts, top_k)
        if needed > self.persistence:
            raise InputError(
                f"an overlap of {overlap} needs scores that correlate by {needed:.4f}, more than"
                f" {self.persistence}",
                key="persistence",
            )
        return 1.0 - needed / self.persistence if self.persistence else 1.0


class _Draw:
    """Experts of some sequences, drawn layer after layer and kept."""

    def __init__(self, routing: Correlated, sequences: int, tokens: int, experts: int, top_k: int) -> None:
        _check(experts, top_k)
        self.routing, self.shape, self.top_k = routing, (tokens, sequences, experts), top_k
        self.done: list[Ids] = []
        self.fresh: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None

    def layer(self, layer: int) -> Ids:
        """(sequences, tokens, top_k)"""
        while len(self.done) <= layer:
            self.done.append(self._next(len(self.done)))
        return self.done[layer]

    def _next(self, layer: int) -> Ids:
        routing, (tokens, _, experts) = self.routing, self.shape
        # a generator each: the first tokens are the same however many follow
        parts = [np.random.default_rng((routing.seed, layer, part)) for part in (0, 1)]
        context, token = (draw.standard_normal(self.shape, dtype=np.float32) for draw in parts)
        if self.fresh is not None and routing.between_layers:
            like, unlike = routing.between_layers, math.sqrt(1 - routing.between_layers**2)
            context = like * self.fresh[0] + unlike * context
            token = like * self.fresh[1] + unlike * token
        self.fresh = (context.copy(), token) if routing.between_layers else None
        kept, new = routing.persistence, math.sqrt(1 - routing.persistence**2)
        for t in range(1, tokens):
            context[t] = kept * context[t - 1] + new * context[t]
        share = routing.token_share(layer, experts, self.top_k)
        scores = math.sqrt(1 - share) * context + math.sqrt(share) * token
        return _best(scores, self.top_k).swapaxes(0, 1)


class StepOf:
    """One step of sequences that are drawn together, so that what they choose is alike from step to step.

    >>> steps = [StepOf(Correlated(0.9, 0.999, sequences=2), 8, i) for i in range(8)]
    >>> [int(step.counts(layer=0, tokens=2, experts=64, top_k=4).sum()) for step in steps[:2]]
    [8, 8]
    """

    def __init__(self, routing: Correlated, steps: int, step: int) -> None:
        self.routing, self.steps, self.step = routing, steps, step

    def counts(self, layer: int, tokens: int, experts: int, top_k: int) -> Ids:
        """(experts,) tokens of each expert, of ``tokens`` in this step."""
        ids = self.routing.drawn(tokens * self.steps, experts, top_k).layer(layer)
        each = ids.shape[1] // self.steps
        return np.bincount(ids[:, self.step * each : (self.step + 1) * each].ravel(), minlength=experts)


# Figures of a routing.


def adjacent_overlap(ids: Ids) -> float:
    """Share of a token's experts that the next one has too: ids (..., tokens, top_k) -> mean.

    >>> adjacent_overlap(np.array([[0, 1], [1, 2], [1, 2]]))
    0.75
    """
    before, after = ids[..., :-1, :, None], ids[..., 1:, None, :]
    return float((before == after).any(axis=-1).mean())


def _shares(ids: Ids, experts: int) -> NDArray[np.float64]:
    """(sequences, experts) shares of each sequence's choices, the highest first."""
    rows = ids.reshape(-1, ids.shape[-2] * ids.shape[-1])
    counts = np.stack([np.bincount(row, minlength=experts) for row in rows])
    ordered: NDArray[np.float64] = -np.sort(-counts, axis=1) / rows.shape[1]
    return ordered


def normalised_entropy(ids: Ids, experts: int) -> float:
    """Entropy of the choices of each sequence (..., tokens, top_k), 1 where all experts are chosen
    equally often; the mean."""
    shares = _shares(ids, experts)
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return float(-(shares * logs).sum(axis=1).mean() / math.log(experts))


def top_share(ids: Ids, experts: int, top: int = 16) -> float:
    """Share of the choices of a sequence (..., tokens, top_k) that go to its ``top`` experts; the mean."""
    return float(_shares(ids, experts)[:, :top].sum(axis=1).mean())


@dataclass(frozen=True)
class Figures:
    """What is measured of the routing of some prompts: means over prompts and layers."""

    overlap: float
    """`adjacent_overlap`"""
    entropy: float
    """`normalised_entropy`"""
    share: float
    """`top_share` of 16"""


@dataclass(frozen=True)
class Measured:
    """A model's routing as published."""

    source: str
    experts: int
    top_k: int
    layers: int
    tokens: int
    """Decoded tokens of each prompt."""
    workloads: dict[str, Figures]
    layer_overlap: dict[int, float]
    """`adjacent_overlap` of single layers, over all workloads."""

    @property
    def overlaps(self) -> tuple[float, ...]:
        """Overlap of each layer over all workloads; layers without a published one share what is left of
        the mean."""
        mean = sum(f.overlap for f in self.workloads.values()) / len(self.workloads)
        rest = (self.layers * mean - sum(self.layer_overlap.values())) / (
            self.layers - len(self.layer_overlap)
        )
        return tuple(self.layer_overlap.get(i, rest) for i in range(self.layers))

    def routing(self, workload: str, *, seed: int = 0) -> Correlated:
        """A routing with the figures of a workload: `like`."""
        if workload not in self.workloads:
            raise InputError(f"unknown workload '{workload}'{nearest(workload, self.workloads)}")
        return like(
            self.workloads[workload], self.overlaps, experts=self.experts, top_k=self.top_k,
            tokens=self.tokens, seed=seed,
        )  # fmt: skip


def measured(name: str = "qwen3-30b-a3b") -> Measured:
    """Published figures that ship with the package.

    >>> measured().workloads["coding"]
    Figures(overlap=0.407, entropy=0.808, share=0.545)
    """
    text = (resources.files("neardata.workloads.llm") / "routing_figures.yaml").read_text(encoding="utf-8")
    known = yaml.safe_load(text)
    if name not in known:
        raise InputError(f"no routing figures of '{name}'{nearest(name, known)}")
    entry = dict(known[name])
    workloads = {key: Figures(**value) for key, value in entry.pop("workloads").items()}
    return Measured(workloads=workloads, **entry)


def like(
    figures: Figures,
    layer_overlaps: Sequence[float],
    *,
    experts: int,
    top_k: int,
    tokens: int,
    prompts: int = 1,
    seed: int = 0,
) -> Correlated:
    """A `Correlated` routing with given figures.

    The overlap of each layer is ``layer_overlaps`` scaled to the mean of the figures. Persistence is the
    one, by bisection on drawn prompts, at which drawn entropy and top share miss the figures equally and
    in opposite directions.

    Args:
        layer_overlaps: of each layer, in any proportion.
        tokens: of the prompts that the figures are of, which decide how many experts are ever seen.
    """
    scale = figures.overlap * len(layer_overlaps) / sum(layer_overlaps)
    overlaps = [min(value * scale, 0.95) for value in layer_overlaps]
    low = max(correlation_of_overlap(value, experts, top_k) for value in set(overlaps))
    low, high = min(low + 1e-9, 1.0), 1.0
    for _ in range(9):
        middle = (low + high) / 2
        ids = Correlated(overlaps, middle, seed=seed).ids(len(overlaps), tokens, experts, top_k, prompts)
        spread = normalised_entropy(ids, experts) - figures.entropy
        low, high = (middle, high) if spread > top_share(ids, experts) - figures.share else (low, middle)
    return Correlated(overlaps, (low + high) / 2, seed=seed)
