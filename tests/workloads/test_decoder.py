"""Operator graphs of language models: sizes by hand, conservation, names."""

from __future__ import annotations

import pytest

from neardata.arch.errors import InputError
from neardata.workloads.graph import Graph
from neardata.workloads.llm.decoder import llm
from neardata.workloads.llm.model import Model, load_model, model_names


def parameters(graph: Graph) -> int:
    return sum(tensor.elements for tensor in graph.tensors.values() if tensor.role == "weight")


DECODERS = [name for name in model_names() if not name.startswith("switch")]


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(
    "phase, new, fused",
    [("prefill", None, True), ("prefill", 3, False), ("decode", None, True), ("verify", 4, False)],
)
def test_weights_of_the_graph_are_the_parameters_of_the_model(
    name: str, phase: str, new: int | None, fused: bool
) -> None:
    model = load_model(name)
    graph = llm(model, phase, context=[9, 5], new_tokens=new, fused=fused)  # type: ignore[arg-type]
    assert parameters(graph) == model.parameters
    per_token = model.cache_elements_per_token
    assert graph.cache_bytes == 2 * 14 * per_token


@pytest.mark.parametrize("name", ["llama-2-7b", "gpt2-xl", "opt-125m"])
def test_macs_of_dense_decode_are_weights_and_attention(name: str) -> None:
    model, context, batch = load_model(name), 64, 3
    graph = llm(model, batch=batch, context=context)
    matrices = sum(graph.tensors[o.inputs[1]].elements for o in graph if o.kind == "linear")
    attention = 2 * model.layers * model.heads * model.head_dim * context
    assert graph.macs == batch * (matrices + attention)


def test_mixtral_decode_by_hand() -> None:
    graph = llm(load_model("mixtral-8x7b"), batch=64, context=1024)
    down = graph["layer31.experts.down"]
    assert down.dims["n"] == 4096 and down.dims["k"] == 14336 and sum(down.dims["tokens"]) == 128
    assert graph.tensors[down.inputs[1]].shape == (8, 4096, 14336)
    assert graph["layer0.attention.k"].dims == {"m": 64, "n": 1024, "k": 4096}
    core = graph["layer0.attention.core"]
    assert core.macs == 64 * 1024 * 32 * 256 and core["kv_heads"] == 8
    assert graph["head"].dims == {"m": 64, "n": 32000, "k": 4096}
    assert graph.cache_bytes == 64 * 1024 * 32 * 2 * 1024 * 2
    assert graph.producer("layer0.attention.keys") == "layer0.attention.keys.append"
    assert {o.group for o in graph} == {"embedding", "attention", "router", "experts", "head"}


def test_causal_pairs() -> None:
    graph = llm(load_model("llama-2-7b"), "prefill", context=[4, 3], layers=1)
    assert graph["layer0.attention.core"].pairs == 10 + 6
    graph = llm(load_model("llama-2-7b"), "prefill", context=[4, 3], new_tokens=2, layers=1)
    assert graph["layer0.attention.core"].pairs == 3 + 4 + 2 + 3
    graph = llm(load_model("mistral-7b-v0.1"), "prefill", context=4100, new_tokens=10, layers=1)
    assert graph["layer0.attention.core"].pairs == 4091 + 4092 + 4093 + 4094 + 4095 + 5 * 4096


def test_prefill_makes_logits_of_the_last_tokens_and_verify_of_all() -> None:
    model = load_model("llama-2-7b")
    assert llm(model, "prefill", context=[4, 3], layers=1)["head"]["m"] == 2
    assert llm(model, "prefill", context=[4, 3], layers=1)["last"].attributes["rows"] == (3, 6)
    assert llm(model, "verify", batch=2, context=9, new_tokens=5, layers=1)["head"]["m"] == 10
    assert "head" not in [o.name for o in llm(model, context=4, layers=1, head=False)]


def test_absorbed_and_expanded_latent_attention() -> None:
    model = load_model("deepseek-v3")
    core = llm(model, batch=2, context=100, layers=1)["layer0.attention.core"]
    assert (core["kv_heads"], core["qk"], core["v"], len(core.inputs)) == (1, 576, 512, 2)
    graph = llm(model, "prefill", context=[100, 50], layers=1)
    core = graph["layer0.attention.core"]
    assert (core["kv_heads"], core["qk"], core["v"], len(core.inputs)) == (128, 192, 128, 3)
    assert graph["layer0.attention.k_up"].dims == {"m": 150, "n": 128 * 128, "k": 512}
    chunk = llm(model, "prefill", context=[100, 50], new_tokens=10, layers=1)
    assert chunk["layer0.attention.k_up"]["m"] == 150 and chunk["layer0.attention.q_up"]["m"] == 20


