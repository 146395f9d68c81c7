"""Compute cores in the dies of a drive."""

from __future__ import annotations

from neardata.arch.config_file import StrictModel
from neardata.arch.errors import InputError, nearest
from neardata.arch.precision import Format
from neardata.arch.storage.flash import Positive, Whole


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
