"""Shares of a whole as bars of a text table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 32
SHOWN, SMALLEST = 9, 0.0005


def bar_rows(shares: Mapping[str, float], title: str) -> Table:
    """A row per share: name, percentage, bar; the first one in green, small ones summed up as ``others``."""
    from rich.table import Table

    table = Table(box=None, pad_edge=True, show_header=False, title=title, title_justify="left")
    table.title_style = "bold"
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    parts = [(n, share) for i, (n, share) in enumerate(shares.items()) if share >= SMALLEST or i == 0][:SHOWN]
    rest = sum(shares.values()) - sum(share for _, share in parts)
    if rest >= SMALLEST:
        parts.append(("others", rest))
    longest = max((share for _, share in parts), default=1.0) or 1.0
    for i, (name, share) in enumerate(parts):
        style = "yellow" if i else "green"
        table.add_row(name, f"{share:.1%}", f"[{style}]{_bar(share / longest)}[/{style}]")
    return table


def _bar(share: float) -> str:
    eighths = round(share * WIDTH * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
