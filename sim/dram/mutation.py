"""Does the rule checker notice a wrong engine? Timings moved by one cycle, and what it says then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from neardata.arch.dram import Device, device_names, load_device
from neardata.arch.errors import InputError
from neardata.sim.dram.checker import check, rule_slack
from neardata.sim.dram.command_log import CommandLog

_NOT_TIMINGS = ("rate", "tCK_ps")


def mutations(device: Device) -> Iterator[tuple[str, Device]]:
    """Each timing of a device one clock longer, then one shorter, with what was changed.

    Raises:
        InputError: the device is not one that ships with the package.

    >>> next(mutations(load_device("ddr4-2400r")))[0]
    'nBL 4 -> 5'
    """
    if device.name not in device_names():
        raise InputError(f"only devices that ship with the package can be mutated, not '{device.name}'")
    organisation = device.preset.organisation
    same: dict[str, Any] = {f"organisation.{level}": n for level, n in organisation.levels.items()}
    same |= {f"organisation.{k}": v for k, v in organisation.model_dump().items() if k != "levels"}
    same |= {f"timing.{name}": value for name, value in device.timing.items()}
    corrected = load_device(device.name, same).rules == device.rules
    for name, value in device.timing.items():
        for changed in (value + 1, value - 1):
            if name not in _NOT_TIMINGS and changed >= 0:
                timings = {**same, f"timing.{name}": changed}
                mutant = load_device(device.name, timings, corrected=corrected, consistent=False)
                yield f"{name} {value} -> {changed}", mutant


Verdict = Literal["violation", "loose", "different", "unseen"]


@dataclass(frozen=True)
class Finding:
    """What the checker said of the traces of one mutated engine."""

    mutation: str
    verdict: Verdict
    """``violation``: commands too early; ``loose``: legal, but a rule that used to bind no longer
    does; ``different``: another trace, as good for the checker; ``unseen``: the same trace."""
    rules: tuple[str, ...]
    """Rules violated, or loose."""

    @property
    def caught(self) -> bool:
        """The checker would have told the engine from a right one."""
        return self.verdict in ("violation", "loose")


def survey(device: Device, run: Callable[[Device], Iterable[CommandLog]]) -> list[Finding]:
    """Run an engine on every mutation of a device and judge its traces by the true device.

    Args:
        run: traces (one per channel or workload, always in the same order) of an engine on
            the device it is given.
    """
    true = list(run(device))
    known, tight = _violated(true), _tight(true)
    findings = []
    for mutation, mutant in mutations(device):
        logs = [replace(log, device=device) for log in run(mutant)]
        violated = _violated(logs) - known
        loose = {device.rules[r].name for r in tight - _tight(logs)}
        verdict: Verdict
        if violated:
            verdict = "violation"
        elif loose:
            verdict = "loose"
        else:
            verdict = "unseen" if all(map(_same, true, logs)) else "different"
        findings.append(Finding(mutation, verdict, tuple(sorted(violated or loose))))
    return findings


def _violated(logs: list[CommandLog]) -> set[str]:
    return {violation.rule for log in logs for violation in check(log)}


def _tight(logs: list[CommandLog]) -> set[int]:
    """Rules that bound at least once: to the cycle, or to the next clock edge."""
    return {
        rule
        for log in logs
        for rule, cycles in enumerate(rule_slack(log))
        if cycles is not None and cycles < log.device.ticks_per_clock
    }


def _same(a: CommandLog, b: CommandLog) -> bool:
    columns = ("cycle", "command", "unit", "row", "column")
    return len(a) == len(b) and all((getattr(a, c) == getattr(b, c)).all() for c in columns)
