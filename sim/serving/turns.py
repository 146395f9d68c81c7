"""Sequences take turns: round robin, with or without precedence for those in their first phase.

A sequence's turn lasts for so many tokens; then it goes to the end of the queue. A step takes the
head of the queue as far as sequences, blocks and the budget go. Keys and values of those passed over
stay where they are while there is room, and else go to the host's memory, to come back with their
next turn (`Batch.swapped_tokens`).

With ``phases``, sequences whose hidden tokens are not all made go before all others, unless they
hold more than ``demote_tokens`` (PASCAL, arXiv 2602.11530: two queues, a quantum of 500 tokens,
demotion above 5,000 tokens; its token pacer is not modelled).
"""

from __future__ import annotations

from neardata.arch.errors import InputError
from neardata.sim.serving.batch import Chunk
from neardata.sim.serving.first_come import check_fits
from neardata.sim.serving.limits import Limits
from neardata.sim.serving.sequence import Sequence


class Turns:
    """The queue of a replica.

    Args:
        limits: of each step.
        quantum: tokens of a turn.
        phases: the first phase goes first.
        demote_tokens: beyond which it does not; None: it always does.

    Raises:
        InputError: a quantum or threshold below 1.
    """

    def __init__(
        self, limits: Limits, *, quantum: int = 500, phases: bool = False, demote_tokens: int | None = 5000
    ) -> None:
        for key, value in (("quantum", quantum), ("demote_tokens", demote_tokens)):
            if value is not None and value < 1:
                raise InputError(f"must be at least 1 token, got {value}", key=key)
        self.limits, self.quantum, self.phases, self.demote_tokens = limits, quantum, phases, demote_tokens
        self.queue: list[Sequence] = []
        self.free = limits.blocks
        self.swapped_tokens = 0
        """Of the step planned last, in and out."""
        self._turns = 0

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence, whose ``computed`` tokens come along.

        Raises:
            InputError: it will not fit alone.
        """
        check_fits(sequence, self.limits)
        sequence.blocks, sequence.swapped = 0, False
        self._new_turn(sequence)
        self.queue.append(sequence)

    @property
    def load(self) -> tuple[int, int]:
        """Sequences without and with blocks."""
        running = sum(1 for sequence in self.queue if sequence.blocks)
        return len(self.queue) - running, running

    @property
    def held_blocks(self) -> int:
        """Blocks in use."""
        return self.limits.blocks - self.free

    def sequences(self) -> list[Sequence]:
        """All that are here."""
        return list(self.queue)

    def plan(self) -> list[Chunk]:
        """The next step's chunks; keys and values are swapped on the way."""
        self.queue.sort(key=self._rank)
        chosen, budget, room = [], self.limits.tokens, self.limits.blocks
        for sequence in self.queue:
            if sequence.made == sequence.generated:  # its last token is under way
                room -= sequence.blocks
                continue
            new = min(sequence.missing, budget)
            blocks = max(self.limits.blocks_of(sequence.computed + new), sequence.blocks)
            if len(chosen) == self.limits.sequences or new <= 0 or blocks > room:
                break
            chosen.append(Chunk(sequence, new))
            budget, room = budget - new, room - blocks
        return self._hold(chosen)

    def _hold(self, chunks: list[Chunk]) -> list[Chunk]:
        """Give each chunk its blocks, those of the last in the queue if need be."""
        wanted = {c.sequence: self.limits.blocks_of(c.sequence.computed + c.tokens) for c in chunks}
        lacking = sum(max(n - sequence.blocks, 0) for sequence, n in wanted.items())
        self.swapped_tokens = 0
        for sequence in reversed(self.queue):
            if lacking <= self.free:
                break
            if sequence.blocks and sequence not in wanted and sequence.made < sequence.generated:
                self.release(sequence)
                sequence.swapped = True
                sequence.preemptions += 1
                self.swapped_tokens += sequence.computed
        for sequence, blocks in wanted.items():
            if sequence.swapped:
                self.swapped_tokens += sequence.computed
                sequence.swapped = False
            if blocks > sequence.blocks:
                self.free -= blocks - sequence.blocks
                sequence.blocks = blocks
        return chunks

    def _rank(self, sequence: Sequence) -> tuple[bool, int]:
        first = self.phases and sequence.in_first_phase
        if first and self.demote_tokens is not None:
            first = sequence.prompt + sequence.made <= self.demote_tokens
        return self.phases and not first, sequence.turn

    def _new_turn(self, sequence: Sequence) -> None:
        self._turns += 1
        sequence.turn, sequence.turn_ends = self._turns, sequence.made + self.quantum

    def release(self, sequence: Sequence) -> None:
        """Give up the blocks of a sequence."""
        self.free += sequence.blocks
        sequence.blocks = 0

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence off; its blocks stay until `release`."""
        self.queue.remove(sequence)

    def rotate(self, sequence: Sequence) -> None:
        """A token was made: at the end of its turn a sequence goes to the end of the queue."""
        if sequence.made >= sequence.turn_ends:
            self._new_turn(sequence)
