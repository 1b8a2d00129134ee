"""Pairs too close to evaluation sets: by embeddings, captions and stored scores, in filters and in whole runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pairsieve.filters import _reference_ngrams
from pairsieve.filters.base import UnknownColumnError, deciding_settings, scoring_settings
from pairsieve.filters.decontaminate import Decontaminate
from pairsieve.pipelines.run import run
from pairsieve.schemas.errors import PairsieveError, UserError
from tests import support_datacomp
from tests.support import digests
from tests.support_references import cosine, overlap, write_captions, write_embeddings

WIDTH = 8
RNG = np.random.default_rng(11)
KIND = pa.list_(pa.float16(), WIDTH)
DATACOMP = 0.604169


def directions(rows: int, seed: int) -> np.ndarray[Any, np.dtype[np.float16]]:
    """Vectors of many lengths."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, WIDTH)) * rng.uniform(0.1, 9, (rows, 1))).astype(np.float16)


SETS = {"imagenet": directions(30, 1), "flickr-30k": directions(20, 2)}
VECTORS = directions(120, 3)
ROWS: list[Any] = [*VECTORS.tolist(), None, [0.0] * WIDTH, [1.0] * (WIDTH - 1) + [float("nan")]]
CAPTIONS = {
    "coco": ["A man rides a wave on a surfboard.", "Two dogs", "a red bus parked in front of a tall building"],
    "flickr": ["a man rides a wave", "two dogs play in the snow near a red bus parked in front of a house"],
}
TEXTS = [
    "man rides a wave on a sunny day",
    "TWO  dogs!",
    "two dogs play",
    "a red bus parked in front of a house",
    "nothing of the kind here",
    "",
    None,
]


@pytest.fixture
def embeddings(tmp_path: Path) -> dict[str, Any]:
    """Two sets: Parquet, and two files by a glob."""
    write_embeddings(tmp_path / "imagenet.parquet", SETS["imagenet"])
    write_embeddings(tmp_path / "flickr_0.npy", SETS["flickr-30k"][:15].astype(np.float32))
    write_embeddings(tmp_path / "flickr_1.npz", SETS["flickr-30k"][15:])
    return {"imagenet": str(tmp_path / "imagenet.parquet"), "flickr-30k": str(tmp_path / "flickr_*.np[yz]")}


@pytest.fixture
def captions(tmp_path: Path) -> dict[str, Any]:
    """Two sets: text and Parquet."""
    return {
        "coco": write_captions(tmp_path / "coco.txt", CAPTIONS["coco"]),
        "flickr": [write_captions(tmp_path / "flickr.parquet", CAPTIONS["flickr"])],
    }


def opened(**settings: Any) -> Decontaminate:
    """The filter, checked and opened."""
    made = Decontaminate(**settings)
    made.check({"dedup": KIND, "text": pa.string()})
    made.open()
    return made


