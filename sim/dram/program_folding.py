"""Repetitions in a list of program steps, found and written as loops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Steps = list[Any]

LONGEST_PERIOD = 256
"""Steps of the longest loop body looked for."""


def fold(steps: Steps) -> Steps:
    """Steps with repetitions as loops: equal but for numbers in addresses that grow evenly.

    >>> fold([{"ACT16": {"row": 3}}, "PREA", {"ACT16": {"row": 5}}, "PREA", {"ACT16": {"row": 7}}, "PREA"])
    [{'loop': {'i': 3}, 'body': [{'ACT16': {'row': '2*i + 3'}}, 'PREA']}]
    """
    return [_written(step) for step in _fold([_read(step) for step in steps], 0)]


@dataclass(frozen=True)
class _Step:
    """A step: what must be equal, and the numbers of its address with their growth per loop."""

    shape: Any
    fields: tuple[str, ...]
    values: tuple[int, ...]
    growth: tuple[tuple[tuple[str, int], ...], ...]
    step: Any


@dataclass(frozen=True)
class _Loop:
    times: int
    index: str
    body: tuple[Any, ...]


def _read(step: Any) -> _Step:
    if isinstance(step, str):
        return _Step(step, (), (), (), step)
    command = next(iter(step))
    at = step[command] if isinstance(step[command], dict) else None
    if at is None or command == "until":
        return _Step(repr(step), (), (), (), step)
    fields = tuple(name for name, value in at.items() if isinstance(value, int))
    shape = (
        command,
        fields,
        repr({k: v for k, v in at.items() if k not in fields}),
        repr(step.get("repeat")),
    )
    return _Step(shape, fields, tuple(at[name] for name in fields), ((),) * len(fields), step)


def _written(item: _Step | _Loop) -> Any:
    if isinstance(item, _Loop):
        return {"loop": {item.index: item.times}, "body": [_written(inner) for inner in item.body]}
    if not item.fields:
        return item.step
    command = next(iter(item.step))
    at = dict(item.step[command])
    for name, value, growth in zip(item.fields, item.values, item.growth, strict=True):
        terms = [index if f == 1 else f"{f}*{index}" for index, f in growth if f]
        at[name] = " + ".join([*terms, *([str(value)] if value else [])]) if terms else value
    return {**item.step, command: at}


def _fold(items: list[_Step], depth: int) -> list[_Step | _Loop]:
    numbers: dict[Any, int] = {}
    ids = [numbers.setdefault((s.shape, s.growth), len(numbers)) for s in items]
    out: list[_Step | _Loop] = []
    i = 0
    while i < len(items):
        period, times = _longest_run(items, ids, i)
        if times < 3:
            out.append(items[i])
            i += 1
            continue
        index = "ijklmnopqrstuvwxyz"[depth] if depth < 26 else f"i{depth}"
        index = index if index != "k" else "kk"  # k counts the bursts of an instruction
        body = []
        for a, b in zip(items[i : i + period], items[i + period : i + 2 * period], strict=True):
            growth = tuple((*g, (index, y - x)) for g, x, y in zip(a.growth, a.values, b.values, strict=True))
            body.append(_Step(a.shape, a.fields, a.values, growth, a.step))
        out.append(_Loop(times, index, tuple(_fold(body, depth + 1))))
        i += period * times
    return out


def _longest_run(items: list[_Step], ids: list[int], start: int) -> tuple[int, int]:
    """(period, times) of the repetition from ``start`` that covers most."""
    best = (1, 1)
    for period in range(1, min(LONGEST_PERIOD, (len(items) - start) // 3) + 1):
        if ids[start] != ids[start + period]:
            continue
        times = 1
        while start + (times + 1) * period <= len(items) and _continues(items, ids, start, period, times):
            times += 1
        if times >= 3 and period * times > best[0] * best[1]:
            best = (period, times)
    return best


def _continues(items: list[_Step], ids: list[int], start: int, period: int, times: int) -> bool:
    """Is the next block like the first, its numbers grown ``times`` times as from first to second?"""
    for j in range(start, start + period):
        n = j + times * period
        if ids[n] != ids[j]:
            return False
        for a, b, c in zip(items[j].values, items[j + period].values, items[n].values, strict=True):
            if c != a + times * (b - a):
                return False
    return True
