"""The kernel of `neardata.workloads.vision.jpeg`: entropy decoding of one baseline scan, for its counts."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

PROBLEMS = (
    "", "the scan ends early", "no such Huffman code", "a block of more than 64 coefficients",
    "a restart marker is missing",
)  # fmt: skip


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def decode_scan(
    scan: NDArray[np.uint8],
    mcus: int,
    restart_interval: int,
    blocks: NDArray[np.int64],
    table_of: NDArray[np.int64],
    first_code: NDArray[np.int64],
    first_place: NDArray[np.int64],
    sizes: NDArray[np.int64],
    symbols: NDArray[np.int64],
    totals: NDArray[np.int64],
    dc_sum: NDArray[np.int64],
    bits_of_mcu: NDArray[np.int64],
    taken: NDArray[np.int64],
) -> int:
    """Place in `PROBLEMS`.

    Args:
        scan: entropy-coded bytes, stuffing and restart markers included.
        blocks: (components,) blocks of each component in an MCU.
        table_of: (components, 2) rows of the DC and AC tables.
        first_code, first_place, sizes: (tables, 17) of each code length: smallest code, place of its symbol,
            number of codes.
        symbols: (tables, 256)
        totals: (components, 4) out: blocks, coefficients that are not zero (DC differences apart), AC ones
            among them, bits of codes and coefficients.
        dc_sum: (components,) out: sum of the DC coefficients of all blocks.
        bits_of_mcu: (mcus,) out: bits of each MCU.
        taken: (1,) out: bytes of the scan up to the last MCU's end.
    """
    at, word, have, size = 0, np.int64(0), 0, len(scan)
    components = len(blocks)
    predicted = np.zeros(components, dtype=np.int64)
    for mcu in range(mcus):
        # 1. a restart marker: rest of the byte, FF Dn, DC predictions from 0
        if restart_interval > 0 and mcu > 0 and mcu % restart_interval == 0:
            have = 0
            while at < size and scan[at] == 0xFF and at + 1 < size and scan[at + 1] == 0xFF:
                at += 1  # fill bytes
            expected = 0xD0 + (mcu // restart_interval - 1) % 8
            if at + 1 >= size or scan[at] != 0xFF or scan[at + 1] != expected:
                return 4
            at += 2
            predicted[:] = 0
        spent = 0
        for c in range(components):
            for _ in range(blocks[c]):
                k = 0
                while k < 64:
                    table = table_of[c, 0 if k == 0 else 1]
                    # 2. a Huffman code, bit after bit, by the smallest code of each length (T.81 F.2.2.3)
                    code, length, symbol = 0, 0, -1
                    while symbol < 0:
                        if length == 16:
                            return 2
                        if have == 0:
                            if at >= size:
                                return 1
                            word = np.int64(scan[at])
                            at += 1
                            if word == 0xFF:
                                if at >= size or scan[at] != 0:
                                    return 1  # a marker
                                at += 1
                            have = 8
                        have -= 1
                        code = code << 1 | (word >> have & 1)
                        length += 1
                        offset = code - first_code[table, length]
                        if 0 <= offset < sizes[table, length]:
                            symbol = symbols[table, first_place[table, length] + offset]
                    run, extra = symbol >> 4, symbol & 15
                    if k == 0:
                        run, extra = 0, symbol
                        if extra > 11:
                            return 2
                    # 3. its coefficient's bits
                    value = 0
                    for _ in range(extra):
                        if have == 0:
                            if at >= size:
                                return 1
                            word = np.int64(scan[at])
                            at += 1
                            if word == 0xFF:
                                if at >= size or scan[at] != 0:
                                    return 1
                                at += 1
                            have = 8
                        have -= 1
                        value = value << 1 | (word >> have & 1)
                    if extra > 0 and value < 1 << (extra - 1):
                        value -= (1 << extra) - 1
                    spent += length + extra
                    totals[c, 3] += length + extra
                    # 4. where it stands
                    if k == 0:
                        predicted[c] += value
                        dc_sum[c] += predicted[c]
                        if predicted[c] != 0:
                            totals[c, 1] += 1
                        k = 1
                    elif extra == 0:
                        if run == 15:
                            k += 16
                        elif run == 0:
                            k = 64
                        else:
                            return 2
                        if k > 64:
                            return 3
                    else:
                        k += run
                        if k > 63:
                            return 3
                        totals[c, 1] += 1
                        totals[c, 2] += 1
                        k += 1
                totals[c, 0] += 1
        bits_of_mcu[mcu] = spent
    taken[0] = at
    return 0
