"""Drives by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neardata.arch.preset_file import PresetFolder
from neardata.arch.storage.ssd import Ssd

_PRESETS: PresetFolder[Ssd] = PresetFolder(Path(__file__).parent / "data", "ssds", "drive", {"ssd": Ssd})


def ssd_names() -> list[str]:
    """Names of the drives that ship with the package.

    >>> "cambricon-llm-s" in ssd_names()
    True
    """
    return list(_PRESETS.shipped)


def load_ssd(name: str, overrides: Mapping[str, Any] | None = None) -> Ssd:
    """A drive by name, by ``FILE.yaml[:NAME]``, or from MQSim's ``ssdconfig.xml``.

    Args:
        name: a name of `ssd_names`, or a file.
        overrides: ``{"bus.mt_per_s": 1200, "flash.cache_read": True}``.

    Raises:
        InputError: unknown name or key, a value that cannot be.

    >>> load_ssd("mqsim-c0").flash.channels
    8
    >>> load_ssd("mqsim-c1", {"bus.mt_per_s": 0})
    Traceback (most recent call last):
    ...
    neardata.arch.errors.InputError: bus.mt_per_s: must be above 0, got 0
    """
    if name.endswith(".xml"):
        from neardata.arch.storage.mqsim_xml import read_mqsim_xml

        return read_mqsim_xml(Path(name), overrides or {})
    return _PRESETS.load(name, overrides)
