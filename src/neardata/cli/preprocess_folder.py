"""The folder of prepared mini-batches: a file each, complete or not there."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neardata.arch.errors import InputError
from neardata.cli.output import text_file, whole_file

if TYPE_CHECKING:
    from neardata.workloads.recsys import MiniBatch, Spec

WHAT = "prepared.json"


class BatchFolder:
    """``--out``. Mini-batches that are there already stay.

    Raises:
        InputError: it is a file, cannot be written to, or holds mini-batches of other data or another spec.
    """

    def __init__(self, path: Path, data: Path, spec: Spec, parts: Sequence[tuple[int, ...]]) -> None:
        self.path, self._made = path, list[Path]()
        about = data.stat()
        given = json.dumps([spec.model_dump(mode="json"), [list(p) for p in parts]], sort_keys=True)
        self.what = {
            "input": data.name, "bytes": about.st_size, "modified_ns": about.st_mtime_ns,
            "spec": spec.name, "spec_and_parts": hashlib.sha256(given.encode()).hexdigest(),
        }  # fmt: skip
        if path.exists() and not path.is_dir():
            raise InputError("is a file; --out takes a folder", file=path)
        above = next(p for p in (path, *path.absolute().parents) if p.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise InputError(f"cannot be made: '{above}' cannot be written to", file=path)
        known = path / WHAT
        if known.exists():
            try:
                found = json.loads(known.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                raise InputError("does not tell what was prepared; give another folder", file=known) from None
            if found != self.what:
                raise InputError(
                    "holds mini-batches of other data, spec or size; give another folder", file=path
                )

    def file(self, i: int) -> Path:
        """Of a mini-batch."""
        return self.path / f"batch-{i:06d}.npz"

    def has(self, i: int) -> bool:
        """Whether a mini-batch is there, and whole: one that was cut is prepared again."""
        return (self.path / WHAT).exists() and self.file(i).is_file() and zipfile.is_zipfile(self.file(i))

    def rows(self, i: int) -> int:
        """Rows of a mini-batch that is there.

        Raises:
            InputError: its file is not one.
        """
        import numpy as np

        try:
            with np.load(self.file(i)) as held:
                return int(held["lengths"].shape[1])
        except (OSError, ValueError, KeyError):
            raise InputError("is no mini-batch; remove it to prepare it again", file=self.file(i)) from None

    def keep(self, i: int, batch: MiniBatch) -> None:
        """Write a mini-batch: ``dense``, ``lengths``, ``values``, ``keys`` and ``labels``."""
        import numpy as np

        for folder in (*reversed(self.path.absolute().parents), self.path):
            if not folder.exists():
                try:
                    folder.mkdir()
                except OSError as error:
                    raise InputError(f"cannot be made: {error.strerror}", file=folder) from None
                self._made.append(folder)
        if not (self.path / WHAT).exists():
            with text_file(self.path / WHAT) as stream:
                json.dump(self.what, stream, indent=1)
            self._made.append(self.path / WHAT)
        arrays = {
            "dense": batch.dense, "lengths": batch.sparse.lengths, "values": batch.sparse.values,
            "keys": np.array(batch.sparse.keys, dtype=np.str_),
        }  # fmt: skip
        if batch.labels is not None:
            arrays["labels"] = batch.labels
        with whole_file(self.file(i)) as temporary:
            np.savez(temporary, **arrays)  # type: ignore[arg-type]
        self._made.append(self.file(i))

    def withdraw(self) -> None:
        """Remove what was written since this folder was opened."""
        for path in reversed(self._made):
            if not path.is_dir():
                path.unlink(missing_ok=True)
            elif not any(path.iterdir()):
                path.rmdir()

    def finish(self, record: Mapping[str, Any]) -> None:
        """``report.json`` and ``operators.csv``."""
        if not self.path.is_dir():
            return
        with text_file(self.path / "report.json") as stream:
            json.dump(record, stream, indent=1)
        rows = [{"unit": unit["name"], **row} for unit in record["units"] for row in unit["operators"]]
        with text_file(self.path / "operators.csv") as stream:
            if rows:
                table = csv.DictWriter(stream, list(rows[0]))
                table.writeheader()
                table.writerows(rows)
