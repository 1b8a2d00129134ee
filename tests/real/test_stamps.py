"""Whole runs over real images and captions, both engines, against what the package's files say by themselves.

Nothing here is made up: 796 photographs and drawings, nearly all with alpha, and captions that people
wrote in 78 languages.  What a run claims is computed a second time, from the files, by other means.
"""

import csv
import hashlib
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result

pytestmark = pytest.mark.real

Pixels = npt.NDArray[np.uint8]
Engine = Literal["local", "ray"]

LANGUAGES = ("en", "en_GB", "ar", "de", "el", "he", "hi", "ja", "ka", "ko", "ml", "ru", "th")
"""Eleven scripts; British English mostly repeats the English caption, so there are duplicates."""
SCRIPTS = (
    "LATIN",
    "ARABIC",
    "GREEK",
    "HEBREW",
    "DEVANAGARI",
    "HIRAGANA",
    "GEORGIAN",
    "HANGUL",
    "MALAYALAM",
    "CYRILLIC",
    "THAI",
)
"""As Unicode names them."""
LOOPBACK = ["127.0.0.1/32"]
SHARD_ROWS = 2000
IMAGE_SIZE = 128
LEAST_WORDS, MOST_WORDS = 2, 8
SHORTEST, ASPECT = 64, 3.0
BYTES = ("pairs", "scores", "verdicts", "derived", "dataset", "subset.npy")
"""What must be the same, byte for byte, whatever engine made it."""


@dataclass(frozen=True)
class Pair:
    """One candidate, as read from the package: its image's path, its URL, caption and language."""

    path: Path
    url: str
    text: str | None
    language: str | None

    @property
    def uid(self) -> str:
        """SHA-256 over the length of the URL, the URL and the text, halved."""
        key = f"{len(self.url.encode())}:{self.url}{self.text or ''}"
        return hashlib.sha256(key.encode()).hexdigest()[:32]


Verdict = tuple[str | None, str | None]
Runs = Mapping[Engine, Result]


def captions(file: Path) -> Iterator[tuple[str, str]]:
    """(language, caption) of a caption file: English in the first line, then ``xx.utf8=caption``."""
    first, *others = file.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    yield "en", first
    for line in others:
        language, _, text = line.partition(".utf8=")
        yield language, text


def pairs_of(base: str, folder: Path, images: Sequence[Path], languages: Sequence[str] | None = None) -> list[Pair]:
    """Pairs in image order; an image without a caption file is a pair without a caption."""
    found = []
    for image in images:
        url, file = f"{base}/{quote(str(image))}", (folder / image).with_suffix(".txt")
        if not file.exists():
            found.append(Pair(folder / image, url, None, None))
            continue
        found += [
            Pair(folder / image, url, text, language)
            for language, text in captions(file)
            if languages is None or language in languages
        ]
    return found


