"""Command programs: speed of the kernel, and GDDR6-AiM against its simulator, cycle for cycle.

    python benchmarks/pim.py
    python benchmarks/pim.py --aim-simulator COMMAND

Speed: million commands of one channel per CPU second, compiled before, best of three. *plain*: every
command looks up all that could bind it (a tenth of the commands); *each*: every command simulated on
its own, with what cannot bind it dropped once for each stretch (`neardata.sim.dram.program_stretch`);
*runs*: repetitions of a command in one step; *jump*: recurring periods skipped as well, here for 10^8
commands, in milliseconds. The cycles must be the same. *call*: a matrix-vector product (GEMV) from its
dictionary to the report, as the lowering of a model calls it again and again, mean of 100.

AiM: cycles of aim_simulator 0f28a07 (tests/data/pim/aim.csv, or measured anew by ``COMMAND TRACE``,
which prints the ``memory_system_cycles`` of an instruction trace); ours as that tool is built; ours
with the rules and timings it intends and refresh, the refreshes of a channel, and the cycles that
refresh adds.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from neardata.sim.dram.aim import AS_BUILT, gemv, read_isr_trace
from neardata.sim.dram.pim import ProgramReport, run_program
from neardata.sim.dram.program import Program

TESTS = Path(__file__).parents[1] / "tests"
COMMANDS = 100_000_000


def all_bank(activate: str, mac: str, close: str, macs: int) -> list[Any]:
    """One row after the other, 16,000 of them again and again."""
    body = [{activate: {"row": "i"}}, {mac: {"column": "k"}, "repeat": {"k": macs}}, close]
    times = round(COMMANDS / (macs + 2) / 16_000)
    return [{"loop": times, "body": [{"loop": {"i": 16_000}, "body": body}]}]


def per_group() -> list[Any]:
    """Four activations of four banks each, MACs in all banks, eight rows a load of the buffer."""
    opening = [{"ACT4": {"bank_group": n, "row": "i"}} for n in range(4)]
    tile = [*opening, {"MAC16": {"column": "k"}, "repeat": {"k": 32}}, "PREA"]
    load = ["TMODR", {"WRGB": {"column": "k"}, "repeat": {"k": 32}}, "TMODM"]
    body = [*load, {"loop": {"j": 8}, "body": tile}]
    times = round(COMMANDS / (34 + 8 * 37) / 16_000)
    return [{"loop": times, "body": [{"loop": {"i": 16_000}, "body": body}]}]


def single_commands() -> list[Any]:
    """No repetitions at all: MACs bank by bank."""
    where = {"bank_group": "g", "bank": 0}
    body = [{"loop": {"g": 4}, "body": [{"MAC": where}]} for _ in range(16)]
    opening = [{"ACT4": {"bank_group": n, "row": "i"}} for n in range(4)]
    times = round(COMMANDS / 69 / 16_000)
    return [{"loop": times, "body": [{"loop": {"i": 16_000}, "body": [*opening, *body, "PREA"]}]}]


STREAMS = {
    "AiM, 64 MACs a row": ("gddr6-aim", all_bank("ACT16", "MAC16", "PREA", 64)),
    "AiM, 8 MACs a row": ("gddr6-aim", all_bank("ACT16", "MAC16", "PREA", 8)),
    "AiM, ACT4 and buffer loads": ("gddr6-aim", per_group()),
    "AiM, bank by bank": ("gddr6-aim", single_commands()),
    "AttAcc, 32 MACs a row": ("attacc-hbm3", all_bank("ACTAB", "MACAB", "PREA", 32)),
}


def seconds(program: Program, **switches: bool) -> tuple[float, ProgramReport]:
    """CPU time of the best of three runs."""
    best, report = float("inf"), None
    for _ in range(3):
        start = time.process_time()
        report = run_program(program, **switches)
        best = min(best, time.process_time() - start)
    assert report is not None
    return best, report


def speed() -> bool:
    rates = "plain M/s  each M/s  runs M/s"
    print(f"{'10^8 commands':28} {'refresh':8} {rates} {'jump ms':>8} {'cycles':>14}")
    same = True
    for name, (device, body) in STREAMS.items():
        for refresh in ("none", "all-bank"):
            program = Program.from_dict({"device": device, "refresh": refresh, "body": body})
            run_program(program)
            short = Program.from_dict({"device": device, "refresh": refresh, "body": shortened(body)})
            slow, few = seconds(short, jump=False, runs=False, stretches=False)
            same &= few.cycles == run_program(short).cycles
            each, plain = seconds(program, jump=False, runs=False)
            runs, _ = seconds(program, jump=False)
            jump, skipped = seconds(program)
            same &= skipped.cycles == plain.cycles and skipped.command_counts == plain.command_counts
            times = (few.commands / slow, plain.commands / each, plain.commands / runs)
            rates = " ".join(f"{rate / 1e6:9.0f}" for rate in times)
            print(
                f"{name:28} {refresh:8} {rates} {1e3 * jump:8.1f}"
                f" {skipped.cycles:14,}{'' if skipped.cycles == plain.cycles else '  DIFFERS'}"
            )
    data = gemv(4096, 14336).to_dict()
    run_program(Program.from_dict(data))
    start = time.process_time()
    for _ in range(100):
        run_program(Program.from_dict(data))
    print(f"call of a 4096 x 14336 GEMV: {10 * (time.process_time() - start):.1f} ms")
    return same


def shortened(body: list[Any]) -> list[Any]:
    """A tenth of the commands."""
    return [{**step, "loop": max(1, step["loop"] // 10)} for step in body]


def aim(peer: str | None) -> bool:
    sys.path.insert(0, str(TESTS))
    from naive.aim_traces import lines

    print(f"\n{'AiM':42} {'tool':>8} {'as built':>8} {'':>7} {'correct':>8} {'refreshes':>9} {'added':>6}")
    worst = 0.0
    with (TESTS / "data" / "pim" / "aim.csv").open() as file, tempfile.TemporaryDirectory() as folder:
        for row in csv.DictReader(file):
            kind, _, what = row["trace"].partition(":")
            if kind == "drawn":
                continue
            path = Path(folder) / "isr.trace"
            path.write_text("\n".join(lines(row["trace"])) + "\n")
            tool = int(row["cycles"])
            if peer is not None:
                command = [*shlex.split(peer), str(path)]
                tool = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            if kind == "gemv":
                outputs, inputs, channels, order = what.split(",")
                sizes = int(outputs), int(inputs)
                built, right = (
                    gemv(*sizes, channels=int(channels), order=order, device=device)  # type: ignore[arg-type]
                    for device in (AS_BUILT, "gddr6-aim")
                )
            else:
                built, right = read_isr_trace(path, AS_BUILT), read_isr_trace(path)
            here, correct = run_program(built), run_program(right)
            unrefreshed = run_program(right, refresh="none")
            error = here.cycles / tool - 1
            worst = max(worst, abs(error))
            print(
                f"{row['trace']:42} {tool:8} {here.cycles:8} {error:+7.2%} {correct.cycles:8}"
                f" {correct.refreshes // correct.channels:9} {correct.cycles - unrefreshed.cycles:6}"
            )
    print(f"largest difference {worst:.2%} (must: 1 %)")
    return worst <= 0.01


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--aim-simulator", metavar="COMMAND", help="prints the cycles of an instruction trace"
    )
    parser.add_argument("--only", choices=["speed", "aim"])
    chosen = parser.parse_args()
    good = True
    if chosen.only != "aim":
        good &= speed()
    if chosen.only != "speed":
        good &= aim(chosen.aim_simulator)
    sys.exit(not good)


if __name__ == "__main__":
    main()
