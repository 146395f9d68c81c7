"""The operators by compiled kernels: the same results as `neardata.workloads.recsys.operators`, faster."""

from __future__ import annotations

import numpy as np

from neardata.workloads.recsys import operators as exact
from neardata.workloads.recsys import operators_kernel as kernel
from neardata.workloads.recsys.operators import Counts, Floats, Ids


def bucketize(x: Floats, borders: Floats) -> Counts:
    """See `operators.bucketize`."""
    return kernel.bucketize(x, borders)


def sigrid_hash(x: Ids, salt: int, maximum: int) -> Ids:
    """See `operators.sigrid_hash`."""
    exact.check_modulus(maximum)
    if maximum == 1:
        return np.zeros_like(x)
    multiplier, shift = exact.multiplier_and_shift(maximum)
    return kernel.sigrid_hash(x, salt, maximum, np.uint64(multiplier), shift)


def log(x: np.ndarray, offset: float = 0.0) -> Floats:
    """See `operators.log`."""
    given = x.astype(np.float32, copy=False)
    found = np.empty(len(given), dtype=np.float32)
    doubtful = np.empty(1024, dtype=np.int64)
    count = kernel.log(given, np.float32(offset), found, doubtful)
    if count > len(doubtful):
        doubtful = np.empty(count, dtype=np.int64)
        kernel.log(given, np.float32(offset), found, doubtful)
    exact.settle(given + np.float32(offset), found, doubtful[:count])
    return found
