"""Address mappings: which bits of a byte address make the channel, bank, row and column.

A mapping is written as the order of its fields, most significant first::

    row bank bank_group rank column channel

Fields are ``row``, ``column`` (counted in bursts), ``channel`` and the levels of the device
below the channel. The burst offset lies below the last field and is not written.

- ``column:2`` takes two bits. A field may be split; the part that stands last holds its lowest
  bits, and the one part without a count takes what is left:
  ``row column bank bank_group rank column:2 channel``.
- ``bank^row`` is the bank's bits XORed with as many of the row's, from its lowest;
  ``bank_group^column[2]`` with the column's from bit 2 up, as far as they go. An operand is the
  whole field as it lies in the address, before it is XORed itself.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neardata.arch.dram.device import Device
from neardata.arch.errors import InputError, nearest

MOST_CHANNELS = 4096


@dataclass(frozen=True)
class AddressMapping:
    """A resolved mapping: linear over GF(2), hence an XOR of shifted, masked addresses.

    A *word* packs, from its lowest bit: the column (burst within the row), the bank number of
    the `Device`, the row, the channel.
    """

    text: str
    """The field order with every bit count; itself a mapping that `load_mapping` accepts."""
    channels: int
    burst_bytes: int
    column_bits: int
    bank_bits: int
    row_bits: int
    slices: NDArray[np.int64] = field(repr=False)
    """(k, 3) shift, mask, target shift:
    ``word = XOR over the slices of ((address >> shift) & mask) << target_shift``."""
    inverse_slices: NDArray[np.int64] = field(repr=False)
    """(k, 3) likewise, from the word to the address."""

    @property
    def channel_bits(self) -> int:
        """Bits that choose the channel."""
        return self.channels.bit_length() - 1

    @property
    def capacity_bytes(self) -> int:
        """Bytes of all channels; addresses lie below it."""
        return self.burst_bytes << self.column_bits + self.bank_bits + self.row_bits + self.channel_bits

    @property
    def channel_slices(self) -> NDArray[np.int64]:
        """(k, 3) like `slices`, for the channel's number alone."""
        above = self.column_bits + self.bank_bits + self.row_bits
        parts = []
        for shift, mask, target in self.slices.tolist():
            # the part of the slice that lands in the channel field
            low = max(above - target, 0)
            if mask >> low:
                parts.append((shift + low, mask >> low, target + low - above))
        return np.array(parts, dtype=np.int64).reshape(-1, 3)

    def channel_of(self, address: NDArray[np.int64]) -> NDArray[np.int64]:
        """Channel of byte addresses that lie within the capacity."""
        return _apply(self.channel_slices, address)

    def decode(
        self, address: ArrayLike
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Channel, bank, row and column of byte addresses.

        Raises:
            InputError: an address below zero or at or above ``capacity_bytes``.
        """
        addresses = np.asarray(address, dtype=np.int64)
        outside = (addresses < 0) | (addresses >= self.capacity_bytes)
        if outside.any():
            first = int(addresses[outside].flat[0])
            raise InputError(f"address {first:#x} is outside the {self.capacity_bytes:#x} bytes of memory")
        word = _apply(self.slices, addresses)
        row_at = self.column_bits + self.bank_bits
        return (
            word >> row_at + self.row_bits,
            word >> self.column_bits & (1 << self.bank_bits) - 1,
            word >> row_at & (1 << self.row_bits) - 1,
            word & (1 << self.column_bits) - 1,
        )

    def encode(
        self, channel: ArrayLike, bank: ArrayLike, row: ArrayLike, column: ArrayLike
    ) -> NDArray[np.int64]:
        """Lowest byte address of the burst at each place; the inverse of `decode`.

        Raises:
            InputError: a number that the device does not have.
        """
        word = np.zeros((), dtype=np.int64)
        for name, number, bits in (
            ("channel", channel, self.channel_bits),
            ("row", row, self.row_bits),
            ("bank", bank, self.bank_bits),
            ("column", column, self.column_bits),
        ):
            numbers = np.asarray(number, dtype=np.int64)
            outside = (numbers < 0) | (numbers >= 1 << bits)
            if outside.any():
                raise InputError(f"no {name} {int(numbers[outside].flat[0])}; there are {1 << bits}")
            word = word << bits | numbers
        return _apply(self.inverse_slices, word)


def mapping_names() -> list[str]:
    """Names `load_mapping` knows.

    >>> mapping_names()
    ['RoBaRaCoCh', 'ChRaBaRoCo', 'MOP4CLXOR', 'RoBaCoBgXOR']
    """
    return list(_NAMED)


@functools.lru_cache(maxsize=256)
def load_mapping(device: Device, mapping: str = "RoBaRaCoCh", channels: int = 1) -> AddressMapping:
    """The mapping of a memory of ``channels`` such devices.

    Args:
        mapping: one of `mapping_names`, or a field order (see the module's text).

    Raises:
        InputError: ``channels`` is not a power of two; unknown, missing or doubly counted
            fields; XORs that make two addresses fall on one place.

    >>> from neardata.arch.dram import load_device
    >>> load_mapping(load_device("ddr4-2400r"), "MOP4CLXOR", channels=2).text
    'row:16^column[4] column:5 bank:2^column[2] bank_group:2^column column:2 channel:1'
    """
    if channels < 1 or channels & channels - 1:
        raise InputError(f"must be a power of two, got {channels}", key="channels")
    if channels > MOST_CHANNELS:
        raise InputError(f"at most {MOST_CHANNELS}, got {channels}", key="channels")
    levels = device.levels[1:]
    bits = {level: count.bit_length() - 1 for level, count in zip(levels, device.counts[1:], strict=True)}
    bits["column"] = device.bursts_per_row.bit_length() - 1
    bits["row"] = device.organisation.row.bit_length() - 1
    bits["channel"] = channels.bit_length() - 1

    order = (_NAMED[mapping](levels, bits) if mapping in _NAMED else mapping).split()
    if len(order) < 2:
        raise InputError(f"unknown mapping '{mapping}'{nearest(mapping, _NAMED)}", key="mapping")
    parts = _with_counts(_parse(order, bits), bits)

    # the word's fields, lowest first: banks are numbered depth first, so the last level is lowest
    start, position = {}, 0
    for name in ("column", *reversed(levels), "row", "channel"):
        start[name] = position
        position += bits[name]
    offset = device.burst_bytes.bit_length() - 1

    # address bits of every field, lowest first
    lies: dict[str, list[int]] = {name: [] for name in bits}
    address_bit = offset
    for part in reversed(parts):
        lies[part.name] += range(address_bit, address_bit + part.count)
        address_bit += part.count

    matrix = [0] * position  # per bit of the word, the address bits whose XOR it is
    filled = dict.fromkeys(bits, 0)
    for part in reversed(parts):
        for i in range(part.count):
            field_bit = filled[part.name] + i
            word_bit = start[part.name] + field_bit
            matrix[word_bit] ^= 1 << lies[part.name][field_bit]
            for operand, first in part.xors:
                if first + i < bits[operand]:
                    matrix[word_bit] ^= 1 << lies[operand][first + i]
        filled[part.name] += part.count
    inverse = _inverse([row >> offset for row in matrix])
    if inverse is None:
        raise InputError(
            f"'{mapping}' is not one-to-one: its XORs make different addresses fall on one place",
            key="mapping",
        )
    to_address = [0] * offset + inverse
    return AddressMapping(
        text=" ".join(str(part) for part in parts if part.count),
        channels=channels,
        burst_bytes=device.burst_bytes,
        column_bits=bits["column"],
        bank_bits=sum(bits[level] for level in levels),
        row_bits=bits["row"],
        slices=_slices(matrix),
        inverse_slices=_slices(to_address),
    )


@dataclass(frozen=True)
class _Part:
    """A run of bits of one field, e.g. ``bank:2^row[4]``; ``count`` -1 until resolved."""

    name: str
    count: int
    xors: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        xors = "".join(f"^{name}[{first}]" if first else f"^{name}" for name, first in self.xors)
        return f"{self.name}:{self.count}{xors}"


_PART = re.compile(r"(?P<name>[a-z_]+)(?::(?P<count>\d+))?(?P<xors>(?:\^[a-z_]+(?:\[\d+\])?)*)")
_XOR = re.compile(r"\^([a-z_]+)(?:\[(\d+)\])?")


def _parse(order: Iterable[str], bits: dict[str, int]) -> list[_Part]:
    parts = []
    for text in order:
        match = _PART.fullmatch(text)
        if match is None:
            raise InputError(f"'{text}' is not of the form field[:bits][^field[bit]]", key="mapping")
        xors = tuple((name, int(first or 0)) for name, first in _XOR.findall(match["xors"]))
        for name, first in ((match["name"], 0), *xors):
            if name not in bits:
                raise InputError(f"unknown field '{name}'{nearest(name, bits)}", key="mapping")
            if first and first >= bits[name]:
                raise InputError(
                    f"'{text}': {name} has {bits[name]} bits, none from bit {first}", key="mapping"
                )
        parts.append(_Part(match["name"], -1 if match["count"] is None else int(match["count"]), xors))
    return parts


def _with_counts(parts: list[_Part], bits: dict[str, int]) -> list[_Part]:
    left = {}
    for name, total in bits.items():
        own = [part for part in parts if part.name == name]
        given, open_ended = (sum(p.count for p in own if p.count >= 0), sum(p.count < 0 for p in own))
        if not own and total:
            raise InputError(f"{name} is missing: {total} bits belong to it", key="mapping")
        if open_ended > 1:
            raise InputError(
                f"{open_ended} parts of {name} have no bit count; at most one may", key="mapping"
            )
        if given > total or (own and not open_ended and given < total):
            raise InputError(f"{name} has {total} bits, not {given}", key="mapping")
        left[name] = total - given
    return [p if p.count >= 0 else _Part(p.name, left[p.name], p.xors) for p in parts]


def _robaracoch(levels: tuple[str, ...], bits: dict[str, int]) -> str:
    return f"row {' '.join(reversed(levels))} column channel"


def _charabaroco(levels: tuple[str, ...], bits: dict[str, int]) -> str:
    return f"channel {' '.join(levels)} row column"


def _mop4clxor(levels: tuple[str, ...], bits: dict[str, int]) -> str:
    # Kaseridis et al., MICRO 2011: four lines of a row, then the next bank; each level from the
    # top down, and last the row, takes the next higher bits of the column
    hashed, column_bit = [], 0
    for name in (*levels, "row"):
        if bits[name] and column_bit < bits["column"]:
            hashed.append(f"{name}^column[{column_bit}]")
            column_bit += bits[name]
        else:
            hashed.append(name)
    *banks, row = hashed
    return f"{row} column {' '.join(reversed(banks))} column:{min(2, bits['column'])} channel"


def _robacobgxor(levels: tuple[str, ...], bits: dict[str, int]) -> str:
    # consecutive lines alternate between pseudo-channels and bank groups (tCCD_S, not tCCD_L);
    # the XOR with the row spreads strides over the banks (Zhang et al., MICRO 2000)
    hashed, row_bit = {}, 0
    for name in reversed(levels):
        hashed[name] = f"{name}^row[{row_bit}]" if bits[name] and row_bit < bits["row"] else name
        row_bit += bits[name]
    low = [name for name in ("bank_group", "pseudo_channel") if name in levels]
    high = [name for name in reversed(levels) if name not in low]
    return " ".join(["row", *(hashed[n] for n in high), "column", *(hashed[n] for n in low), "channel"])


_NAMED: dict[str, Callable[[tuple[str, ...], dict[str, int]], str]] = {
    "RoBaRaCoCh": _robaracoch,
    "ChRaBaRoCo": _charabaroco,
    "MOP4CLXOR": _mop4clxor,
    "RoBaCoBgXOR": _robacobgxor,
}


def _slices(matrix: list[int]) -> NDArray[np.int64]:
    """The matrix as one (shift, mask, target shift) per diagonal.

    ``matrix[target]`` holds the source bits that are XORed into bit ``target``.
    """
    diagonals: dict[int, list[int]] = {}
    for target, sources in enumerate(matrix):
        for source in range(sources.bit_length()):
            if sources >> source & 1:
                diagonals.setdefault(source - target, []).append(source)
    slices = []
    for distance, sources_on_it in sorted(diagonals.items()):
        lowest = min(sources_on_it)
        slices.append((lowest, sum(1 << source - lowest for source in sources_on_it), lowest - distance))
    table = np.array(slices, dtype=np.int64).reshape(-1, 3)
    table.setflags(write=False)  # a mapping is shared by all who load it
    return table


def _inverse(matrix: list[int]) -> list[int] | None:
    """Inverse of a square matrix over GF(2), rows as bit sets; None if singular."""
    size = len(matrix)
    rows = [row | 1 << size + i for i, row in enumerate(matrix)]
    for pivot in range(size):
        found = next((i for i in range(pivot, size) if rows[i] >> pivot & 1), None)
        if found is None:
            return None
        rows[pivot], rows[found] = rows[found], rows[pivot]
        for i in range(size):
            if i != pivot and rows[i] >> pivot & 1:
                rows[i] ^= rows[pivot]
    return [row >> size for row in rows]


def _apply(slices: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    out = np.zeros_like(numbers)
    for shift, mask, target_shift in slices.tolist():
        out ^= (numbers >> shift & mask) << target_shift
    return out
