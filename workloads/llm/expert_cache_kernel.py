"""The kernel of `neardata.workloads.llm.expert_cache`."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def run_cache(
    ids: NDArray[np.int64],
    starts: NDArray[np.int64],
    experts: int,
    capacity: int,
    policy: int,
    scores: NDArray[np.float64],
) -> NDArray[np.int64]:
    """(tokens,) hits. ``policy``: index in `POLICIES`; random comes as scores."""
    tokens, top_k = ids.shape
    hits = np.zeros(tokens, dtype=np.int64)
    # where each expert is used next, from the end of each sequence backwards
    next_use = np.empty((tokens, top_k), dtype=np.int64)
    upcoming = np.empty(experts, dtype=np.int64)
    if policy == 4:
        for s in range(len(starts) - 1):
            upcoming[:] = tokens
            for t in range(starts[s + 1] - 1, starts[s] - 1, -1):
                for k in range(top_k):
                    next_use[t, k] = upcoming[ids[t, k]]
                    upcoming[ids[t, k]] = t

    used = np.zeros(experts, dtype=np.int64)
    last = np.zeros(experts, dtype=np.int64)
    held = np.zeros(experts, dtype=np.bool_)
    key = np.zeros(experts, dtype=np.float64)
    for s in range(len(starts) - 1):
        used[:] = 0
        held[:] = False
        count = 0
        for t in range(starts[s], starts[s + 1]):
            # 1. hits, and all that may stay
            for k in range(top_k):
                e = ids[t, k]
                if held[e]:
                    hits[t] += 1
                else:
                    held[e] = True
                    count += 1
                used[e] += 1
                last[e] = t
                if policy == 4:
                    upcoming[e] = next_use[t, k]
            if count <= capacity:
                continue
            # 2. what each is worth
            for e in range(experts):
                if policy == 1:
                    key[e] = last[e]
                elif policy == 2:
                    key[e] = float(used[e]) * tokens + last[e]
                elif policy == 3:
                    key[e] = scores[t, e]
                else:
                    key[e] = -float(upcoming[e])
            # 3. the worst go
            while count > capacity:
                worst = -1
                for e in range(experts):
                    if held[e] and (
                        worst < 0 or key[e] < key[worst] or (policy == 4 and key[e] == key[worst])
                    ):
                        worst = e
                held[worst] = False
                count -= 1
    return hits
