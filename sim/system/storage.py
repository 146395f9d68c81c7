"""Drives: kernels as flash transactions, and the processor that takes what streams out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from neardata.arch.errors import InputError
from neardata.arch.precision import Format
from neardata.arch.processor import Processor
from neardata.arch.storage import Energy, Ssd, multiplying_gb_per_s
from neardata.sim.processor import matmul
from neardata.sim.program import FlashAttention, FlashIo, FlashMatMul, FlashTogether, Kernel
from neardata.sim.storage.energy import flash_pj
from neardata.sim.storage.statistics import FlashUse
from neardata.sim.storage.transactions import KINDS, Transactions, run_transactions
from neardata.sim.system.flash_attention import attend
from neardata.sim.system.flash_programs import COLUMNS, Job, job_of, joined, pages_of, shapes_of
from neardata.sim.system.outcome import Outcome

PS_PER_NS = 1000
IDLE_PJ_PER_MW_PS = 1e-3
STREAM_RATE = 1e9
"""GB/s of a processor's memory where operands come from the stream, not from it."""


@dataclass(frozen=True, eq=False)
class FlashRun:
    """A kernel's transactions, and when each was done."""

    job: Job
    done_ps: NDArray[np.int64]
    uses: tuple[tuple[FlashUse, int, float], ...]
    """Of each run: what was in use, how many parts of the drive did the same, and its time in ns."""
    channels: int
    """Of the drive."""

    @property
    def time_ps(self) -> int:
        """End of the last transaction."""
        return int(self.done_ps.max())

    def count(self, name: str) -> int:
        """Over all channels."""
        return sum(use.counts[name] * copies for use, copies, _ in self.uses)

    def flash_pj(self, energy: Energy) -> dict[str, float]:
        """Of the flash arrays, erases included, of the channels and of the cores in dies."""
        counts = {name: self.count(name) for name in self.uses[0][0].counts}
        items = flash_pj(energy, counts)
        return {
            "flash arrays": items["page reads"] + items["page programs"] + items["block erases"],
            "flash channels": items["channels"] + items["controller"],
            "flash compute": items["die compute"],
        }

    def channel_share(self, end_ps: int, *kinds: str) -> float:
        """Mean share of a time that a channel's bus was busy; ``kinds``: only with these of ``command``,
        ``data in`` and ``data out``."""
        busy = 0.0
        for use, copies, ns in self.uses:
            each = [share for kind, share in use.channel_busy.items() if not kinds or kind in kinds]
            busy += ns * sum(float(share.sum()) for share in each) * copies
        return busy * PS_PER_NS / (self.channels * end_ps)


