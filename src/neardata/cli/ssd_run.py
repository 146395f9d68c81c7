"""``neardata ssd run``: requests of a host on a drive."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neardata.cli.options import Json
from neardata.cli.ssd_devices import Compatible, Drive, DriveSettings, load

if TYPE_CHECKING:
    from neardata.arch.storage import Ssd
    from neardata.sim.storage.drive import SsdReport

DEVICE, WORKLOAD = "mqsim-c1", "random"
INTERRUPTED = 130
_SIZE = re.compile(r"(\d+)\s*([KMG]i?)?B?", re.IGNORECASE)
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|µs|ms|s)")
_UNITS = {"ns": 1.0, "us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9}
DEFAULTS = {"size": "4K", "read": 100.0, "depth": 32, "count": 100_000, "space": 50.0, "seed": 1}


def run(
    device: Drive = DEVICE,
    trace: Annotated[
        Path | None, typer.Option("--trace", "-t", help="Requests in MQSim's trace form.")
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option("--workload", "-w", help="random, sequential or zipf[:THETA]. Default: random."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Bytes of a request, such as 4K or 1M. Default: 4K.")
    ] = None,
    read: Annotated[float | None, typer.Option(help="Percent of requests that read. Default: 100.")] = None,
    depth: Annotated[
        int | None, typer.Option("--depth", "-q", min=1, max=65535, help="Requests under way. Default: 32.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Requests per second at random times, in place of --depth.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("-n", min=1, max=10**9, help="Requests. Default: 100000.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Start requests for so long, such as 1s, in place of -n.")
    ] = None,
    space: Annotated[
        float | None, typer.Option(help="Percent of the drive that is used. Default: 50.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of all that is drawn. Default: 1.")] = None,
    settings: DriveSettings = None,
    compat: Compatible = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for report.json and requests.csv, a row a request.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Run requests on a solid-state drive: rates, latency, use of channels and dies, write amplification.

    Without --trace requests are generated: --depth of them always under way, or at a --rate.
    """
    from neardata.arch.errors import InputError
    from neardata.cli.progress import interruptible
    from neardata.cli.results_folder import ResultsFolder

    options: dict[str, Any] = {
        "--workload": workload, "--size": size, "--read": read, "--depth": depth, "--rate": rate, "-n": count,
        "--time": time, "--space": space,
    }  # fmt: skip
    clash = [name for name, value in options.items() if value is not None]
    if trace is not None and clash:
        raise InputError(f"--trace and {clash[0]} exclude each other")
    for one, other in (("--depth", "--rate"), ("-n", "--time"), ("--rate", "--time")):
        if options[one] is not None and options[other] is not None:
            raise InputError(f"{one} and {other} exclude each other")
    if out is not None:
        ResultsFolder(out)
    ssd = load(device, settings, compat)
    seed = int(DEFAULTS["seed"] if seed is None else seed)  # type: ignore[call-overload]
    arguments, source = _from_trace(ssd, trace) if trace is not None else _generated(ssd, options, seed)

    from neardata.sim.storage.drive import run_drive

    with interruptible() as stop:
        report = run_drive(ssd, **arguments, seed=seed, stop=stop)
    if out is not None:
        _write(out, report, source)
    from neardata.cli import ssd_report

    if as_json:
        typer.echo(json.dumps(ssd_report.as_json(report, source=source), indent=2))
    else:
        from rich.console import Console

        ssd_report.print_report(Console(highlight=False), report, source=source)
    return INTERRUPTED if report.partial else 0


def _from_trace(ssd: Ssd, path: Path) -> tuple[dict[str, Any], str]:
    from neardata.arch.errors import InputError
    from neardata.sim.storage.drive import Requests
    from neardata.workloads.block_io import read_block_trace

    arrivals, (op, lba, sectors) = read_block_trace(path)
    most = ssd.logical_pages * ssd.sectors_per_page
    if ssd.compat.truncated_link:  # MQSim folds addresses into the drive
        lba = lba % (most - int(sectors.max()))
    beyond = (lba + sectors > most).nonzero()[0]
    if len(beyond):
        i = beyond[0]
        raise InputError(
            f"request {i + 1}: sectors {lba[i]:,} to {lba[i] + sectors[i] - 1:,}, but the drive has {most:,}",
            file=path,
        )
    return {"requests": Requests(op, lba, sectors, arrivals)}, f"{path.name}, {len(op):,} requests"


