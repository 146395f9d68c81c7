"""Attention engines in the controllers of drives."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from neardata.arch.config_file import StrictModel
from neardata.arch.storage.flash import NotNegative, Positive


class AttentionEngine(StrictModel):
    """Multiplies pages of keys and values with queries and probabilities as they come from the channels.

    Behind the flash controller of each channel a filter passes what is wanted of a page; two units multiply,
    one keys with queries, one probabilities with values; one unit does the softmax.
    """

    gemv_gflops: Positive
    """10^9 operations/s of each multiplying unit; a multiply-accumulate is two."""
    softmax_mops: Positive
    """10^6 scores/s of the softmax."""
    filter_gb_per_s: Positive
    """10^9 bytes/s of pages through the filter of one channel."""
    heads_in_flight: Annotated[int, Field(ge=2, le=4096)]
    """Heads of sequences whose pages may be in the engine's buffers at a time."""
    start_ns: NotNegative = 0.0
    """From the command of a layer's attention to the first read."""
    source: str
