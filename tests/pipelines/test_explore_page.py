"""explore in a real browser: funnel, conditions, sliders, stories, comparison; nothing hostile comes alive."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests import support_explore as support
from tests.support_browser import browser, complaints, needs_chromium, requests, violations

pytestmark = needs_chromium
PATIENCE = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[support.Served]:
    """Two runs over one hostile pool, served."""
    folder = tmp_path_factory.mktemp("page")
    pool = support.write_pool(folder / "pool")
    support.make_run(pool, folder / "one", support.steps())
    support.make_run(pool, folder / "other", support.steps(clip_score={"top": 0.3}, caption_words={"least": 1}))
    with support.served(folder / "one", folder / "other") as found:
        yield found


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    """One browser for all."""
    with browser() as driver:
        yield driver


@pytest.fixture
def page(chrome: Chrome, server: support.Served) -> Iterator[Chrome]:
    """The page, loaded; afterwards the console is empty and nothing else was asked for."""
    chrome.get(server.address)
    until(lambda: "300 pairs" in text(chrome, "count"))
    yield chrome
    assert complaints(chrome) == []
    foreign = [url for url in requests(chrome) if not url.startswith(f"http://127.0.0.1:{server.port}/")]
    assert foreign == []
    assert chrome.execute_script("return window.hurt") is None


def until(holds: Callable[[], Any]) -> None:
    """Wait for it."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


def find(page: Chrome, name: str) -> WebElement:
    """An element by its id."""
    return page.find_element(By.ID, name)


def text(page: Chrome, name: str) -> str:
    """What an element says, seen or not."""
    return str(page.execute_script("return document.getElementById(arguments[0])?.textContent ?? ''", name))


def choose(page: Chrome, box: str, value: str) -> None:
    """Choose in a select as a user does, by its text."""
    find(page, box).find_element(By.CSS_SELECTOR, f'option[value="{value}"]').click()


def ask(page: Chrome, where: str) -> None:
    """Type a condition."""
    box = find(page, "where")
    box.clear()
    box.send_keys(where, Keys.ENTER)


def counts(page: Chrome) -> dict[str, list[int]]:
    """The table beside a moved threshold."""
    script = """return Object.fromEntries([...document.querySelectorAll('#cut-counts tbody tr')].map(
        row => [...row.cells].map(cell => cell.textContent)).map(cells => [cells[0], cells.slice(1, 3)]))"""
    found: dict[str, list[str]] = page.execute_script(script)
    return {name: [int(cell.replace(",", "")) for cell in cells] for name, cells in found.items()}


def open_cut(page: Chrome, step: str, setting: str) -> WebElement:
    """The slider of a threshold."""
    page.find_element(By.CSS_SELECTOR, f'[aria-label="Move the threshold of {step}"]').click()
    until(lambda: find(page, "cut-slider").is_enabled() and counts(page))
    if find(page, "cut-setting").get_attribute("value") != setting:
        choose(page, "cut-setting", setting)
        until(lambda: f"{setting} =" in text(page, "cut-label") and find(page, "cut-slider").is_enabled())
    return find(page, "cut-slider")


def test_a_click_on_the_funnel_shows_those_pairs(page: Chrome, server: support.Served) -> None:
    """A step and a reason become a condition; the count is DuckDB's."""
    page.find_element(By.XPATH, "//ol[@id='funnel']//button[contains(., 'too_few_words')]").click()
    where = "dropped_by = 'caption_words' AND reason = 'too_few_words'"
    assert find(page, "where").get_attribute("value") == where
    wanted = server.session.one.pairs.count(where)
    until(lambda: f"of {wanted:,} pairs" in text(page, "count"))
    verdicts = {v.text for v in page.find_elements(By.CSS_SELECTOR, "#grid .verdict")}
    assert verdicts == {"caption_words: too_few_words"}


def test_a_condition_that_is_wrong_is_told_beside_it(page: Chrome) -> None:
    """DuckDB's cause in one line; the pairs stay, and a better condition takes the line away."""
    ask(page, "scor > 1")
    until(lambda: "did you mean 'score'?" in text(page, "where-error"))
    assert find(page, "where").get_attribute("aria-invalid") == "true"
    assert len(page.find_elements(By.CSS_SELECTOR, "#grid button.card")) == 60
    ask(page, "score > 2 AND score < 3")  # NaN is greater than all
    until(lambda: "No pair." in text(page, "grid"))
    assert text(page, "where-error") == ""


