"""What studies compute: each function takes a study's inputs and gives its figures by name.

A model puts mappers, programs and schedules together; inputs come from the study's YAML and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from neardata.arch.system import System, load_system, parse_system
from neardata.flash_studies import flash_decode
from neardata.frontend_models import preba
from neardata.instinfer_study import instinfer
from neardata.mappers import fiddler, hybrimoe
from neardata.mappers.expert_cache import LeastRecentlyUsed, MinusRecentScore
from neardata.mappers.expert_placement import hottest
from neardata.mappers.moe_block import Block, Expert, Machine, Passes, blocks_of, expert_of
from neardata.mappers.offload import Offload, cached, on_demand, pre_gated, prefetch_all, resident
from neardata.mappers.weight_streaming import overlapped_capacity, stream_weights
from neardata.preprocessing_study import presto
from neardata.serving_models import splitwise
from neardata.sim.program import Kernel, MatMul, Operand, Pause, Program, Task, Transfer
from neardata.sim.system.engine import Costs, run
from neardata.system_studies import pim_decode, system_decode
from neardata.workloads.llm import speculation
from neardata.workloads.llm.model import Model, load_model
from neardata.workloads.llm.routing import Correlated, Uniform

Figures = dict[str, float]
MODELS: dict[str, Callable[..., Figures]] = {
    "flash_decode": flash_decode,
    "instinfer": instinfer,
    "pim_decode": pim_decode,
    "preba": preba,
    "presto": presto,
    "splitwise": splitwise,
    "system_decode": system_decode,
}
"""By the name that studies use."""

PS_PER_MS = 10**9
GB = 1e9
EXPERT_POLICIES = {
    "gpu_only": resident,
    "on_demand": on_demand,
    "prefetch": prefetch_all,
    "pre_gated": pre_gated,
}


def _model(function: Callable[..., Figures]) -> Callable[..., Figures]:
    MODELS[function.__name__] = function
    return function


def _plain(gb_per_s: float) -> dict[str, Any]:
    """Overrides of a link of which a paper gives only the rate that copies have."""
    return {
        "gb_per_s": gb_per_s,
        "overhead_bytes": 0,
        "latency_ns.value": 0,
        "startup_ns.value": 0,
        "fraction.value": 1,
        "sharing": "exclusive",
    }


def _host_of(system: str) -> Machine:
    """Experts lie in the memory of the CPU."""
    return Machine(system, host="cpu")


def _at_rate(system: str, link_gb_per_s: float) -> System:
    """A system whose GPU is a link of that plain rate away from its host."""
    return load_system(system, {"links.pcie.overrides": _plain(link_gb_per_s)})


# --- Pre-gated MoE ----------------------------------------------------------------------------------


def _decoder_pass(model: Model, active: int, block_ps: int, share_before: float) -> tuple[Passes, Expert]:
    """Blocks of ``block_ps`` where all experts are there; ``share_before`` of it is ahead of the experts."""
    assert model.experts is not None
    before = round(block_ps * share_before)
    tokens = (1,) * active + (0,) * (model.experts.count - active)
    ahead = (Pause(before),) if before else ()
    expert = Expert.of_times(
        bytes=expert_of(model, "fp32", "fp32").bytes, device_ps=lambda _: (block_ps - before) // active
    )
    return [[Block(layer, tokens, ahead) for layer in range(len(model.experts.layers))]], expert


@_model
def pre_gated_moe(
    models: Sequence[str],
    memory_models: Sequence[str],
    system: str,
    link_gb_per_s: float,
    active_experts: int,
    calibration_model: str,
    calibration_label: float,
    share_before_experts: float,
    first_block_counts: bool,
) -> Figures:
    """Latency of a block of experts, mean over the blocks of one decoder pass, and peak memory.

    ``first_block_counts``: the mean is over all blocks, not over those behind the first.

    The one time that is not known, that of a block whose experts are all on the GPU, is solved from one
    label of the paper's Prefetch bars; all other labels follow.
    """
    machine, figures = _host_of(system), {}
    hardware = _at_rate(system, link_gb_per_s)
    costs = Costs(hardware)

    def mean_block_ps(
        policy: Callable[..., Offload], model: Model, block_ps: int, first: bool = first_block_counts
    ) -> float:
        passes, expert = _decoder_pass(model, active_experts, block_ps, share_before_experts)
        placed = policy(passes, expert, machine)
        report = run(placed.program, hardware, costs=costs)
        ends = {t.name: end for t, end in zip(placed.program.tasks, report.schedule.end, strict=True)}
        begin = 0 if first else max(ends[task] for task in placed.block_ends[0])
        return (report.time_ps - begin) / (len(passes[0]) - (not first))

    calibrated = load_model(calibration_model)
    low, high = 1, 10 * PS_PER_MS
    while high - low > 1000:  # the label falls as the block grows
        middle = (low + high) // 2
        if mean_block_ps(prefetch_all, calibrated, middle) / middle > calibration_label:
            low = middle
        else:
            high = middle
    block_ps = high
    fetch = Transfer("cpu", "gpu", expert_of(calibrated, "fp32", "fp32").bytes)
    fetch_ps = costs.of("pcie", fetch).time_ps
    figures["block_ms"], figures["fetch_ms"] = block_ps / PS_PER_MS, fetch_ps / PS_PER_MS

    for name in models:
        model, short = load_model(name), name.rpartition("-")[2]
        for policy, place in EXPERT_POLICIES.items():
            figures[f"{policy}/{short}"] = mean_block_ps(place, model, block_ps) / block_ps
    other = {
        name: mean_block_ps(pre_gated, load_model(name), block_ps, not first_block_counts) for name in models
    }
    for name, ps in other.items():
        key = "without" if first_block_counts else "with"
        figures[f"pre_gated_{key}_first_block/{name.rpartition('-')[2]}"] = ps / block_ps

    def mean(ratio: Callable[[str], float], names: Sequence[str]) -> float:
        return sum(map(ratio, names)) / len(names)

    sizes = [name.rpartition("-")[2] for name in models]
    figures["over_on_demand"] = mean(lambda e: figures[f"on_demand/{e}"] / figures[f"pre_gated/{e}"], sizes)
    figures["over_prefetch"] = mean(lambda e: figures[f"prefetch/{e}"] / figures[f"pre_gated/{e}"], sizes)
    figures["overhead_percent"] = 100 * (mean(lambda e: figures[f"pre_gated/{e}"], sizes) - 1)

    peak = {
        policy: [_peak_share(place, name, active_experts, machine) for name in memory_models]
        for policy, place in EXPERT_POLICIES.items()
    }
    for policy, shares in peak.items():
        figures[f"memory_percent/{policy}"] = 100 * sum(shares) / len(shares)
    figures["memory_percent/pre_gated_less_on_demand"] = (
        figures["memory_percent/pre_gated"] - figures["memory_percent/on_demand"]
    )
    return figures


def _peak_share(policy: Callable[..., Offload], name: str, active: int, machine: Machine) -> float:
    """Peak device memory, relative to that with all experts on the device; encoder and decoder."""
    model = load_model(name)
    assert model.experts is not None
    (blocks,), expert = _decoder_pass(model, active, 2 * active, 0.0)
    stacks = [[Block(b.layer + n * len(blocks), b.tokens) for b in blocks] for n in range(2)]
    if len(model.encoder_experts) != len(blocks):
        raise ValueError(f"{name}: encoder and decoder have different numbers of layers with experts")
    all_bytes = 4 * model.parameters
    others = all_bytes - 2 * len(blocks) * model.experts.count * expert.bytes
    return policy(stacks, expert, machine, other_bytes=others).device_bytes / all_bytes


# --- Fiddler ----------------------------------------------------------------------------------------


def _decode(model: Model, tokens: int, seed: int, batch: int = 1, **around: Any) -> Passes:
    """Passes of one new token per sequence, uniformly routed."""
    return [blocks_of(model, Uniform(seed + i), batch, **around) for i in range(tokens)]


@_model
def fiddler_decode(
    model: str,
    system: str,
    resident_experts: int,
    cpu_ms_per_token: float,
    fetch_ms: float,
    device_ms: float,
    tokens: int,
    seed: int,
) -> Figures:
    """Tokens per second of one sequence: cold experts on the CPU, and the same machine fetching them."""
    shape, machine = load_model(model), _host_of(system)
    size = expert_of(shape).bytes
    expert = Expert.of_times(
        bytes=size,
        device_ps=lambda _: round(device_ms * PS_PER_MS),
        cpu_ps=lambda count: round(cpu_ms_per_token * PS_PER_MS * count),
    )
    costs = fiddler.ExpertTimes(lambda count: cpu_ms_per_token * count, lambda _: device_ms, fetch_ms)
    assert shape.experts is not None
    layers, count = len(shape.experts.layers), shape.experts.count
    popular = [(i % layers, i // layers) for i in range(resident_experts)]
    rate = size / (fetch_ms / 1e3) / GB
    passes = _decode(shape, tokens, seed)
    cold = fiddler.place(passes, expert, machine, on_device=popular, costs=costs)
    lru = cached(
        passes, expert, machine, capacity=resident_experts, eviction=LeastRecentlyUsed(), start=popular
    )
    demand = on_demand(passes, expert, machine)
    hardware = _at_rate(system, rate)
    seconds = {
        name: run(p.program, hardware).time_ps / 1e12
        for name, p in (("cold", cold), ("lru", lru), ("demand", demand))
    }
    return {
        "tokens_per_s": tokens / seconds["cold"],
        "tokens_per_s/lru": tokens / seconds["lru"],
        "over_lru": seconds["lru"] / seconds["cold"],
        "over_on_demand": seconds["demand"] / seconds["cold"],
        "resident_percent": 100 * resident_experts / (layers * count),
        "hit_percent": 100 * cold.hits / (cold.hits + cold.cpu_experts + cold.fetches),
        "link_gb_per_s": rate,
    }


# --- HybriMoE ---------------------------------------------------------------------------------------


@_model
def hybrimoe_ablation(
    model: str,
    system: str,
    weights: str,
    cached_share: float,
    prefill_tokens: int,
    decode_tokens: int,
    depth: int,
    fetch_only_if_earlier: bool,
    adjacent_overlap: float,
    persistence: float,
    seed: int,
) -> Figures:
    """Prefill and decode with each part of HybriMoE, over a fixed split of the experts.

    One sequence is routed from its first token to its last; the experts on the GPU at the start are those
    most used by the prompt, and the cache has seen the prompt. Attention is its projections; scores over
    the cache are left out.
    """
    shape, hardware = load_model(model), load_system(system)
    assert shape.experts is not None
    experts, costs = shape.experts, Costs(hardware)

    def around(tokens: int) -> dict[str, Any]:
        heads = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
        products = [(heads, shape.hidden), (shape.hidden, shape.heads * shape.head_dim)]
        beside = [(2 * experts.shared_ffn, shape.hidden), (shape.hidden, experts.shared_ffn)]
        parts = {"before": products, "shared": beside if experts.shared else []}
        return {
            part: tuple(MatMul(tokens, n, k, weights="fp16", activations="fp16") for n, k in sizes)
            for part, sizes in parts.items()
        }

    def time_ps(unit: str, kernels: Sequence[Kernel]) -> float:
        return float(sum(costs.of(unit, kernel).time_ps for kernel in kernels))

    expert = expert_of(shape, weights, "fp16")
    times = fiddler.ExpertTimes(
        cpu=cache(lambda tokens: time_ps("cpu", expert.cpu_kernels(tokens))),
        device=cache(lambda tokens: time_ps("gpu", expert.kernels(tokens))),
        fetch=time_ps("pcie", [Transfer("cpu", "gpu", expert.bytes)]),
    )
    layers = len(experts.layers)
    room = round(cached_share * layers * experts.count)
    routing = Correlated(adjacent_overlap, persistence, seed=seed)
    (ids,) = routing.ids(layers, prefill_tokens + decode_tokens, experts.count, experts.top_k)

    def routed(first: int, last: int, parts: dict[str, Any]) -> list[Block]:
        counts = (np.bincount(ids[i, first:last].ravel(), minlength=experts.count) for i in range(layers))
        return [Block(i, tuple(map(int, tokens)), **parts) for i, tokens in enumerate(counts)]

    prompt = routed(0, prefill_tokens, around(prefill_tokens))
    load = {(b.layer, e): float(tokens) for b in prompt for e, tokens in enumerate(b.tokens)}
    start = hottest(load, room)
    machine, figures = _host_of(system), {}
    every_token = range(prefill_tokens, prefill_tokens + decode_tokens)
    phases = {"prefill": [prompt], "decode": [routed(t, t + 1, around(1)) for t in every_token]}
    ways: dict[str, dict[str, Any]] = {
        "fixed": {"schedule": False, "depth": 0},
        "scheduled": {"schedule": True, "depth": 0, "fetch_only_if_earlier": fetch_only_if_earlier},
        "prefetched": {"schedule": False, "depth": depth},
        "all": {"schedule": True, "depth": depth, "fetch_only_if_earlier": fetch_only_if_earlier},
    }
    for phase, passes in phases.items():
        for way, settings in ways.items():
            scores = MinusRecentScore()
            for block in prompt:
                scores.observe(block.layer, block.active, block.routing_scores)
            placed = hybrimoe.place(
                passes, expert, machine, capacity=room, costs=times, eviction=scores, start=start, **settings
            )
            report = run(placed.program, hardware, costs=costs)
            figures[f"{phase}_s/{way}"] = report.time_ps / 1e12 / len(passes)
            figures[f"{phase}_j/{way}"] = report.total_energy_pj / 1e12 / len(passes)
        for way in ("scheduled", "prefetched", "all"):
            figures[f"{phase}_gain/{way}"] = figures[f"{phase}_s/fixed"] / figures[f"{phase}_s/{way}"]
    return figures


# --- SN40L ------------------------------------------------------------------------------------------


@_model
def model_switching(
    expert_gb: float,
    sn40l_gb_per_s: float,
    hosts_gb_per_s: Mapping[str, float],
    sockets: int,
    socket_ddr_gb: float,
) -> Figures:
    """Bringing a whole expert model to the fast memory, and how many models a node holds."""
    size = round(expert_gb * GB)
    copy = Program(
        "switch",
        "node",
        (Task("copy", "path", Transfer("slow", "fast", size)),),
        (Operand("model", "slow", size), Operand("place", "fast", size)),
    )

    def time_ps(gb_per_s: float) -> int:
        node = {
            "name": "node",
            "source": "the study",
            "units": {
                "slow": {"kind": "memory", "capacity_gb": sockets * socket_ddr_gb},
                "fast": {"kind": "memory", "capacity_gb": expert_gb},
            },
            "links": {"path": {"link": "pcie-5", "between": ["slow", "fast"], "overrides": _plain(gb_per_s)}},
        }
        return run(copy, parse_system(node)).time_ps

    own = time_ps(sn40l_gb_per_s)
    figures = {"switch_ms": own / PS_PER_MS, "models_in_node": float(sockets * socket_ddr_gb // expert_gb)}
    for name, rate in hosts_gb_per_s.items():
        figures[f"switch_over/{name}"] = time_ps(rate) / own
    return figures


# --- ELMoE-3D ---------------------------------------------------------------------------------------


@_model
def bonded_stack_identities(
    pes: Mapping[str, int],
    pads_per_bank: int,
    pad_gbps: float,
    bank_mb: int,
    array: Sequence[int],
    clock_ghz: float,
    slices: Mapping[str, int],
    external: Mapping[str, float],
    pj_per_bit: Mapping[str, float],
) -> Figures:
    """Bandwidth and peaks that follow from the counts of the hardware."""
    figures: Figures = {}
    macs = 1
    for side in array:
        macs *= side
    for config, count in pes.items():
        figures[f"gb_per_s/{config}"] = count * pads_per_bank * pad_gbps / 8
        figures[f"capacity_gb/{config}"] = count * bank_mb / 1024
        for name, passes in slices.items():
            figures[f"tops/{config}/{name}"] = count * macs * 2 * clock_ghz / passes / 1000
    figures["gb_per_s/external"] = external["channels"] * external["bits"] * external["gbps"] / 8
    figures["energy_ratio"] = pj_per_bit["external"] / pj_per_bit["bonded"]
    return figures


# --- MoE-Lens ---------------------------------------------------------------------------------------


@_model
def moe_lens_stage_1(
    model: str,
    system: str,
    weight_gb: float,
    link_gb_per_s: float,
    packet_mb: float,
    buffered_layers: int,
    prompt: float,
    generated: float,
) -> Figures:
    """One pass that streams all weights and does nothing else, and the capacity that overlapping gains."""
    layers = load_model(model).layers
    whole = round(weight_gb * GB)
    sizes = [whole * (i + 1) // layers - whole * i // layers for i in range(layers)]
    program = stream_weights(
        [(size, Pause(0)) for size in sizes],
        _host_of(system),
        buffers=buffered_layers,
        packet_bytes=round(packet_mb * 1e6),
    )
    return {
        "pass_s": run(program, _at_rate(system, link_gb_per_s)).time_ps / 1e12,
        "capacity_gain": overlapped_capacity(prompt, generated),
        "bf16_weights_gb": 2 * load_model(model).parameters / GB,
    }


# --- MoESD ------------------------------------------------------------------------------------------


@_model
def moesd_equations(
    tables: Mapping[str, Sequence[float]], models: Sequence[str], expected_at: Mapping[str, Any], tau: float
) -> Figures:
    """Speed-ups of the tables, tokens a round, and the experts that tokens activate."""
    figures: Figures = {}
    for name, (gamma, autoregressive, speculative, sigma) in tables.items():
        figures[f"x/{name}"] = autoregressive / speculative
        figures[f"tokens_per_round/{name}"] = sigma * (gamma + 1)
    experts = load_model(expected_at["model"]).experts
    assert experts is not None
    for tokens in expected_at["tokens"]:
        figures[f"active/{tokens}"] = speculation.active_experts(tokens, experts.count, experts.top_k)
    for name in models:
        experts = load_model(name).experts
        assert experts is not None
        figures[f"threshold/{name}"] = float(speculation.threshold_tokens(experts.top_k / experts.count, tau))
    return figures
