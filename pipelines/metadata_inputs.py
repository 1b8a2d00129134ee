"""The texts that n-grams are counted in: which files, what they are, and how they are cut into pieces of work.

What a file is, its first bytes tell, not its name: WikiExtractor's have no ending.  A plain file is cut every
``PLAIN`` bytes, a bz2 file of several streams at the stream after every ``PACKED`` bytes, Parquet between row
groups; anything else is one piece.  Cutting reads a few bytes at each cut; a bz2 file of one stream (no
``-multistream`` dump) is read to its end to find none.
"""

import html
import lzma
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import IO, Any, Literal

import pyarrow as pa

from pairsieve.pipelines.parquet_source import open_source
from pairsieve.pipelines.pools import list_files, stamp
from pairsieve.pipelines.store import filesystem
from pairsieve.pipelines.text_lines import PACKINGS, first_line
from pairsieve.schemas.errors import PoolError

PLAIN = 128 << 20
PACKED = 32 << 20
HEAD = 1 << 16
"""Unpacked bytes that tell what a file is; MediaWiki's ``siteinfo`` has 3 to 8 KB."""
MAGIC = {b"BZh": "bz2", b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst", b"\xfd7zXZ\0": "xz"}
BLOCK = b"1AY&SY"
"""What a block of bz2 begins with; a stream begins with ``BZh1`` to ``BZh9`` and a block, on a whole byte."""
FILE, CATEGORY = "6", "14"
"""MediaWiki's numbers of the namespaces whose links are no text of the page."""

Kind = Literal["xml", "jsonl", "parquet"]


@dataclass(frozen=True)
class TextFile:
    """One file of texts; ``silent`` are the namespaces (lower case) whose links are no text."""

    url: str
    size: int
    stamp: str
    kind: Kind
    packing: str | None = None
    silent: tuple[str, ...] = ()


@dataclass(frozen=True)
class Piece:
    """A piece of work: bytes ``start`` to ``stop`` of a file as it lies there, or row groups of Parquet."""

    index: int
    file: TextFile
    start: int
    stop: int
    parts: int = 1
    """Pieces of this file."""

    @property
    def weight(self) -> int:
        """Bytes of text, roughly: wikitext and its like shrink to a quarter."""
        size = self.file.size // self.parts if self.file.kind == "parquet" else self.stop - self.start
        return size * (1 if self.file.packing is None and self.file.kind != "parquet" else 4)


@dataclass(frozen=True)
class Bundle:
    """Pieces that one worker reads one after another: small files together, so that runs are few."""

    index: int
    pieces: tuple[Piece, ...]


def list_texts(patterns: Sequence[str]) -> list[TextFile]:
    """The files of paths, folders (with those in them) and globs; raises ``PoolError``."""
    return [text_file(fs, path) for fs, path in listed(patterns)]


def listed(patterns: Sequence[str]) -> list[tuple[Any, str]]:
    """(filesystem, path), each once, in the order given, those of a folder or glob sorted."""
    found = dict[str, tuple[Any, str]]()
    for pattern in patterns:
        fs, paths = _files(pattern)
        found |= {str(fs.unstrip_protocol(path)): (fs, path) for path in paths}
    return list(found.values())


def _files(pattern: str) -> tuple[Any, list[str]]:
    fs, path = filesystem(pattern)
    if not path or not fs.isdir(path):
        return list_files(pattern, check="the path")
    inner = sorted(str(p) for p in fs.find(path))
    inner = [p for p in inner if not any(n.startswith((".", "_")) for n in p.removeprefix(path).split("/"))]
    if not inner:
        raise PoolError(f"{pattern}: no file in this folder; name the dump's files")
    return fs, inner


def text_file(fs: Any, path: str) -> TextFile:
    """What a file is; raises ``PoolError`` for one that is none of them."""
    head, packing = read_head(fs, path)
    made = TextFile(str(fs.unstrip_protocol(path)), int(fs.info(path)["size"] or 0), stamp(fs, path), "jsonl", packing)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if packing is None and head.startswith(b"PAR1"):
        return replace(made, kind="parquet")
    if text.startswith(b"<"):
        return replace(made, kind="xml", silent=_silent(text, path))
    if text.startswith(b"{"):
        return made
    what = "is empty" if not text else f"begins with {text[:20]!r}: neither XML, JSON lines nor Parquet"
    raise PoolError(f"{path}: {what}; name a MediaWiki XML export, JSON lines or Parquet")


def read_head(fs: Any, path: str) -> tuple[bytes, str | None]:
    """The first bytes of a file, unpacked, and how it is packed; raises ``PoolError``."""
    try:
        with fs.open(path, "rb") as file:
            start = file.read(8)
            packing = next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)
            file.seek(0)
            return (_start_of(PACKINGS[packing](file)) if packing else file.read(HEAD)), packing
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        raise PoolError(f"{path}: cannot be read: {first_line(error)}; fetch it again, or leave it out") from None


