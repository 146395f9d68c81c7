"""Where the requests of a run come from: a trace file or a generated pattern."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neardata.arch.errors import InputError, nearest

if TYPE_CHECKING:
    from neardata.arch.dram import Device
    from neardata.sim.dram.config import ControllerConfig
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


def check_run(device: Device, config: ControllerConfig, channels: int, *, generated: bool) -> None:
    """Everything that keeps a device from being run, told at once.

    Args:
        generated: the requests are those of a pattern.

    Raises:
        InputError: the device cannot have such a controller, patterns do not fit its memory.
    """
    from neardata.arch.dram.mapping import load_mapping
    from neardata.sim.dram.channel import check_controller

    problems = []
    try:
        check_controller(device, config)
    except InputError as error:
        problems.append(str(error))
    try:
        if generated:
            _check_fits(device, load_mapping(device, config.mapping, channels).capacity_bytes, channels)
    except InputError as error:
        problems.append(str(error))
    if problems:
        raise InputError("; and ".join(problems))


def _check_fits(device: Device, capacity_bytes: int, channels: int) -> None:
    from neardata.arch.dram.mapping import MOST_CHANNELS
    from neardata.workloads import patterns

    covered = patterns.LINES * device.burst_bytes
    if capacity_bytes < covered:
        enough = channels * (covered // capacity_bytes)
        remedy = f"--channels {enough} or a --trace" if enough <= MOST_CHANNELS else "a --trace"
        raise InputError(
            f"patterns cover {covered:,} bytes, the memory has {capacity_bytes:,}; take {remedy}"
        )


def from_pattern(device: Device, name: str, n: int, seed: int) -> RequestSource:
    """Generated requests that fit a device's rows and banks.

    Raises:
        InputError: unknown pattern.
    """
    from neardata.sim.dram.trace import RequestChunk
    from neardata.workloads import patterns

    if name not in patterns.PATTERNS:
        raise InputError(f"unknown pattern '{name}'{nearest(name, patterns.PATTERNS)}")

    def chunks() -> Iterator[RequestChunk]:
        for address, is_write in patterns.requests(
            name, n, seed=seed, line_bytes=device.burst_bytes,
            lines_per_row=device.bursts_per_row, banks=device.n_banks,
        ):  # fmt: skip
            yield RequestChunk(address, is_write)

    return RequestSource(f"pattern {name}, {n:,} requests, seed {seed}", chunks(), n, lambda taken: taken / n)
