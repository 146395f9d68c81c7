"""Experts in the host's memory on the command line: the shipped study, what is printed, kept and refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from neardata.cli.app import run

STUDY = """\
title: small
model: olmoe-1b-7b
context: 64
batch: [1, 4]
layers: 2
systems:
  on demand: {system: a6000-xeon-5220r, mapping: {steps: 4, experts: {policy: on-demand}}}
  LRU: {system: a6000-xeon-5220r, mapping: {steps: 4, experts: {policy: cached, capacity: 70}}}
  host: {system: a6000-xeon-5220r, mapping: {steps: 4, experts: {policy: cpu-cold, capacity: 20}}}
  hybrid: {system: a6000-xeon-5220r, mapping: {steps: 4, experts: {policy: hybrid, capacity: 70}}}
  all there: {system: a6000-xeon-5220r, mapping: {steps: 4, experts: split}}
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    Path("study.yaml").write_text(STUDY)


def good(capsys, *arguments):
    code = run([str(a) for a in arguments])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return out


def points(capsys, *arguments):
    return {(p["label"], p["batch"]): p for p in json.loads(good(capsys, *arguments, "--json"))["points"]}


def test_one_table_compares_the_policies(capsys):
    out = good(capsys, "run", "study.yaml")
    assert max(map(len, out.splitlines())) <= 80
    header = "batch  time a token  speed-up  energy a token  link busy  hit rate  on host"
    assert header in out and "routing sampled: uniform, seed 0" in out and "experts lie in cpu" in out


def test_the_figures_agree(capsys):
    found = points(capsys, "run", "study.yaml")
    for (label, _), p in found.items():
        if label == "all there":
            assert p["experts"] == {}
            continue
        e = p["experts"]
        here = e["hit_rate"] + e["host_share"]
        assert 0 <= here <= 1 and 0 < e["link_busy"] <= 1
        if label != "hybrid":  # which fetches ahead
            assert e["fetched"] == round((1 - here) * e["computed"])
        assert p["bytes_placed"]["gpu"] >= e["places"] * e["bytes"]
    for batch in (1, 4):
        times = {label: p["step_ns"] for (label, b), p in found.items() if b == batch}
        assert min(times, key=times.__getitem__) == "all there"
        assert max(times, key=times.__getitem__) == "on demand"
    assert found["on demand", 1]["experts"]["computed"] == 3 * 2 * 8
    assert found["on demand", 1]["devices"] == 1


def test_the_shipped_study_runs_on_few_layers(capsys):
    found = points(capsys, "run", "offload.yaml", "--layers", "2", "-b", "1")
    assert len(found) == 9 and all(p["experts"] for p in found.values())


def test_a_saved_program_is_run_and_explained(capsys):
    arguments = ("study.yaml", "-s", "hybrid", "-b", "1")
    told = good(capsys, "explain", *arguments, "--save", "p.yaml")
    assert "from cpu to gpu" in told and "gate.weight[" in told and "experts lie in cpu" in told
    point = points(capsys, "run", *arguments)["hybrid", 1]
    again = json.loads(good(capsys, "run", "p.yaml", "--json"))
    assert again["run_ns"] == point["run_ns"] and again["experts"] == point["experts"]
    assert good(capsys, "explain", "p.yaml") == told


