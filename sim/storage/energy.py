"""Energy of a run, from a drive's energy by action."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from neardata.arch.storage import Energy

if TYPE_CHECKING:
    from neardata.sim.storage.drive import SsdReport


def flash_pj(e: Energy, counts: Mapping[str, int]) -> dict[str, float]:
    """Picojoules by item of what flash, channels and dies did; reads that are retried sense a page each time.

    Args:
        counts: of `neardata.sim.storage.statistics.FlashUse`.
    """
    crossed = counts["channel_bytes_in"] + counts["channel_bytes_out"]
    reads = counts["pages_read"] + counts["copybacks"] + counts["read_retries"]
    return {
        "page reads": reads * e.page_read_nj.value * 1e3,
        "page programs": (counts["pages_programmed"] + counts["copybacks"]) * e.page_program_nj.value * 1e3,
        "block erases": counts["blocks_erased"] * e.block_erase_nj.value * 1e3,
        "channels": crossed * e.bus_pj_per_byte.value,
        "controller": crossed * e.controller_pj_per_byte.value,
        "die compute": counts["bytes_computed"] * e.compute_pj_per_byte.value,
    }


def energy(report: SsdReport) -> dict[str, float]:
    """Picojoules by item."""
    e = report.ssd.energy
    items = flash_pj(e, report.use.counts)
    compute = items.pop("die compute")
    return {
        **items,
        "host link": (report.bytes_read + report.bytes_written) * e.link_pj_per_byte.value,
        "die compute": compute,
        "idle": e.idle_mw.value * report.time_ns,
    }
