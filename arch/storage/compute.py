"""Compute cores in the dies of a drive."""

from __future__ import annotations

from math import isqrt, log2

from neardata.arch.config_file import StrictModel
from neardata.arch.errors import InputError, nearest
from neardata.arch.precision import Format
from neardata.arch.storage.flash import Bus, Flash, Positive, Whole


class DieCompute(StrictModel):
    """A core beside the registers of each die, shared by its planes: it multiplies a page with a vector."""

    gops: dict[str, Positive]
    """10^9 operations/s of a core by type of the weights; a multiply-accumulate is two."""
    result_bits: Whole | None = None
    """Of a sum on its way out; None: as wide as the activations."""
    source: str

    def ns_of(self, macs: int, weights: str) -> float:
        """Time of a core.

        Raises:
            InputError: it does not multiply such weights.
        """
        dtype = Format.parse(weights).dtype
        if dtype not in self.gops:
            raise InputError(f"the cores in the dies do not multiply '{dtype}'{nearest(dtype, self.gops)}")
        return 2 * macs / self.gops[dtype]

    def result_bytes(self, sums: int, activations: str) -> int:
        """Bytes of so many sums on the channel."""
        bits = self.result_bits or Format.parse(activations).bits
        return -(-sums * bits // 8)


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


def share_of_dies(flash: Flash, bus: Bus, columns: int, weights: str, activations: str) -> float:
    """Share of a matrix that dies multiply while the rest streams out (arXiv 2409.15654 Sec. V).

    ``t_rc = tR + W / (channels * bw)`` of a round of all dies, ``t_r`` of as many pages over the channels, of
    which vectors and sums leave ``1 - rate``: the share is ``t_r / (t_r + t_rc)``.

    >>> from neardata.arch.storage import load_ssd
    >>> for size, columns in (("s", 256), ("m", 256), ("l", 512)):
    ...     drive = load_ssd(f"cambricon-llm-{size}")
    ...     print(round(share_of_dies(drive.flash, drive.bus, columns, "int8", "int8"), 3))
    0.688
    0.816
    0.899
    """
    cores = flash.chips_per_channel * flash.dies_per_chip
    rows = cores * (page_weights(flash, weights) // columns)
    form = Format.parse(activations)
    vector_ns, sums_ns = (form.bytes_of(n) / bus.gb_per_s for n in (columns, rows))
    round_ns = flash.read_ns[0] + vector_ns
    left = 1 - (vector_ns + sums_ns) / round_ns
    if left <= 0:
        return 1.0
    stream_ns = cores * flash.page_bytes / bus.gb_per_s / left
    return stream_ns / (stream_ns + round_ns)
