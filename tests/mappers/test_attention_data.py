"""Attention programs of GDDR6-AiM and HBM-PIM compute with the keys and values that lie in the banks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neardata.mappers.attention_data import attention_on_data
from neardata.mappers.bank_data import DataError
from neardata.sim.dram.program import Affine, Issue, Loop, Phase
from neardata.sim.program import PimAttention
from neardata.sim.system.pim_programs import device_of, program_of

AIM = device_of("gddr6-aim")
DEVICES = (AIM, device_of("hbm-pim"))


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


def programs(kernel, channels, device=AIM):
    return tuple(program_of(replace(kernel, stage=stage), device, channels) for stage in ("scores", "values"))


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
@given(
    context=st.lists(st.integers(1, 150), min_size=1, max_size=4), group=st.integers(1, 3),
    kv_heads=st.integers(1, 3), qk=st.integers(1, 140), v=st.integers(1, 70), channels=st.integers(1, 5),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_any_shape(device, context, group, kv_heads, qk, v, channels):
    kernel = PimAttention(tuple(context), group * kv_heads, kv_heads, qk, v)
    data = operands(kernel)
    made = programs(kernel, channels, device)
    result = attention_on_data(kernel, made, device, channels, *data, kernel.qk**-0.5)
    np.testing.assert_allclose(result, attention(kernel, *data), rtol=1e-9, atol=1e-12)


SHAPES = [
    PimAttention((1100,), 4, 2, 64, 16), PimAttention((40, 40, 600), 16, 8, 128, 128),
    PimAttention((33, 1, 17), 3, 3, 200, 40),
]  # fmt: skip


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
@pytest.mark.parametrize("kernel", SHAPES, ids=str)
def test_long_wide_and_ragged(device, kernel):
    """Positions over several rows; more heads than fit in a row."""
    data = operands(kernel)
    result = attention_on_data(kernel, programs(kernel, 3, device), device, 3, *data, kernel.qk**-0.5)
    np.testing.assert_allclose(result, attention(kernel, *data), rtol=1e-9, atol=1e-12)


def test_few_heads_on_many_pseudo_channels():
    """Positions are cut into parts, unevenly, whose sums the host adds."""
    kernel, device = PimAttention((700, 300, 130), 2, 1, 64, 64), device_of("hbm-pim")
    data = operands(kernel)
    made = programs(kernel, 13, device)
    result = attention_on_data(kernel, made, device, 13, *data, kernel.qk**-0.5)
    np.testing.assert_allclose(result, attention(kernel, *data), rtol=1e-9, atol=1e-12)


def test_attention_with_a_softmax_unit():
    kernel = PimAttention((70,), 2, 1, 64, 64)
    device = device_of("attacc-hbm3")
    both = program_of(kernel, device, 2)
    with pytest.raises(DataError, match="attention of attacc-hbm3 is not run on data"):
        attention_on_data(kernel, (both, both), device, 2, *operands(kernel), 0.1)


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
@pytest.mark.parametrize(
    "device, command, field",
    [
        (AIM, "ACT16", "row"), (AIM, "MAC16", "column"), (AIM, "WRGB", "column"),
        (DEVICES[1], "RDPIM", "row"), (DEVICES[1], "RDPIM", "column"), (DEVICES[1], "RD", "column"),
        (DEVICES[1], "WRREG", "column"),
    ],
)  # fmt: skip
def test_a_misplaced_element_shows(stage, device, command, field):
    """Keys or values looked for in another row or column: wrong numbers or an error."""
    kernel = PimAttention((70, 41), 4, 2, 64, 32)
    made, data = list(programs(kernel, 1, device)), operands(kernel)
    groups = [replace(g, body=tuple(shifted(g.body, command, field))) for g in made[stage].groups]
    made[stage] = replace(made[stage], groups=tuple(groups))
    try:
        result = attention_on_data(kernel, tuple(made), device, 1, *data, kernel.qk**-0.5)
    except (DataError, IndexError):
        return
    assert not np.allclose(result, attention(kernel, *data))
