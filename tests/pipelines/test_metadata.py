"""Building metadata files: order, union, exclusions, manifest; the same bytes by every engine and cut of the work."""

import hashlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairsieve.pipelines import metadata as job
from pairsieve.pipelines.metadata import build
from pairsieve.pipelines.metadata_inputs import bundles, pieces
from pairsieve.pipelines.metadata_join import join
from pairsieve.pipelines.metadata_merge import stretches
from pairsieve.pipelines.metadata_settings import V1, V2, Limits, Rules, Sources
from pairsieve.pipelines.store import filesystem
from pairsieve.schemas.errors import PoolError, UserError
from tests.s3 import S3Server, download
from tests.support_metadata import export, multistream, page, rows, write_views
from tests.support_wordnet import need_wordnet

RULES = Rules(unigrams=Limits(least=3), bigrams=Limits(least=2.0), titles=Limits(least=70))


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dump of 200 articles in streams, JSON lines, Parquet, and page views of two hours."""
    folder = tmp_path_factory.mktemp("a dump")
    pages = [page(f"The cat {i % 9} sat on a mat {i % 13}. ''New York'' {i}, {{{{x}}}} ! dog") for i in range(200)]
    pages.insert(50, "<page>broken</page>")
    (folder / "wiki.xml.bz2").write_bytes(multistream(export(pages), 3000))
    lines = [json.dumps({"id": str(i), "text": f"The dog {i % 5} barks at ice cream."}) for i in range(50)]
    (folder / "wiki.jsonl").write_text("\n".join([*lines, "{broken"]))
    pq.write_table(pa.table({"text": [f"Schrödinger equation {i % 3}" for i in range(20)]}), folder / "wiki.parquet")
    write_views(folder / "views-1.gz", ["en Main_Page 60 0", "en Ice_cream 50 0", "en Zebra 69 0", "en - 500 0"])
    write_views(folder / "views-2.gz", ["de Katze 90 0", "en Main_Page 60 0", "en Ice_cream 49 0", "en The_Dog 75 0"])
    return folder


def sources(dump: Path, **others: Any) -> Sources:
    """All of the dump, without WordNet."""
    wikipedia = tuple(str(dump / name) for name in ("wiki.xml.bz2", "wiki.jsonl", "wiki.parquet"))
    made = Sources(is_wordnet=False, wikipedia=wikipedia, titles=(str(dump / "views-*.gz"),))
    return replace(made, **others)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def built(dump: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The metadata file of the dump, by one worker."""
    out = tmp_path_factory.mktemp("out") / "metadata.parquet"
    build(str(out), sources(dump), RULES, workers=1)
    return out


def test_sources_come_in_their_order_best_first(built: Path) -> None:
    """Unigrams by count, bigrams by PMI, titles by views, ties by code points; each entry once."""
    table = pq.read_table(built)
    assert table.schema.names == ["entry", "source", "language", "count"]
    assert [str(kind) for kind in table.schema.types] == ["string", "string", "string", "int64"]
    kinds = table["source"].to_pylist()
    assert kinds == sorted(kinds, key=["unigrams", "bigrams", "titles"].index)
    unigrams = rows(built, "unigrams")
    assert unigrams == sorted(unigrams, key=lambda row: (-row[1], row[0]))
    assert dict(unigrams)["The"] == 250
    assert rows(built, "titles") == [("Main Page", 120), ("The Dog", 75)]
    entries = table["entry"].to_pylist()
    assert len(entries) == len(set(entries))
    assert set(table["language"].to_pylist()) == {"en"}


def test_single_signs_are_no_entries(built: Path) -> None:
    """The 32 ASCII signs and the empty string never come, however often a page "-" is viewed."""
    assert not {"-", "", "!"} & {entry for entry, _ in rows(built)}


def test_the_manifest_says_what_was_read(built: Path, dump: Path) -> None:
    """Inputs with sizes, rules, counts by source, broken pages and lines, the digest of the file."""
    said = json.loads((built.parent / "metadata.parquet.manifest.json").read_text())
    assert said["sha256"] == digest(built)
    assert said["entries"] == len(rows(built)) == sum(one["new"] for one in said["sources"])
    assert said["texts"] | {"tokens": 0, "bytes": 0} == {
        "pages": 272,
        "texts": 270,
        "broken": 2,
        "tokens": 0,
        "bytes": 0,
    }
    by_source = {one["source"]: one for one in said["sources"]}
    assert [Path(file["path"]).name for file in by_source["unigrams"]["files"]] == [
        "wiki.xml.bz2",
        "wiki.jsonl",
        "wiki.parquet",
    ]
    assert by_source["unigrams"]["files"][1]["size"] == (dump / "wiki.jsonl").stat().st_size
    assert by_source["titles"] | {"files": []} == {"source": "titles", "files": [], "seen": 5, "passed": 2, "new": 2}
    assert said["rules"]["unigrams"] == {"least": 3, "most": None, "share": None}
    assert {"duckdb", "mwparserfromhell", "unicode"} <= set(said["versions"])
    assert any("2 of 272 pages or lines" in note for note in said["notes"])
    assert sorted(path.name for path in built.parent.iterdir()) == [
        "metadata.parquet",
        "metadata.parquet.manifest.json",
    ]


