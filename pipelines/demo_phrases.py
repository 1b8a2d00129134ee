"""What English texts of the synthetic world begin with: a scene's noun phrases, and what a phrase says of a scene.

A captioner of the world is taught by the one and judged by the other.  About 2 ms for the table, 1 µs a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from pairsieve.pipelines.demo_captions import LEXICONS
from pairsieve.pipelines.demo_world import COLOURS, COUNTS, SHAPES, Colour, Scene, Shape

LONGEST = 5
"""Words of a noun phrase at most: a pair of light things."""


@dataclass(frozen=True)
class Said:
    """What a noun phrase says: of the scene's attributes all but the background."""

    shape: Shape
    colour: Colour
    count: int

    @staticmethod
    def of(scene: Scene) -> Said:
        """What is true of a scene."""
        return Said(scene.shape, scene.colour, scene.count)


def noun_phrases(scene: Scene) -> tuple[str, ...]:
    """All English noun phrases that are true of a scene, such as "two red stars" and "a pair of red stars"."""
    return _phrases()[Said.of(scene)]


def read(text: str) -> Said | None:
    """What a text says that begins with a noun phrase; None for any other."""
    words = text.lower().split()[:LONGEST]
    return next((said for k in range(LONGEST, 0, -1) if (said := _meanings().get(" ".join(words[:k])))), None)


@cache
def _phrases() -> dict[Said, tuple[str, ...]]:
    lexicon = LEXICONS["en"]
    colours = dict(zip(COLOURS, lexicon.colours.split(","), strict=True))
    nouns = dict(zip(SHAPES, lexicon.nouns.split(","), strict=True))
    numerals = dict(zip(COUNTS, [lexicon.one, *lexicon.counts.split(",")], strict=True))
    every = [Said(shape, colour, count) for shape in SHAPES for colour in COLOURS for count in COUNTS]
    return {
        said: tuple(
            lexicon.phrase.format(n=numeral, c=colours[said.colour], s=_noun(nouns[said.shape], said.count))
            for numeral in numerals[said.count].split("/")
        )
        for said in every
    }


def _noun(forms: str, count: int) -> str:
    """The form of a noun, of "gender one few many", that goes with a count."""
    _, one, few, many = forms.split(" ")
    return one if count == 1 else few if count <= 4 else many


@cache
def _meanings() -> dict[str, Said]:
    return {phrase: said for said, phrases in _phrases().items() for phrase in phrases}
