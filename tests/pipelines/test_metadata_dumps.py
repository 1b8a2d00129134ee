"""Reading dumps: which texts they give, however they are packed and cut; what is broken is counted."""

import bz2
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pairsieve.pipelines import metadata_text
from pairsieve.pipelines.metadata_inputs import bundles, list_texts, pieces
from pairsieve.pipelines.metadata_text import read_texts
from pairsieve.pipelines.metadata_wikitext import plain_text
from pairsieve.schemas.errors import PoolError
from tests.support_metadata import FOOT, HEAD, export, multistream, page

SHARED = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path: Path | str, plain: int = 1 << 30, packed: int = 1 << 30) -> tuple[list[str], dict[str, int], int]:
    """Texts, what was counted, and the number of pieces."""
    work = pieces(list_texts([str(path)]), plain, packed)
    tally, texts = Counter[str](), list[str]()
    for piece in work:
        for batch in read_texts(piece, tally):
            texts += batch.to_pylist()
    return texts, {name: number for name, number in tally.items() if number}, len(work)


def mixed() -> list[str]:
    """Pages of all kinds: 20 articles, a redirect, a talk page, a script, three that are broken."""
    found = [page(f"Article {i} of ''{'x' * (i + 1)}''") for i in range(20)]
    found.insert(3, page("Talk", namespace=1))
    found.insert(5, page("#REDIRECT [[B]]", redirect=True))
    found.insert(7, page("return 1", model="Scribunto"))
    found.insert(9, "<page><ns>0</ns><text>an unclosed <b> tag</text></page>\n")
    found.insert(11, "<page> that does not end\n")
    found.insert(13, "<page><ns>0</ns><text>&undeclared;</text></page>\n")
    return found


def test_articles_alone_are_read(tmp_path: Path) -> None:
    """Namespace 0, wikitext, no redirect; a page that is no XML is counted and those around it are read."""
    (tmp_path / "dump.xml").write_bytes(export(mixed()))
    texts, tally, _ = read(tmp_path / "dump.xml")
    assert texts == [f"Article {i} of {'x' * (i + 1)}" for i in range(20)]
    kinds = {name: tally[name] for name in ("pages", "broken", "redirect", "other_namespace", "other_model", "texts")}
    assert kinds == {
        "pages": 26,
        "broken": 3,
        "redirect": 1,
        "other_namespace": 1,
        "other_model": 1,
        "texts": 20,
    }


@pytest.mark.parametrize("ending", ["xml", "xml.gz", "xml.bz2", "nothing"])
def test_content_tells_what_a_file_is(tmp_path: Path, ending: str) -> None:
    """Packed or not, whatever its name: the same texts."""
    content = export(mixed())
    packed = {"xml.gz": gzip.compress(content), "xml.bz2": bz2.compress(content)}
    (tmp_path / f"dump.{ending}").write_bytes(packed.get(ending, content))
    assert len(read(tmp_path / f"dump.{ending}")[0]) == 20


@settings(SHARED, max_examples=8)
@given(every=st.integers(1, 4000), stream=st.integers(150, 5000))
def test_cuts_of_a_dump_do_not_matter(tmp_path: Path, every: int, stream: int) -> None:
    """Plain or in streams of bz2 that end anywhere, cut anywhere: each page once, in order, the same counts."""
    content = export(mixed())
    (tmp_path / "a.xml").write_bytes(content)
    (tmp_path / "a.xml.bz2").write_bytes(multistream(content, stream))
    wanted = read(tmp_path / "a.xml")[:2]
    assert read(tmp_path / "a.xml", plain=max(every, 20))[:2] == wanted
    assert read(tmp_path / "a.xml.bz2", packed=every)[:2] == wanted


