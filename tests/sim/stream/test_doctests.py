"""The examples in docstrings say what happens."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import neardata.sim.stream

MODULES = [name for _, name, _ in pkgutil.walk_packages(neardata.sim.stream.__path__, "neardata.sim.stream.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS).failed == 0
