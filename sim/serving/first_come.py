"""First come, first served, as the scheduler of vLLM's V1 engine (0.19, ``v1/core/sched/scheduler.py``).

A step takes the running sequences in the order they were admitted, each with all tokens it is
missing as far as the budget goes: one where it decodes, a chunk where its prompt is not read yet.
Where blocks run out, the sequence admitted last gives its own up and is computed anew later. Then,
unless a sequence was so preempted, waiting ones are admitted in order while the budget, the number
of sequences and the blocks allow. Decodes and chunks of prompts share a step.
"""

from __future__ import annotations

from collections import deque

from neardata.arch.errors import InputError
from neardata.sim.serving.batch import Chunk
from neardata.sim.serving.limits import Limits
from neardata.sim.serving.sequence import Sequence


class FirstCome:
    """The queues of a replica.

    Args:
        limits: of each step.
        whole_prompt: a sequence is admitted only where blocks for all it is missing are free, not
            only for its first chunk (vLLM's ``scheduler_reserve_full_isl``).
    """

    def __init__(self, limits: Limits, *, whole_prompt: bool = True) -> None:
        self.limits, self.whole_prompt = limits, whole_prompt
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.free = limits.blocks
        self.swapped_tokens = 0
        """Always 0: what is preempted is computed anew."""

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence, whose ``computed`` tokens come along.

        Raises:
            InputError: it will not fit alone.
        """
        check_fits(sequence, self.limits)
        sequence.blocks = 0
        self.waiting.append(sequence)

    @property
    def load(self) -> tuple[int, int]:
        """Waiting and running sequences."""
        return len(self.waiting), len(self.running)

    @property
    def held_blocks(self) -> int:
        """Blocks in use."""
        return self.limits.blocks - self.free

    def sequences(self) -> list[Sequence]:
        """All that are here."""
        return [*self.running, *self.waiting]

    def plan(self) -> list[Chunk]:
        """The next step's chunks; sequences are admitted and preempted on the way."""
        limits, chunks = self.limits, []
        budget, preempted, i = limits.tokens, False, 0
        while i < len(self.running) and budget > 0:
            sequence = self.running[i]
            if sequence.made == sequence.generated:  # its last token is under way
                i += 1
                continue
            new = min(sequence.missing, budget)
            given_up = self._make_room(sequence, new)
            preempted |= bool(given_up)
            if sequence in given_up:
                break
            self._hold(sequence, sequence.computed + new)
            chunks.append(Chunk(sequence, new))
            budget -= new
            i += 1
        while self.waiting and not preempted and budget > 0 and len(self.running) < limits.sequences:
            sequence = self.waiting[0]
            new = min(sequence.missing, budget)
            wanted = sequence.prompt + sequence.made if self.whole_prompt else sequence.computed + new
            if limits.blocks_of(wanted) > self.free:
                break
            self.waiting.popleft()
            self.running.append(sequence)
            self._hold(sequence, sequence.computed + new)
            chunks.append(Chunk(sequence, new))
            budget -= new
        return chunks

    def _make_room(self, sequence: Sequence, new: int) -> list[Sequence]:
        """Preempt from the end until the sequence's new tokens fit; those that were. One whose last
        token is under way keeps its blocks until then."""
        lacking = self.limits.blocks_of(sequence.computed + new) - sequence.blocks
        given_up: list[Sequence] = []
        while lacking > self.free and sequence not in given_up:
            last = next(s for s in reversed(self.running) if s.made < s.generated)
            self.running.remove(last)
            self.release(last)
            last.computed = 0
            last.preemptions += 1
            self.waiting.appendleft(last)
            given_up.append(last)
        return given_up

    def _hold(self, sequence: Sequence, tokens: int) -> None:
        blocks = self.limits.blocks_of(tokens)
        if blocks > sequence.blocks:
            self.free -= blocks - sequence.blocks
            sequence.blocks = blocks

    def release(self, sequence: Sequence) -> None:
        """Give up the blocks of a sequence."""
        self.free += sequence.blocks
        sequence.blocks = 0

    def remove(self, sequence: Sequence) -> None:
        """Take a running sequence off; its blocks stay until `release`."""
        self.running.remove(sequence)

    def rotate(self, sequence: Sequence) -> None:
        """A token was made; there are no turns to end."""


def check_fits(sequence: Sequence, limits: Limits) -> None:
    """Raises InputError where a sequence at its longest takes more blocks than there are."""
    # the last token's keys and values are not kept
    longest = sequence.prompt + sequence.generated - 1
    if limits.blocks_of(longest) > limits.blocks:
        raise InputError(
            f"{longest} tokens take {limits.blocks_of(longest)} blocks, and there are {limits.blocks}",
            key=f"requests[{sequence.index}]",
        )
