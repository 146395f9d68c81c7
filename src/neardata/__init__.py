"""Cycle-level simulator of near-data accelerators.

The names below load their modules when first used, so that importing the package is quick.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "InputError": "neardata.arch.errors",
    "load_device": "neardata.arch.dram",
    "device_names": "neardata.arch.dram",
    "load_profile": "neardata.sim.dram.config",
    "profile_names": "neardata.sim.dram.config",
    "open_trace": "neardata.sim.dram.trace",
    "RequestChunk": "neardata.sim.dram.trace",
    "simulate": "neardata.sim.dram.request",
    "load_system": "neardata.arch.system",
    "system_names": "neardata.arch.system",
    "load_model": "neardata.workloads.llm.model",
    "model_names": "neardata.workloads.llm.model",
    "llm": "neardata.workloads.llm.decoder",
    "Mapping": "neardata.mappers.mapping",
    "lower": "neardata.api",
    "run": "neardata.api",
    "Program": "neardata.sim.program",
    "load_study": "neardata.study",
    "reproduce": "neardata.reproduction",
}

__all__ = [*_HOME, "__version__"]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("neardata")
        except PackageNotFoundError:
            return "0+unknown"
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'neardata' has no attribute '{name}'")