def judged(made: Decontaminate, **columns: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """Similarity, set and reason."""
    scored = made.score(pa.record_batch(columns))
    assert {name: found.type for name, found in scored.items()} == made.outputs({})
    verdict = made.keep(pa.record_batch(scored))
    return (
        scored["decontaminate_similarity"].to_pylist(),
        scored["decontaminate_set"].to_pylist(),
        verdict.to_pylist(),
    )


def nearest(vector: list[float]) -> tuple[float, str]:
    """The greatest cosine and its set, one by one."""
    return max((cosine(vector, row), name) for name in SETS for row in SETS[name].tolist())


def test_by_embeddings(embeddings: dict[str, Any]) -> None:
    """Cosines, sets and reasons, against nested loops; what has no embedding is not known to be clean."""
    found = judged(opened(by="embeddings", references=embeddings, threshold=0.8), dedup=pa.array(ROWS, KIND))
    for vector, similarity, name, reason in zip(VECTORS.tolist(), *found, strict=False):
        value, wanted = nearest(vector)
        assert abs(similarity - value) < 1e-6 and name == wanted
        assert reason == (f"like_{name}" if value > 0.8 else None)
    assert {"like_imagenet", "like_flickr-30k", None} <= set(found[2])
    assert [part[-3:] for part in found] == [[None] * 3, [None] * 3, ["no_embedding"] * 3]


@pytest.mark.parametrize(
    "kind", [KIND, pa.list_(pa.float16()), pa.list_(pa.float32(), WIDTH), pa.large_list(pa.float64())]
)
def test_any_column_of_embeddings(embeddings: dict[str, Any], kind: pa.DataType) -> None:
    """The type of list does not matter, nor where a slice begins."""
    made = opened(by="embeddings", references=embeddings, threshold=0.8)
    column = pa.array(ROWS, KIND).cast(kind)
    whole = judged(made, dedup=column)
    assert whole == judged(made, dedup=pa.array(ROWS, KIND))
    for start in (1, 50, len(ROWS) - 2):
        assert judged(made, dedup=column.slice(start, 2)) == tuple(part[start : start + 2] for part in whole)


def test_inner_products(tmp_path: Path) -> None:
    """Without normalizing, lengths count on both sides, and zeros are a vector like others."""
    file = write_embeddings(tmp_path / "a.npy", np.array([[3, 0], [0, 1]], np.float32))
    made = Decontaminate(by="embeddings", references={"a": file}, threshold=5.5, normalize=False, device="cpu")
    made.open()
    column = pa.array([[2, 0], [1, 9], [0, 0], [1, -1]], pa.list_(pa.float32(), 2))
    assert judged(made, dedup=column) == ([6, 9, 0, 3], ["a"] * 4, ["like_a", "like_a", None, None])


def test_sets_in_any_order(tmp_path: Path) -> None:
    """Of sets with the same reference the first in the alphabet has the pair, however the recipe lists them."""
    files = {name: write_embeddings(tmp_path / f"{name}.npy", SETS["imagenet"]) for name in ("b", "a", "c")}
    for names in ("bac", "abc", "cb"):
        made = opened(by="embeddings", references={name: files[name] for name in names}, threshold=-1)
        assert set(judged(made, dedup=pa.array(VECTORS.tolist(), KIND))[1]) == {min(names)}


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_by_captions(captions: dict[str, Any], kind: pa.DataType) -> None:
    """Shares, sets and reasons, against Python's sets of tuples."""
    found = judged(opened(by="captions", references=captions, threshold=0.3, ngram=4), text=pa.array(TEXTS).cast(kind))
    wanted = [overlap(text, CAPTIONS, 4) for text in TEXTS]
    assert list(zip(*found[:2], strict=True)) == wanted
    assert found[0] == [float(np.float32(0.6)), 1, 0, 1, 0, 0, None]
    assert found[2] == ["like_coco", "like_coco", None, "like_flickr", None, None, "no_text"]


def test_any_shared_n_gram(captions: dict[str, Any]) -> None:
    """Threshold 0 drops what shares one n-gram, and nothing that shares none."""
    found = judged(opened(by="captions", references=captions, threshold=0, ngram=2), text=pa.array(TEXTS))
    assert [reason is None for reason in found[2]] == [overlap(text, CAPTIONS, 2)[0] == 0 for text in TEXTS]


@given(
    st.lists(st.one_of(st.none(), st.floats(width=32)), max_size=20), st.floats(-2, 2), st.sampled_from([16, 32, 64])
)
def test_by_score(values: list[float | None], threshold: float, bits: int) -> None:
    """A stored score stays where pandas says ``column <= threshold``: in the column's type; null and NaN go."""
    dtype = np.dtype(f"float{bits}")
    with np.errstate(over="ignore"):
        numbers = np.array([np.nan if value is None else value for value in values], np.float64).astype(dtype)
    column = pa.array(numbers, mask=np.array([value is None for value in values], bool))
    made = Decontaminate(by="score", threshold=threshold)
    assert made.score(pa.record_batch({"x": column})) == {}
    reasons = made.keep(pa.record_batch({"dedup-isc-ft-v107-score": column})).to_pylist()
    assert [reason is None for reason in reasons] == (numbers <= dtype.type(threshold)).tolist()
    assert [reason == "no_score" for reason in reasons] == np.isnan(numbers).tolist()
    assert set(reasons) <= {None, "no_score", "like_reference"}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_datacomps_threshold_itself_stays(dtype: Any) -> None:
    """0.604169 is not above 0.604169, in whatever type it was stored; the next number is."""
    at = dtype(DATACOMP)
    column = pa.array(np.array([at, np.nextafter(at, dtype(2)), np.nextafter(at, dtype(0))], dtype))
    made = Decontaminate(by="score", threshold=DATACOMP)
    reasons = made.keep(pa.record_batch({"dedup-isc-ft-v107-score": column})).to_pylist()
    assert reasons == [None, "like_reference", None]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"by": "images"}, "'embeddings', 'captions', 'hashes' or 'score'"),
        ({"by": "embeddings"}, "name the files of at least one set"),
        ({"by": "captions", "references": {}}, "name the files of at least one set"),
        ({"by": "score", "references": {"a": "a.npy"}}, "leave them out"),
        ({"by": "score", "key": "a"}, "leave them out"),
        ({"by": "score", "ngram": 3}, "'ngram' belongs to by: captions"),
        ({"by": "embeddings", "references": {"a": "a.npy"}, "ngram": 3}, "'ngram' belongs to by: captions"),
        ({"by": "captions", "references": {"a": "a.txt"}, "normalize": False}, "'normalize' belongs to by: embeddings"),
        ({"by": "captions", "references": {"a": "a.txt"}, "threshold": 1.0}, "no share"),
        ({"by": "captions", "references": {"a": "a.txt"}, "threshold": -0.1}, "no share"),
        ({"by": "captions", "references": {"a": "a.txt"}, "ngram": 0}, "greater than or equal to 1"),
        ({"by": "embeddings", "references": {"a": "a.npy"}, "threshold": float("nan")}, "finite"),
        ({"by": "embeddings", "references": {"a b": "a.npy"}}, "name a set with up to 64 letters"),
        ({"by": "embeddings", "references": {"": "a.npy"}}, "name a set with up to 64 letters"),
        ({"by": "embeddings", "references": {"a": []}}, "names no file"),
        ({"by": "embeddings", "references": {f"a{i}": "a.npy" for i in range(1001)}}, "several files may be one set"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], says: str) -> None:
    """Said when the recipe is read."""
    with pytest.raises(ValidationError, match=says):
        Decontaminate(**{"threshold": 0.5, **settings})


