"""Programs for GDDR6-AiM: its instruction (ISR) traces, and matrix-vector products.

An ISR becomes DRAM commands as in aim_simulator's controller: the row commands that the banks'
state calls for, a mode change where the instruction needs the other mode (registers and global
buffer: ``register``; everything else: ``memory``), then the command itself, ``opsize`` times.
Rows stay open until another row of the bank is wanted.

On ``gddr6-aim-asbuilt`` programs also do what only that tool does: it sends a mode change when the
command *behind* it is ready (``until``), it counts tRP into WRA16's latency, and its run ends a cycle
after the end-of-compute instruction has seen everything complete.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from neardata.arch.dram import Device, load_device
from neardata.arch.errors import InputError, nearest
from neardata.sim.dram.program import Program
from neardata.sim.dram.program_folding import fold

AS_BUILT = "gddr6-aim-asbuilt"
LANES = 16
"""16-bit values in the burst that each bank's multiply-accumulate unit takes."""
BANKS = 16
CHANNELS = 32
"""Channels of the trace format."""
LUT_ROWS = 8
"""Rows, at the end of each bank, of the activation functions' look-up tables (assumed)."""

Order = Literal["output-stationary", "input-stationary"]
Steps = list[Any]


@dataclass(frozen=True)
class Instruction:
    """One AiM instruction of a trace."""

    opcode: str
    opsize: int = 1
    channels: int = 0
    """Bit mask."""
    bank: int = 0
    row: int = 0


# opcode: its operands after "AiM OPCODE" and its command
_OPERANDS = {
    "WR_SBK": ("gpr", "channels", "bank", "row"),
    "WR_ABK": ("gpr", "channels", "row"),
    "WR_GB": ("opsize", "gpr", "channels"),
    "WR_BIAS": ("gpr", "channels"),
    "RD_MAC": ("gpr", "channels"),
    "RD_AF": ("gpr", "channels"),
    "RD_SBK": ("gpr", "channels", "bank", "row"),
    "COPY_BKGB": ("opsize", "channels", "bank", "row"),
    "COPY_GBBK": ("opsize", "channels", "bank", "row"),
    "MAC_SBK": ("opsize", "channels", "bank", "row"),
    "MAC_ABK": ("opsize", "channels", "row"),
    "AF": ("channels",),
    "EWMUL": ("opsize", "channels", "row"),
    "EWADD": ("opsize", "gpr", "gpr"),
    "SYNC": (),
    "EOC": (),
}
_COMMANDS = {
    "WR_SBK": "WR", "WR_ABK": "WRA16", "WR_GB": "WRGB", "WR_BIAS": "WRMAC16", "RD_MAC": "RDMAC16",
    "RD_AF": "RDAF16", "RD_SBK": "RD", "COPY_BKGB": "RDCP", "COPY_GBBK": "WRCP", "MAC_SBK": "MAC",
    "MAC_ABK": "MAC16", "AF": "AF16", "EWMUL": "EWMUL16",
}  # fmt: skip
_REGISTER = {"WR_GB", "WR_BIAS", "RD_MAC", "RD_AF"}
_ONE_BANK = {"WR_SBK", "RD_SBK", "COPY_BKGB", "COPY_GBBK", "MAC_SBK"}
_BLOCKING = {"RD_MAC", "RD_AF"}
_ALL = (1 << CHANNELS) - 1


