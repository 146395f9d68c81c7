"""Descriptions of drives: presets, overrides, MQSim's XML, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neardata.arch.errors import InputError
from neardata.arch.storage import load_ssd, ssd_names

XML = """<?xml version="1.0" encoding="us-ascii"?>
<Execution_Parameter_Set>
  <Host_Parameter_Set>
    <PCIe_Lane_Bandwidth>2.0</PCIe_Lane_Bandwidth>
    <PCIe_Lane_Count>8</PCIe_Lane_Count>
  </Host_Parameter_Set>
  <Device_Parameter_Set>
    <HostInterface_Type>NVME</HostInterface_Type>
    <Ideal_Mapping_Table>true</Ideal_Mapping_Table>
    <GC_Block_Selection_Policy>GREEDY</GC_Block_Selection_Policy>
    <Preemptible_GC_Enabled>true</Preemptible_GC_Enabled>
    <Plane_Allocation_Scheme>PDWC</Plane_Allocation_Scheme>
    <Channel_Transfer_Rate>533</Channel_Transfer_Rate>
    <Flash_Channel_Width>2</Flash_Channel_Width>
    <Flash_Parameter_Set>
      <Flash_Technology>TLC</Flash_Technology>
      <CMD_Suspension_Support>PROGRAM_ERASE</CMD_Suspension_Support>
      <Page_Read_Latency_LSB>45000</Page_Read_Latency_LSB>
      <Page_Read_Latency_CSB>60000</Page_Read_Latency_CSB>
      <Page_Read_Latency_MSB>85000</Page_Read_Latency_MSB>
      <Block_No_Per_Plane>512</Block_No_Per_Plane>
    </Flash_Parameter_Set>
  </Device_Parameter_Set>
