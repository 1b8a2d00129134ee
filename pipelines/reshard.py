"""Make training shards of the samples that a DataComp subset names.  The same command continues a stopped job.

An external sort in three steps: each input shard is read once, and its wanted samples left as sorted
runs; DuckDB cuts the order of the keyed hash into equal shards; each is put together from its slices.
The result depends on the subset, the shards and the seed alone.  Work space: the size of the output.
"""

from collections.abc import Sequence
from typing import Any

from pairsieve.pipelines.dataset import digest, workplace
from pairsieve.pipelines.engine import Engine, Needs
from pairsieve.pipelines.engines import EngineName, Engines
from pairsieve.pipelines.lock import locked
from pairsieve.pipelines.progress import Reporter, Silent
from pairsieve.pipelines.reshard_cut import Cut, cut
from pairsieve.pipelines.reshard_flaws import Flaws
from pairsieve.pipelines.reshard_inputs import Input, Listing, list_inputs
from pairsieve.pipelines.reshard_job import (
    JOB,
    MANIFESTS,
    MISSING,
    FileEntry,
    InputEntry,
    Job,
    ReshardManifest,
    check_folder,
    check_inputs,
    check_numbers,
    finished,
    open_out,
    stats_name,
)
from pairsieve.pipelines.reshard_parquet import parquet_columns
from pairsieve.pipelines.reshard_sources import TAR_COLUMNS
from pairsieve.pipelines.reshard_spill import Columns, Format, Spill, Taken
from pairsieve.pipelines.reshard_subset import Checked, Subset, open_subset
from pairsieve.pipelines.reshard_write import Whole, Write, Written
from pairsieve.pipelines.storage_errors import explained
from pairsieve.pipelines.store import Store, filesystem
from pairsieve.schemas import columns as schemas
from pairsieve.schemas.errors import IncompleteError, ShardError, UserError
from pairsieve.schemas.run import DatasetManifest

NAMED = 3
"""Shards that a message names."""


def reshard(
    subset: str,
    shards: str,
    out: str,
    *,
    format: Format = "tar",
    rows_per_shard: int = 10_000,
    seed: int = 0,
    allow_missing: bool = False,
    engine: EngineName = "auto",
    ray_address: str | None = None,
    workers: int | None = None,
    progress: Reporter | None = None,
) -> ReshardManifest:
    """Write the samples that ``subset`` names, as often as it names them, into equal, shuffled shards in ``out``.

    ``shards`` is a folder or glob of tars or Parquet files, local or any fsspec URL.  Raises
    ``UserError`` for what cannot be used, ``ShardError`` for shards that cannot be read and
    ``IncompleteError`` for samples that are in none; both are left out with ``allow_missing``.
    """
    if format not in MANIFESTS or rows_per_shard < 1:
        raise UserError(f"format {format}, {rows_per_shard} rows a shard: there are tar and parquet, from 1 row on")
    progress = progress or Silent()
    listing, named = list_inputs(shards), open_subset(subset)
    checked = named.check()
    fs, path = filesystem(shards)
    given = str(fs.unstrip_protocol(path))
    job = Job(subset=checked.sha256, shards=given, format=format, rows_per_shard=rows_per_shard, seed=seed)
    store = open_out(out, job, listing)
    if unread := listing.unread:
        progress.say(f"{shards}: not read: {unread[0]}{_more(unread)}; name them, or a glob, to take samples of them")
    with locked(store, progress.say), explained(store.root), Engines(engine, store, ray_address, workers) as engines:
        check_folder(store, job)
        store.clean()
        engines.use([], fs, fs._strip_protocol(listing.inputs[0].url))
        work = _Work(store, job, named, checked, listing, engines.for_ingest(), progress, allow_missing)
        return work.run(subset)


