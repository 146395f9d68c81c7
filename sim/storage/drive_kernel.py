"""A drive around its flash: host link, firmware, write cache, mapping, garbage collection.

``s`` holds the addresses of the tables (`neardata.sim.storage.table_kernel`).
tests/naive/drive.py is the twin.
"""

# ruff: noqa: F405, SIM102

import numpy as np
from numba import njit

from neardata.sim.storage.fields import *  # noqa: F403
from neardata.sim.storage.flash_kernel import arbitrate, flash_event, pop, push, submit
from neardata.sim.storage.lru_kernel import find, insert, remove, touch
from neardata.sim.storage.table_kernel import *  # noqa: F403


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _ones(mask):
    n = 0
    left = np.uint64(mask)
    while left:
        left &= left - np.uint64(1)
        n += 1
    return n


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _wire(d, payload):
    """Ticks of a message on the host link."""
    packets = (payload + d[D_PAYLOAD] - 1) // d[D_PAYLOAD]
    size = payload + packets * d[D_OVERHEAD]
    if d[D_TRUNCATED]:
        return (size + d[D_LANES] - 1) // d[D_LANES] * d[D_LINK_NUM] // d[D_LINK_DEN] * d[D_TICKS_NS]
    return (size * d[D_LINK_NUM] + d[D_LINK_DEN] - 1) // d[D_LINK_DEN]


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _up(s, now, time):
    """Take the link to the host; when the message has left."""
    begin = max(now, t_m(s)[M_UP])
    t_m(s)[M_UP] = begin + time
    t_m(s)[M_UP_BUSY] += time
    return begin + time


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _down(s, now, time):
    begin = max(now, t_m(s)[M_DOWN])
    t_m(s)[M_DOWN] = begin + time
    t_m(s)[M_DOWN_BUSY] += time
    return begin + time


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _take_in(s, i, now):
    """A command of the host is fetched: it is in the drive when its event comes."""
    d, m, r = t_d(s), t_m(s), t_r(s)
    m[M_INSIDE] += 1
    if d[D_TRUNCATED]:
        push(t_h(s), t_g(s), _up(s, now, _wire(d, d[D_REQUEST])), E_FETCH << E_SHIFT | i)
        return
    # small messages go between the packets of long ones, which they delay by their own time
    time = d[D_WIRE_COMMAND]
    m[M_DOWN_BUSY] += time
    if m[M_DOWN] > now:
        m[M_DOWN] += time
    arrived = now + time + 2 * d[D_LINK_LATENCY]
    core = 0
    for k in range(1, d[D_CORES]):
        if m[CORES_AT + k] < m[CORES_AT + core]:
            core = k
    work = d[D_READ_TIME] if r[i, OP] == OP_READ else d[D_WRITE_TIME]
    begin = max(arrived, m[CORES_AT + core])
    m[CORES_AT + core] = begin + work
    m[M_CORE_BUSY] += work
    push(t_h(s), t_g(s), begin + work + d[D_LATENCY], E_COMMAND << E_SHIFT | i)


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _send_command(s, i, now):
    """The host puts a request into its queue and rings."""
    d, r = t_d(s), t_r(s)
    r[i, SENT] = now
    if d[D_TRUNCATED]:
        push(t_h(s), t_g(s), _down(s, now, _wire(d, d[D_DOORBELL])), E_DOORBELL << E_SHIFT | i)
        return
    _rung(s, i, now + d[D_LINK_LATENCY])


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _rung(s, i, now):
    m, r = t_m(s), t_r(s)
    if m[M_INSIDE] < t_d(s)[D_FETCH] and m[M_WAIT_HEAD] == NONE:
        _take_in(s, i, now)
        return
    r[i, R_NEXT] = NONE
    if m[M_WAIT_HEAD] == NONE:
        m[M_WAIT_HEAD] = i
    else:
        r[m[M_WAIT_TAIL], R_NEXT] = i
    m[M_WAIT_TAIL] = i


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _item_done(s, i, now):
    """One of the things a request waits for has happened; after the last one the host is told."""
    d, m, r = t_d(s), t_m(s), t_r(s)
    r[i, ITEMS] -= 1
    if r[i, ITEMS]:
        return
    m[M_INSIDE] -= 1
    if d[D_TRUNCATED] and r[i, OP] == OP_READ:
        _up(s, now, _wire(d, r[i, SECTORS] * 512))
    waiting = m[M_WAIT_HEAD]
    if waiting != NONE and m[M_INSIDE] < d[D_FETCH]:
        m[M_WAIT_HEAD] = r[waiting, R_NEXT]
        _take_in(s, waiting, now)
    time = d[D_WIRE_COMPLETION]
    if not d[D_TRUNCATED] and r[i, OP] == OP_READ:
        time += _wire(d, r[i, SECTORS] * 512)
    push(t_h(s), t_g(s), _up(s, now, time) + d[D_LINK_LATENCY], E_ENDED << E_SHIFT | i)


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _new(s, kind, source, size_in, size_out, lpa, mask, owner):
    """A transaction from the pool."""
    x, m = t_x(s), t_m(s)
    i = m[M_FREE_TX]
    m[M_FREE_TX] = x[i, NEXT]
    m[M_FREE_N] -= 1
    for k in range(TX_COLUMNS):
        x[i, k] = 0
    x[i, KIND] = kind
    x[i, SOURCE] = source
    x[i, BYTES_IN] = size_in
    x[i, BYTES_OUT] = size_out
    x[i, LPA] = lpa
    x[i, MASK] = mask
    x[i, OWNER] = owner
    x[i, RANK] = 1
    x[i, MATE] = x[i, NEXT] = x[i, AUX] = x[i, PPA] = NONE
    return i


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _at(s, i, ppa, column):
    """Address a transaction to a physical page."""
    x, d = t_x(s), t_d(s)
    page = ppa % d[D_PAGES]
    plane = ppa // d[D_PAGES] // d[D_BLOCKS]
    x[i, PPA] = ppa
    x[i, UNIT] = t_pl(s)[plane, P_UNIT]
    x[i, DIE] = t_pl(s)[plane, P_DIE]
    x[i, PLANE] = t_pl(s)[plane, P_PLANE]
    x[i, PAGE] = page
    x[i, TYPE] = t_types(s)[page]
    x[i, CLASS] = column


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _identity(d, alloc, lpa):
    """Where a page of the filled space lies that was never written again."""
    n = d[D_PLANES]
    at = lpa // n
    block = (d[D_FILL_BLOCK] + at // d[D_PAGES]) % d[D_BLOCKS]
    return (alloc[lpa % n] * d[D_BLOCKS] + block) * d[D_PAGES] + at % d[D_PAGES]


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _where(s, lpa):
    """Physical page of a logical one, or NONE."""
    ppa = t_l2p(s)[lpa]
    if ppa > 0:
        return np.int64(ppa) - 1
    if ppa == 0 and lpa < t_d(s)[D_FILLED]:
        return _identity(t_d(s), t_alloc(s), lpa)
    return np.int64(NONE)


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _holds(s, ppa):
    """What a physical page holds: logical page + 1, -(translation page + 1), or 0."""
    d = t_d(s)
    held = np.int64(t_p2l(s)[ppa])
    if held == GONE:
        return np.int64(0)
    if held != 0:
        return held
    page = ppa % d[D_PAGES]
    block = ppa // d[D_PAGES] % d[D_BLOCKS] - d[D_FILL_BLOCK]
    if block < 0 or d[D_FILLED] == 0:
        return np.int64(0)
    plane = ppa // d[D_PAGES] // d[D_BLOCKS]
    lpa = (block * d[D_PAGES] + page) * d[D_PLANES] + t_pl(s)[plane, P_POSITION]
    if lpa < d[D_FILLED] and t_l2p(s)[lpa] == 0 and t_b(s)[ppa // d[D_PAGES], BORN] == 0:
        return lpa + 1
    return np.int64(0)


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _invalidate(s, ppa):
    t_p2l(s)[ppa] = GONE
    t_b(s)[ppa // t_d(s)[D_PAGES], INVALID] += 1


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _mark(s, plane, what):
    """Look at a plane when this event is over."""
    if t_pl(s)[plane, PENDING] == 0:
        t_stack(s)[t_m(s)[M_STACK]] = plane
        t_m(s)[M_STACK] += 1
    t_pl(s)[plane, PENDING] |= what


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _room(s, plane):
    """Pages that may still be moved within a plane: a free block is left to each other front."""
    d, pl, b = t_d(s), t_pl(s), t_b(s)
    pages = d[D_PAGES]
    blocks = pl[plane, FREE] - 1 - d[D_CACHED]
    return blocks * pages + pages - b[pl[plane, GC_FRONT], WRITTEN] - 1 - pl[plane, MOVING_PAGES]


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _free_block(s, plane):
    """Take the first block of the plane's free ones."""
    pl, b, m = t_pl(s), t_b(s), t_m(s)
    if pl[plane, FREE] == 0:
        m[M_ERROR] = 1
        m[M_ERROR_AT] = plane
        return pl[plane, DATA_FRONT]
    block = pl[plane, FREE_HEAD]
    pl[plane, FREE_HEAD] = b[block, NEXT_FREE]
    if pl[plane, FREE_HEAD] == NONE:
        pl[plane, FREE_TAIL] = NONE
    pl[plane, FREE] -= 1
    m[M_BIRTHS] += 1
    b[block, BORN] = m[M_BIRTHS]
    return block


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _next_page(s, plane, front, holds):
    """The next page of one of a plane's blocks being written."""
    d, pl, b = t_d(s), t_pl(s), t_b(s)
    block = pl[plane, front]
    if b[block, WRITTEN] == d[D_PAGES]:
        t_m(s)[M_ERROR] = 1
        t_m(s)[M_ERROR_AT] = plane
        return block * d[D_PAGES]
    ppa = block * d[D_PAGES] + b[block, WRITTEN]
    b[block, WRITTEN] += 1
    t_p2l(s)[ppa] = holds
    if b[block, WRITTEN] == d[D_PAGES]:
        pl[plane, front] = _free_block(s, plane)
        _mark(s, plane, CHECK)
    return ppa


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _submit(s, i, now):
    submit(s, i, now)


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _place(s, i, now):
    """A host's page whose mapping entry is at hand: find or choose its physical page and queue it."""
    x, d, m, b, pl = t_x(s), t_d(s), t_m(s), t_b(s), t_pl(s)
    lpa = x[i, LPA]
    if x[i, KIND] == READ:
        ppa = _where(s, lpa)
        if ppa == NONE and d[D_READ_ALLOCATES]:
            plane = t_alloc(s)[lpa % d[D_PLANES]]
            ppa = _next_page(s, plane, DATA_FRONT, lpa + 1)
            t_l2p(s)[lpa] = ppa + 1
            t_bits(s)[lpa] |= x[i, MASK]
            if d[D_CACHED]:
                slot = find(t_wt(s), t_we(s), lpa)
                if slot != NONE:
                    t_we(s)[slot, STATUS] = DIRTY_ENTRY
        if ppa == NONE:  # never written: timed as a read of its place
            _at(s, i, _identity(d, t_alloc(s), lpa), USER_READ)
            x[i, PPA] = NONE
        else:
            _at(s, i, ppa, USER_READ)
            b[ppa // d[D_PAGES], READING] += 1
        _submit(s, i, now)
        return
    if d[D_DYNAMIC]:
        if x[i, AUX] == NONE:
            x[i, AUX] = m[M_TURN]
            m[M_TURN] = (m[M_TURN] + 1) % d[D_PLANES]
        plane = t_alloc(s)[x[i, AUX]]
    else:
        plane = t_alloc(s)[lpa % d[D_PLANES]]
    if pl[plane, FREE] < d[D_RESERVE] or _room(s, plane) < 0:
        x[i, NEXT] = NONE
        if pl[plane, WAIT_HEAD] == NONE:
            pl[plane, WAIT_HEAD] = i
        else:
            x[pl[plane, WAIT_TAIL], NEXT] = i
        pl[plane, WAIT_TAIL] = i
        if pl[plane, JOBS] == 0:
            _mark(s, plane, CHECK)
        return
    x[i, AUX] = NONE
    mask = x[i, MASK]
    old = _where(s, lpa)
    if old != NONE:
        held = t_bits(s)[lpa] if t_bits(s)[lpa] != 0 else d[D_FULL]
        rest = held & ~mask
        if rest != 0:
            j = _new(s, READ, BY_UPDATE, 0, _ones(rest) * 512, lpa, rest, NONE)
            _at(s, j, old, USER_READ)
            x[j, AUX] = i
            b[old // d[D_PAGES], READING] += 1
            x[i, WAITS] += 1
            m[M_UPDATE_READS] += 1
            if not d[D_READ_ALLOCATES]:  # the whole page is written again
                x[i, BYTES_IN] = _ones(held | mask) * 512
            _submit(s, j, now)
        mask |= held
        _invalidate(s, old)
    t_bits(s)[lpa] = mask
    ppa = _next_page(s, plane, DATA_FRONT, lpa + 1)
    t_l2p(s)[lpa] = ppa + 1
    if d[D_CACHED]:
        slot = find(t_wt(s), t_we(s), lpa)
        if slot != NONE:
            t_we(s)[slot, STATUS] = DIRTY_ENTRY
    _at(s, i, ppa, USER_WRITE)
    b[ppa // d[D_PAGES], PROGRAMMING] += 1
    m[M_HOST_PAGES] += 1
    _submit(s, i, now)


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _read_translation(s, page, aux, size, now):
    i = _new(s, READ, BY_MAP_READ, 0, size, page, 0, NONE)
    ppa = t_v(s)[page, V_PPA] - 1
    _at(s, i, ppa, MAP_READ)
    t_x(s)[i, RANK] = 0
    t_x(s)[i, AUX] = aux
    t_b(s)[ppa // t_d(s)[D_PAGES], READING] += 1
    t_v(s)[page, V_STATE] |= V_READING
    t_m(s)[M_MAP_READS] += 1
    _submit(s, i, now)


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _evict_entry(s, now):
    """Make room for a mapping entry; a dirty one takes the others of its translation page along."""
    d, m, v = t_d(s), t_m(s), t_v(s)
    slot = t_wk(s)[L_TAIL]
    lpa, status = t_we(s)[slot, KEY], t_we(s)[slot, STATUS]
    remove(t_wt(s), t_we(s), t_wk(s), slot)
    if status != DIRTY_ENTRY:
        return
    page = lpa // d[D_ENTRIES]
    unchanged = 0
    for k in range(page * d[D_ENTRIES], (page + 1) * d[D_ENTRIES]):
        other = find(t_wt(s), t_we(s), k)
        if other != NONE and t_we(s)[other, STATUS] == DIRTY_ENTRY:
            t_we(s)[other, STATUS] = CLEAN
        else:
            unchanged = 1
    v[page, V_STATE] |= V_DEPARTING
    write = NONE
    if not d[D_MAP_LOST]:
        plane = t_alloc(s)[page % d[D_PLANES]]
        write = _new(s, PROGRAM, BY_MAP_WRITE, t_p(s)[PAGE_BYTES], 0, page, 0, NONE)
        old = v[page, V_PPA] - 1
        ppa = _next_page(s, plane, MAP_FRONT, -(page + 1))
        _at(s, write, ppa, USER_WRITE)
        t_b(s)[ppa // d[D_PAGES], PROGRAMMING] += 1
        m[M_MAP_WRITES] += 1
        if unchanged:
            t_x(s)[write, WAITS] = 1
            _read_translation(s, page, write, t_p(s)[PAGE_BYTES], now)
        if t_p2l(s)[old] != GONE:
            _invalidate(s, old)
        v[page, V_PPA] = ppa + 1
        _submit(s, write, now)
    elif unchanged:
        _read_translation(s, page, NONE, 512, now)


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _map(s, i, now):
    """Place a host's page, once its mapping entry is in the controller."""
    d, m, x, v = t_d(s), t_m(s), t_x(s), t_v(s)
    if d[D_CACHED] == 0:
        _place(s, i, now)
        return
    lpa = x[i, LPA]
    slot = find(t_wt(s), t_we(s), lpa)
    if slot != NONE and t_we(s)[slot, STATUS] != WAITING:
        m[M_HITS] += 1
        touch(t_we(s), t_wk(s), slot)
        _place(s, i, now)
        return
    m[M_MISSES] += 1
    page = lpa // d[D_ENTRIES]
    if slot == NONE:
        if t_wk(s)[L_COUNT] >= s[WE_ROWS]:
            _evict_entry(s, now)
        slot = insert(t_wt(s), t_we(s), t_wk(s), lpa)
        t_we(s)[slot, STATUS] = WAITING
    if v[page, V_STATE] & V_READING == 0:
        if v[page, V_STATE] & V_DEPARTING:
            t_we(s)[slot, STATUS] = CLEAN
            _place(s, i, now)
            return
        _read_translation(s, page, NONE, 512, now)
    m[M_WAITING] += 1
    x[i, NEXT] = NONE
    if v[page, V_HEAD] == NONE:
        v[page, V_HEAD] = i
    else:
        x[v[page, V_TAIL], NEXT] = i
    v[page, V_TAIL] = i


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _ram(s, now, size):
    """Take the cache's DRAM; when it is done."""
    d, m = t_d(s), t_m(s)
    row = d[D_RAM_ROW]
    if d[D_RAM_FORMULA]:
        if size <= row:
            time = d[D_RAM_FIRST] + size // d[D_RAM_BURST] // 2 * d[D_RAM_NUM] // d[D_RAM_DEN]
        else:
            whole = row // d[D_RAM_BURST] // 2 * d[D_RAM_NUM] // d[D_RAM_DEN] + d[D_RAM_ROW_TIME]
            time = 2 * d[D_RAM_FIRST] + whole * (size // row // 2)
            time += size % row * d[D_RAM_DEN] // (d[D_RAM_BURST] * d[D_RAM_NUM])
        time *= d[D_TICKS_NS]
    else:
        rows = (size + row - 1) // row
        time = d[D_RAM_FIRST] + (rows - 1) * d[D_RAM_ROW_TIME]
        time += (size * d[D_RAM_NUM] + d[D_RAM_DEN] - 1) // d[D_RAM_DEN]
    begin = max(now, m[M_RAM])
    m[M_RAM] = begin + time
    m[M_RAM_BUSY] += time
    return begin + time


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _mask_of(s, i, lpa):
    """Sectors of a page that a request touches, as bits."""
    n = t_p(s)[PAGE_BYTES] // 512
    first = max(t_r(s)[i, LBA] - lpa * n, 0)
    last = min(t_r(s)[i, LBA] + t_r(s)[i, SECTORS] - lpa * n, n)
    if last - first == 64:
        return np.int64(-1)
    return ((np.int64(1) << (last - first)) - 1) << first


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _cache_write(s, i, now):
    """Put pages of a write into the cache while there is room, and write cold ones on at once."""
    d, m, r, x = t_d(s), t_m(s), t_r(s), t_x(s)
    n = t_p(s)[PAGE_BYTES] // 512
    last = (r[i, LBA] + r[i, SECTORS] - 1) // n
    evicted, on_way, stored = 0, 0, 0
    first_evicted, write_head, write_tail = NONE, NONE, NONE
    while r[i, R_LPA] <= last and m[M_PRESSURE] + evicted + on_way < d[D_PRESSURE]:
        lpa = r[i, R_LPA]
        r[i, R_LPA] += 1
        mask = _mask_of(s, i, lpa)
        m[M_VERSION] += 1
        slot = find(t_ct(s), t_ce(s), lpa)
        if slot != NONE:
            t_ce(s)[slot, BITS] |= mask
            t_ce(s)[slot, STATUS] = DIRTY_ENTRY
            touch(t_ce(s), t_ck(s), slot)
            m[M_CACHE_HITS] += 1
        else:
            if t_ck(s)[L_COUNT] >= s[CE_ROWS]:
                old = t_ck(s)[L_TAIL]
                if t_ce(s)[old, STATUS] == DIRTY_ENTRY:
                    size = _ones(t_ce(s)[old, BITS])
                    j = _new(s, PROGRAM, BY_CACHE, size * 512, 0, t_ce(s)[old, KEY], t_ce(s)[old, BITS], NONE)
                    x[j, B] = t_ce(s)[old, VERSION]
                    x[j, MATE] = first_evicted
                    first_evicted = j
                    evicted += size
                remove(t_ct(s), t_ce(s), t_ck(s), old)
            slot = insert(t_ct(s), t_ce(s), t_ck(s), lpa)
            t_ce(s)[slot, BITS] = mask
            t_ce(s)[slot, STATUS] = DIRTY_ENTRY
        t_ce(s)[slot, VERSION] = m[M_VERSION]
        size = _ones(mask)
        stored += size
        if t_seen(s)[lpa] != m[M_EPOCH]:
            t_seen(s)[lpa] = m[M_EPOCH]
            t_ce(s)[slot, STATUS] = CLEAN
            on_way += size
            j = _new(s, PROGRAM, BY_CACHE, size * 512, 0, lpa, mask, NONE)
            x[j, B] = m[M_VERSION]
            if write_head == NONE:
                write_head = j
            else:
                x[write_tail, MATE] = j
            write_tail = j
    m[M_PRESSURE] += evicted + on_way
    if first_evicted != NONE:
        push(t_h(s), t_g(s), _ram(s, now, evicted * 512), E_EVICT << E_SHIFT | first_evicted)
    if stored:
        r[i, ITEMS] += 1
        push(t_h(s), t_g(s), _ram(s, now, stored * 512), E_RAM << E_SHIFT | i)
    while write_head != NONE:
        after = x[write_head, MATE]
        x[write_head, MATE] = NONE
        _map(s, write_head, now)
        write_head = after
    if now > m[M_EPOCH_END]:
        m[M_EPOCH] += 1
        m[M_EPOCH_END] = now + d[D_RESET]
    return r[i, R_LPA] > last


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _begin(s, i, now):
    """A request is in the drive, a write with its data."""
    d, m, r = t_d(s), t_m(s), t_r(s)
    n = t_p(s)[PAGE_BYTES] // 512
    first = r[i, LBA] // n
    last = (r[i, LBA] + r[i, SECTORS] - 1) // n
    r[i, ITEMS] = 1  # until all pages are on their way
    if r[i, OP] == OP_TRIM:
        for lpa in range(first, last + 1):
            if _ones(_mask_of(s, i, lpa)) == n:
                ppa = _where(s, lpa)
                if ppa != NONE:
                    _invalidate(s, ppa)
                    m[M_TRIMMED] += 1
                t_l2p(s)[lpa] = -1
                t_bits(s)[lpa] = 0
        _item_done(s, i, now)
        return
    if r[i, OP] == OP_WRITE and d[D_CACHE]:
        m[M_SECTORS_WRITTEN] += r[i, SECTORS]
        r[i, R_LPA] = first
        if _cache_write(s, i, now):
            _item_done(s, i, now)
            return
        r[i, R_NEXT] = NONE
        if m[M_STALL_HEAD] == NONE:
            m[M_STALL_HEAD] = i
        else:
            r[m[M_STALL_TAIL], R_NEXT] = i
        m[M_STALL_TAIL] = i
        return
    from_ram = 0
    for lpa in range(first, last + 1):
        mask = _mask_of(s, i, lpa)
        if r[i, OP] == OP_READ:
            if d[D_CACHE]:
                slot = find(t_ct(s), t_ce(s), lpa)
                if slot != NONE:
                    touch(t_ce(s), t_ck(s), slot)
                    from_ram += _ones(mask & t_ce(s)[slot, BITS])
                    mask &= ~t_ce(s)[slot, BITS]
                    if mask == 0:
                        continue
            j = _new(s, READ, BY_HOST, 0, _ones(mask) * 512, lpa, mask, i)
        else:
            j = _new(s, PROGRAM, BY_HOST, _ones(mask) * 512, 0, lpa, mask, i)
        r[i, ITEMS] += 1
        _map(s, j, now)
    if from_ram:
        m[M_CACHE_HITS] += 1
        r[i, ITEMS] += 1
        push(t_h(s), t_g(s), _ram(s, now, from_ram * 512), E_RAM << E_SHIFT | i)
    if r[i, OP] == OP_READ:
        m[M_SECTORS_READ] += r[i, SECTORS]
    else:
        m[M_SECTORS_WRITTEN] += r[i, SECTORS]
    _item_done(s, i, now)


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _draw(m, below):
    """A random whole number: SplitMix64, its upper bits."""
    m[M_SEED] += 1
    z = np.uint64(m[M_SEED]) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((z ^ (z >> np.uint64(31))) >> np.uint64(2)) % below


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _may_go(s, plane, block):
    """Whether a block may be collected: full, not being written, nothing under way in it."""
    b, pl, d = t_b(s), t_pl(s), t_d(s)
    return (
        b[block, WRITTEN] == d[D_PAGES]
        and b[block, COLLECTED] == 0
        and b[block, PROGRAMMING] == 0
        and block != pl[plane, DATA_FRONT]
        and block != pl[plane, GC_FRONT]
        and block != pl[plane, MAP_FRONT]
    )


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _collect(s, plane, block, now):
    """Move the valid pages of a block and erase it."""
    d, m, b, x, pl = t_d(s), t_m(s), t_b(s), t_x(s), t_pl(s)
    b[block, COLLECTED] = 1
    pl[plane, JOBS] += 1
    erase = _new(s, ERASE, BY_ERASE, 0, 0, block, 0, NONE)
    _at(s, erase, block * d[D_PAGES], GC_ERASE)
    x[erase, WAITS] = 1
    b[block, ERASE_TX] = erase
    b[block, MOVES] = 1  # until all moves are on their way
    for ppa in range(block * d[D_PAGES], (block + 1) * d[D_PAGES]):
        held = _holds(s, ppa)
        if held == 0:
            continue
        m[M_GC_MOVES] += 1
        b[block, MOVES] += 1
        if d[D_COPYBACK]:
            i = _new(s, COPYBACK, BY_GC_WRITE, 0, 0, held, 0, NONE)
            _at(s, i, ppa, GC_WRITE)
            x[i, AUX] = block
            target = _rehome(s, plane, ppa, held)
            x[i, TYPE2] = t_types(s)[target % d[D_PAGES]]
            x[i, PPA] = target
            b[target // d[D_PAGES], PROGRAMMING] += 1
        else:
            i = _new(s, READ, BY_GC_READ, 0, t_p(s)[PAGE_BYTES], held, 0, NONE)
            _at(s, i, ppa, GC_READ)
            x[i, RANK] = 2
            x[i, AUX] = block
            pl[plane, MOVING_PAGES] += 1
        _submit(s, i, now)
    if d[D_EARLY_ERASE]:
        _submit(s, erase, now)
    _moved(s, block, now)


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _rehome(s, plane, ppa, held):
    """Give a page that moves its new place."""
    target = _next_page(s, plane, GC_FRONT, held)
    _invalidate(s, ppa)
    if held > 0:
        t_l2p(s)[held - 1] = target + 1
    else:
        t_v(s)[-held - 1, V_PPA] = target + 1
    return target


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _moved(s, block, now):
    """One reason not to erase a block is gone."""
    b = t_b(s)
    b[block, MOVES] -= 1
    if b[block, MOVES] == 0:
        _erase_if_quiet(s, block, now)


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _erase_if_quiet(s, block, now):
    b, x = t_b(s), t_x(s)
    if b[block, COLLECTED] == 1 and b[block, MOVES] == 0 and b[block, READING] == 0:
        b[block, COLLECTED] = 2
        erase = b[block, ERASE_TX]
        x[erase, WAITS] = 0
        if t_d(s)[D_EARLY_ERASE]:
            t_g(s)[DIRTY] |= 1 << t_u(s)[x[erase, UNIT], CHANNEL]
        else:
            _submit(s, erase, now)


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _check(s, plane, now):
    """Collect a block of a plane that is short of free ones."""
    d, m, b, pl = t_d(s), t_m(s), t_b(s), t_pl(s)
    if pl[plane, FREE] >= d[D_THRESHOLD] or pl[plane, JOBS] >= d[D_RESERVE]:
        return
    start = plane * d[D_BLOCKS]
    victim = NONE
    if d[D_POLICY] == CHOICES:
        found = 0
        for _ in range(d[D_CHOICES] * 8):
            block = start + _draw(m, d[D_BLOCKS])
            if not _may_go(s, plane, block):
                continue
            if victim == NONE or b[block, INVALID] > b[victim, INVALID]:
                victim = block
            found += 1
            if found == d[D_CHOICES]:
                break
    elif d[D_POLICY] == FIFO:
        for block in range(start, start + d[D_BLOCKS]):
            if _may_go(s, plane, block) and (victim == NONE or b[block, BORN] < b[victim, BORN]):
                victim = block
    most = min(_room(s, plane), d[D_PAGES] - 1)
    if victim == NONE or d[D_PAGES] - b[victim, INVALID] > most:  # that would not help: the best there is
        victim = NONE
        for block in range(start, start + d[D_BLOCKS]):
            if _may_go(s, plane, block) and (victim == NONE or b[block, INVALID] > b[victim, INVALID]):
                victim = block
        if victim == NONE or d[D_PAGES] - b[victim, INVALID] > most:
            return
    m[M_GC_RUNS] += 1
    _collect(s, plane, victim, now)


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _erased(s, i, now):
    """A block is free again."""
    d, m, b, pl, x = t_d(s), t_m(s), t_b(s), t_pl(s), t_x(s)
    block = x[i, LPA]
    plane = block // d[D_BLOCKS]
    for ppa in range(block * d[D_PAGES], (block + 1) * d[D_PAGES]):
        t_p2l(s)[ppa] = 0
    m[M_BIRTHS] += 1
    b[block, BORN] = m[M_BIRTHS]
    b[block, WRITTEN] = 0
    b[block, INVALID] = 0
    b[block, ERASED] += 1
    b[block, COLLECTED] = 0
    pl[plane, JOBS] -= 1
    # into the free ones: behind those erased no more often, or last
    before, after = NONE, pl[plane, FREE_HEAD]
    if d[D_YOUNGEST]:
        while after != NONE and b[after, ERASED] <= b[block, ERASED]:
            before = after
            after = b[after, NEXT_FREE]
    else:
        before, after = pl[plane, FREE_TAIL], NONE
    b[block, NEXT_FREE] = after
    if before == NONE:
        pl[plane, FREE_HEAD] = block
    else:
        b[before, NEXT_FREE] = block
    if after == NONE:
        pl[plane, FREE_TAIL] = block
    pl[plane, FREE] += 1
    if d[D_WEAR_GAP]:
        start = plane * d[D_BLOCKS]
        coldest = most = start
        for k in range(start, start + d[D_BLOCKS]):
            if b[k, ERASED] < b[coldest, ERASED]:
                coldest = k
            if b[k, ERASED] > b[most, ERASED]:
                most = k
        if b[most, ERASED] - b[coldest, ERASED] >= d[D_WEAR_GAP] and pl[plane, JOBS] < d[D_RESERVE]:
            if _may_go(s, plane, coldest) and d[D_PAGES] <= _room(s, plane):
                m[M_WEAR_RUNS] += 1
                t_b(s)[coldest, COLLECTED] = 3  # begins when this event is over
    _mark(s, plane, RESUME | CHECK if pl[plane, FREE] < d[D_RESERVE] else RESUME)


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _attend(s, now):
    """Planes that asked for it: garbage collection, writes that waited. False: the pool is too small."""
    d, m, pl, x, b = t_d(s), t_m(s), t_pl(s), t_x(s), t_b(s)
    while m[M_STACK]:
        if m[M_FREE_N] < d[D_MARGIN] + m[M_WAITING]:
            return False
        plane = t_stack(s)[m[M_STACK] - 1]
        what = pl[plane, PENDING]
        m[M_STACK] -= 1
        pl[plane, PENDING] = 0
        if what & RESUME:
            if d[D_WEAR_GAP]:
                for k in range(plane * d[D_BLOCKS], (plane + 1) * d[D_BLOCKS]):
                    if b[k, COLLECTED] == 3:
                        _collect(s, plane, k, now)
                        break
            while pl[plane, WAIT_HEAD] != NONE and pl[plane, FREE] >= d[D_RESERVE] and _room(s, plane) >= 0:
                i = pl[plane, WAIT_HEAD]
                if m[M_FREE_N] < 4:
                    _mark(s, plane, RESUME)
                    return False
                pl[plane, WAIT_HEAD] = x[i, NEXT]
                _place(s, i, now)
        if what & CHECK:
            _check(s, plane, now)
        if m[M_ERROR]:
            return True
    return True


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _programmed(s, block):
    """A program in a block ended; writes may wait for it to be collected."""
    b, pl = t_b(s), t_pl(s)
    b[block, PROGRAMMING] -= 1
    plane = block // t_d(s)[D_BLOCKS]
    if b[block, PROGRAMMING] == 0 and pl[plane, WAIT_HEAD] != NONE and pl[plane, JOBS] == 0:
        _mark(s, plane, CHECK)


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _done(s, i, now):
    """A flash transaction ended: what its maker does next."""
    d, m, x, b = t_d(s), t_m(s), t_x(s), t_b(s)
    source = x[i, SOURCE]
    block = x[i, PPA] // d[D_PAGES]
    if source == BY_HOST:
        if x[i, KIND] == READ:
            if x[i, PPA] != NONE:
                b[block, READING] -= 1
                if b[block, COLLECTED] == 1:
                    _erase_if_quiet(s, block, now)
        else:
            _programmed(s, block)
        _item_done(s, x[i, OWNER], now)
    elif source == BY_UPDATE:
        b[block, READING] -= 1
        if b[block, COLLECTED] == 1:
            _erase_if_quiet(s, block, now)
        write = x[i, AUX]
        x[write, WAITS] -= 1
        t_g(s)[DIRTY] |= 1 << t_u(s)[x[write, UNIT], CHANNEL]
    elif source == BY_CACHE:
        _programmed(s, block)
        m[M_PRESSURE] -= _ones(x[i, MASK])
        slot = find(t_ct(s), t_ce(s), x[i, LPA])
        if slot != NONE and t_ce(s)[slot, VERSION] <= x[i, B]:
            remove(t_ct(s), t_ce(s), t_ck(s), slot)
        waiting, before = m[M_STALL_HEAD], NONE
        while waiting != NONE:
            after = t_r(s)[waiting, R_NEXT]
            if _cache_write(s, waiting, now):
                if before == NONE:
                    m[M_STALL_HEAD] = after
                else:
                    t_r(s)[before, R_NEXT] = after
                if after == NONE:
                    m[M_STALL_TAIL] = before
                _item_done(s, waiting, now)
            else:
                before = waiting
            waiting = after
            if m[M_PRESSURE] >= d[D_PRESSURE]:
                break
    elif source == BY_MAP_READ:
        b[block, READING] -= 1
        if b[block, COLLECTED] == 1:
            _erase_if_quiet(s, block, now)
        page = x[i, LPA]
        t_v(s)[page, V_STATE] &= ~V_READING
        if x[i, AUX] != NONE:
            write = x[i, AUX]
            x[write, WAITS] -= 1
            t_g(s)[DIRTY] |= 1 << t_u(s)[x[write, UNIT], CHANNEL]
        waiting = t_v(s)[page, V_HEAD]
        t_v(s)[page, V_HEAD] = NONE
        while waiting != NONE:
            after = x[waiting, NEXT]
            m[M_WAITING] -= 1
            slot = find(t_wt(s), t_we(s), x[waiting, LPA])
            if slot != NONE and t_we(s)[slot, STATUS] == WAITING:
                t_we(s)[slot, STATUS] = CLEAN
            _place(s, waiting, now)
            waiting = after
    elif source == BY_MAP_WRITE:
        _programmed(s, block)
        t_v(s)[x[i, LPA], V_STATE] &= ~V_DEPARTING
    elif source == BY_GC_READ:
        victim = x[i, AUX]
        held = x[i, LPA]
        t_pl(s)[victim // d[D_BLOCKS], MOVING_PAGES] -= 1
        if _holds(s, x[i, PPA]) == held:
            plane = victim // d[D_BLOCKS]
            j = _new(s, PROGRAM, BY_GC_WRITE, t_p(s)[PAGE_BYTES], 0, held, 0, NONE)
            target = _rehome(s, plane, x[i, PPA], held)
            _at(s, j, target, GC_WRITE)
            x[j, AUX] = victim
            b[target // d[D_PAGES], PROGRAMMING] += 1
            _submit(s, j, now)
        else:
            m[M_GC_DROPPED] += 1
            _moved(s, victim, now)
    elif source == BY_GC_WRITE:
        _programmed(s, block)
        _moved(s, x[i, AUX], now)
    else:
        _erased(s, i, now)
    x[i, NEXT] = m[M_FREE_TX]
    m[M_FREE_TX] = i
    m[M_FREE_N] += 1


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def _host_event(s, kind, i, now):
    d, m, r, x = t_d(s), t_m(s), t_r(s), t_x(s)
    if kind == E_COMMAND:
        if r[i, OP] == OP_WRITE:
            if d[D_TRUNCATED]:
                push(t_h(s), t_g(s), _up(s, now, _wire(d, d[D_REQUEST])), E_ASK << E_SHIFT | i)
            else:
                end = _down(s, now + d[D_LINK_LATENCY], _wire(d, r[i, SECTORS] * 512))
                push(t_h(s), t_g(s), end + d[D_LINK_LATENCY], E_DATA << E_SHIFT | i)
        else:
            _begin(s, i, now)
    elif kind == E_DATA:
        _begin(s, i, now)
    elif kind == E_ENDED:
        r[i, ENDED] = now
        m[M_ENDED] += 1
        m[M_LAST] = now
        if d[D_TRUNCATED]:
            _down(s, now, _wire(d, d[D_DOORBELL]))
        if d[D_DEPTH]:
            m[M_OWED] += 1
    elif kind == E_RAM:
        _item_done(s, i, now)
    elif kind == E_EVICT:
        while i != NONE:
            after = x[i, MATE]
            x[i, MATE] = NONE
            _map(s, i, now)
            i = after
    elif kind == E_DOORBELL:
        _rung(s, i, now)
    elif kind == E_FETCH:
        push(t_h(s), t_g(s), _down(s, now, d[D_WIRE_COMMAND]), E_COMMAND << E_SHIFT | i)
    else:
        push(t_h(s), t_g(s), _down(s, now, _wire(d, r[i, SECTORS] * 512)), E_DATA << E_SHIFT | i)


@njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
def run_drive(s, n):
    """Run requests until nothing is left to happen.

    Args:
        n: requests in ``t_r(s)``. Those of a closed loop start as others end, until ``d[D_STOP]``; others
            at their arrivals.

    Returns:
        RAN; WANTS_REQUESTS or WANTS_ROOM (more rows of ``r``, more transactions; then call again); FAILED.
    """
    d, m, g, h, r = t_d(s), t_m(s), t_g(s), t_h(s), t_r(s)
    steps = 0
    while True:
        now = m[M_NOW]
        if m[M_MIDDLE] == 0:
            # requests of a closed loop that may start now
            while m[M_OWED] > 0:
                if now > d[D_STOP] or (m[M_NEXT] >= n and d[D_LIMIT]):
                    m[M_OWED] = 0
                    break
                if m[M_NEXT] >= n:
                    return WANTS_REQUESTS
                m[M_OWED] -= 1
                _send_command(s, m[M_NEXT], now)
                m[M_NEXT] += 1
            if not _attend(s, now):
                return WANTS_ROOM
            if m[M_ERROR]:
                return FAILED
            dirty = g[DIRTY]
            g[DIRTY] = 0
            ch = 0
            while dirty:
                if dirty & 1:
                    arbitrate(s, ch, now)
                dirty >>= 1
                ch += 1
            steps += 1
            if steps > 2_000_000:
                return STOPPED
            at = h[0, 0] if g[HEAP] else FAR
            if d[D_DEPTH] == 0 and m[M_NEXT] < n and r[m[M_NEXT], ARRIVE] < at:
                at = r[m[M_NEXT], ARRIVE]
            if at == FAR:
                return RAN
            m[M_NOW] = now = at
        m[M_MIDDLE] = 0
        while g[HEAP] and h[0, 0] == now:
            if m[M_FREE_N] < d[D_MARGIN] + m[M_WAITING] or g[HEAP] + 2 * d[D_MARGIN] > s[H_ROWS]:
                m[M_MIDDLE] = 1
                return WANTS_ROOM
            code = pop(h, g)
            kind = code >> E_SHIFT
            if kind < E_HOST:
                flash_event(s, code, now)
                for k in range(g[FINISHED]):
                    _done(s, t_done(s)[k], now)
                g[FINISHED] = 0
            else:
                _host_event(s, kind, code & ((1 << E_SHIFT) - 1), now)
        if d[D_DEPTH] == 0:
            while m[M_NEXT] < n and r[m[M_NEXT], ARRIVE] == now:
                if g[HEAP] + 2 * d[D_MARGIN] > s[H_ROWS]:
                    m[M_MIDDLE] = 1
                    return WANTS_ROOM
                _send_command(s, m[M_NEXT], now)
                m[M_NEXT] += 1
