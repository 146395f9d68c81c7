"""The obvious twin of the command-program kernel: every command, straight from the device's rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from neardata.arch.dram import Device
from neardata.sim.dram.program import (
    ChannelGroup,
    Fence,
    Issue,
    Loop,
    Parallel,
    Phase,
    Program,
    RefreshPoint,
    Step,
    Until,
    Wait,
    Yield,
)

POSTPONED = 8
PRECHARGES = ("precharge", "precharge_all", "precharge_same_bank")


class Illegal(Exception):
    """A command its banks' states, its row or the device's mode forbids."""


@dataclass(frozen=True)
class Head:
    """The next command of a stream."""

    command: int
    unit: int
    row: int = -1
    column: int = -1
    check: bool = False


@dataclass
class Stream:
    """A stream of steps: what it may not issue before, why, and when its commands are complete."""

    bound: int = 0
    cause: str = ""
    complete: dict[str, int] = field(default_factory=lambda: {"reads": 0, "data": 0, "all": 0})


class NaiveChannel:
    """One channel, command by command.

    Attributes:
        rows: (tick, command, unit, row, column, kind) of every command, as a `CommandLog` has them.
    """

    def __init__(self, program: Program, device: Device, refresh: str) -> None:
        self.program, self.device, self.refresh = program, device, refresh
        self.rows: list[tuple[int, int, int, int, int, int]] = []
        self.lost: Counter[str] = Counter()
        self.phases: Counter[str] = Counter()
        self.phase = ""
        self.busy = self.refreshes = self.open_cycles = 0
        self.previous = 1
        self.free_bus = {"row": 1, "column": 1}
        self.state = ["closed"] * device.n_banks
        self.row = [-1] * device.n_banks
        self.opener: list[tuple[int, int, int] | None] = [None] * device.n_banks
        self.opened_at = [0] * device.n_banks
        self.last_activation: dict[int, tuple[int, int]] = {}
        self.open_spans: list[list[tuple[int, int]]] = [[] for _ in range(device.n_banks)]
        self.mode = device.modes[0] if device.modes else ""
        self.main = Stream()
        self.depart: list[int] = []
        self.units = int(device.node_of(device.refresh_at).max()) + 1
        self.owed = program.owed
        first = program.first_refresh
        interval = device.ticks("nREFI") if refresh != "none" else 0
        self.due = [interval if first is None else first * device.ticks_per_clock] * self.units
        self.nodes = [device.node_of(level) for level in range(len(device.levels))]
        self.issued: dict[int, list[tuple[int, int]]] = {}

    # timing

    def touched(self, command: int, unit: int, level: int) -> set[int]:
        return set(self.nodes[level][self.device.banks_of(command, unit)].tolist())

    def bus(self, command: int) -> str:
        return self.device.commands[command].bus if self.device.dual_command_bus else "row"

    def earliest(self, command: int, unit: int, bound: int, cause: str) -> tuple[int, str, int]:
        device = self.device
        base = max(self.previous, self.free_bus[self.bus(command)])
        tick, why = base, ""
        if bound > tick:
            tick, why = bound, cause
        for rule in device.rules:
            if rule.then != command:
                continue
            targets = self.touched(command, unit, rule.level)
            if rule.sibling:
                spanned = device.levels[: rule.level + 1]
                depth = device.levels.index(device.commands[rule.first].at)
                if depth < rule.level or set(spanned) & set(device.commands[rule.first].across):
                    continue
                n = device.counts[rule.level]
                targets = {t // n * n + i for t in targets for i in range(n) if t // n * n + i != t}
            for node in targets:
                seen = 0
                for at, earlier_unit in reversed(self.issued.get(rule.first, [])):
                    if at + rule.gap <= tick:
                        break
                    if node in self.touched(rule.first, earlier_unit, rule.level):
                        seen += 1
                        if seen == rule.window:
                            tick, why = at + rule.gap, rule.name
                            break
        precharge = command in [device.roles.get(role) for role in PRECHARGES]
        if device.ticks_per_clock == 2 and tick % 2 == 0 and not precharge:
            tick, why = tick + 1, why or "clock edge"
        return tick, why, base

    # issuing

    def check(self, head: Head) -> None:
        spec = self.device.commands[head.command]
        for bank in self.device.banks_of(head.command, head.unit).tolist():
            if spec.needs and self.state[bank] not in spec.needs:
                raise Illegal(f"bank {bank} is {self.state[bank]}")
            if head.check and self.row[bank] != head.row:
                raise Illegal(f"bank {bank} has row {self.row[bank]}")
        if spec.modes and self.mode not in spec.modes:
            raise Illegal(f"mode {self.mode}")

    def put(self, head: Head, stream: Stream, bound: int, cause: str, kind: int) -> int:
        """Issue a command at its earliest tick."""
        device, spec = self.device, self.device.commands[head.command]
        tick, why, base = self.earliest(head.command, head.unit, bound, cause)
        self.check(head)
        banks = device.banks_of(head.command, head.unit).tolist()
        row = head.row
        if row < 0 and (spec.row_hit or "activating" in spec.needs):
            row = self.row[banks[0]]
        self.rows.append((tick, head.command, head.unit, row, head.column, kind))
        self.issued.setdefault(head.command, []).append((tick, head.unit))
        self.busy += base - self.previous
        self.lost[why] += tick - base
        self.phases[self.phase] += tick - self.previous
        self.previous = tick
        self.free_bus[self.bus(head.command)] = tick + device.command_cycles[head.command]
        complete = tick + device.command_latency[head.command]
        stream.complete["all"] = max(stream.complete["all"], complete)
        if spec.data:
            stream.complete["data"] = max(stream.complete["data"], complete)
        if spec.data == "read":
            stream.complete["reads"] = max(stream.complete["reads"], complete)
        if spec.enters:
            self.mode = spec.enters
        for bank in banks if spec.leaves else []:
            if spec.leaves == "closed" and self.state[bank] != "closed":
                closed_at = self.precharged_at(head, bank, tick) if spec.data else tick
                self.open_spans[bank].append((self.opened_at[bank], closed_at))
            elif spec.leaves != "closed":
                self.opened_at[bank] = tick if self.state[bank] == "closed" else self.opened_at[bank]
                self.last_activation[bank] = (tick, head.command)
                self.opener[bank] = (len(self.rows), head.command, head.unit)
                self.row[bank] = head.row if head.row >= 0 else self.row[bank]
            self.state[bank] = spec.leaves
        return tick

    def precharged_at(self, head: Head, bank: int, tick: int) -> int:
        """When the device precharges a bank by itself: no earlier than a precharge could be issued."""
        device = self.device
        alone = device.commands[head.command].at == "bank"
        precharge = device.roles["precharge" if alone else "precharge_all"]
        gaps: dict[tuple[int, int], int] = {}
        for rule in device.rules:
            gaps[rule.first, rule.then] = max(rule.gap, gaps.get((rule.first, rule.then), 0))
        opens = [c for c, spec in enumerate(device.commands) if spec.leaves == "open"]
        known = [c for c in opens if (head.command, c) in gaps]
        delay = max([0, *(gaps[head.command, c] - gaps.get((precharge, c), 0) for c in known)])
        # the banks of one command are precharged together
        others = device.banks_of(head.command, head.unit).tolist()
        rows = [self.last_activation[b] for b in others if b in self.last_activation]
        return max([tick + delay, *(at + gaps.get((c, precharge), 0) for at, c in rows)])

    def issue(self, head: Head, stream: Stream, bound: int, cause: str, kind: int = -1) -> int:
        """Refreshes that go first, then the command."""
        while self.refresh_before(self.earliest(head.command, head.unit, bound, cause)[0]):
            pass
        return self.put(head, stream, bound, cause, kind)

    # refresh

    def unit_banks(self, unit: int) -> list[int]:
        return np.flatnonzero(self.nodes[self.device.refresh_at] == unit).tolist()

    def any_open(self, unit: int) -> bool:
        return any(self.state[bank] != "closed" for bank in self.unit_banks(unit))

    def maintain(self, role: str, unit: int, bound: int) -> None:
        self.put(Head(self.device.roles[role], unit), self.main, bound, "refresh due", -1)

    def refresh_unit(self, unit: int) -> None:
        self.maintain("refresh_all", unit, self.due[unit])
        self.refreshes += 1
        self.due[unit] += self.device.ticks("nREFI")

    def refresh_before(self, tick: int) -> bool:
        """Do a refresh that goes before a command at ``tick``; was there one?"""
        if self.refresh not in ("all-bank", "close-reopen"):
            return False
        modes = self.device.commands[self.device.roles["refresh_all"]].modes
        legal = not modes or self.mode in modes
        for unit in range(self.units):
            if self.due[unit] > tick:
                continue
            owed = (tick - self.due[unit]) // self.device.ticks("nREFI") + 1
            if legal and not self.any_open(unit):
                self.refresh_unit(unit)
                return True
            if owed > POSTPONED:
                raise Illegal("refresh late")
            half_open = any(self.state[bank] == "activating" for bank in self.unit_banks(unit))
            if self.refresh == "close-reopen" and legal and not half_open and owed >= self.owed:
                self.close_refresh_reopen(unit, tick)
                return True
        return False

    def close_refresh_reopen(self, unit: int, tick: int) -> None:
        close = self.device.roles["precharge_all"]
        target = int(self.device.unit_of[close][self.unit_banks(unit)[0]])
        span = self.device.banks_of(close, target).tolist()
        was_open = [bank for bank in span if self.state[bank] == "open"]
        openers = {bank: self.opener[bank] for bank in was_open}
        rows = {bank: self.row[bank] for bank in was_open}
        self.maintain("precharge_all", target, 0)
        units = [u for u in range(self.units) if set(self.unit_banks(u)) <= set(span)]
        due = [(n, u) for u in units for n in range(1 + (tick - self.due[u]) // self.device.ticks("nREFI"))]
        for _, u in sorted(due):
            self.refresh_unit(u)
        for opener in sorted({o for o in openers.values() if o is not None}):
            _, command, target = opener
            banks = self.device.banks_of(command, target).tolist()
            if all(openers.get(bank) == opener for bank in banks):
                head = Head(command, target, rows[banks[0]])
                self.put(head, self.main, 0, "refresh due", -1)
            else:
                for bank in banks:
                    if openers.get(bank) == opener:
                        head = Head(self.device.roles["activate"], bank, rows[bank])
                        self.put(head, self.main, 0, "refresh due", -1)

    def refresh_point(self, stream: Stream) -> None:
        if self.refresh != "declared":
            return
        while any(due <= self.free(stream) for due in self.due):
            unit = next(u for u in range(self.units) if self.due[u] <= self.free(stream))
            if self.any_open(unit):
                raise Illegal("refresh point with open rows")
            self.refresh_unit(unit)

    # steps

    def free(self, stream: Stream) -> int:
        return max(self.previous, stream.bound, *self.free_bus.values())

    def head(self, step: Issue | Until, indices: dict[str, int]) -> Head:
        device = self.device
        command = device.command(step.command)
        spec = device.commands[command]
        value = {
            name: a.constant + sum(f * indices[index] for index, f in a.factors)
            for name, a in step.at.items()
        }
        unit = 0
        for level in range(device.levels.index(spec.at) + 1):
            if device.levels[level] not in spec.across:
                unit = unit * device.counts[level] + value.get(device.levels[level], 0)
        check = "row" in value and spec.leaves not in ("open", "activating")
        return Head(command, unit, value.get("row", -1), value.get("column", -1), check)

    def heads(self, body: tuple[Step, ...], stream: Stream, indices: dict[str, int]) -> Iterator[Head]:
        """The commands of a body; its other steps take effect on the way."""
        for step in body:
            match step:
                case Issue(repeat=repeat, index=index):
                    for n in range(repeat):
                        yield self.head(step, {**indices, index: n} if index else indices)
                case Loop(times, inner, index):
                    for n in range(times):
                        yield from self.heads(inner, stream, {**indices, index: n} if index else indices)
                case Phase(name, inner):
                    outer, self.phase = self.phase, name
                    yield from self.heads(inner, stream, indices)
                    self.phase = outer
                case Fence(kind, plus):
                    if stream.complete[kind] + plus > stream.bound:
                        stream.bound, stream.cause = stream.complete[kind] + plus, "fence"
                case Wait(cycles):
                    if cycles:
                        stream.bound, stream.cause = self.free(stream) + cycles, "wait"
                case Until():
                    head = self.head(step, indices)
                    tick, why, base = self.earliest(head.command, head.unit, stream.bound, stream.cause)
                    if tick > base and tick > stream.bound:
                        stream.bound, stream.cause = tick, why
                case Parallel(streams):
                    self.merge(streams, stream, indices)
                case RefreshPoint():
                    self.refresh_point(stream)
                case Yield(most):
                    self.serve_host(most)

    def merge(self, bodies: tuple[tuple[Step, ...], ...], outer: Stream, indices: dict[str, int]) -> None:
        streams = [Stream(outer.bound, outer.cause, dict(outer.complete)) for _ in bodies]
        running = [self.heads(b, s, indices) for b, s in zip(bodies, streams, strict=True)]
        waiting: list[Head | None] = [next(r, None) for r in running]
        while any(head is not None for head in waiting):
            ready = {
                n: self.earliest(head.command, head.unit, streams[n].bound, streams[n].cause)[0]
                for n, head in enumerate(waiting)
                if head is not None
            }
            n = min(ready, key=lambda n: (ready[n], n))
            if self.refresh_before(ready[n]):
                continue
            head = waiting[n]
            assert head is not None
            self.put(head, streams[n], streams[n].bound, streams[n].cause, -1)
            waiting[n] = next(running[n], None)
        for s in streams:
            if s.bound > outer.bound:
                outer.bound, outer.cause = s.bound, s.cause
            for kind, complete in s.complete.items():
                outer.complete[kind] = max(outer.complete[kind], complete)

    # host

    def request(self, n: int) -> tuple[int, int, int, bool, int]:
        """(bank, row, column, write, arrival) of the n-th host request."""
        device, host = self.device, self.program.host
        assert host is not None
        sizes = {level: device.counts[i] for i, level in enumerate(device.levels) if i}
        sizes |= {"row": device.organisation.row, "column": device.bursts_per_row}
        rest = (host.start + n * host.stride) % device.capacity_bytes // device.burst_bytes
        value = {}
        for name in reversed(host.mapping or ("row", *device.levels[1:], "column")):
            rest, value[name] = divmod(rest, sizes[name])
        where = [value[level] for level in device.levels[1:]]
        bank = int(np.flatnonzero((device.coordinates[:, 1:] == where).all(axis=1))[0])
        write = bool(host.write_every) and n % host.write_every == host.write_every - 1
        return bank, value["row"], value["column"], write, host.first_arrival + n * host.interval

    def serve_host(self, most: int | None, final: bool = False) -> None:
        host, served = self.program.host, 0
        if host is None or len(self.depart) == host.requests or (host.policy == "pim-first" and not final):
            return
        if not final and self.request(len(self.depart))[4] > self.free(self.main):
            return
        self.steps(host.enter)
        while len(self.depart) < host.requests and served != most:
            bank, row, column, write, arrival = self.request(len(self.depart))
            if not final and arrival > self.free(self.main):
                break
            roles = self.device.roles
            while self.state[bank] != "open" or self.row[bank] != row:
                if self.state[bank] == "open":
                    self.host_issue(Head(roles["precharge"], bank), arrival, write)
                else:
                    self.host_issue(Head(roles["activate"], bank, row), arrival, write)
            number = roles["write" if write else "read"]
            tick = self.host_issue(Head(number, bank, row, column), arrival, write)
            self.depart.append(tick + self.device.command_latency[number])
            served += 1
        self.steps(host.leave)

    def host_issue(self, head: Head, arrival: int, write: bool) -> int:
        bound, cause = self.main.bound, self.main.cause
        if arrival > bound:
            bound, cause = arrival, "host arrival"
        return self.issue(head, self.main, bound, cause, kind=int(write))

    def steps(self, body: tuple[Step, ...]) -> None:
        for head in self.heads(body, self.main, {}):
            self.issue(head, self.main, self.main.bound, self.main.cause)

    def run(self, group: ChannelGroup) -> NaiveChannel:
        self.steps(group.body)
        self.serve_host(None, final=True)
        free = max(self.previous, *self.free_bus.values()) if self.rows else self.previous
        self.over = max(free, self.main.bound, *self.main.complete.values())
        self.busy += free - self.previous
        self.lost["drain"] = self.over - free
        for unit in range(self.units):
            ticks: set[int] = set()
            for bank in self.unit_banks(unit):
                spans = self.open_spans[bank]
                if self.state[bank] != "closed":
                    spans = [*spans, (self.opened_at[bank], self.over)]
                for start, end in spans:
                    ticks.update(range(start, min(end, self.over)))
            self.open_cycles += len(ticks)
        return self
