"""Streams of requests: rates and spread of random ones, recorded ones as they are, errors with lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neardata.arch.errors import InputError
from neardata.workloads.requests import Request, load_requests, random_requests

DATA = Path(__file__).parents[1] / "data/workloads"


@pytest.mark.parametrize(
    "arrivals, variation, want",
    [("poisson", 1.0, 1.0), ("gamma", 2.0, 2.0), ("gamma", 0.5, 0.5), ("uniform", 1, 0)],
)
def test_gaps_have_the_rate_and_the_variation(arrivals: str, variation: float, want: float) -> None:
    stream = random_requests(
        20_000,
        rate_per_s=50,
        prompt_tokens=(10, 20),
        generated_tokens=3,
        arrivals=arrivals,
        variation=variation,
    )
    gaps = np.diff([0, *(r.arrival_ps for r in stream)]) / 1e12
    assert gaps.mean() == pytest.approx(1 / 50, rel=5 * max(want, 1e-9) / np.sqrt(20_000))
    assert gaps.std() / gaps.mean() == pytest.approx(want, abs=0.1)
    lengths = [r.prompt_tokens for r in stream]
    assert set(lengths) == set(range(10, 21)) and {r.generated_tokens for r in stream} == {3}


def test_the_seed_decides() -> None:
    def drawn(seed: int) -> list[Request]:
        return random_requests(9, rate_per_s=1, prompt_tokens=5, generated_tokens=(1, 90), seed=seed)

    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.parametrize("change", [
    {"n": 0}, {"rate_per_s": 0}, {"rate_per_s": float("nan")}, {"prompt_tokens": 0},
    {"generated_tokens": (5, 4)}, {"arrivals": "poison"}, {"variation": -1},
])  # fmt: skip
def test_arguments_out_of_range(change: dict) -> None:
    arguments = {"n": 3, "rate_per_s": 1.0, "prompt_tokens": 5, "generated_tokens": 5} | change
    n = arguments.pop("n")
    with pytest.raises(InputError, match="did you mean poisson" if "arrivals" in change else "[a-z]"):
        random_requests(n, **arguments)


def test_azure_trace() -> None:
    stream = load_requests(DATA / "azure_llm_2023_code_head.csv")
    assert len(stream) == 12
    assert stream[0] == Request(0, 4808, 10)
    assert stream[1] == Request(52_000_000_000, 3180, 8)  # 18:17:03.9799600 to 18:17:04.0319600


def test_vllm_log() -> None:
    stream = load_requests(DATA / "vllm_requests_head.jsonl")
    assert len(stream) == 8 and stream[0] == Request(0, 2358, 531)
    assert stream[1].arrival_ps / 1e12 == pytest.approx(1777142838.6237123 - 1777142838.338653, abs=1e-6)


HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
VLLM = '{"arrival_time": 2.0, "input_toks": 5, "output_toks": 6}\n'


@pytest.mark.parametrize(
    "name, text, place, message",
    [
        ("a.csv", "", "a.csv: ", "no requests"),
        ("a.csv", HEAD, "a.csv: ", "no requests"),
        (
            "a.csv",
            "TIMESTAMP,ContextToken,GeneratedTokens\n",
            "a.csv:1: ",
            "no column 'ContextTokens'; did you",
        ),
        ("a.csv", HEAD + "1.5,3\n", "a.csv:2: ", "2 values for 3 columns"),
        ("a.csv", HEAD + "-1.5,3,4\n", "a.csv:2: TIMESTAMP: ", "negative time"),
        ("a.csv", HEAD + "-0.5,3,4\n", "a.csv:2: TIMESTAMP: ", "negative time"),
        ("a.csv", HEAD + "yesterday,3,4\n", "a.csv:2: TIMESTAMP: ", "no time"),
        ("a.csv", HEAD + "1969-11-16 18:17:03.1,3,4\n", "a.csv:2: TIMESTAMP: ", "negative time"),
        ("a.csv", HEAD + "2,3,4\n\n1,3,4\n", "a.csv:4: ", "earlier"),
        ("a.csv", HEAD + "2,3.5,4\n", "a.csv:2: ContextTokens: ", "number of tokens"),
        ("a.csv", HEAD + "2,3,-4\n", "a.csv:2: GeneratedTokens: ", "number of tokens"),
        ("a.jsonl", "", "a.jsonl: ", "no requests"),
        ("a.jsonl", VLLM + "{\n", "a.jsonl:2: ", "not valid JSON"),
        ("a.jsonl", VLLM + "[]\n", "a.jsonl:2: ", "object"),
        (
            "a.jsonl",
            VLLM.replace("toks", "tok", 1),
            "a.jsonl:1: input_toks: ",
            "missing; did you mean input_tok",
        ),
        ("a.jsonl", VLLM + VLLM.replace("2.0", "1.0"), "a.jsonl:2: ", "earlier"),
        ("a.jsonl", VLLM.replace("2.0", "-2.0"), "a.jsonl:1: arrival_time: ", "negative"),
        ("a.jsonl", VLLM.replace("2.0", "null"), "a.jsonl:1: arrival_time: ", "no time"),
        ("a.jsonl", VLLM.replace("2.0", "NaN"), "a.jsonl:1: arrival_time: ", "no time"),
        ("a.jsonl", VLLM.replace("5", "true"), "a.jsonl:1: input_toks: ", "number of tokens"),
        ("a.txt", "", "a.txt: ", "unknown ending"),
    ],
)
def test_files_that_are_no_stream(tmp_path: Path, name: str, text: str, place: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as error:
        load_requests(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path}/{place}") and message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_requests(tmp_path / "a.csv")
