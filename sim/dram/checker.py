"""An independent judge of command traces: every rule of a device's table, and nothing of the engine.

The checker reads the device's description and a `CommandLog` only. It looks back from each
command to the earlier ones a rule names, so it shares neither state nor code with the
engines, which push ready times forward. Where the banks of a command lie (`Device.nodes_of`) is
part of the description; the engines work it out for themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neardata.arch.dram import TimingRule
from neardata.sim.dram.command_log import CommandLog

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

POSTPONED = 8
"""Refreshes that may be outstanding (JESD79-4 4.26, JESD235, JESD209-5, JESD250: 8, hence at
most 9 intervals between two; DDR5 in normal mode allows 4, JESD79-5 4.13)."""

REPORTED = 100
"""Violations told per rule; a broken engine breaks the same rule at every command."""

CLOSED, ACTIVATING, OPEN = range(3)
_STATE = {"closed": CLOSED, "activating": ACTIVATING, "open": OPEN}


@dataclass(frozen=True, order=True)
class Violation:
    """One command that should not have been issued as it was."""

    index: int
    """Position in the log."""
    rule: str
    """Name of the timing rule, or what kind of rule: ``bank state``, ``data bus`` ..."""
    cycle: int
    message: str

    def __str__(self) -> str:
        return f"cycle {self.cycle}: {self.rule}: {self.message} (command {self.index})"


def check(
    log: CommandLog, *, refresh_interval_check: bool = True, postponed: int = POSTPONED
) -> list[Violation]:
    """Everything in a trace that its device forbids, in order of issue; empty for a good trace.

    Checked are all timing rules, the command buses and the clock edges commands may use, the
    data buses, the state of each bank (and, split activations, how long it may stay half
    open), rows, device modes, clock synchronisation before column commands, and how often
    each bank is refreshed.

    Args:
        log: a trace from power-up: all banks closed, the device in its first mode.
        refresh_interval_check: off for runs without refresh.
        postponed: refreshes that may be outstanding at any time.

    Returns:
        at most `REPORTED` violations of each rule.
    """
    found = [*_order(log)]
    if not found:
        found += _timing(log)
        found += _command_bus(log)
        found += _clock_edges(log)
        found += _data_bus(log)
        found += _modes(log)
        found += _clock_sync(log)
        found += _banks(log, postponed if refresh_interval_check else None)
    return sorted(found)


def rule_slack(log: CommandLog) -> list[int | None]:
    """Per rule of ``device.rules``: least number of cycles by which a command exceeded it.

    0 where the rule was the binding one at least once, negative where broken, None where no
    pair of commands in the trace fell under it.
    """
    index = _Index(log)
    return [
        min((int(s.min()) for *_, s in index.pairs(rule) if len(s)), default=None)
        for rule in log.device.rules
    ]


def slack(log: CommandLog) -> dict[str, int]:
    """Least slack in cycles by rule name, of the rules the trace exercised (see `rule_slack`)."""
    least: dict[str, int] = {}
    for rule, cycles in zip(log.device.rules, rule_slack(log), strict=True):
        if cycles is not None:
            least[rule.name] = min(cycles, least.get(rule.name, cycles))
    return least


class _Index:
    """The log's commands sorted by node, level by level."""

    def __init__(self, log: CommandLog) -> None:
        self.log, self.device, self.n = log, log.device, len(log)
        self._issued = set(np.unique(log.command).tolist())
        self._none = np.zeros(0, dtype=np.int64)
        self._targets: dict[tuple[int, int], tuple[Ints, Ints, bool]] = {}

    def targets(self, command: int, level: int) -> tuple[Ints, Ints, bool]:
        """(node, position) of each node of ``level`` each issue covers, by node; one node an issue?"""
        key = command, level
        if command not in self._issued:
            return self._none, self._none, True
        if key not in self._targets:
            covered = self.device.nodes_of(command, level)
            where = np.flatnonzero(self.log.command == command)
            nodes = covered[self.log.unit[where]]
            node, position = nodes.ravel(), np.repeat(where, nodes.shape[1])
            order = np.argsort(node * self.n + position)
            self._targets[key] = node[order], position[order], covered.shape[1] == 1
        return self._targets[key]

    def pairs(self, rule: TimingRule) -> Iterator[tuple[Ints, Ints, Ints]]:
        """Positions of the commands under the rule, of those they follow, and their slack."""
        first_node, first, single = self.targets(rule.first, rule.level)
        node, then, _ = self.targets(rule.then, rule.level)
        if not len(first) or not len(then) or (rule.sibling and not single):
            return
        keys = first_node * self.n + first
        siblings = self.device.counts[rule.level]
        for shift in range(1, siblings) if rule.sibling else (0,):
            other = node // siblings * siblings + (node + shift) % siblings
            at = np.searchsorted(keys, other * self.n + then) - rule.window
            bound = (at >= 0) & (first_node[np.maximum(at, 0)] == other)
            before, after = first[at[bound]], then[bound]
            yield after, before, self.log.cycle[after] - self.log.cycle[before] - rule.gap