class _Work:
    """One job under its lock."""

    def __init__(
        self,
        store: Store,
        job: Job,
        subset: Subset,
        checked: Checked,
        listing: Listing,
        engine: Engine,
        progress: Reporter,
        allow_missing: bool,
    ) -> None:
        self.store, self.job, self.subset, self.checked = store, job, subset, checked
        self.listing, self.engine, self.progress, self.allow_missing = listing, engine, progress, allow_missing
        self.format: Format = "tar" if job.format == "tar" else "parquet"
        self.columns = self._columns()
        self.folder = workplace(store, digest(f"{job.model_dump_json()} {self.columns}"))

    def _columns(self) -> Columns:
        if self.listing.kind == ".parquet":
            return parquet_columns(self.listing.inputs[0].url)
        return {name: (name, kind) for name, kind in TAR_COLUMNS.items()}

    def run(self, given: str) -> ReshardManifest:
        """The whole job, or what is left of it."""
        if (known := finished(self.store, self.job)) is not None:
            check_inputs(self.store, known, self.listing)
            if self._are_whole(known):
                self.store.remove("_work")
                self._check_missing(known.missing, known.missing_uids, (), Flaws(known.flaws, known.flawed), given)
                return known
        self.store.remove(MANIFESTS[self.job.format])
        self.store.write_json(JOB, self.job.model_dump(mode="json"))
        taken = self._read()
        self._check_readable(taken)
        found = cut(self.store, taken, self.subset, self.job.rows_per_shard, self.folder, MISSING)
        if not found.missing_records:
            self.store.remove(MISSING)
        flaws = self._flaws(taken)
        self._check_missing(found.missing_records, found.missing_uids, found.examples, flaws, given)
        self._check_any(found, flaws, given)
        written = self._write(found)
        manifest = self._manifest(taken, found, written)
        self._finish(manifest, written, given)
        return manifest

    def _are_whole(self, known: ReshardManifest) -> bool:
        """Whether every output shard is bit by bit as it was written, where it lies on a disk."""
        if not self.store.local:
            return True
        with self.progress.stage("verify", known.written) as stage:
            are_whole = True
            for i, is_whole in self.engine.map(Whole(self.store), known.files, Needs(), "verify"):
                are_whole &= is_whole
                stage.advance(known.files[i].rows)
        return are_whole

    def _read(self) -> list[Taken]:
        inputs = self.listing.inputs
        spill = Spill(self.store, self.subset, self.folder, self.job.seed, self.format, self.columns)
        found: list[Taken] = [Taken()] * len(inputs)
        read = kept = 0
        with self.progress.stage("read", 0) as stage:
            for i, one in self.engine.map(spill, inputs, Needs(), "read"):
                found[i] = one
                read, kept = read + one.samples, kept + one.taken
                stage.advance(one.samples, f"{kept:,} of {read:,} wanted")
        return found

    def _check_readable(self, taken: Sequence[Taken]) -> None:
        lost = [(shard, one.error) for shard, one in zip(self.listing.inputs, taken, strict=True) if one.error]
        if lost and not self.allow_missing:
            first, error = lost[0]
            said = f"{first.name}{_more([shard.name for shard, _ in lost])} cannot be read: {error}"
            raise ShardError(f"{said}; fetch it again and the same command continues, or --allow-missing goes without")

    def _flaws(self, taken: Sequence[Taken]) -> Flaws:
        """The flaws of all shards together, their samples named by shard and name."""
        found = Flaws()
        for shard, one in zip(self.listing.inputs, taken, strict=True):
            found.update(one.flaws, one.flawed, f"{shard.name} ")
        return found

    def _check_missing(self, records: int, uids: int, examples: Sequence[str], flaws: Flaws, given: str) -> None:
        if not records or self.allow_missing:
            return
        names = f" ({', '.join(examples)}{', …' if uids > len(examples) else ''})" if examples else ""
        gaps, unread = self.listing.gaps, self.listing.unread
        why = (f"; the numbering lacks {gaps[0]}{_more(gaps)}" if gaps else "") + flaws.told()
        why += f"; not read: {unread[0]}{_more(unread)}" if unread else ""
        raise IncompleteError(
            f"{given}: {records:,} of {self.checked.records:,} records, {uids:,} uids{names}, have no usable sample"
            f"{why}; the missing stand in {self.store.root}/{MISSING}: fetch their shards, and the "
            "same command continues, or --allow-missing goes without"
        )

    def _check_any(self, found: Cut, flaws: Flaws, given: str) -> None:
        if not found.rows:
            said = f"{given}: none of its samples is in these shards{flaws.told()}"
            raise IncompleteError(f"{said}; are they of the same pool?")

    def _write(self, found: Cut) -> list[Written]:
        count = len(found.files)
        width = max(5, len(str(count - 1)))
        check_numbers(self.store, [f"{i:0{width}d}.{self.format}" for i in range(count)])
        kinds = {name: kind for name, (_, kind) in self.columns.items()}
        write = Write(self.store, self.folder, self.format, kinds, width)
        written = []
        with self.progress.stage("write", found.rows) as stage:
            for _, one in self.engine.map(write, found.files, Needs(), "write"):
                written.append(one)
                stage.advance(one.rows)
        return sorted(written, key=lambda one: one.file)

    def _manifest(self, taken: Sequence[Taken], found: Cut, written: Sequence[Written]) -> ReshardManifest:
        flaws = self._flaws(taken)
        return ReshardManifest(
            job=self.job,
            records=self.checked.records,
            uids=self.checked.uids,
            written=found.rows,
            missing=found.missing_records,
            missing_uids=found.missing_uids,
            duplicates=found.duplicates + sum(one.repeated for one in taken),
            samples=sum(one.samples for one in taken),
            flaws=dict(sorted(flaws.counts.items())),
            flawed={name: tuple(names) for name, names in sorted(flaws.names.items())},
            gaps=self.listing.gaps,
            unread=self.listing.unread,
            inputs=tuple(_entry(shard, one) for shard, one in zip(self.listing.inputs, taken, strict=True)),
            files=tuple(FileEntry(file=w.file, rows=w.rows, size=w.size, sha256=w.sha256) for w in written),
        )

    def _finish(self, manifest: ReshardManifest, written: Sequence[Written], given: str) -> None:
        """What trainers read beside the shards, then the manifest, by which the job is finished."""
        if self.format == "tar":
            for one in written:
                self.store.write_json(stats_name(one.file), {"successes": one.rows})
            self.store.write_json("sizes.json", {one.file: one.rows for one in written})
            self.store.write_json("meta.json", _meta(manifest, given))
        else:
            self.store.write_json("_manifest.json", self._dataset(written).model_dump(mode="json"))
        self.store.write_json(MANIFESTS[self.format], manifest.model_dump(mode="json"))
        self.store.remove("_work")  # a folder beside the shards: DataComp's training would look for tars in it

    def _dataset(self, written: Sequence[Written]) -> DatasetManifest:
        schema = schemas.dataset({name: kind for name, (_, kind) in self.columns.items()})
        return DatasetManifest(
            version=schemas.VERSION,
            fingerprint=self.folder.rsplit("/", 1)[-1],
            seed=self.job.seed,
            rows=sum(one.rows for one in written),
            columns={field.name: str(field.type) for field in schema},
            files=tuple(one.dataset for one in written if one.dataset is not None),
        )


