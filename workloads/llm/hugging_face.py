"""Hugging Face configurations, read strictly.

Every key is either a size or a switch that this module understands, one of `NEUTRAL` (it changes no
shape and no operator), or an error. A key may be absent only where the family is older than the key;
its class below says which value that stands for.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from neardata.arch.config_file import ConfigFile, StrictModel, first_problem
from neardata.arch.errors import nearest
from neardata.workloads.llm.model import Experts, Latent, Model, Rope

NEUTRAL = frozenset({
    "activation_dropout", "add_router_probs", "architectures", "attention_dropout", "attn_pdrop",
    "auto_map", "aux_loss_alpha", "batch_prioritized_routing", "bos_token_id", "classifier_dropout",
    "clip_qkv", "decoder_start_token_id", "dropout", "dropout_rate", "dtype", "embd_pdrop", "eos_token_id",
    "ep_size", "hidden_dropout", "id2label", "init_std", "initial_context_length", "initializer_factor",
    "initializer_range", "label2id", "layerdrop", "max_position_embeddings", "max_window_layers",
    "model_type", "n_ctx", "n_positions", "num_nextn_predict_layers", "output_attentions",
    "output_hidden_states", "output_past", "output_router_logits", "pad_token_id", "prefix",
    "pretraining_tp", "reorder_and_upcast_attn", "resid_pdrop", "router_aux_loss_coef", "router_dtype",
    "router_ignore_padding_tokens", "router_jitter_noise", "router_z_loss_coef",
    "scale_attn_by_inverse_layer_idx", "seq_aux", "summary_activation", "summary_first_dropout",
    "summary_proj_to_labels", "summary_type", "summary_use_proj", "task_specific_params", "torch_dtype",
    "transformers_version", "use_cache",
})  # fmt: skip
"""Keys without influence on shapes and operators: tokens, training, bookkeeping."""
MUST_BE = {
    "clip_qkv": (None,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "reorder_and_upcast_attn": (False,),
    "add_router_probs": (False,),
    "batch_prioritized_routing": (False,),
}
"""Neutral only at these values."""
OURS = ("_source", "_published_parameters", "_name_or_path", "_attn_implementation")

Size = Annotated[int, Field(gt=0, strict=True)]
Count = Annotated[int, Field(ge=0, strict=True)]
Switch = Annotated[bool, Field(strict=True)]
Positive = Annotated[float, Field(gt=0)]


class _Family(StrictModel):
    """The keys of a family that make its shapes."""


class _Rotary(_Family):
    """Keys of all families with rotary embedding and RMS norms."""

    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    vocab_size: Size
    hidden_act: Literal["silu"]
    rms_norm_eps: Positive
    tie_word_embeddings: Switch
    rope_scaling: dict[str, Any] | None = None

    def rotary(self, name: str, rope_theta: float, **more: Any) -> Model:
        heads = self.num_attention_heads
        head_dim = more.pop("head_dim", None)
        if head_dim is None:
            if self.hidden_size % heads:
                raise _Contradiction(
                    f"{self.hidden_size} does not divide into {heads} heads and head_dim is not given",
                    "hidden_size",
                )
            head_dim = self.hidden_size // heads
        sizes = {
            "layers": self.num_hidden_layers,
            "hidden": self.hidden_size,
            "heads": heads,
            "head_dim": head_dim,
            "ffn": self.intermediate_size,
            "gated": True,
            "activation": self.hidden_act,
            "vocabulary": self.vocab_size,
            "embedding_dim": self.hidden_size,
            "tied": self.tie_word_embeddings,
            "norm": "rms",
            "norm_epsilon": self.rms_norm_eps,
            "rope": Rope(theta=rope_theta, scaling=_scaling(self.rope_scaling)),
            "attention_scale": head_dim**-0.5,
        }
        return Model.model_validate({"name": name, **sizes, **more})


class _Llama(_Rotary):
    """Llama 1 to 3. Without ``rope_theta`` it is 10000, without bias switches there are no biases:
    Llama 1 and 2 are older than these keys."""

    num_key_value_heads: Size
    head_dim: Size | None = None
    rope_theta: Positive = 10000.0
    attention_bias: Switch = False
    mlp_bias: Switch = False

    def model(self, name: str) -> Model:
        return self.rotary(
            name, self.rope_theta, family="llama", kv_heads=self.num_key_value_heads, head_dim=self.head_dim,
            qkv_bias=self.attention_bias, output_bias=self.attention_bias, ffn_bias=self.mlp_bias,
        )  # fmt: skip


class _Mistral(_Rotary):
    num_key_value_heads: Size
    head_dim: Size | None = None
    rope_theta: Positive
    sliding_window: Size | None

    def model(self, name: str) -> Model:
        return self.rotary(
            name, self.rope_theta, family="mistral", kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim, window=self.sliding_window,
        )  # fmt: skip


class _Mixtral(_Rotary):
    num_key_value_heads: Size
    head_dim: Size | None = None
    rope_theta: Positive
    sliding_window: Size | None
    num_local_experts: Size
    num_experts_per_tok: Size

    def model(self, name: str) -> Model:
        experts = Experts(
            count=self.num_local_experts,
            top_k=self.num_experts_per_tok,
            ffn=self.intermediate_size,
            layers=tuple(range(self.num_hidden_layers)),
            normalise=True,
        )
        return self.rotary(
            name, self.rope_theta, family="mixtral", kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim, window=self.sliding_window, experts=experts,
        )  # fmt: skip


class _Qwen(_Rotary):
    """``use_sliding_window`` makes ``sliding_window`` hold for some layers: not supported."""

    num_key_value_heads: Size
    rope_theta: Positive
    use_sliding_window: Literal[False]
    sliding_window: Size | None = None
    layer_types: list[Literal["full_attention"]] | None = None


class _Qwen2(_Qwen):
    def model(self, name: str) -> Model:
        return self.rotary(
            name, self.rope_theta, family="qwen2", kv_heads=self.num_key_value_heads, qkv_bias=True
        )


class _Qwen3(_Qwen):
    head_dim: Size
    attention_bias: Switch

    def model(self, name: str) -> Model:
        return self.rotary(
            name, self.rope_theta, family="qwen3", kv_heads=self.num_key_value_heads, head_dim=self.head_dim,
            qkv_bias=self.attention_bias, output_bias=self.attention_bias, qk_norm="head",
        )  # fmt: skip


class _SparseLayers(_Qwen):
    moe_intermediate_size: Size
    num_experts: Size
    num_experts_per_tok: Size
    norm_topk_prob: Switch
    decoder_sparse_step: Size

    def expert_layers(self, mlp_only: tuple[int, ...]) -> tuple[int, ...]:
        bad = [i for i in mlp_only if not 0 <= i < self.num_hidden_layers]
        if bad:
            raise _Contradiction(f"layer {bad[0]} of {self.num_hidden_layers}", "mlp_only_layers")
        return tuple(
            i
            for i in range(self.num_hidden_layers)
            if i not in mlp_only and (i + 1) % self.decoder_sparse_step == 0
        )


class _Qwen2Moe(_SparseLayers):
    """``mlp_only_layers`` is younger than the family: without it there are none."""

    shared_expert_intermediate_size: Size
    mlp_only_layers: tuple[Count, ...] = ()

    def model(self, name: str) -> Model:
        experts = Experts(
            count=self.num_experts, top_k=self.num_experts_per_tok, ffn=self.moe_intermediate_size,
            layers=self.expert_layers(self.mlp_only_layers), shared=1,
            shared_ffn=self.shared_expert_intermediate_size, shared_gate=True, normalise=self.norm_topk_prob,
        )  # fmt: skip
        return self.rotary(
            name, self.rope_theta, family="qwen2_moe", kv_heads=self.num_key_value_heads, qkv_bias=True,
            experts=experts,
        )  # fmt: skip


class _Qwen3Moe(_SparseLayers):
    head_dim: Size
    attention_bias: Switch
    mlp_only_layers: tuple[Count, ...]

    def model(self, name: str) -> Model:
        experts = Experts(
            count=self.num_experts, top_k=self.num_experts_per_tok, ffn=self.moe_intermediate_size,
            layers=self.expert_layers(self.mlp_only_layers), normalise=self.norm_topk_prob,
        )  # fmt: skip
        return self.rotary(
            name, self.rope_theta, family="qwen3_moe", kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim, qkv_bias=self.attention_bias, output_bias=self.attention_bias,
            qk_norm="head", experts=experts,
        )  # fmt: skip


class _Olmoe(_Rotary):
    num_key_value_heads: Size
    rope_theta: Positive
    attention_bias: Switch
    num_experts: Size
    num_experts_per_tok: Size
    norm_topk_prob: Switch

    def model(self, name: str) -> Model:
        experts = Experts(
            count=self.num_experts, top_k=self.num_experts_per_tok, ffn=self.intermediate_size,
            layers=tuple(range(self.num_hidden_layers)), normalise=self.norm_topk_prob,
        )  # fmt: skip
        return self.rotary(
            name, self.rope_theta, family="olmoe", kv_heads=self.num_key_value_heads,
            qkv_bias=self.attention_bias, output_bias=self.attention_bias, qk_norm="width", experts=experts,
        )  # fmt: skip


class _DeepSeek(_Rotary):
    """DeepSeek-V2 and V3 and models of the same form. ``num_nextn_predict_layers`` (a draft head
    beside the model) is left out of the model, as it is in the published 671 B."""

    rope_theta: Positive
    attention_bias: Switch
    num_key_value_heads: Size
    moe_intermediate_size: Size
    n_routed_experts: Size
    n_shared_experts: Count | None
    num_experts_per_tok: Size
    first_k_dense_replace: Count
    moe_layer_freq: Size
    n_group: Size
    topk_group: Size
    norm_topk_prob: Switch
    routed_scaling_factor: Positive
    q_lora_rank: Size | None
    kv_lora_rank: Size
    qk_nope_head_dim: Size
    qk_rope_head_dim: Size
    v_head_dim: Size

    def deepseek(self, name: str, family: str, **routing: Any) -> Model:
        if self.num_key_value_heads != self.num_attention_heads:
            raise _Contradiction(
                f"latent attention has as many key-value heads as heads ({self.num_attention_heads}),"
                f" got {self.num_key_value_heads}",
                "num_key_value_heads",
            )
        if self.attention_bias:
            raise _Contradiction("biases in latent attention are not supported", "attention_bias")
        if self.first_k_dense_replace > self.num_hidden_layers:
            raise _Contradiction(
                f"{self.first_k_dense_replace} dense layers out of {self.num_hidden_layers}",
                "first_k_dense_replace",
            )
        shared = self.n_shared_experts or 0
        experts = Experts(
            count=self.n_routed_experts,
            top_k=self.num_experts_per_tok,
            ffn=self.moe_intermediate_size,
            layers=tuple(
                i
                for i in range(self.first_k_dense_replace, self.num_hidden_layers)
                if i % self.moe_layer_freq == 0
            ),
            shared=shared,
            shared_ffn=shared * self.moe_intermediate_size,
            normalise=self.norm_topk_prob,
            scale=self.routed_scaling_factor,
            **routing,
        )
        latent = Latent(
            q_rank=self.q_lora_rank,
            kv_rank=self.kv_lora_rank,
            nope=self.qk_nope_head_dim,
            rope=self.qk_rope_head_dim,
            v=self.v_head_dim,
        )
        scale = (latent.nope + latent.rope) ** -0.5
        scaling = _scaling(self.rope_scaling)
        if scaling and scaling.get("mscale_all_dim"):
            scale *= (0.1 * scaling["mscale_all_dim"] * math.log(scaling["factor"]) + 1) ** 2
        return self.rotary(
            name, self.rope_theta, family=family, kv_heads=self.num_attention_heads,
            head_dim=latent.nope + latent.rope, latent=latent, experts=experts, attention_scale=scale,
        )  # fmt: skip


class _DeepSeekV2(_DeepSeek):
    scoring_func: Literal["softmax"]
    topk_method: Literal["greedy", "group_limited_greedy"]

    def model(self, name: str) -> Model:
        limited = self.topk_method == "group_limited_greedy"
        groups = {"groups": self.n_group, "top_groups": self.topk_group} if limited else {}
        return self.deepseek(name, "deepseek_v2", group_score="max", **groups)


class _DeepSeekV3(_DeepSeek):
    scoring_func: Literal["sigmoid"]
    topk_method: Literal["noaux_tc"]

    def model(self, name: str) -> Model:
        return self.deepseek(
            name, "deepseek_v3", scoring="sigmoid", groups=self.n_group, top_groups=self.topk_group,
            group_score="top2", correction_bias=True,
        )  # fmt: skip


class _Glm4MoeLite(_DeepSeek):
    """DeepSeek-V3's form; the configuration leaves its scoring to the family."""

    moe_layer_freq: Literal[1] = 1
    topk_method: Literal["noaux_tc"]
    partial_rotary_factor: float = Field(default=1.0, ge=1, le=1)

    def model(self, name: str) -> Model:
        return self.deepseek(
            name, "glm4_moe_lite", scoring="sigmoid", groups=self.n_group, top_groups=self.topk_group,
            group_score="top2", correction_bias=True,
        )  # fmt: skip


