"""Solid-state drives: what they are."""

from neardata.arch.storage.flash import Bus, Ecc, Flash
from neardata.arch.storage.loader import load_ssd, ssd_names
from neardata.arch.storage.ssd import Cache, Compat, Controller, Energy, Gc, HostLink, Mapping, Ssd

__all__ = [
    "Bus",
    "Cache",
    "Compat",
    "Controller",
    "Ecc",
    "Energy",
    "Flash",
    "Gc",
    "HostLink",
    "Mapping",
    "Ssd",
    "load_ssd",
    "ssd_names",
]
