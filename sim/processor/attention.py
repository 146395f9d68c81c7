"""Fused attention in closed form: scores stay in the units, keys and values stream past them.

A block is a tile of queries of one head. Where each sequence has one query, the heads that share
keys and values fill the tile together, and the keys are split over as many blocks as the
processor holds; else a block walks over all keys its queries may see, and a tile is as long as if
it were full. (FlashAttention 2, arXiv 2307.08691, and its kernels for paged caches.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import ceil

from neardata.arch.errors import InputError
from neardata.arch.processor import Processor
from neardata.sim.processor.cost import Cost, kernel_cost
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
) -> Cost:
    """Causal ``softmax(q k) v`` of several sequences in one kernel.

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

    Raises:
        InputError: lengths that do not match, a sequence with fewer tokens than queries, heads that
            do not share evenly.

    >>> from neardata.arch.processor import load_processor
    >>> gpu = load_processor("a100-80gb")
    >>> attention(gpu, (1,) * 64, (4096,) * 64, 32, 8, 128, 128).bound
    'memory'
    >>> attention(gpu, (4096,), (4096,), 32, 8, 128, 128).bound
    'compute'
    """
    sequences = _sequences(queries, context)
    if kv_heads < 1 or heads < 1 or heads % kv_heads:
        raise InputError(f"{heads} heads do not share {kv_heads} heads of keys and values evenly")
    if qk < 1 or v < 1:
        raise InputError(f"widths must be at least 1, got {min(qk, v)}")
    group = heads // kv_heads
    peak = processor.peak_ops_per_ps(activation_dtype)
    pairs = sum(count * (q * c - q * (q - 1) // 2) for (q, c), count in sequences.items())
    row_bytes = (element_bits(activation_dtype) * (qk + v) + 7) // 8
    token_bytes = kv_heads * (stored_bytes(kv_format, qk, qk) + stored_bytes(kv_format, v, v))
    tokens = sum(c * count for (_, c), count in sequences.items())
    once_bytes = tokens * token_bytes + sum(queries) * heads * row_bytes
    tile = _Tile(processor, qk, v, row_bytes, peak)
    single = all(q == 1 for q, _ in sequences)
    if single:
        compute_ps, cache_bytes, launches = _split_over_keys(tile, sequences, kv_heads, group)
        passes = 1.0
    else:
        compute_ps, cache_bytes = _tiles_of_queries(tile, sequences, heads)
        launches = 1
        passes = _passes(tile, sequences, group, tokens * token_bytes // kv_heads)
    cache = processor.cache
    rate = processor.memory_bytes_per_ps * processor.efficiency.memory.value
    return kernel_cost(
        processor,
        flops=2 * pairs * heads * (qk + v),
        memory_bytes=round(once_bytes + (passes - 1) * tokens * token_bytes),
        roofline_bytes=once_bytes,
        peak_ops_per_ps=peak,
        pj_per_operation=processor.pj_per_operation(activation_dtype),
        compute_ps=compute_ps,
        cache_ps=cache_bytes * 1000 / cache.gb_per_s if cache else 0.0,
        cache_bytes=cache_bytes,
        softmax_ps=pairs * heads * tile.softmax_of_pair_ps,
        memory_ps=(once_bytes + (passes - 1) * tokens * token_bytes) / rate,
        launches=launches,
    )


def _sequences(queries: Sequence[int], context: Sequence[int]) -> Counter[tuple[int, int]]:
    if len(queries) != len(context) or not queries:
        raise InputError(f"{len(queries)} query counts for {len(context)} contexts; one each, at least one")
    sequences = Counter(zip(queries, context, strict=True))
    for q, c in sequences:
        if q < 1 or c < q:
            raise InputError(f"a sequence of {c} tokens cannot have {q} new ones")
    return sequences


class _Tile:
    """What a block of queries does on a unit, in ps."""

    def __init__(self, processor: Processor, qk: int, v: int, row_bytes: int, peak: float) -> None:
        compute, efficiency = processor.compute, processor.efficiency
        self.processor = processor
        self.rows, self.keys = compute.attention_tile
        scratch = self.rows * row_bytes // 2 + self.keys * row_bytes
        self.resident = max(1, min(2, compute.unit_bytes // scratch))
        """Blocks on a unit at once; two hide each other's softmax and loads."""
        self.units = compute.units
        matrix_ps = 2 * self.rows * (qk + v) / (peak * efficiency.matrix.value / self.units)
        lanes_per_ps = compute.vector_tflops / 2 / self.units
        softmax_ps = self.rows * SOFTMAX_LANES / lanes_per_ps
        self.key_bytes = row_bytes
        cache = processor.cache
        load_ps = row_bytes * self.units * 1000 / cache.gb_per_s if cache else 0.0
        exposed = efficiency.exposed.value
        # of a unit for a tile of queries and one key, at full load; alone a block has all its steps
        # in sequence, and only loads run ahead
        self.alone_ps = matrix_ps + softmax_ps + exposed * load_ps
        self.shared_ps = (
            self.alone_ps
            if self.resident == 1
            else max(matrix_ps, softmax_ps) + exposed * min(matrix_ps, softmax_ps)
        )
        self.softmax_of_pair_ps = (self.shared_ps - matrix_ps) / self.rows / self.units
        """What the softmax and loads of one query and key add, over all units."""
        self.block_ps = efficiency.launch_ns.value * 1000
        """A block fills and drains its unit as a kernel does the processor."""

    def padded(self, keys: int) -> int:
        return -(-keys // self.keys) * self.keys


def _split_over_keys(
    tile: _Tile, sequences: Counter[tuple[int, int]], kv_heads: int, group: int
) -> tuple[float, float, int]:
    """One query a sequence: units' time, bytes from the cache, kernels."""
    blocks = sum(sequences.values()) * kv_heads * -(-group // tile.rows)
    keys = sum(tile.padded(c) * count for (_, c), count in sequences.items())
    keys *= kv_heads * -(-group // tile.rows)
    slots = tile.units * tile.resident
    longest = max(c for _, c in sequences)
    splits = max(1, min(slots // blocks, ceil(longest / tile.keys)))
    waves = ceil(blocks * splits / slots)
    work_ps = keys * tile.shared_ps / tile.units
    spread_ps = work_ps * waves * slots / (blocks * splits)
    alone_ps = tile.padded(ceil(longest / splits)) * tile.alone_ps
    # a second kernel adds up the parts
    return max(spread_ps, alone_ps), keys * tile.key_bytes, 2 if splits > 1 else 1


def _tiles_of_queries(tile: _Tile, sequences: Counter[tuple[int, int]], heads: int) -> tuple[float, float]:
    """Several queries in a sequence: units' time and bytes from the cache."""
    blocks = keys = longest = 0
    for (q, c), count in sequences.items():
        whole, rest = divmod(q, tile.rows)
        parts = whole + (rest > 0)
        # the i-th full tile of queries sees the old tokens and i tiles of new ones
        seen = whole * (c - q) + tile.rows * whole * (whole + 1) // 2 + (c if rest else 0)
        # on average half a tile of keys sticks out, where it is not known exactly
        seen = tile.padded(c) if parts == 1 else seen + parts * tile.keys // 2
        blocks += parts * count
        keys += seen * count
        longest = max(longest, tile.padded(c))
    blocks, keys = blocks * heads, keys * heads
    slots = tile.units * tile.resident
    work_ps = (keys * tile.shared_ps + blocks * tile.block_ps / tile.resident) / tile.units
    spread_ps = work_ps * ceil(blocks / slots) * slots / blocks
    return max(spread_ps, longest * tile.alone_ps + tile.block_ps), keys * tile.key_bytes


def _passes(tile: _Tile, sequences: Counter[tuple[int, int]], group: int, head_bytes: int) -> float:
    """How often keys and values are fetched: heads that share them run one after the other, and
    what all sequences read meanwhile may not stay in the cache."""
    cache = tile.processor.cache
    blocks = sum(-(-q // tile.rows) * count for (q, _), count in sequences.items())
    at_once = tile.units * tile.resident / blocks  # heads
    if group == 1 or (cache is not None and head_bytes <= cache.bytes):
        return 1.0
    return min(group, 1 + (group - 1) / at_once)
