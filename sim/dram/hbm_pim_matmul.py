"""HBM-PIM: vectors times a matrix in the banks, results read out, for m vectors of any size.

Block b of 64 outputs, 8 of each processing unit (PU), belongs to pseudo-channel ``b mod channels``
and is its output tile ``b // channels``; the inputs are padded to tiles of 128. The schedule of a
tile is that of `neardata.sim.dram.hbm_pim.gemv`. A PU's 8 sums are of 16 lanes each, which the host
adds: it reads a burst for every output.

The vectors go one after the other, each through the whole matrix: GRF_B holds the sums of one vector, so
a row that stayed open for the next vector would cost a write and a read of the registers for 8 MACs
each. The device stays in its all-bank modes for as many vectors as there are rows for results; then
the host reads them in single-bank mode.
"""

from __future__ import annotations

from functools import lru_cache

from neardata.arch.dram import Device
from neardata.arch.errors import InputError
from neardata.sim.dram.hbm_pim import (
    BANKS,
    COLUMNS,
    GRF,
    LANES,
    ODD,
    PARK_ROW,
    UNITS,
    Fence,
    Steps,
    enter,
    leave,
    vector,
    weight_rows,
)
from neardata.sim.dram.program import Program, Step
from neardata.sim.dram.steps import share_out, steps

TILE_OUTPUTS = UNITS * GRF
"""Outputs of a channel's tile."""
TILE_INPUTS = GRF * LANES
TILES_IN_A_ROW = COLUMNS // GRF
"""Tiles of results in a row."""


def matmul(m: int, n: int, k: int, *, channels: int, device: Device, fence: Fence = "order") -> Program:
    """y[m, n] = x[m, k] w[n, k] in FP16: the program of all pseudo-channels, from idle to idle.

    Raises:
        InputError: a size below 1, or a matrix larger than the rows below the reserved ones.

    >>> from neardata.arch.dram import load_device
    >>> program = matmul(1, 1009, 1000, channels=64, device=load_device("hbm-pim"))
    >>> [group.channels for group in program.groups]     # 16 blocks of 64 outputs
    [16]
    """
    for name, value in (("m", m), ("n", n), ("k", k), ("channels", channels)):
        if value < 1:
            raise InputError(f"must be at least 1, got {value}", key=name)
    blocks, inputs = -(-n // TILE_OUTPUTS), -(-k // TILE_INPUTS)
    check_rows(rows_of(-(-blocks // channels), inputs), channels, f"a {n} x {k} matrix")
    groups = share_out(
        blocks, channels, lambda tiles: product(m, tiles, inputs, 0, weight_rows(tiles, inputs), fence)
    )
    return Program(device.name, groups, f"matmul {m}x{n}x{k}")


def check_rows(rows: int, channels: int, what: str) -> None:
    """Refuse what does not fit below the reserved rows, results of a vector included.

    Raises:
        InputError: with the bytes needed and there.
    """
    if rows > PARK_ROW:
        size = COLUMNS * LANES * 2 * BANKS * channels
        raise InputError(
            f"{what} would take {rows * size} bytes in the banks of {channels} pseudo-channels "
            f"({rows} rows of each); there are {PARK_ROW * size} ({PARK_ROW} rows below the reserved ones)",
            key="banks",
        )


def least_cycles(m: int, tiles: int, inputs: int, device: Device) -> int:
    """Cycles that a channel cannot go below: per tile 8 register writes, then two rows of MACs; at the end
    the reads of results."""
    t = device.timing
    row = t["nRCDRD"] + (COLUMNS - 1) * t["nCCDL"] + t["nRTP"]
    tile = 2 * row + t["nRP"] + (GRF - 1) * t["nCCDL"]
    return m * tiles * (inputs * tile + TILE_OUTPUTS * t["nCCDS"]) - t["nCCDS"]


def rows_of(tiles: int, inputs: int) -> int:
    """Rows of weights and of one vector's results."""
    return weight_rows(tiles, inputs) + -(-tiles // TILES_IN_A_ROW)


@lru_cache(maxsize=256)
def product(
    m: int, tiles: int, inputs: int, first_row: int, results: int, fence: Fence, phase: str = ""
) -> tuple[Step, ...]:
    """One channel's ``tiles`` output tiles times m vectors, weights from ``first_row`` on; results
    go to the rows from ``results`` on, and from there to the host.

    ``phase``: the name all steps get, instead of the names of parts.
    """
    of_a_vector = -(-tiles // TILES_IN_A_ROW)
    chunk = min(m, (PARK_ROW - results) // of_a_vector)

    def vectors(count: int) -> Steps:
        more = vector(
            str(first_row), f"{results + of_a_vector} + {of_a_vector}*v", tiles, inputs, fence, first=False
        )
        return [
            *enter(fence),
            *vector(str(first_row), str(results), tiles, inputs, fence, first=True),
            *([{"loop": {"v": count - 1}, "body": more}] if count > 1 else []),
            *leave(),
            *read_results(count, tiles, results),
        ]

    whole, rest = divmod(m, chunk)
    body = vectors(chunk) if whole == 1 else [{"loop": {"chunk": whole}, "body": vectors(chunk)}]
    body += vectors(rest) if rest else []
    return steps([{"phase": phase, "body": _without_phases(body)}] if phase else body)


def read_results(count: int, tiles: int, results: int) -> Steps:
    """The host reads the results of ``count`` vectors from the odd banks, in single-bank mode."""
    whole, rest = divmod(tiles, TILES_IN_A_ROW)
    rows = whole + (rest > 0)

    def row(number: str, columns: int) -> Steps:
        place = {"bank_group": "g", "pim_unit": "u", "bank": ODD, "row": f"{results} + {rows}*v + {number}"}
        read = {"RD": {**place, "column": "c"}, "repeat": {"g": 4}}
        return [
            {"loop": {"u": 2}, "body": [{"ACT": place, "repeat": {"g": 4}}]},
            {"loop": {"c": columns}, "body": [{"loop": {"u": 2}, "body": [read]}]},
            "PREab",
        ]

    body: Steps = [{"loop": {"r": whole}, "body": row("r", COLUMNS)}] if whole else []
    body += row(str(whole), rest * GRF) if rest else []
    return [{"phase": "read results", "body": [{"loop": {"v": count}, "body": body}, {"fence": "data"}]}]


def _without_phases(body: Steps) -> Steps:
    out: Steps = []
    for step in body:
        if isinstance(step, dict) and "phase" in step:
            out += _without_phases(step["body"])
        elif isinstance(step, dict) and "loop" in step:
            out.append({**step, "body": _without_phases(step["body"])})
        else:
            out.append(step)
    return out
