"""Streaming pipelines: items a CPU second, with and without the jump over periods.

    python benchmarks/stream.py [-n ITEMS]

Compiled before, best of three. *plain*: every tick at which a stage can act is looked at; *jump*: a
state that recurs is found and whole periods are skipped. The cycles must be the same. *costs*: the
same chain with a data-dependent cost in its middle, which has no jump. *dram*: with the port
simulated request by request; *turns* of the two engines until no request moves.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from neardata.arch.stream import Pipeline, load_pipeline
from neardata.sim.stream import StreamReport, run_stream

BASIS = {"basis": "assumed", "source": "a benchmark"}


def chain(stages: int, *, replicas: int = 1, cost: bool = False) -> Pipeline:
    """Stages of one cycle an item; ``cost``: the middle one takes the cycles of a property."""
    timings: list[dict[str, Any]] = [{"depth": 4 + i, **BASIS} for i in range(stages)]
    if cost:
        timings[stages // 2]["cost"] = {"property": "cycles"}
    return Pipeline.model_validate(
        {
            "name": f"chain of {stages}", "kind": "pipeline", "title": "", "source": "",
            "clocks": {"fabric": {"mhz": 250, **BASIS}},
            "stages": {f"s{i}": {"timing": timing} for i, timing in enumerate(timings)},
            "fifos": {
                f"f{i}": {"between": [f"s{i}", f"s{i + 1}"], "capacity": 16} for i in range(stages - 1)
            },
            "replicas": {"count": replicas},
        }
    )  # fmt: skip


def best(run: Callable[[], StreamReport]) -> tuple[StreamReport, float]:
    """The report and the CPU seconds of the fastest of three."""
    taken = []
    for _ in range(3):
        start = time.process_time()
        report = run()
        taken.append(time.process_time() - start)
    return report, min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=1_000_000, help="items")
    items = parser.parse_args().n
    run_stream(load_pipeline("presto-sparse"), 1000)  # compiles
    cases = [
        (load_pipeline("presto-log"), items),
        (chain(4), items),
        (chain(8), items),
        (chain(4, replicas=8), items),
        (load_pipeline("presto-sparse"), items // 8),
    ]
    print(f"{'':24}{'items':>12}{'cycles':>14}{'plain':>14}{'jump':>12}{'jump, 10^9 items':>20}")
    print(f"{'':24}{'':>12}{'':>14}{'M items/s':>14}{'ms':>12}{'ms':>20}")
    for pipeline, n in cases:
        plain, plain_s = best(lambda p=pipeline, n=n: run_stream(p, n, jump=False))  # type: ignore[misc]
        jumped, jump_s = best(lambda p=pipeline, n=n: run_stream(p, n))  # type: ignore[misc]
        _, long_s = best(lambda p=pipeline: run_stream(p, 10**9))  # type: ignore[misc]
        if (plain.cycles, plain.stages, plain.fifos) != (jumped.cycles, jumped.stages, jumped.fifos):
            raise SystemExit(f"{pipeline.name}: the jump changes the result")
        copies = pipeline.replicas.count
        name = pipeline.name + (f" x {copies}" if copies > 1 else "")
        print(
            f"{name:24}{n:12,}{plain.cycles:14,}{n / plain_s / 1e6:14.2f}{jump_s * 1e3:12.2f}"
            f"{long_s * 1e3:20.2f}"
        )
    rng = np.random.default_rng(1)
    for low, high in ((1, 3), (50, 150)):
        values = rng.integers(low, high + 1, items)
        report, seconds = best(
            lambda values=values: run_stream(  # type: ignore[misc]
                chain(4, cost=True), items, properties={"cycles": values}
            )
        )
        name = f"costs {low} to {high}"
        print(f"{name:24}{items:12,}{report.cycles:14,}{items / seconds / 1e6:14.2f}")
    for lanes, n in ((1, 10_000), (16, 2_000)):
        changes = {f"stages.{stage}.timing.lanes": lanes for stage in ("decode", "sigridhash")}
        pipeline = load_pipeline("presto-sparse", changes)
        run_stream(pipeline, 100, fidelity="cycle")
        report, seconds = best(lambda p=pipeline, n=n: run_stream(p, n, fidelity="cycle"))  # type: ignore[misc]
        name = f"dram, {lanes} lane{'s' if lanes > 1 else ''}"
        print(f"{name:24}{n:12,}{report.cycles:14,}{n / seconds / 1e6:14.4f}   {report.memory_turns} turns")


if __name__ == "__main__":
    main()
