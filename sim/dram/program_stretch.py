"""Stretches: commands that follow each other with nothing between, laid out for the kernel.

Inside a stretch it is known which command wrote the slot that another one looks at, which banks are
open, and what cannot bind: a distance from an earlier command is dropped where the commands in
between keep the two at least as far apart. What is left is executed command by command, mostly with
one look back each. Where the banks or the mode are not those a stretch was laid out for, or a
refresh could come between, its commands are executed one at a time like any others.

Stretches are found in advance and laid out when they have been met often: the state of the banks at
the latest visit is the one it is laid out for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from neardata.sim.dram import program_layout as k

Table = NDArray[np.int64]

LONGEST_STRETCH = 128
"""Commands, where repetitions that are taken in one step count as one."""
LEAST_VISITS = 1000
"""Visits after which a stretch is laid out: its commands have then taken about as long as that does."""
_UNKNOWN = -(1 << 60)


@dataclass(frozen=True)
class _Command:
    """A command of a stretch."""

    target: int
    times: int
    """Repetitions taken in one step."""


def find_stretches(tables: k.Tables) -> list[tuple[int, int]]:
    """First operation of each stretch, and the operation after it."""
    if tables.config[k.K_LOG] or tables.config[k.K_ROWS]:
        return []
    found: list[tuple[int, int]] = []
    _find(_Reader(tables), 0, len(tables.op), False, found)
    return found


def _find(reader: _Reader, pc: int, end: int, looped: bool, found: list[tuple[int, int]]) -> None:
    start, length = -1, 0
    while pc < end:
        kind, after = reader.op[pc][k.O_KIND], reader.after(pc)
        size = reader.size(pc, frozenset()) if looped and kind in (k.ISSUE, k.LOOP) else None
        if start >= 0 and (size is None or length + size > LONGEST_STRETCH):
            if length > 1:
                found.append((start, pc))
            start, length = -1, 0
        if size is not None and size <= LONGEST_STRETCH:
            start, length = (pc if start < 0 else start), length + size
        elif kind == k.LOOP:
            _find(reader, pc + 1, after - 1, True, found)
        pc = after
    if start >= 0 and length > 1:
        found.append((start, end))


class _Reader:
    """Reads commands from a program's operations."""

    def __init__(self, tables: k.Tables) -> None:
        self.op, self.term, self.digit = tables.op.tolist(), tables.term.tolist(), tables.digit.tolist()
        self.plan, self.runs = tables.plan, bool(tables.config[k.K_RUNS])

    def after(self, pc: int) -> int:
        """The operation after a step."""
        op = self.op[pc]
        return int(op[k.O_C]) if op[k.O_KIND] in (k.LOOP, k.FORK) else pc + 1

    def size(self, pc: int, indices: frozenset[int]) -> int | None:
        """Commands of a step given the loop indices; None if it cannot be part of a stretch."""
        op = self.op[pc]
        if op[k.O_KIND] == k.ISSUE:
            known = all(self.term[i][0] in indices for i in range(op[k.O_TARGET_TERMS], op[k.O_ROW_TERMS]))
            if not known or op[k.O_CHECK] or not op[k.O_REPEAT]:
                return None
            target = op[k.O_TARGET]
            if self.plan[target + k.G_DATA] and self.plan[target + k.G_LEAVES]:
                return None  # when an auto-precharge happens is known too late
            return min(op[k.O_REPEAT], 1) if op[k.O_RUN] and self.runs else int(op[k.O_REPEAT])
        digits = self.digit[op[k.O_A] : op[k.O_B]]
        if op[k.O_KIND] != k.LOOP or op[k.O_E] or any(times == 0 for _, times in digits):
            return None
        inner, size = indices | {position for position, _ in digits}, 0
        at, end = pc + 1, self.after(pc) - 1
        while at < end:
            one = self.size(at, inner)
            if one is None:
                return None
            size += one
            at = self.after(at)
        return size * int(np.prod([times for _, times in digits], dtype=object))

    def commands(self, pc: int, end: int, values: dict[int, int]) -> Iterator[_Command]:
        """The commands from ``pc`` to ``end``, given the values of loop indices."""
        while pc < end:
            op = self.op[pc]
            if op[k.O_KIND] == k.LOOP:
                digits = self.digit[op[k.O_A] : op[k.O_B]]
                for index in np.ndindex(*(times for _, times in digits)):
                    inner = {d: int(i) for (d, _), i in zip(digits, index, strict=True)}
                    yield from self.commands(pc + 1, self.after(pc) - 1, {**values, **inner})
            elif op[k.O_REPEAT]:
                target = op[k.O_TARGET]
                for i in range(op[k.O_TARGET_TERMS], op[k.O_ROW_TERMS]):
                    target += self.term[i][1] * values[self.term[i][0]]
                if op[k.O_RUN] and self.runs:
                    yield _Command(target, op[k.O_REPEAT])
                else:
                    step = op[k.O_TARGET_STEP]
                    yield from (_Command(target + i * step, 1) for i in range(op[k.O_REPEAT]))
            pc = self.after(pc)


