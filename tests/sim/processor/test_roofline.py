"""Kernels on a processor: rules every cost obeys, and cases worked out by hand."""

from __future__ import annotations

import importlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neardata.arch.errors import InputError
from neardata.arch.processor import Processor, load_processor
from neardata.sim.processor import (
    CAUSES,
    Cost,
    attention,
    elementwise,
    expert_matmul,
    matmul,
    total,
)

NAMES = [
    "a100-80gb", "a100-40gb", "h100-sxm", "h200", "v100", "t4", "mi210", "gaudi-2", "rtx-pro-6000",
    "xeon-8380", "xeon-gold-6154", "epyc-7v12", "mobile-npu", "generic-xpu",
]  # fmt: skip
GPU = load_processor("a100-80gb")
attention_module = importlib.import_module("neardata.sim.processor.attention")
IDEAL = {
    "efficiency.matrix.value": 1,
    "efficiency.memory.value": 1,
    "efficiency.exposed.value": 0,
    "efficiency.launch_ns.value": 0,
}
sizes = st.integers(1, 9000)


def check(processor: Processor, cost: Cost) -> None:
    assert isinstance(cost.time_ps, int)
    assert cost.roofline_ps + sum(cost.lost_ps.values()) == cost.time_ps
    assert set(cost.lost_ps) <= set(CAUSES)
    assert min(cost.lost_ps.values()) >= 0
    seconds_of_peak = cost.memory_bytes / processor.memory.gb_per_s / 1e9
    assert cost.lost_ps.get("reread", 0) or seconds_of_peak <= cost.time_ps / 1e12
    assert min(cost.energy_pj.values()) >= 0
    assert cost.total_pj == sum(cost.energy_pj.values())


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NAMES), sizes, sizes, sizes, st.integers(1, 4))
def test_matrix_products_add_up(name: str, m: int, n: int, k: int, batch: int) -> None:
    processor = load_processor(name)
    cost = matmul(processor, m, n, k, batch=batch)
    check(processor, cost)
    assert cost.flops == 2 * m * n * k * batch
    assert cost.memory_bytes == 2 * batch * (m * k + n * k + m * n)
    assert cost.time_ps >= cost.flops / processor.peak_ops_per_ps("fp16")


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(NAMES),
    st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 9000)), min_size=1, max_size=5),
    st.sampled_from([(8, 8), (32, 8), (12, 1)]),
)
def test_attention_adds_up(name: str, lengths: list[tuple[int, int]], heads: tuple[int, int]) -> None:
    processor = load_processor(name)
    queries = tuple(q for q, _ in lengths)
    context = tuple(q + before for q, before in lengths)
    cost = attention(processor, queries, context, *heads, 128, 64)
    check(processor, cost)
    pairs = sum(before + i + 1 for q, before in lengths for i in range(q))
    assert cost.flops == 2 * pairs * heads[0] * (128 + 64)
    once = 2 * (sum(context) * heads[1] + sum(queries) * heads[0]) * (128 + 64)
    assert once <= cost.memory_bytes <= once + 2 * sum(context) * (heads[0] - heads[1]) * (128 + 64) + 1


def test_one_query_each_reads_keys_and_values_once() -> None:
    cost = attention(GPU, (1,) * 256, (8192,) * 256, 64, 8, 128, 128)
    assert cost.memory_bytes == 256 * (8192 * 8 * 256 + 64 * 256) * 2
    assert "reread" not in cost.lost_ps
    assert cost.bound == "memory"


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=9))
def test_one_query_each_is_counted_as_any_other_batch(context: list[int]) -> None:
    tile = attention_module._tile(GPU, 256, 512, 512, 312.0)
    assert attention_module._one_each(tile, context) == attention_module._work(
        tile, (1,) * len(context), context
    )


