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
        self._form = "JSON" if path.suffix == ".json" else "YAML"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise InputError(f"cannot be read: {reason}", file=path) from None
        try:
            loader = _Loader(text)
            self._root = loader.get_single_node()
            if self._root is not None:  # before keys are merged into mappings that override them
                self._reject_duplicates(self._root, {})
            self.data: Any = None if self._root is None else loader.construct_document(self._root)
        except InputError:
            raise
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else None
            raise InputError(f"not valid {self._form}: {error.problem}", file=path, line=line) from None
        except (yaml.YAMLError, ValueError) as error:
            problem = str(getattr(error, "reason", error)).splitlines()[0]
            raise InputError(f"not valid {self._form}: {problem}", file=path) from None

    def _reject_duplicates(self, node: yaml.Node, above: dict[yaml.Node, str]) -> None:
        """``above``: the nodes around this one, each with the key inside it that led here."""
        if node in above:
            raise InputError("an alias of itself", file=self.path, line=node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):  # refused where it is constructed
                    continue
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
        rest = list(keys)
        while rest:
            if isinstance(node, yaml.MappingNode):
                found = self._entry(node, rest)
                if found is None:
                    return line
                name, node, taken = found
                line, rest = name.start_mark.line + 1, rest[taken:]
            elif isinstance(node, yaml.SequenceNode):
                at = rest.pop(0)
                if not isinstance(at, int) or at >= len(node.value):
                    return line
                node = node.value[at]
                line = node.start_mark.line + 1
            else:
                return line
        return line

    def _entry(
        self, node: yaml.MappingNode, keys: Sequence[str | int]
    ) -> tuple[yaml.Node, yaml.Node, int] | None:
        """The entry of a mapping that a key path goes through, and how many of its parts name it: a key may
        have dots of its own."""
        for taken in range(1, len(keys) + 1):
            wanted = ".".join(map(str, keys[:taken]))
            for name, value in reversed(node.value):  # its own keys after merged ones
                if name.value == wanted:
                    return name, value, taken
        return None

    def error(self, message: str, *keys: str | int) -> InputError:
        """An `InputError` placed at the key path ``keys``."""
        return InputError(
            message, file=self.path, line=self.line_of(keys), key=".".join(map(str, keys)) or None
        )

    def parse(self, model: type[ModelT], data: Any = None, at: Sequence[str | int] = ()) -> ModelT:
        """Validate ``data`` (default: the whole document), which lies at key path ``at``."""
        document = self.data if data is None else data
        try:
            parsed = model.model_validate(document)
        except ValidationError as error:
            keys, message = first_problem(model, error, document)
            raise self.error(message, *at, *keys) from None
        truth = _truth_for_a_number(document, parsed)
        if truth is not None:
            raise self.error("must be a number, not yes or no", *at, *truth)
        return parsed


def _truth_for_a_number(given: Any, parsed: Any) -> list[str | int] | None:
    """Where true or false was given and taken for 1 or 0, as pydantic does."""
    if isinstance(given, bool):
        return [] if isinstance(parsed, int | float) and not isinstance(parsed, bool) else None
    if isinstance(given, dict):
        parts = [(k, v, parsed.get(k) if isinstance(parsed, dict) else getattr(parsed, str(k), None))
                 for k, v in given.items()]  # fmt: skip
    elif isinstance(given, list) and isinstance(parsed, list | tuple) and len(given) == len(parsed):
        parts = [(i, v, parsed[i]) for i, v in enumerate(given)]
    else:
        return None
    for key, value, held in parts:
        inside = _truth_for_a_number(value, held)
        if inside is not None:
            return [key, *inside]
    return None


def _keys_in(document: Any, keys: Sequence[Any]) -> list[str | int]:
    """The longest part of a pydantic key path that the document holds, in order.

    Pydantic puts the names of union branches between the keys.
    """
    if not keys:
        return []
    skipped = _keys_in(document, keys[1:])
    key = keys[0]
    held = (isinstance(document, Mapping) and key in document) or (
        isinstance(document, Sequence)
        and not isinstance(document, str)
        and isinstance(key, int)
        and key < len(document)
    )
    taken = [key, *_keys_in(document[key], keys[1:])] if held else []
    return max(skipped, taken, key=len)


