"""What exporting costs: CPU per sample of pairsieve export, against a loop with webdataset's TarWriter, in one run.

    python -m tests.benchmarks.export [samples]

The dataset is a run's, as runs write it: images of 25.8 KiB in the mean, captions of about 70 characters.  The peer
reads the same Parquet files row group by row group with pyarrow and writes jpg and txt with ``wds.TarWriter``, once
with its defaults (a PAX header a member) and once as lean as it can (``mtime=0``, USTAR): one process, no survey, no
hashes, no resume.  pairsieve besides verifies the dataset, looks at every row first, hashes and syncs what it writes.
Processes are fresh, the page cache is warm; start-up is left out.
"""

import resource
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pairsieve.pipelines.run import run

SAMPLES = 20_000
MEAN = 26_400
OURS = """
import sys
import pairsieve
from pairsieve.pipelines import export, export_card, export_files, export_tables, export_tars
if len(sys.argv) > 3:
    pairsieve.export(sys.argv[1], sys.argv[2] + "/out", sys.argv[3], workers=1, engine="local")
"""
PEER = """
import glob, sys, tarfile
import pyarrow.parquet as pq, webdataset as wds
if len(sys.argv) > 3:
    lean = {"mtime": 0, "format": tarfile.USTAR_FORMAT} if sys.argv[3] == "lean" else {}
    sink, count = None, 0
    for path in sorted(glob.glob(sys.argv[1] + "/dataset/*.parquet")):
        with pq.ParquetFile(path, memory_map=True) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=["uid", "image", "text"], use_threads=False)
                for uid, image, text in zip(*(column.to_pylist() for column in table.columns)):
                    if count % 10_000 == 0:
                        if sink: sink.close()
                        sink = wds.TarWriter(f"{sys.argv[2]}/{count // 10_000:08d}.tar", encoder=False, **lean)
                    sink.write({"__key__": uid, "jpg": image, "txt": text.encode()})
                    count += 1
    sink.close()
"""


def main(samples: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = make_run(folder, samples)
        size = sum(path.stat().st_size for path in (made / "dataset").glob("*.parquet"))
        print(f"{samples:,} samples, {size / 1e6:,.0f} MB of Parquet")
        ways = {f"pairsieve export {kind}": (OURS, kind) for kind in ("webdataset", "csv", "hf")}
        if find_spec("webdataset") is not None:
            ways |= {"TarWriter, default": (PEER, "default"), "TarWriter, lean": (PEER, "lean")}
        for label, (script, kind) in ways.items():
            cpu, wall, written = measured(script, made, folder, kind)
            each = f"{cpu / samples * 1e6:6.1f} CPU-µs a sample  {samples / cpu:7,.0f} a CPU-second"
            print(f"{label:28} {each}  {wall:5.1f} s  {written / samples / 1024:.1f} KiB a sample")


def measured(script: str, made: Path, folder: Path, kind: str) -> tuple[float, float, int]:
    """CPU-seconds without start-up, seconds, bytes written: the least CPU of three."""
    start = min(cost(script, made, folder / "none")[0] for _ in range(3))
    found = []
    for _ in range(3):
        with tempfile.TemporaryDirectory(dir=folder) as out:
            cpu, wall = cost(script, made, Path(out), kind)
            written = sum(path.stat().st_size for path in Path(out).rglob("*") if path.is_file())
            found.append((cpu - start, wall, written))
    return min(found)


def cost(script: str, *arguments: object) -> tuple[float, float]:
    """CPU-seconds and seconds of a process."""
    before, began = used(), time.monotonic()
    subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=True)
    return used() - before, time.monotonic() - began


def used() -> float:
    """CPU-seconds of finished children."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def make_run(folder: Path, samples: int) -> Path:
    """A run that kept all of a pool of random bytes that begin like JPEGs."""
    rng = np.random.default_rng(0)
    sizes = np.maximum(500, rng.lognormal(np.log(MEAN) - 0.245, 0.7, samples)).astype(int)
    images = [b"\xff\xd8\xff" + rng.bytes(int(size)) for size in sizes]
    texts = [f"a picture of thing number {i}, in a street of a town by the sea" for i in range(samples)]
    pq.write_table(pa.table({"image": images, "text": texts}), folder / "pool.parquet", row_group_size=256)
    recipe = {"pool": {"pairs": {"path": str(folder / "pool.parquet")}}, "output": {"dataset": True}}
    run(recipe, folder / "run", engine="local")
    return folder / "run"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES)
