"""Streams of requests to a language model: when each comes, how long it is.

Random arrivals, and recorded ones: the Azure LLM traces' CSV (Azure/AzurePublicDataset) and JSON Lines
logs of vLLM runs.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neardata.arch.errors import InputError, nearest

SECOND_PS = 10**12


@dataclass(frozen=True)
class Request:
    """One request of a stream."""

    arrival_ps: int
    """Picoseconds after the stream's start."""
    prompt_tokens: int
    generated_tokens: int


ARRIVALS = ("poisson", "gamma", "uniform")


def random_requests(
    n: int,
    *,
    rate_per_s: float,
    prompt_tokens: int | tuple[int, int],
    generated_tokens: int | tuple[int, int],
    arrivals: str = "poisson",
    variation: float = 1.0,
    seed: int = 0,
) -> list[Request]:
    """n requests with random gaps, the same for the same arguments.

    Args:
        rate_per_s: requests a second, on average.
        prompt_tokens, generated_tokens: a length, or the smallest and largest of uniform ones.
        arrivals: ``poisson`` (exponential gaps), ``gamma`` (gaps with the coefficient of variation
            ``variation``) or ``uniform`` (equal gaps).

    Raises:
        InputError: an unknown kind of arrivals, sizes out of range.

    >>> [r.arrival_ps for r in random_requests(
    ...     3, rate_per_s=4, prompt_tokens=10, generated_tokens=5, arrivals="uniform")]
    [250000000000, 500000000000, 750000000000]
    """
    draw = np.random.default_rng(seed)
    times = arrival_times(n, draw, rate_per_s=rate_per_s, arrivals=arrivals, variation=variation)
    lengths = []
    for key, given in (("prompt_tokens", prompt_tokens), ("generated_tokens", generated_tokens)):
        low, high = (given, given) if isinstance(given, int) else given
        if not 1 <= low <= high:
            raise InputError(f"lengths from 1, smallest first, got {given}", key=key)
        lengths.append(draw.integers(low, high, n, endpoint=True))
    return [
        Request(int(time), int(prompt), int(generated))
        for time, prompt, generated in zip(times, *lengths, strict=True)
    ]


def arrival_times(
    n: int, draw: np.random.Generator, *, rate_per_s: float, arrivals: str = "poisson", variation: float = 1.0
) -> NDArray[np.int64]:
    """(n,) picoseconds at which requests come; see `random_requests`.

    Raises:
        InputError: an unknown kind of arrivals, numbers out of range.
    """
    if arrivals not in ARRIVALS:
        raise InputError(f"unknown arrivals '{arrivals}'{nearest(arrivals, ARRIVALS)}", key="arrivals")
    if n < 1:
        raise InputError(f"at least one request, got {n}", key="n")
    for key, value in (("rate_per_s", rate_per_s), ("variation", variation)):
        if not math.isfinite(value) or value <= 0:
            raise InputError(f"must be a number above 0, got {value}", key=key)
    if arrivals == "uniform":
        gaps = np.full(n, 1.0 / rate_per_s)
    else:
        shape = 1.0 if arrivals == "poisson" else variation**-2
        gaps = draw.gamma(shape, 1.0 / (shape * rate_per_s), n)
    return np.rint(np.cumsum(gaps) * SECOND_PS).astype(np.int64)


def load_requests(path: str | Path) -> list[Request]:
    """A recorded stream, the first request at time 0: ``.csv`` in the form of the Azure LLM traces,
    ``.jsonl`` in that of vLLM's request logs.

    Raises:
        InputError: an unknown ending, missing columns or keys, times that go back, lengths that are no
            number of tokens, a file without requests; with the line.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "trace.csv"
    ...     _ = path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\\n2.0,30,4\\n2.5,10,7\\n")
    ...     load_requests(path)[1]
    Request(arrival_ps=500000000000, prompt_tokens=10, generated_tokens=7)
    """
    path = Path(path)
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl}
    if path.suffix not in readers:
        raise InputError(f"unknown ending '{path.suffix}'{nearest(path.suffix, readers)}", file=path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"cannot be read: {reason}", file=path) from None
    return _from_zero(path, readers[path.suffix](path, text))


