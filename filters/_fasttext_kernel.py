"""fastText's prediction over Arrow buffers, compiled: n-grams, their mean, the best label.

Every sum, product and rounding follows fastText's C++ (dictionary.cc, densematrix.cc, loss.cc) in float32 and
in its order, so labels are its own, and probabilities differ at most by how ``exp`` is rounded.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import float32, int32, int64, types, uint8, uint64

from pairsieve.filters._jit import inlined, instruction, kernel
from pairsieve.filters._match_instructions import prefetch

HS, SOFTMAX = 1, 3
"""fastText's numbers of the losses that are not one sigmoid a label."""
HELD = 8192
"""Rows that are collected before they are added up: those of any usual caption."""
FNV_START, FNV_PRIME = np.uint32(2166136261), np.uint32(16777619)
WORD_NGRAM = np.uint64(116049371)
LESS, MORE = ord("<"), ord(">")
END, LABEL = tuple(b"</s>"), tuple(b"__label__")
END_CODE = np.int32(-677604519)
"""Hash of ``</s>``, signed as the hashes of words are."""
HALF, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
ONE = np.uint64(1)

_bytes = types.Array(uint8, 1, "C", readonly=True)
_places = types.Array(int64, 1, "C", readonly=True)
_table = types.Array(uint64, 1, "C", readonly=True)
_floats = types.Array(float32, 1, "C", readonly=True)
_matrix = types.Array(float32, 2, "C", readonly=True)
_rows = types.Array(float32, 2, "C", readonly=True, aligned=False)
_tree = types.Array(int32, 2, "C", readonly=True)


@instruction
def _ones(_: Any, word: Any) -> Any:
    """Number of bits that are set, in one instruction."""
    return types.uint64(types.uint64), lambda context, builder, signature, args: builder.ctpop(args[0])


# --- tokens ---


@inlined
def _hashed(state: Any, byte: Any) -> Any:
    """FNV-1a of one more byte, sign-extended as fastText does."""
    return np.uint32((state ^ np.uint32(np.int8(byte))) * FNV_PRIME)


@inlined
def _is_space(byte: Any) -> Any:
    """The bytes that separate fastText's tokens: space, tab to carriage return, NUL."""
    return byte == 32 or 9 <= byte <= 13 or byte == 0


@inlined
def _read(data: Any, at: Any, stop: Any, token: Any) -> Any:
    """The next token, put behind ``token[0]``: where it ends, its size (0: none), its hash."""
    while at < stop and _is_space(data[at]):
        at += 1
    code, size = FNV_START, 0
    while at < stop and not _is_space(data[at]):
        code = _hashed(code, data[at])
        size += 1
        token[size] = data[at]
        at += 1
    return at, size, code


@inlined
def _starts_with(token: Any, size: Any, prefix: Any) -> Any:
    same = size >= len(prefix)
    for i in range(len(prefix)):
        same = same and token[1 + i] == prefix[i]
    return same


@inlined
def _find(code: Any, token: Any, size: Any, words: Any, starts: Any, slots: Any) -> Any:
    """Number of a word in the dictionary, -1 where it is not there."""
    last = len(slots) - 1
    at = np.int64(code) & last
    while slots[at] != 0:
        number = np.int64(slots[at] & LOW) - 1
        start = starts[number]
        if slots[at] >> HALF == code and starts[number + 1] - start == size:
            same = True
            for i in range(size):
                same &= words[start + i] == token[1 + i]
            if same:
                return number
        at = (at + 1) & last
    return np.int64(-1)


# --- rows of n-grams ---


@inlined
def _hold(rest: Any, held: Any, count: Any, buckets: Any) -> Any:
    """Note the row of a bucket, where it has one: its rank in the index, or itself without an index."""
    index, _, _, first, base, width = buckets
    if len(index) == 0:
        held[count] = first + np.int64(rest)
        place = base + held[count] * width
        prefetch(place)
        prefetch(place + width - 1)
        return count + 1
    pair = index[rest >> np.uint64(5)]
    bit = rest & np.uint64(31)
    before = _ones(pair & ((ONE << bit) - ONE))
    held[count] = first + np.int64((pair >> HALF) + before)
    return count + np.int64((pair >> bit) & ONE)


