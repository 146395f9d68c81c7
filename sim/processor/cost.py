"""What a kernel costs on a processor, and where the time above the ideal goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from neardata.arch.processor import Processor

Bound = Literal["compute", "memory", "cache", "launch"]
CAUSES = ("launch", "efficiency", "softmax", "quantisation", "cache", "reread", "occupancy", "overlap")
"""Why a kernel takes longer than its roofline:

- ``launch``: starting it, filling and draining the units;
- ``efficiency``: the peaks are not reached by long full streams either;
- ``softmax``: what of it the products do not hide, in attention;
- ``quantisation``: tiles that stick out of the operands, and the last, partly filled wave of tiles;
- ``cache``: the tiles ask more of the last cache than it gives;
- ``reread``: the same bytes fetched from memory more than once;
- ``occupancy``: too few units at work to draw the memory's rate;
- ``overlap``: arithmetic and memory that do not hide each other.
"""


@dataclass(frozen=True)
class Cost:
    """Time, work and energy of a kernel, or of kernels one after the other."""

    time_ps: int
    bound: Bound
    """What takes the longest."""
    flops: int
    """Operations of the work itself, without padding; a multiply-accumulate is two."""
    memory_bytes: int
    """Read from and written to the memory."""
    roofline_ps: int
    """The longer of arithmetic and memory at their peaks: no schedule is faster."""
    roofline_bound: Literal["compute", "memory"]
    """Which of the two is the longer: what would bound a kernel that loses nothing."""
    lost_ps: Mapping[str, int]
    """By cause (`CAUSES`); ``roofline_ps`` and these add up to ``time_ps``."""
    energy_pj: Mapping[str, float]
    """By component: ``compute``, ``memory``, ``cache``, ``static``."""

    @property
    def total_pj(self) -> float:
        """All energy, pJ."""
        return sum(self.energy_pj.values())


def total(costs: Iterable[Cost]) -> Cost:
    """Kernels one after the other; each bound is that of most of the time.

    Raises:
        ValueError: there are none.
    """
    costs = tuple(costs)
    if not costs:
        raise ValueError("no kernels to add up")
    time_of: dict[Bound, int] = {}
    ideal_of: dict[Literal["compute", "memory"], int] = {}
    lost: dict[str, int] = {}
    energy: dict[str, float] = {}
    for cost in costs:
        time_of[cost.bound] = time_of.get(cost.bound, 0) + cost.time_ps
        ideal_of[cost.roofline_bound] = ideal_of.get(cost.roofline_bound, 0) + cost.roofline_ps
        for cause, ps in cost.lost_ps.items():
            lost[cause] = lost.get(cause, 0) + ps
        for component, pj in cost.energy_pj.items():
            energy[component] = energy.get(component, 0.0) + pj
    return Cost(
        time_ps=sum(c.time_ps for c in costs),
        bound=max(time_of, key=lambda bound: time_of[bound]),
        flops=sum(c.flops for c in costs),
        memory_bytes=sum(c.memory_bytes for c in costs),
        roofline_ps=sum(c.roofline_ps for c in costs),
        roofline_bound=max(ideal_of, key=lambda bound: ideal_of[bound]),
        lost_ps=lost,
        energy_pj=energy,
    )


def slowdown(processor: Processor, blocks: int) -> float:
    """How much longer the memory takes when ``blocks`` equal blocks draw from it, a wave of one per
    unit after the other, each at most the rate of a unit.

    >>> from neardata.arch.processor import load_processor
    >>> gpu = load_processor("a100-80gb", {"memory.gb_per_s": 2160, "memory.unit_gb_per_s": 40})
    >>> slowdown(gpu, 27), slowdown(gpu, 108)
    (2.0, 1.0)
    """
    unit = processor.memory.unit_gb_per_s
    if unit is None:
        return 1.0
    waves = -(-blocks // processor.compute.units)
    return max(1.0, processor.memory.gb_per_s * waves / (blocks * unit))


def kernel_cost(
    processor: Processor,
    *,
    flops: int,
    memory_bytes: int,
    peak_ops_per_ps: float,
    pj_per_operation: float,
    compute_ps: float,
    cache_ps: float,
    cache_bytes: float,
    memory_ps: float | None = None,
    roofline_bytes: int | None = None,
    softmax_ps: float = 0.0,
    launches: int = 1,
    launch_ns: float | None = None,
    occupancy: float = 1.0,
) -> Cost:
    """The time of a kernel from that of its parts.

    Args:
        processor: where it runs.
        flops: operations.
        memory_bytes: to and from the memory.
        peak_ops_per_ps: of the arithmetic unit used.
        pj_per_operation: of the arithmetic unit used.
        compute_ps: arithmetic, tiles and waves and efficiency included.
        cache_ps: what the tiles take from the last cache.
        cache_bytes: what the tiles take from the last cache.
        memory_ps: the memory's time (default: ``memory_bytes`` at the efficiency of long streams).
        roofline_bytes: what must be moved at least (default: ``memory_bytes``).
        softmax_ps: what the softmax of the pairs themselves adds to their products.
        launches: kernels started.
        launch_ns: of each (default: the processor's).
        occupancy: how much longer the memory takes for want of units at work (`slowdown`).
    """
    efficiency, power = processor.efficiency, processor.power
    compute_ideal = flops / peak_ops_per_ps
    must_move = memory_bytes if roofline_bytes is None else roofline_bytes
    memory_ideal = must_move / processor.memory_bytes_per_ps
    products_ps = compute_ideal / efficiency.matrix.value
    once_ps = memory_ideal / efficiency.memory.value
    if memory_ps is None:
        memory_ps = once_ps
    units_ps = max(compute_ps, cache_ps)
    launch_ps = launches * (efficiency.launch_ns.value if launch_ns is None else launch_ns) * 1000
    # each cause is what it adds to those before it
    reached = max(compute_ideal, memory_ideal)
    roofline_ps = before = round(reached)
    lost: dict[str, int] = {}
    for cause, ps in (
        ("efficiency", max(products_ps, once_ps)),
        ("softmax", max(products_ps + softmax_ps, once_ps)),
        ("quantisation", max(compute_ps, once_ps)),
        ("cache", max(units_ps, once_ps)),
        ("reread", max(units_ps, memory_ps)),
        ("occupancy", max(units_ps, memory_ps * occupancy)),
    ):
        if ps > reached:
            reached = ps
            after = round(ps)
            lost[cause] = after - before
            before = after
    memory_ps *= occupancy
    shorter_ps = min(units_ps, memory_ps)
    for cause, ps in (("overlap", efficiency.exposed.value * shorter_ps), ("launch", launch_ps)):
        reached += ps
        after = round(reached)
        lost[cause] = after - before
        before = after
    bound: Bound = "memory" if memory_ps >= units_ps else "compute" if compute_ps >= cache_ps else "cache"
    if launch_ps > max(memory_ps, units_ps):
        bound = "launch"
    return Cost(
        time_ps=before,
        bound=bound,
        flops=flops,
        memory_bytes=memory_bytes,
        roofline_ps=roofline_ps,
        roofline_bound="compute" if compute_ideal > memory_ideal else "memory",
        lost_ps=lost,
        energy_pj={
            "compute": flops * pj_per_operation,
            "memory": memory_bytes * power.memory_pj_per_byte.value,
            "cache": cache_bytes * power.cache_pj_per_byte.value,
            "static": before * power.idle_w.value,
        },
    )
