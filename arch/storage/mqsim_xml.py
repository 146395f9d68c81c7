"""MQSim's ``ssdconfig.xml`` as a drive."""

from __future__ import annotations

import xml.sax
import xml.sax.handler
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from neardata.arch.config_file import first_problem
from neardata.arch.errors import InputError, nearest
from neardata.arch.preset_file import lay
from neardata.arch.storage.ssd import Ssd

_TECHNOLOGIES = {"SLC": "slc", "MLC": "mlc", "TLC": "tlc"}
_SUSPENDS = {"NONE": "none", "PROGRAM": "program", "ERASE": "erase", "PROGRAM_ERASE": "both"}
_POLICIES = {"GREEDY": "greedy", "RGA": "d-choices", "FIFO": "fifo"}
_BOOLEANS = {"true": True, "false": False}

_IGNORED = {
    "SATA_Processing_Delay", "Enable_ResponseTime_Logging", "ResponseTime_Logging_Period_Length", "Seed",
    "IO_Queue_Depth", "Caching_Mechanism", "Data_Cache_Sharing_Mode", "CMT_Sharing_Mode", "GC_Hard_Threshold",
    "Preferred_suspend_erase_time_for_write", "Enabled_Preconditioning", "Dynamic_Wearleveling_Enabled",
}  # fmt: skip
"""Known, and without effect here."""
_ONLY = {
    "Memory_Type": "FLASH",
    "HostInterface_Type": "NVME",
    "Address_Mapping": "PAGE_LEVEL",
    "Flash_Comm_Protocol": "NVDDR2",
}
"""Known, with the one value that is supported."""
_PLACES = {
    "PCIe_Lane_Bandwidth": "host.lane_gb_per_s",
    "PCIe_Lane_Count": "host.lanes",
    "Queue_Fetch_Size": "controller.fetch",
    "Data_Cache_Capacity": "cache.bytes",
    "Data_Cache_DRAM_Row_Size": "cache.row_bytes",
    "Data_Cache_DRAM_Data_Rate": "cache.mt_per_s",
    "Data_Cache_DRAM_Data_Busrt_Size": "cache.bus_bytes",
    "Data_Cache_DRAM_tRCD": "cache.t_rcd",
    "Data_Cache_DRAM_tCL": "cache.t_cl",
    "Data_Cache_DRAM_tRP": "cache.t_rp",
    "CMT_Capacity": "mapping.cached_bytes",
    "Plane_Allocation_Scheme": "mapping.allocation",
    "Overprovisioning_Ratio": "mapping.over_provisioning",
    "GC_Exec_Threshold": "gc.threshold",
    "Use_Copyback_for_GC": "gc.copyback",
    "Flash_Channel_Count": "flash.channels",
    "Flash_Channel_Width": "bus.width_bits",
    "Channel_Transfer_Rate": "bus.mt_per_s",
    "Chip_No_Per_Channel": "flash.chips_per_channel",
    "Block_Erase_Latency": "flash.erase_ns",
    "Block_PE_Cycles_Limit": "flash.erase_cycles",
    "Suspend_Erase_Time": "flash.suspend_erase_ns",
    "Suspend_Program_Time": "flash.suspend_program_ns",
    "Preferred_suspend_erase_time_for_read": "flash.suspend_erase_left_ns",
    "Preferred_suspend_write_time_for_read": "flash.suspend_program_left_ns",
    "Die_No_Per_Chip": "flash.dies_per_chip",
    "Plane_No_Per_Die": "flash.planes_per_die",
    "Block_No_Per_Plane": "flash.blocks_per_plane",
    "Page_No_Per_Block": "flash.pages_per_block",
    "Page_Capacity": "flash.page_bytes",
    "Page_Metadat_Capacity": "flash.spare_bytes",
}
_NAMED: dict[str, tuple[str | None, dict[str, Any] | None]] = {
    "Flash_Technology": ("flash.technology", _TECHNOLOGIES),
    "CMD_Suspension_Support": ("flash.suspend", _SUSPENDS),
    "GC_Block_Selection_Policy": ("gc.policy", _POLICIES),
    "Preemptible_GC_Enabled": ("gc.first", {"true": False, "false": True}),
    "Ideal_Mapping_Table": ("mapping.table", {"true": "ideal", "false": "cached"}),
    "Transaction_Scheduling_Policy": (None, {"PRIORITY_OUT_OF_ORDER": None, "OUT_OF_ORDER": None}),
    "Static_Wearleveling_Enabled": (None, {"true": True, "false": False}),
    "Static_Wearleveling_Threshold": (None, None),
}
_TIMES = [f"Page_{what}_Latency_{kind}" for what in ("Read", "Program") for kind in ("LSB", "CSB", "MSB")]
_GROUPS = {
    "Execution_Parameter_Set", "Host_Parameter_Set", "Device_Parameter_Set", "Flash_Parameter_Set",
}  # fmt: skip