def test_columns(embeddings: dict[str, Any], captions: dict[str, Any]) -> None:
    """What is not there, of another type, or of another model than the references is said before anything runs."""
    by_embeddings = Decontaminate(by="embeddings", references=embeddings, threshold=0.5)
    with pytest.raises(UnknownColumnError, match="did you mean 'dedupe'"):
        by_embeddings.check({"dedupe": KIND})
    with pytest.raises(ValueError, match="not embeddings"):
        by_embeddings.check({"dedup": pa.string()})
    with pytest.raises(ValueError, match=r"flickr-30k: .*flickr_0\.npy holds .* 8, and column 'dedup' has width 9"):
        by_embeddings.check({"dedup": pa.list_(pa.float16(), 9)})
    with pytest.raises(ValueError, match="column 'text' is int32, not strings"):
        Decontaminate(by="captions", references=captions, threshold=0.5).check({"text": pa.int32()})
    with pytest.raises(ValueError, match="column 's' is string, not a float score"):
        Decontaminate(by="score", column="s", threshold=0.5).check({"s": pa.string()})
    made = opened(by="embeddings", references=embeddings, threshold=0.5)
    with pytest.raises(UserError, match="width 3, and the references have 8"):
        made.score(pa.record_batch({"dedup": pa.array([[1.0] * 3] * 2, pa.list_(pa.float32()))}))


