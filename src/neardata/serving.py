"""Serving a model on a system: what each step takes, from the model's graph and the units' costs.

A step's time is that of its graph, lowered and costed as any other (`neardata.mappers.lower`,
`neardata.sim.system.engine.Costs`), without building all of it every time:

- layers alike are costed once and counted;
- what does not depend on the contexts is looked up by the numbers of new tokens and sequences;
- attention is costed anew at every step, from the actual lists of new tokens and contexts.

All three are exact: a step takes the sum of the kernels of its whole graph on a system whose slots
are alike. Which tokens go to which experts is drawn once for each number of tokens (`Uniform`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from neardata.arch.errors import InputError
from neardata.arch.precision import Format
from neardata.arch.system import System
from neardata.mappers.lower import lower
from neardata.mappers.mapping import Mapping, processor_group
from neardata.sim.link import all_gather
from neardata.sim.program import Attention, Task
from neardata.sim.serving import Batch, Limits
from neardata.sim.system.engine import Costs
from neardata.sim.system.processors import run_on_processor
from neardata.workloads.graph import Graph
from neardata.workloads.llm.decoder import llm
from neardata.workloads.llm.model import Model
from neardata.workloads.llm.routing import Routing, Uniform

MEMORY_SHARE = 0.9
"""Of a device's memory that vLLM uses (``gpu_memory_utilization``)."""
HOST_PS = 730_000_000
"""Time of a step beyond the kernels of its graph: sampling, inputs copied, tokens handed over.
Calibrated: the mean time between tokens of the first 100 of 300 requests that vLLM 0.19 served with
Llama-3.1-8B on one RTX PRO 6000 (``python benchmarks/serving.py calibrate``), and nothing else."""
_CHOSEN_BYTES = 8
"""An expert's number and weight, 32 bits each."""
IDLE = Batch((1,), (1,))
"""What a rank without work runs beside others: one token of a dummy sequence, as vLLM does."""


@dataclass(frozen=True)
class Formats:
    """Of numbers, as of `neardata.workloads.llm.decoder.llm`."""

    weights: str = "bf16"
    activations: str = "bf16"
    cache: str = "bf16"


@dataclass(frozen=True)
class _Fixed:
    """A step but for its attention."""

    time_ps: int
    attention: tuple[tuple[Attention, int], ...]
    """Kernels of the slowest slot whose lists are to be put in, and how many layers have them."""


