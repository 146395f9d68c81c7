"""PIM command programs: nested loops of DRAM and PIM commands, never unrolled.

A program is YAML (or JSON, or a Python dictionary of the same form)::

    name: gemv                     # optional
    device: gddr6-aim              # a preset name, or FILE.yaml[:PRESET]
    overrides: {timing.nRFC: 420}  # optional, as `neardata.arch.dram.load_device` takes them
    channels: 32                   # channels that run `body`, all alike (default 1)
    refresh: all-bank              # none | all-bank | declared | close-reopen
    first_refresh: 1950            # optional: when the first one falls due (default nREFI)
    owed: 1                        # optional: refreshes owed before close-reopen closes rows (8)
    body:
      - phase: load                # a name: the report tells the cycles of each phase
        body:
          - {WRGB: {column: k}, repeat: {k: 64}}
      - loop: {i: 1024}            # 1024 times; i counts from 0 (`loop: 1024`: without a name)
        body:
          - {ACT16: {row: 2*i + 1}}
          - {MAC16: {column: k}, repeat: {k: 64}}
          - PREA
      - {fence: reads, plus: 1}

Channels that run different programs are listed as ``groups: [{channels: 31, body: [...]},
{channels: 1, body: [...]}]`` instead of ``channels`` and ``body``. Channels do not wait for each
other; the program ends when the last one does.

**Steps** of a body, in order:

==============================  ==============================================================
``COMMAND``                     issue a command of the device that needs no address
``{COMMAND: {...}}``            with address fields: any level of the device below the channel
                                (``rank``, ``bank_group``, ``bank``, ...), ``row``, ``column``
                                (counted in bursts); ``repeat: n`` or ``repeat: {k: n}``
                                issues it n times
``{loop: n, body: [...]}``      n times; ``loop: {i: n}`` names the index
``{phase: name, body: [...]}``  cycles spent in the body are reported under the name
``{fence: kind, plus: n}``      the next command waits until earlier commands are complete, and n
                                cycles more; kind: ``reads`` (data of every read is back),
                                ``data`` (and every write burst is in), ``all`` (every command
                                has taken its ``latency``)
``{wait: n}``                   n cycles pass in which no command issues, from the first that could
``{until: {COMMAND: {...}}}``   wait until that command could issue, without issuing it
``{parallel: [[...], [...]]}``  streams of steps, each in order; of their next commands the one
                                that can issue first does, at a tie the stream listed first; ends
                                when all have ended (no ``parallel``, ``phase``, ``yield`` or
                                ``refresh`` inside)
``refresh``                     a refresh point, for ``refresh: declared``
``{yield: n}``                  a point where up to n waiting host requests are served
                                (``yield``: all that have arrived)
==============================  ==============================================================

**Addresses** are integers or sums of products of integers with loop indices (``4*i + j - 1``).
A level that a command addresses must be given unless it has a single node. A command that opens
rows must be given its ``row``; one that works on open rows may be (it is then checked).

**Order and time.** Commands issue strictly in order, each at the earliest cycle that all rules of
the device's table, its command bus and the fences allow; where the device has two command buses, a
row and a column command may share a cycle. A command that the state of its banks or the
device's mode forbids is an error that names the command, the loop position and the cycle.

**Refresh** falls due every ``nREFI`` clock cycles for each node of the device's ``refresh_at``
level. ``all-bank``: wherever a refresh is due by the cycle in which the next command could issue,
the unit's banks are closed and the mode allows it, it goes first. ``declared``: only at
``refresh`` steps. ``close-reopen``: as ``all-bank``, and when eight are owed (JESD79-4 4.24: at
most eight may be postponed; ``owed`` sets a lower number) the open rows are closed, all owed
refreshes of the units so closed done, and the rows opened again with the commands that had opened
them. Without that, owing a ninth is an error.

**Host requests** (``host:`` section) share the device with the program; see `HostTraffic`.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from neardata.arch.config_file import ConfigFile
from neardata.arch.errors import InputError

RefreshPolicy = Literal["none", "all-bank", "declared", "close-reopen"]
REFRESH_POLICIES: tuple[RefreshPolicy, ...] = ("none", "all-bank", "declared", "close-reopen")
FenceKind = Literal["reads", "data", "all"]
FENCE_KINDS: tuple[FenceKind, ...] = ("reads", "data", "all")

Keys = tuple[str | int, ...]

MOST_OWED = 8
"""Refreshes that may be postponed (JESD79-4 4.24)."""
MOST_CHANNELS = 65536
MOST_REQUESTS = 10**8
"""Host requests of a channel; each is kept in memory."""
LARGEST = 10**15
"""Largest count, number of cycles or byte offset of a program."""
LARGEST_IN_ADDRESS = 10**9
"""Largest number in the expression of an address field."""


@dataclass(frozen=True)
class Affine:
    """``constant + sum(factor * index)`` over named loop indices."""

    constant: int
    factors: tuple[tuple[str, int], ...] = ()

    @classmethod
    def parse(cls, value: int | str | Affine) -> Affine:
        """From an integer or an expression such as ``"4*i + j - 1"``.

        Raises:
            ValueError: not a sum of products of integers with indices.

        >>> Affine.parse("4*(i + 1) - j")
        Affine(constant=4, factors=(('i', 4), ('j', -1)))
        """
        if isinstance(value, Affine):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return cls(value)
        if not isinstance(value, str):
            raise ValueError(f"'{value}' is not an integer or an expression of loop indices")
        return _parsed(value)

    def __str__(self) -> str:
        terms = [name if f == 1 else f"{f}*{name}" for name, f in self.factors]
        if self.constant or not terms:
            terms.append(str(self.constant))
        return " + ".join(terms)


@functools.lru_cache(maxsize=4096)
def _parsed(text: str) -> Affine:
    try:
        constant, factors = _affine(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError):
        raise ValueError(f"'{text}' is not a sum of products of integers with loop indices") from None
    return Affine(constant, tuple(sorted((name, f) for name, f in factors.items() if f)))


def _affine(node: ast.expr) -> tuple[int, dict[str, int]]:
    match node:
        case ast.Constant(value=int(number)) if not isinstance(number, bool):
            return number, {}
        case ast.Name(id=name):
            return 0, {name: 1}
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            constant, factors = _affine(operand)
            return -constant, {name: -f for name, f in factors.items()}
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
            sign = 1 if isinstance(op, ast.Add) else -1
            constant, factors = _affine(left)
            more, others = _affine(right)
            for name, f in others.items():
                factors[name] = factors.get(name, 0) + sign * f
            return constant + sign * more, factors
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            a, b = _affine(left), _affine(right)
            scale, (constant, factors) = (a[0], b) if not a[1] else (b[0], a)
            if a[1] and b[1]:
                raise ValueError
            return scale * constant, {name: scale * f for name, f in factors.items()}
    raise ValueError


@dataclass(frozen=True)
class Issue:
    """Issue ``command`` at the address ``at``, ``repeat`` times."""

    command: str
    at: Mapping[str, Affine] = field(default_factory=dict)
    """Level names, ``row`` and ``column``."""
    repeat: int = 1
    index: str | None = None
    """Name under which ``at`` knows the repetition."""
    keys: Keys = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Loop:
    """``times`` times the body."""

    times: int
    body: tuple[Step, ...]
    index: str | None = None
    keys: Keys = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Phase:
    """A named part of the program."""

    name: str
    body: tuple[Step, ...]
    keys: Keys = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Fence:
    """Wait until earlier commands (of the stream, inside ``parallel``) are complete."""

    kind: FenceKind
    plus: int = 0
    keys: Keys = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Wait:
    """Let ``cycles`` cycles pass."""

    cycles: int
    keys: Keys = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Until:
    """Wait until ``command`` could issue."""

    command: str
    at: Mapping[str, Affine] = field(default_factory=dict)
    keys: Keys = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Parallel:
    """Streams of steps, each in order, merged first-ready first."""

    streams: tuple[tuple[Step, ...], ...]
    keys: Keys = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class RefreshPoint:
    """Where refreshes may go under ``refresh: declared``."""

    keys: Keys = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Yield:
    """Serve waiting host requests, at most ``most`` (None: all that have arrived)."""

    most: int | None = None
    keys: Keys = field(default=(), compare=False, repr=False)


Step = Issue | Loop | Phase | Fence | Wait | Until | Parallel | RefreshPoint | Yield


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that run the same steps."""

    channels: int
    body: tuple[Step, ...]
    name: str = ""
    keys: Keys = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class HostTraffic:
    """Ordinary reads and writes that every channel serves besides its program.

    Requests are served in order, with open pages, at the program's `Yield` points and after its
    end. Before the first request of a stay, the steps ``enter`` are executed, and ``leave``
    after the last: the mode switches and precharges the device demands.
    """

    requests: int
    """How many; request n is at byte ``start + n * stride`` of the channel, modulo its capacity."""
    start: int = 0
    stride: int = 64
    first_arrival: int = 1
    """Cycle of the first request; one more every ``interval`` cycles."""
    interval: int = 0
    write_every: int = 0
    """Every n-th request is a write (0: none)."""
    policy: Literal["host-first", "pim-first"] = "host-first"
    """``pim-first``: `Yield` points are passed over, and requests wait for the program's end."""
    enter: tuple[Step, ...] = ()
    leave: tuple[Step, ...] = ()
    mapping: tuple[str, ...] = ()
    """Address fields from the most significant, e.g. row, bank, bank_group, column (the default
    is row, levels from the channel down, column)."""
    keys: Keys = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Program:
    """A command program for one device.

    >>> program = Program.from_dict({"device": "gddr6-aim", "body": [
    ...     {"loop": {"i": 1024}, "body": [
    ...         {"ACT16": {"row": "i"}}, {"MAC16": {}, "repeat": 64}, "PREA"]}]})
    >>> program.groups[0].body[0].times
    1024
    """

    device: str
    groups: tuple[ChannelGroup, ...]
    name: str = ""
    overrides: Mapping[str, int] = field(default_factory=dict)
    refresh: RefreshPolicy | None = None
    """None: ``all-bank`` where the device has a refresh interval, else ``none``."""
    first_refresh: int | None = None
    """Clock cycle in which the first refresh falls due (None: after one interval); earlier
    where the refreshes of ranks or channels are staggered."""
    owed: int = MOST_OWED
    """Refreshes owed before ``close-reopen`` closes rows."""
    host: HostTraffic | None = None
    file: ConfigFile | None = field(default=None, compare=False, repr=False)

    @property
    def channels(self) -> int:
        """Channels of all groups."""
        return sum(group.channels for group in self.groups)

    @classmethod
    def read(cls, path: Path) -> Program:
        """From a YAML or JSON file.

        Raises:
            InputError: unreadable file, unknown key or malformed step, with file, line and key.
        """
        from neardata.sim.dram.program_parser import parse_program

        file = ConfigFile(path)
        return parse_program(file.data, file)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Program:
        """From a dictionary of the form of the file.

        Raises:
            InputError: unknown key or malformed step, with its key.
        """
        from neardata.sim.dram.program_parser import parse_program

        return parse_program(data)

    def to_dict(self) -> dict[str, Any]:
        """The dictionary `from_dict` reads."""
        out: dict[str, Any] = {"name": self.name} if self.name else {}
        out["device"] = self.device
        if self.overrides:
            out["overrides"] = dict(self.overrides)
        if self.refresh is not None:
            out["refresh"] = self.refresh
        if self.first_refresh is not None:
            out["first_refresh"] = self.first_refresh
        if self.owed != MOST_OWED:
            out["owed"] = self.owed
        if self.host is not None:
            out["host"] = _host_dict(self.host)
        if len(self.groups) == 1 and not self.groups[0].name:
            out["channels"] = self.groups[0].channels
            out["body"] = _body_list(self.groups[0].body)
        else:
            out["groups"] = [
                {**({"name": g.name} if g.name else {}), "channels": g.channels, "body": _body_list(g.body)}
                for g in self.groups
            ]
        return out

    def error(self, message: str, keys: Keys) -> InputError:
        """An `InputError` at the step with these keys."""
        if self.file is not None:
            return self.file.error(message, *keys)
        return InputError(message, key=".".join(map(str, keys)) or None)


