"""Streaming pipelines as data: stages, FIFOs between them, memory ports, clocks, resources.

::

    pipelines:
      example:
        kind: pipeline
        title: two stages
        source: where the numbers are from
        clocks: {fabric: {mhz: 223, basis: published, source: "..."}}
        ports: {ddr: {gb_per_s: 19.2, latency_ns: 120, basis: assumed, source: "..."}}
        stages:
          load:
            timing: {depth: 4, basis: assumed, source: "..."}
            memory: {port: ddr, read_bytes: 64, outstanding: 16}
          hash:
            timing: {depth: 40, lanes: 2, basis: assumed, source: "..."}
        fifos:
          words: {between: [load, hash], capacity: 32, produce: 8}

A stage without a FIFO into it takes the items given to the pipeline; one without a FIFO out of it
gives results away. What happens when is told in `neardata.sim.stream`.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, model_validator

from neardata.arch.config_file import StrictModel
from neardata.arch.errors import nearest

Whole = Annotated[int, Field(ge=1, le=1 << 30)]
Count = Annotated[int, Field(ge=0, le=1 << 30)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Basis = Literal["published", "calibrated", "assumed"]
RESOURCES = ("lut", "ff", "bram", "uram", "dsp")
MOST_REPLICAS = 1024


class Clock(StrictModel):
    """A clock domain."""

    mhz: Annotated[float, Field(gt=0, le=100_000)]
    basis: Basis
    source: str

    @property
    def exact_mhz(self) -> Fraction:
        """As written, not as a binary fraction."""
        return Fraction(repr(self.mhz))


class Cost(StrictModel):
    """Cycles of a firing from a property of its item: ``ceil(base + per_unit * property)``."""

    property: str
    """Name of the property, given at the run: one value per item."""
    per_unit: NotNegative = 1
    """Cycles per unit of the property."""
    base: NotNegative = 0
    """Cycles."""


class Timing(StrictModel):
    """When a stage takes items and gives results, in cycles of its clock."""

    initiation_interval: Whole = 1
    """Cycles from one initiation to the next; with ``cost``, the least."""
    depth: Whole
    """Cycles from taking an item until its results can be taken. A firing that costs more than the
    initiation interval is as much later."""
    lanes: Whole = 1
    """Firings of an initiation, side by side."""
    cost: Cost | None = None
    """Data-dependent cycles in place of ``initiation_interval``; of several lanes, the slowest counts."""
    basis: Basis
    source: str


class MemoryUse(StrictModel):
    """Bytes that each firing of a stage moves over a port, as it begins."""

    port: str
    read_bytes: Count = 0
    write_bytes: Count = 0
    outstanding: Annotated[int, Field(ge=1, le=4096)] = 1
    """Initiations that may be under way, if the depth does not hold more."""

    @model_validator(mode="after")
    def _moves_something(self) -> MemoryUse:
        if self.read_bytes + self.write_bytes == 0:
            raise ValueError("read_bytes and write_bytes are both 0")
        return self


class Resources(StrictModel):
    """What a stage takes of an FPGA; ``bram`` in blocks of 36 Kb, ``uram`` of 288 Kb."""

    lut: NotNegative = 0
    ff: NotNegative = 0
    bram: NotNegative = 0
    uram: NotNegative = 0
    dsp: NotNegative = 0
    percent_of: str | None = None
    """The numbers are percent of this FPGA; None: they are counts."""
    basis: Basis
    source: str


class Energy(StrictModel):
    """Energy per action."""

    pj_per_firing: NotNegative
    basis: Basis
    source: str


class Stage(StrictModel):
    """A pipelined unit: takes items, and gives results some cycles later, in order."""

    timing: Timing
    clock: str | None = None
    """A name of ``clocks``; may be left out if there is one only."""
    consume: Whole = 1
    """Of a stage without a FIFO into it: items of the input per firing."""
    memory: MemoryUse | None = None
    resources: Resources | None = None
    energy: Energy | None = None


class Fifo(StrictModel):
    """Items on their way from a stage to another."""

    between: tuple[str, str]
    """The stage that writes and the stage that reads."""
    capacity: Whole
    """Items."""
    produce: Annotated[int, Field(ge=0, le=1 << 20)] | str = 1
    """Items written by each firing; a name: of a property that tells (a filter, a list of any length)."""
    consume: Whole = 1
    """Items read by each firing."""
    block: Whole = 1
    """Items that change hands together: readable when a block is full, writable again when a block has
    been read. A ping-pong buffer is ``capacity: 2 * block``."""
    latency: Annotated[int, Field(ge=0, le=64)] = 0
    """Further cycles of the reader's clock until an item is seen, such as those of synchronisers."""

    @model_validator(mode="after")
    def _blocks_fit(self) -> Fifo:
        if self.capacity % self.block:
            raise ValueError(f"capacity {self.capacity} is no multiple of block {self.block}")
        return self


