"""A command program flattened for the kernel: operations, timing slots and state of one channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neardata.arch.dram import Device
from neardata.sim.dram import program_layout as k
from neardata.sim.dram.program import REFRESH_POLICIES, ChannelGroup, HostTraffic, Program, RefreshPolicy
from neardata.sim.dram.program_length import check_length
from neardata.sim.dram.program_operations import Operations, Place
from neardata.sim.dram.program_plan import plan_of, rule_names
from neardata.sim.dram.program_stretch import LONGEST_STRETCH, find_stretches

Table = NDArray[np.int64]

CAUSES = ("fence", "wait", "clock edge", "refresh due", "host arrival")
"""What commands wait for besides timing rules, in the kernel's order."""

_ROLE_COLUMNS = {
    "refresh_all": k.K_REFRESH, "precharge_all": k.K_CLOSE_ALL, "precharge": k.K_CLOSE,
    "activate": k.K_OPEN, "read": k.K_READ, "write": k.K_WRITE,
}  # fmt: skip


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
    ops = Operations(program, group, device, refresh, log=log, jump=jump)
    commands, causes = tuple(ops.local), rule_names(device)
    plan = plan_of(device, commands)
    config = _config(ops, len(commands), len(causes), plan.units, runs=runs)
    config[k.K_TICK] = config[k.K_LAST] + len(plan.clamp)
    for role, column in _ROLE_COLUMNS.items():
        number = ops.roles.get(role)
        config[column] = -1 if number is None else plan.first[number]
        config[column + 1] = 0 if number is None else plan.step[number]
    if "precharge_all" in ops.roles:
        config[k.K_CLOSED_UNITS] = plan.units // device.n_units(device.roles["precharge_all"])
    op, term = ops.place(plan)
    tables = k.Tables(
        config=config,
        op=op,
        term=term,
        digit=np.array(ops.digits, dtype=np.int64).reshape(-1, 2),
        plan=plan.at(int(config[k.K_LAST])),
        clamp=plan.clamp,
        host=_host_table(ops.host, device, program),
        code=np.zeros(1, dtype=np.int64),
    )
    found = find_stretches(tables) if stretches else []
    for n, (start, _) in enumerate(found):
        op[start, k.O_STRETCH] = -1 - n
    return ProgramTable(
        tables=tables,
        state=_power_up(ops, tables, len(found)),
        commands=commands,
        causes=(*causes, *CAUSES),
        phases=tuple(ops.phases),
        places=tuple(ops.places),
        stretches=found,
    )


def _config(ops: Operations, commands: int, rules: int, units: int, *, runs: bool) -> Table:
    device = ops.device
    words = -(-device.n_banks // k.WORD_BITS)
    config = np.zeros(k.CONFIG, dtype=np.int64)
    config[k.K_BANKS], config[k.K_WORDS], config[k.K_UNITS] = device.n_banks, words, units
    config[k.K_POLICY] = REFRESH_POLICIES.index(ops.refresh)
    config[k.K_INTERVAL] = device.ticks("nREFI") if ops.refresh != "none" else 0
    reopens = ops.refresh == "close-reopen"
    config[k.K_ROWS] = ops.log or ops.checks_rows or ops.host is not None or reopens
    config[k.K_TICKS], config[k.K_PLUS] = device.ticks_per_clock, ops.longest_fence
    config[k.K_LOG], config[k.K_RUNS] = ops.log, runs
    config[k.K_HOST_FIRST] = ops.host is not None and ops.host.policy == "host-first"
    config[k.K_ENTER], config[k.K_RULES] = ops.enter, rules
    config[k.K_COUNTS] = k.P_INDEX + ops.depths
    config[k.K_OWED] = ops.program.owed

    config[k.K_FENCES] = k.T_DUE + 2 * units
    config[k.K_WORD] = config[k.K_FENCES] + k.F_WIDTH * (ops.widest_fork + 1)
    config[k.K_STAT] = config[k.K_WORD] + k.W_BANKS + 2 * words
    config[k.K_CAUSES] = config[k.K_STAT] + k.S_COMMANDS + commands
    config[k.K_PHASES] = config[k.K_CAUSES] + rules + k.CAUSES
    config[k.K_OPEN_CYCLES] = config[k.K_PHASES] + len(ops.phases)
    config[k.K_LAST] = config[k.K_OPEN_CYCLES] + units
    return config


def _power_up(ops: Operations, tables: k.Tables, stretches: int) -> k.State:
    config = tables.config
    banks, levels = int(config[k.K_BANKS]), max(ops.levels, 1)

    def zeros(*shape: int) -> Table:
        return np.zeros(shape, dtype=np.int64)

    now = zeros(int(config[k.K_TICK]) + LONGEST_STRETCH)
    now[[k.T_PREVIOUS, k.T_BUS, k.T_COLUMN_BUS]] = 1
    first = ops.program.first_refresh
    due = int(config[k.K_INTERVAL]) if first is None else first * ops.device.ticks_per_clock
    now[k.T_DUE : k.T_DUE + config[k.K_UNITS]] = due
    now[config[k.K_LAST] : config[k.K_TICK]] = k.NEVER
    register = zeros(k.REGISTERS)
    register[k.R_MIN_DUE] = due if config[k.K_POLICY] else k.FAR
    stream = zeros(ops.widest_fork + 1, int(config[k.K_COUNTS]) + levels)
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
        log=zeros(1 << 12 if ops.log else 1, 6),
        stretch=zeros(stretches, k.L_STATE + int(config[k.K_STAT] - config[k.K_WORD])),
    )


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