def lay_out_stretches(
    tables: k.Tables, state: k.State, stretches: list[tuple[int, int]]
) -> tuple[k.Tables, bool]:
    """Tables in which what has been met often is laid out, and whether stretches are left that are not."""
    left = False
    code = [tables.code]
    size = len(tables.code)
    reader = None
    for n, (start, end) in enumerate(stretches):
        if tables.op[start, k.O_STRETCH] >= 0:
            continue
        if state.stretch[n, k.L_VISITS] < LEAST_VISITS:
            left = True
            continue
        reader = reader or _Reader(tables)
        words = state.stretch[n, k.L_STATE :].tolist()
        one = _lay_out(tables, list(reader.commands(start, end, {})), words, start, end)
        tables.op[start, k.O_STRETCH] = size if one else 0
        if one:
            code.append(np.array(one, dtype=np.int64))
            size += len(one)
    return (tables._replace(code=np.concatenate(code)) if len(code) > 1 else tables), left


def _lay_out(tables: k.Tables, commands: list[_Command], words: list[int], start: int, end: int) -> list[int]:
    """A stretch as `execute_stretch` reads it; empty if one of its commands is not allowed."""
    config = tables.config
    banks = _Banks(tables, words)
    ticks = _Ticks(tables)
    growth: dict[int, int] = {}
    changes: list[int] = []
    body: list[int] = []
    issued = 0
    for n, command in enumerate(commands):
        refreshable = banks.refreshable()
        target = command.target
        changed = banks.issue(target)
        if changed is None:
            return []
        body += ticks.issue(target, command.times, refreshable, growth)
        for unit, what in changed:
            changes += [unit, int(config[k.K_TICK]) + n, what]
        counter = int(config[k.K_STAT] + k.S_COMMANDS + tables.plan[target + k.G_COMMAND])
        growth[counter] = growth.get(counter, 0) + command.times
        issued += command.times
    copies, completions = ticks.copies(), ticks.completions(commands)
    op, head = tables.op, [0] * k.C_STATE
    if op[end, k.O_KIND] == k.LOOP_END and op[end, k.O_A] + 1 == start and words == banks.words():
        head[k.C_AGAIN] = int(op[op[end, k.O_A], k.O_E] == 0)
    head[k.C_NEXT], head[k.C_ISSUED] = end, issued
    head[k.C_COMMANDS], head[k.C_LENGTH] = len(commands), len(body)
    head[k.C_COPIES], head[k.C_COMPLETIONS] = len(copies), len(completions)
    head[k.C_GROWTHS], head[k.C_CHANGES] = len(growth), len(changes) // 3
    lists = [n for entry in (*copies, *completions, *growth.items()) for n in entry]
    return [*head, *words, *banks.words(), *body, *lists, *changes]


