"""Serving studies: a stream of requests, and the setups that are to serve it, as data.

::

    title: Prompts and tokens apart
    model: llama-2-70b
    requests: {file: azure_llm_2023_conv_600.csv, speed: 3}
    setups:
      together: {pools: [{system: h100, units: {gpu: 8}, instances: 4}]}
      apart:
        pools:
          - {system: h100, units: {gpu: 8}, instances: 2}
          - {system: h100, units: {gpu: 8}, instances: 2}
        placement: split                  # prompts in the first pool, all further tokens in the second
        moving: {link: infiniband-hdr, ports: 8, layer_by_layer: true}
    baseline: together
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from neardata.arch.config_file import ConfigFile, StrictModel
from neardata.arch.errors import InputError, nearest
from neardata.arch.link import load_link
from neardata.arch.precision import Format
from neardata.arch.system import load_system
from neardata.serving import HOST_PS, ExpertParallelCosts, Formats, StepCosts
from neardata.sim.link import transfer_ps
from neardata.sim.serving import (
    Arrival,
    ByPhase,
    FirstCome,
    Instance,
    LeastLoaded,
    Limits,
    Moving,
    RoundRobin,
    ServingReport,
    Split,
    Turns,
    serve,
)
from neardata.sim.serving.placement import Placement, Scheduler
from neardata.workloads.llm.model import Model, load_model
from neardata.workloads.requests import ARRIVALS, Request, load_requests, random_requests

Whole = Annotated[int, Field(ge=1)]
Lengths = Whole | tuple[Whole, Whole]


class Random(StrictModel):
    """Requests drawn at random; see `neardata.workloads.requests.random_requests`."""

    count: Whole
    rate_per_s: Annotated[float, Field(gt=0)]
    prompt_tokens: Lengths
    generated_tokens: Lengths
    arrivals: str = "poisson"
    variation: Annotated[float, Field(gt=0)] = 1.0
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _known(self) -> Random:
        if self.arrivals not in ARRIVALS:
            raise ValueError(f"unknown arrivals '{self.arrivals}'{nearest(self.arrivals, ARRIVALS)}")
        return self


class Stream(StrictModel):
    """Requests: recorded in a file, or random."""

    file: str | None = None
    """``.csv`` of the Azure traces' form or ``.jsonl`` of vLLM's; beside the study, or shipped."""
    random: Random | None = None
    first: Whole | None = None
    """Only so many."""
    speed: Annotated[float, Field(gt=0)] = 1.0
    """Arrivals come so many times as fast."""
    hidden: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each request's generated tokens that is reasoning, which the user does not see."""

    @model_validator(mode="after")
    def _one(self) -> Stream:
        if (self.file is None) == (self.random is None):
            raise ValueError("give a file or random requests, one of them")
        return self


class Pool(StrictModel):
    """Instances that are alike."""

    system: str
    """A name of `neardata.arch.system.system_names`, or a file: of one instance."""
    units: dict[str, Whole] = Field(default_factory=dict)
    set: dict[str, Any] = Field(default_factory=dict)
    """Keys of the system's file to change."""
    instances: Whole = 1
    expert_parallel: bool = False
    """Each processor is a rank with requests of its own, and they share the experts; otherwise all
    work on the same step (tensor parallelism)."""
    tokens: Whole = 2048
    """New tokens of a step."""
    sequences: Whole = 128
    """Sequences that run at once."""
    blocks: Whole | None = None
    """Blocks of 16 tokens for keys and values of a replica; default: what fits beside the weights."""
    scheduler: Literal["first-come", "turns", "phases"] = "first-come"
    quantum: Whole = 500
    """Tokens of a turn (turns, phases)."""
    demote_tokens: Whole | None = 5000
    """Tokens above which the first phase has no precedence (phases)."""
    ahead: bool = False
    """Steps are planned one ahead, as vLLM does where nothing moves."""


class Way(StrictModel):
    """How keys and values go from one replica to another, or to the host and back."""

    link: str
    """A name of `neardata.arch.link.link_names`, or a file."""
    set: dict[str, Any] = Field(default_factory=dict)
    ports: Whole = 1
    """Such links, each with an equal part."""
    layer_by_layer: bool = False
    """Each layer's part goes as soon as it is computed."""


class Setup(StrictModel):
    """What serves the stream."""

    pools: Annotated[tuple[Pool, ...], Field(min_length=1)]
    placement: Literal["least-loaded", "round-robin", "split", "by-phase", "by-phase-always"] = "least-loaded"
    """``split``: prompts in the first pool, further tokens in the others; ``by-phase``: at the end of
    the reasoning a sequence moves to where fewest reason, if it fits there; ``-always``: even so."""
    moving: Way | None = None
    swap: Way | None = None
    """Between each replica and its host; turns and phases need it where memory runs short."""

    @model_validator(mode="after")
    def _agrees(self) -> Setup:
        moves = self.placement in ("split", "by-phase", "by-phase-always")
        if moves and self.moving is None:
            raise ValueError(f"placement {self.placement} moves sequences: give moving, the link they take")
        if moves and any(pool.ahead for pool in self.pools):
            raise ValueError(f"placement {self.placement} moves sequences, and no step may be planned ahead")
        if self.placement == "split" and len(self.pools) < 2:
            raise ValueError("placement split needs two pools, the first for prompts")
        return self


