"""DRAM and PIM devices as data: standards, presets, address mappings."""

from neardata.arch.dram.device import Device, TimingRule
from neardata.arch.dram.loader import device_names, load_device
from neardata.arch.dram.mapping import AddressMapping, load_mapping, mapping_names

__all__ = [
    "AddressMapping",
    "Device",
    "TimingRule",
    "device_names",
    "load_device",
    "load_mapping",
    "mapping_names",
]
