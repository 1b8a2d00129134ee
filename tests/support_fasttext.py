"""Model files as fastText writes them, made up: any loss, pruned or not, quantised or not."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

HS, NS, SOFTMAX, OVA = 1, 2, 3, 4
PARTS = 2
"""Columns of a part of a quantised row."""


@dataclass(frozen=True)
class Made:
    """A model of random numbers: what it knows, and how its file is laid out."""

    words: Sequence[str] = ("</s>", "the", "dog", "été", "漢字", "__label__x", "<b>")
    labels: Sequence[str] = ("__label__en", "__label__de", "__label__fr", "__label__ja", "other")
    counts: Sequence[int] = (900, 300, 200, 20, 20)
    loss: int = HS
    dim: int = 16
    bucket: int = 1000
    minn: int = 2
    maxn: int = 4
    word_ngrams: int = 1
    version: int = 12
    model: int = 3
    quantised: bool = False
    quantised_output: bool = False
    norms: bool = True
    kept: Sequence[int] | None = None
    seed: int = 0
    spread: float = 1.0

    def write(self, path: Path) -> Path:
        """The file."""
        random = np.random.default_rng(self.seed)
        rows = len(self.words) + (self.bucket if self.kept is None else len(self.kept))
        with path.open("wb") as file:
            file.write(self._head())
            for size in (rows, len(self.labels)):
                quantised = self.quantised and (size == rows or self.quantised_output)
                file.write(bytes([quantised]))
                file.write(self._quantised(random, size) if quantised else self._dense(random, size))
        return path

    def _head(self) -> bytes:
        numbers = [
            self.dim,
            5,
            5,
            1,
            5,
            self.word_ngrams,
            self.loss,
            self.model,
            self.bucket,
            self.minn,
            self.maxn,
            100,
        ]
        head = np.array([793712314, self.version, *numbers], "<i4").tobytes() + np.array([1e-4], "<f8").tobytes()
        sizes = [len(self.words) + len(self.labels), len(self.words), len(self.labels)]
        head += np.array(sizes, "<i4").tobytes()
        head += np.array([10**6, -1 if self.kept is None else len(self.kept)], "<i8").tobytes()
        head += b"".join(_entry(word, 100, 0) for word in self.words)
        head += b"".join(_entry(label, count, 1) for label, count in zip(self.labels, self.counts, strict=True))
        pairs = [number for row, key in enumerate(self.kept or ()) for number in (key, row)]
        return head + np.array(pairs, "<i4").tobytes()

    def _dense(self, random: np.random.Generator, rows: int) -> bytes:
        table = random.standard_normal((rows, self.dim), np.float32) * np.float32(self.spread)
        return np.array([rows, self.dim], "<i8").tobytes() + table.tobytes()

    def _quantised(self, random: np.random.Generator, rows: int) -> bytes:
        codes = random.integers(0, 256, rows * -(-self.dim // PARTS), np.uint8)
        head = (
            bytes([self.norms]) + np.array([rows, self.dim], "<i8").tobytes() + np.array([codes.size], "<i4").tobytes()
        )
        found = head + codes.tobytes() + self._quantiser(random, self.dim, PARTS)
        if self.norms:
            found += random.integers(0, 256, rows, np.uint8).tobytes() + self._quantiser(random, 1, 1)
        return found

    def _quantiser(self, random: np.random.Generator, dim: int, columns: int) -> bytes:
        parts = -(-dim // columns)
        head = np.array([dim, parts, columns, dim - (parts - 1) * columns], "<i4").tobytes()
        centroids: npt.NDArray[np.float32] = random.standard_normal(dim * 256, np.float32) * np.float32(self.spread)
        return head + centroids.tobytes()


def _entry(word: str, count: int, kind: int) -> bytes:
    return word.encode() + b"\0" + struct.pack("<qB", count, kind)
