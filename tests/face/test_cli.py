"""The command line: what it prints, what it writes, how it fails."""

import csv
import gzip
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from neardata.cli.app import run

NEARDATA = [sys.executable, "-m", "neardata"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")


def neardata(capsys, *arguments):
    """Exit code, stdout, stderr of a command line."""
    code = run([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def run_json(capsys, *arguments):
    code, out, err = neardata(capsys, "dram", "run", "--json", *arguments)
    assert (code, err) == (0, "")
    return json.loads(out)


def test_help_needs_neither_numba_nor_numpy():
    program = (
        "import sys; from neardata.cli.app import run; run(['--help']); "
        "sys.exit(any(m in sys.modules for m in ('numba', 'numpy', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


def test_version(capsys):
    code, out, _ = neardata(capsys, "--version")
    assert code == 0
    assert re.fullmatch(r"neardata \d+\.\d+\S*\n", out)


def test_no_command_shows_what_there_is(capsys):
    code, out, err = neardata(capsys)
    assert code == 2
    assert "devices" in out + err and "doctor" in out + err


def test_devices_and_show_agree_with_the_device(capsys):
    code, out, _ = neardata(capsys, "devices")
    assert code == 0 and "ddr4-2400r" in out and "19.2" in out
    listed = json.loads(neardata(capsys, "devices", "--json")[1])["devices"]
    assert {d["name"] for d in listed} >= {"ddr4-2400r", "hbm3-6400"}
    code, out, _ = neardata(capsys, "show", "ddr4-2400r")
    assert code == 0
    for fact in (
        "4 bank group",
        "8 GiB",
        "19.21 GB/s",
        "nRCD",
        "13.33",
        "tFAW",
        "Ramulator",
    ):
        assert fact in out
    shown = json.loads(neardata(capsys, "show", "ddr4-2400r", "--json", "--set", "timing.nFAW=20")[1])
    assert [c["cycles"] for c in shown["constraints"] if c["name"] == "tFAW"] == [20]


def test_profiles_are_listed_with_their_parameters(capsys):
    listed = json.loads(neardata(capsys, "profiles", "--json")[1])["profiles"]
    assert {"ramulator21-frfcfs", "ramulator21-frfcfs-rowhit"} <= {p["name"] for p in listed}
    code, out, _ = neardata(capsys, "profiles")
    assert code == 0 and all(p["name"] in out and "read_queue 32" in out for p in listed)
    used = run_json(capsys, "-n", "100")
    assert (used["profile"], used["controller"]) == (listed[0]["name"], listed[0]["controller"])


def test_run_without_arguments_does_the_default_job(capsys):
    code, out, err = neardata(capsys, "dram", "run")
    assert (code, err) == (0, "")
    assert "ddr4-2400r" in out and "100,000 requests" in out
    assert "tFAW" in out and "Bound by" in out


def test_json_has_the_promised_fields_and_they_agree(capsys):
    report = run_json(capsys, "--pattern", "mix21", "-n", "5000", "--seed", "3")
    assert report["requests"] == 5000 == report["reads"] + report["writes"]
    assert report["cycles_to_last_accept"] <= report["cycles_to_drain"]
    served = 5000 - report["forwarded_reads"] - report["coalesced_writes"]
    assert report["row_hits"] + report["row_misses"] + report["row_conflicts"] == served
    assert sum(report["command_counts"].get(name, 0) for name in ("RD", "RDA", "WR", "WRA")) == served
    total = report["cycles_to_drain"]
    assert report["busy_cycles"] + sum(report["lost_cycles"].values()) == total
    assert report["time_ns"] == pytest.approx(total * 0.833)
    assert report["bandwidth_gb_per_s"] == pytest.approx(served * 64 / report["time_ns"])
    latency = report["read_latency_cycles"]
    assert latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"]
    assert report["energy_pj"] == pytest.approx(sum(report["energy"]["items_pj"].values()))
    assert report["energy_pj"] > 0
    assert report["partial"] is False
    assert 16 <= report["avg_read_latency_cycles"] <= latency["max"]
    assert report["at_last_accept"]["cycles"] == report["cycles_to_last_accept"]


def test_a_trace_is_replayed_like_the_pattern_it_holds(capsys):
    from neardata.workloads import patterns

    address, is_write = next(patterns.requests("mix21", 2000, seed=5))
    lines = (f"{'ST' if w else 'LD'} 0x{a:x}\n" for a, w in zip(address.tolist(), is_write, strict=True))
    Path("t.trace.gz").write_bytes(gzip.compress("".join(lines).encode()))
    traced = run_json(capsys, "--trace", "t.trace.gz")
    generated = run_json(capsys, "--pattern", "mix21", "-n", "2000", "--seed", "5")
    assert traced.pop("source") == "trace t.trace.gz"
    generated.pop("source")
    assert traced == generated


def test_settings_reach_device_and_controller(capsys):
    before = run_json(capsys, "-n", "3000")
    slower = run_json(capsys, "-n", "3000", "--set", "timing.nFAW=40")
    assert slower["cycles_to_drain"] > before["cycles_to_drain"]
    deeper = run_json(capsys, "-n", "3000", "--set", "controller.read_queue=128")
    assert deeper["controller"]["read_queue"] == 128
    assert deeper["cycles_to_drain"] != before["cycles_to_drain"]
    mapped = run_json(capsys, "-n", "3000", "--mapping", "MOP4CLXOR")
    shown = json.loads(neardata(capsys, "show", "ddr4-2400r", "--json", "--mapping", "MOP4CLXOR")[1])
    assert shown["mapping"] == mapped["mapping"]
    assert mapped["mapping"] != before["mapping"]


def test_channels_and_threads_do_not_change_each_other(capsys):
    one = run_json(capsys, "-n", "4000", "--channels", "4", "--threads", "1")
    four = run_json(capsys, "-n", "4000", "--channels", "4", "--threads", "4")
    assert one == four
    assert one["peak_gb_per_s"] == pytest.approx(4 * 19.2077, rel=1e-4)


def test_no_why_leaves_out_the_causes(capsys):
    assert run_json(capsys, "-n", "1000", "--no-why")["lost_cycles"] is None
    code, out, _ = neardata(capsys, "dram", "run", "-n", "1000", "--no-why")
    assert code == 0 and "Bound by" not in out


def test_files_hold_what_was_simulated(capsys):
    report = run_json(
        capsys, "-n", "2000", "--pattern", "mix21", "--channels", "2", "--commands", "c.csv",
        "--requests", "r.csv", "--timeline", "t.json", "--plot", "p.png",
    )  # fmt: skip
    with open("c.csv", newline="") as stream:
        commands = list(csv.DictReader(stream))
    assert len(commands) == sum(report["command_counts"].values())
    assert {row["Channel"] for row in commands} == {"0", "1"}
    times = np.loadtxt("r.csv", delimiter=",", skiprows=1, dtype=np.int64)
    assert times[:, 0].tolist() == list(range(2000))
    assert (times[:, 1] <= times[:, 3]).all()
    assert times[:, 3].max() == report["cycles_to_drain"]
    events = json.loads(Path("t.json").read_text())["traceEvents"]
    on_bus = [e for e in events if e["ph"] == "X" and e["tid"] == 1]
    assert len(on_bus) == len(commands)
    assert Path("p.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(os.listdir()) == ["c.csv", "p.png", "r.csv", "t.json"]

    run_json(capsys, "-n", "2000", "--pattern", "mix21", "--channels", "2", "--requests", "r.npz")
    assert np.array_equal(np.load("r.npz")["depart"], times[:, 3])


def test_a_recorded_trace_passes_its_check_and_a_spoiled_one_does_not(capsys):
    run_json(capsys, "-n", "500", "--channels", "2", "--commands", "c.csv.gz")
    code, out, _ = neardata(capsys, "dram", "check", "-d", "ddr4-2400r", "-c", "c.csv.gz")
    assert code == 0 and "no rule broken" in out
    # the same trace judged by a device that is slower to open a row
    arguments = ("dram", "check", "-d", "ddr4-2400r", "-c", "c.csv.gz", "--set", "timing.nRCD=17")
    code, out, _ = neardata(capsys, *arguments)
    assert code == 1 and "tRCD" in out
    found = json.loads(neardata(capsys, *arguments, "--json")[1])
    assert {v["channel"] for v in found["violations"]} == {0, 1}


def test_a_curve_rises_until_the_memory_saturates(capsys):
    arguments = ("dram", "curve", "-p", "random", "-n", "3000", "--points", "5")
    code, out, err = neardata(capsys, *arguments, "--plot", "c.svg", "--why-plot", "w.pdf", "--json")
    assert (code, err) == (0, "")
    points = json.loads(out)["curves"]["random"]
    assert [p["saturated"] for p in points] == [False] * (len(points) - 1) + [True]
    means = [p["mean_ns"] for p in points]
    assert means == sorted(means)
    assert all(p["achieved_gb_per_s"] <= p["offered_gb_per_s"] * 1.01 for p in points)
    assert "<svg" in Path("c.svg").read_text() and Path("w.pdf").read_bytes()[:5] == b"%PDF-"


BAD = {
    "device": (["dram", "run", "-d", "ddr4-2400"], "unknown device 'ddr4-2400'; did you mean ddr4-2400r"),
    "profile": (["dram", "run", "--profile", "ramulator"], "unknown profile 'ramulator'"),
    "pattern": (["dram", "run", "-p", "rnd"], "unknown pattern 'rnd'; did you mean random"),
    "timing": (["dram", "run", "--set", "timing.nFAX=3"], "timing.nFAX: unknown timing of ddr4-2400r"),
    "not key=value": (["dram", "run", "--set", "timing.nFAW"], "expected key=value"),
    "section": (["dram", "run", "--set", "nFAW=3"], "nFAW: a key begins with timing., organisation., "),
    "not an integer": (["dram", "run", "--set", "timing.nFAW=x"], "timing.nFAW: must be an integer, got 'x'"),
    "contradiction": (
        ["dram", "run", "--set", "timing.nFAW=20", "--set", "timing.nFAW=30"],
        "timing.nFAW: set to 30, but to 20 by another --set",
    ),
    "contradiction with an option": (
        ["dram", "run", "--mapping", "RoBaRaCoCh", "--set", "controller.mapping=MOP4CLXOR"],
        "controller.mapping: set to MOP4CLXOR, but to RoBaRaCoCh by --mapping",
    ),
    "watermarks": (["dram", "run", "--set", "controller.write_low=0.9"], "write_low 0.9 is above write_high"),
    "trace and pattern": (["dram", "run", "--trace", "t", "-n", "5"], "--trace and -n exclude each other"),
    "no such trace": (["dram", "run", "--trace", "t"], "t: cannot be read: No such file or directory"),
    "channels": (["dram", "run", "--channels", "3"], "channels: must be a power of two, got 3"),
    "option": (["dram", "run", "--bogus"], "--bogus"),
    "command": (["dram", "walk"], "No such command 'walk'"),
    "not a number": (["dram", "run", "-n", "x"], "Invalid value for '-n'"),
    "missing option": (["dram", "check", "-d", "ddr4-2400r"], "Missing option '--commands' / '-c'"),
    "folder of an output": (
        ["dram", "run", "--commands", "no/c.csv"],
        "no/c.csv: cannot be written: its folder",
    ),
    "output is a folder": (["dram", "run", "--commands", "."], "cannot be written: it is a folder"),
    "one output twice": (
        ["dram", "run", "--commands", "a.csv", "--requests", "a.csv"],
        "two outputs have the same",
    ),
    "plot format": (["dram", "run", "--plot", "p.gif"], "p.gif: plots are written as .png, .svg, .pdf"),
    "requests format": (["dram", "run", "--requests", "r.txt"], "r.txt: requests are written as .csv"),
    "plot without why": (["dram", "run", "--plot", "p.png", "--no-why"], "--plot and --no-why exclude"),
    "window": (
        ["dram", "run", "--timeline", "t.json", "--timeline-window", "9"],
        "expected START:END in cycles",
    ),
    "window alone": (["dram", "run", "--timeline-window", "1:2"], "--timeline-window needs --timeline"),
    "device without auto-precharge that patterns do not fit": (
        ["dram", "run", "-d", "hbm-pim"],
        "controller.page: closed, but hbm-pim has no read_autoprecharge command; take open or timeout; and"
        " patterns cover 536,870,912 bytes, the memory has 268,435,456; take --channels 2 or a --trace",
    ),
    "curve of a device without auto-precharge": (
        ["dram", "curve", "-d", "attacc-hbm3"],
        "controller.page: closed, but attacc-hbm3 has no read_autoprecharge command; take open or timeout",
    ),
    "one plot twice": (
        ["dram", "curve", "--plot", "a.png", "--why-plot", "a.png"],
        "a.png: two outputs have the same name",
    ),
    "timings that contradict": (
        ["dram", "run", "--set", "timing.nRC=40"],
        "timing.nRC: must be at least nRAS + nRP - 1 = 54, got 40",
    ),
    "energy that is no number": (
        ["dram", "run", "--set", "energy.IDD0=x"],
        "energy.IDD0: must be a number, got 'x'",
    ),
    "negative energy": (["show", "ddr4-2400r", "--set", "energy.IDD0=-1"], "energy.IDD0: must be at least"),
    "energy of another kind": (
        ["dram", "run", "--set", "energy.background_mw=1"],
        "energy.background_mw: unknown energy value of ddr4-2400r; known: IDD0",
    ),
    "profile without a name": (["dram", "run", "--profile", ""], "unknown profile ''"),
    "pattern without a name": (["dram", "run", "-p", ""], "unknown pattern ''"),
    "requests without end": (["dram", "run", "-n", "9" * 20], "Invalid value for '-n'"),
    "loads without end": (["dram", "curve", "--points", "9" * 9], "Invalid value for '--points'"),
    "digits of another script": (
        ["dram", "run", "--set", "timing.nFAW=２０"],
        "must be an integer, got '２０'",
    ),
    "digits in groups": (["dram", "run", "--set", "timing.nFAW=1_0"], "must be an integer, got '1_0'"),
    "output with a long name": (["dram", "run", "--commands", "a" * 300], "cannot be written: File name too"),
    "output whose temporary name is too long": (
        ["dram", "run", "--commands", "a" * 250 + ".csv"],
        "cannot be written: File name too long",
    ),
    "more channels than there may be": (
        ["dram", "run", "--set", "organisation.row=1"],
        "patterns cover 1,073,741,824 bytes, the memory has 131,072; take a --trace",
    ),
    "show": (["show", "ddr9"], "unknown device 'ddr9'"),
    "program": (["pim", "run", "-p", "p.yaml"], "p.yaml: cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_code_2(capsys, name):
    arguments, message = BAD[name]
    code, out, err = neardata(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("neardata: ") and err.count("\n") == 1
    assert message in err
    assert os.listdir() == []


def test_what_a_device_is_said_to_need_is_all_it_needs(capsys):
    needs = ("--set", "controller.page=open", "--channels", "2")
    assert run_json(capsys, "-d", "hbm-pim", "-n", "1000", *needs)["requests"] == 1000
    assert run_json(capsys, "-d", "attacc-hbm3", "-n", "1000", *needs[:2])["requests"] == 1000


def test_energy_values_can_be_set_and_what_is_not_known_is_said(capsys):
    plain = run_json(capsys, "-n", "5000")["energy"]
    assert plain["unmodelled"] == ["VPP in refresh", "I/O"]
    assert "without VPP in refresh, I/O" in " ".join(neardata(capsys, "dram", "run", "-n", "5000")[1].split())
    given = run_json(capsys, "-n", "5000", "--set", "energy.io_pj_per_bit=4.5", "--set", "energy.IPP5B=5")
    assert given["energy"]["unmodelled"] == [] and given["energy"]["status"] == "assumed"
    assert given["energy"]["items_pj"]["I/O"] == 5000 * 512 * 4.5


def test_limits_of_a_table_are_shown(capsys):
    assert "REFpb refreshes one bank" in neardata(capsys, "show", "lpddr5-6400")[1]
    (limit,) = json.loads(neardata(capsys, "show", "lpddr5-6400", "--json")[1])["limits"]
    assert limit.startswith("REFpb refreshes one bank")
    assert json.loads(neardata(capsys, "show", "ddr4-2400r", "--json")[1])["limits"] == []


TRACES = {
    "far arrival": (
        b"address,write,arrival\n0,0,9223372036854775807\n",
        "t:2: arrival 9223372036854775807 is not",
    ),
    "endless number": (b"LD " + b"1" * 20_000 + b"\n", "t:1: number too large in 'LD 111"),
    "column missing": (b"address,arrival\n0,1\n", "t:1: expected the columns address,write[,arrival], got"),
    "binary": (bytes(range(256)) * 9, "t:1: not a trace: expected 'LD|ST ADDRESS'"),
    "empty": (b"", "t: empty trace"),
    "gzip cut off": (
        gzip.compress(b"LD 0x40\n" * 999)[:-12],
        "t: cannot be read: Compressed file ended before",
    ),
    "gzip with a wrong sum": (
        gzip.compress(b"LD 0x40\n")[:-8] + bytes(8),
        "t: cannot be read: CRC check failed",
    ),
}


@pytest.mark.parametrize("name", TRACES)
def test_a_bad_trace_is_one_line_and_leaves_no_file(capsys, name):
    content, message = TRACES[name]
    Path("t").write_bytes(content)
    code, out, err = neardata(capsys, "dram", "run", "--trace", "t", "--commands", "c.csv")
    assert (code, out) == (2, "")
    assert err.startswith(f"neardata: {message}") and err.count("\n") == 1
    assert os.listdir() == ["t"]


@pytest.mark.parametrize("field", range(9))
def test_endless_numbers_in_a_command_trace_are_one_line(capsys, field):
    row = ["1", "ACT", "0", "0", "0", "0", "5", "-1", "-1", "x"]
    if field != 1:
        row[field] = "9" * 5000
    head = "clock,command,Channel,Rank,BankGroup,Bank,Row,Column,type,source"
    Path("c.csv").write_text(f"{head}\n{','.join(row)}\n")
    code, out, err = neardata(capsys, "dram", "check", "-d", "ddr4-2400r", "-c", "c.csv")
    if field == 1:
        assert (code, err) == (0, ""), out
    else:
        assert (code, out) == (2, "")
        assert err.startswith("neardata: c.csv:2: number too large: 999") and err.count("\n") == 1


ARRAYS = {
    "floats": (np.arange(4.0), "t.npy: expected integer addresses (n,)"),
    "text": (np.array(["a"]), "t.npy: expected integer addresses (n,)"),
    "four columns": (np.zeros((2, 4), dtype=int), "t.npy: expected integer addresses (n,)"),
    "neither read nor write": (np.array([[0, 2]]), "t.npy:1: write must be 0 or 1, got 2"),
    "arrival before the start": (
        np.array([[0, 0, 5], [0, 0, -4]]),
        "t.npy:2: arrival -4 is not a cycle from 0",
    ),
    "arrival beyond integers": (
        np.array([[0, 0, 1 << 63]], dtype=np.uint64),
        "t.npy:1: arrival -9223372036854775808",
    ),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_a_bad_array_is_one_line(capsys, name):
    content, message = ARRAYS[name]
    np.save("t.npy", content)
    code, out, err = neardata(capsys, "dram", "run", "--trace", "t.npy")
    assert (code, out) == (2, "")
    assert err.startswith(f"neardata: {message}") and err.count("\n") == 1


def test_links_in_a_circle_are_no_traceback(capsys):
    os.symlink("loop.csv", "loop.csv")
    code, _, err = neardata(capsys, "dram", "run", "-n", "100", "--trace", "loop.csv", "--commands", "c.csv")
    assert code == 2 and err.count("\n") == 1
    code, _, err = neardata(capsys, "dram", "run", "-n", "100", "--commands", "loop.csv")
    assert code in (0, 2) and err.count("\n") <= 1


PROGRAMS = {
    "unknown command": (
        "- {ACT17: {row: 0}}",
        "body.0: gddr6-aim has no command 'ACT17'; did you mean ACT16",
    ),
    "no row": ("- ACT16", "body.0.ACT16.row: missing: the row to open"),
    "negative loop": ("- {loop: {i: -1}, body: [PREA]}", "body.0.loop.i: must be an integer of at least 0"),
    "column beyond the row": (
        "- {ACT16: {row: 0}}\n  - {MAC16: {column: k}, repeat: {k: 65}}",
        "body.1.MAC16.column: reaches 64; gddr6-aim has 64, from 0",
    ),
    "row beyond the bank": (
        "- {ACT16: {row: 16384}}",
        "body.0.ACT16.row: reaches 16384; gddr6-aim has 16384",
    ),
    "no yaml": ("- [", "not valid YAML"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_bad_program_is_one_line_with_its_place(capsys, name):
    step, message = PROGRAMS[name]
    Path("p.yaml").write_text(f"device: gddr6-aim\nbody:\n  {step}\n")
    code, out, err = neardata(capsys, "pim", "run", "-p", "p.yaml", "--commands", "c.csv")
    assert (code, out) == (2, "")
    assert re.match(r"neardata: p\.yaml:\d+: ", err) and message in err and err.count("\n") == 1
    assert os.listdir() == ["p.yaml"]


def test_a_bad_line_far_into_a_trace_leaves_no_file(capsys):
    Path("t.trace").write_text("LD 0x40\n" * 3000 + "LD 0x4z\n")
    code, out, err = neardata(capsys, "dram", "run", "--trace", "t.trace", "--commands", "c.csv")
    assert (code, out) == (2, "")
    assert err == "neardata: t.trace:3001: expected 'LD|ST ADDRESS', got 'LD 0x4z'\n"
    assert os.listdir() == ["t.trace"]


def test_an_address_beyond_all_channels_is_named(capsys):
    Path("t.trace").write_text(f"LD {(8 << 30) - 64}\nLD {8 << 30}\n")
    assert neardata(capsys, "dram", "run", "--trace", "t.trace")[2].startswith(
        "neardata: t.trace:2: address 0x200000000 is beyond the memory's 8589934592 bytes"
    )
    assert neardata(capsys, "dram", "run", "--trace", "t.trace", "--channels", "2")[0] == 0


def test_an_old_output_survives_a_failed_run(capsys):
    Path("c.csv").write_text("precious\n")
    Path("t.trace").write_text("LD 0x40\nLD x\n")
    assert neardata(capsys, "dram", "run", "--trace", "t.trace", "--commands", "c.csv")[0] == 2
    assert Path("c.csv").read_text() == "precious\n"


def test_an_interrupted_run_prints_what_was_done(capsys, monkeypatch):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored

    @contextmanager
    def interrupt_after_the_first_chunk(*_):
        yield lambda done: os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("neardata.cli.progress.progress_bar", interrupt_after_the_first_chunk)
    arguments = ("dram", "run", "-p", "stream", "-n", "5000000", "--no-why", "--commands", "c.csv")
    code, out, err = neardata(capsys, *arguments, "--requests", "r.csv", "--json")
    assert code == 130
    report = json.loads(out)
    assert report["partial"] is True
    assert 0 < report["requests"] < 5_000_000
    assert report["cycles_to_drain"] > 0
    assert sum(report["command_counts"].values()) == Path("c.csv").read_text().count("\n") - 1
    assert "r.csv: not written, since the run was interrupted" in err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert "partial" in neardata(capsys, *arguments)[1]


def test_an_interrupt_before_the_run_is_no_traceback(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("neardata.arch.dram.load_device", interrupted)
    code, out, err = neardata(capsys, "dram", "run")
    assert (code, out) == (130, "")
    assert "Traceback" not in err


def test_a_terminal_without_unicode_is_no_error():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [*NEARDATA, "dram", "run", "-n", "100"], capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_pipe_is_no_error():
    process = subprocess.Popen(
        [*NEARDATA, "show", "ddr5-4800an"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait(timeout=60)


PROGRAM = """
device: gddr6-aim
channels: 4
body:
  - phase: rows
    body:
      - loop: {i: 100}
        body:
          - {ACT16: {row: i}}
          - {MAC16: {column: k}, repeat: {k: 64}}
          - PREA
"""


def test_a_program_reports_its_cycles_and_commands(capsys):
    Path("p.yaml").write_text(PROGRAM)
    code, out, err = neardata(capsys, "pim", "run", "-p", "p.yaml")
    assert (code, err) == (0, "")
    for fact in ("gddr6-aim", "4 channels", "MAC16 25,600", "phase rows", "what the next command waited for"):
        assert fact in out
    arguments = ("pim", "run", "-p", "p.yaml", "--json")
    report = json.loads(neardata(capsys, *arguments)[1])
    assert report["command_counts"]["ACT16"] == 400
    assert report["cycles"] == report["busy_cycles"] + sum(report["lost_cycles"].values())
    plain = json.loads(neardata(capsys, *arguments, "--no-jump", "--no-fold")[1])
    assert plain["cycles"] == report["cycles"] and plain["jumped_periods"] == 0
    slower = json.loads(neardata(capsys, *arguments, "--set", "timing.nRP=60", "--set", "timing.nRC=114")[1])
    assert slower["cycles"] > report["cycles"]
    idle = json.loads(neardata(capsys, *arguments, "--refresh", "none")[1])
    assert idle["refreshes"] == 0 < report["refreshes"]


def test_a_programs_commands_pass_the_check(capsys):
    Path("p.yaml").write_text(PROGRAM)
    files = ("--commands", "c.csv", "--timeline", "t.json")
    report = json.loads(neardata(capsys, "pim", "run", "-p", "p.yaml", "--json", *files)[1])
    code, out, _ = neardata(capsys, "dram", "check", "-d", "gddr6-aim", "-c", "c.csv")
    assert code == 0, out
    events = json.loads(Path("t.json").read_text())["traceEvents"]
    # one of the four equal channels is written
    assert sum(e["ph"] == "X" and e["tid"] == 1 for e in events) == report["commands"] // 4


def test_a_forbidden_command_is_named_with_its_place(capsys):
    Path("p.yaml").write_text(PROGRAM.replace("          - PREA\n", ""))
    code, out, err = neardata(capsys, "pim", "run", "-p", "p.yaml")
    assert (code, out) == (2, "")
    assert re.match(r"neardata: p\.yaml:\d+: .*ACT16 at i=1, cycle \d+: .* is open", err), err


def test_a_program_has_no_controller(capsys):
    Path("p.yaml").write_text(PROGRAM)
    code, _, err = neardata(capsys, "pim", "run", "-p", "p.yaml", "--set", "controller.page=open")
    assert code == 2 and "controller.page: a program has no controller" in err
    code, _, err = neardata(capsys, "pim", "run", "-p", "p.yaml", "--refresh", "allbank")
    assert code == 2 and "unknown refresh policy 'allbank'; did you mean all-bank" in err


def test_pim_run_reads_instruction_traces_of_aim(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("isr.trace").write_text("AiM MAC_ABK 64 0xffffffff 3\nAiM EOC\n")
    run = ("pim", "run", "-p", "isr.trace", "--json")
    assert json.loads(neardata(capsys, *run)[1])["device"] == "gddr6-aim"
    report = json.loads(neardata(capsys, *run, "-d", "gddr6-aim-asbuilt")[1])
    assert (report["cycles"], report["channels"], report["refresh"]) == (185, 32, "none")
    Path("isr.trace").write_text("AiM MAC_ABK 9999 0xffffffff 3\nAiM EOC\n")
    code, _, err = neardata(capsys, *run)
    assert code == 2 and err.startswith("neardata: isr.trace: ") and "reaches 9998" in err
    Path("isr.trace").write_text("AiM MAC_ABK 64\n")
    code, _, err = neardata(capsys, *run)
    assert code == 2 and "isr.trace:1: 1 operands, expected opsize, channels, row" in err


def test_without_a_place_for_kernels_the_remedy_is_told(capsys, monkeypatch):
    def refused(*_, **__):
        raise RuntimeError("cannot cache function 'f': no locator available for file 'f_kernel.py'")

    monkeypatch.setattr("neardata.sim.dram.request.simulate", refused)
    code, out, err = neardata(capsys, "dram", "run")
    assert (code, out) == (2, "")
    assert "set NUMBA_CACHE_DIR" in err and err.count("\n") == 1
    monkeypatch.setattr("importlib.import_module", refused)
    code, out, _ = neardata(capsys, "doctor")
    assert code == 1 and "set NUMBA_CACHE_DIR" in out


def test_doctor_tells_versions_cache_and_optional_parts(capsys):
    code, out, _ = neardata(capsys, "doctor")
    assert code == 0
    for word in ("python", "numba", "kernel cache", "matplotlib", "All is well"):
        assert word in out
    state = json.loads(neardata(capsys, "doctor", "--json")[1])
    assert state["problems"] == []
    assert state["kernel_cache"]["kernels"] >= 2
    assert all(Path(folder).is_dir() for folder in state["kernel_cache"]["folders"])
    assert state["versions"]["numpy"] == np.__version__


def test_outputs_are_never_inputs_or_devices(tmp_path, capsys):
    trace = tmp_path / "a.trace"
    trace.write_text("LD 0x40\n")
    for arguments in (["--timeline", str(trace)], ["--commands", str(trace)]):
        assert run(["dram", "run", "--trace", str(trace), *arguments]) == 2
        assert "it is an input" in capsys.readouterr().err
    assert run(["dram", "run", "-n", "10", "--commands", "/dev/null"]) == 2
    assert "not a regular file" in capsys.readouterr().err
    assert trace.read_text() == "LD 0x40\n" and not Path("/dev/null").is_file()
