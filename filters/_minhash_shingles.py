"""Parts of kernels: where the shingles of a normal text are, and their hashes: xxHash32, SHA-1, xxHash64.

A text's units are its code points or its words; n units in a row are a shingle, with the spaces between its words.
A text of fewer units is one shingle, itself.
"""

from typing import Any

import numpy as np
from numba import uint32

from pairsieve.filters._jit import inlined
from pairsieve.filters._match_instructions import byte_at, first_bit, load
from pairsieve.filters._minhash_instructions import (
    LANES,
    sha1_of_16,
    sha1_of_run,
    spaces_of,
    starts_of,
    xxh32_of_16,
    xxh32_of_run,
)

_u, _h = np.uint64, np.uint32
A1, A2, A3, A4, A5 = _h(2654435761), _h(2246822519), _h(3266489917), _h(668265263), _h(374761393)
B1, B2, B3 = _u(0x9E3779B185EBCA87), _u(0xC2B2AE3D27D4EB4F), _u(0x165667B19E3779F9)
B4, B5 = _u(0x85EBCA77C2B2AE63), _u(0x27D4EB2F165667C5)
LOW_BYTES = np.array([2 ** (8 * n) - 1 for n in range(9)], np.uint64)
ALL = _u(2**64 - 1)
SHORT = 15
"""Most bytes of a message of xxHash32 that is done with others."""
ONE_BLOCK = 55
"""Most bytes that SHA-1 does in one block."""


@inlined
def units_of(place: Any, size: Any, words: Any, units: Any) -> Any:
    """Where each unit of a text begins, from its own begin, and one more: where the next would; their number.

    ``units`` has room for ``size`` + 1.
    """
    count = 0
    if words and size:
        units[0] = 0
        count = 1
    for at in range(0, size, 64):
        bits = spaces_of(place + at) if words else starts_of(place + at)
        left, shift = min(size - at, 64), at + words
        whole = ALL >> _u(64 - left)
        bits &= whole
        if not words and bits == whole:  # every byte begins a unit, as in ASCII
            for k in range(left):
                units[count + k] = at + k
            count += left
            continue
        while bits != 0:
            units[count] = shift + first_bit(bits)
            count += 1
            bits &= bits - _u(1)
    units[count] = size + words
    return count


@inlined
def shingles_of(count: Any, n: Any) -> Any:
    """How many shingles a text of so many units has."""
    return max(count - n + 1, 1) if count else 0


# --- hashes of 32 bits ---


@inlined
def _turned(x: Any, by: Any) -> Any:
    return uint32((uint32(x) << uint32(by)) | (uint32(x) >> uint32(32 - by)))


@inlined
def _lane(value: Any, word: Any) -> Any:
    return uint32(_turned(uint32(value + uint32(uint32(word) * A2)), 13) * A1)


@inlined
def xxh32(place: Any, size: Any) -> Any:
    """xxHash32 with seed 0 of the bytes at an address; 7 more are read."""
    at, end = place, place + size
    value = uint32(A5 + uint32(size))
    if size >= 16:
        v1, v2, v3, v4 = uint32(A1 + A2), uint32(A2), uint32(0), uint32(uint32(0) - A1)
        while at + 16 <= end:
            low, high = load(at), load(at + 8)
            v1, v2 = _lane(v1, low), _lane(v2, low >> _u(32))
            v3, v4 = _lane(v3, high), _lane(v4, high >> _u(32))
            at += 16
        value = uint32(_turned(v1, 1) + _turned(v2, 7) + _turned(v3, 12) + _turned(v4, 18) + uint32(size))
    while at + 4 <= end:
        value = uint32(_turned(uint32(value + uint32(uint32(load(at)) * A3)), 17) * A4)
        at += 4
    while at < end:
        value = uint32(_turned(uint32(value + uint32(uint32(byte_at(at)) * A5)), 11) * A1)
        at += 1
    value = uint32(uint32(value ^ (value >> uint32(15))) * A2)
    value = uint32(uint32(value ^ (value >> uint32(13))) * A3)
    return uint32(value ^ (value >> uint32(16)))


