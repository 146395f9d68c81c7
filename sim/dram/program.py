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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from neardata.arch.config_file import ConfigFile
from neardata.arch.errors import InputError, nearest

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
        try:
            constant, factors = _affine(ast.parse(value.strip(), mode="eval").body)
        except (SyntaxError, ValueError):
            raise ValueError(f"'{value}' is not a sum of products of integers with loop indices") from None
        return cls(constant, tuple(sorted((name, f) for name, f in factors.items() if f)))

    def __str__(self) -> str:
        terms = [name if f == 1 else f"{f}*{name}" for name, f in self.factors]
        if self.constant or not terms:
            terms.append(str(self.constant))
        return " + ".join(terms)


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
        file = ConfigFile(path)
        return _Parser(file).program(file.data)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Program:
        """From a dictionary of the form of the file.

        Raises:
            InputError: unknown key or malformed step, with its key.
        """
        return _Parser(None).program(data)

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


_HOST_INTEGERS = {  # least allowed value
    "requests": 0, "start": 0, "stride": 0, "first_arrival": 1, "interval": 0, "write_every": 0,
}  # fmt: skip


def _host_dict(host: HostTraffic) -> dict[str, Any]:
    out: dict[str, Any] = {name: getattr(host, name) for name in _HOST_INTEGERS}
    out["policy"] = host.policy
    if host.mapping:
        out["mapping"] = list(host.mapping)
    for name in ("enter", "leave"):
        if getattr(host, name):
            out[name] = _body_list(getattr(host, name))
    return out


_STEP_KEYS = ("loop", "phase", "fence", "wait", "until", "parallel", "refresh", "yield")
_COMPANIONS = {
    "loop": {"body"}, "phase": {"body"}, "fence": {"plus"}, "wait": set(), "until": set(),
    "parallel": set(), "yield": set(),
}  # fmt: skip


