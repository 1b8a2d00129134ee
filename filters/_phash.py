"""Perceptual hashes of small grey pictures: the signs of low frequencies, as ImageHash's ``phash`` has them.

A picture of 32×32 gives 64 bits, one of 64×64 gives 256: which of the lowest frequencies of its cosine transform
(DCT-II) lie above their median, row by row, the first bit highest; in hex it is what ``str(imagehash.phash(...))``
says.  A batch is two products of small matrices a picture: 2 µs for 64 bits, 8 for 256.

Bits equal ImageHash's also where the median falls between values that are equal but for rounding (pictures with
symmetries): those few are transformed again with SciPy's order of operations (``_transformed``).
"""

from functools import cache
from math import cos, isqrt, pi, sin

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

PIXELS = 4
"""Pixels of a side for each frequency that is kept: ImageHash's ``highfreq_factor``."""
TIE = 1e-6
"""Frequencies closer than this may be equal: products and transforms differ by less than 1e-9."""
_BLOCK = 64  # pictures whose floats stay in the cache


def side(bits: int) -> int:
    """Width and height of the grey picture that gives so many bits."""
    return PIXELS * isqrt(bits)


def mirror_bits(bits: int) -> Bytes:
    """The bits that a mirror turns over in hashes that are ``mirrored``, uint8[bytes]."""
    size = isqrt(bits)
    return np.packbits(np.tile(np.arange(size) % 2 == 1, size))


def hashes(grey: Bytes, mirrored: bool = False) -> tuple[Bytes, Flags]:
    """Hashes of uint8[n, side, side] as uint8[n, bytes], and which pictures are too flat to have one, bool[n].

    ``mirrored``: not ImageHash's bits, but ones that a mirror image has xor ``mirror_bits``.  It has the same
    frequencies, with the sign of odd columns changed; so these are compared with zero, and the even columns with
    their own median.  Where an odd one is zero, its bit is 0 both ways.

    Flat is a picture of which less than an eighth of the frequencies stands out of the rounding of grey levels:
    blank ones, stripes and slopes along one axis.  Their bits are those of all such pictures, or noise.
    """
    size = grey.shape[1] // PIXELS
    found = np.empty((len(grey), size * size // 8), np.uint8)
    flat = np.empty(len(grey), bool)
    for start in range(0, len(grey), _BLOCK):
        block = slice(start, start + _BLOCK)
        low = _frequencies(grey[block])
        unsure = _unsure(low, mirrored)
        low[unsure] = _transformed(grey[block][unsure])
        found[block] = np.packbits(_bits(low, mirrored).reshape(len(low), -1), axis=1)
        flat[block] = _flat(low)
    return found, flat


def _frequencies(grey: Bytes) -> Floats:
    """The lowest frequencies by matrix products, float64[n, size, size]; not normalised, as in ImageHash."""
    waves = _waves(grey.shape[1])
    return np.asarray(waves.T @ grey.astype(np.float64) @ waves)  # one small product a picture: BLAS starts no threads


@cache
def _waves(wide: int) -> Floats:
    """Cosines of the DCT-II, float64[place, frequency]."""
    angles = np.outer(2 * np.arange(wide) + 1, np.arange(wide // PIXELS)) * (pi / (2 * wide))
    return np.asarray(2 * np.cos(angles))


def _middle(low: Floats) -> tuple[Floats, Floats]:
    """The two values around the median, float64[n, 1, 1] each."""
    ordered = np.sort(low.reshape(len(low), -1), axis=1)
    half = ordered.shape[1] // 2
    return ordered[:, half - 1, None, None], ordered[:, half, None, None]


def _unsure(low: Floats, mirrored: bool) -> Flags:
    """Where rounding may decide a bit."""
    below, above = _middle(low[:, :, ::2] if mirrored else low)
    unsure = above - below <= TIE
    if mirrored:
        unsure |= (np.abs(low[:, :, 1::2]) <= 2 * TIE).any(axis=(1, 2), keepdims=True)
    return np.asarray(unsure[:, 0, 0])


def _bits(low: Floats, mirrored: bool) -> Flags:
    below, above = _middle(low[:, :, ::2] if mirrored else low)
    median = (below + above) / 2
    if not mirrored:
        return low > median
    bits = low > TIE
    bits[:, :, ::2] = low[:, :, ::2] > median
    return bits


def _flat(low: Floats) -> Flags:
    """Rounding to whole grey levels gives every frequency an error of 0.6 sides of the picture (root mean square)."""
    _, size, _ = low.shape
    stands_out = np.abs(low) > PIXELS * size
    stands_out[:, 0, 0] = False
    return np.asarray(stands_out.sum(axis=(1, 2)) < size * size // 8)


def _transformed(grey: Bytes) -> Floats:
    """As ``_frequencies``, with the very rounding of ``scipy.fftpack.dct`` (pocketfft), down the columns first.

    So on x86-64; where a compiler fuses multiplications and additions, SciPy may round otherwise.
    """
    size = grey.shape[1] // PIXELS
    down = _dct(grey.transpose(0, 2, 1).astype(np.float64))[:, :, :size]
    return _dct(np.ascontiguousarray(down.transpose(0, 2, 1)))[:, :, :size]


def _dct(values: Floats) -> Floats:
    """DCT-II along the last axis (of even length) by one real FFT of the same length, as pocketfft does it.

    Sums and differences of neighbours are taken for a half-complex spectrum, turned back into values,
    and these rotated in pairs.
    """
    length = values.shape[-1]
    left, right = values[..., 1:-1:2], values[..., 2::2]
    spectrum = np.zeros((*values.shape[:-1], length // 2 + 1), np.complex128)
    spectrum.real[..., 0], spectrum.real[..., -1] = 2 * values[..., 0], 2 * values[..., -1]
    spectrum.real[..., 1:-1], spectrum.imag[..., 1:-1] = left + right, right - left
    found = np.fft.irfft(spectrum, length, norm="forward")
    one, turn = np.arange(1, length // 2), _turns(length)
    other = length - one
    added = turn[one] * found[..., other] + turn[other] * found[..., one]
    taken = turn[one] * found[..., one] - turn[other] * found[..., other]
    found[..., one], found[..., other] = 0.5 * (added + taken), 0.5 * (added - taken)
    found[..., length // 2] *= turn[length // 2]
    return found


@cache
def _turns(length: int) -> Floats:
    """cos(πk / 2·length) for k < length, from two tables of angles each, so that even the last bit is pocketfft's."""
    fine = [_angle(i, length) for i in range(16)]
    coarse = [_angle(16 * i, length) for i in range(-(-length // 16))]
    return np.array([a * c - b * d for c, d in coarse for a, b in fine])[:length]


def _angle(k: int, length: int) -> tuple[float, float]:
    """Cosine and sine of πk / 2·length, computed below π/4."""
    unit = 0.25 * pi / (4 * length)
    if 2 * k < length:
        return cos(8 * k * unit), sin(8 * k * unit)
    rest = 8 * (length - k)
    return sin(rest * unit), cos(rest * unit)
