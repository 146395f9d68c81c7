"""Step times are those of the whole graph; the logs of vLLM come out; studies run."""

import csv
import doctest
from pathlib import Path

import pytest

import neardata.serving
from neardata.arch.errors import InputError
from neardata.arch.system import load_system
from neardata.mappers.lower import lower
from neardata.mappers.mapping import Mapping
from neardata.serving import HOST_PS, IDLE, ExpertParallelCosts, StepCosts, representatives
from neardata.sim.serving import Arrival, Batch, Instance, Limits, serve
from neardata.sim.system.engine import run
from neardata.workloads.llm.decoder import llm
from neardata.workloads.llm.model import load_model
from neardata.workloads.llm.routing import Uniform

DATA = Path(__file__).parents[1] / "data" / "serving"
NO_PIM = Mapping(on_pim="nothing")


class SameInAllLayers:
    """So that layers alike are alike in their routing too."""

    def counts(self, layer, tokens, experts, top_k):
        return Uniform(seed=1).counts(0, tokens, experts, top_k)


STEPS = {
    "decode": ((1,) * 9, (700, 1, 20, 3000, 77, 77, 512, 513, 4096)),
    "prompt": ((300,), (300,)),
    "mixed": ((1, 1, 1, 200, 57), (64, 900, 1000, 200, 1081)),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("model", "system", "gpus", "layers"),
    [
        ("llama-3.1-8b", "rtx-pro-6000", 1, None),
        ("llama-3.1-8b", "h100", 4, 6),
        ("qwen3-30b-a3b", "a100", 1, 5),
        ("deepseek-v2-lite", "h100", 1, 6),
        ("mistral-7b-v0.1", "a100", 2, 3),
    ],
)
def test_a_step_takes_what_its_whole_graph_takes(model, system, gpus, layers, step):
    new, contexts = STEPS[step]
    found = load_model(model)
    if layers is not None:
        experts = found.experts
        if experts is not None:
            experts = experts.model_copy(update={"layers": tuple(i for i in experts.layers if i < layers)})
        found = found.model_copy(update={"layers": layers, "experts": experts})
    machine = load_system(system).with_counts(gpu=gpus)
    graph = llm(
        found, "decode" if step == "decode" else "prefill", context=contexts, new_tokens=new, absorbed=True,
        routing=SameInAllLayers(),
    )  # fmt: skip
    whole = run(lower(graph, machine, NO_PIM), machine).time_ps
    costs = StepCosts(found, machine, host_ps=0, routing=SameInAllLayers())
    assert costs([Batch(new, contexts)]) == whole
    assert costs([Batch(new, contexts)]) == whole, "looked up"


def test_the_host_adds_to_every_step():
    model, system = load_model("llama-3.1-8b"), load_system("h100").with_counts(gpu=1)
    step = [Batch((1,), (10,))]
    assert StepCosts(model, system, host_ps=123)(step) - StepCosts(model, system, host_ps=0)(step) == 123


def ranks(gpus=2, **options):
    return ExpertParallelCosts(
        load_model("qwen3-30b-a3b"), load_system("rtx-pro-6000").with_counts(gpu=gpus), host_ps=0, **options
    )


def test_ranks_wait_for_each_other_and_an_idle_one_runs_a_dummy():
    costs = ranks()
    small, large = Batch((1,) * 4, (100,) * 4), Batch((1,) * 64, (2000,) * 64)
    both = costs([small, large])
    assert both == costs([large, small])
    assert costs([large, Batch()]) == costs([large, IDLE])
    assert both > costs([small, small])
    assert costs([large, large]) > both, "more tokens for the experts"


def test_half_of_the_experts_take_half_of_the_time_where_weights_decide():
    tokens = [Batch((1,) * 64, (100,) * 64)]
    alone = StepCosts(load_model("qwen3-30b-a3b"), load_system("rtx-pro-6000").with_counts(gpu=1), host_ps=0)
    costs = ranks()
    shared = costs([Batch((1,) * 32, (100,) * 32)] * 2) - costs.exchange_ps(32)
    assert 0.5 < shared / alone(tokens) < 0.75


