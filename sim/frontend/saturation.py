"""What a front end sustains when more comes than it can take."""

from __future__ import annotations

from collections.abc import Sequence

from neardata.arch.errors import InputError
from neardata.sim.frontend.report import FrontEndReport

MIDDLE = (0.25, 0.75)
"""Of the batches in the order of their ends: without filling and draining."""


def saturated(report: FrontEndReport, middle: Sequence[float] = MIDDLE) -> float:
    """Requests a second of the middle of an overloaded run: those of the batches that end in it, over its
    time, from one end of a batch to another.

    Raises:
        InputError: fewer than eight batches, or a middle without length: too short to mean anything.

    >>> from neardata.sim.frontend import Batching, Request, serve_batches
    >>> flood = serve_batches([Request(0)] * 100, [], Batching(lambda b: 2, 0), 1, lambda n, longest: 10**12)
    >>> saturated(flood)
    2.0
    """
    ends = sorted((batch.done_ps, len(batch.requests)) for batch in report.batches)
    if len(ends) < 8:
        raise InputError(
            f"{len(ends)} batches are too few to tell a rate; serve more requests", key="requests"
        )
    first, last = (ends[int(part * (len(ends) - 1))][0] for part in middle)
    if first == last:
        raise InputError("the middle of the batches ends at one moment; serve more requests", key="requests")
    # batches that end together count together
    return sum(count for end, count in ends if first < end <= last) * 1e12 / (last - first)
