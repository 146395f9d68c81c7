"""The plan: all that the program kernel has to know of each target, a command at a unit."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neardata.arch.dram import Device
from neardata.sim.dram import program_layout as k
from neardata.sim.dram.slots import Slots

Table = NDArray[np.int64]

_STATES = {"closed": k.CLOSED, "activating": k.ACTIVATING, "open": k.OPEN}


@dataclass(frozen=True, eq=False)
class Plan:
    """Read only: programs share it."""

    table: Table
    """Masks of the refresh units, then the targets of each command."""
    slot_positions: Table
    """Where in the table slots are numbered; the state vector holds them behind other parts."""
    first: tuple[int, ...]
    """Per command: position of its first target,"""
    step: tuple[int, ...]
    """and from one to the next."""
    steady: tuple[bool, ...]
    """Per command: its repetitions settle at one distance."""
    clamp: Table
    """Per slot: the largest gap counted from it."""
    units: int
    """Refresh units."""

    def at(self, last: int) -> Table:
        """The table where the state vector holds the slots from ``last`` on."""
        table = self.table.copy()
        table[self.slot_positions] += last
        return table


@functools.lru_cache(maxsize=64)
def plan_of(device: Device, commands: tuple[int, ...]) -> Plan:
    """The plan of the commands of a device (by their numbers) that a program uses."""
    words = -(-device.n_banks // k.WORD_BITS)
    slots = Slots(device, commands, rule_names(device))
    node = device.node_of(device.refresh_at)
    units = int(node.max()) + 1
    plan: list[int] = []
    for unit in range(units):
        plan += _mask(np.flatnonzero(node == unit), words)
    positions: list[int] = []
    first, step = [], []
    for i, number in enumerate(commands):
        targets = range(slots.first_target[i], slots.first_target[i] + device.n_units(number))
        facts = _facts(device, number)
        facts[k.G_COMMAND] = i
        banks = [device.banks_of(number, unit) for unit in range(len(targets))]
        lists = (
            (k.G_BANK, k.G_BANKS, 1, [b[:, None].tolist() for b in banks]),
            (k.G_READ, k.G_READS, 3, [slots.reads[t] for t in targets]),
            (k.G_WRITE, k.G_WRITES, 2, [slots.writes[t] for t in targets]),
            (k.G_CLOSE, k.G_CLOSES, 2, [slots.closes[t] for t in targets]),
        )
        facts[k.G_MASK] = k.G_LISTS
        size = k.G_LISTS + words
        for offset, _, width, entries in lists:
            facts[offset] = size
            size += width * max(len(e) for e in entries)
        facts[k.G_CLOSE_DELAY] = slots.close_delay[i]
        first.append(len(plan))
        step.append(size)
        for unit in range(len(targets)):
            entry = [*facts, *_mask(banks[unit], words)]
            entry[k.G_UNIT] = unit
            for offset, count, width, entries in lists:
                entry += [0] * (facts[offset] - len(entry))
                entry[count] = len(entries[unit])
                for values in entries[unit]:
                    if width > 1:  # the first of several numbers is a slot
                        positions.append(len(plan) + len(entry))
                    entry += values
            plan += entry + [0] * (size - len(entry))
    return Plan(
        table=np.array(plan, dtype=np.int64),
        slot_positions=np.array(positions, dtype=np.int64),
        first=tuple(first),
        step=tuple(step),
        steady=tuple(slots.steady),
        clamp=np.array(slots.clamp, dtype=np.int64),
        units=units,
    )


def rule_names(device: Device) -> tuple[str, ...]:
    """What the device's rules are called."""
    return tuple(dict.fromkeys(rule.name for rule in device.rules))


def _facts(device: Device, number: int) -> list[int]:
    """What the plan says of each target of a command."""
    command = device.commands[number]
    roles = ("precharge", "precharge_all", "precharge_same_bank")
    facts = [0] * k.G_LISTS
    facts[k.G_BUS] = int(device.dual_command_bus and command.bus == "column")
    facts[k.G_CYCLES] = device.command_cycles[number]
    facts[k.G_LATENCY] = device.command_latency[number]
    facts[k.G_NEEDS] = sum(_STATES[state] for state in command.needs)
    facts[k.G_LEAVES] = _STATES[command.leaves] if command.leaves else 0
    facts[k.G_MODES] = sum(1 << device.modes.index(mode) for mode in command.modes)
    facts[k.G_ENTERS] = device.modes.index(command.enters) if command.enters else -1
    facts[k.G_DATA] = {"read": k.READS, "write": k.WRITES, None: 0}[command.data]
    # logged with the row it works on, even if the program does not say
    facts[k.G_ON_ROW] = int(command.row_hit or "activating" in command.needs)
    # JESD238: of the two ticks of a clock, the second is for precharges only
    precharge = number in (device.roles.get(role) for role in roles)
    facts[k.G_EDGE] = int(device.ticks_per_clock == 2 and not precharge)
    return facts


def _mask(banks: NDArray[np.int64], words: int) -> list[int]:
    mask = [0] * words
    for bank in banks.tolist():
        mask[bank // k.WORD_BITS] |= 1 << bank % k.WORD_BITS
    return mask
