"""Kernel that executes a flattened command program on one channel.

Every command looks back at the last issues of the commands it must keep a distance from, as
precomputed (slot, gap) pairs, and writes its own slots: constant time per command. The state that
decides the future is one int64 vector of four parts:

* ``time``: absolute ticks (previous issue, buses, refresh due times, fences),
* ``word``: bank states as bit masks, mode,
* ``stat``: counters that only grow,
* ``last``: tick of the latest issue per slot (a slot: a command at a node; a window of n takes n).

So a state is compared by its ticks relative to now, each clamped to the largest gap that can still
look back at it, and a program whose state recurs at the end of a loop's iteration is advanced by
whole periods: add the period to all ticks, and the growth of one period to all counters.
"""

from __future__ import annotations

from collections import namedtuple

import numpy as np
from numba import njit

NEVER = -(1 << 40)
FAR = 1 << 60
ABSENT = -(1 << 40)
WORD_BITS = 62

Tables = namedtuple("Tables", "config op term digit plan clamp host")
"""What does not change (built by `neardata.sim.dram.program_table`): numbers; operations; terms of
affine addresses (index position, factor); digits of loop counters (index position, times); all that
is to know of each target (a command at a unit); largest gap per slot; host requests."""

State = namedtuple("State", "now register stream bank queue brent saved depart log")
"""The vector described above; where execution stands; per stream position, indices and counts; per
bank row, opener and when; commands queued by a refresh; per loop its cycle detection and the state
it has saved; when host requests were served; the command log."""

(K_BANKS, K_WORDS, K_UNITS, K_POLICY, K_INTERVAL, K_ROWS, K_TICKS, K_PLUS, K_LOG, K_RUNS, K_HOST_FIRST,
 K_ENTER, K_RULES, K_FENCES, K_COUNTS, K_WORD, K_STAT, K_CAUSES, K_PHASES, K_OPEN_CYCLES, K_LAST,
 K_UNIT_MASK, K_CLOSED_UNITS, K_REFRESH, K_REFRESH_STEP, K_CLOSE_ALL, K_CLOSE_ALL_STEP, K_CLOSE,
 K_CLOSE_STEP, K_OPEN, K_OPEN_STEP, K_READ, K_READ_STEP, K_WRITE, K_WRITE_STEP, K_OWED,
 CONFIG) = range(37)  # fmt: skip
# K_FENCES, K_WORD .. K_LAST: where parts of the state vector begin; K_COUNTS: where loop counts begin
# in a stream; K_UNIT_MASK: where the masks of refresh units begin in the plan; K_CLOSED_UNITS: refresh
# units that K_CLOSE_ALL closes; K_REFRESH ...: target of the command at unit 0 (-1: there is none), and
# from one unit's to the next; K_OWED: refreshes owed before rows are closed for them

# kinds of operations
(ISSUE, LOOP, LOOP_END, FENCE, WAIT, UNTIL, FORK, STREAM_END, REFRESH, YIELD, SERVE, RETURN, PHASE,
 HALT) = range(14)  # fmt: skip
(O_KIND, O_TARGET, O_ROW, O_COLUMN, O_TARGET_STEP, O_ROW_STEP, O_COLUMN_STEP, O_TARGET_TERMS, O_ROW_TERMS,
 O_COLUMN_TERMS, O_TERMS_END, O_REPEAT, O_CHECK, O_RUN, O_A, O_B, O_C, O_D, O_E,
 O_WIDTH) = range(20)  # fmt: skip
# ISSUE, UNTIL: target = O_TARGET + terms + O_TARGET_STEP * repetition, row and column alike (far below
#   zero if not given); O_CHECK: its row must be the open one; O_RUN: its repetitions are alike but
#   for row and column
# LOOP: O_A..O_B: its digits; O_C: operation after its end; O_D: its level; O_E: recurrences of the
#   state after which periods are skipped (0: never)
# LOOP_END: O_A: the LOOP; O_B: how often it is run
# FORK: O_A: first operation of the first stream; O_B: streams; O_C: operation after
#   (streams follow each other, each to its STREAM_END)
# FENCE: O_A: what it waits for; O_B: plus
# WAIT: O_A: cycles
# YIELD: O_A: most requests to serve, ALL or ARRIVED
# PHASE: O_A: its number
ARRIVED, ALL = -1, -2

# a target in the plan: facts, then the bank mask, banks, slots to look back at (slot, gap, cause), slots
# to write (slot, window) and slots that keep an auto-precharge waiting (slot, gap), each from its offset
(G_COMMAND, G_UNIT, G_BUS, G_CYCLES, G_LATENCY, G_NEEDS, G_LEAVES, G_MODES, G_ENTERS, G_DATA, G_ON_ROW,
 G_EDGE, G_CLOSE_DELAY, G_BANKS, G_READS, G_WRITES, G_CLOSES, G_MASK, G_BANK, G_READ, G_WRITE, G_CLOSE,
 G_LISTS) = range(23)  # fmt: skip
