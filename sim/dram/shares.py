"""A stream of requests, cut into pieces and dealt out to the channels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neardata.arch.dram.mapping import AddressMapping
from neardata.arch.errors import InputError
from neardata.sim.dram.trace import RequestChunk

PIECE = 1 << 20
"""Requests handed out at a time: ages, which 27 bits hold, are renewed in between."""
BLOCK = 1 << 15
"""A thread sorts at least so many by channel."""
LAST_ARRIVAL = (1 << 60) - 1
"""Ticks beyond leave no room for what follows."""

Ints = NDArray[np.int64]
NONE = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Share:
    """One channel's part of a piece."""

    address: Ints
    is_write: NDArray[np.uint8]
    arrival: Ints
    """Empty: as soon as accepted."""
    index: Ints
    """Position of each request in the whole stream; empty where nobody asked."""


class Dealer:
    """Deals pieces out to the channels.

    Args:
        low_bits: bits of an address to clear.
        indexed: fill in `Share.index`.
        threads: how many blocks of a piece may be sorted at a time, in ``pool``.
    """

    def __init__(
        self, mapping: AddressMapping, pool: ThreadPoolExecutor, *, threads: int, low_bits: int, indexed: bool
    ) -> None:
        self.mapping, self.pool, self.threads = mapping, pool, threads
        self.low_bits, self.indexed = low_bits, indexed
        self.taken = 0

    def deal(self, piece: RequestChunk) -> list[Piles]:
        """Every channel's requests of the next piece.

        Raises:
            InputError: an address beyond the capacity, an arrival too far in the future.
        """
        address = _plain(piece.address)
        is_write = np.ascontiguousarray(piece.is_write, dtype=bool).astype(np.uint8)
        arrival = NONE if piece.arrival is None else _plain(piece.arrival)
        if len(arrival) and arrival.max() > LAST_ARRIVAL:
            late = int(np.argmax(arrival > LAST_ARRIVAL))
            which, when = self.taken + late + 1, arrival[late]
            raise InputError(f"request {which} arrives in cycle {when}; arrivals go up to {LAST_ARRIVAL}")
        first, self.taken = self.taken, self.taken + len(piece)
        if self.mapping.channels == 1:
            self._check(int(address.min()), int(address.max()))
            if self.low_bits:
                address = address & ~self.low_bits
            index = np.arange(first, self.taken) if self.indexed else NONE
            return [Piles([Share(address, is_write, arrival, index)])]
        return self._split(address, is_write, arrival, first)

    def _split(self, address: Ints, is_write: NDArray[np.uint8], arrival: Ints, first: int) -> list[Piles]:
        from neardata.sim.dram.split_kernel import split  # here: one channel does without

        n, channels = len(address), self.mapping.channels
        blocks = max(1, min(self.threads, n // BLOCK))
        cuts = [n * b // blocks for b in range(blocks + 1)]
        start = np.zeros((blocks, channels + 1), dtype=np.int64)
        channel, sorted_address = np.empty(n, dtype=np.int16), np.empty(n, dtype=np.int64)
        sorted_write, sorted_arrival = np.empty(n, dtype=np.uint8), np.empty(len(arrival), dtype=np.int64)
        index = np.empty(n if self.indexed else 0, dtype=np.int64)
        slices = self.mapping.channel_slices

        def sort(b: int) -> tuple[int, int]:
            return split(
                address, is_write, arrival, cuts[b], cuts[b + 1], slices, self.low_bits, channels,
                start[b], channel, sorted_address, sorted_write, sorted_arrival, index,
            )  # fmt: skip

        ranges = list(self.pool.map(sort, range(blocks)))
        self._check(min(low for low, _ in ranges), max(high for _, high in ranges))
        index += first

        def pile(b: int, c: int) -> Share:
            mine = slice(start[b, c], start[b, c + 1])
            return Share(sorted_address[mine], sorted_write[mine], sorted_arrival[mine], index[mine])

        return [Piles([pile(b, c) for b in range(blocks)]) for c in range(channels)]

    def _check(self, least: int, greatest: int) -> None:
        capacity = self.mapping.capacity_bytes
        if least < 0 or greatest >= capacity:
            worst = least if least < 0 else greatest
            raise InputError(f"address {worst:#x} is beyond the {capacity:#x} bytes of memory")


def _plain(numbers: Ints) -> Ints:
    """As an array of the one kind that kernels are compiled for."""
    return np.require(numbers, np.int64, ["C", "A", "W"])


@dataclass(frozen=True)
class Piles:
    """A channel's share, as many threads sorted it out."""

    parts: list[Share]

    def together(self) -> Share:
        """One share; a copy where there are several parts."""
        if len(self.parts) == 1:
            return self.parts[0]
        return Share(
            np.concatenate([part.address for part in self.parts]),
            np.concatenate([part.is_write for part in self.parts]),
            np.concatenate([part.arrival for part in self.parts]),
            np.concatenate([part.index for part in self.parts]),
        )


def pieces(chunks: Iterable[RequestChunk]) -> Iterator[tuple[RequestChunk, bool]]:
    """The same requests, at most `PIECE` at a time; with each, whether it is the last."""
    ahead = None
    for chunk in chunks:
        for start in range(0, len(chunk), PIECE):
            part = slice(start, start + PIECE)
            arrival = None if chunk.arrival is None else chunk.arrival[part]
            piece = RequestChunk(chunk.address[part], chunk.is_write[part], arrival)
            if (
                not len(piece.address)
                == len(piece.is_write)
                == (len(piece) if arrival is None else len(arrival))
            ):
                raise ValueError("address, is_write and arrival of a chunk differ in length")
            if ahead is not None:
                yield ahead, False
            ahead = piece
    if ahead is not None:
        yield ahead, True
