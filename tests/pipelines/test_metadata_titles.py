"""Titles by page views: which lines count, and what is refused."""

import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pairsieve.pipelines.metadata_titles import Viewed, Views, list_views
from pairsieve.pipelines.store import Store
from pairsieve.schemas.errors import PoolError
from tests.support_metadata import write_views


def views(folder: Path, project: str = "en", hour_least: int = 50) -> tuple[dict[str, int], Viewed]:
    """Titles of the only file of a folder, and what was read."""
    (file,) = list_views((str(folder / "pageviews*"),))
    store = Store(str(folder / "work"))
    found = Views(store, "views", project, hour_least)(file)
    table = store.table(found.name)
    return dict(zip(table["title"].to_pylist(), table["count"].to_pylist(), strict=True)), found


def test_only_the_projects_lines_of_the_hour_count(tmp_path: Path) -> None:
    """Code "en" exactly, at least 50 views, no ":" in the title; underscores are spaces."""
    lines = [
        "de Berlin 900 0",
        "en Cat 49 0",
        "en Dog 50 0",
        "en New_York_City 120 0",
        "en Talk:Dog 500 0",
        'en "Heroes" 60 0',
        "en Caf\u00e9 70 0",
        "en.m Dog 999 0",
        "en.b Dog 999 0",
        "EN Dog 999 0",
    ]
    write_views(tmp_path / "pageviews.gz", lines)
    found, said = views(tmp_path)
    assert found == {"Dog": 50, "New York City": 120, '"Heroes"': 60, "Café": 70}
    assert (said.lines, said.broken) == (6, 0)
    assert views(tmp_path, "de", 0)[0] == {"Berlin": 900}


def test_broken_lines_are_counted(tmp_path: Path) -> None:
    """Too few fields, no number, no UTF-8: passed over; a file that is not packed is read too."""
    content = (
        b"en A 60 0\nen B\nen C x 0\nen D -60 0\nen \xff 60 0\nen E 60 0 9\n\nen F 99999999999999999999 0\nen G 60 0"
    )
    (tmp_path / "pageviews").write_bytes(content)
    found, said = views(tmp_path)
    assert found == {"A": 60, "G": 60}
    assert said.broken == 6


TITLE = st.text(st.characters(codec="utf-8", exclude_characters=" \n\r"), min_size=1, max_size=8)


@given(st.lists(st.tuples(st.sampled_from(["en", "en.m", "fr"]), TITLE, st.integers(0, 10**9)), max_size=30))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_views_are_those_of_a_plain_reading(tmp_path: Path, rows: list[tuple[str, str, int]]) -> None:
    """Any title, quotes and commas too, against a reading line by line."""
    rows = [("aa", "first", 1), *rows]
    write_views(tmp_path / "pageviews.gz", [f"{code} {title} {count} 0" for code, title, count in rows])
    wanted: dict[str, int] = {}
    for code, title, count in rows:
        if code == "en" and count >= 50 and ":" not in title:
            name = title.replace("_", " ")
            wanted[name] = wanted.get(name, 0) + count
    assert views(tmp_path)[0] == wanted


def test_what_are_no_page_views_is_refused(tmp_path: Path) -> None:
    """Another format, an empty file, a missing one; one that breaks off is an error, not a shorter list."""
    for content, says in [(b"a,b,c\n", "name hourly page views"), (b"", "is empty")]:
        (tmp_path / "pageviews").write_bytes(content)
        with pytest.raises(PoolError, match=says):
            views(tmp_path)
    (tmp_path / "pageviews").unlink()
    with pytest.raises(PoolError, match="no file matches"):
        views(tmp_path)
    lines = "".join(f"en Title_{i * 7919 % 100_003} {i} 0\n" for i in range(30_000)).encode()
    (tmp_path / "pageviews.gz").write_bytes(gzip.compress(lines)[:-1000])
    with pytest.raises(PoolError, match=r"pageviews\.gz: cannot be read: .*fetch it again"):
        views(tmp_path)
