"""Binary values where they lie in a Parquet file: what Arrow reads, and nothing of what is no page."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.pipelines.feed_pages import Values, is_plain, read_values

BLOBS = st.lists(st.one_of(st.none(), st.binary(max_size=40)), max_size=60)
BROKEN = (ValueError, IndexError, KeyError, TypeError, RecursionError)


def written(values: Any, nullable: bool = True, **how: Any) -> tuple[bytes, pq.FileMetaData]:
    """A file of one column, plain and uncompressed unless told otherwise."""
    out = io.BytesIO()
    table = pa.table([pa.array(values, pa.binary())], pa.schema([pa.field("image", pa.binary(), nullable)]))
    pq.write_table(table, out, **{"compression": "none", "use_dictionary": False, "write_page_checksum": True, **how})
    return out.getvalue(), pq.read_metadata(io.BytesIO(out.getvalue()))


def chunk_of(data: bytes, footer: pq.FileMetaData, group: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The bytes of the column in a row group."""
    chunk = footer.row_group(group).column(0)
    return np.frombuffer(data, np.uint8)[chunk.data_page_offset :][: chunk.total_compressed_size]


def read(data: bytes, footer: pq.FileMetaData) -> list[bytes]:
    """All values of all groups."""
    found = []
    for group in range(footer.num_row_groups):
        assert is_plain(footer, group, 0)
        rows = footer.row_group(group).num_rows
        nullable = footer.schema.column(0).max_definition_level > 0
        values = read_values(chunk_of(data, footer, group), rows, nullable)
        assert values is not None
        assert len(values) == rows
        found += [values[row].tobytes() for row in range(rows)]
    return found


@given(BLOBS, st.integers(1, 100), st.integers(1, 70))
def test_it_reads_what_was_written(values: list[bytes | None], page: int, group: int) -> None:
    """In any number of pages and groups; nulls are empty."""
    data, footer = written(values, data_page_size=page, write_batch_size=1 + page % 7, row_group_size=group)
    assert read(data, footer) == [value or b"" for value in values]


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=60), st.integers(1, 100))
def test_columns_without_nulls_have_no_levels(values: list[bytes], page: int) -> None:
    """Neither does the reader look for them."""
    data, footer = written(values, nullable=False, data_page_size=page, write_batch_size=3)
    assert footer.schema.column(0).max_definition_level == 0
    assert read(data, footer) == values


@pytest.mark.parametrize(
    "how",
    [
        {"compression": "zstd"},
        {"use_dictionary": True},
        {"use_dictionary": False, "column_encoding": "DELTA_LENGTH_BYTE_ARRAY"},
    ],
)
def test_other_columns_are_arrows(how: dict[str, Any]) -> None:
    """Compressed ones, dictionaries, other encodings."""
    _, footer = written([b"one", b"two", b"one"] * 50, **how)
    assert not is_plain(footer, 0, 0)


def test_other_pages_are_arrows() -> None:
    """Version 2."""
    data, footer = written([b"one", None, b"two"], data_page_version="2.0")
    assert not is_plain(footer, 0, 0) or read_values(chunk_of(data, footer), 3, True) is None


@given(BLOBS, st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4), st.integers(0, 60))
def test_damage_is_told_or_stays_inside(values: list[bytes | None], spoils: list[tuple[int, int]], cut: int) -> None:
    """Changed bytes, and a file that ends early, are an error or other values of the same memory; nothing loops."""
    data, footer = written([*values, b"end"])
    chunk = chunk_of(data, footer).copy()
    for at, byte in spoils:
        chunk[at % len(chunk)] = byte
    chunk = chunk[: len(chunk) - cut]
    try:
        found = read_values(chunk, len(values) + 1, True)
    except BROKEN:
        return
    assert found is None or isinstance(found, Values)
    for row in range(len(found or ())):
        assert found is not None
        assert len(found[row]) <= len(chunk)
