"""Parquet files as tables, with the pages they were decoded from, and tables as Parquet files."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet as pq

from neardata.arch.errors import InputError, nearest
from neardata.workloads.recsys.pages import ColumnChunk, PageError, pages_of
from neardata.workloads.recsys.table import Column, Table

_FAILURES = (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError)


def read_parquet(
    path: str | Path, columns: Sequence[str] | None = None, *, row_groups: Sequence[int] | None = None
) -> Table:
    """Columns of a Parquet file.

    Floats become float32 (a double is rounded), whole numbers and booleans int64, text the id that it spells
    in hexadecimal (as in Criteo's data), lists flat values with lengths. A missing list is an empty one.

    Args:
        columns: which; None: all.
        row_groups: which; None: all.

    Raises:
        InputError: no Parquet file, a column or row group that is not there, a type that is no number; bytes
            that cannot be decoded, with row group and column. (Some damage of the footer, which holds no
            checksum, ends the process inside PyArrow 26.)
    """
    path = Path(path)
    file = _opened(path)
    schema = file.schema_arrow
    names = schema.names
    places = _places(file, schema)
    for name in names if columns is None else columns:
        if name not in names:
            raise InputError(f"no column '{name}'{nearest(name, names)}", file=path)
        if names.count(name) > 1:
            raise InputError(f"column '{name}' comes twice", file=path)
    groups = range(file.metadata.num_row_groups) if row_groups is None else row_groups
    for group in groups:
        if not 0 <= group < file.metadata.num_row_groups:
            raise InputError(f"no row group {group}; there are {file.metadata.num_row_groups}", file=path)
    found: dict[str, Column] = {}
    chunks: list[ColumnChunk] = []
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        for name in names if columns is None else columns:
            parts = []
            for group in groups:
                # PyArrow first: it ends the process where it is asked about a codec it does not know
                try:
                    part = file.read_row_group(group, columns=[name], use_threads=False).column(0)
                    held = _chunks(raw, file, group, name, places.get(name, []))
                except _FAILURES as error:
                    raise _damaged(path, group, name, _first_line(error)) from None
                chunks += held
                parts.append(_column(path, name, group, part))
            found[name] = joined(parts)
    rows = sum(file.metadata.row_group(group).num_rows for group in groups)
    return Table(found, rows, str(path), tuple(chunks))


def row_groups(path: str | Path) -> list[int]:
    """Rows of each row group."""
    metadata = _opened(Path(path)).metadata
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


def mini_batches(path: str | Path, rows: int) -> list[tuple[int, ...]]:
    """Row groups of each mini-batch: those that follow each other and hold at most ``rows`` rows together.

    A row group is never split: it is one partition of what is stored. One with more rows is a mini-batch of
    its own; one without any is left out.

    Raises:
        InputError: no Parquet file, or one without rows.
    """
    batches: list[tuple[int, ...]] = []
    held = 0
    for group, size in enumerate(row_groups(path)):
        if not size:
            continue
        if batches and held + size <= rows:
            batches[-1] += (group,)
            held += size
        else:
            batches.append((group,))
            held = size
    if not batches:
        raise InputError("holds no rows", file=path)
    return batches


def joined(parts: Sequence[Column]) -> Column:
    """Columns one after another."""
    if not parts:
        return Column(np.zeros(0, dtype=np.int64))
    if len(parts) == 1:
        return parts[0]
    values = np.concatenate([part.values for part in parts])
    valid = None
    if any(part.valid is not None for part in parts):
        flags = [np.ones(len(p.values), dtype=bool) if p.valid is None else p.valid for p in parts]
        valid = np.concatenate(flags)
    lengths = None
    if parts[0].lengths is not None:
        lengths = np.concatenate([part.lengths for part in parts if part.lengths is not None])
    return Column(values, valid, lengths)


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise InputError("cannot be read: No such file or directory", file=path) from None
    except _FAILURES as error:
        raise InputError(f"no whole Parquet file: {_first_line(error)}", file=path) from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _damaged(path: Path, group: int, column: str, problem: str) -> InputError:
    return InputError(f"row group {group}, column '{column}': {problem}", file=path)


def _places(file: pq.ParquetFile, schema: pa.Schema) -> dict[str, list[int]]:
    """Column chunks of a row group that hold each column."""
    nested = [name for i, name in enumerate(schema.names) if pa.types.is_nested(schema.field(i).type)]
    found: dict[str, list[int]] = {}
    for i in range(len(file.schema)):
        path = file.schema.column(i).path
        for name in {path, *(name for name in nested if path.startswith(f"{name}."))}:
            found.setdefault(name, []).append(i)
    return found


def _chunks(
    raw: mmap.mmap, file: pq.ParquetFile, group: int, name: str, places: Sequence[int]
) -> list[ColumnChunk]:
    about, found = file.metadata.row_group(group), []
    for i in places:
        chunk, schema = about.column(i), file.schema.column(i)
        path = chunk.path_in_schema
        # a chunk without values may have no data page
        offsets = (chunk.data_page_offset, chunk.dictionary_page_offset)
        start = min((offset for offset in offsets if offset), default=0)
        stop = start + chunk.total_compressed_size
        if not 0 < start <= stop <= len(raw):
            raise PageError(f"bytes {start} to {stop} of a file of {len(raw)}")
        levels = schema.max_definition_level, schema.max_repetition_level
        pages = tuple(pages_of(raw[start:stop], chunk.compression, *levels))
        values = sum(page.values for page in pages if page.kind != "dictionary")
        if values != chunk.num_values:
            raise PageError(f"pages of {values} values where {chunk.num_values} should be")
        found.append(ColumnChunk(group, name, path, chunk.physical_type, chunk.compression, pages))
    if not found:
        raise PageError("no column chunk")
    return found


def _column(path: Path, name: str, group: int, data: Any) -> Column:
    array = data.combine_chunks() if data.num_chunks != 1 else data.chunk(0)
    lengths = None
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        counts = array.value_lengths().fill_null(0)
        lengths = counts.to_numpy(zero_copy_only=False).astype(np.int32)
        array = array.flatten()
    values, valid = _flat(path, name, group, array)
    return Column(values, valid, lengths)


def _flat(path: Path, name: str, group: int, array: Any) -> tuple[np.ndarray, np.ndarray | None]:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    valid = array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        try:
            ids = [0 if text is None else hexadecimal(text) for text in array.to_pylist()]
        except (ValueError, UnicodeDecodeError) as error:
            raise _damaged(path, group, name, str(error)) from None
        return np.array(ids, dtype=np.int64), valid
    if pa.types.is_floating(kind):
        target, zero = pa.float32(), 0.0
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        target, zero = pa.int64(), 0
    else:
        raise InputError(f"column '{name}' is of type {kind}; numbers, text ids and lists of them", file=path)
    try:
        plain = array.cast(target, safe=kind != pa.float64())
    except pa.ArrowException as error:
        raise _damaged(path, group, name, _first_line(error)) from None
    return plain.fill_null(zero).to_numpy(zero_copy_only=False), valid


def hexadecimal(text: str) -> int:
    """An id from up to 15 hexadecimal digits, such as Criteo's ``68fd1e64``.

    Raises:
        ValueError: something else.

    >>> hexadecimal("68fd1e64")
    1761418852
    """
    if not 1 <= len(text) <= 15 or not all(c in "0123456789abcdefABCDEF" for c in text):
        raise ValueError(f"no hexadecimal id: {text[:40]!r}")
    return int(text, 16)


def write_parquet(table: Table, path: str | Path, *, rows_per_group: int = 8192, **options: Any) -> None:
    """A table as a Parquet file.

    Args:
        options: of ``pyarrow.parquet.write_table``: ``compression``, ``use_dictionary``,
            ``data_page_version`` ...
    """
    arrays = {}
    for name, column in table.columns.items():
        mask = None if column.valid is None else ~column.valid
        flat = pa.array(column.values, mask=mask)
        if column.lengths is not None:
            ends = np.concatenate([[0], np.cumsum(column.lengths, dtype=np.int64)]).astype(np.int32)
            flat = pa.ListArray.from_arrays(pa.array(ends), flat)
        arrays[name] = flat
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError("its folder is not there", file=path)
    pq.write_table(pa.table(arrays), path, row_group_size=rows_per_group, **options)
