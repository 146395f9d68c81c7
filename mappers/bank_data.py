"""Command programs on data: what the banks and units of a PIM device compute.

`multiply` puts a matrix into banks by its layout, fills all else with other numbers, interprets the
steps of the command program, and plays the host: it hands over input bursts and takes results in the
order in which the program asks. A wrong row, column or count in a program gives wrong numbers, or
an error. Slow, for small sizes: nothing is simulated here, but the data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neardata.mappers.layout import LANES, layout_of
from neardata.sim.dram.aim_matmul import Tiling
from neardata.sim.dram.program import Affine, Issue, Loop, Parallel, Phase, Program, Step
from neardata.sim.program import PimMatMul
from neardata.sim.system.pim_programs import device_of, family_of

Numbers = NDArray[Any]


class DataError(Exception):
    """A program that does not do what its kernel says."""


def multiply(kernel: PimMatMul, program: Program, x: Numbers, w: Numbers) -> Numbers:
    """y[m, n] as the program computes it.

    Args:
        program: of `neardata.sim.system.pim_programs.program_of`, all of its orders named. The partial sums
            of its parts of k are added here.
        x, w: (m, k) and (n, k) numbers.

    Raises:
        DataError: a column command to a closed or another row, more or fewer bursts than the kernel needs.

    >>> from neardata.sim.system.pim_programs import program_of
    >>> kernel = PimMatMul(1, 2, 2, "output-stationary")
    >>> program = program_of(kernel, "gddr6-aim", 1)
    >>> multiply(kernel, program, np.array([[1, 2]]), np.array([[3, 4], [5, 6]]))
    array([[11, 17]])
    """
    family = family_of(device_of(program.device))
    if family == "aim" and not kernel.order:
        raise DataError("name the order: the fastest is the generator's choice")
    # channels without a block take no part
    dtype = np.result_type(x, w)
    x, w = x.astype(dtype), w.astype(dtype)
    each = program.channels // kernel.k_parts
    bodies = (group.body for group in program.groups for _ in range(group.channels))
    y = np.zeros((kernel.m, kernel.n), dtype=dtype)
    for start, stop in kernel.parts:
        part = replace(kernel, k=stop - start, k_parts=1, channels=None)
        layout = layout_of(part.n, part.k, program.device, each, own_rows=kernel.own_rows)
        for number, body in zip(range(each), bodies, strict=False):
            channel = _CHANNELS[family](part, layout, number, x[:, start:stop], w[:, start:stop])
            for command, at in walk(body):
                channel.issue(command, at)
            channel.finish()
            outputs = channel.outputs()
            inside = outputs < kernel.n
            y[:, outputs[inside]] += channel.y[:, inside]
    if next(bodies, None) is not None:
        raise DataError(f"{program.channels} channels work; there are {kernel.k_parts} parts of {each}")
    return y


def walk(
    steps: tuple[Step, ...], index: Mapping[str, int] | None = None
) -> Iterator[tuple[str, dict[str, int]]]:
    """Commands and addresses of steps, in order; of parallel streams, one behind the other.

    >>> from neardata.sim.dram.steps import steps
    >>> list(walk(steps([{"loop": {"i": 2}, "body": [{"ACT16": {"row": "2*i + 1"}}]}])))
    [('ACT16', {'row': 1}), ('ACT16', {'row': 3})]
    """
    values = dict(index or {})
    for step in steps:
        if isinstance(step, Issue):
            for n in range(step.repeat):
                if step.index is not None:
                    values[step.index] = n
                yield step.command, {name: _value(a, values) for name, a in step.at.items()}
        elif isinstance(step, Loop):
            for n in range(step.times):
                yield from walk(step.body, {**values, **({step.index: n} if step.index else {})})
        elif isinstance(step, Phase):
            yield from walk(step.body, values)
        elif isinstance(step, Parallel):
            for stream in step.streams:
                yield from walk(stream, values)


def _value(a: Affine, values: Mapping[str, int]) -> int:
    return a.constant + sum(factor * values[name] for name, factor in a.factors)


def _padded(x: Numbers, width: int) -> Numbers:
    return np.pad(x, ((0, 0), (0, width - x.shape[1])))


class _Channel(ABC):
    """One channel: its banks' data, and what the host still has to say."""

    levels: tuple[int, ...]
    """Nodes of each level below the channel."""
    columns: int

    def __init__(self, kernel: PimMatMul, layout: Any, number: int, x: Numbers, w: Numbers) -> None:
        self.kernel, self.layout, self.number = kernel, layout, number
        outputs, inputs = np.mgrid[: kernel.n, : kernel.k]
        places = {name: values.ravel() for name, values in layout.place(outputs, inputs).items()}
        mine = places.pop("channel") == number
        rows = self.rows(int(places["row"].max()) + 1)
        noise = np.random.default_rng(number)
        shape = (*self.levels, rows, self.columns, LANES)
        self.data: Numbers = noise.integers(-99, 99, shape).astype(x.dtype)
        self.data[tuple(values[mine] for values in places.values())] = w.ravel()[mine]
        self.x = x
        self.script = self.host()

    def rows(self, used: int) -> int:
        """Rows that programs touch; weights use so many."""
        return used

    @abstractmethod
    def host(self) -> Iterator[Any]:
        """What the host puts in and takes out, in order."""

    @abstractmethod
    def issue(self, command: str, at: dict[str, int]) -> None:
        """Do what a command does to the data."""

    @abstractmethod
    def outputs(self) -> Numbers:
        """Outputs of the columns of ``y``."""

    y: Numbers

    def next(self, kind: str) -> Any:
        """What the host does next, which must be of a kind."""
        event = next(self.script, ("nothing",))
        if event[0] != kind:
            raise DataError(f"channel {self.number}: the program asks for '{kind}', due is '{event[0]}'")
        return event[1:]

    def finish(self) -> None:
        event = next(self.script, None)
        if event is not None:
            raise DataError(f"channel {self.number}: the program ends before '{event[0]}' {event[1:]}")

    def blocks(self, size: int) -> int:
        """Blocks of outputs of this channel."""
        blocks = -(-self.kernel.n // size)
        return blocks // self.layout.channels + (self.number < blocks % self.layout.channels)

    def outputs_of_blocks(self, size: int) -> Numbers:
        block = np.arange(self.blocks(size)) * self.layout.channels + self.number
        return (block[:, None] * size + np.arange(size)).ravel()


def aim_visits(
    vectors: Sequence[Sequence[Numbers]], sums: Numbers, tiling: Tiling, order: str
) -> Iterator[Any]:
    """What the host of GDDR6-AiM puts in and takes out in the visits of `neardata.sim.dram.aim_matmul`.

    Args:
        vectors: bursts of each vector, of each head that lies beside others in a row (else of one).
        sums: (vectors, passes, 16), zeros at the start; results are written there.
    """
    m, passes, _ = sums.shape

    def load(v: int, s: int, first: int = 0, copies: int = 1) -> Iterator[Any]:
        for j in range(first, first + copies):
            bursts = vectors[v][j % len(vectors[v])]
            for c in range(min(tiling.columns, tiling.bursts - s * tiling.columns)):
                yield "write", bursts[s * tiling.columns + c], j * tiling.bursts + c

    def visit(v: int, p: int) -> Iterator[Any]:
        yield "bias", sums[v, p]
        yield "read", sums[v, p]

    if order == "output-stationary":
        for v in range(m):
            for p in range(passes):
                yield "bias", sums[v, p]
                for s in range(tiling.segments):
                    yield from load(v, s, p % tiling.share)
                yield "read", sums[v, p]
    elif order == "input-stationary":
        for v in range(m):
            for s in range(tiling.segments):
                yield from load(v, s, copies=min(tiling.share, passes))
                for p in range(passes):
                    yield from visit(v, p)
    else:
        for first in range(0, passes, tiling.share):
            together = range(first, min(first + tiling.share, passes))
            for s in range(tiling.segments):
                for v in range(m):
                    yield from load(v, s, copies=len(together))
                    for p in together:
                        yield from visit(v, p)


def hbm_pim_visits(vectors: Numbers, sums: Numbers) -> Iterator[Any]:
    """What the host of HBM-PIM puts in and takes out in `neardata.sim.dram.hbm_pim_matmul`'s product.

    Args:
        vectors: (m, output tiles, input tiles, 8, 16), as each output tile is multiplied with them.
        sums: (m, 64 of each output tile); results, whose lanes the host adds, are written there.
    """
    m, tiles, inputs = vectors.shape[:3]
    for v in range(m):
        for tile in range(tiles):
            for t in (*range(0, inputs, 2), *range(1, inputs, 2)):
                for entry in range(8):
                    yield "write", vectors[v, tile, t, entry], entry
    for v in range(m):
        for first in range(0, tiles, 4):
            for column in range(8 * min(4, tiles - first)):
                for unit in range(2):
                    for group in range(4):
                        output = (first + column // 8) * 64 + (group * 2 + unit) * 8 + column % 8
                        yield "read", sums[v, output : output + 1], (group, unit)


class AimChannel(_Channel):
    """GDDR6-AiM: 16 banks with an accumulator each, and a global buffer of a row's bursts."""

    levels, columns = (4, 4), 64

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.reset()
        passes = self.blocks(16)
        self.y = np.zeros((self.kernel.m, passes * 16), dtype=self.x.dtype)
        self.bursts = _padded(self.x, self.layout.tiling.bursts * LANES).reshape(self.kernel.m, -1, LANES)

    def reset(self) -> None:
        """All banks closed."""
        self.row: int | None = None
        self.buffer = np.zeros((self.columns, LANES), dtype=self.data.dtype)
        self.sums = np.zeros((4, 4), dtype=self.data.dtype)

    def outputs(self) -> Numbers:
        return self.outputs_of_blocks(16)

    def host(self) -> Iterator[Any]:
        vectors = [[bursts] for bursts in self.bursts]
        sums = self.y.reshape(self.kernel.m, -1, 16)
        yield from aim_visits(vectors, sums, self.layout.tiling, self.kernel.order)

    def issue(self, command: str, at: dict[str, int]) -> None:
        if command == "ACT16":
            if self.row is not None:
                raise DataError(f"row {at['row']} is opened over row {self.row}")
            self.row = at["row"]
        elif command == "PREA":
            self.row = None
        elif command == "WRGB":
            burst, column = self.next("write")
            if column != at["column"]:
                raise DataError(f"the burst for column {column} goes to column {at['column']}")
            self.buffer[at["column"]] = burst
        elif command == "WRMAC16":
            (sums,) = self.next("bias")
            self.sums = sums.reshape(4, 4).copy()
        elif command == "RDMAC16":
            (sums,) = self.next("read")
            sums[:] = self.sums.ravel()
        elif command == "MAC16":
            if self.row is None:
                raise DataError("MAC16 to closed banks")
            self.sums = self.sums + self.data[:, :, self.row, at["column"]] @ self.buffer[at["column"]]


class HbmPimChannel(_Channel):
    """HBM-PIM: 8 units of two banks, with registers for 8 bursts of inputs and 8 of sums."""

    levels, columns = (4, 2, 2), 32

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.reset()
        self.input_tiles = -(-self.kernel.k // 128)
        self.y = np.zeros((self.kernel.m, self.blocks(64) * 64), dtype=self.x.dtype)
        self.entries = _padded(self.x, self.input_tiles * 128).reshape(self.kernel.m, -1, 8, LANES)

    def reset(self) -> None:
        """All banks closed."""
        self.opened: dict[int, int] = {}
        self.a = np.zeros((8, LANES), dtype=self.data.dtype)
        self.b = np.zeros((4, 2, 8, LANES), dtype=self.data.dtype)
        self.macs = 0

    def rows(self, used: int) -> int:
        tiles = self.blocks(64)
        return int(self.layout.tile_rows) * tiles + self.kernel.m * -(-tiles // 4)

    def outputs(self) -> Numbers:
        return self.outputs_of_blocks(64)

    def host(self) -> Iterator[Any]:
        m, tiles = self.kernel.m, self.blocks(64)
        vectors = np.broadcast_to(self.entries[:, None], (m, tiles, *self.entries.shape[1:]))
        yield from hbm_pim_visits(vectors, self.y)

    def issue(self, command: str, at: dict[str, int]) -> None:
        row = at.get("row", 0)
        if command in ("ACTHAB", "ACT"):
            self.opened[at["bank"]] = row
        elif command in ("RDPIM", "WRPIM", "RD") and row < 0x1000:
            if self.opened.get(at["bank"]) != row:
                raise DataError(f"{command} to row {row}, open is {self.opened.get(at['bank'])}")
            column = at["column"]
            if command == "RDPIM":
                entry = self.a[self.macs // 8]
                self.b[:, :, column % 8] += self.data[:, :, at["bank"], row, column] * entry
                self.macs += 1
            elif command == "WRPIM":
                self.data[:, :, at["bank"], row, column] = self.b[:, :, column % 8]
            else:
                result, (group, unit) = self.next("read")
                if (group, unit) != (at["bank_group"], at["pim_unit"]):
                    raise DataError(f"due is unit {(group, unit)}, read is another")
                result[0] = self.data[group, unit, at["bank"], row, column].sum()
        elif command == "WRPIMON":
            self.b[:] = 0
        elif command == "WRREG" and at["column"] >= 8:
            if row != 0x3FFF:
                return
            burst, entry = self.next("write")
            if entry != at["column"] - 8:
                raise DataError(f"entry {entry} goes to column {entry + 8}, not {at['column']}")
            self.a[entry] = burst
            self.macs = 0


@dataclass
class _Visit:
    """A block times a segment."""

    parts: int
    lines: int
    done: int = 0


class _AttAcc(_Channel):
    levels, columns = (2, 2, 4, 4), 32

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.row: int | None = None
        self.buffers: list[list[list[Numbers]]] = []
        """Of each segment in the vector buffers, bursts of each bank."""
        self.sums = np.zeros((2, 2, 4, 16), dtype=self.x.dtype)
        self.visit: _Visit | None = None
        self.moved = 0
        self.y = np.zeros((self.kernel.m, self.blocks(16) * 16), dtype=self.x.dtype)
        parts = -(-self.kernel.k // 64)
        self.parts = _padded(self.x, parts * 64).reshape(self.kernel.m, parts, 4, LANES)
        self.loads = self.all_loads()
        self.load: tuple[int, int, int] | None = None

    def outputs(self) -> Numbers:
        return self.outputs_of_blocks(16)

    def segment(self, s: int) -> int:
        return 32 if s < self.layout.tiling.segments - 1 else int(self.layout.tiling.last)

    def lines(self, block: int) -> int:
        return min(16, self.blocks(16) - 16 * block)

    def all_loads(self) -> Iterator[tuple[int, int, int, int]]:
        """(vector, part, bank, 1 at the first burst of a segment) of each WRGB."""
        blocks = -(-self.blocks(16) // 16)
        stationary = self.kernel.order == "input-stationary" or self.layout.tiling.segments == 1
        for v in range(self.kernel.m):
            for _ in range(1 if stationary else blocks):
                for s in range(self.layout.tiling.segments):
                    for bank in range(4):
                        for part in range(self.segment(s)):
                            yield v, 32 * s + part, bank, int(bank == 0 and part == 0)

    def host(self) -> Iterator[Any]:
        """Visits and results; the buffers are written beside them."""
        blocks = range(-(-self.blocks(16) // 16))
        segments = range(self.layout.tiling.segments)
        for v in range(self.kernel.m):
            if self.kernel.order == "input-stationary":
                for s in segments:
                    for block in blocks:
                        yield "macs", self.segment(s), self.lines(block), block == blocks[-1]
                        yield "results", v, block
            else:
                for block in blocks:
                    for s in segments:
                        last = len(segments) > 1 or block == blocks[-1]
                        yield "macs", self.segment(s), self.lines(block), last
                    yield "results", v, block

    def issue(self, command: str, at: dict[str, int]) -> None:
        if command == "ACTAB":
            if self.row is not None:
                raise DataError(f"row {at['row']} is opened over row {self.row}")
            self.row = at["row"]
        elif command == "PREA":
            self.row = None
        elif command == "WRGB":
            v, part, bank, first = next(self.loads, (0, 0, -1, 0))
            if bank != at["bank"]:
                raise DataError(f"a burst for bank {bank} goes to bank {at['bank']}")
            if first:
                self.buffers.append([[], [], [], []])
            self.buffers[-1][bank].append(self.parts[v, part, bank])
        elif command == "MACAB":
            self.multiply(at)
        elif command == "MVSB":
            self.move(at)

    def multiply(self, at: dict[str, int]) -> None:
        if self.row is None or self.row != at["row"]:
            raise DataError(f"MACAB to row {at['row']}, open is {self.row}")
        if self.visit is None:
            parts, lines, self.last = self.next("macs")
            self.visit = _Visit(parts, lines)
        line, part = divmod(self.visit.done, self.visit.parts)
        if not self.buffers or any(len(bank) <= part for bank in self.buffers[0]):
            raise DataError("a MACAB before its part of the input is there")
        vector = np.stack([bank[part] for bank in self.buffers[0]])
        weights = self.data[:, :, :, :, self.row, at["column"]]
        self.sums[..., line] += np.einsum("prgbl,bl->prg", weights, vector)
        self.visit.done += 1
        if self.visit.done == self.visit.parts * self.visit.lines:
            self.visit = None
            if self.last:
                self.buffers.pop(0)

    def move(self, at: dict[str, int]) -> None:
        """The sums of a bank group, of both pseudo-channels, to the buffer die, which adds them up."""
        if self.visit is not None:
            raise DataError("MVSB before all sums are complete")
        if not self.moved:
            self.block = self.next("results")
        v, block = self.block
        rank, group = at["rank"], at["bank_group"]
        for pseudo_channel in range(2):
            first = block * 256 + pseudo_channel * 8 + rank * 4 + group
            for line in range(self.lines(block)):
                self.y[v, first + 16 * line] += self.sums[pseudo_channel, rank, group, line]
        self.sums[:, rank, group] = 0
        self.moved = (self.moved + 1) % 8

    def finish(self) -> None:
        super().finish()
        if self.moved or self.buffers or next(self.loads, None) is not None:
            raise DataError(f"channel {self.number}: the program ends before everything is moved")


_CHANNELS: dict[str, type[_Channel]] = {"aim": AimChannel, "hbm-pim": HbmPimChannel, "attacc": _AttAcc}
