"""Offload policies: every expert computed once, never before it is there, never beyond the memory."""

import doctest
import itertools
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import neardata.mappers.expert_cache
import neardata.mappers.fiddler
import neardata.mappers.hybrimoe
import neardata.mappers.moe_block
import neardata.mappers.offload
from neardata.arch.errors import InputError
from neardata.arch.system import load_system, parse_system
from neardata.mappers import fiddler, hybrimoe
from neardata.mappers.expert_cache import LeastFrequentlyUsed, LeastRecentlyUsed, MinusRecentScore
from neardata.mappers.moe_block import Block, Expert, Machine, blocks_of
from neardata.mappers.moe_block import expert_of as expert_of_model
from neardata.mappers.offload import cached, on_demand, pre_gated, prefetch_all, resident
from neardata.sim.program import Elementwise, MatMul, Pause, Transfer
from neardata.sim.system.engine import run
from neardata.workloads.llm.expert_cache import hit_rate
from neardata.workloads.llm.model import load_model
from neardata.workloads.llm.routing import Uniform

SIZE = 1000
FETCH_PS = 50


def system_of(fetch_ps=FETCH_PS):
    """A GPU, its host and an SSD, whose links bring an expert in so many picoseconds, or in 200."""

    def plain(ps):
        return {
            "gb_per_s": SIZE * 1e3 / ps, "latency_ns.value": 0, "startup_ns.value": 0, "fraction.value": 1,
            "overhead_bytes": 0, "sharing": "exclusive",
        }  # fmt: skip

    return parse_system({
        "name": "a100", "source": "test",
        "units": {
            "gpu": {"kind": "processor", "processor": "a100-80gb"},
            "cpu": {"kind": "processor", "processor": "epyc-7v12"},
            "ssd": {"kind": "memory", "capacity_gb": 1000},
        },
        "links": {
            "pcie": {"link": "pcie-4", "between": ["gpu", "cpu"], "overrides": plain(fetch_ps)},
            "nvme": {"link": "pcie-4", "between": ["cpu", "ssd"], "overrides": plain(200)},
        },
    })  # fmt: skip


SYSTEM = system_of()
MACHINE = Machine("a100", host="cpu")
COSTS = fiddler.ExpertTimes(cpu=lambda tokens: 30.0 * tokens, device=lambda tokens: 10.0, fetch=50.0)


def expert_of(device_ps=10, cpu_ps=30):
    return Expert.of_times(
        bytes=SIZE, device_ps=lambda tokens: device_ps, cpu_ps=lambda tokens: cpu_ps * tokens
    )


@st.composite
def passes(draw):
    experts = draw(st.integers(1, 5))
    layers = draw(st.integers(1, 4))
    routing = st.lists(st.integers(0, 4), min_size=experts, max_size=experts).filter(any)
    pauses = st.lists(st.integers(1, 60).map(Pause), max_size=2).map(tuple)
    return [
        [
            Block(layer, tuple(draw(routing)), draw(pauses), draw(pauses), draw(pauses))
            for layer in range(layers)
        ]
        for _ in range(draw(st.integers(1, 3)))
    ]


def most_active(blocks):
    return max(len(block.active) for of_pass in blocks for block in of_pass)


POLICIES = {
    "resident": lambda p, e, m, room: resident(p, e, m),
    "on-demand": lambda p, e, m, room: on_demand(p, e, m),
    "on-demand, each": lambda p, e, m, room: on_demand(p, e, m, wait="each"),
    "prefetch-all": lambda p, e, m, room: prefetch_all(p, e, m),
    "pre-gated": lambda p, e, m, room: pre_gated(p, e, m),
    "lru": lambda p, e, m, room: cached(p, e, m, capacity=room, eviction=LeastRecentlyUsed()),
    "lfu": lambda p, e, m, room: cached(p, e, m, capacity=room, eviction=LeastFrequentlyUsed(), wait="each"),
    "mrs": lambda p, e, m, room: cached(p, e, m, capacity=room, eviction=MinusRecentScore(top=2)),
    "cpu-cold": lambda p, e, m, room: fiddler.place(p, e, m, on_device=[(0, 0)], costs=COSTS, staging=room),
    "cpu-cold, max": lambda p, e, m, room: fiddler.place(p, e, m, on_device=[], costs=COSTS, objective="max"),
    "hybrid": lambda p, e, m, room: hybrimoe.place(p, e, m, capacity=room, costs=COSTS),
    "hybrid, guarded": lambda p, e, m, room: hybrimoe.place(
        p, e, m, capacity=room, costs=COSTS, fetch_only_if_earlier=True, depth=1, start=((0, 0),)
    ),
}


