"""The request kernel of devices with a row and a column command bus (HBM)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from numba import njit

# isort: off
from neardata.sim.dram.controller_kernel import (
    ACT, ACTIVATES, BANK_MASK, B_ACTIVE, B_HIT, CLASS_BIT, COLUMN_COMMANDS, C_LOG, C_PAGE, C_READ_QUEUE,
    C_REFRESH_COMMAND, DRAINED, IDLE, INF, KEY_MASK, KIND_SHIFT, K_BUS_CYCLES, LOG_FULL, LOG_MARGIN,
    MORE_REQUESTS, PAGE_TIMEOUT, PRECHARGES, R_ACTIVE, R_BUS_FREE, R_COLUMN_FREE, R_LOG, R_MODE,
    R_MODE_STALE, R_NEXT_REFRESH, R_NOW, R_PENDING, R_READS, R_WRITES, SOURCE, STUCK, WAIT_SHIFT, WR,
    accept, close_idle, due_refresh, idle_bank, idle_too_long, issue_activate, issue_column,
    issue_precharge, issue_refresh_step, last_accepted, least, least_active, must_wait, new_mode,
    pending_refresh, ready_of, switch_mode, watch_from,
)  # fmt: skip
# isort: on


@functools.cache
def dual_bus_kernel(n_banks: int, half_clock: int) -> Callable[..., Any]:
    """The kernel for ``n_banks`` banks, compiled on its first call.

    In each tick a column command may issue, then a row command. ``half_clock``: ticks are half
    clocks, and off the clock edge (even ticks) only precharges may issue (HBM3). Arguments and
    result of the kernel as for `single_bus_kernel`.
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
        watch_from(r, n)
        stale, stale_row = True, True  # the best column / row candidate must be found anew
        best_tick, best_key, best_kind = INF, INF, -1
        row_tick, row_key, row_kind = INF, INF, -1
        while True:
            # 1. one request may enter per tick, in order
            if r[C_LOG] and r[R_LOG] > log_limit:
                status = LOG_FULL
                break
            if i < n:
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
                        if taken >= 0:
                            kind, b = taken >> KIND_SHIFT, taken & BANK_MASK
                            t = ready[kind * n_banks + b]
                            if kind <= WR and not stale:
                                t = max(t, max(now, r[R_COLUMN_FREE]))
                                if half_clock:
                                    t |= 1
                                if t < best_tick:
                                    best_tick, best_kind, best_key = t, kind, key[kind * n_banks + b]
                            elif kind > WR and not stale_row:
                                t = max(t, max(now, r[R_BUS_FREE]))
                                if half_clock and kind == ACT:
                                    t |= 1
                                if t < row_tick:
                                    row_tick, row_kind, row_key = t, kind, key[kind * n_banks + b]
                        if i == n:
                            last_accepted(r, ch.last, book, now)
            elif not final:
                status = MORE_REQUESTS
                break
            elif r[R_READS] == 0 and r[R_WRITES] == 0 and r[R_ACTIVE] == 0:
                status = DRAINED
                break

            # 2. refresh falls due
            if now == r[R_NEXT_REFRESH]:
                if i < n and idle_too_long(r):
                    status = IDLE
                    break
                due_refresh(ch)
            next_tick = r[R_NEXT_REFRESH]
            if i < n:
                if timed and arrival[i] >= now:
                    next_tick = min(next_tick, arrival[i] + 1)
                elif not blocked:
                    next_tick = now + 1
            elif not final:
                next_tick = now + 1

            while True:
                # 3. column bus
                column = -1
                if r[R_PENDING]:
                    # a refresh due stops all requests but the activated ones
                    base = max(now, r[R_COLUMN_FREE])
                    best = least_active(ready, key, base, n_banks)
                    if best < INF:
                        t = base + (best >> WAIT_SHIFT)
                        if half_clock:
                            t |= 1
                            # the oldest of those ready at the clock edge
                            best = least_active(ready, key, t, n_banks)
                        if t <= now:
                            column = bank[best & BANK_MASK, B_ACTIVE]
                        next_tick = min(next_tick, t)
                    stale = True
                else:
                    while True:
                        if stale:
                            base = max(now, r[R_COLUMN_FREE])
                            if half_clock:
                                base |= 1
                            best_key = least(ready, key, offers, COLUMN_COMMANDS, base, half_clock, n_banks)
                            best_tick, best_kind = INF, -1
                            if best_key < INF:
                                best_tick = base + (best_key >> WAIT_SHIFT)
                                best_key &= KEY_MASK
                                best_kind = (best_key >> KIND_SHIFT) & 3
                            stale = False
                        # the watermarks are looked at only when no activated request goes
                        if r[R_MODE_STALE] == 0 or (best_tick <= now and best_key < CLASS_BIT):
                            break
                        if half_clock and now & 1 == 0:
                            break
                        mode = new_mode(r)
                        r[R_MODE_STALE] = 0
                        if mode == r[R_MODE]:
                            break
                        switch_mode(mode, r, bank, key, offers, pool, n_banks)
                        stale = True
                        stale_row = True
                    if best_tick <= now:
                        b = best_key & BANK_MASK
                        column = bank[b, B_ACTIVE] if best_key < CLASS_BIT else bank[b, B_HIT + best_kind]
                issued = column >= 0
                if issued:
                    kind = issue_column(
                        column, now, r, bank, ready, key, offers, pool, kinds, gap, last_issue, counts, book,
                        node, log, done, n_banks,
                    )  # fmt: skip
                    r[R_COLUMN_FREE] = now + kinds[kind, K_BUS_CYCLES]
                    stale = True
                    stale_row = True

                # 4. row bus
                if r[R_PENDING]:
                    command, unit, held = pending_refresh(ch)
                    if not held:
                        t = max(ready_of(ch, command, unit), max(r[R_BUS_FREE], now))
                        if half_clock and command == r[C_REFRESH_COMMAND]:
                            t |= 1
                        if t <= now:
                            r[R_BUS_FREE] = now + bus_cycles[issue_refresh_step(ch, now, n_banks, log)]
                            issued = True
                            stale = True
                        next_tick = min(next_tick, t)
                    stale_row = True
                else:
                    if r[R_MODE_STALE]:
                        mode = new_mode(r)
                        r[R_MODE_STALE] = 0
                        if mode != r[R_MODE]:
                            switch_mode(mode, r, bank, key, offers, pool, n_banks)
                            stale = True
                            stale_row = True
                    if stale_row:
                        base = max(now, r[R_BUS_FREE])
                        if half_clock:
                            edge = base | 1
                            row_key = least(ready, key, offers, ACTIVATES, edge, half_clock, n_banks)
                            row_key += (edge - base) << WAIT_SHIFT
                            row_key = min(row_key, least(ready, key, offers, PRECHARGES, base, 0, n_banks))
                        else:
                            row_key = least(ready, key, offers, ACTIVATES + PRECHARGES, base, 0, n_banks)
                        row_tick, row_kind = INF, -1
                        if row_key < INF:
                            row_tick = base + (row_key >> WAIT_SHIFT)
                            row_key &= KEY_MASK
                            row_kind = (row_key >> KIND_SHIFT) & 3
                        stale_row = False
                    if row_tick <= now:
                        if row_kind == ACT:
                            issue_activate(
                                row_key & BANK_MASK, now, 0, r, bank, ready, key, offers, pool, kinds, gap,
                                window, window_node, ring, window_gap, last_issue, counts, book, node, log,
                                n_banks,
                            )  # fmt: skip
                        else:
                            issue_precharge(
                                row_key & BANK_MASK, now, r, bank, ready, key, offers, pool, kinds, gap,
                                last_issue, counts, node, log, n_banks,
                            )  # fmt: skip
                        r[R_BUS_FREE] = now + kinds[row_kind, K_BUS_CYCLES]
                        stale = True
                        stale_row = True
                        issued = True
                    elif timeout and not issued:
                        when, b = idle_bank(r, bank, ready, max(now, r[R_BUS_FREE]), n_banks)
                        if when <= now:
                            r[R_BUS_FREE] = now + bus_cycles[close_idle(ch, b, now, n_banks, log)]
                            stale_row = True
                            issued = True
                        next_tick = min(next_tick, when)

                # 5. the next tick, or with nothing issued the next event
                if issued:
                    now += 1
                    break
                event = INF
                if r[R_PENDING] == 0:
                    event = now + 1 if stale else min(best_tick, row_tick)
                if event < next_tick:
                    now = event  # nothing can enter before: on with the command buses
                    continue
                now = max(next_tick, now + 1)
                break
            if now == INF:
                status = STUCK
                break
        r[R_NOW] = now
        return status, i

    return run
