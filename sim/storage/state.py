"""The state of a drive as tables for `neardata.sim.storage.drive_kernel`."""

from __future__ import annotations

from fractions import Fraction
from math import log2
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from neardata.arch.errors import InputError
from neardata.arch.storage import Ssd
from neardata.sim.storage import fields as f
from neardata.sim.storage.clock import Clock
from neardata.sim.storage.tables import FlashTables, Table, flash_tables

Short = NDArray[np.int32]

POLICIES = {"greedy": f.GREEDY, "d-choices": f.CHOICES, "fifo": f.FIFO}
FORGETS_NS = 1e9
"""The cache takes a page that was not written for so long for a cold one (MQSim's bloom filter)."""


class DriveState(NamedTuple):
    """Tables; their columns are those of `neardata.sim.storage.fields`."""

    x: Table
    u: Table
    c: Table
    p: Table
    t: Table
    g: Table
    h: Table
    done: Table
    taken: Table
    r: Table
    """Requests."""
    d: Table
    """Parameters."""
    m: Table
    """Counters."""
    l2p: Short
    """Physical page + 1 of each logical page; 0: never written since the drive was filled, -1: trimmed."""
    p2l: Short
    bits: Table
    """Written sectors of each logical page."""
    b: Table
    """Blocks."""
    pl: Table
    """Planes."""
    alloc: Table
    """Plane of logical page n: ``alloc[n % planes]``."""
    stack: Table
    types: Table
    wt: Short
    we: Table
    wk: Table
    """Cached mapping entries: hash table, entries, head."""
    ct: Short
    ce: Table
    ck: Table
    """Cached pages, likewise."""
    v: Table
    """Translation pages."""
    seen: Short
    """When each logical page was last written through the cache."""


def plane_order(ssd: Ssd) -> Table:
    """Planes in the order in which logical pages fill them.

    >>> from neardata.arch.storage import load_ssd
    >>> plane_order(load_ssd("mqsim-c1"))[:10].tolist()  # channels first: 8 planes apart
    [0, 8, 16, 24, 32, 40, 48, 56, 4, 12]
    """
    flash = ssd.flash
    sizes = {
        "C": flash.channels,
        "W": flash.chips_per_channel,
        "D": flash.dies_per_chip,
        "P": flash.planes_per_die,
    }
    left, place = np.arange(flash.planes), {}
    for letter in ssd.mapping.allocation:
        left, place[letter] = np.divmod(left, sizes[letter])
    order = place["C"]
    for letter in "WDP":
        order = order * sizes[letter] + place[letter]
    return order.astype(np.int64)


def _lru(entries: int) -> tuple[Short, Table, Table]:
    size = 1 << max(3, (2 * max(entries, 1) - 1).bit_length())
    head = np.array([0, f.NONE, f.NONE, f.NONE], np.int64)
    return np.zeros(size, np.int32), np.zeros((entries, f.ENTRY_COLUMNS), np.int64), head


