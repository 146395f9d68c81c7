"""Programs for HBM-PIM: the schedules of PIMSimulator's kernels, as nested loops of commands.

A processing unit (PU) serves an even and an odd bank and executes one instruction of its CRF with
every column command, on the 32 bytes (16 FP16 values) of that column. A *tile* is what the
registers hold: 8 GRF entries. All PUs of a channel, and all channels, work in step.

Every kernel parks the banks (one read of a spare row in each), enters HAB mode, programs the CRF,
enters HAB-PIM mode, streams column commands, and comes back the same way. The host separates
groups of 8 column commands by a barrier. PIMSimulator's barrier keeps commands in order and does
nothing else: its controller issues the first command after it in the next cycle that the timing
rules allow. A program is in order anyway, so there it costs nothing; a host that waits at each
barrier until the data are in is ``fence="data"``.
"""

from __future__ import annotations

from typing import Any, Literal

from neardata.arch.errors import InputError
from neardata.sim.dram.program import Program

LANES = 16
"""FP16 values in a column."""
GRF = 8
"""Entries of a register file, and columns between two barriers."""
UNITS = 8
"""PUs of a channel."""
COLUMNS = 32
"""Columns (bursts) of a row."""
BANKS = 16

PARK_ROW, ENTER_HAB_ROW, LEAVE_HAB_ROW, REGISTER_ROW = 0x1000, 0x17FF, 0x1FFF, 0x3FFF
CRF_COLUMN, GRF_COLUMN = 4, 8
OPERAND_ROWS, RESULT_ROW = (0, 128), 256
"""Rows from which element-wise kernels read and to which they write, four tiles a row."""
EVEN, ODD = 0, 1

Fence = Literal["order", "data"]
Steps = list[Any]


