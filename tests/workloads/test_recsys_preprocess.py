"""Specs, their graphs and mini-batches: against row-by-row Python, and what does not fit told in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naive import recsys as naive
from neardata.arch.errors import InputError
from neardata.workloads.recsys import (
    Column,
    Spec,
    Table,
    batches,
    generate,
    graph_of,
    load_spec,
    preprocess,
    read_table,
    sample_path,
    spec_names,
    work,
    work_of,
    write_parquet,
)
from neardata.workloads.recsys.spec import Bucketize


def by_rows(spec: Spec, table: Table) -> tuple[list[list[float]], list[list[int]], list[int]]:
    """Dense rows, lengths (features, rows) and ids, row by row in plain Python."""
    dense: list[list[float]] = []
    lengths: list[list[int]] = []
    ids: list[int] = []
    for group in spec.features.values():
        steps = [step.model_dump() for step in group.steps]
        for given_step, dumped in zip(group.steps, steps, strict=True):
            if isinstance(given_step, Bucketize):
                dumped["borders"] = given_step.numbers.tolist()
        for name in group.column_names:
            column = table[name]
            parts = [None if a is None else a.tolist() for a in (column.valid, column.lengths)]
            rows = naive.rows_of(column.values.tolist(), *parts)
            for op in steps:
                if column.values.dtype == np.int64:  # constants in the type of the values
                    op = {k: int(v) if isinstance(v, float) else v for k, v in op.items()}
                rows = [naive.step(value, op) for value in rows]
            if group.output == "dense":
                dense.append(rows)
                continue
            lists = [row if isinstance(row, list) else [row] for row in rows]
            kept = [[v for v in row if v is not None] for row in lists]
            lengths.append([len(row) for row in kept])
            ids += [v for row in kept for v in row]
    return dense, lengths, ids


def check(spec: Spec, table: Table) -> None:
    dense, lengths, ids = by_rows(spec, table)
    for kernels in (True, False):
        batch = preprocess(spec, table, kernels=kernels)
        np.testing.assert_array_equal(
            batch.dense, np.array(dense, dtype=np.float32).T.reshape(batch.dense.shape)
        )
        assert batch.sparse.lengths.tolist() == lengths
        assert batch.sparse.values.tolist() == ids


@pytest.mark.parametrize("name", spec_names())
def test_shipped_specs_against_rows(name: str) -> None:
    spec = load_spec(name)
    check(spec, generate(spec, 120 if name == "rm1" else 3, seed=1))


def test_the_sample_against_rows() -> None:
    check(load_spec("rm1"), read_table(sample_path()))


@pytest.mark.parametrize(
    ("name", "dense", "sparse", "generated", "tables", "borders", "length"),
    [
        ("rm1", 13, 26, 13, 39, 1024, 1),
        ("rm2", 504, 42, 21, 63, 1024, 20),
        ("rm3", 504, 42, 42, 84, 1024, 20),
        ("rm4", 504, 42, 42, 84, 2048, 20),
        ("rm5", 504, 42, 42, 84, 4096, 20),
    ],
)
def test_shipped_specs_are_table_1_of_presto(
    name: str, dense: int, sparse: int, generated: int, tables: int, borders: int, length: int
) -> None:
    spec = load_spec(name)
    groups = spec.features
    assert len(spec.names("dense")) == dense and len(groups["sparse"].feature_names) == sparse
    assert len(groups["generated"].feature_names) == generated and len(spec.names("sparse")) == tables
    step = groups["generated"].steps[1]
    assert isinstance(step, Bucketize) and len(step.numbers) == borders
    assert spec.batch == 8192 and spec.bottom_mlp[-1] == spec.embedding_width
    drawn = groups["sparse"].generate
    assert drawn is not None and (1 if drawn.lengths is None else drawn.lengths.mean) == length
    assert "2406.14571" in spec.source and spec.assumed


def spec_of(tmp_path: Path, features: str, label: str = "null") -> Spec:
    path = tmp_path / "own.yaml"
    about = f"kind: recsys\n    source: here\n    batch: 4\n    label: {label}\n    features:\n"
    head = f"preprocessing:\n  own:\n    {about}"
    path.write_text(head + features)
    return load_spec(str(path))


ALL = """\
      lists:
        columns: l
        output: sparse
        steps:
          - {op: first_x, k: 3}
          - {op: fill_null, value: -7}
          - {op: clamp, low: -100, high: 100}
          - {op: sigrid_hash, salt: 5, max: 1000}
      pairs:
        columns: l
        features: l2
        output: sparse
        steps:
          - {op: fill_null, value: 0}
          - {op: ngram, n: 2, salt: -1, max: 77}
      kept:
        columns: l
        features: l3
        output: sparse
        steps: [{op: first_x, k: 2}]
      ids:
        columns: c
        output: sparse
      buckets:
        columns: d
        output: sparse
        features: b
        steps:
          - {op: fill_null, value: 0.5}
          - {op: bucketize, borders: [0, 1, 1, 2, 2]}
      numbers:
        columns: d
        output: dense
        steps:
          - {op: fill_null, value: 0.5}
          - {op: clamp, low: 0, high: 9}
          - {op: log, offset: 1}