class _GptOss(_Rotary):
    """GPT-OSS: biases everywhere, sinks, and every other layer with a sliding window."""

    num_key_value_heads: Size
    head_dim: Size
    rope_theta: Positive
    attention_bias: Literal[True]
    num_local_experts: Size
    num_experts_per_tok: Size
    experts_per_token: Size | None = None
    sliding_window: Size
    layer_types: tuple[Literal["sliding_attention", "full_attention"], ...]
    swiglu_limit: float = Field(default=7.0, ge=7, le=7)

    def model(self, name: str) -> Model:
        pattern = ("sliding_attention", "full_attention")
        if self.layer_types != tuple(pattern[i % 2] for i in range(self.num_hidden_layers)):
            raise _Contradiction("only sliding and full attention in turn are supported", "layer_types")
        if self.experts_per_token not in (None, self.num_experts_per_tok):
            raise _Contradiction(
                f"{self.experts_per_token}, but num_experts_per_tok is {self.num_experts_per_tok}",
                "experts_per_token",
            )
        experts = Experts(
            count=self.num_local_experts, top_k=self.num_experts_per_tok, ffn=self.intermediate_size,
            layers=tuple(range(self.num_hidden_layers)), normalise=True, router_bias=True, bias=True,
        )  # fmt: skip
        return self.rotary(
            name, self.rope_theta, family="gpt_oss", kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim, qkv_bias=True, output_bias=True, experts=experts,
            window=self.sliding_window, window_every=2, sinks=True, activation="clamped_silu",
        )  # fmt: skip


