"""Requests as the engine sees them: when they come and how many tokens they read and make."""

from __future__ import annotations

from dataclasses import dataclass

from neardata.arch.errors import InputError


@dataclass(frozen=True)
class Arrival:
    """A request."""

    arrival_ps: int
    prompt_tokens: int
    generated_tokens: int
    hidden_tokens: int = 0
    """The first so many generated tokens are not shown to the user: a phase of reasoning."""


@dataclass(slots=True, eq=False)
class Sequence:
    """A request on its way."""

    index: int
    """Of the request in the stream."""
    arrival_ps: int
    prompt: int
    generated: int
    hidden: int = 0
    made: int = 0
    """Tokens generated, those of a step under way included."""
    given: int = 0
    """Tokens of steps that are over."""
    computed: int = 0
    """Tokens whose keys and values are there."""
    blocks: int = 0
    """Blocks held."""
    scheduled_ps: int = -1
    """The first step it is in was planned."""
    first_ps: int = -1
    """First token made."""
    shown_ps: int = -1
    """First token made that is shown."""
    last_ps: int = -1
    preemptions: int = 0
    moves: int = 0
    moving_ps: int = 0
    """Spent between replicas."""
    turn: int = 0
    """Place in a queue that goes round; lower is served first."""
    turn_ends: int = 0
    """Tokens made at which the turn is over."""
    swapped: bool = False
    """Keys and values lie in the host's memory."""

    @property
    def missing(self) -> int:
        """Tokens to compute before the next one is made."""
        return self.prompt + self.made - self.computed

    @property
    def in_first_phase(self) -> bool:
        """Nothing that is shown has been made, and something hidden is left to make."""
        return self.made < self.hidden


def sequence_of(index: int, arrival: Arrival) -> Sequence:
    """A request at its start.

    Raises:
        InputError: no prompt, nothing to generate, more hidden tokens than there are, a negative time.
    """
    key = f"requests[{index}]"
    if arrival.arrival_ps < 0:
        raise InputError(f"arrives at a negative time: {arrival.arrival_ps}", key=key)
    if arrival.prompt_tokens < 1 or arrival.generated_tokens < 1:
        raise InputError(
            f"needs a prompt and a token to make, got {arrival.prompt_tokens} and {arrival.generated_tokens}",
            key=key,
        )
    if not 0 <= arrival.hidden_tokens < arrival.generated_tokens:
        raise InputError(
            f"{arrival.hidden_tokens} of {arrival.generated_tokens} tokens hidden: one must be shown", key=key
        )
    return Sequence(
        index, arrival.arrival_ps, arrival.prompt_tokens, arrival.generated_tokens, arrival.hidden_tokens
    )
