"""The form of each product in memory: as the mapping says, or searched: `ProductChoice`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from neardata.arch.errors import InputError
from neardata.arch.precision import Format
from neardata.arch.system import PimUnit, System
from neardata.mappers import mapping as choices
from neardata.mappers.kernels import pim_kernels, reduction_kernel
from neardata.mappers.products import SEARCHED, ProductForm, kind_of, read_forms
from neardata.mappers.search import Candidate, Reduction, over_the_bus, search, time_of
from neardata.mappers.sharding import Rule, Sharding
from neardata.sim.program import Kernel, PimMatMul, Transfer
from neardata.sim.system.pim_programs import partial_sum_bytes
from neardata.workloads.graph import Graph, Operator

Cost = Callable[[str, Kernel], int]
"""Picoseconds of a kernel on a unit of a group."""
FORMED = ("linear", "expert_linear")
"""Kinds of operators that are products with a matrix of weights in the banks."""


@dataclass(frozen=True)
class Found:
    """What a search found for the products of one kind of operator."""

    work: Mapping[PimMatMul, int]
    candidates: Sequence[Candidate]
    """From the best."""
    default_ps: int | None
    """Time in the device's default form; None: it does not fit so."""

    @property
    def form(self) -> ProductForm:
        """The best that fits; the default, if none does."""
        best = self.candidates[0]
        return ProductForm() if best.time_ps is None or best.form is None else best.form


def find(
    work: Mapping[PimMatMul, int],
    system: System,
    processor: str | None,
    pim: str,
    cost: Cost | None,
    sums: Format,
    tensor: str,
) -> Found:
    """The best form for products of one matrix shape.

    Args:
        work: products without form, and how often each is done.
        processor: group of those that add partial sums; None, or no ``cost``: they cross the data bus alone.
        sums: format of the results.
    """
    unit = system.units[pim]
    assert isinstance(unit, PimUnit)
    device = system.device(pim)
    reduction = reduction_cost(system, processor, pim, cost, sums)
    given = (work, device, unit.channels)
    candidates = search(*given, refresh=unit.refresh, reduction=reduction, tensor=tensor)
    return Found(work, candidates, time_of(*given, ProductForm(), refresh=unit.refresh, reduction=reduction))


def reduction_cost(
    system: System, processor: str | None, pim: str, cost: Cost | None, sums: Format
) -> Reduction:
    """Partial sums go from the memory to the processor, which adds them. Arguments as of `find`."""
    unit = system.units[pim]
    assert isinstance(unit, PimUnit)
    if processor is None or cost is None:
        return over_the_bus(system.device(pim), unit.channels)
    one, other = (system.instances[system.names(group)[0]] for group in (pim, processor))
    device = system.device(pim)
    link = None if one.place == other.place else system.link_between(pim, processor)

    def added(kernel: PimMatMul) -> int:
        size = partial_sum_bytes(kernel, device)
        moved = 0 if link is None else cost(link, Transfer(one.place, other.place, size))
        return moved + cost(processor, reduction_kernel(kernel, sums, device))

    return added


class ProductChoice:
    """Forms for the products of some graphs, by operator."""

    def __init__(
        self,
        graphs: Sequence[tuple[Graph, Sharding]],
        system: System,
        mapping: choices.Mapping,
        processor: str,
        pim: str,
        cost: Cost | None,
    ) -> None:
        self.graphs, self.system = graphs, system
        self.processor, self.pim, self.cost = processor, pim, cost
        self.device = system.device(pim)
        unit = system.units[pim]
        assert isinstance(unit, PimUnit)
        self.channels = unit.channels
        self.searched = mapping.products == SEARCHED
        if self.searched and cost is None:
            raise InputError("to search for forms costs are needed", key="mapping.products")
        self.forms = read_forms(mapping.products)
        self.forms.check((operator.name for operator, _, _, _ in self._products()), self.device)
        self.made: dict[tuple[str, PimMatMul], PimMatMul] = {}
        self.found: dict[str, Found] = {}

    def _products(self) -> Iterable[tuple[Operator, Graph, Rule, int]]:
        """Of all graphs."""
        for graph, sharding in self.graphs:
            for operator in graph:
                if operator.kind in FORMED:
                    yield operator, graph, sharding.rules[operator.name], sharding.slots

    def kernels(self, graph: Graph, operator: Operator, rule: Rule, slot: int) -> tuple[Kernel, ...]:
        """What a memory runs for a product, in its form, with the processor's part between or behind; none
        where it cannot.

        Raises:
            InputError: a form that the device cannot do, with its key.
        """
        kernels = pim_kernels(graph, operator, rule, slot, self.device)
        if operator.kind not in FORMED:
            return kernels
        made: list[Kernel] = []
        for kernel in kernels:
            assert isinstance(kernel, PimMatMul)
            formed = self.formed(operator.name, kernel)
            made.append(formed)
            if formed.reduction == "processor":
                sums = graph.tensors[operator.outputs[0]].format
                made.append(reduction_kernel(formed, sums, self.device))
        return tuple(made)

    def formed(self, operator: str, kernel: PimMatMul) -> PimMatMul:
        """A product in the form for an operator's."""
        if self.searched:
            return self._found(kind_of(operator)).form.of(kernel, self.device)
        key = self.forms.key_of(operator)
        if key is None:
            return kernel
        if (key, kernel) not in self.made:
            self.made[key, kernel] = self.forms.apply(key, kernel, self.device, self.channels)
        return self.made[key, kernel]

    def _found(self, kind: str) -> Found:
        """For all products of a kind, of all layers, slots and micro-batches: a matrix lies in one way
        whatever it is multiplied with."""
        if kind not in self.found:
            work: dict[PimMatMul, int] = {}
            sums: Format | None = None
            for operator, graph, rule, slots in self._products():
                if kind_of(operator.name) != kind:
                    continue
                sums = graph.tensors[operator.outputs[0]].format
                for slot in range(slots):
                    for kernel in pim_kernels(graph, operator, rule, slot, self.device):
                        assert isinstance(kernel, PimMatMul)
                        work[kernel] = work.get(kernel, 0) + 1
            assert sums is not None
            self.found[kind] = find(work, self.system, self.processor, self.pim, self.cost, sums, kind)
        return self.found[kind]
