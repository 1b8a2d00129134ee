"""Find the pairs of a finished run whose stored embeddings are nearest to a text or an image: exact, no index.

Every vector is read once: 3.1 CPU-seconds a million of 512 float16, so 100 million (102 GB) are 5 CPU-minutes, or
what the storage takes to give them; besides, the seconds that the model takes to load.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import duckdb
import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from pairsieve.filters._clip import Clip
from pairsieve.filters._clip_model import ClipModel
from pairsieve.filters._preprocess import Preprocess, normalised, pixels
from pairsieve.filters._products import Matrix
from pairsieve.pipelines import catalog, machine
from pairsieve.pipelines.near import no_run
from pairsieve.pipelines.progress import Reporter, Silent
from pairsieve.pipelines.provenance import manifest
from pairsieve.pipelines.search_columns import EmbeddingColumn, Model, column_of
from pairsieve.pipelines.search_scan import Entry, Masks, nearest
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import MissingExtraError, QueryError, UserError

MOST = 10_000
"""Pairs that may be asked for."""
MOST_IMAGE_BYTES = 1 << 28

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Query:
    """What is looked for: a text, or else the file of an image; what embeds it, where the run does not say."""

    text: str | None = None
    image: str | None = None
    model: str | None = None
    pretrained: str | None = None
    device: Device = "auto"


@dataclass(frozen=True)
class Hit:
    """A pair, the cosine of its embedding with the query's, and its verdict (``dropped_by`` null: kept)."""

    uid: str
    score: float
    shard: int
    row: int
    dropped_by: str | None
    reason: str | None
    text: str | None
    url: str | None


@dataclass(frozen=True)
class Found:
    """The nearest pairs, the best first; the column, its model, and how many vectors were compared."""

    hits: tuple[Hit, ...]
    column: str
    model: str
    vectors: int


class SearchModel(ClipModel):
    """The model that embeds a query."""


def search(
    run: str,
    query: Query,
    *,
    embeddings: str | None = None,
    top: int = 20,
    where: str | None = None,
    kept: bool = False,
    workers: int | None = None,
    progress: Reporter | None = None,
) -> Found:
    """The ``top`` pairs of a run by cosine; equal ones by uid.

    ``embeddings`` names the column, ``where`` is SQL over the view ``scores``, ``kept`` leaves dropped pairs out; both
    take a byte of memory a pair.  Raises ``UserError`` where the run, the column, the model or the query does not do.
    """
    _check_query(query, where)
    if not 1 <= top <= MOST:
        raise UserError(f"--top {top}: give 1 to {MOST:,}")
    store = Store(run)
    if not store.exists(catalog.CATALOG):
        raise no_run(run)
    column = column_of(store, manifest(store), embeddings)
    made = _model(column, query)
    masks = _masks(store, where, kept)
    vector = _embedded(made, query)
    with (progress or Silent()).stage(f"compare {column.name}", 0) as stage:
        best = nearest(column.pieces, vector, top, masks, workers or machine.cpus(), stage)
    said = f"{made.model} {made.pretrained}" if made.pretrained else str(made.model)
    return Found(_hits(store, best.entries), column.name, said, best.vectors)


def _check_query(query: Query, where: str | None) -> None:
    if query.text is not None and query.image is not None:
        raise UserError("give a text or --image FILE, not both")
    if not (query.text or query.image or "").strip():
        raise UserError("nothing to look for: give a text, or --image FILE")
    if where is not None and not where.strip():
        raise UserError("--where is empty; give a condition in SQL, or leave it out")


def _model(column: EmbeddingColumn, query: Query) -> ClipModel:
    """The model that is asked for, or the one that made the column, which must be as it was."""
    known = column.model
    if query.model is not None:
        known = Model(query.model, query.pretrained)
    elif query.pretrained is not None:
        raise UserError(f"--pretrained {query.pretrained} goes with --model, an open_clip architecture")
    if known is None:
        text = f"the run does not know the model of column {column.name!r}"
        raise UserError(f"{text}; give --model (and --pretrained), the one that made it")
    made, width = _checked(known, query.device)
    if column.width not in (None, width):
        text = f"column {column.name!r} has embeddings of width {column.width}, and {known.model} gives {width}"
        raise UserError(f"{text}; give the model that made them with --model and --pretrained")
    _check_files(made, known)
    return made


