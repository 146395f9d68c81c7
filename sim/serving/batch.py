"""What a step works on, and what it takes."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass

from neardata.sim.serving.sequence import Sequence


@dataclass(frozen=True)
class Batch:
    """One step of one replica; ``new_tokens[i]`` and ``contexts[i]`` are of the same sequence."""

    new_tokens: tuple[int, ...] = ()
    contexts: tuple[int, ...] = ()
    """Tokens of each sequence, the new ones included."""
    swapped_tokens: int = 0
    """Whose keys and values cross between host and device before the step."""

    @property
    def tokens(self) -> int:
        """New tokens in all."""
        return sum(self.new_tokens)


StepTime = Callable[[Many[Batch]], int]
"""Picoseconds of a step, from one batch per replica that steps along; a replica without work has an
empty one."""


@dataclass(frozen=True)
class Chunk:
    """So many new tokens of a sequence."""

    sequence: Sequence
    tokens: int


def batch_of(chunks: Many[Chunk], swapped_tokens: int = 0) -> Batch:
    """The lengths of a step's chunks."""
    return Batch(
        tuple([chunk.tokens for chunk in chunks]),
        tuple([chunk.sequence.computed + chunk.tokens for chunk in chunks]),
        swapped_tokens,
    )
