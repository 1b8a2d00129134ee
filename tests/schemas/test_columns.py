"""The column contracts: what every table begins with, and what is too large for one."""

import pyarrow as pa
import pytest

from pairsieve.schemas import columns


def test_every_table_begins_with_the_place_of_a_pair() -> None:
    """uid, shard and row, none of them null."""
    for schema in (columns.PAIRS, columns.VERDICTS, columns.DERIVED, columns.scores({"a": pa.int32()})):
        assert tuple(schema.names[:3]) == columns.PLACE
        assert [str(schema.field(i).type) for i in range(3)] == ["string", "int32", "int32"]
        assert not any(schema.field(i).nullable for i in range(3))


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.list_(pa.float32()), pa.list_(pa.float32(), 4)])
def test_bytes_and_lists_are_heavy(kind: pa.DataType) -> None:
    """They are read by ranges of rows."""
    assert columns.is_heavy(kind)


@pytest.mark.parametrize("kind", [pa.string(), pa.int64(), pa.bool_(), pa.binary(8), pa.struct([("a", pa.int8())])])
def test_other_columns_are_light(kind: pa.DataType) -> None:
    """They are held for a whole shard, keys of a fixed size among them."""
    assert not columns.is_heavy(kind)


def test_a_training_shard_has_image_and_text_side_by_side() -> None:
    """Then sizes, then the rest in their order; never where a pair lay in the pool."""
    given = {"z": pa.int8(), "text": pa.string(), "row": pa.int32(), "width": pa.int32(), "image": pa.binary()}
    assert columns.dataset(given).names == ["uid", "image", "text", "width", "z"]
    assert columns.dataset(given | {"height": pa.int32()}).field("uid").type == pa.string()
    assert columns.dataset({}).names == ["uid"]
