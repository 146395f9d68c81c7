"""``neardata serve``: a stream of requests by several setups, compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neardata.cli.options import Json

if TYPE_CHECKING:
    from neardata.frontend_study import FrontEndStudy
    from neardata.serving_study import ServingStudy


def serve(
    what: Annotated[str, typer.Argument(metavar="STUDY", help="A serving study (.yaml).")],
    setups: Annotated[
        list[str] | None, typer.Option("--setup", "-s", help="Only this setup of the study. Repeat it.")
    ] = None,
    first: Annotated[int | None, typer.Option(min=1, help="Only so many requests.")] = None,
    speed: Annotated[
        float | None, typer.Option(min=1e-6, help="Arrivals so many times as fast as recorded.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Serve requests: to language models with continuous batching, to others behind what prepares inputs."""
    from neardata.arch.config_file import ConfigFile
    from neardata.arch.errors import InputError
    from neardata.cli.progress import progress_bar
    from neardata.frontend_study import is_front_end_study
    from neardata.serving_study import load_serving_study, run_setups
    from neardata.study import find_study

    path = find_study(what)
    if path is None:
        raise InputError(f"a serving study is a .yaml file, got '{what}'")
    if is_front_end_study(ConfigFile(path)):
        return _front_ends(path, setups, first, speed, as_json=as_json)
    study = load_serving_study(path)
    changed = _chosen(study, setups)
    given = {key: value for key, value in (("first", first), ("speed", speed)) if value is not None}
    changed["requests"] = study.requests.model_copy(update=given)
    study = study.model_copy(update=changed)
    done = []
    with progress_bar(lambda n: n / len(study.setups), "setups") as progress:
        for i, served in enumerate(run_setups(study, path.parent)):
            done.append((served.label, served.figures))
            progress(i + 1)
    if as_json:
        record = [{"setup": label, **figures} for label, figures in done]
        typer.echo(json.dumps({"title": study.title, "model": study.model, "setups": record}, indent=1))
    else:
        _print(study, path, done)
    return 0


def _chosen(study: ServingStudy | FrontEndStudy, setups: list[str] | None) -> dict[str, Any]:
    """What changes in a study when only these setups are wanted.

    Raises:
        InputError: no such setup.
    """
    from neardata.arch.errors import InputError, nearest

    if not setups:
        return {}
    for label in setups:
        if label not in study.setups:
            message = f"no setup of the study is '{label}'{nearest(label, study.setups)}"
            raise InputError(message, key="--setup")
    return {
        "setups": {label: study.setups[label] for label in setups},
        "baseline": study.baseline if study.baseline in setups else None,
    }


def _front_ends(
    path: Path, setups: list[str] | None, first: int | None, speed: float | None, *, as_json: bool
) -> int:
    from neardata.cli.front_end_report import print_json, print_report
    from neardata.cli.progress import progress_bar
    from neardata.frontend_study import load_front_end_study, run_front_ends

    study = load_front_end_study(path)
    requests = study.requests
    changed = _chosen(study, setups)
    given: dict[str, Any] = {}
    if first is not None:
        given["count"] = min(first, requests.count or first)
    if speed is not None:
        given["speed"] = requests.speed * speed
    changed["requests"] = requests.model_copy(update=given)
    study = study.model_copy(update=changed)
    done = []
    with progress_bar(lambda n: n / len(study.setups), "setups") as progress:
        for i, served in enumerate(run_front_ends(study, path.parent)):
            done.append((served.label, served.figures))
            progress(i + 1)
    (print_json if as_json else print_report)(study, done)
    return 0


def _print(study: ServingStudy, path: Path, done: list[tuple[str, dict[str, float | int]]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from neardata.cli.quantities import si_time
    from neardata.serving_study import read_stream

    console = Console(highlight=False)
    requests = read_stream(study.requests, path.parent)
    span = max(requests[-1].arrival_ps - requests[0].arrival_ps, 1) * 1e-12
    console.print(f"[bold]{escape(study.title)}[/bold]")
    console.print(
        f"{study.model}, {len(requests):,} requests, {len(requests) / span:.3g} a second, "
        f"{sum(r.prompt_tokens for r in requests) / len(requests):,.0f} tokens in and "
        f"{sum(r.generated_tokens for r in requests) / len(requests):,.0f} out on average\n"
    )
    names = [("ttft", "first token"), ("tpot", "per token"), ("e2e", "end to end")]
    if any("shown_mean_ms" in figures for _, figures in done):
        names.insert(1, ("shown", "first shown"))
    times = Table(box=None, pad_edge=False, header_style="bold")
    times.add_column("setup")
    times.add_column("")
    for _, title in names:
        times.add_column(title, justify="right", no_wrap=True)
    load = Table(box=None, pad_edge=False, header_style="bold")
    load.add_column("setup")
    for title in ("tokens/s", "batch", "busy", "preempted", "moved"):
        load.add_column(title, justify="right", no_wrap=True)
    for label, figures in done:
        for percentile, name in (("p50", escape(label)), ("p99", "")):
            row = (si_time(figures[f"{n}_{percentile}_ms"] * 1e6) for n, _ in names)
            times.add_row(name, percentile, *row)
        load.add_row(
            escape(label), f"{figures['tokens_per_s']:,.0f}", f"{figures['mean_batch']:.1f}",
            f"{figures['busy']:.0%}", f"{figures['preemptions']:,}", f"{figures['moves']:,}",
        )  # fmt: skip
    console.print(times, "", load, sep="\n")
    baseline = study.baseline or done[0][0]
    base = dict(done)[baseline]
    if len(done) > 1:
        console.print()
    for label, figures in done:
        if label == baseline:
            continue
        parts = [f"{title} {figures[f'{n}_p99_ms'] / base[f'{n}_p99_ms']:.2f}x" for n, title in names]
        moved = f"; a move takes {si_time(figures['moving_mean_ms'] * 1e6)}" if figures["moves"] else ""
        against = f"{escape(label)} against {escape(baseline)}, 99th percentiles: "
        console.print(f"{against}{', '.join(parts)}{moved}")
