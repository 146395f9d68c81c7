"""The request kernel: one channel's memory controller, command by command.

The controller is that of Ramulator 2.1 (its GenericDDR, HBM12, HBM34 and LPDDR5 forms),
advanced from event to event instead of tick by tick. ``tests/naive/request.py`` is the
same controller written the obvious way; the two agree command for command.

How a command is found without scanning the queues:

* Timing rules are pushed down at issue: ``ready[kind][bank]`` is the first tick at which
  a read, write, activate or precharge of the bank breaks no rule.
* Requests hang in one list per (queue, bank), oldest first. A bank offers at most one
  candidate of each kind: its activated request or else its oldest row hit (column
  commands), its oldest other request (activate when closed, precharge when open).
* The next command is the least ``(ready - now, class, age, bank)`` packed in one integer,
  a branch-free reduction over the banks.
"""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

INF = 1 << 62
NEVER = -(1 << 60)

# candidate keys: | ticks to wait (22) | class (1) | age (29) | bank (10) |
WAIT_SHIFT, CLASS_BIT, AGE_SHIFT, BANK_MASK = 40, 1 << 39, 10, 1023
KEY_MASK = (1 << WAIT_SHIFT) - 1
AGE_LIMIT = 1 << 29

# kinds of command a request needs; +4: with auto-precharge
RD, WR, ACT, PRE = 0, 1, 2, 3
CLOSED, ACTIVATING = -1, -2

# fields of a request in the pool
ROW, COLUMN, BANK, KIND, AGE, ARRIVE, ID, COUNTED, NEXT, PREVIOUS, ADDRESS, FIELDS = range(12)

# config[...]
(
    C_READ_QUEUE, C_WRITE_QUEUE, C_WRITE_HIGH, C_WRITE_LOW, C_ROW_HIT, C_PAGE, C_TIMEOUT,
    C_READ_LATENCY, C_WRITE_LATENCY, C_REFRESH_INTERVAL, C_REFRESH_ROUNDS, C_REFRESH_WIDTH,
    C_REFRESH_COMMAND, C_REFRESH_PRECHARGE, C_LOG, C_COMPLETIONS, C_WINDOWS, C_COMMANDS,
    C_ACT2, C_ACT2_DEADLINE, C_SYNC_READ, C_SYNC_WRITE, C_SYNC_READ_HOLD, C_SYNC_WRITE_HOLD,
    C_COLUMN_BITS, C_BANK_BITS, C_ROW_BITS, CONFIG_SIZE,
) = range(28)  # fmt: skip
PAGE_OPEN, PAGE_CLOSED, PAGE_TIMEOUT = 0, 1, 2

# register[...]: scalars that survive between calls
(
    R_NOW, R_MODE, R_MODE_STALE, R_READS, R_WRITES, R_ACTIVE, R_FREE, R_AGE, R_NEXT_REFRESH,
    R_REFRESH_ROUND, R_PENDING_HEAD, R_PENDING, R_BUS_FREE, R_COLUMN_FREE, R_ACT2_SLOT,
    R_ACT2_DEADLINE, R_SYNC_SLOT, R_SYNC_EXPIRY, R_NEXT_ID, R_LATENCY_HEAD, R_LOG, R_COMPLETED,
    REGISTERS,
) = range(23)  # fmt: skip

# stat[...]
(
    S_READS, S_WRITES, S_FORWARDED, S_COALESCED, S_HITS, S_MISSES, S_CONFLICTS, S_READS_SERVED,
    S_WRITES_SERVED, S_LATENCY, S_LAST_ACCEPT, S_LAST_DEPART, S_MAX_LATENCY, S_DEPARTED_LATENCY, STATS,
) = range(15)  # fmt: skip

# why the kernel returned
MORE_REQUESTS, DRAINED, LOG_FULL, STUCK = 0, 1, 2, 3

LOG_MARGIN = 4
RECENT = 512
"""Reads remembered to know which had returned when the last request was accepted."""
FILTER = 1024
HISTOGRAM = 1 << 16

# Everything a channel is made of; see `neardata.sim.dram.channel` for shapes
Channel = namedtuple(
    "Channel",
    "config register stat last_stat slices "
    "ready_rd ready_wr ready_act ready_pre key_rd key_wr key_act key_pre offers "
    "open_row active hit other head tail pool free last_column "
    "group group_gap group_rule bank_gap bus_cycles command_of_kind "
    "window_first window_then window_length window_gap window_row window_node window_ring window_at "
    "last_issue pair_offset pair_gap units unit_of "
    "refresh_units cover_start cover_bank pending "
    "node_of_bank open_banks open_since open_cycles command_count "
    "filter recent_depart recent_latency histogram",
)


@njit(cache=True, nogil=True, forceinline=True)
def _least(ready, key, base, n_banks):
    best = INF
    for b in range(n_banks):
        wait = max(ready[b] - base, 0)
        best = min(best, (wait << WAIT_SHIFT) + key[b])
    return best


@njit(cache=True, nogil=True, forceinline=True)
def _least_on_clock(ready, key, base, n_banks):
    """Like `_least` for commands that issue on odd ticks only (``base`` is odd)."""
    best = INF
    for b in range(n_banks):
        wait = (max(ready[b] - base, 0) + 1) & -2
        best = min(best, (wait << WAIT_SHIFT) + key[b])
    return best


@njit(cache=True, nogil=True, forceinline=True)
def _push(ready, gaps, t, n_banks):
    for b in range(n_banks):
        ready[b] = max(ready[b], t + gaps[b])


