"""A cache of experts as sets and sorted lists: the twin of `neardata.workloads.llm.expert_cache`.

LRU and LFU are the rules that mappers follow.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from neardata.mappers.expert_cache import LeastFrequentlyUsed, LeastRecentlyUsed

RULES = {"lru": LeastRecentlyUsed, "lfu": LeastFrequentlyUsed}


def hits(sequence: list[list[int]], capacity: int, policy: str, scores: Any = None) -> int:
    """Hits of one sequence of tokens; Belady's by looking ahead token by token."""
    cache: set[int] = set()
    rule = RULES[policy]() if policy in RULES else None
    found = 0
    for t, token in enumerate(sequence):
        found += len(cache & set(token))
        cache |= set(token)
        if rule is not None:
            rule.observe(0, token, [])

        def worth(e: int, t: int = t) -> Any:
            if rule is not None:
                return rule.rank((0, e))
            if policy == "score":
                return scores[t][e], e
            ahead = [i for i, later in enumerate(sequence[t + 1 :]) if e in later]
            return -(ahead[0] if ahead else 10**9), -e

        cache = set(sorted(cache, key=worth, reverse=True)[:capacity])
    return found


def most_hits(sequence: list[list[int]], capacity: int) -> int:
    """Hits of the best of all ways to choose what stays, all tried."""
    best: dict[frozenset[int], int] = {frozenset(): 0}
    for token in sequence:
        following: dict[frozenset[int], int] = {}
        for cache, found in best.items():
            now = found + len(cache & set(token))
            candidates = sorted(cache | set(token))
            for keep in product((False, True), repeat=len(candidates)):
                kept = frozenset(e for e, stays in zip(candidates, keep, strict=True) if stays)
                if len(kept) <= capacity:
                    following[kept] = max(following.get(kept, 0), now)
        best = following
    return max(best.values())