@inlined
def _letters(token: Any, size: Any, begin: Any, end: Any, shape: Any, held: Any, count: Any, buckets: Any) -> Any:
    """Note the n-grams of letters of ``<token>`` that start at bytes ``begin`` to ``end``."""
    least, most, bucket, reciprocal = shape[3], shape[4], buckets[1], buckets[2]
    for start in range(begin, end):
        if (token[start] & 0xC0) == 0x80:
            continue
        code, place, n = FNV_START, start, 1
        while place < size and n <= most:
            code = _hashed(code, token[place])
            place += 1
            while (token[place] & 0xC0) == 0x80:
                code = _hashed(code, token[place])
                place += 1
            if n >= least and not (n == 1 and (start == 0 or place == size)):
                value = np.uint64(code)  # modulo bucket: the quotient is at most one too small
                rest = value - ((value * reciprocal) >> HALF) * bucket
                count = _hold(rest - bucket if rest >= bucket else rest, held, count, buckets)
            n += 1
    return count


@inlined
def _add(rows: Any, held: Any, count: Any, mean: Any) -> Any:
    """Add rows to the running sum in their order, sixteen columns at a time."""
    width = rows.shape[1]
    whole = width - width % 16
    for c in range(0, whole, 16):
        for i in range(count):
            row = held[i]
            for j in range(16):
                mean[c + j] += rows[row, c + j]
    for i in range(count):
        row = held[i]
        for j in range(whole, width):
            mean[j] += rows[row, j]


@inlined
def _settled(rows: Any, held: Any, count: Any, total: Any, mean: Any) -> Any:
    """Add up what is held before it overflows: the number held, and of rows added so far."""
    if count <= HELD // 2:
        return count, total
    _add(rows, held, count, mean)
    return np.int64(0), total + count


@inlined
def _word_ngrams(
    codes: Any, size: Any, most: Any, rows: Any, held: Any, count: Any, total: Any, mean: Any, buckets: Any
) -> Any:
    """Note n-grams of 2 to ``most`` words, hashed from the signed hashes of the words."""
    for i in range(size):
        code = np.uint64(np.int64(codes[i]))
        for j in range(i + 1, min(size, i + most)):
            code = code * WORD_NGRAM + np.uint64(np.int64(codes[j]))
            count, total = _settled(rows, held, count, total, mean)
            count = _hold(code % buckets[1], held, count, buckets)
    return count, total


