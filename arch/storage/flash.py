"""NAND flash: dies, the bus of a channel, error correction."""

from __future__ import annotations

from functools import cached_property
from math import comb
from typing import Annotated, Literal

from pydantic import Field, model_validator

from neardata.arch.config_file import StrictModel

Positive = Annotated[float, Field(gt=0, le=1e15)]
NotNegative = Annotated[float, Field(ge=0, le=1e15)]
Whole = Annotated[int, Field(gt=0, le=1 << 40)]

PAGE_TYPES = {"slc": 1, "mlc": 2, "tlc": 3, "qlc": 4}
MOST_CHANNELS = 62
"""What fits the bit masks of the engine; so many chips or dies a channel, too."""


class Flash(StrictModel):
    """The flash array of a drive."""

    technology: Literal["slc", "mlc", "tlc", "qlc"]
    channels: Annotated[int, Field(gt=0, le=MOST_CHANNELS)]
    chips_per_channel: Whole
    dies_per_chip: Whole
    planes_per_die: Annotated[int, Field(gt=0, le=64)]
    blocks_per_plane: Annotated[int, Field(gt=0, le=1 << 24)]
    pages_per_block: Annotated[int, Field(gt=0, le=1 << 16)]
    page_bytes: Annotated[int, Field(ge=512, le=32768, multiple_of=512)]
    """Of user data; whole sectors of 512 bytes."""
    spare_bytes: Annotated[int, Field(ge=0, le=1 << 20)]
    read_ns: tuple[Positive, ...]
    """tR by page type: LSB, then CSB, MSB, … as far as they differ; the last one holds for the rest."""
    program_ns: tuple[Positive, ...]
    """tPROG by page type, likewise."""
    erase_ns: Positive
    page_types: Literal["interleaved", "yaakobi"] = "interleaved"
    """``interleaved``: the type of page n is n modulo the bits of a cell; ``yaakobi``: of TLC, the order of
    Yaakobi et al., ICNC 2012, as MQSim has it."""
    multi_plane: bool
    """Planes of a die work on one command together."""
    same_page: bool = True
    """A multi-plane command takes only pages of one index in their blocks."""
    independent_planes: bool = False
    """Each plane takes commands of its own."""
    cache_read: bool
    """The array reads the next page while the last one leaves the cache register."""
    cache_read_ns: NotNegative = 0.0
    """A page from data register to cache register, where the array waits for it."""
    suspend: Literal["none", "program", "erase", "both"] = "none"
    """What gives way to a read."""
    suspend_program_ns: NotNegative = 0.0
    suspend_erase_ns: NotNegative = 0.0
    suspend_program_left_ns: NotNegative = 0.0
    """A program with less than this left is not suspended."""
    suspend_erase_left_ns: NotNegative = 0.0
    erase_cycles: Whole = 10_000
    """Program and erase cycles that a block stands."""
    source: str

    @model_validator(mode="after")
    def _fits(self) -> Flash:
        units = self.chips_per_channel * self.dies_per_chip
        units *= self.planes_per_die if self.independent_planes else 1
        if units > MOST_CHANNELS:
            raise ValueError(
                f"at most {MOST_CHANNELS} chips, dies or independent planes a channel, got {units}"
            )
        if not self.read_ns or not self.program_ns:
            raise ValueError("read_ns and program_ns must name at least one page type")
        if self.page_types == "yaakobi" and self.technology != "tlc":
            raise ValueError("page_types: yaakobi is of tlc")
        if self.pages >= 1 << 31:
            raise ValueError(f"more than {(1 << 31) - 1:,} pages, got {self.pages:,}: take larger pages")
        return self

    @property
    def types(self) -> int:
        """Page types: bits of a cell."""
        return PAGE_TYPES[self.technology]

    @property
    def dies(self) -> int:
        return self.channels * self.chips_per_channel * self.dies_per_chip

    @property
    def planes(self) -> int:
        return self.dies * self.planes_per_die

    @property
    def pages(self) -> int:
        return self.planes * self.blocks_per_plane * self.pages_per_block

    @property
    def raw_bytes(self) -> int:
        """Of user data, without over-provisioning taken off."""
        return self.pages * self.page_bytes

    def page_type(self, page: int) -> int:
        """Type of a page of a block: 0 is LSB.

        >>> from neardata.arch.storage import load_ssd
        >>> flash = load_ssd("mqsim-c2").flash
        >>> [flash.page_type(page) for page in (0, 6, 8, 10, 12)]
        [0, 1, 0, 1, 2]
        """
        if self.page_types == "yaakobi":
            return 0 if page <= 5 else 1 if page <= 7 else ((page - 8) >> 1) % 3
        return page % self.types