class _Gpt(_Family):
    """GPT-2; ``gpt3`` is our own name for GPT-3's form of it, which has ``head_dim`` and whose
    alternating sparse attention (Table 2.1's models) is taken as dense. Head and embedding are tied."""

    n_embd: Size
    n_layer: Size
    n_head: Size
    n_positions: Size
    n_inner: Size | None = None
    """None: 4 n_embd, as in the family."""
    vocab_size: Size
    activation_function: Literal["gelu", "gelu_new"]
    layer_norm_epsilon: Positive
    tie_word_embeddings: Literal[True] = True
    scale_attn_weights: Literal[True] = True

    def gpt(self, name: str, family: str, head_dim: int | None) -> Model:
        if head_dim is None:
            if self.n_embd % self.n_head:
                raise _Contradiction(f"{self.n_embd} does not divide into {self.n_head} heads", "n_embd")
            head_dim = self.n_embd // self.n_head
        return Model(
            name=name, family=family, layers=self.n_layer, hidden=self.n_embd, heads=self.n_head,
            kv_heads=self.n_head, head_dim=head_dim, ffn=self.n_inner or 4 * self.n_embd, gated=False,
            activation="gelu", vocabulary=self.vocab_size, embedding_dim=self.n_embd, tied=True,
            norm="layer", norm_epsilon=self.layer_norm_epsilon, qkv_bias=True, output_bias=True,
            ffn_bias=True, positions=self.n_positions, attention_scale=head_dim**-0.5,
        )  # fmt: skip


