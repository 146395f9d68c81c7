"""Speech encoders of NeMo with CTC decoders; an input is a number of log-mel frames of 10 ms.

Sizes are those of ``examples/asr/conf`` (NVIDIA/NeMo), modules those of
``nemo/collections/asr/parts/submodules``. Held against the sizes in those files in the tests.
"""

from __future__ import annotations

from neardata.arch.errors import InputError, nearest
from neardata.workloads.networks.network import Network, Pass

MELS = 80

CONFORMERS = {"small": (16, 176, 4), "medium": (18, 256, 4), "large": (18, 512, 8)}
"""Layers, width and heads: ``conformer_ctc_bpe.yaml``, whose own default is ``large``."""

_CITRINET = ((5, 1, 1), *((k, 2 if k == 11 else 1, 5) for k in range(11, 22, 2)),
             *((k, 2 if k == 13 else 1, 5) for k in range(13, 26, 2)),
             *((k, 2 if k == 25 else 1, 5) for k in range(25, 40, 2)))  # fmt: skip
"""Kernel, stride and repetitions of each block but the last: ``citrinet_512.yaml``."""


def _check(frames: int) -> None:
    if frames < 1:
        raise InputError(f"must be at least 1, got {frames}", key="frames")


def conformer_ctc(size: str, frames: int, vocabulary: int = 128) -> Network:
    """Conformer-CTC (arXiv 2005.08100), relative positions, subsampled four times.

    Args:
        size: of `CONFORMERS`.
        frames: of the input, 10 ms each.
        vocabulary: subwords, without the blank.

    Raises:
        InputError: no such size, no frames.

    >>> round(conformer_ctc("large", 250).parameters / 1e6)
    122
    """
    if size not in CONFORMERS:
        raise InputError(f"unknown size '{size}'{nearest(size, CONFORMERS)}", key="size")
    _check(frames)
    layers, width, heads = CONFORMERS[size]
    net = Network(f"conformer-ctc-{size}", "NVIDIA/NeMo conformer_ctc_bpe.yaml", frames * MELS)
    before, channels = (frames, MELS), 1
    for i in range(2):
        after = ((before[0] - 1) // 2 + 1, (before[1] - 1) // 2 + 1)
        net.conv(f"pre.{2 * i}", channels, width, before, (3, 3), after, bias=True)
        net.apply(f"pre.{2 * i + 1}", width * after[0] * after[1])
        before, channels = after, width
    steps = before[0]
    net.apply("pre.copy", width * steps * before[1])
    net.linear("pre.out", steps, width * before[1], width)
    net.apply("pre.scale", steps * width)
    for layer in range(layers):
        _conformer_layer(net, f"layers.{layer}", steps, width, heads)
    _decoder(net, steps, width, vocabulary)
    return net


def _decoder(net: Network, steps: int, width: int, vocabulary: int) -> None:
    classes = vocabulary + 1
    net.conv("decoder", width, classes, (1, steps), (1, 1), (1, steps), bias=True)
    net.apply("log_softmax", steps * classes, operations=8)


def _norm(net: Network, name: str, steps: int, width: int) -> None:
    net.apply(name, steps * width, operations=8, parameters=2 * width)


def _add(net: Network, name: str, elements: int) -> None:
    net.apply(name, elements, inputs=2)


def _conformer_layer(net: Network, name: str, steps: int, width: int, heads: int) -> None:
    elements = steps * width
    _feed_forward(net, f"{name}.ff1", steps, width)
    _attention(net, f"{name}.attention", steps, width, heads)
    _norm(net, f"{name}.conv.norm", steps, width)
    row = (1, steps)
    net.conv(f"{name}.conv.pointwise1", width, 2 * width, row, (1, 1), row, bias=True)
    net.operators.append(Pass(f"{name}.conv.glu", 2 * elements, elements, 5 * elements))
    net.apply(f"{name}.conv.mask", elements)
    net.depthwise(f"{name}.conv.depthwise", width, row, (1, 31), row, bias=True)
    net.apply(f"{name}.conv.bn", elements, operations=2, parameters=2 * width)
    net.apply(f"{name}.conv.swish", elements, operations=5)
    net.conv(f"{name}.conv.pointwise2", width, width, row, (1, 1), row, bias=True)
    _add(net, f"{name}.conv.add", elements)
    _feed_forward(net, f"{name}.ff2", steps, width)
    _norm(net, f"{name}.norm", steps, width)


def _feed_forward(net: Network, name: str, steps: int, width: int) -> None:
    _norm(net, f"{name}.norm", steps, width)
    net.linear(f"{name}.linear1", steps, width, 4 * width)
    net.apply(f"{name}.swish", 4 * steps * width, operations=5)
    net.linear(f"{name}.linear2", steps, 4 * width, width)
    net.apply(f"{name}.half", steps * width)
    _add(net, f"{name}.add", steps * width)


def _attention(net: Network, name: str, steps: int, width: int, heads: int) -> None:
    elements, each, positions = steps * width, width // heads, 2 * steps - 1
    pairs = heads * steps**2
    _norm(net, f"{name}.norm", steps, width)
    for which in ("q", "k", "v"):
        net.linear(f"{name}.{which}", steps, width, width)
    net.linear(f"{name}.position", positions, width, width, bias=False, once=True)
    for which in ("u", "v"):
        net.apply(f"{name}.bias_{which}", elements, parameters=width)
    net.products(f"{name}.ac", heads, steps, steps, each)
    net.products(f"{name}.bd", heads, steps, positions, each)
    net.apply(f"{name}.shift", heads * steps * positions)
    _add(net, f"{name}.scores", pairs)
    net.apply(f"{name}.scale", pairs)
    net.apply(f"{name}.mask", pairs)
    net.apply(f"{name}.softmax", pairs, operations=8)
    net.apply(f"{name}.mask_again", pairs)
    net.products(f"{name}.values", heads, steps, each, steps)
    net.apply(f"{name}.heads", elements)
    net.linear(f"{name}.out", steps, width, width)
    _add(net, f"{name}.add", elements)


def citrinet(width: int, frames: int, vocabulary: int = 1024) -> Network:
    """Citrinet (arXiv 2104.01721): separable convolutions in time, squeeze and excitation, stride 8.

    Args:
        width: filters, such as 512.
        frames: of the input, 10 ms each; padded to 16 of them.
        vocabulary: subwords, without the blank.

    Raises:
        InputError: no filters, no frames.

    >>> round(citrinet(512, 250).parameters / 1e6)
    37
    """
    if width < 8:
        raise InputError(f"must be at least 8, got {width}", key="width")
    _check(frames)
    steps, channels, last = -(-frames // 16) * 16, MELS, 640
    net = Network(f"citrinet-{width}", "NVIDIA/NeMo citrinet_512.yaml", steps * MELS)
    for i, (kernel, stride, repeats) in enumerate((*_CITRINET, (41, 1, 1))):
        out = last if i == len(_CITRINET) else width
        steps = _citrinet_block(net, f"encoder.{i}", channels, out, steps, kernel, stride, repeats)
        channels = out
    _decoder(net, steps, last, vocabulary)
    return net


def _masked(net: Network, name: str, channels: int, steps: int) -> None:
    """What a masked convolution does first: which steps count, and the others set to zero."""
    net.apply(f"{name}.which", steps)
    net.apply(f"{name}.mask", channels * steps)


def _citrinet_block(
    net: Network, name: str, channels: int, out: int, steps: int, kernel: int, stride: int, repeats: int
) -> int:
    """Steps after the block; only its last convolution strides."""
    before, inputs, now = steps, channels, steps
    for r in range(repeats):
        part = f"{name}.{r}"
        after = now if r < repeats - 1 else -(-now // stride)
        _masked(net, f"{part}.depthwise", inputs, now)
        net.depthwise(f"{part}.depthwise", inputs, (1, now), (1, kernel), (1, after))
        _masked(net, f"{part}.pointwise", inputs, after)
        net.conv(f"{part}.pointwise", inputs, out, (1, after), (1, 1), (1, after))
        net.apply(f"{part}.bn", out * after, operations=2, parameters=2 * out)
        if r < repeats - 1:
            net.apply(f"{part}.relu", out * after)
        inputs, now = out, after
    _squeeze(net, f"{name}.se", out, now)
    if repeats > 1:
        _masked(net, f"{name}.residual", channels, before)
        net.conv(f"{name}.residual", channels, out, (1, before), (1, 1), (1, now))
        net.apply(f"{name}.residual.bn", out * now, operations=2, parameters=2 * out)
        _add(net, f"{name}.add", out * now)
    net.apply(f"{name}.relu", out * now)
    return now


def _squeeze(net: Network, name: str, channels: int, steps: int) -> None:
    for which in ("which", "not", "not_again"):
        net.apply(f"{name}.{which}", steps)
    net.apply(f"{name}.mask", channels * steps)
    net.pool(f"{name}.sum", channels * steps, channels)
    net.pool(f"{name}.length", steps, 1)
    net.apply(f"{name}.cast", 1)
    net.apply(f"{name}.mean", channels)
    net.linear(f"{name}.fc1", 1, channels, channels // 8, bias=False)
    net.apply(f"{name}.relu", channels // 8)
    net.linear(f"{name}.fc2", 1, channels // 8, channels, bias=False)
    net.apply(f"{name}.sigmoid", channels, operations=4)
    net.apply(f"{name}.scale", channels * steps)
