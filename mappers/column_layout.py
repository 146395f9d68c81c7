"""Where the columns of a file lie in a drive's flash: partitions over channels and dies.

Column chunks follow each other, each from the start of a page, and pages fill the drive in its order of
allocation, as a drive that was written in order holds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from neardata.arch.errors import InputError
from neardata.arch.storage import Ssd
from neardata.workloads.graph import Graph


@dataclass(frozen=True)
class Chunk:
    """The pages of one column in one mini-batch."""

    name: str
    bytes: int
    first: int
    """Logical page."""
    pages: int


@dataclass(frozen=True)
class ColumnLayout:
    """Chunks in the order they are stored and read."""

    ssd: Ssd
    chunks: tuple[Chunk, ...]

    @property
    def pages(self) -> int:
        """Of all chunks."""
        return sum(chunk.pages for chunk in self.chunks)

    def per_channel(self) -> list[int]:
        """Pages on each channel."""
        counts = [0] * self.ssd.flash.channels
        for chunk in self.chunks:
            for page in range(chunk.first, chunk.first + chunk.pages):
                counts[place(self.ssd, page)["C"]] += 1
        return counts

    def channels_of(self, chunk: Chunk) -> int:
        """Channels that reading a chunk can use at once."""
        pages = range(chunk.first, chunk.first + chunk.pages)
        return len({place(self.ssd, page)["C"] for page in pages})

    def dies_of(self, chunk: Chunk) -> int:
        """Dies that reading a chunk can use at once."""
        places = (place(self.ssd, page) for page in range(chunk.first, chunk.first + chunk.pages))
        return len({(at["C"], at["W"], at["D"]) for at in places})


def place(ssd: Ssd, page: int) -> Mapping[str, int]:
    """Channel (C), chip (W), die (D) and plane (P) of a logical page.

    >>> from neardata.arch.storage import load_ssd
    >>> place(load_ssd("smartssd"), 9)
    {'C': 1, 'W': 1, 'D': 0, 'P': 0}
    """
    flash, at = ssd.flash, {}
    sizes = {
        "C": flash.channels,
        "W": flash.chips_per_channel,
        "D": flash.dies_per_chip,
        "P": flash.planes_per_die,
    }
    for letter in ssd.mapping.allocation:
        page, at[letter] = divmod(page, sizes[letter])
    return at


def lay_columns(graphs: Iterable[Graph], ssd: Ssd) -> ColumnLayout:
    """Columns of mini-batches, one behind the other.

    Raises:
        InputError: they are more than the drive holds.
    """
    chunks, first = [], 0
    for b, graph in enumerate(graphs):
        for operator in graph:
            if operator.kind == "parquet_decode":
                size = graph.tensors[operator.inputs[0]].bytes
                pages = -(-size // ssd.flash.page_bytes)
                chunks.append(Chunk(f"b{b}.{operator.inputs[0]}", size, first, pages))
                first += pages
    if first > ssd.logical_pages:
        need, there = first * ssd.flash.page_bytes, ssd.logical_pages * ssd.flash.page_bytes
        raise InputError(
            f"columns of {need:,} bytes in whole pages do not fit {ssd.name}, {there:,} bytes: "
            f"{need - there:,} too many"
        )
    return ColumnLayout(ssd, tuple(chunks))
