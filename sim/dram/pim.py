"""Run PIM command programs: `run_program`."""

from __future__ import annotations

from dataclasses import replace

from neardata.arch.dram import Device, load_device
from neardata.arch.errors import InputError
from neardata.sim.dram.program import ChannelGroup, Keys, Program, RefreshPolicy
from neardata.sim.dram.program_report import ChannelReport, HostReport, ProgramReport

__all__ = ["ChannelReport", "HostReport", "ProgramReport", "run_program"]


def run_program(
    program: Program,
    *,
    jump: bool = True,
    runs: bool = True,
    stretches: bool = True,
    fold: bool = True,
    refresh: RefreshPolicy | None = None,
    record_commands: bool = False,
    device: Device | None = None,
) -> ProgramReport:
    """Run a command program to its end.

    Args:
        jump: skip whole periods where the state recurs. The result is the same without.
        runs: take repetitions of one command in one step. The result is the same without.
        stretches: work out once what binds the commands of a stretch that is met often (see
            `neardata.sim.dram.program_stretch`). The result is the same without.
        fold: simulate one of the channels that do the same. The result is the same without.
        refresh: instead of the program's own policy.
        record_commands: keep the command trace of the first channel of each group (no
            jumps, no runs: memory grows with the number of commands).
        device: instead of the one the program names.

    Returns:
        the report; partial if interrupted from the keyboard.

    Raises:
        InputError: the program does not fit the device, or issues a command the state of the
            banks or the mode of the device forbids (command, loop position and cycle are named).

    >>> program = Program.from_dict({"device": "gddr6-aim", "refresh": "none", "body": [
    ...     {"ACT16": {"row": 0}}, {"MAC16": {}, "repeat": 64}, "PREA"]})
    >>> run_program(program).command_counts
    {'ACT16': 1, 'PREA': 1, 'MAC16': 64}
    """
    # Numba is loaded only when a program runs
    from neardata.sim.dram.program_channel import run_channel
    from neardata.sim.dram.program_table import default_refresh

    if device is None:
        try:
            device = load_device(program.device, program.overrides)
        except InputError as error:
            if error.file is not None or program.file is None:
                raise
            keys: Keys = ("overrides", error.key) if error.key else ("device",)
            raise program.error(error.message, keys) from None
    policy = refresh or program.refresh or default_refresh(device)
    reports: list[ChannelReport] = []
    partial = False
    done: list[tuple[ChannelGroup, ChannelReport]] = []
    for group in program.groups:
        same = [report for other, report in done if fold and other.body == group.body]
        if same:
            reports.append(replace(same[0], name=group.name, channels=group.channels))
            continue
        for i in range(1 if fold else group.channels):
            report, partial = run_channel(
                program, group, device, policy, jump=jump, runs=runs, stretches=stretches,
                record=record_commands and i == 0,
            )  # fmt: skip
            if fold:
                done.append((group, report))
                reports.append(replace(report, channels=group.channels))
            else:
                reports.append(replace(report, channels=1))
            if partial:
                return ProgramReport(program, device, policy, tuple(reports), True)
    return ProgramReport(program, device, policy, tuple(reports))
