"""Writes docs/validation.md: what this package was compared with, and how far it is off.

    python benchmarks/validation.py            # writes the page (a few minutes of CPU time)
    python benchmarks/validation.py --check    # exit code 1 where the page is not what it would write

Everything on the page comes from the tests' data (tests/data) and from runs; nothing depends on the
machine. A row that is off by more than `NEAR` is printed as a miss, with the reason; processors, links and
serving have bounds of their own (benchmarks/measured_times.py).
"""

from __future__ import annotations

import csv
import functools
import gzip
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measured_times import measured_lines, processors_section, serving_section
from page_parts import blocks, percent, prose, table

from neardata.arch.dram import Device, device_names, load_device
from neardata.sim.dram.aim import AS_BUILT, read_isr_trace
from neardata.sim.dram.attacc import UnitLevel, attention
from neardata.sim.dram.checker import check, rule_slack
from neardata.sim.dram.command_log import CommandLog
from neardata.sim.dram.config import ControllerConfig, load_profile
from neardata.sim.dram.hbm_pim import elementwise, gemv
from neardata.sim.dram.pim import run_program
from neardata.sim.dram.program import Program
from neardata.sim.dram.request import RequestReport, simulate
from neardata.sim.dram.trace import RequestChunk
from neardata.workloads.patterns import requests

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "validation.md"
TESTS = ROOT / "tests"
NEAR = 0.01
"""Largest difference that is no miss."""

POLICY = "its scheduler decides, not the device"
SHIPPED = (
    "the table comes from other code than the repository's: the tool itself, run on the same input, is as far"
    " from it as we are"
)
CLOCK = "our preset's clock is PIMSimulator's, 1 GHz: four clocks are 250 MHz, not the 300 MHz of the device"


@dataclass(frozen=True)
class Row:
    """One figure beside ours."""

    name: tuple[str, ...]
    theirs: float
    ours: float
    exact: bool = False
    """More than the figure was compared, and all of it is equal."""
    reason: str = ""
    """Why it is a miss, where it is one."""

    @property
    def off(self) -> float:
        """Relative difference."""
        return (self.ours - self.theirs) / self.theirs

    @property
    def missed(self) -> bool:
        """Off by more than `NEAR`."""
        return abs(self.off) > NEAR

    @property
    def verdict(self) -> str:
        """For the last column."""
        if self.missed:
            return f"**miss**: {self.reason}"
        return "equal" if self.exact else ""


def compared(titles: Sequence[str], rows: Sequence[Row], theirs: str) -> str:
    """A table of figures beside ours."""
    return table(
        [*titles, theirs, "here", "difference", ""],
        ([*row.name, f"{row.theirs:,.6g}" if row.theirs < 1e4 else f"{row.theirs:,.0f}",
          f"{row.ours:,.6g}" if row.ours < 1e4 else f"{row.ours:,.0f}", percent(row.off), row.verdict]
         for row in rows),
    )  # fmt: skip


def data(name: str) -> list[dict[str, str]]:
    with (TESTS / "data" / name).open(newline="") as stream:
        return list(csv.DictReader(stream))


# against rules -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checked:
    """Command traces of one device under the checker."""

    device: str
    runs: str
    commands: int
    violations: int
    met: int
    """Timing rules of which a pair of commands was in the traces."""
    tight: int
    """Of these, rules that some pair met with no cycle (no clock, with two ticks) to spare."""


PATTERNS = ("random", "mix21", "triad", "zipf", "bankconf")
CHECKED_REQUESTS = 20_000


@functools.cache
def rules() -> list[Checked]:
    found = []
    for name in device_names():
        if name.startswith(("hbm-pim", "attacc", "gddr6-aim")):
            continue
        device = load_device(name)
        runs = [
            ("neardata", {}),
            ("neardata", {"page": "timeout"}),
            ("ramulator21-frfcfs", {"device_table": "corrected"}),
        ]
        logs = []
        for pattern in PATTERNS:
            for profile, changes in runs:
                logs += (
                    replay(
                        device, load_profile(profile, changes), pattern, CHECKED_REQUESTS, True
                    ).command_logs
                    or []
                )
        found.append(judged(name, f"{len(PATTERNS)} patterns, {len(runs)} controllers", logs))
    programs: dict[str, tuple[str, list[Program]]] = {
        "hbm-pim": ("GEMV, ADD", [gemv(4096, 1024), elementwise(1 << 20)]),
        "attacc-hbm3": ("attention per bank and bank group",
                        [attention(188, 2048), attention(32, 2048, unit="bank group")]),
        "gddr6-aim": ("test traces of aim_simulator", [p for _, p in aim_programs("gddr6-aim", ("micro",))]),
    }  # fmt: skip
    for name, (what, listed) in programs.items():
        logs = [
            group.command_log
            for program in listed
            for group in run_program(program, record_commands=True).groups
            if group.command_log is not None
        ]
        found.append(judged(name, what, logs))
    return found


