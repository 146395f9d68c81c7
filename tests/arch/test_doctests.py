"""The examples in docstrings say what happens."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import neardata.arch

MODULES = [name for _, name, _ in pkgutil.walk_packages(neardata.arch.__path__, "neardata.arch.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS).failed == 0


def test_examples_are_found() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    with_examples = {
        name for name in MODULES if any(t.examples for t in finder.find(importlib.import_module(name)))
    }
    assert with_examples >= {
        f"neardata.arch.{name}" for name in ("errors", "dram.expression", "dram.loader", "dram.mapping")
    }
