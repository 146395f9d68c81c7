"""Processors: kernels in closed form."""

from __future__ import annotations

from math import ceil

from neardata.arch.errors import InputError, nearest
from neardata.arch.precision import Format
from neardata.arch.processor import Processor
from neardata.sim.processor import Cost, attention, elementwise, expert_matmul, matmul
from neardata.sim.program import Actions, Attention, Elementwise, GroupedMatMul, Kernel, MatMul, Pause
from neardata.sim.system.outcome import Outcome


def run_on_processor(processor: Processor, kernel: Kernel) -> Outcome:
    """Time, losses and energy of a kernel.

    Raises:
        InputError: no kernel of processors, or a number format the processor has no arithmetic for.
    """
    match kernel:
        case MatMul():
            cost = matmul(
                processor, kernel.m, kernel.n, kernel.k, batch=kernel.batch,
                weight_format=Format.parse(kernel.weights), activation_dtype=kernel.activations,
            )  # fmt: skip
        case GroupedMatMul():
            cost = expert_matmul(
                processor, kernel.rows, kernel.n, kernel.k,
                weight_format=Format.parse(kernel.weights), activation_dtype=kernel.activations,
            )  # fmt: skip
        case Attention():
            cost = attention(
                processor, kernel.queries, kernel.context, kernel.heads, kernel.kv_heads, kernel.qk, kernel.v,
                kv_format=Format.parse(kernel.cache), activation_dtype=kernel.activations,
                shared_kv=kernel.shared_kv, causal=kernel.causal, window=kernel.window,
            )  # fmt: skip
        case Elementwise():
            cost = elementwise(
                processor, kernel.read_bytes, kernel.write_bytes, kernel.operations,
                memory_bytes=kernel.memory_bytes, rows=kernel.rows,
            )  # fmt: skip
        case Actions():
            return _actions(processor, kernel)
        case Pause():
            return Outcome(kernel.time_ps, kernel.time_ps, "given")
        case _:
            raise InputError(f"{processor.name} runs no {kernel.kind}")
    return _outcome(cost, kernel)


def _actions(processor: Processor, kernel: Actions) -> Outcome:
    """Each action at its cost, the whole at the processor's TDP."""
    ns: dict[str, float] = {}
    for name, count in kernel.actions:
        if name not in processor.actions:
            raise InputError(
                f"{processor.name} has no cost of '{name}'{nearest(name, processor.actions)}", key="actions"
            )
        ns[name] = ns.get(name, 0.0) + count * processor.actions[name].value
    time_ps = ceil(sum(ns.values()) * 1000 / processor.compute.units)
    largest = max(ns, key=lambda name: ns[name], default="nothing")
    energy = {"processor actions": processor.power.tdp_w * time_ps}
    return Outcome(time_ps, time_ps, largest, energy_pj=energy)


def _outcome(cost: Cost, kernel: Kernel) -> Outcome:
    return Outcome(
        time_ps=cost.time_ps,
        bound_ps=cost.roofline_ps,
        bound_by=cost.roofline_bound,
        lost_ps=cost.lost_ps,
        energy_pj={f"processor {name}": pj for name, pj in cost.energy_pj.items()},
        memory_bytes=cost.memory_bytes,
        macs=kernel.macs,
    )
