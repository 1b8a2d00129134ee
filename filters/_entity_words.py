"""Count the words of captions whose first WordNet synset is among some offsets, in one pass over the bytes.

About 1 µs a caption of 7.4 words.  The first use on a machine compiles for some seconds, which numba
keeps on disk.  Method: morphy as nltk 3.8.1 has it, the version that DataComp pins.  It detaches
endings until a lemma is found, so that *womens* is *woman*; nltk 3.10 detaches one only.
"""

from collections.abc import Callable, Iterable, Set
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from pairsieve.filters._wordnet import PARTS, VERSION, WordNet
from pairsieve.schemas.errors import UserError

MOST_CHARACTERS = 256
"""A longer word names nothing: endings are detached one by one, and the longest lemma has 71 characters."""
_ENDINGS = {
    "n": "s- ses-s ves-f xes-x zes-z ches-ch shes-sh men-man ies-y",
    "v": "s- ies-y es-e es- ed-e ed- ing-e ing-",
    "a": "er- est- er-e est-e",
    "r": "",
}
"""Rules of detachment (morphy(7WN)) for each part of speech: an ending, and what takes its place."""
_NO, _OTHER, _ENTITY = 1, 2, 3
"""What an irregular form leads to: no lemma, one that is no entity, one that is; a lemma is one of the latter."""

Bytes = NDArray[np.uint8]
Hashes = NDArray[np.uint64]
Jitted = TypeVar("Jitted", bound=Callable[..., Any])


class Table(NamedTuple):
    """Words by open addressing.

    ``slots`` uint64[2^k]: 0 where free, else 27 bits of the word's hash, 16 of its code, 21 of its
    place in ``text`` uint8[…], where it ends in a 0.  A code has four bits for each part of speech:
    the lower two of the lemma (0 = it is none), the upper two of the irregular form.
    """

    slots: Hashes
    text: Bytes


def _padded(texts: Iterable[str]) -> Bytes:
    return np.array([[*text.encode().ljust(4, b"\0")] for text in texts], np.uint8)


# Rules as arrays, a row for each; numba compiles them in as constants.
_RULES = [(part, *rule.split("-")) for part in PARTS for rule in _ENDINGS[part].split()]
_OF = np.cumsum([0, *(len(_ENDINGS[part].split()) for part in PARTS)])
_OLD, _NEW = (_padded(rule[i] for rule in _RULES) for i in (1, 2))
_OLD_SIZE, _NEW_SIZE = (np.array([len(rule[i]) for rule in _RULES]) for i in (1, 2))
_IS_PREFIX = np.array([old.startswith(new) for _, old, new in _RULES])
_CAN_END = np.array([[any(r[0] == p and ord(r[1][-1]) == byte for r in _RULES) for byte in range(128)] for p in PARTS])

# ASCII in lower case; 0 for what str.split takes for a space, and for the bytes of longer characters.
_LETTERS = np.array([0 if byte > 127 or chr(byte).isspace() else ord(chr(byte).lower()) or 1 for byte in range(256)])
_LETTERS = _LETTERS.astype(np.uint8)


def _compiled(function: Jitted) -> Jitted:
    """Compiled at the first call; kept on disk where there is a place for it."""
    options = {"forceinline": True}  # an array is seven arguments of a call
    try:
        return njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # no folder can be written to
        return njit(**options)(function)  # type: ignore[no-any-return]


@_compiled
def _added(hashed: Any, byte: Any) -> Any:
    """FNV-1a, one byte further."""
    return (hashed ^ np.uint64(byte)) * np.uint64(0x100000001B3)


@_compiled
def _find(slots: Hashes, text: Bytes, word: Bytes, size: int, hashed: Any) -> np.int64:
    """The code of a word, 0 where it is not in the table."""
    mask = np.uint64(len(slots) - 1)
    place = hashed & mask
    while slots[place]:
        slot = slots[place]
        if slot >> np.uint64(37) == hashed >> np.uint64(37):
            start = np.int64(slot & np.uint64(0x1FFFFF))
            k = 0
            while k < size and text[start + k] == word[k]:
                k += 1
            if k == size and text[start + k] == 0:
                return np.int64(slot >> np.uint64(21) & np.uint64(0xFFFF))
        place = (place + np.uint64(1)) & mask
    return np.int64(0)


@_compiled
def _find_other(slots: Hashes, text: Bytes, word: Bytes, cut: int, hashed: Any, rule: int, form: Bytes) -> np.int64:
    """The code of a word whose ending is replaced by one that is no part of it."""
    for k in range(cut):
        form[k] = word[k]
    for k in range(_NEW_SIZE[rule]):
        form[cut + k] = _NEW[rule, k]
        hashed = _added(hashed, form[cut + k])
    return _find(slots, text, form, cut + _NEW_SIZE[rule], hashed)


@_compiled
def _detached(slots: Hashes, text: Bytes, word: Bytes, size: int, hashes: Hashes, part: int, form: Bytes) -> np.int64:
    """What the word without its ending is, for one part of speech: ``_OTHER``, ``_ENTITY``, or 0 for no lemma.

    Of the forms of a round at most one can lose another ending, and it is a prefix of the word: the
    shortest, since the others end in e, y, f, x, z, ch, sh or man.
    """
    while size:
        shortest = 0
        for rule in range(_OF[part], _OF[part + 1]):
            cut = size - _OLD_SIZE[rule]
            k = 0
            while cut >= 0 and k < _OLD_SIZE[rule] and word[cut + k] == _OLD[rule, k]:
                k += 1
            if cut < 0 or k < _OLD_SIZE[rule]:
                continue
            left = cut + _NEW_SIZE[rule]
            if _IS_PREFIX[rule]:
                code = _find(slots, text, word, left, hashes[left])
                if shortest == 0 or left < shortest:
                    shortest = left
            else:
                code = _find_other(slots, text, word, cut, hashes[cut], rule, form)
            found = code >> (4 * part) & 3
            if found:
                return found
        size = shortest
    return np.int64(0)


