"""Recommendation preprocessing in plain Python, one value at a time and one row at a time."""

from __future__ import annotations

import math
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

import numpy as np

WORD = 2**64
MULTIPLIER = 0x9DDFEA08EB382D69


def signed(word: int) -> int:
    word %= WORD
    return word - WORD if word >= WORD // 2 else word


def mix(key: int) -> int:
    key = (~key + (key << 21)) % WORD
    key ^= key >> 24
    key = (key * (1 + 8 + 256)) % WORD
    key ^= key >> 14
    key = (key * (1 + 4 + 16)) % WORD
    key ^= key >> 28
    return (key * (1 + 2**31)) % WORD


def pair(upper: int, lower: int) -> int:
    a = (lower ^ upper) * MULTIPLIER % WORD
    a ^= a >> 47
    b = (upper ^ a) * MULTIPLIER % WORD
    b ^= b >> 47
    return b * MULTIPLIER % WORD


def sigrid_hash(x: int, salt: int, maximum: int) -> int:
    return signed(pair(salt % WORD, mix(x % WORD))) % maximum


def bucketize(x: float, borders: list[float]) -> int:
    i = 0
    while i < len(borders) and borders[i] < x:
        i += 1
    if i >= len(borders) - 1:
        return i
    return i if x < borders[i + 1] else i + 1


def log(x: float, offset: float) -> float:
    """Correctly rounded; x, offset and the sum as float32 has them."""
    with np.errstate(over="ignore"):
        v = float(np.float32(x) + np.float32(offset))
    if math.isnan(v) or v < 0:
        return math.nan
    if v == 0:
        return -math.inf
    if v == math.inf:
        return math.inf
    exact = Context(prec=80).ln(Decimal(v))
    guess = np.float32(float(exact))
    near = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    return float(min(near, key=lambda y: abs(Fraction(float(y)) - Fraction(exact))))


def ngram(ids: list[int], n: int, salt: int, maximum: int) -> list[int]:
    found = []
    for i in range(len(ids) - n + 1):
        h = salt % WORD
        for x in ids[i : i + n]:
            h = pair(h, mix(x % WORD))
        found.append(signed(h) % maximum)
    return found


def step(value: Any, op: dict[str, Any]) -> Any:
    """One step on one row's value: a number, None (missing) or a list of them."""
    if op["op"] == "first_x":
        return value[: op["k"]]
    if op["op"] == "ngram":
        return ngram(value, op["n"], op["salt"], op["max"])
    if isinstance(value, list):
        return [step(v, op) for v in value]
    match op["op"]:
        case "fill_null":
            return op["value"] if value is None else value
        case _ if value is None:
            return None
        case "log":
            return log(value, op["offset"])
        case "clamp":
            return min(max(value, op["low"]), op["high"])
        case "bucketize":
            return bucketize(float(np.float32(value)), op["borders"])
        case "sigrid_hash":
            return sigrid_hash(value, op["salt"], op["max"])
    raise AssertionError(op)


def rows_of(values: list[Any], valid: list[bool] | None, lengths: list[int] | None) -> list[Any]:
    """A column as one value or list a row."""
    seen = [v if valid is None or valid[i] else None for i, v in enumerate(values)]
    if lengths is None:
        return seen
    rows, at = [], 0
    for length in lengths:
        rows.append(seen[at : at + length])
        at += length
    return rows
