"""What resharding costs: CPU per image read and kept, against webdataset's reader and writer, and plain tarfile.

    python -m tests.benchmarks.reshard [samples]

The pool is what img2dataset leaves: tars of 10,000 samples (jpg, json, txt; a PAX header a member), images of
25.8 KiB in the mean.  The peer makes the calls of DataComp's resharder, one process, no shuffle: webdataset reads
and groups every sample, the json is parsed for its uid, two binary searches in the mapped subset, webdataset
writes.  It needs ``pip install --no-deps webdataset==0.2.86 braceexpand``; without it that line is left out.
tarfile is the floor: reads every member, looks up uids in a set, writes USTAR.  pairsieve besides shuffles,
spills, hashes input and output and syncs.  Processes are fresh, the page cache is warm; start-up stands by itself.
"""

import io
import json
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SAMPLES = 20_000
ROWS = 10_000
MEAN = 26_400
PAIR = np.dtype("u8,u8")

PEER = """
import glob, json, sys
import numpy as np, webdataset as wds
from webdataset.tariterators import url_opener, tar_file_expander, group_by_keys
subset, pool, out = np.load(sys.argv[1], mmap_mode="r"), sorted(glob.glob(sys.argv[2] + "/*.tar")), sys.argv[3]
sink, count = None, 0
for sample in group_by_keys(tar_file_expander(url_opener({"url": url} for url in pool))):
    uid = json.loads(sample["json"])["uid"]
    key = np.array([divmod(int(uid, 16), 2**64)], np.dtype("u8,u8"))[0]
    for j in range(np.searchsorted(subset, key, "right") - np.searchsorted(subset, key, "left")):
        if count % 10_000 == 0:
            if sink: sink.close()
            sink = wds.TarWriter(f"{out}/{count // 10_000:08d}.tar")
        sink.write({**sample, "__key__": f"{uid}-{j}"})
        count += 1
sink.close()
"""
FLOOR = """
import glob, io, json, sys, tarfile
import numpy as np
wanted = {f"{int(a):016x}{int(b):016x}" for a, b in np.load(sys.argv[1]).tolist()}
sink = tarfile.open(sys.argv[3] + "/00000.tar", "w", format=tarfile.USTAR_FORMAT)
for path in sorted(glob.glob(sys.argv[2] + "/*.tar")):
    with tarfile.open(path) as file:
        held = {}
        for member in file:
            held[member.name.partition(".")[2]] = file.extractfile(member).read()
            if len(held) == 3:
                uid = json.loads(held["json"])["uid"]
                if uid in wanted:
                    for ending, content in held.items():
                        info = tarfile.TarInfo(f"{uid}-0.{ending}")
                        info.size = len(content)
                        sink.addfile(info, io.BytesIO(content))
                held = {}
sink.close()
"""
OURS = """
import sys
from pairsieve.pipelines.reshard import reshard
reshard(sys.argv[1], sys.argv[2], sys.argv[3] + "/out", workers=1, engine="local", format=sys.argv[4])
"""
IDLE = "import pairsieve.pipelines.reshard, pairsieve.pipelines.reshard_write, duckdb"


def main(samples: int) -> None:
    """Print the tables."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        uids = make_pool(folder / "pool", samples)
        size = sum(path.stat().st_size for path in (folder / "pool").glob("*.tar"))
        start = cost([sys.executable, "-c", IDLE])[0]
        print(f"{samples:,} samples, {size / 1e6:,.0f} MB of tars; start-up of pairsieve {start:.2f} CPU-s, left out")
        for share in (0.11, 0.5, 1.0):
            kept = np.sort(uids[np.random.default_rng(1).random(samples) < share])
            np.save(folder / "subset.npy", kept)
            print(f"\nkept {len(kept):,} ({len(kept) / samples:.0%})")
            compare(folder, samples, size, start)


def compare(folder: Path, samples: int, size: int, start: float) -> None:
    """One line for each way."""
    ways = {"pairsieve, tar": (OURS, "tar"), "pairsieve, parquet": (OURS, "parquet"), "tarfile": (FLOOR, "")}
    if find_spec("webdataset") is not None:
        ways["webdataset 0.2.86"] = (PEER, "")
    ours = 0.0
    for name, (script, kind) in ways.items():
        with tempfile.TemporaryDirectory(dir=folder) as out:
            command = [sys.executable, "-c", script, str(folder / "subset.npy"), str(folder / "pool"), out, kind]
            cpu, wall = cost(command)
        cpu -= start if script is OURS else cost([sys.executable, "-c", imports(script)])[0]
        ours = ours or cpu
        each, rate = cpu / samples * 1e6, size / 1e6 / cpu
        print(f"{name:20} {each:6.1f} CPU-µs an image read  {rate:6.0f} MB/CPU-s  {wall:5.1f} s  ×{cpu / ours:.2f}")


def imports(script: str) -> str:
    """What a script only loads."""
    return "\n".join(line for line in script.splitlines() if line.startswith(("import ", "from ")))


def cost(command: list[str]) -> tuple[float, float]:
    """CPU-seconds and seconds of a process: the least CPU of three runs."""
    return min(_once(command) for _ in range(3))


def _once(command: list[str]) -> tuple[float, float]:
    for path in Path(command[-2]).glob("*") if len(command) > 4 else ():
        subprocess.run(["rm", "-rf", str(path)], check=True)
    before, began = used(), time.monotonic()
    subprocess.run(command, check=True)
    return used() - before, time.monotonic() - began


def used() -> float:
    """CPU-seconds of finished children."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def make_pool(folder: Path, samples: int) -> NDArray[np.void]:
    """Tars with random images; gives the uids as records."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    halves = rng.integers(0, 2**64, (samples, 2), np.uint64)
    sizes = np.maximum(500, rng.lognormal(np.log(MEAN) - 0.245, 0.7, samples)).astype(int)
    for start in range(0, samples, ROWS):
        with tarfile.open(folder / f"{start // ROWS:08d}.tar", "w") as file:
            for i in range(start, min(start + ROWS, samples)):
                add(file, f"{i // ROWS:05d}{i % ROWS:04d}", members(halves[i], rng.bytes(int(sizes[i])), i))
    return np.ascontiguousarray(halves).view(PAIR).ravel()


def members(half: NDArray[np.uint64], image: bytes, number: int) -> dict[str, bytes]:
    """A sample with a json of img2dataset's fields."""
    text = f"a picture of thing number {number}, in a street of a town by the sea"
    told = {
        "uid": f"{half[0]:016x}{half[1]:016x}",
        "face_bboxes": [[0.1, 0.2, 0.3, 0.4]],
        "caption": text,
        "url": f"https://images.example.org/2019/05/{number}/picture-of-a-thing.jpg",
        "key": f"{number:09d}",
        "status": "success",
        "error_message": None,
        "width": 512,
        "height": 384,
        "original_width": 1024,
        "original_height": 768,
        "exif": "{}",
        "sha256": "0" * 64,
    }
    return {"jpg": image, "json": json.dumps(told, indent=4).encode(), "txt": text.encode()}


def add(file: tarfile.TarFile, key: str, sample: dict[str, bytes]) -> None:
    """As webdataset does: a float time, and so a PAX header."""
    for ending, content in sample.items():
        info = tarfile.TarInfo(f"{key}.{ending}")
        info.size, info.mtime = len(content), 1700000000.25
        file.addfile(info, io.BytesIO(content))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES)
