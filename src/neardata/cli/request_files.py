"""Files ``neardata dram run`` writes besides its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neardata.arch.errors import InputError
from neardata.cli.output import check_apart, check_writable, text_file, whole_file
from neardata.cli.request_report import shares

if TYPE_CHECKING:
    from neardata.sim.dram.request import RequestReport

Window = tuple[int, int]


def parse_window(text: str | None, timeline: Path | None) -> Window | None:
    """``START:END`` in cycles; either may be left out.

    Raises:
        InputError: another form, an empty window, or no timeline to show it in.

    >>> parse_window("100:", Path("t.json"))
    (100, 4611686018427387904)
    """
    if text is None:
        return None
    if timeline is None:
        raise InputError("--timeline-window needs --timeline")
    start, colon, end = text.partition(":")
    try:
        window = int(start or 0), int(end or 1 << 62)
    except ValueError:
        colon = ""
    if not colon or window[0] > window[1]:
        raise InputError(f"--timeline-window {text}: expected START:END in cycles")
    return window


def check_outputs(
    commands: Path | None, requests: Path | None, timeline: Path | None, plot: Path | None,
    inputs: Sequence[Path | None] = (),
) -> None:  # fmt: skip
    """Fail before the run rather than after it.

    Raises:
        InputError: a file that cannot be written or is an input, two of one name, or a form that
            is not known.
    """
    outputs = [path for path in (commands, requests, timeline, plot) if path is not None]
    for path in outputs:
        check_writable(path)
    check_apart(outputs, inputs)
    if requests is not None and not requests.name.endswith((".csv", ".csv.gz", ".npz")):
        raise InputError("requests are written as .csv, .csv.gz or .npz", file=requests)
    if plot is not None:
        from neardata import plots

        plots.check(plot)


def write(
    report: RequestReport,
    commands: Path | None,
    requests: Path | None,
    timeline: Path | None,
    window: Window | None,
    plot: Path | None,
) -> list[str]:
    """Write what was asked for.

    Returns:
        What a person should know: something was left out.
    """
    notes = []
    logs = report.command_logs or []
    if commands is not None:
        with text_file(commands) as stream:
            for channel, log in enumerate(logs):
                log.write_csv(stream, channel, header=channel == 0)
    if timeline is not None:
        from neardata.sim.timeline import write_timeline

        with text_file(timeline) as stream:
            left_out = write_timeline(stream, logs, window=window)
        if left_out:
            notes.append(
                f"{timeline}: the last {left_out:,} commands are left out; choose with --timeline-window"
            )
    if requests is not None:
        if report.per_request is None:
            notes.append(f"{requests}: not written, since the run was interrupted")
        else:
            _write_requests(report, requests)
    if plot is not None:
        from neardata import plots

        with whole_file(plot) as temporary:
            bar = [(report.device.name, shares(report))]
            plots.where_the_cycles_went(bar, temporary, "where the data bus's cycles went")
    return notes


def _write_requests(report: RequestReport, path: Path) -> None:
    import numpy as np

    times = report.per_request
    assert times is not None
    if path.suffix == ".npz":
        with whole_file(path) as temporary:
            np.savez_compressed(temporary, arrive=times.arrive, issue=times.issue, depart=times.depart)
        return
    with text_file(path) as stream:
        stream.write("request,arrive,issue,depart\n")
        number = np.arange(len(times.arrive))
        np.savetxt(
            stream,
            np.stack([number, times.arrive, times.issue, times.depart], axis=1),
            fmt="%d",
            delimiter=",",
        )
