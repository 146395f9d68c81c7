"""Files the command line writes: complete, or not there."""

from __future__ import annotations

import contextlib
import gzip
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from neardata.arch.errors import InputError


def check_writable(path: Path) -> None:
    """Fail before a long run rather than after it.

    Raises:
        InputError: the folder does not exist or cannot be written to.
    """
    folder = path.parent
    try:
        if path.is_dir():
            raise InputError("cannot be written: it is a folder", file=path)
        if path.exists() and not path.is_file():
            raise InputError("cannot be written: it is not a regular file", file=path)
        if not folder.is_dir():
            raise InputError("cannot be written: its folder does not exist", file=path)
        # as long a name as the file gets while it is written
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{path.name}.", suffix=path.suffix):
            pass
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", file=path) from None


def check_apart(outputs: Iterable[Path], inputs: Iterable[Path | None]) -> None:
    """Raises `InputError` if a file would be both read and written, or written twice."""
    seen: set[str] = set()
    given = {os.path.realpath(path) for path in inputs if path is not None}
    for path in outputs:
        place = os.path.realpath(path)  # unlike Path.resolve, it bears links in a circle
        if place in given:
            raise InputError("cannot be written: it is an input", file=path)
        if place in seen:
            raise InputError("two outputs have the same name", file=path)
        seen.add(place)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place on success and is removed on failure."""
    check_writable(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", file=path) from None
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def text_file(path: Path) -> Iterator[TextIO]:
    """A text file that appears when it is complete, compressed where the name ends in ``.gz``."""
    with whole_file(path) as temporary:
        if path.suffix == ".gz":
            with gzip.open(temporary, "wt", encoding="utf-8", compresslevel=5) as stream:
                yield stream
        else:
            with temporary.open("w", encoding="utf-8", newline="") as stream:
                yield stream
