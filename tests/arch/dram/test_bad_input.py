"""Device files and overrides that cannot be used: one line with file, line, key and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from neardata.arch.dram import device_names, load_device
from neardata.arch.dram.consistency import contradictions
from neardata.arch.dram.loader import DATA
from neardata.arch.errors import InputError

# without the presets' energy sections: some cases put in their own
DDR4 = re.sub(r"    energy:\n(      .*\n)+", "", (DATA / "ddr4.yaml").read_text())
OWN = """\
standard: OWN
source: made up for this test
extends: DDR4
presets:
  own:
    source: made up for this test
    organisation:
      levels: {rank: 2, bank_group: 2, bank: 4}
      row: 1024
      column: 512
      width: 32
      device_width: 16
    timing:
      {rate: 2400, tCK_ps: 833, nBL: 4, nCL: 16, nRCD: 16, nRP: 16, nRAS: 39, nRC: 55, nWR: 18, nRTP: 9,
       nCWL: 12, nCCDS: 4, nCCDL: 6, nRRDS: 4, nRRDL: 6, nWTRS: 3, nWTRL: 9, nFAW: 26, nRFC: 433,
       nREFI: 9364, nCS: 2}
"""


def complaint(tmp_path: Path, text: str, preset: str = "") -> str:
    """The one line told about a device file, less the path in front."""
    path = tmp_path / "device.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_device(f"{path}{preset and ':' + preset}")
    told = str(caught.value)
    assert told.startswith(f"{path}:")
    assert "\n" not in told
    return told.removeprefix(f"{path}:").strip()


def edited(text: str, old: str, new: str) -> str:
    assert text.count(old) >= 1
    return text.replace(old, new, 1)


def line_with(text: str, snippet: str) -> int:
    return text[: text.index(snippet)].count("\n") + 1


# Each case edits one place of the file; ``at`` marks the line the error must name.
DDR4_CASES = {
    "unknown top-level key": (
        "prefetch: 8", "prefetch: 8\nprefetsh: 8", "prefetsh:",
        "prefetsh: unknown key; did you mean prefetch, presets, refresh_at?",
    ),
    "unknown key of a command": (
        "needs: [closed], leaves: open", "needs: [closed], leves: open", "  ACT:",
        "commands.ACT.leves: unknown key; did you mean leaves, needs, enters?",
    ),
    "unknown key of a preset": (
        "    organisation:\n", "    organization:\n", "organization:",
        "presets.ddr4-2400r.organization: unknown key; did you mean organisation?",
    ),
    "unknown bank state": (
        "needs: [closed], leaves: open", "needs: [shut], leaves: open", "  ACT:",
        "commands.ACT.needs.0: 'shut' is not known; known: activating, closed, open",
    ),
    "unknown role": (
        "precharge_all: PREab", "precharge_al: PREab", "precharge_al:",
        "roles.precharge_al: 'precharge_al' is not known;"
        " did you mean precharge_all, precharge, precharge_same_bank?",
    ),
    "role of an unknown command": (
        "activate: ACT", "activate: ACTIVATE", "activate: ACTIVATE",
        "roles.activate: unknown command 'ACTIVATE'; did you mean ACT?",
    ),
    "role of a command that moves no data": (
        "read: RD\n", "read: ACT\n", "read: ACT", "roles.read: ACT has no 'data: read'",
    ),
    "role of a command that does not refresh": (
        "refresh_all: REFab", "refresh_all: PREab", "refresh_all:",
        "roles.refresh_all: PREab has no 'refreshes: true'",
    ),
    "role of a command that leaves banks as they are": (
        "precharge: PREpb", "precharge: REFab", "precharge: REFab",
        "roles.precharge: REFab does not leave banks closed",
    ),
    "refresh at another level": (
        "refresh_at: rank", "refresh_at: channel", "refresh_all:",
        "roles.refresh_all: REFab is not at channel, the refresh_at",
    ),
    "half an activate": (
        "needs: [closed], leaves: open", "needs: [closed], leaves: activating", "roles:",
        "roles.activate_second: missing",
    ),
    "unknown level of a command": (
        "RD:    {at: bank,", "RD:    {at: bnk,", "  RD:",
        "commands.RD.at: unknown level 'bnk'; did you mean bank, rank?",
    ),
    "level a command cannot span": (
        "PREab: {at: rank,", "PREab: {at: rank, across: [bank],", "  PREab:",
        "commands.PREab.across: 'bank' does not lie between the channel and rank",
    ),
    "unknown mode": (
        "REFab: {at: rank,", "REFab: {at: rank, modes: [pim],", "  REFab:",
        "commands.REFab.modes: unknown mode 'pim'; there are none",
    ),
    "unknown level of a bus": (
        "data_bus_at: channel", "data_bus_at: chanel", "data_bus_at:",
        "data_bus_at: unknown level 'chanel'; did you mean channel?",
    ),
    "levels without bank": (
        "levels: [rank, bank_group, bank]", "levels: [rank, bank_group]", "levels: [rank",
        "levels: the last level must be 'bank'",
    ),
    "a level given twice": (
        "levels: [rank, bank_group, bank]", "levels: [rank, rank, bank]", "levels: [rank",
        "levels: each level once; 'channel' is not written",
    ),
    "missing field": ("command_bus: single\n", "", "standard:", "command_bus: missing"),
    "unknown bus": (
        "command_bus: single", "command_bus: twin", "command_bus:",
        "command_bus: 'twin' is not known; known: dual, single",
    ),
    "constraint at an unknown level": (
        "  bank_group:\n    - tCCD_L", "  bankgroup:\n    - tCCD_L", "  bankgroup:",
        "constraints.bankgroup: unknown level 'bankgroup'; did you mean bank_group, bank?",
    ),
    "constraint on an unknown command": (
        "tFAW: ACT -> ACT", "tFAW: ACT -> ATC", "tFAW:",
        "constraints.rank.7.tFAW: unknown command 'ATC'; did you mean ACT?",
    ),
    "constraint without an arrow": (
        "tFAW: ACT -> ACT = nFAW window 4", "tFAW: ACT, ACT = nFAW", "tFAW:",
        "constraints.rank.7.tFAW: 'ACT, ACT = nFAW' is not of the form"
        " 'A,B -> C,D = expression [window N] [sibling]'",
    ),
    "constraint with an empty window": (
        "nFAW window 4", "nFAW window 0", "tFAW:",
        "constraints.rank.7.tFAW: 'ACT -> ACT = nFAW window 0' is not of the form"
        " 'A,B -> C,D = expression [window N] [sibling]'",
    ),
    "constraint between siblings of the channel": (
        "tBL: RD,RDA -> RD,RDA = nBL", "tBL: RD,RDA -> RD,RDA = nBL sibling", "tBL:",
        "constraints.channel.0.tBL: a channel has no siblings",
    ),
    "broken expression": (
        "= nFAW window 4", "= nFAW + window 4", "tFAW:",
        "constraints.rank.7.tFAW: 'nFAW +' is not a latency expression",
    ),
    "forbidden expression": (
        "= nFAW window 4", "= nFAW ** 2 window 4", "tFAW:",
        "constraints.rank.7.tFAW: 'nFAW ** 2' is not allowed in a latency expression",
    ),
    "division by zero": (
        "= nFAW window 4", "= nFAW / 0 window 4", "tFAW:",
        "constraints.rank.7.tFAW: 'nFAW / 0' divides by zero",
    ),
    "broken latency": (
        "read_latency: nCL + nBL", "read_latency: nCL nBL", "read_latency:",
        "read_latency: 'nCL nBL' is not a latency expression",
    ),
    "two constraints in one entry": (
        "    - tRAS: ACT -> PREab = nRAS\n", "    - {tRAS: ACT -> PREab = nRAS, tRC: ACT -> ACT = nRC}\n",
        "    - {tRAS", "constraints.rank.8: one 'name: A -> B = gap' a line",
    ),
    "endless window": (
        "nFAW window 4", "nFAW window 99999999999", "tFAW:",
        "constraints.rank.7.tFAW: a window of 99999999999 commands; at most 1024",
    ),
    "endless command": (
        "PREpb: {at: bank,", "PREpb: {at: bank, cycles: .inf,", "  PREpb:",
        "commands.PREpb.cycles: must be finite, got inf",
    ),
    "burst that ends before it begins": (
        "read_latency: nCL + nBL", "read_latency: nCL - 20", "read_latency:",
        "read_latency: -4 clocks end before the burst of 4 begins",
    ),
    "fractional command": (
        "PREpb: {at: bank,", "PREpb: {at: bank, cycles: 0.5,", "  PREpb:",
        "commands.PREpb.cycles: 0.5 clocks are not whole ticks",
    ),
    "misspelt timing that is needed": (
        "nFAW: 26, ", "nFAV: 26, ", "nFAV:",
        "presets.ddr4-2400r.timing.nFAV: no constraint uses it; did you mean nFAW, nRFC, nRAS?",
    ),
    "missing timing": (
        "nFAW: 26, ", "", "    timing:",
        "presets.ddr4-2400r.timing.nFAW: missing",
    ),
    "misspelt timing": (
        "nREFI: 9364", "nREFL: 9364", "nREFL:",
        "presets.ddr4-2400r.timing.nREFL: no constraint uses it; did you mean nREFI, nRFC, nREFIsb?",
    ),
    "timing that is no integer": (
        "nRAS: 39", "nRAS: 39.5", "nRAS: 39.5",
        "presets.ddr4-2400r.timing.nRAS: must be a whole number, got 39.5",
    ),
    "timing on the second line of its map": (
        "nCWL: 12", "nCWL: twelve", "nCWL: twelve",
        "presets.ddr4-2400r.timing.nCWL: must be a whole number, got 'twelve'",
    ),
    "timing on the third line of its map": (
        "nREFI: 9364, nCS: 2", "nREFI: 9364, nCS: -2", "nCS: -2",
        "presets.ddr4-2400r.timing.nCS: must not be negative, got -2",
    ),
    "no clock": (
        "tCK_ps: 833", "tCK_ps: 0", "tCK_ps: 0",
        "presets.ddr4-2400r.timing.tCK_ps: must be positive",
    ),
    "row cycle shorter than its parts": (
        "nRC: 55", "nRC: 53", "nRC: 53",
        "presets.ddr4-2400r.timing.nRC: must be at least nRAS + nRP - 1 = 54, got 53",
    ),
    "burst of another length": (
        "nBL: 4", "nBL: 2", "nBL: 2",
        "presets.ddr4-2400r.timing.nBL: must be 4, got 2: rate 2400 MT/s and tCK_ps 833 make 1.999 transfers"
        " a clock, a burst is 8 transfers",
    ),
    "refresh without end": (
        "nRFC: 433", "nRFC: 9310", "nREFI: 9364",
        "presets.ddr4-2400r.timing.nREFI: 9364 leaves no time for an activate between refreshes,"
        " which take 9365",
    ),
    "count that is no power of two": (
        "rank: 1, bank_group: 4", "rank: 3, bank_group: 4", "levels: {rank: 3",
        "presets.ddr4-2400r.organisation.levels.rank: must be a power of two, got 3",
    ),
    "row count that is no power of two": (
        "row: 65536", "row: 65000", "row: 65000",
        "presets.ddr4-2400r.organisation.row: must be a power of two, got 65000",
    ),
    "no rows": ("row: 65536", "row: 0", "row: 0",
        "presets.ddr4-2400r.organisation.row: must be above 0, got 0",
    ),
    "level missing from the organisation": (
        "{rank: 1, bank_group: 4, bank: 4}", "{rank: 1, bank: 4}", "levels: {rank: 1, bank: 4}",
        "presets.ddr4-2400r.organisation.levels.bank_group: missing",
    ),
    "unknown level in the organisation": (
        "{rank: 1, bank_group: 4,", "{rank: 1, group: 4, bank_group: 4,", "levels: {rank: 1, group",
        "presets.ddr4-2400r.organisation.levels.group: unknown level; did you mean bank_group?",
    ),
    "too many banks": (
        "bank_group: 4, bank: 4", "bank_group: 4, bank: 1024", "levels: {rank: 1, bank_group: 4, bank: 1024",
        "presets.ddr4-2400r.organisation.levels.bank: 4096 banks a channel; at most 1024",
    ),
    "row of less than a burst": (
        "column: 1024", "column: 4", "column: 4",
        "presets.ddr4-2400r.organisation.column: 4 is not a multiple of the prefetch 8",
    ),
    "part of a device": (
        "width: 64", "width: 4", "organisation:",
        "presets.ddr4-2400r.organisation: width 4 is not a multiple of device_width 8",
    ),
    "density that the counts do not make": (
        "density_Mb: 8192", "density_Mb: 4096", "density_Mb: 4096",
        "presets.ddr4-2400r.organisation.density_Mb: the counts make 8192 Mb a device, not 4096",
    ),
    "key given twice": (
        "nRC: 55, ", "nRC: 55, nRC: 56, ", "nRC: 55", "presets.ddr4-2400r.timing.nRC: given twice",
    ),
    "tab": (
        "      row: 65536", "\trow: 65536", "\trow",
        "not valid YAML: found character that cannot start any token",
    ),
    "unclosed map": ("nREFI: 9364, nCS: 2}", "nREFI: 9364, nCS: 2", "  ddr4-3200aa:",
        "not valid YAML: did not find expected ',' or '}'",
    ),
    "energy without its kind": (
        "    timing:", "    energy: {VDD: 1.2}\n    timing:", "energy:",
        "presets.ddr4-2400r.energy.kind: missing",
    ),
    "energy of an unknown kind": (
        "    timing:", "    energy: {kind: ddl}\n    timing:", "energy:",
        "presets.ddr4-2400r.energy.kind: 'ddl' is not known; did you mean idd?",
    ),
    "energy with a value missing": (
        "    timing:",
        "    energy: {kind: per_bit, source: s, status: assumed, activate_pj: 1, read_pj_per_bit: 1,\n"
        "      write_pj_per_bit: 1, io_pj_per_bit: 1, refresh_pj_per_bank: 1}\n    timing:",
        "energy:", "presets.ddr4-2400r.energy.background_mw: missing",
    ),
    "energy with an unknown value": (
        "    timing:",
        "    energy: {kind: per_bit, source: s, status: assumed, activate_pj: 1, read_pj_per_bit: 1,\n"
        "      write_pj_per_bit: 1, io_pj_per_bit: 1, refresh_pj_per_bank: 1, background_mw: 1,\n"
        "      background_mW: 1}\n    timing:",
        "      background_mW:",
        "presets.ddr4-2400r.energy.background_mW: unknown key; did you mean background_mw,"
        " background_open_mw?",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DDR4_CASES)
def test_one_line_with_place_and_key(tmp_path: Path, case: str) -> None:
    old, new, at, expected = DDR4_CASES[case]
    text = edited(DDR4, old, new)
    told = complaint(tmp_path, text, "ddr4-2400r")
    line, _, rest = told.partition(": ")
    assert (int(line), rest) == (line_with(text, at), expected)


def test_the_files_themselves_are_good(tmp_path: Path) -> None:
    """So that each complaint above is about the edit."""
    path = tmp_path / "device.yaml"
    path.write_text(DDR4)
    assert load_device(f"{path}:ddr4-2400r").rules == load_device("ddr4-2400r").rules
    path.write_text(OWN)
    own, ddr4 = load_device(str(path)), load_device("ddr4-2400r")
    assert own.rules == ddr4.rules
    assert (own.standard, own.n_banks, own.burst_bytes) == ("OWN", 16, 32)


@pytest.mark.parametrize(
    ("old", "new", "at", "expected"),
    [
        (
            "extends: DDR4", "extends: DDR", "extends:", "extends: unknown standard 'DDR'; did you mean ",
        ),
        ("presets:\n  own:", "presets: {}\nmodes:\n  own:", "modes:", "modes: must be a list, got {"),
        (
            "presets:", "commands:\n  RD: {at: pseudo_channel}\npresets:", "  RD:",
            "commands.RD.at: unknown level 'pseudo_channel'; did you mean channel?",
        ),
        (
            "presets:", "roles: {write: WRB}\npresets:", "roles:",
            "roles.write: unknown command 'WRB'; did you mean WR, WRA?",
        ),
        (
            "presets:", "constraints:\n  bank:\n    - tX: ACT -> RD = nX\npresets:", "    timing:",
            "presets.own.timing.nX: missing",
        ),
        (
            "presets:", "constraints:\n  bank:\n    - tX: ACT -> RD = nRC // 2\npresets:", "    - tX",
            "constraints.bank.0.tX: 'nRC // 2' is not allowed in a latency expression",
        ),
        (
            "presets:", "read_latency: nRL\npresets:", "    timing:", "presets.own.timing.nRL: missing",
        ),
    ],
)  # fmt: skip
def test_file_that_extends_a_standard(tmp_path: Path, old: str, new: str, at: str, expected: str) -> None:
    text = edited(OWN, old, new)
    line, _, rest = complaint(tmp_path, text).partition(": ")
    assert int(line) == line_with(text, at)
    assert rest.startswith(expected)


def test_fault_of_the_extended_table_is_told_at_the_file_that_caused_it(tmp_path: Path) -> None:
    text = edited(OWN, "presets:", "levels: [bank_group, bank]\nrefresh_at: channel\npresets:")
    path = tmp_path / "device.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_device(str(path))
    # DDR4's own command no longer has its level
    line = line_with(DDR4, "  PREab:")
    assert str(caught.value) == (
        f"{DATA / 'ddr4.yaml'}:{line}: commands.PREab.at: unknown level 'rank'; did you mean bank?"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "must be a mapping of keys to values"),
        ("- a\n- b\n", "1: must be a mapping of keys to values"),
        ("standard: X\nsource: y\n", "1: presets: missing"),
        ("standard: X\nsource: &a [*a]\n", "2: an alias of itself"),
        ("standard: !!python/object:os.system X\n", None),
        ("? [a, b]\n: 1\n", None),
        ("standard: \x07\n", None),
    ],
)
def test_file_that_is_no_standard(tmp_path: Path, text: str, expected: str | None) -> None:
    told = complaint(tmp_path, text)
    assert "not valid YAML" in told if expected is None else told == expected


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "none.yaml", "No such file or directory"),
        (tmp_path / "dir.yaml", "Is a directory"),
        (tmp_path / "bytes.yaml", "not UTF-8 text"),
    ):
        if path.stem == "dir":
            path.mkdir()
        if path.stem == "bytes":
            path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(InputError) as caught:
            load_device(str(path))
        assert str(caught.value) == f"{path}: cannot be read: {reason}"


def test_choice_of_a_preset(tmp_path: Path) -> None:
    line = line_with(DDR4, "presets:")
    path = tmp_path / "device.yaml"
    assert complaint(tmp_path, DDR4) == f"{line}: presets: there are 2; name one as {path}:ddr4-2400r"
    assert complaint(tmp_path, DDR4, "ddr4-2400") == (
        f"{line}: presets: no preset 'ddr4-2400'; did you mean ddr4-2400r, ddr4-3200aa?"
    )


def test_device_with_a_misspelt_name() -> None:
    with pytest.raises(InputError) as caught:
        load_device("ddr4-2400")
    assert str(caught.value).startswith("unknown device 'ddr4-2400'; did you mean ddr4-2400r, ")


def test_names_of_shipped_devices_are_unique() -> None:
    assert len(set(device_names())) == len(device_names())


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"timing.nFAV": 20}, "timing.nFAV: unknown timing of ddr4-2400r; did you mean nFAW, nRFC, nRAS?"),
        ({"timings.nFAW": 20}, "timings.nFAW: cannot be set on ddr4-2400r; did you mean timing.nFAW,"),
        ({"organisation.levels": 2}, "organisation.levels: cannot be set on ddr4-2400r; did you mean"),
        ({"organisation.sid": 2}, "organisation.sid: cannot be set on ddr4-2400r; did you mean"),
        ({"timing.nFAW": -1}, "timing.nFAW: must not be negative, got -1"),
        ({"timing.nFAW": 2.5}, "timing.nFAW: must be a whole number, got 2.5"),
        ({"timing.nFAW": "x"}, "timing.nFAW: must be a whole number, got 'x'"),
        ({"timing.nBL": 0}, "timing.nBL: must be positive"),
        ({"organisation.rank": 3}, "organisation.rank: must be a power of two, got 3"),
        ({"organisation.rank": 128}, "organisation.rank: 2048 banks a channel; at most 1024"),
        ({"organisation.column": 4}, "organisation.column: 4 is not a multiple of the prefetch 8"),
        (
            {"organisation.density_Mb": 4096},
            "organisation.density_Mb: the counts make 8192 Mb a device, not 4096",
        ),
        ({"timing.nRC": 53}, "timing.nRC: must be at least nRAS + nRP - 1 = 54, got 53"),
        (
            {"timing.nRAS": 60},
            "timing.nRAS: makes nRAS + nRP - 1 = 75, but nRC is 55 and must be at least that",
        ),
        ({"timing.nFAW": 3}, "timing.nFAW: must be at least nRRDS = 4, got 3"),
        ({"timing.nRRDL": 3}, "timing.nRRDL: must be at least nRRDS = 4, got 3"),
        ({"timing.nCCDS": 3}, "timing.nCCDS: must be at least nBL = 4, got 3"),
        ({"timing.nCCDL": 3}, "timing.nCCDL: must be at least nCCDS = 4, got 3"),
        ({"timing.nRFC": 20}, "timing.nRFC: must be at least nRC = 55, got 20"),
        ({"timing.nRCD": 40}, "timing.nRCD: makes nRCD = 40, but nRAS is 39 and must be at least that"),
        ({"timing.nBL": 8}, "timing.nBL: must be 4, got 8: rate 2400 MT/s and tCK_ps 833 make 1.999"),
        (
            {"timing.tCK_ps": 1666},
            "timing.tCK_ps: rate 2400 MT/s and tCK_ps 1666 make 3.998 transfers a clock, so nBL must be 2,"
            " not 4; set them together",
        ),
        (
            {"timing.rate": 3000},
            "timing.rate: rate 3000 MT/s and tCK_ps 833 make 2.499 transfers a clock, which must be a whole",
        ),
        ({"timing.nRFC": 1 << 31}, "timing.nRFC: must be at most 1073741824, got 2147483648"),
        (
            {"organisation.row": 1 << 70},
            "organisation.row: 154,742,504,910,672,534,362,390,528 bytes a channel; at most 1,125,899,906",
        ),
        (
            {"timing.nREFI": 400},
            "timing.nREFI: 400 leaves no time for an activate between refreshes, which take 488",
        ),
    ],
)
def test_override_that_cannot_be(overrides: dict[str, int], expected: str) -> None:
    with pytest.raises(InputError) as caught:
        load_device("ddr4-2400r", overrides)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changed", [{"timing.nFAW": 0}, {"timing.nFAW": 10}, {"timing.nRC": 54}])
def test_values_that_sweeps_may_want_are_no_contradiction(changed: dict[str, int]) -> None:
    assert load_device("ddr4-2400r", changed).timing != load_device("ddr4-2400r").timing


def test_values_that_are_changed_together_do_not_contradict() -> None:
    slow = load_device("ddr4-2400r", {"timing.tCK_ps": 1666, "timing.rate": 1200})
    assert slow.peak_gb_per_s == pytest.approx(load_device("ddr4-2400r").peak_gb_per_s / 2)


def test_a_wrong_device_can_be_had_on_purpose() -> None:
    assert load_device("ddr4-2400r", {"timing.nRC": 40}, consistent=False).timing["nRC"] == 40


@pytest.mark.parametrize("name", device_names())
def test_every_shipped_device_is_consistent(name: str) -> None:
    device = load_device(name)
    assert not list(contradictions(device.timing, device.prefetch))


@pytest.mark.parametrize(
    ("device", "overrides", "expected"),
    [
        (
            "ddr4-2400r", {"energy.IDD9": 3},
            "energy.IDD9: unknown energy value of ddr4-2400r; did you mean IDD0,",
        ),
        ("ddr4-2400r", {"energy.IDD0": -3}, "energy.IDD0: must be at least 0, got -3"),
        ("ddr4-2400r", {"energy.IDD0": "x"}, "energy.IDD0: must be a number, got 'x'"),
        ("ddr4-2400r", {"energy.VDD": float("nan")}, "energy.VDD: must be finite, got nan"),
        ("ddr4-2400r", {"energy.rho": 2}, "energy.rho: must be at most 1, got 2"),
        ("ddr4-2400r", {"energy.kind": 2}, "energy.kind: unknown energy value of ddr4-2400r; known: IDD0"),
        (
            "ddr4-2400r", {"energy.IDD0": 30},
            "energy.IDD0: 30 mA is below the standby IDD2N 34 mA",
        ),
        (
            "ddr4-2400r", {"energy.IDD3N": 140},
            "energy.IDD3N: 140 mA of standby is above IDD4R 135 mA",
        ),
        ("ddr4-2400r", {"energi.IDD0": 3}, "energi.IDD0: cannot be set on ddr4-2400r; did you mean energy."),
        (
            "ddr4-2400r", {"command_energy_pj.MAC": 3},
            "command_energy_pj.MAC: unknown on ddr4-2400r; there are none",
        ),
        (
            "hbm2-2000", {"energy.IDD0": 3},
            "energy.IDD0: unknown energy value of hbm2-2000; known: activate_pj, background_mw,",
        ),
        (
            "gddr6-aim", {"command_energy_pj.MAC16": -1},
            "command_energy_pj.MAC16: must be at least 0, got -1",
        ),
    ],
)  # fmt: skip
def test_energy_that_cannot_be(device: str, overrides: dict[str, float], expected: str) -> None:
    with pytest.raises(InputError) as caught:
        load_device(device, overrides)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_device_without_energy_has_none_to_set(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(OWN)
    with pytest.raises(InputError, match=r"energy\.IDD0: own has no energy values"):
        load_device(str(path), {"energy.IDD0": 3})


def test_counts_may_be_overridden_where_the_file_states_a_density() -> None:
    assert load_device("ddr4-2400r", {"organisation.row": 1024}).capacity_bytes == 128 << 20


def test_fault_that_an_override_only_brings_out_is_told_at_the_file() -> None:
    with pytest.raises(InputError) as caught:
        load_device("ddr4-2400r", {"timing.nRFC": 9310})
    told = str(caught.value)
    assert told.startswith(f"{DATA / 'ddr4.yaml'}:")
    assert told.endswith(
        "timing.nREFI: 9364 leaves no time for an activate between refreshes, which take 9365"
    )
