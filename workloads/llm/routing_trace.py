"""Recorded routings: which experts every token of a real run went to.

`load_routing` reads

* ``.npz`` with an array ``ids`` (tokens, layers, top_k);
* a folder of FLAME-MoE's Parquet files, ``actives/iter_N`` with ``layer_NN.parquet``: a row a token, in
  column ``indices`` the list of its experts (needs pyarrow, which the extra ``results`` installs);
* ``.csv`` with columns ``layer,expert``, a row for each expert of a token as llama.cpp's tracing writes
  them, tokens one after another within a layer;
* ``.json``, an object whose ``experts`` are lists by token, then layer, of expert ids.

Layers count only those with experts, in order.
"""

from __future__ import annotations

import csv
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neardata.arch.errors import InputError, nearest

Ids = NDArray[np.int64]


class RecordedRouting:
    """Experts of recorded tokens; a `neardata.workloads.llm.routing.Routing`.

    A step of T tokens takes the T tokens from ``start`` on.

    >>> routing = RecordedRouting(np.array([[[0, 1]], [[1, 2]], [[1, 3]]]))
    >>> routing.counts(layer=0, tokens=2, experts=4, top_k=2).tolist()
    [1, 2, 1, 0]
    >>> routing.at(2).counts(layer=0, tokens=1, experts=4, top_k=2).tolist()
    [0, 1, 0, 1]
    """

    def __init__(self, ids: Ids, start: int = 0) -> None:
        """``ids``: (tokens, layers, top_k), no expert twice in a token's layer.

        Raises:
            InputError: another shape, negative ids, an expert twice.
        """
        if ids.ndim != 3 or not ids.size or not np.issubdtype(ids.dtype, np.integer):
            raise InputError(f"expected whole numbers (tokens, layers, top_k), got {ids.dtype} {ids.shape}")
        self.ids = ids.astype(np.int64)
        if self.ids.min() < 0:
            raise InputError(f"experts count from 0, got {self.ids.min()}")
        ordered = np.sort(self.ids, axis=2)
        twice = np.argwhere((ordered[:, :, 1:] == ordered[:, :, :-1]).any(axis=2))
        if len(twice):
            raise InputError(f"an expert comes twice for token {twice[0][0]} in layer {twice[0][1]}")
        self.start = start

    @property
    def tokens(self) -> int:
        """Recorded tokens."""
        return len(self.ids)

    @property
    def sequences(self) -> Ids:
        """(layers, tokens, top_k), as `neardata.workloads.llm.expert_cache.hit_rate` takes them."""
        return np.ascontiguousarray(self.ids.swapaxes(0, 1))

    def at(self, start: int) -> RecordedRouting:
        """The same record, for a step that begins at token ``start``."""
        if not 0 <= start < self.tokens:
            raise InputError(f"token {start} of {self.tokens} recorded", key="start")
        moved = RecordedRouting.__new__(RecordedRouting)
        moved.ids, moved.start = self.ids, start
        return moved

    def counts(self, layer: int, tokens: int, experts: int, top_k: int) -> Ids:
        """(experts,) tokens of each expert.

        Raises:
            InputError: the record has fewer tokens or layers, other numbers of experts.
        """
        recorded, layers, chosen = self.ids.shape
        if not 0 <= layer < layers:
            raise InputError(f"layer {layer} of {layers} recorded", key="layer")
        if self.start + tokens > recorded:
            raise InputError(f"{tokens} tokens from {self.start} on, but {recorded} recorded", key="tokens")
        if chosen != top_k:
            raise InputError(f"{top_k} experts a token, but {chosen} recorded", key="top_k")
        found = self.ids[self.start : self.start + tokens, layer]
        if found.max(initial=0) >= experts:
            raise InputError(f"expert {found.max()} recorded, but there are {experts}", key="experts")
        return np.bincount(found.ravel(), minlength=experts)


def load_routing(path: str | Path, *, top_k: int | None = None) -> RecordedRouting:
    """A recorded routing from a file or a folder.

    Args:
        top_k: experts of a token; needed for ``.csv``, which does not tell where a token ends.

    Raises:
        InputError: a form that is not known, or a file that is not in it; with the place.
    """
    path = Path(path)
    if path.is_dir():
        ids = _parquet(path)
    else:
        readers = {".npz": _npz, ".json": _json, ".csv": None}
        if path.suffix not in readers:
            raise InputError(f"unknown ending '{path.suffix}'{nearest(path.suffix, readers)}", file=path)
        reader = readers[path.suffix]
        ids = _csv(path, top_k) if reader is None else reader(path)
    try:
        routing = RecordedRouting(ids)
    except InputError as error:
        raise InputError(error.message, file=path) from None
    if top_k is not None and ids.shape[2] != top_k:
        raise InputError(f"{ids.shape[2]} experts a token, expected {top_k}", file=path)
    return routing


