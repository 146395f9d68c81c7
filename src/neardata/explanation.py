"""A lowered program as people read it: by unit, each kernel as a loop nest with where its operands lie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from neardata.arch.dram import Device
from neardata.arch.precision import Format
from neardata.arch.system import PimUnit, System
from neardata.product_nest import product_nest
from neardata.sim.program import (
    Attention,
    Collective,
    Elementwise,
    FlashAttention,
    FlashIo,
    FlashMatMul,
    FlashTogether,
    GroupedMatMul,
    Kernel,
    MatMul,
    Operand,
    PimAttention,
    PimMatMul,
    Program,
    Stream,
    Task,
    Transfer,
)

STEPS = 40
"""Lines of a command program shown at most."""


def explain(program: Program, system: System, *, operator: str | None = None) -> Iterator[str]:
    """Lines of text.

    Args:
        operator: only tasks of operators whose name contains this.
    """
    yield f"{program.name} on {system.name}: {len(program.tasks):,} tasks"
    for group, unit in system.units.items():
        names = system.names(group)
        yield f"  {group}: {len(names)} x {_described(system, group, unit)}"
    if program.placement:
        yield "placed at the start"
        for place, held in program.bytes_at.items():
            there = system.capacities.get(place, 0)
            yield f"  {place}: {held / 1e9:,.2f} of {there / 1e9:,.2f} GB"
    yield from program.notes
    shown: set[tuple[str, Kernel]] = set()
    for task in program.tasks:
        if operator is not None and not any(operator in name for name in (task.name, *task.operators)):
            continue
        yield ""
        yield f"{task.name} on {task.unit}" + (f", after {', '.join(task.after)}" if task.after else "")
        group = system.instances[task.unit].group if task.unit in system.instances else task.unit
        memory = None
        if task.unit in system.instances and isinstance(unit := system.units[group], PimUnit):
            memory = system.device(group), unit.channels
        for line in nest(task, memory):
            yield f"  {line}"
        if isinstance(task.kernel, PimMatMul | PimAttention):
            if (group, task.kernel) in shown:
                yield "  commands: as above"
            else:
                shown.add((group, task.kernel))
                yield from (f"  {line}" for line in _commands(task.kernel, system, group))


def _described(system: System, group: str, unit: Any) -> str:
    if isinstance(unit, PimUnit):
        return f"{unit.device}, {unit.channels} channels, {system.capacity_bytes(group) / 1e9:,.1f} GB"
    if unit.kind == "storage":
        return f"{unit.device}, {system.capacity_bytes(group) / 1e9:,.1f} GB"
    if unit.kind == "processor":
        return f"{unit.processor}, {system.capacity_bytes(group) / 1e9:,.1f} GB"
    if unit.kind == "stream":
        on = "" if unit.fpga is None else f" on {unit.fpga}"
        return f"{', '.join(unit.pipelines.values())}{on}, {system.capacity_bytes(group) / 1e9:,.1f} GB"
    return f"memory, {system.capacity_bytes(group) / 1e9:,.1f} GB"


def nest(task: Task, memory: tuple[Device, int] | None = None) -> list[str]:
    """The kernel of a task as a loop nest, its operands with their places.

    Args:
        memory: device and channels of the unit, if it is a PIM memory: the nest then has their levels.
    """
    kernel = task.kernel
    reads = [_operand(o) for o in task.reads]
    writes = [_operand(o) for o in task.writes]
    where = [f"reads  {text}" for text in reads] + [f"writes {text}" for text in writes]
    match kernel:
        case MatMul():
            loops = [f"for b in {kernel.batch}"] if kernel.batch > 1 else []
            loops += [f"for m in {kernel.m}", f"for n in {kernel.n}", f"for k in {kernel.k}"]
            loops.append(f"y[m,n] += x[m,k] ({kernel.activations}) * w[n,k] ({kernel.weights})")
        case GroupedMatMul():
            active = sum(1 for rows in kernel.rows if rows)
            loops = [
                f"for g in {len(kernel.rows)} groups ({active} with rows)",
                f"for m in rows[g] ({sum(kernel.rows)} in all)",
                f"for n in {kernel.n}",
                f"for k in {kernel.k}",
                f"y[m,n] += x[m,k] ({kernel.activations}) * w[g,n,k] ({kernel.weights})",
            ]
        case Attention():
            seen = "context[s] before q and q itself" if kernel.causal else "all of context[s]"
            if kernel.window is not None:
                seen += f", of the last {kernel.window:,}"
            shared = ", values a part of the keys" if kernel.shared_kv else ""
            loops = [
                f"for s in {len(kernel.queries)} sequences",
                f"for h in {kernel.heads} heads ({kernel.kv_heads} of keys)",
                f"for q in queries[s] ({sum(kernel.queries)} in all)",
                f"for c in {seen} (up to {max(kernel.context)})",
                f"y += softmax(q[{kernel.qk}] k[{kernel.qk}]) v[{kernel.v}] (cache {kernel.cache}{shared})",
            ]
        case PimMatMul() if memory is not None:
            return [*product_nest(kernel, *memory), *where]
        case PimAttention():
            loops = [
                f"for s in {len(kernel.context)} sequences",
                f"for h in {kernel.heads} heads ({kernel.kv_heads} of keys)",
                f"for c in context[s] (up to {max(kernel.context)})",
                f"{kernel.stage}: keys {kernel.qk}, values {kernel.v} wide, in the banks",
            ]
        case FlashMatMul():
            sliced = f", in slices of {kernel.slice_bytes:,} bytes" if kernel.slice_bytes else ""
            loops = [
                f"for m in {kernel.m} vectors",
                f"for k in {kernel.k} by {min(kernel.columns, kernel.k)}: {len(kernel.strips)} strips",
                f"for n in {kernel.n} by {kernel.strips[0][2]}: {kernel.pages:,} pages in all",
                f"y[m,n] += x[m,k] ({kernel.activations}) * w[n,k] ({kernel.weights}) in the die,"
                f" but of {kernel.streamed:,} pages in the processor{sliced}",
            ]
        case FlashAttention():
            held = kernel.page_bytes * 8 // (Format.parse(kernel.cache).bits * kernel.qk)
            loops = [
                f"for s in {len(kernel.context)} sequences",
                f"for h in {kernel.kv_heads} heads of keys, {kernel.heads // kernel.kv_heads} queries each",
            ]
            if kernel.channels_kept:
                loops.append(
                    f"for c in context[s] (up to {max(kernel.context)}): approximate scores of"
                    f" {kernel.channels_kept} of {kernel.qk} channels, {kernel.channels_a_page} a page"
                )
            loops += [
                f"for c in {kernel.tokens_kept:.4g} of context[s] (up to {max(kernel.context)})"
                f" by {held}, a page; {kernel.pages_read:.4g} of the pages",
                f"y += softmax(q[{kernel.qk}] k[{kernel.qk}]) v[{kernel.v}] (cache {kernel.cache})"
                " in the controller",
            ]
        case FlashIo():
            where_to = f"{kernel.channels or 'all'} channels, {kernel.dies or 'all'} dies of each"
            loops = [f"{kernel.operation} {kernel.bytes:,} bytes in pages over {where_to}"]
        case FlashTogether():
            parts = [nest(Task(task.name, task.unit, part)) for part in kernel.parts]
            return [f"beside the others: {' / '.join(lines)}" for lines in parts] + where
        case Transfer():
            return [f"{kernel.bytes:,} bytes from {kernel.source} to {kernel.target}"]
        case Stream():
            loops = [f"for i in {kernel.items:,} items", f"through the pipeline {kernel.pipeline}"]
        case Collective():
            return [f"{kernel.operation} of {kernel.bytes:,} bytes over {', '.join(kernel.units)}"]
        case Elementwise():
            moved = f"{kernel.read_bytes:,} bytes in, {kernel.write_bytes:,} out"
            uncached = f", {kernel.memory_bytes:,} of them in memory" if kernel.memory_bytes else ""
            reduced = f", {kernel.rows:,} rows reduced" if kernel.rows else ""
            loops = [f"stream {moved}{uncached}, {kernel.operations:,} operations{reduced}"]
        case _:
            loops = [kernel.kind]
    return [f"{'  ' * i}{line}" for i, line in enumerate(loops)] + where


def _operand(operand: Operand) -> str:
    text = operand.tensor
    if operand.slices is not None:
        text += "[" + ", ".join(f"{a}:{b}" for a, b in operand.slices) + "]"
    return f"{text} in {operand.place}, {operand.bytes:,} bytes" + (", added" if operand.add else "")


def _commands(kernel: PimMatMul | PimAttention, system: System, group: str) -> Iterator[str]:
    """The command program of a kernel as nested loops."""
    from neardata.sim.system.pim_programs import program_of

    unit = system.units[group]
    assert isinstance(unit, PimUnit)
    program = program_of(kernel, system.device(group), unit.channels).to_dict()
    groups = program.get("groups") or [{"channels": program.get("channels", 1), "body": program["body"]}]
    for part in groups:
        yield f"commands of {part['channels']} channels"
        lines = list(_steps(part["body"], 1))
        yield from lines[:STEPS]
        if len(lines) > STEPS:
            yield f"  ... {len(lines) - STEPS} more lines"


def _steps(body: Any, depth: int) -> Iterator[str]:
    pad = "  " * depth
    for step in body:
        if isinstance(step, str):
            yield f"{pad}{step}"
        elif "loop" in step:
            loop = step["loop"]
            head = (
                f"for {', '.join(f'{k} in {n:,}' for k, n in loop.items())}"
                if isinstance(loop, dict)
                else (f"for {loop:,} times")
            )
            yield f"{pad}{head}"
            yield from _steps(step["body"], depth + 1)
        elif "phase" in step:
            yield f"{pad}# {step['phase']}"
            yield from _steps(step["body"], depth)
        elif "parallel" in step:
            for i, stream in enumerate(step["parallel"]):
                yield f"{pad}stream {i + 1}, beside the others"
                yield from _steps(stream, depth + 1)
        else:
            name, fields = next(iter(step.items()))
            where = (
                ", ".join(f"{k} {v}" for k, v in fields.items()) if isinstance(fields, dict) else str(fields)
            )
            repeat = step.get("repeat")
            times = ""
            if isinstance(repeat, dict):
                times = "for " + ", ".join(f"{k} in {n}" for k, n in repeat.items()) + ": "
            elif repeat is not None:
                times = f"{repeat} times: "
            yield f"{pad}{times}{name}" + (f" {where}" if where else "")
