"""Entities in a million captions: CPU-seconds to open and a caption, and DataComp's rule with nltk on some of them.

    python -m tests.benchmarks.text_entities [captions]

Words are drawn by Zipf's law (exponent 1) from 400,000: lemmas, inflected, capitalised, with punctuation,
and, one in five, characters at random.  Captions have 7.4 of them on average.  Needs wordnet-base.
"""

import os
import random
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from pairsieve.filters import _wordnet
from pairsieve.filters.text_entities import TextEntities, read_ids
from tests.support_wordnet import nltk_reader

WORDS = 400_000
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789-"


def cpu() -> float:
    """CPU-seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def words() -> list[str]:
    """A vocabulary, the commonest first."""
    chance, first = random.Random(0), _wordnet.WordNet.load(_wordnet.find(None)).first
    lemmas = sorted({lemma for lemmas in first.values() for lemma in lemmas if "_" not in lemma})
    found = chance.choices(lemmas, k=WORDS)
    for i, word in enumerate(found):
        kind = chance.random()
        if kind < 0.3:
            found[i] = word + chance.choice(("s", "ing", "ed", "es"))
        elif kind < 0.5:
            found[i] = word.capitalize()
        elif kind < 0.6:
            found[i] = word + chance.choice(",.!:")
        elif kind < 0.8:
            found[i] = "".join(chance.choices(LETTERS, k=chance.randint(3, 10)))
    return found


def captions(count: int) -> list[str]:
    """Captions of words by Zipf's law."""
    chance, vocabulary = np.random.default_rng(0), np.array(words(), object)
    share = np.cumsum(1 / np.arange(1, WORDS + 1))
    ends = np.cumsum(chance.poisson(6.4, count) + 1)
    drawn = vocabulary[np.searchsorted(share / share[-1], chance.random(ends[-1]))]
    return [" ".join(part) for part in np.split(drawn, ends[:-1])]


def by_nltk(texts: list[str]) -> float:
    """CPU-seconds of the rule as DataComp writes it (but with a set of ids)."""
    with tempfile.TemporaryDirectory() as folder:
        reader, ids = nltk_reader(Path(folder)), read_ids("imagenet21k")
        before = cpu()
        for text in texts:
            any(found[0].offset() in ids for word in text.split() if (found := reader.synsets(word)))
        return cpu() - before


def main(count: int) -> None:
    """Open once, count five times."""
    before = cpu()
    made = TextEntities()
    made.open()
    opened = cpu() - before
    texts = captions(count)
    pairs = pa.record_batch({"text": pa.array(texts)})
    made.score(pairs.slice(0, 1))  # loads what numba has compiled
    spent = []
    for _ in range(5):
        before = cpu()
        for start in range(0, count, made.batch_rows):
            made.score(pairs.slice(start, made.batch_rows))
        spent.append((cpu() - before) / count * 1e6)
    print(f"opened in {opened:.2f} CPU-s; a caption: {', '.join(f'{us:.2f}' for us in spent)} µs", flush=True)
    some = texts[:5000]
    print(f"nltk: {by_nltk(some) / len(some) * 1e6:.0f} µs a caption, of {len(some)}; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main(int((sys.argv[1:] or ["1000000"])[0]))