@njit(cache=True, nogil=True)
def _link(ch, q, b, s):
    tail = ch.tail[q, b]
    ch.pool[s, NEXT] = -1
    ch.pool[s, PREVIOUS] = tail
    if tail < 0:
        ch.head[q, b] = s
    else:
        ch.pool[tail, NEXT] = s
    ch.tail[q, b] = s


@njit(cache=True, nogil=True, forceinline=True)
def _unlink(ch, q, b, s):
    after, before = ch.pool[s, NEXT], ch.pool[s, PREVIOUS]
    if before < 0:
        ch.head[q, b] = after
    else:
        ch.pool[before, NEXT] = after
    if after < 0:
        ch.tail[q, b] = before
    else:
        ch.pool[after, PREVIOUS] = before


@njit(cache=True, nogil=True, forceinline=True)
def _next_hit(ch, s, row):
    while s >= 0 and ch.pool[s, ROW] != row:
        s = ch.pool[s, NEXT]
    return s


@njit(cache=True, nogil=True, forceinline=True)
def _sort_out(ch, b):
    """Find the bank's candidates anew after its row changed."""
    row = ch.open_row[b]
    for q in range(2):
        s = ch.head[q, b]
        if row < 0:
            ch.hit[q, b] = -1
            ch.other[q, b] = s
        else:
            hit, other = -1, -1
            while s >= 0 and (hit < 0 or other < 0):
                if ch.pool[s, ROW] == row:
                    if hit < 0:
                        hit = s
                elif other < 0:
                    other = s
                s = ch.pool[s, NEXT]
            ch.hit[q, b] = hit
            ch.other[q, b] = other


@njit(cache=True, nogil=True, forceinline=True)
def _offer(ch, b, mode, row_hit_first):
    """Put the bank's candidates under the current write mode into the key arrays."""
    rd, wr, act, pre = INF, INF, INF, INF
    active, hit, other = ch.active[b], ch.hit[mode, b], ch.other[mode, b]
    if hit >= 0:
        key = CLASS_BIT | (ch.pool[hit, AGE] << AGE_SHIFT) | b
        if mode == RD:
            rd = key
        else:
            wr = key
    if active >= 0:
        key = (ch.pool[active, AGE] << AGE_SHIFT) | b
        if ch.pool[active, KIND] == RD:
            rd = key
        else:
            wr = key
    if other >= 0:
        age = ch.pool[other, AGE]
        key = CLASS_BIT | (age << AGE_SHIFT) | b
        row = ch.open_row[b]
        if row == CLOSED:
            act = key
        elif (
            row >= 0
            and active < 0
            and (row_hit_first == 0 or hit < 0 or ch.pool[hit, AGE] > age)
        ):
            pre = key
    ch.offers[RD] += int(rd != INF) - int(ch.key_rd[b] != INF)
    ch.offers[WR] += int(wr != INF) - int(ch.key_wr[b] != INF)
    ch.offers[ACT] += int(act != INF) - int(ch.key_act[b] != INF)
    ch.offers[PRE] += int(pre != INF) - int(ch.key_pre[b] != INF)
    ch.key_rd[b] = rd
    ch.key_wr[b] = wr
    ch.key_act[b] = act
    ch.key_pre[b] = pre


@njit(cache=True, nogil=True, forceinline=True)
def _after(ch, kind, b, t, n_banks):
    """Push the timing rules that follow command ``kind`` (with auto-precharge: +4) of a bank."""
    g = ch.group[b]
    if ch.group_rule[kind, RD]:
        _push(ch.ready_rd, ch.group_gap[kind, RD, g], t, n_banks)
    if ch.group_rule[kind, WR]:
        _push(ch.ready_wr, ch.group_gap[kind, WR, g], t, n_banks)
    if ch.group_rule[kind, ACT]:
        _push(ch.ready_act, ch.group_gap[kind, ACT, g], t, n_banks)
    if ch.group_rule[kind, PRE]:
        _push(ch.ready_pre, ch.group_gap[kind, PRE, g], t, n_banks)
    ch.ready_rd[b] = max(ch.ready_rd[b], t + ch.bank_gap[kind, RD])
    ch.ready_wr[b] = max(ch.ready_wr[b], t + ch.bank_gap[kind, WR])
    ch.ready_act[b] = max(ch.ready_act[b], t + ch.bank_gap[kind, ACT])
    ch.ready_pre[b] = max(ch.ready_pre[b], t + ch.bank_gap[kind, PRE])
    command = ch.command_of_kind[kind]
    ch.last_issue[command, b] = t
    ch.command_count[command] += 1


@njit(cache=True, nogil=True, forceinline=True)
def _log(ch, t, command, unit, row, column, kind, log):
    if ch.config[C_LOG]:
        n = ch.register[R_LOG]
        log[n, 0] = t
        log[n, 1] = command
        log[n, 2] = unit
        log[n, 3] = row
        log[n, 4] = column
        log[n, 5] = kind
        ch.register[R_LOG] = n + 1


@njit(cache=True, nogil=True, forceinline=True)
def _opened(ch, b, t):
    node = ch.node_of_bank[b]
    if ch.open_banks[node] == 0:
        ch.open_since[node] = t
    ch.open_banks[node] += 1


@njit(cache=True, nogil=True, forceinline=True)
def _closed(ch, b, t):
    node = ch.node_of_bank[b]
    ch.open_banks[node] -= 1
    if ch.open_banks[node] == 0:
        ch.open_cycles[node] += t - ch.open_since[node]


