"""Instructions that averaging areas needs and numba does not have: sums of four rows at once, and over rows.

Float products and sums, each rounded, in the order of the pixels: no machine may fuse or reorder them, so the bits
are those of the same sums in C.  Vectors have 32 bytes: after 64 an Ice Lake Xeon decoded the next JPEG a fifth
more slowly (1.5 ms for 1.25), which is more than they win here.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from pairsieve.filters._jit import instruction
from pairsieve.filters._turning import turning

ROWS = 4
"""Rows that are summed at once."""
LANES = 8
"""Samples of a vector: two pixels."""
PIXEL = 4
"""Samples, and bytes, of a pixel."""
turned = turning(ROWS)
"""Of so many rows and columns."""
_BYTE, _NUMBER, _WORD, _FLOAT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_BYTES, _PLACES = ir.VectorType(_BYTE, LANES), ir.VectorType(_NUMBER, PIXEL)
_NUMBERS, _FLOATS = ir.VectorType(_NUMBER, LANES), ir.VectorType(_FLOAT, LANES)
_ZEROS = ir.Constant(_FLOATS, [0.0] * LANES)
_SUMS = ir.VectorType(_FLOAT, PIXEL)


def _at(builder: Any, base: Any, offset: Any, kind: Any) -> Any:
    return builder.inttoptr(builder.add(base, offset), kind.as_pointer())


def _load(builder: Any, base: Any, offset: Any, kind: Any) -> Any:
    return builder.load(_at(builder, base, offset, kind), align=4, typ=kind)


def _times(builder: Any, count: Any, size: int) -> Any:
    return builder.mul(count, ir.Constant(_WORD, size))


def _add(builder: Any, sums: Any, more: Any) -> None:
    builder.store(builder.fadd(builder.load(sums, typ=_FLOATS), more), sums)


def _splat(builder: Any, value: Any) -> Any:
    empty = ir.Constant(_FLOATS, ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(_NUMBER, 0))
    return builder.shuffle_vector(first, empty, ir.Constant(_NUMBERS, [0] * LANES))


@instruction
def summed(_: Any, source: Any, weights: Any, count: Any, out: Any, out_stride: Any) -> Any:
    """``out[r] = sum of weights[t] * source[t, r]`` for four rows of pixels RGBX; arguments are addresses and counts.

    ``weights`` are float32; ``out`` has four float32 a row, and ``out_stride`` bytes from row to row.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, weights, count, out, out_stride = args
        sums = [cgutils.alloca_once_value(builder, _ZEROS) for _ in range(PIXEL * ROWS // LANES)]
        with cgutils.for_range(builder, count, intp=_WORD) as loop:
            weight = _splat(builder, _load(builder, weights, _times(builder, loop.index, 4), _FLOAT))
            for i, sum_ in enumerate(sums):
                place = builder.add(_times(builder, loop.index, ROWS * PIXEL), ir.Constant(_WORD, i * LANES))
                samples = builder.zext(_load(builder, source, place, _BYTES), _NUMBERS)
                _add(builder, sum_, builder.fmul(builder.sitofp(samples, _FLOATS), weight))
        for i in range(ROWS):
            done = builder.load(sums[i * PIXEL // LANES], typ=_FLOATS)
            places = ir.Constant(_PLACES, [i * PIXEL % LANES + c for c in range(PIXEL)])
            row = builder.shuffle_vector(done, done, places)
            builder.store(row, _at(builder, out, _times(builder, out_stride, i), _SUMS), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), code


def _bytes(builder: Any, sums: Any) -> Any:
    """To the nearest whole number, halves to the even one, of 0 to 255."""
    kind = ir.FunctionType(_FLOATS, [_FLOATS])
    rint = cgutils.get_or_insert_function(builder.module, kind, f"llvm.rint.v{LANES}f32")
    found = builder.fptosi(builder.call(rint, [sums]), _NUMBERS)
    for limit, beyond in ((0, "<"), (255, ">")):
        end = ir.Constant(_NUMBERS, [limit] * LANES)
        found = builder.select(builder.icmp_signed(beyond, found, end), end, found)
    return builder.trunc(found, _BYTES)


@instruction
def averaged(_: Any, rows: Any, weights: Any, count: Any, samples: Any, out: Any) -> Any:
    """``out[i] = sum of weights[t] * rows[t][i]``, as bytes; all are addresses and counts.

    ``rows`` holds the addresses of ``count`` rows of float32, ``weights`` are float32.  ``samples`` of each row are
    read and written, rounded up to a multiple of ``LANES``.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows, weights, count, samples, out = args
        sums = cgutils.alloca_once(builder, _FLOATS)
        chunks = builder.udiv(builder.add(samples, ir.Constant(_WORD, LANES - 1)), ir.Constant(_WORD, LANES))
        with cgutils.for_range(builder, chunks, intp=_WORD) as chunk:
            builder.store(_ZEROS, sums)
            with cgutils.for_range(builder, count, intp=_WORD) as loop:
                weight = _splat(builder, _load(builder, weights, _times(builder, loop.index, 4), _FLOAT))
                row = _load(builder, rows, _times(builder, loop.index, 8), _WORD)
                held = _load(builder, row, _times(builder, chunk.index, 4 * LANES), _FLOATS)
                _add(builder, sums, builder.fmul(held, weight))
            done = _bytes(builder, builder.load(sums, typ=_FLOATS))
            builder.store(done, _at(builder, out, _times(builder, chunk.index, LANES), _BYTES), align=1)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), code