class _Banks:
    """States of banks and mode as a stretch goes on."""

    def __init__(self, tables: k.Tables, words: list[int]) -> None:
        self.plan, self.config = tables.plan, tables.config
        self.n_words = int(self.config[k.K_WORDS])
        self.mode = words[k.W_MODE]
        self.open = _joined(words[k.W_BANKS :: 2])
        self.activating = _joined(words[k.W_BANKS + 1 :: 2])
        first = int(self.config[k.K_UNIT_MASK])
        units = range(first, first + self.n_words * int(self.config[k.K_UNITS]), self.n_words)
        self.units = [self._mask(at) for at in units]

    def _mask(self, at: int) -> int:
        return _joined(self.plan[at : at + self.n_words].tolist())

    def words(self) -> list[int]:
        """As in the state vector."""
        out, low = [self.mode], (1 << k.WORD_BITS) - 1
        for w in range(self.n_words):
            out += [bits >> w * k.WORD_BITS & low for bits in (self.open, self.activating)]
        return out

    def refreshable(self) -> bool:
        """Could a refresh go first?"""
        if self.config[k.K_POLICY] != k.ALL_BANK:
            return False
        modes = int(self.plan[self.config[k.K_REFRESH] + k.G_MODES])
        legal = not modes or modes >> self.mode & 1
        return bool(legal) and any(not unit & (self.open | self.activating) for unit in self.units)

    def issue(self, target: int) -> list[tuple[int, int]] | None:
        """What changes in the refresh units (unit, `CLOSES` ...); None if the command is not allowed."""
        fact = self.plan[target : target + k.G_LISTS].tolist()
        mask = self._mask(target + fact[k.G_MASK])
        used = self.open | self.activating
        allowed = 0
        for bit, banks in ((k.OPEN, self.open), (k.ACTIVATING, self.activating), (k.CLOSED, ~used)):
            allowed |= banks if fact[k.G_NEEDS] & bit else 0
        if fact[k.G_NEEDS] and mask & ~allowed:
            return None
        if fact[k.G_MODES] and not fact[k.G_MODES] >> self.mode & 1:
            return None
        if fact[k.G_ENTERS] >= 0:
            self.mode = fact[k.G_ENTERS]
        leaves = fact[k.G_LEAVES]
        if not leaves:
            return []
        changes = []
        for unit, mine in enumerate(self.units):
            before = used & mine
            after = before & ~mask if leaves == k.CLOSED else before | mask & mine
            what = k.CLOSES if leaves == k.CLOSED and before & mask else 0
            what |= k.OPENS_UNIT if after and not before else 0
            what |= k.CLOSES_UNIT if before and not after else 0
            if what:
                changes.append((unit, what))
        self.open = self.open & ~mask | (mask if leaves == k.OPEN else 0)
        self.activating = self.activating & ~mask | (mask if leaves == k.ACTIVATING else 0)
        return changes


def _joined(words: list[int]) -> int:
    return sum(word << w * k.WORD_BITS for w, word in enumerate(words))


