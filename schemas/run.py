"""Manifests of a run: what was run (``run.yaml``) and what was written (``dataset/_manifest.json``)."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Manifest(BaseModel):
    """Base of all manifests: immutable, nothing unknown in them."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StepRecord(Manifest):
    """One step as it ran.

    ``measures`` is all that decides the measured values, and what ``fingerprint`` is the digest of:
    filter, version, scoring settings, model files, columns read; null where nothing is stored.
    ``deciding`` are its settings that only decide; ``settled`` is what the whole pool decided, such as
    the threshold of a top fraction.
    """

    id: str
    filter: str
    fingerprint: str
    measures: dict[str, Any] | None = None
    deciding: dict[str, Any]
    settled: dict[str, Any] | None = None


class PoolRecord(Manifest):
    """The size of the pool."""

    rows: int
    shards: int


class RunManifest(Manifest):
    """``run.yaml``: the recipe as resolved, the versions that ran it, and each step's fingerprint."""

    recipe: dict[str, Any]
    seed: int
    versions: dict[str, str]
    pool: PoolRecord
    steps: tuple[StepRecord, ...]


class DatasetFile(Manifest):
    """One training shard: rows of each row group, bytes in memory and (``size``) of the file, XXH3-128 of the file."""

    file: str
    rows: int
    row_groups: tuple[int, ...]
    bytes: int
    size: int
    checksum: str


class DatasetManifest(Manifest):
    """``dataset/_manifest.json``, written last: a dataset without it is unfinished."""

    version: str
    fingerprint: str
    seed: int
    rows: int
    columns: dict[str, str]
    files: tuple[DatasetFile, ...]