def computations(placed):
    """Pass, layer, expert of each computation, with its task."""
    for task in placed.program.tasks:
        found = re.fullmatch(r"p(\d+)\.l(\d+)\.e(\d+)", task.name)
        if found:
            yield tuple(map(int, found.groups())), task


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=20, deadline=None)
@given(passes(), st.integers(0, 6))
def test_every_active_expert_is_computed_exactly_once(policy, blocks, spare):
    placed = POLICIES[policy](blocks, expert_of(), MACHINE, most_active(blocks) + spare)
    wanted = Counter(
        (i, block.layer, e) for i, of_pass in enumerate(blocks) for block in of_pass for e in block.active
    )
    assert Counter(key for key, _ in computations(placed)) == wanted
    on_cpu = sum(task.unit == "cpu" for _, task in computations(placed))
    assert placed.cpu_experts == on_cpu
    assert placed.fetches == sum(isinstance(task.kernel, Transfer) for task in placed.program.tasks)


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=20, deadline=None)
@given(passes(), st.integers(0, 6), st.sampled_from([3, 50, 500]))
def test_an_expert_is_computed_where_its_weights_are_and_memory_suffices(policy, blocks, spare, fetch_ps):
    """Slots replayed in time: what a slot holds when an expert runs, and that no fill comes too early."""
    room = most_active(blocks) + spare
    placed = POLICIES[policy](blocks, expert_of(), MACHINE, room)
    plan = run(placed.program, system_of(fetch_ps)).schedule
    names = [task.name for task in placed.program.tasks]
    starts, ends = dict(zip(names, plan.start, strict=True)), dict(zip(names, plan.end, strict=True))
    fills = [
        (starts[name], ends[name], slot, name.rpartition("fetch.")[2])
        for name, slot in placed.slot_of.items()
    ]
    fills += [(-1, -1, slot, f"l{layer}.e{e}") for (layer, e), slot in placed.resident.items()]
    slots = {slot for *_, slot, _ in fills}
    assert len(slots) * SIZE <= placed.device_bytes
    assert all(slot >= 0 and (slot + 1) * SIZE <= placed.device_bytes for slot in slots)
    if policy in ("lru", "lfu", "mrs") or policy.startswith("hybrid"):
        assert placed.device_bytes <= room * SIZE
    for (_, layer, e), task in computations(placed):
        if task.unit == "cpu":
            assert [operand.place for operand in task.reads] == ["cpu"]
            continue
        start, end = starts[task.name], ends[task.name]
        holding = [
            slot
            for slot in slots
            if (begun := [fill for fill in fills if fill[2] == slot and fill[0] < end])
            and max(begun)[3] == f"l{layer}.e{e}"
            and max(begun)[1] <= start
        ]
        assert holding, task.name  # one, or also an older copy in a slot given up


@settings(max_examples=50, deadline=None)
@given(passes(), st.integers(1, 120))
def test_pre_gated_is_never_slower_than_on_demand_and_resident_is_fastest(blocks, device_ps):
    expert = expert_of(device_ps)
    time = {
        policy.__name__: run(policy(blocks, expert, MACHINE).program, SYSTEM).time_ps
        for policy in (resident, pre_gated, on_demand, prefetch_all)
    }
    assert time["resident"] <= time["pre_gated"] <= time["on_demand"]
    assert time["resident"] <= time["prefetch_all"]


