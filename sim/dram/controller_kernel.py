"""Parts of the request kernels: one channel's memory controller, command by command.

The controller is that of Ramulator 2.1 (its GenericDDR, HBM12, HBM34 and LPDDR5 forms),
advanced from event to event instead of tick by tick. ``tests/naive/request.py`` is the
same controller written the obvious way; the two agree command for command.

How a command is found without scanning the queues:

* Timing rules are pushed down at issue: ``ready[kind][bank]`` is the first tick at which
  a read, write, activate or precharge of the bank breaks no rule.
* Requests hang in one list per (queue, bank), oldest first. A bank offers at most one
  candidate of each kind: its activated request or else its oldest row hit (column
  commands), its oldest other request (activate when closed, precharge when open).
* The next command is the least ``(ready - now, class, age, bank)`` packed in one integer,
  a branch-free reduction over the banks.

`Channel` lists the arrays. Hot functions take the arrays they touch and are inlined; rare
ones take the whole channel.
"""

from __future__ import annotations

import zlib
from collections import namedtuple
from pathlib import Path

import numpy as np
from numba import njit

from neardata.sim.dram.lanes_kernel import decode, least_key, push, raise_lane, set_lane, trailing_zeros

INF = 1 << 62
NEVER = -(1 << 60)

# candidate keys: | ticks to wait (22) | class (1) | age (27) | kind (2) | bank (10) |
WAIT_SHIFT, CLASS_BIT, AGE_SHIFT, KIND_SHIFT, BANK_MASK = 40, 1 << 39, 12, 10, 1023
KEY_MASK = (1 << WAIT_SHIFT) - 1
AGE_LIMIT = 1 << 27

# kinds of command a request needs; +4: with auto-precharge
RD, WR, ACT, PRE = 0, 1, 2, 3
# bits of kinds
COLUMN_COMMANDS, ACTIVATES, PRECHARGES, ALL_COMMANDS = 3, 4, 8, 15
CLOSED, ACTIVATING = -1, -2

# pool[slot]: a request
ROW, COLUMN, BANK, KIND, AGE, ARRIVE, ID, COUNTED, NEXT, PREVIOUS, ADDRESS, REQUEST_FIELDS = range(12)

# bank[b]; the pairs are (read queue, write queue)
(
    B_OPEN_ROW, B_ACTIVE, B_HIT, _, B_OTHER, _, B_HEAD, _, B_TAIL, _, B_LAST_COLUMN, B_GROUP, B_NODE,
    BANK_FIELDS,
) = range(14)  # fmt: skip

# r[...]: configuration, then registers, then statistics
(
    C_READ_QUEUE, C_WRITE_QUEUE, C_WRITE_HIGH, C_WRITE_LOW, C_ROW_HIT, C_PAGE, C_TIMEOUT,
    C_READ_LATENCY, C_WRITE_LATENCY, C_REFRESH_INTERVAL, C_REFRESH_ROUNDS, C_REFRESH_WIDTH,
    C_REFRESH_COMMAND, C_REFRESH_PRECHARGE, C_LOG, C_COMPLETIONS, C_WINDOWS, C_COMMANDS,
    C_ACT2, C_ACT2_DEADLINE, C_SYNC_READ, C_SYNC_WRITE, C_SYNC_READ_HOLD, C_SYNC_WRITE_HOLD,
    C_COLUMN_BITS, C_BANK_BITS, C_ROW_BITS, C_GROUPS, C_MAX_UNITS, C_SLICES, C_READ_CLOSE, C_WRITE_CLOSE,
    C_ROW_OPEN,
    R_NOW, R_MODE, R_MODE_STALE, R_READS, R_WRITES, R_ACTIVE, R_FREE, R_AGE, R_NEXT_REFRESH,
    R_REFRESH_ROUND, R_PENDING_HEAD, R_PENDING, R_BUS_FREE, R_COLUMN_FREE, R_ACT2_SLOT,
    R_ACT2_DEADLINE, R_SYNC_SLOT, R_SYNC_EXPIRY, R_NEXT_ID, R_WATCH, R_LATENCY_HEAD, R_LOG, R_COMPLETED,
    R_IDLE,
    S_READS, S_WRITES, S_FORWARDED, S_COALESCED, S_HITS, S_MISSES, S_CONFLICTS, S_READS_SERVED,
    S_WRITES_SERVED, S_LATENCY, S_LAST_ACCEPT, S_LAST_READ, S_LAST_WRITE, S_LAST_FORWARD, S_MAX_LATENCY,
    S_DEPARTED_LATENCY, SCALARS,
) = range(74)  # fmt: skip
PAGE_OPEN, PAGE_CLOSED, PAGE_TIMEOUT = 0, 1, 2

