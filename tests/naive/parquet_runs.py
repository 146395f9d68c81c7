"""The hybrid of run lengths and bit packing of Parquet, value by value, with bits as characters."""

from __future__ import annotations


def decode(encoded: bytes, bits: int, values: int) -> tuple[list[int], list[int]]:
    """Values, and counts of repeated runs, their values, packed runs, their values."""
    found: list[int] = []
    counts = [0, 0, 0, 0]
    rest = list(encoded)

    def take(n: int) -> list[int]:
        if n > len(rest):
            raise EOFError
        taken = rest[:n]
        del rest[:n]
        return taken

    while len(found) < values:
        digits = []
        while not digits or digits[-1] >= 128:
            digits += take(1)
        header = sum((digit % 128) * 128**i for i, digit in enumerate(digits))
        amount, packed = divmod(header, 2)
        left = values - len(found)
        if packed:
            used = min(left, 8 * amount)
            text = "".join(f"{byte:08b}"[::-1] for byte in take(min(-(-used * bits // 8), amount * bits)))
            take(min(len(rest), amount * bits - len(text) // 8))
            new = [int(text[i * bits : (i + 1) * bits][::-1] or "0", 2) for i in range(used)]
            counts[2] += 1
            counts[3] += len(new)
        else:
            value = int.from_bytes(bytes(take(-(-bits // 8))), "little")
            new = [value] * min(left, amount)
            counts[0] += 1
            counts[1] += len(new)
        if not new:
            raise EOFError
        found += new
    return found, counts
