"""The rule checker, layer by layer: each kind of rule one cycle too early and just in time,
good traces of another simulator, good traces spoilt at random."""

from __future__ import annotations

import gzip
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neardata.arch.dram import Device, TimingRule, device_names, load_device
from neardata.arch.errors import InputError
from neardata.sim.dram import mutation
from neardata.sim.dram.checker import REPORTED, Violation, check, rule_slack, slack
from neardata.sim.dram.command_log import CommandLog

DATA = Path(__file__).parents[2] / "data" / "dram"
PEER = {
    "ddr4-2400r": "DDR4_2400R",
    "ddr5-4800an": "DDR5_4800AN",
    "hbm3-6400": "HBM3_6400",
    "lpddr5-6400": "LPDDR5_6400",
}


def trace(device: Device, text: str) -> CommandLog:
    """A log from ``CYCLE COMMAND [BANK [ROW]]; ...``: the unit is the one the bank belongs to."""
    rows = []
    for entry in filter(None, map(str.strip, re.split(r"[;\n]", text))):
        cycle, name, *where = entry.split()
        bank, row = (*map(int, where), *[0, -1][len(where) :])
        command = device.command(name)
        rows.append((int(cycle), command, device.unit_of[command][bank], row, -1, -1))
    return CommandLog.from_rows(device, np.array(rows, dtype=np.int64).reshape(-1, 6))


def rules(violations: list[Violation]) -> list[str]:
    return [violation.rule for violation in violations]


def assert_earliest(device: Device, before: str, command: str, earliest: int, *causes: str) -> None:
    """``command`` breaks ``causes`` one cycle before ``earliest``, and nothing then."""
    name, *where = command.split(" ", 1)
    late, early = (
        check(trace(device, f"{before}; {cycle} {name} {' '.join(where)}"), refresh_interval_check=False)
        for cycle in (earliest, earliest - 1)
    )
    assert late == []
    assert sorted(set(rules(early))) == sorted(causes)
    assert all(violation.index == before.count(";") + 1 for violation in early)


@pytest.fixture(scope="module")
def ddr4() -> Device:
    return load_device("ddr4-2400r")


# DDR4-2400R, by hand from the speed bin: nRCD 16, nRP 16, nRAS 39, nRC 55, nCL 16, nCWL 12, nBL 4,
# nCCD 4/6, nRRD 4/6, nWTR 3/9, nRTP 9, nWR 18, nFAW 26, nRFC 433. Banks 0-3 are bank group 0.
@pytest.mark.parametrize(
    ("before", "command", "earliest", "causes"),
    [
        ("1 ACT 0 5", "RD 0 5", 17, ["tRCD"]),
        ("1 ACT 0 5", "WR 0 5", 17, ["tRCD"]),
        ("1 ACT 0 5", "ACT 4 5", 5, ["tRRD_S"]),
        ("1 ACT 0 5", "ACT 1 5", 7, ["tRRD_L"]),
        ("1 ACT 0 5", "PREpb 0", 40, ["tRAS"]),
        ("1 ACT 0 5", "PREab 0", 40, ["tRAS"]),
        ("1 ACT 0 5; 40 PREpb 0", "ACT 0 6", 56, ["tRC", "tRP"]),
        ("1 ACT 0 5; 45 PREpb 0", "ACT 0 6", 61, ["tRP"]),
        ("1 ACT 0 5; 45 PREab 0", "ACT 9 6", 61, ["tRP"]),
        ("1 ACT 0 5; 5 ACT 4 5; 21 RD 0 5", "RD 4 5", 25, ["tBL", "tCCD_S", "data bus"]),
        ("1 ACT 0 5; 7 ACT 1 5; 30 RD 0 5", "RD 1 5", 36, ["tCCD_L"]),
        ("1 ACT 0 5; 7 ACT 1 5; 30 WR 0 5", "WR 1 5", 36, ["tCCD_L"]),
        ("1 ACT 0 5; 17 RD 0 5", "WR 0 5", 27, ["tRTW"]),
        ("1 ACT 0 5; 5 ACT 4 5; 30 WR 0 5", "RD 4 5", 49, ["tWTR_S"]),
        ("1 ACT 0 5; 30 WR 0 5", "RD 0 5", 55, ["tWTR_L"]),
        ("1 ACT 0 5; 40 RD 0 5", "PREpb 0", 49, ["tRTP"]),
        ("1 ACT 0 5; 40 RD 0 5", "PREab 0", 49, ["tRTP"]),
        ("1 ACT 0 5; 17 WR 0 5", "PREpb 0", 51, ["tWR"]),
        ("1 ACT 0 5; 40 RDA 0 5", "ACT 0 6", 65, ["tRP"]),
        ("1 ACT 0 5; 17 WRA 0 5", "ACT 0 6", 67, ["tWR"]),
        ("1 ACT 0 5; 5 ACT 4 5; 9 ACT 8 5; 13 ACT 12 5", "ACT 1 5", 27, ["tFAW"]),
        ("1 ACT 0 5; 40 PREpb 0", "REFab 0", 56, ["tRC", "tRP"]),
        ("1 REFab 0", "ACT 13 5", 434, ["tRFC"]),
        ("1 ACT 0 5; 5 ACT 4 5; 9 ACT 8 5; 13 ACT 12 5; 28 ACT 1 5; 32 ACT 5 5", "ACT 9 5", 36, ["tRRD_S"]),
    ],
)
def test_ddr4_timing_rule_binds_one_cycle_earlier(ddr4, before, command, earliest, causes):
    assert_earliest(ddr4, before, command, earliest, *causes)


