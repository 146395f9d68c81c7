"""run, explain, compare and reproduce on the command line: what they give, what they keep, how they fail."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neardata.cli.app import run

STUDY = """\
title: small
model: olmoe-1b-7b
context: 512
batch: [1, 8]
layers: 2
systems:
  A100: {system: a100, units: {gpu: 1}}
  AiM: {system: aim, mapping: {on_pim: everything, pipeline: all, steps: 2}}
"""
CONFIG = Path(__file__).parents[2] / "workloads" / "llm" / "models" / "olmoe-1b-7b.json"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    Path("study.yaml").write_text(STUDY)


def neardata(capsys, *arguments):
    """Exit code, stdout, stderr of a command line."""
    code = run([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def good(capsys, *arguments):
    code, out, err = neardata(capsys, *arguments)
    assert (code, err) == (0, "")
    return out


def changed(old, new, text=STUDY, name="s.yaml"):
    assert old in text
    Path(name).write_text(text.replace(old, new, 1))
    return name


def tree(folder):
    """Every file and when it was written."""
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*") if path.is_file()}


# --- what a run gives -------------------------------------------------------------------------------


def test_the_fields_of_a_point_agree(capsys):
    result = json.loads(good(capsys, "run", "study.yaml", "--json"))
    assert result["partial"] is False
    assert [(p["label"], p["batch"]) for p in result["points"]] == [
        ("A100", 1), ("A100", 8), ("AiM", 1), ("AiM", 8)
    ]  # fmt: skip
    for p in result["points"]:
        assert sum(p["reasons_ns"].values()) == pytest.approx(p["run_ns"], rel=1e-9)
        assert sum(part["critical_ns"] for part in p["parts"]) == pytest.approx(p["run_ns"], rel=1e-9)
        assert p["tokens_per_s"] * p["step_ns"] == pytest.approx(p["batch"] * 1e9)
        assert 0 < p["bound_ns"] <= p["step_ns"] <= p["run_ns"]
        assert sum(p["energy_pj"].values()) == pytest.approx(p["energy_pj_per_token"] * p["batch"])
        assert all(0 <= share <= 1 for share in p["utilisation"].values())
        assert p["schema"] and p["versions"]["neardata"] and len(p["config_hash"]) == 16
        for unit in p["rooflines"]:
            for o in unit["operators"]:
                roof = min(unit["peak_gops"], unit["gb_per_s"] * o["operations_per_byte"])
                assert o["gops"] <= roof * 1.001, o["name"]


def test_every_field_is_described(capsys):
    text = (CONFIG.parents[3] / "docs" / "usage.md").read_text()
    table = text.partition("Fields of a point in")[2].partition("## neardata explain")[0]
    (point,) = json.loads(good(capsys, "run", "study.yaml", "-s", "A100", "-b", "1", "--json"))["points"]
    assert [field for field in point if f"`{field}`" not in table] == []


def test_what_is_printed_fits_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = good(capsys, "run", "study.yaml")
    assert max(map(len, out.splitlines())) <= 80
    assert "speed-up" in out and "where the time went" in out and "is fastest" in out


def test_a_config_of_ones_own_is_the_shipped_model(capsys):
    shutil.copy(CONFIG, "config.json")
    common = ("--layers", 1, "-s", "a100", "--json")
    own, shipped = (
        json.loads(good(capsys, "run", what, *common))["points"][0] for what in ("config.json", "olmoe-1b-7b")
    )
    assert own["step_ns"] == shipped["step_ns"]


def test_the_folder_holds_tables_timelines_and_figures(capsys):
    good(capsys, "run", "study.yaml", "--out", "o")
    names = {path.name for path in Path("o").iterdir()}
    assert names >= {"results.json", "results.csv", "time.png", "energy.png", "roofline.png", "points"}
    points = json.loads(Path("o/results.json").read_text())["points"]
    rows = list(csv.DictReader(Path("o/results.csv").read_text().splitlines()))
    assert [float(row["step_ns"]) for row in rows] == [p["step_ns"] for p in points]
    events = json.loads(Path("o/timeline-aim-batch-8.json").read_text())["traceEvents"]
    end = max(e["ts"] + e["dur"] for e in events if e["ph"] == "X")
    assert end * 1e3 == pytest.approx(points[-1]["run_ns"])


# --- points that are there --------------------------------------------------------------------------


def test_a_second_run_runs_nothing(capsys, monkeypatch):
    first = json.loads(good(capsys, "run", "study.yaml", "--out", "o", "--json"))
    before = tree("o/points")
    monkeypatch.setattr("neardata.study.run_point", None)
    assert json.loads(good(capsys, "run", "study.yaml", "--out", "o", "--json")) == first
    assert tree("o/points") == before


@pytest.mark.parametrize("old, new", [("context: 512", "context: 513"), ("steps: 2", "steps: 3")])
def test_a_changed_study_is_run(capsys, old, new):
    good(capsys, "run", "study.yaml", "--out", "o", "--no-plots")
    before = tree("o/points")
    good(capsys, "run", changed(old, new), "--out", "o", "--no-plots")
    after = tree("o/points")
    assert before.items() <= after.items()
    assert len(after) - len(before) == (4 if "context" in old else 2)


def test_a_changed_file_that_the_study_names_is_run(capsys):
    system = "name: own\nsource: none\nunits:\n  gpu: {kind: processor, processor: a100-80gb}\n"
    Path("own.yaml").write_text(system)
    what = ("run", "olmoe-1b-7b", "-s", "own.yaml", "--layers", 1, "--json", "--out", "o", "--no-plots")
    (slow,) = json.loads(good(capsys, *what))["points"]
    Path("own.yaml").write_text(system.replace("a100-80gb", "h100-sxm"))
    (fast,) = json.loads(good(capsys, *what))["points"]
    assert fast["step_ns"] < slow["step_ns"]


def test_ctrl_c_keeps_the_points_that_are_finished():
    text = STUDY.replace("[1, 8]", str(list(range(1, 60))))
    Path("long.yaml").write_text(text)
    words = [sys.executable, "-m", "neardata", "run", "long.yaml", "--out", "o", "--no-plots", "--json"]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ.copy())
    try:
        deadline = time.monotonic() + 120
        while len(list(Path("o/points").glob("*.json"))) < 2 and time.monotonic() < deadline:
            assert child.poll() is None
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=120)
    finally:
        child.kill()
    result = json.loads(out)
    assert child.returncode == 130 and result["partial"] is True
    assert 2 <= len(result["points"]) < 118
    assert len(list(Path("o/points").glob("*.json"))) == len(result["points"])
    assert json.loads(Path("o/results.json").read_text()) == result


# --- explain, programs, compare, reproduce ----------------------------------------------------------


def test_a_saved_program_takes_the_time_of_its_point(capsys):
    (point,) = json.loads(good(capsys, "run", "study.yaml", "-s", "AiM", "-b", 8, "--json"))["points"]
    for name in ("p.yaml", "p.json"):
        out = good(
            capsys, "explain", "study.yaml", "-s", "AiM", "-b", 8, "-o", "experts.gate", "--save", name
        )
        assert "16 products of w in the row" in out and "MAC16" in out
        assert json.loads(good(capsys, "run", name, "--json"))["run_ns"] == point["run_ns"]


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("kind: matmul", "kind: matmull", "'matmull' is not known; did you mean matmul"),
        ("  unit: gpu", "  unit: gpv", "'gpv' is no unit or link of the system; did you mean gpu"),
        ("  unit: gpu", "  unti: gpu", "unknown key; did you mean unit"),
        ("- name: final_norm", "- name: layer0.router", "two tasks of this name"),
        ("- name: layer0.router", "- name: r", "waits for 'layer0.router', which is not listed before it"),
        ("processor: a100-80gb", "processor: a100-80g", "'a100-80g'"),
        ("processor: a100-80gb", "processor: a100-80gb, count: 0", "hardware.units.gpu"),
        ("place: gpu", "place: gpx", "'gpx' holds no data; did you mean gpu"),
    ],
)
def test_a_program_edited_wrongly(capsys, old, new, message):
    good(capsys, "explain", "study.yaml", "-s", "A100", "--save", "p.yaml")
    name = changed(old, new, Path("p.yaml").read_text(), "q.yaml")
    fails(capsys, message, "run", name)


def test_compare_from_a_study_and_from_results(capsys):
    good(capsys, "run", "study.yaml", "--out", "o", "--no-plots")
    fresh = good(capsys, "compare", "study.yaml", "A100", "AiM")
    assert fresh == good(capsys, "compare", "o/results.json", "A100", "AiM")
    assert "time a token" in fresh and "energy a token" in fresh and "time by cause" in fresh
    a, b = json.loads(good(capsys, "compare", "o/results.json", "A100", "AiM", "-b", 1, "--json"))
    assert (a["batch"], b["label"]) == (1, "AiM")


def test_reproduce_tells_claims_and_verdicts(capsys):
    assert "pregated" in good(capsys, "reproduce")
    result = json.loads(good(capsys, "reproduce", "moesd", "--json"))
    verdicts = {c["verdict"] for c in result["claims"]}
    assert verdicts <= {"reproduced", "not checkable", "agrees with our arithmetic"}


# --- bad input --------------------------------------------------------------------------------------


def fails(capsys, message, *arguments):
    """One line on stderr, exit 2, nothing written."""
    before = tree(".")
    code, out, err = neardata(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("neardata: ") and err.count("\n") == 1 and message in err, err
    assert tree(".") == before and not Path("o").exists()


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("olmoe-1b-7b", "olmoe", "s.yaml:2: model: unknown model 'olmoe'; did you mean olmoe-1b-7b"),
        ("systems:", "systms:", "s.yaml:6: systms: unknown key; did you mean systems"),
        ("[1, 8]", "[-1]", "s.yaml:4: batch.0: must be at least 1, got -1"),
        ("[1, 8]", "[]", "s.yaml:4: batch: must not be empty"),
        ("context: 512", "context: -1", "s.yaml:3: context: must be at least"),
        ("layers: 2", "layers: 99", "s.yaml:5: layers: 99 are asked for; olmoe-1b-7b has 16"),
        ("layers: 2", "positions: 9", "s.yaml:5: positions: olmoe-1b-7b has no learned positions"),
        ("layers: 2", "weights: int5", "s.yaml:5: weights: unknown number format 'int5'; did you mean"),
        ("layers: 2", "baseline: H100", "s.yaml:5: baseline: is no system of the study; did you mean A100"),
        ("system: a100", "system: a1000", "s.yaml:7: systems.A100.system: unknown system 'a1000'"),
        ("{gpu: 1}", "{gpv: 1}", "s.yaml:7: systems.A100.units: the system has no 'gpv'; did you mean gpu"),
        ("{gpu: 1}", "{gpu: 0}", "s.yaml:7: systems.A100.units.gpu: must be at least"),
        ("on_pim: e", "onpim: e", "s.yaml:8: systems.AiM.mapping.onpim: unknown key; did you mean on_pim"),
        ("everything", "anything", "s.yaml:8: systems.AiM.mapping.on_pim: 'anything' is not"),
        ("pipeline: all", "pipeline: 3", "s.yaml:8: systems.AiM.mapping.pipeline: "),
        ("units: {gpu: 1}", "mapping: {on_pim: attention}", "s.yaml:7: systems.A100.mapping.on_pim: the"),
        ("units: {gpu: 1}", "set: {units.gpu.processor: h2000}", "s.yaml:7: systems.A100.set.units.gpu"),
        ("title: small", "title: [", "not valid YAML"),
    ],
)  # fmt: skip
def test_a_study_that_cannot_be_run_says_where(capsys, old, new, message):
    fails(capsys, message, "run", changed(old, new), "--out", "o")


@pytest.mark.parametrize(
    "message, arguments",
    [
        ("unknown model 'mixtral'; did you mean mixtral", ("mixtral",)),
        ("none.yaml: cannot be read", ("none.yaml",)),
        ("no system of the study is 'A10'; did you mean A100", ("study.yaml", "-s", "A10")),
        ("unknown system 'a10'; did you mean a100", ("olmoe-1b-7b", "-s", "a10")),
        ("--phase: 'decoding' is not known; did you mean decode", ("study.yaml", "--phase", "decoding")),
        ("--weights: unknown number format 'bf15'", ("study.yaml", "--weights", "bf15")),
        ("'--context'", ("study.yaml", "--context", "-1")),
        ("'--batch'", ("study.yaml", "-b", "0")),
    ],
)
def test_options_that_cannot_be(capsys, message, arguments):
    fails(capsys, message, "run", *arguments, "--out", "o")


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("model_type", "olmoeish", "olmoeish"),
        ("num_expert", 3, "num_expert"),
        ("_published_parameters", 7_000_000_000, "7,000,000,000"),
        ("hidden_size", None, "hidden_size"),
    ],
)
def test_a_config_that_is_none(capsys, key, value, message):
    config = json.loads(CONFIG.read_text())
    config[key] = value
    Path("config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None or k != key}))
    fails(capsys, message, "run", "config.json", "--out", "o")


def test_a_model_that_does_not_fit(capsys):
    """The least number of units that would do is told, and does. Points that ran before are withdrawn."""
    text = STUDY.replace("olmoe-1b-7b", "mixtral-8x7b").replace("layers: 2\n", "").replace("[1, 8]", "[1]")
    text = "\n".join(line for line in text.splitlines() if "AiM" not in line) + "\n"
    text += "  H100: {system: h100, units: {gpu: 1}}\n"
    text = text.replace("units: {gpu: 1}}\n  H", "units: {gpu: 2}}\n  H")
    Path("big.yaml").write_text(text)
    fails(capsys, "which holds 80,000,000,000; 2 of gpu would do", "run", "big.yaml", "--out", "o")
    name = changed("h100, units: {gpu: 1}", "h100, units: {gpu: 2}", text)
    good(capsys, "run", name, "--json")


def test_a_cache_that_no_number_of_units_holds(capsys):
    name = changed("context: 512", "context: 1000000000")
    fails(capsys, "do not fit 64 aim of 17,179,869,184 bytes", "run", name, "-s", "AiM", "--out", "o")


def test_an_out_that_is_a_file(capsys):
    Path("f").write_text("mine")
    fails(capsys, "f: is a file; --out takes a folder", "run", "study.yaml", "--out", "f")
    fails(capsys, "f/o: cannot be made", "run", "study.yaml", "--out", "f/o")


def test_explain_and_compare_name_what_there_is(capsys):
    fails(capsys, "no operator's name contains 'gat3'", "explain", "study.yaml", "-o", "gat3")
    fails(capsys, "is written as .yaml or .json", "explain", "study.yaml", "--save", "p.txt")
    fails(capsys, "its folder does not exist", "explain", "study.yaml", "--save", "no/p.yaml")
    fails(capsys, "did you mean A100", "explain", "study.yaml", "-s", "A10")
    fails(capsys, "did you mean A100", "compare", "study.yaml", "A10", "AiM")
    fails(capsys, "did you mean pregated", "reproduce", "pregate")


def test_a_study_of_a_paper_is_run_for_its_claims(capsys):
    code, out, err = neardata(capsys, "run", "sn40l.yaml")
    assert (code, err) == (0, "") and "model switching" in out
    assert out == neardata(capsys, "reproduce", "sn40l")[1]
    fails(capsys, "--batch: a study of a paper is run as it is", "run", "sn40l.yaml", "--batch", "3")
    fails(capsys, "serving_split.yaml: is a study of requests: neardata serve", "run", "serving_split.yaml")


def test_a_truth_value_is_no_number(capsys):
    fails(
        capsys,
        "s.yaml:3: context: must be a number, not yes or no",
        "run",
        changed("context: 512", "context: yes"),
    )
