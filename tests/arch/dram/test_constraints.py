"""The timing tables against Ramulator 2.1's: the same rules, and only these besides."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from neardata.arch.dram import Device, device_names, load_device

DATA = Path(__file__).parents[2] / "data" / "dram"
TOOL = yaml.safe_load((DATA / "ramulator21_presets.yaml").read_text())

Entry = tuple[str, str, str, int, int, bool]
"""Level, first, then, gap in ticks, window, sibling."""

# Rules the tool lacks, one "level: first -> then = ticks" each. All of them touch a per-bank or
# same-bank refresh, a refresh management command, or two all-bank refreshes in a row.
OURS = {
    "ddr4-2400r": "",
    "ddr4-3200aa": "",
    # nRFCsb 313, nREFSBRD 73; an ACT takes two cycles and is simulated at its first
    "ddr5-4800an": """
        rank: PREpb PREab PREsb -> PREsb = 2
        rank: PREsb -> PREpb PREab = 2
        rank: PREsb -> REFab = 34
        rank: REFab -> PREsb REFab REFsb = 710
        rank: PREab -> REFsb = 34
        rank: ACT -> REFsb = 13
        rank: REFsb -> ACT = 72
        rank: REFsb -> REFsb REFab = 313
        bank: ACT -> PREsb = 78
        bank: RD -> PREsb = 19
        bank: WR -> PREsb = 113
        bank: PREsb -> ACT = 33
        bank: ACT -> REFsb = 112
        bank: PREpb PREsb -> REFsb = 34
        bank: RDA -> REFsb = 53
        bank: WRA -> REFsb = 147
        bank: REFsb -> ACT = 312
    """,
    "lpddr5-6400": """
        rank: PREab -> REFpb = 17
        rank: ACT1 -> REFpb = 4
        bank: RDA -> REFpb = 23
        bank: WRA -> REFpb = 54
        bank: REFpb -> REFpb = 96
    """,
    "gddr6-14000": "",
    "hbm2-2000": """
        pseudo_channel: PREab -> REFpb = 14
        pseudo_channel: REFpb -> REFpb = 8
        pseudo_channel: REFpb -> REFab = 160
        pseudo_channel: REFab -> REFpb REFab = 260
        bank: RDA -> REFpb = 19
        bank: WRA -> REFpb = 37
        bank: REFpb -> REFpb = 160
    """,
    # a column command takes two ticks
    "hbm3-6400": """
        pseudo_channel: PREab -> REFpb RFMpb = 52
        pseudo_channel: REFpb RFMpb -> RFMpb = 16
        pseudo_channel: RFMpb -> REFpb = 16
        pseudo_channel: REFpb RFMpb -> REFab RFMab = 640
        pseudo_channel: REFab RFMab -> REFab REFpb RFMab RFMpb = 1120
        bank: RDA -> REFpb RFMpb = 71
        bank: WRA -> REFpb RFMpb = 143
        bank: REFpb RFMpb -> REFpb RFMpb = 640
    """,
}


def our_rules(device: Device) -> Counter[Entry]:
    name = device.command_names
    return Counter(
        (device.levels[r.level], name[r.first], name[r.then], r.gap, r.window, r.sibling)
        for r in device.rules
    )


def tool_rules(preset: str) -> Counter[Entry]:
    tool = TOOL[preset]
    cycles, rules = tool["command_cycles"], Counter[Entry]()
    with (DATA / "ramulator21_constraints.csv").open() as stream:
        for row in csv.DictReader(stream):
            if row["standard"] == tool["standard"]:
                latency = eval(row["latency"], {}, tool["timing"])
                for first in row["preceding"].split():
                    for then in row["following"].split():
                        gap = latency + (cycles[first] - 1) - (cycles[then] - 1)
                        window, sibling = int(row["window"]), row["sibling"] == "1"
                        rules[row["level"], first, then, gap, window, sibling] += 1
    assert rules
    return rules


def listed(text: str) -> Counter[Entry]:
    rules = Counter[Entry]()
    for line in text.strip().splitlines():
        level, pair = line.strip().split(": ")
        commands, gap = pair.split(" = ")
        firsts, thens = (part.split() for part in commands.split(" -> "))
        rules.update((level, first, then, int(gap), 1, False) for first in firsts for then in thens)
    return rules


def test_every_preset_of_the_tool_is_compared() -> None:
    assert TOOL.keys() == OURS.keys()


@pytest.mark.parametrize("preset", TOOL)
def test_no_rule_of_the_tool_is_missing(preset: str) -> None:
    assert tool_rules(preset) - our_rules(load_device(preset)) == Counter()


@pytest.mark.parametrize("preset", TOOL)
def test_rules_the_tool_lacks_are_the_listed_ones(preset: str) -> None:
    assert our_rules(load_device(preset, corrected=False)) - tool_rules(preset) == listed(OURS[preset])


def test_corrections_keep_bursts_of_two_ranks_apart() -> None:
    corrected = our_rules(load_device("ddr4-2400r")) - our_rules(load_device("ddr4-2400r", corrected=False))
    # nCL 16 + nBL 4 + nCS 2 - nCWL 12
    assert corrected == Counter(
        {("rank", first, then, 10, 1, True): 1 for first in ("RD", "RDA") for then in ("WR", "WRA")}
    )


@pytest.mark.parametrize("preset", TOOL)
def test_rules_the_tool_lacks_leave_all_bank_refresh_alone(preset: str) -> None:
    device = load_device(preset)
    used = {c for role, c in device.roles.items() if role not in ("refresh_bank", "refresh_same_bank")}
    used -= {device.roles.get("precharge_same_bank")}
    refresh = device.command_names[device.roles["refresh_all"]]
    names = {device.command_names[c] for c in used}
    for level, first, then, gap, *_ in listed(OURS[preset]):
        if {first, then} <= names:
            # two refreshes lie nREFI apart anyway
            assert (level, first, then) == (device.levels[device.refresh_at], refresh, refresh)
            assert gap < device.ticks("nREFI")


@pytest.mark.parametrize("preset", TOOL)
def test_timings_are_the_tools(preset: str) -> None:
    device, timing = load_device(preset), dict(TOOL[preset]["timing"])
    assert timing.pop("rate") == device.timing["rate"]
    assert timing.pop("tCK_ps") == device.timing["tCK_ps"] // device.ticks_per_clock
    # the tool counts the banks of both pseudo-channels, or refreshes each bank every other nREFI
    per_bank = {"hbm2-2000": 122, "lpddr5-6400": 391}
    if preset in per_bank:
        assert timing.pop("nREFIpb") == per_bank[preset]
        assert device.timing["nREFIpb"] == device.timing["nREFI"] // 16
    assert {name: device.ticks(name) for name in timing} == timing
    added = device.timing.keys() - timing.keys() - {"rate", "tCK_ps"}
    assert added == {
        "ddr5-4800an": {"nRFCsb", "nREFSBRD", "nREFIsb"},
        "gddr6-14000": {"nREFIpb"},
        "hbm2-2000": {"nREFIpb"},
        "lpddr5-6400": {"nREFIpb"},
    }.get(preset, set())


@pytest.mark.parametrize("preset", TOOL)
def test_organisation_and_latencies_are_the_tools(preset: str) -> None:
    device, tool = load_device(preset), TOOL[preset]
    counts = dict(zip(device.levels, device.counts, strict=True))
    org = device.organisation
    assert counts | {"row": org.row, "column": org.column} == tool["organisation"]
    assert (org.device_width, org.width, device.prefetch) == (
        tool["dq"], tool["channel_width"], tool["prefetch"],
    )  # fmt: skip
    assert device.ticks_per_clock == tool["ticks_per_clock"]
    assert device.read_latency == tool["read_latency"]
    cycles = dict(zip(device.command_names, device.command_cycles, strict=True))
    assert {command: cycles[command] for command in tool["command_cycles"]} == tool["command_cycles"]


def test_same_bank_refresh_covers_one_bank_of_every_group() -> None:
    device = load_device("ddr5-4800an", {"organisation.rank": 2})
    command = device.command("REFsb")
    assert device.n_units(command) == 2 * 4
    for unit in range(8):
        banks = device.coordinates[device.banks_of(command, unit)]
        assert len(banks) == 8
        assert len(np.unique(banks[:, [1, 3]], axis=0)) == 1  # one rank, one bank number
        assert len(np.unique(banks[:, 2])) == 8  # every group


@pytest.mark.parametrize(
    ("preset", "role", "interval"),
    [
        ("ddr5-4800an", "refresh_same_bank", "nREFIsb"),
        ("lpddr5-6400", "refresh_bank", "nREFIpb"),
        ("gddr6-14000", "refresh_bank", "nREFIpb"),
        ("hbm2-2000", "refresh_bank", "nREFIpb"),
        ("hbm3-6400", "refresh_bank", "nREFIpb"),
    ],
)
def test_every_bank_is_refreshed_in_time(preset: str, role: str, interval: str) -> None:
    """One refresh an interval, round robin, covers every bank once in tREFI (DDR5: once in
    tREFI2 = tREFI / 2, for a same-bank refresh is one of fine granularity)."""
    device = load_device(preset)
    nodes = int(np.prod(device.counts[: device.refresh_at + 1]))
    round_trip = device.ticks(interval) * device.n_units(device.roles[role]) // nodes  # type: ignore[index]
    due = device.ticks("nREFI") // (2 if role == "refresh_same_bank" else 1)
    assert 0.99 * due < round_trip <= due


@pytest.mark.parametrize("name", device_names())
def test_nodes_of_a_command_are_those_its_banks_lie_in(name: str) -> None:
    """By the path of each bank from the channel: another way than `Device.nodes_of` goes."""
    device = load_device(name)
    for command in range(len(device.commands)):
        for level in range(len(device.levels)):
            nodes = device.nodes_of(command, level)
            for unit in range(device.n_units(command)):
                expected = set()
                for bank in device.banks_of(command, unit):
                    node = 0
                    for above in range(level + 1):
                        node = node * device.counts[above] + int(device.coordinates[bank, above])
                    expected.add(node)
                assert nodes[unit].tolist() == sorted(expected)
