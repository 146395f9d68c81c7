"""The examples in docstrings say what happens."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["attention", "cost", "roofline", "systolic"])
def test_examples(module: str) -> None:
    found = importlib.import_module(f"neardata.sim.processor.{module}")
    assert doctest.testmod(found, optionflags=doctest.ELLIPSIS).failed == 0
