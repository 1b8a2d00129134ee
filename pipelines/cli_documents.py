"""What commands print with ``--json``: one document each, with keys that docs/cli.md lists and versions keep.

Plans, searches, hosts, caption scores and tracks have theirs beside their pages.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from pairsieve.pipelines.balance import Choice, Counts
    from pairsieve.pipelines.cluster import Trained
    from pairsieve.pipelines.demo import Score
    from pairsieve.pipelines.export_job import ExportManifest
    from pairsieve.pipelines.metadata_out import MetadataManifest
    from pairsieve.pipelines.provenance import Difference, Story
    from pairsieve.pipelines.reshard_job import ReshardManifest
    from pairsieve.pipelines.runner import Result

Document = dict[str, Any]


def run_document(result: "Result") -> Document:
    """``run`` and ``retry``: the funnel, and what was measured by this call."""
    funnel = [
        {"step": step, "reached": reached, "dropped": dropped, "left": reached - dropped}
        for step, reached, dropped in result.funnel
    ]
    sizes = {"rows": result.rows, "added": result.added, "kept": result.kept}
    settled = {step: dict(values) for step, values in result.settled.items()}
    return {"run": result.root, **sizes, "funnel": funnel, "measured": dict(result.measured), "settled": settled}


def demo_document(score: "Score", report: str) -> Document:
    """``demo``: its run and report, the planted defects and what was caught, and what good pairs it cost."""
    good = {"pairs": score.good, "lost": score.good_lost, "cut": score.good_cut}
    return {
        **run_document(score.result),
        "defects": [asdict(catch) for catch in score.catches],
        "good": good,
        "report": report,
    }


def query_document(table: "pa.Table") -> Document:
    """``query``: the columns with their types, and the rows."""
    names = distinct(table.column_names)
    columns = [{"name": name, "type": str(kind)} for name, kind in zip(names, table.schema.types, strict=True)]
    return {"columns": columns, "rows": list(records(table))}


def records(table: "pa.Table") -> "Iterable[Document]":
    """Rows as mappings; columns of one name stay apart."""
    names = distinct(table.column_names)
    for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
        yield dict(zip(names, row, strict=True))


def distinct(names: Sequence[str]) -> list[str]:
    """Column names; one that came before gets a number behind, its place or the next that makes it new."""
    found: list[str] = []
    for i, name in enumerate(names):
        free = (f"{name}_{number}" for number in count(i))
        found.append(next(new for new in free if new not in (*found, *names)) if name in found else name)
    return found


def why_document(uid: str, stories: "Iterable[Story]") -> Document:
    """``why``: a story for each place of the uid in the pool."""
    return {"uid": uid, "pairs": [_story(story) for story in stories]}


def _story(story: "Story") -> Document:
    place = {name: story.pair[name] for name in ("shard", "row")}
    pair = {name: value for name, value in story.pair.items() if name not in ("uid", "shard", "row")}
    survivor = None if story.survivor is None else asdict(story.survivor)
    steps = [asdict(chapter) for chapter in story.chapters]
    end = {"dropped_by": story.dropped_by, "reason": story.reason, "duplicate_of": survivor}
    return {**place, "pair": pair, "steps": steps, **end}


def diff_document(found: "Difference", one: str, other: str) -> Document:
    """``diff``: sizes, overlap, and what one run alone keeps by the other's verdict."""
    sizes = {"one": {"run": one, "kept": found.one}, "other": {"run": other, "kept": found.other}}
    only = {"only_one": _only(found.only_one), "only_other": _only(found.only_other)}
    return {**sizes, "both": found.both, "jaccard": found.jaccard, **only}


def _only(counts: "Mapping[tuple[str, str], int]") -> list[Document]:
    return [{"step": step, "reason": reason, "pairs": pairs} for (step, reason), pairs in counts.items()]


def balance_document(of: "Counts", choice: "Choice", top: int, out: str | None) -> Document:
    """``balance``: head and tail at a t, sizes, and the most frequent entries."""
    return {
        "t": choice.t,
        "entries": len(of.counts),
        "matches": int(of.counts.sum()),
        "matched_rows": of.matched,
        "tail_share": choice.tail_share,
        "expected_rows": choice.rows,
        "expected_from": choice.source,
        "most_rows": choice.most_rows,
        "parts": [part._asdict() for part in choice.parts],
        "top": _top_entries(of, choice, top),
        "out": out,
    }


def _top_entries(of: "Counts", choice: "Choice", top: int) -> list[Document]:
    from pairsieve.pipelines.balance_page import most_frequent

    return [asdict(entry) for entry in most_frequent(of, choice, top)]


def reshard_document(manifest: "ReshardManifest", out: str) -> Document:
    """``reshard``: what was written, and what could not be."""
    names = ("written", "samples", "records", "missing", "duplicates", "flaws", "gaps", "unread")
    counts = {name: getattr(manifest, name) for name in names}
    unusable = [one.file for one in manifest.inputs if one.error]
    return {"out": out, **counts, "failed_inputs": unusable, "files": _files(manifest)}


def export_document(manifest: "ExportManifest", out: str) -> Document:
    """``export``: what was written, what was left out, and why."""
    counts = {"rows": manifest.rows, "written": manifest.written, "left_out": manifest.left_out}
    return {"out": out, "format": manifest.job.format, **counts, "files": _files(manifest)}


def _files(manifest: "ReshardManifest | ExportManifest") -> list[Document]:
    return [{"file": one.file, "rows": one.rows} for one in manifest.files]


def metadata_document(manifest: "MetadataManifest", out: str) -> Document:
    """``metadata``: entries by source and language."""
    sources = [one.model_dump(exclude={"files"}) | {"files": [f.path for f in one.files]} for one in manifest.sources]
    whole = {"entries": manifest.entries, "sha256": manifest.sha256, "languages": manifest.languages}
    return {"out": out, **whole, "sources": sources, "notes": list(manifest.notes)}


def cluster_document(found: "Trained", out: str) -> Document:
    """``cluster``: the centroids that were written, and from how many pairs."""
    clusters, width = found.centroids.shape
    return {"out": out, "clusters": clusters, "width": width, "vectors": found.vectors, "missing": found.missing}


def filters_document() -> Document:
    """``filters``: every filter that ships."""
    from pairsieve.filters.load import names

    return {"filters": [_about(name) for name in names()]}


def filter_document(name: str) -> Document:
    """``filters NAME``: its docstring, columns and settings; raises ``UserError`` for an unknown one."""
    from pairsieve.filters.load import describe
    from pairsieve.pipelines.describe import loaded

    made = loaded(name)
    writes = {column: str(kind) for column, kind in made.writes.items()}
    about = {**_about(name), "doc": (made.__doc__ or "").strip(), "reads": list(made.reads), "writes": writes}
    return {**about, "settings": describe(made)}


def _about(name: str) -> Document:
    from pairsieve.pipelines.describe import kind_of, loaded

    made = loaded(name)
    return {"name": name, "kind": kind_of(made), "what": (made.__doc__ or "").strip().split("\n")[0]}