"""


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_every_step_against_rows(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    spec = spec_of(tmp_path_factory.mktemp("spec"), ALL)
    rows = data.draw(st.integers(0, 6))
    lengths = np.array(data.draw(st.lists(st.integers(0, 5), min_size=rows, max_size=rows)), dtype=np.int32)

    def column(of: Any, dtype: Any, n: int, given_lengths: Any = None) -> Column:
        values = np.array(data.draw(st.lists(of, min_size=n, max_size=n)), dtype=dtype)
        valid = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=bool)
        return Column(np.where(valid, values, 0).astype(dtype), None if valid.all() else valid, given_lengths)

    int64 = st.integers(-(2**63), 2**63 - 1)
    number = st.sampled_from([0.0, 1.0, 2.0]) | st.floats(-3, 20, width=32)
    columns = {
        "l": column(int64, np.int64, int(lengths.sum()), lengths),
        "c": column(int64, np.int64, rows),
        "d": column(number, np.float32, rows),
    }
    check(spec, Table(columns, rows))


def test_all_values_missing(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, ALL)
    nothing = np.zeros(4, dtype=bool)
    lengths = np.array([4, 0, 0, 0], dtype=np.int32)
    zeros = np.zeros(4, dtype=np.int64)
    columns = {
        "l": Column(zeros, nothing, lengths),
        "c": Column(zeros, nothing),
        "d": Column(zeros.astype(np.float32), nothing),
    }
    check(spec, Table(columns, 4))
    batch = preprocess(spec, Table(columns, 4), kernels=False)
    assert batch.sparse["c"].lengths is not None and batch.sparse["c"].lengths.tolist() == [0, 0, 0, 0]
    assert batch.labels is None


def test_one_hot_widens_the_dense_matrix(tmp_path: Path) -> None:
    spec = spec_of(
        tmp_path,
        "      a: {columns: c, output: dense, steps: [{op: one_hot, size: 3}]}\n"
        "      b: {columns: d, output: dense, steps: [{op: logit}]}\n",
    )
    table = Table({"c": Column(np.array([2, 0])), "d": Column(np.float32([0.5, 0.5]))}, 2)
    assert preprocess(spec, table).dense.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    found = work_of(graph_of(spec, table))
    assert found["one_hot"].values_out == 6 and found["logit"].logarithms == 2


def test_batches_are_the_whole(tmp_path: Path) -> None:
    spec = load_spec("rm2", {"batch": 7})
    table = generate(spec, 20)
    whole = preprocess(spec, table)
    parts = [preprocess(spec, part) for part in batches(spec, table)]
    assert [part.rows for part in parts] == [7, 7, 6]
    assert np.array_equal(np.concatenate([p.dense for p in parts]), whole.dense)
    assert np.array_equal(np.hstack([p.sparse.lengths for p in parts]), whole.sparse.lengths)
    key = spec.names("sparse")[-1]
    assert np.array_equal(np.concatenate([p.sparse["s1"].values for p in parts]), whole.sparse["s1"].values)
    assert np.array_equal(np.concatenate([p.sparse[key].values for p in parts]), whole.sparse[key].values)
    assert whole.labels is not None and whole.bytes == sum(p.bytes for p in parts)


def test_work_adds_up(tmp_path: Path) -> None:
    rm5 = load_spec("rm5")
    path = tmp_path / "a.parquet"
    write_parquet(generate(rm5, 64), path)
    table = read_table(path, rm5.columns)
    graph = graph_of(rm5, table)
    found = work_of(graph)
    assert found["bucketize"].comparisons == 64 * 42 * 13
    assert found["bucketize"].constant_bytes == 42 * 4096 * 4
    assert found["log"].logarithms == 64 * 504
    ids = sum(len(table[f"s{i}"].values) for i in range(1, 43))
    assert found["sigrid_hash"].hashes == ids + 64 * 42
    assert found["keyed_jagged"].values_out == ids + 64 * 42
    decoded = found["parquet_decode"].decode
    assert decoded.compressed_bytes == sum(c.work.compressed_bytes for c in table.chunks)
    assert found["parquet_decode"].operators == len(rm5.columns)
    batch = preprocess(rm5, table)
    assert found["keyed_jagged"].bytes_out == batch.sparse.lengths.nbytes + batch.sparse.values.nbytes
    assert found["dense_matrix"].bytes_out == batch.dense.nbytes
    for operator in graph:
        assert work(graph, operator).operators == 1
    # without pages there is nothing to decode, and the rest is the same
    plain = work_of(graph_of(rm5, table.slice(0, 64)))
    assert plain == {kind: w for kind, w in found.items() if kind != "parquet_decode"}


def test_a_sample_of_rm5_is_8736_bytes_before_the_steps(tmp_path: Path) -> None:
    """504 numbers of 4 bytes and 42 lists of 20 ids of 8 bytes; 42 searches of 13 steps, 882 hashes, 504
    logarithms."""
    lengths = {"features.sparse.generate.lengths": {"kind": "fixed", "mean": 20}}
    rm5 = load_spec("rm5", lengths)
    table = generate(rm5, 10)
    assert sum(table[name].values.nbytes for name in rm5.columns[1:]) == 10 * 8736
    found = work_of(graph_of(rm5, table))
    assert found["bucketize"].comparisons == 10 * 42 * 13
    assert found["sigrid_hash"].hashes == 10 * (42 * 20 + 42)
    assert found["log"].logarithms == 10 * 504


SPARSE = "      a: {columns: %s, output: sparse, steps: [%s]}\n"


@pytest.mark.parametrize(
    ("features", "problem"),
    [
        (SPARSE % ("cc", ""), r"the table: own: features\.a\.columns: no column 'cc'; did you mean"),
        (
            SPARSE % ("d", ""),
            r"own: features\.a\.output: column 'd' ends as float32; sparse features are ids",
        ),
        (
            SPARSE % ("d", "{op: sigrid_hash, salt: 0, max: 2}"),
            r"features\.a\.steps\.0\.sigrid_hash: column 'd'",
        ),
        (SPARSE % ("c", "{op: first_x, k: 2}"), "column 'c' holds one value a row; lists are needed"),
        (SPARSE % ("l", "{op: ngram, n: 2, salt: 0, max: 9}"), "ids are missing; fill_null comes first"),
        (SPARSE % ("n", "{op: fill_null, value: 0.5}"), "0.5 for whole numbers"),
        (
            "      a: {columns: l, output: dense}\n",
            "column 'l' holds lists; dense features are one number a row",
        ),
        ("      a: {columns: d, output: dense}\n", "1 values of column 'd' are missing; fill_null first"),
    ],
)
def test_what_does_not_fit_the_data(tmp_path: Path, features: str, problem: str) -> None:
    flags = np.array([True, False])
    columns = {
        "l": Column(np.array([1, 0]), flags, np.array([2, 0], dtype=np.int32)),
        "c": Column(np.array([1, 2])),
        "n": Column(np.array([1, 0]), flags),
        "d": Column(np.float32([1, 0]), flags),
    }
    with pytest.raises(InputError, match=problem) as raised:
        graph_of(spec_of(tmp_path, features), Table(columns, 2))
    assert "\n" not in str(raised.value)


def test_labels(tmp_path: Path) -> None:
    features = SPARSE % ("c", "")
    spec = spec_of(tmp_path, features, label="y")
    with pytest.raises(InputError, match="own: label: no column 'y'"):
        preprocess(spec, Table({"c": Column(np.array([1]))}, 1))
    missing = Column(np.array([0]), np.array([False]))
    with pytest.raises(InputError, match="column 'y' holds missing values"):
        preprocess(spec, Table({"c": Column(np.array([1])), "y": missing}, 1))


@pytest.mark.parametrize(
    ("features", "problem"),
    [
        (
            SPARSE % ("c", "{op: sigrid_hsh}"),
            r"own\.yaml:8: .*op: 'sigrid_hsh' is not known; did you mean sigrid_hash",
        ),
        (SPARSE % ("c", "{op: first_x}"), r"own\.yaml:8: .*k: missing"),
        (SPARSE % ("c", "{op: first_x, k: -1}"), r"steps\.0\.k: must be at least 0, got -1"),
        (SPARSE % ("c", "{op: bucketize, borders: [2, 1]}"), "1.0 follows 2.0; borders do not decrease"),
        (SPARSE % ("c", "{op: clamp, low: 2, high: 1}"), "low must not be above high"),
        (SPARSE % ("'c[3-1]'", ""), "name none"),
        ("      a: {columns: c, output: sparse, features: [x, y]}\n", "2 features for 1 columns"),
        ("      a: {columns: [c, c], output: sparse}\n", "feature 'c' comes out of 'a' and of 'a'"),
        ("      a: {columns: c, output: spars}\n", "'spars' is not known; did you mean sparse"),
        ("      a: {columns: c, output: sparse, stps: []}\n", "unknown key; did you mean steps"),
    ],
)
def test_specs_that_cannot_be(tmp_path: Path, features: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as raised:
        spec_of(tmp_path, features)
    assert "own.yaml:" in str(raised.value) and "\n" not in str(raised.value)


def test_unknown_specs_and_columns_that_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown preprocessing spec 'rm9'; did you mean rm"):
        load_spec("rm9")
    with pytest.raises(InputError, match=r"features\.a\.generate: spec 'own' does not say how to draw 'c'"):
        generate(spec_of(tmp_path, SPARSE % ("c", "")), 3)
