"""Random streaming pipelines for hypothesis: every construct, small numbers."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from neardata.arch.stream import Pipeline

BASIS = {"basis": "assumed", "source": "drawn"}


@st.composite
def pipelines(
    draw: st.DrawFn, *, properties: bool = True, replicas: bool = True, memory: bool = False
) -> Pipeline:
    """Chains with forks and joins; properties are called ``cost`` and ``made``."""
    number = st.integers
    clocks = {"a": {"mhz": draw(st.sampled_from([100, 200, 223])), **BASIS}}
    if draw(st.booleans()):
        clocks["b"] = {"mhz": draw(st.sampled_from([150, 300, 62.5])), **BASIS}
    ports: dict[str, Any] = {}
    for i in range(draw(number(int(memory), 2))):
        ports[f"p{i}"] = {
            "gb_per_s": draw(st.sampled_from([0.8, 1.6, 2.36, 12.8])), "latency_ns": draw(number(0, 60)),
            "channels": draw(number(1, 2)), "device": draw(st.sampled_from(["ddr4-2400r", "hbm2-2000"])),
            **BASIS,
        }  # fmt: skip
    n = draw(number(1, 5))
    names = [f"s{i}" for i in range(n)]
    stages: dict[str, Any] = {}
    for name in names:
        timing: dict[str, Any] = {
            "initiation_interval": draw(number(1, 3)), "depth": draw(number(1, 6)),
            "lanes": draw(st.sampled_from([1, 1, 2, 3])), **BASIS,
        }  # fmt: skip
        stage: dict[str, Any] = {"timing": timing, "clock": draw(st.sampled_from(sorted(clocks)))}
        if ports and (draw(number(0, 3)) == 0 or (memory and name == "s0")):
            stage["memory"] = {
                "port": draw(st.sampled_from(sorted(ports))), "outstanding": draw(number(1, 4)),
                "read_bytes": draw(st.sampled_from([0, 8, 64])),
                "write_bytes": draw(st.sampled_from([4, 32])),
            }  # fmt: skip
        stages[name] = stage
    if properties and draw(st.booleans()):
        cost = {"property": "cost", "per_unit": draw(st.sampled_from([1, 0.5])), "base": draw(number(0, 2))}
        stages["s0"]["timing"]["cost"] = cost
    fifos: dict[str, Any] = {}

    def connect(a: str, b: str, plain: bool) -> None:
        produce: Any = 1 if plain else draw(number(1, 3))
        consume = 1 if plain else draw(number(1, 3))
        if not plain and properties and a == "s0" and draw(number(0, 2)) == 0:
            produce = "made"
        block = draw(st.sampled_from([1, 1, 2, 4]))
        most = 3 if produce == "made" else produce
        least = max(stages[a]["timing"]["lanes"] * most, stages[b]["timing"]["lanes"] * consume, block)
        capacity = -(-(least + draw(number(0, 6))) // block) * block
        fifos[f"f{len(fifos)}"] = {
            "between": [a, b], "produce": produce, "consume": consume, "block": block, "capacity": capacity,
            "latency": draw(number(0, 2)),
        }  # fmt: skip

    copies = draw(number(2, 3)) if replicas and draw(number(0, 2)) == 0 else 1
    fork = n >= 4 and draw(st.booleans())
    for i in range(1, n):
        if fork and i < 4:
            continue
        connect(names[i - 1], names[i], copies > 1)
    if fork:  # s0 -> s1, s2 -> s3
        for a, b in (("s0", "s1"), ("s0", "s2"), ("s1", "s3"), ("s2", "s3")):
            connect(a, b, plain=True)
    dispatch = draw(st.sampled_from(["round-robin", "least-loaded", "shared-queue"]))
    return Pipeline.model_validate(
        {
            "name": "drawn", "kind": "pipeline", "title": "drawn", "source": "drawn", "clocks": clocks,
            "ports": ports, "stages": stages, "fifos": fifos,
            "replicas": {"count": copies, "dispatch": dispatch},
        }
    )  # fmt: skip
