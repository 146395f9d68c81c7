"""Stages, FIFOs and memory ports advanced from event to event.

Time is in ticks; a clock with period P has its edges at multiples of P. At an edge a stage decides
by what earlier cycles left: nothing done at a tick is seen before ``tick + P`` of who did it, so
that stages may be taken in any order, except that ports and a shared queue serve those that ask at
one tick by the order of the stages.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# a stage's row of ``stage``
(
    PERIOD, INTERVAL, DEPTH, LANES, SLOTS, CHANNEL, BYTES, POSTED, COSTS, CONSUME, REPLICA, COUNTED,
    STAGE_COLUMNS,
) = range(13)  # fmt: skip
# a FIFO's row of ``fifo``
WRITER, READER, PRODUCE, READ, CAPACITY, BLOCK, SEEN, FREED, COUNTS, FIFO_COLUMNS = range(10)
# a port channel's row of ``port``: a byte takes NUMERATOR of the units of which a tick has DENOMINATOR
NUMERATOR, DENOMINATOR, LATENCY, PORT_COLUMNS = range(4)
# a stage's row of ``s``
(
    NEXT, HELD, HEAD, FIRED, ENDED, WAKE, CLASS, SETTLED, TAKEN, FIRST, LAST, INITIATED, WROTE,
    S_BUSY, S_STARVED, S_BLOCKED, S_MEMORY, S_DRAINED, S_COLUMNS,
) = range(19)  # fmt: skip
# a FIFO's row of ``f``: items written, read, seen by the reader, known as read by the writer
(
    WRITTEN, POPPED, VISIBLE, RETURNED, OVER, OVER_AT, HIGH, W_HEAD, W_N, P_HEAD, P_N, F_COLUMNS,
) = range(12)  # fmt: skip
# the run's scalars ``r``
(
    ITEMS, POLICY, REPLICAS, ARRIVED, TAKEN_ALL, TIMED, TRACED, R_JUMPS, JUMPED_PERIODS, R_END, EVENTS, LIMIT,
    PERIOD_TICKS, PERIOD_ITEMS, R_COLUMNS,
) = range(15)  # fmt: skip
ROUND_ROBIN, LEAST_LOADED, SHARED_QUEUE = range(3)
DONE, DEADLOCK, TOO_LONG = range(3)
NEVER = np.int64(1) << 61
CHECKS = 1 << 15
"""Looks for a period before it is given up."""


@njit(cache=True, nogil=True)
def run(
    stage, fifo, port, into, out_of, tables, arrive, clocks,
    s, f, r, ready, firings, made, w_time, w_count, p_time, p_count, free, given, unfinished,
    following, first_of, last_of, reading, writing, finish, request, answer,
):  # fmt: skip
    """Run until every stage has ended.

    Args:
        stage, fifo, port: parameters, one row each.
        into, out_of: (stages, FIFOs + 1) the number of FIFOs of a stage, then which.
        tables: cycles or items per firing, where rows of ``stage`` and ``fifo`` point to.
        arrive: ticks at which items arrive, in order; empty: all at 0.
        clocks: periods.
        s, f, r, ready, firings, made, w_time ... p_count, free, given, unfinished: state.
        following, first_of, last_of, reading, writing: which items a replica has, where that is asked.
        finish: tick at which each item has left; empty: not asked.
        request, answer: (stages, initiations) ticks at which memory was asked, and at which it answers,
            where ports are simulated by another engine; empty: ports answer by rate and latency.

    Returns:
        DONE, DEADLOCK or TOO_LONG.
    """
    n_stages, n_fifos, n_ports = stage.shape[0], fifo.shape[0], port.shape[0]
    slots, ring = ready.shape[1], w_time.shape[1]
    items, policy, replicas = r[ITEMS], r[POLICY], r[REPLICAS]
    timed, traced, outside = r[TIMED], r[TRACED], answer.shape[1] > 0
    need = np.zeros(n_fifos + 1, np.int64)
    # the search for a period: the state relative to now, and an earlier one
    size = n_stages * (4 + 2 * slots) + n_fifos * (8 + 4 * ring) + n_ports + clocks.shape[0]
    now_state = np.zeros(size, np.int64)
    old_state = np.zeros(size, np.int64)
    old_s, old_f = s.copy(), f.copy()
    old_taken_all = np.int64(0)
    old_t, looks, next_keep, have_old = np.int64(0), 0, 1, False
    searching = r[R_JUMPS] != 0
    lead = 0  # the stage whose starts are looked at
    while into[lead, 0] > 0:
        lead += 1
    t = np.int64(0)

    while True:
        # 1. the next tick at which something can happen
        soonest = NEVER
        for i in range(n_stages):
            soonest = min(soonest, s[i, WAKE])
        arrived = r[ARRIVED]
        if timed and arrived < items:
            soonest = min(soonest, arrive[arrived])
        if soonest == NEVER:
            break
        t = soonest
        if t > r[LIMIT]:
            return TOO_LONG
        r[EVENTS] += 1

        # 2. items that have arrived, to the replicas
        if timed and arrived < items and arrive[arrived] <= t:
            while arrived < items and arrive[arrived] <= t:
                if policy != SHARED_QUEUE:
                    to = arrived % replicas
                    if policy == LEAST_LOADED:
                        to = 0
                        for j in range(1, replicas):
                            if unfinished[j] < unfinished[to]:
                                to = j
                    given[to] += 1
                    unfinished[to] += 1
                    if traced:
                        if last_of[to] < 0:
                            first_of[to] = arrived
                        else:
                            following[last_of[to]] = arrived
                        last_of[to] = arrived
                arrived += 1
            r[ARRIVED] = arrived
            for i in range(n_stages):
                if into[i, 0] == 0 and s[i, ENDED] == 0:
                    period = stage[i, PERIOD]
                    at = (t + period - 1) // period * period
                    if at < s[i, WAKE]:
                        s[i, WAKE] = at

        # 3. the stages that may act
        reference = False
        for i in range(n_stages):
            if s[i, WAKE] != t:
                continue
            period, lanes, replica = stage[i, PERIOD], stage[i, LANES], stage[i, REPLICA]
            n_in, n_out = into[i, 0], out_of[i, 0]
            s[i, S_BUSY + s[i, CLASS]] += (t - s[i, SETTLED]) // period
            s[i, SETTLED] = t

            # 3a. what has become visible
            later, over_before = NEVER, s[i, ENDED] == 1
            for j in range(1, n_in + 1):
                q = into[i, j]
                while f[q, W_N] > 0 and w_time[q, f[q, W_HEAD]] <= t:
                    f[q, VISIBLE] += w_count[q, f[q, W_HEAD]]
                    f[q, W_HEAD] = (f[q, W_HEAD] + 1) % ring
                    f[q, W_N] -= 1
                if f[q, W_N] > 0 and w_time[q, f[q, W_HEAD]] < later:
                    later = w_time[q, f[q, W_HEAD]]
                if f[q, OVER] == 0 and f[q, OVER_AT] <= t:
                    f[q, OVER] = 1
                elif f[q, OVER] == 0 and f[q, OVER_AT] < later:
                    later = f[q, OVER_AT]
            for j in range(1, n_out + 1):
                q = out_of[i, j]
                while f[q, P_N] > 0 and p_time[q, f[q, P_HEAD]] <= t:
                    f[q, RETURNED] += p_count[q, f[q, P_HEAD]]
                    f[q, P_HEAD] = (f[q, P_HEAD] + 1) % ring
                    f[q, P_N] -= 1
                if f[q, P_N] > 0 and p_time[q, f[q, P_HEAD]] < later:
                    later = p_time[q, f[q, P_HEAD]]

            # 3b. whether the next initiation has its items: all lanes, or what is left at the end
            n, all_over = lanes, True
            there = True
            if n_in == 0:
                have = arrived - r[TAKEN_ALL] if policy == SHARED_QUEUE else given[replica] - s[i, TAKEN]
                whole = lanes * stage[i, CONSUME]
                if have < whole:
                    if arrived < items:
                        there = False
                    else:
                        n = (have + stage[i, CONSUME] - 1) // stage[i, CONSUME]
                need[0] = min(have, n * stage[i, CONSUME])
                all_over = arrived == items and have == 0
            for j in range(1, n_in + 1):
                q = into[i, j]
                have = f[q, VISIBLE]
                if f[q, OVER] == 0:
                    have -= have % fifo[q, BLOCK]
                    all_over = False
                have -= f[q, POPPED]
                if have > 0:
                    all_over = False
                if have < lanes * fifo[q, READ]:
                    if f[q, OVER] == 0:
                        there = False
                    else:
                        n = min(n, (have + fifo[q, READ] - 1) // fifo[q, READ])
                need[j] = have
            if n < 1:
                there = False

            # 3c. start
            started, full = False, s[i, HELD] == stage[i, SLOTS]
            if there and not full and t >= s[i, NEXT]:
                started = True
                k = s[i, INITIATED]
                slot = (s[i, HEAD] + s[i, HELD]) % slots
                if s[i, FIRST] < 0:
                    s[i, FIRST] = t
                if n_in == 0:
                    taken = need[0]
                    if policy == SHARED_QUEUE:
                        if traced:
                            for item in range(r[TAKEN_ALL], r[TAKEN_ALL] + taken):
                                if last_of[replica] < 0:
                                    first_of[replica] = item
                                else:
                                    following[last_of[replica]] = item
                                last_of[replica] = item
                        r[TAKEN_ALL] += taken
                        unfinished[replica] += taken
                        if r[TAKEN_ALL] == items:  # the others learn that nothing is left
                            for o in range(n_stages):
                                if into[o, 0] == 0 and o != i and s[o, ENDED] == 0:
                                    p = stage[o, PERIOD]
                                    at = (t + p - 1) // p * p if o > i else (t // p + 1) * p
                                    if at < s[o, WAKE]:
                                        s[o, WAKE] = at
                    s[i, TAKEN] += taken
                    if i == lead:
                        reference = True
                for j in range(1, n_in + 1):
                    q = into[i, j]
                    taken = min(need[j], n * fifo[q, READ])
                    f[q, POPPED] += taken
                    need[j] -= taken
                    p_time[q, (f[q, P_HEAD] + f[q, P_N]) % ring] = t + fifo[q, FREED]
                    p_count[q, (f[q, P_HEAD] + f[q, P_N]) % ring] = taken
                    f[q, P_N] += 1
                    o = fifo[q, WRITER]
                    p = stage[o, PERIOD]
                    at = (t + fifo[q, FREED] + p - 1) // p * p
                    if at < s[o, WAKE]:
                        s[o, WAKE] = at
                    if o == i and at < later:
                        later = at
                cycles = stage[i, INTERVAL]
                for j in range(1, n_out + 1):
                    made[i, slot, j - 1] = n * fifo[out_of[i, j], PRODUCE]
                at_item = s[i, FIRED]
                for _ in range(n):
                    if traced and replicas > 1:
                        reading[i] = first_of[replica] if reading[i] < 0 else following[reading[i]]
                        at_item = reading[i]
                    if stage[i, COSTS] >= 0:
                        cycles = max(cycles, tables[stage[i, COSTS] + at_item])
                    for j in range(1, n_out + 1):
                        q = out_of[i, j]
                        if fifo[q, COUNTS] >= 0:
                            made[i, slot, j - 1] += tables[fifo[q, COUNTS] + at_item]
                    at_item += 1
                begun = t
                channel = stage[i, CHANNEL]
                if channel >= 0:
                    if outside:
                        request[i, k] = t
                        begun = answer[i, k]
                    else:
                        begin = max(free[channel], t * port[channel, DENOMINATOR])
                        free[channel] = begin + n * stage[i, BYTES] * port[channel, NUMERATOR]
                        begun = -(-free[channel] // port[channel, DENOMINATOR])
                        if stage[i, POSTED] == 0:
                            begun += port[channel, LATENCY]
                    begun = max(t, (begun + period - 1) // period * period)
                ready[i, slot] = begun + (stage[i, DEPTH] + cycles - stage[i, INTERVAL] - 1) * period
                firings[i, slot] = n
                s[i, HELD] += 1
                s[i, FIRED] += n
                s[i, INITIATED] += 1
                s[i, NEXT] = t + cycles * period

            # 3d. write the oldest results
            wrote, due = False, False
            if s[i, HELD] > 0 and ready[i, s[i, HEAD]] <= t:
                due = True
                slot = s[i, HEAD]
                room = True
                for j in range(1, n_out + 1):
                    q = out_of[i, j]
                    known = f[q, RETURNED]
                    known -= known % fifo[q, BLOCK]
                    used = f[q, WRITTEN] - known + made[i, slot, j - 1]
                    if used > fifo[q, CAPACITY]:
                        room = False
                if room:
                    wrote = True
                    for j in range(1, n_out + 1):
                        q = out_of[i, j]
                        known = f[q, RETURNED]
                        known -= known % fifo[q, BLOCK]
                        f[q, WRITTEN] += made[i, slot, j - 1]
                        f[q, HIGH] = max(f[q, HIGH], f[q, WRITTEN] - known)
                        w_time[q, (f[q, W_HEAD] + f[q, W_N]) % ring] = t + fifo[q, SEEN]
                        w_count[q, (f[q, W_HEAD] + f[q, W_N]) % ring] = made[i, slot, j - 1]
                        f[q, W_N] += 1
                        o = fifo[q, READER]
                        p = stage[o, PERIOD]
                        at = (t + fifo[q, SEEN] + p - 1) // p * p
                        if at < s[o, WAKE]:
                            s[o, WAKE] = at
                        if o == i and at < later:
                            later = at
                    if stage[i, COUNTED]:
                        unfinished[replica] -= firings[i, slot]
                        if finish.shape[0] > 0:
                            for lane in range(firings[i, slot]):
                                item = s[i, WROTE] + lane
                                if replicas > 1:
                                    writing[i] = (
                                        first_of[replica] if writing[i] < 0 else following[writing[i]]
                                    )
                                    item = writing[i]
                                finish[item] = t + period
                    s[i, WROTE] += firings[i, slot]
                    s[i, LAST] = t
                    s[i, HEAD] = (slot + 1) % slots
                    s[i, HELD] -= 1

            # 3e. the end, told along with the last results
            if started:
                all_over = True
                if n_in == 0:
                    left = items - r[TAKEN_ALL] if policy == SHARED_QUEUE else given[replica] - s[i, TAKEN]
                    all_over = arrived == items and left == 0
                for j in range(1, n_in + 1):
                    if f[into[i, j], OVER] == 0 or need[j] > 0:
                        all_over = False
            if all_over and s[i, HELD] == 0 and s[i, ENDED] == 0:
                s[i, ENDED] = 1
                r[R_END] = max(r[R_END], t + period)
                for j in range(1, n_out + 1):
                    q = out_of[i, j]
                    f[q, OVER_AT] = t + fifo[q, SEEN]
                    o = fifo[q, READER]
                    p = stage[o, PERIOD]
                    at = (t + fifo[q, SEEN] + p - 1) // p * p
                    if at < s[o, WAKE]:
                        s[o, WAKE] = at

            # 3f. what this cycle was, and when to look again
            busy = t < s[i, NEXT] and not over_before
            if busy:
                s[i, CLASS] = 0
            elif all_over:
                s[i, CLASS] = 4
            elif not there:
                s[i, CLASS] = 1
            elif due:
                s[i, CLASS] = 2
            else:
                s[i, CLASS] = 3
            if later < NEVER:
                later = (later + period - 1) // period * period
            if busy:
                later = min(later, s[i, NEXT] if s[i, ENDED] == 0 else t + period)
            elif wrote:
                later = min(later, t + period)
            if s[i, HELD] > 0:
                first = ready[i, s[i, HEAD]]
                if first > t:
                    later = min(later, first)
                elif wrote:
                    later = min(later, t + period)
            s[i, WAKE] = later

        # 4. a state that was there before, relative to now: jump over whole periods
        if searching and reference:
            looks += 1
            if looks > CHECKS:
                searching = False
                continue
            at = 0
            for c in range(clocks.shape[0]):
                now_state[at] = t % clocks[c]
                at += 1
            for c in range(n_ports):
                now_state[at] = max(free[c] - t * port[c, DENOMINATOR], 0)
                at += 1
            ends = False
            for i in range(n_stages):
                period = stage[i, PERIOD]
                n = (t - s[i, SETTLED]) // period
                s[i, S_BUSY + s[i, CLASS]] += n
                s[i, SETTLED] += n * period
                if s[i, ENDED]:
                    ends = True
                now_state[at] = max(s[i, NEXT] - t, 0)
                now_state[at + 1] = s[i, HELD]
                now_state[at + 2] = s[i, WAKE] - t if s[i, WAKE] < NEVER else -1
                now_state[at + 3] = s[i, CLASS]
                at += 4
                for j in range(slots):
                    slot = (s[i, HEAD] + j) % slots
                    held = j < s[i, HELD]
                    now_state[at] = max(ready[i, slot] - t, 0) if held else 0
                    now_state[at + 1] = firings[i, slot] if held else 0
                    at += 2
            for q in range(n_fifos):
                now_state[at] = f[q, WRITTEN] - f[q, POPPED]
                now_state[at + 1] = f[q, VISIBLE] - f[q, POPPED]
                now_state[at + 2] = f[q, POPPED] - f[q, RETURNED]
                now_state[at + 3] = f[q, WRITTEN] % fifo[q, BLOCK]
                now_state[at + 4] = f[q, POPPED] % fifo[q, BLOCK]
                now_state[at + 5] = f[q, W_N]
                now_state[at + 6] = f[q, P_N]
                now_state[at + 7] = f[q, HIGH]
                at += 8
                for j in range(ring):
                    w, p = (f[q, W_HEAD] + j) % ring, (f[q, P_HEAD] + j) % ring
                    now_state[at] = w_time[q, w] - t if j < f[q, W_N] else 0
                    now_state[at + 1] = w_count[q, w] if j < f[q, W_N] else 0
                    now_state[at + 2] = p_time[q, p] - t if j < f[q, P_N] else 0
                    now_state[at + 3] = p_count[q, p] if j < f[q, P_N] else 0
                    at += 4
            if ends:
                searching = False
                continue
            same = have_old
            if have_old:
                for j in range(size):
                    if now_state[j] != old_state[j]:
                        same = False
                        break
            if same:
                searching = False
                periods = NEVER
                if policy == SHARED_QUEUE:
                    periods = (items - r[TAKEN_ALL]) // max(r[TAKEN_ALL] - old_taken_all, 1) - 1
                else:
                    for i in range(n_stages):
                        if into[i, 0] == 0:
                            step = s[i, TAKEN] - old_s[i, TAKEN]
                            if step > 0:
                                left = given[stage[i, REPLICA]] - s[i, TAKEN]
                                periods = min(periods, left // step - 1)
                            else:
                                periods = 0
                span = t - old_t
                periods = min(periods, (r[LIMIT] - t) // max(span, 1))
                if periods > 0:
                    by = span * periods
                    r[JUMPED_PERIODS] += periods
                    r[PERIOD_TICKS] = span
                    r[PERIOD_ITEMS] = s[lead, TAKEN] - old_s[lead, TAKEN]
                    r[TAKEN_ALL] += (r[TAKEN_ALL] - old_taken_all) * periods
                    for c in range(n_ports):
                        free[c] = max(free[c], t * port[c, DENOMINATOR]) + by * port[c, DENOMINATOR]
                    for i in range(n_stages):
                        s[i, NEXT] = max(s[i, NEXT], t) + by
                        if s[i, WAKE] < NEVER:
                            s[i, WAKE] += by
                        s[i, SETTLED] += by
                        s[i, LAST] += by
                        for c in (FIRED, TAKEN, INITIATED, WROTE, S_BUSY, S_STARVED, S_BLOCKED,
                                  S_MEMORY, S_DRAINED):  # fmt: skip
                            s[i, c] += (s[i, c] - old_s[i, c]) * periods
                        for j in range(s[i, HELD]):
                            ready[i, (s[i, HEAD] + j) % slots] += by
                    for q in range(n_fifos):
                        for c in (WRITTEN, POPPED, VISIBLE, RETURNED):
                            f[q, c] += (f[q, c] - old_f[q, c]) * periods
                        for j in range(f[q, W_N]):
                            w_time[q, (f[q, W_HEAD] + j) % ring] += by
                        for j in range(f[q, P_N]):
                            p_time[q, (f[q, P_HEAD] + j) % ring] += by
            elif looks == next_keep:
                next_keep *= 2
                have_old = True
                old_t = t
                old_taken_all = r[TAKEN_ALL]
                old_state[:] = now_state
                old_s[:] = s
                old_f[:] = f

    # 5. settle the accounts; who has not ended waits for ever
    status = DONE
    for i in range(n_stages):
        if s[i, ENDED] == 0:
            status = DEADLOCK
            r[R_END] = max(r[R_END], t)
    for i in range(n_stages):
        period = stage[i, PERIOD]
        n = (r[R_END] + period - 1) // period - s[i, SETTLED] // period
        s[i, S_BUSY + s[i, CLASS]] += n
    return status
