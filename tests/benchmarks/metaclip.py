"""What matching with 500,000 entries costs, beside pyahocorasick (MetaCLIP's engine) and ahocorasick_rs.

    PYTHONPATH=. nice python -m tests.benchmarks.metaclip [captions] [repeats]

Entries are made up: 500,000, 63 % of one word, at most 9, 7 MB.  So are captions: 36 bytes on average, 58 % with a
match, 5.8 matches of those, counts of entries with a heavy tail; and long ones of about 105 bytes.  Each engine runs
in a process of its own; rates are captions a CPU-second (user and system), spacing included, best of the repeats.
All must give the same ids for every caption.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pairsieve.filters.metadata_match import MetadataMatch

ENTRIES, SINGLE, MATCHED, MOST_WORDS = 500_000, 0.63, 0.576, 9
VOCABULARY = 420_000
CHUNK = 65_536
ENGINES = ("ours", "pyahocorasick", "ahocorasick_rs")
LETTERS = np.frombuffer(b"etaoinshrdlucmfwypvbgk", np.uint8)
BREAKS = np.array([" "] * 11 + [", ", ". ", "-", "! "], object)
UNKNOWN = ("ö", "DSC0", "_", "я", "img-", "ñ")
"""Parts of words that no entry has."""
Ids = npt.NDArray[np.int32]
Engine = Callable[[Sequence[str]], list[list[int]]]


# --- entries and captions ---


def words(count: int, rng: np.random.Generator) -> list[str]:
    """Made-up words, the frequent ones first and short; a quarter with a capital."""
    weight = 1 / (np.arange(len(LETTERS)) + 3.0)
    found: dict[str, None] = {}
    while len(found) < count:
        rank = np.arange(len(found), len(found) + count)
        sizes = np.clip(np.round(rng.normal(1.3 + 0.4 * np.log2(rank + 2), 1.7)), 1, 24).astype(int)
        ends = np.cumsum(sizes)
        letters = rng.choice(LETTERS, ends[-1], p=weight / weight.sum()).tobytes().decode()
        is_name = rng.random(count) < 0.25
        for start, end, named in zip((ends - sizes).tolist(), ends.tolist(), is_name.tolist(), strict=True):
            word = letters[start:end]
            found.setdefault(word.capitalize() if named else word)
    return list(found)[:count]


def joined(pieces: list[str], sizes: npt.NDArray[Any]) -> Iterator[str]:
    """Runs of the pieces, so many each."""
    ends = np.cumsum(sizes)
    for start, end in zip((ends - sizes).tolist(), ends.tolist(), strict=True):
        yield "".join(pieces[start:end])


def entries(vocabulary: list[str], rng: np.random.Generator) -> list[str]:
    """The frequent words, part of the others, and runs of two to nine words."""
    frequent, single = 40_000, int(SINGLE * ENTRIES)
    rest = rng.permutation(len(vocabulary) - frequent)[: single - frequent] + frequent
    found = dict.fromkeys([*vocabulary[:frequent], *(vocabulary[i] for i in rest.tolist())])
    while len(found) < ENTRIES:
        sizes = np.minimum(1 + rng.geometric(0.6, ENTRIES // 2), MOST_WORDS)
        ranks = (rng.random(sizes.sum()) ** 2.2 * len(vocabulary)).astype(int)
        for run in joined([vocabulary[i] + " " for i in ranks.tolist()], sizes):
            found.setdefault(run[:-1])
    return rng.permutation(np.array(list(found)[:ENTRIES], object)).tolist()  # type: ignore[no-any-return]


def captions(
    count: int, mean: float, vocabulary: list[str], metadata: list[str], rng: np.random.Generator
) -> list[str]:
    """Captions of frequent words and entries with marks between; of those without a match, words with odd parts."""
    has_match = rng.random(count) < MATCHED
    sizes = 1 + rng.poisson(np.where(has_match, mean - 1, mean / 3))
    total = int(sizes.sum())
    ranks = (np.exp(rng.random(total) ** 2.4 * np.log(len(vocabulary))) - 1).astype(int).tolist()
    which = (rng.random(total) ** 2 * ENTRIES).astype(int).tolist()
    is_entry, is_matched = (rng.random(total) < 0.12).tolist(), np.repeat(has_match, sizes).tolist()
    breaks = BREAKS[rng.integers(0, len(BREAKS), total)].tolist()
    pieces = []
    for i, (rank, known) in enumerate(zip(ranks, is_matched, strict=True)):
        word = metadata[which[i]] if is_entry[i] else vocabulary[rank]
        pieces.append(word + breaks[i] if known else f"{vocabulary[rank]}{UNKNOWN[i % 6]}{which[i] % 97} ")
    return [caption.rstrip() for caption in joined(pieces, sizes)]


def make(folder: Path, count: int) -> None:
    """The files of a comparison, and what they are like."""
    rng = np.random.default_rng(0)
    vocabulary = words(VOCABULARY, rng)
    metadata = entries(vocabulary, rng)
    pq.write_table(pa.table({"entry": metadata}), folder / "metadata.parquet")
    single = sum(" " not in entry for entry in metadata) / ENTRIES
    print(f"{ENTRIES} entries, {sum(map(len, metadata)) / 1e6:.1f} MB, {single:.0%} of one word", end="; ")
    print(f"most words {max(entry.count(' ') for entry in metadata) + 1}")
    for name, number, mean in (("short", count, 6.85), ("long", count // 5, 21.0)):
        texts = captions(number, mean, vocabulary, metadata, rng)
        pq.write_table(pa.table({"text": texts}), folder / f"{name}.parquet")


# --- engines ---


def spaced(text: str) -> str:
    """The caption as the rule reads it, as MetaCLIP's code makes it."""
    for mark in ",.;:?!`":
        text = text.replace(mark, f" {mark} ")
    for blank in "\t\n\r":
        text = text.replace(blank, " ")
    return f" {text} "


