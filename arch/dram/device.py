"""A DRAM or PIM device ready to simulate: a preset resolved against its standard."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neardata.arch.config_file import ConfigFile, first_problem
from neardata.arch.dram.expression import evaluate, names_in
from neardata.arch.dram.standard import Command, Organisation, Preset, Role, Rule, Standard, parse_rule
from neardata.arch.errors import InputError, nearest

DATA = Path(__file__).parent / "data"

_SINGLE_FIELDS = ("prefetch", "command_bus", "data_bus_at", "refresh_at", "read_latency", "write_latency")
"""What a standard must say once, itself or in the standard it extends."""


@dataclass(frozen=True)
class TimingRule:
    """One constraint between one pair of commands, in simulated cycles (ticks).

    ``then`` may issue at the earliest ``gap`` cycles after the ``window``-th latest
    ``first``, for targets under a common node of ``level`` (or, ``sibling``, under
    different nodes of ``level`` that share a parent).
    """

    name: str
    level: int
    first: int
    then: int
    gap: int
    window: int
    sibling: bool


@dataclass(frozen=True)
class Device:
    """One channel of a memory device. All cycles are ticks: see ``tick_ps``.

    Banks are numbered depth first through ``levels``; a node of a level is a run of
    consecutive banks. A command addresses a *unit*: the banks one issue acts on.
    """

    name: str
    standard: str
    source: str
    levels: tuple[str, ...]
    """From ``channel`` down to ``bank``."""
    counts: tuple[int, ...]
    """Nodes per parent, level by level (1 for the channel)."""
    organisation: Organisation
    timing: Mapping[str, int]
    """Clock cycles as in the preset (``tCK_ps`` in picoseconds)."""
    command_names: tuple[str, ...]
    commands: tuple[Command, ...]
    command_cycles: tuple[int, ...]
    """Ticks each command holds its bus."""
    command_latency: tuple[int, ...]
    """Ticks from the issue of each command until it is complete."""
    rules: tuple[TimingRule, ...]
    roles: Mapping[str, int]
    """Command of each role the standard has."""
    ticks_per_clock: int
    dual_command_bus: bool
    data_bus_at: int
    """Level that owns a data bus."""
    refresh_at: int
    """Level an all-bank refresh covers."""
    prefetch: int
    read_latency: int
    """Ticks from a read command to the end of its burst."""
    write_latency: int
    modes: tuple[str, ...]
    preset: Preset = field(repr=False)
    coordinates: NDArray[np.int64] = field(repr=False)
    """(banks, levels): id of each bank's node within its parent."""
    unit_of: tuple[NDArray[np.int64], ...] = field(repr=False)
    """Per command, (banks,): the unit each bank belongs to."""

    @property
    def tick_ps(self) -> float:
        """Length of a simulated cycle in picoseconds."""
        return self.timing["tCK_ps"] / self.ticks_per_clock

    @property
    def n_banks(self) -> int:
        """Banks of one channel."""
        return len(self.coordinates)

    @property
    def burst_bytes(self) -> int:
        """Bytes one column command moves."""
        return self.prefetch * self.organisation.width // 8

    @property
    def bursts_per_row(self) -> int:
        """Bursts in the row of one bank."""
        return self.organisation.column // self.prefetch

    @property
    def capacity_bytes(self) -> int:
        """Bytes of one channel."""
        return self.n_banks * self.organisation.row * self.bursts_per_row * self.burst_bytes

    @property
    def n_data_buses(self) -> int:
        """Independent data buses of one channel (pseudo-channels)."""
        return int(np.prod(self.counts[: self.data_bus_at + 1]))

    @property
    def burst_cycles(self) -> int:
        """Ticks one burst holds its data bus."""
        clocks = self.timing["nBL_min"] if "nBL_min" in self.timing else self.timing["nBL"]
        return clocks * self.ticks_per_clock

    @property
    def peak_gb_per_s(self) -> float:
        """Peak bandwidth of one channel, decimal GB/s."""
        return 1e3 * self.n_data_buses * self.burst_bytes / (self.burst_cycles * self.tick_ps)

    def command(self, name: str) -> int:
        """Number of the command called ``name``."""
        try:
            return self.command_names.index(name)
        except ValueError:
            raise InputError(
                f"{self.name} has no command '{name}'{nearest(name, self.command_names)}"
            ) from None

    def ticks(self, timing: str) -> int:
        """A timing in simulated cycles."""
        return self.timing[timing] * self.ticks_per_clock

    def n_units(self, command: int) -> int:
        """Number of different targets of a command."""
        return int(self.unit_of[command].max()) + 1

    def banks_of(self, command: int, unit: int) -> NDArray[np.int64]:
        """Banks one issue of ``command`` at ``unit`` acts on."""
        return np.flatnonzero(self.unit_of[command] == unit)

    def node_of(self, level: int) -> NDArray[np.int64]:
        """(banks,): number, channel-wide, of each bank's node of ``level``."""
        below = int(np.prod(self.counts[level + 1 :]))
        return np.arange(self.n_banks, dtype=np.int64) // below


