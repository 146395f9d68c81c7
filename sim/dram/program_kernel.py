"""Kernel that executes a flattened command program on one channel.

Every command reads the last issues of the commands it must keep a distance from, as precomputed
(slot, gap) pairs, and writes its own slots: constant time per command. State is int64 arrays:

* ``last``: tick of the latest issue per slot (a slot: a command at a node; a window of n takes n),
* ``time``: other absolute ticks (previous issue, buses, refresh due times, fences),
* ``word``: everything else that decides the future (bank state bit masks, mode),
* ``stat``: counters that only grow.

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
WORD_BITS = 62

# kinds of operations
(ISSUE, LOOP, LOOP_END, FENCE, WAIT, UNTIL, FORK, STREAM_END, REFRESH, YIELD, SERVE, RETURN, PHASE,
 HALT) = range(14)  # fmt: skip

# columns of an operation
(O_KIND, O_COMMAND, O_UNIT, O_UNIT_STEP, O_ROW, O_ROW_STEP, O_COLUMN, O_COLUMN_STEP, O_REPEAT, O_CHECK,
 O_TERMS, O_RUN, O_A, O_B, O_C, O_D, O_WIDTH) = range(17)  # fmt: skip
# ISSUE, UNTIL: command; unit = O_UNIT + terms + O_UNIT_STEP * repetition, row and column alike, a
#   negative step for those not given; O_CHECK: its row must be the open one; O_TERMS: the first of
#   its three entries in ``term_start``; O_RUN: its repetitions are alike but for row and column
# LOOP: O_A..O_B: digits of its counter in ``digit``; O_C: operation after its end; O_D: its level
# LOOP_END: O_A: the LOOP              FORK: O_A..O_B: streams in ``stream_start``; O_C: the next
# FENCE: O_A: what it waits for; O_B: plus             WAIT: O_A: cycles
# YIELD: O_A: most requests to serve, ALL or ARRIVED   PHASE: O_A: its number
ABSENT = -(1 << 40)
ARRIVED, ALL = -1, -2

# columns of a command
(C_BUS, C_CYCLES, C_LATENCY, C_NEEDS, C_LEAVES, C_MODES, C_ENTERS, C_DATA, C_ROW_HIT, C_EDGE, C_FIRST,
 C_WIDTH) = range(12)  # fmt: skip
CLOSED, ACTIVATING, OPEN = 1, 2, 4  # bits of C_NEEDS; C_LEAVES is one of them or 0
READS, WRITES = 1, 2  # C_DATA
# targets of a command (its units) are numbered from C_FIRST on

# time
T_PREVIOUS, T_BUS, T_COLUMN_BUS, T_DUE = range(4)
# T_DUE + r: refresh unit r is due; then the ticks since which unit r has an open bank; then, from
# K_STREAMS on, for each stream: when its reads, its data and all of its commands are complete, and
# the first tick that its fences and waits allow
F_READS, F_DATA, F_ALL, F_BOUND, F_WIDTH = range(5)

# word
W_MODE, W_BANKS = range(2)
# W_BANKS + 2*w: open banks of mask word w; + 1: activating banks

(R_PHASE, R_LOG, R_SEQUENCE, R_MIN_DUE, R_HOST, R_RETURN, R_QUANTUM, R_FORKED, R_BUDGET, R_ERROR,
 R_ERROR_BANK, R_ERROR_TICK, R_ERROR_COMMAND, R_ERROR_STREAM, R_JUMPS, R_JUMPED,
 REGISTERS) = range(17)  # fmt: skip

DONE, PAUSED, LOG_FULL, FAILED = range(4)
E_NONE, E_STATE, E_MODE, E_ROW, E_LATE, E_POINT, E_REOPEN = range(7)

# refresh policies
NONE, ALL_BANK, DECLARED, CLOSE_REOPEN = range(4)
POSTPONED = 8  # JESD79-4 4.24: refreshes that may be owed

# what commands wait for besides the device's rules: causes numbered after the rules
FENCED, WAITED, EDGE, DUE, ARRIVAL, CAUSES = range(6)

(K_BANKS, K_WORDS, K_UNITS, K_STREAMS, K_POLICY, K_INTERVAL, K_REFRESH, K_CLOSE_ALL, K_CLOSE, K_OPEN,
 K_READ, K_WRITE, K_ROWS, K_TICKS, K_PLUS, K_RULES, K_LOG, K_JUMP, K_RUNS, K_HOST_FIRST, K_ENTER,
 CONFIG) = range(22)  # fmt: skip

S_REFRESHES, S_BUSY, S_COMMANDS = range(3)
# then causes, phases, ticks with an open bank of each refresh unit: ``stat_start``

LOG_MARGIN = 16  # rows free before each command, besides one a bank for reopening them

Tables = namedtuple(
    "Tables",
    "config op term_start term_depth term_factor digit stream_start loop_matches command command_of "
    "read_start read_slot read_gap read_cause write_start write_slot write_window self_gap clamp mask "
    "bank_start bank refresh_mask stat_start host_bank host_row host_column host_write host_arrival",
)
"""What does not change; built by `neardata.sim.dram.program_table`."""

State = namedtuple(
    "State",
    "register last time word stat row opener sequence pc repeat cause index count brent saved_last "
    "saved_time saved_word saved_stat saved_opener saved_sequence host_depart log",
)


@njit(cache=True, nogil=True)
def _address(tb, st, op, field, stream):
    """An address field of an operation (0 unit, 1 row, 2 column) in its first repetition."""
    value = tb.op[op, O_UNIT + 2 * field]
    entry = tb.op[op, O_TERMS] + field
    for i in range(tb.term_start[entry], tb.term_start[entry + 1]):
        value += tb.term_factor[i] * st.index[stream, tb.term_depth[i]]
    return value


@njit(cache=True, nogil=True)
def _earliest(tb, st, command, target, bound, bound_cause):
    """First tick at which a command may issue, what it waits for, and when its bus is free."""
    base = max(st.time[T_PREVIOUS], st.time[T_BUS + tb.command[command, C_BUS]])
    tick, cause = base, -1
    if bound > tick:
        tick, cause = bound, bound_cause
    for i in range(tb.read_start[target], tb.read_start[target + 1]):
        ready = st.last[tb.read_slot[i]] + tb.read_gap[i]
        if ready > tick:
            tick, cause = ready, tb.read_cause[i]
    if tb.command[command, C_EDGE] and not tick & 1:
        tick += 1
        if cause < 0:
            cause = tb.config[K_RULES] + EDGE
    return tick, cause, base


@njit(cache=True, nogil=True)
def _commit(tb, st, command, target, tick, cause, base, stream):
    """Issue a legal command: slots, buses, completion, counters."""
    for i in range(tb.write_start[target], tb.write_start[target + 1]):
        slot = tb.write_slot[i]
        for w in range(slot + tb.write_window[i] - 1, slot, -1):
            st.last[w] = st.last[w - 1]
        st.last[slot] = tick
    time, stat = st.time, st.stat
    stat[S_COMMANDS + command] += 1
    stat[S_BUSY] += base - time[T_PREVIOUS]
    if tick > base:
        stat[tb.stat_start[0] + cause] += tick - base
    stat[tb.stat_start[1] + st.register[R_PHASE]] += tick - time[T_PREVIOUS]
    time[T_PREVIOUS] = tick
    time[T_BUS + tb.command[command, C_BUS]] = tick + tb.command[command, C_CYCLES]
    complete = tick + tb.command[command, C_LATENCY]
    f = tb.config[K_STREAMS] + F_WIDTH * stream
    if complete > time[f + F_ALL]:
        time[f + F_ALL] = complete
    data = tb.command[command, C_DATA]
    if data:
        if complete > time[f + F_DATA]:
            time[f + F_DATA] = complete
        if data == READS and complete > time[f + F_READS]:
            time[f + F_READS] = complete


@njit(cache=True, nogil=True)
def _fail(st, error, bank, tick, command):
    st.register[R_ERROR] = error
    st.register[R_ERROR_BANK] = bank
    st.register[R_ERROR_TICK] = tick
    st.register[R_ERROR_COMMAND] = command


@njit(cache=True, nogil=True)
def _allowed(tb, st, command, target, tick):
    """Do the banks' states and the mode allow the command? Records the failure if not."""
    needs = tb.command[command, C_NEEDS]
    if needs != CLOSED | ACTIVATING | OPEN:
        for w in range(tb.config[K_WORDS]):
            mask = tb.mask[target, w]
            is_open = st.word[W_BANKS + 2 * w] & mask
            activating = st.word[W_BANKS + 2 * w + 1] & mask
            wrong = np.int64(0)
            if not needs & OPEN:
                wrong |= is_open
            if not needs & ACTIVATING:
                wrong |= activating
            if not needs & CLOSED:
                wrong |= mask & ~(is_open | activating)
            if wrong:
                bank = w * WORD_BITS
                while not wrong & 1:
                    wrong >>= 1
                    bank += 1
                _fail(st, E_STATE, bank, tick, command)
                return False
    modes = tb.command[command, C_MODES]
    if modes and not modes >> st.word[W_MODE] & 1:
        _fail(st, E_MODE, -1, tick, command)
        return False
    return True


