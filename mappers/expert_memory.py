"""Where a policy's experts lie: the units and links that it uses, and what does not fit their memories."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from neardata.arch.errors import InputError, nearest
from neardata.arch.system import System
from neardata.mappers.expert_policy import CpuCold, Hybrid, Policy
from neardata.mappers.expert_steps import Step
from neardata.mappers.moe_block import Machine, Passes
from neardata.mappers.offload import Offload


def machine_of(system: System, device: str, policy: Policy) -> Machine:
    """The units and links that a policy uses.

    Raises:
        InputError: several devices, no host or several, no link.
    """
    count = system.count(device)
    if count != 1:
        raise InputError(
            f"{policy.policy} is for one processor, here are {count} of {device}",
            key="mapping.experts.policy",
        )
    memories = system.groups("memory")
    if policy.storage is not None and policy.storage not in memories:
        raise InputError(
            f"'{policy.storage}' is no memory{nearest(policy.storage, memories)}",
            key="mapping.experts.storage",
        )
    computes = isinstance(policy, CpuCold | Hybrid)
    kinds = ("processor",) if computes else ("processor", "memory")
    beside = [g for kind in kinds for g in system.groups(kind) if g not in (device, policy.storage)]
    linked = [group for group in beside if system.link_between(device, group) is not None]
    host = policy.host
    what = "processor" if computes else "processor or memory"
    if host is None:
        if len(linked) != 1:
            some = ", ".join(linked) or "none"
            raise InputError(
                f"beside {device} there must be one {what} on a link to hold the experts: {some}",
                key="mapping.experts.host",
            )
        (host,) = linked
    elif host not in linked:
        raise InputError(
            f"'{host}' is no {what} on a link to {device}{nearest(host, linked)}", key="mapping.experts.host"
        )
    link = system.link_between(device, host)
    assert link is not None
    machine = Machine(system.name, device, host, link, link, cpu=host)
    if policy.storage is not None:
        stored = [g for g in memories if g != host and system.link_between(host, g) is not None]
        if policy.storage not in stored:
            raise InputError(
                f"'{policy.storage}' is no memory on a link to {host}{nearest(policy.storage, stored)}",
                key="mapping.experts.storage",
            )
        between = system.link_between(host, policy.storage)
        assert between is not None
        machine = replace(machine, storage=policy.storage, storage_link=between)
    for group in (machine.host, machine.storage):
        if group is not None and system.count(group) != 1:
            raise InputError(f"there must be one {group}, not {system.count(group)}", key="mapping.experts")
    return machine


@dataclass(frozen=True)
class Room:
    """The memories, and what does not fit them."""

    system: System
    machine: Machine
    size: int
    """Of an expert."""
    others: int
    """On the device beside experts."""
    step: Step

    @property
    def experts(self) -> int:
        """Experts of the model."""
        return sum(len(layer.tokens) for layer in self.step.layers)

    def slots(self, capacity: int | Literal["fit"], beside: int = 0) -> int:
        """Experts that stay on the device.

        Args:
            beside: places for others.

        Raises:
            InputError: there is no room for them.
        """
        free = self.system.capacities[self.machine.device] - self.others
        most = max(min(free // self.size - beside, self.experts), 0)
        chosen = most if isinstance(capacity, str) else capacity
        self.check_device(chosen + beside)
        return chosen

    def active(self, passes: Passes, capacity: int) -> None:
        """Raises:
        InputError: a layer has more active experts than there are places.
        """
        most = max((block for blocks in passes for block in blocks), key=lambda block: len(block.active))
        if len(most.active) > capacity:
            where = f"{len(most.active)} active experts of layer {most.layer}"
            there = max(self.system.capacities[self.machine.device] - self.others, 0)
            fits = f"{self.machine.device} has {there:,} beside {self.others:,} of other weights and caches"
            raise InputError(
                f"{where} take {len(most.active) * self.size:,} bytes, capacity {capacity} is "
                f"{capacity * self.size:,}; {fits}",
                key="mapping.experts.capacity",
            )

    def check_device(self, slots: int) -> None:
        """Raises:
        InputError: so many experts do not fit beside what else is on the device.
        """
        there = self.system.capacities[self.machine.device]
        needed = self.others + slots * self.size
        if needed > there:
            raise InputError(
                f"{self.machine.device} holds {there:,} bytes; {self.others:,} of other weights and caches "
                f"and {slots} experts of {self.size:,} ({', '.join(self.step.layers[0].weights)}, ...) "
                f"are {needed:,}",
                key="mapping.experts",
            )

    def check(self, placed: Offload) -> None:
        """Raises:
        InputError: the device or the experts' home is too small.
        """
        self.check_device(placed.device_bytes // self.size if self.size else 0)
        home = self.machine.storage or self.machine.host
        needed, there = self.experts * self.size, self.system.capacities[home]
        if needed > there:
            raise InputError(
                f"{self.experts} experts of {self.size:,} bytes ({', '.join(self.step.layers[0].weights)}, "
                f"...) are {needed:,}; {home} holds {there:,}",
                key="mapping.experts",
            )
