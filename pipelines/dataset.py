"""Write the training shards: kept pairs in the order of hash(seed, uid), in files of equal size.

An external sort: each shard's kept pairs are written once more in sorted runs of bounded size, then
every output file is put together from its slice of each run.  The result depends on the kept pairs
and the seed alone.  Cost: the kept bytes are written and read twice; memory is one file a worker.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray
from pydantic import ValidationError

from pairsieve.filters.base import deciding_settings
from pairsieve.pipelines.dataset_spill import ORDER, Run
from pairsieve.pipelines.plan import Plan
from pairsieve.pipelines.pools import PoolShard
from pairsieve.pipelines.shard import Context
from pairsieve.pipelines.sorted_runs import read_run
from pairsieve.pipelines.store import Store
from pairsieve.pipelines.tasks import Tally
from pairsieve.pipelines.workshop import load, workshop
from pairsieve.schemas import columns
from pairsieve.schemas.errors import DamagedFileError
from pairsieve.schemas.run import DatasetFile, DatasetManifest

MANIFEST = "dataset/_manifest.json"
GROUP_BYTES, LEAST, MOST = 8_000_000, 128, 512
"""Row groups of image shards: about 8 MB, 128 to 512 rows."""


def dataset_types(plan: Plan) -> dict[str, pa.DataType]:
    """The columns of a training shard: image, text and every light column that means something to a trainer."""
    spec = plan.recipe.output.dataset
    wanted = None if spec is None else spec.columns
    hidden = {name for step in plan.steps for name in step.derived if name not in step.shown}
    texts = {name for step in plan.steps for name, kind in step.derived.items() if columns.is_texts(kind)}
    found = {}
    for name, kind in plan.types.items():
        is_key = pa.types.is_fixed_size_binary(kind)
        is_chosen = name in wanted if wanted is not None else not columns.is_heavy(kind) and not is_key
        is_text = name in (columns.IMAGE, "text") or name in texts  # what training is for, always there
        if (is_text or is_chosen) and name not in hidden:
            found[name] = kind
    return found | ({name: columns.ADDED.field(name).type for name in columns.OF_ADDED} if plan.adding else {})


@dataclass(frozen=True)
class File:
    """One output file: its number, and of each run (name, first row, rows)."""

    index: int
    slices: tuple[tuple[str, int, int], ...]


def cut(store: Store, runs: Sequence[Run], rows_per_file: int | None, file_bytes: int) -> list[File]:
    """Which rows of each run go into which file: equal shares of the global order, sizes differing by one at most."""
    rows, size = sum(r.rows for r in runs), sum(r.bytes for r in runs)
    if not rows:
        return []
    count = -(-rows // rows_per_file) if rows_per_file else -(-size // file_bytes)
    count = max(1, min(count, rows))
    with workshop(store) as con:
        names = [store.url(f"{run.name}.keys.parquet") for run in runs]
        load(con, "keys", names)
        found = con.execute(
            """
            SELECT file, run, count(*) FROM (
                SELECT run, (row_number() OVER (ORDER BY _key, uid, shard, row) - 1) * $count // $rows AS file FROM keys
            ) GROUP BY ALL ORDER BY file, run
            """,
            {"count": count, "rows": rows},
        ).fetchall()
    return list(_files(found))


def _files(found: Sequence[tuple[int, str, int]]) -> Iterator[File]:
    """Slices follow each other within a run, because a run has the global order."""
    used: dict[str, int] = {}
    slices: dict[int, list[tuple[str, int, int]]] = {}
    for file, run, rows in found:
        slices.setdefault(file, []).append((run, used.get(run, 0), rows))
        used[run] = used.get(run, 0) + rows
    for file, parts in slices.items():
        yield File(file, tuple(parts))


@dataclass
class Assemble:
    """Put one output file together; gives its manifest entry, and notes it in ``folder`` for a run that is stopped."""

    store: Store
    types: Mapping[str, pa.DataType]
    folder: str

    def __call__(self, file: File) -> DatasetFile:
        """Read the slices, sort, write; a file that a stopped run has finished is taken as it is."""
        note = f"{self.folder}/{file.index:05d}.done.json"
        if self.store.exists(note):
            entry = DatasetFile.model_validate_json(self.store.read(note))
            if Verify(self.store)(entry):
                return entry
        entry = self._write(file, f"{file.index:05d}.parquet")
        self.store.write_json(note, entry.model_dump(mode="json"))
        return entry

    def _write(self, file: File, name: str) -> DatasetFile:
        table = pa.concat_tables([read_run(self.store, *part).combine_chunks() for part in file.slices])
        order = pc.sort_indices(table.select([k for k, _ in ORDER]), sort_keys=ORDER)
        self.store.remove(f"dataset/{name}")  # of another dataset, or damaged
        return write_file(self.store, f"dataset/{name}", table, order, columns.dataset(self.types))


def write_file(store: Store, path: str, table: pa.Table, order: pa.Array, schema: pa.Schema) -> DatasetFile:
    """Write rows of a table, in an order, as one training shard of a schema; gives its manifest entry."""
    table = table.select(schema.names)
    mean = max(1, table.nbytes // table.num_rows)
    has_image = columns.IMAGE in schema.names
    rows = int(min(MOST, max(LEAST, GROUP_BYTES // mean))) if has_image else 131_072
    groups = []
    with store.create_sealed(path, schema, {"pairsieve.version": columns.VERSION}) as writer:
        for start in range(0, len(order), rows):
            part = take_rows(table, order.slice(start, rows).to_numpy()).cast(schema)
            writer.write_table(part, row_group_size=rows)
            groups.append(part.num_rows)
    content = store.content(path)
    return DatasetFile(
        file=path.rsplit("/", 1)[-1],
        rows=table.num_rows,
        row_groups=tuple(groups),
        bytes=table.nbytes,
        size=content.size,
        checksum=xxhash.xxh3_128_hexdigest(content),
    )


def take_rows(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    """Some rows of a table in many chunks, copying no others: Arrow's own ``take`` joins all chunks first.

    What is taken of sorted runs lies in a few stretches of them.
    """
    ordered = np.sort(rows)
    breaks = np.flatnonzero(np.diff(ordered) != 1) + 1
    if len(breaks) > len(rows) // 8 or not len(rows):
        return table.take(pa.array(rows))
    starts, counts = ordered[[0, *breaks]], np.diff([0, *breaks, len(rows)])
    parts = [table.slice(start, count) for start, count in zip(starts.tolist(), counts.tolist(), strict=True)]
    return pa.concat_tables(parts).combine_chunks().take(pa.array(np.searchsorted(ordered, rows)))


@dataclass
class Verify:
    """Whether a file of the dataset is as its manifest says, bit by bit."""

    store: Store

    def __call__(self, file: DatasetFile) -> bool:
        """Hash it: about 10 GB/s, so as fast as the disk."""
        try:
            content = self.store.content(f"dataset/{file.file}")
        except (FileNotFoundError, DamagedFileError):
            return False
        return bool(xxhash.xxh3_128_hexdigest(content) == file.checksum)


def fingerprint(context: Context, shards: Sequence[PoolShard], tally: Tally) -> str:
    """What a dataset depends on: the kept pairs, what was measured and derived of them, its settings and columns."""
    plan = context.plan
    output = plan.recipe.output.dataset
    assert output is not None
    steps = [step.fingerprint for step in plan.steps]
    parts = (tally.kept, tally.kept_digest, plan.recipe.seed, output.model_dump_json(), steps)
    pool = [shard.fingerprint for shard in shards]
    types = {name: str(kind) for name, kind in dataset_types(plan).items()}
    derives = [step for step in plan.steps if step.derives]
    derived = [(_digest_settled(context.settled.get(step.id, {})), deciding_settings(step.filter)) for step in derives]
    return digest(repr((parts, pool, types, *derived)))


def digest(content: str) -> str:
    """Fingerprint of what a dataset depends on."""
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _digest_settled(settled: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a pool filter knows of its whole scope: what it derives depends on that and the pair."""
    plain = {n: hashlib.sha256(v.tobytes()).hexdigest() if isinstance(v, np.ndarray) else v for n, v in settled.items()}
    return [(name, repr(plain[name])) for name in sorted(plain)]


