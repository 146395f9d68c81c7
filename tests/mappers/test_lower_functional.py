"""Lowered programs compute, on numbers, what their graphs do: every placement, every slot."""

from __future__ import annotations

import json
import pathlib
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neardata.arch.errors import InputError
from neardata.arch.system import System, parse_system
from neardata.mappers.expert_placement import Load
from neardata.mappers.functional import ProgramError, reach_of, verify
from neardata.mappers.lower import lower
from neardata.mappers.mapping import Mapping
from neardata.sim.program import MatMul, Program
from neardata.sim.system.engine import Costs, run
from neardata.workloads.graph import Graph
from neardata.workloads.llm.decoder import llm
from neardata.workloads.llm.model import Model, load_model
from neardata.workloads.llm.routing import Uniform
from neardata.workloads.semantics import random_values

MOE = {
    "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "vocab_size": 48, "hidden_size": 32,
    "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_local_experts": 4, "num_experts_per_tok": 2, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "rope_theta": 1e4, "max_position_embeddings": 64, "sliding_window": None, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}  # fmt: skip


def system(gpus: int, pim: str | None = None, *, own_memory: bool = True) -> System:
    units = {"gpu": {"kind": "processor", "processor": "a100-80gb", "count": gpus}}
    links = {"net": {"link": "nvlink-3", "between": ["gpu"]}}
    if pim is not None:
        units["pim"] = {"kind": "pim", "device": pim, "channels": 2, "count": gpus}  # type: ignore[dict-item]
        if own_memory:
            links["bus"] = {"link": "nvlink-3", "between": ["gpu", "pim"]}
        else:
            units["pim"]["memory_of"] = "gpu"
    return parse_system({"name": "test", "source": "test", "units": units, "links": links})


