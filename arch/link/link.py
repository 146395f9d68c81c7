"""Links: what moves bytes between units."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from neardata.arch.config_file import StrictModel
from neardata.arch.processor.processor import Constant

Positive = Annotated[float, Field(gt=0)]
Whole = Annotated[int, Field(gt=0)]


class Collective(StrictModel):
    """What a library of collective operations adds on this link."""

    startup_ns: Constant
    """Of an operation: launching and meeting, on every rank."""
    step_ns: Constant
    """Of a step that sends long data on to the next rank."""
    short_step_ns: Constant
    """Of a step of the protocol for short data, which sends a flag with every word: at half the rate."""
    fraction: Constant
    """Of the link's rate that long operations reach."""


class Link(StrictModel):
    """A link between two units, or from each of several units to a switch.

    >>> from neardata.arch.link import load_link
    >>> load_link("pcie-4").gb_per_s
    31.508
    """

    name: str
    kind: Literal["pcie", "nvlink", "nvswitch", "cxl", "on-package", "memory", "network"]
    title: str
    gb_per_s: Positive
    """Each direction, after line coding, before packet headers; 10^9 bytes/s."""
    latency_ns: Constant
    """Of the first byte, one way."""
    payload_bytes: Whole
    """At most, in a packet."""
    overhead_bytes: Annotated[int, Field(ge=0)]
    """Header, checksum and framing of a packet."""
    sharing: Literal["exclusive", "shared"]
    """``exclusive``: a transfer has the link to itself, others wait; ``shared``: flows share its rate
    fairly."""
    duplex: bool
    """Whether the directions do not hinder each other."""
    startup_ns: Constant
    """Of a transfer: what the initiator spends before the first byte leaves."""
    fraction: Constant
    """Of the rate after packet headers that long transfers reach."""
    pj_per_bit: Constant
    collective: Collective | None = None
    source: str
    """Of the rate, the packets and the rule for sharing."""
