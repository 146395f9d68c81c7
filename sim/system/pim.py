"""PIM units: kernels as command programs, run by the DRAM engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from typing import Any

from neardata.arch.dram import Device
from neardata.arch.errors import InputError
from neardata.arch.system.system import RefreshAtTasks
from neardata.sim.dram.energy import EnergyReport, energy
from neardata.sim.dram.pim import ProgramReport, run_program
from neardata.sim.dram.program import Program
from neardata.sim.program import Kernel, PimAttention, PimMatMul
from neardata.sim.system.outcome import Outcome
from neardata.sim.system.pim_programs import (
    forms_of,
    least_cycles,
    macs_per_cycle,
    partial_sum_bytes,
    program_of,
)


class PimEngine:
    """One PIM memory of ``channels`` channels.

    A task begins and ends with all banks closed. With ``at-launch`` refresh the controller pulls a
    refresh in before each task, and lets the next fall due tREFI later: every task finds the same
    state, so its time does not depend on what ran before.

    Without ``jump`` every command is simulated on its own, without ``fold`` every channel.
    """

    def __init__(
        self,
        device: Device,
        channels: int,
        refresh: RefreshAtTasks,
        *,
        jump: bool = True,
        fold: bool = True,
    ) -> None:
        self.device, self.channels = device, channels
        self.refresh, self.jump, self.fold = refresh, jump, fold

    def run(self, kernel: Kernel) -> Outcome:
        """Time, losses and energy of a kernel.

        Raises:
            InputError: the device runs no such kernel, or its data do not fit.
        """
        if not isinstance(kernel, PimMatMul | PimAttention):
            raise InputError(f"{self.device.name} runs no {kernel.kind}")
        return self.outcome(kernel, self.report(kernel))

    def report(self, kernel: PimMatMul | PimAttention) -> ProgramReport:
        """The command program of a kernel, run."""
        program = program_of(kernel, self.device, self.channels)
        if self.refresh == "none":
            return self._run(program, refresh="none")
        first = self.device.timing["nREFI"] - self.device.timing["nRFC"]
        program = replace(program, first_refresh=first)
        return self._run(program)

    def _run(self, program: Program, **options: Any) -> ProgramReport:
        every = self.jump
        return run_program(
            program, device=self.device, jump=every, runs=every, stretches=every, fold=self.fold, **options
        )

    def outcome(self, kernel: PimMatMul | PimAttention, report: ProgramReport) -> Outcome:
        """From the report of the command program."""
        device, slowest = self.device, report.slowest
        launch, adding = self.launch_ticks, self.reduction_ticks(kernel)
        ticks = slowest.cycles + launch + adding
        counts = {device.command(name): n for name, n in slowest.command_counts.items()}
        main = max((c for c in counts if device.commands[c].computes), key=lambda c: counts[c])
        ideal = min(ceil(kernel.macs / (self.macs_per_tick(main) * self.channels)), ticks)
        lost = {**slowest.lost_cycles, "command bus": slowest.busy_cycles}
        if launch:
            lost["tRFC"] = lost.get("tRFC", 0) + launch
        if adding:
            lost["reduction"] = adding
        computing = 0
        for number, n in counts.items():
            if device.commands[number].computes:
                gap, busy = self.gap(number), device.command_cycles[number]
                computing += n * gap
                # MACs at their peak rate hold the bus, and wait for one another, for that long
                lost["command bus"] -= n * busy
                lost["tCCD_L" if "tCCD_L" in lost else "tCCD_S"] = lost.get(
                    "tCCD_L" if "tCCD_L" in lost else "tCCD_S", 0
                ) - n * (gap - busy)
        lost["padding"] = max(computing - ideal, 0)
        used, (accesses, openings) = self.energy(report, launch, adding), row_use(report)
        sums = partial_sum_bytes(kernel, device) if adding and isinstance(kernel, PimMatMul) else 0
        return Outcome(
            time_ps=self.ps(ticks),
            bound_ps=self.ps(ideal),
            bound_by="PIM units",
            lost_ps=self.balanced(lost, ticks, ideal),
            energy_pj={} if used is None else components(used.items_pj),
            memory_bytes=report.internal_bytes + report.external_bytes + sums,
            macs=kernel.macs,
            interface_bytes=report.external_bytes,
            row_accesses=accesses,
            row_openings=openings,
        )

    @property
    def launch_ticks(self) -> int:
        """Of the refresh before a task."""
        return 0 if self.refresh == "none" else self.device.ticks("nRFC")

    def reduction_ticks(self, kernel: PimMatMul | PimAttention) -> int:
        """Until the device's buffer has added the partial sums of parts of k: they pass the data buses of
        the channels that work once more, at their peak rate (assumed: adders keep up with it)."""
        if not isinstance(kernel, PimMatMul) or kernel.reduction != "buffer":
            return 0
        time_ps = bus_ps(kernel, self.device, kernel.channels or self.channels)
        return ceil(time_ps / self.device.tick_ps)

    def least_ps(self, kernel: PimMatMul) -> int:
        """Picoseconds below which a product cannot be in its form, a processor's part not counted; without an
        order, in the best for it."""
        part = max(stop - start for start, stop in kernel.parts)
        orders = [kernel.order] if kernel.order else [order for order, _ in forms_of(self.device, part)]
        cycles = min(
            least_cycles(replace(kernel, order=order), self.device, self.channels) for order in orders
        )
        ticks = cycles + self.launch_ticks + self.reduction_ticks(kernel)
        return int(ticks * self.device.tick_ps)

    def roofline_ps(self, macs: int) -> int:
        """Picoseconds of multiply-accumulates at the peak rate of all channels."""
        return round(macs / (macs_per_cycle(self.device) * self.channels) * self.device.tick_ps)

    def energy(self, report: ProgramReport, launch: int, adding: int = 0) -> EnergyReport | None:
        """Of a program, the refresh before it, which all channels do and during which all stand by, and the
        time behind it in which partial sums are added (standby alone: no adder's energy is published).

        Channels without work stand by, and are refreshed as often as the slowest.
        """
        device, counts = self.device, report.command_counts
        number = device.roles.get("refresh_all")
        if launch and number is not None:
            name = device.command_names[number]
            idle = (self.channels - report.channels) * report.slowest.command_counts.get(name, 0)
            counts[name] = counts.get(name, 0) + device.n_units(number) * self.channels + idle
        opened = sum(group.open_cycles * group.channels for group in report.groups)
        return energy(device, counts, opened, report.cycles + launch + adding, self.channels)

    def ps(self, ticks: int) -> int:
        """Picoseconds of a number of ticks, rounded once."""
        return round(ticks * self.device.tick_ps)

    def gap(self, command: int) -> int:
        """Ticks between two issues of a command at the least."""
        rules = [r for r in self.device.rules if r.first == r.then == command and r.window == 1]
        return max([r.gap for r in rules if not r.sibling], default=1)

    def macs_per_tick(self, command: int) -> float:
        """Of a channel at a command's peak rate: 16-bit operands, a burst of each bank it works on."""
        banks = len(self.device.banks_of(command, 0))
        return banks * self.device.burst_bytes / 2 / self.gap(command)

    @property
    def peak_macs_per_tick(self) -> float:
        """Of the command that works on the most banks."""
        commands = [i for i, c in enumerate(self.device.commands) if c.computes and self.gap(i) > 1]
        return max(self.macs_per_tick(i) for i in commands)

    def balanced(self, lost: dict[str, int], ticks: int, ideal: int) -> dict[str, int]:
        """Losses in picoseconds that add up to the time above the bound.

        A MAC that waited for another rule did not wait for the one before: what was taken off too
        much goes off the largest causes.
        """
        kept = {name: n for name, n in lost.items() if n > 0}
        excess = sum(kept.values()) - (ticks - ideal)
        for name in sorted(kept, key=lambda name: -kept[name]):
            taken = min(max(excess, 0), kept[name])
            kept[name] -= taken
            excess -= taken
        if excess < 0:
            kept["other"] = kept.get("other", 0) - excess
        result = {name: self.ps(n) for name, n in kept.items() if n > 0}
        rest = self.ps(ticks) - self.ps(ideal) - sum(result.values())
        if rest:
            largest = max(result, key=lambda name: result[name], default="other")
            result[largest] = result.get(largest, 0) + rest
        return result


def bus_ps(kernel: PimMatMul, device: Device, channels: int) -> float:
    """Picoseconds in which the partial sums of a product cross the data buses of so many channels, at their
    peak rate.

    >>> from neardata.arch.dram import load_device
    >>> four = PimMatMul(1, 4096, 4096, k_parts=4, reduction="processor")
    >>> bus_ps(four, load_device("gddr6-aim"), 32)     # 32,768 bytes at 32 x 32 GB/s
    32000.0
    """
    return partial_sum_bytes(kernel, device) * 1000 / (device.peak_gb_per_s * channels)


def idle_energy_pj(device: Device, channels: int, time_ps: int) -> dict[str, float]:
    """What a memory draws while no task runs on it: banks closed, refreshed every tREFI."""
    ticks = round(time_ps / device.tick_ps)
    refresh = device.roles.get("refresh_all")
    counts = {}
    if refresh is not None and "nREFI" in device.timing:
        units = device.n_units(refresh) * channels
        counts[device.command_names[refresh]] = ticks // device.ticks("nREFI") * units
    found = energy(device, counts, 0, ticks, channels)
    return {} if found is None else components(found.items_pj)


def components(items_pj: Mapping[str, float]) -> dict[str, float]:
    """Energy of a device by what people ask for."""
    totals: dict[str, float] = {}
    for name, pj in items_pj.items():
        if name.startswith("standby"):
            part = "DRAM standby"
        elif name == "I/O":
            part = "DRAM interface"
        elif name.startswith("REF"):
            part = "DRAM refresh"
        elif name.startswith("ACT"):
            part = "DRAM rows"
        else:
            part = "DRAM commands"
        totals[part] = totals.get(part, 0.0) + pj
    return totals


def row_use(report: ProgramReport) -> tuple[int, int]:
    """Computing commands, and how many of them had rows opened for them."""
    device = report.device
    hits = opened = 0
    for name, n in report.command_counts.items():
        command = device.commands[device.command(name)]
        if command.computes:
            hits += n
        elif command.leaves == "open":
            opened += n
    return hits, min(opened, hits)
