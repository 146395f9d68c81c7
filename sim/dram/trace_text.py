"""Text traces, parsed a block of lines at a time.

A block is first parsed with numpy on its bytes, which takes only well-formed lines; if any line
of it is unusual (comment, blank, malformed), the block is parsed again line by line, which
either succeeds or names the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from neardata.arch.errors import InputError

Bytes = NDArray[np.uint8]
Columns = NDArray[np.int64]
Parsed = tuple[Columns, NDArray[np.bool_], Columns | None, Columns]
"""Address, is_write, arrival (if the format has it), line number from 1."""

BLOCK = 1 << 19
"""Bytes parsed at once: the work arrays stay in the second-level cache."""
LONGEST_LINE = 4096
NEWLINE, RETURN, SPACE, COMMA = 10, 13, 32, 44

DIGIT = np.full(256, 255, dtype=np.uint8)
for _value, _characters in enumerate(("0", "1", "2", "3", "4", "5", "6", "7", "8", "9",
                                      "aA", "bB", "cC", "dD", "eE", "fF")):  # fmt: skip
    for _character in _characters:
        DIGIT[ord(_character)] = _value

LONGEST_NUMBER = 1000
"""Digits of a number, leading zeros and all; Python refuses to read thousands."""


@dataclass(frozen=True)
class TextFormat:
    """What a line of a trace looks like."""

    columns: tuple[str, ...]
    """In order: ``address``, ``op`` (LD, ST, READ, WRITE) or ``write`` (0, 1), ``arrival``."""
    separator: str | None
    """None: any white space."""
    line: re.Pattern[str]
    """Matches one well-formed line, with a group per column."""
    example: str
    hexadecimal: bool = False
    """Addresses without ``0x`` are hexadecimal."""
    header_lines: int = 0


_NUMBER = r"0[xX][0-9a-fA-F]+|[0-9]+"
RAMULATOR = TextFormat(
    ("op", "address"), None, re.compile(rf"(?P<op>LD|ST)\s+(?P<address>{_NUMBER})"), "LD|ST ADDRESS"
)
DRAMSIM3 = TextFormat(
    ("address", "op", "arrival"), None,
    re.compile(r"(?P<address>(?:0[xX])?[0-9a-fA-F]+)\s+(?P<op>(?i:READ|WRITE))\s+(?P<arrival>[0-9]+)"),
    "ADDRESS READ|WRITE CYCLE", hexadecimal=True,
)  # fmt: skip
_CSV_COLUMN = {"address": _NUMBER, "write": "[01]", "arrival": "[0-9]+"}


def _csv(columns: tuple[str, ...], header_line: int) -> TextFormat:
    fields = (rf"\s*(?P<{name}>{_CSV_COLUMN[name]})\s*" for name in columns)
    return TextFormat(columns, ",", re.compile(",".join(fields)), ",".join(columns), header_lines=header_line)


def text_format(path: Path, head: bytes) -> TextFormat:
    """The format of a trace that begins with ``head``.

    Raises:
        InputError: none of the known ones.
    """
    for number, raw in enumerate(head.splitlines(), start=1):
        line = raw.decode("utf-8", "backslashreplace").strip()
        if not line or line.startswith("#"):
            continue
        words = line.split()
        if words[0] in ("LD", "ST"):
            return RAMULATOR
        if len(words) >= 2 and words[1].upper() in ("READ", "WRITE"):
            return DRAMSIM3
        names = tuple(name.strip().lower() for name in line.split(","))
        if "address" in names:
            if set(names) - set(_CSV_COLUMN) or len(set(names)) != len(names) or "write" not in names:
                message = f"expected the columns address,write[,arrival], got '{_shown(line)}'"
                raise InputError(message, file=path, line=number)
            return _csv(names, number)
        raise InputError(
            "not a trace: expected 'LD|ST ADDRESS', 'ADDRESS READ|WRITE CYCLE', the CSV header "
            f"'address,write[,arrival]' or a .npy file, got '{_shown(line)}'", file=path, line=number,
        )  # fmt: skip
    raise InputError("empty trace", file=path)


class TextBlocks:
    """Iterates over the requests of a text stream, a block of lines at a time."""

    def __init__(self, path: Path, stream: BinaryIO, form: TextFormat) -> None:
        self.path, self.stream, self.form = path, stream, form

    def __iter__(self) -> Iterator[Parsed]:
        line = 1
        for _ in range(self.form.header_lines):
            self.stream.readline()
            line += 1
        rest = b""
        while True:
            read = self.stream.read(BLOCK)
            text = rest + read
            if read:
                end = text.rfind(b"\n") + 1
                rest = text[end:]
                text = text[:end]
            elif text:
                text += b"\n"
                rest = b""
            if len(rest) > LONGEST_LINE:
                where = line + text.count(b"\n")
                raise InputError(f"line longer than {LONGEST_LINE} bytes", file=self.path, line=where)
            if text:
                yield parse_block(text, self.form, line) or self._by_line(text, line)
                line += text.count(b"\n")
            if not read:
                return

    def _by_line(self, text: bytes, first: int) -> Parsed:
        return parse_lines(text, self.form, first, self.path)


def parse_lines(text: bytes, form: TextFormat, first: int, path: Path) -> Parsed:
    """Parse whole lines one by one.

    Raises:
        InputError: a malformed line, with its number and content.
    """
    rows: list[tuple[int, bool, int, int]] = []
    for number, raw in enumerate(text.split(b"\n")[:-1], start=first):
        line = raw.decode("utf-8", "backslashreplace").strip()
        if not line or line.startswith("#"):
            continue
        match = form.line.fullmatch(line)
        if match is None:
            raise InputError(f"expected '{form.example}', got '{_shown(line)}'", file=path, line=number)
        value = match.groupdict()
        if max(len(value["address"]), len(value.get("arrival", ""))) > LONGEST_NUMBER:
            raise InputError(f"number too large in '{_shown(line)}'", file=path, line=number)
        prefixed = value["address"][:2] in ("0x", "0X")
        address = int(value["address"], 16 if prefixed or form.hexadecimal else 10)
        write = value["op"][0] in "SWw" if "op" in value else value["write"] == "1"
        arrival = int(value.get("arrival", 0))
        if max(address, arrival) >= 1 << 63:
            raise InputError(f"number too large in '{_shown(line)}'", file=path, line=number)
        rows.append((address, write, arrival, number))
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    arrivals = np.ascontiguousarray(table[:, 2]) if "arrival" in form.columns else None
    return np.ascontiguousarray(table[:, 0]), table[:, 1] == 1, arrivals, table[:, 3]


def parse_block(text: bytes, form: TextFormat, first: int) -> Parsed | None:
    """Parse whole lines at once; None if any of them needs `parse_lines`."""
    data = np.frombuffer(text, dtype=np.uint8)
    if form.separator is None:
        # 9 to 13 and 32 are white space; other control characters are no part of a trace
        if (data < 9).any() or (data - np.uint8(14) < 18).any():
            return None
        between = data <= SPACE
    else:
        between = (data == COMMA) | (data == NEWLINE) | (data == RETURN)
    newline = np.flatnonzero(data == NEWLINE)
    words, lines = len(form.columns), len(newline)
    edges = np.flatnonzero(between[1:] != between[:-1]) + 1
    if not between[0]:
        edges = np.concatenate([[0], edges])
    if len(edges) != 2 * words * lines:
        return None
    span = edges.reshape(lines, words, 2)
    if (span[:, -1, 1] > newline).any() or (span[1:, 0, 0] < newline[:-1]).any():
        return None
    if form.separator is not None and np.count_nonzero(data == COMMA) != (words - 1) * lines:
        return None
    spans = {
        name: (np.ascontiguousarray(span[:, i, 0]), np.ascontiguousarray(span[:, i, 1]))
        for i, name in enumerate(form.columns)
    }
    address = _addresses(data, *spans["address"], form)
    arrival = _digits(data, *spans["arrival"], 10) if "arrival" in spans else None
    if address is None or ("arrival" in spans and arrival is None):
        return None
    write = _operations(data, *spans["op"], form) if "op" in spans else _flags(data, *spans["write"])
    if write is None:
        return None
    return address, write, arrival, np.arange(first, first + lines)


def _operations(data: Bytes, start: Columns, end: Columns, form: TextFormat) -> NDArray[np.bool_] | None:
    """Whether each operation is a write; None if any is not an operation."""
    # upper case only in Ramulator's form, either in DRAMsim3's
    read, write, fold = (b"LD", b"ST", 0xFF) if form is RAMULATOR else (b"READ", b"WRITE", 0xDF)
    is_write = (data[start] & fold) == write[0]
    if (end - start != np.where(is_write, len(write), len(read))).any():
        return None
    for i, (of_read, of_write) in enumerate(zip(read, write, strict=False)):
        if ((data[start + i] & fold) != np.where(is_write, of_write, of_read)).any():
            return None
    for i in range(len(read), len(write)):
        if ((data[start[is_write] + i] & fold) != write[i]).any():
            return None
    return is_write


def _flags(data: Bytes, start: Columns, end: Columns) -> NDArray[np.bool_] | None:
    """Column of 0 and 1; None if anything else stands there."""
    flag = data[start] - np.uint8(ord("0"))
    return None if (flag > 1).any() or (end - start != 1).any() else flag == 1


def _addresses(data: Bytes, start: Columns, end: Columns, form: TextFormat) -> Columns | None:
    """Values of a column of addresses; None if any is malformed or very long."""
    prefixed = (data[start] == ord("0")) & ((data[start + 1] | 0x20) == ord("x"))
    if prefixed.all() or form.hexadecimal:
        return _digits(data, start + 2 * prefixed, end, 16)
    if not prefixed.any():
        return _digits(data, start, end, 10)
    value = np.empty(len(start), dtype=np.int64)
    for base, chosen in ((16, prefixed), (10, ~prefixed)):
        part = _digits(data, start[chosen] + (2 if base == 16 else 0), end[chosen], base)
        if part is None:
            return None
        value[chosen] = part
    return value


def _digits(data: Bytes, start: Columns, end: Columns, base: int) -> Columns | None:
    length = end - start
    longest, shortest = int(length.max()), int(length.min())
    if shortest < 1 or longest > (15 if base == 16 else 18):
        return None
    value = np.zeros(len(start), dtype=np.int64)
    for i in range(longest):
        digit = DIGIT[data[end - 1 - i]]
        if i >= shortest:  # before a shorter number's first digit stands another word
            digit = digit * (i < length)
        if digit.max() >= base:
            return None
        value += digit.astype(np.int64) * base**i
    return value


def _shown(line: str) -> str:
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
    return text if len(text) <= 60 else text[:57] + "..."
