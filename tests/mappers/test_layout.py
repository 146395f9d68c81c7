"""Every weight has a place of its own, and the programs compute with what lies there."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neardata.arch.dram import load_device
from neardata.arch.errors import InputError
from neardata.mappers.bank_data import DataError, multiply
from neardata.mappers.layout import (
    AimWeights,
    AttAccWeights,
    HbmPimWeights,
    channel_rows,
    fill,
    layout_of,
    placed_bytes,
)
from neardata.sim.dram import aim_matmul, attacc_matmul
from neardata.sim.dram.program import Affine, ChannelGroup, Issue, Loop, Parallel, Phase, Program
from neardata.sim.program import PimMatMul
from neardata.sim.system.pim_programs import device_of, divisors, forms_of, program_of

LAYOUTS = {"gddr6-aim": AimWeights, "hbm-pim": HbmPimWeights, "attacc-hbm3": AttAccWeights}
OWN = ("input-stationary own-rows", "row-stationary own-rows")
ORDERS = {"gddr6-aim": aim_matmul.ORDERS + OWN, "hbm-pim": ("",), "attacc-hbm3": attacc_matmul.ORDERS}


@pytest.mark.parametrize("device", LAYOUTS)
@given(n=st.integers(1, 700), k=st.integers(1, 5000), channels=st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_places(device, n, k, channels):
    k = min(k, 100_000 // n + 1)
    layout, model = LAYOUTS[device](n, k, channels), device_of(device)
    outputs, inputs = np.mgrid[:n, :k]
    places = layout.place(outputs, inputs)
    sizes = {"channel": channels, "row": model.organisation.row, "column": model.bursts_per_row, "lane": 16}
    sizes |= dict(zip(model.levels[1:], model.counts[1:], strict=True))
    assert list(places) == ["channel", *model.levels[1:], "row", "column", "lane"]
    number = np.zeros((n, k), dtype=np.int64)
    for name, values in places.items():
        assert values.min() >= 0 and values.max() < sizes[name]
        number = number * sizes[name] + values
    assert len(np.unique(number)) == n * k


@pytest.mark.parametrize("device", LAYOUTS)
@given(n=st.integers(1, 3000), k=st.integers(1, 5000), channels=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_placed_bytes_are_those_of_the_rows(device, n, k, channels):
    """In each channel from the first row to the last that holds a weight, up to where the next block of
    outputs begins."""
    layout, model = layout_of(n, k, device, channels), device_of(device)
    places = layout.place(np.arange(n)[:, None], np.arange(k)[None, :: min(k, 16)])
    channel, last = np.broadcast_arrays(places["channel"], places["row"])
    ends = [int(last[channel == c].max()) + 1 for c in range(channels) if (channel == c).any()]
    of_attacc = layout.tiling.block_rows if device == "attacc-hbm3" else 1
    block = {"gddr6-aim": 1, "hbm-pim": 2, "attacc-hbm3": of_attacc}[device]
    row = model.bursts_per_row * 32 * model.n_banks
    rows, rest = divmod(placed_bytes(PimMatMul(1, n, k), device, channels), row)
    assert rest == 0 and sum(ends) <= rows < sum(ends) + block * len(ends)
    assert rows * row >= n * k * 2
    assert rows <= layout.rows * channels


@pytest.mark.parametrize("device", LAYOUTS)
@given(sizes=st.lists(st.tuples(st.integers(1, 900), st.integers(1, 600)), min_size=1, max_size=12),
       channels=st.integers(1, 7))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_matrices_beside_each_other_take_the_room_that_is_counted(device, sizes, channels):
    """The last round of each in the emptiest channels: they stay even, but for one line."""
    model, kernels = device_of(device), [PimMatMul(1, n, k) for n, k in sizes]
    rows = [channel_rows(kernel, device, channels) for kernel in kernels]
    filled = fill(rows, channels)
    assert max(filled) - min(filled) <= max(each[0] - each[-1] for each in rows)
    room = sum(placed_bytes(kernel, device, channels) for kernel in kernels)
    assert sum(filled) * model.bursts_per_row * 32 * model.n_banks == room


@given(matrices=st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=6), max_size=20))
def test_channels_are_filled_with_all_there_is(matrices):
    """Each matrix in channels of its own, none twice in one."""
    rows = [tuple(sorted(each, reverse=True)) for each in matrices]
    taken = fill(rows, 6)
    assert sum(taken) == sum(map(sum, rows))
    assert max(taken) <= sum(each[0] for each in rows)
    alone = [each[:1] for each in rows[:6]]
    assert sorted(fill(alone, 6)) == sorted([0] * (6 - len(alone)) + [n for (n,) in alone])


@pytest.mark.parametrize("device", LAYOUTS)
def test_placed_bytes_are_those_that_programs_refuse(device):
    """More rows than there are: `program_of` says how many bytes the matrix would take."""
    n, k, channels = 3 << 18, 4096, 3
    with pytest.raises(InputError) as caught:
        program_of(PimMatMul(1, n, k), device, channels)
    needed = int(re.search(r"would take (\d+) bytes", str(caught.value))[1])
    results = n // (64 * channels * 4) if device == "hbm-pim" else 0  # rows of one vector's results
    model = device_of(device)
    row = model.bursts_per_row * 32 * model.n_banks * channels
    assert placed_bytes(PimMatMul(1, n, k), device, channels) == needed - results * row


def test_placed_bytes_follow_the_unit():
    """Rows of 32 bursts instead of 64: 768 inputs take two, half empty."""
    assert placed_bytes(PimMatMul(1, 16, 768), "gddr6-aim", 1) == 2048 * 16
    short = load_device("gddr6-aim", {"organisation.column": 512})
    assert short.bursts_per_row == 32
    assert placed_bytes(PimMatMul(1, 16, 768), short, 1) == 2 * 1024 * 16
    assert placed_bytes(PimMatMul(1, 16, 1), "gddr6-aim", 4) == 2048 * 16  # one channel of four


SHAPES = [(1, 1, 1, 1), (1, 33, 70, 2), (3, 50, 40, 1), (2, 70, 1100, 2), (2, 140, 129, 1), (1, 300, 2100, 1),
          (3, 97, 61, 4), (2, 600, 65, 2)]  # fmt: skip
CASES = [(d, o, *s) for d in ORDERS for o in ORDERS[d] for s in SHAPES]


def operands(m, n, k, seed=0):
    draw = np.random.default_rng(seed)
    return draw.integers(-50, 50, (m, k)), draw.integers(-50, 50, (n, k))


@pytest.mark.parametrize("device, order, m, n, k, channels", CASES)
def test_programs_compute_the_product(device, order, m, n, k, channels):
    kernel = PimMatMul(m, n, k, order.removesuffix(" own-rows"), own_rows=order.endswith(" own-rows"))
    x, w = operands(m, n, k)
    y = multiply(kernel, program_of(kernel, device, channels), x, w)
    assert (y == x @ w.T).all()


@pytest.mark.parametrize("device", ORDERS)
@given(
    m=st.integers(1, 3), n=st.integers(1, 150), k=st.integers(1, 1500), used=st.integers(1, 6),
    part=st.integers(0, 9), form=st.integers(0, 9), more=st.integers(0, 3),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_any_form_computes_the_product(device, m, n, k, used, part, form, more):
    """Parts of k, some of the channels, every order, shared rows or not."""
    k = min(k, 40_000 // (m * n) + 1)
    parts = [d for d in divisors(used) if d <= k]
    forms = forms_of(device, k)
    order, own_rows = forms[form % len(forms)]
    split = parts[part % len(parts)]
    kernel = PimMatMul(m, n, k, order, own_rows, used, split, "processor" if split > 1 else "")
    x, w = operands(m, n, k)
    program = program_of(kernel, device, used + more)
    assert program.channels <= used
    assert (multiply(kernel, program, x, w) == x @ w.T).all()


def test_parts_of_k_lie_beside_each_other():
    """Four parts of 2,048 inputs take two rows of the banks of a channel each; in one part eight of one."""
    whole, parts = PimMatMul(1, 16, 8192), PimMatMul(1, 16, 8192, k_parts=4, reduction="processor")
    rows = 2 * 2048 * 16
    assert placed_bytes(whole, "gddr6-aim", 4) == placed_bytes(parts, "gddr6-aim", 4) == 4 * rows
    assert program_of(whole, "gddr6-aim", 4).channels == 1
    assert program_of(parts, "gddr6-aim", 4).channels == 4


def changed(steps, change):
    """The steps with ``change`` applied to each one that it knows."""
    out = []
    for step in steps:
        if isinstance(step, (Loop, Phase)):
            step = replace(step, body=tuple(changed(step.body, change)))
        elif isinstance(step, Parallel):
            step = replace(step, streams=tuple(tuple(changed(s, change)) for s in step.streams))
        out += change(step)
    return out


def shift(command, field):
    def change(step):
        if isinstance(step, Issue) and step.command == command and field in step.at:
            a = step.at[field]
            return [replace(step, at={**step.at, field: Affine(a.constant + 1, a.factors)})]
        return [step]

    return change


def fewer(command):
    def change(step):
        if isinstance(step, Issue) and step.command == command and step.repeat > 1:
            return [replace(step, repeat=step.repeat - 1)]
        return [step]

    return change


def without(command):
    return lambda step: [] if isinstance(step, Issue) and step.command == command else [step]


def shorter(step):
    return [replace(step, times=step.times - 1)] if isinstance(step, Loop) and step.times > 1 else [step]


MISTAKES = {
    "gddr6-aim": [shift("ACT16", "row"), shift("MAC16", "column"), fewer("MAC16"), fewer("WRGB"), shorter,
                  without("WRMAC16"), without("RDMAC16"), without("PREA")],
    "hbm-pim": [shift("ACTHAB", "row"), shift("RDPIM", "column"), fewer("RDPIM"), fewer("WRREG"), shorter,
                without("WRPIM"), without("WRPIMON"), shift("RD", "column")],
    "attacc-hbm3": [shift("ACTAB", "row"), shift("MACAB", "column"), fewer("MACAB"), fewer("WRGB"), shorter,
                    without("MVSB"), without("PREA")],
}  # fmt: skip


@pytest.mark.parametrize("device, mistake", [(d, i) for d in MISTAKES for i in range(len(MISTAKES[d]))])
def test_mistakes_in_a_program_show(device, mistake):
    """The interpreter judges the steps: a wrong row, column or count gives an error or wrong numbers."""
    kernel = PimMatMul(2, 300, 2200, "input-stationary" if device != "hbm-pim" else "")
    x, w = operands(2, 300, 2200)
    program = program_of(kernel, device, 1)
    body = tuple(changed(program.groups[0].body, MISTAKES[device][mistake]))
    assert body != program.groups[0].body
    broken = Program(program.device, (ChannelGroup(1, body),))
    try:
        y = multiply(kernel, broken, x, w)
    except (DataError, IndexError):
        return
    assert (y != x @ w.T).any()
