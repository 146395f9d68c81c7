"""How links behave in time."""

from neardata.sim.link.transfer import (
    all_gather,
    all_reduce,
    send_recv,
    transfer_pj,
    transfer_ps,
    wire_bytes,
)

__all__ = ["all_gather", "all_reduce", "send_recv", "transfer_pj", "transfer_ps", "wire_bytes"]
