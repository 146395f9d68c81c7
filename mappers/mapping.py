"""How a graph is to be placed: the choices a mapping makes, as data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from neardata.arch.config_file import StrictModel
from neardata.arch.errors import InputError, nearest
from neardata.arch.system import System
from neardata.mappers.expert_policy import Experts
from neardata.mappers.products import ProductForm

OnPim = Literal["nothing", "fastest", "attention", "everything"]


class Mapping(StrictModel):
    """Placement of a graph's operators over the units of a system.

    The units are arranged in ``pipeline`` stages of consecutive layers; inside a stage every
    operator is split over all of its slots (tensor parallelism). A slot is a processor with, where
    the system has one, a PIM memory.
    """

    processor: str | None = None
    """Group that does what PIM does not; default: the system's only one, or its only GPU."""
    pim: str | None = None
    """Group of PIM memories; default: the only one, if there is one."""
    on_pim: OnPim = "fastest"
    """Which products run in memory: ``nothing``; ``attention``: the ones with keys and values;
    ``everything``: all that the memory can do; ``fastest``: each where it takes less time, transfers
    counted; of a memory that stands beside the processor only attention, since weights lie in one place
    whatever the batch."""
    products: dict[str, ProductForm] | str = Field(default_factory=dict)
    """How products run in memory: forms by operator (`neardata.mappers.products`), the file that has them, or
    ``searched``: for each operator the fastest that `neardata.mappers.search` finds."""
    pipeline: Annotated[int, Field(ge=1)] | Literal["all"] = 1
    """Stages; ``all``: each slot is one."""
    experts: Experts = "split"
    """``split``: every expert over all slots; ``spread``: whole experts, some on each slot; or a policy
    for experts that lie in the host's memory (`neardata.mappers.expert_policy`)."""
    micro_batches: Annotated[int, Field(ge=1)] | Literal["stages"] = 1
    """Parts of the batch that follow each other through the stages."""
    steps: Annotated[int, Field(ge=1, le=64)] = 1
    """Decode steps that follow each other: with more than one, a pipeline's steady state is seen."""
    fuse: bool = True
    """Element-wise operators that follow each other are one kernel."""


def processor_group(system: System, mapping: Mapping) -> str:
    """The group of a mapping's processors.

    Raises:
        InputError: there is none, or several and the mapping names none.
    """
    known = system.groups("processor")
    if mapping.processor is not None:
        if mapping.processor not in known:
            near = nearest(mapping.processor, known)
            raise InputError(f"'{mapping.processor}' is no processor group{near}", key="mapping.processor")
        return mapping.processor
    if len(known) > 1:
        known = [group for group in known if system.processor(group).kind == "gpu"] or known
    if len(known) != 1:
        some = ", ".join(known) or "none"
        raise InputError(f"the system has {some}: say which processor group", key="mapping.processor")
    return known[0]


def pim_group(system: System, mapping: Mapping) -> str | None:
    """The group of a mapping's PIM memories, if it uses any.

    Raises:
        InputError: PIM is wanted and there is none, or several and the mapping names none.
    """
    known = system.groups("pim")
    if mapping.on_pim == "nothing":
        return None
    if mapping.pim is not None:
        if mapping.pim not in known:
            raise InputError(
                f"'{mapping.pim}' is no PIM group{nearest(mapping.pim, known)}", key="mapping.pim"
            )
        return mapping.pim
    if len(known) > 1:
        raise InputError(f"the system has {', '.join(known)}: say which PIM group", key="mapping.pim")
    if not known and mapping.on_pim != "fastest":
        raise InputError("the system has no PIM group", key="mapping.on_pim")
    return known[0] if known else None