def _start_of(file: IO[bytes]) -> bytes:
    """Up to ``HEAD`` bytes; as many as there are where the file breaks off, which its reader will say."""
    found = b""
    try:
        while len(found) < HEAD and (part := file.read(HEAD - len(found))):
            found += part
    except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException):
        if not found:
            raise
    return found


def _silent(head: bytes, path: str) -> tuple[str, ...]:
    """The names of the file and category namespaces in a wiki's language; refuses what is no MediaWiki export."""
    head = head.partition(b"<page>")[0]
    if b"<!DOCTYPE" in head or b"<!ENTITY" in head:
        raise PoolError(f"{path}: declares a document type, which no MediaWiki export does; it is not read")
    if b"<mediawiki" not in head:
        raise PoolError(f"{path}: XML, but no MediaWiki export (no <mediawiki>); name a pages-articles dump")
    text = head.decode("utf-8", "replace")
    names = ["file", "image", "category"]
    for key in (FILE, CATEGORY):
        found = re.search(rf'<namespace key="{key}"[^>]*>([^<]{{1,100}})</namespace>', text)
        names += [html.unescape(found[1]).lower()] if found else []
    return tuple(dict.fromkeys(names))


def pieces(files: Sequence[TextFile], plain: int = PLAIN, packed: int = PACKED) -> list[Piece]:
    """All pieces of work, numbered."""
    found = list[Piece]()
    for file in files:
        cuts = list(_cuts(file, plain, packed))
        ranges = list(pairwise(cuts))
        found += [Piece(len(found) + i, file, a, b, len(ranges)) for i, (a, b) in enumerate(ranges)]
    return found


def bundles(work: Sequence[Piece], most: int = PLAIN) -> list[Bundle]:
    """Pieces in order, together as long as they weigh no more than ``most``."""
    held = list[list[Piece]]()
    weight = most + 1
    for piece in work:
        if weight + piece.weight > most:
            held.append([])
            weight = 0
        held[-1].append(piece)
        weight += piece.weight
    return [Bundle(i, tuple(one)) for i, one in enumerate(held)]


def _cuts(file: TextFile, plain: int, packed: int) -> Iterator[int]:
    """Where pieces begin, then the end."""
    fs, path = filesystem(file.url)
    if file.kind == "parquet":
        yield from _group_cuts(fs, path, plain)
        return
    yield 0
    if file.packing is None:
        yield from range(plain, file.size, plain)
    if file.packing == "bz2":
        with fs.open(path, "rb") as handle:
            yield from _stream_cuts(handle, file.size, packed)
    yield file.size


def _stream_cuts(file: IO[bytes], size: int, every: int) -> Iterator[int]:
    """The first stream that begins after each ``every`` bytes."""
    at = every
    while at < size and (found := _next_stream(file, at)) is not None:
        yield found
        at = found + every


def _next_stream(file: IO[bytes], start: int, chunk: int = 1 << 20) -> int | None:
    """Where the first stream begins at or after a byte."""
    file.seek(start)
    held, base = b"", start
    while part := file.read(chunk):
        held += part
        for hit in re.finditer(rb"BZh[1-9]" + re.escape(BLOCK), held):
            return base + hit.start()
        base += max(0, len(held) - 9)
        held = held[-9:]
    return None


def _group_cuts(fs: Any, path: str, most: int) -> Iterator[int]:
    """Row groups that hold together about ``most`` bytes."""
    with open_source(fs, path) as file:
        if "text" not in file.schema_arrow.names:
            names = ", ".join(file.schema_arrow.names)
            raise PoolError(f"{path}: no column 'text' (columns: {names}); rename the one that holds it")
        sizes = [file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)]
    yield 0
    held = 0
    for i, size in enumerate(sizes):
        if held and held + size > most:
            yield i
            held = 0
        held += size
    if sizes:
        yield len(sizes)
