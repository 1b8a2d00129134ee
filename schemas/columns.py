"""Arrow schemas of everything a run writes: pairs, scores, verdicts, dataset shards.

Every table begins with ``uid, shard, row``.  ``uid`` names the pair for people and other tools;
``(shard, row)``, its place in the pool, is what tables are joined on, because a pool may list the
same pair twice.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

UID = pa.field("uid", pa.string(), nullable=False)
SHARD = pa.field("shard", pa.int32(), nullable=False)
ROW = pa.field("row", pa.int32(), nullable=False)

HEAD = pa.schema([UID, SHARD, ROW])
"""The place of a pair: 32 hex characters, shard number, row within the shard."""

PAIRS = pa.schema([*HEAD, pa.field("url", pa.string()), pa.field("text", pa.string()), pa.field("reason", pa.string())])
"""The pool as it came in; more columns of the source follow.

``reason`` is null, or says why the pool itself could not give this pair (``dropped_by = 'pool'``).
"""

VERDICTS = pa.schema(
    [
        *HEAD,
        pa.field("dropped_by", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("duplicate_of", pa.string()),
    ]
)
"""One row per candidate; ``dropped_by`` null = kept; ``duplicate_of``: the uid that a duplicate lost to, else null."""

DERIVED = pa.schema(
    [*HEAD, pa.field("duplicate_of", pa.string(), nullable=False), pa.field("duplicate_by", pa.string())]
)
"""Rows that lose to another pair of their group: the uid that stays, and the key they share."""

OF_ADDED = PARENT, TEXT_SOURCE, TEXT_SCORE = ("parent", "text_source", "text_score")
"""Of pairs that a step added: the uid of the pair whose image they share, and the column their text comes from,
and its score."""

ADDED = pa.schema(
    [
        *HEAD,
        pa.field(PARENT, pa.string(), nullable=False),
        pa.field("parent_row", pa.int32(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field(TEXT_SOURCE, pa.string(), nullable=False),
        pa.field(TEXT_SCORE, pa.float32()),
    ]
)
"""Pairs that a step added to those of a shard; their rows follow the shard's own."""

IMAGE = "image"
"""Column of encoded image bytes: read by name, never part of a light table."""

PLACE = ("uid", "shard", "row")
LOCATORS = ("media_offset", "media_size")
"""Where a tar pool's image bytes lie within its file; used by the pool's reader, not by recipes."""

RESERVED = frozenset({*PLACE, *LOCATORS, "_key", "reason", "dropped_by", "duplicate_of", "duplicate_by"})
"""Column names that neither a source nor a filter may bring."""

DATASET_FIRST = ("uid", IMAGE, "text", "width", "height")
"""How a training shard begins: image and text side by side, so that both are one read."""

VERSION = "1"
"""Version of these schemas, in the footer of every file."""


def scores(columns: Mapping[str, pa.DataType]) -> pa.Schema:
    """What one step measured, only for the pairs that reached it."""
    return pa.schema([*HEAD, *(pa.field(name, kind) for name, kind in columns.items())])


def is_heavy(kind: pa.DataType) -> bool:
    """Whether a column is too large to hold for a whole shard (bytes, embeddings)."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def repeating(schema: pa.Schema) -> list[str]:
    """Columns whose values repeat, so that a Parquet dictionary pays: the shard, and strings that name few things."""
    own = ("uid", "url", "text")
    kinds = (pa.types.is_string, pa.types.is_dictionary)
    return [f.name for f in schema if f.name == "shard" or (any(is_(f.type) for is_ in kinds) and f.name not in own)]


def packing(schema: pa.Schema) -> dict[str, Any]:
    """How a Parquet writer encodes and compresses the columns."""
    return {
        "compression": compression(schema),
        "use_dictionary": repeating(schema),
        "column_encoding": {"row": "DELTA_BINARY_PACKED"} if "row" in schema.names else None,
        "write_statistics": [f.name for f in schema if _is_number(f.type)] or False,
    }


def is_listed(kind: pa.DataType) -> bool:
    """Whether a step's lists are short enough for the view of all scores: ids, texts, and scores of texts."""
    return bool(is_items(kind) or (pa.types.is_list(kind) and pa.types.is_floating(kind.value_type)))


def is_texts(kind: pa.DataType) -> bool:
    """Whether a column holds texts with what is known of each: what training may draw one of."""
    return bool(
        pa.types.is_list(kind) and pa.types.is_struct(kind.value_type) and kind.value_type.get_field_index("text") >= 0
    )


def is_items(kind: pa.DataType) -> bool:
    """Whether a column holds lists of integers or strings, or lists of such: short ones, as what a caption mentions."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return bool(is_list and (_is_item(kind.value_type) or is_items(kind.value_type)))


def _is_item(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: pa.DataType) -> bool:
    """Whether least and greatest values help a reader: not those of hashes, and of names they cost half the writing."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def compression(schema: pa.Schema) -> dict[str, str]:
    """Codec of each Parquet leaf: zstd, but none for bytes, embeddings, floats, hashes, row numbers and uids.

    A random uid would shrink to its 16 bytes, at four times the cost of writing it plain.
    """
    return {
        leaf: "none" if f.name in ("uid", "row") or _is_dense(f.type) else "zstd" for f in schema for leaf in _leaves(f)
    }


def _is_dense(kind: pa.DataType) -> bool:
    dense = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_list, pa.types.is_floating)
    is_keys = pa.types.is_list(kind) and kind.value_type == pa.uint64()
    return is_keys or any(is_(kind) for is_ in dense)


def _leaves(field: pa.Field) -> list[str]:
    """Parquet's names of the leaf columns of a field."""
    kind = field.type
    if pa.types.is_struct(kind):
        return [f"{field.name}.{leaf}" for i in range(kind.num_fields) for leaf in _leaves(kind.field(i))]
    if pa.types.is_map(kind):
        parts = (pa.field("key", kind.key_type), pa.field("value", kind.item_type))
        return [f"{field.name}.key_value.{leaf}" for part in parts for leaf in _leaves(part)]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [f"{field.name}.list.{leaf}" for leaf in _leaves(kind.value_field.with_name("element"))]
    return [field.name]


def dataset(columns: Mapping[str, pa.DataType]) -> pa.Schema:
    """Schema of a training shard from the columns at hand: place, image, text, sizes, then the rest."""
    first = [name for name in DATASET_FIRST if name == "uid" or name in columns]
    rest = [name for name in columns if name not in first and name not in RESERVED]
    return pa.schema([pa.field(name, columns.get(name, pa.string())) for name in first + rest])
