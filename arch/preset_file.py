"""Named presets in YAML files: found by name, with overrides laid over them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from neardata.arch.config_file import ConfigFile, StrictModel, first_problem
from neardata.arch.errors import InputError, nearest

PresetT = TypeVar("PresetT", bound=StrictModel)


class PresetFolder(Generic[PresetT]):
    """The YAML files of a folder; each holds presets by name under one key.

    Args:
        folder: where the files lie.
        key: the key the presets stand under, such as ``processors``.
        noun: what a preset is called in errors, such as ``processor``.
        model: what a preset's ``kind`` says it is.
    """

    def __init__(self, folder: Path, key: str, noun: str, model: Mapping[str, type[PresetT]]) -> None:
        self.folder, self.key, self.noun, self.model = folder, key, noun, model

    @functools.cached_property
    def shipped(self) -> dict[str, ConfigFile]:
        """The file that holds each name."""
        files = [ConfigFile(path) for path in sorted(self.folder.glob("*.yaml"))]
        return {name: file for file in files for name in self._presets(file)}

    def load(self, name: str, overrides: Mapping[str, Any] | None = None) -> PresetT:
        """A preset by name, or by ``FILE.yaml[:NAME]``.

        Raises:
            InputError: unknown name or key, a value that cannot be.
        """
        stem, colon, chosen = name.rpartition(".yaml:")
        if not colon and not name.endswith(".yaml"):
            if name not in self.shipped:
                raise InputError(f"unknown {self.noun} '{name}'{nearest(name, self.shipped)}")
            return self._resolve(self.shipped[name], name, overrides or {})
        file = ConfigFile(Path(f"{stem}.yaml" if colon else name))
        presets = list(self._presets(file))
        if not colon and len(presets) != 1:
            raise file.error(f"there are {len(presets)}; name one as {file.path}:NAME", self.key)
        preset = chosen if colon else presets[0]
        if preset not in presets:
            raise file.error(f"no {self.noun} '{preset}'{nearest(preset, presets)}", self.key)
        return self._resolve(file, preset, overrides or {})

    def _presets(self, file: ConfigFile) -> Mapping[str, Any]:
        data = file.data
        presets = data.get(self.key) if isinstance(data, Mapping) and set(data) == {self.key} else None
        if not isinstance(presets, Mapping):
            raise file.error(f"must be a mapping with the one key '{self.key}', of presets by name")
        return presets

    def _merged(self, file: ConfigFile, name: str, seen: tuple[str, ...]) -> dict[str, Any]:
        """A preset's keys over those of the one of the same file that it ``extends``."""
        presets = self._presets(file)
        given = presets[name]
        if not isinstance(given, Mapping):
            raise file.error("must be a mapping of keys to values", self.key, name)
        if "extends" not in given:
            return dict(given)
        parent = given["extends"]
        if parent not in presets:
            raise file.error(f"unknown '{parent}'{nearest(str(parent), presets)}", self.key, name, "extends")
        if parent in (name, *seen):
            raise file.error("extends itself", self.key, name, "extends")
        own = {key: value for key, value in given.items() if key != "extends"}
        return {**self._merged(file, parent, (*seen, name)), **own}

    def _resolve(self, file: ConfigFile, name: str, overrides: Mapping[str, Any]) -> PresetT:
        given = self._merged(file, name, ())
        at = (self.key, name)
        kind = given.get("kind")
        if not isinstance(kind, str) or kind not in self.model:
            problem = "missing" if kind is None else f"'{kind}' is not known{nearest(str(kind), self.model)}"
            raise file.error(problem, *at, "kind")
        model = self.model[kind]
        preset = file.parse(model, {**given, "name": name}, at)
        if not overrides:
            return preset
        data = preset.model_dump()
        for key, value in overrides.items():
            lay(data, key, value, name)
        try:
            return TypeAdapter(model).validate_python(data)
        except ValidationError as error:
            keys, message = first_problem(model, error, data)
            raise InputError(message, key=".".join(map(str, keys))) from None


def lay(data: dict[str, Any], key: str, value: Any, name: str) -> None:
    """Set ``memory.gb_per_s`` or ``caches.0.bytes`` in nested data."""
    below: Any = data
    *path, last = key.split(".")
    for part in path:
        index = int(part) if isinstance(below, list | tuple) and part.isdigit() else part
        try:
            below = below[index]
        except (KeyError, IndexError, TypeError):
            below = None
            break
    if isinstance(below, dict) and last in below:
        below[last] = value
        return
    raise InputError(f"cannot be set on {name}{nearest(key, _paths(data))}", key=key)


def _paths(data: Any, prefix: str = "") -> Iterator[str]:
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        if isinstance(value, dict) or (
            isinstance(value, list | tuple) and value and isinstance(value[0], dict)
        ):
            yield from _paths(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