_ADDED = re.compile(r"function-|constrained-|literal\[|\[key\]$")


def first_problem(
    model: type[Any], error: ValidationError, document: Any = None
) -> tuple[list[str | int], str]:
    """Key path and one-line message of the problem to mend first.

    Args:
        model: a pydantic model or a dataclass.
        document: what was validated; its keys tell the path from what pydantic adds to it.
    """
    problems = error.errors(include_url=False)
    # an unknown key is often what is missing, misspelt
    unknown = ("extra_forbidden", "unexpected_keyword_argument")
    problem = next((p for p in problems if p["type"] in unknown), problems[0])
    full = problem["loc"]
    keys = [part for part in full if not (isinstance(part, str) and _ADDED.match(part))]
    wanted: list[str | int] = []  # a key that should be there
    match problem["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            message = f"unknown key{nearest(str(keys[-1]), _fields_at(model, keys[:-1]))}"
        case "missing":
            wanted = keys[-1:]
            others = [
                str(p["loc"][-1])
                for p in problems
                if p["type"] == "missing" and p["loc"][:-1] == full[:-1] and p is not problem
            ]
            message = f"missing, and so are: {', '.join(others)}" if others else "missing"
        case "union_tag_not_found":
            wanted = [problem["ctx"]["discriminator"].strip("'")]
            keys.append(*wanted)
            message = "missing"
        case "union_tag_invalid":
            keys.append(problem["ctx"]["discriminator"].strip("'"))
            allowed = re.findall(r"'([^']*)'", problem["ctx"]["expected_tags"])
            message = f"'{problem['ctx']['tag']}' is not known{nearest(problem['ctx']['tag'], allowed)}"
        case "literal_error":
            allowed = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
            message = f"'{problem['input']}' is not known{nearest(str(problem['input']), allowed)}"
        case _:
            message = _what_is_wrong(problem)
            # the other branches of a union that allows a word beside a number
            words = [p["ctx"]["expected"] for p in problems if _beside(p, problem)]
            if words and message.startswith("must be"):
                message = message.replace(", got ", f" or {' or '.join(words)}, got ", 1)
    if document is not None:
        path = keys[:-1] if wanted else keys
        keys = [*_keys_in(document, path), *wanted]
    return keys, message


def _beside(one: Any, other: Any) -> bool:
    """Whether ``one`` says which words may stand where ``other`` complains."""
    return bool(one["type"] == "literal_error" and one["loc"][:-1] == other["loc"][:-1])


def _what_is_wrong(problem: Any) -> str:
    """A value of the wrong type or out of range."""
    given, bounds = problem["input"], problem.get("ctx", {})
    match problem["type"]:
        case "model_type" | "dict_type" | "model_attributes_type" | "dataclass_type":
            return "must be a mapping of keys to values"
        case "tuple_type" | "list_type":
            what = "must be a list"
        case "int_type" | "int_parsing" | "int_from_float":
            what = "must be a whole number"
        case "float_type" | "float_parsing":
            what = "must be a number"
        case "bool_type" | "bool_parsing":
            what = "must be true or false"
        case "string_type":
            what = "must be text"
        case "greater_than_equal":
            what = f"must be at least {bounds['ge']:g}"
        case "less_than_equal":
            what = f"must be at most {bounds['le']:g}"
        case "greater_than":
            what = f"must be above {bounds['gt']:g}"
        case "less_than":
            what = f"must be below {bounds['lt']:g}"
        case "finite_number":
            what = "must be finite"
        case "too_short" if bounds["min_length"] == 1:
            return "must not be empty"
        case "value_error":
            return str(problem["msg"]).removeprefix("Value error, ")
        case _:
            text = problem["msg"].replace("Input should be", "must be")
            what = f"{text[0].lower()}{text[1:]}"
    return f"{what}, got {_shown(given)}"


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
