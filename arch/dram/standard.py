"""The schema of a DRAM or PIM standard: one YAML file each, in ``arch/dram/data``.

A file reads like the tables of a JEDEC document: levels, commands, then one timing
constraint a line under the level it belongs to, then presets.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, FiniteFloat, PositiveInt, model_validator

from neardata.arch.config_file import StrictModel
from neardata.arch.dram.expression import names_in

BankState = Literal["closed", "activating", "open"]

#: What the request controller uses each command for.
Role = Literal[
    "read", "write", "read_autoprecharge", "write_autoprecharge",
    "activate", "activate_second", "precharge", "precharge_all", "precharge_same_bank",
    "refresh_all", "refresh_bank", "refresh_same_bank", "sync_read", "sync_write",
]  # fmt: skip


class Command(StrictModel):
    """One row of the command table."""

    at: str
    """Level of the node the command addresses; it acts on every bank below that node."""
    across: tuple[str, ...] = ()
    """Levels it spans besides: ``at: bank, across: [bank_group]`` is the same bank of every group."""
    cycles: FiniteFloat = Field(default=1, gt=0, le=1024)
    """Clock cycles it holds its command bus (halves allowed where ``ticks_per_clock`` is 2)."""
    bus: Literal["row", "column"] = "row"
    """Command bus it travels on; matters only with ``command_bus: dual``."""
    needs: tuple[BankState, ...] = ()
    """States every bank it acts on must be in (empty: any)."""
    leaves: BankState | None = None
    """State it leaves those banks in (default: unchanged)."""
    data: Literal["read", "write"] | None = None
    """Direction of the burst it moves over the data bus, if any."""
    latency: str | None = None
    """Clock cycles from its issue until it is complete, an expression over timing names (default:
    to the end of the burst it moves, else the cycles it holds its bus)."""
    row_hit: bool = False
    """It must address the open row."""
    refreshes: bool = False
    """It refreshes the banks it acts on."""
    computes: bool = False
    """It makes the banks' processing units work (PIM)."""
    modes: tuple[str, ...] = ()
    """Device modes in which it is legal (empty: any)."""
    enters: str | None = None
    """Device mode it switches to."""


class Rule(StrictModel):
    """One timing constraint, parsed from a line such as
    ``tFAW: ACT -> ACT = nFAW window 4`` under the heading of its level."""

    name: str
    """JEDEC's name of the parameter that binds: the *cause* in reports."""
    level: str
    """Holds between commands whose targets share a node of this level."""
    first: tuple[str, ...]
    then: tuple[str, ...]
    gap: str
    """Least distance in clock cycles, an expression over timing names."""
    window: PositiveInt = 1
    """Counts from the ``window``-th latest preceding command (4 for tFAW)."""
    sibling: bool = False
    """Holds between *different* nodes of the level under one parent (rank switches)."""


LONGEST_WINDOW = 1024
_RULE = re.compile(
    r"^(?P<first>[\w,\s]+)->(?P<then>[\w,\s]+)=(?P<gap>.+?)"
    r"(?:\s+window\s+(?P<window>\d+))?(?P<sibling>\s+sibling)?\s*$"
)


def parse_rule(level: str, name: str, text: str) -> Rule:
    """A `Rule` from its line in the file.

    Raises:
        ValueError: the line is not of the form ``A,B -> C,D = expression [window N] [sibling]``.
    """
    match = _RULE.match(text)
    if match is None or match["window"] == "0":
        raise ValueError(f"'{text}' is not of the form 'A,B -> C,D = expression [window N] [sibling]'")
    if len(match["window"] or "") > 4 or int(match["window"] or 1) > LONGEST_WINDOW:
        raise ValueError(f"a window of {match['window']} commands; at most {LONGEST_WINDOW}")
    first, then = (tuple(c.strip() for c in match[part].split(",")) for part in ("first", "then"))
    names_in(match["gap"])
    return Rule(
        name=name, level=level, first=first, then=then, gap=match["gap"].strip(),
        window=int(match["window"] or 1), sibling=match["sibling"] is not None,
    )  # fmt: skip


def _one_rule(line: dict[str, str]) -> dict[str, str]:
    if len(line) != 1:
        raise ValueError("one 'name: A -> B = gap' a line")
    return line


RuleLine = Annotated[dict[str, str], AfterValidator(_one_rule)]


def _power_of_two(count: int) -> int:
    if count & (count - 1):
        raise ValueError(f"must be a power of two, got {count}")
    return count


PowerOfTwo = Annotated[PositiveInt, AfterValidator(_power_of_two)]


