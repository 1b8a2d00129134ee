"""Keep one of the pairs that are equal in some columns, wherever they lie.

Measuring hashes each key once (about 1 µs a pair, or the speed of SHA-256 over image bytes); the
grouping is the engine's, over 16 bytes a pair and key.
"""

import re
from collections.abc import Mapping
from typing import Annotated

import duckdb
import pyarrow as pa
from pydantic import Field, WithJsonSchema, field_validator

from pairsieve.filters._expressions import connect, first_line, readable
from pairsieve.filters._preferred import Preferred

KEY = pa.binary(16)
Key = tuple[str, ...]

_NAMES = {"type": "array", "items": {"type": "string"}, "minItems": 1}
_BY_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"anyOf": [{"type": "string"}, _NAMES]}, "minItems": 1},
        {"type": "null"},
    ]
}


class ExactDuplicates(Preferred):
    """Keep the best of all pairs that share a key; a pair with a null in a key shares it with nobody.

    Without ``by`` there are two keys: (url, text), and the SHA-256 of the image bytes (column
    ``sha256`` where the pool or ``download`` gives it, else computed from ``image``; none where
    there is neither).  Keys apply one after the other, each to the survivors of the one before,
    so no two survivors share a key.  The reason is ``same_<columns>``.
    """

    batch_rows = 65_536

    by: Annotated[tuple[Key, ...] | None, WithJsonSchema(_BY_SCHEMA)] = Field(
        None, description="keys: each a column or a list of columns"
    )

    @field_validator("by", mode="before")
    @classmethod
    def _lists(cls, value: object) -> object:
        """``by: sha256`` and ``by: [sha256, [url, text]]`` are both fine."""
        value = [value] if isinstance(value, str) else value
        if isinstance(value, list | tuple):
            return tuple((key,) if isinstance(key, str) else key for key in value)
        return value

    @field_validator("by")
    @classmethod
    def _not_empty(cls, value: tuple[Key, ...] | None) -> tuple[Key, ...] | None:
        if value is not None and (not value or not all(value)):
            raise ValueError("name at least one column")
        if value is not None and len(set(value)) < len(value):
            raise ValueError("a key is written twice")
        return value

    def keys(self, available: Mapping[str, pa.DataType]) -> tuple[Key, ...]:
        """The columns of each key, in the order in which they apply."""
        if self.by is not None:
            return self.by
        image = tuple((name,) for name in ("sha256", "image") if name in available)[:1]
        return (("url", "text"), *image)

    def inputs(self, available: Mapping[str, pa.DataType]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for key in self.keys(available) for name in key))

    def check(self, available: Mapping[str, pa.DataType]) -> None:
        self.check_preferred(available)
        types = {name: available[name] for name in self.inputs(available)}
        try:
            self.score(pa.RecordBatch.from_pylist([], schema=pa.schema(types)))
        except duckdb.Error as error:
            raise ValueError(f"by: {first_line(error)}") from None

    def outputs(self, available: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
        return dict.fromkeys(self.key_columns(available), KEY)

    def key_columns(self, available: Mapping[str, pa.DataType]) -> dict[str, str]:
        labels = _labels(self.keys(available))
        return {f"exact_duplicates_{label}": f"same_{label}" for label in labels}

    def score(self, pairs: pa.RecordBatch) -> dict[str, pa.Array]:
        types = dict(zip(pairs.schema.names, pairs.schema.types, strict=True))
        with connect() as con:
            con.register("pairs", readable(pairs))
            digests = [_digest(con, key, types) for key in self.keys(types)]
        return dict(zip(self.key_columns(types), digests, strict=True))


def _labels(keys: tuple[Key, ...]) -> list[str]:
    """What each key is called in columns and reasons: its columns, joined; numbered where two would agree."""
    found: list[str] = []
    for key in keys:
        label = re.sub(r"\W", "_", "_".join(key))
        free = (f"{label}_{n}" for n in range(2, len(keys) + 2))
        found.append(label if label not in found else next(name for name in free if name not in found))
    return found


def _digest(con: duckdb.DuckDBPyConnection, key: Key, types: Mapping[str, pa.DataType]) -> pa.Array:
    """128 bits of SHA-256 over the values of a key, each preceded by its length."""
    values = [_as_text(name, types[name]) for name in key]
    joined = " || ".join(f"strlen({value}) || ':' || {value}" for value in values)
    digests = con.sql(f"SELECT unhex(sha256({joined})[1:32]) AS digest FROM pairs").to_arrow_table()["digest"]
    return digests.combine_chunks().cast(KEY)


def _as_text(name: str, kind: pa.DataType) -> str:
    quoted = '"' + name.replace('"', '""') + '"'
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return f"sha256({quoted})" if is_bytes else f"CAST({quoted} AS VARCHAR)"