@njit(cache=True, nogil=True, forceinline=True)
def _complete(ch, s_id, arrive, issue, depart, kind, done):
    if ch.config[C_COMPLETIONS]:
        n = ch.register[R_COMPLETED]
        done[n, 0] = s_id
        done[n, 1] = arrive
        done[n, 2] = issue
        done[n, 3] = depart
        done[n, 4] = kind
        ch.register[R_COMPLETED] = n + 1
    stat = ch.stat
    if depart > stat[S_LAST_DEPART]:
        stat[S_LAST_DEPART] = depart
    if kind == RD:
        latency = depart - arrive
        stat[S_LATENCY] += latency
        if latency > stat[S_MAX_LATENCY]:
            stat[S_MAX_LATENCY] = latency
        # one tick a bin, then 1024 ticks a bin
        bin_ = latency if latency < HISTOGRAM else HISTOGRAM + min(latency >> 10, HISTOGRAM - 1)
        ch.histogram[bin_] += 1
        n = ch.register[R_LATENCY_HEAD]
        ch.recent_depart[n] = depart
        ch.recent_latency[n] = latency
        ch.register[R_LATENCY_HEAD] = (n + 1) & (RECENT - 1)


@njit(cache=True, nogil=True, forceinline=True)
def _filter_slot(address):
    return ((address * 0x1E3779B97F4A7C15) >> 40) & (FILTER - 1)


@njit(cache=True, nogil=True, forceinline=True)
def _leave_queue(ch, s, q, b):
    _unlink(ch, q, b, s)
    if q == RD:
        ch.register[R_READS] -= 1
    else:
        ch.register[R_WRITES] -= 1
        ch.filter[_filter_slot(ch.pool[s, ADDRESS])] -= 1
    ch.register[R_MODE_STALE] = 1


@njit(cache=True, nogil=True, forceinline=True)
def _issue_column(ch, s, t, n_banks, log, done):
    pool, register, stat = ch.pool, ch.register, ch.stat
    b, kind, row = pool[s, BANK], pool[s, KIND], pool[s, ROW]
    if pool[s, COUNTED] == 0:
        stat[S_HITS] += 1
    if ch.active[b] == s:
        ch.active[b] = -1
        register[R_ACTIVE] -= 1
    else:
        after = pool[s, NEXT]
        _leave_queue(ch, s, kind, b)
        ch.hit[kind, b] = _next_hit(ch, after, row)
    precharge = 0
    if (
        ch.config[C_PAGE] == PAGE_CLOSED
        and ch.hit[RD, b] < 0
        and ch.hit[WR, b] < 0
        and ch.active[b] < 0
    ):
        precharge = 4
    _after(ch, kind + precharge, b, t, n_banks)
    _log(ch, t, ch.command_of_kind[kind + precharge], b, row, pool[s, COLUMN], kind, log)
    if precharge:
        ch.open_row[b] = CLOSED
        _closed(ch, b, t)
        _sort_out(ch, b)
    ch.last_column[b] = t
    _offer(ch, b, register[R_MODE], ch.config[C_ROW_HIT])
    if kind == RD:
        stat[S_READS_SERVED] += 1
        depart = t + ch.config[C_READ_LATENCY]
    else:
        stat[S_WRITES_SERVED] += 1
        depart = t + ch.config[C_WRITE_LATENCY]
    _complete(ch, pool[s, ID], pool[s, ARRIVE], t, depart, kind, done)
    free = register[R_FREE]
    ch.free[free] = s
    register[R_FREE] = free + 1


@njit(cache=True, nogil=True, forceinline=True)
def _issue_activate(ch, b, t, n_banks, split, log):
    pool, register = ch.pool, ch.register
    mode = register[R_MODE]
    s = ch.other[mode, b]
    if pool[s, COUNTED] == 0:
        ch.stat[S_MISSES] += 1
        pool[s, COUNTED] = 1
    _leave_queue(ch, s, mode, b)
    g = ch.group[b]
    act = ch.command_of_kind[ACT]
    for w in range(ch.config[C_WINDOWS]):
        if ch.window_first[w] == act:
            node = ch.window_node[w, b]
            at = ch.window_at[w, node]
            ch.window_ring[w, node, at] = t
            at += 1
            if at == ch.window_length[w]:
                at = 0
            ch.window_at[w, node] = at
            if ch.window_then[w] == act:
                _push(ch.ready_act, ch.window_row[w, g], ch.window_ring[w, node, at], n_banks)
    _after(ch, ACT, b, t, n_banks)
    _log(ch, t, act, b, pool[s, ROW], pool[s, COLUMN], mode, log)
    _opened(ch, b, t)
    ch.last_column[b] = t
    if split:
        ch.open_row[b] = ACTIVATING
        register[R_ACT2_SLOT] = s
        register[R_ACT2_DEADLINE] = t + ch.config[C_ACT2_DEADLINE]
    else:
        ch.open_row[b] = pool[s, ROW]
        ch.active[b] = s
        register[R_ACTIVE] += 1
    _sort_out(ch, b)
    _offer(ch, b, mode, ch.config[C_ROW_HIT])


@njit(cache=True, nogil=True, forceinline=True)
def _issue_precharge(ch, b, t, n_banks, log):
    pool, mode = ch.pool, ch.register[R_MODE]
    s = ch.other[mode, b]
    if pool[s, COUNTED] == 0:
        ch.stat[S_CONFLICTS] += 1
        pool[s, COUNTED] = 1
    _after(ch, PRE, b, t, n_banks)
    _log(ch, t, ch.command_of_kind[PRE], b, pool[s, ROW], pool[s, COLUMN], mode, log)
    ch.open_row[b] = CLOSED
    _closed(ch, b, t)
    _sort_out(ch, b)
    _offer(ch, b, mode, ch.config[C_ROW_HIT])


