"""Preprocessing on units: programs compute what they should, take what closed forms say, and break aloud."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neardata.arch.errors import InputError
from neardata.arch.link import load_link
from neardata.arch.preprocessor import Preprocessor, load_preprocessor, preprocessor_names
from neardata.arch.processor import load_processor
from neardata.arch.stream import load_pipeline
from neardata.mappers.functional import ProgramError
from neardata.mappers.preprocess import actions_of, lower_batches, lower_whole, sent_bytes
from neardata.mappers.preprocess_data import execute_batches
from neardata.preprocessing import run_batches
from neardata.sim.link import transfer_ps
from neardata.sim.link.requests import blocking_request_ps
from neardata.sim.program import Actions, Pause, Program, Stream, Transfer
from neardata.sim.stream import run_stream
from neardata.sim.system.engine import run
from neardata.workloads.graph import Graph
from neardata.workloads.recsys import (
    MiniBatch,
    Spec,
    Table,
    generate,
    graph_of,
    load_spec,
    preprocess,
    read_parquet,
    sample_path,
    work_of,
    write_parquet,
)

MIXED = """\
preprocessing:
  mixed:
    kind: recsys
    source: made up
    batch: 64
    label: label
    features:
      dense:
        columns: "I[1-3]"
        output: dense
        steps: [{op: fill_null, value: 0}, {op: log, offset: 1}, {op: clamp, low: 0, high: 5}]
      buckets:
        columns: "I[1-2]"
        features: "B[1-2]"
        output: sparse
        steps:
          - {op: fill_null, value: 0}
          - {op: bucketize, borders: [1, 2, 5, 9]}
          - {op: sigrid_hash, salt: 3, max: 100}
        generate: null
      lists:
        columns: "s[1-2]"
        output: sparse
        steps: [{op: first_x, k: 3}, {op: sigrid_hash, salt: 1, max: 50}]
        generate: &ids
          source: made up
          distinct: 500
          zipf: 1.1
          null_rate: 0.1
          lengths: {kind: poisson, mean: 4}
      grams:
        columns: "t"
        output: sparse
        steps: [{op: ngram, n: 2, salt: 1, max: 70}]
        generate: {source: made up, distinct: 500, zipf: 1.1, lengths: {kind: poisson, mean: 4}}
