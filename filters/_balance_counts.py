"""MetaCLIP's balance from counts alone: thresholds, tail shares, sizes.  Milliseconds for 500,000 entries.

Counts are int64[entries]: how many texts match each entry, each text once.  p = t / max(count, t).
Sources: Xu et al., *Demystifying CLIP Data* (ICLR 2024) for t and the tail share; MetaCLIP 2 for a t per language.
Exact sizes need the pairs, as entries occur together; here are a bound, an estimate, and the interpolation
of sizes that a run measured.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


class Shares(NamedTuple):
    """The counts of one language, ready for look-ups.

    ``counts`` int64[n], ascending, without zeros; ``shares`` float64[n]: matches up to and with each, of all.
    """

    counts: Counts
    shares: Floats


class Part(NamedTuple):
    """A part of the entries: its name, how many they are, and their matches."""

    name: str
    entries: int
    matches: int


def shares(counts: Counts) -> Shares:
    """Sort the counts once; entries that match nothing are left out."""
    ordered = np.sort(counts[counts > 0])
    total = ordered.sum()
    return Shares(ordered, np.cumsum(ordered) / total if total else np.zeros(0))


def share_below(of: Shares, t: int) -> float:
    """The tail share: matches of entries with count < t, of all; 0.0 where nothing matches."""
    entries = int(np.searchsorted(of.counts, t))
    return float(of.shares[entries - 1]) if entries else 0.0


def nearest_count(of: Shares, share: float) -> int:
    """The count whose cumulative share is nearest to ``share``; the smaller of two equally near; 1 without matches.

    MetaCLIP 2's rule.  It is not the inverse of :func:`share_below`, where the entry itself does not count:
    for counts 1, 3, 6, 10 the share .15 gives t = 3, whose tail share is .05.  A language with one entry keeps
    all of it.  Zero counts are left out before, so that t is at least 1 (the published code gives NaN there).
    Never falls as ``share`` grows.
    """
    if not len(of.counts):
        return 1
    after = min(int(np.searchsorted(of.shares, share)), len(of.counts) - 1)
    before = max(after - 1, 0)
    is_before = abs(of.shares[before] - share) <= abs(of.shares[after] - share)
    return int(of.counts[before if is_before else after])


def tail_share(counts: Counts, t: int) -> float:
    """Matches of entries with count < t, of all matches; about .06 in the paper."""
    return share_below(shares(counts), t)


def t_for_tail_share(counts: Counts, share: float) -> int:
    """The t of a tail share, by the rule of :func:`nearest_count`."""
    return nearest_count(shares(counts), share)


def by_language(counts: Counts, codes: NDArray[np.int32], languages: int) -> list[Shares]:
    """The shares of each language; ``codes`` int32[entries] from 0 to ``languages`` - 1."""
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], np.arange(languages + 1))
    return [shares(counts[order[ends[i] : ends[i + 1]]]) for i in range(languages)]


def language_ts(of: Sequence[Shares], reference: int, t: int) -> list[int]:
    """MetaCLIP 2's t of each language: the reference keeps ``t``, and its tail share decides for the others.

    Never falls as ``t`` grows.  Raises ``ValueError`` where others match and the reference language nothing,
    as its tail share says nothing then.
    """
    if not len(of[reference].counts) and any(len(one.counts) for one in of):
        raise ValueError("nothing matches an entry of the reference language")
    share = share_below(of[reference], t)
    return [t if i == reference else nearest_count(one, share) for i, one in enumerate(of)]


def probabilities(counts: Counts, t: int | Counts) -> Floats:
    """p of each entry, float64[entries]: t / max(count, t); ``t`` may differ from entry to entry."""
    return np.asarray(t / np.maximum(counts, t), np.float64)


def head_and_tail(counts: Counts, t: int | Counts) -> tuple[Part, ...]:
    """Entries without a match, with at most t, and with more: 22.8 %, 74 % and 3.2 % in the paper."""
    is_zero, is_head = counts == 0, counts > t
    parts = (("zero", is_zero), ("tail", ~is_zero & ~is_head), ("head", is_head))
    return tuple(Part(name, int(mask.sum()), int(counts[mask].sum())) for name, mask in parts)


def most_rows(counts: Counts, t: int | Counts, texts: int | None = None) -> int:
    """A bound of the expected rows: Σ min(count, t), and no more than the matched texts where they are given.

    Loose by a factor of 1.6 in the paper (640 M against 400 M): most texts match several entries.
    """
    bound = int(np.minimum(counts, t).sum())
    return bound if texts is None else min(bound, texts)


def estimated_rows(counts: Counts, t: int | Counts, texts: int) -> float:
    """Estimate of the expected rows from counts and the number of matched texts.

    Model: a text's entries are drawn independently, in proportion to their counts; their number is
    Poisson, at least one, of the mean that the counts give.  So a text is dropped with probability
    G(q), where q is that of an entry drawn at random to miss, G the generating function.  Within 3 % where
    that holds.  Real texts are of more uneven lengths, so that it is too high: by 2 to 24 %, most at the middle of
    the range, on counts as in the paper with log-normal lengths (sigma 1.2).
    """
    matches = int(counts.sum())
    if not texts or not matches:
        return 0.0
    missed = 1.0 - float(counts @ probabilities(counts, t)) / matches
    rate = _poisson_rate(matches / texts)
    return texts * (1.0 - (np.expm1(rate * missed) / np.expm1(rate) if rate else missed))


def _poisson_rate(mean: float) -> float:
    """The rate of a Poisson law whose mean is ``mean`` where zeros are left out; 0 for a mean of 1 or less."""
    if mean <= 1.0:
        return 0.0
    low, high = 0.0, mean
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if middle < mean * -np.expm1(-middle) else (low, middle)
    return high


def rows_at(ts: Counts, rows: Floats, t: float) -> float:
    """Expected rows at any t from measured sizes (both ascending), interpolated; constant beyond the ends.

    Monotone cubic (PCHIP: Fritsch and Carlson 1980, slopes of Fritsch and Butland 1984) through log t, log rows.
    Between the 64 t that a run tries it is within 0.1 % of the exact size.
    """
    logs = np.log(np.maximum(rows, 2.0**-31))  # less is 0 in the sums
    return float(np.exp(_pchip(np.log(ts.astype(np.float64)), logs, float(np.log(t)))))


def t_for_rows(ts: Counts, rows: Floats, target: float) -> int:
    """The smallest t whose interpolated size is at least ``target``; the last t where none is."""
    low, high = int(ts[0]), int(ts[-1])
    if rows[0] >= target or rows[-1] < target:
        return low if rows[0] >= target else high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if rows_at(ts, rows, middle) >= target else (middle, high)
    return high


def _pchip(x: Floats, y: Floats, at: float) -> float:
    """The value of the monotone cubic through the points."""
    if len(x) == 1 or at <= x[0] or at >= x[-1]:
        return float(y[0] if len(x) == 1 or at <= x[0] else y[-1])
    width, rise = np.diff(x), np.diff(y)
    slopes = _slopes(width, rise / width)
    k = int(np.searchsorted(x, at, "right")) - 1
    s = (at - x[k]) / width[k]
    bend = s * (1 - s) * ((1 - s) * (slopes[k] * width[k] - rise[k]) - s * (slopes[k + 1] * width[k] - rise[k]))
    return float(y[k] + s * rise[k] + bend)


def _slopes(width: Floats, steps: Floats) -> Floats:
    """Slopes at the points: weighted harmonic means of the steps beside them; at the ends that of the only step.

    All steps rise or are level, as sizes do; a level step makes both its slopes 0.
    """
    one, two = 2 * width[1:] + width[:-1], width[1:] + 2 * width[:-1]
    before, after = steps[:-1], steps[1:]
    divisor = one * after + two * before
    inner = np.divide((one + two) * before * after, divisor, out=np.zeros_like(divisor), where=divisor > 0)
    return np.concatenate([steps[:1], inner, steps[-1:]])
