"""A real run of many rows, for what reads runs: the explorer, the report.

    python -m tests.benchmarks.big_run FOLDER [rows, 10,000,000]

FOLDER/pool is a list of URLs in Parquet with uids, read in place: captions in seven languages of 1 to 24 words, about
100,000 domains (few of them large), sizes, two CLIP scores as in DataComp's metadata (1 % NaN, 0.5 % null), one pair in
twenty a duplicate.  FOLDER/run has seven steps over it.  Every value is a keyed hash of its row, so that the same call
gives the same run.  10 million rows: 2.4 GB on disk, about half a CPU-minute.
"""

import binascii
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pairsieve.pipelines.run import run
from pairsieve.pipelines.runner import Result
from pairsieve.schemas import uid

FILE, SHARD = 1_000_000, 100_000
DOMAINS = 100_000
MOST_WORDS = 24
SEED = 7
LANGUAGES = {
    "en": "a the red small old photo of cat dog house tree with in on sunset kitchen river bicycle green view",
    "de": "ein das rot klein alt Foto von Katze Hund Haus Baum mit in auf Sonnenuntergang Küche Fluss Rad grün Blick",
    "es": "un la rojo pequeño viejo foto de gato perro casa árbol con en sobre ocaso cocina río bicicleta verde vista",
    "fr": "un la rouge petit vieux photo de chat chien maison arbre avec dans sur soir cuisine rivière vélo vert vue",
    "ru": "один это красный малый старый фото из кот пёс дом дерево с в на закат кухня река велосипед зелёный вид",
    "zh": "一张 这 红色 小 旧 照片 的 猫 狗 房子 树 和 在 上 日落 厨房 河 自行车 绿色 风景",
    "ar": "صورة هذه أحمر صغير قديم من قطة كلب بيت شجرة مع في على غروب مطبخ نهر دراجة أخضر منظر جميل",
}
_SHARES = np.cumsum([0.52, 0.1, 0.09, 0.08, 0.08, 0.08, 0.05])


class Draws:
    """Numbers in [0, 1) for rows, as many kinds of them as are asked for; float64[rows]."""

    def __init__(self, rows: NDArray[np.uint64]) -> None:
        """Rows by number."""
        halves = np.zeros(len(rows), uid.PAIR_DTYPE)
        halves["f1"] = rows
        self.hashes = uid.keyed_hash_of(halves, SEED)

    def bits(self, kind: int) -> NDArray[np.uint64]:
        """64 random-looking bits a row."""
        return uid.item_hash(self.hashes, np.full(len(self.hashes), kind, np.uint64))

    def uniform(self, kind: int) -> NDArray[np.float64]:
        """Between 0 and 1."""
        return uid.fractions(self.bits(kind))

    def bell(self, kind: int) -> NDArray[np.float64]:
        """About normal, with deviation 1: the sum of four."""
        total = sum((self.uniform(1000 * kind + i) for i in range(4)), np.zeros(len(self.hashes)))
        return np.asarray((total - 2) * np.sqrt(3), np.float64)


def big_run(folder: Path, rows: int) -> Result:
    """Write the pool where it is not there yet, and run the recipe over it."""
    pool = folder / "pool"
    if not pool.exists():
        partial = folder / "pool.part"
        partial.mkdir(parents=True, exist_ok=True)
        for number, start in enumerate(range(0, rows, FILE)):
            table = pairs(start, min(FILE, rows - start))
            pq.write_table(table, partial / f"{number:05d}.parquet", row_group_size=SHARD)
        partial.rename(pool)
    return run(recipe(pool), folder / "run", engine="local")


def recipe(pool: Path) -> dict[str, Any]:
    """Steps that measure, compare the pool's scores, group, and draw."""
    return {
        "pool": {"urls": {"path": str(pool), "shard_rows": SHARD}},
        "filters": [
            {"caption_words": {"least": 3, "most": 20}},
            {"where": "lang IN ('en', 'de', 'es') OR lang_probability < 0.4"},
            {"image_shape": {"shortest": 200, "aspect": 3}},
            {"exact_duplicates": {"by": [["url", "text"]], "prefer": "original_width * original_height DESC"}},
            {"clip_score": {"column": "clip_l14_similarity_score", "top": 0.4}},
            {"clip_score": {"as": "clip_b32", "column": "clip_b32_similarity_score", "min": 0.22}},
            {"random_sample": {"fraction": 0.9}},
        ],
        "output": {"subset": "subset.npy"},
    }


