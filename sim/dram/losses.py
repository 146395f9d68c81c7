"""Where the cycles went: every cycle in which a data bus is idle, charged to a cause.

For each burst, the idle cycles before it are the time by which its column command came too
late. The rule that became satisfied last held it back, from an earlier command on:

- a burst of the same bus (tCCD_L, tWTR_S, tRTW ...): that rule is the cause;
- the command that opened or closed the row for it (tRCD, tRP): it would have moved along with
  its own cause, so the question passes on to it;
- another access's row command (tFAW, tRRD_L, tRC, tRAS ...): the rule is the cause of as many
  cycles as it is long, and the question passes on to that command for the rest;
- a refresh: all of the rest is *refresh*.

Cycles between the time a command could issue and did are *command bus* while that carried
others, else *arbitration*; or *clock edge* where it had to wait for the next clock (HBM3). Where
the chain ends at the arrival of the request, the row's own latencies (tRCD, tRP) and its waits
are charged first, then *no request*; so are the cycles after the last burst. *Latency* is the
way of the first burst from its command to the bus. Busy and lost cycles sum to the total, always.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from neardata.arch.dram import Device, TimingRule
from neardata.sim.dram.command_log import CommandLog

Ints = NDArray[np.int64]

LATENCY, NO_REQUEST, ARBITRATION, COMMAND_BUS, CLOCK_EDGE, REFRESH = _OTHER = (
    "latency", "no request", "arbitration", "command bus", "clock edge", "refresh",
)  # fmt: skip


@dataclass(frozen=True)
class LossReport:
    """Cycles (ticks) of one channel's data buses."""

    cycles: int
    """Length of the run; every bus has as many."""
    busy_cycles: tuple[int, ...]
    """Per data bus: cycles with a burst on it."""
    lost_cycles: tuple[dict[str, int], ...] = field(repr=False)
    """Per data bus: idle cycles by cause, the largest first."""

    @property
    def busy(self) -> int:
        """Busy cycles of all buses."""
        return sum(self.busy_cycles)

    @property
    def lost(self) -> dict[str, int]:
        """Idle cycles of all buses by cause, the largest first."""
        causes = {cause for bus in self.lost_cycles for cause in bus}
        return _largest_first({c: sum(bus.get(c, 0) for bus in self.lost_cycles) for c in causes})


class Losses:
    """The account of one channel, fed chunk by chunk in order of issue.

    >>> from neardata.arch.dram import load_device
    >>> ddr4 = load_device("ddr4-2400r")
    >>> rows = [(1, ddr4.command("ACT"), 0, 5, -1, 0), (17, ddr4.command("RD"), 0, 5, 0, 0)]
    >>> losses = Losses(ddr4)
    >>> losses.feed(CommandLog.from_rows(ddr4, np.array(rows)))
    >>> losses.finish(36).lost  # nRCD 16, nCL 16, burst 4
    {'latency': 16, 'tRCD': 16}
    """

    def __init__(self, device: Device) -> None:
        from neardata.sim.dram import losses_kernel  # here: importing Numba takes a while

        self.device = device
        self._kernel: Callable[..., None] = losses_kernel.feed
        self._causes = [*_OTHER, *dict.fromkeys(r.name for r in device.rules)]
        self._tables, cells, fills = _tables(device, self._causes)
        self._last = np.zeros((cells, 2), dtype=np.int64)
        self._fill = np.zeros(fills, dtype=np.int64)
        self._history = np.full((losses_kernel.HISTORY, 6), -1, dtype=np.int64)
        self._bus_end = np.ones(device.n_data_buses, dtype=np.int64)
        self._account = np.zeros((device.n_data_buses, 1 + len(self._causes)), dtype=np.int64)
        self._counters = np.zeros(1, dtype=np.int64)

    def feed(self, log: CommandLog, arrival: Ints | None = None) -> None:
        """Account for the next commands.

        Args:
            log: commands in order of issue, from where the last call ended.
            arrival: per command, the first cycle in which the request it serves could have
                issued it; looked at where ``log.kind`` is a read or write. Without it
                every request counts as having been there from the start.

        Raises:
            ValueError: ``arrival`` of another length than the log.
        """
        if arrival is None:
            arrival = np.zeros(len(log), dtype=np.int64)
        elif len(arrival) != len(log):
            raise ValueError(f"{len(arrival)} arrivals for {len(log)} commands")
        else:
            arrival = np.where(log.kind >= 0, arrival, 0).astype(np.int64)
        self._kernel(
            *self._tables, self._last, self._fill, self._history, self._bus_end,
            self._account, self._counters, log.cycle, log.command, log.unit, arrival,
        )  # fmt: skip

    def finish(self, total_cycles: int) -> LossReport:
        """The account of a run of ``total_cycles`` ticks (or, if later, up to the last burst's end).

        Raises:
            RuntimeError: busy and lost cycles do not sum to the total: an error of this module.
        """
        cycles = max(total_cycles, int(self._bus_end.max()) - 1)
        account = self._account.copy()
        account[:, 1 + self._causes.index(NO_REQUEST)] += cycles + 1 - self._bus_end
        if (account < 0).any() or (account.sum(axis=1) != cycles).any():
            raise RuntimeError(
                f"busy and lost cycles of the data buses are {account.sum(axis=1)}, not {cycles}"
            )
        busy, *by_cause = account.T.tolist()
        lost = tuple(
            _largest_first(dict(zip(self._causes, bus, strict=True))) for bus in zip(*by_cause, strict=True)
        )
        return LossReport(cycles, tuple(busy), lost)


