"""Kernels of operators: the work and the bytes that the graph says they have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neardata.arch.dram import load_device
from neardata.arch.processor import load_processor
from neardata.arch.system import load_system, parse_system
from neardata.mappers.kernels import pim_kernels
from neardata.mappers.lower import lower
from neardata.mappers.mapping import Mapping
from neardata.mappers.sharding import Rule
from neardata.sim.program import Attention, Elementwise, Program, Task, total
from neardata.sim.system.engine import Costs
from neardata.sim.system.processors import run_on_processor
from neardata.workloads.graph import Graph, Phase
from neardata.workloads.llm.decoder import llm
from neardata.workloads.llm.model import load_model

GPU = load_processor("a100-80gb")


def lowered(model: str, phase: Phase, **sizes: Any) -> tuple[Graph, Program]:
    graph = llm(load_model(model), phase, **sizes)
    target = parse_system({
        "name": "test", "source": "test", "links": {},
        "units": {"gpu": {"kind": "processor", "processor": "a100-80gb", "count": 1}},
    })  # fmt: skip
    costs = Costs(target)
    return graph, lower(graph, target, Mapping(), lambda group, kernel: costs.of(group, kernel).time_ps)


def of_kind(program: Program, kind: type) -> list[Task]:
    return [task for task in program.tasks if isinstance(task.kernel, kind)]


@pytest.mark.parametrize("model", ["mistral-7b-v0.1", "gpt-oss-20b"])
@pytest.mark.parametrize(
    ("phase", "sizes"),
    [
        ("prefill", {"context": (6000, 100)}),
        ("prefill", {"context": (6000, 5000), "new_tokens": (1000, 1)}),
        ("verify", {"context": (6000, 4098), "new_tokens": 5}),
        ("decode", {"batch": 3, "context": 6000}),
    ],
)
def test_windows_keep_the_pairs_of_the_graph(model: str, phase: Phase, sizes: dict[str, Any]) -> None:
    graph, program = lowered(model, phase, layers=2, **sizes)
    tasks = of_kind(program, Attention)
    assert len(tasks) == 2
    for task in tasks:
        kernel = task.kernel
        assert isinstance(kernel, Attention)
        operator = graph[task.operators[0]]
        assert kernel.window == operator.attributes["window"]
        assert (kernel.pairs, kernel.macs) == (operator.pairs, operator.macs)
    assert sum(task.kernel.macs for task in program.tasks) == graph.macs
    assert Program.from_dict(program.to_dict()) == program


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=3),
    st.integers(1, 90) | st.none(),
    st.booleans(),
)
def test_pairs_are_counted_one_by_one(
    lengths: list[tuple[int, int]], window: int | None, causal: bool
) -> None:
    queries = tuple(q for q, _ in lengths)
    context = tuple(q + before for q, before in lengths)
    kernel = Attention(queries, context, 1, 1, 1, 1, causal=causal, window=window)
    pairs = 0
    for q, c in zip(queries, context, strict=True):
        for position in range(c - q, c):
            for key in range(c):
                seen = key <= position and (window is None or position - key < window)
                pairs += seen or not causal
    assert kernel.pairs == pairs


def test_a_latent_cache_is_read_once_with_queries_and_results() -> None:
    _, program = lowered("deepseek-v2-lite", "decode", batch=16, context=4096, layers=1, absorbed=True)
    (task,) = of_kind(program, Attention)
    assert isinstance(task.kernel, Attention) and task.kernel.shared_kv
    moved = run_on_processor(GPU, task.kernel).memory_bytes
    assert moved == total(task.reads) + total(task.writes)
    cache = max(operand.bytes for operand in task.reads)
    assert cache == 16 * 4096 * task.kernel.qk * 2


def test_rows_of_tables_and_caches_go_through_the_memory() -> None:
    _, program = lowered("llama-2-7b", "decode", batch=4, context=100, layers=1)
    uncached = {
        task.name: task.kernel.memory_bytes
        for task in of_kind(program, Elementwise)
        if isinstance(task.kernel, Elementwise) and task.kernel.memory_bytes
    }
    # embedding rows of four tokens; and keys and values of four
    assert sorted(uncached.values()) == [4 * 4096 * 2, 2 * 4 * 4096 * 2]
    for task in of_kind(program, Elementwise):
        outcome = run_on_processor(GPU, task.kernel)
        assert outcome.memory_bytes == uncached.get(task.name, 0)


@pytest.mark.parametrize("gpus", [1, 2])
def test_norms_reduce_rows_of_a_head_or_of_all_that_is_hidden(gpus: int) -> None:
    model, system = load_model("qwen3-32b"), load_system("rtx-pro-6000").with_counts(gpu=gpus)
    graph = llm(model, "decode", batch=1000, context=10, layers=1)
    program = lower(graph, system, Mapping(on_pim="nothing"))
    rows = {
        name.rpartition(".")[2]: task.kernel.rows
        for task in of_kind(program, Elementwise)
        if isinstance(task.kernel, Elementwise)
        for name in task.operators
        if name.endswith("_norm")
    }
    by_head = {"q_norm": 1000 * 64 // gpus, "k_norm": 1000 * 8 // gpus}
    assert rows == by_head | dict.fromkeys(("attention_norm", "feed_forward_norm", "final_norm"), 1000)
    for task in of_kind(program, Elementwise):
        kernel = task.kernel
        if "layer0.attention.q_norm" in task.operators:
            assert isinstance(kernel, Elementwise)
            processor = system.processor("gpu")
            assert processor.compute.row_ns is not None
            least = kernel.rows * processor.compute.row_ns.value * 1000 / processor.compute.units
            assert run_on_processor(processor, kernel).time_ps > least
            assert run_on_processor(processor, replace(kernel, rows=0)).time_ps < least


def test_scores_between_stages_in_memory_go_through_it() -> None:
    graph = llm(load_model("llama-2-7b"), "decode", batch=2, context=100, layers=1)
    operator = next(o for o in graph if o.kind == "attention")
    kernels = pim_kernels(graph, operator, Rule("whole"), 0, load_device("hbm-pim"))
    softmax = kernels[1]
    assert isinstance(softmax, Elementwise)
    assert softmax.memory_bytes == softmax.read_bytes + softmax.write_bytes == 4 * 2 * 100 * 32
