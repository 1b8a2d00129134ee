"""What one pass over a batch of match lists gives the balance: counts, sizes, draws.  Imports numba."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.filters import _balance_kernels as kernels
from pairsieve.filters._balance_lists import Texts
from pairsieve.filters._balance_summary import MOST_ENTRIES, Drawn, Seen, Sizes, Tally
from pairsieve.schemas import uid

Settled = Mapping[str, Any]
Floats = NDArray[np.float64]


class Chances(NamedTuple):
    """Of each pair: ``probability`` π, the mean of its texts; ``draw`` in [0, 1); the place of the text that was
    chosen, and that text's π, which the draw is compared with.  ``is_null``: the pair has no text.
    """

    probability: Floats
    draw: Floats
    choice: NDArray[np.int32]
    chance: Floats
    is_null: NDArray[np.bool_]


def seen(texts: Texts) -> Seen:
    """Count; ids that will be refused are not counted."""
    is_matched = texts.ends > texts.starts
    owner = np.repeat(np.arange(len(texts.rows) - 1), np.diff(texts.rows))
    pairs = int((np.bincount(owner[is_matched]) > 0).sum())
    is_good = texts.least >= 0 and texts.most < MOST_ENTRIES
    counts = tally(texts) if is_good else Tally(np.zeros(0, np.int64))
    return Seen(len(texts.rows) - 1, pairs, len(is_matched), int(is_matched.sum()), texts.least, texts.most, counts)


def tally(texts: Texts) -> Tally:
    """How many of the texts match each entry; memory for the ids that occur where these are few."""
    if (sizes := texts.ends - texts.starts).sum() * 16 < texts.most:
        at = np.arange(int(sizes.sum())) + np.repeat(texts.starts - (np.cumsum(sizes) - sizes), sizes)
        ids, counts = np.unique(texts.ids[at], return_counts=True)
        return Tally(counts, ids.astype(np.int64))
    counts = np.zeros(texts.most + 1, np.int64)
    kernels.count(texts.starts, texts.ends, texts.ids, counts)
    return Tally.of(counts)


def sizes(texts: Texts, settled: Settled) -> Sizes:
    """Σπ for each candidate t."""
    totals = np.zeros(len(settled["candidates"]), np.int64)
    places = texts.rows, texts.starts, texts.ends, texts.ids
    kernels.sizes(*places, settled["counts"], _codes(settled), settled["candidate_ts"], totals)
    return Sizes(tuple(totals.tolist()))


def chances(uids: pa.Array, texts: Texts, settled: Settled, seed: int) -> Chances:
    """Probabilities and draws for the chosen t; of several texts one is chosen by a further hash."""
    of_texts, of_rows = np.zeros(len(texts.starts)), np.zeros(len(texts.rows) - 1)
    ts = settled["ts"].astype(np.float64)
    places = texts.starts, texts.ends, texts.ids
    kernels.probabilities(*places, settled["counts"], _codes(settled), ts, of_texts)
    kernels.means(texts.rows, of_texts, of_rows)
    hashes, many = uid.keyed_hash(uids, seed), np.diff(texts.rows)
    if not len(of_texts) or (many.max() == 1 and not texts.place.any()):
        return Chances(of_rows, uid.fractions(hashes), np.zeros(len(many), np.int32), of_rows, many == 0)
    other = uid.fractions(uid.copy_hash(hashes, np.ones(len(many), np.int64)))
    choice = np.minimum((other * many).astype(np.int64), np.maximum(many - 1, 0))
    chosen = np.minimum(texts.rows[:-1] + choice, len(of_texts) - 1)  # a pair without texts has no choice
    place = texts.place[chosen].astype(np.int32)
    return Chances(of_rows, uid.fractions(hashes), place, np.where(many > 0, of_texts[chosen], 0.0), many == 0)


def drawn(texts: Texts, found: Chances, online: bool) -> Drawn:
    """The expected size, its variance, and which pairs and entries stay."""
    stays = found.probability > 0 if online else found.draw < found.chance
    stay_texts = np.repeat(stays, np.diff(texts.rows))
    expected, variance = kernels.moments(found.probability)
    kept = texts._replace(starts=texts.starts[stay_texts], ends=texts.ends[stay_texts])
    return Drawn(int(expected), int(variance), int(stays.sum()), tally(kept))


def _codes(settled: Settled) -> NDArray[np.int32]:
    return np.asarray(settled.get("language_codes", np.zeros(0)), np.int32)