</Execution_Parameter_Set>
"""


@pytest.mark.parametrize("name", ssd_names())
def test_presets_are_whole_and_sourced(name: str) -> None:
    ssd = load_ssd(name)
    assert 0 < ssd.logical_sectors * 512 < ssd.flash.raw_bytes
    sections = (ssd.flash, ssd.bus, ssd.controller, ssd.mapping, ssd.gc, ssd.cache, ssd.host)
    assert all(section.source for section in sections)  # type: ignore[attr-defined]
    assert ssd.bus.gb_per_s * ssd.flash.channels > 1


def test_reference_configurations() -> None:
    c0, c1 = load_ssd("mqsim-c0"), load_ssd("mqsim-c1")
    assert c0.flash.raw_bytes == 512 << 30
    assert c1.flash.raw_bytes == 256 << 30
    assert (c1.bus.mt_per_s, c1.flash.read_ns, c1.host.gb_per_s) == (1000, (30000,), 8)
    assert [c1.bus.read_command_ns(n) for n in (1, 2)] == [290, 940]


def test_cambricon_llm_is_table_ii() -> None:
    for size, channels, chips in (("s", 8, 2), ("m", 16, 4), ("l", 32, 8)):
        flash = load_ssd(f"cambricon-llm-{size}").flash
        assert (flash.channels, flash.chips_per_channel) == (channels, chips)
        assert (flash.dies_per_chip, flash.planes_per_die, flash.page_bytes) == (2, 2, 16384)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("bus.mt_per_s", 0, "bus.mt_per_s: must be above 0, got 0"),
        ("bus.mt_per_s", 1.5, "bus.mt_per_s: must be a whole number"),
        ("bus.width_bits", 12, "bus.width_bits"),
        ("flash.read_ns", [], "at least one page type"),
        ("flash.read_ns", [-1], "flash.read_ns.0: must be above 0"),
        ("flash.page_bytes", 5000, "flash.page_bytes: must be a multiple of 512"),
        ("flash.channels", 63, "flash.channels: must be at most 62"),
        ("flash.dies_per_chip", 40, "at most 62 chips, dies or independent planes"),
        ("flash.blocks_per_plane", 10, "flash.blocks_per_plane: 10 are too few"),
        ("mapping.allocation", "CWDD", "an order of C, W, D and P"),
        ("mapping.over_provisioning", 1.0, "must be below 1"),
        ("host.lane_gb_per_s", -2, "must be above 0"),
        ("controller.latency_ns", -5, "must be at least 0"),
        ("flash.reed_ns", 3, "did you mean"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(key: str, value: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_ssd("mqsim-c1", {key: value})
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    shipped = Path(load_ssd.__code__.co_filename).parent / "data" / "mqsim.yaml"
    text = shipped.read_text().replace("mt_per_s: 333", "mt_per_s: 0")
    (tmp_path / "mine.yaml").write_text(text)
    line = text[: text.index("mt_per_s: 0")].count("\n") + 1
    with pytest.raises(InputError, match=rf"mine.yaml:{line}: ssds.mqsim-c0.bus.mt_per_s: must be above 0"):
        load_ssd(f"{tmp_path}/mine.yaml:mqsim-c0")


def test_mqsims_xml(tmp_path: Path) -> None:
    path = tmp_path / "ssdconfig.xml"
    path.write_text(XML)
    ssd = load_ssd(str(path), {"bus.mt_per_s": 667})
    assert (ssd.host.gb_per_s, ssd.bus.mt_per_s, ssd.bus.width_bits) == (16, 667, 16)
    assert (ssd.mapping.table, ssd.mapping.allocation) == ("ideal", "PDWC")
    assert (ssd.gc.policy, ssd.gc.first) == ("greedy", False)
    assert (ssd.flash.technology, ssd.flash.page_types, ssd.flash.suspend) == ("tlc", "yaakobi", "both")
    assert ssd.flash.read_ns == (45000, 60000, 85000)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "Channel_Transfer_Rate",
            "Channel_Transfer_Rat",
            "xml:13: Channel_Transfer_Rat: unknown key; did you mean",
        ),
        (">533<", ">0<", "xml:13: Channel_Transfer_Rate: must be above 0, got 0"),
        (">533<", ">fast<", "xml:13: Channel_Transfer_Rate: must be a number, got 'fast'"),
        (">NVME<", ">SATA<", "xml:8: HostInterface_Type: 'SATA' is not supported; only NVME"),
        (">GREEDY<", ">RANDOM_P<", "xml:10: GC_Block_Selection_Policy: 'RANDOM_P' is not known"),
        ("</Execution_Parameter_Set>", "", "not valid XML"),
        *(
            (
                "<Flash_Parameter_Set>",
                f"<Static_Wearleveling_Threshold>{text}</Static_Wearleveling_Threshold><Flash_Parameter_Set>",
                f"xml:15: Static_Wearleveling_Threshold: must be {what}, got",
            )
            for text, what in (
                ("many", "a number"),
                ("-3", "a whole number of at least 1"),
                ("nan", "a finite number"),
            )
        ),
        (">533<", ">nan<", "xml:13: Channel_Transfer_Rate: must be a finite number, got 'nan'"),
        (">533<", ">inf<", "xml:13: Channel_Transfer_Rate: must be a finite number, got 'inf'"),
        (">533<", "><", "xml:13: Channel_Transfer_Rate: must be a number, got ''"),
    ],
)
def test_what_is_wrong_in_mqsims_xml(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "c.xml"
    path.write_text(XML.replace(old, new))
    with pytest.raises(InputError) as caught:
        load_ssd(str(path))
    assert message in str(caught.value)


def test_retries_follow_the_error_rate() -> None:
    ecc = {
        "codeword_bytes": 1024, "correctable_bits": 40, "decode_ns": 0, "rber": 1e-4, "retry_factor": 0.5,
        "retries": 3, "source": "test",
    }  # fmt: skip
    few = load_ssd("mqsim-c1", {"ecc": ecc}).ecc
    many = load_ssd("mqsim-c1", {"ecc": {**ecc, "rber": 6e-3}}).ecc
    assert few is not None and many is not None
    assert few.retry_probability(16384, 0) < 1e-9 < 0.9 < many.retry_probability(16384, 0)
    assert many.retry_probability(16384, 1) < many.retry_probability(16384, 0)
