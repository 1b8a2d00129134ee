"""Instructions that the kernels of MinHash need and numba does not have: vectors of 16 numbers of 32 bits.

A machine without vectors of that size does them in parts.  Numbers are little-endian, as on every machine that numba
compiles for.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from pairsieve.filters._jit import instruction

LANES = 16
"""Numbers in a vector."""
_BYTE, _HALF, _WORD = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_VECTOR, _BLOCK = ir.VectorType(_HALF, LANES), ir.VectorType(_BYTE, 64)
_FIRST = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0)
_ADDED = (0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xCA62C1D6)


def _at(builder: Any, place: Any, number: int = 0) -> Any:
    """Pointer to a vector at an address, or to one that follows it."""
    return builder.inttoptr(builder.add(place, ir.Constant(_WORD, 4 * LANES * number)), _VECTOR.as_pointer())


def _load(builder: Any, place: Any, number: int = 0) -> Any:
    return builder.load(_at(builder, place, number), align=4, typ=_VECTOR)


def _all(value: int) -> Any:
    return ir.Constant(_VECTOR, [value] * LANES)


def _least(groups: int) -> Any:
    """An instruction: ``row[k] = min(row[k], a[k] * h + b[k])`` for each of ``count`` numbers h and 16 * groups k.

    The row and its coefficients stay in registers, so a number costs a multiplication, an addition and a minimum.
    """

    def least(_: Any, hashes: Any, count: Any, a: Any, b: Any, row: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            hashes, count, a, b, row = args
            factors = [_load(builder, a, g) for g in range(groups)]
            terms = [_load(builder, b, g) for g in range(groups)]
            found = [cgutils.alloca_once_value(builder, _load(builder, row, g)) for g in range(groups)]
            with cgutils.for_range(builder, count, intp=_WORD) as loop:
                place = builder.add(hashes, builder.mul(loop.index, ir.Constant(_WORD, 4)))
                one = builder.load(builder.inttoptr(place, _HALF.as_pointer()), align=4, typ=_HALF)
                first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), one, ir.Constant(_HALF, 0))
                all_ = builder.shuffle_vector(first, first, ir.Constant(_VECTOR, [0] * LANES))
                for g in range(groups):
                    value = builder.add(builder.mul(factors[g], all_), terms[g])
                    so_far = builder.load(found[g], typ=_VECTOR)
                    less = builder.icmp_unsigned("<", value, so_far)
                    builder.store(builder.select(less, value, so_far), found[g])
            for g in range(groups):
                builder.store(builder.load(found[g], typ=_VECTOR), _at(builder, row, g), align=4)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64, types.int64, types.int64), code

    return instruction(least)


least_of_16 = _least(1)
"""Takes the addresses of hashes, their count, and the addresses of 16 a, b and row."""
least_of_64 = _least(4)
"""The same for 64."""


@instruction
def sha1_of_16(_: Any, words: Any, out: Any) -> Any:
    """First four bytes of SHA-1, as a little-endian number, of 16 messages of one block each, padded.

    ``words`` is the address of 16 vectors: bytes 4i to 4i + 3 of each message, as a little-endian number.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def swapped(value: Any) -> Any:
            kind = ir.FunctionType(_VECTOR, [_VECTOR])
            return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.bswap.v16i32"), [value])

        def turned(value: Any, by: int) -> Any:
            return builder.or_(builder.shl(value, _all(by)), builder.lshr(value, _all(32 - by)))

        def mixed(part: int, b: Any, c: Any, d: Any) -> Any:
            if part == 0:
                return builder.xor(d, builder.and_(b, builder.xor(c, d)))
            if part == 2:
                return builder.or_(builder.and_(b, c), builder.and_(d, builder.or_(b, c)))
            return builder.xor(b, builder.xor(c, d))

        held = [swapped(_load(builder, args[0], i)) for i in range(16)]
        a, b, c, d, e = map(_all, _FIRST)
        for t in range(80):
            if t >= 16:
                others = builder.xor(held[(t - 8) % 16], builder.xor(held[(t - 14) % 16], held[t % 16]))
                held[t % 16] = turned(builder.xor(held[(t - 3) % 16], others), 1)
            added = builder.add(builder.add(e, _all(_ADDED[t // 20])), held[t % 16])
            new = builder.add(builder.add(turned(a, 5), mixed(t // 20, b, c, d)), added)
            a, b, c, d, e = new, a, turned(b, 30), c, d
        builder.store(swapped(builder.add(a, _all(_FIRST[0]))), _at(builder, args[1]), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


def _mask(kept: int, value: int, equal: str) -> Any:
    """An instruction: which of the 64 bytes at an address have, or have not, ``value`` in the bits of ``kept``."""

    def found(_: Any, place: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            block = builder.load(builder.inttoptr(args[0], _BLOCK.as_pointer()), align=1, typ=_BLOCK)
            bits = builder.and_(block, ir.Constant(_BLOCK, [kept] * 64))
            return builder.bitcast(builder.icmp_unsigned(equal, bits, ir.Constant(_BLOCK, [value] * 64)), _WORD)

        return types.uint64(types.int64), code

    return instruction(found)


spaces_of = _mask(0xFF, 0x20, "==")
"""Which of the 64 bytes at an address are spaces."""
starts_of = _mask(0xC0, 0x80, "!=")
"""Which of them begin a code point."""
