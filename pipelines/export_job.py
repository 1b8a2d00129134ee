"""What an export is, whose files lie in its folder, and when it is finished.

An export replaces an earlier one of the same format in its folder, as a whole: nothing of that survives.  A folder
that holds anything else is refused.  Only files that an export has listed are removed.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from pairsieve.pipelines import export_files, export_tables
from pairsieve.pipelines.export_settings import FormatName
from pairsieve.pipelines.export_source import Dataset
from pairsieve.pipelines.lock import MARK, WORKERS
from pairsieve.pipelines.reshard_job import FileEntry
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import UserError
from pairsieve.schemas.run import Manifest

JOB, MANIFEST, WORK = "_job.json", "_manifest.json", "_work"
SIZES, CARD = "sizes.json", "README.md"
LISTED = "_listed.json"
"""Names of the files that an unfinished export writes or replaces."""
_LOCKS = {MARK, WORKERS}
_NAMES = {
    "webdataset": re.compile(r"\d{8,}\.tar"),
    "img2dataset": re.compile(r"\d+(\.tar|\.parquet|_stats\.json)"),
}
"""Of files that lie in the folder itself."""


class ExportJob(Manifest):
    """``_job.json``: all that decides what is written.  ``dataset`` and ``recipe`` are digests of the run's."""

    format: str
    dataset: str
    settings: dict[str, Any]
    recipe: str = ""
    export_version: str = "1"


class ExportManifest(Manifest):
    """Written last: a folder without it is unfinished.

    ``rows`` are the dataset's, ``written`` samples; ``left_out`` counts rows that cannot be exported, by reason, and
    ``named`` are the uids of the first of them.  ``listing`` is the SHA-256 of what readers look at first, but for a
    card, which may be edited.
    """

    job: ExportJob
    rows: int
    written: int
    left_out: dict[str, int]
    named: dict[str, tuple[str, ...]]
    files: tuple[FileEntry, ...]
    listing: str = ""


def open_out(out: str, format: FormatName, dataset: Dataset) -> Store:
    """The store of an export; raises ``UserError`` for a folder that an export must not write to."""
    if not out.strip():
        raise UserError("OUT is empty; name a folder for the export")
    store = Store(out)
    if format == "csv" and not store.local:
        raise UserError(
            f"{out}: open_clip's csv dataset reads local files; choose a local folder, or export webdataset"
        )
    _check_outside(store, dataset.store, out)
    check_folder(store, format)
    return store


def open_beside(out: str, run: Store) -> Store:
    """The store of an export of a run's downloads; raises ``UserError`` for a folder that it must not write to."""
    if not out.strip():
        raise UserError("OUT is empty; name a folder for the export")
    store = Store(out)
    _check_outside(store, run, out)
    check_folder(store, "img2dataset")
    return store


def _check_outside(store: Store, source: Store, out: str) -> None:
    theirs, ours = _url(source), _url(store)
    if ours.startswith(theirs):
        raise UserError(f"{out}: is the run's own; choose a folder outside of it")
    if store.local and "\n" in store.base:
        raise UserError(f"{out!r}: holds a newline; choose another name")


def _url(store: Store) -> str:
    return str(store.fs.unstrip_protocol(store.base)).rstrip("/") + "/"


def check_folder(store: Store, format: str) -> None:
    """Raise ``UserError`` for a folder with files that no export of the format wrote."""
    names = set(store.names("")) - _LOCKS
    if JOB in names:
        held = _held(store)
        if held is None or held.format != format:
            what = "the files of another kind of job" if held is None else f"an export as {held.format}"
            raise UserError(f"{store.root}: holds {what}; choose another folder, or remove this one first")
    elif names:
        name = sorted(names)[0]
        raise UserError(f"{store.root}: holds {name!r}, which no export wrote; choose another folder")


def _held(store: Store) -> ExportJob | None:
    try:
        return ExportJob.model_validate_json(store.read(JOB))
    except (ValidationError, OSError):
        return None


def claim(store: Store, job: ExportJob) -> None:
    """Make an empty folder this job's; nothing is removed.

    Raises ``UserError`` where another export is to be replaced, and a file lies there that it has not listed.
    """
    held = _held(store)
    if held is None:
        store.write_json(JOB, job.model_dump(mode="json"))
    elif held != job:
        check_strangers(store, job.format, _listed(store))


def begin(store: Store, job: ExportJob, names: Iterable[str]) -> None:
    """Make the folder this job's, which will write ``names``: what another has listed goes, its manifest first."""
    listed = _listed(store)
    store.write_json(LISTED, sorted(listed.union(names)))
    store.remove(MANIFEST)
    if _held(store) == job:
        return
    for name in [_first(job.format), *(one for one in _outputs(store, job.format) if one in listed)]:
        if name is not None:
            store.remove(name)
    store.write_json(JOB, job.model_dump(mode="json"))


def close(store: Store) -> None:
    """Remove what a finished export needs no more."""
    store.remove(WORK)
    store.remove(LISTED)


def _listed(store: Store) -> set[str]:
    """The files of the export in the folder: of its manifest, and where it is unfinished of its list."""
    found = set[str]()
    if store.exists(MANIFEST):
        with suppress(ValidationError, OSError):  # damaged
            manifest = ExportManifest.model_validate_json(store.read(MANIFEST))
            found.update(one.file for one in manifest.files)
    if store.exists(LISTED):
        with suppress(ValueError, OSError):
            found.update(map(str, json.loads(store.read(LISTED))))
    return found


def _first(format: str) -> str | None:
    """By what readers find the rest; null where they find it by its names."""
    return {"webdataset": SIZES, "csv": export_files.LIST, "hf": CARD}.get(format)


def listing(store: Store, format: str) -> str:
    """SHA-256 of what readers look at first; nothing for a card, and where there is none."""
    first = _first(format)
    if format == "hf" or first is None or not store.exists(first):
        return ""
    return hashlib.sha256(store.content(first)).hexdigest()


def _outputs(store: Store, format: str) -> list[str]:
    """What lies where an export writes its files, and is named like them."""
    folder = _folder(format)
    if folder:
        return [f"{folder}/{name}" for name in store.names(folder)]
    return [name for name in store.names("") if _NAMES[format].fullmatch(name)]


def _folder(format: str) -> str:
    """Where the files of the manifest lie."""
    return {"csv": export_files.IMAGES, "hf": export_tables.FOLDER}.get(format, "")


def check_strangers(store: Store, format: str, known: Collection[str]) -> None:
    """Raise ``UserError`` for a file beside the export's that trainers would take for one of it."""
    for name in _outputs(store, format):
        if name not in known:
            raise UserError(f"{store.root}: holds {name!r}, which is none of its {len(known)} files; remove it")


def finished(store: Store, job: ExportJob) -> ExportManifest | None:
    """The manifest of a finished export of this job, all its files there, and as long as they were written."""
    if not store.exists(MANIFEST):
        return None
    try:
        found = ExportManifest.model_validate_json(store.read(MANIFEST))
    except (ValidationError, OSError):  # damaged
        return None
    if found.job != job or listing(store, job.format) != found.listing:
        return None
    if job.format == "csv":
        return found if all(store.exists(one.file) for one in found.files) else None
    sizes = store.sizes(_folder(job.format))
    return found if all(sizes.get(one.file.rpartition("/")[2]) == one.size for one in found.files) else None