def pyahocorasick(metadata: list[str]) -> Engine:
    """One automaton of all " entry ", as in MetaCLIP's faster matcher."""
    import ahocorasick

    made = ahocorasick.Automaton()
    for i, entry in enumerate(metadata):
        made.add_word(f" {entry} ", (i, entry))
    made.make_automaton()
    return lambda texts: [list({value[0] for _, value in made.iter(spaced(text))}) for text in texts]


def ahocorasick_rs(metadata: list[str]) -> Engine:
    """The same in Rust."""
    from ahocorasick_rs import AhoCorasick

    made = AhoCorasick([f" {entry} " for entry in metadata])
    find = made.find_matches_as_indexes
    return lambda texts: [list({i for i, _, _ in find(spaced(text), overlapping=True)}) for text in texts]


def rss() -> float:
    """MiB of this process now."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize() / 2**20


def peer(name: str, folder: Path, repeats: int) -> dict[str, Any]:
    """Cost of an engine that takes strings."""
    metadata = pq.read_table(folder / "metadata.parquet")["entry"].to_pylist()
    before, start = rss(), time.process_time()
    engine = {"pyahocorasick": pyahocorasick, "ahocorasick_rs": ahocorasick_rs}[name](metadata)
    said: dict[str, Any] = {"build": time.process_time() - start, "state": rss() - before}
    for kind in ("short", "long"):
        texts = pq.read_table(folder / f"{kind}.parquet")["text"].to_pylist()
        best = float("inf")
        for _ in range(repeats):
            spent, found = 0.0, []
            for at in range(0, len(texts), CHUNK):
                start = time.process_time()
                part = engine(texts[at : at + CHUNK])
                spent += time.process_time() - start
                found.append(pa.array([sorted(ids) for ids in part], pa.list_(pa.int32())))
            best = min(best, spent)
        said[kind] = len(texts) / best
        save(folder / f"{name}.{kind}.npz", found)
    return said


def ours(folder: Path, repeats: int) -> dict[str, Any]:
    """Cost of the filter's ``score``, Arrow in and out, and of opening it with an empty cache."""
    made = MetadataMatch(metadata=str(folder / "metadata.parquet"))
    warm()
    before, start = rss(), time.process_time()
    made.open()
    said: dict[str, Any] = {"build": time.process_time() - start}
    said["state"] = sum(file.stat().st_size for file in (folder / "cache").glob("*.arrays")) / 2**20
    said["open"] = rss() - before
    for kind in ("short", "long"):
        table = pq.read_table(folder / f"{kind}.parquet")
        batches = table.combine_chunks().to_batches(max_chunksize=CHUNK)
        best = float("inf")
        for _ in range(repeats):
            start = time.process_time()
            scored = [made.score(batch)["matched_entries"] for batch in batches]
            best = min(best, time.process_time() - start)
        said[kind] = table.num_rows / best
        save(folder / f"ours.{kind}.npz", scored)
    return said


def warm() -> None:
    """Compile the kernels, or load them, which is no part of building tables."""
    import pairsieve.filters._match_words  # noqa: F401