@inlined
def _sum(data: Any, at: Any, stop: Any, shape: Any, dictionary: Any, rows: Any, buckets: Any, room: Any) -> Any:
    """Add up the rows of a text in fastText's order; the number of rows."""
    known, ending, least, most, together = shape[0], shape[1], shape[3], shape[4], shape[5]
    words, starts, slots = dictionary
    token, held, codes, mean = room
    block = max(HELD // 2 // max(most - least + 1, 1), 1)
    count, total, coded = np.int64(0), np.int64(0), np.int64(0)
    while True:
        at, size, code = _read(data, at, stop, token)
        if size == 0 or (size == len(END) and _starts_with(token, size, END)):
            break
        number = _find(code, token, size, words, starts, slots)
        if number >= known or (number < 0 and _starts_with(token, size, LABEL)):
            continue
        count, total = _settled(rows, held, count, total, mean)
        if number >= 0:
            held[count] = number
            count += 1
        if together > 1:
            codes[coded] = np.int32(code)
            coded += 1
        token[size + 1], token[size + 2] = MORE, 0
        for begin in range(0, size + 2 if most > 0 else 0, block):
            count, total = _settled(rows, held, count, total, mean)
            until = min(begin + block, size + 2)
            count = _letters(token, size + 2, begin, until, shape, held, count, buckets)
    if ending >= 0:
        held[count] = ending
        count += 1
    if together > 1:
        codes[coded] = END_CODE
        count, total = _word_ngrams(codes, coded + 1, together, rows, held, count, total, mean, buckets)
    _add(rows, held, count, mean)
    return total + count


# --- labels ---


@inlined
def _log(x: Any) -> Any:
    return np.float32(math.log(np.float64(x) + 1e-5))


@inlined
def _chance(outputs: Any, row: Any, hidden: Any, scales: Any) -> Any:
    """Probability of the right child of a node."""
    total = np.float32(0)
    for j in range(len(hidden)):
        total += outputs[row, j] * hidden[j]
    return np.float32(1.0 / np.float64(np.float32(1) + math.exp(-total * scales[row])))


@inlined
def _greedy(outputs: Any, scales: Any, hidden: Any, tree: Any, least: Any, known: Any) -> Any:
    """Log probability of the leaf under the better child of each node; ``known`` gets the chances on its way."""
    labels = (len(tree) + 1) // 2
    known[:] = np.nan
    node, score = len(tree) - 1, np.float32(0)
    while tree[node, 0] >= 0 and score >= least:
        chance = _chance(outputs, node - labels, hidden, scales)
        known[node - labels] = chance
        side = int(chance >= 0.5)
        score += _log(chance if side else np.float32(1.0 - chance))
        node = tree[node, side]
    return score if score >= least else np.float32(-np.inf)


@inlined
def _best_leaf(outputs: Any, scales: Any, hidden: Any, tree: Any, stack: Any, scores: Any, known: Any) -> Any:
    """The leaf that fastText's depth-first search ends with, and its log probability.

    The greedy leaf shows which subtrees cannot win: those further below it than ``_log`` can exceed 0 on
    the way to any leaf (1e-5 a node).  They are passed over, which changes no answer.
    """
    labels = (len(tree) + 1) // 2
    least = _log(np.float32(0))
    floor = _greedy(outputs, scales, hidden, tree, least, known) - np.float32(3e-5 * labels + 1e-4)
    best, found = np.float32(-np.inf), np.int64(-1)
    stack[0], scores[0], size = len(tree) - 1, 0, 1
    while size:
        size -= 1
        node, score = stack[size], scores[size]
        if score < least or score < best or score < floor:
            continue
        if tree[node, 0] < 0:
            best, found = score, node
            continue
        chance = known[node - labels]
        if math.isnan(chance):
            chance = _chance(outputs, node - labels, hidden, scales)
        stack[size], scores[size] = tree[node, 1], score + _log(chance)
        stack[size + 1], scores[size + 1] = tree[node, 0], score + _log(np.float32(1.0 - chance))
        size += 2
    return found, best


@inlined
def _softmax(output: Any) -> Any:
    most, total = output[0], np.float32(0)
    for i in range(len(output)):
        most = max(output[i], most)
    for i in range(len(output)):
        output[i] = math.exp(output[i] - most)
        total += output[i]
    for i in range(len(output)):
        output[i] /= total


@inlined
def _sigmoids(output: Any, sigmoid: Any) -> Any:
    """From fastText's table of 512 steps between -8 and 8."""
    for i in range(len(output)):
        if abs(output[i]) <= 8:
            output[i] = sigmoid[np.int64((output[i] + np.float32(8)) * np.float32(512) / np.float32(8) / np.float32(2))]
        else:
            output[i] = np.float32(output[i] > 8)


@inlined
def _best_label(transposed: Any, scales: Any, hidden: Any, loss: Any, sigmoid: Any, output: Any) -> Any:
    """The last of the most probable labels and its log probability, for losses with one output a label."""
    output[:] = 0
    for j in range(len(hidden)):
        for i in range(len(output)):
            output[i] += transposed[j, i] * hidden[j]
    for i in range(len(output)):
        output[i] *= scales[i]
    if loss == SOFTMAX:
        _softmax(output)
    else:
        _sigmoids(output, sigmoid)
    found, best = np.int64(-1), np.float32(0)
    for i in range(len(output)):
        if output[i] >= best:
            found, best = np.int64(i), output[i]
    return found, _log(best)


# --- entries ---


@kernel(
    types.void(
        *(_bytes, _places, _places),
        *(_bytes, _places, _table, _table, _rows, _matrix, _floats, _tree, _floats),
        *(types.Array(int32, 1, "C"), types.Array(float32, 1, "C")),
    )
)
def predict(
    data: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    shape: npt.NDArray[np.int64],
    words: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    slots: npt.NDArray[np.uint64],
    index: npt.NDArray[np.uint64],
    rows: npt.NDArray[np.float32],
    outputs: npt.NDArray[np.float32],
    scales: npt.NDArray[np.float32],
    tree: npt.NDArray[np.int32],
    sigmoid: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int32],
    probabilities: npt.NDArray[np.float32],
) -> None:
    """The best label (-1: none) and its probability of each text ``data[offsets[i] : offsets[i + 1]]``.

    ``shape`` is: words, the row of the end of line (-1: none), buckets, shortest and longest n-gram (0: none),
    words of a word n-gram, the loss.  ``words[starts[i] : starts[i + 1]]`` is word i, ``slots`` the hash table
    of ``fill``; ``index`` has 32 bits of buckets with rows beside the number of such before, or is empty for all.
    ``outputs`` is a row for each node of the ``tree`` (left, right; -1 at leaves), else a column for each label.
    """
    longest = np.int64(0)
    for i in range(len(offsets) - 1):
        longest = max(longest, offsets[i + 1] - offsets[i])
    token = np.zeros(longest + 4, np.uint8)
    token[0] = LESS
    bucket = np.uint64(shape[2])
    buckets = index, bucket, (ONE << HALF) // bucket, shape[0], np.int64(rows.ctypes.data), np.int64(4 * rows.shape[1])
    held = np.empty(HELD + max(shape[4], 1), np.int64)
    codes = np.empty(longest // 2 + 2 if shape[5] > 1 else 0, np.int32)
    hidden, output = np.empty(rows.shape[1], np.float32), np.empty(len(scales), np.float32)
    stack, scores = np.empty(len(tree) + 2, np.int64), np.empty(len(tree) + 2, np.float32)
    dictionary, room = (words, starts, slots), (token, held, codes, hidden)
    for i in range(len(offsets) - 1):
        hidden[:] = 0
        total = _sum(data, offsets[i], offsets[i + 1], shape, dictionary, rows, buckets, room)
        share = np.float32(1.0 / max(total, 1))
        for j in range(len(hidden)):
            hidden[j] *= share
        if shape[6] == HS:
            best, score = _best_leaf(outputs, scales, hidden, tree, stack, scores, output)
        else:
            best, score = _best_label(outputs, scales, hidden, shape[6], sigmoid, output)
        is_said = total > 0 and best >= 0 and not math.isnan(score)
        labels[i], probabilities[i] = (best, math.exp(score)) if is_said else (-1, np.float32(0))


@kernel(types.void(_bytes, _places, types.Array(uint64, 1, "C")))
def fill(words: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], slots: npt.NDArray[np.uint64]) -> None:
    """Build the hash table of words, which is at most half full: in a slot the hash and the number + 1."""
    last = len(slots) - 1
    for number in range(len(starts) - 1):
        code = FNV_START
        for i in range(starts[number], starts[number + 1]):
            code = _hashed(code, words[i])
        at = np.int64(code) & last
        while slots[at] != 0:
            at = (at + 1) & last
        slots[at] = (np.uint64(code) << HALF) | np.uint64(number + 1)
