"""Instructions that averaging areas needs and numba does not have: sums of four rows at once, and over rows.

Float products and sums, each rounded, in the order of the pixels: no machine may fuse or reorder them, so the bits
are those of the same sums in C.  Vectors have 32 bytes: after 64 an Ice Lake Xeon decoded the next JPEG a fifth
more slowly (1.5 ms for 1.25), which is more than they win here.
"""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from llvmlite import ir
from numba import types
from numba.core import cgutils

from pairsieve.filters._jit import instruction
from pairsieve.filters._turning import turning

ROWS = 4
"""Rows that are summed at once."""
LANES = 8
"""Samples of a vector: two pixels."""
PIXEL, KEPT = 4, 3
"""Samples, and bytes, of a pixel; and those that mean something."""
USUAL = (2, 3, 4, 5, 6)
"""Pixels that make one, along a row or a column, where a picture shrinks to a fifth or less far."""
turned = turning(ROWS)
"""Of so many rows and columns."""
_BYTE, _NUMBER, _WORD, _FLOAT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_BYTES, _PLACES = ir.VectorType(_BYTE, LANES), ir.VectorType(_NUMBER, PIXEL)
_NUMBERS, _FLOATS = ir.VectorType(_NUMBER, LANES), ir.VectorType(_FLOAT, LANES)
_ZEROS = ir.Constant(_FLOATS, [0.0] * LANES)
_SUMS = ir.VectorType(_FLOAT, PIXEL)


T = TypeVar("T")
Taps: TypeAlias = Callable[[Callable[[T], None]], object]
"""Calls a function for each pixel that a new one is made of."""


def _at(builder: Any, base: Any, offset: Any, kind: Any) -> Any:
    return builder.inttoptr(builder.add(base, offset), kind.as_pointer())


def _load(builder: Any, base: Any, offset: Any, kind: Any) -> Any:
    return builder.load(_at(builder, base, offset, kind), align=4, typ=kind)


def _times(builder: Any, count: Any, size: int) -> Any:
    return builder.mul(count, ir.Constant(_WORD, size))


def _by_count(builder: Any, count: Any, made: Callable[[Any], T], work: Callable[[Taps[T]], None]) -> None:
    """``work`` with what is ``made`` of the numbers from 0 to ``count``, apart for usual counts: a fifth faster."""
    after, other = builder.append_basic_block("after"), builder.append_basic_block("other")
    choice = builder.switch(count, other)
    for usual in USUAL:
        block = builder.append_basic_block(f"usual{usual}")
        choice.add_case(ir.Constant(_WORD, usual), block)
        builder.position_at_end(block)
        ready = [made(ir.Constant(_WORD, t)) for t in range(usual)]
        work(lambda each, ready=ready: [each(one) for one in ready])  # type: ignore[misc]
        builder.branch(after)

    def each_in_turn(each: Callable[[T], None]) -> None:
        with cgutils.for_range(builder, count, intp=_WORD) as loop:
            each(made(loop.index))

    builder.position_at_end(other)
    work(each_in_turn)
    builder.branch(after)
    builder.position_at_end(after)


def _add(builder: Any, sums: Any, more: Any) -> None:
    builder.store(builder.fadd(builder.load(sums, typ=_FLOATS), more), sums)


def _splat(builder: Any, value: Any) -> Any:
    empty = ir.Constant(_FLOATS, ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(_NUMBER, 0))
    return builder.shuffle_vector(first, empty, ir.Constant(_NUMBERS, [0] * LANES))


@instruction
def summed(_: Any, source: Any, starts: Any, weights: Any, count: Any, width: Any, out: Any, out_stride: Any) -> Any:
    """``out[r, x] = sum of weights[x, t] * source[starts[x] + t, r]`` of four rows; arguments are addresses and counts.

    ``source`` are pixels of four samples, ``starts`` int64, ``weights`` float32; ``out`` has three float32 a pixel,
    and ``out_stride`` bytes from row to row.  The fourth sample of a pixel lies where the next pixel is written.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, starts, weights, count, width, out, out_stride = args
        sums = [cgutils.alloca_once(builder, _FLOATS) for _ in range(PIXEL * ROWS // LANES)]

        def work(taps: Taps[Any]) -> None:
            with cgutils.for_range(builder, width, intp=_WORD) as loop:
                start = _load(builder, starts, _times(builder, loop.index, 8), _WORD)
                first = builder.mul(loop.index, count)

                def tap(t: Any) -> None:
                    weight = _load(builder, weights, _times(builder, builder.add(first, t), 4), _FLOAT)
                    for i, sum_ in enumerate(sums):
                        place = _times(builder, builder.add(start, t), ROWS * PIXEL)
                        place = builder.add(place, ir.Constant(_WORD, i * LANES))
                        samples = builder.zext(_load(builder, source, place, _BYTES), _NUMBERS)
                        _add(builder, sum_, builder.fmul(builder.sitofp(samples, _FLOATS), _splat(builder, weight)))

                for sum_ in sums:
                    builder.store(_ZEROS, sum_)
                taps(tap)
                for i in range(ROWS):
                    done = builder.load(sums[i * PIXEL // LANES], typ=_FLOATS)
                    places = ir.Constant(_PLACES, [i * PIXEL % LANES + c for c in range(PIXEL)])
                    at = builder.add(_times(builder, out_stride, i), _times(builder, loop.index, 4 * KEPT))
                    builder.store(builder.shuffle_vector(done, done, places), _at(builder, out, at, _SUMS), align=4)

        _by_count(builder, count, lambda t: t, work)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), code


def _bytes(builder: Any, sums: Any) -> Any:
    """To the nearest whole number, halves to the even one; sums of bytes by parts are below 255.5."""
    kind = ir.FunctionType(_FLOATS, [_FLOATS])
    rint = cgutils.get_or_insert_function(builder.module, kind, f"llvm.rint.v{LANES}f32")
    return builder.trunc(builder.fptosi(builder.call(rint, [sums]), _NUMBERS), _BYTES)


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

        def row(t: Any) -> tuple[Any, Any]:
            weight = _load(builder, weights, _times(builder, t, 4), _FLOAT)
            return _load(builder, rows, _times(builder, t, 8), _WORD), _splat(builder, weight)

        def work(taps: Taps[tuple[Any, Any]]) -> None:
            with cgutils.for_range(builder, chunks, intp=_WORD) as chunk:

                def tap(row: tuple[Any, Any]) -> None:
                    held = _load(builder, row[0], _times(builder, chunk.index, 4 * LANES), _FLOATS)
                    _add(builder, sums, builder.fmul(held, row[1]))

                builder.store(_ZEROS, sums)
                taps(tap)
                done = _bytes(builder, builder.load(sums, typ=_FLOATS))
                builder.store(done, _at(builder, out, _times(builder, chunk.index, LANES), _BYTES), align=1)

        _by_count(builder, count, row, work)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), code
