"""Keys and values on drives and in other memories: what is computed, where it lies, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neardata.arch.errors import InputError
from neardata.arch.precision import Format
from neardata.arch.system import System, load_system, parse_system
from neardata.explanation import explain
from neardata.mappers.functional import ProgramError, execute, reach_of, verify
from neardata.mappers.lower import lower
from neardata.mappers.mapping import Mapping, SparseAttention
from neardata.sim.program import Attention, FlashAttention, FlashIo, Program, Transfer
from neardata.sim.system.engine import Costs, run
from neardata.study import Study, SystemChoice, load_study, run_point
from neardata.workloads.graph import Graph, Operator
from neardata.workloads.llm.decoder import llm
from neardata.workloads.llm.model import load_model
from neardata.workloads.semantics import random_values
from neardata.workloads.sparse_attention import sparse_attention

OPT = {
    "model_type": "opt", "architectures": ["OPTForCausalLM"], "vocab_size": 61, "hidden_size": 32,
    "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64,
    "word_embed_proj_dim": 32, "do_layer_norm_before": True, "activation_function": "relu",
}  # fmt: skip
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 97, "hidden_size": 64,
    "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
ON_DRIVES = Mapping(attention="csd")


def small(drives: int = 1, gpus: int = 1, **overrides: Any) -> System:
    """Pages of 512 bytes, so that short sequences take several."""
    data = load_system("a6000-instinfer").to_dict()
    data["units"]["csd"]["overrides"] |= {
        "flash.page_bytes": 512, "flash.spare_bytes": 0, "flash.channels": 3, **overrides,
    }  # fmt: skip
    data["units"]["csd"]["count"], data["units"]["gpu"]["count"] = drives, gpus
    return parse_system(data)


def model_graph(path: Path, config: dict[str, Any], phase: str = "decode", context: int = 37) -> Graph:
    (path / "config.json").write_text(json.dumps(config))
    model = load_model(str(path / "config.json"))
    return llm(model, phase, batch=2, context=context, weights="fp16", activations="fp16", cache="fp16")  # type: ignore[arg-type]


def lowered(graph: Graph, system: System, mapping: Mapping) -> tuple[Program, Costs]:
    costs = Costs(system)
    return lower(graph, system, mapping, lambda group, kernel: costs.of(group, kernel).time_ps), costs


def one_attention(context: tuple[int, ...], heads: int, kv_heads: int, width: int) -> Graph:
    graph = Graph("attention", "decode", len(context))
    rows, form = sum(context), Format("fp16")
    graph.tensor("h", (len(context), heads * width), form, "activation")
    graph.tensor("q", (len(context), heads * width), form, "activation")
    graph.tensor("o", (len(context), heads * width), form, "activation")
    dims = {"queries": (1,) * len(context), "context": context}
    graph.add(Operator("rope", "activation", ("h",), ("q",), {}, attributes={"function": "relu"}))
    for name in "kv":
        graph.tensor(f"new_{name}", (len(context), kv_heads * width), form, "activation")
        graph.tensor(name, (rows, kv_heads, width), form, "cache")
        graph.tensor(f"h_{name}", (len(context), kv_heads * width), form, "activation")
        graph.add(
            Operator(
                f"make_{name}",
                "activation",
                (f"h_{name}",),
                (f"new_{name}",),
                {},
                attributes={"function": "relu"},
            )
        )
        graph.add(Operator(f"append_{name}", "kv_append", (f"new_{name}",), (name,),
                           {**dims, "tokens": len(context), "width": kv_heads * width}))  # fmt: skip
    graph.add(Operator("attention", "attention", ("q", "k", "v"), ("o",),
                       {**dims, "heads": heads, "kv_heads": kv_heads, "qk": width, "v": width},
                       attributes={"scale": width**-0.5, "causal": True}))  # fmt: skip
    return graph


@pytest.mark.parametrize("config", [OPT, LLAMA], ids=["opt", "llama"])
@pytest.mark.parametrize("phase", ["decode", "prefill"])
@pytest.mark.parametrize("drives", [1, 2, 3])
def test_models_compute_what_their_graphs_do(
    tmp_path: Path, config: dict[str, Any], phase: str, drives: int
) -> None:
    graph, system = model_graph(tmp_path, config, phase), small(drives)
    program, costs = lowered(graph, system, ON_DRIVES)
    verify(program, graph, random_values(graph, 1), reach=reach_of(system))
    report = run(program, system, costs=costs)
    assert sum(report.reasons_ps.values()) == report.time_ps
    kinds = {type(task.kernel) for task in program.tasks}
    assert FlashIo in kinds and ((FlashAttention in kinds) == (phase == "decode"))
    assert (Attention in kinds) == (phase == "prefill")
    (tmp_path / "p.yaml").write_text("")
    program.write(tmp_path / "p.yaml")
    assert Program.read(tmp_path / "p.yaml").tasks == program.tasks
    if phase == "decode":
        assert any("in the controller" in line for line in explain(program, system))


@pytest.mark.parametrize("memory", ["host", "ssd"])
@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_a_memory_sends_earlier_positions_alone(tmp_path: Path, phase: str, memory: str) -> None:
    graph, system = model_graph(tmp_path, OPT, phase), small()
    program, costs = lowered(graph, system, Mapping(caches=memory))
    verify(program, graph, random_values(graph, 1), reach=reach_of(system))
    run(program, system, costs=costs)
    back = [
        t.kernel.bytes for t in program.tasks if isinstance(t.kernel, Transfer) and t.kernel.source == memory
    ]
    assert back == ([2 * 2 * 36 * 32 * 2] * 2 if phase == "decode" else [])
    assert program.bytes_at[memory] == graph.cache_bytes


@given(
    context=st.lists(st.integers(1, 60), min_size=1, max_size=3).map(tuple), kv_heads=st.integers(1, 4),
    group=st.integers(1, 3), width=st.sampled_from([4, 8, 24]), drives=st.integers(1, 5),
    seed=st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_dense_attention_is_that_of_the_graph(
    context: tuple[int, ...], kv_heads: int, group: int, width: int, drives: int, seed: int
) -> None:
    """Ragged, prime, of one position, of fewer heads than drives."""
    graph, system = one_attention(context, kv_heads * group, kv_heads, width), small(drives)
    program, costs = lowered(graph, system, ON_DRIVES)
    verify(program, graph, random_values(graph, seed), reach=reach_of(system))
    report = run(program, system, costs=costs)
    kernels = [t.kernel for t in program.tasks if isinstance(t.kernel, FlashAttention)]
    assert sum(k.heads for k in kernels) == kv_heads * group and len(kernels) == min(drives, kv_heads)
    assert sum(o.macs for o in report.outcomes) == sum(context) * kv_heads * group * 2 * width


@given(
    context=st.lists(st.integers(1, 60), min_size=1, max_size=3).map(tuple), kv_heads=st.integers(1, 3),
    group=st.integers(1, 2), width=st.sampled_from([8, 24]), drives=st.integers(1, 3), seed=st.integers(0, 9),
    channels=st.sampled_from([0.125, 0.5, 1.0]), tokens=st.sampled_from([0.05, 0.3, 1.0]),
    a_page=st.sampled_from([1, 3, 4]),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_sparse_attention_from_pages_is_its_plain_form(
    context: tuple[int, ...], kv_heads: int, group: int, width: int, drives: int, seed: int,
    channels: float, tokens: float, a_page: int,
) -> None:  # fmt: skip
    """What it takes lies in the pages that it reads: the others hold no numbers there."""
    heads = kv_heads * group
    graph, system = one_attention(context, heads, kv_heads, width), small(drives)
    how = SparseAttention(channels=channels, tokens=tokens, channels_a_page=a_page)
    program, costs = lowered(graph, system, Mapping(attention="csd", sparse=how))
    values = random_values(graph, seed)
    results = execute(program, graph, values, reach=reach_of(system))
    run(program, system, costs=costs)
    q = results["q"].reshape(len(context), heads, width)
    keys, vals = (_with_new_rows(values, results, name, context) for name in "kv")
    start = 0
    for n, size in enumerate(context):
        for head in range(heads):
            rows = slice(start, start + size), head // group
            plain = sparse_attention(
                q[n, head], keys[rows], vals[rows], channels=max(1, round(width * channels)), tokens=tokens,
                scale=width**-0.5,
            )  # fmt: skip
            got = results["o"].reshape(len(context), heads, width)[n, head]
            assert np.allclose(got, plain, rtol=1e-9, atol=1e-12)
        start += size


def _with_new_rows(values: Any, results: Any, name: str, context: tuple[int, ...]) -> Any:
    cache = np.array(values.get(name, np.zeros_like(results[name])), float)
    ends = np.cumsum(context) - 1
    cache[ends] = results[f"new_{name}"].reshape(len(context), *cache.shape[1:])
    return cache


def test_sparse_attention_comes_close_where_few_positions_matter() -> None:
    """One key points where the query does: an eighth of channels and positions gives nearly all of it."""
    draw = np.random.default_rng(3)
    q, keys, values = draw.normal(size=64), draw.normal(size=(256, 64)), draw.normal(size=(256, 16))
    keys[77] = 3 * q
    weights = np.exp(keys @ q / 8 - (keys @ q / 8).max())
    dense = weights @ values / weights.sum()
    sparse = sparse_attention(q, keys, values, channels=8, tokens=0.125, scale=1 / 8)
    assert np.abs(sparse - dense).max() < 0.01 * np.abs(dense).max()


def test_keys_lie_twice_for_sparse_attention(tmp_path: Path) -> None:
    twice = Mapping(attention="csd", sparse=SparseAttention())
    pages = {}
    for context in (37, 64):
        graph, system = model_graph(tmp_path, OPT, context=context), small()
        pages[context] = [
            lowered(graph, system, mapping)[0].bytes_at["csd"] / 512 for mapping in (ON_DRIVES, twice)
        ]
    heads = 2 * 4 * 2  # layers, heads, sequences; a page holds 32 positions, or 64 of four channels
    assert pages == {37: [heads * 2, heads * 2], 64: [heads * 4, heads * 6]}


def test_two_processors_share_the_drives(tmp_path: Path) -> None:
    graph, system = model_graph(tmp_path, LLAMA), small(drives=2, gpus=2)
    data = system.to_dict()
    data["links"]["peer"] = {"link": "nvlink-3", "between": ["gpu"]}
    system = parse_system(data)
    for mapping in (ON_DRIVES, Mapping(attention="csd", pipeline=2), Mapping(caches="host")):
        program, costs = lowered(graph, system, mapping)
        verify(program, graph, random_values(graph, 2), reach=reach_of(system))
        run(program, system, costs=costs)


def test_a_kernel_of_other_heads_fails_on_data(tmp_path: Path) -> None:
    graph, system = one_attention((20,), 2, 2, 8), small()
    program, _ = lowered(graph, system, ON_DRIVES)
    data = program.to_dict()
    kernel = next(t["kernel"] for t in data["tasks"] if t["kernel"]["kind"] == "flash_attention")
    kernel["heads"] = kernel["kv_heads"] = 1
    with pytest.raises(ProgramError, match="its kernel of"):
        verify(Program.from_dict(data), graph, random_values(graph, 1), reach=reach_of(system))


def test_rows_that_do_not_reach_the_drive_are_missed(tmp_path: Path) -> None:
    graph, system = one_attention((20,), 2, 2, 8), small()
    program, _ = lowered(graph, system, ON_DRIVES)
    data = program.to_dict()
    sent = next(t for t in data["tasks"] if t["name"].endswith("v->csd"))
    sent["reads"], sent["writes"] = [], []
    with pytest.raises(ProgramError, match="is read, but is not there"):
        verify(Program.from_dict(data), graph, random_values(graph, 1), reach=reach_of(system))


def test_attention_with_a_window_stays_on_the_processor(tmp_path: Path) -> None:
    windowed = LLAMA | {
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "sliding_window": 16,
        "rope_theta": 1e4,
    }
    graph, system = model_graph(tmp_path, windowed), small()
    program, costs = lowered(graph, system, ON_DRIVES)
    verify(program, graph, random_values(graph, 1), reach=reach_of(system))
    run(program, system, costs=costs)
    assert not any(isinstance(t.kernel, FlashAttention) for t in program.tasks)
    assert any("over all positions" in note for note in program.notes)


@pytest.mark.parametrize(
    ("mapping", "key", "message"),
    [
        (Mapping(attention="ssd"), "mapping.attention", "no group of drives with an attention engine"),
        (Mapping(sparse=SparseAttention()), "mapping.sparse", "say which in attention"),
        (Mapping(attention="csd", caches="host"), "mapping.caches", "lie where attention runs"),
        (Mapping(caches="gpu"), "mapping.caches", "no other group"),
        (Mapping(caches="hots"), "mapping.caches", "did you mean"),
    ],
)
def test_mappings_that_cannot_be_are_refused(
    tmp_path: Path, mapping: Mapping, key: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        lowered(model_graph(tmp_path, OPT), small(), mapping)
    assert caught.value.key == key


def test_too_many_sequences_name_tensor_bytes_needed_and_bytes_there() -> None:
    study = Study(
        title="t", model="opt-13b", context=2048, batch=(4096,),
        weights="fp16", activations="fp16", cache="fp16",
        systems={"one": SystemChoice(system="a6000-instinfer", mapping=ON_DRIVES)},
    )  # fmt: skip
    with pytest.raises(InputError) as caught:
        run_point(study, "one", 4096)
    text = caught.value.message
    need = 4096 * 40 * 40 * 2 * 128 * 4096  # sequences, layers, heads, caches, pages of 4 KB
    there = load_system("a6000-instinfer").capacities["csd"]
    assert f"{need:,} bytes are to lie in csd, which holds {there:,}" in text
    assert f"takes most, {need // 80:,}, of 80 tensors" in text and " of csd would do" in text


def test_a_study_names_the_line_of_a_wrong_group(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "title: t\nmodel: opt-13b\nsystems:\n  a:\n    system: a6000-instinfer\n"
        "    mapping:\n      attention: csx\n"
    )
    with pytest.raises(InputError) as caught:
        load_study(path)
    assert (caught.value.line, caught.value.key) == (7, "systems.a.mapping.attention")
