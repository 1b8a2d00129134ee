"""Export the dataset of a finished run for other tools.  The same command continues an export that was stopped.

Two steps over the same files: a survey says what each row gives, then parts of equal size are written.  The result
depends on the dataset and the settings alone.  Cost: the dataset is read twice and written once; memory is a row
group of about 8 MB a worker, work space eight bytes a row.
"""

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pairsieve.pipelines import export_card, export_files, export_tables, export_tars
from pairsieve.pipelines.dataset import digest, workplace
from pairsieve.pipelines.engine import Engine, Needs
from pairsieve.pipelines.engines import EngineName, Engines
from pairsieve.pipelines.export_cut import Part, cut, total
from pairsieve.pipelines.export_job import (
    CARD,
    MANIFEST,
    SIZES,
    WORK,
    ExportJob,
    ExportManifest,
    begin,
    check_folder,
    check_strangers,
    claim,
    close,
    finished,
    listing,
    open_out,
)
from pairsieve.pipelines.export_parts import Rule, Writer, light
from pairsieve.pipelines.export_settings import Csv, FormatName, HuggingFace, Settings, Webdataset, as_data, settings_of
from pairsieve.pipelines.export_source import Dataset, open_dataset
from pairsieve.pipelines.export_survey import Item, Seen, Survey
from pairsieve.pipelines.export_texts import caption_column
from pairsieve.pipelines.lock import locked
from pairsieve.pipelines.progress import Reporter, Silent
from pairsieve.pipelines.reshard_flaws import Flaws
from pairsieve.pipelines.reshard_job import FileEntry
from pairsieve.pipelines.storage_errors import explained
from pairsieve.pipelines.store import Store
from pairsieve.schemas.columns import IMAGE
from pairsieve.schemas.errors import UserError

_WHY = {
    "no_image": "no image",
    "not_an_image": "bytes that begin no image",
    "no_text": "no caption",
}


def export(
    run: str | Path,
    out: str | Path,
    format: FormatName | Settings = "webdataset",
    *,
    engine: EngineName = "auto",
    ray_address: str | None = None,
    workers: int | None = None,
    progress: Reporter | None = None,
) -> ExportManifest:
    """Write the dataset of a finished run into ``out`` as ``format``, or continue there.

    ``format`` is a name, or ``Webdataset``, ``Csv``, ``HuggingFace`` with settings.  An earlier export of the same
    format in ``out`` is replaced.  Raises ``UserError`` for what cannot be exported or where it cannot go, and
    ``DamagedFileError`` where the dataset is not as the run wrote it.
    """
    settings = settings_of(format)
    dataset = open_dataset(str(run))
    rule = _rule(dataset, settings)
    store = open_out(str(out), settings.name, dataset)
    job = _job(dataset, settings, store)
    progress = progress or Silent()
    first = f"dataset/{dataset.manifest.files[0].file}"
    with locked(store, progress.say), explained(store.root), Engines(engine, store, ray_address, workers) as engines:
        check_folder(store, settings.name)
        store.clean()
        engines.use([], dataset.store.fs, dataset.store.path(first))
        return _Export(dataset, settings, rule, job, store, engines.for_ingest(), progress).run()


def _rule(dataset: Dataset, settings: Settings) -> Rule | None:
    """Which text is the caption; raises ``UserError`` for a dataset that the format cannot hold."""
    if isinstance(settings, HuggingFace):
        return None
    if IMAGE not in dataset.kinds:
        raise UserError(
            f"{dataset.store.root}: the dataset has no column 'image'; add a 'download' step to the recipe, or write "
            "'subset:' and let 'pairsieve reshard' take the samples from the pool's tars"
        )
    return Rule(caption_column(dataset.kinds, settings.text), settings.captions, settings.seed)


def _job(dataset: Dataset, settings: Settings, store: Store) -> ExportJob:
    """What decides the outcome: for a card the recipe too, for a list of files the path that they get."""
    told = as_data(settings)
    if isinstance(settings, Csv):
        told["prefix"] = _prefix(settings, store)
    is_told = isinstance(settings, HuggingFace)
    recipe = hashlib.sha256(dataset.store.read("run.yaml")).hexdigest() if is_told else ""
    return ExportJob(format=settings.name, dataset=dataset.digest, settings=told, recipe=recipe)


def _prefix(settings: Csv, store: Store) -> str:
    prefix = store.base if settings.prefix is None else settings.prefix
    return prefix if not prefix or prefix.endswith("/") else f"{prefix}/"


