"""Mappings of a product: bounds hold, the best is found, what does not fit says why."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neardata.arch.errors import InputError
from neardata.arch.system import parse_system
from neardata.mappers.search import over_the_bus, search
from neardata.sim.dram.pim import run_program
from neardata.sim.program import PimMatMul
from neardata.sim.system.engine import Costs
from neardata.sim.system.pim import PimEngine
from neardata.sim.system.pim_programs import device_of, forms_of, least_cycles, program_of

DEVICES = ("gddr6-aim", "hbm-pim", "attacc-hbm3")


@pytest.mark.parametrize("device", DEVICES)
@given(
    m=st.integers(1, 4), n=st.integers(1, 900), k=st.integers(1, 2600), channels=st.integers(1, 5),
    order=st.integers(0, 5),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_no_program_is_below_its_bound(device, m, n, k, channels, order):
    forms = forms_of(device, k)
    kernel = PimMatMul(m, n, k, *forms[order % len(forms)])
    program = program_of(kernel, device, channels)
    cycles = run_program(program, device=device_of(device), refresh="none").cycles
    least = least_cycles(kernel, device, channels)
    assert least <= cycles
    if least > 3000 and device != "hbm-pim":
        assert cycles < 2 * least  # the bound says something about long programs


@pytest.mark.parametrize("device", DEVICES)
def test_the_best_is_the_best_of_all(device):
    """Those that were not simulated are not faster."""
    kernel = PimMatMul(2, 96, 1500)
    found = search(kernel, device, 4)
    times = []
    for candidate in found:
        part = candidate.form.of(kernel, device_of(device))
        time = PimEngine(device_of(device), 4, "at-launch").run(part).time_ps
        if candidate.form.reduction == "processor":
            time += over_the_bus(device_of(device), 4)(part)
        assert candidate.bound_ps <= time
        assert candidate.time_ps in (None, time)
        assert candidate.roofline_ps <= time
        times.append(time)
    assert found[0].time_ps == min(times)
    simulated = [c.time_ps for c in found if c.time_ps is not None]
    assert simulated == sorted(simulated) and len(simulated) < len(found)
    assert {(c.form.channels, c.form.k_parts) for c in found} == {
        (1, 1),
        (2, 1),
        (2, 2),
        (4, 1),
        (4, 2),
        (4, 4),
    }


def test_a_flat_matrix_is_split_over_k():
    """16 outputs keep one channel of AiM busy; with k split all are, until the sums cost more."""
    kernel = PimMatMul(1, 16, 16384)
    assert search(kernel, "gddr6-aim", 8)[0].form.k_parts == 8
    dear = search(kernel, "gddr6-aim", 8, reduction=lambda kernel: 10**9)
    assert dear[0].form.k_parts == 1


def test_all_who_can_add_are_tried():
    """AttAcc's buffer die adds; a processor that takes no time for it is the faster."""
    kernel = PimMatMul(1, 16, 16384)
    found = search(kernel, "attacc-hbm3", 4, reduction=lambda kernel: 0)
    assert {c.form.reduction for c in found if c.form.k_parts > 1} == {"buffer", "processor"}
    assert found[0].form.k_parts == 4 and found[0].form.reduction == "processor"
    dear = search(kernel, "attacc-hbm3", 4, reduction=lambda kernel: 10**9)
    assert dear[0].form.k_parts == 4 and dear[0].form.reduction == "buffer"


def test_a_processor_beside_it():
    kernel = PimMatMul(1, 256, 256)
    fast = search(kernel, "gddr6-aim", 2, processor=lambda kernel: 1000)
    assert fast[0].device == "processor" and all(c.time_ps is None for c in fast[1:])
    slow = search(kernel, "gddr6-aim", 2, processor=lambda kernel: 10**9)
    assert slow[0].device == "gddr6-aim" and slow[-1].reason == ""
    assert [c.device for c in slow if c.time_ps == 10**9] == ["processor"]


def test_what_does_not_fit():
    kernel = PimMatMul(1, 1 << 17, 8192)
    found = search(kernel, "gddr6-aim", 8, tensor="head.weight")
    unfit = [c for c in found if c.reason]
    assert unfit and found[0].time_ps is not None
    assert max(c.form.channels for c in unfit) == 4
    assert all(
        c.reason.startswith("banks of 'gddr6-aim', tensor 'head.weight'") and "bytes" in c.reason
        for c in unfit
    )
    assert found[-len(unfit) :] == unfit


def test_bad_requests():
    with pytest.raises(InputError, match="at least 1"):
        search(PimMatMul(0, 1, 1), "hbm-pim", 1)
    with pytest.raises(InputError, match="'sideways' is not"):
        search(PimMatMul(1, 1, 1, "sideways"), "hbm-pim", 1)


@pytest.mark.parametrize("refresh", ["at-launch", "none"])
@pytest.mark.parametrize("overrides", [{}, {"timing.nRCDRDMAC": 90}])
def test_times_are_those_of_a_run(refresh, overrides):
    """Of the unit as it is, with its overrides and its refresh."""
    unit = {"kind": "pim", "device": "gddr6-aim", "channels": 4, "refresh": refresh, "overrides": overrides}
    system = parse_system({"name": "s", "source": "t", "units": {"pim": unit}})
    found = search(PimMatMul(1, 512, 1024), system.device("pim"), 4, refresh=refresh)
    simulated = [c for c in found if c.time_ps is not None]
    assert simulated
    for candidate in simulated:
        kernel = candidate.form.of(PimMatMul(1, 512, 1024), system.device("pim"))
        added = over_the_bus(system.device("pim"), 4)(kernel)
        assert candidate.time_ps == Costs(system).of("pim", kernel).time_ps + added


def test_partial_sums_cross_the_bus():
    """4 parts of 512 sums of 2 bytes at 4 channels' 32 GB/s."""
    kernel = PimMatMul(1, 512, 1024)
    free = search(kernel, "gddr6-aim", 4, reduction=lambda kernel: 0)
    paid = search(kernel, "gddr6-aim", 4)
    times = [{c.form: c.bound_ps for c in found} for found in (free, paid)]
    for key, time in times[0].items():
        assert times[1][key] - time == (0 if key.k_parts == 1 else key.k_parts * 512 * 2 * 1000 // 128)