class _Values(xml.sax.handler.ContentHandler):
    """Text and line of each element that holds no others."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self.values: dict[str, tuple[str, int]] = {}
        self._text, self._line = "", 0

    def setDocumentLocator(self, locator: Any) -> None:
        self._locator = locator

    def startElement(self, name: str, attrs: Any) -> None:
        self._text, self._line = "", self._locator.getLineNumber()
        if name in _GROUPS:
            return
        known = {*_PLACES, *_NAMED, *_ONLY, *_IGNORED, *_TIMES}
        if name not in known:
            raise InputError(f"unknown key{nearest(name, known)}", file=self.file, line=self._line, key=name)
        if name in self.values:
            raise InputError("given twice", file=self.file, line=self._line, key=name)

    def characters(self, content: str) -> None:
        self._text += content

    def endElement(self, name: str) -> None:
        if name not in _GROUPS:
            self.values[name] = (self._text.strip(), self._line)


def read_mqsim_xml(path: Path, overrides: Mapping[str, Any]) -> Ssd:
    """A drive from MQSim's XML; what a file leaves out is as in the preset ``mqsim-c0``.

    Args:
        overrides: laid over it, as `neardata.arch.storage.load_ssd` takes them.

    Raises:
        InputError: unreadable file, an unknown key (with its line), a value that cannot be or is not
        supported."""
    from neardata.arch.storage.loader import load_ssd

    handler = _Values(path)
    try:
        with path.open("rb") as stream:
            xml.sax.parse(stream, handler)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    except xml.sax.SAXParseException as error:
        raise InputError(
            f"not valid XML: {error.getMessage()}", file=path, line=error.getLineNumber()
        ) from None
    values = handler.values
    data = load_ssd("mqsim-c0").model_dump()
    data |= {"name": path.stem, "title": "read from MQSim's XML", "source": str(path)}
    times: dict[str, list[float]] = {"Read": [], "Program": []}
    places: dict[str, str] = {}
    for name, (text, line) in values.items():

        def wrong(message: str, name: str = name, line: int = line) -> InputError:
            return InputError(message, file=path, line=line, key=name)

        if name in _ONLY:
            if text != _ONLY[name]:
                raise wrong(f"'{text}' is not supported; only {_ONLY[name]}")
        elif name in _NAMED:
            place, known = _NAMED[name]
            if known is not None and text not in known:
                raise wrong(f"'{text}' is not known{nearest(text, known)}")
            if place is not None and known is not None:
                places[place] = name
                lay(data, place, known[text], path.stem)
        elif name in _TIMES:
            times[name.split("_")[1]].append(_number(text, wrong))
        elif name in _PLACES:
            places[_PLACES[name]] = name
            value: Any = text if name == "Plane_Allocation_Scheme" else _BOOLEANS.get(text)
            if value is None:
                value = _number(text, wrong)
                if name == "Flash_Channel_Width":
                    value *= 8
            lay(data, _PLACES[name], value, path.stem)
    kinds = {"slc": 1, "mlc": 2, "tlc": 3}[data["flash"]["technology"]]
    for key, what in (("read_ns", "Read"), ("program_ns", "Program")):
        if times[what]:
            data["flash"][key] = times[what][:kinds]
    if data["flash"]["technology"] == "tlc":
        data["flash"]["page_types"] = "yaakobi"
    text, line = values.get("Static_Wearleveling_Threshold", ("100", 0))
    levels = values.get("Static_Wearleveling_Enabled", ("true", 0))[0] == "true"

    def no_gap(message: str) -> InputError:
        return InputError(message, file=path, line=line, key="Static_Wearleveling_Threshold")

    gap, least = _number(text, no_gap), 1 if levels else 0
    if not isinstance(gap, int) or gap < least:
        raise no_gap(f"must be a whole number of at least {least}, got {text}")
    data["gc"]["wear_gap"] = gap if levels else 0
    for key, value in overrides.items():
        lay(data, key, value, path.stem)
    try:
        return TypeAdapter(Ssd).validate_python(data)
    except ValidationError as failure:
        keys, message = first_problem(Ssd, failure, data)
        key = ".".join(map(str, keys))
        name = places.get(key, "")
        if name and key not in overrides:
            raise InputError(message, file=path, line=values[name][1], key=name) from None
        raise InputError(message, key=key, file=None if key in overrides else path) from None


def _number(text: str, wrong: Callable[[str], InputError]) -> float:
    try:
        value = float(text)
    except ValueError:
        raise wrong(f"must be a number, got '{text}'") from None
    if not isfinite(value):
        raise wrong(f"must be a finite number, got '{text}'")
    return int(value) if value == int(value) else value
