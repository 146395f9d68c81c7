"""Products on drives: what is computed, how it is divided, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neardata.arch.errors import InputError
from neardata.arch.precision import Format
from neardata.arch.storage import balanced_columns, share_of_dies
from neardata.arch.system import System, load_system, parse_system
from neardata.explanation import explain
from neardata.mappers.functional import ProgramError, reach_of, verify
from neardata.mappers.lower import lower
from neardata.mappers.mapping import FlashMapping, Mapping
from neardata.sim.program import FlashMatMul, Program
from neardata.sim.system.engine import Costs, run
from neardata.workloads.graph import Graph, Operator
from neardata.workloads.llm.decoder import llm
from neardata.workloads.llm.model import load_model
from neardata.workloads.llm.routing import Uniform
from neardata.workloads.semantics import random_values

DENSE = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 97, "hidden_size": 64,
    "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
OPT = {
    "model_type": "opt", "architectures": ["OPTForCausalLM"], "vocab_size": 61, "hidden_size": 32,
    "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64,
    "word_embed_proj_dim": 32, "do_layer_norm_before": True, "activation_function": "relu",
}  # fmt: skip
MOE = DENSE | {
    "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 4,
    "num_experts_per_tok": 2, "rope_theta": 1e4, "sliding_window": None,
}  # fmt: skip


def small(size: str = "s", **overrides: Any) -> System:
    """Pages of 512 bytes, so that small matrices take many."""
    data = load_system(f"cambricon-llm-{size}").to_dict()
    data["units"]["flash"]["overrides"] |= {"flash.page_bytes": 512, "flash.channels": 3, **overrides}
    return parse_system(data)


def lowered(graph: Graph, system: System, how: FlashMapping | None = None) -> tuple[Program, Costs]:
    costs = Costs(system)
    mapping = Mapping(flash=how or FlashMapping())
    return lower(graph, system, mapping, lambda group, kernel: costs.of(group, kernel).time_ps), costs


def one_product(m: int, n: int, k: int, *, bias: bool = False) -> Graph:
    """W8A8 with sums of 32 bits."""
    graph = Graph("product", "decode", m)
    shapes = {"x": (m, k), "w": (n, k), "b": (n,), "y": (m, n)}
    for name, shape in shapes.items():
        form = Format("int8" if name in "xw" else "fp32" if bias else "int32")
        graph.tensor(name, shape, form, "weight" if name in "wb" else "activation")
    inputs = ("x", "w", "b") if bias else ("x", "w")
    graph.add(Operator("product", "linear", inputs, ("y",), {"m": m, "n": n, "k": k}))
    return graph


splits = st.sampled_from(["fastest", "formula", "dies", "processor"])


@given(
    m=st.integers(1, 3), n=st.integers(1, 120), k=st.integers(1, 120), split=splits, bias=st.booleans(),
    tile=st.sampled_from([None, (4, 96), (64, 48), (128, 3)]), seed=st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_integer_products_are_exact(
    m: int, n: int, k: int, split: str, bias: bool, tile: tuple[int, int] | None, seed: int
) -> None:
    """W8A8, ragged, prime and of one row: page by page the sums are those of the whole."""
    graph, system = one_product(m, n, k, bias=bias), small()
    program, costs = lowered(graph, system, FlashMapping(split=split, tile=tile))  # type: ignore[arg-type]
    draw = np.random.default_rng(seed)
    values = {
        name: draw.integers(-128, 128, tensor.shape) for name, tensor in graph.tensors.items() if name != "y"
    }
    assert verify(program, graph, values, reach=reach_of(system)) == 0
    report = run(program, system, costs=costs)
    assert sum(o.macs for o in report.outcomes) == m * n * k
    assert sum(report.reasons_ps.values()) == report.time_ps


@pytest.mark.parametrize("weights", ["int4/g32", "int8/g32"])
@pytest.mark.parametrize("config", [DENSE, OPT, MOE], ids=["llama", "opt", "mixtral"])
@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_models_compute_what_their_graphs_do(
    tmp_path: Path, config: dict[str, Any], phase: str, weights: str
) -> None:
    """W4A16 and W8A16: matrices in flash, everything else beside the processor."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = load_model(str(tmp_path / "config.json"))
    routing = Uniform(seed=1) if config is MOE else None
    graph = llm(model, phase, batch=2, context=5, weights=weights, activations="fp16", cache="fp16",
                routing=routing)  # type: ignore[arg-type]  # fmt: skip
    system = small()
    program, costs = lowered(graph, system)
    verify(program, graph, random_values(graph, 1), reach=reach_of(system))
    report = run(program, system, costs=costs)
    assert sum(report.reasons_ps.values()) == report.time_ps
    products = [task for task in program.tasks if isinstance(task.kernel, FlashMatMul)]
    assert len(products) >= 2 * 4 and {task.unit for task in products} == {"flash"}
    (tmp_path / "p.yaml").write_text("")
    program.write(tmp_path / "p.yaml")
    again = Program.read(tmp_path / "p.yaml")
    assert again.tasks == program.tasks
    assert any("pages in all" in line for line in explain(again, system))


