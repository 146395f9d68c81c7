"""``neardata preprocess``: what it prints and writes, how it fails, how it goes on."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from neardata.arch.preprocessor import load_preprocessor
from neardata.arch.system.system import DATA
from neardata.cli import preprocess as command
from neardata.cli.app import run
from neardata.workloads.recsys import (
    generate,
    load_spec,
    mini_batches,
    preprocess,
    read_parquet,
    sample_path,
    write_parquet,
)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


def cli(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = run(["preprocess", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five row groups of 40 rows."""
    path = tmp_path / "data.parquet"
    write_parquet(generate(load_spec("rm1"), 200, seed=3), path, rows_per_group=40)
    return path


def test_without_arguments_it_runs_on_the_sample(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = cli(capsys)
    assert (code, err) == (0, "")
    for text in ("rm1", "512 rows", "smartssd", "sigrid_hash", "binding:", "samples/s", "within load"):
        assert text in out
    assert max(map(len, out.splitlines())) <= 80


def test_tables_of_all_units_fit_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = cli(capsys, *(f"--unit={name}" for name in ("smartssd", "u280", "cpu", "gpu")))
    assert code == 0 and max(map(len, out.splitlines())) <= 80
    assert "…" not in out


def test_mini_batches_are_what_the_operators_mean_and_counts_those_of_the_pages(
    capsys: pytest.CaptureFixture[str], data: Path
) -> None:
    code, out, _ = cli(capsys, "-i", data, "--batch", 80, "--out", "out", "--json")
    assert code == 0
    record = json.loads(out)
    assert record == json.loads(Path("out/report.json").read_text())
    assert (record["rows"], record["mini_batches"], record["timed"]) == (200, 3, 3)
    spec = load_spec("rm1")
    chunks = 0
    for i, groups in enumerate(mini_batches(data, 80)):
        table = read_parquet(data, spec.columns, row_groups=groups)
        chunks += sum(c.work.compressed_bytes for c in table.chunks)
        wanted = preprocess(spec, table)
        with np.load(f"out/batch-{i:06d}.npz") as held:
            assert (held["dense"] == wanted.dense).all() and (held["values"] == wanted.sparse.values).all()
            assert (held["lengths"] == wanted.sparse.lengths).all() and (
                held["labels"] == wanted.labels
            ).all()
            assert tuple(held["keys"]) == wanted.sparse.keys
    assert record["work"]["parquet_decode"]["decode"]["compressed_bytes"] == chunks
    (unit,) = record["units"]
    assert unit["energy_pj"] == pytest.approx(25e3 * unit["time_ns"])
    assert unit["samples_per_s"] == pytest.approx(200e9 / unit["time_ns"])
    with Path("out/operators.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    hashes = next(row for row in rows if row["name"] == "sigrid_hash")
    assert int(hashes["values"]) == record["work"]["sigrid_hash"]["hashes"] == 200 * 39


def test_more_copies_take_less_until_they_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    one, six = (
        json.loads(cli(capsys, "-u", "u280", "--copies", n, "--json")[1])["units"][0] for n in (1, "fit")
    )
    assert one["operators"][2]["name"] == "parquet_decode"
    assert six["operators"][2]["time_ns"] < one["operators"][2]["time_ns"] / 3
    code, out, err = cli(capsys, "--copies", 2)
    assert (code, out) == (2, "") and "do not fit smartssd-vitis: LUT 108 %" in err
    assert cli(capsys, "--copies", "fit")[0] == 0


def test_cores_share_the_work(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "long.parquet"
    write_parquet(generate(load_spec("rm1"), 2000, seed=3), path, rows_per_group=400)
    times = {}
    for n in (1, 5):
        out = cli(capsys, "-i", path, "--batch", 400, "-u", "cpu", "--cores", n, "--json")[1]
        times[n] = json.loads(out)["units"][0]
    assert times[5]["time_ns"] < times[1]["time_ns"] / 3
    assert times[5]["power_w"]["value"] == 5 * times[1]["power_w"]["value"]


BAD = [
    (["-i", "none.parquet"], "none.parquet: cannot be read"),
    (["-i", "torn.parquet"], "torn.parquet: no whole Parquet file"),
    (["-i", "hole.parquet"], "hole.parquet: row group 3, column 'C1"),
    (["-i", "narrow.parquet"], "narrow.parquet: no column 'C1'"),
    (["-i", "empty.parquet"], "empty.parquet: holds no rows"),
    (["-s", "rm9"], "unknown preprocessing spec 'rm9'"),
    (["-u", "tpu"], "unknown preprocessing unit 'tpu'"),
    (["--copies", "two"], "--copies: must be 'fit' or a number"),
    (["-i", "data.parquet", "-u", "small.yaml"], "bytes do not fit the storage of 'small'"),
    (["-i", "data.parquet", "--out", "data.parquet"], "data.parquet: is a file; --out takes a folder"),
]


@pytest.mark.parametrize(("arguments", "text"), BAD)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str], data: Path
) -> None:
    whole = data.read_bytes()
    Path("torn.parquet").write_bytes(whole[: len(whole) // 2])
    about = pq.ParquetFile(data).metadata.row_group(3)
    chunk = next(about.column(i) for i in range(about.num_columns) if about.column(i).path_in_schema == "C1")
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    Path("hole.parquet").write_bytes(whole[:start] + bytes([255] * 12) + whole[start + 12 :])
    table = read_parquet(data)
    narrow = {name: column for name, column in table.columns.items() if name != "C1"}
    write_parquet(type(table)(narrow, table.rows), "narrow.parquet")
    write_parquet(table.slice(0, 0), "empty.parquet")
    described = DATA / "presto-smartssd.yaml"
    Path("system.yaml").write_text(described.read_text().replace("capacity_gb: 3840", "capacity_gb: 1.0e-6"))
    unit = load_preprocessor("smartssd").model_dump(mode="json") | {"system": "system.yaml"}
    del unit["name"]
    Path("small.yaml").write_text(yaml.safe_dump({"preprocessors": {"small": unit}}))
    before = sorted(os.listdir())
    more = [] if "--out" in arguments else ["--out", "out", "--batch", "40"]
    code, out, err = cli(capsys, *arguments, *more)
    assert (code, out) == (2, "")
    assert text in err and err.startswith("neardata: ") and len(err.splitlines()) == 1
    assert sorted(os.listdir()) == before


def test_what_was_interrupted_goes_on(
    capsys: pytest.CaptureFixture[str], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neardata.cli.preprocess_folder import BatchFolder

    keep, kept = BatchFolder.keep, []

    def interrupted(self: BatchFolder, i: int, batch: object) -> None:
        keep(self, i, batch)  # type: ignore[arg-type]
        kept.append(i)
        if len(kept) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(BatchFolder, "keep", interrupted)
    arguments = ("-i", data, "--batch", 40, "--out", "out", "--json")
    code, out, err = cli(capsys, *arguments)
    assert code == 130 and "stopping" in err
    record = json.loads(out)
    assert record["partial"] and record["mini_batches"] == 2 and record["mini_batches_of"] == 5
    first = Path("out/batch-000000.npz").read_bytes()
    assert not Path("out/batch-000002.npz").exists()
    code, out, _ = cli(capsys, *arguments)
    assert code == 0 and kept == [0, 1, 2, 3, 4]
    again = json.loads(out)
    assert not again["partial"] and again["rows"] == 200
    assert Path("out/batch-000000.npz").read_bytes() == first
    whole = json.loads(cli(capsys, "-i", data, "--batch", 40, "--out", "other", "--json")[1])
    assert whole["units"] == again["units"]


def test_a_mini_batch_that_was_cut_is_prepared_again(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    arguments = ("-i", data, "--batch", 40, "--out", "out", "--json")
    assert cli(capsys, *arguments)[0] == 0
    file = Path("out/batch-000001.npz")
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    assert cli(capsys, *arguments)[0] == 0
    assert file.read_bytes() == whole


def test_mini_batches_behind_those_that_are_timed_are_counted(
    capsys: pytest.CaptureFixture[str], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "TIMED", 2)
    for _ in range(2):  # the second time from the folder
        code, out, _ = cli(capsys, "-i", data, "--batch", 40, "--out", "out", "--json")
        record = json.loads(out)
        assert (code, record["rows"], record["mini_batches"], record["timed"]) == (0, 200, 5, 2)
    assert "of the first 2 mini-batches" in cli(capsys, "-i", data, "--batch", 40, "--out", "out")[1]


def test_a_folder_of_other_data_is_left_alone(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    assert cli(capsys, "-i", data, "--batch", 40, "--out", "out")[0] == 0
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    code, _, err = cli(capsys, "-i", data, "--batch", 80, "--out", "out")
    assert code == 2 and "holds mini-batches of other data, spec or size" in err
    code, _, err = cli(capsys, "-i", sample_path(), "--batch", 40, "--out", "out")
    assert code == 2
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
