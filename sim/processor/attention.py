"""Fused attention in closed form: scores stay in the units, keys and values stream past them.

A block is a tile of queries of one head. Where each sequence has one query, the heads that share
keys and values fill the tile together, and the keys are split over as many blocks as the
processor holds; else a block walks over all keys its queries may see, and a tile is as long as if
it were full. (FlashAttention 2, arXiv 2307.08691, and its kernels for paged caches.)
"""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from neardata.arch.errors import InputError
from neardata.arch.processor import Processor
from neardata.sim.processor.cost import Cost, kernel_cost, slowdown
from neardata.sim.processor.roofline import StoredFormat, element_bits, stored_bytes

SOFTMAX_LANES = 16
"""Instruction slots of a lane for a score: scale, maximum, sum, rescaling of the output, and at
lower rates the exponential (8 slots: a quarter of the lanes, twice) and the narrowing (4)."""


def attention(
    processor: Processor,
    queries: Sequence[int],
    context: Sequence[int],
    heads: int,
    kv_heads: int,
    qk: int,
    v: int,
    *,
    kv_format: StoredFormat | str = "fp16",
    activation_dtype: str = "fp16",
    shared_kv: bool = False,
    causal: bool = True,
    window: int | None = None,
) -> Cost:
    """``softmax(q k) v`` of several sequences in one kernel.

    Args:
        processor: where it runs.
        queries: new tokens of each sequence.
        context: tokens each sequence's last query sees, the new ones included.
        heads: query heads.
        kv_heads: heads of keys and values; a divisor of ``heads``.
        qk: width of a query and a key.
        v: width of a value.
        kv_format: how keys and values are kept.
        activation_dtype: type of queries, results and arithmetic.
        shared_kv: values are the first ``v`` columns of the keys, read once.
        causal: a query sees the tokens before it and itself; otherwise all of the context.
        window: tokens a causal query looks back on, itself included (default: all); keys before
            those of the first query are not read.

    Raises:
        InputError: lengths that do not match, a sequence with fewer tokens than causal queries, heads
            that do not share evenly, values wider than the keys they are a part of, an empty window.

    >>> from neardata.arch.processor import load_processor
    >>> gpu = load_processor("a100-80gb")
    >>> attention(gpu, (1,) * 64, (4096,) * 64, 32, 8, 128, 128).bound
    'memory'
    >>> attention(gpu, (4096,), (4096,), 32, 8, 128, 128).bound
    'compute'
    """
    _check_lengths(queries, context, causal)
    if kv_heads < 1 or heads < 1 or heads % kv_heads:
        raise InputError(f"{heads} heads do not share {kv_heads} heads of keys and values evenly")
    if qk < 1 or v < 1:
        raise InputError(f"widths must be at least 1, got {min(qk, v)}")
    if shared_kv and v > qk:
        raise InputError(f"values of width {v} are no part of keys of width {qk}")
    if window is not None and window < 1:
        raise InputError(f"window must be at least 1, got {window}")
    group = heads // kv_heads
    peak = processor.peak_ops_per_ps(activation_dtype)
    bits = element_bits(activation_dtype)
    row_bytes = (bits * (qk + v) + 7) // 8
    token_bytes = kv_heads * stored_bytes(kv_format, qk, qk)
    if not shared_kv:
        token_bytes += kv_heads * stored_bytes(kv_format, v, v)
    tile = _tile(processor, qk + v, row_bytes, (bits * qk + 7) // 8 if shared_kv else row_bytes, peak)
    if not causal:
        window = None
    if max(queries) == 1:
        work = _one_each(tile, context if window is None else [min(c, window) for c in context])
    else:
        work = _work(tile, queries, context, causal, window)
    kv_bytes = work.tokens * token_bytes
    once_bytes = kv_bytes + work.queries * heads * row_bytes
    cache = processor.cache
    if work.queries == work.sequences:
        splits = processor.compute.splits
        compute_ps, cache_bytes, launches, blocks = _split_over_keys(tile, work, kv_heads, group, splits)
        again_bytes = 0
    else:
        compute_ps, cache_bytes = _tiles_of_queries(tile, work, heads)
        launches, blocks = 1, work.blocks * heads
        held = cache is not None and kv_bytes <= kv_heads * cache.bytes
        again_bytes = 0 if held else round((_passes(tile, work, group) - 1) * kv_bytes)
    moved_bytes = once_bytes + again_bytes
    return kernel_cost(
        processor,
        flops=2 * work.pairs * heads * (qk + v),
        memory_bytes=moved_bytes,
        roofline_bytes=once_bytes,
        peak_ops_per_ps=peak,
        pj_per_operation=processor.pj_per_operation(activation_dtype),
        compute_ps=compute_ps,
        cache_ps=cache_bytes * 1000 / cache.gb_per_s if cache else 0.0,
        cache_bytes=cache_bytes,
        softmax_ps=work.pairs * heads * tile.softmax_of_pair_ps,
        memory_ps=moved_bytes / processor.memory_bytes_per_ps / processor.efficiency.memory.value,
        launches=launches,
        occupancy=slowdown(processor, blocks),
    )


def _check_lengths(queries: Sequence[int], context: Sequence[int], causal: bool) -> None:
    if len(queries) != len(context) or not queries:
        raise InputError(f"{len(queries)} query counts for {len(context)} contexts; one each, at least one")
    if not causal and min(*queries, *context) > 0:
        return
    if min(queries) < 1 or any(map(operator.lt, context, queries)):
        q, c = next((q, c) for q, c in zip(queries, context, strict=True) if q < 1 or c < q)
        raise InputError(f"a sequence of {c} tokens cannot have {q} new ones")


@dataclass(frozen=True)
class _Tile:
    """What a block of queries does on a unit; times in ps."""

    rows: int
    keys: int
    units: int
    resident: int
    """Blocks on a unit at once; two hide each other's softmax and loads."""
    alone_ps: float
    """A key of a tile when a block has the unit to itself: its steps follow each other, and loads run
    ahead but for the exposed part."""
    shared_ps: float
    """A key of a tile, of the unit's time, when all blocks that fit are there."""
    softmax_of_pair_ps: float
    """What softmax and loads add to a query and a key, over all units."""
    block_ps: float
    """A block fills and drains its unit as a kernel does the processor."""
    key_bytes: int
    """Of a key and its value, of one head."""


def _tile(processor: Processor, width: int, row_bytes: int, key_bytes: int, peak: float) -> _Tile:
    """``row_bytes``: a query and a result; ``key_bytes``: a key and a value; of one head."""
    compute, efficiency, cache = processor.compute, processor.efficiency, processor.cache
    return _tile_of(
        compute.attention_tile,
        compute.units,
        compute.unit_bytes,
        compute.vector_tflops,
        peak * efficiency.matrix.value,
        efficiency.exposed.value,
        efficiency.launch_ns.value,
        cache.gb_per_s if cache else None,
        width,
        row_bytes,
        key_bytes,
    )


@functools.lru_cache(maxsize=256)
def _tile_of(
    shape: tuple[int, int],
    units: int,
    unit_bytes: int,
    vector_tflops: float,
    rate: float,
    exposed: float,
    launch_ns: float,
    cache_gb_per_s: float | None,
    width: int,
    row_bytes: int,
    key_bytes: int,
) -> _Tile:
    rows, keys = shape
    scratch = rows * row_bytes // 2 + keys * key_bytes
    resident = max(1, min(2, unit_bytes // scratch))
    products_ps = 2 * rows * width * units / rate
    softmax_ps = rows * SOFTMAX_LANES * units * 2 / vector_tflops
    load_ps = key_bytes * units * 1000 / cache_gb_per_s if cache_gb_per_s else 0.0
    alone_ps = products_ps + softmax_ps + exposed * load_ps
    shared_ps = max(products_ps, softmax_ps) + exposed * min(products_ps, softmax_ps)
    if resident == 1:
        shared_ps = alone_ps
    return _Tile(
        rows=rows,
        keys=keys,
        units=units,
        resident=resident,
        alone_ps=alone_ps,
        shared_ps=shared_ps,
        softmax_of_pair_ps=(shared_ps - products_ps) / rows / units,
        block_ps=launch_ns * 1000,
        key_bytes=key_bytes,
    )


@dataclass
class _Work:
    """Sums over the sequences of a batch."""

    sequences: int = 0
    queries: int = 0
    tokens: int = 0
    """Keys that any query sees: read from memory."""
    pairs: int = 0
    """Query and key pairs of one head."""
    blocks: int = 0
    """Of one head, each a tile of queries of a sequence."""
    block_keys: int = 0
    """Keys all blocks of one head walk over, to the end of a tile of keys."""
    longest: int = 0
    """Keys of the longest block, to the end of a tile."""


def _one_each(tile: _Tile, context: Sequence[int]) -> _Work:
    """`_work` where every sequence has one query."""
    n, tokens = len(context), sum(context)
    return _Work(
        sequences=n,
        queries=n,
        tokens=tokens,
        pairs=tokens,
        blocks=n,
        block_keys=sum([-(-c // tile.keys) for c in context]) * tile.keys,
        longest=-(-max(context) // tile.keys) * tile.keys,
    )


def _work(
    tile: _Tile,
    queries: Sequence[int],
    context: Sequence[int],
    causal: bool = True,
    window: int | None = None,
) -> _Work:
    work, rows, keys = _Work(), tile.rows, tile.keys
    for (q, c), count in Counter(zip(queries, context, strict=True)).items():
        tokens = c if window is None else min(c, window + q - 1)
        longest = c if window is None else min(c, window + min(q, rows) - 1)
        padded = -(-longest // keys) * keys
        blocks, seen = 1, padded
        if q > rows and not causal:
            blocks = -(-q // rows)
            seen = blocks * padded
        elif q > rows:
            whole, rest = divmod(q, rows)
            blocks = whole + (rest > 0)
            # the i-th full tile of queries sees the old tokens and i tiles of new ones; on average
            # half a tile of keys sticks out
            seen = whole * (c - q) + rows * whole * (whole + 1) // 2 + (c if rest else 0)
            seen += blocks * keys // 2
            if window is not None:
                seen -= _before_window(c - q, rows, whole, rest, window, keys)
        pairs = q * c
        if causal:
            pairs -= q * (q - 1) // 2
        if window is not None and c > window:
            cut = min(q, c - window)
            pairs -= cut * (c - window) - cut * (cut - 1) // 2
        work.sequences += count
        work.queries += q * count
        work.tokens += tokens * count
        work.pairs += pairs * count
        work.blocks += blocks * count
        work.block_keys += seen * count
        if padded > work.longest:
            work.longest = padded
    return work


def _before_window(old: int, rows: int, whole: int, rest: int, window: int, keys: int) -> int:
    """Keys of a sequence that its tiles of queries skip: the i-th sees ``window + rows - 1`` of the
    ``old + i rows`` before its end, and half a tile of keys more where it starts."""
    ends = [old + rows * i for i in range(1, whole + 1)]
    skipped = [end - (window + rows - 1) - keys // 2 for end in ends]
    if rest:
        skipped.append(old + rows * whole + rest - (window + rest - 1) - keys // 2)
    return sum(s for s in skipped if s > 0)


def _split_over_keys(
    tile: _Tile, work: _Work, kv_heads: int, group: int, may_split: bool
) -> tuple[float, float, int, int]:
    """One query a sequence: units' time, bytes from the cache, kernels, blocks."""
    tiles = kv_heads * -(-group // tile.rows)
    blocks, keys = work.blocks * tiles, work.block_keys * tiles
    slots = tile.units * tile.resident
    splits = max(1, min(slots // blocks, work.longest // tile.keys)) if may_split else 1
    parts = blocks * splits
    work_ps = (keys * tile.shared_ps + parts * tile.block_ps / tile.resident) / tile.units
    spread_ps = work_ps * -(-parts // slots) * slots / parts if parts > slots else 0.0
    alone_ps = -(-work.longest // splits // tile.keys) * tile.keys * tile.alone_ps + tile.block_ps
    # a second kernel adds up the parts
    return max(spread_ps, alone_ps), keys * tile.key_bytes, 2 if splits > 1 else 1, parts


def _tiles_of_queries(tile: _Tile, work: _Work, heads: int) -> tuple[float, float]:
    """Several queries in a sequence: units' time and bytes from the cache."""
    blocks, keys = work.blocks * heads, work.block_keys * heads
    slots = tile.units * tile.resident
    work_ps = (keys * tile.shared_ps + blocks * tile.block_ps / tile.resident) / tile.units
    spread_ps = work_ps * -(-blocks // slots) * slots / blocks
    return max(spread_ps, work.longest * tile.alone_ps + tile.block_ps), keys * tile.key_bytes


def _passes(tile: _Tile, work: _Work, group: int) -> float:
    """How often keys and values are fetched where they do not stay in the cache: heads that share
    them run one after the other, as many at once as their blocks fit the units."""
    at_once = tile.units * tile.resident / work.blocks
    return min(group, 1 + (group - 1) / at_once)