class Port(StrictModel):
    """A memory that stages read and write: rate and latency, or a DRAM device."""

    gb_per_s: Positive
    """Of a channel, 10^9 bytes/s."""
    latency_ns: NotNegative
    """From the last byte having crossed until a read returns."""
    channels: Whole = 1
    """Replica i uses channel i mod ``channels``."""
    device: str | None = None
    """Of `neardata.arch.dram.device_names`: simulated request by request at fidelity ``cycle``."""
    basis: Basis
    source: str
    pj_per_byte: NotNegative | None = None
    """Energy; None: not told."""


class Replicas(StrictModel):
    """Equal copies of the whole pipeline behind one input."""

    count: Annotated[int, Field(ge=1, le=MOST_REPLICAS)] = 1
    dispatch: Literal["round-robin", "least-loaded", "shared-queue"] = "round-robin"
    """``round-robin``: item i to copy i mod count, as it arrives; ``least-loaded``: to the copy with
    the fewest items not finished; ``shared-queue``: to the first copy that can take it."""


class Pipeline(StrictModel):
    """Stages connected by FIFOs.

    >>> from neardata.arch.stream import load_pipeline
    >>> load_pipeline("presto-sigridhash").stages["sigridhash"].timing.initiation_interval
    1
    """

    name: str
    kind: Literal["pipeline"]
    title: str
    source: str
    clocks: Annotated[dict[str, Clock], Field(min_length=1)]
    stages: Annotated[dict[str, Stage], Field(min_length=1)]
    fifos: dict[str, Fifo] = Field(default_factory=dict)
    ports: dict[str, Port] = Field(default_factory=dict)
    replicas: Replicas = Replicas()
    device: str | None = None
    """FPGA it is meant for."""
    unaccounted: Resources | None = None
    """Resources of a copy that belong to no stage: what a paper's total has above its rows."""

    @model_validator(mode="after")
    def _names_are_known(self) -> Pipeline:
        for name, stage in self.stages.items():
            if stage.clock is None and len(self.clocks) > 1:
                raise ValueError(f"stages.{name}: there are {len(self.clocks)} clocks; name one")
            if stage.clock is not None and stage.clock not in self.clocks:
                clock = stage.clock
                raise ValueError(f"stages.{name}.clock: '{clock}' is no clock{nearest(clock, self.clocks)}")
            if stage.memory is not None and stage.memory.port not in self.ports:
                port = stage.memory.port
                raise ValueError(f"stages.{name}.memory.port: '{port}' is no port{nearest(port, self.ports)}")
            if stage.consume > 1 and self.fifos_into(name):
                raise ValueError(f"stages.{name}.consume: items come by FIFOs; set their consume")
        for name, fifo in self.fifos.items():
            for end in fifo.between:
                if end not in self.stages:
                    raise ValueError(f"fifos.{name}.between: '{end}' is no stage{nearest(end, self.stages)}")
            writer, reader = (self.stages[end] for end in fifo.between)
            read = reader.timing.lanes * fifo.consume
            if read > fifo.capacity:
                raise ValueError(
                    f"fifos.{name}.capacity: {fifo.capacity} items, but {fifo.between[1]} reads {read} "
                    "at a time"
                )
            if isinstance(fifo.produce, int) and writer.timing.lanes * fifo.produce > fifo.capacity:
                written = writer.timing.lanes * fifo.produce
                raise ValueError(
                    f"fifos.{name}.capacity: {fifo.capacity} items, but {fifo.between[0]} writes {written} "
                    "at a time"
                )
        if not self.sources:
            raise ValueError("stages: none takes the input: every stage has a FIFO into it")
        if self.replicas.dispatch == "shared-queue" and len(self.sources) > 1:
            raise ValueError(
                "replicas.dispatch: shared-queue needs one stage that takes the input, "
                f"not {len(self.sources)}"
            )
        return self

    def fifos_into(self, stage: str) -> list[str]:
        """FIFOs a stage reads."""
        return [name for name, fifo in self.fifos.items() if fifo.between[1] == stage]

    def fifos_out_of(self, stage: str) -> list[str]:
        """FIFOs a stage writes."""
        return [name for name, fifo in self.fifos.items() if fifo.between[0] == stage]

    @cached_property
    def sources(self) -> list[str]:
        """Stages that take the input."""
        return [name for name in self.stages if not self.fifos_into(name)]

    @cached_property
    def sinks(self) -> list[str]:
        """Stages whose results leave the pipeline."""
        return [name for name in self.stages if not self.fifos_out_of(name)]

    def clock_of(self, stage: str) -> Clock:
        """The clock of a stage."""
        return self.clocks[self.stages[stage].clock or next(iter(self.clocks))]

    def properties(self) -> Iterator[tuple[str, str]]:
        """Names of the properties that a run must give, each with the stage whose firings it counts."""
        for name, stage in self.stages.items():
            if stage.timing.cost is not None:
                yield stage.timing.cost.property, name
        for fifo in self.fifos.values():
            if isinstance(fifo.produce, str):
                yield fifo.produce, fifo.between[0]
