"""Near duplicates of captions, the plain way: shingles, datasketch's signatures, Jaccard, clusters, captions."""

import hashlib
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import datasketch
import numpy as np
import pyarrow as pa
import xxhash
from hypothesis import strategies as st

from pairsieve.filters._normal_text import normal
from pairsieve.filters.base import NearFilter

HASHES: dict[str, Callable[[bytes], int]] = {
    "xxh32": xxhash.xxh32_intdigest,
    "sha1": lambda data: int.from_bytes(hashlib.sha1(data).digest()[:4], "little"),
}
ALPHABET = "aabbcd  é猫,A\u0301\u00ad\ufb01😀ß"
"""Few letters, so that captions repeat; a mark, an invisible one, a ligature and what folds to two."""
TEXTS = st.one_of(st.text(ALPHABET, max_size=30), st.text(max_size=40), st.text(ALPHABET, min_size=250, max_size=400))


def shingles(text: str, unit: str, n: int) -> list[str]:
    """The shingles of a normal text, in their order."""
    parts, glue = (text.split(), " ") if unit == "words" else (list(text), "")
    return [glue.join(parts[i : i + n]) for i in range(max(1, len(parts) - n + 1))] if parts else []


def jaccard(one: str, other: str, unit: str, n: int) -> float:
    """Jaccard similarity of two captions' shingles, once normal; 0 where one has none."""
    a, b = (set(shingles(normal(text), unit, n)) for text in (one, other))
    return len(a & b) / len(a | b) if a and b else 0.0


def signature(text: str, unit: str, n: int, num_perm: int, hash: str, seed: int = 1) -> datasketch.MinHash:
    """datasketch's MinHash of a normal text."""
    made = datasketch.MinHash(num_perm=num_perm, hashfunc=HASHES[hash], seed=seed)
    made.update_batch([shingle.encode() for shingle in shingles(text, unit, n)])
    return made


def clusters(made: NearFilter, texts: Sequence[str | None]) -> list[int]:
    """The row that each row's cluster keeps, the first of them: stars, questions and union-find, round by round."""
    pairs = pa.record_batch({"text": pa.array(texts, pa.string())})
    scored = made.score(pairs)
    table = pa.record_batch({"text": pairs["text"], **scored}).select(list(made.compared({})))
    keys = scored[made.key_column].to_pylist()
    parent = list(range(len(texts)))

    def root(row: int) -> int:
        while parent[row] != row:
            row = parent[row]
        return row

    while True:
        links = sorted({link for link in _stars(keys, parent) if root(link[0]) != root(link[1])})
        one, other = (table.take(pa.array([link[end] for link in links], pa.int64())) for end in (0, 1))
        found = made.alike(one, other).nonzero()[0].tolist()
        for best, row in (links[i] for i in found):
            first, last = sorted((root(best), root(row)))
            parent[last] = first
        if not found:
            return [root(row) for row in range(len(texts))]


def _stars(keys: list[list[int] | None], parent: list[int]) -> list[tuple[int, int]]:
    """Each root, and the best root that has a key of its."""
    best: dict[int, int] = {}
    having = ((row, key) for row, own in enumerate(keys) if parent[row] == row for key in own or [])
    return [(best[key], row) for row, key in having if best.setdefault(key, row) != row]


def captions(count: int, seed: int = 0, share: float = 0.3, words: int = 4000) -> list[str]:
    """Captions of 10 to 20 words with Zipf's frequencies; a share are edits of earlier ones."""
    draw = random.Random(seed)
    known = ["".join(draw.choices("etaoinshrdlucmfwyp", k=draw.randrange(2, 10))) for _ in range(words)]
    edges = np.cumsum(1 / np.arange(1, words + 1) ** 1.05).tolist()
    made: list[list[str]] = []
    for _ in range(count):
        if made and draw.random() < share:
            text = _edited(draw, list(draw.choice(made)), known)
        else:
            text = draw.choices(known, cum_weights=edges, k=draw.randrange(10, 21))
        made.append(text)
    return [" ".join(text) for text in made]


def _edited(draw: random.Random, text: list[str], known: list[str]) -> list[str]:
    """Nothing, case and a mark, one to three other words, or the end cut off."""
    kind = draw.randrange(6)
    if kind == 1:
        text[0] = f"{text[0].title()}!"
    for _ in range(kind - 1 if 2 <= kind < 5 else 0):
        text[draw.randrange(len(text))] = draw.choice(known)
    return text[: -draw.randrange(1, 4)] if kind == 5 else text


def chain(length: int, step: int, words: int) -> list[str]:
    """Captions of which each shares all but ``step`` words with the one before: the ends share none."""
    names = [f"word{i}" for i in range(words + step * length)]
    return [" ".join(names[i : i + words]) for i in range(0, step * length, step)]


def is_sorted(values: Sequence[Any]) -> bool:
    """Whether no value is below the one before."""
    return all(a <= b for a, b in pairwise(values))
