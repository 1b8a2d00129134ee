"""Checksums inside Parquet files: any changed bit is found."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.pipelines import seal
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import DamagedFileError

LIGHT = pa.table({"uid": [f"{i:032x}" for i in range(50)], "score": [i / 7 for i in range(50)]})
HEAVY = pa.table({"image": [bytes([i]) * 300 for i in range(50)], "width": list(range(50))})


def written(store: Store, name: str, table: pa.Table) -> Path:
    """A sealed file."""
    with store.create_sealed(name, table.schema, {"pairsieve.step": "abc"}) as writer:
        writer.write_table(table)
    return Path(store.path(name))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A local store with a light and a heavy file."""
    store = Store(str(tmp_path_factory.mktemp("seal")))
    written(store, "light.parquet", LIGHT)
    written(store, "heavy.parquet", HEAVY)
    return store


@pytest.mark.parametrize(("name", "table"), [("light", LIGHT), ("heavy", HEAVY)])
def test_a_sealed_file_is_a_parquet_file(store: Store, name: str, table: pa.Table) -> None:
    """Any reader reads it, and finds its metadata."""
    file = pq.ParquetFile(store.path(f"{name}.parquet"))
    assert file.read() == table
    assert file.metadata.metadata[b"pairsieve.step"] == b"abc"
    assert len(file.metadata.metadata[seal.KEY.encode()]) == 64


@pytest.mark.parametrize("is_light", [True, False])
def test_an_untouched_file_passes(store: Store, is_light: bool) -> None:
    """Both checks accept what was written."""
    assert store.sealed("light.parquet", is_light).read() == LIGHT


def test_the_same_table_gives_the_same_bytes(store: Store) -> None:
    """A seal depends on the content alone."""
    assert written(store, "again.parquet", LIGHT).read_bytes() == Path(store.path("light.parquet")).read_bytes()


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_of_a_light_file_is_found(store: Store, place: float, bit: int) -> None:
    """Wherever it lies: data, page header, index, footer, the seal itself, the closing magic."""
    content = bytearray(Path(store.path("light.parquet")).read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    with pytest.raises(DamagedFileError):
        seal.check(pa.py_buffer(bytes(content)))


@given(keep=st.floats(0, 1, exclude_max=True))
def test_any_truncation_is_found(store: Store, keep: float) -> None:
    """Down to nothing at all."""
    content = Path(store.path("light.parquet")).read_bytes()
    with pytest.raises(DamagedFileError):
        seal.check(pa.py_buffer(content[: int(keep * len(content))]))


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_of_a_heavy_file_never_gives_other_values(store: Store, place: float, bit: int) -> None:
    """The footer is checked at once, pages when they are read: the values are right, or there is an error."""
    content = bytearray(Path(store.path("heavy.parquet")).read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    store.write("flipped.parquet", bytes(content))
    try:
        found = store.sealed("flipped.parquet", is_light=False).read(use_threads=False)
    except (DamagedFileError, pa.ArrowException, OSError):
        return
    assert found == HEAVY


@given(content=st.binary(max_size=200))
def test_bytes_that_are_no_parquet_file_are_refused(content: bytes) -> None:
    """Whatever they are."""
    with pytest.raises(DamagedFileError):
        seal.check(pa.py_buffer(content))


def test_a_file_without_a_seal_is_refused(store: Store) -> None:
    """As older versions or other programs write them."""
    pq.write_table(LIGHT, store.path("plain.parquet"))
    with pytest.raises(DamagedFileError):
        store.sealed("plain.parquet", is_light=True)


def test_a_large_remote_footer_is_fetched_whole() -> None:
    """More row groups than fit the first request for a file's end."""
    store = Store("memory://seal")
    table = pa.table({f"column_{i}": pa.array(range(2000)) for i in range(30)})
    with store.create_sealed("wide.parquet", table.schema, {}) as writer:
        writer.write_table(table, row_group_size=20)
    assert store.sealed("wide.parquet", is_light=False).read() == table
