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
_PRIMES = (2654435761, 2246822519, 3266489917, 668265263, 374761393)
_ADDED = (0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xCA62C1D6)


def _at(builder: Any, place: Any, number: int = 0) -> Any:
    """Pointer to a vector at an address, or to one that follows it."""
    return builder.inttoptr(builder.add(place, ir.Constant(_WORD, 4 * LANES * number)), _VECTOR.as_pointer())


def _load(builder: Any, place: Any, number: int = 0) -> Any:
    return builder.load(_at(builder, place, number), align=4, typ=_VECTOR)


def _all(value: int) -> Any:
    return ir.Constant(_VECTOR, [value] * LANES)


def _turned(builder: Any, value: Any, by: int) -> Any:
    return builder.or_(builder.shl(value, _all(by)), builder.lshr(value, _all(32 - by)))


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
                all_ = _splat(builder, one)
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


def _xxh32(builder: Any, wholes: Any, tail: Any, sizes: Any) -> Any:
    """xxHash32 with seed 0 of 16 messages of at most 15 bytes: three words, the bytes behind the last, their sizes."""

    def step(value: Any, added: Any, by: int, factor: int) -> Any:
        return builder.mul(_turned(builder, builder.add(value, added), by), _all(factor))

    value = builder.add(sizes, _all(_PRIMES[4]))
    for i, whole in enumerate(wholes):
        new = step(value, builder.mul(whole, _all(_PRIMES[2])), 17, _PRIMES[3])
        value = builder.select(builder.icmp_unsigned(">=", sizes, _all(4 * i + 4)), new, value)
    left = builder.and_(sizes, _all(3))
    for i in range(3):
        byte = builder.and_(builder.lshr(tail, _all(8 * i)), _all(0xFF))
        new = step(value, builder.mul(byte, _all(_PRIMES[4])), 11, _PRIMES[0])
        value = builder.select(builder.icmp_unsigned(">", left, _all(i)), new, value)
    for by, factor in ((15, _PRIMES[1]), (13, _PRIMES[2])):
        value = builder.mul(builder.xor(value, builder.lshr(value, _all(by))), _all(factor))
    return builder.xor(value, builder.lshr(value, _all(16)))


def _finished(builder: Any, value: Any) -> Any:
    """MurmurHash3's finaliser."""
    for by, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        value = builder.mul(builder.xor(value, builder.lshr(value, _all(by))), _all(factor))
    return builder.xor(value, builder.lshr(value, _all(16)))


def _sha1(builder: Any, words: Any) -> Any:
    """First four bytes of SHA-1, as a little-endian number, of 16 messages of one block, whose words are big-endian."""
    held = list(words)
    a, b, c, d, e = map(_all, _FIRST)
    for t in range(80):
        if t >= 16:
            others = builder.xor(held[(t - 8) % 16], builder.xor(held[(t - 14) % 16], held[t % 16]))
            held[t % 16] = _turned(builder, builder.xor(held[(t - 3) % 16], others), 1)
        added = builder.add(builder.add(e, _all(_ADDED[t // 20])), held[t % 16])
        new = builder.add(builder.add(_turned(builder, a, 5), _mixed(builder, t // 20, b, c, d)), added)
        a, b, c, d, e = new, a, _turned(builder, b, 30), c, d
    return _swapped(builder, builder.add(a, _all(_FIRST[0])))


def _mixed(builder: Any, part: int, b: Any, c: Any, d: Any) -> Any:
    """The function of a quarter of SHA-1's rounds."""
    if part == 0:
        return builder.xor(d, builder.and_(b, builder.xor(c, d)))
    if part == 2:
        return builder.or_(builder.and_(b, c), builder.and_(d, builder.or_(b, c)))
    return builder.xor(b, builder.xor(c, d))


def _swapped(builder: Any, value: Any) -> Any:
    kind = ir.FunctionType(_VECTOR, [_VECTOR])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.bswap.v16i32"), [value])


def _run(builder: Any, place: Any, number: int) -> Any:
    """Word ``number`` of 16 messages that begin at consecutive bytes."""
    begin = builder.add(place, ir.Constant(_WORD, 4 * number))
    near = ir.VectorType(_BYTE, 32)
    block = builder.load(builder.inttoptr(begin, near.as_pointer()), align=1, typ=near)
    lanes = ir.Constant(ir.VectorType(_HALF, 64), [lane // 4 + lane % 4 for lane in range(64)])
    return builder.bitcast(builder.shuffle_vector(block, block, lanes), _VECTOR)


def _splat(builder: Any, value: Any) -> Any:
    """The number in all lanes."""
    first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(_HALF, 0))
    return builder.shuffle_vector(first, first, ir.Constant(_VECTOR, [0] * LANES))


@instruction
def xxh32_of_16(_: Any, words: Any, out: Any) -> Any:
    """xxHash32 with seed 0, then MurmurHash3's finaliser, of 16 messages of at most 15 bytes.

    ``words`` is the address of 5 vectors: the first three whole words of each message, as far as it has them; the bytes
    behind its last whole word; its size.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        *wholes, tail, sizes = (_load(builder, args[0], i) for i in range(5))
        builder.store(_finished(builder, _xxh32(builder, wholes, tail, sizes)), _at(builder, args[1]), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


@instruction
def xxh32_of_run(_: Any, place: Any, size: Any, out: Any) -> Any:
    """The same of 16 messages of one size, at most 15, that begin at consecutive bytes; 47 bytes are read."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place, size, out = args
        tail = _run(builder, builder.add(place, builder.and_(size, ir.Constant(_WORD, ~3))), 0)
        wholes, sizes = (_run(builder, place, i) for i in range(3)), _splat(builder, builder.trunc(size, _HALF))
        builder.store(_finished(builder, _xxh32(builder, wholes, tail, sizes)), _at(builder, out), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), code


@instruction
def sha1_of_16(_: Any, words: Any, out: Any) -> Any:
    """First four bytes of SHA-1, as a little-endian number, then the finaliser, of 16 messages of a block, padded.

    ``words`` is the address of 16 vectors: bytes 4i to 4i + 3 of each message, as a little-endian number.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        words = (_swapped(builder, _load(builder, args[0], i)) for i in range(16))
        builder.store(_finished(builder, _sha1(builder, words)), _at(builder, args[1]), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


@instruction
def sha1_of_run(_: Any, place: Any, size: Any, out: Any) -> Any:
    """The same of 16 messages of one size, at most 15, that begin at consecutive bytes; 47 bytes are read."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place, size, out = args
        sizes, words = _splat(builder, builder.trunc(size, _HALF)), []
        for i in range(4):
            # bytes of this word that the message has: all, none, or some; the first that it has not is 0x80
            bits = builder.shl(builder.sub(sizes, _all(4 * i)), _all(3))
            is_last = builder.icmp_unsigned("<", bits, _all(32))
            few = builder.select(is_last, bits, _all(0))
            kept = builder.and_(_run(builder, place, i), builder.sub(builder.shl(_all(1), few), _all(1)))
            cut = builder.or_(kept, builder.shl(_all(0x80), few))
            is_whole = builder.icmp_signed(">=", sizes, _all(4 * i + 4))
            rest = builder.select(is_last, cut, _all(0))
            words.append(_swapped(builder, builder.select(is_whole, _run(builder, place, i), rest)))
        words += [_all(0)] * 11 + [builder.shl(sizes, _all(3))]
        builder.store(_finished(builder, _sha1(builder, words)), _at(builder, out), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), code


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
