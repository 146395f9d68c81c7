"""What every kind of operator computes, in numpy: the meaning that lowered programs are held against.

Floating-point tensors are float64 arrays and are not rounded to their format. Tensors in an integer
format with scales (``int8/g32``) are `Quantised`; those without scales are int64 arrays. Products of two
integer tensors are summed exactly in int64 over each scale group; scales come after.

The function of a kind takes whole tensors or tiles of them: slices of m, n and k of ``linear`` (partial
sums over k are added), of an expert of ``expert_linear``, of heads of ``attention``, and of its context as
`Partial` results that `merge` puts together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neardata.arch.precision import INTEGERS
from neardata.workloads.graph import Graph, Operator, Tensor
from neardata.workloads.quantised import (
    Floats,
    Integers,
    Quantised,
    Value,
    Values,
    dequantised,
    limits,
    quantise,
    stored,
)

# Matrices.


def linear(x: Value, w: Value, bias: Value | None = None) -> Floats | Integers:
    """``x[m,k] w[n,k]^T + bias[n]`` -> (m, n).

    Two integer tensors are multiplied exactly: int64 without scales, else float64 of exact sums over each
    scale group. Tiles over k add up.

    >>> linear(np.array([[1, 2]]), np.array([[3, 4], [5, 6]]))
    array([[11, 17]])
    """
    y: Floats | Integers
    if isinstance(x, Quantised) and isinstance(w, Quantised):
        y = _grouped(x, w)
    elif isinstance(x, Quantised) or isinstance(w, Quantised):
        y = dequantised(x) @ dequantised(w).T
    elif np.issubdtype(x.dtype, np.integer) and np.issubdtype(w.dtype, np.integer):
        y = _exact(np.asarray(x, dtype=np.int64), np.asarray(w, dtype=np.int64))
    else:
        y = np.asarray(x, dtype=np.float64) @ np.asarray(w, dtype=np.float64).T
    return y if bias is None else np.asarray(y + dequantised(bias))


def group_sums(x: Quantised, w: Quantised) -> tuple[Integers, int]:
    """Exact integer dot products (groups, m, n) over stretches of k within which both scales hold, and
    the length of a stretch.

    Raises:
        ValueError: groups of one that do not divide those of the other.
    """
    group = min(x.group, w.group)
    k = x.shape[-1]
    if max(x.group, w.group) % group and k > group:
        raise ValueError(f"scale groups of {x.group} and {w.group} do not fit together")
    stretches = [slice(start, min(start + group, k)) for start in range(0, k, group)]
    return np.stack([_exact(x.data[:, s], w.data[:, s]) for s in stretches]), group


def _exact(x: Integers, w: Integers) -> Integers:
    """``x w^T`` without rounding; in doubles, which are quicker, where these hold every sum."""
    if not x.size or not w.size:
        return np.zeros((len(x), len(w)), dtype=np.int64)
    if float(np.abs(x).max()) * float(np.abs(w).max()) * x.shape[1] < 2**53:
        return (x.astype(np.float64) @ w.astype(np.float64).T).astype(np.int64)
    return x @ w.T


def _grouped(x: Quantised, w: Quantised) -> Floats:
    sums, group = group_sums(x, w)
    y = np.zeros(sums.shape[1:])
    for i, exact in enumerate(sums):
        scales = x.scales[:, i * group // x.group, None] * w.scales[None, :, i * group // w.group]
        y += exact * scales
    return y


def expert_linear(x: Value, w: Value, tokens: Sequence[int], bias: Value | None = None) -> Floats | Integers:
    """Rows of x, sorted by expert, each times its expert's matrix: x[sum(tokens),k], w[E,n,k], bias[E,n]
    -> y."""
    parts, start = [], 0
    for expert, count in enumerate(tokens):
        if count:
            own = None if bias is None else bias[expert]
            parts.append(linear(x[start : start + count], w[expert], own))
        start += count
    if start != x.shape[0]:
        raise ValueError(f"{start} rows for the experts, got {x.shape[0]}")
    y: Floats | Integers = np.concatenate(parts)  # type: ignore[assignment, unused-ignore]
    return y


def head_linear(x: Value, w: Value) -> Floats | Integers:
    """``x[m,heads*k]``, ``w[heads,n,k]`` -> (m, heads*n): each head's part times its own matrix."""
    heads, _, k = w.shape
    rows = dequantised(x) if isinstance(x, Quantised) and k % x.group else x
    return np.concatenate([linear(rows[:, h * k : (h + 1) * k], w[h]) for h in range(heads)], axis=1)


