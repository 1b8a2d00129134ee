"""Lists of pairs: five formats, five ways to pack them, and what real files do to a reader."""

import bz2
import csv
import gzip
import io
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairsieve.pipelines import parquet_source, tables, text_lines
from pairsieve.schemas.errors import PoolError

FS = fsspec.filesystem("file")
ROWS = [
    {"url": "http://a/1.jpg", "text": "a cat", "w": 1},
    {"url": "http://a/2.jpg", "text": 'comma, "quote"\nand line', "w": 2},
    {"url": "http://a/3.jpg", "text": "æ 猫 😀", "w": None},
]


def zstd(data: bytes) -> bytes:
    """Packed by pyarrow: Python 3.11 cannot."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(data)
    return bytes(sink.getvalue())


PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}


def delimited(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    """Rows as Python's csv module writes them."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def lines(rows: list[dict[str, Any]]) -> bytes:
    """Rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


WRITE = {"csv": delimited, "tsv": lambda rows: delimited(rows, "\t"), "jsonl": lines}


def load(path: Path, kind: str, types: tables.Types | None = None) -> list[dict[str, Any] | None]:
    """All rows; None for a bad one."""
    types = tables.types_of(FS, str(path), kind) if types is None else types
    found: list[dict[str, Any] | None] = []
    for table, bad in tables.read(FS, str(path), kind, types):
        assert dict(zip(table.schema.names, table.schema.types, strict=True)) == dict(types)
        found += [None if b else row for row, b in zip(table.to_pylist(), bad.to_pylist(), strict=True)]
    return found


def written(folder: Path, data: bytes, name: str = "x.csv") -> Path:
    """A file with these bytes."""
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("kind", WRITE)
def test_every_format_in_every_packing_gives_the_same_rows(tmp_path: Path, kind: str, packing: str) -> None:
    """Quoted newlines, embedded commas, unicode and nulls survive, and numbers have a type."""
    path = written(tmp_path, PACK[packing](WRITE[kind](ROWS)), f"x.{kind}{packing}")
    assert tables.format_of(str(path), "auto") == kind
    assert tables.types_of(FS, str(path), kind) == {"url": pa.string(), "text": pa.string(), "w": pa.int64()}
    assert load(path, kind) == ROWS


@pytest.mark.parametrize("packing", PACK)
def test_txt_is_a_url_a_line(tmp_path: Path, packing: str) -> None:
    """BOM, CRLF, blanks around it, an empty line and a last line without its end."""
    path = written(tmp_path, PACK[packing]("﻿http://a\r\n  http://b \n\nhttp://æ".encode()), f"x.txt{packing}")
    assert load(path, "txt") == [{"url": u} for u in ("http://a", "http://b", None, "http://æ")]


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "txt"])
def test_half_a_packed_file_is_an_error_and_not_half_the_pairs(tmp_path: Path, kind: str, packing: str) -> None:
    """A truncated download never passes as a shorter pool."""
    rows = [{"url": f"http://{random.Random(i).getrandbits(60)}"} for i in range(5_000)]
    data = PACK[packing](b"".join(f"{r['url']}\n".encode() for r in rows) if kind == "txt" else WRITE[kind](rows))
    path = written(tmp_path, data[: len(data) * 2 // 3], f"x.{kind}{packing}")
    with pytest.raises(PoolError, match=rf"x\.{kind}\{packing}: cannot be read: .*; fetch it again"):
        load(path, kind, {"url": pa.string()})


def test_several_packed_members_are_read_to_the_end(tmp_path: Path) -> None:
    """``cat a.gz b.gz`` is a gzip file, and so is what Spark and bgzip write."""
    path = written(tmp_path, gzip.compress(b"url,text\nu,t\n") + gzip.compress(b"v,w\n"), "x.csv.gz")
    assert load(path, "csv") == [{"url": "u", "text": "t"}, {"url": "v", "text": "w"}]


def test_bad_lines_become_rows_in_their_place(tmp_path: Path) -> None:
    """Ragged rows are bad, stray quotes and foreign bytes are read, blank lines are none."""
    data = b'url,text\na,1\nb\nc,3,4\nd,5" screen\ne,"Foo" bar\nf,\xff\n\ng,7\r\nh,8\n'
    urls = [row and (row["url"], row["text"]) for row in load(written(tmp_path, data), "csv")]
    assert urls == [
        *[("a", "1"), None, None, ("d", '5" screen'), ("e", "Foo bar"), ("f", "�")],
        *[("g", "7"), ("h", "8")],
    ]


@pytest.mark.parametrize("after", [0, 1, 5000])
def test_a_quote_that_is_never_closed_costs_one_line(tmp_path: Path, after: int) -> None:
    """The lines it would swallow are read again, also at the end of the file."""
    data = b'url,text\na,t\nbad,"never closed\n' + b"".join(b"u%d,t\n" % i for i in range(after))
    found = load(written(tmp_path, data), "csv")
    assert found[:2] == [{"url": "a", "text": "t"}, None]
    assert [row and row["url"] for row in found[2:]] == [f"u{i}" for i in range(after)]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(*[st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)] * 2),
        min_size=1,
    )
)
def test_whatever_csv_writes_is_read_back(rows: list[tuple[str, str]]) -> None:
    """No text in a quoted field is changed, split or lost."""
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/csv/x.csv", delimited([{"url": u, "text": t} for u, t in rows]))
    types = {"url": pa.string(), "text": pa.string()}
    found = [row for piece in tables.read(memory, "/csv/x.csv", "csv", types) for row in piece.table.to_pylist()]
    assert [(row["url"], row["text"]) for row in found] == rows


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["csv", "tsv", "jsonl", "txt"]))
def test_no_bytes_crash_a_reader(data: bytes, kind: str) -> None:
    """Any file gives rows or one ``PoolError``; never more rows than lines."""
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/any/x", data)
    try:
        types = tables.types_of(memory, "/any/x", kind)
        rows = sum(piece.table.num_rows for piece in tables.read(memory, "/any/x", kind, types))
    except PoolError as error:
        assert len(str(error).splitlines()) == 1
        return
    assert kind == "jsonl" or rows <= len(data.replace(b"\r", b"\n").split(b"\n"))


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a,1", 'b,"x', 'c,"', '"d",2', 'e,f"g', '"h"i,3', "j", ""]), max_size=12))
def test_every_line_is_part_of_a_row(found: list[str]) -> None:
    """However quotes are mixed up, the line after the last quote is still read as itself."""
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/mix/x.csv", "\n".join(["url,text", *found, "end,of file"]).encode())
    types = {"url": pa.string(), "text": pa.string()}
    urls = [row["url"] for piece in tables.read(memory, "/mix/x.csv", "csv", types) for row in piece.table.to_pylist()]
    assert urls[-1:] == ["end"]


def test_csv_types_keep_what_was_written(tmp_path: Path) -> None:
    """Leading zeros, identities of many digits and words stay text; numbers, booleans and days get types."""
    data = (
        b"a,b,c,d,e,f,g\n7,007,12345678901234567890123456789012,0.5,True,2020-01-31,x\n-1,1,1,1e3,false,2020-02-01,2\n"
    )
    path = written(tmp_path, data)
    kinds = [str(kind) for kind in tables.types_of(FS, str(path), "csv").values()]
    assert kinds == ["int64", "string", "string", "double", "bool", "date32[day]", "string"]
    first = load(path, "csv")[0]
    assert first is not None
    assert (first["b"], first["d"], first["e"]) == ("007", 0.5, True)


def test_a_value_that_does_not_fit_its_type_is_null(tmp_path: Path) -> None:
    """One odd number costs a number, not the pair."""
    types = {"url": pa.string(), "w": pa.int64()}
    expected = [{"url": "a", "w": 1}, {"url": "b", "w": None}, {"url": "c", "w": 3}]
    assert load(written(tmp_path, b"url,w\na,1\nb,many\nc,3\n"), "csv", types) == expected
    data = b'{"url":"a","w":1}\n{"url":"b","w":%d}\n{"url":"c","w":3}\n' % 2**70
    assert load(written(tmp_path, data, "x.jsonl"), "jsonl", types) == expected


def test_a_caption_of_five_megabytes_is_read(tmp_path: Path) -> None:
    """Long is not broken."""
    rows = [{"url": "u", "text": "x, " * 1_700_000}, {"url": "v", "text": "y"}]
    assert load(written(tmp_path, delimited(rows)), "csv") == rows
    assert load(written(tmp_path, lines(rows)), "jsonl") == rows


@pytest.mark.parametrize(("kind", "head"), [("csv", b"url\n"), ("jsonl", b'{"url":"0"}\n'), ("txt", b"0\n")])
def test_an_endless_line_is_one_bad_row(
    tmp_path: Path, kind: str, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is longer than the limit is skipped as it is read; a line as long as the limit is read."""
    monkeypatch.setattr(text_lines, "MAX_LINE", 100)
    before, after = ('{"url":"', '"}\n') if kind == "jsonl" else ("", "\n")
    last = "v" * (100 - len(before + after))
    data = head + b"x" * 5000 + b"\n" + f"{before}{last}{after}".encode()
    found = load(written(tmp_path, data), kind, {"url": pa.string()})
    assert found[-2:] == [None, {"url": last}]


