"""HBM-PIM and AttAcc against their simulators, cycle counts side by side.

    python benchmarks/pim_peers.py
    python benchmarks/pim_peers.py --pimsimulator DRIVER --attacc RUNNER

Columns: cycles of the simulator; of this package with the rules as that tool applies them, and
the difference; with the correct rules; refreshes of a channel in these two; the correct rules and
tFAW for all-bank activation; CPU seconds of the second column, after compilation. For HBM-PIM
also the correct rules with fences that wait for the data; for AttAcc the table the tool's
repository ships, and how far the tool itself is from it.

The tools' figures are those of tests/data/pim, or measured anew where their binaries are given:
``DRIVER gemv|add|mul|relu OUTPUTS INPUTS`` prints ``pim_cycles N`` (PIMKernel of PIMSimulator
b464dde called as its benches do), ``RUNNER pc|npc HEADS LENGTH bank|bg`` prints the
``memory_system_cycles`` of attacc_simulator c600051 for the trace of its generator of that level.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from neardata.arch.dram import load_device
from neardata.sim.dram.attacc import UnitLevel, attention
from neardata.sim.dram.hbm_pim import Fence, elementwise, gemv
from neardata.sim.dram.pim import ProgramReport, run_program
from neardata.sim.dram.program import Program

DATA = Path(__file__).parents[1] / "tests" / "data" / "pim"
FIRST_REFRESH = 1950
"""PIMSimulator's channel has two ranks, refreshed in turn; its kernels use the first."""
TFAW = {
    # four activations a window: the banks of an all-bank activation are opened in groups of four
    "hbm-pim": {"timing.nAAB": 16 + 3 * 4},
    "attacc": {
        "timing.nAAB": 3 * 39 + 3 * 2,
        "timing.nFAWAB": 4 * 39,
        "timing.nASB": 3 * 2,
        "timing.nFAWSB": 39,
    },
}


def measured(command: str, *arguments: str) -> int:
    """Last number of the output's last line with one."""
    lines = subprocess.run(
        [command, *arguments], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    numbers = [[w for w in line.replace("pim_cycles", "").split() if w.isdigit()] for line in lines]
    return int([n for n in numbers if n][-1][0])


def run(program: Program, overrides: dict[str, int] | None = None) -> ProgramReport:
    return run_program(replace(program, overrides={**program.overrides, **(overrides or {})}))


def line(name: str, tool: int, asbuilt: Program, correct: Program, tfaw: dict[str, int]) -> str:
    start = time.process_time()
    here = run(asbuilt)
    seconds = time.process_time() - start
    right = run(correct)
    refreshes = "/".join(str(r.slowest.command_counts.get("REFab", 0)) for r in (here, right))
    return (
        f"{name:32}{tool:8}{here.cycles:8}{here.cycles / tool - 1:+9.2%}{right.cycles:9}{refreshes:>8}"
        f"{run(correct, tfaw).cycles:8}{seconds:8.3f}"
    )


def header(device: str, *more: str) -> None:
    columns = f"{device:32}{'tool':>8}{'here':>8}{'':9}{'correct':>9}{'REFs':>8}{'tFAW':>8}{'CPU s':>8}"
    print(columns + "".join(f"{name:>10}" for name in more))


def hbm_pim_program(row: dict[str, str], device: str, fence: Fence = "order") -> Program:
    size = int(row["outputs"])
    if row["kernel"] == "gemv":
        inputs = int(row["inputs"])
        return gemv(size, inputs, device=device, fence=fence, first_refresh=FIRST_REFRESH)
    operands = 1 if row["kernel"] == "relu" else 2
    return elementwise(size, operands=operands, device=device, fence=fence, first_refresh=FIRST_REFRESH)


def hbm_pim_table(driver: str | None) -> None:
    header("HBM-PIM", "fences")
    run(gemv(1, 1))  # compiles
    for row in csv.DictReader((DATA / "pimsimulator.csv").open()):
        tool = int(row["cycles"])
        if driver:
            tool = measured(driver, row["kernel"], row["outputs"], row["inputs"])
        name = f"{row['kernel']} {row['outputs']}" + (
            f" x {row['inputs']}" if row["kernel"] == "gemv" else ""
        )
        asbuilt, correct = hbm_pim_program(row, "hbm-pim-asbuilt"), hbm_pim_program(row, "hbm-pim")
        waiting = run(hbm_pim_program(row, "hbm-pim", "data")).cycles
        print(f"{line(name, tool, asbuilt, correct, TFAW['hbm-pim'])}{waiting:10}")


def attacc_table(runner: str | None) -> None:
    header("AttAcc", "shipped", "")
    for row in csv.DictReader((DATA / "attacc.csv").open()):
        heads, length, limited = int(row["heads"]), int(row["length"]), row["power_constraint"] == "yes"
        tool = int(row["cycles"])
        if runner:
            level = "bank" if row["unit"] == "bank" else "bg"
            tool = measured(runner, "pc" if limited else "npc", row["heads"], row["length"], level)
        device = "attacc-hbm3" if limited else "attacc-hbm3-npc"
        unit: UnitLevel = "bank" if row["unit"] == "bank" else "bank group"
        asbuilt = attention(heads, length, unit=unit, device=f"{device}-asbuilt")
        correct = attention(heads, length, unit=unit, device=device, softmax_cycles=16)
        name = f"{unit}, {heads} x {length}" + ("" if limited else ", no limit")
        text = line(name, tool, asbuilt, correct, TFAW["attacc"])
        if row["shipped"]:
            text += f"{row['shipped']:>10}{tool / int(row['shipped']) - 1:+10.2%}"
        print(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pimsimulator", metavar="DRIVER")
    parser.add_argument("--attacc", metavar="RUNNER")
    arguments = parser.parse_args()
    hbm = load_device("hbm-pim").timing
    assert TFAW["hbm-pim"]["timing.nAAB"] == hbm["nFAW"] + 3 * hbm["nRRDS"]
    hbm_pim_table(arguments.pimsimulator)
    print()
    attacc_table(arguments.attacc)


if __name__ == "__main__":
    main()
