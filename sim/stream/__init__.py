"""How streaming pipelines behave in time.

A stage initiates every ``initiation_interval`` cycles of its clock if its items are there, taking
``lanes`` firings' worth of items from each FIFO into it (at the end: what is left). Its results can
be read ``depth`` cycles later, if there is room in every FIFO out of it; else they wait at the end
of the stage, in order. A stage holds as many initiations as fit its depth; a full one initiates
nothing. What happens in a cycle is seen in the next one, whatever the order of the stages.

A unit's cycles run from the one that takes the first item to the one after the last stage has
ended, fill and drain included: one stage takes ``(n - 1) * initiation_interval + depth`` for n items.
"""

from neardata.sim.stream.engine import run_stream
from neardata.sim.stream.report import StreamReport
from neardata.sim.stream.resources import ResourceUse, check_fits, resource_use

__all__ = ["ResourceUse", "StreamReport", "check_fits", "resource_use", "run_stream"]