def test_bad_reference_files(tmp_path: Path) -> None:
    """Missing files, other kinds and damaged ones: one line with the set's name, before anything runs."""
    (tmp_path / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "bytes.parquet").touch()
    pq.write_table(pa.table({"a": ["x"], "b": ["y"]}), tmp_path / "two.parquet")
    raw = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"], pa.binary()).buffers())
    pq.write_table(pa.table({"a": raw}), tmp_path / "raw.parquet")
    np.save(tmp_path / "ids.npy", np.arange(4))
    for by, name, says in (
        ("embeddings", "none.npy", "no such file"),
        ("embeddings", "none*.npy", "no file matches"),
        ("embeddings", "a\0b.npy", "no such file"),
        ("embeddings", "latin.txt", "is none of .npy"),
        ("embeddings", "ids.npy", "not a float matrix"),
        ("embeddings", "cut.parquet", "cut.parquet"),
        ("captions", "ids.npy", "is none of .parquet, .txt"),
        ("captions", "latin.txt", "latin.txt: is not UTF-8"),
        ("captions", "bytes.parquet", "bytes.parquet"),
        ("captions", "two.parquet", "2 columns of captions .*'a', 'b'; set 'key'"),
        ("captions", "raw.parquet", "raw.parquet: .*UTF"),
    ):
        made = Decontaminate(by=by, references={"flickr": str(tmp_path / name)}, threshold=0.5)
        with pytest.raises((UserError, ValueError), match=f"references: flickr: .*{says}") as error:
            made.check({"dedup": KIND, "text": pa.string()})
        assert "\n" not in str(error.value)


def test_unusable_references_are_refused_before_a_run(tmp_path: Path) -> None:
    """Zero rows, widths that differ between files or sets, no word, a damaged table: by file, with what to do."""
    write_embeddings(tmp_path / "a8.npy", np.ones((3, 8), np.float32))
    write_embeddings(tmp_path / "b5.parquet", np.ones((3, 5), np.float32))
    write_embeddings(tmp_path / "none.npy", np.ones((0, 8), np.float32))
    write_embeddings(tmp_path / "none.parquet", np.ones((0, 8), np.float32))
    write_captions(tmp_path / "good.txt", ["a dog"])
    write_captions(tmp_path / "none_captions.parquet", [])
    write_captions(tmp_path / "wordless.txt", ["?!", None, "- -"])
    whole = Path(write_captions(tmp_path / "whole.parquet", ["a dog"] * 9000)).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-300])
    at = pq.ParquetFile(tmp_path / "whole.parquet").metadata.row_group(0).column(1).dictionary_page_offset
    (tmp_path / "page.parquet").write_bytes(whole[:at] + b"\xff" * 20 + whole[at + 20 :])
    for by, files, says in (
        (
            "embeddings",
            {"x": ["a8.npy", "b5.parquet"]},
            r"x: .*a8\.npy holds embeddings of width 8, and .*b5\.parquet has ",
        ),
        ("embeddings", {"x": "a8.npy", "y": "b5.parquet"}, r"y: .*b5\.parquet holds .* 5, and .*a8\.npy has width 8"),
        ("embeddings", {"x": "none.npy"}, r"x: .*none\.npy: holds 0 × 8, no row; .*leave it out"),
        ("embeddings", {"x": "none.parquet"}, r"x: .*none\.parquet: holds no row"),
        (
            "captions",
            {"x": "none_captions.parquet"},
            r"none_captions\.parquet: holds no caption with a word; leave it out",
        ),
        ("captions", {"x": ["good.txt", "wordless.txt"]}, r"x: .*wordless\.txt: holds no caption with a word"),
        ("captions", {"x": "cut.parquet"}, r"cut\.parquet: .*; it is damaged: write it again"),
        ("captions", {"x": "page.parquet"}, r"page\.parquet: .*write it again"),
        ("embeddings", {"x": "cut.parquet"}, r"cut\.parquet: .*; it is damaged: write it again"),
    ):
        references = {
            name: [f"{tmp_path}/{file}" for file in ([some] if isinstance(some, str) else some)]
            for name, some in files.items()
        }
        made = Decontaminate(by=by, references=references, threshold=0.5)
        with pytest.raises((UserError, ValueError), match=f"references: .*{says}") as error:
            made.check({"dedup": pa.list_(pa.float32()), "text": pa.string()})
        assert "\n" not in str(error.value)


