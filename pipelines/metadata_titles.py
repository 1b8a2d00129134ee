"""Titles of Wikipedia by page views: the hourly files, each summed up by itself.

A line is ``project title count bytes``; only the lines of one project code count (``en``; not ``en.m``, the
mobile site), of at least so many views in the hour, with no ":" in the title.
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv

from pairsieve.pipelines.metadata_inputs import listed, read_head
from pairsieve.pipelines.pools import stamp
from pairsieve.pipelines.store import Store, filesystem
from pairsieve.pipelines.text_lines import PACKINGS, first_line
from pairsieve.schemas.errors import PoolError

BLOCK = 8 << 20
COLUMNS = ("project", "title", "views", "bytes")
_LINE = re.compile(rb"[^ \n]+ [^ \n]+ \d+ \d+\r?\n")


@dataclass(frozen=True)
class ViewFile:
    """One hourly file."""

    index: int
    url: str
    size: int
    stamp: str
    packing: str | None


@dataclass(frozen=True)
class Viewed:
    """What was read of a file: lines of the project, lines that are none of a page-view file."""

    name: str
    lines: int
    broken: int


def list_views(patterns: tuple[str, ...]) -> list[ViewFile]:
    """The files of paths, folders and globs; raises ``PoolError`` for what are no page views."""
    found = list[ViewFile]()
    for fs, path in listed(patterns):
        head, packing = read_head(fs, path)
        if not _LINE.match(head):
            begins = f"begins with {head[:20]!r}" if head else "is empty"
            raise PoolError(f"{path}: {begins}; name hourly page views: lines of 'en Title 123 0'")
        url, size = str(fs.unstrip_protocol(path)), int(fs.info(path)["size"] or 0)
        found.append(ViewFile(len(found), url, size, stamp(fs, path), packing))
    return found


@dataclass
class Views:
    """Sum up one file: (title, count) to a file of ``folder``."""

    store: Store
    folder: str
    project: str
    hour_least: int

    def __call__(self, file: ViewFile) -> Viewed:
        """See the class."""
        fs, path = filesystem(file.url)
        views, seen = Counter[str](), Counter[str]()
        try:
            with fs.open(path, "rb") as raw:
                for batch in self._batches(PACKINGS[file.packing](raw) if file.packing else raw, seen):
                    self._add(batch, views, seen)
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            raise PoolError(f"{path}: cannot be read: {first_line(error)}; fetch it again, or leave it out") from None
        name = f"{self.folder}/{file.index:05d}.views.parquet"
        titles, counts = pa.array(list(views), pa.string()), pa.array(list(views.values()), pa.int64())
        self.store.write_table(name, pa.table({"title": titles, "count": counts}))
        return Viewed(name, seen["lines"], seen["broken"])

    def _batches(self, file: Any, seen: "Counter[str]") -> Iterator[pa.RecordBatch]:
        def skip(row: Any) -> str:
            seen["broken"] += 1
            return "skip"

        yield from csv.open_csv(
            file,
            csv.ReadOptions(use_threads=False, block_size=BLOCK, column_names=list(COLUMNS)),
            csv.ParseOptions(delimiter=" ", quote_char=False, double_quote=False, invalid_row_handler=skip),
            csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.binary()), include_columns=list(COLUMNS[:3])),
        )

    def _add(self, batch: pa.RecordBatch, views: "Counter[str]", seen: "Counter[str]") -> None:
        ours = batch.filter(pc.equal(batch["project"], pa.scalar(self.project.encode(), pa.binary())))
        seen["lines"] += len(ours)
        is_number = pc.match_substring_regex(ours["views"], r"^[0-9]{1,15}$")
        seen["broken"] += len(ours) - (pc.sum(is_number).as_py() or 0)
        ours = ours.filter(is_number)
        counts = ours["views"].cast(pa.string()).cast(pa.int64())
        often = pc.greater_equal(counts, self.hour_least)
        titles = ours["title"].filter(often).to_pylist()
        for title, count in zip(titles, counts.filter(often).to_pylist(), strict=True):
            try:
                name = title.decode().replace("_", " ")
            except UnicodeDecodeError:
                seen["broken"] += 1
                continue
            if ":" not in name:
                views[name] += count
