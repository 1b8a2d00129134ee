"""A pool of image-text pairs with planted, recorded defects: what a recipe should drop is known for every pair.

Planning 3000 pairs takes about a second and holds a few megabytes, since no image is made here (demo_replies does).
A pool is a function of (seed, pairs) alone. Each pair has one defect or none, and its path does not tell which.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pairsieve.pipelines.demo_captions import Language, caption, sample_language
from pairsieve.pipelines.demo_world import ImageFormat, Scene, keyed_int, keyed_rng, pick, sample_scene

Defect = Literal[
    "swapped_caption",
    "boilerplate_text",
    "exact_duplicate",
    "repeated_row",
    "reencoded_duplicate",
    "tiny_image",
    "extreme_aspect",
    "broken_file",
    "truncated_file",
    "html_page",
    "not_found",
    "server_error",
    "slow_response",
    "endless_response",
    "opted_out",
    "huge_image_header",
]
DEFECTS: tuple[Defect, ...] = get_args(Defect)

# Parts per thousand. At 3000 pairs the rarest class has 30 members; 66.5 % of the pairs stay good.
RATES: dict[Defect, int] = {
    "swapped_caption": 80,
    "boilerplate_text": 30,
    "exact_duplicate": 35,
    "repeated_row": 15,
    "reencoded_duplicate": 35,
    "tiny_image": 15,
    "extreme_aspect": 15,
    "broken_file": 15,
    "truncated_file": 15,
    "html_page": 10,
    "not_found": 20,
    "server_error": 10,
    "slow_response": 10,
    "endless_response": 10,
    "opted_out": 20,
    "huge_image_header": 10,
}
SMALLEST_POOL = 40

BOILERPLATE: tuple[str | None, ...] = (
    None,
    "",
    " ",
    "image",
    "photo",
    "IMG_0042.jpg",
    "DSC01234.JPG",
    "Click here",
    "enlarge image",
    "untitled",
    "thumbnail",
    "logo.png",
    "...",
    "image 1",
)
OPT_OUTS: tuple[tuple[str, ...], ...] = (
    ("noai",),
    ("noimageai",),
    ("noai, noimageai",),
    ("none",),
    ("NoAI",),
    ("noarchive, noai",),
    ("max-image-preview: large, noai",),
    ("noarchive", "noimageai"),
)
# Some good pairs carry the header too, saying something else: its presence alone must not cost a pair.
HARMLESS: tuple[tuple[str, ...], ...] = (("all",), ("index, follow",), ("max-image-preview: large",))
EXTENSIONS: dict[ImageFormat, str] = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


@dataclass(frozen=True)
class PlantedPair:
    """One row of the demo's input and the truth about it; `scene` is what the image shows, if it shows anything."""

    index: int
    path: str
    text: str | None
    language: Language | Literal["und"]
    defect: Defect | None
    scene: Scene
    image_format: ImageFormat
    quality: int
    scale: float = 1.0
    text_scene: Scene | None = None
    duplicate_of: int | None = None
    robots: tuple[str, ...] = ()


@dataclass(frozen=True)
class UrlRow:
    """One row of the URL list, with the truth that belongs to it."""

    url: str
    text: str | None
    defect: Defect | None
    language: str
    index: int
    duplicate_of: int | None


@dataclass(frozen=True)
class DemoPool:
    """All pairs of one (seed, pairs), in the order of their index."""

    seed: int
    pairs: tuple[PlantedPair, ...] = field(repr=False)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.pairs)

    def __iter__(self) -> Iterator[PlantedPair]:
        """Go through the pairs by index."""
        return iter(self.pairs)

    @cached_property
    def by_path(self) -> dict[str, PlantedPair]:
        """Map each served path to its pair (of a repeated row: to the row that came first)."""
        return {pair.path: pair for pair in self.pairs if pair.defect != "repeated_row"}

    def members(self, defect: Defect | None) -> list[PlantedPair]:
        """List the pairs of one defect, or with None the good ones."""
        return [pair for pair in self.pairs if pair.defect == defect]


def build_pool(pairs: int = 3000, seed: int = 0) -> DemoPool:
    """Plan a pool: first every pair as a good one, then a keyed shuffle says which of them get which defect."""
    if pairs < SMALLEST_POOL:
        raise ValueError(f"a demo pool needs at least {SMALLEST_POOL} pairs to hold every defect, got {pairs}")
    planned = [_good_pair(seed, index) for index in range(pairs)]
    order = [int(i) for i in keyed_rng(seed, pairs, "defects").permutation(pairs)]
    taken = 0
    victims: dict[Defect, list[int]] = {}
    for defect in DEFECTS:
        size = max(1, round(pairs * RATES[defect] / 1000))
        victims[defect] = order[taken : taken + size]
        taken += size
    originals = iter(order[taken:])
    for defect, indices in victims.items():
        for index in indices:
            planned[index] = _plant(defect, planned[index], seed, planned, originals)
    return DemoPool(seed, tuple(planned))


def _good_pair(seed: int, index: int) -> PlantedPair:
    rng = keyed_rng(seed, index, "pair")
    scene = sample_scene(seed, index)
    language = sample_language(rng)
    formats: tuple[ImageFormat, ...] = ("JPEG",) * 10 + ("PNG", "WEBP")
    image_format = pick(rng, formats)
    return PlantedPair(
        index=index,
        path=_path(index, image_format),
        text=caption(scene, language, rng),
        language=language,
        defect=None,
        scene=scene,
        image_format=image_format,
        quality=int(rng.integers(78, 96)),
        robots=pick(rng, HARMLESS) if rng.random() < 0.03 else (),
    )


