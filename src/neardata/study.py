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
from neardata.arch.system import System, load_system
from neardata.mappers.kernels import expert_load
from neardata.mappers.lower import ChannelsFull, lower, stage_bytes
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
from neardata.sim.system.report import SystemReport, summed, users_of
from neardata.step_routing import chosen, routings_of, told
from neardata.workloads.graph import Graph
from neardata.workloads.llm.decoder import llm
from neardata.workloads.llm.model import Model, load_model
from neardata.workloads.llm.routing import Routing

MOST_DEVICES = 64
"""Devices tried for a group of ``count: fit``."""
MOST_SEQUENCES = 1 << 16


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
        if self.steps == 1:
            return self.report.time_ps
        start, end = self.report.counted_ps
        return (end - start) // self._counted

    @property
    def steps(self) -> int:
        """Steps that the program runs."""
        return len(self.report.step_ends)

    @property
    def _counted(self) -> int:
        """Steps that figures of a step are the mean of."""
        return self.steps - self.report.first_counted

    @property
    def tokens_per_s(self) -> float:
        """Of all sequences together."""
        return self.batch * 1e12 / self.step_ps

    @cached_property
    def energy_pj(self) -> dict[str, float]:
        """Of one step, by component: its tasks, and units at rest for what is left of `step_ps`. Of
        several steps the mean, but for the first."""
        report, counted = self.report, self._counted
        tasks = {name: pj / counted for name, pj in report.task_energy_pj(report.first_counted).items()}
        busy = report.busy_ps(report.first_counted)
        rest = [
            report.at_rest_pj(use.name, max(self.step_ps - busy.get(use.name, 0) // counted, 0))
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
        wait for each other, one after the other. The mean of the steps that `step_ps` is of."""
        report, first = self.report, self.report.first_counted
        shares: dict[str, int] = {}
        chain: dict[str, int] = {}
        for task, outcome in zip(self.program.tasks, report.outcomes, strict=True):
            if task.step < first:
                continue
            for name in users_of(task):
                shares[name] = shares.get(name, 0) + outcome.bound_ps
            chain[task.name] = outcome.bound_ps + max((chain.get(name, 0) for name in task.after), default=0)
        longest = max((*shares.values(), *chain.values()), default=0)
        return longest // self._counted


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
    graph = _graph(study, model, batch, _first_routing(study, model, batch))
    lack: _Lack | None = None
    try:
        for system in _candidates(base, choice.mapping, graph):
            try:
                program, costs = _lowered(study, model, choice.mapping, system, batch)
            except ChannelsFull as full:
                where = f"a channel of {full.place}"
                groups = _groups_at(full.place, system)
                lack = _Lack(where, full.needed, full.there, groups, full.largest)
                continue
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
        graphs = _graphs(study, model, mapping, system, batch)
        load = _load(study, model, mapping, graphs[0], costs, batch)
        return lower(graphs, system, mapping, cost, load), costs
    if model.experts is None:
        raise InputError(f"{model.name} has no experts", key="mapping.experts")
    popular = getattr(mapping.experts, "start", None) == "popular"
    routings, profiled = routings_of(study, model, mapping.steps, batch)
    if len(routings) < mapping.steps or (popular and not profiled):
        others = ", and others to tell who is popular" if popular else ""
        held = f"{study.routing} holds {len(routings)} steps of {batch} sequences"
        raise InputError(f"{held}; {mapping.steps} are run{others}", key="mapping.steps")
    graphs = [_graph(study, model, batch, routing) for routing in routings]
    load = None
    if popular:
        load = np.sum(chosen(study, model, profiled, batch), axis=0).tolist()
    program = lower(graphs, system, mapping, cost, load)
    return replace(program, notes=(*program.notes, told(study, mapping.steps))), costs


def _load(
    study: Study, model: Model, mapping: Mapping, graph: Graph, costs: Costs, batch: int
) -> list[list[float]] | None:
    """What experts have to do in other steps of the routing, where they are to be balanced by it."""
    if mapping.experts != "balanced" or model.experts is None:
        return None
    tokens = []
    for part, size in enumerate(_parts(mapping, costs.system, batch)):
        _, others = routings_of(study, model, 1, size, part)
        tokens += chosen(study, model, others, size)
    if not tokens:
        raise InputError(
            f"{study.routing} holds one step of {batch} sequences, and none by which to balance experts",
            key="mapping.experts",
        )
    group = processor_group(costs.system, mapping)
    return expert_load(graph, tokens, lambda kernel: costs.of(group, kernel).bound_ps)


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
    held = [operand for operand in program.placement if operand.place == place]
    largest = max(held, key=lambda operand: operand.bytes)
    told = f"'{largest.tensor}' takes most, {largest.bytes:,}, of {len(held)} tensors"
    there = system.capacities.get(place, 0)
    return _Lack(place, program.bytes_at[place], there, _groups_at(place, system), told)


def _groups_at(place: str, system: System) -> tuple[str, ...]:
    """The units whose data lie in a place."""
    return tuple(dict.fromkeys(i.group for i in system.instances.values() if i.place == place))


def _parts(mapping: Mapping, system: System, batch: int) -> list[int]:
    """Sequences of each micro-batch: as evenly divided as can be."""
    if mapping.micro_batches != "stages":
        parts = min(mapping.micro_batches, batch)
    elif mapping.pipeline != "all":
        parts = min(mapping.pipeline, batch)
    else:
        parts = min(system.count(processor_group(system, mapping)), batch)
    return [batch * (i + 1) // parts - batch * i // parts for i in range(parts)]


def _graphs(study: Study, model: Model, mapping: Mapping, system: System, batch: int) -> list[Graph]:
    """The graphs of the micro-batches."""
    sizes = enumerate(_parts(mapping, system, batch))
    return [_graph(study, model, size, _first_routing(study, model, size, i)) for i, size in sizes]


def _first_routing(study: Study, model: Model, sequences: int, part: int = 0) -> Routing | None:
    """Of the first step that is run."""
    return None if model.experts is None else routings_of(study, model, 1, sequences, part)[0][0]


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
