"""Random command programs for any device: mostly legal, in every construct of the format."""

from __future__ import annotations

import random
from typing import Any

from neardata.arch.dram import Device

Body = list[Any]


class RandomProgram:
    """Draws programs; every body leaves the banks closed and the mode as it found them.

    Args:
        longest: most times the loops of each depth run, from the outermost.
        illegal: chance that a step is dropped, or that a nest of loops checks another row than the
            one it opens, so that some later command is not allowed.
    """

    def __init__(
        self, device: Device, seed: int, *, longest: tuple[int, ...] = (4, 4, 4), illegal: float = 0.0
    ) -> None:
        self.device, self.rng = device, random.Random(seed)
        self.longest, self.illegal = longest, illegal
        self.names = 0
        commands = dict(zip(device.command_names, device.commands, strict=True))
        refreshing = [name for name, c in commands.items() if c.refreshes or name.startswith("RFM")]
        self.commands = {name: c for name, c in commands.items() if name not in refreshing}
        self.mode = device.modes[0] if device.modes else None

    def program(self, *, host: bool = False) -> dict[str, Any]:
        """A program in the form of `Program.from_dict`."""
        policies = ["none", "all-bank", "declared", "close-reopen"]
        if not self.device.timing.get("nREFI") or "refresh_all" not in self.device.roles:
            policies = ["none"]
        if "activate_second" in self.device.roles and "close-reopen" in policies:
            policies.remove("close-reopen")
        out: dict[str, Any] = {"device": self.device.name, "refresh": self.rng.choice(policies)}
        if out["refresh"] != "none" and self.rng.random() < 0.3:
            out["first_refresh"] = self.rng.randint(1, 500)
        if out["refresh"] == "close-reopen" and self.rng.random() < 0.5:
            out["owed"] = self.rng.randint(1, 8)
        out["body"] = self.body(self.rng.randint(2, 5), {}, depth=0)
        if host:
            out["host"] = {
                "requests": self.rng.randint(1, 40),
                "stride": self.rng.choice([32, 64, 4096, 8192 * 5]),
                "first_arrival": self.rng.randint(1, 300),
                "interval": self.rng.choice([0, 3, 50]),
                "write_every": self.rng.choice([0, 3]),
                "policy": self.rng.choice(["host-first", "pim-first"]),
                "leave": [{"fence": "reads"}, *self.close_all()],
            }
        return out

    def body(self, steps: int, indices: dict[str, int], depth: int, inside: str = "") -> Body:
        out: Body = []
        for _ in range(steps):
            out += self.part(indices, depth, inside)
        return [step for step in out if self.rng.random() >= self.illegal]

    def part(self, indices: dict[str, int], depth: int, inside: str) -> Body:
        rng = self.rng
        kinds = ["episode"] * 4 + ["several"] * 3 + ["fence", "wait", "until", "mode"]
        if depth < len(self.longest):
            kinds += ["loop", "loop"]
        if depth + 1 < len(self.longest):
            kinds += ["nest"]
        if not inside:
            kinds += ["phase", "parallel", "refresh", "yield"]
        match rng.choice(kinds):
            case "fence":
                return [{"fence": rng.choice(["reads", "data", "all"]), "plus": rng.choice([0, 1, 7])}]
            case "wait":
                return [{"wait": rng.choice([0, 1, 5, 60])}]
            case "until":
                name = rng.choice(list(self.commands))
                return [{"until": {name: self.address(name, self.place(indices))}}]
            case "refresh":
                return ["refresh"]
            case "yield":
                return [rng.choice(["yield", {"yield": 2}])]
            case "mode":
                return self.other_mode(indices, depth, inside)
            case "loop":
                self.names += 1
                name, times = f"i{self.names}", rng.randint(0, self.longest[depth])
                inner = {**indices, name: times}
                body = self.body(rng.randint(1, 3), inner, depth + 1, inside)
                return [{"loop": {name: times} if name in str(body) else times, "body": body}]
            case "nest":
                return self.nest(indices, depth)
            case "several":
                return self.several()
            case "phase":
                return [{"phase": rng.choice("abc"), "body": self.body(2, indices, depth + 1)}]
            case "parallel":
                return [{"parallel": self.streams(indices, depth)}]
        return self.episode(self.place(indices), indices)

    def nest(self, indices: dict[str, int], depth: int) -> Body:
        """Loops that hold nothing but a loop, around one episode; the row may depend on each of them."""
        names, inner = [], dict(indices)
        for most in self.longest[depth : depth + 2]:
            self.names += 1
            names.append(f"i{self.names}")
            inner[names[-1]] = self.rng.randint(1, most)
        place = self.place(indices)
        place["row"] = " + ".join([self.rng.choice(["0", "1", "2"]) + f"*{name}" for name in names])
        out = self.episode(place, inner, check=0.6)
        if self.rng.random() < self.illegal:
            for step in out[1:]:
                for address in step.values():
                    if isinstance(address, dict) and "row" in address:
                        address["row"] += f" + {self.rng.choice(names)}"
        for name in reversed(names):
            out = [{"loop": {name: inner[name]}, "body": out}]
        return out

    def streams(self, indices: dict[str, int], depth: int) -> list[Body]:
        """Streams on different banks where the first level below the channel allows it."""
        return [
            [{"loop": self.rng.randint(1, 3), "body": self.episode(self.place(indices, level0=n), indices)}]
            for n in range(min(2, self.device.counts[1]))
        ]

    def other_mode(self, indices: dict[str, int], depth: int, inside: str) -> Body:
        """Into another mode, something there, and back."""
        ways = [
            (name, c.enters)
            for name, c in self.commands.items()
            if c.enters and c.enters != self.mode and (not c.modes or self.mode in c.modes)
        ]
        if not ways or inside:
            return []
        home, (enter, mode) = self.mode, self.rng.choice(ways)
        place = self.place(indices)
        out: Body = [{enter: self.address(enter, place)}]
        self.mode = mode
        out += self.episode(place, indices)
        back = [
            name
            for name, c in self.commands.items()
            if c.enters == home and (not c.modes or mode in c.modes) and not c.needs
        ]
        self.mode = home
        return [*out, {back[0]: self.address(back[0], place)}] if back else []

    def place(self, indices: dict[str, int], level0: int | None = None) -> dict[str, int | str]:
        """A bank and a row: an index or a number for each level."""
        out: dict[str, int | str] = {}
        for depth, level in enumerate(self.device.levels[1:], start=1):
            count = self.device.counts[depth]
            fitting = [name for name, times in indices.items() if 0 < times <= count]
            if depth == 1 and level0 is not None:
                out[level] = level0
            elif fitting and self.rng.random() < 0.4:
                out[level] = self.rng.choice(fitting)
            else:
                out[level] = self.rng.randrange(count)
        row = self.rng.randrange(1000)
        if indices and self.rng.random() < 0.5:
            out["row"] = f"{self.rng.randint(1, 3)}*{self.rng.choice(list(indices))} + {row}"
        else:
            out["row"] = row
        return out

    def address(self, name: str, place: dict[str, int | str], row: bool = False) -> dict[str, int | str]:
        command, levels = self.commands[name], self.device.levels
        own = levels[1 : levels.index(command.at) + 1]
        out = {level: place[level] for level in own if level not in command.across}
        if row:
            out["row"] = place["row"]
        return out

    def spans(self, outer: str, inner: str) -> bool:
        """Does a command act on all banks another one acts on, at the same place?"""
        a, b = self.commands[outer], self.commands[inner]
        depth = self.device.levels.index
        own = [level for level in self.device.levels[1 : depth(a.at) + 1] if level not in a.across]
        others = [level for level in self.device.levels[1 : depth(b.at) + 1] if level not in b.across]
        return set(own) <= set(others)

    def allowed(self, name: str, state: str) -> bool:
        command = self.commands[name]
        return (not command.needs or state in command.needs) and (
            not command.modes or self.mode in command.modes
        )

    def episode(self, place: dict[str, int | str], indices: dict[str, int], check: float = 0.3) -> Body:
        """Open, work on the open row, close; or commands that need no open row."""
        rng = self.rng
        free = [
            name
            for name, c in self.commands.items()
            if not c.needs and not c.leaves and not c.enters and self.allowed(name, "closed")
        ]
        openers = [
            name
            for name, c in self.commands.items()
            if c.leaves in ("open", "activating") and "closed" in c.needs and self.allowed(name, "closed")
        ]
        out: Body = []
        if free and (rng.random() < 0.4 or not openers):
            for _ in range(rng.randint(1, 3)):
                name = rng.choice(free)
                out.append({name: self.address(name, place), "repeat": rng.choice([1, 2, 5])})
            return out
        if not openers:
            return []
        opener = rng.choice(openers)
        out.append({opener: self.address(opener, place, row=True)})
        if self.commands[opener].leaves == "activating":
            seconds = [n for n, c in self.commands.items() if c.needs == ("activating",)]
            out.append({seconds[0]: self.address(seconds[0], place)})
        workers = [
            name
            for name, c in self.commands.items()
            if self.allowed(name, "open") and not c.leaves and not c.enters and self.spans(opener, name)
        ]
        for _ in range(rng.randint(0, 4)):
            if workers:
                name = rng.choice(workers)
                step: dict[str, Any] = {name: self.address(name, place)}
                if self.commands[name].row_hit and rng.random() < check:
                    step[name]["row"] = place["row"]
                if self.commands[name].bus == "column" and rng.random() < 0.5:
                    step[name]["column"] = "k"
                    step["repeat"] = {"k": rng.randint(0, 8)}
                elif rng.random() < 0.5:
                    step["repeat"] = rng.choice([1, 2, 3, 20, 20, 700])
                out.append(step)
        closers = [
            name
            for name, c in self.commands.items()
            if c.leaves == "closed" and self.allowed(name, "open") and not c.data and self.spans(name, opener)
        ]
        closer = rng.choice(closers)
        out.append({closer: self.address(closer, place)})
        return out

    def several(self) -> Body:
        """Rows of several banks open at once, bursts among them, closed one by one or together."""
        rng, device = self.rng, self.device
        single = [n for n, c in self.commands.items() if c.at == "bank" and not c.across and not c.enters]
        openers = [
            n
            for n in single
            if self.commands[n].leaves in ("open", "activating") and self.allowed(n, "closed")
        ]
        if not openers:
            return []
        banks = rng.sample(range(device.n_banks), rng.randint(2, min(6, device.n_banks)))
        places = [
            {**dict(zip(device.levels[1:], device.coordinates[b, 1:].tolist(), strict=True)), "row": b}
            for b in banks
        ]
        if rng.random() < 0.4:  # neighbours: the next banks of one node
            places = [{**places[0], "bank": n, "row": n} for n in range(device.counts[-1])]
        opener = openers[0]
        out: Body = []
        for place in places:
            out.append({opener: self.address(opener, place, row=True)})
            if self.commands[opener].leaves == "activating":
                second = next(n for n, c in self.commands.items() if c.needs == ("activating",))
                out.append({second: self.address(second, place)})
        workers = [n for n in single if self.allowed(n, "open") and not self.commands[n].leaves]
        for _ in range(rng.randint(0, 12) if workers else 0):
            name = rng.choice(workers)
            out.append({name: self.address(name, rng.choice(places)), "repeat": rng.choice([1, 1, 1, 3])})
        closers = [n for n in single if self.commands[n].leaves == "closed" and self.allowed(n, "open")]
        together = [
            n
            for n, c in self.commands.items()
            if c.leaves == "closed" and c.at == "channel" and self.allowed(n, "open") and not c.data
        ]
        if together and rng.random() < 0.5:
            return [*out, {together[0]: {}}]
        rng.shuffle(places)
        for place in places:
            name = rng.choice(closers)
            out.append({name: self.address(name, place)})
        if rng.random() < 0.3:  # and one of them once more, as soon as it can
            again = {opener: self.address(opener, places[-1], row=True)}
            if self.commands[opener].leaves == "open":
                out += [again, {closers[0]: self.address(closers[0], places[-1])}]
        return out

    def close_all(self) -> Body:
        """Close every bank of the channel."""
        name = self.device.command_names[self.device.roles["precharge_all"]]
        levels = self.device.levels
        own = levels[1 : levels.index(self.commands[name].at) + 1]
        out: Body = [{name: {f: f"c{f}" for f in own}}]
        for level in reversed(own):
            count = self.device.counts[levels.index(level)]
            out = [{"loop": {f"c{level}": count}, "body": out}]
        return out