def test_memory_left_for_keys_and_values():
    # 96 GB x 0.9 less 16.06 GB of weights, in blocks of 16 tokens of 128 KiB
    model = load_model("llama-3.1-8b")
    costs = StepCosts(model, load_system("rtx-pro-6000").with_counts(gpu=1))
    assert costs.blocks() == (86_400_000_000 - 2 * model.parameters) // (16 * 131072)
    qwen = load_model("qwen3-30b-a3b")
    held = 2 * (qwen.parameters - 64 * 48 * qwen.expert_parameters)
    assert ranks().blocks() == (86_400_000_000 - held) // (16 * 98304)


def test_layers_that_stand_for_all():
    for name in ("llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v2-lite"):
        model = load_model(name)
        found = representatives(model)
        assert sum(found.values()) == model.layers
        with_experts = sum(n for layer, n in found.items() if model.has_experts(layer))
        assert with_experts == (len(model.experts.layers) if model.experts else 0)


BAD = [
    (lambda: StepCosts(load_model("switch-base-8"), load_system("h100").with_counts(gpu=1)), "model: "),
    (lambda: StepCosts(load_model("llama-3.1-8b"), load_system("aim").with_counts(aim=1)), "system: "),
    (
        lambda: StepCosts(load_model("llama-3.1-8b"), load_system("h100").with_counts(gpu=1))([Batch()] * 2),
        "batches: 2 batches for one rank",
    ),
    (
        lambda: StepCosts(load_model("llama-3.1-8b"), load_system("h100").with_counts(gpu=1))(
            [Batch((1,), (9,), swapped_tokens=4)]
        ),
        "swap: ",
    ),
    (lambda: StepCosts(load_model("gpt3-175b"), load_system("h100").with_counts(gpu=1)).blocks(), "system: "),
    (lambda: ranks(1), "system: experts are spread"),
    (
        lambda: ExpertParallelCosts(load_model("llama-3.1-8b"), load_system("h100").with_counts(gpu=2)),
        "model: llama-3.1-8b has no experts",
    ),
    (lambda: ranks()([Batch()]), "batches: 1 batches for 2 ranks"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_told_in_a_line(call, message):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


# --- the logs of vLLM -------------------------------------------------------------------------------


def log(name):
    with (DATA / f"vllm_rtxpro6000_{name}.csv").open(encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def means(rows, served):
    """Predicted over measured: time per token, time to first token, end to end."""
    n = len(rows)
    measured = (
        sum((r["last_token_s"] - r["first_token_s"]) / (r["output_toks"] - 1) for r in rows) / n,
        sum(r["first_token_s"] - r["arrival_s"] for r in rows) / n,
        sum(r["last_token_s"] - r["arrival_s"] for r in rows) / n,
    )
    predicted = (
        sum(s.tpot_ps for s in served) / n * 1e-12,
        sum(s.ttft_ps for s in served) / n * 1e-12,
        sum(s.e2e_ps for s in served) / n * 1e-12,
    )
    return [p / m for p, m in zip(predicted, measured, strict=True)]


def test_llama_on_an_rtx_pro_6000():
    rows = log("llama")
    requests = [
        Arrival(round(r["arrival_s"] * 1e12), int(r["input_toks"]), int(r["output_toks"])) for r in rows
    ]
    costs = StepCosts(load_model("llama-3.1-8b"), load_system("rtx-pro-6000").with_counts(gpu=1))
    report = serve(requests, [Instance(costs, Limits(blocks=costs.blocks()), ahead=True)])
    # the host's time is fitted to the first hundred
    fitted, _, _ = means(rows[:100], report.requests[:100])
    assert fitted == pytest.approx(1, abs=0.01), HOST_PS
    tpot, ttft, e2e = means(rows[100:], report.requests[100:])
    assert tpot == pytest.approx(1, abs=0.02) and e2e == pytest.approx(1, abs=0.02)
    assert ttft == pytest.approx(1, abs=0.05)
    assert report.preemptions == 0


def test_examples():
    assert doctest.testmod(neardata.serving).failed == 0
