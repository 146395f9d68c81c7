"""``--set key=value``: changes of a device and its controller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from neardata.arch.errors import InputError


@dataclass(frozen=True)
class Overrides:
    """What ``--set`` asked for."""

    device: dict[str, float] = field(default_factory=dict)
    """``timing.X``, ``organisation.X``, ``energy.X`` and ``command_energy_pj.X``, as
    `neardata.arch.dram.load_device` takes them."""
    controller: dict[str, str] = field(default_factory=dict)
    """Parameter names without ``controller.``, as `neardata.sim.dram.config.load_profile` takes them."""


def parse_overrides(settings: Sequence[str], *, mapping: str | None = None) -> Overrides:
    """Sort ``key=value`` settings.

    Args:
        mapping: the value of ``--mapping``, which sets ``controller.mapping`` too.

    Raises:
        InputError: not ``key=value``, a key set to two values, an unknown section.

    >>> parse_overrides(["timing.nFAW=20", "controller.page=closed"])
    Overrides(device={'timing.nFAW': 20}, controller={'page': 'closed'})
    """
    given: dict[str, str] = {} if mapping is None else {"controller.mapping": mapping}
    for setting in settings:
        key, equals, value = (part.strip() for part in setting.partition("="))
        if not equals or not key or not value:
            raise InputError(f"--set {setting}: expected key=value, such as timing.nFAW=20")
        if given.setdefault(key, value) != value:
            other = "--mapping" if key == "controller.mapping" and mapping is not None else "another --set"
            raise InputError(f"set to {value}, but to {given[key]} by {other}", key=key)
    overrides = Overrides()
    for key, value in given.items():
        section, _, name = key.partition(".")
        if section == "controller" and name:
            overrides.controller[name] = value
        elif section in ("timing", "organisation") and name:
            overrides.device[key] = _number(key, value, int, "an integer")
        elif section in ("energy", "command_energy_pj") and name:
            overrides.device[key] = _number(key, value, float, "a number")
        else:
            raise InputError(
                "a key begins with timing., organisation., energy., command_energy_pj. or controller.",
                key=key,
            )
    return overrides


def _number(key: str, value: str, kind: type[int] | type[float], called: str) -> float:
    try:
        if (
            not value.isascii() or "_" in value
        ):  # Python's int and float take more than numbers as people write them
            raise ValueError
        number = kind(value)
    except ValueError:
        raise InputError(f"must be {called}, got '{value}'", key=key) from None
    return number
