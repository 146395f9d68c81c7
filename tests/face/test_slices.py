"""Networks on slices of a GPU: shares of it, kernels issued one by one, the knee."""

import doctest
import itertools

import pytest

import neardata.sim.processor.issue
import neardata.slices
from neardata.arch.errors import InputError
from neardata.arch.processor import load_processor
from neardata.arch.processor.mig import MIG, mig_slice
from neardata.sim.processor import convolution, issued_ps, matmul
from neardata.slices import Eager, kernel, knee
from neardata.workloads.networks import mobilenet_v3_small, network_named, squeezenet_1_1


@pytest.mark.parametrize("module", [neardata.slices, neardata.sim.processor.issue])
def test_examples(module):
    assert doctest.testmod(module).failed == 0


def test_a_slice_has_its_share_and_an_operation_costs_what_it_did():
    whole, part = load_processor("a100-40gb"), mig_slice("1g.5gb")
    assert part.memory.bytes == whole.memory.bytes // 8
    assert part.peak_ops_per_ps("tf32") == pytest.approx(whole.peak_ops_per_ps("tf32") * 14 / 108)
    assert part.pj_per_operation("tf32") == pytest.approx(whole.pj_per_operation("tf32"))
    assert part.vector_pj_per_operation == pytest.approx(whole.vector_pj_per_operation)
    assert part.cache.bytes == whole.cache.bytes // 8


def test_seven_small_slices_have_the_units_of_the_largest():
    assert 7 * MIG["1g.5gb"][0] == MIG["7g.40gb"][0]


def test_an_unknown_slice_is_told():
    with pytest.raises(InputError, match=r"slice: unknown slice '1g.10gb'; did you mean"):
        mig_slice("1g.10gb")


def test_other_processors_have_no_slices_that_are_known():
    with pytest.raises(InputError, match=r"gpu: slices are known of a100-40gb alone, got 'h100-sxm'"):
        mig_slice("1g.5gb", "h100-sxm")


def test_positions_of_a_conformer_are_projected_once_a_batch():
    operators = {o.name: o for o in network_named("conformer-ctc-small")[0](300).operators}
    once = [o for o in operators.values() if getattr(o, "once", False)]
    assert len(once) == 16 and all(o.name.endswith("attention.position") for o in once)
    device, q = mig_slice("1g.5gb"), next(o for o in operators.values() if o.name.endswith("attention.q"))
    assert kernel(device, once[0], 64) == kernel(device, once[0], 1)
    assert kernel(device, q, 64).time_ps > kernel(device, q, 1).time_ps


def issued_by_ticks(kernels, issue):
    """At each tick the host has issued so many, and the device runs one."""
    left, issued, now = list(kernels), 0, 0
    while left:
        issued = min(now // issue if issue else len(kernels), len(kernels))
        done = len(kernels) - len(left)
        if issued > done:
            now += left.pop(0)
        else:
            now += 1
    return now


def test_kernels_wait_for_the_host_and_for_each_other():
    for kernels in itertools.product((1, 4, 9), repeat=4):
        for issue in (0, 1, 3, 7):
            assert issued_ps(kernels, issue) == issued_by_ticks(kernels, issue)


def test_a_batch_takes_the_kernels_of_all_its_operators():
    model = Eager(lambda length: squeezenet_1_1(), mig_slice("1g.5gb"), 20_000_000)
    costs = [kernel(model.device, operator, 3) for operator in squeezenet_1_1().operators]
    run = model(3, 1)
    assert run.kernels == len(costs)
    assert run.device_ps == sum(cost.time_ps for cost in costs)
    assert run.time_ps == issued_ps([cost.time_ps for cost in costs], 20_000_000)
    assert run.energy_pj == pytest.approx(sum(c.total_pj - c.energy_pj["static"] for c in costs))


def test_a_small_batch_takes_what_issuing_takes():
    model = Eager(lambda length: mobilenet_v3_small(), mig_slice("7g.40gb"), 20_000_000)
    assert model(1, 1).time_ps == pytest.approx(155 * 20_000_000, rel=0.01)
    assert model(8, 1).time_ps == pytest.approx(model(1, 1).time_ps, rel=0.01)


def test_an_empty_batch_is_told():
    with pytest.raises(InputError, match="batch: must be at least 1, got 0"):
        Eager(lambda length: squeezenet_1_1(), mig_slice("1g.5gb"), 1)(0, 1)


def test_a_convolution_of_one_tap_is_a_product():
    gpu = load_processor("a100-40gb")
    product = matmul(gpu, 5000, 64, 128, weight_format="tf32", activation_dtype="tf32")
    assert convolution(gpu, 5000, 64, 128, 5000 * 128) == product
    wide = convolution(gpu, 5000, 64, 9 * 128, 5000 * 128)
    assert wide.memory_bytes == 4 * (5000 * 128 + 5000 * 64 + 9 * 128 * 64)
    assert wide.flops == 9 * product.flops


@pytest.mark.parametrize("saturates", [1, 2, 16, 100])
def test_the_knee_is_where_doubling_gains_too_little(saturates):
    found = knee(lambda batch: min(batch, saturates), 0.1)
    assert found / 2 < saturates <= found * 1.1
    assert knee(lambda batch: batch, 0.1, most=64) == 64
