"""Lowered programs run on data: good ones give the graph's result, broken ones are told apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from neardata.arch.precision import Format
from neardata.arch.system import load_system
from neardata.mappers.functional import ProgramError, execute, reach_of, verify
from neardata.mappers.lower import lower
from neardata.mappers.mapping import Mapping
from neardata.sim.program import Collective, MatMul, Operand, Program, Task, Transfer
from neardata.workloads.graph import Graph, Operator
from neardata.workloads.llm.decoder import llm
from neardata.workloads.llm.model import load_model
from neardata.workloads.semantics import random_values

M, N, K = 3, 8, 12


def graph_of(dtype: str = "int32", *, bias: bool = False) -> Graph:
    """y = x w^T, z = relu(y) u^T."""
    graph = Graph("two layers", "decode", 1)
    number = Format(dtype)
    weight = Format("int8") if dtype == "int32" else number
    graph.tensor("x", (M, K), weight, "activation")
    graph.tensor("w", (N, K), weight, "weight")
    graph.tensor("y", (M, N), number, "activation")
    inputs = ("x", "w")
    if bias:
        graph.tensor("b", (N,), weight, "weight")
        inputs += ("b",)
    graph.add(Operator("first", "linear", inputs, ("y",), {"m": M, "n": N, "k": K}))
    graph.tensor("u", (5, N), weight, "weight")
    graph.tensor("z", (M, 5), number, "activation")
    graph.add(Operator("second", "linear", ("y", "u"), ("z",), {"m": M, "n": 5, "k": N}))
    return graph


def o(tensor: str, place: str, *slices: tuple[int, int], add: bool = False) -> Operand:
    return Operand(tensor, place, 0, slices or None, add)


def task(name: str, unit: str, operator: str, reads: Any, writes: Any, *after: str) -> Task:
    return Task(name, unit, MatMul(1, 1, 1), after, (operator,), tuple(reads), tuple(writes))


def send(name: str, reads: Any, writes: Any, *after: str) -> Task:
    return Task(name, "link", Transfer("a", "b", 0), after, (), tuple(reads), tuple(writes))


def program(tasks: Any, placement: Any) -> Program:
    return Program("p", "s", tuple(tasks), tuple(placement))


def n_split() -> Program:
    """Halves of y on two units, gathered on the first."""
    upper, lower = ((0, 4), (0, K)), ((4, N), (0, K))
    return program(
        [
            task("y0", "a", "first", [o("x", "a"), o("w", "a", *upper)], [o("y", "a", (0, M), (0, 4))]),
            task("y1", "b", "first", [o("x", "b"), o("w", "b", *lower)], [o("y", "b", (0, M), (4, N))]),
            send("move", [o("y", "b", (0, M), (4, N))], [o("y", "a", (0, M), (4, N))], "y1"),
            task("z", "a", "second", [o("y", "a"), o("u", "a")], [o("z", "a")], "y0", "move"),
        ],
        [o("x", "a"), o("x", "b"), o("w", "a", *upper), o("w", "b", *lower), o("u", "a")],
    )  # fmt: skip


def k_split() -> Program:
    """Partial sums over three parts of k, one behind the other."""
    parts = [(0, 5), (5, 6), (6, K)]
    tasks = [
        task(
            f"y{i}", "a", "first", [o("x", "a", (0, M), k), o("w", "a", (0, N), k)], [o("y", "a", add=True)],
            *([f"y{i - 1}"] if i else []),
        )
        for i, k in enumerate(parts)
    ]  # fmt: skip
    tasks.append(task("z", "a", "second", [o("y", "a"), o("u", "a")], [o("z", "a")], "y2"))
    return program(tasks, [o("x", "a"), o("w", "a"), o("u", "a")])


def all_reduced() -> Program:
    """Halves of k on two units, summed on both; halves of z on both, gathered."""
    halves = {"a": (0, 6), "b": (6, K)}
    tasks = [
        task(f"y {u}", u, "first", [o("x", u, (0, M), k), o("w", u, (0, N), k)], [o("y", u)])
        for u, k in halves.items()
    ]
    both = [o("y", "a"), o("y", "b")]
    reduce = Collective("all_reduce", ("a", "b"), 0)
    tasks.append(Task("reduce", "link", reduce, ("y a", "y b"), (), tuple(both), tuple(both)))
    columns = {"a": (0, 2), "b": (2, 5)}
    for u, c in columns.items():
        reads = [o("y", u), o("u", u, c, (0, N))]
        tasks.append(task(f"z {u}", u, "second", reads, [o("z", u, (0, M), c)], "reduce"))
    reads = [o("z", u, (0, M), c) for u, c in columns.items()]
    gather = Collective("all_gather", ("a", "b"), 0)
    tasks.append(Task("gather", "link", gather, ("z a", "z b"), (), tuple(reads), (o("z", "a"), o("z", "b"))))
    return program(tasks, [o(t, u) for t in ("x", "w", "u") for u in ("a", "b")])


GOOD = {"n split": n_split, "k split": k_split, "all reduced": all_reduced}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("dtype", ["int32", "fp32"])
def test_good_programs(name, dtype):
    graph = graph_of(dtype)
    worst = verify(GOOD[name](), graph, random_values(graph, 3))
    assert worst == 0 if dtype == "int32" else worst < 1e-12


def test_results_are_whole_tensors():
    graph = graph_of()
    values = random_values(graph)
    results = execute(n_split(), graph, values)
    assert (results["z"] == values["x"] @ values["w"].T @ values["u"].T).all()
    assert set(results) == {"y", "z"}


def edit(program: Program, name: str, **changes: Any) -> Program:
    tasks = tuple(replace(t, **changes) if t.name == name else t for t in program.tasks)
    return replace(program, tasks=tasks)


def drop(program: Program, name: str) -> Program:
    """Without a task; those behind it wait for those before it."""
    before = next(t.after for t in program.tasks if t.name == name)
    tasks = []
    for t in program.tasks:
        after = tuple(b for a in t.after for b in (before if a == name else (a,)))
        if t.name != name:
            tasks.append(replace(t, after=after))
    return replace(program, tasks=tuple(tasks))


def twice(program: Program, name: str) -> Program:
    tasks = []
    for t in program.tasks:
        tasks.append(t)
        if t.name == name:
            tasks.append(replace(t, name="again", after=(*t.after, name)))
        elif name in t.after:
            tasks[-1] = replace(t, after=(*t.after, "again"))
    return replace(program, tasks=tuple(tasks))


BROKEN = {
    "a dropped tile of n": (drop(n_split(), "y1"), r"'move': y\[0:3, 4:8\] in 'b' is read, but is not there"),
    "a dropped move": (drop(n_split(), "move"), r"'z': y in 'a' is read, but is not there \(12 of 24"),
    "a move to another place": (
        edit(n_split(), "move", writes=(o("y", "c", (0, M), (4, N)),)),
        r"task 'z': y in 'a' is read, but is not there",
    ),
    "a move of something else": (
        edit(n_split(), "move", writes=(o("y", "a", (0, M), (3, N)),)),
        r"'move': y\[0:3, 3:8\] in 'a' is written, but the task does not read it",
    ),
    "a move that nobody waits for": (
        edit(n_split(), "z", after=("y0",)),
        r"'z': y in 'a' comes from task 'move', which it does not wait for",
    ),
    "overlapping tiles of n": (
        edit(n_split(), "y1", writes=(o("y", "b", (0, M), (3, N)),)),
        r"task 'y1' needs w\[3:8, 0:12\], which it does not read",
    ),
    "a tile of n done by both": (
        edit(n_split(), "y1", reads=(o("x", "b"), o("w", "b", (3, N), (0, K))),
             writes=(o("y", "b", (0, M), (3, N)),)),
        r"'y1': w\[3:8, 0:12\] in 'b' is read, but is not there \(12 of 60",
    ),
    "a doubled tile of n": (twice(n_split(), "y0"), r"'again': y\[0:3, 0:4\] in 'a' is written, but"),
    "another unit's place": (edit(n_split(), "z", unit="b"), r"y in 'a' is out of reach of unit 'b'"),
    "a dropped tile of k": (drop(k_split(), "y1"), r"'z': y in 'a' is read, but its sums are not complete"),
    "a doubled tile of k": (twice(k_split(), "y1"), r"'z': y in 'a' is read, but its sums are not complete"),
    "overlapping tiles of k": (
        edit(k_split(), "y1", reads=(o("x", "a", (0, M), (4, 6)), o("w", "a", (0, N), (4, 6)))),
        "its sums are not complete",
    ),
    "a tile of k written over the sum": (
        edit(k_split(), "y1", writes=(o("y", "a"),)), r"'y1': y in 'a' is written, but is there already"
    ),
    "different k of both inputs": (
        edit(k_split(), "y0", reads=(o("x", "a", (0, M), (1, 6)), o("w", "a", (0, N), (0, 5)))),
        r"'y0' needs x\[0:3, 0:5\], which it does not read",
    ),
    "sums not reduced": (drop(all_reduced(), "reduce"), r"'z a': y in 'a' is read, but its sums are not"),
    "reduced on one unit": (
        edit(all_reduced(), "reduce", writes=(o("y", "a"),)), r"'z b': y in 'b' is read, but its sums"
    ),
    "the wrong operator": (
        edit(n_split(), "z", operators=("first",)), r"'z': z in 'a' is not an output of first"
    ),
    "slices out of shape": (
        edit(n_split(), "z", writes=(o("z", "a", (0, M), (0, 6)),)), r"z\[0:3, 0:6\] in 'a' is not in the"
    ),
    "a result left out": (drop(n_split(), "z"), "tensor 'z', a result of the graph, is not computed"),
    "a part of the result left out": (
        edit(n_split(), "z", writes=(o("z", "a", (0, M), (0, 4)),)),
        r"'z': 3 of 15 .*exactly once, first at \(0, 4\)",
    ),
    "nothing placed": (replace(k_split(), placement=()), "x.* in 'a' is read, but is not there"),
    "a result placed": (
        replace(k_split(), placement=(*k_split().placement, o("y", "a"))), "'y' is computed by operator"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_programs(name):
    broken, message = BROKEN[name]
    graph = graph_of()
    with pytest.raises(ProgramError, match=message):
        execute(broken, graph, random_values(graph))


def test_a_matrix_computed_in_two_places():
    """Twice the work is an error, even where the result is right."""
    p = program(
        [
            task("y a", "a", "first", [o("x", "a"), o("w", "a")], [o("y", "a")]),
            task("y b", "b", "first", [o("x", "b"), o("w", "b")], [o("y", "b")]),
            task("z", "a", "second", [o("y", "a"), o("u", "a")], [o("z", "a")], "y a"),
        ],
        [o(t, u) for t in ("x", "w", "u") for u in ("a", "b")],
    )
    graph = graph_of()
    with pytest.raises(ProgramError, match=r"tensor 'y': 24 of 24 elements not computed exactly once"):
        execute(p, graph, random_values(graph))


def test_a_bias_is_added_once():
    graph = graph_of("fp32", bias=True)
    values = random_values(graph)
    with_bias = []
    for tasks_with_bias in ([0], [2], [], [0, 1]):
        p = k_split()
        for i in tasks_with_bias:
            p = edit(p, f"y{i}", reads=(*p.tasks[i].reads, o("b", "a")))
        p = replace(p, placement=(*p.placement, o("b", "a")))
        if len(tasks_with_bias) == 1:
            with_bias.append(verify(p, graph, values))
        else:
            with pytest.raises(ProgramError, match="its sums are not complete"):
                execute(p, graph, values)
    assert max(with_bias) < 1e-12


def test_a_unit_that_reaches_another_place():
    p = edit(n_split(), "z", unit="b")
    graph = graph_of()
    assert verify(p, graph, random_values(graph), reach={"b": ["a"]}) == 0


# Whole models, an operator a task.


SIZES: dict[str, Any] = {
    "layers": 2, "hidden": 24, "heads": 4, "kv_heads": 2, "head_dim": 6, "ffn": 20, "vocabulary": 13,
    "embedding_dim": 24, "attention_scale": 6**-0.5,
}  # fmt: skip


def small_graph(name: str, **formats: Any) -> Graph:
    model = load_model(name)
    sizes = dict(SIZES)
    if model.experts:
        sizes["experts"] = model.experts.model_copy(
            update={"count": 8, "top_k": 2, "ffn": 9, "layers": (0, 1)}
        )
    return llm(model.model_copy(update=sizes), context=[5, 9], **formats)


def on_one_unit(graph: Graph) -> Program:
    tasks: list[Task] = []
    for operator in graph:
        reads = [o(name, "a") for name in operator.inputs]
        writes = [o(name, "a") for name in operator.outputs]
        after = [tasks[-1].name] if tasks else []
        tasks.append(task(operator.name, "a", operator.name, reads, writes, *after))
    start = [n for n in graph.tensors if graph.producer(n) is None or graph.tensors[n].role == "cache"]
    return program(tasks, [o(name, "a") for name in start])


@pytest.mark.parametrize("name", ["llama-2-7b", "mixtral-8x7b"])
@pytest.mark.parametrize(
    "formats", [{}, {"cache": "int8/g6", "weights": "int8/g4"}], ids=["floats", "scales"]
)
def test_a_model(name, formats):
    graph = small_graph(name, **formats)
    assert verify(on_one_unit(graph), graph, random_values(graph, 1)) < 1e-12


def cut_attention(graph: Graph, slices: list[tuple[tuple[int, int], tuple[int, int]]]) -> Program:
    """The first layer's attention in tiles of sequences and heads."""
    name = next(operator.name for operator in graph if operator.kind == "attention")
    tasks: list[Task] = []
    for t in on_one_unit(graph).tasks:
        if t.name != name:
            tasks.append(replace(t, after=tuple(x.name for x in tasks[-len(slices) :])))
            continue
        before = (tasks[-1].name,)
        for i, cut in enumerate(slices):
            tile = replace(t.writes[0], slices=cut)
            tasks.append(replace(t, name=f"{name} {i}", after=before, writes=(tile,)))
    return replace(on_one_unit(graph), tasks=tuple(tasks))


