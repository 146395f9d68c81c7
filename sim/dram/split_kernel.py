"""Requests sorted by channel, a block at a time: each thread takes a block of its own."""

from __future__ import annotations

import numba


@numba.njit(cache=True, nogil=True)
def split(
    address, is_write, arrival, first, end, slices, low_bits, channels,
    start, channel, address_out, write_out, arrival_out, index_out,
):  # fmt: skip
    """Sort requests ``first`` to ``end`` by channel, in order within each.

    Args:
        slices: (k, 3) shift, mask and target of the channel's bits in an address.
        low_bits: bits of an address to clear.
        start: (channels + 1) out: where each channel's requests begin, and the end.
        channel: (n) room for the channels.
        address_out, write_out, arrival_out, index_out: the requests and their places, by channel.
            The last two, like ``arrival``, may be empty: not wanted.

    Returns:
        The least and the greatest address.
    """
    least = greatest = address[first]
    start[:] = 0
    for i in range(first, end):
        a = address[i]
        least, greatest = min(least, a), max(greatest, a)
        c = 0
        for s in range(slices.shape[0]):
            c ^= ((a >> slices[s, 0]) & slices[s, 1]) << slices[s, 2]
        c &= channels - 1  # an address beyond the memory is told by the caller
        channel[i] = c
        start[c + 1] += 1
    start[0] = first
    for c in range(channels):
        start[c + 1] += start[c]
    timed, indexed = len(arrival) > 0, len(index_out) > 0
    for i in range(first, end):
        c = channel[i]
        to = start[c]
        start[c] = to + 1
        address_out[to] = address[i] & ~low_bits
        write_out[to] = is_write[i]
        if timed:
            arrival_out[to] = arrival[i]
        if indexed:
            index_out[to] = i
    for c in range(channels, 0, -1):
        start[c] = start[c - 1]
    start[0] = first
    return least, greatest
