"""The request controller, cycle by cycle in plain Python.

Slow and obvious: the compiled controller must issue the same commands in the same
cycles. The semantics are those of Ramulator 2.1 (CMU-SAFARI/ramulator2 c5b1c3a, read in
its controller, scheduler and refresh sources), timing and state come from the tables of
`neardata.arch.dram.Device`; closed and timed-out pages, same-bank refresh, per-bank
refresh of several ranks or pseudo-channels and the drain at the end are ours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from naive.banks import Banks
from neardata.arch.dram import Device

MAINTENANCE, READ, WRITE = -1, 0, 1


@dataclass(eq=False)
class Request:
    """A read, a write, or (``kind`` `MAINTENANCE`) a refresh waiting to be issued."""

    kind: int
    command: int
    """The command that completes it; it may need a precharge or an activate before."""
    bank: int
    """For a refresh any bank it acts on."""
    row: int = -1
    column: int = -1
    arrive: int = -1
    issue: int = -1
    """Tick of the column command; -1 for forwarded reads and coalesced writes."""
    depart: int = -1
    """Tick at which its burst has passed; arrival + 1 if forwarded, arrival if coalesced."""
    activate_deadline: int = -1
    """Last tick for the second half of a split activate."""
    counted: bool = False
    """Counted as row hit, miss or conflict already."""


Choice = tuple[Request, int]
"""What to issue: the next command of a request."""
Allowed = Callable[[Request, int], bool]


@dataclass
class Result:
    """What happened on one channel."""

    commands: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    """(cycle, command, unit, row, column, kind), up to and including ``cycles_to_drain``."""
    requests: list[tuple[int, int, int]] = field(default_factory=list)
    """(arrive, issue, depart) of every request: see `Request`."""
    cycles_to_last_accept: int = 0
    cycles_to_drain: int = 0
    row_hits: int = 0
    row_misses: int = 0
    row_conflicts: int = 0
    forwarded_reads: int = 0
    coalesced_writes: int = 0
    open_cycles: int = 0
    """Ticks with an open bank, summed over the nodes that are refreshed as a whole."""
    at_last_accept: dict[str, float] = field(default_factory=dict)
    """Counters when the last request was accepted, which is where Ramulator stops."""


class Controller:
    """One channel: the queues and what is issued from them each tick."""

    def __init__(
        self, device: Device, *, scheduler: str, read_queue: int, write_queue: int, write_high: float,
        write_low: float, page: str, page_timeout: int, refresh: str,
    ) -> None:  # fmt: skip
        self.device, self.banks, self.result = device, Banks(device), Result()
        self.row_hit_first, self.page, self.page_timeout = scheduler == "frfcfs-rowhit", page, page_timeout
        self.read_queue, self.write_queue = read_queue, write_queue
        # single precision, as Ramulator multiplies
        self.write_high = np.float32(write_high) * np.float32(write_queue)
        self.write_low = np.float32(write_low) * np.float32(write_queue)
        self.clk = 0
        self.reads: list[Request] = []
        self.writes: list[Request] = []
        self.maintenance: deque[Request] = deque()
        """Refreshes, strictly in order; while one waits nothing leaves the two queues."""
        self.activating: list[Request] = []
        """First half of a split activate issued."""
        self.active: list[Request] = []
        """Activate issued, column command to come: before everything else, row protected."""
        self.returning: deque[Request] = deque()
        self.write_mode = False
        self.drained_at = 0
        self.served_reads = self.latency_sum = 0

        role = dict(device.roles)
        self.activate = role["activate"]
        self.activate_second = role.get("activate_second")
        self.precharge = role["precharge"]
        self.with_precharge = {
            role[kind]: role[f"{kind}_autoprecharge"]
            for kind in ("read", "write") if f"{kind}_autoprecharge" in role
        }  # fmt: skip
        self.sync = {READ: role.get("sync_read"), WRITE: role.get("sync_write")}
        self.synced: Request | None = None
        """Data clock synchronised in the last tick for this request: it goes next."""
        self.data_clock_until = 0
        self.opened_at: dict[int, int] = {}
        self.closing: dict[int, int] = {}
        self.edge_after_row_command = -1
        self.row_command: tuple[int, int] = (-1, -1)
        """(command, bank) last issued on the row bus at a clock's rising edge."""
        self.refresh_node: list[int] = device.node_of(device.refresh_at).tolist()
        self.data_bus: list[int] = device.node_of(device.data_bus_at).tolist()
        self._plan_refresh(refresh)

    def _plan_refresh(self, refresh: str) -> None:
        kinds = {
            "all-bank": ("refresh_all", "precharge_all", "nREFI"),
            "per-bank": ("refresh_bank", "precharge", "nREFIpb"),
            "same-bank": ("refresh_same_bank", "precharge_same_bank", "nREFIsb"),
        }
        self.refresh_turns: list[deque[int]] = []
        """Per node of ``device.refresh_at``: a bank of each refresh unit, next first."""
        if refresh == "none":
            return
        role, before, interval = kinds[refresh]
        self.refresh, self.before_refresh = self.device.roles[role], self.device.roles[before]
        self.refresh_interval = self.device.ticks(interval)
        for node in range(max(self.refresh_node) + 1):
            mine = [b for b, n in enumerate(self.refresh_node) if n == node]
            first_bank = {self.banks.unit_of[self.refresh][b]: b for b in reversed(mine)}
            self.refresh_turns.append(deque(sorted(first_bank.values())))

    # ---- front end ----

    def send(self, kind: int, bank: int, row: int, column: int) -> Request | None:
        """Accepts a request after tick ``clk``, or returns None if its queue is full."""
        command = self.device.roles["read" if kind == READ else "write"]
        request = Request(kind, command, bank, row, column, arrive=self.clk)
        queue, size = (self.reads, self.read_queue) if kind == READ else (self.writes, self.write_queue)
        if any((w.bank, w.row, w.column) == (bank, row, column) for w in self.writes):
            if kind == READ:
                self.result.forwarded_reads += 1
                request.depart = self.clk + 1
                self.returning.append(request)
            else:
                self.result.coalesced_writes += 1
                request.depart = self.clk
            self.drained_at = max(self.drained_at, request.depart)
        elif len(queue) < size:
            queue.append(request)
        else:
            return None
        return request

    def busy(self) -> bool:
        waiting = self.reads or self.writes or self.activating or self.active or self.returning
        return bool(waiting) or self.clk < self.drained_at

    # ---- one tick ----

    def tick(self) -> None:
        self.clk += 1
        # a forwarded read waits behind slower reads here: only the latency average notices
        while self.returning and self.returning[0].depart <= self.clk:
            done = self.returning.popleft()
            self.latency_sum += done.depart - done.arrive
        if self.refresh_turns and self.clk % self.refresh_interval == 0:
            for banks in self.refresh_turns:
                self.maintenance.append(Request(MAINTENANCE, self.refresh, banks[0]))
                banks.rotate(-1)
        if self.activate_second is not None:
            issued = self._tick_split_activate(self.activate_second)
        elif self.device.dual_command_bus:
            issued = self._tick_dual_bus()
        else:
            issued = self._issue_if(self._choose())
        if not issued and self.page == "timeout" and not self.maintenance:
            self._close_an_idle_bank()
        # an auto-precharged row stays open until the device closes it
        still = (b for b, until in self.closing.items() if self.clk < until)
        rows = {*self.banks.open_banks(), *(a.bank for a in self.activating), *still}
        self.result.open_cycles += len({self.refresh_node[b] for b in rows})

    def _tick_dual_bus(self) -> bool:
        """A column and a row command; with half-clock ticks all but precharges wait for a rising edge."""
        column = False
        if self._rising_edge():
            column = self._issue_if(self._choose(lambda r, command: self.banks.bus_of[command] == "column"))
        choice = self._choose(lambda r, command: self._row_bus_allows(command, r.bank), with_active=False)
        return self._issue_if(choice) or column

    def _tick_split_activate(self, second: int) -> bool:
        """One command; activates come in two halves and the data clock must run before a burst."""
        if self.synced is not None:
            request, self.synced = self.synced, None
            assert self.banks.ready(request.command, request.bank, self.clk)
            return self._issue_if((request, request.command))
        choice = self._second_half(second, due=self.clk) or self._choose(self._allowed_while_activating)
        if choice is None:
            choice = self._second_half(second)
        elif self.banks.column[choice[1]] and self.clk >= self.data_clock_until:
            request = choice[0]
            if any(a.activate_deadline <= self.clk + 1 for a in self.activating):
                # the synchronisation takes this tick and the burst the next: too late for the activate
                choice = self._second_half(second)
                assert choice is not None
            else:
                sync = self.sync[request.kind]
                assert sync is not None
                if not self.banks.ready(sync, request.bank, self.clk):
                    return False
                self._record(sync, request.bank, request.row, request.column, request.kind)
                self.synced = request
                return True
        return self._issue_if(choice)

    # ---- choosing ----

    def _choose(self, allowed: Allowed = lambda r, command: True, with_active: bool = True) -> Choice | None:
        """Activated requests first, then the refresh that waits longest, else a queued request."""

        def may_go(request: Request, command: int) -> bool:
            return allowed(request, command) and not self._closes_active(request, command)

        choice = self._oldest_ready(self.active, allowed) if with_active else None
        if choice is None and self.maintenance:
            choice = self._oldest_ready([self.maintenance[0]], may_go)
        if choice is None and not self.maintenance:
            self._switch_write_mode()
            choice = self._oldest_ready(self.writes if self.write_mode else self.reads, may_go)
        return choice

    def _oldest_ready(self, queue: Sequence[Request], allowed: Allowed) -> Choice | None:
        choices = []
        for request in queue:
            command = self._next_command(request)
            if (
                self.banks.ready(command, request.bank, self.clk)
                and allowed(request, command)
                and not (self.row_hit_first and self._takes_a_row_hit(request, command, queue))
            ):
                choices.append((request, command))
        return min(choices, key=lambda choice: choice[0].arrive, default=None)

    def _next_command(self, request: Request) -> int:
        if request.kind == MAINTENANCE:
            banks = self.banks.targets(request.command, request.bank)
            closed = all(self.banks.state[b] == "closed" for b in banks)
            return request.command if closed else self.before_refresh
        state = self.banks.state[request.bank]
        if state == "closed":
            return self.activate
        if state == "activating":
            assert self.activate_second is not None
            return self.activate_second
        return request.command if self._hits(request) else self.precharge

    def _hits(self, request: Request) -> bool:
        bank = request.bank
        return self.banks.state[bank] == "open" and self.banks.open_row[bank] == request.row

    def _closes_active(self, request: Request, command: int) -> bool:
        """Whether it would close a row that was opened for another request, still to be served."""
        if not self.banks.closing[command]:
            return False
        closed = self.banks.targets(command, request.bank)
        return any(a.bank in closed for a in self.active)

    def _takes_a_row_hit(self, request: Request, command: int, queue: Sequence[Request]) -> bool:
        return command == self.precharge and any(
            r.bank == request.bank and self._hits(r) and r.arrive <= request.arrive for r in queue
        )

    def _switch_write_mode(self) -> None:
        if not self.write_mode:
            self.write_mode = not self.reads or bool(len(self.writes) > self.write_high)
        else:
            self.write_mode = not self.reads or bool(len(self.writes) >= self.write_low)

    def _rising_edge(self) -> bool:
        return self.device.ticks_per_clock == 1 or self.clk % 2 == 1

    def _row_bus_allows(self, command: int, bank: int) -> bool:
        """HBM3: at a falling edge only precharges, and not next to a row command of the same bank."""
        if self._rising_edge():
            return self.banks.bus_of[command] == "row"
        if command not in (self.precharge, self.device.roles["precharge_all"]):
            return False
        before, before_bank = self.row_command
        if self.clk != self.edge_after_row_command or self.data_bus[before_bank] != self.data_bus[bank]:
            return True
        one_bank = len(self.banks.targets(before, before_bank)) == 1
        return one_bank and command == self.precharge and bank != before_bank

    def _allowed_while_activating(self, request: Request, command: int) -> bool:
        if command == self.activate_second:
            return False  # only its owner issues it
        if command == self.activate:
            return not self.activating
        return not any(a.bank in self.banks.targets(command, request.bank) for a in self.activating)

    def _second_half(self, second: int, due: int | None = None) -> Choice | None:
        choices = [
            a for a in self.activating
            if (due is None or a.activate_deadline <= due) and self.banks.ready(second, a.bank, self.clk)
        ]  # fmt: skip
        if not choices:
            return None
        return min(choices, key=lambda a: (a.activate_deadline, a.arrive)), second

    # ---- issuing ----

    def _issue_if(self, choice: Choice | None) -> bool:
        if choice is not None:
            self._issue(*choice)
        return choice is not None

    def _issue(self, request: Request, command: int) -> None:
        if request.kind != MAINTENANCE and not request.counted:
            request.counted = True
            if self._hits(request):
                self.result.row_hits += 1
            elif self.banks.state[request.bank] == "open":
                self.result.row_conflicts += 1
            else:
                self.result.row_misses += 1
        completes = command == request.command
        if completes and self.page == "closed" and not self._row_wanted_by_others(request):
            command = self.with_precharge.get(command, command)
        self._record(command, request.bank, request.row, request.column, request.kind)
        if command == self.activate:
            self.opened_at[request.bank] = self.clk
        if command in self.with_precharge.values():
            self.closing[request.bank] = self._closes_at(request.bank, command)
        if completes:
            self._complete(request)
        elif command == self.activate:
            self._remove(request)
            if self.activate_second is None:
                self.active.append(request)
            else:
                request.activate_deadline = self.clk + self.device.ticks("nAAD")
                self.activating.append(request)
        elif command == self.activate_second:
            self._remove(request)
            self.active.append(request)

    def _closes_at(self, bank: int, command: int) -> int:
        """When the device precharges after a column command with auto-precharge."""

        def gap(first: int, then: int) -> int:
            last = len(self.device.levels) - 1
            return next(r.gap for r in self.device.rules if (r.level, r.first, r.then) == (last, first, then))

        access = gap(command, self.activate) - gap(self.precharge, self.activate)
        return max(self.clk + access, self.opened_at[bank] + gap(self.activate, self.precharge))

    def _record(self, command: int, bank: int, row: int, column: int, kind: int) -> None:
        self.banks.issue(command, bank, row, self.clk)
        self.result.commands.append((self.clk, command, self.banks.unit_of[command][bank], row, column, kind))
        if self.device.ticks_per_clock == 2 and self.clk % 2 == 1 and self.banks.bus_of[command] == "row":
            self.row_command = command, bank
            self.edge_after_row_command = self.clk + (3 if command == self.activate else 1)

    def _complete(self, request: Request) -> None:
        self._remove(request)
        if request.kind == MAINTENANCE:
            return
        latency = self.device.read_latency if request.kind == READ else self.device.write_latency
        request.issue, request.depart = self.clk, self.clk + latency
        self.drained_at = max(self.drained_at, request.depart)
        if request.kind == READ:
            self.served_reads += 1
            self.returning.append(request)
        if self.activate_second is not None:
            until = request.depart + self.device.ticks("nWCKPST")
            self.data_clock_until = max(self.data_clock_until, until)

    def _remove(self, request: Request) -> None:
        for queue in (self.reads, self.writes, self.maintenance, self.activating, self.active):
            if request in queue:
                queue.remove(request)

    def _row_wanted_by_others(self, request: Request) -> bool:
        others = [r for r in self.active + self.reads + self.writes if r is not request]
        return any((r.bank, r.row) == (request.bank, request.row) for r in others)

    def _close_an_idle_bank(self) -> None:
        """The lowest bank whose open row nobody wants and nobody used for the timeout."""
        for bank in self.banks.open_banks():
            row = self.banks.open_row[bank]
            if (
                self.clk - self.banks.last_use[bank] >= self.page_timeout
                and all(r.bank != bank for r in self.active)
                and all((r.bank, r.row) != (bank, row) for r in self.reads + self.writes)
                and self.banks.ready(self.precharge, bank, self.clk)
                and (not self.device.dual_command_bus or self._row_bus_allows(self.precharge, bank))
            ):
                self._record(self.precharge, bank, row, -1, MAINTENANCE)
                return

    def counters(self) -> dict[str, float]:
        result = self.result
        return {
            "cycles": self.clk,
            "row_hits": result.row_hits,
            "row_misses": result.row_misses,
            "row_conflicts": result.row_conflicts,
            "forwarded_reads": result.forwarded_reads,
            "coalesced_writes": result.coalesced_writes,
            "open_cycles": result.open_cycles,
            "commands": len(result.commands),
            # as Ramulator: the sum includes forwarded reads, the count does not
            "avg_read_latency_cycles": self.latency_sum / self.served_reads if self.served_reads else 0.0,
        }