def _order(log: CommandLog) -> Iterator[Violation]:
    device = log.device
    units = np.array([device.n_units(c) for c in range(len(device.commands))])
    known = (log.command >= 0) & (log.command < len(units))
    known &= (log.unit >= 0) & (log.unit < units[np.where(known, log.command, 0)])
    for i in _few(np.flatnonzero(~known)):
        yield Violation(i, "address", int(log.cycle[i]), f"command {log.command[i]} at unit {log.unit[i]}")
    if known.all():
        for i in _few(np.flatnonzero(np.diff(log.cycle, prepend=1) < 0)):
            yield _violation(log, i, "order", "before the one issued earlier, or before cycle 1")


def _timing(log: CommandLog) -> Iterator[Violation]:
    index = _Index(log)
    for rule in log.device.rules:
        for then, first, cycles in index.pairs(rule):
            for at in _few(np.flatnonzero(cycles < 0)):
                nth = f"{rule.window}th last " if rule.window > 1 else ""
                took = int(log.cycle[then[at]] - log.cycle[first[at]])
                yield _violation(
                    log, int(then[at]), rule.name,
                    f"{took} cycles after {nth}{_name(log, int(first[at]))} at {log.cycle[first[at]]},"
                    f" least {rule.gap}",
                )  # fmt: skip


def _command_bus(log: CommandLog) -> Iterator[Violation]:
    device = log.device
    on_column = np.array([c.bus == "column" for c in device.commands])[log.command]
    buses = [on_column, ~on_column] if device.dual_command_bus else [np.ones(len(log), dtype=bool)]
    held = np.array(device.command_cycles)[log.command]
    for mine in map(np.flatnonzero, buses):
        free = np.maximum.accumulate(log.cycle[mine] + held[mine])
        for i in _few(mine[1:][log.cycle[mine][1:] < free[:-1]]):
            yield _violation(log, i, "command bus", "while the command before it is still on the bus")


def _clock_edges(log: CommandLog) -> Iterator[Violation]:
    """HBM3 (JESD238): of two ticks a clock, the second is for precharges only."""
    device = log.device
    if device.ticks_per_clock != 2:
        return
    roles = ("precharge", "precharge_all", "precharge_same_bank")
    falling = log.cycle % 2 == 0
    precharge = np.isin(log.command, [device.roles[r] for r in roles if r in device.roles])
    for i in _few(np.flatnonzero(falling & ~precharge)):
        yield _violation(log, i, "clock edge", "in the second half of a clock")
    # a falling-edge precharge right behind a row command to its pseudo-channel: different single banks only
    row = np.flatnonzero(np.array([c.bus == "row" for c in device.commands])[log.command])
    ends = (log.cycle + np.array(device.command_cycles)[log.command])[row]
    pair = np.flatnonzero(falling[row][1:] & (log.cycle[row][1:] == ends[:-1]))
    bank, many, bus, buses = _placed(log)[:, row]
    same_bus = (bus[pair] == bus[pair + 1]) | (buses[pair] > 1) | (buses[pair + 1] > 1)
    same_bank = (bank[pair] == bank[pair + 1]) | (many[pair] > 1) | (many[pair + 1] > 1)
    for k in _few(pair[same_bus & same_bank]):
        yield _violation(log, int(row[k + 1]), "clock edge", f"paired with {_name(log, int(row[k]))}")