def pairs(start: int, count: int) -> pa.Table:
    """Rows ``start`` to ``start + count`` of the pool."""
    rows = np.arange(start, start + count, dtype=np.uint64)
    own = Draws(rows)
    copied = own.uniform(1) < 0.05
    said = Draws(np.where(copied, own.bits(2) % np.maximum(rows, 1), rows))  # a duplicate says what another row says
    language = np.searchsorted(_SHARES, said.uniform(3), side="right").clip(max=len(LANGUAGES) - 1)
    width, height = ((np.exp(6.3 + 0.6 * own.bell(kind))).clip(16, 12_000).astype(np.int32) for kind in (4, 5))
    base = own.bell(6)
    return pa.table(
        {
            "uid": _hex(np.stack([own.bits(7), own.bits(8)], axis=1)),
            "url": _urls(said),
            "text": _captions(said, language),
            "original_width": width,
            "original_height": height,
            "clip_b32_similarity_score": _scores(0.24 + 0.05 * base, own, 9),
            "clip_l14_similarity_score": _scores(0.2 + 0.04 * base + 0.03 * own.bell(10), own, 11),
            "lang": pa.DictionaryArray.from_arrays(pa.array(language, pa.int32()), list(LANGUAGES)).cast(pa.string()),
            "lang_probability": (1 - said.uniform(12) ** 3 * 0.8).astype(np.float32),
        }
    )


def _scores(values: NDArray[np.float64], draws: Draws, kind: int) -> pa.Array:
    """float32, some NaN and some null."""
    number = draws.uniform(kind)
    values[number < 0.01] = np.nan
    return pa.array(values.astype(np.float32), mask=number > 0.995)


def _hex(numbers: NDArray[np.uint64]) -> pa.Array:
    """The bytes of each row's numbers as text."""
    rows, size = len(numbers), 2 * numbers.dtype.itemsize * numbers.shape[1]
    offsets = np.arange(0, size * (rows + 1), size, dtype=np.int32)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(binascii.hexlify(numbers.tobytes())))


def _urls(draws: Draws) -> pa.Array:
    """Domains of which the n-th has about 1/n of the pairs."""
    domain = np.exp(draws.uniform(13) * np.log(DOMAINS)).astype(np.int32)
    names = pa.array([f"https://img{n % 7}.site-{n:05d}.example/" for n in range(DOMAINS + 1)])
    path = _hex(draws.bits(14)[:, None])
    return pc.binary_join_element_wise(names.take(pa.array(domain)), path, ".jpg", "")


def _captions(draws: Draws, language: NDArray[np.int64]) -> pa.Array:
    """1 to 24 words of one language."""
    words = [text.split() for text in LANGUAGES.values()]
    flat, each = pa.array([word for some in words for word in some]), len(words[0])
    length = np.exp(np.log(MOST_WORDS + 1) * draws.uniform(15) ** 0.7).astype(np.int64).clip(1, MOST_WORDS)
    said = []
    for place in range(MOST_WORDS):
        those = np.flatnonzero(length > place)
        which = np.zeros(len(length), np.int32)
        some = (draws.hashes[those] >> np.uint64(2 * place)) * np.uint64(0x9E3779B97F4A7C15 + 2 * place)
        which[those] = language[those] * each + (some >> np.uint64(40)) % np.uint64(each)
        said.append(flat.take(pa.array(which, mask=length <= place)))
    return pc.binary_join_element_wise(*said, " ", null_handling="skip")


def main() -> None:
    """Make it, and say what it cost."""
    if len(sys.argv) < 2:
        sys.exit(str(__doc__))
    rows = int(sys.argv[2].replace(",", "")) if len(sys.argv) > 2 else 10_000_000
    began = time.monotonic()
    result = big_run(Path(sys.argv[1]), rows)
    for step, reached, dropped in result.funnel:
        print(f"{step:18} {reached:>12,} {-dropped:>12,}")
    cpu = sum(os.times()[:4])
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(
        f"kept {result.kept:,} of {result.rows:,}: {time.monotonic() - began:.0f} s, {cpu:.0f} CPU-s, {peak >> 10} MiB"
    )


if __name__ == "__main__":
    main()
