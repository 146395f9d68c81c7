"""A study of a paper as ``neardata run`` runs it: verdicts, and a folder of all figures."""

from __future__ import annotations

import csv
import json
from importlib.util import find_spec
from pathlib import Path

from neardata.arch.errors import InputError
from neardata.cli.output import text_file, whole_file
from neardata.cli.reproduce import report


def run_paper(path: Path, out: Path | None, *, plots: bool, as_json: bool) -> int:
    """Run a study with claims; 1 if one is missed.

    Writes ``figures.json`` (all that the model computes), ``claims.csv`` and, of models that have pictures,
    their PNGs into ``out``.

    Raises:
        InputError: as `neardata.reproduction.run_study`; a folder that cannot be written to.
    """
    from neardata.reproduction import run_study

    if out is not None and (out.exists() and not out.is_dir()):
        raise InputError("is a file; --out takes a folder", file=out)
    if out is not None and not out.absolute().parent.is_dir():
        raise InputError("cannot be made: the folder above it does not exist", file=out)
    found = run_study(path)
    if out is not None:
        try:
            out.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot be made: {error.strerror}", file=out) from None
        with text_file(out / "figures.json") as stream:
            json.dump(dict(found.figures), stream, indent=1)
        with text_file(out / "claims.csv") as stream:
            table = csv.writer(stream)
            table.writerow(["claim", "condition", "where", "value", "unit", "ours", "verdict", "reason"])
            for v in found.verdicts:
                c = v.claim
                table.writerow([c.claim, c.condition, c.where, c.value, c.unit, v.ours, v.decision, v.reason])
        if plots and found.study.model == "presto" and find_spec("matplotlib") is not None:
            from neardata.preprocessing_plots import draw

            with whole_file(out / "presto.png") as temporary:
                draw(found.figures, temporary)
    return report(found, as_json)
