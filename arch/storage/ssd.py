"""Solid-state drives: controller, mapping, garbage collection, cache, host link."""

from __future__ import annotations

from math import ceil, log2
from typing import Annotated, Literal

from pydantic import Field, model_validator

from neardata.arch.config_file import StrictModel
from neardata.arch.processor.processor import Constant
from neardata.arch.storage.attention import AttentionEngine
from neardata.arch.storage.compute import DieCompute
from neardata.arch.storage.flash import Bus, Ecc, Flash, NotNegative, Positive, Whole

SECTOR = 512


class Controller(StrictModel):
    """What takes the host's commands and orders the flash's work."""

    cores: Annotated[int, Field(gt=0, le=64)]
    read_ns: NotNegative
    """Of a core, for a read command of the host."""
    write_ns: NotNegative
    latency_ns: NotNegative
    """Of a command on its way through the firmware, beside the time of a core."""
    fetch: Whole
    """Commands of the host in the drive at most."""
    first_on_bus: Literal["command", "data"]
    """Which goes first on a channel: the command of a read, so that arrays stay busy, or data that wait."""
    source: str


class Mapping(StrictModel):
    """From logical to physical pages."""

    table: Literal["ideal", "cached"]
    """``cached``: entries that are not in the controller are read from flash, as DFTL does."""
    cached_bytes: Whole
    """Of the cached table."""
    allocation: str
    """Order in which logical pages fill channels (C), chips or ways (W), dies (D) and planes (P)."""
    dynamic: bool = False
    """Written pages go to the planes in turn, wherever their address would put them."""
    over_provisioning: Annotated[float, Field(ge=0, lt=1)]
    """Share of the raw capacity that the host does not see."""
    filled: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the logical space written in order before the run; the rest is unwritten."""
    source: str

    @model_validator(mode="after")
    def _order(self) -> Mapping:
        if sorted(self.allocation) != sorted("CWDP"):
            raise ValueError(
                f"allocation is an order of C, W, D and P, such as CWDP, got '{self.allocation}'"
            )
        return self


class Gc(StrictModel):
    """Garbage collection and wear levelling, plane by plane."""

    policy: Literal["greedy", "d-choices", "fifo"]
    """``d-choices``: the best of ``choices`` blocks drawn at random."""
    choices: Annotated[int, Field(ge=0, le=4096)] = 0
    """0: log2 of the blocks of a plane."""
    threshold: Annotated[float, Field(ge=0, lt=1)]
    """Collect when fewer blocks of the plane are free."""
    reserve: Annotated[int, Field(ge=1, le=1024)]
    """Free blocks kept for collection; the host's writes wait. At most so many blocks are collected at a
    time."""
    first: bool
    """Before the host's requests (not preemptible), or behind them."""
    copyback: bool = False
    """Pages move within their plane, without crossing the bus."""
    youngest_first: bool = True
    """Dynamic wear levelling: of the free blocks the least erased is written next."""
    wear_gap: Annotated[int, Field(ge=0)] = 0
    """Static wear levelling: the least erased block is moved when the most erased one is so far ahead; 0:
    not."""
    source: str


class Cache(StrictModel):
    """DRAM of the drive that holds written data."""

    mode: Literal["off", "write"]
    bytes: Whole
    mt_per_s: Whole
    bus_bytes: Whole
    row_bytes: Whole
    t_rcd: NotNegative
    t_cl: NotNegative
    t_rp: NotNegative
    source: str


