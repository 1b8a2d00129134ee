"""explore: conditions of the user's are expressions of one row, and nothing more."""

import math
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairsieve.pipelines.explore_query import DEEPEST, LONGEST, MOST_TEXT, Pairs, as_json, connect, nearest
from pairsieve.schemas.errors import QueryError

TYPES = {
    "uid": pa.string(),
    "text": pa.string(),
    "score": pa.float32(),
    "a b": pa.int32(),
    'x"; DROP TABLE one; --': pa.int32(),
}
SCORES = [0.5, math.nan, None, 0.25, 0.5, math.inf, -1.0]
ROWS = 1000


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pairs]:
    """A table of the explorer's, with odd names."""
    file = tmp_path_factory.mktemp("query") / "x.duckdb"
    columns = [
        pa.array([f"{i:032x}" for i in range(ROWS)]),
        pa.array([f"text {i}" for i in range(ROWS)]),
        pa.array([SCORES[i % len(SCORES)] for i in range(ROWS)], pa.float32()),
        pa.array(range(ROWS), pa.int32()),
        pa.array([i % 2 for i in range(ROWS)], pa.int32()),
    ]
    with duckdb.connect(str(file)) as con:
        con.register("found", pa.table(columns, names=list(TYPES)))
        con.execute("CREATE TABLE one AS SELECT * FROM found")
    with connect(file) as con:
        yield Pairs(con, "one", TYPES)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("scor > 1", "no column 'scor' here; did you mean 'score'?"),
        ("score >", "syntax error"),
        ("score", "the condition is FLOAT, not BOOLEAN; compare it with something"),
        ("text IN (SELECT text FROM one)", "an expression may not hold a sub-query"),
        ("text IN (SELECT content FROM read_text('/etc/passwd'))", "an expression may not hold a sub-query"),
        ("read_csv('/etc/passwd') IS NULL", "read_csv() is no function of one row"),
        ("read_text('/etc/passwd') IS NULL", "read_text() is no function of one row"),
        ("getenv('HOME') = 'x'", "getenv"),
        ("'a' = 'a'; COPY one TO '/tmp/hurt'; --", "syntax error"),
        ("true); ATTACH '/tmp/hurt'; --", "syntax error"),
        ("true) UNION SELECT (1", "one expression over the columns of a pair, not a query"),
        ("random() > 0.5", "random() is no function of one row"),
        ("current_setting('memory_limit') = 'x'", "current_setting() is no function of one row"),
        ("count(*) > 1", "count_star() is no function of one row"),
        ("row_number() OVER () = 1", "an expression may not hold a window function"),
        ("COLUMNS(*) IS NULL", "an expression may not hold '*', COLUMNS or ALL"),
        ("$1 = 1", "an expression may not hold a parameter"),
        ("len(range(1000000000000)) > 1", "range() can make values of any size"),
        ("repeat(text, 100000000) = ''", "repeat() can make values of any size"),
        ("lpad(text, 1000000000, 'x') = ''", "lpad() can make values of any size"),
        ("text ~ '((('", "missing )"),
        ("x" * (LONGEST + 1), "longer than"),
        ("(" * 5_000 + "true" + ")" * 5_000, "nested too deeply"),
        ("(" * LONGEST, "nested too deeply"),
    ],
)  # fmt: skip
def test_what_is_no_condition_is_refused_in_one_line(pairs: Pairs, where: str, said: str) -> None:
    """Files, statements, settings, chance and what grows without bound: a line, and nothing happens."""
    with pytest.raises(QueryError) as caught:
        pairs.page(where, None, False, 0, 10)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("/tmp/hurt").exists()


def test_the_connection_itself_reaches_nothing(pairs: Pairs) -> None:
    """Even SQL that no check has seen reads no file, writes none, and changes no setting."""
    for sql in (
        "SELECT * FROM read_csv('/etc/passwd')",
        "COPY one TO '/tmp/hurt'",
        "ATTACH '/tmp/hurt'",
        "SET enable_external_access = true",
        "PRAGMA memory_limit = '100GB'",
        "INSTALL httpfs",
        "DROP TABLE one",
    ):
        with pytest.raises(QueryError):
            pairs.rows(sql)
    assert not Path("/tmp/hurt").exists()