def _checked(known: Model, device: Device) -> tuple[ClipModel, int]:
    """The settings of a model that exists, and the width of its embeddings; nothing is loaded."""
    try:
        made = SearchModel(model=known.model, pretrained=known.pretrained, precision="fp32", device=device)
        if missing := [name for name in made.model_modules() if find_spec(name) is None]:
            raise MissingExtraError(f"a search needs {', '.join(missing)}: pip install 'pairsieve[clip]'")
        made.check_model()
        return made, made.dimension()
    except MissingExtraError:
        raise
    except (ValidationError, ValueError, UserError) as error:
        text = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise UserError(f"--{text}" if text.startswith(("model:", "pretrained:")) else f"--model: {text}") from None


def _check_files(made: ClipModel, known: Model) -> None:
    """Refuse a model whose files are others than those that made the column."""
    if not known.files:
        return
    for name in made.model_files():
        with Path(name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if (Path(name).name, digest) not in known.files:
            text = f"{name} is not as it was when the run measured; run the recipe again"
            raise UserError(f"{text}, or give the model that made the embeddings with --model")


def _embedded(made: ClipModel, query: Query) -> Matrix:
    """float32[d] of length 1."""
    clip = made.load(1)
    found = clip.texts([query.text])[0] if query.text is not None else _of_image(clip, str(query.image))
    return np.asarray(found / np.linalg.norm(found), np.float32)


def _of_image(clip: Clip, name: str) -> Matrix:
    """The image of a file, prepared exactly as open_clip does."""
    import torch

    path = Path(name).expanduser() if name.startswith("~/") else Path(name)
    if "\0" in name or not path.is_file():
        raise UserError(f"--image {name}: there is no such file")
    if path.stat().st_size > MOST_IMAGE_BYTES:
        raise UserError(f"--image {name}: is larger than any image ({MOST_IMAGE_BYTES >> 20} MiB)")
    wanted = Preprocess.of(clip.model)
    found = pixels(path.read_bytes(), [wanted], fast=False)
    if isinstance(found, str):
        raise UserError(f"--image {name}: cannot be read as an image ({found}); give JPEG, PNG or WebP")
    with torch.inference_mode():
        batch = normalised(torch.from_numpy(found[0][None]).to(clip.device), wanted, clip.dtype)
        return np.asarray(clip.model.encode_image(batch).float().cpu().numpy()[0])


def _masks(store: Store, where: str | None, kept: bool) -> Masks | None:
    """Which rows of each shard are looked at; None where all are.  ``where`` is any SQL that gives booleans."""
    if where is None and not kept:
        return None
    view = "verdicts" if where is None else "scores"
    tests = [*([f"(\n{where}\n)"] if where is not None else []), *(["dropped_by IS NULL"] if kept else [])]
    with catalog.connect(store.root) as con:
        rows = con.execute("SELECT shard, rows FROM shards").fetchall()
        found = {int(shard): np.zeros(count, np.bool_) for shard, count in rows}
        try:
            parts = con.sql(f"SELECT shard, row FROM {view} WHERE {' AND '.join(tests)}").to_arrow_reader()
            for part in parts:
                _mark(found, part)
        except (duckdb.Error, AttributeError) as error:
            raise QueryError(f"--where: {catalog.message(error)}") from None
    return found


def _mark(masks: Masks, places: pa.RecordBatch) -> None:
    shards, rows = (places[name].to_numpy() for name in ("shard", "row"))
    for shard in np.unique(shards):
        masks[int(shard)][rows[shards == shard]] = True


_FACTS = """
    SELECT p.shard, p.row, v.dropped_by, v.reason, p.text, p.url
    FROM pairs p JOIN verdicts v ON p.shard = v.shard AND p.row = v.row
    JOIN found f ON p.shard = f.shard AND p.row = f.row
    WHERE p.shard IN ({shards}) AND v.shard IN ({shards})
"""


def _hits(store: Store, entries: Sequence[Entry]) -> tuple[Hit, ...]:
    """The pairs of the entries with their captions and verdicts."""
    if not entries:
        return ()
    places = pa.table(
        {
            "shard": pa.array([entry[2] for entry in entries], pa.int32()),
            "row": pa.array([entry[3] for entry in entries], pa.int32()),
        }
    )
    shards = ", ".join(str(shard) for shard in sorted({entry[2] for entry in entries}))
    with catalog.connect(store.root) as con:
        con.register("found", places)
        facts = {(row[0], row[1]): row[2:] for row in con.execute(_FACTS.format(shards=shards)).fetchall()}
    return tuple(Hit(uid, -score, shard, row, *facts[shard, row]) for score, uid, shard, row in entries)
