"""Plots of system runs: time by part of the model, energy by component, operators under the roofline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log10
from pathlib import Path
from typing import Any

from neardata.plots import CAUSES, FAINT, INK, readable_on, set_up

OTHERS = "#999999"
COLOURS = ("#009e73", *CAUSES)
SMALLEST = 0.004
"""Share of the longest bar below which a part is drawn with the others."""


@dataclass(frozen=True)
class Bar:
    """One run: its group, its name in the group, its parts."""

    group: str
    name: str
    parts: Mapping[str, float]


def stacked(bars: Sequence[Bar], path: Path, title: str, unit: str, shown: int = 8) -> None:
    """A horizontal bar per run, stacked by part, with its total; groups stand apart.

    Args:
        shown: parts shown apart, the largest over all runs; the rest are ``others``.
    """
    from matplotlib.figure import Figure

    at, groups = _positions(bars)
    height = 1.1 + 0.26 * (at[-1] + 1 if at else 1)
    figure = Figure(figsize=(8.6, max(2.2, height)), layout="constrained")
    axes = set_up(figure.add_subplot(), title)
    totals = [sum(bar.parts.values()) for bar in bars]
    longest = max(totals, default=0.0) or 1.0
    left = [0.0] * len(bars)
    for name, colour in _colours(bars, longest, shown).items():
        widths = [bar.parts.get(name, 0.0) for bar in bars]
        if name == "others":
            widths = [max(total - done, 0.0) for total, done in zip(totals, left, strict=True)]
        drawn = axes.barh(at, widths, left=left, height=0.8, color=colour, label=name)
        axes.bar_label(
            drawn, [_number(w) if w > 0.055 * longest else "" for w in widths], label_type="center",
            fontsize=7.5, color=readable_on(colour),
        )  # fmt: skip
        left = [a + w for a, w in zip(left, widths, strict=True)]
    for y, total in zip(at, totals, strict=True):
        axes.annotate(
            _number(total), (total, y), xytext=(4, 0), textcoords="offset points", va="center",
            fontsize=8, fontweight="bold", color=INK,
        )  # fmt: skip
    axes.set_yticks(at, [bar.name for bar in bars])
    for y, group in groups:
        axes.annotate(
            group, (0, y), xytext=(2, 0), textcoords="offset points", va="center", fontsize=9,
            fontweight="bold", color=INK,
        )  # fmt: skip
    axes.set_ylim((at[-1] if at else 0) + 0.7, -1.6)
    axes.set_xlim(0, 1.09 * longest)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,g}")
    axes.set_xlabel(unit)
    axes.tick_params(axis="y", length=0)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=150)


def _positions(bars: Sequence[Bar]) -> tuple[list[float], list[tuple[float, str]]]:
    """Height of each bar, and of each group's name above its bars."""
    at: list[float] = []
    groups: list[tuple[float, str]] = []
    y = -1.0
    for i, bar in enumerate(bars):
        if not i or bars[i - 1].group != bar.group:
            groups.append((y, bar.group))
            y += 1.0
        at.append(y)
        last = i + 1 < len(bars) and bars[i + 1].group != bar.group
        y += 1.25 if last else 1.0
    return at, groups


def _colours(bars: Sequence[Bar], longest: float, shown: int) -> dict[str, str]:
    """A colour for each part that is drawn, the one with the largest shares first."""
    weight: dict[str, float] = {}
    for bar in bars:
        whole = sum(bar.parts.values()) or 1.0
        for name, value in bar.parts.items():
            weight[name] = weight.get(name, 0.0) + value / whole
    visible = [n for n in weight if max(bar.parts.get(n, 0.0) for bar in bars) > SMALLEST * longest]
    names = sorted(visible, key=lambda name: -weight[name])[:shown]
    colours = dict(zip(names, COLOURS, strict=False))
    if len(names) < len(weight):
        colours["others"] = OTHERS
    return colours