class StepCosts:
    """The time of the steps of one replica; a `neardata.sim.serving.StepTime`.

    Args:
        model: decoder whose steps are run.
        system: counts decided; all its processors work on each step, as ``mapping`` says.
        mapping: of the graph; no PIM.
        formats: of numbers; default: bf16 throughout.
        host_ps: time of a step beyond its kernels.
        swap_ps: of so many tokens between device and host.
        routing: of tokens to experts.

    Raises:
        InputError: an encoder-decoder model, a system with PIM or without processors.

    >>> from neardata.arch.system import load_system
    >>> from neardata.workloads.llm.model import load_model
    >>> costs = StepCosts(load_model("llama-3.1-8b"), load_system("h100").with_counts(gpu=1), host_ps=0)
    >>> costs([Batch((1,) * 8, (1000,) * 8)]) < costs([Batch((2041,) + (1,) * 7, (2041,) + (1000,) * 7)])
    True
    """

    def __init__(
        self,
        model: Model,
        system: System,
        mapping: Mapping | None = None,
        *,
        formats: Formats | None = None,
        host_ps: int = HOST_PS,
        swap_ps: Callable[[int], int] | None = None,
        routing: Routing | None = None,
    ) -> None:
        if model.encoder_layers:
            raise InputError(f"{model.name} has an encoder; only decoders are served", key="model")
        if system.groups("pim"):
            raise InputError("steps are served on processors; the system has PIM units", key="system")
        self.model, self.system, self.host_ps, self.swap_ps = model, system, host_ps, swap_ps
        self.mapping = mapping or Mapping(on_pim="nothing")
        if self.mapping.pipeline != 1:
            raise InputError("a step is not pipelined; give pipeline: 1", key="mapping.pipeline")
        if self.mapping.experts not in ("split", "spread"):
            raise InputError("steps are costed one by one; a policy goes on from step to step: give split "
                             "or spread", key="mapping.experts")  # fmt: skip
        self.group = processor_group(system, self.mapping)
        self.formats = formats or Formats()
        self.routing = routing or Uniform(seed=0)
        self.processor = system.processor(self.group)
        self.costs = Costs(system)
        self._fixed: dict[tuple[int, int], _Fixed] = {}

    def __call__(self, batches: Sequence[Batch]) -> int:
        """Picoseconds of a step of one batch.

        Raises:
            InputError: several batches, tokens to swap and no time for it.
        """
        if len(batches) != 1:
            raise InputError(f"{len(batches)} batches for one rank", key="batches")
        batch = batches[0]
        fixed = self.fixed(batch.tokens, len(batch.new_tokens))
        time = self.host_ps + fixed.time_ps + self.attention_ps(fixed, batch)
        return time + self._swap_ps(batch)

    def _swap_ps(self, batch: Batch) -> int:
        if not batch.swapped_tokens:
            return 0
        if self.swap_ps is None:
            raise InputError("keys and values go to the host, but no link to it is given", key="swap")
        return self.swap_ps(batch.swapped_tokens)

    def attention_ps(self, fixed: _Fixed, batch: Batch) -> int:
        """The attention of all layers."""
        return sum(
            layers
            * run_on_processor(
                self.processor, replace(kernel, queries=batch.new_tokens, context=batch.contexts)
            ).time_ps
            for kernel, layers in fixed.attention
        )

    def fixed(self, tokens: int, sequences: int) -> _Fixed:
        """A step of so many new tokens, looked up if it was met before."""
        key = (tokens, sequences)
        if key not in self._fixed:
            self._fixed[key] = self.without_attention(self.tasks(tokens, sequences))
        return self._fixed[key]

    def tasks(self, tokens: int, sequences: int) -> list[tuple[Task, int]]:
        """The tasks of a step, each with the number of layers that have it."""
        lengths = (1,) * (sequences - 1) + (tokens - sequences + 1,)
        layers = representatives(self.model)
        graph = self._graph(lengths, tuple(layers))
        program = lower(graph, self.system, self.mapping)
        layer_of = {operator.name: operator.layer for operator in graph}
        found = []
        for task in program.tasks:
            name = task.operators[0] if task.operators else _producer(graph, task.name)
            layer = layer_of[name]
            found.append((task, 1 if layer is None else layers[layer]))
        return found

    def _graph(self, lengths: tuple[int, ...], layers: tuple[int, ...]) -> Graph:
        return llm(
            self.model, "prefill", context=lengths, new_tokens=lengths, layers=layers, absorbed=True,
            routing=self.routing, weights=self.formats.weights, activations=self.formats.activations,
            cache=self.formats.cache,
        )  # fmt: skip

    def without_attention(self, tasks: Sequence[tuple[Task, int]]) -> _Fixed:
        """Of the slots that do the same, the slowest counts."""
        slowest: dict[str, int] = {}
        attention: dict[str, tuple[Attention, int]] = {}
        for task, layers in tasks:
            name = task.name.partition("@")[0]
            if isinstance(task.kernel, Attention):
                known = attention.get(name)
                if known is None or known[0].heads < task.kernel.heads:
                    attention[name] = (task.kernel, layers)
                continue
            group = task.unit if task.unit in self.system.links else self.group
            slowest[name] = max(slowest.get(name, 0), layers * self.costs.of(group, task.kernel).time_ps)
        alike: Counter[Attention] = Counter()
        for kernel, layers in attention.values():
            alike[replace(kernel, queries=(), context=())] += layers
        return _Fixed(sum(slowest.values()), tuple(alike.items()))

    def blocks(self, block_tokens: int = 16) -> int:
        """Blocks of keys and values that fit beside the weights, in the part of the memory used.

        Raises:
            InputError: the weights alone do not fit.
        """
        capacity = self.system.count(self.group) * self.system.capacity_bytes(self.group)
        return _blocks(self, self.weight_bytes(), capacity, block_tokens)

    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return self._graph((1,), tuple(range(self.model.layers))).weight_bytes


def _blocks(costs: StepCosts, weight_bytes: int, capacity: int, block_tokens: int) -> int:
    left = int(capacity * MEMORY_SHARE) - weight_bytes
    block = Format.parse(costs.formats.cache).bytes_of(costs.model.cache_elements_per_token * block_tokens)
    if left < block:
        raise InputError(
            f"{costs.model.name} takes {weight_bytes:,} of {capacity:,} bytes, of which {MEMORY_SHARE:.0%}"
            " are used: no room for keys and values", key="system",
        )  # fmt: skip
    return left // block


