"""Products on drives: matrices in pages, divided between the dies and the processor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from neardata.arch.errors import InputError
from neardata.arch.precision import Format
from neardata.arch.storage import balanced_columns, page_weights, share_of_dies
from neardata.arch.system import System
from neardata.mappers.mapping import FlashMapping
from neardata.sim.program import FlashMatMul, GroupedMatMul, Kernel, MatMul

Cost = Callable[[str, Kernel], int]


class FlashPlacer:
    """Lays matrices out in the pages of a group of drives.

    A tile of H rows and W columns is what all dies take at a time: W is divided over the channels, H over the
    dies of a channel. Strips at the edge of a matrix are narrower and hold more rows a page, so that pages
    stay full; the last page of a strip is what is left.
    """

    def __init__(self, system: System, group: str, how: FlashMapping, cost: Cost | None) -> None:
        self.group, self.how, self.cost = group, how, cost
        self.ssd = system.drive(group)
        self.processor = system.processor(str(system.units[group].attached_to))  # type: ignore[union-attr]
        self.streamed: dict[FlashMatMul, int] = {}
        if self.ssd.compute is None and how.split != "processor":
            raise InputError(
                f"'{self.ssd.name}' has no cores in its dies: only split: processor is possible",
                key="mapping.flash.split",
            )

    def whole_pages(self, size: int) -> int:
        """Bytes of the pages that so many bytes take."""
        page = self.ssd.flash.page_bytes
        return -(-size // page) * page

    def kernels(self, kernel: MatMul | GroupedMatMul) -> tuple[FlashMatMul, ...]:
        """Of a product; of products with a matrix per expert, one for each that has rows."""
        rows = (kernel.m,) if isinstance(kernel, MatMul) else tuple(m for m in kernel.rows if m)
        return tuple(self.kernel(m, kernel.n, kernel.k, kernel.weights, kernel.activations) for m in rows)

    def kernel(self, m: int, n: int, k: int, weights: str, activations: str) -> FlashMatMul:
        """A product with its tile and its split.

        Raises:
            InputError: a tile that does not fit the dies.
        """
        columns, held = self.page(weights)
        whole = FlashMatMul(
            m, n, k, columns, held, 0, weights, activations, slice_bytes=self.how.slice_bytes
        )
        if whole not in self.streamed:
            self.streamed[whole] = self.split(whole)
        return replace(whole, streamed=self.streamed[whole])

    def page(self, weights: str) -> tuple[int, int]:
        """Columns and weights of a page."""
        flash, most = self.ssd.flash, page_weights(self.ssd.flash, weights)
        if self.how.tile is None:
            return balanced_columns(flash, weights), most
        rows, columns = self.how.tile
        dies = flash.chips_per_channel * flash.dies_per_chip
        if rows % dies or columns % flash.channels:
            raise InputError(
                f"{rows} x {columns} is not divided evenly over {dies} dies a channel and"
                f" {flash.channels} channels",
                key="mapping.flash.tile",
            )
        height, width = rows // dies, columns // flash.channels
        if height * width > most:
            raise InputError(
                f"{rows} x {columns} puts {height * width:,} weights in a page, which holds {most:,}",
                key="mapping.flash.tile",
            )
        return width, height * width

    def split(self, whole: FlashMatMul) -> int:
        """Pages that the processor multiplies."""
        pages, dies = whole.pages, self.ssd.flash.dies
        if self.how.split == "dies":
            return 0
        if self.how.split == "processor":
            return pages
        share = share_of_dies(self.ssd, whole.columns, whole.weights, whole.activations, whole.m)
        formula = round(pages * (1 - share))
        if self.how.split == "formula":
            return formula
        if self.cost is None:
            raise InputError("to choose the fastest split costs are needed", key="mapping.flash.split")
        rounds = (pages - formula) // dies
        choices = {pages - n * dies for n in range(rounds - 1, rounds + 3)} | {formula, 0}
        kernels = [replace(whole, streamed=s) for s in sorted(choices) if 0 <= s <= pages]
        cost = self.cost
        return min(kernels, key=lambda kernel: cost(self.group, kernel)).streamed

    def runs(self, kernel: MatMul | GroupedMatMul) -> bool:
        """Whether the drive and its processor multiply such a product."""
        if isinstance(kernel, MatMul) and kernel.batch != 1:
            return False
        if kernel.activations not in self.processor.compute.peak_tflops:
            return False
        return self.ssd.compute is None or Format.parse(kernel.weights).dtype in self.ssd.compute.gops