@settings(max_examples=60, deadline=None)
@given(passes())
def test_a_cache_for_everything_fetches_each_expert_once(blocks):
    room = sum(len(block.tokens) for block in blocks[0])
    placed = cached(blocks, expert_of(), MACHINE, capacity=room)
    used = {(block.layer, e) for of_pass in blocks for block in of_pass for e in block.active}
    assert placed.fetches == len(used)
    assert placed.hits + placed.fetches == sum(len(b.active) for of_pass in blocks for b in of_pass)


def steady(policy, layers, **more):
    """Six or so blocks of two experts, one active, 40 ps of which 10 for the gate."""
    blocks = [[Block(layer, (1, 0), (Pause(10),)) for layer in range(layers)]]
    placed = policy(blocks, expert_of(30), MACHINE, **more)
    return run(placed.program, SYSTEM).time_ps, placed


def test_times_by_hand():
    assert steady(resident, 6)[0] == 6 * 40
    assert steady(on_demand, 6)[0] == 6 * (40 + 50)
    # the first fetch is in the open; then each block waits for the link, which is never idle
    assert steady(pre_gated, 6)[0] == 10 + 6 * 50 + 30
    # all twelve fetches in a row, then the last block's expert
    assert steady(prefetch_all, 6)[0] == 12 * 50 + 30


def test_peak_memory():
    """Pre-gated MoE: what is not experts, and the active experts of two blocks (its section IV)."""
    blocks = [[Block(0, (1, 0, 0)), Block(1, (1, 1, 0)), Block(2, (1, 1, 1)), Block(3, (0, 0, 1))]]
    peak = {
        policy.__name__: policy(blocks, expert_of(), MACHINE, other_bytes=7).device_bytes
        for policy in (resident, on_demand, pre_gated, prefetch_all)
    }
    assert peak == {
        "resident": 7 + 12 * SIZE,
        "on_demand": 7 + 3 * SIZE,
        "pre_gated": 7 + 5 * SIZE,
        "prefetch_all": 7 + 6 * SIZE,
    }


def test_experts_on_storage_pass_through_the_host():
    machine = Machine("a100", host="cpu", storage="ssd")
    placed = on_demand([[Block(0, (1, 1))]], expert_of(), machine)
    assert [(t.unit, t.kernel.source, t.kernel.target) for t in placed.program.tasks[:4]] == [
        ("nvme", "ssd", "cpu"), ("pcie", "cpu", "gpu"), ("nvme", "ssd", "cpu"), ("pcie", "cpu", "gpu"),
    ]  # fmt: skip
    assert placed.program.bytes_at == {"ssd": 2 * SIZE, "gpu": 2 * SIZE}
    # reads from storage one after the other, copies to the device behind them
    assert run(placed.program, SYSTEM).time_ps == 200 + 200 + 50 + 10 + 10


@settings(max_examples=15, deadline=None)
@given(st.lists(st.permutations(range(6)), min_size=1, max_size=30), st.integers(2, 6))
def test_the_cache_hits_as_often_as_the_model_of_caches_says(orders, capacity):
    """Two ways of counting: slots of a program, and hit rates of a routing."""
    ids = [[sorted(order[:2]) for order in orders]]
    passes = [[Block(0, tuple(int(e in token) for e in range(6)))] for token in ids[0]]
    placed = cached(passes, expert_of(), MACHINE, capacity=capacity, eviction=LeastRecentlyUsed())
    assert placed.hits == round(hit_rate(ids, 6, capacity, "lru") * 2 * len(orders))


def sequence(*active):
    """Passes through one layer of four experts, one active in each."""
    return [[Block(0, tuple(int(e == chosen) for e in range(4)))] for chosen in active]


def fetched(placed):
    return [int(name[-1]) for name in placed.slot_of]


def test_who_leaves():
    order = sequence(0, 0, 1, 2, 0, 1)
    # two places; after 0 0 1, expert 2 takes the place of 0 (least recent) or of 1 (least often)
    assert fetched(cached(order, expert_of(), MACHINE, capacity=2)) == [0, 1, 2, 0, 1]
    lfu = cached(order, expert_of(), MACHINE, capacity=2, eviction=LeastFrequentlyUsed())
    assert fetched(lfu) == [0, 1, 2, 1]
    # scores 0: .5 .75 .375 .1875, 1: .5 .25 when 2 comes: 0 leaves; when 0 comes 1 has .125, 2 .25
    mrs = cached(order, expert_of(), MACHINE, capacity=2, eviction=MinusRecentScore(top=1))
    assert fetched(mrs) == [0, 1, 2, 0, 1]


