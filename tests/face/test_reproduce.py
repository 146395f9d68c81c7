"""Studies of papers: what must come out, honest verdicts, and a report that is up to date."""

import doctest
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import neardata.claims
import neardata.reproduction
from naive.schedule import schedule as naive_schedule
from neardata import study_models
from neardata.arch.errors import InputError
from neardata.claims import Claim, judge
from neardata.reproduction import reproduce, run_study, study_names, write_markdown
from neardata.sim.system import engine
from neardata.sim.system.schedule import Schedule as JobSchedule

ROOT = Path(__file__).parents[2]


def verdicts(name):
    return {v.claim.metric or v.claim.claim: v for v in reproduce(name)}


def inputs_of(name, **changed):
    study = run_study(name).study
    return {key: given.value for key, given in study.inputs.items()} | changed


# --- what must come out -----------------------------------------------------------------------------


@pytest.mark.parametrize("experts", [8, 64, 128])
@pytest.mark.parametrize("policy", ["gpu_only", "on_demand", "prefetch", "pre_gated"])
def test_every_label_of_pre_gated_moe_is_within_a_tenth(policy, experts):
    verdict = verdicts("pregated")[f"{policy}/{experts}"]
    assert abs(verdict.difference) <= 0.1
    used = policy == "gpu_only" or (policy, experts) == ("prefetch", 128)
    assert verdict.decision == ("not checkable" if used else "reproduced")


def test_the_labels_are_those_of_the_obvious_schedule(monkeypatch):
    def obvious(jobs, duration):
        start, end = naive_schedule(jobs, [duration(job, 0) for job in range(len(jobs))])
        return JobSchedule(start, end, [], [])

    inputs = inputs_of(
        "pregated", models=["switch-base-8"], memory_models=["switch-base-8"],
        calibration_model="switch-base-8", calibration_label=6.8437,
    )  # fmt: skip
    fast = study_models.pre_gated_moe(**inputs)
    monkeypatch.setattr(engine, "schedule", obvious)
    assert study_models.pre_gated_moe(**inputs) == fast


def test_where_in_a_block_the_gate_lies_matters_as_little_as_the_study_says():
    known = run_study("pregated").figures
    moved = study_models.pre_gated_moe(**inputs_of("pregated", share_before_experts=0.5))
    for name in (f"{p}/{e}" for p in study_models.EXPERT_POLICIES for e in (8, 64, 128)):
        assert moved[name] == pytest.approx(known[name], rel=0.012)


def test_what_the_pre_gated_labels_rest_on():
    """Without the first block, whose fetch is in the open, overlap alone gives the GPU-only time."""
    behind = study_models.pre_gated_moe(**inputs_of("pregated", first_block_counts=False))
    known = run_study("pregated").figures
    for experts in (8, 64, 128):
        assert behind[f"pre_gated/{experts}"] == pytest.approx(1.0, rel=1e-6)
        assert known[f"pre_gated_without_first_block/{experts}"] == pytest.approx(1.0, rel=1e-6)


def test_pre_gated_labels_by_hand():
    """One block of T and fetches of F: T + F on demand; the first fetch in the open when pre-gated."""
    figures = run_study("pregated").figures
    block, fetch = figures["block_ms"], figures["fetch_ms"]
    assert fetch == pytest.approx(18_874_368 / 32e9 * 1e3)
    assert block == pytest.approx(128 * fetch / (107 - 1 / 6), rel=1e-5)
    assert figures["on_demand/8"] == pytest.approx(1 + fetch / block, rel=1e-5)
    assert figures["pre_gated/64"] == pytest.approx(1 + fetch / block / 6, rel=1e-5)
    assert figures["prefetch/8"] == pytest.approx(8 * fetch / block + 1 / 6, rel=1e-5)


def test_identities_hold():
    for verdict in reproduce("moesd"):
        computed = verdict.claim.trust == "computed"
        assert verdict.decision == ("agrees with our arithmetic" if computed else "reproduced")
    found = verdicts("elmoe3d_identities")
    assert found.pop("tops/8gb/w4a8").decision == "missed"  # the paper doubled what it had rounded
    solved = {"tops/4gb/w4a8", "tops/4gb/w8a8"}
    for metric in (m for m, v in found.items() if v.claim.metric):
        assert found[metric].decision == ("not checkable" if metric in solved else "reproduced")


def test_moesd_has_every_row_of_its_tables():
    assert (
        sum(v.claim.metric is not None and v.claim.metric.startswith("x/") for v in reproduce("moesd")) == 25
    )


def test_model_switching_and_streaming():
    sn40l, lens = verdicts("sn40l"), verdicts("moe_lens")
    assert sn40l["switch_over/dgx_a100"].ours == pytest.approx(31.25)
    assert sn40l["switch_over/dgx_h100"].ours == pytest.approx(15.625)
    assert run_study("moe_lens").figures["pass_s"] == pytest.approx(94 / 19.5)
    assert lens["capacity_gain"].ours == pytest.approx(354 / 226)


