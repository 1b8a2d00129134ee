"""Which texts of a pair stay: its own and those of other columns, weighed against each other, for many pairs at once.

Candidates lie pair by pair, in each in the order of the columns and of their lists.  Arrow and numpy throughout: 0.3 to
0.8 µs a text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pairsieve.filters._text_lists import flat, lengths

OWN = "text"
"""The column of a pair's own text."""
JOINED = "joined"
"""Source of a text that was put together of others, and why these go."""

Rule = Literal["each", "best", "first", "join"]
REASONS = ("", "no_text", "same_text", "no_score", "below_min", "below_top", "not_listed", "not_first", "not_best")
"""By code; 0 stays.  Of several the smallest code is told."""
NO_TEXT, SAME_TEXT, NO_SCORE, BELOW_MIN, BELOW_TOP, NOT_LISTED, NOT_FIRST, NOT_BEST = range(1, 9)

Codes = NDArray[np.int8]


@dataclass(frozen=True)
class Limits:
    """What a text's score must reach: ``min`` at least, ``above`` more than, ``top`` a settled threshold at least.

    With any of them, or ``is_needed``, a text needs one.
    """

    min: float | None = None
    above: float | None = None
    top: float | None = None
    is_needed: bool = False

    def codes(self, scores: pa.Array) -> Codes:
        """0, or why not; bounds are compared in the scores' own type."""
        kind = np.float32 if scores.type == pa.float32() else np.float64
        values = _floats(scores).astype(kind)
        found = np.zeros(len(values), np.int8)
        if self.top is not None:
            found[values < kind(self.top)] = BELOW_TOP
        if self.min is not None:
            found[values < kind(self.min)] = BELOW_MIN
        if self.above is not None:
            found[values <= kind(self.above)] = BELOW_MIN
        if self != Limits():
            found[np.isnan(values)] = NO_SCORE
        return found


@dataclass(frozen=True)
class Candidates:
    """Texts of some pairs: string[m]; owner, column and code of each; float64[m] scores, NaN where there is none."""

    pairs: int
    names: tuple[str, ...]
    texts: pa.Array
    owners: NDArray[np.int64]
    columns: NDArray[np.int64]
    scores: NDArray[np.float64]
    codes: Codes

    def sources(self) -> pa.Array:
        """The column that each comes from."""
        return pa.array(self.names, pa.string()).take(pa.array(self.columns))

    def reasons(self) -> pa.Array:
        """Why each goes, null where it stays."""
        return pa.array(REASONS, pa.string()).take(pa.array(self.codes, mask=self.codes == 0))

    def float_scores(self) -> pa.Array:
        """float32, null where there is none."""
        with np.errstate(over="ignore"):  # beyond float32 it is infinite
            return pa.array(self.scores.astype(np.float32), mask=np.isnan(self.scores))


def candidates(pairs: pa.RecordBatch, texts: Sequence[str], scores: Mapping[str, str], limits: Limits) -> Candidates:
    """All texts of the pairs with what is wrong with each by itself.

    A list of scores that is not as long as that of texts scores none of them.  Null elements of lists are no texts: why
    a model gave none is in its own columns.  A null text of the pair's own is one that is missing.
    """
    parts = [_of_column(pairs, i, name, scores.get(name), limits) for i, name in enumerate(texts)]
    texts_, owners, numbers, values, codes = zip(*parts, strict=True)
    order = np.argsort(np.concatenate(owners), kind="stable")
    found = Candidates(
        pairs.num_rows,
        tuple(texts),
        pa.concat_arrays(texts_).take(pa.array(order)),
        np.concatenate(owners)[order],
        np.concatenate(numbers)[order],
        np.concatenate(values)[order],
        np.concatenate(codes)[order],
    )
    _mark_repeats(found)
    return found


def _of_column(
    pairs: pa.RecordBatch, number: int, name: str, scores: str | None, limits: Limits
) -> tuple[pa.Array, NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], Codes]:
    texts, owners = flat(pairs[name])
    values, is_odd = _aligned(pairs, name, scores, len(texts))
    codes = limits.codes(values)
    codes[is_odd] = NO_SCORE
    empty = np.asarray(pc.equal(pc.utf8_trim_whitespace(texts), "").fill_null(True).to_numpy(zero_copy_only=False))
    codes[empty] = NO_TEXT
    kept = np.flatnonzero(texts.is_valid().to_numpy(zero_copy_only=False)) if name != OWN else np.arange(len(texts))
    take = pa.array(kept)
    return texts.take(take), owners[kept], np.full(len(kept), number), _floats(values)[kept], codes[kept]


