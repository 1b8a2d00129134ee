"""What feeding training costs: CPU-µs a pair of PairDataset, webdataset and mosaicml-streaming, encoded and decoded.

    python -m tests.benchmarks.feed [folder] [pairs] [pairs to decode] [rounds]

Pairs are generated once into the folder: JPEGs of 224 to 272 pixels, 26 KB in the mean, in a dataset as a run writes
it, in tars as webdataset's own writer makes them (jpg, txt, json) and lean ones (USTAR, jpg and txt), and in MDS.
Every figure is of a process of its own that has imported everything and read the files once (page cache, compiled
kernels): user and system time of it and its workers over one shuffled epoch in batches of 256, the least of the
rounds, in which the ways take turns.  *Encoded* hands out bytes and texts; *decoded* opens, converts to RGB, crops at
random, resizes to 224 (bicubic, antialiased) and stacks uint8: the peers by Pillow and torchvision, as open_clip does.
``ours inside`` is webdataset with PairDataset's decoder: what is left is the reader's.  Peers are installed beside:
webdataset by ``tests/peers.txt``, the other by ``pip install --no-deps --target DIR mosaicml-streaming==0.13.0 Brotli
python-snappy cramjam zstd`` and ``PYTHONPATH=DIR``; what is not there is left out.
"""

import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch.utils.data import DataLoader

from pairsieve.pipelines.dataset import write_file
from pairsieve.pipelines.feed import PairDataset
from pairsieve.pipelines.feed_decode import DRAWS, Pictures
from pairsieve.pipelines.store import Store
from pairsieve.schemas import columns
from pairsieve.schemas.run import DatasetManifest
from tests.support_phash import encoded
from tests.support_preprocess import photo

PAIRS, TO_DECODE, ROUNDS = 20_000, 5_000, 3
BATCH, PER_FILE = 256, 5_000
Pair = tuple[str, bytes, str]
"""uid, image, text."""
WAYS = {
    "PairDataset": ("streams", True),
    "webdataset, its own tars": ("webdataset", True),
    "webdataset, lean tars": ("webdataset", True),
    "webdataset, lean tars, ours inside": ("webdataset", False),
    "mosaicml-streaming": ("streaming", True),
}
"""Each with the package it needs, and whether it has a figure for encoded images."""


def pairs(count: int) -> Iterator[Pair]:
    """Cuts of 16 pictures, each at a place of its own."""
    rng = np.random.default_rng(0)
    scenes = [photo(i, 512, 512) for i in range(16)]
    for i in range(count):
        x, y, width, height = (int(v) for v in (*rng.integers(0, 240, 2), *rng.integers(224, 272, 2)))
        data = encoded(scenes[i % 16].crop((x, y, x + width, y + height)), quality=94)
        yield f"{rng.integers(0, 2**63):016x}{i:016x}", data, f"a picture of thing number {i}, in a town by the sea"


def generate(folder: Path, count: int) -> None:
    """The same pairs in every format; a folder that is there is taken as it is."""
    if (folder / "done").exists():
        return
    made = list(pairs(count))
    write_ours(str(folder / "PairDataset"), made)
    write_tars(folder / "tars", made)
    write_lean(folder / "lean", made)
    if find_spec("streaming"):
        write_mds(folder / "mds", made)
    (folder / "done").write_text(str(sum(len(data) for _, data, _ in made) / count))


def shards(made: list[Pair]) -> Iterator[list[Pair]]:
    """Pairs of one file."""
    return (made[at : at + PER_FILE] for at in range(0, len(made), PER_FILE))


