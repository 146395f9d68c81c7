"""Markdown of generated pages: tables, filled paragraphs, percentages."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence


def table(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table; columns after the first that hold numbers are set to the right."""
    rows = [list(line) for line in lines]
    numbers = [
        any(row[i] for row in rows) and all(map(_is_number, (row[i] for row in rows if row[i])))
        for i in range(len(titles))
    ]
    rule = ["---:" if number else "---" for number in numbers]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, rule, *rows))


def _is_number(cell: str) -> bool:
    digits = cell.replace("−", "").replace(",", "").replace(".", "")
    return digits.lstrip("+").rstrip(" %").isdigit()


def prose(text: str) -> str:
    """A paragraph, filled."""
    return textwrap.fill(" ".join(text.split()), 112, break_long_words=False, break_on_hyphens=False)


def blocks(*texts: str) -> str:
    """Paragraphs and tables."""
    return "\n\n".join(texts)


def percent(share: float) -> str:
    """``+0.4 %``; 0 only where nothing is different."""
    return "0" if share == 0 else f"{100 * share:+.2f} %".replace("-", "−")


def share(of: float) -> str:
    """``8.1 %``."""
    return f"{100 * of:.1f} %".replace("-", "−")
