"""Which ends of an entry must lie at a space, by MetaCLIP 2's rule: all but those in scripts without spaces, and marks.

Of Hangul and kana the rule says nothing, so Korean and Japanese entries that end in them are words between spaces.
Blocks are Unicode 17's; the paper's own code names only some of them, so rare characters may differ there.
"""

import string
from bisect import bisect_right

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

UNSPACED = (
    (0x0E00, 0x0E7F),  # Thai
    (0x0E80, 0x0EFF),  # Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x19E0, 0x19FF),  # Khmer Symbols
    (0x3400, 0x4DBF),  # CJK Unified Ideographs Extension A
    (0x4E00, 0x9FFF),  # CJK Unified Ideographs
    (0xA9E0, 0xA9FF),  # Myanmar Extended-B
    (0xAA60, 0xAA7F),  # Myanmar Extended-A
    (0xF900, 0xFAFF),  # CJK Compatibility Ideographs
    (0x116D0, 0x116FF),  # Myanmar Extended-C
    (0x20000, 0x2A6DF),  # CJK Unified Ideographs Extension B
    (0x2A700, 0x2EE5F),  # C, D, E, F and I
    (0x2F800, 0x2FA1F),  # CJK Compatibility Ideographs Supplement
    (0x30000, 0x3347F),  # G, H and J
)
"""First and last code point of the blocks of scripts without spaces between words, in order."""
CJK_MARKS = "、。，；：？！（）《》〈〉「」『』【】“”‘’…—"
MARKS = frozenset(string.punctuation + CJK_MARKS)
_FIRST = [first for first, _ in UNSPACED]


def is_unspaced(character: str) -> bool:
    """Whether an entry that ends in this character needs no space there."""
    place = bisect_right(_FIRST, ord(character)) - 1
    return character in MARKS or (place >= 0 and ord(character) <= UNSPACED[place][1])


def spaced_ends(entries: pa.Array) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Whether each entry (string) has a space put before it, and behind it; the empty one has both."""
    return _is_spaced(pc.utf8_slice_codeunits(entries, 0, 1)), _is_spaced(pc.utf8_slice_codeunits(entries, -1))


def _is_spaced(characters: pa.Array) -> npt.NDArray[np.bool_]:
    encoded = characters.dictionary_encode()
    known = [not (character and is_unspaced(character)) for character in encoded.dictionary.to_pylist()]
    spaced: npt.NDArray[np.bool_] = np.array(known, np.bool_)[encoded.indices.to_numpy()]
    return spaced