@pytest.mark.parametrize("how", ["one worker", "two workers", "ray"])
def test_engines_and_cuts_give_the_same_bytes(
    built: Path, dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Cut into many pieces, by one worker or two, on this machine or a real Ray: as in one piece by one worker."""
    monkeypatch.setattr(job, "pieces", partial(pieces, plain=500, packed=1))
    monkeypatch.setattr(job, "bundles", partial(bundles, most=16_000))
    monkeypatch.setattr(job, "stretches", partial(stretches, most=1000))
    out = tmp_path / "m.parquet"
    build(
        str(out),
        sources(dump),
        RULES,
        workers=1 if how == "one worker" else 2,
        engine="ray" if how == "ray" else "local",
    )
    assert digest(out) == digest(built)


def test_a_stopped_build_continues(built: Path, dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted stays beside the file; the same command takes it, gives the same bytes, and clears it away."""
    out = tmp_path / "m.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(job, "MergeWords", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build(str(out), sources(dump), RULES, workers=1)
    notes = list((tmp_path / "m.parquet.work").glob("*/*.json"))
    assert len(notes) == 1
    with monkeypatch.context() as patch:
        patch.setattr("pairsieve.pipelines.metadata_ngrams.Tables", None)  # nothing is counted again
        build(str(out), sources(dump), RULES, workers=1)
    assert digest(out) == digest(built)
    assert not (tmp_path / "m.parquet.work").exists()


def test_all_sources_with_wordnet(dump: Path, tmp_path: Path) -> None:
    """WordNet comes first; an entry that it has is not new to a later source, whose case is kept."""
    need_wordnet()
    out = tmp_path / "m.parquet"
    found = build(str(out), sources(dump, is_wordnet=True), RULES, workers=1)
    table = pq.read_table(out)
    assert table["source"].to_pylist()[:86_654] == ["wordnet"] * 86_654
    assert table["entry"].to_pylist()[:86_654] == sorted(table["entry"].to_pylist()[:86_654])
    assert table["count"].null_count == 86_654
    by_source = {one.source: one for one in found.sources}
    assert by_source["wordnet"].new == 86_654
    assert by_source["unigrams"].passed > by_source["unigrams"].new
    assert ("dog", None) in rows(out, "wordnet") and "dog" not in dict(rows(out, "unigrams"))
    assert "The" in dict(rows(out, "unigrams"))


def test_the_most_frequent_are_kept(dump: Path, tmp_path: Path) -> None:
    """Limits cut each source's ordered list."""
    every = {"unigrams": Limits(least=1, most=3), "bigrams": Limits(most=2), "titles": Limits(least=1, most=1)}
    build(str(tmp_path / "m.parquet"), sources(dump), Rules(**every, score="metaclip2"), workers=1)  # type: ignore[arg-type]
    assert [entry for entry, _ in rows(tmp_path / "m.parquet", "unigrams")] == ["The", "dog", "New"]
    assert len(rows(tmp_path / "m.parquet", "bigrams")) == 2
    assert rows(tmp_path / "m.parquet", "titles") == [("Main Page", 120)]


def test_metaclip2s_rules(tmp_path: Path) -> None:
    """Shares of each list; entries of signs alone and over 256 characters are dropped before they are counted."""
    words = [f"w{i}" for i in range(99)] + ["x" * 257]
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": " ".join(words)}))
    write_views(tmp_path / "v.gz", [f"xx t{i} {100 + i} 0" for i in range(50)] + ["xx ... 900 0", "xx 。、 900 0"])
    given = Sources("xx", False, None, (str(tmp_path / "a.jsonl"),), (str(tmp_path / "v.gz"),))
    found = build(str(tmp_path / "m.parquet"), given, V2, workers=1)
    passed = {one.source: one.passed for one in found.sources}
    assert passed == {"unigrams": 9, "bigrams": 3, "titles": 38}
    assert not {"...", "。、", "x" * 257} & {entry for entry, _ in rows(tmp_path / "m.parquet")}
    assert found.pmi_percentile is not None


def characters(line: str) -> list[str]:
    """A segmenter for the test."""
    return list(line)


def test_bigrams_of_segmented_text_have_no_space(tmp_path: Path) -> None:
    """Words of a segmenter are counted, and bigrams are joined without a space."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "東京。東京"}))
    given = Sources("ja", False, wikipedia=(str(tmp_path / "a.jsonl"),), segmenter=f"{__name__}:characters")
    rules = Rules(unigrams=Limits(least=1), bigrams=Limits(least=0.0))
    found = build(str(tmp_path / "m.parquet"), given, rules, workers=1)
    assert rows(tmp_path / "m.parquet") == [("京", 2), ("東", 2), ("東京", 2)]
    assert "segmenter" in found.tokenizer


def test_too_little_text_for_the_papers_pmi_is_said(tmp_path: Path) -> None:
    """No PMI exceeds log2 of the number of words: the manifest says so where 30 cannot be reached."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "one two " * 100}))
    found = build(str(tmp_path / "m.parquet"), Sources(is_wordnet=False, wikipedia=(str(tmp_path),)), V1, workers=1)
    assert any("no PMI exceeds 7.6" in note for note in found.notes)
    assert rows(tmp_path / "m.parquet") == [("one", 100), ("two", 100)]


def one_word(path: Path, language: str, word: str) -> Path:
    """A metadata file of one entry."""
    texts = path.with_suffix(".jsonl")
    texts.write_text(json.dumps({"text": word}))
    build(str(path), Sources(language, False, wikipedia=(str(texts),)), Rules(unigrams=Limits(least=1)), workers=1)
    return path


def test_languages_are_joined_in_order(tmp_path: Path) -> None:
    """Ids run through the files; the same entry stays in both languages; the manifest names files and digests."""
    one, other = one_word(tmp_path / "a.parquet", "fr", "chat"), one_word(tmp_path / "b.parquet", "nl", "chat")
    found = join(str(tmp_path / "both.parquet"), [str(other), str(one)])
    table = pq.read_table(tmp_path / "both.parquet")
    assert list(zip(table["entry"].to_pylist(), table["language"].to_pylist(), strict=True)) == [
        ("chat", "nl"),
        ("chat", "fr"),
    ]
    assert found.languages == {"nl": 1, "fr": 1}
    assert found.sources[0].files[0].stamp == f"sha256 {digest(other)}"


def test_what_cannot_be_joined_is_refused(tmp_path: Path) -> None:
    """A language in two files, a missing file, one that is no metadata file, none at all."""
    one, other = one_word(tmp_path / "a.parquet", "fr", "chat"), one_word(tmp_path / "b.parquet", "fr", "chien")
    pq.write_table(pa.table({"entry": ["x"]}), tmp_path / "c.parquet")
    nulls = pq.read_table(one).set_column(0, "entry", pa.array([None], pa.string()))
    pq.write_table(nulls, tmp_path / "d.parquet")
    for files, says in [
        ([one, other], r"b\.parquet: language fr is also in .*a\.parquet"),
        ([one, tmp_path / "none.parquet"], "cannot be read"),
        ([tmp_path / "c.parquet"], "no column 'source'"),
        ([tmp_path / "d.parquet"], "'entry' has nulls"),
        ([tmp_path / "a.jsonl"], "cannot be read"),
        ([], "name the metadata files"),
    ]:
        with pytest.raises(UserError, match=says):
            join(str(tmp_path / "out.parquet"), [str(file) for file in files])
    assert not (tmp_path / "out.parquet").exists()


def test_a_broken_file_among_many_is_named(dump: Path, tmp_path: Path) -> None:
    """It stops the build with its name after the others; nothing is written."""
    content = (dump / "wiki.xml.bz2").read_bytes()
    (tmp_path / "broken.bz2").write_bytes(content[: len(content) // 2])
    given = sources(dump, wikipedia=(str(tmp_path / "broken.bz2"), str(dump / "wiki.jsonl")))
    with pytest.raises(PoolError, match=r"broken\.bz2: .*fetch it again"):
        build(str(tmp_path / "m.parquet"), given, RULES, workers=2)
    assert not (tmp_path / "m.parquet").exists()


def test_an_object_store_gives_the_same_bytes(built: Path, dump: Path, tmp_path: Path, s3: S3Server) -> None:
    """Dumps read from a bucket, runs and file written to it: the bytes of a disk, and nothing left beside them."""
    bucket = s3.make_bucket()
    fs, _ = filesystem(bucket)
    for path in dump.iterdir():
        fs.inner.put_file(str(path), f"{bucket}/in/{path.name}")
    given = Sources(
        is_wordnet=False,
        wikipedia=tuple(f"{bucket}/in/wiki.{name}" for name in ("xml.bz2", "jsonl", "parquet")),
        titles=(f"{bucket}/in/views-*.gz",),
    )
    build(f"{bucket}/out/m.parquet", given, RULES, workers=1)
    found = download(f"{bucket}/out", tmp_path / "copy")
    assert sorted(path.name for path in found.iterdir()) == ["m.parquet", "m.parquet.manifest.json"]
    assert digest(found / "m.parquet") == digest(built)
