"""Points of studies: figures of a step are of the steps behind the first, and agree with each other."""

from itertools import pairwise

import numpy as np
import pytest

from neardata.cli.run_report import in_words
from neardata.fingerprint import digest, fingerprint
from neardata.results import record
from neardata.step_routing import routings_of
from neardata.study import Study, run_point
from neardata.workloads.llm.model import load_model

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


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


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
    (warm,) = [run_point(study({**cold, "start": "even"}, n, routing=same_experts), "A6000", 1) for n in (4,)]
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


# --- who is chosen ------------------------------------------------------------------------------------


@pytest.mark.parametrize("routing", ["uniform", "zipf:1.2", "measured:coding"])
def test_all_policies_of_a_study_run_on_the_same_tokens(routing):
    """Whatever the number of steps, and whether it is asked who is popular."""
    model = load_model("qwen3-30b-a3b")
    given = study("split", model="qwen3-30b-a3b", routing=routing)
    runs = [routings_of(given, model, steps, 2) for steps in (3, 9)]
    for parts in zip(*runs, strict=True):  # what runs, what is profiled
        few, many = ([r.counts(1, 2, 128, 8).tolist() for r in part] for part in parts)
        assert len(few) >= 3 and few == many[: len(few)]
    run, other = runs[0]
    assert len(other) == 32
    assert not {tuple(r.counts(0, 2, 128, 8)) for r in run} & {tuple(r.counts(0, 2, 128, 8)) for r in other}


def test_popular_experts_are_those_of_the_tokens_before():
    """The order of the steps: adjacent ones of a drawn sequence are more alike than distant ones."""
    given = study("split", model="qwen3-30b-a3b", routing="measured:coding")
    run, before = routings_of(given, load_model("qwen3-30b-a3b"), 2, 64)

    def alike(one, other):
        a, b = (r.counts(0, 64, 128, 8).astype(float) for r in (one, other))
        return float(a @ b)

    assert alike(run[0], before[-1]) > alike(run[0], before[0])


@pytest.mark.parametrize("phase, batch", [("decode", 4), ("decode", 16), ("prefill", 8)])
def test_balanced_experts_take_less_time_where_tokens_choose_alike(phase, batch):
    """By the load of other steps. A trace whose first experts are the popular ones is the plain case."""
    draw = np.random.default_rng(0)
    weight = 1.0 / np.arange(1, 65)
    tokens = 4 * batch * (64 if phase == "prefill" else 1)
    scores = np.log(weight) + draw.gumbel(size=(tokens, 2, 64))
    np.savez("skewed.npz", ids=np.argsort(-scores, axis=2)[:, :, :8])
    times = {}
    for experts in ("spread", "balanced"):
        given = study("split", 1, routing="skewed.npz", phase=phase).model_dump()
        given["systems"] = {
            "a": {"system": "a100", "units": {"gpu": 4}, "mapping": {"experts": experts, "on_pim": "nothing"}}
        }
        times[experts] = run_point(Study.model_validate(given), "a", batch).step_ps
    print(times)
    assert times["balanced"] < 0.97 * times["spread"]


# --- what a result is known by ------------------------------------------------------------------------


def test_a_digest_changes_with_a_file_its_name_and_place(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "sub" / "b.yaml").write_text("2")
    seen = [digest([tmp_path], (".py", ".yaml"))]
    (tmp_path / "note.txt").write_text("of no account")
    assert digest([tmp_path], (".py", ".yaml")) == seen[0] != digest([tmp_path])
    for change in (
        lambda: (tmp_path / "a.py").write_text("3"),
        lambda: (tmp_path / "sub" / "b.yaml").write_text("4"),
        lambda: (tmp_path / "a.py").rename(tmp_path / "c.py"),
        lambda: (tmp_path / "c.py").rename(tmp_path / "sub" / "c.py"),
        lambda: (tmp_path / "sub" / "c.py").unlink(),
    ):
        change()
        seen.append(digest([tmp_path], (".py", ".yaml")))
    assert len(set(seen)) == len(seen)


def test_a_result_of_another_trace_in_the_same_folder_is_not_taken_for_this_ones(tmp_path):
    def told():
        return fingerprint(given, given.systems["A6000"], 1, "code")

    (tmp_path / "layer_00.parquet").write_bytes(b"one")
    given = study("split", routing=str(tmp_path))
    seen = [told()]
    (tmp_path / "layer_00.parquet").write_bytes(b"two")
    seen.append(told())
    (tmp_path / "layer_00.parquet").rename(tmp_path / "layer_01.parquet")
    seen.append(told())
    assert len(set(seen)) == 3


# --- what is told -------------------------------------------------------------------------------------


def test_a_difference_without_a_reason_is_told_so():
    part = {"name": "experts", "critical_ns": 100.0}
    one = {"label": "a", "batch": 1, "step_ns": 100.0, "run_ns": 100.0, "parts": [part], "units": {"gpu": 1},
           "tokens_per_s": 1e7, "energy_pj_per_token": 1.0}  # fmt: skip
    other = {**one, "label": "b", "tokens_per_s": 1.001e7, "step_ns": 99.9, "run_ns": 99.9,
             "parts": [{**part, "critical_ns": 99.9}]}  # fmt: skip
    two = Study.model_validate(
        {"title": "t", "model": "olmoe-1b-7b", "systems": {n: {"system": "a100"} for n in "ab"}}
    )
    told = in_words(two, [one, other])
    assert "1.00x a (1 gpu): no part of the step stands out. a takes the least energy" in told
    slow = {**one, "parts": [{**part, "critical_ns": 90.0}], "tokens_per_s": 2e7, "label": "b"}
    assert "2.00x a (1 gpu): experts 0.0001 to 9e-05 ms." in in_words(two, [one, slow])