def test_first_layers_of_deepseek_are_dense_and_shared_experts_see_all_tokens() -> None:
    graph = llm(load_model("deepseek-v3"), batch=5, context=8, layers=[2, 3])
    assert graph["layer2.feed_forward.down"]["k"] == 18432
    assert graph["layer3.shared.down"].dims == {"m": 5, "n": 7168, "k": 2048}
    assert sum(graph["layer3.experts.gate"].dims["tokens"]) == 40


def test_switch_decoder_attends_to_the_encoder() -> None:
    model = load_model("switch-base-8")
    graph = llm(model, batch=2, context=[3, 4], source=[10, 20])
    cross = graph["layer0.cross.core"]
    assert cross.pairs == 30 and cross.attributes["causal"] is False
    assert "layer0.feed_forward.down" in [o.name for o in graph] and graph["layer1.experts.up"]["n"] == 3072
    prefill = llm(model, "prefill", context=[3, 4], source=[10, 20])
    assert prefill["layer0.cross.k"]["m"] == 30
    assert prefill.cache_bytes == graph.cache_bytes == 2 * 12 * 2 * 768 * (7 + 30)


def test_formats_by_part() -> None:
    weights = {"experts": "int4/g32", "*": "int8/g32"}
    graph = llm(
        load_model("mixtral-8x7b"), context=8, layers=1, weights=weights, activations="int8/g32", cache="fp8"
    )
    formats = {name: str(tensor.format) for name, tensor in graph.tensors.items()}
    assert (
        formats["layer0.experts.up.weight"] == "int4/g32"
        and formats["layer0.attention.q.weight"] == "int8/g32"
    )
    assert (
        formats["layer0.router.weight"]
        == formats["embedding.weight"]
        == formats["final_norm.weight"]
        == "bf16"
    )
    assert formats["layer0.attention_norm"] == formats["layer0.experts.multiply"] == "int8/g32"
    assert formats["layer0.attention_add"] == "bf16" and formats["layer0.attention.keys"] == "fp8"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"context": 0}, "whole number of tokens"),
        ({"context": []}, "at least one sequence"),
        ({"context": [3, 4], "batch": 3}, "2 lengths for 3 sequences"),
        ({"context": 3, "phase": "verify"}, "needs new_tokens"),
        ({"context": 3, "new_tokens": 2}, "one token of each"),
        ({"context": 3, "phase": "prefill", "new_tokens": 4}, "4 new tokens in a context of 3"),
        ({"context": 3, "phase": "prefil"}, "did you mean prefill"),
        ({"context": 3, "layers": [32]}, "layers 0 to 31"),
        ({"context": 3, "layers": [1, 1]}, "listed twice"),
        ({"context": 3, "weights": {"expert": "int4"}}, "did you mean experts"),
        ({"context": 3, "weights": {"experts": "int4"}}, "none for the rest"),
        ({"context": 3, "source": 3}, "has no encoder"),
        ({"context": 3, "weights": "int5"}, "unknown number format"),
    ],
)
def test_arguments_that_contradict(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        llm(load_model("mixtral-8x7b"), **arguments)


def test_positions_are_bounded() -> None:
    llm(load_model("opt-125m"), context=2048, layers=1)
    with pytest.raises(InputError, match="2048 positions"):
        llm(load_model("opt-125m"), context=2049, layers=1)
    with pytest.raises(InputError, match="has an encoder"):
        llm(load_model("switch-base-8"), context=4)


class _Lost:
    def counts(self, layer: int, tokens: int, experts: int, top_k: int) -> list[int]:
        return [tokens] + [0] * (experts - 1)


def test_a_routing_that_loses_tokens_is_refused() -> None:
    model: Model = load_model("mixtral-8x7b")
    with pytest.raises(InputError, match="routing of layer 0"):
        llm(model, context=4, batch=2, routing=_Lost())  # type: ignore[arg-type]
