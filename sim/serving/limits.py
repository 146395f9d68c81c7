"""What a step of a replica may hold."""

from __future__ import annotations

from dataclasses import dataclass

from neardata.arch.errors import InputError

_GRAPH_MOST = 512


@dataclass(frozen=True)
class Limits:
    """Of one replica, as vLLM's ``max_num_batched_tokens``, ``max_num_seqs`` and KV blocks.

    Raises:
        InputError: a limit below 1, or fewer tokens in a step than sequences may run.

    >>> Limits(tokens=2048, sequences=128, blocks=1000).blocks_of(17)
    2
    """

    tokens: int = 2048
    """New tokens in a step."""
    sequences: int = 128
    """Sequences that run at once."""
    blocks: int = 1 << 40
    """Blocks for keys and values."""
    block_tokens: int = 16
    """Tokens of a block."""

    def __post_init__(self) -> None:
        for key in ("tokens", "sequences", "blocks", "block_tokens"):
            if getattr(self, key) < 1:
                raise InputError(f"must be at least 1, got {getattr(self, key)}", key=key)
        if self.tokens < self.sequences:
            raise InputError(
                f"{self.tokens} tokens a step do not give each of {self.sequences} sequences one",
                key="tokens",
            )

    @property
    def graph_tokens(self) -> int:
        """New tokens up to which a step is a recorded graph: twice the sequences, at most 512, as vLLM has
        it (``max_cudagraph_capture_size``).

        >>> Limits(sequences=128).graph_tokens, Limits(sequences=1000).graph_tokens
        (256, 512)
        """
        return min(2 * self.sequences, _GRAPH_MOST)

    def blocks_of(self, tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-tokens // self.block_tokens)
