"""The texts of a piece of a dump, in batches: pages of a MediaWiki export, JSON lines, or Parquet.

What is broken is counted and passed over: a page that is no XML, a line that is no JSON.  Pages are cut out of
the export by their tags (text has its ``<`` escaped there) and parsed one by one, so nothing grows.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pairsieve.pipelines.metadata_inputs import Piece
from pairsieve.pipelines.metadata_stream import TAIL, Window, open_window
from pairsieve.pipelines.metadata_wikitext import Page, plain_text
from pairsieve.pipelines.parquet_source import as_text, batches, open_source
from pairsieve.pipelines.store import filesystem
from pairsieve.pipelines.text_lines import MAX_LINE, strings
from pairsieve.schemas.errors import PoolError

MAX_PAGE = 16 << 20
"""Bytes of a page in an export; MediaWiki's own limit is 2 MiB of wikitext."""
BATCH = 1 << 21
"""Characters of texts that are counted together."""
ROWS = 1024
"""Rows of Parquet read together."""
Tally = Counter[str]


def read_texts(piece: Piece, tally: Tally) -> Iterator[pa.Array]:
    """Batches of texts, without nulls; ``tally`` counts texts, and what was passed over by why.

    Raises ``PoolError`` for a file that cannot be read.
    """
    if piece.file.kind == "parquet":
        yield from _parquet(piece, tally)
        return
    with open_window(piece) as window:
        read = _pages if piece.file.kind == "xml" else _lines
        for texts in _batched(read(window, piece, tally)):
            tally["texts"] += len(texts)
            yield strings(texts)


def _batched(texts: Iterable[str]) -> Iterator[list[str]]:
    held, size = list[str](), 0
    for text in texts:
        held.append(text)
        size += len(text)
        if size >= BATCH:
            yield held
            held, size = [], 0
    if held:
        yield held


def _parquet(piece: Piece, tally: Tally) -> Iterator[pa.Array]:
    fs, path = filesystem(piece.file.url)
    with open_source(fs, path) as file:
        groups = list(range(piece.start, piece.stop))
        for batch in batches(file, path, ROWS, columns=["text"], row_groups=groups):
            column = batch["text"]
            tally["pages"] += len(column)
            tally["broken"] += column.null_count
            texts = as_text(column, f"{path}: column 'text'").drop_null()
            tally["texts"] += len(texts)
            tally["bytes"] += pc.sum(pc.binary_length(texts)).as_py() or 0
            yield from _halved(texts)


def _halved(texts: pa.Array) -> Iterator[pa.Array]:
    """In parts that are not much larger than ``BATCH``, where there is more than one text."""
    if len(texts) < 2 or texts.nbytes <= 4 * BATCH:
        yield texts
        return
    middle = len(texts) // 2
    yield from _halved(texts.slice(0, middle))
    yield from _halved(texts.slice(middle))


def _lines(window: Window, piece: Piece, tally: Tally) -> Iterator[str]:
    """The field ``text`` of JSON lines; a line belongs to the piece that the line end before it lies in."""
    for line in _own_lines(window, is_first=piece.start == 0):
        if line is not None and not line.strip():
            continue
        tally["pages"] += 1
        tally["bytes"] += len(line or b"")
        text = None if line is None else _field(line)
        if text is None:
            tally["broken"] += 1
        else:
            yield text


def _field(line: bytes) -> str | None:
    try:
        found = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        return None
    text = found.get("text") if isinstance(found, dict) else None
    return text if isinstance(text, str) else None


def _own_lines(window: Window, is_first: bool) -> Iterator[bytes | None]:
    """Lines of the piece; None for one that is too long."""
    at = 0
    if not is_first:
        end = window.find(b"\n", 0, 0, MAX_LINE)
        if end is None or not window.is_own(end):
            return
        at = end + 1
    while (end := window.find(b"\n", at, at, MAX_LINE)) is not None:
        yield window.cut(at, end)
        if not window.is_own(end):
            return
        at = end + 1
        window.let_go(at)
    yield window.rest(at)


def _pages(window: Window, piece: Piece, tally: Tally) -> Iterator[str]:
    """The plain text of the articles."""
    for content in _own_pages(window, piece):
        tally["pages"] += 1
        page = None if content is None else Page.parse(content)
        if page is None:
            tally["broken"] += 1
        elif reason := page.passed_over:
            tally[reason] += 1
        else:
            tally["bytes"] += len(page.text.encode("utf-8", "replace"))
            text = plain_text(page.text, piece.file.silent)
            if text is None:
                tally["broken"] += 1
            else:
                yield text


def _own_pages(window: Window, piece: Piece) -> Iterator[bytes | None]:
    """``<page>…</page>`` of the piece; None for one that does not end before the next, or is too long."""
    at, begin = 0, None
    while (place := window.find(b"page>", at, at if begin is None else begin, MAX_PAGE)) is not None:
        at = place + 5
        before = window.cut(max(0, place - 2), place) or b""
        if before == b"</":
            if begin is not None:
                yield window.cut(begin, at)
            begin = None
        elif before.endswith(b"<"):
            if begin is not None:
                yield None
            begin = place - 1
            if not window.is_own(begin):
                return
        window.let_go(at if begin is None else begin)
    if begin is not None:
        yield None
    end = window.tail()
    if len(end) == TAIL and b"</mediawiki>" not in end:  # a shorter piece of the end has no page, and cannot tell
        path = filesystem(piece.file.url)[1]
        raise PoolError(f"{path}: ends before </mediawiki>; fetch it again, or leave it out")