def test_broken_json_lines_become_rows_in_their_place(tmp_path: Path) -> None:
    """Cut, foreign and nested lines; half a surrogate pair is only one character."""
    data = b'{"url":"a"}\n{"url":\n[1]\n5\nnull\n\n{"url":"b\\ud800"}\n{"url":"\xff"}\n{"url":"c"'
    found = load(written(tmp_path, data), "jsonl")
    assert found == [{"url": "a"}, None, None, None, None, {"url": "b?"}, {"url": "�"}, None]


def test_json_values_keep_their_type_or_their_text(tmp_path: Path) -> None:
    """Lists, mappings and numbers beyond 64 bits are kept as JSON text; keys may differ in case."""
    row = {"a": True, "b": 1, "c": 0.5, "d": [1, {"e": "æ"}], "f": 2**70, "B": "other"}
    path = written(tmp_path, lines([row, {"c": 2}]))
    kinds = {name: str(kind) for name, kind in tables.types_of(FS, str(path), "jsonl").items()}
    assert kinds == {"a": "bool", "b": "int64", "c": "double", "d": "string", "f": "string", "B": "string"}
    assert load(path, "jsonl")[0] == row | {"d": '[1, {"e": "æ"}]', "f": str(2**70)}


def test_a_json_array_is_read_by_its_elements(tmp_path: Path) -> None:
    """A ``.json`` file often is one array, printed over many lines."""
    path = written(tmp_path, json.dumps(ROWS, indent=2).encode())
    assert tables.format_of("x.json", "auto") == "jsonl"
    assert load(path, "jsonl") == ROWS


