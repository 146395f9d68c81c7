"""Units that prepare data for training, as a system and the roles of its parts.

Data lie in ``storage`` as Parquet pages; ``worker`` asks for them; they come over ``read_link`` to the memory
of ``compute``, are prepared there, and leave over ``out_link`` to the ``trainer``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from neardata.arch.config_file import StrictModel
from neardata.arch.errors import InputError, nearest
from neardata.arch.preset_file import PresetFolder
from neardata.arch.processor.processor import Constant
from neardata.arch.system import System, load_system

Whole = Annotated[int, Field(ge=1)]


class Preprocessor(StrictModel):
    """A unit that prepares data for training.

    >>> load_preprocessor("smartssd").pipelines["sigrid_hash"]
    'sigridhash'
    """

    name: str
    kind: Literal["isp", "fpga", "cpu", "gpu"]
    """``isp``: in the drive that holds the data; ``fpga``: a card that data come to."""
    title: str
    system: str
    """A name of `neardata.arch.system.system_names`, or a file."""
    storage: str = "storage"
    """Group that holds the pages."""
    worker: str
    """Processor group that asks for pages: a request at a time."""
    compute: str
    """Group in whose memory data are prepared: a stream unit, or a processor."""
    trainer: str = "trainer"
    """Group that prepared data go to."""
    read_link: str
    out_link: str
    pipelines: dict[str, str] = Field(default_factory=dict)
    """Kind of operator: pipeline of ``compute``; empty: a processor runs all of them by ``actions``."""
    passing: tuple[str, ...] = ()
    """Kinds of operators that happen on the way into or out of a pipeline, in no time of their own."""
    in_flight: Whole
    """Mini-batches under way at a time, each with a worker of its own."""
    page_bytes: Whole = 4096
    """Of the host's memory management: pages are made ready for a request before it is sent."""
    request_bytes: Whole = 1 << 20
    """Most that pages are made ready for before a request is sent: Linux's BIO_MAX_VECS of 256 pages."""
    id_bytes: Constant
    """Of an id on its way to the trainer."""
    power_w: Constant
    """Of the whole unit at work."""
    drive: str | None = None
    """The drive of an ``isp`` unit, a name of `neardata.arch.storage.ssd_names` or a file: columns are laid
    over its channels and dies; its time is in the link and the worker's requests."""
    source: str

    def load_system(self, overrides: Mapping[str, Any] | None = None) -> System:
        """The system, with as many workers as there are mini-batches under way.

        Raises:
            InputError: as `neardata.arch.system.load_system`; a group or link that the system lacks.
        """
        system = load_system(self.system, dict(overrides or {}))
        for key in ("storage", "worker", "compute", "trainer", "read_link", "out_link"):
            name, there = getattr(self, key), system.links if key.endswith("link") else system.units
            if name not in there:
                what = "link" if key.endswith("link") else "group"
                raise InputError(
                    f"'{name}' is no {what} of {system.name}{nearest(name, there)}",
                    key=f"preprocessors.{self.name}.{key}",
                )
        counts = {self.worker: self.in_flight}
        return system.with_counts(**counts)


_PRESETS: PresetFolder[Preprocessor] = PresetFolder(
    Path(__file__).parent / "data", "preprocessors", "preprocessing unit",
    {kind: Preprocessor for kind in ("isp", "fpga", "cpu", "gpu")},
)  # fmt: skip


def preprocessor_names() -> list[str]:
    """Names of the units that ship with the package.

    >>> preprocessor_names()
    ['smartssd', 'u280', 'cpu', 'gpu']
    """
    return list(_PRESETS.shipped)


def load_preprocessor(name: str, overrides: Mapping[str, Any] | None = None) -> Preprocessor:
    """A unit by name, or ``FILE.yaml[:NAME]``.

    Raises:
        InputError: unknown name or key, a value that cannot be; with file and line.
    """
    return _PRESETS.load(name, overrides)
