"""``neardata devices`` and ``neardata show``: what hardware there is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neardata.cli.options import Json, Mapping, Settings
from neardata.cli.overrides import parse_overrides

if TYPE_CHECKING:
    from neardata.arch.dram import Device


def list_devices(as_json: Json = False) -> None:
    """List the devices that ship with the package."""
    from neardata.arch.dram import device_names, load_device

    devices = [load_device(name) for name in device_names()]
    if as_json:
        rows = [
            {
                "name": d.name, "standard": d.standard, "banks": d.n_banks,
                "capacity_bytes": d.capacity_bytes, "peak_gb_per_s": d.peak_gb_per_s, "source": d.source,
            }
            for d in devices
        ]  # fmt: skip
        typer.echo(json.dumps({"devices": rows}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, expand=True)
    for title in ("device", "standard"):
        table.add_column(title, no_wrap=True)
    for title in ("banks", "capacity", "GB/s"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("source", no_wrap=True, overflow="ellipsis", ratio=1)
    for d in devices:
        capacity = f"{d.capacity_bytes / 2**30:g} GiB"
        table.add_row(d.name, d.standard, str(d.n_banks), capacity, f"{d.peak_gb_per_s:.1f}", d.source)
    console = Console(highlight=False)
    console.print(table)
    console.print("\nOne channel each. 'neardata show NAME' tells more; docs/devices.md how to add one.")


def show(
    device: Annotated[str, typer.Argument(help="A device name, or FILE.yaml[:PRESET].")],
    mapping: Mapping = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Show a device: organisation, timings, constraints, energy, address mapping, source."""
    from neardata.arch.dram import load_device
    from neardata.arch.dram.mapping import load_mapping
    from neardata.sim.dram.config import load_profile, profile_names

    overrides = parse_overrides(settings or [], mapping=mapping)
    d = load_device(device, overrides.device)
    resolved = load_mapping(d, load_profile(profile_names()[0], overrides.controller).mapping).text
    if as_json:
        typer.echo(json.dumps(_description(d, resolved), indent=2))
        return
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    console.print(f"[bold]{d.name}[/bold]  {d.standard}, one channel")
    console.print(f"source: {d.source}\n")
    for title, table in (
        ("organisation", _organisation(d, resolved)),
        ("timing", _timing(d)),
        ("commands", _commands(d)),
        ("constraints, in simulated cycles", _constraints(d)),
        ("energy", _energy(d)),
    ):
        console.print(f"[bold]{title}[/bold]")
        console.print(table)
        console.print()
    if d.limits:
        console.print("[bold]limits[/bold]")
        for limit in d.limits:
            console.print(f" {escape(limit)}")
        console.print()


def _description(d: Device, mapping: str) -> dict[str, Any]:
    return {
        "name": d.name,
        "standard": d.standard,
        "source": d.source,
        "levels": dict(zip(d.levels, d.counts, strict=True)),
        "organisation": d.organisation.model_dump(),
        "banks": d.n_banks,
        "capacity_bytes": d.capacity_bytes,
        "burst_bytes": d.burst_bytes,
        "peak_gb_per_s": d.peak_gb_per_s,
        "tick_ps": d.tick_ps,
        "timing": dict(d.timing),
        "commands": list(d.command_names),
        "constraints": [
            {
                "name": r.name, "level": d.levels[r.level], "first": d.command_names[r.first],
                "then": d.command_names[r.then], "cycles": r.gap, "window": r.window, "sibling": r.sibling,
            }
            for r in d.rules
        ],
        "mapping": mapping,
        "energy": d.preset.energy.model_dump() if d.preset.energy else None,
        "command_energy_pj": d.preset.command_energy_pj,
        "limits": list(d.limits),
    }  # fmt: skip


def _grid(*justify: str) -> Any:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=True)
    for side in justify:
        table.add_column(justify=side, overflow="fold")  # type: ignore[arg-type]
    return table


