"""What operators compute: against a token-by-token twin, across phases, exact integers, tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naive.transformer import logits
from neardata.arch.precision import Format
from neardata.workloads.graph import Graph
from neardata.workloads.llm.decoder import llm
from neardata.workloads.llm.model import Model, load_model
from neardata.workloads.quantised import Quantised, quantise
from neardata.workloads.semantics import (
    activation,
    attend,
    evaluate,
    execute,
    expert_linear,
    frequencies,
    ids_for,
    linear,
    merge,
    random_values,
    route,
    rows_of_new_tokens,
    sink,
)

SMALL: dict[str, Any] = {
    "layers": 2, "hidden": 24, "heads": 4, "kv_heads": 2, "head_dim": 6, "ffn": 20, "vocabulary": 13,
    "embedding_dim": 24, "attention_scale": 6**-0.5,
}  # fmt: skip


def small(name: str, **changes: Any) -> Model:
    """A model of the form of a shipped one with few numbers."""
    model = load_model(name)
    sizes = dict(SMALL)
    if model.kv_heads == model.heads:
        sizes["kv_heads"] = 4
    if model.embedding_dim != model.hidden:
        sizes["embedding_dim"] = 8
    if model.positions:
        sizes["positions"] = 12
    if model.latent:
        sizes["head_dim"] = 10
        latent = {"kv_rank": 8, "nope": 6, "rope": 4, "v": 5, "q_rank": model.latent.q_rank and 9}
        sizes["latent"] = model.latent.model_copy(update=latent)
        sizes["attention_scale"] = 10**-0.5
    if model.experts:
        layers = (1,) if len(model.experts.layers) < model.layers else (0, 1)
        groups = {"groups": 4, "top_groups": 2} if model.experts.groups > 1 else {}
        shared = {"shared_ffn": 7} if model.experts.shared_ffn else {}
        top_k = min(model.experts.top_k, 3)
        experts = {"count": 8, "top_k": top_k, "ffn": 9, "layers": layers, **groups, **shared}
        sizes["experts"] = model.experts.model_copy(update=experts)
    if model.window:
        sizes["window"] = 4
    return model.model_copy(update={**sizes, **changes})


def weights_of(graph: Graph, seed: int) -> dict[str, Any]:
    """Weights by name, the same for the same name and shape in every graph."""
    found = {}
    for name, tensor in graph.tensors.items():
        if tensor.role == "weight":
            draw = np.random.default_rng([seed, *name.encode()])
            spread = tensor.shape[-1] ** -0.5 if len(tensor.shape) > 1 else 0.3
            found[name] = draw.standard_normal(tensor.shape) * spread + (
                1.0 if "norm.weight" in name else 0.0
            )
    return found


def chosen_freely(values: dict[str, Any]) -> dict[str, Any]:
    """Without expert ids, so that the router chooses."""
    return {name: value for name, value in values.items() if not name.endswith("experts.ids")}


class Chosen:
    """The routing that a router's own choice made, found by running the graph once."""

    def __init__(self) -> None:
        self.ids: dict[int, np.ndarray] = {}

    def counts(self, layer: int, tokens: int, experts: int, top_k: int) -> np.ndarray:
        if layer in self.ids and len(self.ids[layer]) == tokens:
            return np.bincount(self.ids[layer].ravel(), minlength=experts)
        return np.bincount(np.arange(tokens * top_k) % experts, minlength=experts)


def run(model: Model, values: dict[str, Any], **step: Any) -> dict[str, Any]:
    """A step with free routing: layer by layer the graph is built for what the router chooses."""
    chosen, layers = Chosen(), model.experts.layers if model.experts else ()
    formats = {"weights": "fp32", "activations": "fp32", "cache": "fp32"}
    for i in range(len(layers) + 1):
        graph = llm(model, routing=chosen, **formats, **step)  # type: ignore[arg-type]
        given = random_values(graph) | {k: v for k, v in values.items() if k in graph.tensors}
        if i == len(layers):
            break
        given |= {f"layer{layers[j]}.experts.ids": ids for j, ids in chosen.ids.items()}
        held = execute(graph, given)
        router = graph[f"layer{layers[i]}.route"]
        chosen.ids[i] = route(router, *[held[name] for name in router.inputs])[0]
    return execute(graph, chosen_freely(given))


