"""Quantities with a fitting prefix, for people."""

from __future__ import annotations


def si_time(ns: float) -> str:
    """
    >>> si_time(570333.0)
    '570.3 µs'
    """
    return _prefixed(ns, (("s", 1e9), ("ms", 1e6), ("µs", 1e3), ("ns", 1.0)))


def si_energy(pj: float) -> str:
    """
    >>> si_energy(2.5e9)
    '2.5 mJ'
    """
    return _prefixed(pj, (("J", 1e12), ("mJ", 1e9), ("µJ", 1e6), ("nJ", 1e3), ("pJ", 1.0)))


def rate(value: float) -> str:
    """A number per second: three digits at least.

    >>> rate(3.8123), rate(1234.5)
    ('3.81', '1,234')
    """
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def _prefixed(value: float, units: tuple[tuple[str, float], ...]) -> str:
    unit, size = next((u for u in units if value >= u[1]), units[-1])
    return f"{value / size:.4g} {unit}"
