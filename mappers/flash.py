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
        whole = FlashMatMul(m, n, k, columns, held, 0, weights, activations, slice_bytes=self.how.slice_bytes)
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
        core = self.ssd.compute
        can = core is not None and Format.parse(whole.weights).dtype in core.gops
        if self.how.split == "dies" and not can:
            raise InputError(
                f"the dies of '{self.ssd.name}' do not multiply {whole.weights}", key="mapping.flash.split"
            )
        if self.how.split == "dies":
            return 0
        if self.how.split == "processor" or not can:
            return pages
        share = share_of_dies(self.ssd, whole.columns, whole.weights, whole.activations, whole.m)
        formula = round(pages * (1 - share))
        if self.how.split == "formula":
            return formula
        if self.cost is None:
            raise InputError("to choose the fastest split costs are needed", key="mapping.flash.split")
        best, took = formula, self.took(whole, formula)
        rounds = (pages - formula) // dies
        step = max(rounds // 100, 1)
        for more, way in ((rounds + step, step), (rounds, -step)):  # while it gets faster, either way
            better, last = best, False
            while not last:
                streamed = min(max(pages - more * dies, 0), pages)
                last = streamed in (0, pages)
                time = self.took(whole, streamed)
                if time >= took:
                    break
                better, took, more = streamed, time, more + way
            if better != best:
                return better
        return best

    def took(self, whole: FlashMatMul, streamed: int) -> int:
        """Picoseconds of a product with so many pages streamed."""
        assert self.cost is not None
        return self.cost(self.group, replace(whole, streamed=streamed))

    def runs(self, kernel: MatMul | GroupedMatMul) -> bool:
        """Whether the drive and its processor multiply such a product."""
        one = not isinstance(kernel, MatMul) or kernel.batch == 1
        return one and kernel.activations in self.processor.compute.peak_tflops