def test_long_files_without_words_are_left_to_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look ends after so many captions; then the set is told, and no word of resuming."""
    file = write_captions(tmp_path / "wordless.txt", ["?"] * 10_000)
    monkeypatch.setattr(_reference_ngrams, "LOOKED_AT", 5000)
    step = {"decontaminate": {"by": "captions", "references": {"x": file}, "threshold": 0.5}}
    with pytest.raises(UserError, match=r"shard 00000.*: references: x: no caption with a word in .*wordless") as error:
        run(recipe(pool(tmp_path), step), tmp_path / "run", engine="local", workers=1)
    assert "resumes" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bare", ["c8.npy", ["c8.npy", "d8.npy"]])
def test_references_without_a_name_say_how_to_write_them(bare: Any) -> None:
    """A set has a name, which becomes the reason."""
    with pytest.raises(ValidationError, match=r"give each set a name: 'references: \{NAME: (c8\.npy|FILE)\}'"):
        Decontaminate(by="embeddings", references=bare, threshold=0.5)


def test_large_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of captions, and n-grams of all sets, have limits."""
    file = write_captions(tmp_path / "a.txt", [f"word {i}" for i in range(500)])
    made = Decontaminate(by="captions", references={"a": file}, threshold=0, ngram=1)
    monkeypatch.setattr(_reference_ngrams, "MOST", 400)
    with pytest.raises(UserError, match="references: a: more than 400 different n-grams"):
        made.open()
    monkeypatch.setattr("pairsieve.filters._reference_files.MOST_TEXT_BYTES", 100)
    with pytest.raises(UserError, match=r"references: a: .*a\.txt: is larger than 0 GiB"):
        made.open()


def test_captions_that_unpack_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long string that a dictionary repeats is measured before it is copied; so are lists of strings."""
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(5000, np.int32)), pa.array(["word " * 2000]))
    lists = pa.ListArray.from_arrays(pa.array(np.arange(0, 5001, 5), pa.int32()), long)
    monkeypatch.setattr("pairsieve.filters._reference_files.MOST_BATCH_BYTES", 9_000_000)
    for column in (long, lists):
        pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
        assert (tmp_path / "a.parquet").stat().st_size < 100_000
        with pytest.raises(UserError, match=r"a\.parquet: \d+ captions of column 'text' are \d+ MiB"):
            Decontaminate(by="captions", references={"a": str(tmp_path / "a.parquet")}, threshold=0).open()


@pytest.mark.parametrize("kind", [pa.large_string(), pa.list_(pa.string()), pa.list_(pa.large_string())])
def test_columns_of_captions(tmp_path: Path, kind: pa.DataType) -> None:
    """Several captions a row, nulls and empty lists; ``text`` is the usual name among several."""
    rows = (
        [["a dog", "two cats"], None, [], [None, "a bus"]] if pa.types.is_list(kind) else ["a dog", None, "", "a bus"]
    )
    table = pa.table({"id": ["two cats"] * 4, "text": pa.array(rows, kind)})
    pq.write_table(table, tmp_path / "a.parquet")
    made = opened(by="captions", references={"a": str(tmp_path / "a.parquet")}, threshold=0)
    found = judged(made, text=pa.array(["A dog.", "a bus", "two cats", "id"]))[0]
    assert found == [1, 1, float(pa.types.is_list(kind)), 0]


def test_large_files_are_not_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a limit, for all sets together, only files that tell their width at no cost are looked at."""
    write_embeddings(tmp_path / "a.npz", SETS["imagenet"])
    write_embeddings(tmp_path / "b.npz", SETS["imagenet"][:, :5])
    references = {name: str(tmp_path / f"{name}.npz") for name in "ab"}
    made = Decontaminate(by="embeddings", references=references, threshold=0.5, device="cpu")
    with pytest.raises(ValueError, match=r"references: b: .* width 5"):
        made.check({"dedup": KIND})
    monkeypatch.setattr("pairsieve.filters._reference_files.LOOK_BYTES", (tmp_path / "a.npz").stat().st_size)
    made.check({"dedup": KIND})
    with pytest.raises(UserError, match=r"references: b: .*b\.npz: embeddings of width 5, those before have 8"):
        made.open()


