"""What a command program did, and where its time went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from neardata.arch.dram import Device
from neardata.sim.dram.command_log import CommandLog
from neardata.sim.dram.energy import EnergyReport, energy
from neardata.sim.dram.program import Program, RefreshPolicy


@dataclass(frozen=True)
class HostReport:
    """What the ordinary requests of one channel saw."""

    requests: int
    reads: int
    writes: int
    arrival: NDArray[np.int64]
    """(requests,) ticks."""
    depart: NDArray[np.int64]
    """(requests,) ticks at which the burst of each is over."""
    alone_cycles: int
    """Ticks the program takes without them."""

    @property
    def latency_cycles(self) -> NDArray[np.int64]:
        """(requests,) ticks from arrival to the end of the burst."""
        return self.depart - self.arrival


@dataclass(frozen=True)
class ChannelReport:
    """One channel of a group; all channels of the group do the same."""

    name: str
    channels: int
    cycles: int
    """Ticks from the first to the last: commands off the bus, data in, fences and waits over."""
    command_counts: Mapping[str, int]
    refreshes: int
    phase_cycles: Mapping[str, int]
    """Ticks by which each phase's commands moved the clock; "" is what lies outside phases."""
    busy_cycles: int
    """Ticks the command bus was held."""
    lost_cycles: Mapping[str, int]
    """Ticks between the bus being free and the next command, by what the command waited for: a
    timing rule, ``fence``, ``wait``, ``clock edge``, ``refresh due``, ``host arrival``, and
    ``drain`` after the last. With ``busy_cycles`` they add up to ``cycles``."""
    open_cycles: int
    """Ticks with at least one open bank, summed over the refresh units. A row that an auto-precharge
    closes is open until the device may precharge it."""
    internal_bytes: int
    """Bytes the processing units took from, or put into, open rows: a burst per bank a command."""
    external_bytes: int
    """Bytes over the data bus, host requests included."""
    jumped_periods: int
    """Periods that were skipped over because the state recurred."""
    host: HostReport | None
    command_log: CommandLog | None = field(repr=False)


@dataclass(frozen=True)
class ProgramReport:
    """The result of a program."""

    program: Program
    device: Device
    refresh: RefreshPolicy
    groups: tuple[ChannelReport, ...]
    partial: bool = False
    """Interrupted: the figures are of what was simulated until then."""

    @property
    def slowest(self) -> ChannelReport:
        """The group that ends last."""
        return max(self.groups, key=lambda group: group.cycles)

    @property
    def channels(self) -> int:
        """Channels of all groups."""
        return sum(group.channels for group in self.groups)

    @property
    def cycles(self) -> int:
        """Ticks until the last channel is done."""
        return self.slowest.cycles

    @property
    def time_ns(self) -> float:
        """`cycles` in nanoseconds."""
        return self.cycles * self.device.tick_ps / 1e3

    @property
    def phase_cycles(self) -> Mapping[str, int]:
        """Of the slowest group."""
        return self.slowest.phase_cycles

    @property
    def lost_cycles(self) -> Mapping[str, int]:
        """Of the slowest group."""
        return self.slowest.lost_cycles

    @property
    def command_counts(self) -> dict[str, int]:
        """Of all channels."""
        counts: dict[str, int] = {}
        for group in self.groups:
            for name, n in group.command_counts.items():
                counts[name] = counts.get(name, 0) + n * group.channels
        return counts

    @property
    def commands(self) -> int:
        """Commands of all channels."""
        return sum(self.command_counts.values())

    @property
    def refreshes(self) -> int:
        """Of all channels."""
        return sum(group.refreshes * group.channels for group in self.groups)

    @property
    def internal_bytes(self) -> int:
        """Of all channels."""
        return sum(group.internal_bytes * group.channels for group in self.groups)

    @property
    def external_bytes(self) -> int:
        """Of all channels."""
        return sum(group.external_bytes * group.channels for group in self.groups)

    @property
    def internal_gb_per_s(self) -> float:
        """`internal_bytes` over the time of the run, decimal GB/s."""
        return self.internal_bytes / self.time_ns if self.cycles else 0.0

    @property
    def energy(self) -> EnergyReport | None:
        """Of all channels; None for a device without energy values."""
        opened = sum(group.open_cycles * group.channels for group in self.groups)
        return energy(self.device, self.command_counts, opened, self.cycles, self.channels)

    @property
    def jumped_periods(self) -> int:
        """Of the groups that were simulated."""
        return sum(group.jumped_periods for group in self.groups)
