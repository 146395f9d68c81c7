"""Kernels that queue refreshes, and what closes and reopens rows for them."""

from __future__ import annotations

import numpy as np
from numba import njit

from neardata.sim.dram import program_layout as k
from neardata.sim.dram.program_rules_kernel import fail, forbidden_bank, is_open


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True, _nrt=False)
def refresh_legal(config, plan, now):
    modes = plan[config[k.K_REFRESH] + k.G_MODES]
    return modes == 0 or modes >> now[config[k.K_WORD] + k.W_MODE] & 1 == 1


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _queue(register, queue, target, row, bound):
    n = register[k.R_QUEUED]
    queue[n, k.Q_TARGET], queue[n, k.Q_ROW], queue[n, k.Q_BOUND] = target, row, bound
    register[k.R_QUEUED] = n + 1


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _queue_reopening(config, plan, now, register, bank, queue, closing):
    """Queue what opens the rows again that a command closes, in the order they were opened."""
    mine = closing + plan[closing + k.G_MASK]
    after, zero = np.int64(-1), np.int64(0)
    while True:
        first = np.int64(-1)
        for b in range(config[k.K_BANKS]):
            w = b // k.WORD_BITS
            later = bank[b, k.B_SEQUENCE] > after and is_open(config, now, b)
            later = later and plan[mine + w] >> (b - w * k.WORD_BITS) & 1 != 0
            if later and (first < 0 or bank[b, k.B_SEQUENCE] < bank[first, k.B_SEQUENCE]):
                first = np.int64(b)
        if first < 0:
            return True
        after, target = bank[first, k.B_SEQUENCE], bank[first, k.B_OPENER]
        at, whole = target + plan[target + k.G_BANK], True
        for i in range(at, at + plan[target + k.G_BANKS]):
            whole &= is_open(config, now, plan[i]) and bank[plan[i], k.B_SEQUENCE] == after
        if whole:
            _queue(register, queue, target, bank[first, k.B_ROW], zero)
        elif config[k.K_OPEN] < 0:
            fail(register, k.E_REOPEN, first, now[k.T_PREVIOUS], target)
            return False
        else:  # some of the banks it opened have been closed since: the others one by one
            for i in range(at, at + plan[target + k.G_BANKS]):
                b = plan[i]
                if is_open(config, now, b) and bank[b, k.B_SEQUENCE] == after:
                    _queue(
                        register, queue, config[k.K_OPEN] + b * config[k.K_OPEN_STEP], bank[b, k.B_ROW], zero
                    )


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def queue_refreshes(config, plan, now, register, bank, queue, tick, at_point):
    """Queue the commands of one refresh unit that is due by ``tick`` and may be refreshed.

    False: too many are owed, or it cannot be. Before a command, a unit with open banks waits
    (or is closed and reopened); at a declared refresh point its banks must be closed.
    """
    interval = config[k.K_INTERVAL]
    legal = refresh_legal(config, plan, now)
    absent, zero = np.int64(k.ABSENT), np.int64(0)
    for unit in range(config[k.K_UNITS]):
        due = now[k.T_DUE + unit]
        owed = (tick - due) // interval + 1
        if owed <= 0:
            continue
        target = config[k.K_REFRESH] + unit * config[k.K_REFRESH_STEP]
        mask = config[k.K_UNIT_MASK] + unit * config[k.K_WORDS]
        closed = forbidden_bank(config, plan, now, mask, k.CLOSED) < 0
        error = k.E_NONE
        if owed > k.POSTPONED and not (legal and closed):
            error = k.E_LATE
        elif at_point and not closed:
            error = k.E_POINT
        if error:
            fail(register, error, -1, tick, target)
            return False
        if at_point or (legal and closed):
            _queue(register, queue, target, absent, due)
            return True
        may_close = legal and forbidden_bank(config, plan, now, mask, k.CLOSED | k.OPEN) < 0
        if config[k.K_POLICY] == k.CLOSE_REOPEN and may_close and owed >= config[k.K_OWED]:
            together = config[k.K_CLOSED_UNITS]
            close = config[k.K_CLOSE_ALL] + unit // together * config[k.K_CLOSE_ALL_STEP]
            _queue(register, queue, close, absent, zero)
            first = unit // together * together
            for i in range(k.POSTPONED + 1):  # what all units that this closes owe, in turn
                for u in range(first, first + together):
                    bound = now[k.T_DUE + u] + i * interval
                    if bound <= tick:
                        _queue(
                            register, queue, config[k.K_REFRESH] + u * config[k.K_REFRESH_STEP], absent, bound
                        )
            return _queue_reopening(config, plan, now, register, bank, queue, close)
    return True
