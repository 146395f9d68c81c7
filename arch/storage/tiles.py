"""How matrices fill the pages of drives that multiply in their dies."""

from __future__ import annotations

from math import isqrt, log2

from neardata.arch.precision import Format
from neardata.arch.storage.flash import Flash
from neardata.arch.storage.ssd import Ssd


def page_weights(flash: Flash, weights: str) -> int:
    """Weights that a page holds, their scales included.

    >>> from neardata.arch.storage import load_ssd
    >>> flash = load_ssd("cambricon-llm-s").flash
    >>> page_weights(flash, "int8"), page_weights(flash, "int4"), page_weights(flash, "int4/g32")
    (16384, 32768, 29120)
    """
    form = Format.parse(weights)
    if form.group is None:
        return flash.page_bytes * 8 // form.bits
    return flash.page_bytes // form.bytes_of(form.group) * form.group


def balanced_columns(flash: Flash, weights: str) -> int:
    """Columns of a matrix that a page should hold so that a channel carries least: as many come in as
    sums go out (arXiv 2409.15654 Sec. V: H = sqrt(cores * page), W = channels * H), rounded down to a
    power of two.

    >>> from neardata.arch.storage import load_ssd
    >>> [balanced_columns(load_ssd(f"cambricon-llm-{size}").flash, "int8") for size in "sml"]
    [256, 256, 512]
    """
    cores = flash.chips_per_channel * flash.dies_per_chip
    return 1 << int(log2(isqrt(cores * page_weights(flash, weights))))


def multiplying_gb_per_s(ssd: Ssd) -> float:
    """Peak at which a matrix goes through dies and channels together, 10^9 bytes/s: a plane of every die that
    has a core, and what the channels carry beside it.

    >>> from neardata.arch.storage import load_ssd
    >>> [round(multiplying_gb_per_s(load_ssd(f"cambricon-llm-{size}")), 1) for size in "sml"]
    [25.5, 85.9, 311.6]
    """
    flash = ssd.flash
    dies = flash.dies * flash.page_bytes / min(flash.read_ns) if ssd.compute is not None else 0.0
    return dies + flash.channels * ssd.bus.gb_per_s


def share_of_dies(ssd: Ssd, columns: int, weights: str, activations: str, vectors: int = 1) -> float:
    """Share of a matrix that dies multiply while the rest streams out (arXiv 2409.15654 Sec. V).

    ``t_rc = tR + W / (channels * bw)`` of a round of all dies, ``t_r`` of as many pages over the channels, of
    which vectors and sums leave ``1 - rate``: the share is ``t_r / (t_r + t_rc)``. Where cores take longer
    than tR, as for several vectors, they are what a round waits for.

    >>> from neardata.arch.storage import load_ssd
    >>> for size, columns in (("s", 256), ("m", 256), ("l", 512)):
    ...     print(round(share_of_dies(load_ssd(f"cambricon-llm-{size}"), columns, "int8", "int8"), 3))
    0.688
    0.816
    0.899
    """
    if ssd.compute is None:
        return 0.0
    flash, bus, held = ssd.flash, ssd.bus, page_weights(ssd.flash, weights)
    cores = flash.chips_per_channel * flash.dies_per_chip
    rows = cores * (held // columns)
    form = Format.parse(activations)
    vector_ns, sums_ns = (form.bytes_of(vectors * n) / bus.gb_per_s for n in (columns, rows))
    round_ns = max(flash.read_ns[0], ssd.compute.ns_of(vectors * held, weights)) + vector_ns
    left = 1 - (vector_ns + sums_ns) / round_ns
    if left <= 0:
        return 1.0
    stream_ns = cores * flash.page_bytes / bus.gb_per_s / left
    return stream_ns / (stream_ns + round_ns)
