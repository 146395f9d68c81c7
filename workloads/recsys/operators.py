"""The operators of recommendation preprocessing, exactly, in numpy.

Bucketize, SigridHash, FirstX and clamp are TorchArrow's (pytorch/torcharrow v0.1.0,
``csrc/velox/functions/rec``; hashes of facebook/folly ``folly/hash/Hash.h``); Log and logit are defined here
down to the last bit; the n-gram is ours, since its users publish no definition. Values come flat; a list
column's row lengths come beside them. `operators_kernel` holds compiled twins with the same results.
"""

from __future__ import annotations

import decimal
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neardata.arch.errors import InputError

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Counts = NDArray[np.int32]

FOLLY_MULTIPLIER = 0x9DDFEA08EB382D69
"""Of ``folly::hash::hash_128_to_64`` (after CityHash)."""
INT64_MAX = 2**63 - 1


def checked_borders(borders: ArrayLike) -> Floats:
    """Borders of buckets as float32.

    Raises:
        InputError: none, one that is no number, borders that decrease or come more than twice.
    """
    b = np.asarray(borders, dtype=np.float32).ravel()
    if not b.size:
        raise InputError("there must be at least one border", key="borders")
    if np.isnan(b).any():
        raise InputError("a border is not a number", key="borders")
    if (b[1:] < b[:-1]).any():
        place = int(np.flatnonzero(b[1:] < b[:-1])[0])
        raise InputError(f"{b[place + 1]} follows {b[place]}; borders do not decrease", key="borders")
    if (b[2:] == b[:-2]).any():
        twice = b[2:][b[2:] == b[:-2]][0]
        raise InputError(f"{twice} comes more than twice (as float32)", key="borders")
    return b


def bucketize(x: Floats, borders: Floats) -> Counts:
    """Bucket of each value: 0 .. len(borders).

    i is the first border that is not below x; where x is not below border i + 1 (it equals a border that
    comes twice, or is no number) the bucket is i + 1, else i. The last border has no next one.

    Args:
        x: (n,) float32.
        borders: from `checked_borders`.

    >>> bucketize(np.float32([1.5, 2, 3, 9]), checked_borders([1, 2, 2, 3, 3])).tolist()
    [1, 2, 4, 5]
    """
    i = np.searchsorted(borders, x, side="left")
    i[np.isnan(x)] = 0  # nothing is below NaN, so the search of the definition ends at the first border
    inside = i < len(borders) - 1
    following = borders[np.minimum(i + 1, len(borders) - 1)]
    return (i + (inside & ~(x < following))).astype(np.int32)


def comparisons(borders: int) -> int:
    """Comparisons of a binary search over n borders: ceil(log2(n + 1)); that for a doubled border is not in
    it.

    >>> comparisons(1024), comparisons(4096), comparisons(1)
    (11, 13, 1)
    """
    return borders.bit_length()


