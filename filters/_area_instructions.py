"""Instructions that averaging areas needs and numba does not have: a sum over pixels of four rows at once.

Float products and sums, each rounded, in the order of the pixels: no machine may fuse or reorder them, so the bits
are those of the same sums in C.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from pairsieve.filters._jit import instruction

ROWS = 4
"""Rows that are summed at once."""
_BYTE, _NUMBER, _WORD, _FLOAT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_LANES = 4 * ROWS
_PIXELS, _BYTES = ir.VectorType(_NUMBER, ROWS), ir.VectorType(_BYTE, _LANES)
_NUMBERS, _FLOATS = ir.VectorType(_NUMBER, _LANES), ir.VectorType(_FLOAT, _LANES)
_ROW = ir.VectorType(_FLOAT, 4)


def _at(builder: Any, base: Any, offset: Any, kind: Any) -> Any:
    return builder.inttoptr(builder.add(base, offset), kind.as_pointer())


def _pixels(builder: Any, place: Any, strides: list[Any]) -> Any:
    """One pixel of each row, as 16 floats."""
    found = ir.Constant(_PIXELS, ir.Undefined)
    for i, stride in enumerate(strides):
        pixel = builder.load(_at(builder, place, stride, _NUMBER), align=4, typ=_NUMBER)
        found = builder.insert_element(found, pixel, ir.Constant(_NUMBER, i))
    return builder.sitofp(builder.zext(builder.bitcast(found, _BYTES), _NUMBERS), _FLOATS)


def _splat(builder: Any, value: Any) -> Any:
    empty = ir.Constant(_FLOATS, ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(_NUMBER, 0))
    return builder.shuffle_vector(first, empty, ir.Constant(_NUMBERS, [0] * _LANES))


@instruction
def summed(_: Any, source: Any, stride: Any, weights: Any, count: Any, out: Any, out_stride: Any) -> Any:
    """``out[r] = sum of weights[t] * source[r, t]`` for four rows of pixels RGBX; arguments are addresses and counts.

    ``weights`` are float32; ``out`` has four float32 a row.  Strides are bytes from row to row.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, stride, weights, count, out, out_stride = args
        rows = [builder.mul(stride, ir.Constant(_WORD, i)) for i in range(ROWS)]
        sums = cgutils.alloca_once_value(builder, ir.Constant(_FLOATS, [0.0] * _LANES))
        with cgutils.for_range(builder, count, intp=_WORD) as loop:
            offset = builder.mul(loop.index, ir.Constant(_WORD, 4))
            pixels = _pixels(builder, builder.add(source, offset), rows)
            weight = builder.load(_at(builder, weights, offset, _FLOAT), align=4, typ=_FLOAT)
            product = builder.fmul(pixels, _splat(builder, weight))
            builder.store(builder.fadd(builder.load(sums, typ=_FLOATS), product), sums)
        done = builder.load(sums, typ=_FLOATS)
        for i in range(ROWS):
            places = ir.Constant(ir.VectorType(_NUMBER, 4), [4 * i + c for c in range(4)])
            row = builder.shuffle_vector(done, done, places)
            place = _at(builder, out, builder.mul(out_stride, ir.Constant(_WORD, i)), _ROW)
            builder.store(row, place, align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), code