def _files() -> list[Path]:
    return sorted(DATA.glob("*.yaml"))


@functools.cache
def _standard_file(path: Path) -> tuple[ConfigFile, Standard]:
    file = ConfigFile(path)
    return file, file.parse(Standard)


@functools.cache
def _preset_index() -> dict[str, Path]:
    return {name: path for path in _files() for name in _standard_file(path)[1].presets}


def device_names() -> list[str]:
    """Names of the devices that ship with the package.

    >>> "ddr4-2400r" in device_names()
    True
    """
    return list(_preset_index())


def load_device(name: str, overrides: Mapping[str, int] | None = None) -> Device:
    """A device by preset name, or ``FILE.yaml[:PRESET]`` for a file of one's own.

    Args:
        name: a name of `device_names`, or the path of a YAML file of the same form (its
            only preset, or the one named after the last colon).
        overrides: ``{"timing.nFAW": 20, "organisation.rank": 2}``.

    Raises:
        InputError: unknown name or key, missing timing, impossible organisation, with
            file, line and key.

    >>> load_device("ddr4-2400r").peak_gb_per_s
    19.207...
    """
    stem, _, chosen = name.partition(".yaml:")
    if name.endswith(".yaml") or chosen:
        path = Path(stem + ".yaml") if chosen else Path(name)
        presets = list(_standard_file(path)[1].presets)
        if not chosen and len(presets) != 1:
            raise InputError(
                f"has {len(presets)} presets; name one as {path}:PRESET", file=path, key="presets"
            )
        preset = chosen or presets[0]
        if preset not in presets:
            raise InputError(f"no preset '{preset}'{nearest(preset, presets)}", file=path, key="presets")
    else:
        index = _preset_index()
        if name not in index:
            raise InputError(f"unknown device '{name}'{nearest(name, index)}")
        path, preset = index[name], name
    return _resolve(path, preset, dict(overrides or {}))


@dataclass
class _Merged:
    """A standard laid over the one it extends."""

    fields: dict[str, Any]
    commands: dict[str, Command]
    roles: dict[Role, str]
    rules: list[tuple[Rule, ConfigFile, int]]


def _merge(path: Path, seen: tuple[Path, ...] = ()) -> _Merged:
    file, standard = _standard_file(path)
    if path in seen:
        raise file.error("extends itself", "extends")
    if standard.extends is None:
        merged = _Merged({}, {}, {}, [])
    else:
        parents = {_standard_file(p)[1].standard: p for p in _files()}
        if standard.extends not in parents:
            raise file.error(
                f"unknown standard '{standard.extends}'{nearest(standard.extends, parents)}", "extends"
            )
        merged = _merge(parents[standard.extends], (*seen, path))
    for key in _SINGLE_FIELDS:
        value = getattr(standard, key)
        if value is not None:
            merged.fields[key] = value
    for key in ("levels", "modes", "ticks_per_clock"):
        if key in standard.model_fields_set:
            merged.fields[key] = getattr(standard, key)
    merged.commands.update(standard.commands)
    merged.roles.update(standard.roles)
    for level, lines in standard.constraints.items():
        for i, line in enumerate(lines):
            ((name, text),) = line.items()
            try:
                rule = parse_rule(level, name, text)
            except ValueError as error:
                raise file.error(str(error), "constraints", level, i, name) from None
            merged.rules.append((rule, file, i))
    return merged