def judged(name: str, runs: str, logs: list[CommandLog]) -> Checked:
    slack = [rule_slack(log) for log in logs]
    least = [min((s for s in by_log if s is not None), default=None) for by_log in zip(*slack, strict=True)]
    ticks = logs[0].device.ticks_per_clock
    return Checked(
        name, runs, sum(map(len, logs)), sum(len(check(log)) for log in logs),
        sum(s is not None for s in least), sum(s is not None and s < ticks for s in least),
    )  # fmt: skip


@functools.cache
def closed_forms() -> list[Row]:
    """Steady states that follow from the timings alone, without refresh."""
    rows = []
    for name in ("ddr4-2400r", "ddr5-4800an", "gddr6-14000", "hbm2-2000"):
        device = load_device(name)
        config = load_profile("ramulator21-frfcfs", {"refresh": "none"})
        cycles = [replay(device, config, "bankconf", n, False).cycles_to_drain for n in (2000, 4000)]
        misses = [replay(device, config, "bankconf", n, False).row_hits for n in (2000, 4000)]
        activations = 2000 - (misses[1] - misses[0])
        rows.append(
            Row(
                (name, "rows of one bank: tRC each"),
                device.ticks("nRC"),
                (cycles[1] - cycles[0]) / activations,
            )
        )
    row = [{"ACT16": {"row": "i"}}, {"MAC16": {"column": "k"}, "repeat": {"k": 64}}, "PREA"]
    aim = {
        n: run_program(
            Program.from_dict(
                {"device": "gddr6-aim", "refresh": "none", "body": [{"loop": {"i": n}, "body": row}]}
            )
        ).cycles
        for n in (100, 200)
    }
    t = load_device("gddr6-aim").timing
    form = t["nRCDRDMAC"] + 63 * t["nCCDL"] + t["nRTP"] + t["nRP"]
    rows.append(
        Row(("gddr6-aim", "a row of MACs: tRCD + 63 tCCD + tRTP + tRP"), form, (aim[200] - aim[100]) / 100)
    )
    return rows


# against peers -----------------------------------------------------------------------------------


def replay(device: Device, config: ControllerConfig, pattern: str, n: int, record: bool) -> RequestReport:
    geometry = {"lines_per_row": device.bursts_per_row, "banks": device.n_banks}
    chunks = requests(pattern, n, seed=1, line_bytes=device.burst_bytes, **geometry)
    return simulate(device, (RequestChunk(*chunk) for chunk in chunks), config, record_commands=record)


@functools.cache
def ramulator() -> list[Row]:
    rows = []
    for row in data("dram/ramulator21_reference.csv"):
        name, _, variant = row["config"].partition("+")
        changes = {"q128": {"read_queue": 128, "write_queue": 64}, "mop": {"mapping": "MOP4CLXOR"}}
        profile = "ramulator21-frfcfs" + "-rowhit" * (variant in ("rowhit", "q128"))
        config = load_profile(profile, changes.get(variant))
        device = load_device(name, corrected=False)
        report = replay(device, config, row["pattern"], int(row["n_requests"]), False).at_last_accept
        same = all(
            report[key] == int(row[key]) for key in ("cycles", "row_hits", "row_misses", "row_conflicts")
        )
        latency = report["avg_read_latency_cycles"] / float(row["avg_read_latency_cycles"])
        same &= abs(latency - 1) < 1e-4  # the reference is rounded
        place = (row["config"], row["pattern"], f"{int(row['n_requests']):,}")
        rows.append(Row(place, int(row["cycles"]), report["cycles"], same, "other commands"))
    return rows


