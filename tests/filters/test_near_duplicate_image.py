"""near_duplicate_image: what looks alike goes but for the best, what does not stays, and nothing broken crashes."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from pairsieve.filters import _hamming, _phash
from pairsieve.filters.base import scoring_settings
from pairsieve.filters.near_duplicate_image import NearDuplicateImage
from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result
from pairsieve.schemas.errors import PairsieveError
from tests import support_pools
from tests.support import digests, recipe, write_csv
from tests.support_phash import clusters, encoded, planted, scene

NEAR = "near_duplicate_image"
STORED = "tests.support_phash:StoredHashes"


def pool(root: Path, files: dict[str, bytes | None]) -> dict[str, Any]:
    """A pool of named images, in shards of four."""
    root.mkdir()
    table = pa.table({"image": pa.array(files.values(), pa.binary()), "text": list(files)})
    pq.write_table(table, root / "x.parquet", row_group_size=4)
    return {"pairs": {"path": str(root), "shard_rows": 4}}


def kept(found: Result) -> list[str]:
    """The names of what stays, sorted."""
    table = found.query("SELECT text FROM scores WHERE dropped_by IS NULL ORDER BY text")
    return [str(name) for name in table["text"].to_pylist()]


def copies(seed: int) -> dict[str, bytes]:
    """What people do with a picture on the web; the original's name sorts first."""
    picture = scene(seed, 480, 360)
    half, thumb = picture.resize((240, 180), Image.Resampling.LANCZOS), picture.resize((160, 120))
    return {
        f"{seed} a": encoded(picture, quality=95),
        f"{seed} poor": encoded(picture, quality=40),
        f"{seed} png": encoded(picture, "PNG"),
        f"{seed} webp": encoded(picture, "WEBP", quality=60),
        f"{seed} half": encoded(half, quality=80),
        f"{seed} thumb": encoded(thumb, quality=85),
        f"{seed} grey": encoded(picture.convert("L")),
        f"{seed} bright": encoded(ImageEnhance.Brightness(picture).enhance(1.05)),
        f"{seed} stretched": encoded(picture.resize((480, 300))),
    }


def hashed(*files: bytes | None, **chosen: Any) -> pa.RecordBatch:
    """Scores of some files."""
    made = NearDuplicateImage(**chosen)
    scores = made.score(pa.record_batch({"image": pa.array(files, pa.binary())}))
    types = {name: values.type for name, values in scores.items()}
    assert types == made.outputs({"image": pa.binary()})
    return pa.record_batch(scores)


@pytest.mark.parametrize("chosen", [{}, {"bits": 256}, {"decode": "exact", "mirrored": True}])
def test_copies_go_and_others_stay(tmp_path: Path, chosen: dict[str, Any]) -> None:
    """Re-encoded, resized, grey, a little brighter; from shards of four, with one worker or two."""
    files: dict[str, bytes | None] = {}
    for seed in range(3):
        files |= copies(seed)
    files |= {f"{seed} alone": encoded(scene(seed, 320, 240)) for seed in range(10, 22)}
    made: dict[str, Any] = {"pool": pool(tmp_path / "pool", files), "filters": [{NEAR: {"prefer": "text", **chosen}}]}
    found = run(made, tmp_path / "run", workers=1)
    assert kept(found) == sorted([*(f"{seed} a" for seed in range(3)), *(f"{seed} alone" for seed in range(10, 22))])
    assert found.tally.dropped == {(NEAR, NEAR): 24}
    run(made, tmp_path / "two", workers=2)
    assert digests(tmp_path / "run") == digests(tmp_path / "two")


def test_a_second_run_over_what_stays_drops_nothing(tmp_path: Path) -> None:
    """And a reader of the catalog sees hashes as they are written in hex."""
    files = {f"{i} {name}": data for i in range(3) for name, data in copies(i).items()}
    first = run({"pool": pool(tmp_path / "pool", dict(files)), "filters": [NEAR]}, tmp_path / "run", workers=1)
    left = {name: files[name] for name in kept(first)}
    again = run({"pool": pool(tmp_path / "left", dict(left)), "filters": [NEAR]}, tmp_path / "again", workers=1)
    assert len(left) == again.rows == again.kept == 3
    sql = "SELECT lower(hex(phash)) AS hash FROM scores WHERE text = '0 0 png'"
    wanted = hashed(files["0 0 png"])["phash"][0].as_py().hex()
    assert first.query(sql)["hash"].to_pylist() == [wanted]


