"""State and timing of a device's banks, kept obviously: what may issue now, and what issuing does."""

from __future__ import annotations

from collections import defaultdict, deque

from neardata.arch.dram import Device


class Banks:
    """All banks of one channel."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.state = ["closed"] * device.n_banks
        self.open_row = [-1] * device.n_banks
        self.last_use = [0] * device.n_banks
        """Tick of the bank's activate or, later, its last column command."""
        self.unit_of: list[list[int]] = [units.tolist() for units in device.unit_of]
        commands = range(len(device.commands))
        self.banks_of: list[list[list[int]]] = [
            [device.banks_of(c, unit).tolist() for unit in range(device.n_units(c))] for c in commands
        ]
        node_of = [device.node_of(level).tolist() for level in range(len(device.levels))]
        self.nodes_of = [
            [[sorted({nodes[b] for b in banks}) for nodes in node_of] for banks in self.banks_of[c]]
            for c in commands
        ]
        """[command][unit][level]: nodes of the level with a bank the command acts on."""
        longest = max(rule.window for rule in device.rules)
        self.issued: dict[tuple[int, int, int], deque[int]] = defaultdict(lambda: deque(maxlen=longest))
        """(command, level, node) -> latest ticks of issue."""
        self.ready_at: dict[tuple[int, int, int], int] = defaultdict(int)
        """(command, level, node) -> earliest tick the rules of that node allow."""
        self.bus_of = [c.bus if device.dual_command_bus else "only" for c in device.commands]
        self.bus_free_at: dict[str, int] = defaultdict(int)
        self.closing = [c.leaves == "closed" for c in device.commands]
        self.column = [c.data is not None for c in device.commands]

    def open_banks(self) -> list[int]:
        return [bank for bank, state in enumerate(self.state) if state == "open"]

    def targets(self, command: int, bank: int) -> list[int]:
        """All banks the command acts on when it is issued for ``bank``."""
        return self.banks_of[command][self.unit_of[command][bank]]

    def ready(self, command: int, bank: int, clk: int) -> bool:
        """Whether every timing rule and the command bus allow the command now."""
        nodes = self.nodes_of[command][self.unit_of[command][bank]]
        return clk >= self.bus_free_at[self.bus_of[command]] and all(
            clk >= self.ready_at[command, level, node] for level in range(len(nodes)) for node in nodes[level]
        )

    def issue(self, command: int, bank: int, row: int, clk: int) -> None:
        """The command is issued at tick ``clk``; an activate opens ``row``."""
        nodes = self.nodes_of[command][self.unit_of[command][bank]]
        self.bus_free_at[self.bus_of[command]] = clk + self.device.command_cycles[command]
        for level in range(len(nodes)):
            for node in nodes[level]:
                self.issued[command, level, node].append(clk)
        for rule in self.device.rules:
            if rule.first != command:
                continue
            if rule.sibling:
                for node in siblings(nodes[rule.level], self.device.counts[rule.level]):
                    self._hold(rule.then, rule.level, node, clk + rule.gap)
                continue
            for node in nodes[rule.level]:
                past = self.issued[command, rule.level, node]
                if len(past) >= rule.window:
                    self._hold(rule.then, rule.level, node, past[-rule.window] + rule.gap)
        leaves = self.device.commands[command].leaves
        for target in self.targets(command, bank):
            if leaves is not None:
                self.state[target] = leaves
            if leaves == "open":
                self.open_row[target] = row
            if leaves == "open" or self.column[command]:
                self.last_use[target] = clk

    def _hold(self, command: int, level: int, node: int, until: int) -> None:
        key = (command, level, node)
        self.ready_at[key] = max(self.ready_at[key], until)


def siblings(nodes: list[int], count: int) -> list[int]:
    """The other nodes under the same parents, of a level with ``count`` nodes per parent."""
    parents = {node // count for node in nodes}
    return [p * count + i for p in parents for i in range(count) if p * count + i not in nodes]
