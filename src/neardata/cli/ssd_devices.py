"""``neardata ssd list`` and ``neardata ssd show``: what drives there are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neardata.cli.options import Json
from neardata.cli.quantities import si_time

if TYPE_CHECKING:
    from neardata.arch.storage import Ssd

Drive = Annotated[
    str,
    typer.Option(
        "--device", "-d", help="A name of 'neardata ssd list', FILE.yaml[:NAME] or MQSim's FILE.xml."
    ),
]
DriveSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a value: bus.mt_per_s=1200, flash.cache_read=true."
    ),
]
Compatible = Annotated[
    str | None, typer.Option("--compat", help="'mqsim': with that simulator's own restrictions (compat.*).")
]


def load(name: str, settings: Sequence[str] | None, compat: str | None) -> Ssd:
    """A drive with what ``--set`` and ``--compat`` change.

    Raises:
        InputError: an unknown name or key, a value that cannot be.
    """
    import yaml

    from neardata.arch.errors import InputError
    from neardata.arch.storage import load_ssd
    from neardata.arch.storage.ssd import ALL_COMPAT

    overrides: dict[str, Any] = {}
    if compat is not None:
        if compat != "mqsim":
            raise InputError(f"--compat: '{compat}' is not known; known: mqsim")
        overrides.update({f"compat.{key}": value for key, value in ALL_COMPAT.items()})
    given: dict[str, str] = {}
    for setting in settings or ():
        key, equals, value = (part.strip() for part in setting.partition("="))
        if not equals or not key or not value:
            raise InputError(f"--set {setting}: expected key=value, such as bus.mt_per_s=1200")
        if given.setdefault(key, value) != value:
            raise InputError(f"set to {value}, but to {given[key]} by another --set", key=key)
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"'{value}' is no value", key=key) from None
    return load_ssd(name, overrides)


def list_drives(as_json: Json = False) -> None:
    """List the drives that ship with the package."""
    from neardata.arch.storage import load_ssd, ssd_names

    drives = [load_ssd(name) for name in ssd_names()]
    if as_json:
        rows = [
            {
                "name": d.name, "title": d.title, "raw_bytes": d.flash.raw_bytes, "dies": d.flash.dies,
                "channels": d.flash.channels, "channel_gb_per_s": d.bus.gb_per_s,
                "host_gb_per_s": d.host.gb_per_s, "source": d.source,
            }
            for d in drives
        ]  # fmt: skip
        typer.echo(json.dumps({"drives": rows}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, expand=True)
    table.add_column("drive", no_wrap=True)
    for title in ("raw GiB", "channels", "dies", "tR µs", "GB/s"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("what it is", no_wrap=True, overflow="ellipsis", ratio=1)
    for d in drives:
        read = "/".join(f"{ns / 1000:g}" for ns in d.flash.read_ns)
        rate = d.flash.channels * d.bus.gb_per_s
        table.add_row(
            d.name, f"{d.flash.raw_bytes / 2**30:g}", str(d.flash.channels), str(d.flash.dies), read,
            f"{rate:.3g}", d.title,
        )  # fmt: skip
    console = Console(highlight=False)
    console.print(table)
    console.print("\nGB/s of all channels. 'neardata ssd show NAME' tells more.")


def show(
    device: Annotated[str, typer.Argument(help="A drive's name, FILE.yaml[:NAME] or MQSim's FILE.xml.")],
    settings: DriveSettings = None,
    compat: Compatible = None,
    as_json: Json = False,
) -> None:
    """Show a drive: every value, and where it comes from."""
    d = load(device, settings, compat)
    if as_json:
        typer.echo(json.dumps(d.model_dump(), indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"[bold]{escape(d.name)}[/bold]  {escape(d.title)}")
    console.print(f"source: {escape(d.source)}\n")
    flash, bus = d.flash, d.bus
    page = flash.page_bytes * 1000 / bus.mt_per_s / (bus.width_bits / 8)
    console.print(
        f" {flash.raw_bytes / 1e9:.4g} GB in {flash.dies} dies,"
        f" {d.logical_sectors * 512 / 1e9:.4g} GB for the host;"
        f" channels {flash.channels} x {bus.gb_per_s:g} GB/s, host link {d.host.gb_per_s:g} GB/s;\n"
        f" a page: read {si_time(flash.read_ns[0])}, on the bus"
        f" {si_time(bus.read_command_ns(1))} + {si_time(page)}\n"
    )
    for section, values in d.model_dump().items():
        if not isinstance(values, dict):
            continue
        console.print(f"[bold]{section}[/bold]")
        table = Table(box=None, show_header=False, pad_edge=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for key, value in values.items():
            if isinstance(value, dict):
                value = f"{value['value']:g} ({value['basis']}: {value['source']})"
            elif isinstance(value, tuple | list):
                value = ", ".join(f"{v:g}" for v in value)
            table.add_row(key, escape(str(value)))
        console.print(table)
        console.print()
    for limit in d.limits:
        console.print(f" not in it: {escape(limit)}")
