"""A command program flattened for the kernel: operations, timing slots and state of one channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from neardata.arch.dram import Device
from neardata.arch.errors import InputError, nearest
from neardata.sim.dram import program_layout as k
from neardata.sim.dram.program import (
    FENCE_KINDS,
    REFRESH_POLICIES,
    Affine,
    ChannelGroup,
    Fence,
    HostTraffic,
    Issue,
    Loop,
    Parallel,
    Phase,
    Program,
    RefreshPoint,
    RefreshPolicy,
    Step,
    Until,
    Wait,
    Yield,
)
from neardata.sim.dram.program_length import check_length
from neardata.sim.dram.program_stretch import LONGEST_STRETCH, find_stretches
from neardata.sim.dram.slots import Slots

Table = NDArray[np.int64]

CAUSES = ("fence", "wait", "clock edge", "refresh due", "host arrival")
"""What commands wait for besides timing rules, in the kernel's order."""
SPLIT_REPEAT = 1024
"""A longer repetition of equal commands becomes a loop, where its period can be found."""
LEAST_JUMP = 8
"""Shorter loops are not watched for periods."""

_ROLE_COLUMNS = {
    "refresh_all": k.K_REFRESH, "precharge_all": k.K_CLOSE_ALL, "precharge": k.K_CLOSE,
    "activate": k.K_OPEN, "read": k.K_READ, "write": k.K_WRITE,
}  # fmt: skip
_STATES = {"closed": k.CLOSED, "activating": k.ACTIVATING, "open": k.OPEN}


@dataclass(frozen=True)
class Place:
    """Where an operation stands in the program."""

    step: Step
    loops: tuple[tuple[str, int], ...]
    """Name (or ``#1`` ...) and index position of each loop around it."""
    repeated: int = 0
    """Repetitions of the step before these."""
    parts: int | None = None
    """Index position of the loop over parts of `SPLIT_REPEAT` repetitions."""


@dataclass(frozen=True)
class ProgramTable:
    """What the kernel executes, and how to read its answer."""

    tables: k.Tables
    state: k.State
    commands: tuple[int, ...]
    """Number in the device of each command the kernel knows."""
    causes: tuple[str, ...]
    phases: tuple[str, ...]
    """Name of each phase; the first, "", is what lies outside."""
    places: tuple[Place | None, ...]
    """Per operation."""
    stretches: list[tuple[int, int]]
    """First operation of each stretch, and the one after it."""


@dataclass
class _Scope:
    """Loops around a step: name to (index position, times)."""

    names: dict[str, tuple[int, int]] = field(default_factory=dict)
    loops: tuple[tuple[str, int], ...] = ()
    level: int = 0


def default_refresh(device: Device) -> RefreshPolicy:
    """``all-bank`` for a device that has an all-bank refresh and an interval for it."""
    return "all-bank" if "refresh_all" in device.roles and device.timing.get("nREFI") else "none"


def build(
    program: Program,
    group: ChannelGroup,
    device: Device,
    refresh: RefreshPolicy,
    *,
    log: bool = False,
    jump: bool = True,
    runs: bool = True,
    stretches: bool = True,
) -> ProgramTable:
    """The tables and the power-up state of a channel that runs ``group``'s steps.

    Raises:
        InputError: unknown command or address field, missing or out-of-range address, a refresh
            policy the device cannot follow, a program too long for 64-bit counters; with the
            place in the program's file.
    """
    check_length(program, group, device)
    switches = {"log": log, "jump": jump, "runs": runs, "stretches": stretches}
    return _Builder(program, group, device, refresh, **switches).build()


