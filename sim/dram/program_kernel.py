"""Kernel that executes a flattened command program on one channel.

Every command looks back at the last issues of the commands it must keep a distance from, as
precomputed (slot, gap) pairs, and writes its own slots: constant time per command.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from neardata.sim.dram import program_layout as k
from neardata.sim.dram.program_period_kernel import advance_counter, skip_periods
from neardata.sim.dram.program_refresh_kernel import queue_refreshes, refresh_legal
from neardata.sim.dram.program_rules_kernel import (
    change,
    earliest,
    fail,
    forbidden_bank,
    free,
    is_open,
    terms,
)
from neardata.sim.dram.program_stretch_kernel import execute_stretch, note


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _repeat(config, plan, now, register, target, times):
    """Issue the command just issued ``times`` more, as long as nothing can come between; how often.

    No bank changes its state, and nothing else issues. With k.K_RUNS in one step: each issue then
    follows the one before at the distance the command keeps from itself.
    """
    cycles, bus = plan[target + k.G_CYCLES], k.T_BUS + plan[target + k.G_BUS]
    limit = np.int64(k.FAR)  # from here on a refresh may come between
    if config[k.K_POLICY] != k.NONE and config[k.K_POLICY] != k.DECLARED:
        legal = refresh_legal(config, plan, now)
        for unit in range(config[k.K_UNITS]):
            mask = config[k.K_UNIT_MASK] + unit * config[k.K_WORDS]
            closed = forbidden_bank(config, plan, now, mask, k.CLOSED) < 0
            late = 0 if legal and closed else (config[k.K_OWED] - 1) * config[k.K_INTERVAL]
            limit = min(limit, now[k.T_DUE + unit] + late)
    first, zero, done = now[k.T_PREVIOUS], np.int64(0), np.int64(0)
    causes, edge = config[k.K_CAUSES], plan[target + k.G_EDGE]
    write = target + plan[target + k.G_WRITE]
    write_end = write + 2 * plan[target + k.G_WRITES]
    if config[k.K_RUNS]:
        tick, cause, base = earliest(config, plan, now, target, zero, zero)
        gap = tick - first
        done = min(times, max(zero, (limit - 1 - first) // gap))
        if gap > cycles:
            now[causes + cause] += done * (gap - cycles)
        now[k.T_PREVIOUS] += done * gap
        for i in range(write, write_end, 2):
            now[plan[i]] = now[k.T_PREVIOUS]
    else:
        read = target + plan[target + k.G_READ]
        read_end = read + 3 * plan[target + k.G_READS]
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
                    cause = config[k.K_RULES] + k.EDGE
            if tick >= limit:
                break
            if tick > base:
                now[causes + cause] += tick - base
            for i in range(write, write_end, 2):
                now[plan[i]] = tick
            previous = tick
            done += 1
        now[k.T_PREVIOUS] = previous
    now[bus] = now[k.T_PREVIOUS] + cycles
    now[config[k.K_STAT] + k.S_COMMANDS + plan[target + k.G_COMMAND]] += done
    now[config[k.K_STAT] + k.S_BUSY] += done * cycles
    now[config[k.K_PHASES] + register[k.R_PHASE]] += now[k.T_PREVIOUS] - first
    return done


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _fork(config, op, now, register, stream, pc):
    """Start the streams of a FORK."""
    start, fences = op[pc, k.O_A], config[k.K_FENCES]
    register[k.R_FORKED] = op[pc, k.O_B]
    for s in range(1, op[pc, k.O_B] + 1):
        for i in range(stream.shape[1]):
            stream[s, i] = stream[0, i]
        for i in range(k.F_WIDTH):
            now[fences + k.F_WIDTH * s + i] = now[fences + i]
        stream[s, k.P_PC], stream[s, k.P_REPEAT] = start, 0
        while op[start, k.O_KIND] != k.STREAM_END:
            start += 1
        start += 1


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _join(config, op, now, register, stream):
    """End the streams: what any of them waits for, the program waits for."""
    fences = config[k.K_FENCES]
    for s in range(1, register[k.R_FORKED] + 1):
        f = fences + k.F_WIDTH * s
        if now[f + k.F_BOUND] > now[fences + k.F_BOUND]:
            stream[0, k.P_CAUSE] = stream[s, k.P_CAUSE]
        for i in range(k.F_WIDTH):
            now[fences + i] = max(now[fences + i], now[f + i])
    register[k.R_FORKED] = 0
    stream[0, k.P_PC] = op[stream[0, k.P_PC], k.O_C]


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _next_stream(config, op, term, plan, now, register, stream):
    """The stream to go on with: the first that has no command next (it takes no time), else the one
    whose command can issue first; 0 if all have ended."""
    chosen, soonest = np.int64(0), np.int64(k.FAR)
    for s in range(1, register[k.R_FORKED] + 1):
        pc = stream[s, k.P_PC]
        if op[pc, k.O_KIND] == k.STREAM_END:
            continue
        if op[pc, k.O_KIND] != k.ISSUE or op[pc, k.O_REPEAT] == 0:
            return np.int64(s)
        target = op[pc, k.O_TARGET] + stream[s, k.P_REPEAT] * op[pc, k.O_TARGET_STEP]
        target += terms(op, term, stream, pc, s, k.O_TARGET_TERMS)
        bound = now[config[k.K_FENCES] + k.F_WIDTH * s + k.F_BOUND]
        tick = earliest(config, plan, now, target, bound, stream[s, k.P_CAUSE])[0]
        if tick < soonest:
            chosen, soonest = np.int64(s), tick
    return chosen


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def execute(tb, st):
    """Run until the program ends (DONE), the log is full, the budget is used up or a command fails.

    All state is in ``st``: call again to go on after LOG_FULL (with a longer log) or PAUSED.
    """
    config, op, term, digit, plan, clamp, host, code = tb
    now, register, stream, bank, queue, brent, saved, depart, log, stretch = st
    policy, rules, rows = config[k.K_POLICY], config[k.K_RULES], config[k.K_ROWS]
    fences, word, stat = config[k.K_FENCES], config[k.K_WORD], config[k.K_STAT]
    causes, phases = config[k.K_CAUSES], config[k.K_PHASES]
    while True:
        # 1. the next command: of a refresh, of a stream, of the program, of the host
        number, source, check, kind = np.int64(0), k.PROGRAM, False, np.int64(-1)
        row, column = np.int64(k.ABSENT), np.int64(k.ABSENT)
        repetition, pc = np.int64(0), np.int64(0)
        if register[k.R_QUEUE] < register[k.R_QUEUED]:
            source, n = k.MAINTENANCE, register[k.R_QUEUE]
            target, row, bound = queue[n, k.Q_TARGET], queue[n, k.Q_ROW], queue[n, k.Q_BOUND]
            cause = rules + k.DUE
        else:
            if register[k.R_FORKED]:
                number = _next_stream(config, op, term, plan, now, register, stream)
                if not number:
                    _join(config, op, now, register, stream)
                    continue
            pc = stream[number, k.P_PC]
            step = op[pc, k.O_KIND]
            f = fences + k.F_WIDTH * number
            bound, cause = now[f + k.F_BOUND], stream[number, k.P_CAUSE]
            at = op[pc, k.O_STRETCH]
            if at and stream[number, k.P_REPEAT] == 0:
                if at < 0:
                    note(config, op, now, stretch, pc)
                elif execute_stretch(config, op, digit, code, now, register, stream, at):
                    if register[k.R_BUDGET] < 0:
                        return k.PAUSED
                    continue
            if step == k.ISSUE:
                if op[pc, k.O_REPEAT] == 0:
                    stream[number, k.P_PC] = pc + 1
                    continue
                repetition = stream[number, k.P_REPEAT]
                target = op[pc, k.O_TARGET] + repetition * op[pc, k.O_TARGET_STEP]
                target += terms(op, term, stream, pc, number, k.O_TARGET_TERMS)
                if rows:
                    row = op[pc, k.O_ROW] + repetition * op[pc, k.O_ROW_STEP]
                    row += terms(op, term, stream, pc, number, k.O_ROW_TERMS)
                    column = op[pc, k.O_COLUMN] + repetition * op[pc, k.O_COLUMN_STEP]
                    column += terms(op, term, stream, pc, number, k.O_COLUMN_TERMS)
                    check = op[pc, k.O_CHECK] != 0
            elif step == k.LOOP_END:
                loop = op[pc, k.O_A]
                level, total = op[loop, k.O_D], op[pc, k.O_B]
                done, skipped = stream[number, config[k.K_COUNTS] + level] + 1, np.int64(0)
                if op[loop, k.O_E] and not number and done < total:
                    skipped = skip_periods(
                        config, clamp, now, register, bank, brent, saved, level, done, total, op[loop, k.O_E]
                    )
                    done += skipped
                stream[number, config[k.K_COUNTS] + level] = done
                stream[number, k.P_PC] = pc + 1
                if done < total:
                    advance_counter(op, digit, stream, number, loop, skipped + 1)
                    stream[number, k.P_PC] = loop + 1
                register[k.R_BUDGET] -= 1
                if register[k.R_BUDGET] < 0:
                    return k.PAUSED
                continue
            elif step == k.LOOP:
                stream[number, k.P_PC] = pc + 1
                level = op[pc, k.O_D]
                stream[number, config[k.K_COUNTS] + level] = 0
                for i in range(op[pc, k.O_A], op[pc, k.O_B]):
                    stream[number, k.P_INDEX + digit[i, 0]] = 0
                    if digit[i, 1] == 0:
                        stream[number, k.P_PC] = op[pc, k.O_C]
                if op[pc, k.O_E] and not number:
                    brent[level, k.D_SAVED], brent[level, k.D_POWER] = -1, 0
                    brent[level, k.D_MATCHES], brent[level, k.D_PERIOD] = 0, 0
                continue
            elif step == k.SERVE:
                # requests in order, rows left open, until the quantum or the arrivals end
                n, quantum = register[k.R_HOST], register[k.R_QUANTUM]
                served = n == len(host) or quantum == 0
                if not served and quantum != k.ALL:
                    served = host[n, k.H_ARRIVAL] > free(config, now, number)
                if served:
                    stream[number, k.P_PC] = pc + 1
                    continue
                source, kind = k.HOST, host[n, k.H_WRITE]
                if host[n, k.H_ARRIVAL] > bound:
                    bound, cause = host[n, k.H_ARRIVAL], rules + k.ARRIVAL
                b = host[n, k.H_BANK]
                if not is_open(config, now, b):
                    target, row = config[k.K_OPEN] + b * config[k.K_OPEN_STEP], host[n, k.H_ROW]
                elif bank[b, k.B_ROW] != host[n, k.H_ROW]:
                    target = config[k.K_CLOSE] + b * config[k.K_CLOSE_STEP]
                else:
                    target = config[k.K_READ] + b * config[k.K_READ_STEP]
                    if kind:
                        target = config[k.K_WRITE] + b * config[k.K_WRITE_STEP]
                    row, column = host[n, k.H_ROW], host[n, k.H_COLUMN]
            elif step == k.HALT:
                return k.DONE
            else:
                stream[number, k.P_PC] = pc + 1
                if step == k.FENCE:
                    until = now[f + op[pc, k.O_A]] + op[pc, k.O_B]
                    if until > bound:
                        now[f + k.F_BOUND], stream[number, k.P_CAUSE] = until, rules + k.FENCED
                elif step == k.WAIT:
                    if op[pc, k.O_A]:
                        now[f + k.F_BOUND] = free(config, now, number) + op[pc, k.O_A]
                        stream[number, k.P_CAUSE] = rules + k.WAITED
                elif step == k.UNTIL:
                    target = op[pc, k.O_TARGET] + terms(op, term, stream, pc, number, k.O_TARGET_TERMS)
                    tick, cause, base = earliest(config, plan, now, target, bound, cause)
                    if tick > base and tick > bound:
                        now[f + k.F_BOUND], stream[number, k.P_CAUSE] = tick, cause
                elif step == k.PHASE:
                    register[k.R_PHASE] = op[pc, k.O_A]
                elif step == k.FORK:
                    stream[number, k.P_PC] = pc
                    _fork(config, op, now, register, stream, pc)
                elif step == k.YIELD:
                    n = register[k.R_HOST]
                    serve = op[pc, k.O_A] == k.ALL
                    if not serve and config[k.K_HOST_FIRST] and n < len(host):
                        serve = host[n, k.H_ARRIVAL] <= free(config, now, number)
                    if serve and n < len(host):
                        register[k.R_RETURN], register[k.R_QUANTUM] = pc + 1, op[pc, k.O_A]
                        stream[number, k.P_PC] = config[k.K_ENTER]
                elif step == k.RETURN:
                    stream[number, k.P_PC] = register[k.R_RETURN]
                elif step == k.REFRESH and policy == k.DECLARED:
                    until_free = free(config, now, number)
                    if until_free >= register[k.R_MIN_DUE]:
                        stream[number, k.P_PC] = pc
                        if not queue_refreshes(config, plan, now, register, bank, queue, until_free, True):
                            return k.FAILED
                continue

        # 2. its tick, unless a refresh goes first
        tick, cause, base = earliest(config, plan, now, target, bound, cause)
        if tick >= register[k.R_MIN_DUE] and source != k.MAINTENANCE and policy != k.DECLARED:
            if not queue_refreshes(config, plan, now, register, bank, queue, tick, False):
                return k.FAILED
            if register[k.R_QUEUED]:
                continue

        # 3. may it?
        error, where = k.E_NONE, np.int64(-1)
        if plan[target + k.G_NEEDS]:
            mask = target + plan[target + k.G_MASK]
            where = forbidden_bank(config, plan, now, mask, plan[target + k.G_NEEDS])
            if where >= 0:
                error = k.E_STATE
        if plan[target + k.G_MODES] and not plan[target + k.G_MODES] >> now[word + k.W_MODE] & 1:
            error, where = k.E_MODE, np.int64(-1)
        first_bank = target + plan[target + k.G_BANK]
        if check:
            for i in range(first_bank, first_bank + plan[target + k.G_BANKS]):
                if not error and bank[plan[i], k.B_ROW] != row:
                    error, where = k.E_ROW, plan[i]
        if error:
            fail(register, error, where, tick, target)
            register[k.R_ERROR_STREAM] = number
            return k.FAILED
        if config[k.K_LOG]:
            n = register[k.R_LOG]
            if n == len(log):
                return k.LOG_FULL
            register[k.R_LOG] = n + 1
            log[n, 0], log[n, 1], log[n, 2] = tick, plan[target + k.G_COMMAND], plan[target + k.G_UNIT]
            log[n, 3], log[n, 4], log[n, 5] = max(row, -1), max(column, -1), kind
            if row < 0 and plan[target + k.G_ON_ROW]:
                log[n, 3] = bank[plan[first_bank], k.B_ROW]

        # 4. issue: slots, buses, completion, counters, states
        at = target + plan[target + k.G_WRITE]
        for i in range(at, at + 2 * plan[target + k.G_WRITES], 2):
            for w in range(plan[i] + plan[i + 1] - 1, plan[i], -1):
                now[w] = now[w - 1]
            now[plan[i]] = tick
        now[stat + k.S_COMMANDS + plan[target + k.G_COMMAND]] += 1
        now[stat + k.S_BUSY] += base - now[k.T_PREVIOUS]
        if tick > base:
            now[causes + cause] += tick - base
        now[phases + register[k.R_PHASE]] += tick - now[k.T_PREVIOUS]
        now[k.T_PREVIOUS] = tick
        now[k.T_BUS + plan[target + k.G_BUS]] = tick + plan[target + k.G_CYCLES]
        complete = tick + plan[target + k.G_LATENCY]
        f = fences + k.F_WIDTH * number
        now[f + k.F_ALL] = max(now[f + k.F_ALL], complete)
        if plan[target + k.G_DATA]:
            now[f + k.F_DATA] = max(now[f + k.F_DATA], complete)
            if plan[target + k.G_DATA] == k.READS:
                now[f + k.F_READS] = max(now[f + k.F_READS], complete)
        if plan[target + k.G_ENTERS] >= 0:
            now[word + k.W_MODE] = plan[target + k.G_ENTERS]
        if plan[target + k.G_LEAVES]:
            change(config, plan, now, target, tick)
            if rows and plan[target + k.G_LEAVES] != k.CLOSED:
                register[k.R_SEQUENCE] += 1
                for i in range(first_bank, first_bank + plan[target + k.G_BANKS]):
                    if row >= 0:
                        bank[plan[i], k.B_ROW] = row
                    bank[plan[i], k.B_OPENER] = target
                    bank[plan[i], k.B_SEQUENCE] = register[k.R_SEQUENCE]

        # 5. go on in its source
        if source == k.PROGRAM:
            repetition += 1
            times = op[pc, k.O_REPEAT]
            if op[pc, k.O_RUN] and repetition + 1 < times and not number:
                # all but the last, which is issued as above for what comes after it
                repetition += _repeat(config, plan, now, register, target, times - repetition - 1)
            stream[number, k.P_REPEAT] = repetition
            if repetition == times:
                stream[number, k.P_REPEAT] = 0
                stream[number, k.P_PC] = pc + 1
                register[k.R_BUDGET] -= times
                if register[k.R_BUDGET] < 0:
                    return k.PAUSED
        elif source == k.MAINTENANCE:
            register[k.R_QUEUE] += 1
            if register[k.R_QUEUE] == register[k.R_QUEUED]:
                register[k.R_QUEUE] = register[k.R_QUEUED] = 0
            if plan[target + k.G_COMMAND] == plan[config[k.K_REFRESH] + k.G_COMMAND]:
                now[stat + k.S_REFRESHES] += 1
                now[k.T_DUE + plan[target + k.G_UNIT]] += config[k.K_INTERVAL]
                due = now[k.T_DUE]
                for unit in range(1, config[k.K_UNITS]):
                    due = min(due, now[k.T_DUE + unit])
                register[k.R_MIN_DUE] = due
        elif plan[target + k.G_DATA]:
            n = register[k.R_HOST]
            depart[n] = complete
            register[k.R_HOST] = n + 1
            if register[k.R_QUANTUM] > 0:
                register[k.R_QUANTUM] -= 1
