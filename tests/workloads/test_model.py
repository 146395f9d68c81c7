"""Models: numbers of parameters as published, configurations read strictly."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from neardata.arch.errors import InputError
from neardata.workloads.llm.model import Experts, load_model, model_names

EXACT = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "mistral-7b-v0.1": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "olmoe-1b-7b": 6_919_161_856,
    "gpt2-small": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "opt-125m": 125_239_296,
    "opt-350m": 331_196_416,
    "opt-1.3b": 1_315_758_080,
    "opt-6.7b": 6_658_473_984,
}
"""Elements of the released weights."""
ROUNDED = {
    "mixtral-8x22b": (141e9, 39e9),
    "qwen3-30b-a3b": (30.5e9, 3.3e9),
    "qwen2-57b-a14b": (57.4e9, 14e9),
    "qwen1.5-moe-a2.7b": (14.3e9, 2.7e9),
    "deepseek-v2": (236e9, 21e9),
    "deepseek-v3": (671e9, 37e9),
    "gpt3-175b": (175e9, 175e9),
}
"""All and active parameters as the model cards and papers round them."""


@pytest.mark.parametrize("name", EXACT)
def test_parameters_are_those_of_the_released_weights(name: str) -> None:
    assert load_model(name).parameters == EXACT[name]


@pytest.mark.parametrize("name", ROUNDED)
def test_parameters_round_to_the_published_figures(name: str) -> None:
    model = load_model(name)
    assert model.parameters == pytest.approx(ROUNDED[name][0], rel=0.005)
    assert model.active_parameters == pytest.approx(ROUNDED[name][1], rel=0.02)


@pytest.mark.parametrize(
    "name, bytes_fp32", [("switch-base-8", 18_874_368), ("switch-large-128", 33_554_432)]
)
def test_switch_experts_have_the_bytes_of_the_artefact(name: str, bytes_fp32: int) -> None:
    """ranggihwang/Pregated_MoE, scripts/eval_all.py."""
    assert 4 * load_model(name).expert_parameters == bytes_fp32


def test_active_parameters_of_gpt_oss_leave_out_the_input_embedding() -> None:
    model = load_model("gpt-oss-20b")
    assert model.parameters == pytest.approx(20.9e9, rel=0.002)
    active = model.active_parameters - model.vocabulary * model.embedding_dim
    assert active == pytest.approx(3.61e9, rel=0.005)


def test_every_shipped_model_names_its_source() -> None:
    folder = resources.files("neardata.workloads.llm") / "models"
    assert len(model_names()) >= 40
    for name in model_names():
        assert json.loads((folder / f"{name}.json").read_text())["_source"]
        assert load_model(name).name == name


def test_latent_cache_is_576_a_layer() -> None:
    model = load_model("deepseek-v3")
    assert model.cache_elements_per_token == 61 * (512 + 64)
    assert model.experts is not None and model.experts.layers == tuple(range(3, 61))


def shipped(name: str) -> dict[str, Any]:
    text = (resources.files("neardata.workloads.llm") / "models" / f"{name}.json").read_text()
    config: dict[str, Any] = json.loads(text)
    return config


BAD: list[tuple[str, Callable[[dict[str, Any]], Any], str, str]] = [
    ("mixtral-8x7b", lambda c: c.update(model_type="mixtrall"), "model_type", "did you mean mixtral"),
    ("mixtral-8x7b", lambda c: c.pop("model_type"), "model_type", "missing"),
    ("mixtral-8x7b", lambda c: c.pop("num_local_experts"), "num_local_experts", "missing"),
    ("mixtral-8x7b", lambda c: c.update(num_experts_per_tok=9), "", "9 experts a token out of 8"),
    ("mixtral-8x7b", lambda c: c.update(num_key_value_heads=5), "", "32 heads do not share 5"),
    ("mixtral-8x7b", lambda c: c.update(hidden_size=4095), "hidden_size", "does not divide into 32 heads"),
    ("mixtral-8x7b", lambda c: c.update(hidden_size="4096"), "hidden_size", "whole number"),
    ("mixtral-8x7b", lambda c: c.update(hidden_size=True), "hidden_size", "whole number"),
    ("mixtral-8x7b", lambda c: c.update(hidden_act="gelu"), "hidden_act", "gelu"),
    ("mixtral-8x7b", lambda c: c.update(num_local_expert=8), "num_local_expert", "did you mean num_local"),
    ("mixtral-8x7b", lambda c: c.update(quantization_config={}), "quantization_config", "quantised"),
    ("mixtral-8x7b", lambda c: c.update(text_config={"a": 1}), "text_config", "nested"),
    ("mixtral-8x7b", lambda c: c.update(architectures=["LlamaForCausalLM"]), "architectures", "goes with"),
    ("mixtral-8x7b", lambda c: c.update(num_hidden_layers=24), "_published_parameters", "published, but"),
    ("llama-3.1-8b", lambda c: c["rope_scaling"].update(rope_type="su"), "rope_scaling.rope", "not known"),
    ("llama-3.1-8b", lambda c: c["rope_scaling"].pop("factor"), "rope_scaling.factor", "missing"),
    ("qwen3-30b-a3b", lambda c: c.update(mlp_only_layers=[48]), "mlp_only_layers", "layer 48 of 48"),
    ("qwen3-30b-a3b", lambda c: c.update(use_sliding_window=True), "use_sliding_window", "True"),
    ("qwen3-30b-a3b", lambda c: c.pop("head_dim"), "head_dim", "missing"),
    ("deepseek-v3", lambda c: c.update(topk_method="greedy"), "topk_method", "noaux_tc"),
    ("deepseek-v3", lambda c: c.update(n_group=7), "", "do not divide into 7 groups"),
    ("deepseek-v3", lambda c: c.update(topk_group=9), "", "too few experts"),
    ("deepseek-v3", lambda c: c.update(first_k_dense_replace=62), "first_k_dense_replace", "62 dense layers"),
    ("deepseek-v3", lambda c: c.update(num_key_value_heads=8), "num_key_value_heads", "as many"),
    ("switch-base-8", lambda c: c.update(num_sparse_decoder_layers=5), "num_sparse_decoder_layers", "make 6"),
    ("gpt2-small", lambda c: c.update(scale_attn_by_inverse_layer_idx=True), "scale_attn", "only False"),
]  # fmt: skip


@pytest.mark.parametrize("name, spoil, key, message", BAD)
def test_bad_configuration(
    tmp_path: Path, name: str, spoil: Callable[[dict[str, Any]], Any], key: str, message: str
) -> None:
    config = shipped(name)
    spoil(config)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config, indent=1))
    with pytest.raises(InputError) as error:
        load_model(path)
    text = str(error.value)
    assert text.startswith(str(path)) and message in text and "\n" not in text
    if key:
        assert (error.value.key or "").startswith(key)
        line = error.value.line
        assert line is not None and (
            message == "missing" or f'"{key.split(".")[-1]}' in path.read_text().splitlines()[line - 1]
        )


def test_a_configuration_gives_the_same_model_as_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "mixtral").mkdir()
    path = tmp_path / "mixtral" / "config.json"
    path.write_text(json.dumps(shipped("mixtral-8x7b") | {"torch_dtype": "bfloat16", "eos_token_id": 2}))
    assert load_model(path) == load_model("mixtral-8x7b").model_copy(update={"name": "mixtral"})


def test_tabs_are_json(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(shipped("mixtral-8x7b"), indent="\t"))
    assert load_model(path).parameters == EXACT["mixtral-8x7b"]
    path.write_text(json.dumps(shipped("mixtral-8x7b") | {"num_local_experts": 0}, indent="\t"))
    with pytest.raises(InputError, match=r"config\.json(:16)?: num_local_experts: "):
        load_model(path)
    path.write_text('{"model_type": "mixtral", "model_type": "llama"}')
    with pytest.raises(InputError, match=r"config\.json:1: model_type: given twice"):
        load_model(path)


@pytest.mark.parametrize(
    "text, message", [("{", "not valid JSON"), ("[]", "must be an object"), ("\xff", "not valid JSON")]
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_model(path)


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="did you mean mixtral-8x7b"):
        load_model("mixtral-8x7")
    with pytest.raises(InputError, match="cannot be read"):
        load_model("nowhere/config.json")


def test_experts_agree() -> None:
    with pytest.raises(ValueError, match="9 experts a token out of 8"):
        Experts(count=8, top_k=9, ffn=1, layers=(0,), normalise=True)
