"""Links: transfers and collectives."""

from __future__ import annotations

from neardata.arch.link import Link
from neardata.sim.link import all_gather, all_reduce, all_to_all, transfer_ps
from neardata.sim.program import Collective, Transfer
from neardata.sim.system.outcome import Outcome

_COLLECTIVES = {"all_reduce": all_reduce, "all_gather": all_gather, "all_to_all": all_to_all}


def transfer(link: Link, kernel: Transfer) -> Outcome:
    """Bytes from port to port, with the link to itself."""
    return _outcome(link, transfer_ps(link, kernel.bytes), kernel.bytes)


def collective(link: Link, kernel: Collective) -> Outcome:
    """An exchange among all units of the list."""
    n = len(kernel.units)
    return _outcome(link, *_COLLECTIVES[kernel.operation](link, kernel.bytes, n))


def _outcome(link: Link, time_ps: int, moved: int) -> Outcome:
    ideal = min(round(moved * 1e3 / link.bandwidth_gb_per_s), time_ps)
    lost = {"latency and packets": time_ps - ideal} if time_ps > ideal else {}
    return Outcome(time_ps, ideal, "link", lost, {"links": 8.0 * moved * 5}, moved, 0)
