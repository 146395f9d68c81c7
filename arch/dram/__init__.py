"""DRAM and PIM devices as data: standards, presets, address mappings."""

from neardata.arch.dram.device import Device, TimingRule, device_names, load_device

__all__ = ["Device", "TimingRule", "device_names", "load_device"]
