"""Block requests: generated ones, and traces in MQSim's form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neardata.arch.errors import InputError

SECTOR = 512
WRITE, READ = 0, 1

Columns = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Operations (READ or WRITE), first sectors, numbers of sectors."""


@dataclass(frozen=True)
class BlockPattern:
    """Requests of one size over the first sectors of a drive.

    >>> pattern = BlockPattern("sequential", 8192, read_share=1.0, space_sectors=64, start=48)
    >>> op, lba, sectors = next(pattern.chunks(3))
    >>> lba.tolist()
    [48, 0, 16]
    """

    order: Literal["random", "sequential", "zipf"]
    size_bytes: int
    read_share: float
    space_sectors: int
    """What is addressed; requests are aligned to their size."""
    theta: float = 0.99
    """Of ``zipf``: popularity of the k-th most popular place is 1 / k^theta."""
    start: int | None = None
    """First sector of ``sequential``; drawn, if None."""
    seed: int = 1

    def chunks(self, n: int) -> Iterator[Columns]:
        """``n`` requests, then as many more as are wanted.

        Raises:
            InputError: a size that is not whole sectors, or that the space does not hold.
        """
        if self.size_bytes < SECTOR or self.size_bytes % SECTOR:
            raise InputError(f"must be a multiple of {SECTOR} bytes, got {self.size_bytes:,}", key="size")
        if not 0 <= self.read_share <= 1:
            raise InputError(f"must be from 0 to 1, got {self.read_share:g}", key="read share")
        if not 0 < self.theta < 1:
            raise InputError(f"must be above 0 and below 1, got {self.theta:g}", key="zipf theta")
        sectors = self.size_bytes // SECTOR
        places = self.space_sectors // sectors
        if places < 1:
            raise InputError(
                f"a request has {self.size_bytes:,} bytes, the space {self.space_sectors * SECTOR:,}",
                key="size",
            )
        rng = np.random.Generator(np.random.PCG64(self.seed))
        at = int(rng.integers(places)) if self.start is None else self.start // sectors
        draw = _Zipf(places, self.theta) if self.order == "zipf" else None
        while True:
            op = np.where(rng.random(n) < self.read_share, READ, WRITE)
            if self.order == "sequential":
                place = (at + np.arange(n)) % places
                at = (at + n) % places
            elif draw is None:
                place = rng.integers(places, size=n)
            else:
                place = draw(rng, n)
            yield op, place * sectors, np.full(n, sectors)


class _Zipf:
    """Ranks by the closed form of Gray et al., Quickly generating billion-record databases, SIGMOD 1994,
    spread
    over the places by a stride that has no factor in common with their number."""

    def __init__(self, places: int, theta: float) -> None:
        self.places, self.theta = places, theta
        head = min(places, 1 << 16)
        zeta = float(np.sum(np.arange(1, head + 1, dtype=float) ** -theta))
        # the rest of the sum as an integral
        self.zeta = zeta + (places ** (1 - theta) - head ** (1 - theta)) / (1 - theta)
        self.stride = next(k for k in range(int(places * 0.618) + 1, 2 * places + 2) if gcd(k, places) == 1)
        self.second = 1 + 0.5**theta
        self.eta = (1 - (2 / places) ** (1 - theta)) / (1 - self.second / self.zeta) if places > 2 else 1.0

    def __call__(self, rng: np.random.Generator, n: int) -> NDArray[np.int64]:
        u = rng.random(n)
        rank = (self.places * (self.eta * u - self.eta + 1) ** (1 / (1 - self.theta))).astype(np.int64)
        rank = np.where(u * self.zeta < 1, 0, np.where(u * self.zeta < self.second, 1, rank))
        return np.clip(rank, 0, self.places - 1) * self.stride % self.places


def poisson(n: int, per_s: float, seed: int) -> NDArray[np.float64]:
    """Arrivals in ns of ``n`` requests at random times."""
    if not per_s > 0:
        raise InputError(f"must be above 0, got {per_s:g}", key="rate")
    return np.cumsum(np.random.Generator(np.random.PCG64([seed, 1])).exponential(1e9 / per_s, n))


def read_block_trace(path: Path) -> tuple[NDArray[np.float64], Columns]:
    """A trace in MQSim's form: lines of arrival in ns, device, first sector, sectors, 0 (write) or 1 (read).

    Returns:
        Arrivals in ns; operations, sectors, lengths. The device is not looked at.

    Raises:
        InputError: an unreadable file, a line that is not such a line, times that run backwards.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"cannot be read: {reason}", file=path) from None
    rows: list[tuple[int, int, int, int]] = []
    before = 0
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 5:
            raise InputError(
                f"must be five numbers (arrival in ns, device, sector, sectors, 0 or 1), got {len(words)}",
                file=path, line=number,
            )  # fmt: skip
        try:
            arrival, _, lba, sectors, op = (int(word) for word in words)
        except ValueError:
            wrong = next(word for word in words if not word.lstrip("-").isdigit())
            raise InputError(f"'{wrong}' is not a whole number", file=path, line=number) from None
        problem = (
            f"arrives before 0: {arrival}" if arrival < 0
            else f"arrives at {arrival} ns, before the request above" if arrival < before
            else f"sector {lba} is below 0" if lba < 0
            else f"{sectors} sectors" if not 0 < sectors <= 1 << 20
            else f"operation {op} is neither 0 (write) nor 1 (read)" if op not in (WRITE, READ)
            else f"arrival or sector is beyond {2**53:,}" if max(arrival, lba) > 2**53
            else None
        )  # fmt: skip
        if problem is not None:
            raise InputError(problem, file=path, line=number)
        rows.append((arrival, op, lba, sectors))
        before = arrival
    if not rows:
        raise InputError("has no requests", file=path)
    table = np.array(rows, np.int64)
    return table[:, 0].astype(np.float64), (table[:, 1], table[:, 2], table[:, 3])