CLOSED, ACTIVATING, OPEN = 1, 2, 4  # bits of G_NEEDS; G_LEAVES is one of them or 0
READS, WRITES = 1, 2  # G_DATA

# time
T_PREVIOUS, T_BUS, T_COLUMN_BUS, T_DUE = range(4)
# T_DUE + r: refresh unit r is due; then until when the last row closed in unit r was open; then, from
# K_FENCES on, for each stream: when its reads, its data and all of its commands are complete, and
# the first tick that its fences and waits allow
F_READS, F_DATA, F_ALL, F_BOUND, F_WIDTH = range(5)

# word
W_MODE, W_BANKS = range(2)
# W_BANKS + 2*w: open banks of mask word w; + 1: activating banks

# stat
S_REFRESHES, S_BUSY, S_COMMANDS = range(3)
# then causes, phases, and for each refresh unit the ticks at which its last open bank closed less those
# at which its first opened: in a period both occur equally often, so that the difference grows evenly

# stream: operation, repetition of it, why it waits, then an index per loop, then a count per level
P_PC, P_REPEAT, P_CAUSE, P_INDEX = range(4)

B_ROW, B_OPENER, B_SEQUENCE, B_WIDTH = range(4)

Q_TARGET, Q_ROW, Q_BOUND, Q_WIDTH = range(4)

H_BANK, H_ROW, H_COLUMN, H_WRITE, H_ARRIVAL, H_WIDTH = range(6)

# cycle detection: iteration of the saved state (-1: none), iterations after which it is replaced,
# recurrences in a row, their period
D_SAVED, D_POWER, D_MATCHES, D_PERIOD, D_WIDTH = range(5)

(R_PHASE, R_LOG, R_SEQUENCE, R_MIN_DUE, R_HOST, R_RETURN, R_QUANTUM, R_FORKED, R_QUEUE, R_QUEUED, R_BUDGET,
 R_ERROR, R_ERROR_BANK, R_ERROR_TICK, R_ERROR_TARGET, R_ERROR_STREAM, R_JUMPED,
 REGISTERS) = range(18)  # fmt: skip

DONE, PAUSED, LOG_FULL, FAILED = range(4)
E_NONE, E_STATE, E_MODE, E_ROW, E_LATE, E_POINT, E_REOPEN = range(7)

NONE, ALL_BANK, DECLARED, CLOSE_REOPEN = range(4)  # K_POLICY
POSTPONED = 8  # JESD79-4 4.24: refreshes that may be owed

# what commands wait for besides the device's rules: causes numbered after the rules
FENCED, WAITED, EDGE, DUE, ARRIVAL, CAUSES = range(6)

