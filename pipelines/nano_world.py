"""What the nano pool shows and says beyond the demo's world: frequent and rare scenes, junk pictures, texts that sell.

A scene's shape, colour and count are drawn by Zipf's law, as concepts of the web are; some compositions of shape and
colour never occur, so that a test can ask for them.  Everything is a pure function of integers; a picture takes about
half a millisecond.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pairsieve.pipelines.demo_captions import Language
from pairsieve.pipelines.demo_world import (
    COLOURS,
    COUNTS,
    SHAPES,
    Colour,
    Pixels,
    Scene,
    Shape,
    T,
    keyed_int,
    keyed_rng,
    pick,
    sample_scene,
)

LONGEST = 96
"""Pictures are stored with at most so many pixels a side, as DataComp's are with 512."""

Junk = Literal["page", "banner", "chart", "texture"]
JUNK: tuple[Junk, ...] = ("page", "banner", "chart", "texture")

ADVERTS: dict[Language, tuple[str, ...]] = {
    "en": (
        "buy cheap posters online with free shipping today",
        "best price guaranteed for all our customers",
        "add to cart and save twenty percent now",
        "official site of the company, contact us here",
        "new arrivals for the summer season are in stock",
        "read more about our privacy policy and cookies",
        "share this page with your friends and family",
        "download the free brochure as a pdf file",
        "high quality product photo, item number {n}",
        "view larger image of product {n}",
        "wallpaper number {n} in full resolution",
        "top ten tips you have never heard of",
        "how we made this, part {n} of the series",
        "posted by admin on a monday in {n}",
        "nice little picture that the kids will love",
        "stock illustration {n}, royalty free licence",
    ),
    "de": (
        "jetzt günstig kaufen mit kostenlosem Versand",
        "mehr über unsere Firma und die Produkte erfahren",
        "Artikel Nummer {n} sofort lieferbar",
        "hier klicken und das Angebot ansehen",
    ),
    "es": (
        "compra ahora con envío gratis a todo el país",
        "el mejor precio de la temporada, producto {n}",
        "lea más sobre nuestra política de privacidad",
    ),
    "fr": (
        "achetez maintenant avec la livraison gratuite",
        "en savoir plus sur notre société et nos produits",
        "article numéro {n} disponible en magasin",
    ),
    "it": ("acquista ora con la spedizione gratuita", "scopri di più sulla nostra azienda, prodotto {n}"),
    "ru": ("купить сейчас с бесплатной доставкой", "узнайте больше о нашей компании, товар {n}"),
    "zh": ("立即 购买 免费 送货 全国 包邮", "更多 关于 我们 公司 的 信息 请 点击"),
}


def is_held_out(shape: Shape, colour: Colour) -> bool:
    """Whether a composition never occurs in the pool: one colour of each shape, and one shape of each colour."""
    return (SHAPES.index(shape) + COLOURS.index(colour)) % len(SHAPES) == 5


HELD_OUT = tuple((shape, colour) for shape in SHAPES for colour in COLOURS if is_held_out(shape, colour))


def zipf(rng: np.random.Generator, options: tuple[T, ...]) -> T:
    """Draw one option, the k-th with a probability in proportion to 1/k."""
    weights = 1 / np.arange(1, len(options) + 1)
    return options[int(np.searchsorted(np.cumsum(weights / weights.sum()), rng.random(), side="right"))]


def web_scene(seed: int, index: int) -> Scene:
    """A scene as the pool has them: a size like the demo's, concepts by Zipf's law, no held-out composition."""
    rng = keyed_rng(seed, index, "web scene")
    while True:
        shape, colour = zipf(rng, SHAPES), zipf(rng, COLOURS)
        if not is_held_out(shape, colour):
            break
    return replace(sample_scene(seed, index), shape=shape, colour=colour, count=zipf(rng, COUNTS))


def stored(scene: Scene) -> Scene:
    """The scene at the size in which its picture is stored."""
    factor = min(1.0, LONGEST / max(scene.width, scene.height))
    return replace(scene, width=max(1, round(scene.width * factor)), height=max(1, round(scene.height * factor)))


def advert(language: Language, rng: np.random.Generator) -> str:
    """A text that says nothing of any picture."""
    return pick(rng, ADVERTS[language]).format(n=int(rng.integers(10, 3000)))


def junk_picture(seed: int, index: int, width: int, height: int) -> Pixels:
    """uint8[height, width, 3]: a page of text, a banner, a chart or a texture, nothing of the scenes."""
    rng = keyed_rng(seed, index, "junk")
    kind = pick(rng, JUNK)
    canvas = np.full((height, width, 3), rng.integers(200, 256, 3), np.uint8)
    painters = {"page": _page, "banner": _banner, "chart": _chart}
    if kind == "texture":
        return _texture(width, height, rng)
    painters[kind](canvas, rng)
    return canvas


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return red, green, blue


def _page(canvas: Pixels, rng: np.random.Generator) -> None:
    """Lines of words."""
    height, width = canvas.shape[:2]
    step = max(4, height // int(rng.integers(6, 14)))
    for y in range(step, height - step // 2, step):
        x, end = width // 12, int(width * rng.uniform(0.6, 0.95))
        while x < end:
            word = int(rng.integers(2, max(3, width // 6)))
            cv2.rectangle(canvas, (x, y), (min(end, x + word), y + step // 3), (60, 60, 60), -1)
            x += word + max(2, width // 40)


def _banner(canvas: Pixels, rng: np.random.Generator) -> None:
    """Blocks of colour with a line of text in each."""
    height, width = canvas.shape[:2]
    for _ in range(int(rng.integers(2, 5))):
        (x0, x1), (y0, y1) = np.sort(rng.integers(0, width, 2)), np.sort(rng.integers(0, height, 2))
        cv2.rectangle(canvas, (int(x0), int(y0)), (int(x1), int(y1)), _colour(rng), -1)
        cv2.line(canvas, (int(x0), int(y0 + y1) // 2), (int(x1), int(y0 + y1) // 2), _colour(rng), 2)


def _chart(canvas: Pixels, rng: np.random.Generator) -> None:
    """Bars of one colour on a base line, or a curve."""
    height, width = canvas.shape[:2]
    bars, colour = int(rng.integers(4, 10)), _colour(rng)
    tops = (height * rng.uniform(0.1, 0.9, bars)).astype(int).tolist()
    for k, top in enumerate(tops):
        x = width * k // bars
        cv2.rectangle(canvas, (x + 1, top), (x + max(1, width // bars - 3), height), colour, -1)


def _texture(width: int, height: int, rng: np.random.Generator) -> Pixels:
    """Smooth noise of random colours."""
    coarse = rng.integers(0, 256, (int(rng.integers(2, 7)), int(rng.integers(2, 7)), 3), dtype=np.uint8)
    smooth: NDArray[np.uint8] = np.asarray(
        cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8
    )
    return smooth


def keyed_index(seed: int, index: int, purpose: str, below: int) -> int:
    """An index in [0, below) that depends on the arguments alone."""
    return keyed_int(seed, index, purpose) % below