class _Export:
    """One export under its lock."""

    def __init__(
        self,
        dataset: Dataset,
        settings: Settings,
        rule: Rule | None,
        job: ExportJob,
        store: Store,
        engine: Engine,
        progress: Reporter,
    ) -> None:
        self.dataset, self.settings, self.rule, self.job = dataset, settings, rule, job
        self.store, self.engine, self.progress = store, engine, progress
        self.fingerprint = digest(job.model_dump_json())
        self.folder = f"{WORK}/dataset/{self.fingerprint}"  # as ``workplace`` calls it

    def run(self) -> ExportManifest:
        """The whole export, or what is left of it."""
        known = finished(self.store, self.job)
        if known is not None and self._is_whole(known):
            close(self.store)
            return known
        claim(self.store, self.job)
        seen, parts = self._plan()
        writer = self._writer(self.folder)
        begin(self.store, self.job, [writer.name_of(part) for part in parts])
        workplace(self.store, self.fingerprint)
        files = self._write(writer, parts)
        check_strangers(self.store, self.settings.name, [one.file for one in files])
        self._check_dataset()
        return self._finish(writer, self._manifest(seen, files))

    def _plan(self) -> tuple[list[Seen], list[Part]]:
        """What is to be written; raises ``UserError`` where nothing can be, and leaves nothing then."""
        seen = self._survey()
        try:
            return seen, cut(seen, self._count(seen))
        except UserError:
            self.store.remove(self.folder)
            raise

    def _is_whole(self, known: ExportManifest) -> bool:
        """Whether every file is as it was written, where it lies on a disk; ``UserError`` for a file beside them."""
        check_strangers(self.store, self.settings.name, [one.file for one in known.files])
        if not self.store.local:
            return True
        with self.progress.stage("verify", known.written) as stage:
            is_whole = True
            for i, one in self.engine.map(Whole(self._writer("")), known.files, Needs(), "verify"):
                is_whole &= one
                stage.advance(known.files[i].rows)
        return is_whole

    def _survey(self) -> list[Seen]:
        settings, rule = self.settings, self.rule
        survey = Survey(
            self.dataset.store,
            self.store,
            self.folder,
            has_image=IMAGE in self.dataset.kinds,
            image_kinds=settings.image_kinds,
            text=rule.text if rule else None,
            captions=rule.captions if rule else None,
        )
        items = [Item(i, entry) for i, entry in enumerate(self.dataset.manifest.files)]
        seen = []
        with self.progress.stage("survey", self.dataset.manifest.rows) as stage:
            for _, one in self.engine.map(survey, items, Needs(), "survey"):
                seen.append(one)
                stage.advance(one.rows)
        return sorted(seen, key=lambda one: one.index)

    def _count(self, seen: Sequence[Seen]) -> int:
        """How many parts; raises ``UserError`` where there is nothing to write, or less than parts."""
        rows, settings = total(seen), self.settings
        if not rows:
            raise UserError(f"{self.dataset.store.root}: nothing can be exported{_told(_flaws(seen))}")
        if isinstance(settings, HuggingFace) and settings.rows_per_shard is None:
            size = sum(file.bytes for file in self.dataset.manifest.files) // self.dataset.manifest.rows
            return -(-rows // max(1, export_tables.PART_BYTES // max(1, size)))
        if not isinstance(settings, Webdataset):
            return -(-rows // (settings.rows_per_shard or rows))
        loaders = settings.world_size * settings.loader_workers
        if rows < loaders:
            said = f"world size {settings.world_size} times {settings.loader_workers} loader workers"
            raise UserError(f"{rows:,} samples do not fill the {loaders:,} tars that {said} need; ask for fewer")
        return export_tars.count_of(rows, settings.rows_per_shard, loaders)

    def _write(self, writer: Writer, parts: Sequence[Part]) -> list[FileEntry]:
        files = []
        with self.progress.stage("write", sum(part.rows for part in parts)) as stage:
            for i, one in self.engine.map(writer, parts, Needs(), "write"):
                files.append(one)
                stage.advance(parts[i].rows)
        return sorted(files, key=lambda one: one.file)

    def _writer(self, folder: str) -> Writer:
        """What writes a part in this format."""
        dataset, settings, rule = self.dataset, self.settings, self.rule
        kinds, files = dataset.kinds, dataset.manifest.files
        if isinstance(settings, HuggingFace):
            schema = export_tables.schema_of(kinds)
            return export_tables.Tables(dataset.store, files, self.store, folder, tuple(schema.names), None, schema)
        assert rule is not None
        names = tuple(dict.fromkeys(("uid", IMAGE, rule.text)))
        if isinstance(settings, Csv):
            prefix = str(self.job.settings["prefix"])
            return export_files.Files(dataset.store, files, self.store, folder, names, rule, prefix)
        fields = light(kinds) if settings.with_json else ()
        names = tuple(dict.fromkeys((*names, *fields)))
        return export_tars.Tars(dataset.store, files, self.store, folder, names, rule, fields)

    def _check_dataset(self) -> None:
        """Raise ``UserError`` where the run has written another dataset meanwhile."""
        if open_dataset(self.dataset.store.root).digest != self.dataset.digest:
            raise UserError(f"{self.dataset.store.root}: the dataset has changed meanwhile; export it again")

    def _manifest(self, seen: Sequence[Seen], files: Sequence[FileEntry]) -> ExportManifest:
        flaws = _flaws(seen)
        return ExportManifest(
            job=self.job,
            rows=self.dataset.manifest.rows,
            written=sum(one.rows for one in files),
            left_out=dict(sorted(flaws.counts.items())),
            named={name: tuple(uids) for name, uids in sorted(flaws.names.items())},
            files=tuple(files),
        )

    def _finish(self, writer: Writer, manifest: ExportManifest) -> ExportManifest:
        """What readers look at first, then the manifest, by which the export is finished."""
        if isinstance(writer, export_files.Files):
            writer.finish(manifest.files)
        elif isinstance(self.settings, HuggingFace):
            self.store.write(CARD, export_card.card(self.dataset, self.settings, manifest, _name(self.store)).encode())
        else:
            self.store.write_json(SIZES, export_tars.sizes(manifest.files))
        done = manifest.model_copy(update={"listing": listing(self.store, self.job.format)})
        self.store.write_json(MANIFEST, done.model_dump(mode="json"))
        close(self.store)
        return done


def _flaws(seen: Sequence[Seen]) -> Flaws:
    """The flaws of all files together."""
    found = Flaws()
    for one in seen:
        found.update(one.flaws, one.flawed, "")
    return found


def _told(flaws: Flaws) -> str:
    return f": {'; '.join(_lines(flaws.counts, flaws.names))}" if flaws.counts else ""


def _lines(counts: Mapping[str, int], named: Mapping[str, Sequence[str]]) -> list[str]:
    """``2 rows with no image (uid, uid)`` for each reason."""
    found = []
    for reason, count in sorted(counts.items()):
        why = _WHY.get(reason, f"an image of {reason.removeprefix('format_')} format")
        uids = ", ".join(named.get(reason, ())) + (", …" if count > len(named.get(reason, ())) else "")
        found.append(f"{count:,} row{'s' * (count != 1)} with {why} ({uids})")
    return found


def _name(store: Store) -> str:
    """What the export is called: its folder."""
    return store.base.rpartition("/")[2] or "dataset"


def summary(manifest: ExportManifest, out: str) -> list[str]:
    """What a finished export is, and how training reads it, in a few lines."""
    sizes = sorted(one.rows for one in manifest.files)
    parts = f"{len(sizes):,} parts of {sizes[0]:,} to {sizes[-1]:,}" if len(sizes) > 1 else "1 part"
    lines = [f"wrote {manifest.written:,} samples in {parts}: {out}"]
    lines += [f"left out: {line}" for line in _lines(manifest.left_out, manifest.named)]
    return [*lines, f"read it: {_how(manifest, out)}"]


def _how(manifest: ExportManifest, out: str) -> str:
    if manifest.job.format == "hf":
        return f"datasets.load_dataset({out!r})"
    if manifest.job.format == "csv":
        return f"--dataset-type csv --train-data {shlex.quote(f'{out}/{export_files.LIST}')}"
    last = manifest.files[-1].file.removesuffix(".tar")
    tars = f"{{{export_tars.tar_name(0).removesuffix('.tar')}..{last}}}.tar"
    return f"--dataset-type webdataset --train-data {shlex.quote(f'{out}/{tars}')}"


@dataclass
class Whole:
    """Whether a file is as it was written."""

    writer: Writer

    def __call__(self, entry: FileEntry) -> bool:
        """Read it."""
        return self.writer.is_whole(entry)
