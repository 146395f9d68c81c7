"""Values per CPU second of the operators of recommendation preprocessing, one core, and of their numpy forms.

Run: python benchmarks/recsys.py [-n VALUES] [--reps R]

Numbers are those of rm2's generated dense columns, ids those of its sparse ones. Kernels are compiled before;
the best repetition counts. The last lines: how far other float32 logarithms are from ours, which are
correctly rounded.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np

from neardata.workloads.recsys import fast, operators
from neardata.workloads.recsys.generate import scattered, zipf_ranks


def rate(n: int, run: Callable[[], object], reps: int) -> float:
    """Million values a CPU second."""
    run()
    best = math.inf
    for _ in range(reps):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return n / best / 1e6


def ulps(found: np.ndarray, want: np.ndarray) -> tuple[float, float]:
    """Largest distance in float32 steps, and share of values that differ."""
    steps = np.abs(found.astype(np.float64) - want) / np.spacing(np.abs(want)).astype(np.float64)
    return float(np.ceil(steps.max())), float((found != want).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=4_000_000)
    parser.add_argument("--reps", type=int, default=5)
    args = parser.parse_args()
    draw = np.random.default_rng(0)
    n = args.n
    x = np.maximum(np.rint(np.expm1(draw.normal(2.0, 1.3, n))), 0).astype(np.float32)
    ids = scattered(zipf_ranks(draw.random(n), 5_000_000, 1.1), 1)
    borders = {m: operators.checked_borders(np.geomspace(1, 1e6, m)) for m in (1024, 2048, 4096)}
    free = {"division_free": True}
    runs: dict[str, Callable[[], object]] = {
        "SigridHash, kernel": lambda: fast.sigrid_hash(ids, 0, 500_000),
        "SigridHash, numpy": lambda: operators.sigrid_hash(ids, 0, 500_000),
        "SigridHash, numpy, division-free": lambda: operators.sigrid_hash(ids, 0, 500_000, **free),
        "Log, kernel": lambda: fast.log(x, 3.0),
        "Log, numpy": lambda: operators.log(x, 3.0),
    }
    for m, b in borders.items():
        runs[f"Bucketize over {m}, kernel"] = lambda b=b: fast.bucketize(x, b)  # type: ignore[misc]
        runs[f"Bucketize over {m}, numpy"] = lambda b=b: operators.bucketize(x, b)  # type: ignore[misc]
    for name, run in runs.items():
        print(f"{name:34} {rate(n, run, args.reps):8.1f} M values/s")
    spread = draw.integers(0x00800000, 0x7F800000, n).astype(np.int32).view(np.float32)
    want = operators.log(spread)
    same = bool((fast.log(spread) == want).all())
    print(f"log of {n} float32 of all sizes: kernel equals the correctly rounded one: {same}")
    for name, found in (
        ("numpy's float32 log", np.log(spread)),
        ("float64 log, rounded", np.log(spread.astype(np.float64)).astype(np.float32)),
    ):
        worst, share = ulps(found, want)
        print(f"{name}: at most {worst:.0f} ulp away, {share:.2%} differ")


if __name__ == "__main__":
    main()
