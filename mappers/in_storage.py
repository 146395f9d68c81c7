"""Keys and values away from the processor: on drives that do attention, or in a memory that sends them.

On drives the key heads of a slot are divided over all of the group; queries go there, results come back,
and new rows are collected until they fill pages. From a memory, or a drive that only stores, what is cached
is sent to the processor for every layer, the next layer's while one is worked on.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from neardata.arch.errors import InputError
from neardata.arch.precision import Format
from neardata.arch.storage import Ssd
from neardata.arch.system import System
from neardata.mappers.mapping import Mapping, SparseAttention, attention_group, cache_group
from neardata.mappers.regions import Shard, input_shard, regions_of
from neardata.mappers.sharding import Rule
from neardata.sim.program import FlashAttention, FlashIo, Operand, Task, Transfer, total
from neardata.sim.system.flash_attention import CHANNEL_KEYS, KEYS, VALUES, attention_pages
from neardata.workloads.graph import Graph, Operator

if TYPE_CHECKING:
    from neardata.mappers.lowering_pass import Pass

BUFFERS = 2
"""Layers whose keys and values from another memory are at the processor at a time."""


@dataclass(frozen=True)
class Part:
    """Heads of a slot on one drive."""

    drive: str
    heads: tuple[int, int]
    kv_heads: tuple[int, int]


class CachePlacer:
    """Where keys and values lie, if not beside the processor."""

    def __init__(self, system: System, mapping: Mapping) -> None:
        group, memory = attention_group(system, mapping), cache_group(system, mapping)
        self.drives = system.names(group) if group is not None else []
        self.memory = None if memory is None else system.names(memory)[0]
        self.ssd: Ssd | None = None if group is None else system.drive(group)
        self.sparse: SparseAttention | None = mapping.sparse
        self.sent: dict[tuple[str, int, str], str] = {}
        """(cache, slot, place): the task that brings its new rows there."""
        self.read: dict[int, list[str]] = {}
        """Attention of a slot that took keys and values from a memory, in its order."""

    def refusal(self, graph: Graph, operator: Operator) -> str | None:
        """Why attention does not run in drives; None: it does."""
        if set(operator["queries"]) != {1}:
            return "several new positions of a sequence; attention in drives takes one"
        return self.unfit(graph, operator)

    def unfit(self, graph: Graph, operator: Operator) -> str | None:
        """Why drives do not take an attention's keys and values, whatever the step."""
        caches = [graph.tensors[name] for name in operator.inputs[1:]]
        if len(caches) != 2 or any(c.role != "cache" or len(c.shape) != 3 for c in caches):
            return "attention in drives takes keys and values of each head, and no table beside"
        if any(c.format.group is not None or c.format.bits % 8 for c in caches):
            return f"keys and values in {caches[0].format}; engines of drives take no scales"
        a = operator.attributes
        if a.get("window") is not None or not a.get("causal", True) or a.get("sinks"):
            return "attention in drives is causal, over all positions"
        return None

    def parts(self, operator: Operator, rule: Rule, i: int) -> list[Part]:
        """Heads of a slot, key heads evenly divided over the drives."""
        heads, kv_heads = int(operator["heads"]), int(operator["kv_heads"])
        group = heads // kv_heads
        first, end = (0, heads) if rule.form == "whole" else rule.bounds[i]
        low, high = first // group, -(-end // group)
        n, found = len(self.drives), []
        for d, drive in enumerate(self.drives):
            a, b = low + (high - low) * d // n, low + (high - low) * (d + 1) // n
            mine = max(first, a * group), min(end, b * group)
            if mine[0] < mine[1]:
                found.append(Part(drive, mine, (a, b)))
        return found

    def kernel(self, graph: Graph, operator: Operator, part: Part) -> FlashAttention:
        """What a drive runs."""
        assert self.ssd is not None
        qk, how = int(operator["qk"]), self.sparse
        kernel = FlashAttention(
            tuple(operator["context"]), part.heads[1] - part.heads[0], part.kv_heads[1] - part.kv_heads[0],
            qk, int(operator["v"]), str(graph.tensors[operator.inputs[1]].format), self.ssd.flash.page_bytes,
        )  # fmt: skip
        if how is None:
            return kernel
        return replace(
            kernel, channels_kept=max(1, round(qk * how.channels)), tokens_kept=how.tokens,
            channels_a_page=how.channels_a_page, pages_read=how.pages, ranked=how.ranked,
        )  # fmt: skip

    def room(self, graph: Graph, operator: Operator, name: str, part: Part) -> int:
        """Bytes of the pages that a part of a cache lies in, as attention finds them there."""
        kernel = self.kernel(graph, operator, part)
        copies = (CHANNEL_KEYS, KEYS) if name == operator.inputs[1] else (VALUES,)
        pages = 0
        for context, sequences in Counter(kernel.context).items():
            one = replace(kernel, context=(context,), heads=1, kv_heads=1)
            pages += sequences * sum(_pages(one)[copy] for copy in copies)
        return pages * kernel.page_bytes * kernel.kv_heads

    def written(self, kernel: FlashAttention) -> int:
        """Bytes that new positions add, which is a step's share of the pages that they fill. The drive
        programs whole pages: the last one, or the only one, counts in full each step."""
        size = Format.parse(kernel.cache).bits // 8
        keys, values = kernel.page_bytes // (size * kernel.qk), kernel.page_bytes // (size * kernel.v)
        rows = len(kernel.context) * kernel.kv_heads
        pages = rows * (2 if kernel.channels_kept else 1) / keys + rows / values
        return ceil(pages * kernel.page_bytes)


