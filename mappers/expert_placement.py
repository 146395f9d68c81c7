"""Which device, or which memory, holds which expert."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from neardata.arch.errors import InputError
from neardata.mappers.expert_cache import Key


def place(experts: int, devices: int, load: Sequence[float] | None = None) -> tuple[int, ...]:
    """The device of each expert: round-robin, or balanced by measured load.

    Balanced: the heaviest first, each to the device with the least load so far (longest processing time
    first: its busiest device has at most 4/3 - 1/(3 devices) of the least possible load). Ties go to the
    device with fewer experts, then to the lower number.

    Args:
        load: of each expert, such as tokens routed to it.

    Raises:
        InputError: no expert, no device, a load missing or negative.

    >>> place(5, 2)
    (0, 1, 0, 1, 0)
    >>> place(4, 2, [9, 4, 3, 2])
    (0, 1, 1, 1)
    """
    if experts < 1 or devices < 1:
        raise InputError(f"at least one expert and one device are needed, got {experts} and {devices}")
    if load is None:
        return tuple(expert % devices for expert in range(experts))
    if len(load) != experts:
        raise InputError(f"{experts} experts, but {len(load)} loads", key="load")
    if not all(value >= 0 for value in load):
        raise InputError("a load is a number of at least 0", key="load")
    loads = [(0.0, 0, device) for device in range(devices)]
    chosen = [0] * experts
    for expert in sorted(range(experts), key=lambda e: (-load[e], e)):
        held, count, device = heapq.heappop(loads)
        chosen[expert] = device
        heapq.heappush(loads, (held + load[expert], count + 1, device))
    return tuple(chosen)


def place_layers(
    layers: int, experts: int, devices: int, load: Sequence[Sequence[float]] | None = None
) -> tuple[tuple[int, ...], ...]:
    """`place` for each layer by its own load; round-robin starts a device further in each layer, so that
    a remainder of experts does not always fall to the same devices.

    >>> place_layers(2, 3, 2)
    ((0, 1, 0), (1, 0, 1))
    """
    if load is not None and len(load) != layers:
        raise InputError(f"{layers} layers, but loads of {len(load)}", key="load")
    if load is not None:
        return tuple(place(experts, devices, of_layer) for of_layer in load)
    return tuple(
        tuple((device + layer) % devices for device in place(experts, devices)) for layer in range(layers)
    )


def hottest(load: Mapping[Key, float], capacity: int) -> tuple[Key, ...]:
    """The experts to keep on a device that holds ``capacity``: those of most load; ties: in order.

    >>> hottest({(0, 0): 3, (0, 1): 9, (1, 0): 5}, 2)
    ((0, 1), (1, 0))
    """
    return tuple(sorted(load, key=lambda key: (-load[key], key))[:capacity])


def split_hot_cold(tokens: Sequence[int], threshold: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Active experts of one batch: those with at least ``threshold`` tokens, and the others.

    The same experts are hot or cold by the batch at hand: an expert with many tokens reuses its weights
    and belongs where arithmetic is plenty, one with few where the weights lie.

    >>> split_hot_cold([0, 8, 1, 3], threshold=3)
    ((1, 3), (2,))
    """
    hot = tuple(expert for expert, count in enumerate(tokens) if count >= max(threshold, 1))
    return hot, tuple(expert for expert, count in enumerate(tokens) if 0 < count < threshold)
