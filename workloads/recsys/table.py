"""Columns of samples: one number a row, or a list of ids a row, with what is missing marked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neardata.arch.errors import InputError, nearest

if TYPE_CHECKING:
    from neardata.workloads.recsys.pages import ColumnChunk


@dataclass(frozen=True)
class Column:
    """A column of ``rows`` rows."""

    values: NDArray
    """(n,) float32, int64 or int32, all rows' values one after another; 0 where there is none."""
    valid: NDArray[np.bool_] | None = None
    """(n,) False where a value is missing; None: nothing is."""
    lengths: NDArray[np.int32] | None = None
    """(rows,) values of each row; None: one each. A row whose list is missing has an empty one."""

    def __post_init__(self) -> None:
        n = len(self.values)
        if self.valid is not None and len(self.valid) != n:
            raise ValueError(f"{len(self.valid)} flags for {n} values")
        if self.lengths is not None and int(self.lengths.sum(dtype=np.int64)) != n:
            raise ValueError(f"lengths that add up to {self.lengths.sum(dtype=np.int64)} for {n} values")

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.values) if self.lengths is None else len(self.lengths)

    @property
    def nulls(self) -> int:
        """Values that are missing."""
        return 0 if self.valid is None else int((~self.valid).sum())

    def __getitem__(self, rows: slice) -> Column:
        """Some rows, one after another."""
        start, stop, step = rows.indices(self.rows)
        if step != 1:
            raise ValueError("rows are sliced one after another")
        stop = max(start, stop)
        lengths = self.lengths
        if lengths is not None:
            ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
            lengths = lengths[start:stop]
            start, stop = int(ends[start]), int(ends[stop])
        valid = None if self.valid is None else self.valid[start:stop]
        return Column(self.values[start:stop], valid, lengths)


@dataclass(frozen=True)
class Table:
    """Columns by name, all of the same rows."""

    columns: Mapping[str, Column]
    rows: int
    source: str = "the table"
    """What errors call it: the path of its file."""
    chunks: tuple[ColumnChunk, ...] = field(default=(), repr=False)
    """The Parquet column chunks that the columns were decoded from; empty: not from Parquet."""

    def __post_init__(self) -> None:
        for name, column in self.columns.items():
            if column.rows != self.rows:
                raise InputError(f"{column.rows} rows for {self.rows}", file=self.source, key=name)

    def __getitem__(self, name: str) -> Column:
        """A column.

        Raises:
            InputError: there is none of the name.
        """
        if name not in self.columns:
            raise InputError(f"no column '{name}'{nearest(name, self.columns)}", file=self.source)
        return self.columns[name]

    @property
    def nulls(self) -> dict[str, int]:
        """Missing values of each column that has some."""
        return {name: column.nulls for name, column in self.columns.items() if column.nulls}

    def slice(self, start: int, stop: int) -> Table:
        """Some rows; they no longer tell the Parquet pages they came from."""
        chosen = slice(start, stop)
        columns = {name: column[chosen] for name, column in self.columns.items()}
        return Table(columns, len(range(*chosen.indices(self.rows))), self.source)
