"""FPGAs with streaming pipelines: kernels run by the stream engine."""

from __future__ import annotations

from neardata.arch.errors import InputError
from neardata.arch.stream import load_fpga
from neardata.arch.system import StreamUnit, System
from neardata.sim.program import Kernel, Pause, Stream
from neardata.sim.stream import check_fits, run_stream
from neardata.sim.system.outcome import Outcome


class StreamEngine:
    """Kernels on a unit of a stream group.

    Raises:
        InputError: its pipelines do not fit its FPGA together.
    """

    def __init__(self, system: System, group: str, *, jump: bool = True) -> None:
        unit = system.units[group]
        assert isinstance(unit, StreamUnit)
        self.name, self.fidelity, self.jump = group, unit.fidelity, jump
        self.pipelines = {name: system.pipeline(group, name) for name in unit.pipelines}
        if unit.fpga is not None:
            try:
                check_fits(self.pipelines, load_fpga(unit.fpga))
            except InputError as error:
                raise InputError(str(error), key=f"units.{group}.pipelines") from None

    def run(self, kernel: Kernel) -> Outcome:
        """Time, reasons and energy of a kernel.

        Raises:
            InputError: no kernel of pipelines, no such pipeline, items that do not suit it.
        """
        if isinstance(kernel, Pause):
            return Outcome(kernel.time_ps, kernel.time_ps, "given")
        if not isinstance(kernel, Stream):
            raise InputError(f"'{self.name}' runs no {kernel.kind}")
        if kernel.pipeline not in self.pipelines:
            known = ", ".join(self.pipelines)
            raise InputError(f"'{self.name}' has no pipeline '{kernel.pipeline}'; known: {known}")
        report = run_stream(
            self.pipelines[kernel.pipeline], kernel.items, properties=dict(kernel.properties),
            fidelity=self.fidelity, jump=self.jump,
        )  # fmt: skip
        bound = min(report.bound_ps, report.time_ps)
        lost = report.time_ps - bound
        return Outcome(
            time_ps=report.time_ps,
            bound_ps=bound,
            bound_by=report.bound_by,
            lost_ps={"pipeline fill, drain and stalls": lost} if lost else {},
            energy_pj={f"stream {name}": pj for name, pj in (report.energy_pj or {}).items()},
            energy_untold=report.energy_untold,
            memory_bytes=sum(report.port_bytes.values()),
        )
