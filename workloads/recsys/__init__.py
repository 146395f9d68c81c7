"""Preprocessing of recommendation models: operators, specs, data, graphs.

>>> from neardata.workloads.recsys import load_spec, preprocess, read_table, sample_path, work_of, graph_of
>>> rm1, table = load_spec("rm1"), read_table(sample_path())
>>> int(preprocess(rm1, table, kernels=False).sparse.lengths.sum())
18523
>>> work_of(graph_of(rm1, table))["bucketize"].comparisons == table.rows * 13 * 11
True
"""

from pathlib import Path

from neardata.workloads.recsys.criteo import read_criteo, read_table
from neardata.workloads.recsys.generate import generate
from neardata.workloads.recsys.graph import Work, graph_of, work, work_of
from neardata.workloads.recsys.parquet import mini_batches, read_parquet, write_parquet
from neardata.workloads.recsys.preprocess import KeyedJagged, MiniBatch, batches, preprocess
from neardata.workloads.recsys.spec import Spec, load_spec, spec_names
from neardata.workloads.recsys.table import Column, Table


def sample_path() -> Path:
    """A generated file that ships with the package: 512 rows in Criteo's schema, in two row groups.

    Written by ``write_parquet(generate(load_spec("rm1"), 512), path, rows_per_group=256)``.
    """
    return Path(__file__).parent / "data" / "criteo_like.parquet"


__all__ = [
    "Column", "KeyedJagged", "MiniBatch", "Spec", "Table", "Work", "batches", "generate", "graph_of",
    "load_spec", "mini_batches", "preprocess", "read_criteo", "read_parquet", "read_table", "sample_path",
    "spec_names", "work", "work_of", "write_parquet",
]  # fmt: skip
