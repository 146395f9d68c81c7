"""Block requests: patterns, arrivals, traces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neardata.arch.errors import InputError
from neardata.workloads.block_io import READ, WRITE, BlockPattern, poisson, read_block_trace

DATA = Path(__file__).parents[1] / "data" / "ssd"


@pytest.mark.parametrize("order", ["random", "sequential", "zipf"])
def test_requests_stay_in_their_space(order: str) -> None:
    op, lba, sectors = next(BlockPattern(order, 8192, 0.7, 1000, seed=3).chunks(5000))  # type: ignore[arg-type]
    assert ((lba >= 0) & (lba + sectors <= 1000) & (lba % 16 == 0)).all()
    assert np.mean(op == READ) == pytest.approx(0.7, abs=0.03)
    assert set(op) == {READ, WRITE}


def test_chunks_go_on() -> None:
    stream = BlockPattern("sequential", 512, 1.0, 10, start=0).chunks(7)
    assert np.concatenate([next(stream)[1], next(stream)[1]]).tolist() == [*range(10), *range(4)]


def test_zipf_is_skewed_as_its_law_says() -> None:
    _, lba, _ = next(BlockPattern("zipf", 512, 1.0, 1000, theta=0.9).chunks(200_000))
    counts = np.sort(np.bincount(lba, minlength=1000))[::-1]
    law = np.arange(1, 1001.0) ** -0.9
    assert counts[:2] / 200_000 == pytest.approx(law[:2] / law.sum(), rel=0.1)
    assert counts[:100].sum() / 200_000 == pytest.approx(law[:100].sum() / law.sum(), rel=0.15)


def test_arrivals_have_their_rate() -> None:
    times = poisson(100_000, 1e6, 1)
    assert (np.diff(times) >= 0).all()
    assert times[-1] == pytest.approx(1e8, rel=0.02)


@pytest.mark.parametrize(
    ("name", "requests", "writes"), [("tpcc-small", 6999, 2618), ("wsrch-small", 24783, 4)]
)
def test_mqsims_traces_are_read(name: str, requests: int, writes: int) -> None:
    arrive, (op, lba, sectors) = read_block_trace(DATA / f"{name}.trace")
    assert len(arrive) == len(op) == len(lba) == len(sectors) == requests
    assert int((op == WRITE).sum()) == writes
    assert (np.diff(arrive) >= 0).all()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("5 0 0 8", "t.trace:2: must be five numbers"),
        ("5 0 0 8 2", "operation 2 is neither"),
        ("-5 0 0 8 1", "arrives before 0: -5"),
        ("3 0 0 8 1", "before the request above"),
        ("9 0 -1 8 1", "sector -1 is below 0"),
        ("9 0 0 0 1", "0 sectors"),
        ("9 0 0 x 1", "'x' is not a whole number"),
        (f"9 0 {2**60} 8 1", "is beyond"),
    ],
)
def test_lines_that_are_none(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "t.trace"
    path.write_text(f"4 0 0 8 1\n{line}\n")
    with pytest.raises(InputError) as caught:
        read_block_trace(path)
    assert message in str(caught.value)


def test_an_empty_trace(tmp_path: Path) -> None:
    (tmp_path / "t.trace").write_text("\n")
    with pytest.raises(InputError, match="has no requests"):
        read_block_trace(tmp_path / "t.trace")
