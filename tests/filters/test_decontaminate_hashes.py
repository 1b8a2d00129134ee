"""``decontaminate: {by: hashes}``: copies of evaluation images go, by their perceptual hashes."""

import io
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from pairsieve.filters.base import UnknownColumnError, deciding_settings, scoring_settings
from pairsieve.filters.decontaminate import Decontaminate
from pairsieve.filters.near_duplicate_image import NearDuplicateImage
from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result
from pairsieve.schemas.errors import PairsieveError, UserError
from tests.support import digests
from tests.support_phash import encoded, scene

STEP = "decontaminate"


def picture(seed: int) -> Image.Image:
    """One of many."""
    return scene(seed, 240, 180)


@pytest.fixture
def references(tmp_path: Path) -> dict[str, Any]:
    """A folder of images 0 to 4, hashes of 5 to 9."""
    (tmp_path / "imagenet").mkdir()
    for i in range(5):
        (tmp_path / "imagenet" / f"{i}.JPEG").write_bytes(encoded(picture(i), quality=95))
    np.save(tmp_path / "coco.npy", np.array([imagehash.phash(picture(i)).hash for i in range(5, 10)]))
    return {"imagenet": str(tmp_path / "imagenet"), "coco": str(tmp_path / "coco.npy")}


IMAGES: dict[str, bytes | None] = {
    **{f"copy {i}": encoded(picture(i).resize((160, 120)), quality=60) for i in range(10)},
    **{f"other {i}": encoded(picture(i), quality=80) for i in range(20, 30)},
    "broken": b"no image",
    "flat": encoded(Image.new("RGB", (90, 90), "blue")),
}


def pool(root: Path, images: dict[str, bytes | None] | None = None) -> dict[str, Any]:
    """Named images, in shards of five."""
    images = IMAGES if images is None else images
    root.mkdir()
    table = pa.table({"image": pa.array(images.values(), pa.binary()), "text": list(images)})
    pq.write_table(table, root / "x.parquet", row_group_size=5)
    return {"pairs": {"path": str(root), "shard_rows": 5}}


def told(found: Result, step: str = STEP) -> dict[str, tuple[Any, ...]]:
    """Distance, set and reason by name."""
    sql = f"SELECT text, {step}_distance, {step}_set, reason FROM scores ORDER BY text"
    return {name: tuple(rest) for name, *rest in (tuple(row.values()) for row in found.query(sql).to_pylist())}


def literal(name: str) -> tuple[Any, ...]:
    """By ImageHash, one by one."""
    own = imagehash.phash(Image.open(io.BytesIO(IMAGES[name] or b"")))
    sets = {"imagenet": range(5), "coco": range(5, 10)}
    gaps = {
        set_: min(own - imagehash.phash(Image.open(io.BytesIO(encoded(picture(i), quality=95)))) for i in seeds)
        if set_ == "imagenet"
        else min(own - imagehash.phash(picture(i)) for i in seeds)
        for set_, seeds in sets.items()
    }
    best = min(gaps.items(), key=lambda item: (item[1], item[0]))
    return (best[1], best[0], f"like_{best[0]}") if best[1] <= 4 else (5, None, None)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_is_imagehashs_rule(tmp_path: Path, references: dict[str, Any], workers: int) -> None:
    """Distances, sets and reasons; what has no hash is not known to be clean."""
    step = {STEP: {"by": "hashes", "references": references, "decode": "exact"}}
    found = told(run({"pool": pool(tmp_path / "pool"), "filters": [step]}, tmp_path / "run", workers=workers))
    for name in ("broken", "flat"):
        assert found.pop(name) == (None, None, "no_hash")
    assert found == {name: literal(name) for name in found}
    assert [reason for *_, reason in found.values()].count("like_imagenet") == 5
    assert [reason for *_, reason in found.values()].count("like_coco") == 5


def test_fast_decoding_finds_copies_too(tmp_path: Path, references: dict[str, Any]) -> None:
    """By default JPEGs are decoded small."""
    made = {"pool": pool(tmp_path / "pool"), "filters": [{STEP: {"by": "hashes", "references": references}}]}
    found = told(run(made, tmp_path / "run", workers=1))
    assert {name for name, (*_, reason) in found.items() if reason and "like" in reason} == {
        f"copy {i}" for i in range(10)
    }


