"""An instruction that numba does not have: turning a square of numbers of 32 bits in registers, rows to columns."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from pairsieve.filters._jit import instruction

_NUMBER, _WORD = ir.IntType(32), ir.IntType(64)


def turning(side: int) -> Callable[..., Any]:
    """``turned(source, stride, out, out_stride)`` for ``side`` rows and columns, a power of two.

    ``out[j, i] = source[i, j]``; arguments are addresses and bytes from row to row.  As many times as ``side`` has
    halves, the rows of the two halves are dealt into one another.
    """
    row, half = ir.VectorType(_NUMBER, side), side // 2

    def dealt(builder: Any, a: Any, b: Any, of: int) -> Any:
        """The lower or upper (``of``) halves of two rows, number by number in turn."""
        places = [at for k in range(half) for at in (of * half + k, of * half + k + side)]
        return builder.shuffle_vector(a, b, ir.Constant(row, places))

    def at(builder: Any, base: Any, stride: Any, i: int) -> Any:
        place = builder.add(base, builder.mul(stride, ir.Constant(_WORD, i)))
        return builder.inttoptr(place, row.as_pointer())

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, stride, out, out_stride = args
        rows = [builder.load(at(builder, source, stride, i), align=4, typ=row) for i in range(side)]
        for _ in range(side.bit_length() - 1):
            pairs = zip(rows[:half], rows[half:], strict=True)
            rows = [dealt(builder, a, b, of) for a, b in pairs for of in (0, 1)]
        for i, done in enumerate(rows):
            builder.store(done, at(builder, out, out_stride, i), align=4)
        return context.get_dummy_value()

    @instruction
    def turned(_: Any, source: Any, stride: Any, out: Any, out_stride: Any) -> Any:
        return types.void(*[types.int64] * 4), code

    return turned