def test_an_endless_query_is_stopped(pairs: Pairs) -> None:
    """Its time over, it ends with a line; the connection answers on."""
    hasty = Pairs(pairs._con, "one", TYPES, seconds=0.5)
    began = time.monotonic()
    with pytest.raises(QueryError, match=r"^stopped after 0.5 seconds; ask for less$"):
        hasty.rows("SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range % 7 = b.range % 5")
    assert time.monotonic() - began < 30
    assert pairs.count("") == ROWS


@pytest.mark.parametrize(
    "where", ["", "score > 0.3", '"a b" % 3 = 1 -- a remark', 'true OR "x""; DROP TABLE one; --" = 1']
)
def test_counts_and_pages_are_duckdbs(pairs: Pairs, where: str) -> None:
    """The count with the page is that of the condition, and pages come one after the other."""
    condition = f"(\n{where}\n)" if where else "true"
    wanted = pairs.rows(f"SELECT rowid FROM one WHERE {condition} ORDER BY rowid")
    count, first = pairs.page(where, None, False, 0, 100)
    assert count == len(wanted)
    _, second = pairs.page(where, None, False, 100, 100)
    assert [*first, *second] == [number for (number,) in wanted[:200]]


@pytest.mark.parametrize("descending", [False, True])
def test_pairs_without_a_value_come_last(pairs: Pairs, descending: bool) -> None:
    """Whatever the way, null and NaN are at the end; equal scores by number."""
    _, numbers = pairs.page('"a b" < 14', "score", descending, 0, 14)
    scores = [SCORES[n % len(SCORES)] for n in numbers]
    real = [s for s in scores if s is not None and not math.isnan(s)]
    assert scores[: len(real)] == sorted(real, reverse=descending)
    assert len(real) == 10
    assert [n for n in numbers if SCORES[n % 7] == 0.5] == [0, 4, 7, 11]


def test_a_hostile_column_is_a_column(pairs: Pairs) -> None:
    """It is sorted by, and shown, under its name."""
    name = 'x"; DROP TABLE one; --'
    _, numbers = pairs.page("", name, True, 0, 3)
    assert [pair[name] for pair in pairs.pairs(numbers, [name])] == [1, 1, 1]


def test_an_unknown_column_is_not_sorted_by(pairs: Pairs) -> None:
    """Nothing of the request becomes SQL."""
    with pytest.raises(QueryError, match="no column"):
        pairs.page("", "rowid; DROP TABLE one", False, 0, 10)


def test_pages_end(pairs: Pairs) -> None:
    """Deep pages would sort the whole run each time."""
    with pytest.raises(QueryError, match="pages end after"):
        pairs.page("", None, False, DEEPEST, 10)


def test_a_page_beyond_the_last_pair_is_empty(pairs: Pairs) -> None:
    """With the count all the same."""
    assert pairs.page('"a b" < 5', None, False, 10, 10) == (5, [])


@given(st.text(max_size=3000))
def test_values_are_cut_where_they_are_long(value: str) -> None:
    """A text is shown whole, or its beginning with its length."""
    shown = as_json(value)
    assert shown == value if len(value) <= MOST_TEXT else shown.endswith(f"({len(value):,} characters)")


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60), st.floats(-1, 1))
def test_the_nearest_are_the_nearest(values: list[float], mark: float) -> None:
    """As sorting all of them gives."""
    numbers = [7 * i for i in range(len(values))]
    found = nearest(pa.array(values).to_numpy(), pa.array(numbers).to_numpy(), mark, 8)
    wanted = sorted(numbers, key=lambda n: (abs(values[n // 7] - mark), n))
    assert [abs(values[n // 7] - mark) for n in found] == [abs(values[n // 7] - mark) for n in wanted[:8]]


def test_times_and_nested_values_are_shown(tmp_path: Path) -> None:
    """Also moments with a time zone, for which DuckDB asks Python for a module that need not be there."""
    moment = pa.timestamp("us", "UTC")
    types = {"t": moment, "day": pa.date32(), "list": pa.list_(moment), "struct": pa.struct({"a": moment})}
    values = {"t": [0, None], "day": [0, None], "list": [[0], None], "struct": [{"a": 0}, None]}
    with duckdb.connect(str(tmp_path / "x.duckdb")) as con:
        con.register("found", pa.table({n: pa.array(values[n], kind) for n, kind in types.items()}))
        con.execute("CREATE TABLE one AS SELECT * FROM found")
    with connect(tmp_path / "x.duckdb") as con:
        first, second = Pairs(con, "one", types).pairs([0, 1])
    assert all("19" in first[name] for name in types)  # 1970 in Greenwich
    assert all(second[name] is None for name in types)