@pytest.mark.parametrize("bits", [64, 256])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_stored_column_is_as_good_as_the_image(tmp_path: Path, bits: int, mirrored: bool) -> None:
    """``phash`` of an earlier step, mirrored or not; mirror images of references are found where asked for."""
    (tmp_path / "a").mkdir()
    for i in range(5):
        turned = picture(i).transpose(Image.Transpose.FLIP_LEFT_RIGHT) if i % 2 else picture(i)
        (tmp_path / "a" / f"{i}.png").write_bytes(encoded(turned, "PNG"))
    common = {"by": "hashes", "references": {"a": str(tmp_path / "a")}, "bits": bits, "mirrored": mirrored}
    steps: list[Any] = [
        {"near_duplicate_image": {"bits": bits, "mirrored": mirrored, "as": "near"}},
        {STEP: {**common, "column": "phash", "distance": 0, "as": "stored"}},
        {STEP: {**common, "distance": 0}},
    ]
    result = run({"pool": pool(tmp_path / "pool"), "filters": steps}, tmp_path / "run", workers=1)
    sql = "SELECT stored_distance, decontaminate_distance FROM scores WHERE dropped_by IS NULL"
    rows = result.query(sql).to_pylist()
    assert rows
    assert all(row["stored_distance"] == row["decontaminate_distance"] for row in rows)
    near = result.query(f"SELECT text FROM scores WHERE stored_distance <= {4 if bits == 64 else 14} ORDER BY text")
    assert near["text"].to_pylist() == [f"copy {i}" for i in range(5) if mirrored or i % 2 == 0]


def test_the_scores_of_a_run_are_references(tmp_path: Path, references: dict[str, Any]) -> None:
    """What ``near_duplicate_image`` stored over an evaluation set, by a glob."""
    images = {name: data for name, data in IMAGES.items() if name.startswith("copy")}
    run({"pool": pool(tmp_path / "set", images), "filters": ["near_duplicate_image"]}, tmp_path / "eval", workers=1)
    files = str(tmp_path / "eval" / "scores" / "near_duplicate_image" / "*.parquet")
    made = {"pool": pool(tmp_path / "pool"), "filters": [{STEP: {"by": "hashes", "references": {"own": files}}}]}
    found = told(run(made, tmp_path / "run", workers=1))
    assert {found[name] for name in images} == {(0, "own", "like_own")}
    assert sum(reason == "like_own" for *_, reason in found.values()) == 10


def test_a_distance_measures_nothing_again(tmp_path: Path, references: dict[str, Any]) -> None:
    """Within the radius; verdicts are those of a fresh run."""
    source = pool(tmp_path / "pool")

    def made(distance: int) -> dict[str, Any]:
        step = {"by": "hashes", "references": references, "radius": 8, "distance": distance}
        return {"pool": source, "filters": [{STEP: step}]}

    first = run(made(0), tmp_path / "run", workers=1)
    edited = run(made(8), tmp_path / "run", workers=1)
    assert edited.measured == {STEP: 0}
    run(made(8), tmp_path / "fresh", workers=2)
    assert digests(tmp_path / "run") == digests(tmp_path / "fresh")
    assert edited.kept < first.kept


def test_broken_references_are_told_once(tmp_path: Path, references: dict[str, Any]) -> None:
    """Before anything is measured, with their names; the run goes on."""
    (tmp_path / "imagenet" / "cut.jpg").write_bytes(encoded(picture(0))[:300])
    said: list[str] = []

    class Listening:
        def __getattr__(self, name: str) -> Any:
            from pairsieve.pipelines.progress import Silent

            return said.append if name == "say" else getattr(Silent(), name)

    made = {"pool": pool(tmp_path / "pool"), "filters": [{STEP: {"by": "hashes", "references": references}}]}
    found = run(made, tmp_path / "run", workers=2, progress=Listening())
    assert [line for line in said if "references" in line] == [
        "decontaminate: references: imagenet: 1 of 6 references have no hash (broken, too large, flat or null): "
        f"{tmp_path}/imagenet/cut.jpg; nothing is compared with these"
    ]
    assert found.kept == 10


