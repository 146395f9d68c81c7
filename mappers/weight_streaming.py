"""Weights that pass through the device, layer by layer: MoE-Lens, FlexGen and their kin."""

from __future__ import annotations

from collections.abc import Sequence

from neardata.arch.errors import InputError
from neardata.mappers.moe_block import Machine
from neardata.sim.program import Kernel, Operand, Program, Task, Transfer


def stream_weights(
    layers: Sequence[tuple[int, Kernel]],
    machine: Machine,
    *,
    buffers: int = 2,
    packet_bytes: int | None = None,
) -> Program:
    """One pass: each layer's weights are brought while the layers before it are computed.

    Args:
        layers: bytes of weights and the computation of each.
        buffers: layers that the device has room for.
        packet_bytes: most bytes of a transfer (MoE-Lens: 100 MB); None: a layer at once.

    Raises:
        InputError: no buffer, or packets of no bytes.

    >>> from neardata.sim.program import Pause
    >>> program = stream_weights([(250, Pause(1)), (250, Pause(1))], Machine("a40"), packet_bytes=100)
    >>> [task.kernel.bytes for task in program.tasks if task.unit == "pcie"]
    [100, 100, 50, 100, 100, 50]
    """
    if buffers < 1:
        raise InputError(f"at least one layer must fit, got {buffers}", key="buffers")
    if packet_bytes is not None and packet_bytes < 1:
        raise InputError(f"a packet has at least one byte, got {packet_bytes}", key="packet_bytes")
    tasks: list[Task] = []
    for i, (size, kernel) in enumerate(layers):
        freed = (f"l{i - buffers}",) if i >= buffers else ()
        packets = []
        for n, start in enumerate(range(0, size, packet_bytes or max(size, 1))):
            part = min(packet_bytes or size, size - start)
            move = Transfer(machine.host, machine.device, part)
            packets.append(f"l{i}.packet{n}")
            tasks.append(Task(packets[-1], machine.link, move, freed, (f"l{i}",)))
        before = (f"l{i - 1}",) if i else ()
        tasks.append(Task(f"l{i}", machine.device, kernel, (*packets, *before), (f"l{i}",)))
    placement = [Operand(f"l{i}.weights", machine.host, size) for i, (size, _) in enumerate(layers)]
    largest = max((size for size, _ in layers), default=0)
    placement.append(Operand("buffers", machine.device, buffers * largest))
    return Program("weight streaming", machine.system, tuple(tasks), tuple(placement))


def overlapped_capacity(prompt: float, generated: float) -> float:
    """Gain of key-value capacity when sequences of one batch are at different points of their life.

    A sequence that has just begun keeps ``prompt`` tokens and one that ends ``prompt + generated``; over
    its life it keeps ``prompt + generated / 2`` (MoE-Lens, arXiv 2504.09345, C_eff / C).

    >>> round(overlapped_capacity(98, 256), 2)
    1.57
    """
    return (prompt + generated) / (prompt + generated / 2)
