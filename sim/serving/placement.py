"""Which replica a request goes to, and whether it moves to another one on its way."""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Protocol

from neardata.arch.errors import InputError
from neardata.sim.serving.batch import Chunk
from neardata.sim.serving.limits import Limits
from neardata.sim.serving.sequence import Sequence


class Scheduler(Protocol):
    """The queues of a replica: `FirstCome`, `Turns`."""

    limits: Limits
    swapped_tokens: int

    def add(self, sequence: Sequence) -> None: ...
    def plan(self) -> list[Chunk]: ...
    def release(self, sequence: Sequence) -> None: ...
    def remove(self, sequence: Sequence) -> None: ...
    def rotate(self, sequence: Sequence) -> None: ...
    def sequences(self) -> list[Sequence]: ...
    @property
    def load(self) -> tuple[int, int]: ...
    @property
    def held_blocks(self) -> int: ...


class Placement(Protocol):
    """Decides by what the queues hold now."""

    moves: bool
    """Whether any sequence ever moves."""

    def place(self, sequence: Sequence, replicas: Many[Scheduler]) -> int:
        """The replica of a request that arrives."""
        ...

    def move(self, sequence: Sequence, at: int, replicas: Many[Scheduler]) -> int | None:
        """Asked at the end of a sequence's prompt and of its first phase: where it goes on."""
        ...


class RoundRobin:
    """One after the other."""

    moves = False

    def __init__(self) -> None:
        self._next = 0

    def place(self, sequence: Sequence, replicas: Many[Scheduler]) -> int:
        """The replica of a request that arrives."""
        self._next += 1
        return (self._next - 1) % len(replicas)

    def move(self, sequence: Sequence, at: int, replicas: Many[Scheduler]) -> int | None:
        """It stays."""
        return None


WAITING_WEIGHT = 4
"""Of a waiting request against a running one, as vLLM's data-parallel balancer has it
(``v1/engine/core_client.py``)."""


class LeastLoaded:
    """The replica with the fewest requests, waiting ones counted four times; of equals the one after
    the last that was chosen."""

    moves = False

    def __init__(self) -> None:
        self._next = 0

    def place(self, sequence: Sequence, replicas: Many[Scheduler]) -> int:
        """The replica of a request that arrives."""
        chosen = least_loaded(replicas, range(len(replicas)), self._next)
        self._next = (chosen + 1) % len(replicas)
        return chosen

    def move(self, sequence: Sequence, at: int, replicas: Many[Scheduler]) -> int | None:
        """It stays."""
        return None


def least_loaded(replicas: Many[Scheduler], among: range, first: int) -> int:
    """The replica of a range with the least load, counted from ``first`` on where loads are equal."""

    def score(i: int) -> tuple[int, int]:
        waiting, running = replicas[i].load
        return WAITING_WEIGHT * waiting + running, (i - first) % len(replicas)

    return min(among, key=score)


class Split:
    """Prompts are read on the first ``prompts`` replicas, all further tokens made on the others
    (Splitwise, arXiv 2311.18677): in both the one that has the fewest tokens left to do.

    Raises:
        InputError: no replica for prompts.
    """

    moves = True

    def __init__(self, prompts: int) -> None:
        if prompts < 1:
            raise InputError(f"at least one replica reads prompts, got {prompts}", key="prompts")
        self.prompts = prompts

    def place(self, sequence: Sequence, replicas: Many[Scheduler]) -> int:
        """The prompt replica with the fewest prompt tokens pending."""
        return min(range(self.prompts), key=lambda i: (sum(s.missing for s in replicas[i].sequences()), i))

    def move(self, sequence: Sequence, at: int, replicas: Many[Scheduler]) -> int | None:
        """To the token replica with the fewest sequences."""
        if at >= self.prompts:
            return None
        return min(range(self.prompts, len(replicas)), key=lambda i: (sum(replicas[i].load), i))


class ByPhase:
    """Requests go where the fewest tokens are kept; at the end of its first phase a sequence moves to
    the replica with the fewest others in theirs (PASCAL, arXiv 2602.11530, algorithms 1 and 2, without
    the filter on instances that violate their objective, which needs their recent token times).

    Args:
        adaptive: the move is given up where the target has no free blocks for it and the source has.
    """

    moves = True

    def __init__(self, *, adaptive: bool = True) -> None:
        self.adaptive = adaptive

    def place(self, sequence: Sequence, replicas: Many[Scheduler]) -> int:
        """The replica that keeps the fewest tokens, those to come counted by their prompts."""
        return min(
            range(len(replicas)), key=lambda i: (sum(s.prompt + s.made for s in replicas[i].sequences()), i)
        )

    def move(self, sequence: Sequence, at: int, replicas: Many[Scheduler]) -> int | None:
        """Where it answers."""
        if not sequence.hidden or sequence.in_first_phase:
            return None

        def others(i: int) -> tuple[int, bool, int]:
            return sum(s.in_first_phase for s in replicas[i].sequences()), i != at, i

        target = min(range(len(replicas)), key=others)
        if target == at:
            return None
        there, here = replicas[target], replicas[at]
        wanted = there.limits.blocks_of(sequence.computed + 1)
        full = there.held_blocks + wanted > there.limits.blocks
        if self.adaptive and full and here.held_blocks < here.limits.blocks:
            return None
        return target