class ServingStudy(StrictModel):
    """What to run."""

    title: str
    about: str = ""
    model: str
    weights: str = "bf16"
    activations: str = "bf16"
    cache: str = "bf16"
    requests: Stream
    host_us: Annotated[float, Field(ge=0)] = HOST_PS / 1e6
    """Time of a step beyond its kernels; default: vLLM 0.19's, calibrated (`neardata.serving.HOST_PS`)."""
    setups: Annotated[dict[str, Setup], Field(min_length=1)]
    baseline: str | None = None
    """What the others are compared with (default: the first)."""


@dataclass(frozen=True)
class ServedSetup:
    """A setup that has served the stream."""

    label: str
    setup: Setup
    report: ServingReport

    @property
    def figures(self) -> dict[str, float | int]:
        """What is compared, by name; times in ms."""
        report = self.report
        found: dict[str, float | int] = {}
        hidden = any(r.shown_ps != r.first_ps for r in report.requests)
        for name, of in (
            ("ttft", report.ttft), ("shown", report.shown if hidden else None), ("tpot", report.tpot),
            ("e2e", report.e2e),
        ):  # fmt: skip
            if of is not None:
                values = {"mean": of.mean, "p50": of.p50, "p90": of.p90, "p99": of.p99}
                found |= {f"{name}_{key}_ms": value * 1e-9 for key, value in values.items()}
        found["tokens_per_s"] = report.tokens_per_s
        found["mean_batch"] = report.mean_batch()
        found["preemptions"] = report.preemptions
        found["moves"] = sum(r.moves for r in report.requests)
        moved = [r.moving_ps * 1e-9 for r in report.requests if r.moves]
        found["moving_mean_ms"] = sum(moved) / len(moved) if moved else 0.0
        found["busy"] = self.busy
        return found

    @property
    def busy(self) -> float:
        """Part of the run that a replica steps, on average."""
        replicas = sum(
            pool.instances * (sum(pool.units.values()) if pool.expert_parallel else 1)
            for pool in self.setup.pools
        )
        return sum(self.report.busy(i) for i in range(replicas)) / replicas


def load_serving_study(path: Path) -> ServingStudy:
    """A study file; what it names exists.

    Raises:
        InputError: with file, line and key.
    """
    file = ConfigFile(path)
    if isinstance(file.data, dict) and "requests" not in file.data and "setups" not in file.data:
        raise file.error("is no serving study: it has neither requests nor setups")
    study = file.parse(ServingStudy)
    if study.baseline is not None and study.baseline not in study.setups:
        raise file.error(f"is no setup of the study{nearest(study.baseline, study.setups)}", "baseline")
    with _placed(file, "model"):
        _model(study.model, path.parent)
    for key in ("weights", "activations", "cache"):
        with _placed(file, key):
            Format.parse(getattr(study, key))
    with _placed(file, "requests"):
        read_stream(study.requests, path.parent)
    for label, setup in study.setups.items():
        for i, pool in enumerate(setup.pools):
            with _placed(file, "setups", label, "pools", i, "system"):
                system = load_system(pool.system, pool.set)
            for group in pool.units:
                if group not in system.units:
                    message = f"the system has no '{group}'{nearest(group, system.units)}"
                    raise file.error(message, "setups", label, "pools", i, "units", group)
        for key in ("moving", "swap"):
            way: Way | None = getattr(setup, key)
            if way is not None:
                with _placed(file, "setups", label, key, "link"):
                    load_link(way.link, way.set)
    return study


class _placed:
    """Errors without a file get the study's."""

    def __init__(self, file: ConfigFile, *keys: str | int) -> None:
        self.file, self.keys = file, keys

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, InputError) and error.file is None:
            raise self.file.error(error.message, *self.keys) from None


def read_stream(stream: Stream, folder: Path | None = None) -> list[Arrival]:
    """The requests of a study.

    Args:
        folder: where a file is looked for before those that ship.

    Raises:
        InputError: no such file, or one that holds no requests.
    """
    if stream.random is not None:
        drawn = stream.random
        requests = random_requests(
            drawn.count, rate_per_s=drawn.rate_per_s, prompt_tokens=drawn.prompt_tokens,
            generated_tokens=drawn.generated_tokens, arrivals=drawn.arrivals, variation=drawn.variation,
            seed=drawn.seed,
        )  # fmt: skip
    else:
        assert stream.file is not None
        requests = _recorded(stream.file, folder)
    return [
        Arrival(
            round(r.arrival_ps / stream.speed), r.prompt_tokens, r.generated_tokens,
            min(int(r.generated_tokens * stream.hidden), r.generated_tokens - 1),
        )
        for r in requests[: stream.first]
    ]  # fmt: skip


