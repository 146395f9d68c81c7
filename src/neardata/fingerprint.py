"""What decides the result of a study's point, as a short hash."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from neardata.arch.system import PimUnit, ProcessorUnit, StorageUnit, StreamUnit, load_system

if TYPE_CHECKING:
    from neardata.study import Study, SystemChoice


def fingerprint(study: Study, choice: SystemChoice, batch: int, version: str) -> str:
    """What decides the result of a point, as a short hash: equal hashes, equal results."""
    what = study.model_dump(mode="json", exclude={"systems", "batch", "baseline", "title"})
    files = [digest([path]) for path in own_files(study, choice)]
    text = json.dumps([version, what, choice.model_dump(mode="json"), batch, files], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def own_files(study: Study, choice: SystemChoice) -> list[Path]:
    """Files and folders that do not ship with the package: of the model, the routing, the system, and what
    it names."""
    system = load_system(choice.system, choice.set)
    named = [study.model, study.routing, choice.system, *(use.link for use in system.links.values())]
    if isinstance(choice.mapping.products, str):
        named.append(choice.mapping.products)
    for unit in system.units.values():
        if isinstance(unit, ProcessorUnit):
            named.append(unit.processor)
        elif isinstance(unit, PimUnit | StorageUnit):
            named.append(unit.device)
        elif isinstance(unit, StreamUnit):
            named += [*unit.pipelines.values(), *([unit.fpga] if unit.fpga else [])]
    paths = (Path(re.sub(r"(\.ya?ml):[^:/]*$", r"\1", name)) for name in named)  # FILE.yaml:PRESET
    routing = Path(study.routing)
    return [path for path in paths if path.is_file()] + ([routing] if routing.is_dir() else [])


def digest(paths: Iterable[Path], endings: Collection[str] = ()) -> str:
    """Of files and of what is in folders: contents, and names within the folder.

    Args:
        endings: of the files of folders that count, such as ``.py``; none: all.
    """
    whole = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and (file == path or not endings or file.suffix in endings):
                whole.update(file.relative_to(path).as_posix().encode() + b"\0")
                whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


@cache
def code_digest() -> str:
    """Of the package's code and data, so that a result of other code is not taken for this one's."""
    folders = []
    for room in ("neardata", *(f"neardata.{room}" for room in ("arch", "workloads", "sim", "mappers"))):
        spec = find_spec(room)
        assert spec is not None and spec.submodule_search_locations is not None
        folders.append(Path(spec.submodule_search_locations[0]))
    return digest(folders, (".py", ".yaml", ".json"))
