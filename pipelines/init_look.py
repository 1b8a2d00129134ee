"""What lies at a path that somebody names: which kind of pool it is, and which columns hold URLs, captions, images.

Lists one folder two levels deep and reads the head of one file.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa

from pairsieve.pipelines import tables
from pairsieve.pipelines.store import filesystem
from pairsieve.schemas.errors import PoolError, UserError

KINDS = {
    "urls": "a list of image URLs with captions",
    "datacomp": "DataComp's metadata",
    "img2dataset": "what img2dataset wrote",
    "webdataset": "tars of images and captions",
    "pairs": "Parquet files that hold images",
}
"""Kinds of pool, in the words of the question."""
_URLS = ("url", "image_url", "img_url", "image_link", "imageurl", "link", "src")
_CAPTIONS = ("text", "caption", "alt", "alt_text", "title", "description", "prompt")
_IMAGES = ("image", "jpg", "img", "image_bytes", "bytes", "png")
_SCORE = "clip_l14_similarity_score"
_LISTS = re.compile(r"\.(csv|tsv|jsonl|ndjson|json|txt)(\.\w+)?$")
_HEAD = 100
_SHOWN = 8


@dataclass(frozen=True)
class Found:
    """A kind of pool with its path, and the columns that matter; None where there is none, or no need of a name."""

    kind: str
    path: str
    url_col: str | None = None
    caption_col: str | None = None
    image_col: str | None = None
    columns: tuple[str, ...] = ()

    def __str__(self) -> str:
        """In words: the kind, and what was taken for what."""
        named = {"URLs": self.url_col, "captions": self.caption_col, "images": self.image_col}
        told = ", ".join(f"{what} in {column!r}" for what, column in named.items() if column)
        return f"{KINDS[self.kind]}{f'; {told}' if told else ''}"

    @property
    def has_captions(self) -> bool:
        """Whether there is anything to judge by its words: a bare list of URLs holds none."""
        return self.caption_col is not None or self.kind in ("datacomp", "webdataset")

    @property
    def settings(self) -> dict[str, Any]:
        """As a recipe has them."""
        names = ("url_col", "caption_col", "image_col") if self.kind == "pairs" else ("url_col", "caption_col")
        chosen = {name: getattr(self, name) for name in names}
        if self.kind == "img2dataset":
            chosen = {"caption_col": self.caption_col} if self.caption_col else {}
        return {"path": self.path, **({} if self.kind in ("datacomp", "webdataset") else chosen)}


def look(path: str, kind: str | None = None) -> Found:
    """What a file, folder or glob holds, or that kind of pool; raises ``UserError`` with what to give instead."""
    if not path.strip():
        raise UserError("the path is empty; give a file, a folder or a glob")
    fs, inner = filesystem(path.strip())
    try:
        files = _files(fs, inner)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be listed: {str(error).splitlines()[0]}; give another path") from None
    if not files:
        raise UserError(f"{path}: no such file, or nothing in it; give a file, a folder or a glob")
    kind = kind or _kind(fs, path, files)
    return _with_columns(fs, kind, path.strip(), files)


def _files(fs: fsspec.AbstractFileSystem, path: str) -> list[str]:
    if set(path) & set("*?["):
        return sorted(map(str, fs.glob(path)))
    if fs.isdir(path):
        return sorted(map(str, fs.find(path, maxdepth=2)))
    return [path] if fs.exists(path) else []


def _kind(fs: fsspec.AbstractFileSystem, path: str, files: Sequence[str]) -> str:
    """By the names of the files, and the columns of the first Parquet file."""
    tars, parquet = _ending(files, ".tar"), _ending(files, ".parquet")
    stems = {file.removesuffix(".tar") for file in tars}
    if _ending(files, "_stats.json") or any(file.removesuffix(".parquet") in stems for file in parquet):
        return "img2dataset"
    if tars:
        return "webdataset"
    if parquet:
        return "datacomp" if _ending(files, ".npz") else _by_columns(_types(fs, parquet[0]), path)
    if any(_LISTS.search(file.lower()) for file in files):
        return "urls"
    raise UserError(f"{path}: holds no list (csv, jsonl, txt), no tar and no Parquet file; give another path")


def _by_columns(types: dict[str, pa.DataType], path: str) -> str:
    if _SCORE in types:
        return "datacomp"
    if any(_is_image(kind) for kind in types.values()):
        return "pairs"
    if any(pa.types.is_string(kind) or pa.types.is_large_string(kind) for kind in types.values()):
        return "urls"
    raise UserError(f"{path}: no column of URLs or images; columns: {_listed(types)}")


def _with_columns(fs: fsspec.AbstractFileSystem, kind: str, path: str, files: Sequence[str]) -> Found:
    if kind in ("webdataset", "datacomp"):
        return Found(kind, path)
    if kind == "img2dataset":
        parquet = _ending(files, ".parquet")
        names = list(_types(fs, parquet[0])) if parquet else ["caption"]
        return Found(kind, path, caption_col=_named(names, ("caption", *_CAPTIONS)), columns=tuple(names))
    file = next((f for f in files if _LISTS.search(f.lower()) or f.lower().endswith(".parquet")), files[0])
    types = _types(fs, file)
    texts = [n for n, t in types.items() if pa.types.is_string(t) or pa.types.is_large_string(t)]
    caption = _named(texts, _CAPTIONS)
    if kind == "pairs":
        images = [name for name, t in types.items() if _is_image(t)]
        image = _named(images, _IMAGES) or next(iter(images), None)
        return Found(kind, path, _named(texts, _URLS), caption, _required(image, "images", path, types), tuple(types))
    url = _named(texts, _URLS) or _by_value(fs, file, texts)
    caption = caption or next((name for name in texts if name != url), None)
    return Found(kind, path, _required(url, "URLs", path, types), caption, columns=tuple(types))


def _types(fs: fsspec.AbstractFileSystem, file: str) -> dict[str, pa.DataType]:
    return tables.types_of(fs, file, tables.format_of(file, "auto"))


def _named(names: Iterable[str], wanted: Sequence[str]) -> str | None:
    """The column of the first wanted name, whatever its case."""
    known = {name.casefold(): name for name in reversed(list(names))}
    return next((known[name] for name in wanted if name in known), None)


def _by_value(fs: fsspec.AbstractFileSystem, file: str, names: Sequence[str]) -> str | None:
    """The column whose first values are mostly addresses."""
    pieces = tables.read(fs, file, tables.format_of(file, "auto"), dict.fromkeys(names, pa.string()))
    for table, _ in pieces:
        for name in names:
            values = [v for v in table[name].slice(0, _HEAD).to_pylist() if v]
            if values and sum(v.startswith(("http://", "https://")) for v in values) * 2 > len(values):
                return name
        break
    return None


def _is_image(kind: pa.DataType) -> bool:
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return bool(is_bytes or (pa.types.is_struct(kind) and "bytes" in {field.name for field in kind}))


def _required(name: str | None, what: str, path: str, types: Iterable[str]) -> str:
    if name is None:
        raise PoolError(f"{path}: no column of {what} found; columns: {_listed(types)}")
    return name


def _ending(files: Iterable[str], ending: str) -> list[str]:
    return [file for file in files if file.lower().endswith(ending)]


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
