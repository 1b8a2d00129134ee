"""The exact search over stored vectors: against numpy, whatever the files, the threads and the order."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pairsieve.pipelines.progress import Silent
from pairsieve.pipelines.search_scan import Entry, Masks, Nearest, StepFile, Stretch, cosines, nearest
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import DamagedFileError

torch = pytest.importorskip("torch")

WIDTH = 12


def vectors(rows: int, seed: int = 0) -> NDArray[np.float16]:
    """Random directions of any length; every seventh is one of three, so that there are ties."""
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((rows, WIDTH)) * rng.uniform(0.5, 3, (rows, 1))
    found[::7] = np.eye(WIDTH)[rng.integers(0, 3, len(found[::7]))]
    return found.astype(np.float16)


def uid(shard: int, row: int) -> str:
    """One that does not sort as rows do."""
    return f"{(shard * 1009 + row) * 0x9E3779B97F4A7C15 % 2**128:032x}"


def column(values: NDArray[Any], missing: Any = None) -> pa.Array:
    """A list column, null where it says."""
    kind = pa.list_(pa.from_numpy_dtype(values.dtype), values.shape[1])
    rows = [None if missing is not None and missing[i] else each for i, each in enumerate(values)]
    return pa.array(rows, kind)


def write(store: Store, shard: int, values: pa.Array, rows: NDArray[Any], group: int, part: int = 0) -> StepFile:
    """A file of scores as a run writes it."""
    name = f"scores/clip/{shard:05d}{f'.{part}' if part else ''}.parquet"
    uids = [uid(shard, int(row)) for row in rows]
    places = {"uid": uids, "shard": np.full(len(rows), shard, np.int32), "row": rows.astype(np.int32)}
    table = pa.table({**places, "vec": values})
    with store.create_sealed(name, table.schema, {}) as writer:
        writer.write_table(table, row_group_size=group)
    return StepFile(store, name, "vec")


def check(found: Nearest, query: NDArray[np.float32], of: dict[tuple[int, int], NDArray[np.float16]]) -> None:
    """The greatest cosines by numpy in float64, to what float32 tells apart; in the order of score and uid."""
    wide = {place: vector.astype(np.float64) for place, vector in of.items()}
    cosines = {place: float(vector @ query / np.linalg.norm(vector)) for place, vector in wide.items()}
    places = [entry[2:] for entry in found.entries]
    assert len(set(places)) == len(places) == min(found.most, len(of))
    assert all(entry[1] == uid(*entry[2:]) for entry in found.entries)
    assert max(abs(cosines[entry[2:]] + entry[0]) for entry in found.entries) < 1e-6
    assert found.entries == sorted(found.entries)
    left = [cosine for place, cosine in cosines.items() if place not in set(places)]
    assert min(cosines[place] for place in places) > max(left, default=-2) - 1e-6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A folder for files."""
    return Store(str(tmp_path_factory.mktemp("scan")))


@pytest.fixture(scope="module")
def pieces(store: Store) -> tuple[list[StepFile], dict[tuple[int, int], NDArray[np.float16]]]:
    """Four shards of up to 900 rows, one in two parts, some rows null, zero, or not finite; and what they hold."""
    files: list[StepFile] = []
    of: dict[tuple[int, int], NDArray[np.float16]] = {}
    for shard, (count, group) in enumerate([(900, 100), (513, 513), (40, 7), (700, 300)]):
        values = vectors(count, shard)
        missing = np.arange(count) % 11 == 3
        values[5::50], values[6::50], values[7::50] = 0, np.nan, np.inf
        is_good = ~missing & np.isfinite(values).all(axis=1) & (values != 0).any(axis=1)
        rows = np.arange(count)
        for part, take in enumerate([rows % 3 > 0, rows % 3 == 0] if shard == 3 else [rows >= 0]):
            files.append(write(store, shard, column(values[take], missing[take]), rows[take], group, part))
        of |= {(shard, int(row)): values[row] for row in rows[is_good]}
    return files, of


def query(seed: int = 0) -> NDArray[np.float32]:
    """A unit vector."""
    found = np.random.default_rng(seed).standard_normal(WIDTH)
    return np.asarray(found / np.linalg.norm(found), np.float32)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("most", [1, 20, 500, 5000])
def test_it_is_the_exact_answer(pieces: Any, most: int, threads: int) -> None:
    """The greatest cosines of all vectors, of many equal ones the first by uid; those without a direction are none."""
    files, of = pieces
    for wanted in (query(1), np.eye(WIDTH, dtype=np.float32)[1]):
        found = nearest(files, wanted, most, None, threads, Silent())
        check(found, wanted, of)
        assert found.vectors == len(of)
        assert found.rows == 900 + 513 + 40 + 700


