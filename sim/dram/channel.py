"""Tables and state of one channel for the request kernel, built from a device description."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neardata.arch.dram import Device, TimingRule
from neardata.arch.errors import InputError
from neardata.sim.dram import controller_kernel as k
from neardata.sim.dram.config import ControllerConfig
from neardata.sim.dram.lanes_kernel import LANES

Table = NDArray[np.int64]

KINDS = ("read", "write", "activate", "precharge", "read_autoprecharge", "write_autoprecharge")
"""Roles in the order of the kernel's kinds."""
MAX_GAP = 1 << 21


@dataclass(frozen=True)
class RefreshPlan:
    """What falls due when."""

    interval: int
    """Ticks between rounds (0: never)."""
    rounds: Table
    """(rounds, units per round): units of ``command``, round after round."""
    command: int
    precharge: int
    """Command that closes the banks of a unit first."""


class Gaps:
    """Distances between all pairs of commands of a device, rules with a window left out."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._node = [device.node_of(level) for level in range(len(device.levels))]
        self._rules: dict[tuple[int, int], list[TimingRule]] = {}
        for rule in device.rules:
            if rule.window == 1:
                self._rules.setdefault((rule.first, rule.then), []).append(rule)

    def banks(self, first: int, then: int, *, same_bank: bool = True) -> Table | None:
        """(banks, banks): least ticks from ``first`` at one bank to ``then`` at another.

        `NEVER` where no rule binds, None if none does at all. ``same_bank=False`` leaves out
        the rules of the bank level.
        """
        bank_level = len(self.device.levels) - 1
        rules = [r for r in self._rules.get((first, then), ()) if same_bank or r.level != bank_level]
        if not rules:
            return None
        depth = self.device.levels.index(self.device.commands[first].at)
        gaps = np.full((self.device.n_banks,) * 2, k.NEVER, dtype=np.int64)
        for rule in rules:
            node = self._node[rule.level]
            common = node[:, None] == node[None, :]
            if rule.sibling:
                if depth < rule.level:
                    continue  # a command that spans the level has no siblings in it
                parent = self._node[rule.level - 1]
                common = (parent[:, None] == parent[None, :]) & ~common
            gaps[common] = np.maximum(gaps[common], rule.gap)
        return gaps

    def units(self, first: int, then: int) -> Table | None:
        """(units of first, units of then): the same by what one issue addresses."""
        gaps = self.banks(first, then)
        if gaps is None:
            return None
        device, shape = self.device, (self.device.n_units(first), self.device.n_units(then))
        if shape == gaps.shape:
            return gaps
        by_unit = np.full(shape, k.NEVER, dtype=np.int64)
        where = np.broadcast_arrays(device.unit_of[first][:, None], device.unit_of[then][None, :])
        np.maximum.at(by_unit, tuple(where), gaps)
        return by_unit


def refresh_plan(device: Device, mode: str) -> RefreshPlan | None:
    """Refreshes of a mode in the order they fall due.

    All-bank: every node of the refresh level at each ``nREFI``. Per-bank and same-bank: the
    next unit of each node, round robin, at each ``nREFIpb`` / ``nREFIsb``.

    Raises:
        InputError: the device has no such refresh.
    """
    if mode == "none":
        return None
    role, interval, precharge = {
        "all-bank": ("refresh_all", "nREFI", "precharge_all"),
        "per-bank": ("refresh_bank", "nREFIpb", "precharge"),
        "same-bank": ("refresh_same_bank", "nREFIsb", "precharge_same_bank"),
    }[mode]
    if not {role, precharge} <= set(device.roles) or interval not in device.timing:
        raise InputError(f"{device.name} has no {mode} refresh", key="controller.refresh")
    if device.timing[interval] == 0:
        raise InputError("must be positive", key=f"timing.{interval}")
    command = device.roles[role]
    node = device.node_of(device.refresh_at)
    units = [np.unique(device.unit_of[command][node == n]) for n in range(node.max() + 1)]
    return RefreshPlan(
        device.ticks(interval), np.stack(units, axis=1).astype(np.int64), command, device.roles[precharge]
    )


def padded_banks(device: Device) -> int:
    """Banks the kernel is compiled for."""
    return max(16, 1 << (device.n_banks - 1).bit_length())


def has_half_clock(device: Device) -> bool:
    """Row commands may use either edge of the clock (HBM3)."""
    return device.dual_command_bus and device.ticks_per_clock == 2


def kernel_for(device: Device) -> Callable[..., Any]:
    """The request kernel of a device's geometry and command bus."""
    if device.dual_command_bus:
        from neardata.sim.dram.dual_bus_kernel import dual_bus_kernel

        return dual_bus_kernel(padded_banks(device), int(has_half_clock(device)))
    from neardata.sim.dram.single_bus_kernel import single_bus_kernel

    return single_bus_kernel(padded_banks(device), int("activate_second" in device.roles))


