"""A program's steps as operations of the kernel."""

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
    Affine,
    ChannelGroup,
    Fence,
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
from neardata.sim.dram.program_plan import Plan

Table = NDArray[np.int64]

SPLIT_REPEAT = 1024
"""A longer repetition of equal commands becomes a loop, where its period can be found."""
LEAST_JUMP = 8
"""Shorter loops are not watched for periods."""

_ABSENT = Affine(k.ABSENT)
_COLUMN = {name[2:].lower(): value for name, value in vars(k).items() if name.startswith("O_")}


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


@dataclass
class _Scope:
    """Loops around a step: name to (index position, times)."""

    names: dict[str, tuple[int, int]] = field(default_factory=dict)
    loops: tuple[tuple[str, int], ...] = ()
    level: int = 0


@dataclass(frozen=True)
class _Form:
    """How a command is addressed."""

    number: int
    spanned: frozenset[str]
    """Levels that it acts on all nodes of,"""
    own: tuple[tuple[str, int], ...]
    """and levels of which it takes one, with their nodes per parent."""
    allowed: tuple[str, ...]
    limits: tuple[tuple[str, int], ...]
    """Rows and columns there are."""
    opens_row: bool


def _form(device: Device, name: str) -> _Form:
    number = device.command_names.index(name)
    command = device.commands[number]
    depth = device.levels.index(command.at)
    own = [level for level in device.levels[1 : depth + 1] if level not in command.across]
    takes_row = command.row_hit or command.leaves in ("open", "activating") or command.needs == ("open",)
    return _Form(
        number=number,
        spanned=frozenset([*command.across, *device.levels[depth + 1 :]]),
        own=tuple((level, device.counts[device.levels.index(level)]) for level in own),
        allowed=(*own, *(["row"] if takes_row else []), *(["column"] if command.bus == "column" else [])),
        limits=(("row", device.organisation.row), ("column", device.bursts_per_row)),
        opens_row=command.leaves == "activating"
        or (command.leaves == "open" and "activating" not in command.needs),
    )


class Operations:
    """The operations of a group's steps, in the order of the kernel's table.

    Targets are (number of the command, unit) until `place` knows where the plan keeps them.

    Raises:
        InputError: unknown command or address field, missing or out-of-range address, a refresh
            policy the device cannot follow; with the place in the program's file.
    """

    def __init__(
        self,
        program: Program,
        group: ChannelGroup,
        device: Device,
        refresh: RefreshPolicy,
        *,
        log: bool,
        jump: bool,
    ) -> None:
        self.program, self.group, self.device, self.refresh = program, group, device, refresh
        self.log, self.jump = log, jump
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
        commands = zip(device.command_names, device.commands, strict=True)
        self.openers = {name for name, c in commands if c.leaves in ("open", "activating")}
        self.issued: dict[tuple[object, ...], list[int]] = {}
        self.forms: dict[str, _Form] = {}
        self.roles = self._roles()
        self._all_steps()

    def _all_steps(self) -> None:
        self.body(self.group.body, _Scope(), 0)
        self.emit(k.YIELD, a=k.ALL)
        self.emit(k.HALT)
        self.enter = len(self.ops)
        if self.host is not None:
            self.body(self.host.enter, _Scope(level=self.levels), 0)
            self.emit(k.SERVE)
            self.body(self.host.leave, _Scope(level=self.levels), 0)
        self.emit(k.RETURN)

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
            row[_COLUMN[name]] = value
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
        key = (issue.command, tuple(issue.at.items()), issue.repeat, issue.index)
        known = self.issued.get(key)
        if known is not None:
            self.ops.append(known.copy())
            self.places.append(place)
            return
        terms = len(self.terms)
        columns = self.address(issue, scope, needs_row=True)
        command = self.device.commands[self.device.command_names.index(issue.command)]
        check = self.checks(issue)
        self.checks_rows |= check
        steady = command.leaves is None and command.enters is None and not columns["target_step"]
        steady &= not (check and columns["row_step"]) and not self.log
        self.emit(k.ISSUE, place, **columns, repeat=issue.repeat, check=check, run=steady)
        if len(self.terms) == terms:  # the same wherever it stands
            self.issued[key] = self.ops[-1].copy()

    def checks(self, issue: Issue) -> bool:
        """Must the row of the step be the open one?"""
        return "row" in issue.at and issue.command not in self.openers

    def error(self, message: str, issue: Issue, *keys: str) -> InputError:
        return self.program.error(message, (*issue.keys, issue.command, *keys))

    def address(self, issue: Issue, scope: _Scope, *, needs_row: bool) -> dict[str, int]:
        """Columns of command, unit, row and column; their terms over loop indices are appended."""
        device = self.device
        if issue.command not in device.command_names:
            known = nearest(issue.command, device.command_names)
            raise self.program.error(f"{device.name} has no command '{issue.command}'{known}", issue.keys)
        form = self.forms.get(issue.command)
        if form is None:
            form = self.forms[issue.command] = _form(device, issue.command)
        names = scope.names
        if issue.index:
            names = {**names, issue.index: (-1, issue.repeat)}
        for name, value in issue.at.items():
            for index, _ in value.factors:
                if index not in names:
                    raise self.error(f"unknown loop index '{index}'", issue, name)
        for name in issue.at:
            if name in form.spanned:
                raise self.error(f"{issue.command} spans its banks: it takes no {name}", issue, name)
            if name not in form.allowed:
                known = nearest(name, form.allowed) if form.allowed else "; it takes none"
                raise self.error(f"no address field of {issue.command}{known}", issue, name)

        unit, factors = 0, dict[str, int]()
        for level, count in form.own:
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
        # the command's number for now; `place` adds the plan's addresses
        columns = {"a": self.number(form.number)}
        self._place_affine("target", Affine(unit, tuple(factors.items())), names, columns)

        for name, limit in form.limits:
            if name in issue.at:
                self._check_range(issue.at[name], names, limit, issue, name)
                self._place_affine(name, issue.at[name], names, columns)
            else:
                if name == "row" and form.opens_row and needs_row:
                    raise self.error("missing: the row to open", issue, name)
                self._place_affine(name, _ABSENT, names, columns)
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

    def place(self, plan: Plan) -> tuple[Table, Table]:
        """Operations and terms with the plan's addresses of their targets."""
        term = np.array(self.terms, dtype=np.int64).reshape(-1, 2)
        for row in self.ops:
            if row[k.O_KIND] in (k.ISSUE, k.UNTIL):
                number = row[k.O_A]
                row[k.O_TARGET] = plan.first[number] + plan.step[number] * row[k.O_TARGET]
                row[k.O_TARGET_STEP] *= plan.step[number]
                term[row[k.O_TARGET_TERMS] : row[k.O_ROW_TERMS], 1] *= plan.step[number]
                if not plan.steady[number]:
                    row[k.O_RUN] = 0
        return np.array(self.ops, dtype=np.int64), term


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
