"""Graphs whose experts a policy fetches, keeps and computes: what they compute, hold and cost."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neardata.arch.errors import InputError
from neardata.arch.system import System, parse_system
from neardata.mappers.functional import ProgramError, reach_of, verify
from neardata.mappers.lower import lower
from neardata.mappers.mapping import Mapping
from neardata.sim.program import Operand, Program, Task, Transfer
from neardata.sim.system.engine import Costs, run
from neardata.workloads.graph import Graph, Operator
from neardata.workloads.llm.decoder import llm
from neardata.workloads.llm.model import Model, load_model
from neardata.workloads.llm.routing import Correlated, StepOf, Uniform
from neardata.workloads.semantics import random_values

MOE = {
    "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "vocab_size": 48, "hidden_size": 32,
    "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_local_experts": 4, "num_experts_per_tok": 2, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "rope_theta": 1e4, "max_position_embeddings": 64, "sliding_window": None, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}  # fmt: skip
SIZE = 2 * 3 * 24 * 32
"""Bytes of an expert."""
POLICIES: list[dict[str, Any]] = [
    {"policy": "on-demand"},
    {"policy": "on-demand", "wait": "each", "storage": "ssd"},
    {"policy": "prefetch-all"},
    {"policy": "pre-gated"},
    {"policy": "pre-gated", "wait": "each"},
    {"policy": "cached", "capacity": 5},
    {"policy": "cached", "capacity": 4, "cache": "lfu", "start": "empty", "wait": "each"},
    {"policy": "cached", "capacity": 6, "cache": "score"},
    {"policy": "cpu-cold", "capacity": 2},
    {"policy": "cpu-cold", "capacity": 1, "objective": "max", "staging": 2},
    {"policy": "hybrid", "capacity": 5},
    {"policy": "hybrid", "capacity": 4, "guarded": True, "depth": 1, "cache": "lru"},
    {"policy": "hybrid", "capacity": 4, "schedule": False, "depth": 0, "start": "empty"},
]


def named(policy: dict[str, Any]) -> str:
    return ",".join(str(value) for value in policy.values())


def system(gpu_bytes: int = 80_000_000_000, link_gb_per_s: float = 25) -> System:
    link = {"link": "pcie-4", "overrides": {"sharing": "exclusive", "gb_per_s": link_gb_per_s}}
    return parse_system({
        "name": "test", "source": "test",
        "units": {
            "gpu": {"kind": "processor", "processor": "a100-80gb", "overrides": {"memory.bytes": gpu_bytes}},
            "cpu": {"kind": "processor", "processor": "epyc-7v12"},
            "ssd": {"kind": "memory", "capacity_gb": 1000},
        },
        "links": {
            "pcie": {**link, "between": ["gpu", "cpu"]},
            "nvme": {**link, "between": ["cpu", "ssd"]},
        },
    })  # fmt: skip


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("model") / "config.json"
    path.write_text(json.dumps(MOE))
    return load_model(str(path))


def steps_of(model: Model, count: int, batch: int = 2, **formats: Any) -> list[Graph]:
    return [llm(model, batch=batch, context=7, routing=Uniform(seed=i), **formats) for i in range(count)]


def lowered(graphs: Graph | list[Graph], target: System, policy: dict[str, Any], **mapping: Any) -> Program:
    costs = Costs(target)
    chosen = Mapping(experts=policy, **mapping)  # type: ignore[arg-type]
    return lower(graphs, target, chosen, lambda group, kernel: costs.of(group, kernel).time_ps)


# --- what it computes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES, ids=named)
@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("phase,new", [("decode", 1), ("prefill", None), ("verify", 3)])
def test_a_step_computes_what_its_graph_does(
    moe: Model, policy: dict[str, Any], phase: str, new: int | None, fuse: bool
) -> None:
    graph = llm(moe, phase, batch=3, context=9, new_tokens=new, routing=Uniform(seed=3))  # type: ignore[arg-type]
    target = system()
    program = lowered(graph, target, policy, fuse=fuse)
    verify(program, graph, random_values(graph, 1), reach=reach_of(target))
    report = run(program, target)
    assert sum(report.reasons_ps.values()) == report.time_ps


@pytest.mark.parametrize("policy", POLICIES, ids=named)
def test_steps_that_follow_each_other_compute_what_their_graphs_do(
    moe: Model, policy: dict[str, Any]
) -> None:
    graphs = steps_of(moe, 4)
    target = system()
    program = lowered(graphs, target, policy)
    run(program, target)
    joined = together(graphs)
    values = {
        name if graph.tensors[name].role == "weight" else f"s{step}/{name}": value
        for step, graph in reversed(list(enumerate(graphs)))
        for name, value in random_values(graph, 1).items()
    }
    verify(told_apart(program, graphs[0]), joined, values, reach=reach_of(target))


def together(graphs: list[Graph]) -> Graph:
    """One graph of all steps, which have only their weights in common."""
    joined = Graph("steps", "decode", sum(graph.batch for graph in graphs))

    def own(graph: Graph, step: int, name: str) -> str:
        return name if graph.tensors[name].role == "weight" else f"s{step}/{name}"

    for step, graph in enumerate(graphs):
        for tensor in graph.tensors.values():
            name = own(graph, step, tensor.name)
            if name not in joined.tensors:
                joined.tensor(name, tensor.shape, tensor.format, tensor.role)
        for o in graph:
            inputs, outputs = (tuple(own(graph, step, n) for n in names) for names in (o.inputs, o.outputs))
            joined.add(
                Operator(f"s{step}/{o.name}", o.kind, inputs, outputs, o.dims, o.layer, o.group, o.attributes)
            )
    return joined


def told_apart(program: Program, graph: Graph) -> Program:
    """The program with each step's tensors and operators under names of their own."""

    def own(operand: Operand, step: int) -> Operand:
        if graph.tensors[operand.tensor].role == "weight":
            return operand
        return replace(operand, tensor=f"s{step}/{operand.tensor}")

    steps = range(1 + max(task.step for task in program.tasks))
    tasks = tuple(
        replace(
            task,
            operators=tuple(f"s{task.step}/{name}" for name in task.operators),
            reads=tuple(own(operand, task.step) for operand in task.reads),
            writes=tuple(own(operand, task.step) for operand in task.writes),
        )
        for task in program.tasks
    )
    placement = dict.fromkeys(own(operand, step) for operand in program.placement for step in steps)
    operators = {
        f"s{step}/{name}": {**entry, "macs": entry["macs"] // len(steps)}
        for name, entry in program.operators.items()
        for step in steps
    }
    return replace(program, tasks=tasks, placement=tuple(placement), operators=operators)


@pytest.mark.parametrize("config,change", [
    ("gpt-oss-20b", {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 2, "head_dim": 8,
                     "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4,
                     "num_experts_per_tok": 2, "experts_per_token": 2, "vocab_size": 48,
                     "layer_types": ["sliding_attention", "full_attention"]}),
    ("deepseek-v2-lite", {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16,
                          "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 2,
                          "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
                          "n_routed_experts": 4, "num_experts_per_tok": 2, "vocab_size": 48}),
])  # fmt: skip
@pytest.mark.parametrize("policy", [POLICIES[3], POLICIES[5], POLICIES[10]], ids=named)
def test_biases_dense_layers_and_shared_experts(
    tmp_path: Path, config: str, change: dict[str, Any], policy: dict[str, Any]
) -> None:
    shipped = Path(__file__).parents[2] / "workloads" / "llm" / "models" / f"{config}.json"
    sizes = {k: v for k, v in json.loads(shipped.read_text()).items() if not k.startswith("_")}
    (tmp_path / "config.json").write_text(json.dumps({**sizes, **change}))
    graph = llm(load_model(str(tmp_path / "config.json")), batch=3, context=9, routing=Uniform(seed=1))
    target = system()
    program = lowered(graph, target, policy)
    run(program, target)
    weights = [t for t in graph.tensors.values() if t.role == "weight" and ".experts." in t.name]
    experts = sum(t.bytes for t in weights)
    assert program.figures["expert bytes"] * 4 * sum("down.weight" in t.name for t in weights) == experts
    assert any("bias" in t.name for t in weights) == (config == "gpt-oss-20b")
    if config == "deepseek-v2-lite":  # attention with sinks and experts with biases are not interpreted
        verify(program, graph, random_values(graph, 1), reach=reach_of(target))


@pytest.mark.parametrize("formats", [{"weights": "int4/g8"}, {"weights": "int8", "activations": "int8"}])
@pytest.mark.parametrize("policy", [POLICIES[5], POLICIES[9]], ids=named)
def test_narrow_weights(moe: Model, policy: dict[str, Any], formats: dict[str, str]) -> None:
    (graph,) = steps_of(moe, 1, **formats)
    target = system()
    program = lowered(graph, target, policy)
    run(program, target)
    if "activations" not in formats:  # random numbers of int8 need scales that the graph does not have
        verify(program, graph, random_values(graph, 1), reach=reach_of(target))
    kernels = [task.kernel for task in program.tasks if ".fetch." in task.name]
    elements, groups = 3 * 24 * 32, 3 * 24 * 32 // 8
    size = elements // 2 + 2 * groups if "activations" not in formats else elements
    assert {kernel.bytes for kernel in kernels if isinstance(kernel, Transfer)} <= {size}


def test_a_fetch_that_nobody_waits_for_is_noticed(moe: Model) -> None:
    """What `verify` finds in such programs."""
    (graph,) = steps_of(moe, 1)
    target = system()
    program = lowered(graph, target, {"policy": "on-demand"})
    fetch = next(task.name for task in program.tasks if ".fetch." in task.name)

    def without(change: Any) -> Program:
        return replace(program, tasks=tuple(found for task in program.tasks for found in change(task)))

    broken = [
        without(lambda task: [replace(task, after=tuple(n for n in task.after if n != fetch))]),
        without(lambda task: [replace(task, reads=(), writes=())] if task.name == fetch else [task]),
    ]
    for one in broken:
        with pytest.raises(ProgramError):
            verify(one, graph, random_values(graph, 1), reach=reach_of(target))


# --- what it holds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("link_gb_per_s", [0.001, 0.1, 30])
@pytest.mark.parametrize("policy", POLICIES, ids=named)
def test_no_more_experts_are_on_the_device_than_it_has_places_for(
    moe: Model, policy: dict[str, Any], link_gb_per_s: float
) -> None:
    """In time: an expert takes a place from the start of its fetch to the end of its last computation."""
    target = system(link_gb_per_s=link_gb_per_s)
    program = lowered(steps_of(moe, 4), target, policy)
    report = run(program, target)
    spans = zip(program.tasks, report.schedule.start, report.schedule.end, strict=True)
    held: list[list[Any]] = []
    latest: dict[tuple[str, Any], list[Any]] = {}

    def expert(operand: Operand) -> tuple[str, Any] | None:
        if operand.place != "gpu" or not operand.tensor.endswith("gate.weight") or operand.slices is None:
            return None
        return (operand.tensor, operand.slices[0])

    for operand in program.placement:
        if "experts" in operand.tensor and (key := expert(operand)):
            latest[key] = [0, 0]
            held.append(latest[key])
    for task, start, end in spans:
        if isinstance(task.kernel, Transfer):
            for key in filter(None, map(expert, task.writes)):
                latest[key] = [start, end]
                held.append(latest[key])
        elif "experts" in task.name or ".e" in task.name:
            for key in filter(None, map(expert, task.reads)):
                latest[key][1] = max(latest[key][1], end)
    places = program.figures["expert places"]
    moments = sorted([(s, 1) for s, _ in held] + [(e, -1) for _, e in held])
    most = now = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    assert (most > 0) == (places > 0) and most <= places
    assert program.bytes_at["gpu"] == target_bytes(program) + places * SIZE


def target_bytes(program: Program) -> int:
    """Of what is on the device beside experts."""
    there = [o for o in program.placement if o.place == "gpu"]
    return sum(o.bytes for o in there if not ("experts" in o.tensor and "weight" in o.tensor))


def test_all_that_fits_is_the_ordinary_program_in_time(moe: Model) -> None:
    """A cache that holds all experts from the start never fetches."""
    graphs = steps_of(moe, 1)
    target = system()
    program = lowered(graphs, target, {"policy": "cached"})
    assert program.figures["experts fetched"] == 0 and program.figures["expert places"] == 12
    costs = Costs(target)
    plain = lower(graphs, target, Mapping(processor="gpu"), lambda g, k: costs.of(g, k).time_ps)
    one, other = run(program, target), run(plain, target)
    assert one.time_ps == other.time_ps
    assert sum(o.macs for o in one.outcomes) == sum(o.macs for o in other.outcomes)


@pytest.mark.parametrize("capacity", [4, 6, 9])
def test_hits_are_those_of_the_cache_that_stands_alone(moe: Model, capacity: int) -> None:
    """LRU over all layers together, by the kernel that gives hit rates of recorded routings."""
    steps = 12
    routing = Correlated(0.6, 0.95, seed=2)
    graphs = [llm(moe, batch=1, context=7, routing=StepOf(routing, steps, i)) for i in range(steps)]
    program = lowered(graphs, system(), {"policy": "cached", "capacity": capacity, "start": "empty"})
    (ids,) = routing.ids(3, steps, 4, 2)
    held: dict[tuple[int, int], int] = {}
    hits = 0
    for t in range(steps):
        for layer in range(3):
            active = [(layer, int(e)) for e in ids[layer, t]]
            hits += sum(key in held for key in active) if t else 0
            for key in sorted(active):
                if key not in held and len(held) == capacity:
                    held.pop(min((k for k in held if k not in active), key=lambda k: (held[k], k)))
                held[key] = 0
            for key in active:
                held[key] = t * 3 + layer + 1
    assert program.figures["experts found"] == hits
    assert (hits > 0) == (capacity > 4)
    assert program.figures["experts"] == (steps - 1) * 3 * 2


# --- what it costs ------------------------------------------------------------------------------------


def test_on_demand_waits_for_the_link(moe: Model) -> None:
    """With a link slow enough, a step takes the fetches of all that is active, one after the other."""
    target = system(link_gb_per_s=0.001)
    graphs = steps_of(moe, 1, batch=4)
    program = lowered(graphs, target, {"policy": "on-demand"})
    report = run(program, target)
    fetched = Counter(isinstance(task.kernel, Transfer) for task in program.tasks)[True]
    active = sum(sum(1 for n in op["tokens"] if n) for op in graphs[0] if op.name.endswith("experts.down"))
    fetch_ps = Costs(target).of("pcie", Transfer("cpu", "gpu", SIZE)).time_ps
    assert fetched == active
    assert active * fetch_ps < report.time_ps < 1.05 * active * fetch_ps


def test_a_saved_program_is_the_same(moe: Model, tmp_path: Path) -> None:
    target = system()
    program = lowered(steps_of(moe, 2), target, {"policy": "hybrid", "capacity": 5})
    for name in ("p.yaml", "p.json"):
        program.write(tmp_path / name)
        again = Program.read(tmp_path / name)
        assert again.bytes_at == program.bytes_at and again.figures == program.figures
        assert run(again, target).time_ps == run(program, target).time_ps


def test_fewer_places_than_a_graph_has_steps(moe: Model) -> None:
    """Tasks wait for the step before: the next token is not known earlier."""
    target = system()
    program = lowered(steps_of(moe, 2), target, {"policy": "prefetch-all"})
    report = run(program, target)
    ends = {task.name: end for task, end in zip(program.tasks, report.schedule.end, strict=True)}
    starts = {task.name: start for task, start in zip(program.tasks, report.schedule.start, strict=True)}
    last = max(end for task, end in zip(program.tasks, report.schedule.end, strict=True) if task.step == 0)
    first: Task = next(task for task in program.tasks if task.step == 1 and task.unit == "gpu")
    assert starts[first.name] >= last == ends["s0/head"]


# --- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("policy,changes,message", [
    ({"policy": "cached", "capacity": 3}, {"gpu_bytes": 42_000},
     r"gpu holds 42,000 bytes; 28,\d\d\d of other weights and caches and 3 experts of 4,608 "
     r"\(layer0.experts.gate.weight, .*\) are 42,\d\d\d"),
    ({"policy": "cached", "capacity": 1}, {}, r"capacity: [234] active experts of layer \d take .* bytes"),
    ({"policy": "prefetch-all"}, {"gpu_bytes": 65_000}, r"8 experts of 4,608 .* are 65,\d\d\d"),
    ({"policy": "on-demand", "host": "ssd"}, {}, r"host: 'ssd' is no processor or memory on a link to gpu"),
    ({"policy": "cpu-cold", "host": "ssd"}, {}, r"host: 'ssd' is no processor on a link to gpu; known: cpu"),
    ({"policy": "on-demand", "storage": "cpu"}, {}, r"storage: 'cpu' is no memory; known: ssd"),
    ({"policy": "cached", "start": "popular"}, {}, r"start: who is popular is not known"),
])  # fmt: skip
def test_what_cannot_be(moe: Model, policy: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        lowered(steps_of(moe, 1), system(**changes), policy)


def test_a_host_that_is_too_small(moe: Model) -> None:
    small = system().to_dict()
    small["units"]["ssd"]["capacity_gb"] = 2e-5
    with pytest.raises(InputError, match=r"12 experts of 4,608 bytes .* are 55,296; ssd holds 20,000"):
        lowered(steps_of(moe, 1), parse_system(small), {"policy": "on-demand", "storage": "ssd"})


def test_models_and_mappings_that_do_not_suit(moe: Model) -> None:
    target = system()
    dense = llm(load_model("opt-1.3b"), batch=1, context=4, layers=1)
    with pytest.raises(InputError, match="has no experts"):
        lowered(dense, target, {"policy": "on-demand"})
    with pytest.raises(InputError, match="no pipeline, no micro-batches"):
        lowered(steps_of(moe, 1), target, {"policy": "on-demand"}, micro_batches=2)
    with pytest.raises(InputError, match="is for one processor, here are 2 of gpu"):
        lowered(steps_of(moe, 1), target.with_counts(gpu=2), {"policy": "on-demand"})
    with pytest.raises(InputError, match="costs are needed"):
        lower(steps_of(moe, 1), target, Mapping(experts={"policy": "hybrid"}))  # type: ignore[arg-type]


def test_a_step_waits_for_all_that_ends_the_one_before(moe: Model) -> None:
    """A second head beside the first: the next token needs both, whichever is listed last."""
    graphs = steps_of(moe, 3)
    for graph in graphs:
        head = list(graph)[-1]
        weight, logits = (graph.tensors[name] for name in (head.inputs[1], head.outputs[0]))
        graph.tensor("draft.weight", weight.shape, weight.format, "weight")
        graph.tensor("draft.logits", logits.shape, logits.format, logits.role)
        graph.add(
            replace(head, name="draft", inputs=(head.inputs[0], "draft.weight"), outputs=("draft.logits",))
        )
    program = lowered(graphs, system(), {"policy": "on-demand"}, fuse=False)
    entries = [task for task in program.tasks if any(o.tensor == "tokens" for o in task.reads)]
    assert [task.step for task in entries] == [0, 1, 2]
    for task in entries[1:]:
        assert set(task.after) >= {f"s{task.step - 1}/{head.name}", f"s{task.step - 1}/draft"}