def _recorded(name: str, folder: Path | None) -> list[Request]:
    near = Path(name) if folder is None else folder / name
    if near.is_file():
        return load_requests(near)
    shipped = resources.files("neardata.studies") / "data" / name
    if shipped.is_file():
        with resources.as_file(shipped) as path:
            return load_requests(path)
    raise InputError(f"no file '{name}' beside the study, and none of that name ships", key="file")


def _model(name: str, folder: Path | None) -> Model:
    """A shipped model, or the configuration in a file beside the study or shipped with the studies."""
    if not name.endswith(".json"):
        return load_model(name)
    near = Path(name) if folder is None else folder / name
    shipped = resources.files("neardata.studies") / "data" / name
    if near.is_file() or not shipped.is_file():
        return load_model(near)
    with resources.as_file(shipped) as path:
        return load_model(path)


def run_setups(
    study: ServingStudy, folder: Path | None = None, *, progress: Callable[[str], None] = lambda what: None
) -> Iterator[ServedSetup]:
    """Serve the stream by each setup in turn.

    Raises:
        InputError: a model that does not fit, a system that serves no steps, a request that fits no
            replica.
    """
    requests = read_stream(study.requests, folder)
    known: Known = {}
    for label in study.setups:
        progress(label)
        yield run_setup(study, label, requests, folder, known)


Known = dict[tuple[str, ...], StepCosts | ExpertParallelCosts]
"""Costs of steps by what decides them: looked up, they are those of a first run."""


def run_setup(
    study: ServingStudy,
    label: str,
    requests: Sequence[Arrival],
    folder: Path | None = None,
    known: Known | None = None,
) -> ServedSetup:
    """Serve requests by one setup; as `run_setups`.

    Args:
        known: costs of steps of the same study, to look up and to add to.
    """
    model, setup = _model(study.model, folder), study.setups[label]
    known = {} if known is None else known
    form = Format.parse(study.cache)

    def way_ps(way: Way) -> Callable[[int], int]:
        link = load_link(way.link, way.set)

        def ps(tokens: int) -> int:
            return transfer_ps(link, -(-form.bytes_of(tokens * model.cache_elements_per_token) // way.ports))

        return ps

    instances = []
    try:
        for pool in setup.pools:
            swap = None if setup.swap is None else way_ps(setup.swap)
            decides = {"system", "units", "set", "expert_parallel"}
            if pool.expert_parallel:
                decides.add("sequences")
            what = (pool.model_dump_json(include=decides), str(setup.swap))
            if what not in known:
                known[what] = _costs(study, model, pool, swap)
            instances += [_instance(pool, known[what])] * pool.instances
        moving = None
        if setup.moving is not None:
            layers = model.layers if setup.moving.layer_by_layer else 1
            moving = Moving(way_ps(setup.moving), layers)
        return ServedSetup(label, setup, serve(requests, instances, _placement(setup), moving))
    except InputError as error:
        if error.file is not None:
            raise
        key = f"setups.{label}" + (f".{error.key}" if error.key else "")
        raise InputError(error.message, key=key) from None


def _costs(
    study: ServingStudy, model: Model, pool: Pool, swap: Callable[[int], int] | None
) -> StepCosts | ExpertParallelCosts:
    system = load_system(pool.system, pool.set).with_counts(**pool.units)
    formats = Formats(study.weights, study.activations, study.cache)
    host_ps = round(study.host_us * 1e6)
    if pool.expert_parallel:
        limits = Limits(tokens=pool.tokens, sequences=pool.sequences)
        return ExpertParallelCosts(model, system, formats=formats, host_ps=host_ps, limits=limits)
    return StepCosts(model, system, formats=formats, host_ps=host_ps, swap_ps=swap)


def _instance(pool: Pool, costs: StepCosts | ExpertParallelCosts) -> Instance:
    ranks = costs.ranks if isinstance(costs, ExpertParallelCosts) else 1
    limits = Limits(tokens=pool.tokens, sequences=pool.sequences, blocks=pool.blocks or costs.blocks())

    def scheduler(given: Limits) -> Scheduler:
        if pool.scheduler == "first-come":
            return FirstCome(given)
        return Turns(
            given, quantum=pool.quantum, phases=pool.scheduler == "phases", demote_tokens=pool.demote_tokens
        )

    return Instance(costs, limits, ranks, scheduler, pool.ahead)


def _placement(setup: Setup) -> Placement:
    match setup.placement:
        case "round-robin":
            return RoundRobin()
        case "split":
            return Split(setup.pools[0].instances)
        case "by-phase":
            return ByPhase()
        case "by-phase-always":
            return ByPhase(adaptive=False)
    return LeastLoaded()
