"""A fastText classifier over Arrow strings: what ``predict`` of the library says, without its cost per call.

Made for language identification (lid.176): about 2 µs a caption of 50 characters, a fifth of the library's.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pairsieve.filters._fasttext_file import ENDLESS, FastTextModel, read_model
from pairsieve.filters._texts import frozen, text_buffers

PREFIX = "__label__"
"""fastText's default prefix of labels."""


@dataclass(frozen=True)
class FastText:
    """A classifier, laid out for the kernel.  Labels are without their prefix.

    The tables are read-only, as the kernel's signature has them: numba takes long over any other type.
    """

    labels: tuple[str, ...]
    tables: tuple[npt.NDArray[Any], ...]

    @classmethod
    def load(cls, path: str | Path) -> "FastText":
        """Of a ``.bin`` or ``.ftz`` file; raises ``UserError`` with one line where it is none."""
        model = read_model(path)
        return cls(_names(model), tuple(map(frozen, _tables(model))))

    def predict(self, texts: pa.Array) -> tuple[pa.Array, pa.Array]:
        """The best label (string) and its probability (float32) of each text; newlines are spaces.

        ``texts`` is a ``string`` or ``large_string`` array, sliced or not; a null is like an empty text.
        Where no part of a text has a row in the model, the label is null and the probability 0.
        """
        from pairsieve.filters._fasttext_kernel import predict

        data, offsets = text_buffers(texts)
        labels, probabilities = np.empty(len(texts), np.int32), np.empty(len(texts), np.float32)
        arguments: tuple[npt.NDArray[Any], ...] = data, offsets, *self.tables, labels, probabilities
        predict(*arguments)
        named = pa.array(self.labels, pa.string()).take(pa.array(labels, mask=labels < 0))
        return named, pa.array(probabilities)


def languages(path: str | Path) -> tuple[str, ...]:
    """The labels that a model may say, without their prefix; raises as ``FastText.load``."""
    return _names(read_model(path))


def _names(model: FastTextModel) -> tuple[str, ...]:
    return tuple(label.removeprefix(PREFIX) for label in model.labels)


def _tables(model: FastTextModel) -> tuple[npt.NDArray[Any], ...]:
    """The model's arguments of the kernel, in its order."""
    from pairsieve.filters._fasttext_kernel import HS, fill

    words = np.frombuffer(b"".join(model.words) or b"\0", np.uint8)
    starts = np.concatenate([[0], np.cumsum([len(word) for word in model.words])]).astype(np.int64)
    slots = np.zeros(2 << max(len(model.words), 1).bit_length(), np.uint64)
    fill(words, starts, slots)
    index, rows = _index(model)
    is_tree = model.arguments["loss"] == HS
    tree = _tree(model.counts) if is_tree else np.empty((0, 2), np.int32)
    outputs = model.outputs if is_tree else np.ascontiguousarray(model.outputs.T)
    return _shape(model), words, starts, slots, index, rows, outputs, model.scales, tree, _sigmoid()


def _shape(model: FastTextModel) -> npt.NDArray[np.int64]:
    said = model.arguments
    places = [i for i, word in enumerate(model.words) if word == b"</s>"]
    numbers = [said[name] for name in ("minn", "maxn", "word_ngrams", "loss")]
    return np.array([model.known, places[-1] if places else -1, max(said["bucket"], 1), *numbers], np.int64)


def _index(model: FastTextModel) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]]:
    """Buckets with rows as bits, 32 of them beside the number of those before, and the rows in that order."""
    if model.pruned is None:
        return np.empty(0, np.uint64), model.rows
    known, bucket = model.known, model.arguments["bucket"]
    where = {key: row for key, row in model.pruned.tolist() if 0 <= key < bucket}
    keys = np.array(sorted(where), np.int64)
    bits = np.zeros((bucket // 32 + 1) * 32, np.uint8)
    bits[keys] = 1
    packed = np.packbits(bits, bitorder="little").view("<u4").astype(np.uint64)
    counts = bits.reshape(-1, 32).sum(1, dtype=np.uint64)
    order = [known + where[key] for key in keys.tolist()]
    rows = model.rows[np.concatenate([np.arange(known), np.array(order, np.int64)])]
    return packed | (np.cumsum(counts) - counts) << np.uint64(32), rows


def _sigmoid() -> npt.NDArray[np.float32]:
    """fastText's table of 513 values from -8 to 8 (loss.cc)."""
    x = np.arange(513, dtype=np.float32) * np.float32(2 * 8) / np.float32(512) - np.float32(8)
    found: npt.NDArray[np.float32] = (1.0 / (1.0 + np.exp(-x).astype(np.float64))).astype(np.float32)
    return found


def _tree(counts: tuple[int, ...]) -> npt.NDArray[np.int32]:
    """Left and right child of each node (-1: a leaf), built as fastText builds its Huffman tree (loss.cc)."""
    size = len(counts)
    weights = [*counts, *[ENDLESS] * (size - 1)]
    children = np.full((2 * size - 1, 2), -1, np.int32)
    leaf, node = size - 1, size
    for i in range(size, 2 * size - 1):
        for side in (0, 1):
            if leaf >= 0 and weights[leaf] < weights[node]:
                children[i, side], leaf = leaf, leaf - 1
            else:
                children[i, side], node = node, node + 1
        weights[i] = sum(weights[child] for child in children[i])
    return children
