"""Run PIM command programs: `run_program`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from neardata.arch.dram import Device, load_device
from neardata.arch.errors import InputError
from neardata.sim.dram.command_log import CommandLog
from neardata.sim.dram.energy import EnergyReport, energy
from neardata.sim.dram.program import ChannelGroup, Issue, Keys, Program, RefreshPolicy

SLICE = 20_000_000
"""Commands between two looks at the keyboard."""


@dataclass(frozen=True)
class HostReport:
    """What the ordinary requests of one channel saw."""

    requests: int
    reads: int
    writes: int
    arrival: NDArray[np.int64]
    """(requests,) ticks."""
    depart: NDArray[np.int64]
    """(requests,) ticks at which the burst of each is over."""
    alone_cycles: int
    """Ticks the program takes without them."""

    @property
    def latency_cycles(self) -> NDArray[np.int64]:
        """(requests,) ticks from arrival to the end of the burst."""
        return self.depart - self.arrival


@dataclass(frozen=True)
class ChannelReport:
    """One channel of a group; all channels of the group do the same."""

    name: str
    channels: int
    cycles: int
    """Ticks from the first to the last: commands off the bus, data in, fences and waits over."""
    command_counts: Mapping[str, int]
    refreshes: int
    phase_cycles: Mapping[str, int]
    """Ticks by which each phase's commands moved the clock; "" is what lies outside phases."""
    busy_cycles: int
    """Ticks the command bus was held."""
    lost_cycles: Mapping[str, int]
    """Ticks between the bus being free and the next command, by what the command waited for: a
    timing rule, ``fence``, ``wait``, ``clock edge``, ``refresh due``, ``host arrival``, and
    ``drain`` after the last. With ``busy_cycles`` they add up to ``cycles``."""
    open_cycles: int
    """Ticks with at least one open bank, summed over the refresh units."""
    internal_bytes: int
    """Bytes the processing units took from, or put into, open rows: a burst per bank a command."""
    external_bytes: int
    """Bytes over the data bus, host requests included."""
    jumped_periods: int
    """Periods that were skipped over because the state recurred."""
    host: HostReport | None
    command_log: CommandLog | None = field(repr=False)


@dataclass(frozen=True)
class ProgramReport:
    """The result of a program."""

    program: Program
    device: Device
    refresh: RefreshPolicy
    groups: tuple[ChannelReport, ...]
    partial: bool = False
    """Interrupted: the figures are of what was simulated until then."""

    @property
    def slowest(self) -> ChannelReport:
        """The group that ends last."""
        return max(self.groups, key=lambda group: group.cycles)

    @property
    def channels(self) -> int:
        """Channels of all groups."""
        return sum(group.channels for group in self.groups)

    @property
    def cycles(self) -> int:
        """Ticks until the last channel is done."""
        return self.slowest.cycles

    @property
    def time_ns(self) -> float:
        """`cycles` in nanoseconds."""
        return self.cycles * self.device.tick_ps / 1e3

    @property
    def phase_cycles(self) -> Mapping[str, int]:
        """Of the slowest group."""
        return self.slowest.phase_cycles

    @property
    def lost_cycles(self) -> Mapping[str, int]:
        """Of the slowest group."""
        return self.slowest.lost_cycles

    @property
    def command_counts(self) -> dict[str, int]:
        """Of all channels."""
        counts: dict[str, int] = {}
        for group in self.groups:
            for name, n in group.command_counts.items():
                counts[name] = counts.get(name, 0) + n * group.channels
        return counts

    @property
    def commands(self) -> int:
        """Commands of all channels."""
        return sum(self.command_counts.values())

    @property
    def refreshes(self) -> int:
        """Of all channels."""
        return sum(group.refreshes * group.channels for group in self.groups)

    @property
    def internal_bytes(self) -> int:
        """Of all channels."""
        return sum(group.internal_bytes * group.channels for group in self.groups)

    @property
    def external_bytes(self) -> int:
        """Of all channels."""
        return sum(group.external_bytes * group.channels for group in self.groups)

    @property
    def internal_gb_per_s(self) -> float:
        """`internal_bytes` over the time of the run, decimal GB/s."""
        return self.internal_bytes / self.time_ns if self.cycles else 0.0

    @property
    def energy(self) -> EnergyReport | None:
        """Of all channels; None for a device without energy values."""
        opened = sum(group.open_cycles * group.channels for group in self.groups)
        return energy(self.device, self.command_counts, opened, self.cycles, self.channels)

    @property
    def jumped_periods(self) -> int:
        """Of the groups that were simulated."""
        return sum(group.jumped_periods for group in self.groups)


