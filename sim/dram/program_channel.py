"""One channel that runs a command program: the kernel, what it reports, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from neardata.arch.dram import Device
from neardata.arch.errors import InputError
from neardata.sim.dram import program_kernel
from neardata.sim.dram import program_layout as k
from neardata.sim.dram.command_log import CommandLog
from neardata.sim.dram.program import ChannelGroup, Issue, Program, RefreshPolicy
from neardata.sim.dram.program_operations import SPLIT_REPEAT
from neardata.sim.dram.program_report import ChannelReport, HostReport
from neardata.sim.dram.program_stretch import lay_out_stretches
from neardata.sim.dram.program_table import ProgramTable, build

SLICE = 20_000_000
"""Commands between two looks at the keyboard."""
LEARN = 100_000
"""Commands before stretches that are often met are laid out; twice as many before the next time."""


def run_channel(
    program: Program,
    group: ChannelGroup,
    device: Device,
    policy: RefreshPolicy,
    *,
    jump: bool,
    runs: bool,
    stretches: bool,
    record: bool,
) -> tuple[ChannelReport, bool]:
    """Run a group's steps on one channel, from power-up to their end.

    Returns:
        the report of the channel, and whether the run was interrupted from the keyboard.

    Raises:
        InputError: the program does not fit the device, or a command is forbidden.
    """
    table = build(program, group, device, policy, log=record, jump=jump, runs=runs, stretches=stretches)
    tables, state = table.tables, table.state
    partial, learning = False, bool(table.stretches)
    budget = LEARN
    try:
        while True:
            state.register[k.R_BUDGET] = min(budget, SLICE) if learning else SLICE
            status = program_kernel.execute(tables, state)
            if status == k.LOG_FULL:
                longer = np.zeros((2 * len(state.log), 6), dtype=np.int64)
                longer[: len(state.log)] = state.log
                state = state._replace(log=longer)
            elif status != k.PAUSED:
                break
            elif learning:
                tables, learning = lay_out_stretches(tables, state, table.stretches)
                budget *= 2
    except KeyboardInterrupt:
        partial, status = True, k.DONE
    if status == k.FAILED:
        raise _failure(program, device, table, state)
    alone = 0
    if program.host is not None and not partial:
        quiet = replace(program, host=None)
        report, partial = run_channel(
            quiet, group, device, policy, jump=jump, runs=runs, stretches=stretches, record=False
        )
        alone = report.cycles
    return _report(program, group, device, table, state, alone), partial


def _report(
    program: Program, group: ChannelGroup, device: Device, table: ProgramTable, state: k.State, alone: int
) -> ChannelReport:
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
    words, units = range(int(config[k.K_WORDS])), int(config[k.K_UNITS])
    state_word = now[config[k.K_WORD] + k.W_BANKS :]
    for unit in range(units):
        mask = tables.plan[config[k.K_UNIT_MASK] + unit * len(words) :]
        is_open = any((state_word[2 * w] | state_word[2 * w + 1]) & mask[w] for w in words)
        late = max(0, int(now[k.T_DUE + units + unit]) - over)
        open_cycles += int(opens[unit]) + (over if is_open else -late)

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


def _failure(program: Program, device: Device, table: ProgramTable, state: k.State) -> InputError:
    """What went wrong, at which step, in which iteration and cycle."""
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