def workplace(store: Store, fingerprint: str) -> str:
    """Folder of the sorted runs of a dataset; those of any other dataset go."""
    for name in store.names("_work/dataset"):
        if name != fingerprint:
            store.remove(f"_work/dataset/{name}")
    return f"_work/dataset/{fingerprint}"


def current(store: Store, fingerprint: str) -> DatasetManifest | None:
    """The manifest of a finished dataset of this fingerprint, all files as long as they were written."""
    if not store.exists(MANIFEST):
        return None
    try:
        found = DatasetManifest.model_validate_json(store.read(MANIFEST))
    except (ValidationError, OSError):  # damaged, or written by another version
        return None
    sizes = store.sizes("dataset", ".parquet")
    is_ours = found.fingerprint == fingerprint and {f.file: f.size for f in found.files} == sizes
    return found if is_ours else None


def write_manifest(store: Store, fingerprint: str, plan: Plan, files: Sequence[DatasetFile]) -> None:
    """Written last: a dataset without it is unfinished."""
    content = DatasetManifest(
        version=columns.VERSION,
        fingerprint=fingerprint,
        seed=plan.recipe.seed,
        rows=sum(f.rows for f in files),
        columns={field.name: str(field.type) for field in columns.dataset(dataset_types(plan))},
        files=tuple(sorted(files, key=lambda f: f.file)),
    )
    store.write_json(MANIFEST, content.model_dump(mode="json"))
