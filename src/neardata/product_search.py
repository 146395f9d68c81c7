"""Searches for the forms of a lowered program's products in memory: `searches`, `forms_yaml`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from neardata.arch.precision import Format
from neardata.arch.system import PimUnit, System
from neardata.cli.quantities import si_time
from neardata.mappers.product_choice import Found, find, reduction_cost
from neardata.mappers.products import ProductForm, kind_of
from neardata.mappers.search import Candidate
from neardata.product_nest import product_nest
from neardata.sim.program import PimMatMul, Program
from neardata.sim.system.engine import Costs

RESULTS = Format("bf16")
"""What memories multiply has 16 bits, and so have the sums that are written."""
SHOWN = 4
"""Forms shown after the best."""


@dataclass(frozen=True)
class ProductSearch:
    """The products of one kind of operator, in one step of a program."""

    operator: str
    """Without layer: ``experts.down``."""
    group: str
    """The PIM memories."""
    found: Found
    given_ps: int
    """Time as the program has them."""

    @property
    def best(self) -> Candidate:
        """The fastest form; without a time if none fits."""
        return self.found.candidates[0]


def searches(
    program: Program, system: System, costs: Costs, processor: str | None, operator: str | None = None
) -> Iterator[ProductSearch]:
    """Of each kind of operator with products in memory.

    Args:
        processor: group of those that add partial sums; None: these cross the data bus, no more.
        operator: only operators whose name contains this.
    """
    work: dict[tuple[str, str], dict[PimMatMul, int]] = {}
    for task in program.tasks:
        if isinstance(task.kernel, PimMatMul) and task.step == 0 and task.operators:
            kind = kind_of(task.operators[0])
            if operator is None or any(operator in name for name in task.operators):
                kernels = work.setdefault((kind, system.instances[task.unit].group), {})
                kernels[task.kernel] = kernels.get(task.kernel, 0) + 1

    def cost(group: str, kernel: Any) -> int:
        return costs.of(group, kernel).time_ps

    for (kind, group), kernels in work.items():
        added = reduction_cost(system, processor, group, cost, RESULTS)
        given, formless = 0, dict[PimMatMul, int]()
        for kernel, count in kernels.items():
            formless[kernel.formless] = formless.get(kernel.formless, 0) + count
            given += count * cost(group, kernel)
            given += count * added(kernel) if kernel.reduction == "processor" else 0
        found = find(formless, system, processor, group, cost, RESULTS, kind)
        yield ProductSearch(kind, group, found, given)


def searched_lines(search: ProductSearch, system: System) -> Iterator[str]:
    """What was found, for people."""
    unit = system.units[search.group]
    assert isinstance(unit, PimUnit)
    found = search.found
    sizes = ", ".join(f"{k.m} x {k.n} x {k.k} ({count:,} times)" for k, count in list(found.work.items())[:4])
    more = f" and {len(found.work) - 4} more" if len(found.work) > 4 else ""
    yield f"{search.operator}: {sizes}{more}, on {unit.channels} channels of {unit.device}"
    yield f"  default form  {_time(found.default_ps)}"
    yield f"  as it is      {_time(search.given_ps)}"
    for i, candidate in enumerate(found.candidates[: SHOWN + 1]):
        gap = "" if candidate.gap is None else f", {candidate.gap:.2f} times the roofline"
        yield f"  {i + 1}. {candidate}{gap}"
        if i == 0 and candidate.time_ps is not None:
            kernel = found.form.of(max(found.work, key=lambda k: k.macs), system.device(search.group))
            nest = product_nest(kernel, system.device(search.group), unit.channels)
            yield from (f"       {line}" for line in nest)
    simulated = sum(candidate.time_ps is not None for candidate in found.candidates)
    total = len(found.candidates)
    yield f"  {total} forms, {simulated} simulated, the others bounded away or too large"
    yield ""


def _time(ps: int | None) -> str:
    return "does not fit" if ps is None else si_time(ps / 1e3)


def saved_form(search: ProductSearch, system: System) -> ProductForm:
    """The form found; all channels are left out, so that it holds for other units too."""
    unit = system.units[search.group]
    assert isinstance(unit, PimUnit)
    form = search.found.form
    return form.model_copy(update={"channels": None}) if form.channels == unit.channels else form


def forms_yaml(title: str, found: list[ProductSearch], system: System) -> str:
    """A file of forms, as `neardata.mappers.products` reads it."""
    lines = [
        f"# {title}",
        "# Forms of products in memory, found by 'neardata search'; a study uses them with",
        "# 'mapping: {products: FILE}'. Times are sums over all that a step does.",
    ]
    if found:
        lines.append(f"device: {system.device(found[0].group).name}")
    lines.append("products:" if found else "products: {}")
    for search in found:
        gap = search.best.gap
        told = (
            "no form fits" if gap is None else f"{_time(search.best.time_ps)}, {gap:.2f} times the roofline"
        )
        lines.append(f"  # {told}; in the default form {_time(search.found.default_ps)}")
        form = saved_form(search, system).model_dump(exclude_defaults=True)
        lines.append("  " + yaml.safe_dump({search.operator: form}, default_flow_style=None).strip())
    return "\n".join(lines) + "\n"


def search_record(search: ProductSearch, system: System) -> dict[str, Any]:
    """For JSON."""
    found = search.found
    return {
        "operator": search.operator,
        "group": search.group,
        "products": [{"m": k.m, "n": k.n, "k": k.k, "times": n} for k, n in found.work.items()],
        "form": saved_form(search, system).model_dump(exclude_none=True),
        "time_ps": search.best.time_ps,
        "default_ps": found.default_ps,
        "given_ps": search.given_ps,
        "roofline_ps": search.best.roofline_ps,
        "gap": search.best.gap,
        "forms": len(found.candidates),
        "simulated": sum(candidate.time_ps is not None for candidate in found.candidates),
    }
