"""How processors behave in time."""

from neardata.sim.processor.attention import attention
from neardata.sim.processor.cost import CAUSES, Cost, total
from neardata.sim.processor.issue import issued_ps
from neardata.sim.processor.roofline import convolution, elementwise, expert_matmul, matmul
from neardata.sim.processor.systolic import SystolicRun, run_systolic

__all__ = [
    "CAUSES",
    "Cost",
    "SystolicRun",
    "attention",
    "convolution",
    "elementwise",
    "expert_matmul",
    "issued_ps",
    "matmul",
    "run_systolic",
    "total",
]
