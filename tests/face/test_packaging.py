"""The package: what is installed is what the tree holds."""

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

import neardata.cli

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = SETTINGS["tool"]["setuptools"]


def folder_of(package):
    """Where a package's files lie: the folder of its nearest mapped parent, and on from there."""
    below = []
    while package not in SETUPTOOLS["package-dir"]:
        package, _, last = package.rpartition(".")
        below.insert(0, last)
    return ROOT.joinpath(SETUPTOOLS["package-dir"][package], *below)


def packages_in(name):
    top = folder_of(name)
    yield name
    for init in top.rglob("__init__.py"):
        if init.parent != top:
            yield ".".join([name, *init.parent.relative_to(top).parts])


def test_the_packages_are_those_of_the_tree():
    found = {package for name in SETUPTOOLS["package-dir"] for package in packages_in(name)}
    assert sorted(SETUPTOOLS["packages"]) == sorted(found)


def test_every_module_lies_in_a_package():
    for name in SETUPTOOLS["package-dir"]:
        for module in folder_of(name).rglob("*.py"):
            assert (module.parent / "__init__.py").exists(), f"{module} is not installed"


def test_every_data_file_is_installed():
    for package in SETUPTOOLS["packages"]:
        patterns = SETUPTOOLS["package-data"].get(package, [])
        folder = folder_of(package)
        for file in folder.rglob("*"):
            inside = file.relative_to(folder)
            made_by_tools = any(part.startswith((".", "__pycache__")) for part in inside.parts)
            in_subpackage = any(
                (folder / parent / "__init__.py").exists() for parent in list(inside.parents)[:-1]
            )
            if file.is_file() and file.suffix != ".py" and not made_by_tools and not in_subpackage:
                assert any(fnmatch(inside.as_posix(), p) for p in patterns), f"{file} is not installed"


def test_the_rooms_import_downwards():
    """What hardware is, what work is and how hardware behaves stay apart.

    Workloads take from ``arch`` only what describes no hardware: how input is read, how it is
    refused, and number formats.
    """
    allowed = {
        "arch": {"arch"},
        "workloads": {"workloads", "arch.errors", "arch.config_file", "arch.preset_file", "arch.precision"},
        "sim": {"sim", "arch"},
        "mappers": {"mappers", "arch", "workloads", "sim"},
    }
    for room, rooms in allowed.items():
        for module in (ROOT / room).rglob("*.py"):
            for line in module.read_text().splitlines():
                words = line.split()
                if len(words) > 1 and words[0] in ("from", "import") and words[1].startswith("neardata."):
                    parts = words[1].split(".")[1:]
                    assert parts[0] in rooms or ".".join(parts[:2]) in rooms, f"{module}: {line.strip()}"


FOR_MAPPERS = {
    "neardata.sim.program": "the contract",
    "neardata.sim.system.pim_programs": "what a PIM device can do, and its command programs",
    "neardata.sim.system.pim": "times of products in memory, for the search",
    "neardata.sim.system.flash_programs": "pages of matrices on the dies of a drive",
    "neardata.sim.system.flash_attention": "pages of keys and values on a drive",
    "neardata.sim.dram.program": "command programs, to be run on data",
    "neardata.sim.dram.aim_matmul": "rows of matrices and vectors in the banks",
    "neardata.sim.dram.aim_attention": "orders of visits",
    "neardata.sim.dram.attacc_matmul": "rows of matrices in the banks",
    "neardata.sim.dram.hbm_pim": "rows of matrices in the banks",
}
"""Modules of ``sim`` that mappers import, and for what."""


def is_module(name):
    return ROOT.joinpath(*name.split(".")[1:]).with_suffix(".py").exists()


def test_mappers_import_of_the_simulation_what_is_listed():
    found = set()
    for module in (ROOT / "mappers").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("neardata.sim"):
                for name in node.names:  # a module, or what is in one
                    inside = f"{node.module}.{name.name}"
                    found.add(inside if is_module(inside) else node.module)
            elif isinstance(node, ast.Import):
                found |= {n.name for n in node.names if n.name.startswith("neardata.sim")}
    assert found == set(FOR_MAPPERS)


def test_mappers_know_no_timings():
    """What takes how long is worked out in ``sim``: mappers ask for it."""
    timings = {"tick_ps", "timing", "ticks", "peak_gb_per_s", "macs_per_cycle", "gb_per_s", "least_cycles"}
    for module in (ROOT / "mappers").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(module.read_text())))
        names = {getattr(node, "attr", getattr(node, "id", None)) for node in nodes}
        assert not names & timings, f"{module}: {names & timings}"


def test_numba_is_imported_by_kernels_only():
    for room in ("arch", "sim", "workloads", "src"):
        for module in (ROOT / room).rglob("*.py"):
            if not module.stem.endswith("_kernel"):
                lines = module.read_text().splitlines()
                assert not [line for line in lines if line.startswith(("import numba", "from numba"))], module


def test_descriptions_and_traces_need_no_numba():
    program = (
        "import sys, neardata, neardata.arch.dram, neardata.sim.dram.trace, neardata.workloads.patterns; "
        "neardata.load_device('ddr4-2400r'); sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


MODULES = [
    "neardata.plots",
    *(module.name for module in pkgutil.iter_modules(neardata.cli.__path__, "neardata.cli.")),
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