def test_a_prompt_among_them_costs_the_others_full_tiles() -> None:
    # measured on 16 to 64 new tokens beside 64 sequences of 8192: 2.1 times
    gpu = load_processor("rtx-pro-6000")
    alone = attention(gpu, (1,) * 64, (8192,) * 64, 32, 8, 128, 128)
    mixed = attention(gpu, (16, *(1,) * 64), (16, *(8192,) * 64), 32, 8, 128, 128)
    assert 1.7 < mixed.time_ps / alone.time_ps < 2.5
    assert mixed.lost_ps["reread"] > 0


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 700), st.integers(0, 900)), min_size=1, max_size=3),
    st.integers(1, 1200),
)
def test_a_window_keeps_the_pairs_and_keys_inside_it(lengths: list[tuple[int, int]], window: int) -> None:
    queries = tuple(q for q, _ in lengths)
    context = tuple(q + before for q, before in lengths)
    cost = attention(GPU, queries, context, 8, 8, 128, 128, window=window)
    check(GPU, cost)
    pairs = sum(min(before + i + 1, window) for q, before in lengths for i in range(q))
    assert cost.flops == 2 * pairs * 8 * 256
    kept = sum(min(c, window + q - 1) for q, c in zip(queries, context, strict=True))
    assert cost.memory_bytes >= 2 * (kept + sum(queries)) * 8 * 256
    if max(queries) == 1 or window >= max(context):
        assert cost.memory_bytes == 2 * (kept + sum(queries)) * 8 * 256
    assert cost.time_ps <= 1.05 * attention(GPU, queries, context, 8, 8, 128, 128).time_ps


def test_a_window_saves_most_of_a_long_prompt() -> None:
    full = attention(GPU, (32768,), (32768,), 32, 8, 128, 128)
    some = attention(GPU, (32768,), (32768,), 32, 8, 128, 128, window=1024)
    assert attention(GPU, (32768,), (32768,), 32, 8, 128, 128, window=32768) == full
    assert some.flops / full.flops == pytest.approx(1 / 16, rel=0.05)
    assert 1 / 16 < some.time_ps / full.time_ps < 1 / 12


def test_attention_that_is_not_causal_sees_twice_the_pairs() -> None:
    causal = attention(GPU, (8192,), (8192,), 32, 8, 128, 128)
    every = attention(GPU, (8192,), (8192,), 32, 8, 128, 128, causal=False)
    check(GPU, every)
    assert causal.bound == every.bound == "compute"
    assert every.flops == 2 * 8192 * 8192 * 32 * 256
    assert every.time_ps / causal.time_ps == pytest.approx(2, rel=0.05)
    # queries of a decoder that see a short source
    assert attention(GPU, (64,), (8,), 8, 8, 64, 64, causal=False).flops == 2 * 64 * 8 * 8 * 128


def test_a_latent_cache_is_read_once() -> None:
    sizes = ((1,) * 16, (4096,) * 16, 16, 1, 576, 512)
    apart, shared = attention(GPU, *sizes), attention(GPU, *sizes, shared_kv=True)
    check(GPU, shared)
    assert shared.memory_bytes == 2 * (16 * 4096 * 576 + 16 * 16 * (576 + 512))
    assert apart.memory_bytes - shared.memory_bytes == 2 * 16 * 4096 * 512
    assert shared.flops == apart.flops
    assert shared.time_ps < apart.time_ps


def test_bytes_that_no_cache_holds_go_to_the_memory() -> None:
    assert elementwise(GPU, 1 << 20, 1 << 20, memory_bytes=3 << 18).memory_bytes == 3 << 18
    # what the cache does not hold is in the memory too, and counted once
    assert elementwise(GPU, 1 << 30, 0, memory_bytes=1 << 20).memory_bytes == (1 << 30) - (40 << 20) // 3
    assert elementwise(GPU, 0, 1 << 20, memory_bytes=1 << 20).energy_pj["memory"] > 0


