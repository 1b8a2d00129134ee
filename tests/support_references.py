"""Closeness to evaluation sets written out literally: nested loops, Unicode's categories, no vectors."""

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Sets = Mapping[str, Sequence[str]]


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """In Python's own numbers."""
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return float(dot / (sum(a * a for a in one) ** 0.5 * sum(b * b for b in other) ** 0.5))


def words(text: str) -> list[str]:
    """The words of a caption, by the rule in the filter's documentation."""
    cut = "".join(" " if c.isspace() else c for c in text).split(" ")
    kept = ["".join(_lower(c) for c in word if _is_kept(c)) for word in cut]
    return [word for word in kept if word]


def _lower(char: str) -> str:
    return char.lower() if len(char.lower()) == 1 else char


def _is_kept(char: str) -> bool:
    is_selector = "VARIATION SELECTOR" in unicodedata.name(char, "") and "MONGOLIAN" not in unicodedata.name(char, "")
    kind = unicodedata.category(char)
    return not is_selector and (kind[0] in "LN" or kind in ("Mn", "Mc"))


def grams(text: str, n: int) -> list[tuple[str, ...]]:
    """Runs of n words; a shorter text is one, of all its words; without words there is none."""
    found = words(text)
    if len(found) < n:
        return [tuple(found)] if found else []
    return [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]


def overlap(text: str | None, sets: Sets, n: int) -> tuple[float | None, str | None]:
    """The greatest share of n-grams in one set, and the first set that has it."""
    if text is None:
        return None, None
    mine, best = grams(text, n), (0.0, None)
    for name in sorted(sets):
        known = {gram for caption in sets[name] for gram in grams(caption, n)}
        share = float(np.float32(sum(gram in known for gram in mine) / max(len(mine), 1)))
        if share > best[0]:
            best = share, name  # type: ignore[assignment]
    return best


def write_embeddings(path: Path, values: NDArray[Any], key: str = "x") -> str:
    """A file of the kind that its name says."""
    if path.suffix == ".parquet":
        kind = pa.list_(pa.from_numpy_dtype(values.dtype), values.shape[1])
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=kind)
        pq.write_table(pa.table({"id": range(len(values)), key: column}), path, row_group_size=7)
    elif path.suffix == ".npz":
        np.savez(path, allow_pickle=False, **{key: values})
    else:
        np.save(path, values)
    return str(path)


def write_captions(path: Path, texts: Sequence[str | None]) -> str:
    """Parquet, or a text file with a caption a line."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"id": range(len(texts)), "caption": pa.array(texts, pa.string())}), path)
    else:
        path.write_text("".join(f"{text or ''}\n" for text in texts), encoding="utf-8")
    return str(path)
