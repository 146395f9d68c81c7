"""Where the requests of a run come from: a trace file or a generated pattern."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neardata.arch.errors import InputError, nearest

if TYPE_CHECKING:
    from neardata.arch.dram import Device
    from neardata.sim.dram.trace import RequestChunk

PATTERN, REQUESTS, SEED = "random", 100_000, 1


@dataclass(frozen=True)
class RequestSource:
    """Requests to replay."""

    text: str
    """What they are, for people."""
    chunks: Iterable[RequestChunk]
    total: int | None
    """Number of requests, where known beforehand."""
    fraction: Callable[[int], float]
    """Share done, given the number of requests taken so far."""


def from_trace(path: Path, capacity_bytes: int) -> RequestSource:
    """The requests of a trace file.

    Raises:
        InputError: see `neardata.sim.dram.trace.open_trace`.
    """
    from neardata.sim.dram.trace import open_trace

    trace = open_trace(path, capacity_bytes=capacity_bytes)
    return RequestSource(f"trace {path}", trace, None, lambda _: trace.fraction_read)


def from_pattern(device: Device, name: str, n: int, seed: int, capacity_bytes: int) -> RequestSource:
    """Generated requests that fit a device's rows and banks.

    Raises:
        InputError: unknown pattern, or the memory is smaller than what patterns cover.
    """
    from neardata.sim.dram.trace import RequestChunk
    from neardata.workloads import patterns

    if name not in patterns.PATTERNS:
        raise InputError(f"unknown pattern '{name}'{nearest(name, patterns.PATTERNS)}")
    if capacity_bytes < patterns.LINES * device.burst_bytes:
        needed = patterns.LINES * device.burst_bytes
        raise InputError(f"patterns cover {needed} bytes, the memory has {capacity_bytes}")

    def chunks() -> Iterator[RequestChunk]:
        for address, is_write in patterns.requests(
            name, n, seed=seed, line_bytes=device.burst_bytes,
            lines_per_row=device.bursts_per_row, banks=device.n_banks,
        ):  # fmt: skip
            yield RequestChunk(address, is_write)

    return RequestSource(f"pattern {name}, {n:,} requests, seed {seed}", chunks(), n, lambda taken: taken / n)
