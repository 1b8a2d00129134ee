"""Pool ``urls``: which columns and files are taken, and how rows become shards."""

from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairsieve.pipelines.pool_urls import Urls, cut
from pairsieve.pipelines.pools import complete, list_files
from pairsieve.schemas.errors import PoolError
from pairsieve.schemas.recipe import UrlsPool

HEX = "139e4a9b22a614771f06c700a8ebe150"


def pool(path: object, **settings: Any) -> Urls:
    """The pool of a path."""
    return Urls(UrlsPool(path=str(path), **settings))


def rows(path: object, **settings: Any) -> list[dict[str, Any]]:
    """All rows, uid first."""
    tables = pool(path, **settings).stream()
    return [row for i, t in enumerate(tables) for row in complete(t, i, "x").to_pylist()]


def csv(folder: Path, text: str, name: str = "x.csv") -> Path:
    """A csv file."""
    path = folder / name
    path.write_text(text)
    return path


def test_laion_names_are_found_in_their_own_case(tmp_path: Path) -> None:
    """URL and TEXT are url and text; the other columns keep their names and types."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"URL": ["u"], "TEXT": ["t"], "WIDTH": pa.array([5], pa.int32())}), path)
    assert pool(path).types() == {"url": pa.string(), "text": pa.string(), "WIDTH": pa.int32()}
    (row,) = rows(path)
    assert list(row) == ["uid", "shard", "row", "url", "text", "reason", "WIDTH"]
    assert list(row.values())[1:] == [0, 0, "u", "t", None, 5]


def test_pairsieves_own_names_get_a_prefix(tmp_path: Path) -> None:
    """A source may have columns shard, row, reason and image, whatever their case."""
    path = csv(tmp_path, "url,text,shard,Row,reason,image,_given_uid\nu,t,1,2,why,i,g\n")
    (row,) = rows(path)
    assert (row["source_shard"], row["source_Row"], row["source_reason"], row["source_image"]) == (1, 2, "why", "i")
    assert (row["shard"], row["row"], row["reason"], row["source__given_uid"]) == (0, 0, None, "g")


def test_columns_that_differ_only_in_case_must_be_chosen(tmp_path: Path) -> None:
    """SQL could not tell them apart; ``columns:`` decides."""
    path = csv(tmp_path, "url,text,a,A\nu,t,1,2\n")
    with pytest.raises(PoolError, match="two columns called 'A' but for case; leave one out with 'columns:'"):
        pool(path).types()
    assert rows(path, columns=["A", "A"])[0]["A"] == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url_col": "ulr"}, "no column 'ulr'; did you mean 'url'. set url_col"),
        ({"caption_col": "zzz"}, "no column 'zzz'; columns: url, text, w; set caption_col"),
        ({"columns": ["width", "ww"]}, "no column 'width'; columns: url, text, w; set columns"),
        ({"uid_col": "uidd"}, "no column 'uidd'; .*set uid_col"),
    ],
)
def test_a_missing_column_is_named_with_the_option(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    """And the nearest name, or all names, are offered."""
    with pytest.raises(PoolError, match=message):
        pool(csv(tmp_path, "url,text,w\nu,t,1\n"), **settings).types()


def test_rows_without_a_url_stay_with_a_reason(tmp_path: Path) -> None:
    """Null, blank and unreadable; a null caption is a pair like any other."""
    path = csv(tmp_path, 'url,text\n,t\n"  ",t\nu,\nragged\n')
    assert [(r["url"], r["text"], r["reason"]) for r in rows(path)] == [
        (None, "t", "no_url"),
        ("  ", "t", "no_url"),
        ("u", None, None),
        (None, None, "bad_line"),
    ]


def test_ready_uids_are_kept(tmp_path: Path) -> None:
    """A column uid of 32 hex characters is the uid; a bad line there still gets one."""
    found = rows(csv(tmp_path, f"uid,url,text\n{HEX},u,t\nragged\n"))
    assert found[0]["uid"] == HEX
    assert (len(found[1]["uid"]), found[1]["reason"]) == (32, "bad_line")


def test_a_uid_column_of_another_kind_is_an_ordinary_column(tmp_path: Path) -> None:
    """Numbers, upper case or a line end after 32 characters are no uids."""
    for value in ("17", HEX.upper(), f'"{HEX}\n"'):
        (row,) = rows(csv(tmp_path, f"uid,url,text\n{value},u,t\n"))
        assert str(row["source_uid"]) == value.strip('"')
        assert row["uid"] != value


def test_a_named_uid_column_must_hold_uids(tmp_path: Path) -> None:
    """``uid_col`` says so; and then the column uid itself is an ordinary one."""
    path = csv(tmp_path, f"id,uid,url,text\n{HEX},x,u,t\nshort,y,u,t\n")
    with pytest.raises(PoolError, match="x: uid 'short' is not 32 lower-case hex characters"):
        rows(path, uid_col="id")
    (row,) = rows(csv(tmp_path, f"id,uid,url,text\n{HEX},x,u,t\n"), uid_col="id")
    assert (row["uid"], row["source_uid"]) == (HEX, "x")


def test_files_of_a_folder_and_a_glob_come_in_order(tmp_path: Path) -> None:
    """With the columns of the first; hidden files, other files and folders are left out."""
    csv(tmp_path, "url,text,w\na,t,1\n", "1.csv")
    csv(tmp_path, "text,w,url,more\nt,2,b,x\n", "2.CSV")
    csv(tmp_path, "junk", "._1.csv")
    csv(tmp_path, "junk", "notes.md")
    (tmp_path / "folder.csv").mkdir()
    assert [(r["url"], r["w"]) for r in rows(tmp_path)] == [("a", 1), ("b", 2)]
    assert [r["url"] for r in rows(tmp_path / "[0-9].csv")] == ["a"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    """Browsers write ``pairs[1].csv``."""
    assert [r["url"] for r in rows(csv(tmp_path, "url,text\nu,t\n", "p[1]*.csv"))] == ["u"]


def test_formats_are_not_mixed(tmp_path: Path) -> None:
    """A readme beside the lists is not a list of URLs."""
    csv(tmp_path, "url,text\nu,t\n")
    csv(tmp_path, "read me", "y.txt")
    with pytest.raises(PoolError, match=r"y.txt: is no csv like .*x.csv; give one format, or choose files by a glob"):
        pool(tmp_path)


@pytest.mark.parametrize("name", ["nothing.csv", "*.csv", "folder"])
def test_where_nothing_is_the_path_is_named(tmp_path: Path, name: str) -> None:
    """A file, a glob, a folder."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(PoolError, match=r"(no such file|no file matches|no .* file in this folder); check pool path"):
        pool(tmp_path / name)


