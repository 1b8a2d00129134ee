"""The colours that every page shares: contrast in light, in dark and on paper, by WCAG 2.1's own formula."""

import re
from pathlib import Path

import pytest

import pairsieve

LOOK = (Path(pairsieve.__file__).parent / "pipelines" / "look.css").read_text(encoding="utf-8")
SCHEMES = dict(zip(("light", "dark", "print"), LOOK.split("@media")[:3], strict=True))
TEXTS = ("ink", "quiet", "link", "kept", "lost", "cut")
MARKS = ("kept", "lost", "cut", "bar", "edge")
GROUNDS = ("page", "raised", "sunken")


def _colours(scheme: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", SCHEMES[scheme]))


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("ground", GROUNDS)
def test_every_text_colour_reads_on_every_ground(scheme: str, ground: str) -> None:
    """4.5:1, as AA asks of text."""
    colours = _colours(scheme)
    assert min(_contrast(colours[text], colours[ground]) for text in TEXTS) >= 4.5


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("ground", GROUNDS)
def test_every_mark_is_seen_on_every_ground(scheme: str, ground: str) -> None:
    """3:1, as AA asks of what is no text."""
    colours = _colours(scheme)
    assert min(_contrast(colours[mark], colours[ground]) for mark in MARKS) >= 3


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_reads_on_tinted_grounds_and_buttons(scheme: str) -> None:
    """4.5:1 there too."""
    colours = _colours(scheme)
    pairs = [(text, f"{tint}-soft") for text in ("ink", "quiet") for tint in ("kept", "lost", "mark")]
    pairs += [("kept", "kept-soft"), ("lost", "lost-soft"), ("on-link", "link")]
    assert min(_contrast(colours[one], colours[other]) for one, other in pairs) >= 4.5
