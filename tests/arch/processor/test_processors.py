"""Presets of processors: what is there, what cannot be, and how errors say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from neardata.arch.errors import InputError
from neardata.arch.processor import Processor, SystolicArray, load_processor, load_systolic, processor_names
from neardata.arch.processor.loader import load_any

NAMES = [
    "a100-80gb", "a100-40gb", "h100-sxm", "h200", "v100", "t4", "mi210", "gaudi-2", "rtx-pro-6000",
    "xeon-8380", "xeon-gold-6154", "epyc-7v12", "mobile-npu", "generic-xpu", "cambricon-npu",
    "systolic-16", "systolic-32", "systolic-128", "tpu-v1", "cent-controller", "smartssd-worker",
    "network-worker", "xeon-6242-core", "a100-nvtabular",
]  # fmt: skip
SMALL = """processors:
  mine:
    kind: systolic
    title: four by four
    rows: 4
    columns: 4
    dataflow: os
    clock_mhz: 100
    mac_pj: {value: 1, basis: assumed, source: none}
    sram_pj_per_word: {value: 1, basis: assumed, source: none}
    source: none
"""


def test_all_presets_load() -> None:
    assert sorted(processor_names()) == sorted(NAMES)
    for name in NAMES:
        assert load_any(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_a_source(name: str) -> None:
    def check(data: object) -> None:
        if isinstance(data, dict):
            if "source" in data:
                assert data["source"].strip()
            if "basis" in data:
                assert data["source"].strip()
            for value in data.values():
                check(value)
        elif isinstance(data, tuple | list):
            for value in data:
                check(value)

    preset = load_any(name)
    check(preset.model_dump())
    sections = [preset.compute, preset.memory, preset.power] if isinstance(preset, Processor) else [preset]
    assert all(section.source for section in sections)


def test_at_most_four_efficiencies_and_only_measured_gpus_are_calibrated() -> None:
    for name in NAMES:
        preset = load_any(name)
        if isinstance(preset, Processor):
            constants = preset.efficiency.model_dump()
            assert len(constants) == 4
            fitted = {key for key, constant in constants.items() if constant["basis"] == "calibrated"}
            assert fitted == {"a100-80gb": set(constants), "rtx-pro-6000": {"launch_ns"}}.get(name, set())


def test_constants_of_other_gpus_are_those_of_the_a100() -> None:
    a100 = load_processor("a100-80gb").efficiency
    for name in ("a100-40gb", "h100-sxm", "h200", "v100", "t4", "mi210", "gaudi-2", "generic-xpu"):
        carried = load_processor(name).efficiency
        for key in ("matrix", "memory", "exposed", "launch_ns"):
            assert getattr(carried, key).value == getattr(a100, key).value, (name, key)


def test_peaks_are_units_times_clock() -> None:
    # multiply-accumulates of FP16 a clock and unit, as the whitepapers give them
    for name, macs in {
        "a100-80gb": 1024,
        "h100-sxm": 2048,
        "v100": 512,
        "t4": 512,
        "rtx-pro-6000": 512,
    }.items():
        compute = load_processor(name).compute
        peak = compute.units * compute.clock_mhz * 1e6 * 2 * macs / 1e12
        assert compute.peak_tflops["fp16"] == pytest.approx(peak, rel=0.01), name


def test_arithmetic_gets_what_idle_and_memory_leave_of_the_tdp() -> None:
    gpu = load_processor("a100-80gb")
    power = gpu.power
    memory_w = gpu.memory.gb_per_s * power.memory_pj_per_byte.value / 1000
    arithmetic_w = gpu.pj_per_operation("fp16") * gpu.peak_ops_per_ps("fp16")
    assert power.idle_w.value + memory_w + arithmetic_w == pytest.approx(power.tdp_w)


def test_another_memory_does_not_change_what_arithmetic_takes() -> None:
    own = load_processor("a100-80gb")
    assert own.power.tdp_gb_per_s is not None
    assert (own.power.tdp_gb_per_s.value, own.power.tdp_gb_per_s.basis) == (2039, "assumed")
    for rate in (100, 8000, 12000):
        other = load_processor("a100-80gb", {"memory.gb_per_s": rate})
        assert other.pj_per_operation("fp16") == own.pj_per_operation("fp16")
    less = load_processor("a100-80gb", {"power.tdp_w": 300})
    assert less.pj_per_operation("fp16") < own.pj_per_operation("fp16")


def test_vector_work_without_fp32_takes_a_wider_type_or_what_there_is() -> None:
    peaks = {"compute.peak_tflops": {"fp64": 2, "fp16": 8}}
    wide = load_processor("a100-80gb", peaks)
    assert wide.vector_pj_per_operation == wide.pj_per_operation("fp64")
    for name in ("mobile-npu", "cent-controller", "a100-80gb"):
        assert load_processor(name).vector_pj_per_operation > 0


def test_overrides_are_laid_over_the_preset() -> None:
    gpu = load_processor("a100-80gb", {"caches.0.bytes": 1, "efficiency.matrix.value": 0.5})
    assert gpu.caches[0].bytes == 1
    assert gpu.efficiency.matrix.value == 0.5
    assert load_processor("a100-80gb").caches[0].bytes == 40 << 20


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SMALL)
    assert load_systolic(str(path)).rows == 4
    assert load_systolic(f"{path}:mine", {"rows": 8}).rows == 8
    assert isinstance(load_any(str(path)), SystolicArray)


@pytest.mark.parametrize(
    ("name", "overrides", "text"),
    [
        ("a100-80g", {}, "unknown processor 'a100-80g'; did you mean a100-80gb"),
        (
            "a100-80gb",
            {"memory.gbps": 1},
            "memory.gbps: cannot be set on a100-80gb; did you mean memory.gb",
        ),
        ("a100-80gb", {"memory.bytes": "all"}, "memory.bytes: must be a whole number, got 'all'"),
        ("a100-80gb", {"efficiency.matrix.value": 1.5}, "matrix: a fraction must be above 0 and at most 1"),
        ("a100-80gb", {"power.tdp_w": 60}, "leave nothing of the TDP"),
        ("a100-80gb", {"power.idle_w.value": 500}, "idle_w 500 W is not below tdp_w 400 W"),
        ("systolic-16", {}, "'systolic-16' is a systolic array"),
    ],
)
def test_what_cannot_be_is_told(name: str, overrides: dict[str, object], text: str) -> None:
    with pytest.raises(InputError) as error:
        load_processor(name, overrides)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("rows: 4", "rows: 0", "mine.yaml:5: processors.mine.rows"),
        ("rows: 4", "row: 4", "processors.mine.row: unknown key; did you mean rows"),
        ("kind: systolic", "kind: systolik", "mine.kind: 'systolik' is not known; did you mean systolic?"),
        ("dataflow: os", "dataflow: xs", "processors.mine.dataflow: 'xs' is not known"),
        ("{value: 1, basis: assumed", "{value: 1, basis: guessed", "'guessed' is not known"),
        ("processors:", "processor:", "must be a mapping with the one key 'processors'"),
        ("    kind: systolic\n", "    extends: yours\n", "processors.mine.extends: unknown 'yours'"),
        ("    kind: systolic\n", "    extends: mine\n", "processors.mine.extends: extends itself"),
    ],
)  # fmt: skip
def test_errors_name_file_line_and_key(tmp_path: Path, old: str, new: str, text: str) -> None:
    path = tmp_path / "mine.yaml"
    assert old in SMALL
    path.write_text(SMALL.replace(old, new))
    with pytest.raises(InputError) as error:
        load_systolic(str(path))
    assert text in str(error.value)
