"""Running programs: against the plain twin and the rule checker, by hand, and with every switch."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys

import numpy as np
import pytest

from naive.program import Illegal, NaiveChannel
from naive.random_program import RandomProgram
from neardata.arch.dram import Device, device_names, load_device
from neardata.arch.errors import InputError
from neardata.sim.dram.checker import check
from neardata.sim.dram.pim import ChannelReport, run_program
from neardata.sim.dram.program import Program

SEEDS = 8
COLUMNS = ("cycle", "command", "unit", "row", "column", "kind")


def run(steps: list, device: str = "gddr6-aim", refresh: str = "none", **more) -> ChannelReport:
    """The only channel of a program, with its commands."""
    program = Program.from_dict({"device": device, "refresh": refresh, **more, "body": steps})
    return run_program(program, record_commands=True).groups[0]


def rows_of(report: ChannelReport) -> list[tuple[int, ...]]:
    log = report.command_log
    assert log is not None
    return list(zip(*(getattr(log, column).tolist() for column in COLUMNS), strict=True))


def issued(report: ChannelReport, *names: str) -> list[int]:
    """Cycles of the commands of these names."""
    log = report.command_log
    assert log is not None
    numbers = [log.device.command(name) for name in names]
    return log.cycle[np.isin(log.command, numbers)].tolist()


def figures(report: ChannelReport) -> tuple:
    """Everything that no switch may change."""
    return (
        report.cycles, report.command_counts, report.refreshes, report.phase_cycles, report.busy_cycles,
        report.lost_cycles, report.open_cycles, report.internal_bytes, report.external_bytes,
    )  # fmt: skip


def random_program(name: str, seed: int, **sizes) -> tuple[Program, Device]:
    """A program and its device, with refreshes often enough that short runs meet some."""
    rng = random.Random(seed)
    name, _, ranks = name.partition("/")
    overrides = {"organisation.rank": int(ranks)} if ranks else {}
    timing = load_device(name).timing
    if timing.get("nREFI"):
        overrides["timing.nREFI"] = timing.get("nRFC", timing.get("nRFCab", 0)) + rng.randint(250, 1500)
    device = load_device(name, overrides)
    draw = RandomProgram(device, seed, illegal=0.05 if seed % 4 == 3 else 0.0, **sizes)
    data = draw.program(host=seed % 3 == 0 and "read" in device.roles)
    return Program.from_dict({**data, "overrides": overrides}), device


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("name", [*device_names(), "ddr4-2400r/2"])
def test_random_programs_equal_the_twin_and_break_no_rule(name, seed):
    program, device = random_program(name, seed)
    assert program.refresh is not None
    twin = NaiveChannel(program, device, program.refresh)
    try:
        twin.run(program.groups[0])
    except Illegal:
        with pytest.raises(InputError, match="cycle"):
            run_program(program)
        return
    report = run_program(program, record_commands=True).groups[0]
    assert rows_of(report) == twin.rows
    assert report.cycles == twin.over - 1
    assert report.lost_cycles == {cause: n for cause, n in twin.lost.items() if n}
    assert report.busy_cycles == twin.busy
    assert report.cycles == report.busy_cycles + sum(report.lost_cycles.values())
    assert {p: n for p, n in report.phase_cycles.items() if n} == {p: n for p, n in twin.phases.items() if n}
    assert (report.refreshes, report.open_cycles) == (twin.refreshes, twin.open_cycles)
    assert (report.host.depart.tolist() if report.host else []) == twin.depart
    assert report.command_log is not None
    violations = check(report.command_log, refresh_interval_check=False)
    # LPDDR5's clock synchronisation is a command like any other here: the program has to give it
    assert [str(v) for v in violations if v.rule != "clock sync"] == []
    for jump, runs in ((True, True), (True, False), (False, True), (False, False)):
        assert figures(run_program(program, jump=jump, runs=runs).groups[0]) == figures(report)


@pytest.mark.parametrize("seed", range(60))
def test_jump_changes_nothing_in_long_loops(seed):
    names = device_names()
    longest = [(1500, 10, 3), (10, 150, 4), (3, 4, 300)][seed // len(names) % 3]
    program, _ = random_program(names[seed % len(names)], seed + 1000, longest=longest)
    results = []
    for jump, runs in ((True, True), (True, False), (False, True), (False, False)):
        try:
            results.append(figures(run_program(program, jump=jump, runs=runs).groups[0]))
        except InputError as error:
            results.append((str(error),))
    assert results == [results[0]] * 4


@pytest.fixture
def eager(monkeypatch) -> list[int]:
    """Stretches are laid out at their first visit; how often one was executed, run by run."""
    from neardata.sim.dram import program_channel, program_kernel, program_stretch
    from neardata.sim.dram.program_layout import R_STRETCHES

    def execute(tables, state):
        status = real(tables, state)
        executed.append(int(state.register[R_STRETCHES]))
        return status

    executed: list[int] = []
    real = program_kernel.execute
    monkeypatch.setattr(program_kernel, "execute", execute)
    monkeypatch.setattr(program_channel, "LEARN", 20)
    monkeypatch.setattr(program_stretch, "LEAST_VISITS", 1)
    return executed


def unchecked(body: list, openers: set[str]) -> list:
    """Steps without the rows of commands on open rows: rows need not be kept, and stretches are laid out."""
    out = []
    for step in body:
        if isinstance(step, dict):
            step = {
                key: unchecked(value, openers)
                if key == "body"
                else {f: v for f, v in value.items() if f != "row"}
                if isinstance(value, dict) and key not in openers
                else value
                for key, value in step.items()
            }
        out.append(step)
    return out


def unchecked_program(name: str, seed: int, again: int = 1, **sizes) -> tuple[Program, Device]:
    """A random program in which most commands are part of a stretch."""
    program, device = random_program(name, seed, **sizes)
    commands = zip(device.command_names, device.commands, strict=True)
    openers = {name for name, c in commands if c.leaves in ("open", "activating")}
    data = program.to_dict()
    data.pop("host", None)
    if data["refresh"] == "close-reopen":
        data["refresh"] = "all-bank"
        data.pop("owed", None)
    body = unchecked(data["body"], openers)
    return Program.from_dict({**data, "body": [{"loop": again, "body": body}] if again > 1 else body}), device


@pytest.mark.parametrize("seed", range(SEEDS // 2))
@pytest.mark.parametrize("name", [*device_names(), "ddr4-2400r/2"])
def test_stretches_equal_the_twin(name, seed, eager):
    program, device = unchecked_program(name, seed + 500, again=8, longest=(3, 3))
    assert program.refresh is not None
    twin = NaiveChannel(program, device, program.refresh)
    try:
        twin.run(program.groups[0])
    except Illegal:
        with pytest.raises(InputError, match="cycle"):
            run_program(program, jump=False)
        return
    for runs in (True, False):
        report = run_program(program, jump=False, runs=runs).groups[0]
        assert report.cycles == twin.over - 1
        assert report.lost_cycles == {cause: n for cause, n in twin.lost.items() if n}
        assert (report.busy_cycles, report.refreshes, report.open_cycles) == (
            twin.busy, twin.refreshes, twin.open_cycles
        )  # fmt: skip
        phases = {p: n for p, n in report.phase_cycles.items() if n}
        assert phases == {p: n for p, n in twin.phases.items() if n}


@pytest.mark.parametrize("seed", range(60))
def test_stretches_change_nothing_in_long_loops(seed, eager):
    names = device_names()
    longest = [(1500, 10, 3), (10, 150, 4), (3, 4, 300)][seed // len(names) % 3]
    program, _ = unchecked_program(names[seed % len(names)], seed + 2000, longest=longest)
    results = []
    for jump, runs, stretches in itertools.product((True, False), repeat=3):
        try:
            report = run_program(program, jump=jump, runs=runs, stretches=stretches)
            results.append(figures(report.groups[0]))
        except InputError as error:
            results.append((str(error),))
    assert results == [results[0]] * 8


@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize("refresh", ["none", "all-bank", "declared"])
def test_most_of_a_loop_of_rows_is_done_in_stretches(refresh, runs, eager):
    body = tiles(2000, 8)
    body[0]["body"][0]["body"].append("refresh")
    program = Program.from_dict({"device": "gddr6-aim", "refresh": refresh, "body": body})
    with_stretches = run_program(program, jump=False, runs=runs)
    assert eager[-1] > 1800
    without = run_program(program, jump=False, runs=runs, stretches=False)
    assert eager[-1] == 0
    assert figures(with_stretches.groups[0]) == figures(without.groups[0])


def test_a_bank_chosen_by_an_inner_loop_is_part_of_a_stretch(eager):
    where = {"bank_group": "3 - g", "bank": "b"}
    macs = [{"loop": {"g": 4}, "body": [{"loop": {"b": 4}, "body": [{"MAC": where}, {"MAC": where}]}]}]
    row = [{"ACT16": {"row": "i"}}, *macs, "PREA"]
    body = [{"loop": {"i": 500}, "body": row}]
    program = Program.from_dict({"device": "gddr6-aim", "refresh": "all-bank", "body": body})
    with_stretches = run_program(program, jump=False)
    assert eager[-1] > 400
    assert figures(with_stretches.groups[0]) == figures(run_program(program, stretches=False).groups[0])


def tiles(n: int, macs: int = 64) -> list:
    """n rows, one after the other."""
    body = [{"ACT16": {"row": "i"}}, {"MAC16": {"column": "k"}, "repeat": {"k": macs}}, "PREA"]
    outer = -(-n // 16000)
    return [{"loop": outer, "body": [{"loop": {"i": n // outer}, "body": body}]}]


def test_a_row_of_macs_takes_what_the_closed_form_says():
    t = load_device("gddr6-aim").timing
    row = t["nRCDRDMAC"] + 63 * t["nCCDL"] + t["nRTP"] + t["nRP"]
    assert row == 226
    report = run(tiles(10))
    assert issued(report, "ACT16") == [1 + row * i for i in range(10)]
    assert report.cycles == 10 * row - t["nRP"] + 1  # the last precharge ends it
    assert report.internal_bytes == 10 * 64 * 16 * 32


def test_fifth_activation_waits_for_the_window():
    steps = [{"ACT": {"rank": 0, "bank_group": f"{i % 4}", "bank": i // 4, "row": 1}} for i in range(6)]
    at = issued(run(steps, "ddr4-2400r"), "ACT")
    assert [b - a for a, b in itertools.pairwise(at)][:3] == [4, 4, 4]
    assert at[4] - at[0] == at[5] - at[1] == 26


def test_row_and_column_command_share_a_cycle_on_two_buses():
    device = load_device("hbm2-2000")
    levels = {level: 0 for level in device.levels[1:]}
    steps = [
        {"ACT": {**levels, "row": 1}},
        {"wait": 40},
        {"parallel": [[{"RD": levels}], [{"ACT": {**levels, "bank": 1, "row": 1}}]]},
    ]
    rows = rows_of(run(steps, "hbm2-2000"))
    assert rows[1][0] == rows[2][0]


@pytest.mark.parametrize("kind, cycles", [("reads", 8), ("data", 8), ("all", 8)])
def test_fence_waits_for_the_data(kind, cycles):
    steps = ["TMODR", "WRMAC16", {"fence": kind, "plus": 5}, "WRGB"]
    report = run(steps)
    t = load_device("gddr6-aim").timing
    gap = issued(report, "WRGB")[0] - issued(report, "WRMAC16")[0]
    assert gap == (t["nCWLREG"] + t["nBL"] + 5 if kind != "reads" else t["nBL"])
    assert report.lost_cycles.get("fence", 0) == (gap - 1 if kind != "reads" else 0)


def test_wait_and_until():
    report = run(["PREA", {"wait": 7}, {"ACT16": {"row": 0}}, {"wait": 90}, "PREA"])
    assert [row[0] for row in rows_of(report)] == [1, 33, 124]
    # the mode change waits until the activation could issue, and the activation for the mode
    report = run(["PREA", {"until": {"ACT16": {}}}, "TMODR", "TMODM", {"ACT16": {"row": 0}}])
    assert [row[0] for row in rows_of(report)] == [1, 33, 65, 97]
    assert report.lost_cycles["tRP"] == 31


def test_streams_merge_first_ready_first():
    a = {"bank_group": 0, "bank": 0}
    b = {"bank_group": 1, "bank": 0}
    steps = [
        {"parallel": [
            [{"ACT": {**a, "row": 1}}, {"MAC": a, "repeat": 3}],
            [{"ACT": {**b, "row": 1}}, {"RDCP": b, "repeat": 2}, {"fence": "all"}],
        ]},
        {"PRE": a},
    ]  # fmt: skip
    report = run(steps)
    assert report.command_log is not None
    names = [report.command_log.device.command_names[c] for c in report.command_log.command]
    assert names == ["ACT", "ACT", "MAC", "MAC", "MAC", "RDCP", "RDCP", "PRE"]
    assert issued(report, "ACT") == [1, 12]
    assert issued(report, "PRE")[0] > issued(report, "RDCP")[-1]


def test_all_bank_refresh_goes_to_the_first_closed_point_after_it_is_due():
    report = run(tiles(100), refresh="all-bank")
    due = [3333 * (n + 1) for n in range(report.refreshes)]
    acts = issued(report, "ACT16")
    for due_at, at in zip(due, issued(report, "REFab"), strict=True):
        assert 0 <= at - due_at < 226
        assert not [act for act in acts if due_at <= act < at]
    log = report.command_log
    assert log is not None and check(log) == []


def test_declared_refresh_happens_only_where_it_is_declared():
    body = [*tiles(20), "refresh"]
    report = run([{"loop": 5, "body": body}], refresh="declared")
    rows = rows_of(report)
    names = [load_device("gddr6-aim").command_names[row[1]] for row in rows]
    assert report.refreshes == report.cycles // 3333
    for i, name in enumerate(names):
        if name == "REFab":
            assert names[:i].count("ACT16") % 20 == 0


def test_close_reopen_closes_after_eight_postponed_refreshes():
    steps = [{"ACT16": {"row": 3}}, {"MAC16": {"row": 3}, "repeat": 40000}, "PREA"]
    report = run(steps, refresh="close-reopen")
    log = report.command_log
    assert log is not None and check(log) == []
    assert report.refreshes % 8 == 0 and report.refreshes == (report.cycles // 3333) // 8 * 8
    names = [log.device.command_names[c] for c in log.command]
    first = names.index("REFab")
    assert names[first - 1 : first + 10] == ["PREA", *["REFab"] * 8, "ACT16", "MAC16"]
    assert log.row[first + 8] == 3
    assert 8 * 3333 <= log.cycle[first] < 8 * 3333 + 100
    with pytest.raises(InputError, match="more than 8 refreshes are owed"):
        run(steps, refresh="all-bank")


def test_banks_closed_since_their_common_activation_are_not_reopened():
    steps = [
        {"ACT16": {"row": 3}},
        {"PRE": {"bank_group": 1, "bank": 2}},
        {"loop": 16000, "body": [{"MAC": {"bank_group": 0, "bank": 0}}]},
        {"ACT": {"bank_group": 1, "bank": 2, "row": 9}},
    ]
    report = run(steps, refresh="close-reopen")
    assert report.command_log is not None and check(report.command_log) == []
    assert report.command_counts["ACT"] == 15 + 1  # and the program's own


def test_first_refresh_can_be_set():
    report = run(tiles(20), refresh="all-bank", first_refresh=100)
    assert 100 <= issued(report, "REFab")[0] < 326


@pytest.mark.parametrize("refresh", ["none", "all-bank"])
def test_a_hundred_million_commands_by_jumping(refresh):
    program = Program.from_dict({"device": "gddr6-aim", "refresh": refresh, "body": tiles(1_520_000)})
    jumped = run_program(program)
    assert jumped.commands > 100_000_000 and jumped.jumped_periods
    plain = run_program(program, jump=False)
    assert figures(jumped.groups[0]) == figures(plain.groups[0])


def test_rows_are_checked_in_skipped_periods_too():
    bank = {"bank_group": 0, "bank": 0}

    def steps(checked: str) -> list:
        """Each iteration works on the row the one before has opened."""
        body = [{"MAC": {**bank, "row": checked}}, {"PRE": bank}, {"ACT": {**bank, "row": "i + 10"}}]
        return [{"ACT": {**bank, "row": 9}}, {"loop": {"i": 5000}, "body": body}]

    good = run_program(Program.from_dict({"device": "gddr6-aim", "refresh": "none", "body": steps("i + 9")}))
    assert good.jumped_periods and good.command_counts["MAC"] == 5000
    for first_wrong, checked in ((2, "2*i + 8"), (1, "9")):
        body = steps(checked)
        if first_wrong == 2:
            body[0]["ACT"]["row"] = 8
        program = Program.from_dict({"device": "gddr6-aim", "refresh": "none", "body": body})
        for jump in (True, False):
            with pytest.raises(InputError, match=f"MAC at i={first_wrong}, cycle .* has row"):
                run_program(program, jump=jump)


def both(steps: list, device: str = "gddr6-aim", refresh: str = "none"):
    """The figures and the energy, which must not depend on jumps; or the message of the error."""
    program = Program.from_dict({"device": device, "refresh": refresh, "body": steps})
    results, jumped = [], []
    for jump in (True, False):
        try:
            report = run_program(program, jump=jump)
        except InputError as error:
            results.append(str(error))
            continue
        assert report.energy is not None
        jumped.append(report.groups[0].jumped_periods)
        results.append((figures(report.groups[0]), report.energy))
    assert results[0] == results[1]
    return results[0], bool(jumped and jumped[0])


@pytest.mark.parametrize("opened, checked", [(0, "i"), ("k", "k + i"), ("k + i", "k + 2*i")])
def test_rows_are_checked_in_nests_of_loops_too(opened, checked):
    def nest(row) -> list:
        body = [{"ACT16": {"row": opened}}, {"MAC16": {"row": row, "column": 0}}, "PREA"]
        return [{"loop": {"i": 20}, "body": [{"loop": {"k": 100}, "body": body}]}]

    message, _ = both(nest(checked))
    assert "MAC16 at i=1, k=0, cycle 10057" in message and "has row" in message
    _, jumped = both(nest(opened))
    assert jumped


@pytest.mark.parametrize("refresh", ["none", "all-bank"])
@pytest.mark.parametrize("outer", [1, 3])
def test_rows_opened_in_skipped_periods_are_known_after_the_loop(refresh, outer):
    def steps(row: int) -> list:
        loop = {"loop": {"i": 16_000}, "body": ["PREA", {"ACT16": {"row": "i + 10"}}]}
        return [{"loop": {"j": outer}, "body": [loop]}, {"MAC16": {"row": row}}, "PREA"]

    (found, _), jumped = both(steps(16_009), refresh=refresh)
    assert jumped and found[1]["MAC16"] == 1
    message, _ = both(steps(16_008), refresh=refresh)
    assert "has row 16009 open" in message


@pytest.mark.parametrize("refresh", ["none", "close-reopen"])
def test_a_row_open_throughout_a_loop_counts_as_open(refresh):
    macs = [{"MAC16": {"column": 0}}, {"MAC16": {"column": 1}}]
    steps = [{"ACT16": {"row": 0}}, {"loop": 100_000, "body": macs}, "PREA"]
    (found, _), jumped = both(steps, refresh=refresh)
    assert jumped and found[6] > 400_000
    if refresh == "none":
        assert found[6] == 400_066
    both([{"ACT16": {"row": 0}}, {"MAC16": {}, "repeat": 100_000}, "PREA"], refresh=refresh)


def test_a_row_open_over_a_long_loop_that_is_refreshed_elsewhere():
    """Pseudo-channel 1 opens and closes rows and is refreshed; 0 keeps its row open through it all."""
    here, there = ({"pseudo_channel": n, "bank_group": 0, "bank": 0} for n in (0, 1))
    body = [{"ACT": {**there, "row": "i"}}, {"RD": there}, {"PREpb": there}]
    steps = [{"ACT": {**here, "row": 4}}, {"loop": {"i": 5}, "body": body},
             {"RD": {**here, "row": 4}}, {"PREpb": here}]  # fmt: skip
    (found, _), jumped = both([{"loop": 20_000, "body": steps}], "hbm2-2000", "all-bank")
    assert jumped and found[2] > 100 and found[6] > found[0]


def test_a_row_with_auto_precharge_is_open_until_the_device_closes_it():
    bank = {"rank": 0, "bank_group": 0, "bank": 0}
    act = {"ACT": {**bank, "row": 1}}
    t = load_device("ddr4-2400r").timing
    late = run([act, {"wait": 99}, {"RDA": bank}, {"wait": 99}], "ddr4-2400r")
    assert late.open_cycles == issued(late, "RDA")[0] + t["nRTP"] - 1
    early = run([act, {"RDA": bank}, {"wait": 99}], "ddr4-2400r")
    assert early.open_cycles == t["nRAS"] > t["nRCD"] + t["nRTP"]
    written = run([act, {"WRA": bank}, {"wait": 99}], "ddr4-2400r")
    assert written.open_cycles == t["nRCD"] + t["nCWL"] + t["nBL"] + t["nWR"]
    other = run(
        [act, {"RDA": bank}, {"ACT": {**bank, "bank_group": 1, "row": 1}}, {"wait": 99}], "ddr4-2400r"
    )
    assert other.open_cycles == other.cycles  # the next row opens before this one is closed


def test_folding_changes_nothing():
    body = tiles(30)
    data = {"device": "gddr6-aim", "groups": [{"channels": 3, "body": body}, {"channels": 1, "body": body},
                                             {"channels": 2, "body": tiles(7)}]}  # fmt: skip
    folded, each = (run_program(Program.from_dict(data), fold=fold) for fold in (True, False))
    assert [g.channels for g in folded.groups] == [3, 1, 2]
    assert [g.channels for g in each.groups] == [1] * 6
    for name in ("cycles", "command_counts", "refreshes", "internal_bytes", "external_bytes", "channels"):
        assert getattr(folded, name) == getattr(each, name)
    assert folded.energy is not None and each.energy is not None
    assert folded.energy.total_pj == pytest.approx(each.energy.total_pj)


def test_nothing_takes_no_time():
    report = run([{"loop": 0, "body": ["PREA"]}, {"PREA": None, "repeat": 0}, {"loop": 3, "body": []}])
    assert report.cycles == 0 and report.command_counts == {}


# host requests

HOST = {"requests": 20, "stride": 32, "leave": [{"fence": "data"}, "PREA"]}


def test_host_requests_at_a_yield():
    """Two reads a stay, in order, one activation for those of a row, between two rows of MACs."""
    steps = [{"loop": {"n": 4}, "body": [*tiles(1), {"yield": 5}]}]
    report = run(steps, host=HOST)
    assert report.host is not None and report.host.requests == report.host.reads == 20
    assert report.command_counts["RD"] == 20 and report.command_counts["ACT"] == 4
    assert np.all(np.diff(report.host.depart) > 0)
    assert report.command_log is not None and check(report.command_log, refresh_interval_check=False) == []
    alone = run([{"loop": {"n": 4}, "body": tiles(1)}])
    assert report.cycles > alone.cycles == report.host.alone_cycles


def test_pim_first_serves_the_host_at_the_end():
    steps = [{"loop": {"n": 4}, "body": [*tiles(1), "yield"]}]
    first = run(steps, host={**HOST, "policy": "pim-first"})
    assert issued(first, "RD")[0] > issued(first, "MAC16")[-1]
    assert issued(first, "MAC16") == issued(run(steps), "MAC16")
    assert first.host is not None
    host_first = run(steps, host=HOST)
    assert host_first.host is not None
    assert host_first.host.latency_cycles.mean() < first.host.latency_cycles.mean()


def test_host_requests_respect_arrival_and_open_rows():
    host = {**HOST, "requests": 3, "first_arrival": 500, "interval": 400, "write_every": 3}
    report = run([], host=host)
    t = load_device("gddr6-aim").timing
    assert issued(report, "ACT") == [500]
    assert issued(report, "RD") == [500 + t["nRCDRD"], 900] and issued(report, "WR") == [1300]
    assert report.host is not None and report.host.writes == 1
    assert report.host.latency_cycles.tolist() == [36 + 52, 52, 8]
    assert report.lost_cycles["host arrival"] > 1000


def test_host_requests_in_the_wrong_mode_are_refused():
    with pytest.raises(
        InputError, match=r"ACT, cycle 34: the device is in mode register, it must be in memory"
    ):
        run(["TMODR", "WRGB", "yield"], host={"requests": 1})
    report = run(["TMODR", "WRGB", "yield"], host={"requests": 1, "enter": ["TMODM"]})
    assert report.command_counts["RD"] == 1


# the rest


def test_interrupted_programs_report_what_they_have(monkeypatch):
    from neardata.sim.dram import program_channel, program_kernel

    calls = []

    def execute(tables, state):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(tables, state)

    real = program_kernel.execute
    monkeypatch.setattr(program_kernel, "execute", execute)
    monkeypatch.setattr(program_channel, "SLICE", 1000)
    program = Program.from_dict({"device": "gddr6-aim", "refresh": "none", "body": tiles(1000)})
    report = run_program(program, jump=False)
    assert report.partial
    assert 1900 <= report.commands <= 2000
    assert report.cycles == report.groups[0].busy_cycles + sum(report.lost_cycles.values())


def test_no_numba_before_a_program_runs():
    code = "import sys, neardata.sim.dram.pim, neardata.sim.dram.aim; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
