"""Experts that do not fit on the device: when each is fetched, kept and computed.

Every policy turns the same passes of `Block` into a `Program`; what it takes, the system's engine says.

================  ====================================================================================
`resident`        all experts on the device: what an unlimited memory would do
`on_demand`       the active experts are fetched when the gate has chosen them, then computed
`prefetch_all`    all experts of the next block are fetched during this one
`pre_gated`       the gate chooses the next block's experts, which are fetched during this one
`cached`          as on demand, but experts stay until others need their place
`fiddler.place`   an expert that is not on the device is fetched, or computed by the CPU
`hybrimoe.place`  so too, by a simulated schedule, with a cache and prefetches that shorten it most
================  ====================================================================================

Device memory is counted in slots of one expert. A fetch into a slot waits until the expert that was in
it has been computed for the last time, so no program needs more than its slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from neardata.arch.errors import InputError
from neardata.mappers.expert_cache import Eviction, Key, LeastRecentlyUsed
from neardata.mappers.moe_block import Block, Expert, Machine, Passes
from neardata.sim.program import Kernel, Operand, Program, Task, Transfer

Wait = Literal["all", "each"]
"""An expert's computation waits for all fetches of its block (one grouped kernel), or for its own."""


@dataclass(frozen=True)
class Offload:
    """A placed model."""

    policy: str
    program: Program
    device_bytes: int
    """The most that lies on the device: what is not experts, and all slots."""
    slot_of: Mapping[str, int]
    """Slot that each fetch fills, by the fetch's name."""
    resident: Mapping[Key, int]
    """Slots filled at the start."""
    hits: int
    """Computations of experts on the device that found the expert there."""
    fetches: int
    cpu_experts: int
    """Computations of experts on the CPU."""
    block_ends: tuple[tuple[str, ...], ...]
    """The tasks that end each block, in order."""


