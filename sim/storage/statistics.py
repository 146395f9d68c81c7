"""What the flash did, and what its channels waited for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neardata.arch.storage import Ssd
from neardata.sim.storage import fields as f
from neardata.sim.storage.tables import FlashTables

CAUSES = {
    "no transaction": f.LOST_NONE,
    "array read": f.LOST_READ,
    "array program": f.LOST_PROGRAM,
    "array erase": f.LOST_ERASE,
    "die compute": f.LOST_COMPUTE,
    "too few in flight": f.LOST_FEW,
}
"""Why a channel's bus was idle: what the transfer after the pause had waited for."""
COUNTS = {
    "read_commands": f.READ_COMMANDS,
    "multi_plane_reads": f.MULTI_READS,
    "pages_read": f.PAGES_READ,
    "program_commands": f.PROGRAM_COMMANDS,
    "multi_plane_programs": f.MULTI_PROGRAMS,
    "pages_programmed": f.PAGES_PROGRAMMED,
    "erase_commands": f.ERASES,
    "blocks_erased": f.BLOCKS_ERASED,
    "copybacks": f.COPYBACKS,
    "read_computes": f.COMPUTES,
    "suspensions": f.SUSPENSIONS,
    "read_retries": f.RETRIED,
    "slices": f.SLICES,
    "channel_bytes_out": f.BYTES_OUT_SUM,
    "channel_bytes_in": f.BYTES_IN_SUM,
    "bytes_computed": f.BYTES_COMPUTED,
}


@dataclass(frozen=True, eq=False)
class FlashUse:
    """Counts, and shares of the run's time."""

    counts: dict[str, int]
    channel_busy: dict[str, NDArray[np.float64]]
    """Shares of the time each channel's bus carried ``command``, ``data in`` and ``data out``."""
    unit_busy: dict[str, NDArray[np.float64]]
    """Shares of the time each die (or chip, or independent plane) spent on ``read``, ``program``, ``erase``
    and ``compute``."""
    lost: dict[str, float]
    """Idle bus time by cause: shares of all channels' time."""

    @property
    def channel_share(self) -> float:
        """Mean share of time that a channel's bus was busy."""
        return float(sum(share.mean() for share in self.channel_busy.values()))

    @property
    def unit_share(self) -> float:
        """Mean share of time that a die's array was busy."""
        return float(sum(self.unit_busy[k].mean() for k in ("read", "program", "erase")))

    @property
    def commands(self) -> int:
        """Flash commands: single- and multi-plane ones counted once."""
        c = self.counts
        return c["read_commands"] + c["program_commands"] + c["erase_commands"] + c["copybacks"]


def flash_use(ssd: Ssd, tables: FlashTables, end: int) -> FlashUse:
    """Read the counters after a run that ended at tick ``end``."""
    c, u, time = tables.c, tables.u, max(end, 1)
    idle = np.where(c[:, f.BUS] == f.BUS_IDLE, end - c[:, f.IDLE_SINCE], 0)
    lost = {name: float(c[:, column].sum()) for name, column in CAUSES.items()}
    lost["no transaction"] += float(idle.sum())
    whole = time * len(c)
    busy = {"command": f.BUSY_COMMAND, "data in": f.BUSY_IN, "data out": f.BUSY_OUT}
    work = {
        "read": f.BUSY_READ, "program": f.BUSY_PROGRAM, "erase": f.BUSY_ERASE, "compute": f.BUSY_COMPUTE,
    }  # fmt: skip
    return FlashUse(
        {name: int(tables.g[column]) for name, column in COUNTS.items()},
        {name: c[:, column] / time for name, column in busy.items()},
        {name: u[:, column] / time for name, column in work.items()},
        {name: value / whole for name, value in sorted(lost.items(), key=lambda item: -item[1]) if value},
    )
