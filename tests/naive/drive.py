"""A drive around `naive.flash` as plain objects: dictionaries for tables, lists for queues."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, gcd, log2
from typing import Any

from naive.flash import NaiveFlash, Tx
from neardata.arch.storage import Ssd
from neardata.arch.storage.ssd import SECTOR

KINDS = ("ram", "evict", "doorbell", "fetch", "command", "ask", "data", "ended")


@dataclass(eq=False)
class Request:
    number: int
    op: str
    lba: int
    sectors: int
    arrive: Fraction = Fraction(0)
    sent: Fraction | None = None
    ended: Fraction | None = None
    items: int = 0
    next_page: int = 0


@dataclass(eq=False)
class Block:
    plane: int
    number: int
    pages: list[Any]
    """What each page holds: ("data", lpa), ("map", page), None (invalid or empty)."""
    written: int = 0
    invalid: int = 0
    erased: int = 0
    collected: bool = False
    reading: int = 0
    programming: int = 0
    born: int = 0
    moves: int = 0
    erase: Tx | None = None
    quiet: bool = False
    wear: bool = False


@dataclass(eq=False)
class Plane:
    number: int
    blocks: list[Block]
    free: list[Block]
    data_front: Block | None = None
    map_front: Block | None = None
    gc_front: Block | None = None
    jobs: int = 0
    moving: int = 0
    waiting: list[Tx] = field(default_factory=list)


class NaiveDrive:
    """Run requests; afterwards look at them, at ``counts`` and at the planes."""

    def __init__(
        self, ssd: Ssd, requests: list[Request], depth: int = 0, stop: Fraction | None = None, seed: int = 1
    ) -> None:
        flash = ssd.flash
        self.ssd, self.requests, self.depth, self.stop = ssd, requests, depth, stop
        self.flash = NaiveFlash(ssd, seed << 32)
        self.seed = seed << 20
        rate = ssd.bus.mt_per_s
        self.per_ns = 1000 * (rate // gcd(rate, 10**6))
        self.spp = ssd.sectors_per_page
        self.now = Fraction(0)
        self.host: list[tuple[Fraction, int, int, Any]] = []
        self.up = self.down = self.ram = Fraction(0)
        self.cores = [Fraction(0)] * ssd.controller.cores
        self.inside = 0
        self.in_queue: list[Request] = []
        self.next = 0
        self.owed = depth
        self.made = 0
        self.turn = 0
        self.births = 1
        self.stack: list[Plane] = []
        self.pending: dict[int, set[str]] = {}
        self.counts = dict.fromkeys(
            [
                "gc_runs",
                "gc_moves",
                "gc_moves_overtaken",
                "wear_runs",
                "cmt_hits",
                "cmt_misses",
                "mapping_reads",
                "mapping_writes",
                "host_pages_written",
                "update_reads",
                "cache_hits",
                "pages_trimmed",
            ],
            0,
        )
        self.where: dict[int, tuple[Block, int]] = {}
        self.bits: dict[int, int] = {}
        self.full = (1 << self.spp) - 1
        # the cache of written pages: page -> [sectors, dirty, version]
        self.cache: OrderedDict[int, list[Any]] = OrderedDict()
        self.cache_room = max(ssd.cache.bytes // flash.page_bytes, 1)
        self.version = 0
        self.pressure = 0
        self.most_pressure = flash.planes * self.spp
        self.stalled: list[Request] = []
        self.seen: set[int] = set()
        self.forget_at = Fraction(0)
        self.lay_out()

    def lay_out(self) -> None:
        ssd, flash = self.ssd, self.ssd.flash
        pages = flash.pages_per_block
        self.order = self.plane_order()
        self.planes = []
        for p in range(flash.planes):
            blocks = [Block(p, k, [None] * pages) for k in range(flash.blocks_per_plane)]
            self.planes.append(Plane(p, blocks, list(blocks)))
        self.cached = ssd.mapping.table == "cached"
        self.entries = ssd.entries_per_translation_page
        # mapping entries in the controller: page -> "waiting", "clean", "dirty"
        self.cmt: OrderedDict[int, str] = OrderedDict()
        self.cmt_room = max(ssd.mapping.cached_bytes // ssd.table_entry_bytes, 1)
        translation = ceil(Fraction(ssd.logical_pages, self.entries)) if self.cached else 0
        self.map_where: list[tuple[Block, int]] = []
        self.map_reading: set[int] = set()
        self.map_departing: set[int] = set()
        self.map_waiting: dict[int, list[Tx]] = {}
        n = flash.planes
        for t in range(translation):
            plane, at = self.planes[self.order[t % n]], t // n
            block = plane.blocks[at // pages]
            block.pages[at % pages] = ("map", t)
            block.written = at % pages + 1
            self.map_where.append((block, at % pages))
        per_plane = ceil(Fraction(translation, n))
        fill_at = per_plane // pages + 1 if self.cached else 0
        self.fill_at = fill_at
        filled = int(ssd.logical_pages * ssd.mapping.filled)
        fill_blocks = ceil(Fraction(ceil(Fraction(filled, n)), pages))
        for plane in self.planes:
            if self.cached:
                plane.map_front = plane.blocks[fill_at - 1]
                for block in plane.blocks[: fill_at - 1]:
                    block.written = pages
                plane.map_front.written = per_plane % pages
            for block in plane.blocks[fill_at : fill_at + fill_blocks]:
                block.written = pages
                block.invalid = pages
            used = fill_at + fill_blocks
            plane.data_front, plane.gc_front = plane.blocks[used], plane.blocks[used + 1]
            plane.data_front.born = plane.gc_front.born = 1
            plane.free = plane.blocks[used + 2 :]
        for lpa in range(filled):
            block, page = self.identity(lpa)
            block.pages[page] = ("data", lpa)
            block.invalid -= 1
            self.where[lpa] = (block, page)
            self.bits[lpa] = self.full

    def plane_order(self) -> list[int]:
        flash = self.ssd.flash
        sizes = {
            "C": flash.channels,
            "W": flash.chips_per_channel,
            "D": flash.dies_per_chip,
            "P": flash.planes_per_die,
        }
        order = []
        for n in range(flash.planes):
            place = {}
            for letter in self.ssd.mapping.allocation:
                place[letter] = n % sizes[letter]
                n //= sizes[letter]
            number = place["C"]
            for letter in "WDP":
                number = number * sizes[letter] + place[letter]
            order.append(number)
        return order

    def identity(self, lpa: int) -> tuple[Block, int]:
        n, pages = self.ssd.flash.planes, self.ssd.flash.pages_per_block
        at = lpa // n
        number = (self.fill_at + at // pages) % self.ssd.flash.blocks_per_plane
        return self.planes[self.order[lpa % n]].blocks[number], at % pages

    # time

    def ticks(self, time: Fraction) -> Fraction:
        return Fraction(ceil(time * self.per_ns), self.per_ns)

    def wire(self, payload: int) -> Fraction:
        host = self.ssd.host
        size = payload + ceil(Fraction(payload, host.payload_bytes)) * host.overhead_bytes
        lane = Fraction(str(host.lane_gb_per_s))
        if self.ssd.compat.truncated_link:
            return Fraction(int(ceil(Fraction(size, host.lanes)) / lane))
        return self.ticks(size / (lane * host.lanes))

    def happen(self, time: Fraction, kind: str, index: int, what: Any) -> None:
        self.host.append((time, KINDS.index(kind), index, what))

    def take_up(self, time: Fraction) -> Fraction:
        self.up = max(self.now, self.up) + time
        return self.up

    def take_down(self, begin: Fraction, time: Fraction) -> Fraction:
        self.down = max(begin, self.down) + time
        return self.down

    def draw(self, below: int) -> int:
        self.seed += 1
        z = self.seed * 0x9E3779B97F4A7C15 & (2**64 - 1)
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
        z = (z ^ z >> 27) * 0x94D049BB133111EB & (2**64 - 1)
        return ((z ^ z >> 31) >> 2) % below

    # the run

    def run(self) -> None:
        truncated = self.ssd.compat.truncated_link
        while True:
            while self.owed:
                late = self.stop is not None and self.now > self.stop
                if late or self.next >= len(self.requests):
                    self.owed = 0
                    break
                self.owed -= 1
                self.send(self.requests[self.next])
                self.next += 1
            self.attend()
            self.flash.arbitrate(self.now)
            times = [self.flash.next_time(), min((e[0] for e in self.host), default=None)]
            if not self.depth and self.next < len(self.requests):
                times.append(self.requests[self.next].arrive)
            due = [t for t in times if t is not None]
            if not due:
                return
            self.now = min(due)
            self.flash.advance(self.now, self.take_finished)
            while any(e[0] == self.now for e in self.host):
                event = min((e for e in self.host if e[0] == self.now), key=lambda e: (e[1], e[2]))
                self.host.remove(event)
                self.host_event(KINDS[event[1]], event[3], truncated)
            while (
                not self.depth
                and self.next < len(self.requests)
                and self.requests[self.next].arrive == self.now
            ):
                self.send(self.requests[self.next])
                self.next += 1

    def send(self, r: Request) -> None:
        r.sent = self.now
        if self.ssd.compat.truncated_link:
            time = self.take_down(self.now, self.wire(self.ssd.host.doorbell_bytes))
            self.happen(time, "doorbell", r.number, r)
        else:
            self.rung(r, self.now + self.flash.ps(self.ssd.host.latency_ns))

    def rung(self, r: Request, now: Fraction) -> None:
        if self.inside < self.ssd.controller.fetch and not self.in_queue:
            self.take_in(r, now)
        else:
            self.in_queue.append(r)

    def take_in(self, r: Request, now: Fraction) -> None:
        host, controller = self.ssd.host, self.ssd.controller
        self.inside += 1
        if self.ssd.compat.truncated_link:
            self.happen(self.take_up(self.wire(host.request_bytes)), "fetch", r.number, r)
            return
        time = self.wire(host.command_bytes)
        if self.down > now:
            self.down += time
        arrived = now + time + 2 * self.flash.ps(host.latency_ns)
        core = self.cores.index(min(self.cores))
        work = self.flash.ps(controller.read_ns if r.op == "read" else controller.write_ns)
        self.cores[core] = max(arrived, self.cores[core]) + work
        self.happen(self.cores[core] + self.flash.ps(controller.latency_ns), "command", r.number, r)

    def item_done(self, r: Request) -> None:
        host = self.ssd.host
        r.items -= 1
        if r.items:
            return
        self.inside -= 1
        data = self.wire(r.sectors * SECTOR) if r.op == "read" else Fraction(0)
        if self.ssd.compat.truncated_link and data:
            self.take_up(data)
        if self.in_queue and self.inside < self.ssd.controller.fetch:
            self.take_in(self.in_queue.pop(0), self.now)
        time = self.wire(host.completion_bytes)
        if not self.ssd.compat.truncated_link:
            time += data
        self.happen(self.take_up(time) + self.flash.ps(host.latency_ns), "ended", r.number, r)

    def host_event(self, kind: str, what: Any, truncated: bool) -> None:
        host = self.ssd.host
        if kind == "command":
            if what.op != "write":
                self.begin(what)
            elif truncated:
                self.happen(self.take_up(self.wire(host.request_bytes)), "ask", what.number, what)
            else:
                latency = self.flash.ps(host.latency_ns)
                end = self.take_down(self.now + latency, self.wire(what.sectors * SECTOR))
                self.happen(end + latency, "data", what.number, what)
        elif kind == "data":
            self.begin(what)
        elif kind == "ended":
            what.ended = self.now
            if truncated:
                self.take_down(self.now, self.wire(host.doorbell_bytes))
            if self.depth:
                self.owed += 1
        elif kind == "ram":
            self.item_done(what)
        elif kind == "evict":
            for tx in what:
                self.map(tx)
        elif kind == "doorbell":
            self.rung(what, self.now)
        elif kind == "fetch":
            self.happen(self.take_down(self.now, self.wire(host.command_bytes)), "command", what.number, what)
        else:
            self.happen(self.take_down(self.now, self.wire(what.sectors * SECTOR)), "data", what.number, what)

    # pages

    def make(
        self, kind: str, source: str, size_in: int, size_out: int, lpa: int, mask: int, owner: Any = None
    ) -> Tx:
        self.made += 1
        tx = Tx(self.made, kind, 0, 0, 0, 0, 0, size_in, size_out)
        tx.owner = {
            "source": source,
            "lpa": lpa,
            "mask": mask,
            "request": owner,
            "aux": None,
            "at": None,
            "waits": 0,
        }
        return tx

    def at(self, tx: Tx, block: Block, page: int, queue: int) -> None:
        flash = self.ssd.flash
        plane = block.plane
        die, inside = divmod(plane, flash.planes_per_die)
        if self.ssd.compat.one_die_a_chip:
            tx.unit, tx.die = divmod(die, flash.dies_per_chip)
            tx.plane = inside
        elif flash.independent_planes:
            tx.unit, tx.die, tx.plane = plane, 0, 0
        else:
            tx.unit, tx.die, tx.plane = die, 0, inside
        tx.page, tx.queue = page, queue
        tx.owner["at"] = (block, page)

    def mask(self, r: Request, lpa: int) -> int:
        return sum(1 << k for k in range(self.spp) if r.lba <= lpa * self.spp + k < r.lba + r.sectors)

    def begin(self, r: Request) -> None:
        first, last = r.lba // self.spp, (r.lba + r.sectors - 1) // self.spp
        r.items = 1
        if r.op == "trim":
            for lpa in range(first, last + 1):
                if self.mask(r, lpa) == self.full:
                    if lpa in self.where:
                        self.invalidate(*self.where.pop(lpa))
                        self.counts["pages_trimmed"] += 1
                    self.bits.pop(lpa, None)
            self.item_done(r)
            return
        caches = self.ssd.cache.mode == "write"
        if r.op == "write" and caches:
            r.next_page = first
            if self.cache_write(r):
                self.item_done(r)
            else:
                self.stalled.append(r)
            return
        from_ram = 0
        for lpa in range(first, last + 1):
            mask = self.mask(r, lpa)
            if r.op == "read":
                if caches and lpa in self.cache:
                    self.cache.move_to_end(lpa)
                    from_ram += (mask & self.cache[lpa][0]).bit_count()
                    mask &= ~self.cache[lpa][0]
                    if not mask:
                        continue
                tx = self.make("read", "host", 0, mask.bit_count() * SECTOR, lpa, mask, r)
            else:
                tx = self.make("program", "host", mask.bit_count() * SECTOR, 0, lpa, mask, r)
            r.items += 1
            self.map(tx)
        if from_ram:
            self.counts["cache_hits"] += 1
            r.items += 1
            self.happen(self.take_ram(from_ram * SECTOR), "ram", r.number, r)
        self.item_done(r)

    def take_ram(self, size: int) -> Fraction:
        c, ps = self.ssd.cache, self.flash.ps
        if self.ssd.compat.dram_formula:
            burst = Fraction(1000, c.mt_per_s)
            first = int(c.t_rcd) + int(c.t_cl)
            if size <= c.row_bytes:
                time = Fraction(first + int(size // c.bus_bytes // 2 * burst))
            else:
                whole = int(c.row_bytes // c.bus_bytes // 2 * burst) + int(c.t_rp)
                rest = int(size % c.row_bytes / (c.bus_bytes * burst))
                time = Fraction(2 * first + whole * (size // c.row_bytes // 2) + rest)
        else:
            rows = ceil(Fraction(size, c.row_bytes))
            time = ps(c.t_rcd) + ps(c.t_cl) + (rows - 1) * (ps(c.t_rcd) + ps(c.t_cl) + ps(c.t_rp))
            time += self.ticks(Fraction(size * 1000, c.mt_per_s * c.bus_bytes))
        self.ram = max(self.now, self.ram) + time
        return self.ram

    def cache_write(self, r: Request) -> bool:
        last = (r.lba + r.sectors - 1) // self.spp
        evicted, on_way, stored = 0, 0, 0
        leaving: list[Tx] = []
        writes: list[Tx] = []
        while r.next_page <= last and self.pressure + evicted + on_way < self.most_pressure:
            lpa = r.next_page
            r.next_page += 1
            mask = self.mask(r, lpa)
            self.version += 1
            if lpa in self.cache:
                self.cache[lpa][0] |= mask
                self.cache[lpa][1] = True
                self.cache.move_to_end(lpa)
                self.counts["cache_hits"] += 1
            else:
                if len(self.cache) >= self.cache_room:
                    old, (bits, dirty, version) = next(iter(self.cache.items()))
                    if dirty:
                        size = bits.bit_count()
                        tx = self.make("program", "cache", size * SECTOR, 0, old, bits)
                        tx.owner["version"] = version
                        leaving.insert(0, tx)
                        evicted += size
                    del self.cache[old]
                self.cache[lpa] = [mask, True, 0]
            self.cache[lpa][2] = self.version
            stored += mask.bit_count()
            if lpa not in self.seen:
                self.seen.add(lpa)
                self.cache[lpa][1] = False
                on_way += mask.bit_count()
                tx = self.make("program", "cache", mask.bit_count() * SECTOR, 0, lpa, mask)
                tx.owner["version"] = self.version
                writes.append(tx)
        self.pressure += evicted + on_way
        if leaving:
            self.happen(self.take_ram(evicted * SECTOR), "evict", leaving[0].number, leaving)
        if stored:
            r.items += 1
            self.happen(self.take_ram(stored * SECTOR), "ram", r.number, r)
        for tx in writes:
            self.map(tx)
        if self.now > self.forget_at:
            self.seen.clear()
            self.forget_at = self.now + 10**9
        return r.next_page > last

    # mapping

    def map(self, tx: Tx) -> None:
        if not self.cached:
            self.place(tx)
            return
        lpa = tx.owner["lpa"]
        if self.cmt.get(lpa, "waiting") != "waiting":
            self.counts["cmt_hits"] += 1
            self.cmt.move_to_end(lpa)
            self.place(tx)
            return
        self.counts["cmt_misses"] += 1
        page = lpa // self.entries
        if lpa not in self.cmt:
            if len(self.cmt) >= self.cmt_room:
                self.evict_entry()
            self.cmt[lpa] = "waiting"
        if page not in self.map_reading:
            if page in self.map_departing:
                self.cmt[lpa] = "clean"
                self.place(tx)
                return
            self.read_translation(page, None, SECTOR)
        self.map_waiting.setdefault(page, []).append(tx)

    def read_translation(self, page: int, write: Tx | None, size: int) -> None:
        tx = self.make("read", "map read", 0, size, page, 0)
        self.at(tx, *self.map_where[page], 0)
        tx.rank = 0
        tx.owner["aux"] = write
        self.map_where[page][0].reading += 1
        self.map_reading.add(page)
        self.counts["mapping_reads"] += 1
        self.flash.submit(tx, self.now)

    def evict_entry(self) -> None:
        lpa, status = next(iter(self.cmt.items()))
        del self.cmt[lpa]
        if status != "dirty":
            return
        page = lpa // self.entries
        unchanged = False
        for other in range(page * self.entries, (page + 1) * self.entries):
            if self.cmt.get(other) == "dirty":
                self.cmt[other] = "clean"
            else:
                unchanged = True
        self.map_departing.add(page)
        if self.ssd.compat.mapping_writes_lost:
            if unchanged:
                self.read_translation(page, None, SECTOR)
            return
        plane = self.planes[self.order[page % len(self.planes)]]
        write = self.make("program", "map write", self.ssd.flash.page_bytes, 0, page, 0)
        old = self.map_where[page]
        new = self.next_page(plane, "map_front", ("map", page))
        self.at(write, *new, 3)
        new[0].programming += 1
        self.counts["mapping_writes"] += 1
        if unchanged:
            self.hold(write)
            self.read_translation(page, write, self.ssd.flash.page_bytes)
        self.invalidate(*old)
        self.map_where[page] = new
        self.flash.submit(write, self.now)

    @staticmethod
    def hold(tx: Tx) -> None:
        tx.owner["waits"] += 1
        tx.ready = False

    def release(self, tx: Tx) -> None:
        tx.owner["waits"] -= 1
        tx.ready = tx.owner["waits"] == 0
        self.flash.dirty.add(tx.unit // self.flash.per_channel)

    def place(self, tx: Tx) -> None:
        ssd, lpa = self.ssd, tx.owner["lpa"]
        if tx.kind == "read":
            if lpa not in self.where and ssd.compat.read_allocates:
                plane = self.planes[self.order[lpa % len(self.planes)]]
                self.where[lpa] = self.next_page(plane, "data_front", ("data", lpa))
                self.bits[lpa] = self.bits.get(lpa, 0) | tx.owner["mask"]
                if lpa in self.cmt:
                    self.cmt[lpa] = "dirty"
            if lpa in self.where:
                self.at(tx, *self.where[lpa], 1)
                self.where[lpa][0].reading += 1
            else:
                self.at(tx, *self.identity(lpa), 1)
                tx.owner["at"] = None
            self.flash.submit(tx, self.now)
            return
        if ssd.mapping.dynamic:
            if tx.owner["aux"] is None:
                tx.owner["aux"] = self.turn
                self.turn = (self.turn + 1) % len(self.planes)
            plane = self.planes[self.order[tx.owner["aux"]]]
        else:
            plane = self.planes[self.order[lpa % len(self.planes)]]
        if len(plane.free) < ssd.gc.reserve or self.room(plane) < 0:
            plane.waiting.append(tx)
            if plane.jobs == 0:
                self.mark(plane, "check")
            return
        mask = tx.owner["mask"]
        if lpa in self.where:
            block, page = self.where[lpa]
            held = self.bits[lpa]
            rest = held & ~mask
            if rest:
                read = self.make("read", "update", 0, rest.bit_count() * SECTOR, lpa, rest)
                self.at(read, block, page, 1)
                read.owner["aux"] = tx
                block.reading += 1
                self.hold(tx)
                self.counts["update_reads"] += 1
                if not ssd.compat.read_allocates:
                    tx.bytes_in = (held | mask).bit_count() * SECTOR
                self.flash.submit(read, self.now)
            mask |= held
            self.invalidate(block, page)
        self.bits[lpa] = mask
        self.where[lpa] = self.next_page(plane, "data_front", ("data", lpa))
        if lpa in self.cmt:
            self.cmt[lpa] = "dirty"
        self.at(tx, *self.where[lpa], 3)
        self.where[lpa][0].programming += 1
        self.counts["host_pages_written"] += 1
        self.flash.submit(tx, self.now)

    # blocks

    def invalidate(self, block: Block, page: int) -> None:
        block.pages[page] = None
        block.invalid += 1

    def mark(self, plane: Plane, what: str) -> None:
        if plane.number not in self.pending:
            self.stack.append(plane)
        self.pending.setdefault(plane.number, set()).add(what)

    def next_page(self, plane: Plane, front: str, holds: Any) -> tuple[Block, int]:
        block: Block = getattr(plane, front)
        page = block.written
        block.pages[page] = holds
        block.written += 1
        if block.written == len(block.pages):
            new = plane.free.pop(0)
            self.births += 1
            new.born = self.births
            setattr(plane, front, new)
            self.mark(plane, "check")
        return block, page

    def attend(self) -> None:
        while self.stack:
            plane = self.stack.pop()
            what = self.pending.pop(plane.number)
            if "resume" in what:
                for block in plane.blocks:
                    if block.wear:
                        block.wear = False
                        self.collect(plane, block)
                        break
                while plane.waiting and len(plane.free) >= self.ssd.gc.reserve and self.room(plane) >= 0:
                    self.place(plane.waiting.pop(0))
            if "check" in what:
                self.check(plane)

    def room(self, plane: Plane) -> int:
        pages = self.ssd.flash.pages_per_block
        assert plane.gc_front is not None
        blocks = len(plane.free) - 1 - self.cached
        return blocks * pages + pages - plane.gc_front.written - 1 - plane.moving

    def may_go(self, plane: Plane, block: Block) -> bool:
        return (
            block.written == len(block.pages)
            and not block.collected
            and block.programming == 0
            and block not in (plane.data_front, plane.gc_front, plane.map_front)
        )

    def check(self, plane: Plane) -> None:
        gc, n = self.ssd.gc, len(plane.blocks)
        threshold = max(int(gc.threshold * n), gc.reserve, 1)
        if len(plane.free) >= threshold or plane.jobs >= gc.reserve:
            return
        able = [block for block in plane.blocks if self.may_go(plane, block)]
        candidates = able
        if gc.policy == "d-choices":
            want = gc.choices or int(log2(n))
            candidates = []
            for _ in range(want * 8):
                block = plane.blocks[self.draw(n)]
                if self.may_go(plane, block):
                    candidates.append(block)
                    if len(candidates) == want:
                        break
        most = min(self.room(plane), len(plane.blocks[0].pages) - 1)

        def helps(block: Block) -> bool:
            return len(block.pages) - block.invalid <= most

        if gc.policy == "fifo":
            victim = min(candidates, key=lambda block: block.born, default=None)
        else:
            victim = max(candidates, key=lambda block: block.invalid, default=None)
        if victim is None or not helps(victim):
            victim = max(able, key=lambda block: block.invalid, default=None)
            if victim is None or not helps(victim):
                return
        self.counts["gc_runs"] += 1
        self.collect(plane, victim)

    def collect(self, plane: Plane, block: Block) -> None:
        ssd = self.ssd
        block.collected, block.quiet = True, False
        plane.jobs += 1
        erase = self.make("erase", "erase", 0, 0, 0, 0)
        self.at(erase, block, 0, 5)
        self.hold(erase)
        block.erase = erase
        block.moves = 1
        for page, held in enumerate(list(block.pages)):
            if held is None:
                continue
            self.counts["gc_moves"] += 1
            block.moves += 1
            if ssd.gc.copyback:
                tx = self.make("copyback", "gc write", 0, 0, 0, 0)
                self.at(tx, block, page, 4)
                tx.owner["aux"] = block
                target = self.rehome(plane, block, page, held)
                tx.target_page = target[1]
                tx.owner["at"] = target
                target[0].programming += 1
            else:
                tx = self.make("read", "gc read", 0, ssd.flash.page_bytes, 0, 0)
                self.at(tx, block, page, 2)
                tx.rank = 2
                tx.owner["aux"], tx.owner["held"] = block, held
                plane.moving += 1
            self.flash.submit(tx, self.now)
        if ssd.compat.one_die_a_chip:
            self.flash.submit(erase, self.now)
        self.moved(block)

    def rehome(self, plane: Plane, block: Block, page: int, held: Any) -> tuple[Block, int]:
        target = self.next_page(plane, "gc_front", held)
        self.invalidate(block, page)
        if held[0] == "data":
            self.where[held[1]] = target
        else:
            self.map_where[held[1]] = target
        return target

    def moved(self, block: Block) -> None:
        block.moves -= 1
        if block.moves == 0:
            self.erase_if_quiet(block)

    def erase_if_quiet(self, block: Block) -> None:
        if block.collected and not block.quiet and block.moves == 0 and block.reading == 0:
            block.quiet = True
            assert block.erase is not None
            self.release(block.erase)
            if not self.ssd.compat.one_die_a_chip:
                self.flash.submit(block.erase, self.now)

    def erased(self, block: Block) -> None:
        plane, gc = self.planes[block.plane], self.ssd.gc
        block.pages = [None] * len(block.pages)
        self.births += 1
        block.born, block.written, block.invalid = self.births, 0, 0
        block.erased += 1
        block.collected = False
        plane.jobs -= 1
        at = len(plane.free)
        if gc.youngest_first:
            at = next((k for k, other in enumerate(plane.free) if other.erased > block.erased), at)
        plane.free.insert(at, block)
        if gc.wear_gap:
            coldest = min(plane.blocks, key=lambda b: b.erased)
            most = max(plane.blocks, key=lambda b: b.erased)
            ahead = most.erased - coldest.erased >= gc.wear_gap
            room = len(coldest.pages) <= self.room(plane)
            if ahead and room and plane.jobs < gc.reserve and self.may_go(plane, coldest):
                self.counts["wear_runs"] += 1
                coldest.wear = coldest.collected = True
        self.mark(plane, "resume")
        if len(plane.free) < gc.reserve:
            self.mark(plane, "check")

    # ends

    def take_finished(self) -> None:
        for tx in self.flash.finished:
            self.finished(tx)
        self.flash.finished.clear()

    def finished(self, tx: Tx) -> None:
        own, source = tx.owner, tx.owner["source"]
        block = own["at"][0] if own["at"] is not None else None
        if tx.kind == "read" and source != "gc read" and block is not None:
            block.reading -= 1
            self.erase_if_quiet(block)
        if tx.kind in ("program", "copyback"):
            assert block is not None
            block.programming -= 1
            plane = self.planes[block.plane]
            if block.programming == 0 and plane.waiting and plane.jobs == 0:
                self.mark(plane, "check")
        if source == "host":
            self.item_done(own["request"])
        elif source == "update":
            self.release(own["aux"])
        elif source == "cache":
            self.pressure -= own["mask"].bit_count()
            lpa = own["lpa"]
            if lpa in self.cache and self.cache[lpa][2] <= own["version"]:
                del self.cache[lpa]
            for r in list(self.stalled):
                if self.cache_write(r):
                    self.stalled.remove(r)
                    self.item_done(r)
                if self.pressure >= self.most_pressure:
                    break
        elif source == "map read":
            page = own["lpa"]
            self.map_reading.discard(page)
            if own["aux"] is not None:
                self.release(own["aux"])
            for waiting in self.map_waiting.pop(page, []):
                lpa = waiting.owner["lpa"]
                if self.cmt.get(lpa) == "waiting":
                    self.cmt[lpa] = "clean"
                self.place(waiting)
        elif source == "map write":
            self.map_departing.discard(own["lpa"])
        elif source == "gc read":
            victim, page = own["at"]
            self.planes[victim.plane].moving -= 1
            if victim.pages[page] == own["held"]:
                write = self.make("program", "gc write", self.ssd.flash.page_bytes, 0, 0, 0)
                target = self.rehome(self.planes[victim.plane], victim, page, own["held"])
                self.at(write, *target, 4)
                write.owner["aux"] = victim
                target[0].programming += 1
                self.flash.submit(write, self.now)
            else:
                self.counts["gc_moves_overtaken"] += 1
                self.moved(victim)
        elif source == "gc write":
            self.moved(own["aux"])
        else:
            self.erased(own["at"][0])
