"""The folder of a nano track: its pool with scores and features, what recipes compare with, what models are asked.

``setup.json`` is written last; a folder without it is made anew.  About 90 CPU-seconds for 24,000 pairs, most of them
for the CLIP of the demo, which stands for OpenAI's: it was trained on true pairs that are in no pool.

    pool/00000.parquet    uid, image, url, text, sizes, clip_similarity_score, clip_img, clip_txt, truth
    assets/               centroids.npy and targets.npy (image_based), entities.txt (text_based), metadata.txt (balance)
    tests.npz, words.npy  pictures that models are asked about, and tokens that they know
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pairsieve.filters._tensors import Matrix
from pairsieve.pipelines import nano_tests
from pairsieve.pipelines.demo_captions import LEXICONS
from pairsieve.pipelines.demo_world import COLOURS, COUNTS, SHAPES, encode, render
from pairsieve.pipelines.engine import Needs
from pairsieve.pipelines.engine_local import LocalEngine
from pairsieve.pipelines.nano_pool import FILE_PAIRS, SCHEMA, SEED, write_file
from pairsieve.pipelines.nano_settings import Size
from pairsieve.pipelines.nano_tests import phrase
from pairsieve.pipelines.progress import Reporter
from pairsieve.pipelines.run import run
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import UserError

if TYPE_CHECKING:
    from pairsieve.pipelines.nano_eval import Tests

RENAMED = {"clip_score": "clip_similarity_score", "clip_image": "clip_img", "clip_text": "clip_txt"}
"""Names as DataComp's: what ``clip_score`` measures again in a recipe is another column."""
DONE, MARK = "setup.json", "nano_track"
"""Written last; written first, and what a folder is known by."""
WORK = ("raw", "work", "targets_raw", "targets")
"""Folders that only the making needs."""
VERSION = 1
"""Of all that a pool depends on beside its size."""


@dataclass(frozen=True)
class Setup:
    """A folder that is ready."""

    root: Path
    size: Size

    @cached_property
    def pool(self) -> str:
        """Digest of the pool's files."""
        return str(json.loads((self.root / DONE).read_text())["pool"])

    def tests(self) -> Tests:
        """What models are asked."""
        from pairsieve.pipelines.nano_eval import Tests

        with np.load(self.root / "tests.npz", allow_pickle=False) as found:
            shown = {
                name: nano_tests.Shown(found[f"{name}_pixels"], found[f"{name}_labels"])
                for name in ("seen", "held_out", "probe")
            }
            pairs = found["pairs"].tolist()
        scenes = _scenes("seen", self.size.seen)
        return Tests(**shown, pairs=pairs, captions=[nano_tests.full_caption(scenes[place]) for place in pairs])

    def words(self) -> Any:
        """The vocabulary."""
        from pairsieve.pipelines.nano_words import Vocabulary

        return Vocabulary(np.load(self.root / "words.npy", allow_pickle=False).tolist())


def check_folder(root: Path) -> None:
    """Raise ``UserError`` for a folder that holds something and is no track's: files in it would be replaced."""
    if root.exists() and not root.is_dir():
        raise UserError(f"--out {root}: is a file; name a folder")
    if root.is_dir() and any(root.iterdir()) and not (root / MARK).exists():
        raise UserError(f"--out {root}: holds files that no nano track wrote; choose another folder")


def prepare(root: Path, size: Size, image_size: int, progress: Reporter, workers: int | None = None) -> Setup:
    """Make what is not there yet; a folder of another size or version is made anew."""
    wanted = {"version": VERSION, "seed": SEED, "image_size": image_size, **size.model_dump()}
    if _known(root) != wanted:
        (root / DONE).unlink(missing_ok=True)
        _make(root, size, progress, workers)
        _ask(root, size, image_size)
        for name in WORK:
            shutil.rmtree(root / name, ignore_errors=True)
        content = json.dumps({"of": wanted, "pool": _digest(root / "pool"), "files": _sizes(root)}, indent=2)
        Store(str(root)).write(DONE, f"{content}\n".encode())
    return Setup(root, size)


def _known(root: Path) -> Any:
    """What a finished folder was made of; None where a file of it is gone or cut."""
    try:
        content = json.loads((root / DONE).read_text())
        return content["of"] if content["files"] == _sizes(root) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sizes(root: Path) -> dict[str, int]:
    """Bytes of every file that recipes and trainings read."""
    files = [*(root / "pool").glob("*"), *(root / "assets").glob("*"), *root.glob("*.np[yz]")]
    return {str(file.relative_to(root)): file.stat().st_size for file in sorted(files)}


def _make(root: Path, size: Size, progress: Reporter, workers: int | None) -> None:
    engine = LocalEngine(workers)
    try:
        files = [(first, min(size.pairs, first + FILE_PAIRS)) for first in range(0, size.pairs, FILE_PAIRS)]
        _fresh(root / "raw")
        with progress.stage("pictures", size.pairs) as stage:
            for i, _ in engine.map(_Write(root / "raw"), files, Needs(is_light=False), "pictures"):
                stage.advance(files[i][1] - files[i][0])
    finally:
        engine.close()
    _features(root, "raw", "pool", progress, workers)
    _targets(root, size, progress, workers)
    _assets(root, size)


