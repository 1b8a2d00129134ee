"""The balance's tables for people and tools: entries, sizes, languages."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pairsieve.filters._balance_counts import by_language, probabilities, share_below
from pairsieve.filters._metadata import Entries


def entry_ts(settled: Mapping[str, Any]) -> int | NDArray[np.int64]:
    """t, or int64[entries] where languages differ."""
    if "language_codes" not in settled:
        return int(settled["t"])
    return np.asarray(settled["ts"][settled["language_codes"]])


def entries_table(settled: Mapping[str, Any], names: Entries | None) -> pa.Table:
    """A row for each entry: its p, and how many texts match it in the scope and among the pairs that stay."""
    counts = settled["counts"]
    missing = pa.nulls(len(counts), pa.string())
    return pa.table(
        {
            "entry_id": pa.array(np.arange(len(counts), dtype=np.int32)),
            "entry": missing if names is None else names.text,
            "language": missing if names is None or names.language is None else names.language,
            "count": pa.array(counts),
            "probability": pa.array(probabilities(counts, entry_ts(settled))),
            "kept": pa.array(settled["kept"]),
        }
    )


def sizes_table(settled: Mapping[str, Any]) -> pa.Table:
    """The exact expected rows of each t that was tried."""
    ts, rows = settled["sizes"].T
    return pa.table({"t": pa.array(ts.astype(np.int64)), "expected_rows": pa.array(rows)})


def languages_table(settled: Mapping[str, Any]) -> pa.Table:
    """A row for each language of the metadata: its t, its entries, their matches and the tail share."""
    ts = settled["t_by_language"]
    codes = settled["language_codes"]
    shares = by_language(settled["counts"], codes, len(ts))
    return pa.table(
        {
            "language": pa.array(list(ts), pa.string()),
            "t": pa.array(list(ts.values()), pa.int64()),
            "entries": pa.array(np.bincount(codes, minlength=len(ts)), pa.int64()),
            "matches": pa.array([int(one.counts.sum()) for one in shares], pa.int64()),
            "tail_share": pa.array(
                [share_below(one, t) for one, t in zip(shares, ts.values(), strict=True)], pa.float64()
            ),
        }
    )
