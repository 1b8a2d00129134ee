"""Exact duplicates: one survivor a key, through real runs."""

import csv
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairsieve.filters.exact_duplicates import ExactDuplicates
from pairsieve.pipelines.run import run
from pairsieve.schemas.errors import RecipeError

Row = dict[str, Any]


def dedup(folder: Path, rows: list[Row], shard_rows: int, **chosen: Any) -> dict[str, str | None]:
    """Reason by uid of a run over the rows."""
    pool = folder / "pool.csv"
    with pool.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    recipe = {
        "pool": {"urls": {"path": pool, "shard_rows": shard_rows}},
        "filters": [{"exact_duplicates": chosen}],
        "output": {"subset": "kept.npy"},
    }
    found = run(recipe, folder / "out", workers=1).query("SELECT uid, reason FROM verdicts")
    return dict(zip(found["uid"].to_pylist(), found["reason"].to_pylist(), strict=True))


def row(n: int, **columns: Any) -> Row:
    """A row with a uid of its own."""
    return {"uid": f"{n:032x}", "url": f"http://e.org/{n}", "text": f"t{n}", **columns}


def digests(by: Any, **columns: Any) -> list[list[bytes | None]]:
    """The key columns of some pairs."""
    made = ExactDuplicates(by=by)
    return [column.to_pylist() for column in made.score(pa.record_batch(columns)).values()]


def brute(rows: list[Row], keys: list[list[str]], best: Callable[[Row], Any]) -> dict[str, str | None]:
    """Reason by uid, one key after the other, by sorting."""
    reason: dict[str, str | None] = {r["uid"]: None for r in rows}
    for key in keys:
        alive = sorted((r for r in rows if reason[r["uid"]] is None), key=lambda r: (best(r), r["uid"]))
        seen = set()
        for r in alive:
            value = tuple(r[name] for name in key)
            if "" in value:  # an empty field of a csv file is a null
                continue
            if value in seen:
                reason[r["uid"]] = f"same_{'_'.join(key)}"
            seen.add(value)
    return reason


@settings(max_examples=6, deadline=None)
@given(st.data())
def test_brute_force(data: st.DataObject) -> None:
    """One pair of each key stays, by preference and then uid, whatever the order of the file and the shards."""
    value = st.sampled_from(["x", "y", "z", ""])
    drawn = data.draw(st.lists(st.tuples(value, value, st.integers(0, 2)), min_size=1, max_size=14))
    rows = data.draw(st.permutations([row(i, a=a, b=b, size=s) for i, (a, b, s) in enumerate(drawn)]))
    keys = data.draw(st.sampled_from([[["a"]], [["a", "b"]], [["a", "b"], ["a"]], [["b"], ["a"]]]))
    preferred = data.draw(st.booleans())
    chosen: Mapping[str, Any] = {"by": keys, "prefer": "size desc"} if preferred else {"by": keys}
    with TemporaryDirectory() as folder:
        found = dedup(Path(folder), rows, data.draw(st.integers(1, 5)), **chosen)
    assert found == brute(rows, keys, lambda r: -r["size"] if preferred else 0)


def test_nulls_group_with_nobody(tmp_path: Path) -> None:
    """Pairs whose key is null, in part or whole, all stay."""
    rows = [row(i, a="", b="x") for i in range(3)] + [row(i, a="x", b="x") for i in range(3, 5)]
    said = dedup(tmp_path, rows, 2, by=[["a", "b"]])
    assert list(said.values()).count(None) == 4


def test_prefer_that_fails(tmp_path: Path) -> None:
    """A preference that cannot be computed for a pair puts it last, and a comment at its end is harmless."""
    rows = [row(0, a="x", size="big"), row(1, a="x", size="3"), row(2, a="x", size="7")]
    said = dedup(tmp_path, rows, 1, by="a", prefer="cast(size as int) desc -- largest")
    assert [uid[-1] for uid, reason in said.items() if reason is None] == ["2"]


