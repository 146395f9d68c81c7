"""Saved programs, with the systems they are for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neardata.arch.config_file import ConfigFile
from neardata.arch.errors import InputError
from neardata.arch.system import System, load_system, parse_system
from neardata.sim.program import Program


def read_program(what: str) -> tuple[Program, System] | None:
    """A program that was saved, and its system; None if the file is something else.

    Raises:
        InputError: with file, line and key.
    """
    path = Path(what)
    if path.suffix not in (".yaml", ".yml", ".json") or not path.is_file():
        return None
    data = ConfigFile(path).data
    if not isinstance(data, dict) or "tasks" not in data:
        return None
    program = Program.read(path)
    try:
        system = parse_system(program.hardware) if program.hardware else load_system(program.system)
        for group in system.units:
            system.count(group)
        return program, system
    except InputError as error:
        key = "hardware" if program.hardware else "system"
        if error.key:
            key += f".{error.key}"
        raise ConfigFile(path).error(error.message, *key.split(".")) from None


@contextmanager
def told_in_program(path: Path, program: Program) -> Iterator[None]:
    """Tells the file and line of what an error of a run names: a task by its name, or a key."""
    try:
        yield
    except InputError as error:
        if error.file is not None or error.key is None:
            raise
        head, _, name = error.key.partition(".")
        numbers = {task.name: i for i, task in enumerate(program.tasks)}
        keys: list[str | int] = [head, numbers[name]] if name in numbers else [*error.key.split(".")]
        raise InputError(
            error.message, file=path, line=ConfigFile(path).line_of(keys), key=error.key
        ) from None