@njit(cache=True, nogil=True)
def _change(tb, st, command, target, tick, row):
    """New bank states, rows and mode after a command."""
    if tb.command[command, C_ENTERS] >= 0:
        st.word[W_MODE] = tb.command[command, C_ENTERS]
    leaves = tb.command[command, C_LEAVES]
    if not leaves:
        return
    words, units = tb.config[K_WORDS], tb.config[K_UNITS]
    since = T_DUE + units
    for unit in range(units):
        was_open, is_open = False, False
        for w in range(words):
            before = st.word[W_BANKS + 2 * w] | st.word[W_BANKS + 2 * w + 1]
            after = before & ~tb.mask[target, w] if leaves == CLOSED else before | tb.mask[target, w]
            was_open |= (before & tb.refresh_mask[unit, w]) != 0
            is_open |= (after & tb.refresh_mask[unit, w]) != 0
        if is_open and not was_open:
            st.time[since + unit] = tick
        elif was_open and not is_open:
            st.stat[tb.stat_start[2] + unit] += tick - st.time[since + unit]
    for w in range(words):
        mask = tb.mask[target, w]
        st.word[W_BANKS + 2 * w] &= ~mask
        st.word[W_BANKS + 2 * w + 1] &= ~mask
        if leaves == OPEN:
            st.word[W_BANKS + 2 * w] |= mask
        elif leaves == ACTIVATING:
            st.word[W_BANKS + 2 * w + 1] |= mask
    if leaves != CLOSED and tb.config[K_ROWS]:
        st.register[R_SEQUENCE] += 1
        for i in range(tb.bank_start[target], tb.bank_start[target + 1]):
            bank = tb.bank[i]
            if row >= 0:
                st.row[bank] = row
            st.opener[bank] = target
            st.sequence[bank] = st.register[R_SEQUENCE]


