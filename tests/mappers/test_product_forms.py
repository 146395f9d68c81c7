"""Forms of products in memory: right on data, priced with their sums, refused where they cannot be."""

from __future__ import annotations

import json
import pathlib
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from neardata.arch.config_file import first_problem
from neardata.arch.errors import InputError
from neardata.arch.precision import Format
from neardata.arch.system import System, parse_system
from neardata.mappers import banks
from neardata.mappers.bank_data import DataError
from neardata.mappers.functional import ProgramError, reach_of, verify
from neardata.mappers.lower import ChannelsFull, lower
from neardata.mappers.mapping import Mapping
from neardata.mappers.products import ProductForm, read_forms
from neardata.sim.dram.checker import check as check_rules
from neardata.sim.dram.pim import run_program
from neardata.sim.program import Elementwise, PimMatMul, Program, Transfer
from neardata.sim.system.engine import Costs, run
from neardata.sim.system.pim import PimEngine
from neardata.sim.system.pim_programs import (
    check_form,
    device_of,
    divisors,
    forms_of,
    partial_sum_bytes,
    program_of,
    reductions_of,
)
from neardata.workloads.graph import Graph, Operator
from neardata.workloads.llm.decoder import llm
from neardata.workloads.llm.model import Model, load_model
from neardata.workloads.llm.routing import Uniform
from neardata.workloads.semantics import random_values

DEVICES = ("gddr6-aim", "hbm-pim", "attacc-hbm3")
CHANNELS = 4


def system(device: str, *, beside: bool = False, channels: int = CHANNELS) -> System:
    """One memory: the processor's own, or beside it."""
    memory = {"kind": "pim", "device": device, "channels": channels}
    units: dict[str, Any] = {"gpu": {"kind": "processor", "processor": "a100-80gb"}, "pim": memory}
    links = {}
    if beside:
        links = {"bridge": {"link": "pcie-4", "between": ["gpu", "pim"]}}
    else:
        memory["memory_of"] = "gpu"
    return parse_system({"name": "test", "source": "test", "units": units, "links": links})


def one_product(m: int, n: int, k: int, dtype: str = "int16") -> Graph:
    graph = Graph("one product", "decode", 1)
    graph.tensor("x", (m, k), Format(dtype), "activation")
    graph.tensor("w", (n, k), Format(dtype), "weight")
    graph.tensor("y", (m, n), Format("int32" if dtype == "int16" else dtype), "activation")
    graph.add(Operator("product", "linear", ("x", "w"), ("y",), {"m": m, "n": n, "k": k}))
    return graph


def values_of(graph: Graph) -> dict[str, Any]:
    """Small ones, whose sums fit."""
    draw = np.random.default_rng(1)
    return {name: draw.integers(-50, 50, graph.tensors[name].shape) for name in ("x", "w")}


