"""Criteo's click logs as tables: label, 13 counts, 26 ids in hexadecimal; tab- or comma-separated.

Criteo publishes tab-separated rows without a header (``train.txt``, ``day_0``; test data without the label);
CSV files have a header with the names label, I1 .. I13, C1 .. C26. A field with nothing in it is missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neardata.arch.errors import InputError, nearest
from neardata.workloads.recsys.parquet import hexadecimal, read_parquet
from neardata.workloads.recsys.table import Column, Table

COUNTS = tuple(f"I{i}" for i in range(1, 14))
IDS = tuple(f"C{i}" for i in range(1, 27))
NAMES = ("label", *COUNTS, *IDS)


def read_criteo(path: str | Path, *, rows: int | None = None) -> Table:
    """A ``.csv`` (with header), or a ``.tsv`` or ``.txt`` (without one), or any other name as the latter.

    Counts become float32, ids and labels int64.

    Args:
        rows: read the first ones only.

    Raises:
        InputError: a row of another number of fields, a field that is no number or id, bytes that are no
            text; with line and column.
    """
    path = Path(path)
    comma = path.suffix == ".csv"
    separator = "," if comma else "\t"
    names: Sequence[str] = ()
    cells: list[list[str]] = []
    first = 1
    try:
        with path.open("rb") as lines:
            for number, raw in enumerate(lines, start=1):
                if rows is not None and len(cells) >= rows and names:
                    break
                row = _text(path, number, raw).split(separator)
                if comma and number == 1:
                    names, first = _header(path, row), 2
                    continue
                if not names:
                    names = _names(path, row)
                if len(row) != len(names):
                    raise InputError(f"{len(row)} fields for {len(names)} columns", file=path, line=number)
                cells.append(row)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    if not names:
        raise InputError("holds no rows", file=path)
    fields = list(zip(*cells, strict=True)) or [()] * len(names)
    columns = {}
    for name, texts in zip(names, fields, strict=True):
        columns[name] = _column(path, first, name, texts)
    return Table(columns, len(cells), str(path))


def read_table(path: str | Path, columns: Sequence[str] | None = None) -> Table:
    """A Parquet file (``.parquet``), or rows in Criteo's form (see `read_criteo`)."""
    if Path(path).suffix == ".parquet":
        return read_parquet(path, columns)
    table = read_criteo(path)
    return table if columns is None else Table({c: table[c] for c in columns}, table.rows, table.source)


def _text(path: Path, number: int, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise InputError("not UTF-8 text", file=path, line=number) from None


def _header(path: Path, row: list[str]) -> list[str]:
    for i, name in enumerate(row):
        if name not in NAMES:
            raise InputError(f"unknown column '{name[:40]}'{nearest(name[:40], NAMES)}", file=path, line=1)
        if name in row[:i]:
            raise InputError(f"column '{name}' comes twice", file=path, line=1)
    return row


def _names(path: Path, row: list[str]) -> Sequence[str]:
    if len(row) == len(NAMES):
        return NAMES
    if len(row) == len(NAMES) - 1:
        return NAMES[1:]
    raise InputError(
        f"{len(row)} tab-separated fields; Criteo's rows have 40 (label, 13 counts, 26 ids) or 39 (no label)",
        file=path,
        line=1,
    )


def _column(path: Path, first: int, name: str, texts: Sequence[str]) -> Column:
    dense = name in COUNTS
    convert = _count if dense else hexadecimal if name in IDS else _label
    values = np.zeros(len(texts), dtype=np.float32 if dense else np.int64)
    valid = np.ones(len(texts), dtype=bool)
    for i, text in enumerate(texts):
        if not text:
            valid[i] = False
            continue
        try:
            values[i] = convert(text)
        except ValueError as error:
            raise InputError(str(error), file=path, line=first + i, key=name) from None
    return Column(values, None if valid.all() else valid)


def _count(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"not a number: {text[:40]!r}")
    return value


def _label(text: str) -> int:
    if text not in ("0", "1"):
        raise ValueError(f"labels are 0 and 1, got {text[:40]!r}")
    return int(text)