class Placer:
    """Writes the tasks of a policy, block by block, and keeps account of the slots."""

    def __init__(
        self, policy: str, expert: Expert, machine: Machine, passes: Passes, other_bytes: int
    ) -> None:
        self.policy, self.expert, self.machine, self.other_bytes = policy, expert, machine, other_bytes
        self.passes = passes
        self.tasks: list[Task] = []
        self.tail: tuple[str, ...] = ()
        """The tasks that what the device does next must wait for."""
        self.slots = 0
        self.slot: dict[Key, int] = {}
        """Of the experts on the device."""
        self.arrival: dict[Key, str] = {}
        """Of experts on the device: the fetch that brings them, if one did."""
        self._users: dict[int, list[str]] = {}  # of a slot: the tasks that must end before its next fill
        self._slot_of: dict[str, int] = {}
        self._resident: dict[Key, int] = {}
        self._shared: str | None = None  # of this block: the last task beside the experts
        self._hits = self._fetches = self._cpu = 0
        self._block_ends: list[tuple[str, ...]] = []
        self.keys = sorted({(b.layer, e) for blocks in passes for b in blocks for e in range(len(b.tokens))})
        """All experts of the model."""

    # --- memory of the device ---------------------------------------------------------------------

    def place(self, keys: Iterable[Key]) -> None:
        """Experts that are on the device at the start, each in a slot of its own."""
        for key in keys:
            self.slot[key] = self._resident[key] = self.slots
            self.slots += 1

    def reserve(self, count: int) -> range:
        """New slots for a use of their own."""
        self.slots += count
        return range(self.slots - count, self.slots)

    def free_slot(self) -> int:
        """A slot that holds no expert; a new one where there is none."""
        held = set(self.slot.values())
        free = next((slot for slot in range(self.slots) if slot not in held), self.slots)
        self.slots = max(self.slots, free + 1)
        return free

    def leave(self, key: Key) -> int:
        """Give up an expert on the device; its slot."""
        self.arrival.pop(key, None)
        return self.slot.pop(key)

    # --- tasks ------------------------------------------------------------------------------------

    def at(self, number: int, block: Block) -> str:
        """The start of the names of a block's tasks in a pass: ``p`` pass ``.l`` layer."""
        return f"p{number}.l{block.layer}"

    def blocks(self) -> Iterator[tuple[str, Block]]:
        """Each block of each pass with the start of its tasks' names."""
        for number, of_pass in enumerate(self.passes):
            for block in of_pass:
                yield self.at(number, block), block

    def add(
        self,
        name: str,
        unit: str,
        kernel: Kernel,
        after: Iterable[str],
        operator: str,
        reads: tuple[Operand, ...] = (),
        writes: tuple[Operand, ...] = (),
    ) -> str:
        """A task; its name."""
        waits = tuple(dict.fromkeys(after))
        self.tasks.append(Task(name, unit, kernel, waits, (operator,), reads, writes))
        return name

    def chain(
        self,
        name: str,
        unit: str,
        kernels: Sequence[Kernel],
        after: Iterable[str],
        operator: str,
        reads: tuple[Operand, ...] = (),
    ) -> str | None:
        """Kernels one after the other; the last task's name, None without kernels."""
        last: str | None = None
        for i, kernel in enumerate(kernels):
            one = name if len(kernels) == 1 else f"{name}.{i}"
            last = self.add(one, unit, kernel, (last,) if last else after, operator, reads)
        return last

    def weights(self, key: Key, place: str) -> tuple[Operand, ...]:
        """An expert's weights in a place."""
        return (Operand(f"{_name(key)}.weights", place, self.expert.bytes),)

    def rows(self, at: str, key: Key, way: Literal["in", "out"], place: str) -> tuple[Operand, ...]:
        """What goes into an expert or comes out of it, in a place."""
        return ()

    def before(self, at: str, block: Block) -> None:
        """What the device does ahead of the experts."""
        last = self.chain(f"{at}.before", self.machine.device, block.before, self.tail, f"l{block.layer}")
        self.tail = (last,) if last else self.tail
        self._shared = self.chain(
            f"{at}.shared", self.machine.device, block.shared, self.tail, f"l{block.layer}"
        )

    def fetch(self, at: str, key: Key, slot: int, after: Iterable[str]) -> str:
        """An expert into a slot; the name of the transfer that ends in it."""
        m, size, name = self.machine, self.expert.bytes, f"{at}.fetch.{_name(key)}"
        waits = tuple(after)
        in_host, on_device = self.weights(key, m.host), self.weights(key, m.device)
        if m.storage:
            read, stored = Transfer(m.storage, m.host, size), self.weights(key, m.storage)
            waits = (self.add(f"{name}.read", m.storage_link, read, waits, _name(key), stored, in_host),)
        waits = (*waits, *self._users.get(slot, ()))
        self.add(name, m.link, Transfer(m.host, m.device, size), waits, _name(key), in_host, on_device)
        self.slot[key], self.arrival[key] = slot, name
        self._slot_of[name], self._users[slot] = slot, [name]
        self._fetches += 1
        return name

    def work(self, at: str, key: Key, tokens: int, after: Iterable[str], *, on_cpu: bool) -> str:
        """The kernels of an expert where its weights are; the last task's name."""
        m = self.machine
        kernels = self.expert.cpu_kernels(tokens) if on_cpu else self.expert.kernels(tokens)
        weights = self.weights(key, m.host if on_cpu else m.device)
        unit = m.cpu if on_cpu else m.device
        last = self.chain(f"{at}.e{key[1]}", unit, kernels, after, _name(key), weights)
        assert last, "an expert has at least one kernel"
        return last

    def arrivals(self, keys: Iterable[Key]) -> tuple[str, ...]:
        """The fetches that brought experts on the device, of those that were brought."""
        return tuple(self.arrival[key] for key in keys if key in self.arrival)

    def occupy(self, key: Key, task: str) -> None:
        """The slot of an expert is not filled again before a task has ended."""
        self._users.setdefault(self.slot[key], []).append(task)

    def compute(self, at: str, key: Key, tokens: int, after: Iterable[str]) -> str:
        """An expert on the device, after its arrival; the last task's name."""
        last = self.work(at, key, tokens, (*after, *self.arrivals([key])), on_cpu=False)
        self.occupy(key, last)
        return last

    def compute_on_cpu(self, at: str, key: Key, tokens: int, after: Iterable[str]) -> str:
        """An expert on the CPU, its activations sent there and back; the last task's name."""
        m, moved, name = self.machine, tokens * self.expert.activation_bytes, f"{at}.e{key[1]}"
        waits = tuple(after)
        if moved:
            rows = [self.rows(at, key, "in", place) for place in (m.device, m.host)]
            there = Transfer(m.device, m.host, moved)
            waits = (self.add(f"{name}.to_cpu", m.back, there, waits, _name(key), *rows),)
        last = self.work(at, key, tokens, waits, on_cpu=True)
        self._cpu += 1
        if moved:
            rows = [self.rows(at, key, "out", place) for place in (m.host, m.device)]
            back = Transfer(m.host, m.device, moved)
            last = self.add(f"{name}.from_cpu", m.link, back, (last,), _name(key), *rows)
        return last

    def on_device(self, at: str, block: Block, wait: Wait, fetched: Sequence[str] = ()) -> list[str]:
        """All active experts on the device.

        Args:
            fetched: the transfers made for this block.
        """
        waits = (*self.tail, *fetched) if wait == "all" else self.tail
        keys = keys_of(block)
        self._hits += sum(self.arrival.get(key) not in fetched for key in keys)
        if wait == "all":
            return self.compute_together(at, block, waits)
        return [self.compute(at, key, block.tokens[key[1]], waits) for key in keys]

    def compute_together(self, at: str, block: Block, after: Iterable[str]) -> list[str]:
        """The active experts of a block, all on the device, when all are there."""
        return [self.compute(at, key, block.tokens[key[1]], after) for key in keys_of(block)]

    def end(self, at: str, block: Block, experts: Sequence[str]) -> None:
        """What follows the experts; the next block waits for it."""
        waits = (*experts, self._shared) if self._shared else tuple(experts) or self.tail
        last = self.chain(f"{at}.after", self.machine.device, block.after, waits, f"l{block.layer}")
        self.tail = (last,) if last else waits
        self._block_ends.append(self.tail)

    def hit(self) -> None:
        """Count a computation that found its expert on the device."""
        self._hits += 1

    def done(self) -> Offload:
        """The program and its memory."""
        m = self.machine
        home = m.storage or m.host
        placement = [operand for key in self._resident for operand in self.weights(key, m.device)]
        kept = {"slots": (self.slots - len(self._resident)) * self.expert.bytes, "others": self.other_bytes}
        placement += [Operand(what, m.device, size) for what, size in kept.items() if size]
        if self.policy != "resident":
            placement += [operand for key in self.keys for operand in self.weights(key, home)]
        return Offload(
            policy=self.policy,
            program=Program(self.policy, m.system, tuple(self.tasks), tuple(placement)),
            device_bytes=self.other_bytes + self.slots * self.expert.bytes,
            slot_of=self._slot_of,
            resident=self._resident,
            hits=self._hits,
            fetches=self._fetches,
            cpu_experts=self._cpu,
            block_ends=tuple(self._block_ends),
        )


