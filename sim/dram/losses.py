"""Where the cycles went: every cycle in which a data bus is idle, charged to a cause.

For each burst, the idle cycles before it are the time by which its column command came too
late. The rule that became satisfied last held it back, from an earlier command on:

- a burst of the same bus (tCCD_L, tWTR_S, tRTW ...): that rule is the cause;
- the command that opened or closed the row for it (tRCD, tRP): it would have moved along with
  its own cause, so the question passes on to it;
- another access's row command (tFAW, tRRD_L, tRC, tRAS ...): the rule is the cause of as many
  cycles as it is long, and the question passes on to that command for the rest;
- a refresh: all of the rest is *refresh*.

Cycles between the time a command could issue and did are *arbitration*. Where the chain ends at
the arrival of the request, the row's own latencies (tRCD, tRP) are charged first, then *no
request*; so are the cycles after the last burst. *Latency* is the way of the first burst from
its command to the bus. Busy and lost cycles sum to the total, always.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from neardata.arch.dram import Device, TimingRule
from neardata.sim.dram.command_log import CommandLog

Ints = NDArray[np.int64]

LATENCY, NO_REQUEST, ARBITRATION, REFRESH = "latency", "no request", "arbitration", "refresh"


@dataclass(frozen=True)
class LossReport:
    """Cycles (ticks) of one channel's data buses."""

    cycles: int
    """Length of the run; every bus has as many."""
    busy_cycles: tuple[int, ...]
    """Per data bus: cycles with a burst on it."""
    lost_cycles: tuple[dict[str, int], ...] = field(repr=False)
    """Per data bus: idle cycles by cause, the largest first."""

    @property
    def busy(self) -> int:
        """Busy cycles of all buses."""
        return sum(self.busy_cycles)

    @property
    def lost(self) -> dict[str, int]:
        """Idle cycles of all buses by cause, the largest first."""
        causes = {cause for bus in self.lost_cycles for cause in bus}
        return _largest_first({c: sum(bus.get(c, 0) for bus in self.lost_cycles) for c in causes})


class Losses:
    """The account of one channel, fed chunk by chunk in order of issue.

    >>> from neardata.arch.dram import load_device
    >>> ddr4 = load_device("ddr4-2400r")
    >>> rows = [(1, ddr4.command("ACT"), 0, 5, -1, 0), (17, ddr4.command("RD"), 0, 5, 0, 0)]
    >>> losses = Losses(ddr4)
    >>> losses.feed(CommandLog.from_rows(ddr4, np.array(rows)))
    >>> losses.finish(36).lost  # nRCD 16, nCL 16, burst 4
    {'latency': 16, 'tRCD': 16}
    """

    def __init__(self, device: Device) -> None:
        from neardata.sim.dram import losses_kernel as k

        self.device = device
        self._kernel = k
        self.causes, self._tables = _tables(device)
        slots, depth = self._tables[3], int(self._tables[3][:, k.MASK].sum() + len(self._tables[3]))
        del depth
        cells = int(slots[-1, k.BASE]) if len(slots) else 0
        fills = int(slots[-1, k.FILL]) if len(slots) else 0
        self._last = np.zeros((cells, 2), dtype=np.int64)
        self._fill = np.zeros(fills, dtype=np.int64)
        self._history = np.full((k.HISTORY, 3), -1, dtype=np.int64)
        self._bus_end = np.ones(device.n_data_buses, dtype=np.int64)
        self._account = np.zeros((device.n_data_buses, len(self.causes) + 1), dtype=np.int64)
        self._counters = np.zeros(1, dtype=np.int64)