def test_sorting_and_pages(page: Chrome, server: support.Served) -> None:
    """The greatest come first, the next page goes on; all in the server's order."""
    choose(page, "order", ":size")
    _, wanted = server.session.one.pairs.page("", "size", True, 60, 60)
    pairs = server.session.one.pairs.pairs(wanted, ["size"])
    until(lambda: "1–60 of 300" in text(page, "count"))
    find(page, "next").click()
    until(lambda: "61–120 of 300" in text(page, "count"))
    page.find_element(By.CSS_SELECTOR, "#columns summary").click()
    page.find_element(By.XPATH, "//details[@id='columns']//label[normalize-space()='size']").click()
    until(lambda: "size" in text(page, "grid"))
    shown = page.execute_script(
        "return [...document.querySelectorAll('#grid .card')].map(c => c.textContent.match(/size (\\d+)/)[1])"
    )
    assert [int(size) for size in shown] == [pair["size"] for pair in pairs]


def test_a_slider_by_keyboard(page: Chrome, server: support.Served) -> None:
    """Arrow keys move it; what it says and the counts are those of the moved run."""
    slider = open_cut(page, "caption_words", "least")
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    until(lambda: text(page, "cut-label").startswith("least = 5 "))
    assert slider.get_attribute("aria-valuetext") == "5"
    wanted = server.session.one.pairs.count("caption_words BETWEEN 5 AND 8")
    until(lambda: counts(page)["stay at this step"][1] == wanted)
    until(lambda: "- caption_words: {of: pool, least: 5, most: 8}" in text(page, "cuts"))
    assert f"{wanted} of 300 stay here" in text(page, "cut-status")


