"""Cells: what a place holds of a tensor while a program is run on data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neardata.mappers.marks import COMPLETE, Marks
from neardata.workloads.semantics import Quantised


class ProgramError(ValueError):
    """A program that does not compute its graph. The message names task, tensor, slices and place."""


@dataclass
class Cell:
    """A tensor in a place."""

    value: Any
    """Array or `Quantised`, of the tensor's whole shape."""
    mark: Marks
    blank: NDArray[np.bool_]
    """Written as a partial sum of nothing: no expert of a token is here."""
    writers: list[tuple[int, tuple[slice, ...], bool]] = field(default_factory=list)
    """Task number, what it wrote, by adding?"""


def assign(target: Any, index: tuple[slice, ...], value: Any) -> None:
    """Numbers, with their scales if they have any, into a part of a tensor."""
    if not isinstance(target, Quantised):
        target[index] = value
        return
    if not isinstance(value, Quantised):
        raise ProgramError("numbers without scales for a tensor that is kept with them")
    target.data[index] = value.data
    last = index[-1]
    groups = slice(last.start // target.group, -(-last.stop // target.group))
    target.scales[(*index[:-1], groups)] = value.scales


def merge(found: Cell, cell: Cell, done: NDArray[np.bool_]) -> None:
    """The complete elements of a cell into another."""
    if isinstance(cell.value, Quantised):
        found.value.data[done] = cell.value.data[done]
        group = cell.value.group
        firsts = done[..., ::group]
        found.value.scales[firsts] = cell.value.scales[firsts]
    else:
        found.value[done] = cell.value[done]
    found.mark[done] = COMPLETE