@njit(cache=True, nogil=True)
def _log(tb, st, command, target, tick, row, column, kind):
    n = st.register[R_LOG]
    if row < 0 and tb.command[command, C_ROW_HIT]:
        row = st.row[tb.bank[tb.bank_start[target]]]
    st.log[n, 0], st.log[n, 1], st.log[n, 2] = tick, command, target - tb.command[command, C_FIRST]
    st.log[n, 3], st.log[n, 4], st.log[n, 5] = max(row, -1), max(column, -1), kind
    st.register[R_LOG] = n + 1


@njit(cache=True, nogil=True)
def _maintain(tb, st, command, target, row, bound):
    """Issue a command that refreshing takes; False if it is not allowed."""
    tick, cause, base = _earliest(tb, st, command, target, bound, tb.config[K_RULES] + DUE)
    if not _allowed(tb, st, command, target, tick):
        return False
    if tb.config[K_LOG]:
        _log(tb, st, command, target, tick, row, -1, -1)
    _commit(tb, st, command, target, tick, cause, base, 0)
    _change(tb, st, command, target, tick, row)
    return True


@njit(cache=True, nogil=True)
def _any_open(tb, st, unit, activating_only):
    for w in range(tb.config[K_WORDS]):
        banks = st.word[W_BANKS + 2 * w + 1]
        if not activating_only:
            banks |= st.word[W_BANKS + 2 * w]
        if banks & tb.refresh_mask[unit, w]:
            return True
    return False


@njit(cache=True, nogil=True)
def _refresh_legal(tb, st):
    modes = tb.command[tb.config[K_REFRESH], C_MODES]
    return not modes or (modes >> st.word[W_MODE] & 1) == 1


@njit(cache=True, nogil=True)
def _next_due(tb, st):
    due = FAR
    for unit in range(tb.config[K_UNITS]):
        due = min(due, st.time[T_DUE + unit])
    st.register[R_MIN_DUE] = due


@njit(cache=True, nogil=True)
def _refresh_unit(tb, st, unit):
    """One refresh of a unit; False if it is not allowed."""
    command = tb.config[K_REFRESH]
    if not _maintain(tb, st, command, tb.command[command, C_FIRST] + unit, -1, st.time[T_DUE + unit]):
        return False
    st.stat[S_REFRESHES] += 1
    st.time[T_DUE + unit] += tb.config[K_INTERVAL]
    _next_due(tb, st)
    return True


