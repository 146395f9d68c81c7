"""Where tokens go: expectation and random routings agree, recorded ones are read as they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from neardata.arch.errors import InputError
from neardata.workloads.llm.decoder import llm
from neardata.workloads.llm.model import load_model
from neardata.workloads.llm.routing import (
    Correlated,
    StepOf,
    Uniform,
    Zipf,
    adjacent_overlap,
    correlation_of_overlap,
    expected_active,
    measured,
    normalised_entropy,
    overlap_of_correlation,
    top_share,
)
from neardata.workloads.llm.routing_trace import RecordedRouting, load_routing

SIZES = {"mixtral-8x7b": (8, 2), "qwen3-30b-a3b": (128, 8), "deepseek-v3": (256, 8)}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 8, 16, 17, 32, 64, 128, 256])
def test_uniform_routing_activates_what_the_formula_says(name: str, tokens: int) -> None:
    """Mean of 300 layers within 4.5 standard errors."""
    experts, top_k = SIZES[name]
    config = load_model(name).experts
    assert config is not None and (config.count, config.top_k) == (experts, top_k)
    routing = Uniform(seed=5)
    active = np.array([(routing.counts(i, tokens, experts, top_k) > 0).sum() for i in range(300)])
    margin = 4.5 * active.std() / np.sqrt(300) + 1e-9
    assert active.mean() == pytest.approx(expected_active(experts, top_k, tokens), abs=max(margin, 1e-2))


@pytest.mark.parametrize(
    "experts, top_k, tokens, want",
    [(8, 2, 2, 3.5), (8, 2, 4, 5.5), (8, 2, 8, 7.2), (128, 8, 4, 29.1), (128, 8, 32, 111.8),
     (256, 8, 32, 163.3), (256, 8, 64, 222.4), (4, 4, 1, 4.0), (4, 4, 0, 0.0)],
)  # fmt: skip
def test_expected_active_by_hand(experts: int, top_k: int, tokens: int, want: float) -> None:
    assert round(expected_active(experts, top_k, tokens), 1) == want


@pytest.mark.parametrize(
    "routing",
    [Uniform(1), Zipf(1.2, spread=0.5, seed=1), Correlated(0.4, 0.95, seed=1)],
    ids=["uniform", "zipf", "correlated"],
)
def test_counts_are_routings_and_depend_on_seed_and_layer_alone(routing) -> None:  # type: ignore[no-untyped-def]
    for tokens in (1, 7, 64):
        counts = routing.counts(3, tokens, 32, 4)
        assert counts.sum() == 4 * tokens and counts.max() <= tokens and len(counts) == 32
        assert np.array_equal(counts, routing.counts(3, tokens, 32, 4))
    assert not np.array_equal(routing.counts(0, 64, 32, 4), routing.counts(1, 64, 32, 4))


def test_correlated_layers_do_not_depend_on_the_order_they_are_asked_for() -> None:
    one, two = (Correlated(0.4, 0.95, between_layers=0.5, seed=2) for _ in range(2))
    forward = [one.counts(i, 20, 16, 2) for i in range(3)]
    backward = [two.counts(i, 20, 16, 2) for i in (2, 1, 0)][::-1]
    assert np.array_equal(forward, backward)


@pytest.mark.parametrize("between", [0.0, 0.6])
def test_the_first_tokens_do_not_depend_on_how_many_follow(between: float) -> None:
    routing = Correlated(0.4, 0.95, between_layers=between, sequences=3, seed=4)
    few, many = (np.sort(routing.ids(2, tokens, 32, 4, prompts=3), axis=3) for tokens in (5, 41))
    assert np.array_equal(few, many[:, :, :5])
    counts = [[StepOf(routing, n, 2).counts(i, 3, 32, 4) for i in range(2)] for n in (3, 40)]
    assert np.array_equal(*counts)


def test_zipf_popularity() -> None:
    """Two experts a token: the first drawn by the law, the second by the law without it."""
    p = np.arange(1, 9) ** -1.0
    p /= p.sum()
    second = [sum(p[j] / (1 - p[j]) for j in range(8) if j != i) for i in range(8)]
    want = np.sort(p + p * np.array(second))
    found = np.sort(Zipf(1.0, seed=0).counts(0, 40_000, 8, 2) / 40_000)
    assert found == pytest.approx(want, abs=0.012)


def test_spread_of_zipf_varies_layers_around_the_mean() -> None:
    exponents = [Zipf(1.0, spread=0.4, seed=0).exponent_of(i) for i in range(2000)]
    assert np.mean(exponents) == pytest.approx(1.0, abs=0.04)
    assert np.std(np.log(exponents)) == pytest.approx(0.4, abs=0.03)
    assert Zipf(1.0, seed=0).exponent_of(3) == 1.0
    shares = [Zipf(1.0, spread=0.8, seed=0).counts(i, 500, 32, 2).max() for i in range(20)]
    assert np.std(shares) > 2 * np.std([Zipf(1.0, seed=0).counts(i, 500, 32, 2).max() for i in range(20)])


@pytest.mark.parametrize("overlap", [0.0625, 0.2, 0.427, 0.6])
def test_drawn_tokens_overlap_as_asked(overlap: float) -> None:
    """The mean of many prompts: a short one of few contexts is off by more, of large overlaps downwards."""
    ids = Correlated(overlap, 0.995, seed=0).ids(8, 200, 128, 8, prompts=32)
    assert adjacent_overlap(ids) == pytest.approx(overlap, abs=0.025)
    needed = correlation_of_overlap(overlap, 128, 8)
    assert overlap_of_correlation(needed, 128, 8) == pytest.approx(overlap, rel=1e-3)


def test_layers_have_their_own_overlap() -> None:
    ids = Correlated((0.1, 0.5), 0.99, seed=0).ids(2, 300, 64, 6, prompts=4)
    assert [adjacent_overlap(ids[:, i]) for i in (0, 1)] == pytest.approx([0.1, 0.5], abs=0.03)


def test_slower_context_uses_fewer_experts() -> None:
    figures = []
    for persistence in (0.8, 0.95, 0.999):
        ids = Correlated(0.4, persistence, seed=0).ids(8, 129, 128, 8)
        figures.append((normalised_entropy(ids, 128), top_share(ids, 128)))
    assert figures[0][0] > figures[1][0] > figures[2][0] and figures[0][1] < figures[1][1] < figures[2][1]


def test_layers_correlate_as_asked() -> None:
    def common(between: float) -> float:
        ids = Correlated(0.4, 0.95, between_layers=between, seed=0).ids(2, 400, 64, 6)[0]
        return float((ids[0][:, :, None] == ids[1][:, None, :]).any(2).mean())

    assert common(0.0) == pytest.approx(6 / 64, abs=0.03)
    assert common(0.8) == pytest.approx(overlap_of_correlation(0.8, 64, 6), abs=0.04)
    assert common(1.0) == 1.0


def test_sequences_of_a_step_are_independent() -> None:
    counts = Correlated(0.6, 0.99, sequences=64, seed=0).counts(0, 64, 128, 8)
    together = Correlated(0.6, 0.99, seed=0).counts(0, 64, 128, 8)
    assert (counts > 0).sum() > expected_active(128, 8, 64) - 4 > (together > 0).sum()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Zipf(-1.0),
        lambda: Zipf(1.0, spread=-1),
        lambda: Correlated(1.0, 0.9),
        lambda: Correlated(0.4, 1.1),
        lambda: Correlated(0.4, 0.9, sequences=0),
        lambda: Correlated(0.9, 0.5).counts(0, 4, 64, 2),
        lambda: Correlated((0.2, 0.3), 0.9).counts(2, 4, 64, 2),
        lambda: Correlated(0.4, 0.9, sequences=3).counts(0, 4, 64, 2),
        lambda: Uniform().counts(0, 4, 2, 3),
        lambda: measured("qwen"),
        lambda: measured().routing("poetry"),
    ],
)
def test_what_cannot_be_is_refused(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError):
        make()


def test_layers_without_a_published_overlap_make_up_the_mean() -> None:
    overlaps = measured().overlaps
    assert len(overlaps) == 48 and overlaps[7] == 0.597
    assert np.mean(overlaps) == pytest.approx(np.mean([f.overlap for f in measured().workloads.values()]))


# Recorded.

IDS = np.array([[[0, 1], [2, 3]], [[1, 2], [0, 3]], [[3, 1], [1, 2]]])
"""(tokens, layers, top_k)"""


def write(path: Path, form: str) -> Path:
    if form == "npz":
        np.savez(path / "a.npz", ids=IDS)
    elif form == "json":
        (path / "a.json").write_text(json.dumps({"model": "m", "experts": IDS.tolist()}))
    elif form == "csv":
        rows = [f"{i},{e}" for token in IDS for i, layer in enumerate(token) for e in layer]
        (path / "a.csv").write_text("\n".join(["layer,expert", *rows]) + "\n")
    else:
        import pyarrow as pa
        from pyarrow import parquet

        folder = path / "actives" / "iter_100"
        folder.mkdir(parents=True)
        for i, number in enumerate((2, 10)):
            columns = {"scores": [[0.5, 0.5]] * 3, "indices": IDS[:, i].tolist()}
            parquet.write_table(pa.table(columns), folder / f"layer_{number:02}.parquet")
        return folder
    return path / f"a.{form}"


@pytest.mark.parametrize("form", ["npz", "json", "csv", "parquet"])
def test_recorded_routings_are_read_alike(tmp_path: Path, form: str) -> None:
    routing = load_routing(write(tmp_path, form), top_k=2)
    assert np.array_equal(routing.ids, IDS) and routing.sequences.shape == (2, 3, 2)
    assert routing.counts(1, 3, 4, 2).tolist() == [1, 1, 2, 2]
    assert routing.at(1).counts(0, 2, 4, 2).tolist() == [0, 2, 1, 1]


def test_a_recorded_routing_makes_a_graph() -> None:
    model = load_model("mixtral-8x7b")
    routing = RecordedRouting(np.stack([np.array([[0, 1], [1, 7]])] * 32, axis=1))
    graph = llm(model, batch=2, context=5, layers=[4], routing=routing)
    assert graph["layer4.experts.up"]["tokens"] == (1, 2, 0, 0, 0, 0, 0, 1)
    with pytest.raises(InputError, match="3 tokens from 0 on, but 2 recorded"):
        llm(model, batch=3, context=5, routing=routing)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda r: r.counts(2, 1, 4, 2), "layer 2 of 2"),
        (lambda r: r.counts(0, 4, 4, 2), "3 recorded"),
        (lambda r: r.counts(0, 3, 3, 2), "expert 3 recorded"),
        (lambda r: r.counts(0, 3, 4, 1), "2 recorded"),
        (lambda r: r.at(3), "token 3 of 3"),
        (lambda r: RecordedRouting(IDS[0]), "expected whole numbers"),
        (lambda r: RecordedRouting(IDS * 0), "twice for token 0 in layer 0"),
        (lambda r: RecordedRouting(IDS - 1), "count from 0"),
    ],
)
def test_a_record_has_what_it_has(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        call(RecordedRouting(IDS))


@pytest.mark.parametrize(
    "name, text, place, message",
    [
        ("a.csv", "expert,layer\n", "a.csv:1: ", "expected columns layer,expert"),
        ("a.csv", "", "a.csv:1: ", "expected columns"),
        ("a.csv", "layer,expert\n", "a.csv: ", "holds no experts"),
        ("a.csv", "layer,expert\n0,1\n0,x\n", "a.csv:3: ", "two whole numbers"),
        ("a.csv", "layer,expert\n0,1\n0,2\n0,3\n", "a.csv: ", "layer 0 has 3 experts"),
        ("a.csv", "layer,expert\n0,1\n0,2\n1,1\n1,2\n1,3\n1,4\n", "a.csv: ", "layer 1 has 4 experts"),
        ("a.csv", "layer,expert\n0,1\n0,1\n", "a.csv: ", "twice"),
        ("a.json", "{", "a.json:1: ", "not valid JSON"),
        ("a.json", "[]", "a.json: ", "an object"),
        ("a.json", '{"expert": 1}', "a.json: experts: ", "missing; did you mean expert"),
        ("a.json", '{"experts": [[[1, 2]], [[1]]]}', "a.json: experts.1.0: ", "1 experts in one of 1"),
        ("a.json", '{"experts": [[[1, 2.5]]]}', "a.json: experts.0.0: ", "expert ids"),
        ("a.npz", "no archive", "a.npz: ", "cannot be read"),
        ("a.txt", "", "a.txt: ", "unknown ending"),
    ],
)
def test_files_that_are_no_routing(tmp_path: Path, name: str, text: str, place: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as error:
        load_routing(tmp_path / name, top_k=2)
    assert str(error.value).startswith(f"{tmp_path}/{place}") and message in str(error.value)


def test_csv_needs_the_experts_of_a_token(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs top_k"):
        load_routing(write(tmp_path, "csv"))


def test_folders_that_hold_no_routing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no layer_NN"):
        load_routing(tmp_path)
    folder = write(tmp_path, "parquet")
    (folder / "layer_03.parquet").write_text("x")
    with pytest.raises(InputError, match=r"layer_03.parquet: cannot be read as Parquet"):
        load_routing(folder)
