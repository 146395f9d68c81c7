"""``neardata stream``: what it prints, what it writes, how it fails."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest

from neardata.arch import stream as models
from neardata.arch.stream import Pipeline
from neardata.cli.app import run

DOCUMENT = Path(__file__).parents[2] / "docs" / "stream.md"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")


def stream(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = run(["stream", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


PIPELINE = """\
pipelines:
  twice:
    kind: pipeline
    title: two stages
    source: made up
    clocks: {fabric: {mhz: 200, basis: assumed, source: made up}}
    stages:
      first:
        timing: {depth: 3, basis: assumed, source: made up}
      second:
        timing: {depth: 5, initiation_interval: 2, basis: assumed, source: made up}
    fifos:
      between: {between: [first, second], capacity: 4}
"""


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = stream(capsys, "list")
    assert (code, err) == (0, "")
    for name in ("presto-sigridhash", "preba-audio", "u55c", "smartssd-vitis", "9,024"):
        assert name in out
    listed = json.loads(stream(capsys, "list", "--json")[1])
    dsp = {f["name"]: f.get("dsp") for f in listed["fpgas"]}
    assert dsp["smartssd"]["value"] == 1968 and dsp["smartssd"]["basis"] == "published"
    assert dsp["smartssd-vitis"] is None


def test_run_prints_and_writes_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Path("twice.yaml").write_text(PIPELINE)
    code, out, err = stream(capsys, "run", "twice.yaml", "-n", 1000, "--out", "results")
    assert (code, err) == (0, "")
    assert "2,006, fill and drain included" in out and "10.03 µs" in out
    assert "assumed, not published: clocks.fabric, stages.first.timing, stages.second.timing" in out
    record = json.loads((tmp_path / "results" / "report.json").read_text())
    assert record == json.loads(stream(capsys, "run", "twice.yaml", "-n", 1000, "--json")[1])
    assert record["cycles"] == 2006 and record["binding"] == "second" and record["energy_pj"] is None
    with (tmp_path / "results" / "stages.csv").open() as file:
        rows = {row["stage"]: row for row in csv.DictReader(file)}
    for row in rows.values():
        parts = ("busy", "starved", "blocked", "memory", "drained")
        assert sum(int(row[f"{part}_cycles"]) for part in parts) == int(row["cycles"]) == 2006
    assert (
        tmp_path / "results" / "fifos.csv"
    ).read_text() == "fifo,capacity,high_water,items\nbetween,4,4,1000\n"


def test_settings_change_the_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    plain = json.loads(stream(capsys, "run", "presto-log", "-n", 1000, "--json")[1])
    four = stream(capsys, "run", "presto-log", "-n", 1000, "--set", "stages.log.timing.lanes=4", "--json")[1]
    assert (plain["cycles"], json.loads(four)["cycles"]) == (1023, 273)
    assert plain["resources"]["percent"]["dsp"] == 10.62


def test_properties_and_arrivals(capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.csv").write_text("pixels\n1000\n2000\n3000\n")
    options = ("run", "preba-image", "--properties", "p.csv", "--rate", 1e4, "--json")
    record = json.loads(stream(capsys, *options)[1])
    assert record["items"] == 3 and record["latency_ns"]["max"] >= record["latency_ns"]["p50"] > 0
    assert json.loads(stream(capsys, *options)[1]) == record
    assert json.loads(stream(capsys, *options, "--seed", 2)[1]) != record


def test_fidelity_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("run", "presto-sparse", "-n", 50, "--json")
    assert json.loads(stream(capsys, *options)[1])["memory"] == "rate and latency"
    record = json.loads(stream(capsys, *options, "--fidelity", "cycle")[1])
    assert record["memory"] == "ddr4-2400r, request by request" and record["port_bytes"] == {"ddr4": 6400}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("presto-lgo", "-n", 1), "unknown pipeline 'presto-lgo'; did you mean presto-log"),
        (("presto-log",), "give --items"),
        (("presto-log", "-n", 1, "--device", "u55"), "unknown FPGA 'u55'; did you mean u55c"),
        (
            ("presto-log", "-n", 1, "--set", "stages.log.timing.lane=2"),
            "did you mean stages.log.timing.lanes",
        ),
        (
            ("presto-log", "-n", 1, "--set", "stages.log.timing.lanes=0"),
            "stages.log.timing.lanes: must be at least 1, got 0",
        ),
        (("presto-log", "-n", 1, "--set", "replicas.count=10"), "does not fit smartssd-vitis: DSP 106 %"),
        (("preba-image", "-n", 1), "stage 'decode' needs the property 'pixels', which is not given"),
        (("preba-image", "--properties", "none.csv"), "none.csv: cannot be read"),
        (("preba-image", "--properties", "bad.csv"), "bad.csv:3: pixels: must be a whole number, got '2.5'"),
        (("presto-log", "-n", 1, "--fidelity", "exact"), "unknown fidelity 'exact'"),
        (("presto-log", "-n", 1, "--rate", "-3"), "--rate: must be above 0"),
        (("presto-log", "-n", 1, "--out", "bad.csv"), "bad.csv: cannot be made: it is a file"),
        (("wrong.yaml", "-n", 1), "wrong.yaml:12: pipelines.twice.stages.second.timing.dept: unknown key"),
        (
            ("unknown.yaml", "-n", 1),
            "unknown.yaml:13: pipelines.twice.fifos.between.between: 'third' is no stage",
        ),
        (("small.yaml", "-n", 1), "fifos.between.capacity: 1 items, but first writes 2 at a time"),
        (("deadlock.yaml", "-n", 9), "deadlock in cycle"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], problem: str, tmp_path: Path
) -> None:
    Path("bad.csv").write_text("pixels\n1\n2.5\n")
    Path("wrong.yaml").write_text(PIPELINE.replace("depth: 5", "dept: 5").replace("second:\n", "second:\n\n"))
    Path("unknown.yaml").write_text(PIPELINE.replace("[first, second]", "[first, third]"))
    Path("small.yaml").write_text(PIPELINE.replace("capacity: 4}", "capacity: 1, produce: 2}"))
    Path("deadlock.yaml").write_text(
        PIPELINE.replace("capacity: 4}", "capacity: 4}\n      back: {between: [second, second], capacity: 2}")
    )
    before = {path: path.stat().st_size for path in tmp_path.iterdir()}
    code, out, err = stream(capsys, "run", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1 and problem in err
    assert {path: path.stat().st_size for path in tmp_path.iterdir()} == before


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_document_run(capsys: pytest.CaptureFixture[str]) -> None:
    Path("two.yaml").write_text(blocks("yaml")[0])
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("neardata ")]
    assert len(lines) >= 6
    for line in lines:
        assert run(shlex.split(line.partition("#")[0])[1:]) == 0, line
    for example in blocks("python"):
        exec(example, {})
    assert capsys.readouterr().out


def test_every_key_of_pipelines_is_described() -> None:
    described = set(re.findall(r"`(\w+)`", DOCUMENT.read_text()))
    inner = (models.Clock, models.Cost, models.Energy, models.Fifo, models.MemoryUse, models.Port)
    for model in (Pipeline, *inner, models.Replicas, models.Resources, models.Stage, models.Timing):
        assert set(model.model_fields) <= described, model
