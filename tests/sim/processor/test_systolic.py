"""Systolic arrays: the closed form against SCALE-Sim's runs and against an array moved unit by unit."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naive import systolic as naive
from neardata.arch.errors import InputError
from neardata.arch.processor import SystolicArray, load_systolic
from neardata.sim.processor.systolic import run_systolic

with (Path(__file__).parents[2] / "data" / "processor" / "scalesim.csv").open(encoding="utf-8") as file:
    ROWS = list(csv.DictReader(file))
MEASURED = [row for row in ROWS if row["source"] == "measured"]


def array(rows: int, columns: int, dataflow: str, fold_overlap: bool = False) -> SystolicArray:
    settings = {"rows": rows, "columns": columns, "dataflow": dataflow, "fold_overlap": fold_overlap}
    return load_systolic("systolic-16", settings)


def of_row(row: dict[str, str]) -> SystolicArray:
    return array(int(row["array_rows"]), int(row["array_cols"]), row["dataflow"])


def sizes(row: dict[str, str]) -> tuple[int, int, int]:
    return int(row["M"]), int(row["N"]), int(row["K"])


def test_there_are_as_many_rows_as_were_recorded() -> None:
    assert len(MEASURED) == 133
    assert len(ROWS) - len(MEASURED) == 576


def test_cycles_are_those_of_every_row() -> None:
    for row in ROWS:
        assert run_systolic(of_row(row), *sizes(row)).cycles == int(row["closed_form_cycles"]), row


def test_scale_sim_prints_the_index_of_the_last_cycle() -> None:
    for row in MEASURED:
        assert run_systolic(of_row(row), *sizes(row)).cycles - 1 == int(row["compute_cycles_reported"]), row


def test_sram_traffic_is_that_of_every_measured_row() -> None:
    for row in MEASURED:
        run = run_systolic(of_row(row), *sizes(row))
        assert run.a_reads == int(row["sram_ifmap_reads"]), row
        assert run.b_reads == int(row["sram_filter_reads"]), row
        # SCALE-Sim counts the shape of the array into the writes of each output-stationary fold
        counted = (
            run.folds * (int(row["array_rows"]) + int(row["array_cols"])) if row["dataflow"] == "os" else 0
        )
        assert run.c_writes + counted == int(row["sram_ofmap_writes"]), row


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9),
    st.sampled_from(["os", "ws", "is"]), st.booleans(),
)  # fmt: skip
def test_every_unit_of_every_cycle_gives_the_closed_form(
    rows: int, columns: int, m: int, n: int, k: int, dataflow: str, overlap: bool
) -> None:
    rng = np.random.Generator(np.random.PCG64(m + 10 * n + 100 * k))
    a, b = rng.integers(-9, 9, (m, k)), rng.integers(-9, 9, (k, n))
    seen = naive.run(a, b, rows, columns, dataflow, overlap)
    assert (seen.c == a @ b).all()
    run = run_systolic(array(rows, columns, dataflow, overlap), m, n, k)
    assert run.cycles == seen.cycles
    assert (run.a_reads, run.b_reads, run.c_writes) == (seen.a_reads, seen.b_reads, seen.c_writes)


def test_one_unit_and_one_number_take_one_cycle_to_hold_and_one_to_multiply() -> None:
    assert run_systolic(array(1, 1, "os"), 1, 1, 1).cycles == 1
    assert run_systolic(array(1, 1, "ws"), 1, 1, 1).cycles == 2


def test_overlap_leaves_one_fill_and_one_drain() -> None:
    assert run_systolic(array(4, 4, "os", True), 8, 8, 10).cycles == 4 * 10 + 6
    assert run_systolic(array(4, 4, "ws", True), 10, 8, 8).cycles == 4 + 4 * 10 + 6
    # streams shorter than the push of the next operand wait for it
    assert run_systolic(array(4, 4, "ws", True), 1, 8, 8).cycles == 4 + 3 * 4 + 1 + 6


def test_energy_counts_every_access() -> None:
    unit = array(4, 4, "os")
    run = run_systolic(unit, 4, 4, 4)
    assert run.energy_pj == {
        "compute": 64 * unit.mac_pj.value,
        "sram": (16 + 16 + 16) * unit.sram_pj_per_word.value,
    }


def test_time_is_cycles_of_the_clock() -> None:
    unit = load_systolic("tpu-v1")
    run = run_systolic(unit, 256, 256, 256)
    assert run.time_ps == round(run.cycles / 700e6 * 1e12)


def test_an_empty_product_is_refused() -> None:
    with pytest.raises(InputError, match="k must be at least 1, got 0"):
        run_systolic(array(4, 4, "os"), 1, 1, 0)