class _Gpt2(_Gpt):
    def model(self, name: str) -> Model:
        return self.gpt(name, "gpt2", None)


class _Gpt3(_Gpt):
    head_dim: Size

    def model(self, name: str) -> Model:
        return self.gpt(name, "gpt3", self.head_dim)


class _Opt(_Family):
    """OPT; positions start at row 2. Without ``enable_bias``, ``layer_norm_elementwise_affine`` and
    ``tie_word_embeddings``, younger than the family, all three hold."""

    hidden_size: Size
    ffn_dim: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    vocab_size: Size
    max_position_embeddings: Size
    word_embed_proj_dim: Size
    do_layer_norm_before: Switch
    activation_function: Literal["relu"]
    enable_bias: Literal[True] = True
    layer_norm_elementwise_affine: Literal[True] = True
    tie_word_embeddings: Literal[True] = True
    remove_final_layer_norm: Literal[False] = Field(default=False, alias="_remove_final_layer_norm")

    def model(self, name: str) -> Model:
        if self.hidden_size % self.num_attention_heads:
            raise _Contradiction(
                f"{self.hidden_size} does not divide into {self.num_attention_heads} heads", "hidden_size"
            )
        head_dim = self.hidden_size // self.num_attention_heads
        return Model(
            name=name, family="opt", layers=self.num_hidden_layers, hidden=self.hidden_size,
            heads=self.num_attention_heads, kv_heads=self.num_attention_heads, head_dim=head_dim,
            ffn=self.ffn_dim, gated=False, activation="relu", vocabulary=self.vocab_size,
            embedding_dim=self.word_embed_proj_dim, tied=True, norm="layer", norm_epsilon=1e-5,
            norm_first=self.do_layer_norm_before, qkv_bias=True, output_bias=True, ffn_bias=True,
            positions=self.max_position_embeddings + 2, position_offset=2, attention_scale=head_dim**-0.5,
        )  # fmt: skip


