"""Inference servers that prepare their inputs: cores or data-processing units in front of slices of a GPU.

`Server` puts a model, what prepares its inputs, a batcher and the slices together and serves requests;
what it does in time is `neardata.sim.frontend`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from neardata.arch.link import Link
from neardata.arch.stream import Pipeline
from neardata.sim.frontend import Batching, FrontEndReport, Request, Stage, saturated, serve_batches
from neardata.sim.link import transfer_ps
from neardata.sim.stream import run_stream
from neardata.slices import Eager
from neardata.workloads.input_requests import InputRequest

FRAMES_STEP = 50
"""Lengths of speech count in steps of half a second, so that few shapes of batches are worked out."""


def length_of(seconds: float) -> int:
    """Frames of 10 ms of an utterance, to the nearest half second; an image's length is 1.

    >>> length_of(0), length_of(7.42), length_of(0.1)
    (1, 750, 50)
    """
    return max(round(seconds * 100 / FRAMES_STEP), 1) * FRAMES_STEP if seconds else 1


def requests_of(inputs: Iterable[InputRequest]) -> list[Request]:
    """What a stream of inputs is to a front end."""
    return [Request(one.arrival_ps, length_of(one.seconds)) for one in inputs]


def compute_units(
    name: str, pipeline: Pipeline, units: int, properties: Callable[[int], dict[str, int]]
) -> Stage:
    """Data-processing units as servers: how long a request takes, and how soon the next is taken, from
    cycle-exact runs of one unit (`neardata.sim.stream`). Of equal requests the times are exact; a short one
    behind a long one is given on together with it, which is its last step too early.

    Args:
        name: of the stage.
        pipeline: one unit.
        units: side by side.
        properties: of a request, by its length.
    """
    several = 9

    @cache
    def times(length: int) -> tuple[int, int]:
        given = properties(length)
        runs = [
            run_stream(pipeline, n, properties={key: [value] * n for key, value in given.items()}).time_ps
            for n in (1, several)
        ]
        return runs[0], -(-(runs[1] - runs[0]) // (several - 1))

    return Stage(name, units, lambda length: times(length)[0], lambda length: times(length)[1])


def link_stage(name: str, link: Link, bytes_of: Callable[[int], int]) -> Stage:
    """One direction of a link, a transfer after the other; starting one overlaps the one before."""

    @cache
    def whole(length: int) -> int:
        return transfer_ps(link, bytes_of(length))

    start = transfer_ps(link, 1)
    return Stage(name, 1, whole, lambda length: max(whole(length) - start, 0))


@dataclass
class Server:
    """A model on slices, behind what prepares its inputs."""

    model: Eager
    slices: int
    batching: Batching
    stages: tuple[Stage, ...] = ()

    def serve(self, requests: Sequence[Request]) -> FrontEndReport:
        """Serve a stream."""
        return serve_batches(
            requests, self.stages, self.batching, self.slices,
            lambda count, longest: self.model(count, longest).time_ps,
        )  # fmt: skip

    def flood(self, lengths: Sequence[int]) -> tuple[float, FrontEndReport]:
        """Requests a second that are sustained when all come at once, and that run."""
        report = self.serve([Request(0, length) for length in lengths])
        return saturated(report), report

    def gpu_j(self, report: FrontEndReport) -> float:
        """Joules of the GPU's arithmetic, memory and caches, of a run; what it draws at rest is not in it."""
        return sum(self.model(len(b.requests), b.longest).energy_pj for b in report.batches) * 1e-12

    def prepare_ps(self, length: int) -> tuple[int, ...]:
        """Of each stage."""
        return tuple(stage.service_ps(length) for stage in self.stages)