def test_what_is_measured(embeddings: dict[str, Any]) -> None:
    """The threshold is no part of the fingerprint, nor the device; sets, column and n are; every file counts."""
    made = Decontaminate(by="embeddings", references=embeddings, threshold=0.5)
    assert deciding_settings(made) == {"threshold": 0.5}
    assert scoring_settings(made).keys() == {"by", "references", "column", "key", "normalize", "ngram"}
    assert [Path(file).name for file in made.files()] == ["flickr_0.npy", "flickr_1.npz", "imagenet.parquet"]


def test_resources(embeddings: dict[str, Any], captions: dict[str, Any]) -> None:
    """A GPU only where embeddings are multiplied, and torch and numba only where they are used."""
    made = [
        Decontaminate(by="embeddings", references=embeddings, threshold=0.5, device=device)
        for device in ("auto", "cpu", "cuda")
    ]
    assert [(m.resources().gpus, m.resources().gpu_optional) for m in made] == [(1, True), (0, False), (1, False)]
    by_captions = Decontaminate(by="captions", references=captions, threshold=0.5)
    assert by_captions.resources().gpus == 0
    assert [m.needs() for m in (made[0], by_captions, Decontaminate(by="score", threshold=0.5))] == [
        ("torch",),
        ("numba",),
        (),
    ]


def pool(folder: Path) -> str:
    """A list of URLs in Parquet, with embeddings."""
    texts = [TEXTS[i % (len(TEXTS) - 1)] for i in range(len(ROWS))]
    urls = [f"http://e.org/{i}.jpg" for i in range(len(ROWS))]
    table = pa.table({"url": urls, "text": texts, "dedup": pa.array(ROWS, KIND)})
    pq.write_table(table, folder / "pool.parquet")
    return str(folder / "pool.parquet")


def recipe(path: str, *steps: Any) -> dict[str, Any]:
    """A recipe over a list of URLs, in shards of 25 pairs."""
    return {"pool": {"urls": {"path": path, "shard_rows": 25}}, "filters": list(steps)}


def steps(embeddings: Any, captions: Any, cosine_above: float, share_above: float) -> list[Any]:
    """Both measures in one recipe."""
    return [
        {"decontaminate": {"by": "embeddings", "references": embeddings, "threshold": cosine_above}},
        {
            "decontaminate": {
                "as": "captions",
                "by": "captions",
                "references": captions,
                "threshold": share_above,
                "ngram": 4,
            }
        },
    ]


def test_thresholds_move_without_measuring(tmp_path: Path, embeddings: Any, captions: Any) -> None:
    """A run with other thresholds gives the verdicts of a fresh run and leaves measured files as they were."""
    source, out = pool(tmp_path), tmp_path / "run"
    run(recipe(source, *steps(embeddings, captions, 0.95, 0.9)), out, engine="local", workers=1)
    measured = {path: path.stat().st_mtime_ns for path in (out / "scores").rglob("*.parquet")}
    assert measured
    tighter = steps(embeddings, captions, 0.7, 0.1)
    result = run(recipe(source, *tighter), out, engine="local", workers=1)
    assert {path: path.stat().st_mtime_ns for path in (out / "scores").rglob("*.parquet")} == measured
    fresh = run(recipe(source, *tighter), tmp_path / "fresh", engine="local", workers=1)
    reasons = "SELECT uid, dropped_by, reason FROM verdicts ORDER BY uid"
    assert result.query(reasons).to_pylist() == fresh.query(reasons).to_pylist()


