"""What models of the nano track are asked: pictures that no pool holds, and English prompts for their classes.

All drawn evenly, so that concepts that the pool has rarely count as much as frequent ones.  4,000 pictures take about
5 CPU-seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from pairsieve.pipelines.demo_captions import LEXICONS
from pairsieve.pipelines.demo_world import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    SHAPES,
    Background,
    Colour,
    Scene,
    Shape,
    encode,
    keyed_rng,
    pick,
    render,
    sample_scene,
)
from pairsieve.pipelines.feed_decode import DRAWS, Pictures
from pairsieve.pipelines.nano_world import is_held_out, stored

SEED = 990_000
"""Of the test pictures: no pool and no model of the demo's is made with it."""
NUMERALS = ("one", "two", "three", "four", "five")
ATTRIBUTES = ("shape", "colour", "count", "background")

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Shown:
    """Pictures, uint8[n, 3, size, size], and the classes of their ``ATTRIBUTES``, int64[n, 4]."""

    pixels: Pixels
    labels: Labels

    @property
    def compositions(self) -> Labels:
        """int64[n]: which of all shapes and colours."""
        return np.asarray(self.labels[:, 0] * len(COLOURS) + self.labels[:, 1])


def asked_scene(purpose: str, index: int, held_out: bool) -> Scene:
    """A scene drawn evenly, of the compositions that the pool has or of those it never has."""
    seed = SEED + len(purpose)
    scene, rng = sample_scene(seed, index), keyed_rng(seed, index, purpose)
    while is_held_out(scene.shape, scene.colour) != held_out:
        scene = replace(scene, shape=pick(rng, SHAPES), colour=pick(rng, COLOURS))
    return stored(scene)


def labels_of(scene: Scene) -> tuple[int, int, int, int]:
    """The classes of a scene's attributes."""
    return (
        SHAPES.index(scene.shape),
        COLOURS.index(scene.colour),
        COUNTS.index(scene.count),
        BACKGROUNDS.index(scene.background),
    )


def show(scenes: Sequence[Scene], size: int) -> Shown:
    """Pictures of scenes as a model takes them: stored as JPEG, resized and cut as for training, in the middle."""
    decode, draws = Pictures(size, "center"), np.zeros(DRAWS)
    files = [np.frombuffer(encode(render(scene), "JPEG", 90), np.uint8) for scene in scenes]
    pixels = [decode.picture(file, draws) for file in files]
    return Shown(np.stack([p for p in pixels if p is not None]), np.array([labels_of(scene) for scene in scenes]))


def distinct(scenes: Sequence[Scene], count: int) -> list[int]:
    """Places of the first ``count`` scenes no two of which one caption fits."""
    first: dict[tuple[int, int, int, int], int] = {}
    for place, scene in enumerate(scenes):
        first.setdefault(labels_of(scene), place)
    return sorted(first.values())[:count]


def phrase(shape: Shape, colour: Colour, count: int) -> str:
    """The English noun phrase, such as ``two red circles``."""
    lexicon = LEXICONS["en"]
    _, one, _, many = lexicon.nouns.split(",")[SHAPES.index(shape)].split(" ")
    word = lexicon.colours.split(",")[COLOURS.index(colour)]
    return f"{NUMERALS[count - 1]} {word} {one if count == 1 else many}"


def ground(background: Background) -> str:
    """The English words of a background."""
    return LEXICONS["en"].grounds.split(",")[BACKGROUNDS.index(background)]


def full_caption(scene: Scene) -> str:
    """A caption that names all four attributes."""
    return f"{phrase(scene.shape, scene.colour, scene.count)} on {ground(scene.background)}"


def prompts(attribute: str) -> list[list[str]]:
    """The prompts of each class of an attribute, or of ``composition``.

    What a prompt must name besides goes through all shapes, colours and counts.
    """
    names = {"shape": SHAPES, "colour": COLOURS, "count": COUNTS}
    if attribute == "background":
        return [[f"{phrase(*scene)} on {ground(b)}" for scene in _all_scenes() if scene[2] == 2] for b in BACKGROUNDS]
    if attribute == "composition":
        pairs = product(SHAPES, COLOURS)
        return [[f"a picture of {phrase(shape, colour, count)}" for count in COUNTS] for shape, colour in pairs]
    place = list(names).index(attribute)
    return [
        [f"a picture of {phrase(*scene)}" for scene in _all_scenes() if scene[place] == name]
        for name in names[attribute]
    ]


def _all_scenes() -> Iterator[tuple[Shape, Colour, int]]:
    return product(SHAPES, COLOURS, COUNTS)


def all_prompts() -> list[str]:
    """Every prompt there is."""
    return [text for name in (*ATTRIBUTES, "composition") for texts in prompts(name) for text in texts]