def _name(key: Key) -> str:
    return f"l{key[0]}.e{key[1]}"


def keys_of(block: Block) -> list[Key]:
    """The active experts of a block."""
    return [(block.layer, expert) for expert in block.active]


Writer = Callable[[str, Expert, Machine, Passes, int], Placer]
"""Makes the placer of a policy: its name, expert, machine, passes, bytes on the device beside experts."""


# --- policies ---------------------------------------------------------------------------------------


def resident(
    passes: Passes, expert: Expert, machine: Machine, *, other_bytes: int = 0, writer: Writer = Placer
) -> Offload:
    """All experts on the device from the start.

    Args:
        other_bytes: on the device beside the experts.
        writer: writes the tasks.

    >>> expert = Expert.of_times(bytes=10, device_ps=lambda tokens: 5)
    >>> passes = [[Block(0, (1, 0)), Block(1, (0, 1))]]
    >>> resident(passes, expert, Machine("a100")).device_bytes
    40
    """
    placer = writer("resident", expert, machine, passes, other_bytes)
    placer.place(placer.keys)
    for at, block in placer.blocks():
        placer.before(at, block)
        placer.end(at, block, placer.on_device(at, block, "all"))
    return placer.done()


def on_demand(
    passes: Passes,
    expert: Expert,
    machine: Machine,
    *,
    other_bytes: int = 0,
    wait: Wait = "all",
    writer: Writer = Placer,
) -> Offload:
    """The active experts, fetched one after the other when the gate has chosen them.

    >>> expert = Expert.of_times(bytes=10, device_ps=lambda tokens: 5)
    >>> placed = on_demand([[Block(0, (1, 0)), Block(1, (0, 1))]], expert, Machine("a100"))
    >>> [task.name for task in placed.program.tasks], placed.device_bytes
    (['p0.l0.fetch.l0.e0', 'p0.l0.e0', 'p0.l1.fetch.l1.e1', 'p0.l1.e1'], 10)
    """
    placer = writer("on-demand", expert, machine, passes, other_bytes)
    for at, block in placer.blocks():
        placer.before(at, block)
        fetched = [placer.fetch(at, key, placer.free_slot(), placer.tail) for key in keys_of(block)]
        placer.end(at, block, placer.on_device(at, block, wait, fetched))
        for key in keys_of(block):
            placer.leave(key)
    return placer.done()