def test_an_unknown_protocol_is_named() -> None:
    """With what to do about it."""
    with pytest.raises(PoolError, match=r"xyz://x.csv: .*; install the filesystem's package"):
        pool("xyz://x.csv")


def test_a_pool_may_lie_on_any_filesystem() -> None:
    """memory:// stands for object stores."""
    fsspec.filesystem("memory").pipe_file("/urls/a.jsonl", b'{"url":"u","text":"t"}\n')
    assert [r["url"] for r in rows("memory://urls/*.jsonl")] == ["u"]


def test_a_caption_column_of_lists_is_refused(tmp_path: Path) -> None:
    """One line, not a traceback."""
    pq.write_table(pa.table({"url": ["u"], "text": [["a", "b"]]}), tmp_path / "x.parquet")
    with pytest.raises(PoolError, match=r"x.parquet: column 'text' holds list<.*>, not text"):
        rows(tmp_path / "x.parquet")


def test_captions_may_be_switched_off(tmp_path: Path) -> None:
    """``caption_col: null``; then text is an ordinary column."""
    (row,) = rows(csv(tmp_path, "url,text\nu,t\n"), caption_col=None)
    assert (row["text"], row["source_text"]) == (None, "t")


@settings(deadline=None)
@given(st.lists(st.integers(0, 7), max_size=12), st.integers(1, 9))
def test_cut_gives_full_shards_in_order(sizes: list[int], n: int) -> None:
    """Every shard has exactly ``n`` rows, only the last may be shorter, and no row moves."""
    values = list(range(sum(sizes)))
    source = [
        pa.table({"a": pa.array(values[sum(sizes[:i]) : sum(sizes[: i + 1])], pa.int64())}) for i in range(len(sizes))
    ]
    shards = [t["a"].to_pylist() for t in cut(source, n)]
    assert [v for shard in shards for v in shard] == values
    assert all(len(shard) == n for shard in shards[:-1])
    assert all(1 <= len(shard) <= n for shard in shards)


def test_underscored_files_of_a_folder_are_no_lists(tmp_path: Path) -> None:
    """A folder of lists may hold manifests beside them, as Spark and pairsieve write."""
    (tmp_path / "a.csv").write_text("url,text\nhttp://e.org/1,a b c\n")
    (tmp_path / "_manifest.csv").write_text("nothing,of,the,kind\n")
    assert [Path(f).name for f in list_files(str(tmp_path), (".csv",))[1]] == ["a.csv"]
