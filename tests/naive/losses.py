"""Where the cycles went, the obvious way: the account of `neardata.sim.dram.losses` by looking back.

Every earlier command is searched for every rule, the chain of causes is a recursion over them,
and each idle cycle is handed out one by one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from neardata.arch.dram import Device, TimingRule
from neardata.sim.dram.command_log import CommandLog


@dataclass
class Held:
    """A command and what held it back last."""

    cycle: int
    command: int
    banks: set[int]
    ready: int = 1
    rule: TimingRule | None = None
    by: Held | None = None
    earlier: list[Held] = field(default_factory=list, repr=False)
    """Commands on the same command bus."""


def explain(
    log: CommandLog, total_cycles: int, arrival: np.ndarray | None = None
) -> tuple[int, list[Counter]]:
    """(cycles, per bus a count of ticks by cause, "busy" among them)."""
    device = log.device
    buses = device.node_of(device.data_bus_at)
    ticks: list[dict[int, str]] = [{} for _ in range(device.n_data_buses)]
    seen: list[Held] = []
    for i in range(len(log)):
        c, t = int(log.command[i]), int(log.cycle[i])
        now = Held(t, c, set(device.banks_of(c, int(log.unit[i])).tolist()))
        hold(device, seen, now)
        if arrival is not None and log.kind[i] >= 0 and arrival[i] > now.ready:
            now.ready, now.rule, now.by = int(arrival[i]), None, None
        now.earlier = [old for old in seen if same_bus(device, old.command, c)]
        seen.append(now)
        if device.commands[c].data is None:
            continue
        end = t + device.command_latency[c]
        start = end - device.burst_cycles
        for bus in sorted({int(buses[b]) for b in now.banks}):
            used = ticks[bus]
            first = not used
            begin = max(used, default=0) + 1
            causes: list[str] = []
            if first:
                causes += ["latency"] * min(start - begin, device.command_latency[c] - device.burst_cycles)
            causes += chain(device, now, start - begin - len(causes))
            used.update(zip(range(begin, start), causes, strict=True))
            used.update({tick: "busy" for tick in range(max(start, begin), end)})
    cycles = max(total_cycles, *(max(used, default=0) for used in ticks))
    for used in ticks:
        used.update({tick: "no request" for tick in range(max(used, default=0) + 1, cycles + 1)})
        assert sorted(used) == list(range(1, cycles + 1))
    return cycles, [Counter(used.values()) for used in ticks]


def hold(device: Device, seen: list[Held], now: Held) -> None:
    """Find the rule that lets ``now`` issue last; of equals the longest, then the first of the table."""
    best = (now.ready, 0)
    for rule in device.rules:
        if rule.then != now.command or rule.gap <= 0:
            continue
        size = device.n_banks // int(np.prod(device.counts[: rule.level + 1]))
        for node in {bank // size for bank in now.banks}:
            for earlier in bound(device, rule, seen, node, size):
                ready = earlier.cycle + rule.gap
                if ready > 1 and (ready, rule.gap) > best:
                    best = (ready, rule.gap)
                    now.ready, now.rule, now.by = ready, rule, earlier


def bound(device: Device, rule: TimingRule, seen: list[Held], node: int, size: int) -> list[Held]:
    """The window-th latest first command of the rule, at the node (of ``size`` banks) or each sibling."""
    found, siblings = [], device.counts[rule.level]
    family = range(node // siblings * siblings, node // siblings * siblings + siblings)
    for place in [n for n in family if n != node] if rule.sibling else [node]:
        hits = []
        for earlier in reversed(seen):
            if earlier.command != rule.first:
                continue
            touched = {bank // size for bank in earlier.banks}
            if place in touched and not (rule.sibling and len(touched) > 1):
                hits.append(earlier)
            if len(hits) == rule.window:
                found.append(hits[-1])
                break
    return found


def chain(device: Device, now: Held, idle: int) -> list[str]:
    """One cause for each of ``idle`` cycles, in no particular order."""
    causes: list[str] = []
    own: list[str] = []  # the row's own latencies on the way
    while len(causes) < idle:
        free = now.ready
        while device.ticks_per_clock == 2 and free % 2 == 0 and not precharges(device, now.command):
            free += 1
        waits = [waiting(device, now, tick) for tick in range(now.cycle - 1, free - 1, -1)][:idle]
        waits += ["clock edge"] * (free - now.ready)
        if now.rule is None or now.by is None:
            causes += own + waits + ["no request"] * idle
            break
        rule, first, then = now.rule, device.commands[now.rule.first], device.commands[now.rule.then]
        if (
            set(then.needs) & {first.leaves, "open" if first.leaves == "activating" else None}
            and not first.data
        ):
            own += waits + [rule.name] * rule.gap
            now = now.by
            continue
        causes += waits
        if first.refreshes:
            causes += ["refresh"] * idle
        elif first.data and then.data:
            causes += [rule.name] * idle
        elif first.data:
            causes += [rule.name] * rule.gap + own + [rule.name] * idle
        else:
            causes += [rule.name] * rule.gap
        now = now.by
    return causes[:idle]


def same_bus(device: Device, one: int, other: int) -> bool:
    buses = {device.commands[c].bus for c in (one, other)}
    return len(buses) == 1 or not device.dual_command_bus


def waiting(device: Device, now: Held, tick: int) -> str:
    """Did another command hold the bus at a tick that ``now`` could have issued in?"""
    last = next((old for old in reversed(now.earlier) if old.cycle <= tick), None)
    held = last is not None and tick < last.cycle + device.command_cycles[last.command]
    return "command bus" if held else "arbitration"


def precharges(device: Device, command: int) -> bool:
    return device.command_names[command].startswith("PRE")
