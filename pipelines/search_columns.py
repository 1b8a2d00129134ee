"""Columns of embeddings in a finished run: where each lies, how wide it is, and which model made it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pairsieve.filters._tensors import check_column
from pairsieve.filters.base import UnknownColumnError
from pairsieve.pipelines import catalog
from pairsieve.pipelines.cluster import finished
from pairsieve.pipelines.search_scan import Piece, PoolColumn, StepFile
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import DamagedFileError, UserError
from pairsieve.schemas.run import RunManifest, StepRecord

USUAL = "clip_image"
"""What ``clip_score`` calls its image embeddings."""
DATACOMP = {"b32": "ViT-B-32-quickgelu", "l14": "ViT-L-14-quickgelu"}
"""OpenAI's models of the features beside DataComp's metadata: ``b32_img``, ``l14_txt`` and so on."""
_OWN = re.compile(r"(?:.*_)?clip_(?:image|text)(?:_(?P<name>[a-z0-9_]+))?")


@dataclass(frozen=True)
class Model:
    """A CLIP model as recipes name it; ``files`` are names and digests of those that it was."""

    model: str
    pretrained: str | None = None
    precision: str = "auto"
    files: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class EmbeddingColumn:
    """A column: its name, its type, its parts, and its model where that is known."""

    name: str
    kind: pa.DataType
    pieces: tuple[Piece, ...]
    model: Model | None

    @property
    def width(self) -> int | None:
        """Numbers of an embedding, where the type tells."""
        return check_column(self.kind, self.name)


def column_of(store: Store, manifest: RunManifest, wanted: str | None) -> EmbeddingColumn:
    """The column of a name, or the run's usual or only one; raises ``UserError`` where there is none such."""
    of_steps = _of_steps(store, manifest)
    name = wanted or _usual(of_steps)
    if name in of_steps:
        record, kind = of_steps[name]
        names = store.names(f"scores/{record.id}", ".parquet")
        files = tuple(StepFile(store, f"scores/{record.id}/{each}", name) for each in names)
        _require_all(store, manifest, record, {file.shard for file in files})
        return EmbeddingColumn(name, kind, files, _model_of(record, name))
    return _of_pool(store, name, of_steps)


def _require_all(store: Store, manifest: RunManifest, record: StepRecord, found: set[int]) -> None:
    """Refuse to leave out a shard of which pairs reached the step, and whose scores are gone."""
    steps = ["pool", *(step.id for step in manifest.steps)]
    sql = """
        SELECT DISTINCT shard FROM verdicts
        WHERE dropped_by IS NULL OR list_position($steps, dropped_by) >= list_position($steps, $step) ORDER BY 1
    """
    reached = catalog.query(store.root, sql, {"steps": steps, "step": record.id})["shard"].to_pylist()
    if gone := [shard for shard in reached if shard not in found]:
        raise DamagedFileError(
            f"{store.url(f'scores/{record.id}')}: the file of shard {gone[0]:05d} is gone"
            f"{f', and {len(gone) - 1} more' if gone[1:] else ''}; run the recipe again, which makes it anew"
        )


def _of_steps(store: Store, manifest: RunManifest) -> dict[str, tuple[StepRecord, pa.DataType]]:
    """Columns of embeddings that steps wrote."""
    found: dict[str, tuple[StepRecord, pa.DataType]] = {}
    for record in manifest.steps:
        names = store.names(f"scores/{record.id}", ".parquet") if record.measures else []
        if names:
            fields = _fields(store, f"scores/{record.id}/{names[0]}")
            found |= {field.name: (record, field.type) for field in fields if _is_embeddings(field.type)}
    return found


def _fields(store: Store, name: str) -> pa.Schema:
    try:
        with store.parquet(name) as file:
            return file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        text = f"{store.url(name)}: {str(error).splitlines()[0]}"
        raise DamagedFileError(f"{text}; run the recipe again, which makes it anew") from None


def _is_embeddings(kind: pa.DataType) -> bool:
    try:
        check_column(kind, "")
    except ValueError:
        return False
    return True


def _usual(names: Mapping[str, Any]) -> str | None:
    return USUAL if USUAL in names else next(iter(names)) if len(names) == 1 else None


def _of_pool(store: Store, name: str | None, of_steps: Mapping[str, Any]) -> EmbeddingColumn:
    """A column that came with the pool, which must be as the run read it."""
    context, shards = finished(store.root)
    types = {each: kind for each, kind in context.plan.pool_types.items() if _is_embeddings(kind)}
    name = name or _usual(types)
    if name is None:
        there = ", ".join((*of_steps, *types))
        said = f"the run has several columns of embeddings; name one with --embeddings: {there}"
        none = "the run has no column of embeddings; give clip_score 'embeddings: true' and run it again"
        raise UserError(f"{store.root}: {said if there else none}")
    if name not in types:
        try:
            if name in context.plan.types:
                check_column(context.plan.types[name], name)
            raise UnknownColumnError(name, [*of_steps, *types] or context.plan.types)
        except ValueError as error:
            raise UserError(f"--embeddings: {error}") from None
    pieces = tuple(PoolColumn(context, shard, name) for shard in shards)
    recipe = context.plan.recipe
    known = DATACOMP.get(context.plan.pool_names[name].split("_")[0]) if recipe.pool_kind == "datacomp" else None
    return EmbeddingColumn(name, types[name], pieces, Model(known, "openai") if known else None)


def _model_of(record: StepRecord, column: str) -> Model | None:
    """The model by which ``clip_score`` made a column, as the run recorded its settings; None for other filters."""
    said = record.measures or {}
    match = _OWN.fullmatch(column)
    if record.filter != "clip_score" or match is None:
        return None
    settings = said["settings"]
    chosen = settings.get("also", {}).get(match["name"], settings)
    files = tuple((str(name), str(digest)) for name, digest in said.get("files", ()))
    return Model(chosen["model"], chosen.get("pretrained"), settings.get("precision", "auto"), files)