@njit(cache=True, nogil=True)
def _close_refresh_reopen(tb, st, unit, owed):
    """Close the unit's banks, do its owed refreshes, reopen the rows; False if not allowed."""
    config = tb.config
    opener, sequence = st.opener.copy(), st.sequence.copy()
    waiting = np.zeros(config[K_BANKS], dtype=np.bool_)
    for bank in range(config[K_BANKS]):
        w = bank // WORD_BITS
        bits = st.word[W_BANKS + 2 * w] & tb.refresh_mask[unit, w]
        waiting[bank] = (bits >> (bank - w * WORD_BITS) & 1) == 1
    close = config[K_CLOSE_ALL]
    if not _maintain(tb, st, close, tb.command[close, C_FIRST] + unit, -1, 0):
        return False
    for _ in range(owed):
        if not _refresh_unit(tb, st, unit):
            return False
    while True:
        first = -1  # the bank opened earliest
        for bank in range(config[K_BANKS]):
            if waiting[bank] and (first < 0 or sequence[bank] < sequence[first]):
                first = bank
        if first < 0:
            return True
        target = opener[first]
        whole = True
        for i in range(tb.bank_start[target], tb.bank_start[target + 1]):
            whole &= waiting[tb.bank[i]] and sequence[tb.bank[i]] == sequence[first]
        if not whole:  # some of the banks it opened have been closed since: one bank at a time
            if config[K_OPEN] < 0:
                _fail(st, E_REOPEN, first, st.time[T_PREVIOUS], close)
                return False
            target = tb.command[config[K_OPEN], C_FIRST] + first
        if not _maintain(tb, st, tb.command_of[target], target, st.row[first], 0):
            return False
        for i in range(tb.bank_start[target], tb.bank_start[target + 1]):
            waiting[tb.bank[i]] = False


@njit(cache=True, nogil=True)
def _refresh_before(tb, st, tick):
    """Refresh what is due by ``tick`` and may be: 1 if a unit was, 0 if none, -1 on failure."""
    config = tb.config
    legal = _refresh_legal(tb, st)
    for unit in range(config[K_UNITS]):
        due = st.time[T_DUE + unit]
        if due > tick:
            continue
        if legal and not _any_open(tb, st, unit, False):
            return 1 if _refresh_unit(tb, st, unit) else -1
        owed = (tick - due) // config[K_INTERVAL] + 1
        may_close = config[K_POLICY] == CLOSE_REOPEN and legal and not _any_open(tb, st, unit, True)
        if may_close and owed >= POSTPONED:
            return 1 if _close_refresh_reopen(tb, st, unit, owed) else -1
        if owed > POSTPONED:
            _fail(st, E_LATE, -1, tick, config[K_REFRESH])
            return -1
    return 0


@njit(cache=True, nogil=True)
def _issue(tb, st, command, target, row, column, check, kind, bound, bound_cause, stream):
    """Refreshes that come before the command, then the command; its tick, or -1 on failure."""
    while True:
        tick, cause, base = _earliest(tb, st, command, target, bound, bound_cause)
        if tick < st.register[R_MIN_DUE] or tb.config[K_POLICY] == DECLARED:
            break
        refreshed = _refresh_before(tb, st, tick)
        if refreshed < 0:
            return -1
        if not refreshed:
            break
    if not _allowed(tb, st, command, target, tick):
        return -1
    if check:
        for i in range(tb.bank_start[target], tb.bank_start[target + 1]):
            if st.row[tb.bank[i]] != row:
                _fail(st, E_ROW, tb.bank[i], tick, command)
                return -1
    if tb.config[K_LOG]:
        _log(tb, st, command, target, tick, row, column, kind)
    _commit(tb, st, command, target, tick, cause, base, stream)
    if tb.command[command, C_LEAVES] or tb.command[command, C_ENTERS] >= 0:
        _change(tb, st, command, target, tick, row)
    return tick