def gemv(
    outputs: int,
    inputs: int,
    *,
    channels: int = 64,
    device: str = "hbm-pim",
    fence: Fence = "order",
    first_refresh: int | None = None,
) -> Program:
    """FP16 matrix (outputs x inputs, in the banks) times vector; the results stay in the banks.

    Outputs are padded to 8 per PU of all channels (an output tile), inputs to 128 (an input
    tile). Even input tiles lie in the even banks, odd ones in the odd banks, each in two rows.

    Raises:
        InputError: a size below 1, or a matrix that does not fit below the reserved rows.

    >>> gemv(4096, 1024).groups[0].channels
    64
    """
    _at_least_one(outputs=outputs, inputs=inputs, channels=channels)
    output_tiles = -(-outputs // (channels * UNITS * GRF))
    input_tiles = -(-inputs // (GRF * LANES))
    result_row = weight_rows(output_tiles, input_tiles)
    _fits(result_row + -(-output_tiles // 4))
    body = [
        *enter(fence),
        *vector("0", str(result_row), output_tiles, input_tiles, fence, first=True),
        *leave(),
    ]
    return _program(f"gemv {outputs}x{inputs}", device, channels, first_refresh, body)


def weight_rows(output_tiles: int, input_tiles: int) -> int:
    """Rows that the weights take in each bank."""
    return 2 * -(-input_tiles // 2) * output_tiles


def vector(
    weights: str, results: str, output_tiles: int, input_tiles: int, fence: Fence, *, first: bool
) -> Steps:
    """All output tiles of a channel for one vector.

    Args:
        weights, results: expressions of the first row of each.
        first: nothing has been computed since `enter`; else the results of the vector before
            are still open in the odd banks.
    """
    rows = 2 * -(-input_tiles // 2)

    def tile(o: str, row: str, quarter: str, first: bool = False) -> Steps:
        return output_tile(f"{weights} + {rows}*({o})", row, quarter, input_tiles, fence, first=first)

    steps = tile("0", results, "0", first)
    return steps + _quarters(1, output_tiles, 0, lambda o, row, q: tile(o, f"{results} + {row}", q))


def output_tile(
    weights: str, row: str, quarter: str, input_tiles: int, fence: Fence, *, first: bool
) -> Steps:
    """8 outputs of each PU from all inputs; its results go to a quarter of a row."""
    even, odd = -(-input_tiles // 2), input_tiles // 2
    start: Steps = [_column("WRPIMON", EVEN, REGISTER_ROW, 0)]
    if not first:  # the results of the tile before are still open in the odd banks
        start += [_close(ODD), _open(ODD, REGISTER_ROW)]
    evens = _even_tile(weights, fence, mode_row_open=True, reopen=input_tiles > 1)
    loop = even - 1 if odd else even - 2  # an odd tile follows, or the last tile stands apart
    evens.append(
        _loop("t", loop, _even_tile(f"{weights} + 2*t + 2", fence, mode_row_open=False, reopen=True))
    )
    if even > 1 and not odd:
        evens += _even_tile(f"{weights} + {2 * even - 2}", fence, mode_row_open=False, reopen=False)
    odds = [_loop("t", odd - 1, _odd_tile(f"{weights} + 2*t", fence, reopen=True))]
    if odd:
        odds += _odd_tile(f"{weights} + {2 * odd - 2}", fence, reopen=False)
    results = [
        _open(ODD, row), _columns("WRPIM", ODD, row, f"{GRF}*({quarter})"), *_barrier(fence),
        _open(EVEN, REGISTER_ROW), _column("WRPIMOFF", EVEN, REGISTER_ROW, 0), *_barrier(fence),
    ]  # fmt: skip
    return [
        *start,
        {"phase": "even input tiles", "body": evens},
        {"phase": "odd input tiles", "body": odds},
        {"phase": "results", "body": results},
    ]


def elementwise(
    elements: int,
    *,
    operands: int = 2,
    channels: int = 64,
    device: str = "hbm-pim",
    fence: Fence = "order",
    first_refresh: int | None = None,
) -> Program:
    """FP16 vectors in the banks, element by element: ADD and MUL of two, or RELU of one.

    ``elements`` is padded to tiles of 8 columns in every bank of every channel.

    Raises:
        InputError: a size below 1, operands other than 1 or 2, or vectors larger than their rows.
    """
    _at_least_one(elements=elements, channels=channels)
    if operands not in (1, 2):
        raise InputError(f"must be 1 or 2, got {operands}", key="operands")
    tiles = -(-elements // (LANES * GRF * BANKS * channels))
    if tiles > 4 * OPERAND_ROWS[1]:
        raise InputError(f"takes {tiles} tiles a bank, at most {4 * OPERAND_ROWS[1]}", key="elements")

    def tile(_: str, row: str, quarter: str) -> Steps:
        steps: Steps = []
        for bank in (EVEN, ODD):
            for n, operand in enumerate(OPERAND_ROWS[:operands]):
                steps.append(_open(bank, f"{operand} + {row}"))
                if n == 0:  # the other banks are closed as soon as their last write allows, between reads
                    steps.append(_columns("RDPIM", bank, f"{operand} + {row}", f"{GRF}*({quarter})", 2))
                    steps.append(_close(1 - bank))
                    steps.append(
                        _columns("RDPIM", bank, f"{operand} + {row}", f"{GRF}*({quarter}) + 2", GRF - 2)
                    )
                else:
                    steps.append(_columns("RDPIM", bank, f"{operand} + {row}", f"{GRF}*({quarter})"))
                steps += [*_barrier(fence), _close(bank)]
            steps += [
                _open(bank, f"{RESULT_ROW} + {row}"),
                _columns("WRPIM", bank, f"{RESULT_ROW} + {row}", f"{GRF}*({quarter})"),
                *_barrier(fence),
            ]
        return steps

    body = [
        *enter(fence),
        _column("WRPIMON", EVEN, REGISTER_ROW, 0),
        _close(EVEN),
        {"phase": "tiles", "body": _quarters(0, tiles, 0, tile)},
        _open(EVEN, REGISTER_ROW),
        _column("WRPIMOFF", EVEN, REGISTER_ROW, 0),
        *leave(),
    ]
    name = f"{'relu' if operands == 1 else 'add or mul'} {elements}"
    return _program(name, device, channels, first_refresh, body)


def _program(name: str, device: str, channels: int, first_refresh: int | None, body: Steps) -> Program:
    data = {"name": name, "device": device, "channels": channels, "body": body}
    if first_refresh is not None:
        data["first_refresh"] = first_refresh
    return Program.from_dict(data)


def _at_least_one(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"must be at least 1, got {size}", key=name)


def _fits(rows: int) -> None:
    if rows > PARK_ROW:
        raise InputError(f"the matrix takes {rows} rows a bank, at most {PARK_ROW}", key="outputs, inputs")


def _loop(index: str, times: int, body: Steps) -> dict[str, Any]:
    return {"loop": {index: max(times, 0)}, "body": body}


def _quarters(first: int, end: int, row: int, steps: Any) -> Steps:
    """``steps(n, row, quarter)`` for n from ``first`` to ``end``, n // 4 rows on, as nested loops."""
    out: Steps = []
    n = first
    while n < end and n % 4:
        out += steps(str(n), str(row + n // 4), str(n % 4))
        n += 1
    rows = (end - n) // 4
    if rows:
        inner = steps(f"{n} + 4*r + q", f"{row + n // 4} + r", "q")
        out.append({"loop": {"r": rows}, "body": [{"loop": {"q": 4}, "body": inner}]})
        n += 4 * rows
    if n < end:
        out.append({"loop": {"q": end - n}, "body": steps(f"{n} + q", str(row + n // 4), "q")})
    return out


def _even_tile(row: str, fence: Fence, *, mode_row_open: bool, reopen: bool) -> Steps:
    """GRF writes through the odd banks, 64 MACs from the even ones.

    ``mode_row_open``: the even banks still have the row of the mode registers open.
    ``reopen``: open the registers' row for the tile that follows.
    """
    # a row is closed as soon as its last write allows, between other commands
    late_close = [_registers(0, 6), _close(EVEN), _registers(6, 2)]
    load = late_close if mode_row_open else [_registers(0, GRF)]
    return [
        *load, *_barrier(fence),
        _open(EVEN, row), *_macs(EVEN, row, fence, after_two=_close(ODD)), _close(EVEN),
        _open(EVEN, f"{row} + 1"), *_macs(EVEN, f"{row} + 1", fence), _close(EVEN),
        *([_open(ODD, REGISTER_ROW)] if reopen else []),
    ]  # fmt: skip


def _odd_tile(row: str, fence: Fence, *, reopen: bool) -> Steps:
    """GRF writes through the odd banks, 64 MACs from the same."""
    return [
        _registers(0, GRF), *_barrier(fence), _close(ODD),
        _open(ODD, row), *_macs(ODD, row, fence), _close(ODD),
        _open(ODD, f"{row} + 1"), *_macs(ODD, f"{row} + 1", fence), _close(ODD),
        *([_open(ODD, REGISTER_ROW)] if reopen else []),
    ]  # fmt: skip


def _macs(bank: int, row: str, fence: Fence, after_two: dict[str, Any] | None = None) -> Steps:
    """A row of MACs, 8 between two barriers; ``after_two``: a command to put behind the second."""
    steps: Steps = []
    done = 0
    if after_two is not None:
        steps, done = [_columns("RDPIM", bank, row, "0", 2), after_two], 2
    if fence == "order":
        return [*steps, _columns("RDPIM", bank, row, str(done), COLUMNS - done)]
    if done:
        steps += [_columns("RDPIM", bank, row, str(done), GRF - done), *_barrier(fence)]
        done = GRF
    group = [_columns("RDPIM", bank, row, f"{done} + {GRF}*g", GRF), *_barrier(fence)]
    return [*steps, {"loop": {"g": (COLUMNS - done) // GRF}, "body": group}]


def enter(fence: Fence) -> Steps:
    """Park the banks, switch to HAB, program the CRF and open the mode registers' row."""
    park = [_place(bank) for bank in range(BANKS)]
    steps: Steps = []
    for n, place in enumerate(park):
        steps.append({"ACT": {**place, "row": PARK_ROW}})
        if n >= 4:
            steps.append({"RD": {**park[n - 4], "row": PARK_ROW, "column": 0}})
        if n >= 9:
            steps.append({"PREpb": park[n - 9]})
    switches = [
        {"bank_group": g, "pim_unit": 0, "bank": b} for b, g in ((EVEN, 0), (EVEN, 2), (ODD, 0), (ODD, 2))
    ]
    write = {"row": ENTER_HAB_ROW, "column": 31}
    reads = [{"RD": {**place, "row": PARK_ROW, "column": 0}} for place in park[-4:]]
    steps += [
        # the first three rows open while the last reads go on
        {"parallel": [
            [*reads, *({"WR": {**place, **write}} for place in switches[:3])],
            [{"ACT": {**place, "row": ENTER_HAB_ROW}} for place in switches[:3]],
            [{"PREpb": place} for place in park[7:-1]],
        ]},
        {"ACT": {**switches[3], "row": ENTER_HAB_ROW}}, {"PREpb": park[-1]},
        {"WRHAB": {**switches[3], **write}}, *_barrier(fence),
        _close(EVEN), _close(ODD),
        _open(ODD, REGISTER_ROW), _column("WRREG", ODD, REGISTER_ROW, CRF_COLUMN), *_barrier(fence),
        _open(EVEN, REGISTER_ROW),
    ]  # fmt: skip
    return [{"phase": "enter", "body": steps}]


def leave() -> Steps:
    """Switch back to single-bank mode and park the banks; both registers' rows are closed here."""
    steps: Steps = [
        _close(ODD), _close(EVEN),
        _open(EVEN, LEAVE_HAB_ROW), _column("WRREG", EVEN, LEAVE_HAB_ROW, 31),
        _open(ODD, LEAVE_HAB_ROW), _column("WRSB", ODD, LEAVE_HAB_ROW, 31), "PREab",
    ]  # fmt: skip
    park = [_place(bank) for bank in range(BANKS)]
    for n in range(BANKS + 9):
        if n < BANKS:
            steps.append({"ACT": {**park[n], "row": PARK_ROW}})
        if 4 <= n < BANKS + 4:
            steps.append({"RD": {**park[n - 4], "row": PARK_ROW, "column": 0}})
        if n >= 9:
            steps.append({"PREpb": park[n - 9]})
    return [{"phase": "leave", "body": steps}]


def _place(n: int) -> dict[str, int]:
    """Address of bank n in the order of parking: over the bank groups first."""
    return {"bank_group": n % 4, "pim_unit": n // 8, "bank": n // 4 % 2}


def _open(bank: int, row: int | str) -> dict[str, Any]:
    return {"ACTHAB": {"bank": bank, "row": row}}


def _close(bank: int) -> dict[str, Any]:
    return {"PREHAB": {"bank": bank}}


def _column(command: str, bank: int, row: int, column: int) -> dict[str, Any]:
    return {command: {"bank": bank, "row": row, "column": column}}


def _columns(command: str, bank: int, row: str, first: str, count: int = GRF) -> dict[str, Any]:
    return {command: {"bank": bank, "row": row, "column": f"{first} + k"}, "repeat": {"k": count}}


def _registers(first: int, count: int) -> dict[str, Any]:
    return _columns("WRREG", ODD, str(REGISTER_ROW), str(GRF_COLUMN + first), count)


def _barrier(fence: Fence) -> Steps:
    return [] if fence == "order" else [{"fence": "data"}]
