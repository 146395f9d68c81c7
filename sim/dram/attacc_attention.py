"""AttAcc: attention of one new position of each sequence, sequences of any lengths, grouped queries.

The key-value heads of all sequences go round robin over the channels, the longest first. A channel works
on two query heads at a time, as `neardata.sim.dram.attacc.attention` does: of two key-value heads, or
of one whose group has several query heads; these repeat the MACs on the same rows.
Lengths count in units of 16 positions, one of each bank group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from neardata.arch.dram import Device
from neardata.arch.errors import InputError
from neardata.sim.dram.attacc import BANKS, COLUMNS, LANES, VALUE_ROW, Head, Steps, emit, pair, single
from neardata.sim.dram.attacc_matmul import LINE, PART
from neardata.sim.dram.program import ChannelGroup, Program, Step
from neardata.sim.dram.steps import classes, rounds, steps


def attention(
    context: Sequence[int], group: int, kv_heads: int, qk: int, v: int, *, channels: int, device: Device
) -> Program:
    """Attention, softmax included, over keys and values in the banks.

    Args:
        context: positions of each sequence.
        group: query heads of a key-value head.
        qk, v: widths of a head's keys and values, padded to 64.

    Raises:
        InputError: more keys or values than rows.
    """
    width, value_width = (-(-size // PART) * PART for size in (qk, v))
    lines = classes(-(-length // LINE) for length in context)
    heads_of = [count * kv_heads for _, count in lines]
    work = Counter(rounds(heads_of, channel, channels) for channel in range(channels))
    groups = []
    shapes = [Head(length * LINE, width, value_size=value_width) for length, _ in lines]
    for heads, count in work.items():
        rows = sum(n * head.rows for head, n in zip(shapes, heads, strict=True))
        _check_rows(rows, device, channels, f"keys and values of {sum(context)} positions")
        body: tuple[Step, ...] = ()
        row = 0
        for head, n in zip(shapes, heads, strict=True):
            if n:
                body += _heads(head, n, group, row)
                row += n * head.rows
        if body:
            groups.append(ChannelGroup(count, body))
    return Program(device.name, tuple(groups), "attention")


def _check_rows(rows: int, device: Device, channels: int, what: str) -> None:
    """Keys lie below `VALUE_ROW`, values from there on."""
    there = max(min(VALUE_ROW, device.organisation.row - VALUE_ROW), 0)
    if rows > there:
        size = COLUMNS * LANES * 2 * BANKS * LINE * channels * 2
        raise InputError(
            f"{what} would take {rows * size} bytes in the banks of {channels} channels ({rows} rows of each "
            f"for keys, as many for values from row {VALUE_ROW} on); "
            f"there are {there * size} (twice {there} rows)",
            key="banks",
        )


@lru_cache(maxsize=4096)
def _heads(head: Head, count: int, group: int, row: int) -> tuple[Step, ...]:
    """``count`` key-value heads of one length, their rows from ``row`` on."""
    unit = head.unit
    out: Steps = []
    if group == 1:
        pairs = count // 2
        if pairs:
            body = emit(pair(head), unit, f"{row} + {2 * head.rows}*p", stages=True)
            out.append({"loop": {"p": pairs}, "body": body})
        if count % 2:
            out += emit(single(head), unit, str(row + 2 * head.rows * pairs), stages=True)
    else:
        base = f"{row} + {head.rows}*h"
        body = emit(pair(head, shared=True), unit, base, stages=True)
        body = [{"loop": {"p": group // 2}, "body": body}]
        if group % 2:
            body += emit(single(head), unit, base, stages=True)
        out.append({"loop": {"h": count}, "body": body})
    return (*steps(out), *steps([{"fence": "all"}]))