def test_report_by_set(tmp_path: Path, embeddings: Any, captions: Any) -> None:
    """How many pairs each evaluation set costs is a query over reasons; it agrees with nested loops."""
    result = run(
        recipe(pool(tmp_path), *steps(embeddings, captions, 0.8, 0.3)), tmp_path / "run", engine="local", workers=1
    )
    sql = "SELECT dropped_by, reason, count(*) AS pairs FROM verdicts WHERE reason IS NOT NULL GROUP BY ALL"
    found = {(row["dropped_by"], row["reason"]): row["pairs"] for row in result.query(sql).to_pylist()}
    wanted: dict[tuple[str, str], int] = {("decontaminate", "no_embedding"): 3}
    for i, vector in enumerate(VECTORS.tolist()):
        value, name = nearest(vector)
        share, other = overlap(TEXTS[i % (len(TEXTS) - 1)], CAPTIONS, 4)
        key = ("decontaminate", f"like_{name}") if value > 0.8 else ("captions", f"like_{other}")
        if value > 0.8 or (share or 0) > 0.3:
            wanted[key] = wanted.get(key, 0) + 1
    assert found == wanted
    assert len(found) >= 5
    stored = result.query("SELECT captions_similarity, captions_set, decontaminate_set FROM scores").to_pylist()
    assert {row["decontaminate_set"] for row in stored} == {"imagenet", "flickr-30k", None}


def test_workers_change_nothing(tmp_path: Path, embeddings: Any, captions: Any) -> None:
    """One process and two write the same bytes."""
    source = pool(tmp_path)
    for workers in (1, 2):
        made = recipe(source, *steps(embeddings, captions, 0.8, 0.3))
        run(made, tmp_path / str(workers), engine="local", workers=workers)
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


def test_datacomps_descriptors(tmp_path: Path) -> None:
    """DataComp's metadata: the npz's ``dedup`` against references; the kept uids are the literal rule's."""
    folder = support_datacomp.pool(tmp_path / "pool")
    references = support_datacomp.features(12, 77)["dedup"]
    file = write_embeddings(tmp_path / "evaluation.npz", references, "dedup")
    step = {"decontaminate": {"by": "embeddings", "references": {"all": file}, "threshold": 0.9}}
    run(support_datacomp.recipe(folder, step), tmp_path / "run", engine="local", workers=1)
    vectors = np.concatenate([support_datacomp.features(count, i)["dedup"] for i, count in enumerate((60, 40))])
    stays = [max(cosine(a, b) for b in references.tolist()) <= 0.9 for a in vectors.tolist()]
    uids = [support_datacomp.uid_of(i) for i in range(100) if stays[i]]
    assert 0 < len(uids) < 100
    assert support_datacomp.subset(tmp_path / "run") == sorted((int(u[:16], 16), int(u[16:], 16)) for u in uids)


def test_a_bad_row_ends_a_run_in_one_line(tmp_path: Path) -> None:
    """A reference far down a file is read by the worker; its mistake is one line all the same."""
    values = np.ones((9000, WIDTH), np.float32)
    values[8000, 3] = np.nan
    file = write_embeddings(tmp_path / "far.parquet", values)
    step = {"decontaminate": {"by": "embeddings", "references": {"x": file}, "threshold": 0.9}}
    with pytest.raises(PairsieveError, match=r"references: x: .*far\.parquet: row 8000 of column 'x'") as error:
        run(recipe(pool(tmp_path), step), tmp_path / "run", engine="local", workers=1)
    assert "\n" not in str(error.value)


def test_a_run_names_the_bad_file(tmp_path: Path, embeddings: Any) -> None:
    """One line with the recipe's place, the set and the file; nothing was run."""
    step = {"decontaminate": {"by": "embeddings", "references": {**embeddings, "x": "no.npy"}, "threshold": 0.9}}
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe(pool(tmp_path), step)))
    with pytest.raises(PairsieveError, match=r"recipe\.yaml.*references: x: no\.npy: no such file") as error:
        run(str(path), tmp_path / "run", engine="local", workers=1)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "scores").exists()
