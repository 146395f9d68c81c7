"""Attention programs of GDDR6-AiM compute with the keys and values that lie in the banks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neardata.mappers.attention_data import aim_attention_on_data
from neardata.mappers.bank_data import DataError
from neardata.sim.dram.program import Affine, Issue, Loop, Phase
from neardata.sim.program import PimAttention
from neardata.sim.system.pim_programs import device_of, program_of

AIM = device_of("gddr6-aim")


def operands(kernel, seed=0):
    draw = np.random.default_rng(seed)
    queries = draw.normal(size=(len(kernel.context), kernel.heads, kernel.qk))
    keys = [draw.normal(size=(length, kernel.kv_heads, kernel.qk)) for length in kernel.context]
    values = [draw.normal(size=(length, kernel.kv_heads, kernel.v)) for length in kernel.context]
    return queries, keys, values


def attention(kernel, queries, keys, values):
    """Head by head."""
    out = np.zeros((len(kernel.context), kernel.heads, kernel.v))
    for s in range(len(kernel.context)):
        for head in range(kernel.heads):
            shared = head // (kernel.heads // kernel.kv_heads)
            scores = keys[s][:, shared] @ queries[s, head] / np.sqrt(kernel.qk)
            powers = np.exp(scores - scores.max())
            out[s, head] = powers / powers.sum() @ values[s][:, shared]
    return out


def programs(kernel, channels):
    return tuple(program_of(replace(kernel, stage=stage), AIM, channels) for stage in ("scores", "values"))


@given(
    context=st.lists(st.integers(1, 150), min_size=1, max_size=4), group=st.integers(1, 3),
    kv_heads=st.integers(1, 3), qk=st.integers(1, 140), v=st.integers(1, 70), channels=st.integers(1, 5),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_any_shape(context, group, kv_heads, qk, v, channels):
    kernel = PimAttention(tuple(context), group * kv_heads, kv_heads, qk, v)
    data = operands(kernel)
    result = aim_attention_on_data(kernel, programs(kernel, channels), AIM, channels, *data)
    np.testing.assert_allclose(result, attention(kernel, *data), rtol=1e-9, atol=1e-12)


SHAPES = [
    PimAttention((1100,), 4, 2, 64, 16), PimAttention((40, 40, 600), 16, 8, 128, 128),
    PimAttention((33, 1, 17), 3, 3, 200, 40),
]  # fmt: skip


@pytest.mark.parametrize("kernel", SHAPES, ids=str)
def test_long_wide_and_ragged(kernel):
    """Positions over several rows; more heads than fit in a row."""
    data = operands(kernel)
    result = aim_attention_on_data(kernel, programs(kernel, 3), AIM, 3, *data)
    np.testing.assert_allclose(result, attention(kernel, *data), rtol=1e-9, atol=1e-12)


def shifted(steps, command, field):
    """The steps, every such command at the next row or column."""
    out = []
    for step in steps:
        if isinstance(step, Loop | Phase):
            step = replace(step, body=tuple(shifted(step.body, command, field)))
        if isinstance(step, Issue) and step.command == command:
            a = step.at[field]
            step = replace(step, at={**step.at, field: Affine(a.constant + 1, a.factors)})
        out.append(step)
    return out


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("command, field", [("ACT16", "row"), ("MAC16", "column"), ("WRGB", "column")])
def test_a_misplaced_element_shows(stage, command, field):
    """Keys or values looked for in another row or column: wrong numbers or an error."""
    kernel = PimAttention((70, 41), 4, 2, 64, 32)
    made, data = list(programs(kernel, 1)), operands(kernel)
    groups = [replace(g, body=tuple(shifted(g.body, command, field))) for g in made[stage].groups]
    made[stage] = replace(made[stage], groups=tuple(groups))
    try:
        result = aim_attention_on_data(kernel, tuple(made), AIM, 1, *data)
    except (DataError, IndexError):
        return
    assert not np.allclose(result, attention(kernel, *data))
