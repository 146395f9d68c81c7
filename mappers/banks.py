"""The banks of a system's PIM memories, in which kernels are computed by their command programs: `Banks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neardata.arch.dram import Device
from neardata.arch.system import PimUnit, System
from neardata.mappers.attention_data import attention_on_data
from neardata.mappers.bank_data import multiply
from neardata.mappers.cells import ProgramError
from neardata.sim.program import PimAttention, PimMatMul, Task
from neardata.sim.system.pim_programs import program_of, with_order


class Banks:
    """Of one system."""

    def __init__(self, system: System) -> None:
        self.system = system

    def memory(self, unit: str) -> tuple[Device, int]:
        """Device and channels of a unit."""
        group = self.system.instances[unit].group
        memory = self.system.units[group]
        assert isinstance(memory, PimUnit)
        return self.system.device(group), memory.channels

    def product(self, unit: str, kernel: PimMatMul, x: Any, w: Any) -> Any:
        """x w^T, (m, k) and (n, k), by the command program of its kernel."""
        device, channels = self.memory(unit)
        named = with_order(kernel, device, channels)
        return multiply(named, program_of(named, device, channels), x, w)

    def attention(
        self,
        tasks: tuple[Task, Task],
        queries: Any,
        keys: Sequence[Any],
        values: Sequence[Any],
        *,
        scale: float,
        window: int | None,
    ) -> Any:
        """(sequences, heads, v) by the command programs of two tasks, of scores and of values, with a softmax
        between.

        Args:
            queries: (sequences, heads, qk).
            keys, values: of each sequence, (positions, kv_heads, qk) and (positions, kv_heads, v).
            scale: of scores.
            window: how many of the last positions are seen; None: all.

        Raises:
            DataError: a command program that does not do what its kernel says.
            ProgramError: a kernel of other sizes.
        """
        context = tuple(min(len(key), window or len(key)) for key in keys)
        _, heads, qk = queries.shape
        _, kv_heads, v = values[0].shape
        device, channels = self.memory(tasks[0].unit)
        kernels = (
            PimAttention(context, heads, kv_heads, qk, v, stage="scores"),
            PimAttention(context, heads, kv_heads, qk, v, stage="values"),
        )
        for task, kernel in zip(tasks, kernels, strict=True):
            if task.kernel != kernel:
                raise ProgramError(
                    f"task '{task.name}': its kernel is {task.kernel}, what it reads of {kernel}"
                )
        programs = (program_of(kernels[0], device, channels), program_of(kernels[1], device, channels))
        keys, values = (
            [each[len(each) - c :] for each, c in zip(of, context, strict=True)] for of in (keys, values)
        )
        return attention_on_data(kernels[0], programs, device, channels, queries, keys, values, scale)
