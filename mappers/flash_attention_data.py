"""Attention on drives executed on data: from the pages that the drive's engine reads in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neardata.arch.errors import InputError
from neardata.sim.program import FlashAttention
from neardata.sim.system.flash_attention import CHANNEL_KEYS, KEYS, VALUES, AttentionPages, attention_pages
from neardata.workloads.semantics import dequantised
from neardata.workloads.sparse_attention import approximate_scores, kept_tokens, softmax, top

if TYPE_CHECKING:
    from neardata.workloads.graph import Operator

Floats = NDArray[np.float64]


def attention_in_pages(
    kernel: FlashAttention, part: Operator, queries: Any, keys: Any, values: Any
) -> Floats:
    """Attention of one sequence: (1, heads * v).

    Args:
        part: the operator's part for this sequence and these heads.

    Raises:
        ValueError: the kernel is not of these heads and this sequence.
    """
    heads, kv_heads, qk, v = (int(part[d]) for d in ("heads", "kv_heads", "qk", "v"))
    (context,) = part["context"]
    asked, mine = (heads, kv_heads, qk, v), (kernel.heads, kernel.kv_heads, kernel.qk, kernel.v)
    if asked != mine or context not in kernel.context:
        raise ValueError(f"attention of {asked} over {context} positions, its kernel of {mine}")
    one = FlashAttention(
        (context,), 1, 1, qk, v, kernel.cache, kernel.page_bytes, kernel.channels_kept, kernel.tokens_kept,
        kernel.channels_a_page,
    )  # fmt: skip
    try:
        pages = attention_pages(one, 1)
    except InputError as error:
        raise ValueError(str(error)) from None
    q = dequantised(queries).reshape(heads, qk)
    k = dequantised(keys).reshape(context, kv_heads, qk)
    x = dequantised(values).reshape(context, kv_heads, v)
    scale, group = float(part.attributes["scale"]), heads // kv_heads
    out = np.zeros((heads, v))
    for head in range(heads):
        of_head = (q[head], k[:, head // group], x[:, head // group])
        out[head] = (_sparse if kernel.channels_kept else _dense)(one, pages, *of_head, scale)
    return out.reshape(1, heads * v)


def _dense(
    kernel: FlashAttention, pages: AttentionPages, q: Floats, k: Floats, v: Floats, scale: float
) -> Floats:
    del kernel
    scores = np.full(len(k), np.nan)
    rest = np.ones(len(k), bool)
    for n in np.flatnonzero(pages.copy == KEYS):
        rows = slice(pages.position[n], pages.position_end[n])
        scores[rows], rest[rows] = k[rows] @ q * scale, False
    scores[rest] = k[rest] @ q * scale  # in the controller's memory
    weights, out = softmax(scores), np.zeros(v.shape[1])
    rest[:] = True
    for n in np.flatnonzero(pages.copy == VALUES):
        rows = slice(pages.position[n], pages.position_end[n])
        out += weights[rows] @ v[rows]
        rest[rows] = False
    return np.asarray(out + weights[rest] @ v[rest])


def _sparse(
    kernel: FlashAttention, pages: AttentionPages, q: Floats, k: Floats, v: Floats, scale: float
) -> Floats:
    """Only pages that hold something wanted are read: what is taken from others is not a number."""
    i = top(np.abs(q), kernel.channels_kept)
    some = np.full(k.shape, np.nan)
    rest = np.ones(len(k), bool)
    for n in np.flatnonzero(pages.copy == CHANNEL_KEYS):
        columns = slice(pages.channel[n], pages.channel_end[n])
        rows = slice(pages.position[n], pages.position_end[n])
        rest[rows] = False
        if ((i >= columns.start) & (i < columns.stop)).any():
            some[rows, columns] = k[rows, columns]
    some[rest] = k[rest]  # in the controller's memory
    approximate = approximate_scores(q, some[:, i], i, scale)
    j = top(approximate, kept_tokens(len(k), kernel.tokens_kept))
    read_keys, read_values = _wanted(pages, KEYS, k, j), _wanted(pages, VALUES, v, j)
    share = float(approximate[j].sum())
    exact = softmax(read_keys[j] @ q * scale) @ read_values[j]
    return np.asarray(share * exact + (1 - share) * v.mean(axis=0))


def _wanted(pages: AttentionPages, copy: int, rows_of: Floats, j: NDArray[np.int64]) -> Floats:
    found = np.full(rows_of.shape, np.nan)
    rest = np.ones(len(rows_of), bool)
    for n in np.flatnonzero(pages.copy == copy):
        rows = slice(pages.position[n], pages.position_end[n])
        rest[rows] = False
        if ((j >= rows.start) & (j < rows.stop)).any():
            found[rows] = rows_of[rows]
    found[rest] = rows_of[rest]
    return found
