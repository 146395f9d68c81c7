"""Presets of links."""

from __future__ import annotations

import pytest

from neardata.arch.errors import InputError
from neardata.arch.link import link_names, load_link

NAMES = [
    "pcie-3", "pcie-4", "pcie-5", "nvlink-2", "nvlink-3", "nvlink-4", "nvswitch", "cxl-2", "cxl-3",
    "on-package", "ddr4-host", "ddr5-host", "infiniband-hdr", "ethernet-10g",
    "smartssd-p2p-read", "smartssd-p2p-write",
]  # fmt: skip


def test_all_presets_load_and_have_sources() -> None:
    assert sorted(link_names()) == sorted(NAMES)
    for name in NAMES:
        link = load_link(name)
        assert link.name == name
        assert link.source.strip()
        for constant in (link.latency_ns, link.startup_ns, link.fraction, link.pj_per_bit):
            assert constant.source.strip()


@pytest.mark.parametrize(("name", "transfers"), [("pcie-3", 8), ("pcie-4", 16), ("pcie-5", 32)])
def test_pcie_rates_are_lanes_times_transfers_less_line_code(name: str, transfers: int) -> None:
    assert load_link(name).gb_per_s == pytest.approx(transfers * 16 * 128 / 130 / 8, rel=1e-4)


def test_a_link_that_extends_another_keeps_the_rest() -> None:
    assert load_link("pcie-5").payload_bytes == load_link("pcie-3").payload_bytes
    assert load_link("pcie-5").title != load_link("pcie-3").title


def test_only_what_was_measured_is_called_calibrated() -> None:
    calibrated = [
        name
        for name in NAMES
        if "calibrated" in (load_link(name).startup_ns.basis, load_link(name).fraction.basis)
    ]
    assert calibrated == ["nvlink-3"]


@pytest.mark.parametrize(
    ("name", "overrides", "text"),
    [
        ("pci-4", {}, "unknown link 'pci-4'; did you mean pcie-4"),
        ("pcie-4", {"latency.value": 1}, "latency.value: cannot be set on pcie-4; did you mean latency_ns"),
        ("pcie-4", {"sharing": "free"}, "sharing: 'free' is not known"),
        ("pcie-4", {"payload_bytes": 0}, "payload_bytes: must be above 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told(name: str, overrides: dict[str, object], text: str) -> None:
    with pytest.raises(InputError) as error:
        load_link(name, overrides)
    assert text in str(error.value)
