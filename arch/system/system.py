"""Systems as data: units, the memory each holds, and the links between them.

::

    name: two-gpus
    source: where the numbers are from
    units:
      gpu: {kind: processor, processor: a100-80gb, count: 2}
      pim: {kind: pim, device: hbm-pim, channels: 80, count: 2, memory_of: gpu}
      host: {kind: memory, capacity_gb: 512}
      drive: {kind: storage, device: cambricon-llm-s, count: 2, attached_to: gpu}
      fpga: {kind: stream, fpga: u55c, capacity_gb: 16, pipelines: {image: preba-image}}
    links:
      nvlink: {link: nvlink-3, between: [gpu]}
      pcie: {link: pcie-4-x16, between: [gpu, host]}

A unit group of ``count`` n has the instances ``gpu0`` ... ``gpu{n-1}``; one of count 1 is called
``gpu``. ``count: fit`` takes as many as the data need (`neardata.study`
decides how many). A PIM unit that is the ``memory_of`` a processor group lies in that processor's
place: i-th in i-th; ordinary accesses and PIM commands exclude each other there. The channels of a
storage unit end at the processor that it is ``attached_to``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from neardata.arch.config_file import ConfigFile, StrictModel, first_problem
from neardata.arch.dram import Device, load_device
from neardata.arch.errors import InputError, nearest
from neardata.arch.link import Link, load_link
from neardata.arch.processor import Processor, load_processor
from neardata.arch.storage import Ssd, load_ssd
from neardata.arch.storage.ssd import SECTOR
from neardata.arch.stream import Pipeline, load_fpga, load_pipeline

DATA = Path(__file__).parent / "data"
MOST_UNITS = 4096

Count = Annotated[int, Field(ge=1, le=MOST_UNITS)] | Literal["fit"]
RefreshAtTasks = Literal["at-launch", "none"]


class ProcessorUnit(StrictModel):
    """CPUs, GPUs, NPUs, systolic arrays."""

    kind: Literal["processor"]
    processor: str
    """A name of `neardata.arch.processor.processor_names`, or a file."""
    count: Count = 1
    overrides: dict[str, Any] = Field(default_factory=dict)


class PimUnit(StrictModel):
    """Memory with processing units, executing command programs."""

    kind: Literal["pim"]
    device: str
    """A name of `neardata.arch.dram.device_names`, or a file."""
    channels: Annotated[int, Field(ge=1)]
    """Channels (pseudo-channels where the device has them) of an instance."""
    count: Count = 1
    memory_of: str | None = None
    """The processor group whose memory this is."""
    capacity_gb: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Decimal GB of an instance; default: what the device's organisation gives."""
    overrides: dict[str, int] = Field(default_factory=dict)
    refresh: RefreshAtTasks = "at-launch"
    """``at-launch``: a task begins with a refresh pulled in, so that every task finds the same
    state; further ones follow every tREFI. ``none``: no refresh at all, as some simulators have it."""


class MemoryUnit(StrictModel):
    """Memory that only holds data: host DRAM, an SSD."""

    kind: Literal["memory"]
    capacity_gb: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Decimal GB."""
    count: Count = 1


class StorageUnit(StrictModel):
    """Drives whose flash is worked on at the level of its commands."""

    kind: Literal["storage"]
    device: str
    """A name of `neardata.arch.storage.ssd_names`, or a file."""
    count: Count = 1
    attached_to: str | None = None
    """The processor group that the channels lead to, drive by processor: it takes what is read and, while a
    product runs, multiplies what streams out."""
    overrides: dict[str, Any] = Field(default_factory=dict)


class StreamUnit(StrictModel):
    """An FPGA with streaming pipelines, and its memory."""

    kind: Literal["stream"]
    pipelines: Annotated[dict[str, str], Field(min_length=1)]
    """What tasks call each: a name of `neardata.arch.stream.pipeline_names`, or a file."""
    capacity_gb: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Decimal GB of its memory."""
    fpga: str | None = None
    """A name of `neardata.arch.stream.fpga_names`, or a file: all pipelines must fit it together."""
    fidelity: Literal["analytic", "cycle"] = "analytic"
    """Of memory ports: by rate and latency, or request by request."""
    side_by_side: bool = False
    """Each pipeline runs a task at a time, beside the others; otherwise the unit runs one at a time."""
    count: Count = 1
    overrides: dict[str, Any] = Field(default_factory=dict)
    """``{"image.replicas.count": 2}``: a key of a pipeline, behind its name here."""


AnyUnit = ProcessorUnit | PimUnit | MemoryUnit | StorageUnit | StreamUnit
Unit = Annotated[AnyUnit, Field(discriminator="kind")]


class LinkUse(StrictModel):
    """A link: every instance of the groups named has a port on it."""

    link: str
    """A name of `neardata.arch.link.link_names`, or a file."""
    between: Annotated[tuple[str, ...], Field(min_length=1)]
    overrides: dict[str, Any] = Field(default_factory=dict)


class SystemFile(StrictModel):
    """The YAML form of a system."""

    name: str
    source: str
    units: dict[str, Unit]
    links: dict[str, LinkUse] = Field(default_factory=dict)