def _meta(manifest: ReshardManifest, given: str) -> dict[str, Any]:
    """DataComp's ``meta.json``: of it training reads count and format; settings are texts there."""
    width = len(manifest.files[0].file.removesuffix(".tar"))
    return {
        "subset_file": given,
        "input_dir": manifest.job.shards,
        "shard_size": str(manifest.job.rows_per_shard),
        "output_shard_format": f"{{:0{width}d}}.tar",
        "output_shard_stats_format": f"{{:0{width}d}}_stats.json",
        "output_shard_count": len(manifest.files),
        "output_count": manifest.written,
        "processed_count": manifest.samples,
    }


def _entry(shard: Input, taken: Taken) -> InputEntry:
    return InputEntry(
        file=shard.name,
        size=shard.size,
        checksum=taken.checksum,
        samples=taken.samples,
        taken=taken.taken,
        error=taken.error,
    )


def _more(names: Sequence[str]) -> str:
    """`` (and b, c and 7 more)`` for all names but the first."""
    if len(names) < 2:
        return ""
    rest = len(names) - 1 - NAMED
    return f" (and {', '.join(names[1 : 1 + NAMED])}{f' and {rest} more' if rest > 0 else ''})"


def summary(manifest: ReshardManifest) -> list[str]:
    """What a finished job did, in a few lines."""
    sizes = sorted(one.rows for one in manifest.files)
    lines = [
        f"wrote {manifest.written:,} samples into {len(sizes):,} shards of {sizes[0]:,} to {sizes[-1]:,}; "
        f"read {manifest.samples:,} in {len(manifest.inputs):,} files"
    ]
    if manifest.duplicates:
        lines.append(f"{manifest.duplicates:,} samples have the uid of an earlier one; the first was taken")
    if manifest.gaps:
        lines.append(f"the numbering lacks {manifest.gaps[0]}{_more(manifest.gaps)}")
    lines += [f"not usable: {line}" for line in Flaws(manifest.flaws, manifest.flawed).lines()]
    if manifest.unread:
        lines.append(f"beside the shards, not read: {manifest.unread[0]}{_more(manifest.unread)}")
    unread = [one.file for one in manifest.inputs if one.error]
    if unread:
        lines.append(f"not read: {unread[0]}{_more(unread)}")
    if manifest.missing:
        lines.append(f"missing: {manifest.missing:,} of {manifest.records:,} records; they stand in {MISSING}")
    return lines
