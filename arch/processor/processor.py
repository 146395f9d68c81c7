"""Processors as a roofline with named efficiencies, and systolic arrays."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from neardata.arch.config_file import StrictModel
from neardata.arch.errors import InputError, nearest

Positive = Annotated[float, Field(gt=0)]
Whole = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Basis = Literal["published", "calibrated", "assumed"]


class Constant(StrictModel):
    """A number that no data sheet gives, and what it rests on."""

    value: Annotated[float, Field(ge=0)]
    basis: Basis
    """``calibrated``: fitted to measurements, which then validate nothing; ``assumed``: no source."""
    source: str
    """The measurements it was fitted to, the publication, or the reason for the assumption."""


class Compute(StrictModel):
    """Arithmetic units and what they reach at best."""

    units: Whole
    """Cores, streaming multiprocessors, compute units: what work is spread over."""
    clock_mhz: Positive
    """The clock the peaks hold at."""
    peak_tflops: dict[str, Positive]
    """Dense matrix peak by operand type, 10^12 operations/s; a multiply-accumulate is two."""
    vector_tflops: Positive
    """Peak of element-by-element arithmetic in fp32, 10^12 operations/s."""
    tiles: tuple[tuple[Whole, Whole], ...]
    """Output tiles (rows, columns) that matrix kernels come in; the fastest is taken."""
    attention_tile: tuple[Whole, Whole]
    """Queries and keys that a block of fused attention works on at a time."""
    unit_bytes: Whole
    """Memory of one unit that its blocks share, such as shared memory or a core's own cache."""
    elementwise_ns: Positive | None = None
    """Launch, fill and drain of an element-by-element kernel, where it is not ``efficiency.launch_ns``."""
    row_ns: Constant | None = None
    """A unit's time for a row, where each of many short rows is reduced by a block of its own; None: no
    longer than its bytes and operations take."""
    splits: bool = True
    """Long inner products, and the keys of attention, are split over units that would idle."""
    source: str


class Memory(StrictModel):
    """The memory that holds weights and caches."""

    bytes: Whole
    gb_per_s: Positive
    """Peak, 10^9 bytes/s."""
    unit_gb_per_s: Positive | None = None
    """The most that one unit draws, 10^9 bytes/s: fewer blocks than units do not reach the peak.
    None: one could draw all of it."""
    source: str


class Cache(StrictModel):
    """A cache level, nearest the memory last."""

    name: str
    bytes: Whole
    """All of it."""
    gb_per_s: Positive
    """Peak towards the units, all of them together, 10^9 bytes/s."""
    basis: Basis
    source: str


class Efficiency(StrictModel):
    """What of the peaks is reached. These four are all that is fitted to measurements."""

    matrix: Constant
    """Fraction of the matrix peak that large full tiles reach on every unit."""
    memory: Constant
    """Fraction of the memory peak that long streams reach."""
    exposed: Constant
    """Fraction of the shorter of arithmetic and memory time that the longer does not hide."""
    launch_ns: Constant
    """From one kernel's end to the next one's full speed: launch, fill, drain; ns a kernel."""

    @model_validator(mode="after")
    def _fractions(self) -> Efficiency:
        for name in ("matrix", "memory", "exposed"):
            value = getattr(self, name).value
            if value > 1 or (value == 0 and name != "exposed"):
                raise ValueError(f"{name}: a fraction must be above 0 and at most 1, got {value}")
        return self


class Power(StrictModel):
    """Board or socket power."""

    tdp_w: Positive
    source: str
    idle_w: Constant
    """Drawn all the time, at rest too."""
    memory_pj_per_byte: Constant
    cache_pj_per_byte: Constant
    tdp_gb_per_s: Constant | None = None
    """Rate of the memory that the TDP powers. None: that of the preset's own memory, put here when it is
    loaded, so that another memory in its place does not change what arithmetic takes."""

    @model_validator(mode="after")
    def _idle_below_tdp(self) -> Power:
        if self.idle_w.value >= self.tdp_w:
            raise ValueError(f"idle_w {self.idle_w.value:g} W is not below tdp_w {self.tdp_w:g} W")
        return self


