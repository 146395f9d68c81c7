"""Sections of docs/validation.md: processors, links and serving against measured times."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from page_parts import blocks, percent, prose, share, table
from processors import (
    A100_FITTED,
    RTX_MUST,
    RTX_REASONS,
    Errors,
    Pair,
    a100_linear,
    nvlink,
    rtx_families,
    rtx_groups,
    splitwise_medians,
)
from serving import MUST, comparisons

from neardata.arch.link import load_link
from neardata.arch.processor import load_processor

A100_MODELS = (A100_FITTED, "Llama-2-70b-hf", "Meta-Llama-3-8B")


@dataclass(frozen=True)
class Bounded:
    """Errors of many rows, or of one mean, against a bound."""

    name: tuple[str, ...]
    rows: int
    off: float
    """Median of the sizes of the errors, or the error of a mean."""
    p90: float | None = None
    must: float | None = None
    reason: str = ""

    @property
    def missed(self) -> bool:
        """Off by more than the bound."""
        return self.must is not None and abs(self.off) > self.must

    @property
    def cells(self) -> list[str]:
        """For a table."""
        return [
            *self.name, f"{self.rows:,}", share(self.off), "" if self.p90 is None else share(self.p90),
            "" if self.must is None else share(self.must),
            f"**miss**: {self.reason}" if self.missed else "met" if self.must is not None else "",
        ]  # fmt: skip


def bounded(name: tuple[str, ...], pairs: list[Pair], must: float | None = None, reason: str = "") -> Bounded:
    """Errors of predictions."""
    errors = Errors.of(pairs)
    return Bounded(name, errors.rows, errors.median, errors.p90, must, reason)


@functools.cache
def a100() -> list[Bounded]:
    gpu = load_processor("a100-80gb")
    layers = {name: a100_linear(gpu, name.__eq__) for name in A100_MODELS}
    others = [pair for name, pairs in layers.items() if name != A100_FITTED for pair in pairs]
    together = Errors.of(others)
    return [
        *(bounded((name, "fitted" if name == A100_FITTED else ""), pairs) for name, pairs in layers.items()),
        bounded(("the last two", ""), others, 0.08),
        Bounded(("the last two, 90th percentile", ""), together.rows, together.p90, must=0.20),
    ]


@functools.cache
def rtx() -> tuple[list[Bounded], list[Bounded]]:
    """By family, and together."""
    families = rtx_families(load_processor("rtx-pro-6000"))
    by_family = []
    for name, pairs in families.items():
        reason = next((why for end, why in RTX_REASONS.items() if name.endswith(end)), "")
        by_family.append(bounded((name,), pairs, RTX_MUST, reason))
    single = "the single passes above"
    together = [bounded((n,), pairs, RTX_MUST, single) for n, pairs in rtx_groups(families).items()]
    return by_family, together


@functools.cache
def nvlinks() -> list[Bounded]:
    link = load_link("nvlink-3")
    return [
        bounded(("send/recv", "fitted"), nvlink(link, "send_recv", 2), 0.15),
        bounded(("all-reduce of 2", "fitted"), nvlink(link, "all_reduce", 2)),
        bounded(("all-reduce of 4", ""), nvlink(link, "all_reduce", 4), 0.15),
        bounded(("all-reduce of 8", ""), nvlink(link, "all_reduce", 8), 0.15),
    ]


@functools.cache
def splitwise() -> list[tuple[str, float, float]]:
    return [(what, measured, ours) for what, (ours, measured) in splitwise_medians().items()]


@functools.cache
def served() -> list[tuple[tuple[str, ...], float, float, float]]:
    """Name, must, measured and ours in ms."""
    return [
        ((one.title, one.fitted, str(len(one.held[0])), name), must, *one.mean_ms(name))
        for one in comparisons()
        for name, must in MUST.items()
    ]


def processors_section() -> str:
    by_family, together = rtx()
    titles = ["rows", "median error", "90th", "must", ""]
    return blocks(
        "## Processors and links, against measured times",
        prose("""
            Rows are measured kernels of others; errors are of each row, relative to what was measured.
            What the constants of the presets were fitted to is said in `benchmarks/processors.py`, which
            prints the same tables; bounds are ours. *A100-80GB*, linear layers in FP16, of Vidur: the
            efficiencies are fitted to Llama-2-7B.
        """),
        table(["layers of", "", *titles], (row.cells for row in a100())),
        prose("""
            *RTX PRO 6000*, layers in BF16, of LLMServingSim's profiles with vLLM 0.19, against tasks of
            lowered programs. The efficiencies are the A100's; the launch is fitted to Llama's passes of at
            most 16 tokens, the reduction of rows to norms of Qwen3-32B, and neither is in the table. Llama's
            rows shaped the model: they are no check. Qwen3-30B-A3B's decided no constant, but the form
            of two norms. *As run*: all passes over data of a layer together, fused as in every run, against
            the sum of the profile's kernels; errors of single kernels cancel in it, and ours append keys and
            values too. *Kernel by kernel*: of a program without fusion, which no run has.
        """),
        table(["layers", *titles], (row.cells for row in by_family)),
        table(["together", *titles], (row.cells for row in together)),
        "*NVLink of a DGX A100*, NCCL's times of Vidur:",
        table(["collective", "", *titles], (row.cells for row in nvlinks())),
        prose("""
            *Splitwise*, H100 over A100, the ratio of medians over prompts, batches and outputs; nothing
            is fitted. The bound is 15 %.
        """),
        table(
            ["time", "measured", "here", "difference", ""],
            ([what, f"{measured:.3f}", f"{ours:.3f}", percent(ours / measured - 1),
              f"**miss**: {HOST}" if abs(ours / measured - 1) > 0.15 else "met"]
             for what, measured, ours in splitwise()),
        ),
    )  # fmt: skip


HOST = "what does not fall from four to eight GPUs is the host's time, which the model of kernels has not"


def serving_section() -> str:
    return blocks(
        "## Serving, against vLLM's logs",
        prose("""
            Three logs of vLLM 0.19 on RTX PRO 6000 cards, 300 requests of ShareGPT each, replayed
            (`benchmarks/serving.py`): means in ms over the requests to which nothing was fitted. What
            still differs is in [serving.md](serving.md).
        """),
        table(
            ["run", "fitted", "requests", "mean of", "vLLM", "here", "difference", "must", ""],
            ([*name, f"{measured:,.1f}", f"{ours:,.1f}", percent(ours / measured - 1), share(must),
              "**miss**" if abs(ours / measured - 1) > must else "met"]
             for name, must, measured, ours in served()),
        ),
    )  # fmt: skip


def measured_lines() -> list[list[str]]:
    """Of the summary: processors, links and serving."""
    families, together = rtx()
    (as_run,) = (row for row in together if row.name == ("everything, as run",))
    (held,) = (row for row in a100() if row.must == 0.08)
    ratios = [(ours / theirs - 1, 0.15) for _, theirs, ours in splitwise()]
    means = [(ours / theirs - 1, must) for _, must, theirs, ours in served()]

    def errors(name: str, row: Bounded, over: Sequence[Bounded]) -> list[str]:
        return [name, "time of a kernel", f"{row.rows:,} rows", f"{share(row.off)} (median)",
                misses([r.missed for r in over])]  # fmt: skip

    def worst(name: str, what: str, count: str, off: list[tuple[float, float]]) -> list[str]:
        return [name, what, f"{len(off)} {count}", percent(max((o for o, _ in off), key=abs)),
                misses([abs(o) > must for o, must in off])]  # fmt: skip

    return [
        errors("A100, linear layers (Vidur)", held, a100()),
        errors("RTX PRO 6000, layers (vLLM's profile)", as_run, families),
        errors("NVLink, collectives of 4 and 8 (NCCL)", max(nvlinks()[2:], key=lambda r: r.off), nvlinks()),
        worst("Splitwise, H100 over A100", "ratio of times", "medians", ratios),
        worst("request logs of vLLM", "time per token, first token, end to end", "means", means),
    ]


def misses(of: Sequence[bool]) -> str:
    """``3 misses``; nothing where there is none."""
    return f"{sum(of)} misses" if sum(of) > 1 else "1 miss" if any(of) else ""
