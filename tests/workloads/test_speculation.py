"""MoESD's equations: its tables and numbers, and what they must be in the limits."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neardata.arch.errors import InputError
from neardata.workloads.llm.model import load_model
from neardata.workloads.llm.speculation import (
    active_experts,
    sigma,
    speed_up,
    target_efficiency,
    threshold_tokens,
    tokens_per_expert,
    tokens_per_round,
)

TABLES = list(csv.DictReader((Path(__file__).parents[1] / "data/workloads/moesd.csv").open()))
HALF = 0.005
"""Half of the last digit printed."""


@pytest.mark.parametrize(
    "row", TABLES, ids=lambda r: f"{r['model']}-{r['data']}-{r['temperature']}-{r['gamma']}"
)
def test_speed_up_of_the_tables(row: dict[str, str]) -> None:
    """x = T_AR / T_SD; T_SD is what a round takes over the tokens it makes, as in Eq. 4."""
    t_ar, t_sd, x, gamma = float(row["t_ar"]), float(row["t_sd"]), float(row["x"]), int(row["gamma"])
    tokens = float(row["sigma"]) * (gamma + 1)
    ours = [
        speed_up(
            tokens=tokens, gamma=gamma, decode_time=a, draft_time=0.1 * d * tokens / gamma,
            verify_time=0.8 * d * tokens, reject_time=0.1 * d * tokens,
        )
        for a, d in ((t_ar - HALF, t_sd + HALF), (t_ar + HALF, t_sd - HALF))
    ]  # fmt: skip
    assert ours[0] <= x + HALF and ours[1] >= x - HALF


def test_all_rows_are_there() -> None:
    assert len(TABLES) == 25


def test_active_experts_of_qwen2() -> None:
    """E = 64, K = 8."""
    found = [round(active_experts(t, 64, 8), 1) for t in (1, 2, 4, 8, 16, 32, 64)]
    assert found == [8, 15, 26.5, 42.0, 56.4, 63.1, 64.0]


@pytest.mark.parametrize(
    "name, tokens",
    [("qwen2-57b-a14b", 23), ("mixtral-8x7b", 11), ("qwen3-30b-a3b", 47), ("deepseek-v2-lite", 31)],
)
def test_threshold_tokens_of_models(name: str, tokens: int) -> None:
    experts = load_model(name).experts
    assert experts is not None
    assert threshold_tokens(experts.top_k / experts.count) == tokens
    share = [active_experts(t, experts.count, experts.top_k) / experts.count for t in (tokens - 1, tokens)]
    assert share[0] < 0.95 <= share[1]


@given(st.floats(0, 1), st.integers(1, 8))
def test_a_round_makes_one_token_and_those_accepted(acceptance: float, gamma: int) -> None:
    assert tokens_per_round(acceptance, gamma) == pytest.approx(
        sum(acceptance**i for i in range(gamma + 1)), rel=1e-6
    )
    assert sigma(0.0, gamma) == 1 / (gamma + 1) and sigma(1.0, gamma) == 1.0


def test_tokens_per_round_of_a_drawn_chain() -> None:
    draw = np.random.default_rng(0)
    accepted = draw.random((100_000, 4)) < 0.7
    made = 1 + np.cumprod(accepted, axis=1).sum(axis=1)
    assert tokens_per_round(0.7, 4) == pytest.approx(made.mean(), abs=0.02)


@given(st.integers(1, 300), st.integers(1, 64))
def test_tokens_per_expert_are_tokens_over_active_experts(tokens: int, top_k: int) -> None:
    assert tokens_per_expert(tokens, top_k / 64) == pytest.approx(
        tokens * top_k / active_experts(tokens, 64, top_k)
    )


def test_speed_up_is_the_sum_of_eq_4() -> None:
    times = {"decode_time": 8.0, "draft_time": 0.5, "verify_time": 9.0, "reject_time": 0.25}
    s_over_r = tokens_per_round(0.8, 3)
    terms = 3 * 0.5 / 8.0 + 1 / target_efficiency(8.0, 9.0) + 0.25 / 8.0
    assert speed_up(tokens=s_over_r, gamma=3, **times) == pytest.approx(s_over_r / terms)


@pytest.mark.parametrize(
    "call",
    [
        lambda: sigma(1.1, 2),
        lambda: sigma(0.5, 0),
        lambda: threshold_tokens(0.0),
        lambda: threshold_tokens(0.5, 1.0),
        lambda: tokens_per_expert(0, 0.5),
        lambda: target_efficiency(0.0, 1.0),
        lambda: speed_up(tokens=4, gamma=2, decode_time=1, draft_time=1, verify_time=1),
        lambda: speed_up(tokens=2, gamma=2, decode_time=1, draft_time=0, verify_time=0),
        lambda: speed_up(tokens=2, gamma=2, decode_time=1, draft_time=-1, verify_time=1),
        lambda: active_experts(3, 8, 9),
    ],
)
def test_what_cannot_be_is_refused(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError):
        call()
