"""What studies of inference servers' front ends compute; see `neardata.study_models`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from math import floor
from statistics import fmean
from typing import Any

from neardata.arch.errors import InputError, nearest
from neardata.arch.link import load_link
from neardata.arch.processor.mig import mig_slice, most_slices
from neardata.arch.stream import Pipeline, load_fpga, load_pipeline
from neardata.frontend import Server, compute_units, length_of, link_stage, requests_of
from neardata.sim.frontend import PARTS, Batching, FrontEndReport, Request, Stage
from neardata.slices import Eager, Knees
from neardata.workloads.input_requests import LENGTHS, random_inputs
from neardata.workloads.networks import network_named

MELS, SAMPLES_A_FRAME, FP32_BYTES = 80, 160, 4
FIXED_FRAMES, LONG_FRAMES = 250, 1000
"""Inputs of the paper's characterisation (2.5 s), and longer ones."""
HOURS_A_YEAR = 8760
Figures = dict[str, float]


class _Case:
    """A model with everything in front of it."""

    def __init__(self, name: str, given: Mapping[str, Any]) -> None:
        self.name, self.given = name, given
        network, self.speech = network_named(name)
        issue_ps, part = round(given["issue_us"] * 1e6), mig_slice(given["slice"])
        self.slices = most_slices(given["slice"])
        self.model = Eager(network, part, issue_ps)
        self.knee = Knees(self.model, given["knee_gain"])
        self.whole_knee = Knees(Eager(network, mig_slice("7g.40gb"), issue_ps), given["knee_gain"])
        self.fixed = FIXED_FRAMES if self.speech else 1
        self.wait_ps = self.knee.ps(self.fixed) // self.slices
        self.link = load_link(given["link"])
        self.n = given["requests"]
        self.lengths = [request.length for request in self.stream(1.0)]
        self.mean = length_of(LENGTHS[given["lengths"]].mean_s) if self.speech else 1

    def stream(self, rate_per_s: float, *, fixed: bool = False) -> list[Request]:
        """Poisson arrivals of real lengths, or of those of the characterisation."""
        lengths = (FIXED_FRAMES / 100 if fixed else self.given["lengths"]) if self.speech else 0.0
        return requests_of(
            random_inputs(self.n, rate_per_s=rate_per_s, seconds=lengths, seed=self.given["seed"])
        )

    # --- batchers ----------------------------------------------------------------------------------

    def dynamic(self) -> Batching:
        """PREBA's: full at the knee of a bucket's greatest length."""
        if not self.speech:
            return self.static()
        width = round(self.given["bucket_s"] * 100)
        return Batching(lambda bucket: self.knee((bucket + 1) * width), self.wait_ps, width)

    def static(self, length: int | None = None) -> Batching:
        """One queue, full at the knee of one length (default: the mean)."""
        full = self.knee(length or self.mean)
        return Batching(lambda bucket: full, self.wait_ps)

    # --- what prepares -----------------------------------------------------------------------------

    def bytes_in(self, length: int) -> int:
        """Of an input that is not prepared."""
        return FP32_BYTES * SAMPLES_A_FRAME * length if self.speech else self.given["image"]["jpeg_bytes"]

    def bytes_out(self, length: int) -> int:
        """Of a prepared one, in single precision."""
        return FP32_BYTES * (MELS * length if self.speech else 3 * 224 * 224)

    def to_gpu(self) -> Stage:
        return link_stage("to the GPU", self.link, self.bytes_out)

    def cores(self, core_ps: Callable[[int], int]) -> tuple[Stage, ...]:
        """Cores of the host, and the way to the GPU."""
        return Stage("cores", self.given["cores"], core_ps), self.to_gpu()

    def units(self) -> tuple[Stage, ...]:
        """Data-processing units, the ways to them and back, and the way to the GPU."""
        units = unit_counts(self.given["units"])
        if self.speech:
            pipeline, count = speech_unit(), units["speech"]

            def properties(length: int) -> dict[str, int]:
                return {"samples": SAMPLES_A_FRAME * length, "frames": length}
        else:
            pipeline, count = image_unit(self.given["units"]), units["image"]
            pixels = self.given["image"]["pixels"]

            def properties(length: int) -> dict[str, int]:
                return {"pixels": pixels}

        return (
            link_stage("to the units", self.link, self.bytes_in),
            compute_units("units", pipeline, count, properties),
            link_stage("from the units", self.link, self.bytes_out),
            self.to_gpu(),
        )

    def server(self, batching: Batching, stages: tuple[Stage, ...] = ()) -> Server:
        return Server(self.model, self.slices, batching, stages)

    @cached_property
    def fixed_lengths(self) -> list[int]:
        return [self.fixed] * self.n