def test_attention_in_tiles():
    graph = small_graph("llama-2-7b")
    values = random_values(graph, 1)
    heads = [((0, 1), (0, 12)), ((0, 1), (12, 24)), ((1, 2), (0, 6)), ((1, 2), (6, 24))]
    with pytest.raises(ProgramError, match="cuts groups of 2 heads that share keys"):
        execute(cut_attention(graph, heads), graph, values)
    good = [*heads[:3], ((1, 2), (6, 12)), ((1, 2), (12, 24))]
    assert verify(cut_attention(graph, good), graph, values) < 1e-12
    with pytest.raises(ProgramError, match="12 of 48 elements"):
        execute(cut_attention(graph, good[:-1]), graph, values)
    with pytest.raises(ProgramError, match="cuts a head of 6 columns"):
        execute(cut_attention(graph, [((0, 2), (0, 5))]), graph, values)


def test_keys_are_read_after_they_are_appended():
    graph = small_graph("llama-2-7b")
    p = on_one_unit(graph)
    first = next(operator for operator in graph if operator.kind == "kv_append")
    with pytest.raises(ProgramError, match=rf"{first.outputs[0]} in 'a' is read, but is not there \(24 of"):
        execute(drop(p, first.name), graph, random_values(graph))


SYSTEMS = {
    "a100": ("gpu",),
    "aim": ("controller", "aim"),
    "attacc": ("gpu", "attacc"),
    "a100-hbm-pim": ("gpu", "pim"),
}


@pytest.mark.parametrize("model", ["llama-2-7b", "mixtral-8x7b"])
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("slots", [1, 2])
def test_lowered_programs(system, slots, model):
    """What `lower` makes computes the graph: on processors and in memories, split and not."""
    known = load_system(system, {f"units.{group}.count": slots for group in SYSTEMS[system]})
    graph = small_graph(model)
    for experts in ("split", "spread"):
        for on_pim in ("nothing", "attention", "everything")[: 1 if system == "a100" else 3]:
            lowered = lower(graph, known, Mapping(on_pim=on_pim, experts=experts))
            worst = verify(lowered, graph, random_values(graph, 1), reach=reach_of(known))
            assert worst < 1e-12, (experts, on_pim)


def test_tasks_dropped_from_a_lowered_program():
    """Every task that writes something is needed."""
    known = load_system("attacc", {f"units.{group}.count": 2 for group in SYSTEMS["attacc"]})
    graph = small_graph("mixtral-8x7b")
    values = random_values(graph, 1)
    lowered = lower(graph, known, Mapping(on_pim="attention"))
    for t in lowered.tasks[::4]:
        if t.writes:
            with pytest.raises(ProgramError):
                execute(drop(lowered, t.name), graph, values, reach=reach_of(known))