def small_moe(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("model") / "config.json"
    path.write_text(json.dumps(MOE))
    return load_model(str(path))


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return small_moe(tmp_path_factory)


def check(graph: Graph, target: System, mapping: Mapping, load: Load | None = None) -> Program:
    costs = Costs(target)
    program = lower(graph, target, mapping, lambda group, kernel: costs.of(group, kernel).time_ps, load)
    verify(program, graph, random_values(graph, 1), reach=reach_of(target))
    report = run(program, target, costs=costs)  # conservation is checked inside
    assert sum(report.reasons_ps.values()) == report.time_ps
    return program


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("gpus,pipeline", [(1, 1), (2, 1), (2, 2), (4, 2)])
@pytest.mark.parametrize("experts", ["split", "spread"])
@pytest.mark.parametrize("phase,new", [("decode", 1), ("prefill", None), ("verify", 3)])
def test_processors(
    moe: Model, gpus: int, pipeline: int, experts: str, phase: str, new: int | None, fuse: bool
) -> None:
    graph = llm(moe, phase, batch=3, context=9, new_tokens=new, routing=Uniform(seed=3))  # type: ignore[arg-type]
    mapping = Mapping(pipeline=pipeline, experts=experts, fuse=fuse)  # type: ignore[arg-type]
    check(graph, system(gpus), mapping)


@pytest.mark.parametrize("load", [[9, 1, 1, 1], [1, 1, 1, 9], [0, 0, 0, 0], [1, 5, 0, 0]])
@pytest.mark.parametrize("gpus,pipeline,pim", [(1, 1, None), (3, 1, None), (4, 2, None), (2, 1, "gddr6-aim")])
def test_balanced_experts(moe: Model, gpus: int, pipeline: int, pim: str | None, load: list[float]) -> None:
    """Uneven ranges of experts, empty ones too."""
    graph = llm(moe, batch=3, context=9, routing=Uniform(seed=3))
    mapping = Mapping(pipeline=pipeline, experts="balanced", on_pim="everything" if pim else "nothing")
    check(graph, system(gpus, pim), mapping, [load, load[::-1]])


def test_balanced_experts_need_a_load(moe: Model) -> None:
    with pytest.raises(InputError, match=r"mapping\.experts: what experts have to do is not known"):
        lower(llm(moe, batch=3, context=9), system(2), Mapping(experts="balanced"))


@pytest.mark.parametrize("on_pim", ["attention", "everything"])
@pytest.mark.parametrize("own_memory", [True, False])
@pytest.mark.parametrize("device", ["gddr6-aim", "hbm-pim", "attacc-hbm3"])
def test_memories(moe: Model, device: str, own_memory: bool, on_pim: str) -> None:
    graph = llm(moe, batch=2, context=17, routing=Uniform(seed=3))
    program = check(graph, system(2, device, own_memory=own_memory), Mapping(on_pim=on_pim, pipeline=2))  # type: ignore[arg-type]
    assert any(task.unit.startswith("pim") for task in program.tasks)


@pytest.mark.parametrize("phase", ["decode", "prefill"])
@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("device", [None, "gddr6-aim"])
def test_fewer_key_heads_than_slots(
    tmp_path: pathlib.Path, kv_heads: int, phase: Literal["decode", "prefill"], device: str | None
) -> None:
    """Each of four slots makes and keeps the one head that its query head uses."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**MOE, "num_key_value_heads": kv_heads}))
    graph = llm(load_model(str(path)), phase, batch=2, context=9, routing=Uniform(seed=3))
    program = check(graph, system(4, device), Mapping() if device is None else Mapping(on_pim="attention"))
    for part, cache in (("k", "keys"), ("v", "values")):
        operator = graph[f"layer0.attention.{part}"]
        assert program.operators[operator.name]["copies"] == 4 // kv_heads
        assert program.operators[operator.name]["macs"] == operator.macs * 4 // kv_heads
        held = [o for o in program.placement if o.tensor == f"layer0.attention.{cache}"]
        heads = [o.slices[1] for o in held if o.slices is not None]
        assert heads == [(i * kv_heads // 4, i * kv_heads // 4 + 1) for i in range(4)]
        assert sum(o.bytes for o in held) == graph.tensors[held[0].tensor].bytes * 4 // kv_heads


FORMATS = [
    ("fp32", "fp32", "fp32"),
    ("fp16", "fp16", "fp8"),
    ("int8/g4", "bf16", "bf16"),
    ("int4/g8", "bf16", "int8/g8"),
    ("int8/g4", "int8/g4", "bf16"),
    ("int4/g4", "int8/g4", "int8/g8"),
    ("int2/g4", "int8/g8", "bf16"),
]


@pytest.mark.parametrize("weights,activations,cache", FORMATS)
@pytest.mark.parametrize("gpus,pipeline", [(2, 1), (4, 2)])
def test_number_formats(
    moe: Model, weights: str, activations: str, cache: str, gpus: int, pipeline: int
) -> None:
    graph = llm(
        moe,
        batch=2,
        context=9,
        weights=weights,
        activations=activations,
        cache=cache,
        routing=Uniform(seed=1),
    )
    target = system(gpus)
    program = lower(graph, target, Mapping(pipeline=pipeline))
    verify(program, graph, random_values(graph, 1), reach=reach_of(target))


@settings(max_examples=25, deadline=None)
@given(
    heads=st.sampled_from([(4, 1), (4, 2), (6, 3), (2, 2)]),
    width=st.sampled_from([4, 6]),
    ffn=st.integers(3, 40),
    experts=st.integers(2, 5),
    contexts=st.lists(st.integers(1, 13), min_size=1, max_size=4),
    gpus=st.sampled_from([1, 2, 3, 4]),
    pipeline=st.sampled_from([1, 2]),
    spread=st.booleans(),
    seed=st.integers(0, 9),
)
def test_any_shape(
    tmp_path_factory: pytest.TempPathFactory, heads: tuple[int, int], width: int, ffn: int, experts: int,
    contexts: list[int], gpus: int, pipeline: int, spread: bool, seed: int,
) -> None:  # fmt: skip
    """Ragged, prime and single: heads, widths, experts and sequences that do not divide by the slots."""
    changes = {
        "num_attention_heads": heads[0], "num_key_value_heads": heads[1], "hidden_size": heads[0] * width,
        "intermediate_size": ffn, "num_local_experts": experts, "num_experts_per_tok": min(2, experts),
    }  # fmt: skip
    path = tmp_path_factory.mktemp("model") / "config.json"
    path.write_text(json.dumps({**MOE, **changes}))
    graph = llm(load_model(str(path)), context=contexts, routing=Uniform(seed=seed))
    if gpus % pipeline:
        pipeline = 1
    check(graph, system(gpus), Mapping(pipeline=pipeline, experts="spread" if spread else "split"))


FAMILIES = ["gpt2-small", "llama-2-7b", "qwen3-30b-a3b", "deepseek-v2-lite", "olmoe-1b-7b"]


@pytest.mark.parametrize("name", FAMILIES)
def test_families_keep_their_work(name: str) -> None:
    """Too large to compute: the conservation checks of the engine, two layers on two slots."""
    graph = llm(load_model(name), batch=2, context=33, layers=2)
    for mapping in (Mapping(), Mapping(experts="spread"), Mapping(pipeline=2)):
        target = system(2)
        run(lower(graph, target, mapping), target)


def test_a_program_that_drops_a_tile_fails(moe: Model) -> None:
    graph = llm(moe, batch=2, context=9)
    target = system(2)
    program = lower(graph, target, Mapping(fuse=False))
    lost = next(t for t in program.tasks if t.operators == ("layer0.attention.q",) and t.unit == "gpu1")
    tasks = tuple(
        type(t)(t.name, t.unit, t.kernel, t.after, t.operators, t.reads, ()) if t is lost else t
        for t in program.tasks
    )
    broken = Program(program.name, program.system, tasks, program.placement, program.operators)
    with pytest.raises(ProgramError, match=r"layer0\.attention\.q"):
        verify(broken, graph, random_values(graph, 1))


def test_keys_of_grouped_queries_take_a_head_a_slot() -> None:
    """Eight key heads on sixteen slots: 128 of the products' 1024 columns, and 1/8 of the keys, on each."""
    graph = llm(load_model("llama-3-8b"), context=4096, layers=2)
    program = lower(graph, system(16), Mapping(fuse=False))
    kernels = [t.kernel for t in program.tasks if t.operators == ("layer0.attention.k",)]
    assert kernels == [MatMul(1, 128, 4096)] * 16
    held = [o.bytes for o in program.placement if o.tensor == "layer0.attention.keys"]
    assert held == [4096 * 128 * 2] * 16
