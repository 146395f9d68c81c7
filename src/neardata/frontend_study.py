"""Studies of inference servers as YAML: a network on slices of a GPU, behind ways to prepare its inputs.

::

    title: MobileNet behind cores or units
    network: mobilenet-v3-small
    gpu: {slice: 1g.5gb, issue_us: 20}
    requests: {count: 2000, rate_per_s: 8000}
    setups:
      cores: {cores: {count: 32, ms: 3.0}}
      units:
        units: {pipeline: preba-image, count: 10, input_bytes: 110_000, properties: {pixels: 181_503}}
      prepared: {}

The network's key tells such a study from one of language models (`neardata.serving_study`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from neardata.arch.config_file import ConfigFile, StrictModel
from neardata.arch.errors import InputError, nearest
from neardata.arch.link import load_link
from neardata.arch.processor.mig import SLICED, mig_slice, most_slices
from neardata.arch.stream import load_pipeline
from neardata.frontend import Server, compute_units, length_of, link_stage, requests_of
from neardata.sim.frontend import PARTS, Batching, FrontEndReport, Stage
from neardata.slices import Eager, Knees
from neardata.workloads.input_requests import InputRequest, load_inputs, random_inputs
from neardata.workloads.networks import network_named

Whole = Annotated[int, Field(ge=1, le=10**9)]
Count = Annotated[int, Field(ge=1, le=10_000)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PREPARED_BYTES, PREPARED_BYTES_A_FRAME = 4 * 3 * 224 * 224, 4 * 80
"""Of an image, and of a frame of speech, in single precision."""


class Gpu(StrictModel):
    """Slices of a GPU that execute batches."""

    name: str = SLICED
    """The one whose slices are known, or a file of it."""
    slice: str
    """Of `neardata.arch.processor.mig.MIG`."""
    slices: Annotated[int, Field(ge=1, le=7)] | None = None
    """Default: as many as the GPU has, which is also the most."""
    issue_us: NotNegative
    """Host time per kernel."""


class Requests(StrictModel):
    """Inputs that arrive one by one: recorded in a file, or random."""

    file: str | None = None
    """``.csv`` with ``arrival_s`` and, of speech, ``seconds``, beside the study; see
    `neardata.workloads.input_requests.load_inputs`."""
    count: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Of random ones; of a file, the most that are taken (default: all)."""
    rate_per_s: Positive | None = None
    """Of random ones, for latencies; None: only what is sustained is told."""
    arrivals: str = "poisson"
    """Of `neardata.workloads.requests.ARRIVALS`."""
    seconds: Positive | str | None = None
    """Of random speech: of each, or a name of `neardata.workloads.input_requests.LENGTHS`."""
    speed: Positive = 1.0
    """Arrivals come so many times as fast."""
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one(self) -> Requests:
        if self.file is None and self.count is None:
            raise ValueError("give a file, or the count of random requests")
        if self.file is not None and (self.rate_per_s is not None or self.seconds is not None):
            raise ValueError("a file has arrivals and lengths of its own; give speed to change them")
        return self


class Cores(StrictModel):
    """Cores of the host that prepare inputs."""

    count: Count
    ms: NotNegative = 0
    """Of a core, per input."""
    ms_per_s: NotNegative = 0
    """Of a core, per second of speech."""


class Units(StrictModel):
    """Data-processing units that prepare inputs."""

    pipeline: str
    """One unit: a name of `neardata.arch.stream.pipeline_names`, or a file."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Keys of the pipeline's file to change."""
    count: Count
    input_bytes: Whole
    """Sent to a unit: of an image, or of a second of speech."""
    properties: dict[str, Whole]
    """The pipeline's properties: of an image, or of a second of speech."""


class Batches(StrictModel):
    """The batcher."""

    most: Whole | None = None
    """Inputs of a batch; None: the knee of the mean length, or of each bucket's greatest."""
    wait_ms: NotNegative | None = None
    """Until what waits is executed anyway; None: the time of a batch at the knee, over the slices."""
    bucket_s: Positive | None = None
    """Of speech: lengths that wait together; None: all do."""
    merge: bool = True
    """A batch that is not full takes inputs of other buckets."""
    knee_gain: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """A knee is the batch that doubling improves by less."""


