"""The task engine: what it refuses, what it keeps, and that its accelerations change nothing."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from neardata.arch.errors import InputError
from neardata.arch.system import System, load_system, parse_system
from neardata.mappers.lower import lower
from neardata.mappers.mapping import Mapping
from neardata.sim.program import (
    Collective,
    Elementwise,
    MatMul,
    Operand,
    Pause,
    PimMatMul,
    Program,
    Task,
    Transfer,
)
from neardata.sim.system.engine import Costs, run
from neardata.sim.system.outcome import Outcome
from neardata.sim.system.timeline import write_system_timeline
from neardata.workloads.llm.decoder import llm
from neardata.workloads.llm.model import load_model

NS = 1000


def two_gpus() -> System:
    return load_system("a100").with_counts(gpu=2)


def pauses(*tasks: tuple[str, str, int, tuple[str, ...]]) -> Program:
    return Program("p", "s", tuple(Task(name, unit, Pause(t * NS), after) for name, unit, t, after in tasks))


@pytest.mark.parametrize("on_pim", ["attention", "everything"])
@pytest.mark.parametrize("system", ["aim", "a100-hbm-pim", "attacc"])
def test_accelerations_change_no_time(system: str, on_pim: str) -> None:
    """A slice of Mixtral: everything looked up, jumped over and folded against nothing of it."""
    graph = llm(load_model("mixtral-8x7b"), batch=2, context=48, layers=[0, 1], head=False)
    target = load_system(system)
    fit = {name: 2 for name, unit in target.units.items() if unit.count == "fit"}
    target = target.with_counts(**fit)
    # few channels, so that commands can be simulated one by one in a test
    for name, unit in target.units.items():
        if unit.kind == "pim":
            target.units[name] = unit.model_copy(update={"channels": 2, "capacity_gb": 100.0})
    program = lower(graph, target, Mapping(on_pim=on_pim, pipeline=2))  # type: ignore[arg-type]
    program = replace(program, tasks=tuple(_smaller(task) for task in program.tasks), operators={})
    fast = run(program, target)
    slow = run(program, target, memoise=False, jump=False, fold=False)
    assert fast.schedule.start == slow.schedule.start
    assert fast.schedule.end == slow.schedule.end
    assert fast.energy_pj == pytest.approx(slow.energy_pj)
    assert fast.reasons_ps == slow.reasons_ps


def _smaller(task: Task) -> Task:
    """The same task on a 32nd of the matrix."""
    if isinstance(task.kernel, PimMatMul):
        kernel = task.kernel
        return replace(task, kernel=PimMatMul(kernel.m, max(kernel.n // 32, 1), max(kernel.k // 32, 1)))
    return task


def test_equal_kernels_are_run_once() -> None:
    graph = llm(load_model("mixtral-8x7b"), batch=1, context=64, layers=4)
    target = two_gpus()
    costs = Costs(target)
    run(lower(graph, target, Mapping()), target, costs=costs)
    assert costs.runs < 40


def test_units_work_side_by_side_and_the_critical_path_adds_up() -> None:
    program = pauses(("a", "gpu0", 5, ()), ("b", "gpu1", 9, ()), ("c", "gpu0", 4, ("b",)))
    report = run(program, two_gpus())
    assert report.time_ps == 13 * NS
    assert [report.program.tasks[i].name for i in report.critical] == ["b", "c"]
    assert sum(report.reasons_ps.values()) == report.time_ps
    idle = next(use for use in report.units if use.name == "gpu0").idle_ps
    assert idle == {"gpu": 4 * NS}


def test_memory_and_its_processor_take_turns() -> None:
    target = load_system("a100-hbm-pim").with_counts(gpu=1, pim=1)
    tasks = (Task("p", "pim", PimMatMul(1, 512, 512)), Task("g", "gpu", Pause(NS)))
    report = run(Program("p", "s", tasks), target)
    assert report.schedule.start[1] == report.schedule.end[0]


def test_memory_beside_a_processor_does_not_stop_it() -> None:
    target = load_system("attacc").with_counts(gpu=1, attacc=1)
    tasks = (Task("p", "attacc", PimMatMul(1, 512, 512)), Task("g", "gpu", Pause(NS)))
    assert run(Program("p", "s", tasks), target).schedule.start == [0, 0]


def test_a_memorys_processor_sees_the_memorys_rate_and_capacity() -> None:
    target = load_system("a100-hbm-pim").with_counts(gpu=1, pim=1)
    assert target.processor("gpu").memory.gb_per_s == pytest.approx(80 * 16)
    assert target.processor("gpu").memory.bytes == target.capacities["gpu"] == 80 * 2**28


def test_refresh_at_launch_costs_a_refresh() -> None:
    kernel = PimMatMul(1, 512, 512)
    units = {"pim": {"kind": "pim", "device": "gddr6-aim", "channels": 2}}
    with_refresh = Costs(parse_system({"name": "s", "source": "t", "units": units})).of("pim", kernel)
    units["pim"]["refresh"] = "none"
    without = Costs(parse_system({"name": "s", "source": "t", "units": units})).of("pim", kernel)
    assert with_refresh.time_ps == without.time_ps + 210 * 500
    assert with_refresh.lost_ps["tRFC"] == 210 * 500
    assert "tRFC" not in without.lost_ps


def test_refresh_at_launch_takes_energy() -> None:
    """One all-bank refresh of each of four channels, and all of them standing by, one of them at work."""
    kernel = PimMatMul(1, 16, 512)
    spent = {}
    for refresh in ("at-launch", "none"):
        units = {"pim": {"kind": "pim", "device": "gddr6-aim", "channels": 4, "refresh": refresh}}
        spent[refresh] = Costs(parse_system({"name": "s", "source": "t", "units": units})).of("pim", kernel)
    more = {
        name: pj - spent["none"].energy_pj.get(name, 0.0) for name, pj in spent["at-launch"].energy_pj.items()
    }
    assert more["DRAM refresh"] == pytest.approx(4 * 16 * 5900)  # banks, pJ each
    assert more["DRAM standby"] == pytest.approx(4 * 183.15 * 210 * 0.5)  # mW, ticks, ns
    assert more["DRAM rows"] == more["DRAM commands"] == 0


def test_outcomes_must_add_up() -> None:
    with pytest.raises(AssertionError, match="are not"):
        Outcome(10, 5, "memory", {"launch": 4})


def test_work_that_is_missing_stops_the_run() -> None:
    task = Task("t", "gpu0", MatMul(1, 2, 3), operators=("o",))
    program = Program("p", "s", (task,), operators={"o": {"kind": "linear", "macs": 7}})
    with pytest.raises(InputError, match=r"operators\.o: its tasks do 6 of 7 multiply-accumulates"):
        run(program, two_gpus())


BAD = {
    "is no unit or link of the system; did you mean gpu": Task("t", "gpu7", Pause(1)),
    "runs no pim_matmul": Task("t", "gpu0", PimMatMul(1, 1, 1)),
    "'transfer' does not run on 'gpu0'": Task("t", "gpu0", Transfer("gpu0", "gpu1", 1)),
    "'matmul' does not run on 'nvlink'": Task("t", "nvlink", MatMul(1, 1, 1)),
    "'host' has no port on 'nvlink'": Task("t", "nvlink", Transfer("gpu0", "host", 1)),
    "'gpu9' has no port on 'nvlink'": Task("t", "nvlink", Collective("all_reduce", ("gpu0", "gpu9"), 4)),
    "has no 'int2' arithmetic": Task("t", "gpu0", MatMul(1, 1, 1, activations="int2")),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_tasks_are_told_in_one_line(message: str) -> None:
    with pytest.raises(InputError) as caught:
        run(Program("p", "s", (BAD[message],)), two_gpus())
    assert message in str(caught.value) and "tasks.t" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_data_that_do_not_fit_are_refused_with_numbers() -> None:
    held = Operand("w", "gpu0", 80_000_000_001)
    with pytest.raises(
        InputError, match=r"80,000,000,001 bytes .* 'gpu0', which holds 80,000,000,000: 1 too many"
    ):
        run(Program("p", "s", (), placement=(held,)), two_gpus())


def test_idle_processors_draw_power() -> None:
    report = run(pauses(("a", "gpu0", 1000, ())), two_gpus())
    watts = two_gpus().processor("gpu").power.idle_w.value
    assert report.energy_pj["processors idle"] == pytest.approx(watts * 1000 * NS)


def test_the_timeline_has_a_slice_per_task() -> None:
    tasks = (
        Task("m", "gpu0", MatMul(1, 64, 64), operators=("product",)),
        Task("e", "gpu1", Elementwise(100, 100, 100), ("m",)),
        Task("x", "nvlink", Transfer("gpu0", "gpu1", 4096), ("m",)),
    )
    report = run(Program("p", "s", tasks), two_gpus())
    stream = io.StringIO()
    assert write_system_timeline(stream, report) == 0
    events = json.loads(stream.getvalue())["traceEvents"]
    slices = [e for e in events if e["ph"] == "X"]
    assert {e["name"] for e in slices} == {"product", "e", "x"}
    assert max(e["ts"] + e["dur"] for e in slices) == pytest.approx(report.time_ps / 1e6)


def test_programs_survive_yaml_and_json(tmp_path: Path) -> None:
    graph = llm(load_model("mixtral-8x7b"), batch=2, context=32, layers=2)
    target = load_system("aim").with_counts(controller=2, aim=2)
    program = lower(graph, target, Mapping(on_pim="everything", pipeline="all"))
    for name in ("p.yaml", "p.json"):
        program.write(tmp_path / name)
        again = Program.read(tmp_path / name)
        assert again == program
        assert run(again, target).schedule.end == run(program, target).schedule.end


def test_edited_programs_are_checked_with_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(
        "schema: 2\nname: p\nsystem: a100\ntasks:\n  - name: t\n    unit: gpu\n"
        "    kernel: {kind: matmul, m: 1, n: x, k: 1}\n"
    )
    with pytest.raises(InputError, match=r"p\.yaml:7: tasks\.0\.kernel\.n: must be a whole number"):
        Program.read(file)


def test_idle_memories_stand_by_and_are_refreshed() -> None:
    target = parse_system(
        {
            "name": "s",
            "source": "t",
            "units": {
                "gpu": {"kind": "processor", "processor": "a100-80gb"},
                "pim": {"kind": "pim", "device": "gddr6-aim", "channels": 2},
            },
        }
    )
    device = target.device("pim")
    time_ps = 10 * device.timing["nREFI"] * 500
    report = run(Program("p", "s", (Task("t", "gpu", Pause(time_ps)),)), target)
    standby = 2 * 183.15 * time_ps / 1000  # mW of two channels with closed banks
    assert report.energy_pj["DRAM standby"] == pytest.approx(standby)
    one = device.preset.command_energy_pj
    assert report.energy_pj["DRAM refresh"] > 0 and one
