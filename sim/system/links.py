"""Links: transfers and collectives."""

from __future__ import annotations

from neardata.arch.link import Link
from neardata.sim.link import all_gather, all_reduce, transfer_pj, transfer_ps, wire_bytes
from neardata.sim.program import Collective, Transfer
from neardata.sim.system.outcome import Outcome


def transfer(link: Link, kernel: Transfer) -> Outcome:
    """Bytes from port to port, with the link to itself."""
    return _outcome(link, transfer_ps(link, kernel.bytes), kernel.bytes, kernel.bytes, 1)


def collective(link: Link, kernel: Collective) -> Outcome:
    """An exchange among all units of the list; its least time is that of the bytes each must send."""
    n = len(kernel.units)
    if kernel.operation == "all_reduce":
        return _outcome(
            link, all_reduce(link, n, kernel.bytes), kernel.bytes, 2 * kernel.bytes * (n - 1) // n, n
        )
    return _outcome(link, all_gather(link, n, kernel.bytes), kernel.bytes, kernel.bytes * (n - 1) // n, n)


def _outcome(link: Link, time_ps: int, bytes: int, sent: int, ports: int) -> Outcome:
    """``sent``: bytes each of ``ports`` ports must send."""
    ideal = min(round(wire_bytes(link, sent) * 1e3 / link.gb_per_s), time_ps)
    lost = {"link latency": time_ps - ideal} if time_ps > ideal else {}
    return Outcome(
        time_ps=time_ps,
        bound_ps=ideal,
        bound_by="link rate",
        lost_ps=lost,
        energy_pj={"links": transfer_pj(link, sent) * ports},
        memory_bytes=bytes,
        macs=0,
    )
