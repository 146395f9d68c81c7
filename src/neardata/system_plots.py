"""Plots of system runs: time by part of the model, energy by component, operators under the roofline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from neardata.plots import CAUSES, FAINT, INK, LINES, new_figure, readable_on

OTHERS = "#999999"


def stacked(
    bars: Sequence[tuple[str, Mapping[str, float]]], path: Path, title: str, unit: str, shown: int = 8
) -> None:
    """A horizontal bar per run, stacked by part.

    Args:
        bars: label of each run, and its parts in ``unit``.
        shown: parts shown apart, the largest over all runs; the rest are ``others``.
    """
    figure, axes = new_figure(8.6, max(2.2, 1.0 + 0.34 * len(bars)), title)
    weight: dict[str, float] = {}
    for _, values in bars:
        whole = sum(values.values()) or 1.0
        for name, value in values.items():
            weight[name] = weight.get(name, 0.0) + value / whole
    names = sorted(weight, key=lambda name: -weight[name])
    left = [0.0] * len(bars)
    longest = max((sum(values.values()) for _, values in bars), default=1.0)
    for i, name in enumerate([*names[:shown], "others"]):
        if name == "others":
            widths = [sum(values.get(n, 0.0) for n in names[shown:]) for _, values in bars]
            if max(widths, default=0.0) < 1e-3 * longest:
                continue
        else:
            widths = [values.get(name, 0.0) for _, values in bars]
        colour = OTHERS if name == "others" else ("#009e73", *CAUSES)[i]
        drawn = axes.barh(range(len(bars)), widths, left=left, height=0.74, color=colour, label=name)
        axes.bar_label(
            drawn, [f"{w:.3g}" if w > 0.05 * longest else "" for w in widths], label_type="center",
            fontsize=8, color=readable_on(colour),
        )  # fmt: skip
        left = [a + w for a, w in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(bars)), [label for label, _ in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, 1.02 * longest)
    axes.set_xlabel(unit)
    axes.tick_params(axis="y", length=0)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.savefig(path, dpi=150)


def roofline(
    operators: Mapping[str, Sequence[tuple[float, float]]],
    roofs: Mapping[str, tuple[float, float]],
    path: Path,
    title: str,
) -> None:
    """Operators as points of arithmetic intensity and achieved rate, under the roofs of their units.

    Args:
        operators: by unit, (operations per byte, 10^9 operations/s) of each operator.
        roofs: by unit, (10^9 operations/s at most, GB/s at most).
    """
    figure, axes = new_figure(7.0, 4.4, title)
    every = [x for points in operators.values() for x, _ in points if x > 0] or [1.0]
    low, high = min(every) / 2, max(max(every) * 4, 1000.0)
    for colour, (unit, (peak, bandwidth)) in zip(LINES * 3, roofs.items(), strict=False):
        ridge = peak / bandwidth
        xs = [low, min(max(ridge, low), high), high]
        axes.plot(xs, [min(peak, bandwidth * x) for x in xs], "-", color=colour, lw=1.4)
        points = operators.get(unit, ())
        xs, ys = [x for x, _ in points], [y for _, y in points]
        axes.plot(xs, ys, "o", ms=4.5, color=colour, label=unit, alpha=0.75)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations per byte")
    axes.set_ylabel("10⁹ operations/s")
    axes.grid(color="#eeeeee", lw=0.8)
    axes.legend(frameon=False, fontsize=8, loc="lower right", labelcolor=INK, edgecolor=FAINT)
    figure.savefig(path, dpi=150)
