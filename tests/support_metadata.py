"""Small dumps for the tests of metadata: MediaWiki exports, page views, and texts counted slowly."""

import bz2
import gzip
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pyarrow.parquet as pq

from pairsieve.pipelines.metadata_tokens import JOINERS, LONGEST

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="de">
  <siteinfo><sitename>Wikipedia</sitename><namespaces>
    <namespace key="0" case="first-letter" /><namespace key="6" case="first-letter">Datei</namespace>
    <namespace key="14" case="first-letter">Kategorie</namespace></namespaces></siteinfo>
"""
FOOT = "</mediawiki>\n"


def page(text: str, namespace: int = 0, redirect: bool = False, model: str = "wikitext") -> str:
    """One page of an export."""
    target = '<redirect title="Elsewhere" />' if redirect else ""
    return f"""  <page>
    <title>A title</title><ns>{namespace}</ns><id>7</id>{target}
    <revision><id>8</id><contributor><username>text</username></contributor><comment>a page&gt; comment</comment>
      <model>{model}</model><format>text/x-wiki</format>
      <text bytes="{len(text)}" xml:space="preserve">{escape(text)}</text><sha1>x</sha1></revision>
  </page>
"""


def export(pages: Iterable[str]) -> bytes:
    """A whole export."""
    return (HEAD + "".join(pages) + FOOT).encode()


def multistream(content: bytes, every: int) -> bytes:
    """Streams of bz2 that are cut without regard to pages, as pbzip2 leaves them."""
    return b"".join(bz2.compress(content[i : i + every]) for i in range(0, len(content), every))


def write_views(path: Path, lines: Sequence[str]) -> Path:
    """An hourly file of page views."""
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    return path


def slow_stretches(text: str) -> list[list[str]]:
    """The words of a text by the definition, character by character; in each list all are neighbours."""
    kinds = [_kind(sign) for sign in text] + ["break"]
    found: list[list[str]] = [[]]
    i = 0
    while i < len(text):
        if kinds[i] != "word":
            if kinds[i] != "blank":
                found.append([])
            i += 1
            continue
        first = i
        while kinds[i] == "word" or (kinds[i] == "joiner" and kinds[i - 1] == "word" and kinds[i + 1] == "word"):
            i += 1
        word = text[first:i]
        if len(word.encode()) > LONGEST:
            found.append([])
        else:
            found[-1].append(word)
    return [words for words in found if words]


def _kind(sign: str) -> str:
    category = unicodedata.category(sign)
    if sign in JOINERS:
        return "joiner"
    if category == "Zs" or sign == "\t":
        return "blank"
    return "word" if category[0] in "LMN" else "break"


def rows(path: Path | str, source: str | None = None) -> list[tuple[Any, ...]]:
    """(entry, count) of a metadata file, of one source or all."""
    table = pq.read_table(path).to_pylist()
    return [(row["entry"], row["count"]) for row in table if source in (None, row["source"])]