def test_the_roofline_is_bound_by_the_longer_ideal_whatever_the_launch() -> None:
    small = matmul(GPU, 1, 64, 64)
    assert (small.bound, small.roofline_bound) == ("launch", "memory")
    assert matmul(GPU, 4096, 4096, 4096).roofline_bound == "compute"
    cached = elementwise(GPU, 1024, 1024, 512)
    assert (cached.bound, cached.roofline_bound) == ("launch", "compute")
    assert total((small, cached)).roofline_bound == "memory"


def test_vector_work_takes_energy_where_there_is_no_fp32() -> None:
    assert elementwise(load_processor("mobile-npu"), 64, 64, 64).energy_pj["compute"] > 0


def test_narrow_caches_are_read_faster() -> None:
    wide = attention(GPU, (1,) * 64, (8192,) * 64, 32, 8, 128, 128)
    narrow = attention(GPU, (1,) * 64, (8192,) * 64, 32, 8, 128, 128, kv_format="int8")
    assert narrow.memory_bytes < 0.51 * wide.memory_bytes
    assert narrow.time_ps < wide.time_ps


def test_with_nothing_lost_full_waves_take_the_roofline() -> None:
    ideal = load_processor("a100-80gb", {**IDEAL, "caches.0.gb_per_s": 1e9})
    m, n = 256 * 12, 128 * 9  # 108 tiles, one a unit
    cost = matmul(ideal, m, n, 8192)
    assert cost.time_ps == cost.roofline_ps == round(2 * m * n * 8192 / 312)
    assert cost.bound == "compute"


def test_one_tile_more_than_the_units_starts_a_wave() -> None:
    no_memory = {"memory.gb_per_s": 1e9, "power.memory_pj_per_byte.value": 0, "caches.0.gb_per_s": 1e9}
    ideal = load_processor("a100-80gb", {**IDEAL, **no_memory, "compute.tiles": [[256, 128]]})
    depth = 3  # too little to split
    full = matmul(ideal, 256 * 12, 128 * 9, depth)
    more = matmul(ideal, 256 * 12 + 1, 128 * 9, depth)
    assert full.lost_ps.get("quantisation", 0) == 0
    assert more.time_ps == pytest.approx(2 * full.time_ps, abs=1)
    assert more.lost_ps["quantisation"] == more.time_ps - more.roofline_ps


def test_memory_bound_time_is_bytes_over_rate_and_a_launch() -> None:
    gpu = load_processor("a100-80gb", {"efficiency.exposed.value": 0})
    cost = matmul(gpu, 1, 12288, 4096)
    rate = 2.039 * gpu.efficiency.memory.value
    assert cost.time_ps == round(cost.memory_bytes / rate + 1000 * gpu.efficiency.launch_ns.value)
    assert cost.bound == "memory"


def test_narrow_weights_cost_their_bytes() -> None:
    class Grouped:
        def bytes_of(self, elements: int, row: int | None = None) -> int:
            assert row == 4096
            return elements // 2 + 2 * elements // 32

    wide, narrow = matmul(GPU, 1, 4096, 4096), matmul(GPU, 1, 4096, 4096, weight_format=Grouped())
    assert wide.memory_bytes - narrow.memory_bytes == 4096 * 4096 * 2 - 4096 * 4096 * 9 // 16
    assert narrow.time_ps < wide.time_ps
    assert matmul(GPU, 1, 4096, 4096, weight_format="int4").memory_bytes < narrow.memory_bytes


def test_only_active_experts_are_read() -> None:
    some = expert_matmul(GPU, (2, 0, 0, 2), 1536, 2048)
    every = expert_matmul(GPU, (1, 1, 1, 1), 1536, 2048)
    assert every.memory_bytes - some.memory_bytes == 2 * 1536 * 2048 * 2
    assert every.flops == some.flops
    assert every.time_ps > some.time_ps


def test_one_expert_is_a_matrix_product() -> None:
    assert expert_matmul(GPU, (0, 300), 1536, 2048) == matmul(GPU, 300, 1536, 2048)


