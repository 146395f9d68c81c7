"""What preprocessing does to which columns: specs in YAML, and those that ship with the package."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from neardata.arch.config_file import StrictModel
from neardata.arch.preset_file import PresetFolder
from neardata.workloads.recsys import operators


class SpacedBorders(StrictModel):
    """Borders at equal distances, of the numbers or of their logarithms."""

    count: int = Field(ge=1, le=2**24)
    low: float
    """First border."""
    high: float
    """Last border."""
    spacing: Literal["linear", "log"]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        if self.spacing == "log" and self.low <= 0:
            raise ValueError(f"low must be above 0 for spacing log, got {self.low}")
        return self

    @property
    def numbers(self) -> NDArray[np.float64]:
        """(count,)"""
        space = np.geomspace if self.spacing == "log" else np.linspace
        return space(self.low, self.high, self.count)


class FillNull(StrictModel):
    """A value where there is none."""

    op: Literal["fill_null"]
    value: float


class Log(StrictModel):
    """log(x + offset) in float32."""

    op: Literal["log"]
    offset: float = Field(default=0.0, allow_inf_nan=False)


class Logit(StrictModel):
    """log(z / (1 - z)), z = x kept within epsilon and 1 - epsilon."""

    op: Literal["logit"]
    epsilon: float = Field(default=1e-6, gt=0, lt=0.5)


class Bucketize(StrictModel):
    """Number of the bucket between borders."""

    op: Literal["bucketize"]
    borders: tuple[float, ...] | SpacedBorders

    @model_validator(mode="after")
    def _sound(self) -> Self:
        operators.checked_borders(self.numbers)
        return self

    @property
    def numbers(self) -> NDArray[np.float32]:
        """(count,) borders."""
        given = self.borders.numbers if isinstance(self.borders, SpacedBorders) else np.array(self.borders)
        return given.astype(np.float32)


class SigridHash(StrictModel):
    """A salted hash modulo ``max``."""

    op: Literal["sigrid_hash"]
    salt: int = Field(ge=-(2**63), lt=2**63)
    max: int = Field(ge=1, lt=2**63)


class FirstX(StrictModel):
    """The first k ids of each list."""

    op: Literal["first_x"]
    k: int = Field(ge=0, lt=2**31)


class Clamp(StrictModel):
    """min(max(v, low), high)."""

    op: Literal["clamp"]
    low: float
    high: float

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low <= self.high:
            raise ValueError(f"low must not be above high, got {self.low} and {self.high}")
        return self


class NGram(StrictModel):
    """Hashes of n neighbours in each list; our own definition."""

    op: Literal["ngram"]
    n: int = Field(ge=1)
    salt: int = Field(ge=-(2**63), lt=2**63)
    max: int = Field(ge=1, lt=2**63)


class OneHot(StrictModel):
    """A column of zeros and ones for each number below ``size``."""

    op: Literal["one_hot"]
    size: int = Field(ge=1, le=2**20)


Step = Annotated[
    FillNull | Log | Logit | Bucketize | SigridHash | FirstX | Clamp | NGram | OneHot,
    Field(discriminator="op"),
]


class Lengths(StrictModel):
    """Lengths of generated lists."""

    kind: Literal["fixed", "poisson", "geometric"]
    mean: float = Field(ge=0)


class Drawn(StrictModel):
    """What generated data of a group's columns are like; a list gives each column its own number."""

    source: str
    null_rate: float | tuple[float, ...] = 0.0
    log_mean: float | tuple[float, ...] | None = None
    """Numbers: mean of log(1 + x)."""
    log_deviation: float | tuple[float, ...] | None = None
    """Numbers: standard deviation of log(1 + x)."""
    distinct: int | tuple[int, ...] | None = None
    """Ids: how many different ones there may be."""
    zipf: float | None = Field(default=None, gt=0)
    """Ids: exponent s; the k-th most frequent id comes in proportion to k**-s."""
    lengths: Lengths | None = None
    """Ids: None gives one a row, not a list."""

    @model_validator(mode="after")
    def _numbers_or_ids(self) -> Self:
        numbers = self.log_mean is not None and self.log_deviation is not None
        ids = self.distinct is not None and self.zipf is not None
        if numbers == ids:
            raise ValueError("give log_mean and log_deviation (numbers), or distinct and zipf (ids)")
        return self