def drive_state(
    ssd: Ssd, requests: int, *, pages_per_request: int, seed: int
) -> tuple[DriveState, FlashTables]:
    """A drive at rest, with room for so many requests.

    Raises:
        InputError: a drive too small to be filled as asked.
    """
    flash, mapping, gc, compat = ssd.flash, ssd.mapping, ssd.gc, ssd.compat
    planes, blocks, pages = flash.planes, flash.blocks_per_plane, flash.pages_per_block
    logical = ssd.logical_pages
    margin = 5 * pages_per_request + 2 * pages + 64
    if ssd.cache.mode == "write":
        margin += planes * ssd.sectors_per_page
    pool = 4 * margin
    tables = flash_tables(ssd, pool, seed=seed)
    tables.x[:, f.NEXT] = np.arange(1, pool + 1)
    tables.x[-1, f.NEXT] = f.NONE

    b = np.zeros((planes * blocks, f.BLOCK_COLUMNS), np.int64)
    p2l = np.zeros(flash.pages, np.int32)
    order = plane_order(ssd)

    # translation pages first, then what is filled, then free blocks
    entries = ssd.entries_per_translation_page
    cached = mapping.table == "cached"
    translation = -(-logical // entries) if cached else 0
    v = np.zeros((translation, 4), np.int64)
    v[:, f.V_HEAD] = v[:, f.V_TAIL] = f.NONE
    per_plane = -(-translation // planes)
    map_blocks, map_page = divmod(per_plane, pages)
    if cached:
        number = np.arange(translation)
        at = number // planes
        ppa = (order[number % planes] * blocks + at // pages) * pages + at % pages
        v[:, f.V_PPA] = ppa + 1
        p2l[ppa] = -(number + 1)
    filled = int(logical * mapping.filled)
    most_filled = (filled + planes - 1) // planes
    fill_blocks = (most_filled + pages - 1) // pages
    fill_at = map_blocks + 1 if cached else 0
    used = fill_at + fill_blocks
    fronts = 2
    if used + fronts + gc.reserve > blocks:
        raise InputError(
            f"the drive is too small: of {blocks} blocks a plane {used} are filled, {fronts} written to and"
            f" {gc.reserve} kept; lower mapping.filled or raise mapping.over_provisioning",
            key="mapping.filled",
        )
    grid = b.reshape(planes, blocks, f.BLOCK_COLUMNS)
    grid[:, :map_blocks, f.WRITTEN] = pages
    if cached:
        grid[:, map_blocks, f.WRITTEN] = map_page
    grid[:, fill_at:used, f.WRITTEN] = pages
    padding = np.full(planes, fill_blocks * pages) - (
        filled // planes + (np.arange(planes) < filled % planes)
    )
    if fill_blocks:  # pages of the last block that no logical page is in
        grid[order, used - 1, f.INVALID] = np.minimum(padding, pages)
        if (padding > pages).any():
            grid[order, used - 2, f.INVALID] = padding - np.minimum(padding, pages)
    grid[:, :, f.NEXT_FREE] = np.arange(planes * blocks).reshape(planes, blocks) + 1
    grid[:, -1, f.NEXT_FREE] = f.NONE
    grid[:, used : used + fronts, f.BORN] = 1

    pl = np.zeros((planes, f.PLANE_COLUMNS), np.int64)
    first = np.arange(planes) * blocks
    pl[:, f.MAP_FRONT] = first + map_blocks if cached else f.NONE
    pl[:, f.DATA_FRONT], pl[:, f.GC_FRONT] = first + used, first + used + 1
    pl[:, f.FREE_HEAD], pl[:, f.FREE_TAIL] = first + used + fronts, first + blocks - 1
    pl[:, f.FREE] = blocks - used - fronts
    pl[:, f.WAIT_HEAD] = pl[:, f.WAIT_TAIL] = f.NONE
    die, plane = np.divmod(np.arange(planes), flash.planes_per_die)
    chip, inside = np.divmod(die, flash.dies_per_chip)
    if compat.one_die_a_chip:
        pl[:, f.P_UNIT], pl[:, f.P_DIE], pl[:, f.P_PLANE] = chip, inside, plane
    elif flash.independent_planes:
        pl[:, f.P_UNIT] = np.arange(planes)
    else:
        pl[:, f.P_UNIT], pl[:, f.P_PLANE] = die, plane
    pl[order, f.P_POSITION] = np.arange(planes)

    m = np.zeros(f.DRIVE_COUNTERS + ssd.controller.cores, np.int64)
    m[f.M_FREE_N], m[f.M_SEED], m[f.M_EPOCH], m[f.M_BIRTHS] = pool, seed << 20, 1, 1
    m[f.M_WAIT_HEAD] = m[f.M_WAIT_TAIL] = m[f.M_STALL_HEAD] = m[f.M_STALL_TAIL] = f.NONE

    d = _parameters(ssd, tables.clock)
    d[f.D_FILLED], d[f.D_FILL_BLOCK], d[f.D_MARGIN] = filled, fill_at, margin
    slots = max(mapping.cached_bytes // ssd.table_entry_bytes, 1) if cached else 0
    cache = max(ssd.cache.bytes // flash.page_bytes, 1) if ssd.cache.mode == "write" else 0
    types = np.array([flash.page_type(page) for page in range(pages)], np.int64)
    state = DriveState(
        tables.x, tables.u, tables.c, tables.p, tables.t, tables.g,
        np.zeros((len(tables.h) + 4 * margin + requests, 2), np.int64), np.zeros(pool + 1, np.int64),
        np.zeros(1, np.int64), np.zeros((requests, f.R_COLUMNS), np.int64), d, m,
        np.zeros(logical, np.int32), p2l, np.zeros(logical, np.int64), b, pl, order,
        np.zeros(planes + 1, np.int64), types, *_lru(slots), *_lru(cache), v,
        np.zeros(logical if cache else 0, np.int32),
    )  # fmt: skip
    return state, tables


def _parameters(ssd: Ssd, clock: Clock) -> Table:
    flash, mapping, gc, compat, host = ssd.flash, ssd.mapping, ssd.gc, ssd.compat, ssd.host
    cache, controller = ssd.cache, ssd.controller
    d = np.zeros(f.DRIVE_PARAMETERS, np.int64)
    d[f.D_PLANES], d[f.D_BLOCKS], d[f.D_PAGES] = flash.planes, flash.blocks_per_plane, flash.pages_per_block
    full = (1 << ssd.sectors_per_page) - 1
    d[f.D_FULL] = full if full < 1 << 63 else -1
    d[f.D_CACHED], d[f.D_ENTRIES] = mapping.table == "cached", ssd.entries_per_translation_page
    d[f.D_DYNAMIC] = mapping.dynamic
    d[f.D_POLICY] = POLICIES[gc.policy]
    d[f.D_CHOICES] = gc.choices or int(log2(flash.blocks_per_plane))
    d[f.D_THRESHOLD] = max(int(gc.threshold * flash.blocks_per_plane), gc.reserve, 1)
    d[f.D_RESERVE], d[f.D_COPYBACK] = gc.reserve, gc.copyback
    d[f.D_YOUNGEST], d[f.D_WEAR_GAP] = gc.youngest_first, gc.wear_gap
    d[f.D_CACHE] = cache.mode == "write"
    d[f.D_PRESSURE] = flash.planes * ssd.sectors_per_page
    if compat.dram_formula:
        rate = Fraction(1000, cache.mt_per_s)
        d[f.D_RAM_FIRST], d[f.D_RAM_ROW_TIME] = int(cache.t_rcd) + int(cache.t_cl), int(cache.t_rp)
    else:
        rate = Fraction(1000 * clock.per_ns, cache.mt_per_s * cache.bus_bytes)
        d[f.D_RAM_FIRST] = clock.ticks(cache.t_rcd) + clock.ticks(cache.t_cl)
        d[f.D_RAM_ROW_TIME] = d[f.D_RAM_FIRST] + clock.ticks(cache.t_rp)
    d[f.D_RAM_NUM], d[f.D_RAM_DEN] = rate.numerator, rate.denominator
    d[f.D_RAM_ROW], d[f.D_RAM_BURST], d[f.D_RAM_FORMULA] = (
        cache.row_bytes,
        cache.bus_bytes,
        compat.dram_formula,
    )
    d[f.D_RESET] = clock.ticks(FORGETS_NS)
    d[f.D_CORES], d[f.D_FETCH] = controller.cores, controller.fetch
    d[f.D_READ_TIME], d[f.D_WRITE_TIME] = clock.ticks(controller.read_ns), clock.ticks(controller.write_ns)
    d[f.D_LATENCY], d[f.D_LINK_LATENCY] = clock.ticks(controller.latency_ns), clock.ticks(host.latency_ns)
    d[f.D_PAYLOAD], d[f.D_OVERHEAD], d[f.D_LANES] = host.payload_bytes, host.overhead_bytes, host.lanes
    lane = Fraction(str(host.lane_gb_per_s))
    per_byte = 1 / lane if compat.truncated_link else clock.per_ns / (lane * host.lanes)
    d[f.D_LINK_NUM], d[f.D_LINK_DEN] = per_byte.numerator, per_byte.denominator
    for column, size in (
        (f.D_WIRE_COMMAND, host.command_bytes),
        (f.D_WIRE_COMPLETION, host.completion_bytes),
    ):
        wire = host.wire_bytes(size)
        if compat.truncated_link:
            d[column] = -(-wire // host.lanes) * per_byte.numerator // per_byte.denominator * clock.per_ns
        else:
            d[column] = -(-wire * per_byte.numerator // per_byte.denominator)
    d[f.D_DOORBELL], d[f.D_REQUEST] = host.doorbell_bytes, host.request_bytes
    d[f.D_TRUNCATED], d[f.D_TICKS_NS] = compat.truncated_link, clock.per_ns
    d[f.D_READ_ALLOCATES], d[f.D_MAP_LOST] = compat.read_allocates, compat.mapping_writes_lost
    d[f.D_EARLY_ERASE] = compat.one_die_a_chip
    d[f.D_STOP] = f.FAR
    return d


def addresses(tables: dict[str, NDArray[np.signedinteger]]) -> Table:
    """Where the tables lie, for the kernels; they must be kept as long as this is used."""
    out = np.zeros(2 * len(f.TABLES), np.int64)
    for k, name in enumerate(f.TABLES):
        table = tables.get(name)
        if table is not None:
            assert table.flags.c_contiguous
            out[2 * k : 2 * k + 2] = table.ctypes.data, len(table)
    return out


def more_room(state: DriveState) -> DriveState:
    """Twice the transactions and events."""
    x, n = state.x, len(state.x)
    larger = np.zeros((2 * n, x.shape[1]), np.int64)
    larger[:n] = x
    larger[n:, f.NEXT] = np.arange(n + 1, 2 * n + 1)
    larger[-1, f.NEXT] = f.NONE
    last = int(state.m[f.M_FREE_TX])
    while larger[last, f.NEXT] != f.NONE:
        last = int(larger[last, f.NEXT])
    larger[last, f.NEXT] = n
    state.m[f.M_FREE_N] += n
    events = np.zeros((2 * len(state.h), 2), np.int64)
    events[: len(state.h)] = state.h
    return state._replace(x=larger, h=events, done=np.zeros(2 * n + 1, np.int64))