@cache
def _pages(one: FlashAttention) -> tuple[int, ...]:
    """Pages of each copy, of one head of one sequence."""
    copy = attention_pages(one, 1).copy
    return tuple(int(n) for n in np.bincount(copy, minlength=3))


def attend_on_drives(walk: Pass, operator: Operator, i: int, processor: str, suffix: str) -> None:
    """Queries to the drives, attention there, results back, and full pages written behind it."""
    low, graph, caches = walk.low, walk.graph, walk.low.caches
    rule = walk.sharding.rules[operator.name]
    here = low.place_of(processor)
    query, output = operator.inputs[0], operator.outputs[0]
    last = len(graph.tensors[query].shape) - 1
    base, back, names = f"{walk.name}{operator.name}{suffix}", [], (walk.prefix + operator.name,)
    for part in caches.parts(operator, rule, i):
        there = low.place_of(part.drive)
        qs = Shard(last, part.heads[0] * operator["qk"], part.heads[1] * operator["qk"])
        outs = Shard(last, part.heads[0] * operator["v"], part.heads[1] * operator["v"])
        one = base if len(caches.drives) == 1 else f"{base}@{part.drive}"
        held = walk.held.get((query, i)) or walk.held[query, 0]
        sent, came = walk._operand(query, here, qs), walk._operand(query, there, qs)
        link = low.link_between(here, there)
        walk._add(
            Task(f"{one}.query", link, Transfer(here, there, sent.bytes), held[here], (), (sent,), (came,))
        )
        after: tuple[str, ...] = (f"{one}.query",)
        reads = [came]
        for name in operator.inputs[1:]:
            reads.append(walk._operand(name, there, Shard(1, *part.kv_heads)))
            after += (caches.sent[name, i, there],)
        kernel = caches.kernel(graph, operator, part)
        made = walk._operand(output, there, outs)
        walk._add(Task(one, part.drive, kernel, tuple(dict.fromkeys(after)), names, tuple(reads), (made,)))
        result = Task(
            f"{one}->{here}", link, Transfer(there, here, made.bytes), (one,), (), (made,),
            (walk._operand(output, here, outs),),
        )  # fmt: skip
        walk._add(result)
        back.append(result.name)
        walk._add(Task(f"{one}.write", part.drive, FlashIo("write", caches.written(kernel)), (one,)))
    walk.held[output, i] = {here: tuple(back)}
    walk.ends += tuple(back)


