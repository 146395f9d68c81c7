"""Columns from Parquet and Criteo's rows: values, page counts, damage told in one line; drawn data."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet as pq

from naive import parquet_runs
from neardata.arch.errors import InputError
from neardata.workloads.recsys import (
    Column,
    Table,
    generate,
    load_spec,
    read_criteo,
    read_parquet,
    read_table,
    sample_path,
    write_parquet,
)
from neardata.workloads.recsys.generate import zipf_ranks
from neardata.workloads.recsys.pages import PageError, hybrid

HEAD = Path(__file__).parents[1] / "data/recsys/criteo_head.csv"


def varint(n: int) -> bytes:
    return bytes([n & 127 | 128]) + varint(n >> 7) if n > 127 else bytes([n])


@st.composite
def hybrids(draw: st.DrawFn) -> tuple[bytes, int, list[int]]:
    """Runs of both kinds, their width and values."""
    bits = draw(st.integers(0, 32))
    number = st.integers(0, 2**bits - 1)
    encoded, values = b"", []
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            value, n = draw(number), draw(st.integers(1, 300))
            encoded += varint(n << 1) + value.to_bytes(-(-bits // 8), "little")
            values += [value] * n
        else:
            groups = draw(st.integers(1, 3))
            new = draw(st.lists(number, min_size=8 * groups, max_size=8 * groups))
            word = sum(v << i * bits for i, v in enumerate(new))
            encoded += varint(groups << 1 | 1) + word.to_bytes(groups * bits, "little")
            values += new
    return encoded, bits, values


@given(hybrids(), st.integers(0, 8), st.data())
@settings(max_examples=150, deadline=None)
def test_runs_and_their_twin(drawn: tuple[bytes, int, list[int]], cut: int, data: st.DataObject) -> None:
    encoded, bits, values = drawn
    n = max(1, len(values) - cut)
    wanted = data.draw(st.sampled_from(values))
    found, counts = parquet_runs.decode(encoded, bits, n)
    runs, matches = hybrid(encoded, bits, n, wanted)
    assert found == values[:n]
    assert [runs.repeated_runs, runs.repeated_values, runs.packed_runs, runs.packed_values] == counts
    assert matches == found.count(wanted) and runs.values == n


@given(st.binary(max_size=12), st.integers(0, 33), st.integers(1, 100))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_runs_or_an_error(encoded: bytes, bits: int, n: int) -> None:
    try:
        want: object = parquet_runs.decode(encoded, bits, n)[1] if bits <= 32 else None
    except EOFError:
        want = None
    try:
        runs = hybrid(encoded, bits, n)[0]
        got: object = [runs.repeated_runs, runs.repeated_values, runs.packed_runs, runs.packed_values]
    except PageError:
        got = None
    assert got == want or len(encoded) > 8  # headers above 2**63 are an error here, a number there


def mixed(rows: int, seed: int = 0) -> Table:
    draw = np.random.default_rng(seed)
    lengths = draw.poisson(3, rows).astype(np.int32)
    n = int(lengths.sum())
    valid = draw.random(rows) < 0.6
    numbers = np.where(valid, draw.normal(size=rows), 0).astype(np.float32)
    flags = draw.random(n) < 0.9
    columns = {
        "number": Column(numbers, valid),
        "few": Column(draw.integers(0, 5, rows)),
        "list": Column(np.where(flags, draw.integers(-(2**63), 2**63 - 1, n), 0), flags, lengths),
        "nothing": Column(np.zeros(rows, dtype=np.float32), np.zeros(rows, dtype=bool)),
    }
    return Table(columns, rows)


def same(a: Column, b: Column) -> bool:
    flags = [np.ones(len(c.values), dtype=bool) if c.valid is None else c.valid for c in (a, b)]
    lengths = [np.ones(c.rows, dtype=np.int32) if c.lengths is None else c.lengths for c in (a, b)]
    return (
        a.values.dtype == b.values.dtype
        and np.array_equal(a.values, b.values)
        and np.array_equal(*flags)
        and np.array_equal(*lengths)
    )


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_a_table_comes_back_and_its_pages_add_up(
    tmp_path: Path, codec: str, version: str, dictionary: bool
) -> None:
    table, path = mixed(3000), tmp_path / "a.parquet"
    write_parquet(
        table, path, rows_per_group=1000, compression=codec, data_page_version=version,
        use_dictionary=dictionary, data_page_size=2000,
    )  # fmt: skip
    back = read_parquet(path)
    assert all(same(table[name], back[name]) for name in table.columns)
    metadata = pq.ParquetFile(path).metadata
    by_place = {(c.row_group, c.path): c for c in back.chunks}
    assert len(by_place) == 12
    for group in range(3):
        for i in range(4):
            about = metadata.row_group(group).column(i)
            work = by_place[group, about.path_in_schema].work
            assert work.compressed_bytes == about.total_compressed_size
            assert work.values == about.num_values
            assert work.present == about.num_values - about.statistics.null_count
            assert work.dictionary_values + work.plain_values == work.present
            levels = 2 if about.path_in_schema.startswith("list") else 1
            assert work.levels == levels * work.values
            assert work.repeated_values + work.packed_values == work.levels + work.dictionary_values
    few = by_place[0, "few"]
    assert (few.work.dictionary_entries == 5) == dictionary
    assert {p.kind for p in few.pages} - {"dictionary"} == {"data" if version == "1.0" else "data_v2"}


def test_kinds_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = {
        "flag": pa.array([True, None, False]),
        "double": pa.array([0.1, None, 1e300]),
        "small": pa.array([1, 2, None], pa.int8()),
        "hex": pa.array(["68fd1e64", None, "0A"]),
        "coded": pa.array([1.5, None, 1.5]).dictionary_encode(),
        "lists": pa.array([[1, None], None, []], pa.list_(pa.int64())),
    }
    pq.write_table(pa.table(columns), path)
    found = read_parquet(path)
    assert found["flag"].values.tolist() == [1, 0, 0]
    with np.errstate(over="ignore"):
        assert found["double"].values.tolist() == np.float32([0.1, 0, 1e300]).tolist()
    assert found["small"].values.dtype == np.int64
    assert found["hex"].values.tolist() == [0x68FD1E64, 0, 10] and found.nulls["hex"] == 1
    assert found["coded"].values.tolist() == [1.5, 0, 1.5]
    lists = found["lists"]
    assert lists.lengths is not None and lists.lengths.tolist() == [2, 0, 0]
    assert lists.valid is not None and lists.valid.tolist() == [True, False]


def test_names_with_dots_and_names_that_come_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    lists = pa.array([[1, 2], [3]], pa.list_(pa.int64()))
    pq.write_table(pa.table({"a.b": [1, 2], "a": [3, 4], "c.d": lists, "c": [5, 6]}), path)
    table = read_parquet(path)
    assert [(c.column, c.work.values) for c in table.chunks] == [("a.b", 2), ("a", 2), ("c.d", 3), ("c", 2)]
    assert table["a"].values.tolist() == [3, 4] and table["c.d"].values.tolist() == [1, 2, 3]
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), path)
    with pytest.raises(InputError, match=r"a\.parquet: column 'a' comes twice"):
        read_parquet(path)


def test_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(mixed(0), path)
    assert read_parquet(path).rows == 0
    assert read_parquet(path, row_groups=[]).rows == 0


def test_row_groups_and_columns_that_are_asked_for(tmp_path: Path) -> None:
    table, path = mixed(3000), tmp_path / "a.parquet"
    write_parquet(table, path, rows_per_group=1000)
    part = read_parquet(path, ["list"], row_groups=[1])
    assert list(part.columns) == ["list"] and same(part["list"], table.slice(1000, 2000)["list"])
    with pytest.raises(InputError, match=r"a\.parquet: no column 'lst'; did you mean list\?"):
        read_parquet(path, ["lst"])
    with pytest.raises(InputError, match="no row group 3; there are 3"):
        read_parquet(path, row_groups=[3])


def test_files_that_are_no_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(InputError, match="cannot be read"):
        read_parquet(path)
    for held in (b"", b"PAR1", b"no" * 100):
        path.write_bytes(held)
        with pytest.raises(InputError, match=r"a\.parquet: no whole Parquet file"):
            read_parquet(path)
    write_parquet(mixed(100), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="no whole Parquet file"):
        read_parquet(path)
    pq.write_table(pa.table({"when": pa.array([1], pa.timestamp("s"))}), path)
    with pytest.raises(InputError, match="column 'when' is of type timestamp"):
        read_parquet(path)
    pq.write_table(pa.table({"text": ["xyz"]}), path)
    with pytest.raises(InputError, match="row group 0, column 'text': no hexadecimal id: 'xyz'"):
        read_parquet(path)


def test_damage_names_row_group_and_column(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(mixed(2000), path, rows_per_group=1000, compression="gzip")
    whole = path.read_bytes()
    about = pq.ParquetFile(path).metadata.row_group(1).column(1)
    damaged = bytearray(whole)
    start = about.dictionary_page_offset
    damaged[start : start + about.total_compressed_size] = bytes(about.total_compressed_size)
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"a\.parquet: row group 1, column 'few': ") as raised:
        read_parquet(path)
    assert "\n" not in str(raised.value)
    path.write_bytes(whole)
    assert read_parquet(path).rows == 2000


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_changed_byte_gives_a_table_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damage") / "a.parquet"
    write_parquet(mixed(50), path, rows_per_group=30)
    held = bytearray(path.read_bytes())
    # not in the footer, where some damage ends PyArrow's process
    pages = len(held) - 8 - int.from_bytes(held[-8:-4], "little")
    held[data.draw(st.integers(0, pages - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(held)
    try:
        read_parquet(path)
    except InputError as error:
        assert "\n" not in str(error) and "a.parquet" in str(error)


def test_criteo_rows(tmp_path: Path) -> None:
    table = read_criteo(HEAD)
    assert table.rows == 10
    assert table["I2"].values[:3].tolist() == [3, -1, 0]
    assert table["C1"].values[1] == 0x68FD1E64
    assert table.nulls["I1"] == 3 and "label" not in table.nulls
    lines = HEAD.read_text().splitlines()[1:]
    tsv = tmp_path / "day_0"
    tsv.write_text("\n".join(line.replace(",", "\t") for line in lines))
    assert all(same(table[name], read_criteo(tsv)[name]) for name in table.columns)
    tsv.write_text("\n".join(line.replace(",", "\t").partition("\t")[2] for line in lines))
    assert list(read_criteo(tsv).columns) == list(table.columns)[1:]
    assert read_criteo(HEAD, rows=3).rows == 3
    written = tmp_path / "a.parquet"
    write_parquet(table, written)
    assert all(same(table[name], read_table(written)[name]) for name in table.columns)


GOOD = "\t".join(["1", *["5"] * 13, *["ff"] * 26])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", ": holds no rows"),
        (b"1\t2\n", ":1: 2 tab-separated fields; Criteo's rows have 40"),
        (f"{GOOD}\n{GOOD}\t3\n".encode(), ":2: 41 fields for 40 columns"),
        (f"{GOOD}\n{GOOD.replace('5', 'x', 1)}".encode(), ":2: I1: not a number: 'x'"),
        (f"{GOOD}\n{GOOD.replace('5', 'inf', 1)}".encode(), ":2: I1: not a number: 'inf'"),
        (f"{GOOD}\n{GOOD.replace('ff', 'fg', 1)}".encode(), ":2: C1: no hexadecimal id: 'fg'"),
        (f"{GOOD}\n{GOOD.replace('ff', '-1', 1)}".encode(), ":2: C1: no hexadecimal id: '-1'"),
        (f"{GOOD}\n2{GOOD[1:]}".encode(), ":2: label: labels are 0 and 1, got '2'"),
        (GOOD.encode() + b"\n" + GOOD.encode().replace(b"ff", b"\xff\xfe", 1), ":2: not UTF-8 text"),
    ],
)
def test_malformed_rows_are_named_by_line(tmp_path: Path, text: bytes, problem: str) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(text)
    with pytest.raises(InputError) as raised:
        read_criteo(path)
    assert str(raised.value).startswith(f"{path}{problem}")


def test_headers_of_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("label,I1,C99\n0,1,ff\n")
    with pytest.raises(InputError, match=r"a\.csv:1: unknown column 'C99'; did you mean"):
        read_criteo(path)
    path.write_text("label,I1,I1\n")
    with pytest.raises(InputError, match="column 'I1' comes twice"):
        read_criteo(path)
    path.write_text("label,I1,C1\n")
    assert read_criteo(path).rows == 0
    with pytest.raises(InputError, match="No such file"):
        read_criteo(tmp_path / "b.csv")


def test_drawn_data_are_as_the_spec_says(tmp_path: Path) -> None:
    rm1 = load_spec("rm1")
    table = generate(rm1, 20_000, seed=3)
    drawn = rm1.features["dense"].generate
    assert drawn is not None and isinstance(drawn.null_rate, tuple)
    for i, rate in enumerate(drawn.null_rate):
        assert table[f"I{i + 1}"].nulls / table.rows == pytest.approx(rate, abs=0.02)
    five = np.log1p(table["I5"].values[table["I5"].values > 0])
    assert five.mean() == pytest.approx(7.13, abs=0.2)
    # the most frequent id of many comes far more often than an even share
    counts = np.unique(table["C1"].values, return_counts=True)[1]
    assert counts.max() > 0.05 * table.rows and 1000 < len(counts) < table.rows
    assert table["label"].values.mean() == pytest.approx(0.25, abs=0.02)
    again = generate(rm1, 20_000, seed=3)
    assert all(same(table[name], again[name]) for name in table.columns)
    assert not same(table["C1"], generate(rm1, 20_000, seed=4)["C1"])
    files = []
    for name in ("a", "b"):
        write_parquet(table, tmp_path / name)
        files.append(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert files[0] == files[1]
    lists = generate(load_spec("rm2"), 500)["s1"]
    assert lists.lengths is not None and lists.lengths.mean() == pytest.approx(20, abs=1)


def test_zipf_ranks_follow_their_law() -> None:
    for s in (0.5, 1.0, 1.1, 2.0):
        n = 50
        found = np.bincount(zipf_ranks((np.arange(10**5) + 0.5) / 10**5, n, s), minlength=n) / 10**5
        edges = np.arange(1, n + 2, dtype=float)
        integral = np.log(edges) if s == 1 else edges ** (1 - s) / (1 - s)
        want = np.diff(integral) / (integral[-1] - integral[0])
        np.testing.assert_allclose(found, want, atol=2e-5)


def test_the_sample_is_the_generator_s() -> None:
    assert sample_path().stat().st_size <= 200_000
    table, drawn = read_table(sample_path()), generate(load_spec("rm1"), 512)
    assert all(same(drawn[name], table[name]) for name in drawn.columns)
    assert {c.row_group for c in table.chunks} == {0, 1}