def run_program(
    program: Program,
    *,
    jump: bool = True,
    runs: bool = True,
    fold: bool = True,
    refresh: RefreshPolicy | None = None,
    record_commands: bool = False,
    device: Device | None = None,
) -> ProgramReport:
    """Run a command program to its end.

    Args:
        jump: skip whole periods where the state recurs. The result is the same without.
        runs: take repetitions of one command in one step. The result is the same without.
        fold: simulate one of the channels that do the same. The result is the same without.
        refresh: instead of the program's own policy.
        record_commands: keep the command trace of the first channel of each group (no
            jumps, no runs: memory grows with the number of commands).
        device: instead of the one the program names.

    Returns:
        the report; partial if interrupted from the keyboard.

    Raises:
        InputError: the program does not fit the device, or issues a command the state of the
            banks or the mode of the device forbids (command, loop position and cycle are named).

    >>> program = Program.from_dict({"device": "gddr6-aim", "refresh": "none", "body": [
    ...     {"ACT16": {"row": 0}}, {"MAC16": {}, "repeat": 64}, "PREA"]})
    >>> run_program(program).command_counts
    {'ACT16': 1, 'PREA': 1, 'MAC16': 64}
    """
    from neardata.sim.dram.program_table import default_refresh

    if device is None:
        try:
            device = load_device(program.device, program.overrides)
        except InputError as error:
            if error.file is not None or program.file is None:
                raise
            keys: Keys = ("overrides", error.key) if error.key else ("device",)
            raise program.error(error.message, keys) from None
    policy = refresh or program.refresh or default_refresh(device)
    reports: list[ChannelReport] = []
    partial = False
    done: list[tuple[ChannelGroup, ChannelReport]] = []
    for group in program.groups:
        same = [report for other, report in done if fold and other.body == group.body]
        if same:
            reports.append(replace(same[0], name=group.name, channels=group.channels))
            continue
        for i in range(1 if fold else group.channels):
            report, partial = _run_channel(
                program, group, device, policy, jump=jump, runs=runs, record=record_commands and i == 0
            )
            if fold:
                done.append((group, report))
                reports.append(replace(report, channels=group.channels))
            else:
                reports.append(replace(report, channels=1))
            if partial:
                return ProgramReport(program, device, policy, tuple(reports), True)
    return ProgramReport(program, device, policy, tuple(reports))


def _run_channel(
    program: Program,
    group: ChannelGroup,
    device: Device,
    policy: RefreshPolicy,
    *,
    jump: bool,
    runs: bool,
    record: bool,
) -> tuple[ChannelReport, bool]:
    from neardata.sim.dram import program_kernel as k
    from neardata.sim.dram.program_table import build

    table = build(program, group, device, policy, log=record, jump=jump, runs=runs)
    tables, state = table.tables, table.state
    partial = False
    try:
        while True:
            state.register[k.R_BUDGET] = SLICE
            status = k.execute(tables, state)
            if status == k.LOG_FULL:
                longer = np.zeros((2 * len(state.log), 6), dtype=np.int64)
                longer[: len(state.log)] = state.log
                state = state._replace(log=longer)
            elif status != k.PAUSED:
                break
    except KeyboardInterrupt:
        partial, status = True, k.DONE
    if status == k.FAILED:
        raise _failure(program, device, table, state)
    alone = 0
    if program.host is not None and not partial:
        quiet = replace(program, host=None)
        report, partial = _run_channel(quiet, group, device, policy, jump=jump, runs=runs, record=False)
        alone = report.cycles
    return _report(program, group, device, table, state, alone), partial


