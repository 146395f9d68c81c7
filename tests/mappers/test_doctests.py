"""The examples in docstrings say what happens."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import neardata.mappers

MODULES = [name for _, name, _ in pkgutil.walk_packages(neardata.mappers.__path__, "neardata.mappers.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