def image_unit(units: Mapping[str, Any]) -> Pipeline:
    """PREBA's image unit with the rate and the clock of a published decoder."""
    return load_pipeline(
        "preba-image",
        {
            "clocks.fabric.mhz": units["decoder_mhz"],
            "stages.decode.timing.cost.per_unit": round(1 / units["decoder_pixels_per_cycle"], 3),
        },
    )


def speech_unit() -> Pipeline:
    """PREBA's speech unit."""
    return load_pipeline("preba-audio")


def unit_counts(units: Mapping[str, Any]) -> dict[str, int]:
    """Units of each kind that Table 1 holds: as many as their largest part fits into that part's row.

    Raises:
        InputError: not even one.
    """
    fpga = load_fpga("u55c")
    assert fpga.lut is not None and fpga.dsp is not None
    decode = load_pipeline("preba-image").stages["decode"].resources
    mel = load_pipeline("preba-audio").stages["mel"].resources
    assert decode is not None and mel is not None
    found = {
        "image": floor(decode.lut / 100 * fpga.lut.value / units["decoder_lut"]),
        "speech": floor(mel.dsp / 100 * fpga.dsp.value / units["mel_dsp"]),
    }
    for kind, count in found.items():
        if count < 1:
            raise InputError(f"no {kind} unit fits into its row of Table 1", key="units")
    return found


def preba(
    models: Sequence[str],
    slice: str,
    issue_us: float,
    knee_gain: float,
    cores: int,
    cpu_image_ms: float,
    cpu_speech: Mapping[str, Any],
    image: Mapping[str, int],
    lengths: str,
    units: Mapping[str, Any],
    link: str,
    bucket_s: float,
    load: float,
    percentile: float,
    power: Mapping[str, float],
    prices: Mapping[str, float],
    requests: int,
    seed: int,
) -> Figures:
    """Inference on slices of a GPU behind cores (base), behind data-processing units, and behind nothing.

    Args:
        models: networks; those of speech take inputs of many lengths.
        slice: of `neardata.arch.processor.mig.MIG`.
        issue_us: host time of each kernel.
        knee_gain: `neardata.slices.knee`.
        cores: of the host.
        cpu_image_ms: of a core, for an image.
        cpu_speech: ``cores`` that feed ``model`` with inputs of 2.5 s, from which the time of a core for a
            second of speech follows; ``fixed_share`` of it does not depend on the length.
        image: ``pixels`` and ``jpeg_bytes`` of an image.
        lengths: of speech, of `neardata.workloads.input_requests.LENGTHS`.
        units: what a decoder takes and does, and the DSPs of a mel unit.
        link: of `neardata.arch.link.link_names`, between the host and each card.
        bucket_s: of lengths that wait together.
        load: part of what the base sustains at which latencies are compared.
        percentile: of the latencies.
        power: ``cpu_idle_w``, ``cpu_tdp_w``, ``gpu_idle_w``, ``fpga_w``.
        prices: ``server``, ``gpu``, ``fpga`` in USD; ``years``, ``usd_per_kwh``.
        requests, seed: of each run.
    """
    given = dict(locals())
    cases = {name: _Case(name, given) for name in models}
    if cpu_speech["model"] not in cases:
        raise InputError(
            f"no model is '{cpu_speech['model']}'{nearest(cpu_speech['model'], cases)}", key="cpu_speech"
        )
    calibrated = cases[cpu_speech["model"]]
    ideal_fixed, _ = calibrated.server(calibrated.static(FIXED_FRAMES)).flood(calibrated.fixed_lengths)
    fixed_ps = cpu_speech["cores"] * 1e12 / ideal_fixed
    share = cpu_speech["fixed_share"]

    def speech_ps(length: int) -> int:
        return round(fixed_ps * (share + (1 - share) * length / FIXED_FRAMES))

    figures: Figures = {"cpu_ms_a_second": fixed_ps / 2.5e9}
    figures |= {f"units/{kind}": count for kind, count in unit_counts(units).items()}
    for name, case in cases.items():
        core_ps = speech_ps if case.speech else lambda length: round(cpu_image_ms * 1e9)
        found = _knees(case) | _rates(case, core_ps)
        found |= _tails(case, core_ps, found["base"], fixed=False)
        found |= _tails(case, core_ps, found["base_fixed"], fixed=True)
        figures |= {f"{key}/{name}": value for key, value in found.items()}
    figures |= _averages(figures, cases)
    if others := [name for name in cases if name != cpu_speech["model"]]:
        figures["predicted/energy_gain"] = fmean(figures[f"energy_gain/{name}"] for name in others)
    return figures


