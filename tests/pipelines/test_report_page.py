"""The report in a real browser: silent, inert whatever strangers wrote, accessible, readable on a phone."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from pairsieve.pipelines.report import report
from tests.support_browser import browser, complaints, needs_chromium, requests, violations
from tests.support_report import HOSTILE_TEXTS, HOSTILE_URLS, STEPS, curate

pytestmark = needs_chromium
PHONE, DESK = 390, 1200
ROWS = 48
"""So few that every pair is shown somewhere."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a hostile run, moved to where there is nothing else."""
    folder = tmp_path_factory.mktemp("page")
    steps = [step for step in STEPS if "image_shape" not in step]
    made = report(curate(folder, *steps, rows=ROWS).root, folder / "alone" / "report.html")
    return Path(made.file)


@pytest.fixture(scope="module", params=[(DESK, False), (PHONE, True)], ids=["light", "dark phone"])
def page(request: pytest.FixtureRequest, file: Path) -> Iterator[Chrome]:
    """It in a browser, everything unfolded."""
    width, dark = request.param
    with browser(width=width, dark=dark) as driver:
        requests(driver)
        driver.get(f"file://{file}")
        driver.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        yield driver


def test_the_console_is_silent_and_nothing_is_fetched(page: Chrome, file: Path) -> None:
    """The file is the only request."""
    assert complaints(page) == []
    assert requests(page) in ([], [f"file://{file}"])


def test_it_is_accessible(page: Chrome) -> None:
    """By axe: names, contrast, structure; in light and in dark."""
    assert violations(page) == []


def test_headings_are_in_order(page: Chrome) -> None:
    """No level is skipped."""
    levels = page.execute_script("return [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_nothing_scrolls_sideways(page: Chrome) -> None:
    """Not on a phone either; wide tables do within themselves."""
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_there_is_no_script_and_no_link_but_within_the_page(page: Chrome) -> None:
    """What strangers wrote made no element and ran nowhere."""
    assert page.execute_script("return document.scripts.length") == 0
    assert page.execute_script("return document.title") == "run – pairsieve report"
    links = page.execute_script("return [...document.querySelectorAll('[href]')].map(a => a.getAttribute('href'))")
    assert all(link.startswith("#") or link == "data:," for link in links)
    assert page.execute_script("return [...document.links].every(a => document.querySelector(a.hash))")
    tags = page.execute_script("return [...new Set([...document.body.querySelectorAll('*')].map(e => e.tagName))]")
    assert {"SCRIPT", "STYLE", "IFRAME", "OBJECT", "FORM", "TEXTAREA"}.isdisjoint(tags)
    names = page.execute_script(
        "return [...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames()).filter(n => n.startsWith('on'))"
    )
    assert names == []


def test_hostile_captions_are_shown_as_they_are(page: Chrome) -> None:
    """As text, the beginning of long ones, with what cannot be seen made visible."""
    shown = page.execute_script("return [...document.querySelectorAll('.tile .text')].map(e => e.textContent)")
    assert any("<script>document.title = 'hacked'</script> a picture of a cat" in text for text in shown)
    assert any("⟨U+202E⟩right to left override⟨U+202C⟩" in text for text in shown)
    assert any(HOSTILE_TEXTS[4] in text for text in shown)
    assert any(re.fullmatch(r"\s*x{220}… 100,010 characters\s*", text) for text in shown)
    assert any("👩‍👩‍👧‍👦 family 🏳️‍🌈 flag 🇳🇱" in text for text in shown)
    assert any("nul ␀ escape ␛[31m bell ␇ delete ⟨U+007F⟩" in text for text in shown)
    assert any("{{ 7 * 7 }} {% raw %} ${1+1} #{2} templates" in text for text in shown)
    assert any("&lt;b&gt; &amp; &quot; entities &#x27;" in text for text in shown)
    assert max(len(text) for text in shown) < 400


def test_hostile_urls_are_texts(page: Chrome) -> None:
    """Bounded, and nowhere more than words in a code element."""
    shown = page.execute_script("return [...document.querySelectorAll('.url')].map(e => e.textContent.trim())")
    assert {HOSTILE_URLS[0], HOSTILE_URLS[2], HOSTILE_URLS[6]} <= set(shown)
    assert any(text.startswith("http://e.org/aaa") and text.endswith("… 100,013 characters") for text in shown)
    assert max(len(text) for text in shown) < 260


def test_words_of_either_direction_stay_in_their_place(page: Chrome) -> None:
    """Every text of a stranger is isolated."""
    shown = page.execute_script("return [...document.querySelectorAll('.tile .text')].map(e => e.innerHTML.trim())")
    assert all(text.startswith(("<bdi>", '<span class="quiet">')) for text in shown)


def test_every_picture_is_there(page: Chrome) -> None:
    """Decoded by the browser, none larger than a tile."""
    sizes = page.execute_script("return [...document.images].map(i => [i.complete, i.naturalWidth, i.naturalHeight])")
    assert len(sizes) > 50
    assert all(complete and 0 < width <= 128 and 0 < height <= 128 for complete, width, height in sizes)
    reasons = page.execute_script("return [...document.querySelectorAll('.blank')].map(e => e.textContent.trim())")
    assert {"cannot be shown: too_many_pixels", "cannot be shown: not_an_image"} <= set(reasons)


def test_every_chart_has_a_name_and_a_description(page: Chrome) -> None:
    """For those who do not see it."""
    found = page.execute_script(
        "return [...document.querySelectorAll('svg[role=img]')].map("
        "s => s.getAttribute('aria-labelledby').split(' ').map(i => document.getElementById(i).textContent))"
    )
    assert len(found) > 10
    assert all(title.startswith("Distribution of ") and re.search(r"\d (kept|dropped)", text) for title, text in found)


def test_only_its_own_style_applies(page: Chrome) -> None:
    """The policy of the page lets one style sheet and pictures within it pass, and nothing else."""
    policy = page.execute_script("return document.querySelector('meta[http-equiv]').content")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert page.execute_script("return getComputedStyle(document.body).backgroundColor") in (
        "rgb(252, 252, 250)",
        "rgb(22, 24, 26)",
    )