def test_a_cache_that_is_too_small_is_refused():
    with pytest.raises(InputError, match=r"capacity: block p0.l0 has 3 active experts.* 3 or more would fit"):
        cached([[Block(0, (1, 1, 1))]], expert_of(), MACHINE, capacity=2)
    with pytest.raises(InputError, match="start: 2 experts at the start, but room for 1"):
        hybrimoe.place(
            [[Block(0, (1,))]], expert_of(), MACHINE, capacity=1, costs=COSTS, start=((0, 0), (0, 1))
        )
    with pytest.raises(InputError, match="staging"):
        fiddler.place([[Block(0, (1,))]], expert_of(), MACHINE, on_device=[], costs=COSTS, staging=0)


def test_shapes_become_products():
    expert = Expert.of_shape(hidden=64, ffn=96, gated=True, weights="int4/g32", activations="fp16")
    assert expert.kernels(3) == (
        MatMul(3, 192, 64, weights="int4/g32", activations="fp16"),
        MatMul(3, 64, 96, weights="int4/g32", activations="fp16"),
    )
    assert expert.bytes == 3 * 64 * 96 // 2 + 2 * 3 * 64 * 96 // 32
    assert expert.activation_bytes == 128
    placed = fiddler.place([[Block(0, (3, 0))]], expert, MACHINE, on_device=[], costs=fiddler.RELEASED)
    assert [(t.unit, t.kernel.kind) for t in placed.program.tasks] == [
        ("pcie", "transfer"), ("cpu", "matmul"), ("cpu", "matmul"), ("pcie", "transfer"),
    ]  # fmt: skip
    assert placed.program.tasks[0].kernel == Transfer("gpu", "cpu", 3 * 128)


# --- on a system ------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_programs_run_on_a_system(policy):
    """Real kernels: the engine of systems finds every unit, port and place, and does all the work."""
    model = load_model("mixtral-8x7b")
    expert, machine = expert_of_model(model, "int4/g32", "fp16"), Machine("a100-pcie4", host="cpu")
    norm = Elementwise(8192, 8192, 4096)
    passes = [blocks_of(model, Uniform(i), 4, before=(norm,), after=(norm,))[:3] for i in range(2)]
    room = most_active(passes) + 1
    placed = POLICIES[policy](passes, expert, machine, room)
    report = run(placed.program, load_system("a100-pcie4"))
    active = sum(block.tokens[e] for blocks in passes for block in blocks for e in block.active)
    assert sum(outcome.macs for outcome in report.outcomes) == active * model.expert_parameters
    moved = sum(t.kernel.bytes for t in placed.program.tasks if ".fetch." in t.name)
    assert moved == placed.fetches * expert.bytes
    assert report.time_ps > 0


def test_slots_beyond_the_memory_of_the_device_are_refused():
    passes, expert = [[Block(0, (1,) * 4)]], Expert.of_times(bytes=30 * 10**9, device_ps=lambda tokens: 1)
    run(on_demand([[Block(0, (1, 1))]], expert, MACHINE).program, SYSTEM)
    with pytest.raises(InputError, match=r"are placed in 'gpu', which holds 80,000,000,000"):
        run(on_demand(passes, expert, MACHINE).program, SYSTEM)
    small = on_demand([[Block(0, (1,))]], expert, MACHINE, other_bytes=60 * 10**9)
    with pytest.raises(InputError, match="10,000,000,000 too many"):
        run(small.program, SYSTEM)


