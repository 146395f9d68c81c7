"""What a kernel costs on a unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

NOTHING: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Time, reasons and energy of one kernel."""

    time_ps: int
    """From start to the last result."""
    bound_ps: int
    """The least time that the unit's peak rates allow: the roofline."""
    bound_by: str
    """What sets that least time: ``compute``, ``memory``, ``internal bandwidth``, ``link`` ..."""
    lost_ps: Mapping[str, int] = field(default_factory=dict)
    """Time above the bound by cause; with ``bound_ps`` it adds up to ``time_ps``."""
    energy_pj: Mapping[str, float] = field(default_factory=dict)
    """By component."""
    energy_untold: tuple[str, ...] = ()
    """Components without an energy: what ``energy_pj`` leaves out."""
    memory_bytes: int = 0
    """Bytes read and written in the unit's memory."""
    macs: int = 0
    """Multiply-accumulates executed."""
    interface_bytes: int = 0
    """Of the memory's bytes, those that cross the interface of a PIM memory."""
    row_accesses: int = 0
    """Computing commands on open rows, of PIM."""
    row_openings: int = 0
    """Of these, those that had a row opened for them."""

    def __post_init__(self) -> None:
        if self.bound_ps + sum(self.lost_ps.values()) != self.time_ps:
            raise AssertionError(
                f"{self.time_ps} ps are not {self.bound_ps} ps and the losses {dict(self.lost_ps)}"
            )
