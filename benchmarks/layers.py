"""The layers that vLLM's profiles time, as tasks of lowered programs.

A profile times kernels of a model of one layer. Here that model is lowered as for any run, and each kernel of
the profile is the tasks that do the same. Where `lower` fuses more than vLLM does (a norm with the
embedding before it, a norm of queries with their rotation), the kernel is that of a program lowered
with ``fuse: false``, so that like is compared with like; what the fused program takes is compared with the
sum of the profile's kernels (`PASSES`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping as Table
from dataclasses import dataclass

from neardata.arch.processor import Processor
from neardata.arch.system import load_system
from neardata.mappers.kernels import processor_kernel
from neardata.mappers.lower import lower
from neardata.mappers.mapping import Mapping
from neardata.mappers.sharding import Rule
from neardata.sim.program import Elementwise, Kernel
from neardata.sim.system.processors import run_on_processor
from neardata.workloads.llm.decoder import llm
from neardata.workloads.llm.model import Model, load_model


@dataclass(frozen=True)
class Layer:
    """A kernel of a profile, by the names of tasks without ``layer0.``."""

    fused: tuple[str, ...] = ()
    """Of a program as every run has it."""
    alone: tuple[str, ...] = ()
    """Of a program in which no operators are fused."""
    calls: int = 1
    """Kernels that the profile gives the mean of."""


LAYERS = {
    "qkv_proj": Layer(("attention.v",)),
    "o_proj": Layer(("attention.output",)),
    "gate_up_proj": Layer(("feed_forward.up",)),
    "down_proj": Layer(("feed_forward.down",)),
    "lm_head": Layer(("head",)),
    "act_fn": Layer(("feed_forward.multiply",)),
    "final_layernorm": Layer(("final_norm",)),
    # the first has no residual in a model of one layer
    "layernorm": Layer(("feed_forward_norm",), ("attention_norm",), calls=2),
    "qk_norm": Layer(alone=("attention.q_norm", "attention.k_norm"), calls=2),
    # one kernel of vLLM, two of ours: the first with the norm of queries, the second with what keys need
    "rotary_emb": Layer(alone=("attention.q_rope", "attention.k_rope")),
    "embedding": Layer(alone=("embedding",)),
}
PASSES = ("embedding", "layernorm", "qk_norm", "rotary_emb", "act_fn", "final_layernorm")
"""Layers that are passes over data: all together are all element-wise tasks of a program."""


@functools.cache
def one_layer(name: str) -> Model:
    """The model of the profile, with a dense feed-forward part: experts are timed apart."""
    model = load_model(name)
    return model.model_copy(update={"experts": None}) if model.experts else model


@functools.cache
def tasks(model: str, tokens: int, fuse: bool = True) -> Table[str, Kernel]:
    """Kernels of one layer and the head, for so many sequences of one token: but for attention nothing
    depends on whose the tokens are."""
    system = load_system("rtx-pro-6000").with_counts(gpu=1)
    graph = llm(one_layer(model), "decode", batch=tokens, context=1, layers=1)
    program = lower(graph, system, Mapping(on_pim="nothing", fuse=fuse))
    return {task.name.removeprefix("layer0."): task.kernel for task in program.tasks}


def layer_us(gpu: Processor, model: str, layer: str, tokens: int) -> float:
    """Microseconds of a kernel of the profile."""
    form = LAYERS[layer]
    kernels = [tasks(model, tokens)[name] for name in form.fused]
    kernels += [tasks(model, tokens, fuse=False)[name] for name in form.alone]
    return sum(run_on_processor(gpu, kernel).time_ps for kernel in kernels) / form.calls / 1e6


def passes_us(gpu: Processor, model: str, tokens: int) -> float:
    """Microseconds of all element-wise tasks, as every run has them; rows appended to keys and values are
    in one of them, and in none of the profile's."""
    kernels = (kernel for kernel in tasks(model, tokens).values() if isinstance(kernel, Elementwise))
    return sum(run_on_processor(gpu, kernel).time_ps for kernel in kernels) / 1e6


def attention_us(gpu: Processor, model: str, queries: tuple[int, ...], context: tuple[int, ...]) -> float:
    """Microseconds of the attention of a layer: new positions of each sequence, and all its positions."""
    graph = llm(one_layer(model), "prefill", context=context, new_tokens=queries, layers=1)
    (operator,) = (operator for operator in graph if operator.kind == "attention")
    kernel = processor_kernel(graph, [operator], [Rule("whole")], 0)
    assert kernel is not None
    return run_on_processor(gpu, kernel).time_ps / 1e6


class _Given:
    """Routing as the profile had it."""

    def __init__(self, each: tuple[int, ...]) -> None:
        self.each = each

    def counts(self, layer: int, tokens: int, experts: int, top_k: int) -> tuple[int, ...]:
        return self.each


def experts_us(gpu: Processor, model: str, each: tuple[int, ...]) -> float:
    """Microseconds of the experts of a layer and the sum of their results, ``each`` of the experts with
    so many tokens; routing is not in it."""
    found = load_model(model)
    assert found.experts is not None
    system = load_system("rtx-pro-6000").with_counts(gpu=1)
    graph = llm(
        found, "decode", batch=sum(each) // found.experts.top_k, context=1, layers=1, routing=_Given(each)
    )
    kernels = []
    for fuse, names in ((True, ("experts.up", "experts.multiply", "experts.down")), (False, ("combine",))):
        program = lower(graph, system, Mapping(on_pim="nothing", fuse=fuse))
        kernels += [task.kernel for task in program.tasks if task.name.removeprefix("layer0.") in names]
    assert len(kernels) == 4
    return sum(run_on_processor(gpu, kernel).time_ps for kernel in kernels) / 1e6
