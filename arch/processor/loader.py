"""Processors by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neardata.arch.errors import InputError
from neardata.arch.preset_file import PresetFolder
from neardata.arch.processor.processor import Processor, SystolicArray

_PRESETS: PresetFolder[Processor | SystolicArray] = PresetFolder(
    Path(__file__).parent / "data",
    "processors",
    "processor",
    {"gpu": Processor, "cpu": Processor, "npu": Processor, "systolic": SystolicArray},
)


def processor_names() -> list[str]:
    """Names of the processors and arrays that ship with the package.

    >>> "h100-sxm" in processor_names()
    True
    """
    return list(_PRESETS.shipped)


def load_any(name: str, overrides: Mapping[str, Any] | None = None) -> Processor | SystolicArray:
    """A processor or a systolic array, by name or ``FILE.yaml[:NAME]``; see `load_processor`."""
    return _PRESETS.load(name, overrides)


def load_processor(name: str, overrides: Mapping[str, Any] | None = None) -> Processor:
    """A processor by name, or ``FILE.yaml[:NAME]`` for a file of one's own.

    Args:
        name: a name of `processor_names`, or the path of a YAML file of the same form.
        overrides: ``{"memory.gb_per_s": 3000, "efficiency.matrix.value": 0.9}``.

    Raises:
        InputError: unknown name or key, a value that cannot be, a systolic array.

    >>> load_processor("a100-80gb").memory.gb_per_s
    2039.0
    >>> load_processor("a100-80gb", {"compute.units": 54}).compute.units
    54
    """
    found = load_any(name, overrides)
    if not isinstance(found, Processor):
        raise InputError(f"'{name}' is a systolic array, not a roofline; load it with load_systolic")
    return found


def load_systolic(name: str, overrides: Mapping[str, Any] | None = None) -> SystolicArray:
    """A systolic array by name or ``FILE.yaml[:NAME]``; see `load_processor`.

    >>> load_systolic("systolic-32", {"columns": 64}).columns
    64
    """
    found = load_any(name, overrides)
    if not isinstance(found, SystolicArray):
        raise InputError(f"'{name}' is not a systolic array; load it with load_processor")
    return found
