"""Which device, or which memory, holds which expert."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from neardata.arch.errors import InputError
from neardata.mappers.expert_cache import Key

Load = Sequence[Sequence[float]]
"""Of each layer with experts, in order: of each expert, how much it is chosen or has to do."""


def balanced(load: Sequence[float], devices: int) -> tuple[tuple[int, int], ...]:
    """Experts first to last in one range a device, so that the busiest device has as little to do as ranges
    allow: at most the mean and one expert more.

    Args:
        load: of each expert, such as tokens routed to it or the time that they take.

    Returns:
        Half-open ranges, which may be empty.

    Raises:
        InputError: no expert, no device, a load that is no number of at least 0.

    >>> balanced([9, 4, 3, 2], 2)
    ((0, 1), (1, 4))
    """
    if not load or devices < 1:
        raise InputError(f"at least one expert and one device are needed, got {len(load)} and {devices}")
    if not all(0 <= value < math.inf for value in load):
        raise InputError("a load is a number of at least 0", key="load")
    before = [0.0, *itertools.accumulate(map(float, load))]
    # (experts, ranges): the least load of the busiest range, and where the last range begins
    best = [(total, 0) for total in before]
    starts: list[list[int]] = []
    for _ in range(1, devices):
        best = [
            min((max(best[at][0], before[end] - before[at]), at) for at in range(end + 1))
            for end in range(len(before))
        ]
        starts.append([at for _, at in best])
    edges = [len(load)]
    for at in reversed(starts):
        edges.append(at[edges[-1]])
    return tuple(itertools.pairwise([0, *reversed(edges)]))


def hottest(load: Mapping[Key, float], capacity: int) -> tuple[Key, ...]:
    """The experts to keep on a device that holds ``capacity``: those of most load; ties: in order.

    >>> hottest({(0, 0): 3, (0, 1): 9, (1, 0): 5}, 2)
    ((0, 1), (1, 0))
    """
    return tuple(sorted(load, key=lambda key: (-load[key], key))[:capacity])
