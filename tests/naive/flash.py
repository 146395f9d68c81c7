"""The flash back-end as plain objects: times are fractions of a ns, every next event is looked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from neardata.arch.storage import Ssd

READS, WRITES, ALL = (0, 1, 2), (3, 4), (0, 1, 2, 3, 4, 5)
CLASS = {"read": 1, "read-compute": 1, "program": 3, "copyback": 3, "erase": 5}


@dataclass(eq=False)
class Tx:
    number: int
    kind: str
    unit: int
    die: int
    plane: int
    page: int
    queue: int
    bytes_in: int = 0
    bytes_out: int = 0
    compute: Fraction = Fraction(0)
    rank: int = 1
    slice: int = 0
    arrive: Fraction = Fraction(0)
    waits: set[Any] = field(default_factory=set)
    left: int = 0
    submitted: Fraction | None = None
    issued: Fraction | None = None
    started: Fraction | None = None
    done: Fraction | None = None
    target_page: int | None = None
    owner: Any = None
    ready: bool = True
    """Not held back in its queue by other work."""


@dataclass(eq=False)
class Unit:
    number: int
    queues: list[list[Tx]] = field(default_factory=lambda: [[] for _ in range(6)])
    state: str = "idle"
    """idle, commanded, working, holding, copy wait, moving"""
    group: list[Tx] = field(default_factory=list)
    end: Fraction | None = None
    begin: Fraction = Fraction(0)
    phase: int = 0
    register: str = "empty"
    """empty, computing, leaving"""
    in_register: list[Tx] = field(default_factory=list)
    leaving: int = 0
    compute_end: Fraction | None = None
    suspended: list[Tx] | None = None
    suspended_left: Fraction = Fraction(0)
    gave_way: bool = False


@dataclass(eq=False)
class Channel:
    number: int
    carries: str = "nothing"
    item: Any = None
    end: Fraction | None = None
    turn: int = 0
    waiting: list[list[Tx]] = field(default_factory=lambda: [[] for _ in range(4)])
    copies: list[Unit] = field(default_factory=list)
    busy: Fraction = Fraction(0)


class NaiveFlash:
    """The back-end of a drive; what ends is handed to ``finished``."""

    def __init__(self, ssd: Ssd, draws: int = 1 << 32) -> None:
        flash = ssd.flash
        self.ssd, self.chip_whole = ssd, ssd.compat.one_die_a_chip
        self.per_channel = flash.chips_per_channel
        if not self.chip_whole:
            self.per_channel *= flash.dies_per_chip
        self.planes = flash.planes_per_die
        if flash.independent_planes and not self.chip_whole:
            self.per_channel *= flash.planes_per_die
            self.planes = 1
        self.units = [Unit(i) for i in range(self.per_channel * flash.channels)]
        self.channels = [Channel(i) for i in range(flash.channels)]
        self.decoding: list[tuple[Fraction, Tx]] = []
        self.finished: list[Tx] = []
        self.dirty: set[int] = set()
        self.draws = draws
        self.cache_read = flash.cache_read and not self.chip_whole
        self.suspensions = self.retried = 0
        self.log: list[tuple[Fraction, int, str, tuple[int, ...]]] = []
        """Every array command: when its command went on the bus, unit, kind, pages."""

    # times

    @staticmethod
    def ps(ns: float) -> Fraction:
        return Fraction(round(ns * 1000), 1000)

    def transfer(self, size: int) -> Fraction:
        bus = self.ssd.bus
        width = bus.width_bits // 8
        if self.ssd.compat.truncated_rate:
            return Fraction(size // width // 2 * 2 * (1000 // bus.mt_per_s))
        if bus.spare_on_bus:
            size += size * self.ssd.flash.spare_bytes // self.ssd.flash.page_bytes
        return Fraction(-(-size // width) * 1000, bus.mt_per_s)

    def read_time(self, page: int) -> Fraction:
        times = self.ssd.flash.read_ns
        return self.ps(times[min(self.ssd.flash.page_type(page), len(times) - 1)])

    def program_time(self, page: int) -> Fraction:
        times = self.ssd.flash.program_ns
        return self.ps(times[min(self.ssd.flash.page_type(page), len(times) - 1)])

    def drawn_read_time(self, page: int) -> Fraction:
        once = total = self.read_time(page)
        ecc = self.ssd.ecc
        if ecc is None or not ecc.fails:
            return total
        for attempt in range(ecc.retries):
            self.draws += 1
            z = self.draws * 0x9E3779B97F4A7C15 & (2**64 - 1)
            z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
            z = (z ^ z >> 27) * 0x94D049BB133111EB & (2**64 - 1)
            if (z ^ z >> 31) >> 1 >= int(
                ecc.retry_probability(self.ssd.flash.page_bytes, attempt) * (2**63 - 1)
            ):
                break
            self.retried += 1
            total += once
        return total

    # what the owner calls

    def submit(self, tx: Tx, now: Fraction) -> None:
        tx.submitted = now
        self.units[tx.unit].queues[tx.queue].append(tx)
        self.dirty.add(tx.unit // self.per_channel)

    def next_time(self) -> Fraction | None:
        times = (
            [c.end for c in self.channels] + [u.end for u in self.units] + [u.compute_end for u in self.units]
        )
        times += [time for time, _ in self.decoding]
        return min((t for t in times if t is not None), default=None)

    def advance(self, now: Fraction, after: Callable[[], None] = lambda: None) -> None:
        """Everything that ends now, buses first; ``after`` each of it."""
        while self.one_end(now):
            after()

    def one_end(self, now: Fraction) -> bool:
        for channel in self.channels:
            if channel.end == now:
                self.bus_ends(channel, now)
                return True
        for unit in self.units:
            if unit.end == now:
                self.array_ends(unit, now)
                return True
        for unit in self.units:
            if unit.compute_end == now:
                unit.compute_end = None
                self.leave(unit, now)
                if unit.register == "empty":
                    self.register_freed(unit, now)
                return True
        due = sorted((tx.number, tx) for time, tx in self.decoding if time == now)
        if due:
            self.decoding = [(t, tx) for t, tx in self.decoding if tx is not due[0][1]]
            self.finish(due[0][1], now)
        return bool(due)

    def arbitrate(self, now: Fraction) -> None:
        for number in sorted(self.dirty):
            channel = self.channels[number]
            if channel.carries == "nothing":
                self.give_bus(channel, now)
        self.dirty.clear()

    # the bus

    def give_bus(self, channel: Channel, now: Fraction) -> None:
        if channel.copies:
            unit = channel.copies.pop(0)
            unit.state, unit.phase, unit.begin = "commanded", 1, now
            self.carry(
                channel, "command", unit, now, self.ps(self.ssd.bus.program_command_ns(len(unit.group)))
            )
            return
        first = "data" if self.chip_whole else self.ssd.controller.first_on_bus
        order = ["data", ALL] if first == "data" else [READS, "data", (3, 4, 5)]
        for what in order:
            if what == "data":
                if self.send(channel, now):
                    return
                continue
            for k in range(self.per_channel):
                local = (channel.turn + k) % self.per_channel
                unit = self.units[channel.number * self.per_channel + local]
                if self.issue(unit, channel, what, now):  # type: ignore[arg-type]
                    channel.turn = (local + 1) % self.per_channel
                    return

    def carry(self, channel: Channel, what: str, item: Any, now: Fraction, time: Fraction) -> None:
        channel.carries, channel.item, channel.end = what, item, now + time
        channel.busy += time

    def send(self, channel: Channel, now: Fraction) -> bool:
        for queue in channel.waiting:
            if queue:
                tx = queue.pop(0)
                size = min(tx.left, tx.slice) if tx.slice else tx.left
                tx.left -= size
                self.carry(channel, "data", tx, now, self.ps(self.ssd.bus.data_out_ns) + self.transfer(size))
                return True
        return False

    def issue(self, unit: Unit, channel: Channel, allowed: tuple[int, ...], now: Fraction) -> bool:
        q = unit.queues
        urgent = self.ssd.gc.first
        free = unit.state == "idle" and unit.register == "empty"
        readable = unit.state == "idle" and (self.cache_read or unit.register == "empty")
        suspend = False
        chosen: list[Tx] = []
        tried = False
        if 0 in allowed:
            sources: tuple[int, ...] = ()
            if q[0]:
                sources = (0, 2) if urgent and q[2] else (0, 1)
            elif urgent:
                if q[2]:
                    sources = (2, 1)
                elif q[1] and not q[4] and not q[5]:
                    sources = (1,)
            elif q[1]:
                sources = (1, 2)
            elif q[2] and not q[3]:
                sources = (2,)
            if sources:
                if not readable:
                    suspend = self.may_suspend(unit, now)
                if readable or suspend:
                    chosen = self.take(unit, sources)
                    tried = self.chip_whole
        if not chosen and 3 in allowed and free and not tried and unit.suspended is None:
            sources = ()
            if urgent:
                if q[4]:
                    sources = (4, 3)
                elif q[3] and not q[5]:
                    sources = (3,)
            elif q[3]:
                sources = (3, 4)
            elif q[4]:
                sources = (4,)
            if sources:
                chosen = self.take(unit, sources)
                tried = self.chip_whole
            if not chosen and q[5] and not tried:
                chosen = self.take(unit, (5,))
        if not chosen:
            return False
        bus, kind, n = self.ssd.bus, chosen[0].kind, len(chosen)
        unit.begin = now
        if suspend:
            flash = self.ssd.flash
            program = unit.group[0].kind == "program"
            assert unit.end is not None
            unit.suspended, unit.suspended_left = unit.group, unit.end - now
            unit.begin = now + self.ps(flash.suspend_program_ns if program else flash.suspend_erase_ns)
            self.suspensions += 1
        command = {"erase": bus.erase_command_ns, "program": bus.program_command_ns}.get(
            kind, bus.read_command_ns
        )
        time = self.ps(command(n)) + sum(self.transfer(tx.bytes_in) for tx in chosen)
        for tx in chosen:
            tx.issued = now
        unit.state, unit.group, unit.end, unit.phase, unit.gave_way = "commanded", chosen, None, 0, False
        self.log.append((now, unit.number, kind, tuple(tx.page for tx in chosen)))
        self.carry(channel, "command", unit, now, time)
        return True

    def may_suspend(self, unit: Unit, now: Fraction) -> bool:
        flash = self.ssd.flash
        if (
            unit.state != "working"
            or unit.suspended is not None
            or unit.gave_way
            or self.ssd.compat.no_suspend
        ):
            return False
        assert unit.end is not None
        left = unit.end - now
        kind = unit.group[0].kind
        if kind == "program":
            return flash.suspend in ("program", "both") and left >= self.ps(flash.suspend_program_left_ns)
        return (
            kind == "erase"
            and flash.suspend in ("erase", "both")
            and left >= self.ps(flash.suspend_erase_left_ns)
        )

    def take(self, unit: Unit, sources: tuple[int, ...]) -> list[Tx]:
        limit = self.planes if self.ssd.flash.multi_plane else 1
        die = unit.queues[sources[0]][0].die
        chosen: list[Tx] = []
        for source in sources:
            for tx in list(unit.queues[source]):
                if len(chosen) >= limit or not tx.ready or tx.die != die:
                    continue
                if any(tx.plane == other.plane for other in chosen):
                    continue
                if chosen and tx.kind != chosen[0].kind:
                    continue
                if chosen and self.ssd.flash.same_page and tx.page != chosen[0].page:
                    continue
                chosen.append(tx)
                unit.queues[source].remove(tx)
        return chosen

    # ends

    def bus_ends(self, channel: Channel, now: Fraction) -> None:
        what, item = channel.carries, channel.item
        channel.carries, channel.item, channel.end = "nothing", None, None
        self.dirty.add(channel.number)
        if what == "command":
            unit: Unit = item
            kind = unit.group[0].kind
            if kind == "erase":
                time = self.ps(self.ssd.flash.erase_ns)
            elif kind == "program":
                time = max(self.program_time(tx.page) for tx in unit.group)
            elif unit.phase == 1:
                time = max(
                    self.program_time(tx.page if tx.target_page is None else tx.target_page)
                    for tx in unit.group
                )
            else:
                time = max([self.drawn_read_time(tx.page) for tx in unit.group])
            begin = max(now, unit.begin)
            for tx in unit.group:
                tx.started = begin
            unit.state, unit.end = "working", begin + time
            return
        tx = item
        if tx.left:
            channel.waiting[tx.rank].insert(0, tx)
            return
        unit = self.units[tx.unit]
        unit.leaving -= 1
        if unit.leaving == 0:
            unit.register = "empty"
            self.register_freed(unit, now)
        if self.ssd.ecc is not None and self.ps(self.ssd.ecc.decode_ns) > 0:
            self.decoding.append((now + self.ps(self.ssd.ecc.decode_ns), tx))
        else:
            self.finish(tx, now)

    def register_freed(self, unit: Unit, now: Fraction) -> None:
        if unit.state == "holding":
            self.move(unit, now)
        self.resume(unit, now)

    def move(self, unit: Unit, now: Fraction) -> None:
        time = self.ps(self.ssd.flash.cache_read_ns) if self.cache_read else 0
        if time:
            unit.state, unit.end = "moving", now + time
        else:
            self.to_register(unit, now)

    def to_register(self, unit: Unit, now: Fraction) -> None:
        unit.state, unit.in_register, unit.end = "idle", unit.group, None
        compute = sum(tx.compute for tx in unit.group)
        if compute:
            unit.register, unit.compute_end = "computing", now + compute
        else:
            self.leave(unit, now)

    def leave(self, unit: Unit, now: Fraction) -> None:
        channel = self.channels[unit.number // self.per_channel]
        unit.leaving = 0
        for tx in unit.in_register:
            if tx.bytes_out == 0:
                self.finish(tx, now)
            else:
                unit.leaving += 1
                tx.left = tx.bytes_out
                channel.waiting[tx.rank].append(tx)
        unit.register = "leaving" if unit.leaving else "empty"
        self.dirty.add(channel.number)

    def resume(self, unit: Unit, now: Fraction) -> None:
        if unit.suspended is not None and unit.state == "idle" and unit.register == "empty":
            unit.group, unit.suspended = unit.suspended, None
            unit.state, unit.gave_way, unit.end = "working", True, now + unit.suspended_left

    def array_ends(self, unit: Unit, now: Fraction) -> None:
        unit.end = None
        channel = self.channels[unit.number // self.per_channel]
        self.dirty.add(channel.number)
        kind = unit.group[0].kind
        if unit.state == "moving":
            self.to_register(unit, now)
            self.resume(unit, now)
        elif kind == "copyback" and unit.phase == 0:
            unit.state = "copy wait"
            channel.copies.append(unit)
        elif kind in ("program", "erase", "copyback"):
            unit.state, unit.gave_way = "idle", False
            for tx in unit.group:
                self.finish(tx, now)
            self.resume(unit, now)
        elif unit.register != "empty":
            unit.state = "holding"
        else:
            self.move(unit, now)
            if unit.state == "idle":
                self.resume(unit, now)

    def finish(self, tx: Tx, now: Fraction) -> None:
        tx.done = now
        self.finished.append(tx)


def run_transactions(ssd: Ssd, transactions: list[Tx]) -> NaiveFlash:
    """Execute transactions by arrival and by what each ``waits`` for."""
    flash = NaiveFlash(ssd)
    pending = sorted(transactions, key=lambda tx: tx.arrive)
    while True:
        times = [t for t in [flash.next_time(), *(tx.arrive for tx in pending[:1])] if t is not None]
        if not times:
            return flash
        now = min(times)
        flash.advance(now)
        while pending and pending[0].arrive == now:
            tx = pending.pop(0)
            if not tx.waits:
                flash.submit(tx, now)
        for ended in flash.finished:
            for tx in transactions:
                if ended.number in tx.waits:
                    tx.waits.remove(ended.number)
                    if not tx.waits and tx.arrive <= now:
                        flash.submit(tx, now)
        flash.finished.clear()
        flash.arbitrate(now)
