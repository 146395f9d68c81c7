"""Where the last issues of commands are kept so that every timing rule is one look-up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from neardata.arch.dram import Device, TimingRule


class Slots:
    """Where the last issues of commands are kept, and which of them bind which command.

    A rule between a first and a then command binds where they share a node of its level, that
    is, where they share an ancestor at the highest of the rule's and the two commands' levels:
    one slot per node of that level is enough. Commands that lie across levels, windows (each
    node has its own history) and sibling rules use the nodes of the rule's level themselves.
    """

    def __init__(self, device: Device, commands: tuple[int, ...], causes: tuple[str, ...]) -> None:
        self.device = device
        self.first_target = []
        self._tables: dict[tuple[int, int, int], int] = {}
        self.clamp: list[int] = []
        """Per slot: the largest gap counted from it."""
        n = 0
        for c in commands:
            self.first_target.append(n)
            n += device.n_units(c)
        self.reads: list[list[tuple[int, int, int]]] = [[] for _ in range(n)]
        """Per target: (slot, gap, cause)."""
        self.writes: list[list[tuple[int, int]]] = [[] for _ in range(n)]
        """Per target: (slot, window)."""
        self.closes: list[list[tuple[int, int]]] = [[] for _ in range(n)]
        """Per target of a command with auto-precharge: (slot, gap) that the precharge waits for."""
        self.close_delay = [0] * len(commands)
        """Per command with auto-precharge: ticks to the precharge, if nothing keeps it waiting."""
        for rule in device.rules:
            if rule.first in commands and rule.then in commands and rule.gap > 0:
                self._add(rule, commands, causes.index(rule.name))
        self.reads = [_largest(entries) for entries in self.reads]
        for c in commands:
            if device.commands[c].data and device.commands[c].leaves == "closed":
                self._add_auto_precharge(c, commands)
        self.steady: list[bool] = []
        """Per command: no window counts it, so a repetition of it settles at one distance."""
        for start, c in zip(self.first_target, commands, strict=True):
            written = [entry for t in range(start, start + device.n_units(c)) for entry in self.writes[t]]
            self.steady.append(all(window == 1 for _, window in written))

    def _add_auto_precharge(self, auto: int, commands: tuple[int, ...]) -> None:
        """When the device closes the rows: as if a precharge were issued as soon as it may."""
        device = self.device
        role = "precharge" if device.commands[auto].at == "bank" else "precharge_all"
        if role not in device.roles:
            return
        precharge = device.roles[role]
        openers = [c for c, spec in enumerate(device.commands) if spec.leaves == "open"]
        recovery = {
            c: max((r.gap for r in device.rules if (r.first, r.then) == (precharge, c)), default=0)
            for c in openers
        }
        delays = [r.gap - recovery[r.then] for r in device.rules if r.first == auto and r.then in recovery]
        self.close_delay[commands.index(auto)] = max([0, *delays])
        for rule in device.rules:
            if rule.then == precharge and rule.first in openers and rule.first in commands:
                for target, slot in self._looks_back(replace(rule, then=auto), commands):
                    self.closes[target].append((slot, rule.gap))

    def _add(self, rule: TimingRule, commands: tuple[int, ...], cause: int) -> None:
        for target, slot in self._looks_back(rule, commands):
            self.reads[target].append((slot, rule.gap, cause))

    def _looks_back(self, rule: TimingRule, commands: tuple[int, ...]) -> Iterator[tuple[int, int]]:
        """(target, slot) for each target of the rule's then command and each slot it looks at."""
        device = self.device
        first, then = device.commands[rule.first], device.commands[rule.then]
        first_depth, then_depth = device.levels.index(first.at), device.levels.index(then.at)
        level = rule.level
        if rule.sibling:
            if first_depth < level or set(device.levels[: level + 1]) & set(first.across):
                return  # a command that spans the level has no siblings in it
        elif rule.window > 1:
            level = level if first.across else min(level, first_depth)
        elif not first.across and not then.across:
            level = min(level, first_depth, then_depth)
        slots = self._table(rule.first, level, rule.window, commands)
        node = device.node_of(level)
        siblings = device.counts[level]
        base = self.first_target[commands.index(rule.then)]
        for unit in range(device.n_units(rule.then)):
            nodes = np.unique(node[device.banks_of(rule.then, unit)]).tolist()
            if rule.sibling:
                parents = {n: n // siblings * siblings for n in nodes}
                nodes = sorted({p + i for n, p in parents.items() for i in range(siblings) if p + i != n})
            for n in nodes:
                start = slots + n * rule.window
                for slot in range(start, start + rule.window):
                    self.clamp[slot] = max(self.clamp[slot], rule.gap)
                yield base + unit, start + rule.window - 1

    def _table(self, first: int, level: int, window: int, commands: tuple[int, ...]) -> int:
        """First slot of a command's history by node of a level."""
        key = (first, level, window)
        if key not in self._tables:
            node = self.device.node_of(level)
            start = self._tables[key] = len(self.clamp)
            self.clamp += [0] * ((int(node.max()) + 1) * window)
            base = self.first_target[commands.index(first)]
            for unit in range(self.device.n_units(first)):
                for n in np.unique(node[self.device.banks_of(first, unit)]).tolist():
                    self.writes[base + unit].append((start + n * window, window))
        return self._tables[key]


def _largest(entries: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """One entry a slot: the first of those with its largest gap, in the order of the rules."""
    best: dict[int, tuple[int, int, int]] = {}
    for entry in entries:
        if entry[0] not in best or entry[1] > best[entry[0]][1]:
            best[entry[0]] = entry
    return [entry for entry in entries if best[entry[0]] is entry]
