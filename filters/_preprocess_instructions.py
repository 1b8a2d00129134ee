"""Instructions that resampling needs and numba does not have: sums of 64 bytes at once.

A machine without vectors of that size does them in parts; sums of whole numbers are the same on every machine.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from pairsieve.filters._jit import instruction
from pairsieve.filters._turning import turning

LANES = 64
"""Bytes in a vector: 16 pixels of 4 bytes."""
BITS = 22
"""Binary places of a weight: Pillow's, for 8 bits of a sample, and two for overshoot of 32."""
turned = turning(LANES // 4)
"""Of as many rows and columns as a vector has pixels."""
_BYTE, _NUMBER, _WORD = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_BYTES, _NUMBERS = ir.VectorType(_BYTE, LANES), ir.VectorType(_NUMBER, LANES)


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