class HostLink(StrictModel):
    """PCI Express between host and drive."""

    lanes: Whole
    lane_gb_per_s: Positive
    """One direction, after line coding, before packet headers."""
    payload_bytes: Whole
    """At most, in a packet."""
    overhead_bytes: Annotated[int, Field(ge=0, le=4096)]
    """Header, checksum and framing of a packet."""
    latency_ns: NotNegative
    """One way."""
    command_bytes: Whole = 64
    """A submission queue entry."""
    completion_bytes: Whole = 16
    doorbell_bytes: Whole = 4
    request_bytes: Annotated[int, Field(ge=0, le=4096)] = 0
    """Payload of a read request."""
    source: str

    @property
    def gb_per_s(self) -> float:
        return self.lanes * self.lane_gb_per_s

    def wire_bytes(self, payload: int) -> int:
        """Of ``payload`` bytes in packets.

        >>> from neardata.arch.storage import load_ssd
        >>> load_ssd("mqsim-c1").host.wire_bytes(4096)
        4992
        """
        return payload + -(-payload // self.payload_bytes) * self.overhead_bytes


class Energy(StrictModel):
    """Energy by action."""

    page_read_nj: Constant
    """Of an array read of a page."""
    page_program_nj: Constant
    block_erase_nj: Constant
    bus_pj_per_byte: Constant
    """Of a channel's bus, both ends."""
    controller_pj_per_byte: Constant
    """ECC and buffers, of every byte that crosses a channel."""
    link_pj_per_byte: Constant
    compute_pj_per_byte: Constant
    """Of a byte of a page that is worked on in the die."""
    idle_mw: Constant
    """Of the whole drive, all the time."""


class Compat(StrictModel):
    """Restrictions of MQSim (CMU-SAFARI/MQSim@7ec40e3), each a switch; ``--compat mqsim`` sets them all."""

    one_die_a_chip: bool = False
    """A chip takes a command only when all its dies are idle."""
    truncated_rate: bool = False
    """Two bytes take 2 * floor(1000 / MT/s) ns: 0 above 1000 MT/s."""
    truncated_link: bool = False
    """A message of the host link takes whole ns, rounded down, and waits for the messages before it whole."""
    no_suspend: bool = False
    """Suspension is described but never happens."""
    read_allocates: bool = False
    """Reading an unwritten page gives it a place."""
    mapping_writes_lost: bool = False
    """Written-back translation pages are queued and never written."""
    dram_formula: bool = False
    """Time of the cache's DRAM in whole ns, with half the rows of a long access."""
    whole_us: bool = False
    """Mean latency in whole µs, rounded down."""


ALL_COMPAT = {name: True for name in Compat.model_fields}


class Ssd(StrictModel):
    """A drive.

    >>> from neardata.arch.storage import load_ssd
    >>> ssd = load_ssd("mqsim-c1", {"bus.mt_per_s": 1866})
    >>> ssd.flash.raw_bytes >> 30, ssd.bus.gb_per_s
    (256, 1.866)
    """

    name: str
    kind: Literal["ssd"]
    title: str
    flash: Flash
    bus: Bus
    ecc: Ecc | None = None
    controller: Controller
    mapping: Mapping
    gc: Gc
    cache: Cache
    host: HostLink
    energy: Energy
    compute: DieCompute | None = None
    attention: AttentionEngine | None = None
    """Beside the flash controllers; None: the drive does none."""
    compat: Compat = Compat()
    limits: tuple[str, ...] = ()
    """What the description leaves out of the product."""
    source: str

    @property
    def sectors_per_page(self) -> int:
        return self.flash.page_bytes // SECTOR

    @property
    def logical_pages(self) -> int:
        """Pages that the host sees."""
        return self.logical_sectors // self.sectors_per_page

    @property
    def logical_sectors(self) -> int:
        share = 1 - self.mapping.over_provisioning
        per_plane = int(
            self.flash.blocks_per_plane * self.flash.pages_per_block * self.sectors_per_page * share
        )
        return per_plane * self.flash.planes

    @property
    def table_entry_bytes(self) -> int:
        """Of a cached mapping entry: logical and physical page, and a bit a sector."""
        return ceil((2 * log2(max(self.flash.pages, 2)) + self.sectors_per_page) / 8)

    @property
    def entries_per_translation_page(self) -> int:
        bits = log2(max(self.flash.pages, 2)) + self.sectors_per_page
        return self.flash.page_bytes // ceil(bits / 8)

    @model_validator(mode="after")
    def _usable(self) -> Ssd:
        if self.logical_sectors < self.sectors_per_page:
            raise ValueError("mapping.over_provisioning leaves the host no page")
        frontiers = 2 + (self.mapping.table == "cached")
        if self.flash.blocks_per_plane < frontiers + self.gc.reserve + 1:
            raise ValueError(
                f"flash.blocks_per_plane: {self.flash.blocks_per_plane} are too few; {frontiers} are written"
                f" to, {self.gc.reserve} are gc.reserve, and one must be left"
            )
        return self
