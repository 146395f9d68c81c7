"""The request kernel of devices with one command bus (DDR, GDDR, LPDDR)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from numba import njit

# isort: off
from neardata.sim.dram.controller_kernel import (
    ACT, ACTIVATES, ALL_COMMANDS, BANK, BANK_MASK, B_ACTIVE, B_HIT, B_OPEN_ROW, B_OTHER, CLASS_BIT, C_ACT2,
    C_COMPLETIONS, C_LOG, C_PAGE, C_READ_QUEUE, C_SYNC_READ, C_SYNC_READ_HOLD, DRAINED, IDLE, INF, KEY_MASK,
    KIND, KIND_SHIFT, K_BUS_CYCLES, LOG_FULL, LOG_MARGIN, MORE_REQUESTS, PAGE_TIMEOUT, RD, ROW,
    R_ACT2_DEADLINE, R_ACT2_SLOT, R_ACTIVE, R_BUS_FREE, R_LOG, R_MODE, R_MODE_STALE, R_NEXT_REFRESH, R_NOW,
    R_PENDING, R_READS, R_SYNC_EXPIRY, R_SYNC_SLOT, R_WRITES, SOURCE, STUCK, WAIT_SHIFT, WR, accept,
    close_idle, due_refresh, idle_bank, idle_too_long, issue_activate, issue_column, issue_other,
    issue_precharge, issue_refresh_step, last_accepted, least, least_active, must_wait, new_mode, offer,
    only_one, pending_refresh, ready_of, run_of_hits, sort_out, switch_mode, watch_from,
)  # fmt: skip
# isort: on


@functools.cache
def single_bus_kernel(n_banks: int, split: int) -> Callable[..., Any]:
    """The kernel for ``n_banks`` banks, compiled on its first call.

    ``split``: two-step activation and data-clock sync (LPDDR5). The kernel takes a channel,
    requests (``address``, ``is_write``, ``arrival`` or an empty array, ``n`` of them; ``final``:
    no more will come) and room for commands and completions; it returns why it stopped and how
    many requests it took.
    """

    source = SOURCE

    @njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
    def run(ch, address, is_write, arrival, n, final, log, done):
        r, bank, ready, key, pool, book = ch.r, ch.bank, ch.ready, ch.key, ch.pool, ch.book
        offers = ch.offers
        kinds, gap, last_issue, counts = ch.kind, ch.gap, ch.last_issue, ch.command_count
        window, window_node, ring, window_gap = ch.window, ch.window_node, ch.window_ring, ch.window_gap
        node, slices, bus_cycles = ch.node, ch.slices, ch.bus_cycles
        now = r[R_NOW]
        i = 0 * source
        log_limit = len(log) - LOG_MARGIN
        timeout = r[C_PAGE] == PAGE_TIMEOUT
        timed = len(arrival) > 0
        blocked = False
        entered = False  # a request has entered in this tick
        plain = not (split or timed or timeout or r[C_LOG] or r[C_COMPLETIONS])
        watch_from(r, n)
        stale = True  # the best candidate must be found anew
        best_tick, best_key, best_kind = INF, INF, -1
        while True:
            # 1. one request may enter per tick, in order
            if r[C_LOG] and r[R_LOG] > log_limit:
                status = LOG_FULL
                break
            if entered:
                entered = False
            elif i < n:
                kind = is_write[i]
                if blocked:
                    blocked = r[R_READS + kind] >= r[C_READ_QUEUE + kind]
                if not blocked and (not timed or arrival[i] < now):
                    taken = accept(
                        address[i], kind, now, r, bank, key, offers, pool, book, slices, done, n_banks
                    )
                    if taken == -2:
                        blocked = True
                    else:
                        i += 1
                        if i < n:
                            blocked = must_wait(address[i], is_write[i], r, book)
                        if taken >= 0 and not stale:
                            kind, b = taken >> KIND_SHIFT, taken & BANK_MASK
                            t = max(ready[kind * n_banks + b], max(now, r[R_BUS_FREE]))
                            if t < best_tick:
                                best_tick, best_kind, best_key = t, kind, key[kind * n_banks + b]
                        if i == n:
                            last_accepted(r, ch.last, book, now)
            elif not final:
                status = MORE_REQUESTS
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
                if i < n and idle_too_long(r):
                    status = IDLE
                    break
                due_refresh(ch)
                stale = True
            next_tick = r[R_NEXT_REFRESH]
            if i < n:
                if timed and arrival[i] >= now:
                    next_tick = min(next_tick, arrival[i] + 1)
                elif not blocked:
                    next_tick = now + 1
            elif not final:
                next_tick = now + 1

            # 3. choose: a column command (slot), a row command (bank), a refresh step, an idle row
            column, row_bank, refresh, idle = -1, -1, False, -1
            if split and r[R_SYNC_SLOT] >= 0:
                # the access a sync was sent for comes next
                s = r[R_SYNC_SLOT]
                t = ready[pool[s, KIND] * n_banks + pool[s, BANK]]
                if t <= now:
                    column = s
                next_tick = min(next_tick, t)
            elif split and r[R_ACT2_SLOT] >= 0 and r[R_ACT2_DEADLINE] <= now:
                pass  # the second activate can wait no longer
            elif r[R_PENDING]:
                # a refresh due stops all requests but the activated ones
                base = max(now, r[R_BUS_FREE])
                best = least_active(ready, key, base, n_banks)
                if best < INF:
                    t = base + (best >> WAIT_SHIFT)
                    if t <= now:
                        column = bank[best & BANK_MASK, B_ACTIVE]
                    next_tick = min(next_tick, t)
                if column < 0:
                    command, unit, held = pending_refresh(ch)
                    if not held:
                        t = max(ready_of(ch, command, unit), base)
                        refresh = t <= now
                        next_tick = min(next_tick, t)
                stale = True
            else:
                # the oldest ready command, activated requests first
                while True:
                    if stale:
                        base = max(now, r[R_BUS_FREE])
                        wanted = ALL_COMMANDS
                        if split and r[R_ACT2_SLOT] >= 0:
                            wanted -= ACTIVATES
                        best_key = least(ready, key, offers, wanted, base, 0, n_banks)
                        best_tick, best_kind = INF, -1
                        if best_key < INF:
                            best_tick = base + (best_key >> WAIT_SHIFT)
                            best_key &= KEY_MASK
                            best_kind = (best_key >> KIND_SHIFT) & 3
                        stale = False
                    # the watermarks are looked at only when no activated request goes
                    if r[R_MODE_STALE] == 0 or (best_tick <= now and best_key < CLASS_BIT):
                        break
                    mode = new_mode(r)
                    r[R_MODE_STALE] = 0
                    if mode == r[R_MODE]:
                        break
                    switch_mode(mode, r, bank, key, offers, pool, n_banks)
                    stale = True
                if now < best_tick < next_tick and not timeout and (not split or r[R_ACT2_SLOT] < 0):
                    now = best_tick  # nothing else can happen before
                if best_tick <= now:
                    b = best_key & BANK_MASK
                    alone = plain and blocked and best_kind == RD and best_key >= CLASS_BIT
                    if alone and only_one(offers, RD, n_banks) and bank[b, B_OTHER] < 0:
                        issued, last, i = run_of_hits(
                            b, now, address, is_write, i, n, r, bank, ready, key, offers, pool, kinds,
                            gap, last_issue, counts, book, slices, n_banks,
                        )  # fmt: skip
                        if issued:
                            r[R_BUS_FREE] = last + kinds[RD, K_BUS_CYCLES]
                            now = last + 1
                            entered, stale = True, True
                            blocked = must_wait(address[i], is_write[i], r, book)
                            continue
                    if best_kind > WR:
                        row_bank = b
                    elif best_key < CLASS_BIT:
                        column = bank[b, B_ACTIVE]
                    else:
                        column = bank[b, B_HIT + best_kind]
                else:
                    next_tick = min(next_tick, best_tick)
                    if timeout:
                        when, b = idle_bank(r, bank, ready, max(now, r[R_BUS_FREE]), n_banks)
                        if when <= now:
                            idle = b
                        next_tick = min(next_tick, when)

            # 4. issue one command
            if split and r[R_SYNC_SLOT] < 0:
                needs_sync = column >= 0 and now >= r[R_SYNC_EXPIRY]
                if r[R_ACT2_SLOT] >= 0 and (
                    (column < 0 and row_bank < 0 and not refresh)
                    or (needs_sync and r[R_ACT2_DEADLINE] <= now + 1)
                ):
                    s = r[R_ACT2_SLOT]
                    b = pool[s, BANK]
                    issue_other(ch, r[C_ACT2], b, s, now, n_banks, log)
                    r[R_ACT2_SLOT] = -1
                    bank[b, B_OPEN_ROW] = pool[s, ROW]
                    bank[b, B_ACTIVE] = s
                    r[R_ACTIVE] += 1
                    sort_out(bank, pool, b)
                    offer(r, bank, key, offers, pool, b, n_banks)
                    stale = True
                    now += 1
                    continue
                if needs_sync:
                    kind = pool[column, KIND]
                    issue_other(ch, r[C_SYNC_READ + kind], pool[column, BANK], column, now, n_banks, log)
                    r[R_SYNC_SLOT] = column
                    stale = True
                    now += 1
                    continue
            if column >= 0:
                kind = issue_column(
                    column, now, r, bank, ready, key, offers, pool, kinds, gap, last_issue, counts, book,
                    node, log, done, n_banks,
                )  # fmt: skip
                r[R_BUS_FREE] = now + kinds[kind, K_BUS_CYCLES]
                if split:
                    r[R_SYNC_SLOT] = -1
                    r[R_SYNC_EXPIRY] = max(r[R_SYNC_EXPIRY], now + r[C_SYNC_READ_HOLD + kind])
            elif row_bank >= 0:
                if best_kind == ACT:
                    issue_activate(
                        row_bank, now, split, r, bank, ready, key, offers, pool, kinds, gap, window,
                        window_node, ring, window_gap, last_issue, counts, book, node, log, n_banks,
                    )  # fmt: skip
                else:
                    issue_precharge(
                        row_bank, now, r, bank, ready, key, offers, pool, kinds, gap, last_issue, counts,
                        node, log, n_banks,
                    )  # fmt: skip
                r[R_BUS_FREE] = now + kinds[best_kind, K_BUS_CYCLES]
            elif refresh:
                r[R_BUS_FREE] = now + bus_cycles[issue_refresh_step(ch, now, n_banks, log)]
            elif idle >= 0:
                r[R_BUS_FREE] = now + bus_cycles[close_idle(ch, idle, now, n_banks, log)]
            else:
                # 5. nothing to do: on to the next event
                if next_tick == INF:
                    status = STUCK
                    break
                now = max(next_tick, now + 1)
                continue
            stale = True
            now += 1
        r[R_NOW] = now
        return status, i

    return run
