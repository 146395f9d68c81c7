"""Systems that cannot be: one line, at the file, line and key at fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from neardata.arch.errors import InputError
from neardata.arch.system import load_system, parse_system

GOOD = """\
name: two
source: a test
units:
  gpu: {kind: processor, processor: a100-80gb, count: 2}
  pim: {kind: pim, device: hbm-pim, channels: 80, count: 2, memory_of: gpu}
links:
  nvlink: {link: nvlink-3, between: [gpu]}
"""


def read(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    load_system(tmp_path / "s.yaml")


def test_the_system_that_is_spoilt_below_is_good(tmp_path: Path) -> None:
    read(tmp_path, GOOD)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("device: hbm-pim", "device: hbm-pin", "5: units.pim.device: unknown device 'hbm-pin'; did you mean"),
        ("memory_of: gpu", "memory_of: gqu", "5: units.pim.memory_of: 'gqu' is no processor group; did you"),
        ("80, count: 2", "80, count: 3", "5: units.pim.count: is 3, but gpu has 2"),
        ("channels: 80", "channels: -80", "5: units.pim.channels: must be at least 1, got -80"),
        (", channels: 80", "", "5: units.pim.channels: missing"),
        (", device: hbm-pim, channels: 80", "", "5: units.pim.device: missing, and so are: channels"),
        ("kind: pim", "kind: pin", "5: units.pim.kind: 'pin' is not known"),
        ("kind: pim, ", "", "5: units.pim.kind: missing"),
        ("channels: 80", "channel: 80", "5: units.pim.channel: unknown key; did you mean channels"),
        ("a100-80gb,", "a100-90gb,", "4: units.gpu.processor: unknown processor 'a100-90gb'; did you mean"),
        ("b, count: 2", "b, count: two", "4: units.gpu.count: must be a whole number or 'fit', got 'two'"),
        ("b, count: 2", "b, count: 5000", "4: units.gpu.count: must be at most 4096 or 'fit', got 5000"),
        (
            "b, count: 2",
            "b, count: 2, overrides: {launch_us: 3}",
            "4: units.gpu.overrides.launch_us: cannot be set on a100-80gb; did you mean efficiency.launch_ns",
        ),
        (
            "b, count: 2",
            "b, count: 2, overrides: {efficiency.launch_ns.value: soon}",
            "4: units.gpu.overrides.efficiency.launch_ns.value: must be a number, got 'soon'",
        ),
        (
            "channels: 80",
            "channels: 80, overrides: {timing.nRCD: 3}",
            "5: units.pim.overrides.timing.nRCD: unknown timing of hbm-pim; did you mean nRC",
        ),
        ("nvlink-3", "nvlink-30", "7: links.nvlink.link: unknown link 'nvlink-30'; did you mean"),
        ("[gpu]", "[]", "7: links.nvlink.between: must not be empty"),
        ("[gpu]", "gpu", "7: links.nvlink.between: must be a list, got 'gpu'"),
        ("[gpu]", "[gqu]", "7: links.nvlink.between: 'gqu' is no unit; did you mean"),
        ("[gpu]", "[gpu], overrides: {gb_per_s: fast}", "7: links.nvlink.overrides.gb_per_s: must be a num"),
        ("nvlink: {", "pim: {", "7: links.pim: a link and a unit have the same name"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_at_its_line_and_key(tmp_path: Path, old: str, new: str, line: str) -> None:
    assert GOOD.count(old) == 1, "the case spoils one place"
    with pytest.raises(InputError) as caught:
        read(tmp_path, GOOD.replace(old, new))
    assert str(caught.value).startswith(f"{tmp_path / 's.yaml'}:{line}")
    assert "\n" not in str(caught.value)


def test_a_dictionary_is_told_the_same_without_a_file() -> None:
    with pytest.raises(InputError, match=r"^units\.gpu\.count: must be a whole number or 'fit', got 'two'$"):
        parse_system(
            {
                "name": "x",
                "source": "y",
                "units": {"gpu": {"kind": "processor", "processor": "a100-80gb", "count": "two"}},
            }
        )