def _plant(
    defect: Defect, pair: PlantedPair, seed: int, planned: list[PlantedPair], originals: Iterator[int]
) -> PlantedPair:
    """Turn a good pair into one with a defect; a duplicate takes the next good pair as its original."""
    rng = keyed_rng(seed, pair.index, defect)
    if defect in ("exact_duplicate", "repeated_row", "reencoded_duplicate"):
        return _duplicate(defect, pair, planned[next(originals)], rng)
    marked = replace(pair, defect=defect, robots=())
    if defect == "swapped_caption" and pair.language != "und":
        return _swapped(marked, pair.language, seed, rng)
    if defect == "boilerplate_text":
        return replace(marked, text=pick(rng, BOILERPLATE), language="und")
    if defect == "opted_out":
        return replace(marked, robots=pick(rng, OPT_OUTS))
    if defect in ("tiny_image", "extreme_aspect"):
        return replace(marked, scene=_resized(pair.scene, defect, rng))
    return _with_format(marked, rng)


def _with_format(pair: PlantedPair, rng: np.random.Generator) -> PlantedPair:
    """Give a pair the file type that its defect needs; the others keep theirs."""
    formats: dict[Defect, tuple[ImageFormat, ...]] = {
        "broken_file": ("JPEG", "JPEG", "PNG"),
        "truncated_file": ("JPEG", "JPEG", "PNG"),
        "html_page": ("JPEG",),
        "endless_response": ("JPEG",),
        "huge_image_header": ("PNG",),
    }
    kept = (pair.image_format,)
    image_format = pick(rng, formats.get(pair.defect, kept) if pair.defect else kept)
    return replace(pair, image_format=image_format, path=_path(pair.index, image_format))


def _path(index: int, image_format: ImageFormat) -> str:
    return f"/images/{index:06d}.{EXTENSIONS[image_format]}"


def _swapped(pair: PlantedPair, language: Language, seed: int, rng: np.random.Generator) -> PlantedPair:
    """Describe the first scene of a keyed series that differs in at least two of shape, colour and count."""
    here = (pair.scene.shape, pair.scene.colour, pair.scene.count)
    for attempt in range(1000):
        other = sample_scene(keyed_int(seed, pair.index, "swap"), attempt)
        there = (other.shape, other.colour, other.count)
        if sum(a != b for a, b in zip(here, there, strict=True)) >= 2:
            return replace(pair, text=caption(other, language, rng), text_scene=other)
    raise AssertionError("a thousand scenes in a row were nearly equal")


def _duplicate(defect: Defect, pair: PlantedPair, original: PlantedPair, rng: np.random.Generator) -> PlantedPair:
    """Show the original's picture again: as the same row, as the same file elsewhere, or compressed anew."""
    twin = replace(original, index=pair.index, defect=defect, duplicate_of=original.index)
    if defect == "repeated_row":
        return twin
    if rng.random() < 0.5:
        language = sample_language(rng)
        twin = replace(twin, language=language, text=caption(original.scene, language, rng))
    if defect == "reencoded_duplicate":
        scale = float(rng.uniform(0.82, 0.95) if rng.random() < 0.5 else rng.uniform(1.05, 1.25))
        twin = replace(twin, image_format="JPEG", quality=int(rng.integers(50, 76)), scale=scale)
    return replace(twin, path=_path(pair.index, twin.image_format))


def _resized(scene: Scene, defect: Defect, rng: np.random.Generator) -> Scene:
    """Make a scene too small (24-47 px) or too long (100-120 px by more than four times as much)."""
    if defect == "tiny_image":
        short = int(rng.integers(24, 48))
        long = int(rng.integers(short, int(short * 1.5) + 1))
    else:
        short = int(rng.integers(100, 121))
        long = int(short * float(rng.uniform(4.2, 5.0))) + 1
    wide = rng.random() < 0.6
    return replace(scene, width=long if wide else short, height=short if wide else long)


def url_rows(pool: DemoPool, base_url: str) -> list[UrlRow]:
    """List every pair with its URL and its truth, in a keyed random order; a repeated row comes out twice."""
    order = keyed_rng(pool.seed, len(pool), "rows").permutation(len(pool))
    base = base_url.rstrip("/")
    pairs = (pool.pairs[int(i)] for i in order)
    return [UrlRow(base + p.path, p.text, p.defect, p.language, p.index, p.duplicate_of) for p in pairs]


def write_url_list(pool: DemoPool, base_url: str, path: Path) -> None:
    """Write the input of a run, a parquet file of (url, text); a missing text is null."""
    rows = url_rows(pool, base_url)
    urls, texts = pa.array([row.url for row in rows], pa.string()), pa.array([row.text for row in rows], pa.string())
    pq.write_table(pa.table({"url": urls, "text": texts}), path)


def write_truth(pool: DemoPool, base_url: str, path: Path) -> None:
    """Write the answers, a parquet file of UrlRow's fields in the order of the URL list."""
    types = {"url": pa.string(), "text": pa.string(), "defect": pa.string(), "language": pa.string()}
    schema = pa.schema(types | {"index": pa.int64(), "duplicate_of": pa.int64()})
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in url_rows(pool, base_url)], schema), path)