def append_on_drives(walk: Pass, appends: list[Operator], i: int, processor: str, task: str) -> None:
    """New rows of keys and values to the drives of their heads. Where the processor does the attention, of
    all positions of a prompt, they are written to pages at once."""
    low, graph, caches = walk.low, walk.graph, walk.low.caches
    here = low.place_of(processor)
    moved: dict[str, list[Operand]] = {}
    decodes = True
    for operator in appends:
        name = operator.outputs[0]
        user = next(o for o in walk.users[name] if o.kind == "attention")
        decodes = caches.refusal(graph, user) is None
        if not decodes and tuple(user["queries"]) != tuple(user["context"]):
            raise InputError(
                "a prompt goes to drives in one piece: earlier positions lie there", key="attention"
            )
        for part in caches.parts(user, walk.sharding.rules[user.name], i):
            there, shard = low.place_of(part.drive), Shard(1, *part.kv_heads)
            placed = walk._place(name, there, shard)
            room = caches.room(graph, user, name, part)
            low.placed[placed.tensor, there, shard] = replace(placed, bytes=room)
            moved.setdefault(there, []).extend(walk._new_rows(operator, here, shard))
            key = f"{walk.name}{appends[-1].outputs[0]}->{there}"
            caches.sent[name, i, there] = key if len(low.stages[0]) == 1 else f"{key}@{processor}"
    for there, rows in moved.items():
        key = caches.sent[appends[-1].outputs[0], i, there]
        arrive = tuple(replace(o, place=there) for o in rows)
        link = low.link_between(here, there)
        walk._add(Task(key, link, Transfer(here, there, total(rows)), (task,), (), tuple(rows), arrive))
        if not decodes:
            size = sum(o.bytes for o in rows)
            if caches.sparse is not None:  # keys lie there twice
                size += size // 2
            walk._add(Task(f"{key}.write", there, FlashIo("write", size), (key,)))


def cached_rows(operand: Operand, operator: Operator) -> list[Operand]:
    """The earlier positions of each sequence."""
    assert operand.slices is not None
    found, start, rows = [], 0, sum(operator["context"])
    for new, context in zip(operator["queries"], operator["context"], strict=True):
        if context > new:
            size = operand.bytes * (context - new) // rows
            slices = ((start, start + context - new), *operand.slices[1:])
            found.append(replace(operand, bytes=size, slices=slices))
        start += context
    return found


def fetch_from_memory(walk: Pass, operator: Operator, i: int, here: str) -> tuple[str, ...]:
    """Keys and values of earlier positions from the memory that holds them; the task that brings them."""
    low, caches = walk.low, walk.low.caches
    memory = caches.memory
    assert memory is not None
    rows: list[Operand] = []
    rule = walk.sharding.rules[operator.name]
    for name in operator.inputs[1:]:
        tensor = walk.graph.tensors[name]
        if tensor.role != "cache":
            continue
        shard = input_shard(walk.graph, operator, name, rule, i)
        assert shard is not None
        operand = replace(walk._operand(name, memory, shard), slices=regions_of(tensor, shard))
        rows += cached_rows(operand, operator)
    if not rows:
        return ()
    read = caches.read.setdefault(i, [])
    after = tuple(read[-BUFFERS : -BUFFERS + 1]) if len(read) >= BUFFERS else ()
    name = f"{walk.name}{operator.name}.caches->{here}"
    arrive = tuple(replace(o, place=here) for o in rows)
    transfer = Transfer(memory, here, total(rows))
    walk._add(Task(name, low.link_between(memory, here), transfer, after, (), tuple(rows), arrive))
    return (name,)