class _Switch(_Family):
    """Switch Transformers: T5 with experts in every ``sparse_step``-th layer, one expert a token.
    ``num_sparse_*_layers`` say the same and must agree. Tokens over ``expert_capacity`` are dropped
    in training; here none is."""

    d_model: Size
    d_kv: Size
    d_ff: Size
    num_layers: Size
    num_decoder_layers: Size
    num_heads: Size
    num_experts: Size
    num_sparse_encoder_layers: Count
    num_sparse_decoder_layers: Count
    encoder_sparse_step: Count
    decoder_sparse_step: Count
    expert_capacity: Size
    router_bias: Switch
    router_type: Literal["tokens_masked"]
    vocab_size: Size
    relative_attention_num_buckets: Size
    relative_attention_max_distance: Size
    layer_norm_epsilon: Positive
    feed_forward_proj: Literal["relu"]
    is_gated_act: Literal[False] = False
    dense_act_fn: Literal["relu"] = "relu"
    is_encoder_decoder: Literal[True]
    tie_word_embeddings: Literal[True] = True

    def model(self, name: str) -> Model:
        stacks = {}
        for stack, layers, sparse, step in (
            ("encoder", self.num_layers, self.num_sparse_encoder_layers, self.encoder_sparse_step),
            ("decoder", self.num_decoder_layers, self.num_sparse_decoder_layers, self.decoder_sparse_step),
        ):
            stacks[stack] = tuple(i for i in range(layers) if step and i % step == (1 if step > 1 else 0))
            if len(stacks[stack]) != sparse:
                raise _Contradiction(
                    f"{sparse}, but every {step} of {layers} layers make {len(stacks[stack])}",
                    f"num_sparse_{stack}_layers",
                )
        experts = Experts(
            count=self.num_experts, top_k=1, ffn=self.d_ff, layers=stacks["decoder"], normalise=False,
            router_bias=self.router_bias,
        )  # fmt: skip
        return Model(
            name=name, family="switch_transformers", layers=self.num_decoder_layers, hidden=self.d_model,
            heads=self.num_heads, kv_heads=self.num_heads, head_dim=self.d_kv, ffn=self.d_ff, gated=False,
            activation="relu", vocabulary=self.vocab_size, embedding_dim=self.d_model, tied=True,
            norm="rms", norm_epsilon=self.layer_norm_epsilon, attention_scale=1.0, experts=experts,
            encoder_layers=self.num_layers, encoder_experts=stacks["encoder"],
            relative_buckets=self.relative_attention_num_buckets,
            relative_distance=self.relative_attention_max_distance,
        )  # fmt: skip


FAMILIES: dict[str, tuple[type[Any], str]] = {
    "llama": (_Llama, "LlamaForCausalLM"),
    "mistral": (_Mistral, "MistralForCausalLM"),
    "mixtral": (_Mixtral, "MixtralForCausalLM"),
    "qwen2": (_Qwen2, "Qwen2ForCausalLM"),
    "qwen3": (_Qwen3, "Qwen3ForCausalLM"),
    "qwen2_moe": (_Qwen2Moe, "Qwen2MoeForCausalLM"),
    "qwen3_moe": (_Qwen3Moe, "Qwen3MoeForCausalLM"),
    "olmoe": (_Olmoe, "OlmoeForCausalLM"),
    "deepseek_v2": (_DeepSeekV2, "DeepseekV2ForCausalLM"),
    "deepseek_v3": (_DeepSeekV3, "DeepseekV3ForCausalLM"),
    "glm4_moe_lite": (_Glm4MoeLite, "Glm4MoeLiteForCausalLM"),
    "gpt_oss": (_GptOss, "GptOssForCausalLM"),
    "gpt2": (_Gpt2, "GPT2LMHeadModel"),
    "gpt3": (_Gpt3, "GPT2LMHeadModel"),
    "opt": (_Opt, "OPTForCausalLM"),
    "switch_transformers": (_Switch, "SwitchTransformersForConditionalGeneration"),
}
"""Families by ``model_type``: their keys and the architecture that is read."""

