"""Data like Criteo's, drawn: skewed ids, missing values, log-normal counts; the same for the same seed."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neardata.arch.errors import InputError
from neardata.workloads.recsys.spec import Drawn, Lengths, Spec
from neardata.workloads.recsys.table import Column, Table


def generate(spec: Spec, rows: int, *, seed: int = 0, label_rate: float = 0.25) -> Table:
    """Columns for a spec, as its groups' ``generate`` says.

    Numbers are whole: round(exp(z) - 1), at least 0, z normal. Ids are 32 bits wide, as Criteo's: a mix of
    the rank, which is drawn by Zipf's law over ``distinct`` ranks. A column's values depend on the seed and
    its name alone; more rows begin with the same ones only in columns without lists.

    Args:
        label_rate: share of rows with label 1 (0.245 in 200 rows of Criteo's data).

    Raises:
        InputError: a group of columns that the spec does not say how to draw.

    >>> from neardata.workloads.recsys.spec import load_spec
    >>> table = generate(load_spec("rm1"), 1000)
    >>> table.rows, len(table.columns), table.nulls["I12"] > 700
    (1000, 40, True)
    """
    if rows < 0:
        raise InputError(f"at least 0, got {rows}", key="rows")
    columns: dict[str, Column] = {}
    if spec.label is not None:
        columns[spec.label] = Column((_draw(seed, spec.label).random(rows) < label_rate).astype(np.int64))
    for name, group in spec.features.items():
        if group.generate is None:
            missing = [c for c in group.column_names if c not in _drawable(spec)]
            if missing:
                raise InputError(
                    f"spec '{spec.name}' does not say how to draw '{missing[0]}'",
                    key=f"features.{name}.generate",
                )
            continue
        for i, column in enumerate(group.column_names):
            columns[column] = _column(group.generate, i, column, rows, seed)
    return Table(columns, rows, f"data drawn for {spec.name}")


def _drawable(spec: Spec) -> set[str]:
    groups = [group for group in spec.features.values() if group.generate is not None]
    return {name for group in groups for name in group.column_names}


def _draw(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _of(given: Any, i: int) -> Any:
    return given[i] if isinstance(given, tuple) else given


def _column(drawn: Drawn, i: int, name: str, rows: int, seed: int) -> Column:
    draw = _draw(seed, name)
    lengths = None
    n = rows
    if drawn.lengths is not None:
        lengths = _lengths(drawn.lengths, rows, draw)
        n = int(lengths.sum(dtype=np.int64))
    valid = draw.random(n) >= _of(drawn.null_rate, i)
    if drawn.log_mean is not None:
        counts = np.expm1(draw.normal(_of(drawn.log_mean, i), _of(drawn.log_deviation, i), n))
        values: NDArray = np.maximum(np.rint(counts), 0).astype(np.float32)
    else:
        assert drawn.zipf is not None
        ranks = zipf_ranks(draw.random(n), _of(drawn.distinct, i), drawn.zipf)
        values = scattered(ranks, zlib.crc32(name.encode()))
    values[~valid] = 0
    return Column(values, None if valid.all() else valid, lengths)


def _lengths(lengths: Lengths, rows: int, draw: np.random.Generator) -> NDArray[np.int32]:
    match lengths.kind:
        case "poisson":
            return draw.poisson(lengths.mean, rows).astype(np.int32)
        case "geometric":  # 0, 1, 2 ...
            return (draw.geometric(1 / (1 + lengths.mean), rows) - 1).astype(np.int32)
    return np.full(rows, round(lengths.mean), dtype=np.int32)


def zipf_ranks(uniform: NDArray[np.float64], n: int, s: float) -> NDArray[np.int64]:
    """Ranks 0 .. n - 1 from numbers in [0, 1): by the inverse of the power law's integral over 1 .. n + 1.

    The law is continuous within a rank: rank k comes in proportion to the integral of x**-s over
    k + 1 .. k + 2.

    >>> zipf_ranks(np.array([0.0, 0.5, 0.999999]), 100, 1.0).tolist()
    [0, 9, 99]
    """
    top = np.log(n + 1.0)
    x = np.exp(uniform * top) if s == 1 else (1 + uniform * np.expm1((1 - s) * top)) ** (1 / (1 - s))
    return np.minimum(x.astype(np.int64), n) - 1


def scattered(ranks: NDArray[np.int64], salt: int) -> NDArray[np.int64]:
    """A different number below 2**32 for each rank below 2**32: ranks times an odd number, then xor."""
    return (ranks * 0x9E3779B1 & 0xFFFFFFFF) ^ (salt & 0xFFFFFFFF)