@dataclass
class _Write:
    """Write one file of the raw pool."""

    folder: Path

    def __call__(self, rows: tuple[int, int]) -> None:
        """Rows [first, last)."""
        write_file(self.folder / f"{rows[0] // FILE_PAIRS:05d}.parquet", SEED, *rows)


def _fresh(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
        file.unlink()


def _features(root: Path, source: str, target: str, progress: Reporter, workers: int | None) -> None:
    """Score and embed a folder of pairs by a run of ours; its dataset becomes the folder ``target``."""
    others = [name for name in SCHEMA.names if name != "image"]
    recipe = {
        "pool": {"pairs": {"path": f"{root / source}/*.parquet", "shard_rows": FILE_PAIRS}},
        "filters": [{"clip_score": {"model": "pairsieve-demo", "embeddings": True}}],
        "output": {"dataset": {"rows_per_file": FILE_PAIRS, "columns": [*others, *RENAMED]}},
    }
    result = run(recipe, root / "work", engine="local", workers=workers, progress=progress)
    _fresh(root / target)
    for file in sorted(Path(result.root, "dataset").glob("*.parquet")):
        table = pq.read_table(file)
        table = table.rename_columns([RENAMED.get(name, name) for name in table.column_names])
        pq.write_table(table, root / target / file.name, compression="none", row_group_size=FILE_PAIRS)


def _targets(root: Path, size: Size, progress: Reporter, workers: int | None) -> None:
    """Pictures of scenes drawn evenly, none of them a test's: what ImageNet's training pictures are to image_based."""
    scenes = _scenes("targets", size.targets)
    rows = [
        dict.fromkeys(SCHEMA.names)
        | {"url": f"https://nano.example/target/{i}", "text": nano_tests.full_caption(scene)}
        | {"image": encode(render(scene), "JPEG", 90)}
        for i, scene in enumerate(scenes)
    ]
    _fresh_with(root / "targets_raw", pa.Table.from_pylist(rows, SCHEMA))
    _features(root, "targets_raw", "targets", progress, workers)


def _fresh_with(folder: Path, table: pa.Table) -> None:
    folder.mkdir(exist_ok=True)
    _fresh(folder)
    pq.write_table(table, folder / "00000.parquet", compression="none")


def _scenes(purpose: str, count: int, held_out: bool = False) -> list[Any]:
    return [nano_tests.asked_scene(purpose, index, held_out) for index in range(count)]


def _embeddings(folder: Path) -> Matrix:
    """float32[n, d] of all pictures, in the order of their uids."""
    table = pq.read_table(folder, columns=["uid", "clip_img"]).sort_by("uid")
    column = table["clip_img"].combine_chunks()
    return np.asarray(column.flatten().to_numpy().reshape(len(table), -1), np.float32)


def _assets(root: Path, size: Size) -> None:
    from pairsieve.pipelines.cluster import train

    assets = root / "assets"
    assets.mkdir(exist_ok=True)
    np.save(assets / "targets.npy", _embeddings(root / "targets"))
    np.save(assets / "centroids.npy", _with_one_thread(lambda: train(_embeddings(root / "pool"), size.clusters)))
    (assets / "entities.txt").write_text("\n".join(_nouns()) + "\n")
    (assets / "metadata.txt").write_text("\n".join(_entries()) + "\n")


def _with_one_thread(work: Callable[[], Any]) -> Any:
    """faiss sums in another order with other numbers of threads."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        return work()
    finally:
        faiss.omp_set_num_threads(threads)


def _nouns() -> list[str]:
    """The English names of the shapes, singular and plural: what ImageNet's classes are to text_based."""
    forms = [noun.split(" ") for noun in LEXICONS["en"].nouns.split(",")]
    return sorted({word for _, one, _, many in forms for word in (one, many)})


def _entries() -> list[str]:
    """The compositions, such as ``red circles``: what MetaCLIP's 500,000 words and bigrams are to its tests."""
    return sorted({phrase(s, c, n).split(" ", 1)[1] for s in SHAPES for c in COLOURS for n in COUNTS})


def _ask(root: Path, size: Size, image_size: int) -> None:
    """Pictures for the tests, and the words that anybody may say."""
    from pairsieve.pipelines.nano_words import Vocabulary

    seen = _scenes("seen", size.seen)
    asked: Sequence[tuple[str, list[Any]]] = (
        ("seen", seen),
        ("held_out", _scenes("held_out", size.held_out, held_out=True)),
        ("probe", _scenes("probe", size.probe)),
    )
    arrays: dict[str, Any] = {"pairs": np.array(nano_tests.distinct(seen, size.retrieval))}
    for name, scenes in asked:
        shown = nano_tests.show(scenes, image_size)
        arrays |= {f"{name}_pixels": shown.pixels, f"{name}_labels": shown.labels}
    np.savez(root / "tests.npz", **arrays)
    texts = pq.read_table(root / "pool", columns=["text"])["text"].drop_null().to_pylist()
    np.save(root / "words.npy", Vocabulary.of([*texts, *nano_tests.all_prompts()]).tokens)


def _digest(folder: Path) -> str:
    """Of all files of a folder, names and content."""
    found = xxhash.xxh3_128()
    for file in sorted(folder.glob("*.parquet")):
        found.update(file.name.encode() + file.read_bytes())
    return str(found.hexdigest())