@_compiled
def _is_entity(slots: Hashes, text: Bytes, word: Bytes, size: int, hashes: Hashes, form: Bytes) -> bool:
    """Whether the first synset of a word, by part of speech, is an entity."""
    code = _find(slots, text, word, size, hashes[size])
    for part in range(4):
        found = np.int64(code >> (4 * part) & 3)
        if found == 0:
            found = np.int64(code >> (4 * part + 2) & 3)
            if found == 0 and _CAN_END[part, word[size - 1]]:
                found = _detached(slots, text, word, size, hashes, part, form)
        if found > 1:
            return bool(found == 3)
    return False


@_compiled
def _odd(text: Bytes, at: int, end: int) -> Any:
    """For a space or the first byte of a longer character: 0 for a space, else a letter or 255; and its bytes."""
    byte = text[at]
    if byte < 128:
        return np.uint8(0), 1
    if byte == 0xC2 and at + 1 < end and (text[at + 1] == 0x85 or text[at + 1] == 0xA0):
        return np.uint8(0), 2
    if 0xE1 <= byte <= 0xE3 and at + 2 < end:
        point = (byte & 15) << 12 | (text[at + 1] & 63) << 6 | text[at + 2] & 63
        if point in (0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000) or 0x2000 <= point <= 0x200A:
            return np.uint8(0), 3
        if point == 0x212A:
            return np.uint8(107), 3
    return np.uint8(255), 1


@_compiled
def _count(slots: Hashes, known: Bytes, text: Bytes, starts: NDArray[np.int32], counts: NDArray[np.int32]) -> None:
    """Fill ``counts`` for texts between ``starts``.  Words are lower-cased; only the sign for kelvin becomes ASCII."""
    word, form = np.zeros(MOST_CHARACTERS, np.uint8), np.zeros(MOST_CHARACTERS + 4, np.uint8)
    hashes = np.zeros(MOST_CHARACTERS + 1, np.uint64)
    hashes[0] = hashed = np.uint64(0xCBF29CE484222325)
    for i in range(len(counts)):
        at, end = starts[i], starts[i + 1]
        size, is_word, found = 0, True, 0
        while at <= end:
            letter, taken = np.uint8(0), 1
            if at < end:
                letter = _LETTERS[text[at]]
                if letter == 0:
                    letter, taken = _odd(text, at, end)
            if letter == 0:
                if size and is_word and _is_entity(slots, known, word, size, hashes, form):
                    found += 1
                size, is_word, hashed = 0, True, hashes[0]
            elif letter == 255 or size == MOST_CHARACTERS:
                is_word = False
            else:
                hashed = _added(hashed, letter)
                word[size] = letter
                size += 1
                hashes[size] = hashed
            at += taken
        counts[i] = found


@_compiled
def _fill(slots: Hashes, text: Bytes, codes: NDArray[np.uint16]) -> None:
    """Put all words of ``text`` into the slots."""
    mask, start = np.uint64(len(slots) - 1), 0
    for code in codes:
        hashed, k = np.uint64(0xCBF29CE484222325), start
        while text[k]:
            hashed = _added(hashed, text[k])
            k += 1
        place = hashed & mask
        while slots[place]:
            place = (place + np.uint64(1)) & mask
        tag = hashed >> np.uint64(37) << np.uint64(37)
        slots[place] = tag | np.uint64(code) << np.uint64(21) | np.uint64(start)
        start = k + 1


class EntityWords:
    """A WordNet and the offsets that are looked for: about 10 MB."""

    def __init__(self, wordnet: WordNet, ids: Set[int]) -> None:
        """Make the tables, in about 0.2 s."""
        self._table = _table(_codes(wordnet, ids))

    def count(self, texts: pa.Array) -> NDArray[np.int32]:
        """int32[n]: words of each text (a string array) that name one; of a null, any number."""
        counts = np.zeros(len(texts), np.int32)
        if len(texts):
            _, ends, content = texts.buffers()
            starts = np.frombuffer(ends, np.int32, len(texts) + 1, 4 * texts.offset)
            text = np.frombuffer(content or b"", np.uint8)
            for array in (starts, text):
                array.flags.writeable = False  # or numba would compile once more for arrays that can be written to
            _count(*self._table, text, starts, counts)
        return counts


def _codes(wordnet: WordNet, ids: Set[int]) -> dict[str, int]:
    """Each lemma and irregular form with its code."""
    found: dict[str, int] = {}
    for shift, part in zip(range(0, 16, 4), PARTS, strict=True):
        first = wordnet.first[part]
        for word, offset in first.items():
            found[word] = found.get(word, 0) | (_ENTITY if offset in ids else _OTHER) << shift
        for form, bases in wordnet.irregular[part].items():
            offsets = [first[base] for base in bases if base in first]
            code = _NO if not offsets else _ENTITY if offsets[0] in ids else _OTHER
            found[form] = found.get(form, 0) | code << (shift + 2)
    return found


def _table(codes: dict[str, int]) -> Table:
    """The words in slots, six in ten of them taken; raises ``UserError`` for far more words than WordNet has."""
    text = np.frombuffer(b"".join(word.encode() + b"\0" for word in codes), np.uint8)
    if len(text) > 1 << 21:
        raise UserError(f"wordnet: {len(codes)} words are more than WordNet {VERSION} has; install it again")
    table = Table(np.zeros(1 << len(codes).bit_length(), np.uint64), text)
    _fill(*table, np.array(list(codes.values()), np.uint16))
    return table
