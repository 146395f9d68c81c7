"""YAML read into pydantic models, with every error placed at its file, line and key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from neardata.arch.errors import InputError, nearest

ModelT = TypeVar("ModelT", bound=BaseModel)


class StrictModel(BaseModel):
    """Base of every description: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ConfigFile:
    """A YAML document that remembers the line of each key.

    Raises:
        InputError: unreadable file, YAML syntax error, duplicate key.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise InputError(f"cannot be read: {reason}", file=path) from None
        try:
            self._root = yaml.compose(text, Loader=yaml.SafeLoader)
            self.data: Any = yaml.load(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = mark.line + 1 if mark else None
            problem = getattr(error, "problem", None) or "not a YAML document"
            raise InputError(f"not valid YAML: {problem}", file=path, line=line) from None
        self._reject_duplicates(self._root)

    def _reject_duplicates(self, node: yaml.Node | None) -> None:
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if key.value in seen:
                    raise InputError(
                        "given twice", file=self.path, line=key.start_mark.line + 1, key=str(key.value)
                    )
                seen.add(key.value)
                self._reject_duplicates(value)
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                self._reject_duplicates(value)

    def line_of(self, keys: Sequence[str | int]) -> int | None:
        """Line (from 1) of the deepest part of the key path that the file holds."""
        node, line = self._root, None
        if node is not None:
            line = node.start_mark.line + 1
        for key in keys:
            if isinstance(node, yaml.MappingNode):
                for name, value in node.value:
                    if name.value == str(key):
                        node, line = value, name.start_mark.line + 1
                        break
                else:
                    return line
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
                node = node.value[key]
                line = node.start_mark.line + 1
            else:
                return line
        return line

    def error(self, message: str, *keys: str | int) -> InputError:
        """An `InputError` placed at the key path ``keys``."""
        return InputError(
            message, file=self.path, line=self.line_of(keys), key=".".join(map(str, keys)) or None
        )

    def parse(self, model: type[ModelT], data: Any = None, at: Sequence[str | int] = ()) -> ModelT:
        """Validate ``data`` (default: the whole document), which lies at key path ``at``."""
        try:
            return model.model_validate(self.data if data is None else data)
        except ValidationError as error:
            keys, message = first_problem(model, error)
            raise self.error(message, *at, *keys) from None


def first_problem(model: type[BaseModel], error: ValidationError) -> tuple[list[str | int], str]:
    """Key path and one-line message of the first problem pydantic found."""
    problem = error.errors(include_url=False)[0]
    # pydantic names union branches and validators in the location; keep only real keys
    keys = [part for part in problem["loc"] if not (isinstance(part, str) and part.startswith("function-"))]
    if problem["type"] == "extra_forbidden":
        allowed = _fields_at(model, keys[:-1])
        return keys, f"unknown key{nearest(str(keys[-1]), allowed)}" if allowed else "unknown key"
    if problem["type"] == "missing":
        return keys, "missing"
    message = problem["msg"].removeprefix("Value error, ")
    return keys, message[0].lower() + message[1:]


def _fields_at(model: type[BaseModel], keys: Sequence[str | int]) -> list[str]:
    current: Any = model
    for key in keys:
        fields = getattr(current, "model_fields", None)
        if fields is None:  # inside a mapping or list of models: the key is an entry's name
            continue
        if key not in fields:
            return []
        current = _model_inside(fields[key].annotation)
        if current is None:
            return []
    return list(getattr(current, "model_fields", {}))


def _model_inside(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_inside(argument)
        if found is not None:
            return found
    return None