# Attention.


@dataclass(frozen=True)
class Partial:
    """Attention over a part of the context: the weighted mean of its values and the logarithm of its
    weight, ``log(sum(exp(score)))``."""

    output: Floats
    """(q, heads, v)"""
    log_weight: Floats
    """(q, heads); -inf where nothing was to be seen."""


def attend(
    q: Floats,
    keys: Floats,
    values: Floats,
    *,
    query_positions: Integers,
    key_positions: Integers,
    scale: float,
    causal: bool = True,
    window: int | None = None,
    bias: Callable[[Integers], Floats] | None = None,
) -> Partial:
    """Attention of the queries of one sequence over some of its keys, any heads.

    Args:
        q: (q, heads, qk)
        keys, values: (c, kv_heads, qk) and (c, kv_heads, v); heads share them in order, ``heads /
            kv_heads`` each.
        query_positions, key_positions: (q,) and (c,) places in the sequence.
        bias: from distances (q, c), query minus key, to what is added to scores, (q, c, heads).
    """
    share = q.shape[1] // keys.shape[1]
    grouped = q.reshape(q.shape[0], keys.shape[1], share, q.shape[2])
    scores = np.einsum("qgsd,cgd->qcgs", grouped, keys, optimize=True) * scale
    scores = scores.reshape(q.shape[0], keys.shape[0], q.shape[1])
    distance = query_positions[:, None] - key_positions[None, :]
    if bias is not None:
        scores = scores + bias(distance)
    seen = np.ones(distance.shape, dtype=bool)
    if causal:
        seen &= distance >= 0
    if window is not None:
        seen &= distance < window
    scores = np.where(seen[:, :, None], scores, -np.inf)
    top = scores.max(axis=1, initial=-np.inf)
    safe = np.where(np.isfinite(top), top, 0.0)
    weights = np.exp(scores - safe[:, None, :])
    total = weights.sum(axis=1)
    by_group = weights.reshape(q.shape[0], keys.shape[0], keys.shape[1], share)
    mean = np.einsum("qcgs,cgv->qgsv", by_group, values, optimize=True).reshape(*q.shape[:2], -1)
    mean = mean / np.where(total > 0, total, 1.0)[:, :, None]
    with np.errstate(divide="ignore"):
        return Partial(mean, safe + np.log(total))


def merge(partials: Sequence[Partial]) -> Partial:
    """Partial results of the same queries and heads over parts of the context, as one."""
    weight = np.stack([p.log_weight for p in partials])
    top = weight.max(axis=0)
    safe = np.where(np.isfinite(top), top, 0.0)
    share = np.exp(weight - safe)
    total = share.sum(axis=0)
    output = np.einsum("pqh,pqhv->qhv", share, np.stack([p.output for p in partials]))
    with np.errstate(divide="ignore"):
        return Partial(output / np.where(total > 0, total, 1.0)[:, :, None], safe + np.log(total))


def sink(scores: Floats, beside: Partial) -> Partial:
    """What a sink adds to the attention of some queries: weight ``exp(score)`` of each head (heads,) and no
    value. It is merged once, with the parts of the context."""
    return Partial(np.zeros_like(beside.output), np.broadcast_to(scores, beside.log_weight.shape))


def relative_bias(table: Floats, buckets: int, distance: int, causal: bool) -> Callable[[Integers], Floats]:
    """T5's bias on relative positions (arXiv 1910.10683, section 2.1): half the buckets hold one distance
    each, the rest grow logarithmically up to ``distance``. ``table``: (buckets, heads)."""

    def bias(back: Integers) -> Floats:
        if causal:
            offset, n, ahead = np.maximum(back, 0), buckets, np.zeros_like(back)
        else:
            offset, n = np.abs(back), buckets // 2
            ahead = np.where(back < 0, n, 0)
        exact = n // 2
        large = exact + (
            np.log(np.maximum(offset, 1) / exact) / np.log(distance / exact) * (n - exact)
        ).astype(np.int64)
        return table[ahead + np.where(offset < exact, offset, np.minimum(large, n - 1))]

    return bias


