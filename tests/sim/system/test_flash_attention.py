"""Attention in the controller of a drive: pages, closed forms, the engine against its twin, refusals."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naive import flash_attention as naive
from neardata.arch.errors import InputError
from neardata.arch.storage import AttentionEngine, Ssd, load_ssd
from neardata.sim.program import FlashAttention, FlashIo
from neardata.sim.system.flash_attention import (
    attention_job,
    attention_pages,
    filtered,
    in_turn,
    order_of,
    segments,
    wanted,
)
from neardata.sim.system.storage import StorageEngine

PAGE, TR = 4096, 45_000
COMMAND = 290
"""ns, of the preset's bus."""
BUS = PAGE / 1.4
FILTER = PAGE / 1.79


def drive(**overrides: Any) -> Ssd:
    flash = {
        "flash.page_bytes": PAGE, "flash.spare_bytes": 0, "flash.read_ns": [TR],
        "flash.independent_planes": True, "flash.multi_plane": False,
    }  # fmt: skip
    return load_ssd("instinfer-csd", {**flash, **overrides})


def one_head(*context: int, **fields: Any) -> FlashAttention:
    return FlashAttention(context, 1, 1, 128, 128, **fields)


kernels = st.builds(
    FlashAttention,
    context=st.lists(st.integers(1, 90), min_size=1, max_size=4).map(tuple),
    heads=st.sampled_from([4, 8]), kv_heads=st.sampled_from([1, 2, 4]), qk=st.sampled_from([8, 24]),
    v=st.sampled_from([8, 16]), page_bytes=st.sampled_from([512, 1024]),
    channels_kept=st.integers(0, 8), channels_a_page=st.sampled_from([1, 3, 4]), ranked=st.booleans(),
)  # fmt: skip