@njit(cache=True, nogil=True)
def _ready_of(ch, command, unit):
    """First tick at which a command breaks no rule, from the last issues of all others."""
    ready = 0
    for c in range(ch.config[C_COMMANDS]):
        offset = ch.pair_offset[c, command]
        if offset < 0:
            continue
        width = ch.units[command]
        for u in range(ch.units[c]):
            ready = max(ready, ch.last_issue[c, u] + ch.pair_gap[offset + u * width + unit])
    for w in range(ch.config[C_WINDOWS]):
        if ch.window_then[w] == command:
            for b in range(len(ch.node_of_bank)):
                if ch.unit_of[command, b] == unit:
                    node = ch.window_node[w, b]
                    oldest = ch.window_ring[w, node, ch.window_at[w, node]]
                    ready = max(ready, oldest + ch.window_gap[w])
    return ready


@njit(cache=True, nogil=True)
def _issue_other(ch, command, unit, t, row, column, kind, n_banks, log):
    """Issue a command by its table row alone: maintenance, second activate, sync."""
    rd, wr = ch.command_of_kind[RD], ch.command_of_kind[WR]
    act, pre = ch.command_of_kind[ACT], ch.command_of_kind[PRE]
    base = unit * n_banks
    offset = ch.pair_offset[command, rd]
    if offset >= 0:
        _push(ch.ready_rd, ch.pair_gap[offset + base : offset + base + n_banks], t, n_banks)
    offset = ch.pair_offset[command, wr]
    if offset >= 0:
        _push(ch.ready_wr, ch.pair_gap[offset + base : offset + base + n_banks], t, n_banks)
    offset = ch.pair_offset[command, act]
    if offset >= 0:
        _push(ch.ready_act, ch.pair_gap[offset + base : offset + base + n_banks], t, n_banks)
    offset = ch.pair_offset[command, pre]
    if offset >= 0:
        _push(ch.ready_pre, ch.pair_gap[offset + base : offset + base + n_banks], t, n_banks)
    for w in range(ch.config[C_WINDOWS]):
        if ch.window_first[w] == command:
            previous = -1
            for b in range(len(ch.node_of_bank)):
                node = ch.window_node[w, b]
                if ch.unit_of[command, b] == unit and node != previous:
                    previous = node
                    at = ch.window_at[w, node]
                    ch.window_ring[w, node, at] = t
                    at = (at + 1) % ch.window_length[w]
                    ch.window_at[w, node] = at
                    if ch.window_then[w] == act:
                        oldest = ch.window_ring[w, node, at]
                        _push(ch.ready_act, ch.window_row[w, ch.group[b]], oldest, n_banks)
    ch.last_issue[command, unit] = t
    ch.command_count[command] += 1
    _log(ch, t, command, unit, row, column, kind, log)


@njit(cache=True, nogil=True)
def _close_banks(ch, command, unit, t):
    for i in range(ch.cover_start[command, unit], ch.cover_start[command, unit + 1]):
        b = ch.cover_bank[i]
        if ch.open_row[b] != CLOSED:
            ch.open_row[b] = CLOSED
            _closed(ch, b, t)
            _sort_out(ch, b)
            _offer(ch, b, ch.register[R_MODE], ch.config[C_ROW_HIT])


@njit(cache=True, nogil=True)
def _pending_refresh(ch):
    """(command, unit, blocked) the oldest pending refresh needs next."""
    refresh = ch.config[C_REFRESH_COMMAND]
    unit = ch.pending[ch.register[R_PENDING_HEAD]]
    is_open, blocked = False, False
    for i in range(ch.cover_start[refresh, unit], ch.cover_start[refresh, unit + 1]):
        b = ch.cover_bank[i]
        is_open |= ch.open_row[b] != CLOSED
        blocked |= ch.active[b] >= 0 or ch.open_row[b] == ACTIVATING
    if not is_open:
        return refresh, unit, False
    precharge = ch.config[C_REFRESH_PRECHARGE]
    return precharge, ch.unit_of[precharge, ch.cover_bank[ch.cover_start[refresh, unit]]], blocked


@njit(cache=True, nogil=True, forceinline=True)
def _issue_refresh_step(ch, command, unit, t, n_banks, log):
    _issue_other(ch, command, unit, t, -1, -1, -1, n_banks, log)
    if command == ch.config[C_REFRESH_COMMAND]:
        ch.register[R_PENDING_HEAD] = (ch.register[R_PENDING_HEAD] + 1) % len(ch.pending)
        ch.register[R_PENDING] -= 1
    else:
        _close_banks(ch, command, unit, t)


@njit(cache=True, nogil=True)
def _due_refresh(ch):
    """Queue the refreshes of this interval."""
    r = ch.register
    width, rounds = ch.config[C_REFRESH_WIDTH], ch.config[C_REFRESH_ROUNDS]
    for i in range(width):
        at = (r[R_PENDING_HEAD] + r[R_PENDING]) % len(ch.pending)
        ch.pending[at] = ch.refresh_units[r[R_REFRESH_ROUND] * width + i]
        r[R_PENDING] += 1
    r[R_REFRESH_ROUND] = (r[R_REFRESH_ROUND] + 1) % rounds
    r[R_NEXT_REFRESH] += ch.config[C_REFRESH_INTERVAL]


