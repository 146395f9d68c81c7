"""Saved programs, with the systems they are for."""

from __future__ import annotations

from pathlib import Path

from neardata.arch.config_file import ConfigFile
from neardata.arch.errors import InputError
from neardata.arch.system import System, load_system
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
        system = load_system(program.system)
        unknown = [group for group in program.units if group not in system.units]
        if unknown:
            raise InputError(f"the system has no '{unknown[0]}'")
        return program, system.with_counts(**program.units)
    except InputError as error:
        raise InputError(error.message, file=path, key="system") from None
