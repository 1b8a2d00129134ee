"""Exports for open_clip's csv dataset: image files, and a list that pandas reads as open_clip does."""

from pathlib import Path

import open_clip
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pairsieve
from pairsieve import Csv
from pairsieve.pipelines.export_files import STRIPPED, as_title
from tests.support_exports import dataset_rows, make_run, numbered, picture, pictures

TRICKY = ["NA", "null", "nan", "None", "<NA>", "n/a", "007", "1e5", "1.50", "True", "false", "inf", "-", "", " ", "\t"]
TRICKY += [
    '"',
    '""',
    "'",
    'a "b" c',
    "a\tb",
    "a\nb",
    "a\r\nb",
    "\r",
    "#",
    "1,5",
    "1_000",
    "0x1F",
    "\ufeffx",
    "\\",
    "1\n",
]
TRICKY += [
    "#N/A",
    "#NA",
    "-1.#IND",
    "1.#QNAN",
    "-NaN",
    " NA ",
    "TRUE",
    "+1",
    "Infinity",
    "\u2028",
    "\x1a",
    "\x85",
    "١٢",
]


def titles(captions: list[str], folder: Path) -> list[str]:
    """What open_clip's CsvDataset has after reading a list of such captions."""
    import csv

    with (folder / "list.csv").open("w", newline="", encoding="utf-8") as file:
        file.write("filepath\ttitle\n")
        writer = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerows((f"{i}.jpg", as_title(text)) for i, text in enumerate(captions))
    return [str(title) for title in pd.read_csv(folder / "list.csv", sep="\t")["title"].tolist()]


texts = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(TRICKY)


@given(st.lists(texts, min_size=1, max_size=6))
@example(TRICKY)
@settings(max_examples=60)
def test_captions_survive_pandas(tmp_path_factory: pytest.TempPathFactory, captions: list[str]) -> None:
    """Every caption is there, but for null characters and a no-break space at the end of some."""
    found = titles(captions, tmp_path_factory.mktemp("csv"))
    wanted = [text.replace("\0", " ") for text in captions]
    assert [title in (text, text + STRIPPED) for title, text in zip(found, wanted, strict=True)] == [True] * len(wanted)


@pytest.mark.parametrize("caption", TRICKY)
def test_what_pandas_misreads_survives_alone(tmp_path: Path, caption: str) -> None:
    """A list of nothing but such captions is a list of texts too."""
    assert all(title in (caption, caption + STRIPPED) for title in titles([caption, caption], tmp_path))


def test_training_sees_the_same_tokens(tmp_path: Path) -> None:
    """open_clip's tokenizer strips what was added."""
    tokenize = open_clip.get_tokenizer("ViT-B-32")
    assert bool((tokenize(titles(TRICKY, tmp_path)) == tokenize(TRICKY)).all())


def test_huge_captions_survive(tmp_path: Path) -> None:
    """Megabytes in one cell."""
    text = 'so "long"\t' * 300_000
    assert titles([text, "short"], tmp_path) == [text, "short"]


def test_every_path_is_an_image_of_its_caption(tmp_path: Path) -> None:
    """Absolute paths to the bytes as they are, captions in the order of the dataset, folders of so many."""
    run = numbered(tmp_path, 50)
    found = pairsieve.export(run, tmp_path / "out", Csv(rows_per_shard=20), workers=1)
    listed = pd.read_csv(tmp_path / "out/train.csv", sep="\t")
    rows = dataset_rows(run)
    assert listed["title"].tolist() == [row["text"] for row in rows]
    assert [Path(name).read_bytes() for name in listed["filepath"]] == [row["image"] for row in rows]
    assert [Path(name).stem for name in listed["filepath"]] == [row["uid"] for row in rows]
    assert {Path(name).suffix for name in listed["filepath"]} == {".jpg", ".png", ".webp"}
    assert [one.rows for one in found.files] == [16, 17, 17]


@pytest.mark.parametrize("prefix, start", [("", "images/00000/"), ("/mnt/a b", "/mnt/a b/images/00000/")])
def test_paths_may_begin_elsewhere(tmp_path: Path, prefix: str, start: str) -> None:
    """Where training will find the folder, or relative to it."""
    pairsieve.export(numbered(tmp_path, 5), tmp_path / "out", Csv(prefix=prefix), workers=1)
    listed = pd.read_csv(tmp_path / "out/train.csv", sep="\t")
    assert all(name.startswith(start) for name in listed["filepath"])


def test_whatever_pillow_opens_is_written(tmp_path: Path) -> None:
    """GIF and BMP, which tars for open_clip cannot hold; pairs without a caption are left out and counted."""
    images = [picture(1, "GIF"), picture(2, "BMP"), picture(3), *pictures(2)]
    run = make_run(tmp_path, images, ["a", "b", None, "d", ""])
    found = pairsieve.export(run, tmp_path / "out", "csv", workers=1)
    assert found.left_out == {"no_text": 1} and found.written == 4
    endings = {path.suffix for path in (tmp_path / "out/images/00000").iterdir()}
    assert endings == {".gif", ".bmp", ".jpg", ".png"}
