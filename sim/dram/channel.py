"""Tables and state of one channel for the request kernel, built from a device description."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neardata.arch.dram import Device
from neardata.arch.errors import InputError
from neardata.sim.dram import request_kernel as k
from neardata.sim.dram.config import ControllerConfig

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


def bus_form(device: Device) -> int:
    """The kernel's ``bus`` argument."""
    if not device.dual_command_bus:
        return 0
    return 2 if device.ticks_per_clock == 2 else 1


def padded_banks(device: Device) -> int:
    """Banks the kernel is compiled for."""
    return max(16, 1 << (device.n_banks - 1).bit_length())


def kernel_for(device: Device):  # type: ignore[no-untyped-def]
    """The compiled request kernel of a device's geometry and command bus."""
    return k.request_kernel(padded_banks(device), bus_form(device), "activate_second" in device.roles)


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
    split = "activate_second" in device.roles
    bank_level = len(device.levels) - 1

    # rules between the commands of requests, by bank group and by bank
    siblings_in_bank = any(r.sibling and r.level == bank_level for r in device.rules)
    group = np.arange(banks) if siblings_in_bank else device.node_of(max(bank_level - 1, 0))
    n_groups = int(group.max()) + 1
    representative = np.array([np.flatnonzero(group == g)[0] for g in range(n_groups)])
    group_gap = np.full((len(KINDS), 4, n_groups, n_banks), k.NEVER, dtype=np.int64)
    group_rule = np.zeros((len(KINDS), 4), dtype=np.int64)
    bank_gap = np.full((len(KINDS), 4), k.NEVER, dtype=np.int64)
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
                    group_rule[kind, then_kind] = 1
                    group_gap[kind, then_kind, :, :banks] = rows
            full = pair_gaps(device, first, then)
            if full is not None:
                bank_gap[kind, then_kind] = full[0, 0]

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

    windows = [r for r in device.rules if r.window > 1]
    n_windows = max(len(windows), 1)
    window_node = np.zeros((n_windows, banks), dtype=np.int64)
    window_row = np.full((n_windows, n_groups, n_banks), k.NEVER, dtype=np.int64)
    for w, rule in enumerate(windows):
        node = device.node_of(rule.level)
        window_node[w] = node
        same = node[representative][:, None] == node[None, :]
        window_row[w, :, :banks][same] = rule.gap
    longest = max((r.window for r in windows), default=1)

    cover_start = np.zeros((n_commands, int(units.max()) + 1), dtype=np.int64)
    cover: list[Table] = []
    at = 0
    for c in range(n_commands):
        for u in range(device.n_units(c)):
            cover_start[c, u] = at
            cover.append(device.banks_of(c, u))
            at += len(cover[-1])
            cover_start[c, u + 1] = at

    cfg = np.zeros(k.CONFIG_SIZE, dtype=np.int64)
    cfg[k.C_READ_QUEUE], cfg[k.C_WRITE_QUEUE] = config.read_queue, config.write_queue
    # thresholds as the peer compares them: entry counts against single-precision products
    high = np.float32(config.write_high) * np.float32(config.write_queue)
    low = np.float32(config.write_low) * np.float32(config.write_queue)
    cfg[k.C_WRITE_HIGH], cfg[k.C_WRITE_LOW] = int(np.floor(high)), int(np.ceil(low))
    cfg[k.C_ROW_HIT] = config.scheduler == "frfcfs-rowhit"
    cfg[k.C_PAGE] = ("open", "closed", "timeout").index(config.page)
    cfg[k.C_TIMEOUT] = config.page_timeout
    cfg[k.C_READ_LATENCY], cfg[k.C_WRITE_LATENCY] = device.read_latency, device.write_latency
    cfg[k.C_LOG], cfg[k.C_COMPLETIONS] = log, completions
    cfg[k.C_WINDOWS], cfg[k.C_COMMANDS] = len(windows), n_commands
    cfg[[k.C_COLUMN_BITS, k.C_BANK_BITS, k.C_ROW_BITS]] = field_bits
    if plan is not None:
        cfg[k.C_REFRESH_INTERVAL] = plan.interval
        cfg[k.C_REFRESH_ROUNDS], cfg[k.C_REFRESH_WIDTH] = plan.rounds.shape
        cfg[k.C_REFRESH_COMMAND], cfg[k.C_REFRESH_PRECHARGE] = plan.command, plan.precharge
    if split:
        cfg[k.C_ACT2], cfg[k.C_ACT2_DEADLINE] = device.roles["activate_second"], device.ticks("nAAD")
        cfg[k.C_SYNC_READ], cfg[k.C_SYNC_WRITE] = device.roles["sync_read"], device.roles["sync_write"]
        after = device.burst_cycles + device.ticks("nWCKPST")
        cfg[k.C_SYNC_READ_HOLD] = device.ticks("nCL") + after
        cfg[k.C_SYNC_WRITE_HOLD] = device.ticks("nCWL") + after

    pool = config.read_queue + config.write_queue + n_banks + 1
    register = np.zeros(k.REGISTERS, dtype=np.int64)
    register[k.R_NOW] = 1
    register[k.R_MODE_STALE] = 1
    register[k.R_FREE] = pool
    register[k.R_NEXT_REFRESH] = plan.interval if plan else k.INF
    register[k.R_ACT2_SLOT] = register[k.R_SYNC_SLOT] = -1
    refresh_nodes = int(device.node_of(device.refresh_at).max()) + 1

    def full(shape: int | tuple[int, ...], value: int = 0) -> Table:
        return np.full(shape, value, dtype=np.int64)

    return k.Channel(
        config=cfg, register=register, stat=full(k.STATS), last_stat=full(k.STATS),
        slices=np.ascontiguousarray(slices, dtype=np.int64),
        ready_rd=full(n_banks), ready_wr=full(n_banks), ready_act=full(n_banks), ready_pre=full(n_banks),
        key_rd=full(n_banks, k.INF), key_wr=full(n_banks, k.INF),
        key_act=full(n_banks, k.INF), key_pre=full(n_banks, k.INF), offers=full(4),
        open_row=full(n_banks, k.CLOSED), active=full(n_banks, -1), hit=full((2, n_banks), -1),
        other=full((2, n_banks), -1), head=full((2, n_banks), -1), tail=full((2, n_banks), -1),
        pool=full((pool, k.FIELDS)), free=np.arange(pool, dtype=np.int64), last_column=full(n_banks),
        group=np.pad(group, (0, n_banks - banks)).astype(np.int64), group_gap=group_gap,
        group_rule=group_rule, bank_gap=bank_gap,
        bus_cycles=np.array(device.command_cycles, dtype=np.int64),
        command_of_kind=np.array(roles, dtype=np.int64),
        window_first=np.array([r.first for r in windows] or [-1], dtype=np.int64),
        window_then=np.array([r.then for r in windows] or [-1], dtype=np.int64),
        window_length=np.array([r.window for r in windows] or [1], dtype=np.int64),
        window_gap=np.array([r.gap for r in windows] or [0], dtype=np.int64),
        window_row=window_row, window_node=window_node,
        window_ring=full((n_windows, banks, longest), k.NEVER), window_at=full((n_windows, banks)),
        last_issue=full((n_commands, int(units.max())), k.NEVER), pair_offset=pair_offset,
        pair_gap=np.concatenate([full(0), *pairs]), units=units, unit_of=np.stack(device.unit_of),
        refresh_units=plan.rounds.ravel() if plan else full(1),
        cover_start=cover_start, cover_bank=np.concatenate(cover).astype(np.int64),
        pending=full(4096),
        node_of_bank=device.node_of(device.refresh_at), open_banks=full(refresh_nodes),
        open_since=full(refresh_nodes), open_cycles=full(refresh_nodes), command_count=full(n_commands),
        filter=full(k.FILTER), recent_depart=full(k.RECENT), recent_latency=full(k.RECENT),
        histogram=full(2 * k.HISTOGRAM),
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
    if bus_form(device) == 2:
        pre = device.roles["precharge"]
        gap = max((r.gap for r in device.rules if r.first == r.then == pre), default=0)
        if gap < 2:
            raise InputError("half-clock precharges need a spacing of a clock", key="timing.nPPD")