def sequences(operator: Operator) -> list[tuple[slice, slice, Integers, Integers]]:
    """Of each sequence of an ``attention``: its rows of the queries and of the caches, and the positions
    of these rows."""
    found, q0, c0 = [], 0, 0
    for q, c in zip(operator["queries"], operator["context"], strict=True):
        first = c - q if operator.attributes.get("causal", True) else 0
        places = np.arange(first, first + q), np.arange(c)
        found.append((slice(q0, q0 + q), slice(c0, c0 + c), *places))
        q0, c0 = q0 + q, c0 + c
    return found


def attention(operator: Operator, q: Value, *inputs: Value) -> Floats:
    """Attention of all sequences: q (tokens, heads*qk), caches (sum(context), kv_heads, qk or v) -> (tokens,
    heads*v)."""
    heads, kv_heads, qk, v = (operator[d] for d in ("heads", "kv_heads", "qk", "v"))
    a = operator.attributes
    rows = dequantised(q).reshape(-1, heads, qk)
    extra = inputs[-1] if a.get("bias") or a.get("sinks") else None
    caches = inputs if extra is None else inputs[:-1]
    keys = dequantised(caches[0]).reshape(-1, kv_heads, qk)
    values = keys[..., :v] if len(caches) == 1 else dequantised(caches[1]).reshape(-1, kv_heads, v)
    bias = None
    if extra is not None and a.get("bias"):
        sizes = a["bias"]
        bias = relative_bias(dequantised(extra), sizes["buckets"], sizes["distance"], a.get("causal", True))
    outputs = []
    for qs, cs, qp, kp in sequences(operator):
        part = attend(
            rows[qs], keys[cs], values[cs], query_positions=qp, key_positions=kp, scale=a["scale"],
            causal=a.get("causal", True), window=a.get("window"), bias=bias,
        )  # fmt: skip
        if extra is not None and a.get("sinks"):
            part = merge([part, sink(dequantised(extra), part)])
        outputs.append(part.output)
    return np.concatenate(outputs).reshape(-1, heads * v)


def rows_of_new_tokens(queries: Sequence[int], context: Sequence[int]) -> Integers:
    """Rows of a cache that new tokens take: the last of each sequence's part.

    >>> rows_of_new_tokens((1, 2), (3, 4)).tolist()
    [2, 5, 6]
    """
    ends = np.cumsum(context)
    return np.concatenate([np.arange(end - q, end) for q, end in zip(queries, ends, strict=True)])