def lowered(graph: Graph, target: System, products: Any, **options: Any) -> Program:
    costs = Costs(target)
    mapping = Mapping(on_pim="everything", products=products, **options)
    return lower(graph, target, mapping, lambda group, kernel: costs.of(group, kernel).time_ps)


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("device", DEVICES)
@given(
    m=st.integers(1, 3), n=st.integers(1, 90), k=st.integers(1, 700), used=st.integers(1, CHANNELS),
    part=st.integers(0, 9), form=st.integers(0, 9), who=st.integers(0, 1),
    dtype=st.sampled_from(["int16", "bf16"]),
)  # fmt: skip
@settings(max_examples=10, deadline=None)
def test_a_product_in_any_form(device, beside, m, n, k, used, part, form, who, dtype):
    """From the mapping, by the lowered program and the commands of the banks, to the graph's own result."""
    k = min(k, 20_000 // (m * n) + 1)
    parts = [d for d in divisors(used) if d <= k]
    forms, adders = forms_of(device, k), reductions_of(device)
    order, own_rows = forms[form % len(forms)]
    chosen = ProductForm(
        order=order, own_rows=own_rows, channels=used, k_parts=parts[part % len(parts)],
        reduction=adders[who % len(adders)] if parts[part % len(parts)] > 1 else None,
    )  # fmt: skip
    graph, target = one_product(m, n, k, dtype), system(device, beside=beside)
    program = lowered(graph, target, {"product": chosen})
    kernel = next(t.kernel for t in program.tasks if isinstance(t.kernel, PimMatMul))
    assert (kernel.order, kernel.k_parts, kernel.channels) == (order, chosen.k_parts, used)
    worst = verify(program, graph, values_of(graph), reach=reach_of(target), banks=target)
    assert worst == 0 if dtype == "int16" else worst < 1e-9
    run(program, target)  # conservation is checked inside
    assert Program.from_dict(program.to_dict()) == program


MOE = {
    "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "hidden_size": 48, "vocab_size": 61,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 70,
    "num_local_experts": 5, "num_experts_per_tok": 2, "max_position_embeddings": 64, "hidden_act": "silu",
    "torch_dtype": "bfloat16", "rms_norm_eps": 1e-5, "rope_theta": 1e4, "tie_word_embeddings": False,
    "sliding_window": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("model") / "config.json"
    path.write_text(json.dumps(MOE))
    return load_model(str(path))


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "products", ["searched", {"*": ProductForm(k_parts=2), "head": ProductForm(channels=1)}]
)
def test_a_model(moe: Model, device: str, beside: bool, products: Any) -> None:
    """Experts, layers and the head, in the banks."""
    graph, target = llm(moe, batch=3, context=9, routing=Uniform(seed=3)), system(device, beside=beside)
    program = lowered(graph, target, products)
    verify(program, graph, random_values(graph, 1), reach=reach_of(target), banks=target)
    report = run(program, target)
    assert sum(report.reasons_ps.values()) == report.time_ps
    kernels = [task.kernel for task in program.tasks if isinstance(task.kernel, PimMatMul)]
    assert len(kernels) > 10
    if products != "searched":
        assert {kernel.k_parts for kernel in kernels} == {1, 2}
        sums = [t for t in program.tasks if t.name.endswith(".sum")]
        assert bool(sums) == (device != "attacc-hbm3")  # its buffer adds them
    slow = run(program, target, memoise=False, jump=False, fold=False)
    assert slow.schedule.end == report.schedule.end


@pytest.mark.parametrize("stage", ["scores", "values"])
@pytest.mark.parametrize("device", ["gddr6-aim", "hbm-pim"])
def test_attention_is_computed_in_the_banks(
    moe: Model, device: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command program for fewer sequences does not compute the model, nor does a kernel of another
    size, nor values that wait for no scores."""
    graph, target = llm(moe, batch=3, context=40, routing=Uniform(seed=3)), system(device)
    program = lowered(graph, target, {})
    values, reach = random_values(graph, 1), reach_of(target)
    verify(program, graph, values, reach=reach, banks=target)

    def shorter(kernel: Any, *given: Any) -> Any:
        if getattr(kernel, "stage", "") == stage:
            kernel = replace(kernel, context=kernel.context[1:])
        return program_of(kernel, *given)

    with monkeypatch.context() as patch:
        patch.setattr(banks, "program_of", shorter)
        with pytest.raises((DataError, ProgramError)):
            verify(program, graph, values, reach=reach, banks=target)
    found = next(t for t in program.tasks if getattr(t.kernel, "stage", "") == stage)
    other = replace(found, kernel=replace(found.kernel, qk=found.kernel.qk + 1))  # type: ignore[type-var, union-attr]
    wrong = replace(program, tasks=tuple(other if t is found else t for t in program.tasks))
    with pytest.raises(ProgramError, match=rf"task '{found.name}': its kernel is"):
        verify(wrong, graph, values, reach=reach, banks=target)
    alone = replace(program, tasks=tuple(replace(t, kernel=other_stage(t.kernel)) for t in program.tasks))
    with pytest.raises(ProgramError, match=r"waits for no scores of layer0\.attention"):
        verify(alone, graph, values, reach=reach, banks=target)


def other_stage(kernel: Any) -> Any:
    """Values instead of scores."""
    return replace(kernel, stage="values") if getattr(kernel, "stage", "") == "scores" else kernel


@pytest.mark.parametrize("device", DEVICES)
def test_searched_products_take_no_longer(moe: Model, device: str) -> None:
    graph, target = llm(moe, batch=3, context=9, routing=Uniform(seed=3)), system(device)
    times = []
    for products in ({}, "searched"):
        report = run(lowered(graph, target, products), target)
        parts = [
            outcome.time_ps for task, outcome in zip(report.program.tasks, report.outcomes, strict=True)
            if isinstance(task.kernel, PimMatMul) or task.name.endswith(".sum")
        ]  # fmt: skip
        times.append(sum(parts))
    assert times[1] <= times[0]


def test_one_form_for_all_layers_and_micro_batches(moe: Model) -> None:
    """A matrix lies in one way, whatever is multiplied with it."""
    graphs = [llm(moe, batch=b, context=9, routing=Uniform(seed=b)) for b in (2, 5)]
    program = lowered(graphs, system("gddr6-aim"), "searched")  # type: ignore[arg-type]
    found: dict[str, set[Any]] = {}
    for task in program.tasks:
        if isinstance(task.kernel, PimMatMul):
            kind = task.operators[0].split(".", 1)[-1]
            kernel = task.kernel
            found.setdefault(kind, set()).add(
                (kernel.channels, kernel.k_parts, kernel.own_rows, kernel.order)
            )
    assert found["experts.down"] and all(len(forms) == 1 for forms in found.values())


def test_the_sum_on_the_processor() -> None:
    """Its traffic: 4 parts of 3 x 40 sums of 2 bytes over the link, in, and the result out."""
    form = {"product": ProductForm(k_parts=4)}
    graph = one_product(3, 40, 96)
    program = lowered(graph, system("gddr6-aim", beside=True), form)
    product, move, add = [t for t in program.tasks if t.name.startswith("product")]
    assert isinstance(product.kernel, PimMatMul) and product.kernel.reduction == "processor"
    size = 4 * 3 * 40 * 2
    assert move.kernel == Transfer("pim", "gpu", size) and move.after == (product.name,)
    assert add.kernel == Elementwise(size, 3 * 40 * 4, 3 * 3 * 40, size) and add.after == (move.name,)
    assert add.unit == "gpu" and add.writes[0].place == "gpu"
    early = replace(program, tasks=tuple(replace(t, after=()) if t is add else t for t in program.tasks))
    with pytest.raises(ProgramError, match="goes on with 'product', which it does not wait for"):
        verify(early, graph, values_of(graph), reach=reach_of(system("gddr6-aim", beside=True)))


def test_partial_sums_that_nobody_adds() -> None:
    """An edited program that splits k, without the sum behind it."""
    graph, target = one_product(3, 40, 96), system("gddr6-aim")
    program = lowered(graph, target, {})
    split = replace(program.tasks[0].kernel, k_parts=4, reduction="processor")  # type: ignore[type-var]
    broken = replace(program, tasks=(replace(program.tasks[0], kernel=split),))
    with pytest.raises(ProgramError, match="its partial sums are not added"):
        verify(broken, graph, values_of(graph), reach=reach_of(target))
    with pytest.raises(InputError, match=r"product: no elementwise task of .* reads its 960"):
        run(broken, target)


@pytest.mark.parametrize("beside", [False, True])
def test_a_sum_that_does_not_wait_for_its_product(beside: bool) -> None:
    """Of the right operators and size is not enough; and nothing is simulated before."""
    graph, target = one_product(3, 40, 96), system("gddr6-aim", beside=beside)
    program = lowered(graph, target, {"product": ProductForm(k_parts=4)})
    run(program, target)
    for loose in [t for t in program.tasks if t.name.startswith("product") and t.after]:
        tasks = tuple(replace(t, after=()) if t is loose else t for t in program.tasks)
        costs = Costs(target)
        with pytest.raises(InputError, match="product: no elementwise task of its operators"):
            run(replace(program, tasks=tasks), target, costs=costs)
        assert costs.runs == 0


def test_each_product_has_a_sum_of_its_own() -> None:
    """One sum behind two products adds up only one of them."""
    graph, target = one_product(3, 40, 96), system("gddr6-aim")
    program = lowered(graph, target, {"product": ProductForm(k_parts=4)})
    product, add = program.tasks
    again = replace(product, name="again")
    both = replace(add, after=(product.name, "again"))
    with pytest.raises(InputError, match="no elementwise task of its operators"):
        run(replace(program, tasks=(product, again, both)), target)


@pytest.mark.parametrize("device,of_a_burst", [("gddr6-aim", 16), ("hbm-pim", 16), ("attacc-hbm3", 16)])
def test_partial_sums_are_as_the_device_reads_them(device: str, of_a_burst: int) -> None:
    """AiM's RDMAC16 and AttAcc's MVSB give 16 in 32 bytes; what HBM-PIM's host adds up is as wide."""
    kernel = PimMatMul(3, 40, 96, k_parts=4, reduction="processor")
    burst = device_of(device).burst_bytes
    assert partial_sum_bytes(kernel, device) == 4 * 3 * 40 * burst // of_a_burst == 960
    assert partial_sum_bytes(replace(kernel, k_parts=1, reduction=""), device) == 0


def test_read_outs_and_their_sum_count_the_same_bytes() -> None:
    """AiM, blocks of 16 outputs all full: what the parts' read-outs bring is what the sum reads."""
    device = device_of("gddr6-aim")
    kernel = PimMatMul(3, 64, 96, "output-stationary", channels=4, k_parts=4, reduction="processor")
    report = run_program(program_of(kernel, device, 4), device=device)
    read = report.command_counts["RDMAC16"] * device.burst_bytes
    assert read == partial_sum_bytes(kernel, device)


def test_the_sum_in_the_buffer() -> None:
    """The partial sums pass the data buses of the channels that work once more."""
    device = device_of("attacc-hbm3")
    parts = PimMatMul(2, 512, 2048, channels=4, k_parts=4, reduction="buffer")
    with_sum, without = (
        PimEngine(device, 8, "none").run(kernel) for kernel in (parts, replace(parts, reduction="processor"))
    )
    size = 4 * 2 * 512 * 2
    expected = size * 1000 / (device.peak_gb_per_s * 4)
    assert abs(with_sum.time_ps - without.time_ps - expected) <= device.tick_ps
    assert with_sum.lost_ps["reduction"] == with_sum.time_ps - without.time_ps
    assert with_sum.memory_bytes - without.memory_bytes == size


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "m,n,k,used,parts", [(1, 40, 1000, 4, 4), (3, 130, 517, 6, 2), (2, 64, 97, 5, 5), (1, 1, 7, 3, 3)]
)
def test_commands_of_parts(device: str, m: int, n: int, k: int, used: int, parts: int) -> None:
    """Rules are kept, accelerations change nothing, and parts end as a product of their size does."""
    model = device_of(device)
    adds = reductions_of(device)[0]
    for order, own_rows in forms_of(device, k // parts):
        kernel = PimMatMul(m, n, k, order, own_rows, used, parts, adds)
        program = program_of(kernel, device, 8)
        report = run_program(program, device=model, record_commands=True)
        for group in report.groups:
            assert check_rules(group.command_log, refresh_interval_check=program.refresh != "none") == []
        for options in ({}, {"jump": False, "runs": False, "stretches": False, "fold": False}):
            assert run_program(program, device=model, **options).cycles == report.cycles
        alone = [PimMatMul(m, n, stop - start, order, own_rows) for start, stop in kernel.parts]
        cycles = [run_program(program_of(one, device, used // parts), device=model).cycles for one in alone]
        assert report.cycles == max(cycles)


REFUSED = [
    ("gddr6-aim", {"k_parts": 3}, "k_parts", "4 channels in equal numbers.* allow 1, 2, 4; got 3"),
    ("gddr6-aim", {"channels": 5}, "channels", "must be from 1 to 4"),
    ("gddr6-aim", {"order": "sideways"}, "order", "'sideways' is not one of output-stationary, input-"),
    ("hbm-pim", {"order": "input-stationary"}, "order", "is not one of output-stationary, the orders"),
    ("gddr6-aim", {"k_parts": 2, "reduction": "buffer"}, "reduction", "are added by processor; got 'buffer'"),
    ("attacc-hbm3", {"own_rows": True}, "own_rows", "allowed: false"),
]


@pytest.mark.parametrize("device,form,key,message", REFUSED)
def test_forms_that_a_device_cannot_do(device: str, form: Any, key: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        lowered(one_product(1, 64, 64), system(device), {"product": ProductForm(**form)})
    assert caught.value.key == f"mapping.products.product.{key}"


@pytest.mark.parametrize("form", [{"reduction": "buffer"}, {"k_parts": 1, "reduction": "processor"}])
def test_who_adds_what_is_not_there(tmp_path: pathlib.Path, form: Any) -> None:
    """In a study, in a file, and in an edited program."""
    path = tmp_path / "forms.yaml"
    path.write_text(f"products:\n  product: {json.dumps(form)}\n")
    with pytest.raises(
        InputError, match=r"forms.yaml:2: products.product.reduction: with k_parts 1 there are"
    ):
        read_forms(str(path))
    kernel = PimMatMul(1, 64, 64, reduction=form["reduction"])
    with pytest.raises(InputError, match="reduction: with k in 1 part there are no sums to add"):
        check_form(kernel, "attacc-hbm3", 4)


WRONG = [
    ({"on_pim": "evrything"}, "on_pim", "did you mean everything"),
    ({"on_pim": 3}, "on_pim", "known: attention, everything, fastest, nothing"),
    (
        {"products": 3},
        "products",
        "must be forms by operator, the name of a file .yaml, or 'searched', got 3",
    ),
    ({"products": {"a": {"reduction": "zzz"}}}, "products.a.reduction", "known: buffer, processor"),
    ({"pipeline": "zz"}, "pipeline", "must be a whole number or 'all', got 'zz'"),
    ({"micro_batches": 0}, "micro_batches", "must be at least 1 or 'stages', got 0"),
    (
        {"experts": "cached"},
        "experts",
        "must be split, spread, balanced or .policy: one of on-.*, cached, .*",
    ),
    ({"experts": 3}, "experts", "must be split, spread, balanced or .policy: one of on-demand, .*, got 3"),
    ({"experts": {"policy": "zz"}}, "experts.policy", "known: cached, cpu-cold, hybrid, on-demand"),
]


@pytest.mark.parametrize("given,key,message", WRONG)
def test_errors_of_a_mapping_name_what_is_allowed(given: Any, key: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Mapping.model_validate(given)
    keys, told = first_problem(Mapping, caught.value, given)
    assert ".".join(map(str, keys)) == key and re.search(message, told) and "\n" not in told


def test_a_matrix_that_does_not_fit_its_channels() -> None:
    graph = one_product(1, 1 << 17, 2048)
    with pytest.raises(InputError, match=r"would take \d+ bytes in the banks of 1 channels"):
        lowered(graph, system("gddr6-aim"), {"*": ProductForm(channels=1)})


@pytest.mark.parametrize("experts,fits", [(4, True), (5, True), (31, True), (33, False)])
def test_matrices_of_a_channel_each_lie_in_any(experts: int, fits: bool) -> None:
    """Four channels of 16,384 rows; experts' matrices of 2,048 rows of one channel: 8 a channel."""
    graph = experts_product(experts, 2048 * 16, 1024)
    target, form = system("gddr6-aim"), {"*": ProductForm(channels=1)}
    if not fits:
        with pytest.raises(InputError):
            run(lowered(graph, target, form), target)
        return
    program = lowered(graph, target, form)
    run(program, target)


def test_no_channel_holds_more_than_it_has() -> None:
    """5 matrices of 11 / 16 of a channel: room for them altogether, but in no channel for a second."""
    graph = experts_product(5, 704 * 16 * 16, 1024)
    target = system("gddr6-aim")
    assert target.device("pim").organisation.row * 4 > 5 * 704 * 16
    run(lowered(graph, target, {}), target)
    with pytest.raises(ChannelsFull, match=r"bytes of a channel of 'gpu', which holds 536,870,912"):
        lowered(graph, target, {"*": ProductForm(channels=1)})


def experts_product(experts: int, n: int, k: int) -> Graph:
    """A token for each of some experts."""
    graph = Graph("experts", "decode", 1)
    graph.tensor("x", (experts, k), Format("bf16"), "activation")
    graph.tensor("w", (experts, n, k), Format("bf16"), "weight")
    graph.tensor("y", (experts, n), Format("bf16"), "activation")
    dims = {"n": n, "k": k, "tokens": (1,) * experts}
    graph.add(Operator("product", "expert_linear", ("x", "w"), ("y",), dims))
    return graph


def test_files_of_forms(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "forms.yaml"
    path.write_text(
        "device: gddr6-aim\nproducts:\n  '*': {channels: 2}\n  product: {k_parts: 2, channels: 4}\n"
    )
    program = lowered(one_product(1, 64, 64), system("gddr6-aim"), str(path))
    kernel = program.tasks[0].kernel
    assert isinstance(kernel, PimMatMul) and (kernel.channels, kernel.k_parts) == (4, 2)
    with pytest.raises(InputError, match=r"forms.yaml:1: device: the forms are for 'gddr6-aim'"):
        lowered(one_product(1, 64, 64), system("hbm-pim"), str(path))
    path.write_text("products:\n  product: {k_parts: 3}\n")
    with pytest.raises(
        InputError, match=r"forms.yaml:2: products.product.k_parts: 4 channels.*allow 1, 2, 4"
    ):
        lowered(one_product(1, 64, 64), system("gddr6-aim"), str(path))
    path.write_text("products:\n  prodct: {k_parts: 2}\n")
    with pytest.raises(InputError, match=r"forms.yaml:2: products.prodct: .* did you mean product"):
        lowered(one_product(1, 64, 64), system("gddr6-aim"), str(path))
    with pytest.raises(InputError, match="neither 'searched' nor a file"):
        read_forms("serched")
    with pytest.raises(InputError, match="no PIM memory is used"):
        lower(
            one_product(1, 64, 64),
            system("gddr6-aim"),
            Mapping(on_pim="nothing", products={"*": ProductForm()}),
        )


def test_more_specific_forms_come_first() -> None:
    forms = read_forms({"*": ProductForm(), "experts.up": ProductForm(), "layer0.experts.up": ProductForm()})
    assert forms.key_of("layer0.experts.up") == "layer0.experts.up"
    assert forms.key_of("layer1.experts.up") == "experts.up"
    assert forms.key_of("head") == "*"
