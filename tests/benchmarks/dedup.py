"""Near duplicates of captions: signatures, and whole deduplications, against datasketch, rensa and sorting.

    python -m tests.benchmarks.dedup [--rows 1000000] [--peer-rows 200000] [--shingles words] [--only ours,run]

Captions are synthetic: 10 to 20 words with Zipf's frequencies (exponent 1.05, 60,000 words, some accented or Chinese);
a fifth are copies of originals, some of which have very many: equal (20 %), in another case and with a mark (10 %),
with one (30 %), two (20 %) or three (10 %) words exchanged, left out or put in, or cut off (10 %).  Every contender is
a fresh process and gets captions that are normal already, so that all compare the same sets; ``run`` is the command,
from Parquet to verdicts, start-up included, and ``parts`` the same with clusters found in parts, as where they do not
fit into one process.  CPU-seconds are user and system, without imports and reading for all but
these; MB is the largest resident size.  From some millions of rows on a worker scores, whose CPU ``run`` and ``parts``
do not see: read the machine's own counters then.

``sorted`` has our keys and questions, and links by sorting each band.  Of peers datasketch has its own optimal
bands; rensa has 16.  Truth are all pairs at the threshold, found through their rarest words or shingles.
``left``: rows that should have gone with their cluster; ``false``: rows that went without being like any other.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pairsieve.filters._minhash import MinHash
from pairsieve.filters._normal_text import normal_texts
from pairsieve.filters.near_duplicate_text import KEY, NearDuplicateText
from tests.support_captions import captions
from tests.support_clusters import Work, linked

Ids = npt.NDArray[np.int64]
BATCH = 65_536
SIGNED = 20_000
"""Captions that peers make signatures of, and ten times as many for us."""
TRUE_ROWS = {"words": 200_000, "characters": 50_000}
"""Most rows whose true pairs are sought."""


def main() -> None:
    """Captions, signatures, then each contender."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--rows", type=int, default=1_000_000)
    asked.add_argument("--peer-rows", type=int, default=200_000)
    asked.add_argument("--shingles", choices=["words", "characters"], default="words")
    asked.add_argument("--only", default="signatures,ours,sorted,rensa,rensa-greedy,datasketch,run,parts")
    asked.add_argument("--child")
    asked.add_argument("--folder")
    chosen = asked.parse_args()
    if chosen.child:
        child(chosen.child, Path(chosen.folder), chosen.shingles)
        return
    names = chosen.only.split(",")
    made = NearDuplicateText(shingles=chosen.shingles)
    print(f"{chosen.shingles} of {made.units}, threshold {made.least}, {made.banding[0]} bands of {made.banding[1]}")
    with TemporaryDirectory() as name:
        if "signatures" in names:
            said(Path(name), "signatures", min(chosen.rows, 10 * SIGNED), chosen.shingles)
        for contender in [one for one in names if one != "signatures"]:
            peer = contender not in ("ours", "sorted", "run", "parts")
            sizes = {min(chosen.rows, chosen.peer_rows), chosen.rows} - ({chosen.rows} if peer else set())
            for rows in sorted(sizes or {min(chosen.rows, chosen.peer_rows)}):
                said(Path(name), contender, rows, chosen.shingles)


def said(folder: Path, contender: str, rows: int, shingles: str) -> None:
    """Let a fresh process do it, and print what it took and what it found."""
    pool = folder / f"{rows}"
    if not pool.exists():
        pool.mkdir()
        write(pool / "pool.parquet", rows)
    if contender in ("run", "parts"):
        print(f"{contender:<12} {rows:>10,}  {command(pool, rows, shingles, contender == 'parts')}", flush=True)
        return
    asked = ["--child", contender, "--folder", str(pool), "--shingles", shingles]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.dedup", *asked], check=True, capture_output=True, text=True
    )
    print(f"{contender:<12} {rows:>10,}  " + done.stdout.strip().replace("\n", "\n" + " " * 25), flush=True)


# --- captions ---


def write(path: Path, rows: int) -> None:
    """Captions as they come, normal ones beside them, and urls."""
    with pq.ParquetWriter(path, pa.schema({"url": pa.string(), "text": pa.string(), "normal": pa.string()})) as out:
        done = 0
        for texts in captions(rows):
            normal = normal_texts(pa.array(texts)).strings()
            urls = [f"http://e.org/{i}" for i in range(done, done + len(texts))]
            out.write_table(pa.table({"url": urls, "text": texts, "normal": normal}))
            done += len(texts)


