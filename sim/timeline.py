"""Command logs as a timeline for Perfetto (https://ui.perfetto.dev) and chrome://tracing.

One process a channel; in it a track for each command bus, data bus and bank. The format is
Chrome's trace events: complete events (``ph: X``) with ``ts`` and ``dur``, metadata (``ph: M``)
for names. Perfetto keeps whole nanoseconds of what it takes for microseconds, and memory clocks
are faster than that; so by default one cycle is written as one microsecond, which loses nothing
and lets timings be read off as cycles. ``unit="ns"`` writes true time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TextIO

import numpy as np
from numpy.typing import NDArray

from neardata.arch.dram import Device
from neardata.sim.dram.command_log import CommandLog

Unit = Literal["cycle", "ns"]
Slice = tuple[int, int, int, str, dict[str, int | str]]
"""Track, first cycle, cycles, name, arguments."""

LIMIT = 200_000
"""Commands written at most; a viewer in a browser takes about a million slices."""
FOREVER = 1 << 62
ROW_BUS, COLUMN_BUS, FIRST_DATA_BUS, FIRST_BANK = 1, 2, 10, 1000


def write_timeline(
    stream: TextIO,
    logs: Sequence[CommandLog],
    *,
    unit: Unit = "cycle",
    window: tuple[int, int] | None = None,
    limit: int = LIMIT,
) -> int:
    """Write the command logs of the channels of one memory as Chrome trace events.

    Args:
        stream: text, UTF-8.
        logs: one a channel, in order of issue.
        unit: ``cycle`` writes a cycle as a microsecond, ``ns`` true time.
        window: first and last cycle of interest; default: all.
        limit: commands written at most, the earliest of the window.

    Returns:
        Commands of the window left out because of the limit.
    """
    first, last = window or (0, FOREVER)
    starts = [int(np.searchsorted(log.cycle, first)) for log in logs]
    ends = [int(np.searchsorted(log.cycle, last, "right")) for log in logs]
    wanted = sum(ends) - sum(starts)
    if wanted > limit:
        cycles = np.concatenate([g.cycle[a:b] for g, a, b in zip(logs, starts, ends, strict=True)])
        last = int(np.partition(cycles, limit)[limit]) - 1
        ends = [int(np.searchsorted(log.cycle, last, "right")) for log in logs]
    stream.write('{"displayTimeUnit":"ns","traceEvents":[\n')
    lines = 0
    for channel, (log, start, end) in enumerate(zip(logs, starts, ends, strict=True)):
        for event in _events(_Channel(log, start, end, first), channel, unit):
            stream.write((",\n" if lines else "") + json.dumps(event, separators=(",", ":")))
            lines += 1
    stream.write("\n]}\n")
    return wanted - (sum(ends) - sum(starts))


def _events(channel: _Channel, pid: int, unit: Unit) -> Iterator[dict[str, Any]]:
    for metadata in _names(channel.device, pid, "1 µs = 1 cycle" if unit == "cycle" else "true time"):
        yield {"ph": "M", "pid": pid, **metadata}
    microseconds = channel.device.tick_ps * 1e-6
    for track, cycle, cycles, name, arguments in channel.slices():
        begin: float = cycle
        end: float = cycle + cycles
        if unit == "ns":
            begin, end = round(begin * microseconds, 6), round(end * microseconds, 6)
        times = {"ts": begin, "dur": end - begin if unit == "cycle" else round(end - begin, 6)}
        yield {"name": name, "ph": "X", "pid": pid, "tid": track, **times, "args": arguments}


def _names(device: Device, channel: int, shown: str) -> Iterator[dict[str, Any]]:
    tracks = {ROW_BUS: "command bus"}
    if device.dual_command_bus:
        tracks = {ROW_BUS: "row command bus", COLUMN_BUS: "column command bus"}
    bus_names = _node_names(device, device.data_bus_at)
    tracks |= {FIRST_DATA_BUS + i: f"data bus {name}".strip() for i, name in enumerate(bus_names)}
    bank_names = _node_names(device, len(device.levels) - 1)
    tracks |= {FIRST_BANK + i: name for i, name in enumerate(bank_names)}
    yield {"name": "process_name", "args": {"name": f"channel {channel}: {device.name} ({shown})"}}
    yield {"name": "process_sort_index", "args": {"sort_index": channel}}
    for track, name in tracks.items():
        yield {"name": "thread_name", "tid": track, "args": {"name": name}}
        yield {"name": "thread_sort_index", "tid": track, "args": {"sort_index": track}}


def _node_names(device: Device, level: int) -> list[str]:
    """``rank 0 bank group 1 bank 2`` for each node of a level; levels of one node are left out."""
    nodes = device.node_of(level)
    names = []
    for node in range(int(nodes.max()) + 1):
        where = device.coordinates[int(np.argmax(nodes == node))]
        parts = [
            f"{device.levels[at].replace('_', ' ')} {where[at]}"
            for at in range(1, level + 1)
            if device.counts[at] > 1 or at == len(device.levels) - 1
        ]
        names.append(" ".join(parts))
    return names


def _gap(device: Device, first: int, thens: Iterable[int]) -> int:
    """Least cycles from a command to the first of others at the same bank, 0 without a rule."""
    gaps = (r.gap for r in device.rules if r.first == first and r.then in thens and not r.sibling)
    return max(gaps, default=0)


@dataclass
class _Bank:
    """What a bank's track shows: one slice after another, never two at once."""

    track: int
    state: Literal["closed", "activating", "open"] = "closed"
    name: str = ""
    start: int = 0
    end: int = 0
    arguments: dict[str, int | str] = field(default_factory=dict)
    earliest_close: int = 0
    """Cycle until which the row must stay open (tRAS)."""

    def begin(self, name: str, start: int, cycles: int, arguments: dict[str, int | str]) -> None:
        self.name, self.start, self.end, self.arguments = name, start, start + cycles, arguments

    def finish(self, now: int) -> Iterator[Slice]:
        """The slice shown until now, if any."""
        if self.name and min(self.end, now) > self.start:
            yield self.track, self.start, min(self.end, now) - self.start, self.name, self.arguments
        self.name = ""

    def count(self, direction: str) -> None:
        """Note a read or write in the open row's slice."""
        self.arguments[f"{direction}s"] = int(self.arguments.get(f"{direction}s", 0)) + 1


