"""Attention in the controller of a drive: pages of keys and values, and the engine that takes them in turn.

Reads are simulated command by command, as if nothing held them up; then heads of sequences go through the
engine one after the other. Reads of a head wait until the engine's buffers have room for it, those of the
positions that sparse attention chooses until these are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neardata.arch.errors import InputError
from neardata.arch.precision import Format
from neardata.arch.storage import AttentionEngine, Ssd
from neardata.sim.program import FlashAttention
from neardata.sim.storage.transactions import Transactions
from neardata.sim.system.flash_programs import STREAM, Job
from neardata.sim.system.outcome import Outcome

if TYPE_CHECKING:
    from neardata.sim.system.storage import StorageEngine

Whole = NDArray[np.int64]
CHANNEL_KEYS, KEYS, VALUES = range(3)
"""Copies: keys channel by channel, keys and values position by position."""
PS_PER_NS = 1000


@dataclass(frozen=True, eq=False)
class AttentionPages:
    """Pages of a drive, stream by stream (a key head of a sequence), in the order in which they are read."""

    stream: Whole
    copy: Whole
    position: Whole
    """First position of the stream in the page."""
    position_end: Whole
    channel: Whole
    """First channel of the head in the page."""
    channel_end: Whole
    bus: Whole
    """The flash channel that the page lies on."""

    def __len__(self) -> int:
        return len(self.stream)


def check_attention(kernel: FlashAttention) -> None:
    """Sizes that can be.

    Raises:
        InputError: names the key.
    """
    form = Format.parse(kernel.cache)
    if form.group is not None or form.bits % 8:
        raise InputError(
            f"the engine takes whole numbers of bytes without scales, got {kernel.cache}", key="cache"
        )
    for name in ("heads", "kv_heads", "qk", "v", "channels_a_page"):
        if getattr(kernel, name) < 1:
            raise InputError(f"must be at least 1, got {getattr(kernel, name)}", key=name)
    if kernel.heads % kernel.kv_heads:
        raise InputError(f"{kernel.heads} heads do not share {kernel.kv_heads} evenly", key="kv_heads")
    if not kernel.context or min(kernel.context) < 1:
        raise InputError("must name at least one position of each sequence", key="context")
    if not 0 <= kernel.channels_kept <= kernel.qk:
        raise InputError(f"must be from 0 to {kernel.qk}, got {kernel.channels_kept}", key="channels_kept")
    for name in ("tokens_kept", "pages_read"):
        if not 0 < getattr(kernel, name) <= 1:
            raise InputError(f"must be above 0 and at most 1, got {getattr(kernel, name):g}", key=name)
    if not kernel.channels_kept and (kernel.tokens_kept < 1 or kernel.pages_read < 1):
        raise InputError("dense attention reads all positions", key="channels_kept")
    page_bytes = kernel.page_bytes
    widest = max(kernel.qk, kernel.v) * form.bits // 8
    if widest > page_bytes:
        raise InputError(f"a position of a head takes {widest} bytes, a page holds {page_bytes}", key="qk")
    if kernel.channels_kept and kernel.channels_a_page * form.bits // 8 > page_bytes:
        raise InputError(f"do not fit a page of {page_bytes} bytes", key="channels_a_page")


def attention_pages(kernel: FlashAttention, channels: int) -> AttentionPages:
    """Every page of keys and values of the sequences, wanted or not; what fills no page of a copy is in the
    controller's memory.

    Pages of a head lie on the flash channels in turn, from one further for each head on (which balances what
    does not divide evenly).

    >>> pages = attention_pages(FlashAttention((40, 16), 1, 1, 128, 128), 8)
    >>> pages.stream.tolist(), pages.copy.tolist(), pages.position.tolist(), pages.bus.tolist()
    ([0, 0, 0, 0, 1, 1], [1, 1, 2, 2, 1, 2], [0, 16, 0, 16, 0, 0], [0, 1, 2, 3, 1, 2])
    """
    check_attention(kernel)
    size = Format.parse(kernel.cache).bits // 8
    columns: list[NDArray[np.int64]] = []
    known: dict[int, NDArray[np.int64]] = {}
    stream = 0
    for context in kernel.context:
        if context not in known:
            known[context] = _pages_of_stream(kernel, size, context)
        one = known[context]
        for _ in range(kernel.kv_heads):
            bus = (np.arange(one.shape[1]) + stream) % channels
            columns.append(np.vstack([np.full(one.shape[1], stream), one, bus]))
            stream += 1
    return AttentionPages(*np.ascontiguousarray(np.concatenate(columns, axis=1), np.int64))


def _pages_of_stream(kernel: FlashAttention, size: int, context: int) -> Whole:
    """Rows: copy, positions from, to, channels from, to."""
    parts: list[tuple[Any, ...]] = []
    page_bytes = kernel.page_bytes
    if kernel.channels_kept:
        group = min(kernel.channels_a_page, kernel.qk)
        held = page_bytes // (size * group)
        groups, blocks = -(-kernel.qk // group), context // held
        block = np.repeat(np.arange(blocks), groups) * held
        channel = np.tile(np.arange(groups), blocks) * group
        parts.append((CHANNEL_KEYS, block, block + held, channel, np.minimum(channel + group, kernel.qk)))
    for copy, width in ((KEYS, kernel.qk), (VALUES, kernel.v)):
        held = page_bytes // (size * width)
        first = np.arange(0, context // held * held, held)  # the rest is in the controller's memory
        parts.append((copy, first, first + held, np.zeros_like(first), np.full_like(first, width)))
    return np.concatenate([np.vstack(np.broadcast_arrays(*part)) for part in parts], axis=1)


def wanted(pages: AttentionPages, share: float) -> NDArray[np.bool_]:
    """Which pages are read, where ``share`` of them is: of each copy of each stream, evenly spread."""
    start = np.r_[True, (pages.stream[1:] != pages.stream[:-1]) | (pages.copy[1:] != pages.copy[:-1])]
    begins = np.flatnonzero(start)
    place = np.arange(len(pages)) - np.repeat(begins, np.diff(np.r_[begins, len(pages)]))
    return np.ceil((place + 1) * share - 1e-9) > np.ceil(place * share - 1e-9)


def segments(streams: int, sparse: bool, ahead: int = 1) -> list[tuple[int, int]]:
    """(stream, copy) in the order of reads.

    Args:
        ahead: heads by which approximate scores are ahead of the positions that they choose.

    >>> segments(3, True)
    [(0, 0), (1, 0), (0, 1), (0, 2), (2, 0), (1, 1), (1, 2), (2, 1), (2, 2)]
    """
    order: list[tuple[int, int]] = []
    for n in range(-ahead, streams):
        if sparse and n + ahead < streams:
            order.append((n + ahead, CHANNEL_KEYS))
        if n >= 0:
            order += [(n, KEYS), (n, VALUES)]
    return order


def order_of(kernel: FlashAttention, engine: AttentionEngine) -> list[tuple[int, int]]:
    """`segments` of a kernel: half of the heads in flight wait for what is chosen."""
    streams = len(kernel.context) * kernel.kv_heads
    return segments(streams, kernel.channels_kept > 0, engine.heads_in_flight // 2)


def places_in(order: list[tuple[int, int]]) -> Whole:
    """(streams, copies): the place of each segment."""
    listed = np.array(order)
    places = np.zeros((int(listed[:, 0].max()) + 1, 3), np.int64)
    places[listed[:, 0], listed[:, 1]] = np.arange(len(listed))
    return places


def attention_job(
    kernel: FlashAttention, ssd: Ssd, order_of_reads: list[tuple[int, int]]
) -> tuple[Job, AttentionPages]:
    """Reads of the pages that are wanted, in the order of `segments`, and these pages."""
    flash = ssd.flash
    pages = attention_pages(kernel, flash.channels)
    # places in the drive, all pages one after the other on their channel
    order = np.argsort(pages.bus, kind="stable")
    counts = np.bincount(pages.bus, minlength=flash.channels)
    place = np.empty(len(pages), np.int64)
    place[order] = np.arange(len(pages)) - np.repeat(np.cumsum(counts) - counts, counts)
    cores = flash.chips_per_channel * flash.dies_per_chip
    turn = place // flash.planes_per_die
    rank = places_in(order_of_reads)
    chosen = np.flatnonzero(wanted(pages, kernel.pages_read))
    chosen = chosen[np.argsort(rank[pages.stream[chosen], pages.copy[chosen]], kind="stable")]
    tx = Transactions.of(
        kind="read",
        channel=pages.bus[chosen],
        die=(turn % cores)[chosen],
        plane=(place % flash.planes_per_die)[chosen],
        page=(turn // cores % flash.pages_per_block)[chosen],
        bytes_out=flash.page_bytes,
        rank=STREAM,
    )
    n = len(chosen)
    columns = (pages.stream, pages.copy, pages.position, pages.position_end, pages.channel,
               pages.channel_end, pages.bus)  # fmt: skip
    alone = np.full(n, -1, np.int64)
    return Job(tx, alone, np.zeros(n, np.int64), chosen, alone), AttentionPages(*(c[chosen] for c in columns))


def filtered(done: Whole, bus: Whole, each_ps: int) -> Whole:
    """When the filters of the channels are through with pages that came at ``done``, one after the other."""
    ends = np.empty_like(done)
    for channel in np.unique(bus):
        mine = np.flatnonzero(bus == channel)
        mine = mine[np.argsort(done[mine], kind="stable")]
        work = each_ps * np.arange(len(mine))
        ends[mine] = np.maximum.accumulate(done[mine] - work) + work + each_ps
    return ends


def in_turn(
    kernel: FlashAttention,
    engine: AttentionEngine,
    order: list[tuple[int, int]],
    came: Whole,
    restart_ps: int,
) -> int:
    """When the engine is done with the last head.

    Args:
        order: of the segments.
        came: (segments,) when the last page of each segment is there if no read is held up; non-decreasing.
        restart_ps: of a read that was not known before.
    """
    group = kernel.heads // kernel.kv_heads
    kept = [_kept(c, kernel) for c in kernel.context]
    per_score = 1e6 / engine.softmax_mops
    per_op = PS_PER_NS / engine.gemv_gflops
    sparse = kernel.channels_kept > 0
    streams = len(kernel.context) * kernel.kv_heads
    key_unit = value_unit = softmax = upto = before = 0
    attended = [0] * streams
    ranked = [0] * streams
    for at, (n, copy) in enumerate(order):
        context, attend_to = kernel.context[n // kernel.kv_heads], kept[n // kernel.kv_heads]
        reads, before = int(came[at]) - before, int(came[at])
        start = upto
        if copy == (CHANNEL_KEYS if sparse else KEYS) and n >= engine.heads_in_flight:
            start = max(start, attended[n - engine.heads_in_flight])
        if copy == KEYS and sparse and reads and ranked[n] > upto:
            start = ranked[n] + restart_ps
        upto = start + reads
        if copy == CHANNEL_KEYS:
            key_unit = max(key_unit, upto) + ceil(2 * context * group * kernel.channels_kept * per_op)
            scores = 0 if kernel.ranked else context * group
            softmax = max(softmax, key_unit) + ceil(scores * per_score)
            ranked[n] = softmax
        elif copy == KEYS:
            positions = attend_to if sparse else context
            work = ceil(2 * positions * group * kernel.qk * per_op)
            last = ceil(2 * group * kernel.qk * per_op)  # of what comes last, the rest is done as it comes
            key_unit = max(max(key_unit, ranked[n]) + work, upto + last)
            softmax = max(softmax, key_unit) + ceil(positions * group * per_score)
        else:
            positions = attend_to if sparse else context
            work = ceil(2 * positions * group * kernel.v * per_op)
            value_unit = max(value_unit, softmax, upto) + work
            attended[n] = value_unit
    return max(attended)


def _kept(context: int, kernel: FlashAttention) -> int:
    """Positions that are attended to."""
    return max(1, round(context * kernel.tokens_kept))


def attend(drive: StorageEngine, kernel: FlashAttention) -> Outcome:
    """Time, losses and energy of attention on a drive.

    Raises:
        InputError: the drive has no engine for it, or sizes that cannot be.
    """
    ssd, engine = drive.ssd, drive.ssd.attention
    if engine is None:
        raise InputError(f"{ssd.name} has no attention engine")
    flash, bus = ssd.flash, ssd.bus
    check_attention(kernel)
    if kernel.page_bytes != flash.page_bytes:
        raise InputError(
            f"is {kernel.page_bytes}, the pages of {ssd.name} are of {flash.page_bytes}", key="page_bytes"
        )
    order = order_of(kernel, engine)
    job, pages = attention_job(kernel, ssd, order)
    came = np.zeros(len(order), np.int64)
    used: dict[str, float] = {}
    moved = 0
    if len(pages):
        run = drive.transactions(job)
        ends = filtered(run.done_ps, pages.bus, round(flash.page_bytes / engine.filter_gb_per_s * PS_PER_NS))
        np.maximum.at(came, places_in(order)[pages.stream, pages.copy], ends)
        came = np.maximum.accumulate(came)
        moved = run.count("channel_bytes_out")
        used = run.flash_pj(ssd.energy)
        used.pop("flash compute")  # dies only read
        used["attention engine"] = moved * ssd.energy.compute_pj_per_byte.value
    read_ps = int(came[-1])
    restart = round((bus.read_command_ns(1) + flash.read_ns[0]) * PS_PER_NS)
    time_ps = in_turn(kernel, engine, order, came, restart) + round(engine.start_ns * PS_PER_NS)
    bounds = _bounds_ps(kernel, engine, len(pages) * flash.page_bytes / (flash.channels * bus.gb_per_s))
    by = max(bounds, key=lambda name: bounds[name])
    bound = min(bounds[by], time_ps)
    lost = {"engine in turn, first and last head": time_ps - bound}
    if by == "flash channels" and read_ps > bound:
        lost = {"commands and first reads": read_ps - bound, "engine": time_ps - read_ps}
    used["drive idle"] = ssd.energy.idle_mw.value * 1e-3 * time_ps
    width = kernel.qk + kernel.v
    macs = kernel.heads * sum(_kept(c, kernel) * width + c * kernel.channels_kept for c in kernel.context)
    return Outcome(
        time_ps=time_ps,
        bound_ps=bound,
        bound_by=by,
        lost_ps={name: ps for name, ps in lost.items() if ps},
        energy_pj=used,
        memory_bytes=moved,
        macs=macs,
        interface_bytes=moved,
    )


def _bounds_ps(kernel: FlashAttention, engine: AttentionEngine, channels_ns: float) -> dict[str, int]:
    """Least times of the channels and of the engine's units."""
    positions = sum(kernel.context)
    kept = sum(_kept(c, kernel) for c in kernel.context)
    scores, keys = positions, positions * kernel.qk
    if kernel.channels_kept:
        scores = kept + (0 if kernel.ranked else positions)
        keys = kept * kernel.qk + positions * kernel.channels_kept
    return {
        "flash channels": round(channels_ns * PS_PER_NS),
        "softmax": round(scores * kernel.heads * 1e6 / engine.softmax_mops),
        "key products": round(2 * keys * kernel.heads * PS_PER_NS / engine.gemv_gflops),
        "value products": round(2 * kept * kernel.v * kernel.heads * PS_PER_NS / engine.gemv_gflops),
    }
