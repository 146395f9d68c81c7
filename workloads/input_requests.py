"""Streams of single inputs, pictures or utterances: when each comes, how long it is.

`neardata.workloads.requests` is the same for language models.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neardata.arch.errors import InputError, nearest
from neardata.workloads.requests import SECOND_PS, arrival_times


@dataclass(frozen=True)
class InputRequest:
    """One input."""

    arrival_ps: int
    """Picoseconds after the stream's start."""
    seconds: float
    """Length of an utterance; 0 for a picture."""


@dataclass(frozen=True)
class Utterances:
    """Lengths drawn from a log-normal distribution, redrawn until they lie between the ends."""

    mean_s: float
    """Of the distribution before its ends are cut."""
    deviation: float
    """Standard deviation of the logarithm."""
    shortest_s: float
    longest_s: float
    source: str


LENGTHS = {
    "librispeech": Utterances(
        7.42, 0.7, 1.0, 35.0,
        "mean: 5.4 h in 2,620 utterances of LibriSpeech test-clean (V. Panayotov et al., ICASSP 2015, "
        "openslr.org/12); log-normal shape, its deviation and its ends: assumed",
    ),
}  # fmt: skip
"""Distributions by name."""


def random_inputs(
    n: int,
    *,
    rate_per_s: float,
    seconds: float | str = 0.0,
    arrivals: str = "poisson",
    variation: float = 1.0,
    seed: int = 0,
) -> list[InputRequest]:
    """n inputs with random gaps, the same for the same arguments.

    Args:
        rate_per_s: inputs a second, on average.
        seconds: length of each (0: pictures), or a name of `LENGTHS`.
        arrivals, variation: as in `neardata.workloads.requests.random_requests`.

    Raises:
        InputError: an unknown name, numbers out of range.

    >>> random_inputs(2, rate_per_s=4, seconds=2.5, arrivals="uniform")[1]
    InputRequest(arrival_ps=500000000000, seconds=2.5)
    """
    draw = np.random.default_rng(seed)
    times = arrival_times(n, draw, rate_per_s=rate_per_s, arrivals=arrivals, variation=variation)
    if isinstance(seconds, str):
        if seconds not in LENGTHS:
            raise InputError(f"unknown lengths '{seconds}'{nearest(seconds, LENGTHS)}", key="seconds")
        lengths = _lengths(n, LENGTHS[seconds], draw)
    elif not math.isfinite(seconds) or seconds < 0:
        raise InputError(f"must be 0 or more, got {seconds}", key="seconds")
    else:
        lengths = np.full(n, float(seconds))
    return [InputRequest(*pair) for pair in zip(times.tolist(), lengths.tolist(), strict=True)]


def _lengths(n: int, of: Utterances, draw: np.random.Generator) -> NDArray[np.float64]:
    middle = math.log(of.mean_s) - of.deviation**2 / 2
    found = draw.lognormal(middle, of.deviation, n)
    while (outside := (found < of.shortest_s) | (found > of.longest_s)).any():
        found[outside] = draw.lognormal(middle, of.deviation, int(outside.sum()))
    return found


COLUMNS = ("arrival_s", "seconds")


def load_inputs(path: str | Path) -> list[InputRequest]:
    """A recorded stream: CSV with a header, ``arrival_s`` and (for utterances) ``seconds``; the first input
    comes at time 0.

    Raises:
        InputError: no column of arrivals, a field that is no number, times that go back, no inputs;
            with the line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"cannot be read: {reason}", file=path) from None
    rows = csv.reader(text.splitlines())
    header = next(rows, [])
    if COLUMNS[0] not in header:
        raise InputError(f"no column '{COLUMNS[0]}'{nearest(COLUMNS[0], header)}", file=path, line=1)
    places = [header.index(name) if name in header else None for name in COLUMNS]
    found: list[InputRequest] = []
    start = last = 0.0
    for row in rows:
        line = rows.line_num
        if not row:
            continue
        if len(row) != len(header):
            raise InputError(f"{len(row)} values for {len(header)} columns", file=path, line=line)
        arrival, seconds = (
            0.0 if place is None else _number(path, line, name, row[place])
            for name, place in zip(COLUMNS, places, strict=True)
        )
        if not found:
            start = last = arrival
        if arrival < last:
            raise InputError("earlier than the input before it", file=path, line=line)
        found.append(InputRequest(round((arrival - start) * SECOND_PS), seconds))
        last = arrival
    if not found:
        raise InputError("holds no inputs", file=path)
    return found


def _number(path: Path, line: int, key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise InputError(f"must be a number from 0, got '{text[:40]}'", file=path, line=line, key=key)
    return value