def test_sibling_rule_binds_between_ranks_only():
    two = load_device("ddr4-2400r", {"organisation.rank": 2})
    opened = "1 ACT 0 5; 5 ACT 16 5; 10 ACT 4 5; 30 RD 0 5"
    assert_earliest(two, opened, "RD 16 5", 36, "tCS")  # nBL + nCS
    assert_earliest(two, opened, "RD 4 5", 34, "tCCD_S", "tBL", "data bus")  # same rank: no tCS


def test_timing_rules_of_other_ranks_do_not_bind():
    two = load_device("ddr4-2400r", {"organisation.rank": 2})
    assert (
        check(trace(two, "1 ACT 0 5; 2 ACT 16 5; 3 REFab 17; 4 PREab 15"), refresh_interval_check=False) != []
    )
    assert check(trace(two, "1 ACT 0 5; 2 ACT 16 5"), refresh_interval_check=False) == []
    assert check(trace(two, "1 REFab 0; 2 ACT 16 5"), refresh_interval_check=False) == []


def test_rule_below_the_scope_of_a_command_covers_all_its_nodes():
    ddr5 = load_device("ddr5-4800an")  # REFsb: the same bank of all 8 bank groups of 4
    n_rfcsb = ddr5.timing["nRFCsb"]
    assert_earliest(ddr5, "1 REFsb 1", "ACT 29 5", 1 + n_rfcsb - 1, "tRFCsb")  # ACT takes two cycles
    other = check(trace(ddr5, f"1 REFsb 1; {n_rfcsb - 1} ACT 30 5"), refresh_interval_check=False)
    assert other == []


def test_violation_reads_as_one_line(ddr4):
    (violation,) = check(trace(ddr4, "1 ACT 0 5; 16 RD 0 5"))
    assert str(violation) == "cycle 16: tRCD: RD bank 0 15 cycles after ACT bank 0 at 1, least 16 (command 1)"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("1 RD 0 5", "bank state"),
        ("1 ACT 0 5; 100 ACT 0 6", "bank state"),
        ("1 ACT 0 5; 100 REFab 0", "bank state"),
        ("1 ACT 0 5; 40 PREpb 0; 100 RD 0 5", "bank state"),
        ("1 ACT 0 5; 40 PREab 3; 100 RD 0 5", "bank state"),
        ("1 ACT 0 5; 40 RDA 0 5; 100 WR 0 5", "bank state"),
        ("1 ACT 0 5; 20 RD 0 6", "row"),
        ("1 ACT 0 5; 40 PREpb 0; 60 ACT 0 6; 90 WR 0 5", "row"),
    ],
)
def test_bank_state_machine(ddr4, text, rule):
    assert rules(check(trace(ddr4, text))) == [rule]


