"""What a balance would keep, from counts alone: of a run with ``metadata_balance``, or of a file of counts.

Seconds for 500,000 entries, whatever the pool: no pair is read.  A run has measured the exact size for some
t, and others lie between; a file of counts gives a bound, and an estimate where the matched pairs are known.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pairsieve.filters import _balance_counts as maths
from pairsieve.pipelines.catalog import table_name
from pairsieve.pipelines.provenance import manifest
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import UserError
from pairsieve.schemas.run import StepRecord

FILTER = "metadata_balance"
MOST_BYTES = 1 << 31


@dataclass(frozen=True)
class Counts:
    """Counts of entries (int64[entries]), and what else is known of them.

    ``names`` and ``languages`` are strings in the order of entries, ``sizes`` the (t, expected rows) that a run
    measured, ``record`` that run's step, ``kept`` the counts after it, ``matched`` pairs with an entry.
    """

    where: str
    counts: NDArray[np.int64]
    names: pa.Array | None = None
    languages: pa.Array | None = None
    kept: NDArray[np.int64] | None = None
    sizes: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None
    matched: int | None = None
    record: StepRecord | None = None

    @property
    def settled(self) -> dict[str, Any]:
        """What the run's step decided."""
        return dict(self.record.settled or {}) if self.record else {}

    @property
    def reference(self) -> str | None:
        """The language that t is about, where languages have one each."""
        if not self.settled.get("t_by_language"):
            return None
        assert self.record is not None
        return str((self.record.deciding or {}).get("reference_language", "en"))


@dataclass(frozen=True)
class Choice:
    """A t with what follows: t of every entry, the parts, the tail share, and how many pairs to expect.

    ``rows`` None = not known; ``source`` says how it is known.
    """

    t: int
    ts: int | NDArray[np.int64]
    parts: tuple[maths.Part, ...]
    tail_share: float
    most_rows: int
    rows: float | None
    source: str


def read_counts(source: str, step: str | None = None, matched: int | None = None) -> Counts:
    """Counts of a run's step, or of a Parquet or JSON file; raises ``UserError`` with one line."""
    if source.endswith((".json", ".parquet")) or Path(source).is_file():
        if step is not None:
            raise UserError(f"{source}: a file has no step {step!r}; name a run, or leave --step out")
        return _from_file(source, matched)
    if matched is not None:
        raise UserError(f"--matched-rows {matched}: a run knows that itself; leave it out")
    return _from_run(Store(source), step)


def _from_run(store: Store, step: str | None) -> Counts:
    found = [record for record in manifest(store).steps if record.filter == FILTER]
    names = ", ".join(record.id for record in found)
    if not found:
        raise UserError(f"{store.root}: the recipe has no {FILTER}; add the step and run it, or name a file of counts")
    if step is None and len(found) > 1:
        raise UserError(f"{store.root}: there are the steps {names}; choose one by --step")
    record = next((record for record in found if step in (None, record.id)), None)
    if record is None:
        raise UserError(f"{store.root}: no {FILTER} is called {step!r}; there is {names}")
    files = {name: table_name(record.id, name) for name in ("entries", "sizes")}
    if "t" not in (record.settled or {}) or not all(store.exists(file) for file in files.values()):
        raise UserError(f"{store.root}: {record.id} has not decided yet; the run's command continues it")
    entries, sizes = (_table(store, file) for file in files.values())
    return Counts(
        where=store.root,
        counts=entries["count"].to_numpy(),
        names=_given(entries["entry"]),
        languages=_given(entries["language"]),
        kept=entries["kept"].to_numpy(),
        sizes=(sizes["t"].to_numpy(), sizes["expected_rows"].to_numpy()),
        matched=(record.settled or {}).get("matched_rows"),
        record=record,
    )


def _table(store: Store, name: str) -> pa.Table:
    try:
        return store.table(name)
    except (pa.ArrowException, OSError) as error:
        text = str(error).splitlines()[0]
        raise UserError(f"{store.url(name)}: is damaged ({text}); the run's command makes it again") from None


def _given(column: pa.ChunkedArray) -> pa.Array | None:
    return None if column.null_count == len(column) else column.combine_chunks()


def _from_file(source: str, matched: int | None) -> Counts:
    path = Path(source)
    if not path.is_file():
        raise UserError(f"{source}: no such file; name a run, or a Parquet or JSON file of counts")
    if path.suffix not in (".json", ".parquet"):
        raise UserError(f"{source}: counts are read from .json and .parquet files")
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{source}: more than {MOST_BYTES:,} bytes are no counts of entries")
    try:
        found = _json(path) if path.suffix == ".json" else _parquet(path)
    except (ValueError, KeyError, OverflowError, pa.ArrowException, RecursionError) as error:
        text = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{source}: {text}; give a JSON object of entries and whole numbers, or a Parquet column 'count' of such"
        ) from None
    counts = found["count"]
    if len(counts) and int(counts.min()) < 0:
        raise UserError(f"{source}: a count is negative")
    least, most = int(counts.max(initial=0)), int(counts.sum())
    if matched is not None and not least <= matched <= most:
        raise UserError(f"--matched-rows {matched:,}: give {least:,} (the greatest count) to {most:,} (all matches)")
    return Counts(source, counts, found.get("entry"), found.get("language"), matched=matched)


def _json(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_bytes())
    if not isinstance(found, dict):
        raise ValueError("is no JSON object")
    counts = pa.array(list(found.values()))
    return {"entry": pa.array(list(found), pa.string()), "count": _integers(counts)}


