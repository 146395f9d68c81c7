"""Continuous batching: requests that arrive, wait, run in common steps, and end."""

from neardata.sim.serving.batch import Batch, StepTime
from neardata.sim.serving.engine import Instance, Moving, serve
from neardata.sim.serving.first_come import FirstCome
from neardata.sim.serving.limits import Limits
from neardata.sim.serving.placement import ByPhase, LeastLoaded, RoundRobin, Split
from neardata.sim.serving.report import Distribution, Served, ServingReport, Step
from neardata.sim.serving.sequence import Arrival
from neardata.sim.serving.turns import Turns

__all__ = [
    "Arrival",
    "Batch",
    "ByPhase",
    "Distribution",
    "FirstCome",
    "Instance",
    "LeastLoaded",
    "Limits",
    "Moving",
    "RoundRobin",
    "Served",
    "ServingReport",
    "Split",
    "Step",
    "StepTime",
    "Turns",
    "serve",
]
