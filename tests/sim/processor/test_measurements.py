"""Predictions against measurements, and the constants against the fit that gave them.

The tables and fits are those of benchmarks/processors.py.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from statistics import median
from types import ModuleType

import pytest

from neardata.arch.link import load_link
from neardata.arch.processor import load_processor


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    path = Path(__file__).parents[3] / "benchmarks" / "processors.py"
    spec = importlib.util.spec_from_file_location("benchmark_processors", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a100_holds_what_the_fit_gives(tables: ModuleType) -> None:
    efficiency = load_processor("a100-80gb").efficiency
    assert tables.fit_a100() == {key: getattr(efficiency, key).value for key in tables.fit_a100()}


def test_rtx_pro_6000_holds_what_the_fit_gives(tables: ModuleType) -> None:
    a100, rtx = (load_processor(name).efficiency for name in ("a100-80gb", "rtx-pro-6000"))
    carried = {key: getattr(a100, key).value for key in ("matrix", "memory", "exposed", "launch_ns")}
    assert tables.fit_rtx(carried) == {key: getattr(rtx, key).value for key in carried}
    row_ns = load_processor("rtx-pro-6000").compute.row_ns
    assert row_ns is not None and tables.fit_rtx_rows() == {"row_ns": row_ns.value}


def test_nvlink_3_holds_what_the_fits_give(tables: ModuleType) -> None:
    link = load_link("nvlink-3")
    assert link.collective is not None
    assert tables.fit_nvlink("", "send_recv") == {
        "startup_ns": link.startup_ns.value,
        "fraction": link.fraction.value,
    }
    assert tables.fit_nvlink("collective.", "all_reduce") == {
        "startup_ns": link.collective.startup_ns.value,
        "fraction": link.collective.fraction.value,
    }


def test_a100_linear_layers_of_models_it_was_not_fitted_to(tables: ModuleType) -> None:
    gpu = load_processor("a100-80gb")
    errors = tables.Errors.of(tables.a100_linear(gpu, lambda model: model != tables.A100_FITTED))
    assert errors.rows == 672
    assert errors.median <= 0.08
    assert errors.p90 <= 0.20


def test_rtx_pro_6000_layers(tables: ModuleType) -> None:
    gpu = load_processor("rtx-pro-6000")
    families = {**tables.rtx_dense(gpu, fitted=False), **tables.rtx_others(gpu)}
    assert tables.Errors.of([pair for pairs in families.values() for pair in pairs]).median <= 0.12
    dense = [pair for family in tables.rtx_dense(gpu, fitted=False).values() for pair in family]
    assert tables.Errors.of(dense).median <= 0.12
    # Llama's rows shaped the model; Qwen3's decided no constant, and the form of two norms
    qwen = [pair for family, pairs in families.items() if family.startswith("qwen") for pair in pairs]
    assert len(qwen) == 3305
    assert tables.Errors.of(qwen).median <= 0.12
    qwen_dense = [
        pair
        for family in tables.rtx_dense(gpu, fitted=False)
        if family.startswith("qwen")
        for pair in families[family]
    ]
    assert len(qwen_dense) == 1104
    assert tables.Errors.of(qwen_dense).median <= 0.12
    attention = [pair for family, pairs in families.items() if "qwen attention" in family for pair in pairs]
    assert tables.Errors.of(attention).median <= 0.12
    matrix = [
        pair
        for family, pairs in families.items()
        if family.split()[-1] in tables.MATRIX_LAYERS
        for pair in pairs
    ]
    assert tables.Errors.of(matrix).median <= 0.12
    assert tables.Errors.of(families["qwen experts"]).median <= 0.12


@pytest.mark.parametrize("ranks", [4, 8])
def test_all_reduce_of_as_many_ranks_as_it_was_not_fitted_to(tables: ModuleType, ranks: int) -> None:
    assert tables.Errors.of(tables.nvlink(load_link("nvlink-3"), "all_reduce", ranks)).median <= 0.15


def test_send_recv(tables: ModuleType) -> None:
    assert tables.Errors.of(tables.nvlink(load_link("nvlink-3"), "send_recv", 2)).median <= 0.15


@pytest.mark.parametrize("model", ["llama2-70b", "bloom-176b"])
@pytest.mark.parametrize("of", ["TTFT", "TBT"])
def test_h100_over_a100(tables: ModuleType, model: str, of: str) -> None:
    ratios = [r for r in tables.splitwise_ratios() if r.model == model and r.of == of]
    predicted, measured = median(r.predicted for r in ratios), median(r.measured for r in ratios)
    assert abs(predicted / measured - 1) <= 0.15
