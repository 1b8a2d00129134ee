"""Perceptual hashes beside ImageHash, and near hashes linked by the engine: CPU time of one run.

    python -m tests.benchmarks.phash [pictures] [hashes]

The first part hashes JPEGs and checks that bits are ImageHash's.  The second plants neighbours among random
hashes, links them by several sorts of keys and says how many of the planted pairs end in one cluster.
"""

import sys
import time
from collections.abc import Callable
from itertools import combinations
from typing import Any

import imagehash
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from pairsieve.filters import _hamming, _links, _phash
from pairsieve.filters._images import decode
from pairsieve.filters._phash_pictures import drafted, small
from pairsieve.filters.near_duplicate_image import NearDuplicateImage
from tests.support_clusters import Work, linked
from tests.support_phash import encoded, planted, scene

Flags = NDArray[np.bool_]


def timed(name: str, count: int, work: Callable[[], Any]) -> Any:
    """What the work gives; prints the least CPU time of three runs."""
    took = []
    for _ in range(3):
        began = time.process_time()
        found = work()
        took.append(time.process_time() - began)
    print(f"  {name:52} {min(took) / count * 1e6:10.2f} µs")
    return found


def hashing(count: int) -> None:
    """Microseconds a picture of each part."""
    files = [encoded(scene(seed, 512, 512), quality=85) for seed in range(count)]
    print(f"{count} JPEGs of 512×512, {sum(map(len, files)) // count:,} bytes each; a picture:")
    full = timed("decode in full (upright, sRGB)", count, lambda: [decode(data) for data in files])
    for bits in (64, 256):
        print(f" {bits} bits")
        _hashing(files, [Image.fromarray(pixels) for pixels in full], bits)


def _hashing(files: list[bytes], pictures: list[Image.Image], bits: int) -> None:
    side, count = _phash.side(bits), len(files)
    timed("decode small and grey", count, lambda: [drafted(data, side) for data in files])
    timed("… and resize", count, lambda: [small(data, side, True) for data in files])
    grey = np.array([small(data, side, False) for data in files] * (1 + 2048 // count))
    found, _ = timed("hash of a batch", len(grey), lambda: _phash.hashes(grey))
    timed("hash of a batch, mirrored", len(grey), lambda: _phash.hashes(grey, mirrored=True))
    batch, made = pa.record_batch({"image": pa.array(files, pa.binary())}), NearDuplicateImage(bits=bits)
    timed("the filter: bytes to hash and keys", count, lambda: made.score(batch))
    size = int(bits**0.5)
    peers = timed(
        "imagehash.phash of decoded pictures", count, lambda: [imagehash.phash(one, size) for one in pictures]
    )
    equal = sum(bytes(row).hex() == str(peer) for row, peer in zip(found, peers, strict=False))
    print(f"  bits equal ImageHash's: {equal} of {count}")


def worked(made: NearDuplicateImage, hashes: NDArray[np.uint8], masks: Flags) -> Work:
    """Hashes with their keys."""
    keys = _hamming.keys(_hamming.words(hashes), masks)
    columns = [pa.array(np.ascontiguousarray(column)) for column in keys.T]
    return Work(made, columns, {"phash": pa.array(list(map(bytes, hashes)), pa.binary(hashes.shape[1]))})


def choices(bits: int, blocks: int, taken: int) -> Flags:
    """Masks that take some of the blocks, every choice of them: exact up to ``blocks - taken``."""
    dealt = np.arange(bits) % blocks
    return np.array([np.isin(dealt, some) for some in combinations(range(blocks), taken)])


def linking(count: int) -> None:
    """CPU-seconds and recall of each sort of keys."""
    _links.flatten(np.arange(1))  # compiled, or loaded, here
    sorts: list[tuple[int, int, str, Flags]] = [
        (64, 4, "5 blocks", choices(64, 5, 1)),
        (64, 4, "6 blocks, each 2 of them", choices(64, 6, 2)),
        (64, 4, "7 blocks, each 3 of them", choices(64, 7, 3)),
        (64, 4, "covering (ours)", _hamming.masks(64, 4)),
        (256, 14, "covering (ours)", _hamming.masks(256, 14)),
        (256, 31, "three times 12 blocks (ours)", _hamming.masks(256, 31)),
    ]
    print(f"{count:,} random hashes, a fifth of them near another")
    for bits, radius, name, masks in sorts:
        hashes, of = planted(count, bits, radius, seed=1)
        order = np.random.default_rng(2).permutation(count)
        work = worked(NearDuplicateImage(bits=bits, radius=radius), hashes, masks)
        began = time.process_time()
        parent = linked(work, order)
        took = time.process_time() - began
        root = np.empty(count, np.int64)
        root[order] = parent
        near = np.flatnonzero(of >= 0)
        found = (root[near] == root[of[near]]).mean()
        lost = count - len(np.unique(parent))
        print(
            f"  {bits:3} bits within {radius:2}: {name:28} {len(masks):2} keys of {masks.sum(axis=1).min():2} bits"
            f" {took:7.2f} CPU-s   found {found:.4%}, {lost:,} go"
        )


def main(pictures: int, hashes: int) -> None:
    """Both parts."""
    hashing(pictures)
    linking(hashes)


if __name__ == "__main__":
    main(*map(int, (*sys.argv[1:], *("200", "200000")[len(sys.argv) - 1 :])))