# --- contenders: each gives the row that every row's cluster keeps ---


def ours(texts: pa.Array, made: NearDuplicateText) -> Ids:
    """Keys, then the engine's own linking."""
    keys, lengths = scored(texts, made)
    starts, columns = np.cumsum(lengths) - lengths, []
    for place in range(int(lengths.max())):
        has = lengths > place
        columns.append(pa.array(keys[np.minimum(starts + place, len(keys) - 1)], mask=~has))
    return linked(Work(made, columns, {"text": texts}), np.arange(len(texts)))


def by_sorting(texts: pa.Array, made: NearDuplicateText) -> Ids:
    """The same links from sorted bands: every row of a run is linked with the first and the one before it."""
    from pairsieve.filters._links import Compared, flatten, unite

    keys, lengths = scored(texts, made)
    starts, parent, before = np.cumsum(lengths) - lengths, np.arange(len(texts)), -1
    asked, column, active = Compared(), pa.record_batch({"text": texts}), np.arange(len(texts))
    while before != len(active):
        before = len(active)
        for place in range(int(lengths.max())):
            ids = active[lengths[active] > place]
            one, other = by_runs(keys[starts[ids] + place], ids, parent)
            is_new = asked.new(one, other)
            one, other = one[is_new], other[is_new]
            for k in range(0, len(one), BATCH):
                a, b = one[k : k + BATCH], other[k : k + BATCH]
                alike = made.alike(column.take(pa.array(a)), column.take(pa.array(b)))
                unite(parent, a[alike], b[alike])
            flatten(parent)
        active = np.flatnonzero(parent == np.arange(len(texts)))
    return parent


def by_runs(values: npt.NDArray[np.uint64], ids: Ids, parent: Ids) -> tuple[Ids, Ids]:
    """Links between rows of equal values that are not in one cluster yet."""
    order = np.argsort(values, kind="stable")
    row, is_first = ids[order], np.diff(values[order], prepend=~values[order[:1]]) != 0
    best = np.repeat(row[is_first], np.diff(np.flatnonzero(is_first), append=len(order)))
    before = np.where(is_first, row, np.roll(row, 1))
    one, other = np.concatenate([best, before[before != best]]), np.concatenate([row, row[before != best]])
    is_new = parent[one] != parent[other]
    return one[is_new], other[is_new]


def scored(texts: pa.Array, made: NearDuplicateText) -> tuple[npt.NDArray[np.uint64], Ids]:
    """All keys one behind the other, and how many each text has."""
    batches = (pa.record_batch({"text": texts.slice(k, BATCH)}) for k in range(0, len(texts), BATCH))
    found = [made.score(batch)[KEY] for batch in batches]
    lengths = [part.value_lengths().fill_null(0).to_numpy(zero_copy_only=False) for part in found]
    return np.concatenate([part.flatten().to_numpy() for part in found]), np.concatenate(lengths).astype(np.int64)


def by_datasketch(texts: pa.Array, made: NearDuplicateText) -> Ids:
    """``MinHash.bulk``, ``MinHashLSH`` as it is, and union-find."""
    import xxhash
    from datasketch import MinHash as Theirs
    from datasketch import MinHashLSH

    tokens = shingled(texts, made, encoded=True)
    signatures = Theirs.bulk(tokens, num_perm=made.num_perm, hashfunc=xxhash.xxh32_intdigest)
    index = MinHashLSH(threshold=made.least, num_perm=made.num_perm)
    for row, signature in enumerate(signatures):
        index.insert(row, signature, check_duplication=False)
    return united(len(texts), ((row, other) for row, own in enumerate(signatures) for other in index.query(own)))


def by_rensa(texts: pa.Array, made: NearDuplicateText) -> Ids:
    """``RMinHash`` and ``RMinHashLSH``, and union-find."""
    from rensa import RMinHash, RMinHashLSH

    signatures = RMinHash.from_token_sets(shingled(texts, made), made.num_perm, 1)
    index = RMinHashLSH(made.least, made.num_perm, 16)
    index.insert_many(signatures)
    found = index.query_all(signatures)
    return united(len(texts), ((row, other) for row, others in enumerate(found) for other in others))