def _placed(log: CommandLog) -> Ints:
    """(4, n): first bank of each command, how many it has, first data bus of each, how many."""
    device = log.device
    out = np.zeros((4, len(log)), dtype=np.int64)
    for c in np.unique(log.command):
        banks = device.nodes_of(c, len(device.levels) - 1)
        buses = device.nodes_of(c, device.data_bus_at)
        mine = np.flatnonzero(log.command == c)
        unit = log.unit[mine]
        out[0, mine], out[1, mine] = banks[unit, 0], banks.shape[1]
        out[2, mine], out[3, mine] = buses[unit, 0], buses.shape[1]
    return out


def _data_bus(log: CommandLog) -> Iterator[Violation]:
    device, index = log.device, _Index(log)
    starts: list[tuple[Ints, Ints, Ints]] = []
    for c, command in enumerate(device.commands):
        if command.data is not None:
            node, position, _ = index.targets(c, device.data_bus_at)
            first_beat = log.cycle[position] + device.command_latency[c] - device.burst_cycles
            starts.append((node, first_beat, position))
    if not starts:
        return
    node, start, position = (np.concatenate(column) for column in zip(*starts, strict=True))
    order = np.lexsort((start, node))
    node, start, position = node[order], start[order], position[order]
    overlap = (np.diff(node) == 0) & (np.diff(start) < device.burst_cycles)
    for k in _few(np.flatnonzero(overlap)):
        first = int(position[k])
        yield _violation(
            log, int(position[k + 1]), "data bus", f"burst starts {start[k + 1] - start[k]} cycles after"
            f" that of {_name(log, first)} at {log.cycle[first]}, least {device.burst_cycles}",
        )  # fmt: skip


def _modes(log: CommandLog) -> Iterator[Violation]:
    device = log.device
    if not device.modes or not len(log):
        return
    enters = np.array([device.modes.index(c.enters) if c.enters else -1 for c in device.commands])
    before = _last_set(enters[log.command], 0)
    legal = np.array([[not c.modes or m in c.modes for m in device.modes] for c in device.commands])
    for i in _few(np.flatnonzero(~legal[log.command, before])):
        yield _violation(log, i, "mode", f"in mode {device.modes[before[i]]}")


def _clock_sync(log: CommandLog) -> Iterator[Violation]:
    """LPDDR5 (JESD209-5, WCK2CK synchronisation): column commands find the data clock running,
    which the CAS right before them or the last burst and its postamble provide."""
    device = log.device
    sync = {"read": device.roles.get("sync_read", -1), "write": device.roles.get("sync_write", -1)}
    if max(sync.values()) < 0:
        return
    wanted = np.array([sync[c.data] if c.data else -1 for c in device.commands])[log.command]
    latency = np.array(device.command_latency)[log.command]
    stops = np.where(wanted >= 0, log.cycle + latency + device.ticks("nWCKPST"), 0)
    running = log.cycle < np.concatenate([[0], np.maximum.accumulate(stops)[:-1]]) if len(log) else stops
    synced = np.zeros(len(log), dtype=bool)
    synced[1:] = (log.command[:-1] == wanted[1:]) & (log.unit[:-1] == log.unit[1:])
    for i in _few(np.flatnonzero((wanted >= 0) & ~running & ~synced)):
        yield _violation(log, i, "clock sync", "while the data clock stands still")
    alone = np.isin(log.command[:-1], list(sync.values())) & ~((log.command[:-1] == wanted[1:]) & synced[1:])
    for i in _few(np.flatnonzero(alone)):
        yield _violation(log, i, "clock sync", "not followed by its column command")