def write_csv(pairs: Sequence[Pair], path: Path) -> Path:
    """A URL list as most people have it."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("url", "text", "language"))
        writer.writerows((pair.url, pair.text, pair.language) for pair in pairs)
    return path


def write_parquet(pairs: Sequence[Pair], path: Path) -> Path:
    """The same list as Parquet."""
    columns = {name: [getattr(pair, name) for pair in pairs] for name in ("url", "text", "language")}
    pq.write_table(pa.table(columns), path)
    return path


def digests(root: Path) -> dict[str, str]:
    """SHA-256 of every output file of a run that must not depend on how it was made."""
    files = [file for name in BYTES for file in sorted([root / name, *(root / name).rglob("*")]) if file.is_file()]
    return {str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def verdicts(result: Result) -> list[Verdict]:
    """(dropped_by, reason) of every candidate in the order of the list."""
    table = result.query("SELECT dropped_by, reason FROM verdicts ORDER BY shard, row")
    return list(zip(table["dropped_by"].to_pylist(), table["reason"].to_pylist(), strict=True))


def word_verdict(text: str | None) -> str | None:
    """Why ``caption_words`` should drop a caption, or None."""
    if text is None:
        return "null_text"
    words = len(text.split())
    return "too_few_words" if words < LEAST_WORDS else "too_many_words" if words > MOST_WORDS else None


def shape_verdict(size: tuple[int, int]) -> str | None:
    """Why ``image_shape`` should drop an image, or None."""
    short, long = sorted(size)
    return "too_small" if short < SHORTEST else "too_narrow" if long > ASPECT * short else None


def losers(survivors: Sequence[tuple[int, Pair]], key: Callable[[Pair], object]) -> set[int]:
    """Places of pairs that share a key with one of a smaller uid (then: an earlier one)."""
    best: dict[object, tuple[str, int]] = {}
    for place, pair in survivors:
        rank = (pair.uid, place)
        best[key(pair)] = min(best.get(key(pair), rank), rank)
    return {place for place, pair in survivors if best[key(pair)][1] != place}


def on_white(path: Path) -> Pixels:
    """The image as Pillow composites it on white."""
    with Image.open(path) as opened:
        picture = opened.convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB"))


def overlaps(source: int, target: int) -> npt.NDArray[np.float64]:
    """target × source weights: the share of each target pixel that lies on each source pixel."""
    edges = np.arange(target + 1) * (source / target)
    low, high = edges[:-1, None], edges[1:, None]
    cells = np.arange(source)[None, :]
    shared = np.clip(np.minimum(high, cells + 1) - np.maximum(low, cells), 0, None)
    return np.asarray(shared / shared.sum(axis=1, keepdims=True), np.float64)


def reduced(pixels: Pixels, width: int, height: int) -> npt.NDArray[np.float64]:
    """Each target pixel is the mean of the area it covers, by the definition."""
    rows, cols = overlaps(pixels.shape[0], height), overlaps(pixels.shape[1], width)
    return np.asarray(np.einsum("yi,ijc,xj->yxc", rows, pixels.astype(np.float64), cols, optimize=True), np.float64)


def decoded(data: bytes) -> Image.Image:
    """An output image."""
    image = Image.open(BytesIO(data))
    image.load()
    return image


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Likeness of two images in dB."""
    error = np.mean((np.asarray(one, np.float64) - np.asarray(other, np.float64)) ** 2)
    return float(10 * np.log10(255**2 / max(float(error), 1e-9)))


def recipe(path: Path, filters: list[dict[str, Any]], **pool: Any) -> dict[str, Any]:
    """A recipe over a URL list, with the standard outputs in small files."""
    output = {"dataset": {"rows_per_file": 1000}, "subset": "subset.npy"}
    return {"pool": {"urls": {"path": str(path), **pool}}, "filters": filters, "output": output}


# --- the pool of 13 languages, run by both engines ---


@pytest.fixture(scope="module")
def pairs(stamp_server: str, stamp_folder: Path, stamp_images: list[Path]) -> list[Pair]:
    """Every image with its captions in thirteen languages."""
    return pairs_of(stamp_server, stamp_folder, stamp_images, LANGUAGES)


@pytest.fixture(scope="module")
def files(pairs: list[Pair]) -> dict[Path, str]:
    """SHA-256 of every image file."""
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in {pair.path for pair in pairs}}


@pytest.fixture(scope="module")
def sizes(pairs: list[Pair]) -> dict[Path, tuple[int, int]]:
    """Width and height of every image file, by Pillow."""
    found = {}
    for path in {pair.path for pair in pairs}:
        with Image.open(path) as image:
            found[path] = image.size
    return found


