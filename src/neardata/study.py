"""Studies: a model's step on several systems, over batch sizes, as data.

::

    title: Mixtral-8x7B decode, GPUs against near-data systems
    model: mixtral-8x7b            # or the path of a config.json
    phase: decode
    context: 2048
    batch: [1, 16, 64]
    weights: bf16
    systems:
      2 x A100: {system: a100, units: {gpu: 2}}
      AiM:      {system: aim, mapping: {on_pim: everything, pipeline: all, micro_batches: stages, steps: 3}}
    baseline: 2 x A100             # what the others are compared with (default: the first)
"""

from __future__ import annotations

import gc
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator

import neardata.studies
from neardata.arch.config_file import ConfigFile, StrictModel
from neardata.arch.errors import InputError, nearest
from neardata.arch.precision import Format
from neardata.arch.system import PimUnit, ProcessorUnit, StorageUnit, StreamUnit, System, load_system
from neardata.mappers.lower import lower, stage_bytes
from neardata.mappers.mapping import (
    Mapping,
    attention_group,
    cache_group,
    pim_group,
    processor_group,
    storage_group,
)
from neardata.mappers.products import read_forms
from neardata.sim.program import Kernel, Program
from neardata.sim.system.engine import Costs, run
from neardata.sim.system.report import SystemReport, summed
from neardata.workloads.graph import Graph
from neardata.workloads.llm.decoder import llm
from neardata.workloads.llm.model import Model, load_model
from neardata.workloads.llm.routing import Correlated, Routing, StepOf, Uniform, Zipf, measured
from neardata.workloads.llm.routing_trace import RecordedRouting, load_routing

MOST_DEVICES = 64
"""Devices tried for a group of ``count: fit``."""
MOST_SEQUENCES = 1 << 16
PROFILED_STEPS = 32
"""Steps behind those that are run, by which experts count as popular."""


class SystemChoice(StrictModel):
    """A system of a study and how work is placed on it."""

    system: str
    """A name of `neardata.arch.system.system_names`, or a file."""
    units: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Number of instances of a group; left out, what the system says, ``fit`` included."""
    mapping: Mapping = Mapping()
    set: dict[str, Any] = Field(default_factory=dict)
    """Keys of the system's file to change, such as ``units.gpu.processor: h200``."""


class Study(StrictModel):
    """What to run."""

    title: str
    model: str
    phase: Literal["prefill", "decode", "verify"] = "decode"
    context: Annotated[int, Field(ge=1)] = 2048
    """Tokens of each sequence, the new ones included."""
    new_tokens: Annotated[int, Field(ge=1)] | None = None
    """Of each sequence: a chunk of prefill, or drafted tokens + 1 to verify."""
    batch: Annotated[tuple[Annotated[int, Field(ge=1, le=MOST_SEQUENCES)], ...], Field(min_length=1)] = (1,)
    weights: str | dict[str, str] = "bf16"
    activations: str = "bf16"
    cache: str = "bf16"
    layers: Annotated[int, Field(ge=1)] | None = None
    """Only the first so many layers."""
    positions: Annotated[int, Field(ge=1)] | None = None
    """Rows of the learned position embedding, in the place of the model's own."""
    routing: str = "uniform"
    """How tokens choose experts: ``uniform``, ``zipf:EXPONENT``, ``measured:WORKLOAD`` (as measured on
    Qwen3-30B-A3B), or a recorded trace: a file (.npz, .json, .csv) or a folder of Parquet files."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of a drawn routing; the position in a recorded one."""
    systems: Annotated[dict[str, SystemChoice], Field(min_length=1)]
    baseline: str | None = None

    @field_validator("weights", "activations", "cache")
    @classmethod
    def _known_formats(cls, given: str | dict[str, str]) -> str | dict[str, str]:
        for text in [given] if isinstance(given, str) else given.values():
            Format.parse(text)
        return given


