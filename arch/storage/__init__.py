"""Solid-state drives: what they are."""

from neardata.arch.storage.attention import AttentionEngine
from neardata.arch.storage.compute import DieCompute
from neardata.arch.storage.flash import Bus, Ecc, Flash
from neardata.arch.storage.loader import load_ssd, ssd_names
from neardata.arch.storage.ssd import Cache, Compat, Controller, Energy, Gc, HostLink, Mapping, Ssd
from neardata.arch.storage.tiles import balanced_columns, multiplying_gb_per_s, page_weights, share_of_dies

__all__ = [
    "AttentionEngine",
    "Bus",
    "Cache",
    "Compat",
    "Controller",
    "DieCompute",
    "Ecc",
    "Energy",
    "Flash",
    "Gc",
    "HostLink",
    "Mapping",
    "Ssd",
    "balanced_columns",
    "load_ssd",
    "multiplying_gb_per_s",
    "page_weights",
    "share_of_dies",
    "ssd_names",
]
