"""Serving against request logs of vLLM, and the two constants fitted to parts of them.

    python benchmarks/serving.py             every comparison, and each must: measured, met or MISSED
    python benchmarks/serving.py calibrate   fits both constants anew and prints them

What is fitted to what:

- `neardata.serving.HOST_PS`, the time of a step beyond its kernels: the mean time per output token of the
  first 100 requests of Llama-3.1-8B, on one card;
- the part of PCI Express's rate that collectives reach between the cards (preset rtx-pro-6000, link
  pcie, collective.fraction): the mean time from scheduling to the first token of the first 100 requests of
  Qwen3-32B, on two cards by tensor parallelism, whose all-reduces of a chunk of a prompt are 21 MB.

The other 200 of both validate, and all of Qwen3-30B-A3B on two ranks with expert parallelism. To that run
no constant is fitted; but these forms were found on it, by its error: matrix tiles of 16 and 32 rows, ranks
of a recorded step filled up to the fullest, and which bytes the ranks exchange. So it is a check of the
constants, not of the forms. The kernels are those of the preset rtx-pro-6000, which has constants fitted to
layers of Llama-3.1-8B and Qwen3-32B; what else was found on layers is in benchmarks/processors.py.

All runs: vLLM 0.19, 300 requests of ShareGPT, about ten a second, 2,048 tokens and 128 sequences a step.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from neardata.arch.system import System, load_system
from neardata.serving import HOST_PS, ExpertParallelCosts, StepCosts
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
"""Requests of Llama-3.1-8B and of Qwen3-32B that a constant is fitted to: the first."""
FORMS = "no constant; but its error found the forms of tiles, filled ranks and exchanged bytes"
"""How Qwen3-30B-A3B's run was used."""
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


def two_cards(fraction: float | None = None) -> System:
    """With another fraction of the link's rate in collectives."""
    system = load_system("rtx-pro-6000").with_counts(gpu=2)
    if fraction is None:
        return system
    use = system.links["pcie"]
    collective = use.overrides["collective"]
    changed = {**collective, "fraction": {**collective["fraction"], "value": fraction}}
    link = use.model_copy(update={"overrides": {**use.overrides, "collective": changed}})
    return replace(system, links={**system.links, "pcie": link})


def qwen_32b(fraction: float | None = None, host_ps: int = HOST_PS) -> tuple[list[Logged], ServingReport]:
    rows = log("qwen32b")
    costs = StepCosts(load_model("qwen3-32b"), two_cards(fraction), host_ps=host_ps)
    return rows, replay(rows, costs, costs.blocks(), 1)


def qwen_experts() -> tuple[list[Logged], ServingReport]:
    rows = log("qwen")
    costs = ExpertParallelCosts(load_model("qwen3-30b-a3b"), two_cards(), limits=Limits())
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


@dataclass(frozen=True)
class Comparison:
    """Requests of a log beside those of a replay."""

    title: str
    fitted: str
    """What of the replay was fitted to which part of the log."""
    first: int
    """Of how many requests that part is."""
    rows: Sequence[Logged]
    report: ServingReport

    @property
    def held(self) -> tuple[Sequence[Logged], Sequence[Served]]:
        """The requests to which nothing was fitted."""
        return self.rows[self.first :], self.report.requests[self.first :]

    def mean_ms(self, name: str) -> tuple[float, float]:
        """Of `held`: measured, ours."""
        rows, served = self.held
        sums = sum(map(MEASURED[name], rows)), sum(map(PREDICTED[name], served))
        return sums[0] / len(rows) * 1e3, sums[1] / len(rows) * 1e3


def comparisons() -> list[Comparison]:
    """All three logs replayed."""
    return [
        Comparison("Llama-3.1-8B, one card", "the host's time of a step, first 100", FITTED, *llama(HOST_PS)),
        Comparison("Qwen3-32B, two cards", "the rate of collectives, first 100", FITTED, *qwen_32b()),
        Comparison("Qwen3-30B-A3B, two ranks", FORMS, 0, *qwen_experts()),
    ]


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


def validate() -> None:
    for one in comparisons():
        if one.first:
            first = one.rows[: one.first], one.report.requests[: one.first]
            compare(f"{one.title}, fitted", *first, musts=False)
        compare(f"{one.title} ({one.fitted})", *one.held, musts=True)
        print(f"  {len(one.report.steps):,} steps; last token {one.report.time_ps * 1e-12:.1f} s,"
              f" measured {max(r.last for r in one.rows):.1f} s")  # fmt: skip
    rows, plain = llama(0)
    tpot = plain.tpot.mean * 1e-12 * len(rows) / sum(map(MEASURED["time per output token"], rows)) - 1
    print(f"\nLlama-3.1-8B without the host's time of a step: mean time per output token {tpot:+.1%}")


def secant(error: Callable[[float], float], low: float, high: float) -> float:
    at_low, at_high = error(low), error(high)
    for _ in range(3):
        guess = low - at_low * (high - low) / (at_high - at_low)
        low, at_low, high, at_high = high, at_high, guess, error(guess)
    return high


def of_first(name: str, rows: Sequence[Logged], report: ServingReport) -> float:
    """Error of a mean of the first requests."""
    predicted = sum(map(PREDICTED[name], report.requests[:FITTED]))
    return predicted / sum(map(MEASURED[name], rows[:FITTED])) - 1


def calibrate() -> None:
    """By secants: both times grow steadily with their constants."""
    host = secant(lambda ps: of_first("time per output token", *llama(round(ps))), 0, 2e9)
    print(f"HOST_PS: {host / 1e9:.2f} ms; now {HOST_PS / 1e9} ms")

    def off(inverse: float) -> float:
        return of_first("scheduled to first token", *qwen_32b(1 / inverse, round(host)))

    print(f"collective.fraction: {1 / secant(off, 2.5, 3.5):.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["calibrate"])
    calibrate() if parser.parse_args().what else validate()