def test_small_kernels_are_a_launch_each() -> None:
    one, three = elementwise(GPU, 64, 64), elementwise(GPU, 64, 64, launches=3)
    assert one.bound == three.bound == "launch"
    assert three.lost_ps["launch"] == pytest.approx(3 * one.lost_ps["launch"], abs=2)


def test_what_a_producer_left_in_the_cache_is_not_fetched() -> None:
    assert elementwise(GPU, 1 << 20, 1 << 20).memory_bytes == 0
    assert elementwise(GPU, 1 << 20, 1 << 20, cached=False).memory_bytes == 2 << 20
    assert elementwise(GPU, 1 << 30, 0).memory_bytes == (1 << 30) - (40 << 20) // 3


def test_kernels_in_a_row_add_up() -> None:
    costs = (matmul(GPU, 1, 4096, 4096), elementwise(GPU, 64, 64), matmul(GPU, 4096, 4096, 4096))
    both = total(costs)
    check(GPU, both)
    assert both.time_ps == sum(c.time_ps for c in costs)
    assert both.bound == "compute"
    assert both.total_pj == pytest.approx(sum(c.total_pj for c in costs))
    with pytest.raises(ValueError, match="no kernels"):
        total(())


def test_energy_at_full_load_is_the_tdp() -> None:
    ideal = load_processor("a100-80gb", {**IDEAL, "power.cache_pj_per_byte.value": 0})
    cost = matmul(ideal, 256 * 108, 128 * 100, 8192)
    watts = cost.total_pj / cost.time_ps
    assert 0.8 * 400 < watts < 400


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: matmul(GPU, 0, 1, 1), "m must be at least 1, got 0"),
        (lambda: matmul(GPU, 1, 1, 1, activation_dtype="fp8"), "no 'fp8' arithmetic; did you mean fp"),
        (lambda: matmul(GPU, 1, 1, 1, weight_format="int5"), "unknown number format 'int5'; did you"),
        (lambda: expert_matmul(GPU, (0, 0), 1, 1), "no expert has tokens"),
        (lambda: expert_matmul(GPU, (1, -1), 1, 1), "must not be negative, got -1"),
        (lambda: elementwise(GPU, -1, 0), "must not be negative"),
        (lambda: attention(GPU, (1,), (1, 2), 1, 1, 1, 1), "1 query counts for 2 contexts"),
        (lambda: attention(GPU, (2,), (1,), 1, 1, 1, 1), "a sequence of 1 tokens cannot have 2 new ones"),
        (lambda: attention(GPU, (1,), (1,), 3, 2, 1, 1), "3 heads do not share 2 heads"),
        (lambda: attention(GPU, (1,), (1,), 1, 1, 1, 2, shared_kv=True), "values of width 2 are no part of"),
        (lambda: attention(GPU, (1,), (1,), 1, 1, 1, 1, window=0), "window must be at least 1, got 0"),
        (lambda: attention(GPU, (1,), (0,), 1, 1, 1, 1, causal=False), "a sequence of 0 tokens"),
        (lambda: elementwise(GPU, 1, 1, memory_bytes=3), "3 bytes of memory are more than the 2 read"),
    ],
)  # fmt: skip
def test_input_that_cannot_be(call: object, text: str) -> None:
    with pytest.raises(InputError) as error:
        call()  # type: ignore[operator]
    assert text in str(error.value)


def test_many_short_rows_are_reduced_one_after_the_other() -> None:
    gpu = load_processor("rtx-pro-6000")
    assert gpu.compute.row_ns is not None
    few, many = (elementwise(gpu, 256 * rows, 256 * rows, rows=rows) for rows in (188, 188 * 400))
    row_ns, launch_ns = gpu.compute.row_ns.value, gpu.efficiency.launch_ns.value
    assert few.time_ps == (launch_ns + row_ns) * 1000, "one on every unit"
    assert many.bound == "compute"
    assert many.time_ps - few.time_ps == pytest.approx(399 * row_ns * 1000, rel=0.06)
    assert elementwise(GPU, 256, 256, rows=1) == elementwise(GPU, 256, 256), "a GPU without the figure"
