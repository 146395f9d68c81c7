"""Memory request patterns, the same for the same name, size and seed, in bounded memory.

A pattern is a sequence of *lines* (one DRAM burst each) out of ``LINES``; the byte address
is the line times the bytes of a burst. With ``L`` lines per row of one bank and ``B`` banks below
the row bits, ``line = row * B * L + bank * L + column``. Random numbers come from numpy's PCG64
with the seed given, drawn in the order written here:

==============  ==================================================================================
``stream``      lines 0, 1, 2, ...
``random``      ``integers(0, LINES, n)``
``rowstride``   lines 0, L, 2 L, ...: the next bank each time, no row hit before the wrap-around
``mix21``       ``integers(0, LINES, n)``, then a third of them writes: ``random(n) < 1/3``
``triad``       read i, read LINES/4 + i, write LINES/2 + i, for i = 0, 1, ...
``bankconf``    bank 0, column 0, rows ``integers(0, LINES / (L * B), n)``: serialised by tRC
``zipf``        gathers of 4-line vectors, 2**20 of them in the order ``permutation(2**20)``, of
                Zipf's law with exponent 1.05: ``random(ceil(n / 4))`` through the inverse
                distribution
==============  ==================================================================================

All are reads where nothing is said, and all wrap around at ``LINES``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Lines = tuple[NDArray[np.int64], NDArray[np.bool_]]
"""(n,) line numbers and (n,) whether each is written."""

LINES = 1 << 24
VECTORS, LINES_PER_VECTOR, EXPONENT = 1 << 20, 4, 1.05


def requests(
    name: str,
    n: int,
    *,
    seed: int = 1,
    line_bytes: int = 64,
    lines_per_row: int = 128,
    banks: int = 16,
    chunk: int = 1 << 20,
) -> Iterator[Lines]:
    """The n requests of a pattern, about ``chunk`` at a time: (byte addresses, is_write).

    Args:
        name: one of `PATTERNS`.
        line_bytes: bytes of a burst.
        lines_per_row: bursts in a row of one bank, a power of two.
        banks: banks below the row bits of the address mapping, a power of two.

    The chunk size does not change the requests:

    >>> [address.tolist() for address, _ in requests("rowstride", 5, chunk=4)]
    [[0, 8192, 16384, 24576], [32768]]
    """
    for line, is_write in PATTERNS[name](n, seed, lines_per_row, banks, chunk):
        yield line * line_bytes, is_write


def _steps(n: int, chunk: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, n, chunk):
        yield np.arange(start, min(start + chunk, n), dtype=np.int64)


def _reads(line: NDArray[np.int64]) -> Lines:
    return line, np.zeros(len(line), dtype=bool)


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def _stream(n: int, seed: int, lines_per_row: int, banks: int, chunk: int) -> Iterator[Lines]:
    for i in _steps(n, chunk):
        yield _reads(i % LINES)


def _random(n: int, seed: int, lines_per_row: int, banks: int, chunk: int) -> Iterator[Lines]:
    draw = _generator(seed)
    for i in _steps(n, chunk):
        yield _reads(draw.integers(0, LINES, len(i)))


def _rowstride(n: int, seed: int, lines_per_row: int, banks: int, chunk: int) -> Iterator[Lines]:
    for i in _steps(n, chunk):
        yield _reads(i * lines_per_row % LINES)


def _mix21(n: int, seed: int, lines_per_row: int, banks: int, chunk: int) -> Iterator[Lines]:
    of_lines = _generator(seed)
    # n 24-bit integers use up half a 64-bit output each, and the writes are drawn after them
    of_writes = np.random.Generator(np.random.PCG64(seed).advance((n + 1) // 2))
    for i in _steps(n, chunk):
        yield of_lines.integers(0, LINES, len(i)), of_writes.random(len(i)) < 1.0 / 3.0


def _triad(n: int, seed: int, lines_per_row: int, banks: int, chunk: int) -> Iterator[Lines]:
    base = np.array([0, LINES // 4, LINES // 2])
    for i in _steps(n, chunk):
        yield (base[i % 3] + i // 3) % LINES, i % 3 == 2


def _bankconf(n: int, seed: int, lines_per_row: int, banks: int, chunk: int) -> Iterator[Lines]:
    draw, row_lines = _generator(seed), lines_per_row * banks
    for i in _steps(n, chunk):
        yield _reads(draw.integers(0, LINES // row_lines, len(i)) * row_lines)


def _zipf(n: int, seed: int, lines_per_row: int, banks: int, chunk: int) -> Iterator[Lines]:
    draw = _generator(seed)
    weight = (np.arange(VECTORS) + 1.0) ** -EXPONENT
    distribution = np.cumsum(weight) / weight.sum()
    order = draw.permutation(VECTORS)
    step = max(chunk // LINES_PER_VECTOR, 1) * LINES_PER_VECTOR
    for start in range(0, n, step):
        count = min(step, n - start)
        rank = np.searchsorted(distribution, draw.random(-(-count // LINES_PER_VECTOR)), side="right")
        vector = order[np.minimum(rank, VECTORS - 1)]
        line = vector[:, None] * LINES_PER_VECTOR + np.arange(LINES_PER_VECTOR)
        yield _reads(line.ravel()[:count])


PATTERNS: dict[str, Callable[[int, int, int, int, int], Iterator[Lines]]] = {
    "stream": _stream,
    "random": _random,
    "rowstride": _rowstride,
    "mix21": _mix21,
    "triad": _triad,
    "bankconf": _bankconf,
    "zipf": _zipf,
}
"""Pattern by name."""