def frequencies(n: int, theta: float, scaling: Mapping[str, Any] | None) -> tuple[Floats, float]:
    """(n / 2,) radians a position, and the factor on cosine and sine.

    Scaling: linear; llama3 (Llama 3.1's interpolation by wavelength); yarn (arXiv 2309.00071).
    """
    base = theta ** (-np.arange(0, n, 2) / n)
    if scaling is None:
        return base, 1.0
    factor = float(scaling["factor"])
    if scaling["rope_type"] == "linear":
        return base / factor, 1.0
    original = float(scaling["original_max_position_embeddings"])
    if scaling["rope_type"] == "llama3":
        low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
        smooth = np.clip((original * base / (2 * np.pi) - low) / (high - low), 0.0, 1.0)
        return (1 - smooth) * base / factor + smooth * base, 1.0

    def dimension(rotations: float) -> float:
        return float(n * np.log(original / (rotations * 2 * np.pi)) / (2 * np.log(theta)))

    low, high = dimension(scaling["beta_fast"]), dimension(scaling["beta_slow"])
    if scaling.get("truncate", True):
        low, high = float(np.floor(low)), float(np.ceil(high))
    low, high = max(low, 0.0), min(high, n - 1.0)
    ramp = np.clip((np.arange(n // 2) - low) / max(high - low, 0.001), 0.0, 1.0)

    def magnitude(mscale: float) -> float:
        return 0.1 * mscale * float(np.log(factor)) + 1.0 if factor > 1 else 1.0

    if "mscale" not in scaling:
        return base / factor * ramp + base * (1 - ramp), magnitude(1.0)
    length = magnitude(scaling["mscale"]) / magnitude(scaling["mscale_all_dim"])
    return base / factor * ramp + base * (1 - ramp), length


def rope(operator: Operator, x: Value) -> Floats:
    """Rotates the halves of each head's n columns by the token's position; the same shape."""
    heads, n = operator["heads"], operator["n"]
    speed, length = frequencies(n, operator.attributes["theta"], operator.attributes.get("scaling"))
    position = np.concatenate(
        [np.arange(c - q, c) for q, c in zip(operator["queries"], operator["context"], strict=True)]
    )
    angle = position[:, None, None] * speed
    cosine, sine = np.cos(angle) * length, np.sin(angle) * length
    rows = dequantised(x).reshape(-1, heads, n)
    first, second = rows[..., : n // 2], rows[..., n // 2 :]
    turned = np.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return turned.reshape(-1, heads * n)


# Element by element.


def activation(x: Value, function: str) -> Floats:
    """silu, gelu (tanh form), relu, sigmoid or clamped_silu (GPT-OSS's)."""
    y = dequantised(x)
    if function == "clamped_silu":
        y = np.minimum(y, 7.0)
        return y * 0.5 * (1.0 + np.tanh(0.851 * y))
    if function == "relu":
        return np.maximum(y, 0.0)
    if function == "gelu":
        return 0.5 * y * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (y + 0.044715 * y**3)))
    if function not in ("silu", "sigmoid"):
        raise ValueError(f"unknown activation '{function}'")
    sigmoid = 0.5 * (1.0 + np.tanh(0.5 * y))
    return sigmoid if function == "sigmoid" else y * sigmoid


def norm(operator: Operator, x: Value, weight: Value, bias: Value | None = None) -> Floats:
    """RMS or layer norm over stretches of n columns; the same shape."""
    rows = dequantised(x)
    y = rows.reshape(-1, operator["n"])
    if operator.attributes["norm"] == "layer":
        y = y - y.mean(axis=-1, keepdims=True)
    y = y / np.sqrt((y * y).mean(axis=-1, keepdims=True) + operator.attributes["epsilon"])
    y = y * dequantised(weight)
    return (y if bias is None else y + dequantised(bias)).reshape(rows.shape)


# Experts.


def route(
    operator: Operator, logits: Value, correction: Value | None = None, ids: Integers | None = None
) -> tuple[Integers, Floats]:
    """Expert ids (m, top_k) and their weights (m, top_k) from logits (m, E); equal scores go to the lower
    id.

    Args:
        correction: (E,) added to scores when experts are chosen.
        ids: (m, top_k) experts chosen elsewhere, such as by a recorded routing; only weights are
            computed.
    """
    a, top_k = operator.attributes, operator["top_k"]
    x = dequantised(logits)
    if a["scoring"] == "sigmoid":
        scores = activation(x, "sigmoid")
    else:
        scores = np.exp(x - x.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    if ids is None:
        choice = scores if correction is None else scores + dequantised(correction)
        if a.get("groups", 1) > 1:
            groups = choice.reshape(len(x), a["groups"], -1)
            if a["group_score"] == "top2":
                best = np.sort(groups, axis=2)[:, :, -2:].sum(axis=2)
            else:
                best = groups.max(axis=2)
            kept = np.argsort(-best, axis=1, kind="stable")[:, : a["top_groups"]]
            open_groups = np.zeros(best.shape, dtype=bool)
            np.put_along_axis(open_groups, kept, True, axis=1)
            choice = np.where(open_groups[:, :, None], groups, -np.inf).reshape(x.shape)
        ids = np.argsort(-choice, axis=1, kind="stable")[:, :top_k].astype(np.int64)
    weights = np.take_along_axis(scores, ids, axis=1)
    if a["normalise"]:
        weights = weights / (weights.sum(axis=1, keepdims=True) + 1e-20)
    return ids, weights * a["scale"]


def order_by_expert(ids: Integers) -> Integers:
    """Which token each sorted row is a copy of, times top_k plus its place among the token's experts."""
    return np.argsort(ids.ravel(), kind="stable")


def dispatch(x: Value, ids: Integers) -> Value:
    """Rows of x copied for each chosen expert and sorted by expert: (m * top_k, n)."""
    return x[order_by_expert(ids) // ids.shape[1]]


def combine(y: Value, ids: Integers, weights: Value) -> Floats:
    """Weighted sum of each token's experts' rows: (m, n)."""
    rows, share = dequantised(y), dequantised(weights)
    unsorted = np.empty_like(rows)
    unsorted[order_by_expert(ids)] = rows
    return np.einsum("mk,mkn->mn", share, unsorted.reshape(*ids.shape, -1))


def concat(operator: Operator, *inputs: Value) -> Floats:
    """Columns of the inputs side by side, head by head; an input of one head goes to every head."""
    heads = operator["heads"]
    parts = []
    for x, width in zip(inputs, operator.attributes["widths"], strict=True):
        rows = dequantised(x).reshape(x.shape[0], -1, width)
        parts.append(np.broadcast_to(rows, (len(rows), heads, width)))
    return np.concatenate(parts, axis=2).reshape(len(parts[0]), -1)


def evaluate(operator: Operator, *inputs: Any) -> tuple[Any, ...]:
    """The outputs of an operator from its inputs, in its order; before they are stored in a format.

    ``kv_append`` takes the cache as it was behind the new rows.

    >>> operator = Operator("y", "linear", ("x", "w"), ("y",), {"m": 1, "n": 1, "k": 2})
    >>> evaluate(operator, np.array([[1, 2]]), np.array([[3, 4]]))[0].tolist()
    [[11]]
    """
    match operator.kind:
        case "linear":
            return (linear(*inputs),)
        case "expert_linear":
            return (expert_linear(inputs[0], inputs[1], operator["tokens"], *inputs[2:]),)
        case "head_linear":
            return (head_linear(*inputs),)
        case "attention":
            return (attention(operator, *inputs),)
        case "kv_append":
            return (append(operator, *inputs),)
        case "norm":
            return (norm(operator, *inputs),)
        case "rope":
            return (rope(operator, *inputs),)
        case "activation":
            return (activation(inputs[0], operator.attributes["function"]),)
        case "multiply":
            second = dequantised(inputs[1])
            if "within" in operator.attributes:
                second = np.clip(second, -operator.attributes["within"], operator.attributes["within"])
            return (dequantised(inputs[0]) * (second + operator.attributes.get("plus", 0.0)),)
        case "add":
            return (dequantised(inputs[0]) + dequantised(inputs[1]),)
        case "embedding":
            return (dequantised(inputs[1])[inputs[0]],)
        case "route":
            return route(operator, *inputs)
        case "dispatch":
            return (dispatch(*inputs),)
        case "combine":
            return (combine(*inputs),)
        case "gather":
            return (inputs[0][list(operator.attributes["rows"])],)
        case "slice":
            rows, heads = dequantised(inputs[0]), operator["heads"]
            rows = rows.reshape(operator["m"], heads, -1)
            start, n = operator.attributes["start"], operator["n"]
            return (rows[:, :, start : start + n // heads].reshape(operator["m"], n),)
        case "concat":
            return (concat(operator, *inputs),)
    raise ValueError(f"operator '{operator.name}': no meaning is known for kind '{operator.kind}'")


def append(operator: Operator, new: Value, cache: Value) -> Value:
    """The cache (rows, heads, width / heads) with the new rows (tokens, width) in their places."""
    rows = rows_of_new_tokens(operator["queries"], operator["context"])
    shaped = dequantised(new).reshape(len(rows), *cache.shape[1:])
    if isinstance(cache, Quantised):
        raise ValueError("give a quantised cache as numbers; it is quantised where it is stored")
    merged = np.array(cache, dtype=np.float64)
    merged[rows] = shaped
    return merged


# Graphs.


def execute(graph: Graph, values: Mapping[str, Any]) -> Values:
    """All tensors of a graph, computed from those that nothing produces.

    Args:
        values: weights, indices, inputs; caches as they were before (rows of new tokens are replaced;
            left out: zeros); expert ids where they are given instead of chosen by the router.

    Raises:
        ValueError: a tensor is missing or has another shape; the router chose other numbers of tokens
            for the experts than the graph was built for.

    >>> from neardata.workloads.llm.decoder import llm
    >>> from neardata.workloads.llm.model import load_model
    >>> sizes = {"hidden": 8, "embedding_dim": 8, "heads": 2, "kv_heads": 2, "head_dim": 4, "ffn": 6}
    >>> model = load_model("llama-2-7b").model_copy(update={**sizes, "vocabulary": 5})
    >>> graph = llm(model, batch=3, context=4, layers=1)
    >>> execute(graph, random_values(graph))["head"].shape
    (3, 5)
    """
    held: Values = {}
    for name, tensor in graph.tensors.items():
        if graph.producer(name) is None:
            if name not in values:
                raise ValueError(f"no value for tensor '{name}'")
            held[name] = stored(values[name], tensor)
    for operator in graph:
        inputs = [held[name] for name in operator.inputs]
        outputs: tuple[Any, ...]
        if operator.kind == "kv_append":
            outputs = (_appended(operator, inputs[0], graph.tensors[operator.outputs[0]], values),)
        elif operator.kind == "route" and operator.outputs[0] in values:
            correction = inputs[1] if len(inputs) > 1 else None
            outputs = route(operator, inputs[0], correction, np.asarray(values[operator.outputs[0]]))
        else:
            if operator.kind == "expert_linear":
                _check_tokens(graph, operator, held)
            outputs = evaluate(operator, *inputs)
        for name, output in zip(operator.outputs, outputs, strict=True):
            held[name] = stored(output, graph.tensors[name])
    return held


def _appended(operator: Operator, new: Value, tensor: Tensor, values: Mapping[str, Any]) -> Value:
    """New rows are quantised on their own, so that old ones keep their integers."""
    before = values.get(tensor.name, np.zeros(tensor.shape))
    old = stored(before, tensor)
    if not isinstance(old, Quantised):
        return append(operator, new, old)
    rows = rows_of_new_tokens(operator["queries"], operator["context"])
    added = quantise(dequantised(new).reshape(len(rows), *tensor.shape[1:]), tensor.format)
    data, scales = old.data.copy(), old.scales.copy()
    data[rows], scales[rows] = added.data, added.scales
    return Quantised(data, scales, old.group)


def _check_tokens(graph: Graph, operator: Operator, held: Values) -> None:
    """The experts have the rows that the graph was built for."""
    name: str | None = operator.inputs[0]
    while name is not None:
        maker = graph.producer(name)
        if maker is None:
            return
        if graph[maker].kind == "dispatch":
            ids = held[graph[maker].inputs[1]]
            counts = np.bincount(ids.ravel(), minlength=len(operator["tokens"]))
            if tuple(counts.tolist()) != tuple(operator["tokens"]):
                raise ValueError(
                    f"operator '{operator.name}': the router sends {counts.tolist()} tokens to the experts,"
                    f" the graph was built for {list(operator['tokens'])}; give '{graph[maker].inputs[1]}'"
                )
            return
        name = graph[maker].inputs[0]


def ids_for(tokens: Sequence[int], m: int, top_k: int) -> Integers:
    """Expert ids (m, top_k), all different in a row, that send ``tokens[e]`` tokens to expert e.

    >>> ids_for((2, 1, 1), 2, 2).tolist()
    [[0, 1], [0, 2]]
    """
    flat = np.repeat(np.arange(len(tokens)), tokens)
    if len(flat) != m * top_k or max(tokens) > m:
        raise ValueError(f"{tuple(tokens)} is no routing of {m} tokens to {top_k} experts each")
    return np.sort(flat.reshape(top_k, m).T, axis=1)


def random_values(graph: Graph, seed: int = 0) -> Values:
    """Values for every tensor that a graph starts from, the same for the same seed.

    Weights have the spread that keeps activations near 1; expert ids are such that the experts get the
    tokens the graph was built for; caches hold random old rows.
    """
    draw = np.random.default_rng(seed)
    values: Values = {}
    tables = {o.inputs[0]: o for o in graph if o.kind == "embedding"}
    experts: dict[str, tuple[int, ...]] = {}
    for operator in graph:
        if operator.kind == "expert_linear":
            experts.setdefault(f"{operator.layer}", operator["tokens"])
    for name, tensor in graph.tensors.items():
        producer = graph.producer(name)
        if producer is not None and graph[producer].kind == "route" and tensor.role == "index":
            counts = experts[f"{graph[producer].layer}"]
            values[name] = draw.permuted(ids_for(counts, *tensor.shape), axis=1)
        elif producer is not None and tensor.role != "cache":
            continue
        elif tensor.role == "index":
            table = tables[name]
            if "first" in table.attributes:
                places = zip(table["queries"], table["context"], strict=True)
                values[name] = np.concatenate([np.arange(c - q, c) for q, c in places])
                values[name] += table.attributes["first"]
            else:
                values[name] = draw.integers(0, table["vocabulary"], tensor.shape)
        else:
            values[name] = _random(tensor, draw)
    return values


def _random(tensor: Tensor, draw: np.random.Generator) -> Value:
    format = tensor.format
    if format.dtype in INTEGERS and format.group is None:
        low, high = limits(format.dtype)
        return draw.integers(low, high, tensor.shape, endpoint=True)
    spread = tensor.shape[-1] ** -0.5 if tensor.role == "weight" and len(tensor.shape) > 1 else 1.0
    x = draw.standard_normal(tensor.shape) * spread
    if tensor.role == "weight" and len(tensor.shape) == 1:
        x = 1.0 + 0.1 * x if not tensor.name.endswith(".bias") else 0.1 * x
    return quantise(x, format) if format.group is not None else x