def test_many_reference_files_make_a_short_footer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One digest of all; another file is another measure."""
    from pairsieve.pipelines import plan

    files = [str(tmp_path / f"{i}.bin") for i in range(4)]
    for file in files:
        Path(file).write_bytes(file.encode())
    assert [name for name, _ in plan._digests(files)] == ["0.bin", "1.bin", "2.bin", "3.bin"]
    monkeypatch.setattr(plan, "MOST_FILES", 3)
    (one,) = plan._digests(files)
    Path(files[2]).write_bytes(b"other")
    (other,) = plan._digests(files)
    assert one[0] == other[0] == "4 files"
    assert one[1] != other[1]


def test_what_is_measured() -> None:
    """Distance is no part of it; other measures know nothing of hashes, so their scores stay good."""
    made = Decontaminate(by="hashes", references={"a": "a.npy"}, distance=3)
    assert deciding_settings(made) == {"distance": 3}
    assert {"bits", "radius", "mirrored", "decode"} <= scoring_settings(made).keys()
    assert scoring_settings(made) == scoring_settings(Decontaminate(by="hashes", references={"a": "a.npy"}, radius=4))
    other = Decontaminate(by="captions", references={"a": "a.txt"}, threshold=0.5)
    assert deciding_settings(other) == {"threshold": 0.5}
    assert scoring_settings(other).keys() == {"by", "references", "column", "key", "normalize", "ngram"}
    assert made.needs() == ("numba",)


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"threshold": 0.5}, "threshold: by: hashes has none; give 'distance' instead"),
        ({"by": "captions"}, "threshold: by: captions needs it; give one"),
        ({"by": "captions", "threshold": 0.5, "distance": 3}, "'distance' belongs to by: hashes"),
        ({"by": "score", "threshold": 0.5, "references": {}, "radius": 3}, "'radius' belongs to by: hashes"),
        ({"ngram": 5}, "'ngram' belongs to by: captions"),
        ({"references": {}}, "name the files of at least one set"),
        ({"radius": 13}, "'radius' of 64 bits is at most 12"),
        ({"bits": 256, "radius": 49}, "'radius' of 256 bits is at most 48"),
        ({"distance": 5}, "'distance' is at most 'radius', here 4: raise 'radius' too"),
        ({"distance": -1}, "greater than or equal to 0"),
        ({"bits": 128}, "64 or 256"),
    ],
)
def test_settings_that_do_not_go_together(chosen: dict[str, Any], says: str) -> None:
    """Said when the recipe is read."""
    with pytest.raises(ValidationError, match=says):
        Decontaminate(**{"by": "hashes", "references": {"a": "a.npy"}, **chosen})


def test_columns(references: dict[str, Any]) -> None:
    """What is no hash of these bits, nor an image, is said before anything runs."""
    made = Decontaminate(by="hashes", references=references)
    made.check({"image": pa.binary()})
    with pytest.raises(UnknownColumnError, match="image"):
        made.check({"text": pa.string()})
    with pytest.raises(ValueError, match="column 'image' is string, not the bytes of images"):
        made.check({"image": pa.string()})
    made = Decontaminate(by="hashes", references=references, column="phash")
    made.check({"phash": pa.binary(8)})
    made.check({"phash": pa.uint64()})
    with pytest.raises(ValueError, match="column 'phash' has hashes of 256 bits; set 'bits: 256'"):
        made.check({"phash": pa.binary(32)})
    with pytest.raises(ValueError, match="column 'phash' is binary, not hashes of 64 bits"):
        made.check({"phash": pa.binary()})


def test_hashes_of_another_kind_are_refused() -> None:
    """A mirrored hash is not ImageHash's: compared with such, nothing would be found."""
    made = Decontaminate(by="hashes", references={"a": "a.npy"}, column="phash")
    made.check_after([NearDuplicateImage()])
    made.check_after([NearDuplicateImage(mirrored=True), NearDuplicateImage()])
    with pytest.raises(ValueError, match="has hashes with 'bits: 64' and 'mirrored: true'; set the same here"):
        made.check_after([NearDuplicateImage(mirrored=True)])
    Decontaminate(by="hashes", references={"a": "a.npy"}).check_after([NearDuplicateImage(mirrored=True)])


def test_bad_references_are_refused_by_name(tmp_path: Path) -> None:
    """Before anything runs: nothing there, another kind, an empty folder."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.txt").touch()
    (tmp_path / "a.txt").touch()
    for name, says in (
        ("none.tar", "no such file"),
        ("none/*.jpg", "no file matches"),
        ("a.txt", "is none of .parquet, .npy, .tar"),
        ("empty", "holds no file that ends in .jpg"),
    ):
        made = Decontaminate(by="hashes", references={"coco": str(tmp_path / name)})
        with pytest.raises(UserError, match=f"references: coco: .*{says}"):
            made.check({"image": pa.binary()})


def test_a_column_of_uint64(tmp_path: Path) -> None:
    """Hashes of somebody else's tool, as words; null has none."""
    np.save(tmp_path / "a.npy", np.array([0, 2**64 - 1], np.uint64))
    made = Decontaminate(by="hashes", references={"a": str(tmp_path / "a.npy")}, column="h")
    made.check({"h": pa.uint64()})
    made.open()
    column = pa.array([9, 1, None, 31, 63, 2**64 - 1], pa.uint64()).slice(1)
    scored = made.score(pa.record_batch({"h": column}))
    assert {name: values.type for name, values in scored.items()} == made.outputs({})
    assert scored["decontaminate_distance"].to_pylist() == [1, None, 5, 5, 0]
    assert made.keep(pa.record_batch(scored)).to_pylist() == ["like_a", "no_hash", None, None, "like_a"]
    made.close()


def test_a_mistake_ends_in_one_line(tmp_path: Path, references: dict[str, Any]) -> None:
    """In a recipe, with its place."""
    made = {
        "pool": pool(tmp_path / "pool"),
        "filters": [{STEP: {"by": "hashes", "references": references, "bits": 256}}],
    }
    with pytest.raises(
        PairsieveError, match=r"coco: .*coco\.npy: holds 5 × 8 × 8 of bool, not hashes of 256 bits"
    ) as error:
        run(made, tmp_path / "run", workers=1)
    assert "\n" not in str(error.value)