@given(kernel=kernels, channels=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_pages_are_those_of_the_twin_and_hold_everything_once(kernel: FlashAttention, channels: int) -> None:
    pages = attention_pages(kernel, channels)
    columns = (pages.stream, pages.copy, pages.position, pages.position_end, pages.channel, pages.channel_end,
               pages.bus)  # fmt: skip
    assert list(zip(*(c.tolist() for c in columns), strict=True)) == naive.pages(kernel, channels, 2)
    seen: Counter[tuple[int, int, int, int]] = Counter()
    for stream, copy, row, row_end, column, column_end, _ in naive.pages(kernel, channels, 2):
        assert (row_end - row) * (column_end - column) * 2 <= kernel.page_bytes
        seen.update((stream, copy, r, c) for r in range(row, row_end) for c in range(column, column_end))
    assert set(seen.values()) <= {1}
    for n, context in enumerate(c for c in kernel.context for _ in range(kernel.kv_heads)):
        together = min(kernel.channels_a_page, kernel.qk)
        sides = (together, kernel.qk, kernel.v)
        for copy, width, side in zip(range(3), (kernel.qk, kernel.qk, kernel.v), sides, strict=True):
            if copy == 0 and not kernel.channels_kept:
                continue
            held = context - context % (kernel.page_bytes // (2 * side))
            assert sum(1 for s, c, *_ in seen if (s, c) == (n, copy)) == held * width


@given(
    kernel=kernels, flight=st.integers(2, 6), seed=st.integers(0, 999), restart=st.integers(0, 5000),
    softmax=st.sampled_from([2.0, 15.1, 400.0]), gemv=st.sampled_from([0.2, 13.3]),
)  # fmt: skip
@settings(max_examples=120, deadline=None)
def test_the_engine_is_its_twin(
    kernel: FlashAttention, flight: int, seed: int, restart: int, softmax: float, gemv: float
) -> None:
    """Whatever limits: reads, products or the softmax."""
    if kernel.channels_kept:
        kernel = replace(kernel, tokens_kept=0.3)
    engine = AttentionEngine(
        gemv_gflops=gemv, softmax_mops=softmax, filter_gb_per_s=1.0, heads_in_flight=flight, source="test"
    )
    order = order_of(kernel, engine)
    streams = len(kernel.context) * kernel.kv_heads
    assert order == naive.order(streams, kernel.channels_kept > 0, flight // 2)
    took = np.random.default_rng(seed).integers(0, 9000, len(order)) * (seed % 3 > 0)
    ours = in_turn(kernel, engine, order, np.cumsum(took), restart)
    twin = naive.NaiveEngine(kernel, engine, dict(zip(order, took.tolist(), strict=True)), restart)
    assert ours == twin.run()


@given(
    done=st.lists(st.integers(0, 500), min_size=1, max_size=30), channels=st.integers(1, 3),
    each=st.integers(1, 60),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_filter_takes_the_pages_of_its_channel_one_after_the_other(
    done: list[int], channels: int, each: int
) -> None:
    bus = np.arange(len(done)) % channels
    ends = filtered(np.array(done), bus, each)
    for channel in range(channels):
        free = 0
        for came, end in sorted(zip(np.array(done)[bus == channel], ends[bus == channel], strict=True)):
            free = max(free, came) + each
            assert end == free


def test_one_head_in_closed_form() -> None:
    """16 positions: a page of keys and one of values, on two channels."""
    outcome = StorageEngine(drive()).run(one_head(16))
    scores, values = 16 / 15.1e-3, 2 * 16 * 128 / 13.3
    last_of_keys = 2 * 128 / 13.3
    ns = COMMAND + TR + BUS + FILTER + last_of_keys + scores + values
    assert outcome.time_ps == pytest.approx(1000 * ns, abs=5)
    assert outcome.memory_bytes == 2 * PAGE
    assert outcome.macs == 16 * 256


def test_positions_that_fill_no_page_are_read_from_the_controllers_memory() -> None:
    outcome = StorageEngine(drive()).run(one_head(15))
    assert outcome.memory_bytes == 0
    ns = 2 * 15 * 128 / 13.3 + 15 / 15.1e-3 + 2 * 15 * 128 / 13.3
    assert outcome.time_ps == pytest.approx(1000 * ns, abs=5)


def test_a_page_of_channels_that_is_not_full_is_in_the_controllers_memory_too() -> None:
    """Four channels of 512 positions fill a page."""
    found = {}
    for context in (77, 511, 512, 1537):
        pages = attention_pages(one_head(context, channels_kept=16), 8)
        found[context] = np.bincount(pages.copy, minlength=3).tolist()
    assert found == {77: [0, 4, 4], 511: [0, 31, 31], 512: [32, 32, 32], 1537: [96, 96, 96]}


def test_reads_again_cost_energy() -> None:
    ecc = {
        "codeword_bytes": 1024, "correctable_bits": 40, "decode_ns": 2000, "rber": 4e-3, "retry_factor": 0.5,
        "retries": 3, "source": "test",
    }  # fmt: skip
    kernel, ssd = one_head(4096), drive(ecc=ecc)
    engine = StorageEngine(ssd)
    counts = engine.transactions(attention_job(kernel, ssd, segments(1, False))[0])
    assert counts.count("pages_read") == 512 and counts.count("read_retries") > 50
    nj = ssd.energy.page_read_nj.value
    sensed = engine.run(kernel).energy_pj["flash arrays"] / nj / 1e3
    assert sensed == pytest.approx(512 + counts.count("read_retries"))
    io = FlashIo("read", 512 * PAGE)
    again = engine.flash([io]).count("read_retries")
    assert again > 50
    assert engine.run(io).energy_pj["flash arrays"] / nj / 1e3 == pytest.approx(512 + again)


def test_many_heads_take_what_the_softmax_does() -> None:
    """Of the whole engine; keys and values of a score are 512 bytes."""
    kernel = FlashAttention((1536,) * 8, 40, 40, 128, 128)
    outcome = StorageEngine(drive()).run(kernel)
    assert outcome.bound_by == "softmax"
    assert outcome.bound_ps == round(8 * 40 * 1536 * 1e6 / 15.1)
    assert outcome.memory_bytes / outcome.time_ps * 1e3 == pytest.approx(0.512 * 15.1, rel=0.01)


def test_an_engine_that_keeps_up_leaves_commands_between_pages() -> None:
    """A page and its command on each channel: 4096 bytes in 290 + 2926 ns, but for the first read."""
    kernel = FlashAttention((1536,) * 8, 40, 40, 128, 128)
    outcome = StorageEngine(drive(**{"attention.softmax_mops": 1000.0})).run(kernel)
    assert outcome.bound_by == "flash channels"
    assert outcome.memory_bytes / outcome.time_ps * 1e3 == pytest.approx(8 * PAGE / (COMMAND + BUS), rel=0.01)


@pytest.mark.parametrize("sparse", [{}, {"channels_kept": 16, "tokens_kept": 0.125, "pages_read": 0.5}])
def test_channels_folded_and_simulated_one_by_one_agree(sparse: dict[str, Any]) -> None:
    kernel = FlashAttention((257, 300, 64), 8, 8, 128, 128, **sparse)
    assert StorageEngine(drive()).run(kernel) == StorageEngine(drive(), fold=False).run(kernel)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.77, 1.0])
def test_the_share_of_pages_is_read_of_each_copy(share: float) -> None:
    kernel = FlashAttention((1024, 77), 2, 2, 128, 128, channels_kept=16, pages_read=share)
    pages = attention_pages(kernel, 8)
    read = wanted(pages, share)
    for stream in range(4):
        for copy in range(3):
            mine = (pages.stream == stream) & (pages.copy == copy)
            assert read[mine].sum() == np.ceil(mine.sum() * share - 1e-9)
    outcome = StorageEngine(drive()).run(kernel)
    assert outcome.memory_bytes == read.sum() * PAGE
    assert outcome.macs == 2 * ((1024 + 77) * (256 + 16))


def test_sparse_attention_reads_less_and_waits_for_its_choice() -> None:
    dense = one_head(2048)
    sparse = one_head(2048, channels_kept=16, tokens_kept=0.125, pages_read=0.25)
    engine = StorageEngine(drive())
    few, all_of_it = engine.run(sparse), engine.run(dense)
    assert few.memory_bytes == (128 * 0.25 + 128 * 0.25 + 128 * 0.25) * PAGE
    assert few.memory_bytes < all_of_it.memory_bytes
    # a choice stands between two reads of the array
    assert few.time_ps > 2 * TR * 1000 + round(2048 * 1e6 / 15.1)


def test_segments_of_all_heads_come_once() -> None:
    for streams in (1, 2, 7):
        for ahead in (1, 3, 9):
            assert Counter(segments(streams, True, ahead)) == Counter(
                (n, copy) for n in range(streams) for copy in range(3)
            )


@pytest.mark.parametrize(
    ("fields", "key", "message"),
    [
        ({"context": ()}, "context", "must name at least one position"),
        ({"context": (4, 0)}, "context", "must name at least one position"),
        ({"heads": 3, "kv_heads": 2}, "kv_heads", "3 heads do not share 2 evenly"),
        ({"qk": 0}, "qk", "must be at least 1"),
        ({"qk": 4096}, "qk", "a position of a head takes 8192 bytes, a page holds 4096"),
        ({"cache": "int4/g32"}, "cache", "whole numbers of bytes without scales"),
        ({"channels_kept": 129}, "channels_kept", "must be from 0 to 128"),
        ({"tokens_kept": 0.5}, "channels_kept", "dense attention reads all"),
        ({"channels_kept": 8, "pages_read": 0.0}, "pages_read", "above 0 and at most 1"),
        ({"page_bytes": 8192}, "page_bytes", "the pages of instinfer-csd are of 4096"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], key: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        StorageEngine(drive()).run(replace(one_head(16), **fields))
    assert caught.value.key == key


def test_a_drive_without_an_engine_says_so() -> None:
    with pytest.raises(InputError, match="cambricon-llm-s has no attention engine"):
        StorageEngine(load_ssd("cambricon-llm-s")).run(one_head(16, page_bytes=16384))
