"""Where each weight of a matrix in the banks lies: channel, bank, row, column, lane.

`layout_of` gives the layout of a device; `placed_bytes` the room that a matrix takes; `fill` shares the
channels out among matrices.
`AimWeights`, `HbmPimWeights` and `AttAccWeights` are the layouts that the programs of
`neardata.sim.dram.aim_matmul`, ``hbm_pim_matmul`` and ``attacc_matmul`` work on: rows by the tilings of
these, places written down apart from them. Keys lie like a matrix of positions x width, values like one of
width x positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neardata.arch.dram import Device
from neardata.sim.dram import aim_matmul, attacc_matmul, hbm_pim
from neardata.sim.program import PimMatMul
from neardata.sim.system.pim_programs import device_of, family_of

Ints = NDArray[np.int64]
Places = Mapping[str, Ints]
"""``channel``, the device's levels below it, ``row``, ``column`` (a burst) and ``lane``."""

LANES = 16
"""16-bit values of a burst, on all three devices."""


class Layout(Protocol):
    """Of an n x k matrix."""

    n: int
    k: int
    channels: int

    @property
    def rows(self) -> int:
        """Of each bank, from the first to where the next matrix may begin, in the fullest channel."""
        ...

    def place(self, output: ArrayLike, input: ArrayLike) -> Places:
        """Of the weights w[output, input]; arrays that broadcast."""
        ...


