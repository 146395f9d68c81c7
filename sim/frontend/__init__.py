"""The front end of inference servers: requests are prepared, gathered into batches, and executed."""

from neardata.sim.frontend.batching import Batching
from neardata.sim.frontend.engine import Request, Stage, serve_batches
from neardata.sim.frontend.report import PARTS, BatchRun, FrontEndReport, Handled
from neardata.sim.frontend.saturation import saturated

__all__ = [
    "PARTS",
    "BatchRun",
    "Batching",
    "FrontEndReport",
    "Handled",
    "Request",
    "Stage",
    "saturated",
    "serve_batches",
]
