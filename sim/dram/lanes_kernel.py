"""Operations on runs of eight banks at a time, as vector instructions.

LLVM unrolls short loops over the banks into scalar code before its vectoriser sees them, which
costs the request kernels half their speed; so these few loops are built from vector
instructions directly. Each has its plain meaning in its docstring. Tables are one-dimensional
int64 arrays, ``n`` a multiple of eight.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LANES = 8
_I64 = ir.IntType(64)
_VECTOR = ir.VectorType(_I64, LANES)
_INDEX = ir.Constant(_VECTOR, [ir.Constant(_I64, i) for i in range(LANES)])
_LEAST, _MOST = (ir.Constant(_VECTOR, [ir.Constant(_I64, v)] * LANES) for v in (-(1 << 63), (1 << 63) - 1))
_ZERO = ir.Constant(_VECTOR, [ir.Constant(_I64, 0)] * LANES)


def _splat(builder: Any, value: Any) -> Any:
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [ir.Constant(ir.IntType(32), 0)] * LANES)
    return builder.shuffle_vector(one, ir.Constant(_VECTOR, ir.Undefined), mask)


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _max(builder: Any, a: Any, b: Any) -> Any:
    return _call(builder, "llvm.smax.v8i64", _VECTOR, a, b)


def _raised(builder: Any, old: Any, value: Any) -> Any:
    """The greater of both and 0.

    The 0 changes nothing but what LLVM makes of it: a choice between a vector in memory and another,
    stored there, becomes a masked store, which AVX2 processors run slowly.
    """
    return _max(builder, _max(builder, old, value), _ZERO)


class _Table:
    """A one-dimensional int64 array inside an intrinsic."""

    def __init__(self, context: Any, builder: Any, kind: Any, value: Any) -> None:
        self.builder = builder
        self.data = context.make_array(kind)(context, builder, value).data

    def _at(self, index: Any) -> Any:
        pointer = self.builder.gep(self.data, [index])
        return self.builder.bitcast(pointer, _VECTOR.as_pointer())

    def load(self, index: Any) -> Any:
        return self.builder.load(self._at(index), align=8)

    def store(self, index: Any, value: Any) -> None:
        self.builder.store(value, self._at(index), align=8)


@intrinsic
def least_key(  # type: ignore[no-untyped-def]
    typing_context, ready, key, first, second, third, fourth, base, odd, shift, n
):
    """``min over at of (((max(ready[at] - base, 0) + odd) & ~odd) << shift) + key[at]``.

    ``at`` runs over the first ``n`` entries if ``first`` is not 0, the next ``n`` if ``second`` is
    not 0, and so on. All 0: the greatest int64.
    """

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        times = _Table(context, builder, signature.args[0], args[0])
        keys = _Table(context, builder, signature.args[1], args[1])
        base, odd, shift, n = args[6:]
        bases, odds, shifts = (_splat(builder, v) for v in (base, odd, shift))
        even = builder.not_(odds)
        best = cgutils.alloca_once_value(builder, _MOST)
        at = _I64(0)
        for wanted in args[2:6]:
            end = builder.add(at, n)
            with (
                builder.if_then(cgutils.is_not_null(builder, wanted)),
                cgutils.for_range_slice(builder, at, end, _I64(LANES), _I64) as (index, _),
            ):
                wait = _max(builder, builder.sub(times.load(index), bases), _ZERO)
                wait = builder.and_(builder.add(wait, odds), even)
                total = builder.add(builder.shl(wait, shifts), keys.load(index))
                least_so_far = _call(builder, "llvm.smin.v8i64", _VECTOR, builder.load(best), total)
                builder.store(least_so_far, best)
            at = end
        return _call(builder, "llvm.vector.reduce.smin.v8i64", _I64, builder.load(best))

    integers = (types.int64,) * 8
    return types.int64(ready, key, *integers), codegen


@intrinsic
def push(typing_context, ready, to, gap, at, t, n):  # type: ignore[no-untyped-def]
    """``ready[to+b] = max(ready[to+b], t + gap[at+b], 0)`` for all ``b < n``."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        table = _Table(context, builder, signature.args[0], args[0])
        gaps = _Table(context, builder, signature.args[2], args[2])
        to, at, t, n = args[1], args[3], args[4], args[5]
        times = _splat(builder, t)
        with cgutils.for_range_slice(builder, _I64(0), n, _I64(LANES), _I64) as (b, _):
            index = builder.add(to, b)
            until = builder.add(times, gaps.load(builder.add(at, b)))
            table.store(index, _raised(builder, table.load(index), until))
        return context.get_dummy_value()

    return types.void(ready, types.int64, gap, *(types.int64,) * 3), codegen


def _lane(builder: Any, at: Any, b: Any) -> tuple[Any, Any]:
    """Index of the run of eight that holds bank ``b``, and the mask of its lane."""
    block = builder.add(at, builder.and_(b, _I64(-LANES)))
    lane = _splat(builder, builder.and_(b, _I64(LANES - 1)))
    return block, builder.icmp_signed("==", lane, _INDEX)


@intrinsic
def raise_lane(typing_context, table, at, b, value):  # type: ignore[no-untyped-def]
    """``table[at+b] = max(table[at+b], value, 0)``, in the run of eight too, with a wide store.

    A narrow store would stall the next `least_key`.
    """

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        lanes = _Table(context, builder, signature.args[0], args[0])
        index, mask = _lane(builder, args[1], args[2])
        low = builder.select(mask, _splat(builder, args[3]), _LEAST)
        lanes.store(index, _raised(builder, lanes.load(index), low))
        return context.get_dummy_value()

    return types.void(table, *(types.int64,) * 3), codegen


@intrinsic
def set_lane(typing_context, table, at, b, value):  # type: ignore[no-untyped-def]
    """``table[at+b] = value`` with a wide store (see `raise_lane`); no number of the table is negative."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        lanes = _Table(context, builder, signature.args[0], args[0])
        index, mask = _lane(builder, args[1], args[2])
        value = builder.select(mask, _splat(builder, args[3]), lanes.load(index))
        lanes.store(index, _max(builder, value, _ZERO))  # with 0: see `_raised`
        return context.get_dummy_value()

    return types.void(table, *(types.int64,) * 3), codegen


@intrinsic
def decode(typing_context, slices, n, address):  # type: ignore[no-untyped-def]
    """XOR over ``i < n`` of ``((address >> slices[i]) & slices[n+i]) << slices[2n+i]``."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        table = _Table(context, builder, signature.args[0], args[0])
        n, address = args[1], _splat(builder, args[2])
        word = cgutils.alloca_once_value(builder, _ZERO)
        with cgutils.for_range_slice(builder, _I64(0), n, _I64(LANES), _I64) as (i, _):
            mask_at = builder.add(i, n)
            field = builder.and_(builder.ashr(address, table.load(i)), table.load(mask_at))
            placed = builder.shl(field, table.load(builder.add(mask_at, n)))
            builder.store(builder.xor(builder.load(word), placed), word)
        return _call(builder, "llvm.vector.reduce.xor.v8i64", _I64, builder.load(word))

    return types.int64(slices, types.int64, types.int64), codegen


@intrinsic
def trailing_zeros(typing_context, word):  # type: ignore[no-untyped-def]
    """Number of the lowest set bit (64 for zero)."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.int64), codegen
