"""``neardata doctor``: what is installed, and whether compiled kernels are kept."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import platform
from pathlib import Path
from typing import Any

import typer

from neardata.cli.options import Json

REQUIRED = ("numpy", "numba", "llvmlite", "pydantic", "PyYAML", "typer", "rich")
OPTIONAL = (
    ("matplotlib", "plots (--plot)", "pip install 'neardata[plot]'"),
    ("pytest", "the tests", "pip install 'neardata[dev]'"),
    ("hypothesis", "the tests", "pip install 'neardata[dev]'"),
)
MISSING = 1


def doctor(as_json: Json = False) -> int:
    """Report versions, the cache of compiled kernels, and optional parts. Exit code 1: something is amiss."""
    state = _state()
    if as_json:
        typer.echo(json.dumps(state, indent=2))
    else:
        _print(state)
    return MISSING if state["problems"] else 0


def _state() -> dict[str, Any]:
    versions = {name: _version(name) for name in ("neardata", *REQUIRED)}
    problems = [f"{name} is not installed" for name, found in versions.items() if found is None]
    cache: dict[str, Any] = {"folders": [], "kernels": 0, "compiled": 0}
    try:
        cache = _kernel_cache()
    except ImportError as error:
        problems.append(f"kernels cannot be loaded: {error}")
    except RuntimeError:  # Numba's, when it finds no folder it may write to
        problems.append("no folder to keep compiled kernels in; set NUMBA_CACHE_DIR to one that is writable")
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "versions": versions,
        "kernel_cache": cache,
        "optional": [
            {"name": name, "for": purpose, "version": _version(name), "get": get}
            for name, purpose, get in OPTIONAL
        ],
        "problems": problems,
    }


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _kernel_cache() -> dict[str, Any]:
    """Where Numba keeps the compiled kernels, and of how many source files it has some."""
    import neardata.sim

    folders: dict[str, None] = {}
    kernels = compiled = 0
    for module in pkgutil.walk_packages(neardata.sim.__path__, "neardata.sim."):
        if not module.name.endswith("_kernel"):
            continue
        kernels += 1
        loaded = importlib.import_module(module.name)
        source = Path(loaded.__file__ or "")
        kept = (f.stats.cache_path for f in vars(loaded).values() if hasattr(f, "py_func"))
        paths = {Path(path) for path in kept if path}
        entries = [entry for path in paths for entry in path.glob(f"{source.stem}.*.nbi")]
        folders.update(dict.fromkeys(map(str, paths)))
        # an entry older than the source is compiled anew
        compiled += any(entry.stat().st_mtime >= source.stat().st_mtime for entry in entries)
    return {"folders": list(folders), "kernels": kernels, "compiled": compiled}


def _print(state: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("python", f"{state['python']}, {state['platform']}, {state['processors']} processors")
    for name, found in state["versions"].items():
        table.add_row(name, found or "[red]missing[/red]")
    cache = state["kernel_cache"]
    warmth = (
        "warm"
        if cache["compiled"] == cache["kernels"]
        else "cold"
        if not cache["compiled"]
        else "partly warm"
    )
    table.add_row(
        "kernel cache", f"{warmth}: {cache['compiled']} of {cache['kernels']} kernel files compiled"
    )
    for folder in cache["folders"]:
        table.add_row("", folder)
    for part in state["optional"]:
        found = part["version"] or f"not installed; for {part['for']}: {part['get']}".replace("[", "\\[")
        table.add_row(part["name"], found)
    console.print(table)
    for problem in state["problems"]:
        console.print(f"[red]problem[/red]: {problem}")
    if not state["problems"]:
        console.print("All is well.")
