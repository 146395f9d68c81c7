"""Pipelines and FPGAs by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neardata.arch.config_file import ConfigFile
from neardata.arch.errors import InputError
from neardata.arch.preset_file import PresetFolder
from neardata.arch.stream.fpga import Fpga
from neardata.arch.stream.pipeline import Pipeline

_DATA = Path(__file__).parent / "data"
_PIPELINES: PresetFolder[Pipeline] = PresetFolder(
    _DATA / "pipelines", "pipelines", "pipeline", {"pipeline": Pipeline}
)
_FPGAS: PresetFolder[Fpga] = PresetFolder(_DATA / "fpgas", "fpgas", "FPGA", {"fpga": Fpga})


def pipeline_names() -> list[str]:
    """Names of the pipelines that ship with the package.

    >>> "presto-log" in pipeline_names()
    True
    """
    return list(_PIPELINES.shipped)


def load_pipeline(name: str, overrides: Mapping[str, Any] | None = None) -> Pipeline:
    """A pipeline by name, or ``FILE.yaml[:NAME]`` for a file of one's own.

    Args:
        name: a name of `pipeline_names`, or the path of a YAML file of the same form.
        overrides: ``{"stages.log.timing.lanes": 4, "replicas.count": 2}``.

    Raises:
        InputError: unknown name or key, a value that cannot be.

    >>> load_pipeline("presto-log", {"replicas.count": 3}).replicas.count
    3
    """
    try:
        return _PIPELINES.load(name, overrides)
    except InputError as error:
        raise _placed(error) from None


def _placed(error: InputError) -> InputError:
    """Problems between parts of a pipeline begin with a key inside it: put the file's line to it."""
    inside, colon, message = error.message.partition(": ")
    if error.file is None or error.key is None or not colon or " " in inside or "." not in inside:
        return error
    keys = [*error.key.split("."), *inside.split(".")]
    return ConfigFile(Path(error.file)).error(message, *keys)


def fpga_names() -> list[str]:
    """Names of the FPGAs that ship with the package.

    >>> "u55c" in fpga_names()
    True
    """
    return list(_FPGAS.shipped)


def load_fpga(name: str, overrides: Mapping[str, Any] | None = None) -> Fpga:
    """An FPGA by name, or ``FILE.yaml[:NAME]``.

    Args:
        overrides: ``{"dsp.value": 2000}``.

    Raises:
        InputError: as `load_pipeline`.
    """
    return _FPGAS.load(name, overrides)
