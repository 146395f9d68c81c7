"""The examples in docstrings say what happens."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import neardata.workloads

MODULES = [name for _, name, _ in pkgutil.walk_packages(neardata.workloads.__path__, "neardata.workloads.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS).failed == 0


def test_examples_are_found() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    with_examples = {
        name for name in MODULES if any(t.examples for t in finder.find(importlib.import_module(name)))
    }
    assert with_examples >= {
        f"neardata.workloads.{name}"
        for name in (
            "requests",
            "semantics",
            "llm.model",
            "llm.decoder",
            "llm.routing",
            "llm.speculation",
        )
    }