def read_isr_trace(path: Path, device: str = "gddr6-aim") -> Program:
    """The program of an AiM instruction trace, its repetitions found and kept as loops.

    Channels that take part in the same instructions form a group. Groups do not wait for each
    other, though in a real controller an instruction that reads a result stops all channels.

    Args:
        path: lines ``AiM MAC_ABK 64 0xffff 3``, ``W MEM 0 2 8``, ``W GPR 0``, ``R CFR 0 1`` or comments,
            up to ``AiM EOC``.

    Raises:
        InputError: unreadable file or malformed line, with its number and content.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"cannot be read: {reason}", file=path) from None
    instructions = []
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        try:
            instruction = _parse(fields)
        except ValueError as error:
            raise InputError(f"{error} in '{line.strip()}'", file=path, line=number) from None
        if instruction is not None:
            instructions.append(instruction)
        if instruction is not None and instruction.opcode == "EOC":
            break
    else:
        raise InputError("ends without 'AiM EOC'", file=path, line=max(len(lines), 1))
    return isr_program(instructions, device, name=path.stem)


def _parse(fields: Sequence[str]) -> Instruction | None:
    """One line; None where it moves nothing to or from the DRAM (GPR and CFR)."""
    kind, what = fields[0], fields[1] if len(fields) > 1 else ""
    if kind in ("R", "W") and what in ("GPR", "CFR"):
        return None
    if kind in ("R", "W") and what == "MEM":
        values = _integers(("channel", "bank", "row"), fields[2:])
        if not 0 <= values["channel"] < CHANNELS:
            raise ValueError(f"channel {values['channel']} is not among {CHANNELS}")
        opcode = "RD_SBK" if kind == "R" else "WR_SBK"
        mask = 1 << CHANNELS - 1 - values["channel"]
        return _checked(Instruction(opcode, 1, mask, values["bank"], values["row"]))
    if kind != "AiM":
        raise ValueError(f"'{kind}' is none of AiM, R and W")
    opcode = what.removeprefix("ISR_")
    if opcode not in _OPERANDS:
        raise ValueError(f"unknown instruction '{what}'{nearest(opcode, _OPERANDS)}")
    values = _integers(_OPERANDS[opcode], fields[2:])
    mask = values.get("channels", _ALL) & _ALL
    return _checked(
        Instruction(opcode, values.get("opsize", 1), mask, values.get("bank", 0), values.get("row", 0))
    )


def _integers(names: Sequence[str], fields: Sequence[str]) -> dict[str, int]:
    if len(names) != len(fields):
        raise ValueError(f"{len(fields)} operands, expected {', '.join(names) or 'none'}")
    out = {}
    for name, text in zip(names, fields, strict=True):
        try:
            out[name] = int(text, 0)
        except ValueError:
            raise ValueError(f"{name} '{text}' is not an integer") from None
    return out


def _checked(instruction: Instruction) -> Instruction:
    if instruction.opsize < 1:
        raise ValueError(f"opsize {instruction.opsize} is less than 1")
    if not 0 <= instruction.bank < BANKS:
        raise ValueError(f"bank {instruction.bank} is not among {BANKS}")
    if instruction.row < 0:
        raise ValueError(f"row {instruction.row} is negative")
    if not instruction.channels:
        raise ValueError("the channel mask is empty")
    return instruction


def isr_program(instructions: Iterable[Instruction], device: str = "gddr6-aim", name: str = "") -> Program:
    """The program of AiM instructions, its repetitions found and kept as loops.

    >>> steps = [Instruction("MAC_ABK", 64, 1, row=row) for row in range(1024)]
    >>> program = isr_program([*steps, Instruction("EOC")])
    >>> [step.times for step in program.groups[0].body if hasattr(step, "times")]
    [1023]
    """
    model = load_device(device)
    by_channel: dict[tuple[Instruction, ...], int] = {}
    all_of_them = list(instructions)
    for channel in range(CHANNELS):
        bit = 1 << CHANNELS - 1 - channel
        mine = tuple(i for i in all_of_them if i.channels & bit or i.opcode in ("SYNC", "EOC"))
        if any(i.opcode not in ("SYNC", "EOC") for i in mine):
            by_channel[mine] = by_channel.get(mine, 0) + 1
    groups = []
    for mine, count in by_channel.items():
        expander = _Expander(model, as_built=device == AS_BUILT)
        for instruction in mine:
            expander.add(instruction)
        groups.append({"channels": count, "body": fold(expander.steps)})
    if not groups:
        raise InputError("an instruction trace without instructions for the DRAM")
    # a trace may well keep a row open for ever
    refresh = "none" if device == AS_BUILT else "close-reopen"
    named = {"name": name} if name else {}
    return Program.from_dict({**named, "device": device, "refresh": refresh, "groups": groups})


class _Expander:
    """Turns the instructions of a channel into commands, keeping track of mode and open rows."""

    def __init__(self, device: Device, *, as_built: bool) -> None:
        self.device, self.as_built = device, as_built
        self.steps: Steps = []
        self.register_mode = False
        self.open: list[int | None] = [None] * BANKS

    def add(self, instruction: Instruction) -> None:
        opcode = instruction.opcode
        if opcode in ("SYNC", "EOC"):
            self.wait_for_all()
        if opcode not in _COMMANDS:
            return
        register = opcode in _REGISTER
        one_bank = opcode in _ONE_BANK
        row = instruction.row
        if opcode == "AF":
            row = self.device.organisation.row - LUT_ROWS
        target = {"bank_group": instruction.bank // 4, "bank": instruction.bank % 4} if one_bank else {}
        if not register:
            banks = [instruction.bank] if one_bank else list(range(BANKS))
            others = [self.open[b] for b in banks if self.open[b] not in (None, row)]
            partly = (
                not one_bank
                and any(self.open[b] is None for b in banks)
                and any(self.open[b] is not None for b in banks)
            )
            if others or partly:
                self.issue("PRE" if one_bank else "PREA", target, register)
                for b in banks:
                    self.open[b] = None
            if self.open[banks[0]] is None:
                self.issue("ACT" if one_bank else "ACT16", {**target, "row": row}, register)
                for b in banks:
                    self.open[b] = row
        n = instruction.opsize
        step: dict[str, Any] = {_COMMANDS[opcode]: {**target, **({"column": "k"} if n > 1 else {})}}
        if n > 1:
            step["repeat"] = {"k": n}
        self.change_mode(register, {_COMMANDS[opcode]: target})
        self.steps.append(step)
        if opcode == "WR_ABK":
            self.open = [None] * BANKS
        if opcode in _BLOCKING:
            self.steps.append({"fence": "reads", "plus": 1})

    def issue(self, command: str, at: dict[str, int], register: bool) -> None:
        self.change_mode(register, {command: {k: v for k, v in at.items() if k != "row"}})
        self.steps.append({command: at})

    def change_mode(self, register: bool, following: dict[str, Any]) -> None:
        """Change the mode if it must be another one; as built, when what follows is ready."""
        if register == self.register_mode:
            return
        if self.as_built:
            self.steps.append({"until": following})
        self.steps.append({"TMODR" if register else "TMODM": {}})
        self.register_mode = register

    def wait_for_all(self) -> None:
        """SYNC and EOC: until every command is complete."""
        if not self.as_built:
            self.steps.append({"fence": "all"})
            return
        late = self.device.timing["nRP"] if self.steps and "WRA16" in self.steps[-1] else 0
        self.steps += [{"wait": 2}, {"fence": "all", "plus": 2 + late}]


def gemv(
    outputs: int,
    inputs: int,
    *,
    channels: int = 32,
    order: Order = "output-stationary",
    device: str = "gddr6-aim",
) -> Program:
    """16-bit matrix (outputs x inputs, in the banks) times vector.

    Each bank holds the weights of one output of a pass, a row per segment of the input vector
    (the columns of one row times `LANES`); the global buffer holds the segment.
    ``output-stationary``: pass by pass, the segment reloaded each time, results read once a pass.
    ``input-stationary``: segment by segment, partial sums read after each row.

    Raises:
        InputError: a size below 1, or a matrix that does not fit in the banks.

    >>> gemv(4096, 4096).groups[0].channels
    32
    """
    model = load_device(device)
    for name, value in (("outputs", outputs), ("inputs", inputs), ("channels", channels)):
        if value < 1:
            raise InputError(f"must be at least 1, got {value}", key=name)
    if order not in ("output-stationary", "input-stationary"):
        raise InputError(f"'{order}' is not one of output-stationary, input-stationary", key="order")
    passes = math.ceil(outputs / (channels * BANKS))
    per_row = model.bursts_per_row * LANES
    whole, rest = divmod(inputs, per_row)
    segments = whole + (rest > 0)
    rows = model.organisation.row - LUT_ROWS
    if passes * segments > rows:
        raise InputError(f"takes {passes * segments} rows of each bank; there are {rows}", key="outputs")
    body = _Gemv(model, passes, segments, -(-rest // LANES)).body(order)
    name = f"gemv-{outputs}x{inputs}-{order}"
    return Program.from_dict({"name": name, "device": device, "channels": channels, "body": body})


class _Gemv:
    """Steps of a matrix-vector product. Sizes: passes over the outputs, segments of the input."""

    def __init__(self, device: Device, passes: int, segments: int, last: int) -> None:
        self.device, self.passes, self.segments = device, passes, segments
        self.columns, self.last = device.bursts_per_row, last
        self.as_built = device.name == AS_BUILT

    def mode(self, change: str, following: str) -> Steps:
        return [{"until": {following: {}}}, change] if self.as_built else [change]

    def bursts(self, command: str, n: int) -> Steps:
        return [{command: {"column": "k"}, "repeat": {"k": n}}]

    def tile(self, row: int | str, n: int, *, first: bool) -> Steps:
        """One row of every bank times the global buffer; ``first``: no row is open before."""
        before = [] if first else ["PREA"]
        following = "ACT16" if first else "PREA"
        return [*self.mode("TMODM", following), *before, {"ACT16": {"row": row}}, *self.bursts("MAC16", n)]

    def load(self, n: int) -> Steps:
        """A segment of the input into the global buffer."""
        return [{"phase": "load input", "body": self.bursts("WRGB", n)}]

    def multiply(self, row: int | str, n: int, *, first: bool) -> Steps:
        return [{"phase": "multiply", "body": self.tile(row, n, first=first)}]

    def bias(self) -> Steps:
        return [{"phase": "bias", "body": ["WRMAC16"]}]

    def collect(self) -> Steps:
        """The accumulators to the host."""
        steps = [*self.mode("TMODR", "RDMAC16"), "RDMAC16", {"fence": "reads", "plus": 1}]
        return [{"phase": "read results", "body": steps}]

    def body(self, order: Order) -> Steps:
        end = _end(self.as_built)
        start = self.mode("TMODR", "WRMAC16" if order == "output-stationary" else "WRGB")
        steps = self.output_stationary() if order == "output-stationary" else self.input_stationary()
        return [*start, *steps, *end]

    def output_stationary(self) -> Steps:
        def one_pass(p: int | str, first: bool) -> Steps:
            def row(s: int | str) -> str:
                return f"{self.segments}*({p}) + {s}"

            def segment(s: int | str, n: int, first: bool) -> Steps:
                return [*self.load(n), *self.multiply(row(s), n, first=first)]

            again = self.mode("TMODR", "WRGB")
            full = self.segments - (self.last > 0)
            sizes = [self.columns] * full + ([self.last] if self.last else [])
            steps = [*self.bias(), *segment(0, sizes[0], first)]
            if full > 1:
                inner = [*again, *segment("s + 1", self.columns, False)]
                steps.append({"loop": {"s": full - 1}, "body": inner})
            if self.last and self.segments > 1:
                steps += [*again, *segment(self.segments - 1, self.last, False)]
            return [*steps, *self.collect()]

        others = [{"loop": {"p": self.passes - 1}, "body": one_pass("p + 1", False)}]
        return [*one_pass(0, True), *(others if self.passes > 1 else [])]

    def input_stationary(self) -> Steps:
        def segment(s: int | str, n: int, first: bool) -> Steps:
            def one_pass(p: int | str, first: bool) -> Steps:
                row = f"{self.passes}*({s}) + {p}"
                return [*self.bias(), *self.multiply(row, n, first=first), *self.collect()]

            steps = [*self.load(n), *one_pass(0, first)]
            if self.passes > 1:
                steps.append({"loop": {"p": self.passes - 1}, "body": one_pass("p + 1", False)})
            return steps

        full = self.segments - (self.last > 0)
        sizes = [self.columns] * full + ([self.last] if self.last else [])
        steps = segment(0, sizes[0], True)
        if full > 1:
            steps.append({"loop": {"s": full - 1}, "body": segment("s + 1", self.columns, False)})
        if self.last and self.segments > 1:
            steps += segment(self.segments - 1, self.last, False)
        return steps


def _end(as_built: bool) -> Steps:
    return [{"wait": 2}, {"fence": "all", "plus": 2}] if as_built else [{"fence": "all"}]