def test_bank_states_of_other_banks_do_not_matter(ddr4):
    assert check(trace(ddr4, "1 ACT 0 5; 7 ACT 1 6; 40 PREpb 0; 90 RD 1 6")) == []


def test_order_and_addresses_come_first(ddr4):
    assert rules(check(trace(ddr4, "9 ACT 0 5; 5 ACT 4 5"))) == ["order"]
    assert rules(check(trace(ddr4, "0 ACT 0 5"))) == ["order"]
    log = trace(ddr4, "1 ACT 0 5")
    assert rules(check(replace(log, unit=log.unit + 16))) == ["address"]
    assert rules(check(replace(log, command=log.command - 1))) == ["address"]


def test_one_command_a_cycle_on_a_single_bus(ddr4):
    assert_earliest(ddr4, "40 PREpb 0", "PREpb 1", 41, "command bus")


def test_two_cycle_commands_hold_the_bus():
    assert_earliest(load_device("ddr5-4800an"), "1 ACT 0 5", "PREpb 31", 3, "command bus")


def test_dual_bus_takes_a_row_and_a_column_command_at_once():
    hbm2 = load_device("hbm2-2000")
    opened = "1 ACT 0 5; 30 ACT 4 6"
    together = check(trace(hbm2, f"{opened}; 50 RD 0 5; 50 PREpb 8"), refresh_interval_check=False)
    assert together == []
    assert_earliest(hbm2, opened, "PREpb 8", 32, "command bus")  # ACT takes two cycles of the row bus


def test_hbm3_row_commands_but_precharges_start_with_the_clock():
    hbm3 = load_device("hbm3-6400")
    assert rules(check(trace(hbm3, "2 ACT 0 5"))) == ["clock edge"]
    assert rules(check(trace(hbm3, "1 ACT 0 5; 100 RD 0 5"))) == ["clock edge"]
    assert check(trace(hbm3, "1 ACT 0 5; 101 RD 0 5; 102 PREpb 9")) == []


@pytest.mark.parametrize(
    ("text", "legal"),
    [
        ("101 REFpb 1; 102 PREpb 1", False),  # same bank
        ("101 REFpb 1; 102 PREpb 2", True),
        ("101 REFab 1; 102 PREpb 2", False),  # all banks of the pseudo-channel
        ("101 REFab 1; 102 PREpb 40", True),  # the other pseudo-channel
        ("101 REFpb 1; 102 PREab 2", False),
        ("101 ACT 1 5; 104 PREpb 1", False),  # ACT ends in the first half of its second clock
        ("101 ACT 1 5; 104 PREpb 2", True),
        ("101 REFpb 1; 104 PREpb 1", True),
    ],
)
def test_hbm3_precharge_in_the_second_half_of_a_clock(text, legal):
    found = check(trace(load_device("hbm3-6400"), text), refresh_interval_check=False)
    assert ("clock edge" in rules(found)) == (not legal)


def test_data_bus_overlap_that_the_timing_table_allows():
    # the peer's read -> write gap between ranks, nBL + nCS, is nCL - nCWL short
    two = load_device("ddr4-2400r", {"organisation.rank": 2}, corrected=False)
    opened = "1 ACT 0 5; 5 ACT 16 5; 40 RD 0 5"
    assert rules(check(trace(two, f"{opened}; 46 WR 16 5"))) == ["data bus"]
    assert check(trace(two, f"{opened}; 48 WR 16 5")) == []


