"""Serving against request logs of vLLM, and the one constant fitted to a part of one.

    python benchmarks/serving.py             every comparison, and each must: measured, met or MISSED
    python benchmarks/serving.py calibrate   fits the host's time of a step anew and prints it

What is fitted to what: `neardata.serving.HOST_PS`, the time of a step beyond its kernels, to the mean
time per output token of the first 100 requests of Llama-3.1-8B. The other 200, and all of Qwen3-30B-A3B on
two ranks with expert parallelism, validate. The kernels are those of the preset rtx-pro-6000, which has a
constant fitted to element-wise layers of Llama-3.1-8B (benchmarks/processors.py); the exchange between
ranks is not fitted at all.

Both runs: vLLM 0.19, 300 requests of ShareGPT, about ten a second, 2,048 tokens and 128 sequences a step.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from neardata.arch.system import load_system
from neardata.serving import HOST_PS, ExpertParallelCosts, StepCosts
from neardata.sim.processor import attention
from neardata.sim.serving import (
    Arrival,
    Distribution,
    Instance,
    Limits,
    Served,
    ServingReport,
    StepTime,
    serve,
)
from neardata.workloads.llm.model import load_model

DATA = Path(__file__).parents[1] / "tests" / "data"
FITTED = 100
"""Requests of Llama-3.1-8B that the constant is fitted to: the first."""
MUST = {"time per output token": 0.10, "end to end": 0.10, "time to first token": 0.20}


@dataclass(frozen=True)
class Logged:
    """A request of a log, seconds."""

    prompt: int
    generated: int
    arrival: float
    scheduled: float
    first: float
    last: float


def log(name: str) -> list[Logged]:
    with (DATA / "serving" / f"vllm_rtxpro6000_{name}.csv").open(encoding="utf-8") as file:
        return [
            Logged(
                int(row["input_toks"]), int(row["output_toks"]), float(row["arrival_s"]),
                float(row["scheduled_s"]), float(row["first_token_s"]), float(row["last_token_s"]),
            )
            for row in csv.DictReader(file)
        ]  # fmt: skip


def replay(rows: Sequence[Logged], step: StepTime, blocks: int, ranks: int) -> ServingReport:
    requests = [Arrival(round(r.arrival * 1e12), r.prompt, r.generated) for r in rows]
    return serve(requests, [Instance(step, Limits(blocks=blocks), ranks, ahead=True)])


def llama(host_ps: int) -> tuple[list[Logged], ServingReport]:
    rows = log("llama")
    costs = StepCosts(
        load_model("llama-3.1-8b"), load_system("rtx-pro-6000").with_counts(gpu=1), host_ps=host_ps
    )
    return rows, replay(rows, costs, costs.blocks(), 1)


def qwen(costs: ExpertParallelCosts) -> tuple[list[Logged], ServingReport]:
    rows = log("qwen")
    return rows, replay(rows, costs, costs.blocks(), 2)


MEASURED: dict[str, Callable[[Logged], float]] = {
    "time per output token": lambda r: (r.last - r.first) / (r.generated - 1),
    "end to end": lambda r: r.last - r.arrival,
    "time to first token": lambda r: r.first - r.arrival,
    "queued": lambda r: r.scheduled - r.arrival,
    "scheduled to first token": lambda r: r.first - r.scheduled,
}
PREDICTED: dict[str, Callable[[Served], float]] = {
    "time per output token": lambda s: (s.tpot_ps or 0) * 1e-12,
    "end to end": lambda s: s.e2e_ps * 1e-12,
    "time to first token": lambda s: s.ttft_ps * 1e-12,
    "queued": lambda s: s.queued_ps * 1e-12,
    "scheduled to first token": lambda s: (s.first_ps - s.scheduled_ps) * 1e-12,
}


def compare(title: str, rows: Sequence[Logged], served: Sequence[Served], *, musts: bool) -> None:
    print(f"\n{title}: {len(rows)} requests, ms")
    for name, of in MEASURED.items():
        measured, ours = Distribution.of(map(of, rows)), Distribution.of(map(PREDICTED[name], served))
        pairs = [(getattr(ours, p), getattr(measured, p)) for p in ("mean", "p50", "p90", "p99")]
        cells = "  ".join(f"{p * 1e3:8.1f} /{m * 1e3:8.1f}" for p, m in pairs)
        line = f"  {name:25s} mean, p50, p90, p99 (ours / measured): {cells}"
        error = pairs[0][0] / pairs[0][1] - 1
        print(f"{line}  mean {error:+.1%}")
    if musts:
        for name, must in MUST.items():
            ours = sum(map(PREDICTED[name], served)) / sum(map(MEASURED[name], rows)) - 1
            verdict = "met" if abs(ours) <= must else "MISSED"
            print(f"  must: mean {name} within {must:.0%}, measured {ours:+.1%}: {verdict}")


class WithMeasuredKernels(ExpertParallelCosts):
    """Qwen3's experts and attention scaled to their measured times at full batch: 256 tokens to 64
    experts, and 128 sequences of 1,728 tokens. Tells how much of an error is the kernels'."""

    experts_factor = attention_factor = 1.0

    def measure(self) -> None:
        with (DATA / "processor" / "rtxpro6000_qwen_moe.csv").open(encoding="utf-8") as file:
            (row,) = [
                r for r in csv.DictReader(file) if (r["tokens"], r["activated_experts"]) == ("256", "64")
            ]
        layers = self.model.layers
        self.experts_factor = float(row["time_us"]) * 1e6 * layers / super()._experts_ps(256)
        with (DATA / "processor" / "rtxpro6000_qwen_attention.csv").open(encoding="utf-8") as file:
            (row,) = [
                r for r in csv.DictReader(file)
                if (r["prefill_chunk"], r["n_decode"], r["kv_decode"]) == ("0", "128", "1728")
            ]  # fmt: skip
        model = self.model
        ours = attention(
            self.own.processor, (1,) * 128, (1728,) * 128, model.heads, model.kv_heads, model.head_dim,
            model.head_dim, kv_format="bf16", activation_dtype="bf16",
        )  # fmt: skip
        self.attention_factor = float(row["time_us"]) * 1e6 / ours.time_ps

    def _experts_ps(self, tokens: int) -> int:
        return round(super()._experts_ps(tokens) * self.experts_factor)

    def _own_ps(self, batch) -> int:  # type: ignore[no-untyped-def]
        whole = super()._own_ps(batch)
        fixed = self._own[batch.tokens, len(batch.new_tokens)]
        if max(batch.new_tokens) > 1:  # chunks are compute: not what was measured
            return whole
        return whole + round(self.own.attention_ps(fixed, batch) * (self.attention_factor - 1))