def _aligned(pairs: pa.RecordBatch, name: str, scores: str | None, count: int) -> tuple[pa.Array, NDArray[np.bool_]]:
    """A score for each text of a column, null where the list of scores is, and whether that list fits no texts."""
    none = np.zeros(count, bool)
    if scores is None:
        return pa.nulls(count, pa.float32()), none
    values, wanted = pairs[scores], lengths(pairs[name])
    if not pa.types.is_list(values.type) and not pa.types.is_large_list(values.type):
        return pc.take(values, pa.array(np.repeat(np.arange(len(values)), wanted))), none
    is_missing = values.is_null().to_numpy(zero_copy_only=False)
    given = lengths(values)
    is_odd = (given != wanted) & ~is_missing
    fits = ~is_missing & ~is_odd
    starts = np.cumsum(given) - given
    ranks = np.arange(count) - np.repeat(np.cumsum(wanted) - wanted, wanted)
    place = np.where(np.repeat(fits, wanted), np.repeat(starts, wanted) + ranks, 0)
    return values.flatten().take(pa.array(place, mask=~np.repeat(fits, wanted))), np.repeat(is_odd, wanted)


def _floats(values: pa.Array) -> NDArray[np.float64]:
    """With NaN for null; widening is exact."""
    return np.asarray(values.cast(pa.float64()).fill_null(float("nan")).to_numpy(zero_copy_only=False), np.float64)


def _mark_repeats(found: Candidates) -> None:
    """Of equal texts of a pair that pass by themselves only the first does."""
    words = np.asarray(found.texts.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)
    passing = np.flatnonzero(found.codes == 0)
    order = passing[np.lexsort((words[passing], found.owners[passing]))]  # stable: the first of equals stays first
    owners, words = found.owners[order], words[order]
    found.codes[order[1:][(owners[1:] == owners[:-1]) & (words[1:] == words[:-1])]] = SAME_TEXT


def shortlist(found: Candidates, by: Candidates, most: int) -> None:
    """Leave the best few of each pair by other scores: those of the same texts in ``by``."""
    passing = np.flatnonzero(found.codes == 0)
    found.codes[passing[_rank(by, passing) >= most]] = NOT_LISTED


def decide(found: Candidates, rule: Rule, most: int | None) -> None:
    """Settle which of the texts stay, by what the others of the pair are."""
    if rule == "first":
        passing = np.flatnonzero(found.codes == 0)
        first = np.full(found.pairs, len(found.names))
        np.minimum.at(first, found.owners[passing], found.columns[passing])
        found.codes[passing[found.columns[passing] > first[found.owners[passing]]]] = NOT_FIRST
    if most is not None:
        passing = np.flatnonzero(found.codes == 0)
        found.codes[passing[_rank(found, passing) >= most]] = NOT_BEST


def _rank(found: Candidates, some: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of each among its pair's, the best score first, the earlier of equals, those without a score last."""
    worse = np.nan_to_num(-found.scores[some], nan=np.inf)
    order = np.lexsort((worse, found.owners[some]))
    owners = found.owners[some][order]
    rank = np.empty(len(some), np.int64)
    rank[order] = np.arange(len(some)) - np.searchsorted(owners, owners)
    return rank


def own_reasons(found: Candidates) -> pa.Array:
    """Why each pair's own text goes, null where it stays; ``not_chosen`` where it was none of the candidates."""
    if OWN not in found.names:
        return pa.repeat(pa.scalar("not_chosen"), found.pairs)
    return found.reasons().filter(pa.array(found.columns == found.names.index(OWN)))


def others(found: Candidates) -> NDArray[np.int64]:
    """Places of the texts that are not the pair's own."""
    if OWN not in found.names:
        return np.arange(len(found.codes))
    return np.flatnonzero(found.columns != found.names.index(OWN))


def listed(found: Candidates, some: NDArray[np.int64], fields: Mapping[str, pa.Array], kind: pa.DataType) -> pa.Array:
    """A list for each pair of some of its texts, given the fields of all texts by name; ``kind`` lists structs."""
    take = pa.array(some)
    wanted = list(kind.value_type)
    arrays = [fields[field.name].take(take) for field in wanted]
    counts = np.bincount(found.owners[some], minlength=found.pairs)
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.StructArray.from_arrays(arrays, fields=wanted)).cast(kind)


def join(found: Candidates, separator: str) -> tuple[pa.Array, NDArray[np.int64]]:
    """The texts that stay put together, string[pairs], null where none does; and how many they are."""
    passing = np.flatnonzero(found.codes == 0)
    counts = np.bincount(found.owners[passing], minlength=found.pairs)
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(ends), found.texts.take(pa.array(passing)))
    whole = pc.binary_join(lists, separator)
    return pc.if_else(pa.array(counts > 0), whole, pa.scalar(None, pa.string())), counts
