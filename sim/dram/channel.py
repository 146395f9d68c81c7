"""Tables and state of one channel for the request kernel, built from a device description."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neardata.arch.dram import Device
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


def pair_gaps(device: Device, first: int, then: int, *, same_bank: bool = True) -> Table | None:
    """(units of first, units of then): least distance in ticks, `NEVER` where no rule binds.

    Rules with a window are left out. ``same_bank=False`` leaves out rules of the bank level.
    """
    rules = [r for r in device.rules if (r.first, r.then, r.window) == (first, then, 1)]
    bank_level = len(device.levels) - 1
    if not same_bank:
        rules = [r for r in rules if r.level != bank_level]
    if not rules:
        return None
    of_first, of_then = device.unit_of[first], device.unit_of[then]
    gaps = np.full((device.n_units(first), device.n_units(then)), k.NEVER, dtype=np.int64)
    for rule in rules:
        node = device.node_of(rule.level)
        common = node[:, None] == node[None, :]
        if rule.sibling:
            if device.levels.index(device.commands[first].at) < rule.level:
                continue  # a command that spans the level has no siblings in it
            parent = device.node_of(rule.level - 1)
            common = (parent[:, None] == parent[None, :]) & ~common
        a, b = np.nonzero(common)
        np.maximum.at(gaps, (of_first[a], of_then[b]), rule.gap)
    return gaps


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
    units = [
        np.unique(device.unit_of[command][node == n]) for n in range(node.max() + 1)
    ]
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
    _check(device, config)
    banks, n_banks = device.n_banks, padded_banks(device)
    n_commands = len(device.commands)
    roles = [device.roles.get(role, device.roles[KINDS[i % 4]]) for i, role in enumerate(KINDS)]
    plan = refresh_plan(device, config.refresh)
    bank_level = len(device.levels) - 1

    # rules between the commands of requests, by bank group and by bank
    siblings_in_bank = any(r.sibling and r.level == bank_level for r in device.rules)
    group = np.arange(banks) if siblings_in_bank else device.node_of(max(bank_level - 1, 0))
    n_groups = int(group.max()) + 1
    representative = np.array([np.flatnonzero(group == g)[0] for g in range(n_groups)])
    group_gap = np.full((len(KINDS), 4, n_groups, n_banks), k.NEVER, dtype=np.int64)
    kind_table = np.zeros((len(KINDS), k.KIND_FIELDS), dtype=np.int64)
    kind_table[:, k.K_COMMAND] = roles
    kind_table[:, k.K_BUS_CYCLES] = np.array(device.command_cycles)[roles]
    kind_table[:, k.K_BANK_GAP : k.K_BANK_GAP + 4] = k.NEVER
    for kind, first in enumerate(roles):
        for then_kind, then in enumerate(roles[:4]):
            wide = pair_gaps(device, first, then, same_bank=siblings_in_bank)
            same_bus = not device.dual_command_bus or (
                device.commands[first].bus == device.commands[then].bus
            )
            if wide is not None:
                rows = wide[representative]
                implied = device.command_cycles[first] if same_bus else k.NEVER + 1
                if (rows > implied).any():
                    kind_table[kind, k.K_WIDE + then_kind] = 1
                    group_gap[kind, then_kind, :, :banks] = rows
            full = pair_gaps(device, first, then)
            if full is not None and (wide is None or full[0, 0] > wide[0, 0]):
                kind_table[kind, k.K_BANK_GAP + then_kind] = full[0, 0]

    # all pairs, for commands issued by their table row alone
    pair_offset = np.full((n_commands, n_commands), -1, dtype=np.int64)
    pairs: list[Table] = []
    offset = 0
    hot = set(roles[:4])
    for first in range(n_commands):
        for then in range(n_commands):
            gaps = pair_gaps(device, first, then)
            if gaps is not None:
                if then in hot:
                    gaps = np.pad(gaps, ((0, 0), (0, n_banks - banks)), constant_values=k.NEVER)
                pair_offset[first, then] = offset
                pairs.append(gaps.ravel())
                offset += gaps.size
    units = np.array([device.n_units(c) for c in range(n_commands)], dtype=np.int64)
    units[list(hot)] = n_banks

    windows = [rule for rule in device.rules if rule.window > 1]
    n_windows, longest = max(len(windows), 1), max((rule.window for rule in windows), default=1)
    window = np.full((n_windows, k.WINDOW_FIELDS), -1, dtype=np.int64)
    window_node = np.zeros((n_windows, n_banks), dtype=np.int64)
    window_gap = np.full((n_windows, n_groups, n_banks), k.NEVER, dtype=np.int64)
    ring = np.full((n_windows, banks, longest + 1), k.NEVER, dtype=np.int64)
    for w, rule in enumerate(windows):
        window[w] = rule.first, rule.then, rule.window, rule.gap
        node = device.node_of(rule.level)
        window_node[w, :banks] = node
        window_gap[w, :, :banks][node[representative][:, None] == node[None, :]] = rule.gap
        ring[w, :, rule.window] = 0  # place of the oldest

    cover_start = np.zeros((n_commands, int(units.max()) + 1), dtype=np.int64)
    cover: list[Table] = []
    at = 0
    for c in range(n_commands):
        for u in range(device.n_units(c)):
            cover_start[c, u] = at
            cover.append(device.banks_of(c, u))
            at += len(cover[-1])
            cover_start[c, u + 1] = at

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
    r[k.C_LOG], r[k.C_COMPLETIONS] = log, completions
    r[k.C_WINDOWS], r[k.C_COMMANDS] = len(windows), n_commands
    r[k.C_GROUPS], r[k.C_MAX_UNITS] = n_groups, units.max()
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
    bank[:banks, k.B_GROUP] = group
    bank[:banks, k.B_NODE] = device.node_of(device.refresh_at)
    refresh_nodes = int(device.node_of(device.refresh_at).max()) + 1

    def full(shape: int | tuple[int, ...], value: int = 0) -> Table:
        return np.full(shape, value, dtype=np.int64)

    return k.Channel(
        r=r, last=r.copy(), bank=bank, ready=full(4 * n_banks), key=full(4 * n_banks, k.INF),
        offers=full(4 * -(-n_banks // 64)), pool=pool,
        kind=kind_table, gap=group_gap.ravel(), window=window, window_node=window_node,
        window_ring=ring, window_gap=window_gap.ravel(),
        last_issue=full(n_commands * int(units.max()), k.NEVER), book=full(k.BOOK),
        slices=fields.ravel(), pair_offset=pair_offset,
        pair_gap=np.concatenate([full(0), *pairs]), units=units, unit_of=np.stack(device.unit_of),
        bus_cycles=np.array(device.command_cycles, dtype=np.int64),
        refresh_units=plan.rounds.ravel() if plan else full(1),
        cover_start=cover_start, cover_bank=np.concatenate(cover).astype(np.int64), pending=full(4096),
        node=full((refresh_nodes, 3)), command_count=full(n_commands),
    )  # fmt: skip


def _check(device: Device, config: ControllerConfig) -> None:
    missing = [role for role in KINDS[:4] if role not in device.roles]
    if missing:
        raise InputError(f"{device.name} has no {missing[0]} command, so it takes no requests")
    worst = max(device.rules, key=lambda rule: rule.gap)
    if worst.gap >= MAX_GAP:
        raise InputError(f"{worst.name} of {device.name} is {worst.gap} cycles; at most {MAX_GAP - 1}")
    if config.page == "closed":
        for plain, automatic in (("read", "read_autoprecharge"), ("write", "write_autoprecharge")):
            if automatic not in device.roles:
                raise InputError(f"{device.name} has no {automatic} command", key="controller.page")
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
