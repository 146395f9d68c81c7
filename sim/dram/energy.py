"""Energy of a run: per command, standby, refresh and interface, in picojoules.

From data-sheet currents (mA x V x ns = pJ), by the scheme of Micron's TN-40-07 and of DRAMPower:
standby power runs all the time, IDD3N while a bank is open, else IDD2N, and a command adds

- activate and precharge: VDD (IDD0 tRC - I1 tRAS - IDD2N (tRC - tRAS)), I1 with one bank open
- read: VDD (IDD4R - IDD3N) tBL; write: VDD (IDD4W - IDD3N) tBL
- all-bank refresh: VDD (IDD5B - IDD2N) tRFC, as all banks are closed meanwhile

for all devices that work in step, and likewise for VPP. Where there are no public currents, from
energies of the literature. A refresh of some banks takes their share of an all-bank refresh.
I1 is IDD3N unless the device states a ``rho`` below 1: then standby grows with each open bank.
IDD4R is measured without output drivers: interface energy (drivers, termination) is an item of its
own, where known. What is not known and would have counted is named in `EnergyReport.unmodelled`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from neardata.arch.dram import Device
from neardata.arch.dram.standard import IddEnergy, PerBitEnergy

STANDBY_OPEN, STANDBY_CLOSED = "standby, rows open", "standby, rows closed"
STANDBY, INTERFACE, REFRESH_PUMP = "standby", "I/O", "VPP in refresh"


@dataclass(frozen=True)
class EnergyReport:
    """Energy of all channels."""

    items_pj: Mapping[str, float]
    """By command (an activation with its precharge), standby and interface."""
    time_ns: float
    status: str
    """``data sheet``, ``literature`` or ``assumed``: what the values rest on."""
    source: str
    unmodelled: tuple[str, ...]
    """What happened and has no energy: commands, standby, ``I/O`` (drivers and termination), the
    share of VPP in refreshes. The total leaves them out."""

    @property
    def total_pj(self) -> float:
        """Sum of the items."""
        return sum(self.items_pj.values())

    @property
    def total_j(self) -> float:
        """The same in joules."""
        return self.total_pj * 1e-12

    @property
    def average_mw(self) -> float:
        """Mean power in milliwatts."""
        return self.total_pj / self.time_ns if self.time_ns else 0.0


def energy(
    device: Device,
    command_counts: Mapping[str, int],
    open_cycles: int,
    total_cycles: int,
    channels: int,
    *,
    open_bank_cycles: int | None = None,
) -> EnergyReport | None:
    """What a run took; None for a device without any energy values.

    Args:
        command_counts: commands of each name, all channels.
        open_cycles: ticks with at least one open bank, summed over the refresh domains
            (ranks, pseudo-channels) of all channels.
        total_cycles: length of the run in ticks.
        open_bank_cycles: ticks that each bank was open, summed over all banks; without it all
            banks of an open domain count as open. It matters where ``rho`` is below 1.

    Raises:
        ValueError: more open ticks than there are, or negative counts.

    >>> from neardata.arch.dram import load_device
    >>> idle = energy(load_device("ddr4-2400r"), {}, 0, 1000, 1)
    >>> round(idle.average_mw)  # 8 devices of IDD2N 34 mA at 1.2 V and IPP3N 3 mA at 2.5 V
    386
    """
    domains = int(np.prod(device.counts[: device.refresh_at + 1])) * channels
    if not 0 <= open_cycles <= total_cycles * domains or min(command_counts.values(), default=0) < 0:
        raise ValueError(
            f"{open_cycles} open cycles of {total_cycles} in {domains} domains, {command_counts}"
        )
    values, own = device.preset.energy, device.preset.command_energy_pj
    if values is None and not own:
        return None
    items: dict[str, float] = {}
    unmodelled: list[str] = []
    bursts = refreshes = 0
    for name, count in command_counts.items():
        c = device.command(name)
        banks = device.n_banks // device.n_units(c)
        each = own[name] * banks if name in own else _command_pj(device, c, values)
        if each is None:
            unmodelled += [name] if count else []
        elif each:
            items[name] = count * each
        bursts += count if device.commands[c].data else 0
        refreshes += count if device.commands[c].refreshes else 0
    time_ns = total_cycles * device.tick_ps / 1e3
    if isinstance(values, IddEnergy):
        devices = _devices(device)
        vpp = values.VPP * values.IPP3N
        banks = _domain_banks(device)
        open_banks = open_cycles * banks if open_bank_cycles is None else open_bank_cycles
        open_ns, open_bank_ns = (n * device.tick_ps / 1e3 for n in (open_cycles, open_banks))
        shared = _standby_shared(values)
        core = shared * open_ns + (values.IDD3N - shared) / banks * open_bank_ns
        items[STANDBY_OPEN] = (values.VDD * core + vpp * open_ns) * devices
        items[STANDBY_CLOSED] = (values.VDD * values.IDD2N + vpp) * devices * (domains * time_ns - open_ns)
        if values.VPP and values.IPP5B is None and refreshes:
            unmodelled.append(REFRESH_PUMP)
    elif values is not None and values.background_mw:
        closed_mw, open_mw = values.background_mw, values.background_open_mw
        share = open_cycles / (total_cycles * domains) if total_cycles else 0.0
        if open_mw is None:
            items[STANDBY] = closed_mw * channels * time_ns
        else:
            items[STANDBY_OPEN] = open_mw * channels * time_ns * share
            items[STANDBY_CLOSED] = closed_mw * channels * time_ns * (1 - share)
    else:
        unmodelled.append(STANDBY)
    if values is None or values.io_pj_per_bit is None:
        unmodelled += [INTERFACE] if bursts else []
    elif values.io_pj_per_bit:
        items[INTERFACE] = values.io_pj_per_bit * 8 * device.burst_bytes * bursts
    status, source = (values.status, values.source) if values else ("assumed", device.preset.source)
    return EnergyReport(items, time_ns, status, source, tuple(unmodelled))


def _command_pj(device: Device, c: int, values: IddEnergy | PerBitEnergy | None) -> float | None:
    """Energy of one issue, all devices in step; None where none is known."""
    command = device.commands[c]
    activates = command.leaves in ("activating", "open") and "activating" not in command.needs
    if not (activates or command.data or command.refreshes):
        # precharges are part of the activation; mode switches and clock synchronisation count for nothing
        free = command.leaves is not None or command.enters is not None
        sync = c in (device.roles.get("sync_read"), device.roles.get("sync_write"))
        return 0.0 if free or sync else None
    if values is None:
        return None
    banks = device.n_banks // device.n_units(c)
    if isinstance(values, IddEnergy):
        if activates:
            return banks * _activate_pj(device, values)
        if command.data:
            current = values.IDD4R if command.data == "read" else values.IDD4W
            burst_ns = device.burst_cycles * device.tick_ps / 1e3
            return values.VDD * (current - values.IDD3N) * burst_ns * _devices(device)
        return _refresh_share(device, c) * _refresh_all_pj(device, values)
    if activates:
        return banks * values.activate_pj
    if command.data:
        per_bit = values.read_pj_per_bit if command.data == "read" else values.write_pj_per_bit
        return per_bit * 8 * device.burst_bytes
    return _refresh_share(device, c) * values.refresh_pj_per_bank * _domain_banks(device)


def _activate_pj(device: Device, values: IddEnergy) -> float:
    row_ns, open_ns = (device.timing[t] * device.timing["tCK_ps"] / 1e3 for t in ("nRC", "nRAS"))
    shared = _standby_shared(values)
    one_bank = shared + (values.IDD3N - shared) / _domain_banks(device)
    core = values.IDD0 * row_ns - one_bank * open_ns - values.IDD2N * (row_ns - open_ns)
    pump = (values.IPP0 - values.IPP3N) * row_ns
    return (values.VDD * core + values.VPP * pump) * _devices(device)


def _standby_shared(values: IddEnergy) -> float:
    """Current as soon as any bank is open."""
    return values.IDD2N + values.rho * (values.IDD3N - values.IDD2N)


def _refresh_all_pj(device: Device, values: IddEnergy) -> float:
    clocks = device.timing["nRFC"] if "nRFC" in device.timing else device.timing["nRFCab"]
    refresh_ns = clocks * device.timing["tCK_ps"] / 1e3
    core, pump = values.IDD5B - values.IDD2N, max(0.0, (values.IPP5B or 0.0) - values.IPP3N)
    return (values.VDD * core + values.VPP * pump) * refresh_ns * _devices(device)


def _refresh_share(device: Device, c: int) -> float:
    """Part of its refresh domain's all-bank refresh that one issue does."""
    share = device.n_banks // device.n_units(c) / _domain_banks(device)
    if c == device.roles.get("refresh_same_bank"):  # fine granularity: fewer rows at a time (JESD79-5)
        share = device.timing["nREFIsb"] / device.timing["nREFI"]
    return share


def _domain_banks(device: Device) -> int:
    return int(np.prod(device.counts[device.refresh_at + 1 :]))


def _devices(device: Device) -> int:
    return device.organisation.width // device.organisation.device_width