"""
MIXED = MIXED.replace(
    "        steps: [{op: fill_null, value: 0}, {op: log, offset: 1}, {op: clamp, low: 0, high: 5}]\n",
    "        steps: [{op: fill_null, value: 0}, {op: log, offset: 1}, {op: clamp, low: 0, high: 5}]\n"
    "        generate: {source: made up, log_mean: 1.5, log_deviation: 1.0, null_rate: 0.2}\n",
).replace("        generate: null\n", "")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Spec, list[Table]]:
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "mixed.yaml").write_text(MIXED)
    spec = load_spec(str(folder / "mixed.yaml"))
    tables = []
    for seed, rows in enumerate((64, 64, 7)):
        path = folder / f"{seed}.parquet"
        write_parquet(generate(spec, rows, seed=seed), path)
        tables.append(read_parquet(path, spec.columns))
    return spec, tables


def lowered(
    unit: Preprocessor, spec: Spec, tables: list[Table], steps: bool = True
) -> tuple[Program, list[Graph]]:
    graphs = [graph_of(spec, table) for table in tables]
    return lower_batches(graphs, unit, unit.load_system(), label=spec.label, steps=steps), graphs


def assert_same(found: MiniBatch, wanted: MiniBatch) -> None:
    for one, other in (
        (found.dense, wanted.dense), (found.sparse.lengths, wanted.sparse.lengths),
        (found.sparse.values, wanted.sparse.values), (found.labels, wanted.labels),
    ):  # fmt: skip
        assert one is not None and other is not None and one.dtype == other.dtype
        assert one.tobytes() == other.tobytes() and one.shape == other.shape
    assert found.sparse.keys == wanted.sparse.keys


@pytest.mark.parametrize("steps", [True, False])
@pytest.mark.parametrize("name", ["smartssd", "u280", "cpu", "gpu"])
def test_what_reaches_the_trainer_is_what_the_operators_mean(
    name: str, steps: bool, mixed: tuple[Spec, list[Table]]
) -> None:
    spec, tables = mixed
    unit = load_preprocessor(name, {"request_bytes": 128, "in_flight": 2})
    program, graphs = lowered(unit, spec, tables, steps)
    results = execute_batches(program, spec, graphs, tables, kernels=False)
    for result, table in zip(results, tables, strict=True):
        assert_same(result, preprocess(spec, table, kernels=False))
    again = Program.from_dict(program.to_dict())
    assert_same(execute_batches(again, spec, graphs, tables, kernels=False)[1], results[1])
    report = run(program, unit.load_system())
    assert report.time_ps > 0


def test_a_task_that_waits_for_less_is_found(mixed: tuple[Spec, list[Table]]) -> None:
    spec, tables = mixed
    program, graphs = lowered(load_preprocessor("smartssd", {"request_bytes": 128}), spec, tables[:1], False)
    found = 0
    for i, task in enumerate(program.tasks):
        if not task.reads or ".read" in task.name:  # pages lie in the drive from the start
            continue
        broken = replace(task, after=())
        changed = replace(program, tasks=(*program.tasks[:i], broken, *program.tasks[i + 1 :]))
        if task.after:
            with pytest.raises(ProgramError):
                execute_batches(changed, spec, graphs, tables[:1], kernels=False)
            found += 1
    assert found > 10


@pytest.mark.parametrize("which", [".read1", ".decode", ".2.sigrid_hash", ".load"])
def test_a_task_that_is_left_out_is_found(which: str, mixed: tuple[Spec, list[Table]]) -> None:
    spec, tables = mixed
    program, graphs = lowered(load_preprocessor("smartssd", {"request_bytes": 128}), spec, tables[:1])
    out = next(task for task in program.tasks if task.name.endswith(which))
    kept = tuple(
        replace(task, after=tuple(name for name in task.after if name != out.name))
        for task in program.tasks
        if task.name != out.name
    )
    with pytest.raises((ProgramError, StopIteration)):
        execute_batches(replace(program, tasks=kept), spec, graphs, tables[:1], kernels=False)


def test_an_operator_that_is_run_twice_is_found(mixed: tuple[Spec, list[Table]]) -> None:
    spec, tables = mixed
    program, graphs = lowered(load_preprocessor("cpu"), spec, tables[:1])
    task = next(task for task in program.tasks if task.name.endswith("log"))
    twice = replace(program, tasks=(*program.tasks, replace(task, name="again", after=(task.name,))))
    with pytest.raises(ProgramError, match="twice"):
        execute_batches(twice, spec, graphs, tables[:1], kernels=False)


@pytest.mark.parametrize("name", preprocessor_names())
def test_all_bytes_and_work_of_the_graph_are_in_the_program(
    name: str, mixed: tuple[Spec, list[Table]]
) -> None:
    spec, tables = mixed
    unit = load_preprocessor(name, {"request_bytes": 100})
    program, graphs = lowered(unit, spec, tables)
    work: dict[str, int] = {}
    for graph in graphs:
        for found in work_of(graph).values():
            for key, n in (("hash", found.hashes), ("log", found.logarithms), ("compare", found.comparisons),
                           ("decode_byte", found.decode.compressed_bytes)):  # fmt: skip
                work[key] = work.get(key, 0) + n
    read = sum(
        t.kernel.bytes for t in program.tasks if isinstance(t.kernel, Transfer) and ".load" not in t.name
    )
    assert read == work["decode_byte"] == sum(c.work.compressed_bytes for t in tables for c in t.chunks)
    loaded = sum(t.kernel.bytes for t in program.tasks if t.name.endswith(".load"))  # type: ignore[union-attr]
    assert loaded == sum(sent_bytes(graph, "label", 4) for graph in graphs)
    pages = sum(
        n for t in program.tasks if isinstance(t.kernel, Actions) for k, n in t.kernel.actions if k == "page"
    )
    parts = [c.work.compressed_bytes for table in tables for c in table.chunks]
    assert pages == sum(-(-size // 100) for size in parts)
    if unit.pipelines:
        items: dict[str, int] = {}
        for t in program.tasks:
            if isinstance(t.kernel, Stream):
                items[t.kernel.pipeline] = items.get(t.kernel.pipeline, 0) + t.kernel.items
        assert items["sigridhash"] == work["hash"] and items["log"] == work["log"]
        assert items["bucketize"] == sum(work_of(graph)["bucketize"].values_in for graph in graphs)
    else:
        done: dict[str, int] = {}
        for t in program.tasks:
            for key, n in t.kernel.actions if isinstance(t.kernel, Actions) else ():
                done[key] = done.get(key, 0) + n
        assert {key: done[key] for key in work} == work


def test_reading_alone_takes_the_closed_form_of_its_requests(mixed: tuple[Spec, list[Table]]) -> None:
    spec, tables = mixed
    unit = load_preprocessor("smartssd", {"request_bytes": 256, "page_bytes": 64})
    program, graphs = lowered(unit, spec, tables[:1])
    only = replace(
        program, tasks=tuple(t for t in program.tasks if ".ask" in t.name or ".read" in t.name), operators={}
    )
    ns = {name: cost.value for name, cost in load_processor("smartssd-worker").actions.items()}
    link = load_link("smartssd-p2p-read")
    expected = sum(
        blocking_request_ps(
            link, graphs[0].tensors[o.inputs[0]].bytes, ns["read_request"], ns["page"], 64, 256
        )
        for o in graphs[0]
        if o.kind == "parquet_decode"
    )
    # each piece's preparation is rounded up to a picosecond of its own
    assert run(only, unit.load_system()).time_ps == pytest.approx(expected, abs=len(only.tasks))


def test_a_columns_task_takes_what_its_pipeline_takes() -> None:
    table = read_parquet(sample_path())
    spec = load_spec("rm1")
    unit = load_preprocessor("smartssd")
    program, _ = lowered(unit, spec, [table])
    report = run(program, unit.load_system())
    alone = run_stream(load_pipeline("presto-log"), table.rows).time_ps
    logs = [o.time_ps for t, o in zip(program.tasks, report.outcomes, strict=True) if t.name.endswith("log")]
    assert logs == [alone] * 13
    # extract, transform and load follow each other
    end = {t.name: e for t, e in zip(program.tasks, report.schedule.end, strict=True)}
    hashes = run_stream(load_pipeline("presto-sigridhash"), table.rows).time_ps
    assert end["b0.transformed"] - end["b0.extracted"] >= 26 * hashes
    load = program.tasks[-1].kernel
    assert isinstance(load, Transfer)
    sent = transfer_ps(load_link("ethernet-10g"), load.bytes)
    assert end["b0.load"] - end["b0.transformed"] == sent


def test_mini_batches_under_way_overlap_and_no_more_than_there_are_buffers() -> None:
    table = read_parquet(sample_path())
    spec = load_spec("rm1")
    times = {}
    for n in (1, 2, 4):
        unit = load_preprocessor("smartssd", {"in_flight": n})
        program, _ = lowered(unit, spec, [table] * 4)
        report = run(program, unit.load_system())
        times[n] = report.time_ps
        ends = {t.name: e for t, e in zip(program.tasks, report.schedule.end, strict=True)}
        starts = {t.name: s for t, s in zip(program.tasks, report.schedule.start, strict=True)}
        for b in range(n, 4):
            begun = min(s for name, s in starts.items() if name.startswith(f"b{b}."))
            assert begun >= ends[f"b{b - n}.load"]
    single = load_preprocessor("smartssd", {"in_flight": 1})
    one = run(lowered(single, spec, [table])[0], single.load_system()).time_ps
    assert times[1] == 4 * one and times[4] < times[2] < times[1]


@pytest.mark.parametrize(("in_flight", "held"), [(1, [1]), (2, [1, 1]), (3, [2, 2])])
def test_units_hold_the_mini_batches_that_may_be_under_way_there(
    mixed: tuple[Spec, list[Table]], in_flight: int, held: list[int]
) -> None:
    spec, tables = mixed
    unit = load_preprocessor("smartssd", {"in_flight": in_flight})
    graph = graph_of(spec, tables[0])
    system = unit.load_system({"units.fpga.count": 2})
    program = lower_batches([graph] * 6, unit, system, label=spec.label)
    size = sum(tensor.bytes for tensor in graph.tensors.values())
    assert list(program.reserved.values()) == [n * size for n in held]
    assert {t.unit for t in program.tasks if isinstance(t.kernel, Stream)} == set(program.reserved)


def test_columns_that_stream_have_no_steps(mixed: tuple[Spec, list[Table]]) -> None:
    spec, tables = mixed
    graph, unit = graph_of(spec, tables[0]), load_preprocessor("smartssd")
    steps = run_batches([graph], unit, label=spec.label)
    assert list(steps.steps_ps) == ["extract", "transform", "load"]
    assert sum(steps.steps_ps.values()) == steps.time_ps
    assert run_batches([graph], unit, label=spec.label, steps=False).steps_ps == {}


def test_whole_mini_batches_on_a_core_take_the_sum_of_their_parts() -> None:
    table = read_parquet(sample_path())
    spec, unit = load_spec("rm1"), load_preprocessor("cpu")
    graph = graph_of(spec, table)
    program = lower_whole(graph, 3, unit, unit.load_system(), label="label")
    report = run(program, unit.load_system())
    each = sum(outcome.time_ps for outcome in report.outcomes[:3])
    assert report.time_ps == 3 * each
    costs = load_processor("xeon-6242-core").actions
    ns = sum(
        n * costs[name].value for o in graph for name, n in actions_of(o, work_of_one(graph, o.name)).actions
    )
    assert report.outcomes[1].time_ps == pytest.approx(ns * 1000, abs=2)
    with pytest.raises(InputError, match="has pipelines"):
        lower_whole(graph, 1, load_preprocessor("smartssd"), load_preprocessor("smartssd").load_system())


def work_of_one(graph: Graph, name: str):  # type: ignore[no-untyped-def]
    from neardata.workloads.recsys import work

    return work(graph, graph[name])


def test_what_a_unit_has_nothing_for_is_told(tmp_path: Path) -> None:
    path = tmp_path / "hot.yaml"
    path.write_text(
        "preprocessing:\n  hot:\n    kind: recsys\n    source: s\n    batch: 8\n    label: null\n"
        "    features:\n"
        "      a:\n        columns: [C1]\n        output: dense\n"
        "        steps: [{op: fill_null, value: 0}, {op: one_hot, size: 3}]\n"
    )
    spec = load_spec(str(path))
    table = read_parquet(sample_path(), ["C1"])
    unit = load_preprocessor("smartssd")
    with pytest.raises(InputError, match="smartssd has no pipeline for 'one_hot'"):
        lower_batches([graph_of(spec, table)], unit, unit.load_system())
    plain = table.slice(0, 8)
    with pytest.raises(InputError, match="do not come from Parquet"):
        lower_batches([graph_of(spec, plain)], unit, unit.load_system())
    cpu = load_preprocessor("cpu")
    graph = graph_of(spec, table)
    (result,) = execute_batches(
        lower_batches([graph], cpu, cpu.load_system()), spec, [graph], [table], kernels=False
    )
    assert np.array_equal(result.dense, preprocess(spec, table, kernels=False).dense)


def test_data_that_do_not_fit_are_refused() -> None:
    table = read_parquet(sample_path())
    unit = load_preprocessor("smartssd")
    graph = graph_of(load_spec("rm1"), table)
    small = unit.load_system({"units.storage.capacity_gb": 1e-6})
    with pytest.raises(InputError, match="bytes are placed in 'storage', which holds"):
        run(lower_batches([graph], unit, small), small)
    small = unit.load_system({"units.fpga.capacity_gb": 1e-6})
    with pytest.raises(InputError, match="bytes are placed in 'fpga', which holds"):
        run(lower_batches([graph], unit, small), small)


def test_an_empty_column_takes_no_time_in_a_pipeline(mixed: tuple[Spec, list[Table]], tmp_path: Path) -> None:
    spec, _ = mixed
    table = generate(spec, 3, seed=5)
    short = {
        name: type(c)(c.values[:0], None, np.zeros(3, np.int32)) if c.lengths is not None else c
        for name, c in table.columns.items()
    }
    write_parquet(Table(short, 3), tmp_path / "short.parquet")
    read = read_parquet(tmp_path / "short.parquet", spec.columns)
    unit = load_preprocessor("smartssd")
    program, graphs = lowered(unit, spec, [read])
    assert any(isinstance(t.kernel, Pause) and t.operators for t in program.tasks)
    (result,) = execute_batches(program, spec, graphs, [read], kernels=False)
    assert_same(result, preprocess(spec, read, kernels=False))
    assert run(program, unit.load_system()).time_ps > 0
