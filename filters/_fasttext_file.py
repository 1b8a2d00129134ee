"""Files of fastText classifiers (``.bin``, ``.ftz``), read without fastText: milliseconds, and no copy of a ``.bin``.

The layout is that of fastText's ``saveModel`` (fasttext.cc, dictionary.cc, densematrix.cc, quantmatrix.cc,
productquantizer.cc), format 11 and 12.  Files are hostile: every size is compared with what is there.
"""

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pairsieve.schemas.errors import UserError

Floats = npt.NDArray[np.float32]

MAGIC, VERSION = 793712314, 12
SUPERVISED = 3
LOSSES = range(1, 5)
CENTROIDS = 256
ENTRY = 9
"""Bytes behind a word: its count and its kind."""
LARGEST_TABLE = 2**31
"""Bytes of a dequantised table: beyond that the ``.bin``, which workers share, is the better file."""
LONGEST_NGRAM, LARGEST_INDEX = 1000, 2**26
ENDLESS = 10**15
"""fastText's tree takes this for the count of a node that is not there yet."""
ARGUMENTS = ["dim", "ws", "epoch", "min_count", "neg", "word_ngrams", "loss", "model", "bucket", "minn", "maxn", "rate"]
HEADER = np.dtype([("size", "<i4"), ("words", "<i4"), ("labels", "<i4"), ("tokens", "<i8"), ("pruned", "<i8")])


class BrokenModelError(ValueError):
    """The file is no fastText classifier, is cut short, or holds numbers that no fastText writes."""


@dataclass(frozen=True)
class FastTextModel:
    """A classifier as its file has it.

    Attributes:
        words: bytes of each word, then of each label.
        labels: names of the labels, with their prefix.
        counts: examples of each label.
        arguments: fastText's own, by the names in ``ARGUMENTS``.
        pruned: (bucket, row behind those of words) of n-grams with a row; None where every bucket has one.
        rows: float32, (words + n-grams) × dim: a view of the file where that is not quantised.
        outputs: float32, labels × dim.
        scales: float32, the factor of each label's dot product.
    """

    words: list[bytes]
    labels: tuple[str, ...]
    counts: tuple[int, ...]
    arguments: dict[str, int]
    pruned: npt.NDArray[np.int32] | None
    rows: Floats
    outputs: Floats
    scales: Floats

    @property
    def known(self) -> int:
        """Number of words that are not labels."""
        return len(self.words) - len(self.labels)


def read_model(path: str | Path) -> FastTextModel:
    """The classifier of a file; raises ``UserError`` with one line where it is none."""
    try:
        return _model(_Reader(path))
    except (OSError, BrokenModelError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"model {path}: {why}; give the .bin or .ftz file of a fastText classifier") from None


class _Reader:
    """A file mapped into memory, and where it is read next."""

    def __init__(self, path: str | Path) -> None:
        with Path(path).open("rb") as file:
            if file.seek(0, 2) == 0:
                raise BrokenModelError("an empty file")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = 0

    def take(self, kind: Any, count: int) -> npt.NDArray[Any]:
        """The next ``count`` values: a view of the file."""
        self.require(count, np.dtype(kind).itemsize)
        found: npt.NDArray[Any] = np.frombuffer(self._map, kind, count, self._at) if count else np.empty(0, kind)
        self._at += found.nbytes
        return found

    def require(self, count: int, size: int) -> None:
        """Refuse more than there is left."""
        if count < 0 or count * size > len(self._map) - self._at:
            raise BrokenModelError("cut short or damaged")

    def entries(self, count: int) -> tuple[list[bytes], npt.NDArray[Any]]:
        """Words, each ending with a NUL; the count and kind of each."""
        self.require(count, 1 + ENTRY)
        words, behind = [], []
        for _ in range(count):
            end = self._map.find(b"\0", self._at)
            if end < 0 or end + 1 + ENTRY > len(self._map):
                raise BrokenModelError("cut short within its words")
            words.append(self._map[self._at : end])
            self._at = end + 1 + ENTRY
            behind.append(self._map[end + 1 : self._at])
        return words, np.frombuffer(b"".join(behind), [("count", "<i8"), ("kind", "u1")])


def _model(file: _Reader) -> FastTextModel:
    arguments = _arguments(file)
    size, known, labels, _, pruned = file.take(HEADER, 1)[0].item()
    words, about = file.entries(size)
    if known < 0 or labels < 1 or about["kind"].tobytes() != bytes(known) + b"\1" * labels:
        raise BrokenModelError("no classifier: its words and labels are not in order")
    index = file.take("<i4", 2 * pruned).reshape(-1, 2) if pruned >= 0 else None
    is_quantised = bool(file.take("u1", 1)[0])
    rows, norms = _quantised(file) if is_quantised else (_dense(file), None)
    if norms is not None:
        rows *= norms[:, None]
    is_quantised &= bool(file.take("u1", 1)[0])
    outputs, scales = _quantised(file) if is_quantised else (_dense(file).copy(), np.ones(labels, np.float32))
    names = tuple(word.decode("utf-8", "replace") for word in words[known:])
    counts = tuple(about["count"][known:].tolist())
    made = FastTextModel(words, names, counts, arguments, index, rows, outputs, scales)
    _check_tables(made)
    _check_ngrams(made, is_pruned=index is not None, is_quantised=norms is not None)
    return made


