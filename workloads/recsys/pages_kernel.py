"""The kernel of `neardata.workloads.recsys.pages`."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

COUNTS = ("repeated_runs", "repeated_values", "packed_runs", "packed_values", "matches", "problem")
PROBLEMS = (
    "",
    "a number that ends early",
    "a bit-packed run that ends early",
    "a run that ends early",
    "an empty run",
)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def hybrid(encoded: NDArray[np.uint8], bits: int, values: int, wanted: int) -> NDArray[np.int64]:
    """`COUNTS` of a hybrid of run lengths and bit packing; ``matches``: values equal to ``wanted``, which is
    not looked for where it is negative. ``problem``: place in `PROBLEMS`."""
    counts = np.zeros(6, dtype=np.int64)
    at, left, size = 0, values, len(encoded)
    while left > 0:
        # 1. the header, seven bits a byte
        header, shift = 0, 0
        while True:
            if at >= size or shift > 56:
                counts[5] = 1
                return counts
            byte = np.int64(encoded[at])
            header |= (byte & 127) << shift
            at += 1
            shift += 7
            if byte < 128:
                break
        amount = header >> 1
        if amount == 0:
            counts[5] = 4
            return counts
        if header & 1:
            # 2. groups of eight values, least significant bit first; the last run may be padded
            taken = left if amount >= (left + 7) // 8 else amount * 8
            if at + (taken * bits + 7) // 8 > size:
                counts[5] = 2
                return counts
            counts[2] += 1
            counts[3] += taken
            if wanted >= 0:
                mask = (1 << bits) - 1
                for i in range(taken):
                    first = i * bits
                    word = np.int64(0)
                    place = at + (first >> 3)
                    for b in range((bits + (first & 7) + 7) >> 3):
                        word |= np.int64(encoded[place + b]) << (8 * b)
                    if (word >> (first & 7)) & mask == wanted:
                        counts[4] += 1
            if amount > size:
                at = size
            else:
                at += amount * bits
        else:
            # 3. one value in whole bytes
            taken = min(left, amount)
            width = (bits + 7) // 8
            if at + width > size:
                counts[5] = 3
                return counts
            counts[0] += 1
            counts[1] += taken
            if wanted >= 0:
                value = np.int64(0)
                for b in range(width):
                    value |= np.int64(encoded[at + b]) << (8 * b)
                if value == wanted:
                    counts[4] += taken
            at += width
        left -= taken
    return counts