@dataclass(frozen=True)
class DeviceTables:
    """What the kernel knows of a device, the same for every channel (see `k.Channel`)."""

    group: Table
    """(banks,) number of the group whose banks look alike to every other bank."""
    kind: Table
    gap: Table
    pair_offset: Table
    pair_gap: Table
    closing: tuple[int, int, int]
    """Ticks from a read, a write with auto-precharge to the precharge, and tRAS."""
    units: Table
    unit_of: Table
    bus_cycles: Table
    windows: int
    window: Table
    window_node: Table
    window_gap: Table
    window_ring: Table
    cover_start: Table
    cover_bank: Table


@functools.lru_cache(maxsize=64)
def device_tables(device: Device) -> DeviceTables:
    """Tables of a device, built once."""
    banks, n_banks = device.n_banks, padded_banks(device)
    n_commands = len(device.commands)
    roles = [device.roles.get(role, device.roles[KINDS[i % 4]]) for i, role in enumerate(KINDS)]
    bank_level, gaps = len(device.levels) - 1, Gaps(device)

    # rules between the commands of requests, by bank group and by bank
    siblings_in_bank = any(r.sibling and r.level == bank_level for r in device.rules)
    group = np.arange(banks) if siblings_in_bank else device.node_of(max(bank_level - 1, 0))
    representative = np.unique(group, return_index=True)[1]
    group_gap = np.full((len(KINDS), 4, len(representative), n_banks), k.NEVER, dtype=np.int64)
    kind = np.zeros((len(KINDS), k.KIND_FIELDS), dtype=np.int64)
    kind[:, k.K_COMMAND] = roles
    kind[:, k.K_BUS_CYCLES] = np.array(device.command_cycles)[roles]
    kind[:, k.K_BANK_GAP : k.K_BANK_GAP + 4] = k.NEVER
    for i, first in enumerate(roles):
        for j, then in enumerate(roles[:4]):
            same_bus = not device.dual_command_bus or device.commands[first].bus == device.commands[then].bus
            implied = device.command_cycles[first] if same_bus else k.NEVER
            wide, full = gaps.banks(first, then, same_bank=siblings_in_bank), gaps.banks(first, then)
            if wide is not None and (wide[representative] > implied).any():
                kind[i, k.K_WIDE + j] = 1
                group_gap[i, j, :, :banks] = wide[representative]
            if full is not None and (wide is None or full[0, 0] > wide[0, 0]):
                kind[i, k.K_BANK_GAP + j] = full[0, 0]

    def in_bank(first: int, then: int) -> int:
        table = gaps.banks(first, then)
        return 0 if table is None else max(0, int(table[0, 0]))

    activate, precharge = roles[2:4]
    recovery = in_bank(precharge, activate)
    closing = (
        in_bank(roles[4], activate) - recovery, in_bank(roles[5], activate) - recovery,
        in_bank(activate, precharge),
    )  # fmt: skip

    # all pairs, for commands issued by their table row alone
    pair_offset = np.full((n_commands, n_commands), -1, dtype=np.int64)
    pairs: list[Table] = [np.zeros(0, dtype=np.int64)]
    units = np.array([device.n_units(c) for c in range(n_commands)], dtype=np.int64)
    units[roles[:4]] = n_banks
    for first in range(n_commands):
        for then in range(n_commands):
            table = gaps.units(first, then)
            if table is not None:
                pair_offset[first, then] = sum(map(len, pairs))
                padding = [(0, units[c] - n) for c, n in zip((first, then), table.shape, strict=True)]
                pairs.append(np.pad(table, padding, constant_values=k.NEVER).ravel())

    windows = [rule for rule in device.rules if rule.window > 1]
    n_windows, longest = max(len(windows), 1), max((rule.window for rule in windows), default=1)
    window = np.full((n_windows, k.WINDOW_FIELDS), -1, dtype=np.int64)
    window_node = np.zeros((n_windows, n_banks), dtype=np.int64)
    window_gap = np.full((n_windows, len(representative), n_banks), k.NEVER, dtype=np.int64)
    ring = np.full((n_windows, banks, longest + 1), k.NEVER, dtype=np.int64)
    for w, rule in enumerate(windows):
        window[w] = rule.first, rule.then, rule.window, rule.gap
        node = device.node_of(rule.level)
        window_node[w, :banks] = node
        window_gap[w, :, :banks][node[representative][:, None] == node[None, :]] = rule.gap
        ring[w, :, rule.window] = 0  # place of the oldest

    # banks of every unit, command after command
    cover_start = np.zeros((n_commands, int(units.max()) + 1), dtype=np.int64)
    cover = [np.argsort(of, kind="stable") for of in device.unit_of]
    for c, of in enumerate(device.unit_of):
        ends = np.cumsum(np.bincount(of)) + c * banks
        cover_start[c, 0], cover_start[c, 1 : len(ends) + 1] = c * banks, ends
    return DeviceTables(
        group=group, kind=kind, gap=group_gap.ravel(), closing=closing, pair_offset=pair_offset,
        pair_gap=np.concatenate(pairs), units=units, unit_of=np.stack(device.unit_of),
        bus_cycles=np.array(device.command_cycles, dtype=np.int64), windows=len(windows), window=window,
        window_node=window_node, window_gap=window_gap.ravel(), window_ring=ring,
        cover_start=cover_start, cover_bank=np.concatenate(cover).astype(np.int64),
    )  # fmt: skip


