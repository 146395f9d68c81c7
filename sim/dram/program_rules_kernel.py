"""Kernels for one command: the tick from which it may issue, and what it does to its banks."""

from __future__ import annotations

import numpy as np
from numba import njit

from neardata.sim.dram import program_layout as k


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True, _nrt=False)
def terms(op, term, stream, pc, number, first):
    """The sum of the terms of an address field of an operation (``first``: O_TARGET_TERMS ...)."""
    value = np.int64(0)
    for i in range(op[pc, first], op[pc, first + 1]):
        value += term[i, 1] * stream[number, k.P_INDEX + term[i, 0]]
    return value


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True, _nrt=False)
def earliest(config, plan, now, target, bound, bound_cause):
    """First tick at which a command may issue, what it waits for, and when its bus is free."""
    base = max(now[k.T_PREVIOUS], now[k.T_BUS + plan[target + k.G_BUS]])
    tick, cause = base, np.int64(-1)
    if bound > tick:
        tick, cause = bound, bound_cause
    at = target + plan[target + k.G_READ]
    for i in range(at, at + 3 * plan[target + k.G_READS], 3):
        ready = now[plan[i]] + plan[i + 1]
        if ready > tick:
            tick, cause = ready, plan[i + 2]
    if plan[target + k.G_EDGE] and not tick & 1:
        tick += 1
        if cause < 0:
            cause = config[k.K_RULES] + k.EDGE
    return tick, cause, base


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def fail(register, error, bank, tick, target):
    register[k.R_ERROR] = error
    register[k.R_ERROR_BANK] = bank
    register[k.R_ERROR_TICK] = tick
    register[k.R_ERROR_TARGET] = target


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def forbidden_bank(config, plan, now, mask, needs):
    """A bank of the mask at ``mask`` in the plan whose state is not among those needed, or -1."""
    word = config[k.K_WORD] + k.W_BANKS
    for w in range(config[k.K_WORDS]):
        mine = plan[mask + w]
        is_open, activating = now[word + 2 * w] & mine, now[word + 2 * w + 1] & mine
        wrong = np.int64(0)
        if not needs & k.OPEN:
            wrong |= is_open
        if not needs & k.ACTIVATING:
            wrong |= activating
        if not needs & k.CLOSED:
            wrong |= mine & ~(is_open | activating)
        if wrong:
            bank = w * k.WORD_BITS
            while not wrong & 1:
                wrong >>= 1
                bank += 1
            return bank
    return np.int64(-1)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def change(config, plan, now, target, tick):
    """New states of the target's banks."""
    words, units = config[k.K_WORDS], config[k.K_UNITS]
    word, opens, until = config[k.K_WORD] + k.W_BANKS, config[k.K_OPEN_CYCLES], k.T_DUE + units
    mask, leaves = target + plan[target + k.G_MASK], plan[target + k.G_LEAVES]
    closing = tick
    if plan[target + k.G_DATA]:  # an auto-precharge comes later, and keeps tRAS
        closing = tick + plan[target + k.G_CLOSE_DELAY]
        at = target + plan[target + k.G_CLOSE]
        for i in range(at, at + 2 * plan[target + k.G_CLOSES], 2):
            closing = max(closing, now[plan[i]] + plan[i + 1])
    for unit in range(units):
        was_open, is_open, touched = np.int64(0), np.int64(0), np.int64(0)
        for w in range(words):
            mine = plan[config[k.K_UNIT_MASK] + unit * words + w]
            before = (now[word + 2 * w] | now[word + 2 * w + 1]) & mine
            was_open |= before
            is_open |= before & ~plan[mask + w] if leaves == k.CLOSED else before | plan[mask + w] & mine
            touched |= before & plan[mask + w]
        if touched and leaves == k.CLOSED:
            now[until + unit] = max(now[until + unit], closing)
        if is_open and not was_open:
            now[opens + unit] -= max(tick, now[until + unit])
        elif was_open and not is_open:
            now[opens + unit] += now[until + unit]
    for w in range(words):
        now[word + 2 * w] &= ~plan[mask + w]
        now[word + 2 * w + 1] &= ~plan[mask + w]
        if leaves == k.OPEN:
            now[word + 2 * w] |= plan[mask + w]
        elif leaves == k.ACTIVATING:
            now[word + 2 * w + 1] |= plan[mask + w]


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True, _nrt=False)
def is_open(config, now, bank):
    w = bank // k.WORD_BITS
    return now[config[k.K_WORD] + k.W_BANKS + 2 * w] >> (bank - w * k.WORD_BITS) & 1 != 0


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True, _nrt=False)
def free(config, now, number):
    """Tick at which the stream's next command could issue if no rule bound it."""
    bound = now[config[k.K_FENCES] + k.F_WIDTH * number + k.F_BOUND]
    return max(max(now[k.T_PREVIOUS], bound), max(now[k.T_BUS], now[k.T_COLUMN_BUS]))