def _arguments(file: _Reader) -> dict[str, int]:
    magic, version = file.take("<i4", 2).tolist()
    if magic != MAGIC:
        raise BrokenModelError("not a fastText model")
    if version > VERSION:
        raise BrokenModelError(f"format {version} of fastText, newer than {VERSION}")
    said: dict[str, int] = dict(zip(ARGUMENTS, file.take("<i4", len(ARGUMENTS)).tolist(), strict=True))
    file.take("<f8", 1)
    if said["model"] != SUPERVISED or said["loss"] not in LOSSES:
        raise BrokenModelError("word vectors, no classifier")
    if version == 11:  # classifiers had no n-grams of letters then
        said["maxn"] = 0
    said["minn"] = max(said["minn"], 1)
    return said


def _dense(file: _Reader) -> Floats:
    rows, width = file.take("<i8", 2).tolist()
    _check_width(rows, width)
    return file.take("<f4", rows * width).reshape(rows, width)


def _quantised(file: _Reader) -> tuple[Floats, Floats]:
    """Rows before they are scaled, and the factor of each."""
    has_norms = bool(file.take("u1", 1)[0])
    rows, width = file.take("<i8", 2).tolist()
    size = int(file.take("<i4", 1)[0])
    _check_width(rows, width)
    codes = file.take("u1", size)
    centroids = _centroids(file, width)
    if size != rows * len(centroids):
        raise BrokenModelError("damaged: another number of codes than rows need")
    if rows * width * 4 > LARGEST_TABLE:
        raise BrokenModelError("needs over 2 GiB in each worker where its .bin is shared")
    codes = codes.reshape(rows, len(centroids))
    table = np.empty((rows, width), np.float32)
    at = 0
    for i, found in enumerate(centroids):
        table[:, at : at + found.shape[1]] = found[codes[:, i]]
        at += found.shape[1]
    if not has_norms:
        return table, np.ones(rows, np.float32)
    norms = file.take("u1", rows)
    return table, _centroids(file, 1)[0][norms, 0]


def _centroids(file: _Reader, width: int) -> list[Floats]:
    """Of each part of a row: 256 × columns of the part; all parts have as many but the last."""
    dim, parts, columns, last = file.take("<i4", 4).tolist()
    if dim != width or columns < 1 or parts != -(-dim // columns) or last != dim - (parts - 1) * columns:
        raise BrokenModelError("damaged: its quantiser is of another width")
    values = file.take("<f4", dim * CENTROIDS)
    edge = (parts - 1) * columns * CENTROIDS
    whole = values[:edge].reshape(parts - 1, CENTROIDS, columns)
    return [*whole, values[edge:].reshape(CENTROIDS, last)]


def _check_width(rows: int, width: int) -> None:
    if rows < 1 or not 1 <= width < 2**20:
        raise BrokenModelError("damaged: a table without rows or columns")


def _check_tables(made: FastTextModel) -> None:
    """Refuse tables of other shapes than the rest of the file needs."""
    dim = made.arguments["dim"]
    if made.outputs.shape != (len(made.labels), dim) or made.rows.shape[1] != dim:
        raise BrokenModelError("damaged: its tables have other shapes than its labels")
    if min(made.counts) < 0 or sum(made.counts) >= ENDLESS:
        raise BrokenModelError("damaged: counts of labels that cannot be")
    if b"</s>" in made.words and made.words.index(b"</s>") >= made.known:
        raise BrokenModelError("damaged: its end of line is a label")


def _check_ngrams(made: FastTextModel, is_pruned: bool, is_quantised: bool) -> None:
    """Refuse n-grams whose rows would lie beyond the table."""
    said = made.arguments
    has_ngrams = said["maxn"] > 0 or said["word_ngrams"] > 1
    if is_pruned and not is_quantised:
        raise BrokenModelError("pruned but not quantised, which fastText refuses too")
    if said["maxn"] > LONGEST_NGRAM or said["bucket"] < has_ngrams or (is_pruned and said["bucket"] > LARGEST_INDEX):
        raise BrokenModelError("damaged: n-grams that cannot be")
    kept = np.empty(0, np.int32) if made.pruned is None else made.pruned[:, 1]
    ngrams = int(kept.max(initial=-1)) + 1 if is_pruned else said["bucket"] * has_ngrams
    if len(made.rows) < made.known + ngrams or kept.min(initial=0) < 0:
        raise BrokenModelError("damaged: fewer rows than words and n-grams")
