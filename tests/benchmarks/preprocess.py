"""An image's bytes to a model's pixels: CPU time on one core beside open_clip's transform, and the drift of scores.

    python -m tests.benchmarks.preprocess [files] [pairs]

Prints two Markdown tables.  Times are CPU-microseconds an image (one thread; the least of each file's rounds, in which
the ways take turns), from the file's bytes to uint8 pixels, and to float32 where said.  Drift compares with open_clip's
transform: pixels; the largest change of a cosine; the spread of changes over the spread of scores; and how much of the
kept set of the top 30 % is replaced.  ViT-B-32 has random weights (no network): its scores are of images against 64
random directions.
"""

import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import cv2
import numpy as np
import open_clip
import torch
import torchvision  # type: ignore[import-untyped]
from numpy.typing import NDArray
from open_clip.transform import image_transform
from PIL import Image
from torchvision.transforms.v2 import functional as v2  # type: ignore[import-untyped]

from pairsieve.filters import _preprocess
from pairsieve.filters._preprocess import Pixels, Preprocess, normalised, pixels
from pairsieve.pipelines.demo_pool import PlantedPair, build_pool
from pairsieve.pipelines.demo_replies import image_bytes
from pairsieve.pipelines.demo_world import encode, render
from tests.support_phash import encoded
from tests.support_preprocess import photo, wants

Way = Callable[[bytes, Preprocess], Any]
ROUNDS = 10
DIRECTIONS = 64
MODEL = wants((224, 224))
TRANSFORM = image_transform(224, is_train=False)
BICUBIC = v2.InterpolationMode.BICUBIC


def of_open_clip(data: bytes, _: Preprocess) -> Any:
    """The tensor of open_clip's own transform."""
    return TRANSFORM(Image.open(io.BytesIO(data)))


def exact(data: bytes, wanted: Preprocess) -> Pixels:
    """``fast=False``."""
    return _one(pixels(data, [wanted], fast=False))


def fast(data: bytes, wanted: Preprocess) -> Pixels:
    """``fast=True``."""
    return _one(pixels(data, [wanted], fast=True))


def fast_floats(data: bytes, wanted: Preprocess) -> Any:
    """``fast=True``, normalised on the CPU."""
    return normalised(torch.from_numpy(fast(data, wanted)[None]), wanted, torch.float32)


def torchvisions(data: bytes, wanted: Preprocess) -> Pixels:
    """torchvision's decoder and antialiased resizing of bytes; square models only."""
    side = wanted.size[0]
    file = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
    decoded = torchvision.io.decode_image(file, torchvision.io.ImageReadMode.RGB)
    resized = v2.resize(decoded, [side], interpolation=BICUBIC, antialias=True)
    return np.asarray(v2.center_crop(resized, [side, side]).numpy())


def opencvs(data: bytes, wanted: Preprocess) -> Pixels:
    """OpenCV's decoder and area resizing: another filter."""
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    decoded = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), flags))
    high, wide = wanted.size
    width, height = wanted.resized(decoded.shape[1], decoded.shape[0])
    resized = cv2.resize(decoded, (width, height), interpolation=cv2.INTER_AREA)
    top, left = round((height - high) / 2), round((width - wide) / 2)
    return np.asarray(resized[top : top + high, left : left + wide].transpose(2, 0, 1))


def with_spare(spare: float) -> Way:
    """``fast``, where JPEGs decoded small keep so many times the pixels."""

    def way(data: bytes, wanted: Preprocess) -> Pixels:
        before, _preprocess.SPARE = _preprocess.SPARE, spare
        try:
            return fast(data, wanted)
        finally:
            _preprocess.SPARE = before

    return way


def _one(found: list[Pixels] | str) -> Pixels:
    assert not isinstance(found, str), found
    return found[0]


WAYS: dict[str, Way] = {
    "open_clip's transform (float32)": of_open_clip,
    "exact": exact,
    "torchvision uint8": torchvisions,
    "OpenCV, area": opencvs,
    "fast": fast,
    "fast, float32": fast_floats,
}


