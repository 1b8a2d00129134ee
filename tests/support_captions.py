"""Captions with planted near duplicates, made from a seed: as many as a benchmark asks for, 30 µs each."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

WORDS, MOST = 60_000, 20
"""Words that there are, and most of a caption."""


def captions(rows: int) -> Iterator[list[str]]:
    """Captions, 100,000 at a time; copies are of captions before them."""
    rng = np.random.default_rng(0)
    known = vocabulary(rng)
    shares = np.cumsum(1 / np.arange(1, WORDS + 1) ** 1.05)
    words, sizes = np.zeros((rows, MOST), np.uint16), np.zeros(rows, np.uint8)
    original = np.arange(rows, dtype=np.int32)
    for first in range(0, rows, 100_000):
        own = slice(first, min(first + 100_000, rows))
        count = own.stop - first
        words[own] = np.searchsorted(shares / shares[-1], rng.random((count, MOST)))
        sizes[own] = rng.integers(10, MOST + 1, count)
        kinds = np.where(rng.random(count) < 0.2, rng.choice(6, count, p=[0.2, 0.1, 0.3, 0.2, 0.1, 0.1]), -1)
        for row in np.flatnonzero(kinds >= 0) + first:
            # the earlier the source, the more copies it has
            source = original[row] = original[int(row * rng.random() ** 3)]
            kind, size = kinds[row - first], sizes[source]
            words[row], sizes[row] = words[source], size
            for _ in range(kind - 1 if 2 <= kind <= 4 else 0):
                edit(rng, words[row], sizes[row : row + 1], int(np.searchsorted(shares / shares[-1], rng.random())))
            if kind == 5:
                sizes[row] = max(6, int(size) - int(rng.integers(1, 5)))
        texts = [
            " ".join(known[i] for i in w[:n]) for w, n in zip(words[own].tolist(), sizes[own].tolist(), strict=True)
        ]
        yield [f"{text.title()}." if kind == 1 else text for text, kind in zip(texts, kinds.tolist(), strict=True)]


def edit(rng: np.random.Generator, words: npt.NDArray[np.uint16], size: npt.NDArray[np.uint8], new: int) -> None:
    """Exchange a word, leave one out, or put one in."""
    place, kind = int(rng.integers(size[0])), rng.integers(3)
    if kind == 0:
        words[place] = new
    elif kind == 1 and size[0] > 6:
        words[place:-1] = words[place + 1 :]
        size[0] -= 1
    elif size[0] < MOST:
        words[place + 1 :] = words[place:-1].copy()
        words[place] = new
        size[0] += 1


def vocabulary(rng: np.random.Generator) -> list[str]:
    """Distinct words; one of fifty has an accent, one of a hundred is Chinese."""
    letters, found = np.array(list("etaoinshrdlucmfwypvbgk")), dict[str, None]()
    while len(found) < WORDS:
        word = "".join(rng.choice(letters, rng.integers(2, 9)))
        kind = rng.random()
        word = word + "é" if kind < 0.02 else word
        found[
            "".join(chr(0x4E00 + 200 * i + ord(c)) for i, c in enumerate(word[:2])) + word[2:3] if kind > 0.99 else word
        ] = None
    return list(found)