def test_nothing_depends_on_files_and_their_order(store: Store, pieces: Any) -> None:
    """Bit by bit: ties go by uid, files turned round, and each shard cut otherwise."""
    files, of = pieces
    equal = nearest(files, np.eye(WIDTH, dtype=np.float32)[1], 50, None, 2, Silent()).entries
    ones = [place for place, vector in of.items() if vector[1] == 1 and np.count_nonzero(vector) == 1]
    assert [entry[1] for entry in equal] == sorted(uid(*place) for place in ones)[:50]
    wanted = nearest(files, query(2), 100, None, 1, Silent()).entries
    assert nearest(files[::-1], query(2), 100, None, 2, Silent()).entries == wanted
    other = Store(f"{store.root}/other")
    again = []
    for shard in range(4):
        rows = np.array([row for s, row in of if s == shard])
        values = np.stack([of[shard, int(row)] for row in rows])
        again.append(write(other, shard, column(values), rows, 33))
    assert nearest(again, query(2), 100, None, 1, Silent()).entries == wanted


def test_masks_choose_rows(pieces: Any) -> None:
    """Only they are compared, and counted."""
    files, of = pieces
    rng = np.random.default_rng(3)
    masks: Masks = {shard: rng.random(count) < 0.1 for shard, count in enumerate((900, 513, 40, 700))}
    taken = {place: vector for place, vector in of.items() if masks[place[0]][place[1]]}
    found = nearest(files, query(4), 10_000, masks, 2, Silent())
    check(found, query(4), taken)
    assert found.vectors == len(taken)


def test_no_vector_and_no_file(store: Store) -> None:
    """Nothing is found."""
    empty = write(Store(f"{store.root}/empty"), 0, pa.nulls(5, pa.list_(pa.float16(), WIDTH)), np.arange(5), 5)
    for files in ([], [empty]):
        found = nearest(files, query(), 3, None, 1, Silent())
        assert (found.entries, found.vectors) == ([], 0)


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    """With its name and the next step."""
    store = Store(str(tmp_path))
    file = write(store, 0, column(vectors(500)), np.arange(500), 500)
    path = tmp_path / file.name
    content = bytearray(path.read_bytes())
    content[3000] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DamagedFileError, match=r"00000\.parquet: .*run the recipe again"):
        nearest([file], query(), 3, None, 1, Silent())
    path.write_bytes(bytes(content[:2000]))
    with pytest.raises(DamagedFileError, match=r"00000\.parquet: .*run the recipe again"):
        nearest([file], query(), 3, None, 1, Silent())


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_cosines_do_not_depend_on_neighbours(kind: Any) -> None:
    """Bit by bit, in any slice; and they are those of float64 to 1e-6."""
    values = vectors(1500).astype(kind)
    with torch.inference_mode():
        wanted = torch.from_numpy(query(5))
        whole = cosines(column(values), wanted)
        parts = [cosines(column(values).slice(i, 77), wanted) for i in range(0, 1500, 77)]
    assert np.array_equal(np.concatenate(parts), whole)
    wide = values.astype(np.float64)
    assert np.abs(whole - wide @ query(5) / np.linalg.norm(wide, axis=1)).max() < 1e-6


@dataclass(frozen=True)
class Given:
    """Scores in stretches."""

    scores: list[list[float]]

    def stretches(self) -> Iterator[tuple[NDArray[np.float32], Stretch]]:
        """As a piece of one shard gives them."""
        first = 0
        for part in self.scores:
            rows = np.arange(first, first + len(part))
            first += len(part)
            stretch = Stretch(0, rows, pa.nulls(len(part)), lambda p, rows=rows: [f"{-rows[i] % 5}" for i in p])  # type: ignore[misc]
            yield np.array(part, np.float32), stretch


@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, float("nan"), -1.0]), max_size=12), max_size=8),
    st.integers(1, 9),
)
def test_the_best_are_kept_of_any_scores(scores: list[list[float]], most: int) -> None:
    """Many ties, NaN, more and fewer than are asked for; in parts that are merged too."""
    whole, merged, all_ = Nearest(most), Nearest(most), list[Entry]()
    for found, stretch in Given(scores).stretches():
        whole.offer(found, stretch, -np.inf)
        part = Nearest(most)
        part.offer(found, stretch, merged.least)
        merged.add(part.entries)
        uids = stretch.uids(np.arange(len(found)))
        all_ += [(-s, u, 0, int(r)) for s, u, r in zip(found, uids, stretch.rows, strict=True) if s == s]
    assert whole.entries == merged.entries == sorted(all_)[:most]
