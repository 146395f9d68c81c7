"""Links by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from neardata.arch.link.link import Link
from neardata.arch.preset_file import PresetFolder

_PRESETS: PresetFolder[Link] = PresetFolder(
    Path(__file__).parent / "data",
    "links",
    "link",
    {kind: Link for kind in get_args(Link.model_fields["kind"].annotation)},
)


def link_names() -> list[str]:
    """Names of the links that ship with the package.

    >>> "nvlink-4" in link_names()
    True
    """
    return list(_PRESETS.shipped)


def load_link(name: str, overrides: Mapping[str, Any] | None = None) -> Link:
    """A link by name, or ``FILE.yaml[:NAME]`` for a file of one's own.

    Args:
        name: a name of `link_names`, or the path of a YAML file of the same form.
        overrides: ``{"gb_per_s": 32, "latency_ns.value": 500}``.

    Raises:
        InputError: unknown name or key, a value that cannot be.

    >>> load_link("nvlink-3").sharing
    'exclusive'
    >>> load_link("pcie-5", {"latency_ns.value": 1000}).latency_ns.value
    1000.0
    """
    return _PRESETS.load(name, overrides)
