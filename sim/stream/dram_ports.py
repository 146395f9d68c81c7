"""Ports that are channels of a DRAM device: the pipeline and the request engine, run together.

When a request is made depends on when earlier ones were answered, and the other way round. The two
engines take turns over the whole run: the pipeline with the answers of the last turn, the memory with
the requests of this one, until no request moves. A pair of requests and answers that reproduces
itself is the one that a joint run would give: an answer depends on earlier requests only, and a
request on earlier answers, so that by induction over time there is one such pair. Every turn makes
at least one more round trip right, and the turns end.

A stage's requests walk through memory of its own, one after the other: every memory stage of every
replica on a channel has an equal part of it for what it reads and one for what it writes. A read
is answered when its last burst has crossed the bus, a write a tick of the memory after the controller
has taken its last burst. The latency given for the port, which is that of another memory, is not added.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import ceil

import numpy as np

from neardata.arch.dram import Device, load_device
from neardata.arch.dram.mapping import load_mapping
from neardata.arch.errors import InputError
from neardata.sim.dram.config import ControllerConfig, load_profile, profile_names
from neardata.sim.stream.layout import Layout, Table

MOST_REQUESTS = 1 << 22
"""Bursts of a run: every turn simulates all of them."""


class DramPorts:
    """The memory behind the ports of a pipeline.

    Args:
        layout: every port must name a device.
        config: of each channel's controller; None: the default profile.

    Raises:
        InputError: a port without a device, more bursts than can be simulated over and over.
    """

    def __init__(self, layout: Layout, config: ControllerConfig | None = None) -> None:
        from neardata.sim.stream import pipeline_kernel as k

        self.layout, self.k = layout, k
        self.config = config or load_profile(profile_names()[0])
        self.devices: dict[str, Device] = {}
        for name, port in layout.pipeline.ports.items():
            if port.device is None:
                raise InputError("names no DRAM device to simulate", key=f"ports.{name}.device")
            self.devices[name] = load_device(port.device)
        self.users: dict[int, list[int]] = {}
        """Stages (rows) on each port channel."""
        bursts = 0
        for i, (name, _) in enumerate(layout.units):
            channel = int(layout.stage[i, k.CHANNEL])
            if channel >= 0:
                self.users.setdefault(channel, []).append(i)
                memory = layout.pipeline.stages[name].memory
                assert memory is not None
                burst = self.devices[memory.port].burst_bytes
                each = -(-memory.read_bytes // burst) + -(-memory.write_bytes // burst)
                if layout.units[i][1] == 0:
                    bursts += each * layout.firings.get(name, 0)
        if bursts > MOST_REQUESTS:
            raise InputError(
                f"{bursts:,} bursts are more than {MOST_REQUESTS:,}; give fewer items, or the ports analytic"
            )
        self.turns = 0

    def settle(self, pipeline: Callable[[Table], tuple[Table, Table]]) -> Table:
        """Take turns until no request moves.

        Args:
            pipeline: the (stages, initiations) ticks of requests for such ticks of answers, and the
                firings of each stage.

        Returns:
            The answers.
        """
        stages = [i for users in self.users.values() for i in users]
        most = max((self._initiations(i) for i in stages), default=1)
        answer = np.zeros((len(self.layout.units), most), np.int64)
        before: tuple[Table, Table] | None = None
        while True:
            self.turns += 1
            now = pipeline(answer)
            if before is not None and all(map(np.array_equal, now, before)):
                return answer
            before = now
            answer = self._answers(*now)

    def _initiations(self, row: int) -> int:
        # any replica may come to do it all
        name = self.layout.units[row][0]
        return max(self.layout.firings.get(name, 0), 1)

    def _answers(self, request: Table, fired: Table) -> Table:
        answer = np.zeros_like(request)
        for channel, rows in self.users.items():
            self._channel(channel, rows, request, fired, answer)
        return answer

    def _channel(self, channel: int, rows: list[int], request: Table, fired: Table, answer: Table) -> None:
        from neardata.sim.dram.request import simulate
        from neardata.sim.dram.trace import RequestChunk

        device = self.devices[self.layout.channels[channel][0]]
        burst = device.burst_bytes
        at, stage, nth = [], [], []
        for row in rows:
            made = np.flatnonzero(request[row] >= 0)
            at.append(request[row, made])
            stage.append(np.full(len(made), row))
            nth.append(made)
        when, which, number = (np.concatenate(part) for part in (at, stage, nth))
        if not len(when):
            return
        order = np.lexsort((which, when))
        when, which, number = when[order], which[order], number[order]
        # bursts of each request: those it reads, then those it writes
        reads, writes = np.zeros(len(when), np.int64), np.zeros(len(when), np.int64)
        for row in rows:
            memory = self.layout.pipeline.stages[self.layout.units[row][0]].memory
            assert memory is not None
            firings = self._firings(row, request, int(fired[row]))
            mine = which == row
            reads[mine] = -(-firings[number[mine]] * memory.read_bytes // burst)
            writes[mine] = -(-firings[number[mine]] * memory.write_bytes // burst)
        counts = reads + writes
        owner = np.repeat(np.arange(len(when)), counts)
        place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        is_write = place >= reads[owner]
        capacity = load_mapping(device, self.config.mapping, 1).capacity_bytes
        part = capacity // (2 * len(rows)) // burst  # bursts
        address = np.zeros(len(owner), np.int64)
        for j, row in enumerate(rows):
            for kind in (False, True):
                mine = (which[owner] == row) & (is_write == kind)
                address[mine] = (np.arange(int(mine.sum())) % part + (2 * j + kind) * part) * burst
        tick_ps = Fraction(device.timing["tCK_ps"]) / device.ticks_per_clock
        to_dram = Fraction(1_000_000) / self.layout.ticks.per_us / tick_ps  # DRAM ticks a tick
        arrival = -(-when * to_dram.numerator // to_dram.denominator)
        report = simulate(
            device, [RequestChunk(address, is_write, arrival[owner])], self.config, record_requests=True
        )
        times = report.per_request
        assert times is not None
        done = np.where(is_write, times.arrive + 1, times.depart)
        last = np.zeros(len(when), np.int64)
        np.maximum.at(last, owner, done)
        answer[which, number] = [ceil(int(t) / to_dram) for t in last]

    def _firings(self, row: int, request: Table, fired: int) -> Table:
        """Firings of each initiation: all lanes, and of the last what is left."""
        k, layout = self.k, self.layout
        lanes = int(layout.stage[row, k.LANES])
        made = int((request[row] >= 0).sum())
        firings = np.full(request.shape[1], lanes, np.int64)
        if made:
            firings[made - 1] = fired - lanes * (made - 1)
        return firings
