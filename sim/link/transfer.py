"""Transfers over a link, and collective operations of ranks that are linked, in closed form.

A transfer takes ``startup + latency + wire bytes / (rate * fraction)``; wire bytes are the payload
and the overhead of each packet. Collectives run as rings or trees of steps, or with a protocol for
short data; the fastest is taken, as libraries do (NCCL, ``src/graph/tuning.cc``; Thakur et al.,
Optimization of Collective Communication Operations in MPICH, 2005).
"""

from __future__ import annotations

from math import ceil, log2

from neardata.arch.errors import InputError
from neardata.arch.link import Link
from neardata.arch.link.link import Collective


def wire_bytes(link: Link, bytes: int) -> int:
    """Bytes on the wire: the payload and each packet's overhead.

    >>> from neardata.arch.link import load_link
    >>> wire_bytes(load_link("pcie-4"), 1024)
    1128
    """
    return bytes + -(-bytes // link.payload_bytes) * link.overhead_bytes


def transfer_ps(link: Link, bytes: int, *, flows: int = 1) -> int:
    """One way, from the request until the last byte has arrived, ps.

    Args:
        link: what the bytes cross.
        bytes: payload; none takes no time.
        flows: transfers under way in this direction (in both, if the link is not duplex), equally
            long: on a shared link each has that part of the rate; on an exclusive one this is the
            last of them to go.

    Raises:
        InputError: a negative number of bytes, no flow.

    >>> from neardata.arch.link import load_link
    >>> transfer_ps(load_link("pcie-4"), 1 << 20) / 1e6
    45.44...
    """
    if bytes < 0:
        raise InputError(f"bytes must not be negative, got {bytes}")
    if flows < 1:
        raise InputError(f"flows must be at least 1, got {flows}")
    if not bytes:
        return 0
    begin_ns = link.startup_ns.value + link.latency_ns.value
    return round(begin_ns * 1000 + flows * _wire_ps(link, bytes, link.fraction.value))


def transfer_pj(link: Link, bytes: int) -> float:
    """Energy of a transfer, packet overhead included.

    >>> from neardata.arch.link import load_link
    >>> transfer_pj(load_link("on-package"), 244)
    512.0
    """
    return wire_bytes(link, bytes) * 8 * link.pj_per_bit.value


def send_recv(link: Link, bytes: int) -> int:
    """One rank sends to another, ps; see `transfer_ps`.

    >>> from neardata.arch.link import load_link
    >>> send_recv(load_link("nvlink-3"), 0)
    0
    """
    return transfer_ps(link, bytes)


def all_gather(link: Link, ranks: int, bytes: int) -> int:
    """Every rank ends with what all hold, ps.

    Args:
        link: of each rank.
        ranks: taking part.
        bytes: of the result; each rank holds a part of it.

    Raises:
        InputError: a negative number of bytes, no rank, a link without collectives.

    >>> from neardata.arch.link import load_link
    >>> all_gather(load_link("nvlink-3"), 1, 4096)
    0
    """
    collective = _collective(link, ranks, bytes)
    if ranks == 1 or not bytes:
        return 0
    return _fastest(link, collective, ((ranks - 1, (ranks - 1) / ranks * bytes),))


def all_reduce(link: Link, ranks: int, bytes: int) -> int:
    """Every rank ends with the sum of what all hold, ps.

    A ring sends ``2 (p - 1) / p`` of the bytes in ``2 (p - 1)`` steps; a tree all of them twice in
    ``2 ceil(log2 p)``.

    Args:
        link: of each rank.
        ranks: taking part.
        bytes: that each holds, and that the sum has.

    Raises:
        InputError: a negative number of bytes, no rank, a link without collectives.

    >>> from neardata.arch.link import load_link
    >>> link = load_link("nvlink-3")
    >>> all_reduce(link, 2, 1 << 24) < all_reduce(link, 8, 1 << 24)
    True
    """
    collective = _collective(link, ranks, bytes)
    if ranks == 1 or not bytes:
        return 0
    ring = (2 * (ranks - 1), 2 * (ranks - 1) / ranks * bytes)
    tree = (2 * ceil(log2(ranks)), 2.0 * bytes)
    return _fastest(link, collective, (ring, tree))


def _wire_ps(link: Link, bytes: float, fraction: float) -> float:
    packets = -(-bytes // link.payload_bytes)
    return (bytes + packets * link.overhead_bytes) * 1000 / (link.gb_per_s * fraction)


def _collective(link: Link, ranks: int, bytes: int) -> Collective:
    if bytes < 0:
        raise InputError(f"bytes must not be negative, got {bytes}")
    if ranks < 1:
        raise InputError(f"ranks must be at least 1, got {ranks}")
    if link.collective is None:
        raise InputError(f"{link.name} has no collectives; the ranks' links must give 'collective'")
    return link.collective


def _fastest(link: Link, collective: Collective, ways: tuple[tuple[int, float], ...]) -> int:
    """``ways``: steps, and bytes each rank sends in all."""
    fraction = collective.fraction.value
    times = []
    for steps, sent in ways:
        wire_ps = _wire_ps(link, sent, fraction)
        times.append(steps * collective.step_ns.value * 1000 + wire_ps)
        times.append(steps * collective.short_step_ns.value * 1000 + 2 * wire_ps)
    return round(collective.startup_ns.value * 1000 + min(times))
