"""What the values of one device say about each other: timings, or currents, that cannot all be true.

A rule here holds for every device that JEDEC's names describe. Left out is what real tables break:

- ``nRC >= nRAS + nRP`` by one clock, since each of the three is rounded up to clocks by itself;
- intervals of refresh (``nREFI``, ``nREFIpb``, ``nREFIsb``): only that of the policy in use counts;
- ``nFAW >= 4 nRRDS``: a shorter window binds nothing, which sweeps may want to see.

0 is *no such rule* for ``nFAW`` and *no refresh* for ``nRFC`` (the tables of PIM simulators as built).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from neardata.arch.dram.expression import evaluate, names_in
from neardata.arch.dram.standard import IddEnergy

MOST = 1 << 30
"""Largest value of a timing."""

_AT_LEAST = (
    ("nRC", "nRAS + nRP - 1"),
    ("nRAS", "nRCD"),
    ("nRAS", "nRCDRD"),
    ("nRAS", "nRCDWR"),
    ("nFAW", "nRRDS"),
    ("nFAW", "nRRDL"),
    ("nRRDL", "nRRDS"),
    ("nCCDS", "nBL"),
    ("nCCDS", "nBL_min"),
    ("nCCDS_WR", "nBL"),
    ("nCCDS_WR", "nBL_min"),
    ("nCCDL", "nCCDS"),
    ("nCCDL_WR", "nCCDS_WR"),
    ("nWTRL", "nWTRS"),
    ("nBL_max", "nBL_min"),
    ("nRPab", "nRP"),
    ("nRFC", "nRC"),
    ("nRFC", "nRFCpb"),
    ("nRFC", "nRFCsb"),
    ("nRFCab", "nRC"),
    ("nRFCab", "nRFCpb"),
)
_MAY_BE_ZERO = ("nFAW", "nRFC")
_CLOCK_TOLERANCE = 0.01
"""Picoseconds are rounded: 570 for the 571.43 of GDDR6 at 14 Gb/s."""


@dataclass(frozen=True)
class Contradiction:
    """Values that cannot go together."""

    names: tuple[str, ...]
    """All that take part, the one to blame first."""
    message: str
    """About the first."""
    otherwise: str
    """The same, where another one of them was set."""


def contradictions(timing: Mapping[str, int], prefetch: int) -> Iterator[Contradiction]:
    """Everything about ``timing`` that cannot be.

    Args:
        prefetch: transfers of one burst on each data line.

    >>> [found] = contradictions({"nRC": 40, "nRAS": 39, "nRP": 16, "tCK_ps": 833}, prefetch=8)
    >>> found.message
    'must be at least nRAS + nRP - 1 = 54, got 40'
    """
    yield from _burst(timing, prefetch)
    for name, expression in _AT_LEAST:
        others = sorted(names_in(expression), key=expression.index)
        if not {name, *others} <= timing.keys() or (timing[name] == 0 and name in _MAY_BE_ZERO):
            continue
        least = evaluate(expression, timing)
        if timing[name] < least:
            yield Contradiction(
                (name, *others),
                f"must be at least {_equation(expression, least)}, got {timing[name]}",
                f"makes {_equation(expression, least)}, but {name} is {timing[name]} and must be at least"
                " that",
            )


def energy_contradictions(energy: IddEnergy) -> Iterator[Contradiction]:
    """Currents below the standby that they include: energies would be negative.

    >>> from neardata.arch.dram import load_device
    >>> list(energy_contradictions(load_device("ddr4-2400r").preset.energy))
    []
    """
    for standby, names in (
        ("IDD2N", ("IDD0", "IDD3N", "IDD5B")),
        ("IDD3N", ("IDD4R", "IDD4W")),
        ("IPP3N", ("IPP0",)),
    ):
        floor = getattr(energy, standby)
        for name in names:
            if (current := getattr(energy, name)) < floor:
                yield Contradiction(
                    (name, standby),
                    f"{current:g} mA is below the standby {standby} {floor:g} mA",
                    f"{floor:g} mA of standby is above {name} {current:g} mA",
                )


def _equation(expression: str, value: int) -> str:
    return f"{expression} = {value}"


def _burst(timing: Mapping[str, int], prefetch: int) -> Iterator[Contradiction]:
    """The clocks of a burst follow from the data rate."""
    if "rate" not in timing:
        return
    burst = "nBL_min" if "nBL_min" in timing else "nBL"
    names = (burst, "tCK_ps", "rate")
    exact = timing["rate"] * timing["tCK_ps"] / 1e6
    per_clock = round(exact)
    rates = f"rate {timing['rate']} MT/s and tCK_ps {timing['tCK_ps']} make {exact:.4g} transfers a clock"
    if per_clock < 1 or abs(exact - per_clock) > _CLOCK_TOLERANCE * per_clock:
        message = f"{rates}, which must be a whole number"
        yield Contradiction(("tCK_ps", "rate"), message, message)
    elif timing[burst] != (clocks := -(-prefetch // per_clock)):
        message = f"must be {clocks}, got {timing[burst]}: {rates}, a burst is {prefetch} transfers"
        yield Contradiction(
            names, message, f"{rates}, so {burst} must be {clocks}, not {timing[burst]}; set them together"
        )
