"""Systems: units, memories and the links between them."""

from neardata.arch.system.system import (
    Instance,
    LinkUse,
    MemoryUnit,
    PimUnit,
    ProcessorUnit,
    StorageUnit,
    StreamUnit,
    System,
    load_system,
    parse_system,
    system_names,
)

__all__ = [
    "Instance",
    "LinkUse",
    "MemoryUnit",
    "PimUnit",
    "ProcessorUnit",
    "StorageUnit",
    "StreamUnit",
    "System",
    "load_system",
    "parse_system",
    "system_names",
]
