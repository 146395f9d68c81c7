"""Ways to do a product on a PIM device, from the fastest: `search`.

A form says how many of the channels work, into how many parts k is split over them, who adds their partial
sums (of those that can: the processor or the device), and in which order a channel goes through its part of
the matrix, short rows shared or not. All are listed; each is bounded by what its MACs, rows and mode changes
take at least; those whose bound is not below the best time found are not simulated. Times are those of
`PimEngine`, which a run of the form has, refresh at launch included. Simulated times are remembered by shape,
device and channels.

Products of several vectors with one matrix, or with one for each expert, have the matrix where it lies, so
that one form is sought for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil

from neardata.arch.dram import Device
from neardata.arch.errors import InputError
from neardata.arch.system.system import RefreshAtTasks
from neardata.mappers.products import ProductForm
from neardata.sim.program import PimMatMul
from neardata.sim.system.pim import PimEngine, bus_ps
from neardata.sim.system.pim_programs import (
    check_form,
    device_of,
    divisors,
    forms_of,
    program_of,
    reductions_of,
)

Cost = Callable[[PimMatMul], int]
"""Picoseconds that a processor takes for the product."""
Reduction = Callable[[PimMatMul], int]
"""Picoseconds that a processor takes to add up the partial sums of a product."""
Work = Mapping[PimMatMul, int]
"""Products, and how often each is done."""


def over_the_bus(device: Device, channels: int) -> Reduction:
    """All partial sums cross the data buses of all channels at their peak rate, to be added behind them.

    >>> four = PimMatMul(1, 4096, 4096, k_parts=4, reduction="processor")
    >>> over_the_bus(device_of("gddr6-aim"), 32)(four)     # 32,768 bytes at 32 x 32 GB/s
    32000
    """
    return lambda kernel: ceil(bus_ps(kernel, device, channels))


@dataclass(frozen=True)
class Candidate:
    """One way to do a product, or a set of them."""

    form: ProductForm | None
    """Channels and who adds are given; None: the processor does it."""
    device: str
    """A PIM device, or ``processor``."""
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
        """In a line.

        >>> form = ProductForm(order="input-stationary", channels=8, k_parts=2, reduction="processor")
        >>> print(Candidate(form, "gddr6-aim", time_ps=4000))
        gddr6-aim, 4.0 ns: input-stationary, 8 channels, k in 2 parts added by the processor
        """
        time = self.reason or ("not simulated" if self.time_ps is None else f"{self.time_ps / 1e3:,.1f} ns")
        if self.form is None:
            return f"{self.device}, {time}"
        form = self.form
        said = [form.order or "the device's order", *(["own rows"] if form.own_rows else [])]
        said.append(f"{form.channels or 'all'} channels")
        if form.k_parts > 1:
            said.append(f"k in {form.k_parts} parts added by the {form.reduction}")
        return f"{self.device}, {time}: {', '.join(said)}"


def search(
    work: PimMatMul | Work,
    device: Device | str,
    channels: int,
    *,
    refresh: RefreshAtTasks = "at-launch",
    processor: Cost | None = None,
    reduction: Reduction | None = None,
    tensor: str = "w",
) -> list[Candidate]:
    """All forms, simulated ones first and from the fastest, then those not simulated by their bound, then
    those that do not fit.

    Args:
        work: a product, whose ``order``, if named, is the only one tried; or several that are to have
            the same form, of the same k or not.
        device: of the unit, with its overrides; or the name of a preset as it is.
        channels: that there are.
        refresh: of the unit.
        processor: cost of the products elsewhere; it is listed like a form.
        reduction: cost of adding partial sums on a processor (default: `over_the_bus`).
        tensor: name of the matrix, for reasons.

    Raises:
        InputError: a size below 1, a device without generator, an unknown order.

    >>> best, *others = search(PimMatMul(1, 512, 1024), "gddr6-aim", 4)
    >>> best.form.channels, best.form.k_parts, best.form.order, best.time_ps, round(best.gap, 1)
    (4, 1, 'input-stationary', 1244500, 2.4)
    """
    work = {work: 1} if isinstance(work, PimMatMul) else work
    for kernel in work:
        check_form(kernel, device, channels)
    model = device_of(device)
    trial = _Trial(work, model, channels, refresh, reduction or over_the_bus(model, channels))
    macs = sum(kernel.macs * count for kernel, count in work.items())
    roofline = PimEngine(model, channels, refresh).roofline_ps(macs)
    done: list[Candidate] = []
    if processor is not None:
        time = sum(processor(kernel) * count for kernel, count in work.items())
        done.append(Candidate(None, "processor", bound_ps=time, roofline_ps=roofline, time_ps=time))
    best = done[0].time_ps if done else None
    waiting: list[Candidate] = []
    unfit: list[Candidate] = []
    forms = [
        Candidate(form, model.name, sum(trial.bounds(form)), roofline)
        for form in _forms(work, model, channels)
    ]
    for candidate in sorted(forms, key=lambda c: c.bound_ps):
        assert candidate.form is not None
        problem = trial.problem(candidate.form)
        if problem:
            unfit.append(replace(candidate, reason=f"banks of '{model.name}', tensor '{tensor}': {problem}"))
            continue
        time_ps = trial.time_ps(candidate.form, best)
        if time_ps is None:
            waiting.append(candidate)
            continue
        done.append(replace(candidate, time_ps=time_ps))
        best = time_ps if best is None else min(best, time_ps)
    return sorted(done, key=lambda c: c.time_ps or 0) + waiting + unfit


def time_of(
    work: Work,
    device: Device,
    channels: int,
    form: ProductForm,
    *,
    refresh: RefreshAtTasks = "at-launch",
    reduction: Reduction | None = None,
) -> int | None:
    """Picoseconds of products in a form; None: the matrix does not fit so. Arguments as of `search`."""
    trial = _Trial(work, device, channels, refresh, reduction or over_the_bus(device, channels))
    return None if trial.problem(form) else trial.time_ps(form, None)


def _forms(work: Work, device: Device, channels: int) -> Iterator[ProductForm]:
    adders = reductions_of(device)
    named = sorted({kernel.order for kernel in work} - {""})
    for used in divisors(channels):
        for parts in divisors(used):
            if parts > min(kernel.k for kernel in work):
                continue
            part = min(-(-kernel.k // parts) for kernel in work)
            orders = list(forms_of(device, part))
            if named:
                orders = [f for f in orders if f[0] in named] or [(order, False) for order in named]
            elif len(work) > 1:  # the device's default may be another order for each
                orders += [("", own) for own in sorted({own for _, own in orders})]
            for order, own_rows in orders:
                for adds in adders if parts > 1 else (None,):
                    yield ProductForm(
                        order=order, own_rows=own_rows, channels=used, k_parts=parts, reduction=adds
                    )


@dataclass(frozen=True)
class _Trial:
    work: Work
    device: Device
    channels: int
    refresh: RefreshAtTasks
    reduction: Reduction

    def kernels(self, form: ProductForm) -> list[tuple[PimMatMul, int]]:
        return [(form.of(kernel, self.device), count) for kernel, count in self.work.items()]

    def bounds(self, form: ProductForm) -> list[int]:
        """Of each product, all of its times together."""
        return [count * self.bound(kernel) for kernel, count in self.kernels(form)]

    def bound(self, kernel: PimMatMul) -> int:
        return _bound(kernel, self.device, self.channels, self.refresh) + self.added(kernel)

    def added(self, kernel: PimMatMul) -> int:
        """By the processor."""
        return self.reduction(kernel) if kernel.reduction == "processor" else 0

    def time_ps(self, form: ProductForm, best: int | None) -> int | None:
        """Of all products; None as soon as it cannot be below the best."""
        bounds = self.bounds(form)
        total = sum(bounds)
        for (kernel, count), bound in zip(self.kernels(form), bounds, strict=True):
            if best is not None and total >= best:
                return None
            time = _simulated(kernel, self.device, self.channels, self.refresh) + self.added(kernel)
            total += count * time - bound
        return total

    def problem(self, form: ProductForm) -> str:
        """Why the matrix does not fit."""
        kernels = {replace(kernel, m=1, order="") for kernel, _ in self.kernels(form)}
        return next(filter(None, (_problem(kernel, self.device, self.channels) for kernel in kernels)), "")


@lru_cache(maxsize=1 << 14)
def _bound(kernel: PimMatMul, device: Device, channels: int, refresh: RefreshAtTasks) -> int:
    """Picoseconds that a product takes at least in its form, without a processor's part."""
    return PimEngine(device, channels, refresh).least_ps(kernel)


@lru_cache(maxsize=1 << 12)
def _problem(kernel: PimMatMul, device: Device, channels: int) -> str:
    """Why the matrix of a product does not fit the banks; empty: it does."""
    try:
        program_of(kernel, device, channels)
    except InputError as error:
        if error.key != "banks":
            raise
        return error.message
    return ""


@lru_cache(maxsize=1 << 14)
def _simulated(kernel: PimMatMul, device: Device, channels: int, refresh: RefreshAtTasks) -> int:
    """Picoseconds; 16-bit numbers, which is what all devices multiply."""
    return PimEngine(device, channels, refresh).run(kernel).time_ps