def _organisation(d: Device, mapping: str) -> Any:
    o, table = d.organisation, _grid("left", "left")
    banks = " x ".join(f"{n} {level.replace('_', ' ')}" for level, n in zip(d.levels, d.counts, strict=True))
    table.add_row("banks", f"{d.n_banks} = {banks}")
    table.add_row("rows, columns", f"{o.row} rows of {d.bursts_per_row} bursts of {d.burst_bytes} bytes")
    bus_level = d.levels[d.data_bus_at].replace("_", " ")
    table.add_row(
        "data bus", f"{o.width} bits a {bus_level}, from {o.width // o.device_width} x{o.device_width}"
    )
    table.add_row("command bus", "row and column" if d.dual_command_bus else "one")
    table.add_row("capacity", f"{d.capacity_bytes / 2**30:g} GiB")
    table.add_row(
        "peak", f"{d.peak_gb_per_s:.2f} GB/s: a burst in {d.burst_cycles} cycles of {d.tick_ps:g} ps"
    )
    table.add_row("mapping", mapping)
    return table


def _timing(d: Device) -> Any:
    clock_ns = d.timing["tCK_ps"] / 1e3
    values = [(n, v) for n, v in d.timing.items() if n not in ("rate", "tCK_ps")]
    table = _grid(*["left", "right", "right"] * 3)
    thirds = -(-len(values) // 3)
    table.add_row("", "clocks", "ns", *["", "clocks", "ns"] * 2)
    for i in range(thirds):
        row: list[str] = []
        for name, clocks in values[i::thirds]:
            row += [name, str(clocks), f"{clocks * clock_ns:.2f}"]
        table.add_row(*row)
    return table


def _commands(d: Device) -> Any:
    table = _grid("left", "left", "right", "left")
    for name, command, cycles in zip(d.command_names, d.commands, d.command_cycles, strict=True):
        at = command.at.replace("_", " ") + "".join(
            f", every {level.replace('_', ' ')}" for level in command.across
        )
        does = [f"{command.data}s" if command.data else "", "computes" if command.computes else ""]
        does += [
            "refreshes" if command.refreshes else "",
            f"enters {command.enters}" if command.enters else "",
        ]
        does += [f"leaves banks {command.leaves}" if command.leaves else ""]
        does += [f"needs banks {' or '.join(command.needs)}" if command.needs else ""]
        does += [f"in mode {' or '.join(command.modes)}" if command.modes else ""]
        bus = f" of the {command.bus} bus" if d.dual_command_bus else ""
        table.add_row(
            name, at, f"{cycles} cycle{'s' if cycles > 1 else ''}{bus}", "; ".join(filter(None, does))
        )
    return table


def _constraints(d: Device) -> Any:
    grouped: dict[tuple[int, str, int, int, bool], list[tuple[int, int]]] = {}
    for r in d.rules:
        grouped.setdefault((r.level, r.name, r.gap, r.window, r.sibling), []).append((r.first, r.then))
    table = _grid("left", "left", "right", "left")
    names = d.command_names
    for (level, name, gap, window, sibling), pairs in sorted(grouped.items(), key=lambda item: item[0][0]):
        firsts: dict[tuple[int, ...], list[str]] = {}
        for first in dict.fromkeys(first for first, _ in pairs):
            firsts.setdefault(tuple(t for f, t in pairs if f == first), []).append(names[first])
        text = "; ".join(f"{','.join(f)} → {','.join(names[t] for t in then)}" for then, f in firsts.items())
        text += f" (1st to {window + 1}th)" if window > 1 else ""
        text += " (of a sibling)" if sibling else ""
        table.add_row(d.levels[level].replace("_", " "), name, str(gap), text)
    return table


_UNKNOWN = {
    "io_pj_per_bit": "not known, not counted",
    "IPP5B": "not known, not counted",
    "background_open_mw": "as background_mw",
}


def _energy(d: Device) -> Any:
    table = _grid("left", "left")
    if d.preset.energy is None:
        table.add_row("no public values", "")
        return table
    for name, value in d.preset.energy.model_dump(exclude={"kind"}).items():
        unit = "V" if name in ("VDD", "VPP") else "mA" if name.startswith(("IDD", "IPP")) else ""
        table.add_row(
            name,
            _UNKNOWN.get(name, "")
            if value is None
            else f"{value:g} {unit}".strip()
            if isinstance(value, float)
            else value,
        )
    for name, pj in d.preset.command_energy_pj.items():
        table.add_row(name, f"{pj:g} pJ a bank")
    return table
