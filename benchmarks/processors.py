"""Processors and links against measurements, and the constants fitted to some of them.

    python benchmarks/processors.py             every table, and each must: measured, met or MISSED
    python benchmarks/processors.py calibrate   fits the constants anew and prints them

What is fitted to what (everything else is data sheets, or marked assumed in the presets):

- a100-80gb, all four efficiencies: linear layers of Llama-2-7B; those of Llama-2-70B and
  Llama-3-8B validate.
- rtx-pro-6000, ``launch_ns``: Llama-3.1-8B's element-wise layers of at most 16 tokens, but rotation, which
  are not in the table. The other three efficiencies are the A100's. ``row_ns``: norms of queries and keys of
  Qwen3-32B, which are not in the table either. But Llama's other rows were looked at when
  the model was made: they decided the form of attention, what a write to the cache costs (a
  constant of the model, calibrated), and which of two published memory rates holds. They are no
  check. Qwen3-30B-A3B's rows decided no constant, but the form of two norms, those of queries and
  keys: a block a row. They have verdicts of their own.
- nvlink-3: startup and fraction of a transfer, send/recv; those of collectives, all-reduce of two
  ranks. All-reduce of four and eight ranks validates.

The RTX's layers are tasks of lowered programs (benchmarks/layers.py). Where `lower` fuses passes over data
that vLLM does not, they are compared twice: kernel by kernel, of a program without fusion, which no run has;
and all passes of a layer together, fused as in every run ("as run").

The measurements are in tests/data/processor, their origin in tests/data/README.md.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
import timeit
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from layers import LAYERS, PASSES, attention_us, experts_us, layer_us, passes_us

from neardata.arch.link import Link, load_link
from neardata.arch.processor import Processor, load_processor
from neardata.sim.link import all_reduce, send_recv
from neardata.sim.processor import attention, elementwise, expert_matmul, matmul, total

DATA = Path(__file__).parents[1] / "tests" / "data" / "processor"
Rows = list[dict[str, str]]
Pair = tuple[float, float]
"""Predicted and measured."""


def rows_of(name: str) -> Rows:
    with (DATA / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@dataclass(frozen=True)
class Errors:
    """Of predictions, relative to what was measured."""

    rows: int
    median: float
    p90: float
    bias: float
    """Median with the sign: below 0 predicts too little."""

    @classmethod
    def of(cls, pairs: Iterable[Pair]) -> Errors:
        signed = sorted(predicted / measured - 1 for predicted, measured in pairs)
        sizes = sorted(map(abs, signed))
        return cls(len(sizes), median(sizes), sizes[math.ceil(0.9 * len(sizes)) - 1], median(signed))

    def __str__(self) -> str:
        return f"{self.rows:5d} rows  median {self.median:6.1%}  90th {self.p90:6.1%}  bias {self.bias:+6.1%}"


# A100: linear layers

A100_FITTED = "Llama-2-7b-hf"


def a100_linear(gpu: Processor, model: Callable[[str], bool]) -> list[Pair]:
    """Milliseconds."""
    return [
        (
            matmul(gpu, int(row["m_tokens"]), int(row["n"]), int(row["k"])).time_ps / 1e9,
            float(row["time_ms_median"]),
        )
        for row in rows_of("a100_linear.csv")
        if model(row["model"])
    ]


# RTX PRO 6000: layers of two models


RTX_MODELS = {"llama": "llama-3.1-8b", "qwen": "qwen3-30b-a3b"}
RTX_SMALL = 16
"""Element-wise layers of so many tokens take a launch and nothing else to speak of."""


def rtx_attention_us(gpu: Processor, model: str, row: Mapping[str, str]) -> float:
    """A batch of at most one chunk of a prompt and of sequences that decode."""
    chunk, before, decoding, context = (
        int(row[key]) for key in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
    )
    prompts = (chunk,) if chunk else ()
    queries = (*prompts, *(1,) * decoding)
    return attention_us(gpu, model, queries, (*(c + before for c in prompts), *(context,) * decoding))


def rtx_experts_us(gpu: Processor, tokens: int, active: int) -> float:
    """Qwen3's experts, eight a token, evenly over the active ones."""
    pairs = 8 * tokens
    each = [pairs // active + (i < pairs % active) for i in range(active)]
    return experts_us(gpu, RTX_MODELS["qwen"], (*each, *(0,) * (128 - active)))


RTX_LAUNCHED = ("act_fn", "embedding", "final_layernorm", "layernorm")
"""Layers of Llama whose kernels `lower` has one for one: of these few tokens show the launch."""
MATRIX_LAYERS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head")


def rtx_fitted(model: str, layer: str, tokens: int) -> bool:
    """Whether a constant was fitted to this row."""
    return model == "llama" and layer in RTX_LAUNCHED and tokens <= RTX_SMALL


def rtx_dense(gpu: Processor, fitted: bool) -> dict[str, list[Pair]]:
    """Microseconds, by model and layer."""
    families: dict[str, list[Pair]] = {}
    for model, name in RTX_MODELS.items():
        dense = [(r["layer"], int(r["tokens"]), r) for r in rows_of(f"rtxpro6000_{model}_dense.csv")]
        heads = [
            (r["layer"], int(r["sequences"]), r)
            for r in rows_of(f"rtxpro6000_{model}_per_sequence.csv")
            if r["layer"] == "lm_head"
        ]
        for layer, tokens, row in dense + heads:
            if rtx_fitted(model, layer, tokens) == fitted:
                us = layer_us(gpu, name, layer, tokens)
                families.setdefault(f"{model} {layer}", []).append((us, float(row["time_us"])))
    return families


def rtx_passes(gpu: Processor) -> dict[str, list[Pair]]:
    """Microseconds of all passes over data of a layer and the head, fused as in every run, against the
    sum of the profile's kernels."""
    families: dict[str, list[Pair]] = {}
    for model, name in RTX_MODELS.items():
        times: dict[int, dict[str, float]] = {}
        for row in rows_of(f"rtxpro6000_{model}_dense.csv"):
            calls = LAYERS[row["layer"]].calls
            times.setdefault(int(row["tokens"]), {})[row["layer"]] = calls * float(row["time_us"])
        families[f"{model} passes, fused"] = [
            (passes_us(gpu, name, tokens), sum(by_layer[layer] for layer in PASSES if layer in by_layer))
            for tokens, by_layer in times.items()
            if model != "llama" or tokens > RTX_SMALL
        ]
    return families


def rtx_others(gpu: Processor) -> dict[str, list[Pair]]:
    """Microseconds of attention and experts, by model and kind."""
    families: dict[str, list[Pair]] = {}
    for model, name in RTX_MODELS.items():
        for row in rows_of(f"rtxpro6000_{model}_attention.csv"):
            kind = "decode" if row["prefill_chunk"] == "0" else "mixed"
            kind = "prefill" if row["n_decode"] == "0" else kind
            families.setdefault(f"{model} attention, {kind}", []).append(
                (rtx_attention_us(gpu, name, row), float(row["time_us"]))
            )
    families["qwen experts"] = [
        (
            rtx_experts_us(gpu, int(r["tokens"]), int(r["activated_experts"])),
            float(r["time_us"]),
        )
        for r in rows_of("rtxpro6000_qwen_moe.csv")
    ]
    return families


# NVLink of a DGX A100


def nvlink(link: Link, collective: str, ranks: int) -> list[Pair]:
    """Milliseconds. The sizes are bytes of the tensor: were they elements of two bytes, send/recv
    would exceed the links' 300 GB/s."""
    return [
        (
            (send_recv(link, size) if collective == "send_recv" else all_reduce(link, ranks, size)) / 1e9,
            float(row["time_ms_median"]),
        )
        for row in rows_of("a100_dgx_collectives.csv")
        for size in [int(row["size_bytes_as_given"])]
        if row["collective"] == collective and int(row["workers"]) == ranks
    ]


# Splitwise: two models on A100 and H100


@dataclass(frozen=True)
class Dims:
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    width: int
    vocabulary: int


@dataclass(frozen=True)
class Served:
    """A model as vLLM of 2023 served it, FP16."""

    dims: Dims
    layers: int
    gated: bool


SPLITWISE = {
    "llama2-70b": Served(Dims(8192, 28672, 64, 8, 128, 32000), 80, gated=True),
    "bloom-176b": Served(Dims(14336, 57344, 112, 112, 128, 250880), 70, gated=False),
}
MACHINES = {"a100-80gb": ("a100-80gb", "nvlink-3"), "h100-80gb": ("h100-sxm", "nvswitch")}
"""Our processor and link for the names in the file."""


def iteration_ms(
    gpu: Processor, link: Link, served: Served, parallel: int, queries: int, context: int, batch: int
) -> float:
    """One pass over a model of which each GPU has a part of every matrix."""
    dims, tokens = served.dims, queries * batch
    query, key = dims.heads * dims.width // parallel, max(1, dims.kv_heads // parallel) * dims.width
    inner = dims.feed_forward // parallel
    up = 2 * inner if served.gated else inner
    row = 2 * tokens  # bytes of a column in FP16
    layer = (
        elementwise(gpu, 2 * row * dims.hidden, 2 * row * dims.hidden),
        matmul(gpu, tokens, query + 2 * key, dims.hidden),
        elementwise(gpu, row * (query + key), row * (query + key)),
        elementwise(gpu, 2 * row * key, 2 * row * key),
        attention(
            gpu, (queries,) * batch, (context,) * batch, query // dims.width, key // dims.width,
            dims.width, dims.width,
        ),
        matmul(gpu, tokens, dims.hidden, query),
        elementwise(gpu, 2 * row * dims.hidden, 2 * row * dims.hidden),
        matmul(gpu, tokens, up, dims.hidden),
        elementwise(gpu, row * up, row * inner),
        matmul(gpu, tokens, dims.hidden, inner),
    )  # fmt: skip
    ps = served.layers * (total(layer).time_ps + 2 * all_reduce(link, parallel, row * dims.hidden))
    ps += matmul(gpu, batch, dims.vocabulary // parallel, dims.hidden).time_ps
    return ps / 1e9


@dataclass(frozen=True)
class Ratio:
    """H100 over A100 of one configuration of Splitwise's table."""

    model: str
    parallel: int
    of: str
    """``TTFT`` or ``TBT``."""
    predicted: float
    measured: float


def splitwise_ratios() -> list[Ratio]:
    times: dict[tuple[str, ...], dict[str, list[tuple[float, float]]]] = {}
    for row in rows_of("splitwise.csv"):
        key = tuple(row[c] for c in ("model", "tensor_parallel", "prompt_size", "batch_size", "token_size"))
        found = times.setdefault(key, {}).setdefault(row["hardware"], [])
        found.append((float(row["prompt_time"]), float(row["token_time"])))
    machines = {name: (load_processor(gpu), load_link(link)) for name, (gpu, link) in MACHINES.items()}
    ratios = []
    for (model, *sizes), by_machine in times.items():
        parallel, prompt, batch, tokens = map(int, sizes)
        served = SPLITWISE[model]
        first, between = (
            {
                name: iteration_ms(gpu, link, served, parallel, queries, context, batch)
                for name, (gpu, link) in machines.items()
            }
            for queries, context in ((prompt, prompt), (1, prompt + tokens // 2))
        )
        for i, (of, ms) in enumerate((("TTFT", first), ("TBT", between))):
            seen = {name: median(t[i] for t in by_machine[name]) for name in machines}
            ratios.append(
                Ratio(
                    model,
                    parallel,
                    of,
                    ms["h100-80gb"] / ms["a100-80gb"],
                    seen["h100-80gb"] / seen["a100-80gb"],
                )
            )
    return ratios


# fits

STEPS = {
    "matrix": 0.01, "memory": 0.01, "exposed": 0.02, "launch_ns": 100.0,
    "startup_ns": 500.0, "fraction": 0.01, "row_ns": 2.0,
}  # fmt: skip
"""What constants are rounded to."""
Constants = dict[str, float]


def fit(names: Iterable[str], start: Constants, predict: Callable[[Constants], list[Pair]]) -> Constants:
    """Least mean absolute log error, a constant a step at a time until no step helps."""

    def loss(constants: Constants) -> float:
        pairs = predict(constants)
        return sum(abs(math.log(predicted / measured)) for predicted, measured in pairs) / len(pairs)

    names = tuple(names)
    found, least = dict(start), loss(start)
    size = 4
    while size:
        better = False
        for name in names:
            for step in (size * STEPS[name], -size * STEPS[name]):
                trial = {**found, name: round(found[name] + step, 6)}
                if trial[name] <= 0 or (not name.endswith("_ns") and trial[name] > 1):
                    continue
                value = loss(trial)
                if value < least:
                    found, least, better = trial, value, True
        size = size if better else size // 2
    return found


def with_constants(name: str, constants: Constants) -> Processor:
    return load_processor(name, {f"efficiency.{key}.value": value for key, value in constants.items()})


def fit_a100() -> Constants:
    start = {"matrix": 0.8, "memory": 0.85, "exposed": 0.2, "launch_ns": 5000.0}
    return fit(
        start,
        start,
        lambda c: a100_linear(with_constants("a100-80gb", c), lambda model: model == A100_FITTED),
    )


def fit_rtx(a100: Constants) -> Constants:
    """``launch_ns``; the rest is the A100's."""

    def predict(constants: Constants) -> list[Pair]:
        gpu = with_constants("rtx-pro-6000", constants)
        return [pair for pairs in rtx_dense(gpu, fitted=True).values() for pair in pairs]

    return fit(("launch_ns",), a100, predict)


def fit_rtx_rows() -> Constants:
    """``row_ns``, with the preset's launch."""
    rows = rows_of("rtxpro6000_qwen32b_qk_norm.csv")

    def predict(constants: Constants) -> list[Pair]:
        gpu = load_processor("rtx-pro-6000", {"compute.row_ns.value": constants["row_ns"]})
        return [(layer_us(gpu, "qwen3-32b", "qk_norm", int(r["tokens"])), float(r["time_us"])) for r in rows]

    return fit(("row_ns",), {"row_ns": 100.0}, predict)


def fit_nvlink(prefix: str, collective: str) -> Constants:
    """``startup_ns`` and ``fraction``, of transfers or under ``collective.``, on two ranks."""

    def predict(constants: Constants) -> list[Pair]:
        return nvlink(
            load_link("nvlink-3", {f"{prefix}{key}.value": value for key, value in constants.items()}),
            collective,
            2,
        )

    return fit(("startup_ns", "fraction"), {"startup_ns": 20000.0, "fraction": 0.8}, predict)


# output


def verdict(what: str, must: float, measured: float) -> str:
    return f"  {what}: must <= {must:.0%}, measured {measured:.1%}: {'met' if measured <= must else 'MISSED'}"


def print_a100() -> None:
    print("A100-80GB, linear layers in FP16 (efficiencies fitted to the first row)")
    gpu = load_processor("a100-80gb")
    for name in (A100_FITTED, "Llama-2-70b-hf", "Meta-Llama-3-8B"):
        print(f"  {name:18s} {Errors.of(a100_linear(gpu, name.__eq__))}")
    others = Errors.of(a100_linear(gpu, lambda model: model != A100_FITTED))
    print(f"  {'the last two':18s} {others}")
    print(verdict("median", 0.08, others.median))
    print(verdict("90th percentile", 0.20, others.p90))


RTX_REASONS = {
    "rotary_emb": "two kernels of ours, with a launch each, where vLLM has one",
    "embedding": "ours takes its rows from the memory; the profile seems to find them in the cache",
    "final_layernorm": "vLLM's writes the residual back; ours has no use for it, and has it from the cache",
    "layernorm": "not explained: a fifth too long for Qwen3 at any number of tokens",
    "down_proj": "not explained: right up to 512 tokens, too long from there",
    "decode": "not explained: too short where a step has few sequences of short contexts",
}
"""Why families are off by more than `RTX_MUST`, by the end of their names."""
RTX_MUST = 0.12


def rtx_families(gpu: Processor) -> dict[str, list[Pair]]:
    """All of the table, microseconds."""
    return {**rtx_dense(gpu, fitted=False), **rtx_passes(gpu), **rtx_others(gpu)}


def rtx_groups(families: Mapping[str, list[Pair]]) -> dict[str, list[Pair]]:
    """Families together, under the names of the verdicts."""

    def together(chosen: Callable[[str], bool]) -> list[Pair]:
        return [pair for family, pairs in families.items() if chosen(family) for pair in pairs]

    def is_matrix(family: str) -> bool:
        return family.split()[-1] in MATRIX_LAYERS

    def is_fused(family: str) -> bool:
        return family.endswith("fused")

    def is_kernel(family: str) -> bool:
        return family.split()[-1] in PASSES

    def is_other(family: str) -> bool:
        return "attention" in family or "experts" in family

    found = {
        "everything, as run": together(lambda f: not is_kernel(f)),
        "everything, kernel by kernel": together(lambda f: not is_fused(f)),
        "matrix layers": together(is_matrix),
        "passes, as run": together(is_fused),
        "passes, kernel by kernel": together(is_kernel),
        "dense, as run": together(lambda f: is_matrix(f) or is_fused(f)),
        "dense, kernel by kernel": together(lambda f: is_matrix(f) or is_kernel(f)),
        "attention": together(lambda f: "attention" in f),
        "experts": together(lambda f: "experts" in f),
    }
    qwen = {
        "qwen, as run": lambda f: not is_kernel(f),
        "qwen, kernel by kernel": lambda f: not is_fused(f),
        "qwen, matrix layers": is_matrix,
        "qwen, dense, as run": lambda f: not is_kernel(f) and not is_other(f),
        "qwen, dense, kernel by kernel": lambda f: not is_fused(f) and not is_other(f),
    }
    for name, chosen in qwen.items():
        found[name] = together(lambda f, chosen=chosen: f.startswith("qwen") and chosen(f))  # type: ignore[misc]
    return found


def print_rtx() -> None:
    print("\nRTX PRO 6000, layers in BF16 (A100's efficiencies; launch and rows fitted to what is not here)")
    print(
        "  llama rows shaped the model (the form of attention, the cost of a write to the cache, the memory"
    )
    print("  rates): they are no check; qwen rows decided no constant, but the form of two norms")
    families = rtx_families(load_processor("rtx-pro-6000"))
    for family, pairs in families.items():
        print(f"  {family:26s} {Errors.of(pairs)}")
    print("  together")
    groups = {name: Errors.of(pairs) for name, pairs in rtx_groups(families).items()}
    for name, errors in groups.items():
        print(f"  {name:30s} {errors}")
    for name, errors in groups.items():
        found = " (no constant; the form of norms of heads was found on it)" if "qwen" in name else ""
        print(verdict(f"median, {name}{found}", RTX_MUST, errors.median))


def print_nvlink() -> None:
    print("\nNVLink of a DGX A100 (fitted: send/recv; all-reduce of two)")
    link = load_link("nvlink-3")
    sent = Errors.of(nvlink(link, "send_recv", 2))
    print(f"  {'send/recv':14s} {sent}")
    for ranks in (2, 4, 8):
        print(f"  all-reduce, {ranks}  {Errors.of(nvlink(link, 'all_reduce', ranks))}")
    reduced = Errors.of(nvlink(link, "all_reduce", 4) + nvlink(link, "all_reduce", 8))
    print(verdict("median, send/recv", 0.15, sent.median))
    print(verdict("median, all-reduce of four and eight", 0.15, reduced.median))


def splitwise_medians() -> dict[str, Pair]:
    """Predicted and measured ratios by model, metric and GPUs, medians over prompts, batches and outputs."""
    ratios, found = splitwise_ratios(), {}
    for model in SPLITWISE:
        for of in ("TTFT", "TBT"):
            mine = [r for r in ratios if r.model == model and r.of == of]
            for parallel in (None, *sorted({r.parallel for r in mine})):
                some = [r for r in mine if parallel in (None, r.parallel)]
                what = f"{model} {of}" + ("" if parallel is None else f", {parallel} GPUs")
                found[what] = median(r.predicted for r in some), median(r.measured for r in some)
    return found


def print_splitwise() -> None:
    print("\nSplitwise, H100 over A100 (nothing fitted; medians over prompts, batches and outputs)")
    for what, (predicted, measured) in splitwise_medians().items():
        print(f"  {what:24s} predicted {predicted:.3f}  measured {measured:.3f}", end="")
        print(verdict(" off", 0.15, abs(predicted / measured - 1)))
    print("  TBT of llama2-70b as measured, one sequence after 512 tokens, on 2, 4 and 8 GPUs, ms: what does")
    print("  not fall from four to eight is the host, which this model of kernels has not")
    for name in MACHINES:
        rows = [r for r in rows_of("splitwise.csv") if (r["model"], r["hardware"]) == ("llama2-70b", name)]
        ms = [
            median(
                float(r["token_time"]) for r in rows
                if (r["tensor_parallel"], r["batch_size"], r["prompt_size"]) == (parallel, "1", "512")
            )
            for parallel in ("2", "4", "8")
        ]  # fmt: skip
        print(f"  {name:10s} " + "  ".join(f"{x:.1f}" for x in ms))


def print_speed() -> None:
    print("\nCPU time of a call, the least of 5 repetitions (must: below 50 us)")
    gpu, calls = load_processor("a100-80gb"), 400

    def microseconds(call: Callable[[int], object]) -> float:
        def all_calls() -> None:
            for i in range(calls):
                call(i)

        return min(timeit.repeat(all_calls, timer=time.process_time, number=1, repeat=5)) / calls * 1e6

    shapes = iter(range(1, 1 << 30))
    for what, call in (
        ("matmul, a shape seen before", lambda i: matmul(gpu, 128, 4096, 4096)),
        ("matmul, a new shape", lambda i: matmul(gpu, next(shapes), 4096, 4096)),
        ("expert_matmul, 128 experts", lambda i: expert_matmul(gpu, (16,) * 128, 1536, 2048)),
        ("attention, 64 alike", lambda i: attention(gpu, (1,) * 64, (4096,) * 64, 32, 8, 128, 128)),
        ("attention, 8 lengths", lambda i: attention(gpu, (1,) * 8, range(512, 520), 32, 8, 128, 128)),
        ("attention, 64 lengths", lambda i: attention(gpu, (1,) * 64, range(512, 576), 32, 8, 128, 128)),
        ("elementwise", lambda i: elementwise(gpu, 8192, 8192)),
    ):
        us = microseconds(call)
        print(f"  {what:28s} {us:6.1f} us: {'met' if us < 50 else 'MISSED'}")


def print_fits() -> None:
    a100 = fit_a100()
    print("a100-80gb efficiency:", a100)
    print("rtx-pro-6000 efficiency:", fit_rtx(a100))
    print("rtx-pro-6000 compute:", fit_rtx_rows())
    print("nvlink-3:", fit_nvlink("", "send_recv"))
    print("nvlink-3 collective:", fit_nvlink("collective.", "all_reduce"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", nargs="?", choices=["tables", "calibrate"], default="tables")
    if parser.parse_args().action == "calibrate":
        print_fits()
        return
    print_a100()
    print_rtx()
    print_nvlink()
    print_splitwise()
    print_speed()


if __name__ == "__main__":
    main()