class FrontEnd(StrictModel):
    """What stands before the slices; neither cores nor units: inputs come prepared."""

    cores: Cores | None = None
    units: Units | None = None
    link: str = "pcie-4"
    """Between the host and each card."""
    batching: Batches = Batches()

    @model_validator(mode="after")
    def _one(self) -> FrontEnd:
        if self.cores is not None and self.units is not None:
            raise ValueError("give cores or units, not both")
        return self


class FrontEndStudy(StrictModel):
    """What to run."""

    title: str
    about: str = ""
    network: str
    gpu: Gpu
    requests: Requests
    setups: Annotated[dict[str, FrontEnd], Field(min_length=1)]
    baseline: str | None = None
    """What the others are compared with (default: the first)."""


@dataclass(frozen=True)
class ServedFrontEnd:
    """A setup, flooded and served."""

    label: str
    requests: int
    sustained_per_s: float
    server: Server
    report: FrontEndReport | None
    """At the study's rate; None: it has none."""

    @property
    def figures(self) -> dict[str, float]:
        """What is compared, by name; times in ms."""
        found: dict[str, float] = {"requests": self.requests, "sustained_per_s": self.sustained_per_s}
        if self.report is None:
            return found
        report = self.report
        arrivals = [request.arrival_ps for request in report.requests]
        found["offered_per_s"] = len(arrivals) * 1e12 / max(max(arrivals) - min(arrivals), 1)
        found |= {f"p{p}_ms": report.latency_ps(p) / 1e9 for p in (50, 95, 99)}
        parts = [report.parts_ps(r, self.server.prepare_ps(r.length)) for r in report.requests]
        found |= {f"{part}_ms": sum(p[part] for p in parts) / len(parts) / 1e9 for part in PARTS}
        found |= {"mean_batch": report.mean_batch, "padding": report.padding, "slices_busy": report.busy()}
        found |= {f"{name.replace(' ', '_')}_busy": report.busy(name) for name in report.stages}
        return found


def is_front_end_study(file: ConfigFile) -> bool:
    """Whether a file is such a study, by its keys."""
    return isinstance(file.data, dict) and "network" in file.data


def load_front_end_study(path: Path) -> FrontEndStudy:
    """A study file; what it names exists.

    Raises:
        InputError: with file, line and key.
    """
    file = ConfigFile(path)
    study = file.parse(FrontEndStudy)
    if study.baseline is not None and study.baseline not in study.setups:
        raise file.error(f"is no setup of the study{nearest(study.baseline, study.setups)}", "baseline")
    speech = _placed(file, ("network",), lambda: network_named(study.network))[1]
    _placed(file, ("gpu",), lambda: mig_slice(study.gpu.slice, study.gpu.name))
    most = most_slices(study.gpu.slice)
    if (study.gpu.slices or 1) > most:
        message = f"must be at most {most}: a GPU has no more of {study.gpu.slice}, got {study.gpu.slices}"
        raise file.error(message, "gpu", "slices")
    wanted = study.requests
    if speech and wanted.file is None and wanted.seconds is None:
        raise file.error(f"missing: {study.network} takes speech; tell the lengths", "requests", "seconds")
    if not speech and wanted.seconds is not None:
        raise file.error(f"{study.network} takes images, which have no length", "requests", "seconds")
    _placed(file, ("requests",), lambda: read_inputs(wanted, path.parent, speech=speech))
    for label, setup in study.setups.items():
        at = ("setups", label)
        _placed(file, (*at, "link"), lambda setup=setup: load_link(setup.link))  # type: ignore[misc]
        units = setup.units
        if units is not None:
            _placed(file, (*at, "units", "pipeline"), lambda u=units: load_pipeline(u.pipeline, u.set))  # type: ignore[misc]
        if not speech and setup.batching.bucket_s is not None:
            raise file.error("images have no lengths", *at, "batching", "bucket_s")
        if not speech and setup.cores is not None and setup.cores.ms_per_s:
            raise file.error("images have no length; give ms", *at, "cores", "ms_per_s")
    return study


def _placed(file: ConfigFile, keys: tuple[str, ...], load: Callable[[], Any]) -> Any:
    """What is loaded; errors without a file get the study's."""
    try:
        return load()
    except InputError as error:
        if error.file is not None:
            raise
        raise file.error(error.message, *keys) from None


