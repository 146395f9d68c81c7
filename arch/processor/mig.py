"""Slices of a GPU (MIG): parts of its units and memory that run alone."""

from __future__ import annotations

from neardata.arch.errors import InputError, nearest
from neardata.arch.processor.loader import load_processor
from neardata.arch.processor.processor import Processor

SLICED = "a100-40gb"
MIG = {"1g.5gb": (14, 1), "2g.10gb": (28, 2), "3g.20gb": (42, 4), "4g.20gb": (56, 4), "7g.40gb": (98, 8)}
"""Streaming multiprocessors and eighths of the memory of a slice of an A100 40 GB (NVIDIA MIG User
Guide, table of A100 profiles: 7 slices of 14 multiprocessors, 8 of memory)."""


def most_slices(profile: str) -> int:
    """Slices of a profile that the GPU has.

    >>> [most_slices(profile) for profile in MIG]
    [7, 3, 2, 1, 1]
    """
    return MIG["7g.40gb"][0] // MIG[profile][0]


def mig_slice(profile: str, gpu: str = SLICED) -> Processor:
    """A slice of a GPU: its share of the units, of their peaks, of the memory and of the last cache.

    Raises:
        InputError: no such profile, a processor that is no A100 40 GB.

    >>> part = mig_slice("1g.5gb")
    >>> part.compute.units, part.memory.gb_per_s
    (14, 194.375)
    """
    if profile not in MIG:
        raise InputError(f"unknown slice '{profile}'{nearest(profile, MIG)}", key="slice")
    whole = load_processor(gpu)
    if whole.name != SLICED:
        raise InputError(f"slices are known of {SLICED} alone, got '{whole.name}'", key="gpu")
    units, eighths = MIG[profile]
    part, share = units / whole.compute.units, eighths / 8
    power = whole.power
    memory_w = whole.memory.gb_per_s * power.memory_pj_per_byte.value / 1000
    idle_w = power.idle_w.value * share
    arithmetic_w = power.tdp_w - power.idle_w.value - memory_w
    changed = {
        "compute.units": units,
        "compute.vector_tflops": whole.compute.vector_tflops * part,
        "memory.bytes": whole.memory.bytes * eighths // 8,
        "memory.gb_per_s": whole.memory.gb_per_s * share,
        "power.idle_w.value": idle_w,
        "power.tdp_w": idle_w + memory_w * share + arithmetic_w * part,
        "power.tdp_gb_per_s.value": whole.memory.gb_per_s * share,
    }
    changed |= {f"compute.peak_tflops.{t}": v * part for t, v in whole.compute.peak_tflops.items()}
    for i, level in enumerate(whole.caches):
        changed |= {
            f"caches.{i}.bytes": level.bytes * eighths // 8,
            f"caches.{i}.gb_per_s": level.gb_per_s * share,
        }
    return load_processor(gpu, changed)
