"""An `EnergyReport` as JSON and as a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neardata.cli.quantities import si_energy

if TYPE_CHECKING:
    from neardata.arch.dram import Device
    from neardata.sim.dram.energy import EnergyReport

ITEMS = 4


def energy_json(energy: EnergyReport | None) -> dict[str, Any] | None:
    """The items, what they rest on, and the commands no energy is known of."""
    if energy is None:
        return None
    return {
        "items_pj": dict(energy.items_pj),
        "average_mw": energy.average_mw,
        "status": energy.status,
        "source": energy.source,
        "unmodelled": list(energy.unmodelled),
    }


def energy_text(device: Device, energy: EnergyReport | None, bits: int) -> str:
    """Total, per bit where ``bits`` were moved, the largest items, and how far to trust them."""
    if energy is None or not energy.total_pj:
        return f"no public values for {device.name}"
    per_bit = f", {energy.total_pj / bits:.1f} pJ/bit" if bits else ""
    largest = sorted(energy.items_pj.items(), key=lambda item: -item[1])[:ITEMS]
    items = ", ".join(f"{name} {pj / energy.total_pj:.0%}" for name, pj in largest)
    left_out = f"; without {', '.join(energy.unmodelled)}" if energy.unmodelled else ""
    return f"{si_energy(energy.total_pj)}{per_bit}: {items} (values: {energy.status}{left_out})"
