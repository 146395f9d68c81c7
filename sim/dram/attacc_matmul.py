"""AttAcc: vectors times a matrix in the banks (fully connected layers), with a unit per bank.

A *line* is 16 outputs, one of each bank group of the channel (2 pseudo-channels x 2 ranks x 4).
Line l belongs to channel ``l mod channels``; 16 lines of a channel are a *block*, as many results as
the units of a bank group collect before they move (``MVSB``). The four units of a bank group share a
dot product: of every 64 inputs (a *part*), bank b takes 16 with one ``MACAB``. Inputs are cut into
*segments* of 32 parts: what a unit's vector buffer holds, 1 KB, a row's worth (assumed; no size is
published). The next segment is written (``WRGB``, to all bank groups at once) while this one is
multiplied, as the second head's query is in `neardata.sim.dram.attacc.attention`.

``output-stationary``  vector, block, segment: sums stay in the units until a block is done.
``input-stationary``   vector, segment, block: fewer buffer writes; the buffer die adds the partial
                       sums of the segments.

The vectors go one after the other: 16 sums a bank group are those of one vector. Output-stationary is the
default; with one segment the two are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from neardata.arch.dram import Device
from neardata.arch.errors import InputError
from neardata.sim.dram.attacc import (
    BANK_GROUPS,
    BANKS,
    COLUMNS,
    LANES,
    PSEUDO_CHANNELS,
    RANKS,
    SCORES,
    SCORES_COLLECTED,
    move_steps,
)
from neardata.sim.dram.program import Program
from neardata.sim.dram.steps import share_out, steps

Order = Literal["output-stationary", "input-stationary"]
ORDERS: tuple[Order, ...] = get_args(Order)
LINE = PSEUDO_CHANNELS * RANKS * BANK_GROUPS
"""Outputs of a line."""
PART = BANKS * LANES
"""Inputs of a part."""
PARTS = 32
"""Parts of a segment: bursts of a unit's vector buffer."""
Steps = list[Any]


