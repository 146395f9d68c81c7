"""Points of studies: figures of a step are of the steps behind the first, and agree with each other."""

from itertools import pairwise

import numpy as np
import pytest

from neardata.results import record
from neardata.study import Study, run_point

POLICIES = [
    {"policy": "on-demand"},
    {"policy": "on-demand", "wait": "each"},
    {"policy": "prefetch-all"},
    {"policy": "pre-gated"},
    {"policy": "cached", "capacity": 32, "start": "empty"},
    {"policy": "cached", "capacity": 70, "cache": "lfu", "wait": "each"},
    {"policy": "cached", "capacity": 70, "cache": "score", "start": "popular"},
    {"policy": "cpu-cold", "capacity": 20},
    {"policy": "hybrid", "capacity": 70},
    {"policy": "hybrid", "capacity": 32, "start": "empty", "guarded": True},
]


def named(policy):
    return ",".join(str(value) for value in policy.values())


def study(policy, steps=4, **keys):
    mapping = {"steps": steps, "experts": policy}
    return Study.model_validate({
        "title": "small", "model": "olmoe-1b-7b", "context": 64, "layers": 2,
        "systems": {"A6000": {"system": "a6000-xeon-5220r", "mapping": mapping}}, **keys,
    })  # fmt: skip


@pytest.fixture
def same_experts(tmp_path):
    """A trace in which all tokens choose the same eight experts."""
    path = tmp_path / "same.npz"
    np.savez(path, ids=np.broadcast_to(np.arange(8), (64, 2, 8)))
    return str(path)


@pytest.mark.parametrize("policy", POLICIES, ids=named)
@pytest.mark.parametrize("routing", ["uniform", "zipf:1.2", None])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_no_step_takes_less_than_its_roofline(policy, routing, steps, same_experts):
    given = study(policy, steps, routing=routing or same_experts)
    point = run_point(given, "A6000", 1)
    assert 0 < point.bound_ps <= point.step_ps
    assert 0 <= record(point, given)["experts"]["link_busy"] <= 1


def test_the_cold_step_is_in_none_of_the_figures(same_experts):
    """Nothing is fetched after the first step: the link is idle then, and the energy that of a warm run."""
    cold = {"policy": "cached", "capacity": 32, "start": "empty"}
    points = {n: run_point(study(cold, n, routing=same_experts), "A6000", 1) for n in (2, 4)}
    (warm,) = [
        run_point(study({**cold, "start": "even"}, n, routing=same_experts), "A6000", 1) for n in (4,)
    ]
    for point in points.values():
        told = record(point, study(cold))["experts"]
        assert told["hit_rate"] == 1 and told["link_busy"] == 0 and "links" not in point.energy_pj
        assert sum(point.energy_pj.values()) == pytest.approx(sum(warm.energy_pj.values()), rel=1e-3)
        assert point.bound_ps == pytest.approx(warm.bound_ps, rel=1e-3)


def test_fetches_in_every_step_are_in_the_figures(same_experts):
    given = study({"policy": "on-demand"}, routing=same_experts)
    point = run_point(given, "A6000", 1)
    assert point.energy_pj["links"] > 0 and record(point, given)["experts"]["link_busy"] > 0.8


def test_of_steps_that_are_alike_the_mean_is_each_ones():
    """Without a policy the steps repeat the first: energies of two and of five are the same."""
    base = study("split").model_dump()
    energies, bounds = [], []
    for steps in (1, 2, 5):
        base["systems"] = {
            "AiM": {"system": "aim", "mapping": {"on_pim": "everything", "pipeline": "all", "steps": steps}}
        }
        point = run_point(Study.model_validate(base), "AiM", 4)
        energies.append(sum(point.energy_pj.values()))
        bounds.append(point.bound_ps)
    assert energies[1:] == pytest.approx([energies[0]] * 2, rel=1e-3)
    assert all(a == pytest.approx(b, rel=1e-3) for a, b in pairwise(bounds))