def run(
    device: Device,
    requests: Sequence[tuple[bool, int, int, int, int]],
    *,
    scheduler: str = "frfcfs",
    read_queue: int = 32,
    write_queue: int = 32,
    write_high: float = 0.8,
    write_low: float = 0.2,
    page: str = "open",
    page_timeout: int = 200,
    refresh: str = "all-bank",
) -> Result:
    """Runs ``(is_write, bank, row, column, arrival)`` requests, in order, until all have departed.

    One request is offered before each tick, the first before tick 1 (at tick 0) and none
    before tick ``arrival``; one that finds its queue full is offered again.
    """
    controller = Controller(
        device, scheduler=scheduler, read_queue=read_queue, write_queue=write_queue, write_high=write_high,
        write_low=write_low, page=page, page_timeout=page_timeout, refresh=refresh,
    )  # fmt: skip
    accepted: list[Request] = []
    while len(accepted) < len(requests) or controller.busy():
        if len(accepted) < len(requests):
            is_write, bank, row, column, arrival = requests[len(accepted)]
            if controller.clk >= arrival:
                request = controller.send(WRITE if is_write else READ, bank, row, column)
                if request is not None:
                    accepted.append(request)
                    if len(accepted) == len(requests):
                        controller.result.at_last_accept = controller.counters()
        controller.tick()
    result = controller.result
    result.requests = [(r.arrive, r.issue, r.depart) for r in accepted]
    result.cycles_to_last_accept = int(result.at_last_accept.get("cycles", 0))
    result.cycles_to_drain = controller.drained_at
    return result
