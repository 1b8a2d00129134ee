"""What a report says of the pairs that it shows: caption, URL, size, verdict; bounded, whatever strangers wrote.

One query for all of them.  It reads the captions and URLs of the shards that they lie in.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pairsieve.pipelines.report_images import Images, Place, Thumb
from pairsieve.pipelines.report_source import Source

CAPTION, ADDRESS = 220, 160
"""Characters of a caption and of a URL that are shown."""


@dataclass(frozen=True)
class Words:
    """The beginning of a text, and how many characters it has."""

    start: str
    length: int

    @property
    def is_cut(self) -> bool:
        """Whether there is more of it."""
        return self.length > len(self.start)


@dataclass(frozen=True)
class Pair:
    """A pair as it is shown; ``image`` None: the run holds no images."""

    uid: str
    text: Words | None
    url: Words | None
    dropped_by: str | None = None
    reason: str | None = None
    is_judged: bool = True
    source: str | None = None
    image: Thumb | None = None


_OF_POOL = """
    SELECT c.shard, c.row, c.row, p.uid,
           left(p.text, {caption}), length(p.text), left(p.url, {address}), length(p.url), NULL
    FROM pairs p JOIN shown c ON p.shard = c.shard AND p.row = c.row WHERE p.shard IN ({shards})
"""
_ADDED = """
    SELECT c.shard, c.row, a.parent_row, a.uid, left(a.text, {caption}), length(a.text), NULL, NULL, a.text_source
    FROM added a JOIN shown c ON a.shard = c.shard AND a.row = c.row WHERE a.shard IN ({shards})
"""
_UIDS = """
    SELECT c.shard, c.row, c.row, v.uid, NULL, NULL, NULL, NULL, NULL
    FROM verdicts v JOIN shown c ON v.shard = c.shard AND v.row = c.row WHERE v.shard IN ({shards})
"""
_VERDICTS = """
    SELECT c.shard, c.row, v.dropped_by, v.reason
    FROM verdicts v JOIN shown c ON v.shard = c.shard AND v.row = c.row WHERE v.shard IN ({shards})
"""


def pairs(source: Source, places: Iterable[Place], images: Images) -> Mapping[Place, Pair]:
    """The pairs of some places; those that cannot be read are left out."""
    wanted = sorted(set(places))
    if not wanted:
        return {}
    shown = pa.table({n: pa.array([place[i] for place in wanted], pa.int32()) for i, n in enumerate(("shard", "row"))})
    source.con.register("shown", shown)
    limits = {
        "caption": CAPTION,
        "address": ADDRESS,
        "shards": ", ".join(str(s) for s in sorted({s for s, _ in wanted})),
    }
    verdicts = {}
    if "verdicts" in source.columns:
        with source.section("verdicts of samples"):
            verdicts = {row[:2]: row[2:] for row in source.rows(_VERDICTS.format(**limits))}
    found = list(_facts(source, limits))
    thumbs = images.thumbs((shard, parent) for shard, _, parent, *_ in found)
    made = {}
    for shard, row, parent, uid, text, characters, url, length, kind in found:
        verdict = verdicts.get((shard, row))
        made[shard, row] = Pair(
            str(uid),
            None if text is None else Words(text, characters),
            None if url is None else Words(url, length),
            dropped_by=verdict[0] if verdict else None,
            reason=verdict[1] if verdict else None,
            is_judged=verdict is not None,
            source=kind,
            image=thumbs.get((shard, parent)),
        )
    return made


def _facts(source: Source, limits: Mapping[str, object]) -> Iterable[tuple[Any, ...]]:
    """Place, parent's row, uid, texts and URLs, of the pool's pairs and of those that were added."""
    found: dict[Place, tuple[Any, ...]] = {}
    for view, sql in (("verdicts", _UIDS), ("pairs", _OF_POOL), ("added", _ADDED)):
        if view in source.columns:
            with source.section(f"samples from {view}"):
                found |= {row[:2]: row for row in source.rows(sql.format(**limits))}
    return found.values()