def _generated(ssd: Ssd, options: dict[str, Any], seed: int) -> tuple[dict[str, Any], str]:
    from neardata.arch.errors import InputError, nearest
    from neardata.sim.storage.drive import Requests
    from neardata.workloads.block_io import BlockPattern, poisson

    def value(name: str) -> Any:
        given = options[name]
        return DEFAULTS[name.strip("-") if name != "-n" else "count"] if given is None else given

    order, colon, theta = (options["--workload"] or WORKLOAD).partition(":")
    if order not in ("random", "sequential", "zipf") or (colon and order != "zipf"):
        raise InputError(
            f"--workload: '{order}' is not known{nearest(order, ('random', 'sequential', 'zipf'))}"
        )
    try:
        skew = float(theta) if colon else 0.99
    except ValueError:
        raise InputError(f"--workload: '{theta}' is not a number") from None
    for name, low in (("--read", 0.0), ("--space", 1e-9)):
        if not low <= value(name) <= 100:
            raise InputError(f"{name}: must be from 0 to 100, got {value(name):g}")
    size, n = parse_size(value("--size")), int(value("-n"))
    sectors = int(ssd.logical_pages * ssd.sectors_per_page * value("--space") / 100)
    pattern = BlockPattern(order, size, value("--read") / 100, sectors, skew, None, seed)  # type: ignore[arg-type]
    stop_ns = None if options["--time"] is None else parse_time(options["--time"])
    rate = options["--rate"]
    text = f"{order} {value('--size')}, {value('--read'):g} % reads, "
    if rate is not None:
        op, lba, length = next(pattern.chunks(n))
        requests = Requests(op, lba, length, poisson(n, rate, seed))
        return {"requests": requests}, f"{text}{n:,} requests at {rate:g} a second, seed {seed}"
    depth = int(value("--depth"))
    if stop_ns is None:
        requests = Requests(*next(pattern.chunks(n)))
        return {"requests": requests, "depth": depth}, f"{text}{n:,} requests, {depth} under way, seed {seed}"
    stream = pattern.chunks(1 << 16)
    return {
        "requests": Requests(*next(stream)), "depth": depth, "stop_ns": stop_ns,
        "more": lambda _: Requests(*next(stream)),
    }, f"{text}for {options['--time']}, {depth} under way, seed {seed}"  # fmt: skip


def parse_size(text: str) -> int:
    """
    >>> parse_size("16K"), parse_size("1MiB"), parse_size("512")
    (16384, 1048576, 512)
    """
    from neardata.arch.errors import InputError

    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InputError(f"--size: must be bytes such as 4096, 4K or 1M, got '{text}'")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[(match[2] or "")[:1].upper()]


def parse_time(text: str) -> float:
    """In ns.

    >>> parse_time("1.5ms")
    1500000.0
    """
    from neardata.arch.errors import InputError

    match = _TIME.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise InputError(f"--time: must be a time such as 1s, 20ms or 500us, got '{text}'")
    return float(match[1]) * _UNITS[match[2]]


def _write(out: Path, report: SsdReport, source: str) -> None:
    import csv

    from neardata.arch.errors import InputError
    from neardata.cli import ssd_report
    from neardata.cli.output import text_file

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror}", file=out) from None
    with text_file(out / "report.json") as stream:
        json.dump(ssd_report.as_json(report, source=source), stream, indent=1)
    columns = report.request_times()
    with text_file(out / "requests.csv") as stream:
        rows = csv.writer(stream)
        rows.writerow(columns)
        rows.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