class Bus(StrictModel):
    """The bus between the controller and the dies of a channel.

    Names and meanings of the timings are ONFI's, in ns.
    """

    mt_per_s: Annotated[int, Field(gt=0, le=100_000)]
    """Million transfers a second; any whole number, exactly kept."""
    width_bits: Literal[8, 16] = 8
    t_cs: NotNegative
    t_wc: NotNegative
    t_wb: NotNegative
    t_rr: NotNegative
    t_dbsy: NotNegative
    t_adl: NotNegative
    t_wpst: NotNegative
    t_wpsth: NotNegative
    t_cals: NotNegative
    t_rhw: NotNegative
    t_ccs: NotNegative
    data_out_ns: NotNegative = 0.0
    """Before the data of a page, or of a slice of it, leave a die."""
    spare_on_bus: bool = False
    """Spare bytes (ECC, metadata) cross the bus in proportion to the data."""
    source: str

    @property
    def gb_per_s(self) -> float:
        """Peak, 10^9 bytes/s.

        >>> from neardata.arch.storage import load_ssd
        >>> load_ssd("instinfer-csd").bus.gb_per_s
        1.4
        """
        return self.mt_per_s * self.width_bits / 8 / 1000

    def read_command_ns(self, planes: int) -> float:
        """Commands and addresses of a read, until the array starts.

        >>> from neardata.arch.storage import load_ssd
        >>> [load_ssd("mqsim-c1").bus.read_command_ns(n) for n in (1, 2)]
        [290.0, 940.0]
        """
        return self.t_cs + planes * 6 * self.t_wc + (planes - 1) * self.t_dbsy + self.t_wb + self.t_rr

    def program_command_ns(self, planes: int) -> float:
        """Commands and addresses of a program, without its data."""
        early = 5 * self.t_wc + self.t_adl + self.t_wpst + self.t_cals + self.t_wb + self.t_dbsy
        last = 6 * self.t_wc + self.t_adl + self.t_wpst + self.t_wpsth + self.t_wb
        return self.t_cs + (planes - 1) * early + last

    def erase_command_ns(self, planes: int) -> float:
        """Commands and addresses of an erase."""
        return self.t_cs + planes * (4 * self.t_wc + self.t_wb) + (planes - 1) * self.t_dbsy


class Ecc(StrictModel):
    """Error correction in the controller, and reads that it fails."""

    codeword_bytes: Whole
    correctable_bits: Annotated[int, Field(ge=0, le=1 << 16)]
    """Of a codeword."""
    decode_ns: NotNegative
    """From the last byte of a page to its corrected data; decoders enough for the bus."""
    rber: Annotated[float, Field(ge=0, lt=0.5)]
    """Raw bit error rate of a first read."""
    retry_factor: Annotated[float, Field(gt=0, le=1)]
    """Raw bit errors of a read again, by those of the read before."""
    retries: Annotated[int, Field(ge=0, le=64)]
    """At most; each takes another tR."""
    source: str

    def retry_probability(self, page_bytes: int, attempt: int) -> float:
        """That a page has an uncorrectable codeword: 1 - P(at most ``correctable_bits`` wrong)^codewords.

        Args:
            attempt: 0 for the first read.
        """
        rate, bits = self.rber * self.retry_factor**attempt, self.codeword_bytes * 8
        good = sum(
            comb(bits, k) * rate**k * (1 - rate) ** (bits - k) if k < 64 else _term(bits, k, rate)
            for k in range(self.correctable_bits + 1)
        )
        return max(0.0, 1 - min(good, 1.0) ** -(-page_bytes // self.codeword_bytes))

    @cached_property
    def fails(self) -> bool:
        return self.rber > 0


def _term(n: int, k: int, p: float) -> float:
    """Of the binomial distribution, without the overflow of large coefficients."""
    from math import exp, lgamma, log, log1p

    if p == 0:
        return 0.0
    return exp(lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) + k * log(p) + (n - k) * log1p(-p))
