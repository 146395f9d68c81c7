"""JPEG files: the picture, by Pillow, and what decoding it takes, counted from the file.

Baseline (and extended sequential, 8 bits) Huffman-coded files of ITU-T T.81 are parsed marker by marker and
entropy-decoded: MCUs, blocks, coefficients that are not zero, bits. Progressive, lossless and
arithmetic-coded ones are refused.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neardata.arch.errors import InputError

_FRAMES = {
    0xC2: "progressive", 0xC3: "lossless", 0xC5: "hierarchical", 0xC6: "hierarchical", 0xC7: "hierarchical",
    0xC9: "arithmetic-coded", 0xCA: "arithmetic-coded", 0xCB: "arithmetic-coded", 0xCD: "hierarchical",
    0xCE: "hierarchical", 0xCF: "hierarchical",
}  # fmt: skip
"""Start-of-frame markers that are not decoded."""


@dataclass(frozen=True)
class ComponentWork:
    """One colour component."""

    identifier: int
    horizontal: int
    """Sampling factors: blocks of an MCU across and down."""
    vertical: int
    blocks: int
    nonzero: int
    """Coefficients that are not zero, DC ones included."""
    nonzero_ac: int
    bits: int
    """Of Huffman codes and the coefficients' own bits."""
    dc_sum: int
    """Sum of the quantised DC coefficients."""


@dataclass(frozen=True)
class JpegWork:
    """What decoding a file takes."""

    width: int
    height: int
    file_bytes: int
    scan_bytes: int
    """Entropy-coded bytes, stuffing and restart markers included."""
    unread_bytes: int
    """Of the scan, behind its last MCU; 0 in a sound file."""
    mcus: int
    restart_interval: int
    components: tuple[ComponentWork, ...]
    bits_of_mcu: NDArray[np.int64]
    """(mcus,)"""

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height

    @property
    def blocks(self) -> int:
        """8 x 8 blocks: inverse transforms."""
        return sum(c.blocks for c in self.components)

    @property
    def coefficients(self) -> int:
        """Coefficients that are not zero: multiplications by the quantisation table."""
        return sum(c.nonzero for c in self.components)

    @property
    def bits(self) -> int:
        """Entropy-coded bits, without padding and stuffing."""
        return sum(c.bits for c in self.components)


@dataclass
class _Headers:
    width: int = 0
    height: int = 0
    components: tuple[tuple[int, int, int], ...] = ()
    """Identifier, horizontal, vertical."""
    restart_interval: int = 0


