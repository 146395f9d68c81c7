"""The study of PreSto: what it is calibrated on, what it predicts, and what it honestly misses."""

from __future__ import annotations

import pytest

from neardata.arch.errors import InputError
from neardata.arch.preprocessor import load_preprocessor
from neardata.arch.processor import load_processor
from neardata.cli.app import run
from neardata.preprocessing import run_batches
from neardata.preprocessing_study import core_costs, core_system, graph_of_model
from neardata.reproduction import run_study

MODELS = ("rm1", "rm2", "rm3", "rm4", "rm5")


@pytest.fixture(scope="module")
def figures() -> dict[str, float]:
    return dict(run_study("presto").figures)


def test_rm5_is_what_it_was_calibrated_to(figures: dict[str, float]) -> None:
    assert figures["cores_per_unit/rm5"] == pytest.approx(367 / 9, rel=1e-4)
    assert figures["cpu_share/transforms/rm5"] == pytest.approx(79, abs=0.01)
    assert figures["cpu_share/normalising/rm5"] == pytest.approx(55, abs=0.01)


def test_the_core_that_ships_has_the_costs_of_the_study(figures: dict[str, float]) -> None:
    shipped = load_processor("xeon-6242-core").actions
    for name in ("hash", "log", "compare", "decode_byte", "move_byte"):
        assert shipped[name].value == pytest.approx(figures[f"cpu_ns/{name}"], rel=0.005), name
        assert shipped[name].basis == "calibrated"


def test_costs_give_the_time_and_shares_they_were_made_from() -> None:
    graph, label = graph_of_model("rm1", 256, 1)
    costs = core_costs(graph, label, 50e6, 0.3, 0.6)
    core = load_preprocessor("cpu")
    done = run_batches([graph], core, core_system(core, costs), label=label)
    assert done.time_ps == pytest.approx(50e9, rel=1e-5)
    time = {stage.name: stage.time_ps / done.time_ps for stage in done.stages}
    assert time["sigrid_hash"] + time["log"] == pytest.approx(0.3, rel=1e-4)
    assert time["bucketize"] == pytest.approx(0.3, rel=1e-4)


def test_trends_are_the_papers(figures: dict[str, float]) -> None:
    core = [figures[f"latency_ms/cpu/{m}"] for m in MODELS]
    assert core == sorted(core)  # Fig. 5
    bucketize = [figures[f"cpu_share/bucketize/{m}"] for m in MODELS[1:]]
    assert bucketize == sorted(bucketize)  # more features, then more borders
    units = [figures[f"cores_per_unit/{m}"] for m in MODELS[1:]]
    assert units == sorted(units)
    for m in MODELS:
        assert figures[f"cores_over_unit/32/{m}"] < 1  # Fig. 11
        assert figures[f"over_a100/{m}"] > 1  # Fig. 16
        assert 0.85 < figures[f"over_u280/{m}"] < 1.15


@pytest.mark.parametrize("model", ["rm1", "rm2"])
def test_steps_of_a_mini_batch_add_up_to_its_time(model: str) -> None:
    graph, label = graph_of_model(model, 256, 1)
    one = run_batches([graph], load_preprocessor("smartssd"), label=label)
    assert all(ps > 0 for ps in one.steps_ps.values())
    assert sum(one.steps_ps.values()) == one.time_ps


def test_a_time_that_no_cost_of_a_byte_gives_is_told() -> None:
    """The network alone takes more than the 1 us that is left to bytes and to it."""
    graph, label = graph_of_model("rm1", 256, 1)
    with pytest.raises(InputError, match=r"no cost of a byte gives a core 0\.01 ms"):
        core_costs(graph, label, 10e3, 0.5, 0.9)


def test_verdicts(figures: dict[str, float]) -> None:
    verdicts = {v.claim.metric: v for v in run_study("presto").verdicts if v.claim.metric}
    predicted = ("rpc_less/mean", "extract_percent/mean", "over_u280/mean",
                 "predicted_share/transforms", "cores_over_one/16/rm5")  # fmt: skip
    for metric in predicted:
        assert abs(verdicts[metric].difference or 0) <= 0.15, metric
        assert verdicts[metric].decision in ("reproduced", "agrees with our arithmetic")
    without = [m for m in MODELS if m != "rm5"]  # the calibration predicts nothing
    for name in ("cores_per_unit", "energy"):
        mean = sum(figures[f"{name}/{m}"] for m in without) / 4
        assert verdicts[f"predicted/{name}"].ours == pytest.approx(mean)
    cores = sum(figures[f"cores_per_unit/{m}"] for m in ("rm2", "rm3", "rm4")) / 3
    assert cores == pytest.approx(0.75 * 50.4, rel=0.01), "RM1 carries the mean"
    assert verdicts["energy/rm5"].decision == "not checkable"
    assert verdicts["energy/max"].ours == figures["energy/rm1"]
    assert verdicts["energy/max"].decision == verdicts["predicted/energy"].decision == "missed"
    for v in verdicts.values():
        assert v.decision != "missed" or v.reason, v.claim.claim


def test_run_runs_studies_of_papers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "sn40l.yaml", "--batch", "2"]) == 2
    assert "--batch: a study of a paper is run as it is" in capsys.readouterr().err
    assert run(["run", "sn40l.yaml", "--out", "no/such/folder"]) == 2
    assert "the folder above it does not exist" in capsys.readouterr().err
