"""Plots of memory runs: latency against throughput, and where the cycles went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from neardata.arch.errors import InputError

FORMATS = (".png", ".svg", ".pdf")
INK, FAINT = "#222222", "#bbbbbb"
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's colours, told apart by colour-blind readers too."""
CAUSES = ("#d55e00", "#e69f00", "#56b4e9", "#cc79a7", "#0072b2", "#f0e442", "#8c6d31", "#7b3294")
FIXED = {"data": "#009e73", "no request": "#dddddd", "refresh": "#555555", "others": "#999999"}


@dataclass(frozen=True)
class LoadPoint:
    """One offered load of a latency-throughput curve."""

    offered_gb_per_s: float
    achieved_gb_per_s: float
    mean_ns: float
    """Read latency, from the request's arrival to the end of its burst."""
    p99_ns: float
    saturated: bool
    """Less was achieved than offered, so the latency grows with the length of the run."""


def check(path: Path) -> None:
    """Fail before a run whose plot could not be drawn.

    Raises:
        InputError: not a known image format, or Matplotlib is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"plots are written as {', '.join(FORMATS)}", file=path)
    if find_spec("matplotlib") is None:
        raise InputError("plots need Matplotlib: pip install 'neardata[plot]'")


def latency_throughput(
    curves: Mapping[str, Sequence[LoadPoint]], peak_gb_per_s: float, path: Path, title: str
) -> None:
    """Draw read latency over achieved bandwidth, a line per curve: mean solid, 99th percentile dashed."""
    figure, axes = new_figure(7.0, 4.2, title)
    for (name, points), colour in zip(curves.items(), LINES * 4, strict=False):
        x = [p.achieved_gb_per_s for p in points]
        axes.plot(x, [p.mean_ns for p in points], "o-", ms=3.5, color=colour, label=f"{name}, mean")
        axes.plot(x, [p.p99_ns for p in points], "--", lw=1, color=colour, label=f"{name}, 99th percentile")
    axes.axvline(peak_gb_per_s, color=FAINT, lw=1)
    axes.annotate(
        f"peak {peak_gb_per_s:.1f}", (peak_gb_per_s, 1.0), xycoords=("data", "axes fraction"),
        xytext=(-4, -4), textcoords="offset points", ha="right", va="top", color="#777777", fontsize=8,
    )  # fmt: skip
    axes.set_xlim(0, peak_gb_per_s * 1.02)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    axes.set_xlabel("achieved bandwidth [GB/s]")
    axes.set_ylabel("read latency [ns]")
    axes.grid(color="#eeeeee", lw=0.8)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    figure.savefig(path, dpi=150)


def where_the_cycles_went(
    bars: Sequence[tuple[str, Mapping[str, float]]], path: Path, title: str, shown: int = 8
) -> None:
    """Draw a stacked bar per run: shares of the data-bus cycles, ``data`` first.

    Args:
        bars: label and shares (summing to 1) of each run.
        shown: causes shown apart; the smaller ones are drawn as ``others``.
    """
    figure, axes = new_figure(8.0, max(2.4, 1.2 + 0.3 * len(bars)), title)
    total: dict[str, float] = {}
    for _, shares in bars:
        for cause, share in shares.items():
            total[cause] = total.get(cause, 0.0) + share
    causes = sorted((c for c in total if c != "data"), key=lambda c: -total[c])[:shown]
    colours = iter(CAUSES * 4)
    left = [0.0] * len(bars)
    for cause in ["data", *causes, "others"]:
        if cause == "others":
            widths = [max(1.0 - done, 0.0) for done in left]
            if max(widths) < 5e-4:
                continue
        else:
            widths = [shares.get(cause, 0.0) for _, shares in bars]
        colour = FIXED[cause] if cause in FIXED else next(colours)
        drawn = axes.barh(range(len(bars)), widths, left=left, color=colour, height=0.78, label=cause)
        axes.bar_label(
            drawn, [f"{w:.0%}" if w >= 0.045 else "" for w in widths], label_type="center",
            fontsize=8, color=readable_on(colour),
        )  # fmt: skip
        left = [done + width for done, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(bars)), [label for label, _ in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    axes.set_xlabel("share of the data-bus cycles")
    axes.tick_params(axis="y", length=0)
    axes.legend(frameon=False, fontsize=8, ncols=1, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.savefig(path, dpi=150)


def stage_cycles(bars: Sequence[tuple[str, Mapping[str, float]]], path: Path, title: str) -> None:
    """Draw a stacked bar per stage of a pipeline: shares of its cycles by what it did.

    Args:
        bars: name of each stage, and shares that sum to 1, in the same order in each.
    """
    figure, axes = new_figure(7.0, max(1.8, 1.1 + 0.34 * len(bars)), title)
    colours = {
        "busy": "#009e73", "starved": "#dddddd", "blocked": "#e69f00", "memory": "#0072b2",
        "drained": "#999999",
    }  # fmt: skip
    left = [0.0] * len(bars)
    for cause, colour in colours.items():
        widths = [shares[cause] for _, shares in bars]
        if max(widths) < 5e-4:
            continue
        drawn = axes.barh(range(len(bars)), widths, left=left, color=colour, height=0.74, label=cause)
        axes.bar_label(
            drawn, [f"{w:.0%}" if w >= 0.05 else "" for w in widths], label_type="center",
            fontsize=8, color=readable_on(colour),
        )  # fmt: skip
        left = [done + width for done, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(bars)), [label for label, _ in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    axes.set_xlabel("share of the cycles of the run")
    axes.tick_params(axis="y", length=0)
    axes.legend(frameon=False, fontsize=8, ncols=1, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.savefig(path, dpi=150)


def new_figure(width: float, height: float, title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, set_up(figure.add_subplot(), title)


def set_up(axes: Any, title: str, fontsize: float = 10) -> Any:
    """Axes as all of our figures have them."""
    axes.set_title(title, loc="left", fontsize=fontsize, color=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=fontsize - 1)
    return axes


def readable_on(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else INK