def _report(
    program: Program, group: ChannelGroup, device: Device, table: object, state: object, alone: int
) -> ChannelReport:
    from neardata.sim.dram import program_kernel as k
    from neardata.sim.dram.program_table import ProgramTable

    assert isinstance(table, ProgramTable) and isinstance(state, k.State)
    tables = table.tables
    now, config = state.now, tables.config
    stat = now[config[k.K_STAT] :]
    causes, phases, opens = (now[config[n] :] for n in (k.K_CAUSES, k.K_PHASES, k.K_OPEN_CYCLES))
    last = int(now[k.T_PREVIOUS])
    main = now[config[k.K_FENCES] : config[k.K_FENCES] + k.F_WIDTH]
    counts = {
        device.command_names[number]: int(stat[k.S_COMMANDS + i]) for i, number in enumerate(table.commands)
    }
    counts = {name: n for name, n in counts.items() if n}
    free = max(last, int(now[k.T_BUS]), int(now[k.T_COLUMN_BUS])) if counts else last
    over = max(free, int(main.max()))
    lost = {name: int(causes[i]) for i, name in enumerate(table.causes)}
    lost = {name: n for name, n in sorted(lost.items(), key=lambda item: -item[1]) if n}
    if over > free:
        lost["drain"] = over - free

    open_cycles = 0
    words = range(int(config[k.K_WORDS]))
    state_word = now[config[k.K_WORD] + k.W_BANKS :]
    for unit in range(int(config[k.K_UNITS])):
        open_cycles += int(opens[unit])
        mask = tables.plan[config[k.K_UNIT_MASK] + unit * len(words) :]
        if any((state_word[2 * w] | state_word[2 * w + 1]) & mask[w] for w in words):
            open_cycles += over - int(now[k.T_DUE + config[k.K_UNITS] + unit])

    host = None
    served = int(state.register[k.R_HOST])
    if program.host is not None:
        request = tables.host[:served]
        writes = int(request[:, k.H_WRITE].sum())
        depart = state.depart[:served]
        host = HostReport(served, served - writes, writes, request[:, k.H_ARRIVAL], depart, alone)
    log = None
    if config[k.K_LOG]:
        rows = state.log[: state.register[k.R_LOG]].copy()
        rows[:, 1] = np.array(table.commands, dtype=np.int64)[rows[:, 1]]
        log = CommandLog.from_rows(device, rows)
    internal = external = 0
    for name, n in counts.items():
        number = device.command_names.index(name)
        command = device.commands[number]
        if command.computes:
            internal += n * len(device.banks_of(number, 0)) * device.burst_bytes
        if command.data:
            external += n * device.burst_bytes
    return ChannelReport(
        name=group.name,
        channels=group.channels,
        cycles=over - 1,
        command_counts=counts,
        refreshes=int(stat[k.S_REFRESHES]),
        phase_cycles={name: int(phases[i]) for i, name in enumerate(table.phases) if name or phases[i]},
        busy_cycles=int(stat[k.S_BUSY]) + free - last,
        lost_cycles=lost,
        open_cycles=open_cycles,
        internal_bytes=internal,
        external_bytes=external,
        jumped_periods=int(state.register[k.R_JUMPED]),
        host=host,
        command_log=log,
    )


def _failure(program: Program, device: Device, table: object, state: object) -> InputError:
    """What went wrong, at which step, in which iteration and cycle."""
    from neardata.sim.dram import program_kernel as k
    from neardata.sim.dram.program_table import SPLIT_REPEAT, ProgramTable

    assert isinstance(table, ProgramTable) and isinstance(state, k.State)
    register = state.register
    stream = int(register[k.R_ERROR_STREAM])
    position = state.stream[stream]
    pc = int(position[k.P_PC])
    number = table.commands[int(table.tables.plan[register[k.R_ERROR_TARGET] + k.G_COMMAND])]
    name, command = device.command_names[number], device.commands[number]
    bank, tick = int(register[k.R_ERROR_BANK]), int(register[k.R_ERROR_TICK])

    word = state.now[table.tables.config[k.K_WORD] :]
    banks = word[k.W_BANKS :]
    what = ""
    if bank >= 0:
        w, bit = divmod(bank, k.WORD_BITS)
        found = "open" if banks[2 * w] >> bit & 1 else "closed"
        found = "activating" if banks[2 * w + 1] >> bit & 1 else found
        where = ", ".join(
            f"{level} {n}"
            for level, n in zip(device.levels[1:], device.coordinates[bank, 1:].tolist(), strict=True)
        )
    match int(register[k.R_ERROR]):
        case k.E_STATE:
            what = f"{where} is {found}, it must be {' or '.join(command.needs)}"
        case k.E_MODE:
            mode = device.modes[int(word[k.W_MODE])]
            what = f"the device is in mode {mode}, it must be in {' or '.join(command.modes)}"
        case k.E_ROW:
            what = f"{where} has row {int(state.bank[bank, k.B_ROW])} open"
        case k.E_LATE:
            what = (
                f"more than {k.POSTPONED} refreshes are owed: close the rows more often,"
                " or set refresh: close-reopen"
            )
        case k.E_POINT:
            what = "a refresh is due at a refresh point with open rows"
        case k.E_REOPEN:
            what = f"{where} cannot be reopened: {device.name} has no command that opens a single bank"
    place = table.places[pc]
    at = [f"{label}={position[k.P_INDEX + depth]}" for label, depth in place.loops] if place else []
    repetition = int(position[k.P_REPEAT])
    if place is not None:
        repetition += place.repeated
        if place.parts is not None:
            repetition += SPLIT_REPEAT * int(position[k.P_INDEX + place.parts])
    if place is not None and isinstance(place.step, Issue) and place.step.index:
        at.append(f"{place.step.index}={repetition}")
    elif repetition:
        at.append(f"repetition {repetition}")
    message = f"{name}{' at ' + ', '.join(at) if at else ''}, cycle {tick}: {what}"
    return program.error(message, place.step.keys if place is not None else ())
