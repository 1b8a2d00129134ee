"""The pool of the nano track: pairs of the demo's world with noise at the rates of the web, written as Parquet files.

As in DataComp, the images are already downloaded and small, and every pair comes with scores and features that filters
may use.  A pool is a function of (seed, pairs).  24,000 pairs take about 40 CPU-seconds, features included, and 70 MB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pairsieve.pipelines.demo_captions import Language, caption, sample_language
from pairsieve.pipelines.demo_pool import BOILERPLATE
from pairsieve.pipelines.demo_world import Pixels, Scene, encode, keyed_rng, pick, render, rescale
from pairsieve.pipelines.nano_world import LONGEST, advert, junk_picture, keyed_index, stored, web_scene

SEED = 20_230
FILE_PAIRS = 3_000

Says = Literal["true", "other", "advert", "boilerplate"]

COPY = 0.16
"""Of the pairs: their picture stands in the pool already, some in dozens of places."""
JUNK, TINY = 0.20, 0.06
"""Of the pictures: they show nothing of the world, or are too small to show it."""
OF_SCENES: dict[Says, float] = {"true": 0.50, "other": 0.20, "advert": 0.15, "boilerplate": 0.15}
OF_JUNK: dict[Says, float] = {"true": 0.0, "other": 0.15, "advert": 0.65, "boilerplate": 0.20}
"""What texts say, of pictures of scenes and of junk."""
ENGLISH = 0.5
"""Of the texts with words; 49 % of CommonPool's are English by fastText (arXiv 2304.14108)."""

SCHEMA = pa.schema(
    {
        "url": pa.string(),
        "text": pa.string(),
        "image": pa.binary(),
        "width": pa.int32(),
        "height": pa.int32(),
        "original_width": pa.int32(),
        "original_height": pa.int32(),
        "truth": pa.string(),
    }
)


@dataclass(frozen=True)
class NanoPair:
    """One row: what its picture shows (None: junk), what its text says, and whose copy it is."""

    index: int
    picture: int
    scene: Scene | None
    width: int
    height: int
    says: Says
    language: Language | Literal["und"]
    text: str | None


def plan_pair(seed: int, index: int) -> NanoPair:
    """The pair of an index; what it shows and what it says are drawn apart, so that flaws come together too."""
    rng = keyed_rng(seed, index, "nano pair")
    picture = _original(seed, index)
    scene, width, height = _shown(seed, picture)
    says = _draw(rng, OF_JUNK if scene is None else OF_SCENES)
    language: Language = "en" if rng.random() < ENGLISH else _other_language(rng)
    if says == "boilerplate":
        return NanoPair(index, picture, scene, width, height, says, "und", pick(rng, BOILERPLATE))
    if says == "advert":
        text = advert(language, rng)
    else:
        about = scene if says == "true" and scene is not None else web_scene(seed + 1, index)
        text = caption(about, language, rng)
    return NanoPair(index, picture, scene, width, height, says, language, text)


def _other_language(rng: np.random.Generator) -> Language:
    while (language := sample_language(rng)) == "en":
        pass
    return language


def _draw(rng: np.random.Generator, shares: dict[Says, float]) -> Says:
    place = int(np.searchsorted(np.cumsum(list(shares.values())), rng.random(), side="right"))
    return list(shares)[min(place, len(shares) - 1)]


def _original(seed: int, index: int) -> int:
    """The pair whose picture this one shows: itself, or an earlier one, the first ones most often."""
    rng = keyed_rng(seed, index, "nano copy")
    while index and rng.random() < COPY:
        index = int(index * rng.random() ** 2)
        rng = keyed_rng(seed, index, "nano copy")
    return index


def _shown(seed: int, picture: int) -> tuple[Scene | None, int, int]:
    """What a picture shows and its original size."""
    rng = keyed_rng(seed, picture, "nano picture")
    scene = web_scene(seed, picture)
    if rng.random() < JUNK:
        return None, scene.width, scene.height
    if rng.random() < TINY:
        side = int(rng.integers(12, 25))
        scene = replace(scene, width=side, height=side)
    return scene, scene.width, scene.height


def image_of(pair: NanoPair, seed: int) -> tuple[bytes, int, int]:
    """(encoded image, width, height) as stored; half of the copies are the same bytes, half are compressed anew."""
    rng = keyed_rng(seed, pair.index if keyed_index(seed, pair.index, "again", 2) else pair.picture, "nano file")
    pixels = _pixels(pair, seed)
    if keyed_index(seed, pair.index, "again", 2) and pair.picture != pair.index:
        pixels = rescale(pixels, float(rng.uniform(0.8, 1.0)))
    height, width = pixels.shape[:2]
    return encode(pixels, "JPEG", int(rng.integers(70, 96))), width, height


def _pixels(pair: NanoPair, seed: int) -> Pixels:
    if pair.scene is not None:
        return render(stored(pair.scene))
    factor = LONGEST / max(pair.width, pair.height)
    return junk_picture(seed, pair.picture, round(pair.width * factor), round(pair.height * factor))


def rows(seed: int, first: int, last: int) -> Iterator[dict[str, object]]:
    """The rows [first, last) as the files hold them."""
    for index in range(first, last):
        pair = plan_pair(seed, index)
        image, width, height = image_of(pair, seed)
        sizes = {"width": width, "height": height, "original_width": pair.width, "original_height": pair.height}
        url = f"https://nano.example/{pair.index:06d}.jpg"
        yield {"url": url, "text": pair.text, "image": image, "truth": truth(pair), **sizes}


def truth(pair: NanoPair) -> str:
    """What is to be known of a pair, for people: picture, text and language."""
    shows = "junk" if pair.scene is None else "tiny" if max(pair.width, pair.height) < 48 else "scene"
    copy = "" if pair.picture == pair.index else " copy"
    return f"{shows}{copy}, {pair.says}, {pair.language}"


def write_file(path: Path, seed: int, first: int, last: int) -> None:
    """Write one file of the pool, under its name only when it is whole."""
    part = path.with_suffix(".part")
    pq.write_table(pa.Table.from_pylist(list(rows(seed, first, last)), SCHEMA), part, compression="none")
    part.rename(path)
