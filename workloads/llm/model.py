"""Language models as sizes: layers, widths, heads, experts, and exact numbers of parameters.

A `Model` is made from a Hugging Face ``config.json`` by `load_model`; `hugging_face` tells which
families it understands and what it refuses.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from neardata.arch.config_file import ConfigFile, StrictModel
from neardata.arch.errors import InputError, nearest


class Rope(StrictModel):
    """Rotary position embedding."""

    theta: float = Field(gt=0)
    scaling: dict[str, Any] | None = None
    """``rope_type`` (linear, llama3 or yarn) and the numbers it needs, as in the configuration."""


class Latent(StrictModel):
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1)."""

    q_rank: int | None
    """Width of the compressed queries; None: queries are not compressed."""
    kv_rank: int
    """Width of the compressed keys and values, which the cache holds."""
    nope: int
    """Width of a head's query and key without position."""
    rope: int
    """Width of a head's query, and of the one key of all heads, with position."""
    v: int
    """Width of a head's value."""


class Experts(StrictModel):
    """Mixture-of-experts layers."""

    count: int = Field(gt=0)
    top_k: int = Field(gt=0)
    ffn: int = Field(gt=0)
    """Width of an expert."""
    layers: tuple[int, ...]
    """Which layers (of the decoder) have experts."""
    shared: int = 0
    """Experts that every token visits."""
    shared_ffn: int = 0
    """Width of all shared experts together."""
    shared_gate: bool = False
    """The shared experts' output is scaled by a sigmoid gate (Qwen2-MoE)."""
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    normalise: bool
    """The weights of the chosen experts are divided by their sum."""
    scale: float = 1.0
    """Factor on the weights of the chosen experts."""
    groups: int = 1
    top_groups: int = 1
    """Experts come from the best ``top_groups`` of ``groups``."""
    group_score: Literal["max", "top2"] = "max"
    """A group counts as much as its best expert, or as its two best together."""
    correction_bias: bool = False
    """A bias per expert on the scores by which experts are chosen, not on the weights."""
    router_bias: bool = False
    bias: bool = False
    """The experts' matrices have biases."""

    @model_validator(mode="after")
    def _agrees(self) -> Experts:
        if self.top_k > self.count:
            raise ValueError(f"{self.top_k} experts a token out of {self.count}")
        if self.count % self.groups:
            raise ValueError(f"{self.count} experts do not divide into {self.groups} groups")
        if self.top_groups > self.groups or self.top_groups * (self.count // self.groups) < self.top_k:
            raise ValueError(
                f"{self.top_groups} of {self.groups} groups hold too few experts for {self.top_k} a token"
            )
        return self


class Model(StrictModel):
    """A decoder, or an encoder and a decoder, of transformer layers.

    >>> mixtral = load_model("mixtral-8x7b")
    >>> mixtral.layers, mixtral.experts.count, mixtral.experts.top_k
    (32, 8, 2)
    >>> mixtral.parameters, mixtral.active_parameters
    (46702792704, 12879925248)
    """

    name: str
    family: str
    """``model_type`` of the configuration."""
    layers: int = Field(gt=0)
    """Decoder layers."""
    hidden: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    """Width of a head's query, key and value (latent attention: ``latent`` says)."""
    latent: Latent | None = None
    ffn: int = Field(gt=0)
    """Width of the feed-forward network of layers without experts."""
    gated: bool
    """``down(activation(gate x) * up x)`` instead of ``down(activation(up x))``."""
    activation: Literal["silu", "gelu", "relu", "clamped_silu"]
    """``clamped_silu``: GPT-OSS's, ``x sigmoid(1.702 x)`` of x up to 7, times the up projection within
    7 and one added."""
    experts: Experts | None = None
    vocabulary: int = Field(gt=0)
    embedding_dim: int = Field(gt=0)
    """Width of embedding rows; projected to ``hidden`` where it differs."""
    tied: bool
    """The head uses the embedding's weights."""
    norm: Literal["rms", "layer"]
    norm_epsilon: float = Field(gt=0)
    norm_first: bool = True
    """Norms stand before attention and feed-forward network, and one before the head."""
    qk_norm: Literal["head", "width"] | None = None
    """RMS norm of queries and keys: of each head (Qwen3) or over all heads (OLMoE)."""
    qkv_bias: bool = False
    output_bias: bool = False
    ffn_bias: bool = False
    rope: Rope | None = None
    positions: int = 0
    """Rows of the learned position embedding (0: none)."""
    position_offset: int = 0
    """Row of the first position."""
    window: int | None = None
    """Tokens an attention query looks back on, itself included; None: all."""
    window_every: int = Field(default=1, gt=0)
    """``window`` holds for layers 0, n, 2 n ...; the others look back on all tokens."""
    sinks: bool = False
    """Each head has a learned score that takes weight and gives nothing (GPT-OSS)."""
    attention_scale: float
    """Factor on query-key products."""
    encoder_layers: int = 0
    """Layers of the encoder, to which the decoder's cross-attention goes."""
    encoder_experts: tuple[int, ...] = ()
    """Encoder layers with experts."""
    relative_buckets: int = 0
    """Rows of the learned bias on relative distance (T5), one table a stack."""
    relative_distance: int = 0
    """Distance beyond which all share the last bucket."""

    @model_validator(mode="after")
    def _agrees(self) -> Model:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads do not share {self.kv_heads} key-value heads evenly")
        if self.experts and any(not 0 <= layer < self.layers for layer in self.experts.layers):
            raise ValueError(f"experts in a layer that is not there ({self.layers} layers)")
        return self

    def has_experts(self, layer: int) -> bool:
        """Whether a decoder layer has experts."""
        return self.experts is not None and layer in self.experts.layers

    @property
    def parameters(self) -> int:
        """Weights, biases and norms; shared (tied) ones once."""
        return self._parameters(self.experts.count if self.experts else 0)

    @property
    def active_parameters(self) -> int:
        """Parameters that one token uses: all but the experts not chosen. Both embedding matrices
        count, as in the published figures of most families."""
        return self._parameters(self.experts.top_k if self.experts else 0)

    @property
    def expert_parameters(self) -> int:
        """Parameters of one routed expert of one layer."""
        if self.experts is None:
            return 0
        biases = self.hidden + (2 if self.gated else 1) * self.experts.ffn
        return self._feed_forward(self.experts.ffn) + self.experts.bias * biases

    @property
    def cache_elements_per_token(self) -> int:
        """Elements that one token adds to the caches of all layers."""
        if self.latent:
            return self.layers * (self.latent.kv_rank + self.latent.rope)
        return self.layers * 2 * self.kv_heads * self.head_dim

    def _parameters(self, experts: int) -> int:
        decoder = sum(self._layer(self.has_experts(i), experts) for i in range(self.layers))
        total = decoder + self._outside()
        if self.encoder_layers:
            cross = self._attention() + self._norm(self.hidden)
            total += self.layers * cross + self._norm(self.hidden)
            total += 2 * self.relative_buckets * self.heads
            total += sum(self._layer(i in self.encoder_experts, experts) for i in range(self.encoder_layers))
        return total

    def _outside(self) -> int:
        """Parameters of embeddings, final norm and head."""
        total = self.vocabulary * self.embedding_dim * (1 if self.tied else 2)
        total += self.positions * self.hidden
        if self.embedding_dim != self.hidden:
            total += 2 * self.embedding_dim * self.hidden
        return total + (self._norm(self.hidden) if self.norm_first else 0)

    def _norm(self, n: int) -> int:
        return n if self.norm == "rms" else 2 * n

    def _layer(self, with_experts: bool, experts: int) -> int:
        total = self._attention() + 2 * self._norm(self.hidden)
        if not with_experts or self.experts is None:
            return total + self._feed_forward(self.ffn)
        total += experts * self.expert_parameters
        total += self.hidden * self.experts.count
        total += self.experts.count * (self.experts.router_bias + self.experts.correction_bias)
        total += self._feed_forward(self.experts.shared_ffn) if self.experts.shared_ffn else 0
        return total + self.hidden * self.experts.shared_gate

    def _feed_forward(self, ffn: int) -> int:
        matrices = 3 if self.gated else 2
        return matrices * self.hidden * ffn + self.ffn_bias * ((matrices - 1) * ffn + self.hidden)

    def _attention(self) -> int:
        if self.latent:
            c, width = self.latent, self.heads * (self.latent.nope + self.latent.rope)
            queries = self.hidden * width
            if c.q_rank:
                queries = self.hidden * c.q_rank + c.q_rank + c.q_rank * width
            keys = self.hidden * (c.kv_rank + c.rope) + c.kv_rank + c.kv_rank * self.heads * (c.nope + c.v)
            return queries + keys + self.heads * c.v * self.hidden
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        total = self.hidden * (q + 2 * kv) + q * self.hidden
        total += self.qkv_bias * (q + 2 * kv) + self.output_bias * self.hidden + self.sinks * self.heads
        if self.qk_norm == "head":
            total += 2 * self.head_dim
        elif self.qk_norm == "width":
            total += q + kv
        return total


def model_names() -> list[str]:
    """Names of the models that ship with the package."""
    folder = resources.files("neardata.workloads.llm") / "models"
    return sorted(
        entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json")
    )


def load_model(name_or_path: str | Path) -> Model:
    """A shipped model by name, or a Hugging Face ``config.json`` by path.

    A path ends in ``.json`` or holds a folder separator.

    Raises:
        InputError: a name that is not known, a file that is no such configuration, a family that is
            not supported, keys that are missing, unknown or contradict each other. Nothing is assumed.
    """
    from neardata.workloads.llm.hugging_face import read_config

    text = str(name_or_path)
    if Path(text).is_dir():
        raise InputError("is a folder; a model is a name or the config.json in such a folder", file=text)
    if isinstance(name_or_path, str) and not text.endswith(".json") and "/" not in text and "\\" not in text:
        if text not in model_names():
            raise InputError(f"unknown model '{text}'{nearest(text, model_names())}")
        with resources.as_file(resources.files("neardata.workloads.llm") / "models" / f"{text}.json") as path:
            return _load(path, text, read_config)
    path = Path(name_or_path)
    name = (
        path.parent.name if path.name == "config.json" and path.parent.name else path.name.split(".json")[0]
    )
    return _load(path, name.removesuffix(".config"), read_config)


class _Unlined(ConfigFile):
    """JSON that is no YAML, such as with tabs: errors without lines."""

    def __init__(self, path: Path) -> None:
        self.path, self._root = path, None


def _load(path: Path, name: str, read_config: Any) -> Model:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    except UnicodeDecodeError:
        raise InputError("cannot be read: not UTF-8 text", file=path) from None
    except json.JSONDecodeError as error:
        raise InputError(f"not valid JSON: {error.msg}", file=path, line=error.lineno) from None
    try:
        file = ConfigFile(path)
    except InputError as error:
        if not error.message.startswith("not valid YAML"):
            raise
        file = _Unlined(path)
    if not isinstance(data, dict):
        raise file.error("must be an object of keys to values")
    model: Model = read_config(file, data, name)
    published = data.get("_published_parameters")
    if published is not None:
        if not isinstance(published, int | float) or isinstance(published, bool) or published <= 0:
            raise file.error("must be a number of parameters", "_published_parameters")
        if abs(model.parameters - published) > 0.01 * published:
            raise file.error(
                f"{published:,} parameters published, but the sizes here make {model.parameters:,}",
                "_published_parameters",
            )
    return model
