"""Tensors as their formats keep them: integers with scales, symmetric rounding to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neardata.arch.precision import BITS, INTEGERS, Format
from neardata.workloads.graph import Tensor

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Quantised:
    """Integers with one scale for each ``group`` of them along the last dimension.

    >>> x = quantise(np.array([[1.0, -2.0, 0.5, 8.0]]), Format("int8", group=2))
    >>> x.data.tolist(), x[:, 2:].scales.shape
    ([[64, -127, 8, 127]], (1, 1))
    """

    data: Integers
    """(..., k)"""
    scales: Floats
    """(..., ceil(k / group)), values that float16 holds."""
    group: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ``data``."""
        return self.data.shape

    @property
    def values(self) -> Floats:
        """Integers times scales, (..., k)."""
        return self.data * np.repeat(self.scales, self.group, axis=-1)[..., : self.data.shape[-1]]

    def __getitem__(self, index: Any) -> Quantised:
        """A slice; along the last dimension it starts and ends where groups do.

        Raises:
            ValueError: it cuts a group in two.
        """
        index = index if isinstance(index, tuple) else (index,)
        if len(index) < self.data.ndim and not any(i is Ellipsis for i in index):
            return Quantised(self.data[index], self.scales[index], self.group)
        last, k = index[-1], self.data.shape[-1]
        if not isinstance(last, slice):
            raise ValueError("the last dimension is sliced, not indexed")
        start, stop, step = last.indices(k)
        if step != 1 or start % self.group or (stop % self.group and stop != k):
            raise ValueError(f"{start}:{stop} cuts a group of {self.group} that shares a scale")
        groups = slice(start // self.group, -(-stop // self.group))
        return Quantised(self.data[index], self.scales[(*index[:-1], groups)], self.group)

    def reshape(self, *shape: int) -> Quantised:
        """Other leading dimensions over the same last one."""
        return Quantised(
            self.data.reshape(*shape), self.scales.reshape(*shape[:-1], self.scales.shape[-1]), self.group
        )


Value = Floats | Integers | Quantised
Values = dict[str, Any]


def limits(dtype: str) -> tuple[int, int]:
    """Smallest and largest integer, symmetric: -127 .. 127 for int8.

    >>> limits("int4")
    (-7, 7)
    """
    top = 2 ** (BITS[dtype] - 1) - 1
    return -top, top


def quantise(x: Floats, format: Format) -> Quantised:
    """Symmetric rounding to the nearest integer; the largest magnitude of a group gets the largest one."""
    if format.group is None or format.dtype not in INTEGERS:
        raise ValueError(f"{format} holds no scales")
    k, group = x.shape[-1], format.group
    groups = -(-k // group)
    low, high = limits(format.dtype)
    padded = np.zeros((*x.shape[:-1], groups * group))
    padded[..., :k] = x
    blocks = padded.reshape(*x.shape[:-1], groups, group)
    scales = (np.abs(blocks).max(axis=-1) / high).astype(np.float16).astype(np.float64)
    safe = np.where(scales > 0, scales, 1.0)[..., None]
    data = np.clip(np.rint(blocks / safe), low, high).astype(np.int64)
    return Quantised(data.reshape(padded.shape)[..., :k], scales, group)


def dequantised(x: Value) -> Floats:
    """Any value as float64."""
    return x.values if isinstance(x, Quantised) else np.asarray(x, dtype=np.float64)


def stored(x: Value, tensor: Tensor) -> Value:
    """A result as the tensor's format keeps it; floating point is not rounded.

    Raises:
        ValueError: a shape that is not the tensor's, numbers that an integer format cannot hold.
    """
    value: Value
    if tensor.format.dtype in INTEGERS and tensor.format.group is not None:
        value = x if isinstance(x, Quantised) else quantise(np.asarray(x, dtype=np.float64), tensor.format)
    elif tensor.format.dtype in INTEGERS:
        numbers = np.asarray(dequantised(x) if isinstance(x, Quantised) else x)
        if not np.issubdtype(numbers.dtype, np.integer):
            raise ValueError(f"tensor '{tensor.name}': fractions in {tensor.format}, which has no scales")
        value = numbers.astype(np.int64)
        low, high = limits(tensor.format.dtype)
        if value.size and (value.min() < low - 1 or value.max() > high):
            raise ValueError(f"tensor '{tensor.name}': numbers beyond {tensor.format}")
    else:
        value = dequantised(x)
    if value.shape != tensor.shape:
        raise ValueError(f"tensor '{tensor.name}': shape {value.shape}, expected {tensor.shape}")
    return value