@functools.cache
def command_traces() -> list[Row]:
    """Commands of the tool's traces, and how many of ours are the same in the same cycle."""
    rows = []
    for name in ("DDR4_2400R", "DDR5_4800AN", "LPDDR5_6400", "HBM3_6400"):
        for pattern in ("mix21", "rowstride", "zipf"):
            device = load_device(name.lower().replace("_", "-"), corrected=False)
            packed = TESTS / "data" / "dram" / f"commands_ramulator21_{name}_{pattern}.csv.gz"
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "trace.csv"
                path.write_bytes(gzip.decompress(packed.read_bytes()))
                theirs = CommandLog.read_csv(device, path)
            logs = replay(device, load_profile("ramulator21-frfcfs"), pattern, 1500, True).command_logs
            assert logs is not None
            columns = ("cycle", "command", "unit", "row", "column")
            ours, tools = (
                np.stack([getattr(log, c)[: len(theirs)] for c in columns], axis=1)
                for log in (logs[0], theirs)
            )
            same = int((ours == tools).all(axis=1).sum()) if ours.shape == tools.shape else 0
            rows.append(Row((device.name, pattern), len(theirs), same, same == len(theirs), "other commands"))
    return rows


@functools.cache
def dramsim3() -> list[Row]:
    device, config = load_device("ddr4-2400r", corrected=False), load_profile("ramulator21-frfcfs")
    return [
        Row(
            (row["pattern"], "device" if row["limited_by"] == "device" else "scheduler"),
            int(row["cycles_to_last_accept"]),
            replay(device, config, row["pattern"], int(row["n_requests"]), False).cycles_to_last_accept,
            reason=POLICY,
        )
        for row in data("dram/dramsim3_matched.csv")
    ]


def aim_programs(device: str, kinds: Sequence[str]) -> Iterable[tuple[dict[str, str], Program]]:
    sys.path.insert(0, str(TESTS))
    from naive.aim_traces import lines

    with tempfile.TemporaryDirectory() as folder:
        for row in data("pim/aim.csv"):
            if row["trace"].partition(":")[0] in kinds:
                path = Path(folder) / "isr.trace"
                path.write_text("\n".join(lines(row["trace"])) + "\n")
                yield row, read_isr_trace(path, device)


@functools.cache
def aim() -> list[Row]:
    rows = []
    for row, program in aim_programs(AS_BUILT, ("micro", "gemv", "drawn")):
        report = run_program(program)
        commands = sum(report.groups[0].command_counts.values())
        rows.append(
            Row((row["trace"].replace(":", ": "),), int(row["cycles"]), report.cycles,
                commands == int(row["commands"]) and report.cycles == int(row["cycles"]), "other commands")
        )  # fmt: skip
    return rows


@functools.cache
def hbm_pim() -> list[Row]:
    rows = []
    for row in data("pim/pimsimulator.csv"):
        size, how = int(row["outputs"]), {"device": "hbm-pim-asbuilt", "first_refresh": 1950}
        if row["kernel"] == "gemv":
            program, name = gemv(size, int(row["inputs"]), **how), f"GEMV {size} x {row['inputs']}"  # type: ignore[arg-type]
        else:
            operands = 1 if row["kernel"] == "relu" else 2
            program = elementwise(size, operands=operands, **how)  # type: ignore[arg-type]
            name = f"{row['kernel'].upper()} {size >> 20} M"
        ours = run_program(program).cycles
        rows.append(Row((name,), int(row["cycles"]), ours, ours == int(row["cycles"])))
    return rows


@functools.cache
def attacc() -> tuple[list[Row], list[tuple[Row, float]]]:
    """Against the tool, and against the table its repository ships (with how far the tool is from it)."""
    tool, shipped = [], []
    for row in data("pim/attacc.csv"):
        device = "attacc-hbm3" if row["power_constraint"] == "yes" else "attacc-hbm3-npc"
        unit: UnitLevel = "bank" if row["unit"] == "bank" else "bank group"
        program = attention(int(row["heads"]), int(row["length"]), unit=unit, device=f"{device}-asbuilt")
        ours, theirs = run_program(program).cycles, int(row["cycles"])
        name = (unit, f"{row['heads']} x {row['length']}", row["power_constraint"])
        tool.append(Row(name, theirs, ours, ours == theirs))
        if row["shipped"]:
            listed = int(row["shipped"])
            shipped.append((Row(name, listed, ours, reason=SHIPPED), theirs / listed - 1))
    return tool, shipped


# against silicon ---------------------------------------------------------------------------------


