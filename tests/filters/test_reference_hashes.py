"""The nearest reference hash: against comparing all, whatever the cut; and hashes from files of all kinds."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pairsieve.filters import _reference_pictures
from pairsieve.filters._hamming import words
from pairsieve.filters._reference_hashes import MOST, Cut, Hashes, Kind, best_cut
from pairsieve.filters._reference_pictures import check_hashes, reference_hashes
from pairsieve.schemas.errors import UserError
from tests.support_phash import encoded, planted, scene

EXACT = Kind(64, False, False)


def literal(rows: Any, refs: Any, sets: Any, radius: int) -> list[tuple[int, int]]:
    """Distance and set by Python's integers, one by one."""
    found = []
    for row in rows.tolist():
        gaps = [sum((a ^ b).bit_count() for a, b in zip(row, ref, strict=True)) for ref in refs.tolist()]
        best = min(zip(gaps, sets.tolist(), strict=True), default=(radius + 1, -1))
        found.append(best if best[0] <= radius else (radius + 1, -1))
    return found


def around(refs: Any, count: int, radius: int, rng: Any) -> Any:
    """Hashes at all distances from references up to two beyond the radius, in whatever bits."""
    bits = 64 * refs.shape[1]
    of = refs[rng.integers(0, len(refs), count)]
    flips = rng.random((count, bits)).argsort(axis=1) < rng.integers(0, radius + 3, (count, 1))
    return of ^ words(np.packbits(flips, axis=1))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(64, 0), (64, 1), (64, 4), (64, 7), (64, 12), (256, 0), (256, 14), (256, 31), (256, 48)]),
    st.integers(1, 400),
    st.integers(0, 2**32 - 1),
)
def test_the_nearest_is_that_of_comparing_all(chosen: tuple[int, int], count: int, seed: int) -> None:
    """Exactly within the radius; of equal distances the first set; references may be there twice."""
    bits, radius = chosen
    rng = np.random.default_rng(seed)
    refs = words(planted(count + 2, bits, max(1, radius), seed, 0.4)[0])[:count]
    refs = np.concatenate([refs, refs[: count // 4]])
    sets = rng.integers(0, 3, len(refs)).astype(np.int32)
    rows = np.concatenate([around(refs, 40, radius, rng), words(planted(10, bits, 1, seed + 1)[0])])
    distances, places = Hashes(refs, sets, radius).find(rows)
    assert list(zip(distances.tolist(), places.tolist(), strict=True)) == literal(rows, refs, sets, radius)


@pytest.mark.parametrize("bits", [64, 256])
@pytest.mark.parametrize("blocks", [0, 1, 2, 3, 5, 8])
def test_every_cut_finds_the_same(bits: int, blocks: int) -> None:
    """Tables of any width, with few or many bits that may differ in a block."""
    rng = np.random.default_rng(blocks)
    refs = words(planted(300, bits, 8, blocks)[0])
    sets = rng.integers(0, 4, len(refs)).astype(np.int32)
    for radius in (0, 3, 6):
        rows = around(refs, 60, radius, rng)
        wanted = literal(rows, refs, sets, radius)
        for width in (4, 7, 8):
            made = Hashes(refs, sets, radius)
            near, more = divmod(radius, max(1, blocks * bits // 64))
            made.cut = Cut(blocks, width, near, more + 1)
            distances, places = made.find(rows)
            assert list(zip(distances.tolist(), places.tolist(), strict=True)) == wanted


def test_many_equal_references_cost_nothing() -> None:
    """They are one."""
    made = Hashes(np.full((1_000_000, 1), 7, np.uint64), np.arange(1_000_000, dtype=np.int32)[::-1].copy(), 4)
    assert made.hashes.shape == (1, 1)
    assert [found.tolist() for found in made.find(np.array([[7], [6], [1 << 40]], np.uint64))] == [[0, 1, 4], [0, 0, 0]]


def test_the_cut_follows_the_number_of_references() -> None:
    """Few are all compared where the radius is wide; for many there are tables."""
    assert best_cut(10, 64, 12).blocks == 0
    assert best_cut(100_000, 64, 4).blocks >= 3


PICTURES = {f"{i}": encoded(scene(i, 200, 150), quality=90) for i in range(6)} | {
    "flat": encoded(Image.new("L", (60, 60)))
}
BROKEN = {"cut": PICTURES["0"][:500], "text": b"no image at all"}


def stored(hash_: imagehash.ImageHash) -> bytes:
    """As bytes."""
    return bytes.fromhex(str(hash_))


HASHED = [imagehash.phash(Image.open(io.BytesIO(PICTURES[str(i)]))) for i in range(6)]


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    """A tar of named files, with others among them."""
    with tarfile.open(path, "w") as tar:
        for name, data in {"README.txt": b"read me", **files}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    """Files in folders."""
    for name, data in {"README.txt": b"read me", **files}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def as_column(kind: str) -> Callable[[Path], Path]:
    """Writers of Parquet files."""

    def write(path: Path) -> Path:
        images = [PICTURES[str(i)] for i in range(6)]
        hashes = [stored(h) for h in HASHED]
        columns: dict[str, pa.Array] = {
            "images": pa.array(images, pa.large_binary()),
            "structs": pa.array([{"bytes": data, "path": "x"} for data in images]),
            "bytes": pa.array(hashes, pa.binary(8)),
            "blobs": pa.array(hashes, pa.binary()),
            "words": pa.array([int(str(h), 16) for h in HASHED], pa.uint64()),
            "hex": pa.array([str(h) for h in HASHED]),
        }
        table = pa.table({"id": range(6), "x": columns[kind]}).slice(0)
        pq.write_table(table, path / "x.parquet", row_group_size=4)
        return path / "x.parquet"

    return write


def as_npy(values: Any) -> Callable[[Path], Path]:
    """A writer of an array."""

    def write(path: Path) -> Path:
        np.save(path / "x.npy", values)
        return path / "x.npy"

    return write


NAMED = {f"class {i % 2}/{i}.JPEG": PICTURES[str(i)] for i in range(6)}
FORMS: dict[str, Callable[[Path], Path]] = {
    "folder": lambda path: write_folder(path / "x", NAMED),
    "glob": lambda path: write_folder(path / "x", NAMED) / "*" / "*.JPEG",
    "tar": lambda path: write_tar(path / "x.tar", NAMED),
    **{f"parquet {kind}": as_column(kind) for kind in ("images", "structs", "bytes", "blobs", "words", "hex")},
    "npy booleans": as_npy(np.array([h.hash for h in HASHED])),
    "npy bytes": as_npy(np.array([list(stored(h)) for h in HASHED], np.uint8)),
    "npy words": as_npy(np.array([int(str(h), 16) for h in HASHED], np.uint64)),
    "npy hex": as_npy(np.array([str(h) for h in HASHED])),
    "npy hex as bytes": as_npy(np.array([str(h).encode() for h in HASHED])),
    "npy words of the other order": as_npy(np.array([int(str(h), 16) for h in HASHED], ">u8")),
}


@pytest.mark.parametrize("form", FORMS)
def test_any_form_gives_imagehashs_bits(tmp_path: Path, form: str) -> None:
    """Images are measured, hashes read: the same ones."""
    made = FORMS[form](tmp_path)
    from pairsieve.filters._reference_files import sets_of
    from pairsieve.filters._reference_hashes import HASHES
    from pairsieve.filters._reference_hashes import PICTURES as ENDINGS

    sets = sets_of({"a": str(made)}, HASHES, ENDINGS)
    for file in sets["a"]:
        check_hashes(file, None, EXACT)
    found, places, notes = reference_hashes(sets, None, EXACT)
    assert sorted(found[:, 0].tolist()) == sorted(int(str(h), 16) for h in HASHED)
    assert places.tolist() == [0] * 6
    assert notes == []


def test_what_near_duplicate_image_stored_is_a_reference(tmp_path: Path) -> None:
    """Among other columns ``phash`` is meant; nulls have no hash and are told."""
    hashes = pa.array([*(stored(h) for h in HASHED), None], pa.binary(8))
    table = pa.table({"uid": ["a" * 32] * 7, "phash": hashes, "image": pa.array([b"x"] * 7)})
    pq.write_table(table, tmp_path / "x.parquet")
    found, _, notes = reference_hashes({"a": [str(tmp_path / "x.parquet")]}, None, EXACT)
    assert found[:, 0].tolist() == [int(str(h), 16) for h in HASHED]
    assert notes == [
        "references: a: 1 of 7 references have no hash (broken, too large, flat or null): "
        f"{tmp_path}/x.parquet, row 6; nothing is compared with these"
    ]


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_broken_references_are_counted_and_named(tmp_path: Path, form: str) -> None:
    """The first three by name; the others of the set are compared."""
    files = {f"{name}.jpg": data for name, data in (PICTURES | BROKEN | {"big": b"0" * 3_000_000}).items()}
    write = write_folder if form == "folder" else write_tar
    made = write(tmp_path / "x.tar", files)
    names = sorted(str(p) for p in made.glob("*.jpg")) if form == "folder" else [str(made)]
    found, _, (note,) = reference_hashes({"a": names}, None, Kind(64, False, True))
    assert len(found) == 6
    assert "4 of 10 references have no hash" in note
    assert note.count(".jpg") == 3
    assert " and more; " in note


def test_a_set_without_any_hash_is_refused(tmp_path: Path) -> None:
    """It would keep nothing out."""
    made = write_tar(tmp_path / "x.tar", {"a.png": b"x", "b.png": b"y"})
    with pytest.raises(UserError, match=r"references: a: 2 of 2 references have no hash .*a\.png.*; leave the set out"):
        reference_hashes({"a": [str(made)]}, None, EXACT)
    with pytest.raises(UserError, match="references: b: holds no image; leave the set out"):
        reference_hashes({"b": [str(write_tar(tmp_path / "y.tar", {}))]}, None, EXACT)


def test_large_sets_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second worker reads what the first has kept; another file, or other bits, are measured."""
    monkeypatch.setenv("PAIRSIEVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_reference_pictures, "CACHED_BYTES", 1000)
    made = {"a": [str(write_tar(tmp_path / "x.tar", NAMED | {"y.jpg": b"broken"}))]}
    first = reference_hashes(made, None, EXACT)
    with monkeypatch.context() as patch:
        patch.setattr(_reference_pictures, "_gather", None)
        again = reference_hashes(made, None, EXACT)
        with pytest.raises(TypeError):
            reference_hashes(made, None, Kind(256, False, False))
    assert (first[0] == again[0]).all()
    assert first[2] == again[2]


def test_bytes_that_a_dictionary_repeats_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One value of 30 MB, 100 times: each is too large an image, and none is held twice."""
    monkeypatch.setattr(_reference_pictures, "MOST_PICTURE_BYTES", 1_000_000)
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 100, pa.int32()), pa.array([b"0" * 30_000_000]))
    pq.write_table(pa.table({"image": column}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="100 of 100 references have no hash"):
        reference_hashes({"a": [str(tmp_path / "x.parquet")]}, None, EXACT)


def test_a_tar_that_is_cut_is_refused(tmp_path: Path) -> None:
    """Within a member, between members, within a header, and one that claims a name of a gigabyte."""
    whole = write_tar(tmp_path / "x.tar", NAMED).read_bytes()
    second = 512 * (2 + 1 + -(-len(PICTURES["0"]) // 512))
    for end in (second + 3000, second, second + 100):
        (tmp_path / "cut.tar").write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"references: a: .*cut\.tar: is (no whole tar|cut off)"):
            reference_hashes({"a": [str(tmp_path / "cut.tar")]}, None, EXACT)
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    (tmp_path / "long.tar").write_bytes(info.tobuf() + b"a" * 5000)
    with pytest.raises(UserError, match=r"long\.tar: is no whole tar: a header of kind"):
        check_hashes(str(tmp_path / "long.tar"), None, EXACT)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros((0, 8), np.uint8), "holds no hash; leave it out"),
        (np.zeros((3, 9), np.uint8), "holds 3 × 9 of uint8, not hashes of 64 bits"),
        (np.zeros((3, 8)), "holds 3 × 8 of float64, not hashes"),
        (np.zeros((3, 4), np.uint64), "3 × 4 of uint64, not hashes of 64 bits"),
        (np.array(["12xy"]), "'12xy' is no hash of 64 bits in hex"),
        (np.array([None]), "Python objects"),
    ],
)
def test_arrays_that_are_no_hashes(tmp_path: Path, values: Any, says: str) -> None:
    """Told with the file's name when it is looked at."""
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(UserError, match=rf"x\.npy: .*{says}"):
        check_hashes(str(tmp_path / "x.npy"), None, EXACT)


@pytest.mark.parametrize(
    ("columns", "key", "says"),
    [
        ({"a": [1.5]}, None, "has no columns of hashes of 64 bits or images: 'a'; set 'key'"),
        ({"a": ["0" * 16], "b": ["0" * 16]}, None, "has 2 columns of hashes of 64 bits or images: 'a', 'b'; set 'key'"),
        (
            {"a": pa.array([b"0" * 32], pa.binary(32))},
            "a",
            r"column 'a' is fixed_size_binary\[32\], not hashes of 64 bits",
        ),
        ({"a": pa.array([], pa.binary(8))}, None, "holds no row; leave it out"),
        ({"a": ["0" * 16]}, "b", "has no column 'b', but 'a'"),
    ],
)
def test_tables_that_hold_no_hashes(tmp_path: Path, columns: dict[str, Any], key: str | None, says: str) -> None:
    """Told with the file's name when it is looked at."""
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=rf"x\.parquet: {says}"):
        check_hashes(str(tmp_path / "x.parquet"), key, EXACT)


def test_too_many_hashes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one set, and in all together."""
    np.save(tmp_path / "x.npy", np.arange(50, dtype=np.uint64))
    monkeypatch.setattr(_reference_pictures, "MOST", 60)
    assert MOST > 10_000_000
    with pytest.raises(UserError, match=r"references: 100 hashes, more than 60; take fewer sets"):
        reference_hashes({name: [str(tmp_path / "x.npy")] for name in "ab"}, None, EXACT)
    with pytest.raises(UserError, match=r"references: a: .*x\.npy: more than 60 hashes; take fewer files"):
        reference_hashes({"a": [str(tmp_path / "x.npy")] * 2}, None, EXACT)
