"""Systolic arrays in closed form: cycles and SRAM traffic of a matrix product, exactly.

``C[m, n] = A[m, k] B[k, n]`` is cut into folds of the array. A fold holds one operand in the units
(``dataflow``); what is streamed enters at the left and the top and moves a unit a cycle:

========  ==============  =================  ============
dataflow  rows hold (Sr)  columns hold (Sc)  streamed (T)
========  ==============  =================  ============
os        m               n                  k
ws        k               n                  m
is        k               m                  n
========  ==============  =================  ============

A fold takes the whole array of R rows and C columns, whatever part of it the operands fill. In
``os`` a result leaves its unit by a path of its own when its sum is complete; in ``ws`` and ``is``
the held operand is pushed in from the top, R cycles, and sums leave at the bottom. One fold after
the other::

    folds = ceil(Sr / R) * ceil(Sc / C)
    os:      cycles = folds * (T + R + C - 2)
    ws, is:  cycles = folds * (R + T + R + C - 2)

With ``fold_overlap`` a unit has a second register for what it holds, and the next fold's operands
follow the last ones without a gap, but not before the R cycles it takes to push the next held
operand in behind the present one::

    os:      cycles = folds * T + R + C - 2
    ws, is:  cycles = R + (folds - 1) * max(T, R) + T + R + C - 2

Cycles run from the one that takes the first operand to the one that gives the last result, both
counted. SCALE-Sim 3.0.0 prints the index of the last cycle, counted from 0, which is one less
(scalesim-project/SCALE-Sim issue 125); and its output writes in ``os`` are ``folds * (R + C)`` too
many (``systolic_compute_os.py`` adds the shape of the array to them).
"""

from __future__ import annotations

from dataclasses import dataclass

from neardata.arch.errors import InputError
from neardata.arch.processor import SystolicArray


@dataclass(frozen=True)
class SystolicRun:
    """A matrix product on a systolic array."""

    cycles: int
    time_ps: int
    folds: int
    macs: int
    a_reads: int
    """Words of A read from SRAM."""
    b_reads: int
    """Words of B read from SRAM."""
    c_writes: int
    """Words of C, or of its partial sums, written to SRAM."""
    utilisation: float
    """Multiply-accumulates done, over those the array could have done meanwhile."""
    energy_pj: dict[str, float]
    """``compute`` and ``sram``."""


def run_systolic(array: SystolicArray, m: int, n: int, k: int) -> SystolicRun:
    """``C[m, n] = A[m, k] B[k, n]``.

    Raises:
        InputError: a size below 1.

    >>> from neardata.arch.processor import load_systolic
    >>> run = run_systolic(load_systolic("systolic-16"), 128, 128, 128)
    >>> run.cycles, run.a_reads, f"{run.utilisation:.4f}"
    (10112, 131072, '0.8101')
    """
    for name, size in (("m", m), ("n", n), ("k", k)):
        if size < 1:
            raise InputError(f"{name} must be at least 1, got {size}")
    rows, columns = array.rows, array.columns
    match array.dataflow:
        case "os":
            held_rows, held_columns, streamed = m, n, k
            reads = (m * k * -(-n // columns), k * n * -(-m // rows))
            writes = m * n
        case "ws":
            held_rows, held_columns, streamed = k, n, m
            reads = (m * k * -(-n // columns), k * n)
            writes = m * n * -(-k // rows)
        case "is":
            held_rows, held_columns, streamed = k, m, n
            reads = (m * k, k * n * -(-m // columns))
            writes = m * n * -(-k // rows)
    folds = -(-held_rows // rows) * -(-held_columns // columns)
    cycles = _cycles(array, folds, streamed)
    macs = m * n * k
    return SystolicRun(
        cycles=cycles,
        time_ps=round(cycles * 1e6 / array.clock_mhz),
        folds=folds,
        macs=macs,
        a_reads=reads[0],
        b_reads=reads[1],
        c_writes=writes,
        utilisation=macs / (cycles * rows * columns),
        energy_pj={
            "compute": macs * array.mac_pj.value,
            "sram": (sum(reads) + writes) * array.sram_pj_per_word.value,
        },
    )


def _cycles(array: SystolicArray, folds: int, streamed: int) -> int:
    push_in = 0 if array.dataflow == "os" else array.rows
    skew = array.rows + array.columns - 2
    if not array.fold_overlap:
        return folds * (push_in + streamed + skew)
    return push_in + (folds - 1) * max(streamed, push_in) + streamed + skew
