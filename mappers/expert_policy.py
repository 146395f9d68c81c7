"""Where experts lie and what is done with those that do not fit: the choices of a mapping, as data.

::

    mapping:
      experts: {policy: cached, cache: lru, capacity: fit}

`neardata.mappers.expert_offload` makes a program of them.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag

from neardata.arch.config_file import StrictModel

Cache = Literal["lru", "lfu", "score"]
Start = Literal["even", "popular", "empty"]
Whole = Literal["split", "spread", "balanced"]
Capacity = Annotated[int, Field(ge=1)] | Literal["fit"]


class _Policy(StrictModel):
    host: str | None = None
    """Unit group where experts lie that are not on the processor; default: the only processor or memory
    beside it that a link joins to it."""
    storage: str | None = None
    """Memory group where experts lie in the place of the host's memory, which they then pass through."""


class OnDemand(_Policy):
    """The active experts of a layer, when its router has chosen them."""

    policy: Literal["on-demand"]
    wait: Literal["all", "each"] = "all"
    """A layer's experts are computed when ``all`` are there, by one kernel, or ``each`` when it is."""


class PrefetchAll(_Policy):
    """All experts of the next layer, while this one runs."""

    policy: Literal["prefetch-all"]
    wait: Literal["all", "each"] = "all"


class PreGated(_Policy):
    """The active experts of the next layer, which this one's router has chosen (arXiv 2308.12066)."""

    policy: Literal["pre-gated"]
    wait: Literal["all", "each"] = "all"


class Cached(_Policy):
    """On demand; experts stay until others need the place."""

    policy: Literal["cached"]
    cache: Cache = "lru"
    """Who leaves: least recently used, least frequently used, lowest decayed routing score (HybriMoE)."""
    capacity: Capacity = "fit"
    """Experts on the processor, of all layers together; ``fit``: as many as it has room for."""
    start: Start = "even"
    """Who is there at the start: as many of each layer; those that the routing chooses most; none."""
    wait: Literal["all", "each"] = "all"


class CpuCold(_Policy):
    """Some experts stay; others are fetched or computed by the host, by cost (Fiddler, arXiv 2402.07033)."""

    policy: Literal["cpu-cold"]
    capacity: Capacity = "fit"
    """Experts that stay on the processor, of all layers together."""
    start: Literal["even", "popular"] = "even"
    staging: Annotated[int, Field(ge=1)] = 1
    """Places beside them for experts that are fetched."""
    objective: Literal["sum", "max"] = "sum"
    """What is made least: the sum of both sides' times, or the longer."""


class Hybrid(_Policy):
    """Processor, host and link share experts by a simulated schedule (HybriMoE, arXiv 2504.05897)."""

    policy: Literal["hybrid"]
    cache: Cache = "score"
    capacity: Capacity = "fit"
    start: Start = "even"
    depth: Annotated[int, Field(ge=0)] = 3
    """Layers ahead for which experts are prefetched."""
    schedule: bool = True
    """False: all experts that are away are computed by the host."""
    guarded: bool = False
    """Fetch an expert only if it is then done no later than by the host."""


Policy = Annotated[
    OnDemand | PrefetchAll | PreGated | Cached | CpuCold | Hybrid, Field(discriminator="policy")
]


def _form(given: object) -> str:
    return "offloaded" if isinstance(given, dict | StrictModel) else "whole"


def _known(given: object) -> object:
    """Words that are none of `Whole` are told of the policies too."""
    if not isinstance(given, dict | StrictModel) and given not in get_args(Whole):
        policies = ", ".join(
            get_args(kind.model_fields["policy"].annotation)[0] for kind in get_args(get_args(Policy)[0])
        )
        raise ValueError(
            f"must be {', '.join(get_args(Whole))} or {{policy: one of {policies}}}, got {given!r}"
        )
    return given


Experts = Annotated[
    Annotated[Whole, Tag("whole")] | Annotated[Policy, Tag("offloaded")],
    Discriminator(_form),
    BeforeValidator(_known),
]