def test_a_page_left_out_is_noticed() -> None:
    graph, system = one_product(1, 40, 40), small()
    program, _ = lowered(graph, system)
    (task,) = program.tasks
    kernel = task.kernel
    assert isinstance(kernel, FlashMatMul)
    less = replace(program, tasks=(replace(task, kernel=replace(kernel, n=39)),))
    values = {"x": np.ones((1, 40), int), "w": np.ones((40, 40), int)}
    with pytest.raises(ProgramError, match="is of 1 x 40 x 40, its kernel of 1 x 39 x 40"):
        verify(less, graph, values, reach=reach_of(system))
    with pytest.raises(InputError, match="its tasks do 1,560 of 1,600 multiply-accumulates"):
        run(less, system)


def kernel_of(system: System, how: FlashMapping, n: int = 4096, k: int = 4096) -> FlashMatMul:
    (task,) = lowered(one_product(1, n, k), system, how)[0].tasks
    assert isinstance(task.kernel, FlashMatMul)
    return task.kernel


def test_the_paper_s_tile_of_s_is_the_balanced_one() -> None:
    """256 x 2048 of Cambricon-LLM-S: 64 rows and 256 columns a page."""
    system = load_system("cambricon-llm-s")
    own = kernel_of(system, FlashMapping())
    assert own == kernel_of(system, FlashMapping(tile=(256, 2048)))
    assert own.columns * 8 == 2048 and own.strips[0][2] * 4 == 256
    assert balanced_columns(system.drive("flash").flash, "int8") == 256


def test_splits_are_those_asked_for() -> None:
    system = load_system("cambricon-llm-s")
    streamed = {
        split: kernel_of(system, FlashMapping(split=split)).streamed  # type: ignore[arg-type]
        for split in ("dies", "formula", "fastest", "processor")
    }
    formula = round(1024 * (1 - share_of_dies(system.drive("flash"), 256, "int8", "int8")))
    assert streamed["dies"] == 0 and streamed["processor"] == 1024
    assert streamed["formula"] == formula
    assert 0 < streamed["fastest"] < 1024


def test_the_fastest_split_is_at_least_as_fast() -> None:
    system = load_system("cambricon-llm-l")
    costs = Costs(system)
    times = {
        split: costs.of("flash", kernel_of(system, FlashMapping(split=split))).time_ps  # type: ignore[arg-type]
        for split in ("dies", "formula", "fastest")
    }
    assert times["fastest"] <= min(times["dies"], times["formula"])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (FlashMapping(tile=(255, 2048)), "mapping.flash.tile: 255 x 2048 is not divided evenly over 4 di"),
        (FlashMapping(tile=(256, 4096)), "mapping.flash.tile: 256 x 4096 puts 32,768 weights in a page"),
    ],
)
def test_tiles_that_cannot_be_are_refused(how: FlashMapping, message: str) -> None:
    with pytest.raises(InputError, match=message):
        kernel_of(load_system("cambricon-llm-s"), how)


def test_drives_that_are_not_the_processor_s_are_refused() -> None:
    system = load_system("cambricon-llm-s")
    with pytest.raises(InputError, match=r"mapping.storage: 'npu' is no group of drives attached to 'npu'"):
        lower(one_product(1, 4, 4), system, Mapping(storage="npu"))
    with pytest.raises(
        InputError, match=r"mapping.flash.split: to choose the fastest split costs are needed"
    ):
        lower(one_product(1, 4, 4), system, Mapping())
    data = system.to_dict()
    data["units"]["flash"] |= {"device": "instinfer-csd", "overrides": {}}
    with pytest.raises(InputError, match=r"flash.split: the dies of 'instinfer-csd' do not multiply int8"):
        lower(one_product(1, 4, 4), parse_system(data), Mapping(flash=FlashMapping(split="dies")))
    program = lower(one_product(1, 4, 4), parse_system(data), Mapping())
    assert program.tasks[0].kernel.streamed == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("pipeline", [1, 2])
@pytest.mark.parametrize("config", [DENSE, MOE], ids=["llama", "mixtral"])
def test_several_drives_share_a_model(tmp_path: Path, config: dict[str, Any], pipeline: int) -> None:
    """Two processors with a drive each: split matrices, or layers one after the other."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    model, routing = load_model(str(tmp_path / "config.json")), Uniform(seed=1) if config is MOE else None
    graph = llm(model, batch=2, context=5, weights="int8/g16", activations="fp16", cache="fp16",
                routing=routing)  # fmt: skip
    data = small().to_dict()
    for unit in data["units"].values():
        unit["count"] = 2
    data["links"] = {"net": {"link": "cxl-3", "between": ["npu"]}}
    system = parse_system(data)
    costs = Costs(system)
    mapping = Mapping(pipeline=pipeline)
    program = lower(graph, system, mapping, lambda group, kernel: costs.of(group, kernel).time_ps)
    verify(program, graph, random_values(graph, 1), reach=reach_of(system))
    run(program, system, costs=costs)
    units = {task.unit for task in program.tasks if isinstance(task.kernel, FlashMatMul)}
    assert units == {"flash0", "flash1"}