@njit(cache=True, nogil=True, forceinline=True)
def _ready_active(ch, now, n_banks):
    """Least key among activated requests only."""
    best = INF
    for b in range(n_banks):
        if ch.key_rd[b] < CLASS_BIT:
            best = min(best, (max(ch.ready_rd[b] - now, 0) << WAIT_SHIFT) + ch.key_rd[b])
        if ch.key_wr[b] < CLASS_BIT:
            best = min(best, (max(ch.ready_wr[b] - now, 0) << WAIT_SHIFT) + ch.key_wr[b])
    return best


@njit(cache=True, nogil=True)
def _idle_bank(ch, n_banks):
    """(tick, bank) at which the first idle open bank may be closed by the timeout policy."""
    when, bank = INF, -1
    for b in range(n_banks):
        if ch.open_row[b] >= 0 and ch.active[b] < 0 and ch.hit[RD, b] < 0 and ch.hit[WR, b] < 0:
            t = max(ch.ready_pre[b], ch.last_column[b] + ch.config[C_TIMEOUT])
            if t < when:
                when, bank = t, b
    return when, bank


@njit(cache=True, nogil=True)
def _first_idle(ch, now, n_banks):
    for b in range(n_banks):
        if (
            ch.open_row[b] >= 0
            and ch.active[b] < 0
            and ch.hit[RD, b] < 0
            and ch.hit[WR, b] < 0
            and max(ch.ready_pre[b], ch.last_column[b] + ch.config[C_TIMEOUT]) <= now
        ):
            return b
    return -1


@njit(cache=True, nogil=True)
def _close_idle(ch, b, t, n_banks, log):
    row = ch.open_row[b]
    _after(ch, PRE, b, t, n_banks)
    _log(ch, t, ch.command_of_kind[PRE], b, row, -1, -1, log)
    ch.open_row[b] = CLOSED
    _closed(ch, b, t)
    _sort_out(ch, b)
    _offer(ch, b, ch.register[R_MODE], ch.config[C_ROW_HIT])


@njit(cache=True, nogil=True, forceinline=True)
def _new_mode(ch):
    """Write mode after the watermarks were looked at."""
    r = ch.register
    if r[R_MODE] == RD:
        return WR if r[R_WRITES] > ch.config[C_WRITE_HIGH] or r[R_READS] == 0 else RD
    return RD if r[R_WRITES] < ch.config[C_WRITE_LOW] and r[R_READS] != 0 else WR


@njit(cache=True, nogil=True)
def _switch_mode(ch, mode, n_banks):
    ch.register[R_MODE] = mode
    for b in range(n_banks):
        _offer(ch, b, mode, ch.config[C_ROW_HIT])


@njit(cache=True, nogil=True, forceinline=True)
def _accept(ch, address, kind, now, done):
    """Try to take a request in; (taken, its pool slot or -1 when it needs none)."""
    r, stat = ch.register, ch.stat
    word = 0
    for i in range(len(ch.slices)):
        word ^= ((address >> ch.slices[i, 0]) & ch.slices[i, 1]) << ch.slices[i, 2]
    column = word & ((1 << ch.config[C_COLUMN_BITS]) - 1)
    word >>= ch.config[C_COLUMN_BITS]
    b = word & ((1 << ch.config[C_BANK_BITS]) - 1)
    word >>= ch.config[C_BANK_BITS]
    row = word & ((1 << ch.config[C_ROW_BITS]) - 1)
    if ch.filter[_filter_slot(address)]:
        s = ch.head[WR, b]
        while s >= 0:
            if ch.pool[s, ADDRESS] == address:
                arrive = now - 1
                if kind == RD:
                    stat[S_READS] += 1
                    stat[S_FORWARDED] += 1
                    _complete(ch, r[R_NEXT_ID], arrive, arrive, arrive + 1, RD, done)
                else:
                    stat[S_WRITES] += 1
                    stat[S_COALESCED] += 1
                    _complete(ch, r[R_NEXT_ID], arrive, arrive, arrive, WR, done)
                r[R_NEXT_ID] += 1
                return True, -1
            s = ch.pool[s, NEXT]
    if kind == RD:
        if r[R_READS] >= ch.config[C_READ_QUEUE]:
            return False, -1
        r[R_READS] += 1
        stat[S_READS] += 1
    else:
        if r[R_WRITES] >= ch.config[C_WRITE_QUEUE]:
            return False, -1
        r[R_WRITES] += 1
        stat[S_WRITES] += 1
        ch.filter[_filter_slot(address)] += 1
    r[R_FREE] -= 1
    s = ch.free[r[R_FREE]]
    ch.pool[s, ROW] = row
    ch.pool[s, COLUMN] = column
    ch.pool[s, BANK] = b
    ch.pool[s, KIND] = kind
    ch.pool[s, AGE] = r[R_AGE]
    ch.pool[s, ARRIVE] = now - 1
    ch.pool[s, ID] = r[R_NEXT_ID]
    ch.pool[s, COUNTED] = 0
    ch.pool[s, ADDRESS] = address
    r[R_AGE] += 1
    r[R_NEXT_ID] += 1
    r[R_MODE_STALE] = 1
    _link(ch, kind, b, s)
    open_row = ch.open_row[b]
    changed = False
    if open_row >= 0 and open_row == row:
        if ch.hit[kind, b] < 0:
            ch.hit[kind, b] = s
            changed = True
    elif ch.other[kind, b] < 0:
        ch.other[kind, b] = s
        changed = True
    if changed and kind == r[R_MODE]:
        _offer(ch, b, kind, ch.config[C_ROW_HIT])
        return True, s
    return True, -1