@njit(cache=True, nogil=True)
def _run(tb, st, command, target, times):
    """Issue the command just issued ``times`` more if nothing can come between; was it done?

    No state changes, and nothing else issues: each follows the one before at the distance the
    command keeps from itself.
    """
    config, time, stat = tb.config, st.time, st.stat
    cycles = tb.command[command, C_CYCLES]
    gap = max(tb.self_gap[target], cycles)
    if tb.command[command, C_EDGE]:
        gap += gap & 1
    first = time[T_PREVIOUS]
    end = first + gap * times
    if end >= st.register[R_MIN_DUE] and config[K_POLICY] != DECLARED:
        legal = _refresh_legal(tb, st)
        for unit in range(config[K_UNITS]):
            if legal and not _any_open(tb, st, unit, False):
                return False
            if end >= time[T_DUE + unit] + (POSTPONED - 1) * config[K_INTERVAL]:
                return False
    if times > 1:  # all but the last at once
        tick, cause, base = _earliest(tb, st, command, target, 0, -1)
        skipped = times - 1
        stat[S_COMMANDS + command] += skipped
        stat[S_BUSY] += skipped * cycles
        if gap > cycles:
            stat[tb.stat_start[0] + cause] += skipped * (gap - cycles)
        stat[tb.stat_start[1] + st.register[R_PHASE]] += skipped * gap
        previous = first + gap * skipped
        time[T_PREVIOUS] = previous
        time[T_BUS + tb.command[command, C_BUS]] = previous + cycles
        for i in range(tb.write_start[target], tb.write_start[target + 1]):
            st.last[tb.write_slot[i]] = previous
    tick, cause, base = _earliest(tb, st, command, target, 0, -1)
    _commit(tb, st, command, target, tick, cause, base, 0)
    return True


@njit(cache=True, nogil=True)
def _free(tb, st, stream):
    """Tick at which the stream's next command could issue if no rule bound it."""
    bound = st.time[tb.config[K_STREAMS] + F_WIDTH * stream + F_BOUND]
    return max(max(st.time[T_PREVIOUS], bound), max(st.time[T_BUS], st.time[T_COLUMN_BUS]))


# brent: iteration of the saved state (-1: none), iterations after which it is replaced, recurrences
# in a row, their period
B_SAVED, B_POWER, B_MATCHES, B_PERIOD, B_WIDTH = range(5)


@njit(cache=True, nogil=True)
def _same_state(tb, st, level):
    """Does the state equal the one saved for this loop, ticks taken relative to now?"""
    config, time, saved = tb.config, st.time, st.saved_time[level]
    now, then = time[T_PREVIOUS], saved[T_PREVIOUS]
    if (now - then) % config[K_TICKS]:
        return False
    if config[K_POLICY] != NONE:
        for i in range(T_DUE, T_DUE + config[K_UNITS]):
            if time[i] - now != saved[i] - then:
                return False
    for i in range(len(st.last)):
        floor = -tb.clamp[i]
        if max(st.last[i] - now, floor) != max(st.saved_last[level, i] - then, floor):
            return False
    for i in range(T_BUS, T_DUE):
        if max(time[i] - now, 0) != max(saved[i] - then, 0):
            return False
    f = config[K_STREAMS]
    if max(time[f + F_BOUND] - now, 0) != max(saved[f + F_BOUND] - then, 0):
        return False
    for i in range(f, f + F_BOUND):
        floor = -config[K_PLUS]  # what the longest fence can still see
        if max(time[i] - now, floor) != max(saved[i] - then, floor):
            return False
    for i in range(len(st.word)):
        if st.word[i] != st.saved_word[level, i]:
            return False
    return config[K_POLICY] != CLOSE_REOPEN or _same_openers(tb, st, level)


@njit(cache=True, nogil=True)
def _same_openers(tb, st, level):
    """Would the open rows be reopened by the same commands in the same order?"""
    for bank in range(tb.config[K_BANKS]):
        w = bank // WORD_BITS
        if not st.word[W_BANKS + 2 * w] >> (bank - w * WORD_BITS) & 1:
            continue
        if st.opener[bank] != st.saved_opener[level, bank]:
            return False
        for other in range(tb.config[K_BANKS]):
            w = other // WORD_BITS
            if st.word[W_BANKS + 2 * w] >> (other - w * WORD_BITS) & 1:
                order = np.sign(st.sequence[bank] - st.sequence[other])
                saved = np.sign(st.saved_sequence[level, bank] - st.saved_sequence[level, other])
                if order != saved:
                    return False
    return True


@njit(cache=True, nogil=True)
def _save(tb, st, level, iteration):
    st.saved_last[level, :] = st.last
    st.saved_time[level, :] = st.time
    st.saved_word[level, :] = st.word
    st.saved_stat[level, :] = st.stat
    if tb.config[K_POLICY] == CLOSE_REOPEN:
        st.saved_opener[level, :] = st.opener
        st.saved_sequence[level, :] = st.sequence
    st.brent[level, B_SAVED] = iteration


