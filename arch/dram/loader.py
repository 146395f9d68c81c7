"""Devices from their YAML files: a preset resolved against its standard."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from neardata.arch.config_file import ConfigFile, first_problem
from neardata.arch.dram.consistency import MOST, contradictions, energy_contradictions
from neardata.arch.dram.device import Device, TimingRule
from neardata.arch.dram.expression import evaluate, names_in
from neardata.arch.dram.standard import Command, IddEnergy, Preset, Role, Rule, Standard, parse_rule
from neardata.arch.errors import InputError, nearest

DATA = Path(__file__).parent / "data"
MAX_BANKS = 1024
MAX_BYTES = 1 << 50

_SAID_ONCE = ("prefetch", "command_bus", "data_bus_at", "refresh_at", "read_latency", "write_latency")
"""What a standard must say, itself or in the standard it extends."""
_INTERVALS: dict[Role, str] = {
    "refresh_all": "nREFI",
    "refresh_bank": "nREFIpb",
    "refresh_same_bank": "nREFIsb",
}
_LIMITS: dict[Role, str] = {"activate_second": "nAAD", "sync_read": "nWCKPST"}
"""Timings the controller reads if a standard has the role."""
_TIMINGS = {"tCK_ps", "rate", "nBL", "nBL_min", *_INTERVALS.values(), *_LIMITS.values()}
"""Timings with a meaning besides the expressions of the tables."""


def device_names() -> list[str]:
    """Names of the devices that ship with the package.

    >>> "ddr4-2400r" in device_names()
    True
    """
    return list(_shipped_presets())


def load_device(
    name: str,
    overrides: Mapping[str, float] | None = None,
    *,
    corrected: bool = True,
    consistent: bool = True,
) -> Device:
    """A device by preset name, or ``FILE.yaml[:PRESET]`` for a file of one's own.

    Args:
        name: a name of `device_names`, or the path of a YAML file of the same form (its
            only preset, or the one named after the last colon).
        overrides: ``{"timing.nFAW": 20, "organisation.rank": 2, "energy.io_pj_per_bit": 4.5}``.
        corrected: with the rules under ``corrections``, which the peer simulator that a table
            was read from lacks; without them its runs are reproduced.
        consistent: refuse timings that contradict each other (a wrong device may be wanted to
            see whether a check notices).

    Raises:
        InputError: unknown name or key, missing timing, impossible organisation, values that
            contradict each other, with file, line and key.

    >>> load_device("ddr4-2400r").peak_gb_per_s
    19.207...
    >>> load_device("ddr4-2400r", {"organisation.rank": 2}).n_banks
    32
    """
    stem, colon, chosen = name.rpartition(".yaml:")
    if not colon and not name.endswith(".yaml"):
        shipped = _shipped_presets()
        if name not in shipped:
            raise InputError(f"unknown device '{name}'{nearest(name, shipped)}")
        return _resolve(shipped[name], name, overrides or {}, corrected, consistent)
    path = Path(f"{stem}.yaml" if colon else name)
    file, standard = _standard(path)
    presets = list(standard.presets)
    if not presets:
        raise file.error("missing", "presets")
    if not colon and len(presets) > 1:
        raise file.error(f"there are {len(presets)}; name one as {path}:{presets[0]}", "presets")
    preset = chosen if colon else presets[0]
    if preset not in presets:
        raise file.error(f"no preset '{preset}'{nearest(preset, presets)}", "presets")
    return _resolve(path, preset, overrides or {}, corrected, consistent)


def _shipped_files() -> list[Path]:
    return sorted(DATA.glob("*.yaml"))


@functools.cache
def _shipped_presets() -> dict[str, Path]:
    return {name: path for path in _shipped_files() for name in _standard(path)[1].presets}


def _standard(path: Path) -> tuple[ConfigFile, Standard]:
    return _shipped_standard(path) if path.parent == DATA else _read_standard(path)


def _read_standard(path: Path) -> tuple[ConfigFile, Standard]:
    file = ConfigFile(path)
    return file, file.parse(Standard)


_shipped_standard = functools.cache(_read_standard)


@dataclass
class _Table:
    """A standard laid over the one it extends; it knows which file each entry is from."""

    file: ConfigFile
    values: dict[str, Any] = field(default_factory=dict)
    commands: dict[str, Command] = field(default_factory=dict)
    roles: dict[Role, str] = field(default_factory=dict)
    rules: list[tuple[Rule, ConfigFile, tuple[str | int, ...]]] = field(default_factory=list)
    """With the file and the place in it."""
    origin: dict[tuple[str, ...], ConfigFile] = field(default_factory=dict)

    def error(self, message: str, *keys: str) -> InputError:
        """An error placed in the file that holds the entry."""
        origin = self.origin.get(keys[:2]) or self.origin.get(keys[:1]) or self.file
        return origin.error(message, *keys)


def _merge(path: Path, corrected: bool, seen: tuple[Path, ...] = ()) -> _Table:
    file, standard = _standard(path)
    if path in seen:
        raise file.error("extends itself", "extends")
    if standard.extends is None:
        table = _Table(file)
    else:
        parents = {_standard(p)[1].standard: p for p in _shipped_files()}
        if standard.extends not in parents:
            raise file.error(
                f"unknown standard '{standard.extends}'{nearest(standard.extends, parents)}", "extends"
            )
        table = _merge(parents[standard.extends], corrected, (*seen, path))
        table.file = file
    for key in (*_SAID_ONCE, "levels", "modes", "ticks_per_clock"):
        if key in standard.model_fields_set:
            table.values[key] = getattr(standard, key)
            table.origin[key,] = file
    table.values["limits"] = (*table.values.get("limits", ()), *standard.limits)
    table.commands.update(standard.commands)
    table.roles.update(standard.roles)
    table.origin.update({("commands", name): file for name in standard.commands})
    table.origin.update({("roles", role): file for role in standard.roles})
    sections = {"constraints": standard.constraints, "corrections": standard.corrections if corrected else {}}
    for section, levels in sections.items():
        for level, lines in levels.items():
            for i, line in enumerate(lines):
                ((name, text),) = line.items()
                keys = (section, level, i, name)
                try:
                    table.rules.append((parse_rule(level, name, text), file, keys))
                except ValueError as error:
                    raise file.error(str(error), *keys) from None
    return table


def _check_levels(table: _Table) -> tuple[str, ...]:
    """All levels, from the channel down."""
    for key in (*_SAID_ONCE, "levels"):
        if not table.values.get(key):
            raise table.error("missing", key)
    levels: tuple[str, ...] = ("channel", *table.values["levels"])
    if levels[-1] != "bank":
        raise table.error("the last level must be 'bank'", "levels")
    if len(set(levels)) < len(levels):
        raise table.error("each level once; 'channel' is not written", "levels")
    for key in ("data_bus_at", "refresh_at"):
        if table.values[key] not in levels:
            known = nearest(table.values[key], levels)
            raise table.error(f"unknown level '{table.values[key]}'{known}", key)
    return levels


def _check_commands(table: _Table, levels: tuple[str, ...]) -> None:
    modes = table.values.get("modes", ())
    for name, command in table.commands.items():
        for key, named in (("at", (command.at,)), ("across", command.across)):
            for level in named:
                if level not in levels:
                    known = nearest(level, levels)
                    raise table.error(f"unknown level '{level}'{known}", "commands", name, key)
        for level in command.across:
            if not 0 < levels.index(level) < levels.index(command.at):
                raise table.error(
                    f"'{level}' does not lie between the channel and {command.at}", "commands", name, "across"
                )
        for key, named in (("modes", command.modes), ("enters", tuple(filter(None, [command.enters])))):
            for mode in named:
                if mode not in modes:
                    known = nearest(mode, modes)
                    raise table.error(f"unknown mode '{mode}'{known}", "commands", name, key)


def _check_roles(table: _Table) -> None:
    for role, name in table.roles.items():
        if name not in table.commands:
            raise table.error(f"unknown command '{name}'{nearest(name, table.commands)}", "roles", role)
        command, said = table.commands[name], role.partition("_")[0]
        if said in ("read", "write") and command.data != said:
            raise table.error(f"{name} has no 'data: {said}'", "roles", role)
        if said == "precharge" and command.leaves != "closed":
            raise table.error(f"{name} does not leave banks closed", "roles", role)
        if said == "refresh" and not command.refreshes:
            raise table.error(f"{name} has no 'refreshes: true'", "roles", role)
        if role == "refresh_all" and command.at != table.values["refresh_at"]:
            raise table.error(f"{name} is not at {table.values['refresh_at']}, the refresh_at", "roles", role)
    if "activate" in table.roles:
        state = table.commands[table.roles["activate"]].leaves
        if state not in ("open", "activating"):
            raise table.error(f"{table.roles['activate']} does not leave a bank open", "roles", "activate")
        if state == "activating" and "activate_second" not in table.roles:
            raise table.error("missing", "roles", "activate_second")
    if ("sync_read" in table.roles) != ("sync_write" in table.roles):
        raise table.error("missing", "roles", "sync_write" if "sync_read" in table.roles else "sync_read")


def _check_rules(table: _Table, levels: tuple[str, ...]) -> None:
    for rule, file, keys in table.rules:
        if rule.level not in levels:
            known = nearest(rule.level, levels)
            raise file.error(f"unknown level '{rule.level}'{known}", *keys[:2])
        for name in (*rule.first, *rule.then):
            if name not in table.commands:
                known = nearest(name, table.commands)
                raise file.error(f"unknown command '{name}'{known}", *keys)
        if rule.sibling and rule.level == "channel":
            raise file.error("a channel has no siblings", *keys)


@dataclass(frozen=True)
class _Chosen:
    """A preset with its overrides, which know whether a key stands in the file."""

    file: ConfigFile
    name: str
    preset: Preset
    overrides: Mapping[str, float]

    def error(self, message: str, *keys: str) -> InputError:
        key = _override_key(keys)
        if key in self.overrides:
            return InputError(message, key=key)
        return self.file.error(message, "presets", self.name, *keys)


def _override_key(keys: tuple[str | int, ...]) -> str:
    return ".".join(str(key) for key in keys if key != "levels")


def _choose(
    file: ConfigFile, preset: Preset, name: str, levels: tuple[str, ...], overrides: Mapping[str, float]
) -> _Chosen:
    """The preset with ``overrides`` laid over it."""
    if not overrides:
        return _Chosen(file, name, preset, overrides)
    data = preset.model_dump()
    timing, organisation = data["timing"], data["organisation"]
    for key, value in overrides.items():
        section, _, item = key.partition(".")
        if section == "timing":
            if item not in timing:
                raise InputError(f"unknown timing of {name}{nearest(item, timing)}", key=key)
            timing[item] = value
        elif section == "energy":
            _set_energy(data, name, item, value)
        elif section == "command_energy_pj":
            if item not in data[section]:
                raise InputError(f"unknown on {name}{nearest(item, data[section])}", key=key)
            data[section][item] = value
        elif section == "organisation" and item in levels[1:]:
            organisation["levels"][item] = value
        elif section == "organisation" and item in organisation and item != "levels":
            organisation[item] = value
        else:
            allowed = [f"timing.{t}" for t in timing]
            allowed += [f"organisation.{o}" for o in (*levels[1:], *organisation) if o != "levels"]
            allowed += [f"energy.{e}" for e in data["energy"] or () if e not in _ENERGY_NOTES]
            raise InputError(f"cannot be set on {name}{nearest(key, allowed)}", key=key)
    if any(key.startswith("organisation.") for key in overrides):
        # the density is that of the counts in the file
        organisation["density_Mb"] = overrides.get("organisation.density_Mb")
    changed = [f"{k} = {v}" for k, v in overrides.items() if k.startswith(("energy.", "command_energy_pj."))]
    if changed and data["energy"]:
        data["energy"]["source"] += f". Changed: {', '.join(changed)}"
        data["energy"]["status"] = "assumed"
    try:
        return _Chosen(file, name, Preset.model_validate(data), overrides)
    except ValidationError as error:
        keys, message = first_problem(Preset, error, data)
        raise InputError(message, key=".".join(str(key) for key in keys if key != "levels")) from None


_ENERGY_NOTES = ("kind", "source", "status")


def _set_energy(data: dict[str, Any], name: str, item: str, value: float) -> None:
    if data["energy"] is None:
        raise InputError(f"{name} has no energy values", key=f"energy.{item}")
    known = [key for key in data["energy"] if key not in _ENERGY_NOTES]
    if item not in known:
        raise InputError(f"unknown energy value of {name}{nearest(item, known)}", key=f"energy.{item}")
    data["energy"][item] = value


def _check_organisation(chosen: _Chosen, table: _Table, levels: tuple[str, ...]) -> tuple[int, ...]:
    """Nodes per parent, level by level."""
    organisation = chosen.preset.organisation
    for level in organisation.levels:
        if level not in levels[1:]:
            known = nearest(level, levels[1:])
            raise chosen.error(f"unknown level{known}", "organisation", "levels", level)
    for level in levels[1:]:
        if level not in organisation.levels:
            raise chosen.error("missing", "organisation", "levels", level)
    counts = (1, *(organisation.levels[level] for level in levels[1:]))
    n_banks = math.prod(counts)
    if n_banks > MAX_BANKS:
        raise chosen.error(
            f"{n_banks} banks a channel; at most {MAX_BANKS}",
            "organisation",
            "levels",
            _largest(organisation.levels),
        )
    prefetch = table.values["prefetch"]
    if organisation.column % prefetch:
        raise chosen.error(
            f"{organisation.column} is not a multiple of the prefetch {prefetch}", "organisation", "column"
        )
    if organisation.width * prefetch < 8:
        raise chosen.error("a burst is less than a byte", "organisation", "width")
    n_bytes = math.prod(counts) * organisation.row * organisation.column * organisation.width // 8
    if n_bytes > MAX_BYTES:
        sizes = {key: getattr(organisation, key) for key in ("row", "column", "width")}
        raise chosen.error(
            f"{n_bytes:,} bytes a channel; at most {MAX_BYTES:,}", "organisation", _largest(sizes)
        )
    if organisation.density_Mb is not None:
        # a device lies below the ranks, and in full below each data bus
        device_at = max(
            levels.index(table.values["data_bus_at"]), levels.index("rank") if "rank" in levels else 0
        )
        bits = int(np.prod(counts[device_at + 1 :])) * organisation.row * organisation.column
        bits *= organisation.device_width
        if bits != organisation.density_Mb << 20:
            raise chosen.error(
                f"the counts make {bits / 2**20:g} Mb a device, not {organisation.density_Mb}",
                "organisation", "density_Mb",
            )  # fmt: skip
    return counts


def _largest(levels: Mapping[str, int]) -> str:
    return max(levels, key=lambda level: levels[level])


def _expressions(table: _Table) -> Iterator[tuple[str, tuple[ConfigFile, tuple[str | int, ...]]]]:
    """Every latency expression, with its place."""
    for key in ("read_latency", "write_latency"):
        yield table.values[key], (table.origin[key,], (key,))
    for name, command in table.commands.items():
        if command.latency is not None:
            yield command.latency, (table.origin["commands", name], ("commands", name, "latency"))
    for rule, file, keys in table.rules:
        yield rule.gap, (file, keys)


def _check_timing(chosen: _Chosen, table: _Table) -> None:
    timing = chosen.preset.timing
    used: set[str] = set()
    for expression, (file, keys) in _expressions(table):
        try:
            used |= names_in(expression)
        except ValueError as error:
            raise file.error(str(error), *keys) from None
    burst = "nBL_min" if "nBL_min" in timing else "nBL"
    needed = used | {"tCK_ps", burst} | {_LIMITS[role] for role in table.roles if role in _LIMITS}
    for name, value in timing.items():
        if name not in used | _TIMINGS:
            raise chosen.error(f"no constraint uses it{nearest(name, used | _TIMINGS)}", "timing", name)
        if value < 0:
            raise chosen.error(f"must not be negative, got {value}", "timing", name)
        if value > MOST:
            raise chosen.error(f"must be at most {MOST}, got {value}", "timing", name)
    for name in sorted(needed - set(timing)):
        raise chosen.error("missing", "timing", name)
    for name in ("tCK_ps", burst):
        if timing[name] == 0:
            raise chosen.error("must be positive", "timing", name)
    for expression, (file, keys) in _expressions(table):
        try:
            evaluate(expression, timing)
        except ValueError as error:
            raise file.error(str(error), *keys) from None


def _check_consistency(chosen: _Chosen, table: _Table) -> None:
    energy = chosen.preset.energy
    sections = {
        "timing": contradictions(chosen.preset.timing, table.values["prefetch"]),
        "energy": energy_contradictions(energy) if isinstance(energy, IddEnergy) else (),
    }
    for section, found_there in sections.items():
        for found in found_there:
            name = next((n for n in found.names if f"{section}.{n}" in chosen.overrides), found.names[0])
            raise chosen.error(found.message if name == found.names[0] else found.otherwise, section, name)


def _check_refresh(chosen: _Chosen, device: Device) -> None:
    """An activate must fit between two refreshes of a bank, and of a node."""
    activate = device.roles.get("activate", -1)
    for role, interval in _INTERVALS.items():
        if role not in device.roles or not device.timing.get(interval):  # 0: never refreshed
            continue
        refresh = device.roles[role]
        of_a_node = device.n_units(refresh) // int(np.prod(device.counts[: device.refresh_at + 1]))
        for within, every in (
            (range(device.refresh_at + 1), device.ticks(interval)),
            (range(device.refresh_at + 1, len(device.levels)), device.ticks(interval) * of_a_node),
        ):
            gap = {
                (r.first, r.then): r.gap
                for r in sorted(device.rules, key=lambda rule: rule.gap)
                if r.level in within and r.window == 1 and not r.sibling
            }
            through = gap.get((refresh, activate), 0) + gap.get((activate, refresh), 0)
            taken = max(through, gap.get((refresh, refresh), 0))
            if taken >= every:
                raise chosen.error(
                    f"{device.timing[interval]} leaves no time for an activate between refreshes,"
                    f" which take {taken / every * device.timing[interval]:g}",
                    "timing",
                    interval,
                )


def _resolve(
    path: Path, name: str, overrides: Mapping[str, float], corrected: bool, consistent: bool
) -> Device:
    if path.parent == DATA:
        # the type tells True from 1, of which only one is a count
        items = tuple((key, type(value), value) for key, value in overrides.items())
        try:
            hash(items)
        except TypeError:  # refused below
            pass
        else:
            return _shipped_device(path, name, items, corrected, consistent)
    return _resolved(path, name, overrides, corrected, consistent)


@functools.lru_cache(maxsize=128)
def _shipped_device(
    path: Path, name: str, items: tuple[tuple[str, type, float], ...], corrected: bool, consistent: bool
) -> Device:
    return _resolved(path, name, {key: value for key, _, value in items}, corrected, consistent)


def _resolved(
    path: Path, name: str, overrides: Mapping[str, float], corrected: bool, consistent: bool
) -> Device:
    file, standard = _standard(path)
    table = _merge(path, corrected)
    levels = _check_levels(table)
    _check_commands(table, levels)
    _check_roles(table)
    _check_rules(table, levels)
    chosen = _choose(file, standard.presets[name], name, levels, overrides)
    counts = _check_organisation(chosen, table, levels)
    _check_timing(chosen, table)
    if consistent:
        _check_consistency(chosen, table)

    ticks: int = table.values.get("ticks_per_clock", 1)
    cycles = []
    for command_name, command in table.commands.items():
        in_ticks = command.cycles * ticks
        if in_ticks != int(in_ticks):
            raise table.error(
                f"{command.cycles} clocks are not whole ticks", "commands", command_name, "cycles"
            )
        cycles.append(int(in_ticks))

    preset = chosen.preset
    timing = preset.timing
    read_latency = ticks * evaluate(table.values["read_latency"], timing)
    write_latency = ticks * evaluate(table.values["write_latency"], timing)
    for key, latency in (("read_latency", read_latency), ("write_latency", write_latency)):
        if latency < (burst := ticks * timing.get("nBL_min", timing.get("nBL", 0))):
            raise table.error(
                f"{latency // ticks} clocks end before the burst of {burst // ticks} begins", key
            )
    latencies = []
    for command, held in zip(table.commands.values(), cycles, strict=True):
        if command.latency is not None:
            latencies.append(ticks * evaluate(command.latency, timing))
        else:
            latencies.append({"read": read_latency, "write": write_latency, None: held}[command.data])

    number = {command: i for i, command in enumerate(table.commands)}
    rules = []
    for rule, _, _ in table.rules:
        gap = ticks * evaluate(rule.gap, timing)
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

    n_banks = int(np.prod(counts))
    coordinates = np.stack(np.unravel_index(np.arange(n_banks), counts), axis=1).astype(np.int64)
    device = Device(
        name=name,
        standard=standard.standard,
        source=preset.source,
        levels=levels,
        counts=counts,
        organisation=preset.organisation,
        timing=timing,
        command_names=tuple(table.commands),
        commands=tuple(table.commands.values()),
        command_cycles=tuple(cycles),
        command_latency=tuple(latencies),
        rules=tuple(rules),
        roles={role: number[command] for role, command in table.roles.items()},
        ticks_per_clock=ticks,
        dual_command_bus=table.values["command_bus"] == "dual",
        data_bus_at=levels.index(table.values["data_bus_at"]),
        refresh_at=levels.index(table.values["refresh_at"]),
        prefetch=table.values["prefetch"],
        read_latency=read_latency,
        write_latency=write_latency,
        modes=table.values.get("modes", ()),
        limits=table.values["limits"],
        preset=preset,
        coordinates=coordinates,
        unit_of=tuple(_units(command, levels, counts, coordinates) for command in table.commands.values()),
    )
    _check_refresh(chosen, device)
    for numbers in (device.coordinates, *device.unit_of):  # devices are shared
        numbers.flags.writeable = False
    return device


def _units(
    command: Command, levels: tuple[str, ...], counts: tuple[int, ...], coordinates: NDArray[np.int64]
) -> NDArray[np.int64]:
    unit = np.zeros(len(coordinates), dtype=np.int64)
    for level in range(levels.index(command.at) + 1):
        if levels[level] not in command.across:
            unit = unit * counts[level] + coordinates[:, level]
    return unit
