"""A table of entries found by key and kept in order of use."""

# ruff: noqa: F405

from numba import njit

from neardata.sim.storage.fields import *  # noqa: F403


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def find(table, e, key):
    """The entry of ``key``, or NONE."""
    mask = len(table) - 1
    i = (key * 2654435761 >> 9) & mask
    while table[i] != 0:
        if e[table[i] - 1, KEY] == key:
            return table[i] - 1
        i = (i + 1) & mask
    return NONE


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def insert(table, e, k, key):
    """A new entry of ``key``, as used last; there must be room."""
    slot = k[L_FREE]
    if slot == NONE:
        slot = k[L_COUNT]
    else:
        k[L_FREE] = e[slot, SUCC]
    k[L_COUNT] += 1
    e[slot, KEY] = key
    e[slot, PREV] = NONE
    e[slot, SUCC] = k[L_HEAD]
    if k[L_HEAD] == NONE:
        k[L_TAIL] = slot
    else:
        e[k[L_HEAD], PREV] = slot
    k[L_HEAD] = slot
    mask = len(table) - 1
    i = (key * 2654435761 >> 9) & mask
    while table[i] != 0:
        i = (i + 1) & mask
    table[i] = slot + 1
    return slot


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def touch(e, k, slot):
    """The entry is now the one used last."""
    before, after = e[slot, PREV], e[slot, SUCC]
    if before == NONE:
        return
    e[before, SUCC] = after
    if after == NONE:
        k[L_TAIL] = before
    else:
        e[after, PREV] = before
    e[slot, PREV] = NONE
    e[slot, SUCC] = k[L_HEAD]
    e[k[L_HEAD], PREV] = slot
    k[L_HEAD] = slot


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def remove(table, e, k, slot):
    """Take an entry out. Free slots below ``k[L_COUNT]`` are linked by SUCC."""
    touch(e, k, slot)
    after = e[slot, SUCC]
    k[L_HEAD] = after
    if after == NONE:
        k[L_TAIL] = NONE
    else:
        e[after, PREV] = NONE
    mask = len(table) - 1
    i = (e[slot, KEY] * 2654435761 >> 9) & mask
    while table[i] != slot + 1:
        i = (i + 1) & mask
    hole = i
    while True:  # what was pushed on by the entry moves back
        i = (i + 1) & mask
        if table[i] == 0:
            break
        home = (e[table[i] - 1, KEY] * 2654435761 >> 9) & mask
        if (i - home) & mask >= (i - hole) & mask:
            table[hole] = table[i]
            hole = i
    table[hole] = 0
    e[slot, SUCC] = k[L_FREE]
    k[L_FREE] = slot
    k[L_COUNT] -= 1
