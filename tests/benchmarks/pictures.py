"""What an image costs once its bytes are there: decoded, resized, encoded, against img2dataset's Resizer, in one run.

    python -m tests.benchmarks.pictures [images]

img2dataset's resizer.py is loaded alone, as in tests/filters/test_resize_peer.py (pip install --no-deps -r
tests/peers.txt).  Sources are JPEGs (quality 88) of pictures like photos, the shortest side becomes 256, quality 95.
The ways take turns image by image in one thread; CPU-ms are the mean over images of the least of three rounds, and the
quality that of the stored pictures against img2dataset's, decoded.
"""

import os
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2

from pairsieve.filters import _area
from pairsieve.filters._images import decode, decode_image
from pairsieve.filters._resize import Resizer
from tests.support_pictures import jpeg, natural, psnr

IMAGES, ROUNDS = 24, 3
SIZES = ((640, 480), (1000, 750), (1600, 1200), (4000, 3000))


def main(images: int) -> None:
    """Print the table."""
    cv2.setNumThreads(1)
    _area.prepare()
    peer = _peer()
    for width, height in SIZES:
        some = max(4, images * 640 * 480 // (width * height))
        files = [jpeg(natural(width, height, seed)) for seed in range(some)]
        print(f"{width}×{height}, {sum(map(len, files)) / len(files) / 1000:.0f} KB in the mean, {some} images")
        ways = {"img2dataset": partial(_theirs, peer), "exact": partial(_ours, True), "default": partial(_ours, False)}
        each = [{name: _least(way, file) for name, way in ways.items()} for file in files]  # by turns
        costs = {name: [one[name] for one in each] for name in ways}
        stored = {name: [decode(way(file)) for file in files] for name, way in ways.items()}
        for name, found in costs.items():
            cost, theirs = sum(found) / some, sum(costs["img2dataset"]) / some
            quality = min(psnr(a, b) for a, b in zip(stored[name], stored["img2dataset"], strict=True))
            print(f"  {name:12} {cost:6.2f} CPU-ms  {cost / theirs:.2f}x  {quality:.1f} dB at least")


def _least(way: Callable[[bytes], bytes], file: bytes) -> float:
    """CPU-ms of one image."""
    found = []
    for _ in range(ROUNDS):
        began = time.process_time_ns()
        way(file)
        found.append(time.process_time_ns() - began)
    return min(found) / 1e6


def _ours(exact: bool, file: bytes) -> bytes:
    resizer = Resizer(256, "keep_ratio", exact=exact)
    return resizer.store(file, decode_image(file, wanted=resizer.reduced)).data


def _theirs(peer: Any, file: bytes) -> bytes:
    stored, *_, error = peer(BytesIO(file))
    assert error is None
    return bytes(stored)


def _peer() -> Any:
    """The Resizer of the installed img2dataset."""
    package = find_spec("img2dataset")
    assert package and package.submodule_search_locations, "pip install --no-deps -r tests/peers.txt"
    spec = spec_from_file_location("peer_resizer", Path(package.submodule_search_locations[0]) / "resizer.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask PyPI for its newest version
    warnings.simplefilter("ignore")
    spec.loader.exec_module(module)
    return module.Resizer(256, "keep_ratio", False)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)