@dataclass
class _Ticks:
    """Where the ticks that commands look back at come from as a stretch goes on."""

    tables: k.Tables
    source: dict[int, int] = field(default_factory=dict)
    """Of each position in the state vector that was written: where its value is now."""
    windows: dict[int, int] = field(default_factory=dict)
    """Window of each slot that was written."""
    bus_gap: dict[int, int] = field(default_factory=dict)
    """Cycles of the latest command on each bus."""
    apart: list[dict[int, int]] = field(default_factory=list)
    """For each command so far: from each source, the least distance to it."""

    @property
    def n(self) -> int:
        return len(self.apart)

    def issue(self, target: int, times: int, refreshable: bool, growth: dict[int, int]) -> list[int]:
        """A command as the kernel reads it; the causes of its repetitions are added to ``growth``."""
        config, plan, tick = self.tables.config, self.tables.plan, int(self.tables.config[k.K_TICK])
        fact = plan[target : target + k.G_LISTS].tolist()
        at = target + fact[k.G_READ]
        reads = plan[at : at + 3 * fact[k.G_READS]].reshape(-1, 3).tolist()
        at = target + fact[k.G_WRITE]
        writes = plan[at : at + 2 * fact[k.G_WRITES]].reshape(-1, 2).tolist()

        before = tick + self.n - 1 if self.n else k.T_PREVIOUS
        bus_slot = k.T_BUS + fact[k.G_BUS]
        bus, gap = self.source.get(bus_slot, bus_slot), self.bus_gap.get(bus_slot, 0)
        looks = [(before, 0, -1), (bus, gap, -1)]
        looks += [(self.source.get(slot, slot), least, why) for slot, least, why in reads]
        reach = [self._reach(source, least) for source, least, _ in looks]
        kept = [look for i, look in enumerate(looks) if i > 1 and not _dominated(i, looks, reach)]

        distance, cause = 0, -1
        if kept and kept[0][0] == before:
            (_, distance, cause), *kept = kept

        flags = k.ON_EDGE if fact[k.G_EDGE] else 0
        flags |= k.OTHER_BUS if bus != before else 0
        flags |= k.REFRESHABLE if refreshable else 0
        more = 0
        if times > 1:
            own = {slot for slot, _ in writes}
            period, why = self._period(fact, [read for read in reads if read[0] in own])
            more = (times - 1) * period
            self._grow(growth, int(config[k.K_STAT]) + k.S_BUSY, (times - 1) * fact[k.G_CYCLES])
            if period > fact[k.G_CYCLES]:
                waited = (times - 1) * (period - fact[k.G_CYCLES])
                self._grow(growth, int(config[k.K_CAUSES]) + why, waited)

        mine: dict[int, int] = {}
        for vector in reach:
            for source, least in vector.items():
                mine[source] = max(mine.get(source, _UNKNOWN), least + more)
        here = tick + self.n
        mine[here] = 0
        self.apart.append(mine)
        for slot, window in writes:
            for w in range(slot + window - 1, slot, -1):
                self.source[w] = self.source.get(w - 1, w - 1)
            self.source[slot] = here
            self.windows[slot] = window
        self.source[bus_slot], self.bus_gap[bus_slot] = here, fact[k.G_CYCLES]
        return [3 * len(kept), bus, gap, flags, more, distance, cause, *(n for look in kept for n in look)]

    @staticmethod
    def _grow(growth: dict[int, int], to: int, plus: int) -> None:
        growth[to] = growth.get(to, 0) + plus

    def _period(self, fact: list[int], own: list[list[int]]) -> tuple[int, int]:
        """Distance of a command's repetitions, and what they wait for."""
        period, cause = fact[k.G_CYCLES], -1
        for _, distance, why in own:
            if distance > period:
                period, cause = distance, why
        if fact[k.G_EDGE] and period & 1:
            period += 1
            cause = int(self.tables.config[k.K_RULES]) + k.EDGE if cause < 0 else cause
        return period, cause

    def _reach(self, source: int, distance: int) -> dict[int, int]:
        """From each source, the least distance that looking back at ``source`` guarantees."""
        known = source - int(self.tables.config[k.K_TICK])
        if known < 0:
            return {source: distance}
        return {other: d + distance for other, d in self.apart[known].items()}

    def copies(self) -> list[tuple[int, int, int]]:
        """(to, from, plus): the slots and buses after the stretch, oldest of a window first."""
        buses = [(bus, self.source[bus], gap) for bus, gap in self.bus_gap.items()]
        slots = [
            (w, self.source[w], 0)
            for slot, window in self.windows.items()
            for w in range(slot + window - 1, slot - 1, -1)
        ]
        return [*buses, *slots]

    def completions(self, commands: list[_Command]) -> list[tuple[int, int, int]]:
        """(to, from, plus): what fences wait for, the latest commands of each kind."""
        config, plan = self.tables.config, self.tables.plan
        out = []
        for what, kinds in (
            (k.F_ALL, (0, k.READS, k.WRITES)),
            (k.F_DATA, (k.READS, k.WRITES)),
            (k.F_READS, (k.READS,)),
        ):
            longest = -1
            for n in reversed(range(len(commands))):
                target = commands[n].target
                latency = int(plan[target + k.G_LATENCY])
                if plan[target + k.G_DATA] in kinds and latency > longest:
                    longest = latency
                    out.append((int(config[k.K_FENCES]) + what, int(config[k.K_TICK]) + n, latency))
        return out


def _dominated(i: int, looks: list[tuple[int, int, int]], reach: list[dict[int, int]]) -> bool:
    """Can a look back never be the first to ask for the latest tick?"""
    source, distance, _ = looks[i]
    for j, vector in enumerate(reach):
        other = vector.get(source, _UNKNOWN)
        if j != i and (other > distance or (other == distance and j < i)):
            return True
    return False
