"""What offload policies place: the blocks of a mixture of experts, and the machine they run on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from neardata.arch.errors import InputError
from neardata.arch.precision import Format
from neardata.sim.program import Kernel, MatMul, Pause
from neardata.workloads.llm.model import Model
from neardata.workloads.llm.routing import Routing

Kernels = Callable[[int], tuple[Kernel, ...]]
"""What runs, one after the other, for an expert with that many tokens."""


@dataclass(frozen=True)
class Expert:
    """One expert of a model; all are alike.

    >>> expert = Expert.of_shape(hidden=768, ffn=3072, gated=False, weights="fp32")
    >>> expert.bytes
    18874368
    >>> [kernel.macs for kernel in expert.kernels(2)]
    [4718592, 4718592]
    """

    bytes: int
    """Of its weights."""
    kernels: Kernels
    """On the device."""
    cpu_kernels: Kernels
    """On the CPU beside the host memory."""
    activation_bytes: int = 0
    """Of one token, into an expert and out of it: crosses the link when the CPU computes."""

    @classmethod
    def of_shape(
        cls, *, hidden: int, ffn: int, gated: bool, weights: str = "bf16", activations: str = "bf16"
    ) -> Expert:
        """Two matrix products: up (with the gate beside it) and down."""
        inner = ffn * (1 + gated)
        kept = Format.parse(weights)

        def kernels(tokens: int) -> tuple[Kernel, ...]:
            return (
                MatMul(tokens, inner, hidden, weights=weights, activations=activations),
                MatMul(tokens, hidden, ffn, weights=weights, activations=activations),
            )

        size = kept.bytes_of(inner * hidden, hidden) + kept.bytes_of(hidden * ffn, ffn)
        return cls(size, kernels, kernels, Format.parse(activations).bytes_of(hidden))

    @classmethod
    def of_times(
        cls, *, bytes: int, device_ps: Callable[[int], int], cpu_ps: Callable[[int], int] | None = None
    ) -> Expert:
        """Known only by its times, functions of the number of tokens."""
        cpu = cpu_ps or device_ps
        return cls(bytes, lambda tokens: (Pause(device_ps(tokens)),), lambda tokens: (Pause(cpu(tokens)),))


@dataclass(frozen=True)
class Block:
    """A layer's experts in one pass, and what the device does around them."""

    layer: int
    tokens: tuple[int, ...]
    """Tokens routed to each expert; 0: not active."""
    before: tuple[Kernel, ...] = ()
    """Attention, norms, gate: in this order, on the device; the routing is known at their end."""
    shared: tuple[Kernel, ...] = ()
    """What the device does beside the routed experts, ahead of its own share of them: shared experts."""
    after: tuple[Kernel, ...] = ()
    """What follows the experts, on the device."""
    scores: tuple[float, ...] = ()
    """The router's, of each expert; empty: tokens as a share."""

    @cached_property
    def active(self) -> tuple[int, ...]:
        """Experts that have tokens."""
        return tuple(expert for expert, tokens in enumerate(self.tokens) if tokens)

    @property
    def routing_scores(self) -> tuple[float, ...]:
        """``scores``, or the share of the tokens."""
        total = sum(self.tokens) or 1
        return self.scores or tuple(tokens / total for tokens in self.tokens)


Passes = Sequence[Sequence[Block]]
"""Blocks in the order of execution, for each pass through the model (prefill, or a token's decode)."""


@dataclass(frozen=True)
class Machine:
    """Names of the units and links of a system that an offload policy uses."""

    system: str
    device: str = "gpu"
    host: str = "host"
    """Memory where experts live that are not on the device."""
    link: str = "pcie"
    """From host to device."""
    back: str = "pcie"
    """From device to host: another name where the link is full duplex."""
    cpu: str = "cpu"
    storage: str | None = None
    """Where experts live instead of the host memory, which they then pass through."""
    storage_link: str = "nvme"
    """From storage to host."""


def expert_of(model: Model, weights: str = "bf16", activations: str = "bf16") -> Expert:
    """The routed experts of a language model.

    >>> from neardata.workloads.llm.model import load_model
    >>> expert_of(load_model("mixtral-8x7b")).bytes
    352321536

    Raises:
        InputError: the model has no experts.
    """
    if model.experts is None:
        raise InputError(f"{model.name} has no experts")
    return Expert.of_shape(
        hidden=model.hidden,
        ffn=model.experts.ffn,
        gated=model.gated,
        weights=weights,
        activations=activations,
    )


def blocks_of(
    model: Model,
    routing: Routing,
    tokens: int,
    before: tuple[Kernel, ...] = (),
    shared: tuple[Kernel, ...] = (),
    after: tuple[Kernel, ...] = (),
) -> list[Block]:
    """One pass of the decoder with ``tokens`` tokens: its layers with experts, counted from 0.

    Args:
        before: what the device does ahead of each block's experts.
        shared: what it does beside them.
        after: what follows them.

    Raises:
        InputError: the model has no experts.
    """
    if model.experts is None:
        raise InputError(f"{model.name} has no experts")
    experts = model.experts
    return [
        Block(
            layer,
            tuple(int(n) for n in routing.counts(layer, tokens, experts.count, experts.top_k)),
            before,
            shared,
            after,
        )
        for layer in range(len(experts.layers))
    ]