def _npz(path: Path) -> Ids:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "ids" not in arrays:
                raise InputError(f"no array 'ids'{nearest('ids', arrays.files)}", file=path)
            ids: Ids = arrays["ids"]
            return ids
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        raise InputError("cannot be read as an npz archive of arrays", file=path) from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"cannot be read: {reason}", file=path) from None


def _json(path: Path) -> Ids:
    try:
        document = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"not valid JSON: {error.msg}", file=path, line=error.lineno) from None
    if not isinstance(document, dict):
        raise InputError("must be an object with 'experts'", file=path)
    if "experts" not in document:
        raise InputError(f"missing{nearest('experts', document)}", file=path, key="experts")
    return _regular(path, document["experts"])


def _regular(path: Path, tokens: Any) -> Ids:
    """Lists by token and layer as an array; the first place where they are no such thing is told."""
    if not isinstance(tokens, list) or not tokens:
        raise InputError("must be a list of tokens", file=path, key="experts")
    shape: tuple[int, int] | None = None
    for t, layers in enumerate(tokens):
        if not isinstance(layers, list) or not layers:
            raise InputError("must be a list of layers", file=path, key=f"experts.{t}")
        for i, chosen in enumerate(layers):
            if not isinstance(chosen, list) or any(type(e) is not int for e in chosen) or not chosen:
                raise InputError("must be a list of expert ids", file=path, key=f"experts.{t}.{i}")
            shape = shape or (len(layers), len(chosen))
            if (len(layers), len(chosen)) != shape:
                raise InputError(
                    f"{len(chosen)} experts in one of {len(layers)} layers; the first token has {shape[1]}"
                    f" in each of {shape[0]}",
                    file=path,
                    key=f"experts.{t}.{i}",
                )
    return np.array(tokens, dtype=np.int64)


def _csv(path: Path, top_k: int | None) -> Ids:
    if top_k is None or top_k < 1:
        raise InputError("a CSV routing needs top_k, the experts of a token", file=path, key="top_k")
    rows = csv.reader(_text(path).splitlines())
    header = next(rows, None)
    if header is None or [name.strip() for name in header] != ["layer", "expert"]:
        raise InputError(f"expected columns layer,expert, got {','.join(header or [])}", file=path, line=1)
    chosen: dict[int, list[int]] = {}
    for row in rows:
        if not row:
            continue
        if len(row) != 2 or not all(value.strip().isdigit() for value in row):
            raise InputError(
                f"expected two whole numbers, got {','.join(row)}", file=path, line=rows.line_num
            )
        chosen.setdefault(int(row[0]), []).append(int(row[1]))
    if not chosen:
        raise InputError("holds no experts", file=path)
    first = len(chosen[min(chosen)])
    for layer, found in sorted(chosen.items()):
        if len(found) % top_k or len(found) != first:
            raise InputError(
                f"layer {layer} has {len(found)} experts; expected {first}, a multiple of {top_k}", file=path
            )
    return np.stack([np.array(chosen[i]).reshape(-1, top_k) for i in sorted(chosen)], axis=1)


def _parquet(folder: Path) -> Ids:
    numbers = {
        int(match[1]): file
        for file in folder.iterdir()
        if (match := re.fullmatch(r"layer_(\d+)\.parquet", file.name))
    }
    if not numbers:
        raise InputError("holds no layer_NN.parquet", file=folder)
    import pyarrow
    from pyarrow import parquet

    layers: list[Ids] = []
    for number in sorted(numbers):
        file = numbers[number]
        try:
            table = parquet.read_table(file)
        except (OSError, pyarrow.ArrowException):
            raise InputError("cannot be read as Parquet", file=file) from None
        if "indices" not in table.column_names:
            raise InputError(f"no column 'indices'{nearest('indices', table.column_names)}", file=file)
        lists = table.column("indices").to_pylist()
        widths = {len(row) if isinstance(row, list) else -1 for row in lists}
        if len(widths) != 1 or min(widths) < 1:
            raise InputError("column 'indices' must hold equally long lists of experts", file=file)
        ids = np.array(lists)
        if layers and ids.shape != layers[0].shape:
            raise InputError(
                f"{ids.shape[0]} tokens of {ids.shape[1]} experts; the first layer has {layers[0].shape[0]}"
                f" of {layers[0].shape[1]}",
                file=file,
            )
        layers.append(ids)
    return np.stack(layers, axis=1)