class ExpertParallelCosts:
    """The time of the steps of data-parallel ranks that share their experts; a
    `neardata.sim.serving.StepTime` of as many batches as the system has processors.

    Every rank holds all weights but the experts', of which each has an equal part. In each layer with
    experts the ranks gather all ranks' tokens (rows, and the weights and numbers of the experts
    chosen), run their own experts on them, and scatter the sums back: so ranks meet twice a layer, and
    each layer takes the longest of the ranks' own parts, then the longest of their experts. A rank
    without work runs `IDLE`. A step that is a recorded graph on all ranks has as many tokens on each as
    on the fullest: what is filled up goes through the products, is gathered and goes to experts too, but has
    no context to look back on. (vLLM 0.19,
    ``v1/worker/dp_utils.py`` and ``fused_moe/prepare_finalize/naive_dp_ep.py``.)

    Args:
        limits: of a rank (default: ``Limits()``); its ``graph_tokens`` say which steps are recorded.
        others: as of `StepCosts`.

    Raises:
        InputError: a model without experts, a system with one processor or no link between them.
    """

    def __init__(
        self,
        model: Model,
        system: System,
        *,
        formats: Formats | None = None,
        host_ps: int = HOST_PS,
        routing: Routing | None = None,
        limits: Limits | None = None,
    ) -> None:
        if model.experts is None:
            raise InputError(f"{model.name} has no experts to spread over ranks", key="model")
        mapping = Mapping(on_pim="nothing", experts="spread")
        self.group = processor_group(system, mapping)
        self.ranks = system.count(self.group)
        link = system.link_between(self.group, self.group)
        if self.ranks < 2 or link is None:
            raise InputError("experts are spread over at least two processors with a link", key="system")
        self.model, self.host_ps, self.link = model, host_ps, system.link(link)
        self.graph_tokens = (limits or Limits()).graph_tokens
        one = system.with_counts(**{self.group: 1})
        self.own = StepCosts(model, one, formats=formats, host_ps=0, routing=routing)
        self.shared = StepCosts(model, system, mapping, formats=formats, host_ps=0, routing=routing)
        self._own: dict[tuple[int, int], _Fixed] = {}
        self._experts: dict[int, int] = {}

    def __call__(self, batches: Sequence[Batch]) -> int:
        """Picoseconds of a step.

        Raises:
            InputError: not one batch a rank.
        """
        if len(batches) != self.ranks:
            raise InputError(f"{len(batches)} batches for {self.ranks} ranks", key="batches")
        there = [batch if batch.new_tokens else IDLE for batch in batches]
        tokens = [batch.tokens for batch in there]
        most = max(tokens)
        if most <= self.graph_tokens:
            tokens = [most] * self.ranks
        own = max(self._own_ps(*of) for of in zip(there, tokens, strict=True))
        return self.host_ps + own + self._experts_ps(sum(tokens)) + self.exchange_ps(most)

    def _own_ps(self, batch: Batch, tokens: int) -> int:
        """What a rank does alone, filled up to so many tokens."""
        key = (tokens, len(batch.new_tokens))
        if key not in self._own:
            tasks = self.own.tasks(*key)
            self._own[key] = self.own.without_attention([pair for pair in tasks if not _is_experts(pair[0])])
        fixed = self._own[key]
        return fixed.time_ps + self.own.attention_ps(fixed, batch)

    def _experts_ps(self, tokens: int) -> int:
        """The experts of all layers, on the rank that takes the longest in each."""
        if tokens not in self._experts:
            ranks: dict[tuple[int, str], int] = {}
            for task, layers in self.shared.tasks(tokens, 1):
                if _is_experts(task):
                    layer = int(task.name.partition(".")[0].removeprefix("layer"))
                    key = (layer, task.unit)
                    time = layers * self.shared.costs.of(self.group, task.kernel).time_ps
                    ranks[key] = ranks.get(key, 0) + time
            layers_met = {layer for layer, _ in ranks}
            self._experts[tokens] = sum(
                max(time for (at, _), time in ranks.items() if at == layer) for layer in layers_met
            )
        return self._experts[tokens]

    def exchange_ps(self, most_tokens: int) -> int:
        """What moves between the ranks in all layers; the rank with the most tokens decides."""
        experts = self.model.experts
        assert experts is not None
        form = Format.parse(self.own.formats.activations)
        rows = self.ranks * most_tokens
        hidden = self.model.hidden
        chosen = experts.top_k * _CHOSEN_BYTES
        gathered = all_gather(self.link, self.ranks, form.bytes_of(rows * hidden) + rows * chosen)
        scattered = all_gather(self.link, self.ranks, form.bytes_of(rows * hidden))
        return len(experts.layers) * (gathered + scattered)

    def blocks(self, block_tokens: int = 16) -> int:
        """Blocks of keys and values of a rank, beside its weights.

        Raises:
            InputError: the weights alone do not fit.
        """
        experts = self.model.experts
        assert experts is not None
        form = Format.parse(self.own.formats.weights)
        all_experts = form.bytes_of(self.model.expert_parameters * experts.count * len(experts.layers))
        held = self.own.weight_bytes() - all_experts + -(-all_experts // self.ranks)
        return _blocks(self.own, held, self.own.system.capacity_bytes(self.group), block_tokens)


def _is_experts(task: Task) -> bool:
    """Whether a task is of the routed experts themselves, behind dispatch and before combination."""
    names = [name.partition(".")[2] for name in task.operators]
    return bool(names) and all(name.startswith("experts.") for name in names)


def representatives(model: Model) -> dict[int, int]:
    """Layers that stand for all, and for how many each: one of each kind, and the last.

    >>> from neardata.workloads.llm.model import load_model
    >>> representatives(load_model("deepseek-v2-lite"))
    {0: 1, 1: 25, 26: 1}
    """
    last = model.layers - 1
    kinds: dict[bool, list[int]] = {}
    for layer in range(last):
        kinds.setdefault(model.has_experts(layer), []).append(layer)
    found = {layers[0]: len(layers) for layers in kinds.values()}
    return {layer: found[layer] for layer in sorted(found)} | {last: 1}


def _producer(graph: Graph, task: str) -> str:
    """The operator whose result a transfer or collective moves."""
    name = task.partition("->")[0]
    for tensor in (name, name.rpartition(".")[0]):
        if tensor in graph.tensors:
            producer = graph.producer(tensor)
            if producer is not None:
                return producer
    raise AssertionError(f"task '{task}' moves nothing that an operator makes")