def validate() -> None:
    began = time.perf_counter()
    rows, report = llama(HOST_PS)
    took = time.perf_counter() - began
    compare("Llama-3.1-8B, one GPU, fitted", rows[:FITTED], report.requests[:FITTED], musts=False)
    compare("Llama-3.1-8B, one GPU", rows[FITTED:], report.requests[FITTED:], musts=True)
    print(f"  {len(report.steps):,} steps in {took:.1f} s; last token {report.time_ps * 1e-12:.1f} s,"
          f" measured {max(r.last for r in rows):.1f} s")  # fmt: skip
    _, plain = llama(0)
    tpot = plain.tpot.mean * 1e-12 * len(rows) / sum(map(MEASURED["time per output token"], rows)) - 1
    print(f"  without the fitted constant: mean time per output token {tpot:+.1%}")
    model, system = load_model("qwen3-30b-a3b"), load_system("rtx-pro-6000").with_counts(gpu=2)
    began = time.perf_counter()
    rows, report = qwen(ExpertParallelCosts(model, system))
    took = time.perf_counter() - began
    compare("Qwen3-30B-A3B, two ranks, expert parallelism", rows, report.requests, musts=True)
    print(f"  {len(report.steps):,} steps in {took:.1f} s; last token {report.time_ps * 1e-12:.1f} s,"
          f" measured {max(r.last for r in rows):.1f} s")  # fmt: skip
    costs = WithMeasuredKernels(model, system)
    costs.measure()
    rows, report = qwen(costs)
    compare(
        f"the same, experts x {costs.experts_factor:.3f} and attention of decode x"
        f" {costs.attention_factor:.3f} as measured alone (no validation: the kernels' share of the error)",
        rows, report.requests, musts=False,
    )  # fmt: skip


def calibrate() -> None:
    """By secants: the mean time per output token grows with the host's time."""
    target = sum(map(MEASURED["time per output token"], log("llama")[:FITTED])) / FITTED

    def error(host_ps: int) -> float:
        _, report = llama(host_ps)
        return sum((r.tpot_ps or 0) for r in report.requests[:FITTED]) * 1e-12 / FITTED - target

    low, high = 0, 2_000_000_000
    at_low, at_high = error(low), error(high)
    for _ in range(2):
        guess = round(low - at_low * (high - low) / (at_high - at_low))
        low, at_low, high, at_high = high, at_high, guess, error(guess)
    print(
        f"HOST_PS: {high / 1e9:.2f} ms (mean of the first {FITTED}: {at_high / target:+.2%});"
        f" now {HOST_PS / 1e9} ms"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["calibrate"])
    calibrate() if parser.parse_args().what else validate()