def _knees(case: _Case) -> Figures:
    found: Figures = {
        "knee": case.knee(case.fixed),
        "whole_knee": case.whole_knee(case.fixed),
        "time_knee_ms": case.knee.ps(case.fixed) / 1e9,
    }
    if case.speech:
        found["time_knee_10s_ms"] = case.knee.ps(LONG_FRAMES) / 1e9
    return found


def _rates(case: _Case, core_ps: Callable[[int], int]) -> Figures:
    """What is sustained, and the power and the cost of it."""
    given, lengths = case.given, case.lengths
    cores, dpus = case.cores(core_ps), case.units()
    ideal_fixed, _ = case.server(case.static(case.fixed)).flood(case.fixed_lengths)
    base_fixed, _ = case.server(case.static(case.fixed), cores).flood(case.fixed_lengths)
    preba_fixed, _ = case.server(case.static(case.fixed), dpus).flood(case.fixed_lengths)
    ideal, _ = case.server(case.dynamic()).flood(lengths)
    servers = {
        "base": case.server(case.static(), cores),
        "dpu": case.server(case.static(), dpus),
        "preba": case.server(case.dynamic(), dpus),
    }
    found: Figures = {
        "ideal_fixed": ideal_fixed,
        "base_fixed": base_fixed,
        "drop_percent": 100 * (1 - base_fixed / ideal_fixed),
        "cores": ideal_fixed * core_ps(case.fixed) / 1e12,
        "preba_fixed": preba_fixed,
        "gb_per_s": preba_fixed * (case.bytes_in(case.fixed) + case.bytes_out(case.fixed)) / 1e9,
        "ideal": ideal,
    }
    watts: dict[str, float] = {}
    core_s = fmean(core_ps(length) for length in lengths) / 1e12
    for name, server in servers.items():
        rate, report = server.flood(lengths)
        found[name] = rate
        gpu_w = given["power"]["gpu_idle_w"] + rate * server.gpu_j(report) / len(lengths)
        cpu_w = _cpu_w(case, rate, core_s if name == "base" else 0.0, report)
        fpga_w = 0.0 if name == "base" else given["power"]["fpga_w"]
        watts[name] = gpu_w + cpu_w + fpga_w
        found |= {f"{name}_gpu_w": gpu_w, f"{name}_cpu_w": cpu_w, f"{name}_padding": report.padding}
    found["loss_percent"] = 100 * (1 - found["base"] / ideal)
    found["of_ideal_percent"] = 100 * found["preba"] / ideal
    found["gain"] = found["preba"] / found["base"]
    found["dpu_gain_percent"] = 100 * (found["dpu"] / found["base"] - 1)
    found["batching_gain_percent"] = 100 * (found["preba"] / found["dpu"] - 1)
    found["energy_gain"] = found["gain"] * watts["base"] / watts["preba"]
    prices = given["prices"]
    cost = {name: _cost(prices, watts[name], fpga=name != "base") for name in ("base", "preba")}
    found["cost_gain"] = found["gain"] * cost["base"] / cost["preba"]
    found["cpu_less_percent"] = 100 * (1 - found["preba_cpu_w"] / found["base_cpu_w"])
    found["gpu_more"] = found["preba_gpu_w"] / found["base_gpu_w"]
    return found