def by_rensa_greedily(texts: pa.Array, made: NearDuplicateText) -> Ids:
    """``RMinHashDeduplicator``: a row goes where one before it that stays is like it; who that is it does not say."""
    from rensa import RMinHashDeduplicator

    judge = RMinHashDeduplicator(threshold=made.least, num_perm=made.num_perm, use_lsh=True, num_bands=16)
    stays = judge.add_pairs((str(row), own) for row, own in enumerate(shingled(texts, made)))
    return np.where(stays, np.arange(len(texts)), -1)


def shingled(texts: pa.Array, made: NearDuplicateText, encoded: bool = False) -> list[list[Any]]:
    """Each caption's shingles."""
    n = made.units
    rows: Iterable[list[str]] = (
        text.split() if made.shingles == "words" else [text[i : i + n] for i in range(max(1, len(text) - n + 1))]
        for text in texts.to_pylist()
    )
    return [[one.encode() for one in row] for row in rows] if encoded else list(rows)


def united(rows: int, pairs: Iterable[tuple[int, int]]) -> Ids:
    """Clusters of linked rows."""
    parent = list(range(rows))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for one, other in pairs:
        a, b = root(one), root(other)
        parent[max(a, b)] = min(a, b)
    return np.array([root(row) for row in range(rows)])


CONTENDERS: dict[str, Callable[[pa.Array, NearDuplicateText], Ids]] = {
    "ours": ours,
    "sorted": by_sorting,
    "datasketch": by_datasketch,
    "rensa": by_rensa,
    "rensa-greedy": by_rensa_greedily,
}


# --- what it took, and what it found ---


def child(contender: str, folder: Path, shingles: Any) -> None:
    """In a process of its own."""
    texts = pq.read_table(folder / "pool.parquet", columns=["normal"])["normal"].combine_chunks()
    made = NearDuplicateText(shingles=shingles)
    made.open()
    if contender == "signatures":
        signatures(texts, made)
        return
    base, began = peak(), time.process_time()
    root = CONTENDERS[contender](texts, made)
    took, most = time.process_time() - began, peak()
    went = int((root != np.arange(len(root))).sum())
    print(figures(len(texts), took, most), f"({base:,.0f} before) {went:>8,} went", end="")
    if len(texts) <= TRUE_ROWS[made.shingles]:
        print(judged(root, folder, texts, made), end="")


def judged(root: Ids, folder: Path, texts: pa.Array, made: NearDuplicateText) -> str:
    """How many rows should have gone and did not, and how many went that should have stayed."""
    kept = folder / f"truth.{made.shingles}.npy"
    if not kept.exists():
        np.save(kept, truth(texts, made))
    pairs = np.load(kept)
    cluster = united(len(texts), pairs.tolist())
    _, sizes = np.unique(cluster, return_counts=True)
    should = int((sizes - 1).sum())
    went = root != np.arange(len(texts))
    has_near = np.zeros(len(texts), bool)
    has_near[pairs.reshape(-1)] = True
    _, of_cluster = np.unique(cluster, return_inverse=True)
    stay = np.bincount(of_cluster, weights=~went)
    left = int(np.maximum(stay - 1, 0).sum())
    return f", of {should:,}: {left:,} left ({left / should:.2%}), {int((went & ~has_near).sum()):,} false"


