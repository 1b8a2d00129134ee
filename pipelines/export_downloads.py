"""Export what a run downloaded in img2dataset's layout, shard by shard: for tools that read its folders.

The shards are the run's, in the order of its pool, so that keys tell the place of a pair.  Every candidate has a row;
the tars hold the images of kept pairs, or of all that were downloaded.  The same command continues an export that was
stopped.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pairsieve.filters.download import Download
from pairsieve.pipelines.catalog import CATALOG
from pairsieve.pipelines.dataset import workplace
from pairsieve.pipelines.engine import Needs
from pairsieve.pipelines.engines import EngineName, Engines
from pairsieve.pipelines.export_downloads_shard import Layout, WriteShard, others_of
from pairsieve.pipelines.export_job import (
    MANIFEST,
    ExportJob,
    ExportManifest,
    begin,
    check_folder,
    check_strangers,
    claim,
    close,
    finished,
    open_beside,
)
from pairsieve.pipelines.export_settings import Img2dataset, as_data
from pairsieve.pipelines.ingest import open_pool
from pairsieve.pipelines.lock import locked
from pairsieve.pipelines.parts import part_name
from pairsieve.pipelines.pools import Pool, PoolShard, load_manifest
from pairsieve.pipelines.progress import Reporter, Silent
from pairsieve.pipelines.provenance import manifest as run_manifest
from pairsieve.pipelines.reshard_job import FileEntry
from pairsieve.pipelines.reshard_write import Whole
from pairsieve.pipelines.storage_errors import explained
from pairsieve.pipelines.store import Store
from pairsieve.pipelines.tasks import verdicts_name
from pairsieve.schemas.errors import UserError
from pairsieve.schemas.recipe import POOLS, Recipe
from pairsieve.schemas.run import RunManifest, StepRecord


def export_downloads(
    run: str | Path,
    out: str | Path,
    settings: Img2dataset | None = None,
    *,
    engine: EngineName = "auto",
    ray_address: str | None = None,
    workers: int | None = None,
    progress: Reporter | None = None,
) -> ExportManifest:
    """Write a finished run's downloads into ``out`` as img2dataset's folder, or continue there.

    Raises ``UserError`` where there is no download step or ``out`` holds something else, ``DamagedFileError`` where
    the run is not as it was written.
    """
    settings, progress = settings or Img2dataset(), progress or Silent()
    source = Store(str(run))
    manifest = run_manifest(source)
    pool, shards = _pool(source, manifest)
    layout = _layout(source, manifest, settings, pool, shards)
    store = open_beside(str(out), source)
    job = ExportJob(format=settings.name, dataset=_digest(source, layout, shards), settings=as_data(settings))
    with locked(store, progress.say), explained(store.root), Engines(engine, store, ray_address, workers) as engines:
        check_folder(store, settings.name)
        store.clean()
        engines.use([], source.fs, source.path("run.yaml"))
        known = finished(store, job)
        names = [name for shard in shards for name in layout.names(shard.index)]
        if known is not None:
            check_strangers(store, settings.name, names)
            if not store.local or all(Whole(store)(one) for one in known.files):
                close(store)
                return known
        claim(store, job)
        begin(store, job, names)
        folder = workplace(store, hashlib.sha256(job.model_dump_json().encode()).hexdigest()[:32])
        files = list[FileEntry]()
        with progress.stage("write", sum(shard.rows for shard in shards)) as stage:
            task = WriteShard(source, pool, store, folder, layout)
            for i, found in engines.for_ingest().map(task, shards, Needs(), "write"):
                files += found
                stage.advance(shards[i].rows)
        files.sort(key=lambda one: one.file)
        check_strangers(store, settings.name, names)
        done = ExportManifest(
            job=job,
            rows=sum(shard.rows for shard in shards),
            written=sum(one.rows for one in files if one.file.endswith(".tar")),
            left_out={},
            named={},
            files=tuple(files),
        )
        store.write_json(MANIFEST, done.model_dump(mode="json"))
        close(store)
        return done


def summary(manifest: ExportManifest, out: str) -> list[str]:
    """What a finished export is, in two lines."""
    shards = sum(one.file.endswith(".tar") for one in manifest.files)
    return [
        f"wrote {manifest.written:,} images and {manifest.rows:,} rows in {shards:,} shards: {out}",
        f"read it: pool: {{img2dataset: {out}}}, or as img2dataset's own output",
    ]


def _pool(store: Store, manifest: RunManifest) -> tuple[Pool, list[PoolShard]]:
    """The pool and its shards as the run saw them."""
    if not store.exists(CATALOG):
        raise UserError(f"{store.root}: the run is not finished; the same 'pairsieve run' command continues it")
    ((kind, settings),) = manifest.recipe["pool"].items()
    settings = {"path": settings} if isinstance(settings, str) else settings
    pool = open_pool(Recipe(pool_kind=kind, pool=POOLS[kind].model_validate(settings)))
    shards = load_manifest(store, pool.identity())
    if shards is None:
        raise UserError(f"{store.root}: the pool has changed since; run the recipe again")
    return pool, shards


def _step(store: Store, manifest: RunManifest, wanted: str | None) -> StepRecord:
    """The download step."""
    found = {step.id: step for step in manifest.steps if step.filter == "download" and step.measures is not None}
    if not found:
        raise UserError(f"{store.root}: the run has no download step; pairsieve export webdataset writes its dataset")
    if wanted is None and len(found) > 1:
        raise UserError(f"{store.root}: downloads in the steps {', '.join(found)}; choose one with --step")
    if wanted is not None and wanted not in found:
        raise UserError(f"--step {wanted}: no download step of the run; there are {', '.join(found)}")
    return found[wanted or next(iter(found))]


def _layout(
    store: Store, manifest: RunManifest, settings: Img2dataset, pool: Pool, shards: Sequence[PoolShard]
) -> Layout:
    step = _step(store, manifest, settings.step)
    names = [one.id for one in manifest.steps]
    assert step.measures is not None
    own = list(Download.model_validate(step.measures["settings"]).outputs({}))
    return Layout(
        step=step.id,
        fingerprint=step.fingerprint,
        before=tuple(names[: names.index(step.id)]),
        others=others_of(pool.types()),
        stored=dict(zip(own, _stored(store, step.id, shards) or own, strict=True)),
        rows=max(shard.rows for shard in shards),
        width=settings.oom_shard_count,
        downloaded=settings.downloaded,
    )


def _stored(store: Store, step: str, shards: Sequence[PoolShard]) -> list[str]:
    """The step's columns as they are called in its files; none where it has measured nothing."""
    for shard in shards:
        name = part_name(step, shard.index, 0)
        if store.exists(name):
            with store.sealed(name, is_light=False) as file:
                return list(file.schema_arrow.names[3:])
    return []


def _digest(store: Store, layout: Layout, shards: Sequence[PoolShard]) -> str:
    """Changes with any verdict, and with what was measured."""
    digest = hashlib.sha256(layout.fingerprint.encode())
    sizes = store.sizes(f"scores/{layout.step}", ".parquet")
    digest.update(repr(sorted(sizes.items())).encode())
    for shard in shards:
        digest.update(shard.fingerprint.encode() + hashlib.sha256(store.content(verdicts_name(shard.index))).digest())
    return digest.hexdigest()[:32]