@njit(cache=True, nogil=True)
def _skip_periods(tb, st, level, iteration, total, wanted):
    """Iterations skipped after one has ended, by Brent's cycle detection.

    ``wanted``: recurrences in a row before a jump. A row that a column command checks is an affine
    function of the loop's index, and so is the row opened for it: having agreed in two periods
    that are alike, they agree in all; the first period may still look back to before the loop.
    """
    brent = st.brent[level]
    if brent[B_SAVED] >= 0 and _same_state(tb, st, level):
        period = iteration - brent[B_SAVED]
        brent[B_MATCHES] = brent[B_MATCHES] + 1 if period == brent[B_PERIOD] else 1
        brent[B_PERIOD] = period
        periods = (total - iteration) // period
        if brent[B_MATCHES] < wanted or periods == 0:
            _save(tb, st, level, iteration)
            return 0
        shift = (st.time[T_PREVIOUS] - st.saved_time[level, T_PREVIOUS]) * periods
        for i in range(len(st.last)):
            st.last[i] += shift
        for i in range(len(st.time)):
            st.time[i] += shift
        for i in range(len(st.stat)):
            st.stat[i] += (st.stat[i] - st.saved_stat[level, i]) * periods
        if tb.config[K_POLICY] != NONE:
            _next_due(tb, st)
        st.register[R_JUMPS] += 1
        st.register[R_JUMPED] += periods
        brent[B_SAVED], brent[B_POWER] = -1, total  # what is left is less than a period
        return periods * period
    if brent[B_SAVED] < 0:
        if iteration > brent[B_POWER]:
            brent[B_POWER] = 1
            _save(tb, st, level, iteration)
    elif iteration - brent[B_SAVED] >= brent[B_POWER]:
        brent[B_POWER] *= 2
        brent[B_MATCHES] = brent[B_PERIOD] = 0
        _save(tb, st, level, iteration)
    return 0


@njit(cache=True, nogil=True)
def _end_iteration(tb, st, stream, pc):
    """The operation after a LOOP_END."""
    loop = tb.op[pc, O_A]
    level = tb.op[loop, O_D]
    total = np.int64(1)
    for i in range(tb.op[loop, O_A], tb.op[loop, O_B]):
        total *= tb.digit[i, 1]
    done = st.count[stream, level] + 1
    step = np.int64(1)
    wanted = tb.loop_matches[loop]
    if wanted and stream == 0 and done < total:
        step += _skip_periods(tb, st, level, done, total, wanted)
    done += step - 1
    st.count[stream, level] = done
    if done >= total:
        return pc + 1
    for i in range(tb.op[loop, O_B] - 1, tb.op[loop, O_A] - 1, -1):
        value = st.index[stream, tb.digit[i, 0]] + step
        step = value // tb.digit[i, 1]
        st.index[stream, tb.digit[i, 0]] = value - step * tb.digit[i, 1]
    return loop + 1


@njit(cache=True, nogil=True)
def _control(tb, st, stream, pc):
    """Execute a loop, phase, fence, wait or until; the next operation."""
    op = tb.op
    kind = op[pc, O_KIND]
    if kind == LOOP_END:
        return _end_iteration(tb, st, stream, pc)
    if kind == LOOP:
        for i in range(op[pc, O_A], op[pc, O_B]):
            if tb.digit[i, 1] == 0:
                return op[pc, O_C]
            st.index[stream, tb.digit[i, 0]] = 0
        st.count[stream, op[pc, O_D]] = 0
        if stream == 0:
            st.brent[op[pc, O_D], B_SAVED] = -1
            st.brent[op[pc, O_D], B_POWER] = 0
            st.brent[op[pc, O_D], B_MATCHES] = 0
    elif kind == PHASE:
        st.register[R_PHASE] = op[pc, O_A]
    else:
        f = tb.config[K_STREAMS] + F_WIDTH * stream
        bound, cause = st.time[f + F_BOUND], st.cause[stream]
        if kind == FENCE:
            until = st.time[f + op[pc, O_A]] + op[pc, O_B]
            if until > bound:
                bound, cause = until, tb.config[K_RULES] + FENCED
        elif kind == WAIT:
            if op[pc, O_A]:
                bound, cause = _free(tb, st, stream) + op[pc, O_A], tb.config[K_RULES] + WAITED
        else:  # UNTIL
            command = op[pc, O_COMMAND]
            target = tb.command[command, C_FIRST] + _address(tb, st, pc, 0, stream)
            tick, waits_for, base = _earliest(tb, st, command, target, bound, cause)
            if tick > base and tick > bound:
                bound, cause = tick, waits_for
        st.time[f + F_BOUND], st.cause[stream] = bound, cause
    return pc + 1