PROGRAM, HOST, MAINTENANCE = range(3)  # where a command comes from


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True, _nrt=False)
def _terms(op, term, stream, pc, number, first):
    """The sum of the terms of an address field of an operation (``first``: O_TARGET_TERMS ...)."""
    value = np.int64(0)
    for i in range(op[pc, first], op[pc, first + 1]):
        value += term[i, 1] * stream[number, P_INDEX + term[i, 0]]
    return value


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True, _nrt=False)
def _earliest(config, plan, now, target, bound, bound_cause):
    """First tick at which a command may issue, what it waits for, and when its bus is free."""
    base = max(now[T_PREVIOUS], now[T_BUS + plan[target + G_BUS]])
    tick, cause = base, np.int64(-1)
    if bound > tick:
        tick, cause = bound, bound_cause
    at = target + plan[target + G_READ]
    for i in range(at, at + 3 * plan[target + G_READS], 3):
        ready = now[plan[i]] + plan[i + 1]
        if ready > tick:
            tick, cause = ready, plan[i + 2]
    if plan[target + G_EDGE] and not tick & 1:
        tick += 1
        if cause < 0:
            cause = config[K_RULES] + EDGE
    return tick, cause, base


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _fail(register, error, bank, tick, target):
    register[R_ERROR] = error
    register[R_ERROR_BANK] = bank
    register[R_ERROR_TICK] = tick
    register[R_ERROR_TARGET] = target


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True, _nrt=False)
def _forbidden_bank(config, plan, now, mask, needs):
    """A bank of the mask at ``mask`` in the plan whose state is not among those needed, or -1."""
    word = config[K_WORD] + W_BANKS
    for w in range(config[K_WORDS]):
        mine = plan[mask + w]
        is_open, activating = now[word + 2 * w] & mine, now[word + 2 * w + 1] & mine
        wrong = np.int64(0)
        if not needs & OPEN:
            wrong |= is_open
        if not needs & ACTIVATING:
            wrong |= activating
        if not needs & CLOSED:
            wrong |= mine & ~(is_open | activating)
        if wrong:
            bank = w * WORD_BITS
            while not wrong & 1:
                wrong >>= 1
                bank += 1
            return bank
    return np.int64(-1)


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True, _nrt=False)
def _change(config, plan, now, target, tick):
    """New states of the target's banks."""
    words, units = config[K_WORDS], config[K_UNITS]
    word, opens, until = config[K_WORD] + W_BANKS, config[K_OPEN_CYCLES], T_DUE + units
    mask, leaves = target + plan[target + G_MASK], plan[target + G_LEAVES]
    closing = tick
    if plan[target + G_DATA]:  # an auto-precharge comes later, and keeps tRAS
        closing = tick + plan[target + G_CLOSE_DELAY]
        at = target + plan[target + G_CLOSE]
        for i in range(at, at + 2 * plan[target + G_CLOSES], 2):
            closing = max(closing, now[plan[i]] + plan[i + 1])
    for unit in range(units):
        was_open, is_open, touched = np.int64(0), np.int64(0), np.int64(0)
        for w in range(words):
            mine = plan[config[K_UNIT_MASK] + unit * words + w]
            before = (now[word + 2 * w] | now[word + 2 * w + 1]) & mine
            was_open |= before
            is_open |= before & ~plan[mask + w] if leaves == CLOSED else before | plan[mask + w] & mine
            touched |= before & plan[mask + w]
        if touched and leaves == CLOSED:
            now[until + unit] = max(now[until + unit], closing)
        if is_open and not was_open:
            now[opens + unit] -= max(tick, now[until + unit])
        elif was_open and not is_open:
            now[opens + unit] += now[until + unit]
    for w in range(words):
        now[word + 2 * w] &= ~plan[mask + w]
        now[word + 2 * w + 1] &= ~plan[mask + w]
        if leaves == OPEN:
            now[word + 2 * w] |= plan[mask + w]
        elif leaves == ACTIVATING:
            now[word + 2 * w + 1] |= plan[mask + w]


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True, _nrt=False)
def _is_open(config, now, bank):
    w = bank // WORD_BITS
    return now[config[K_WORD] + W_BANKS + 2 * w] >> (bank - w * WORD_BITS) & 1 != 0


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True, _nrt=False)
def _refresh_legal(config, plan, now):
    modes = plan[config[K_REFRESH] + G_MODES]
    return modes == 0 or modes >> now[config[K_WORD] + W_MODE] & 1 == 1


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _queue(register, queue, target, row, bound):
    n = register[R_QUEUED]
    queue[n, Q_TARGET], queue[n, Q_ROW], queue[n, Q_BOUND] = target, row, bound
    register[R_QUEUED] = n + 1


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _queue_reopening(config, plan, now, register, bank, queue, closing):
    """Queue what opens the rows again that a command closes, in the order they were opened."""
    mine = closing + plan[closing + G_MASK]
    after, zero = np.int64(-1), np.int64(0)
    while True:
        first = np.int64(-1)
        for b in range(config[K_BANKS]):
            w = b // WORD_BITS
            later = bank[b, B_SEQUENCE] > after and _is_open(config, now, b)
            later = later and plan[mine + w] >> (b - w * WORD_BITS) & 1 != 0
            if later and (first < 0 or bank[b, B_SEQUENCE] < bank[first, B_SEQUENCE]):
                first = np.int64(b)
        if first < 0:
            return True
        after, target = bank[first, B_SEQUENCE], bank[first, B_OPENER]
        at, whole = target + plan[target + G_BANK], True
        for i in range(at, at + plan[target + G_BANKS]):
            whole &= _is_open(config, now, plan[i]) and bank[plan[i], B_SEQUENCE] == after
        if whole:
            _queue(register, queue, target, bank[first, B_ROW], zero)
        elif config[K_OPEN] < 0:
            _fail(register, E_REOPEN, first, now[T_PREVIOUS], target)
            return False
        else:  # some of the banks it opened have been closed since: the others one by one
            for i in range(at, at + plan[target + G_BANKS]):
                b = plan[i]
                if _is_open(config, now, b) and bank[b, B_SEQUENCE] == after:
                    _queue(register, queue, config[K_OPEN] + b * config[K_OPEN_STEP], bank[b, B_ROW], zero)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _queue_refreshes(config, plan, now, register, bank, queue, tick, at_point):
    """Queue the commands of one refresh unit that is due by ``tick`` and may be refreshed.

    False: too many are owed, or it cannot be. Before a command, a unit with open banks waits
    (or is closed and reopened); at a declared refresh point its banks must be closed.
    """
    interval = config[K_INTERVAL]
    legal = _refresh_legal(config, plan, now)
    absent, zero = np.int64(ABSENT), np.int64(0)
    for unit in range(config[K_UNITS]):
        due = now[T_DUE + unit]
        owed = (tick - due) // interval + 1
        if owed <= 0:
            continue
        target = config[K_REFRESH] + unit * config[K_REFRESH_STEP]
        mask = config[K_UNIT_MASK] + unit * config[K_WORDS]
        closed = _forbidden_bank(config, plan, now, mask, CLOSED) < 0
        error = E_NONE
        if owed > POSTPONED and not (legal and closed):
            error = E_LATE
        elif at_point and not closed:
            error = E_POINT
        if error:
            _fail(register, error, -1, tick, target)
            return False
        if at_point or (legal and closed):
            _queue(register, queue, target, absent, due)
            return True
        may_close = legal and _forbidden_bank(config, plan, now, mask, CLOSED | OPEN) < 0
        if config[K_POLICY] == CLOSE_REOPEN and may_close and owed >= config[K_OWED]:
            together = config[K_CLOSED_UNITS]
            close = config[K_CLOSE_ALL] + unit // together * config[K_CLOSE_ALL_STEP]
            _queue(register, queue, close, absent, zero)
            first = unit // together * together
            for i in range(POSTPONED + 1):  # what all units that this closes owe, in turn
                for u in range(first, first + together):
                    bound = now[T_DUE + u] + i * interval
                    if bound <= tick:
                        _queue(register, queue, config[K_REFRESH] + u * config[K_REFRESH_STEP], absent, bound)
            return _queue_reopening(config, plan, now, register, bank, queue, close)
    return True


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True, _nrt=False)
def _free(config, now, number):
    """Tick at which the stream's next command could issue if no rule bound it."""
    bound = now[config[K_FENCES] + F_WIDTH * number + F_BOUND]
    return max(max(now[T_PREVIOUS], bound), max(now[T_BUS], now[T_COLUMN_BUS]))


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _same_state(config, clamp, now, bank, saved, level):
    """Does the state equal the one saved for a loop, ticks taken relative to now?"""
    then = saved[level, T_PREVIOUS]
    shift = now[T_PREVIOUS] - then
    if shift % config[K_TICKS]:
        return False
    if config[K_POLICY] != NONE:
        for i in range(T_DUE, T_DUE + config[K_UNITS]):
            if now[i] - shift != saved[level, i]:
                return False
    last = config[K_LAST]
    for i in range(len(clamp)):
        floor = then - clamp[i]
        if max(now[last + i] - shift, floor) != max(saved[level, last + i], floor):
            return False
    fences = config[K_FENCES]
    for i in (T_BUS, T_COLUMN_BUS, fences + F_BOUND):
        if max(now[i] - shift, then) != max(saved[level, i], then):
            return False
    floor = then - config[K_PLUS]  # what the longest fence can still see
    for i in range(fences, fences + F_BOUND):
        if max(now[i] - shift, floor) != max(saved[level, i], floor):
            return False
    for i in range(T_DUE + config[K_UNITS], fences):  # rows still closing
        if max(now[i] - shift, then) != max(saved[level, i], then):
            return False
    for i in range(config[K_WORD], config[K_STAT]):
        if now[i] != saved[level, i]:
            return False
    return config[K_POLICY] != CLOSE_REOPEN or _same_openers(config, now, bank, saved, level)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _same_openers(config, now, bank, saved, level):
    """Would the open rows be reopened by the same commands in the same order?"""
    n, tail = config[K_BANKS], len(now)
    for a in range(n):
        if _is_open(config, now, a):
            if bank[a, B_OPENER] != saved[level, tail + n + a]:
                return False
            for b in range(n):
                order = bank[a, B_SEQUENCE] - bank[b, B_SEQUENCE]
                before = saved[level, tail + 2 * n + a] - saved[level, tail + 2 * n + b]
                differs = (order > 0) != (before > 0) or (order < 0) != (before < 0)
                if differs and _is_open(config, now, b):
                    return False
    return True


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _skip_periods(config, clamp, now, register, bank, brent, saved, level, iteration, total, wanted):
    """Iterations skipped after one has ended, by Brent's cycle detection.

    ``wanted``: recurrences in a row before a jump. A row that a column command checks is an affine
    function of the loop's index, and so is the row opened for it: having agreed in two periods
    that are alike, they agree in all; the first period may still look back to before the loop.
    The open rows advance with the periods. Those of loops counted as one (see `_count`) are no such
    function, so at least one iteration is left, which opens its rows itself.
    """
    replace = False
    skipped = np.int64(0)
    if brent[level, D_SAVED] < 0:
        replace = iteration > brent[level, D_POWER]
        brent[level, D_POWER] = max(brent[level, D_POWER], 1)
    elif _same_state(config, clamp, now, bank, saved, level):
        period = iteration - brent[level, D_SAVED]
        again = period == brent[level, D_PERIOD]
        brent[level, D_MATCHES] = brent[level, D_MATCHES] + 1 if again else 1
        brent[level, D_PERIOD] = period
        periods = (total - iteration - 1) // period
        replace = brent[level, D_MATCHES] < wanted or periods == 0
        if not replace:
            shift = (now[T_PREVIOUS] - saved[level, T_PREVIOUS]) * periods
            for i in range(len(now)):
                if i < config[K_WORD] or i >= config[K_LAST]:
                    now[i] += shift
                elif i >= config[K_STAT]:
                    now[i] += (now[i] - saved[level, i]) * periods
            if config[K_ROWS]:
                for b in range(config[K_BANKS]):
                    bank[b, B_ROW] += (bank[b, B_ROW] - saved[level, len(now) + b]) * periods
            register[R_MIN_DUE] += shift
            register[R_JUMPED] += periods
            # what is left is at most a period
            brent[level, D_SAVED], brent[level, D_POWER] = -1, total
            skipped = periods * period
    elif iteration - brent[level, D_SAVED] >= brent[level, D_POWER]:
        brent[level, D_POWER] *= 2
        brent[level, D_MATCHES] = brent[level, D_PERIOD] = 0
        replace = True
    if replace:
        brent[level, D_SAVED] = iteration
        for i in range(len(now)):
            saved[level, i] = now[i]
        n, tail = config[K_BANKS], len(now)
        if config[K_ROWS]:
            for b in range(n):
                saved[level, tail + b] = bank[b, B_ROW]
        if config[K_POLICY] == CLOSE_REOPEN:
            for b in range(n):
                saved[level, tail + n + b] = bank[b, B_OPENER]
                saved[level, tail + 2 * n + b] = bank[b, B_SEQUENCE]
    return skipped


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True, _nrt=False)
def _count(op, digit, stream, number, loop, step):
    """Add to a loop's counter, digit by digit."""
    for i in range(op[loop, O_B] - 1, op[loop, O_A] - 1, -1):
        value = stream[number, P_INDEX + digit[i, 0]] + step
        step = np.int64(0)
        if value >= digit[i, 1]:
            step = value // digit[i, 1]
            value -= step * digit[i, 1]
        stream[number, P_INDEX + digit[i, 0]] = value
        if not step:
            return


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _repeat(config, plan, now, register, target, times):
    """Issue the command just issued ``times`` more, as long as nothing can come between; how often.

    No bank changes its state, and nothing else issues. With K_RUNS in one step: each issue then
    follows the one before at the distance the command keeps from itself.
    """
    cycles, bus = plan[target + G_CYCLES], T_BUS + plan[target + G_BUS]
    limit = np.int64(FAR)  # from here on a refresh may come between
    if config[K_POLICY] != NONE and config[K_POLICY] != DECLARED:
        legal = _refresh_legal(config, plan, now)
        for unit in range(config[K_UNITS]):
            mask = config[K_UNIT_MASK] + unit * config[K_WORDS]
            closed = _forbidden_bank(config, plan, now, mask, CLOSED) < 0
            late = 0 if legal and closed else (config[K_OWED] - 1) * config[K_INTERVAL]
            limit = min(limit, now[T_DUE + unit] + late)
    first, zero, done = now[T_PREVIOUS], np.int64(0), np.int64(0)
    causes, edge = config[K_CAUSES], plan[target + G_EDGE]
    write = target + plan[target + G_WRITE]
    write_end = write + 2 * plan[target + G_WRITES]
    if config[K_RUNS]:
        tick, cause, base = _earliest(config, plan, now, target, zero, zero)
        gap = tick - first
        done = min(times, max(zero, (limit - 1 - first) // gap))
        if gap > cycles:
            now[causes + cause] += done * (gap - cycles)
        now[T_PREVIOUS] += done * gap
        for i in range(write, write_end, 2):
            now[plan[i]] = now[T_PREVIOUS]
    else:
        read = target + plan[target + G_READ]
        read_end = read + 3 * plan[target + G_READS]
        previous = first
        while done < times:
            base = previous + cycles
            tick, cause = base, np.int64(-1)
            for i in range(read, read_end, 3):
                ready = now[plan[i]] + plan[i + 1]
                if ready > tick:
                    tick, cause = ready, plan[i + 2]
            if edge and not tick & 1:
                tick += 1
                if cause < 0:
                    cause = config[K_RULES] + EDGE
            if tick >= limit:
                break
            if tick > base:
                now[causes + cause] += tick - base
            for i in range(write, write_end, 2):
                now[plan[i]] = tick
            previous = tick
            done += 1
        now[T_PREVIOUS] = previous
    now[bus] = now[T_PREVIOUS] + cycles
    now[config[K_STAT] + S_COMMANDS + plan[target + G_COMMAND]] += done
    now[config[K_STAT] + S_BUSY] += done * cycles
    now[config[K_PHASES] + register[R_PHASE]] += now[T_PREVIOUS] - first
    return done


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _fork(config, op, now, register, stream, pc):
    """Start the streams of a FORK."""
    start, fences = op[pc, O_A], config[K_FENCES]
    register[R_FORKED] = op[pc, O_B]
    for s in range(1, op[pc, O_B] + 1):
        for i in range(stream.shape[1]):
            stream[s, i] = stream[0, i]
        for i in range(F_WIDTH):
            now[fences + F_WIDTH * s + i] = now[fences + i]
        stream[s, P_PC], stream[s, P_REPEAT] = start, 0
        while op[start, O_KIND] != STREAM_END:
            start += 1
        start += 1


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _join(config, op, now, register, stream):
    """End the streams: what any of them waits for, the program waits for."""
    fences = config[K_FENCES]
    for s in range(1, register[R_FORKED] + 1):
        f = fences + F_WIDTH * s
        if now[f + F_BOUND] > now[fences + F_BOUND]:
            stream[0, P_CAUSE] = stream[s, P_CAUSE]
        for i in range(F_WIDTH):
            now[fences + i] = max(now[fences + i], now[f + i])
    register[R_FORKED] = 0
    stream[0, P_PC] = op[stream[0, P_PC], O_C]


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _next_stream(config, op, term, plan, now, register, stream):
    """The stream to go on with: the first that has no command next (it takes no time), else the one
    whose command can issue first; 0 if all have ended."""
    chosen, soonest = np.int64(0), np.int64(FAR)
    for s in range(1, register[R_FORKED] + 1):
        pc = stream[s, P_PC]
        if op[pc, O_KIND] == STREAM_END:
            continue
        if op[pc, O_KIND] != ISSUE or op[pc, O_REPEAT] == 0:
            return np.int64(s)
        target = op[pc, O_TARGET] + stream[s, P_REPEAT] * op[pc, O_TARGET_STEP]
        target += _terms(op, term, stream, pc, s, O_TARGET_TERMS)
        bound = now[config[K_FENCES] + F_WIDTH * s + F_BOUND]
        tick = _earliest(config, plan, now, target, bound, stream[s, P_CAUSE])[0]
        if tick < soonest:
            chosen, soonest = np.int64(s), tick
    return chosen


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def execute(tb, st):
    """Run until the program ends (DONE), the log is full, the budget is used up or a command fails.

    All state is in ``st``: call again to go on after LOG_FULL (with a longer log) or PAUSED.
    """
    config, op, term, digit, plan, clamp, host = tb
    now, register, stream, bank, queue, brent, saved, depart, log = st
    policy, rules, rows = config[K_POLICY], config[K_RULES], config[K_ROWS]
    fences, word, stat = config[K_FENCES], config[K_WORD], config[K_STAT]
    causes, phases = config[K_CAUSES], config[K_PHASES]
    while True:
        # 1. the next command: of a refresh, of a stream, of the program, of the host
        number, source, check, kind = np.int64(0), PROGRAM, False, np.int64(-1)
        row, column = np.int64(ABSENT), np.int64(ABSENT)
        repetition, pc = np.int64(0), np.int64(0)
        if register[R_QUEUE] < register[R_QUEUED]:
            source, n = MAINTENANCE, register[R_QUEUE]
            target, row, bound = queue[n, Q_TARGET], queue[n, Q_ROW], queue[n, Q_BOUND]
            cause = rules + DUE
        else:
            if register[R_FORKED]:
                number = _next_stream(config, op, term, plan, now, register, stream)
                if not number:
                    _join(config, op, now, register, stream)
                    continue
            pc = stream[number, P_PC]
            step = op[pc, O_KIND]
            f = fences + F_WIDTH * number
            bound, cause = now[f + F_BOUND], stream[number, P_CAUSE]
            if step == ISSUE:
                if op[pc, O_REPEAT] == 0:
                    stream[number, P_PC] = pc + 1
                    continue
                repetition = stream[number, P_REPEAT]
                target = op[pc, O_TARGET] + repetition * op[pc, O_TARGET_STEP]
                target += _terms(op, term, stream, pc, number, O_TARGET_TERMS)
                if rows:
                    row = op[pc, O_ROW] + repetition * op[pc, O_ROW_STEP]
                    row += _terms(op, term, stream, pc, number, O_ROW_TERMS)
                    column = op[pc, O_COLUMN] + repetition * op[pc, O_COLUMN_STEP]
                    column += _terms(op, term, stream, pc, number, O_COLUMN_TERMS)
                    check = op[pc, O_CHECK] != 0
            elif step == LOOP_END:
                loop = op[pc, O_A]
                level, total = op[loop, O_D], op[pc, O_B]
                done, skipped = stream[number, config[K_COUNTS] + level] + 1, np.int64(0)
                if op[loop, O_E] and not number and done < total:
                    skipped = _skip_periods(
                        config, clamp, now, register, bank, brent, saved, level, done, total, op[loop, O_E]
                    )
                    done += skipped
                stream[number, config[K_COUNTS] + level] = done
                stream[number, P_PC] = pc + 1
                if done < total:
                    _count(op, digit, stream, number, loop, skipped + 1)
                    stream[number, P_PC] = loop + 1
                register[R_BUDGET] -= 1
                if register[R_BUDGET] < 0:
                    return PAUSED
                continue
            elif step == LOOP:
                stream[number, P_PC] = pc + 1
                level = op[pc, O_D]
                stream[number, config[K_COUNTS] + level] = 0
                for i in range(op[pc, O_A], op[pc, O_B]):
                    stream[number, P_INDEX + digit[i, 0]] = 0
                    if digit[i, 1] == 0:
                        stream[number, P_PC] = op[pc, O_C]
                if op[pc, O_E] and not number:
                    brent[level, D_SAVED], brent[level, D_POWER] = -1, 0
                    brent[level, D_MATCHES], brent[level, D_PERIOD] = 0, 0
                continue
            elif step == SERVE:
                # requests in order, rows left open, until the quantum or the arrivals end
                n, quantum = register[R_HOST], register[R_QUANTUM]
                served = n == len(host) or quantum == 0
                if not served and quantum != ALL:
                    served = host[n, H_ARRIVAL] > _free(config, now, number)
                if served:
                    stream[number, P_PC] = pc + 1
                    continue
                source, kind = HOST, host[n, H_WRITE]
                if host[n, H_ARRIVAL] > bound:
                    bound, cause = host[n, H_ARRIVAL], rules + ARRIVAL
                b = host[n, H_BANK]
                if not _is_open(config, now, b):
                    target, row = config[K_OPEN] + b * config[K_OPEN_STEP], host[n, H_ROW]
                elif bank[b, B_ROW] != host[n, H_ROW]:
                    target = config[K_CLOSE] + b * config[K_CLOSE_STEP]
                else:
                    target = config[K_READ] + b * config[K_READ_STEP]
                    if kind:
                        target = config[K_WRITE] + b * config[K_WRITE_STEP]
                    row, column = host[n, H_ROW], host[n, H_COLUMN]
            elif step == HALT:
                return DONE
            else:
                stream[number, P_PC] = pc + 1
                if step == FENCE:
                    until = now[f + op[pc, O_A]] + op[pc, O_B]
                    if until > bound:
                        now[f + F_BOUND], stream[number, P_CAUSE] = until, rules + FENCED
                elif step == WAIT:
                    if op[pc, O_A]:
                        now[f + F_BOUND] = _free(config, now, number) + op[pc, O_A]
                        stream[number, P_CAUSE] = rules + WAITED
                elif step == UNTIL:
                    target = op[pc, O_TARGET] + _terms(op, term, stream, pc, number, O_TARGET_TERMS)
                    tick, cause, base = _earliest(config, plan, now, target, bound, cause)
                    if tick > base and tick > bound:
                        now[f + F_BOUND], stream[number, P_CAUSE] = tick, cause
                elif step == PHASE:
                    register[R_PHASE] = op[pc, O_A]
                elif step == FORK:
                    stream[number, P_PC] = pc
                    _fork(config, op, now, register, stream, pc)
                elif step == YIELD:
                    n = register[R_HOST]
                    serve = op[pc, O_A] == ALL
                    if not serve and config[K_HOST_FIRST] and n < len(host):
                        serve = host[n, H_ARRIVAL] <= _free(config, now, number)
                    if serve and n < len(host):
                        register[R_RETURN], register[R_QUANTUM] = pc + 1, op[pc, O_A]
                        stream[number, P_PC] = config[K_ENTER]
                elif step == RETURN:
                    stream[number, P_PC] = register[R_RETURN]
                elif step == REFRESH and policy == DECLARED:
                    free = _free(config, now, number)
                    if free >= register[R_MIN_DUE]:
                        stream[number, P_PC] = pc
                        if not _queue_refreshes(config, plan, now, register, bank, queue, free, True):
                            return FAILED
                continue

        # 2. its tick, unless a refresh goes first
        tick, cause, base = _earliest(config, plan, now, target, bound, cause)
        if tick >= register[R_MIN_DUE] and source != MAINTENANCE and policy != DECLARED:
            if not _queue_refreshes(config, plan, now, register, bank, queue, tick, False):
                return FAILED
            if register[R_QUEUED]:
                continue

        # 3. may it?
        error, where = E_NONE, np.int64(-1)
        if plan[target + G_NEEDS]:
            mask = target + plan[target + G_MASK]
            where = _forbidden_bank(config, plan, now, mask, plan[target + G_NEEDS])
            if where >= 0:
                error = E_STATE
        if plan[target + G_MODES] and not plan[target + G_MODES] >> now[word + W_MODE] & 1:
            error, where = E_MODE, np.int64(-1)
        first_bank = target + plan[target + G_BANK]
        if check:
            for i in range(first_bank, first_bank + plan[target + G_BANKS]):
                if not error and bank[plan[i], B_ROW] != row:
                    error, where = E_ROW, plan[i]
        if error:
            _fail(register, error, where, tick, target)
            register[R_ERROR_STREAM] = number
            return FAILED
        if config[K_LOG]:
            n = register[R_LOG]
            if n == len(log):
                return LOG_FULL
            register[R_LOG] = n + 1
            log[n, 0], log[n, 1], log[n, 2] = tick, plan[target + G_COMMAND], plan[target + G_UNIT]
            log[n, 3], log[n, 4], log[n, 5] = max(row, -1), max(column, -1), kind
            if row < 0 and plan[target + G_ON_ROW]:
                log[n, 3] = bank[plan[first_bank], B_ROW]

        # 4. issue: slots, buses, completion, counters, states
        at = target + plan[target + G_WRITE]
        for i in range(at, at + 2 * plan[target + G_WRITES], 2):
            for w in range(plan[i] + plan[i + 1] - 1, plan[i], -1):
                now[w] = now[w - 1]
            now[plan[i]] = tick
        now[stat + S_COMMANDS + plan[target + G_COMMAND]] += 1
        now[stat + S_BUSY] += base - now[T_PREVIOUS]
        if tick > base:
            now[causes + cause] += tick - base
        now[phases + register[R_PHASE]] += tick - now[T_PREVIOUS]
        now[T_PREVIOUS] = tick
        now[T_BUS + plan[target + G_BUS]] = tick + plan[target + G_CYCLES]
        complete = tick + plan[target + G_LATENCY]
        f = fences + F_WIDTH * number
        now[f + F_ALL] = max(now[f + F_ALL], complete)
        if plan[target + G_DATA]:
            now[f + F_DATA] = max(now[f + F_DATA], complete)
            if plan[target + G_DATA] == READS:
                now[f + F_READS] = max(now[f + F_READS], complete)
        if plan[target + G_ENTERS] >= 0:
            now[word + W_MODE] = plan[target + G_ENTERS]
        if plan[target + G_LEAVES]:
            _change(config, plan, now, target, tick)
            if rows and plan[target + G_LEAVES] != CLOSED:
                register[R_SEQUENCE] += 1
                for i in range(first_bank, first_bank + plan[target + G_BANKS]):
                    if row >= 0:
                        bank[plan[i], B_ROW] = row
                    bank[plan[i], B_OPENER] = target
                    bank[plan[i], B_SEQUENCE] = register[R_SEQUENCE]

        # 5. go on in its source
        if source == PROGRAM:
            repetition += 1
            times = op[pc, O_REPEAT]
            if op[pc, O_RUN] and repetition + 1 < times and not number:
                # all but the last, which is issued as above for what comes after it
                repetition += _repeat(config, plan, now, register, target, times - repetition - 1)
            stream[number, P_REPEAT] = repetition
            if repetition == times:
                stream[number, P_REPEAT] = 0
                stream[number, P_PC] = pc + 1
                register[R_BUDGET] -= times
                if register[R_BUDGET] < 0:
                    return PAUSED
        elif source == MAINTENANCE:
            register[R_QUEUE] += 1
            if register[R_QUEUE] == register[R_QUEUED]:
                register[R_QUEUE] = register[R_QUEUED] = 0
            if plan[target + G_COMMAND] == plan[config[K_REFRESH] + G_COMMAND]:
                now[stat + S_REFRESHES] += 1
                now[T_DUE + plan[target + G_UNIT]] += config[K_INTERVAL]
                due = now[T_DUE]
                for unit in range(1, config[K_UNITS]):
                    due = min(due, now[T_DUE + unit])
                register[R_MIN_DUE] = due
        elif plan[target + G_DATA]:
            n = register[R_HOST]
            depart[n] = complete
            register[R_HOST] = n + 1
            if register[R_QUANTUM] > 0:
                register[R_QUANTUM] -= 1
