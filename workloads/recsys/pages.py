"""What a Parquet file holds, page by page: the work of a unit that decodes it.

Of each page: encoding, bytes, values, levels, and the runs of the hybrid of run lengths and bit packing that
levels and dictionary indices are kept in (Apache Parquet format, ``Encodings.md`` and ``parquet.thrift``).
PyArrow, which decodes the values, does not tell these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

ENCODINGS = {
    0: "PLAIN", 2: "PLAIN_DICTIONARY", 3: "RLE", 4: "BIT_PACKED", 5: "DELTA_BINARY_PACKED",
    6: "DELTA_LENGTH_BYTE_ARRAY", 7: "DELTA_BYTE_ARRAY", 8: "RLE_DICTIONARY", 9: "BYTE_STREAM_SPLIT",
}  # fmt: skip
DICTIONARY_ENCODINGS = ("PLAIN_DICTIONARY", "RLE_DICTIONARY")


_Fields = dict[int, Any]
"""A struct of Thrift: values by field number."""


class PageError(ValueError):
    """Bytes that are no Parquet page."""


@dataclass(frozen=True)
class Runs:
    """Runs of a hybrid of run lengths and bit packing."""

    repeated_runs: int = 0
    repeated_values: int = 0
    """Values in runs of one value."""
    packed_runs: int = 0
    packed_values: int = 0
    """Values in bit-packed groups of eight, without what fills the last group."""
    bits: int = 0
    """Width of a value."""

    @property
    def values(self) -> int:
        """All values."""
        return self.repeated_values + self.packed_values


@dataclass(frozen=True)
class Page:
    """One page of a column chunk."""

    kind: str
    """``dictionary``, ``data`` (version 1) or ``data_v2``."""
    encoding: str
    header_bytes: int
    compressed_bytes: int
    """Without the header."""
    uncompressed_bytes: int
    values: int
    """Entries, missing ones among them; of a dictionary, its entries."""
    present: int
    """Values that are there: encoded ones."""
    repetition: Runs = Runs()
    definition: Runs = Runs()
    indices: Runs = Runs()
    """Of dictionary indices, and of booleans in run lengths."""


@dataclass(frozen=True)
class ColumnChunk:
    """The pages of one column in one row group."""

    row_group: int
    column: str
    path: str
    """Of the values in the schema: ``ids.list.element`` for lists in ``ids``."""
    physical_type: str
    codec: str
    pages: tuple[Page, ...]

    @property
    def work(self) -> DecodeWork:
        """Counts over the pages."""
        return DecodeWork.of(self)


@dataclass(frozen=True)
class DecodeWork:
    """What decoding takes, summed over pages."""

    pages: int = 0
    compressed_bytes: int = 0
    """With page headers: what is read."""
    uncompressed_bytes: int = 0
    dictionary_entries: int = 0
    values: int = 0
    present: int = 0
    """Values that are not missing."""
    levels: int = 0
    """Definition and repetition levels."""
    dictionary_values: int = 0
    """Values looked up in a dictionary."""
    plain_values: int = 0
    """Values kept as they are, or in an encoding other than a dictionary's."""
    repeated_runs: int = 0
    repeated_values: int = 0
    packed_runs: int = 0
    packed_values: int = 0
    """Runs and values of levels and indices."""

    def __add__(self, other: DecodeWork) -> DecodeWork:
        return DecodeWork(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @classmethod
    def of(cls, chunk: ColumnChunk) -> DecodeWork:
        """Sum over the pages of a chunk."""
        data = [page for page in chunk.pages if page.kind != "dictionary"]
        runs = [r for page in data for r in (page.repetition, page.definition, page.indices)]
        looked_up = sum(page.present for page in data if page.encoding in DICTIONARY_ENCODINGS)
        present = sum(page.present for page in data)
        return cls(
            pages=len(chunk.pages),
            compressed_bytes=sum(page.header_bytes + page.compressed_bytes for page in chunk.pages),
            uncompressed_bytes=sum(page.uncompressed_bytes for page in chunk.pages),
            dictionary_entries=sum(page.values for page in chunk.pages if page.kind == "dictionary"),
            values=sum(page.values for page in data),
            present=present,
            levels=sum(page.repetition.values + page.definition.values for page in data),
            dictionary_values=looked_up,
            plain_values=present - looked_up,
            repeated_runs=sum(r.repeated_runs for r in runs),
            repeated_values=sum(r.repeated_values for r in runs),
            packed_runs=sum(r.packed_runs for r in runs),
            packed_values=sum(r.packed_values for r in runs),
        )


def pages_of(chunk: bytes, codec: str, max_definition: int, max_repetition: int) -> Iterator[Page]:
    """The pages of a column chunk's bytes, in order.

    Args:
        codec: compression as PyArrow spells it, such as ``SNAPPY`` or ``UNCOMPRESSED``.
        max_definition, max_repetition: largest levels of the column; 0: it has none.

    Raises:
        PageError: bytes that are no pages, or that end early.
    """
    at = 0
    while at < len(chunk):
        header, body = _Thrift(chunk, at).struct()
        compressed, uncompressed = _size(header, 3), _size(header, 2)
        if body + compressed > len(chunk):
            raise PageError(f"a page of {compressed} bytes where {len(chunk) - body} are left")
        stored = chunk[body : body + compressed]
        sizes = (body - at, compressed, uncompressed)
        match header.get(1):
            case 2:
                about = _inside(header, 7)
                entries = _size(about, 1)
                yield Page("dictionary", _encoding(about, 2), *sizes, entries, entries)
            case 0:
                plain = _decompressed(stored, codec, uncompressed)
                yield _data(plain, sizes, _inside(header, 5), max_definition, max_repetition)
            case 3:
                yield _data_v2(stored, codec, sizes, _inside(header, 8), max_definition, max_repetition)
            case 1:
                pass  # an index page holds no values
            case kind:
                raise PageError(f"a page of unknown type {kind}")
        at = body + compressed


def _data(
    plain: bytes, sizes: tuple[int, int, int], about: _Fields, definition: int, repetition: int
) -> Page:
    """A data page of version 1: levels and values compressed together."""
    values, at = _size(about, 1), 0
    levels = []
    for top in (repetition, definition):
        if not top:
            levels.append((Runs(), values))
            continue
        length = int.from_bytes(plain[at : at + 4], "little")
        if len(plain) < at + 4 + length:
            raise PageError("levels that end early")
        levels.append(hybrid(plain[at + 4 : at + 4 + length], top.bit_length(), values, top))
        at += 4 + length
    return _page("data", plain[at:], sizes, _encoding(about, 2), values, levels)


def _data_v2(
    stored: bytes,
    codec: str,
    sizes: tuple[int, int, int],
    about: _Fields,
    definition: int,
    repetition: int,
) -> Page:
    """A data page of version 2: levels lie before the values, not compressed."""
    values, d_bytes, r_bytes = _size(about, 1), _size(about, 5), _size(about, 6)
    if r_bytes + d_bytes > len(stored):
        raise PageError("levels that end early")
    levels = []
    for part, top in ((stored[:r_bytes], repetition), (stored[r_bytes : r_bytes + d_bytes], definition)):
        levels.append(hybrid(part, top.bit_length(), values, top) if top else (Runs(), values))
    rest = stored[r_bytes + d_bytes :]
    if about.get(7, True):
        rest = _decompressed(rest, codec, sizes[2] - r_bytes - d_bytes)
    return _page("data_v2", rest, sizes, _encoding(about, 4), values, levels)


def _page(
    kind: str,
    encoded: bytes,
    sizes: tuple[int, int, int],
    encoding: str,
    values: int,
    levels: list[tuple[Runs, int]],
) -> Page:
    """``levels``: of repetition and definition, with how many are at the top."""
    (repeats, _), (defines, present) = levels
    indices = Runs()
    if encoding in DICTIONARY_ENCODINGS and present:
        if not encoded:
            raise PageError("dictionary indices that end early")
        indices, _ = hybrid(encoded[1:], encoded[0], present)
    elif encoding == "RLE" and present:
        indices, _ = hybrid(encoded[4:], 1, present)
    return Page(kind, encoding, *sizes, values, present, repeats, defines, indices)


def hybrid(encoded: bytes, bits: int, values: int, wanted: int = -1) -> tuple[Runs, int]:
    """Runs of a hybrid of run lengths and bit packing, and how many of its values are ``wanted``.

    A header's lowest bit tells a bit-packed run (the rest: groups of eight values) from one repeated value
    (the rest: how often), which is kept in whole bytes.

    Args:
        wanted: not looked for where it is negative.

    Raises:
        PageError: fewer values than there should be, a width above 32.

    >>> runs, threes = hybrid(bytes([0x08, 0x03, 0x03, 0x88, 0xC6, 0xFA]), 3, 12, wanted=3)
    >>> runs.repeated_values, runs.packed_values, threes
    (4, 8, 5)
    """
    from neardata.workloads.recsys import pages_kernel as kernel  # loads numba

    if bits > 32:
        raise PageError(f"values {bits} bits wide")
    counts = kernel.hybrid(np.frombuffer(encoded, np.uint8), bits, values, wanted).tolist()
    once, once_values, packed, packed_values, matches, problem = counts
    if problem:
        raise PageError(kernel.PROBLEMS[problem])
    return Runs(once, once_values, packed, packed_values, bits), matches


def _decompressed(stored: bytes, codec: str, size: int) -> bytes:
    if codec == "UNCOMPRESSED":
        return stored
    import pyarrow

    name = "lz4_raw" if codec == "LZ4" else codec.lower()
    try:
        plain = pyarrow.Codec(name).decompress(stored, size).to_pybytes()
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError):
        raise PageError(f"a page that does not decompress as {codec}") from None
    if len(plain) != size:
        raise PageError(f"a page of {len(plain)} bytes where its header says {size}")
    return plain


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned number of seven bits a byte, and where the next byte is."""
    number = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise PageError("a number that ends early")
        number |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return number, at


class _Thrift:
    """A reader of Thrift's compact protocol, as far as page headers need it."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def struct(self, depth: int = 0) -> tuple[_Fields, int]:
        """Fields by number, and where the struct ends."""
        if depth > 8:
            raise PageError("a header nested too deep")
        found: _Fields = {}
        field = 0
        while True:
            byte = self._byte()
            if byte == 0:
                return found, self.at
            field = field + (byte >> 4) if byte >> 4 else self._number()
            found[field] = self._value(byte & 15, depth)

    def _value(self, kind: int, depth: int) -> Any:
        match kind:
            case 1 | 2:
                return kind == 1
            case 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._number()
            case 7:
                return self._bytes(8)
            case 8:
                size, self.at = _varint(self.data, self.at)
                return self._bytes(size)
            case 9 | 10:
                byte = self._byte()
                size = byte >> 4
                if size == 15:
                    size, self.at = _varint(self.data, self.at)
                if size > len(self.data):
                    raise PageError("a list longer than its page")
                return [
                    self._byte() if byte & 15 in (1, 2) else self._value(byte & 15, depth)
                    for _ in range(size)
                ]
            case 12:
                return self.struct(depth + 1)[0]
        raise PageError("no page header")

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _bytes(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise PageError("a header that ends early")
        self.at += size
        return self.data[self.at - size : self.at]

    def _number(self) -> int:
        """Zigzag."""
        number, self.at = _varint(self.data, self.at)
        return number >> 1 ^ -(number & 1)


def _size(about: _Fields, field: int) -> int:
    size = about.get(field)
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise PageError("no page header")
    return size


def _inside(header: _Fields, field: int) -> _Fields:
    about = header.get(field)
    if not isinstance(about, dict):
        raise PageError("no page header")
    return about


def _encoding(about: _Fields, field: int) -> str:
    number = _size(about, field)
    if number not in ENCODINGS:
        raise PageError(f"unknown encoding {number}")
    return ENCODINGS[number]
