"""The site as `make docs` builds it: strict, complete, and asking nothing of any other host, in a real browser too."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pairsieve.filters import _codes
from pairsieve.filters.load import load, names
from pairsieve.pipelines.recipe_file import shipped
from pairsieve.schemas.recipe import POOLS
from scripts import docs_cli
from tests.support_browser import browser, complaints, needs_chromium, requests, violations
from tests.support_docs import ROOT

LOADING = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=["']?(https?:)?//[^"'\s>]+""")


class Quiet(SimpleHTTPRequestHandler):
    """A file server that writes no log."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The site on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; mkdocs is strict, so a broken link or anchor, or a page that no menu has, fails here."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def words_of(page: Path) -> str:
    """A page's text without its markup."""
    return re.sub(r"<[^>]+>", "", page.read_text())


def test_every_filter_has_a_page_with_all_of_its_settings(site: Path) -> None:
    """And every code of a download is on its page."""
    for name in names():
        text = words_of(site / "filter-reference" / name / "index.html")
        settings = load(name).model_json_schema().get("properties", {})
        assert [setting for setting in settings if setting not in text] == [], name
        assert "Reasons" in text and "A worker needs" in text
    text = words_of(site / "filter-reference" / "download" / "index.html")
    assert [code for code in _codes.Code if code not in text] == []


@pytest.mark.parametrize("name", [name for name in names() if name not in ("download", "where", "rewrite", "caption")])
def test_a_filter_page_names_its_reasons(name: str, site: Path) -> None:
    """The section on reasons is not empty: each filter says in its docstring why pairs go."""
    text = (site / "filter-reference" / name / "index.html").read_text()
    section = text.split('id="reasons"', 1)[1].split("<h2", 1)[0]
    assert "<code>" in section


def test_all_commands_pools_and_recipes_are_there(site: Path) -> None:
    """What the program has, the reference has."""
    commands = words_of(site / "cli-reference" / "index.html")
    for name, command in docs_cli.commands():
        options = [option for p in command.params for option in p.opts if option.startswith("--") and not p.hidden]
        assert name in commands
        assert [option for option in options if option not in commands and option != "--help"] == [], name
    pools = words_of(site / "pools" / "index.html")
    assert [kind for kind, model in POOLS.items() if not all(field in pools for field in model.model_fields)] == []
    recipes = words_of(site / "shipped-recipes" / "index.html")
    assert [name for name in shipped() if name not in recipes] == []


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    """No script, style, font, picture or frame of any page has an address of another host."""
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 60
    found = [
        (page.name, hit[0])
        for page in pages
        for hit in LOADING.finditer(page.read_text())
        if "rel=canonical" not in hit[0]
    ]
    assert found == []
    styles = "".join(sheet.read_text() for sheet in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import )[\"']?https?:", styles) == []


@needs_chromium
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_site_in_a_browser(site: Path, dark: bool) -> None:
    """On each page no request leaves the site, the console is silent, axe finds nothing; search finds a filter."""
    with served(site) as url, browser(dark=dark) as driver:
        for page in ("/", "/filter-reference/clip_score/", "/cost/", "/faq/"):
            driver.get(url + page)
            asked = requests(driver)
            assert asked
            assert [address for address in asked if not address.startswith(url)] == []
            assert complaints(driver) == []
            assert violations(driver) == []
        driver.get(f"{url}/?q=near_duplicate_image")
        shown = "return [...document.querySelectorAll('.md-search-result__link')].map(a => a.href)"
        for _ in range(100):
            if found := driver.execute_script(shown):
                break
            driver.execute_async_script("setTimeout(arguments[0], 100)")
        assert any("near_duplicate_image" in link for link in found)
        assert [address for address in requests(driver) if not address.startswith(url)] == []
