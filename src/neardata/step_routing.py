"""Where the tokens of a study's steps go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neardata.arch.errors import InputError
from neardata.mappers.mapping import MOST_STEPS
from neardata.workloads.llm.model import Model
from neardata.workloads.llm.routing import Correlated, Routing, StepOf, Uniform, Zipf, measured
from neardata.workloads.llm.routing_trace import RecordedRouting, load_routing

if TYPE_CHECKING:
    from neardata.study import Study

PROFILED_STEPS = 32
"""Steps beside those that are run, by which experts count as popular; of prefill one."""


def routing_of(study: Study, model: Model, part: int, sequences: int) -> Routing:
    """Where the tokens of a micro-batch go, from the first of all on.

    Raises:
        InputError: an unknown routing, or a trace that does not suit the model.
    """
    assert model.experts is not None
    kind, _, value = study.routing.partition(":")
    seed = study.seed + part
    if kind == "uniform" and not value:
        return Uniform(seed=seed)
    if kind == "zipf":
        try:
            return Zipf(float(value), seed=seed)
        except ValueError:
            raise InputError(
                f"'{study.routing}': expected zipf:EXPONENT, such as zipf:1.0", key="routing"
            ) from None
    if kind == "measured":
        routing = measured().routing(value, seed=seed)
        routing.sequences = sequences
        return routing
    if Path(study.routing).exists():
        return load_routing(study.routing, top_k=model.experts.top_k).at(seed * sequences)
    raise InputError(
        f"'{study.routing}' is no file and none of uniform, zipf:EXPONENT, measured:WORKLOAD", key="routing"
    )


def routings_of(
    study: Study, model: Model, steps: int, sequences: int, part: int = 0
) -> tuple[list[Routing], list[Routing]]:
    """Of steps that follow each other, the same sequences further on, and of others, by which experts count
    as popular. What runs depends on neither the number of steps nor on whether the others are looked at.

    The others are the tokens before (`Correlated`), further draws of the same popularity (`Zipf`), or what
    follows in a record, which need not reach that far: fewer steps than asked for.

    Raises:
        InputError: as `routing_of`.
    """
    first = routing_of(study, model, part, sequences)
    profiled = PROFILED_STEPS if study.phase != "prefill" else 1  # a chunk is many tokens
    if isinstance(first, Correlated):
        whole = profiled + steps
        drawn: list[Routing] = [StepOf(first, whole, step) for step in range(whole)]
        return drawn[profiled:], drawn[:profiled]
    if isinstance(first, RecordedRouting):
        tokens = sequences * _new_tokens(study)
        rest = max((first.tokens - first.start) // tokens, 1)
        ahead = range(min(steps + profiled, rest))
        found: list[Routing] = [first.at(first.start + step * tokens) for step in ahead]
        return found[:steps], found[steps:]

    def step_of(number: int) -> Routing:
        if isinstance(first, Zipf):
            return Zipf(first.exponent, seed=first.seed, step=number)
        return Uniform(seed=study.seed + part + number)

    others = range(MOST_STEPS, MOST_STEPS + profiled)
    return [step_of(number) for number in range(steps)], [step_of(number) for number in others]


def chosen(study: Study, model: Model, routings: Sequence[Routing], batch: int) -> list[list[list[int]]]:
    """(steps, layers with experts, experts) tokens of each expert in some steps."""
    assert model.experts is not None
    experts, tokens = model.experts, batch * _new_tokens(study)
    layers = sum(1 for layer in experts.layers if study.layers is None or layer < study.layers)
    return [
        [r.counts(at, tokens, experts.count, experts.top_k).tolist() for at in range(layers)]
        for r in routings
    ]


def _new_tokens(study: Study) -> int:
    """Of each sequence in a step."""
    return study.new_tokens or (study.context if study.phase == "prefill" else 1)


def told(study: Study, steps: int) -> str:
    """How the experts of a policy's steps are chosen."""
    how = "recorded" if Path(study.routing).exists() else "sampled"
    count = "1 step" if steps == 1 else f"{steps} steps, each with its own experts; the first is not counted"
    return f"routing {how}: {study.routing}, seed {study.seed}, {count}"
