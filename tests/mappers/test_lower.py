"""Lowering of random small models: work, bytes and times that add up, and refusals in one line."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neardata.arch.errors import InputError
from neardata.arch.system import System, load_system, parse_system
from neardata.mappers.functional import verify
from neardata.mappers.lower import lower
from neardata.mappers.mapping import Mapping
from neardata.sim.program import Program, Transfer
from neardata.sim.system.engine import Costs, run
from neardata.study import Study, SystemChoice, lower_point, run_point
from neardata.workloads.graph import Graph
from neardata.workloads.llm.decoder import llm
from neardata.workloads.llm.model import Experts, Latent, Model, Rope
from neardata.workloads.llm.routing import Uniform
from neardata.workloads.semantics import random_values

SLOTS = 8
DEVICES = [None, "gddr6-aim", "hbm-pim", "attacc-hbm3"]


@st.composite
def models(draw: st.DrawFn) -> Model:
    kv_heads = draw(st.sampled_from([1, 2, 3, 4, 8]))
    heads = kv_heads * draw(st.sampled_from([1, 2, 3]))
    head_dim = draw(st.sampled_from([4, 8, 16]))
    hidden = draw(st.sampled_from([8, 24, 40, 64]))
    layers = draw(st.integers(1, 4))
    latent = draw(st.booleans()) and Latent(q_rank=None, kv_rank=8, nope=head_dim, rope=4, v=head_dim)
    experts = draw(st.booleans()) and Experts(
        count=draw(st.sampled_from([2, 3, 8])), top_k=draw(st.integers(1, 2)),
        ffn=draw(st.sampled_from([8, 24])), layers=tuple(range(draw(st.integers(0, 1)), layers)),
        shared=draw(st.integers(0, 1)), shared_ffn=8, normalise=draw(st.booleans()),
    )  # fmt: skip
    return Model(
        name="random", family="random", layers=layers, hidden=hidden, heads=heads,
        kv_heads=heads if latent else kv_heads, head_dim=head_dim, latent=latent or None,
        ffn=draw(st.sampled_from([8, 20, 33, 64])), gated=draw(st.booleans()), activation="silu",
        experts=experts or None, vocabulary=draw(st.sampled_from([7, 48])), embedding_dim=hidden,
        tied=draw(st.booleans()), norm=draw(st.sampled_from(["rms", "layer"])), norm_epsilon=1e-5,
        qkv_bias=not latent and draw(st.booleans()),
        qk_norm=None if latent else draw(st.sampled_from([None, "head", "width"])),
        rope=Rope(theta=1e4), attention_scale=head_dim**-0.5,
    )  # fmt: skip


@st.composite
def cases(draw: st.DrawFn) -> tuple[Model, list[Graph], System, Mapping]:
    model = draw(models())
    phase = draw(st.sampled_from(["decode", "prefill", "verify"]))
    slots = draw(st.integers(1, SLOTS))
    device = draw(st.sampled_from(DEVICES))
    pipeline = draw(st.sampled_from([n for n in range(1, slots + 1) if slots % n == 0]))
    parts = draw(st.integers(1, 3))
    graphs = []
    for part in range(parts):
        contexts = draw(st.lists(st.integers(3, 40), min_size=1, max_size=3))
        new = {"decode": None, "prefill": None, "verify": 3}[phase]
        routing = Uniform(seed=part)
        graphs.append(llm(model, phase, context=contexts, new_tokens=new, routing=routing))  # type: ignore[arg-type]
    mapping = Mapping(
        on_pim=draw(st.sampled_from(["fastest", "attention", "everything"])) if device else "fastest",
        pipeline=draw(st.sampled_from([pipeline, "all"])),
        experts=draw(st.sampled_from(["split", "spread"])),
        steps=draw(st.integers(1, 2)) if phase == "decode" else 1,
        fuse=draw(st.booleans()),
    )
    return model, graphs, system(slots, device, own_memory=draw(st.booleans())), mapping


def system(gpus: int, device: str | None = None, *, own_memory: bool = True) -> System:
    units: dict[str, Any] = {"gpu": {"kind": "processor", "processor": "a100-80gb", "count": gpus}}
    links = {"net": {"link": "nvlink-3", "between": ["gpu"]}}
    if device is not None:
        units["pim"] = {"kind": "pim", "device": device, "channels": 2, "count": gpus}
        if own_memory:
            links["bus"] = {"link": "nvlink-3", "between": ["gpu", "pim"]}
        else:
            units["pim"]["memory_of"] = "gpu"
    return parse_system({"name": "test", "source": "test", "units": units, "links": links})


def lowered(graphs: list[Graph], target: System, mapping: Mapping) -> tuple[Program, Costs]:
    costs = Costs(target)
    return lower(graphs, target, mapping, lambda group, kernel: costs.of(group, kernel).time_ps), costs


thorough = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(cases())
@thorough
def test_work_bytes_and_times_add_up(case: tuple[Model, list[Graph], System, Mapping]) -> None:
    _, graphs, target, mapping = case
    program, costs = lowered(graphs, target, mapping)
    report = run(program, target, costs=costs)

    # every multiply-accumulate of the graphs is done once a step, or by every slot that repeats it
    copies = {name: operator["copies"] for name, operator in program.operators.items()}
    asked = 0
    for i, graph in enumerate(graphs):
        prefix = f"b{i}/" if len(graphs) > 1 else ""
        asked += sum(operator.macs * copies[prefix + operator.name] for operator in graph)
    assert sum(task.kernel.macs for task in program.tasks) == asked * mapping.steps

    # weights lie there once, or once on every slot that has all of them; in banks, in whole rows
    in_banks = any(task.kernel.kind == "pim_matmul" for task in program.tasks)
    held: dict[str, int] = {}
    for operand in program.placement:
        held[operand.tensor] = held.get(operand.tensor, 0) + operand.bytes
    for tensor in graphs[0].tensors.values():
        if tensor.role == "weight":
            assert tensor.bytes <= held[tensor.name]
            assert in_banks or held[tensor.name] <= len(target.instances) * tensor.bytes
    for place, size in program.bytes_at.items():
        assert size <= target.capacities[place]

    assert sum(report.critical_ps.values()) == report.time_ps == sum(report.reasons_ps.values())
    assert sum(part.critical_ps for part in report.parts()) == report.time_ps
    assert all(use.busy_ps + sum(use.idle_ps.values()) == report.time_ps for use in report.units)
    assert report.time_ps >= max(use.bound_ps for use in report.units if use.name in target.instances)


@given(cases())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_programs_compute_their_graphs(case: tuple[Model, list[Graph], System, Mapping]) -> None:
    _, (graph, *_), target, mapping = case
    program, _ = lowered([graph], target, mapping.model_copy(update={"steps": 1}))
    reach = {name: [instance.place] for name, instance in target.instances.items()}
    verify(program, graph, random_values(graph, 1), reach=reach)


@given(cases())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_program_survives_its_file(case: tuple[Model, list[Graph], System, Mapping]) -> None:
    _, graphs, target, mapping = case
    program, _ = lowered(graphs, target, mapping)
    assert Program.from_dict(program.to_dict()) == program


# --- what cannot be, and what is done elsewhere -------------------------------------------------------


def study(name: str = "attacc", model: str = "gpt2-small", **changed: Any) -> Study:
    choice = SystemChoice(
        system=name, units=changed.pop("units", {}), mapping=changed.pop("mapping", Mapping())
    )
    return Study(title="t", model=model, context=64, layers=2, systems={"it": choice}, **changed)


def test_keys_and_values_go_to_the_memory_together() -> None:
    program, _, _ = lower_point(study(mapping=Mapping(on_pim="attention"), batch=(2,)), "it", 2)
    sent = [t for t in program.tasks if isinstance(t.kernel, Transfer) and "values->" in t.name]
    assert [t.kernel.bytes for t in sent] == [2 * 2 * 768 * 2] * 2  # type: ignore[union-attr]
    assert not any("keys->" in task.name for task in program.tasks)


@pytest.mark.parametrize(
    "changed, note",
    [
        ({"weights": "int4/g32"}, "weights in int4/g32; attacc-hbm3 multiplies numbers of 16 bits"),
        ({"cache": "int8"}, "keys and values in int8; attacc-hbm3 multiplies"),
        ({"phase": "prefill"}, "several new positions of a sequence; attention in memory takes one"),
        ({"model": "deepseek-v2-lite"}, "keys and values in one latent cache; attention in memory takes two"),
    ],
)
def test_what_a_memory_cannot_do_is_said(changed: dict[str, Any], note: str) -> None:
    point = run_point(study(mapping=Mapping(on_pim="everything"), **changed), "it", 1)
    assert any(note in told and told.startswith("on gpu, not attacc: ") for told in point.program.notes)


def test_nothing_is_said_of_what_the_mapping_leaves_to_the_processor() -> None:
    mapping = Mapping(on_pim="attention")
    assert not run_point(study(mapping=mapping, weights="int4/g32"), "it", 1).program.notes


def test_a_memory_is_counted_with_its_processor() -> None:
    _, system, _ = lower_point(study(units={"gpu": 2}), "it", 1)
    assert system.count("attacc") == 2


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"units": {"gpu": 2, "attacc": 3}}, "mapping.pim: 2 gpu and 3 attacc: a slot has one of each"),
        (
            {"units": {"gpu": 4}, "mapping": Mapping(pipeline=3)},
            "mapping.pipeline: 4 units do not make 3 equal stages",
        ),
        ({"name": "a100", "mapping": Mapping(on_pim="everything")}, "mapping.on_pim: the system has no PIM"),
        ({"model": "switch-base-8"}, "model: switch-base-8 has an encoder; studies are of decoders alone"),
        ({"model": "llama-3.1-8b", "positions": 9}, "positions: llama-3.1-8b has no learned positions"),
        ({"activations": "fp8"}, "a100-80gb has no 'fp8' arithmetic"),
        ({"phase": "verify"}, "verification needs new_tokens"),
        (
            {"model": "llama-3.1-70b", "name": "a100", "units": {"gpu": 1}, "batch": (256,)},
            r"bytes are to lie in gpu, which holds 80,000,000,000; \d+ of gpu would do",
        ),
    ],
)
def test_what_cannot_be_is_told_in_one_line(changed: dict[str, Any], message: str) -> None:
    asked = study(**changed)
    if asked.model == "llama-3.1-70b":
        asked = asked.model_copy(update={"layers": None, "context": 2048})
    with pytest.raises(InputError, match=message) as caught:
        run_point(asked, "it", asked.batch[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["gpt2-small", "opt-350m", "qwen3-30b-a3b", "deepseek-v2-lite", "gpt-oss-20b"]
)
@pytest.mark.parametrize("phase", ["decode", "prefill", "verify"])
@pytest.mark.parametrize("tensor_parallel", [1, 8])
def test_families_run_on_every_system(name: str, phase: str, tensor_parallel: int) -> None:
    for target in ("a100", "aim", "attacc", "a100-hbm-pim"):
        units = {g: tensor_parallel for g, u in load_system(target).units.items() if u.count == "fit"}
        for pipeline in (1, "all") if tensor_parallel > 1 else (1,):
            mapping = Mapping(pipeline=pipeline, micro_batches="stages" if pipeline == "all" else 1)
            new = 4 if phase == "verify" else None
            run_point(study(target, name, phase=phase, new_tokens=new, units=units, mapping=mapping), "it", 3)
