"""Compiled twins of `neardata.workloads.recsys.operators`, equal to them bit for bit."""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def bucketize(x: NDArray[np.float32], borders: NDArray[np.float32]) -> NDArray[np.int32]:
    """(n,) buckets."""
    n, one, together = len(borders), np.uint32(1), 32
    found = np.empty(len(x), dtype=np.int32)
    base = np.zeros(together, dtype=np.uint32)
    for start in range(0, len(x), together):
        m = min(together, len(x) - start)
        # lower bound of some values side by side, each step a gather and a select of them all
        base[:] = 0
        left = n
        while left > 1:
            half = np.uint32(left >> 1)
            for q in range(m):
                base[q] += half * np.uint32(borders[base[q] + half - one] < x[start + q])
            left -= np.int64(half)
        for q in range(m):
            v = x[start + q]
            i = np.int64(base[q])
            i += np.int64(borders[i] < v)
            # a border that comes twice
            if i < n - 1 and not v < borders[i + 1]:
                i += 1
            found[start + q] = i
    return found


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def sigrid_hash(
    x: NDArray[np.int64], salt: int, maximum: int, multiplier: np.uint64, shift: int
) -> NDArray[np.int64]:
    """(n,) hashes by the division-free form; ``multiplier``, ``shift``: of `multiplier_and_shift`."""
    found = np.empty(len(x), dtype=np.int64)
    key = np.uint64(0x9DDFEA08EB382D69)
    low32, s32, s47 = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(47)
    upper = np.uint64(salt)
    m_low, m_high = multiplier & low32, multiplier >> s32
    for j in range(len(x)):
        # twang_mix64
        k = np.uint64(x[j])
        k = ~k + (k << np.uint64(21))
        k ^= k >> np.uint64(24)
        k = k + (k << np.uint64(3)) + (k << np.uint64(8))
        k ^= k >> np.uint64(14)
        k = k + (k << np.uint64(2)) + (k << np.uint64(4))
        k ^= k >> np.uint64(28)
        k = k + (k << np.uint64(31))
        # hash_128_to_64
        a = (k ^ upper) * key
        a ^= a >> s47
        b = (upper ^ a) * key
        b ^= b >> s47
        h = np.int64(b * key)
        # h - floor(h / maximum) * maximum
        sign = h >> np.int64(63)
        t = np.uint64(sign ^ h)
        t_low, t_high = t & low32, t >> s32
        first = t_low * m_high + ((t_low * m_low) >> s32)
        second = t_high * m_low + (first & low32)
        high = t_high * m_high + (first >> s32) + (second >> s32)
        quotient = sign ^ np.int64(high >> np.uint64(shift))
        found[j] = h - quotient * maximum
    return found


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def log(
    x: NDArray[np.float32], offset: np.float32, found: NDArray[np.float32], doubtful: NDArray[np.int64]
) -> int:
    """Logarithms of x + offset into ``found``; how many places of ``doubtful`` (as many as it holds) were
    filled with those that need more digits, or a number above its size where it ran over."""
    halfway, doubt = 1 << 28, 8
    wide = np.empty(1, dtype=np.float64)
    bits = wide.view(np.int64)
    count = 0
    for j in range(len(x)):
        v = np.float64(np.float32(x[j] + offset))
        if v > 0.0:
            wide[0] = math.log(v)
        elif v == 0.0:
            wide[0] = -np.inf
        else:
            wide[0] = np.nan
        found[j] = np.float32(wide[0])
        if abs((bits[0] & (2 * halfway - 1)) - halfway) <= doubt:
            if count < len(doubtful):
                doubtful[count] = j
            count += 1
    return count
