"""Operators of a network as an eager framework runs them: one kernel each.

Sizes are of one input; a batch multiplies rows, products and activations, and shares the weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Arithmetic = Literal["convolution", "linear"]
"""Which products a framework may run in a narrower type: cuDNN's convolutions in TF32, others not."""


@dataclass(frozen=True, slots=True)
class Product:
    """``count`` products y[m, n] = x[m, k] w[n, k]: a convolution as its implicit product, or linear."""

    name: str
    m: int
    n: int
    k: int
    input_elements: int
    """Read of the activations: a convolution reads its map once, not ``m k`` elements."""
    arithmetic: Arithmetic
    count: int = 1
    """Per input, such as heads of attention."""
    weights: bool = True
    """``w`` is shared by the batch; otherwise it is an activation, and each input has its own."""
    parameters: int = 0
    once: bool = False
    """Done once for a batch, whatever its size: what goes in is the same for all inputs."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one input."""
        return self.count * self.m * self.n * self.k


@dataclass(frozen=True, slots=True)
class Pass:
    """Elements read and written by vector units: norms, activations, depthwise convolutions, copies."""

    name: str
    read: int
    write: int
    operations: int
    macs: int = 0
    """Of the operations, multiply-accumulates of convolutions."""
    parameters: int = 0


@dataclass
class Network:
    """A network of one input.

    Attributes:
        name: as published.
        source: where its definition was read.
        operators: in the order they run.
        input_elements: of what the network is given.
    """

    name: str
    source: str
    input_elements: int
    operators: list[Product | Pass] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        """Trained ones; statistics of batch norms are not among them."""
        return sum(operator.parameters for operator in self.operators)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions, linear layers and attention."""
        return sum(operator.macs for operator in self.operators)

    # --- building ----------------------------------------------------------------------------------

    def conv(
        self, name: str, inputs: int, outputs: int, size: tuple[int, int], kernel: tuple[int, int],
        out: tuple[int, int], *, bias: bool = False,
    ) -> None:  # fmt: skip
        """A full convolution from a map of ``size`` (rows, columns) to one of ``out``."""
        k = inputs * kernel[0] * kernel[1]
        self.operators.append(
            Product(
                name, out[0] * out[1], outputs, k, inputs * size[0] * size[1], "convolution",
                parameters=outputs * (k + bias),
            )
        )  # fmt: skip

    def depthwise(
        self, name: str, channels: int, size: tuple[int, int], kernel: tuple[int, int], out: tuple[int, int],
        *, bias: bool = False,
    ) -> None:  # fmt: skip
        """A convolution of each channel by itself."""
        written, taps = channels * out[0] * out[1], kernel[0] * kernel[1]
        self.operators.append(
            Pass(
                name, channels * size[0] * size[1], written, 2 * written * taps, written * taps,
                channels * (taps + bias),
            )
        )  # fmt: skip

    def linear(
        self, name: str, rows: int, inputs: int, outputs: int, *, bias: bool = True, once: bool = False
    ) -> None:
        """A fully connected layer on ``rows`` vectors; ``once``: of a batch."""
        self.operators.append(
            Product(
                name,
                rows,
                outputs,
                inputs,
                rows * inputs,
                "linear",
                parameters=outputs * (inputs + bias),
                once=once,
            )
        )

    def products(self, name: str, count: int, m: int, n: int, k: int) -> None:
        """Products of two activations, such as scores of attention."""
        self.operators.append(Product(name, m, n, k, count * m * k, "linear", count, weights=False))

    def apply(
        self, name: str, elements: int, *, inputs: int = 1, operations: int = 1, parameters: int = 0
    ) -> None:
        """As many elements written as each of the ``inputs`` has."""
        self.operators.append(Pass(name, inputs * elements, elements, operations * elements, 0, parameters))

    def pool(self, name: str, read: int, write: int, taps: int = 1) -> None:
        """A pooling, mean or concatenation: other numbers of elements in than out."""
        self.operators.append(Pass(name, read, write, max(read, write * taps)))