def test_a_multistream_dump_is_cut_at_its_streams(tmp_path: Path) -> None:
    """Many streams give many pieces, one stream one."""
    content = export(mixed())
    (tmp_path / "many.bz2").write_bytes(multistream(content, 500))
    (tmp_path / "one.bz2").write_bytes(bz2.compress(content))
    assert read(tmp_path / "many.bz2", packed=1)[2] == -(-len(content) // 500)
    assert read(tmp_path / "one.bz2", packed=1)[2] == 1


LINE = st.one_of(
    st.text(max_size=30).map(lambda text: json.dumps({"id": 1, "text": text}, ensure_ascii=False)),
    st.sampled_from(["", "{broken", "[1, 2]", '{"title": "no text"}', '{"text": null}', '{"text": "\\ud800 half"}']),
)


@SHARED
@given(lines=st.lists(LINE, max_size=12), every=st.integers(1, 200), stream=st.integers(1, 100), end=st.booleans())
def test_cuts_of_json_lines_do_not_matter(tmp_path: Path, lines: list[str], every: int, stream: int, end: bool) -> None:
    """Each line is read once wherever the file is cut; those without a text are counted."""
    content = ("\n".join(['{"text": "first"}', *lines]) + "\n" * end).encode()
    (tmp_path / "a.jsonl").write_bytes(content)
    (tmp_path / "a.jsonl.bz2").write_bytes(multistream(content, stream))
    texts, tally, _ = read(tmp_path / "a.jsonl")
    assert texts == ["first", *(wanted for line in lines if (wanted := text_of(line)) is not None)]
    assert tally.get("broken", 0) == sum(1 for line in lines if line and text_of(line) is None)
    assert read(tmp_path / "a.jsonl", plain=every)[:2] == (texts, tally)
    assert read(tmp_path / "a.jsonl.bz2", packed=every)[:2] == (texts, tally)


def text_of(line: str) -> str | None:
    """What a line gives."""
    try:
        found: Any = json.loads(line)
    except ValueError:
        return None
    text = found.get("text") if isinstance(found, dict) else None
    return None if text is None else text.replace("\ud800", "?")


def test_parquet_is_cut_between_row_groups(tmp_path: Path) -> None:
    """The column ``text`` of all groups, in pieces; nulls are counted as broken."""
    texts = [f"text {i}" if i % 7 else None for i in range(50)]
    pq.write_table(pa.table({"id": range(50), "text": texts}), tmp_path / "a.parquet", row_group_size=9)
    found, tally, count = read(tmp_path / "a.parquet", plain=1)
    assert count == 6
    assert found == [text for text in texts if text is not None]
    assert tally["broken"] == 8


def test_large_texts_of_parquet_come_in_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch is much larger than the limit but for a single text; none is lost."""
    monkeypatch.setattr(metadata_text, "BATCH", 1000)
    texts = ["x" * (10 if i % 10 else 9000) for i in range(100)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    (piece,) = pieces(list_texts([str(tmp_path / "a.parquet")]))
    found = list(read_texts(piece, Counter()))
    assert [text for batch in found for text in batch.to_pylist()] == texts
    assert all(len(batch) == 1 or batch.nbytes <= 4000 for batch in found)


def test_a_folder_of_wikiextractor(tmp_path: Path) -> None:
    """Files without an ending in folders of a folder are found, sorted; hidden ones are not."""
    for name in ("AA/wiki_00", "AA/wiki_01", "AB/wiki_00", "AB/.hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"id": "1", "title": "t", "text": name}) + "\n")
    texts = [text for file in list_texts([str(tmp_path)]) for text in read(file.url)[0]]
    assert texts == ["AA/wiki_00", "AA/wiki_01", "AB/wiki_00"]


def test_small_files_are_counted_together(tmp_path: Path) -> None:
    """Bundles hold every piece once, in order, up to their weight; a piece of more is alone."""
    for i, size in enumerate([100, 100, 500, 100, 20]):
        (tmp_path / f"{i}.jsonl").write_bytes(b"{" + b" " * (size - 1))
    work = pieces(list_texts([str(tmp_path)]))
    found = bundles(work, 250)
    assert [[piece.index for piece in bundle.pieces] for bundle in found] == [[0, 1], [2], [3, 4]]
    assert [bundle.index for bundle in found] == [0, 1, 2]
    assert bundles([]) == []


def test_a_huge_page_is_read_and_a_larger_one_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the limit a page is read whole; beyond it the page counts as broken, and the next is read."""
    monkeypatch.setattr(metadata_text, "MAX_PAGE", 3 << 20)
    large, larger = page("word " * 500_000), page("word " * 2_000_000)
    (tmp_path / "a.xml").write_bytes(export([page("one"), large, larger, page("two")]))
    texts, tally, _ = read(tmp_path / "a.xml")
    assert [len(text) for text in texts] == [3, 2_500_000, 3]
    assert tally["broken"] == 1


def test_a_line_too_long_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes are not held, and the lines after it are read."""
    monkeypatch.setattr(metadata_text, "MAX_LINE", 1 << 20)
    lines = [json.dumps({"text": text}) for text in ("one", "x" * (5 << 20), "two")]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    texts, tally, _ = read(tmp_path / "a.jsonl")
    assert (texts, tally["broken"]) == (["one", "two"], 1)


def test_files_and_categories_are_no_text() -> None:
    """Their links go, in the wiki's own language; captions of plain links, tables and emphasis stay."""
    text = "[[Datei:a.jpg|thumb|200px|A ''cat'']] '''The''' [[cat|cats]] {{cite|x}}<ref>no</ref> [[:Datei:b]]"
    text += " [[Kategorie:C]]\n{|\n| cell [[Datei:in a table.jpg|thumb]]\n|}"
    found = plain_text(text, ("datei", "kategorie"))
    assert found is not None
    assert found.split() == ["The", "cats", ":Datei:b", "cell"]


def test_broken_wikitext_is_text_still() -> None:
    """Unclosed templates, tables, tags and links never stop a page."""
    for text in ("{{open", "[[open", "{| open\n| cell", "<ref>open", "'''''open", "{{" * 5000):
        assert isinstance(plain_text(text), str)


@pytest.mark.parametrize("tag", ["<div ", "<ref>", "<B>"])
def test_a_page_that_would_take_hours_is_broken(tag: str) -> None:
    """Tags without end, whose parsing takes the square of their number: at once no text; line breaks are no such."""
    assert plain_text(tag * 200_000) is None
    assert plain_text("a<br>" * 3000) is not None


def test_a_dump_that_breaks_off_is_refused(tmp_path: Path) -> None:
    """Plain, bz2 and gzip: one line with the file and the next step, never a shorter list."""
    content = export(mixed())
    packed = multistream(content, 900)
    files = {
        "a.xml": content[:-40],
        "b.xml.bz2": packed[:-20],
        "c.xml.gz": gzip.compress(content)[:-20],
        "d.xml.bz2": packed[:-200] + b"garbage" * 30,
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PoolError, match=rf"{name}: .*fetch it again"):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"Just text\n", "neither XML, JSON lines nor Parquet"),
        (b"<html></html>", "no MediaWiki export"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]>' + (HEAD + FOOT).encode(), "declares a document type"),
        (b"BZh9not bz2 at all", "cannot be read"),
        (b"\x1f\x8bnot gzip at all", "cannot be read"),
        (b"PAR1 not Parquet", "no readable Parquet file"),
    ],
)
def test_what_is_no_dump_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    """One line with file and cause, before any work."""
    (tmp_path / "dump").write_bytes(content)
    with pytest.raises(PoolError, match=f"dump: .*{says}"):
        pieces(list_texts([str(tmp_path / "dump")]))


def test_missing_files_and_columns_are_refused(tmp_path: Path) -> None:
    """A path, an empty folder, a glob without a match, Parquet without ``text``."""
    (tmp_path / "empty").mkdir()
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    for name, says in [("none", "no such file"), ("empty", "no file"), ("*.xml", "no file"), ("a.parquet", "'text'")]:
        with pytest.raises(PoolError, match=says):
            pieces(list_texts([str(tmp_path / name)]))


def test_an_entity_bomb_stays_small(tmp_path: Path) -> None:
    """A page with a document type of its own is no XML; its entities are never expanded."""
    bomb = '<page><!DOCTYPE p [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><ns>0</ns><text>&b;</text></page>'
    (tmp_path / "a.xml").write_bytes(export([bomb, page("fine")]))
    texts, tally, _ = read(tmp_path / "a.xml")
    assert (texts, tally["broken"]) == (["fine"], 1)
