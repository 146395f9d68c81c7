"""The folder of a study's results: a file per point, tables, timelines and figures."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neardata.arch.errors import InputError
from neardata.cli.output import text_file

if TYPE_CHECKING:
    from neardata.study import Point, Study


class ResultsFolder:
    """``--out``. The folder is made when there is something to keep in it.

    Raises:
        InputError: it is a file, or cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made: list[Path] = []
        if path.exists() and not path.is_dir():
            raise InputError("is a file; --out takes a folder", file=path)
        above = next(p for p in (path, *path.absolute().parents) if p.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise InputError(f"cannot be made: '{above}' cannot be written to", file=path)

    def known(self, study: Study, label: str, batch: int) -> dict[str, Any] | None:
        """The record of a point that was run before under the same description; else None."""
        from neardata.results import SCHEMA

        path = self._file(study, label, batch)
        if not path.is_file():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["schema"] != SCHEMA:
                return None
        except (ValueError, KeyError, TypeError):
            raise InputError("is no result of a point; remove it to run the point again", file=path) from None
        return {**record, "label": label}

    def keep(self, study: Study, point: Point, record: dict[str, Any]) -> None:
        """Write a point: its timeline, then its record, by which it counts as done."""
        from neardata.sim.system.timeline import write_system_timeline

        points = self.path / "points"
        for folder in (*reversed(points.parents), points):
            if not folder.exists():
                try:
                    folder.mkdir()
                except OSError as error:
                    raise InputError(f"cannot be made: {error.strerror}", file=folder) from None
                self._made.append(folder)
        with self._new(self.path / f"timeline-{_plain(f'{point.label} batch {point.batch}')}.json") as stream:
            write_system_timeline(stream, point.report)
        with self._new(self._file(study, point.label, point.batch)) as stream:
            json.dump(record, stream, indent=1)

    def withdraw(self) -> None:
        """Remove what was kept since this folder was opened."""
        for path in reversed(self._made):
            if path.is_dir():
                if not any(path.iterdir()):
                    path.rmdir()
            else:
                path.unlink(missing_ok=True)

    def finish(self, study: Study, records: Sequence[dict[str, Any]], *, partial: bool, plots: bool) -> None:
        """Write the tables and figures of all points."""
        from neardata.results import CSV_COLUMNS

        if not records:
            return
        with text_file(self.path / "results.json") as stream:
            json.dump({"title": study.title, "partial": partial, "points": records}, stream, indent=1)
        with text_file(self.path / "results.csv") as stream:
            table = csv.DictWriter(stream, CSV_COLUMNS, extrasaction="ignore")
            table.writeheader()
            table.writerows(records)
        if plots and find_spec("matplotlib") is not None:
            from neardata.run_figures import draw

            draw(self.path, study.title, records)

    def _file(self, study: Study, label: str, batch: int) -> Path:
        from neardata.fingerprint import code_digest, fingerprint

        hashed = fingerprint(study, study.systems[label], batch, code_digest())
        return self.path / "points" / f"{hashed}.json"

    def _new(self, path: Path) -> Any:
        self._made.append(path)
        return text_file(path)


def _plain(name: str) -> str:
    """As part of a file name."""
    return "".join(c if c.isalnum() else "-" for c in name).strip("-").lower()
