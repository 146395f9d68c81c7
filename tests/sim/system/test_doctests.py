"""The examples in docstrings say what happens."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import neardata.sim.system

MODULES = [name for _, name, _ in pkgutil.walk_packages(neardata.sim.system.__path__, "neardata.sim.system.")]

MODULES += [
    f"neardata.sim.dram.{name}"
    for name in (
        "steps",
        "aim_matmul",
        "hbm_pim_matmul",
        "attacc_matmul",
        "aim_attention",
        "hbm_pim_attention",
    )
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
