"""Kernels that find recurring states of a loop and skip whole periods.

A state is compared by its ticks relative to now, each clamped to the largest gap that can still
look back at it. A program whose state recurs at the end of a loop's iteration is advanced by whole
periods: add the period to all ticks, and the growth of one period to all counters.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from neardata.sim.dram import program_layout as k
from neardata.sim.dram.program_rules_kernel import is_open


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _same_state(config, clamp, now, bank, saved, level):
    """Does the state equal the one saved for a loop, ticks taken relative to now?"""
    then = saved[level, k.T_PREVIOUS]
    shift = now[k.T_PREVIOUS] - then
    if shift % config[k.K_TICKS]:
        return False
    if config[k.K_POLICY] != k.NONE:
        for i in range(k.T_DUE, k.T_DUE + config[k.K_UNITS]):
            if now[i] - shift != saved[level, i]:
                return False
    last = config[k.K_LAST]
    for i in range(len(clamp)):
        floor = then - clamp[i]
        if max(now[last + i] - shift, floor) != max(saved[level, last + i], floor):
            return False
    fences = config[k.K_FENCES]
    for i in (k.T_BUS, k.T_COLUMN_BUS, fences + k.F_BOUND):
        if max(now[i] - shift, then) != max(saved[level, i], then):
            return False
    floor = then - config[k.K_PLUS]  # what the longest fence can still see
    for i in range(fences, fences + k.F_BOUND):
        if max(now[i] - shift, floor) != max(saved[level, i], floor):
            return False
    for i in range(k.T_DUE + config[k.K_UNITS], fences):  # rows still closing
        if max(now[i] - shift, then) != max(saved[level, i], then):
            return False
    for i in range(config[k.K_WORD], config[k.K_STAT]):
        if now[i] != saved[level, i]:
            return False
    return config[k.K_POLICY] != k.CLOSE_REOPEN or _same_openers(config, now, bank, saved, level)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _same_openers(config, now, bank, saved, level):
    """Would the open rows be reopened by the same commands in the same order?"""
    n, tail = config[k.K_BANKS], config[k.K_TICK]
    for a in range(n):
        if is_open(config, now, a):
            if bank[a, k.B_OPENER] != saved[level, tail + n + a]:
                return False
            for b in range(n):
                order = bank[a, k.B_SEQUENCE] - bank[b, k.B_SEQUENCE]
                before = saved[level, tail + 2 * n + a] - saved[level, tail + 2 * n + b]
                differs = (order > 0) != (before > 0) or (order < 0) != (before < 0)
                if differs and is_open(config, now, b):
                    return False
    return True


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def skip_periods(config, clamp, now, register, bank, brent, saved, level, iteration, total, wanted):
    """Iterations skipped after one has ended, by Brent's cycle detection.

    ``wanted``: recurrences in a row before a jump. A row that a column command checks is an affine
    function of the loop's index, and so is the row opened for it: having agreed in two periods
    that are alike, they agree in all; the first period may still look back to before the loop.
    The open rows advance with the periods. Those of loops counted as one (see `advance_counter`) are no such
    function, so at least one iteration is left, which opens its rows itself.
    """
    replace = False
    skipped = np.int64(0)
    if brent[level, k.D_SAVED] < 0:
        replace = iteration > brent[level, k.D_POWER]
        brent[level, k.D_POWER] = max(brent[level, k.D_POWER], 1)
    elif _same_state(config, clamp, now, bank, saved, level):
        period = iteration - brent[level, k.D_SAVED]
        again = period == brent[level, k.D_PERIOD]
        brent[level, k.D_MATCHES] = brent[level, k.D_MATCHES] + 1 if again else 1
        brent[level, k.D_PERIOD] = period
        periods = (total - iteration - 1) // period
        replace = brent[level, k.D_MATCHES] < wanted or periods == 0
        if not replace:
            shift = (now[k.T_PREVIOUS] - saved[level, k.T_PREVIOUS]) * periods
            for i in range(config[k.K_TICK]):
                if i < config[k.K_WORD] or i >= config[k.K_LAST]:
                    now[i] += shift
                elif i >= config[k.K_STAT]:
                    now[i] += (now[i] - saved[level, i]) * periods
            if config[k.K_ROWS]:
                for b in range(config[k.K_BANKS]):
                    bank[b, k.B_ROW] += (bank[b, k.B_ROW] - saved[level, config[k.K_TICK] + b]) * periods
            register[k.R_MIN_DUE] += shift
            register[k.R_JUMPED] += periods
            # what is left is at most a period
            brent[level, k.D_SAVED], brent[level, k.D_POWER] = -1, total
            skipped = periods * period
    elif iteration - brent[level, k.D_SAVED] >= brent[level, k.D_POWER]:
        brent[level, k.D_POWER] *= 2
        brent[level, k.D_MATCHES] = brent[level, k.D_PERIOD] = 0
        replace = True
    if replace:
        brent[level, k.D_SAVED] = iteration
        for i in range(config[k.K_TICK]):
            saved[level, i] = now[i]
        n, tail = config[k.K_BANKS], config[k.K_TICK]
        if config[k.K_ROWS]:
            for b in range(n):
                saved[level, tail + b] = bank[b, k.B_ROW]
        if config[k.K_POLICY] == k.CLOSE_REOPEN:
            for b in range(n):
                saved[level, tail + n + b] = bank[b, k.B_OPENER]
                saved[level, tail + 2 * n + b] = bank[b, k.B_SEQUENCE]
    return skipped


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def advance_counter(op, digit, stream, number, loop, step):
    """Add to a loop's counter, digit by digit."""
    for i in range(op[loop, k.O_B] - 1, op[loop, k.O_A] - 1, -1):
        value = stream[number, k.P_INDEX + digit[i, 0]] + step
        step = np.int64(0)
        if value >= digit[i, 1]:
            step = value // digit[i, 1]
            value -= step * digit[i, 1]
        stream[number, k.P_INDEX + digit[i, 0]] = value
        if not step:
            return
