"""What a resharding job is, and whose files lie in its folder: nothing of anybody else is touched or mixed in."""

import os
import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from pairsieve.pipelines.lock import MARK, WORKERS
from pairsieve.pipelines.reshard_inputs import Listing
from pairsieve.pipelines.store import Store, filesystem, is_local
from pairsieve.schemas.errors import UserError
from pairsieve.schemas.run import Manifest

JOB = "_job.json"
MISSING = "missing.npy"
MANIFESTS = {"tar": "_manifest.json", "parquet": "_reshard.json"}
"""The job's manifest; a Parquet dataset's ``_manifest.json`` is that of a run's ``dataset/``."""
_LOCKS = {MARK, WORKERS}
_OURS = {*_LOCKS, JOB, MISSING, "_manifest.json", "_reshard.json", "sizes.json", "meta.json", "_work"}
_NUMBERED = re.compile(r"\d{5,}(\.tar|\.parquet|_stats\.json)")


class Job(Manifest):
    """``_job.json``: all that decides what is written, but for the content of the shards."""

    subset: str
    shards: str
    format: str
    rows_per_shard: int
    seed: int
    version: str = "2"


class InputEntry(Manifest):
    """One input shard: bytes, XXH3-128, samples, those taken; ``error`` where it cannot be read."""

    file: str
    size: int
    checksum: str
    samples: int
    taken: int
    error: str | None


class FileEntry(Manifest):
    """One output shard."""

    file: str
    rows: int
    size: int
    sha256: str


class ReshardManifest(Manifest):
    """Written last: a folder without it is unfinished.

    ``records`` and ``uids`` are of the subset, ``missing`` of them records without a sample; ``written``
    counts samples with their copies, ``duplicates`` samples of a uid that an earlier place has given,
    ``flaws`` samples that could not be used, by reason, ``flawed`` names the first of them; those
    ``without_uid`` are counted whether or not they were wanted.  ``gaps`` are names that the numbering lacks,
    ``unread`` what beside the inputs looks like shards.
    """

    job: Job
    records: int
    uids: int
    written: int
    missing: int
    missing_uids: int
    duplicates: int
    samples: int
    flaws: dict[str, int]
    flawed: dict[str, tuple[str, ...]]
    gaps: tuple[str, ...]
    unread: tuple[str, ...]
    inputs: tuple[InputEntry, ...]
    files: tuple[FileEntry, ...]


def open_out(out: str, job: Job, listing: Listing) -> Store:
    """The store of a job; raises ``UserError`` where its folder holds anything else."""
    if not out.strip():
        raise UserError("OUT is empty; name a folder for the shards")
    if odd := sorted(set(out) & set(",*?[]")):
        raise UserError(f"{out}: DuckDB reads {' '.join(odd)} in a path as a pattern; choose another name")
    store = Store(out)
    inside = str(store.fs.unstrip_protocol(store.base)).rstrip("/") + "/"
    if any(one.url.startswith(inside) for one in listing.inputs):
        raise UserError(f"{out}: the input shards lie in it; choose another folder")
    if _lies_in(store, job.shards):
        raise UserError(f"{out}: lies in the folder of the input shards, {job.shards}; choose one outside of it")
    check_folder(store, job)
    return store


def _lies_in(store: Store, shards: str) -> bool:
    """Whether a store lies below a folder; a glob names files, and nothing lies below them."""
    fs, path = filesystem(shards)
    folder = os.path.realpath(path) if is_local(fs) else path
    outer = str(fs.unstrip_protocol(folder)).rstrip("/") + "/"
    return str(store.fs.unstrip_protocol(store.base)).startswith(outer)


def check_folder(store: Store, job: Job) -> None:
    """Raise ``UserError`` for a folder with files of another job, or of nobody's."""
    names = set(store.names("")) - _LOCKS
    if JOB in names:
        _check_same(store, job)
    elif names:
        name = sorted(names)[0]
        raise UserError(f"{store.root}: holds {name!r}, which no resharding job wrote; choose another folder")
    foreign = sorted(name for name in names - _OURS if _NUMBERED.fullmatch(name) is None)
    if foreign:
        raise UserError(f"{store.root}: holds {foreign[0]!r}, which is not of this job; remove it, or choose another")


def _check_same(store: Store, job: Job) -> None:
    try:
        held = Job.model_validate_json(store.read(JOB))
    except (ValidationError, OSError):
        raise UserError(f"{store.root}/{JOB}: not readable; choose another folder, or remove this one") from None
    theirs, ours = held.model_dump(), job.model_dump()
    if other := [name for name in ours if ours[name] != theirs[name]]:
        said = f"{other[0]} {_short(theirs[other[0]])}, not {_short(ours[other[0]])}"
        raise UserError(f"{store.root}: holds another job ({said}); choose another folder, or remove this one first")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:12]}…"


def check_numbers(store: Store, wanted: Sequence[str]) -> None:
    """Raise ``UserError`` for a shard that is none of those to be written: training would read it too."""
    known = {*wanted, *(stats_name(name) for name in wanted)}
    for name in store.names(""):
        if _NUMBERED.fullmatch(name) and name not in known:
            raise UserError(f"{store.root}: holds {name!r}, which is none of the {len(wanted)} shards; remove it")


def stats_name(shard: str) -> str:
    """The file with the size of a tar shard."""
    return shard.rpartition(".")[0] + "_stats.json"


def finished(store: Store, job: Job) -> ReshardManifest | None:
    """The manifest of a finished job, all its files as long as they were written."""
    name = MANIFESTS[job.format]
    if not store.exists(name):
        return None
    try:
        found = ReshardManifest.model_validate_json(store.read(name))
    except (ValidationError, OSError):  # damaged
        return None
    sizes = store.sizes("", f".{job.format}")
    return found if sizes == {one.file: one.size for one in found.files} else None


def check_inputs(store: Store, manifest: ReshardManifest, listing: Listing) -> None:
    """Raise ``UserError`` where a finished job was given other shards than there are now."""
    then = {one.file: one.size for one in manifest.inputs}
    now = {one.name: one.size for one in listing.inputs}
    if changed := sorted(name for name in then | now if then.get(name) != now.get(name)):
        raise UserError(
            f"{store.root}: finished, but the input {changed[0]} has changed since; choose another folder for a new job"
        )