@dataclass(frozen=True)
class AimWeights:
    """GDDR6-AiM: an output a bank.

    >>> layout = AimWeights(n=100, k=100, channels=2)
    >>> {name: int(value) for name, value in layout.place(50, 17).items()}
    {'channel': 1, 'bank_group': 0, 'bank': 2, 'row': 0, 'column': 8, 'lane': 1}
    """

    LINE: ClassVar = 16
    """Outputs that are dealt to the channels together."""
    n: int
    k: int
    channels: int
    columns: int = 64
    """Bursts of a row."""
    own_rows: bool = False
    """Outputs of a bank do not share rows."""

    @property
    def tiling(self) -> aim_matmul.Tiling:
        """Bursts and rows of a channel's outputs."""
        return aim_matmul.Tiling(self.k, self.columns, own_rows=self.own_rows)

    @property
    def rows(self) -> int:
        """See `Layout`."""
        return self.tiling.rows(-(-self.n // (16 * self.channels)))

    def place(self, output: ArrayLike, input: ArrayLike) -> Places:
        """See `Layout`."""
        output, input = np.broadcast_arrays(np.asarray(output), np.asarray(input))
        tiling = self.tiling
        block, bank = np.divmod(output, 16)
        number, channel = np.divmod(block, self.channels)
        burst, lane = np.divmod(input, LANES)
        segment, column = np.divmod(burst, self.columns)
        row, beside = np.divmod(number, tiling.share)
        return {
            "channel": channel, "bank_group": bank // 4, "bank": bank % 4,
            "row": row * tiling.segments + segment, "column": beside * tiling.bursts + column, "lane": lane,
        }  # fmt: skip


@dataclass(frozen=True)
class HbmPimWeights:
    """HBM-PIM: 8 outputs a processing unit; input tiles of 128 in even and odd banks in turn.

    >>> layout = HbmPimWeights(n=100, k=300, channels=2)
    >>> [int(value) for value in layout.place(65, 130).values()]
    [1, 0, 0, 1, 0, 1, 2]
    """

    LINE: ClassVar = 64
    n: int
    k: int
    channels: int

    @property
    def tile_rows(self) -> int:
        """Rows of an output tile in each bank."""
        return hbm_pim.weight_rows(1, -(-self.k // 128))

    @property
    def rows(self) -> int:
        """See `Layout`."""
        return -(-self.n // (64 * self.channels)) * self.tile_rows

    def place(self, output: ArrayLike, input: ArrayLike) -> Places:
        """See `Layout`."""
        output, input = np.broadcast_arrays(np.asarray(output), np.asarray(input))
        block, inside = np.divmod(output, 64)
        tile, channel = np.divmod(block, self.channels)
        unit, register = np.divmod(inside, 8)
        input_tile, inside = np.divmod(input, 128)
        entry, lane = np.divmod(inside, LANES)
        half, column = np.divmod(entry * 8 + register, 32)
        return {
            "channel": channel, "bank_group": unit // 2, "pim_unit": unit % 2, "bank": input_tile % 2,
            "row": tile * self.tile_rows + input_tile // 2 * 2 + half, "column": column, "lane": lane,
        }  # fmt: skip


@dataclass(frozen=True)
class AttAccWeights:
    """AttAcc, a unit per bank: an output a bank group, its inputs over the group's banks.

    >>> layout = AttAccWeights(n=100, k=300, channels=2)
    >>> [int(value) for value in layout.place(33, 130).values()]
    [0, 0, 0, 1, 0, 0, 7, 2]
    """

    LINE: ClassVar = 16
    n: int
    k: int
    channels: int

    @property
    def tiling(self) -> attacc_matmul.Tiling:
        """Parts, segments and rows of a block of lines."""
        return attacc_matmul.Tiling(self.k)

    @property
    def rows(self) -> int:
        """See `Layout`."""
        return -(-self.n // (256 * self.channels)) * self.tiling.block_rows

    def place(self, output: ArrayLike, input: ArrayLike) -> Places:
        """See `Layout`."""
        output, input = np.broadcast_arrays(np.asarray(output), np.asarray(input))
        line, group = np.divmod(output, 16)
        number, channel = np.divmod(line, self.channels)
        block, line = np.divmod(number, 16)
        part, inside = np.divmod(input, 64)
        bank, lane = np.divmod(inside, LANES)
        segment, part = np.divmod(part, 32)
        parts = np.where(segment < self.tiling.segments - 1, 32, self.tiling.last)
        row, column = np.divmod(line * parts + part, 32)
        return {
            "channel": channel, "pseudo_channel": group // 8, "rank": group // 4 % 2, "bank_group": group % 4,
            "bank": bank, "row": block * self.tiling.block_rows + segment * 16 + row, "column": column,
            "lane": lane,
        }  # fmt: skip


def layout_of(
    n: int, k: int, device: Device | str, channels: int, *, own_rows: bool = False
) -> AimWeights | HbmPimWeights | AttAccWeights:
    """Of an n x k matrix, where the device's program generators expect it.

    Raises:
        InputError: a device without generator.
    """
    model = device_of(device)
    match family_of(model):
        case "aim":
            return AimWeights(n, k, channels, model.bursts_per_row, own_rows)
        case "hbm-pim":
            return HbmPimWeights(n, k, channels)
        case "attacc":
            return AttAccWeights(n, k, channels)


def channel_rows(kernel: PimMatMul, device: Device | str, channels: int) -> tuple[int, ...]:
    """Rows that a kernel's n x k matrix takes in every bank of each of the channels that hold it, the most
    first.

    Outputs are dealt to the channels line by line. Channels are alike, and a product takes the same time in
    whichever its matrix lies: see `fill`.

    Args:
        device: of the unit, with its overrides; or the name of a preset as it is.
        channels: of the unit.

    Raises:
        InputError: a device without generator.

    >>> channel_rows(PimMatMul(1, 528, 4096, channels=4), "gddr6-aim", 32)
    (36, 32, 32, 32)
    """
    model = device_of(device)
    part = max(stop - start for start, stop in kernel.parts)
    each = (kernel.channels or channels) // kernel.k_parts
    layout = layout_of(kernel.n, part, model, each, own_rows=kernel.own_rows)
    rounds, more = divmod(-(-kernel.n // layout.LINE), each)
    most, least = (replace(layout, n=n * layout.LINE, channels=1).rows for n in (rounds + 1, rounds))
    return (most,) * (more * kernel.k_parts) + (least,) * ((each - more) * kernel.k_parts)


def bytes_of_rows(rows: int, device: Device) -> int:
    """Of so many rows of every bank of a channel: a command works on the same row of all of them."""
    return rows * device.bursts_per_row * device.burst_bytes * device.n_banks


def placed_bytes(kernel: PimMatMul, device: Device | str, channels: int) -> int:
    """Room that a kernel's n x k matrix takes: its rows in every bank of the channels that hold it. Rows
    count whole. Arguments and errors as of `channel_rows`.

    >>> placed_bytes(PimMatMul(1, 512, 4096), "gddr6-aim", 32), 512 * 4096 * 2
    (4194304, 4194304)
    >>> placed_bytes(PimMatMul(1, 513, 4096), "gddr6-aim", 32)     # one output more: its rows in 16 banks
    4325376
    """
    model = device_of(device)
    return bytes_of_rows(sum(channel_rows(kernel, model, channels)), model)


def fill(matrices: Iterable[tuple[int, ...]], channels: int) -> list[int]:
    """Rows taken in each channel by matrices beside each other: the largest first, each in the emptiest
    channels, its longer parts in the emptiest of them.

    Args:
        matrices: of each, its `channel_rows`.

    >>> fill([(36, 32), (4,), (10, 10, 10, 10)], 4)
    [46, 42, 14, 10]
    """
    taken = [0] * channels
    for rows in sorted(matrices, key=lambda rows: (rows[0], len(rows)), reverse=True):
        emptiest = sorted(range(channels), key=taken.__getitem__)
        for channel, more in zip(emptiest, rows, strict=False):
            taken[channel] += more
    return taken