@dataclass(frozen=True)
class Tiling:
    """Parts and segments of k inputs, and the rows of lines."""

    k: int

    @property
    def parts(self) -> int:
        """Of all inputs."""
        return -(-self.k // PART)

    @property
    def segments(self) -> int:
        """Of all inputs."""
        return -(-self.parts // PARTS)

    @property
    def last(self) -> int:
        """Parts of the last segment."""
        return self.parts - (self.segments - 1) * PARTS

    @property
    def block_rows(self) -> int:
        """Rows of a block: each of its segments starts a row."""
        whole = SCORES_COLLECTED * PARTS // COLUMNS
        return (self.segments - 1) * whole + -(-SCORES_COLLECTED * self.last // COLUMNS)

    def first_row(self, segment: int) -> int:
        """Of a segment in its block."""
        return segment * SCORES_COLLECTED * PARTS // COLUMNS


def matmul(m: int, n: int, k: int, *, channels: int, device: Device, order: Order | None = None) -> Program:
    """y[m, n] = x[m, k] w[n, k] in FP16: the program of all channels, from idle to idle.

    Raises:
        InputError: a size below 1, unknown order, or a matrix larger than the banks.

    >>> from neardata.arch.dram import load_device
    >>> program = matmul(1, 1009, 1000, channels=16, device=load_device("attacc-hbm3"))
    >>> [group.channels for group in program.groups]     # 64 lines, 4 a channel
    [16]
    """
    for name, value in (("m", m), ("n", n), ("k", k), ("channels", channels)):
        if value < 1:
            raise InputError(f"must be at least 1, got {value}", key=name)
    if order is not None and order not in ORDERS:
        raise InputError(f"'{order}' is not one of {', '.join(ORDERS)}", key="order")
    order = order or "output-stationary"
    tiling = Tiling(k)
    lines = -(-n // LINE)
    most = -(-lines // channels)
    check_rows(-(-most // SCORES_COLLECTED) * tiling.block_rows, device, channels, f"a {n} x {k} matrix")
    emit = _OutputStationary(tiling) if order == "output-stationary" else _InputStationary(tiling)
    groups = share_out(lines, channels, lambda lines: steps([*emit.vectors(m, lines), {"fence": "all"}]))
    return Program(device.name, groups, f"matmul {m}x{n}x{k} {order}")


def least_cycles(m: int, lines: int, tiling: Tiling, device: Device) -> int:
    """Cycles that a channel cannot go below: its rows one after the other."""
    t = device.timing
    rows = 0
    for block in range(0, lines, SCORES_COLLECTED):
        some = min(SCORES_COLLECTED, lines - block)
        rows += (tiling.segments - 1) * -(-some * PARTS // COLUMNS) + -(-some * tiling.last // COLUMNS)
    macs = lines * tiling.parts
    each = t["nRCDRD"] + t["nRTPL"] + t["nRP"] - t["nCCDAB"]
    return m * (macs * t["nCCDAB"] + rows * each) - t["nRP"]


def check_rows(rows: int, device: Device, channels: int, what: str) -> None:
    """Refuse what does not fit, in bytes.

    Raises:
        InputError: with the bytes needed and there.
    """
    there = device.organisation.row
    if rows > there:
        size = COLUMNS * PART * 2 * LINE * channels
        raise InputError(
            f"{what} would take {rows * size} bytes in the banks of {channels} channels "
            f"({rows} rows of each); there are {there * size} ({there} rows)",
            key="banks",
        )


@dataclass(frozen=True)
class _Emitter:
    tiling: Tiling

    def macs(self, row: str, lines: int, parts: int) -> Steps:
        """Lines times a segment, from a row on."""
        whole, rest = divmod(lines * parts, COLUMNS)
        steps: Steps = []
        for count, times, index in ((COLUMNS, whole, "i"), (rest, 1, "")):
            if count and times:
                at = f"{row} + i" if index else f"{row} + {whole}"
                body = [
                    {"ACTAB": {"row": at}},
                    {"MACAB": {"row": at, "column": "c"}, "repeat": {"c": count}},
                    "PREA",
                ]
                steps += [{"loop": {index: times}, "body": body}] if index else body
        return steps

    def load(self, parts: int) -> Steps:
        """A segment into the vector buffers: each bank's bursts one after the other."""
        write = {"WRGB": {"rank": 0, "bank_group": 0, "bank": "unit"}, "repeat": parts}
        return [{"loop": {"unit": BANKS}, "body": [write]}]

    def blocks(self, lines: int) -> tuple[int, int]:
        """Whole blocks, and the lines of a last one."""
        return divmod(lines, SCORES_COLLECTED)

    def phase(self, name: str, steps: Steps) -> Steps:
        return [{"phase": name, "body": steps}]

    def results(self) -> Steps:
        return self.phase("read results", move_steps((SCORES,)))


class _OutputStationary(_Emitter):
    def vectors(self, m: int, lines: int) -> Steps:
        first = self.phase("load input", self.load(self.parts_of(0)))
        if self.tiling.segments == 1:
            return [{"loop": {"v": m}, "body": [*first, *self.vector(lines, last=True)]}]
        others = [{"loop": {"v": m - 1}, "body": self.vector(lines, last=False)}] if m > 1 else []
        return [*first, *others, *self.vector(lines, last=True)]

    def parts_of(self, segment: int) -> int:
        return PARTS if segment < self.tiling.segments - 1 else self.tiling.last

    def vector(self, lines: int, *, last: bool) -> Steps:
        """All blocks; ``last``: no first segment is to be loaded under the last block."""
        whole, rest = self.blocks(lines)
        rows = self.tiling.block_rows
        alone = whole - (last and not rest)
        steps: Steps = [{"loop": {"b": alone}, "body": self.block(f"{rows}*b", SCORES_COLLECTED, False)}]
        steps = steps if alone else []
        if alone < whole:
            steps += self.block(str(rows * alone), SCORES_COLLECTED, True)
        if rest:
            steps += self.block(str(rows * whole), rest, last)
        return steps

    def block(self, row: str, lines: int, last: bool) -> Steps:
        """Segment by segment, the next one loaded under each."""
        end = self.tiling.segments - 1
        steps: Steps = []
        rows = self.tiling.first_row(1)

        def beside(macs: Steps, load: Steps) -> Steps:
            return self.phase("multiply", [{"parallel": [macs, load]}] if load else macs)

        if end > 1:
            body = beside(self.macs(f"{row} + {rows}*s", lines, PARTS), self.load(PARTS))
            steps.append({"loop": {"s": end - 1}, "body": body})
        if end:
            macs = self.macs(f"{row} + {rows * (end - 1)}", lines, PARTS)
            steps += beside(macs, self.load(self.tiling.last))
        following = [] if last or not end else self.load(PARTS)
        steps += beside(self.macs(f"{row} + {rows * end}", lines, self.tiling.last), following)
        return [*steps, *self.results()]


class _InputStationary(_Emitter):
    def vectors(self, m: int, lines: int) -> Steps:
        end = self.tiling.segments - 1
        first = self.tiling.first_row(1)
        steps: Steps = []
        if end:
            steps.append({"loop": {"s": end}, "body": self.segment(f"{first}*s", lines, PARTS)})
        steps += self.segment(str(first * end), lines, self.tiling.last)
        return [{"loop": {"v": m}, "body": steps}]

    def segment(self, row: str, lines: int, parts: int) -> Steps:
        whole, rest = self.blocks(lines)
        rows = self.tiling.block_rows
        steps = self.phase("load input", self.load(parts))
        if whole:
            macs = self.phase("multiply", self.macs(f"{row} + {rows}*b", SCORES_COLLECTED, parts))
            steps.append({"loop": {"b": whole}, "body": [*macs, *self.results()]})
        if rest:
            steps += self.phase("multiply", self.macs(f"{row} + {rows * whole}", rest, parts))
            steps += self.results()
        return steps
