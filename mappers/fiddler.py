"""Cold experts on the CPU, by cost: Fiddler (arXiv 2402.07033)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from neardata.arch.errors import InputError
from neardata.mappers.expert_cache import Key
from neardata.mappers.moe_block import Expert, Machine, Passes
from neardata.mappers.offload import Offload, Placer, Writer, keys_of

Objective = Literal["sum", "max"]


@dataclass(frozen=True)
class ExpertTimes:
    """What a policy believes an expert takes; any one unit of time."""

    cpu: Callable[[int], float]
    """Of the CPU, by the number of tokens."""
    device: Callable[[int], float]
    """Of the device, for an expert that is there."""
    fetch: float
    """Of bringing an expert to the device."""


RELEASED = ExpertTimes(cpu=lambda tokens: 7.0 * tokens, device=lambda tokens: 0.0, fetch=70.0)
"""The constants of the released code (src/fiddler/mixtral.py: 7 per token, 70 flat; ms are implied)."""


def choose(
    tokens: Mapping[int, int], on_device: Sequence[int], costs: ExpertTimes, objective: Objective = "sum"
) -> frozenset[int]:
    """Experts that the CPU computes, so that the total cost is least.

    The code of the paper tries all 2^n ways of giving each expert to one side and takes the least sum
    (its comment says maximum). Here only ways that no other beats on both sides are carried from expert
    to expert, which finds the same cost. Of ways that cost the same, the one with fewest experts on the CPU
    is taken.

    Args:
        tokens: of each active expert.
        on_device: experts that need no fetch; they stay on the device.
        objective: ``sum`` of both sides' costs, or the larger one, as if they work side by side.

    >>> sorted(choose({0: 1, 1: 30, 2: 4}, [], RELEASED))
    [0, 2]
    """
    there = set(on_device)
    start = sum(costs.device(count) for expert, count in tokens.items() if expert in there)
    ways: list[tuple[float, float, tuple[int, ...]]] = [
        (0.0, float(start), ())
    ]  # CPU, device, who is on the CPU
    for expert in sorted(set(tokens) - there):
        count = tokens[expert]
        moved = costs.fetch + costs.device(count)
        longer = [(cpu, device + moved, chosen) for cpu, device, chosen in ways]
        longer += [(cpu + costs.cpu(count), device, (*chosen, expert)) for cpu, device, chosen in ways]
        ways, least = [], math.inf
        for way in sorted(longer, key=lambda way: (way[0], way[1], len(way[2]))):
            if way[1] < least:
                ways.append(way)
                least = way[1]
    total = sum if objective == "sum" else max
    return frozenset(min(ways, key=lambda way: (total(way[:2]), len(way[2])))[2])


def place(
    passes: Passes,
    expert: Expert,
    machine: Machine,
    *,
    on_device: Sequence[Key],
    costs: ExpertTimes,
    objective: Objective = "sum",
    staging: int = 1,
    other_bytes: int = 0,
    writer: Writer = Placer,
) -> Offload:
    """Popular experts stay on the device; each other active one is fetched or computed by the CPU.

    Args:
        on_device: the popular ones (`expert_placement.hottest`).
        staging: slots for fetched experts, which are not kept.

    Raises:
        InputError: no staging slot.
    """
    if staging < 1:
        raise InputError(f"at least one slot is needed to fetch an expert into, got {staging}", key="staging")
    placer = writer("cpu-cold", expert, machine, passes, other_bytes)
    placer.place(on_device)
    stage = placer.reserve(staging)
    for at, block in placer.blocks():
        placer.before(at, block)
        keys = keys_of(block)
        tokens = {number: block.tokens[number] for _, number in keys}
        here = [number for layer, number in keys if (layer, number) in placer.slot]
        on_cpu = choose(tokens, here, costs, objective)
        last = [
            placer.compute_on_cpu(at, key, tokens[key[1]], placer.tail) for key in keys if key[1] in on_cpu
        ]
        for number in here:
            last.append(placer.compute(at, (block.layer, number), tokens[number], placer.tail))
            placer.hit()
        fetched = [key for key in keys if key[1] not in on_cpu and key[1] not in here]
        for i, key in enumerate(fetched):
            placer.fetch(at, key, stage[i % staging], placer.tail)
            last.append(placer.compute(at, key, tokens[key[1]], placer.tail))
            placer.leave(key)
        placer.end(at, block, last)
    return placer.done()
