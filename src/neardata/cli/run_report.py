"""What ``neardata run`` prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neardata.sim.system.report import SystemReport
    from neardata.study import Study


def print_study(study: Study, done: list[dict[str, Any]], *, partial: bool, out: Path | None) -> None:
    """The comparison, then for each system where the time of the largest batch went."""
    from rich.console import Console
    from rich.markup import escape
    from rich.padding import Padding

    from neardata.cli.bars import bar_rows

    console = Console(highlight=False)
    console.print(f"[bold]{escape(study.title)}[/bold]")
    console.print(f"{study.model}, {study.phase}, context {study.context:,}, weights {study.weights}\n")
    if partial:
        console.print("[bold red]partial[/bold red]: interrupted; the points that were finished\n")
    if not done:
        return
    console.print(_table(study, done))
    console.print()
    largest = {r["label"]: r for r in done}
    for label, r in largest.items():
        whole = sum(r["reasons_ns"].values()) or 1.0
        shares = {name: ns / whole for name, ns in r["reasons_ns"].items()}
        console.print(bar_rows(shares, f"{label}, batch {r['batch']}: where the time went"))
        for note in r.get("notes", ()):
            console.print(Padding(escape(note), (0, 0, 0, 2)))
        console.print()
    console.print(in_words(study, done))
    if out is not None:
        console.print(
            f"\nresults.json, results.csv, timelines (ui.perfetto.dev) and figures are in {escape(str(out))}"
        )


def _units(records: list[dict[str, Any]]) -> str:
    """How many units the points of a system take: ``7-8 aim``."""
    parts = []
    for group in records[0]["units"]:
        counts = sorted({r["units"][group] for r in records})
        number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"
        parts.append(f"{number} {group}")
    return " + ".join(parts)


_COLUMNS = {
    "batch": 5, "time a token": 12, "tokens/s": 9, "per device": 10, "speed-up": 8, "roofline": 8,
    "energy a token": 14,
}  # fmt: skip
_EXPERT_COLUMNS = {
    "batch": 5, "time a token": 12, "speed-up": 8, "energy a token": 14, "link busy": 9, "hit rate": 8,
    "on host": 7,
}  # fmt: skip
"""Where experts are fetched."""


def _table(study: Study, done: list[dict[str, Any]]) -> Any:
    """A block of rows for each system, under its name and units."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    base = {r["batch"]: r for r in done if r["label"] == (study.baseline or next(iter(study.systems)))}
    columns = _EXPERT_COLUMNS if any(r.get("experts") for r in done) else _COLUMNS

    def table() -> Table:
        made = Table(box=None, pad_edge=False, header_style="dim", show_header=not blocks)
        for name, width in columns.items():
            made.add_column(name, justify="right", no_wrap=True, width=width)
        return made

    blocks: list[Any] = []
    blocks.append(table())
    for label in dict.fromkeys(r["label"] for r in done):
        mine = [r for r in done if r["label"] == label]
        rows = table()
        for r in mine:
            cells = _cells(r, base.get(r["batch"]))
            rows.add_row(*(cells[name] for name in columns))
        blocks += [f"[bold]{escape(label)}[/bold]  {_units(mine)}", rows]
    return Group(*blocks)


def _cells(r: dict[str, Any], base: dict[str, Any] | None) -> dict[str, str]:
    """What a row of either table shows of a point."""
    from neardata.cli.quantities import rate, si_energy, si_time

    speed = None if base is None else r["tokens_per_s"] / base["tokens_per_s"]
    experts = r.get("experts") or {}
    return {
        "batch": f"{r['batch']}",
        "time a token": si_time(r["step_ns"]),
        "tokens/s": rate(r["tokens_per_s"]),
        "per device": rate(r["tokens_per_s"] / r["devices"]),
        "speed-up": "" if speed is None else f"{speed:.2f}x",
        "roofline": f"{r['bound_ns'] / r['step_ns']:.0%}",
        "energy a token": si_energy(r["energy_pj_per_token"]),
        "link busy": f"{experts['link_busy']:.0%}" if experts else "",
        "hit rate": f"{experts['hit_rate']:.0%}" if experts else "",
        "on host": f"{experts['host_share']:.0%}" if experts else "",
    }


