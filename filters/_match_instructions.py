"""Instructions that the kernels of matching need and numba does not have: words at addresses, masks of 64 bytes.

Numbers are little-endian, as on every machine that numba compiles for.
"""

from typing import Any

from llvmlite import ir
from numba import types

from pairsieve.filters._jit import instruction

_BYTE, _WORD, _LONG = ir.IntType(8), ir.IntType(64), ir.IntType(128)
_BLOCK = ir.VectorType(_BYTE, 64)


@instruction
def load(_: Any, place: Any) -> Any:
    """The eight bytes at an address, which need not be a multiple of eight."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], _WORD.as_pointer()), align=1, typ=_WORD)

    return types.uint64(types.int64), code


@instruction
def byte_at(_: Any, place: Any) -> Any:
    """The byte at an address."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], _BYTE.as_pointer()), align=1, typ=_BYTE)

    return types.uint8(types.int64), code


@instruction
def prefetch(_: Any, place: Any) -> Any:
    """Ask for the bytes at an address, so that they are near when they are read."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte, word = _BYTE.as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        builder.call(fetch, [builder.inttoptr(args[0], byte), word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(types.int64), code


@instruction
def first_bit(_: Any, word: Any) -> Any:
    """Place of the lowest bit that is set; the word must not be 0."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), code


@instruction
def folded(_: Any, one: Any, other: Any) -> Any:
    """Both halves of the product of 128 bits, combined by exclusive or: one step of a hash, as in wyhash."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        product = builder.mul(builder.zext(args[0], _LONG), builder.zext(args[1], _LONG))
        upper = builder.trunc(builder.lshr(product, ir.Constant(_LONG, 64)), _WORD)
        return builder.xor(builder.trunc(product, _WORD), upper)

    return types.uint64(types.uint64, types.uint64), code


def _mask(values: bytes) -> Any:
    """An instruction: which of the 64 bytes at an address are among ``values``, as bits."""

    def found(_: Any, place: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            block = builder.load(builder.inttoptr(args[0], _BLOCK.as_pointer()), align=1, typ=_BLOCK)
            same = [builder.icmp_unsigned("==", block, ir.Constant(_BLOCK, [value] * 64)) for value in values]
            total = same[0]
            for one in same[1:]:
                total = builder.or_(total, one)
            return builder.bitcast(total, _WORD)

        return types.uint64(types.int64), code

    return instruction(found)


blanks_of = _mask(b" \t\n\r")
"""Which of the 64 bytes at an address separate words."""
marks_of = _mask(b",.;:?!`")
"""Which of them are marks, each a word of its own."""