def jpeg_work(path: str | Path) -> JpegWork:
    """Counts of decoding a JPEG file.

    Raises:
        InputError: no JPEG, one that is cut short or damaged, a kind that is not decoded.

    >>> from neardata.workloads.vision.images import sample_paths
    >>> found = jpeg_work(sample_paths()[0])
    >>> found.width, found.height, found.mcus, found.blocks
    (160, 120, 80, 480)
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    try:
        return _work(data)
    except ValueError as error:
        raise InputError(str(error), file=path) from None


def _work(data: bytes) -> JpegWork:
    if data[:2] != b"\xff\xd8":
        raise ValueError("no JPEG file")
    at = 2
    headers = _Headers()
    tables: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
    while True:
        marker, at = _marker(data, at)
        if marker == 0xD9:
            raise ValueError("a JPEG file without a scan")
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            continue
        length = _word(data, at)
        if length < 2 or at + length > len(data):
            raise ValueError("a JPEG file that ends early")
        body = data[at + 2 : at + length]
        at += length
        if marker in _FRAMES:
            raise ValueError(
                f"a {_FRAMES[marker]} JPEG file; baseline and extended sequential ones are decoded"
            )
        if marker in (0xC0, 0xC1):
            _frame(body, headers)
        elif marker == 0xC4:
            _huffman(body, tables)
        elif marker == 0xDD:
            headers.restart_interval = _word(body, 0)
        elif marker == 0xDA:
            return _scan(data, at, body, headers, tables)


def _marker(data: bytes, at: int) -> tuple[int, int]:
    if at >= len(data):
        raise ValueError("a JPEG file that ends early")
    if data[at] != 0xFF:
        raise ValueError(f"no marker at byte {at}")
    while at < len(data) and data[at] == 0xFF:
        at += 1
    if at >= len(data):
        raise ValueError("a JPEG file that ends early")
    return data[at], at + 1


def _word(data: bytes, at: int) -> int:
    if at + 2 > len(data):
        raise ValueError("a JPEG file that ends early")
    return data[at] << 8 | data[at + 1]


def _frame(body: bytes, headers: _Headers) -> None:
    if headers.components:
        raise ValueError("a JPEG file of two frames")
    if len(body) < 6 or len(body) < 6 + 3 * body[5]:
        raise ValueError("a frame header that ends early")
    if body[0] != 8:
        raise ValueError(f"samples of {body[0]} bits; 8 are decoded")
    headers.height, headers.width = _word(body, 1), _word(body, 3)
    if not headers.height or not headers.width or not 1 <= body[5] <= 4:
        raise ValueError(f"a frame of {headers.width} x {headers.height} pixels of {body[5]} components")
    parts = [body[6 + 3 * i : 9 + 3 * i] for i in range(body[5])]
    headers.components = tuple((p[0], p[1] >> 4, p[1] & 15) for p in parts)
    if any(not 1 <= f <= 4 for c in headers.components for f in c[1:]):
        raise ValueError("sampling factors are 1 to 4")


def _huffman(body: bytes, tables: dict[tuple[int, int], tuple[list[int], list[int]]]) -> None:
    at = 0
    while at < len(body):
        sizes = [0, *body[at + 1 : at + 17]]
        count = sum(sizes)
        symbols = list(body[at + 17 : at + 17 + count])
        if len(sizes) != 17 or len(symbols) != count or count > 256 or body[at] & 15 > 3 or body[at] >> 4 > 1:
            raise ValueError("a damaged Huffman table")
        tables[body[at] >> 4, body[at] & 15] = sizes, symbols
        at += 17 + count


def _scan(
    data: bytes,
    at: int,
    body: bytes,
    headers: _Headers,
    tables: dict[tuple[int, int], tuple[list[int], list[int]]],
) -> JpegWork:
    if not headers.components:
        raise ValueError("a scan before its frame")
    known = {c[0]: c for c in headers.components}
    n = body[0] if body else 0
    if len(body) != 4 + 2 * n or n != len(known):
        raise ValueError(f"a scan of {n} of {len(known)} components; those of all together are decoded")
    parts, table_of = [], np.zeros((n, 2), dtype=np.int64)
    rows = {key: i for i, key in enumerate(tables)}
    for i in range(n):
        identifier, chosen = body[1 + 2 * i], body[2 + 2 * i]
        if identifier not in known:
            raise ValueError(f"a scan of component {identifier}, which the frame has not")
        parts.append(known[identifier])
        for ac, number in enumerate((chosen >> 4, chosen & 15)):
            if (ac, number) not in rows:
                raise ValueError(f"no Huffman table {number} for {'AC' if ac else 'DC'} coefficients")
            table_of[i, ac] = rows[ac, number]
    if n == 1:  # not interleaved: an MCU is one block, whatever the factors
        parts = [(parts[0][0], 1, 1)]
    across = -(-headers.width // (8 * max(h for _, h, _ in parts)))
    down = -(-headers.height // (8 * max(v for _, _, v in parts)))
    mcus = across * down
    scan = np.frombuffer(data, np.uint8)[at : _scan_end(data, at)]
    if mcus > 8 * len(scan):  # a block takes two bits at least
        raise ValueError(f"{len(scan)} bytes of scan for {mcus} MCUs: it ends early")
    totals, dc_sum = np.zeros((n, 4), dtype=np.int64), np.zeros(n, dtype=np.int64)
    bits_of_mcu, taken = np.zeros(mcus, dtype=np.int64), np.zeros(1, dtype=np.int64)
    from neardata.workloads.vision import jpeg_kernel as kernel  # loads numba

    blocks = np.array([h * v for _, h, v in parts], dtype=np.int64)
    problem = kernel.decode_scan(
        scan, mcus, headers.restart_interval, blocks, table_of,
        *_code_tables(list(tables.values())), totals, dc_sum, bits_of_mcu, taken,
    )  # fmt: skip
    if problem:
        decoded = int((bits_of_mcu > 0).sum())
        raise ValueError(f"{kernel.PROBLEMS[problem]}, in MCU {decoded} of {mcus}")
    counts = np.column_stack([np.array(parts), totals, dc_sum]).tolist()
    components = tuple(ComponentWork(*row) for row in counts)
    return JpegWork(
        headers.width,
        headers.height,
        len(data),
        len(scan),
        len(scan) - int(taken[0]),
        mcus,
        headers.restart_interval,
        components,
        bits_of_mcu,
    )


def _scan_end(data: bytes, at: int) -> int:
    """Where the next marker is that is not stuffing or a restart."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            return len(data)
        if data[at + 1] != 0 and not 0xD0 <= data[at + 1] <= 0xD7 and data[at + 1] != 0xFF:
            return at
        at += 1 if data[at + 1] == 0xFF else 2


def _code_tables(tables: list[tuple[list[int], list[int]]]) -> tuple[NDArray[np.int64], ...]:
    """Smallest code, place of its symbol and number of codes of each length; symbols (T.81 annex C)."""
    first_code, first_place, sizes = (np.zeros((len(tables), 17), dtype=np.int64) for _ in range(3))
    symbols = np.zeros((len(tables), 256), dtype=np.int64)
    for row, (counts, values) in enumerate(tables):
        code = place = 0
        for length in range(1, 17):
            first_code[row, length], first_place[row, length] = code, place
            code, place = (code + counts[length]) << 1, place + counts[length]
        sizes[row], symbols[row, : len(values)] = counts, values
    return first_code, first_place, sizes, symbols


def decode_jpeg(path: str | Path) -> NDArray[np.uint8]:
    """The picture: (height, width, 3) RGB, as libjpeg decodes it in Pillow.

    Raises:
        InputError: no JPEG, one that is cut short or damaged.
    """
    from PIL import Image

    path = Path(path)
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise InputError("cannot be read: No such file or directory", file=path) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = (str(error).splitlines() or [""])[0]
        if "cannot identify" in reason:
            reason = "no JPEG file"
        raise InputError(reason or "cannot be decoded", file=path) from None