def test_directions_that_the_policies_claim():
    """Whatever the assumed constants make of the size: who wins."""
    fiddler, hybrimoe = run_study("fiddler").figures, run_study("hybrimoe").figures
    assert fiddler["over_lru"] > 1 and fiddler["over_on_demand"] > 1
    for way in ("scheduled", "prefetched", "all"):
        assert hybrimoe[f"prefill_gain/{way}"] > 1
        assert hybrimoe[f"decode_gain/{way}"] > 0.96  # nothing to gain there, and little to lose


# --- honest verdicts --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", study_names())
def test_a_miss_and_what_cannot_be_checked_say_why(name):
    for verdict in reproduce(name):
        good = verdict.decision in ("reproduced", "agrees with our arithmetic")
        assert good or verdict.reason, verdict.claim.claim
        if verdict.decision == "reproduced":
            assert verdict.ours is not None and verdict.claim.not_checkable is None


def test_assumed_inputs_stand_beside_what_rests_on_them():
    found = verdicts("fiddler")
    assert "cpu_ms_per_token" in found["tokens_per_s"].assumed
    assert found["gain over DeepSpeed-MII"].assumed == ()


@given(st.floats(0.1, 1e6), st.floats(0.5, 1.5), st.floats(0, 0.4))
def test_a_verdict_is_about_the_tolerance(value, factor, tolerance):
    claim = Claim(claim="c", value=value, where="w", trust="abstract", metric="m", tolerance=tolerance)
    if abs(abs(factor - 1) - tolerance) > 1e-6:
        good = abs(factor - 1) < tolerance
        assert judge("s", claim, value * factor).decision == ("reproduced" if good else "missed")


def test_a_lower_bound_is_kept_by_more():
    claim = Claim(claim="c", value=3, where="w", trust="abstract", metric="m", at_least=True)
    decisions = [judge("s", claim, ours).decision for ours in (2.9, 3.0, 9.0)]
    assert decisions == ["missed", "reproduced", "reproduced"]


def test_our_own_arithmetic_reproduces_no_paper():
    claim = Claim(claim="c", value=3, where="w", trust="computed", metric="m")
    assert judge("s", claim, 3).decision == "agrees with our arithmetic"
    assert judge("s", claim, 4).decision == "differs from our arithmetic"


def test_what_is_no_number_is_not_reproduced():
    claim = Claim(claim="c", value=3, where="w", trust="abstract", metric="m")
    assert judge("s", claim, float("nan")).decision == "not checkable"


# --- input ------------------------------------------------------------------------------------------

STUDY = """\
title: t
arxiv: "1"
model: model_switching
inputs:
  expert_gb: {value: 10, status: stated, source: s}
  sn40l_gb_per_s: {value: 1000, status: stated, source: s}
  hosts_gb_per_s: {value: {a: 100}, status: assumed, source: s}
  sockets: {value: 1, status: stated, source: s}
  socket_ddr_gb: {value: 30, status: stated, source: s}
claims:
  - {claim: c, value: 10, where: w, trust: abstract, metric: switch_over/a}
"""


def test_a_study_of_ones_own(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(STUDY)
    (verdict,) = reproduce(path)
    assert (verdict.ours, verdict.decision, verdict.assumed) == (10.0, "reproduced", ("hosts_gb_per_s",))


def test_an_unknown_study_names_the_nearest():
    with pytest.raises(InputError, match="unknown study 'pregate'; did you mean pregated"):
        reproduce("pregate")


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            "switch_over/a",
            "switch_over/b",
            "11: claims.0.metric: 'switch_over/b' is not computed; did you mean",
        ),
        ("  sockets", "  socket", "8: inputs.socket: no input of model_switching; did you mean sockets"),
        ("sockets: {value: 1, status: stated, source: s}", "", "4: inputs: missing 'sockets', which model_"),
        ("model_switching", "model_switch", "3: model: 'model_switch' is not known; did you mean model_swit"),
        ("status: assumed", "status: guessed", "7: inputs.hosts_gb_per_s.status: 'guessed' is not known"),
        (", metric: switch_over/a", "", "11: claims.0: a claim has a metric, or says in not_checkable why"),
        ("value: 10, where", "where", "11: claims.0: a claim that is compared needs a value"),
    ],
)
def test_a_study_that_cannot_be_run_says_where(tmp_path, old, new, message):
    path = tmp_path / "own.yaml"
    assert old in STUDY
    path.write_text(STUDY.replace(old, new, 1))
    with pytest.raises(InputError, match=f"own.yaml:{message}"):
        reproduce(path)


# --- the report -------------------------------------------------------------------------------------


def test_the_report_is_up_to_date():
    """Else: python -m neardata.reproduction > docs/reproduction.md"""
    report = write_markdown(verdict for name in study_names() for verdict in reproduce(name))
    assert report == (ROOT / "docs" / "reproduction.md").read_text()


@pytest.mark.parametrize("module", [neardata.claims, neardata.reproduction])
def test_examples(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed
