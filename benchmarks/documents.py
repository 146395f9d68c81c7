"""The command lines shown in documents: run, and what they print put in the place of what is shown.

Run: python benchmarks/documents.py [README.md] [docs/tutorial.md]   (default: both)

A block that begins with ``$ `` shows command lines and their output. ``...`` stands for lines left out:
between them, each run of lines is found again by its first line, numbers aside. A YAML block that begins with
``# NAME.yaml`` is a file that later commands read; Python blocks are run.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from neardata.cli.app import run

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "docs/tutorial.md")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def renewed(text: str) -> str:
    """A document with its outputs as they are now, everything run in the current folder.

    Raises:
        ValueError: a command fails, or shown lines are not found in its output.
    """

    def renew(match: re.Match[str]) -> str:
        language, body = match.groups()
        if language == "yaml" and body.startswith("# "):
            Path(body.split()[1]).write_text(body, encoding="utf-8")
        elif language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(body, {})
        elif not language and body.startswith("$ "):
            parts = re.split(r"^(?=\$ )", body, flags=re.MULTILINE)
            return "```\n" + "".join(_command(part) for part in parts if part) + "```"
        return match.group(0)

    return BLOCK.sub(renew, text)


def _command(part: str) -> str:
    """A command line and its output."""
    command, *shown = part.splitlines()
    printed = [line.rstrip() for line in _output(command.removeprefix("$ ")).splitlines()]
    return "\n".join([command, *_shortened(printed, shown)]) + "\n"


def _output(command: str) -> str:
    words = shlex.split(command.partition("  #")[0])
    match words:
        case ["neardata", *arguments]:
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = run(arguments)
            if code not in (0, 1):
                raise ValueError(f"{command}: {err.getvalue()}")
            return out.getvalue()
        case ["cp", source, target]:
            shutil.copy(ROOT / source, target)
            return ""
        case ["sed", "-i", change, name]:
            _, old, new, _ = change.split("/")
            path = Path(name)
            text = path.read_text(encoding="utf-8")
            path.write_text(
                "\n".join(line.replace(old, new, 1) for line in text.split("\n")), encoding="utf-8"
            )
            if path.read_text(encoding="utf-8") == text:
                raise ValueError(f"{command}: changes nothing")
            return ""
    raise ValueError(f"{command}: not a command that documents run")


def _shortened(printed: Sequence[str], shown: Sequence[str]) -> Iterator[str]:
    """What is printed, shortened as what is shown is."""
    if not shown or "..." not in [line.strip() for line in shown]:
        yield from printed if shown else ()
        return
    at, runs = 0, [[]]
    for line in shown:
        if line.strip() == "...":
            runs.append([])
        else:
            runs[-1].append(line)
    for i, lines in enumerate(runs):
        if i:
            yield "..."
        if lines:
            first = next((n for n in range(at, len(printed)) if _alike(printed[n], lines[0])), None)
            if first is None:
                raise ValueError(f"no line like '{lines[0]}' is printed")
            yield from printed[first : first + len(lines)]
            at = first + len(lines)


def _alike(one: str, other: str) -> bool:
    """Equal but for numbers, their units, and spaces."""
    plain = (re.sub(r"[\d.,]+ ?([mµnp]?[sJ]\b|[KMG]?B\b)?", "#", line) for line in (one, other))
    return "".join(next(plain).split()) == "".join(next(plain).split())


@contextlib.contextmanager
def workplace() -> Iterator[None]:
    """A folder of its own with a trace in it, and a terminal of 100 columns without colours."""
    before, changed = Path.cwd(), {"COLUMNS": "100", "NO_COLOR": "1"}
    kept = {name: os.environ.get(name) for name in changed}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ.update(changed)
        Path("t.trace.gz").write_bytes(gzip.compress(b"LD 0x40\nST 0x80\n"))
        try:
            yield
        finally:
            os.chdir(before)
            for name, value in kept.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


if __name__ == "__main__":
    for name in sys.argv[1:] or DOCUMENTS:
        path = ROOT / name
        with workplace():
            text = renewed(path.read_text(encoding="utf-8"))
        path.write_text(text, encoding="utf-8")
