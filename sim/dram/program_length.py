"""How long a program may run: what 64-bit counters and ticks can hold."""

from __future__ import annotations

from neardata.arch.dram import Device
from neardata.sim.dram.program import (
    ChannelGroup,
    Fence,
    Issue,
    Keys,
    Loop,
    Parallel,
    Phase,
    Program,
    Step,
    Wait,
)

LONGEST = 1 << 59
"""Ticks of a channel; half of what the kernel takes for never, as refreshes come on top."""


def check_length(program: Program, group: ChannelGroup, device: Device) -> None:
    """Refuse steps that could take a channel beyond `LONGEST` ticks.

    Each command counts with the longest distance that any rule of the device asks for.

    Raises:
        InputError: at the loop, repetition or wait with which the bound is passed.
    """
    host = program.host
    refresh = device.ticks("nREFI") if device.timing.get("nREFI") else 0
    slowest = max([*(rule.gap for rule in device.rules), *device.command_latency, *device.command_cycles])
    length = _Length(program, max(slowest + 1, 1))
    length.add(refresh if program.first_refresh is None else program.first_refresh, ("first_refresh",))
    length.body(group.body, 1)
    if host is not None and host.requests:
        length.add(host.first_arrival + host.requests * host.interval, (*host.keys, "interval"))
        # opened, served, closed; at worst each comes alone
        length.add(3 * host.requests * length.slowest, (*host.keys, "requests"))
        length.body(host.enter, host.requests)
        length.body(host.leave, host.requests)


class _Length:
    def __init__(self, program: Program, slowest: int) -> None:
        self.program, self.slowest = program, slowest
        self.ticks = 0

    def add(self, ticks: int, keys: Keys) -> None:
        self.ticks += ticks
        if self.ticks > LONGEST:
            message = f"the program gets too long: up to {self.ticks:.1e} cycles, at most {LONGEST:.1e}"
            raise self.program.error(message, keys)

    def body(self, steps: tuple[Step, ...], times: int) -> None:
        for step in steps:
            match step:
                case Issue(repeat=repeat, keys=keys):
                    self.add(times * repeat * self.slowest, (*keys, "repeat") if repeat != 1 else keys)
                case Loop(own, body, keys=keys):
                    self.add(times * own, (*keys, "loop"))  # an iteration, if only of nothing
                    self.body(body, times * own)
                case Wait(cycles, keys):
                    self.add(times * cycles, (*keys, "wait"))
                case Fence(_, plus, keys):
                    self.add(times * (self.slowest + plus), (*keys, "plus") if plus else keys)
                case Phase(_, body):
                    self.body(body, times)
                case Parallel(streams):
                    for stream in streams:
                        self.body(stream, times)
