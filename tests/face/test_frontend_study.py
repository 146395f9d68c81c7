"""Front ends of inference servers as studies: they run, their figures hang together, errors have a line."""

import json
import re
from pathlib import Path

import pytest

from neardata.cli.app import run as run_command
from neardata.frontend_study import load_front_end_study, run_front_ends

STUDY = """\
title: two ways
network: squeezenet-1.1
gpu: {slice: 1g.5gb, issue_us: 20}
requests: {count: 300, rate_per_s: 2000}
setups:
  cores: {cores: {count: 8, ms: 3.0}}
  units:
    units: {pipeline: preba-image, count: 10, input_bytes: 110_000, properties: {pixels: 181_503}}
"""
SPEECH = """\
title: speech
network: conformer-ctc-small
gpu: {slice: 2g.10gb, issue_us: 20}
requests: {count: 200, rate_per_s: 20, seconds: librispeech}
setups:
  cores: {cores: {count: 8, ms: 3.0, ms_per_s: 10}, batching: {bucket_s: 2.5, merge: false}}
"""


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


def command(capsys, *arguments):
    code = run_command(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def test_setups_are_compared(capsys, study):
    code, out, _ = command(capsys, "serve", str(study), "--json")
    cores, units = json.loads(out)["setups"]
    assert code == 0
    assert cores["sustained_per_s"] == pytest.approx(8 / 3e-3, rel=0.03)
    assert units["sustained_per_s"] > 4 * cores["sustained_per_s"]
    assert 0.55 < cores["cores_busy"] < 0.8, "three quarters, less filling and draining"
    assert cores["prepare_ms"] == pytest.approx(3.0, rel=0.02), "the core, and the way to the GPU"
    assert cores["p50_ms"] <= cores["p95_ms"] <= cores["p99_ms"]


def test_tables_fit_eighty_columns(capsys, study, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = command(capsys, "serve", str(study))
    assert code == 0 and max(map(len, out.splitlines())) <= 80
    assert re.search(r"units against cores: [\d.]+x sustained, p95 0\.\d+x", out)
    assert "more comes than" not in out
    out = command(capsys, "serve", str(study), "--speed", "2")[1]
    assert "cores: more comes than is sustained" in " ".join(out.split())


def test_one_setup_without_a_rate(capsys, study):
    study.write_text(STUDY.replace(", rate_per_s: 2000", ""))
    code, out, _ = command(capsys, "serve", str(study), "-s", "units", "--first", "200")
    assert code == 0 and "cores" not in out.replace("two ways", "") and "p95" not in out


def test_recorded_inputs(capsys, study):
    rows = [f"{5 + i / 1000},{(1 + i % 3) * 2.5}" for i in range(120)]
    (study.parent / "talk.csv").write_text("arrival_s,seconds\n" + "\n".join(rows) + "\n")
    study.write_text(SPEECH.replace("count: 200, rate_per_s: 20, seconds: librispeech", "file: talk.csv"))
    (found,) = json.loads(command(capsys, "serve", str(study), "--json", "--first", "60")[1])["setups"]
    assert found["requests"] == 60 and found["offered_per_s"] == pytest.approx(1000, rel=0.02)
    (twice,) = json.loads(command(capsys, "serve", str(study), "--json", "--speed", "2")[1])["setups"]
    assert twice["requests"] == 120 and twice["offered_per_s"] == pytest.approx(2000, rel=0.02)
    study.write_text(study.read_text().replace("conformer-ctc-small", "swin-t").replace(", ms_per_s: 10", ""))
    study.write_text(study.read_text().replace("bucket_s: 2.5, ", ""))
    code, _, err = command(capsys, "serve", str(study))
    assert code == 2 and "talk.csv: seconds: the network takes images, and has seconds" in err


def test_speech_has_lengths_and_buckets(study):
    study.write_text(SPEECH)
    (served,) = run_front_ends(load_front_end_study(study), study.parent)
    assert served.server.slices == 3
    assert served.report is not None
    longest = {b.longest for b in served.report.batches}
    assert len(longest) > 5
    for batch in served.report.batches:
        lengths = {served.report.requests[i].length for i in batch.requests}
        assert len({(n - 1) // 250 for n in lengths}) == 1, "buckets that are not merged"
    one = served.report.requests[0]
    assert served.server.prepare_ps(one.length)[0] == round(3e9 + 1e8 * one.length)


@pytest.mark.parametrize("name", ["front_end_images", "front_end_speech"])
def test_shipped_studies_run(capsys, name):
    code, out, _ = command(capsys, "serve", f"{name}.yaml", "--first", "250", "--json")
    assert code == 0 and len(json.loads(out)["setups"]) >= 3


WRONG = [
    (
        STUDY,
        "squeezenet-1.1",
        "squeezenet",
        "study.yaml:2: network: unknown network 'squeezenet'; did you mean",
    ),
    (STUDY, "slice: 1g.5gb", "slice: 1g.5g", "study.yaml:3: gpu: unknown slice '1g.5g'; did you mean 1g.5gb"),
    (STUDY, "{slice", "{name: h100-sxm, slice", "study.yaml:3: gpu: slices are known of a100-40gb alone"),
    (STUDY, "1g.5gb", "7g.40gb, slices: 7", "study.yaml:3: gpu.slices: must be at most 1: a GPU has"),
    (STUDY, "count: 300", "count: 3", "setups.cores.requests: 1 batches are too few"),
    (STUDY, "count: 300", "count: 0", "study.yaml:4: requests.count: must be at least 1, got 0"),
    (STUDY, "count: 300, ", "", "study.yaml:4: requests: give a file, or the count"),
    (STUDY, "count: 300, ", "file: a.csv, ", "study.yaml:4: requests: a file has arrivals"),
    (STUDY, "count: 300, rate_per_s: 2000", "file: a.csv", "a.csv: cannot be read"),
    (STUDY, "count: 300", "arrivals: burst, count: 300", "unknown arrivals 'burst'"),
    (
        SPEECH,
        "librispeech",
        "librispech",
        "study.yaml:4: requests: unknown lengths 'librispech'; did you mean",
    ),
    (STUDY, "rate_per_s: 2000", "rate_per_s: 0", "study.yaml:4: requests.rate_per_s"),
    (STUDY, "rate_per_s: 2000", "seconds: 3", "study.yaml:4: requests.seconds: squeezenet-1.1 takes images"),
    (SPEECH, ", seconds: librispeech", "", "study.yaml:4: requests.seconds: missing"),
    (STUDY, "{count: 8, ms: 3.0}", "{count: 0, ms: 3.0}", "study.yaml:6: setups.cores.cores.count"),
    (STUDY, "ms: 3.0}", "ms_per_s: 3.0}", "study.yaml:6: setups.cores.cores.ms_per_s: images have no length"),
    (
        STUDY,
        "ms: 3.0}}",
        "ms: 3}, batching: {bucket_s: 2}}",
        "setups.cores.batching.bucket_s: images have no",
    ),
    (STUDY, "ms: 3.0}}", "ms: 3.0}, link: pcie}", "study.yaml:6: setups.cores.link: unknown link 'pcie'"),
    (STUDY, "preba-image", "preba-imag", "study.yaml:8: setups.units.units.pipeline: unknown pipeline"),
    (STUDY, "properties: {pixels", "properties: {pixel", "setups.units: no stage uses the property 'pixel'"),
    (STUDY, "  units:\n", "  units:\n    cores: {count: 1}\n", "setups.units: give cores or units, not both"),
    (STUDY, "title: two ways\n", "title: two ways\nbaseline: x\n", "study.yaml:2: baseline: is no setup"),
]


@pytest.mark.parametrize(("text", "old", "new", "message"), WRONG, ids=[new[:24] for _, _, new, _ in WRONG])
def test_what_is_wrong_with_a_study_is_told_in_a_line(capsys, study, text, old, new, message):
    assert old in text
    study.write_text(text.replace(old, new, 1))
    code, out, err = command(capsys, "serve", str(study))
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert message in err


def test_an_unknown_setup_is_told(capsys, study):
    code, _, err = command(capsys, "serve", str(study), "-s", "core")
    assert code == 2 and "--setup: no setup of the study is 'core'; did you mean cores" in err


def test_the_document_runs(capsys, tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "frontend.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "study.yaml").write_text(example)
    assert command(capsys, "serve", str(tmp_path / "study.yaml"), "--first", "200")[0] == 0
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    exec(code, {})
    assert "ms" in capsys.readouterr().out