REFUSED = {
    "quantization_config": "a quantised checkpoint; take the key out and choose the format of the weights",
    "text_config": "nested configurations are not read; give the inner one as its own file",
    "rope_parameters": "not read; give rope_theta and rope_scaling",
}
SCALINGS = {
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {
        "factor", "beta_fast", "beta_slow", "original_max_position_embeddings",
    },
}  # fmt: skip
"""Kinds of rotary scaling, and the numbers each needs."""
OPTIONAL = {"yarn": {"mscale", "mscale_all_dim", "truncate"}}
"""What else may be given: ``mscale`` and ``mscale_all_dim`` together; ``truncate`` (true if left out) rounds
the ends of the ramp."""


class _Contradiction(Exception):
    def __init__(self, message: str, *keys: str) -> None:
        super().__init__(message)
        self.message, self.keys = message, keys


def _scaling(given: dict[str, Any] | None) -> dict[str, Any] | None:
    if given is None:
        return None
    kind = given.get("rope_type", given.get("type"))
    if kind is None:
        raise _Contradiction("missing", "rope_scaling", "rope_type")
    if kind not in SCALINGS:
        raise _Contradiction(
            f"'{kind}' is not known{nearest(str(kind), SCALINGS)}",
            "rope_scaling",
            "rope_type" if "rope_type" in given else "type",
        )
    allowed = SCALINGS[kind] | OPTIONAL.get(kind, set())
    for key in given:
        if key not in allowed and key not in ("rope_type", "type"):
            raise _Contradiction(f"unknown key{nearest(key, allowed)}", "rope_scaling", key)
    needed = set(SCALINGS[kind])
    if "mscale" in given or "mscale_all_dim" in given:
        needed |= {"mscale", "mscale_all_dim"}
    for key in sorted(needed):
        if key not in given:
            raise _Contradiction("missing", "rope_scaling", key)
        if not isinstance(given[key], int | float) or isinstance(given[key], bool) or given[key] <= 0:
            raise _Contradiction(f"must be a positive number, got {given[key]!r}", "rope_scaling", key)
    if not isinstance(given.get("truncate", True), bool):
        raise _Contradiction(f"must be true or false, got {given['truncate']!r}", "rope_scaling", "truncate")
    return {"rope_type": kind, **{key: given[key] for key in sorted(allowed & set(given))}}


def read_config(file: ConfigFile, data: dict[str, Any], name: str) -> Model:
    """The model that a configuration (JSON, as ``data``) describes.

    Raises:
        InputError: placed at the file, line and key.
    """
    for key, why in REFUSED.items():
        if data.get(key) is not None:
            raise file.error(why, key)
    family = data.get("model_type")
    if family is None:
        raise file.error("missing", "model_type")
    if family not in FAMILIES:
        raise file.error(f"'{family}' is not supported{nearest(str(family), FAMILIES)}", "model_type")
    config, architecture = FAMILIES[family]
    architectures = data.get("architectures")
    if architectures is not None and architectures != [architecture]:
        raise file.error(
            f"model_type {family} goes with ['{architecture}'], got {architectures}", "architectures"
        )
    keys = set(config.model_fields) | {f.alias for f in config.model_fields.values() if f.alias}
    for key, allowed in MUST_BE.items():
        if key in data and data[key] not in allowed:
            raise file.error(f"only {allowed[0]} is supported, got {data[key]}", key)
    sizes = {
        key: value
        for key, value in data.items()
        if key in keys or not (key in NEUTRAL or key in OURS or key in REFUSED)
    }
    try:
        model: Model = config.model_validate(sizes).model(name)
        return model
    except ValidationError as error:
        if error.title != config.__name__:  # sizes that do not fit together
            raise file.error(
                error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            ) from None
        at, message = first_problem(config, error, sizes)
        raise file.error(message, *at) from None
    except _Contradiction as error:
        raise file.error(error.message, *error.keys) from None
