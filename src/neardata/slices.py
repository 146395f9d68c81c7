"""Networks on slices of a GPU: how long a batch takes, and the batch beyond which more gains little."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from neardata.arch.errors import InputError
from neardata.arch.processor import Processor
from neardata.sim.processor import Cost, convolution, elementwise, issued_ps, matmul
from neardata.workloads.networks import Network, Pass, Product


@dataclass(frozen=True)
class Run:
    """A batch of a network on a device."""

    time_ps: int
    device_ps: int
    """Of the kernels alone."""
    kernels: int
    energy_pj: float
    """Of arithmetic, memory and cache; without what the device draws at rest."""


class Eager:
    """Batches of a network as an eager framework runs them in single precision: a kernel for each
    operator, issued by a host thread; convolutions in TF32, other products in FP32 (PyTorch's defaults).

    Args:
        network: by length of the longest input.
        device: a GPU or a slice of one.
        issue_ps: host time per kernel.
    """

    def __init__(self, network: Callable[[int], Network], device: Processor, issue_ps: int) -> None:
        self.network, self.device, self.issue_ps = network, device, issue_ps
        self._shapes = cache(self._shapes_of)
        self._runs: dict[tuple[int, int], Run] = {}

    def __call__(self, batch: int, length: int) -> Run:
        """A batch padded to one length.

        Raises:
            InputError: an empty batch.
        """
        if batch < 1:
            raise InputError(f"must be at least 1, got {batch}", key="batch")
        key = (batch, length)
        if key not in self._runs:
            alike, order = self._shapes(length)
            costs = [kernel(self.device, operator, batch) for operator in alike]
            device_ps = [costs[i].time_ps for i in order]
            dynamic = [cost.total_pj - cost.energy_pj["static"] for cost in costs]
            time = issued_ps(device_ps, self.issue_ps)
            pj = sum(dynamic[i] for i in order)
            self._runs[key] = Run(time, sum(device_ps), len(order), pj)
        return self._runs[key]

    def _shapes_of(self, length: int) -> tuple[list[Product | Pass], list[int]]:
        """The operators of a network that differ in more than their names, and which comes when."""
        places: dict[Product | Pass, int] = {}
        order = []
        for operator in self.network(length).operators:
            shape = replace(operator, name="", parameters=0)
            order.append(places.setdefault(shape, len(places)))
        return list(places), order

    def per_s(self, batch: int, length: int) -> float:
        """Inputs a second, batch after batch."""
        return batch * 1e12 / self(batch, length).time_ps


def kernel(device: Processor, operator: Product | Pass, batch: int) -> Cost:
    """What an operator costs for a batch."""
    if isinstance(operator, Product):
        batch = 1 if operator.once else batch
        dtype = "tf32" if operator.arithmetic == "convolution" else "fp32"
        if operator.arithmetic == "convolution":
            inputs = batch * operator.input_elements
            return convolution(
                device, batch * operator.m, operator.n, operator.k, inputs, activation_dtype=dtype
            )
        rows, count = (batch * operator.m, 1) if operator.weights else (operator.m, batch * operator.count)
        return matmul(
            device, rows, operator.n, operator.k, batch=count, weight_format=dtype, activation_dtype=dtype
        )
    return elementwise(
        device, 4 * batch * operator.read, 4 * batch * operator.write, batch * operator.operations
    )


def knee(per_s: Callable[[int], float], gain: float, most: int = 512) -> int:
    """The smallest power of two that doubling improves by less than ``gain`` (0.2: a fifth).

    Args:
        per_s: inputs a second at a batch.
        gain: that a doubling must bring.
        most: batch tried.

    >>> knee(lambda batch: batch / max(8, batch), 0.2)
    8
    """
    batch = 1
    while batch < most and per_s(2 * batch) >= (1 + gain) * per_s(batch):
        batch *= 2
    return batch


class Knees:
    """Batches of a model on a slice beyond which more gains little, by length of the inputs.

    Args:
        gain: as of `knee`.
    """

    def __init__(self, model: Eager, gain: float) -> None:
        self.model, self.gain = model, gain
        self._known: dict[int, int] = {}

    def __call__(self, length: int) -> int:
        """PREBA's Batch_knee."""
        if length not in self._known:
            self._known[length] = knee(lambda batch: self.model.per_s(batch, length), self.gain)
        return self._known[length]

    def ps(self, length: int) -> int:
        """PREBA's Time_knee: of a batch of that size."""
        return self.model(self(length), length).time_ps
