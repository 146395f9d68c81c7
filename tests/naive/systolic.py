"""A systolic array unit by unit and cycle by cycle: values move through registers, a unit a cycle.

The twin of `neardata.sim.processor.systolic`: it knows no closed form. Cycles are those from the
first in which a value enters the array to the one in which the last result is complete.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.int64]


@dataclass
class Run:
    """What came out, when, and what was fetched."""

    c: Matrix
    cycles: int
    a_reads: int
    b_reads: int
    c_writes: int


def run(a: Matrix, b: Matrix, rows: int, columns: int, dataflow: str, overlap: bool) -> Run:
    """``a[m, k] @ b[k, n]`` on ``rows`` x ``columns`` units."""
    if dataflow == "os":
        return _output_stationary(a, b, rows, columns, overlap)
    if dataflow == "ws":
        return _held(a, b, rows, columns, overlap)
    # inputs held: the same with the operands' parts exchanged, C comes out transposed
    found = _held(b.T, a.T, rows, columns, overlap)
    return Run(found.c.T, found.cycles, found.b_reads, found.a_reads, found.c_writes)


def _output_stationary(a: Matrix, b: Matrix, rows: int, columns: int, overlap: bool) -> Run:
    (m, k), n = a.shape, b.shape[1]
    folds = [(i, j) for i in range(0, m, rows) for j in range(0, n, columns)]
    c = np.zeros((m, n), dtype=np.int64)
    c_done = np.zeros((m, n), dtype=bool)
    result = Run(c, 0, 0, 0, 0)
    # a value is (fold, step, number); None: the register holds nothing
    right: list[list[tuple[int, int, int] | None]] = [[None] * columns for _ in range(rows)]
    down: list[list[tuple[int, int, int] | None]] = [[None] * columns for _ in range(rows)]
    sums = np.zeros((rows, columns), dtype=np.int64)
    done = np.zeros((rows, columns), dtype=np.int64)
    start = [0] * len(folds)
    cycle, feeding = 0, 0
    while done.min() < len(folds):
        if feeding + 1 < len(folds):
            free = cycle == start[feeding] + k if overlap else done.min() == feeding + 1
            if free:
                feeding += 1
                start[feeding] = cycle
        for r in reversed(range(rows)):
            for col in reversed(range(columns)):
                right[r][col] = right[r][col - 1] if col else None
                down[r][col] = down[r - 1][col] if r else None
        for fold, (i, j) in enumerate(folds[: feeding + 1]):
            for r in range(rows):
                step = cycle - start[fold] - r
                if 0 <= step < k:
                    inside = i + r < m
                    right[r][0] = (fold, step, int(a[i + r, step]) if inside else 0)
                    result.a_reads += inside
            for col in range(columns):
                step = cycle - start[fold] - col
                if 0 <= step < k:
                    inside = j + col < n
                    down[0][col] = (fold, step, int(b[step, j + col]) if inside else 0)
                    result.b_reads += inside
        for r in range(rows):
            for col in range(columns):
                x, w = right[r][col], down[r][col]
                assert (x is None) == (w is None)
                if x is None or w is None:
                    continue
                assert x[:2] == w[:2], "operands of one step meet"
                sums[r, col] += x[2] * w[2]
                if x[1] == k - 1:
                    i, j = folds[x[0]]
                    if i + r < m and j + col < n:
                        c[i + r, j + col] = sums[r, col]
                        assert not c_done[i + r, j + col]
                        c_done[i + r, j + col] = True
                        result.c_writes += 1
                    sums[r, col] = 0
                    done[r, col] += 1
        cycle += 1
    result.cycles = cycle
    return result


def _held(a: Matrix, b: Matrix, rows: int, columns: int, overlap: bool) -> Run:
    """``b`` is held, rows of ``a`` stream past it."""
    (m, k), n = a.shape, b.shape[1]
    folds = [(i, j) for i in range(0, k, rows) for j in range(0, n, columns)]
    c = np.zeros((m, n), dtype=np.int64)
    result = Run(c, 0, 0, 0, 0)
    # behind what a unit works with, a chain of registers down each column brings the next in;
    # an entry is (fold, row it is for, number)
    chain: list[list[tuple[int, int, int] | None]] = [[None] * columns for _ in range(rows)]
    held: list[list[tuple[int, int, int] | None]] = [[None] * columns for _ in range(rows)]
    right: list[list[tuple[int, int, int] | None]] = [[None] * columns for _ in range(rows)]
    sums: list[list[int]] = [[0] * columns for _ in range(rows)]
    pushed = [[0] * columns for _ in folds]
    start: list[int | None] = [None] * len(folds)
    left = len(folds) * m * columns
    pushing = [0] * columns
    cycle = 0
    finished = [0] * len(folds)
    while left:
        finished_before = list(finished)
        streaming = sum(s is not None for s in start) - 1
        # the next fold streams when its first column is in the chain (the others follow a cycle apart,
        # as the stream reaches them) and what the last one streams has all entered
        if streaming + 1 < len(folds) and pushed[streaming + 1][0] == rows:
            before = start[streaming] if streaming >= 0 else None
            if before is None or cycle >= before + m:
                streaming += 1
                start[streaming] = cycle
        for r in reversed(range(rows)):
            for col in reversed(range(columns)):
                right[r][col] = right[r][col - 1] if col else None
        for fold in range(streaming + 1):
            for r in range(rows):
                begin = start[fold]
                assert begin is not None
                t = cycle - begin - r
                if 0 <= t < m:
                    inside = folds[fold][0] + r < k
                    right[r][0] = (fold, t, int(a[t, folds[fold][0] + r]) if inside else 0)
                    result.a_reads += inside
        above = [[0] * columns for _ in range(rows)]
        for r in range(1, rows):
            above[r] = list(sums[r - 1])
        for r in range(rows):
            for col in range(columns):
                x = right[r][col]
                if x is None:
                    continue
                if x[1] == 0:  # the first of a fold: take what the chain brought
                    held[r][col], chain[r][col] = chain[r][col], None
                w = held[r][col]
                assert w is not None and w[:2] == (x[0], r), "the operand of this fold and row"
                sums[r][col] = above[r][col] + x[2] * w[2]
                if r == rows - 1:
                    left -= 1
                    finished[x[0]] += 1
                    j = folds[x[0]][1] + col
                    if j < n:
                        c[x[1], j] += sums[r][col]
                        result.c_writes += 1
        # a shift of each column's chain, once its top unit has taken what it held
        for col in range(columns):
            fold = pushing[col]
            if fold == len(folds):
                continue
            if fold == 0:
                may = True
            elif overlap:
                begin = start[fold - 1]
                may = begin is not None and cycle >= begin + col
            else:
                may = finished_before[fold - 1] == m * columns
            if not may:
                continue
            row = rows - 1 - pushed[fold][col]
            i, j = folds[fold]
            inside = i + row < k and j + col < n
            entry = (fold, row, int(b[i + row, j + col]) if inside else 0)
            for r in reversed(range(1, rows)):
                moving = chain[r - 1][col]
                if moving is not None and moving[1] != r - 1:
                    assert chain[r][col] is None
                    chain[r][col], chain[r - 1][col] = moving, None
            assert chain[0][col] is None
            chain[0][col] = entry
            result.b_reads += inside
            pushed[fold][col] += 1
            if pushed[fold][col] == rows:
                pushing[col] += 1
        cycle += 1
    result.cycles = cycle
    return result