class Organisation(StrictModel):
    """Counts of one channel. Every count is a power of two: addresses are bit fields."""

    levels: dict[str, PowerOfTwo] = Field(default_factory=dict)
    """Nodes per parent for each level between channel and row, e.g. ``{rank: 1, bank_group: 4, bank: 4}``."""
    row: PowerOfTwo
    """Rows per bank."""
    column: PowerOfTwo
    """Columns per row; a burst takes ``prefetch`` of them."""
    width: PowerOfTwo
    """Data bits of the bus a burst crosses (channel, or pseudo-channel where there are such)."""
    device_width: PositiveInt
    """Data bits (dq) of one device; ``width / device_width`` devices work in step."""
    density_Mb: PositiveInt | None = None
    """Capacity of one device, checked against the counts where given."""

    @model_validator(mode="after")
    def _whole_devices(self) -> Self:
        if self.width % self.device_width:
            raise ValueError(f"width {self.width} is not a multiple of device_width {self.device_width}")
        return self


Amount = Annotated[FiniteFloat, Field(ge=0)]


class IddEnergy(StrictModel):
    """Data-sheet currents of one device (JESD79 IDD conditions), in mA, and supply voltages in V."""

    kind: Literal["idd"]
    source: str
    status: Literal["data sheet", "assumed"]
    VDD: Amount
    VPP: Amount = 0.0
    """0: no such supply."""
    IDD0: Amount
    IDD2N: Amount
    IDD3N: Amount
    IDD4R: Amount
    IDD4W: Amount
    IDD5B: Amount
    IPP0: Amount = 0.0
    IPP3N: Amount = 0.0
    """Standby current of VPP, rows open or not."""
    IPP5B: Amount | None = None
    """None: not known; refreshes then count without their share of VPP."""
    rho: FiniteFloat = Field(default=1.0, ge=0, le=1)
    """Share of IDD3N - IDD2N drawn as soon as a bank is open; the rest comes bank by bank (DRAMPower)."""
    io_pj_per_bit: Amount | None = None
    """Interface energy per transferred bit, besides the core (termination, drivers). None: not known."""


class PerBitEnergy(StrictModel):
    """Energies from the literature, for devices without public IDD values."""

    kind: Literal["per_bit"]
    source: str
    status: Literal["literature", "assumed"]
    activate_pj: Amount
    """One ACT and its PRE, of the row of one bank (all devices in step)."""
    read_pj_per_bit: Amount
    write_pj_per_bit: Amount
    io_pj_per_bit: Amount
    """0: the energies of reads and writes include it."""
    refresh_pj_per_bank: Amount
    """Refreshing one bank once (one REFpb; an all-bank refresh is this times its banks)."""
    background_mw: Amount
    """Standby power of one channel (0: not known, and not counted)."""
    background_open_mw: Amount | None = None
    """The same while a bank is open, where known apart."""


class Preset(StrictModel):
    """One device: an organisation and a complete set of timings, with their source."""

    source: str
    organisation: Organisation
    timing: dict[str, int]
    """Clock cycles, but for ``tCK_ps`` (picoseconds) and ``rate`` (MT/s). A refresh interval
    of 0: never refreshed."""
    energy: Annotated[IddEnergy | PerBitEnergy, Field(discriminator="kind")] | None = None
    command_energy_pj: dict[str, Amount] = Field(default_factory=dict)
    """Energy of one issue of a command, per bank it acts on, where not derived from ``energy`` (PIM)."""


class Standard(StrictModel):
    """A whole file."""

    standard: str
    source: str
    extends: str | None = None
    """Standard whose levels, commands, roles and constraints come first (PIM on HBM2, say)."""
    ticks_per_clock: PositiveInt = Field(default=1, le=16)
    """Simulated cycles per clock: 2 where row commands may use either clock edge (HBM3)."""
    prefetch: PositiveInt | None = None
    """Columns one burst moves."""
    command_bus: Literal["single", "dual"] | None = None
    """``dual``: one column and one row command may issue in the same cycle."""
    data_bus_at: str | None = None
    """Level that owns a data bus."""
    refresh_at: str | None = None
    """Level whose nodes an all-bank refresh covers."""
    levels: tuple[str, ...] = ()
    """Levels from below the channel down to ``bank``."""
    modes: tuple[str, ...] = ()
    """Device modes, the first at power-up (PIM)."""
    read_latency: str | None = None
    """Clock cycles from a read command to the end of its burst."""
    write_latency: str | None = None
    """Clock cycles from a write command to the end of its burst."""
    roles: dict[Role, str] = Field(default_factory=dict)
    commands: dict[str, Command] = Field(default_factory=dict)
    constraints: dict[str, list[RuleLine]] = Field(default_factory=dict)
    corrections: dict[str, list[RuleLine]] = Field(default_factory=dict)
    """Further constraints, which the peer simulator that the table was read from lacks."""
    limits: tuple[str, ...] = ()
    """What the standard says and the table does not."""
    presets: dict[str, Preset] = Field(default_factory=dict)