def write_ours(place: str, made: list[Pair]) -> None:
    """As a run does."""
    store, files = Store(place), []
    schema = columns.dataset({"image": pa.binary(), "text": pa.string(), "width": pa.int32(), "score": pa.float32()})
    for number, some in enumerate(shards(made)):
        uids, images, texts = zip(*some, strict=True)
        rest = {"width": pa.array([256] * len(uids), pa.int32()), "score": pa.array([0.5] * len(uids), pa.float32())}
        table = pa.table({"uid": uids, "image": pa.array(images, pa.binary()), "text": texts, **rest})
        files.append(write_file(store, f"dataset/{number:05d}.parquet", table, pa.array(range(len(uids))), schema))
    types = {field.name: str(field.type) for field in schema}
    settings: dict[str, Any] = {"version": columns.VERSION, "fingerprint": "0", "seed": 0, "columns": types}
    manifest = DatasetManifest(rows=len(made), files=tuple(files), **settings)
    store.write_json("dataset/_manifest.json", manifest.model_dump(mode="json"))


def write_tars(folder: Path, made: list[Pair]) -> None:
    """By webdataset's writer as it is."""
    if not find_spec("webdataset"):
        return
    import webdataset  # type: ignore[import-untyped]

    folder.mkdir(parents=True)
    for number, some in enumerate(shards(made)):
        with webdataset.TarWriter(str(folder / f"{number:05d}.tar")) as sink:
            for i, (uid, data, text) in enumerate(some):
                sink.write({"__key__": f"{i:06d}", "jpg": data, "txt": text, "json": {"uid": uid, "width": 256}})


def write_lean(folder: Path, made: list[Pair]) -> None:
    """USTAR, two members a pair."""
    folder.mkdir(parents=True)
    for number, some in enumerate(shards(made)):
        with tarfile.open(folder / f"{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as sink:
            for i, (_, data, text) in enumerate(some):
                for ending, content in (("jpg", data), ("txt", text.encode())):
                    info = tarfile.TarInfo(f"{i:06d}.{ending}")
                    info.size = len(content)
                    sink.addfile(info, io.BytesIO(content))


def write_mds(folder: Path, made: list[Pair]) -> None:
    """By MDSWriter as it is."""
    from streaming import MDSWriter  # type: ignore[import-not-found]

    with MDSWriter(out=str(folder), columns={"uid": "str", "image": "bytes", "text": "str"}) as sink:
        for uid, data, text in made:
            sink.write({"uid": uid, "image": data, "text": text})


# --- the ways ---


def transform() -> Callable[[bytes], torch.Tensor]:
    """open_clip's training transform to uint8, by Pillow and torchvision."""
    from torchvision.transforms import InterpolationMode, PILToTensor, RandomResizedCrop  # type: ignore[import-untyped]

    crop = RandomResizedCrop(224, scale=(0.9, 1.0), interpolation=InterpolationMode.BICUBIC)
    to_tensor = PILToTensor()
    return lambda data: to_tensor(crop(Image.open(io.BytesIO(data)).convert("RGB")))


def ours_inside() -> Callable[[bytes], torch.Tensor]:
    """PairDataset's decoder."""
    made, rng = Pictures(224), np.random.default_rng(0)

    def decode(data: bytes) -> torch.Tensor:
        found = made.picture(np.frombuffer(data, np.uint8), rng.random(DRAWS))
        assert found is not None
        return torch.from_numpy(found)

    return decode


def collate(made: list[Any], decode: Callable[[bytes], torch.Tensor] | None) -> tuple[Any, list[str]]:
    """Images and texts of a batch."""
    images, texts = zip(*made, strict=True)
    return (images if decode is None else torch.stack([decode(data) for data in images])), list(texts)


def stream(way: str, folder: Path, workers: int, is_decoded: bool) -> Callable[[], Iterable[Any]]:
    """What gives an epoch's batches."""
    if way == "PairDataset":
        data = PairDataset(folder / way, decode="exact" if is_decoded else "bytes", workers=workers)
        return lambda: data
    inside = ours_inside() if "ours" in way else transform()
    together = partial(collate, decode=inside if is_decoded else None)
    if way == "mosaicml-streaming":
        from streaming import StreamingDataset

        made = StreamingDataset(local=str(folder / "mds"), shuffle=True, batch_size=BATCH)
        take = lambda rows: together([(row["image"], row["text"]) for row in rows])  # noqa: E731 (one line)
        return lambda: DataLoader(made, BATCH, num_workers=workers, collate_fn=take)
    import webdataset

    tars = sorted(map(str, (folder / ("lean" if "lean" in way else "tars")).glob("*.tar")))
    texts = lambda pair: (pair[0], pair[1].decode())  # noqa: E731 (one line)
    steps = webdataset.WebDataset(tars, shardshuffle=True, nodesplitter=webdataset.split_by_node)
    piped = steps.shuffle(1000).to_tuple("jpg", "txt").map(texts).batched(BATCH, collation_fn=together)
    return lambda: DataLoader(piped, batch_size=None, num_workers=workers)


def used() -> float:
    """CPU-seconds of this process and those that it has waited for."""
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in found)


