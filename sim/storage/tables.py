"""A drive's description as the tables that the flash kernel works on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neardata.arch.storage import Ssd
from neardata.sim.storage import fields as f
from neardata.sim.storage.clock import Clock

Table = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FlashTables:
    """State of the flash of a drive at rest; the kernels change it."""

    clock: Clock
    units: int
    """Of a channel."""
    x: Table
    u: Table
    c: Table
    p: Table
    t: Table
    g: Table
    h: Table
    done: Table


def units_per_channel(ssd: Ssd) -> int:
    """What executes array commands on a channel: chips (compat), dies, or independent planes."""
    flash = ssd.flash
    if ssd.compat.one_die_a_chip:
        return flash.chips_per_channel
    return (
        flash.chips_per_channel
        * flash.dies_per_chip
        * (flash.planes_per_die if flash.independent_planes else 1)
    )


def flash_tables(ssd: Ssd, transactions: int, *, seed: int = 1) -> FlashTables:
    """Tables for so many transactions at a time."""
    flash, bus, compat = ssd.flash, ssd.bus, ssd.compat
    clock = Clock.of(bus.mt_per_s)
    units = units_per_channel(ssd)
    independent = flash.independent_planes and not compat.one_die_a_chip
    planes = 1 if independent else flash.planes_per_die

    p = np.zeros(f.PARAMETERS, np.int64)
    p[f.UNITS], p[f.PLANES] = units, planes
    p[f.MULTI_PLANE], p[f.SAME_PAGE] = flash.multi_plane and planes > 1, flash.same_page
    p[f.CACHE_READ] = flash.cache_read and not compat.one_die_a_chip
    p[f.CACHE_MOVE] = clock.ticks(flash.cache_read_ns) if p[f.CACHE_READ] else 0
    p[f.COMMAND_FIRST] = ssd.controller.first_on_bus == "command" and not compat.one_die_a_chip
    if not compat.no_suspend:
        p[f.SUSPENDS] = {"none": 0, "program": 1, "erase": 2, "both": 3}[flash.suspend]
    p[f.SUSPEND_PROGRAM] = clock.ticks(flash.suspend_program_ns)
    p[f.SUSPEND_ERASE] = clock.ticks(flash.suspend_erase_ns)
    p[f.LEAST_PROGRAM] = clock.ticks(flash.suspend_program_left_ns)
    p[f.LEAST_ERASE] = clock.ticks(flash.suspend_erase_left_ns)
    p[f.PER_TRANSFER], p[f.WIDTH] = clock.per_transfer, bus.width_bits // 8
    p[f.TWO_BYTES] = 2 * clock.ticks(1000 // bus.mt_per_s) if compat.truncated_rate else f.NONE
    p[f.OUT_SETUP] = clock.ticks(bus.data_out_ns)
    p[f.GC_FIRST] = ssd.gc.first
    p[f.SPARE], p[f.PAGE_BYTES] = flash.spare_bytes if bus.spare_on_bus else 0, flash.page_bytes
    p[f.CHIP_WHOLE] = compat.one_die_a_chip
    thresholds = [0]
    if ssd.ecc is not None:
        p[f.DECODE] = clock.ticks(ssd.ecc.decode_ns)
        if ssd.ecc.fails:
            p[f.RETRIES] = ssd.ecc.retries
            thresholds = [
                int(ssd.ecc.retry_probability(flash.page_bytes, attempt) * (2**63 - 1))
                for attempt in range(ssd.ecc.retries)
            ]

    t = np.zeros((f.TIMING_ROWS, f.T_COLUMNS), np.int64)
    for kind in range(flash.types):
        t[f.T_READ, kind] = clock.ticks(flash.read_ns[min(kind, len(flash.read_ns) - 1)])
        t[f.T_PROGRAM, kind] = clock.ticks(flash.program_ns[min(kind, len(flash.program_ns) - 1)])
    for n in range(1, planes + 1):
        t[f.T_READ_COMMAND, n] = clock.ticks(bus.read_command_ns(n))
        t[f.T_PROGRAM_COMMAND, n] = clock.ticks(bus.program_command_ns(n))
        t[f.T_ERASE_COMMAND, n] = clock.ticks(bus.erase_command_ns(n))
    t[f.T_ERASE, 0] = clock.ticks(flash.erase_ns)
    t[f.T_RETRY, : len(thresholds)] = thresholds

    n_units = flash.channels * units
    u = np.zeros((n_units, f.UNIT_COLUMNS), np.int64)
    u[:, f.CHANNEL], u[:, f.LOCAL] = np.divmod(np.arange(n_units), units)
    u[:, f.SUSPENDED] = f.NONE
    u[:, f.READY_AT] = f.NONE
    u[:, f.HEADS :] = f.NONE
    c = np.zeros((flash.channels, f.CHANNEL_COLUMNS), np.int64)
    c[:, f.OUT_HEADS : f.COPY_TAIL + 1] = f.NONE
    g = np.zeros(f.COUNTERS, np.int64)
    g[f.DRAWS] = seed << 32
    return FlashTables(
        clock, units, np.zeros((transactions, f.TX_COLUMNS), np.int64), u, c, p, t, g,
        np.zeros((flash.channels + 6 * n_units + transactions + 16, 2), np.int64),
        np.zeros(transactions + 1, np.int64),
    )  # fmt: skip
