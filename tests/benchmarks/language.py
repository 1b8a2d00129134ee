"""What languages cost and how often they are right, beside the libraries themselves, on captions in 78 languages.

    PYTHONPATH=. python -m tests.benchmarks.language [repeats]

The captions are those of the Debian package tuxpaint-stamps-default: 19 characters on average, and the same joined
and cut to 50.  CPU time of one process, best of the repeats; each library right after ours, on the same captions.
"""

import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fasttext
import gcld3
import pyarrow as pa

from pairsieve.filters.caption_words import CaptionWords
from pairsieve.filters.language import Language
from tests.real.conftest import LISTING
from tests.real.test_stamps import captions
from tests.support_fasttext import HS, SOFTMAX, Made

OTHER_NAMES = {"nb": "no", "iw": "he", "fil": "tl", "zh-Latn": "zh", "bg-Latn": "bg", "ru-Latn": "ru", "jv": "jv"}
"""One language, two names: of locales, of fastText, of CLD3."""
Predict = Callable[[str], str]


def stamps() -> list[tuple[str, str]]:
    """(locale, caption) of the whole package."""
    files = sorted(Path(line) for line in LISTING.read_text(encoding="utf-8").splitlines() if line.endswith(".txt"))
    return [pair for file in files if "stamps" in file.parts for pair in captions(file)]


def fifty(texts: Sequence[str]) -> list[str]:
    """Captions of about 50 characters."""
    joined = [" ".join(texts[i : i + 4])[:50] for i in range(len(texts) - 4)]
    return joined[::3]


def language_of(name: str) -> str:
    """The language of a locale or of a model's label."""
    name = OTHER_NAMES.get(name, name)
    base = name.split("_")[0].split("@")[0]
    return OTHER_NAMES.get(base, base)


def fasttext_peer(path: str) -> Predict:
    """The library, as DataComp calls it."""
    model: Any = fasttext.load_model(path)
    return lambda text: str(model.predict(text.replace("\n", " "))[0][0].split("__label__")[1])


def cld3_peer() -> Predict:
    """The library, as DataComp's LAION-2B rule calls it."""
    model = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=1000)
    return lambda text: str(model.FindLanguage(text=text.replace("\n", " ")).language)


def cost(call: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """CPU-seconds of the quickest call, and its answer."""
    best, found = float("inf"), None
    for _ in range(repeats):
        start = time.process_time()
        found = call()
        best = min(best, time.process_time() - start)
    return best, found


def compare(
    name: str, made: Language, peer: Predict, texts: Sequence[str], repeats: int
) -> tuple[list[str], list[str]]:
    """Print one row: both costs, their ratio, and how many answers differ."""
    made.open()
    batches = pa.Table.from_pydict({"text": list(texts)}).to_batches(max_chunksize=made.batch_rows)
    ours, scored = cost(lambda: [made.score(batch)["lang"] for batch in batches], repeats)
    theirs, wanted = cost(lambda: [peer(text) for text in texts], max(repeats // 2, 1))
    found = [name for part in scored for name in part.to_pylist()]
    differ = sum(a != b for a, b in zip(found, wanted, strict=True))
    us, them = (1e6 * seconds / len(texts) for seconds in (ours, theirs))
    print(f"{name:40} {us:8.2f} {them:8.2f} {them / us:7.1f} {differ:8}  of {len(texts)}")
    return found, wanted


def accuracy(pairs: Sequence[tuple[str, str]], answers: dict[str, list[str]]) -> None:
    """Print the share of right answers for each language; a dash where a model never names it."""
    print("\nright answers, %     captions" + "".join(f"{name:>17}" for name in answers))
    places: dict[str, list[int]] = {}
    for i, (locale, _) in enumerate(pairs):
        places.setdefault(language_of(locale), []).append(i)
    named = {name: {language_of(label) for label in found} for name, found in answers.items()}
    for language, rows in [*sorted(places.items()), ("all", list(range(len(pairs))))]:
        right = {
            name: sum(language_of(found[i]) == language_of(pairs[i][0]) for i in rows)
            for name, found in answers.items()
        }
        cells = [f"{100 * n / len(rows):.1f}" if language in (*named[k], "all") else "–" for k, n in right.items()]
        print(f"{language:20} {len(rows):8}" + "".join(f"{cell:>17}" for cell in cells))


def stand_in(folder: str, loss: int, words: Sequence[str]) -> str:
    """A .bin of lid.176.bin's shape: 176 labels, 16 columns, 2,000,000 buckets, n-grams of 2 to 4; random numbers."""
    common = [word for word, _ in Counter(words).most_common(7000)]
    labels = [f"__label__{i}" for i in range(176)]
    made = Made(["</s>", *common], labels, [10**6 // (i + 1) for i in range(176)], loss, bucket=2_000_000, spread=0.3)
    return str(made.write(Path(folder) / f"{loss}.bin"))


def start() -> None:
    """Print the seconds until the first answer, of a process that finds the kernel compiled."""
    code = "from pairsieve.filters.language import Language as L; import pyarrow as pa, time; t = time.perf_counter();"
    code += "m = L(); m.open(); print(f'{time.perf_counter() - t:.2f}')"
    said = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True) for _ in range(3)]
    print(f"\nopening the packaged model in a new process: {min(float(one.stdout) for one in said):.2f} s")


def main() -> None:
    """All tables."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    pairs = stamps()
    texts = [text for _, text in pairs]
    mixed = fifty(random.Random(0).sample(texts, len(texts)))
    english = [text for locale, text in pairs if locale.startswith("en")]
    shuffled = [text for seed in range(25) for text in fifty(random.Random(seed).sample(english, len(english)))]
    sets = {"stamps": texts, "50 characters, mixed": mixed, "50 characters, English": shuffled}
    answers: dict[str, list[str]] = {}
    print(f"{'CPU-us a caption':40} {'ours':>8} {'library':>8} {'ratio':>7} {'differ':>8}")
    packaged = Language().files()[0]
    for name, captions_ in sets.items():
        found, wanted = compare(f"ftz  {name}", Language(), fasttext_peer(packaged), captions_, repeats)
        answers |= {"fasttext, ours": found, "fasttext": wanted} if captions_ is texts else {}
    with tempfile.TemporaryDirectory() as folder:
        for loss, label in ((HS, "hs"), (SOFTMAX, "softmax")):
            path = stand_in(folder, loss, [word for text in texts for word in text.split()])
            for name, captions_ in sets.items():
                made = Language(model=path, keep=("0",))
                compare(f"bin {label} {name}", made, fasttext_peer(path), captions_, repeats)
    for name, captions_ in sets.items():
        found, wanted = compare(f"cld3 {name}", Language(library="cld3"), cld3_peer(), captions_, 2)
        answers |= {"cld3, ours": found, "cld3": wanted} if captions_ is texts else {}
    for tokenizer in ("python", "fasttext"):
        words = CaptionWords.model_validate({"tokenizer": tokenizer})
        batch = pa.record_batch({"text": mixed})
        seconds, _ = cost(lambda words=words, batch=batch: words.score(batch), repeats)  # type: ignore[misc]
        print(f"caption_words, {tokenizer:25} {1e6 * seconds / len(mixed):8.2f}")
    start()
    accuracy(pairs, answers)


if __name__ == "__main__":
    main()