def _banks(log: CommandLog, postponed: int | None) -> Iterator[Violation]:
    """Bank by bank: states, rows, split activations, refreshes."""
    device = log.device
    needs = np.array([[not c.needs or s in c.needs for s in _STATE] for c in device.commands])
    leaves = np.array([_STATE[c.leaves] if c.leaves else -1 for c in device.commands])
    names = list(_STATE)
    hits = np.array([c.row_hit for c in device.commands])
    refreshes = np.array([c.refreshes for c in device.commands])
    interval = None if postponed is None else _refresh_interval(log)
    activating: list[Ints] = []
    unit_of = np.stack(device.unit_of)
    for bank in range(device.n_banks):
        mine = np.flatnonzero(unit_of[log.command, bank] == log.unit)
        command, cycle = log.command[mine], log.cycle[mine]
        state = _last_set(leaves[command], CLOSED)
        for k in _few(np.flatnonzero(~needs[command, state])):
            yield _violation(log, int(mine[k]), "bank state", f"while bank {bank} is {names[state[k]]}")
        opens = np.isin(leaves[command], (ACTIVATING, OPEN))
        opener = _last_set(np.where(opens, np.arange(len(mine)), -1), -1)
        row = np.where(opener >= 0, log.row[mine][opener], -1)
        wrong = (row != log.row[mine]) & hits[command] & (state == OPEN)
        for k in _few(np.flatnonzero(wrong)):
            yield _violation(log, int(mine[k]), "row", f"wants row {log.row[mine[k]]} while {row[k]} is open")
        half = np.flatnonzero(leaves[command] == ACTIVATING)
        if len(half):
            activating.append(mine[half])
            end = np.append(cycle, log.cycle[-1])[half + 1]
            for k in half[end - cycle[half] > device.ticks("nAAD")][:REPORTED]:
                yield _violation(log, int(mine[k]), "nAAD", f"bank {bank} stays half open for over nAAD")
        if interval is not None:
            yield from _refreshed(log, bank, mine[refreshes[command]], interval, postponed or 0)
    yield from _one_activation(log, activating)


def _one_activation(log: CommandLog, activating: list[Ints]) -> Iterator[Violation]:
    """Split activations may not be nested: no other first half before the second half."""
    device = log.device
    second = device.roles.get("activate_second", -1)
    halves = np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *activating]))
    seconds = np.flatnonzero(log.command == second)
    finished = np.searchsorted(seconds, halves[1:]) - np.searchsorted(seconds, halves[:-1])
    for i in _few(halves[1:][finished == 0]):
        yield _violation(log, i, "bank state", "while another activation is half done")


def _refresh_interval(log: CommandLog) -> int | None:
    """Ticks in which each bank must be refreshed once on average; None for a device without refresh.

    That is nREFI, however the refreshes are cut up (rounded up where per-bank refreshes cannot
    divide it evenly); a same-bank refresh does half a bank's share (JESD79-5: fine granularity).
    """
    device, used = log.device, set(np.unique(log.command).tolist())
    if not device.timing.get("nREFI"):
        return None
    interval = device.ticks("nREFI")
    nodes = int(np.prod(device.counts[: device.refresh_at + 1]))
    if (bank := device.roles.get("refresh_bank")) in used and bank is not None:
        units = device.n_units(bank) // nodes
        interval = max(interval, -(-interval // units) * units)
    if (same := device.roles.get("refresh_same_bank")) in used and same is not None:
        interval = device.ticks("nREFIsb") * device.n_units(same) // nodes
    return interval


def _refreshed(log: CommandLog, bank: int, at: Ints, interval: int, postponed: int) -> Iterator[Violation]:
    cycle = np.concatenate([[0], log.cycle[at], log.cycle[-1:]])
    position = np.concatenate([[0], at, [len(log) - 1]])
    late = cycle[1:] > (np.arange(1, len(cycle)) + postponed) * interval
    late |= np.diff(cycle) > (postponed + 1) * interval
    for k in _few(np.flatnonzero(late))[:1]:
        yield Violation(
            int(position[k + 1]), "refresh", int(cycle[k + 1]), f"bank {bank} refreshed {k} times in"
            f" {cycle[k + 1]} cycles and {cycle[k + 1] - cycle[k]} cycles ago; nREFI is {interval},"
            f" at most {postponed} may be postponed",
        )  # fmt: skip


def _last_set(values: Ints, initial: int) -> Ints:
    """For each position, the latest earlier value that is not -1."""
    latest = np.maximum.accumulate(np.where(values >= 0, np.arange(1, len(values) + 1), 0))
    before = np.concatenate([np.zeros(1, dtype=np.int64), latest[:-1]])[: len(values)]
    return np.concatenate([[initial], values])[before]


def _few(positions: Ints) -> list[int]:
    return [int(p) for p in positions[:REPORTED]]


def _name(log: CommandLog, i: int) -> str:
    device = log.device
    banks = device.banks_of(int(log.command[i]), int(log.unit[i]))
    where = f"bank {banks[0]}" if len(banks) == 1 else f"banks {banks[0]}..{banks[-1]}"
    return f"{device.command_names[log.command[i]]} {where}"


def _violation(log: CommandLog, i: int, rule: str, message: str) -> Violation:
    return Violation(int(i), rule, int(log.cycle[i]), f"{_name(log, i)} {message}")