def explain(log: CommandLog, total_cycles: int, arrival: Ints | None = None) -> LossReport:
    """The account of a whole trace (see `Losses`)."""
    losses = Losses(log.device)
    losses.feed(log, arrival)
    return losses.finish(total_cycles)


def cause_groups(device: Device) -> dict[str, str]:
    """What kind of time each cause of a device stands for.

    ``turn-around``: the data bus changes direction or rank; ``column``: bursts of one direction;
    ``activation``: between activations of different banks; ``row``: latencies of one bank; the
    other causes stand for themselves.
    """
    groups = {cause: cause for cause in _OTHER}
    for rule in device.rules:
        first, then = device.commands[rule.first], device.commands[rule.then]
        if first.data and then.data:
            group = "turn-around" if rule.sibling or first.data != then.data else "column"
        elif rule.first == rule.then and rule.level < len(device.levels) - 1:
            group = "activation"
        else:
            group = "row"
        groups.setdefault(rule.name, group)
    return groups


def _largest_first(lost: dict[str, int]) -> dict[str, int]:
    return {cause: n for cause, n in sorted(lost.items(), key=lambda item: (-item[1], item[0])) if n}


def _tables(device: Device, causes: list[str]) -> tuple[tuple[Ints | int, ...], int, int]:
    """The kernel's tables, and the sizes of its memory of commands: times, and counters."""
    from neardata.sim.dram import losses_kernel as k

    levels, n = len(device.levels), len(device.commands)
    covered = [[device.nodes_of(c, level) for level in range(levels)] for c in range(n)]
    node_count = np.array([[nodes.shape[1] for nodes in row] for row in covered], dtype=np.int64)
    sizes = np.array([nodes.size for row in covered for nodes in row], dtype=np.int64)
    node_at = (np.cumsum(sizes) - sizes).reshape(n, levels)
    nodes = np.concatenate([nodes.ravel() for row in covered for nodes in row])

    # a rule between siblings says nothing about a command that spans them
    held = [r for r in device.rules if r.gap > 0 and not (r.sibling and node_count[r.first, r.level] > 1)]
    held.sort(key=lambda r: (r.then, -r.gap))
    depth: dict[tuple[int, int], int] = {}
    for r in held:
        depth[r.first, r.level] = max(depth.get((r.first, r.level), 1), r.window)
    slot_of = {key: i for i, key in enumerate(sorted(depth))}
    slots, cells, fills = np.zeros((len(slot_of), 3), dtype=np.int64), 0, 0
    for (first, level), slot in slot_of.items():
        ring, count = 1 << (depth[first, level] - 1).bit_length(), int(np.prod(device.counts[: level + 1]))
        slots[slot] = cells, ring - 1, fills
        cells, fills = cells + ring * count, fills + count

    rules = np.zeros((len(held), 7), dtype=np.int64)
    for i, r in enumerate(held):
        edge = _edge(device, r)
        cause = causes.index(REFRESH if edge == k.REFRESHES else r.name) + 1
        siblings = device.counts[r.level] if r.sibling else 0
        rules[i] = slot_of[r.first, r.level], r.level, r.gap, r.window, siblings, cause, edge
    commands = np.zeros((n, 8), dtype=np.int64)
    updates = np.array([(slot, level) for (_, level), slot in slot_of.items()], dtype=np.int64).reshape(-1, 2)
    halves = [c for role, c in device.roles.items() if role.startswith("precharge")]
    on_edge = set(range(n)) - set(halves) if device.ticks_per_clock == 2 else set()
    thens, firsts = [r.then for r in held], [first for first, _ in slot_of]
    for c, command in enumerate(device.commands):
        burst_after = device.command_latency[c] - device.burst_cycles if command.data else -1
        commands[c] = (
            np.searchsorted(thens, c), np.searchsorted(thens, c, "right"),
            np.searchsorted(firsts, c), np.searchsorted(firsts, c, "right"), burst_after, c in on_edge,
            device.dual_command_bus and command.bus == "column", device.command_cycles[c],
        )  # fmt: skip
    tables = (
        rules,
        commands,
        updates,
        slots,
        node_at,
        node_count,
        nodes,
        device.burst_cycles,
        device.data_bus_at,
    )
    return tables, cells, fills


def _edge(device: Device, rule: TimingRule) -> int:
    """How a chain of causes goes on from a rule (see the top of this file)."""
    from neardata.sim.dram import losses_kernel as k

    first, then = device.commands[rule.first], device.commands[rule.then]
    if first.refreshes:
        return k.REFRESHES
    if first.data:
        return k.BURST if then.data else k.BURST_TO_ROW
    enables = first.leaves in then.needs or (first.leaves == "activating" and "open" in then.needs)
    return k.ENABLES if enables else k.APART
