"""Ways to do one product on a PIM device, from the fastest: `search`.

A mapping says how many of the channels work, into how many parts k is split over them (whose partial sums
are added elsewhere), and in which order a channel goes through its part of the matrix, short rows shared
or not. All are listed; each is bounded by what its MACs, rows and mode changes take at least; those whose
bound is not below the best time found are not simulated. Times are those of `PimEngine`, which a run of the
mapping would have, refresh at launch included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

from neardata.arch.dram import Device
from neardata.arch.errors import InputError
from neardata.arch.system.system import RefreshAtTasks
from neardata.sim.program import PimMatMul
from neardata.sim.system.pim import PimEngine
from neardata.sim.system.pim_programs import (
    device_of,
    least_cycles,
    macs_per_cycle,
    orders_of,
    program_of,
)

Cost = Callable[[PimMatMul], int]
"""Picoseconds that a processor takes for the product."""
Reduction = Callable[[int, int], int]
"""Picoseconds to add up so many parts of so many sums each."""

SUM_BYTES = 4
"""Of a partial sum."""


def over_the_bus(device: Device, channels: int) -> Reduction:
    """All partial sums cross the data buses of all channels at their peak rate, to be added behind them.

    >>> over_the_bus(device_of("gddr6-aim"), 32)(4, 4096)     # 65,536 bytes at 32 x 32 GB/s
    64000
    """
    rate = device.peak_gb_per_s * channels
    return lambda parts, sums: ceil(parts * sums * SUM_BYTES * 1000 / rate)


@dataclass(frozen=True)
class Candidate:
    """One way to do a product."""

    kernel: PimMatMul
    """The whole product, with the order."""
    device: str
    """A PIM device, or ``processor``."""
    channels: int = 0
    """Channels that work."""
    k_parts: int = 1
    """Parts of k, each on ``channels / k_parts`` channels."""
    bound_ps: int = 0
    """Least time, by count of commands and rows."""
    roofline_ps: int = 0
    """MACs at the peak rate of all channels there are."""
    time_ps: int | None = None
    """Simulated, reduction included; None: not simulated, or it does not fit."""
    reason: str = ""
    """Why it does not fit: level, tensor, bytes needed and there."""

    @property
    def gap(self) -> float | None:
        """Time over roofline."""
        return None if self.time_ps is None or not self.roofline_ps else self.time_ps / self.roofline_ps

    def __str__(self) -> str:
        """As a loop nest.

        >>> print(Candidate(PimMatMul(1, 512, 4096, "input-stationary"), "gddr6-aim", 8, 2, time_ps=4000))
        gddr6-aim, 4.0 ns: 2 parts of k side by side (2048 each)
          512 outputs over 4 channels each, input-stationary
        """
        time = self.reason or ("not simulated" if self.time_ps is None else f"{self.time_ps / 1e3:.1f} ns")
        if not self.channels:
            return f"{self.device}, {time}"
        each = -(-self.kernel.k // self.k_parts)
        parts = (
            f"{self.k_parts} parts of k side by side ({each} each)" if self.k_parts > 1 else "k in one part"
        )
        over = f"{self.channels // self.k_parts} channels each"
        return f"{self.device}, {time}: {parts}\n  {self.kernel.n} outputs over {over}, {self.kernel.order}"


def search(
    kernel: PimMatMul,
    device: Device | str,
    channels: int,
    *,
    refresh: RefreshAtTasks = "at-launch",
    processor: Cost | None = None,
    reduction: Reduction | None = None,
    tensor: str = "w",
) -> list[Candidate]:
    """All mappings, simulated ones first and from the fastest, then those not simulated by their bound,
    then those that do not fit.

    Args:
        kernel: its ``order``, if named, is the only one tried.
        device: of the unit, with its overrides; or the name of a preset as it is.
        channels: that there are.
        refresh: of the unit.
        processor: cost of the product elsewhere; it is listed like a mapping.
        reduction: cost of adding the partial sums of parts of k (default: `over_the_bus`).
        tensor: name of the matrix, for reasons.

    Raises:
        InputError: a size below 1, a device without generator, an unknown order.

    >>> best, *others = search(PimMatMul(1, 512, 1024), "gddr6-aim", 4)
    >>> best.channels, best.k_parts, best.kernel.order, best.time_ps, round(best.gap, 1)
    (4, 1, 'input-stationary', 1244500, 2.4)
    """
    if min(kernel.m, kernel.n, kernel.k, channels) < 1:
        raise InputError(f"sizes must be at least 1, got {kernel} on {channels} channels")
    model = device_of(device)
    reduction = reduction or over_the_bus(model, channels)
    roofline = round(kernel.macs / (macs_per_cycle(model) * channels) * model.tick_ps)
    done: list[Candidate] = []
    if processor is not None:
        time = processor(kernel)
        done.append(Candidate(kernel, "processor", bound_ps=time, roofline_ps=roofline, time_ps=time))
    best = done[0].time_ps if done else None
    waiting: list[Candidate] = []
    unfit: list[Candidate] = []
    for candidate in sorted(
        (replace(c, roofline_ps=roofline) for c in _mappings(kernel, model, channels, refresh, reduction)),
        key=lambda c: c.bound_ps,
    ):
        if best is not None and candidate.bound_ps >= best:
            waiting.append(candidate)
            continue
        try:
            result = _simulated(candidate, model, refresh, reduction)
        except InputError as error:
            if error.key != "banks":
                raise
            unfit.append(
                replace(candidate, reason=f"banks of '{model.name}', tensor '{tensor}': {error.message}")
            )
            continue
        done.append(result)
        assert result.time_ps is not None
        best = result.time_ps if best is None else min(best, result.time_ps)
    fits = [c for c in waiting if not _does_not_fit(c, model, tensor, unfit)]
    return sorted(done, key=lambda c: c.time_ps or 0) + fits + unfit


def _mappings(
    kernel: PimMatMul, device: Device, channels: int, refresh: RefreshAtTasks, reduction: Reduction
) -> Iterator[Candidate]:
    for used in _divisors(channels):
        for parts in _divisors(used):
            if parts > kernel.k:
                continue
            part = replace(kernel, k=-(-kernel.k // parts))
            engine = PimEngine(device, used // parts, refresh)
            orders: Sequence[str] = (kernel.order,) if kernel.order else orders_of(device, part.k)
            for order in orders:
                cycles = least_cycles(replace(part, order=order), device, used // parts) + engine.launch_ticks
                least = int(cycles * device.tick_ps) + _reduced(kernel, parts, reduction)
                yield Candidate(replace(kernel, order=order), device.name, used, parts, least)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _reduced(kernel: PimMatMul, parts: int, reduction: Reduction) -> int:
    return reduction(parts, kernel.m * kernel.n) if parts > 1 else 0


def _part(candidate: Candidate) -> PimMatMul:
    return replace(candidate.kernel, k=-(-candidate.kernel.k // candidate.k_parts))


def _simulated(
    candidate: Candidate, device: Device, refresh: RefreshAtTasks, reduction: Reduction
) -> Candidate:
    """The largest part; the others end no later."""
    engine = PimEngine(device, candidate.channels // candidate.k_parts, refresh)
    time = engine.run(_part(candidate)).time_ps
    return replace(candidate, time_ps=time + _reduced(candidate.kernel, candidate.k_parts, reduction))


def _does_not_fit(candidate: Candidate, device: Device, tensor: str, unfit: list[Candidate]) -> bool:
    """Whether a mapping that was not simulated fits at all; if not, it is listed as such."""
    try:
        program_of(_part(candidate), device, candidate.channels // candidate.k_parts)
    except InputError as error:
        unfit.append(
            replace(candidate, reason=f"banks of '{device.name}', tensor '{tensor}': {error.message}")
        )
        return True
    return False
