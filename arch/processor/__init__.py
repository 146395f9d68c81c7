"""Processors: what CPUs, GPUs, NPUs and systolic arrays are."""

from neardata.arch.processor.loader import load_processor, load_systolic, processor_names
from neardata.arch.processor.processor import Cache, Compute, Constant, Memory, Processor, SystolicArray

__all__ = [
    "Cache",
    "Compute",
    "Constant",
    "Memory",
    "Processor",
    "SystolicArray",
    "load_processor",
    "load_systolic",
    "processor_names",
]
