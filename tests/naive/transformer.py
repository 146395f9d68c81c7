"""A decoder token by token and number by number: the twin of the operator graphs' meaning."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neardata.workloads.llm.model import Model

Floats = NDArray[np.float64]


def logits(model: Model, weights: dict[str, Any], tokens: list[int]) -> Floats:
    """(tokens, vocabulary) logits of one sequence, for Llama, Mixtral, Qwen3 and GPT-2 forms."""

    def w(name: str) -> Floats:
        return np.asarray(weights[name])

    def apply(name: str, x: Floats) -> Floats:
        y = np.array([sum(a * b for a, b in zip(row, x, strict=True)) for row in w(f"{name}.weight")])
        return y + w(f"{name}.bias") if f"{name}.bias" in weights else y

    def norm(name: str, x: Floats, kind: str = model.norm) -> Floats:
        x = x - x.mean() if kind == "layer" else x
        y = x / np.sqrt(np.mean(x**2) + model.norm_epsilon) * w(f"{name}.weight")
        return y + w(f"{name}.bias") if kind == "layer" else y

    def act(x: Floats) -> Floats:
        if model.activation == "silu":
            return x / (1 + np.exp(-x))
        if model.activation == "relu":
            return np.where(x > 0, x, 0)
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    def turn(x: Floats, position: int) -> Floats:
        assert model.rope is not None
        half, y = len(x) // 2, x.copy()
        for i in range(half):
            angle = position * model.rope.theta ** (-2 * i / len(x))
            pair = (x[i] + 1j * x[i + half]) * np.exp(1j * angle)
            y[i], y[i + half] = pair.real, pair.imag
        return y

    def feed_forward(name: str, x: Floats) -> Floats:
        up = apply(f"{name}.up", x)
        return apply(f"{name}.down", act(apply(f"{name}.gate", x)) * up if model.gated else act(up))

    def expert(layer: int, e: int, x: Floats) -> Floats:
        def matrix(part: str) -> Floats:
            return w(f"layer{layer}.experts.{part}.weight")[e]

        up = matrix("up") @ x
        return matrix("down") @ (act(matrix("gate") @ x) * up if model.gated else act(up))

    d, share = model.head_dim, model.heads // model.kv_heads
    stream: list[Floats] = []
    for position, token in enumerate(tokens):
        x = w("embedding.weight")[token]
        stream.append(x + w("positions.weight")[position + model.position_offset] if model.positions else x)
    for i in range(model.layers):
        name, keys, values = f"layer{i}", [], []
        for position, x in enumerate(stream):
            y = norm(f"{name}.attention_norm", x)
            q, k, v = (apply(f"{name}.attention.{p}", y).reshape(-1, d) for p in "qkv")
            if model.qk_norm == "head":
                q = np.array([norm(f"{name}.attention.q_norm", row, "rms") for row in q])
                k = np.array([norm(f"{name}.attention.k_norm", row, "rms") for row in k])
            if model.rope:
                q, k = (np.array([turn(row, position) for row in rows]) for rows in (q, k))
            keys.append(k)
            values.append(v)
            out = []
            for h in range(model.heads):
                first = max(0, position + 1 - model.window) if model.window else 0
                past = range(first, position + 1)
                e = np.exp([q[h] @ keys[j][h // share] * model.attention_scale for j in past])
                out.append(sum(p * values[j][h // share] for p, j in zip(e / e.sum(), past, strict=True)))
            stream[position] = x + apply(f"{name}.attention.output", np.concatenate(out))
        for position, x in enumerate(stream):
            y = norm(f"{name}.feed_forward_norm", x)
            if not model.has_experts(i):
                stream[position] = x + feed_forward(f"{name}.feed_forward", y)
                continue
            assert model.experts is not None
            p = np.exp(apply(f"{name}.router", y))
            p /= p.sum()
            best = sorted(range(len(p)), key=lambda e, p=p: (-p[e], e))[: model.experts.top_k]
            total = sum(p[e] for e in best) if model.experts.normalise else 1.0
            stream[position] = x + sum(p[e] / total * expert(i, e, y) for e in best)
    head = "embedding" if model.tied else "head"
    return np.array([apply(head, norm("final_norm", x)) for x in stream])