def _body_list(body: Sequence[Step]) -> list[Any]:
    return [_step_value(step) for step in body]


def _fields(at: Mapping[str, Affine]) -> dict[str, int | str]:
    return {name: (str(a) if a.factors else a.constant) for name, a in at.items()}


def _step_value(step: Step) -> Any:
    match step:
        case Issue(command, at, repeat, index):
            if not at and repeat == 1:
                return command
            out: dict[str, Any] = {command: _fields(at)}
            if repeat != 1 or index:
                out["repeat"] = {index: repeat} if index else repeat
            return out
        case Loop(times, body, index):
            return {"loop": {index: times} if index else times, "body": _body_list(body)}
        case Phase(name, body):
            return {"phase": name, "body": _body_list(body)}
        case Fence(kind, plus):
            return {"fence": kind, **({"plus": plus} if plus else {})}
        case Wait(cycles):
            return {"wait": cycles}
        case Until(command, at):
            return {"until": {command: _fields(at)}}
        case Parallel(streams):
            return {"parallel": [_body_list(stream) for stream in streams]}
        case RefreshPoint():
            return "refresh"
        case Yield(most):
            return "yield" if most is None else {"yield": most}


HOST_INTEGERS = {  # least allowed value
    "requests": 0, "start": 0, "stride": 0, "first_arrival": 1, "interval": 0, "write_every": 0,
}  # fmt: skip


def _host_dict(host: HostTraffic) -> dict[str, Any]:
    out: dict[str, Any] = {name: getattr(host, name) for name in HOST_INTEGERS}
    out["policy"] = host.policy
    if host.mapping:
        out["mapping"] = list(host.mapping)
    for name in ("enter", "leave"):
        if getattr(host, name):
            out[name] = _body_list(getattr(host, name))
    return out
