"""Hit rates of a cache of experts, layer by layer, over a recorded or drawn routing.

One layer's cache holds ``capacity`` experts. For each token the experts asked for that are in it are hits;
then, of those in the cache and those just used, the ``capacity`` best stay: by policy

``random``  any;
``lru``     those used last;
``lfu``     those used most often since the start, of equals those used last;
``score``   those with the highest score of this token (a prediction, such as router scores);
``oracle``  those used next (Belady), which no policy beats.

Of equals the higher expert id stays (``oracle``: the lower). Uses count whether or not the expert was in the
cache. Programs that offload experts follow the same rules, block by block: `neardata.mappers.expert_cache`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neardata.arch.errors import InputError, nearest

POLICIES = ("random", "lru", "lfu", "score", "oracle")


def hit_rate(
    ids: ArrayLike | Sequence[ArrayLike],
    experts: int,
    capacity: int,
    policy: str,
    *,
    scores: NDArray[np.float64] | None = None,
    seed: int = 0,
) -> float:
    """Share of expert requests that hit, over all sequences; the cache is empty where one starts.

    Args:
        ids: (sequences, tokens, top_k) expert ids, one sequence a prompt and layer; a list of (tokens,
            top_k) where their lengths differ.
        scores: policy ``score``: (sequences, tokens, experts), known when the token's experts are.

    Raises:
        InputError: an unknown policy, a capacity below 1, ids that are no experts or come twice in a
            token, scores of another shape.

    >>> hit_rate([[[0, 1], [0, 2], [0, 1]]], experts=4, capacity=2, policy="lru")
    0.3333333333333333
    >>> hit_rate([[[0, 1], [0, 2], [0, 1]]], experts=4, capacity=2, policy="oracle")
    0.5
    """
    return float(np.mean(_hits_of_tokens(ids, experts, capacity, policy, scores, seed)))


def hit_rates(
    ids: ArrayLike | Sequence[ArrayLike],
    experts: int,
    capacities: Sequence[int],
    policies: Sequence[str] = ("random", "lru", "lfu", "oracle"),
    *,
    seed: int = 0,
) -> dict[tuple[str, int], float]:
    """`hit_rate` for every policy and capacity."""
    return {
        (policy, capacity): hit_rate(ids, experts, capacity, policy, seed=seed)
        for policy in policies
        for capacity in capacities
    }


def _hits_of_tokens(
    ids: ArrayLike | Sequence[ArrayLike],
    experts: int,
    capacity: int,
    policy: str,
    scores: NDArray[np.float64] | None,
    seed: int,
) -> NDArray[np.float64]:
    """(all tokens,) share of each token's experts that hit."""
    if policy not in POLICIES:
        raise InputError(f"unknown policy '{policy}'{nearest(policy, POLICIES)}", key="policy")
    if capacity < 1:
        raise InputError(f"a cache holds at least one expert, got {capacity}", key="capacity")
    sequences = [np.ascontiguousarray(s, dtype=np.int64) for s in ids]  # type: ignore[union-attr]
    if not sequences or any(s.ndim != 2 or not s.size for s in sequences):
        raise InputError("expected (sequences, tokens, top_k) with none empty", key="ids")
    if len({s.shape[1] for s in sequences}) > 1:
        raise InputError("tokens with different numbers of experts", key="ids")
    flat = np.concatenate(sequences)
    if flat.min() < 0 or flat.max() >= experts:
        raise InputError(f"experts are 0 to {experts - 1}", key="ids")
    ordered = np.sort(flat, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise InputError("an expert comes twice in a token", key="ids")
    starts = np.cumsum([0, *(len(s) for s in sequences)])
    if policy == "score":
        if scores is None:
            raise InputError("policy 'score' needs scores", key="scores")
        given = np.concatenate([np.asarray(s, dtype=np.float64) for s in scores])
        if given.shape != (len(flat), experts):
            raise InputError(f"expected {(len(flat), experts)} scores, got {given.shape}", key="scores")
    elif policy == "random":
        given = np.random.default_rng(seed).random((len(flat), experts))
    else:
        given = np.zeros((0, experts))
    code = 3 if policy == "random" else POLICIES.index(policy)
    from neardata.workloads.llm.expert_cache_kernel import run_cache  # loads numba

    return run_cache(flat, starts, experts, capacity, code, given) / flat.shape[1]