def _parquet(path: Path) -> dict[str, Any]:
    table = pq.read_table(path, memory_map=True)
    if "count" not in table.schema.names:
        raise ValueError(f"has no column 'count', but {', '.join(table.schema.names)}")
    found: dict[str, Any] = {"count": _integers(table["count"].combine_chunks())}
    for name in ("entry", "language"):
        if name in table.schema.names:
            found[name] = table[name].combine_chunks().cast(pa.string())
    return found


def _integers(counts: pa.Array) -> NDArray[np.int64]:
    if counts.null_count or not (pa.types.is_integer(counts.type) or len(counts) == 0):
        nulls = f" with {counts.null_count:,} nulls" if counts.null_count else ""
        raise ValueError(f"counts are {counts.type}{nulls}, not whole numbers")
    return np.asarray(counts.cast(pa.int64()).to_numpy(zero_copy_only=False))


def choose(of: Counts, t: int | None = None, tail_share: float | None = None, target: int | None = None) -> Choice:
    """The t that is given, has the tail share, or keeps the target; none of them: the run's own.

    Raises ``UserError`` where that cannot be told.
    """
    given = [value is not None for value in (t, tail_share, target)]
    if sum(given) > 1:
        raise UserError("give one of --t, --tail-share and --target-rows")
    if not any(given):
        if "t" not in of.settled:
            raise UserError(f"{of.where}: give --t, --tail-share or --target-rows")
        t = int(of.settled["t"])
    if tail_share is not None:
        t = maths.nearest_count(maths.shares(_reference(of)), tail_share)
    if target is not None:
        t = _t_for(of, target)
    assert t is not None
    return _choice(of, t)


def _reference(of: Counts) -> NDArray[np.int64]:
    """The counts that t is about."""
    if of.reference is None or of.languages is None:
        return of.counts
    codes = of.languages.dictionary_encode()
    place = codes.dictionary.to_pylist().index(of.reference)
    return np.asarray(of.counts[codes.indices.to_numpy() == place])


def _ts(of: Counts, t: int) -> int | NDArray[np.int64]:
    """t of every entry."""
    if of.reference is None or of.languages is None:
        return t
    codes = of.languages.dictionary_encode()
    names, indices = codes.dictionary.to_pylist(), codes.indices.to_numpy().astype(np.int32)
    each = maths.by_language(of.counts, indices, len(names))
    return np.asarray(np.array(maths.language_ts(each, names.index(of.reference), t), np.int64)[indices])


def _t_for(of: Counts, target: int) -> int:
    """The smallest t that is expected to keep so many."""
    expected = _expected(of)
    if expected is None:
        raise UserError(
            f"{of.where}: counts alone tell no size; give --matched-rows, the number of pairs that match, or name a run"
        )
    low, high = 0, max(1, int(of.counts.max(initial=1)))
    least = target - (of.matched or 0) * 2.0**-31 - 1e-6  # sizes are rounded, half a unit of 2^-30 a pair
    if expected(high) < least:
        raise UserError(f"{of.where}: no t keeps {target:,}: all pairs that match are {expected(high):,.0f}")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if expected(middle) >= least else (middle, high)
    return high


def _expected(of: Counts) -> Callable[[int], float] | None:
    """Expected rows of any t; None where they cannot be told."""
    if of.sizes is not None:
        ts, rows = of.sizes
        return lambda t: maths.rows_at(ts, rows, t) if rows[-1] else 0.0
    if of.matched is None:
        return None
    matched = of.matched
    return lambda t: maths.estimated_rows(of.counts, _ts(of, t), matched)


def _choice(of: Counts, t: int) -> Choice:
    ts, expected = _ts(of, t), _expected(of)
    total = int(of.counts.sum())
    source = "no size: give --matched-rows, the number of pairs that match"
    if of.sizes is not None:
        source = "measured by the run" if t in of.sizes[0] else "between sizes that the run measured"
    elif expected is not None:
        source = "an estimate: entries of a pair taken as independent; a run knows"
    return Choice(
        t=t,
        ts=ts,
        parts=maths.head_and_tail(of.counts, ts),
        tail_share=int(of.counts[of.counts < ts].sum()) / total if total else 0.0,
        most_rows=maths.most_rows(of.counts, ts, of.matched),
        rows=None if expected is None else expected(t),
        source=source,
    )


def entries_table(of: Counts, choice: Choice) -> pa.Table:
    """Entries with their probability at a t: what a training loader draws by in every epoch."""
    none = pa.nulls(len(of.counts), pa.string())
    return pa.table(
        {
            "entry_id": pa.array(np.arange(len(of.counts), dtype=np.int32)),
            "entry": none if of.names is None else of.names,
            "language": none if of.languages is None else of.languages,
            "count": pa.array(of.counts),
            "probability": pa.array(maths.probabilities(of.counts, choice.ts)),
        }
    )


def save(out: str, of: Counts, choice: Choice) -> None:
    """Write ``entries_table`` as Parquet, as a whole or not at all; raises ``UserError`` where there is a file."""
    path = Path(out)
    if path.exists():
        raise UserError(f"--out {out}: is there already; remove it, or choose another name")
    if not path.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {path.parent}")
    attempt = path.with_name(f"{path.name}.tmp")
    try:
        pq.write_table(entries_table(of, choice), attempt)
        attempt.replace(path)
    finally:
        attempt.unlink(missing_ok=True)