def twang_mix64(key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Thomas Wang's mix of 64-bit keys, modulo 2**64."""
    k = ~key + (key << np.uint64(21))
    k ^= k >> np.uint64(24)
    k = k + (k << np.uint64(3)) + (k << np.uint64(8))
    k ^= k >> np.uint64(14)
    k = k + (k << np.uint64(2)) + (k << np.uint64(4))
    k ^= k >> np.uint64(28)
    return k + (k << np.uint64(31))


def hash_128_to_64(upper: NDArray[np.uint64], lower: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """64 bits from two words, modulo 2**64."""
    k, s = np.uint64(FOLLY_MULTIPLIER), np.uint64(47)
    a = (lower ^ upper) * k
    a ^= a >> s
    b = (upper ^ a) * k
    b ^= b >> s
    return b * k


def salted_hash(x: Ids, salt: int) -> Ids:
    """SigridHash before the modulo: a signed 64-bit hash of each id."""
    upper = np.array([salt], dtype=np.int64).view(np.uint64)
    return hash_128_to_64(upper, twang_mix64(x.view(np.uint64))).view(np.int64)


def check_modulus(maximum: int, key: str = "max") -> None:
    """Ids are hashed to 0 .. maximum - 1.

    Raises:
        InputError: not 1 .. 2**63 - 1.
    """
    if not 1 <= maximum <= INT64_MAX:
        raise InputError(f"must be 1 to 2**63 - 1, got {maximum}", key=key)


def multiplier_and_shift(divisor: int) -> tuple[int, int]:
    """The multiplier (64 bits) and shift that divide 63-bit numbers by ``divisor`` (T. Granlund and P. L.
    Montgomery, PLDI 1994; TorchArrow's ``computeMultiperAndShift`` at a precision of 63).

    >>> multiplier_and_shift(500_000)
    (4835703278458516699, 17)
    """
    shift = (divisor - 1).bit_length()
    low = (1 << (64 + shift)) // divisor
    high = ((1 << (64 + shift)) + (1 << (shift + 1))) // divisor
    while low // 2 < high // 2 and shift > 0:
        low, high, shift = low // 2, high // 2, shift - 1
    return high & (2**64 - 1), shift


def high_word(a: NDArray[np.uint64], b: int) -> NDArray[np.uint64]:
    """Upper 64 bits of the 128-bit products a * b, by products of 32-bit halves."""
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    b_low, b_high = np.uint64(b & 0xFFFFFFFF), np.uint64(b >> 32)
    a_low, a_high = a & mask, a >> half
    first = a_low * b_high + (a_low * b_low >> half)
    second = a_high * b_low + (first & mask)
    return a_high * b_high + (first >> half) + (second >> half)


def sigrid_hash(x: Ids, salt: int, maximum: int, *, division_free: bool = False) -> Ids:
    """Hash of each id, modulo ``maximum``: 0 .. maximum - 1, 0 where it is 1.

    Args:
        x: (n,) int64.
        salt: seed of the hash, an int64.
        maximum: size of the table.
        division_free: by a multiplication instead of a division; the results are the same.

    >>> sigrid_hash(np.arange(5), salt=0, maximum=100).tolist()
    [6, 60, 54, 54, 9]
    """
    check_modulus(maximum)
    if maximum == 1:
        return np.zeros_like(x)
    h = salted_hash(x, salt)
    if not division_free:
        return h % np.int64(maximum)
    multiplier, shift = multiplier_and_shift(maximum)
    sign = h >> 63
    quotient = sign ^ (high_word((sign ^ h).view(np.uint64), multiplier) >> np.uint64(shift)).view(np.int64)
    return h - quotient * np.int64(maximum)


HALFWAY = 1 << 28
"""The last 29 bits of a float64 that lies halfway between two float32."""
DOUBT = 8
"""A float64 logarithm this close (in its last bits) to halfway may round to the wrong float32."""


def log(x: NDArray[np.float32 | np.int64], offset: float = 0.0) -> Floats:
    """Natural logarithm of x + offset, (n,) float32.

    x is rounded to float32 first, then x + offset is; the logarithm of that float32 is the correctly rounded
    one (round to nearest, ties to even), which a C library's ``logf`` need not give. log 0 is -inf, that of
    negative numbers NaN.

    >>> log(np.array([0, 1, 2, -4]), offset=1.0).tolist()
    [0.0, 0.6931471824645996, 1.0986123085021973, nan]
    """
    shifted = x.astype(np.float32) + np.float32(offset)
    with np.errstate(divide="ignore", invalid="ignore"):
        wide = np.log(shifted.astype(np.float64))
    found = wide.astype(np.float32)
    tail = wide.view(np.int64) & (2 * HALFWAY - 1)
    settle(shifted, found, np.flatnonzero(np.abs(tail - HALFWAY) <= DOUBT))
    return found


def settle(x: Floats, found: Floats, doubtful: NDArray[np.integer]) -> None:
    """Set ``found`` at the ``doubtful`` places to the correctly rounded logarithm of x."""
    context = decimal.Context(prec=60)
    for i in doubtful.tolist():
        exact = Fraction(context.ln(decimal.Decimal(float(x[i]))))
        near = [np.nextafter(found[i], np.float32(s)) for s in (-np.inf, np.inf)]
        found[i] = min((found[i], *near), key=lambda y: abs(Fraction(float(y)) - exact))


def logit(x: Floats, epsilon: float = 1e-6) -> Floats:
    """log(z / (1 - z)) of z = x kept within epsilon and 1 - epsilon, as ``torch.logit``; computed in float64
    and rounded to float32 once. NaN stays.

    >>> logit(np.float32([0.5, 2.0])).tolist()
    [0.0, 13.815509796142578]
    """
    if not 0 < epsilon < 0.5:
        raise InputError(f"must be above 0 and below 0.5, got {epsilon}", key="epsilon")
    z = np.clip(x.astype(np.float64), epsilon, 1 - epsilon)
    return np.log(z / (1 - z)).astype(np.float32)


def first_x(values: NDArray, lengths: Counts, k: int) -> tuple[NDArray, Counts]:
    """The first k entries of each list: values and lengths.

    >>> [part.tolist() for part in first_x(np.array([1, 2, 3, 4]), np.int32([3, 0, 1]), 2)]
    [[1, 2, 4], [2, 0, 1]]
    """
    return values[places_in_row(lengths) < k], np.minimum(lengths, np.int32(k))


def places_in_row(lengths: Counts) -> NDArray[np.int64]:
    """Place of each value in its list: 0, 1 ... for each row."""
    ends = np.cumsum(lengths, dtype=np.int64)
    return np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def clamp(values: NDArray, low: float, high: float) -> NDArray:
    """min(max(v, low), high), in the type of the values; NaN stays.

    >>> clamp(np.array([-5, 3, 99]), 0, 10).tolist()
    [0, 3, 10]
    """
    return np.minimum(np.maximum(values, values.dtype.type(low)), values.dtype.type(high))


def fill_null(values: NDArray, valid: NDArray[np.bool_], value: float) -> NDArray:
    """``value`` where there is none.

    >>> fill_null(np.array([7, 0]), np.array([True, False]), -1).tolist()
    [7, -1]
    """
    return np.where(valid, values, values.dtype.type(value))


def ngram(values: Ids, lengths: Counts, n: int, salt: int, maximum: int) -> tuple[Ids, Counts]:
    """A hashed id for every n neighbours of a list: values and lengths.

    Our own definition (none is published): h starts as the salt and takes each of the n ids in order,
    h = hash_128_to_64(h, twang_mix64(id)); the id is the signed h modulo ``maximum``, floored. A list of l
    ids gives max(l - n + 1, 0). With n = 1 it is SigridHash.

    >>> [part.tolist() for part in ngram(np.array([1, 2, 3, 4]), np.int32([3, 1]), 2, 0, 100)]
    [[96, 3], [2, 0]]
    """
    check_modulus(maximum)
    if n < 1:
        raise InputError(f"at least one id, got {n}", key="n")
    place = places_in_row(lengths)
    starts = np.flatnonzero(np.repeat(lengths, lengths) - place >= n)
    mixed = twang_mix64(values.view(np.uint64))
    h = np.full(len(starts), salt, dtype=np.int64).view(np.uint64)
    for i in range(n):
        h = hash_128_to_64(h, mixed[starts + i])
    return h.view(np.int64) % np.int64(maximum), np.maximum(lengths - np.int32(n - 1), 0).astype(np.int32)


def one_hot(values: NDArray[np.integer], size: int) -> Floats:
    """(n, size) float32 with a 1 at each value's column; a row of zeros for values outside 0 .. size - 1.

    >>> one_hot(np.array([1, 5]), 3).tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    return (values[:, None] == np.arange(size)).astype(np.float32)
