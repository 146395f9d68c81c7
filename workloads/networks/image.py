"""Image classifiers of torchvision, 224 x 224 pixels, 1,000 classes.

Held against torchvision's published parameters and multiply-accumulates in the tests.
"""

from __future__ import annotations

from neardata.workloads.networks.network import Network, Pass

_PIXELS, _CLASSES = 224, 1000


def _half(size: int) -> int:
    return -(-size // 2)


# kernel, expanded, out, squeeze-excitation, hardswish, stride: pytorch/vision mobilenetv3.py
_SMALL = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)


def _divisible(value: float, by: int = 8) -> int:
    """torchvision's ``_make_divisible``."""
    found = max(by, int(value + by / 2) // by * by)
    return found + by if found < 0.9 * value else found


def mobilenet_v3_small() -> Network:
    """MobileNetV3-small (arXiv 1905.02244), as torchvision has it.

    >>> mobilenet_v3_small().parameters
    2542856
    """
    net = Network("mobilenet-v3-small", "pytorch/vision mobilenetv3.py", 3 * _PIXELS**2)
    size = _half(_PIXELS)
    net.conv("features.0", 3, 16, (_PIXELS, _PIXELS), (3, 3), (size, size))
    _norm_act(net, "features.0", 16, size)
    channels = 16
    for i, (kernel, expanded, out, squeezed, _, stride) in enumerate(_SMALL, start=1):
        name, taps = f"features.{i}", (kernel, kernel)
        if expanded != channels:
            net.conv(f"{name}.expand", channels, expanded, (size, size), (1, 1), (size, size))
            _norm_act(net, f"{name}.expand", expanded, size)
        after = size if stride == 1 else _half(size)
        net.depthwise(f"{name}.depthwise", expanded, (size, size), taps, (after, after))
        _norm_act(net, f"{name}.depthwise", expanded, after)
        if squeezed:
            _squeeze(net, f"{name}.se", expanded, _divisible(expanded / 4), after)
        net.conv(f"{name}.project", expanded, out, (after, after), (1, 1), (after, after))
        net.apply(f"{name}.project.bn", out * after**2, operations=2, parameters=2 * out)
        if stride == 1 and channels == out:
            net.apply(f"{name}.add", out * after**2, inputs=2)
        channels, size = out, after
    net.conv("features.12", channels, 6 * channels, (size, size), (1, 1), (size, size))
    _norm_act(net, "features.12", 6 * channels, size)
    net.pool("avgpool", 6 * channels * size**2, 6 * channels)
    net.linear("classifier.0", 1, 6 * channels, 1024)
    net.apply("classifier.1", 1024, operations=4)
    net.linear("classifier.3", 1, 1024, _CLASSES)
    return net


def _norm_act(net: Network, name: str, channels: int, size: int) -> None:
    """Batch norm, then ReLU or hardswish."""
    elements = channels * size**2
    net.apply(f"{name}.bn", elements, operations=2, parameters=2 * channels)
    net.apply(f"{name}.act", elements, operations=4)


def _squeeze(net: Network, name: str, channels: int, squeezed: int, size: int) -> None:
    """Squeeze and excitation: a gate per channel from its mean."""
    net.pool(f"{name}.mean", channels * size**2, channels)
    net.conv(f"{name}.fc1", channels, squeezed, (1, 1), (1, 1), (1, 1), bias=True)
    net.apply(f"{name}.relu", squeezed)
    net.conv(f"{name}.fc2", squeezed, channels, (1, 1), (1, 1), (1, 1), bias=True)
    net.apply(f"{name}.gate", channels, operations=3)
    net.apply(f"{name}.scale", channels * size**2)


def squeezenet_1_1() -> Network:
    """SqueezeNet 1.1 (arXiv 1602.07360 and its repository), as torchvision has it.

    >>> squeezenet_1_1().parameters
    1235496
    """
    net = Network("squeezenet-1.1", "pytorch/vision squeezenet.py", 3 * _PIXELS**2)
    size = (_PIXELS - 3) // 2 + 1
    net.conv("features.0", 3, 64, (_PIXELS, _PIXELS), (3, 3), (size, size), bias=True)
    net.apply("features.1", 64 * size**2)
    channels = 64
    # squeeze and each expand of the fire modules; 0: a max pool
    for i, (squeeze, expand) in enumerate(
        ((0, 0), (16, 64), (16, 64), (0, 0), (32, 128), (32, 128), (0, 0), (48, 192), (48, 192), (64, 256),
         (64, 256)), start=2
    ):  # fmt: skip
        name, before = f"features.{i}", size
        if not squeeze:
            size = -(-(before - 3) // 2) + 1  # ceil_mode
            net.pool(name, channels * before**2, channels * size**2, taps=9)
            continue
        whole = (size, size)
        net.conv(f"{name}.squeeze", channels, squeeze, whole, (1, 1), whole, bias=True)
        net.apply(f"{name}.squeeze.relu", squeeze * size**2)
        for kernel in (1, 3):
            part = f"{name}.expand{kernel}x{kernel}"
            net.conv(part, squeeze, expand, whole, (kernel, kernel), whole, bias=True)
            net.apply(f"{part}.relu", expand * size**2)
        channels = 2 * expand
        net.pool(f"{name}.cat", channels * size**2, channels * size**2)
    net.conv("classifier.1", channels, _CLASSES, (size, size), (1, 1), (size, size), bias=True)
    net.apply("classifier.2", _CLASSES * size**2)
    net.pool("classifier.3", _CLASSES * size**2, _CLASSES)
    return net


def swin_t() -> Network:
    """Swin-T (arXiv 2103.14030), as torchvision has it: windows of 7 x 7, every other block shifted.

    >>> swin_t().parameters
    28288354
    """
    net = Network("swin-t", "pytorch/vision swin_transformer.py", 3 * _PIXELS**2)
    width, size, window = 96, _PIXELS // 4, 7
    net.conv("features.0", 3, width, (_PIXELS, _PIXELS), (4, 4), (size, size), bias=True)
    net.apply("features.0.permute", width * size**2)
    _layer_norm(net, "features.0.norm", size**2, width)
    for stage, (depth, heads) in enumerate(((2, 3), (2, 6), (6, 12), (2, 24))):
        if stage:
            size //= 2
            net.pool(f"merge{stage}.cat", 4 * width * size**2, 4 * width * size**2)
            _layer_norm(net, f"merge{stage}.norm", size**2, 4 * width)
            net.linear(f"merge{stage}.reduction", size**2, 4 * width, 2 * width, bias=False)
            width *= 2
        for block in range(depth):
            shifted = bool(block % 2) and size > window
            _swin_block(net, f"features.{2 * stage + 1}.{block}", size**2, width, heads, window, shifted)
    _layer_norm(net, "norm", size**2, width)
    net.pool("avgpool", width * size**2, width)
    net.linear("head", 1, width, _CLASSES)
    return net


def _layer_norm(net: Network, name: str, rows: int, width: int) -> None:
    net.apply(name, rows * width, operations=8, parameters=2 * width)


def _swin_block(
    net: Network, name: str, tokens: int, width: int, heads: int, window: int, shifted: bool
) -> None:
    elements, area = tokens * width, window**2
    windows = tokens // area
    pairs = windows * heads * area**2
    table = (2 * window - 1) ** 2 * heads
    _layer_norm(net, f"{name}.norm1", tokens, width)
    if shifted:
        net.apply(f"{name}.roll", elements)
    net.apply(f"{name}.windows", elements)
    net.linear(f"{name}.qkv", tokens, width, 3 * width)
    net.apply(f"{name}.scale", elements)
    net.products(f"{name}.scores", windows * heads, area, area, width // heads)
    net.operators.append(Pass(f"{name}.bias", pairs, pairs, pairs, parameters=table))
    if shifted:
        net.apply(f"{name}.mask", pairs)
    net.apply(f"{name}.softmax", pairs, operations=8)
    net.products(f"{name}.values", windows * heads, area, width // heads, area)
    net.apply(f"{name}.heads", elements)
    net.linear(f"{name}.proj", tokens, width, width)
    net.apply(f"{name}.unwindow", elements)
    if shifted:
        net.apply(f"{name}.unroll", elements)
    net.apply(f"{name}.add1", elements, inputs=2)
    _layer_norm(net, f"{name}.norm2", tokens, width)
    net.linear(f"{name}.mlp.0", tokens, width, 4 * width)
    net.apply(f"{name}.gelu", 4 * elements, operations=10)
    net.linear(f"{name}.mlp.3", tokens, 4 * width, width)
    net.apply(f"{name}.add2", elements, inputs=2)
