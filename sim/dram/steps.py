"""Steps from the nested lists and dictionaries of a program, for generators that are called often.

`Program.from_dict` checks every key and names what is wrong; what a generator writes needs no such
care. `steps` takes the same form (see `neardata.sim.dram.program`) and gives the same steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from neardata.sim.dram.program import (
    Affine,
    ChannelGroup,
    Fence,
    Issue,
    Loop,
    Parallel,
    Phase,
    Step,
    Wait,
)

_parse = lru_cache(maxsize=1 << 16)(Affine.parse)


def steps(data: list[Any]) -> tuple[Step, ...]:
    """Steps of a body: commands, loops, phases, fences, waits and parallel streams.

    >>> steps([{"loop": {"i": 2}, "body": [{"ACT16": {"row": "i"}}, "PREA"]}])[0].body[1]
    Issue(command='PREA', at={}, repeat=1, index=None)
    """
    return tuple(_step(item) for item in data)


def _step(item: Any) -> Step:
    if isinstance(item, str):
        return Issue(item)
    if "loop" in item:
        times, index = _count(item["loop"])
        return Loop(times, steps(item["body"]), index)
    if "phase" in item:
        return Phase(item["phase"], steps(item["body"]))
    if "fence" in item:
        return Fence(item["fence"], item.get("plus", 0))
    if "wait" in item:
        return Wait(item["wait"])
    if "parallel" in item:
        return Parallel(tuple(steps(stream) for stream in item["parallel"]))
    repeat, index = _count(item["repeat"]) if "repeat" in item else (1, None)
    ((command, fields),) = ((key, value) for key, value in item.items() if key != "repeat")
    return Issue(command, {name: _parse(value) for name, value in (fields or {}).items()}, repeat, index)


def _count(value: int | Mapping[str, int]) -> tuple[int, str | None]:
    if isinstance(value, int):
        return value, None
    ((index, times),) = value.items()
    return times, index


def share_out(
    blocks: int, channels: int, body: Callable[[int], tuple[Step, ...]]
) -> tuple[ChannelGroup, ...]:
    """Blocks of work round robin over the channels: ``body(n)`` for those that get n of them.

    Channels without work are left out.

    >>> [(g.channels, len(g.body)) for g in share_out(7, 4, lambda n: steps(["PREA"] * n))]
    [(3, 2), (1, 1)]
    """
    each, more = divmod(blocks, channels)
    counts = ((more, each + 1), (channels - more, each))
    return tuple(ChannelGroup(count, body(n)) for count, n in counts if count and n)


def turns(first: int, count: int, channel: int, channels: int) -> int:
    """How many of the numbers ``first`` to ``first + count`` are a channel's when they go round robin.

    >>> [turns(3, 4, channel, 3) for channel in range(3)]     # 3, 4, 5, 6
    [2, 1, 1]
    """
    until = (first + count + channels - 1 - channel) // channels
    return until - (first + channels - 1 - channel) // channels


def rounds(counts: Iterable[int], channel: int, channels: int) -> tuple[int, ...]:
    """How many of each of several runs of blocks are a channel's, when all go round robin, one run behind the
    other.

    >>> [rounds([2, 3, 1], channel, 3) for channel in range(3)]
    [(1, 1, 0), (1, 1, 0), (0, 1, 1)]
    """
    mine, first = [], 0
    for count in counts:
        mine.append(turns(first, count, channel, channels))
        first += count
    return tuple(mine)


def classes(sizes: Iterable[int]) -> list[tuple[int, int]]:
    """Sizes from the largest, and how many there are of each.

    >>> classes([3, 5, 3])
    [(5, 1), (3, 2)]
    """
    return sorted(Counter(sizes).items(), reverse=True)