def test_a_broken_json_array_is_an_error(tmp_path: Path) -> None:
    """It cannot be told how many pairs it would have been."""
    with pytest.raises(PoolError, match=r"no readable JSON array: .*; write one object a line"):
        load(written(tmp_path, b'[{"url": "a"},\n{"url"'), "jsonl", {"url": pa.string()})


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_an_empty_first_file_is_named(tmp_path: Path, kind: str) -> None:
    """There is nothing to take the columns from."""
    with pytest.raises(PoolError, match=r"x.csv: is empty: no header and no row; leave this file out"):
        tables.types_of(FS, str(written(tmp_path, b"")), kind)


def test_an_empty_later_part_has_no_rows(tmp_path: Path) -> None:
    """Spark leaves such parts; a header alone has none either."""
    types = {"url": pa.string()}
    assert load(written(tmp_path, b""), "csv", types) == load(written(tmp_path, b"url"), "csv", types) == []


def test_a_column_that_a_later_file_lacks_is_named(tmp_path: Path) -> None:
    """Columns may come in another order, but not be missing."""
    types = {"url": pa.string(), "w": pa.int64()}
    assert load(written(tmp_path, b"w,x,url\n1,2,u\n"), "csv", types) == [{"url": "u", "w": 1}]
    with pytest.raises(PoolError, match=r"x.csv: no column 'w', which the first file of the pool has"):
        load(written(tmp_path, b"url\nu\n"), "csv", types)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    """Neither can be meant."""
    with pytest.raises(PoolError, match="two columns called 'url'; rename one"):
        tables.types_of(FS, str(written(tmp_path, b"url,url\na,b\n")), "csv")


