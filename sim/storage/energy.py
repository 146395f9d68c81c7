"""Energy of a run, from a drive's energy by action."""

from __future__ import annotations

from neardata.sim.storage.drive import SsdReport


def energy(report: SsdReport) -> dict[str, float]:
    """Picojoules by item."""
    e, c = report.ssd.energy, report.use.counts
    crossed = c["channel_bytes_in"] + c["channel_bytes_out"]
    reads = c["pages_read"] + c["copybacks"] + c["read_retries"]
    return {
        "page reads": reads * e.page_read_nj.value * 1e3,
        "page programs": (c["pages_programmed"] + c["copybacks"]) * e.page_program_nj.value * 1e3,
        "block erases": c["blocks_erased"] * e.block_erase_nj.value * 1e3,
        "channels": crossed * e.bus_pj_per_byte.value,
        "controller": crossed * e.controller_pj_per_byte.value,
        "host link": (report.bytes_read + report.bytes_written) * e.link_pj_per_byte.value,
        "die compute": c["bytes_computed"] * e.compute_pj_per_byte.value,
        "idle": e.idle_mw.value * report.time_ns,
    }
