"""GDDR6-AiM: vectors times a matrix in the banks, one program for m vectors of any size.

Block b of 16 outputs, one a bank, belongs to channel ``b mod channels`` and is its pass
``b // channels``. A bank holds an output's weights in bursts of 16: a whole row for every segment of
the input that fills one (64 bursts, as much as the global buffer holds); with a single shorter
segment, the outputs of several passes share a row, as the concatenated heads of PIM-GPT
(arXiv 2310.09385) do, and the buffer holds the vector as many times, once for each.

An accumulator a bank, written by ``WRMAC16`` and read by ``RDMAC16``, makes *visits* necessary: a
visit multiplies one segment of one vector with one pass. Three orders of visits:

``output-stationary``  vector, pass, segment: the buffer is loaded for each visit, results are read
                       once a pass.
``input-stationary``   vector, segment, pass: the buffer is loaded once a segment. Sums are read
                       after each visit, and written back as the bias of the pass's next one.
``row-stationary``     pass, segment, vector: a row stays open for all vectors, which are loaded
                       for each row.

Rows are closed behind their last ``MAC16``: the precharge goes on under the mode changes and the
read-out, 20 cycles less a row than closing it when the next one is wanted, and refreshes find closed
banks. Input-stationary is fastest except for few passes of many segments (output-stationary) and
many vectors of little width (row-stationary); `fastest_order` compares their cycles without
refreshes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from neardata.arch.dram import Device
from neardata.arch.errors import InputError
from neardata.sim.dram.aim import BANKS, LANES, LUT_ROWS
from neardata.sim.dram.program import Program
from neardata.sim.dram.steps import share_out, steps

Order = Literal["output-stationary", "input-stationary", "row-stationary"]
ORDERS: tuple[Order, ...] = get_args(Order)
Steps = list[Any]


@dataclass(frozen=True)
class Tiling:
    """How the passes of a channel lie in rows, and what a visit is."""

    k: int
    """Inputs."""
    columns: int
    """Bursts of a row, and of the global buffer."""
    together: int = 1
    """Passes that only a whole number of times fit in a row: different heads, side by side."""
    own_rows: bool = False
    """Each pass in a row of its own, however short."""

    @property
    def bursts(self) -> int:
        """Bursts of an output's weights."""
        return -(-self.k // LANES)

    @property
    def segments(self) -> int:
        """Rows of an output's weights."""
        return -(-self.bursts // self.columns)

    @property
    def last(self) -> int:
        """Bursts of the last segment."""
        return self.bursts - (self.segments - 1) * self.columns

    @property
    def share(self) -> int:
        """Passes in a row."""
        if self.segments > 1 or self.own_rows:
            return 1
        return max(self.columns // self.bursts // self.together, 1) * self.together

    def rows(self, passes: int) -> int:
        """Rows of so many passes in each bank."""
        return -(-passes // self.share) * self.segments

    def macs(self, passes: int) -> int:
        """MAC16 commands for a vector."""
        return passes * self.bursts


def matmul(
    m: int,
    n: int,
    k: int,
    *,
    channels: int,
    device: Device,
    order: Order | None = None,
    own_rows: bool = False,
) -> Program:
    """y[m, n] = x[m, k] w[n, k], 16-bit values: the program of all channels, from idle to idle.

    Args:
        order: of the visits; None: the fastest.
        own_rows: passes do not share rows.

    Raises:
        InputError: a size below 1, unknown order, or a matrix larger than the banks.

    >>> from neardata.arch.dram import load_device
    >>> program = matmul(1, 1009, 1000, channels=32, device=load_device("gddr6-aim"))
    >>> [(group.channels) for group in program.groups]     # 64 blocks: two passes each
    [32]
    """
    for name, value in (("m", m), ("n", n), ("k", k), ("channels", channels)):
        if value < 1:
            raise InputError(f"must be at least 1, got {value}", key=name)
    if order is not None and order not in ORDERS:
        raise InputError(f"'{order}' is not one of {', '.join(ORDERS)}", key="order")
    tiling = Tiling(k, device.bursts_per_row, own_rows=own_rows)
    blocks = -(-n // BANKS)
    most = -(-blocks // channels)
    check_rows(tiling.rows(most), device, channels, f"a {n} x {k} matrix")
    order = order or fastest_order(m, most, tiling, device)
    emit = Emitter(device)
    groups = share_out(
        blocks, channels, lambda passes: steps(emit.between_idle(emit.visits(m, passes, tiling, order, "0")))
    )
    open_visits = min(tiling.share, most) * (m if order == "row-stationary" else 1)
    return Program(
        device.name, groups, f"matmul {m}x{n}x{k} {order}" + (" own-rows" if own_rows else ""),
        refresh=refresh_policy(device, open_visits, tiling),
    )  # fmt: skip


def check_rows(rows: int, device: Device, channels: int, what: str) -> None:
    """Refuse what does not fit, in bytes.

    Raises:
        InputError: with the bytes needed and there.
    """
    there = device.organisation.row - LUT_ROWS
    if rows > there:
        size = device.bursts_per_row * LANES * 2 * BANKS * channels
        raise InputError(
            f"{what} would take {rows * size} bytes in the banks of {channels} channels "
            f"({rows} rows of each); there are {there * size} ({there} rows)",
            key="banks",
        )


def visit_cycles(device: Device) -> tuple[int, int]:
    """Cycles of a visit beside loads, rows and MACs, and of opening and closing a row."""
    t = device.timing
    return 2 * t["nMODCH"] + t["nCCDL"] + t["nCLREG"] + t["nBL"] + 2, t["nRCDRDMAC"] + t["nRTP"]


def cycles_of_order(order: Order, m: int, passes: int, tiling: Tiling, device: Device) -> int:
    """Cycles of the visits of a channel, without refreshes; what `fastest_order` compares."""
    visit, row = visit_cycles(device)
    burst, mac = device.timing["nCCDS"], device.timing["nCCDL"]
    macs = m * tiling.macs(passes) * mac
    visits = m * passes * tiling.segments
    if order == "output-stationary":
        return macs + visits * row + m * passes * tiling.bursts * burst + visits * visit
    if order == "input-stationary":
        loads = m * tiling.bursts * min(tiling.share, passes) * burst
        return macs + visits * visit + m * tiling.rows(passes) * row + loads
    loads = m * passes * tiling.bursts * burst
    return macs + visits * visit + tiling.rows(passes) * row + loads


def least_cycles(order: Order, m: int, passes: int, tiling: Tiling, device: Device) -> int:
    """Cycles that a channel cannot go below: MACs, rows and mode changes one after the other."""
    t = device.timing
    visits = m * passes * tiling.segments
    if order == "output-stationary":
        rows, loads, bursts = visits, visits, m * passes * tiling.bursts
    elif order == "input-stationary":
        rows, loads = m * tiling.rows(passes), m * tiling.segments
        bursts = m * tiling.bursts * min(tiling.share, passes)
    else:
        rows = tiling.rows(passes)
        loads, bursts = m * rows, m * passes * tiling.bursts
    return (
        (m * tiling.macs(passes) - visits) * t["nCCDL"]
        + visits * 2 * t["nMODCH"]
        + rows * (t["nRCDRDMAC"] + t["nRTP"])
        + (bursts - loads) * t["nCCDS"]
    )


def fastest_order(m: int, passes: int, tiling: Tiling, device: Device) -> Order:
    """The order with the fewest cycles; of equal ones the one that is first in `ORDERS`."""
    return min(ORDERS, key=lambda order: cycles_of_order(order, m, passes, tiling, device))


def refresh_policy(device: Device, open_visits: int, tiling: Tiling) -> Literal["close-reopen"] | None:
    """Rows that stay open for long are closed for refreshes and opened again."""
    interval = device.timing.get("nREFI")
    visit, row = visit_cycles(device)
    bursts = min(tiling.bursts, tiling.columns) * (device.timing["nCCDL"] + device.timing["nCCDS"])
    long = open_visits * (visit + tiling.share * bursts) + row
    return "close-reopen" if interval and long > 4 * interval else None


@dataclass(frozen=True)
class Emitter:
    """Steps of visits. Between visits the device is in register mode with all banks closed.

    ``phase``: the name all steps get; empty: load input, bias, multiply, read results.
    """

    device: Device
    phase: str = ""

    def between_idle(self, steps: Steps) -> Steps:
        """From memory mode with closed banks to the same."""
        return ["TMODR", *steps, "TMODM", {"fence": "all"}]

    def named(self, name: str, steps: Steps) -> Steps:
        return steps if self.phase else [{"phase": name, "body": steps}]

    def load(self, bursts: int, at: str = "0") -> Steps:
        return self.named("load input", [{"WRGB": {"column": f"{at} + c"}, "repeat": {"c": bursts}}])

    def bias(self) -> Steps:
        return self.named("bias", ["WRMAC16"])

    def open(self, row: str) -> Steps:
        return self.named("multiply", [{"ACT16": {"row": row}}])

    def multiply(self, bursts: int, at: str = "0") -> Steps:
        return self.named("multiply", [{"MAC16": {"column": f"{at} + c"}, "repeat": {"c": bursts}}])

    def close(self) -> Steps:
        return self.named("multiply", ["PREA"])

    def collect(self) -> Steps:
        return self.named("read results", ["RDMAC16", {"fence": "reads", "plus": 1}])

    def visits(self, m: int, passes: int, tiling: Tiling, order: Order, base: str) -> Steps:
        """All visits of a channel whose rows start at the expression ``base``."""
        if order == "output-stationary":
            body = self.passes_of_a_vector(passes, tiling, base)
            return self.loop("v", m, body)
        if order == "input-stationary":
            full = tiling.segments - 1
            body = [
                *self.loop("s", full, self.segment("s", tiling.columns, 1, passes, tiling, base)),
                *self.segment(str(full), tiling.last, tiling.share, passes, tiling, base),
            ]
            return self.loop("v", m, body)
        return self.rows_of_vectors(m, passes, tiling, base)

    def loop(self, index: str, times: int, body: Steps) -> Steps:
        if times < 1:
            return []
        return [{"loop": {index: times}, "body": body}]

    # --- output-stationary

    def passes_of_a_vector(self, passes: int, tiling: Tiling, base: str) -> Steps:
        def one(row: str, at: str) -> Steps:
            def visit(segment: str, bursts: int) -> Steps:
                return [
                    *self.load(bursts, at), "TMODM", *self.open(f"{row} + {segment}"),
                    *self.multiply(bursts, at), *self.close(), "TMODR",
                ]  # fmt: skip

            return [
                *self.bias(),
                *self.loop("s", tiling.segments - 1, visit("s", tiling.columns)),
                *visit(str(tiling.segments - 1), tiling.last),
                *self.collect(),
            ]

        if tiling.share == 1:
            return self.loop("p", passes, one(f"{base} + {tiling.segments}*p", "0"))
        rows, rest = divmod(passes, tiling.share)
        inner = self.loop("j", tiling.share, one(f"{base} + g", f"{tiling.bursts}*j"))
        last = self.loop("j", rest, one(f"{base} + {rows}", f"{tiling.bursts}*j"))
        return [*self.loop("g", rows, inner), *last]

    # --- input-stationary

    def segment(self, s: str, bursts: int, share: int, passes: int, tiling: Tiling, base: str) -> Steps:
        copies = min(share, passes)
        load = self.load(bursts * copies) if copies == 1 else self.copies(bursts, copies)
        if share == 1:
            visit = self.row(f"{base} + {tiling.segments}*p + {s}", bursts, 1)
            return [*load, *self.loop("p", passes, visit)]
        rows, rest = divmod(passes, share)
        return [
            *load,
            *self.loop("g", rows, self.row(f"{base} + g", bursts, share)),
            *(self.row(f"{base} + {rows}", bursts, rest) if rest else []),
        ]

    def copies(self, bursts: int, copies: int) -> Steps:
        """The vector, once for each pass in a row."""
        write = {"WRGB": {"column": f"{bursts}*j + c"}, "repeat": {"c": bursts}}
        return self.named("load input", self.loop("j", copies, [write]))

    def row(self, row: str, bursts: int, count: int) -> Steps:
        """One row with ``count`` passes in it."""
        again = [
            "TMODR",
            *self.collect(),
            *self.bias(),
            "TMODM",
            *self.multiply(bursts, f"{bursts}*j + {bursts}"),
        ]
        return [
            *self.bias(), "TMODM", *self.open(row), *self.multiply(bursts),
            *self.loop("j", count - 1, again),
            *self.close(), "TMODR", *self.collect(),
        ]  # fmt: skip

    # --- row-stationary

    def rows_of_vectors(self, m: int, passes: int, tiling: Tiling, base: str) -> Steps:
        if tiling.share > 1:
            rows, rest = divmod(passes, tiling.share)
            full = self.open_row(f"{base} + g", m, tiling.bursts, tiling.share)
            last = self.open_row(f"{base} + {rows}", m, tiling.bursts, rest) if rest else []
            return [*self.loop("g", rows, full), *last]
        row = f"{base} + {tiling.segments}*p"
        body = [
            *self.loop("s", tiling.segments - 1, self.open_row(f"{row} + s", m, tiling.columns, 1)),
            *self.open_row(f"{row} + {tiling.segments - 1}", m, tiling.last, 1),
        ]
        return self.loop("p", passes, body)

    def open_row(self, row: str, m: int, bursts: int, count: int) -> Steps:
        """One row with ``count`` passes in it, and all vectors."""
        load = self.copies(bursts, count) if count > 1 else self.load(bursts)
        again = [
            "TMODR",
            *self.collect(),
            *self.bias(),
            "TMODM",
            *self.multiply(bursts, f"{bursts}*j + {bursts}"),
        ]
        others = self.loop("j", count - 1, again)
        vector = ["TMODR", *self.collect(), *load, *self.bias(), "TMODM", *self.multiply(bursts), *others]
        return [
            *load, *self.bias(), "TMODM", *self.open(row), *self.multiply(bursts), *others,
            *self.loop("v", m - 1, vector),
            *self.close(), "TMODR", *self.collect(),
        ]  # fmt: skip