def prefetch_all(
    passes: Passes,
    expert: Expert,
    machine: Machine,
    *,
    other_bytes: int = 0,
    wait: Wait = "all",
    writer: Writer = Placer,
) -> Offload:
    """All experts of the next block while this one runs; those of a pass's first block at its start."""
    placer = writer("prefetch-all", expert, machine, passes, other_bytes)

    def fetch(at: str, block: Block) -> list[str]:
        keys = [(block.layer, number) for number in range(len(block.tokens))]
        return [placer.fetch(at, key, placer.free_slot(), placer.tail) for key in keys]

    for i, blocks in enumerate(passes):
        coming: list[str] = []
        for n, block in enumerate(blocks):
            at = placer.at(i, block)
            fetched = coming if n else fetch(at, block)
            if n + 1 < len(blocks):
                coming = fetch(at, blocks[n + 1])
            placer.before(at, block)
            placer.end(at, block, placer.on_device(at, block, wait, fetched))
            for number in range(len(block.tokens)):
                placer.leave((block.layer, number))
    return placer.done()


def pre_gated(
    passes: Passes,
    expert: Expert,
    machine: Machine,
    *,
    other_bytes: int = 0,
    wait: Wait = "all",
    writer: Writer = Placer,
) -> Offload:
    """The next block's active experts while this one runs: Pre-gated MoE (arXiv 2308.12066).

    The first block of a pass has two gates, its own and the next block's: its experts come on demand.
    """
    placer = writer("pre-gated", expert, machine, passes, other_bytes)
    for i, blocks in enumerate(passes):
        coming: list[str] = []
        for n, block in enumerate(blocks):
            at = placer.at(i, block)
            placer.before(at, block)
            fetched = coming
            if not n:
                fetched = [placer.fetch(at, key, placer.free_slot(), placer.tail) for key in keys_of(block)]
            if n + 1 < len(blocks):
                keys = keys_of(blocks[n + 1])
                coming = [placer.fetch(at, key, placer.free_slot(), placer.tail) for key in keys]
            placer.end(at, block, placer.on_device(at, block, wait, fetched))
            for key in keys_of(block):
                placer.leave(key)
    return placer.done()


def cached(
    passes: Passes,
    expert: Expert,
    machine: Machine,
    *,
    capacity: int,
    eviction: Eviction | None = None,
    start: Sequence[Key] = (),
    other_bytes: int = 0,
    wait: Wait = "all",
    writer: Writer = Placer,
) -> Offload:
    """Experts stay on the device until others need their place; what is missing comes on demand.

    Args:
        capacity: experts on the device, of all layers together.
        eviction: who leaves (default: the least recently used); its state goes on from what it is.
        start: experts on the device at the start.

    Raises:
        InputError: a block needs more experts at once, or more are there at the start, than there is room.
    """
    check_capacity(passes, capacity, start)
    rule = eviction or LeastRecentlyUsed()
    placer = writer("cached", expert, machine, passes, other_bytes)
    placer.place(start)
    for at, block in placer.blocks():
        placer.before(at, block)
        rule.observe(block.layer, block.active, block.routing_scores)
        keys = keys_of(block)
        fetched = []
        for key in keys:
            if key not in placer.slot:
                slot = make_room(placer, rule, capacity, keys)
                assert slot is not None, "checked"
                fetched.append(placer.fetch(at, key, slot, placer.tail))
        placer.end(at, block, placer.on_device(at, block, wait, fetched))
    return placer.done()


def check_capacity(passes: Passes, capacity: int, start: Sequence[Key]) -> None:
    """Raises:
    InputError: a block needs more experts at once, or more are there at the start, than there is room.
    """
    if len(start) > capacity:
        raise InputError(f"{len(start)} experts at the start, but room for {capacity}", key="start")
    active = [(len(b.active), i, b.layer) for i, blocks in enumerate(passes) for b in blocks]
    most, number, layer = max(active, key=lambda item: item[0], default=(0, 0, 0))
    if most > capacity:
        raise InputError(
            f"block p{number}.l{layer} has {most} active experts, but there is room for {capacity}: "
            f"{most} or more would fit",
            key="capacity",
        )


def make_room(placer: Placer, rule: Eviction, capacity: int, keep: Iterable[Key]) -> int | None:
    """A slot for one more expert: a free one, or that of the expert of lowest rank not in ``keep``.

    Returns:
        None if there is none.
    """
    if len(placer.slot) < capacity:
        return placer.free_slot()
    kept = set(keep)
    victim = min((key for key in placer.slot if key not in kept), key=rule.rank, default=None)
    return None if victim is None else placer.leave(victim)