@njit(cache=True, nogil=True)
def _issue_next(tb, st, stream):
    """Issue the next repetition of the stream's ISSUE; DONE or FAILED."""
    op, pc = tb.op, st.pc[stream]
    k = st.repeat[stream]
    command = op[pc, O_COMMAND]
    target = tb.command[command, C_FIRST] + _address(tb, st, pc, 0, stream) + k * op[pc, O_UNIT_STEP]
    row, column = op[pc, O_ROW], op[pc, O_COLUMN]
    if tb.config[K_ROWS]:
        row = _address(tb, st, pc, 1, stream) + k * op[pc, O_ROW_STEP]
        column = _address(tb, st, pc, 2, stream) + k * op[pc, O_COLUMN_STEP]
    bound = st.time[tb.config[K_STREAMS] + F_WIDTH * stream + F_BOUND]
    check = op[pc, O_CHECK]
    if _issue(tb, st, command, target, row, column, check, -1, bound, st.cause[stream], stream) < 0:
        st.register[R_ERROR_STREAM] = stream
        return FAILED
    times = op[pc, O_REPEAT]
    k += 1
    if k == 1 and times > 1 and stream == 0 and op[pc, O_RUN] and tb.config[K_RUNS]:
        if _run(tb, st, command, target, times - 1):
            k = times
    st.register[R_BUDGET] -= 1
    if k == times:
        st.repeat[stream] = 0
        st.pc[stream] = pc + 1
    else:
        st.repeat[stream] = k
    return DONE


@njit(cache=True, nogil=True)
def _log_is_full(tb, st):
    return tb.config[K_LOG] and st.register[R_LOG] + LOG_MARGIN + tb.config[K_BANKS] > len(st.log)


@njit(cache=True, nogil=True)
def _merge_streams(tb, st):
    """The streams of a FORK until all have ended (DONE), or why not."""
    op, register, config = tb.op, st.register, tb.config
    fork = st.pc[0]
    n = op[fork, O_B] - op[fork, O_A]
    if not register[R_FORKED]:
        register[R_FORKED] = 1
        main = config[K_STREAMS]
        for s in range(1, n + 1):
            st.pc[s] = tb.stream_start[op[fork, O_A] + s - 1]
            st.repeat[s] = 0
            st.index[s, :] = st.index[0]
            st.cause[s] = st.cause[0]
            for i in range(F_WIDTH):
                st.time[main + F_WIDTH * s + i] = st.time[main + i]
    while True:
        if _log_is_full(tb, st):
            return LOG_FULL
        chosen, soonest = -1, np.int64(FAR)
        for s in range(1, n + 1):
            pc = st.pc[s]
            while op[pc, O_KIND] != STREAM_END and (op[pc, O_KIND] != ISSUE or op[pc, O_REPEAT] == 0):
                pc = pc + 1 if op[pc, O_KIND] == ISSUE else _control(tb, st, s, pc)
            st.pc[s] = pc
            if op[pc, O_KIND] == STREAM_END:
                continue
            command = op[pc, O_COMMAND]
            target = tb.command[command, C_FIRST] + _address(tb, st, pc, 0, s)
            target += st.repeat[s] * op[pc, O_UNIT_STEP]
            bound = st.time[config[K_STREAMS] + F_WIDTH * s + F_BOUND]
            tick, cause, base = _earliest(tb, st, command, target, bound, st.cause[s])
            if tick < soonest:
                chosen, soonest = s, tick
        if chosen < 0:
            break
        if _issue_next(tb, st, chosen) != DONE:
            return FAILED
    main = config[K_STREAMS]
    for s in range(1, n + 1):
        f = main + F_WIDTH * s
        if st.time[f + F_BOUND] > st.time[main + F_BOUND]:
            st.cause[0] = st.cause[s]
        for i in range(F_WIDTH):
            st.time[main + i] = max(st.time[main + i], st.time[f + i])
    register[R_FORKED] = 0
    st.pc[0] = op[fork, O_C]
    return DONE


