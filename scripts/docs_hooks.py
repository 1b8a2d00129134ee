"""What mkdocs calls while it builds the site: pages made from code, and files of the root, join those of docs/.

Nothing of it is committed, so nothing of it can be out of date.  Some two seconds.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from pairsieve.filters.load import names
from scripts import docs_cli, docs_filters, docs_recipes

ROOT = Path(__file__).parent.parent
OF_THE_ROOT = {"BENCHMARKS.md": "benchmarks.md", "CHANGELOG.md": "changelog.md"}
"""Files beside docs/ that pages link to, and what the site calls them."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """A navigation entry for each filter."""
    pages: list[Any] = [{name: f"{docs_filters.FOLDER}/{name}.md"} for name in names()]
    _fill(config.nav or [], [f"{docs_filters.FOLDER}/index.md", *pages])
    return config


def _fill(nav: list[Any], pages: list[Any]) -> None:
    for entry in nav:
        if isinstance(entry, dict):
            for title, inner in entry.items():
                if inner == f"{docs_filters.FOLDER}/":
                    entry[title] = pages
                elif isinstance(inner, list):
                    _fill(inner, pages)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file holds."""
    for uri, text in _made():
        files.append(File.generated(config, uri, content=text))
    return files


def _made() -> Iterator[tuple[str, str]]:
    yield from docs_filters.pages()
    yield docs_cli.URI, docs_cli.page()
    yield docs_recipes.POOLS_URI, docs_recipes.pools_page()
    yield docs_recipes.SHIPPED_URI, docs_recipes.shipped_page()
    for source, uri in OF_THE_ROOT.items():
        yield uri, (ROOT / source).read_text().replace("](docs/", "](")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to files of the root lead to their pages here."""
    for source, uri in OF_THE_ROOT.items():
        markdown = markdown.replace(f"](../{source}", f"]({uri}")
    return markdown