def test_mirror_images_are_found_where_asked_for(tmp_path: Path) -> None:
    """As files of their own, of every sort; upside down is another picture."""
    files: dict[str, bytes | None] = {}
    for seed in range(4):
        picture = scene(seed, 400, 320)
        turned = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        files[f"{seed} a"] = encoded(picture)
        files[f"{seed} mirror"] = encoded(turned.resize((240, 192)), quality=70)
        files[f"{seed} under"] = encoded(picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM))
    source = pool(tmp_path / "pool", files)
    for bits in (64, 256):
        steps = [{NEAR: {"prefer": "text", "bits": bits, "mirrored": mirrored}} for mirrored in (False, True)]
        plain, turned_too = (
            run({"pool": source, "filters": [step]}, tmp_path / f"{bits}{i}", workers=1) for i, step in enumerate(steps)
        )
        assert plain.kept == 12
        assert kept(turned_too) == sorted(name for name in files if "mirror" not in name)


def test_what_has_no_hash_stays(tmp_path: Path) -> None:
    """Broken, cut, blank and striped pictures, twice each; the pool itself drops what is missing."""
    photo, blank = encoded(scene(0)), encoded(Image.new("RGB", (300, 200), "white"))
    stripes = encoded(Image.fromarray(np.tile(np.repeat([0, 255], 40), (200, 3)).astype(np.uint8)), "PNG")
    bad = [None, b"", b"no image", photo[:400], photo[: len(photo) // 2], blank, stripes]
    files = {f"{i} {j}": data for j in range(2) for i, data in enumerate(bad)} | {"a": photo, "b": photo}
    found = run({"pool": pool(tmp_path / "pool", files), "filters": [NEAR]}, tmp_path / "run", workers=1)
    assert found.tally.dropped == {(NEAR, NEAR): 1, ("pool", "no_image"): 2}
    empty = found.query("SELECT count(*) AS n FROM scores WHERE phash IS NULL")
    assert empty["n"].to_pylist() == [2 * len(bad)]


@pytest.mark.parametrize("kind", ["pairs", "webdataset", "img2dataset"])
def test_pools_that_hold_images(tmp_path: Path, kind: str) -> None:
    """Five pictures of noise and one missing: nothing is near."""
    made = getattr(support_pools, f"write_{kind}")(tmp_path)
    found = run({"pool": made, "filters": [NEAR]}, tmp_path / "run", workers=1)
    assert found.measured == {NEAR: 5}
    assert found.kept == 5


def test_scores_do_not_depend_on_the_batch() -> None:
    """One by one as all at once; an empty batch has the same columns."""
    files = [*copies(1).values(), None, b"x"]
    for chosen in ({}, {"bits": 256, "mirrored": True}):
        whole = hashed(*files, **chosen)
        assert [hashed(one, **chosen).to_pylist()[0] for one in files] == whole.to_pylist()
        assert hashed(**chosen).schema == whole.schema


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from([(64, 4), (64, 2), (256, 15)]), st.booleans())
def test_alike_is_the_distance_and_symmetric(seed: int, chosen: tuple[int, int], mirrored: bool) -> None:
    """Against counting bits, also in slices of a batch."""
    bits, distance = chosen
    made = NearDuplicateImage(bits=bits, distance=distance, radius=distance, mirrored=mirrored)
    hashes, _ = planted(40, bits, distance + 2, seed, share=0.9)
    hashes[::5] ^= _phash.mirror_bits(bits)
    column = pa.array([bytes(row) for row in hashes], pa.binary(bits // 8))
    one = pa.record_batch({"phash": column}).slice(3)
    other = pa.record_batch({"phash": column.take(pa.array(np.roll(np.arange(40), 1)))}).slice(3)
    mirror = int.from_bytes(_phash.mirror_bits(bits).tobytes()) if mirrored else 0
    gaps = [
        int.from_bytes(a.as_py()) ^ int.from_bytes(b.as_py()) for a, b in zip(one["phash"], other["phash"], strict=True)
    ]
    wanted = [min(gap.bit_count(), (gap ^ mirror).bit_count()) <= distance for gap in gaps]
    assert made.alike(one, other).tolist() == made.alike(other, one).tolist() == wanted


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("bits", "radius"), [(64, 4), (64, 1), (256, 15)])
def test_clusters_are_those_of_all_pairs(tmp_path: Path, bits: int, radius: int, mirrored: bool) -> None:
    """3,000 hashes, a third near another: what stays is the best of each component that comparing all pairs gives."""
    hashes, _ = planted(3000, bits, radius, seed=radius, share=0.35)
    if mirrored:
        hashes[::3] ^= _phash.mirror_bits(bits)
    mirror = _hamming.words(_phash.mirror_bits(bits)[None]) if mirrored else None
    rows = [{"url": f"http://e.org/{i:04d}", "text": bytes(row).hex()} for i, row in enumerate(hashes)]
    chosen = {"bits": bits, "radius": radius, "mirrored": mirrored, "prefer": "url"}
    made = recipe(write_csv(tmp_path / "list.csv", rows), {STORED: chosen})
    made["pool"]["urls"]["shard_rows"] = 1000
    found = run(made, tmp_path / "run", workers=1)
    sql = "SELECT url FROM scores WHERE dropped_by IS NULL ORDER BY url"
    wanted = np.unique(clusters(hashes, radius, mirror))
    assert found.query(sql)["url"].to_pylist() == [f"http://e.org/{i:04d}" for i in wanted]
    assert len(wanted) < 2300


def test_little_is_missed_where_the_best_is_any_copy(tmp_path: Path) -> None:
    """In random order, at least 98 % of what comparing all pairs would drop goes, and nothing else."""
    hashes, _ = planted(3000, 64, 4, seed=9, share=0.5)
    rows = [{"url": f"http://e.org/{i:04d}", "text": bytes(row).hex()} for i, row in enumerate(hashes)]
    made = recipe(write_csv(tmp_path / "list.csv", rows), {STORED: {"prefer": "hash(url)"}})
    found = run(made, tmp_path / "run", workers=1)
    sql = 'SELECT s.url, b.url AS best FROM scores s JOIN scores b ON s."StoredHashes_of" = b.uid'
    pairs = [(int(row["url"][-4:]), int(row["best"][-4:])) for row in found.query(sql).to_pylist()]
    wanted = clusters(hashes, 4)
    assert all(wanted[one] == wanted[best] for one, best in pairs)
    assert len(pairs) >= 0.98 * (3000 - len(np.unique(wanted)))


def test_a_threshold_measures_nothing_again(tmp_path: Path) -> None:
    """Another distance within the radius compares stored hashes; another radius has other keys."""
    files = {name: data for seed in range(3) for name, data in copies(seed).items()}
    source = pool(tmp_path / "pool", dict(files))
    run({"pool": source, "filters": [{NEAR: {"distance": 0}}]}, tmp_path / "run", workers=1)
    edited: dict[str, Any] = {"pool": source, "filters": [{NEAR: {"distance": 3, "prefer": "text DESC"}}]}
    assert run(edited, tmp_path / "run", workers=1).measured == {NEAR: 0}
    run(edited, tmp_path / "fresh", workers=1)
    assert digests(tmp_path / "run") == digests(tmp_path / "fresh")
    assert scoring_settings(NearDuplicateImage(radius=3)) != scoring_settings(NearDuplicateImage())


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"radius": 5}, "'radius' of 64 bits is at most 4; take 'bits: 256' for more"),
        ({"distance": 5}, "'distance' is at most 'radius', here 4: raise 'radius' too"),
        ({"bits": 256, "distance": 15}, "'distance' is at most 'radius', here 14: raise 'radius' too"),
        ({"bits": 256, "radius": 32}, "radius"),
        ({"bits": 128}, "bits"),
        ({"distance": -1}, "distance"),
        ({"decode": "slow"}, "decode"),
        ({"prefer": "widht"}, "widht"),
        (
            {"prefer": "phash DESC"},
            "prefer: 'phash' is measured by this step to say which pairs are alike, not which is",
        ),
        ({"prefer": "text, PHASH_KEYS[1]"}, "prefer: 'phash_keys' is measured by this step"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path: Path, chosen: dict[str, Any], said: str) -> None:
    """Before anything is read."""
    made = {"pool": pool(tmp_path / "pool", {"a": b"x"}), "filters": [{NEAR: chosen}]}
    with pytest.raises(PairsieveError) as caught:
        run(made, tmp_path / "run", workers=1)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_second_step_needs_a_name_too(tmp_path: Path) -> None:
    """Said as such: its columns would be those of the step above, which has one."""
    made = {"pool": pool(tmp_path / "pool", {"a": b"x"}), "filters": [{NEAR: {"as": "loose"}}, NEAR]}
    with pytest.raises(
        PairsieveError, match="writes 'phash', as the step 'loose' does; give this one another name: 'as"
    ):
        run(made, tmp_path / "run", workers=1)
    made["filters"] = [{NEAR: {"as": "loose"}}, {NEAR: {"as": "strict", "distance": 0}}]
    assert run(made, tmp_path / "run", workers=1).kept == 1


def test_an_image_that_is_no_bytes_is_refused(tmp_path: Path) -> None:
    """A column of paths, say."""
    (tmp_path / "pool").mkdir()
    pq.write_table(pa.table({"image": ["a.jpg"], "text": ["a"]}), tmp_path / "pool" / "x.parquet")
    made = {"pool": {"pairs": {"path": str(tmp_path / "pool")}}, "filters": [NEAR]}
    with pytest.raises(PairsieveError, match="image"):
        run(made, tmp_path / "run", workers=1)
