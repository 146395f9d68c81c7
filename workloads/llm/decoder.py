"""Language models as operator graphs: prefill, chunked prefill, decode and verification of drafts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from neardata.arch.errors import InputError, nearest
from neardata.arch.precision import INTEGERS, Format
from neardata.workloads.graph import Graph, Operator, Phase, Role
from neardata.workloads.llm.model import Model, load_model
from neardata.workloads.llm.routing import Routing, Uniform

GROUPS = ("attention", "feed-forward", "experts", "shared", "router", "head", "embedding")
"""Parts of a model whose weights may have formats of their own."""
Formats = str | Format | Mapping[str, str | Format]
_Dims = Mapping[str, int | tuple[int, ...]]


def llm(
    model: Model | str,
    phase: Phase = "decode",
    *,
    batch: int | None = None,
    context: int | Sequence[int],
    new_tokens: int | Sequence[int] | None = None,
    weights: Formats = "bf16",
    activations: str | Format = "bf16",
    cache: str | Format = "bf16",
    routing: Routing | None = None,
    layers: int | Iterable[int] | None = None,
    fused: bool = False,
    absorbed: bool | None = None,
    source: int | Sequence[int] | None = None,
    head: bool = True,
) -> Graph:
    """The graph of one step of a model's decoder over a batch of sequences.

    Args:
        model: or its name, or the path of its ``config.json``.
        phase: ``prefill`` (logits of each sequence's last token), ``decode`` (one new token a
            sequence) or ``verify`` (gamma + 1 new tokens a sequence, logits of all).
        batch: sequences; left out where ``context`` is a list.
        context: tokens of each sequence, the new ones included.
        new_tokens: of each sequence; prefill: all of ``context`` where left out, fewer make a chunk;
            verify: must be given.
        weights: format of the matrices, or formats by part (`GROUPS`; ``"*"``: the rest). Norms,
            biases, routers and embeddings are kept in bf16 where ``weights`` are integers.
        activations: format of what matrices are multiplied with; integers only there, all other
            activations are then bf16.
        cache: format of keys and values.
        routing: how many tokens go to each expert; default: uniform, seed 0.
        layers: the first so many, or those listed; default: all. Embedding and head always.
        fused: one matrix for queries, keys and values and one for gate and up projections.
        absorbed: latent attention on the compressed cache (default where not prefill) instead of on
            keys and values expanded from it.
        source: encoder-decoder models: tokens of the encoder's output of each sequence. Its keys and
            values are computed in prefill and cached.
        head: False leaves out the final norm and head.

    Raises:
        InputError: sizes that contradict each other or that the model does not have.

    >>> from neardata.workloads.llm.model import load_model
    >>> graph = llm(load_model("mixtral-8x7b"), batch=64, context=1024, layers=2)
    >>> graph["layer1.experts.down"].dims["n"], sum(graph["layer1.experts.down"].dims["tokens"])
    (4096, 128)
    """
    model = load_model(model) if isinstance(model, str) else model
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise InputError(f"must be a whole number of sequences from 1, got {batch}", key="batch")
    contexts = _lengths("context", context, batch)
    if phase not in ("prefill", "decode", "verify"):
        raise InputError(f"unknown phase '{phase}'{nearest(phase, ('prefill', 'decode', 'verify'))}")
    if new_tokens is None:
        if phase == "verify":
            raise InputError("verification needs new_tokens: drafted tokens + 1")
        new_tokens = contexts if phase == "prefill" else 1
    queries = _lengths("new_tokens", new_tokens, len(contexts))
    if phase == "decode" and set(queries) != {1}:
        raise InputError("decode makes one token of each sequence; more are phase 'verify'")
    for q, c in zip(queries, contexts, strict=True):
        if q > c:
            raise InputError(f"{q} new tokens in a context of {c}, which includes them")
    if model.positions and max(contexts) > model.positions - model.position_offset:
        raise InputError(
            f"{model.name} has {model.positions - model.position_offset} positions, got {max(contexts)}"
        )
    if model.encoder_layers and source is None:
        raise InputError(f"{model.name} has an encoder: give source, the tokens of its output")
    if source is not None and not model.encoder_layers:
        raise InputError(f"{model.name} has no encoder, but source is given")
    sources = () if source is None else _lengths("source", source, len(contexts))
    builder = _Builder(
        model, phase, queries, contexts, sources, weights, activations, cache, routing or Uniform(seed=0),
        fused, phase != "prefill" if absorbed is None else absorbed,
    )  # fmt: skip
    return builder.build(_chosen(model, layers), head)


def _lengths(name: str, value: int | Sequence[int], batch: int | None) -> tuple[int, ...]:
    lengths = tuple(value) if not isinstance(value, int) else (value,) * (1 if batch is None else batch)
    if batch is not None and len(lengths) != batch:
        raise InputError(f"{len(lengths)} lengths for {batch} sequences", key=name)
    if not lengths:
        raise InputError("at least one sequence is needed", key=name)
    for length in lengths:
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise InputError(f"must be a whole number of tokens from 1, got {length}", key=name)
    return lengths


def _chosen(model: Model, layers: int | Iterable[int] | None) -> tuple[int, ...]:
    if layers is None:
        return tuple(range(model.layers))
    chosen = tuple(range(layers)) if isinstance(layers, int) else tuple(layers)
    for layer in chosen:
        if not 0 <= layer < model.layers:
            raise InputError(f"layer {layer}: {model.name} has layers 0 to {model.layers - 1}", key="layers")
    if len(set(chosen)) != len(chosen):
        raise InputError("a layer is listed twice", key="layers")
    return chosen


def _format(value: str | Format) -> Format:
    return Format.parse(value) if isinstance(value, str) else value


class _Builder:
    """Adds the operators of one graph, layer after layer."""

    def __init__(
        self,
        model: Model,
        phase: Phase,
        queries: tuple[int, ...],
        contexts: tuple[int, ...],
        sources: tuple[int, ...],
        weights: Formats,
        activations: str | Format,
        cache: str | Format,
        routing: Routing,
        fused: bool,
        absorbed: bool,
    ) -> None:
        self.model, self.queries, self.contexts, self.sources = model, queries, contexts, sources
        self.m = sum(queries)
        self.phase = phase
        self.routing, self.fused, self.absorbed = routing, fused, absorbed
        self.narrow, self.cache_format = _format(activations), _format(cache)
        self.wide = Format("bf16") if self.narrow.dtype in INTEGERS else self.narrow
        formats = weights if isinstance(weights, Mapping) else {"*": weights}
        for key in formats:
            if key not in (*GROUPS, "*"):
                raise InputError(f"unknown part '{key}'{nearest(key, (*GROUPS, '*'))}", key="weights")
        self.weight_formats: dict[str, Format] = {}
        for group in GROUPS:
            if group not in formats and "*" not in formats:
                raise InputError(f"no format for '{group}' and none for the rest ('*')", key="weights")
            given = _format(formats.get(group, formats.get("*", "bf16")))
            if group in ("router", "embedding") and group not in formats and given.dtype in INTEGERS:
                given = Format("bf16")
            self.weight_formats[group] = given
        rest = _format(formats.get("*", "bf16"))
        self.plain = Format("bf16") if rest.dtype in INTEGERS else rest
        self.graph = Graph(f"{model.name} {phase}", phase, len(queries))
        self.layer: int | None = None
        self.group = ""

    # Names are relative to the layer; tensors carry the name of the operator that makes them.

    def _name(self, name: str) -> str:
        return name if self.layer is None else f"layer{self.layer}.{name}"

    def _tensor(self, name: str, shape: tuple[int, ...], format: Format, role: Role) -> str:
        return self.graph.tensor(self._name(name), shape, format, role)

    def _add(
        self,
        kind: str,
        name: str,
        inputs: tuple[str, ...],
        dims: _Dims,
        *,
        shape: tuple[int, ...] = (),
        out: Format | None = None,
        outputs: tuple[str, ...] | None = None,
        **attributes: Any,
    ) -> str:
        full = self._name(name)
        if outputs is None:
            outputs = (self.graph.tensor(full, shape, out or self.wide, "activation"),)
        self.graph.add(Operator(full, kind, inputs, outputs, dims, self.layer, self.group, attributes))
        return outputs[0]

    def linear(
        self, name: str, x: str, m: int, n: int, k: int, bias: bool = False, weight: str | None = None
    ) -> str:
        w = weight or self._tensor(f"{name}.weight", (n, k), self.weight_formats[self.group], "weight")
        inputs: tuple[str, ...] = (x, w)
        if bias:
            inputs += (self._tensor(f"{name}.bias", (n,), self.plain, "weight"),)
        return self._add("linear", name, inputs, {"m": m, "n": n, "k": k}, shape=(m, n))

    def norm(
        self, name: str, x: str, m: int, n: int, out: Format, kind: str | None = None, repeat: int = 1
    ) -> str:
        """``repeat``: rows of n that lie side by side in one row of the tensor."""
        kind = kind or self.model.norm
        inputs: tuple[str, ...] = (x, self._tensor(f"{name}.weight", (n,), self.plain, "weight"))
        if kind == "layer":
            inputs += (self._tensor(f"{name}.bias", (n,), self.plain, "weight"),)
        return self._add(
            "norm", name, inputs, {"m": m * repeat, "n": n}, shape=(m, n * repeat), out=out, norm=kind,
            epsilon=self.model.norm_epsilon,
        )  # fmt: skip

    def element(
        self, kind: str, name: str, inputs: tuple[str, ...], m: int, n: int, out: Format, **a: Any
    ) -> str:
        return self._add(kind, name, inputs, {"m": m, "n": n}, shape=(m, n), out=out, **a)

    def rope(self, name: str, x: str, heads: int, n: int) -> str:
        rope = self.model.rope
        assert rope is not None
        dims: _Dims = {"m": self.m, "heads": heads, "n": n, "queries": self.queries, "context": self.contexts}
        return self._add(
            "rope", name, (x,), dims, shape=(self.m, heads * n), theta=rope.theta, scaling=rope.scaling
        )

    def columns(self, name: str, x: str, m: int, start: int, n: int, out: Format | None = None) -> str:
        dims = {"m": m, "n": n, "heads": 1}
        return self._add("slice", name, (x,), dims, shape=(m, n), out=out, start=start)

    def concat(self, name: str, inputs: tuple[str, ...], m: int, heads: int, widths: tuple[int, ...]) -> str:
        """``widths``: of a head in each input."""
        n = heads * sum(widths)
        return self._add(
            "concat", name, inputs, {"m": m, "n": n, "heads": heads}, shape=(m, n), widths=widths
        )

    def append(self, name: str, x: str, heads: int, n: int, lengths: tuple[int, ...] | None = None) -> str:
        """The cache with new rows; ``lengths``: all its rows are new (keys and values of an encoder)."""
        context = lengths or self.contexts
        queries = lengths or self.queries
        kept = self._tensor(name, (sum(context), heads, n), self.cache_format, "cache")
        dims: _Dims = {"tokens": sum(queries), "width": heads * n, "queries": queries, "context": context}
        return self._add("kv_append", f"{name}.append", (x,), dims, outputs=(kept,))

    def attend(
        self, name: str, inputs: tuple[str, ...], kv_heads: int, qk: int, v: int,
        context: tuple[int, ...] | None = None, **attributes: Any,
    ) -> str:  # fmt: skip
        heads = self.model.heads
        dims: _Dims = {
            "queries": self.queries, "context": context or self.contexts, "heads": heads,
            "kv_heads": kv_heads, "qk": qk, "v": v,
        }  # fmt: skip
        settings = {"scale": self.model.attention_scale, "causal": True, "window": None, **attributes}
        return self._add(
            "attention", name, inputs, dims, shape=(self.m, heads * v), out=self.narrow, **settings
        )

    # The model.

    def build(self, layers: tuple[int, ...], head: bool) -> Graph:
        self.group = "embedding"
        x = self.embed()
        for self.layer in layers:
            x = self.transformer_layer(x)
        self.layer, self.group = None, "head"
        if head:
            self.head(x)
        return self.graph

    def embed(self) -> str:
        model, m = self.model, self.m
        format = self.weight_formats["embedding"]
        ids = self.graph.tensor("tokens", (m,), Format("int32"), "index")
        self.table = self.graph.tensor(
            "embedding.weight", (model.vocabulary, model.embedding_dim), format, "weight"
        )
        dims = {"m": m, "n": model.embedding_dim, "vocabulary": model.vocabulary}
        x = self._add("embedding", "embedding", (ids, self.table), dims, shape=(m, model.embedding_dim))
        if model.embedding_dim != model.hidden:
            x = self.linear("embedding.projection", x, m, model.hidden, model.embedding_dim)
        if model.positions:
            rows = self.graph.tensor("positions", (m,), Format("int32"), "index")
            table = self.graph.tensor("positions.weight", (model.positions, model.hidden), format, "weight")
            place = self._add(
                "embedding",
                "positions.embedding",
                (rows, table),
                {
                    "m": m, "n": model.hidden, "vocabulary": model.positions, "queries": self.queries,
                    "context": self.contexts,
                },
                shape=(m, model.hidden),
                first=model.position_offset,
            )  # fmt: skip
            x = self.element("add", "embedding.add", (x, place), m, model.hidden, self.wide)
        return x

    def head(self, x: str) -> None:
        model, m = self.model, self.m
        if self.phase == "prefill" and m != len(self.queries):
            ends, rows = 0, []
            for q in self.queries:
                ends += q
                rows.append(ends - 1)
            m = len(rows)
            x = self._add(
                "gather", "last", (x,), {"m": m, "n": model.hidden}, shape=(m, model.hidden), rows=tuple(rows)
            )
        if model.norm_first:
            x = self.norm("final_norm", x, m, model.hidden, self.narrow)
        if model.embedding_dim != model.hidden:
            x = self.linear("head.projection", x, m, model.embedding_dim, model.hidden)
        self.linear(
            "head", x, m, model.vocabulary, model.embedding_dim, weight=self.table if model.tied else None
        )

    def transformer_layer(self, x: str) -> str:
        model, m, hidden = self.model, self.m, self.model.hidden
        self.group = "attention"
        parts = [("attention", self.latent_attention if model.latent else self.attention)]
        if model.encoder_layers:
            parts.append(("cross", self.cross_attention))
        parts.append(
            ("feed_forward", self.expert_layer if model.has_experts(self.layer or 0) else self.dense_layer)
        )
        for name, part in parts:
            if name == "feed_forward":
                self.group = "experts" if part == self.expert_layer else "feed-forward"
            if model.norm_first:
                y = part(self.norm(f"{name}_norm", x, m, hidden, self.narrow))
                x = self.element("add", f"{name}_add", (x, y), m, hidden, self.wide)
            else:
                x = self.element("add", f"{name}_add", (x, part(x)), m, hidden, self.wide)
                x = self.norm(f"{name}_norm", x, m, hidden, self.narrow)
        return x

    def attention(self, x: str) -> str:
        model, m, hidden, d = self.model, self.m, self.model.hidden, self.model.head_dim
        sizes = {"q": model.heads, "k": model.kv_heads, "v": model.kv_heads}
        made: dict[str, str] = {}
        if self.fused:
            qkv = self.linear("attention.qkv", x, m, sum(sizes.values()) * d, hidden, model.qkv_bias)
            start = 0
            for part, heads in sizes.items():
                made[part] = self.columns(f"attention.{part}", qkv, m, start, heads * d)
                start += heads * d
        else:
            for part, heads in sizes.items():
                made[part] = self.linear(f"attention.{part}", x, m, heads * d, hidden, model.qkv_bias)
        for part in "qk":
            heads = sizes[part]
            if model.qk_norm:
                n, repeat = (d, heads) if model.qk_norm == "head" else (heads * d, 1)
                made[part] = self.norm(f"attention.{part}_norm", made[part], m, n, self.wide, "rms", repeat)
            if model.rope:
                made[part] = self.rope(f"attention.{part}_rope", made[part], heads, d)
        keys = self.append("attention.keys", made["k"], model.kv_heads, d)
        values = self.append("attention.values", made["v"], model.kv_heads, d)
        inputs: tuple[str, ...] = (made["q"], keys, values)
        windowed = (self.layer or 0) % model.window_every == 0
        attributes: dict[str, Any] = {"window": model.window if windowed else None}
        if model.sinks:
            inputs += (self._tensor("attention.sinks", (model.heads,), self.plain, "weight"),)
            attributes["sinks"] = True
        if model.relative_buckets:
            inputs += (self.relative_table(),)
            attributes["bias"] = {"buckets": model.relative_buckets, "distance": model.relative_distance}
        y = self.attend("attention.core", inputs, model.kv_heads, d, d, **attributes)
        return self.linear("attention.output", y, m, hidden, model.heads * d, model.output_bias)

    def relative_table(self) -> str:
        """T5's table of biases, which all layers share."""
        name = "relative_positions.weight"
        if name not in self.graph.tensors:
            self.graph.tensor(name, (self.model.relative_buckets, self.model.heads), self.plain, "weight")
        return name

    def cross_attention(self, x: str) -> str:
        model, m, hidden, d = self.model, self.m, self.model.hidden, self.model.head_dim
        width, rows = model.heads * d, sum(self.sources)
        q = self.linear("cross.q", x, m, width, hidden)
        kept = []
        if self.phase == "prefill" and "encoder.output" not in self.graph.tensors:
            self.graph.tensor("encoder.output", (rows, hidden), self.narrow, "activation")
        for part, name in (("k", "keys"), ("v", "values")):
            if self.phase == "prefill":
                new = self.linear(f"cross.{part}", "encoder.output", rows, width, hidden)
                kept.append(self.append(f"cross.{name}", new, model.heads, d, self.sources))
            else:
                shape = (rows, model.heads, d)
                kept.append(self._tensor(f"cross.{name}", shape, self.cache_format, "cache"))
        y = self.attend("cross.core", (q, *kept), model.heads, d, d, self.sources, causal=False)
        return self.linear("cross.output", y, m, hidden, width)

    def latent_attention(self, x: str) -> str:
        model, c, m = self.model, self.model.latent, self.m
        assert c is not None
        hidden, heads = model.hidden, model.heads
        source, k = x, hidden
        if c.q_rank:
            source = self.linear("attention.q_down", x, m, c.q_rank, hidden)
            source, k = self.norm("attention.q_norm", source, m, c.q_rank, self.narrow), c.q_rank
        q = self.linear("attention.q_up", source, m, heads * c.nope, k)
        q_rope = self.linear("attention.q_up_rope", source, m, heads * c.rope, k)
        q_rope = self.rope("attention.q_rope", q_rope, heads, c.rope)
        latent = self.linear("attention.kv_down", x, m, c.kv_rank, hidden)
        latent = self.norm("attention.kv_norm", latent, m, c.kv_rank, self.wide, "rms")
        k_rope = self.linear("attention.k_down_rope", x, m, c.rope, hidden)
        k_rope = self.rope("attention.k_rope", k_rope, 1, c.rope)
        new = self.concat("attention.latent_new", (latent, k_rope), m, 1, (c.kv_rank, c.rope))
        cache = self.append("attention.latent", new, 1, c.kv_rank + c.rope)
        y = self.absorbed_core(q, q_rope, cache) if self.absorbed else self.expanded_core(q, q_rope, cache)
        return self.linear("attention.output", y, m, hidden, heads * c.v)

    def absorbed_core(self, q: str, q_rope: str, cache: str) -> str:
        """Scores and values on the latent cache; the key and value matrices go to queries and outputs."""
        c, heads, m = self.model.latent, self.model.heads, self.m
        assert c is not None
        format = self.weight_formats["attention"]
        w = self._tensor("attention.k_up.weight", (heads, c.kv_rank, c.nope), format, "weight")
        dims = {"m": m, "heads": heads, "n": c.kv_rank, "k": c.nope}
        q = self._add("head_linear", "attention.k_up", (q, w), dims, shape=(m, heads * c.kv_rank))
        width = c.kv_rank + c.rope
        q = self.concat("attention.q_latent", (q, q_rope), m, heads, (c.kv_rank, c.rope))
        y = self.attend("attention.core", (q, cache), 1, width, c.kv_rank)
        w = self._tensor("attention.v_up.weight", (heads, c.v, c.kv_rank), format, "weight")
        dims = {"m": m, "heads": heads, "n": c.v, "k": c.kv_rank}
        return self._add(
            "head_linear", "attention.v_up", (y, w), dims, shape=(m, heads * c.v), out=self.narrow
        )

    def expanded_core(self, q: str, q_rope: str, cache: str) -> str:
        """Keys and values of every head, made of the latent cache."""
        c, heads, rows = self.model.latent, self.model.heads, sum(self.contexts)
        assert c is not None
        latent = self.columns("attention.latent_rows", cache, rows, 0, c.kv_rank, self.narrow)
        k_rope = self.columns("attention.rope_rows", cache, rows, c.kv_rank, c.rope)
        keys = self.linear("attention.k_up", latent, rows, heads * c.nope, c.kv_rank)
        keys = self.concat("attention.keys", (keys, k_rope), rows, heads, (c.nope, c.rope))
        values = self.linear("attention.v_up", latent, rows, heads * c.v, c.kv_rank)
        q = self.concat("attention.q", (q, q_rope), self.m, heads, (c.nope, c.rope))
        return self.attend("attention.core", (q, keys, values), heads, c.nope + c.rope, c.v)

    def dense_layer(self, x: str) -> str:
        return self.feed_forward("feed_forward", x, self.model.ffn)

    def feed_forward(self, name: str, x: str, ffn: int) -> str:
        model, m, hidden, bias = self.model, self.m, self.model.hidden, self.model.ffn_bias
        act = model.activation
        if not model.gated:
            y = self.linear(f"{name}.up", x, m, ffn, hidden, bias)
            y = self.element("activation", f"{name}.{act}", (y,), m, ffn, self.narrow, function=act)
            return self.linear(f"{name}.down", y, m, hidden, ffn, bias)
        if self.fused:
            both = self.linear(f"{name}.gate_up", x, m, 2 * ffn, hidden, bias)
            gate = self.columns(f"{name}.gate", both, m, 0, ffn)
            up = self.columns(f"{name}.up", both, m, ffn, ffn)
        else:
            gate = self.linear(f"{name}.gate", x, m, ffn, hidden, bias)
            up = self.linear(f"{name}.up", x, m, ffn, hidden, bias)
        gate = self.element("activation", f"{name}.{act}", (gate,), m, ffn, self.wide, function=act)
        y = self.element(
            "multiply", f"{name}.multiply", (gate, up), m, ffn, self.narrow, **self.multiply_settings()
        )
        return self.linear(f"{name}.down", y, m, hidden, ffn, bias)

    def multiply_settings(self) -> dict[str, Any]:
        """What is done to the up projection before gate and up are multiplied."""
        return {"within": 7.0, "plus": 1.0} if self.model.activation == "clamped_silu" else {}

    def expert_layer(self, x: str) -> str:
        m, hidden, experts = self.m, self.model.hidden, self.model.experts
        assert experts is not None and self.layer is not None
        self.group = "router"
        logits = self.linear("router", x, m, experts.count, hidden, experts.router_bias)
        index = Format("int32")
        ids = self._tensor("experts.ids", (m, experts.top_k), index, "index")
        shares = self._tensor("experts.weights", (m, experts.top_k), self.wide, "activation")
        inputs: tuple[str, ...] = (logits,)
        if experts.correction_bias:
            inputs += (self._tensor("router.correction", (experts.count,), Format("fp32"), "weight"),)
        self._add(
            "route", "route", inputs, {"m": m, "experts": experts.count, "top_k": experts.top_k},
            outputs=(ids, shares), scoring=experts.scoring, normalise=experts.normalise, scale=experts.scale,
            groups=experts.groups, top_groups=experts.top_groups, group_score=experts.group_score,
        )  # fmt: skip
        self.group = "experts"
        copies = m * experts.top_k
        dims = {"m": m, "n": hidden, "top_k": experts.top_k}
        rows = self._add("dispatch", "dispatch", (x, ids), dims, shape=(copies, hidden), out=self.narrow)
        tokens = self.tokens_of_experts()
        down = self.experts("experts", rows, tokens, experts.ffn)
        y = self._add("combine", "combine", (down, ids, shares), dims, shape=(m, hidden))
        if experts.shared_ffn:
            self.group = "shared"
            z = self.feed_forward("shared", x, experts.shared_ffn)
            if experts.shared_gate:
                gate = self.linear("shared.score", x, m, 1, hidden)
                gate = self.element(
                    "activation", "shared.sigmoid", (gate,), m, 1, self.wide, function="sigmoid"
                )
                z = self.element("multiply", "shared.scaled", (z, gate), m, hidden, self.wide)
            y = self.element("add", "shared_add", (y, z), m, hidden, self.wide)
        return y

    def tokens_of_experts(self) -> tuple[int, ...]:
        """Tokens that go to each expert of this layer, as the routing says."""
        experts = self.model.experts
        assert experts is not None and self.layer is not None
        place = experts.layers.index(self.layer)
        counts = self.routing.counts(place, self.m, experts.count, experts.top_k)
        tokens = tuple(int(count) for count in counts)
        if len(tokens) != experts.count or sum(tokens) != self.m * experts.top_k or max(tokens) > self.m:
            raise InputError(
                f"routing of layer {self.layer}: {self.m} tokens to {experts.top_k} of {experts.count}"
                f" experts each are {self.m * experts.top_k}, at most {self.m} an expert;"
                f" got {sum(tokens)} over {len(tokens)}"
            )
        return tokens

    def experts(self, name: str, rows: str, tokens: tuple[int, ...], ffn: int) -> str:
        hidden, act, copies = self.model.hidden, self.model.activation, sum(tokens)
        if not self.model.gated:
            y = self.expert_linear(f"{name}.up", rows, tokens, ffn, hidden)
            y = self.element("activation", f"{name}.{act}", (y,), copies, ffn, self.narrow, function=act)
            return self.expert_linear(f"{name}.down", y, tokens, hidden, ffn)
        if self.fused:
            both = self.expert_linear(f"{name}.gate_up", rows, tokens, 2 * ffn, hidden)
            gate = self.columns(f"{name}.gate", both, copies, 0, ffn)
            up = self.columns(f"{name}.up", both, copies, ffn, ffn)
        else:
            gate = self.expert_linear(f"{name}.gate", rows, tokens, ffn, hidden)
            up = self.expert_linear(f"{name}.up", rows, tokens, ffn, hidden)
        gate = self.element("activation", f"{name}.{act}", (gate,), copies, ffn, self.wide, function=act)
        y = self.element(
            "multiply", f"{name}.multiply", (gate, up), copies, ffn, self.narrow, **self.multiply_settings()
        )
        return self.expert_linear(f"{name}.down", y, tokens, hidden, ffn)

    def expert_linear(self, name: str, rows: str, tokens: tuple[int, ...], n: int, k: int) -> str:
        w = self._tensor(f"{name}.weight", (len(tokens), n, k), self.weight_formats["experts"], "weight")
        inputs: tuple[str, ...] = (rows, w)
        if self.model.experts is not None and self.model.experts.bias:
            inputs += (self._tensor(f"{name}.bias", (len(tokens), n), self.plain, "weight"),)
        return self._add(
            "expert_linear", name, inputs, {"tokens": tokens, "n": n, "k": k}, shape=(sum(tokens), n)
        )
