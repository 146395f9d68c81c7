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


MOST_NAMES = 24


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean a, b?`` for the closest known names, else all of them.

    Of dotted names the closest part counts.

    >>> nearest("launch_us", ["memory.bytes", "efficiency.launch_ns.value"])
    '; did you mean efficiency.launch_ns.value?'
    """
    known = sorted(known)
    if not known:
        return "; there are none"
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if not close:
        parts = {part: full for full in reversed(known) for part in full.split(".") if "." in full}
        last = name.rsplit(".", 1)[-1]
        close = [parts[part] for part in difflib.get_close_matches(last, parts, n=3, cutoff=0.6)]
    if close:
        return f"; did you mean {', '.join(dict.fromkeys(close))}?"
    more = f" and {len(known) - MOST_NAMES} more" if len(known) > MOST_NAMES else ""
    return f"; known: {', '.join(known[:MOST_NAMES])}{more}"