_Row = tuple[int, int, int, int]
"""Line, time in picoseconds on any clock, prompt and generated tokens."""


def _from_zero(path: Path, rows: Iterable[_Row]) -> list[Request]:
    requests: list[Request] = []
    start = last = 0
    for line, time, prompt, generated in rows:
        if not requests:
            start = last = time
        if time < last:
            raise InputError("earlier than the request before it", file=path, line=line)
        requests.append(Request(time - start, prompt, generated))
        last = time
    if not requests:
        raise InputError("holds no requests", file=path)
    return requests


COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
EPOCH = datetime(1970, 1, 1)


def _read_csv(path: Path, text: str) -> Iterable[_Row]:
    rows = csv.reader(text.splitlines())
    header = next(rows, None)
    if header is None:
        raise InputError("holds no requests", file=path)
    for column in COLUMNS:
        if column not in header:
            raise InputError(f"no column '{column}'{nearest(column, header)}", file=path, line=1)
    places = [header.index(column) for column in COLUMNS]
    for row in rows:
        line = rows.line_num
        if not row:
            continue
        if len(row) != len(header):
            raise InputError(f"{len(row)} values for {len(header)} columns", file=path, line=line)
        stamp, prompt, generated = (row[place] for place in places)
        yield (
            line,
            _timestamp(path, line, stamp),
            _tokens(path, line, COLUMNS[1], prompt),
            _tokens(path, line, COLUMNS[2], generated),
        )


def _timestamp(path: Path, line: int, text: str) -> int:
    """Picoseconds since 1970 of ``2023-11-16 18:17:03.9799600`` or of a number of seconds."""
    seconds, _, fraction = text.strip().partition(".")
    try:
        if "-" in seconds[1:] or ":" in seconds:
            fraction, plus, zone = fraction.partition("+")
            if plus and zone.strip("0:"):
                raise ValueError
            whole = (datetime.fromisoformat(seconds.removesuffix("Z")) - EPOCH) // timedelta(seconds=1)
        else:
            whole = int(seconds)
        if fraction and not fraction.isdigit():
            raise ValueError
    except ValueError:
        raise InputError(f"no time: '{text}'", file=path, line=line, key=COLUMNS[0]) from None
    if whole < 0 or seconds.startswith("-"):
        raise InputError(f"a negative time: {text}", file=path, line=line, key=COLUMNS[0])
    return whole * SECOND_PS + int((fraction + "0" * 12)[:12])


def _tokens(path: Path, line: int, key: str, value: Any) -> int:
    number = int(value) if isinstance(value, str) and value.strip().isdigit() else value
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise InputError(f"must be a number of tokens, got {value!r}", file=path, line=line, key=key)
    return number


KEYS = ("arrival_time", "input_toks", "output_toks")


def _read_jsonl(path: Path, text: str) -> Iterable[_Row]:
    for line, row in enumerate(text.splitlines(), start=1):
        if not row.strip():
            continue
        try:
            entry = json.loads(row)
        except json.JSONDecodeError as error:
            raise InputError(f"not valid JSON: {error.msg}", file=path, line=line) from None
        if not isinstance(entry, dict):
            raise InputError("must be an object of keys to values", file=path, line=line)
        for key in KEYS:
            if key not in entry:
                raise InputError(f"missing{nearest(key, entry)}", file=path, line=line, key=key)
        time, prompt, generated = (entry[key] for key in KEYS)
        if isinstance(time, bool) or not isinstance(time, int | float) or not math.isfinite(time):
            raise InputError(f"no time: {time!r}", file=path, line=line, key=KEYS[0])
        if time < 0:
            raise InputError(f"a negative time: {time}", file=path, line=line, key=KEYS[0])
        whole = int(time)
        yield (
            line,
            whole * SECOND_PS + round((time - whole) * SECOND_PS),
            _tokens(path, line, KEYS[1], prompt),
            _tokens(path, line, KEYS[2], generated),
        )