def test_the_example_of_the_document_runs(capsys):
    text = (Path(__file__).parents[2] / "docs" / "offload.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    exec(example, {})
    demand, gated = capsys.readouterr().out.splitlines()
    assert demand.startswith("on-demand") and gated.startswith("pre-gated")
    ms = [float(re.search(r"([\d.]+) ms", line)[1]) for line in (demand, gated)]
    assert 0.9 * ms[0] < ms[1] < ms[0]  # on this link a decode step is nearly all fetches


# --- Fiddler ----------------------------------------------------------------------------------------

costs = st.builds(
    lambda cpu, device, fetch: fiddler.ExpertTimes(lambda t: cpu * t, lambda t: device * t, fetch),
    st.integers(0, 9), st.integers(0, 5), st.integers(0, 40),
)  # fmt: skip


@pytest.mark.parametrize("objective", ["sum", "max"])
@given(st.lists(st.integers(1, 20), max_size=7), st.sets(st.integers(0, 6)), costs)
def test_the_choice_costs_what_the_best_of_all_ways_costs(objective, counts, there, believed):
    tokens = dict(enumerate(counts))
    total = {"sum": sum, "max": max}[objective]

    def cost(on_cpu):
        device = sum(
            believed.device(count) + (0 if e in there else believed.fetch)
            for e, count in tokens.items()
            if e not in on_cpu
        )
        return total([sum(believed.cpu(tokens[e]) for e in on_cpu), device])

    away = [e for e in tokens if e not in there]
    every_way = (set(way) for size in range(len(away) + 1) for way in itertools.combinations(away, size))
    chosen = fiddler.choose(tokens, sorted(there), believed, objective)
    assert not chosen & there
    assert cost(chosen) == min(cost(way) for way in every_way)


def test_few_tokens_go_to_the_cpu_many_fetch_the_expert():
    """The released constants: up to 10 tokens at 7 cost no more than a fetch at 70."""
    assert fiddler.choose({0: 9}, [], fiddler.RELEASED) == {0}
    assert fiddler.choose({0: 11}, [], fiddler.RELEASED) == frozenset()


# --- HybriMoE ---------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=8),
    st.sets(st.integers(0, 7)),
    st.one_of(st.none(), st.integers(0, 4)),
    st.booleans(),
)
def test_simulated_schedules_are_possible(counts, there, fetches, guarded):
    tokens = dict(enumerate(counts))
    found = hybrimoe.schedule_block(tokens, there, COSTS, fetches=fetches, fetch_only_if_earlier=guarded)
    assert sorted(found.on("device") + found.on("cpu")) == sorted(tokens)
    assert fetches is None or len(found.on("link")) <= fetches
    assert not set(found.on("link")) & there
    arrivals = {action.expert: action.end for action in found.actions if action.side == "link"}
    for side in ("device", "cpu", "link"):
        own = [action for action in found.actions if action.side == side]
        assert all(a.end <= b.start for a, b in itertools.pairwise(own))
        if side == "device":
            assert all(
                action.start >= arrivals[action.expert] for action in own if action.expert not in there
            )


def test_priorities():
    """Uncached: fewest tokens first on the CPU, most tokens first over the link; cached: most first."""
    tokens = {0: 2, 1: 6, 2: 1, 3: 4, 4: 9}
    found = hybrimoe.schedule_block(tokens, [0, 1], COSTS)
    assert found.on("device")[:2] == (1, 0)
    assert found.on("cpu")[0] == 2
    assert found.on("link")[0] == 4


def test_prefetch_follows_the_gain():
    """Of two experts missing in the next block, the one whose presence shortens it more is brought."""
    blocks = [[Block(0, (1, 0, 0), (Pause(5),)), Block(1, (0, 1, 3), (Pause(5),))]]
    far = fiddler.ExpertTimes(cpu=lambda tokens: 30.0 * tokens, device=lambda tokens: 10.0, fetch=500.0)
    placed = hybrimoe.place(blocks, expert_of(), MACHINE, capacity=3, costs=far, fetch_only_if_earlier=True)
    assert list(placed.slot_of) == ["p0.l0.fetch.l1.e2"]
    assert placed.cpu_experts == 2
    assert placed.hits == 1


@pytest.mark.parametrize(
    "module",
    [
        neardata.mappers.expert_cache,
        neardata.mappers.fiddler,
        neardata.mappers.hybrimoe,
        neardata.mappers.moe_block,
        neardata.mappers.offload,
    ],
    ids=lambda module: module.__name__.rpartition(".")[2],
)
def test_examples(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed
