"""DataComp's baselines: CPU-seconds and memory of whole processes, against the same rules with the usual libraries.

    python -m tests.benchmarks.datacomp [rows]     every recipe over a generated pool (1,000,000 pairs)
    python -m tests.benchmarks.datacomp --large    score-only recipes over 1 M, 16 M and 128 M pairs (5 GB of disk)

The pool has DataComp's schema in files of 250,000 pairs (500,000 with --large); captions are made of those that
the Debian package tuxpaint-stamps-default holds in 78 languages, 59 % English, some 7 words each.  ``by hand`` is one
process of pandas-like Python with fastText, cld3, a set of words and numpy, row by row, as the original works;
its start-up is left out, as ours is in ``more``: pairs a CPU-second beyond those of a run over a fiftieth of the pool.
"""

import json
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

STAMPS = Path("/usr/share/tuxpaint/stamps")
ROWS = 1_000_000
FILE_ROWS = 250_000
RECIPES = (
    "datacomp_no_filter",
    "datacomp_clip_l14_30",
    "datacomp_basic",
    "datacomp_english",
    "datacomp_text_based",
    "datacomp_laion2b",
)
RUN = """
import sys
from pairsieve import run
result = run(sys.argv[1], sys.argv[2], overrides=sys.argv[4:], engine="local", workers=int(sys.argv[3]) or None)
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(result.kept, peak)
"""


def main(rows: int) -> None:
    """Every recipe at one size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        captions = make_captions()
        make_pool(folder / "few" / "datacomp_small" / "metadata", rows // 50, captions, FILE_ROWS // 50)
        make_pool(folder / "all" / "datacomp_small" / "metadata", rows, captions, FILE_ROWS)
        print(f"{rows:,} pairs in files of {FILE_ROWS:,}")
        print(
            f"{'recipe':<24}{'kept':>10}{'CPU-s':>8}{'pairs/CPU-s':>13}{'more':>12}{'by hand':>11}{'ratio':>7}{'MB':>7}"
        )
        for recipe in RECIPES:
            measure(folder, recipe, rows)


def measure(folder: Path, recipe: str, rows: int) -> None:
    """One line of the table."""
    pairsieve(recipe, folder / "few")  # compiles what is compiled once
    _, start, _ = pairsieve(recipe, folder / "few")
    kept, seconds, peak = pairsieve(recipe, folder / "all")
    more = (rows - rows // 50) / (seconds - start)
    hand = by_hand(folder / "all", recipe)
    print(
        f"{recipe:<24}{kept:>10,}{seconds:>8.2f}{rows / seconds:>13,.0f}{more:>12,.0f}{hand:>11,.0f}"
        f"{more / hand:>7.1f}{peak / 1e6:>7.0f}",
        flush=True,
    )


def large() -> None:
    """Score-only recipes, flat from 1 M to 128 M."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{'recipe':<24}{'pairs':>13}{'kept':>13}{'CPU-s':>9}{'pairs/CPU-s':>13}{'MB, driver + 2 workers':>24}")
        for rows in (1_000_000, 16_000_000, 128_000_000):
            make_scores(folder / "data" / "datacomp_small" / "metadata", rows)
            for recipe in ("datacomp_no_filter", "datacomp_clip_l14_30"):
                kept, seconds, peak = pairsieve(recipe, folder / "data")
                line = f"{recipe:<24}{rows:>13,}{kept:>13,}{seconds:>9.1f}{rows / seconds:>13,.0f}{peak / 1e6:>24,.0f}"
                print(line, flush=True)


def pairsieve(recipe: str, data: Path) -> tuple[int, float, int]:
    """Pairs kept, CPU-seconds and bytes at most of a run in processes of its own."""
    with tempfile.TemporaryDirectory(dir=data) as out:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-c", RUN, recipe, f"{out}/run", "0", f"data={data}"]
        said = subprocess.run([sys.executable, "-c", WATCH, *command], check=True, stdout=subprocess.PIPE, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    kept, driver, worker = map(int, said.stdout.split())
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return kept, seconds, (driver + 2 * worker) * 1024


WATCH = """
import ctypes, glob, os, subprocess, sys, threading, time
ctypes.CDLL(None).prctl(36, 1)  # orphans of the command become our children, so that their time counts
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)
peaks = {}
def look():
    while process.poll() is None:
        for path in glob.glob("/proc/[0-9]*/stat"):
            try:
                parts = open(path).read().rpartition(")")[2].split()
                lines = open(path.replace("stat", "status")).read().splitlines()
            except OSError:
                continue
            pid = int(path.split("/")[2])
            if int(parts[1]) in (process.pid, *peaks) and pid != process.pid:
                size = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
                peaks[pid] = max(peaks.get(pid, 0), size)
        time.sleep(0.2)
watcher = threading.Thread(target=look)
watcher.start()
out, _ = process.communicate()
watcher.join()
try:
    while True:
        os.wait()
except ChildProcessError:
    pass
print(out.strip(), max(peaks.values(), default=0))
sys.exit(process.returncode)
"""
"""Runs a command and waits for all its descendants; adds to what it prints their largest peak in kilobytes."""


def make_captions(count: int = 100_000) -> list[str]:
    """Captions of one to three stamps in one language, with what web captions carry."""
    rng = random.Random(0)
    by_language: dict[str, list[str]] = {}
    for path in sorted(STAMPS.rglob("*.txt")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in [f"en.utf8={lines[0]}", *lines[1:]] if lines else []:
            language, equals, text = line.partition(".utf8=")
            if equals and text.strip():
                by_language.setdefault(language, []).append(text.strip())
    others = sorted(set(by_language) - {"en"})
    found = []
    for i in range(count):
        language = "en" if rng.random() < 0.59 else rng.choice(others)
        words = " ".join(rng.choice(by_language[language]) for _ in range(rng.choice((1, 1, 2, 2, 3))))
        found.append(f"{words} {i}" if rng.random() < 0.3 else words)
    return found


def make_pool(folder: Path, rows: int, captions: Sequence[str], file_rows: int) -> None:
    """Files of DataComp's schema."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pool = pa.array(captions)
    for number, start in enumerate(range(0, rows, file_rows)):
        count = min(file_rows, rows - start)
        columns = {
            "uid": random_uids(rng, count),
            "url": pa.array([f"http://example.org/{start + i}.jpg" for i in range(count)]),
            "text": pool.take(pa.array(rng.integers(0, len(captions), count))),
            "original_width": np.exp(rng.normal(6.2, 0.8, count)).astype(np.int64),
            "original_height": np.exp(rng.normal(6.1, 0.8, count)).astype(np.int64),
            **scores(rng, count),
        }
        pq.write_table(pa.table(columns), folder / f"{number:032x}.parquet", row_group_size=count)


def make_scores(folder: Path, rows: int, file_rows: int = 500_000) -> None:
    """More files of uids and scores, until there are so many pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(len(list(folder.iterdir())), rows // file_rows):
        rng = np.random.default_rng(number)
        columns = {"uid": random_uids(rng, file_rows), **scores(rng, file_rows)}
        path = folder / f"{number:032x}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=file_rows, use_dictionary=False, compression="none")


def random_uids(rng: np.random.Generator, count: int) -> pa.Array:
    """Hex strings, without a Python object for each."""
    ends = np.arange(count + 1, dtype=np.int32) * 32
    return pa.StringArray.from_buffers(count, pa.py_buffer(ends), pa.py_buffer(rng.bytes(16 * count).hex().encode()))


def scores(rng: np.random.Generator, count: int) -> dict[str, Any]:
    """With the published quantiles: the top 30 % begins at .281 for B/32 and .243 for L/14."""
    return {
        "clip_b32_similarity_score": rng.normal(0.247, 0.065, count).astype(np.float32),
        "clip_l14_similarity_score": rng.normal(0.203, 0.076, count).astype(np.float32),
    }


def by_hand(data: Path, recipe: str) -> float:
    """Pairs a CPU-second of the rule in plain Python with its libraries, on a twentieth of the pool."""
    command = [sys.executable, "-m", "tests.benchmarks.datacomp", "--hand", recipe, str(data)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(json.loads(said))


def hand(recipe: str, data: Path) -> float:
    """What ``by_hand`` runs."""
    path = sorted((data / "datacomp_small" / "metadata").glob("*.parquet"))[0]
    test = HAND[recipe]()
    before = resource.getrusage(resource.RUSAGE_SELF)
    table = pq.read_table(path, columns=["uid", *COLUMNS[recipe]], use_threads=False)
    table = table.slice(0, 50_000 if recipe not in SCORE_ONLY else table.num_rows)
    kept = test(*(table[name].to_numpy() for name in COLUMNS[recipe]))
    uids = np.array([(int(u[:16], 16), int(u[16:], 16)) for u in table["uid"].to_numpy()[kept]], np.dtype("u8,u8"))
    uids.sort()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return float(table.num_rows) / (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


SIZES = ("original_width", "original_height")
SCORE_ONLY = ("datacomp_no_filter", "datacomp_clip_l14_30")
COLUMNS: dict[str, tuple[str, ...]] = {
    "datacomp_no_filter": ("clip_l14_similarity_score",),
    "datacomp_clip_l14_30": ("clip_l14_similarity_score",),
    "datacomp_basic": ("text", *SIZES),
    "datacomp_english": ("text",),
    "datacomp_text_based": ("text",),
    "datacomp_laion2b": ("text", "clip_b32_similarity_score"),
}
Test = Callable[..., Any]


def _english() -> Callable[[str], bool]:
    import fasttext

    from tests.support_baselines import packaged_model

    model = fasttext.load_model(str(packaged_model()))
    return lambda text: model.predict(text.replace("\n", " "))[0][0] == "__label__en"


def _only_english() -> Test:
    english = _english()
    return lambda text: np.array([english(t) for t in text])


def _basic() -> Test:
    english = _english()

    def keep(text: Any, width: Any, height: Any) -> Any:
        is_english = np.array([english(t) for t in text])
        is_long = np.array([len(t.split()) > 2 and len(t) > 5 for t in text])
        short, long = np.minimum(width, height), np.maximum(width, height)
        return is_english & is_long & (short >= 200) & (long / np.maximum(short, 1) <= 3.0)

    return keep


def _text_based() -> Test:
    """With a set of entities and nltk's rule, as a set makes the original 4 to 7 times faster."""
    english = _english()
    from tempfile import mkdtemp

    from pairsieve.filters.text_entities import read_ids
    from tests.support_wordnet import first_offset, nltk_reader

    reader, ids = nltk_reader(Path(mkdtemp())), read_ids("imagenet21k")
    return lambda text: np.array([english(t) and any(first_offset(reader, w) in ids for w in t.split()) for t in text])


def _laion() -> Test:
    import gcld3

    model = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=1000)

    def keep(text: Any, score: Any) -> Any:
        is_english = [model.FindLanguage(t.replace("\n", " ")).language == "en" for t in text]
        return np.array(is_english) & (score >= np.float32(0.28))

    return keep


HAND: dict[str, Callable[[], Test]] = {
    "datacomp_no_filter": lambda: lambda score: np.ones(len(score), np.bool_),
    "datacomp_clip_l14_30": lambda: lambda score: score >= np.sort(score)[::-1][int(len(score) * 0.3)],
    "datacomp_basic": _basic,
    "datacomp_english": _only_english,
    "datacomp_text_based": _text_based,
    "datacomp_laion2b": _laion,
}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--hand"]:
        print(json.dumps(hand(sys.argv[2], Path(sys.argv[3]))))
    elif sys.argv[1:2] == ["--large"]:
        large()
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