def test_a_slider_by_mouse(page: Chrome, server: support.Served, tmp_path: Path) -> None:
    """Dragged, it gives the counts of a real run with the value that the recipe line then has."""
    slider = open_cut(page, "clip_score", "top")
    before = counts(page)["stay at this step"][0]
    wide = slider.size["width"]
    ActionChains(page).click_and_hold(slider).move_by_offset(-wide // 4, 0).release().perform()
    until(lambda: counts(page)["stay at this step"][1] != before)
    until(lambda: not find(page, "cuts").find_elements(By.CSS_SELECTOR, ".busy"))
    top = float(find(page, "cut-number").get_attribute("value") or "nan")
    assert 0.1 < top < 0.45
    pool = Path(server.session.one.loaded.root).parent / "pool"
    real = support.make_run(pool, tmp_path / "run", support.steps(clip_score={"top": top}))
    until(lambda: f"top: {top:g}}}" in text(page, "cuts"))
    assert counts(page)["kept in the end"][1] == real.kept
    lost = [card for card in page.find_elements(By.CSS_SELECTOR, "#lost button.card")]
    assert lost and all("dropped by clip_score" in card.text for card in lost)


def test_an_impossible_value_is_told_beside_the_slider(page: Chrome) -> None:
    """The filter's own words."""
    open_cut(page, "caption_words", "least")
    number = find(page, "cut-number")
    number.clear()
    number.send_keys("9", Keys.TAB)
    until(lambda: text(page, "cut-error") == "caption_words.least: least (9) is above most (8)")


def test_a_story_by_keyboard(page: Chrome) -> None:
    """Arrow keys to a pair, Enter opens its story, Escape closes it and the focus is back."""
    ask(page, "dropped_by = 'exact_duplicates'")
    until(lambda: "exact_duplicates" in text(page, "grid") and "of the run" in text(page, "count"))
    until(lambda: not page.find_elements(By.CSS_SELECTOR, "#grid.busy"))
    cards = page.find_elements(By.CSS_SELECTOR, "#grid button.card")
    page.execute_script("arguments[0].focus()", cards[0])
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert page.switch_to.active_element == cards[1]
    page.switch_to.active_element.send_keys(Keys.ENTER)
    until(lambda: "Step by step" in text(page, "story"))
    assert "Dropped by exact_duplicates: same_url" in text(page, "story-title")
    survivor = page.find_element(By.CSS_SELECTOR, "#story button.link")
    uid = survivor.text
    survivor.click()
    until(lambda: f"uid{uid}" in text(page, "story"))
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    until(lambda: not find(page, "story").get_attribute("open"))
    assert page.switch_to.active_element == cards[1]


def test_hostile_pairs_are_text(page: Chrome) -> None:
    """Markup in captions and addresses, endless and backward texts, emoji: shown as they are, nothing comes alive."""
    ask(page, "shard = 0 AND row < 9")
    until(lambda: "of 9 pairs" in text(page, "count"))
    choose(page, "order", "pool")
    until(lambda: not page.find_elements(By.CSS_SELECTOR, "#grid.busy"))
    for i in range(8):
        card = page.find_elements(By.CSS_SELECTOR, "#grid button.card")[i]
        page.execute_script("arguments[0].click()", card)
        until(lambda: "Step by step" in text(page, "story"))
        page.execute_script(
            "document.getElementById('story').close(); document.getElementById('story').replaceChildren()"
        )
    assert not page.find_elements(By.CSS_SELECTOR, "#grid script, #grid style, #grid a, dialog a")
    assert "<script>window.hurt = 1</script>" in text(page, "grid")
    assert len(text(page, "grid")) < 20_000
    until(lambda: text(page, "grid").count("no image") == 2)
    wide = page.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0


def test_a_condition_as_a_recipe_step(page: Chrome) -> None:
    """Copied as a line, with the place where it may stand; what no recipe knows is said."""
    ask(page, "caption_words > 4")
    page.find_element(By.CSS_SELECTOR, "#export summary").click()
    find(page, "as-step").click()
    until(lambda: "- where: caption_words > 4" in text(page, "step-line"))
    assert "Put it after caption_words." in text(page, "step-line")
    ask(page, "dropped_by IS NULL")
    until(lambda: "where=dropped_by%20IS%20NULL" in str(find(page, "uids-npy").get_attribute("href")))
    find(page, "as-step").click()
    until(lambda: "dropped_by is known only after a run" in text(page, "step-line"))


def test_runs_are_compared_by_clicks(page: Chrome, server: support.Served) -> None:
    """The overlap's figures are links to their pairs; a verdict of the other run narrows them; scores correlate."""
    found = server.session.compare().overlap()
    find(page, "tab-compare").click()
    until(lambda: page.find_elements(By.CSS_SELECTOR, "#only-one button.link"))
    until(lambda: text(page, "sides-title").endswith(f"only: {found['one']}"))
    page.find_element(By.CSS_SELECTOR, "#only-other button.link").click()
    row = found["only_other"][0]
    until(lambda: text(page, "sides-title").endswith(f"{row['step']}, {row['reason']}: {row['pairs']}"))
    verdicts = [v.text for v in page.find_elements(By.CSS_SELECTOR, "#sides-grid .verdict")]
    assert set(verdicts) == {f"kept / {row['step']}: {row['reason']}"}
    choose(page, "shared", "score")
    page.find_element(By.XPATH, "//button[.='Compute']").click()
    until(lambda: "1.0000 over" in text(page, "correlation"))


def test_the_other_run_can_be_browsed(page: Chrome, server: support.Served) -> None:
    """Its own pairs under its own condition."""
    assert server.session.other is not None
    wanted = server.session.other.pairs.count("dropped_by IS NULL")
    choose(page, "run", "other")
    ask(page, "dropped_by IS NULL")
    until(lambda: f"of {wanted} pairs" in text(page, "count"))


def test_the_token_leaves_the_address(page: Chrome, server: support.Served) -> None:
    """Neither the address bar nor the history shows it; a reload works by the cookie."""
    assert page.current_url == f"http://127.0.0.1:{server.port}/"
    page.refresh()
    until(lambda: "300 pairs" in text(page, "count"))


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 390)])
def test_everyone_can_read_it(server: support.Served, dark: bool, width: int) -> None:
    """axe finds nothing, light on a desk and dark on a telephone, in any view; nothing is wider than the screen."""
    with browser(width, 800, dark) as driver:
        driver.get(server.address)
        until(lambda: "300 pairs" in text(driver, "count"))
        assert violations(driver) == []
        for tab, ready in (("tab-cuts", "cut-counts"), ("tab-compare", "overlap")):
            find(driver, tab).click()
            until(partial(driver.find_elements, By.ID, ready))
            assert violations(driver) == []
            wide = driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, tab
        find(driver, "tab-pairs").click()
        driver.execute_script("document.querySelector('#grid button.card').click()")
        until(lambda: "Step by step" in text(driver, "story"))
        assert violations(driver) == []
        assert complaints(driver) == []
