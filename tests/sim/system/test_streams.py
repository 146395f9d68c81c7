"""FPGAs with streaming pipelines as units of a system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neardata.arch.errors import InputError
from neardata.arch.stream import load_pipeline
from neardata.arch.system import load_system, parse_system
from neardata.sim.program import Program
from neardata.sim.stream import run_stream
from neardata.sim.system.engine import run


def system(**unit: Any) -> dict[str, Any]:
    return {
        "name": "storage",
        "source": "made up",
        "units": {
            "host": {"kind": "memory", "capacity_gb": 64},
            "fpga": {
                "kind": "stream", "fpga": "smartssd-vitis", "capacity_gb": 4,
                "pipelines": {"hash": "presto-sigridhash", "log": "presto-log"}, **unit,
            },
        },
        "links": {"pcie": {"link": "pcie-3", "between": ["host", "fpga"]}},
    }  # fmt: skip


def program(*tasks: dict[str, Any]) -> Program:
    return Program.from_dict({"name": "p", "system": "storage", "tasks": list(tasks)})


def stream(name: str, pipeline: str, items: int, after: tuple[str, ...] = ()) -> dict[str, Any]:
    kernel = {"kind": "stream", "pipeline": pipeline, "items": items}
    return {"name": name, "unit": "fpga", "kernel": kernel, "after": list(after)}


def test_a_task_takes_what_the_pipeline_takes_and_tasks_of_a_unit_exclude_each_other() -> None:
    report = run(program(stream("a", "hash", 1000), stream("b", "log", 500)), parse_system(system()))
    alone = [
        run_stream(load_pipeline(f"presto-{n}"), i).time_ps for n, i in (("sigridhash", 1000), ("log", 500))
    ]
    assert [outcome.time_ps for outcome in report.outcomes] == alone
    assert report.time_ps == sum(alone)
    assert report.outcomes[0].bound_by == "stage sigridhash"
    assert report.energy_untold == ("fpga sigridhash", "fpga log")


def test_transfers_to_one_task_overlap_with_another(tmp_path: Path) -> None:
    bytes_ = 1 << 20
    load = {"kind": "transfer", "source": "host", "target": "fpga", "bytes": bytes_}
    tasks = (
        {"name": "load 1", "unit": "pcie", "kernel": load},
        stream("hash 1", "hash", bytes_ // 8, ("load 1",)),
        {"name": "load 2", "unit": "pcie", "kernel": load, "after": ["load 1"]},
        stream("hash 2", "hash", bytes_ // 8, ("load 2",)),
    )
    written = program(*tasks)
    written.write(tmp_path / "program.yaml")
    report = run(Program.read(tmp_path / "program.yaml"), parse_system(system()))
    load_ps, hash_ps = report.outcomes[0].time_ps, report.outcomes[1].time_ps
    assert report.time_ps == load_ps + max(load_ps, hash_ps) + hash_ps


def test_overrides_and_fidelity_reach_the_pipeline() -> None:
    four = parse_system(system(overrides={"hash.stages.sigridhash.timing.lanes": 4}))
    outcome = run(program(stream("a", "hash", 1000)), four).outcomes[0]
    assert (
        outcome.time_ps
        == run_stream(load_pipeline("presto-sigridhash", {"stages.sigridhash.timing.lanes": 4}), 1000).time_ps
    )
    sparse = {"pipelines": {"sparse": "presto-sparse"}}
    times = {}
    for fidelity in ("analytic", "cycle"):
        found = run(program(stream("a", "sparse", 64)), parse_system(system(**sparse, fidelity=fidelity)))
        times[fidelity] = found.outcomes[0].time_ps
        assert found.outcomes[0].memory_bytes == 2 * 64 * 64
    assert times["analytic"] != times["cycle"]


@pytest.mark.parametrize(
    ("unit", "task", "problem"),
    [
        ({}, stream("a", "hush", 1), "'fpga' has no pipeline 'hush'; known: hash, log"),
        ({}, stream("a", "hash", 0), "items must be from 1"),
        ({"overrides": {"hsh.replicas.count": 2}}, None, "begins with no pipeline"),
        ({"pipelines": {"hash": "presto-hash"}}, None, "unknown pipeline 'presto-hash'"),
        ({"fpga": "smartsd"}, None, "unknown FPGA 'smartsd'"),
        (
            {"overrides": {"hash.replicas.count": 4, "log.replicas.count": 3}}, stream("a", "hash", 1),
            r"together they do not fit smartssd-vitis: LUT 105 %, DSP 109 % "
            r"\(LUT: hash 92 %, log 13 %; DSP: hash 77 %, log 32 %\)",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told(unit: dict[str, Any], task: dict[str, Any] | None, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        run(program(task or stream("a", "hash", 1)), parse_system(system(**unit)))


def test_a_system_file_names_the_line(tmp_path: Path) -> None:
    import yaml

    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(system(pipelines={"hash": "presto-hash"}), sort_keys=False))
    with pytest.raises(InputError, match=r"s\.yaml:\d+: units\.fpga\.pipelines: unknown pipeline"):
        load_system(path)