# kind[k]: the six kinds of command, their rules and bus
K_COMMAND, K_BUS_CYCLES, K_WIDE, _, _, _, K_BANK_GAP, _, _, _, KIND_FIELDS = range(11)

# window[w]: rules counted over several commands
W_FIRST, W_THEN, W_LENGTH, W_GAP, WINDOW_FIELDS = range(5)

# book: address filter, recent reads, latency histogram
FILTER, RECENT, HISTOGRAM = 1024, 512, 1 << 16
F_DEPART, F_LATENCY, F_HISTOGRAM = FILTER, FILTER + RECENT, FILTER + 2 * RECENT
BOOK = F_HISTOGRAM + 2 * HISTOGRAM

SOURCE = zlib.crc32(
    b"".join(Path(__file__).with_name(f"{m}_kernel.py").read_bytes() for m in ("controller", "lanes"))
)
"""Captured by the kernels: Numba's cache looks at the source of a kernel, not of what it calls."""

# why a kernel returned
MORE_REQUESTS, DRAINED, LOG_FULL, STUCK, IDLE = range(5)
LOG_MARGIN = 4

Channel = namedtuple(
    "Channel",
    "r last bank ready key offers pool kind gap window window_node window_ring window_gap last_issue book "
    "slices pair_offset pair_gap units unit_of bus_cycles refresh_units cover_start cover_bank pending node "
    "command_count",
)
"""One channel's tables and state, int64 throughout (B banks, padded; C commands; U most units; N
refresh nodes; W windows).

r: scalars (above). last: copy of r when the last request was accepted. bank: (B, BANK_FIELDS).
ready, key: (4 * B) by kind. offers: (4 * words) by kind, bit b of a kind: bank b offers one.
pool: (slots, REQUEST_FIELDS). kind: (6, KIND_FIELDS). gap: (6 * 4 * groups * B) ticks from a kind in a
bank group to a kind in every bank. window: (W, WINDOW_FIELDS). window_node: (W, B).
window_ring: (W, nodes, longest + 1), the last column the place. window_gap: (W * groups * B).
last_issue: (C * U). book: (BOOK). slices: (3 * C_SLICES) shifts, masks and targets of the address
fields. pair_offset: (C, C) into pair_gap, the flat (units, units) tables. units: (C).
unit_of: (C, banks). bus_cycles: (C). refresh_units: rounds times width. cover_start, cover_bank: banks
of each unit. pending: ring of refreshes due. node: (N, 4) open banks, since
when, cycles before that, until when.
command_count: (C).
"""


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", _nrt=False)
def after(kind, b, t, r, bank, ready, kinds, gap, last_issue, command_count, n_banks):
    """Push the timing rules that follow a command of a bank; its number."""
    groups = r[C_GROUPS]
    g = bank[b, B_GROUP]
    for then in range(4):
        if kinds[kind, K_WIDE + then]:
            push(ready, then * n_banks, gap, ((kind * 4 + then) * groups + g) * n_banks, t, n_banks)
        if kinds[kind, K_BANK_GAP + then] > NEVER:
            raise_lane(ready, then * n_banks, b, t + kinds[kind, K_BANK_GAP + then])
    command = kinds[kind, K_COMMAND]
    last_issue[command * r[C_MAX_UNITS] + b] = t
    command_count[command] += 1
    return command


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", _nrt=False)
def record(r, log, t, command, unit, row, column, kind, arrive):
    if r[C_LOG]:
        n = r[R_LOG]
        log[n, 0] = t
        log[n, 1] = command
        log[n, 2] = unit
        log[n, 3] = row
        log[n, 4] = column
        log[n, 5] = kind
        log[n, 6] = arrive
        r[R_LOG] = n + 1


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", _nrt=False)
def opened(bank, node, b, t):
    n = bank[b, B_NODE]
    if node[n, 0] == 0 and t > node[n, 3]:  # else a row is still closing: open all the while
        node[n, 2] += node[n, 3] - node[n, 1]
        node[n, 1] = t
    node[n, 0] += 1


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", _nrt=False)
def closed(bank, node, b, t):
    """A row is closed from ``t`` on, which may lie ahead (auto-precharge)."""
    n = bank[b, B_NODE]
    node[n, 0] -= 1
    node[n, 3] = max(node[n, 3], t)


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", _nrt=False)
def sort_out(bank, pool, b):
    """Find a bank's candidates anew after its row changed."""
    row = bank[b, B_OPEN_ROW]
    for q in range(2):
        s = bank[b, B_HEAD + q]
        if row < 0:
            bank[b, B_HIT + q] = -1
            bank[b, B_OTHER + q] = s
        else:
            hit, other = -1, -1
            while s >= 0 and (hit < 0 or other < 0):
                if pool[s, ROW] == row:
                    if hit < 0:
                        hit = s
                elif other < 0:
                    other = s
                s = pool[s, NEXT]
            bank[b, B_HIT + q] = hit
            bank[b, B_OTHER + q] = other


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", _nrt=False)
def candidate(pool, s, b):
    """Key of a waiting request."""
    return CLASS_BIT | (pool[s, AGE] << AGE_SHIFT) | b


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", _nrt=False)
def put(key, offers, kind, b, k, n_banks):
    """A bank offers a candidate of a kind, or none (`INF`)."""
    set_lane(key, kind * n_banks, b, k | (kind << KIND_SHIFT))
    word, bit = kind * ((n_banks + 63) >> 6) + (b >> 6), 1 << (b & 63)
    offers[word] = (offers[word] & ~bit) | (bit if k != INF else 0)


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", _nrt=False)
def one_key(ready, key, at, base, odd):
    return (((max(ready[at] - base, 0) + odd) & ~odd) << WAIT_SHIFT) + key[at]


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", _nrt=False)
def least(ready, key, offers, kinds, base, odd, n_banks):
    """Least candidate key, its wait counted from ``base``; ``odd``: on odd ticks only.

    ``kinds``: the kinds looked at, bit by bit.
    """
    rd, wr, act, pre = kinds & 1, kinds & 2, kinds & 4, kinds & 8
    if n_banks <= 64:
        if rd:
            rd = offers[RD]
        if wr:
            wr = offers[WR]
        if act:
            act = offers[ACT]
        if pre:
            pre = offers[PRE]
        banks = rd | wr | act | pre
        if banks & (banks - 1) == 0:  # one bank, or none
            best = INF
            if banks:
                b = trailing_zeros(banks)
                if rd:
                    best = min(best, one_key(ready, key, b, base, odd))
                if wr:
                    best = min(best, one_key(ready, key, WR * n_banks + b, base, odd))
                if act:
                    best = min(best, one_key(ready, key, ACT * n_banks + b, base, odd))
                if pre:
                    best = min(best, one_key(ready, key, PRE * n_banks + b, base, odd))
            return best
    return least_key(ready, key, rd, wr, act, pre, base, odd, WAIT_SHIFT, n_banks)


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", _nrt=False)
def offer(r, bank, key, offers, pool, b, n_banks):
    """Put a bank's candidates under the current write mode into the key table."""
    rd, wr, act, pre = INF, INF, INF, INF
    mode = r[R_MODE]
    active, hit, other = bank[b, B_ACTIVE], bank[b, B_HIT + mode], bank[b, B_OTHER + mode]
    if hit >= 0:
        k = candidate(pool, hit, b)
        if mode == RD:
            rd = k
        else:
            wr = k
    if active >= 0:
        k = (pool[active, AGE] << AGE_SHIFT) | b
        if pool[active, KIND] == RD:
            rd = k
        else:
            wr = k
    if other >= 0:
        k = candidate(pool, other, b)
        row = bank[b, B_OPEN_ROW]
        if row == CLOSED:
            act = k
        elif row >= 0 and active < 0 and (r[C_ROW_HIT] == 0 or hit < 0 or pool[hit, AGE] > pool[other, AGE]):
            pre = k
    put(key, offers, RD, b, rd, n_banks)
    put(key, offers, WR, b, wr, n_banks)
    put(key, offers, ACT, b, act, n_banks)
    put(key, offers, PRE, b, pre, n_banks)


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", _nrt=False)
def complete(r, book, done, ident, arrive, issue, depart, kind):
    """A request is over (or will be, at ``depart``)."""
    if r[C_COMPLETIONS]:
        n = r[R_COMPLETED]
        done[n, 0] = ident
        done[n, 1] = arrive
        done[n, 2] = issue
        done[n, 3] = depart
        done[n, 4] = kind
        r[R_COMPLETED] = n + 1
    if kind == RD:
        latency = depart - arrive
        r[S_LATENCY] += latency
        if latency < HISTOGRAM:
            book[F_HISTOGRAM + latency] += 1
        else:
            book[F_HISTOGRAM + HISTOGRAM + min(latency >> 10, HISTOGRAM - 1)] += 1
            r[S_MAX_LATENCY] = max(r[S_MAX_LATENCY], latency)
        if r[R_NEXT_ID] >= r[R_WATCH]:
            n = r[R_LATENCY_HEAD]
            # the peer hands reads back in order of issue: a forwarded one waits for those before it
            book[F_DEPART + n] = max(depart, r[S_LAST_READ] + r[C_READ_LATENCY])
            book[F_LATENCY + n] = latency
            r[R_LATENCY_HEAD] = (n + 1) & (RECENT - 1)


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", _nrt=False)
def filter_slot(address):
    return ((address * 0x1E3779B97F4A7C15) >> 40) & (FILTER - 1)


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", _nrt=False)
def leave_queue(r, bank, pool, book, s, q, b):
    """Take a request out of its list."""
    later, earlier = pool[s, NEXT], pool[s, PREVIOUS]
    if earlier < 0:
        bank[b, B_HEAD + q] = later
    else:
        pool[earlier, NEXT] = later
    if later < 0:
        bank[b, B_TAIL + q] = earlier
    else:
        pool[later, PREVIOUS] = earlier
    r[R_READS + q] -= 1
    if q == WR:
        book[filter_slot(pool[s, ADDRESS])] -= 1
    r[R_MODE_STALE] = 1


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", _nrt=False)
def issue_column(
    s, t, r, bank, ready, key, offers, pool, kinds, gap, last_issue, command_count, book, node, log, done,
    n_banks,
):  # fmt: skip
    """Read or write for the request in slot ``s``; its kind."""
    b, kind, row = pool[s, BANK], pool[s, KIND], pool[s, ROW]
    if pool[s, COUNTED] == 0:
        r[S_HITS] += 1
    more = False  # the next hit takes the place of this one, and nothing else changes
    if bank[b, B_ACTIVE] == s:
        bank[b, B_ACTIVE] = -1
        r[R_ACTIVE] -= 1
    else:
        hit = pool[s, NEXT]
        leave_queue(r, bank, pool, book, s, kind, b)
        while hit >= 0 and pool[hit, ROW] != row:
            hit = pool[hit, NEXT]
        bank[b, B_HIT + kind] = hit
        more = hit >= 0 and bank[b, B_ACTIVE] < 0 and bank[b, B_OTHER + kind] < 0
    issued = kind
    if r[C_PAGE] == PAGE_CLOSED and bank[b, B_HIT] < 0 and bank[b, B_HIT + WR] < 0 and bank[b, B_ACTIVE] < 0:
        issued = kind + 4
    command = after(issued, b, t, r, bank, ready, kinds, gap, last_issue, command_count, n_banks)
    record(r, log, t, command, b, row, pool[s, COLUMN], kind, pool[s, ARRIVE])
    if issued >= 4:
        # the device precharges once the row has been open long enough and the access is over
        opened_at = last_issue[kinds[ACT, K_COMMAND] * r[C_MAX_UNITS] + b]
        bank[b, B_OPEN_ROW] = CLOSED
        closed(bank, node, b, max(t + r[C_READ_CLOSE + kind], opened_at + r[C_ROW_OPEN]))
        sort_out(bank, pool, b)
    bank[b, B_LAST_COLUMN] = t
    if more:
        put(key, offers, kind, b, candidate(pool, bank[b, B_HIT + kind], b), n_banks)
    else:
        offer(r, bank, key, offers, pool, b, n_banks)
    depart = t + r[C_READ_LATENCY + kind]
    r[S_READS_SERVED + kind] += 1
    r[S_LAST_READ + kind] = t
    complete(r, book, done, pool[s, ID], pool[s, ARRIVE], t, depart, kind)
    pool[s, NEXT] = r[R_FREE]
    r[R_FREE] = s
    return kind


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", _nrt=False)
def issue_activate(
    b, t, split, r, bank, ready, key, offers, pool, kinds, gap, window, window_node, window_ring, window_gap,
    last_issue, command_count, book, node, log, n_banks,
):  # fmt: skip
    """Open the row the bank's oldest request of the current mode needs."""
    mode = r[R_MODE]
    s = bank[b, B_OTHER + mode]
    if pool[s, COUNTED] == 0:
        r[S_MISSES] += 1
        pool[s, COUNTED] = 1
    leave_queue(r, bank, pool, book, s, mode, b)
    act = after(ACT, b, t, r, bank, ready, kinds, gap, last_issue, command_count, n_banks)
    g = bank[b, B_GROUP]
    for w in range(r[C_WINDOWS]):
        if window[w, W_FIRST] == act:
            n, length = window_node[w, b], window[w, W_LENGTH]
            at = window_ring[w, n, length]
            window_ring[w, n, at] = t
            at += 1
            if at == length:
                at = 0
            window_ring[w, n, length] = at
            if window[w, W_THEN] == act:
                oldest = window_ring[w, n, at]
                push(ready, ACT * n_banks, window_gap, (w * r[C_GROUPS] + g) * n_banks, oldest, n_banks)
    record(r, log, t, act, b, pool[s, ROW], pool[s, COLUMN], mode, pool[s, ARRIVE])
    opened(bank, node, b, t)
    bank[b, B_LAST_COLUMN] = t
    if split:
        bank[b, B_OPEN_ROW] = ACTIVATING
        r[R_ACT2_SLOT] = s
        r[R_ACT2_DEADLINE] = t + r[C_ACT2_DEADLINE]
    else:
        bank[b, B_OPEN_ROW] = pool[s, ROW]
        bank[b, B_ACTIVE] = s
        r[R_ACTIVE] += 1
        put(key, offers, mode, b, (pool[s, AGE] << AGE_SHIFT) | b, n_banks)
    put(key, offers, ACT, b, INF, n_banks)
    sort_out(bank, pool, b)


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", _nrt=False)
def issue_precharge(
    b, t, r, bank, ready, key, offers, pool, kinds, gap, last_issue, command_count, node, log, n_banks
):
    """Close the row in the way of the bank's oldest other request of the current mode."""
    mode = r[R_MODE]
    s = bank[b, B_OTHER + mode]
    if pool[s, COUNTED] == 0:
        r[S_CONFLICTS] += 1
        pool[s, COUNTED] = 1
    pre = after(PRE, b, t, r, bank, ready, kinds, gap, last_issue, command_count, n_banks)
    record(r, log, t, pre, b, pool[s, ROW], pool[s, COLUMN], mode, pool[s, ARRIVE])
    if bank[b, B_HIT + mode] >= 0:
        put(key, offers, mode, b, INF, n_banks)
    bank[b, B_OPEN_ROW] = CLOSED
    closed(bank, node, b, t)
    sort_out(bank, pool, b)
    put(key, offers, PRE, b, INF, n_banks)
    put(key, offers, ACT, b, candidate(pool, bank[b, B_OTHER + mode], b), n_banks)


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", _nrt=False)
def accept(address, kind, now, r, bank, key, offers, pool, book, slices, done, n_banks):
    """Try to take a request in.

    -2: no room; -1: taken; otherwise taken, and the new candidate's kind and bank as
    ``kind << KIND_SHIFT | bank``.
    """
    word = decode(slices, r[C_SLICES], address)
    column = word & ((1 << r[C_COLUMN_BITS]) - 1)
    word >>= r[C_COLUMN_BITS]
    b = word & ((1 << r[C_BANK_BITS]) - 1)
    word >>= r[C_BANK_BITS]
    row = word & ((1 << r[C_ROW_BITS]) - 1)
    if book[filter_slot(address)]:
        s = bank[b, B_HEAD + WR]
        while s >= 0:
            if pool[s, ADDRESS] == address:
                # a read returns the queued write's data, a write replaces it
                complete(r, book, done, r[R_NEXT_ID], now - 1, -1, now - kind, kind)
                r[S_READS + kind] += 1
                r[S_FORWARDED + kind] += 1
                r[S_LAST_FORWARD] = now
                r[R_NEXT_ID] += 1
                return -1
            s = pool[s, NEXT]
    if r[R_READS + kind] >= r[C_READ_QUEUE + kind]:
        return -2
    r[R_READS + kind] += 1
    r[S_READS + kind] += 1
    if kind == WR:
        book[filter_slot(address)] += 1
    s = r[R_FREE]
    r[R_FREE] = pool[s, NEXT]
    age = r[R_AGE]
    tail = bank[b, B_TAIL + kind]
    pool[s, ROW] = row
    pool[s, COLUMN] = column
    pool[s, BANK] = b
    pool[s, KIND] = kind
    pool[s, AGE] = age
    pool[s, ARRIVE] = now - 1
    pool[s, ID] = r[R_NEXT_ID]
    pool[s, COUNTED] = 0
    pool[s, NEXT] = -1
    pool[s, PREVIOUS] = tail
    pool[s, ADDRESS] = address
    if tail < 0:
        bank[b, B_HEAD + kind] = s
    else:
        pool[tail, NEXT] = s
    bank[b, B_TAIL + kind] = s
    r[R_AGE] = age + 1
    r[R_NEXT_ID] += 1
    r[R_MODE_STALE] = 1
    open_row, active = bank[b, B_OPEN_ROW], bank[b, B_ACTIVE]
    if open_row == row:
        if bank[b, B_HIT + kind] >= 0:
            return -1
        bank[b, B_HIT + kind] = s
        offered = kind
        if active >= 0 and pool[active, KIND] == kind:
            return -1
    else:
        if bank[b, B_OTHER + kind] >= 0:
            return -1
        bank[b, B_OTHER + kind] = s
        offered = ACT
        if open_row != CLOSED:
            offered = PRE
            if open_row == ACTIVATING or active >= 0 or (r[C_ROW_HIT] and bank[b, B_HIT + kind] >= 0):
                return -1
    if kind != r[R_MODE]:
        return -1
    put(key, offers, offered, b, CLASS_BIT | (age << AGE_SHIFT) | b, n_banks)
    return (offered << KIND_SHIFT) | b


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", _nrt=False)
def must_wait(address, kind, r, book):
    """A request would surely find no room."""
    return r[R_READS + kind] >= r[C_READ_QUEUE + kind] and book[filter_slot(address)] == 0


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", _nrt=False)
def run_of_hits(
    b, t, address, is_write, i, n, r, bank, ready, key, offers, pool, kinds, gap, last_issue, command_count,
    book, slices, n_banks,
):  # fmt: skip
    """A run of reads of one open row, the only candidates, each making room for the next request.

    The read queue is full and holds nothing else that could issue. Reads follow at the distance of
    two reads of a bank, and after each the next request enters, as long as it is one of the run.
    Returns the number of reads issued, the tick of the last, and the next request.
    """
    row, g = bank[b, B_OPEN_ROW], bank[b, B_GROUP]
    step = max(kinds[RD, K_BANK_GAP + RD], kinds[RD, K_BUS_CYCLES])
    step = max(step, gap[g * n_banks + b])
    s, tail = bank[b, B_HIT], bank[b, B_TAIL]
    age, ident, latency = r[R_AGE], r[R_NEXT_ID], r[C_READ_LATENCY]
    columns, banks, rows = r[C_COLUMN_BITS], r[C_BANK_BITS], r[C_ROW_BITS]
    here = row << banks | b
    issued, last, hits, waited = 0, t, 0, 0
    # leave the end to the common path, which remembers the reads under way
    end = min(n - 1, i + r[R_WATCH] - ident - 1)
    while i < end and t < r[R_NEXT_REFRESH] and is_write[i] == 0 and pool[s, NEXT] >= 0:
        word = decode(slices, r[C_SLICES], address[i])
        if (word >> columns) & ((1 << (banks + rows)) - 1) != here or book[filter_slot(address[i])]:
            break
        hits += 1 - pool[s, COUNTED]
        took = t + latency - pool[s, ARRIVE]
        waited += took
        if took < HISTOGRAM:
            book[F_HISTOGRAM + took] += 1
        else:
            book[F_HISTOGRAM + HISTOGRAM + min(took >> 10, HISTOGRAM - 1)] += 1
            r[S_MAX_LATENCY] = max(r[S_MAX_LATENCY], took)
        following = pool[s, NEXT]
        pool[following, PREVIOUS] = -1
        # the next request takes the slot: same row, bank and kind
        pool[s, COLUMN] = word & ((1 << columns) - 1)
        pool[s, AGE] = age
        pool[s, ARRIVE] = t
        pool[s, ID] = ident
        pool[s, COUNTED] = 0
        pool[s, NEXT] = -1
        pool[s, PREVIOUS] = tail
        pool[s, ADDRESS] = address[i]
        pool[tail, NEXT] = s
        tail = s
        s = following
        age += 1
        ident += 1
        i += 1
        issued += 1
        last = t
        t += step
    if issued:
        bank[b, B_HEAD] = s
        bank[b, B_HIT] = s
        bank[b, B_TAIL] = tail
        bank[b, B_LAST_COLUMN] = last
        r[R_AGE] = age
        r[R_NEXT_ID] = ident
        r[S_READS] += issued
        r[S_READS_SERVED] += issued
        r[S_HITS] += hits
        r[S_LATENCY] += waited
        r[S_LAST_READ] = last
        command = after(RD, b, last, r, bank, ready, kinds, gap, last_issue, command_count, n_banks)
        command_count[command] += issued - 1
        put(key, offers, RD, b, candidate(pool, s, b), n_banks)
    return issued, last, i


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", _nrt=False)
def only_one(offers, kind, n_banks):
    """One bank offers a candidate of a kind, and none of another."""
    if n_banks > 64:
        return False
    others = 0
    for k in range(4):
        if k != kind:
            others |= offers[k]
    return others == 0 and offers[kind] & (offers[kind] - 1) == 0


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", _nrt=False)
def watch_from(r, n):
    """Remember reads from here on: they may be under way when the last of ``n`` more is accepted."""
    r[R_WATCH] = r[R_NEXT_ID] + n - r[C_READ_LATENCY] - 2


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy", _nrt=False)
def new_mode(r):
    """Write mode after a look at the watermarks."""
    if r[R_MODE] == RD:
        return WR if r[R_WRITES] > r[C_WRITE_HIGH] or r[R_READS] == 0 else RD
    return RD if r[R_WRITES] < r[C_WRITE_LOW] and r[R_READS] != 0 else WR


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def switch_mode(mode, r, bank, key, offers, pool, n_banks):
    r[R_MODE] = mode
    for b in range(n_banks):
        offer(r, bank, key, offers, pool, b, n_banks)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def least_active(ready, key, base, n_banks):
    """Least key among activated requests only."""
    best = INF
    for at in range(2 * n_banks):
        if key[at] < CLASS_BIT:
            best = min(best, (max(ready[at] - base, 0) << WAIT_SHIFT) + key[at])
    return best


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def ready_of(ch, command, unit):
    """First tick at which a command breaks no rule, from the last issues of all others."""
    ready = 0
    width, most = ch.units[command], ch.r[C_MAX_UNITS]
    for c in range(ch.r[C_COMMANDS]):
        offset = ch.pair_offset[c, command]
        if offset >= 0:
            for u in range(ch.units[c]):
                ready = max(ready, ch.last_issue[c * most + u] + ch.pair_gap[offset + u * width + unit])
    for w in range(ch.r[C_WINDOWS]):
        if ch.window[w, W_THEN] == command:
            for b in range(ch.unit_of.shape[1]):
                if ch.unit_of[command, b] == unit:
                    n = ch.window_node[w, b]
                    oldest = ch.window_ring[w, n, ch.window_ring[w, n, ch.window[w, W_LENGTH]]]
                    ready = max(ready, oldest + ch.window[w, W_GAP])
    return ready


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def issue_other(ch, command, unit, s, t, n_banks, log):
    """Issue a command by its table row alone: second activate or sync for slot ``s``, or maintenance (-1)."""
    r = ch.r
    for then in range(4):
        offset = ch.pair_offset[command, ch.kind[then, K_COMMAND]]
        if offset >= 0:
            push(ch.ready, then * n_banks, ch.pair_gap, offset + unit * n_banks, t, n_banks)
    act = ch.kind[ACT, K_COMMAND]
    for w in range(r[C_WINDOWS]):
        if ch.window[w, W_FIRST] == command:
            length, previous = ch.window[w, W_LENGTH], -1
            for b in range(ch.unit_of.shape[1]):
                n = ch.window_node[w, b]
                if ch.unit_of[command, b] == unit and n != previous:
                    previous = n
                    at = ch.window_ring[w, n, length]
                    ch.window_ring[w, n, at] = t
                    at = (at + 1) % length
                    ch.window_ring[w, n, length] = at
                    if ch.window[w, W_THEN] == act:
                        gaps = (w * r[C_GROUPS] + ch.bank[b, B_GROUP]) * n_banks
                        push(ch.ready, ACT * n_banks, ch.window_gap, gaps, ch.window_ring[w, n, at], n_banks)
    ch.last_issue[command * r[C_MAX_UNITS] + unit] = t
    ch.command_count[command] += 1
    if s < 0:
        record(r, log, t, command, unit, -1, -1, -1, -1)
    else:
        pool = ch.pool
        record(r, log, t, command, unit, pool[s, ROW], pool[s, COLUMN], pool[s, KIND], pool[s, ARRIVE])


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def pending_refresh(ch):
    """(command, unit, blocked): what the oldest refresh due needs next."""
    refresh = ch.r[C_REFRESH_COMMAND]
    unit = ch.pending[ch.r[R_PENDING_HEAD]]
    is_open, blocked = False, False
    first = ch.cover_start[refresh, unit]
    for i in range(first, ch.cover_start[refresh, unit + 1]):
        b = ch.cover_bank[i]
        row = ch.bank[b, B_OPEN_ROW]
        is_open |= row != CLOSED
        blocked |= ch.bank[b, B_ACTIVE] >= 0 or row == ACTIVATING
    if not is_open:
        return refresh, unit, False
    precharge = ch.r[C_REFRESH_PRECHARGE]
    return precharge, ch.unit_of[precharge, ch.cover_bank[first]], blocked


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def issue_refresh_step(ch, t, n_banks, log):
    """The refresh, or the precharge before it; its number."""
    r = ch.r
    command, unit, _ = pending_refresh(ch)
    issue_other(ch, command, unit, -1, t, n_banks, log)
    if command == r[C_REFRESH_COMMAND]:
        r[R_PENDING_HEAD] = (r[R_PENDING_HEAD] + 1) % len(ch.pending)
        r[R_PENDING] -= 1
        return command
    for i in range(ch.cover_start[command, unit], ch.cover_start[command, unit + 1]):
        b = ch.cover_bank[i]
        if ch.bank[b, B_OPEN_ROW] != CLOSED:
            ch.bank[b, B_OPEN_ROW] = CLOSED
            closed(ch.bank, ch.node, b, t)
            sort_out(ch.bank, ch.pool, b)
            offer(r, ch.bank, ch.key, ch.offers, ch.pool, b, n_banks)
    return command


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def idle_too_long(r):
    """A refresh is about to fall due in an idle channel, the last of the number in `R_IDLE`."""
    if r[R_READS] or r[R_WRITES] or r[R_ACTIVE] or r[R_ACT2_SLOT] >= 0:
        return False
    r[R_IDLE] -= 1
    return r[R_IDLE] <= 0


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def due_refresh(ch):
    """Queue the refreshes of this interval."""
    r = ch.r
    width = r[C_REFRESH_WIDTH]
    for i in range(width):
        at = (r[R_PENDING_HEAD] + r[R_PENDING]) % len(ch.pending)
        ch.pending[at] = ch.refresh_units[r[R_REFRESH_ROUND] * width + i]
        r[R_PENDING] += 1
    r[R_REFRESH_ROUND] = (r[R_REFRESH_ROUND] + 1) % r[C_REFRESH_ROUNDS]
    r[R_NEXT_REFRESH] += r[C_REFRESH_INTERVAL]


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def idle_bank(r, bank, ready, now, n_banks):
    """Timeout policy: (tick, bank) of the next idle row to close, lowest bank first once due."""
    when, which = INF, -1
    for b in range(n_banks):
        wanted = bank[b, B_ACTIVE] >= 0 or bank[b, B_HIT] >= 0 or bank[b, B_HIT + WR] >= 0
        if bank[b, B_OPEN_ROW] >= 0 and not wanted:
            t = max(max(ready[PRE * n_banks + b], bank[b, B_LAST_COLUMN] + r[C_TIMEOUT]), now)
            if t < when:
                when, which = t, b
    return when, which


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def close_idle(ch, b, t, n_banks, log):
    r, bank = ch.r, ch.bank
    row = bank[b, B_OPEN_ROW]
    pre = after(PRE, b, t, r, bank, ch.ready, ch.kind, ch.gap, ch.last_issue, ch.command_count, n_banks)
    record(r, log, t, pre, b, row, -1, -1, -1)
    bank[b, B_OPEN_ROW] = CLOSED
    closed(bank, ch.node, b, t)
    sort_out(bank, ch.pool, b)
    offer(r, bank, ch.key, ch.offers, ch.pool, b, n_banks)
    return pre


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def last_accepted(r, last, book, now):
    """Keep the counters of the moment the last request went in (where the peer's run ends)."""
    r[S_LAST_ACCEPT] = now - 1
    returned = r[S_LATENCY]
    for i in range(RECENT):
        if book[F_DEPART + i] > now - 1:
            returned -= book[F_LATENCY + i]
    r[S_DEPARTED_LATENCY] = returned
    for i in range(len(r)):
        last[i] = r[i]


def empty_log(capacity: int, columns: int) -> np.ndarray:
    """Room for commands (7 columns) or completions (5)."""
    return np.zeros((max(capacity, 1) + LOG_MARGIN, columns), dtype=np.int64)