@inlined
def mixed32(x: Any) -> Any:
    """MurmurHash3's finaliser."""
    x = uint32(uint32(x ^ (x >> uint32(16))) * uint32(0x85EBCA6B))
    x = uint32(uint32(x ^ (x >> uint32(13))) * uint32(0xC2B2AE35))
    return uint32(x ^ (x >> uint32(16)))


@inlined
def _put_block(place: Any, size: Any, lane: Any, words: Any) -> Any:
    """A message of at most ``ONE_BLOCK`` bytes, padded as SHA-1 wants it, into a lane of the vectors."""
    full = size >> 3
    for i in range(full):
        value = load(place + 8 * i)
        words[2 * i * LANES + lane], words[(2 * i + 1) * LANES + lane] = uint32(value), uint32(value >> _u(32))
    value = load(place + 8 * full) & LOW_BYTES[size & 7] | _u(0x80) << _u(8 * (size & 7))
    words[2 * full * LANES + lane], words[(2 * full + 1) * LANES + lane] = uint32(value), uint32(value >> _u(32))
    for i in range(2 * full + 2, 15):
        words[i * LANES + lane] = 0
    words[15 * LANES + lane] = uint32((8 * size & 0xFF) << 24 | (size >> 5) << 16)


@inlined
def _long_sha1(place: Any, size: Any) -> Any:
    """The same of a longer message: five words of state, block by block, without vectors."""
    words = np.empty(80, np.uint32)
    h0, h1, h2 = uint32(0x67452301), uint32(0xEFCDAB89), uint32(0x98BADCFE)
    h3, h4 = uint32(0x10325476), uint32(0xC3D2E1F0)
    total = ((size + 8) // 64 + 1) * 64
    for block in range(0, total, 64):
        for t in range(16):
            value = uint32(0)
            for at in range(block + 4 * t, block + 4 * t + 4):
                byte = _h(0)
                if at < size:
                    byte = uint32(byte_at(place + at))
                elif at == size:
                    byte = uint32(0x80)
                elif at >= total - 8:
                    byte = uint32((_u(8 * size) >> _u(8 * (total - 1 - at))) & _u(0xFF))
                value = uint32((value << uint32(8)) | byte)
            words[t] = value
        for t in range(16, 80):
            words[t] = _turned(words[t - 3] ^ words[t - 8] ^ words[t - 14] ^ words[t - 16], 1)
        a, b, c, d, e = h0, h1, h2, h3, h4
        for t in range(80):
            if t < 20:
                mix, add = uint32(d ^ (b & (c ^ d))), uint32(0x5A827999)
            elif t < 40:
                mix, add = uint32(b ^ c ^ d), uint32(0x6ED9EBA1)
            elif t < 60:
                mix, add = uint32((b & c) | (d & (b | c))), uint32(0x8F1BBCDC)
            else:
                mix, add = uint32(b ^ c ^ d), uint32(0xCA62C1D6)
            new = uint32(_turned(a, 5) + mix + e + add + words[t])
            a, b, c, d, e = new, a, _turned(b, 30), c, d
        h0, h1, h2 = uint32(h0 + a), uint32(h1 + b), uint32(h2 + c)
        h3, h4 = uint32(h3 + d), uint32(h4 + e)
    low = uint32((h0 >> uint32(24)) | ((h0 >> uint32(8)) & uint32(0xFF00)))
    return uint32(low | uint32((h0 & uint32(0xFF00)) << uint32(8)) | uint32(h0 << uint32(24)))


@inlined
def _put_words(place: Any, size: Any, lane: Any, words: Any) -> Any:
    """A message of at most ``SHORT`` bytes as ``xxh32_of_16`` wants it, into a lane of the vectors."""
    low = load(place)
    words[lane], words[LANES + lane] = uint32(low), uint32(low >> _u(32))
    words[2 * LANES + lane] = uint32(load(place + 8))
    words[3 * LANES + lane] = uint32(load(place + (size & ~3)) & LOW_BYTES[size & 3])
    words[4 * LANES + lane] = uint32(size)


@inlined
def hash_shingles(place: Any, units: Any, count: Any, n: Any, words: Any, sha1: Any, scratch: Any, out: Any) -> Any:
    """The 32-bit hash of each shingle of a text at an address, mixed; how many there are.

    ``scratch`` has room for 16 vectors, ``out`` for 16 more than there are units.  16 shingles are hashed at a time;
    those too long for that one by one.
    """
    shingles, last = shingles_of(count, n), min(n, count)
    start, target = np.int64(scratch.ctypes.data), np.int64(out.ctypes.data)
    most = ONE_BLOCK if sha1 else SHORT
    if not words and last <= SHORT and count == units[count]:  # code points of one byte: shingles of one size
        for first in range(0, shingles, LANES):
            if sha1:
                sha1_of_run(place + first, last, target + 4 * first)
            else:
                xxh32_of_run(place + first, last, target + 4 * first)
        return shingles
    for first in range(0, shingles, LANES):
        behind, longer = min(first + LANES, shingles), 0
        for j in range(first, behind):
            at = np.int64(units[j])
            size = units[j + last] - at - words
            if size > most:
                longer += 1
            elif sha1:
                _put_block(place + at, size, j - first, scratch)
            else:
                _put_words(place + at, size, j - first, scratch)
        if sha1:
            sha1_of_16(start, target + 4 * first)
        else:
            xxh32_of_16(start, target + 4 * first)
        if longer:
            for j in range(first, behind):
                at = np.int64(units[j])
                size = units[j + last] - at - words
                if size > most:
                    out[j] = mixed32(_long_sha1(place + at, size) if sha1 else xxh32(place + at, size))
    return shingles


# --- hashes of 64 bits ---


@inlined
def _turned64(x: Any, by: Any) -> Any:
    return (x << _u(by)) | (x >> _u(64 - by))


@inlined
def _round64(value: Any, word: Any) -> Any:
    return _turned64(value + word * B2, 31) * B1


@inlined
def _merged64(value: Any, lane: Any) -> Any:
    return (value ^ _round64(_u(0), lane)) * B1 + B4


@inlined
def xxh64(place: Any, size: Any) -> Any:
    """xxHash64 with seed 0 of the bytes at an address; 7 more are read."""
    at, end = place, place + size
    value = B5
    if size >= 32:
        v1, v2, v3, v4 = B1 + B2, B2, _u(0), _u(0) - B1
        while at + 32 <= end:
            v1, v2 = _round64(v1, load(at)), _round64(v2, load(at + 8))
            v3, v4 = _round64(v3, load(at + 16)), _round64(v4, load(at + 24))
            at += 32
        value = _turned64(v1, 1) + _turned64(v2, 7) + _turned64(v3, 12) + _turned64(v4, 18)
        value = _merged64(_merged64(_merged64(_merged64(value, v1), v2), v3), v4)
    value += _u(size)
    while at + 8 <= end:
        value = _turned64(value ^ _round64(_u(0), load(at)), 27) * B1 + B4
        at += 8
    if at + 4 <= end:
        value = _turned64(value ^ (load(at) & _u(0xFFFFFFFF)) * B1, 23) * B2 + B3
        at += 4
    while at < end:
        value = _turned64(value ^ _u(byte_at(at)) * B5, 11) * B1
        at += 1
    value = (value ^ (value >> _u(33))) * B2
    value = (value ^ (value >> _u(29))) * B3
    return value ^ (value >> _u(32))


@inlined
def mixed64(x: Any) -> Any:
    """MurmurHash3's finaliser."""
    x = (x ^ (x >> _u(33))) * _u(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> _u(33))) * _u(0xC4CEB9FE1A85EC53)
    return x ^ (x >> _u(33))