TOKENS = [3, 1, 4, 1, 5, 9, 2]
FORMS = [
    "llama-2-7b", "llama-3.1-8b", "mistral-7b-v0.1", "mixtral-8x7b", "qwen3-1.7b", "qwen3-30b-a3b",
    "qwen1.5-moe-a2.7b", "olmoe-1b-7b", "deepseek-v2-lite", "deepseek-v2", "deepseek-v3", "gpt2-small",
    "opt-125m", "opt-350m", "gpt-oss-20b",
]  # fmt: skip


def everything(model: Model, tokens: list[int], seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights of both forms of latent attention, and all logits of a prefill."""
    graph = llm(model, "verify", context=len(tokens), new_tokens=len(tokens), absorbed=False)
    weights = weights_of(graph, seed)
    for name in list(weights):
        if model.latent and name.endswith(("attention.k_up.weight", "attention.v_up.weight")):
            weights[name] = weights[name].reshape(-1, model.latent.kv_rank)
    values = weights | inputs(model, tokens, 0)
    return weights, run(
        model, values, phase="verify", context=len(tokens), new_tokens=len(tokens), absorbed=False
    )


def inputs(model: Model, tokens: list[int], start: int) -> dict[str, Any]:
    found = {"tokens": np.array(tokens[start:])}
    if model.positions:
        found["positions"] = np.arange(start, len(tokens)) + model.position_offset
    return found


@pytest.mark.parametrize(
    "name",
    [
        "llama-2-7b",
        "mistral-7b-v0.1",
        "mixtral-8x7b",
        "qwen3-30b-a3b",
        "olmoe-1b-7b",
        "gpt2-small",
        "opt-125m",
    ],
)
def test_graph_computes_what_the_naive_decoder_does(name: str) -> None:
    changes = {"qk_norm": None} if name == "olmoe-1b-7b" else {}
    model = small(name, **changes)
    weights, held = everything(model, TOKENS, seed=1)
    np.testing.assert_allclose(held["head"], logits(model, weights, TOKENS), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", FORMS)
def test_decoding_on_the_cache_continues_what_prefill_would_have_computed(name: str) -> None:
    """Prefill of four tokens, a chunk of two, one decoded: the logits of the whole at once. Latent
    attention decodes absorbed, and the whole is expanded."""
    model = small(name)
    weights, whole = everything(model, TOKENS, seed=2)
    caches: dict[str, Any] = {}
    start = 0
    for stop, phase in ((4, "prefill"), (6, "prefill"), (7, "decode")):
        values = dict(weights)
        if model.latent and phase == "decode":
            c = model.latent
            for i in range(model.layers):
                for part, rows in (("k_up", c.nope), ("v_up", c.v)):
                    key = f"layer{i}.attention.{part}.weight"
                    w = weights[key].reshape(model.heads, rows, c.kv_rank)
                    values[key] = w.transpose(0, 2, 1) if part == "k_up" else w
        for key, old in caches.items():
            values[key] = np.concatenate([old, np.full((stop - start, *old.shape[1:]), np.nan)])
        values |= inputs(model, TOKENS[:stop], start)
        held = run(model, values, phase=phase, context=stop, new_tokens=stop - start)
        np.testing.assert_allclose(held["head"][-1], whole["head"][stop - 1], rtol=1e-9, atol=1e-9)
        caches = {k: v for k, v in held.items() if k.endswith(("keys", "values", ".latent")) and v.ndim == 3}
        start = stop


@pytest.mark.parametrize("name", ["llama-2-7b", "qwen3-30b-a3b"])
def test_sequences_do_not_see_each_other(name: str) -> None:
    model = small(name)
    weights, alone = everything(model, TOKENS, seed=3)
    values = weights | {"tokens": np.array([7, 7, 7, *TOKENS])}
    held = run(model, values, phase="verify", context=[3, 7], new_tokens=[3, 7])
    np.testing.assert_allclose(held["head"][3:], alone["head"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["llama-2-7b", "mixtral-8x7b"])
def test_fused_matrices_compute_the_same(name: str) -> None:
    model = small(name)
    weights, held = everything(model, TOKENS, seed=4)
    fused = dict(weights)
    for i in range(model.layers):
        parts = [weights[f"layer{i}.attention.{p}.weight"] for p in "qkv"]
        fused[f"layer{i}.attention.qkv.weight"] = np.concatenate(parts)
        part = "experts" if model.experts else "feed_forward"
        both = [weights[f"layer{i}.{part}.{p}.weight"] for p in ("gate", "up")]
        fused[f"layer{i}.{part}.gate_up.weight"] = np.concatenate(both, axis=-2)
    values = fused | inputs(model, TOKENS, 0)
    again = run(model, values, phase="verify", context=7, new_tokens=7, fused=True)
    np.testing.assert_allclose(again["head"], held["head"], rtol=1e-9, atol=1e-9)


def test_switch_runs_and_its_decoding_continues_its_prefill() -> None:
    model = small("switch-base-8", encoder_layers=2)
    graph = llm(model, "prefill", context=4, source=5)
    weights = weights_of(graph, 5)
    encoder = {"encoder.output": np.random.default_rng(0).standard_normal((5, 24))}
    whole = run(
        model, weights | encoder | {"tokens": np.array(TOKENS[:5])}, phase="prefill", context=5, source=5
    )
    first = run(
        model, weights | encoder | {"tokens": np.array(TOKENS[:4])}, phase="prefill", context=4, source=5
    )
    caches = {k: v for k, v in first.items() if k.endswith(("keys", "values")) and v.ndim == 3}
    for key in list(caches):
        if "cross" not in key:
            caches[key] = np.concatenate([caches[key], np.zeros((1, 4, 6))])
    held = run(
        model, weights | caches | {"tokens": np.array(TOKENS[4:5])}, phase="decode", context=5, source=5
    )
    np.testing.assert_allclose(held["head"], whole["head"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("weights, activations, cache", [
    ("int8/g8", "int8/g8", "int8/g6"), ("int4/g4", "bf16", "bf16"), ("int8/g24", "int8/g4", "fp8"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["mixtral-8x7b", "deepseek-v3"])
def test_quantised_graphs_run_close_to_their_floats(
    name: str, weights: str, activations: str, cache: str
) -> None:
    graph = llm(
        small(name), batch=3, context=[4, 2, 6], weights=weights, activations=activations,
        cache=cache if name == "mixtral-8x7b" else "int8/g12",
    )  # fmt: skip
    values = random_values(graph, seed=6)
    held = execute(graph, values)
    exact = llm(small(name), batch=3, context=[4, 2, 6])
    floats = {k: v.values if isinstance(v, Quantised) else v for k, v in values.items() if k in exact.tensors}
    reference = execute(exact, floats)["head"]
    error = np.linalg.norm(held["head"] - reference) / np.linalg.norm(reference)
    assert 0 < error < 0.1 or (activations == "bf16" == cache and error < 1e-9)


def test_random_values_are_reproducible_and_follow_the_routing() -> None:
    graph = llm(small("qwen3-30b-a3b"), batch=6, context=3)
    first, second = random_values(graph, 7), random_values(graph, 7)
    assert first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)
    assert not np.array_equal(first["tokens"], random_values(graph, 8)["tokens"]) or not np.array_equal(
        first["head.weight"], random_values(graph, 8)["head.weight"]
    )
    counts = np.bincount(first["layer1.experts.ids"].ravel(), minlength=8)
    assert tuple(counts) == graph["layer1.experts.up"]["tokens"]


def test_a_router_that_disagrees_with_the_graph_is_told() -> None:
    graph = llm(small("mixtral-8x7b"), batch=6, context=3)
    with pytest.raises(ValueError, match="router sends"):
        execute(graph, chosen_freely(random_values(graph)))
    values = random_values(graph)
    del values["head.weight"]
    with pytest.raises(ValueError, match="no value for tensor 'head"):
        execute(graph, values)


# Integers.


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 5), st.integers(1, 40),
       st.sampled_from(["int8", "int4", "int2"]), st.sampled_from(["int16", "int8"]))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_integer_products_are_exact(seed: int, m: int, n: int, k: int, wide: str, x_type: str) -> None:
    draw = np.random.default_rng(seed)
    top_w, top_x = 2 ** (int(wide[3:]) - 1) - 1, 2 ** (int(x_type[3:]) - 1) - 1
    x = draw.integers(-top_x, top_x + 1, (m, k))
    w = draw.integers(-top_w, top_w + 1, (n, k))
    want = [[sum(int(a) * int(b) for a, b in zip(row, column, strict=True)) for column in w] for row in x]
    assert linear(x, w).dtype == np.int64 and linear(x, w).tolist() == want


def test_integers_beyond_doubles_are_exact() -> None:
    x = np.full((1, 3), 2**30 + 1)
    assert linear(x, x)[0, 0] == 3 * (2**30 + 1) ** 2


@given(st.integers(0, 2**32), st.integers(1, 50), st.sampled_from([(4, 4), (4, 8), (32, 8), (3, 3)]))
@settings(max_examples=40, deadline=None)
def test_scaled_products_sum_integers_group_by_group(seed: int, k: int, groups: tuple[int, int]) -> None:
    draw = np.random.default_rng(seed)
    x = quantise(draw.standard_normal((3, k)), Format("int8", groups[0]))
    w = quantise(draw.standard_normal((2, k)), Format("int4", groups[1]))
    step, want = min(groups), np.zeros((3, 2))
    for i in range(3):
        for j in range(2):
            for start in range(0, k, step):
                exact = sum(
                    int(a) * int(b)
                    for a, b in zip(
                        x.data[i, start : start + step], w.data[j, start : start + step], strict=True
                    )
                )
                want[i, j] += exact * (x.scales[i, start // groups[0]] * w.scales[j, start // groups[1]])
    np.testing.assert_array_equal(linear(x, w), want)
    np.testing.assert_allclose(linear(x, w), x.values @ w.values.T, rtol=1e-9, atol=1e-9)


def test_quantising_rounds_to_half_a_step_and_slices_keep_groups() -> None:
    x = np.random.default_rng(0).standard_normal((4, 70))
    q = quantise(x, Format("int8", 32))
    assert q.scales.shape == (4, 3) and np.abs(q.data).max() == 127
    steps = np.repeat(q.scales, 32, axis=1)[:, :70]
    assert (np.abs(q.values - x) <= 0.5 * steps * 1.07).all()  # fp16 scales clip the largest a little
    np.testing.assert_array_equal(q[1:3, 32:].values, q.values[1:3, 32:])
    with pytest.raises(ValueError, match="cuts a group"):
        q[:, 8:]


# Tiles.


@given(st.integers(0, 2**32), st.data())
@settings(max_examples=40, deadline=None)
def test_tiles_of_a_linear_put_together(seed: int, data: st.DataObject) -> None:
    draw = np.random.default_rng(seed)
    m, n, k = (data.draw(st.integers(1, 9)) for _ in range(3))
    x, w = draw.integers(-127, 128, (m, k)), draw.integers(-127, 128, (n, k))
    tile = [data.draw(st.integers(1, d)) for d in (m, n, k)]
    y = np.zeros((m, n), dtype=np.int64)
    for i in range(0, m, tile[0]):
        for j in range(0, n, tile[1]):
            for p in range(0, k, tile[2]):
                y[i : i + tile[0], j : j + tile[1]] += linear(
                    x[i : i + tile[0], p : p + tile[2]], w[j : j + tile[1], p : p + tile[2]]
                )
    assert np.array_equal(y, linear(x, w))


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 12), st.one_of(st.none(), st.integers(1, 6)))
@settings(max_examples=60, deadline=None)
def test_attention_over_parts_of_the_context_merges(seed: int, c: int, part: int, window: int | None) -> None:
    draw = np.random.default_rng(seed)
    nq = int(draw.integers(1, c + 1))
    q, keys = 3 * draw.standard_normal((nq, 4, 5)), 3 * draw.standard_normal((c, 2, 5))
    values = draw.standard_normal((c, 2, 3))
    common: dict[str, Any] = {"query_positions": np.arange(c - nq, c), "scale": 0.7, "window": window}
    whole = attend(q, keys, values, key_positions=np.arange(c), **common)
    parts = [
        attend(
            q, keys[i : i + part], values[i : i + part], key_positions=np.arange(c)[i : i + part], **common
        )
        for i in range(0, c, part)
    ]
    merged = merge(parts)
    np.testing.assert_allclose(merged.output, whole.output, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(merged.log_weight, whole.log_weight, rtol=1e-12)
    heads = [
        attend(
            q[:, 2 * g : 2 * g + 2],
            keys[:, g : g + 1],
            values[:, g : g + 1],
            key_positions=np.arange(c),
            **common,
        )
        for g in range(2)
    ]
    np.testing.assert_allclose(np.concatenate([h.output for h in heads], axis=1), whole.output, rtol=1e-12)


def test_experts_get_their_rows() -> None:
    draw = np.random.default_rng(0)
    x, w = draw.integers(-9, 9, (5, 3)), draw.integers(-9, 9, (3, 2, 3))
    y = expert_linear(x, w, (2, 0, 3))
    assert np.array_equal(y, np.concatenate([x[:2] @ w[0].T, x[2:] @ w[2].T]))
    with pytest.raises(ValueError, match="4 rows"):
        expert_linear(x, w, (2, 0, 2))


@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_ids_for_any_counts(m: int, experts: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    top_k = int(draw.integers(1, experts + 1))
    counts = np.bincount(
        np.concatenate([draw.choice(experts, top_k, replace=False) for _ in range(m)]), minlength=experts
    )
    ids = ids_for(tuple(counts), m, top_k)
    assert ids.shape == (m, top_k) and all(len(set(row)) == top_k for row in ids.tolist())
    assert np.array_equal(np.bincount(ids.ravel(), minlength=experts), counts)


# Small rules, by hand.


def test_group_limited_routing_by_hand() -> None:
    """DeepSeek-V3's: the two best of each group decide which groups stay open."""
    graph = llm(small("deepseek-v3"), context=2, layers=[1])
    operator = graph["layer1.route"]
    scores = np.array([[0.9, 0.1, 0.6, 0.5, 0.55, 0.54, 0.2, 0.3]])
    x = np.log(scores / (1 - scores))
    ids, weights = route(operator, x, np.zeros(8))
    # groups (0.9, 0.1), (0.6, 0.5), (0.55, 0.54), (0.2, 0.3): the second and third make most of two
    assert sorted(ids[0].tolist()) == [2, 4, 5]
    assert weights.sum() == pytest.approx(2.5)
    ids, weights = route(operator, x, np.array([0, 0, 0, 0, 0, 0, 5.0, 5.0]))
    assert set(ids[0].tolist()) >= {6, 7} and weights.sum() == pytest.approx(2.5)


def test_rope_scalings() -> None:
    plain, _ = frequencies(64, 10000.0, None)
    linear_, _ = frequencies(64, 10000.0, {"rope_type": "linear", "factor": 4.0})
    np.testing.assert_allclose(linear_, plain / 4)
    scaling = load_model("llama-3.1-8b").rope.scaling  # type: ignore[union-attr]
    speed, length = frequencies(128, 5e5, scaling)
    base, _ = frequencies(128, 5e5, None)
    assert length == 1 and speed[0] == base[0] and speed[-1] == pytest.approx(base[-1] / 8)
    yarn = load_model("deepseek-v3").rope.scaling  # type: ignore[union-attr]
    speed, length = frequencies(64, 1e4, yarn)
    assert length == 1 and speed[0] == plain[0] and speed[-1] == pytest.approx(plain[-1] / 40)


def test_sinks_take_weight() -> None:
    """Two keys of score 0 and a sink of score log 2: half the weight is lost."""
    q, keys, values = np.zeros((1, 1, 2)), np.zeros((2, 1, 2)), np.array([[[1.0]], [[3.0]]])
    part = attend(q, keys, values, query_positions=np.array([1]), key_positions=np.arange(2), scale=1.0)
    assert merge([part, sink(np.log([2.0]), part)]).output == pytest.approx(1.0)
    graph = llm(small("gpt-oss-20b"), context=6)
    values_ = random_values(graph)
    values_["layer0.attention.sinks"] = np.full(4, 60.0)
    assert np.abs(execute(graph, values_)["layer0.attention.core"]).max() < 1e-20
    assert [graph[f"layer{i}.attention.core"].attributes["window"] for i in (0, 1)] == [4, None]


def test_clamped_silu_by_hand() -> None:
    """GPT-OSS: x sigmoid(1.702 x), x at most 7; up within 7, plus one."""
    want = [-1 / (1 + np.exp(1.702)), 7 / (1 + np.exp(-1.702 * 7))]
    assert activation(np.array([-1.0, 9.0]), "clamped_silu") == pytest.approx(want)
    multiply = llm(small("gpt-oss-20b"), context=6)["layer0.experts.multiply"]
    assert evaluate(multiply, np.array([2.0, 2.0]), np.array([-9.0, 3.0]))[0].tolist() == [-12.0, 8.0]


def test_rows_of_new_tokens() -> None:
    assert rows_of_new_tokens((2, 1), (2, 3)).tolist() == [0, 1, 4]


def test_unknown_kinds_have_no_meaning() -> None:
    from neardata.workloads.graph import Operator

    with pytest.raises(ValueError, match="no meaning is known for kind 'fft'"):
        evaluate(Operator("a", "fft", (), (), {}))
