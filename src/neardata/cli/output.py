"""Files the command line writes: complete, or not there."""

from __future__ import annotations

import contextlib
import gzip
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from neardata.arch.errors import InputError


def check_writable(path: Path) -> None:
    """Fail before a long run rather than after it.

    Raises:
        InputError: the folder does not exist or cannot be written to.
    """
    folder = path.parent
    if path.is_dir():
        raise InputError("cannot be written: it is a folder", file=path)
    if not folder.is_dir():
        raise InputError("cannot be written: its folder does not exist", file=path)
    if not os.access(folder, os.W_OK):
        raise InputError("cannot be written: no permission in its folder", file=path)


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
