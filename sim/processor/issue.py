"""Kernels that a host issues one by one, running ahead of the device or being waited for."""

from __future__ import annotations

from collections.abc import Iterable


def issued_ps(kernels_ps: Iterable[int], issue_ps: int) -> int:
    """Time until the last kernel ends; each begins when it is issued and the one before has ended.

    Args:
        kernels_ps: of each kernel on the device, in order.
        issue_ps: of the host for each, one after the other.

    >>> issued_ps([5, 5, 5], 10), issued_ps([30, 5, 5], 10)
    (35, 50)
    """
    issued = end = 0
    for kernel_ps in kernels_ps:
        issued += issue_ps
        end = max(end, issued) + kernel_ps
    return end
