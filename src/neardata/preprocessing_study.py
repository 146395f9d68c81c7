"""The study of PreSto: units that prepare the same data, calibrated on one model, predicted on the others."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

from neardata.arch.errors import InputError
from neardata.arch.link import load_link
from neardata.arch.preprocessor import Preprocessor, load_preprocessor
from neardata.arch.processor import load_processor
from neardata.arch.system import System
from neardata.frontend_models import HOURS_A_YEAR
from neardata.mappers.preprocess import lower_batches, lower_whole
from neardata.preprocessing import UnitRun, most_copies, run_batches
from neardata.sim.link.requests import blocking_request_ps
from neardata.sim.system.engine import Costs, run
from neardata.workloads.graph import Graph
from neardata.workloads.recsys import generate, graph_of, load_spec, read_parquet, work_of, write_parquet
from neardata.workloads.recsys.table import Table

Figures = dict[str, float]
TRANSFORMS = ("bucketize", "sigrid_hash", "log")
NORMALISING = ("sigrid_hash", "log")


@cache
def graph_of_model(name: str, rows: int, seed: int) -> tuple[Graph, str | None]:
    """A generated mini-batch as Parquet stores it: plain pages, not compressed, one row group."""
    spec = load_spec(name)
    drawn = tuple((group.columns, group.generate) for group in spec.features.values())
    return graph_of(spec, _stored(repr(drawn), name, rows, seed)), spec.label


_TABLES: dict[tuple[str, int, int], Table] = {}


def _stored(drawn: str, name: str, rows: int, seed: int) -> Table:
    """Models whose columns are drawn alike share their table."""
    key = (drawn, rows, seed)
    if key not in _TABLES:
        spec = load_spec(name)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "batch.parquet"
            table = generate(spec, rows, seed=seed)
            write_parquet(table, path, rows_per_group=rows, compression="NONE", use_dictionary=False)
            _TABLES[key] = read_parquet(path, spec.columns)
    return _TABLES[key]


def presto(
    models: Sequence[str],
    rows: int,
    seed: int,
    calibrated_on: str,
    cores_for_8_gpus: int,
    units_for_8_gpus: int,
    normalising_share: float,
    transform_share: float,
    batches: int,
    cores: Sequence[int],
    node_cores: int,
    node_watts: float,
    node_dollars: float,
    unit_dollars: float,
    years: float,
    dollars_per_kwh: float,
    p2p_read_kib: Sequence[int],
    p2p_write_kib: Sequence[int],
) -> Figures:
    """Figures by name: ``latency_ms/UNIT/MODEL``, ``period_ms/UNIT/MODEL`` and what follows from them."""
    figures: Figures = {}
    cards = {name: load_preprocessor(name) for name in ("smartssd", "u280", "gpu")}
    runs: dict[tuple[str, str], UnitRun] = {}
    systems: dict[str, Costs] = {}
    for model in models:
        graph, label = graph_of_model(model, rows, seed)
        for name, unit in cards.items():
            system = systems.setdefault(name, Costs(unit.load_system()))
            runs[name, model] = one = run_batches([graph], unit, label=label, costs=system)
            figures[f"latency_ms/{name}/{model}"] = one.time_ps / 1e9
        many = run_batches([graph] * batches, cards["smartssd"], label=label, costs=systems["smartssd"])
        figures[f"period_ms/smartssd/{model}"] = many.period_ps / 1e9
    at = calibrated_on
    target_ms = figures[f"period_ms/smartssd/{at}"] * cores_for_8_gpus / units_for_8_gpus
    graph, label = graph_of_model(at, rows, seed)
    costs = core_costs(graph, label, target_ms * 1e6, normalising_share, transform_share)
    figures |= {f"cpu_ns/{name}": ns for name, ns in costs.items()}
    core = load_preprocessor("cpu")
    for model in models:
        graph, label = graph_of_model(model, rows, seed)
        runs["cpu", model] = one = run_batches([graph], core, core_system(core, costs), label=label)
        figures[f"latency_ms/cpu/{model}"] = one.time_ps / 1e9
        figures |= _shares(one, model)
    figures |= _compared(figures, runs, models, node_watts / node_cores)
    figures |= _cores(core, costs, figures, models, rows, seed, cores)
    figures |= _money(
        figures, models, node_cores, node_watts, node_dollars, unit_dollars, years, dollars_per_kwh
    )
    ratio = figures[f"cores_per_unit/{at}"]
    figures["units_for_8_gpus"] = ceil(cores_for_8_gpus / ratio - 1e-9)
    figures["unit_watts"] = figures["units_for_8_gpus"] * cards["smartssd"].power_w.value
    figures["nodes_for_8_gpus"] = ceil(cores_for_8_gpus / node_cores)
    figures["copies/smartssd"] = most_copies(cards["smartssd"])
    others = [model for model in models if model != at]
    transforms = [figures[f"cpu_share/transforms/{model}"] for model in others]
    figures["predicted_share/transforms"] = sum(transforms) / len(others)
    figures["predicted_share/normalising"] = max(figures[f"cpu_share/normalising/{m}"] for m in others)
    for name in ("cores_per_unit", "energy"):
        figures[f"predicted/{name}"] = sum(figures[f"{name}/{model}"] for model in others) / len(others)
    if 32 in cores:
        figures["over_32_cores/min"] = 1 / figures["cores_over_unit/32/max"]
    figures |= p2p_curve(cards["smartssd"], p2p_read_kib, p2p_write_kib)
    return figures


def core_system(core: Preprocessor, costs: Mapping[str, float], count: int = 1) -> System:
    """Cores with these costs of actions, in ns."""
    overrides = {f"actions.{name}.value": ns for name, ns in costs.items()}
    system = core.model_copy(update={"in_flight": count}).load_system({"units.core.overrides": overrides})
    return system


def core_costs(
    graph: Graph, label: str | None, target_ns: float, normalising: float, transforms: float
) -> dict[str, float]:
    """ns of a core's actions, from its time for a mini-batch and the shares of its steps.

    Hashes and logarithms cost the same and take ``normalising`` of the time, comparisons of Bucketize what
    they leave of ``transforms``; bytes, read and moved, take the rest, but for what the network takes.

    Raises:
        InputError: no cost of a byte gives the time, to a millionth.
    """
    work = work_of(graph)
    costs = {
        "hash": target_ns * normalising / (work["sigrid_hash"].hashes + work["log"].logarithms),
        "compare": target_ns * (transforms - normalising) / work["bucketize"].comparisons,
    }
    costs["log"] = costs["hash"]
    core = load_preprocessor("cpu")

    program = lower_batches([graph], core, core_system(core, costs), label=label)

    def time_ns(byte: float) -> float:
        return (
            run(program, core_system(core, costs | {"decode_byte": byte, "move_byte": byte})).time_ps / 1000
        )

    # the time is almost linear in the cost of a byte: straight lines through the last two
    old, byte = 0.0, (1 - transforms) * target_ns / work["parquet_decode"].bytes_in / 4
    old_ns = time_ns(old)
    for _ in range(8):
        found_ns = time_ns(byte)
        if abs(found_ns - target_ns) < 1e-6 * target_ns:
            return costs | {"decode_byte": byte, "move_byte": byte}
        if found_ns == old_ns:
            break
        old, old_ns, byte = byte, found_ns, byte + (target_ns - found_ns) * (byte - old) / (found_ns - old_ns)
        if byte < 0:
            break
    raise InputError(
        f"no cost of a byte gives a core {target_ns / 1e6:.6g} ms for a mini-batch: the other steps take"
        f" {transforms:.0%} of it, the nearest found is {found_ns / 1e6:.6g} ms",
        key="transform_share",
    )


def _shares(run: UnitRun, model: str) -> Figures:
    time = {stage.name: stage.time_ps / run.time_ps for stage in run.stages}
    network = time["read"] + time["load"]
    return {
        f"cpu_share/transforms/{model}": 100 * sum(time.get(kind, 0) for kind in TRANSFORMS),
        f"cpu_share/normalising/{model}": 100 * sum(time.get(kind, 0) for kind in NORMALISING),
        f"cpu_share/bucketize/{model}": 100 * time.get("bucketize", 0),
        f"cpu_share/network/{model}": 100 * network,
    }


def _mean(figures: Figures, key: str, models: Sequence[str]) -> Figures:
    values = [figures[f"{key}/{model}"] for model in models]
    return {f"{key}/mean": sum(values) / len(values), f"{key}/max": max(values), f"{key}/min": min(values)}


def _compared(
    f: Figures, runs: Mapping[tuple[str, str], UnitRun], models: Sequence[str], core_watts: float
) -> Figures:
    found: Figures = {}
    for m in models:
        ssd, core = f[f"latency_ms/smartssd/{m}"], f[f"latency_ms/cpu/{m}"]
        found[f"speed_up/{m}"] = core / ssd
        found[f"over_a100/{m}"] = f[f"latency_ms/gpu/{m}"] / ssd
        found[f"over_u280/{m}"] = f[f"latency_ms/u280/{m}"] / ssd
        found[f"cores_per_unit/{m}"] = core / f[f"period_ms/smartssd/{m}"]
        found[f"samples_per_s/{m}"] = runs["smartssd", m].samples / f[f"period_ms/smartssd/{m}"] * 1e3
        watts = runs["smartssd", m].unit.power_w.value
        found[f"energy/{m}"] = found[f"cores_per_unit/{m}"] * core_watts / watts
        steps = runs["smartssd", m].steps_ps
        for step, ps in steps.items():
            found[f"{step}_percent/{m}"] = 100 * ps / sum(steps.values())
        found[f"rpc_less/{m}"] = _rpc(runs["cpu", m]) / _rpc(runs["smartssd", m])
        u280 = runs["u280", m]
        computed = sum(s.time_ps for s in _alone(u280))
        found[f"u280_copy_percent/{m}"] = 100 * (1 - computed / u280.time_ps)
    for name in (
        "speed_up", "over_a100", "over_u280", "cores_per_unit", "energy", "extract_percent", "rpc_less",
        "u280_copy_percent",
    ):  # fmt: skip
        found |= _mean(found, name, models)
    for name in ("cpu_share/transforms", "cpu_share/normalising", "cpu_share/network"):
        found |= _mean(f, name, models)
    largest, smallest = (f[f"latency_ms/cpu/{m}"] for m in (models[-1], models[0]))
    return found | {"cpu_last_over_first": largest / smallest}


def _alone(run: UnitRun) -> list[Any]:
    """Stages that take the time that copies leave: of each step, the one that takes longest."""
    decode = [s for s in run.stages if s.name == "parquet_decode"]
    rest = [s for s in run.stages if s.where in run.unit.pipelines.values() and s.name != "parquet_decode"]
    return [*decode, max(rest, key=lambda s: s.time_ps)]


def _rpc(run: UnitRun) -> int:
    """Time of transfers over the network."""
    network = run.unit.out_link
    return sum(s.time_ps for s in run.stages if s.where == network and s.name in ("read", "load"))


def _cores(
    core: Preprocessor, costs: Mapping[str, float], f: Figures, models: Sequence[str], rows: int, seed: int,
    counts: Sequence[int],
) -> Figures:  # fmt: skip
    """Throughput of several cores behind one port of the storage node."""
    found: Figures = {}
    for m in models:
        graph, label = graph_of_model(m, rows, seed)
        one_ps = _period_ps(core, core_system(core, costs), graph, label, 1)
        for n in counts:
            period_ps = _period_ps(core, core_system(core, costs, n), graph, label, n)
            found[f"cores_over_one/{n}/{m}"] = one_ps / period_ps
            found[f"cores_over_unit/{n}/{m}"] = f[f"period_ms/smartssd/{m}"] * 1e9 / period_ps
    for n in counts:
        found |= _mean(found, f"cores_over_unit/{n}", models)
    return found


def _period_ps(core: Preprocessor, system: System, graph: Graph, label: str | None, n: int) -> float:
    """From one mini-batch of n cores to the next, after a round in which they fall out of step."""
    rounds = 5
    many = core.model_copy(update={"in_flight": n})
    program = lower_whole(graph, rounds * n, many, system, label=label)
    report = run(program, system)
    ends = sorted(
        end
        for task, end in zip(program.tasks, report.schedule.end, strict=True)
        if task.name.endswith("load")
    )
    return (ends[-1] - ends[n - 1]) / ((rounds - 1) * n)


def _money(
    f: Figures, models: Sequence[str], node_cores: int, node_watts: float, node_dollars: float,
    unit_dollars: float, years: float, kwh: float,
) -> Figures:  # fmt: skip
    """Throughput by dollar of hardware and electricity, over cores."""

    def owned(dollars: float, watts: float) -> float:
        return dollars + watts / 1000 * HOURS_A_YEAR * years * kwh

    unit = owned(unit_dollars, load_preprocessor("smartssd").power_w.value)
    core = owned(node_dollars, node_watts) / node_cores
    found = {f"cost/{m}": f[f"cores_per_unit/{m}"] * core / unit for m in models}
    return found | _mean(found, "cost", models)


def p2p_curve(unit: Preprocessor, read_kib: Sequence[int], write_kib: Sequence[int]) -> Figures:
    """GB/s of blocking transfers between drive and FPGA, by KiB."""
    actions = load_processor("smartssd-worker").actions
    found: Figures = {}
    for way, sizes in (("read", read_kib), ("write", write_kib)):
        link = load_link(f"smartssd-p2p-{way}")
        for kib in sizes:
            size = kib * 1024
            time = blocking_request_ps(
                link, size, actions[f"{way}_request"].value, actions["page"].value,
                unit.page_bytes, unit.request_bytes,
            )  # fmt: skip
            found[f"p2p_{way}/{kib}K"] = size / time * 1e3
    return found
