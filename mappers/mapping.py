"""How a graph is to be placed: the choices a mapping makes, as data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from neardata.arch.config_file import StrictModel
from neardata.arch.errors import InputError, nearest
from neardata.arch.system import StorageUnit, System
from neardata.mappers.expert_policy import Experts
from neardata.mappers.products import ProductForm

OnPim = Literal["nothing", "fastest", "attention", "everything"]

MOST_STEPS = 64
"""Of a mapping."""


def _forms_or_name(given: object) -> object:
    if not isinstance(given, dict | str):
        raise ValueError(f"must be forms by operator, the name of a file .yaml, or 'searched', got {given!r}")
    return given


class FlashMapping(StrictModel):
    """How products are divided over the dies of a drive and the processor that it is attached to."""

    tile: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """Rows and columns of a matrix that all dies take at a time: columns are divided over the channels, rows
    over the dies of a channel. None: where channels carry least, with whole pages."""
    split: Literal["fastest", "formula", "dies", "processor"] = "fastest"
    """Of the pages, how many the processor multiplies: ``formula``: by the rates (arXiv 2409.15654 Sec. V);
    ``fastest``: from there on, in whole rounds of the dies, as long as it takes less time; ``dies``: none;
    ``processor``: all, as of weights that the dies do not multiply."""
    slice_bytes: Annotated[int, Field(ge=0)] = 512
    """Of pages on their way to the processor, with vectors and sums of the dies between; 0: whole pages."""


Share = Annotated[float, Field(gt=0, le=1)]


class SparseAttention(StrictModel):
    """SparF on drives (arXiv 2409.04992): keys lie twice, by positions and by channels."""

    channels: Share = 0.125
    """Of a head's queries, the largest, for approximate scores."""
    tokens: Share = 0.125
    """Of the positions, those with the largest approximate scores."""
    pages: Share = 0.5
    """Of either copy, those that hold something wanted; "about half" (Sec. IV-C)."""
    channels_a_page: Annotated[int, Field(ge=1)] = 4
    """In the second copy; 2 to 8 in the paper."""
    ranked: bool = False
    """Approximate scores are only ranked, without a softmax."""


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
    storage: str | None = None
    """Group of drives that hold the matrices and multiply in their dies; default: the one attached to the
    processor, if there is one."""
    flash: FlashMapping = FlashMapping()
    attention: str | None = None
    """Group of drives that hold keys and values and do attention in their controllers, heads divided over
    them; None: attention runs where the rest does."""
    sparse: SparseAttention | None = None
    """Attention of drives is sparse."""
    caches: str | None = None
    """Group of which the first holds keys and values that are sent to the processor for every layer; None:
    they lie where attention runs."""
    products: Annotated[dict[str, ProductForm] | str, BeforeValidator(_forms_or_name)] = Field(
        default_factory=dict
    )
    """How products run in memory: forms by operator (`neardata.mappers.products`), the file that has them, or
    ``searched``: for each operator the fastest that `neardata.mappers.search` finds."""
    pipeline: Annotated[int, Field(ge=1)] | Literal["all"] = 1
    """Stages; ``all``: each slot is one."""
    experts: Experts = "split"
    """``split``: every expert over all slots; ``spread``: whole experts, as many on each slot;
    ``balanced``: whole experts, as much to do on each, by other steps of the routing; or a policy for experts
    that lie in the host's memory (`neardata.mappers.expert_policy`)."""
    micro_batches: Annotated[int, Field(ge=1)] | Literal["stages"] = 1
    """Parts of the batch that follow each other through the stages."""
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] = 1
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


def storage_group(system: System, mapping: Mapping) -> str | None:
    """The group of drives that multiply, if the system has any.

    Raises:
        InputError: the mapping names none of those attached to the processors.
    """
    processor = processor_group(system, mapping)
    units = ((name, system.units[name]) for name in system.groups("storage"))
    known = [n for n, unit in units if isinstance(unit, StorageUnit) and unit.attached_to == processor]
    if mapping.storage is not None:
        if mapping.storage not in known:
            near = nearest(mapping.storage, known)
            problem = f"'{mapping.storage}' is no group of drives attached to '{processor}'{near}"
            raise InputError(problem, key="mapping.storage")
        return mapping.storage
    if len(known) > 1:
        raise InputError(f"'{processor}' has {', '.join(known)}: say which", key="mapping.storage")
    return known[0] if known else None


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


def attention_group(system: System, mapping: Mapping) -> str | None:
    """The group of drives that do attention, if the mapping says so.

    Raises:
        InputError: it names none that can; sparse attention without one.
    """
    if mapping.attention is None:
        if mapping.sparse is not None:
            raise InputError("is of drives: say which in attention", key="mapping.sparse")
        return None
    if mapping.caches is not None:
        raise InputError("keys and values lie where attention runs", key="mapping.caches")
    known = [name for name in system.groups("storage") if system.drive(name).attention is not None]
    if mapping.attention not in known:
        near = nearest(mapping.attention, known)
        raise InputError(
            f"'{mapping.attention}' is no group of drives with an attention engine{near}",
            key="mapping.attention",
        )
    return mapping.attention


def cache_group(system: System, mapping: Mapping) -> str | None:
    """The group whose memory holds keys and values away from the processor.

    Raises:
        InputError: it is no group of the system, or the processors' own.
    """
    if mapping.caches is None:
        return None
    known = [name for name in system.units if name != processor_group(system, mapping)]
    if mapping.caches not in known:
        near = nearest(mapping.caches, known)
        raise InputError(f"'{mapping.caches}' is no other group{near}", key="mapping.caches")
    return mapping.caches