class _Builder:
    def __init__(
        self,
        program: Program,
        group: ChannelGroup,
        device: Device,
        refresh: RefreshPolicy,
        *,
        log: bool,
        jump: bool,
        runs: bool,
        stretches: bool,
    ) -> None:
        self.program, self.group, self.device, self.refresh = program, group, device, refresh
        self.log, self.jump, self.runs, self.stretches = log, jump, runs, stretches
        self.host = program.host if program.host is not None and program.host.requests else None
        self.ops: list[list[int]] = []
        self.places: list[Place | None] = []
        self.terms: list[tuple[int, int]] = []
        self.digits: list[tuple[int, int]] = []
        self.widest_fork = 0
        self.phases = [""]
        self.depths = self.levels = 0
        self.longest_fence = 0
        self.checks_rows = False
        self.local: dict[int, int] = {}
        self.roles = self._roles()

    def _roles(self) -> dict[str, int]:
        """Local numbers of the commands that refresh and host traffic use besides the program's."""
        wanted: list[str] = []
        if self.refresh != "none":
            wanted += ["refresh_all"]
            if not self.device.timing.get("nREFI"):
                raise self.refresh_error("has no refresh interval nREFI")
        if self.refresh == "close-reopen":
            wanted += ["precharge_all", "activate"]
            if "activate_second" in self.device.roles:
                raise self.refresh_error("opens rows in two steps, which close-reopen does not know")
        if self.host is not None:
            wanted += ["read", "write", "activate", "precharge"]
        roles = {}
        for role in dict.fromkeys(wanted):
            if role not in self.device.roles:
                key = ("host",) if role in ("read", "write", "activate", "precharge") else ("refresh",)
                raise self.program.error(f"{self.device.name} has no command for {role}", key)
            roles[role] = self.number(self.device.roles[role])
        refresh_at = self.device.refresh_at
        if "refresh_all" in roles and self._depth(self.device.roles["refresh_all"]) != refresh_at:
            raise self.refresh_error("does not refresh at its refresh level")
        if "precharge_all" in roles and self._depth(self.device.roles["precharge_all"]) > refresh_at:
            raise self.refresh_error("cannot close all that it refreshes at once")
        return roles

    def refresh_error(self, message: str) -> InputError:
        return self.program.error(f"{self.device.name} {message}", ("refresh",))

    def number(self, command: int) -> int:
        """Local number of a device's command."""
        return self.local.setdefault(command, len(self.local))

    def _depth(self, command: int) -> int:
        return self.device.levels.index(self.device.commands[command].at)

    # steps to operations

    def emit(self, kind: int, place: Place | None = None, **columns: int) -> int:
        row = [0] * k.O_WIDTH
        row[k.O_KIND] = kind
        for name, value in columns.items():
            row[getattr(k, f"O_{name.upper()}")] = value
        self.ops.append(row)
        self.places.append(place)
        return len(self.ops) - 1

    def body(self, steps: tuple[Step, ...], scope: _Scope, phase: int) -> None:
        for step in steps:
            self.step(step, scope, phase)

    def step(self, step: Step, scope: _Scope, phase: int) -> None:
        place = Place(step, scope.loops)
        match step:
            case Issue(repeat=repeat, index=None) if repeat > 2 * SPLIT_REPEAT:
                whole, rest = divmod(repeat, SPLIT_REPEAT)
                part = replace(step, repeat=SPLIT_REPEAT)
                depth = self.depths
                self.loop(Loop(whole, (part,), keys=step.keys), scope, phase)
                self.places = [
                    replace(p, loops=scope.loops, parts=depth) if p is not None and p.step is part else p
                    for p in self.places
                ]
                self.issue(replace(step, repeat=rest), scope, replace(place, repeated=repeat - rest))
            case Issue():
                self.issue(step, scope, place)
            case Loop(times, (Issue(repeat=1, index=None) as only,), index) if times <= SPLIT_REPEAT:
                self.step(replace(only, repeat=times, index=index), scope, phase)
            case Loop():
                self.loop(step, scope, phase)
            case Phase(name, body):
                if name not in self.phases:
                    self.phases.append(name)
                number = self.phases.index(name)
                self.emit(k.PHASE, a=number)
                self.body(body, scope, number)
                self.emit(k.PHASE, a=phase)
            case Fence(kind, plus):
                self.longest_fence = max(self.longest_fence, plus)
                self.emit(k.FENCE, place, a=FENCE_KINDS.index(kind), b=plus)
            case Wait(cycles):
                self.emit(k.WAIT, place, a=cycles)
            case Until(command, at):
                issue = Issue(command, at, keys=(*step.keys, "until"))
                self.emit(k.UNTIL, place, **self.address(issue, scope, needs_row=False))
            case Parallel(streams):
                self.parallel(streams, scope, phase, place)
            case RefreshPoint():
                self.emit(k.REFRESH, place)
            case Yield(most):
                self.emit(k.YIELD, place, a=k.ARRIVED if most is None else most)

    def parallel(
        self, streams: tuple[tuple[Step, ...], ...], scope: _Scope, phase: int, place: Place
    ) -> None:
        fork = self.emit(k.FORK, place)
        for stream in streams:
            self.body(stream, scope, phase)
            self.emit(k.STREAM_END)
        self.widest_fork = max(self.widest_fork, len(streams))
        row = self.ops[fork]
        row[k.O_A], row[k.O_B], row[k.O_C] = fork + 1, len(streams), len(self.ops)

    def loop(self, loop: Loop, scope: _Scope, phase: int) -> None:
        op = self.emit(k.LOOP, Place(loop, scope.loops))
        # loops that contain nothing but one loop count as one with it: the period of what is
        # inside may be longer than the inner loop; not where rows are checked, which must be affine
        # functions of one index
        nest = [loop]
        addressed = _chooses_banks(loop, self.device)
        checked = any(isinstance(step, Issue) and self.checks(step) for step in _walk(loop.body))
        while not checked and len(nest[-1].body) == 1 and isinstance(inner := nest[-1].body[0], Loop):
            if addressed or _chooses_banks(inner, self.device):
                break
            nest.append(inner)
        first = len(self.digits)
        names, loops = dict(scope.names), scope.loops
        for part in nest:
            self.digits.append((self.depths, part.times))
            loops = (*loops, (part.index or f"#{len(loops) + 1}", self.depths))
            if part.index:
                names[part.index] = (self.depths, part.times)
            self.depths += 1
        end = len(self.digits)
        self.body(nest[-1].body, _Scope(names, loops, scope.level + 1), phase)
        times = int(np.prod([part.times for part in nest], dtype=object))
        self.emit(k.LOOP_END, a=op, b=times)
        row = self.ops[op]
        row[k.O_A], row[k.O_B], row[k.O_C], row[k.O_D] = first, end, len(self.ops), scope.level
        self.levels = max(self.levels, scope.level + 1)
        row[k.O_E] = 0 if addressed else self._matches(op, times)

    def _matches(self, op: int, times: int) -> int:
        """Recurrences after which the loop may be advanced by periods (0: never)."""
        inside = self.ops[op + 1 :]
        yields = self.host is not None and self.host.policy == "host-first"
        if not self.jump or self.log or times < LEAST_JUMP:
            return 0
        if yields and any(row[k.O_KIND] == k.YIELD for row in inside):
            return 0
        return 3 if any(row[k.O_KIND] == k.ISSUE and row[k.O_CHECK] for row in inside) else 1

    def issue(self, issue: Issue, scope: _Scope, place: Place) -> None:
        columns = self.address(issue, scope, needs_row=True)
        command = self.device.commands[self.device.command_names.index(issue.command)]
        check = self.checks(issue)
        self.checks_rows |= check
        steady = command.leaves is None and command.enters is None and not columns["target_step"]
        steady &= not (check and columns["row_step"]) and not self.log
        self.emit(k.ISSUE, place, **columns, repeat=issue.repeat, check=check, run=steady)

    def checks(self, issue: Issue) -> bool:
        """Must the row of the step be the open one?"""
        names, commands = self.device.command_names, self.device.commands
        opens = {n for n, c in zip(names, commands, strict=True) if c.leaves in ("open", "activating")}
        return "row" in issue.at and issue.command not in opens

    def error(self, message: str, issue: Issue, *keys: str) -> InputError:
        return self.program.error(message, (*issue.keys, issue.command, *keys))

    def address(self, issue: Issue, scope: _Scope, *, needs_row: bool) -> dict[str, int]:
        """Columns of command, unit, row and column; their terms over loop indices are appended."""
        device = self.device
        if issue.command not in device.command_names:
            known = nearest(issue.command, device.command_names)
            raise self.program.error(f"{device.name} has no command '{issue.command}'{known}", issue.keys)
        number = device.command_names.index(issue.command)
        command = device.commands[number]
        names = dict(scope.names)
        if issue.index:
            names[issue.index] = (-1, issue.repeat)
        for name, value in issue.at.items():
            for index, _ in value.factors:
                if index not in names:
                    raise self.error(f"unknown loop index '{index}'", issue, name)
        spanned = [*command.across, *device.levels[self._depth(number) + 1 :]]
        own = [level for level in device.levels[1 : self._depth(number) + 1] if level not in command.across]
        takes_row = command.row_hit or command.leaves in ("open", "activating") or command.needs == ("open",)
        allowed = [*own, *(["row"] if takes_row else []), *(["column"] if command.bus == "column" else [])]
        for name in issue.at:
            if name in spanned:
                raise self.error(f"{issue.command} spans its banks: it takes no {name}", issue, name)
            if name not in allowed:
                known = nearest(name, allowed) if allowed else "; it takes none"
                raise self.error(f"no address field of {issue.command}{known}", issue, name)

        unit, factors = 0, dict[str, int]()
        for level in own:
            count = device.counts[device.levels.index(level)]
            if level not in issue.at:
                if count > 1:
                    raise self.error(f"missing: which of the {count}", issue, level)
                value = Affine(0)
            else:
                value = issue.at[level]
                self._check_range(value, names, count, issue, level)
            unit = unit * count + value.constant
            factors = {name: f * count for name, f in factors.items()}
            for name, f in value.factors:
                factors[name] = factors.get(name, 0) + f
        # the command's number for now; `build` adds the plan's addresses
        columns = {"a": self.number(number)}
        self._place_affine("target", Affine(unit, tuple(factors.items())), names, columns)

        limits = {"row": device.organisation.row, "column": device.bursts_per_row}
        must_have_row = command.leaves == "activating" or (
            command.leaves == "open" and "activating" not in command.needs
        )
        for name, limit in limits.items():
            if name in issue.at:
                self._check_range(issue.at[name], names, limit, issue, name)
                self._place_affine(name, issue.at[name], names, columns)
            else:
                if name == "row" and must_have_row and needs_row:
                    raise self.error("missing: the row to open", issue, name)
                self._place_affine(name, Affine(k.ABSENT), names, columns)
        columns["terms_end"] = len(self.terms)
        return columns

    def _place_affine(
        self, name: str, value: Affine, names: Mapping[str, tuple[int, int]], columns: dict[str, int]
    ) -> None:
        columns[name], columns[f"{name}_step"] = value.constant, 0
        columns[f"{name}_terms"] = len(self.terms)
        for index, factor in value.factors:
            depth, _ = names[index]
            if depth < 0:
                columns[f"{name}_step"] = factor
            else:
                self.terms.append((depth, factor))

    def _check_range(
        self, value: Affine, names: Mapping[str, tuple[int, int]], count: int, issue: Issue, name: str
    ) -> None:
        ends = [(f * (names[index][1] - 1)) for index, f in value.factors]
        if any(names[index][1] == 0 for index, _ in value.factors):
            return  # never issued
        least = value.constant + sum(min(0, end) for end in ends)
        most = value.constant + sum(max(0, end) for end in ends)
        if least < 0 or most >= count:
            reached = least if least < 0 else most
            raise self.error(f"reaches {reached}; {self.device.name} has {count}, from 0", issue, name)

    # tables

    def build(self) -> ProgramTable:
        self.body(self.group.body, _Scope(), 0)
        self.emit(k.YIELD, a=k.ALL)
        self.emit(k.HALT)
        enter = len(self.ops)
        if self.host is not None:
            self.body(self.host.enter, _Scope(level=self.levels), 0)
            self.emit(k.SERVE)
            self.body(self.host.leave, _Scope(level=self.levels), 0)
        self.emit(k.RETURN)

        device, commands = self.device, tuple(self.local)
        causes = tuple(dict.fromkeys(rule.name for rule in device.rules))
        units = int(device.node_of(device.refresh_at).max()) + 1
        config = self._config(len(commands), len(causes), units, enter)
        slots = Slots(device, commands, causes)
        config[k.K_TICK] = config[k.K_LAST] + len(slots.clamp)
        plan, first, step = self._plan(commands, slots, config)
        for role, column in _ROLE_COLUMNS.items():
            number = self.roles.get(role)
            config[column] = -1 if number is None else first[number]
            config[column + 1] = 0 if number is None else step[number]
        if "precharge_all" in self.roles:
            config[k.K_CLOSED_UNITS] = units // device.n_units(device.roles["precharge_all"])
        term = np.array(self.terms, dtype=np.int64).reshape(-1, 2)
        for row in self.ops:
            if row[k.O_KIND] in (k.ISSUE, k.UNTIL):
                number = row[k.O_A]
                row[k.O_TARGET] = first[number] + step[number] * row[k.O_TARGET]
                row[k.O_TARGET_STEP] *= step[number]
                term[row[k.O_TARGET_TERMS] : row[k.O_ROW_TERMS], 1] *= step[number]
                if not slots.steady[number]:
                    row[k.O_RUN] = 0
        tables = k.Tables(
            config=config,
            op=np.array(self.ops, dtype=np.int64),
            term=term,
            digit=np.array(self.digits, dtype=np.int64).reshape(-1, 2),
            plan=plan,
            clamp=np.array(slots.clamp, dtype=np.int64),
            host=_host_table(self.host, device, self.program),
            code=np.zeros(1, dtype=np.int64),
        )
        stretches = find_stretches(tables) if self.stretches else []
        for n, (start, _) in enumerate(stretches):
            tables.op[start, k.O_STRETCH] = -1 - n
        return ProgramTable(
            tables,
            self._power_up(tables, len(stretches)),
            commands,
            (*causes, *CAUSES),
            tuple(self.phases),
            tuple(self.places),
            stretches,
        )

    def _config(self, commands: int, rules: int, units: int, enter: int) -> Table:
        device = self.device
        words = -(-device.n_banks // k.WORD_BITS)
        config = np.zeros(k.CONFIG, dtype=np.int64)
        config[k.K_BANKS], config[k.K_WORDS], config[k.K_UNITS] = device.n_banks, words, units
        config[k.K_POLICY] = REFRESH_POLICIES.index(self.refresh)
        config[k.K_INTERVAL] = device.ticks("nREFI") if self.refresh != "none" else 0
        reopens = self.refresh == "close-reopen"
        config[k.K_ROWS] = self.log or self.checks_rows or self.host is not None or reopens
        config[k.K_TICKS], config[k.K_PLUS] = device.ticks_per_clock, self.longest_fence
        config[k.K_LOG], config[k.K_RUNS] = self.log, self.runs
        config[k.K_HOST_FIRST] = self.host is not None and self.host.policy == "host-first"
        config[k.K_ENTER], config[k.K_RULES] = enter, rules
        config[k.K_COUNTS] = k.P_INDEX + self.depths
        config[k.K_OWED] = self.program.owed

        config[k.K_FENCES] = k.T_DUE + 2 * units
        config[k.K_WORD] = config[k.K_FENCES] + k.F_WIDTH * (self.widest_fork + 1)
        config[k.K_STAT] = config[k.K_WORD] + k.W_BANKS + 2 * words
        config[k.K_CAUSES] = config[k.K_STAT] + k.S_COMMANDS + commands
        config[k.K_PHASES] = config[k.K_CAUSES] + rules + k.CAUSES
        config[k.K_OPEN_CYCLES] = config[k.K_PHASES] + len(self.phases)
        config[k.K_LAST] = config[k.K_OPEN_CYCLES] + units
        return config

    def _plan(
        self, commands: tuple[int, ...], slots: Slots, config: Table
    ) -> tuple[Table, list[int], list[int]]:
        """The plan, and per command the address of its first target and the step to the next."""
        device, words, last = self.device, int(config[k.K_WORDS]), int(config[k.K_LAST])
        plan: list[int] = []
        node = device.node_of(device.refresh_at)
        config[k.K_UNIT_MASK] = 0
        for unit in range(int(config[k.K_UNITS])):
            plan += _mask(np.flatnonzero(node == unit), words)
        first, step = [], []
        for i, number in enumerate(commands):
            targets = range(slots.first_target[i], slots.first_target[i] + device.n_units(number))
            facts = self._facts(number)
            facts[k.G_COMMAND] = i
            banks = [device.banks_of(number, unit) for unit in range(len(targets))]
            lists = (
                (k.G_BANK, k.G_BANKS, 1, [b[:, None].tolist() for b in banks]),
                (k.G_READ, k.G_READS, 3, [slots.reads[t] for t in targets]),
                (k.G_WRITE, k.G_WRITES, 2, [slots.writes[t] for t in targets]),
                (k.G_CLOSE, k.G_CLOSES, 2, [slots.closes[t] for t in targets]),
            )
            facts[k.G_MASK] = k.G_LISTS
            size = k.G_LISTS + words
            for offset, _, width, entries in lists:
                facts[offset] = size
                size += width * max(len(e) for e in entries)
            facts[k.G_CLOSE_DELAY] = slots.close_delay[i]
            first.append(len(plan))
            step.append(size)
            for unit in range(len(targets)):
                entry = [*facts, *_mask(banks[unit], words)]
                entry[k.G_UNIT] = unit
                for offset, count, width, entries in lists:
                    entry += [0] * (facts[offset] - len(entry))
                    entry[count] = len(entries[unit])
                    for values in entries[unit]:
                        # the first of several numbers is a slot
                        entry += [last + values[0], *values[1:]] if width > 1 else values
                plan += entry + [0] * (size - len(entry))
        return np.array(plan, dtype=np.int64), first, step

    def _facts(self, number: int) -> list[int]:
        """What the plan says of each target of a command."""
        device, command = self.device, self.device.commands[number]
        roles = ("precharge", "precharge_all", "precharge_same_bank")
        facts = [0] * k.G_LISTS
        facts[k.G_BUS] = int(device.dual_command_bus and command.bus == "column")
        facts[k.G_CYCLES] = device.command_cycles[number]
        facts[k.G_LATENCY] = device.command_latency[number]
        facts[k.G_NEEDS] = sum(_STATES[state] for state in command.needs)
        facts[k.G_LEAVES] = _STATES[command.leaves] if command.leaves else 0
        facts[k.G_MODES] = sum(1 << device.modes.index(mode) for mode in command.modes)
        facts[k.G_ENTERS] = device.modes.index(command.enters) if command.enters else -1
        facts[k.G_DATA] = {"read": k.READS, "write": k.WRITES, None: 0}[command.data]
        # logged with the row it works on, even if the program does not say
        facts[k.G_ON_ROW] = int(command.row_hit or "activating" in command.needs)
        # JESD238: of the two ticks of a clock, the second is for precharges only
        precharge = number in (device.roles.get(role) for role in roles)
        facts[k.G_EDGE] = int(device.ticks_per_clock == 2 and not precharge)
        return facts

    def _power_up(self, tables: k.Tables, stretches: int) -> k.State:
        config = tables.config
        banks, levels = int(config[k.K_BANKS]), max(self.levels, 1)

        def zeros(*shape: int) -> Table:
            return np.zeros(shape, dtype=np.int64)

        now = zeros(int(config[k.K_TICK]) + LONGEST_STRETCH)
        now[[k.T_PREVIOUS, k.T_BUS, k.T_COLUMN_BUS]] = 1
        first = self.program.first_refresh
        due = int(config[k.K_INTERVAL]) if first is None else first * self.device.ticks_per_clock
        now[k.T_DUE : k.T_DUE + config[k.K_UNITS]] = due
        now[config[k.K_LAST] : config[k.K_TICK]] = k.NEVER
        register = zeros(k.REGISTERS)
        register[k.R_MIN_DUE] = due if config[k.K_POLICY] else k.FAR
        stream = zeros(self.widest_fork + 1, int(config[k.K_COUNTS]) + levels)
        bank = zeros(banks, k.B_WIDTH)
        bank[:, k.B_ROW] = -1
        # the rows open in each bank, and by which command since when
        kept = 3 if config[k.K_POLICY] == k.CLOSE_REOPEN else int(config[k.K_ROWS])
        return k.State(
            now=now,
            register=register,
            stream=stream,
            bank=bank,
            queue=zeros(2 * banks + (k.POSTPONED + 1) * int(config[k.K_UNITS]) + 4, k.Q_WIDTH),
            brent=zeros(levels, k.D_WIDTH),
            saved=zeros(levels, int(config[k.K_TICK]) + kept * banks),
            depart=zeros(len(tables.host)),
            log=zeros(1 << 12 if self.log else 1, 6),
            stretch=zeros(stretches, k.L_STATE + int(config[k.K_STAT] - config[k.K_WORD])),
        )


def _chooses_banks(loop: Loop, device: Device) -> bool:
    """Does the loop's index choose the banks of a command inside?"""
    if loop.index is None:
        return False
    return any(
        loop.index in dict(value.factors)
        for step in _walk(loop.body)
        if isinstance(step, Issue | Until)
        for name, value in step.at.items()
        if name in device.levels
    )


def _walk(body: tuple[Step, ...]) -> Iterator[Step]:
    for step in body:
        yield step
        match step:
            case Loop(body=inner) | Phase(body=inner):
                yield from _walk(inner)
            case Parallel(streams):
                for stream in streams:
                    yield from _walk(stream)


def _host_table(host: HostTraffic | None, device: Device, program: Program) -> Table:
    """Bank, row, column, write and arrival of each host request of a channel."""
    if host is None:
        return np.zeros((0, k.H_WIDTH), dtype=np.int64)
    sizes = {level: device.counts[i] for i, level in enumerate(device.levels) if i}
    sizes |= {"row": device.organisation.row, "column": device.bursts_per_row}
    mapping = host.mapping or ("row", *device.levels[1:], "column")
    if sorted(mapping) != sorted(sizes):
        allowed = ", ".join(sizes)
        raise program.error(f"must name each of {allowed} once", (*host.keys, "mapping"))
    n = np.arange(host.requests, dtype=np.int64)
    rest = (host.start + n * host.stride) % device.capacity_bytes // device.burst_bytes
    fields = {}
    for name in reversed(mapping):
        fields[name] = rest % sizes[name]
        rest = rest // sizes[name]
    bank = np.zeros_like(n)
    for level in device.levels[1:]:
        bank = bank * sizes[level] + fields[level]
    write = n % host.write_every == host.write_every - 1 if host.write_every else np.zeros_like(n)
    arrival = host.first_arrival + n * host.interval
    return np.stack([bank, fields["row"], fields["column"], write, arrival], axis=1).astype(np.int64)


def _mask(banks: NDArray[np.int64], words: int) -> list[int]:
    mask = [0] * words
    for bank in banks.tolist():
        mask[bank // k.WORD_BITS] |= 1 << bank % k.WORD_BITS
    return mask