@dataclass(frozen=True)
class Instance:
    """One unit of a system."""

    name: str
    group: str
    index: int
    place: str
    """Where its data lie: its own name, or that of the processor it is the memory of."""
    capacity_bytes: int


@dataclass(frozen=True)
class System:
    """Units and links, resolved."""

    name: str
    source: str
    units: dict[str, AnyUnit]
    links: dict[str, LinkUse]

    def count(self, group: str) -> int:
        """Instances of a group.

        Raises:
            InputError: the count is still ``fit``.
        """
        n = self.units[group].count
        if n == "fit":
            raise InputError("the number of units is not decided yet: fit", key=f"units.{group}.count")
        return n

    @cached_property
    def instances(self) -> dict[str, Instance]:
        """All units by name."""
        found: dict[str, Instance] = {}
        for group, unit in self.units.items():
            names = self.names(group)
            hosts = names
            if isinstance(unit, PimUnit) and unit.memory_of is not None:
                hosts = self.names(unit.memory_of)
            capacity = self.capacity_bytes(group)
            for i, (name, place) in enumerate(zip(names, hosts, strict=True)):
                found[name] = Instance(name, group, i, place, capacity)
        return found

    def names(self, group: str) -> list[str]:
        """Names of the instances of a group."""
        n = self.count(group)
        return [group] if n == 1 else [f"{group}{i}" for i in range(n)]

    def capacity_bytes(self, group: str) -> int:
        """Bytes an instance of the group holds."""
        unit = self.units[group]
        for other in self.units.values():
            if isinstance(other, PimUnit) and other.memory_of == group:
                unit = other
        if isinstance(unit, ProcessorUnit):
            return self.processor(group).memory.bytes
        if isinstance(unit, StorageUnit):
            return self.drive(group).logical_sectors * SECTOR
        if unit.capacity_gb is not None:  # always, of a memory and of a stream unit
            return round(unit.capacity_gb * 1e9)
        assert isinstance(unit, PimUnit)
        return load_device(unit.device, unit.overrides).capacity_bytes * unit.channels

    @cached_property
    def capacities(self) -> dict[str, int]:
        """Bytes of each place."""
        return {instance.place: instance.capacity_bytes for instance in self.instances.values()}

    def processor(self, group: str) -> Processor:
        """Description of a processor group; its memory is that of the PIM unit, if it has one."""
        unit = self.units[group]
        assert isinstance(unit, ProcessorUnit)
        overrides = dict(unit.overrides)
        memory = self.pim_of(group)
        if memory is not None:
            pim = self.units[memory]
            assert isinstance(pim, PimUnit)
            overrides["memory.gb_per_s"] = self.device(memory).peak_gb_per_s * pim.channels
            overrides["memory.bytes"] = self.capacity_bytes(memory)
        return load_processor(unit.processor, overrides)

    def device(self, group: str) -> Device:
        """Description of a PIM group's device."""
        unit = self.units[group]
        assert isinstance(unit, PimUnit)
        return load_device(unit.device, unit.overrides)

    def drive(self, group: str) -> Ssd:
        """Description of a storage group's drives."""
        unit = self.units[group]
        assert isinstance(unit, StorageUnit)
        return load_ssd(unit.device, unit.overrides)

    def attached(self, name: str) -> str | None:
        """The processor that a drive's channels lead to."""
        instance = self.instances[name]
        unit = self.units[instance.group]
        if not isinstance(unit, StorageUnit) or unit.attached_to is None:
            return None
        return self.names(unit.attached_to)[instance.index]

    def pipeline(self, group: str, name: str) -> Pipeline:
        """A pipeline of a stream group.

        Raises:
            InputError: the group has none of that name.
        """
        unit = self.units[group]
        assert isinstance(unit, StreamUnit)
        if name not in unit.pipelines:
            raise InputError(f"'{group}' has no pipeline '{name}'{nearest(name, unit.pipelines)}")
        own = f"{name}."
        overrides = {k.removeprefix(own): v for k, v in unit.overrides.items() if k.startswith(own)}
        return load_pipeline(unit.pipelines[name], overrides)

    def link(self, name: str) -> Link:
        """Description of a link."""
        return load_link(self.links[name].link, self.links[name].overrides)

    def link_between(self, one: str, other: str) -> str | None:
        """A link on which both groups have ports; of several, the fastest."""
        both = [
            name
            for name, use in self.links.items()
            if one in use.between and other in use.between and (one != other or self.count(one) > 1)
        ]
        return max(both, key=lambda name: self.link(name).gb_per_s, default=None)

    def pim_of(self, group: str) -> str | None:
        """The PIM group that is the memory of a processor group."""
        for name, unit in self.units.items():
            if isinstance(unit, PimUnit) and unit.memory_of == group:
                return name
        return None

    def groups(self, kind: str) -> list[str]:
        """Groups of ``processor``, ``pim``, ``memory``, ``storage`` or ``stream`` units."""
        return [name for name, unit in self.units.items() if unit.kind == kind]

    def to_dict(self) -> dict[str, Any]:
        """As `parse_system` takes it."""
        file = SystemFile(name=self.name, source=self.source, units=self.units, links=self.links)
        return file.model_dump(mode="json", exclude_defaults=True)

    def with_counts(self, **counts: int) -> System:
        """With other numbers of instances."""
        units = {
            name: unit.model_copy(update={"count": counts[name]}) if name in counts else unit
            for name, unit in self.units.items()
        }
        return System(self.name, self.source, units, self.links)


