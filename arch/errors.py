"""The one exception for input that cannot be used."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class InputError(ValueError):
    """Input that cannot be used, told in one line.

    The command line prints ``str(error)`` on stderr and exits with code 2.

    >>> str(InputError("must be a power of two, got 3", file="d.yaml", line=4, key="organisation.rank"))
    'd.yaml:4: organisation.rank: must be a power of two, got 3'
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | Path | None = None,
        line: int | None = None,
        key: str | None = None,
    ) -> None:
        self.message, self.file, self.line, self.key = message, file, line, key
        where = "" if file is None else f"{file}:{line}: " if line is not None else f"{file}: "
        super().__init__(f"{where}{key + ': ' if key else ''}{message}")


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean a, b?`` for the closest known names, else all of them."""
    known = sorted(known)
    if not known:
        return "; there are none"
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else f"; known: {', '.join(known)}"