def read_inputs(wanted: Requests, folder: Path, *, speech: bool) -> list[InputRequest]:
    """The inputs of a study, as fast as it wants them.

    Args:
        folder: where a file is looked for.
        speech: inputs have lengths, and others have none.

    Raises:
        InputError: no such file, or one that holds no inputs; lengths where there are none, or none where
            there are.
    """
    if wanted.file is not None:
        found = load_inputs(folder / wanted.file)[: wanted.count]
        if any((one.seconds > 0) != speech for one in found):
            kind = "speech, and has no seconds" if speech else "images, and has seconds"
            raise InputError(f"the network takes {kind}", file=folder / wanted.file, key="seconds")
    else:
        assert wanted.count is not None, "checked when read"
        found = random_inputs(
            wanted.count, rate_per_s=wanted.rate_per_s or 1.0, seconds=wanted.seconds or 0.0,
            arrivals=wanted.arrivals, seed=wanted.seed,
        )  # fmt: skip
    return [replace(one, arrival_ps=round(one.arrival_ps / wanted.speed)) for one in found]


class _Building:
    """Servers of a study."""

    def __init__(self, study: FrontEndStudy, folder: Path) -> None:
        self.study = study
        network, self.speech = network_named(study.network)
        part = mig_slice(study.gpu.slice, study.gpu.name)
        self.model = Eager(network, part, round(study.gpu.issue_us * 1e6))
        self.slices = study.gpu.slices or most_slices(study.gpu.slice)
        self.stream = requests_of(read_inputs(study.requests, folder, speech=self.speech))
        self.lengths = [request.length for request in self.stream]
        self.timed = study.requests.file is not None or study.requests.rate_per_s is not None
        mean = sum(self.lengths) / len(self.lengths)
        self.mean = length_of(mean / 100) if self.speech else 1

    def server(self, setup: FrontEnd) -> Server:
        return Server(self.model, self.slices, self._batching(setup.batching), self._stages(setup))

    def _batching(self, given: Batches) -> Batching:
        knees = Knees(self.model, given.knee_gain)
        wait = knees.ps(self.mean) // self.slices if given.wait_ms is None else round(given.wait_ms * 1e9)
        width = None if given.bucket_s is None else max(1, round(given.bucket_s * 100))

        def most(bucket: int) -> int:
            return given.most or knees(self.mean if width is None else (bucket + 1) * width)

        return Batching(most, wait, width, given.merge)

    def _stages(self, setup: FrontEnd) -> tuple[Stage, ...]:
        link = load_link(setup.link)

        def prepared(length: int) -> int:
            return PREPARED_BYTES_A_FRAME * length if self.speech else PREPARED_BYTES

        def of(value: float, length: int) -> int:
            """Of an input that has ``value`` an image or a second."""
            return ceil(value * length / 100) if self.speech else ceil(value)

        to_gpu = link_stage("to the GPU", link, prepared)
        if setup.cores is not None:
            cores = setup.cores
            return (
                Stage("cores", cores.count, lambda n: round(cores.ms * 1e9 + cores.ms_per_s * 1e7 * n)),
                to_gpu,
            )
        if setup.units is None:
            return (to_gpu,)
        units = setup.units
        return (
            link_stage("to the units", link, lambda n: of(units.input_bytes, n)),
            compute_units(
                "units", load_pipeline(units.pipeline, units.set), units.count,
                lambda n: {key: of(value, n) for key, value in units.properties.items()},
            ),
            link_stage("from the units", link, prepared),
            to_gpu,
        )  # fmt: skip


def run_front_ends(study: FrontEndStudy, folder: Path) -> Iterator[ServedFrontEnd]:
    """Each setup in turn: what it sustains, and the latencies at the study's rate.

    Args:
        folder: where the study's files lie.

    Raises:
        InputError: too few requests for a rate, properties that a pipeline does not have.
    """
    building = _Building(study, folder)
    for label, setup in study.setups.items():
        try:
            server = building.server(setup)
            sustained, _ = server.flood(building.lengths)
            report = None
            if building.timed:
                report = server.serve(building.stream)
        except InputError as error:
            if error.file is not None:
                raise
            key = f"setups.{label}" + (f".{error.key}" if error.key else "")
            raise InputError(error.message, key=key) from None
        yield ServedFrontEnd(label, len(building.stream), sustained, server, report)