def save(path: Path, found: list[pa.Array]) -> None:
    """Ids of all captions, and how many each has."""
    whole = pa.concat_arrays(found)
    sizes = whole.value_lengths().to_numpy()
    np.savez(path, sizes=sizes, ids=whole.flatten().to_numpy())


def shared(folder: Path) -> list[str]:
    """Resident and proportional MiB of the mapped tables in two processes at once; none ends before both measured."""
    command = [sys.executable, "-m", "tests.benchmarks.metaclip", "--hold", str(folder)]
    pipe = subprocess.PIPE
    held = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    said = []
    for _ in ("ready", "measured"):
        said = [process.stdout.readline().strip() for process in held if process.stdout]
        for process in held:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
    for process in held:
        process.communicate()
    return said


def hold(folder: Path) -> None:
    """Match, wait until the other process has too, and say what the map takes."""
    made = MetadataMatch(metadata=str(folder / "metadata.parquet"))
    made.open()
    made.score(pq.read_table(folder / "short.parquet").slice(0, 200_000).combine_chunks().to_batches()[0])
    print("ready", flush=True)
    sys.stdin.readline()
    maps = Path("/proc/self/smaps").read_text().split("VmFlags")
    (own,) = [part for part in maps if ".arrays" in part]
    size = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in own.splitlines() if line.endswith("kB")}
    print(f"resident {size['Rss']:.1f} MiB, proportional {size['Pss']:.1f} MiB", flush=True)
    sys.stdin.readline()


# --- the comparison ---


def one(name: str, folder: Path, repeats: int) -> None:
    """Run an engine in this process and print what it costs as JSON."""
    said = ours(folder, repeats) if name == "ours" else peer(name, folder, repeats)
    (peak,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    said["peak"] = int(peak.split()[1]) / 1024
    print(json.dumps(said))


def run(name: str, folder: Path, repeats: int) -> dict[str, Any]:
    """Run an engine in a process of its own, with a cache of the folder's own."""
    command = [sys.executable, "-m", "tests.benchmarks.metaclip", "--engine", name, str(folder), str(repeats)]
    env = {**os.environ, "PAIRSIEVE_CACHE": str(folder / "cache")}
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout
    found: dict[str, Any] = json.loads(said)
    return found


def compare(folder: Path, repeats: int) -> None:
    """Print a row for each engine; all ids must be the same."""
    rows = {name: run(name, folder, repeats if name == "ours" else max(repeats // 3, 1)) for name in ENGINES}
    print(f"\n{'':16} {'short/s':>10} {'x':>6} {'long/s':>10} {'x':>6} {'build s':>8} {'state MiB':>9} {'peak MiB':>9}")
    base = rows["pyahocorasick"]
    for name, row in rows.items():
        short, long = row["short"], row["long"]
        cells = f"{short:10,.0f} {short / base['short']:6.1f} {long:10,.0f} {long / base['long']:6.1f}"
        print(f"{name:16} {cells} {row['build']:8.2f} {row['state']:9.1f} {row['peak']:9.0f}")
    for kind in ("short", "long"):
        same(folder, kind)


def same(folder: Path, kind: str) -> None:
    """Raise ``AssertionError`` where an engine found anything else; say what was found."""
    wanted, texts = np.load(folder / f"ours.{kind}.npz"), pq.read_table(folder / f"{kind}.parquet")["text"]
    for name in ENGINES[1:]:
        found = np.load(folder / f"{name}.{kind}.npz")
        assert all(np.array_equal(found[part], wanted[part]) for part in ("sizes", "ids")), f"{name} differs: {kind}"
    sizes, counts = wanted["sizes"], np.sort(np.bincount(wanted["ids"], minlength=ENTRIES))
    size = sum(len(text.as_py().encode()) for text in texts[:20_000]) / 20_000
    tail = counts[::-1][: ENTRIES // 31].sum() / counts.sum()
    print(
        f"{kind}: the same ids for all {len(sizes):,} captions of {size:.0f} bytes; {np.mean(sizes > 0):.1%} matched,"
    )
    print(f"  {sizes[sizes > 0].mean():.2f} matches each; 3.2 % of the entries have {tail:.1%} of the matches")


def main() -> None:
    """All of it."""
    if sys.argv[1:2] == ["--engine"]:
        return one(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    if sys.argv[1:2] == ["--hold"]:
        return hold(Path(sys.argv[2]))
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 6
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, count)
        compare(folder, repeats)
        os.environ["PAIRSIEVE_CACHE"] = str(folder / "cache")
        for said in shared(folder):
            print(f"two processes, tables mapped: {said}")
    return None


if __name__ == "__main__":
    main()