def test_a_recorded_routing_goes_on_from_step_to_step(capsys):
    ids = np.zeros((12, 2, 8), dtype=np.int64)
    for token in range(12):
        ids[token] = (np.arange(8) + 8 * (token % 2)) % 64  # two sets of experts by turns
    np.savez("trace.npz", ids=ids)
    text = STUDY.replace("layers: 2", "layers: 2\nrouting: trace.npz").replace("[1, 4]", "[1]")
    Path("s.yaml").write_text(text.replace("70}", "32, start: empty}").replace("host: {", "none: {"))
    found = points(capsys, "run", "s.yaml", "-s", "LRU", "-s", "on demand")
    assert found["on demand", 1]["experts"]["hit_rate"] == 0
    lru = found["LRU", 1]  # both sets are there after two steps of four, of which the first is not counted
    assert lru["experts"]["hit_rate"] == pytest.approx(2 / 3)
    assert any(note.startswith("routing recorded: trace.npz") for note in lru["notes"])
    Path("s.yaml").write_text(text.replace("70}", "32, start: popular}"))
    assert points(capsys, "run", "s.yaml", "-s", "LRU")["LRU", 1]["experts"]["hit_rate"] == 1
    Path("s.yaml").write_text(text.replace("steps: 4", "steps: 13"))
    assert run(["run", "s.yaml"]) == 2
    assert "mapping.steps: trace.npz holds 12 steps of 1 sequences; 13 are run" in capsys.readouterr().err


@pytest.mark.parametrize("routing", ["zipf:1.2", "measured:coding"])
def test_who_is_popular_is_known_from_other_steps(capsys, routing):
    text = STUDY.replace("layers: 2", f"layers: 2\nrouting: {routing}").replace("[1, 4]", "[1]")
    text = text.replace("olmoe-1b-7b", "qwen3-30b-a3b").replace("capacity: 20", "capacity: 40")
    found = []
    for start in ("even", "popular"):
        Path("s.yaml").write_text(text.replace("capacity: 40", f"capacity: 40, start: {start}"))
        found.append(points(capsys, "run", "s.yaml", "-s", "host")["host", 1]["experts"]["hit_rate"])
    assert found[1] > found[0]


@pytest.mark.parametrize("old, new, message", [
    ("policy: on-demand", "policy: ondemand", "experts.policy: 'ondemand' is not known; did you mean on-dem"),
    ("policy: on-demand", "wait: all", "experts.policy: missing"),
    ("{policy: on-demand}", "spred", "experts: must be split, spread, balanced or {policy: one of on-demand"),
    ("capacity: 70", "capacity: 0", "LRU.mapping.experts.capacity: must be at least 1 or 'fit', got 0"),
    ("capacity: 70", "capacty: 7", "experts.capacty: unknown key; did you mean capacity"),
    ("capacity: 70", "cache: fifo", "experts.cache: 'fifo' is not known"),
    ("policy: on-demand", "policy: on-demand, host: ssd", "experts.host: 'ssd' is no processor or memory on"),
    ("capacity: 70", "capacity: 4", "active experts of layer 0 take"),
    ("policy: on-demand}}", "policy: on-demand}, pipeline: 2}", "is for one processor: no pipeline"),
    ("a6000-xeon-5220r, mapping", "a100, mapping",
     "experts.host: beside gpu there must be one processor or memory on a link to hold the experts: none"),
    ("system: a6000-xeon-5220r, mapping: {steps: 4, experts: {policy: on-demand}}",
     "system: a6000-xeon-5220r, set: {units.gpu.overrides: {memory.bytes: 300_000_000}}, "
     "mapping: {experts: {policy: prefetch-all}}",
     "gpu holds 300,000,000 bytes; "),
    ("system: a6000-xeon-5220r, mapping: {steps: 4, experts: {policy: on-demand}}",
     "system: a6000-xeon-5220r, set: {units.cpu.overrides: {memory.bytes: 800_000_000}}, "
     "mapping: {experts: {policy: on-demand}}",
     "128 experts of 12,582,912 bytes (layer0.experts.gate.weight, layer0.experts.up.weight, "
     "layer0.experts.down.weight, ...) are 1,610,612,736; cpu holds 800,000,000"),
    ("olmoe-1b-7b", "opt-1.3b", "opt-1.3b has no experts"),
])  # fmt: skip
def test_what_cannot_be_is_told_in_one_line(capsys, old, new, message):
    assert old in STUDY
    Path("s.yaml").write_text(STUDY.replace(old, new, 1))
    assert run(["run", "s.yaml", "--out", "o"]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.startswith("neardata: s.yaml:") and err.count("\n") == 1 and not out
    assert not Path("o").exists()
