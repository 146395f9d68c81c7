"""Actions of processors, and pipelines of an FPGA side by side."""

from __future__ import annotations

from typing import Any

import pytest

from neardata.arch.errors import InputError
from neardata.arch.system import parse_system
from neardata.sim.program import Program
from neardata.sim.system.engine import run
from neardata.sim.system.report import SystemReport

COST = {"basis": "assumed", "source": "made up"}


def system(side_by_side: bool = False, **core: Any) -> dict[str, Any]:
    return {
        "name": "made up",
        "source": "made up",
        "units": {
            "core": {"kind": "processor", "processor": "xeon-6242-core", "overrides": core},
            "fpga": {
                "kind": "stream", "capacity_gb": 4, "side_by_side": side_by_side,
                "pipelines": {"hash": "presto-sigridhash", "log": "presto-log"},
            },
        },
    }  # fmt: skip


def done(described: dict[str, Any], *tasks: dict[str, Any]) -> SystemReport:
    program = Program.from_dict({"name": "p", "system": "made up", "tasks": list(tasks)})
    again = Program.from_dict(program.to_dict())
    assert again == program
    return run(program, parse_system(described))


def actions(**counts: int) -> dict[str, Any]:
    return {"name": "a", "unit": "core", "kernel": {"kind": "actions", "actions": list(counts.items())}}


def test_actions_take_what_each_costs_over_the_units() -> None:
    report = done(
        system(**{"actions.hash.value": 50, "actions.compare.value": 2.5}), actions(hash=10, compare=100)
    )
    assert report.time_ps == (10 * 50 + 250) * 1000
    (outcome,) = report.outcomes
    assert outcome.bound_by == "hash" and outcome.energy_pj == {"processor actions": 9.375 * report.time_ps}
    two = system(**{"actions.hash.value": 50, "compute.units": 2})
    assert done(two, actions(hash=3)).time_ps == 75_000
    assert done(two, actions()).time_ps == 0


def test_an_action_that_costs_nothing_known_is_told() -> None:
    with pytest.raises(
        InputError, match=r"tasks.a: .*xeon-6242-core has no cost of 'hashes'; did you mean hash"
    ):
        done(system(), actions(hashes=1))


def test_pipelines_side_by_side_run_at_once_and_each_one_task_at_a_time() -> None:
    tasks = [
        {"name": n, "unit": "fpga", "kernel": {"kind": "stream", "pipeline": p, "items": 1000}}
        for n, p in (("a", "hash"), ("b", "log"), ("c", "log"))
    ]
    one = done(system(), *tasks)
    assert one.time_ps == sum(o.time_ps for o in one.outcomes)
    both = done(system(side_by_side=True), *tasks)
    hash_ps, log_ps, _ = (o.time_ps for o in both.outcomes)
    assert both.time_ps == max(hash_ps, 2 * log_ps)
    assert both.schedule.start == [0, 0, log_ps]
    (use,) = [use for use in both.units if use.name == "fpga"]
    assert use.busy_ps == both.time_ps
