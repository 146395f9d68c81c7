"""Experts on device and CPU by a simulated schedule, with a cache: HybriMoE (arXiv 2504.05897).

For each block three timelines are simulated with believed costs: the device computes the experts it has,
those with most tokens first; the CPU computes experts that are away, those with fewest tokens first; the
link brings experts that are away, those with most tokens first. The next action is always that of the
resource that is free earliest. While the link is idle in that schedule, experts of the next blocks are
prefetched, first the one that shortens its block's schedule most. Who leaves the cache is told by the
minus recent score (`expert_cache.MinusRecentScore`).

The released code prefetches one layer ahead by score, unlike the text; here the text's way is used.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from neardata.mappers.expert_cache import Eviction, Key, MinusRecentScore
from neardata.mappers.fiddler import ExpertTimes
from neardata.mappers.moe_block import Block, Expert, Machine, Passes
from neardata.mappers.offload import Offload, Placer, Writer, check_capacity, keys_of, make_room

Side = Literal["device", "cpu", "link"]


@dataclass(frozen=True)
class Action:
    """What one resource does, in the simulated schedule."""

    side: Side
    expert: int
    start: float
    end: float


@dataclass(frozen=True)
class BlockSchedule:
    """The simulated schedule of a block."""

    actions: tuple[Action, ...]
    """In the order of their start."""

    @property
    def makespan(self) -> float:
        """End of the last computation, in the unit of the costs."""
        return max((action.end for action in self.actions if action.side != "link"), default=0.0)

    def on(self, side: Side) -> tuple[int, ...]:
        """Experts of a resource, in its order."""
        return tuple(action.expert for action in self.actions if action.side == side)


def schedule_block(
    tokens: Mapping[int, int],
    on_device: Collection[int],
    costs: ExpertTimes,
    *,
    fetches: int | None = None,
    link_free: float = 0.0,
    fetch_only_if_earlier: bool = False,
) -> BlockSchedule:
    """The three simulated timelines of one block.

    Args:
        tokens: of each active expert.
        on_device: experts that need no fetch.
        fetches: at most so many experts may be brought; None: any number.
        link_free: when the link has ended what it does already.
        fetch_only_if_earlier: bring an expert only if it would be done no later than if the CPU computed
            it next. The paper does not ask this.

    >>> from neardata.mappers.fiddler import ExpertTimes
    >>> costs = ExpertTimes(cpu=lambda tokens: 3.0 * tokens, device=lambda tokens: 1.0, fetch=4.0)
    >>> found = schedule_block({0: 1, 1: 1, 2: 5}, [0], costs)
    >>> found.on("device"), found.on("cpu"), found.on("link"), found.makespan
    ((0, 2), (1,), (2,), 5.0)
    """
    here = [(-tokens[e], e) for e in tokens if e in on_device]  # a heap: most tokens first
    heapq.heapify(here)
    away = deque(sorted((e for e in tokens if e not in on_device), key=lambda e: (tokens[e], e)))
    arriving: deque[tuple[float, int]] = deque()
    device_free = cpu_free = 0.0
    brought = 0
    actions: list[Action] = []
    while here or arriving or away:
        while arriving and arriving[0][0] <= device_free:
            _, expert = arriving.popleft()
            heapq.heappush(here, (-tokens[expert], expert))
        device_at = device_free if here else arriving[0][0] if arriving else math.inf
        cpu_at = cpu_free if away else math.inf
        link_at = link_free if away and (fetches is None or brought < fetches) else math.inf
        if link_at < math.inf and fetch_only_if_earlier:
            most = tokens[away[-1]]
            done = max(link_at + costs.fetch, device_free) + costs.device(most)
            link_at = link_at if done <= cpu_free + costs.cpu(most) else math.inf
        if device_at <= min(cpu_at, link_at):  # of resources free at once: the device, then the CPU
            expert = heapq.heappop(here)[1] if here else arriving.popleft()[1]
            device_free = device_at + costs.device(tokens[expert])
            actions.append(Action("device", expert, device_at, device_free))
        elif cpu_at <= link_at:
            expert = away.popleft()
            cpu_free = cpu_at + costs.cpu(tokens[expert])
            actions.append(Action("cpu", expert, cpu_at, cpu_free))
        else:
            expert = away.pop()
            link_free = link_at + costs.fetch
            actions.append(Action("link", expert, link_at, link_free))
            arriving.append((link_free, expert))
            brought += 1
    return BlockSchedule(tuple(sorted(actions, key=lambda action: action.start)))


Predict = Callable[[Block], Block]
"""What is believed of a block that comes later; as it is: a perfect predictor."""


def place(
    passes: Passes,
    expert: Expert,
    machine: Machine,
    *,
    capacity: int,
    costs: ExpertTimes,
    eviction: Eviction | None = None,
    start: tuple[Key, ...] = (),
    depth: int = 3,
    predict: Predict = lambda block: block,
    schedule: bool = True,
    fetch_only_if_earlier: bool = False,
    other_bytes: int = 0,
    writer: Writer = Placer,
) -> Offload:
    """Device, CPU and link share the experts of each block by `schedule_block`.

    Args:
        capacity: experts on the device, of all layers together.
        costs: what the schedule believes; the program is timed by the system that runs it.
        eviction: who leaves the cache (default: the minus recent score).
        start: experts on the device at the start.
        depth: how many blocks ahead experts are prefetched; 0: no prefetch.
        predict: the routing that prefetches go by.
        schedule: False: experts that are away are all computed by the CPU (the mapping of kTransformers,
            with which the paper compares).

    Raises:
        InputError: a block has more active experts than there is room, or more are there at the start.
    """
    check_capacity(passes, capacity, start)
    placer = writer("hybrid", expert, machine, passes, other_bytes)
    placer.place(start)
    run = _Run(
        placer,
        eviction or MinusRecentScore(),
        capacity,
        costs,
        None if schedule else 0,
        fetch_only_if_earlier,
    )
    for i, blocks in enumerate(passes):
        for n, block in enumerate(blocks):
            at = placer.at(i, block)
            placer.before(at, block)
            run.eviction.observe(block.layer, block.active, block.routing_scores)
            plan = run.found(block, run.backlog)
            last = run.compute(at, block, plan)
            run.prefetch(at, block, plan, [predict(later) for later in blocks[n + 1 : n + 1 + depth]])
            placer.end(at, block, last)
    return placer.done()


@dataclass
class _Run:
    """One placement under way."""

    placer: Placer
    eviction: Eviction
    capacity: int
    costs: ExpertTimes
    fetches: int | None
    fetch_only_if_earlier: bool
    backlog: float = 0.0
    """What prefetches leave the link to do when the next block begins, as believed."""

    def found(self, block: Block, link_free: float, also: Collection[Key] = ()) -> BlockSchedule:
        """The schedule of a block with what is on the device now, and ``also``."""
        here = {key for key in keys_of(block) if key in self.placer.slot or key in also}
        room = self.capacity - len(here)
        return schedule_block(
            {number: block.tokens[number] for number in block.active},
            {number for _, number in here},
            self.costs,
            fetches=room if self.fetches is None else min(room, self.fetches),
            link_free=link_free,
            fetch_only_if_earlier=self.fetch_only_if_earlier,
        )

    def compute(self, at: str, block: Block, plan: BlockSchedule) -> list[str]:
        """The tasks of a schedule, in its order; those that end it."""
        last = []
        for action in plan.actions:
            key, tokens = (block.layer, action.expert), block.tokens[action.expert]
            if action.side == "cpu":
                last.append(self.placer.compute_on_cpu(at, key, tokens, self.placer.tail))
            elif action.side == "link":
                slot = make_room(self.placer, self.eviction, self.capacity, keys_of(block))
                assert slot is not None, "a schedule brings no more than there is room for"
                self.placer.fetch(at, key, slot, self.placer.tail)
            else:
                if action.expert not in plan.on("link"):
                    self.placer.hit()
                last.append(self.placer.compute(at, key, tokens, self.placer.tail))
        return last

    def prefetch(self, at: str, block: Block, plan: BlockSchedule, coming: Sequence[Block]) -> None:
        """Fetch for the blocks that come while the link would be idle, largest gain first."""
        link_end = max((a.end for a in plan.actions if a.side == "link"), default=self.backlog)
        keep = {key for b in (block, *coming) for key in keys_of(b)}
        gains = {later.layer: self._gains(later) for later in coming}
        while link_end < plan.makespan:
            best = max(
                (gain for of_layer in gains.values() for gain in of_layer),
                key=lambda gain: (gain[0], -gain[1][0], -gain[1][1]),
                default=(0.0, (0, 0)),
            )
            slot = make_room(self.placer, self.eviction, self.capacity, keep) if best[0] > 0 else None
            if slot is None:
                break
            self.placer.fetch(at, best[1], slot, self.placer.tail)
            link_end += self.costs.fetch
            gains[best[1][0]] = self._gains(next(later for later in coming if later.layer == best[1][0]))
        self.backlog = max(0.0, link_end - plan.makespan)

    def _gains(self, block: Block) -> list[tuple[float, Key]]:
        """By how much a block's schedule shortens with an expert more on the device; of experts with
        equally many tokens, which gain the same, the first."""
        firsts: dict[int, Key] = {}
        for key in keys_of(block):
            if key not in self.placer.slot:
                firsts.setdefault(block.tokens[key[1]], key)
        now = self.found(block, 0.0).makespan if firsts else 0.0
        return [(now - self.found(block, 0.0, [key]).makespan, key) for key in firsts.values()]