class _Parser:
    """Turns the nested lists and dictionaries of a program into steps."""

    def __init__(self, file: ConfigFile | None) -> None:
        self.file = file

    def error(self, message: str, keys: Keys) -> InputError:
        if self.file is not None:
            return self.file.error(message, *keys)
        return InputError(message, key=".".join(map(str, keys)) or None)

    def _known(self, data: Any, allowed: Sequence[str], keys: Keys) -> None:
        if not isinstance(data, Mapping):
            raise self.error(f"must be a mapping with {', '.join(allowed)}", keys)
        for key in data:
            if key not in allowed:
                raise self.error(f"unknown key{nearest(str(key), allowed)}", (*keys, str(key)))

    def _integer(self, value: Any, least: int, keys: Keys, most: int = LARGEST) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.error(f"must be an integer of at least {least}, got '{value}'", keys)
        if value > most:
            raise self.error(f"must be at most {most}, got {value}", keys)
        return value

    def program(self, data: Any) -> Program:
        allowed = (
            "name", "device", "overrides", "channels", "refresh", "first_refresh", "owed", "host", "body",
            "groups",
        )  # fmt: skip
        self._known(data, allowed, ())
        if not isinstance(data.get("device"), str):
            raise self.error("missing: the name of a device preset", ("device",))
        overrides = data.get("overrides") or {}
        if not isinstance(overrides, Mapping):
            raise self.error("must be a mapping such as {timing.nRFC: 420}", ("overrides",))
        for key, value in overrides.items():
            self._integer(value, 0, ("overrides", str(key)))
        refresh = data.get("refresh")
        if refresh is not None and refresh not in REFRESH_POLICIES:
            raise self.error(f"'{refresh}' is not one of {', '.join(REFRESH_POLICIES)}", ("refresh",))
        first_refresh = data.get("first_refresh")
        if first_refresh is not None:
            self._integer(first_refresh, 1, ("first_refresh",))
        owed = self._integer(data.get("owed", MOST_OWED), 1, ("owed",))
        if owed > MOST_OWED:
            raise self.error(f"at most {MOST_OWED} refreshes may be owed, got {owed}", ("owed",))
        if "owed" in data and refresh != "close-reopen":
            raise self.error("goes with 'refresh: close-reopen' only", ("owed",))
        if ("groups" in data) == ("body" in data):
            raise self.error("give either 'body' or 'groups'", ())
        if "groups" in data:
            if "channels" in data:
                raise self.error("each of the groups has its own", ("channels",))
            if not isinstance(data["groups"], list) or not data["groups"]:
                raise self.error("must be a list of {channels: n, body: [...]}", ("groups",))
            groups = tuple(self.group(g, ("groups", i)) for i, g in enumerate(data["groups"]))
        else:
            channels = self._integer(data.get("channels", 1), 1, ("channels",), MOST_CHANNELS)
            groups = (ChannelGroup(channels, self.body(data["body"], ("body",), ())),)
        host = self.host(data["host"], ("host",)) if data.get("host") is not None else None
        return Program(
            device=data["device"], groups=groups, name=str(data.get("name", "")),
            overrides=dict(overrides), refresh=refresh, first_refresh=first_refresh, owed=owed,
            host=host, file=self.file,
        )  # fmt: skip

    def group(self, data: Any, keys: Keys) -> ChannelGroup:
        self._known(data, ("name", "channels", "body"), keys)
        if "body" not in data:
            raise self.error("missing", (*keys, "body"))
        channels = self._integer(data.get("channels", 1), 1, (*keys, "channels"), MOST_CHANNELS)
        body = self.body(data["body"], (*keys, "body"), ())
        return ChannelGroup(channels, body, name=str(data.get("name", "")), keys=keys)

    def host(self, data: Any, keys: Keys) -> HostTraffic:
        self._known(data, (*_HOST_INTEGERS, "policy", "enter", "leave", "mapping"), keys)
        if "requests" not in data:
            raise self.error("missing", (*keys, "requests"))
        values: dict[str, Any] = {
            name: self._integer(
                data[name], least, (*keys, name), MOST_REQUESTS if name == "requests" else LARGEST
            )
            for name, least in _HOST_INTEGERS.items()
            if name in data
        }
        if values["requests"] * values.get("stride", 0) > LARGEST:
            raise self.error(f"times 'requests' must be at most {LARGEST}", (*keys, "stride"))
        policy = data.get("policy", "host-first")
        if policy not in ("host-first", "pim-first"):
            raise self.error(f"'{policy}' is not one of host-first, pim-first", (*keys, "policy"))
        mapping = data.get("mapping", [])
        if not isinstance(mapping, list) or not all(isinstance(name, str) for name in mapping):
            raise self.error(
                "must be a list of address fields, the most significant first", (*keys, "mapping")
            )
        enter = self.body(data.get("enter", []), (*keys, "enter"), (), "host")
        leave = self.body(data.get("leave", []), (*keys, "leave"), (), "host")
        return HostTraffic(
            **values, policy=policy, enter=enter, leave=leave, mapping=tuple(mapping), keys=keys
        )

    def body(self, data: Any, keys: Keys, indices: tuple[str, ...], inside: str = "") -> tuple[Step, ...]:
        if not isinstance(data, list):
            raise self.error("must be a list of steps", keys)
        return tuple(self.step(item, (*keys, i), indices, inside) for i, item in enumerate(data))

    def step(self, data: Any, keys: Keys, indices: tuple[str, ...], inside: str) -> Step:
        if isinstance(data, str):
            data = {data: None}
        if not isinstance(data, Mapping) or not data:
            raise self.error("must be a command or a step such as {loop: 4, body: [...]}", keys)
        kind = next((key for key in data if key in _STEP_KEYS), None)
        if kind is None:
            return self.issue(data, keys, indices)
        if inside and kind in ("parallel", "phase", "yield", "refresh"):
            raise self.error(f"not allowed inside '{inside}'", (*keys, kind))
        for key in data:
            if key != kind and key not in _COMPANIONS.get(kind, set()):
                raise self.error(f"does not go with '{kind}'", (*keys, str(key)))
        value = data[kind]
        match kind:
            case "loop":
                times, index = self.count(value, (*keys, kind), indices)
                inner = (*indices, index) if index else indices
                return Loop(times, self.inner(data, keys, inner, inside), index, keys)
            case "phase":
                if not isinstance(value, str) or not value:
                    raise self.error("must be a name", (*keys, kind))
                return Phase(value, self.inner(data, keys, indices, inside), keys)
            case "fence":
                if value not in FENCE_KINDS:
                    raise self.error(f"'{value}' is not one of {', '.join(FENCE_KINDS)}", (*keys, kind))
                return Fence(value, self._integer(data.get("plus", 0), 0, (*keys, "plus")), keys)
            case "wait":
                return Wait(self._integer(value, 0, (*keys, kind)), keys)
            case "until":
                target = {value: None} if isinstance(value, str) else value
                if not isinstance(target, Mapping) or len(target) != 1:
                    raise self.error("must be one command, such as {MAC16: {}}", (*keys, kind))
                issue = self.issue(target, (*keys, kind), indices)
                return Until(issue.command, issue.at, keys)
            case "parallel":
                if not isinstance(value, list) or not value:
                    raise self.error("must be a list of lists of steps", (*keys, kind))
                return Parallel(
                    tuple(self.body(s, (*keys, kind, i), indices, "parallel") for i, s in enumerate(value)),
                    keys,
                )
            case "refresh":
                if value is not None:
                    raise self.error("takes no value", (*keys, kind))
                return RefreshPoint(keys)
        return Yield(None if value is None else self._integer(value, 1, (*keys, kind)), keys)

    def inner(self, data: Any, keys: Keys, indices: tuple[str, ...], inside: str) -> tuple[Step, ...]:
        if "body" not in data:
            raise self.error("missing", (*keys, "body"))
        return self.body(data["body"], (*keys, "body"), indices, inside)

    def count(self, value: Any, keys: Keys, indices: tuple[str, ...]) -> tuple[int, str | None]:
        """``n`` or ``{index: n}``."""
        if not isinstance(value, Mapping):
            return self._integer(value, 0, keys), None
        if len(value) != 1:
            raise self.error("must be a count n or {index: n}", keys)
        ((name, times),) = value.items()
        if not isinstance(name, str) or not name.isidentifier():
            raise self.error(f"'{name}' is not a name for a loop index", keys)
        if name in indices:
            raise self.error(f"'{name}' already names a loop around this one", keys)
        return self._integer(times, 0, (*keys, name)), name

    def issue(self, data: Mapping[str, Any], keys: Keys, indices: tuple[str, ...]) -> Issue:
        names = [key for key in data if key != "repeat"]
        if len(names) != 1:
            raise self.error("must be one command, with 'repeat' if any", keys)
        command = str(names[0])
        repeat, index = (
            self.count(data["repeat"], (*keys, "repeat"), indices) if "repeat" in data else (1, None)
        )
        fields = data[command] if data[command] is not None else {}
        if not isinstance(fields, Mapping):
            raise self.error(
                "must be a mapping of address fields, such as {bank: 3, row: i}", (*keys, command)
            )
        known = (*indices, index) if index else indices
        at: dict[str, Affine] = {}
        for name, value in fields.items():
            try:
                at[str(name)] = Affine.parse(value)
            except ValueError as error:
                raise self.error(str(error), (*keys, command, str(name))) from None
            numbers = (at[str(name)].constant, *(factor for _, factor in at[str(name)].factors))
            if max(map(abs, numbers)) > LARGEST_IN_ADDRESS:
                message = f"numbers must be at most {LARGEST_IN_ADDRESS}, got '{value}'"
                raise self.error(message, (*keys, command, str(name)))
            for used, _ in at[str(name)].factors:
                if used not in known:
                    allowed = nearest(used, known) if known else "; there is no loop around it"
                    raise self.error(f"unknown loop index '{used}'{allowed}", (*keys, command, str(name)))
        return Issue(command, at, repeat, index, keys)