def _cpu_w(case: _Case, rate: float, core_s: float, report: FrontEndReport) -> float:
    """Cores that prepare, and one of each slice that issues kernels and waits while a batch runs."""
    power = case.given["power"]
    executing = rate * sum(b.done_ps - b.begun_ps for b in report.batches) / 1e12 / len(report.requests)
    busy = min(1.0, (rate * core_s + executing) / case.given["cores"])
    return power["cpu_idle_w"] + busy * (power["cpu_tdp_w"] - power["cpu_idle_w"])


def _cost(prices: Mapping[str, float], watts: float, *, fpga: bool) -> float:
    """USD of machines and energy."""
    machines = prices["server"] + prices["gpu"] + fpga * prices["fpga"]
    return machines + prices["years"] * HOURS_A_YEAR * watts / 1000 * prices["usd_per_kwh"]


def _tails(case: _Case, core_ps: Callable[[int], int], base_per_s: float, *, fixed: bool) -> Figures:
    """Latencies where the base is loaded, with inputs of real lengths or of the characterisation's."""
    given = case.given
    servers = {
        "base": case.server(case.static(case.fixed if fixed else None), case.cores(core_ps)),
        "preba": case.server(case.dynamic(), case.units()),
    }
    stream = case.stream(given["load"] * base_per_s, fixed=fixed)
    found: Figures = {}
    for name, server in servers.items():
        report = server.serve(stream)
        found[f"{name}_tail_ms"] = report.latency_ps(given["percentile"]) / 1e9
        parts = [report.parts_ps(r, server.prepare_ps(r.length)) for r in report.requests]
        whole = sum(sum(p.values()) for p in parts)
        for part in PARTS:
            found[f"{name}_{part}_percent"] = 100 * sum(p[part] for p in parts) / whole
    found["share_percent"] = found["base_queue_percent"] + found["base_prepare_percent"]
    found["tail_gain"] = found["base_tail_ms"] / found["preba_tail_ms"]
    return {key + "_fixed" * fixed: value for key, value in found.items()}


def _averages(figures: Mapping[str, float], cases: Mapping[str, _Case]) -> Figures:
    def mean(key: str, names: Sequence[str]) -> float:
        return fmean(figures[f"{key}/{name}"] for name in names)

    every = list(cases)
    speech = [name for name, case in cases.items() if case.speech]
    found = {
        key: mean(key, every)
        for key in ("gain", "drop_percent", "loss_percent", "tail_gain", "tail_gain_fixed", "energy_gain",
                    "cost_gain", "cpu_less_percent")
    }  # fmt: skip
    found |= {key: mean(key, speech) for key in ("dpu_gain_percent", "batching_gain_percent", "gpu_more")}
    found["time_knee_ms"] = mean("time_knee_ms", speech)
    found["time_knee_10s_ms"] = mean("time_knee_10s_ms", speech)
    reached = sorted((figures[f"of_ideal_percent/{name}"] for name in every), reverse=True)
    found["of_ideal_percent/fifth"] = reached[min(4, len(reached) - 1)]
    return found
