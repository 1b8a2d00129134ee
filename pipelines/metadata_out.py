"""The metadata file and its manifest: whether they may be written, and how."""

import hashlib
import json
import os
import string
import unicodedata
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field, ValidationError

from pairsieve.pipelines.store import Store, filesystem, is_local, write_parquet
from pairsieve.schemas.errors import UserError
from pairsieve.schemas.run import Manifest

FORMAT = "pairsieve-metadata-1"
SUFFIX = ".manifest.json"
WORK = ".work"
PACKAGES = ("pairsieve", "duckdb", "pyarrow", "numpy")


class FileEntry(Manifest):
    """An input: where it lies, bytes; by ``stamp`` (its time or its store's tag) a changed one is known."""

    path: str
    size: int
    stamp: str


class SourceEntry(Manifest):
    """One source: its files; candidates ``seen``, those that ``passed``, those ``new`` to the list."""

    source: str
    files: tuple[FileEntry, ...] = ()
    seen: int
    passed: int
    new: int


class MetadataManifest(Manifest):
    """``<file>.manifest.json``: what a metadata file was made of, by which rules.

    ``texts`` counts what was read of the dumps: pages, texts, tokens, bytes, and what was passed over, by why
    (``broken``: no XML, no JSON, wikitext that cannot be parsed).  ``pmi_percentile`` is what the score takes off.
    ``views`` are lines of page views: of the project, and broken.  ``languages`` are the entries of each.
    """

    format: str = FORMAT
    entries: int
    sha256: str
    languages: dict[str, int]
    sources: tuple[SourceEntry, ...]
    rules: dict[str, Any] = Field(default_factory=dict)
    tokenizer: dict[str, str] = Field(default_factory=dict)
    texts: dict[str, int] = Field(default_factory=dict)
    views: dict[str, int] = Field(default_factory=dict)
    pmi_percentile: float | None = None
    excluded: str = "the empty string; " + " ".join(string.punctuation)
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)


def versions(*others: str) -> dict[str, str]:
    """Of what decides the entries."""
    found = {name: version(name) for name in (*PACKAGES, *others)}
    return {**found, "unicode": unicodedata.unidata_version}


class Output:
    """The file that is to be written; raises ``UserError`` where it cannot, or must not, be."""

    def __init__(self, out: str, *, force: bool) -> None:
        """Look before any work is done: a file that no ``pairsieve metadata`` wrote stays."""
        if not out.endswith(".parquet"):
            raise UserError(f"{out or 'OUT is empty'}: metadata are written as .parquet; give such a name")
        fs, path = filesystem(out)
        _, _, self.name = path.rpartition("/")
        if is_local(fs):
            _check_folder(out, Path(path))
        root = out.removesuffix(self.name).rstrip("/") or ("/" if out.startswith("/") else ".")
        self.store = Store(root)
        self.url, self.work = out, f"{self.name}{WORK}"
        if self.store.exists(self.name) and not force and self.manifest() is None:
            said = f"{out}: exists, and no {self.name}{SUFFIX} says that pairsieve wrote it"
            raise UserError(f"{said}; choose another name, or --force")

    def manifest(self) -> MetadataManifest | None:
        """Of the file that is there, if it is one of ours."""
        try:
            return MetadataManifest.model_validate_json(self.store.read(self.name + SUFFIX))
        except (OSError, ValidationError, ValueError):
            return None

    def work_root(self) -> str:
        """Where a store of runs lies: beside the file, where all workers see it."""
        return f"{self.store.root.rstrip('/')}/{self.work}"

    def write(self, table: pa.Table, **said: Any) -> MetadataManifest:
        """Entries, then the manifest, whose digest tells whether both belong together."""
        sink = pa.BufferOutputStream()
        write_parquet(table, sink)
        content = sink.getvalue()
        languages = {row["values"]: row["counts"] for row in table["language"].value_counts().to_pylist()}
        manifest = MetadataManifest(
            entries=len(table), sha256=hashlib.sha256(content).hexdigest(), languages=languages, **said
        )
        self.store.write(self.name, content)
        self.store.write_json(self.name + SUFFIX, json.loads(manifest.model_dump_json()))
        return manifest


def _check_folder(out: str, path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{out}: is a folder; give the name of a .parquet file in it")
    if not path.parent.is_dir():
        raise UserError(f"{out}: there is no folder {path.parent}; create it, or name another")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"{out}: nothing can be written to the folder {path.parent}; name another")