def _number(value: float) -> str:
    """Three digits, or all before the point.

    >>> _number(0.1234), _number(12.34), _number(1234.5)
    ('0.123', '12.3', '1,234')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@dataclass(frozen=True)
class Roofline:
    """A unit and what ran on it."""

    title: str
    peak: float
    """10^9 operations/s."""
    gb_per_s: float
    operators: tuple[tuple[str, float, float, float], ...]
    """Name, operations per byte, 10^9 operations/s, and time, by which the points are sized."""


def rooflines(panels: Sequence[Roofline], path: Path, title: str, named: int = 3) -> None:
    """A panel per unit: its operators under its roof, the other panels' roofs in grey.

    Args:
        named: operators that are named where several lie together, those that take longest.
    """
    from matplotlib.figure import Figure

    columns = min(len(panels), 3)
    rows = ceil(len(panels) / columns)
    figure = Figure(figsize=(max(6.4, 3.5 * columns), 3.1 * rows + 0.5), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK)
    every = [x for panel in panels for _, x, _, _ in panel.operators]
    rates = [y for panel in panels for _, _, y, _ in panel.operators]
    low, high = min(every) / 3, max(max(every) * 20, 1000.0)
    bottom, top = min(rates) / 3, max(panel.peak for panel in panels) * 2.5
    for i, panel in enumerate(panels):
        axes = set_up(figure.add_subplot(rows, columns, i + 1), panel.title, fontsize=9)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(low, high)
        axes.set_ylim(bottom, top)
        axes.grid(color="#eeeeee", lw=0.8)
        for other in panels:
            _roof(axes, other, low, high, color="#d8d8d8", lw=1.0)
        _roof(axes, panel, low, high, color=COLOURS[5], lw=1.6)
        longest = max(time for *_, time in panel.operators)
        for name, x, y, time in panel.operators:
            size = 12 + 90 * time / longest
            axes.scatter([x], [y], s=size, color="#d55e00", alpha=0.6, lw=0, zorder=3, label=name)
        _name_points(axes, panel.operators, named)
        if i >= len(panels) - columns:
            axes.set_xlabel("operations per byte")
        if i % columns == 0:
            axes.set_ylabel("10⁹ operations/s")
    figure.savefig(path, dpi=150)


def _roof(axes: Any, panel: Roofline, low: float, high: float, **style: Any) -> None:
    ridge = panel.peak / panel.gb_per_s
    xs = [low, min(max(ridge, low), high), high]
    axes.plot(xs, [min(panel.peak, panel.gb_per_s * x) for x in xs], "-", **style)


def _name_points(axes: Any, points: Sequence[tuple[str, float, float, float]], names: int) -> None:
    """Names to the right of points; those that lie together share a list of names."""
    low, high = (log10(y) for y in axes.get_ylim())
    line = 0.06 * (high - low)
    top = high
    for x, y, there in _clusters(points):
        shown = there[:names] + ([f"and {len(there) - names} more"] if len(there) > names else [])
        height = line * len(shown)
        middle = min(y - (height - line) / 2, top - height / 2)
        top = middle - height / 2
        axes.annotate(
            "\n".join(shown), (10**x, 10**y), xytext=(10 ** (x + 0.22), 10**middle), textcoords="data",
            fontsize=7, ha="left", va="center", color=INK, linespacing=1.0,
            arrowprops={"arrowstyle": "-", "color": FAINT, "lw": 0.6, "shrinkA": 1, "shrinkB": 2},
        )  # fmt: skip


def _clusters(
    points: Sequence[tuple[str, float, float, float]], near: float = 0.12
) -> list[tuple[float, float, list[str]]]:
    """Points that overlap: logarithms of where the first of them lies, and all their names; highest first."""
    found: list[tuple[float, float, list[str]]] = []
    for name, x, y, _ in points:
        across, up = log10(x), log10(y)
        for there in found:
            if abs(there[0] - across) < near and abs(there[1] - up) < near:
                there[2].append(name)
                break
        else:
            found.append((across, up, [name]))
    return sorted(found, key=lambda cluster: -cluster[1])