def _resolve(path: Path, preset_name: str, overrides: dict[str, int]) -> Device:
    file, standard = _standard_file(path)
    merged = _merge(path)
    for key in (*_SINGLE_FIELDS, "levels"):
        if not merged.fields.get(key):
            raise file.error("missing", key)
    levels: tuple[str, ...] = ("channel", *merged.fields["levels"])
    if levels[-1] != "bank":
        raise file.error("the last level must be 'bank'", "levels")
    _check_tables(file, merged, levels)
    preset = _override(file, standard.presets[preset_name], preset_name, levels, overrides)
    org, at = preset.organisation, ("presets", preset_name)

    if set(org.levels) != set(levels[1:]):
        for level in sorted(set(levels[1:]) ^ set(org.levels)):
            verb = "missing" if level in levels else f"unknown level{nearest(level, levels[1:])}"
            raise file.error(verb, *at, "organisation", "levels", level)
    counts = (1, *(org.levels[level] for level in levels[1:]))
    prefetch: int = merged.fields["prefetch"]
    if org.column % prefetch:
        raise file.error(
            f"{org.column} is not a multiple of the prefetch {prefetch}", *at, "organisation", "column"
        )
    n_banks = int(np.prod(counts))
    if n_banks > 1024:
        raise file.error(f"{n_banks} banks a channel; at most 1024", *at, "organisation", "levels")
    if org.density_Mb is not None:
        data_bus_at, refresh_at = (levels.index(merged.fields[key]) for key in ("data_bus_at", "refresh_at"))
        below = max(data_bus_at, refresh_at) if "rank" in levels else data_bus_at
        bits = int(np.prod(counts[below + 1 :])) * org.row * org.column * org.device_width
        if bits != org.density_Mb << 20:
            raise file.error(
                f"the counts make {bits >> 20} Mb a device, not {org.density_Mb}",
                *at,
                "organisation",
                "density_Mb",
            )

    ticks: int = merged.fields.get("ticks_per_clock", 1)
    timing = preset.timing
    for required in ("tCK_ps",):
        if required not in timing:
            raise file.error("missing", *at, "timing", required)
    for key, value in timing.items():
        if value < 0:
            raise file.error(f"must not be negative, got {value}", *at, "timing", key)
    if timing["tCK_ps"] == 0:
        raise file.error("must be positive", *at, "timing", "tCK_ps")
    needed = {n for rule, _, _ in merged.rules for n in names_in(rule.gap)}
    needed |= names_in(merged.fields["read_latency"]) | names_in(merged.fields["write_latency"])
    needed |= {
        n for command in merged.commands.values() if command.latency for n in names_in(command.latency)
    }
    for missing in sorted(needed - set(timing)):
        raise file.error("missing", *at, "timing", missing)

    names = tuple(merged.commands)
    commands = tuple(merged.commands.values())
    cycles = []
    for name, command in merged.commands.items():
        in_ticks = command.cycles * ticks
        if in_ticks != int(in_ticks):
            raise file.error(f"{command.cycles} clocks are not whole ticks", "commands", name, "cycles")
        cycles.append(int(in_ticks))

    coordinates = np.stack(np.unravel_index(np.arange(n_banks), counts), axis=1).astype(np.int64)
    unit_of = tuple(_units(command, levels, counts, coordinates) for command in commands)
    number = {name: i for i, name in enumerate(names)}
    in_ticks_timing = {k: v * ticks for k, v in timing.items()}
    read_latency = evaluate(merged.fields["read_latency"], in_ticks_timing)
    write_latency = evaluate(merged.fields["write_latency"], in_ticks_timing)
    latencies = []
    for command, held in zip(commands, cycles, strict=True):
        if command.latency is not None:
            latencies.append(evaluate(command.latency, in_ticks_timing))
        else:
            latencies.append({"read": read_latency, "write": write_latency, None: held}[command.data])
    rules = []
    for rule, _, _ in merged.rules:
        gap = evaluate(rule.gap, in_ticks_timing)
        for first in rule.first:
            for then in rule.then:
                # JEDEC counts from the last cycle of one command to the last of the next;
                # a command is simulated at its first cycle
                adjusted = gap + (cycles[number[first]] - 1) - (cycles[number[then]] - 1)
                rules.append(
                    TimingRule(
                        rule.name, levels.index(rule.level), number[first], number[then],
                        adjusted, rule.window, rule.sibling,
                    )
                )  # fmt: skip
    return Device(
        name=preset_name,
        standard=standard.standard,
        source=preset.source,
        levels=levels,
        counts=counts,
        organisation=org,
        timing=timing,
        command_names=names,
        commands=commands,
        command_cycles=tuple(cycles),
        command_latency=tuple(latencies),
        rules=tuple(rules),
        roles={role: number[name] for role, name in merged.roles.items()},
        ticks_per_clock=ticks,
        dual_command_bus=merged.fields["command_bus"] == "dual",
        data_bus_at=levels.index(merged.fields["data_bus_at"]),
        refresh_at=levels.index(merged.fields["refresh_at"]),
        prefetch=prefetch,
        read_latency=read_latency,
        write_latency=write_latency,
        modes=merged.fields.get("modes", ()),
        preset=preset,
        coordinates=coordinates,
        unit_of=unit_of,
    )


