"""FPGA streaming pipelines and FPGAs: what they are."""

from neardata.arch.stream.fpga import Budget, Fpga
from neardata.arch.stream.loader import fpga_names, load_fpga, load_pipeline, pipeline_names
from neardata.arch.stream.pipeline import (
    Clock,
    Cost,
    Energy,
    Fifo,
    MemoryUse,
    Pipeline,
    Port,
    Replicas,
    Resources,
    Stage,
    Timing,
)

__all__ = [
    "Budget",
    "Clock",
    "Cost",
    "Energy",
    "Fifo",
    "Fpga",
    "MemoryUse",
    "Pipeline",
    "Port",
    "Replicas",
    "Resources",
    "Stage",
    "Timing",
    "fpga_names",
    "load_fpga",
    "load_pipeline",
    "pipeline_names",
]
