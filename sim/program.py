"""Programs: tasks on the units of a system, the one contract between mapping and time.

A program is saved as YAML or JSON, read, edited and run again::

    schema: 2
    name: one product
    system: a100
    placement:                      # what lies where when it starts
      - {tensor: w, place: gpu, bytes: 33554432}
      - {tensor: x, place: gpu, bytes: 8192}
    tasks:
      - name: product
        unit: gpu
        kernel: {kind: matmul, m: 1, n: 4096, k: 4096}
        operators: [product]
        reads: [{tensor: w, place: gpu, bytes: 33554432}, {tensor: x, place: gpu, bytes: 8192}]
        writes: [{tensor: y, place: gpu, bytes: 8192}]

Tasks are listed in an order in which they may run; ``after`` names the tasks each waits for.
A task says what its unit's engine runs (``kernel``) and which parts of which tensors it reads and
writes in which places, so that a program can be executed on data as well as in time.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from neardata.arch.config_file import ConfigFile, first_problem
from neardata.arch.errors import InputError

SCHEMA = 2
"""Of the saved form; it grows when a field changes its meaning or goes. 2: `PimMatMul` says how the device
does it in fields, not in the name of its order."""
_STRICT = ConfigDict(extra="forbid")

Slices = tuple[tuple[int, int], ...]
"""Half-open ranges, one per dimension."""


# --- kernels: what an engine runs -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MatMul:
    """``batch`` independent products y[m,n] = x[m,k] w[n,k]."""

    m: int
    n: int
    k: int
    batch: int = 1
    weights: str = "bf16"
    """Format of w, such as ``int4/g32``."""
    activations: str = "bf16"
    kind: Literal["matmul"] = "matmul"

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.batch * self.m * self.n * self.k


@dataclass(frozen=True, slots=True)
class GroupedMatMul:
    """Products of one shape with a matrix per group: ``rows[g]`` rows with matrix g."""

    rows: tuple[int, ...]
    n: int
    k: int
    weights: str = "bf16"
    activations: str = "bf16"
    kind: Literal["grouped_matmul"] = "grouped_matmul"

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return sum(self.rows) * self.n * self.k


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention over cached keys and values, softmax included."""

    queries: tuple[int, ...]
    """New positions of each sequence."""
    context: tuple[int, ...]
    """Cached positions of each sequence, the new ones included."""
    heads: int
    kv_heads: int
    qk: int
    """Width of queries and keys, of a head."""
    v: int
    """Width of values, of a head."""
    cache: str = "bf16"
    activations: str = "bf16"
    shared_kv: bool = False
    """Values are a part of the keys (a latent cache): read once."""
    causal: bool = True
    """A new position sees those before it and itself; otherwise all of the context."""
    window: int | None = None
    """Positions that a causal query looks back on, itself included; None: all."""
    kind: Literal["attention"] = "attention"

    @property
    def pairs(self) -> int:
        """Query-key pairs of a head."""
        if not self.causal:
            return sum(q * c for q, c in zip(self.queries, self.context, strict=True))
        pairs = sum(q * c - q * (q - 1) // 2 for q, c in zip(self.queries, self.context, strict=True))
        if self.window is None:
            return pairs
        # of the queries, the last sees most: those that see more than the window lose the rest
        for q, c in zip(self.queries, self.context, strict=True):
            beyond = max(0, c - self.window)
            cut = min(q, beyond)
            pairs -= cut * beyond - cut * (cut - 1) // 2
        return pairs

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.pairs * self.heads * (self.qk + self.v)


@dataclass(frozen=True, slots=True)
class Elementwise:
    """A pass over data: bytes in and out, and operations on the vector units."""

    read_bytes: int
    write_bytes: int
    operations: int
    memory_bytes: int = 0
    """Of those read and written, the bytes that no cache can hold: rows of a table, rows appended to
    keys and values, what another unit left in the memory."""
    rows: int = 0
    """Reduced one by one, as norms do: each by a block of its own."""
    kind: Literal["elementwise"] = "elementwise"

    @property
    def macs(self) -> int:
        """None: these are not matrix operations."""
        return 0


@dataclass(frozen=True, slots=True)
class PimMatMul:
    """Vectors times a matrix that lies in the banks: y[m,n] = x[m,k] w[n,k], a vector at a time."""

    m: int
    n: int
    k: int
    order: str = ""
    """How the device goes through it (of the device's program generator); empty: its default."""
    own_rows: bool = False
    """Outputs of a bank do not share rows, however short they are."""
    channels: int | None = None
    """So many channels hold the matrix and work, whichever are free; None: all of the unit."""
    k_parts: int = 1
    """Parts of k side by side, each on ``channels / k_parts`` of the channels; they give partial sums."""
    reduction: str = ""
    """Who adds the partial sums: ``processor``, in a task that follows, or the device's own ``buffer``;
    empty: there are none."""
    kind: Literal["pim_matmul"] = "pim_matmul"

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.m * self.n * self.k

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """Half-open ranges of k, as even as can be.

        >>> PimMatMul(1, 16, 10, k_parts=4).parts
        ((0, 2), (2, 5), (5, 7), (7, 10))
        """
        edges = [self.k * i // self.k_parts for i in range(self.k_parts + 1)]
        return tuple(itertools.pairwise(edges))

    @property
    def formless(self) -> PimMatMul:
        """What is computed, without how."""
        return PimMatMul(self.m, self.n, self.k)

    @property
    def partial_sums(self) -> int:
        """Of all parts; their size is the device's (`neardata.sim.system.pim_programs.partial_sum_bytes`)."""
        return self.k_parts * self.m * self.n if self.k_parts > 1 else 0


@dataclass(frozen=True, slots=True)
class PimAttention:
    """Attention of one new position of each sequence over keys and values in the banks."""

    context: tuple[int, ...]
    heads: int
    kv_heads: int
    qk: int
    v: int
    stage: Literal["both", "scores", "values"] = "both"
    """``scores``: queries with keys; ``values``: probabilities with values; ``both``: with the
    softmax between them, for memories that have a unit for it."""
    kind: Literal["pim_attention"] = "pim_attention"

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        width = {"both": self.qk + self.v, "scores": self.qk, "values": self.v}[self.stage]
        return sum(self.context) * self.heads * width


@dataclass(frozen=True, slots=True)
class FlashMatMul:
    """Vectors times a matrix that lies in flash pages: y[m,n] = x[m,k] w[n,k].

    Pages are filled strip by strip, a strip being ``columns`` columns of w (the last one what is left),
    and in a strip row by row, as many rows a page as fit. Dies multiply the first pages; the last
    ``streamed`` ones are read and sent to the processor that the drive is attached to, which multiplies
    them as they come.
    """

    m: int
    n: int
    k: int
    columns: int
    """Of w in a page."""
    page_weights: int
    """Weights that a page holds."""
    streamed: int = 0
    """Pages that the processor multiplies."""
    weights: str = "int8"
    activations: str = "int8"
    slice_bytes: int = 0
    """Streamed pages leave in slices of this size, and what dies need goes between; 0: in one piece."""
    kind: Literal["flash_matmul"] = "flash_matmul"

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.m * self.n * self.k

    @property
    def strips(self) -> tuple[tuple[int, int, int, int], ...]:
        """First column, width, rows a page, and pages of each strip.

        >>> FlashMatMul(1, 100, 600, 256, 16384).strips
        ((0, 256, 64, 2), (256, 256, 64, 2), (512, 88, 186, 1))
        """
        found = []
        for first in range(0, self.k, self.columns):
            width = min(self.columns, self.k - first)
            rows = max(self.page_weights // width, 1)
            found.append((first, width, rows, -(-self.n // rows)))
        return tuple(found)

    @property
    def pages(self) -> int:
        """Pages that the matrix takes."""
        return sum(pages for *_, pages in self.strips)


@dataclass(frozen=True, slots=True)
class FlashIo:
    """Bytes read from flash pages, or written: page after page over channels, then dies, then planes."""

    operation: Literal["read", "write"]
    bytes: int
    channels: int = 0
    """That they lie on, the first ones of the drive; 0: all."""
    dies: int = 0
    """Of each channel, likewise."""
    slice_bytes: int = 0
    """Of reads, as of `FlashMatMul`."""
    kind: Literal["flash_io"] = "flash_io"

    @property
    def macs(self) -> int:
        """None."""
        return 0


@dataclass(frozen=True, slots=True)
class FlashAttention:
    """Attention of one new position of each sequence, in the controller of a drive whose flash holds keys and
    values.

    A page holds one head's keys, or values, of consecutive positions of a sequence; positions that do not
    fill a page are in the controller's memory. With ``channels_kept`` attention is sparse (SparF, arXiv
    2409.04992 Algorithm 1): a second copy of the keys lies channel by channel; the channels of the largest
    queries give approximate scores, and the positions of the largest of these are attended to.
    """

    context: tuple[int, ...]
    """Cached positions of each sequence, the new one included."""
    heads: int
    kv_heads: int
    qk: int
    v: int
    cache: str = "fp16"
    page_bytes: int = 4096
    """Of the drive."""
    channels_kept: int = 0
    """Of the ``qk`` of a head, for approximate scores; 0: dense."""
    tokens_kept: float = 1.0
    """Share of the positions that are attended to, at least one."""
    channels_a_page: int = 4
    """Channels of keys in a page of the second copy."""
    pages_read: float = 1.0
    """Share of the pages of either copy that hold something wanted, and are read."""
    ranked: bool = False
    """Approximate scores are only ranked, without a softmax over them."""
    kind: Literal["flash_attention"] = "flash_attention"

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the attention that it stands for, dense."""
        return sum(self.context) * self.heads * (self.qk + self.v)


FlashPart = Annotated[FlashMatMul | FlashIo, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True)
class FlashTogether:
    """Kernels that start on one drive at the same time and contend for its dies and channels."""

    parts: tuple[FlashPart, ...]
    kind: Literal["flash_together"] = "flash_together"

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all."""
        return sum(part.macs for part in self.parts)


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bytes from one unit to another over a link."""

    source: str
    target: str
    bytes: int
    kind: Literal["transfer"] = "transfer"

    @property
    def macs(self) -> int:
        """None."""
        return 0


@dataclass(frozen=True, slots=True)
class Collective:
    """Bytes that every unit of a list exchanges with all others."""

    operation: Literal["all_reduce", "all_gather"]
    units: tuple[str, ...]
    bytes: int
    """Of the result at each unit."""
    kind: Literal["collective"] = "collective"

    @property
    def macs(self) -> int:
        """None."""
        return 0


@dataclass(frozen=True, slots=True)
class Stream:
    """Items through a streaming pipeline of the unit."""

    pipeline: str
    """A name of the unit's ``pipelines``."""
    items: int
    properties: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """(name, values): what costs and numbers of results depend on; see `neardata.sim.stream.run_stream`."""
    kind: Literal["stream"] = "stream"

    @property
    def macs(self) -> int:
        """None: what a stage computes is not told."""
        return 0


@dataclass(frozen=True, slots=True)
class Actions:
    """So many of each of a processor's ``actions``, spread evenly over its units."""

    actions: tuple[tuple[str, int], ...]
    """(name, how often)."""
    kind: Literal["actions"] = "actions"

    @property
    def macs(self) -> int:
        """None."""
        return 0


@dataclass(frozen=True, slots=True)
class Pause:
    """A fixed time on a unit, in picoseconds: for costs known only as a number."""

    time_ps: int
    kind: Literal["pause"] = "pause"

    @property
    def macs(self) -> int:
        """None."""
        return 0


Kernel = Annotated[
    MatMul
    | GroupedMatMul
    | Attention
    | Elementwise
    | PimMatMul
    | PimAttention
    | FlashMatMul
    | FlashIo
    | FlashTogether
    | FlashAttention
    | Transfer
    | Collective
    | Stream
    | Actions
    | Pause,
    Field(discriminator="kind"),
]


# --- tasks and programs ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Operand:
    """A part of a tensor in a place (the name of a unit)."""

    tensor: str
    place: str
    bytes: int
    slices: Slices | None = None
    """None: all of it."""
    add: bool = False
    """Written by adding to what is there: a partial sum."""


@dataclass(frozen=True, slots=True)
class Task:
    """Something one unit does, from start to end."""

    name: str
    unit: str
    """A unit or a link of the system."""
    kernel: Kernel
    after: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    """The operators of the graph that it is, or is a part of, in their order."""
    reads: tuple[Operand, ...] = ()
    writes: tuple[Operand, ...] = ()
    step: int = 0
    """Which of the steps that follow each other it belongs to."""


@dataclass(frozen=True)
class Program:
    """Tasks, and where data lie at the start."""

    name: str
    system: str
    tasks: tuple[Task, ...]
    placement: tuple[Operand, ...] = ()
    operators: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of the graph: name: {kind, group, copies, macs}; what the tasks must add up to, where ``copies`` units
    do the same."""
    tokens: int = 0
    """Tokens that one run makes, for rates per token."""
    hardware: Mapping[str, Any] = field(default_factory=dict)
    """The system itself, as its file has it; empty: the one that ships under the name ``system``."""
    notes: tuple[str, ...] = ()
    """What who wrote the program wants to be known with its results."""
    reserved: Mapping[str, int] = field(default_factory=dict)
    """Bytes kept free in a place, for what is brought there later."""
    figures: Mapping[str, int] = field(default_factory=dict)
    """What who wrote the program counted of its choices."""
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for task in self.tasks:
            if task.name in seen:
                raise InputError("there are two tasks of this name", key=f"tasks.{task.name}")
            for name in task.after:
                if name not in seen:
                    problem = f"waits for '{name}', which is not listed before it"
                    raise InputError(problem, key=f"tasks.{task.name}")
            seen.add(task.name)

    @property
    def bytes_at(self) -> dict[str, int]:
        """Bytes placed in each place at the start, or reserved there."""
        held = dict(self.reserved)
        for operand in self.placement:
            held[operand.place] = held.get(operand.place, 0) + operand.bytes
        return held

    def to_dict(self) -> dict[str, Any]:
        """As `from_dict` takes it; defaults left out."""
        return {
            "schema": self.schema,
            "name": self.name,
            "system": self.system,
            "tokens": self.tokens,
            "hardware": dict(self.hardware),
            "operators": {name: dict(values) for name, values in self.operators.items()},
            **({"notes": list(self.notes)} if self.notes else {}),
            **({"reserved": dict(self.reserved)} if self.reserved else {}),
            **({"figures": dict(self.figures)} if self.figures else {}),
            "placement": [_plain(operand) for operand in self.placement],
            "tasks": [_plain(task) for task in self.tasks],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Program:
        """From the form at the top of this file.

        Raises:
            InputError: unknown or missing keys, two tasks of one name, a task that waits for a later one.

        >>> kernel = {"kind": "matmul", "m": 1, "n": 8, "k": 8}
        >>> task = {"name": "t", "unit": "gpu", "kernel": kernel}
        >>> Program.from_dict({"name": "p", "system": "a100", "tasks": [task]}).tasks[0].kernel.macs
        64
        """
        _check_schema(data)
        try:
            return _ADAPTER.validate_python(data)
        except ValidationError as error:
            keys, message = first_problem(Program, error, data)
            raise InputError(message, key=".".join(map(str, keys)) or None) from None

    def write(self, path: Path) -> None:
        """As YAML, or JSON by the suffix ``.json``."""
        data = self.to_dict()
        with path.open("w", encoding="utf-8") as stream:
            if path.suffix == ".json":
                json.dump(data, stream, indent=1)
            else:
                dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
                yaml.dump(data, stream, Dumper=dumper, sort_keys=False, default_flow_style=None, width=160)

    @classmethod
    def read(cls, path: Path) -> Program:
        """A saved program.

        Raises:
            InputError: with file, line and key.
        """
        file = ConfigFile(path)
        if isinstance(file.data, dict) and "schema" not in file.data:
            raise file.error(f"missing; this version reads schema {SCHEMA}", "schema")
        try:
            _check_schema(file.data)
        except InputError as error:
            raise file.error(error.message, "schema") from None
        try:
            return _ADAPTER.validate_python(file.data)
        except ValidationError as error:
            keys, message = first_problem(Program, error, file.data)
            raise file.error(message, *keys) from None
        except InputError as error:
            raise InputError(error.message, file=path, key=error.key) from None


def _check_schema(data: Any) -> None:
    """Programs of another version of the format are refused before their keys are looked at."""
    found = data.get("schema", SCHEMA) if isinstance(data, dict) else SCHEMA
    if found != SCHEMA:
        again = "save the program again with 'neardata explain STUDY --save'"
        raise InputError(f"is {found}; this version reads schema {SCHEMA}: {again}", key="schema")


_DEFAULTS: dict[type, dict[str, Any]] = {}


def _plain(value: Any) -> Any:
    """Dataclasses as dictionaries without what is at its default (``kind`` stays)."""
    kind = type(value)
    if hasattr(kind, "__dataclass_fields__"):
        if kind not in _DEFAULTS:
            _DEFAULTS[kind] = {name: f.default for name, f in kind.__dataclass_fields__.items()}
        items = ((name, getattr(value, name), default) for name, default in _DEFAULTS[kind].items())
        return {name: _plain(v) for name, v, default in items if name == "kind" or v != default}
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value


_TYPES: tuple[Any, ...] = (
    MatMul, GroupedMatMul, Attention, Elementwise, PimMatMul, PimAttention, FlashMatMul, FlashIo,
    FlashTogether, FlashAttention, Transfer, Collective, Stream, Pause, Operand, Task, Program,
)  # fmt: skip
for _type in _TYPES:
    _type.__pydantic_config__ = _STRICT
_ADAPTER: TypeAdapter[Program] = TypeAdapter(Program)


def total(operands: Iterable[Operand]) -> int:
    """Bytes of all of them."""
    return sum(operand.bytes for operand in operands)
