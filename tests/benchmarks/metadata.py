"""What counting words and bigrams costs, against nltk's ``BigramCollocationFinder`` on the same texts.

    python -m tests.benchmarks.metadata [million words]

Texts are synthetic: words of 1 to 12 letters with Zipf's frequencies (exponent 1.1, 2 M distinct at most), in
sentences and lines, so that bigrams are as many as chance makes them, which is more than language has.  nltk
gets words from ``re.findall`` over lines and counts a tenth of them (it holds every bigram in memory); both score
every bigram by PMI, and on that tenth both give the same counts.  pairsieve runs as its command, one worker, on
JSON lines, Parquet, and a multistream export of MediaWiki with markup, to the finished file.  CPU-seconds are
user and system of a fresh process and its children, start-up included; memory is the largest process.
"""

import bz2
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

MILLIONS = 20
DISTINCT = 2_000_000
PAGE = 2_000
STREAM = 100

PEER = r"""
import json, re, sys
from nltk.collocations import BigramCollocationFinder
from nltk.metrics import BigramAssocMeasures
def lines():
    for line in open(sys.argv[1]):
        for part in re.split(r"[.\n]", json.loads(line)["text"]):
            yield re.findall(r"\w+", part)
finder = BigramCollocationFinder.from_documents(lines())
scores = finder.score_ngrams(BigramAssocMeasures.pmi)
print(json.dumps([finder.word_fd.N(), len(finder.word_fd), len(finder.ngram_fd)]))
"""
OURS = ["-m", "pairsieve", "metadata", "--no-wordnet", "--workers", "1", "--engine", "local", "--quiet"]
SCORED = ["--bigram-score", "metaclip2", "--bigram-most", "100000"]


def main() -> None:
    """Generate, run each in its own process, print."""
    count = int(float(sys.argv[1] if len(sys.argv) > 1 else MILLIONS) * 1e6)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tenth, whole = write(folder, count // 10, "tenth"), write(folder, count, "whole")
        wanted = said(["-c", PEER, str(tenth["jsonl"])], "nltk, JSON lines", count // 10, tenth)
        ours = counted(folder, "pairsieve, same tenth", "jsonl", tenth, count // 10)
        assert ours == json.loads(wanted), (ours, wanted)
        for kind in ("jsonl", "parquet", "bz2"):
            counted(folder, f"pairsieve, {kind}", kind, whole, count)


def counted(folder: Path, label: str, kind: str, files: dict[str, Path], count: int) -> list[int]:
    """Run the command; gives tokens, distinct words and distinct bigrams of its manifest."""
    out = folder / f"{kind}.parquet"
    said([*OURS, str(out), "--wikipedia", str(files[kind]), *SCORED], label, count, files)
    found = json.loads(Path(f"{out}.manifest.json").read_text())
    by_source = {one["source"]: one["seen"] for one in found["sources"]}
    return [found["texts"]["tokens"], by_source["unigrams"], by_source["bigrams"]]


def said(command: list[str], label: str, count: int, files: dict[str, Path]) -> str:
    """Run a fresh process and print what it took."""
    code = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run([sys.executable, *sys.argv[1:]], capture_output=True, text=True)\n"
        "use = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(done.stdout + done.stderr if done.returncode else done.stdout.strip().splitlines()[-1])\n"
        "print(use.ru_utime + use.ru_stime, use.ru_maxrss, done.returncode)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    text, _, figures = done.stdout.strip().rpartition("\n")
    cpu, memory, failed = (float(value) for value in figures.split())
    assert not failed, text
    size = files["size"].stat().st_size / 1e6
    print(
        f"{label:<24} {count / cpu / 1e6:6.2f} M words and {size / cpu:6.1f} MB of text a CPU-second,"
        f" {cpu:6.1f} CPU-s, {memory / 1024:6.0f} MiB",
        flush=True,
    )
    return text


def write(folder: Path, count: int, name: str) -> dict[str, Path]:
    """The same texts in three formats; ``size`` is a file of their plain text."""
    files = {kind: folder / f"{name}.{kind}" for kind in ("jsonl", "parquet", "bz2", "size")}
    texts = list(pages(count))
    files["size"].write_text("\n".join(texts))
    files["jsonl"].write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    pq.write_table(pa.table({"text": texts}), files["parquet"], row_group_size=5000)
    with files["bz2"].open("wb") as out:
        out.write(bz2.compress(b"<mediawiki><siteinfo></siteinfo>\n"))
        for start in range(0, len(texts), STREAM):
            out.write(bz2.compress("".join(map(marked, texts[start : start + STREAM])).encode()))
        out.write(bz2.compress(b"</mediawiki>\n"))
    return files


def pages(count: int) -> Iterator[str]:
    """Texts of ``PAGE`` words each."""
    rng = np.random.default_rng(0)
    letters = np.frombuffer(b"etaoinshrdlucmfwypvbgkqjxz", np.uint8)
    lengths = rng.integers(1, 13, DISTINCT)
    edges = np.cumsum([0, *lengths])
    content = letters[rng.integers(0, 26, edges[-1])].tobytes().decode()
    words = [f"{content[a:b]}{i}" for i, (a, b) in enumerate(pairwise(edges.tolist()))]
    for start in range(0, count, PAGE):
        ranks = zipf(rng, min(PAGE, count - start))
        marks = np.where(rng.random(len(ranks)) < 0.07, ". ", " ")
        marks[::97] = "\n"
        yield "".join(f"{words[i]}{mark}" for i, mark in zip(ranks.tolist(), marks.tolist(), strict=True))


def zipf(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Ranks with a power law, cut at ``DISTINCT``."""
    drawn = rng.zipf(1.1, count * 3)
    return np.asarray(drawn[drawn < DISTINCT][:count], np.int64)


def marked(text: str) -> str:
    """A page of an export: some emphasis, links, templates and a reference."""
    parts = text.split(" ")
    for i in range(0, len(parts), 25):
        parts[i] = f"[[{parts[i]}|{parts[i]}]]"
    for i in range(12, len(parts), 100):
        parts[i] = f"''{parts[i]}'' {{{{cite|a={i}}}}}&lt;ref&gt;{{{{web|url=x}}}}&lt;/ref&gt;"
    return f"<page><ns>0</ns><revision><text>{' '.join(parts)}</text></revision></page>\n"


if __name__ == "__main__":
    main()