@pytest.fixture(scope="module")
def runs(
    pairs: list[Pair], stamp_requests: Counter[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Runs, Mapping[Engine, Counter[str]]]:
    """The recipe run by each engine, with the requests that each made."""
    folder = tmp_path_factory.mktemp("stamps")
    lossless = {"encode_format": "png", "encode_quality": 1}
    filters: list[dict[str, Any]] = [
        {"caption_words": {"least": LEAST_WORDS, "most": MOST_WORDS}},
        {"download": {"image_size": IMAGE_SIZE, **lossless, "allow_addresses": LOOPBACK}},
        {"image_shape": {"shortest": SHORTEST, "aspect": ASPECT}},
        {"exact_duplicates": {"by": [["sha256", "text"]]}},
    ]
    made = recipe(write_csv(pairs, folder / "list.csv"), filters, shard_rows=SHARD_ROWS)
    results: dict[Engine, Result] = {}
    asked: dict[Engine, Counter[str]] = {}
    engines: tuple[Engine, ...] = ("local", "ray")
    for engine in engines:
        before = stamp_requests.copy()
        results[engine] = run(made, folder / engine, engine=engine, workers=2)
        asked[engine] = stamp_requests - before
    return results, asked


@pytest.fixture(scope="module")
def local(runs: tuple[Runs, object]) -> Result:
    """The run of the local engine; the other's bytes are the same."""
    return runs[0]["local"]


@pytest.fixture(scope="module")
def expected(pairs: list[Pair], files: dict[Path, str], sizes: dict[Path, tuple[int, int]]) -> list[Verdict]:
    """The verdict of every pair, computed from the package's files."""
    found: list[Verdict] = []
    for pair in pairs:
        words, shape = word_verdict(pair.text), shape_verdict(sizes[pair.path])
        found.append(("caption_words", words) if words else ("image_shape", shape) if shape else (None, None))
    survivors = [(i, pair) for i, pair in enumerate(pairs) if found[i] == (None, None)]
    for place in losers(survivors, lambda pair: (files[pair.path], pair.text)):
        found[place] = ("exact_duplicates", "same_sha256_text")
    return found


@pytest.fixture(scope="module")
def outcome(local: Result) -> pa.Table:
    """The dataset with its images."""
    return local.query("SELECT * FROM dataset")


def test_every_caption_is_a_candidate(local: Result, stamp_folder: Path, stamp_images: list[Path]) -> None:
    """The pool has as many candidates as a search of the caption files for these languages finds lines."""
    wanted = re.compile(rb"^(?:%s)\.utf8=" % "|".join(LANGUAGES[1:]).encode(), re.MULTILINE)
    files = [(stamp_folder / image).with_suffix(".txt") for image in stamp_images]
    lines = [len(wanted.findall(file.read_bytes())) + 1 if file.exists() else 1 for file in files]
    assert local.rows == sum(lines)


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_every_candidate_has_one_verdict(runs: tuple[Runs, object], pairs: list[Pair], engine: Engine) -> None:
    """The uids of the verdicts, in the order of the list, are those of the pairs: none is missing or twice."""
    table = runs[0][engine].query("SELECT uid FROM verdicts ORDER BY shard, row")
    assert table["uid"].to_pylist() == [pair.uid for pair in pairs]


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_the_books_balance(runs: tuple[Runs, object], pairs: list[Pair], engine: Engine) -> None:
    """Kept and dropped pairs are the pool, in the tally and step by step in the funnel."""
    result = runs[0][engine]
    lost = sum(dropped for _, _, dropped in result.funnel)
    assert result.kept + sum(result.tally.dropped.values()) == result.kept + lost == len(pairs)


def test_engines_write_the_same_bytes(runs: tuple[Runs, object]) -> None:
    """Every file of pairs, scores, verdicts, groups, dataset and subset is the same from both engines."""
    ours, theirs = (digests(Path(result.root)) for result in runs[0].values())
    assert ours == theirs


def test_all_kinds_of_output_are_compared(local: Result) -> None:
    """The comparison of bytes leaves out no kind of output."""
    seen = Counter(name.split("/")[0] for name in digests(Path(local.root)))
    assert seen.keys() == set(BYTES)


def test_verdicts_follow_from_the_files(local: Result, expected: list[Verdict]) -> None:
    """Step and reason of every pair are those computed from its caption, Pillow's size and the file's hash."""
    assert verdicts(local) == expected


def test_every_reason_occurs(expected: list[Verdict]) -> None:
    """The real pool has pairs for every reason that this recipe can give, and many that stay."""
    seen = Counter(reason for _, reason in expected)
    reasons = {"null_text", "too_few_words", "too_many_words", "too_small", "too_narrow", "same_sha256_text", None}
    assert seen.keys() == reasons and seen[None] > 1000


def test_an_image_is_fetched_once_per_shard(
    runs: tuple[Runs, Mapping[Engine, Counter[str]]], pairs: list[Pair]
) -> None:
    """However many captions an image has, each shard that needs it asks for it once."""
    needed = {(i // SHARD_ROWS, p.url) for i, p in enumerate(pairs) if word_verdict(p.text) is None}
    assert {engine: asked.total() for engine, asked in runs[1].items()} == dict.fromkeys(runs[1], len(needed))


def test_measured_facts_are_those_of_the_files(
    local: Result, files: dict[Path, str], sizes: dict[Path, tuple[int, int]], pairs: list[Pair]
) -> None:
    """Hash and original size of every image fetched are those of the file on the disk."""
    paths = {pair.url: pair.path for pair in pairs}
    table = local.query("SELECT DISTINCT url, sha256, original_width, original_height FROM scores WHERE sha256 <> ''")
    wrong = [
        row
        for row in table.to_pylist()
        if (row["sha256"], (row["original_width"], row["original_height"]))
        != (files[paths[row["url"]]], sizes[paths[row["url"]]])
    ]
    assert table.num_rows > 700 and not wrong


def test_captions_survive_byte_for_byte(outcome: pa.Table, pairs: list[Pair], expected: list[Verdict]) -> None:
    """The (url, caption, language) rows of the dataset are the kept pairs', spaces and joiners included."""
    kept = [(p.url, p.text, p.language) for p, v in zip(pairs, expected, strict=True) if v == (None, None)]
    rows = zip(*(outcome[name].to_pylist() for name in ("url", "text", "language")), strict=True)
    assert Counter(rows) == Counter(kept)


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_reaches_the_dataset(outcome: pa.Table, script: str) -> None:
    """Captions in this script come out; what survives byte for byte is not English alone."""
    assert any(unicodedata.name(sign, "").startswith(script) for text in outcome["text"].to_pylist() for sign in text)


def test_awkward_captions_are_among_them(outcome: pa.Table) -> None:
    """Among the captions that come out are those that break careless code."""
    texts = outcome["text"].to_pylist()
    found = {
        "quote": any('"' in text for text in texts),
        "comma": any("," in text for text in texts),
        "outer space": any(text != text.strip() for text in texts),
        "no-break space": any("\N{NO-BREAK SPACE}" in text for text in texts),
        "zero-width joiner": any("\N{ZERO WIDTH JOINER}" in text for text in texts),
        "not normalised": any(not unicodedata.is_normalized("NFC", text) for text in texts),
    }
    assert all(found.values()), found


def test_subset_is_the_dataset(local: Result, outcome: pa.Table) -> None:
    """subset.npy holds the uids of the dataset, each once, in ascending order."""
    subset = np.load(Path(local.root) / "subset.npy")
    uids = [f"{int(high):016x}{int(low):016x}" for high, low in subset.tolist()]
    assert subset.dtype == np.dtype("u8,u8") and uids == sorted(set(outcome["uid"].to_pylist()))


def test_output_sizes_follow_the_rule(outcome: pa.Table, pairs: list[Pair], sizes: dict[Path, tuple[int, int]]) -> None:
    """An image larger than the setting has it as its longer side and keeps its shape to half a pixel; others stay."""
    originals = {pair.url: sizes[pair.path] for pair in pairs}
    wrong = []
    for row in outcome.select(["url", "image", "width", "height"]).to_pylist():
        original, size = originals[row["url"]], decoded(row["image"]).size
        scale = min(1, IMAGE_SIZE / max(original))
        exact = all(abs(side * scale - out) <= 0.5 for side, out in zip(original, size, strict=True))
        if size != (row["width"], row["height"]) or not exact or max(size) > IMAGE_SIZE:
            wrong.append((row["url"], original, size))
    assert not wrong


def test_stored_images_are_opaque(outcome: pa.Table) -> None:
    """No image that comes out has alpha or a palette."""
    assert {decoded(image).mode for image in outcome["image"].to_pylist()} <= {"RGB", "L"}


def kind_of(path: Path) -> str:
    """Colour mode of a file, and whether a transparent colour is named beside it."""
    with Image.open(path) as image:
        return image.mode + ("+tRNS" if "transparency" in image.info else "")


@pytest.fixture(scope="module")
def sample(outcome: pa.Table, pairs: list[Pair]) -> dict[Path, bytes]:
    """Output images by their source: up to 30 of each colour mode, spread over the list."""
    paths = {pair.url: pair.path for pair in pairs}
    images = {paths[row["url"]]: row["image"] for row in outcome.select(["url", "image"]).to_pylist()}
    kinds: dict[str, list[Path]] = {}
    for path in sorted(images):
        kinds.setdefault(kind_of(path), []).append(path)
    return {path: images[path] for found in kinds.values() for path in found[:: -(-len(found) // 30)]}


def test_sample_has_every_kind_of_alpha(sample: dict[Path, bytes]) -> None:
    """The images compared have alpha beside colour, beside grey and in palettes, and number at least 60."""
    assert {"RGBA", "LA", "P+tRNS"} <= {kind_of(path) for path in sample} and len(sample) >= 60


def test_images_are_composited_on_white_and_area_averaged(sample: dict[Path, bytes]) -> None:
    """Every pixel is within one level of Pillow's composite on white, averaged over the area that it covers."""
    worst = {}
    for path, data in sample.items():
        image = decoded(data).convert("RGB")
        wanted = reduced(on_white(path), *image.size)
        worst[path.name] = float(np.abs(np.asarray(image, np.float64) - wanted).max())
    assert {name: error for name, error in worst.items() if error > 1.01} == {}


# --- English only, padded JPEG, one pair for each file ---


@pytest.fixture(scope="module")
def english(stamp_server: str, stamp_folder: Path, stamp_images: list[Path]) -> list[Pair]:
    """Every captioned image with its English caption."""
    return [pair for pair in pairs_of(stamp_server, stamp_folder, stamp_images, ("en",)) if pair.text is not None]


@pytest.fixture(scope="module")
def squares(english: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run that pads to squares of 96, writes JPEG, and keeps one pair for each image file."""
    folder = tmp_path_factory.mktemp("squares")
    download = {"image_size": 96, "resize_mode": "border", "resize_only_if_bigger": False}
    filters: list[dict[str, Any]] = [
        {"download": {**download, "allow_addresses": LOOPBACK}},
        {"exact_duplicates": {"by": "sha256"}},
    ]
    made = recipe(write_parquet(english, folder / "list.parquet"), filters, shard_rows=400)
    return run(made, folder / "out", engine="local", workers=2)


def test_one_pair_stays_for_each_image_file(squares: Result, english: list[Pair], files: dict[Path, str]) -> None:
    """Among pairs whose files have the same SHA-256 the one of the smallest uid stays, as the files tell."""
    lost = losers(list(enumerate(english)), lambda pair: files[pair.path])
    assert {i for i, verdict in enumerate(verdicts(squares)) if verdict[0]} == lost != set()


def test_padded_jpegs_show_the_image_on_white(squares: Result, english: list[Pair]) -> None:
    """A reduced image lies centred on a white square: Pillow's JPEG of the same settings is within 40 dB of it."""
    paths = {pair.url: pair.path for pair in english}
    table = squares.query("SELECT url, image FROM dataset WHERE least(original_width, original_height) >= 96")
    found = {}
    for row in sorted(table.to_pylist(), key=lambda row: str(row["url"]))[::8]:
        pixels = on_white(paths[row["url"]])
        height, width = (round(side * 96 / max(pixels.shape)) for side in pixels.shape[:2])
        top, left = (96 - height) // 2, (96 - width) // 2
        square = np.full((96, 96, 3), 255, np.uint8)
        square[top : top + height, left : left + width] = reduced(pixels, width, height).round()
        # drawings of pure red on white lose 10 dB and more to JPEG's half-size colours: compare JPEG with JPEG
        buffer = BytesIO()
        Image.fromarray(square).save(buffer, "JPEG", quality=95, subsampling="4:2:0")
        found[row["url"]] = psnr(decoded(row["image"]).convert("RGB"), decoded(buffer.getvalue()))
    assert len(found) >= 40 and min(found.values()) > 40


# --- every language, without images ---

DISTANT = ("am", "gu", "iu", "km", "ml", "ta")
"""Languages that the whole list leaves out."""


@pytest.fixture(scope="module")
def everything(stamp_server: str, stamp_folder: Path, stamp_images: list[Path]) -> list[Pair]:
    """Every image with its captions in all languages."""
    return pairs_of(stamp_server, stamp_folder, stamp_images)


@pytest.fixture(scope="module")
def texts(
    everything: list[Pair], stamp_requests: Counter[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Result, float, int]:
    """A run over the whole list that decides by metadata alone, its seconds, and the requests that it made."""
    folder = tmp_path_factory.mktemp("texts")
    left_out = ", ".join(f"'{language}'" for language in DISTANT)
    filters: list[dict[str, Any]] = [
        {"where": f"language NOT IN ({left_out})"},
        {"caption_words": {"least": LEAST_WORDS, "most": MOST_WORDS}},
        {"exact_duplicates": {"by": "text"}},
    ]
    made = recipe(write_parquet(everything, folder / "list.parquet"), filters)
    requests, start = stamp_requests.total(), time.monotonic()
    result = run(made, folder / "out", engine="local", workers=2)
    return result, time.monotonic() - start, stamp_requests.total() - requests


def test_the_whole_list_is_the_package(
    texts: tuple[Result, float, int], stamp_folder: Path, stamp_images: list[Path]
) -> None:
    """The candidates are as many as the caption files have lines, and one for each image without such a file."""
    files = [(stamp_folder / image).with_suffix(".txt") for image in stamp_images]
    lines = [sum(map(bool, f.read_bytes().splitlines())) if f.exists() else 1 for f in files]
    assert texts[0].rows == sum(lines) > 50_000


def test_verdicts_of_the_whole_list(texts: tuple[Result, float, int], everything: list[Pair]) -> None:
    """Every one of 50,000 verdicts is the one that plain Python gives: language, words, equal captions."""
    found: list[Verdict] = []
    for pair in everything:
        if pair.language is None or pair.language in DISTANT:
            found.append(("where", "null" if pair.language is None else "false"))
        else:
            words = word_verdict(pair.text)
            found.append(("caption_words", words) if words else (None, None))
    survivors = [(i, pair) for i, pair in enumerate(everything) if found[i] == (None, None)]
    for place in losers(survivors, lambda pair: pair.text):
        found[place] = ("exact_duplicates", "same_text")
    assert verdicts(texts[0]) == found


def test_words_are_counted_as_python_does(texts: tuple[Result, float, int]) -> None:
    """The word count of every caption in every script is that of ``str.split``."""
    table = texts[0].query("SELECT text, caption_words FROM scores WHERE caption_words IS NOT NULL")
    counts = zip(table["text"].to_pylist(), table["caption_words"].to_pylist(), strict=True)
    assert {text: count for text, count in counts if count != len(text.split())} == {}


def test_metadata_filters_fetch_nothing(texts: tuple[Result, float, int]) -> None:
    """A recipe without ``download`` asks the server for nothing."""
    assert texts[2] == 0


def test_metadata_filters_are_quick(texts: tuple[Result, float, int]) -> None:
    """The whole list takes less than 30 seconds on two busy cores (about 4 where nothing else runs)."""
    assert texts[1] < 30


# --- thresholds ---


@dataclass(frozen=True)
class Loosened:
    """A run whose recipe was edited, a fresh run of the edited recipe, and the requests of the second start."""

    edited: Result
    fresh: Result
    requests: int


@pytest.fixture(scope="module")
def loosened(english: list[Pair], stamp_requests: Counter[str], tmp_path_factory: pytest.TempPathFactory) -> Loosened:
    """The first 200 English pairs, at first with a least of four words and a side of 100, then of two and 40."""
    folder = tmp_path_factory.mktemp("loosened")
    path = write_csv(english[:200], folder / "list.csv")

    def start(words: int, shortest: int, out: str) -> Result:
        filters: list[dict[str, Any]] = [
            {"caption_words": {"least": words}},
            {"download": {"image_size": 64, "allow_addresses": LOOPBACK}},
            {"image_shape": {"shortest": shortest}},
        ]
        return run(recipe(path, filters, shard_rows=60), folder / out, engine="local", workers=1)

    start(4, 100, "edited")
    before = stamp_requests.total()
    edited = start(2, 40, "edited")
    requests = stamp_requests.total() - before
    return Loosened(edited, start(2, 40, "fresh"), requests)


def test_an_edited_recipe_fetches_only_what_is_new(loosened: Loosened, english: list[Pair]) -> None:
    """After looser thresholds the server is asked for the images of captions of two and three words alone."""
    words = [len(pair.text.split()) for pair in english[:200] if pair.text is not None]
    assert loosened.requests == sum(2 <= count < 4 for count in words) > 0


def test_an_edited_recipe_ends_like_a_fresh_run(loosened: Loosened) -> None:
    """Verdicts, dataset and subset are, byte for byte, those of a run that never knew the tighter thresholds."""
    edited, fresh = (
        {name: digest for name, digest in digests(Path(result.root)).items() if not name.startswith("scores")}
        for result in (loosened.edited, loosened.fresh)
    )
    assert edited == fresh


# --- addresses ---


def test_loopback_is_refused_unless_allowed(english: list[Pair], stamp_requests: Counter[str], tmp_path: Path) -> None:
    """Without ``allow_addresses`` every pair of a server on loopback is dropped as private, and none is asked for."""
    before = stamp_requests.total()
    made = recipe(write_csv(english[:20], tmp_path / "list.csv"), [{"download": {"image_size": 64}}])
    result = run(made, tmp_path / "out", engine="local", workers=1)
    assert verdicts(result) == [("download", "private_address")] * 20 and stamp_requests.total() == before
