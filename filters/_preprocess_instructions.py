"""Instructions that resampling needs and numba does not have: sums of 64 bytes at once, and turning 16×16 pixels.

A machine without vectors of that size does them in parts; sums of whole numbers are the same on every machine.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from pairsieve.filters._jit import instruction

LANES = 64
"""Bytes in a vector: 16 pixels of 4 bytes."""
BITS = 22
"""Binary places of a weight: Pillow's, for 8 bits of a sample, and two for overshoot of 32."""
_BYTE, _NUMBER, _WORD = ir.IntType(8), ir.IntType(32), ir.IntType(64)
SIDE = 16
"""Rows and columns that are turned at once."""
_BYTES, _NUMBERS = ir.VectorType(_BYTE, LANES), ir.VectorType(_NUMBER, LANES)
_ROW = ir.VectorType(_NUMBER, SIDE)


def _all(value: int) -> Any:
    return ir.Constant(_NUMBERS, [value] * LANES)


def _splat(builder: Any, value: Any) -> Any:
    empty = ir.Constant(_NUMBERS, ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(_NUMBER, 0))
    return builder.shuffle_vector(first, empty, ir.Constant(_NUMBERS, [0] * LANES))


def _samples(builder: Any, sums: Any) -> Any:
    """Sums as bytes: rounded (a half was added before), and clipped to 0 ... 255."""
    whole = builder.ashr(sums, _all(BITS))
    whole = builder.select(builder.icmp_signed(">", whole, _all(0)), whole, _all(0))
    whole = builder.select(builder.icmp_signed("<", whole, _all(255)), whole, _all(255))
    return builder.trunc(whole, _BYTES)


@instruction
def weighted(_: Any, source: Any, stride: Any, weights: Any, count: Any, out: Any) -> Any:
    """``out[i] = clip(sum of weights[t] * source[t * stride + i])`` for 64 i; arguments are addresses and counts.

    Weights are int32 in units of 2 ** -22.  The sums stay in registers.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, stride, weights, count, out = args
        sums = cgutils.alloca_once_value(builder, _all(1 << (BITS - 1)))
        with cgutils.for_range(builder, count, intp=_WORD) as loop:
            place = builder.add(source, builder.mul(loop.index, stride))
            bytes_ = builder.load(builder.inttoptr(place, _BYTES.as_pointer()), align=1, typ=_BYTES)
            place = builder.add(weights, builder.mul(loop.index, ir.Constant(_WORD, 4)))
            weight = builder.load(builder.inttoptr(place, _NUMBER.as_pointer()), align=4, typ=_NUMBER)
            product = builder.mul(builder.zext(bytes_, _NUMBERS), _splat(builder, weight))
            builder.store(builder.add(builder.load(sums, typ=_NUMBERS), product), sums)
        done = _samples(builder, builder.load(sums, typ=_NUMBERS))
        builder.store(done, builder.inttoptr(out, _BYTES.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64, types.int64), code


def _dealt(builder: Any, a: Any, b: Any, of: int) -> Any:
    """The lower or upper (``of``) halves of two rows, number by number in turn."""
    places = [at for k in range(SIDE // 2) for at in (of * SIDE // 2 + k, of * SIDE // 2 + k + SIDE)]
    return builder.shuffle_vector(a, b, ir.Constant(_ROW, places))


@instruction
def turned(_: Any, source: Any, stride: Any, out: Any, out_stride: Any) -> Any:
    """``out[j, i] = source[i, j]`` of 16×16 numbers of 32 bits; arguments are addresses and bytes from row to row.

    Four times, the rows of the two halves are dealt into one another.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, stride, out, out_stride = args

        def at(base: Any, stride: Any, i: int) -> Any:
            place = builder.add(base, builder.mul(stride, ir.Constant(_WORD, i)))
            return builder.inttoptr(place, _ROW.as_pointer())

        rows = [builder.load(at(source, stride, i), align=4, typ=_ROW) for i in range(SIDE)]
        for _ in range(4):
            pairs = zip(rows[: SIDE // 2], rows[SIDE // 2 :], strict=True)
            rows = [_dealt(builder, a, b, of) for a, b in pairs for of in (0, 1)]
        for i, row in enumerate(rows):
            builder.store(row, at(out, out_stride, i), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), code
