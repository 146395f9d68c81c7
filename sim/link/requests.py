"""Blocking requests over a link: the time of the host before the bytes move."""

from __future__ import annotations

from math import ceil

from neardata.arch.errors import InputError
from neardata.arch.link import Link
from neardata.sim.link.transfer import transfer_ps


def blocking_request_ps(
    link: Link, bytes: int, request_ns: float, page_ns: float, page_bytes: int, piece_bytes: int
) -> int:
    """Time of one read or write that the caller waits for, ps.

    A request costs ``request_ns`` once. Memory is made ready page by page, a piece at a time; while a piece
    crosses the link the next one is made ready. With pieces of n pages and m bytes::

        request + n page + (k - 1) max(n page, m / rate) + m / rate

    Args:
        piece_bytes: most that is made ready before it is sent.

    Raises:
        InputError: nothing to move, pages or pieces of no bytes.

    >>> from neardata.arch.link import load_link
    >>> link = load_link("smartssd-p2p-read")
    >>> 131072 / blocking_request_ps(link, 131072, 43220, 678.3, 4096, 1 << 20) * 1e3
    1.09...
    """
    if bytes < 1 or page_bytes < 1 or piece_bytes < 1:
        raise InputError(
            f"bytes, pages and pieces must be at least 1, got {bytes}, {page_bytes}, {piece_bytes}"
        )
    ready = moved = 0
    for start in range(0, bytes, piece_bytes):
        part = min(piece_bytes, bytes - start)
        ready += ceil(((request_ns if start == 0 else 0) + -(-part // page_bytes) * page_ns) * 1000)
        moved = max(moved, ready) + transfer_ps(link, part)
    return moved