@njit(cache=True, nogil=True)
def _refresh_point(tb, st):
    """A declared refresh point: all that is due."""
    if tb.config[K_POLICY] != DECLARED:
        return DONE
    for unit in range(tb.config[K_UNITS]):
        while st.time[T_DUE + unit] <= _free(tb, st, 0):
            free = _free(tb, st, 0)
            if _any_open(tb, st, unit, False):
                _fail(st, E_POINT, unit, free, tb.config[K_REFRESH])
                return FAILED
            if free >= st.time[T_DUE + unit] + POSTPONED * tb.config[K_INTERVAL]:
                _fail(st, E_LATE, -1, free, tb.config[K_REFRESH])
                return FAILED
            if not _refresh_unit(tb, st, unit):
                return FAILED
    return DONE


@njit(cache=True, nogil=True)
def _serve_host(tb, st):
    """Host requests in order, rows left open, until the quantum or the arrivals end."""
    config, register = tb.config, st.register
    arrival = config[K_RULES] + ARRIVAL
    while register[R_HOST] < len(tb.host_bank) and register[R_QUANTUM] != 0:
        n = register[R_HOST]
        if register[R_QUANTUM] != ALL and tb.host_arrival[n] > _free(tb, st, 0):
            break
        if _log_is_full(tb, st):
            return LOG_FULL
        bank, row, column = tb.host_bank[n], tb.host_row[n], tb.host_column[n]
        write = tb.host_write[n]
        f = config[K_STREAMS] + F_BOUND
        bound, cause = st.time[f], st.cause[0]
        if tb.host_arrival[n] > bound:
            bound, cause = tb.host_arrival[n], arrival
        w = bank // WORD_BITS
        is_open = st.word[W_BANKS + 2 * w] >> (bank - w * WORD_BITS) & 1
        if is_open and st.row[bank] != row:
            close = config[K_CLOSE]
            target = tb.command[close, C_FIRST] + bank
            if _issue(tb, st, close, target, -1, -1, 0, write, bound, cause, 0) < 0:
                return FAILED
            is_open = 0
        if not is_open:
            target = tb.command[config[K_OPEN], C_FIRST] + bank
            if _issue(tb, st, config[K_OPEN], target, row, -1, 0, write, bound, cause, 0) < 0:
                return FAILED
        command = config[K_WRITE] if write else config[K_READ]
        target = tb.command[command, C_FIRST] + bank
        tick = _issue(tb, st, command, target, row, column, 0, write, bound, cause, 0)
        if tick < 0:
            return FAILED
        st.host_depart[n] = tick + tb.command[command, C_LATENCY]
        register[R_HOST] = n + 1
        if register[R_QUANTUM] > 0:
            register[R_QUANTUM] -= 1
    return DONE


@njit(cache=True, nogil=True)
def execute(tb, st):
    """Run until the program ends (DONE), the log is full, the budget is used up or a command fails.

    All state is in ``st``: call again to go on after LOG_FULL (with a longer log) or PAUSED.
    """
    op, register = tb.op, st.register
    while True:
        pc = st.pc[0]
        kind = op[pc, O_KIND]
        if kind == ISSUE:
            if op[pc, O_REPEAT] == 0:
                st.pc[0] = pc + 1
                continue
            while st.pc[0] == pc:
                if _log_is_full(tb, st):
                    return LOG_FULL
                if _issue_next(tb, st, 0) != DONE:
                    return FAILED
            if register[R_BUDGET] < 0:
                return PAUSED
        elif kind == FORK:
            status = _merge_streams(tb, st)
            if status != DONE:
                return status
        elif kind == YIELD:
            waiting = register[R_HOST] < len(tb.host_bank)
            last = op[pc, O_A] == ALL
            st.pc[0] = pc + 1
            if waiting and (last or tb.config[K_HOST_FIRST]):
                if last or tb.host_arrival[register[R_HOST]] <= _free(tb, st, 0):
                    register[R_RETURN] = pc + 1
                    register[R_QUANTUM] = op[pc, O_A]
                    st.pc[0] = tb.config[K_ENTER]
        elif kind == SERVE:
            status = _serve_host(tb, st)
            if status != DONE:
                return status
            st.pc[0] = pc + 1
        elif kind == RETURN:
            st.pc[0] = register[R_RETURN]
        elif kind == REFRESH:
            if _refresh_point(tb, st) != DONE:
                return FAILED
            st.pc[0] = pc + 1
        elif kind == HALT:
            return DONE
        else:
            st.pc[0] = _control(tb, st, 0, pc)