def test_lpddr5_column_commands_need_a_running_clock():
    lpddr5 = load_device("lpddr5-6400")
    opened = "1 ACT1 0 5; 2 ACT2 0 5"
    assert rules(check(trace(lpddr5, f"{opened}; 30 RD 0 5"))) == ["clock sync"]
    assert check(trace(lpddr5, f"{opened}; 29 CAS_RD 0 5; 30 RD 0 5")) == []
    assert rules(check(trace(lpddr5, f"{opened}; 29 CAS_WR 0 5; 30 RD 0 5"))) == ["clock sync"] * 2
    assert (
        rules(check(trace(lpddr5, f"{opened}; 29 CAS_RD 0 5; 30 PREpb 7; 31 RD 0 5"))) == ["clock sync"] * 2
    )
    # nCL 17 + nBL 2 + nWCKPST 1 = 20 cycles of clock after a read
    read = f"{opened}; 29 CAS_RD 0 5; 30 RD 0 5"
    assert check(trace(lpddr5, f"{read}; 49 RD 0 5")) == []
    assert rules(check(trace(lpddr5, f"{read}; 50 RD 0 5"))) == ["clock sync"]


def test_lpddr5_activation_is_finished_in_time_and_alone():
    lpddr5 = load_device("lpddr5-6400")
    assert check(trace(lpddr5, "1 ACT1 0 5; 9 ACT2 0 5")) == []
    assert rules(check(trace(lpddr5, "1 ACT1 0 5; 10 ACT2 0 5"))) == ["nAAD"]
    assert rules(check(trace(lpddr5, "1 ACT1 0 5; 10 PREpb 9"))) == ["nAAD"]
    assert rules(check(trace(lpddr5, "1 ACT1 0 5; 5 ACT1 4 5; 6 ACT2 0 5; 7 ACT2 4 5"))) == ["bank state"]
    assert rules(check(trace(lpddr5, "1 ACT2 0 5"))) == ["bank state"]


MODES = """
standard: MODAL
source: made up for this test
prefetch: 4
command_bus: single
data_bus_at: channel
refresh_at: channel
levels: [bank]
modes: [host, pim]
read_latency: nCL
write_latency: nCL
commands:
  MODE_PIM: {at: channel, modes: [host], enters: pim}
  MODE_HOST: {at: channel, modes: [pim], enters: host}
  RD: {at: bank, bus: column, data: read, modes: [host]}
  MAC: {at: channel, bus: column, computes: true, modes: [pim]}
presets:
  modal:
    source: made up for this test
    organisation: {levels: {bank: 4}, row: 16, column: 16, width: 64, device_width: 64}
    timing: {tCK_ps: 1000, nBL: 2, nCL: 4}
"""


def test_device_modes(tmp_path):
    path = tmp_path / "modal.yaml"
    path.write_text(MODES)
    modal = load_device(str(path))
    assert check(trace(modal, "1 RD 0; 3 MODE_PIM; 4 MAC; 5 MODE_HOST; 6 RD 1")) == []
    assert rules(check(trace(modal, "1 MAC"))) == ["mode"]
    assert rules(check(trace(modal, "3 MODE_PIM; 4 RD 0; 5 MODE_PIM"))) == ["mode", "mode"]
    assert rules(check(trace(modal, "1 RD 0; 2 RD 0"))) == ["data bus"]


def test_refresh_may_be_postponed_by_eight_intervals(ddr4):
    last = 9 * 9364  # nREFI 9364
    assert check(trace(ddr4, f"{last} REFab 0")) == []
    assert rules(check(trace(ddr4, f"{last + 1} REFab 0"))) == ["refresh"] * 16
    assert rules(check(trace(ddr4, f"{last + 1} ACT 0 5"))) == ["refresh"] * 16
    assert check(trace(ddr4, f"{last + 1} REFab 0"), refresh_interval_check=False) == []
    # the debt stays: 8 outstanding, then one interval a refresh, is fine; slower is not
    good = "; ".join(f"{(9 + k) * 9364} REFab 0" for k in range(20))
    assert check(trace(ddr4, good)) == []
    slow = "; ".join(f"{(9 + k) * 9364 + k} REFab 0" for k in range(20))
    assert "refresh" in rules(check(trace(ddr4, slow)))