@dataclass(frozen=True)
class Point:
    """One system at one batch size."""

    label: str
    batch: int
    system: System
    program: Program
    report: SystemReport

    @property
    def step_ps(self) -> int:
        """Time of a step: of one token of every sequence in decode. In a pipeline over several
        steps, from the end of the first step to the end of the last, so that filling the pipeline does
        not count."""
        ends: dict[int, int] = {}
        for task, end in zip(self.program.tasks, self.report.schedule.end, strict=True):
            ends[task.step] = max(ends.get(task.step, 0), end)
        if len(ends) <= 1:
            return self.report.time_ps
        return (ends[max(ends)] - ends[0]) // (len(ends) - 1)

    @property
    def steps(self) -> int:
        """Steps that the program runs."""
        return 1 + max((task.step for task in self.program.tasks), default=0)

    @property
    def tokens_per_s(self) -> float:
        """Of all sequences together."""
        return self.batch * 1e12 / self.step_ps

    @cached_property
    def energy_pj(self) -> dict[str, float]:
        """Of one step, by component: its tasks, and units at rest for what is left of `step_ps`."""
        report = self.report
        tasks = {name: pj / self.steps for name, pj in report.task_energy_pj.items()}
        rest = [
            report.at_rest_pj(use.name, max(self.step_ps - use.busy_ps // self.steps, 0))
            for use in report.units
        ]
        return summed([tasks, *rest])

    @property
    def energy_per_token_j(self) -> float:
        """Joules for one token of one sequence."""
        return sum(self.energy_pj.values()) * 1e-12 / self.batch

    @cached_property
    def bound_ps(self) -> int:
        """Roofline of a step: neither can a unit do its share of the work in less, nor can kernels that
        wait for each other, one after the other."""
        share = max((use.bound_ps for use in self.report.units), default=0) // self.steps
        chain: dict[str, int] = {}
        for task, outcome in zip(self.program.tasks, self.report.outcomes, strict=True):
            if task.step == 0:
                chain[task.name] = outcome.bound_ps + max((chain[name] for name in task.after), default=0)
        return max(share, max(chain.values(), default=0))


def load_study(path: str | Path) -> Study:
    """A study file.

    Raises:
        InputError: with file, line and key.
    """
    file = ConfigFile(Path(path))
    study = file.parse(Study)
    if study.baseline is not None and study.baseline not in study.systems:
        raise file.error(f"is no system of the study{nearest(study.baseline, study.systems)}", "baseline")
    for label, choice in study.systems.items():
        try:
            system = load_system(choice.system, choice.set)
            for group in choice.units:
                if group not in system.units:
                    raise InputError(
                        f"the system has no '{group}'{nearest(group, system.units)}", key="units"
                    )
            processor_group(system, choice.mapping)
            pim_group(system, choice.mapping)
            attention_group(system, choice.mapping)
            cache_group(system, choice.mapping)
            storage_group(system, choice.mapping)
            read_forms(choice.mapping.products)
        except InputError as error:
            if error.key in choice.set:
                raise file.error(error.message, "systems", label, "set", error.key) from None
            if error.file is not None:
                raise
            raise file.error(error.message, "systems", label, *(error.key or "system").split(".")) from None
    try:
        model_of(study)
    except InputError as error:
        if error.file is not None:
            raise
        raise file.error(error.message, error.key or "model") from None
    return study


@contextmanager
def placed_in(path: Path | None) -> Iterator[None]:
    """Tells the file and line of a study's key that an error names without them."""
    try:
        yield
    except InputError as error:
        if path is None or error.file is not None or error.key is None:
            raise
        keys = error.key.split(".")
        raise InputError(
            error.message, file=path, line=ConfigFile(path).line_of(keys), key=error.key
        ) from None


def find_study(what: str) -> Path | None:
    """The file of a study: a path, or the name of one that ships; None for a model.

    Raises:
        InputError: a study file that is not there.
    """
    path = Path(what)
    if path.suffix in (".yaml", ".yml"):
        shipped = Path(neardata.studies.__file__).parent / path.name
        if path.is_file() or not shipped.is_file():
            return path
        return shipped
    return None


def default_systems(names: Sequence[str]) -> dict[str, SystemChoice]:
    """Systems as they are, with the mapping their files suggest."""
    return {name: SystemChoice(system=name, mapping=suggested_mapping(name)) for name in names}


def suggested_mapping(name: str) -> Mapping:
    """Memories that compute do all they can in a pipeline, where they have no fast processor beside."""
    system = load_system(name)
    if not system.groups("pim"):
        return Mapping()
    processor = system.processor(processor_group(system, Mapping()))
    if processor.kind == "gpu":
        return Mapping(on_pim="fastest")
    return Mapping(on_pim="everything", pipeline="all", micro_batches="stages", steps=3)


def points(
    study: Study,
    *,
    skip: Callable[[str, int], bool] = lambda label, batch: False,
    progress: Callable[[str], None] = lambda what: None,
) -> Iterator[Point]:
    """Run the points of a study one after the other.

    Args:
        skip: points (label, batch) not to run.
        progress: told what is worked on.

    Raises:
        InputError: a model that does not fit a system, or a mapping that does not.
    """
    for label in study.systems:
        for batch in study.batch:
            if not skip(label, batch):
                progress(f"{label}, batch {batch}")
                yield run_point(study, label, batch)


def run_point(study: Study, label: str, batch: int) -> Point:
    """One system at one batch size, its ``fit`` counts decided by what has to be held."""
    with _no_collection():
        program, system, costs = lower_point(study, label, batch)
        return Point(label, batch, system, program, run(program, system, costs=costs))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Tens of thousands of tasks without a cycle among them: looking for cycles takes half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def model_of(study: Study) -> Model:
    """The model, with the positions that the study gives it.

    Raises:
        InputError: more layers than the model has, positions for a model that learns none.
    """
    model = load_model(study.model)
    if model.encoder_layers:
        raise InputError(f"{study.model} has an encoder; studies are of decoders alone", key="model")
    if study.layers is not None and study.layers > model.layers:
        raise InputError(f"{study.layers} are asked for; {study.model} has {model.layers}", key="layers")
    if study.positions is None:
        return model
    if not model.positions:
        raise InputError(f"{study.model} has no learned positions", key="positions")
    return model.model_copy(update={"positions": study.positions})


def lower_point(study: Study, label: str, batch: int) -> tuple[Program, System, Costs]:
    """The program of one system at one batch size, and the kernels whose cost decided it.

    Raises:
        InputError: the model does not fit, or the mapping does not suit the system.
    """
    model, choice = model_of(study), study.systems[label]
    base = _with_partners(load_system(choice.system, choice.set).with_counts(**choice.units), choice.mapping)
    graph = _graph(study, model, batch, _routing(study, model, 0, batch))
    lack: _Lack | None = None
    try:
        for system in _candidates(base, choice.mapping, graph):
            program, costs = _lowered(study, model, choice.mapping, system, batch)
            lack = _lack(program, system)
            if lack is None:
                return program, system, costs
    except InputError as error:
        if error.file is not None:
            raise
        raise InputError(error.message, key=f"systems.{label}.{error.key or 'mapping'}") from None
    what = f"{study.model}, batch {batch}, context {study.context:,}"
    if lack is None or any(base.units[group].count == "fit" for group in lack.groups):
        needed = graph.weight_bytes + graph.cache_bytes
        fitted = (
            [group for group in lack.groups if base.units[group].count == "fit"] if lack else _fitted(base)
        )
        each = " and ".join(f"{MOST_DEVICES} {g} of {base.capacity_bytes(g):,} bytes" for g in fitted)
        message = f"{needed:,} bytes of weights and caches do not fit {each}; fewer sequences, "
        raise InputError(f"{what}: {message}less context or narrower formats would", key=f"systems.{label}")
    enough = _enough(study, model, choice.mapping, base, lack.groups, graph, batch)
    names = " and ".join(lack.groups)
    change = f"no number of {names} would do" if enough is None else f"{enough} of {names} would do"
    raise InputError(
        f"{what}: {lack.needed:,} bytes are to lie in {lack.place}, which holds {lack.there:,}; {change};"
        f" {lack.largest}",
        key=f"systems.{label}.units",
    )


def _lowered(
    study: Study, model: Model, mapping: Mapping, system: System, batch: int
) -> tuple[Program, Costs]:
    costs = Costs(system)

    def cost(group: str, kernel: Kernel) -> int:
        return costs.of(group, kernel).time_ps

    if isinstance(mapping.experts, str):
        return lower(_graphs(study, model, mapping, system, batch), system, mapping, cost), costs
    if model.experts is None:
        raise InputError(f"{model.name} has no experts", key="mapping.experts")
    popular = getattr(mapping.experts, "start", None) == "popular"
    routings = _routings(study, model, mapping.steps + PROFILED_STEPS * popular, batch)
    if len(routings) < mapping.steps + popular:
        others = ", and others to tell who is popular" if popular else ""
        held = f"{study.routing} holds {len(routings)} steps of {batch} sequences"
        raise InputError(f"{held}; {mapping.steps} are run{others}", key="mapping.steps")
    graphs = [_graph(study, model, batch, routing) for routing in routings[: mapping.steps]]
    load = _load(study, model, routings[mapping.steps :], batch) if popular else None
    program = lower(graphs, system, mapping, cost, load)
    return replace(program, notes=(*program.notes, _told(study, mapping.steps))), costs


def _told(study: Study, steps: int) -> str:
    """How the experts of a policy's steps are chosen."""
    how = "recorded" if Path(study.routing).exists() else "sampled"
    count = "1 step" if steps == 1 else f"{steps} steps, each with its own experts; the first is not counted"
    return f"routing {how}: {study.routing}, seed {study.seed}, {count}"


def _load(study: Study, model: Model, routings: Sequence[Routing], batch: int) -> list[list[float]]:
    """How much each expert of each layer is chosen in steps that are not run."""
    assert model.experts is not None
    experts, tokens = model.experts, batch * _new_tokens(study)
    layers = sum(1 for layer in experts.layers if study.layers is None or layer < study.layers)
    counts = [[r.counts(at, tokens, experts.count, experts.top_k) for r in routings] for at in range(layers)]
    return [[float(n) for n in np.sum(of_layer, axis=0)] for of_layer in counts]


def _new_tokens(study: Study) -> int:
    """Of each sequence in a step."""
    return study.new_tokens or (study.context if study.phase == "prefill" else 1)


def _routings(study: Study, model: Model, steps: int, batch: int) -> list[Routing]:
    """Of steps that follow each other: the same sequences, further on.

    Raises:
        InputError: as `_routing`; a record that is too short for the steps.
    """
    first = _routing(study, model, 0, batch)
    if isinstance(first, Correlated):
        return [StepOf(first, steps, step) for step in range(steps)]
    if isinstance(first, RecordedRouting):
        tokens = batch * _new_tokens(study)
        rest = max((first.tokens - first.start) // tokens, 1)
        return [first.at(first.start + step * tokens) for step in range(min(steps, rest))]
    if isinstance(first, Zipf):
        return [Zipf(first.exponent, seed=first.seed, step=step) for step in range(steps)]
    return [Uniform(seed=study.seed + step) for step in range(steps)]


def _enough(
    study: Study,
    model: Model,
    mapping: Mapping,
    base: System,
    groups: Sequence[str],
    graph: Graph,
    batch: int,
) -> int | None:
    """The fewest units of some groups that hold the model; None if none do."""
    units = {g: u.model_copy(update={"count": "fit"}) if g in groups else u for g, u in base.units.items()}
    for system in _candidates(replace(base, units=units), mapping, graph):
        try:
            program, _ = _lowered(study, model, mapping, system, batch)
        except InputError:  # so many stages cannot be made
            continue
        if _lack(program, system) is None:
            return system.count(groups[0])
    return None


def _with_partners(system: System, mapping: Mapping) -> System:
    """Processors and the memories of their slots in equal numbers, where one number is given."""
    groups = (
        processor_group(system, mapping),
        pim_group(system, mapping),
        storage_group(system, mapping),
    )
    counts = {group: system.units[group].count for group in groups if group is not None}
    given = {count for count in counts.values() if count != "fit"}
    if len(given) != 1:
        return system
    (count,) = given
    return system.with_counts(**{group: int(count) for group, n in counts.items() if n == "fit"})


def _candidates(base: System, mapping: Mapping, graph: Graph) -> Iterator[System]:
    """The system as it is, or with more and more instances of what is to fit, from as many as hold
    the graph's weights and caches once."""
    fit = [name for name, unit in base.units.items() if unit.count == "fit"]
    if not fit or not isinstance(mapping.experts, str):
        yield base.with_counts(**dict.fromkeys(fit, 1))
        return
    one = base.with_counts(**dict.fromkeys(fit, 1))
    together = sum(one.capacities[place] for place in {one.instances[g].place for g in fit})
    least = -(-(graph.weight_bytes + graph.cache_bytes) // together)
    for n in range(max(least, 1), MOST_DEVICES + 1):
        even = n & (n - 1) == 0  # inside a stage rows and heads are divided by powers of two
        if max(stage_bytes(graph, n)) <= together if mapping.pipeline == "all" else even:
            yield base.with_counts(**dict.fromkeys(fit, n))


@dataclass(frozen=True)
class _Lack:
    """A place that is too small for what is put there."""

    place: str
    needed: int
    there: int
    groups: tuple[str, ...]
    """The units whose place it is."""
    largest: str
    """The tensor that takes most room there, and its bytes, in words."""


def _lack(program: Program, system: System) -> _Lack | None:
    """The fullest place, if it does not hold what is put there."""
    over = {p: n - system.capacities.get(p, 0) for p, n in program.bytes_at.items()}
    place = max(over, key=lambda p: over[p], default=None)
    if place is None or over[place] <= 0:
        return None
    groups = tuple(dict.fromkeys(i.group for i in system.instances.values() if i.place == place))
    held = [operand for operand in program.placement if operand.place == place]
    largest = max(held, key=lambda operand: operand.bytes)
    told = f"'{largest.tensor}' takes most, {largest.bytes:,}, of {len(held)} tensors"
    return _Lack(place, program.bytes_at[place], system.capacities.get(place, 0), groups, told)


def _graphs(study: Study, model: Model, mapping: Mapping, system: System, batch: int) -> list[Graph]:
    """The graphs of the micro-batches: sequences as evenly divided as can be."""
    if mapping.micro_batches != "stages":
        parts = min(mapping.micro_batches, batch)
    elif mapping.pipeline != "all":
        parts = min(mapping.pipeline, batch)
    else:
        parts = min(system.count(processor_group(system, mapping)), batch)
    sizes = [batch * (i + 1) // parts - batch * i // parts for i in range(parts)]
    return [_graph(study, model, size, _routing(study, model, i, size)) for i, size in enumerate(sizes)]


def _routing(study: Study, model: Model, part: int, sequences: int) -> Routing | None:
    """Of a micro-batch.

    Raises:
        InputError: an unknown routing, or a trace that does not suit the model.
    """
    if model.experts is None:
        return None
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


def _graph(study: Study, model: Model, batch: int, routing: Routing | None) -> Graph:
    return llm(
        model, study.phase, batch=batch, context=study.context, new_tokens=study.new_tokens,
        weights=study.weights, activations=study.activations, cache=study.cache, routing=routing,
        layers=study.layers,
    )  # fmt: skip


def _fitted(system: System) -> list[str]:
    """Groups of which there are as many as the data need; of two in one place, the memory."""
    fit = [group for group, unit in system.units.items() if unit.count == "fit"]
    return [group for group in fit if system.pim_of(group) not in fit]


def fingerprint(study: Study, choice: SystemChoice, batch: int, version: str) -> str:
    """What decides the result of a point, as a short hash: equal hashes, equal results."""
    what = study.model_dump(mode="json", exclude={"systems", "batch", "baseline", "title"})
    files = [hashlib.sha256(path.read_bytes()).hexdigest() for path in _own_files(study, choice)]
    text = json.dumps([version, what, choice.model_dump(mode="json"), batch, files], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _own_files(study: Study, choice: SystemChoice) -> list[Path]:
    """Files that do not ship with the package: of the model, the system, and what it names."""
    system = load_system(choice.system, choice.set)
    named = [study.model, study.routing, choice.system, *(use.link for use in system.links.values())]
    if isinstance(choice.mapping.products, str):
        named.append(choice.mapping.products)
    for unit in system.units.values():
        if isinstance(unit, ProcessorUnit):
            named.append(unit.processor)
        elif isinstance(unit, PimUnit | StorageUnit):
            named.append(unit.device)
        elif isinstance(unit, StreamUnit):
            named += [*unit.pipelines.values(), *([unit.fpga] if unit.fpga else [])]
    paths = (Path(re.sub(r"(\.ya?ml):[^:/]*$", r"\1", name)) for name in named)  # FILE.yaml:PRESET
    return [path for path in paths if path.is_file()]