def test_image_bytes(tmp_path: Path) -> None:
    """Without a stored digest the image's own bytes are the key, after (url, text)."""
    pq.write_table(
        pa.table(
            {
                "uid": [f"{i:032x}" for i in range(5)],
                "url": ["a", "b", "c", "c", "d"],
                "text": ["t"] * 5,
                "image": pa.array([b"one", b"one", b"two", b"other", b"three"], pa.binary()),
            }
        ),
        tmp_path / "p.parquet",
        row_group_size=2,
    )
    recipe = {
        "pool": {"pairs": {"path": tmp_path / "p.parquet", "shard_rows": 2}},
        "filters": ["exact_duplicates"],
        "output": {"subset": "kept.npy"},
    }
    found = run(recipe, tmp_path / "out", workers=1).query("SELECT reason FROM verdicts ORDER BY uid")
    assert found["reason"].to_pylist() == [None, "same_image", None, "same_url_text", None]


@given(st.lists(st.tuples(*[st.text(st.characters(exclude_categories=["Cs"]), max_size=4)] * 2), max_size=12))
@settings(deadline=None)
def test_injective(pairs: list[tuple[str, str]]) -> None:
    """Two pairs share a key only where both texts are the same, however they are cut."""
    (found,) = digests(
        [["a", "b"]], a=pa.array([a for a, _ in pairs], pa.string()), b=pa.array([b for _, b in pairs], pa.string())
    )
    for (one, x), (other, y) in itertools.combinations(zip(pairs, found, strict=True), 2):
        assert (one == other) == (x == y)


def test_cuts_differ() -> None:
    """("a", "bc") is not ("ab", "c"), and a length in the text does not imitate one."""
    (found,) = digests([["a", "b"]], a=["a", "ab", "1:a", "a1:b"], b=["bc", "c", "b", ""])
    assert len(set(found)) == 4


def test_types() -> None:
    """Numbers, bytes, lists and half floats can be keys; a null in any has none."""
    (found,) = digests(
        [["n", "b", "l", "h"]],
        n=pa.array([1, 1, None, 1]),
        b=pa.array([b"\0", b"\0", b"\0", b"\1"]),
        l=pa.array([["a, b"], ["a, b"], ["a, b"], ["a", "b"]]),
        h=pa.array([0.5] * 4, pa.float32()).cast(pa.float16()),
    )
    assert found[0] == found[1] != found[3] and found[2] is None


def test_nested_text() -> None:
    """A comma within a list's text is not a comma of the list."""
    (found,) = digests("l", l=pa.array([["a, b"], ["a", "b"], ["a', 'b"]]))
    assert len(set(found)) == 3


def test_names_agree() -> None:
    """Keys whose columns spell the same name keep columns of their own."""
    made = ExactDuplicates(by=[["a_b"], ["a", "b"], ["a b"]])
    assert list(made.key_columns({}).values()) == ["same_a_b", "same_a_b_2", "same_a_b_3"]


@pytest.mark.parametrize("by", [[], [[]], ["a", []], ["a", ["a"]], 5, [5], {"a": 1}])
def test_no_key(by: Any) -> None:
    """Keys that name nothing, or the same twice, are refused."""
    with pytest.raises(ValueError, match="by"):
        ExactDuplicates(by=by)


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"prefer": "size desk"}, "syntax error"),
        ({"prefer": "sise desc"}, "did you mean 'size'"),
        ({"prefer": "size limit 1"}, "syntax error"),
        ({"prefer": "random()"}, "no function of one row"),
        ({"prefer": "lower(size)"}, "lower"),
        ({"by": "siez"}, "did you mean 'size'"),
    ],
)
def test_refused_before_running(tmp_path: Path, chosen: Any, says: str) -> None:
    """A key or a preference that cannot work is one line before anything runs."""
    with pytest.raises(RecipeError, match=says) as caught:
        dedup(tmp_path, [row(0, size=1)], 1, **chosen)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_unsupported_key() -> None:
    """A key of a type that DuckDB cannot read is refused before anything runs."""
    with pytest.raises(ValueError, match=r"by: .*256"):
        ExactDuplicates(by="n").check({"n": pa.decimal256(50, 2)})
