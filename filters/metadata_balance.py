"""MetaCLIP's balanced sampling: texts that match only frequent entries are thinned, the tail stays.

Two passes over the match lists (counts; sizes and draws), two or three more for ``target_rows``, one to derive.
All of it is 1.4 CPU-µs a pair of 5 ids, reading included, the same at 1 M pairs and at 100 M.  A worker holds one
vector of counts, 4 MB for 500,000 entries.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pairsieve.filters import _balance_counts, _balance_solve, _balance_tables, _metadata
from pairsieve.filters._balance_summary import MOST_ENTRIES, UNITS, Drawn, Round, Seen, Tally, check_ids
from pairsieve.filters.base import AnyFilter, PoolFilter, Threshold, UnknownColumnError, first_reason
from pairsieve.filters.metadata_match import MetadataMatch
from pairsieve.schemas import uid
from pairsieve.schemas.errors import UserError

if TYPE_CHECKING:
    from pairsieve.filters._balance_lists import Texts

PROBABILITY, DRAW = "metadata_balance_probability", "metadata_balance_draw"
CAPTION, CAPTION_PROBABILITY = "metadata_balance_caption", "metadata_balance_caption_probability"
Settled = Mapping[str, Any]


class MetadataBalance(PoolFilter):
    """Count the texts of each entry, give entries p = t / max(count, t), and keep a pair by π = 1 - ∏(1 - p).

    The draw is a number in [0, 1) from (seed, uid): a pair stays where it is below π, whatever the shards,
    workers or order, and pairs of a smaller t are among those of a larger one.  The published code draws once
    for each entry, which has the same distribution.  t is no cap: pairs that other entries keep count too.
    Give ``t`` (20,000 for MetaCLIP's 400 M, 170,000 for 2.5 B), or the ``tail_share`` that decides it (.06 in
    the paper), or ``target_rows``: the smallest t whose expected size Σπ, in units of 2^-30 a pair, is at least that.

    Several captions of an image: with ``captions: any`` the image counts once for each entry of any of them and
    is drawn once; with ``captions: one`` each caption counts, one is chosen at random (nulls are no captions) and
    its π decides, as in MetaCLIP 2.  The probability is then the mean over the captions.

    Reasons: ``no_entries``, ``not_drawn``.
    """

    extra = "metaclip"
    shorthand = "t"

    t: Threshold[int | None] = Field(None, ge=1, le=2**53, description="entries of more texts are thinned")
    tail_share: Threshold[float | None] = Field(
        None, ge=0, le=1, description="t is the count up to which entries have this share of all matches"
    )
    target_rows: Threshold[int | None] = Field(None, ge=1, description="the smallest t that keeps these, expected")
    entries: Threshold[str | None] = Field(
        None, description="column of lists of entry ids; default: matched_entries, with captions: one matched_by_text"
    )
    metadata: Threshold[str | None] = Field(
        None, description="metadata file, for the number of entries and the names and languages in tables"
    )
    by_language: Threshold[bool] = Field(
        False, description="a t for each language: t is the reference's, the others have its tail share"
    )
    reference_language: Threshold[str] = Field("en", description="with by_language")
    captions: Threshold[Literal["any", "one"]] = Field(
        "any", description="of an image with several: their entries together, or one of them at random"
    )
    online: Threshold[bool] = Field(
        False, description="keep every pair with an entry; the training loader draws again in every epoch"
    )
    seed: Threshold[int] = Field(0, ge=0, lt=2**63, description="another one draws other pairs")

    @model_validator(mode="after")
    def _one_way_to_t(self) -> Self:
        if sum(value is not None for value in (self.t, self.tail_share, self.target_rows)) != 1:
            raise ValueError("give one of 't', 'tail_share' and 'target_rows'")
        if self.by_language and self.metadata is None:
            raise ValueError("'by_language' needs the languages of 'metadata'; name the file")
        return self

    @property
    def column(self) -> str:
        """The column of match lists."""
        return self.entries or ("matched_entries" if self.captions == "any" else "matched_by_text")

    def needs(self) -> tuple[str, ...]:
        return ("numba",)

    def files(self) -> tuple[str, ...]:
        return () if self.metadata is None else (self.metadata,)

    def imports(self) -> tuple[str, ...]:
        return ("pairsieve.filters._balance_rounds",)

    def derived(self, available: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
        found = {PROBABILITY: pa.float64(), DRAW: pa.float64()}
        return found if self.captions == "any" else found | {CAPTION: pa.int32(), CAPTION_PROBABILITY: pa.float64()}

    def summary_inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return ("uid", self.column)

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        if self.column not in available:
            raise UnknownColumnError(self.column, available)
        kind = available[self.column]
        if not (found := _depth(kind)):
            raise ValueError(f"entries: column {self.column!r} is {kind}, not lists of int32 or int64")
        if self.captions == "one" and found == 1:
            raise ValueError(f"captions: one needs a list for each caption; column {self.column!r} has one for all")
        languages = () if self.metadata is None else self._names().languages
        if self.by_language and self.reference_language not in languages:
            raise ValueError(f"reference_language: no entry of {self.metadata} is in {self.reference_language!r}")

    def check_after(self, earlier: Sequence[AnyFilter]) -> None:
        if any(isinstance(one, MetadataBalance) and one.seed == self.seed for one in earlier):
            raise ValueError(
                f"an earlier metadata_balance draws the same numbers with seed {self.seed}; give this one another"
            )
        matched = [one for one in earlier if isinstance(one, MetadataMatch)]
        if self.metadata is not None and matched and not any(_is_same(one.metadata, self.metadata) for one in matched):
            raise ValueError(f"metadata: {self.metadata} is not what metadata_match matches with; name the same file")

    def notes(self, settled: Settled) -> tuple[str, ...]:
        if settled.get("target_reached", True):
            return ()
        return (f"target_rows {self.target_rows:,}: all {settled['matched_rows']:,} pairs with an entry are fewer",)

    def _names(self) -> _metadata.Entries:
        assert self.metadata is not None
        return _metadata.read_entries(self.metadata)

    # --- rounds ---

    def is_settled(self, settled: Settled) -> bool:
        return "kept" in settled

    def merge(self, one: Round, other: Round) -> Round:
        return one + other

    def summarize(self, pairs: pa.RecordBatch, settled: Settled) -> Round:
        from pairsieve.filters import _balance_rounds as rounds

        texts = self._texts(pairs)
        if "counts" not in settled:
            return Round(seen=rounds.seen(texts))
        check_ids(self.column, texts.least, texts.most, len(settled["counts"]))
        sizes = rounds.sizes(texts, settled) if settled["candidates"] else None
        if "t" not in settled:
            return Round(sizes=sizes)
        found = rounds.chances(pairs["uid"], texts, settled, self._hash_seed)
        return Round(sizes=sizes, drawn=rounds.drawn(texts, found, self.online))

    def _texts(self, pairs: pa.RecordBatch) -> "Texts":
        from pairsieve.filters._balance_lists import texts_of

        return texts_of(pairs[self.column], self.captions == "one")

    @property
    def _hash_seed(self) -> int:
        return uid.draw_seed(self.seed)

    def settle(self, summary: Round, settled: Settled) -> dict[str, Any]:
        if summary.seen is not None:
            return self._counted(summary.seen)
        found = dict(settled)
        if summary.sizes is not None:
            totals = summary.sizes.totals
            sizes = [*found["sizes"], *((t, n / UNITS) for t, n in zip(found["candidates"], totals, strict=True))]
            found["sizes"] = sorted(sizes)
            if self.target_rows is not None:
                # half a unit a pair is what rounding may have taken
                least = 2 * self.target_rows * UNITS - found["matched_rows"]
                return self._narrowed(found, [2 * total >= least for total in totals])
        assert summary.drawn is not None
        return _closed(found, summary.drawn)

    def _counted(self, seen: Seen) -> dict[str, Any]:
        """After the first round: the counts, and either t or candidates for it."""
        names = None if self.metadata is None else self._names()
        entries = seen.most + 1 if names is None else len(names.text)
        check_ids(self.column, seen.least, seen.most, entries if names else MOST_ENTRIES)
        counts = seen.tally.vector(entries)
        found: dict[str, Any] = {
            "rows": seen.rows,
            "matched_rows": seen.matched_rows,
            "matched_texts": seen.matched_texts,
        }
        found |= {"matches": int(counts.sum()), "entry_count": entries, "counts": counts, "sizes": [], "candidates": []}
        if self.by_language and names is not None:
            found |= self._languages(names, counts)
        most = int(counts.max(initial=0))
        if most <= (self.captions == "any"):  # nothing is more frequent than the smallest t
            found = self._chosen(found, self.t or 1)
            if self.target_rows is not None:
                found["target_reached"] = seen.matched_rows >= self.target_rows
            kept = Drawn(seen.matched_rows * UNITS, 0, seen.matched_rows, Tally(counts))
            return _closed(found | {"sizes": [(1, float(seen.matched_rows))]}, kept)
        if self.target_rows is None:
            found = self._chosen(found, self._given_t(found))
        return self._trying(found, _balance_solve.grid(self._most_t(found)))

    def _languages(self, names: _metadata.Entries, counts: NDArray[np.int64]) -> dict[str, Any]:
        assert names.language is not None
        codes = names.language.dictionary_encode()
        found = {"languages": codes.dictionary.to_pylist(), "language_codes": codes.indices.to_numpy().astype(np.int32)}
        try:
            self._ts(found | {"counts": counts}, [1])
        except ValueError as error:
            raise UserError(f"by_language: {error} ({self.reference_language!r}); choose another one") from None
        return found

    def _given_t(self, found: Settled) -> int:
        if self.t is not None:
            return self.t
        assert self.tail_share is not None
        return _balance_counts.nearest_count(self._reference(found), self.tail_share)

    def _reference(self, found: Settled) -> _balance_counts.Shares:
        """The counts that t is about: all, or those of the reference language."""
        counts = found["counts"]
        if "languages" in found:
            counts = counts[found["language_codes"] == found["languages"].index(self.reference_language)]
        return _balance_counts.shares(counts)

    def _most_t(self, found: Settled) -> int:
        """The smallest t that keeps every pair with an entry."""
        of = self._reference(found).counts
        return int(of[-1]) + self.by_language if len(of) else 1

    def _ts(self, found: Settled, candidates: list[int]) -> NDArray[np.int64]:
        """int64[languages, candidates]: the t of each language for those of the reference."""
        if "languages" not in found:
            return np.array([candidates], np.int64)
        languages = found["languages"]
        of = _balance_counts.by_language(found["counts"], found["language_codes"], len(languages))
        reference = languages.index(self.reference_language)
        return np.array([_balance_counts.language_ts(of, reference, t) for t in candidates], np.int64).T

    def _chosen(self, found: Settled, t: int) -> dict[str, Any]:
        ts = self._ts(found, [t])[:, 0]
        by_language = dict(zip(found["languages"], ts.tolist(), strict=True)) if "languages" in found else {}
        chosen = {"t": t, "ts": ts} | ({"t_by_language": by_language} if by_language else {})
        return {**found, "candidates": [], **chosen}

    def _trying(self, found: Settled, candidates: list[int]) -> dict[str, Any]:
        ts = np.ascontiguousarray(self._ts(found, candidates), np.float64)
        return {**found, "candidates": candidates, "candidate_ts": ts}

    def _narrowed(self, found: dict[str, Any], reaches: list[bool]) -> dict[str, Any]:
        """The t that reaches the target, or closer candidates."""
        assert self.target_rows is not None
        low, high = _balance_solve.bracket(found["candidates"], reaches, found.get("bracket", (0, None)))
        if high is None or high - low == 1:
            reached = {"target_reached": high is not None}
            return self._chosen(found | reached, high or found["candidates"][-1])
        candidates = _balance_solve.closer(low, high, found["sizes"], self.target_rows)
        return self._trying(found | {"bracket": (low, high)}, candidates)

    # --- pairs ---

    def derive(self, pairs: pa.RecordBatch, settled: Settled) -> dict[str, pa.Array]:
        from pairsieve.filters import _balance_rounds as rounds

        texts = self._texts(pairs)
        check_ids(self.column, texts.least, texts.most, len(settled["counts"]))
        probability, draw, choice, chance, is_null = rounds.chances(pairs["uid"], texts, settled, self._hash_seed)
        found = {PROBABILITY: pa.array(probability, mask=is_null), DRAW: pa.array(draw)}
        if self.captions == "one":
            found |= {CAPTION: pa.array(choice, mask=is_null), CAPTION_PROBABILITY: pa.array(chance, mask=is_null)}
        return found

    def keep(self, pairs: pa.RecordBatch, settled: Settled) -> pa.Array:
        probability = pairs[PROBABILITY]
        chance = probability if self.captions == "any" else pairs[CAPTION_PROBABILITY]
        tests = [(pc.fill_null(pc.less_equal(probability, 0.0), True), "no_entries")]
        if not self.online:
            tests.append((pc.greater_equal(pairs[DRAW], chance), "not_drawn"))
        return first_reason(pairs.num_rows, *tests)

    def tables(self, settled: Settled) -> dict[str, pa.Table]:
        names = None if self.metadata is None else self._names()
        found = {
            "entries": _balance_tables.entries_table(settled, names),
            "sizes": _balance_tables.sizes_table(settled),
        }
        return found | ({"languages": _balance_tables.languages_table(settled)} if self.by_language else {})


def _is_same(one: str, other: str) -> bool:
    """Whether two files hold the same."""
    paths = [_metadata.local_path(name) for name in (one, other)]
    return paths[0].samefile(paths[1]) or paths[0].read_bytes() == paths[1].read_bytes()


def _depth(kind: pa.DataType) -> int:
    """1 for a list of int32 or int64, 2 for a list of such lists, 0 for any other type."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return 0
    if kind.value_type in (pa.int32(), pa.int64()):
        return 1
    return 2 if _depth(kind.value_type) == 1 else 0


def _closed(found: dict[str, Any], drawn: Drawn) -> dict[str, Any]:
    """The last round: what ``keep``, ``derive``, tables and reports need."""
    counts, expected = found["counts"], drawn.expected / UNITS
    ts = _balance_tables.entry_ts(found)
    zero, _, head = _balance_counts.head_and_tail(counts, ts)
    state = ("candidates", "candidate_ts", "bracket", "languages")
    return {
        **{name: value for name, value in found.items() if name not in state},
        "sizes": np.array(sorted({*found["sizes"], (found["t"], expected)}), np.float64),
        "head_entries": head.entries,
        "head_matches": head.matches,
        "zero_entries": zero.entries,
        "tail_share": int(counts[counts < ts].sum()) / max(int(counts.sum()), 1),
        "expected_rows": expected,
        "sd_rows": float(np.sqrt(drawn.variance / UNITS)),
        "kept_rows": drawn.rows,
        "kept": drawn.tally.vector(len(counts)),
    }