class Processor(StrictModel):
    """A CPU, GPU or NPU as peaks, efficiencies and energies.

    >>> from neardata.arch.processor import load_processor
    >>> load_processor("a100-80gb").peak_ops_per_ps("fp16")
    312.0
    """

    name: str
    kind: Literal["gpu", "cpu", "npu"]
    title: str
    """What the vendor calls it."""
    compute: Compute
    memory: Memory
    caches: tuple[Cache, ...] = ()
    efficiency: Efficiency
    power: Power
    actions: dict[str, Constant] = Field(default_factory=dict)
    """ns of one unit for an action known by what it costs, such as a hash or a request to a drive."""

    @model_validator(mode="before")
    @classmethod
    def _tdp_is_of_this_memory(cls, data: Any) -> Any:
        memory, power = (data.get(k) if isinstance(data, dict) else None for k in ("memory", "power"))
        if not isinstance(memory, dict) or not isinstance(power, dict) or power.get("tdp_gb_per_s"):
            return data
        rate = memory.get("gb_per_s")
        if not isinstance(rate, int | float):
            return data
        own = {
            "value": rate,
            "basis": "assumed",
            "source": "the TDP is drawn with the preset's own memory at peak",
        }
        return {**data, "power": {**power, "tdp_gb_per_s": own}}

    @model_validator(mode="after")
    def _memory_below_tdp(self) -> Processor:
        if self._arithmetic_w <= 0:
            raise ValueError("idle and memory power at peak leave nothing of the TDP for arithmetic")
        return self

    def peak_ops_per_ps(self, dtype: str) -> float:
        """Dense matrix peak, operations per ps (= 10^12 operations/s).

        Raises:
            InputError: the processor has no arithmetic of that type.
        """
        peaks = self.compute.peak_tflops
        if dtype not in peaks:
            raise InputError(f"{self.name} has no '{dtype}' arithmetic{nearest(dtype, peaks)}")
        return peaks[dtype]

    @cached_property
    def memory_bytes_per_ps(self) -> float:
        """Memory peak, bytes per ps."""
        return self.memory.gb_per_s / 1000

    @cached_property
    def cache(self) -> Cache | None:
        """The last level."""
        return self.caches[-1] if self.caches else None

    @property
    def _arithmetic_w(self) -> float:
        power = self.power
        rate = power.tdp_gb_per_s.value if power.tdp_gb_per_s else self.memory.gb_per_s
        memory_w = rate * power.memory_pj_per_byte.value / 1000
        return power.tdp_w - power.idle_w.value - memory_w

    def pj_per_operation(self, dtype: str) -> float:
        """Energy of a matrix operation, caches and registers included.

        Assumed: the TDP less idle power and less the power of the preset's own memory at its peak, over
        the dense peak.
        """
        return self._arithmetic_w / self.peak_ops_per_ps(dtype)

    @cached_property
    def vector_pj_per_operation(self) -> float:
        """Energy of an element-by-element operation in fp32, or in the narrowest type that holds it:
        fp64, else the matrix type that takes the most.

        >>> from neardata.arch.processor import load_processor
        >>> load_processor("cent-controller").vector_pj_per_operation > 0
        True
        """
        peaks = self.compute.peak_tflops
        known = next((dtype for dtype in ("fp32", "fp64") if dtype in peaks), None)
        return self.pj_per_operation(known or min(peaks, key=lambda dtype: peaks[dtype]))


class SystolicArray(StrictModel):
    """A grid of multiply-accumulate units that operands are pushed through.

    >>> from neardata.arch.processor import load_systolic
    >>> load_systolic("systolic-128", {"dataflow": "os"}).dataflow
    'os'
    """

    name: str
    kind: Literal["systolic"]
    title: str
    rows: Whole
    columns: Whole
    dataflow: Literal["os", "ws", "is"]
    """What stays in the array: output, weight or input."""
    fold_overlap: bool = False
    """The next fold's fill runs under the drain of the last one: double-buffered units."""
    clock_mhz: Positive
    mac_pj: Constant
    """Energy of a multiply-accumulate."""
    sram_pj_per_word: Constant
    source: str
