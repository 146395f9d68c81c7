"""Kernel that executes a stretch: commands one right after the other, with all that is known of them.

See `neardata.sim.dram.program_stretch`, which lays stretches out.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from neardata.sim.dram import program_layout as k
from neardata.sim.dram.program_period_kernel import advance_counter

# unsigned: Numba lets other indices count from the end, which takes a quarter of the time
U = np.uint64
ONE, TWO, THREE = U(1), U(2), U(3)
BUS, BUS_GAP, FLAGS, LAST = U(k.N_BUS), U(k.N_BUS_GAP), U(k.N_FLAGS), U(k.N_LAST)
GAP, CAUSE, LOOKS = U(k.N_GAP), U(k.N_CAUSE), U(k.N_LOOKS)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def note(config, op, now, stretch, pc):
    """Count a visit to a stretch that is not laid out, and keep the state it met."""
    n, word = -op[pc, k.O_STRETCH] - 1, config[k.K_WORD]
    stretch[n, k.L_VISITS] += 1
    for i in range(config[k.K_STAT] - word):
        stretch[n, k.L_STATE + i] = now[word + i]


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def execute_stretch(config, op, digit, code, now, register, stream, at):
    """Issue the commands of the stretch laid out at ``at``, again and again if they fill a loop.

    False: they, or those of the loop's next iteration, are still to be executed, as the banks or
    the mode are not those the stretch was laid out for, or a refresh may have to come between.
    """
    word, words = config[k.K_WORD], config[k.K_STAT] - config[k.K_WORD]
    before = at + k.C_STATE
    for i in range(words):
        if now[word + i] != code[before + i]:
            return False

    # 1. limits: a refresh due at a place where it could go, or too many owed
    due = late = np.int64(k.FAR)
    if config[k.K_POLICY] == k.ALL_BANK:
        due = register[k.R_MIN_DUE]
        late = due + (config[k.K_OWED] - 1) * config[k.K_INTERVAL]

    ticks = U(config[k.K_TICK])
    causes, edge = config[k.K_CAUSES], config[k.K_RULES] + k.EDGE
    bound, bound_cause = now[config[k.K_FENCES] + k.F_BOUND], stream[0, k.P_CAUSE]
    opens, until = config[k.K_OPEN_CYCLES], k.T_DUE + config[k.K_UNITS]
    commands = U(before + 2 * words)
    end = code[at + k.C_NEXT]
    while True:
        # 2. the commands; if a limit is met, once more up to there to take back what they waited for
        first, busy, previous = now[k.T_PREVIOUS], np.int64(0), np.int64(0)
        count, sign, met = code[at + k.C_COMMANDS], np.int64(1), True
        while met:
            met = False
            busy, previous, e, t = np.int64(0), first, commands, ticks
            for j in range(count):
                base, flags, last = previous + code[e + BUS_GAP], code[e + FLAGS], code[e + LAST]
                if flags & k.OTHER_BUS:
                    base = max(previous, now[U(code[e + BUS])] + code[e + BUS_GAP])
                tick, cause = base, np.int64(-1)
                if bound > tick:
                    tick, cause = bound, bound_cause
                if previous + code[e + GAP] > tick:
                    tick, cause = previous + code[e + GAP], code[e + CAUSE]
                stop = e + LOOKS + U(code[e])
                e += LOOKS
                while e < stop:
                    ready = now[U(code[e])] + code[e + ONE]
                    if ready > tick:
                        tick, cause = ready, code[e + TWO]
                    e += THREE
                if flags & k.ON_EDGE and not tick & 1:
                    tick += 1
                    if cause < 0:
                        cause = edge
                last += tick
                if last >= late or (flags & k.REFRESHABLE and last >= due):
                    if j == 0:
                        return False
                    met, count, sign = True, np.int64(j), np.int64(-1)
                    break
                if tick > base:
                    now[U(causes + cause)] += sign * (tick - base)
                busy += base - previous
                previous = last
                now[t] = last
                t += ONE
        if sign < 0:
            return False

        # 3. what is left of them: slots and buses, completions, counters, open cycles
        e = commands + U(code[at + k.C_LENGTH])
        for _ in range(code[at + k.C_COPIES]):
            now[U(code[e])] = now[U(code[e + ONE])] + code[e + TWO]
            e += THREE
        for _ in range(code[at + k.C_COMPLETIONS]):
            now[U(code[e])] = max(now[U(code[e])], now[U(code[e + ONE])] + code[e + TWO])
            e += THREE
        for _ in range(code[at + k.C_GROWTHS]):
            now[U(code[e])] += code[e + ONE]
            e += TWO
        for _ in range(code[at + k.C_CHANGES]):
            unit, tick, what = code[e], now[U(code[e + ONE])], code[e + TWO]
            e += THREE
            if what & k.CLOSES:
                now[until + unit] = max(now[until + unit], tick)
            if what & k.OPENS_UNIT:
                now[opens + unit] -= max(tick, now[until + unit])
            if what & k.CLOSES_UNIT:
                now[opens + unit] += now[until + unit]
        now[k.T_PREVIOUS] = previous
        now[config[k.K_STAT] + k.S_BUSY] += busy
        now[config[k.K_PHASES] + register[k.R_PHASE]] += previous - first
        register[k.R_STRETCHES] += 1
        register[k.R_BUDGET] -= code[at + k.C_ISSUED]

        # 4. the loop's next iteration, or what comes after
        if not code[at + k.C_AGAIN]:
            for i in range(words):
                now[word + i] = code[before + words + i]
            stream[0, k.P_PC] = end
            return True
        loop = op[end, k.O_A]
        counted = config[k.K_COUNTS] + op[loop, k.O_D]
        stream[0, counted] += 1
        if stream[0, counted] == op[end, k.O_B]:
            stream[0, k.P_PC] = end + 1
            return True
        advance_counter(op, digit, stream, 0, loop, 1)
        if register[k.R_BUDGET] < 0:
            return True
