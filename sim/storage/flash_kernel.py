"""The flash back-end: transactions over channel buses and dies, from event to event.

Tables are int64: ``x`` (transactions), ``u`` (units), ``c`` (channels), ``p`` (parameters), ``t`` (timings,
ticks), ``g`` (counters), ``h`` (heap of events: time, code), ``done`` (transactions that ended,
``g[FINISHED]`` of them). Columns are those of `neardata.sim.storage.fields`. A unit executes one array
command at a time: a die, a plane of independent ones, or a chip where its dies work together.
tests/naive/flash.py is
the twin.
"""

# ruff: noqa: F405, SIM109, SIM114

import numpy as np
from numba import njit

from neardata.sim.storage.fields import *  # noqa: F403
from neardata.sim.storage.table_kernel import *  # noqa: F403


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def push(h, g, time, code):
    """Add an event to the heap."""
    i = g[HEAP]
    g[HEAP] = i + 1
    while i > 0:
        above = (i - 1) >> 1
        if h[above, 0] < time or (h[above, 0] == time and h[above, 1] <= code):
            break
        h[i, 0] = h[above, 0]
        h[i, 1] = h[above, 1]
        i = above
    h[i, 0] = time
    h[i, 1] = code


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def pop(h, g):
    """Remove the first event and return its code."""
    first = h[0, 1]
    n = g[HEAP] - 1
    g[HEAP] = n
    time, code = h[n, 0], h[n, 1]
    i = 0
    while True:
        below = 2 * i + 1
        if below >= n:
            break
        other = below + 1
        if other < n and (
            h[other, 0] < h[below, 0] or (h[other, 0] == h[below, 0] and h[other, 1] < h[below, 1])
        ):
            below = other
        if time < h[below, 0] or (time == h[below, 0] and code <= h[below, 1]):
            break
        h[i, 0] = h[below, 0]
        h[i, 1] = h[below, 1]
        i = below
    h[i, 0] = time
    h[i, 1] = code
    return first


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def transfer(p, size):
    """Ticks of ``size`` bytes on the bus."""
    if p[TWO_BYTES] >= 0:
        return size // p[WIDTH] // 2 * p[TWO_BYTES]
    size += size * p[SPARE] // p[PAGE_BYTES]
    return (size + p[WIDTH] - 1) // p[WIDTH] * p[PER_TRANSFER]


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def submit(s, i, now):
    """Queue a transaction at its unit."""
    x, u, c, g = t_x(s), t_u(s), t_c(s), t_g(s)
    unit = x[i, UNIT]
    ch = u[unit, CHANNEL]
    if c[ch, OPEN] == 0 and c[ch, BUS] == BUS_IDLE:
        c[ch, LOST_NONE] += now - c[ch, IDLE_SINCE]
        c[ch, IDLE_SINCE] = now
    c[ch, OPEN] += 1
    x[i, SUBMITTED] = now
    x[i, NEXT] = NONE
    k = x[i, CLASS]
    tail = u[unit, TAILS + k]
    if tail == NONE:
        u[unit, HEADS + k] = i
    else:
        x[tail, NEXT] = i
    u[unit, TAILS + k] = i
    c[ch, CANDIDATES] |= 1 << u[unit, LOCAL]
    g[DIRTY] |= 1 << ch


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _take(s, unit, first, second):
    """Take what one command can hold from the queues ``first`` and ``second``; its first transaction or
    NONE."""
    x, u, p, taken = t_x(s), t_u(s), t_p(s), t_taken(s)
    head = u[unit, HEADS + first]
    die = x[head, DIE]
    chosen, last, planes, page, n = NONE, NONE, 0, 0, 0
    limit = p[PLANES] if p[MULTI_PLANE] else 1
    for turn in range(2):
        k = first if turn == 0 else second
        if k == NONE or n >= limit:
            continue
        before, i = NONE, u[unit, HEADS + k]
        while i != NONE and n < limit:
            after = x[i, NEXT]
            if (
                x[i, WAITS] == 0
                and x[i, DIE] == die
                and not planes >> x[i, PLANE] & 1
                and (n == 0 or ((x[i, PAGE] == page or not p[SAME_PAGE]) and x[i, KIND] == x[chosen, KIND]))
            ):
                if n == 0:
                    chosen, page = i, x[i, PAGE]
                else:
                    x[last, MATE] = i
                last = i
                x[i, MATE] = NONE
                planes |= 1 << x[i, PLANE]
                n += 1
                if before == NONE:
                    u[unit, HEADS + k] = after
                else:
                    x[before, NEXT] = after
                if after == NONE:
                    u[unit, TAILS + k] = before
            else:
                before = i
            i = after
    taken[0] = n
    return chosen


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _issue(s, unit, kinds, now):
    """Put a command for ``unit`` on the idle bus. ``kinds``: 1 reads, 2 programs and erases, 3 both."""
    x, u, c, p, t, g, h, taken = t_x(s), t_u(s), t_c(s), t_p(s), t_t(s), t_g(s), t_h(s), t_taken(s)
    ch = u[unit, CHANNEL]
    state = u[unit, STATE]
    free = state == IDLE and u[unit, REG] == EMPTY
    readable = state == IDLE and (p[CACHE_READ] == 1 or u[unit, REG] == EMPTY)
    has_map = u[unit, HEADS + MAP_READ] != NONE
    has_user = u[unit, HEADS + USER_READ] != NONE
    has_gc = u[unit, HEADS + GC_READ] != NONE
    has_write = u[unit, HEADS + USER_WRITE] != NONE
    has_move = u[unit, HEADS + GC_WRITE] != NONE
    has_erase = u[unit, HEADS + GC_ERASE] != NONE
    gc_first = p[GC_FIRST] == 1
    chosen = NONE
    suspends = False
    tried = False
    if kinds & 1:
        first, second = NONE, NONE
        if has_map:
            first = MAP_READ
            second = GC_READ if gc_first and has_gc else USER_READ
        elif gc_first:
            if has_gc:
                first, second = GC_READ, USER_READ
            elif not has_move and not has_erase and has_user:
                first = USER_READ
        elif has_user:
            first, second = USER_READ, GC_READ
        elif has_gc and not has_write:
            first = GC_READ
        if first != NONE:
            if not readable and state == WORKING and u[unit, SUSPENDED] == NONE and u[unit, GAVE_WAY] == 0:
                kind = x[u[unit, GROUP], KIND]
                left = u[unit, END] - now
                if kind == PROGRAM and p[SUSPENDS] & 1 and left >= p[LEAST_PROGRAM]:
                    suspends = True
                elif kind == ERASE and p[SUSPENDS] & 2 and left >= p[LEAST_ERASE]:
                    suspends = True
            if readable or suspends:
                chosen = _take(s, unit, first, second)
                tried = p[CHIP_WHOLE] == 1
    if chosen == NONE and kinds & 2 and free and not tried and u[unit, SUSPENDED] == NONE:
        first, second = NONE, NONE
        if gc_first:
            if has_move:
                first, second = GC_WRITE, USER_WRITE
            elif has_write and not has_erase:
                first = USER_WRITE
        elif has_write:
            first, second = USER_WRITE, GC_WRITE
        elif has_move:
            first = GC_WRITE
        if first != NONE:
            chosen = _take(s, unit, first, second)
            tried = p[CHIP_WHOLE] == 1
        if chosen == NONE and has_erase and not tried:
            chosen = _take(s, unit, GC_ERASE, NONE)
    if chosen == NONE:
        return False

    n = taken[0]
    delay = 0
    if suspends:
        group = u[unit, GROUP]
        u[unit, SUSPENDED] = group
        u[unit, SUSPENDED_LEFT] = u[unit, END] - now
        u[unit, BUSY_PROGRAM if x[group, KIND] == PROGRAM else BUSY_ERASE] -= u[unit, END] - now
        delay = p[SUSPEND_PROGRAM] if x[group, KIND] == PROGRAM else p[SUSPEND_ERASE]
        g[SUSPENSIONS] += 1
    if (
        u[unit, HEADS] == NONE and u[unit, HEADS + 1] == NONE and u[unit, HEADS + 2] == NONE
        and u[unit, HEADS + 3] == NONE and u[unit, HEADS + 4] == NONE and u[unit, HEADS + 5] == NONE
    ):  # fmt: skip
        c[ch, CANDIDATES] &= ~(1 << u[unit, LOCAL])
    kind = x[chosen, KIND]
    time, data = 0, 0
    if kind == ERASE:
        time = t[T_ERASE_COMMAND, n]
        g[ERASES] += 1
        g[MULTI_ERASES] += n > 1
        g[BLOCKS_ERASED] += n
    elif kind == PROGRAM:
        time = t[T_PROGRAM_COMMAND, n]
        g[PROGRAM_COMMANDS] += 1
        g[MULTI_PROGRAMS] += n > 1
        g[PAGES_PROGRAMMED] += n
    else:
        time = t[T_READ_COMMAND, n]
        if kind == COPYBACK:
            g[COPYBACKS] += n
        else:
            g[READ_COMMANDS] += 1
            g[MULTI_READS] += n > 1
            g[PAGES_READ] += n
            g[COMPUTES] += n if kind == READ_COMPUTE else 0
    i = chosen
    while i != NONE:
        x[i, ISSUED] = now
        data += transfer(p, x[i, BYTES_IN])
        g[BYTES_IN_SUM] += x[i, BYTES_IN]
        i = x[i, MATE]
    u[unit, STATE] = COMMANDED
    u[unit, GROUP] = chosen
    u[unit, COUNT] = n
    u[unit, PHASE] = 0
    u[unit, GAVE_WAY] = 0
    u[unit, DELAY] = now + delay
    _lost(s, ch, unit, now, LOST_FEW)
    c[ch, BUSY_COMMAND] += time
    c[ch, BUSY_IN] += data
    c[ch, BUS] = BUS_COMMAND
    c[ch, BUS_ITEM] = unit
    c[ch, BUS_END] = now + time + data
    push(h, g, now + time + data, E_BUS << E_SHIFT | ch)
    return True


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _lost(s, ch, unit, now, cause):
    """Charge the idle bus time before a transfer to what it waited for."""
    c, u = t_c(s), t_u(s)
    gap = now - c[ch, IDLE_SINCE]
    if gap:
        if cause == LOST_FEW and u[unit, READY_AT] == now:
            op = u[unit, LAST_OP]
            if op == PROGRAM or op == COPYBACK:
                cause = LOST_PROGRAM
            elif op == ERASE:
                cause = LOST_ERASE
            else:
                cause = LOST_READ
        c[ch, cause] += gap


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _send(s, ch, now):
    """Start the first waiting data on the idle bus."""
    x, c, p, g, h = t_x(s), t_c(s), t_p(s), t_g(s), t_h(s)
    for rank in range(RANKS):
        i = c[ch, OUT_HEADS + rank]
        if i == NONE:
            continue
        after = x[i, NEXT]
        c[ch, OUT_HEADS + rank] = after
        if after == NONE:
            c[ch, OUT_TAILS + rank] = NONE
        size = x[i, LEFT]
        if x[i, SLICE] > 0 and size > x[i, SLICE]:
            size = x[i, SLICE]
        if x[i, SLICE] > 0:
            g[SLICES] += 1
        x[i, LEFT] -= size
        g[BYTES_OUT_SUM] += size
        time = p[OUT_SETUP] + transfer(p, size)
        _lost(s, ch, x[i, UNIT], now, LOST_COMPUTE if x[i, COMPUTE] > 0 else LOST_READ)
        c[ch, BUSY_OUT] += time
        c[ch, BUS] = BUS_OUT
        c[ch, BUS_ITEM] = i
        c[ch, BUS_END] = now + time
        push(h, g, now + time, E_BUS << E_SHIFT | ch)
        return True
    return False


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def arbitrate(s, ch, now):
    """Give an idle bus to what comes first: copyback, reads' commands, data, other commands."""
    x, u, c, p, t, g, h = t_x(s), t_u(s), t_c(s), t_p(s), t_t(s), t_g(s), t_h(s)
    if c[ch, BUS] != BUS_IDLE:
        return
    unit = c[ch, COPY_HEAD]
    if unit != NONE:
        i = u[unit, GROUP]
        c[ch, COPY_HEAD] = x[i, NEXT]
        if x[i, NEXT] == NONE:
            c[ch, COPY_TAIL] = NONE
        u[unit, STATE] = COMMANDED
        u[unit, PHASE] = 1
        u[unit, DELAY] = now
        time = t[T_PROGRAM_COMMAND, u[unit, COUNT]]
        _lost(s, ch, unit, now, LOST_READ)
        c[ch, BUSY_COMMAND] += time
        c[ch, BUS] = BUS_COMMAND
        c[ch, BUS_ITEM] = unit
        c[ch, BUS_END] = now + time
        push(h, g, now + time, E_BUS << E_SHIFT | ch)
        return
    command_first = p[COMMAND_FIRST] == 1
    if not command_first and _send(s, ch, now):
        return
    n = p[UNITS]
    for turn in range(2 if command_first else 1):
        kinds = 3
        if command_first:
            kinds = 1 if turn == 0 else 2
            if turn == 1 and _send(s, ch, now):
                return
        ready = c[ch, CANDIDATES]
        if ready == 0:
            continue
        local = c[ch, TURN]
        for _ in range(n):
            after = local + 1 if local + 1 < n else 0
            if ready >> local & 1 and _issue(s, ch * n + local, kinds, now):
                c[ch, TURN] = after
                return
            local = after


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _finish(s, i, now):
    x, u, c, g, done = t_x(s), t_u(s), t_c(s), t_g(s), t_done(s)
    ch = u[x[i, UNIT], CHANNEL]
    x[i, DONE] = now
    c[ch, OPEN] -= 1
    if c[ch, OPEN] == 0 and c[ch, BUS] == BUS_IDLE:
        kind = x[i, KIND]
        cause = (
            LOST_PROGRAM
            if kind == PROGRAM or kind == COPYBACK
            else LOST_ERASE
            if kind == ERASE
            else LOST_READ
        )
        c[ch, cause] += now - c[ch, IDLE_SINCE]
        c[ch, IDLE_SINCE] = now
    done[g[FINISHED]] = i
    g[FINISHED] += 1


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _to_register(s, unit, now):
    """The page, or pages, of an ended read are in the register: compute, then leave."""
    x, u, g, h = t_x(s), t_u(s), t_g(s), t_h(s)
    group = u[unit, GROUP]
    u[unit, STATE] = IDLE
    u[unit, LAST_OP] = READ
    u[unit, READY_AT] = now
    u[unit, REG_GROUP] = group
    compute = 0
    i = group
    while i != NONE:
        compute += x[i, COMPUTE]
        i = x[i, MATE]
    if compute > 0:
        u[unit, REG] = COMPUTING
        u[unit, BUSY_COMPUTE] += compute
        push(h, g, now + compute, E_COMPUTE << E_SHIFT | unit)
        return
    _leave(s, unit, now)


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _leave(s, unit, now):
    x, u, c, g = t_x(s), t_u(s), t_c(s), t_g(s)
    ch = u[unit, CHANNEL]
    i = u[unit, REG_GROUP]
    left = 0
    while i != NONE:
        mate = x[i, MATE]
        if x[i, KIND] == READ_COMPUTE:
            g[BYTES_COMPUTED] += x[i, A]
        if x[i, BYTES_OUT] == 0:
            _finish(s, i, now)
        else:
            left += 1
            rank = x[i, RANK]
            x[i, LEFT] = x[i, BYTES_OUT]
            x[i, NEXT] = NONE
            tail = c[ch, OUT_TAILS + rank]
            if tail == NONE:
                c[ch, OUT_HEADS + rank] = i
            else:
                x[tail, NEXT] = i
            c[ch, OUT_TAILS + rank] = i
        i = mate
    u[unit, REG_LEFT] = left
    u[unit, REG] = LEAVING if left else EMPTY
    g[DIRTY] |= 1 << ch


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _resume(s, unit, now):
    """A suspended command goes on when the unit has nothing else in hand."""
    x, u, g, h = t_x(s), t_u(s), t_g(s), t_h(s)
    if u[unit, SUSPENDED] != NONE and u[unit, STATE] == IDLE and u[unit, REG] == EMPTY:
        left = u[unit, SUSPENDED_LEFT]
        u[unit, GROUP] = u[unit, SUSPENDED]
        u[unit, SUSPENDED] = NONE
        u[unit, STATE] = WORKING
        u[unit, GAVE_WAY] = 1
        u[unit, END] = now + left
        u[unit, BUSY_PROGRAM if x[u[unit, GROUP], KIND] == PROGRAM else BUSY_ERASE] += left
        push(h, g, now + left, E_ARRAY << E_SHIFT | unit)


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def flash_event(s, code, now):
    """What happens at an event of the flash."""
    x, u, c, p, t, g, h = t_x(s), t_u(s), t_c(s), t_p(s), t_t(s), t_g(s), t_h(s)
    kind = code >> E_SHIFT
    index = code & ((1 << E_SHIFT) - 1)
    if kind == E_BUS:
        ch = index
        item = c[ch, BUS_ITEM]
        was = c[ch, BUS]
        c[ch, BUS] = BUS_IDLE
        c[ch, IDLE_SINCE] = now
        g[DIRTY] |= 1 << ch
        if was == BUS_COMMAND:
            unit = item
            i = u[unit, GROUP]
            op = x[i, KIND]
            time = 0
            if op == ERASE:
                time = t[T_ERASE, 0]
                u[unit, BUSY_ERASE] += time
            elif op == PROGRAM or u[unit, PHASE] == 1:
                column = TYPE if op == PROGRAM else TYPE2
                while i != NONE:
                    time = max(time, t[T_PROGRAM, x[i, column]])
                    i = x[i, MATE]
                u[unit, BUSY_PROGRAM] += time
            else:
                while i != NONE:
                    one = t[T_READ, x[i, TYPE]]
                    for attempt in range(p[RETRIES]):
                        g[DRAWS] += 1
                        z = np.uint64(g[DRAWS]) * np.uint64(0x9E3779B97F4A7C15)
                        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                        if np.int64((z ^ (z >> np.uint64(31))) >> np.uint64(1)) >= t[T_RETRY, attempt]:
                            break
                        one += t[T_READ, x[i, TYPE]]
                        g[RETRIED] += 1
                    time = max(time, one)
                    i = x[i, MATE]
                u[unit, BUSY_READ] += time
            begin = max(now, u[unit, DELAY])
            i = u[unit, GROUP]
            while i != NONE:
                x[i, STARTED] = begin
                i = x[i, MATE]
            u[unit, STATE] = WORKING
            u[unit, END] = begin + time
            push(h, g, begin + time, E_ARRAY << E_SHIFT | unit)
        else:
            i = item
            if x[i, LEFT] > 0:  # the next slice waits before others of its rank
                rank = x[i, RANK]
                x[i, NEXT] = c[ch, OUT_HEADS + rank]
                c[ch, OUT_HEADS + rank] = i
                if x[i, NEXT] == NONE:
                    c[ch, OUT_TAILS + rank] = i
                return
            unit = x[i, UNIT]
            u[unit, REG_LEFT] -= 1
            if u[unit, REG_LEFT] == 0:
                u[unit, REG] = EMPTY
                u[unit, LAST_OP] = READ
                u[unit, READY_AT] = now
                if u[unit, STATE] == HOLDING:
                    if p[CACHE_MOVE] > 0:
                        u[unit, STATE] = MOVING
                        u[unit, END] = now + p[CACHE_MOVE]
                        push(h, g, u[unit, END], E_ARRAY << E_SHIFT | unit)
                    else:
                        _to_register(s, unit, now)
                _resume(s, unit, now)
            if p[DECODE] > 0:
                push(h, g, now + p[DECODE], E_DECODED << E_SHIFT | i)
            else:
                _finish(s, i, now)
    elif kind == E_ARRAY:
        unit = index
        state = u[unit, STATE]
        if (state != WORKING and state != MOVING) or u[unit, END] != now:
            return  # it was suspended
        ch = u[unit, CHANNEL]
        g[DIRTY] |= 1 << ch
        i = u[unit, GROUP]
        op = x[i, KIND]
        if state == MOVING:
            _to_register(s, unit, now)
            _resume(s, unit, now)
        elif op == COPYBACK and u[unit, PHASE] == 0:
            u[unit, STATE] = COPY_WAIT
            x[i, NEXT] = NONE
            last = c[ch, COPY_TAIL]
            if last == NONE:
                c[ch, COPY_HEAD] = unit
            else:
                x[u[last, GROUP], NEXT] = unit
            c[ch, COPY_TAIL] = unit
        elif op == PROGRAM or op == ERASE or op == COPYBACK:
            u[unit, STATE] = IDLE
            u[unit, LAST_OP] = op
            u[unit, READY_AT] = now
            u[unit, GAVE_WAY] = 0
            while i != NONE:
                mate = x[i, MATE]
                _finish(s, i, now)
                i = mate
            _resume(s, unit, now)
        elif u[unit, REG] != EMPTY:
            u[unit, STATE] = HOLDING
        elif p[CACHE_MOVE] > 0:
            u[unit, STATE] = MOVING
            u[unit, END] = now + p[CACHE_MOVE]
            push(h, g, u[unit, END], E_ARRAY << E_SHIFT | unit)
        else:
            _to_register(s, unit, now)
            _resume(s, unit, now)
    elif kind == E_COMPUTE:
        unit = index
        _leave(s, unit, now)
        if u[unit, REG] == EMPTY:
            if u[unit, STATE] == HOLDING:
                if p[CACHE_MOVE] > 0:
                    u[unit, STATE] = MOVING
                    u[unit, END] = now + p[CACHE_MOVE]
                    push(h, g, u[unit, END], E_ARRAY << E_SHIFT | unit)
                else:
                    _to_register(s, unit, now)
            _resume(s, unit, now)
    else:
        _finish(s, index, now)


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def run_transactions(s, order, arrive, waits, first_edge, edges):
    """Execute transactions in the order of their arrivals and dependencies.

    Args:
        order: (n,) by arrival.
        arrive: (n,) ticks.
        waits: (n,) how many others each waits for; changed.
        first_edge, edges: who waits for each: ``edges[first_edge[i]:first_edge[i + 1]]``.

    Returns:
        The time of the last event.
    """
    g, h, done = t_g(s), t_h(s), t_done(s)
    n = len(order)
    at, now = 0, 0
    while True:
        now_next = h[0, 0] if g[HEAP] else FAR
        if at < n and arrive[order[at]] < now_next:
            now_next = arrive[order[at]]
        if now_next == FAR:
            return now
        now = now_next
        while g[HEAP] and h[0, 0] == now:
            flash_event(s, pop(h, g), now)
        while at < n and arrive[order[at]] == now:
            i = order[at]
            at += 1
            if waits[i] == 0:
                submit(s, i, now)
        for k in range(g[FINISHED]):
            i = done[k]
            for e in range(first_edge[i], first_edge[i + 1]):
                j = edges[e]
                waits[j] -= 1
                if waits[j] == 0 and arrive[j] <= now:
                    submit(s, j, now)
        g[FINISHED] = 0
        dirty = g[DIRTY]
        g[DIRTY] = 0
        ch = 0
        while dirty:
            if dirty & 1:
                arbitrate(s, ch, now)
            dirty >>= 1
            ch += 1
