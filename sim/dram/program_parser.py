"""Reads command programs in the form of their files: `parse_program`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from neardata.arch.config_file import ConfigFile
from neardata.arch.errors import InputError, nearest
from neardata.sim.dram.program import (
    FENCE_KINDS,
    HOST_INTEGERS,
    LARGEST,
    LARGEST_IN_ADDRESS,
    MOST_CHANNELS,
    MOST_OWED,
    MOST_REQUESTS,
    REFRESH_POLICIES,
    Affine,
    ChannelGroup,
    Fence,
    HostTraffic,
    Issue,
    Keys,
    Loop,
    Parallel,
    Phase,
    Program,
    RefreshPoint,
    Step,
    Until,
    Wait,
    Yield,
)

_STEP_KEYS = ("loop", "phase", "fence", "wait", "until", "parallel", "refresh", "yield")
_COMPANIONS = {
    "loop": {"body"}, "phase": {"body"}, "fence": {"plus"}, "wait": set(), "until": set(),
    "parallel": set(), "yield": set(),
}  # fmt: skip


def parse_program(data: Any, file: ConfigFile | None = None) -> Program:
    """The program that nested lists and dictionaries describe.

    Raises:
        InputError: unknown key or malformed step, with its key, and its line if it is from a file.
    """
    return _Parser(file).program(data)


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
        self._known(data, (*HOST_INTEGERS, "policy", "enter", "leave", "mapping"), keys)
        if "requests" not in data:
            raise self.error("missing", (*keys, "requests"))
        values: dict[str, Any] = {
            name: self._integer(
                data[name], least, (*keys, name), MOST_REQUESTS if name == "requests" else LARGEST
            )
            for name, least in HOST_INTEGERS.items()
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