def test_an_unknown_ending_asks_for_the_format() -> None:
    """The name alone does not tell."""
    with pytest.raises(PoolError, match="cannot tell the format by its name; set format: to one of csv"):
        tables.format_of("/x/pairs.dat.gz", "auto")
    assert tables.format_of("/x/pairs.dat.gz", "csv") == "csv"
    assert tables.format_of("/x/PAIRS.CSV.GZ", "auto") == "csv"


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()])
def test_parquet_text_is_valid_whatever_it_is_stored_as(kind: pa.DataType) -> None:
    """Bytes that are no UTF-8 are replaced, not raised: Parquet does not check what it calls a string."""
    is_large = kind in (pa.large_string(), pa.large_binary())
    raw = pa.array([b"caf\xc3\xa9", b"\xff!", None, b""], pa.large_binary() if is_large else pa.binary())
    found = parquet_source.as_text(raw.view(kind), "x")
    assert found.type == pa.string()
    assert found.to_pylist() == ["café", "�!", None, ""]


def test_parquet_dictionaries_and_numbers_are_text_too() -> None:
    """A caption column may be coded, a view or numeric; a list is no caption."""
    assert parquet_source.as_text(pa.array(["a", None], pa.string_view()), "x").to_pylist() == ["a", None]
    assert parquet_source.as_text(pa.array(["a", "b", "a"]).dictionary_encode(), "x").to_pylist() == ["a", "b", "a"]
    assert parquet_source.as_text(pa.array([1, None]), "x").to_pylist() == ["1", None]
    with pytest.raises(PoolError, match=r"^x: column 'c' holds list<item: string>, not text; name another column$"):
        parquet_source.as_text(pa.array([["a"]]), "x: column 'c'")


def test_parquet_columns_are_cast_to_the_first_files_types(tmp_path: Path) -> None:
    """int32 fits int64; words do not, and the file and column are named."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"w": pa.array([1, 2], pa.int32())}), path)
    assert load(path, "parquet", {"w": pa.int64()}) == [{"w": 1}, {"w": 2}]
    pq.write_table(pa.table({"w": ["many"]}), path)
    with pytest.raises(PoolError, match=r"x.parquet: column 'w' does not fit the first file's int64: .*; convert it"):
        load(path, "parquet", {"w": pa.int64()})


def test_a_cut_or_overwritten_parquet_file_is_named(tmp_path: Path) -> None:
    """Without its footer it cannot be opened; with broken pages it cannot be read."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"url": [f"http://{i}" for i in range(5000)]}), path, compression="zstd")
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(PoolError, match=r"x\.parquet: no readable Parquet file: .*; fetch it again"):
        load(path, "parquet")
    path.write_bytes(data[:50] + b"\xff" * 2000 + data[2050:])
    with pytest.raises(PoolError, match=r"x\.parquet: broken Parquet file: .*; fetch it again"):
        load(path, "parquet")