@functools.cache
def silicon() -> list[Row]:
    """Peaks that vendors state, and what our descriptions make of them."""
    hbm, aim_ = load_device("hbm-pim"), load_device("gddr6-aim")
    hbm_ns, aim_ns = (d.ticks("nCCDL") * d.tick_ps / 1e3 for d in (hbm, aim_))
    units, lanes, pseudo_channels = 8, 16, 16
    inside = units * hbm.burst_bytes / hbm_ns
    aim_inside = aim_.n_banks * aim_.burst_bytes / aim_ns
    press = "ISSCC 2021, as quoted by Tom's Hardware, 2021-02-17"
    chips = "Hot Chips 34 and 35, as quoted by ServeTheHome"
    return [
        Row(("HBM-PIM, TFLOPS a stack", press), 1.2,
            units * pseudo_channels * lanes * 2 / hbm_ns / 1e3, reason=CLOCK),
        Row(("HBM-PIM, bandwidth inside over outside", press), 4, inside / hbm.peak_gb_per_s),
        Row(("GDDR6-AiM, GB/s outside, a channel", chips), 32, aim_.peak_gb_per_s),
        Row(("GDDR6-AiM, GB/s inside, a channel", chips), 512, aim_inside),
        Row(("GDDR6-AiM, TFLOPS a device of two channels", "ISSCC 2022, title"), 1,
            2 * aim_.n_banks * 16 * 2 / aim_ns / 1e3, reason="the paper rounds 1.024"),
    ]  # fmt: skip


# the page ----------------------------------------------------------------------------------------


def summary() -> str:
    """The short table, also in the README."""
    tool, shipped = attacc()
    checked = rules()
    parts: list[tuple[str, str, list[Row]]] = [
        ("Ramulator 2.1", "cycles, row hits, misses, conflicts, latency", ramulator()),
        ("Ramulator 2.1 command traces", "every command in its cycle", command_traces()),
        ("DRAMsim3, limited by the device", "cycles", [r for r in dramsim3() if r.name[1] == "device"]),
        ("DRAMsim3, limited by its scheduler", "cycles", [r for r in dramsim3() if r.name[1] != "device"]),
        ("aim_simulator (GDDR6-AiM)", "cycles, commands", aim()),
        ("PIMSimulator (HBM-PIM)", "cycles", hbm_pim()),
        ("attacc_simulator", "cycles", tool),
        ("the table attacc_simulator ships", "cycles", [row for row, _ in shipped]),
        ("vendors' peaks (HBM-PIM, GDDR6-AiM)", "bandwidth, FLOPS", silicon()),
    ]
    violations = sum(c.violations for c in checked)
    commands = sum(c.commands for c in checked)
    lines = [
        ["rules of the devices", "every command", f"{commands:,} commands", f"{violations} violations", ""]
    ]
    for name, what, rows in parts:
        exact, missed = sum(r.exact for r in rows), sum(r.missed for r in rows)
        worst = max((r.off for r in rows), key=abs)
        lines.append([
            name, what, f"{len(rows)} rows" + (f", {exact} equal" if exact else ""), percent(worst),
            f"{missed} misses" if missed else "",
        ])  # fmt: skip
    lines += measured_lines()
    return table(["against", "compared", "", "largest difference", ""], lines)


def rules_section() -> str:
    lines = (
        [c.device, c.runs, f"{c.commands:,}", str(c.violations), str(len(load_device(c.device).rules)),
         str(c.met), str(c.tight)]
        for c in rules()
    )  # fmt: skip
    return blocks(
        "## Against rules",
        prose(f"""
            The checker judges every command by the rules of the device. It shares the description with
            the engines, and no code. Each pattern is {CHECKED_REQUESTS:,} requests. *Met*: timing rules
            of which a pair of commands occurred; *tight*: those that some pair kept without a clock to
            spare, so that a looser engine would show. Whether the checker notices wrong engines is
            measured by `benchmarks/mutations.py`.
        """),
        table(["device", "runs", "commands", "violations", "rules", "met", "tight"], lines),
        "Steady states that follow from the timings alone, in cycles, without refresh:",
        compared(["device", "state"], closed_forms(), "closed form"),
        prose("""
            Requests in and out, data-bus cycles by cause and bytes are counted in every run; one that
            does not add up ends in an error.
        """),
    )


def ramulator_section() -> str:
    return blocks(
        "### Ramulator 2.1: controllers",
        prose("""
            CMU-SAFARI/ramulator2 c5b1c3a; profiles `ramulator21-frfcfs` and `-rowhit`, without our
            corrections to its tables. Cycles until the last request is accepted. *Equal*: row hits,
            misses, conflicts and the mean read latency as well.
        """),
        compared(["configuration", "pattern", "requests"], ramulator(), "Ramulator"),
    )


