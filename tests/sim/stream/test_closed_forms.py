"""What a pipeline takes where a formula tells it, and what ends a run that cannot go on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from neardata.arch.errors import InputError
from neardata.arch.stream import Pipeline, load_fpga, load_pipeline
from neardata.sim.stream import engine, resource_use, run_stream
from neardata.sim.stream import pipeline_kernel as k

BASIS = {"basis": "assumed", "source": "made up"}


def pipeline(stages: dict[str, dict[str, Any]], fifos: dict[str, dict[str, Any]] | None = None, **more: Any):
    """Stages by their timing (and ``memory`` ...); one clock of 100 MHz unless told otherwise."""
    rest = ("memory", "resources", "clock", "energy", "consume")
    return Pipeline.model_validate(
        {
            "name": "made-up", "kind": "pipeline", "title": "", "source": "",
            "clocks": {"fabric": {"mhz": 100, **BASIS}},
            "stages": {
                name: {
                    "timing": {**{key: v for key, v in given.items() if key not in rest}, **BASIS},
                    **{key: v for key, v in given.items() if key in rest},
                }
                for name, given in stages.items()
            },
            "fifos": fifos or {},
            **more,
        }
    )  # fmt: skip


@pytest.mark.parametrize(("interval", "depth", "lanes"), [(1, 1, 1), (1, 40, 1), (3, 7, 1), (4, 2, 8)])
@pytest.mark.parametrize("items", [1, 2, 17, 1000])
def test_one_stage(interval: int, depth: int, lanes: int, items: int) -> None:
    p = pipeline({"only": {"initiation_interval": interval, "depth": depth, "lanes": lanes}})
    initiations = -(-items // lanes)
    report = run_stream(p, items)
    assert report.cycles == (initiations - 1) * interval + depth
    assert report.time_ps == report.cycles * 10_000
    busy = (initiations - 1) * interval + min(interval, depth)
    assert report.stages["only"].busy == min(busy, report.cycles)


@pytest.mark.parametrize("slow", [0, 1, 2])
def test_a_chain_fills_once_and_goes_at_the_pace_of_its_bottleneck(slow: int) -> None:
    depths, intervals = (5, 11, 3), [1, 1, 1]
    intervals[slow] = 4
    stages = {
        f"s{i}": {"depth": d, "initiation_interval": n}
        for i, (d, n) in enumerate(zip(depths, intervals, strict=True))
    }
    fifos = {f"f{i}": {"between": [f"s{i}", f"s{i + 1}"], "capacity": 4} for i in range(2)}
    report = run_stream(pipeline(stages, fifos), 500)
    assert report.cycles == sum(depths) + 499 * 4
    assert report.binding == f"s{slow}"
    assert report.stages[f"s{slow}"].busy == 2000 - 4 + min(4, depths[slow])  # it ends with the last result
    for i in range(slow):  # those before it are held up, those after it wait
        assert report.stages[f"s{i}"].blocked > 1000 > report.stages[f"s{i}"].starved
    for i in range(slow + 1, 3):
        assert report.stages[f"s{i}"].starved > 1000 and report.stages[f"s{i}"].blocked == 0


@pytest.mark.parametrize("produce", [1, 3, 8])
def test_a_stage_that_emits_more_than_it_takes_sets_the_pace_of_the_next(produce: int) -> None:
    p = pipeline(
        {"decode": {"depth": 2}, "hash": {"depth": 9}},
        {"values": {"between": ["decode", "hash"], "capacity": 2 * produce, "produce": produce}},
    )
    report = run_stream(p, 100)
    assert report.cycles == 2 + 9 + 100 * produce - 1
    assert report.fifos["values"].items == 100 * produce == report.firings["hash"]


def test_a_filter_passes_what_its_property_says() -> None:
    kept = np.arange(100) % 3 == 0
    p = pipeline(
        {"filter": {"depth": 2}, "hash": {"depth": 9, "initiation_interval": 2}},
        {"kept": {"between": ["filter", "hash"], "capacity": 4, "produce": "keep"}},
    )
    report = run_stream(p, 100, properties={"keep": kept.astype(int)})
    assert report.firings == {"filter": 100, "hash": int(kept.sum())} and report.fifos["kept"].items == 34


@pytest.mark.parametrize(("blocks", "cycles"), [(1, 10 * (8 + 8)), (2, 8 + 10 * 8), (3, 8 + 10 * 8)])
def test_a_ping_pong_buffer_lets_load_and_compute_overlap(blocks: int, cycles: int) -> None:
    """Ten blocks of eight items, a cycle an item on either side."""
    p = pipeline(
        {"load": {"depth": 1}, "compute": {"depth": 1}},
        {"buffer": {"between": ["load", "compute"], "capacity": 8 * blocks, "block": 8}},
    )
    assert run_stream(p, 80).cycles == cycles


def test_a_fifo_of_one_item_hands_over_every_other_cycle() -> None:
    """Written in one cycle, seen and read in the next, free in the one after."""
    stages = {"a": {"depth": 1}, "b": {"depth": 1}}
    for capacity, cycles in ((1, 2 * 99 + 2), (2, 99 + 2)):
        p = pipeline(stages, {"f": {"between": ["a", "b"], "capacity": capacity}})
        assert run_stream(p, 100).cycles == cycles


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("dispatch", ["round-robin", "shared-queue"])
def test_replicas_divide_the_work(count: int, dispatch: str) -> None:
    p = pipeline(
        {"only": {"depth": 12, "initiation_interval": 10}}, replicas={"count": count, "dispatch": dispatch}
    )
    assert run_stream(p, 100).cycles == (100 // count - 1) * 10 + 12


def test_uneven_items_go_better_through_one_queue_than_in_turn() -> None:
    work = np.array([100, 1, 100, 1, 100, 1, 100, 1])
    stages = {"only": {"depth": 1, "cost": {"property": "work"}}}
    cycles = {}
    for dispatch in ("round-robin", "shared-queue"):
        p = pipeline(stages, replicas={"count": 2, "dispatch": dispatch})
        cycles[dispatch] = run_stream(p, 8, properties={"work": work}).cycles
    assert cycles == {"round-robin": 400, "shared-queue": 202}


def test_the_least_loaded_replica_gets_the_next_arrival() -> None:
    """In turn, the third item waits behind the first; the second replica is free by then."""
    stages = {"only": {"depth": 1, "cost": {"property": "work"}}}
    arrivals = [0, 10_000, 200_000]  # cycles 0, 1 and 20
    waits = {}
    for dispatch in ("round-robin", "least-loaded"):
        p = pipeline(stages, replicas={"count": 2, "dispatch": dispatch})
        report = run_stream(p, 3, properties={"work": [50, 5, 5]}, arrivals_ps=arrivals, latencies=True)
        assert report.finish_ps is not None
        waits[dispatch] = [int(t) for t in (report.finish_ps - arrivals) // 10_000]
    assert waits == {"round-robin": [50, 5, 35], "least-loaded": [50, 5, 5]}


def test_a_port_gives_its_rate_and_hides_its_latency_behind_outstanding_reads() -> None:
    # 32 bytes a cycle, an answer after 10 and a depth of 1 from there
    port = {"ddr": {"gb_per_s": 3.2, "latency_ns": 100, **BASIS}}
    for outstanding, cycles in ((1, 100 * (2 + 10 + 1)), (7, 100 * 2 + 10 + 1), (64, 100 * 2 + 10 + 1)):
        memory = {"port": "ddr", "read_bytes": 64, "outstanding": outstanding}
        report = run_stream(pipeline({"load": {"depth": 1, "memory": memory}}, ports=port), 100)
        assert report.cycles == cycles
        assert report.port_bytes == {"ddr": 6400} and report.bound_by == "port ddr"
        assert report.bound_ps == 100 * 2 * 10_000


def test_two_stages_share_a_port() -> None:
    memory = {"port": "ddr", "read_bytes": 64, "outstanding": 32}
    stages = {"left": {"depth": 1, "memory": memory}, "right": {"depth": 1, "memory": memory}}
    port = {"ddr": {"gb_per_s": 6.4, "latency_ns": 0, **BASIS}}
    assert run_stream(pipeline(stages, ports=port), 100).cycles == 200 + 1


def test_a_fast_clock_waits_for_a_slow_one() -> None:
    p = pipeline(
        {"slow": {"depth": 3, "clock": "slow"}, "fast": {"depth": 3, "clock": "fast"}},
        {"f": {"between": ["slow", "fast"], "capacity": 8}},
        clocks={"slow": {"mhz": 100, **BASIS}, "fast": {"mhz": 300, **BASIS}},
    )
    report = run_stream(p, 1000)
    assert report.time_ps == (999 + 3) * 10_000 + 10_000  # three fast cycles after the last slow one
    assert report.cycles == 1003
    assert report.stages["fast"].total == 3 * report.stages["slow"].total


def test_a_join_behind_a_short_fifo_deadlocks_and_says_who_waits() -> None:
    """``batch`` gives nothing before it has 8 items, but ``short`` holds 4 for the join meanwhile."""
    p = pipeline(
        {name: {"depth": 1} for name in ("fork", "batch", "join")},
        {
            "long": {"between": ["fork", "batch"], "capacity": 16, "consume": 8},
            "summed": {"between": ["batch", "join"], "capacity": 16, "produce": 8},
            "short": {"between": ["fork", "join"], "capacity": 4},
        },
    )
    with pytest.raises(InputError, match="deadlock in cycle") as caught:
        run_stream(p, 64)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(
        "fork has no room in short; join waits for items in summed; batch waits for items in long"
    )
    p = pipeline_with(p, "short", capacity=8)
    assert run_stream(p, 64).firings["join"] == 64


def pipeline_with(p: Pipeline, fifo: str, **changes: Any) -> Pipeline:
    return p.model_copy(update={"fifos": {**p.fifos, fifo: p.fifos[fifo].model_copy(update=changes)}})


def test_stages_in_a_circle_deadlock() -> None:
    p = pipeline(
        {name: {"depth": 1} for name in ("in", "a", "b")},
        {
            "start": {"between": ["in", "a"], "capacity": 4},
            "there": {"between": ["a", "b"], "capacity": 4},
            "back": {"between": ["b", "a"], "capacity": 4},
        },
    )
    with pytest.raises(InputError, match="a -> b -> a: a waits for items in back; b waits for items"):
        run_stream(p, 10)


def test_inputs_of_a_join_must_match() -> None:
    p = pipeline(
        {name: {"depth": 1} for name in ("fork", "join")},
        {
            "one": {"between": ["fork", "join"], "capacity": 4},
            "two": {"between": ["fork", "join"], "capacity": 4, "produce": 2},
        },
    )
    with pytest.raises(InputError, match="'join' is given unequal inputs: firings 10 from one, 20 from two"):
        run_stream(p, 10)


def test_a_lost_item_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    p = load_pipeline("presto-sparse")
    run_kernel = k.run

    def losing(*arguments: Any) -> int:
        status = run_kernel(*arguments)
        arguments[9][0, k.WRITTEN] -= 1
        return int(status)

    monkeypatch.setattr(k, "run", losing)
    with pytest.raises(RuntimeError, match="FIFO ids: 799 items written, 800 read"):
        run_stream(p, 100)


def test_what_does_not_fit_is_told_with_how_many_replicas_would() -> None:
    with pytest.raises(InputError, match="smartssd-vitis: DSP 127 %; 9 replicas would fit, not 12"):
        run_stream(load_pipeline("presto-log", {"replicas.count": 12}), 10, fpga=load_fpga("smartssd-vitis"))
    with pytest.raises(InputError, match=r"BRAM 151 %, DSP 112 %; not even one replica fits"):
        need = {"bram": 151, "dsp": 112, **BASIS}
        fpga = load_fpga("smartssd", {"bram.value": 100, "dsp.value": 100})
        resource_use(pipeline({"big": {"depth": 1, "resources": need}}), fpga)
    for name in ("presto-decode", "presto-bucketize", "presto-sigridhash", "presto-log"):
        resource_use(load_pipeline(name), load_fpga("smartssd-vitis"))


def test_preba_units_are_the_totals_of_the_paper() -> None:
    """Table 1 of arXiv 2411.19114: the totals, rows and what no row accounts for."""
    totals = {"preba-image": (44.5, 16.5, 19.3, 22.5, 17.8), "preba-audio": (45.9, 26.9, 23.3, 45.0, 35.5)}
    for name, total in totals.items():
        use = resource_use(load_pipeline(name), load_fpga("u55c"))
        assert tuple(round(v or 0, 6) for v in use.total.values()) == pytest.approx(total)


def test_energy_is_told_only_where_it_is_given() -> None:
    energy = {"pj_per_firing": 2.5, **BASIS}
    p = pipeline(
        {"a": {"depth": 1, "energy": energy}, "b": {"depth": 1}},
        {"f": {"between": ["a", "b"], "capacity": 2}},
    )
    report = run_stream(p, 100)
    assert report.energy_pj == {"a": 250.0} and report.energy_untold == ("b",)
    assert run_stream(load_pipeline("presto-log"), 10).energy_pj is None


def test_latency_percentiles_are_of_the_items() -> None:
    p = pipeline({"only": {"depth": 3}})
    report = run_stream(p, 4, arrivals_ps=[0, 0, 0, 1_000_000], latencies=True)
    assert [report.latency_ns(q) for q in (25, 50, 75, 100)] == [30, 30, 40, 50]
    with pytest.raises(ValueError, match="latencies"):
        run_stream(p, 4).latency_ns(50)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"properties": {"wrk": [1]}}, "no stage uses the property 'wrk'; did you mean work"),
        ({"properties": {}}, "stage 'only' needs the property 'work', which is not given"),
        ({"properties": {"work": [1, 2]}}, "property 'work' has 2 values, but 'only' fires 3 times"),
        ({"properties": {"work": [1, 2, 2.5]}}, "property 'work' must be whole numbers"),
        ({"properties": {"work": [1, 2, -1]}}, "property 'work' must be from 0"),
        ({"arrivals_ps": [0, 5]}, "there are 2 arrivals for 3 items"),
        ({"arrivals_ps": [0, 5, 4]}, "arrivals must be in order"),
        ({"fidelity": "cycles"}, "unknown fidelity 'cycles'; did you mean cycle"),
    ],
)
def test_bad_input_is_one_line(change: dict[str, Any], problem: str) -> None:
    p = pipeline({"only": {"depth": 1, "cost": {"property": "work"}}})
    with pytest.raises(InputError, match=problem):
        run_stream(p, 3, **{"properties": {"work": [1, 1, 1]}, **change})


def test_a_long_run_is_counted_or_refused() -> None:
    p = pipeline({"only": {"depth": 1, "initiation_interval": 1 << 20}})
    assert run_stream(p, 1 << 38).cycles == ((1 << 38) - 1 << 20) + 1
    with pytest.raises(InputError, match="too long"):
        run_stream(pipeline({"only": {"depth": 1, "initiation_interval": 1 << 30}}), 1 << 40)


def test_state_needs_no_jump_where_costs_differ() -> None:
    p = pipeline({"only": {"depth": 1, "cost": {"property": "work"}}})
    layout = engine.lay_out(p, 1000, {"work": np.full(1000, 2)})
    state = engine.simulate(layout, np.zeros(0, np.int64))
    assert state.r[k.JUMPED_PERIODS] == 0 and state.r[k.R_END] == 2000


@pytest.mark.parametrize("rate", [0.7, 2.36, 3.7, 14.375])
@pytest.mark.parametrize("outstanding", [1, 4, 64])
def test_a_port_whose_bytes_take_no_whole_cycles_is_jumped_exactly(rate: float, outstanding: int) -> None:
    memory = {"port": "ddr", "read_bytes": 64, "outstanding": outstanding}
    port = {"ddr": {"gb_per_s": rate, "latency_ns": 35, **BASIS}}
    p = pipeline({"load": {"depth": 1, "memory": memory}}, ports=port)
    plain, jumped = (run_stream(p, 30_000, jump=jump) for jump in (False, True))
    assert jumped.jumped_periods > 0
    assert (plain.time_ps, plain.stages) == (jumped.time_ps, jumped.stages)
