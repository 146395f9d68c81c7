"""A command trace of one channel: what was issued, where and when."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, cast

import numpy as np
from numpy.typing import NDArray

from neardata.arch.dram import Device
from neardata.arch.errors import InputError

MAINTENANCE, READ, WRITE = -1, 0, 1


@dataclass(frozen=True)
class CommandLog:
    """Columns of equal length, in order of issue (int64)."""

    device: Device
    cycle: NDArray[np.int64]
    """Tick of issue, from 1."""
    command: NDArray[np.int64]
    """Number of the command in ``device.command_names``."""
    unit: NDArray[np.int64]
    """Target: see `Device.banks_of`."""
    row: NDArray[np.int64]
    """Row of the request it serves, or -1."""
    column: NDArray[np.int64]
    """Burst within the row, or -1."""
    kind: NDArray[np.int64]
    """`READ`, `WRITE` or `MAINTENANCE` (refresh, PIM): what it was issued for."""

    def __len__(self) -> int:
        return len(self.cycle)

    @classmethod
    def from_rows(cls, device: Device, rows: NDArray[np.int64]) -> CommandLog:
        """From an (n, 6) array with the columns above."""
        return cls(device, *(np.ascontiguousarray(rows[:, i]) for i in range(6)))

    @classmethod
    def concatenate(cls, device: Device, logs: Iterable[CommandLog]) -> CommandLog:
        """One log after the other."""
        parts = list(logs)
        columns = ("cycle", "command", "unit", "row", "column", "kind")
        empty = np.zeros(0, dtype=np.int64)
        return cls(device, *(np.concatenate([empty, *(getattr(p, c) for p in parts)]) for c in columns))

    def addresses(self) -> NDArray[np.int64]:
        """(n, levels): node of the target at each level, -1 where the command spans it."""
        out = np.full((len(self), len(self.device.levels)), -1, dtype=np.int64)
        for c in np.unique(self.command):
            spec, units = self.device.commands[c], self.device.unit_of[c]
            depth = self.device.levels.index(spec.at)
            first_bank = np.array([np.flatnonzero(units == u)[0] for u in range(units.max() + 1)])
            mine = np.flatnonzero(self.command == c)
            for level in range(depth + 1):
                if self.device.levels[level] not in spec.across:
                    out[mine, level] = self.device.coordinates[first_bank[self.unit[mine]], level]
        return out

    def write_csv(self, stream: TextIO, channel: int = 0, header: bool = True) -> None:
        """In the column order of Ramulator 2.1's command trace recorder."""
        writer = csv.writer(stream, lineterminator="\n")
        if header:
            writer.writerow(csv_header(self.device))
        addresses = self.addresses()
        addresses[:, 0] = channel
        names = np.array(self.device.command_names)[self.command]
        writer.writerows(
            (cycle, name, *where, row, column, kind, -1)
            for cycle, name, where, row, column, kind in zip(
                self.cycle.tolist(), names.tolist(), addresses.tolist(),
                self.row.tolist(), self.column.tolist(), self.kind.tolist(), strict=True,
            )
        )  # fmt: skip

    @classmethod
    def read_csv(cls, device: Device, path: Path) -> CommandLog:
        """A trace of one channel of ``device`` in the form `write_csv` writes.

        Raises:
            InputError: as `read_channels`, or commands of several channels.
        """
        channels = read_channels(device, path)
        if len(channels) > 1:
            raise InputError(f"commands of {len(channels)} channels, expected one", file=path)
        return next(iter(channels.values()), cls.from_rows(device, np.zeros((0, 6), dtype=np.int64)))


LONGEST_NUMBER = 20
"""Characters of an integer of 64 bits."""


def read_channels(device: Device, path: Path) -> dict[int, CommandLog]:
    """The traces of all channels in a file of `CommandLog.write_csv`, by channel (``.gz``: unpacked).

    Raises:
        InputError: unreadable file, other columns, unknown command, target out of range.
    """
    rows: dict[int, list[tuple[int, ...]]] = {}
    targets: dict[tuple[str, ...], tuple[int, int, int]] = {}
    depth = len(device.levels)
    try:
        with (gzip.open if path.suffix == ".gz" else open)(
            path, "rt", encoding="utf-8", newline=""
        ) as stream:
            lines = csv.reader(cast(TextIO, stream))
            if next(lines, None) != csv_header(device):
                raise InputError(f"expected the columns {','.join(csv_header(device))}", file=path, line=1)
            for number, line in enumerate(lines, start=2):
                if len(line) != depth + 6:
                    raise InputError(f"{len(line)} fields, expected {depth + 6}", file=path, line=number)
                target = tuple(line[1 : 2 + depth])
                try:
                    if target not in targets:
                        targets[target] = _target(device, target)
                    channel, command, unit = targets[target]
                    cycle, row, column, kind = map(_integer, (line[0], *line[2 + depth : 5 + depth]))
                    rows.setdefault(channel, []).append((cycle, command, unit, row, column, kind))
                except ValueError as error:
                    raise InputError(str(error), file=path, line=number) from None
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot be read: {reason}", file=path) from None
    return {
        channel: CommandLog.from_rows(device, np.array(rows[channel], dtype=np.int64))
        for channel in sorted(rows)
    }


def _integer(text: str) -> int:
    """Raises `ValueError` for what is none, or fits no 64 bits."""
    if len(text) > LONGEST_NUMBER or not -1 << 63 <= (number := int(text)) < 1 << 63:
        raise ValueError(f"number too large: {text[:LONGEST_NUMBER]}")
    return number


def _target(device: Device, target: tuple[str, ...]) -> tuple[int, int, int]:
    """Channel, command and unit from the fields ``command, channel, level, level, ...``."""
    command = device.command(target[0])
    where = np.array([_integer(field) for field in target[1:]], dtype=np.int64)
    given = where >= 0
    given[0] = False
    banks = np.flatnonzero((device.coordinates[:, given] == where[given]).all(axis=1))
    if not len(banks):
        raise ValueError(f"no bank at {','.join(target[1:])}")
    return int(where[0]), command, int(device.unit_of[command][banks[0]])


def csv_header(device: Device) -> list[str]:
    """Column names of a device's command trace."""
    levels = ["".join(part.capitalize() for part in level.split("_")) for level in device.levels]
    return ["clock", "command", *levels, "Row", "Column", "type", "source"]
