"""Baseline JPEG entropy decoding, bit strings and dictionaries: every coefficient of every block."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

ZIGZAG = sorted(
    ((y, x) for y in range(8) for x in range(8)),
    key=lambda p: (p[0] + p[1], p[1] if (p[0] + p[1]) % 2 == 0 else p[0]),
)
"""(row, column) of each place in a block."""


@dataclass
class Decoded:
    width: int = 0
    height: int = 0
    interval: int = 0
    factors: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    """Of each component: across, down, quantisation table."""
    quantisation: dict[int, list[int]] = field(default_factory=dict)
    codes: dict[tuple[int, int], dict[str, int]] = field(default_factory=dict)
    blocks: dict[int, list[list[int]]] = field(default_factory=dict)
    """Of each component: 64 coefficients a block, zigzag."""
    bits: dict[int, int] = field(default_factory=dict)
    mcu_bits: list[int] = field(default_factory=list)


def decode(data: bytes) -> Decoded:
    d = Decoded()
    at = 2
    while True:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        at += 2 + length
        if marker == 0xDB:
            while body:
                assert body[0] < 16
                d.quantisation[body[0]] = list(body[1:65])
                body = body[65:]
        elif marker in (0xC0, 0xC1):
            d.height, d.width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            for i in range(body[5]):
                name, factors, table = body[6 + 3 * i : 9 + 3 * i]
                d.factors[name] = factors >> 4, factors & 15, table
        elif marker == 0xC4:
            while body:
                symbols = iter(body[17:])
                codes, code = {}, 0
                for size in range(1, 17):
                    for _ in range(body[size]):
                        codes[f"{code:0{size}b}"] = next(symbols)
                        code += 1
                    code *= 2
                d.codes[body[0] >> 4, body[0] & 15] = codes
                body = body[17 + len(codes) :]
        elif marker == 0xDD:
            d.interval = int.from_bytes(body, "big")
        elif marker == 0xDA:
            tables = {body[1 + 2 * i]: body[2 + 2 * i] for i in range(body[0])}
            scan(d, data[at:], tables)
            return d


def scan(d: Decoded, data: bytes, tables: dict[int, int]) -> None:
    # the pieces between restart markers, without stuffing, as bits
    pieces, piece, at = [], bytearray(), 0
    while True:
        if data[at] != 0xFF:
            piece.append(data[at])
            at += 1
        elif data[at + 1] == 0:
            piece.append(0xFF)
            at += 2
        else:
            pieces.append("".join(f"{byte:08b}" for byte in piece))
            piece = bytearray()
            if not 0xD0 <= data[at + 1] <= 0xD7:
                break
            at += 2
    if len(d.factors) == 1:
        d.factors = {name: (1, 1, table) for name, (_, _, table) in d.factors.items()}
    across = -(-d.width // (8 * max(h for h, _, _ in d.factors.values())))
    down = -(-d.height // (8 * max(v for _, v, _ in d.factors.values())))
    d.blocks = {name: [] for name in tables}
    d.bits = dict.fromkeys(tables, 0)
    interval = d.interval or across * down
    for first, bits in zip(range(0, across * down, interval), pieces, strict=True):
        place = 0
        before = dict.fromkeys(tables, 0)
        for _ in range(min(interval, across * down - first)):
            start = place
            for name, table in tables.items():
                for _ in range(d.factors[name][0] * d.factors[name][1]):
                    begin = place
                    block, place = one_block(bits, place, d.codes[0, table >> 4], d.codes[1, table & 15])
                    block[0] += before[name]
                    before[name] = block[0]
                    d.blocks[name].append(block)
                    d.bits[name] += place - begin
            d.mcu_bits.append(place - start)
        assert len(bits) - place < 8 and set(bits[place:]) <= {"1"}


def one_block(bits: str, place: int, dc: dict[str, int], ac: dict[str, int]) -> tuple[list[int], int]:
    def symbol(codes: dict[str, int]) -> int:
        nonlocal place
        size = 1
        while bits[place : place + size] not in codes:
            size += 1
        place += size
        return codes[bits[place - size : place]]

    def number(size: int) -> int:
        nonlocal place
        text = bits[place : place + size]
        place += size
        if not size:
            return 0
        return int(text, 2) if text[0] == "1" else int(text, 2) - 2**size + 1

    block = [number(symbol(dc))]
    while len(block) < 64:
        run, size = divmod(symbol(ac), 16)
        if (run, size) == (0, 0):
            block += [0] * (64 - len(block))
        else:
            block += [0] * run + [number(size)]
    assert len(block) == 64
    return block, place


def grey_picture(d: Decoded) -> np.ndarray:
    """(height, width) of a file of one component, by the inverse cosine transform in float64."""
    ((name, (_, _, table)),) = d.factors.items()
    k = np.arange(8)
    basis = (
        np.cos((2 * k[None, :] + 1) * k[:, None] * np.pi / 16) * np.where(k == 0, 0.5**0.5, 1.0)[:, None] / 2
    )
    across, down = -(-d.width // 8), -(-d.height // 8)
    picture = np.zeros((8 * down, 8 * across))
    for i, block in enumerate(d.blocks[name]):
        square = np.zeros((8, 8))
        for (y, x), value, q in zip(ZIGZAG, block, d.quantisation[table], strict=True):
            square[y, x] = value * q
        y, x = 8 * (i // across), 8 * (i % across)
        picture[y : y + 8, x : x + 8] = basis.T @ square @ basis + 128
    return np.clip(np.rint(picture), 0, 255)[: d.height, : d.width]