def expanded(names: str | tuple[str, ...]) -> tuple[str, ...]:
    """Names from a pattern.

    >>> expanded("I[1-3]"), expanded(("a", "b[8-9]"))
    (('I1', 'I2', 'I3'), ('a', 'b8', 'b9'))
    """
    if not isinstance(names, str):
        return tuple(name for part in names for name in expanded(part))
    match = re.fullmatch(r"([^\[\]]*)\[(\d+)-(\d+)\]([^\[\]]*)", names)
    if match is None:
        return (names,)
    first, last = int(match[2]), int(match[3])
    return tuple(f"{match[1]}{i}{match[4]}" for i in range(first, last + 1))


class Features(StrictModel):
    """Columns that go through the same steps."""

    columns: str | tuple[str, ...]
    """Names in the data; ``I[1-13]`` is I1 to I13."""
    features: str | tuple[str, ...] | None = None
    """Names of what comes out, one a column; None: the columns' own."""
    steps: tuple[Step, ...] = ()
    output: Literal["dense", "sparse"]
    """Where they end: columns of the dense matrix, or lists of ids for embedding tables."""
    table_rows: int | None = Field(default=None, ge=1)
    """Sparse: rows of each feature's embedding table."""
    generate: Drawn | None = None

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names in the data."""
        return expanded(self.columns)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of what comes out."""
        return self.column_names if self.features is None else expanded(self.features)

    @model_validator(mode="after")
    def _matching(self) -> Self:
        columns, features = self.column_names, self.feature_names
        if not columns:
            raise ValueError(f"columns '{self.columns}' name none")
        if len(columns) != len(features):
            raise ValueError(f"{len(features)} features for {len(columns)} columns")
        for name, given in self.generate or ():
            if isinstance(given, tuple) and len(given) != len(columns):
                raise ValueError(f"generate.{name} holds {len(given)} numbers for {len(columns)} columns")
        return self


class Spec(StrictModel):
    """Preprocessing of one model's samples."""

    kind: Literal["recsys"]
    name: str
    source: str
    """Where the numbers come from."""
    assumed: tuple[str, ...] = ()
    """What the source does not say and is set here."""
    batch: int = Field(ge=1)
    """Samples of a mini-batch."""
    label: str | None
    """Column of the label; None: there is none."""
    embedding_width: int | None = Field(default=None, ge=1)
    bottom_mlp: tuple[int, ...] = ()
    """Widths of the layers on the dense features."""
    top_mlp: tuple[int, ...] = ()
    """Widths of the layers above the interactions."""
    features: dict[str, Features]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        seen: dict[str, str] = {}
        for group, about in self.features.items():
            for name in about.feature_names:
                if name in seen:
                    raise ValueError(f"feature '{name}' comes out of '{seen[name]}' and of '{group}'")
                seen[name] = group
        if not seen:
            raise ValueError("features must not be empty")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read, each once, the label first."""
        named = [name for group in self.features.values() for name in group.column_names]
        return tuple(dict.fromkeys(named if self.label is None else [self.label, *named]))

    def names(self, output: Literal["dense", "sparse"]) -> tuple[str, ...]:
        """Features of an output, in its order."""
        groups = [group for group in self.features.values() if group.output == output]
        return tuple(name for group in groups for name in group.feature_names)


_PRESETS: PresetFolder[Spec] = PresetFolder(
    Path(__file__).parent / "data", "preprocessing", "preprocessing spec", {"recsys": Spec}
)


def spec_names() -> list[str]:
    """Specs that ship with the package.

    >>> spec_names()
    ['rm1', 'rm2', 'rm3', 'rm4', 'rm5']
    """
    return list(_PRESETS.shipped)


def load_spec(name: str, overrides: Mapping[str, Any] | None = None) -> Spec:
    """A spec by name, or ``FILE.yaml[:NAME]`` for one of one's own.

    Raises:
        InputError: unknown name, key or operator, a value that cannot be; with file and line.

    >>> rm5 = load_spec("rm5")
    >>> rm5.batch, len(rm5.names("dense")), len(rm5.names("sparse"))
    (8192, 504, 84)
    """
    return _PRESETS.load(name, overrides)
