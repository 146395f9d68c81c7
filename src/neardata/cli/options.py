"""Command-line options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

from neardata.cli.requests import PATTERN, REQUESTS, SEED

DeviceName = Annotated[
    str, typer.Option("--device", "-d", help="A name of 'neardata devices' or FILE.yaml[:PRESET].")
]
Pattern = Annotated[
    str | None,
    typer.Option("--pattern", "-p", help=f"Requests to generate (docs/traces.md). Default: {PATTERN}."),
]
Count = Annotated[
    int | None, typer.Option("-n", min=1, max=10**12, help=f"Requests to generate. Default: {REQUESTS}.")
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help=f"Seed of the pattern. Default: {SEED}.")]
Profile = Annotated[
    str | None, typer.Option("--profile", help="Memory controller: a name of 'neardata profiles'.")
]
Mapping = Annotated[str | None, typer.Option("--mapping", help="Address mapping: a name or a field order.")]
Channels = Annotated[int, typer.Option("--channels", min=1, help="Channels, a power of two.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Channels simulated at a time. Default: all.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a value: timing.nFAW=20, energy.io_pj_per_bit=4.5, controller.read_queue=128.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
