"""How processors behave in time."""

from neardata.sim.processor.attention import attention
from neardata.sim.processor.cost import CAUSES, Cost, total
from neardata.sim.processor.roofline import elementwise, expert_matmul, matmul
from neardata.sim.processor.systolic import SystolicRun, run_systolic

__all__ = [
    "CAUSES",
    "Cost",
    "SystolicRun",
    "attention",
    "elementwise",
    "expert_matmul",
    "matmul",
    "run_systolic",
    "total",
]