class _Channel:
    """Turns the commands of one log into slices."""

    def __init__(self, log: CommandLog, start: int, end: int, first_cycle: int) -> None:
        """``start`` and ``end``: which commands; slices over before ``first_cycle`` are not shown."""
        self.device = device = log.device
        self.log, self.start, self.end, self.first_cycle = log, start, end, first_cycle
        used = np.unique(log.command).tolist()
        self.banks_of = {c: [device.banks_of(c, u).tolist() for u in range(device.n_units(c))] for c in used}
        opens = {c for c, spec in enumerate(device.commands) if spec.leaves in ("open", "activating")}
        self.recovery = {c: _gap(device, c, opens) or device.command_cycles[c] for c in used}
        """Cycles after which a bank that the command closed or refreshed can be opened again."""
        precharge = device.roles.get("precharge")
        self.precharge_cycles = 0 if precharge is None else _gap(device, precharge, opens)
        self.row_cycles = {c: 0 if precharge is None else _gap(device, c, {precharge}) for c in used}
        self.bus_of_bank = device.node_of(device.data_bus_at).tolist()
        self.latency = {"read": device.read_latency, "write": device.write_latency}
        self.banks = [_Bank(FIRST_BANK + b) for b in range(device.n_banks)]

    def slices(self) -> Iterator[Slice]:
        for slice_ in self._all_slices():
            if slice_[1] + slice_[2] > self.first_cycle:
                yield slice_

    def _all_slices(self) -> Iterator[Slice]:
        log, start, end = self.log, self.start, self.end
        for i in _last_changes(log, start).tolist():
            yield from self._on_banks(i)
        columns = ("cycle", "command", "unit", "row", "column", "kind")
        where = CommandLog(self.device, *(getattr(log, c)[start:end] for c in columns)).addresses()
        for i in range(start, end):
            yield from self._on_buses(i, where[i - start].tolist())
            yield from self._on_banks(i)
        last = int(log.cycle[end - 1]) if end > start else self.first_cycle
        for bank in self.banks:
            yield from bank.finish(last + 1)

    def _on_buses(self, i: int, where: list[int]) -> Iterator[Slice]:
        device, now, command = self.device, int(self.log.cycle[i]), int(self.log.command[i])
        spec, name = device.commands[command], device.command_names[command]
        arguments: dict[str, int | str] = {"cycle": now}
        fields = [*zip(device.levels[1:], where[1:], strict=True)]
        fields += [("row", int(self.log.row[i])), ("column", int(self.log.column[i]))]
        arguments |= {field: value for field, value in fields if value >= 0}
        bus = COLUMN_BUS if device.dual_command_bus and spec.bus == "column" else ROW_BUS
        yield bus, now, device.command_cycles[command], name, arguments
        if spec.data is not None:
            burst = now + self.latency[spec.data] - device.burst_cycles
            for node in {self.bus_of_bank[b] for b in self.banks_of[command][int(self.log.unit[i])]}:
                yield FIRST_DATA_BUS + node, burst, device.burst_cycles, name, arguments

    def _on_banks(self, i: int) -> Iterator[Slice]:
        device, now, command = self.device, int(self.log.cycle[i]), int(self.log.command[i])
        spec, name, row = device.commands[command], device.command_names[command], int(self.log.row[i])
        for b in self.banks_of[command][int(self.log.unit[i])]:
            bank = self.banks[b]
            if spec.data is not None and bank.state == "open":
                bank.count(spec.data)
            if spec.refreshes:
                yield from bank.finish(now)
                bank.begin(name, now, self.recovery[command], {"cycle": now})
            elif spec.leaves == "closed" and bank.state != "closed":
                if spec.data is None:
                    yield from bank.finish(now)
                    bank.begin(name, now, self.recovery[command], {"cycle": now})
                else:  # auto-precharge: the device closes the row when it may be closed
                    closes = max(now + self.recovery[command] - self.precharge_cycles, bank.earliest_close)
                    yield from bank.finish(closes)
                    bank.begin("auto-precharge", closes, self.precharge_cycles, {"cycle": now})
            elif spec.leaves in ("open", "activating"):
                yield from bank.finish(now)
                shown = f"row {row}" if spec.leaves == "open" else name
                bank.begin(shown, now, FOREVER, {"cycle": now, "row": row})
                bank.earliest_close = max(bank.earliest_close, now + self.row_cycles[command])
            bank.state = spec.leaves or bank.state


def _last_changes(log: CommandLog, start: int) -> NDArray[np.int64]:
    """Commands before ``start`` that last changed the state of some unit, in order of issue."""
    found: set[int] = set()
    for command, spec in enumerate(log.device.commands):
        if spec.leaves is not None or spec.refreshes:
            at = np.flatnonzero(log.command[:start] == command)[::-1]
            found.update(at[np.unique(log.unit[at], return_index=True)[1]].tolist())
    return np.array(sorted(found), dtype=np.int64)