def kinds(count: int) -> Iterator[tuple[str, list[bytes]]]:
    """Files to time."""
    for width, height in ((512, 512), (640, 480), (1600, 1200), (4000, 3000)):
        few = max(3, count * 512 * 512 // (width * height))
        yield f"JPEG {width}×{height}", [encoded(photo(i, width, height), quality=90) for i in range(few)]
    yield "JPEG 512×512 progressive", [encoded(photo(i, 512, 512), quality=90, progressive=True) for i in range(count)]
    yield "PNG 512×512", [encoded(photo(i, 512, 512), "PNG") for i in range(count)]
    yield "WebP 512×512", [encoded(photo(i, 512, 512), "WEBP", quality=80) for i in range(count)]


def timed(files: Sequence[bytes]) -> list[float]:
    """CPU-microseconds a file of each way: the least of each file's rounds, the ways taking turns."""
    best = np.full((len(WAYS), len(files)), np.inf)
    for _ in range(ROUNDS):
        for row, way in zip(best, WAYS.values(), strict=True):
            way(files[-1], MODEL)  # a worker does one thing: memory and caches are its own
            for place, data in enumerate(files):
                began = time.process_time_ns()
                way(data, MODEL)
                row[place] = min(row[place], time.process_time_ns() - began)
    return [float(row.mean() / 1000) for row in best]


def speed(count: int) -> None:
    """The first table."""
    print(f"| file (KB) | {' | '.join(WAYS)} | open_clip / exact | / fast | / fast, float32 |")
    print("|---" * (len(WAYS) + 4) + "|")
    for name, files in kinds(count):
        took = timed(files)
        ratios = " | ".join(f"{took[0] / took[place]:.2f}×" for place in (1, -2, -1))
        size = sum(map(len, files)) / len(files) / 1024
        print(f"| {name} ({size:.0f}) | {' | '.join(f'{t:,.0f}' for t in took)} | {ratios} |", flush=True)


@dataclass
class Drift:
    """Sums of what a way changes."""

    differing: float = 0.0
    sum_: float = 0.0
    most: int = 0
    samples: int = 0

    def add(self, true: Pixels, other: Pixels) -> None:
        """Another picture."""
        gaps = np.abs(true.astype(np.int16) - other)
        self.differing += int(np.count_nonzero(gaps))
        self.sum_ += int(gaps.sum())
        self.most = max(self.most, int(gaps.max()))
        self.samples += gaps.size


@dataclass(frozen=True)
class Judge:
    """A model, and the texts that images are scored against: one each (``paired``), or directions that all are."""

    paired: bool
    model: Any
    wanted: Preprocess
    texts: torch.Tensor

    def scores(self, pictures: Sequence[Pixels]) -> NDArray[np.float64]:
        """Cosines, float64[n, 1 or directions]."""
        parts = [self._images(pictures[at : at + 32]) for at in range(0, len(pictures), 32)]
        images = torch.cat(parts)
        products = (images * self.texts).sum(-1, keepdim=True) if self.paired else images @ self.texts.T
        return np.asarray(products.double())

    def _images(self, pictures: Sequence[Pixels]) -> torch.Tensor:
        with torch.inference_mode():
            batch = normalised(torch.from_numpy(np.stack(pictures)), self.wanted, torch.float32)
            return torch.nn.functional.normalize(self.model.encode_image(batch), dim=-1)


def demo_judge(pairs: Sequence[PlantedPair]) -> Judge:
    """The packaged model, which knows the demo's world, and the pairs' captions."""
    name = f"local-dir:{resources.files('pairsieve') / 'demo-clip'}"
    model = open_clip.create_model(name).eval()
    with torch.inference_mode():
        tokens = open_clip.get_tokenizer(name)([pair.text or "" for pair in pairs])
        texts = torch.nn.functional.normalize(model.encode_text(tokens), dim=-1)
    return Judge(True, model, Preprocess.of(model), texts)


def random_judge() -> Judge:
    """ViT-B-32 of random weights, and random directions."""
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32", pretrained=None).eval()
    texts = torch.nn.functional.normalize(torch.randn(DIRECTIONS, 512), dim=-1)
    return Judge(False, model, Preprocess.of(model), texts)


def enlarged(pair: PlantedPair) -> bytes:
    """The pair's scene four times as large."""
    scene = replace(pair.scene, width=4 * pair.scene.width, height=4 * pair.scene.height)
    return encode(render(scene), "JPEG", 90)


def replaced(true: NDArray[np.float64], other: NDArray[np.float64], share: float = 0.3) -> float:
    """Share of the kept set that is another, a mean over directions."""
    kept = max(1, round(share * len(true)))
    first, second = (np.argsort(-scores, axis=0, kind="stable")[:kept] for scores in (true, other))
    return float(np.mean([1 - np.isin(b, a).mean() for a, b in zip(first.T, second.T, strict=True)]))


def drift(title: str, files: Iterator[bytes], judge: Judge, ways: dict[str, Way]) -> None:
    """Rows of the second table."""
    true: list[Pixels] = []
    made: dict[str, list[Pixels]] = {name: [] for name in ways}
    sums = {name: Drift() for name in ways}
    for data in files:
        true.append(exact(data, judge.wanted))
        for name, way in ways.items():
            made[name].append(way(data, judge.wanted))
            sums[name].add(true[-1], made[name][-1])
    scores = judge.scores(true)
    for name, found in sums.items():
        other = judge.scores(made[name]) if found.most else scores
        spread = float(((other - scores).std(axis=0) / scores.std(axis=0)).mean())
        cells = [
            f"{found.differing / found.samples:.2%}",
            f"{found.sum_ / found.samples:.3f}",
            str(found.most),
            f"{np.abs(other - scores).max():.5f}",
            f"{spread:.4f}",
            f"{replaced(scores, other):.2%}",
        ]
        print(f"| {title} | {name} | {' | '.join(cells)} |", flush=True)


def drifts(count: int) -> None:
    """The second table."""
    print("\n| images, model | way | values that differ | mean | most | score, most | spread | top 30 % replaced |")
    print("|---" * 8 + "|")
    pairs = build_pool().members(None)[:count]
    judge, spares = demo_judge(pairs), {f"fast, spare {spare}": with_spare(spare) for spare in (1.0, 3.0, 4.0)}
    peers: dict[str, Way] = {"torchvision uint8": torchvisions, "OpenCV, area": opencvs}
    drift("demo, demo model", map(image_bytes, pairs), judge, {"fast": fast, **peers})
    drift("demo enlarged 4×, demo model", map(enlarged, pairs), judge, {"fast": fast, **spares, **peers})
    for width, height in ((640, 480), (1600, 1200)):
        files = (encoded(photo(i, width, height), quality=90) for i in range(count))
        drift(f"photo-like {width}×{height}, ViT-B-32", files, random_judge(), {"fast": fast, **spares, **peers})


def main(files: int, pairs: int) -> None:
    """Both tables."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    speed(files)
    if pairs:
        drifts(pairs)


if __name__ == "__main__":
    main(*map(int, (*sys.argv[1:], *("20", "500")[len(sys.argv) - 1 :])))
