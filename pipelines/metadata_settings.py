"""What a metadata file is made of: sources, thresholds and limits, with those of the two papers."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pairsieve.schemas.errors import UserError

Score = Literal["pmi", "metaclip2"]
SCORES = ("pmi", "metaclip2")


@dataclass(frozen=True)
class Limits:
    """Which candidates of a source become entries, best first.

    ``least`` is of what they are ordered by (count, score, views).  ``most`` and ``share`` cut the list: to so
    many, and to a part of the candidates (for bigrams: of the number of unigrams taken).
    """

    least: float | None = None
    most: int | None = None
    share: float | None = None

    def cut(self, of: int) -> int | None:
        """How many are taken at most; ``share`` is of this number, rounded down."""
        limits = [n for n in (self.most, None if self.share is None else int(self.share * of)) if n is not None]
        return min(limits, default=None)


@dataclass(frozen=True)
class Rules:
    """Thresholds and limits of all sources; see ``docs/metadata.md``.

    ``count_least`` is the least count of a bigram, ``hour_least`` that of views of a title in an hour.
    ``long_most`` are the characters of an entry; ``punctuation``: whether entries of signs alone are kept.
    """

    unigrams: Limits = Limits(least=100)
    bigrams: Limits = Limits(least=30.0)
    titles: Limits = Limits(least=70)
    score: Score = "pmi"
    count_least: int = 1
    hour_least: int = 50
    long_most: int | None = None
    punctuation: bool = True

    def record(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


V1 = Rules()
V2 = Rules(
    unigrams=Limits(least=1, most=251_465, share=0.1),
    bigrams=Limits(most=100_646, share=0.4),
    titles=Limits(least=1, most=61_235, share=0.76),
    score="metaclip2",
    long_most=256,
    punctuation=False,
)


@dataclass(frozen=True)
class Sources:
    """Where entries come from, in one language: WordNet (a path, or None for the usual places) if ``is_wordnet``.

    ``wikipedia`` and ``titles`` are paths, folders or globs; ``project`` is the code in page views.
    """

    language: str = "en"
    is_wordnet: bool = True
    wordnet: str | None = None
    wikipedia: tuple[str, ...] = ()
    titles: tuple[str, ...] = ()
    project: str | None = None
    segmenter: str | None = None

    def check(self) -> None:
        """Raise ``UserError`` for what goes not together, or gives nothing."""
        if not self.language.strip():
            raise UserError("--language is empty; give a code such as en")
        if self.is_wordnet and self.language != "en":
            raise UserError(f"--wordnet: WordNet 3.0 is English, and --language is {self.language}; leave it out")
        if self.segmenter is not None and not self.wikipedia:
            raise UserError("--segmenter cuts the texts of --wikipedia, and none is given; name a dump")
        if not (self.is_wordnet or self.wikipedia or self.titles):
            raise UserError("nothing to build from; give --wordnet, --wikipedia or --titles")

    @property
    def separator(self) -> str:
        """Between the words of a bigram: nothing in languages that need a segmenter."""
        return " " if self.segmenter is None else ""