def new_channel(
    device: Device,
    config: ControllerConfig,
    slices: Table,
    field_bits: tuple[int, int, int],
    *,
    log: bool,
    completions: bool,
) -> k.Channel:
    """A channel at power-up.

    Args:
        slices: (n, 3) address bit fields, see `AddressMapping`.
        field_bits: bits of column, bank and row in a decoded address.
        log: record commands.
        completions: record requests.
    """
    check_controller(device, config)
    tables = device_tables(device)
    banks, n_banks = device.n_banks, padded_banks(device)
    plan = refresh_plan(device, config.refresh)

    r = np.zeros(k.SCALARS, dtype=np.int64)
    r[k.C_READ_QUEUE], r[k.C_WRITE_QUEUE] = config.read_queue, config.write_queue
    # thresholds as the peer compares them: entry counts against single-precision products
    high = np.float32(config.write_high) * np.float32(config.write_queue)
    low = np.float32(config.write_low) * np.float32(config.write_queue)
    r[k.C_WRITE_HIGH], r[k.C_WRITE_LOW] = int(np.floor(high)), int(np.ceil(low))
    r[k.C_ROW_HIT] = config.scheduler == "frfcfs-rowhit"
    r[k.C_PAGE] = ("open", "closed", "timeout").index(config.page)
    r[k.C_TIMEOUT] = config.page_timeout
    r[k.C_READ_LATENCY], r[k.C_WRITE_LATENCY] = device.read_latency, device.write_latency
    r[k.C_READ_CLOSE], r[k.C_WRITE_CLOSE], r[k.C_ROW_OPEN] = tables.closing
    r[k.C_LOG], r[k.C_COMPLETIONS] = log, completions
    r[k.C_WINDOWS], r[k.C_COMMANDS] = tables.windows, len(device.commands)
    r[k.C_GROUPS], r[k.C_MAX_UNITS] = tables.group.max() + 1, tables.units.max()
    fields = np.zeros((3, -(-len(slices) // LANES) * LANES), dtype=np.int64)
    fields[:, : len(slices)] = np.asarray(slices).T
    r[k.C_SLICES] = fields.shape[1]
    r[[k.C_COLUMN_BITS, k.C_BANK_BITS, k.C_ROW_BITS]] = field_bits
    if plan is not None:
        r[k.C_REFRESH_INTERVAL] = plan.interval
        r[k.C_REFRESH_ROUNDS], r[k.C_REFRESH_WIDTH] = plan.rounds.shape
        r[k.C_REFRESH_COMMAND], r[k.C_REFRESH_PRECHARGE] = plan.command, plan.precharge
    if "activate_second" in device.roles:
        r[k.C_ACT2], r[k.C_ACT2_DEADLINE] = device.roles["activate_second"], device.ticks("nAAD")
        r[k.C_SYNC_READ], r[k.C_SYNC_WRITE] = device.roles["sync_read"], device.roles["sync_write"]
        hold = device.burst_cycles + device.ticks("nWCKPST")
        r[k.C_SYNC_READ_HOLD] = device.ticks("nCL") + hold
        r[k.C_SYNC_WRITE_HOLD] = device.ticks("nCWL") + hold
    r[k.R_NOW] = 1
    r[k.R_MODE_STALE] = 1
    r[k.R_NEXT_REFRESH] = plan.interval if plan else k.INF
    r[k.R_ACT2_SLOT] = r[k.R_SYNC_SLOT] = -1
    r[k.S_LAST_READ] = r[k.S_LAST_WRITE] = k.NEVER

    slots = config.read_queue + config.write_queue + n_banks + 1
    pool = np.zeros((slots, k.REQUEST_FIELDS), dtype=np.int64)
    pool[:, k.NEXT] = np.arange(1, slots + 1)
    bank = np.full((n_banks, k.BANK_FIELDS), -1, dtype=np.int64)
    bank[:, k.B_OPEN_ROW] = k.CLOSED
    bank[:, k.B_LAST_COLUMN] = 0
    bank[:banks, k.B_GROUP] = tables.group
    bank[:banks, k.B_NODE] = device.node_of(device.refresh_at)
    refresh_nodes = int(device.node_of(device.refresh_at).max()) + 1

    def full(size: int, value: int) -> Table:
        return np.full(size, value, dtype=np.int64)

    return _apart(k.Channel(
        r=r, last=r.copy(), bank=bank, ready=_zeros(4 * n_banks), key=full(4 * n_banks, k.INF),
        offers=_zeros(4 * -(-n_banks // 64)), pool=pool, kind=tables.kind, gap=tables.gap,
        window=tables.window, window_node=tables.window_node, window_ring=tables.window_ring,
        window_gap=tables.window_gap,
        last_issue=full(len(device.commands) * int(tables.units.max()), k.NEVER),
        book=_zeros(k.BOOK), slices=fields.ravel(), pair_offset=tables.pair_offset, pair_gap=tables.pair_gap,
        units=tables.units, unit_of=tables.unit_of, bus_cycles=tables.bus_cycles,
        refresh_units=plan.rounds.ravel() if plan else _zeros(1),
        cover_start=tables.cover_start, cover_bank=tables.cover_bank, pending=_zeros(4096),
        node=_zeros(refresh_nodes, 4), command_count=_zeros(len(device.commands)),
    ))  # fmt: skip


def _zeros(*shape: int) -> Table:
    """Zeros that take no memory."""
    return np.broadcast_to(np.int64(0), shape)


def _apart(channel: k.Channel) -> k.Channel:
    """A copy of a channel in memory of its own, every array at the start of a cache line.

    So no line is shared by channels that run in different threads, and runs of eight banks lie
    in one line each.
    """
    line = 8  # words
    room = [-(-array.size // line) * line for array in channel]
    raw = np.zeros(sum(room) + 4 * line, dtype=np.int64)  # a pair of lines, fetched together, off either end
    at = 2 * line + (-(raw.ctypes.data >> 3) % line)
    copies = []
    for array, size in zip(channel, room, strict=True):
        copies.append(raw[at : at + array.size].reshape(array.shape))
        if any(array.strides):  # else zeros, as the memory already is: most of it is never touched
            copies[-1][...] = array
        at += size
    return k.Channel(*copies)


def check_controller(device: Device, config: ControllerConfig) -> None:
    """Raises `InputError` if a device takes no requests, or not from such a controller."""
    missing = [role for role in KINDS[:4] if role not in device.roles]
    if missing:
        raise InputError(f"{device.name} has no {missing[0]} command, so it takes no requests")
    worst = max(device.rules, key=lambda rule: rule.gap)
    if worst.gap >= MAX_GAP:
        raise InputError(f"{worst.name} of {device.name} is {worst.gap} cycles; at most {MAX_GAP - 1}")
    if config.page == "closed":
        for plain, automatic in (("read", "read_autoprecharge"), ("write", "write_autoprecharge")):
            if automatic not in device.roles:
                raise InputError(
                    f"closed, but {device.name} has no {automatic} command; take open or timeout",
                    key="controller.page",
                )
            rules = [
                sorted(
                    (r.level, r.first, r.gap, r.window, r.sibling)
                    for r in device.rules
                    if r.then == device.roles[role]
                )
                for role in (plain, automatic)
            ]
            if rules[0] != rules[1]:
                raise InputError(
                    f"{device.name} times {automatic} unlike {plain}; closed pages are not modelled for it",
                    key="controller.page",
                )
    if has_half_clock(device):
        pre = device.roles["precharge"]
        gap = max((r.gap for r in device.rules if r.first == r.then == pre), default=0)
        if gap < 2:
            raise InputError("half-clock precharges need a spacing of a clock", key="timing.nPPD")


def renew_ages(channel: k.Channel) -> None:
    """Number the waiting requests afresh by age, so that ages stay below `AGE_LIMIT`."""
    r, pool, bank = channel.r, channel.pool, channel.bank
    waiting = [s for s in (r[k.R_ACT2_SLOT], *bank[:, k.B_ACTIVE]) if s >= 0]
    for s in bank[:, k.B_HEAD : k.B_HEAD + 2].ravel():
        while s >= 0:
            waiting.append(s)
            s = pool[s, k.NEXT]
    waiting.sort(key=lambda s: int(pool[s, k.AGE]))
    pool[waiting, k.AGE] = np.arange(len(waiting))
    r[k.R_AGE] = len(waiting)
    k.switch_mode(r[k.R_MODE], r, bank, channel.key, channel.offers, pool, len(bank))


def skip_idle(channel: k.Channel, kernel: Callable[..., Any], until: int) -> None:
    """Pass over refreshes of a channel that waits for a request arriving at ``until``.

    Refreshes come round after some intervals. If one round leaves the channel as it was, with
    every tick that still matters moved on by the round's length, so do the rounds after it: as
    many as end before ``until`` are added at once. Else one round has been simulated.
    """
    r = channel.r
    rounds = int(r[k.C_REFRESH_ROUNDS])
    period = rounds * int(r[k.C_REFRESH_INTERVAL])
    if period % 2:  # a tick and the next are not alike where the clock is half as fast
        rounds, period = 2 * rounds, 2 * period
    start = int(r[k.R_NOW])
    if start + period >= until:
        return
    before, counts, nothing = _idle_state(channel), channel.command_count.copy(), k.empty_log(0, 7)
    r[k.R_IDLE] = rounds + 1
    kernel(
        channel, np.zeros(1, np.int64), np.zeros(1, np.uint8), np.array([until]), 1, False, nothing, nothing
    )
    after = _idle_state(channel)
    if r[k.R_NOW] != start + period or r[k.R_PENDING]:
        return
    if not all(np.array_equal(then, now) for then, now in zip(before, after, strict=True)):
        return
    times, now = (until - start - period) // period, int(r[k.R_NOW])
    for ticks in (channel.ready, channel.last_issue, channel.window_ring[..., :-1]):
        ticks[ticks > now - MAX_GAP] += times * period
    r[_TICKS] += times * period
    channel.command_count[:] += times * (channel.command_count - counts)


_TICKS = [k.R_NOW, k.R_NEXT_REFRESH, k.R_BUS_FREE, k.R_COLUMN_FREE, k.R_ACT2_DEADLINE, k.R_SYNC_EXPIRY]


def _idle_state(channel: k.Channel) -> list[Table]:
    """What an idle channel's future depends on: ticks from now, those past all rules alike."""
    now = channel.r[k.R_NOW]
    registers = channel.r.copy()
    registers[[*_TICKS, k.R_IDLE, k.R_WATCH, k.R_PENDING_HEAD]] = 0
    ticks = (
        channel.ready, channel.last_issue, channel.window_ring[..., :-1], channel.r[_TICKS]
    )  # fmt: skip
    same = (
        channel.window_ring[..., -1], channel.bank, channel.key, channel.offers, channel.pool, channel.node
    )  # fmt: skip
    return [*((t - now).clip(min=-MAX_GAP) for t in ticks), *(array.copy() for array in same), registers]
