"""Run graphs and programs on systems from Python: `lower` and `run`."""

from __future__ import annotations

from collections.abc import Sequence

from neardata.arch.errors import InputError
from neardata.arch.system import System, load_system
from neardata.mappers import lower as _lower
from neardata.mappers.mapping import Mapping
from neardata.sim.program import Program
from neardata.sim.system import engine
from neardata.sim.system.engine import Costs
from neardata.sim.system.report import SystemReport
from neardata.workloads.graph import Graph


def lower(
    graph: Graph | Sequence[Graph],
    system: System | str,
    mapping: Mapping | None = None,
    costs: Costs | None = None,
) -> Program:
    """Place a graph on a system.

    Args:
        graph: or one graph per micro-batch.
        system: or its name.
        mapping: default: everything where it is fastest, split over all units.
        costs: of kernels, to share between runs.

    Raises:
        InputError: the mapping does not fit the system.
    """
    system = _settled(system)
    costs = costs or Costs(system)
    return _lower.lower(graph, system, mapping or Mapping(), lambda g, kernel: costs.of(g, kernel).time_ps)


def run(
    what: Graph | Sequence[Graph] | Program, system: System | str, mapping: Mapping | None = None
) -> SystemReport:
    """Run a graph, or a program it was lowered to, on a system.

    Raises:
        InputError: data that do not fit, a mapping or a program that does not suit the system.

    >>> import neardata as nd
    >>> graph = nd.llm(nd.load_model("mixtral-8x7b"), batch=16, context=1024, layers=2)
    >>> report = nd.run(graph, nd.load_system("a100", {"units.gpu.count": 2}))
    >>> report.time_ps == sum(report.reasons_ps.values())
    True
    >>> report.parts()[0].name
    'attention'
    """
    system = _settled(system)
    costs = Costs(system)
    program = what if isinstance(what, Program) else lower(what, system, mapping, costs)
    return engine.run(program, system, costs=costs)


def _settled(system: System | str) -> System:
    """A system whose numbers of units are known."""
    system = load_system(system) if isinstance(system, str) else system
    open_groups = [group for group, unit in system.units.items() if unit.count == "fit"]
    if open_groups:
        counts = ", ".join(f"{group}=1" for group in open_groups)
        raise InputError(
            f"say how many units: load_system('{system.name}').with_counts({counts}); studies take what fits",
            key=f"units.{open_groups[0]}.count",
        )
    return system
