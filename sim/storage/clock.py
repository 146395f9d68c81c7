"""Time in ticks that divide both a picosecond and the transfer of a byte."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

PS_PER_NS = 1000


@dataclass(frozen=True)
class Clock:
    """The time base of a channel rate: a whole number of ticks to the ps and to the transfer.

    >>> clock = Clock.of(1866)
    >>> clock.per_ps, clock.per_transfer  # 500,000 ticks of 1/933 ps: 535.905... ps
    (933, 500000)
    >>> Clock.of(1200).per_transfer / Clock.of(1200).per_ps < Clock.of(1000).per_transfer
    True
    """

    per_ps: int
    per_transfer: int

    @classmethod
    def of(cls, mt_per_s: int) -> Clock:
        common = gcd(mt_per_s, 10**6)
        return cls(mt_per_s // common, 10**6 // common)

    def ticks(self, ns: float) -> int:
        """Of a time, to the nearest ps."""
        return round(ns * PS_PER_NS) * self.per_ps

    def ns(self, ticks: int) -> float:
        return ticks / (PS_PER_NS * self.per_ps)

    @property
    def per_ns(self) -> int:
        return PS_PER_NS * self.per_ps
