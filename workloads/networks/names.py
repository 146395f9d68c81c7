"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable

from neardata.arch.errors import InputError, nearest
from neardata.workloads.networks.image import mobilenet_v3_small, squeezenet_1_1, swin_t
from neardata.workloads.networks.network import Network
from neardata.workloads.networks.speech import CONFORMERS, citrinet, conformer_ctc

IMAGES: dict[str, Callable[[], Network]] = {
    "mobilenet-v3-small": mobilenet_v3_small,
    "squeezenet-1.1": squeezenet_1_1,
    "swin-t": swin_t,
}
NAMES = (
    *IMAGES,
    *(f"conformer-ctc-{size}" for size in CONFORMERS),
    "citrinet-256",
    "citrinet-512",
    "citrinet-1024",
)


def network_named(name: str) -> tuple[Callable[[int], Network], bool]:
    """A network by the length of its input, and whether that is speech, in frames of 10 ms; an image has
    one size, whatever the length.

    Raises:
        InputError: an unknown name.

    >>> make, speech = network_named("citrinet-512")
    >>> make(250).name, speech
    ('citrinet-512', True)
    """
    if name in IMAGES:
        return (lambda length: IMAGES[name]()), False
    if name not in NAMES:
        raise InputError(f"unknown network '{name}'{nearest(name, NAMES)}", key="network")
    family, _, size = name.rpartition("-")
    if family == "citrinet":
        return (lambda length: citrinet(int(size), length)), True
    return (lambda length: conformer_ctc(size, length)), True
