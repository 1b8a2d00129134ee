"""Every baseline of DataComp's filtering track, by the shipped recipe, against the literal rules on a hostile pool."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pairsieve.filters.text_entities import TextEntities, read_ids
from pairsieve.pipelines.recipe_file import shipped
from pairsieve.pipelines.run import load, run
from tests.support_baselines import Literal, Row, records
from tests.support_datacomp import SCHEMA, WIDTHS, features, uid_of, write_shard
from tests.support_wordnet import need_wordnet, nltk_reader

BASELINES = (
    "datacomp_no_filter",
    "datacomp_basic",
    "datacomp_text_based",
    "datacomp_clip_l14_30",
    "datacomp_clip_b32",
    "datacomp_laion2b",
    "datacomp_image_based",
    "datacomp_image_based_and_clip_l14_30",
    "datacomp_decontaminate",
)
DEDUP, ABOVE = "dedup-isc-ft-v107-score", float(np.nextafter(np.float32(0.604169), np.float32(1)))
COUNTS = (700, 1, 500)
TEXTS = [
    "a photo of a dog in the park",
    "Two Dogs playing with a red ball on the beach",
    "dog,",
    "a b c",
    "a b cd",
    "the cat sat on the mat.",
    "the\u00a0cat\u3000sat\u2028on",
    "the\x1fcat\x1csat on the mat today",
    "word\n",
    "word\nword\n\n",
    "a photo of\na dog\r\nwith newlines",
    "the quick </s> brown fox jumps",
    "</s>",
    "</s> a dog in the park",
    "a dog\0in the\0park with nul",
    "",
    " ",
    "\n",
    "   \t  ",
    "Ein schöner Hund spielt im Garten mit dem Ball",
    "Une photo d'un chien dans le parc",
    "公園で遊んでいる犬の写真",
    "собака играет в парке с мячом",
    "كلب يلعب في الحديقة",
    "IMG_2034.JPG",
    "ice_cream cone for sale",
    "running quickly and happily",
    "womens shoes size 40 sale",
    "geese flying over the lakes",
    "🐕 🐈 dog cat emoji time",
    "__label__en dog in the house",
    "http://example.org/dog.jpg",
    "dog " * 30_000,
    "x" * 200_000,
    "a\u0300 dog with combining marks here",
    "DOG CAT HOUSE TREE WATER",
]
SIZES: list[tuple[int | None, int | None]] = [
    (200, 200),
    (199, 400),
    (600, 200),
    (601, 200),
    (200, 600),
    (200, 601),
    (0, 0),
    (0, 500),
    (500, 0),
    (None, 300),
    (300, None),
    (-5, 300),
    (1024, 768),
    (100_000, 50_000),
]


@dataclass(frozen=True)
class World:
    """A pool on disk, its pairs in memory, and the literal rules."""

    folder: Path
    pairs: list[Row]
    literal: Literal

    @property
    def settings(self) -> list[str]:
        """Parameters of the recipes."""
        return [f"data={self.folder / 'data'}", f"assets={self.folder / 'assets'}"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """1,201 pairs in three files, of which one holds one pair; released files as DataComp released them."""
    need_wordnet()
    folder = tmp_path_factory.mktemp("datacomp")
    pairs = write_pool(folder / "data" / "datacomp_small" / "metadata")
    centroids, targets = assets(folder / "assets")
    reader = nltk_reader(folder / "nltk")
    return World(folder, pairs, Literal(reader, read_ids("imagenet21k"), centroids, targets))


def write_pool(folder: Path) -> list[Row]:
    """Every text with many sizes and scores; ties, NaN, nulls, uids that come twice."""
    rng = np.random.default_rng(5)
    pairs: list[Row] = []
    for number, count in enumerate(COUNTS):
        arrays = features(count, number)
        rows = [row(len(pairs) + i, rng) for i in range(count)]
        schema = SCHEMA.append(pa.field(DEDUP, pa.float32()))
        write_shard(folder, f"{number:032x}", rows, arrays, schema=schema, group=300)
        pairs += [{**r, "l14_img": arrays["l14_img"][i]} for i, r in enumerate(rows)]
    return pairs


def row(i: int, rng: np.random.Generator) -> dict[str, Any]:
    """One pair; captions of the hostile list, or plain English."""
    text = None if i % 97 == 0 else TEXTS[i % len(TEXTS)] if i % 3 else f"a picture of {i} small houses near the lake"
    width, height = SIZES[i % len(SIZES)] if i % 2 else (640, 480)
    l14 = None if i % 41 == 0 else float("nan") if i % 43 == 0 else round(rng.normal(0.2, 0.1), 2)
    b32 = [0.28, 0.3, float(np.nextafter(np.float32(0.3), np.float32(0))), None, float("nan")]
    return {
        "uid": uid_of(i if i % 50 else 0),
        "url": None if i % 31 == 0 else f"http://example.org/{i}",
        "text": text,
        "original_width": width,
        "original_height": height,
        "clip_b32_similarity_score": b32[i % 5] if i % 2 else float(np.float32(rng.normal(0.29, 0.05))),
        "clip_l14_similarity_score": l14,
        "face_bboxes": [[0.1, 0.2, 0.3, 0.4]],
        "sha256": None,
        DEDUP: [0.1, 0.604169, float(np.nextafter(np.float32(0.604169), np.float32(1))), 0.9, None, float("nan")][
            i % 6
        ],
    }


def assets(folder: Path) -> tuple[Any, Any]:
    """Centroids in a ``.pt`` that holds a numpy array, target embeddings in several with a key."""
    rng = np.random.default_rng(6)
    width = WIDTHS["l14_img"]
    centroids = (rng.standard_normal((40, width)) * rng.uniform(0.5, 2, (40, 1))).astype(np.float32)
    targets = rng.standard_normal((12, width)).astype(np.float32)
    folder.mkdir()
    torch.save(centroids, folder / "small_centroids_l14.pt")
    for i in range(3):
        torch.save({"image_features": torch.tensor(targets[4 * i : 4 * i + 4])}, folder / f"in1k_clip_vit_l14_{i}.pt")
    np.save(folder / "in21k_clip_vit_l14_0.npy", targets)
    return centroids, targets


def wanted(world: World, name: str) -> bytes:
    """The bytes of the file that the original would write."""
    file = io.BytesIO()
    np.save(file, records(world.literal.named(name)(world.pairs)))
    return file.getvalue()


@pytest.mark.parametrize("name", BASELINES)
def test_subset_is_the_originals_file(world: World, tmp_path: Path, name: str) -> None:
    """Byte by byte."""
    result = run(name, tmp_path / "run", overrides=world.settings, workers=1)
    assert (tmp_path / "run" / "subset.npy").read_bytes() == wanted(world, name)
    assert result.kept > 0 and (name == "datacomp_no_filter" or result.kept < result.rows)


TRACK = sorted(name for name in shipped() if name.startswith("datacomp_") and name != "datacomp_recap")
"""Recipes of the filtering track; ``test_capfilt_recipes`` has the other one."""


@pytest.mark.parametrize("name", TRACK)
def test_every_candidate_has_a_verdict(world: World, tmp_path: Path, name: str) -> None:
    """Null captions, NaN, zero sizes: counted, with a reason; nothing ends in an error."""
    result = run(name, tmp_path / "run", overrides=world.settings, workers=1)
    odd = result.query("SELECT count(*) FROM verdicts WHERE (dropped_by IS NULL) <> (reason IS NULL)")
    assert odd.to_pylist() == [{"count_star()": 0}]
    assert result.rows == sum(COUNTS)


def test_shard_layout_and_workers_do_not_matter(world: World, tmp_path: Path) -> None:
    """Files cut at row groups, two processes: the same subset."""
    name = "datacomp_image_based_and_clip_l14_30"
    cut = [*world.settings, "pool.datacomp.shard_rows=100"]
    run(name, tmp_path / "run", overrides=cut, workers=2, engine="local")
    assert (tmp_path / "run" / "subset.npy").read_bytes() == wanted(world, name)


def test_scale_chooses_the_pool(world: World) -> None:
    """And the centroids of that scale."""
    pool, _, _ = load("datacomp_no_filter", world.settings)
    assert all("datacomp_small" in file for file in pool.files)


def test_fraction_counts_the_whole_pool(world: World, tmp_path: Path) -> None:
    """In the intersection too: the threshold is that of the plain score filter."""
    names = ("datacomp_clip_l14_30", "datacomp_image_based_and_clip_l14_30")
    found = [run(name, tmp_path / name, overrides=world.settings, workers=1).settled["clip_score"] for name in names]
    assert found[0]["threshold"] == found[1]["threshold"]


def test_window_is_the_difference(world: World, tmp_path: Path) -> None:
    """The top 30 % without what the top 1 % would keep."""
    column = "filters.clip_score.column=clip_b32_similarity_score"
    tops = {}
    for top in (0.3, 0.01):
        settings = [*world.settings, column, f"filters.clip_score.top={top}"]
        run("datacomp_clip_l14_30", tmp_path / f"{top}", overrides=settings, workers=1)
        tops[top] = np.load(tmp_path / f"{top}" / "subset.npy").tolist()
    run("datacomp_clip_window", tmp_path / "window", overrides=world.settings, workers=1)
    window = np.load(tmp_path / "window" / "subset.npy").tolist()
    assert sorted(window + tops[0.01]) == tops[0.3]


def test_entities_of_both_lists() -> None:
    """As many ids as ImageNet has classes and synsets."""
    assert [len(read_ids(name)) for name in ("imagenet1k", "imagenet21k")] == [1000, 21_843]
    assert TextEntities.model_fields["entities"].default == "imagenet21k"
