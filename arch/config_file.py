"""YAML read into pydantic models, with every error placed at its file, line and key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from neardata.arch.errors import InputError, nearest

ModelT = TypeVar("ModelT", bound=BaseModel)

# libyaml's loader, where PyYAML was built with it, is several times faster
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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
            loader = _Loader(text)
            self._root = loader.get_single_node()
            self.data: Any = None if self._root is None else loader.construct_document(self._root)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else None
            raise InputError(f"not valid YAML: {error.problem}", file=path, line=line) from None
        except (yaml.YAMLError, ValueError) as error:
            problem = str(getattr(error, "reason", error)).splitlines()[0]
            raise InputError(f"not valid YAML: {problem}", file=path) from None
        if self._root is not None:
            self._reject_duplicates(self._root, {})

    def _reject_duplicates(self, node: yaml.Node, above: dict[yaml.Node, str]) -> None:
        """``above``: the nodes around this one, each with the key inside it that led here."""
        if node in above:
            raise InputError("an alias of itself", file=self.path, line=node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if key.value in seen:
                    path = ".".join([*above.values(), str(key.value)])
                    raise InputError("given twice", file=self.path, line=key.start_mark.line + 1, key=path)
                seen.add(key.value)
                self._reject_duplicates(value, {**above, node: str(key.value)})
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                self._reject_duplicates(value, {**above, node: str(i)})

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
        document = self.data if data is None else data
        try:
            return model.model_validate(document)
        except ValidationError as error:
            keys, message = first_problem(model, error)
            raise self.error(message, *at, *keys_in(document, keys)) from None


def keys_in(document: Any, keys: Sequence[str | int]) -> list[str | int]:
    """The key path without what pydantic adds to it: the names of union branches."""
    kept = []
    for i, key in enumerate(keys):
        held = (isinstance(document, Mapping) and key in document) or (
            isinstance(document, Sequence) and isinstance(key, int) and key < len(document)
        )
        inside = isinstance(document, Mapping) or (isinstance(document, Sequence) and isinstance(key, int))
        if held:
            document = document[key]
        if held or (inside and i == len(keys) - 1):
            kept.append(key)
    return kept


def first_problem(model: type[Any], error: ValidationError) -> tuple[list[str | int], str]:
    """Key path and one-line message of the problem to mend first.

    Args:
        model: a pydantic model or a dataclass.
    """
    problems = error.errors(include_url=False)
    # an unknown key is often what is missing, misspelt
    unknown = ("extra_forbidden", "unexpected_keyword_argument")
    problem = next((p for p in problems if p["type"] in unknown), problems[0])
    keys = [part for part in problem["loc"] if not (isinstance(part, str) and part.startswith("function-"))]
    if keys and keys[-1] == "[key]":  # the key itself is at fault
        keys.pop()
    given = problem["input"]
    match problem["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            allowed = _fields_at(model, keys[:-1])
            return keys, f"unknown key{nearest(str(keys[-1]), allowed)}"
        case "missing":
            return keys, "missing"
        case "union_tag_not_found":
            return [*keys, problem["ctx"]["discriminator"].strip("'")], "missing"
        case "union_tag_invalid":
            allowed = re.findall(r"'([^']*)'", problem["ctx"]["expected_tags"])
            tag = problem["ctx"]["tag"]
            keys.append(problem["ctx"]["discriminator"].strip("'"))
            return keys, f"'{tag}' is not known{nearest(tag, allowed)}"
        case "literal_error":
            allowed = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
            return keys, f"'{given}' is not known{nearest(str(given), allowed)}"
        case "model_type" | "dict_type" | "model_attributes_type" | "dataclass_type":
            return keys, "must be a mapping of keys to values"
        case "tuple_type" | "list_type":
            return keys, f"must be a list, got {_shown(given)}"
        case "int_type" | "int_parsing" | "int_from_float":
            return keys, f"must be a whole number, got {_shown(given)}"
        case "float_type" | "float_parsing":
            return keys, f"must be a number, got {_shown(given)}"
        case "too_short" if problem["ctx"]["min_length"] == 1:
            return keys, "must not be empty"
        case "value_error":
            return keys, problem["msg"].removeprefix("Value error, ")
    message = problem["msg"].replace("Input should be", "must be")
    return keys, f"{message[0].lower()}{message[1:]}, got {_shown(given)}"


def _shown(given: Any) -> str:
    """A value as it may stand in one line."""
    text = "nothing" if given is None else repr(given) if isinstance(given, str) else str(given)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _fields_at(model: type[Any], keys: Iterable[str | int]) -> list[str]:
    """Field names of the model, or models, that may stand at a key path."""
    models = [model]
    for key in keys:
        below = [m for m in models if key in _fields(m)]
        if below:
            models = [inside for m in below for inside in _models_inside(_fields(m)[str(key)])]
        else:  # an entry's name or index, or the tag that tells the models of a union apart
            tagged = [
                m for m in models if any(key in get_args(annotation) for annotation in _fields(m).values())
            ]
            models = tagged or models
    return sorted({name for m in models for name in _fields(m)})


def _fields(model: type[Any]) -> dict[str, Any]:
    """Field names and types of a pydantic model or a dataclass."""
    if issubclass(model, BaseModel):
        return {name: field.annotation for name, field in model.model_fields.items()}
    hints = get_type_hints(model)
    return {field.name: hints[field.name] for field in fields(model)}


def _models_inside(annotation: Any) -> list[type[Any]]:
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation)):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_inside(argument)]
