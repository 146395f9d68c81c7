"""Caches of experts: against sets and lists, against all choices, and measured hit rates predicted."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naive.expert_cache import hits, most_hits
from neardata.arch.errors import InputError
from neardata.workloads.llm.expert_cache import hit_rate, hit_rates
from neardata.workloads.llm.routing import (
    Correlated,
    adjacent_overlap,
    measured,
    normalised_entropy,
    top_share,
)

MEASURED = Path(__file__).parents[1] / "data/workloads/moe_trace_hit_rates.csv"


def drawn(seed: int, tokens: int, experts: int, top_k: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return np.stack([draw.permutation(experts)[:top_k] for _ in range(tokens)])


@given(
    st.integers(0, 2**32),
    st.integers(1, 12),
    st.integers(1, 20),
    st.sampled_from(["lru", "lfu", "score", "oracle"]),
)
@settings(max_examples=150, deadline=None)
def test_kernel_and_its_twin(seed: int, capacity: int, tokens: int, policy: str) -> None:
    top_k = seed % 4 + 1
    sequences = [drawn(seed + i, tokens + i, 9, top_k) for i in range(3)]
    scores = [np.random.default_rng(seed + i).random((tokens + i, 9)) for i in range(3)]
    found = hit_rate(sequences, 9, capacity, policy, scores=scores if policy == "score" else None)  # type: ignore[arg-type]
    want = sum(hits(s.tolist(), capacity, policy, c) for s, c in zip(sequences, scores, strict=True))
    assert found == pytest.approx(want / (top_k * sum(len(s) for s in sequences)))


@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 7))
@settings(max_examples=30, deadline=None)
def test_no_choice_beats_the_oracle(seed: int, capacity: int, tokens: int) -> None:
    ids = drawn(seed, tokens, 5, 2)
    assert hit_rate([ids], 5, capacity, "oracle") * 2 * tokens == pytest.approx(
        most_hits(ids.tolist(), capacity)
    )


def test_lru_of_top_k_experts_hits_as_often_as_tokens_overlap() -> None:
    ids = Correlated(0.4, 0.98, seed=3).ids(3, 60, 64, 6)[0]
    assert hit_rate(ids, 64, 6, "lru") == pytest.approx(adjacent_overlap(ids) * 59 / 60)


def test_a_cache_of_all_experts_misses_each_once_and_larger_is_not_worse() -> None:
    ids = Correlated(0.4, 0.98, seed=3).ids(2, 50, 32, 4)[0]
    rates = hit_rates(ids, 32, (4, 8, 16, 32))
    seen = sum(len(np.unique(layer)) for layer in ids)
    for policy in ("random", "lru", "lfu", "oracle"):
        assert rates[policy, 32] == pytest.approx(1 - seen / ids.size)
        assert rates[policy, 4] < rates[policy, 8] < rates[policy, 16] <= rates[policy, 32]
    assert all(rates["oracle", c] >= rates[p, c] for c in (4, 8, 16) for p in ("random", "lru", "lfu"))


@pytest.mark.parametrize(
    "ids, policy, capacity, message",
    [
        ([[[0, 1]]], "fifo", 2, "unknown policy 'fifo'"),
        ([[[0, 1]]], "lru", 0, "at least one expert"),
        ([[[0, 4]]], "lru", 2, "experts are 0 to 3"),
        ([[[1, 1]]], "lru", 2, "twice"),
        ([], "lru", 2, "none empty"),
        ([[0, 1]], "lru", 2, "expected"),
        ([[[0, 1]]], "score", 2, "needs scores"),
    ],
)
def test_what_is_no_routing(ids: list, policy: str, capacity: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        hit_rate(ids, 4, capacity, policy)


@pytest.fixture(scope="module")
def qwen3() -> dict[str, np.ndarray]:
    """Drawn routings of the five kinds of prompts, five each, set by overlap, entropy and top-16 share."""
    figures = measured()
    return {
        name: figures.routing(name, seed=0).ids(48, 129, 128, 8, prompts=5).reshape(-1, 129, 8)
        for name in figures.workloads
    }


def test_drawn_routings_have_the_measured_figures(qwen3: dict[str, np.ndarray]) -> None:
    """Within 2 points; summarisation, whose share is beyond what normal scores give, within 6."""
    for name, figures in measured().workloads.items():
        near = 0.06 if name == "summarisation" else 0.02
        assert adjacent_overlap(qwen3[name]) == pytest.approx(figures.overlap, abs=0.02)
        assert normalised_entropy(qwen3[name], 128) == pytest.approx(figures.entropy, abs=near)
        assert top_share(qwen3[name], 128) == pytest.approx(figures.share, abs=near)


def test_measured_hit_rates_are_predicted(qwen3: dict[str, np.ndarray]) -> None:
    """Nothing in the routing is set by a hit rate. Within 3 points, but for LRU of 32 experts, which comes
    out 3.0 too high."""
    rates = hit_rates(np.concatenate(list(qwen3.values())), 128, (8, 16, 32, 64))
    rows = list(csv.DictReader(MEASURED.open()))
    assert len(rows) == len(rates) == 16
    for row in rows:
        place = row["policy"], int(row["capacity"])
        near = 0.033 if place == ("lru", 32) else 0.03
        assert rates[place] == pytest.approx(float(row["hit_rate"]), abs=near), row