def in_words(study: Study, done: list[dict[str, Any]]) -> str:
    """For each batch size the fastest system, and which parts make the difference to the baseline."""
    from neardata.cli.quantities import si_energy

    lines = []
    for batch in study.batch:
        here = {r["label"]: r for r in done if r["batch"] == batch}
        if len(here) < 2:
            continue
        best = max(here.values(), key=lambda r: r["tokens_per_s"])
        least = min(here.values(), key=lambda r: r["energy_pj_per_token"])
        base = here.get(study.baseline or next(iter(study.systems)))
        line = f"Batch {batch}: {best['label']} ({_units([best])}) is fastest"
        if base is not None and best is not base:
            ratio = best["tokens_per_s"] / base["tokens_per_s"]
            line += f", {ratio:.2f}x {base['label']} ({_units([base])})"
            told = _differences(base, best)
            line += f": {told}" if told else ": no part of the step stands out"
        energy = si_energy(least["energy_pj_per_token"])
        if least is best:
            line += f". It takes the least energy, {energy} a token"
        else:
            line += f". {least['label']} takes the least energy, {energy} a token"
        lines.append(f"{line}.")
    return "\n".join(lines)


def _differences(base: dict[str, Any], best: dict[str, Any], shown: int = 3) -> str:
    """Parts of a step that differ most: ``experts 28.8 to 11.7 ms``."""
    times = [
        {p["name"]: p["critical_ns"] * r["step_ns"] / r["run_ns"] for p in r["parts"]} for r in (base, best)
    ]
    names = dict.fromkeys([*times[0], *times[1]])
    before, after = ({name: t.get(name, 0.0) for name in names} for t in times)
    largest = sorted(names, key=lambda name: -abs(after[name] - before[name]))[:shown]
    told = [name for name in largest if abs(after[name] - before[name]) > 0.02 * base["step_ns"]]
    return ", ".join(f"{name} {before[name] / 1e6:.3g} to {after[name] / 1e6:.3g} ms" for name in told)


def print_program(report: SystemReport) -> None:
    """A saved program's run: its time, parts and reasons."""
    from rich.console import Console
    from rich.markup import escape
    from rich.padding import Padding
    from rich.table import Table

    from neardata.cli.bars import bar_rows
    from neardata.cli.quantities import si_energy, si_time

    console = Console(highlight=False)
    console.print(f"[bold]{escape(report.program.name)}[/bold] on {escape(report.system.name)}\n")
    table = Table(box=None, pad_edge=True, header_style="bold")
    for name in ("part", "units", "tasks", "time", "of the run", "energy"):
        table.add_column(name, justify="left" if name in ("part", "units") else "right")
    for part in report.parts():
        table.add_row(
            part.name, ", ".join(part.units), f"{part.tasks:,}", si_time(part.time_ps / 1e3),
            f"{part.critical_ps / report.time_ps:.1%}" if report.time_ps else "", si_energy(part.energy_pj),
        )  # fmt: skip
    console.print(table)
    steps = 1 + max((task.step for task in report.program.tasks), default=0)
    made = f": {steps} steps, {report.program.tokens} tokens" if report.program.tokens else ""
    console.print(f"\n {si_time(report.time_ps / 1e3)}, {si_energy(report.total_energy_pj)}{made}\n")
    whole = report.time_ps or 1
    console.print(bar_rows({n: ps / whole for n, ps in report.reasons_ps.items()}, "where the time went"))
    notes = list(report.program.notes)
    if report.energy_untold:
        notes.append(f"no energy is known of {', '.join(report.energy_untold)}: the totals leave it out")
    for note in notes:
        console.print(Padding(escape(note), (0, 0, 0, 2)))