def traces_section() -> str:
    return blocks(
        "### Ramulator 2.1: command traces",
        prose("""
            Commands of the tool's traces, 1,500 requests each, and how many of ours are the same
            command to the same place in the same cycle.
        """),
        compared(["device", "pattern"], command_traces(), "commands"),
    )


def dramsim3_section() -> str:
    return blocks(
        "### DRAMsim3",
        prose("""
            umd-memsys/DRAMsim3 2981759, DDR4-2400R with our timings, organisation and mapping; cycles
            until the last request is accepted. Its queues and its scheduler are others than
            Ramulator's, which we reproduce: where the device limits the run (tFAW, tRC) the two must
            agree, elsewhere they do not.
        """),
        compared(["pattern", "limited by"], dramsim3(), "DRAMsim3"),
    )


def aim_section() -> str:
    rows = aim()
    drawn = [row for row in rows if row.name[0].startswith("drawn")]
    return blocks(
        "### aim_simulator",
        prose(f"""
            arkhadem/aim_simulator 0f28a07; device `gddr6-aim-asbuilt`. *Equal*: the number of commands
            as well (the tests compare each command's cycle too). Of {len(drawn)} random instruction
            traces {sum(row.exact for row in drawn)} are equal. What the correct rules change is in
            [aim.md](aim.md).
        """),
        compared(["trace"], [row for row in rows if row not in drawn], "aim_simulator"),
    )


def hbm_pim_section() -> str:
    return blocks(
        "### PIMSimulator",
        prose("""
            SAITPublic/PIMSimulator b464dde; device `hbm-pim-asbuilt`, 64 pseudo-channels. Where the
            differences come from is in [pim.md](pim.md).
        """),
        compared(["kernel"], hbm_pim(), "PIMSimulator"),
    )


def attacc_section() -> str:
    tool, shipped = attacc()
    names = ["unit per", "heads x tokens", "power constraint"]
    lines = (
        [*row.name, f"{row.theirs:,.0f}", f"{row.ours:,.0f}", percent(row.off), percent(tools),
         "**miss**" if row.missed else ""]
        for row, tools in shipped
    )  # fmt: skip
    return blocks(
        "### attacc_simulator",
        prose("""
            scale-snu/attacc_simulator c600051 on Ramulator 2; devices `attacc-hbm3-asbuilt` and
            `attacc-hbm3-npc-asbuilt`, one stack. Where the differences come from is in
            [pim.md](pim.md).
        """),
        compared(names, tool, "attacc_simulator"),
        prose(f"""
            Its repository also ships a table of results, `ramulator.out`. The misses against it have
            one reason: {SHIPPED} (column *tool*).
        """),
        table([*names, "shipped", "here", "difference", "tool", ""], lines),
    )


def silicon_section() -> str:
    return blocks(
        "## Against silicon",
        prose("""
            Little is public. These are peaks, which follow from an organisation and a clock: they show
            that a device is described right, not that a run takes the right time.
        """),
        compared(["figure", "source"], silicon(), "stated"),
        prose("""
            Not compared with any measurement, since we know of none that is public: run times and
            sustained bandwidth of HBM-PIM, GDDR6-AiM and AttAcc; energies, which are data-sheet
            currents (DDR4, DDR5) or figures of the literature.
        """),
    )


HEAD = """
    Written by `python benchmarks/validation.py` from the data of the tests; not by hand. Figures are
    cycles unless something else is said. More than 1 % off is a miss, printed with its reason. No
    constant was fitted to any of these figures, but to those of processors, links and serving that say so;
    these are times, with bounds of their own.
"""

SECTIONS: dict[str, Callable[[], str]] = {
    "rules": rules_section,
    "ramulator": ramulator_section,
    "traces": traces_section,
    "dramsim3": dramsim3_section,
    "aim": aim_section,
    "hbm-pim": hbm_pim_section,
    "attacc": attacc_section,
    "silicon": silicon_section,
    "processors": processors_section,
    "serving": serving_section,
}


def page() -> str:
    """The whole page."""
    texts = {name: section() for name, section in SECTIONS.items()}
    texts["ramulator"] = "## Against peers\n\n" + texts["ramulator"]
    return blocks("# Validation", prose(HEAD), summary(), *texts.values()) + "\n"


def main() -> None:
    if sys.argv[1:] not in ([], ["--check"]):
        raise SystemExit(__doc__)
    text = page()
    if sys.argv[1:]:
        sys.exit(PAGE.read_text() != text)
    PAGE.write_text(text)
    print(f"{PAGE.relative_to(ROOT)} written")


if __name__ == "__main__":
    main()
