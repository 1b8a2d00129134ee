"""CLIPScore and RefCLIPScore (Hessel et al., 2104.08718) by an open_clip model.

CLIPScore = 2.5 · max(cos(image, "A photo depicts " + caption), 0); RefCLIPScore is the harmonic mean of it and the
greatest cosine with a reference, 0 at least.  The published figures are of OpenAI's ViT-B/32.  An item costs an image
and its texts of the model: 0.2 s on one core with ViT-B/32 and five references.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pairsieve.filters._clip import Clip
from pairsieve.filters._preprocess import pixels
from pairsieve.pipelines.captions import Items, Scores
from pairsieve.schemas.errors import UserError

PREFIX = "A photo depicts "
WEIGHT = 2.5
MOST_IMAGE_BYTES = 1 << 28
AT_ONCE = 64


def clip_scores(clip: Clip, items: Items, images: Iterable[tuple[str, bytes | None]]) -> Scores:
    """Both scores; an item whose image cannot be had is left out of them, and said to be."""
    place = {item: i for i, item in enumerate(items.ids)}
    one, both = np.full(len(place), np.nan), np.full(len(place), np.nan)
    for rows, pictures in _pictures(clip, images, place):
        vectors = clip.images(pictures)
        for row, vector in zip(rows, vectors, strict=True):
            texts = clip.texts([PREFIX + text for text in (items.hypotheses[row], *items.references[row])])
            one[row] = WEIGHT * max(float(texts[0] @ vector), 0.0)
            both[row] = _harmonic(one[row], max(float((texts[1:] @ texts[0]).max()), 0.0))
    lost = int(np.isnan(one).sum())
    if lost == len(one):
        raise UserError("no image could be read; CLIPScore needs the items' images (--images FOLDER)")
    notes = [f"CLIPScore without {lost:,} items, whose images cannot be read"] if lost else []
    found = Scores(notes=notes)
    for name, values in (("clipscore", one), ("refclipscore", both)):
        found.whole[name], found.each[name] = float(np.nanmean(values)), values.tolist()
    return found


def _harmonic(one: float, other: float) -> float:
    return 2 * one * other / (one + other) if one + other else 0.0


def _pictures(
    clip: Clip, images: Iterable[tuple[str, bytes | None]], place: dict[str, int]
) -> Iterator[tuple[list[int], NDArray[np.uint8]]]:
    """Pictures as the model wants them, a batch at a time, with their rows."""
    rows: list[int] = []
    made: list[NDArray[np.uint8]] = []
    for item, data in images:
        found = pixels(data, [clip.wanted], fast=False)
        if not isinstance(found, str):
            rows.append(place[item])
            made.append(found[0])
        if len(rows) == AT_ONCE:
            yield rows, np.stack(made)
            rows, made = [], []
    if rows:
        yield rows, np.stack(made)


def images_in(folder: str, items: Items) -> Iterator[tuple[str, bytes | None]]:
    """The items' files in a folder: those that their captions name, else the id with a known ending."""
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"--images {folder}: no such folder")
    for item in items.ids:
        yield item, _read(root, [items.files[item]] if item in items.files else _names(item))


def _names(item: str) -> Sequence[str]:
    return [item, *(f"{item}{end}" for end in (".jpg", ".jpeg", ".png", ".webp"))]


def _read(root: Path, names: Sequence[str]) -> bytes | None:
    """The first file there is, unless it lies outside the folder or is too large."""
    for name in names:
        file = root / name
        try:
            is_inside = file.resolve().is_relative_to(root.resolve())
            if is_inside and file.is_file() and file.stat().st_size <= MOST_IMAGE_BYTES:
                return file.read_bytes()
        except (OSError, ValueError):  # a name that is none
            continue
    return None