class StorageEngine:
    """One drive, and the processor that it is attached to.

    Every kernel finds the drive at rest. Channels work independently of each other; with ``fold``, of those
    that do the same one is simulated.
    """

    def __init__(self, ssd: Ssd, processor: Processor | None = None, *, fold: bool = True) -> None:
        # reads that fail are drawn, channel by channel: then no two are alike
        self.ssd, self.fold = ssd, fold and not (ssd.ecc is not None and ssd.ecc.fails)
        self.processor = processor
        self._one = ssd.model_copy(update={"flash": ssd.flash.model_copy(update={"channels": 1})})
        self._stream = None if processor is None else _fed(processor)

    def run(self, kernel: Kernel) -> Outcome:
        """Time, losses and energy of a kernel.

        Raises:
            InputError: no kernel of drives, or one that the drive cannot run.
        """
        if isinstance(kernel, FlashAttention):
            return attend(self, kernel)
        if not isinstance(kernel, FlashMatMul | FlashIo | FlashTogether):
            raise InputError(f"{self.ssd.name} runs no {kernel.kind}")
        parts = kernel.parts if isinstance(kernel, FlashTogether) else (kernel,)
        if not parts:
            raise InputError("there are no kernels to run together", key="parts")
        return self.outcome(parts, self.flash(parts))

    # --- the flash --------------------------------------------------------------------------------

    def flash(self, parts: Sequence[FlashMatMul | FlashIo]) -> FlashRun:
        """The transactions of kernels that start together, run."""
        job = joined([job_of(part, self.ssd) for part in parts])
        run, late = self._transactions(job)
        if late:
            job = joined([job_of(part, self.ssd, shared_vectors=False) for part in parts])
            run, _ = self._transactions(job)
        self._check(parts, run)
        return run

    def transactions(self, job: Job) -> FlashRun:
        """A job without vectors, run, and what was asked found done."""
        run, _ = self._transactions(job)
        self._check((), run)
        return run

    def _transactions(self, job: Job) -> tuple[FlashRun, bool]:
        """Run them; whether a vector that dies share came after the page of one was in its register."""
        tx, n, flash = job.tx, len(job.tx), self.ssd.flash
        done, started = np.zeros(n, np.int64), np.zeros(n)
        uses = []
        for members in self._groups(job):
            each = job.of(members[0], channel=0) if self.fold else job
            drive = self._one if self.fold else self.ssd
            report = run_transactions(drive, replace(each.tx, after=each.waits()))
            per_ps = report.clock.per_ps
            for chosen in members:
                done[chosen] = -(-report.done // per_ps)
                started[chosen] = report.started / report.clock.per_ns
            uses.append((report.use, len(members), report.time_ns))
        shared = np.flatnonzero(job.carrier >= 0)
        kinds = [flash.page_type(page) for page in range(flash.pages_per_block)]
        read = np.array([flash.read_ns[min(kind, len(flash.read_ns) - 1)] for kind in kinds])[tx.page[shared]]
        late = bool((started[job.carrier[shared]] > started[shared] + read).any())
        return FlashRun(job, done, tuple(uses), flash.channels), late

    def _groups(self, job: Job) -> list[list[NDArray[np.intp]]]:
        """Transactions by channel, those of channels that do the same together."""
        if not self.fold:
            return [[np.arange(len(job.tx))]]
        groups: dict[bytes, list[NDArray[np.intp]]] = {}
        for c in np.unique(job.tx.channel):
            chosen = np.flatnonzero(job.tx.channel == c)
            same = job.of(chosen, channel=0)
            columns = [getattr(same.tx, name) for name in COLUMNS] + [same.part, same.round]
            groups.setdefault(b"".join(column.tobytes() for column in columns), []).append(chosen)
        return list(groups.values())

    def _check(self, parts: Sequence[FlashMatMul | FlashIo], run: FlashRun) -> None:
        """What was asked was done: pages, bytes on the channels, multiply-accumulates."""
        tx = run.job.tx
        reads = tx.kind != KINDS["program"]
        asked = {
            "pages_read": int(reads.sum()),
            "pages_programmed": int((~reads).sum()),
            "channel_bytes_out": int(tx.bytes_out.sum()),
            "channel_bytes_in": int(tx.bytes_in.sum()),
            "read_computes": int((tx.kind == KINDS["read-compute"]).sum()),
        }
        for name, n in asked.items():
            if run.count(name) != n:
                raise AssertionError(f"{name}: {run.count(name):,} of {n:,}")
        for part in parts:
            if isinstance(part, FlashMatMul) and int(pages_of(part).weights.sum()) != part.n * part.k:
                raise AssertionError("the pages do not hold the matrix once")

    # --- the processor, time and energy -----------------------------------------------------------

    def outcome(self, parts: Sequence[FlashMatMul | FlashIo], run: FlashRun) -> Outcome:
        """From the run of its transactions."""
        flash_ps = run.time_ps
        processor_ps, processor_pj = self._processor(parts, run)
        time_ps = max(flash_ps, processor_ps)
        bound = min(self._bound_ps(parts), time_ps)
        rounds = min(max(self._rounds_ps(run.job.tx), bound), flash_ps)
        lost = {
            "whole pages and rounds": rounds - bound,
            "commands, vectors, first read and last sums": flash_ps - rounds,
            "processor": time_ps - flash_ps,
        }
        if rounds < bound:
            lost = {"processor": time_ps - bound}
        ssd, energy = self.ssd, self.ssd.energy
        bytes_on_channels = run.count("channel_bytes_in") + run.count("channel_bytes_out")
        pages = run.count("pages_read") + run.count("pages_programmed")
        used = {
            **run.flash_pj(energy),
            "drive idle": energy.idle_mw.value * IDLE_PJ_PER_MW_PS * time_ps,
            **processor_pj,
        }
        return Outcome(
            time_ps=time_ps,
            bound_ps=bound,
            bound_by="flash arrays and channels",
            lost_ps={name: ps for name, ps in lost.items() if ps},
            energy_pj=used,
            memory_bytes=pages * ssd.flash.page_bytes,
            macs=sum(part.macs for part in parts),
            interface_bytes=bytes_on_channels,
        )

    def _processor(
        self, parts: Sequence[FlashMatMul | FlashIo], run: FlashRun
    ) -> tuple[int, dict[str, float]]:
        """When the processor is done with the pages that stream to it, one after the other as they come."""
        streams = [part for part in parts if isinstance(part, FlashMatMul) and part.streamed]
        if not streams:
            return 0, {}
        if self._stream is None:
            raise InputError("pages are streamed, but the drive is attached to no processor", key="streamed")
        job, took, pj = run.job, np.zeros(len(run.job.tx)), 0.0
        streamed = np.zeros(len(took), bool)
        for number, part in enumerate(parts):
            if not isinstance(part, FlashMatMul) or not part.streamed:
                continue
            pages = pages_of(part)
            mine = np.flatnonzero((job.part == number) & (job.page >= pages.computed))
            chosen = job.page[mine]
            rows, widths = pages.row_end - pages.row, pages.column_end - pages.column
            height, width, shape = shapes_of(rows[chosen], widths[chosen])
            costs = [
                matmul(
                    self._stream, part.m, n, k,
                    weight_format=Format.parse(part.weights), activation_dtype=part.activations,
                )
                for n, k in zip(height, width, strict=True)
            ]  # fmt: skip
            took[mine] = np.array([float(cost.time_ps) for cost in costs])[shape]
            pj += float(np.array([cost.energy_pj["compute"] for cost in costs])[shape].sum())
            streamed[mine] = True
        if streamed.sum() != sum(part.streamed for part in streams):
            raise AssertionError("other pages came than are streamed")
        arrivals, took = run.done_ps[streamed], took[streamed]
        order = np.argsort(arrivals, kind="stable")
        left = np.cumsum(took[order][::-1])[::-1]
        return ceil(float((arrivals[order] + left).max())), {"processor compute": pj}

    def _bound_ps(self, parts: Sequence[FlashMatMul | FlashIo]) -> int:
        """Least time: dies multiply as fast as arrays read while pages stream at the channels' peak."""
        flash, bus = self.ssd.flash, self.ssd.bus
        channels_b_per_ns = flash.channels * bus.gb_per_s
        array_b_per_ns = flash.planes * flash.page_bytes / min(flash.read_ns)
        program_b_per_ns = flash.planes * flash.page_bytes / min(flash.program_ns)
        ns = 0.0
        for part in parts:
            if isinstance(part, FlashIo):
                writes = part.operation == "write"
                rate = min(channels_b_per_ns, program_b_per_ns if writes else array_b_per_ns)
                ns = max(ns, part.bytes / rate)
            else:
                size = Format.parse(part.weights).bytes_of(part.n * part.k, part.k)
                core = self.ssd.compute
                can = core is not None and Format.parse(part.weights).dtype in core.gops
                ns = max(ns, size / (multiplying_gb_per_s(self.ssd) if can else channels_b_per_ns))
        return round(ns * PS_PER_NS)

    def _rounds_ps(self, tx: Transactions) -> int:
        """The same for the split that was made: the longest of a die's array reads and a channel's pages."""
        flash, bus = self.ssd.flash, self.ssd.bus
        cores = flash.chips_per_channel * flash.dies_per_chip
        where = tx.channel * cores + tx.die
        computes, reads = tx.kind == KINDS["read-compute"], tx.kind == KINDS["read"]
        arrays = np.bincount(where[computes], minlength=1).max() * min(flash.read_ns)
        streams = np.bincount(tx.channel[reads], tx.bytes_out[reads], minlength=1).max() / bus.gb_per_s
        return round(max(float(arrays), float(streams)) * PS_PER_NS)


def _fed(processor: Processor) -> Processor:
    """The processor's arithmetic, fed by a stream: neither its memory nor starting a kernel takes time."""
    efficiency = processor.efficiency
    nothing = efficiency.launch_ns.model_copy(update={"value": 0.0})
    fed = processor.model_copy(
        update={
            "memory": processor.memory.model_copy(update={"gb_per_s": STREAM_RATE, "unit_gb_per_s": None}),
            "efficiency": efficiency.model_copy(
                update={"launch_ns": nothing, "exposed": efficiency.exposed.model_copy(update={"value": 0.0})}
            ),
        }
    )
    for name in ("memory_bytes_per_ps",):  # what was worked out for the memory of before
        fed.__dict__.pop(name, None)
    return fed