@njit(cache=True, nogil=True)
def _last_accepted(ch, now):
    """Keep the counters of the moment the last request went in (where the peer's run ends)."""
    ch.stat[S_LAST_ACCEPT] = now - 1
    returned = ch.stat[S_LATENCY]
    for i in range(RECENT):
        if ch.recent_depart[i] > now - 1:
            returned -= ch.recent_latency[i]
    ch.stat[S_DEPARTED_LATENCY] = returned
    ch.last_stat[:] = ch.stat


@functools.cache
def request_kernel(n_banks: int, bus: int, split: bool) -> Callable[..., Any]:
    """The kernel for ``n_banks`` banks (a power of two, padded).

    ``bus`` 0: one command a tick; 1: one column and one row command a tick; 2: the same
    with half-clock ticks (only precharges off the clock edge). ``split``: two-step
    activation and data-clock sync (LPDDR5).
    """
    n_banks, split = int(n_banks), int(split)

    @njit(cache=True, nogil=True)
    def run(ch, address, is_write, arrival, n, final, log, done):
        r = ch.register
        now = r[R_NOW]
        i = 0
        log_limit = len(log) - LOG_MARGIN
        timeout = ch.config[C_PAGE] == PAGE_TIMEOUT
        timed = len(arrival) > 0
        blocked = False
        stale, stale_row = True, True  # best candidate (row candidate) must be found anew
        best_tick, best_key, best_kind = INF, INF, -1
        row_tick, row_key, row_kind = INF, INF, -1
        status = STUCK
        while True:
            # 1. one request may enter per tick, in order
            if i < n:
                if ch.config[C_LOG] and r[R_LOG] > log_limit:
                    status = LOG_FULL
                    break
                kind = is_write[i]
                if blocked:
                    if kind == RD:
                        blocked = r[R_READS] >= ch.config[C_READ_QUEUE]
                    else:
                        blocked = r[R_WRITES] >= ch.config[C_WRITE_QUEUE]
                if not blocked and (not timed or arrival[i] < now):
                    taken, s = _accept(ch, address[i], kind, now, done)
                    if taken:
                        i += 1
                        if s >= 0:
                            b = ch.pool[s, BANK]
                            if ch.hit[kind, b] == s:
                                t = ch.ready_rd[b] if kind == RD else ch.ready_wr[b]
                                if bus:
                                    stale = True
                                else:
                                    t = max(t, max(now, r[R_BUS_FREE]))
                                    if not stale and t < best_tick:
                                        best_tick, best_kind = t, kind
                                        best_key = CLASS_BIT | (ch.pool[s, AGE] << AGE_SHIFT) | b
                            elif ch.key_act[b] != INF or ch.key_pre[b] != INF:
                                row = ch.open_row[b]
                                if bus:
                                    stale_row = True
                                else:
                                    t = ch.ready_act[b] if row == CLOSED else ch.ready_pre[b]
                                    t = max(t, max(now, r[R_BUS_FREE]))
                                    if not stale and t < best_tick:
                                        best_tick = t
                                        best_kind = ACT if row == CLOSED else PRE
                                        best_key = CLASS_BIT | (ch.pool[s, AGE] << AGE_SHIFT) | b
                        if i == n and final:
                            _last_accepted(ch, now)
                    else:
                        blocked = True
            elif not final:
                status = MORE_REQUESTS
                break
            elif ch.config[C_LOG] and r[R_LOG] > log_limit:
                status = LOG_FULL
                break
            elif (
                r[R_READS] == 0
                and r[R_WRITES] == 0
                and r[R_ACTIVE] == 0
                and (not split or r[R_ACT2_SLOT] < 0)
            ):
                status = DRAINED
                break

            # 2. refresh falls due
            if now == r[R_NEXT_REFRESH]:
                _due_refresh(ch)

            next_tick = INF
            if i < n:
                if timed and arrival[i] >= now:
                    next_tick = arrival[i] + 1
                elif not blocked:
                    next_tick = now + 1
            next_tick = min(next_tick, r[R_NEXT_REFRESH])

            if split and r[R_SYNC_SLOT] >= 0:
                # 3. the access a sync was sent for follows it at once
                s = r[R_SYNC_SLOT]
                b = ch.pool[s, BANK]
                t = ch.ready_rd[b] if ch.pool[s, KIND] == RD else ch.ready_wr[b]
                if t <= now:
                    hold = C_SYNC_READ_HOLD if ch.pool[s, KIND] == RD else C_SYNC_WRITE_HOLD
                    r[R_SYNC_EXPIRY] = max(r[R_SYNC_EXPIRY], now + ch.config[hold])
                    r[R_SYNC_SLOT] = -1
                    _issue_column(ch, s, now, n_banks, log, done)
                    stale = True
                now += 1
                continue

            late = split and r[R_ACT2_SLOT] >= 0 and r[R_ACT2_DEADLINE] <= now
            if bus == 0:
                column, row_bank, row_step, idle = -1, -1, -1, -1
                if late:
                    pass  # the second activate can wait no longer
                elif r[R_PENDING]:
                    # 4. a pending refresh waits for activated requests only
                    key = _ready_active(ch, max(now, r[R_BUS_FREE]), n_banks)
                    t = max(now, r[R_BUS_FREE]) + (key >> WAIT_SHIFT)
                    command, unit, held = _pending_refresh(ch)
                    if key < INF and t <= now:
                        column = ch.active[key & BANK_MASK]
                    elif key < INF:
                        next_tick = min(next_tick, t)
                    if column < 0 and not held:
                        t = max(_ready_of(ch, command, unit), r[R_BUS_FREE])
                        if t <= now:
                            row_step = 0
                        else:
                            next_tick = min(next_tick, t)
                    stale = True
                else:
                    # 5. the oldest ready command, activated requests first
                    for attempt in range(2):
                        if stale:
                            base = max(now, r[R_BUS_FREE])
                            best_key, best_kind = INF, -1
                            if ch.offers[RD]:
                                best_key, best_kind = _least(ch.ready_rd, ch.key_rd, base, n_banks), RD
                            if ch.offers[WR]:
                                key = _least(ch.ready_wr, ch.key_wr, base, n_banks)
                                if key < best_key:
                                    best_key, best_kind = key, WR
                            if ch.offers[ACT] and (not split or r[R_ACT2_SLOT] < 0):
                                key = _least(ch.ready_act, ch.key_act, base, n_banks)
                                if key < best_key:
                                    best_key, best_kind = key, ACT
                            if ch.offers[PRE]:
                                key = _least(ch.ready_pre, ch.key_pre, base, n_banks)
                                if key < best_key:
                                    best_key, best_kind = key, PRE
                            best_tick = INF
                            if best_kind >= 0:
                                best_tick = base + (best_key >> WAIT_SHIFT)
                                best_key &= KEY_MASK
                            stale = False
                        if attempt or not r[R_MODE_STALE]:
                            break
                        if best_tick <= now and best_key < CLASS_BIT:
                            break
                        # the watermarks are looked at only when no activated request goes
                        mode = _new_mode(ch)
                        r[R_MODE_STALE] = 0
                        if mode == r[R_MODE]:
                            break
                        _switch_mode(ch, mode, n_banks)
                        stale = True
                    if best_tick <= now:
                        b = best_key & BANK_MASK
                        if best_kind <= WR:
                            column = ch.active[b] if best_key < CLASS_BIT else ch.hit[best_kind, b]
                        else:
                            row_bank = b
                    else:
                        next_tick = min(next_tick, best_tick)
                        if timeout:
                            when, _ = _idle_bank(ch, n_banks)
                            when = max(when, r[R_BUS_FREE])
                            if when <= now:
                                idle = _first_idle(ch, now, n_banks)
                            next_tick = min(next_tick, when)

                # 6. issue one command
                issued = True
                if split and r[R_ACT2_SLOT] >= 0:
                    nothing = column < 0 and row_bank < 0 and row_step < 0
                    crowded = column >= 0 and now >= r[R_SYNC_EXPIRY] and r[R_ACT2_DEADLINE] <= now + 1
                    if nothing or crowded:
                        s = r[R_ACT2_SLOT]
                        b = ch.pool[s, BANK]
                        _issue_other(
                            ch, ch.config[C_ACT2], b, now, ch.pool[s, ROW], ch.pool[s, COLUMN],
                            ch.pool[s, KIND], n_banks, log,
                        )  # fmt: skip
                        r[R_ACT2_SLOT] = -1
                        ch.open_row[b] = ch.pool[s, ROW]
                        ch.active[b] = s
                        r[R_ACTIVE] += 1
                        _sort_out(ch, b)
                        _offer(ch, b, r[R_MODE], ch.config[C_ROW_HIT])
                        r[R_BUS_FREE] = now + 1
                        stale = True
                        now += 1
                        continue
                if column >= 0:
                    kind = ch.pool[column, KIND]
                    if split:
                        hold = C_SYNC_READ_HOLD if kind == RD else C_SYNC_WRITE_HOLD
                        if now >= r[R_SYNC_EXPIRY]:
                            sync = ch.config[C_SYNC_READ if kind == RD else C_SYNC_WRITE]
                            _issue_other(
                                ch, sync, ch.pool[column, BANK], now, ch.pool[column, ROW],
                                ch.pool[column, COLUMN], kind, n_banks, log,
                            )  # fmt: skip
                            r[R_SYNC_SLOT] = column
                            stale = True
                            now += 1
                            continue
                        r[R_SYNC_EXPIRY] = max(r[R_SYNC_EXPIRY], now + ch.config[hold])
                    _issue_column(ch, column, now, n_banks, log, done)
                    r[R_BUS_FREE] = now + ch.bus_cycles[ch.command_of_kind[kind]]
                elif row_bank >= 0:
                    if best_kind == ACT:
                        _issue_activate(ch, row_bank, now, n_banks, split, log)
                        r[R_BUS_FREE] = now + ch.bus_cycles[ch.command_of_kind[ACT]]
                    else:
                        _issue_precharge(ch, row_bank, now, n_banks, log)
                        r[R_BUS_FREE] = now + ch.bus_cycles[ch.command_of_kind[PRE]]
                elif row_step >= 0:
                    command, unit, held = _pending_refresh(ch)
                    _issue_refresh_step(ch, command, unit, now, n_banks, log)
                    r[R_BUS_FREE] = now + ch.bus_cycles[command]
                elif idle >= 0:
                    _close_idle(ch, idle, now, n_banks, log)
                    r[R_BUS_FREE] = now + ch.bus_cycles[ch.command_of_kind[PRE]]
                else:
                    issued = False
                if issued:
                    stale = True
                    now += 1
                    continue
            else:
                issued = False
                if r[R_PENDING]:
                    # 4. column bus: activated requests; row bus: the refresh
                    base = max(now, r[R_COLUMN_FREE])
                    if bus == 2:
                        base |= 1
                    key = _ready_active(ch, base, n_banks)
                    if key < INF:
                        wait = key >> WAIT_SHIFT
                        if bus == 2:
                            wait = (wait + 1) & -2
                        if base + wait <= now:
                            s = ch.active[key & BANK_MASK]
                            _issue_column(ch, s, now, n_banks, log, done)
                            kind = ch.pool[s, KIND]
                            r[R_COLUMN_FREE] = now + ch.bus_cycles[ch.command_of_kind[kind]]
                            issued = True
                        else:
                            next_tick = min(next_tick, base + wait)
                    command, unit, held = _pending_refresh(ch)
                    if not held:
                        t = max(_ready_of(ch, command, unit), max(r[R_BUS_FREE], now))
                        if bus == 2 and command == ch.config[C_REFRESH_COMMAND]:
                            t |= 1
                        if t <= now:
                            _issue_refresh_step(ch, command, unit, now, n_banks, log)
                            r[R_BUS_FREE] = now + ch.bus_cycles[command]
                            issued = True
                        else:
                            next_tick = min(next_tick, t)
                    stale = True
                    stale_row = True
                else:
                    # 5. column bus, then row bus, each its oldest ready command
                    for attempt in range(2):
                        if stale:
                            base = max(now, r[R_COLUMN_FREE])
                            best_key, best_kind = INF, -1
                            if bus == 2:
                                base |= 1
                                if ch.offers[RD]:
                                    best_key = _least_on_clock(ch.ready_rd, ch.key_rd, base, n_banks)
                                    best_kind = RD
                                if ch.offers[WR]:
                                    key = _least_on_clock(ch.ready_wr, ch.key_wr, base, n_banks)
                                    if key < best_key:
                                        best_key, best_kind = key, WR
                            else:
                                if ch.offers[RD]:
                                    best_key, best_kind = _least(ch.ready_rd, ch.key_rd, base, n_banks), RD
                                if ch.offers[WR]:
                                    key = _least(ch.ready_wr, ch.key_wr, base, n_banks)
                                    if key < best_key:
                                        best_key, best_kind = key, WR
                            best_tick = INF
                            if best_kind >= 0:
                                best_tick = base + (best_key >> WAIT_SHIFT)
                                best_key &= KEY_MASK
                            stale = False
                        if attempt or not r[R_MODE_STALE]:
                            break
                        if best_tick <= now and best_key < CLASS_BIT:
                            break
                        if bus == 2 and now & 1 == 0:
                            break
                        mode = _new_mode(ch)
                        r[R_MODE_STALE] = 0
                        if mode == r[R_MODE]:
                            break
                        _switch_mode(ch, mode, n_banks)
                        stale = True
                        stale_row = True
                    if best_tick <= now:
                        b = best_key & BANK_MASK
                        s = ch.active[b] if best_key < CLASS_BIT else ch.hit[best_kind, b]
                        _issue_column(ch, s, now, n_banks, log, done)
                        r[R_COLUMN_FREE] = now + ch.bus_cycles[ch.command_of_kind[best_kind]]
                        stale = True
                        stale_row = True
                        issued = True
                    if r[R_MODE_STALE]:
                        mode = _new_mode(ch)
                        r[R_MODE_STALE] = 0
                        if mode != r[R_MODE]:
                            _switch_mode(ch, mode, n_banks)
                            stale = True
                            stale_row = True
                    if stale_row:
                        base = max(now, r[R_BUS_FREE])
                        row_key, row_kind, row_tick = INF, -1, INF
                        if ch.offers[PRE]:
                            row_key, row_kind = _least(ch.ready_pre, ch.key_pre, base, n_banks), PRE
                        if ch.offers[ACT]:
                            if bus == 2:
                                clock = base | 1
                                key = _least_on_clock(ch.ready_act, ch.key_act, clock, n_banks)
                                if key < INF:
                                    key += (clock - base) << WAIT_SHIFT
                            else:
                                key = _least(ch.ready_act, ch.key_act, base, n_banks)
                            if key < row_key:
                                row_key, row_kind = key, ACT
                        if row_kind >= 0:
                            row_tick = base + (row_key >> WAIT_SHIFT)
                            row_key &= KEY_MASK
                        stale_row = False
                    if row_tick <= now:
                        b = row_key & BANK_MASK
                        if row_kind == ACT:
                            _issue_activate(ch, b, now, n_banks, 0, log)
                        else:
                            _issue_precharge(ch, b, now, n_banks, log)
                        r[R_BUS_FREE] = now + ch.bus_cycles[ch.command_of_kind[row_kind]]
                        stale = True
                        stale_row = True
                        issued = True
                    elif timeout:
                        when, _ = _idle_bank(ch, n_banks)
                        when = max(when, r[R_BUS_FREE])
                        if when <= now:
                            idle = _first_idle(ch, now, n_banks)
                            _close_idle(ch, idle, now, n_banks, log)
                            r[R_BUS_FREE] = now + ch.bus_cycles[ch.command_of_kind[PRE]]
                            stale_row = True
                            issued = True
                        next_tick = min(next_tick, when)
                    if not issued:
                        next_tick = min(next_tick, min(best_tick, row_tick))
                        if r[R_MODE_STALE]:
                            next_tick = min(next_tick, now + 1)
                if issued:
                    now += 1
                    continue

            # 7. nothing to do: on to the next event
            if next_tick == INF:
                status = STUCK
                break
            now = max(next_tick, now + 1)
        r[R_NOW] = now
        return status, i

    return run


def empty_log(capacity: int, columns: int) -> np.ndarray:
    """Room for commands (6 columns) or completions (5)."""
    return np.zeros((max(capacity, LOG_MARGIN + 1), columns), dtype=np.int64)