def truth(texts: pa.Array, made: NearDuplicateText) -> Ids:
    """All pairs at the threshold: they share one of so many rarest shingles (prefix filter), and are compared."""
    own = [sorted(set(row)) for row in shingled(texts, made)]
    number: dict[str, int] = {}
    flat = np.array([number.setdefault(one, len(number)) for row in own for one in row])
    sizes = np.array([len(row) for row in own])
    rank = np.empty(len(number), np.int64)
    rank[np.argsort(np.bincount(flat), kind="stable")] = np.arange(len(number))
    holders: dict[int, list[int]] = defaultdict(list)
    found: set[int] = set()
    for row, (first, last) in enumerate(pairwise(np.cumsum([0, *sizes]).tolist())):
        rarest = np.sort(rank[flat[first:last]])[: last - first - int(np.ceil(made.least * (last - first) - 1e-9)) + 1]
        for shingle in rarest.tolist():
            found.update(
                row * len(own) + other
                for other in holders[shingle]
                if sizes[other] >= made.least * sizes[row] - 1e-9 and sizes[row] >= made.least * sizes[other] - 1e-9
            )
            holders[shingle].append(row)
    pairs = np.stack(np.divmod(np.fromiter(found, np.int64, len(found)), len(own)), 1)
    column, parts = pa.record_batch({"text": texts}), np.array_split(pairs, len(pairs) // BATCH + 1)
    alike = [made.alike(*(column.take(pa.array(part[:, end])) for end in (0, 1))) for part in parts]
    return pairs[np.concatenate(alike)]


def signatures(texts: pa.Array, made: NearDuplicateText) -> None:
    """Signatures a CPU-second, of peers from shingles that are there, of ours from the bytes of captions."""
    import hashlib

    import xxhash
    from datasketch import MinHash as Theirs
    from rensa import RMinHash

    few = texts.slice(0, SIGNED)
    tokens, encoded = shingled(few, made), shingled(few, made, encoded=True)
    hashes = {
        "xxh32": xxhash.xxh32_intdigest,
        "sha1": lambda data: int.from_bytes(hashlib.sha1(data).digest()[:4], "little"),
    }
    rensa = rate(lambda: RMinHash.digest_matrix_from_token_sets(tokens, made.num_perm, 1), SIGNED)
    print(f"rensa, token sets {rensa:,.0f} a CPU-s")
    normal = normal_texts(texts)
    for name, function in hashes.items():
        theirs = rate(lambda f=function: Theirs.bulk(encoded, num_perm=made.num_perm, hashfunc=f), SIGNED, 2)  # type: ignore[misc]
        maker = MinHash(made.shingles, made.units, made.num_perm, name, 1)  # type: ignore[arg-type]
        own = rate(lambda m=maker: m.signatures(normal), len(texts))  # type: ignore[misc]
        whole = rate(lambda m=maker: m.signatures(normal_texts(texts)), len(texts))  # type: ignore[misc]
        print(
            f"{name:<6} datasketch bulk {theirs:,.0f}, ours {own:,.0f} ({own / theirs:.0f} ×), {own / rensa:.1f} rensa;"
            f" with making captions normal {whole:,.0f}"
        )


def rate(what: Callable[[], object], rows: int, times: int = 5) -> float:
    """Rows a CPU-second, the best of some times."""
    took = []
    for _ in range(times):
        began = time.process_time()
        what()
        took.append(time.process_time() - began)
    return rows / min(took)


def command(folder: Path, rows: int, shingles: str, in_parts: bool) -> str:
    """The whole command, in a process of its own: CPU of it and its children, the largest of them."""
    recipe = {
        "pool": {"urls": {"path": str(folder / "pool.parquet"), "shard_rows": 500_000}},
        "filters": [{"near_duplicate_text": {"shingles": shingles}}],
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    code = (
        "import json, resource, sys\nfrom pathlib import Path\nfrom pairsieve.pipelines.run import run\n"
        "from pairsieve.pipelines import groups\n"
        "groups.CLUSTERS_SHARE = float(sys.argv[3])\n"
        "made = json.loads(Path(sys.argv[1]).read_text())\n"
        "found = run(made, Path(sys.argv[2]), workers=1)\n"
        "used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]\n"
        "took = sum(u.ru_utime + u.ru_stime for u in used)\n"
        "print(json.dumps([took, max(u.ru_maxrss for u in used) / 1024, found.kept]))"
    )
    with TemporaryDirectory() as out:
        asked = [sys.executable, "-c", code, str(folder / "recipe.json"), f"{out}/run", "0" if in_parts else "1"]
        done = subprocess.run(asked, check=True, capture_output=True, text=True)
    took, most, kept = json.loads(done.stdout.strip().splitlines()[-1])
    return f"{figures(rows, took, most)} {'':<12} {rows - kept:>8,} went"


def figures(rows: int, took: float, most: float) -> str:
    """What a contender took."""
    return f"{took:8.2f} CPU-s {rows / took:>10,.0f} rows a CPU-s {most:6,.0f} MB"


def peak() -> float:
    """Largest resident size of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