def test_refresh_of_every_bank_is_watched():
    hbm3 = load_device("hbm3-6400")  # nREFI 12480 ticks, 32 banks a pseudo-channel
    turns = [(1 + 390 * k, k % 32) for k in range(32 * 12)]
    both = "; ".join(f"{t} REFpb {b}; {t + 194} REFpb {b + 32}" for t, b in turns)
    assert check(trace(hbm3, both)) == []
    but_one = "; ".join(f"{t} REFpb {b}; {t + 194} REFpb {b + 32}" for t, b in turns if b != 7)
    found = check(trace(hbm3, but_one))
    assert rules(found) == ["refresh"] * 2
    assert [("bank 7 " in str(v), "bank 39 " in str(v)) for v in sorted(found, key=str)] == [
        (False, True),
        (True, False),
    ]


def test_half_the_refreshes_are_not_enough():
    lpddr5 = load_device("lpddr5-6400")
    interval = lpddr5.timing["nREFI"] * 2 // 16
    slow = "; ".join(f"{1 + interval * k} REFpb {k % 16}" for k in range(16 * 24))
    assert "refresh" in rules(check(trace(lpddr5, slow)))


def under(device: Device, rule: TimingRule, first: np.ndarray, then: np.ndarray) -> bool:
    """Does the rule hold between commands to these banks?"""
    nodes = device.node_of(rule.level)
    if not rule.sibling:
        return bool(np.intersect1d(nodes[first], nodes[then]).size)
    one, other = nodes[first[0]], nodes[then[0]]
    return bool(one != other and one // device.counts[rule.level] == other // device.counts[rule.level])


@pytest.mark.parametrize("name", device_names())
def test_each_rule_of_each_table_fires_alone_one_cycle_early(name):
    """Only the rule's own pair of commands: nothing before, bank states aside."""
    device = load_device(name, {"organisation.rank": 2} if name.startswith(("ddr", "lpddr")) else None)
    tried = 0
    for number, rule in enumerate(device.rules):
        firsts = {u: device.banks_of(rule.first, u) for u in range(device.n_units(rule.first))}
        thens = {u: device.banks_of(rule.then, u) for u in range(device.n_units(rule.then))}
        one, other = next((i, j) for i in firsts for j in thens if under(device, rule, firsts[i], thens[j]))
        if rule.gap < 1:
            continue
        tried += 1
        for cycle, least in ((1 + rule.gap, 0), (rule.gap, -1)):
            rows = [(1, rule.first, one, 0, -1, -1)] * rule.window + [(cycle, rule.then, other, 0, -1, -1)]
            log = CommandLog.from_rows(device, np.array(rows))
            assert rule_slack(log)[number] == least
        if tried % 10 == 0:
            timed = [v for v in check(log, refresh_interval_check=False) if v.rule == rule.name]
            assert any(f"least {rule.gap}" in v.message and v.index == rule.window for v in timed)
    assert tried > 10


def peer_trace(device: Device, name: str, pattern: str, tmp_path: Path) -> CommandLog:
    path = tmp_path / "commands.csv"
    path.write_bytes(gzip.decompress((DATA / f"commands_ramulator21_{name}_{pattern}.csv.gz").read_bytes()))
    return CommandLog.read_csv(device, path)


@pytest.mark.parametrize("pattern", ["mix21", "rowstride", "zipf"])
@pytest.mark.parametrize("name", PEER)
def test_traces_of_ramulator_are_clean(name, pattern, tmp_path):
    log = peer_trace(load_device(name), PEER[name], pattern, tmp_path)
    assert len(log) > 1500
    assert check(log) == []


def test_ddr4_trace_is_tight(tmp_path):
    """Every rule the mixed trace exercises binds at least once, so none is looser than the tool's."""
    found = slack(peer_trace(load_device("ddr4-2400r"), "DDR4_2400R", "mix21", tmp_path))
    assert len(found) == 16
    assert set(found.values()) == {0}


@pytest.mark.parametrize("name", PEER)
def test_trace_spoilt_at_any_place_is_caught(name, tmp_path):
    """Moving any one command before the earliest cycle the device would take it is noticed."""
    device = load_device(name)
    log = peer_trace(device, PEER[name], "mix21", tmp_path)
    rng = np.random.default_rng(1)
    caught = 0
    places = rng.choice(np.arange(1, len(log)), 40, replace=False)
    for i in places.tolist():
        cycle = log.cycle.copy()
        cycle[i:] -= cycle[i] - cycle[i - 1]  # as early as the command before it
        caught += bool(check(replace(log, cycle=cycle), refresh_interval_check=False))
    assert caught >= 38  # on a dual bus a row command may legally move onto a column command


def test_dropping_or_swapping_commands_is_caught(ddr4, tmp_path):
    log = peer_trace(ddr4, "DDR4_2400R", "mix21", tmp_path)
    columns = ("cycle", "command", "unit", "row", "column", "kind")
    for name, rule in (("ACT", "bank state"), ("PREpb", "bank state")):
        i = int(np.flatnonzero(log.command == ddr4.command(name))[500])
        kept = np.delete(np.arange(len(log)), i)
        assert rule in rules(check(replace(log, **{c: getattr(log, c)[kept] for c in columns})))


def test_a_rule_broken_everywhere_is_told_a_hundred_times(ddr4):
    text = "; ".join(f"{1 + k} ACT {k % 16} 5" for k in range(500))
    assert rules(check(trace(ddr4, text))).count("tRRD_S") == REPORTED


def test_empty_trace_is_clean(ddr4):
    assert check(trace(ddr4, "")) == []
    assert slack(trace(ddr4, "")) == {}


def eager(device: Device) -> list[CommandLog]:
    """Writes then reads of one bank after another, each command as early as its own device allows."""
    script = [("ACT", 0, 5), ("WR", 0, 5), ("RD", 0, 5), ("PREpb", 0, -1), ("ACT", 0, 6), ("RD", 0, 6)]
    rows: list[tuple[int, ...]] = []
    for name, bank, row in script:
        command = device.command(name)
        unit = device.unit_of[command][bank]
        cycle = rows[-1][0] + 1 if rows else 1
        tried = CommandLog.from_rows(device, np.array([*rows, (cycle, command, unit, row, -1, -1)]))
        cycle -= min(0, *slack(tried).values(), 0)
        rows.append((cycle, command, unit, row, -1, -1))
    return [CommandLog.from_rows(device, np.array(rows))]


def test_survey_tells_too_early_from_too_late_from_unseen(ddr4):
    found = {f.mutation: f for f in mutation.survey(ddr4, eager)}
    assert found["nRCD 16 -> 15"].verdict == "violation"
    assert found["nRCD 16 -> 15"].rules == ("tRCD",)
    assert found["nRCD 16 -> 17"].verdict == "loose"
    assert "tRCD" in found["nRCD 16 -> 17"].rules
    assert found["nWTRL 9 -> 8"].rules == ("tWTR_L",)
    assert found["nFAW 26 -> 25"].verdict == "unseen"
    assert not found["nFAW 26 -> 25"].caught


def test_mutations_keep_overrides_and_cover_every_timing():
    two = load_device("ddr4-2400r", {"organisation.rank": 2, "timing.nFAW": 30})
    mutants = dict(mutation.mutations(two))
    assert {"nFAW 30 -> 31", "nFAW 30 -> 29", "nREFI 9364 -> 9363"} <= set(mutants)
    assert len(mutants) == 2 * (len(two.timing) - 2)
    assert all(mutant.n_banks == 32 for mutant in mutants.values())
    assert mutants["nFAW 30 -> 31"].timing["nFAW"] == 31


def test_mutations_need_a_shipped_device(tmp_path):
    path = tmp_path / "modal.yaml"
    path.write_text(MODES)
    with pytest.raises(InputError, match="ship with the package"):
        next(mutation.mutations(load_device(str(path))))
