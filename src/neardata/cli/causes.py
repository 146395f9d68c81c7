"""What the causes of lost data-bus cycles mean, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neardata.arch.dram import Device

_WORDS = {
    "tFAW": "only four rows may be opened in any window of this length",
    "tRRD_S": "rows of different bank groups are opened at least this far apart",
    "tRRD_L": "rows of the same bank group are opened at least this far apart",
    "tRC": "a bank can open its next row only so soon after the last",
    "tRAS": "a row must have been open for so long before it is closed",
    "tRP": "closing a row before the next one can be opened",
    "tRCD": "opening a row before it can be accessed",
    "tRTP": "a row cannot be closed so soon after a read",
    "tWR": "a row cannot be closed so soon after a write",
    "tCCD_S": "bursts follow each other at this distance",
    "tCCD_L": "bursts of the same bank group follow each other at this distance",
    "tCCD_R": "bursts of different stack ranks follow each other at this distance",
    "tRTW": "the data bus turns around from reading to writing",
    "tWTR_S": "the data bus turns around from writing to reading",
    "tWTR_L": "the data bus turns around from writing to reading in the same bank group",
    "tCS": "the data bus changes from one rank to another",
    "tRFC": "refresh",
    "refresh": "banks are being refreshed",
    "arbitration": "a command was ready, and the scheduler held it back",
    "command bus": "commands wait while the command bus carries others",
    "clock edge": "commands wait for the next edge of the clock",
    "no request": "no request had arrived",
    "latency": "the first burst is on its way",
}
_OF_GROUP = {
    "turn-around": "the data bus changes direction or rank",
    "column": "bursts must keep a distance",
    "activation": "rows of different banks are opened at a distance",
    "row": "a bank is busy with opening or closing a row",
}


def in_words(device: Device, cause: str) -> str:
    """Half a sentence that explains a cause of lost cycles."""
    from neardata.sim.dram.losses import cause_groups

    if cause in _WORDS:
        return _WORDS[cause]
    return _OF_GROUP.get(cause_groups(device).get(cause, ""), "a timing rule of the device")