def rows_in(batch: Any) -> int:
    """Pairs of a batch."""
    return len(batch["uid"] if isinstance(batch, dict) else batch[1])


def one(way: str, folder: Path, workers: int, is_decoded: bool) -> dict[str, float]:
    """One epoch, after one that warms up."""
    torch.set_num_threads(1)
    epoch = stream(way, folder, workers, is_decoded)
    for _ in zip(range(3), epoch(), strict=False):
        pass
    epoch = stream(way, folder, workers, is_decoded)
    before, began = used(), time.monotonic()
    count = sum(rows_in(batch) for batch in epoch())
    return {"cpu": (used() - before) / count * 1e6, "rate": count / (time.monotonic() - began), "rows": count}


def measured(way: str, folder: Path, workers: int, is_decoded: bool) -> dict[str, float]:
    """In a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.feed", "one", way, str(folder), str(workers), str(is_decoded)]
    said = subprocess.run(
        command, capture_output=True, check=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
    found: dict[str, float] = json.loads(said.stdout.splitlines()[-1])
    return found


def table(title: str, folder: Path, is_decoded: bool, rounds: int) -> None:
    """A line for each way, and what each costs beside PairDataset."""
    there = [way for way, (package, _) in WAYS.items() if way == "PairDataset" or find_spec(package)]
    ways = [way for way in there if is_decoded or WAYS[way][1]]
    best: dict[tuple[str, int], dict[str, float]] = {}
    for _ in range(rounds):
        for workers in (0, 2):
            for way in ways:
                found = measured(way, folder, workers, is_decoded)
                best[way, workers] = min(best.get((way, workers), found), found, key=lambda one: one["cpu"])
    size = float((folder / "done").read_text())
    print(f"\n{title}: {best['PairDataset', 0]['rows']:,.0f} pairs of {size / 1000:.1f} KB; CPU-µs a pair (pairs/s)\n")
    print("| | 0 workers | | 2 workers | |\n|---|---|---|---|---|")
    for way in ways:
        cells = [
            f"{(b := best[way, w])['cpu']:,.1f} ({b['rate']:,.0f}) | ×{b['cpu'] / best[ways[0], w]['cpu']:.2f}"
            for w in (0, 2)
        ]
        print(f"| {way} | {' | '.join(cells)} |", flush=True)


def main(place: str | None = None, count: int = PAIRS, to_decode: int = TO_DECODE, rounds: int = ROUNDS) -> None:
    """Both tables."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(place or temporary)
        for name, some in (("encoded", count), ("decoded", to_decode)):
            generate(folder / name, some)
            table(name, folder / name, name == "decoded", rounds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        way, folder, workers, is_decoded = sys.argv[2:]
        print(json.dumps(one(way, Path(folder), int(workers), is_decoded == "True")))
    else:
        main(sys.argv[1] if len(sys.argv) > 1 else None, *map(int, sys.argv[2:]))