def _check_tables(file: ConfigFile, merged: _Merged, levels: tuple[str, ...]) -> None:
    modes = merged.fields.get("modes", ())
    for key in ("data_bus_at", "refresh_at"):
        if merged.fields[key] not in levels:
            raise file.error(f"unknown level{nearest(merged.fields[key], levels)}", key)
    for name, command in merged.commands.items():
        for level in (command.at, *command.across):
            if level not in levels:
                raise file.error(f"unknown level '{level}'{nearest(level, levels)}", "commands", name)
        for mode in (*command.modes, *([command.enters] if command.enters else [])):
            if mode not in modes:
                raise file.error(f"unknown mode '{mode}'{nearest(mode, modes)}", "commands", name)
    for role, name in merged.roles.items():
        if name not in merged.commands:
            raise file.error(f"unknown command '{name}'{nearest(name, merged.commands)}", "roles", role)
    for rule, origin, i in merged.rules:
        if rule.level not in levels:
            raise origin.error(f"unknown level{nearest(rule.level, levels)}", "constraints", rule.level)
        for name in (*rule.first, *rule.then):
            if name not in merged.commands:
                known = nearest(name, merged.commands)
                raise origin.error(
                    f"unknown command '{name}'{known}", "constraints", rule.level, i, rule.name
                )


def _override(
    file: ConfigFile, preset: Preset, name: str, levels: tuple[str, ...], overrides: dict[str, int]
) -> Preset:
    if not overrides:
        return preset
    data = preset.model_dump()
    for key, value in overrides.items():
        section, _, item = key.partition(".")
        if section == "timing":
            if item not in data["timing"]:
                raise InputError(f"unknown timing of {name}{nearest(item, data['timing'])}", key=key)
            data["timing"][item] = value
        elif section == "organisation" and item in levels[1:]:
            data["organisation"]["levels"][item] = value
        elif section == "organisation" and item in data["organisation"] and item != "levels":
            data["organisation"][item] = value
        else:
            allowed = [f"timing.{t}" for t in data["timing"]]
            allowed += [f"organisation.{o}" for o in (*levels[1:], *data["organisation"]) if o != "levels"]
            raise InputError(f"cannot be set on {name}{nearest(key, allowed)}", key=key)
    try:
        return Preset.model_validate(data)
    except ValueError as error:
        keys, message = first_problem(Preset, error)  # type: ignore[arg-type]
        raise InputError(message, key=".".join(map(str, keys))) from None


def _units(
    command: Command, levels: tuple[str, ...], counts: tuple[int, ...], coordinates: NDArray[np.int64]
) -> NDArray[np.int64]:
    unit = np.zeros(len(coordinates), dtype=np.int64)
    for level in range(levels.index(command.at) + 1):
        if levels[level] not in command.across:
            unit = unit * counts[level] + coordinates[:, level]
    return unit
