"""Expressions: which are pure functions of one pair, and which columns they read."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from pairsieve.filters._expressions import check_type, columns_of, connect, order_list

TYPES = {
    "uid": pa.string(),
    "text": pa.string(),
    "Width": pa.int32(),
    "half": pa.float16(),
    "odd": pa.decimal256(50, 2),
    "tags": pa.list_(pa.string()),
    "face": pa.struct([("x", pa.float32())]),
    "two words": pa.string(),
}

PURE = {
    "uid < '4'": ["uid"],
    "width > 3": ["Width"],
    'WIDTH > 3 and "width" < 9': ["Width"],
    "text = 'é漢 -- ; '": ["text"],
    "text = 'a' -- the one\n or text = 'b' /* or that */ -- end": ["text"],
    "\"two words\" like 'a%'": ["two words"],
    "half > 0.5": ["half"],
    "face.x > 0.3": ["face"],
    "face['x'] > 0.3": ["face"],
    "tags[1] = 'a'": ["tags"],
    "len(list_filter(tags, lambda x: x = text)) > 0": ["tags", "text"],
    "len(list_filter(tags, lambda text: text = 'a')) > 0 and text <> 'b'": ["tags", "text"],
    "len(list_filter(tags, lambda x, i: i > width)) > 0": ["tags", "Width"],
    "[x for x in tags if x = 'a'] = ['a']": ["tags"],
    "list_aggregate(tags, 'count') > 1": ["tags"],
    "list_avg([width, 2]) > 1": ["Width"],
    "split_part(text, ' ', 1) = 'a'": ["text"],
    "case when width > 1 then true end": ["Width"],
    "text similar to 'a+' and text not in ('b', 'c')": ["text"],
    "try_cast(text as int) between 1 and 2": ["text"],
    "age(timestamp '2020-01-01', timestamp '2019-01-01') > interval 1 day": [],
    "hash(text) % 2 = 0": ["text"],
    " and ".join(["text <> 'a'"] * 3000): ["text"],
}

IMPURE = [
    "random() < 0.5",
    "uuid() = text",
    "now() > timestamptz '2020-01-01'",
    "today() > date '2020-01-01'",
    "current_localtime() is null",
    "get_current_timestamp() is null",
    "ago(interval 1 day) is null",
    "age(timestamp '2020-01-01') > interval 1 day",
    "pg_sleep(1) is null",
    "nextval('s') > 1",
    "setseed(0.5) is null",
    "getvariable('a') is null",
    "current_setting('threads') = '1'",
    "current_database() = 'memory'",
    "count(*) > 1",
    "sum(width) > 1",
    "geomean(width) > 1",
    "weighted_avg(width, width) > 1",
    "first(text) = 'a'",
    "unnest(tags) = 'a'",
    "row_number() over () > 1",
    "row_number() over ()",
    "(select true)",
    "exists(select 1)",
    "text in (select 'a')",
    "from pairs",
    "read_text('/etc/passwd') is null",
    "read_csv('x.csv') is null",
    "glob('/*') is null",
    "query('select 1')",
    "text.lower() = 'a'",
    "*",
    "columns('w.*') > 1",
    "?",
    "$1 = text",
]

NO_EXPRESSION = [
    "",
    " \n",
    "width >",
    "true; drop table pairs",
    "true) from pairs; select (true",
    "true) where (true",
    "true) qualify (true",
    "true) limit (1",
    "true) order by (1",
    "true) using sample (1",
    "true), (false",
    "true as yes",
    "pragma version",
    "attach 'x.db'",
    "(((" * 300 + "true",
    "not " * 800 + "true",
    "nosuch(text)",
    "width + text = 1 +",
]


@pytest.mark.parametrize("text", PURE)
def test_pure(text: str) -> None:
    """A function of one pair is taken, and its columns are known by their own case."""
    assert columns_of(text, TYPES) == tuple(PURE[text])
    assert check_type(text, TYPES) == "BOOLEAN"


@pytest.mark.parametrize("text", IMPURE)
def test_impure(text: str) -> None:
    """What looks at other pairs, the clock, chance, files or settings is refused as such."""
    with pytest.raises(ValueError, match=r"function of one row|may not hold|write lower\(x\)") as caught:
        columns_of(text, TYPES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", NO_EXPRESSION)
def test_no_expression(text: str) -> None:
    """What is no expression, or more than one, is one line."""
    with pytest.raises(ValueError, match=r".") as caught:
        check_type(text, TYPES)
    assert "\n" not in str(caught.value)


def test_keywords_of_time() -> None:
    """``current_date`` without brackets is taken for a column, so it is refused."""
    with pytest.raises(ValueError, match="no column 'current_date'"):
        columns_of("current_date > date '2020-01-01'", TYPES)


def test_unknown_column() -> None:
    """An unknown column is met with the near one."""
    with pytest.raises(ValueError, match="no column 'widht' here; did you mean 'Width'"):
        columns_of("widht > 3", TYPES)


def test_unreadable_type() -> None:
    """A column whose type DuckDB cannot read spoils only the expressions that use it."""
    assert check_type("width > 1", TYPES) == "BOOLEAN"
    with pytest.raises(ValueError, match="256"):
        check_type("odd > 1", TYPES)


def test_no_files(tmp_path: Path) -> None:
    """The connection that evaluates reads no file, whatever the text says."""
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    with connect() as con, pytest.raises(duckdb.PermissionException):
        con.sql(f"SELECT * FROM '{secret}'").fetchall()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("width desc, uid", "TRY(width) DESC, TRY(uid)"),
        ("width desc nulls last -- widest", "TRY(width) DESC NULLS LAST"),
        ("cast(text as int)", 'TRY(CAST("text" AS INTEGER))'),
    ],
)
def test_order_list(text: str, says: str) -> None:
    """An ORDER BY list is rewritten so that no value and no comment can break the query around it."""
    assert order_list(text) == says


@pytest.mark.parametrize(
    "text", ["", "uid limit 1", "all", "random()", "1) , (2", "uid) over (order by uid", "uid; uid"]
)
def test_no_order_list(text: str) -> None:
    """Anything but an ORDER BY list over columns is refused."""
    with pytest.raises(ValueError, match=r"."):
        columns_of(text, TYPES, order=True)
