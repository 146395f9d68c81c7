"""A DRAM or PIM device ready to simulate: a preset resolved against its standard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from neardata.arch.dram.standard import Command, Organisation, Preset
from neardata.arch.errors import InputError, nearest


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


@dataclass(frozen=True, eq=False)
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
    limits: tuple[str, ...]
    """What the standard says and the table does not."""
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

    def nodes_of(self, command: int, level: int) -> NDArray[np.int64]:
        """(units, k): nodes of ``level`` that each unit of ``command`` has banks in."""
        pairs = np.unique(np.stack([self.unit_of[command], self.node_of(level)], axis=1), axis=0)
        return pairs[:, 1].reshape(self.n_units(command), -1)
