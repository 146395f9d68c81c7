"""Networks against the sizes their publishers give, and what a batch reads and computes by hand."""

from __future__ import annotations

import pytest

from neardata.arch.errors import InputError
from neardata.workloads.networks import (
    Pass,
    Product,
    citrinet,
    conformer_ctc,
    mobilenet_v3_small,
    squeezenet_1_1,
    swin_t,
)

# torchvision's documentation of its weights: parameters, and 10^9 multiply-accumulates to three digits
TORCHVISION = [
    (mobilenet_v3_small, 2_542_856, 0.057),
    (squeezenet_1_1, 1_235_496, 0.349),
    (swin_t, 28_288_354, 4.491),
]


@pytest.mark.parametrize(("network", "parameters", "gmacs"), TORCHVISION)
def test_image_networks_have_the_published_size(network, parameters, gmacs):
    assert network().parameters == parameters
    assert network().macs / 1e9 == pytest.approx(gmacs, abs=0.0006)


# NeMo's conformer_ctc_bpe.yaml, and the sizes in the Citrinet paper (arXiv 2104.01721)
@pytest.mark.parametrize(
    ("network", "millions"),
    [
        (conformer_ctc("small", 250), 13), (conformer_ctc("medium", 250), 30.5),
        (conformer_ctc("large", 250), 121.5),
        (citrinet(256, 250), 10.3), (citrinet(512, 250), 37), (citrinet(1024, 250), 142),
    ],
)  # fmt: skip
def test_speech_networks_have_the_published_size(network, millions):
    assert network.parameters / 1e6 == pytest.approx(millions, rel=0.005)


def named(network, name):
    (found,) = [operator for operator in network.operators if operator.name == name]
    return found


def test_a_convolution_reads_its_map_once():
    first = named(squeezenet_1_1(), "features.0")
    assert isinstance(first, Product)
    assert (first.m, first.n, first.k) == (111 * 111, 64, 27)
    assert first.input_elements == 3 * 224 * 224
    assert first.parameters == 64 * 27 + 64


def test_a_depthwise_convolution_is_a_pass():
    depthwise = named(mobilenet_v3_small(), "features.4.depthwise")
    assert isinstance(depthwise, Pass)
    assert (depthwise.read, depthwise.write) == (96 * 28 * 28, 96 * 14 * 14)
    assert depthwise.operations == 2 * depthwise.macs == 2 * 25 * depthwise.write


def test_attention_sees_relative_positions():
    scores = named(conformer_ctc("small", 400), "layers.3.attention.bd")
    assert isinstance(scores, Product)
    assert (scores.count, scores.m, scores.n, scores.k, scores.weights) == (4, 100, 199, 44, False)


@pytest.mark.parametrize(("frames", "last"), [(250, 32), (256, 32), (1000, 126)])
def test_citrinet_strides_eight_times_over_padded_frames(frames, last):
    network = citrinet(512, frames)
    assert network.input_elements == -(-frames // 16) * 16 * 80
    assert named(network, "decoder").m == last


def test_work_grows_with_length():
    assert citrinet(512, 1008).macs == pytest.approx(4 * citrinet(512, 256).macs, rel=0.02)
    longer, short = conformer_ctc("large", 1000), conformer_ctc("large", 250)
    assert longer.macs > 4 * short.macs, "attention grows with the square"
    assert longer.parameters == short.parameters


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: conformer_ctc("larg", 250), "did you mean large"),
        (lambda: conformer_ctc("large", 0), "frames: must be at least 1, got 0"),
        (lambda: citrinet(4, 250), "width: must be at least 8, got 4"),
    ],
)
def test_bad_input_is_told(make, what):
    with pytest.raises(InputError, match=what):
        make()
