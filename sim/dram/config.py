"""The memory controller's parameters, and named sets of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, ValidationError, model_validator

from neardata.arch.config_file import ConfigFile, StrictModel, first_problem
from neardata.arch.errors import InputError, nearest

PROFILES = Path(__file__).parent / "data" / "profiles.yaml"


class ControllerConfig(StrictModel):
    """How one channel's controller arbitrates."""

    scheduler: Literal["frfcfs", "frfcfs-rowhit"] = "frfcfs"
    """``frfcfs``: the oldest command that may issue, whatever it is. ``frfcfs-rowhit``: the
    same, but a row is not closed while an older request waits for it."""
    read_queue: PositiveInt = Field(default=32, le=4096)
    """Entries."""
    write_queue: PositiveInt = Field(default=32, le=4096)
    """Entries."""
    write_high: float = Field(default=0.8, ge=0, le=1)
    """Writes are drained once the write queue holds more than this share (or no read waits) ..."""
    write_low: float = Field(default=0.2, ge=0, le=1)
    """... until it holds less than this share and a read waits."""
    page: Literal["open", "closed", "timeout"] = "open"
    """When rows are closed: on a conflict; with the last waiting access to the row
    (auto-precharge); or after ``page_timeout`` cycles without access."""
    page_timeout: PositiveInt = Field(default=200, le=1 << 40)
    """Cycles."""
    refresh: Literal["none", "all-bank", "per-bank", "same-bank"] = "all-bank"
    device_table: Literal["corrected", "peer"] = "corrected"
    """``peer``: without the device's corrections, as the simulator a profile stands for has it."""
    mapping: str = "RoBaRaCoCh"
    """Name or bit-field order, see `neardata.arch.dram.mapping`."""

    @model_validator(mode="after")
    def _watermarks(self) -> Self:
        if self.write_low > self.write_high:
            raise ValueError(f"write_low {self.write_low} is above write_high {self.write_high}")
        return self


class Profile(StrictModel):
    """A named controller."""

    about: str
    controller: ControllerConfig


class _Profiles(StrictModel):
    profiles: dict[str, Profile]


@functools.cache
def _profiles() -> dict[str, Profile]:
    return ConfigFile(PROFILES).parse(_Profiles).profiles


def profile_names() -> list[str]:
    """Names of the controllers that ship with the package, the default first."""
    return list(_profiles())


def profile_about(name: str) -> str:
    """What a profile is, in a sentence."""
    return _profiles()[name].about


def load_profile(name: str, overrides: Mapping[str, Any] | None = None) -> ControllerConfig:
    """A named controller with some parameters changed.

    Args:
        name: one of `profile_names`.
        overrides: ``{"read_queue": 128}``; values may be strings.

    Raises:
        InputError: unknown profile or parameter, value out of range.
    """
    if name not in _profiles():
        raise InputError(f"unknown profile '{name}'{nearest(name, _profiles())}")
    data = _profiles()[name].controller.model_dump() | dict(overrides or {})
    try:
        return ControllerConfig.model_validate(data)
    except ValidationError as error:
        keys, message = first_problem(ControllerConfig, error, data)
        raise InputError(message, key=".".join(["controller", *map(str, keys)])) from None