def system_names() -> list[str]:
    """Names of the systems that ship with the package."""
    return sorted(path.stem for path in DATA.glob("*.yaml"))


def load_system(name: str | Path | SystemFile, overrides: dict[str, Any] | None = None) -> System:
    """A system by name, from ``FILE.yaml``, or from its parsed form.

    Args:
        overrides: ``{"units.gpu.count": 4}``: any key of the file.

    Raises:
        InputError: unknown name, key, unit, device, processor or link, with file, line and key.

    >>> load_system("a100").with_counts(gpu=2).names("gpu")
    ['gpu0', 'gpu1']
    """
    if isinstance(name, SystemFile):
        return _resolve(name, None)
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = DATA / f"{name}.yaml"
        if not path.is_file():
            raise InputError(f"unknown system '{name}'{nearest(str(name), system_names())}")
    file = ConfigFile(path)
    data = file.data
    for key, value in (overrides or {}).items():
        data = _changed(data, key.split("."), value, key)
    return _resolve(file.parse(SystemFile, data), file)


def parse_system(data: Any) -> System:
    """A system from a dictionary of the same form.

    Raises:
        InputError: as `load_system`.
    """
    try:
        return _resolve(SystemFile.model_validate(data), None)
    except ValidationError as error:
        keys, message = first_problem(SystemFile, error, data)
        raise InputError(message, key=".".join(map(str, keys)) or None) from None


def _check_stream(system: System, group: str, unit: StreamUnit) -> None:
    for key in unit.overrides:
        if key.partition(".")[0] not in unit.pipelines:
            raise InputError(f"begins with no pipeline{nearest(key, unit.pipelines)}", key=key)
    for name in unit.pipelines:
        system.pipeline(group, name)
    if unit.fpga is not None:
        load_fpga(unit.fpga)


def _changed(data: Any, keys: list[str], value: Any, whole: str) -> Any:
    if not isinstance(data, dict):
        raise InputError("there is no such key", key=whole)
    if len(keys) > 1 and keys[0] not in data:
        raise InputError(f"there is no '{keys[0]}'{nearest(keys[0], map(str, data))}", key=whole)
    inner = value if len(keys) == 1 else _changed(data[keys[0]], keys[1:], value, whole)
    return {**data, keys[0]: inner}


def _resolve(parsed: SystemFile, file: ConfigFile | None) -> System:
    system = System(parsed.name, parsed.source, parsed.units, parsed.links)

    def error(message: str, *keys: str) -> InputError:
        return file.error(message, *keys) if file else InputError(message, key=".".join(keys))

    def placed(
        problem: InputError, keys: tuple[str, ...], names: str, overrides: Collection[object]
    ) -> InputError:
        """The problem of a description, at the override or else at the name that led to it."""
        if problem.file is not None:
            return problem
        if problem.key in overrides:
            return error(problem.message, *keys, "overrides", str(problem.key))
        return error(str(problem), *keys, names)

    # devices first: a processor's memory may be one of them
    for name, unit in sorted(parsed.units.items(), key=lambda item: item[1].kind != "pim"):
        keys = ("units", name)
        try:
            if isinstance(unit, PimUnit):
                system.device(name)
            elif isinstance(unit, StorageUnit):
                system.drive(name)
            elif isinstance(unit, ProcessorUnit):
                system.processor(name)
            elif isinstance(unit, StreamUnit):
                _check_stream(system, name, unit)
        except InputError as problem:
            names = {"pim": "device", "storage": "device", "stream": "pipelines"}.get(unit.kind, "processor")
            overrides = () if isinstance(unit, MemoryUnit) else unit.overrides
            raise placed(problem, keys, names, overrides) from None
        key, partner = "", None
        if isinstance(unit, PimUnit):
            key, partner = "memory_of", unit.memory_of
        elif isinstance(unit, StorageUnit):
            key, partner = "attached_to", unit.attached_to
        if partner is not None:
            host = parsed.units.get(partner)
            if host is None or host.kind != "processor":
                near = nearest(partner, system.groups("processor"))
                raise error(f"'{partner}' is no processor group{near}", *keys, key)
            if host.count != unit.count:
                raise error(f"is {unit.count}, but {partner} has {host.count}", *keys, "count")
    for name, use in parsed.links.items():
        if name in parsed.units:
            raise error("a link and a unit have the same name", "links", name)
        for group in use.between:
            if group not in parsed.units:
                raise error(f"'{group}' is no unit{nearest(group, parsed.units)}", "links", name, "between")
        try:
            system.link(name)
        except InputError as problem:
            raise placed(problem, ("links", name), "link", use.overrides) from None
    return system
