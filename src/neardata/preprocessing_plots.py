"""The figures of PreSto (arXiv 2406.14571) as our model has them, the paper's printed numbers as lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neardata.plots import INK, LINES, set_up


def draw(figures: Mapping[str, float], path: Path) -> None:
    """Figs. 3, 5, 11, 12, 13, 15 and 16, and the transfers of the SmartSSD.

    Args:
        figures: of `neardata.preprocessing_study.presto`.
    """
    from matplotlib.figure import Figure

    models = [key.rpartition("/")[2] for key in figures if key.startswith("latency_ms/smartssd/")]
    figure = Figure(figsize=(11.5, 9.6), layout="constrained")
    panels = [figure.add_subplot(3, 3, i + 1) for i in range(9)]
    _cores(panels[0], figures)
    _stacked(
        panels[1],
        models,
        "Fig. 5: a core's time, %",
        {
            "Bucketize": [figures[f"cpu_share/bucketize/{m}"] for m in models],
            "SigridHash, Log": [figures[f"cpu_share/normalising/{m}"] for m in models],
            "network": [figures[f"cpu_share/network/{m}"] for m in models],
        },
    )
    counts = [n for n in (32, 64) if f"cores_over_unit/{n}/mean" in figures]
    _bars(
        panels[2],
        models,
        "Fig. 11: throughput over a SmartSSD's",
        {f"{n} cores": [figures[f"cores_over_unit/{n}/{m}"] for m in models] for n in counts},
        {"paper: 64 cores, mean": 1.27},
    )
    _bars(
        panels[3],
        models,
        "Fig. 12: a mini-batch, times faster than a core",
        {"ours": [figures[f"speed_up/{m}"] for m in models]},
        {"paper: mean": 9.6, "paper: largest": 11.6},
    )
    _stacked(
        panels[4],
        models,
        "Fig. 12: a SmartSSD's mini-batch, %",
        {s: [figures[f"{s}_percent/{m}"] for m in models] for s in ("extract", "transform", "load")},
        {"paper: Extract, mean": 40.8},
    )
    _bars(
        panels[5],
        models,
        "Fig. 13: less time of remote calls",
        {"ours": [figures[f"rpc_less/{m}"] for m in models]},
        {"paper: mean": 2.9},
    )
    _bars(
        panels[6],
        models,
        "Fig. 15: over cores",
        {k: [figures[f"{k}/{m}"] for m in models] for k in ("energy", "cost")},
        {"paper: energy, mean": 11.3, "paper: cost, mean": 4.3},
    )
    _bars(
        panels[7],
        models,
        "Fig. 16: SmartSSD's speed over",
        {n: [figures[f"{k}/{m}"] for m in models] for n, k in (("A100", "over_a100"), ("U280", "over_u280"))},
        {"paper: A100, mean": 2.5, "paper: U280, mean": 0.95},
    )
    _transfers(panels[8], figures)
    figure.savefig(path, dpi=130)


def _bars(
    axes: Any, models: Sequence[str], title: str, groups: Mapping[str, Sequence[float]],
    lines: Mapping[str, float],
) -> None:  # fmt: skip
    set_up(axes, title)
    width = 0.8 / max(len(groups), 1)
    for i, (name, values) in enumerate(groups.items()):
        at = [x + (i - (len(groups) - 1) / 2) * width for x in range(len(models))]
        axes.bar(at, values, width=width * 0.92, color=LINES[i], label=name)
    _lines(axes, lines)
    _finish(axes, models)


def _stacked(
    axes: Any, models: Sequence[str], title: str, parts: Mapping[str, Sequence[float]],
    lines: Mapping[str, float] | None = None,
) -> None:  # fmt: skip
    set_up(axes, title)
    below = [0.0] * len(models)
    for i, (name, values) in enumerate(parts.items()):
        axes.bar(range(len(models)), values, bottom=below, width=0.7, color=LINES[i], label=name)
        below = [a + b for a, b in zip(below, values, strict=True)]
    _lines(axes, lines or {})
    _finish(axes, models)


def _lines(axes: Any, lines: Mapping[str, float]) -> None:
    for style, (name, value) in zip(("--", ":", "-."), lines.items(), strict=False):
        axes.axhline(value, color=INK, linestyle=style, linewidth=1, label=name)


def _finish(axes: Any, models: Sequence[str]) -> None:
    axes.set_xticks(range(len(models)), [m.upper() for m in models])
    axes.set_ylim(top=axes.get_ylim()[1] * 1.35)  # room for the legend
    axes.legend(fontsize=7, frameon=False, loc="upper right", ncols=2)


def _cores(axes: Any, figures: Mapping[str, float]) -> None:
    set_up(axes, "Fig. 3: cores over one, RM5")
    last = max(
        (key.rpartition("/")[2] for key in figures if key.startswith("cores_over_one/")), default="rm5"
    )
    counts = sorted(
        int(key.split("/")[1]) for key in figures if key.startswith("cores_over_one/") and key.endswith(last)
    )
    axes.plot(
        counts, [figures[f"cores_over_one/{n}/{last}"] for n in counts], "o-", color=LINES[0], label="ours"
    )
    axes.plot([16], [15], "x", color=INK, label="paper: 15 of 16")
    axes.set_xlabel("cores")
    axes.legend(fontsize=7, frameon=False)


def _transfers(axes: Any, figures: Mapping[str, float]) -> None:
    set_up(axes, "P2P transfers of a SmartSSD, GB/s")
    measured = {
        "read": {4: 0.05, 16: 0.31, 128: 1.21, 1024: 1.59, 131072: 2.36},
        "write": {4: 0.16, 128: 0.82, 131072: 1.04},
    }
    for colour, (way, points) in zip(LINES, measured.items(), strict=False):
        sizes = sorted(int(key.split("/")[1][:-1]) for key in figures if key.startswith(f"p2p_{way}/"))
        values = [figures[f"p2p_{way}/{n}K"] for n in sizes]
        axes.plot(sizes, values, "o-", color=colour, label=f"{way}, ours")
        axes.plot(list(points), list(points.values()), "x", color=colour, label=f"{way}, measured")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("KiB of a request")
    axes.legend(fontsize=7, frameon=False)
